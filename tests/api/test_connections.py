"""Limits of a client's connection: heads, trailers, pipelining, protocol upgrades, slow reading, idle connections."""

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from relay.web.connections import FILES_PER_CONNECTION, RECENTLY_IDLE_S, RESERVED_FILES, SWEEP_S
from relay.web.protocol import READ_MAX_HEADS
from relay.web.server import server
from tests.support.calling_back import DONE, kept, state
from tests.support.running import KEY, HeldClock, Running, http_client, relay

pytestmark = pytest.mark.anyio

AUTHORIZED = f"authorization: Bearer {KEY}"
HEAD_S = 0.3
HEAD_MAX_BYTES = 40_000
HEADERS_MAX = 100
PIPELINED_MAX = 3
LINGER_MAX_BYTES = 1 << 20
HUGE = b"GET / HTTP/1.1\r\nx-request-id: trace-4711\r\nx-a: " + b"1" * (READ_MAX_HEADS + 1) * HEAD_MAX_BYTES
READ_S = 0.02
"""relay runs in the same loop, so it has read what was sent before a timer set afterwards fires."""
OFFERS = {
    "h2c": ("upgrade: h2c", "connection: Upgrade, HTTP2-Settings", "http2-settings: AAMAAABkAAQCAAAAAAIAAAAA"),
    "websocket": ("Connection: Upgrade", "Upgrade: websocket"),
}


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Return uvloop, which relay runs on: unlike Python's loop it raises on a write to an aborted connection."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock, in which a head has 0.3 s and three connections may be open."""
    limits = {
        "RELAY_HEADER_DEADLINE_S": str(HEAD_S),
        "RELAY_CONNECTIONS_MAX": "3",
        "RELAY_WRITE_DEADLINE_S": "0.3",
        "RELAY_HEAD_MAX_BYTES": str(HEAD_MAX_BYTES),
        "RELAY_HEADERS_MAX": str(HEADERS_MAX),
        "RELAY_PIPELINED_MAX": str(PIPELINED_MAX),
        "RELAY_LINGER_MAX_BYTES": str(LINGER_MAX_BYTES),
    }
    async with relay(tmp_path, confirm=False, clock=HeldClock(), **limits) as started:  # type: ignore[arg-type]
        yield started


class Peer:
    """A client on one raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    async def send(self, *pieces: bytes) -> None:
        """Send each piece in its own packet, until relay closes the connection."""
        with suppress(ConnectionError):
            for piece in pieces:
                self._writer.write(piece)
                await self._writer.drain()
                await asyncio.sleep(0)  # relay, in the same loop, may read it

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Return the next answer's status, head and body."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        return int(head[9:12]), head, await self.reader.readexactly(int(length[1]) if length else 0)

    async def closed(self) -> bytes:
        """Return the remaining bytes when relay has closed the connection."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


@asynccontextmanager
async def peer(origin: str) -> AsyncIterator[Peer]:
    """Open a connection to relay; fail if it is used for over ten seconds."""
    at = urlsplit(origin)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        async with asyncio.timeout(60):
            yield Peer(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def request(method: str, path: str, *lines: str, body: bytes = b"") -> bytes:
    """Return a request's bytes."""
    length = [f"content-length: {len(body)}"] if body else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: relay", *lines, *length, "", ""]).encode() + body


async def metric(running: Running, line: str) -> bool:
    """Return whether /metrics has a line that begins so."""
    return any(shown.startswith(line) for shown in (await running.client.get("/metrics")).text.splitlines())


async def closed_by(running: Running, reason: str) -> bool:
    """Return whether relay closed exactly one connection for this reason."""
    return await metric(running, f'relay_connections_closed_total{{reason="{reason}"}} 1.0')


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("cut", [False, True])
async def test_an_offered_upgrade_is_ignored(running: Running, offer: str, chunked: bool, cut: bool) -> None:
    """Store the whole body of a callback that offers another protocol, and answer the next request."""
    job = await running.submit()
    path = urlsplit(running.callback_url()).path
    whole = request("POST", path, *OFFERS[offer], body=DONE)
    if chunked:
        head = request("POST", path, *OFFERS[offer], "transfer-encoding: chunked")
        whole = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(DONE), DONE)
    async with peer(running.origin) as sender:
        await sender.send(*((whole[:90], whole[90:-20], whole[-20:]) if cut else (whole,)))
        assert (await sender.answer())[0] == 200
        await sender.send(request("GET", "/healthz"))
        assert (await sender.answer())[0] == 200
    (callback,) = await kept(running)
    assert (callback["size"], callback["verdict"]) == (len(DONE), "recorded")
    assert await state(running, job) == "succeeded"


async def test_an_offer_does_not_hide_a_close(running: Running) -> None:
    """Close the connection after the answer if the request asked for that beside its offer."""
    async with peer(running.origin) as sender:
        await sender.send(request("GET", "/healthz", "connection: upgrade, close", "upgrade: h2c"))
        assert (await sender.answer())[0] == 200
        assert await sender.closed() == b""


async def test_an_offer_keeps_the_version(running: Running) -> None:
    """Close after the answer to an HTTP/1.0 request with an offer, as after one without."""
    asked = request("GET", "/healthz", "connection: upgrade", "upgrade: h2c").replace(b"HTTP/1.1", b"HTTP/1.0")
    async with peer(running.origin) as sender:
        await sender.send(asked)
        assert (await sender.answer())[0] == 200
        assert await sender.closed() == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"CONNECT a.example:443 HTTP/1.1\r\nhost: a.example\r\nx-request-id: trace-4711\r\n\r\n", 405),
        (HUGE, 431),
    ],
)
async def test_a_refused_head_has_a_request_id(running: Running, sent: bytes, status: int) -> None:
    """Send a request id also with an answer that comes from no route; the client's own if it was read."""
    async with peer(running.origin) as sender:
        await sender.send(sent)
        answered, head, _ = await sender.answer()
    found = re.search(rb"\r\nrequest-id: (\S+)\r\n", head)
    assert (answered, found is not None) == (status, True)
    assert found is not None
    assert found[1] == b"trace-4711" if status == 405 else found[1].startswith((b"req_", b"trace-4711"))


def head_of(number: int, length: int = 0) -> bytes:
    """Return a head with this many headers, or, with `length`, of that many bytes with four of syntax a header."""
    lines = [f"x-{place}: 1" for place in range(number - 1)]
    bare = len("/healthz") + len("host") + len("relay") + 4 + sum(len(line) + 2 for line in lines)
    return request("GET", "/healthz", *lines, *([f"x: {'1' * (length - bare - 5)}"] if length else []))


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("head", "bound"),
    [
        (head_of(HEADERS_MAX), None),
        (head_of(HEADERS_MAX + 1), "headers_max"),
        (head_of(HEAD_MAX_BYTES // 8), "headers_max"),
        (head_of(1, HEAD_MAX_BYTES), None),
        (head_of(1, HEAD_MAX_BYTES + 1), "head_max_bytes"),
    ],
)
async def test_a_head_has_its_limits(running: Running, head: bytes, bound: str | None, cut: bool) -> None:
    """Refuse a head with too many headers or bytes, in one read or several, and count it."""
    async with peer(running.origin) as sender:
        await sender.send(*((head[:3000], head[3000:]) if cut else (head,)))
        assert (await sender.answer())[0] == (431 if bound else 200)
        await sender.send(request("GET", "/healthz"))
        assert (await sender.closed() == b"") if bound else ((await sender.answer())[0] == 200)
    shown = [reason for reason in ("headers_max", "head_max_bytes", "not_http") if await closed_by(running, reason)]
    assert shown == ([bound] if bound else [])


async def test_a_disconnect_ends_every_request_of_a_connection(running: Running) -> None:
    """End a stream or a wait for a job when the client disconnects that pipelined another request behind it."""
    job = await running.submit()
    stream = request("GET", "/v1/events/stream", AUTHORIZED)
    held = request("GET", f"/v1/jobs/{job['id']}", AUTHORIZED, "prefer: wait=25")
    for first in (stream, held):
        async with peer(running.origin) as sender:
            await sender.send(first + request("GET", "/healthz"))
            while not (await metric(running, "relay_streams_open 1.0") or running.app.waiting.held):
                pass  # each request runs the loop
        async with asyncio.timeout(60):
            while await metric(running, "relay_streams_open 1.0") or running.app.waiting.held:
                pass


@pytest.mark.parametrize(
    "behind",
    [request("CONNECT", "other.example:443"), request("POST", "/v1/jobs", "transfer-encoding: chunked") + b"no size"],
)
async def test_a_cut_connection_is_not_written_to(running: Running, behind: bytes) -> None:
    """Store a callback whose connection is closed because of what followed it, and raise nothing after COMMIT."""
    await running.submit()
    raised: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    async with peer(running.origin) as sender:
        await sender.send(request("POST", urlsplit(running.callback_url()).path, body=DONE) + behind)
        assert await sender.closed() == b""
    await running.until("/v1/callbacks", lambda shown: len(shown["data"]) == 1)
    assert raised == []


async def test_a_tunnel_is_refused(running: Running) -> None:
    """Answer 405 to CONNECT, and close."""
    async with peer(running.origin) as sender:
        await sender.send(b"CONNECT other.example:443 HTTP/1.1\r\nhost: other.example\r\n\r\n")
        assert (await sender.answer())[0] == 405
        assert await sender.closed() == b""


@pytest.mark.parametrize("waiting", [PIPELINED_MAX, PIPELINED_MAX + 1])
async def test_some_requests_wait_behind_one(running: Running, waiting: int) -> None:
    """Answer one request and those allowed to wait behind it; read no further ones, and close after the answers."""
    job = await running.submit()
    held = request("GET", f"/v1/jobs/{job['id']}", AUTHORIZED, "prefer: wait=5")
    async with peer(running.origin) as sender:
        await sender.send(held + request("GET", "/healthz") * waiting)
        await metric(running, "")  # a request on another connection: what was sent before it is read
        await running.client.post(running.callback_url(), content=DONE)
        for _ in range(1 + PIPELINED_MAX):
            assert (await sender.answer())[0] == 200
        if waiting > PIPELINED_MAX:
            assert await sender.closed() == b""
            assert await closed_by(running, "pipelined_max")
        else:
            await sender.send(request("GET", "/healthz"))
            assert (await sender.answer())[0] == 200


async def test_trailers_have_an_end(running: Running) -> None:
    """Close a connection with endless trailers; read and drop those within the limit of a head."""
    await running.submit()
    path = urlsplit(running.callback_url()).path
    begun = request("POST", path, "transfer-encoding: chunked") + b"%x\r\n%b\r\n0\r\n" % (len(DONE), DONE)
    async with peer(running.origin) as sender:
        await sender.send(begun, b"x-a: 1\r\n" * 4000, b"\r\n")
        assert (await sender.answer())[0] == 200
    async with peer(running.origin) as sender:
        await sender.send(begun, *[b"x-a: " + b"1" * 8000 + b"\r\n"] * 60)
        assert await sender.closed() == b""
    found = await running.until("/v1/callbacks", lambda shown: len(shown["data"]) == 2)
    assert {callback["reason"] for callback in found["data"]} == {
        "now succeeded",
        "the connection was cut within the body",
    }
    assert all(len(callback["headers"]) < 5 for callback in found["data"])


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/jobs"), ("POST", "/v1/files"), ("POST", "/nowhere")])
async def test_an_early_answer_closes_the_connection(running: Running, method: str, path: str) -> None:
    """Answer without the body and with `connection: close`, and read a bounded rest of the body."""
    async with peer(running.origin) as sender:
        await sender.send(request(method, path, "content-length: 1000000000"))
        status, head, _ = await sender.answer()
        assert status in (401, 404)
        assert b"connection: close\r\n" in head
        await sender.send(*[b" " * 65536] * (2 * LINGER_MAX_BYTES // 65536))
        assert await sender.closed() == b""


@pytest.mark.parametrize("over", [0, 1])
async def test_a_client_lingers_for_a_bounded_number_of_bytes(running: Running, over: int) -> None:
    """Close at the byte over `RELAY_LINGER_MAX_BYTES` after an early answer, else after `RELAY_LINGER_S`."""
    async with peer(running.origin) as sender:
        await sender.send(request("POST", "/nowhere", "content-length: 1000000000"))
        assert (await sender.answer())[0] == 404
        await sender.send(b" " * (LINGER_MAX_BYTES + over))
        reason = "linger_max_bytes" if over else "linger_s"
        while not await closed_by(running, reason):  # noqa: ASYNC110 - what is awaited is behind HTTP
            await asyncio.sleep(0.01)
    assert not await closed_by(running, "linger_s" if over else "linger_max_bytes")


async def test_a_client_lingers_for_a_bounded_time(tmp_path: Path) -> None:
    """Close `RELAY_LINGER_S` after an answer that did not wait for the body, and not before."""
    async with relay(tmp_path, RELAY_LINGER_S="0.4") as running, peer(running.origin) as sender:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await sender.send(request("POST", "/nowhere", "content-length: 1000000000"))
        assert (await sender.answer())[0] == 404
        while not await closed_by(running, "linger_s"):
            await sender.send(b" ")
            await asyncio.sleep(0.01)  # the pace of the drip: the bound is in real time
        assert 0.4 <= loop.time() - began_s < 1.9


async def test_an_idle_connection_is_closed_in_time(tmp_path: Path) -> None:
    """Close a connection on which no next request begins within `RELAY_IDLE_S`, and not before."""
    async with relay(tmp_path, RELAY_IDLE_S="0.6") as running, peer(running.origin) as idle:
        loop = asyncio.get_running_loop()
        await idle.send(request("GET", "/healthz"))
        assert (await idle.answer())[0] == 200
        began_s = loop.time()
        assert await idle.closed() == b""
        assert 0.59 <= loop.time() - began_s < 0.6 + SWEEP_S + 0.5
        assert await closed_by(running, "idle_s")


@pytest.mark.parametrize("start", [b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nhost: relay\r\nx-a: 1"])
async def test_a_head_has_a_deadline(running: Running, start: bytes) -> None:
    """Close a connection whose first head is incomplete at the deadline, however much of it has arrived."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with peer(running.origin) as sender:
        await sender.send(start)
        assert await sender.closed() == b""
        assert loop.time() - began >= HEAD_S
    assert await closed_by(running, "header_deadline_s")


async def test_a_later_head_has_a_deadline_of_its_own(running: Running) -> None:
    """Count a second head's deadline from its first byte; keep an idle connection."""
    async with peer(running.origin) as sender, peer(running.origin) as idle:
        for one in (sender, idle):
            await one.send(request("GET", "/healthz"))
            assert (await one.answer())[0] == 200
        await sender.send(b"GET /healthz HTTP/1.1\r\n")
        assert await sender.closed() == b""
        await idle.send(request("GET", "/healthz"))
        assert (await idle.answer())[0] == 200


async def test_a_new_connection_evicts_an_idle_one(running: Running) -> None:
    """Evict the connection idle for longest for one over the limit, and none that is busy."""
    job = await running.submit()  # the client's own connection is the first of three
    async with peer(running.origin) as busy, peer(running.origin) as idle:
        await busy.send(request("GET", f"/v1/jobs/{job['id']}", AUTHORIZED, "prefer: wait=5"))
        await idle.send(request("GET", "/healthz"))
        assert (await idle.answer())[0] == 200
        async with peer(running.origin) as first, peer(running.origin) as second:
            for one in (first, second):
                await one.send(request("GET", "/healthz"))
                assert (await one.answer())[0] == 200
            assert await idle.closed() == b""
            assert running.app.metrics.value("relay_connections_closed", "evicted") == 2
        await running.client.post(running.callback_url(), content=DONE)
        assert (await busy.answer())[0] == 200


async def test_a_connection_over_the_limit_is_answered_503(running: Running) -> None:
    """Answer 503 to a new connection if every other one is busy with a request."""
    job = await running.submit()
    await running.client.aclose()
    held = request("GET", f"/v1/jobs/{job['id']}", AUTHORIZED, "prefer: wait=5")
    async with peer(running.origin) as one, peer(running.origin) as two, peer(running.origin) as three:
        for each in (one, two, three):
            await each.send(held)
        while running.app.waiting.held < 3:  # noqa: ASYNC110 - each peer has ten seconds
            await asyncio.sleep(0)
        async with peer(running.origin) as late:
            status, head, _ = await late.answer()
            assert (status, b"retry-after: 2\r\n" in head) == (503, True)
            assert await late.closed() == b""
    assert running.app.metrics.value("relay_connections_closed", "connections_max") == 1


async def test_a_body_without_progress_is_evicted(running: Running) -> None:
    """Evict the connection whose body made no progress for longest if none is idle, and store that it was cut."""
    job = await running.submit()
    callback = urlsplit(running.callback_url()).path
    await running.client.aclose()
    part = request("POST", callback, "content-length: 100") + b"x"
    async with peer(running.origin) as still, peer(running.origin) as moving, peer(running.origin) as busy:
        for each in (still, moving):
            await each.send(part)
            await asyncio.sleep(READ_S)
        await busy.send(request("GET", f"/v1/jobs/{job['id']}", AUTHORIZED, "prefer: wait=5"))
        await asyncio.sleep(READ_S)
        await moving.send(b"x")
        await asyncio.sleep(READ_S)
        async with peer(running.origin) as late:
            await late.send(request("POST", callback, body=DONE))
            assert (await late.answer())[0] == 200
            assert await still.closed() == b""
            await moving.send(b"x" * 98)
            assert (await moving.answer())[0] == 200
            assert (await busy.answer())[0] == 200
    async with http_client(running.origin) as client:
        shown = (await client.get("/v1/callbacks")).json()["data"]
    assert "the connection was cut within the body" in [one["reason"] for one in shown]


async def test_an_idle_connection_is_evicted_before_a_body(running: Running) -> None:
    """Evict a connection idle for a second before one whose body made no progress for longer."""
    await running.submit()
    await running.client.aclose()
    async with peer(running.origin) as still, peer(running.origin) as idle, peer(running.origin) as other:
        await still.send(request("POST", urlsplit(running.callback_url()).path, "content-length: 100") + b"x")
        await asyncio.sleep(READ_S)
        for each in (idle, other):
            await each.send(request("GET", "/healthz"))
            assert (await each.answer())[0] == 200
        await asyncio.sleep(RECENTLY_IDLE_S)  # the limit itself: connections go by the loop's own time
        async with peer(running.origin) as late:
            await late.send(request("GET", "/healthz"))
            assert (await late.answer())[0] == 200
            assert await idle.closed() == b""
            await still.send(b"x" * 99)
            assert (await still.answer())[0] == 200


async def test_an_answer_that_is_not_read_has_a_deadline(running: Running) -> None:
    """Close a connection whose client reads nothing of a long answer."""
    for _ in range(40):
        await running.submit(metadata={str(number): "x" * 70 for number in range(40)})
    http = server(running.app, "127.0.0.1", 0)
    with socket.socket() as listening, socket.socket() as client:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        serving = asyncio.create_task(http.serve(sockets=[listening]))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            await loop.sock_connect(client, listening.getsockname())
            await loop.sock_sendall(client, request("GET", "/v1/jobs?limit=200", AUTHORIZED))
            cut = 'relay_connections_closed_total{reason="write_deadline_s"} 1.0'
            while not await metric(running, cut):  # noqa: ASYNC110 - what is awaited is behind HTTP
                await asyncio.sleep(0.01)  # the write deadline is in real time
        http.should_exit = True
        await serving


@pytest.mark.parametrize(("given", "shown"), [("trace-4711.a_b", True), ("short", False), ("a b" * 9, False)])
async def test_every_answer_has_its_request_id(running: Running, given: str, shown: bool) -> None:
    """Send a request id with each answer, callbacks included; the client's own if it is well formed."""
    await running.submit()
    ids = set()
    for method, path in (("GET", "/v1/jobs"), ("GET", "/nowhere"), ("POST", running.callback_url())):
        answer = await running.client.request(method, path, content=DONE, headers={"x-request-id": given})
        ids.add(answer.headers["request-id"])
    assert ids == {given} if shown else all(one.startswith("req_") for one in ids) and len(ids) == 3


def test_the_limit_on_open_files_counts() -> None:
    """Allow as many connections as the limit on open files leaves, if that is less than the setting."""
    code = "from relay.web.connections import max_open; print(max_open(4096), max_open(10))"
    command = f"ulimit -n 256; exec {sys.executable} -c '{code}'"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str((256 - RESERVED_FILES) // FILES_PER_CONNECTION), "10"]


@pytest.mark.parametrize(
    "lines",
    [
        ["transfer-encoding: chunkmd"],
        ["transfer-encoding: gzip, chunked"],
        ["transfer-encoding: chunked, chunked"],
        ["transfer-encoding: chunked, identity"],
        ["transfer-encoding: identity"],
        ["transfer-encoding: chunked", "transfer-encoding: chunked"],
        ["transfer-encoding: chunked", "content-length: 5"],
        ["content-length: 5", "transfer-encoding: chunked"],
        ["content-length: 5", "content-length: 6"],
        ["content-length: 5", "content-length: 5"],
        ["content-length: +5"],
        ["content-length: 5, 5"],
        ["content-length: 0x5"],
        ["content-length : 5"],
        ["content-length: 99999999999999999999"],
        ["transfer-encoding : chunked"],
        ["transfer-encoding:\x0bchunked"],
        ["x: a\0b"],
        ["x: a\rtransfer-encoding: chunked"],
        ["x\x01y: a"],
        [": a"],
        ["no colon"],
    ],
)
async def test_a_request_that_can_be_framed_in_two_ways_is_refused(running: Running, lines: list[str]) -> None:
    """Answer 400 before a route runs, close, and read nothing of what a proxy may take for a second request."""
    hidden = request("POST", "/v1/keys", f"authorization: Bearer {KEY}", body=b'{"name":"hidden","scopes":["admin"]}')
    for method in ("POST", "DELETE", "GET"):
        asked = request(method, "/v1/jobs", f"authorization: Bearer {KEY}", *lines)
        async with peer(running.origin) as sender:
            await sender.send(asked + b"0\r\n\r\n" + hidden)
            assert (await sender.answer())[0] == 400
            assert await sender.closed() == b""
    assert (await running.client.get("/v1/keys")).json()["data"] == []
