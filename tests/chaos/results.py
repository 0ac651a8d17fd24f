"""The server of results: one for each job at its provider, which answers well, or badly for the first few requests."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Final

from tests.chaos.plan import Result
from tests.support.results import CLIP, head

LARGE_BYTES: Final = 9_000_000
"""More than relay writes to a bucket whole."""
DRIP_S, HANG_S = 0.5, 30.0
PIECE: Final = 65_536
PAGE: Final = b"<!DOCTYPE html><title>This result is gone</title>"
STATUSES: Final = {
    "forbidden": "403 Forbidden",
    "gone": "404 Not Found",
    "busy": "503 Service Unavailable",
    "limited": "429 Too Many Requests",
}


@cache
def body_of(marker: str, size: str) -> bytes:
    """Return the result of a job: a clip that no other job has; a large one is streamed by relay."""
    start = CLIP + marker.encode()
    return start + bytes(LARGE_BYTES - len(start)) if size == "large" else start


@cache
def digest_of(marker: str, size: str) -> str:
    """Return the SHA-256 of a result."""
    return hashlib.sha256(body_of(marker, size)).hexdigest()


class ResultServer:
    """Answers `/MARKER/ID.mp4` and the pictures of it; `planned` has the plan of each job's result by its marker."""

    def __init__(self, planned: Mapping[str, Result]) -> None:
        self.met: Counter[str] = Counter()
        """How many requests met each fault."""
        self._planned = planned
        self._asked: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            path = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split(" ")[1]
            await self._answer(path.partition("?")[0], writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        """Answer one request, as often badly as the plan says, for each of a job's results."""
        marker = path.split("/")[1]
        result = self._planned[marker]
        self._asked[path] += 1
        fault = result.fault if self._asked[path] <= result.times else ""
        self.met.update([fault] if fault else [])
        body = body_of(marker, result.size)
        if fault in STATUSES:
            writer.write(head(STATUSES[fault], "content-length: 0"))
        elif fault == "hang":
            await asyncio.sleep(HANG_S)
        elif fault == "page":
            writer.write(head("200 OK", f"content-length: {len(PAGE)}") + PAGE)
        elif fault == "too_large":
            writer.write(head("200 OK", "content-length: 90000000") + body)
        elif fault == "longer":
            writer.write(head("200 OK", f"content-length: {len(body) + 1}") + body)
        elif result.chunked:
            writer.write(head("200 OK", "transfer-encoding: chunked"))
            await self._send(writer, body, fault, b"%x\r\n%b\r\n")
            writer.write(b"" if fault == "cut" else b"0\r\n\r\n")
        else:
            writer.write(head("200 OK", f"content-length: {len(body)}"))
            await self._send(writer, body, fault, b"")

    async def _send(self, writer: asyncio.StreamWriter, body: bytes, fault: str, frame: bytes) -> None:
        """Send a body piece by piece: half of it where it is cut, and slower than relay waits where it is slow."""
        for at in range(0, len(body) // 2 if fault == "cut" else len(body), PIECE if fault != "slow" else 64):
            piece = body[at : at + (PIECE if fault != "slow" else 64)]
            writer.write(frame % (len(piece), piece) if frame else piece)
            await writer.drain()
            if fault == "slow":
                await asyncio.sleep(DRIP_S)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        """Yield the port on which it listens."""
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0, backlog=1024)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*self._tasks, return_exceptions=True), 2)
