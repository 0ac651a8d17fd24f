"""`GET /v1/jobs`: jobs that are not delivered everywhere, and results that expire before an endpoint has them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

HOUR_S = 3600


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay that tries each delivery twice, on a held clock."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="0,60") as started:
        yield started


async def advance(running: Running, seconds: float) -> None:
    """Advance relay's clock."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)


async def finished(running: Running, **fields: Any) -> str:
    """Return the id of a job that has succeeded, once what that sends was answered."""
    job = await running.submit("evolink", **fields)
    await running.world.finish(job["provider_job_id"])
    await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    await quiet()
    return str(job["id"])


async def listed(running: Running, query: str) -> list[str]:
    """Return the ids that a list of jobs shows."""
    return [one["id"] for one in (await running.get(f"/v1/jobs?{query}"))["data"]]


async def endpoint(running: Running) -> str:
    """Return the id of a new endpoint that gets only final events."""
    made = await running.client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["job.succeeded"]})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def test_a_job_is_undelivered_until_each_endpoint_has_its_events(running: Running) -> None:
    """List a job while one of its two endpoints has not accepted an event, and no longer after a redelivery to it."""
    await endpoint(running)
    await endpoint(running)
    delivered = await finished(running)
    running.sink.answers = [500]
    missed = await finished(running, metadata={"user": "42"})
    assert await listed(running, "undelivered=true") == [missed]
    assert await listed(running, "undelivered=true&metadata[user]=42") == [missed]
    assert await listed(running, "undelivered=true&metadata[user]=43") == []
    assert await listed(running, "undelivered=false") == [missed, delivered]
    running.sink.answers = [500]
    await advance(running, 120)  # the delay varies by a part of it
    (exhausted,) = (await running.get("/v1/deliveries?status=exhausted"))["data"]
    assert await listed(running, "undelivered=true") == [missed]
    again = await running.client.post(f"/v1/deliveries/{exhausted['id']}/redeliveries")
    assert again.status_code == 202, again.text
    await quiet()
    assert await listed(running, "undelivered=true") == []


async def test_a_result_that_expires_is_listed_until_an_endpoint_has_it(running: Running) -> None:
    """List a succeeded job whose result expires and whose last final event no endpoint has; nothing without endpoints.

    One endpoint that has it is enough, and a result that has expired is no longer listed.
    """
    query = "expiring_undelivered=true"
    early = await finished(running)
    assert await listed(running, query) == []
    await endpoint(running)
    await endpoint(running)
    running.sink.answers = [500, 500]
    missed = await finished(running, metadata={"user": "42"})
    running.sink.answers = [200, 500]
    await finished(running)
    assert await listed(running, query) == [missed, early]  # the first was never sent, and there are endpoints now
    assert await listed(running, f"{query}&metadata[user]=42") == [missed]
    shown = await running.get(f"/v1/jobs/{missed}")
    assert any(one["expires_at"] for one in shown["outputs"])
    running.sink.answers = [500, 500]
    await advance(running, 25 * HOUR_S)
    assert await listed(running, query) == []


async def test_a_filter_that_is_no_truth_value_is_refused(running: Running) -> None:
    """Answer 422 and name the parameter."""
    for name in ("undelivered", "expiring_undelivered"):
        answer = await running.client.get(f"/v1/jobs?{name}=1")
        assert answer.status_code == 422
        assert [error["path"] for error in answer.json()["errors"]] == [name]
