"""Who is calling: a bearer API key, its project, and what it may do."""

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
"""What stands for the id of the key that has no row."""


class Caller(msgspec.Struct, frozen=True):
    """The project that everything is done in, the key that it is done with, and whether that is an admin's."""

    project_id: str
    key_id: str
    admin: bool = False


async def caller(app: App, request: Request, scope: str) -> Caller:
    """The caller, if its key has the scope; `admin` has every one."""
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
    """Return what stands behind `Authorization: Bearer`; None where there is nothing, or more than a key can be."""
    kind, _, text = request.headers.get("authorization", "").partition(" ")
    text = text.strip()
    return text if kind.lower() == "bearer" and 0 < len(text) <= KEY_MAX_CHARS else None
