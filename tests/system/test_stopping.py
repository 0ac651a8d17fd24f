"""A process that is told to stop: what waits gets an answer, and everything is over within one time, whatever hangs."""

import asyncio
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from relay.shutdown import CLOSE_MIN_S, Stop
from tests.support import processes
from tests.support.ports import free_port
from tests.support.running import INPUT, KEY, SECRET_KEY, http_client

pytestmark = pytest.mark.anyio

SHUTDOWN_S = 2.0
OVER_S = SHUTDOWN_S + 1
"""The promise; a busy machine gets a second more."""


def environment(folder: Path, port: int, **more: str) -> dict[str, str]:
    """Return a relay of its own."""
    return {
        "PORT": str(port),
        "RELAY_HOST": "127.0.0.1",
        "DATABASE_URL": f"sqlite:///{folder}/relay.db",
        "RELAY_SECRET_KEYS": SECRET_KEY,
        "RELAY_API_KEY": KEY,
        "RELAY_SHUTDOWN_S": f"{SHUTDOWN_S:g}",
        "RELAY_ALLOW_HTTP": "1",
        "RELAY_ALLOW_NETWORKS": "127.0.0.0/8",
        **more,
    }


@asynccontextmanager
async def silent() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Yield a server that takes requests and never answers: its origin, and whether one came."""
    came = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        came.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", came
    server.close()


async def _sent(sent: asyncio.Event, event: str, _: object) -> None:
    """Note that the client's library has sent a whole request."""
    if event == "http11.send_request_body.complete":
        sent.set()


async def stopped(child: asyncio.subprocess.Process, times: int = 1) -> float:
    """Send SIGTERM so many times, and return how long the process took to end, in seconds."""
    began = time.monotonic()
    processes.send(child, signal.SIGTERM)
    for _ in range(times - 1):
        await processes.line(child, "relay.stopping")
        processes.send(child, signal.SIGTERM)
    await asyncio.wait_for(child.wait(), 60)
    return time.monotonic() - began


@pytest.mark.parametrize("signals", [1, 2])
async def test_a_job_that_waits_for_its_provider_is_answered(tmp_path: Path, signals: int) -> None:
    """Answer 202 for a job that is committed while its provider is silent; a second SIGTERM cuts nothing off."""
    port = free_port()
    async with silent() as (origin, came):
        environ = environment(tmp_path, port, RELAY_EVOLINK_API_KEY="key", RELAY_EVOLINK_BASE_URL=origin)
        async with processes.process(environ, "-m", "relay", "serve") as child:
            await processes.ready(f"http://127.0.0.1:{port}", child)
            async with http_client("") as client:
                body = {"provider": "evolink", "input": INPUT}
                asked = asyncio.create_task(client.post(f"http://127.0.0.1:{port}/v1/jobs", json=body, timeout=20))
                await asyncio.wait_for(came.wait(), 60)
                took_s = await stopped(child, signals)
                assert ((await asked).status_code, child.returncode) == (202, 0)
                assert took_s < OVER_S + 1


async def test_a_request_that_waits_for_the_database_is_told_to_come_again(tmp_path: Path) -> None:
    """Answer 503 with Retry-After when the database is held by another program, and end in time all the same."""
    port = free_port()
    async with processes.process(environment(tmp_path, port), "-m", "relay", "serve") as child:
        await processes.ready(f"http://127.0.0.1:{port}", child)
        locked = sqlite3.connect(tmp_path / "relay.db", isolation_level=None)
        locked.execute("BEGIN IMMEDIATE")
        async with http_client("") as client:
            made = {"url": "https://hook.example.com/", "event_types": ["job.*"]}
            url, sent = f"http://127.0.0.1:{port}/v1/endpoints", asyncio.Event()
            trace = {"trace": partial(_sent, sent)}
            asked = asyncio.create_task(client.post(url, json=made, timeout=20, extensions=trace))
            await asyncio.wait_for(sent.wait(), 60)
            await client.get(f"http://127.0.0.1:{port}/healthz")  # relay reads in order: what was sent before, too
            took_s = await stopped(child)
            answer = await asked
        locked.close()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.headers["content-type"] == "application/problem+json"
        assert took_s < OVER_S + 1


async def test_a_failing_start_waits_for_nothing(tmp_path: Path) -> None:
    """End within five seconds when the port is taken, though what waited in the database is being sent already."""
    port = free_port()
    async with silent() as (receiver, came), silent() as (taken, _):
        environ = environment(tmp_path, port, RELAY_SHUTDOWN_S="60", RELAY_SANDBOX_CONFIRM="never")
        async with processes.process(environ, "-m", "relay", "serve") as first:
            origin = f"http://127.0.0.1:{port}"
            await processes.ready(origin, first)
            async with http_client(origin) as client:
                endpoint = (await client.post("/v1/endpoints", json={"url": f"{receiver}/"})).raise_for_status().json()
                (await client.post(f"/v1/endpoints/{endpoint['id']}/tests")).raise_for_status()
            await asyncio.wait_for(came.wait(), 60)
            first.kill()
            await first.wait()
        came.clear()
        environ["PORT"] = taken.rpartition(":")[2]
        async with processes.process(environ, "-m", "relay", "serve") as second:
            await processes.line(second, "in use by another program")
            began = time.monotonic()
            assert await asyncio.wait_for(second.wait(), 60) == 1
            assert time.monotonic() - began < 5


async def test_a_failed_process_ends_whatever_hangs(tmp_path: Path) -> None:
    """End with the error's own status and sentence though a thread of the process never ends."""
    hanging = (
        "import sys, threading, time; from relay import cli; from relay.storage.engine import sqlite; "
        "threading.Thread(target=time.sleep, args=(600,)).start(); sys.argv[1:] = ['serve']; cli.main()"
    )
    environ = environment(tmp_path, 0, DATABASE_URL=f"sqlite:///{tmp_path}")
    async with processes.process(environ, "-c", hanging) as child:
        await processes.line(child, "cannot be opened for writing")
        assert await asyncio.wait_for(child.wait(), 60) == 78


@pytest.mark.parametrize("command", ["serve", "work"])
async def test_a_start_that_waits_is_abandoned(tmp_path: Path, command: str) -> None:
    """End at once, as asked, while the start waits for a database that is away."""
    url = f"postgres://relay@127.0.0.1:{free_port()}/relay"
    environ = environment(tmp_path, 0, DATABASE_URL=url, RELAY_DATABASE_WAIT_S="60")
    async with processes.process(environ, "-m", "relay", command) as child:
        await processes.line(child, "database.waiting")
        took_s = await stopped(child)
        assert (child.returncode, took_s < SHUTDOWN_S) == (0, True)


async def test_the_time_of_a_stop_is_one() -> None:
    """Count the time from the first word on, whoever asks, and give what is closed after it a moment."""
    stop, loop = Stop(5.0), asyncio.get_running_loop()
    assert stop.left_s() == 5.0
    woken: list[bool] = []
    stop.on_begin(lambda: woken.append(stop.draining.is_set()))
    began = loop.time()
    stop.begin()
    stop.begin()
    assert (woken, 5.0 - stop.left_s() <= loop.time() - began) == ([True], True)
    stop.end_now()
    assert stop.left_s() == 0.0
    before = loop.time()
    await stop.close_in_time(asyncio.Event().wait)  # type: ignore[arg-type]  # it never ends
    assert CLOSE_MIN_S <= loop.time() - before < CLOSE_MIN_S + 2


async def test_a_signal_at_any_time_of_the_end_changes_nothing(tmp_path: Path) -> None:
    """End with 0 although SIGTERM comes again and again, also when only the interpreter has yet to end."""
    port = free_port()
    async with processes.process(environment(tmp_path, port), "-m", "relay", "serve") as child:
        await processes.ready(f"http://127.0.0.1:{port}", child)
        processes.send(child, signal.SIGTERM)
        await processes.line(child, "relay.stopping")
        while child.returncode is None:
            processes.send(child, signal.SIGTERM)
            await asyncio.sleep(0)
        assert child.returncode == 0
