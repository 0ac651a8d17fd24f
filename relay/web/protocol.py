"""HTTP as uvicorn reads it, with a cap on headers, and a short way for a callback that came in one piece.

Most callbacks do: they are small. What is read already needs no task, no deadline for its body and no messages of ASGI;
it is handed on as it is, and answered when it is stored. Whatever is different in any way (cut into pieces, pipelined,
HTTP/1.0, another path) goes uvicorn's own way, which ends at the same callbacks.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from relay.web.callbacks import Answer

HEADERS_MAX_BYTES: Final = 64 * 1024
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
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


class Protocol(HttpToolsProtocol):
    """One connection."""

    _header_bytes = 0
    _in_headers = True
    _pieces: list[bytes] | None = None
    """The body of a callback that may be whole by the end of what is being read; else None."""

    def __init__(self, take: Take, **options: Any) -> None:
        super().__init__(**options)
        self._take = take

    def data_received(self, data: bytes) -> None:
        """Counts what comes in until the headers are whole: httptools accepts headers without end."""
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > HEADERS_MAX_BYTES + len(data) or len(data) > 16 * HEADERS_MAX_BYTES:
                self.transport.write(_TOO_LARGE)
                self.transport.close()
                return
        super().data_received(data)
        if self._pieces is not None:
            self._begin()

    def on_message_begin(self) -> None:
        """Another request begins."""
        self._in_headers, self._header_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, which come after the body, are nobody's, and would be kept without end."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """What follows is the body, which has its own cap."""
        self._in_headers = False
        if self._may_be_whole():
            self._pieces = []
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._pieces is None:
            super().on_body(body)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._pieces is not None:
            if self._answers(b"".join(self._pieces)):
                self._pieces = None
                return
            self._begin()
        super().on_message_complete()

    def _may_be_whole(self) -> bool:
        """Whether this is a callback of which nothing is special, on a connection that is not busy."""
        return (
            self.url.startswith(b"/callbacks/")
            and not self._busy()
            and not self.expect_100_continue
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
        )

    def _busy(self) -> bool:
        """Whether a request of this connection is not answered yet."""
        cycle: Cycle | RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _begin(self) -> None:
        """uvicorn's own way, with what was held back until here."""
        pieces, self._pieces = self._pieces or [], None
        super().on_headers_complete()
        for piece in pieces:
            super().on_body(piece)

    def _answers(self, body: bytes) -> bool:
        """Whether the callback was taken; the connection is busy until it is answered."""
        cycle = Cycle(self.parser.should_keep_alive())
        if not self._take(self.url, self.headers, body, partial(self._answer, cycle)):
            return False
        self.cycle = cycle  # type: ignore[assignment]  # it has what uvicorn looks at
        return True

    def _answer(self, cycle: Cycle, answer: Answer) -> None:
        """Writes the first answer, as uvicorn would, unless the sender is gone; then the connection is free again."""
        if cycle.response_complete or cycle.disconnected:
            return
        cycle.response_complete = True
        headers = [b"%b: %b\r\n" % header for header in self.server_state.default_headers]
        closing = b"" if cycle.keep_alive else b"connection: close\r\n"
        head, body = _rendered(answer)
        self.transport.write(b"".join([STATUS_LINE[answer.status], *headers, head, closing, b"\r\n", body]))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


@lru_cache(16)
def _rendered(answer: Answer) -> tuple[bytes, bytes]:
    """The answer's own headers, and its body."""
    return b"".join([b"%b: %b\r\n" % header for header in answer.headers]), answer.body
