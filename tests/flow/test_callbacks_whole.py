"""A callback that comes in one piece has a short way: what it gets and what is kept must not tell which way it came."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from relay.security.redaction import STEP_BYTES
from relay.web.callback_route import COMMIT_DEADLINE_S, DEADLINE_CHECK_S
from relay.web.server import server
from tests.support.calling_back import DONE, kept, state
from tests.support.quiescence import WatchedLoop, quiet, watched_loop
from tests.support.running import Running, relay

pytestmark = pytest.mark.anyio
LOOP = {"loop_factory": WatchedLoop}
RUNNING = b'{"status":"processing","progress":%d}'


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, confirm=False) as started:
        yield started


def request(url: str, body: bytes, *lines: str, version: str = "1.1") -> bytes:
    """Return a callback's request."""
    head = (f"POST {urlsplit(url).path} HTTP/{version}", "host: relay", f"content-length: {len(body)}", *lines)
    return "\r\n".join((*head, "", "")).encode() + body


async def sent(origin: str, *pieces: bytes, answers: int = 1) -> list[bytes]:
    """So many answers, each without its date and id; a piece is sent when the one before it has arrived."""
    at = urlsplit(origin)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found = []
    async with asyncio.timeout(60):
        for number, piece in enumerate(pieces):
            if number:
                await quiet()
            writer.write(piece)
            await writer.drain()
        for _ in range(answers):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
            found.append(re.sub(rb"(date|request-id): .*?\r\n", b"", head) + await reader.readexactly(length))
        writer.close()
    return found


@asynccontextmanager
async def watched(running: Running) -> AsyncIterator[tuple[str, list[str]]]:
    """Another server of the same relay: its origin, and the paths of the requests that went the long way."""
    paths: list[str] = []
    http = server(running.app, "127.0.0.1", 0)
    long_way: Any = http.config.app

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await long_way(scope, receive, send)

    http.config.app = app
    listening = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(http.serve(sockets=[listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", paths
    finally:
        http.should_exit = True
        await serving


async def test_only_what_is_special_goes_the_long_way(running: Running) -> None:
    """One piece is answered with neither task nor message of ASGI; pieces, other tokens, paths and methods are not."""
    await running.submit()
    url = running.callback_url()
    async with watched(running) as (origin, long_way):
        (whole,) = await sent(origin, request(url, RUNNING % 1))
        assert (whole[:15], long_way) == (b"HTTP/1.1 200 OK", [])
        for special in (
            request(f"{url}/", RUNNING % 2),
            request(url[:-1], RUNNING % 3),
            request(url, RUNNING % 4).replace(b"POST", b"PUT"),
            request(url, RUNNING % 5, version="1.0"),
        ):
            before = len(long_way)
            await sent(origin, special)
            assert len(long_way) == before + 1, special
    assert [one["verdict"] for one in await kept(running)] == ["recorded"] * 3


@pytest.mark.parametrize("more", [0, 1])
async def test_a_large_callback_goes_the_long_way(running: Running, more: int) -> None:
    """Handle a callback of STEP_BYTES directly; parse a larger one in a task, since it is searched in steps."""
    job = await running.submit()
    async with watched(running) as (origin, long_way):
        (answer,) = await sent(origin, request(running.callback_url(), DONE.ljust(STEP_BYTES + more)))
    assert (answer[:15], len(long_way)) == (b"HTTP/1.1 200 OK", more)
    assert await state(running, job) == "succeeded"


async def test_who_waits_to_be_told_to_go_on_is_told(running: Running) -> None:
    """A sender that asks before it sends its body gets 100, and 200 when it has sent it."""
    await running.submit()
    one = request(running.callback_url(), RUNNING % 1, "Expect: 100-continue")
    at = urlsplit(running.origin)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    async with asyncio.timeout(60):
        writer.write(one[: -len(RUNNING % 1)])
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(RUNNING % 1)
        assert (await reader.readuntil(b'{"received":true}')).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_requests_on_one_connection_are_answered_in_order(running: Running) -> None:
    """Three callbacks and a question, sent at once on one connection, are each answered, in their order."""
    job = await running.submit()
    url = running.callback_url()
    asked = b"GET /healthz HTTP/1.1\r\nhost: relay\r\n\r\n"
    pipelined = b"".join([request(url, RUNNING % 1), request(url, RUNNING % 2), asked, request(url, DONE)])
    answers = await sent(running.origin, pipelined, answers=4)
    assert [b'"received"' in answer for answer in answers] == [True, True, False, True]
    assert [one["verdict"] for one in await kept(running)] == ["recorded"] * 3
    assert await state(running, job) == "succeeded"


async def test_one_connection_takes_one_callback_after_another(running: Running) -> None:
    """A connection that is kept alive takes whole callbacks, cut ones and whole ones again."""
    await running.submit()
    url = running.callback_url()
    at = urlsplit(running.origin)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    async with asyncio.timeout(60):
        for number, cut in enumerate((0, 10, 0, -1, 0)):
            one = request(url, RUNNING % number)
            writer.write(one[:cut])
            await quiet()
            writer.write(one[cut:])
            assert (await reader.readuntil(b'{"received":true}')).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    assert len(await kept(running)) == 5


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_connection_that_is_not_kept_is_closed(running: Running, version: str) -> None:
    """After the answer to a request that asks for it the connection ends, and the answer says so."""
    await running.submit()
    at = urlsplit(running.origin)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    writer.write(request(running.callback_url(), RUNNING % 1, "connection: close", version=version))
    async with asyncio.timeout(60):
        answer = await reader.read()
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b'{"received":true}')
    writer.close()


async def test_a_sender_that_is_gone_is_heard(running: Running) -> None:
    """A provider that hangs up as soon as it has sent is heard like any other."""
    job = await running.submit()
    at = urlsplit(running.origin)
    with socket.create_connection((at.hostname, at.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # cut, not closed
        connection.sendall(request(running.callback_url(), DONE))
        await running.until("/v1/callbacks", lambda shown: bool(shown["data"]))
    assert await state(running, job) == "succeeded"
    assert (await sent(running.origin, request(running.callback_url(), DONE)))[0].startswith(b"HTTP/1.1 200")


def hold_commits(running: Running, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Semaphore, asyncio.Event]:
    """Let no transaction begin before the event is set; the semaphore counts the callbacks that wait for one."""
    database: Any = running.app.store.database
    jobs: Any = running.app.store.jobs
    record, received, let_go = jobs.record_nowait, asyncio.Semaphore(0), asyncio.Event()

    def noted(*update: Any) -> None:
        record(*update)
        received.release()

    def held(transact: Any) -> Any:
        async def waiting(work: Any) -> Any:
            await let_go.wait()
            return await transact(work)

        return waiting

    monkeypatch.setattr(jobs, "record_nowait", noted)
    for name in ("transact", "transact_apart"):  # what else is in its batch says which of them a callback goes by
        monkeypatch.setattr(database, name, held(getattr(database, name)))
    return received, let_go


async def test_a_database_that_hangs_is_503(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that takes too long is 503 with Retry-After, once; what it writes in the end stands."""
    job = await running.submit()
    received, let_go = hold_commits(running, monkeypatch)
    with watched_loop().time_held() as advance:
        answering = asyncio.create_task(sent(running.origin, request(running.callback_url(), DONE)))
        await received.acquire()
        advance(COMMIT_DEADLINE_S + DEADLINE_CHECK_S)
        (answer,) = await answering
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 2\r\n" in answer
    let_go.set()
    await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")


async def test_a_failure_after_the_commit_is_answered_to_its_own_callback(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answer 500 to the callback of a batch whose result cannot be published, and 200 to the others of the batch."""
    await running.submit()
    received, let_go = hold_commits(running, monkeypatch)
    count, published = running.app.metrics.callback, 0

    def broken(*counted: Any) -> None:
        nonlocal published
        published += 1
        if published == 3:
            raise RuntimeError("a fault of relay")
        count(*counted)

    monkeypatch.setattr(running.app.metrics, "callback", broken)
    url = running.callback_url()
    answering = []
    for number in range(4):  # the first one's commit is held, so that the others share the next
        answering.append(asyncio.create_task(sent(running.origin, request(url, RUNNING % number))))
        await received.acquire()
    let_go.set()
    statuses = sorted(answer[9:12] for (answer,) in await asyncio.gather(*answering))
    assert statuses == [b"200", b"200", b"200", b"500"]
    assert len(await kept(running)) == 4


@pytest.fixture(scope="module")
def background(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Running]]:
    """One relay for all examples, in a thread of its own, since hypothesis runs plain functions only."""
    folder = tmp_path_factory.mktemp("whole")
    started = relay(folder, confirm=False, RELAY_CALLBACKS_PER_JOB_MAX="100000", RELAY_RATE_PER_KEY="0")
    with start_blocking_portal("asyncio", LOOP) as portal, portal.wrap_async_context_manager(started) as running:
        portal.call(running.submit)
        yield portal, running


@given(st.data())
def test_however_it_is_cut_it_is_the_same(background: tuple[Any, Running], data: st.DataObject) -> None:
    """Wherever a request is cut, chunked or not, its answer is that of the whole one, and so is what is kept."""
    portal, running = background
    body = data.draw(st.sampled_from([RUNNING % 5, DONE, b"", b"{", b"\x00\xff", b" " * 4000 + DONE]))
    lines = data.draw(st.lists(st.sampled_from(["x-a: 1", "content-encoding: gzip", "user-agent: p"]), unique=True))
    one = request(running.callback_url(), body, *lines)
    if data.draw(st.booleans()):
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:3], body[3:]) if part)
        head = one[: one.index(b"\r\n\r\n")].replace(b"content-length: %d" % len(body), b"transfer-encoding: chunked")
        one = head + b"\r\n\r\n" + chunks + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(one) - 1), min_size=1, max_size=3)))
    pieces = [one[start:end] for start, end in zip([0, *cuts], [*cuts, len(one)], strict=True)]
    whole, cut = portal.call(partial(sent, running.origin, one)), portal.call(partial(sent, running.origin, *pieces))
    assert cut == whole
    second, first = portal.call(kept, running, 2)
    same = ("provider", "size", "headers", "body")
    assert [first[name] for name in same] == [second[name] for name in same]
