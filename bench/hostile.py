"""What a stranger or another tenant does to a relay, from a process of its own: `python -m bench.hostile NAME`.

The first line of standard input is JSON: `origin`, `key`, `callback` (a job's callback path), `job`. A line on standard
output says that the load has begun; it ends when standard input does. Each load is bounded in time and bytes, is cheap
to make, and goes to 127.0.0.1 alone.
"""

import http.client
import json
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

CHUNK: Final = b" " * 65_536
TABS: Final = 20
LONGEST_S: Final = 120
SLOW_ENDPOINTS: Final = 150
SKIMMING_STREAMS: Final = 20
SLOW_READERS: Final = 100
SLOW_BYTES: Final = 512
LARGE_UPLOAD_BYTES: Final = 20_000_000
FILLINGS: Final = 20
"""Callbacks of nearly 1 MB: more than a job keeps."""
BODY: Final = {
    "provider": "evolink",
    "input": {"images": ["https://example.com/a.png"], "prompt": "slow push in [sandbox: lost]", "duration_s": 5},
}


class Target:
    """The relay, when to stop, and what the load holds until then."""

    def __init__(self, given: dict[str, Any]) -> None:
        at = urlsplit(given["origin"])
        self.address = (at.hostname or "", at.port or 80)
        self.key, self.job, self.callback = given["key"], given["job"], given["callback"]
        self.held: list[socket.socket] = []
        self.endpoints: list[str] = []
        self._over = threading.Event()
        longest = threading.Timer(LONGEST_S, self._over.set)
        longest.daemon = True
        longest.start()

    @property
    def over(self) -> bool:
        """Whether the load is to end."""
        return self._over.is_set()

    def end(self) -> None:
        """End the load."""
        self._over.set()

    def pause(self, pause_s: float) -> None:
        """Wait, unless the load ends."""
        self._over.wait(pause_s)

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
            self.pause(pause_s)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request and return what its answer holds; null where that is no JSON."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            sent = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
            connection.request(method, path, sent, {"authorization": f"Bearer {self.key}"})
            answer = connection.getresponse().read()
            return json.loads(answer or b"null")
        finally:
            connection.close()


class Load(msgspec.Struct, frozen=True):
    """A load, from how many threads it comes, and what is done before it begins and after it ended."""

    run: Callable[[Target], None]
    threads: int = 1
    prepare: Callable[[Target], None] = lambda _: None
    clean: Callable[[Target], None] = lambda _: None


def nothing(to: Target) -> None:
    """No load: what the benchmark itself is unsure of."""
    to.pause(LONGEST_S)


def pipelining(to: Target) -> None:
    """Send requests without end on one connection, and read no answer."""
    while not to.over:
        with suppress(OSError), to.connect() as connection:
            while not to.over:
                connection.sendall(to.head("GET", "/healthz") * 200)
                to.pause(0.05)


def trailers(to: Target) -> None:
    """Send a chunked body whose trailers do not end."""
    while not to.over:
        with suppress(OSError), to.connect() as connection:
            connection.sendall(to.head("POST", to.callback, "transfer-encoding: chunked") + b"1\r\nx\r\n0\r\n")
            while not to.over:
                connection.sendall(b"x-a: " + CHUNK + b"\r\n")
                to.pause(0.05)


def idle(to: Target) -> None:
    """Half a head, 50 times a second, and the connections are kept."""
    while not to.over:
        with suppress(OSError):
            to.held.append(to.connect())
            to.held[-1].sendall(b"POST /v1/jobs HTT")
        to.pause(0.02)


def exponents(to: Target) -> None:
    """Send a callback of 1 MB of numbers that are slow to read."""
    to.send("POST", to.callback, b"[" + b"1e308," * 170_000 + b"1]", 0.25)


def refusals(to: Target) -> None:
    """Send a request of 250 KB in which everything is wrong."""
    wrong = json.dumps({"provider": "evolink", "input": {f"field{number}": 1 for number in range(12_000)}}).encode()
    to.send("POST", "/v1/jobs", wrong, 0.1)


def bodies(to: Target) -> None:
    """Bodies of 1 MiB that are never finished."""
    while not to.over:
        with suppress(OSError):
            to.held.append(to.connect())
            to.held[-1].sendall(to.head("POST", to.callback, "content-length: 1048576") + CHUNK * 15)
        to.pause(0.05)


def uploads(to: Target) -> None:
    """Send uploads that drip."""
    with suppress(OSError), to.connect() as connection:
        kind = "content-type: multipart/form-data; boundary=b"
        connection.sendall(to.head("POST", "/v1/files", kind, "content-length: 1000000") + b"--b\r\n")
        while not to.over:
            connection.sendall(b"x")
            to.pause(0.05)


def large_uploads(to: Target) -> None:
    """Upload a picture of 20 MB again and again, as fast as it is accepted."""
    start = b'--b\r\ncontent-disposition: form-data; name="provider"\r\n\r\nrelaydance\r\n--b\r\n'
    start += b'content-disposition: form-data; name="file"; filename="a.png"\r\ncontent-type: image/png\r\n\r\n'
    body = start + b"\x89PNG\r\n\x1a\n" + bytes(LARGE_UPLOAD_BYTES) + b"\r\n--b--\r\n"
    kind = "content-type: multipart/form-data; boundary=b"
    whole = to.head("POST", "/v1/files", kind, f"content-length: {len(body)}", "connection: close") + body
    while not to.over:
        with suppress(OSError), to.connect() as connection:
            for start_at in range(0, len(whole), len(CHUNK)):
                connection.sendall(whole[start_at : start_at + len(CHUNK)])
                if to.over:
                    return
            connection.settimeout(30)
            while connection.recv(1 << 16):
                pass
        to.pause(0.05)


def slow_readers(to: Target) -> None:
    """Open a hundred streams of all events, from the beginning, and read a few bytes of each ten times a second."""
    for _ in range(SLOW_READERS):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(1)
        connection.connect(to.address)
        connection.sendall(to.head("GET", "/v1/events/stream", "last-event-id: evt_0"))
        to.held.append(connection)
    while not to.over:
        for connection in to.held:
            with suppress(OSError):
                connection.recv(SLOW_BYTES, socket.MSG_DONTWAIT)
        to.pause(0.1)


def searches(to: Target) -> None:
    """Search and count in a history, in all the ways that read much of it."""
    paths = ("/v1/search?q=no-such-thing", "/v1/stats?from=-30d", "/v1/jobs?metadata[no]=such&limit=200")
    while not to.over:
        for path in paths:
            with suppress(OSError, ValueError, http.client.HTTPException):
                to.ask("GET", path)
            to.pause(0.02)


def streams(to: Target) -> None:
    """Streams of all events, from the beginning, that nobody reads."""
    while not to.over:
        with suppress(OSError):
            to.held.append(to.connect())
            to.held[-1].sendall(to.head("GET", "/v1/events/stream", "last-event-id: evt_0"))
        to.pause(0.05)


def filters(to: Target) -> None:
    """Ask for lists whose filters match nothing."""
    to.send("GET", "/v1/jobs?status=canceled&metadata[no]=such", b"", 0.02)


def skimming(to: Target) -> None:
    """Open streams from the beginning that wait for events of a type that never comes."""
    head = to.head("GET", "/v1/events/stream?type=job.canceled", "last-event-id: evt_0")
    for _ in range(SKIMMING_STREAMS):
        to.held.append(to.connect())
        to.held[-1].sendall(head)
    to.pause(LONGEST_S)


def replays(to: Target) -> None:
    """Read every event there is as fast as they come, again and again."""
    while not to.over:
        with suppress(OSError), to.connect() as connection:
            connection.sendall(to.head("GET", "/v1/events/stream", "last-event-id: evt_0"))
            while not to.over and connection.recv(1 << 16):
                pass


def status_checks(to: Target) -> None:
    """Ask about one job as fast as can be."""
    to.send("POST", f"/v1/jobs/{to.job}/status-checks", b"", 0.005)


def junk(to: Target) -> None:
    """Callbacks of one token that say nothing."""
    to.send("POST", to.callback, b'{"status":"?","progress":1}', 0.02)


def waits(to: Target) -> None:
    """Ask to wait for a job's end, and go away."""
    head = to.head("GET", f"/v1/jobs/{to.job}", "prefer: wait=25")
    while not to.over:
        with suppress(OSError), to.connect() as connection:
            connection.sendall(head)
            to.pause(0.02)


def fill_job(to: Target) -> None:
    """Store as many bytes of callbacks as one job keeps."""
    for number in range(FILLINGS):
        with suppress(OSError, ValueError):
            to.ask("POST", to.callback, json.dumps({"status": "?", "number": number, "text": "x" * 1_000_000}).encode())


def lists(to: Target) -> None:
    """List the callbacks of a job that was filled, and its timeline."""
    while not to.over:
        for path in ("/v1/callbacks?limit=200", f"/v1/jobs/{to.job}/timeline"):
            with suppress(OSError, ValueError, http.client.HTTPException):
                to.ask("GET", path)
            to.pause(0.02)


def bombs(to: Target) -> None:
    """Submit jobs to a provider whose answers inflate without end."""
    to.send("POST", "/v1/jobs", json.dumps(BODY | {"provider": "kinovi"}).encode(), 0.1)


def endpoints(to: Target) -> None:
    """Endpoints without end."""
    to.send("POST", "/v1/endpoints", b'{"url": "http://127.0.0.1:9/hook"}', 0.01)


def slow_endpoints(to: Target) -> None:
    """Make an event a second for endpoints that take a connection and never answer."""
    while not to.over:
        with suppress(OSError, ValueError, http.client.HTTPException):
            to.ask("POST", "/v1/jobs", BODY)
        to.pause(1)


def make_slow_endpoints(to: Target) -> None:
    """Listen, and make the endpoints."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    to.held.append(listening)

    def hold() -> None:
        with suppress(OSError):
            while True:
                to.held.append(listening.accept()[0])

    threading.Thread(target=hold, daemon=True).start()
    origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
    for number in range(SLOW_ENDPOINTS):
        to.endpoints.append(to.ask("POST", "/v1/endpoints", {"url": f"{origin}/{number}"})["id"])


def delete_endpoints(to: Target) -> None:
    """Delete every endpoint of the project, and with it what waits for it."""
    while found := to.ask("GET", "/v1/endpoints?limit=200")["data"]:
        for one in found:
            to.ask("DELETE", f"/v1/endpoints/{one['id']}")


def tabs(to: Target) -> None:
    """Keep the dashboard's jobs open and live in twenty tabs of a browser that reads them; it is not hostile."""
    connection = http.client.HTTPConnection(*to.address, timeout=30)
    form = urlencode({"key": to.key})
    connection.request("POST", "/signin", form, {"content-type": "application/x-www-form-urlencoded"})
    cookie = (connection.getresponse().getheader("set-cookie") or "").partition(";")[0]
    connection.close()
    with selectors.DefaultSelector() as open_tabs:
        for _ in range(TABS):
            to.held.append(to.connect())
            to.held[-1].sendall(to.head("GET", "/live/jobs?range=30d", f"cookie: {cookie}"))
            open_tabs.register(to.held[-1], selectors.EVENT_READ)
        while not to.over:
            for ready, _ in open_tabs.select(0.2):
                tab = to.held[to.held.index(ready.fileobj)]  # type: ignore[arg-type]
                if not tab.recv(1 << 20):
                    open_tabs.unregister(tab)
    for tab in to.held:
        tab.close()


LOADS: Final = {
    "nothing": Load(nothing),
    "pipelining": Load(pipelining, 4),
    "trailers": Load(trailers, 4),
    "idle": Load(idle, 4),
    "lists": Load(lists, 2, prepare=fill_job),
    "bombs": Load(bombs),
    "exponents": Load(exponents),
    "refusals": Load(refusals),
    "slow_endpoints": Load(slow_endpoints, prepare=make_slow_endpoints, clean=delete_endpoints),
    "filters": Load(filters, 2),
    "skimming": Load(skimming),
    "streams": Load(streams, 2),
    "slow_readers": Load(slow_readers),
    "searches": Load(searches, 2),
    "replays": Load(replays, 4),
    "uploads": Load(uploads, 8),
    "large_uploads": Load(large_uploads, 4),
    "status_checks": Load(status_checks, 2),
    "junk": Load(junk),
    "bodies": Load(bodies, 2),
    "endpoints": Load(endpoints, clean=delete_endpoints),
    "waits": Load(waits),
    "tabs": Load(tabs, prepare=fill_job),
}
FILLED: Final = frozenset({"filters", "searches", "skimming", "streams", "slow_readers", "replays"})
"""The loads that read a project with a history."""


def main() -> None:
    """Make the load until standard input ends."""
    load = LOADS[sys.argv[1]]
    target = Target(json.loads(sys.stdin.readline()))
    load.prepare(target)
    running = [threading.Thread(target=load.run, args=(target,), daemon=True) for _ in range(load.threads)]
    for thread in running:
        thread.start()
    print("begun", flush=True)
    sys.stdin.read()
    target.end()
    for thread in running:
        thread.join(2)
    load.clean(target)


if __name__ == "__main__":
    main()
