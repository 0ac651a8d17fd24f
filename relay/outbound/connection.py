"""One HTTP/1.1 connection to an endpoint: requests one after another, each answer read up to its bounds.

Parsing is httptools'; what is decided here is when an answer is over and what it is worth. Its status is what counts:
once the status line and the headers are there, a body that is too long, cut, late or framed wrongly is a note beside
it, and the connection is closed. Bytes that come while no request is under way are nobody's answer; they close it too.
"""

import asyncio
import select
from collections.abc import Callable
from typing import Final, cast

import httptools

RESPONSE_MAX_BYTES: Final = 16 * 1024
"""Of an answer's body so much is read."""
EXCERPT_BYTES: Final = 4 * 1024
"""And so much of it is kept."""
FRAMED_MAX_BYTES: Final = 8 * RESPONSE_MAX_BYTES
"""The body with its framing: chunk sizes, extensions and trailers take bytes that are no body."""
HEADERS_NOTED_BYTES: Final = 8 * 1024
"""Headers longer than this are remarked on: many other clients would refuse the answer."""
HEAD_MAX_BYTES: Final = 256 * 1024
"""Status line and headers, interim answers included; what is longer is no answer."""
INTERIM_MAX: Final = 32
"""Interim (1xx) answers before the one that counts."""

_SWITCHING: Final = 101
_WITHOUT_BODY: Final = frozenset({204, 304})


class Broke(Exception):
    """No answer came whole: `str` says in which way. `answered` tells whether a byte of one had come."""

    def __init__(self, words: str, *, answered: bool, late: bool = False) -> None:
        super().__init__(words)
        self.answered = answered
        self.late = late


class Response:
    """An answer: its status, the headers that relay reads, the start of its body, and what was odd about it."""

    __slots__ = ("body", "control", "note", "retry_after", "status")

    def __init__(self) -> None:
        self.status = 0
        self.retry_after: str | None = None
        self.control: str | None = None
        self.body = bytearray()
        self.note: str | None = None


class Connection(asyncio.Protocol):
    """An open connection; `lost` is called once, when it is none any more."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lost: Callable[["Connection"], None]) -> None:
        self.made_s = loop.time()
        self.idle_since_s = self.made_s
        self.used = False
        """Whether an answer came over it already."""
        self._loop = loop
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._readable: select.poll | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[Response] | None = None
        self._response = Response()
        self._clear()

    def _clear(self) -> None:
        """Nothing has come of the next answer."""
        self._came = 0
        self._framed = 0
        self._headers = 0
        self._body = 0
        self._interim = 0
        self._status_line = False
        self._head_ended = False
        self._ended = False
        self._extra = False
        self._sized = False
        self._keep = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for a request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is none by its class
        self._readable = select.poll()
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._parser = httptools.HttpResponseParser(self)
        # A status line that is one is enough; these read what many servers send, and none of them changes where the
        # answer ends.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_data_after_close=True
        )

    @property
    def is_open(self) -> bool:
        """Whether it has not been lost yet."""
        return self._transport is not None

    def usable(self) -> bool:
        """Whether another request may go over it: it is open, and nothing waits in it that nobody asked for."""
        transport, readable = self._transport, self._readable
        return transport is not None and readable is not None and not transport.is_closing() and not readable.poll(0)

    def exchange(self, request: bytes, deadline_s: float) -> "asyncio.Future[Response]":
        """Writes a request; the future has its answer, or Broke, by the deadline (the loop's time)."""
        assert self._waiter is None
        self._clear()
        self._response = Response()
        self._waiter = waiter = self._loop.create_future()
        if self._transport is None or self._transport.is_closing():
            self._fail("the connection was closed before a whole answer came")
        else:
            self._timer = self._loop.call_at(deadline_s, self._expire)
            self._transport.write(request)
        return waiter

    def close(self) -> None:
        """Closes it in an orderly way."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Closes it at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """A piece of the answer; the connection's end where nothing was asked."""
        parser = self._parser
        if self._waiter is None or parser is None:
            self.abort()
            return
        self._came += len(data)
        if self._head_ended:
            self._framed += len(data)
        broken = False
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            broken = True
        if self._ended:
            self._finish(self._odd(), reusable=self._keep and not broken and not self._extra)
        elif broken:
            self._stop("its framing is not HTTP", "the answer is not HTTP")
        elif self._body > RESPONSE_MAX_BYTES or self._framed > FRAMED_MAX_BYTES:
            self._finish(f"its body is longer than {RESPONSE_MAX_BYTES} bytes", reusable=False)
        elif self._interim > INTERIM_MAX:
            self._fail(f"more than {INTERIM_MAX} interim answers, and none that counts")
        elif not self._head_ended and self._came > HEAD_MAX_BYTES:
            self._fail(f"the answer's headers are longer than {HEAD_MAX_BYTES} bytes")

    def eof_received(self) -> None:
        """The other side sends no more: the transport closes, and `connection_lost` judges what there is."""

    def connection_lost(self, exc: Exception | None) -> None:
        """What has come is what there is."""
        self._transport = self._readable = self._parser = None
        if self._waiter is not None:
            if self._head_ended:
                whole = exc is None and not self._sized
                self._finish(None if whole else "its body was cut", reusable=False)
            else:
                reset = isinstance(exc, ConnectionResetError)
                self._fail(f"the connection was {'reset' if reset else 'closed'} before a whole answer came")
        self._lost(self)

    def _expire(self) -> None:
        """The deadline has come."""
        self._timer = None
        if self._waiter is None:
            return
        if self._head_ended:
            self._finish("its body did not end in time", reusable=False)
        else:
            self._fail("no answer", late=True)

    def _stop(self, note: str, words: str) -> None:
        """What came is no HTTP from here on: the status counts where there is one."""
        status = self._status()
        if self._status_line and (status >= 200 or status == _SWITCHING):
            self._response.status = status
            self._finish(note, reusable=False)
        else:
            self._fail(words)

    def _finish(self, note: str | None, *, reusable: bool) -> None:
        """The answer is there; the connection is kept if nothing speaks against it."""
        waiter, transport = self._waiter, self._transport
        self._settle()
        self._response.note = note
        if waiter is not None and not waiter.done():
            waiter.set_result(self._response)
        self.used = True
        if transport is not None and transport.get_write_buffer_size():
            self.abort()  # an early answer: the rest of the request would wait for ever to be taken
        elif not reusable:
            self.close()

    def _fail(self, words: str, *, late: bool = False) -> None:
        """There is no answer, and there will be none over this connection."""
        waiter = self._waiter
        self._settle()
        if waiter is not None and not waiter.done():
            waiter.set_exception(Broke(words, answered=self._came > 0, late=late))
        self.abort()

    def _settle(self) -> None:
        """Nothing is under way any more."""
        self._waiter = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _odd(self) -> str | None:
        """What a whole answer has that it should not."""
        if self._body > RESPONSE_MAX_BYTES:
            return f"its body is longer than {RESPONSE_MAX_BYTES} bytes"
        if self._response.status in _WITHOUT_BODY and self._extra:
            return f"HTTP {self._response.status} has no body, but one came"
        if self._extra:
            return "more came than one answer"
        if self._headers > HEADERS_NOTED_BYTES:
            return f"its headers are longer than {HEADERS_NOTED_BYTES} bytes"
        return None

    def _status(self) -> int:
        """The status as far as it was read; 0 for none."""
        return int(self._parser.get_status_code()) if self._parser is not None else 0

    # What httptools calls, within `feed_data`.

    def on_message_begin(self) -> None:
        """The first byte of an answer; of a second one, too."""
        if self._ended:
            self._extra = True

    def on_status(self, _: bytes) -> None:
        """There is a status line."""
        self._status_line = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps what relay reads; a trailer is none of it."""
        if self._ended or self._head_ended:
            return
        length = len(name)
        self._headers += length + len(value) + 4
        if length == 11 and name.lower() == b"retry-after":
            self._response.retry_after = value.decode("latin-1")
        elif length == 16 and name.lower() == b"webhook-delivery":
            self._response.control = value.decode("latin-1").strip().lower() or None
        elif (length == 14 and name.lower() == b"content-length") or (length == 17 and b"chunked" in value.lower()):
            self._sized = True  # 17: transfer-encoding

    def on_headers_complete(self) -> None:
        """The head is whole: of an interim answer nothing is kept, any other one counts."""
        if self._ended:
            return
        status = self._status()
        if status < 200 and status != _SWITCHING:
            self._interim += 1
            self._headers = 0
            self._status_line = self._sized = False
            self._response.retry_after = self._response.control = None
            return
        self._status_line = self._head_ended = True
        self._response.status = status

    def on_body(self, body: bytes) -> None:
        """Counts it, and keeps its start."""
        if self._ended:
            return
        room = EXCERPT_BYTES - self._body
        if room > 0:
            self._response.body += body[:room]
        self._body += len(body)

    def on_message_complete(self) -> None:
        """The answer's end, unless it was an interim one."""
        if self._head_ended and not self._ended:
            self._ended = True
            self._keep = self._parser is not None and bool(self._parser.should_keep_alive())
