"""What a stranger or another tenant does to a relay, from a process of its own: `python -m bench.hostile NAME < JSON`.

Standard input holds `origin`, `key`, `callback` (a job's callback path), `job` and `seconds`. Each load is bounded in
time and bytes, is cheap to make, and goes to 127.0.0.1 alone.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

CHUNK: Final = b" " * 65_536


class Target:
    """The relay, and when to stop."""

    def __init__(self, given: dict[str, Any]) -> None:
        at = urlsplit(given["origin"])
        self.address = (at.hostname or "", at.port or 80)
        self.key, self.job, self.callback = given["key"], given["job"], given["callback"]
        self.ends_at = time.monotonic() + given["seconds"]

    @property
    def over(self) -> bool:
        """Whether the load is to end."""
        return time.monotonic() >= self.ends_at

    def connect(self) -> socket.socket:
        """Return a connection that gives up after a second of nothing."""
        return socket.create_connection(self.address, timeout=1)

    def head(self, method: str, path: str, *lines: str) -> bytes:
        """Return a request's head, with the key."""
        every = (f"{method} {path} HTTP/1.1", "host: relay", f"authorization: Bearer {self.key}", *lines, "", "")
        return "\r\n".join(every).encode()

    def send(self, method: str, path: str, body: bytes, pause_s: float) -> None:
        """Send a request again and again, each on a connection of its own, and read its answer."""
        whole = self.head(method, path, f"content-length: {len(body)}", "connection: close") + body
        while not self.over:
            with suppress(OSError), self.connect() as connection:
                connection.sendall(whole)
                while connection.recv(1 << 20):
                    pass
            time.sleep(pause_s)


def pipelining(to: Target) -> None:
    """Send requests without end on one connection, and read no answer."""
    while not to.over:
        with suppress(OSError), to.connect() as connection:
            while not to.over:
                connection.sendall(to.head("GET", "/healthz") * 200)
                time.sleep(0.05)


def trailers(to: Target) -> None:
    """Send a chunked body whose trailers do not end."""
    while not to.over:
        with suppress(OSError), to.connect() as connection:
            connection.sendall(to.head("POST", to.callback, "transfer-encoding: chunked") + b"1\r\nx\r\n0\r\n")
            while not to.over:
                connection.sendall(b"x-a: " + CHUNK + b"\r\n")
                time.sleep(0.05)


def idle(to: Target) -> None:
    """Half a head, 50 times a second, and the connections are kept."""
    held: list[socket.socket] = []
    while not to.over:
        with suppress(OSError):
            held.append(to.connect())
            held[-1].sendall(b"POST /v1/jobs HTT")
        time.sleep(0.02)


def exponents(to: Target) -> None:
    """Send a callback of 1 MB of numbers that are slow to read."""
    to.send("POST", to.callback, b"[" + b"1e308," * 170_000 + b"1]", 0.25)


def refusals(to: Target) -> None:
    """Send a request of 250 KB in which everything is wrong."""
    wrong = json.dumps({"provider": "evolink", "input": {f"field{number}": 1 for number in range(12_000)}}).encode()
    to.send("POST", "/v1/jobs", wrong, 0.1)


def bodies(to: Target) -> None:
    """Bodies of 1 MiB that are never finished."""
    held: list[socket.socket] = []
    while not to.over:
        with suppress(OSError):
            held.append(to.connect())
            held[-1].sendall(to.head("POST", to.callback, "content-length: 1048576") + CHUNK * 15)
        time.sleep(0.05)


def uploads(to: Target) -> None:
    """Send uploads that drip."""
    with suppress(OSError), to.connect() as connection:
        kind = "content-type: multipart/form-data; boundary=b"
        connection.sendall(to.head("POST", "/v1/files", kind, "content-length: 1000000") + b"--b\r\n")
        while not to.over:
            connection.sendall(b"x")
            time.sleep(0.05)


def streams(to: Target) -> None:
    """Streams of events that nobody reads."""
    held: list[socket.socket] = []
    while not to.over:
        with suppress(OSError):
            held.append(to.connect())
            held[-1].sendall(to.head("GET", "/v1/events/stream", "last-event-id: evt_0"))
        time.sleep(0.05)


def filters(to: Target) -> None:
    """Ask for lists whose filters match nothing."""
    to.send("GET", "/v1/jobs?status=canceled&metadata[no]=such", b"", 0.02)


def status_checks(to: Target) -> None:
    """One job, asked about as fast as can be."""
    to.send("POST", f"/v1/jobs/{to.job}/status-checks", b"", 0.005)


def endpoints(to: Target) -> None:
    """Endpoints without end."""
    to.send("POST", "/v1/endpoints", b'{"url": "https://example.com/hook"}', 0.01)


LOADS: Final[dict[str, tuple[Callable[[Target], None], int]]] = {
    "pipelining": (pipelining, 4),
    "trailers": (trailers, 4),
    "idle": (idle, 4),
    "exponents": (exponents, 1),
    "refusals": (refusals, 1),
    "bodies": (bodies, 2),
    "uploads": (uploads, 8),
    "streams": (streams, 2),
    "filters": (filters, 2),
    "status_checks": (status_checks, 2),
    "endpoints": (endpoints, 1),
}
"""Each load, and from how many threads it comes."""


def main() -> None:
    """Make the load."""
    load, threads = LOADS[sys.argv[1]]
    target = Target(json.load(sys.stdin))
    running = [threading.Thread(target=load, args=(target,), daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(max(0.0, target.ends_at - time.monotonic()) + 2)


if __name__ == "__main__":
    main()
