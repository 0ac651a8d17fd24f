"""Status checks: a job whose callback never comes, or says nothing sure, is asked about and ends all the same."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.clock import parse_rfc3339
from relay.lifecycle import checks as checking
from relay.model.job import Disposition, Job, JobState, Report
from relay.sandbox.faults import Faults
from relay.sandbox.providers import sandbox
from relay.storage.boots import CHECK_LEASE_MS
from tests.support.quiescence import quiet
from tests.support.running import START_MS, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

FIRST_S = 165 * 1.5


async def checks(running: Running, job_id: str) -> list[str]:
    """Return the outcomes of a job's status checks, in order."""
    story = await running.get(f"/v1/jobs/{job_id}/timeline")
    return [line["decision"] for line in story["data"] if line["kind"] == "check"]


async def lost(running: Running, **fields: Any) -> str:
    """Return a submitted job whose callback is never sent."""
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
        await clock.advance(30)
        job = await running.until(f"/v1/jobs/{job_id}", lambda shown: shown["status"] == "succeeded")
        assert (job["finished_by"], job["verification"]) == ("status_check", "fetch")
        await running.sink.wait_for(lambda sink: sorted(sink.events()) == ["job.submitted", "job.succeeded"])


async def test_the_first_check_waits_for_the_providers_own_estimate_and_half_more(tmp_path: Path) -> None:
    """A provider that says 165 s is asked after 247.5 s, then after twice as long, and so on."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        job_id = await lost(running)
        await clock.advance(FIRST_S - 1)
        assert await checks(running, job_id) == []
        story = await running.get(f"/v1/jobs/{job_id}/timeline")
        assert story["next"]["what"].startswith("a status check")
        await clock.advance(1)
        await running.until(f"/v1/jobs/{job_id}/timeline", lambda shown: "check" in str(shown["data"]))
        await clock.advance(FIRST_S)
        assert await checks(running, job_id) == ["submitted"]


async def test_an_answer_that_has_no_status_leaves_the_job_open(tmp_path: Path) -> None:
    """A provider that does not know the job (yet) ends nothing; it is asked again later."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_STATUS_CHECK_FIRST_S="30") as running:
        job_id = await lost(running)
        hidden = running.world.jobs.popitem()
        await clock.advance(30)
        shown = await running.until(f"/v1/jobs/{job_id}/timeline", lambda told: "check" in str(told["data"]))
        assert "no status" in str(shown["data"])
        running.world.jobs[hidden[0]] = hidden[1]
        await running.world.finish(hidden[0])
        await clock.advance(61)
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
        await clock.advance(30)
        await running.until(f"/v1/jobs/{job['id']}", lambda told: told["status"] == "succeeded")


async def test_what_became_due_while_relay_was_down_is_checked_at_its_start(tmp_path: Path) -> None:
    """A callback that came while nobody listened is made good by the first turn of the checks."""
    clock, world = HeldClock(), sandbox(pace_s=None)
    try:
        async with relay(tmp_path, clock=clock, world=world) as running:
            job_id = await lost(running)
            await world.finish(next(iter(world.jobs)))
        await clock.advance(FIRST_S)
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
        await clock.advance(FIRST_S)
        path = f"/v1/jobs/{job['id']}/timeline"
        await running.until(path, lambda shown: "no status" in str(shown["data"]))
        await clock.advance(30)
        await running.until(f"/v1/jobs/{job['id']}", lambda told: told["status"] == "succeeded")


async def test_a_retry_after_pauses_every_check_at_its_provider(tmp_path: Path) -> None:
    """After 429 with Retry-After nobody asks that provider before then, about whatever job; others are asked."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_STATUS_CHECK_FIRST_S="10") as running:
        running.world.next_faults.append(Faults(lost=True, check_status=429, check_retry_after_s=120, check_times=1))
        first = await running.submit()
        await clock.advance(10)
        await running.until(f"/v1/jobs/{first['id']}/timeline", lambda shown: "no status" in str(shown["data"]))
        second, other = await lost(running), await lost(running, provider="kinovi")
        await clock.advance(100)
        await running.until(f"/v1/jobs/{other}/timeline", lambda shown: "check" in str(shown["data"]))
        assert running.world.status_checks == [first["provider_job_id"], list(running.world.jobs)[-1]]
        await clock.advance(20)
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
            await clock.advance((parse_rfc3339(next_at) - clock.now_ms()) / 1000)
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
            await clock.advance(600)
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
        await clock.advance(60)
        job = await running.until(f"/v1/jobs/{job_id}", lambda told: told["finished_at"] is not None)
        expected = ("succeeded", None) if outcome == "succeeded" else ("expired", "deadline")
        assert (job["status"], job["reason"], job["late"]) == (*expected, False)
        assert len(running.world.status_checks) == 1


async def test_the_last_check_holds_the_end_back_for_a_bounded_time(tmp_path: Path) -> None:
    """A provider that hangs at the last check keeps the job open for two minutes more, and no longer."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        running.world.next_faults.append(Faults(lost=True, check="hang"))
        job = await running.submit(deadline_s=60)
        await clock.advance(60)
        await running.world.wait_for(lambda world: len(world.status_checks) == 1)
        path = f"/v1/jobs/{job['id']}"
        await clock.advance(119)
        assert (await running.get(path))["status"] == "submitted"
        await clock.advance(1)
        await running.until(path, lambda told: told["status"] == "expired")


async def test_a_deadline_that_passed_while_relay_was_down_is_checked_before_it_counts(tmp_path: Path) -> None:
    """A result that waits at the provider is not thrown away because relay slept past the deadline."""
    clock, world = HeldClock(), sandbox(pace_s=None)
    try:
        async with relay(tmp_path, clock=clock, world=world) as running:
            job_id = await lost(running, deadline_s=600)
            await world.finish(next(iter(world.jobs)))
        await clock.advance(7200)
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


@pytest.mark.parametrize("fault", ["html", "reset"])
async def test_a_last_check_that_brings_no_answer_is_made_again(tmp_path: Path, fault: str) -> None:
    """Ask again 5 s after a 502 or a reset at the deadline: a result that is there is not thrown away."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        running.world.next_faults.append(Faults(lost=True, check=fault, check_times=1))
        job = await running.submit(deadline_s=60)
        await running.world.finish(job["provider_job_id"])
        await clock.advance(59)
        await clock.advance(1)
        path = f"/v1/jobs/{job['id']}"
        assert "'check'" in str((await running.get(f"{path}/timeline"))["data"])
        await clock.advance(4.9)
        assert ((await running.get(path))["finished_at"], len(running.world.status_checks)) == (None, 1)
        await clock.advance(0.1)
        done = await running.get(path)
        assert (done["status"], done["finished_by"]) == ("succeeded", "status_check")


def overdue_job(**fields: Any) -> Job:
    """Return a submitted job whose deadline is over, and that waits for its last check."""
    job = Job(
        id="job_1", project_id="default", provider="evolink", state=JobState.SUBMITTED, created_at=0, updated_at=0,
        deadline_at=1000, request={}, input=None, metadata={}, model=None, provider_job_id="task-1",
    )  # fmt: skip
    return msgspec.structs.replace(checking.overdue(job, True, 1000).job, **fields)


def test_a_last_check_that_died_is_made_again_before_the_job_ends() -> None:
    """Hold the end back for longer than the lease of a check that began at the deadline or before it."""
    job = overdue_job()
    assert job.confirm_by is not None
    assert job.confirm_by - 1000 >= CHECK_LEASE_MS + 35_000


@pytest.mark.parametrize(("late_ms", "state"), [(29_999, "expired"), (30_000, "submitted")])
def test_what_could_not_be_asked_while_relay_was_stopped_is_asked(late_ms: int, state: str) -> None:
    """Ask once more where the sweep itself comes late: then no check was made in that time either."""
    job = overdue_job()
    assert job.confirm_by is not None
    transition = checking.conclude(job, job.confirm_by + late_ms)
    assert transition.job.state == state


async def test_junk_callbacks_do_not_pace_the_checks(tmp_path: Path) -> None:
    """Check a job twice for callbacks that prove nothing, as `RELAY_DOUBTS_FREE` says, then once after the pause."""
    doubts = {"RELAY_DOUBTS_FREE": "2", "RELAY_DOUBT_PAUSE_S": "7"}
    async with relay(tmp_path, clock=HeldClock(), **doubts) as running:  # type: ignore[arg-type]
        job_id = await lost(running)
        for made in range(8):
            await running.client.post(running.callback_url(), content=b"junk %d" % made)
            await quiet()
        assert len(running.world.status_checks) == 2
        assert isinstance(running.clock, HeldClock)
        await running.clock.advance(6)
        assert len(running.world.status_checks) == 2
        await running.clock.advance(1)
        await running.world.wait_for(lambda world: len(world.status_checks) == 3)
        assert (await running.get(f"/v1/jobs/{job_id}"))["status"] == "submitted"


def test_an_answer_about_another_job_is_not_asked_for_again_at_once() -> None:
    """Keep the usual pause after a status answer that names another id."""
    job = msgspec.structs.replace(overdue_job(), deadline_at=10_000_000, confirm_by=None, next_check_at=60_000)
    about_another = Report(state=JobState.RUNNING, provider_status="processing", provider_job_id="task-2")
    check = checking.StatusCheck(
        asked_id="task-1", finding=checking.CheckOutcome.STATUS, report=about_another, started_at=1, again_at=300_000,
        paused_until=2_000, heartbeat_ms=3_600_000,
    )  # fmt: skip
    transition = checking.decide(job, check, 2_000)
    assert (transition.disposition, transition.job.next_check_at) == (Disposition.MISMATCHED, 300_000)


async def test_the_verb_has_a_pace(tmp_path: Path) -> None:
    """Answer 429 with Retry-After beyond the share of a job, and ask the provider no more often."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_CHECKS_ASKED_PER_JOB="2") as running:
        job_id = await lost(running)
        answers = [await running.client.post(f"/v1/jobs/{job_id}/status-checks") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].headers["retry-after"] == "30"
        assert len(running.world.status_checks) == 2


async def test_a_check_over_its_share_is_refused_before_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read and write nothing for a check that is over its share, however often it comes and with whatever key."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_CHECKS_ASKED_PER_JOB="2") as running:
        job_id = await lost(running)
        path = f"/v1/jobs/{job_id}/status-checks"
        taken = [await running.client.post(path, headers={"idempotency-key": str(number)}) for number in range(2)]
        assert [answer.status_code for answer in taken] == [200, 200]
        await quiet()
        names: list[str] = []
        database: Any = running.app.store.database
        rows, transact = database.rows, database.transact

        async def counted(name: str, *arguments: Any) -> Any:
            names.append(name)
            return await rows(name, *arguments)

        async def counted_writes(work: Any) -> Any:
            names.append("a write")
            return await transact(work)

        monkeypatch.setattr(database, "rows", counted)
        monkeypatch.setattr(database, "transact", counted_writes)
        assert {(await running.client.post(path, content=b"no JSON")).status_code for _ in range(5)} == {429}
        assert names == []
        fresh = [await running.client.post(path, headers={"idempotency-key": f"new {number}"}) for number in range(3)]
        assert ({answer.status_code for answer in fresh}, set(names)) == ({429}, {"idempotency_key"})
        again = await running.client.post(path, headers={"idempotency-key": "0"})
        assert (again.status_code, again.json()) == (200, taken[0].json())
        assert again.headers["idempotent-replayed"] == "true"
        assert (await running.client.post("/v1/jobs/job_none/status-checks")).status_code == 404


def test_a_check_that_fails_as_the_deadline_comes_is_made_again() -> None:
    """Give the last check its window though the sweep has not seen yet that the job is overdue."""
    job = msgspec.structs.replace(overdue_job(), confirm_by=None)
    check = checking.StatusCheck(
        asked_id="task-1",
        finding=checking.CheckOutcome.NO_ANSWER,
        report=None,
        started_at=990,
        again_at=31_000,
        paused_until=1_000,
        heartbeat_ms=10**9,
    )
    transition = checking.decide(job, check, job.deadline_at)
    assert (transition.job.state, transition.job.confirm_by) == (
        JobState.SUBMITTED,
        job.deadline_at + checking.LAST_CHECK_MS,
    )
    assert checking.decide(job, check, job.deadline_at - 1).job.confirm_by is None
