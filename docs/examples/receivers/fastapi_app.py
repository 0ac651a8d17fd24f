"""A receiver with FastAPI: pip install fastapi uvicorn standardwebhooks; uvicorn fastapi_app:app."""

import os

from fastapi import FastAPI, HTTPException, Request
from standardwebhooks import Webhook, WebhookVerificationError

app = FastAPI()
webhook = Webhook(os.environ["RELAY_ENDPOINT_SECRET"])


@app.post("/hook", status_code=204)
async def receive(request: Request) -> None:
    """Answer 204 to a genuine notification, after it is stored; 400 to anything else."""
    try:
        event = webhook.verify(await request.body(), dict(request.headers))
    except WebhookVerificationError:
        raise HTTPException(400) from None
    print(event["type"], flush=True)  # store it here: the same event may come again, with the same webhook-id
