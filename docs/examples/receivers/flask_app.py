"""A receiver with Flask: pip install flask standardwebhooks; flask --app flask_app run."""

import os

from flask import Flask, request
from standardwebhooks import Webhook, WebhookVerificationError

app = Flask(__name__)
webhook = Webhook(os.environ["RELAY_ENDPOINT_SECRET"])


@app.post("/hook")
def receive() -> tuple[str, int]:
    """Answer 204 to a genuine notification, after it is stored; 400 to anything else."""
    try:
        event = webhook.verify(request.get_data(), {name.lower(): value for name, value in request.headers})
    except WebhookVerificationError:
        return "", 400
    print(event["type"], flush=True)  # store it here: the same event may come again, with the same webhook-id
    return "", 204
