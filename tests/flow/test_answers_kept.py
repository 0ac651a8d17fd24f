"""PostgreSQL is away for a minute while a provider answers: what it says once is stored when the database is back."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from relay.sandbox.serving import serve
from tests.support.postgres import Server
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

JOBS = 10
AWAY_S = 60
VIDEO = "https://cdn.example.com/videos/out.mp4"


class Slow:
    """EvoLink's routes: an answer comes when it may, and a status is told once."""

    def __init__(self) -> None:
        self.created: list[str] = []
        self.told: list[str] = []
        self.asked, self.all_asked = asyncio.Event(), asyncio.Event()
        self.may_answer = asyncio.Event()
        routes = [
            Route("/v1/videos/generations", self._create, methods=["POST"]),
            Route("/v1/tasks/{id}", self._status),
        ]
        self.app = Starlette(routes=routes)

    async def _create(self, _: Request) -> Response:
        task = f"task-{len(self.created)}"
        self.created.append(task)
        if len(self.created) == JOBS:
            self.all_asked.set()
        await self.may_answer.wait()
        return JSONResponse({"id": task, "status": "pending", "usage": {"credits_reserved": 50}})

    async def _status(self, request: Request) -> Response:
        task = request.path_params["id"]
        if task in self.told:
            return JSONResponse({"id": task, "status": "processing"})
        self.told.append(task)
        self.asked.set()
        await self.may_answer.wait()
        return JSONResponse({"id": task, "status": "completed", "results": [VIDEO]})


@asynccontextmanager
async def slow_provider(tmp_path: Path, server: Server) -> AsyncIterator[tuple[Running, Slow]]:
    """Yield a relay whose EvoLink answers when it may, on a database that can be stopped."""
    slow = Slow()
    async with serve(slow.app) as origin:
        environ: Any = {"RELAY_EVOLINK_BASE_URL": origin, "RELAY_SUBMIT_WAIT_S": "0", "RELAY_SUBMIT_TIMEOUT_S": "20"}
        async with relay(tmp_path, clock=HeldClock(), DATABASE_URL=server.database(), **environ) as running:
            yield running, slow


async def until(running: Running, path: str, good: Any) -> Any:
    """Return what the path shows once that is good; time passes, and the database may still be coming back."""
    shown = None
    for _ in range(400):
        answer = await running.client.get(path)
        if answer.status_code == 200 and good(shown := answer.json()):
            return shown
        assert isinstance(running.clock, HeldClock)
        await running.clock.advance(0.5)
    raise TimeoutError(str(shown))


async def away(running: Running, slow: Slow, server: Server) -> None:
    """Stop the database, let the provider answer, and start it again when a minute has passed."""
    await asyncio.to_thread(server.stop, signal.SIGQUIT)
    slow.may_answer.set()
    assert isinstance(running.clock, HeldClock)
    for _ in range(AWAY_S):
        await running.clock.advance(1)
    metrics = (await running.client.get("/metrics")).text
    assert f"relay_answers_unstored {float(max(1, len(slow.created) if not slow.told else 1))}" in metrics
    await asyncio.to_thread(server.start)


async def test_ids_that_were_told_while_the_database_was_away_are_stored(
    tmp_path: Path, database_server: Server
) -> None:
    """Keep what ten submissions were answered while PostgreSQL was away for a minute, with its evidence, sent once."""
    async with slow_provider(tmp_path, database_server) as (running, slow):
        jobs = [await running.submit() for _ in range(JOBS)]
        await asyncio.wait_for(slow.all_asked.wait(), 60)
        await away(running, slow, database_server)
        shown = await until(running, "/v1/jobs", lambda page: {one["status"] for one in page["data"]} == {"submitted"})
        assert sorted(one["provider_job_id"] for one in shown["data"]) == sorted(slow.created)
        assert len(slow.created) == JOBS
        timeline = (await running.get(f"/v1/jobs/{jobs[0]['id']}/timeline"))["data"]
        assert [one["kind"] for one in timeline].count("submission") == 1
        assert "relay_answers_unstored 0.0" in (await running.client.get("/metrics")).text


async def test_a_status_that_was_told_while_the_database_was_away_is_stored(
    tmp_path: Path, database_server: Server
) -> None:
    """Keep what a status check was answered while PostgreSQL was away: the provider says it once, and the job ends."""
    async with slow_provider(tmp_path, database_server) as (running, slow):
        slow.may_answer.set()
        job = await running.submit()
        path = f"/v1/jobs/{job['id']}"
        await until(running, path, lambda shown: shown["status"] == "submitted")
        slow.may_answer.clear()
        slow.asked.clear()
        checking = asyncio.ensure_future(running.client.post(f"{path}/status-checks"))
        await asyncio.wait_for(slow.asked.wait(), 60)
        await away(running, slow, database_server)
        shown = await until(running, path, lambda shown: shown["status"] == "succeeded")
        assert (shown["outputs"][0]["url"], shown["finished_by"]) == (VIDEO, "status_check")
        await asyncio.gather(checking, return_exceptions=True)
