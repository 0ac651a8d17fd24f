"""`reached` in the list of jobs: how many endpoints want the event of a job's end, and how many have accepted it."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


async def reached(running: Running) -> list[dict[str, Any] | None]:
    """Return `reached` of each job of the list, newest first."""
    return [job["reached"] for job in (await running.get("/v1/jobs"))["data"]]


async def test_an_open_job_has_reached_nothing(tmp_path: Path) -> None:
    """Show null before the end, and zeros after it if no endpoint wants its event."""
    async with relay(tmp_path) as running:
        job = await running.submit()
        assert await reached(running) == [None]
        await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
        assert await reached(running) == [{"endpoints": 0, "delivered": 0}]


async def test_an_endpoint_counts_once_however_often_it_was_tried(tmp_path: Path) -> None:
    """Count endpoints, not deliveries: one that has the event by a redelivery has it."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_RETRY_SCHEDULE_S="0") as running:
        running.sink.answers = [500]
        wanted = [{"url": running.hook, "event_types": ["job.canceled"]}]
        job = await running.submit(notify=wanted)
        await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
        exhausted = await running.until("/v1/deliveries?status=exhausted", lambda shown: len(shown["data"]) == 1)
        assert await reached(running) == [{"endpoints": 1, "delivered": 0}]
        answer = await running.client.post(f"/v1/deliveries/{exhausted['data'][0]['id']}/redeliveries")
        assert answer.status_code == 202
        await running.until("/v1/deliveries?status=delivered", lambda shown: len(shown["data"]) == 1)
        assert await reached(running) == [{"endpoints": 1, "delivered": 1}]
