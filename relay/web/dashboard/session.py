"""Sessions of the dashboard: signing in with an API key, the signed cookie that stands for it, and its limits.

The cookie holds the key's id, never the key. A revoked key ends its sessions with the next request, and so does signing
out: the session is stored as ended, so a copy of its cookie opens nothing.
"""

import hmac
import secrets
from collections import OrderedDict
from typing import Final
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from relay.app import App
from relay.errors import Forbidden, TooManyRequests, Unauthorized
from relay.web import auth
from relay.web.request_rates import network_of_client

AGE_MAX_MS: Final = 12 * 3_600_000
"""A session ends so long after its sign-in."""
IDLE_MAX_MS: Final = 2 * 3_600_000
"""A session ends so long after its last request."""
RENEWED_AFTER_MS: Final = 60_000
"""The age of a cookie's `seen_at` at which a request renews it."""
FAILED_MAX: Final = 10
"""Failed sign-ins of one address within `FAILED_WITHIN_MS`; more are answered 429."""
FAILED_WITHIN_MS: Final = 5 * 60_000
ADDRESSES_MAX: Final = 10_000
"""Addresses whose failures are remembered; beyond that the oldest is forgotten."""
COOKIE: Final = "relay-session"
_PURPOSE: Final = "session"


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's cookie holds: its key, its project, its times (unix ms) and the value that its forms send back.

    `csrf` is random, so it identifies the session too. `project` is the project's name, for the reader. `mark`
    recognizes the key of the setting, which has no row that could be revoked; it is empty for every other key.
    """

    key_id: str
    project_id: str
    began_at: int
    seen_at: int
    csrf: str
    mark: str = ""
    project: str = ""

    def lives(self, now_ms: int) -> bool:
        """Return whether the session is within both of its limits; a clock that was set back does not prolong it."""
        return abs(now_ms - self.began_at) < AGE_MAX_MS and abs(now_ms - self.seen_at) < IDLE_MAX_MS


class SignedIn(msgspec.Struct, frozen=True):
    """A session with the caller that it stands for."""

    session: Session
    caller: auth.Caller


class Sessions:
    """Starts, reads, renews and ends the sessions of this relay."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._failures = Failures()

    async def sign_in(self, http: Request, key_text: str) -> SignedIn:
        """Return a new session for an API key.

        Raise Unauthorized for an unknown or revoked key, Forbidden for one that may not read, and TooManyRequests
        after too many failures of one address.
        """
        app, now_ms = self._app, self._app.clock.now_ms()
        address = network_of_client(app, http.scope)
        tried_at = self._failures.begin(address, app.clock.monotonic_ms())
        caller = await auth.caller_of(app, key_text) if 0 < len(key_text) <= auth.KEY_MAX_CHARS else None
        if caller is None:
            raise Unauthorized("This key is not known here, or was revoked.")
        self._failures.forget(address, tried_at)
        try:
            auth.require_scope(caller, "read")
        except Forbidden:
            raise Forbidden("This key may not read. A key with the scope read opens these pages.") from None
        session = Session(
            key_id=caller.key_id,
            project_id=caller.project_id,
            began_at=now_ms,
            seen_at=now_ms,
            csrf=secrets.token_urlsafe(16),
            mark=app.cookies.mark(key_text) if caller.key_id == auth.BOOTSTRAP_KEY else "",
        )
        return SignedIn(session, caller)

    async def read(self, http: Request) -> SignedIn | None:
        """Return the session of a request; None without one, after its end, and once its key is revoked."""
        app = self._app
        cookie = http.cookies.get(self._name(http))
        session = app.cookies.read(_PURPOSE, cookie, Session) if cookie else None
        if session is None or not session.lives(app.clock.now_ms()):
            return None
        if session.key_id == auth.BOOTSTRAP_KEY and not app.cookies.marked(app.settings.api_key or "", session.mark):
            return None
        caller = await auth.caller_by_id(app, session.key_id)
        if caller is None or caller.project_id != session.project_id or not caller.scopes & {"read", "admin"}:
            return None
        if await app.store.access.session_ended(session.csrf):
            return None
        return SignedIn(session, caller)

    def start(self, http: Request, response: Response, session: Session) -> None:
        """Set the cookie of a session."""
        set_cookie(response, self._name(http), self._app.cookies.make(_PURPOSE, session), secure=self.secure(http))

    def keep(self, http: Request, response: Response, session: Session) -> None:
        """Renew the cookie of a session whose last renewal is a minute old."""
        now_ms = self._app.clock.now_ms()
        if now_ms - session.seen_at >= RENEWED_AFTER_MS:
            self.start(http, response, msgspec.structs.replace(session, seen_at=now_ms))

    async def end(self, http: Request, response: Response, session: Session) -> None:
        """Store that the session has ended, and delete its cookie; StorageUnavailable, and then it goes on."""
        await self._app.store.access.end_session(session.csrf, session.began_at + AGE_MAX_MS)
        response.delete_cookie(self._name(http), path="/", secure=self.secure(http), httponly=True, samesite="lax")

    def secure(self, http: Request) -> bool:
        """Return whether the browser reaches relay over HTTPS, as far as relay can know."""
        if http.url.scheme == "https" or http.headers.get("x-forwarded-proto") == "https":
            return True
        public = urlsplit(self._app.settings.public_url or "")
        return public.scheme == "https" and http.headers.get("host") == public.netloc

    def _name(self, http: Request) -> str:
        """Return the cookie's name; with `__Host-` a browser accepts it of this host over HTTPS alone."""
        return f"__Host-{COOKIE}" if self.secure(http) else COOKIE


class Failures:
    """The failed sign-ins of each address within the last minutes."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, list[int]] = OrderedDict()

    def begin(self, address: str, now_ms: int) -> int:
        """Count an attempt as failed until it succeeds; raise TooManyRequests for an address with too many."""
        times = self._recent(address, now_ms)
        if len(times) >= FAILED_MAX:
            wait_s = max(1, -(-(times[0] + FAILED_WITHIN_MS - now_ms) // 1000))
            raise TooManyRequests(f"Too many failed sign-ins from this address. Try again in {wait_s} s.", wait_s)
        self._times[address] = [*times, now_ms]
        self._times.move_to_end(address)
        while len(self._times) > ADDRESSES_MAX:
            self._times.popitem(last=False)
        return now_ms

    def forget(self, address: str, at_ms: int) -> None:
        """Count the attempt of this time no longer: it succeeded."""
        if at_ms in (times := self._times.get(address, [])):
            times.remove(at_ms)

    def _recent(self, address: str, now_ms: int) -> list[int]:
        """Return the times of the address's failures that still count."""
        return [at for at in self._times.get(address, ()) if now_ms - at < FAILED_WITHIN_MS]


def same_origin(http: Request) -> bool:
    """Return whether a form was sent by a page of this host, as far as the browser says it."""
    origin, site = http.headers.get("origin"), http.headers.get("sec-fetch-site", "same-origin")
    own = origin is None or origin.partition("://")[2] == http.headers.get("host")
    return own and site in ("same-origin", "none")


def csrf_matches(session: Session, given: str) -> bool:
    """Return whether a form came from a page of this session."""
    return hmac.compare_digest(session.csrf.encode(), given.encode())


def set_cookie(response: Response, name: str, value: str, *, secure: bool) -> None:
    """Set a cookie that no script reads, until the browser is closed."""
    response.set_cookie(name, value, path="/", secure=secure, httponly=True, samesite="lax")
