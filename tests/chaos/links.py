"""A link: what stands between two programs and passes their bytes on, until it is told to go wrong.

refuse          connections are reset as they come
cut             every open connection is reset; new ones work
hang            connections are accepted and nothing is passed on; all of them are reset when the fault is over
half_open       as `hang`, but what hung stays open and silent for a while after the fault is over
lose_answers    requests arrive, and the connection is reset in place of the answer
slow            every piece is late
garble          the answer's first bytes are others: no HTTP, no TLS
forbid          each request is answered as S3 answers credentials that were revoked, and does not arrive
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

PIECE: Final = 65_536
SLOW_S: Final = 0.15
SILENT_S: Final = 2.0
GARBAGE: Final = b"\x00\xff\x15\x03 no protocol\r\n\r\n"
DENIAL: Final = b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'
FORBIDDEN: Final = b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\nconnection: close\r\n" + (
    b"content-length: %d\r\n\r\n" % len(DENIAL)
)
_STANDING: Final = ("hang", "half_open")


class Link:
    """One port that leads to the first of `targets()` that takes a connection."""

    def __init__(self, targets: Callable[[], Sequence[int]]) -> None:
        self.port = 0
        self.mode = ""
        self.harmed = 0
        self._targets = targets
        self._open: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._dead: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._healed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def go_wrong(self, mode: str) -> None:
        """Begin a fault; `harmed` counts the connections that it meets."""
        self.mode = mode
        self._healed.clear()
        if mode in ("cut", "refuse", "lose_answers", "garble", "forbid"):
            self.harmed += len(self._open)
            for pair in list(self._open):
                _reset(pair)
        if mode == "cut":
            self.mode = ""

    def heal(self) -> None:
        """End the fault."""
        former, self.mode = self.mode, ""
        if former in _STANDING:
            self._dead |= self._open
            delay_s = SILENT_S if former == "half_open" else 0.0
            asyncio.get_running_loop().call_later(delay_s, self._end_dead)
        self._healed.set()

    def _end_dead(self) -> None:
        """Reset what has hung."""
        for pair in self._dead:
            _reset(pair)
        self._dead.clear()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.mode:
                self.harmed += 1
            onward = None if self.mode == "refuse" else await self._onward()
            if onward is None:
                writer.transport.abort()
                return
            pair = (writer, onward[1])
            self._open.add(pair)
            try:
                await asyncio.gather(self._there(reader, pair), self._back(onward[0], pair))
            finally:
                self._open.discard(pair)
                self._dead.discard(pair)
                await _close(pair)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _onward(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return a connection to the first target that takes one; None if none does."""
        for port in self._targets():
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        return None

    async def _there(self, reader: asyncio.StreamReader, pair: tuple[asyncio.StreamWriter, ...]) -> None:
        """Pass requests on."""
        await self._pass(reader, pair, pair[1], answers=False)

    async def _back(self, reader: asyncio.StreamReader, pair: tuple[asyncio.StreamWriter, ...]) -> None:
        """Pass answers back."""
        await self._pass(reader, pair, pair[0], answers=True)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        pair: tuple[asyncio.StreamWriter, ...],
        writer: asyncio.StreamWriter,
        *,
        answers: bool,
    ) -> None:
        """Pass one direction on, piece by piece, as the mode says at that time."""
        try:
            while piece := await reader.read(PIECE):
                if self.mode in _STANDING or pair in self._dead:
                    self.harmed += answers
                    await asyncio.Event().wait()  # until the connection is reset
                if self.mode == "slow":
                    await asyncio.sleep(SLOW_S)
                if not answers and self.mode == "forbid":
                    self.harmed += 1
                    pair[0].write(FORBIDDEN + (b"" if piece.startswith(b"HEAD ") else DENIAL))
                    await pair[0].drain()
                    await _close(pair)
                    return
                if answers and self.mode == "lose_answers":
                    self.harmed += 1
                    _reset(pair)
                    return
                if answers and self.mode == "garble":
                    self.harmed += 1
                    writer.write(GARBAGE)
                    await writer.drain()
                    _reset(pair)
                    return
                writer.write(piece)
                await writer.drain()
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
        except OSError:
            _reset(pair)

    @property
    def carries(self) -> bool:
        """Return whether a connection is open."""
        return bool(self._open)

    async def close(self) -> None:
        """Reset everything."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # so that what was reset is closed before the loop ends


def _reset(pair: tuple[asyncio.StreamWriter, ...]) -> None:
    """Reset both ends of a connection."""
    for writer in pair:
        writer.transport.abort()


async def _close(pair: tuple[asyncio.StreamWriter, ...]) -> None:
    """Close both ends, and return when they have taken what was passed on."""
    for writer in pair:
        writer.close()
    try:
        await asyncio.gather(*(writer.wait_closed() for writer in pair), return_exceptions=True)
    except asyncio.CancelledError:
        _reset(pair)
        raise


@asynccontextmanager
async def link(targets: Callable[[], Sequence[int]]) -> AsyncIterator[Link]:
    """Yield a link on a port of its own."""
    made = Link(targets)
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0, backlog=1024)
    made.port = int(server.sockets[0].getsockname()[1])
    try:
        yield made
    finally:
        server.close()
        await made.close()
