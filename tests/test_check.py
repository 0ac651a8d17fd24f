"""Status checks: a job whose callback never comes, or says nothing sure, is asked about and ends all the same."""

from pathlib import Path
from typing import Any

import pytest

from relay.sandbox.faults import Faults
from tests.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio

FIRST_S = 165 * 1.5


async def checks(running: Running, job_id: str) -> list[str]:
    """The outcomes of a job's status checks, in order."""
    story = await running.get(f"/v1/jobs/{job_id}/timeline")
    return [line["decision"] for line in story["data"] if line["kind"] == "check"]


async def lost(running: Running, **fields: Any) -> str:
    """A submitted job whose callback is never sent."""
    running.world.next_faults.append(Faults(lost=True))
    job_id: str = (await running.submit(**fields))["id"]
    return job_id


@pytest.mark.parametrize("provider", ["evolink", "relaydance", "kinovi"])
async def test_a_job_whose_callback_is_lost_ends_by_a_status_check(tmp_path: Path, provider: str) -> None:
    """Once the first check is due, the provider's answer ends the job and is told like a callback."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_STATUS_CHECK_FIRST_S="30") as running:
        job_id = await lost(running, provider=provider, notify=[{"url": running.hook}])
        await running.world.finish(next(iter(running.world.jobs)))
        assert (await running.get(f"/v1/jobs/{job_id}"))["status"] == "submitted"
        clock.advance(30)
        job = await running.until(f"/v1/jobs/{job_id}", lambda shown: shown["status"] == "succeeded")
        assert (job["finished_by"], job["verification"]) == ("status_check", "fetch")
        await running.sink.wait_for(lambda sink: sink.events() == ["job.submitted", "job.succeeded"])


async def test_the_first_check_waits_for_the_providers_own_estimate_and_half_more(tmp_path: Path) -> None:
    """A provider that says 165 s is asked after 247.5 s, then after twice as long, and so on."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        job_id = await lost(running)
        clock.advance(FIRST_S - 1)
        assert await checks(running, job_id) == []
        story = await running.get(f"/v1/jobs/{job_id}/timeline")
        assert story["next"]["what"].startswith("the provider is asked")
        clock.advance(1)
        await running.until(f"/v1/jobs/{job_id}/timeline", lambda shown: "check" in str(shown["data"]))
        clock.advance(FIRST_S)
        assert await checks(running, job_id) == ["submitted"]


async def test_an_answer_that_is_no_verdict_leaves_the_job_open(tmp_path: Path) -> None:
    """A provider that does not know the job (yet) ends nothing; it is asked again later."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_STATUS_CHECK_FIRST_S="30") as running:
        job_id = await lost(running)
        hidden = running.world.jobs.popitem()
        clock.advance(30)
        shown = await running.until(f"/v1/jobs/{job_id}/timeline", lambda told: "check" in str(told["data"]))
        assert "no verdict" in str(shown["data"])
        running.world.jobs[hidden[0]] = hidden[1]
        await running.world.finish(hidden[0])
        clock.advance(61)
        await running.until(f"/v1/jobs/{job_id}", lambda told: told["status"] == "succeeded")


@pytest.mark.parametrize("body", [b"not json", b"x" * 2_000_000], ids=["unreadable", "too large"])
async def test_a_callback_that_says_nothing_sure_has_the_job_checked_at_once(tmp_path: Path, body: bytes) -> None:
    """Without waiting for its time, the provider is asked what the callback should have said."""
    async with relay(tmp_path) as running:
        job_id = await lost(running)
        await running.world.finish(next(iter(running.world.jobs)))
        await running.client.post(running.callback_url(), content=body)
        job = await running.until(f"/v1/jobs/{job_id}", lambda told: told["status"] == "succeeded")
        assert job["finished_by"] == "status_check"


async def test_without_a_public_url_jobs_end_by_checks_alone(tmp_path: Path) -> None:
    """A relay that no provider can reach submits without a callback URL, and asks."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_STATUS_CHECK_FIRST_S="30", RELAY_PUBLIC_URL="") as running:
        job = await running.submit()
        assert "callback_url" not in running.world.submissions[0]
        await running.world.finish(job["provider_job_id"])
        clock.advance(30)
        await running.until(f"/v1/jobs/{job['id']}", lambda told: told["status"] == "succeeded")


async def test_what_became_due_while_relay_was_down_is_checked_at_its_start(tmp_path: Path) -> None:
    """A callback that came while nobody listened is made good by the first sweep."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        job_id = await lost(running)
        jobs, stand_ins = running.world.jobs, running.world._of_job
        await running.world.finish(next(iter(jobs)))
    clock.advance(FIRST_S)
    async with relay(tmp_path, clock=clock) as running:
        running.world.jobs.update(jobs)
        running.world._of_job.update(stand_ins)
        clock.advance(60)
        await running.until(f"/v1/jobs/{job_id}", lambda told: told["status"] == "succeeded")
