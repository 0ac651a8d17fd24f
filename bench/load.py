"""Load of callbacks or jobs from a process of its own: raw requests over kept connections, one under way on each.

`python -m bench.load PORT CONNECTIONS RATE FILE`: posts each line of the file (a path, a tab, a JSON body) once, at
RATE a second (0: as fast as answers come), and prints one line of JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import cast

import msgspec
import uvloop

KEY = "bench-key-of-this-machine-alone"
"""relay's API key."""
NOT_YET = "0" * 19
"""Where a callback has this, it is sent with the time instead: unix nanoseconds."""


class Loaded(msgspec.Struct, frozen=True):
    """What a load did: answers by status, when it began (unix seconds), seconds in all, how late answers came."""

    statuses: dict[str, int]
    began_s: float
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        """Answers with 200 a second."""
        return self.statuses.get("200", 0) / self.seconds


class _Load:
    """The requests that are left, and the times of those that were answered."""

    def __init__(self, requests: deque[bytes], rate: float) -> None:
        self.requests = requests
        self.times_ms: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.open = 0
        self.began = time.perf_counter()
        self.done = asyncio.get_running_loop().create_future()
        self._rate = rate
        self._sent = 0

    def next(self) -> tuple[bytes | None, float]:
        """Return the next request, and the time at which it is to be sent."""
        if not self.requests:
            return None, 0.0
        self._sent += 1
        due = self.began + self._sent / self._rate if self._rate else time.perf_counter()
        return self.requests.popleft(), due


class _Connection(asyncio.Protocol):
    """One connection: a request, its answer, the next request."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._answer = b""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is none by its class
        self._load.open += 1
        self._next()

    def data_received(self, data: bytes) -> None:
        """Read an answer, or a part of one."""
        self._answer += data
        head, separator, body = self._answer.partition(b"\r\n\r\n")
        if not separator or len(body) < _length(head):
            return
        self._load.times_ms.append((time.perf_counter() - self._due) * 1000)
        self._load.statuses[head[9:12].decode()] += 1
        self._answer = b""
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End the load with the last connection."""
        self._load.open -= 1
        if not self._load.open and not self._load.done.done():
            self._load.done.set_result(None)

    def _next(self) -> None:
        """Send the next request at its time; what is late is counted from when it should have gone."""
        request, self._due = self._load.next()
        if request is None:
            self._transport.close()
            return
        early_s = self._due - time.perf_counter()
        if early_s > 0.0005:
            asyncio.get_running_loop().call_later(early_s, self._write, request)
        else:
            self._write(request)

    def _write(self, request: bytes) -> None:
        """Send it, with the time in it."""
        self._transport.write(request.replace(NOT_YET.encode(), b"%d" % time.time_ns(), 1))


def _length(head: bytes) -> int:
    """Return the length an answer says it has."""
    _, _, after = head.lower().partition(b"content-length:")
    return int(after.split(b"\r\n", 1)[0] or 0)


def request(port: int, path: str, body: bytes) -> bytes:
    """Return a request's bytes on the wire: a callback's as its provider sends it, the API's with the key."""
    key = f"authorization: Bearer {KEY}\r\n" if path.startswith("/v1/") else ""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nuser-agent: provider/1.0\r\naccept: */*\r\n{key}"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _main(port: int, connections: int, rate: float, path: Path) -> Loaded:
    """Post everything in the file."""
    lines = (line.split(b"\t", 1) for line in path.read_bytes().splitlines())  # noqa: ASYNC240
    load = _Load(deque(request(port, path.decode(), body) for path, body in lines), rate)
    loop = asyncio.get_running_loop()
    load.began, began_s = time.perf_counter(), time.time()
    for _ in range(connections):
        await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port)
    await load.done
    seconds, times_ms = time.perf_counter() - load.began, sorted(load.times_ms)
    return Loaded(
        statuses=dict(load.statuses),
        began_s=began_s,
        seconds=seconds,
        p50_ms=times_ms[len(times_ms) // 2],
        p99_ms=times_ms[len(times_ms) * 99 // 100],
    )


if __name__ == "__main__":
    loaded = uvloop.run(_main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])))
    print(json.dumps(msgspec.to_builtins(loaded)))
