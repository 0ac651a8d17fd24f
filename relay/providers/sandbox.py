"""The adapter of the stand-in provider of development mode, which has EvoLink's contract and charges nothing.

If a job asks for it, the stand-in also signs its callbacks, as no other provider does: with ed25519, over the request's
id, the time and the SHA-256 of the body, by a key that it publishes.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from relay.model.provider_http import ProviderRequest
from relay.providers.base import SubmittedJob
from relay.providers.evolink import EvoLink
from relay.security import signatures
from relay.security.signatures import SignatureInvalid, Signed

_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_HEX: Final = re.compile(r"[0-9a-f]{128}")


class Sandbox(EvoLink):
    """EvoLink's adapter under another name and with this machine's origin."""

    name = "sandbox"
    title = "the sandbox"
    base_url = "http://127.0.0.1:8000"
    keys_url = "/.well-known/jwks.json"

    def cancellation(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return `POST /v1/tasks/{id}/cancel`, which only the stand-in has."""
        return ProviderRequest(method="POST", path=f"/v1/tasks/{job.quoted_id}/cancel", body={})

    def signed(self, headers: Mapping[str, str], body: bytes) -> Signed | None:
        """Return the signature of the four `x-sandbox-…` headers; None without any of them."""
        names = ("key-id", "request-id", "timestamp", "signature")
        key_id, request_id, timestamp, signature = (headers.get(f"x-sandbox-{name}", "") for name in names)
        if not (key_id or request_id or timestamp or signature):
            return None
        if not (_ID.fullmatch(key_id) and _ID.fullmatch(request_id) and _HEX.fullmatch(signature)):
            raise SignatureInvalid("an x-sandbox-… header is missing or malformed")
        return Signed(
            key_id=key_id,
            message="\n".join((request_id, timestamp, hashlib.sha256(body).hexdigest())).encode(),
            signature=bytes.fromhex(signature),
            timestamp_s=signatures.parse_timestamp("x-sandbox-timestamp", timestamp),
        )
