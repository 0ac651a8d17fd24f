"""A kill -9 and a start again: what was under way goes on, long before its lease would end."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import httpx
import msgspec
import pytest

from relay.sandbox.sink import Sink
from tests.support import processes
from tests.support.past import database, select
from tests.support.running import DATABASES, KEY, http_client
from tests.system.test_kill import Scene, scene

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

WITHIN_S = 40.0
"""Much less than any lease here; a server of the tests that has just started is given ten seconds of it."""
LONG = {"RELAY_LEASE_S": "600", "RELAY_SUBMIT_TIMEOUT_S": "300"}


async def killed_at(stage: Scene, point: str, *, finish: bool = True) -> None:
    """Submit a job, and have it finish, to a relay that kills itself at a point."""
    async with processes.process(stage.environ, "-m", "tests.support.crashing", point) as first:
        await processes.ready(stage.origin, first)
        try:
            await stage.submit()
            if finish:
                await stage.world.finish(next(iter(stage.world.jobs)))
        except (httpx.TransportError, StopIteration):
            pass
        assert await asyncio.wait_for(first.wait(), 60) == -signal.SIGKILL


@pytest.mark.parametrize(("point", "times"), [("delivery_claimed", 1), ("notification_sent", 2)])
async def test_a_delivery_under_way_goes_out_after_the_restart(tmp_path: Path, point: str, times: int) -> None:
    """Send what the killed process had leased for ten minutes; what had left before the kill goes with the same id."""
    async with scene(tmp_path) as stage:
        stage.environ |= LONG
        await killed_at(stage, point, finish=False)
        async with processes.process(stage.environ, "-m", "relay", "serve") as second:
            await processes.ready(stage.origin, second)
            await stage.sink.wait_for(lambda sink: len(arrived(sink)) == times, WITHIN_S)
    assert len(set(arrived(stage.sink))) == 1


async def test_a_status_check_under_way_is_made_after_the_restart(tmp_path: Path) -> None:
    """Ask the provider about a job whose check the killed process had claimed."""
    async with scene(tmp_path) as stage:
        stage.environ |= LONG | {"RELAY_STATUS_CHECK_FIRST_S": "0.1"}
        await killed_at(stage, "check_claimed", finish=False)
        assert stage.world.status_checks == []
        async with processes.process(stage.environ, "-m", "relay", "serve") as second:
            await processes.ready(stage.origin, second)
            await stage.world.wait_for(lambda world: bool(world.status_checks), WITHIN_S)


async def test_a_submission_under_way_is_known_to_be_unclear_after_the_restart(tmp_path: Path) -> None:
    """Show `submit_unknown` for a submission that the killed process had begun, and do not send it again."""
    async with scene(tmp_path) as stage:
        stage.environ |= LONG
        await killed_at(stage, "submission_started")
        async with processes.process(stage.environ, "-m", "relay", "serve") as second:
            await processes.ready(stage.origin, second)
            async with http_client(stage.origin) as client, asyncio.timeout(WITHIN_S):
                (job,) = (await client.get("/v1/jobs")).json()["data"]
                await stage.job_when(job["id"], "pending", reason="submit_unknown")
            assert stage.world.submissions == []


async def test_nothing_is_taken_from_a_process_that_lives(tmp_path: Path) -> None:
    """Send once what a living worker is sending, while another worker of the same host is killed and comes back."""
    if DATABASES.postgres is None:
        pytest.skip("on SQLite one process does everything")
    async with scene(tmp_path) as stage:
        stage.environ |= LONG
        await grown_up(DATABASES.url(tmp_path))
        hold, requests = asyncio.Event(), list[bytes]()
        hanging = await asyncio.start_server(holding(hold, requests), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}/"
        del stage.body["notify"]
        async with processes.process(stage.environ, "-m", "relay", "serve") as living:
            await processes.ready(stage.origin, living)
            endpoint = {"url": url, "event_types": ["job.submitted"], "timeout_s": 20}
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}, trust_env=False) as client:
                (await client.post(f"{stage.origin}/v1/endpoints", json=endpoint)).raise_for_status()
            job_id = (await stage.submit()).json()["id"]
            async with processes.process(stage.environ, "-m", "relay", "work") as worker:
                await processes.line(worker, "relay.working")
                await boots(tmp_path, "held = 1", 2)
                worker.send_signal(signal.SIGKILL)
                await worker.wait()
            async with processes.process(stage.environ, "-m", "relay", "work") as worker:
                await processes.line(worker, "relay.working")
                await boots(tmp_path, "ended_at IS NOT NULL", 1)
                await boots(tmp_path, "held = 1 AND ended_at IS NULL", 2)
                hold.set()
                await stage.all_delivered(job_id, "job.submitted")
        hanging.close()
        assert len(requests) == 1


async def grown_up(url: str) -> None:
    """Return when the server has run for so long that boots are judged by its locks."""
    connection = await asyncpg.connect(url)
    since = "EXTRACT(EPOCH FROM clock_timestamp() - pg_postmaster_start_time())"
    await connection.execute(f"SELECT pg_sleep(CAST(GREATEST(0, 10.1 - {since}) AS DOUBLE PRECISION))")
    await connection.close()


async def boots(folder: Path, which: str, number: int) -> None:
    """Return when there are so many of these boots."""
    async with database(folder) as opened, asyncio.timeout(60):
        while len(await select(opened, f"SELECT 1 FROM boots WHERE {which}")) != number:  # noqa: ASYNC110
            await asyncio.sleep(0.02)  # other processes write them


def holding(
    hold: asyncio.Event, requests: list[bytes]
) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """Return a server's connection handler that answers 200 once the event is set."""

    async def hold_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        await hold.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    return hold_connection


def arrived(sink: Sink) -> list[str]:
    """Return the ids of the notifications of the job's submission, which is what the process is killed at."""
    bodies = [msgspec.json.decode(one.body) for one in sink.received]
    return [body["id"] for body in bodies if body["type"] == "job.submitted"]
