"""Finding stuck work: open jobs by age, reason and provider id, and gauges of unfinished work."""

from pathlib import Path

import pytest

from relay.metrics import Metrics
from relay.sandbox.faults import Faults
from relay.web.routes import BACKLOG_EVERY_MS
from tests.support.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio


async def listed(running: Running, query: str) -> list[str]:
    """Return the ids of the jobs that a list shows."""
    return [job["id"] for job in (await running.get(f"/v1/jobs?{query}"))["data"]]


async def gauges(running: Running) -> dict[str, float]:
    """Return the samples of /metrics without labels."""
    lines = (await running.client.get("/metrics")).text.splitlines()
    return {name: float(value) for name, _, value in (line.partition(" ") for line in lines if line[:1] != "#")}


async def test_open_jobs_are_found_by_age_reason_and_the_providers_id(tmp_path: Path) -> None:
    """Find a job that hangs without knowing its id, and refuse a malformed filter."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        running.world.next_faults += [Faults(), Faults(submit="reset_after")]
        done, unknown = [await running.submit(deadline_s=86_400) for _ in range(2)]
        await running.world.finish(done["provider_job_id"])
        await running.until(f"/v1/jobs/{done['id']}", lambda shown: shown["status"] == "succeeded")
        await clock.advance(3600)
        young = await running.submit()
        assert await listed(running, "status=open") == [young["id"], unknown["id"]]
        assert await listed(running, "status=open&older_than=1h") == []
        await clock.advance(1)
        assert await listed(running, "status=open&older_than=1h") == [unknown["id"]]
        assert await listed(running, "reason=submit_unknown") == [unknown["id"]]
        assert await listed(running, f"provider_job_id={done['provider_job_id']}") == [done["id"]]
        for query in ("status=stuck", "reason=none", "older_than=long"):
            assert (await running.client.get(f"/v1/jobs?{query}")).status_code == 422


async def test_the_gauges_count_unfinished_work(tmp_path: Path) -> None:
    """Count open jobs, pending deliveries and their lateness, with a query every ten seconds at most."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_RETRY_SCHEDULE_S="0,3600") as running:
        running.sink.answers = [500] * 9
        assert (await gauges(running))["relay_open_jobs"] == 0
        await running.submit(notify=[{"url": running.hook}])
        await running.until("/v1/deliveries", lambda shown: shown["data"] and shown["data"][0]["attempts_made"] == 1)
        await clock.advance((BACKLOG_EVERY_MS - 1) / 1000)
        assert (await gauges(running))["relay_open_jobs"] == 0
        await clock.advance(0.001)
        found = await gauges(running)
        assert (found["relay_open_jobs"], found["relay_pending_deliveries"]) == (1, 1)
        assert (found["relay_held_endpoints"], found["relay_oldest_due_seconds"]) == (0, 0)


@pytest.mark.parametrize(("due_at", "seconds"), [(None, 0), (9_000, 0), (6_001, 0), (6_000, 1)])
def test_the_lateness_of_the_oldest_delivery(due_at: int | None, seconds: int) -> None:
    """Count whole seconds since the oldest delivery was due, and 0 if none is due."""
    metrics = Metrics()
    metrics.backlog({"open_jobs": 1, "pending_deliveries": 2, "held_endpoints": 3, "oldest_due_at": due_at}, 7_000)
    assert f"relay_oldest_due_seconds {seconds}.0" in metrics.exposition().decode()
    assert "relay_held_endpoints 3.0" in metrics.exposition().decode()
