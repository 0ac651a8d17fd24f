"""A restart as on Heroku, under load: the new process is up before the old one stops, or the old one is killed.

The stand-in of the platform's router sends each callback to the newest process that is ready, waits while none takes
connections, and repeats what was cut off or answered 503, as providers do.
"""

import asyncio
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.sandbox.world import Sandbox
from relay.storage.engine.migrations import migrations
from tests.storage.test_columns_added import TABLES
from tests.support import processes
from tests.support.ports import free_port
from tests.support.running import INPUT, KEY, environment

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

JOBS = 40
CLIENTS = 4
ROUTER_S = 30.0
"""Heroku's router gives up a request that is not answered by then."""
PAUSE_S = 0.05


class Platform:
    """A relay on a platform: its processes, each on a port of its own, and the router in front."""

    def __init__(self, stack: AsyncExitStack, environ: dict[str, str], world: Sandbox, sink: Sink, hook: str) -> None:
        self._stack = stack
        self.environ = environ
        self.world = world
        self.sink = sink
        self.hook = hook
        self._ports: list[int] = []
        self.statuses = Counter[int]()
        self.slowest_s = 0.0

    async def start(self, *serve: str) -> asyncio.subprocess.Process:
        """Return a new process once it is ready; from then on the router sends requests to it."""
        port = free_port()
        environ = self.environ | {"PORT": str(port)}
        arguments = serve or ("-m", "relay", "serve")
        child = await self._stack.enter_async_context(processes.process(environ, *arguments))
        await processes.ready(f"http://127.0.0.1:{port}", child)
        self._ports.insert(0, port)
        return child

    async def post(self, client: httpx.AsyncClient, path: str, body: object, key: str = "callback") -> httpx.Response:
        """Return the answer that the router passes on, from the newest process that takes connections.

        A client repeats what was cut off, or answered 503.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        while True:
            for port in self._ports:
                try:
                    answer = await client.post(
                        f"http://127.0.0.1:{port}{path}", json=body, timeout=ROUTER_S, headers={"idempotency-key": key}
                    )
                except httpx.TransportError:
                    continue
                self.statuses[answer.status_code] += 1
                if answer.status_code != 503:
                    if path.startswith("/callbacks/"):
                        self.slowest_s = max(self.slowest_s, loop.time() - began_s)
                    return answer
            await asyncio.sleep(PAUSE_S)  # other processes start and stop

    async def submit(self, client: httpx.AsyncClient, number: int) -> None:
        """Submit the job of this number, always with the same key.

        It is 409 where a process was killed between the key and the job: nothing was acknowledged, nor sent.
        """
        body = {"provider": "evolink", "input": INPUT, "notify": [{"url": self.hook}]}
        answer = await self.post(client, "/v1/jobs", body, f"job-{number}")
        assert answer.status_code in (202, 409), answer.text

    async def call_back(self, client: httpx.AsyncClient, provider_job_id: str) -> None:
        """Have the provider's callback about its job's end come in through the router."""
        job = self.world.jobs[provider_job_id]
        assert job.callback_url is not None
        body = {"id": provider_job_id, "status": "completed", "results": ["https://cdn.example.com/a.mp4"]}
        answer = await self.post(client, urlsplit(job.callback_url).path, body)
        assert answer.status_code == 200, answer.text


@asynccontextmanager
async def platform(folder: Path) -> AsyncIterator[Platform]:
    """Yield a platform without a process."""
    async with AsyncExitStack() as stack:
        world, sink = sandbox(pace_s=None, time_scale=0), Sink()
        stack.push_async_callback(world.close)
        providers_at = await stack.enter_async_context(serve(world.app))
        hook = await stack.enter_async_context(serve(sink)) + "/hook"
        environ = environment(folder, "http://relay.example", providers_at)
        yield Platform(
            stack, environ | {"RELAY_HOST": "127.0.0.1", "RELAY_EVOLINK_CONFIRM": "never"}, world, sink, hook
        )


@pytest.mark.parametrize("how", ["stopped", "killed"])
async def test_a_rolling_restart_under_load_loses_nothing(tmp_path: Path, how: str) -> None:
    """Answer every callback within the router's limit while the process is replaced; notify of each end, by one id."""
    async with platform(tmp_path) as stage:
        old = await stage.start()
        await under_load(stage, replace(stage, old, how))
        assert set(stage.statuses) <= {200, 202, 409, 503}


async def test_a_newer_release_adds_columns_and_takes_over_under_load(tmp_path: Path) -> None:
    """Go on in the previous release while the next one adds a column to each table and replaces it; answer no 500."""
    async with platform(tmp_path) as stage:
        old = await stage.start()
        newer = newer_release(tmp_path / "newer")

        async def upgrade() -> None:
            async with processes.process(stage.environ, "-c", newer, "migrate") as migrating:
                assert await asyncio.wait_for(migrating.wait(), ROUTER_S) == 0
            seen = len(stage.world.jobs)
            await stage.world.wait_for(lambda world: len(world.jobs) > seen + CLIENTS)  # by the previous release
            await replace(stage, old, "stopped", "-c", newer, "serve")

        await under_load(stage, upgrade())
        assert set(stage.statuses) <= {200, 202, 409, 503}


def newer_release(folder: Path) -> str:
    """Return the program of a release whose last migration adds a column to each table."""
    shutil.copytree(processes.ROOT / "relay", folder / "relay", ignore=shutil.ignore_patterns("__pycache__"))
    added = [f"ALTER TABLE {table} ADD COLUMN added_later INTEGER DEFAULT 7;" for table in TABLES]
    number = migrations()[-1].version + 1
    migration = folder / "relay" / "storage" / "migrations" / f"{number:04}_newer.sql"
    migration.write_text("-- One more column in each table.\n\n" + "\n\n".join(added) + "\n")
    return f"import sys; sys.path.insert(0, {str(folder)!r}); from relay.cli import main; main()"


async def under_load(stage: Platform, change: Coroutine[Any, Any, None]) -> None:
    """Submit jobs and call back until the change is made; AssertionError if anything was lost, late or made twice."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(headers=headers, trust_env=False) as client:
        for number in range(JOBS):
            await stage.submit(client, number)
        jobs = list(stage.world.jobs)
        assert len(jobs) == JOBS
        changed = asyncio.create_task(change)

        async def load(part: int) -> None:
            number = JOBS + part
            while jobs or not changed.done():
                await stage.submit(client, number)
                number += CLIENTS
                if jobs:
                    await stage.call_back(client, jobs.pop())
                await asyncio.sleep(PAUSE_S)  # other processes start and stop meanwhile

        await asyncio.gather(changed, *(load(part) for part in range(CLIENTS)))
        for provider_job_id in list(stage.world.jobs)[JOBS:]:
            await stage.call_back(client, provider_job_id)
        await stage.sink.wait_for(lambda sink: len(told(sink)) == len(stage.world.jobs), 30)
    assert len(stage.world.submissions) == len(stage.world.jobs) > JOBS
    assert stage.slowest_s < ROUTER_S
    assert all(len(ids) == 1 for ids in told(stage.sink).values())


async def replace(stage: Platform, old: asyncio.subprocess.Process, how: str, *serve: str) -> None:
    """Start the new process, then stop the old one as Heroku does, or kill it."""
    await stage.start(*serve)
    if how == "killed":
        old.send_signal(signal.SIGKILL)
        await old.wait()
        return
    processes.send(old, signal.SIGTERM)
    await processes.line(old, "relay.stopping")
    processes.send(old, signal.SIGTERM)
    assert await asyncio.wait_for(old.wait(), ROUTER_S) == 0


def told(sink: Sink) -> dict[str, set[str]]:
    """Return the ids of the notifications of each job's end."""
    ends: dict[str, set[str]] = {}
    for received in sink.received:
        body = msgspec.json.decode(received.body)
        if body["type"] == "job.succeeded":
            ends.setdefault(body["data"]["job"]["id"], set()).add(received.headers["webhook-id"])
    return ends
