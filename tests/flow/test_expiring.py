"""`job.output_expiring`: told once, in time, where a result will soon be gone at its provider, and never after."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.lifecycle import output_expiry
from relay.lifecycle.reports import StatusReport, enter
from relay.model import ids
from relay.model.job import Disposition, EventType, FinishedBy, Job, JobState, Output, OutputKind, Report, Verification
from relay.model.resources.times import time_or_none
from relay.sandbox.faults import Faults
from relay.security.encryption import Encryption
from relay.storage.apply_updates import DEFAULT_PROJECT, JobUpdate
from relay.storage.history import EventFilter
from relay.storage.job_rows import Timer
from relay.storage.jobs import NewJob
from relay.storage.pages import Listing
from relay.storage.store import Store, StoreOptions
from tests.support.postgres import Server
from tests.support.running import START_MS, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

HOUR_S = 3600
KIND = "job.output_expiring"
times = st.integers(START_MS, START_MS + 10_000_000)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


async def succeeded(running: Running, provider: str = "evolink", **fields: Any) -> dict[str, Any]:
    """Return a job that has succeeded, its end told."""
    job = await running.submit(provider, **fields)
    await running.world.finish(job["provider_job_id"])
    return await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")


async def swept(running: Running, seconds: float = 0) -> None:
    """Advance the clock, and require that the sweep has left nothing that is due."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)
    assert not await running.app.store.jobs.due(Timer.EXPIRING, running.clock.now_ms(), 1)


async def said(running: Running, job: dict[str, Any]) -> list[str]:
    """Return the types of a job's events, in order; their numbers have no gap."""
    events = (await running.get(f"/v1/events?job={job['id']}"))["data"][::-1]
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    return [event["type"] for event in events]


def outputs_until(*expiries: int | None) -> tuple[Output, ...]:
    """Return outputs that expire then."""
    return tuple(
        Output(kind=OutputKind.VIDEO, url="https://cdn.example.com/a.mp4", expires_at=time_or_none(at))
        for at in expiries
    )


@given(st.lists(st.none() | times, max_size=4), times, st.integers(0, 10_000_000))
def test_it_is_due_in_the_second_half_and_before_the_end(
    expiries: list[int | None], now_ms: int, before_ms: int
) -> None:
    """Never in the first half of what is left, never when it is over; else so long before, as near as that allows."""
    due_at = output_expiry.due_at(outputs_until(*expiries), now_ms, before_ms)
    ahead = [at for at in expiries if at is not None and at > now_ms]
    assert (due_at is None) == (not ahead or before_ms == 0)
    if due_at is not None:
        first = min(ahead)
        half_at = now_ms + (first - now_ms) // 2
        assert half_at <= due_at < first
        assert due_at in (half_at, first - before_ms)
        assert due_at >= first - before_ms


@given(st.lists(st.none() | times, max_size=4), st.none() | times, times, st.integers(0, 10))
def test_telling_changes_the_timer_and_nothing_else(
    expiries: list[int | None], due_at: int | None, now_ms: int, before_ms: int
) -> None:
    """Only what is due, and not gone yet, is announced; the second time nothing is."""
    job = a_job(outputs_until(*expiries), due_at)
    transition = output_expiry.announce(job, now_ms, enabled=before_ms > 0)
    is_due = due_at is not None and due_at <= now_ms
    alive = any(at is not None and at > now_ms for at in expiries)
    assert (transition.announce is EventType.JOB_OUTPUT_EXPIRING) == (is_due and alive and before_ms > 0)
    assert (transition.disposition is Disposition.RECORDED) == (transition.announce is not None)
    assert transition.job == a_job(job.outputs, None if is_due else due_at, job.id)
    assert transition.supersedes is None
    assert output_expiry.announce(transition.job, now_ms, enabled=before_ms > 0).announce is None


def a_job(outputs: tuple[Output, ...], due_at: int | None, job_id: str | None = None) -> Job:
    """Return a job that has succeeded with these outputs."""
    return Job(
        id=job_id or ids.new_id(ids.JOB),
        project_id=DEFAULT_PROJECT,
        provider="evolink",
        state=JobState.SUCCEEDED,
        created_at=START_MS,
        updated_at=START_MS,
        finished_at=START_MS,
        deadline_at=START_MS,
        request={},
        outputs=outputs,
        expiring_at=due_at,
    )


async def test_it_is_told_once_an_hour_before_a_result_of_a_day_is_gone(running: Running) -> None:
    """After 23 hours, and not before, to the endpoints that want it; the job stays as it is, and no more comes."""
    notify = [{"url": running.hook, "event_types": ["job.*"]}, {"url": running.hook, "event_types": ["job.succeeded"]}]
    job = await succeeded(running, notify=notify)
    await swept(running, 23 * HOUR_S - 1)
    assert await said(running, job) == ["job.submitted", "job.succeeded"]
    await swept(running, 1)
    path = f"/v1/events?job={job['id']}"
    event = (await running.until(path, lambda shown: len(shown["data"]) == 3))["data"][0]
    assert (event["type"], event["sequence"], event["final"]) == (KIND, 3, False)
    assert (event["data"]["final"], event["data"]["supersedes"], event["data"]["job"]) == (False, None, job)
    await running.sink.wait_for(lambda sink: KIND in sink.events())
    for _ in range(3):
        await swept(running, HOUR_S)
    assert await said(running, job) == ["job.submitted", "job.succeeded", KIND]
    assert sorted(running.sink.events()) == [KIND, "job.submitted", "job.succeeded", "job.succeeded"]
    assert await running.get(f"/v1/jobs/{job['id']}") == job
    story = (await running.get(f"/v1/jobs/{job['id']}/timeline"))["data"]
    assert [line["summary"] for line in story if line["kind"] == "event"][-1] == f"{KIND}, number 3 of this job"
    assert await running.app.store.jobs.next_clock() is None


async def test_a_result_that_lives_for_half_an_hour_is_told_of_after_a_quarter(running: Running) -> None:
    """The first half of a result's time is quiet, however long before its end it is to be told."""
    job = await succeeded(running, "relaydance")
    assert await running.app.store.jobs.next_clock() == START_MS + 900_000
    await swept(running, 899)
    assert (await said(running, job))[-1] == "job.succeeded"
    await swept(running, 1)
    await running.until(f"/v1/events?job={job['id']}", lambda shown: shown["data"][0]["type"] == KIND)


async def test_what_ended_otherwise_is_not_told_of(running: Running) -> None:
    """A failure sets no timer; nothing is left for the sweep to do."""
    running.world.next_faults.append(Faults(outcome="failed"))
    job = await running.submit()
    await running.world.finish(job["provider_job_id"])
    await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "failed")
    assert await running.app.store.jobs.next_clock() is None


async def test_with_0_it_is_never_told(tmp_path: Path) -> None:
    """No timer is set, and one that was set before is dropped without a word."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        timed = await succeeded(running)
    async with relay(tmp_path, clock=clock, RELAY_OUTPUT_EXPIRING_S="0") as running:
        job = await succeeded(running)
        await swept(running, 23 * HOUR_S)
        assert await running.app.store.jobs.next_clock() is None
        for one in (timed, job):
            assert (await said(running, one))[-1] == "job.succeeded"


async def test_what_is_gone_when_relay_is_back_is_not_told_of(tmp_path: Path) -> None:
    """A relay that was away for two days says nothing of results that went meanwhile; after a day it still does."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        day = await succeeded(running)
        fortnight = await succeeded(running, "kinovi")
    await clock.advance(48 * HOUR_S)
    async with relay(tmp_path, clock=clock) as running:
        await swept(running)
        assert (await said(running, day))[-1] == "job.succeeded"
    await clock.advance((14 * 24 - 48) * HOUR_S - 60)
    async with relay(tmp_path, clock=clock) as running:
        await swept(running)
        await running.until(f"/v1/events?job={fortnight['id']}", lambda shown: shown["data"][0]["type"] == KIND)


async def test_fresh_urls_have_a_time_of_their_own(running: Running) -> None:
    """A status check that brings the result signed anew begins it again: told of once more, when that is due."""
    job = await succeeded(running, "relaydance")
    await swept(running, 600)
    assert (await running.client.post(f"/v1/jobs/{job['id']}/status-checks")).status_code == 200
    await swept(running, 899)
    assert (await said(running, job))[-1] == "job.succeeded"
    await swept(running, 1)
    await running.until(f"/v1/events?job={job['id']}", lambda shown: shown["data"][0]["type"] == KIND)
    assert (await running.client.post(f"/v1/jobs/{job['id']}/status-checks")).status_code == 200
    await swept(running, 900)
    await running.until(f"/v1/events?job={job['id']}", lambda shown: len(shown["data"]) == 4)
    assert (await said(running, job))[-2:] == [KIND, KIND]


async def test_a_correction_sets_the_timer_anew_and_supersedes_the_end(running: Running) -> None:
    """After a correction to failed nothing expires; what it supersedes is the end that was told, not the reminder."""
    job = await succeeded(running)
    await swept(running, 23 * HOUR_S)
    path = f"/v1/events?job={job['id']}"
    told = (await running.until(path, lambda shown: shown["data"][0]["type"] == KIND))["data"]
    await running.world.turn(job["provider_job_id"], "failed")
    corrected = (await running.until(path, lambda shown: shown["data"][0]["type"] == "job.corrected"))["data"][0]
    assert corrected["data"]["supersedes"] == told[1]["id"]
    assert await running.app.store.jobs.next_clock() is None
    running.world.jobs[job["provider_job_id"]].state = "succeeded"
    await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
    await running.until(path, lambda shown: len(shown["data"]) == 5)
    await swept(running, 23 * HOUR_S)
    await running.until(path, lambda shown: shown["data"][0]["type"] == KIND)


async def test_several_processes_tell_it_once(database_server: Server) -> None:
    """Two relays on one PostgreSQL that find the same jobs due at once announce each of them once."""
    url, options = (
        database_server.database(),
        StoreOptions(lease_ms=25_000, backlog_max=512, callbacks_per_job_max=5, schedule_s=(0,), expiring_ms=60_000),
    )
    stores = [await Store.open(url, Encryption(["k" * 16]), options, START_MS) for _ in range(2)]
    try:
        jobs = [a_job((), None) for _ in range(20)]
        for job in jobs:
            await stores[0].jobs.create(NewJob(job, ()))
        ended = StatusReport(
            report=Report(state=JobState.SUCCEEDED, provider_status="done", outputs=outputs_until(START_MS + 100_000)),
            source=FinishedBy.CALLBACK,
            verification=Verification.SIGNATURE,
        )
        for job in jobs:
            await stores[0].jobs.record(
                JobUpdate(job_id=job.id, at=START_MS, transition=lambda job: enter(job, ended, START_MS))
            )
        now_ms = START_MS + 50_000
        assert await stores[0].jobs.due(Timer.EXPIRING, now_ms - 1, 100) == []
        assert len(await stores[0].jobs.due(Timer.EXPIRING, now_ms, 7)) == 7
        due = [(store, job.id) for store in stores for job in await store.jobs.due(Timer.EXPIRING, now_ms, 100)]
        assert len(due) == 40

        def told(job: Job) -> Any:
            return output_expiry.announce(job, now_ms, enabled=True)

        updates = (store.jobs.record(JobUpdate(job_id=job_id, at=now_ms, transition=told)) for store, job_id in due)
        announced = [one.announced for one in await asyncio.gather(*updates)]
        assert announced.count(EventType.JOB_OUTPUT_EXPIRING) == 20
        for job in jobs:
            wanted = EventFilter(job_id=job.id, type=EventType.JOB_OUTPUT_EXPIRING)
            assert (
                len(
                    (await stores[1].events.page(DEFAULT_PROJECT, Listing(before=None, limit=10), wanted, now_ms)).items
                )
                == 1
            )
    finally:
        for store in stores:
            await store.close()
