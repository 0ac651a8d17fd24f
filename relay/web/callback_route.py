"""Answer `POST /callbacks/{provider}/{token}`: verify the token, read the body, hand both to the receiver.

A plain ASGI app before the API's router, because providers wait five seconds and try twice. A callback gets here in
two ways: `receive_whole`, which `protocol.py` calls with a body that arrived in one read, and `__call__` as an ASGI
app. Both verify the token before the body costs memory or a database access, both end at `Receiver`, and both answer
after COMMIT. An invalid token costs the same time whichever part of it is wrong. This module does not interpret the
body: `callbacks/parse.py` does.
"""

import asyncio
import re
from collections.abc import Iterable
from functools import cached_property
from itertools import takewhile
from typing import ClassVar, Final, Protocol

import msgspec
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from relay import log
from relay.app import App
from relay.callbacks.receiver import IncomingCallback, PreparedCallback
from relay.errors import KeyUnknown, RelayError, StorageUnavailable, TooManyRequests
from relay.log import request_ids
from relay.storage.engine.group_commit import Waiting
from relay.web import request_body, request_rates
from relay.web.client_address import client_address
from relay.web.whole_request import WholeCallback

COMMIT_DEADLINE_S: Final = 4.0
"""A callback not committed by then is answered 503: within its five seconds a provider must learn to retry."""
DEADLINE_CHECK_S: Final = 0.1
"""Seconds between two checks of that deadline."""
_PATH: Final = re.compile(r"/+callbacks/+([^/]{1,64})/+([^/]{1,400})/*")
_LATE: Final = "the database does not answer in time"
_NOT_RECEIVED: Final = b'{"received":false}'
_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
_logger = log.get("callbacks")


class CallbackResponse(msgspec.Struct, frozen=True, dict=True):
    """What relay answers to a provider."""

    status: int
    body: bytes = _NOT_RECEIVED
    header: tuple[bytes, bytes] | None = None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return all headers, in the order in which they are sent."""
        length = (b"content-length", str(len(self.body)).encode())
        return [*_HEADERS, length, *([self.header] if self.header else [])]

    @cached_property
    def rendered(self) -> tuple[bytes, bytes]:
        """The response as bytes: its status line, and its own headers with the body; the server's go in between."""
        headers = b"".join([b"%b: %b\r\n" % header for header in self.headers])
        return STATUS_LINE[self.status], headers + b"\r\n" + self.body


_RETRY: Final = (b"retry-after", b"2")
_STORED: Final = CallbackResponse(200, b'{"received":true}')


class _Unread(msgspec.Struct, frozen=True):
    """How a callback whose body was not read is stored and answered."""

    reason: str
    response: CallbackResponse


_UNREAD: Final[dict[type[RelayError], _Unread]] = {
    request_body.BodyOverLimit: _Unread("the body is over the limit", CallbackResponse(413)),
    # Providers repeat a 503, and no 413: the share is free again as soon as the other bodies have ended.
    request_body.OwnerMemoryFull: _Unread("too many bodies of its job were open", CallbackResponse(503, header=_RETRY)),
    request_body.BodyTooSlow: _Unread("the body was too slow", CallbackResponse(408, header=(b"connection", b"close"))),
    request_body.BodyIncomplete: _Unread(
        "the connection was cut within the body", CallbackResponse(408, header=(b"connection", b"close"))
    ),
}


class Connection(Protocol):
    """A connection that a direct callback came on."""

    def respond(self, direct: "DirectCallback", response: CallbackResponse) -> None:
        """Write the callback's response; do nothing if it has one, or if the client is gone."""


class DirectCallback:
    """A callback that arrived whole in one read, from the end of its request until its response: no ASGI, no task.

    `keep_alive`, `response_complete`, `disconnected` and `message_event` are what uvicorn reads of a request, or sets.
    `deadline_s` is when it is answered 503 instead, in the loop's seconds; `prepared` is what is being stored.
    """

    __slots__ = (
        "connection",
        "deadline_s",
        "disconnected",
        "keep_alive",
        "prepared",
        "request_id",
        "response_complete",
    )
    message_event: ClassVar = asyncio.Event()

    def __init__(self, connection: Connection, request_id: str) -> None:
        self.connection = connection
        self.request_id = request_id
        self.keep_alive = True
        self.response_complete = False
        self.disconnected = False
        self.deadline_s = 0.0
        self.prepared: PreparedCallback | None = None


class CallbackRoute:
    """Answers `/callbacks/{provider}/{token}`."""

    def __init__(self, app: App, memory: request_body.BodyMemory) -> None:
        self._app = app
        self._memory = memory
        self._address_of = client_address(app.settings.client_ip)
        self._uncommitted: dict[DirectCallback, None] = {}
        """In the order of their deadlines."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._server_headers: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI request with a small JSON document, never with a redirect."""
        response = await self._response(scope, receive)
        await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else response.body})

    def receive_whole(self, whole: WholeCallback, direct: DirectCallback) -> bool:
        """Store a POST whose whole body arrived in one read; respond after COMMIT, or with 503 at COMMIT_DEADLINE_S.

        Return False, with nothing done, if `__call__` must answer: a token that is not valid, a body over the limit, a
        callback that needs more than the transaction.
        """
        if len(whole.body) > self._app.settings.callback_body_max_bytes:
            return False
        receiver = self._app.receiver
        token = receiver.verify_token(whole.provider, whole.token)
        if token is None:
            return False
        callback = IncomingCallback(whole.provider, token, whole.headers, whole.body)
        try:
            direct.prepared = receiver.receive_nowait(callback, self._committed, direct)
        except StorageUnavailable:
            return False
        if direct.prepared is None:
            return False
        direct.deadline_s = self._loop.time() + COMMIT_DEADLINE_S
        self._uncommitted[direct] = None
        if self._timer is None:
            self._timer = self._loop.call_later(DEADLINE_CHECK_S, self._refuse_late)
        return True

    def rendered_headers(self, of_server: list[tuple[bytes, bytes]]) -> bytes:
        """Return the server's own headers as bytes; they are another list whenever they change, once a second."""
        if of_server is not self._server_headers[0]:
            self._server_headers = of_server, b"".join([b"%b: %b\r\n" % header for header in of_server])
        return self._server_headers[1]

    def _committed(self, batch: list[Waiting]) -> None:
        """Publish and answer each callback of a batch, after its COMMIT; a failure of one is answered to it alone."""
        for waiting in batch:
            direct: DirectCallback = waiting.caller
            self._uncommitted.pop(direct, None)
            request_ids.CURRENT.set(direct.request_id)
            try:
                direct.connection.respond(direct, self._outcome(direct.prepared, waiting))
            except Exception as error:
                _logger.error("request.error", method="POST", path="/callbacks/", exc_info=error)
                # In a step of its own: if this fails too, the others of the batch are still answered.
                self._loop.call_soon(direct.connection.respond, direct, CallbackResponse(500))

    def _outcome(self, prepared: PreparedCallback | None, waiting: Waiting) -> CallbackResponse:
        """Publish a callback that was stored; return the response."""
        assert prepared is not None
        if waiting.error is None:
            self._app.receiver.publish(prepared, waiting.result)
            return _STORED if prepared.reply is None else CallbackResponse(200, prepared.reply)
        if isinstance(waiting.error, StorageUnavailable):
            return _not_stored(prepared.received.provider, prepared.update.job_id, waiting.error)
        raise waiting.error

    def _refuse_late(self) -> None:
        """Answer 503, once, to each callback past its deadline; one timer serves all of them."""
        now_s = self._loop.time()
        for direct in list(takewhile(lambda direct: direct.deadline_s <= now_s, self._uncommitted)):
            del self._uncommitted[direct]
            request_ids.CURRENT.set(direct.request_id)
            assert direct.prepared is not None
            stored, late = direct.prepared, StorageUnavailable(_LATE)
            response = _not_stored(stored.received.provider, stored.update.job_id, late)
            direct.connection.respond(direct, response)
        self._timer = self._loop.call_later(DEADLINE_CHECK_S, self._refuse_late) if self._uncommitted else None

    async def _response(self, scope: Scope, receive: Receive) -> CallbackResponse:
        """Return the response to any method; only a POST with a valid token has an effect."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return CallbackResponse(200, b'{"relay":"callbacks"}')
        if scope["method"] != "POST":
            return CallbackResponse(405, header=(b"allow", b"GET, HEAD, OPTIONS, POST"))
        match = _PATH.fullmatch(scope["path"])
        provider, token_text = match.groups() if match else ("", "")
        token = self._app.receiver.verify_token(provider, token_text)
        if token is None:
            self._note_refused(provider, scope)
            return CallbackResponse(404)
        callback = IncomingCallback(provider, token, _text(scope["headers"]), b"")
        try:
            return await self._receive(callback, receive)
        except (StorageUnavailable, KeyUnknown) as error:
            self._app.metrics.refused(error.bound)
            return _not_stored(callback.provider, callback.token.job_id, error)

    def _note_refused(self, provider: str, scope: Scope) -> None:
        """Count a callback without a valid token; log it unless its address is over the rate of such requests.

        It is answered 404 in any case: a provider repeats a 429, and this callback is valid at no later time.
        """
        label = provider if provider in self._app.providers else "unknown"
        self._app.metrics.callback_refused(label)
        try:
            request_rates.count_unproven(self._app, scope)
        except TooManyRequests as error:
            self._app.metrics.refused(error.bound)
        else:
            _logger.info("callback.refused", provider=label, client=self._address_of(scope))

    async def _receive(self, callback: IncomingCallback, receive: Receive) -> CallbackResponse:
        """Read the body of `callback`, which has none yet, and store both; store a body that cannot be read as such."""
        settings, receiver = self._app.settings, self._app.receiver
        owner = request_body.Owner(callback.token.job_id, is_callback=True)
        limits = request_body.ReadLimits(
            settings.callback_body_max_bytes, settings.body_deadline_s, self._memory, owner
        )
        try:
            body = await request_body.read(receive, limits)
        except tuple(_UNREAD) as error:
            self._app.metrics.refused(error.bound)
            start = error.start if isinstance(error, request_body.BodyOverLimit) else b""
            unread = _UNREAD[type(error)]
            await receiver.receive_unread(msgspec.structs.replace(callback, body=start), unread.reason)
            return unread.response
        try:
            async with asyncio.timeout(COMMIT_DEADLINE_S):
                stored = await receiver.receive(msgspec.structs.replace(callback, body=body))
        except TimeoutError:
            raise StorageUnavailable(_LATE) from None
        return _STORED if stored.reply is None else CallbackResponse(200, stored.reply)


def _text(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """Return headers as text; latin-1 maps every byte to a character."""
    return tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers])


def _not_stored(provider: str, job_id: str, error: Exception) -> CallbackResponse:
    """Log that a callback was not stored, and return the 503 that makes the provider retry."""
    _logger.error("callback.not_stored", provider=provider, job=job_id, error=str(error))
    return CallbackResponse(503, header=_RETRY)
