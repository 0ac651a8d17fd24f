"""What relay calls, at next to no cost: a subscriber that notes when each notification came, and a provider.

The provider (EvoLink) takes every submission, and says of every job that it is completed.
"""

import asyncio
import json
import re
import ssl
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import uvloop

_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_TIMESTAMP = re.compile(rb'"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:)(\d\d)\.(\d{3})Z"')
_SENT = re.compile(rb"\?sent=([1-9]\d{18})")
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok"
_SUBMISSIONS, _TASKS = "/v1/videos/generations", "/v1/tasks/"
_RESULT = "https://cdn.example.com/videos/done.mp4"


class Receiver:
    """Latencies in milliseconds by path, from the sending of the callback or else the event's own time to its arrival.

    `/dead…` never answers; with `silent` no notification is answered. `ids` are the events that came, `per_second` how
    many came at a path in a second (unix).
    """

    def __init__(self) -> None:
        self.latencies_ms: dict[str, list[float]] = defaultdict(list)
        self.count = 0
        self.last_s = 0.0
        self.silent = False
        self.per_second: Counter[tuple[str, int]] = Counter()
        self.ids: set[bytes] = set()
        self._submitted = 0

    def answer(self, path: str, body: bytes) -> bytes | None:
        """Return the answer to a request, or None if there is none."""
        if path.startswith("/dead"):
            return None
        if path.startswith(_TASKS):
            done = {"id": path.removeprefix(_TASKS), "status": "completed", "progress": 100, "results": [_RESULT]}
            return _json(done)
        if path == _SUBMISSIONS:
            self._submitted += 1
            return _json({"id": f"task-unified-{self._submitted}", "status": "pending", "progress": 0})
        self.note(path, body)
        return None if self.silent else _ANSWER

    def note(self, path: str, body: bytes) -> None:
        """When it came, against the time in its body: both clocks are this machine's."""
        self.ids.add(body[:38])
        self.last_s = time.time()
        self.count += 1
        self.per_second[path, int(self.last_s)] += 1
        if sent := _SENT.search(body):
            self.latencies_ms[path].append(self.last_s * 1000 - int(sent[1]) / 1e6)
        elif stamp := _TIMESTAMP.search(body):
            told_s = int(stamp[2]) + int(stamp[3]) / 1000
            self.latencies_ms[path].append(((self.last_s % 60) - told_s) % 60 * 1000)


def _json(body: object) -> bytes:
    """Return an answer of JSON."""
    raw = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(raw), raw)


class _Connection(asyncio.Protocol):
    """One connection: requests, each with a length, one after another."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is none by its class

    def data_received(self, data: bytes) -> None:
        """Read a request, a part of one, or more than one."""
        self._held += data
        while True:
            end = self._held.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            length = _LENGTH.search(self._held, 0, end)
            whole = end + (int(length[1]) if length else 0)
            if len(self._held) < whole:
                return
            path, body = self._held[:end].split(b" ", 2)[1].decode(), self._held[end:whole]
            self._held = self._held[whole:]
            answer = self._receiver.answer(path, body)
            if answer is None:
                return
            self._transport.write(answer)


@asynccontextmanager
async def receiving(host: str = "127.0.0.1") -> AsyncIterator[tuple[Receiver, str]]:
    """Yield a receiver, and the origin at which it listens; with 0.0.0.0 at every address of 127.0.0.0/8."""
    receiver, loop = Receiver(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(receiver), host, 0, backlog=4096)
    try:
        yield receiver, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def main(port: int, pem: str | None, key: str | None) -> None:
    """Listen until it is ended."""
    context = None
    if pem and key:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem, key)
    receiver, loop = Receiver(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(receiver), "localhost", port, backlog=4096, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *(sys.argv[2:4] or (None, None))))
