"""What a provider's answer to a status check does: how much of it is kept, and what it says about the API key."""

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
from tests.flow.test_check import checks
from tests.support.held import DAY_S, MS
from tests.support.paying import Seller, paid, selling
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio

TASK = {"id": "task-1", "status": "processing"}


class Scripted:
    """EvoLink's routes: each job is accepted, and `answers` holds what the status checks get, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = [(200, TASK)]
        self.checks = 0
        create = Route("/v1/videos/generations", self._create, methods=["POST"])
        self.app = Starlette(routes=[create, Route("/v1/tasks/{id}", self._status)])

    async def _create(self, _: Request) -> Response:
        return JSONResponse(TASK)

    async def _status(self, _: Request) -> Response:
        self.checks += 1
        status_code, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return JSONResponse(body, status_code)


@asynccontextmanager
async def scripted(folder: Path, **environ: str) -> AsyncIterator[tuple[Running, HeldClock, Scripted, str]]:
    """Yield a relay, its clock, its EvoLink and a job whose first check comes after 10 s."""
    provider, clock = Scripted(), HeldClock()
    async with serve(provider.app) as origin:
        first = {"RELAY_EVOLINK_BASE_URL": origin, "RELAY_STATUS_CHECK_FIRST_S": "10"}
        async with relay(folder, clock=clock, **first | environ) as running:  # type: ignore[arg-type]
            yield running, clock, provider, (await running.submit(deadline_s=DAY_S))["id"]


@pytest.mark.parametrize(("status_code", "kind"), [(404, "not found: "), (500, "no status: ")])
@pytest.mark.parametrize("length", [200, 201])
async def test_a_refused_check_is_noted_with_200_characters(
    tmp_path: Path, status_code: int, kind: str, length: int
) -> None:
    """Cut what the provider says after 200 characters in the timeline."""
    async with scripted(tmp_path) as (running, clock, provider, job_id):
        start = f"HTTP {status_code}: "
        provider.answers = [(status_code, {"error": {"message": "x" * (length - len(start))}})]
        await clock.advance(10)
        (decision,) = await checks(running, job_id)
        assert decision == (kind + start + "x" * (length - len(start)))[: len(kind) + 200]


async def test_a_check_judges_the_api_key(tmp_path: Path) -> None:
    """Say that the provider refuses the key after a check with 401, and that it is good after one with an answer."""
    async with scripted(tmp_path) as (running, clock, provider, _):
        provider.answers = [(401, {"error": {"message": "no such key"}}), (200, TASK)]
        counted = 'relay_provider_key_refused{provider="evolink"}'
        for seconds, refused in ((10, 1.0), (60, 0.0)):
            await clock.advance(seconds)
            assert f"{counted} {refused}" in (await running.client.get("/metrics")).text
        assert provider.checks == 2


async def test_a_provider_without_callbacks_is_asked_every_ten_seconds(tmp_path: Path) -> None:
    """Check a paid job 10 s after its submission and after each check, and not before."""
    seller, clock = Seller(), HeldClock()
    seller.working = True
    async with selling(tmp_path, seller, clock) as running:
        job = await paid(running, "stablestudio", deadline_s=7200)
        await quiet()
        for made in range(2):
            await clock.advance(10 - MS)
            assert len(await checks(running, job["id"])) == made
            await clock.advance(MS)
            assert len(await checks(running, job["id"])) == made + 1
