"""Streams as clients and commands read them: the position that the next connection names, and a 429 on the way."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import httpx
import pytest

from relay.cli.remote.connection import Profile, Remote
from relay.client import AsyncRelay, Relay, RelayError, aio, sync
from tests.support.running import KEY

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
Head = dict[str, str]
Answer = Callable[[int], bytes]
"""Returns what is sent on the connection of this number, the first being 0; it is closed behind that."""


def event(name: str) -> bytes:
    """Return the data of an event of this type."""
    return json.dumps({"id": "evt", "type": name, "timestamp": "2026-11-21T00:00:00.000Z", "data": {}}).encode()


ENDED = json.dumps(
    {
        "id": "evt_1",
        "type": "job.succeeded",
        "timestamp": "2026-11-21T00:00:00.000Z",
        "data": {"final": True, "job": {"id": "job_1"}},
    }
).encode()
"""The data of an event that ends a job."""
PARTS: list[tuple[bytes, str | None]] = [
    (b"id: evt_1\ndata: %b\n\n", "evt_1"),
    (b"id: evt\0_2\ndata: %b\n\n", "evt_1"),
    (b"data: %b\n\n", "evt_1"),
    (b"id: evt_4\n\ndata: %b\n\n", "evt_4"),
    (b"id: evt_\xc3\xa9\ndata: %b\n:\n\n", "evt_é"),
    (b"id: evt_6\rdata: %b\r\r", "evt_6"),
    (b"id\r\ndata: %b\r\n\r\n", None),
    (b"id: evt_8\ndata: %b\n\nid: evt_9\ndata: cut", "evt_8"),
]
"""What each connection sends, and the Last-Event-ID of the next one."""


@asynccontextmanager
async def streaming(answer: Answer) -> AsyncIterator[tuple[str, list[Head]]]:
    """Yield the origin of a server of streams, and the headers of each request to it."""
    heads: list[Head] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[1:-1]
        heads.append({name.lower(): value for name, _, value in (line.partition(": ") for line in lines)})
        writer.write(answer(len(heads) - 1))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads


def part(number: int) -> bytes:
    """Return the answer with a part of PARTS, of which the last one goes on for ever."""
    text = PARTS[min(number, len(PARTS) - 1)][0] % event(f"type {number}")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return head + b"retry: 1\n\n" + text


async def python(origin: str, number: int) -> list[str]:
    """Return the types of so many events, or the code of the refusal that ends the stream, by the client in Python."""
    found: list[str] = []
    async with AsyncRelay(origin, KEY) as client:
        try:
            async for one in client.stream(after="evt_0"):
                found.append(one.type)
                if len(found) == number:
                    break
        except RelayError as error:
            found.append(f"{error.code} {error.retry_after_s:g}")
    return found


async def javascript(folder: Path, origin: str, number: int) -> list[str]:
    """Return the same by the client in TypeScript."""
    script = ROOT / "tests" / "node" / "stream.mjs"
    pipe = asyncio.subprocess.PIPE
    node = await asyncio.create_subprocess_exec("node", script, folder, origin, str(number), stdout=pipe)
    printed, _ = await asyncio.wait_for(node.communicate(), 60)
    found: list[str] = json.loads(printed)
    return found


async def command_line(origin: str, number: int) -> list[str]:
    """Return the types of so many events, by what `relay tail` and `relay listen` read them with."""

    def read() -> list[str]:
        found: list[str] = []
        for one in Remote(Profile(origin, KEY)).events(after="evt_0"):
            if one is not None:
                found.append(json.loads(one[1])["type"])
            if len(found) == number:
                break
        return found

    return await asyncio.to_thread(read)


async def test_the_next_connection_names_the_position(compiled: Path) -> None:
    """Send Last-Event-ID as the standard says: ignore NUL, reset by an empty id, count nothing incomplete."""
    wanted = len(PARTS) + 1
    async with streaming(part) as (one, first), streaming(part) as (two, second), streaming(part) as (three, third):
        clients = (python(one, wanted), javascript(compiled, two, wanted), command_line(three, wanted))
        found = await asyncio.gather(*clients)
    assert list(found) == [[f"type {number}" for number in range(wanted)]] * 3
    positions = ["evt_0", *(after for _, after in PARTS)]
    for heads in (first, second, third):
        assert [head.get("last-event-id") for head in heads] == positions


async def test_a_stream_over_the_rate_is_asked_for_a_few_times(compiled: Path) -> None:
    """Wait as long as Retry-After says, four tries at most, and raise the refusal then."""
    body = json.dumps({"type": "", "title": "", "status": 429, "detail": "", "code": "too_many_requests"}).encode()
    lines = [b"HTTP/1.1 429 Too Many Requests", b"retry-after: 0", b"connection: close", b"", body]

    def refused(_: int) -> bytes:
        return b"\r\n".join(lines)

    async with streaming(refused) as (one, of_python), streaming(refused) as (two, of_js):
        found = await asyncio.gather(python(one, 1), javascript(compiled, two, 1))
    assert list(found) == [["too_many_requests 0"]] * 2
    assert (len(of_python), len(of_js)) == (4, 4)


def pauses_of_python(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the pauses that both clients in Python make from now on, in seconds; none takes any time."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(aio, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(sync, "time", SimpleNamespace(sleep=pauses.append))
    return pauses


Step = Literal["refused", "opened", "lost", "event"]
MIXED: list[Step] = ["refused", "refused", "refused", "opened", "refused", "lost", "lost", "refused", "event"]
"""What each connection meets: never four refusals without an opened stream between them."""


@pytest.mark.parametrize("name", ["aio", "sync"])
async def test_lost_connections_use_up_no_try_of_a_refusal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the refusals alone, from the last opened stream on, and wait as long as each asks for."""
    steps, pauses = iter(MIXED), pauses_of_python(monkeypatch)

    def answer(_: httpx.Request) -> httpx.Response:
        match next(steps):
            case "lost":
                raise httpx.ConnectError("gone")
            case "refused":
                return httpx.Response(429, headers={"retry-after": "7"}, content=b"slower")
            case "opened":
                return httpx.Response(200, content=b"retry: 1\n\n")
            case "event":
                return httpx.Response(200, content=b"data: " + event("job.succeeded") + b"\n\n")

    transport = httpx.MockTransport(answer)
    if name == "aio":
        async with httpx.AsyncClient(transport=transport) as http:
            found = await anext(AsyncRelay("http://relay", KEY, http=http).stream())
    else:
        with httpx.Client(transport=transport) as http_sync:
            found = next(Relay("http://relay", KEY, http=http_sync).stream())
    assert found.type == "job.succeeded"
    assert [pause == 7 for pause in pauses] == [step == "refused" for step in MIXED[:-1]]


@pytest.mark.parametrize("name", ["aio", "sync"])
async def test_a_wait_pauses_after_a_stream_that_has_ended(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for the next stream after a pause where one has ended, as it does while relay restarts."""
    streams = iter([b"retry: 1\n\n"] * 3 + [b"data: " + ENDED + b"\n\n"])
    pauses = pauses_of_python(monkeypatch)
    job = json.loads((ROOT / "relay" / "web" / "examples.json").read_bytes())["GET /v1/jobs/{id} 200"]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/stream"):
            return httpx.Response(200, content=next(streams))
        return httpx.Response(200, json=job | {"id": "job_1", "status": "running", "final": False})

    transport = httpx.MockTransport(answer)
    if name == "aio":
        async with httpx.AsyncClient(transport=transport) as http:
            await AsyncRelay("http://relay", KEY, http=http).wait("job_1")
    else:
        with httpx.Client(transport=transport) as http_sync:
            Relay("http://relay", KEY, http=http_sync).wait("job_1")
    assert [0.125 <= pause <= 8 for pause in pauses] == [True] * 3


async def test_lost_connections_use_up_no_try_in_typescript(compiled: Path) -> None:
    """Count refusals by the same rule in TypeScript, where a stream that was opened without a message counts too."""
    answers: dict[Step, bytes] = {
        "refused": b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\nconnection: close\r\n\r\nslower",
        "opened": b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: open\n\n",
        "lost": b"",
        "event": part(0),
    }
    async with streaming(lambda number: answers[MIXED[number]]) as (origin, heads):
        assert await javascript(compiled, origin, 1) == ["type 0"]
    assert len(heads) == len(MIXED)


async def test_a_command_says_what_it_waits_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Try again without end as long as relay asks for it, and say why from the fourth refusal on."""

    def later(number: int) -> bytes:
        return part(0) if number >= 4 else b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\n\r\nslower"

    async with streaming(later) as (origin, heads):
        assert await command_line(origin, 1) == ["type 0"]
    assert len(heads) == 5
    assert capsys.readouterr().err == "relay: slower (429 unknown); trying again\n"
