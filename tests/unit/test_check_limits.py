"""The limits of status checks and deadlines, each just before and just after, as decisions about one job."""

from typing import Any

import msgspec

from relay.lifecycle import checks, reports
from relay.lifecycle.checks import CheckOutcome, StatusCheck
from relay.lifecycle.reports import StatusReport, Transition
from relay.model.backoff import CHECK_MARGIN, check_delay_ms
from relay.model.job import (
    Disposition,
    EventType,
    FinishedBy,
    Job,
    JobState,
    Output,
    OutputKind,
    Report,
    Unconfirmed,
    UnconfirmedResult,
    Verification,
)
from tests.support.rows import rows

NOW = 10_000_000
HOUR_MS = 3_600_000
VIDEO = (Output(kind=OutputKind.VIDEO, url="https://cdn.example/a.mp4"),)
OTHER = (Output(kind=OutputKind.VIDEO, url="https://cdn.example/b.mp4"),)


def job(**fields: Any) -> Job:
    """Return a job that its provider works on under the id `task-1`, with an hour to its deadline."""
    made = Job(
        id="job_1", project_id="prj_default", provider="evolink", state=JobState.SUBMITTED, created_at=NOW,
        updated_at=NOW, deadline_at=NOW + HOUR_MS, request={}, provider_job_id="task-1", submitted_at=NOW,
        last_report_at=NOW,
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


def ended(state: JobState = JobState.SUCCEEDED, **fields: Any) -> Job:
    """Return a job that its provider has ended."""
    outputs = VIDEO if state is JobState.SUCCEEDED else ()
    proven = {"finished_by": FinishedBy.CALLBACK, "verification": Verification.FETCH, "finished_at": NOW}
    return job(state=state, outputs=outputs, **(proven | fields))


def report(state: JobState | None = JobState.RUNNING, **fields: Any) -> Report:
    """Return what a provider says about the job."""
    outputs = VIDEO if state is JobState.SUCCEEDED else ()
    return Report(**({"state": state, "provider_status": str(state), "outputs": outputs} | fields))


def unconfirmed(
    state: JobState = JobState.SUCCEEDED, *, tries: int = 0, at: int = NOW, **fields: Any
) -> UnconfirmedResult:
    """Return what a callback said about the job's end."""
    return UnconfirmedResult(report=report(state, **fields), callback_id="cb_1", at=at, tries=tries)


def checked(
    before: Job, said: Report | CheckOutcome, now_ms: int = NOW, *, again_in_ms: int = HOUR_MS, **fields: Any
) -> Transition:
    """Return what a status check that was started just now makes of the job."""
    check = StatusCheck(
        asked_id=before.provider_job_id,
        finding=CheckOutcome.STATUS if isinstance(said, Report) else said,
        report=said if isinstance(said, Report) else None,
        started_at=fields.pop("started_at", now_ms),
        again_at=now_ms + again_in_ms,
        paused_until=now_ms + fields.pop("paused_ms", again_in_ms),
        heartbeat_ms=fields.pop("heartbeat_ms", 24 * HOUR_MS),
    )
    return checks.decide(before, check, now_ms)


@rows(
    ("answers_before", "age_ms", "state"),
    [
        (1, 600_000, JobState.SUBMITTED),
        (2, 599_999, JobState.SUBMITTED),
        (2, 600_000, JobState.FAILED),
        (3, 600_000, JobState.FAILED),
    ],
)
def test_a_job_is_lost_at_the_third_not_found_after_ten_minutes(
    answers_before: int, age_ms: int, state: JobState
) -> None:
    """End the job where both hold: three answers that the provider does not know it, and an age of ten minutes."""
    before = job(not_found_seen=answers_before)
    transition = checked(before, CheckOutcome.NOT_FOUND, NOW + age_ms)
    assert transition.job.state is state
    assert transition.job.not_found_seen == answers_before + 1
    assert checked(before, CheckOutcome.NO_STATUS, NOW + age_ms).job.not_found_seen == answers_before


def test_a_job_whose_submission_time_is_unknown_is_not_lost_yet() -> None:
    """Count no age where no submission was noted."""
    assert not checked(
        job(not_found_seen=5, submitted_at=None), CheckOutcome.NOT_FOUND, NOW + HOUR_MS - 1
    ).job.state.final


@rows(("silence_ms", "state"), [(3_659_999, JobState.SUBMITTED), (3_660_000, JobState.EXPIRED)])
def test_a_silent_provider_ends_a_job_after_its_heartbeat(silence_ms: int, state: JobState) -> None:
    """Expire a job exactly when nothing came from its provider for so long, and say for how many minutes."""
    before = job(deadline_at=NOW + 24 * HOUR_MS)
    transition = checked(before, CheckOutcome.NO_ANSWER, NOW + silence_ms, heartbeat_ms=3_660_000)
    assert transition.job.state is state
    assert transition.job.state is JobState.SUBMITTED or "for 61 minutes" in (transition.reason or "")
    silent = checked(msgspec.structs.replace(before, last_report_at=None), CheckOutcome.NO_ANSWER, NOW, heartbeat_ms=1)
    assert silent.job.state is JobState.SUBMITTED


@rows(("made", "pause_s"), [(0, 247.5), (1, 495), (2, 600), (3, 600), (50, 600)])
def test_the_pause_between_checks_doubles_up_to_ten_minutes(made: int, pause_s: float) -> None:
    """Ask after 1.5 times the estimate, then twice as late, and at least every ten minutes."""
    assert check_delay_ms(165 * CHECK_MARGIN, made) == pause_s * 1000


def test_the_shortest_pause_doubles_twenty_times() -> None:
    """Reach ten minutes from a millisecond too."""
    assert [check_delay_ms(0.001, made) for made in (0, 1, 19, 20, 21)] == [1, 2, 524_288, 600_000, 600_000]


@rows("made", [0, 1, 30])
def test_a_first_pause_of_over_ten_minutes_stays_what_it_is(made: int) -> None:
    """Ask a provider that estimates 15 minutes every 15 minutes."""
    assert check_delay_ms(900, made) == 900_000


def test_the_next_check_comes_as_late_as_was_said_but_not_after_the_deadline() -> None:
    """Check again at the said time, at the deadline where that is earlier, and sooner where it is due already."""
    running = report()
    assert checked(job(), running, again_in_ms=HOUR_MS - 1).job.next_check_at == NOW + HOUR_MS - 1
    assert checked(job(), running, again_in_ms=HOUR_MS + 1).job.next_check_at == NOW + HOUR_MS
    assert checked(job(next_check_at=NOW), running).job.next_check_at == NOW
    assert checked(job(next_check_at=NOW + 1), running).job.next_check_at == NOW + HOUR_MS


@rows(("now_ms", "state"), [(NOW + HOUR_MS - 1, "running"), (NOW + HOUR_MS, "expired")])
def test_a_check_at_the_deadline_is_the_last(now_ms: int, state: str) -> None:
    """Expire a job whose provider says at its deadline that it goes on, and no millisecond before."""
    assert checked(job(), report(), now_ms).job.state == state


def test_the_deadline_gives_the_last_check_two_minutes() -> None:
    """Ask immediately at the deadline, leave a check alone that is under way, and wait two minutes for it."""
    before, at = job(next_check_at=NOW + HOUR_MS), NOW + HOUR_MS
    early = checks.overdue(before, True, at - 1)
    assert (early.disposition, early.job) == (Disposition.STALE, before)
    due = checks.overdue(before, True, at).job
    assert (due.state, due.next_check_at, due.confirm_by) == (JobState.SUBMITTED, at, at + 120_000)
    under_way = checks.overdue(job(next_check_at=at + 7), True, at).job
    assert (under_way.next_check_at, under_way.confirm_by) == (at + 7, at + 120_000)
    for unasked in (job(), job(next_check_at=at - 7)):
        assert checks.overdue(unasked, True, at).job.next_check_at == at
    assert checks.overdue(due, True, at + 1).disposition is Disposition.STALE
    assert checks.overdue(before, False, at).job.state is JobState.EXPIRED
    assert checks.overdue(msgspec.structs.replace(before, provider_job_id=None), True, at).job.state == "expired"


@rows(("left_ms", "asked"), [(5_000, False), (5_001, True)])
def test_a_last_check_without_an_answer_is_made_again_while_there_is_time(left_ms: int, asked: bool) -> None:
    """Ask again 5 s later where more than those are left, and else expire the job."""
    overdue = job(deadline_at=NOW, confirm_by=NOW + left_ms)
    after = checked(overdue, CheckOutcome.NO_ANSWER, NOW).job
    assert (after.state, after.next_check_at) == (("submitted", NOW + 5_000) if asked else ("expired", None))


@rows("finding", [CheckOutcome.RATE_LIMITED, CheckOutcome.KEY_REFUSED])
def test_a_last_check_keeps_to_the_providers_pause(finding: CheckOutcome) -> None:
    """Ask again when the pause of a rate limit or a refused key is over, and 5 s later where that is later."""
    overdue = job(deadline_at=NOW, confirm_by=NOW + 120_000)
    assert checked(overdue, finding, NOW, again_in_ms=30_000).job.next_check_at == NOW + 30_000
    assert checked(overdue, finding, NOW, again_in_ms=4_999).job.next_check_at == NOW + 5_000
    assert checked(overdue, CheckOutcome.NO_STATUS, NOW, again_in_ms=30_000).job.next_check_at == NOW + 5_000


def test_a_check_that_ends_at_the_deadline_gets_the_time_of_the_last_one() -> None:
    """Give two minutes to a check without an answer at the deadline itself, though the sweep did not come yet."""
    assert checked(job(deadline_at=NOW), CheckOutcome.NO_ANSWER, NOW).job.confirm_by == NOW + 120_000
    assert checked(job(deadline_at=NOW + 1), CheckOutcome.NO_ANSWER, NOW).job.confirm_by is None


@rows(("late_ms", "asked"), [(29_999, False), (30_000, True)])
def test_a_sweep_that_comes_late_asks_once_more(late_ms: int, asked: bool) -> None:
    """Ask again with two minutes of time where the sweep comes 30 s late: no check was made in that time either."""
    overdue, now_ms = job(deadline_at=NOW, confirm_by=NOW), NOW + late_ms
    after = checks.conclude(overdue, now_ms).job
    assert after.state is (JobState.SUBMITTED if asked else JobState.EXPIRED)
    assert (after.next_check_at, after.confirm_by) == ((now_ms, now_ms + 120_000) if asked else (None, None))
    unknown = msgspec.structs.replace(overdue, provider_job_id=None)
    assert checks.conclude(unknown, now_ms).job.state is JobState.EXPIRED
    assert checks.conclude(job(confirm_by=None), now_ms).job.state is JobState.EXPIRED


def test_a_machine_that_is_stopped_again_and_again_keeps_no_job_open() -> None:
    """Make another last check until a day after the deadline, and then expire the job whenever relay runs."""
    waiting = job(confirm_by=NOW + HOUR_MS + checks.LAST_CHECK_MS)
    last_ms = waiting.deadline_at + 86_400_000 - 1
    assert checks.conclude(waiting, last_ms).job.state is JobState.SUBMITTED
    assert checks.conclude(waiting, last_ms + 1).job.state is JobState.EXPIRED


@rows(
    ("late_ms", "next_check_at", "paused", "why"),
    [
        (0, NOW - 5_000, (), Unconfirmed.PACED_OUT),
        (0, NOW, (), Unconfirmed.PACED_OUT),
        (0, NOW + 1, (), Unconfirmed.NO_ANSWER),
        (0, NOW + 1, ("evolink",), Unconfirmed.NO_ANSWER),
        (0, NOW, ("kinovi", "evolink"), Unconfirmed.PAUSED),
        (0, NOW, ("kinovi",), Unconfirmed.PACED_OUT),
        (29_999, NOW, (), Unconfirmed.PACED_OUT),
        (29_999, NOW + 60_000, (), Unconfirmed.NO_ANSWER),
        (0, None, (), Unconfirmed.NO_ID),
    ],
)
def test_an_unconfirmed_result_that_was_not_checked_says_why(
    late_ms: int, next_check_at: int | None, paused: tuple[str, ...], why: Unconfirmed
) -> None:
    """Believe an unconfirmed result when its time is over, and say why no check began, or that none was answered."""
    before = job(unconfirmed=unconfirmed(), confirm_by=NOW, next_check_at=next_check_at)
    transition = checks.out_of_time(before, frozenset(paused), NOW + late_ms)
    assert (transition.job.state, transition.job.verification, transition.unconfirmed) == ("succeeded", "token", why)
    assert (transition.reason or "").startswith("it could not be confirmed in time (")


def test_an_unconfirmed_result_that_waited_for_a_stopped_relay_is_checked() -> None:
    """Ask the provider, with as much time as at first, where the sweep comes 30 s late and before the deadline."""
    before = job(unconfirmed=unconfirmed(at=NOW - 5_000), confirm_by=NOW, next_check_at=NOW + 40_000)
    transition = checks.out_of_time(before, frozenset(), NOW + 30_000)
    assert (transition.job.state, transition.job.unconfirmed, transition.unconfirmed) == (
        "submitted",
        before.unconfirmed,
        None,
    )
    assert (transition.job.next_check_at, transition.job.confirm_by) == (NOW + 30_000, NOW + 35_000)
    at_the_deadline = msgspec.structs.replace(before, deadline_at=NOW + 30_000)
    assert checks.out_of_time(at_the_deadline, frozenset(), NOW + 30_000).job.verification is Verification.TOKEN
    unknown = msgspec.structs.replace(before, provider_job_id=None, next_check_at=None)
    assert checks.out_of_time(unknown, frozenset(), NOW + 30_000).unconfirmed is Unconfirmed.NO_ID


@rows(("early_ms", "state"), [(0, "succeeded"), (1, "submitted")])
def test_an_unconfirmed_result_is_not_believed_before_its_time(early_ms: int, state: str) -> None:
    """Leave a job alone whose time is not over, or that was decided since the sweeper found it."""
    before = job(unconfirmed=unconfirmed(), confirm_by=NOW + early_ms, next_check_at=NOW)
    assert checks.out_of_time(before, frozenset(), NOW).job.state == state
    disputed = job(unconfirmed=unconfirmed(tries=1), confirm_by=None, next_check_at=NOW + 5_000)
    transition = checks.out_of_time(disputed, frozenset(), NOW)
    assert (transition.job, transition.disposition, transition.announce) == (disputed, Disposition.STALE, None)


@rows(
    ("finding", "why"),
    [
        (CheckOutcome.NO_ANSWER, Unconfirmed.NO_ANSWER),
        (CheckOutcome.NO_STATUS, Unconfirmed.NO_STATUS),
        (CheckOutcome.NOT_FOUND, Unconfirmed.NOT_FOUND),
        (CheckOutcome.KEY_REFUSED, Unconfirmed.KEY_REFUSED),
        (CheckOutcome.RATE_LIMITED, Unconfirmed.RATE_LIMITED),
        (report(None), Unconfirmed.NO_STATUS),
    ],
)
def test_an_unconfirmed_result_whose_check_said_nothing_says_what_came(
    finding: CheckOutcome | Report, why: Unconfirmed
) -> None:
    """Believe an unconfirmed result after a check without a status, and say what kind of answer that was."""
    transition = checked(job(unconfirmed=unconfirmed(), confirm_by=NOW + 5_000), finding)
    assert (transition.job.state, transition.job.verification, transition.unconfirmed) == ("succeeded", "token", why)


def test_an_end_that_stands_is_not_believed_again() -> None:
    """Say nothing of belief where a second end runs out of time against an end that was itself believed."""
    held = ended(
        verification=Verification.TOKEN, unconfirmed=unconfirmed(JobState.FAILED), confirm_by=NOW, next_check_at=NOW
    )
    transition = checks.out_of_time(held, frozenset(), NOW)
    assert (transition.job.state, transition.job.unconfirmed, transition.unconfirmed) == ("succeeded", None, None)
    assert checked(job(unconfirmed=unconfirmed(), confirm_by=NOW), report(JobState.SUCCEEDED)).unconfirmed is None


@rows(("tries", "state", "tries_after"), [(0, "submitted", 1), (1, "failed", None)])
def test_a_success_without_a_result_counts_at_its_second_confirmation(
    tries: int, state: str, tries_after: int | None
) -> None:
    """Ask once more after the first check that shows no result, and fail the job at the second."""
    before = job(unconfirmed=unconfirmed(tries=tries, outputs=()))
    after = checked(before, report(JobState.SUCCEEDED, outputs=())).job
    assert (after.state, after.unconfirmed and after.unconfirmed.tries) == (state, tries_after)


@rows(("tries", "pause_s"), [(0, 5), (1, 15), (2, 45), (3, 135), (4, 405), (5, 600), (6, 600), (40, 600)])
def test_a_disputed_result_is_asked_about_after_three_times_the_pause(tries: int, pause_s: int) -> None:
    """Check again after 5, 15, 45, 135 and 405 s, then every ten minutes, and never later than without one."""
    before = job(unconfirmed=unconfirmed(tries=tries), confirm_by=NOW + 1)
    after = checked(before, report()).job
    assert after.unconfirmed is not None
    assert (after.unconfirmed.tries, after.next_check_at) == (tries + 1, NOW + pause_s * 1000)
    assert checked(before, report(), again_in_ms=3_000).job.next_check_at == NOW + 3_000


def test_an_unconfirmed_result_without_a_time_limit_is_asked_about_five_seconds_later() -> None:
    """Keep an unconfirmed success without a result through a check without an answer."""
    after = checked(job(unconfirmed=unconfirmed(outputs=()), confirm_by=None), CheckOutcome.NO_ANSWER).job
    assert (after.unconfirmed is not None, after.next_check_at) == (True, NOW + 5_000)


def test_an_unconfirmed_result_outlives_the_deadline_with_its_pause() -> None:
    """Keep the pause of an unconfirmed result that no check has judged yet at the deadline too."""
    after = checked(
        job(unconfirmed=unconfirmed(outputs=()), confirm_by=None, deadline_at=NOW), CheckOutcome.NO_ANSWER
    ).job
    assert (after.state, after.next_check_at) == ("submitted", NOW + 5_000)


@rows(("started_at", "state"), [(NOW - 1, "submitted"), (NOW, "failed")])
def test_only_a_check_that_began_after_an_unconfirmed_result_counts_against_it(started_at: int, state: str) -> None:
    """Leave an unconfirmed result alone where the check began before the callback came, unless both say the same."""
    before = job(unconfirmed=unconfirmed(at=NOW), confirm_by=NOW + 5_000)
    said = report(JobState.FAILED)
    assert checked(before, said, NOW + 10, started_at=started_at).job.state == state
    same = checked(before, report(JobState.SUCCEEDED), NOW + 10, started_at=NOW - 1).job
    assert (same.state, same.verification) == ("succeeded", "fetch")
    silent = checked(before, CheckOutcome.NO_ANSWER, NOW + 10, started_at=NOW - 1).job
    assert (silent.state, silent.unconfirmed) == ("submitted", before.unconfirmed)


def test_a_callback_against_a_providers_end_has_ten_minutes_to_be_confirmed() -> None:
    """Keep a second end for 600 s from the callback, ask immediately, and drop it when the time is over."""
    status_report = StatusReport(
        report=report(JobState.FAILED), source=FinishedBy.CALLBACK, verification=Verification.TOKEN,
        callback_id="cb_2", confirm_ms=5_000,
    )  # fmt: skip
    held = reports.apply_report(ended(), status_report, NOW).job
    assert (held.state, held.confirm_by, held.next_check_at) == ("succeeded", NOW + 600_000, NOW)
    again = checked(held, CheckOutcome.NO_ANSWER, NOW + 1_000, started_at=NOW).job
    assert again.unconfirmed is not None
    assert (again.unconfirmed.tries, again.confirm_by, again.next_check_at) == (1, NOW + 600_000, NOW + 6_000)
    late = checked(held, CheckOutcome.NO_ANSWER, NOW + 596_000, started_at=NOW).job
    assert (late.confirm_by, late.next_check_at) == (NOW + 600_000, NOW + 600_000)
    dropped = checks.conclude(again, NOW + 600_000).job
    assert (dropped.state, dropped.unconfirmed, dropped.confirm_by, dropped.next_check_at) == (
        "succeeded",
        None,
        None,
        None,
    )


def test_the_status_route_decides_between_two_ends() -> None:
    """Keep the first end where it says that, correct it where it confirms the second, ask again where neither."""
    held = ended(unconfirmed=unconfirmed(JobState.FAILED), confirm_by=NOW + 600_000)
    stands = checked(held, report(JobState.SUCCEEDED))
    assert (stands.job.state, stands.job.unconfirmed, stands.announce) == ("succeeded", None, None)
    corrected = checked(held, report(JobState.FAILED))
    assert (corrected.job.state, corrected.announce) == ("failed", EventType.JOB_CORRECTED)
    for said in (report(), report(JobState.CANCELED), report(None, provider_status="pondering")):
        after = checked(held, said).job
        assert after.unconfirmed is not None
        assert (after.state, after.unconfirmed.tries, after.next_check_at) == ("succeeded", 1, NOW + 5_000)


def test_a_provider_may_still_end_what_relay_ended() -> None:
    """End a job anew, `late`, where its provider ends it after relay did, whether by a callback or by a check."""
    given_up = {"finished_by": FinishedBy.DEADLINE, "verification": Verification.NONE}
    held = ended(JobState.EXPIRED, unconfirmed=unconfirmed(), confirm_by=NOW + 5_000, **given_up)
    for said, state in ((report(JobState.SUCCEEDED), "succeeded"), (report(JobState.FAILED), "failed")):
        after = checked(held, said)
        assert (after.job.state, after.job.late, after.announce) == (state, True, f"job.{state}")
    unproven = checked(held, CheckOutcome.NO_ANSWER).job
    assert (unproven.state, unproven.verification) == ("succeeded", "token")
    disputed = checked(held, report()).job
    assert disputed.unconfirmed is not None
    assert (disputed.state, disputed.unconfirmed.tries, disputed.confirm_by) == ("expired", 1, NOW + 600_000)


def test_a_confirmed_result_is_the_one_that_the_provider_shows() -> None:
    """Count the status route's result where it shows one, and else the callback's, as not proven."""
    before = job(unconfirmed=unconfirmed(), confirm_by=NOW + 5_000)
    shown = checked(before, report(JobState.SUCCEEDED, outputs=OTHER)).job
    assert (shown.outputs, shown.verification) == (OTHER, "fetch")
    hidden = checked(before, report(JobState.SUCCEEDED, outputs=())).job
    assert (hidden.state, hidden.outputs, hidden.verification) == ("succeeded", VIDEO, "token")


def test_an_overdue_success_without_a_result_fails_the_job() -> None:
    """End the job as `no_output` at its deadline, and as expired where the success has a result that was disputed."""
    at = NOW + HOUR_MS
    assert checks.expire(job(unconfirmed=unconfirmed(outputs=())), at).job.reason == "no_output"
    assert checks.expire(job(unconfirmed=unconfirmed(tries=1)), at).job.state is JobState.EXPIRED
    assert (
        checked(job(unconfirmed=unconfirmed(tries=1, at=at), deadline_at=at), report(), at, started_at=at).job.state
        == "expired"
    )


def test_a_reason_holds_a_bounded_part_of_what_the_provider_said() -> None:
    """Cut a provider's status word after 40 characters."""
    long = report(None, provider_status="x" * 41)
    for before in (job(), job(unconfirmed=unconfirmed(), confirm_by=NOW)):
        reason = checked(before, long).reason or ""
        assert reason.count("x") == 40


@rows(("pause_ms", "state"), [(4_999, "submitted"), (5_000, "succeeded")])
def test_a_429_whose_pause_ends_in_time_is_followed_by_another_check(pause_ms: int, state: str) -> None:
    """Check again when the pause is over, if that is before the time is over; and believe the callback if it is not."""
    before = job(unconfirmed=unconfirmed(), confirm_by=NOW + 5_000)
    after = checked(before, CheckOutcome.RATE_LIMITED, paused_ms=pause_ms)
    assert after.job.state == state
    if state == "submitted":
        assert (after.job.next_check_at, after.job.confirm_by) == (NOW + pause_ms, NOW + 5_000)
        assert after.unconfirmed is None
    else:
        assert after.unconfirmed is Unconfirmed.RATE_LIMITED
    other = checked(before, CheckOutcome.NO_STATUS, paused_ms=pause_ms)
    assert (other.job.state, other.unconfirmed) == ("succeeded", Unconfirmed.NO_STATUS)
