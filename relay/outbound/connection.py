"""One HTTP/1.1 connection to an endpoint: sequential requests, each response read up to fixed limits.

httptools parses; this module decides when a response ends and whether the connection can be reused. The status decides
the outcome: once the headers are complete, a body that is too long, truncated, late or badly framed only adds a note,
and the connection is closed. Bytes received while no request is under way close the connection too.
It does not retry, resolve names or open sockets.
"""

import asyncio
import select
from collections.abc import Callable
from time import perf_counter
from typing import Final, cast

import httptools

from relay.model.exchange import HEADERS_MAX_BYTES

RESPONSE_MAX_BYTES: Final = 16 * 1024
"""Limit of a response's body; reading stops beyond it."""
EXCERPT_BYTES: Final = 4 * 1024
"""The part of the body that is kept."""
FRAMING_FACTOR: Final = 8
"""Limit of the body with its framing (chunk sizes, extensions and trailers), as a multiple of the body's limit."""
HEADERS_NOTED_BYTES: Final = 8 * 1024
"""Longer headers are noted: many other clients would refuse the response."""
HEAD_MAX_BYTES: Final = 256 * 1024
"""Limit of status line and headers, interim responses included; a longer head fails the request."""
INTERIM_MAX: Final = 32
"""Limit of interim (1xx) responses before the final one."""

_SWITCHING: Final = 101
_WITHOUT_BODY: Final = frozenset({204, 304})


class ExchangeFailed(Exception):
    """There is no usable response; `str()` is the reason.

    `started` is True if a byte of a response was received, `timed_out` if the deadline passed.
    """

    def __init__(self, reason: str, *, started: bool, timed_out: bool = False) -> None:
        super().__init__(reason)
        self.started = started
        self.timed_out = timed_out


class Response:
    """A response: status, the headers that relay reads, the start of the body, and a note about any irregularity.

    `size` is the body's length in bytes as far as it was read, and `whole` says that it was read to its end. `lines` is
    the start of the headers as they came, and `wait_s` the time from the request until the first byte.
    """

    __slots__ = ("body", "control", "headers", "lines", "note", "retry_after", "size", "status", "wait_s", "whole")

    def __init__(self) -> None:
        self.status = 0
        self.retry_after: str | None = None
        self.control: str | None = None
        self.headers: dict[str, str] | None = None
        self.lines: list[bytes] = []
        self.wait_s = 0.0
        self.body = bytearray()
        self.size = 0
        self.whole = False
        self.note: str | None = None


class Connection(asyncio.Protocol):
    """An open connection; `on_closed` is called once, when the connection has closed.

    `made_s` and `idle_since_s` are times of the loop's clock. A subclass may have other limits of a response's body, in
    bytes, and keep other headers.
    """

    body_max_bytes = RESPONSE_MAX_BYTES
    kept_bytes = EXCERPT_BYTES
    lines_bytes = HEADERS_MAX_BYTES

    def __init__(self, loop: asyncio.AbstractEventLoop, on_closed: Callable[["Connection"], None]) -> None:
        self.made_s = loop.time()
        self.idle_since_s = self.made_s
        self._loop = loop
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._readable: select.poll | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._response = Response()
        self._sent_s = 0.0
        self._reset()

    def _reset(self) -> None:
        """Reset the parse state for the next response; the first five are numbers of bytes or responses."""
        self._received_bytes = 0
        self._framed_bytes = 0
        self._header_bytes = 0
        self._body_bytes = 0
        self._interim_count = 0
        self._has_status_line = False
        self._head_ended = False
        self._ended = False
        self._has_extra_bytes = False
        self._has_length = False
        self._keep_alive = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Prepare for the first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transport does not subclass asyncio's
        self._readable = select.poll()
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._parser = httptools.HttpResponseParser(self)
        # Many servers send these irregularities, and none of them changes where the response ends.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_data_after_close=True
        )

    @property
    def is_open(self) -> bool:
        """True until the connection has closed."""
        return self._transport is not None

    @property
    def is_closing(self) -> bool:
        """True from the moment on when the connection begins to close."""
        return self._transport is None or self._transport.is_closing()

    def is_usable(self) -> bool:
        """Return whether another request may be sent: the connection is open and has no unread bytes."""
        transport, readable = self._transport, self._readable
        return transport is not None and readable is not None and not transport.is_closing() and not readable.poll(0)

    def exchange(self, request: bytes, deadline_s: float) -> "asyncio.Future[Response]":
        """Write a request; the future has its response or ExchangeFailed by the deadline (the loop's clock)."""
        assert self._waiter is None
        self._reset()
        self._response = Response()
        self._waiter = waiter = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            self._fail("the connection was closed before a whole answer came")
        else:
            self._timer = self._loop.call_at(deadline_s, self._expire)
            self._transport.write(request)
            self._sent_s = perf_counter()  # a loop may stop its own clock for a turn
        return waiter

    def close(self) -> None:
        """Close the connection after the buffered bytes are written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection immediately and drop the buffered bytes."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse a part of the response; close the connection if no request is under way."""
        parser = self._parser
        if self._waiter is None or parser is None:
            self.abort()
            return
        if not self._received_bytes:
            self._response.wait_s = perf_counter() - self._sent_s
        self._received_bytes += len(data)
        if self._head_ended:
            self._framed_bytes += len(data)
        broken = False
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            broken = True
        if self._ended:
            self._finish(self._irregularity(), reusable=self._keep_alive and not broken and not self._has_extra_bytes)
        elif broken:
            self._finish_malformed()
        elif self._body_bytes > self.body_max_bytes or self._framed_bytes > FRAMING_FACTOR * self.body_max_bytes:
            self._finish(f"its body is longer than {self.body_max_bytes} bytes", reusable=False)
        elif self._interim_count > INTERIM_MAX:
            self._fail(f"more than {INTERIM_MAX} interim answers, and none that counts")
        elif not self._head_ended and self._received_bytes > HEAD_MAX_BYTES:
            self._fail(f"the answer's headers are longer than {HEAD_MAX_BYTES} bytes")

    def eof_received(self) -> None:
        """Let the transport close; `connection_lost` then ends the response."""

    def connection_lost(self, exc: Exception | None) -> None:
        """End the response under way with the bytes received so far, and report the close."""
        self._transport = self._readable = self._parser = None
        if self._waiter is not None:
            if self._head_ended:
                self._ended = exc is None and not self._has_length
                self._finish(None if self._ended else "its body was cut", reusable=False)
            else:
                reset = isinstance(exc, ConnectionResetError)
                self._fail(f"the connection was {'reset' if reset else 'closed'} before a whole answer came")
        self._on_closed(self)

    def _expire(self) -> None:
        """End the request under way at its deadline."""
        self._timer = None
        if self._waiter is None:
            return
        if self._head_ended:
            self._finish("its body did not end in time", reusable=False)
        else:
            self._fail("no answer", timed_out=True)

    def _finish_malformed(self) -> None:
        """End a response that stopped being HTTP: its status counts if it was received, else the request fails."""
        status = self._status()
        if self._has_status_line and (status >= 200 or status == _SWITCHING):
            self._response.status = status
            self._finish("its framing is not HTTP", reusable=False)
        else:
            self._fail("the answer is not HTTP")

    def _finish(self, note: str | None, *, reusable: bool) -> None:
        """Resolve the request with its response; close the connection unless it is reusable."""
        waiter, transport = self._waiter, self._transport
        self._clear_request()
        self._response.note, self._response.size, self._response.whole = note, self._body_bytes, self._ended
        if waiter is not None and not waiter.done():
            waiter.set_result(self._response)
        if transport is not None and transport.get_write_buffer_size():
            self.abort()  # an early response: the server may never read the rest of the request
        elif not reusable:
            self.close()

    def _fail(self, reason: str, *, timed_out: bool = False) -> None:
        """Fail the request with ExchangeFailed and close the connection."""
        waiter = self._waiter
        self._clear_request()
        if waiter is not None and not waiter.done():
            waiter.set_exception(ExchangeFailed(reason, started=self._received_bytes > 0, timed_out=timed_out))
        self.abort()

    def _clear_request(self) -> None:
        """Forget the request under way and its timer."""
        self._waiter = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _irregularity(self) -> str | None:
        """Return what is irregular about a complete response, or None."""
        if self._body_bytes > self.body_max_bytes:
            return f"its body is longer than {self.body_max_bytes} bytes"
        if self._response.status in _WITHOUT_BODY and self._has_extra_bytes:
            return f"HTTP {self._response.status} has no body, but one came"
        if self._has_extra_bytes:
            return "more came than one answer"
        if self._header_bytes > HEADERS_NOTED_BYTES:
            return f"its headers are longer than {HEADERS_NOTED_BYTES} bytes"
        return None

    def _status(self) -> int:
        """Return the status code read so far, 0 if there is none."""
        return int(self._parser.get_status_code()) if self._parser is not None else 0

    # httptools calls these within `feed_data`.

    def on_message_begin(self) -> None:
        """Note bytes after the end of the response."""
        if self._ended:
            self._has_extra_bytes = True

    def on_status(self, _: bytes) -> None:
        """Note that the status line was received."""
        self._has_status_line = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers that relay reads; ignore trailers."""
        if self._ended or self._head_ended:
            return
        length = len(name)
        self._header_bytes += length + len(value) + 4
        if self._header_bytes <= self.lines_bytes:
            self._response.lines.append(b"%b: %b" % (name, value))
        if length == 11 and name.lower() == b"retry-after":
            self._response.retry_after = value.decode("latin-1")
        elif length == 16 and name.lower() == b"webhook-delivery":
            self._response.control = value.decode("latin-1").strip().lower() or None
        elif (length == 14 and name.lower() == b"content-length") or (length == 17 and b"chunked" in value.lower()):
            self._has_length = True  # 17: transfer-encoding

    def on_headers_complete(self) -> None:
        """Discard the headers of an interim response; record the status of a final one."""
        if self._ended:
            return
        status = self._status()
        if status < 200 and status != _SWITCHING:
            self._interim_count += 1
            self._header_bytes = 0
            self._has_status_line = self._has_length = False
            self._response.retry_after = self._response.control = self._response.headers = None
            self._response.lines.clear()
            return
        self._has_status_line = self._head_ended = True
        self._response.status = status

    def on_body(self, body: bytes) -> None:
        """Count the body's bytes and keep its start."""
        if self._ended:
            return
        free_bytes = self.kept_bytes - self._body_bytes
        if free_bytes > 0:
            self._response.body += body[:free_bytes]
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """End the response, unless it is an interim one."""
        if self._head_ended and not self._ended:
            self._ended = True
            self._keep_alive = self._parser is not None and bool(self._parser.should_keep_alive())
