"""The callback route, as a plain ASGI app in front of everything else: providers wait five seconds and try twice.

The token is proven before the body is read or a row is touched; a wrong one costs the same whatever is wrong with it.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from starlette.types import Receive, Scope, Send

from relay import log
from relay.app import App
from relay.callbacks.receiver import IncomingCallback
from relay.errors import KeyUnknown, StorageUnavailable
from relay.security.callback_tokens import CallbackToken
from relay.web import request_body

STORED_WITHIN_S: Final = 4.0
"""A database that hangs is one that is away: a provider that is told so in its five seconds comes again."""
LOOK_EVERY_S: Final = 0.1
"""How often it is looked for callbacks that wait longer than that."""
_PATH: Final = re.compile(r"/+callbacks/+([^/]{1,64})/+([^/]{1,400})/*")
_PLAIN_PATH: Final = re.compile(rb"/callbacks/([a-z0-9_-]{1,64})/([A-Za-z0-9_-]{1,400})")
_LATE: Final = "the database does not answer in time"
_NOT_RECEIVED: Final = b'{"received":false}'
_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_logger = log.get("callbacks")


class Answer(msgspec.Struct, frozen=True):
    """What is answered to a provider."""

    status: int
    body: bytes = _NOT_RECEIVED
    header: tuple[bytes, bytes] | None = None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Its headers, in their order."""
        length = (b"content-length", str(len(self.body)).encode())
        return [*_HEADERS, length, *([self.header] if self.header else [])]


_STORED: Final = Answer(200, b'{"received":true}')


class _Waiting(msgspec.Struct):
    """A callback that waits for its commit, and until when it may."""

    until_s: float
    provider: str
    claims: CallbackToken
    answered: Callable[[Answer], None]
    refused: bool = False


class Callbacks:
    """Answers `/callbacks/{provider}/{token}`."""

    def __init__(self, app: App, memory: request_body.BodyMemory) -> None:
        self._app = app
        self._memory = memory
        self._waiting: dict[object, _Waiting] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, and its small JSON answer; never a redirect."""
        answer = await self._answer(scope, receive)
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    def take(
        self, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes, answered: Callable[[Answer], None]
    ) -> bool:
        """Takes a POST that came whole, unless something about it is special, and calls `answered` when it is stored.

        Where that takes too long it is called with the refusal, and again afterwards. False leaves it to `__call__`.
        """
        found = _PLAIN_PATH.fullmatch(path)
        if found is None or len(body) > self._app.settings.callback_body_max_bytes:
            return False
        provider, token = found[1].decode(), found[2].decode()
        claims = self._app.receiver.verify_token(provider, token)
        if claims is None:
            return False
        try:
            receiving = self._app.receiver.receive_nowait(IncomingCallback(provider, claims, _text(headers), body))
        except StorageUnavailable:
            return False
        if receiving is None:
            return False
        prepared, recorded = receiving

        def stored(_: object) -> None:
            del self._waiting[recorded]
            try:
                self._app.receiver.publish(prepared, recorded.result())
            except StorageUnavailable as error:
                answered(_not_stored(provider, claims, error))
            except Exception as error:
                _logger.error("request.broke", method="POST", path="/callbacks/", exc_info=error)
                answered(Answer(500))
            else:
                answered(_STORED)

        loop = asyncio.get_running_loop()
        self._waiting[recorded] = _Waiting(loop.time() + STORED_WITHIN_S, provider, claims, answered)
        if self._timer is None:
            self._timer = loop.call_later(LOOK_EVERY_S, self._refuse_late)
        recorded.add_done_callback(stored)
        return True

    def _refuse_late(self) -> None:
        """Refuse, once, each callback that the database has not taken in time; one timer looks after all of them."""
        loop = asyncio.get_running_loop()
        for waiting in self._waiting.values():
            if waiting.until_s > loop.time():
                break
            if not waiting.refused:
                waiting.refused = True
                waiting.answered(_not_stored(waiting.provider, waiting.claims, StorageUnavailable(_LATE)))
        self._timer = loop.call_later(LOOK_EVERY_S, self._refuse_late) if self._waiting else None

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        """GET and its like have no effect, POST is a callback."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return Answer(200, b'{"relay":"callbacks"}')
        if scope["method"] != "POST":
            return Answer(405, header=(b"allow", b"GET, HEAD, OPTIONS, POST"))
        path = _PATH.fullmatch(scope["path"])
        provider, token = path.groups() if path else ("", "")
        claims = self._app.receiver.verify_token(provider, token)
        if claims is None:
            known = provider if provider in self._app.providers else "unknown"
            _logger.info("callback.refused", provider=known)
            self._app.metrics.callback_refused(known)
            return Answer(404)
        try:
            return await self._take(provider, claims, scope, receive)
        except (StorageUnavailable, KeyUnknown) as error:
            self._app.metrics.refused(error.bound)
            return _not_stored(provider, claims, error)

    async def _take(self, provider: str, claims: CallbackToken, scope: Scope, receive: Receive) -> Answer:
        """Reads the body and stores it; that one came which could not be read whole is noted too."""
        settings, receiver = self._app.settings, self._app.receiver
        headers = _text(scope["headers"])
        unread = IncomingCallback(provider, claims, headers, b"")
        try:
            owner = request_body.Owner(claims.job_id, is_callback=True)
            limits = request_body.Limits(
                settings.callback_body_max_bytes, settings.body_deadline_s, self._memory, owner
            )
            body = await request_body.read(receive, limits)
        except request_body.Capped as error:
            self._app.metrics.refused(error.bound)
            await receiver.receive_unread(
                IncomingCallback(provider, claims, headers, error.start), "the body is over the limit"
            )
            return Answer(413)
        except request_body.OwnerFull as error:
            self._app.metrics.refused(error.bound)
            await receiver.receive_unread(unread, "too many bodies of its job were open")
            return Answer(413)
        except request_body.BodyTooSlow as error:
            self._app.metrics.refused(error.bound)
            await receiver.receive_unread(unread, "the body was too slow")
            return Answer(408, header=(b"connection", b"close"))
        except request_body.BodyCut:
            await receiver.receive_unread(unread, "the connection was cut within the body")
            return Answer(408, header=(b"connection", b"close"))
        try:
            async with asyncio.timeout(STORED_WITHIN_S):
                await receiver.receive(IncomingCallback(provider, claims, headers, body))
        except TimeoutError:
            raise StorageUnavailable(_LATE) from None
        return _STORED


def _text(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """Headers as text, whatever is in them."""
    return tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])


def _not_stored(provider: str, claims: CallbackToken, error: Exception) -> Answer:
    """The provider is to come again."""
    _logger.error("callback.not_stored", provider=provider, job=claims.job_id, error=str(error))
    return Answer(503, header=(b"retry-after", b"2"))
