"""How stand-ins sign their callbacks with a secret: the schemes that more than one provider has, and their secrets.

`how` is a job's fault `signed`: `ok`, `forged` (as if it were another body), or `unknown_key` (with another secret).
"""

import base64
import hmac
from typing import Final

from relay.sandbox.contract import SECRET

_KEY: Final = f"{SECRET}-of-thirty-two-bytes".encode()
WEBHOOK_SECRET: Final = "whsec_" + base64.b64encode(_KEY).decode()
"""The secret of the stand-ins that sign by Standard Webhooks, whose secrets are base64."""


def standard_webhooks(raw: bytes, message_id: str, now_s: int, how: str) -> dict[str, str]:
    """Return the headers of Standard Webhooks 1.0.0; none if `how` is empty."""
    if not how:
        return {}
    content = f"{message_id}.{now_s}.".encode() + signed_body(raw, how)
    signature = base64.b64encode(hmac.digest(signing_key(_KEY, how), content, "sha256")).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(now_s), "webhook-signature": f"v1,{signature}"}


def signed_body(raw: bytes, how: str) -> bytes:
    """Return the body that is signed: the sent one, or another for a forgery."""
    return raw + b" " if how == "forged" else raw


def signing_key(key: bytes, how: str) -> bytes:
    """Return the key that signs: the stand-in's, or one that relay does not know."""
    return b"another " + key if how == "unknown_key" else key
