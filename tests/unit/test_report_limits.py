"""The rules and limits of what a report makes of a job, one by one; `unit/test_lifecycle.py` has what always holds."""

import msgspec

from relay.lifecycle import reports
from relay.lifecycle.reports import DoubtLimits, StatusReport, Transition
from relay.model.job import (
    Cost,
    Disposition,
    ErrorClass,
    FinishedBy,
    Job,
    JobError,
    JobState,
    Output,
    OutputKind,
    Reason,
    Report,
    Verification,
)
from tests.support.rows import rows
from tests.unit.test_check_limits import NOW, VIDEO, ended, job, report, unconfirmed

CALLBACK, CHECK, ANSWER = FinishedBy.CALLBACK, FinishedBy.STATUS_CHECK, FinishedBy.SUBMIT_ANSWER


def applied(
    before: Job, said: Report, source: FinishedBy = CALLBACK, now_ms: int = NOW, confirm_ms: int | None = 5_000
) -> Transition:
    """Return what a report makes of a job; a callback's waits five seconds for confirmation."""
    verification = Verification.TOKEN if source is CALLBACK else Verification.FETCH
    status_report = StatusReport(
        report=said, source=source, verification=verification, callback_id="cb_1" if source is CALLBACK else None,
        confirm_ms=confirm_ms if source is CALLBACK else None,
    )  # fmt: skip
    return reports.apply_report(before, status_report, now_ms)


def output(url: str) -> tuple[Output, ...]:
    """Return one result."""
    return (Output(kind=OutputKind.VIDEO, url=url),)


@rows(("made", "pause_s"), [(0, 0), (2, 0), (3, 5), (4, 10), (5, 20), (6, 40), (7, 60), (13, 60), (40, 60)])
def test_a_doubt_has_three_free_checks_and_then_pauses(made: int, pause_s: int) -> None:
    """Ask immediately three times, then 5 s later, twice as late after each check, and a minute later at most."""
    doubted = reports.doubted(job(checks_made=made), DoubtLimits(), NOW)
    assert doubted.next_check_at == NOW + pause_s * 1000
    sooner = reports.doubted(job(checks_made=made, next_check_at=NOW + 1), DoubtLimits(), NOW)
    assert sooner.next_check_at == NOW + min(1, pause_s)


def test_a_digest_sees_the_path_and_neither_query_nor_fragment() -> None:
    """Take a result whose URL was signed again for the same one, and another path for another."""
    plain = reports.digest(report(JobState.SUCCEEDED, outputs=output("https://c.example/a")))
    assert len(plain) == 16
    for same in ("?x=1", "#x", "#x?y", "?x#y"):
        assert reports.digest(report(JobState.SUCCEEDED, outputs=output(f"https://c.example/a{same}"))) == plain
    for other in ("https://c.example/b", "https://c.example/b?x=1", "https://c.example/b#x"):
        assert reports.digest(report(JobState.SUCCEEDED, outputs=output(other))) != plain


def test_a_report_of_a_lower_rank_is_stale() -> None:
    """Leave a running job alone where a report says submitted, and note one that says running."""
    running = job(state=JobState.RUNNING)
    assert applied(running, report(JobState.SUBMITTED)).disposition is Disposition.STALE
    assert applied(running, report(progress=7)).job.progress == 7
    assert applied(job(), report()).announce == "job.running"


def test_a_claim_that_is_being_confirmed_is_not_overtaken_by_progress() -> None:
    """Hold a callback's running as stale until a check has disputed the end that another callback claimed."""
    fresh, disputed = (
        job(unconfirmed=unconfirmed(), confirm_by=NOW),
        job(unconfirmed=unconfirmed(tries=1), confirm_by=NOW),
    )
    assert (applied(fresh, report()).disposition, applied(fresh, report()).job) == (Disposition.STALE, fresh)
    assert applied(disputed, report()).job.state is JobState.RUNNING
    assert applied(fresh, report(), CHECK).job.state is JobState.RUNNING
    another = applied(fresh, report(JobState.FAILED)).job.unconfirmed
    assert another is not None
    assert another.report.state is JobState.FAILED
    said = [applied(job(), end).reason for end in (report(JobState.FAILED), report(JobState.SUCCEEDED, outputs=()))]
    assert said == [
        f"the provider says {what}: a status check is to confirm it" for what in ("failed", "success without a result")
    ]


def test_a_success_without_a_result_never_follows_an_end() -> None:
    """Count a late success only with a result; without one, an open job's is asked about before it counts."""
    expired = ended(JobState.EXPIRED, finished_by=FinishedBy.DEADLINE, verification=Verification.NONE)
    assert applied(expired, report(JobState.SUCCEEDED, outputs=()), CHECK).disposition is Disposition.STALE
    assert applied(expired, report(JobState.SUCCEEDED), CHECK).job.state is JobState.SUCCEEDED
    asked = applied(job(), report(JobState.SUCCEEDED, outputs=()), CHECK).job
    assert (asked.state, asked.unconfirmed is not None, asked.confirm_by) == ("submitted", True, None)
    assert applied(job(), report(JobState.SUCCEEDED), CHECK).job.state is JobState.SUCCEEDED
    unasked = applied(job(provider_job_id=None), report(JobState.SUCCEEDED, outputs=()), CHECK).job
    assert (unasked.state, unasked.reason) == ("failed", "no_output")


@rows(("age_ms", "state"), [(59_999, JobState.PENDING), (60_000, JobState.SUCCEEDED), (None, JobState.SUCCEEDED)])
def test_a_callback_waits_a_minute_for_the_submissions_answer(age_ms: int | None, state: JobState) -> None:
    """Hold an end for confirmation while the answer with the id may still come, and believe it where none will."""
    begun_at = None if age_ms is None else NOW - age_ms
    before = job(state=JobState.PENDING, provider_job_id=None, submitted_at=None, submission_started_at=begun_at)
    after = applied(before, report(JobState.SUCCEEDED)).job
    assert after.state is state
    assert reports.awaits_answer(before, NOW) == (state is JobState.PENDING)
    assert (after.next_check_at, after.confirm_by) == (None, NOW + 5_000 if state is JobState.PENDING else None)
    assert not reports.awaits_answer(msgspec.structs.replace(before, state=JobState.SUBMITTED), NOW)


@rows(("tries", "next_in_ms", "waits_ms"), [(0, 3_000, 0), (1, 3_000, 3_000), (1, -3_000, 0)])
def test_a_claim_after_a_refuted_one_shares_its_pause(tries: int, next_in_ms: int, waits_ms: int) -> None:
    """Ask about a new claim immediately, but not before the pause of one that a check has disputed is over."""
    before = job(unconfirmed=unconfirmed(JobState.FAILED, tries=tries), confirm_by=NOW, next_check_at=NOW + next_in_ms)
    after = applied(before, report(JobState.SUCCEEDED)).job
    assert (after.next_check_at, after.confirm_by) == (NOW + waits_ms, NOW + 5_000 + waits_ms)
    untimed = applied(before, report(JobState.SUCCEEDED, outputs=()), CHECK).job
    assert (untimed.next_check_at, untimed.confirm_by) == (NOW, None)


def test_a_report_under_another_id_is_about_another_job() -> None:
    """Let only the submission's answer replace an id, and only of an open job; the reason holds 80 characters."""
    other = report(provider_job_id="x" * 81)
    for source in (CALLBACK, CHECK):
        transition = applied(job(), other, source)
        assert (transition.disposition, (transition.reason or "").count("x")) == (Disposition.MISMATCHED, 80)
    replaced = applied(job(provider_job_id="y" * 81), other, ANSWER)
    reason = replaced.reason or ""
    assert replaced.job.provider_job_id == "x" * 81
    assert (reason.count("x"), reason.count("y" * 80), reason.count("y" * 81)) == (80, 1, 0)
    assert applied(ended(), other, ANSWER).job.provider_job_id == "task-1"
    for unnamed in (report(), report(provider_job_id="task-1"), report(provider_job_id="z", upstream_id=True)):
        assert applied(job(), unnamed).disposition is Disposition.RECORDED
    assert applied(job(provider_job_id=None), other).job.provider_job_id == "x" * 81


def test_only_a_check_corrects_a_providers_own_end() -> None:
    """Hold a later callback for confirmation, correct by a check with a result, and ignore what is not final."""
    done = ended(JobState.FAILED)
    assert applied(done, report()).disposition is Disposition.STALE
    assert applied(done, report(None, provider_status="pondering")).disposition is Disposition.RECORDED
    assert applied(done, report(JobState.SUCCEEDED), ANSWER).disposition is Disposition.STALE
    held = applied(done, report(JobState.SUCCEEDED)).job
    assert (held.state, held.unconfirmed is not None) == ("failed", True)
    assert applied(done, report(JobState.SUCCEEDED), CHECK).announce == "job.corrected"
    assert applied(done, report(JobState.SUCCEEDED, outputs=()), CHECK).disposition is Disposition.STALE
    unasked = applied(msgspec.structs.replace(done, provider_job_id=None), report(JobState.SUCCEEDED))
    assert (unasked.disposition, unasked.job.unconfirmed) == (Disposition.STALE, None)


def test_a_repeated_end_brings_an_id_and_only_by_a_check_a_cost() -> None:
    """Keep an id that comes late, and take cost and fresh URLs from a check alone."""
    cost = Cost(amount="5", unit="credits", kind="final")
    fresh = report(JobState.SUCCEEDED, outputs=output("https://c.example/new"), cost=cost, provider_job_id="task-1")
    before = ended(provider_job_id=None, submitted_at=None)
    called = applied(before, fresh).job
    assert (called.provider_job_id, called.submitted_at, called.outputs, called.cost) == ("task-1", NOW, VIDEO, None)
    asked = applied(ended(), fresh, CHECK).job
    assert (asked.outputs, asked.cost) == (fresh.outputs, cost)
    for unknown in (report(JobState.SUCCEEDED), msgspec.structs.replace(fresh, upstream_id=True)):
        assert applied(before, unknown).job.provider_job_id is None


def test_progress_stays_until_another_comes_and_ends_at_100() -> None:
    """Take a progress of 0, keep one where none is told, and show 100 for a success alone."""
    half = job(state=JobState.RUNNING, progress=50)
    assert [applied(half, report(progress=told)).job.progress for told in (0, None, 60)] == [0, 50, 60]
    assert applied(half, report(JobState.SUCCEEDED), CHECK).job.progress == 100
    assert applied(half, report(JobState.FAILED), CHECK).job.progress == 50


def test_a_sign_of_life_clears_what_counted_against_the_job() -> None:
    """Forget how often the provider did not know the job, and what kept an open job from being sent."""
    error = JobError(class_=ErrorClass.UNKNOWN, code="x", message="m", retryable=True)
    before = job(not_found_seen=2, reason="submit_unknown", error=error, next_submit_at=NOW, last_report_at=None)
    after = applied(before, report()).job
    assert (after.not_found_seen, after.last_report_at) == (0, NOW)
    assert (after.reason, after.error, after.next_submit_at) == (None, None, None)


def test_what_a_submission_was_answered_is_cut() -> None:
    """Keep 300 characters of an error in the reason of each of the three, and change no job that has gone on."""
    error = JobError(class_=ErrorClass.UNKNOWN, code="x", message="€" * 301, retryable=True)
    pending = job(state=JobState.PENDING, provider_job_id=None)
    moves = [
        reports.refused(pending, error, NOW),
        reports.unclear(pending, error, NOW),
        reports.not_sent(pending, error, NOW + 1, NOW),
        reports.not_sent(pending, error, None, NOW),
    ]
    assert [(transition.reason or "").count("€") for transition in moves] == [300] * 4
    assert [transition.job.state for transition in moves] == ["failed", "pending", "pending", "failed"]
    for gone_on in (job(), msgspec.structs.replace(pending, unconfirmed=unconfirmed())):
        for transition in (
            reports.refused(gone_on, error, NOW),
            reports.unclear(gone_on, error, NOW),
            reports.not_sent(gone_on, error, NOW + 1, NOW),
        ):
            assert (transition.disposition, transition.job) == (Disposition.STALE, gone_on)


def test_a_submission_that_surely_did_not_leave_is_not_unknown() -> None:
    """Forget that a submission was called unknown when its own process proves that nothing was sent."""
    error = JobError(class_=ErrorClass.TIMEOUT, code="unreachable", message="no connection", retryable=True)
    before = msgspec.structs.replace(job(), state=JobState.PENDING, reason=Reason.SUBMIT_UNKNOWN)
    after = reports.not_sent(before, error, NOW + 1, NOW).job
    assert (after.reason, after.next_submit_at) == (None, NOW + 1)
