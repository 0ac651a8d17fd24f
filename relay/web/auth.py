"""Authenticate an API request: find the project and the scopes of its API key."""

import hmac
from typing import Final

import msgspec
from starlette.requests import Request

from relay.app import App
from relay.errors import Forbidden, TooManyRequests, Unauthorized
from relay.storage.api_keys import ApiKey, digest
from relay.storage.apply_updates import DEFAULT_PROJECT
from relay.web import request_rates

KEY_MAX_CHARS: Final = 512
BOOTSTRAP_KEY: Final = "RELAY_API_KEY"
"""The key id of the key in the setting of that name, which has no row."""


ANY_SCOPE: Final = "any"
"""The scope of a route that every valid key may use."""


class Caller(msgspec.Struct, frozen=True):
    """An authenticated client: the project it acts in, and its key with its scopes, of which `admin` includes all.

    `created_at` is the key's, in unix milliseconds; None for the key of the setting.
    """

    project_id: str
    key_id: str
    name: str
    scopes: frozenset[str]
    created_at: int | None = None

    @property
    def admin(self) -> bool:
        """Return whether the key has every scope."""
        return "admin" in self.scopes

    @property
    def operator(self) -> bool:
        """Return whether it is an admin key of the project `default`, which may see all projects."""
        return self.admin and self.project_id == DEFAULT_PROJECT


BOOTSTRAP_CALLER: Final = Caller(DEFAULT_PROJECT, BOOTSTRAP_KEY, BOOTSTRAP_KEY, frozenset({"admin"}))
"""The client with the key of the setting."""


async def authenticate(app: App, request: Request) -> Caller:
    """Return the client of a request; raise Unauthorized for a key that is missing, unknown or revoked.

    Raise TooManyRequests for a request over the rate of its key, or without a valid key over that of its address. A
    request over the rate of a key that has proven itself is refused without a read of the database.
    """
    text = bearer(request)
    if text is None:
        request_rates.count_unproven(app, request.scope)
        raise Unauthorized("send the API key as Authorization: Bearer <api key>")
    key_digest = digest(text)
    proven_id = BOOTSTRAP_KEY if _is_bootstrap(app, key_digest) else app.rates.proven(key_digest)
    if proven_id is not None:
        request_rates.count_key(app, proven_id, request.scope)
    if proven_id == BOOTSTRAP_KEY:
        return BOOTSTRAP_CALLER
    found = await _looked_up(app, request, key_digest)
    if found is None:
        raise Unauthorized("the API key is not known here, or was revoked")
    if proven_id is None:
        request_rates.count_key(app, found.key_id, request.scope)
    return _used(app, found)


async def _looked_up(app: App, request: Request, key_digest: bytes) -> Caller | None:
    """Return the client with a key of this digest; TooManyRequests if its address has tried too many wrong ones."""
    address = request_rates.network_of_client(app, request.scope)
    try:
        proof = app.rates.begin_proof(key_digest, address, app.clock.monotonic_ms())
        try:
            found = await _by_digest(app, key_digest)
        except BaseException:
            app.rates.cancel_proof(proof)
            raise
        app.rates.end_proof(proof, None if found is None else found.key_id, app.clock.monotonic_ms())
    except TooManyRequests as error:
        request_rates.mention_address(app, address, error)
        raise
    return found


async def caller_of(app: App, text: str) -> Caller | None:
    """Return the client with an API key of this text; None if the key is unknown or revoked."""
    key_digest = digest(text)
    if _is_bootstrap(app, key_digest):
        return BOOTSTRAP_CALLER
    found = await _by_digest(app, key_digest)
    return None if found is None else _used(app, found)


def _is_bootstrap(app: App, key_digest: bytes) -> bool:
    """Return whether a key is that of the setting RELAY_API_KEY, which no row holds."""
    bootstrap = app.settings.api_key
    return bool(bootstrap) and hmac.compare_digest(key_digest, digest(bootstrap or ""))


async def _by_digest(app: App, key_digest: bytes) -> Caller | None:
    """Return the client with a live key of this digest."""
    return _caller(await app.store.access.api_key(key_digest))


async def caller_by_id(app: App, key_id: str) -> Caller | None:
    """Return the client with the API key of this id, which it has proven before; None if the key is revoked."""
    if key_id == BOOTSTRAP_KEY:
        return BOOTSTRAP_CALLER if app.settings.api_key else None
    found = _caller(await app.store.access.key_by_id(key_id))
    return None if found is None else _used(app, found)


def require_scope(caller: Caller, scope: str) -> None:
    """Raise Forbidden if the key has neither the scope nor `admin`."""
    if scope != ANY_SCOPE and not caller.scopes & {scope, "admin"}:
        raise Forbidden(f"this needs an API key with the scope {scope}")


def _used(app: App, caller: Caller) -> Caller:
    """Return the client, and note that its key was used."""
    app.store.statistics.key_used(caller.key_id, app.clock.now_ms())
    return caller


def _caller(key: ApiKey | None) -> Caller | None:
    """Return the client with a live key."""
    return None if key is None else Caller(key.project_id, key.id, key.name, key.scopes, key.created_at)


def bearer(request: Request) -> str | None:
    """Return the token of `Authorization: Bearer`; None if it is missing or longer than any key."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    text = text.strip()
    return text if scheme.lower() == "bearer" and 0 < len(text) <= KEY_MAX_CHARS else None
