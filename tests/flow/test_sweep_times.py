"""Time limits of the sweep on a held clock: nothing a millisecond before, and all of it at the moment."""

from pathlib import Path
from typing import Any

import pytest

from relay.model import ids
from relay.model.job import Job, JobState
from relay.sandbox.faults import Faults
from relay.storage.apply_updates import DEFAULT_PROJECT
from relay.storage.jobs import NewJob
from tests.support.held import DAY_S, MS, held, lost
from tests.support.past import select
from tests.support.quiescence import quiet, watched_loop
from tests.support.running import HeldClock

pytestmark = pytest.mark.anyio

REQUEST: dict[str, object] = {
    "model": "seedance-2.0-image-to-video", "prompt": "slow push in", "image_urls": ["https://example.com/a.png"],
}  # fmt: skip


def pending(clock: HeldClock, **fields: Any) -> Job:
    """Return a job that was not submitted yet."""
    now_ms = clock.now_ms()
    return Job(
        id=ids.new_id(ids.JOB), project_id=DEFAULT_PROJECT, state=JobState.PENDING, created_at=now_ms,
        updated_at=now_ms, deadline_at=now_ms + 3_600_000, request=REQUEST, **({"provider": "evolink"} | fields),
    )  # fmt: skip


@pytest.mark.parametrize(("timeout_s", "noticed_s"), [("9.999", 15), ("10", 20)])
async def test_a_submission_that_was_cut_off_is_noticed(tmp_path: Path, timeout_s: str, noticed_s: float) -> None:
    """Call a submission unknown at the first sweep, one every 5 s, that is 5 s and more after its time-out."""
    async with held(tmp_path, RELAY_SUBMIT_TIMEOUT_S=timeout_s) as (running, clock):
        await quiet()
        job = pending(clock, submission_started_at=clock.now_ms())  # by a process that died in it
        await running.app.store.jobs.create(NewJob(job, ()))
        for _ in range(round(noticed_s / 5) - 1):
            await clock.advance(5)
        await clock.advance(5 - MS)
        assert (await running.get(f"/v1/jobs/{job.id}"))["reason"] is None
        await clock.advance(MS)
        assert (await running.get(f"/v1/jobs/{job.id}"))["reason"] == "submit_unknown"


@pytest.mark.parametrize(("provider", "noticed_s"), [("evolink", 15), ("stablestudio", 70)])
async def test_a_paid_submission_has_the_time_of_all_its_requests(
    tmp_path: Path, provider: str, noticed_s: float
) -> None:
    """Call a paid one unknown after a quote, three sendings and a question to the chain: 64 s by a time-out of 10 s."""
    async with held(tmp_path, RELAY_SUBMIT_TIMEOUT_S="9.9") as (running, clock):
        await quiet()
        job = pending(clock, submission_started_at=clock.now_ms(), provider=provider)
        await running.app.store.jobs.create(NewJob(job, ()))
        for _ in range(round(noticed_s / 5) - 1):
            await clock.advance(5)
        await clock.advance(5 - MS)
        assert (await running.get(f"/v1/jobs/{job.id}"))["reason"] is None
        await clock.advance(MS)
        assert (await running.get(f"/v1/jobs/{job.id}"))["reason"] == "submit_unknown"


async def test_a_submission_that_this_process_has_under_way_is_not_cut_off(tmp_path: Path) -> None:
    """Wait for an answer that is late by the clock, and then record it; and after an answer do not wait any more."""
    async with held(tmp_path, RELAY_SUBMIT_WAIT_S="0.01") as (running, clock):
        running.world.next_faults.append(Faults(submit="hang"))
        job = await running.submit()
        await clock.advance(600)
        shown = await running.get(f"/v1/jobs/{job['id']}")
        assert (shown["status"], shown["reason"]) == ("pending", None)
        with watched_loop().time_held() as advance:
            advance(30)
            await quiet()
        shown = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["reason"] is not None)
        assert (shown["status"], shown["reason"], shown["error"]["code"]) == ("pending", "submit_unknown", "no_answer")


async def test_old_jobs_are_removed_every_ten_minutes(tmp_path: Path) -> None:
    """Remove a finished job at the first of the batches, one every 600 s, that comes five days after its end."""
    async with held(tmp_path, RELAY_RETENTION_DAYS="5", RELAY_EVOLINK_CONFIRM="never") as (running, clock):
        await clock.advance(100)
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        await clock.advance(5 * DAY_S - 100)
        await clock.advance(600 - MS)
        assert (await running.client.get(f"/v1/jobs/{job['id']}")).status_code == 200
        await clock.advance(MS)
        assert (await running.client.get(f"/v1/jobs/{job['id']}")).status_code == 404


async def test_old_idempotency_keys_are_dropped_every_hour(tmp_path: Path) -> None:
    """Drop keys past their life at the start, and then at the first sweep an hour later."""
    async with held(tmp_path) as (running, clock):
        await quiet()
        access, dropped = running.app.store.access, list[int]()
        forget = access.forget

        async def noted(now_ms: int) -> None:
            dropped.append(now_ms)
            await forget(now_ms)

        access.forget = noted  # type: ignore[method-assign]
        for hours in (0, 1):
            await clock.advance(3_595)
            await clock.advance(5 - MS)
            assert len(dropped) == hours
            await clock.advance(MS)
            assert len(dropped) == hours + 1


@pytest.mark.parametrize("due_in_ms", [0, 5_000])
async def test_a_sweep_sends_a_hundred_jobs_and_the_next_comes_50_ms_later(tmp_path: Path, due_in_ms: int) -> None:
    """Begin a hundred submissions in one sweep, and the rest 50 ms after it, not before, if due just then or longer."""
    async with held(tmp_path) as (running, clock):
        await quiet()
        for _ in range(101):
            job = pending(clock, next_submit_at=clock.now_ms() + due_in_ms)
            await running.app.store.jobs.create(NewJob(job, ()))
        await clock.advance(5)
        assert len(running.world.jobs) == 100
        await clock.advance(0.049)
        assert len(running.world.jobs) == 100
        await clock.advance(MS)
        assert len(running.world.jobs) == 101


async def test_jobs_are_kept_for_ever_where_retention_is_0(tmp_path: Path) -> None:
    """Remove no finished job with RELAY_RETENTION_DAYS=0."""
    async with held(tmp_path, RELAY_RETENTION_DAYS="0", RELAY_EVOLINK_CONFIRM="never") as (running, clock):
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        for _ in range(3):
            await clock.advance(4_000 * DAY_S)
        assert (await running.client.get(f"/v1/jobs/{job['id']}")).status_code == 200


async def test_a_check_out_of_time_is_noted_without_a_duration(tmp_path: Path) -> None:
    """Store the note of the sweep with 0 ms: no request was made by it."""
    async with held(tmp_path) as (running, clock):
        await lost(running, Faults(lost=True, check="hang"), deadline_s=60)
        await clock.advance(60)
        await clock.advance(120)
        noted = "SELECT duration_ms FROM calls WHERE outcome = 'out of time'"
        assert await select(running.app.store.database, noted) == [(0,)]


async def test_a_pruned_job_is_remembered_while_its_callback_url_works(tmp_path: Path) -> None:
    """Keep its tombstone until RELAY_CALLBACK_GRACE_S after its deadline, where that is later than the retention."""
    grace_s = 30 * DAY_S
    environ = {"RELAY_RETENTION_DAYS": "5", "RELAY_CALLBACK_GRACE_S": str(grace_s), "RELAY_EVOLINK_CONFIRM": "never"}
    async with held(tmp_path, **environ) as (running, clock):
        job = await running.submit(deadline_s=60)
        deadline_ms = clock.now_ms() + 60_000
        await running.world.finish(job["provider_job_id"])
        await clock.advance(5 * DAY_S)
        await clock.advance(600)
        kept = await select(running.app.store.database, "SELECT job_id, expires_at FROM tombstones")
        assert kept == [(job["id"], deadline_ms + grace_s * 1000)]
