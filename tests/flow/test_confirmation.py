"""Confirmation: what a callback says of a job's end is told only once its provider's own status has been asked."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.sandbox.faults import Faults
from relay.sandbox.providers import sandbox
from tests.support.calling_back import DONE, MP4, post
from tests.support.held import held
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock, every provider to be confirmed."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


async def advance(running: Running, seconds: float) -> None:
    """Move the relay's clock."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)


async def submitted(running: Running, faults: Faults | None = None, **fields: Any) -> dict[str, Any]:
    """Return a submitted job with these faults, told of to the sink."""
    running.world.next_faults.append(faults or Faults())
    return await running.submit(notify=[{"url": running.hook}], **fields)


async def ended(running: Running, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job once it is final."""
    return await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["finished_at"] is not None)


async def checks(running: Running, job: dict[str, Any]) -> list[str]:
    """Return the reasons that the timeline gives for each status check."""
    return reasons(await running.get(f"/v1/jobs/{job['id']}/timeline"))


def reasons(story: dict[str, Any]) -> list[str]:
    """Return the reasons of the status checks in a timeline."""
    return [line["reason"] for line in story["data"] if line["kind"] == "check"]


@pytest.mark.parametrize("provider", ["evolink", "relaydance", "kinovi"])
@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
async def test_an_end_is_confirmed_by_one_check_and_told_once(running: Running, provider: str, outcome: str) -> None:
    """One status check bears the callback out; the one final notification carries `verification: fetch`."""
    job = await submitted(running, Faults(outcome=outcome), provider=provider)
    await running.world.finish(job["provider_job_id"])
    done = await ended(running, job)
    assert (done["status"], done["finished_by"], done["verification"]) == (outcome, "callback", "fetch")
    assert running.world.status_checks == [job["provider_job_id"]]
    await running.sink.wait_for(lambda sink: sorted(sink.events()) == sorted(["job.submitted", f"job.{outcome}"]))


async def test_when_the_status_says_another_end_that_counts(running: Running) -> None:
    """A callback of success, and a status of failure: the job has failed, and both are there to be seen."""
    job = await submitted(running, Faults(check="lies", lie="failed"))
    await running.world.finish(job["provider_job_id"])
    done = await ended(running, job)
    assert (done["status"], done["finished_by"], done["verification"]) == ("failed", "status_check", "fetch")
    assert (
        "a callback said succeeded, the provider's status says failed: that counts" in (await checks(running, job))[0]
    )
    (callback,) = (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]
    assert callback["verdict"] == "recorded"


async def test_a_forged_success_is_never_told(running: Running) -> None:
    """Whoever has the token can report a result: the provider's status denies it, and the real one is told later."""
    job = await submitted(running)
    await post(running, DONE)
    await running.until(f"/v1/jobs/{job['id']}/timeline", lambda shown: "asked again" in str(shown["data"]))
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    assert running.sink.events() in ([], ["job.submitted"])
    real = running.world.jobs[job["provider_job_id"]]
    real.state = "succeeded"
    await advance(running, 5)
    done = await ended(running, job)
    assert [output["url"] for output in done["outputs"]] == [real.result_url]
    assert MP4 not in str(done)
    assert done["verification"] == "fetch"


async def test_a_disputed_end_is_asked_about_less_and_less(running: Running) -> None:
    """After a dispute the checks come after 5, 15 and 45 seconds."""
    job = await submitted(running)
    await post(running, DONE)
    for seconds, made in ((0, 1), (5, 2), (15, 3), (45, 4)):
        if seconds:
            await advance(running, seconds - 1)
            assert len(await checks(running, job)) == made - 1
            await advance(running, 1)
        await running.world.wait_for(lambda world, made=made: len(world.status_checks) == made)  # type: ignore[misc]
        path = f"/v1/jobs/{job['id']}/timeline"
        await running.until(path, lambda shown, made=made: str(shown["data"]).count("asked again") == made)  # type: ignore[misc]


@pytest.mark.parametrize(
    "faults",
    [
        Faults(check="not_found"),
        Faults(check="html"),
        Faults(check="reset"),
        Faults(check="empty"),
        Faults(check="lies", lie="pondering"),
        Faults(check_status=500),
        Faults(check_status=401),
        Faults(check_status=429, check_retry_after_s=60),
    ],
    ids=["not found", "an HTML page", "a reset", "nothing", "an unknown word", "500", "401", "429"],
)
async def test_an_end_that_cannot_be_confirmed_is_told_on_the_tokens_word(running: Running, faults: Faults) -> None:
    """A status route that says nothing of use holds no notification back; it is marked `verification: token`."""
    job = await submitted(running, faults)
    await running.world.finish(job["provider_job_id"])
    done = await ended(running, job)
    assert (done["status"], done["finished_by"], done["verification"]) == ("succeeded", "callback", "token")
    assert "could not be confirmed" in (await checks(running, job))[0]


async def test_a_check_that_hangs_holds_an_end_back_for_a_bounded_time(running: Running) -> None:
    """After RELAY_CONFIRM_WAIT_S the callback is believed as it is; until then the timeline says what is waited for."""
    job = await submitted(running, Faults(check="hang"))
    await running.world.finish(job["provider_job_id"])
    await running.world.wait_for(lambda world: len(world.status_checks) == 1)
    story = await running.get(f"/v1/jobs/{job['id']}/timeline")
    assert story["next"]["what"] == "the callback's succeeded is confirmed by a status check, or believed by then"
    await advance(running, 4.9)
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    await advance(running, 0.1)
    done = await ended(running, job)
    assert (done["status"], done["verification"]) == ("succeeded", "token")


async def test_never_means_that_nobody_is_asked(tmp_path: Path) -> None:
    """With RELAY_<PROVIDER>_CONFIRM=never a callback ends its job at once, without any status check."""
    async with relay(tmp_path, RELAY_EVOLINK_CONFIRM="never") as running:
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["status"], done["verification"]) == ("succeeded", "token")
        assert running.world.status_checks == []


async def test_a_callback_before_the_submissions_answer_is_confirmed_too(running: Running) -> None:
    """An early end waits for the id if it has to, and is confirmed under it."""
    running.world.next_faults.append(Faults(early=True, version="ark"))
    job = await running.submit("relaydance")
    done = await ended(running, job)
    assert (done["status"], done["verification"], done["finished_by"]) == ("succeeded", "fetch", "callback")
    assert set(running.world.status_checks) == {job["provider_job_id"] or done["provider_job_id"]}


@pytest.mark.parametrize(("first", "second"), [("failed", "succeeded"), ("succeeded", "failed")])
async def test_a_second_end_that_is_true_corrects_the_first(running: Running, first: str, second: str) -> None:
    """The provider changes its mind: `job.corrected` supersedes the first end; there is no second plain one."""
    job = await submitted(running, Faults(outcome=first))
    await running.world.finish(job["provider_job_id"])
    await ended(running, job)
    running.world.jobs[job["provider_job_id"]].state = second
    await post(running, DONE if second == "succeeded" else b'{"status":"failed"}')
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == second)
    assert (done["finished_by"], done["verification"], done["late"]) == ("status_check", "fetch", False)
    assert (done["error"] is None, len(done["outputs"])) == (second == "succeeded", int(second == "succeeded"))
    events = (await running.get(f"/v1/events?job={job['id']}"))["data"]
    assert [event["type"] for event in events[::-1]] == ["job.submitted", f"job.{first}", "job.corrected"]
    assert events[0]["data"]["supersedes"] == events[1]["id"]
    assert events[0]["final"] is True


async def test_a_second_end_that_is_false_changes_nothing(running: Running) -> None:
    """A callback that contradicts a confirmed end is asked about once, and the end stands."""
    job = await submitted(running)
    await running.world.finish(job["provider_job_id"])
    before = await ended(running, job)
    await post(running, b'{"status":"failed"}')
    await running.world.wait_for(lambda world: len(world.status_checks) == 2)
    await running.until(f"/v1/jobs/{job['id']}/timeline", lambda shown: "that stands" in str(shown["data"]))
    after = await running.get(f"/v1/jobs/{job['id']}")
    assert after | {"updated_at": before["updated_at"]} == before
    assert "job.corrected" not in str((await running.get(f"/v1/events?job={job['id']}"))["data"])


async def test_a_second_end_that_nobody_can_confirm_is_dropped_in_the_end(running: Running) -> None:
    """While the status route is away it is asked about again; after ten minutes the first end stands."""
    job = await submitted(running)
    await running.world.finish(job["provider_job_id"])
    await ended(running, job)
    kept = running.world.jobs.pop(job["provider_job_id"])
    await running.client.post(str(kept.callback_url), content=b'{"status":"failed"}')
    path = f"/v1/jobs/{job['id']}/timeline"
    story = await running.until(path, lambda shown: "before succeeded is corrected" in str(shown["data"]))
    assert "a later callback" in story["next"]["what"]
    await advance(running, 601)
    await running.until(path, lambda shown: shown["next"] is None)
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"


async def test_success_without_a_result_is_asked_about_twice_and_then_a_failure(running: Running) -> None:
    """The provider may only be slow to show its result; after two checks without one the job is failed, `no_output`."""
    job = await submitted(running, Faults(outcome="no_output"))
    await running.world.finish(job["provider_job_id"])
    await running.world.wait_for(lambda world: len(world.status_checks) == 1)
    await running.until(f"/v1/jobs/{job['id']}/timeline", lambda shown: "still without a result" in str(shown["data"]))
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    await advance(running, 5)
    done = await ended(running, job)
    assert (done["status"], done["reason"], done["error"]["class"]) == ("failed", "no_output", "provider_error")
    assert len(running.world.status_checks) == 2


async def test_a_result_that_comes_after_no_output_corrects_it(running: Running) -> None:
    """A job that failed without a result succeeds by `job.corrected` when its provider shows one after all."""
    job = await submitted(running, Faults(outcome="no_output"))
    await running.world.finish(job["provider_job_id"])
    await running.until(f"/v1/jobs/{job['id']}/timeline", lambda shown: "still without a result" in str(shown["data"]))
    await advance(running, 5)
    await ended(running, job)
    there = running.world.jobs[job["provider_job_id"]]
    running.world.jobs[job["provider_job_id"]] = type(there)(
        **{name: getattr(there, name) for name in there.__struct_fields__} | {"faults": Faults()}
    )
    await post(running, DONE)
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert (done["reason"], done["error"], done["verification"]) == (None, None, "fetch")


async def test_the_story_says_that_an_end_was_believed_on_its_token(running: Running) -> None:
    """Say beside the end that nothing confirmed it, and in the check's line how the provider answered."""
    job = await submitted(running, Faults(check="html"))
    await running.world.finish(job["provider_job_id"])
    assert (await ended(running, job))["verification"] == "token"
    story = (await running.get(f"/v1/jobs/{job['id']}/timeline"))["data"]
    end = next(line for line in story if line["decision"] == "succeeded" and line["kind"] == "state")
    assert end["reason"].startswith("believed on the callback's token alone")
    assert "it could not be confirmed (no_status)" in (await checks(running, job))[0]


async def unconfirmed(running: Running) -> dict[str, str]:
    """Return how many ends were believed without a confirmation, by why."""
    shown = (await running.client.get("/metrics")).text
    return dict(
        re.findall(r'^relay_jobs_unconfirmed_total\{provider="evolink",why="(\w+)"\} (\S+)$', shown, re.MULTILINE)
    )


async def test_the_story_knows_a_full_budget_from_a_provider_that_does_not_answer(tmp_path: Path) -> None:
    """Say of an end that was believed whether its check never began at the provider's pace, or had no answer."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_CHECKS_IN_FLIGHT_MAX="1") as running:
        asked, paced_out = [await submitted(running, Faults(check="hang")) for _ in range(2)]
        for job in (asked, paced_out):
            await running.world.finish(job["provider_job_id"])
            await running.world.wait_for(lambda world: len(world.status_checks) == 1)
        await advance(running, 5)
        for job in (asked, paced_out):
            assert (await ended(running, job))["verification"] == "token"
        assert running.world.status_checks == [asked["provider_job_id"]]
        assert await checks(running, asked) == [
            "it could not be confirmed in time (the provider has not answered the status check yet): now succeeded"
        ]
        (why,) = await checks(running, paced_out)
        assert "no status check began: other jobs used up what RELAY_CHECKS_IN_FLIGHT_MAX, RELAY_CHECKS_PER_S" in why
        assert await unconfirmed(running) == {"no_answer": "1.0", "paced_out": "1.0"}


async def test_the_story_knows_a_pause_of_the_provider(running: Running) -> None:
    """Say of an end that was believed that its provider had asked for a pause when it should have been checked."""
    limited = await submitted(running, Faults(check_status=429, check_retry_after_s=60))
    await running.world.finish(limited["provider_job_id"])
    assert "could not be confirmed (rate_limited)" in (await checks(running, await ended(running, limited)))[0]
    job = await submitted(running)
    await running.world.finish(job["provider_job_id"])
    await advance(running, 5)
    assert "because it answered 429" in (await checks(running, await ended(running, job)))[0]
    assert await unconfirmed(running) == {"paused": "1.0", "rate_limited": "1.0"}


async def test_an_unconfirmed_result_is_checked_after_a_restart(tmp_path: Path) -> None:
    """Confirm a callback whose time ran out while relay was stopped, instead of believing it at the start."""
    clock = HeldClock()
    world = sandbox(pace_s=None, time_scale=0)
    async with relay(tmp_path, clock=clock, world=world) as running:
        job = await submitted(running, Faults(check="hang"))
        await world.finish(job["provider_job_id"])
        await world.wait_for(lambda world: len(world.status_checks) == 1)
    hanging = world.jobs[job["provider_job_id"]]
    world.jobs[job["provider_job_id"]] = msgspec.structs.replace(hanging, faults=Faults())
    await clock.advance(36)
    async with relay(tmp_path, clock=clock, world=world) as running:
        assert (await ended(running, job))["verification"] == "fetch"
        # The check may be answered before the sweeper has recorded that it waits.
        says = {"relay was stopped meanwhile: the provider is asked now", "it was decided meanwhile"}
        await running.until(f"/v1/jobs/{job['id']}/timeline", lambda shown: not says.isdisjoint(reasons(shown)))
    await world.close()


BURST = {"RELAY_CHECKS_IN_FLIGHT_MAX": "2", "RELAY_CHECKS_PER_S": "2"}
"""The pace that confirmations begin with: in five seconds it confirms twelve results."""


@pytest.mark.parametrize(("per_s_max", "confirmed"), [("64", 28), ("2", 11)])
async def test_a_burst_is_confirmed_as_fast_as_its_provider_answers(
    tmp_path: Path, per_s_max: str, confirmed: int
) -> None:
    """Confirm 28 results in time where the pace may grow; where it may not, say of the others that they waited."""
    environ = BURST | {"RELAY_CONFIRMATIONS_PER_S_MAX": per_s_max}
    async with held(tmp_path, **environ) as (running, clock):
        jobs = [await running.submit() for _ in range(28)]
        for job in jobs:
            await running.world.finish(job["provider_job_id"])
        for _ in range(19):
            await clock.advance(0.25)
        assert len(running.world.status_checks) == confirmed
        assert await unconfirmed(running) == {}
        await clock.advance(0.25)
        for job in jobs:
            await ended(running, job)
        counted = await unconfirmed(running)
        assert sum(map(float, counted.values())) in ((0,) if confirmed == 28 else (16, 17))
        assert counted.keys() <= {"paced_out", "no_answer"}


async def test_checks_that_wait_for_no_confirmation_keep_their_own_pace(tmp_path: Path) -> None:
    """Check a job whose callback is lost when it is due, however many results wait to be confirmed."""
    async with held(tmp_path, RELAY_STATUS_CHECK_FIRST_S="10", **BURST) as (running, clock):
        lost = await submitted(running, Faults(lost=True))
        jobs = [await submitted(running, Faults(check="hang")) for _ in range(20)]
        await clock.advance(9)
        for job in jobs:
            await running.world.finish(job["provider_job_id"])
        await clock.advance(1)
        assert lost["provider_job_id"] in running.world.status_checks


async def test_a_result_is_checked_again_after_a_short_pause(running: Running) -> None:
    """Confirm a result whose check was answered 429 once the provider's pause is over, if that is in time."""
    job = await submitted(running, Faults(check_status=429, check_retry_after_s=4, check_times=1))
    await running.world.finish(job["provider_job_id"])
    await advance(running, 3.999)
    assert len(running.world.status_checks) == 1
    await advance(running, 0.001)
    assert (await ended(running, job))["verification"] == "fetch"
    assert "no status (rate_limited): asked again after the pause" in (await checks(running, job))[0]
    assert await unconfirmed(running) == {}
