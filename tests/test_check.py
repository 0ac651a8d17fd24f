"""Status checks: a job whose callback never comes, or says nothing sure, is asked about and ends all the same."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay.clock import parse_rfc3339
from relay.sandbox.faults import Faults
from relay.sandbox.providers import sandbox
from relay.storage.record import DEFAULT_PROJECT
from tests.running import START_MS, HeldClock, Running, relay

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
    """A callback that came while nobody listened is made good by the first turn of the checks."""
    clock, world = HeldClock(), sandbox(pace_s=None)
    try:
        async with relay(tmp_path, clock=clock, world=world) as running:
            job_id = await lost(running)
            await world.finish(next(iter(world.jobs)))
        clock.advance(FIRST_S)
        async with relay(tmp_path, clock=clock, world=world) as running:
            await running.until(f"/v1/jobs/{job_id}", lambda told: told["status"] == "succeeded")
    finally:
        await world.close()


async def test_an_outage_delays_a_check_by_half_a_minute_and_not_by_its_pace(tmp_path: Path) -> None:
    """A provider that answers 502 once is asked again after 30 s, though its jobs take minutes."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        running.world.next_faults.append(Faults(lost=True, check="html", check_times=1))
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        clock.advance(FIRST_S)
        path = f"/v1/jobs/{job['id']}/timeline"
        await running.until(path, lambda shown: "no verdict" in str(shown["data"]))
        clock.advance(30)
        await running.until(f"/v1/jobs/{job['id']}", lambda told: told["status"] == "succeeded")


async def test_a_retry_after_pauses_every_check_at_its_provider(tmp_path: Path) -> None:
    """After 429 with Retry-After nobody asks that provider before then, about whatever job; others are asked."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_STATUS_CHECK_FIRST_S="10") as running:
        running.world.next_faults.append(Faults(lost=True, check_status=429, check_retry_after_s=120, check_times=1))
        first = await running.submit()
        clock.advance(10)
        await running.until(f"/v1/jobs/{first['id']}/timeline", lambda shown: "no verdict" in str(shown["data"]))
        second, other = await lost(running), await lost(running, provider="kinovi")
        clock.advance(100)
        await running.until(f"/v1/jobs/{other}/timeline", lambda shown: "check" in str(shown["data"]))
        assert running.world.status_checks == [first["provider_job_id"], list(running.world.jobs)[-1]]
        clock.advance(20)
        await running.until(f"/v1/jobs/{second}/timeline", lambda shown: "check" in str(shown["data"]))


async def test_a_job_that_its_provider_does_not_know_is_lost_only_in_time(tmp_path: Path) -> None:
    """`not found` is no failure before it came three times and the job is ten minutes old; then it is, as `lost`."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_STATUS_CHECK_FIRST_S="10") as running:
        running.world.next_faults.append(Faults(lost=True, check="not_found"))
        job = await running.submit(deadline_s=86_400)
        made, path = 0, f"/v1/jobs/{job['id']}"
        while (shown := await running.get(path))["status"] == "submitted":
            next_at = (await running.get(f"{path}/timeline"))["next"]["at"]
            clock.advance((parse_rfc3339(next_at) - clock.now_ms()) / 1000)
            made += 1
            await running.until(f"{path}/timeline", lambda told: str(told).count("'check'") == made)  # noqa: B023
        assert (shown["status"], shown["reason"], shown["error"]["code"]) == ("failed", "lost", "not_found")
        age_s = (clock.now_ms() - START_MS) / 1000
        assert (made >= 3, age_s >= 600, age_s < 1800) == (True, True, True)


async def test_a_job_without_a_sign_of_life_is_lost(tmp_path: Path) -> None:
    """With a deadline of days, an hour without any word from the provider ends the job: expired, `lost`."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_STATUS_CHECK_FIRST_S="10") as running:
        running.world.next_faults.append(Faults(lost=True, check="reset"))
        job = await running.submit(deadline_s=604_800)
        for _ in range(20):
            made = len(running.world.status_checks)
            clock.advance(600)
            await running.world.wait_for(lambda world, made=made: len(world.status_checks) > made)  # type: ignore[misc]
            shown = await running.get(f"/v1/jobs/{job['id']}")
            if clock.now_ms() - START_MS >= 3_600_000:
                break
            assert shown["status"] == "submitted"
        shown = await running.until(f"/v1/jobs/{job['id']}", lambda told: told["status"] == "expired")
        assert (shown["reason"], shown["error"]["code"], shown["finished_by"]) == ("lost", "lost", "deadline")


@pytest.mark.parametrize("outcome", ["succeeded", "still running"])
async def test_the_provider_is_asked_one_last_time_at_the_deadline(tmp_path: Path, outcome: str) -> None:
    """At its deadline a job is checked before it expires; a result that is there counts, and is not late."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        job_id = await lost(running, deadline_s=60)
        if outcome == "succeeded":
            await running.world.finish(next(iter(running.world.jobs)))
        clock.advance(60)
        job = await running.until(f"/v1/jobs/{job_id}", lambda told: told["finished_at"] is not None)
        expected = ("succeeded", None) if outcome == "succeeded" else ("expired", "deadline")
        assert (job["status"], job["reason"], job["late"]) == (*expected, False)
        assert len(running.world.status_checks) == 1


async def waited_for(running: Running, job_id: str) -> None:
    """Returns when the end of the job waits for its last check."""
    async with asyncio.timeout(10):
        for _ in iter(int, 1):
            job = await running.app.store.jobs.get(job_id, DEFAULT_PROJECT)
            if job is not None and job.settle_by is not None:
                return
            await asyncio.sleep(0.01)


async def test_the_last_check_holds_the_end_back_for_a_bounded_time(tmp_path: Path) -> None:
    """A provider that hangs at the last check keeps the job open for half a minute more, and no longer."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        running.world.next_faults.append(Faults(lost=True, check="hang"))
        job = await running.submit(deadline_s=60)
        clock.advance(60)
        await running.world.wait_for(lambda world: len(world.status_checks) == 1)
        path = f"/v1/jobs/{job['id']}"
        # The check may be under way before the sweep that asked for it is written.
        await waited_for(running, job["id"])
        clock.advance(29)
        assert (await running.get(path))["status"] == "submitted"
        clock.advance(1)
        await running.until(path, lambda told: told["status"] == "expired")


async def test_a_deadline_that_passed_while_relay_was_down_is_checked_before_it_counts(tmp_path: Path) -> None:
    """A result that waits at the provider is not thrown away because relay slept past the deadline."""
    clock, world = HeldClock(), sandbox(pace_s=None)
    try:
        async with relay(tmp_path, clock=clock, world=world) as running:
            job_id = await lost(running, deadline_s=600)
            await world.finish(next(iter(world.jobs)))
        clock.advance(7200)
        async with relay(tmp_path, clock=clock, world=world) as running:
            job = await running.until(f"/v1/jobs/{job_id}", lambda told: told["finished_at"] is not None)
            assert (job["status"], job["finished_by"], job["late"]) == ("succeeded", "status_check", False)
    finally:
        await world.close()


async def test_ids_that_disagree_are_a_conflict_that_the_answer_wins(tmp_path: Path) -> None:
    """A callback under one id before the answer under another: both are kept, and the answer's id is asked about."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        running.world.next_faults.append(Faults(early=True, wrong_id=True))
        job = await running.submit()
        real = next(iter(running.world.jobs))
        done = await running.until(f"/v1/jobs/{job['id']}", lambda told: told["status"] == "succeeded")
        assert done["provider_job_id"] == real
        assert "conflict: a callback said" in str((await running.get(f"/v1/jobs/{job['id']}/timeline"))["data"])
