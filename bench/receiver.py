"""A subscriber that costs next to nothing: reads notifications off a socket, notes when each came, answers 200."""

import asyncio
import re
import ssl
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop

_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_TIMESTAMP = re.compile(rb'"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:)(\d\d)\.(\d{3})Z"')
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok"


class Receiver:
    """Latencies in milliseconds by path, from the event's own timestamp to its arrival; `/dead…` never answers."""

    def __init__(self) -> None:
        self.latencies_ms: dict[str, list[float]] = defaultdict(list)
        self.count = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                arrived_s = time.time()
                path = head.split(b" ", 2)[1].decode()
                if path.startswith("/dead"):
                    await asyncio.sleep(3600)
                self.note(path, body, arrived_s)
                writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def note(self, path: str, body: bytes, arrived_s: float) -> None:
        """When it came, against the second and millisecond in its body: both clocks are this machine's."""
        self.count += 1
        if stamp := _TIMESTAMP.search(body):
            told_s = int(stamp[2]) + int(stamp[3]) / 1000
            self.latencies_ms[path].append(((arrived_s % 60) - told_s) % 60 * 1000)


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, str]]:
    """A receiver, and the origin at which it listens."""
    receiver = Receiver()
    server = await asyncio.start_server(receiver.connected, "127.0.0.1", 0, backlog=4096)
    try:
        yield receiver, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def main(port: int, pem: str | None, key: str | None) -> None:
    """Listens until it is ended."""
    context = None
    if pem and key:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem, key)
    server = await asyncio.start_server(Receiver().connected, "localhost", port, backlog=4096, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *(sys.argv[2:4] or (None, None))))
