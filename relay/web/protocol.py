"""Read HTTP/1.1 with uvicorn's parser, within limits, and handle a whole callback without it and an ASGI task.

A callback goes from here (`data_received`) to `CallbackRoute.receive_whole`, to `Receiver`, to the store. Most
callbacks are small and arrive in one read; handling those directly saves the parser's calls (`whole_request.py`), the
task, the body's deadline and the ASGI messages. Everything else (a body in several reads, pipelining, HTTP/1.0, another
path) becomes an ASGI request as uvicorn makes it, which for a callback ends at the same `CallbackRoute`.

uvicorn itself limits none of these, so this module does: the bytes and the time of a head; bytes that do not advance a
request, such as trailers; requests pipelined behind another; a response that its client does not read; the bytes and
the time a client may go on sending after a response that did not wait for the body. An offer to change the protocol
(`Upgrade: h2c`) is ignored, as RFC 9110 allows.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from relay.log import request_ids
from relay.web import whole_request
from relay.web.callback_route import CallbackResponse, CallbackRoute, DirectCallback
from relay.web.connections import CloseReason, ConnectionTracker

READ_MAX_HEADS: Final = 16
"""One read may be this many times as large as a head may be; the event loop reads 256 KiB at most."""
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\n"
_HEAD_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
_UNAVAILABLE: Final = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\n"
_METHOD_NOT_ALLOWED: Final = b"HTTP/1.1 405 Method Not Allowed\r\n"
_CLOSING_HEADERS: Final = b"request-id: %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
BODY_INCOMPLETE: Final = "body_incomplete"
"""Key in the ASGI scope's state of a function that returns whether more of the request's body is expected."""
_UPGRADE_HEADERS: Final = frozenset({b"upgrade", b"http2-settings"})


class Transport:
    """The transport that uvicorn sees; the protocol decides how and when it is closed."""

    __slots__ = ("_close", "_is_closing", "get_extra_info", "pause_reading", "resume_reading", "write")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None], is_closing: Callable[[], bool]) -> None:
        self._close, self._is_closing = close, is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading
        self.write = transport.write

    def close(self) -> None:
        """Close the connection after the client had time to read the response."""
        self._close()

    def is_closing(self) -> bool:
        """Return whether no further response will be written."""
        return self._is_closing()


class LimitReached(Exception):
    """Stop the parser: a limit is reached."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _in_head = True
    """A head is being parsed: the connection's first, or one that `on_message_begin` began."""
    _body_complete = True
    """The body of the last request with a complete head has ended."""
    _bytes_without_progress = 0
    """Bytes received since a request last advanced: by its beginning, the end of its head, or a part of its body."""
    _read_bytes = 0
    """Size of the last read."""
    _reading_stopped = False
    """All further bytes are discarded."""
    _lingering = False
    """The last response was written; the client may go on sending for `linger_s`."""
    _lingered_bytes = 0
    _stop_reason = CloseReason.NOT_HTTP
    """Why reading stops, if the parser fails now."""
    _current: DirectCallback | RequestResponseCycle | None = None
    """The request being answered; uvicorn's `cycle` is the last one parsed, which may wait behind it."""
    _upgrade_offered = False
    """The head just parsed offers another protocol: it is parsed again without the offer."""
    _chunked = False
    """The head being parsed says that its body is chunked."""
    _between_requests = True
    """The parser has no part of a request: the next read begins one."""

    def __init__(self, callbacks: CallbackRoute, tracker: ConnectionTracker, **options: Any) -> None:
        super().__init__(**options)
        self._callbacks = callbacks
        self._tracker = tracker
        self._limits = tracker.limits
        self._headers_max = tracker.limits.headers_max
        self._head_max_bytes = tracker.limits.head_max_bytes
        self._socket: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's signature
        """Count the connection, which closes one if there are too many."""
        self._socket = transport
        super().connection_made(Transport(transport, self._close, self._is_closing))  # type: ignore[arg-type]
        self._tracker.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection, and mark each of its requests as disconnected."""
        self._stop_timer()
        self._tracker.remove(self)
        self._disconnect_requests()
        super().connection_lost(exc)

    def evict(self) -> None:
        """Close without an answer: the next request has not begun or is incomplete."""
        self._reading_stopped = True
        self._abort()

    def refuse(self) -> None:
        """Answer 503 and close: too many connections are open."""
        self._respond_and_close(_UNAVAILABLE, CloseReason.CONNECTIONS_MAX)

    def expire(self) -> None:
        """Close after the idle timeout."""
        self._close()

    def data_received(self, data: bytes) -> None:
        """Parse what was read, within a limit on bytes that advance no request, which the parser does not have."""
        if (
            self._between_requests
            and not self._reading_stopped
            and data.startswith(whole_request.PREFIX)
            and not self._busy()
            and self._receive_whole(data)
        ):
            return
        if self._reading_stopped:
            self._count_discarded(data)
            return
        if self._bytes_without_progress > self._head_max_bytes or len(data) > READ_MAX_HEADS * self._head_max_bytes:
            self._respond_and_close(_HEAD_TOO_LARGE, CloseReason.HEAD_MAX_BYTES)
            return
        self._bytes_without_progress += len(data)
        self._read_bytes = len(data)
        self._parse(data)
        if self._in_head:
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin another request, unless too many wait on this connection."""
        if len(self.pipeline) >= self._limits.pipelined_max:
            self._stop_parsing(CloseReason.PIPELINED_MAX)
        self._in_head, self._between_requests, self._bytes_without_progress = True, False, 0
        self._chunked = False
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, its name in lower case; drop a trailer, which follows the body, since relay reads none."""
        if self._in_head:
            if len(self.headers) >= self._headers_max:
                self._stop_parsing(CloseReason.HEADERS_MAX)
            name = name.lower()
            self.headers.append((name, value))
            if name == b"expect":
                self.expect_100_continue = value.lower() == b"100-continue"
            elif name == b"transfer-encoding":
                # The parser would start the request first, and pass on what another encoding hides (RFC 9112, 6.1).
                if self._chunked or value.lower() != b"chunked":
                    self._stop_parsing(CloseReason.NOT_HTTP)
                self._chunked = True

    def on_headers_complete(self) -> None:
        """Check the head's size, and start the request."""
        received = self._bytes_without_progress + self._read_bytes
        if received > self._head_max_bytes and self._head_bytes() > self._head_max_bytes:
            self._stop_parsing(CloseReason.HEAD_MAX_BYTES)
        if self.parser.should_upgrade():
            self._upgrade_offered = True
            return
        self._in_head, self._body_complete, self._bytes_without_progress = False, False, 0
        self._tracker.head_complete(self)
        self._start_request()

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body on to the request that was started."""
        self._bytes_without_progress = 0
        self._tracker.await_body(self)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request."""
        if self._upgrade_offered:
            return
        self._body_complete = self._between_requests = True
        self._tracker.body_complete(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the next pipelined request; close after a response that did not wait for its request's body.

        uvicorn's own method would start an idle timer for each response; `ConnectionTracker` has one for all.
        """
        self.server_state.total_requests += 1
        if self._lingering or self._socket.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif not self._body_complete:
            self._close()
        elif self._in_head:
            self._await_head()
        else:
            self._tracker.idle(self)

    def pause_writing(self) -> None:
        """Start the write deadline: the client reads the response more slowly than it is written."""
        super().pause_writing()
        self._start_write_deadline()

    def resume_writing(self) -> None:
        """Stop the write deadline: the client has read enough of the response."""
        self._stop_timer()
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Start answering a request."""
        self._current = cycle
        super()._start_asgi_task(cycle, app)

    def _disconnect_requests(self) -> None:
        """Mark the current and the pipelined requests as disconnected; uvicorn marks only the last one parsed."""
        for cycle in (self._current, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self.pipeline.clear()

    def _abort(self) -> None:
        """Close immediately; no request may write afterwards, because uvloop raises on such a write."""
        self._disconnect_requests()
        self._socket.abort()

    def _head_bytes(self) -> int:
        """Return the size of the URL and the headers."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _stop_parsing(self, reason: CloseReason) -> NoReturn:
        """Stop the parser, which turns this into its own error."""
        self._stop_reason = reason
        raise LimitReached

    def _await_head(self) -> None:
        """Start the deadline of a head that has begun, unless an earlier request is still unanswered."""
        if self._in_head and not self._reading_stopped and not self._busy():
            self._tracker.await_head(self)

    def _parse(self, data: bytes) -> None:
        """Parse; on an error answer 400 or 431 and close, but not before earlier requests are answered."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stopped:
            self._parse_without_upgrade(data[stopped.args[0] :])
        except httptools.HttpParserError:
            if self._busy() and (self._body_complete or self._in_head):
                self._close_after_responses()
            else:
                too_large = self._stop_reason in (CloseReason.HEAD_MAX_BYTES, CloseReason.HEADERS_MAX)
                self._respond_and_close(_HEAD_TOO_LARGE if too_large else _BAD_REQUEST, self._stop_reason)

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse the head again without its offer of another protocol (RFC 9110, 7.8), then the rest of the read."""
        self._upgrade_offered = False
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._respond_and_close(_METHOD_NOT_ALLOWED, CloseReason.TUNNEL)
            return
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name in _UPGRADE_HEADERS:
                continue
            if name == b"connection":
                tokens = [token for token in value.split(b",") if token.strip().lower() not in _UPGRADE_HEADERS]
                value = b",".join(tokens)  # noqa: PLW2901 - it names the upgrade headers too
            lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self._parse(b"\r\n".join(lines) + b"\r\n\r\n")
        if rest and not self._reading_stopped:
            self._parse(rest)

    def _busy(self) -> bool:
        """Return whether a request of this connection is unanswered."""
        cycle: DirectCallback | RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _start_request(self) -> None:
        """Start an ASGI request; its scope says whether more of the body is expected."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # makes the scope, for which a callback that is handled directly has no use
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)  # the scope has this list
        super().on_headers_complete()
        if not self._body_complete:
            self._tracker.await_body(self)
        cycle = self.cycle
        self.scope["state"][BODY_INCOMPLETE] = lambda: cycle.more_body

    def _receive_whole(self, data: bytes) -> bool:
        """Return whether the read is a callback handled directly; if so, the connection is busy until its response."""
        whole = whole_request.read(data)
        if whole is None or whole.head_bytes > self._head_max_bytes or len(whole.headers) > self._headers_max:
            return False
        request_id = request_ids.given(whole.fields.get("x-request-id"))
        direct = DirectCallback(self, request_id)
        previous = request_ids.CURRENT.set(request_id)
        try:
            if not self._callbacks.receive_whole(whole, direct):
                return False
        finally:
            request_ids.CURRENT.reset(previous)
        self._in_head, self._body_complete, self._bytes_without_progress = False, True, 0
        self._tracker.head_complete(self)
        self._current = direct
        self.cycle = direct  # type: ignore[assignment]  # it has the attributes that uvicorn reads
        return True

    def respond(self, direct: DirectCallback, response: CallbackResponse) -> None:
        """Write a directly handled callback's response, in uvicorn's form; ignore a second one and a lost client."""
        if direct.response_complete or direct.disconnected:
            return
        direct.response_complete = True
        start, end = response.rendered
        server_headers = self._callbacks.rendered_headers(self.server_state.default_headers)
        closing = b"" if direct.keep_alive else b"connection: close\r\n"
        request_id = direct.request_id.encode()
        self._socket.write(b"%b%brequest-id: %b\r\n%b%b" % (start, server_headers, request_id, closing, end))
        if not direct.keep_alive:
            self._close()
        self.on_response_complete()

    def _close_after_responses(self) -> None:
        """Read nothing more, and close when the earlier requests are answered."""
        self._reading_stopped = True
        self._tracker.metrics.connection_closed(self._stop_reason)
        self.cycle.keep_alive = False
        self.flow.pause_reading()

    def _respond_and_close(self, response: bytes, reason: CloseReason) -> None:
        """Read nothing more, write this response and close; only close if another response is due first."""
        self._reading_stopped = True
        self._tracker.metrics.connection_closed(reason)
        if self._busy():
            self._abort()
            return
        headers = self.headers if self._in_head and self.headers else ()
        self._socket.write(response + _CLOSING_HEADERS % request_ids.of(headers).encode())
        self._body_complete = False
        self._close()

    def _close(self) -> None:
        """Close the connection; if the client still sends, close only relay's side and wait up to `linger_s`.

        Closing a socket with unread bytes resets it, and the reset can overtake the response.
        """
        if self._lingering or self._socket.is_closing():
            return
        if self._body_complete:
            if self._socket.get_write_buffer_size():
                self._start_write_deadline()
            self._socket.close()
            return
        self._reading_stopped = self._lingering = True
        if self._socket.can_write_eof():
            self._socket.write_eof()
        self._socket.resume_reading()
        self._stop_timer()
        self._timer = self.loop.call_later(self._limits.linger_s, self._abort_because, CloseReason.LINGER)

    def _is_closing(self) -> bool:
        """Return whether no further response will be written."""
        return self._lingering or self._socket.is_closing()

    def _count_discarded(self, data: bytes) -> None:
        """Discard bytes that arrive after the last response, up to `linger_max_bytes`."""
        self._lingered_bytes += len(data)
        if self._lingered_bytes > self._limits.linger_max_bytes:
            self._abort_because(CloseReason.LINGER_MAX_BYTES)

    def _abort_because(self, reason: CloseReason) -> None:
        """Close immediately and count why."""
        self._tracker.metrics.connection_closed(reason)
        self._abort()

    def _start_write_deadline(self) -> None:
        """Close the connection `write_deadline_s` from now, unless the timer is stopped first."""
        self._stop_timer()
        delay_s = self._limits.write_deadline_s
        self._timer = self.loop.call_later(delay_s, self._abort_because, CloseReason.WRITE_DEADLINE)

    def _stop_timer(self) -> None:
        """Stop the write or linger deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
