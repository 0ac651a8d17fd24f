"""Authenticate an API request: find its API key's project, and check the key's scope."""

import hmac
from typing import Final

import msgspec
from starlette.requests import Request

from relay.app import App
from relay.errors import Forbidden, Unauthorized
from relay.storage.api_keys import digest
from relay.storage.apply_updates import DEFAULT_PROJECT

KEY_MAX_CHARS: Final = 512
BOOTSTRAP_KEY: Final = "RELAY_API_KEY"
"""The key id of the key in the setting of that name, which has no row."""


class Caller(msgspec.Struct, frozen=True):
    """An authenticated client: the project it acts in, its key, and whether the key has the scope `admin`."""

    project_id: str
    key_id: str
    admin: bool = False


async def authenticate(app: App, request: Request, scope: str) -> Caller:
    """Return the client of a request.

    Raise Unauthorized for a key that is missing, unknown or revoked, and Forbidden if it has neither the scope nor
    `admin`, which includes every scope.
    """
    text = bearer(request)
    if text is None:
        raise Unauthorized("send the API key as Authorization: Bearer <api key>")
    bootstrap = app.settings.api_key
    if bootstrap and hmac.compare_digest(digest(text), digest(bootstrap)):
        return Caller(DEFAULT_PROJECT, BOOTSTRAP_KEY, admin=True)
    key = await app.store.access.api_key(text)
    if key is None:
        raise Unauthorized("the API key is not known here, or was revoked")
    if not key.scopes & {scope, "admin"}:
        raise Forbidden(f"this needs an API key with the scope {scope}")
    return Caller(key.project_id, key.id, admin="admin" in key.scopes)


def bearer(request: Request) -> str | None:
    """Return the token of `Authorization: Bearer`; None if it is missing or longer than any key."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    text = text.strip()
    return text if scheme.lower() == "bearer" and 0 < len(text) <= KEY_MAX_CHARS else None
