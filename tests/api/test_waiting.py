"""`Prefer: wait`: one request that is answered when the job is final, so that a simple client needs no endpoint."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.clock import SystemClock
from relay.sandbox.faults import Faults
from tests.support.quiescence import quiet
from tests.support.running import INPUT, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

BODY = {"provider": "evolink", "input": INPUT}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on the machine's clock."""
    async with relay(tmp_path, clock=SystemClock()) as started:
        yield started


async def finished(running: Running) -> None:
    """End the job as soon as its provider has it."""
    await running.world.wait_for(lambda world: len(world.jobs) == 1)
    await running.world.finish(next(iter(running.world.jobs)))


async def test_a_submission_waits_for_the_end(running: Running) -> None:
    """Answer a POST with `Prefer: wait=20` 200 with the final job, long before the time is over."""
    prefer = {"prefer": "wait=20"}
    answer, _ = await asyncio.gather(running.client.post("/v1/jobs", json=BODY, headers=prefer), finished(running))
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=20"
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"


async def test_a_get_waits_for_the_end(running: Running) -> None:
    """Answer several GETs with `Prefer: wait` 200 with the final job."""
    job = await running.submit()
    waiting = [running.client.get(f"/v1/jobs/{job['id']}", headers={"prefer": "wait=20"}) for _ in range(5)]
    *answers, _ = await asyncio.gather(*waiting, finished(running))
    assert [(answer.status_code, answer.json()["status"]) for answer in answers if answer] == [(200, "succeeded")] * 5


async def test_when_the_time_is_over_the_job_is_shown_as_it_is(tmp_path: Path) -> None:
    """Answer 202 after N seconds with the job that is still open."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        job = await running.submit()
        path = f"/v1/jobs/{job['id']}"
        waiting = asyncio.create_task(running.client.get(path, headers={"prefer": "wait=10"}))
        await clock.advance(9)
        assert not waiting.done()
        await clock.advance(1)
        answer = await asyncio.wait_for(waiting, 60)
        assert (answer.status_code, answer.json()["status"]) == (202, "submitted")


async def test_a_final_job_is_answered_immediately(running: Running) -> None:
    """Answer 200 immediately."""
    job = await running.submit()
    await finished(running)
    await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    answer = await running.client.get(f"/v1/jobs/{job['id']}", headers={"prefer": "wait=25"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("prefer", "applied"),
    [("wait=0", "wait=0"), ("wait", None), ("wait=soon", None), ("wait=-1", None), ("respond-async", None), ("", None)],
)
async def test_a_malformed_preference_is_ignored(running: Running, prefer: str, applied: str | None) -> None:
    """Ignore a malformed or unknown preference, as RFC 7240 demands."""
    job = await running.submit()
    answer = await running.client.get(f"/v1/jobs/{job['id']}", headers={"prefer": prefer})
    assert answer.headers.get("preference-applied") == applied
    assert answer.status_code == (202 if applied else 200)


@pytest.mark.parametrize("prefer", ["wait=99", "respond-async, wait=99", 'wait="99"', "WAIT = 99; foo=bar"])
async def test_a_wait_is_shorter_than_a_routers_limit(running: Running, prefer: str) -> None:
    """Limit a wait to 25 seconds, and say so in the answer."""
    running.world.next_faults.append(Faults(status_code=402))
    answer = await running.client.post("/v1/jobs", json=BODY, headers={"prefer": prefer})
    assert (answer.status_code, answer.json()["status"]) == (200, "failed")
    assert answer.headers["preference-applied"] == "wait=25"


async def test_a_client_that_disconnects_stops_nothing(running: Running) -> None:
    """End the wait of a client that disconnects; its job continues to its end."""
    caller = asyncio.create_task(running.client.post("/v1/jobs", json=BODY, headers={"prefer": "wait=20"}))
    await quiet()
    assert running.app.waiting.held == 1
    caller.cancel()
    await quiet()
    assert running.app.waiting.held == 0
    await finished(running)
    (job,) = (await running.get("/v1/jobs"))["data"]
    await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert len(running.world.submissions) == 1


async def test_a_shutdown_ends_waits(running: Running) -> None:
    """Answer a waiting request with the job's present state when relay shuts down."""
    running.world.next_faults.append(Faults(submit="hang"))
    waiting = asyncio.create_task(running.client.post("/v1/jobs", json=BODY, headers={"prefer": "wait=25"}))
    await running.world.wait_for(lambda world: len(world.jobs) == 1)
    running.app.draining.set()
    answer = await asyncio.wait_for(waiting, 60)
    assert (answer.status_code, answer.json()["status"]) == (202, "pending")
