"""A receiver with Starlette: pip install starlette uvicorn standardwebhooks; uvicorn starlette_app:app."""

import os

from standardwebhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

webhook = Webhook(os.environ["RELAY_ENDPOINT_SECRET"])


async def receive(request: Request) -> Response:
    """Answer 204 to a genuine notification, after it is stored; 400 to anything else."""
    try:
        event = webhook.verify(await request.body(), dict(request.headers))
    except WebhookVerificationError:
        return Response(status_code=400)
    print(event["type"], flush=True)  # store it here: the same event may come again, with the same webhook-id
    return Response(status_code=204)


app = Starlette(routes=[Route("/hook", receive, methods=["POST"])])
