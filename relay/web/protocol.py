"""HTTP as uvicorn reads it, with bounds against strangers, and a short way for a callback that came in one piece.

Most callbacks do: they are small. What is read already needs no task, no deadline for its body and no messages of ASGI;
it is handed on as it is, and answered when it is stored. Whatever is different in any way (cut into pieces, pipelined,
HTTP/1.0, another path) goes uvicorn's own way, which ends at the same callbacks.

The bounds: the head of a request, in bytes and time; bytes that bring a request no further, such as trailers; requests
that wait behind another one on the same connection; an answer that its reader does not take; what a sender may still
write after an answer that did not wait for the body. An offer to change the protocol (`Upgrade: h2c`) is ignored.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from relay.log import request_ids
from relay.web.callback_route import Answer
from relay.web.connections import Closed, Connections

READ_MAX_HEADS: Final = 16
"""What is read in one piece may be so many times as large as a head may be; the loop reads 256 KiB at most."""
_NO_HTTP: Final = b"HTTP/1.1 400 Bad Request\r\n"
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_FULL: Final = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\n"
_NO_TUNNEL: Final = b"HTTP/1.1 405 Method Not Allowed\r\n"
_LAST: Final = b"request-id: %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
UNREAD: Final = "unread"
"""In the scope's state: says whether more of the request's body is to come."""
_OFFER: Final = frozenset({b"upgrade", b"http2-settings"})
_NOBODY: Final = asyncio.Event()

Take = Callable[[bytes, list[tuple[bytes, bytes]], bytes, Callable[[Answer], None]], bool]
"""Takes a callback (its path, headers and body) and calls what is given with the answer, once or, late, twice.

False when it is not one to be taken so.
"""


class Cycle:
    """What stands where uvicorn has the request that a connection is busy with."""

    message_event = _NOBODY

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self.response_complete = False
        self.disconnected = False


class Transport:
    """A connection's transport as uvicorn sees it: closing it is the protocol's decision."""

    __slots__ = ("_close", "_is_closing", "get_extra_info", "pause_reading", "resume_reading", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None], is_closing: Callable[[], bool]) -> None:
        self._close, self._is_closing = close, is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.write = transport.write

    def close(self) -> None:
        """Close the connection, when its peer had time to read the answer."""
        self._close()

    def is_closing(self) -> bool:
        """Return whether nothing more is answered on the connection."""
        return self._is_closing()


class TooMuch(Exception):
    """A bound is reached: nothing more is parsed."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    """No byte of a request's body or of its end has come since the last request ended."""
    _whole = True
    """The body of the last request whose head was whole has come to its end."""
    _idle_bytes = 0
    """What came since a request was last brought further: by its first byte, the end of its head, or some body."""
    _read_bytes = 0
    """How much came at once, last."""
    _ended = False
    """Nothing that comes in is read any more."""
    _lingering = False
    _lingered_bytes = 0
    _refusal = Closed.NOT_HTTP
    """Why nothing more is read, if the parser stops now."""
    _current: Cycle | RequestResponseCycle | None = None
    """The request whose turn it is; `cycle` is the last one that was read, which may wait behind it."""
    _declining = False
    """The request whose head is read offers another protocol: it is read again without the offer."""
    _pieces: list[bytes] | None = None
    """The body of a callback that may be whole by the end of what is being read; else None."""

    def __init__(self, take: Take, books: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._take = take
        self._books = books
        self._limits = books.limits
        self._headers_max = books.limits.headers_max
        self._head_max_bytes = books.limits.head_max_bytes
        self._socket: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Count the connection; it may be one too many."""
        self._socket = transport
        super().connection_made(Transport(transport, self._close, self._is_closing))  # type: ignore[arg-type]
        self._books.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting it, and tell each request on it that nobody waits for its answer."""
        self._stop_timer()
        self._books.closed(self)
        self._leave()
        super().connection_lost(exc)

    def evict(self) -> None:
        """Close a connection whose next request has not begun, or is not whole."""
        self._ended = True
        self._abort()

    def refuse(self) -> None:
        """Answer that there is no room for another connection."""
        self._end_with(_FULL, Closed.CONNECTIONS_MAX)

    def expire(self) -> None:
        """Close a connection that has been idle for long."""
        self._close()

    def data_received(self, data: bytes) -> None:
        """Read what came in; what brings no request further is bounded, since the parser itself bounds nothing."""
        if self._ended:
            self._discard(data)
            return
        if self._idle_bytes > self._head_max_bytes or len(data) > READ_MAX_HEADS * self._head_max_bytes:
            self._end_with(_TOO_LARGE, Closed.HEAD_MAX_BYTES)
            return
        self._idle_bytes += len(data)
        self._read_bytes = len(data)
        self._feed(data)
        if self._pieces is not None:
            self._begin()
        if self._in_head:
            self._await_head()

    def on_message_begin(self) -> None:
        """Another request begins."""
        if len(self.pipeline) >= self._limits.pipelined_max:
            self._stop_reading(Closed.PIPELINED_MAX)
        self._in_head, self._idle_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, which come after the body, are nobody's, and would be kept without end."""
        if self._in_head:
            if len(self.headers) >= self._headers_max:
                self._stop_reading(Closed.HEADERS_MAX)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """What follows is the body, which has its own cap."""
        if self._idle_bytes + self._read_bytes > self._head_max_bytes and self._head_bytes() > self._head_max_bytes:
            self._stop_reading(Closed.HEAD_MAX_BYTES)
        if self.parser.should_upgrade():
            self._declining = True
            return
        self._in_head, self._whole, self._idle_bytes = False, False, 0
        self._books.begin(self)
        if self._may_be_whole():
            self._pieces = []
        else:
            self._start()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._idle_bytes = 0
        if self._pieces is not None:
            self._pieces.append(body)
            return
        self._books.await_body(self)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._declining:
            return
        self._whole = True
        if self._pieces is not None:
            if self._answers(b"".join(self._pieces)):
                self._pieces = None
                return
            self._begin()
        self._books.whole(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on to what waits; an answer that did not wait for its request's body is the connection's last.

        uvicorn would make a timer for the next request here, which `Connections` has one of for all.
        """
        self.server_state.total_requests += 1
        if self._is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif not self._whole:
            self._close()
        elif self._in_head:
            self._await_head()
        else:
            self._books.keep(self)

    def pause_writing(self) -> None:
        """The peer takes the answer more slowly than it is made: it has a time to take some of it."""
        super().pause_writing()
        self._stop_timer()
        self._timer = self.loop.call_later(self._limits.write_deadline_s, self._cut, Closed.WRITE_DEADLINE)

    def resume_writing(self) -> None:
        """The peer took some of the answer."""
        self._stop_timer()
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """It is a request's turn."""
        self._current = cycle
        super()._start_asgi_task(cycle, app)

    def _leave(self) -> None:
        """Tell the request that is answered, and those behind it, that their peer is gone; uvicorn tells the last."""
        for cycle in (self._current, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()

    def _abort(self) -> None:
        """Close at once: from here on nothing is written, since uvloop raises where that is tried."""
        self._leave()
        self._socket.abort()

    def _head_bytes(self) -> int:
        """How long the head is."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _stop_reading(self, refusal: Closed) -> NoReturn:
        """Stop the parser, which raises its own error in turn."""
        self._refusal = refusal
        raise TooMuch

    def _await_head(self) -> None:
        """Start the deadline of a head that has begun, unless an earlier request is not answered yet."""
        if self._in_head and not self._ended and not self._busy():
            self._books.await_head(self)

    def _feed(self, data: bytes) -> None:
        """Parse; what is no HTTP is answered 400 unless another answer is due, which then is the last one."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._decline(data[stopped.args[0] :])
        except httptools.HttpParserError:
            if self._busy() and (self._whole or self._in_head):
                self._end_after_answers()
            else:
                too_large = self._refusal in (Closed.HEAD_MAX_BYTES, Closed.HEADERS_MAX)
                self._end_with(_TOO_LARGE if too_large else _NO_HTTP, self._refusal)

    def _decline(self, rest: bytes) -> None:
        """Read the request again as if it had not offered another protocol (RFC 9110, 7.8), and then what follows."""
        self._declining = False
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._end_with(_NO_TUNNEL, Closed.TUNNEL)
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name in _OFFER:
                continue
            if name == b"connection":
                tokens = [token for token in value.split(b",") if token.strip().lower() not in _OFFER]
                value = b",".join(tokens)  # noqa: PLW2901 - the offer is named there too
            lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n")
        if rest and not self._ended:
            self._feed(rest)

    def _may_be_whole(self) -> bool:
        """Whether this is a callback of which nothing is special, on a connection that is not busy."""
        return (
            self.url.startswith(b"/callbacks/")
            and not self._busy()
            and not self.expect_100_continue
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
        )

    def _busy(self) -> bool:
        """Whether a request of this connection is not answered yet."""
        cycle: Cycle | RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _begin(self) -> None:
        """uvicorn's own way, with what was held back until here."""
        pieces, self._pieces = self._pieces or [], None
        self._start()
        for piece in pieces:
            super().on_body(piece)

    def _start(self) -> None:
        """Hand the request to the application, which is told whether more of the body is to come."""
        super().on_headers_complete()
        if not self._whole:
            self._books.await_body(self)
        cycle = self.cycle
        self.scope["state"][UNREAD] = lambda: cycle.more_body

    def _answers(self, body: bytes) -> bool:
        """Whether the callback was taken; the connection is busy until it is answered."""
        cycle = Cycle(self.parser.should_keep_alive())
        request_id = request_ids.of(self.headers)
        outside = request_ids.CURRENT.set(request_id)
        try:
            if not self._take(self.url, self.headers, body, partial(self._answer, cycle, request_id.encode())):
                return False
        finally:
            request_ids.CURRENT.reset(outside)
        self._current = cycle
        self.cycle = cycle  # type: ignore[assignment]  # it has what uvicorn looks at
        return True

    def _answer(self, cycle: Cycle, request_id: bytes, answer: Answer) -> None:
        """Writes the first answer, as uvicorn would, unless the sender is gone; then the connection is free again."""
        if cycle.response_complete or cycle.disconnected:
            return
        cycle.response_complete = True
        headers = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        headers.append(b"request-id: %b\r\n" % request_id)
        closing = b"" if cycle.keep_alive else b"connection: close\r\n"
        head, body = _rendered(answer)
        self.transport.write(b"".join([STATUS_LINE[answer.status], *headers, head, closing, b"\r\n", body]))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _end_after_answers(self) -> None:
        """Read nothing more, and close when the requests that came before are answered."""
        self._ended = True
        self._books.metrics.connection_closed(self._refusal)
        self.cycle.keep_alive = False
        self.flow.pause_reading()

    def _end_with(self, answer: bytes, refusal: Closed) -> None:
        """Read nothing more, and close after this answer, or at once where another answer is due first."""
        self._ended = True
        self._books.metrics.connection_closed(refusal)
        if self._busy():
            self._abort()
            return
        known = self.headers if self._in_head and self.headers else ()
        self._socket.write(answer + _LAST % request_ids.of(known).encode())
        self._whole = False
        self._close()

    def _close(self) -> None:
        """Close the connection; while the peer still sends, close only this side, and cut it when its time is over.

        A connection that is closed while bytes come in is reset, and a reset can overtake the answer.
        """
        if self._lingering or self._socket.is_closing():
            return
        if self._whole:
            if self._socket.get_write_buffer_size():
                self._stop_timer()
                self._timer = self.loop.call_later(self._limits.write_deadline_s, self._cut, Closed.WRITE_DEADLINE)
            self._socket.close()
            return
        self._ended = self._lingering = True
        if self._socket.can_write_eof():
            self._socket.write_eof()
        self._socket.resume_reading()
        self._stop_timer()
        self._timer = self.loop.call_later(self._limits.linger_s, self._cut, Closed.LINGER)

    def _is_closing(self) -> bool:
        """Whether nothing more is answered here."""
        return self._lingering or self._socket.is_closing()

    def _discard(self, data: bytes) -> None:
        """Count what still comes in after the last answer."""
        self._lingered_bytes += len(data)
        if self._lingered_bytes > self._limits.linger_max_bytes:
            self._cut(Closed.LINGER_MAX_BYTES)

    def _cut(self, reason: Closed) -> None:
        """Close the connection immediately, because its peer goes on for too long."""
        self._books.metrics.connection_closed(reason)
        self._abort()

    def _stop_timer(self) -> None:
        """Nothing is waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@lru_cache(16)
def _rendered(answer: Answer) -> tuple[bytes, bytes]:
    """The answer's own headers, and its body."""
    return b"".join([b"%b: %b\r\n" % header for header in answer.headers]), answer.body
