"""Callbacks as they arrive: limits and deadlines of the body, other methods, and a database that takes nothing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from relay.storage.engine.sqlite import SQLite
from tests.support.calling_back import DONE, MP4, kept, post, state
from tests.support.running import Running, relay

pytestmark = pytest.mark.anyio


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock that waits for a body 0.2 seconds."""
    async with relay(tmp_path, confirm=False, RELAY_BODY_DEADLINE_S="0.2") as started:
        yield started


@asynccontextmanager
async def connected(running: Running, start: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a connection on which this much of a request was sent; everything on it must be over in five seconds."""
    at = urlsplit(running.origin)
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    try:
        async with asyncio.timeout(60):
            writer.write(start.replace("\n", "\r\n").encode())
            yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def head(url: str, *lines: str) -> str:
    """Return the head of a callback's request."""
    return "\n".join((f"POST {urlsplit(url).path} HTTP/1.1", "host: relay", *lines, "", ""))


async def test_a_bad_token_is_refused_before_its_body(running: Running) -> None:
    """The 404 comes at once although a terabyte was promised and nothing of it was sent."""
    await running.submit()
    async with connected(running, head(running.callback_url()[:-1], "content-length: 1000000000000")) as (reader, _):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404")
    assert await kept(running) == []


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_413_and_noted(running: Running, chunked: bool) -> None:
    """One byte over 1 MiB is 413, however it is sent; that it came is kept, and the job stays. 1 MiB itself is read."""
    job = await running.submit()

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 65536

    answer = await running.client.post(running.callback_url(), content=parts() if chunked else b" " * (2**20 + 1))
    assert answer.status_code == 413
    (callback,) = await kept(running)
    assert (callback["verdict"], "limit" in callback["reason"]) == ("unreadable", True)
    assert await state(running, job) == "submitted"
    assert (await post(running, DONE.ljust(2**20))).status_code == 200
    assert await state(running, job) == "succeeded"


async def test_a_chunked_body_needs_no_length(running: Running) -> None:
    """A body of unknown length, in pieces of a few bytes, is read whole."""
    job = await running.submit()

    async def parts() -> AsyncIterator[bytes]:
        for index in range(0, len(DONE), 5):
            yield DONE[index : index + 5]

    assert (await running.client.post(running.callback_url(), content=parts())).status_code == 200
    assert await state(running, job) == "succeeded"


@pytest.mark.parametrize("start", ["", '{"status":'])
async def test_a_slow_body_is_dropped_and_noted(running: Running, start: str) -> None:
    """A body that is not there in time ends the connection; that it began is kept, and the job stays."""
    job = await running.submit()
    async with connected(running, head(running.callback_url(), "content-length: 99") + start) as (reader, _):
        assert (await reader.read()).startswith(b"HTTP/1.1 408")
        assert reader.at_eof()
    (callback,) = await kept(running)
    assert (callback["verdict"], "slow" in callback["reason"]) == ("unreadable", True)
    assert await state(running, job) == "submitted"


async def test_a_cut_body_is_noted(tmp_path: Path) -> None:
    """A provider that hangs up within its body leaves a note."""
    async with relay(tmp_path, confirm=False) as running:
        await running.submit()
        async with connected(running, head(running.callback_url(), "content-length: 99") + "{") as (_, writer):
            await writer.drain()
        shown = await running.until("/v1/callbacks", lambda shown: bool(shown["data"]))
        assert "cut" in shown["data"][0]["reason"]


async def test_endless_headers_end(running: Running) -> None:
    """Headers beyond 64 KiB are cut off with a 431 or without a word, and the next request works."""
    job = await running.submit()
    answered = b""
    async with connected(running, head(running.callback_url()).rstrip("\n") + "\n") as (reader, writer):
        with suppress(ConnectionError):
            for number in range(8_000):
                writer.write(f"x-{number}: {'x' * 1000}\r\n".encode())
                await writer.drain()
        with suppress(ConnectionError):
            answered = await reader.read()
    assert answered == b"" or answered.startswith(b"HTTP/1.1 431")
    assert (await post(running, DONE)).status_code == 200
    assert await state(running, job) == "succeeded"


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 200), ("HEAD", 200), ("OPTIONS", 200), ("PUT", 405), ("PATCH", 405), ("DELETE", 405)],
)
async def test_only_a_post_is_a_callback(running: Running, method: str, status: int) -> None:
    """Probes get 200 and other methods 405, whatever the token; without effect, redirect or the token in it."""
    job = await running.submit()
    url = running.callback_url()
    for asked in (url, f"{url}/", f"{url}?challenge=1", f"{url[:-1]}", "/callbacks/"):
        answer = await running.client.request(method, asked, content=DONE)
        assert answer.status_code == status
        assert url.rpartition("/")[2][:20] not in f"{answer.headers}{answer.text}"
        assert ("allow" in answer.headers) == (status == 405)
    assert await kept(running) == []
    assert await state(running, job) == "submitted"


async def test_a_full_disk_is_503_and_nothing_is_lost(running: Running) -> None:
    """While the database takes nothing a callback is 503 with Retry-After; when it does again the retry counts."""
    database = running.app.store.database
    if not isinstance(database, SQLite):
        pytest.skip("a disk that is full is SQLite's own; tests/system/test_many_processes.py takes PostgreSQL away")
    job = await running.submit()
    body = json.dumps({"status": "completed", "results": [MP4], "padding": "x" * 900_000}).encode()
    ((pages,),) = await database.ask("PRAGMA page_count")
    await database.ask(f"PRAGMA max_page_count = {pages}")
    answer = await post(running, body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert await kept(running) == []
    assert await state(running, job) == "submitted"
    await database.ask("PRAGMA max_page_count = 1000000")
    assert (await post(running, body)).status_code == 200
    assert await state(running, job) == "succeeded"
