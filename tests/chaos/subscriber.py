"""A subscriber that answers well, badly or not at all, and notes what it received and what it accepted."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from tests.chaos.manifest import Notification

SLOW_S: Final = 0.3
HANG_S: Final = 30.0
BAD: Final = ("500", "503", "429", "302", "cut", "cut_answer", "slow", "hang", "garbage", "long")
_WORDS: Final = {
    "500": "Internal Server Error",
    "503": "Service Unavailable",
    "429": "Too Many Requests",
    "302": "Found",
}
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LONG: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n" + b"x" * 400_000


class Subscriber:
    """Endpoints by their path, which is their name until relay has given them an id.

    `failing` is the share of answers that are wrong, until `well` is set.
    """

    def __init__(self, failing: float, luck: random.Random) -> None:
        self.received: list[tuple[str, tuple[dict[str, str], bytes, bool]]] = []
        self.well = False
        self._failing = failing
        self._luck = luck
        self._tasks: set[asyncio.Task[None]] = set()

    def notifications(self, ids: dict[str, str]) -> list[Notification]:
        """Return what was received; `ids` has the endpoint's id of each path."""
        return [Notification(ids.get(path, path), *rest) for path, rest in self.received]

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._served(reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether another may follow."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:]) if name}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        path = head[0].split(" ")[1]
        wrong = "" if self.well or self._luck.random() >= self._failing else self._luck.choice(BAD)
        if wrong == "slow":
            await asyncio.sleep(SLOW_S)
        if wrong in ("", "slow", "long", "cut_answer"):
            self.received.append((path, (headers, body, True)))
            writer.write(LONG if wrong == "long" else OK[:30] if wrong == "cut_answer" else OK)
            await writer.drain()
            return wrong != "cut_answer"
        self.received.append((path, (headers, body, False)))
        if wrong == "hang":
            await asyncio.sleep(HANG_S)
        if wrong == "garbage":
            writer.write(b"\xff\xfe neither\r\n")
        if wrong in _WORDS:
            more = "retry-after: 1\r\n" if wrong in ("429", "503") else "location: http://127.0.0.1:9/\r\n"
            writer.write(f"HTTP/1.1 {wrong} {_WORDS[wrong]}\r\n{more}content-length: 0\r\n\r\n".encode())
        await writer.drain()
        return wrong in _WORDS

    async def close(self) -> None:
        """End what hangs."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def subscribing(subscriber: Subscriber, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yield the port on which the subscriber listens."""
    server = await asyncio.start_server(subscriber.connected, "127.0.0.1", 0, backlog=1024, ssl=context)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        with suppress(TimeoutError):
            await asyncio.wait_for(subscriber.close(), 2)
