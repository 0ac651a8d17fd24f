"""A job as two rows: nothing of it is lost, and its one timer is the one that counts."""

from typing import Any

import msgspec
from hypothesis import given

from relay.model.job import Job, JobState
from relay.storage import job_rows
from relay.storage.job_rows import Timer
from tests.support.drawn_jobs import jobs


def read(job: Job) -> dict[str, Any]:
    """Return both rows of a job, as a statement reads them."""
    return msgspec.structs.asdict(job_rows.row(job)) | msgspec.structs.asdict(job_rows.request_row(job))


@given(jobs())
def test_a_job_is_the_same_after_it_was_stored(job: Job) -> None:
    """Return each field as it was, and keep each in one place only, but for what never changes and the state."""
    row = read(job)
    assert job_rows.job(row) == job
    twice = set(msgspec.json.decode(row["doc"])) & set(row)
    assert twice == {"id", "project_id", "provider", "state", "created_at"}
    assert job_rows.deadline_at(row["doc"]) == job.deadline_at


@given(jobs())
def test_a_timer_is_of_what_comes_first(job: Job) -> None:
    """Give every open job a timer, and none that is later than what else is due, but for what it stands before."""
    timer, at = job_rows.timer_of(job)
    times = {
        Timer.SUBMIT: job.next_submit_at,
        Timer.SUBMITTING: job.submission_started_at,
        Timer.CONFIRM: job.confirm_by,
        Timer.DEADLINE: job.deadline_at,
        Timer.EXPIRING: job.expiring_at,
        Timer.FINISHED: job.finished_at,
    }
    if timer is None:
        assert at is None
        assert job.state.final
        return
    assert at == times[Timer(timer)]
    if not job.state.final:
        assert timer in (
            {Timer.CONFIRM} if job.confirm_by is not None else {Timer.SUBMIT, Timer.SUBMITTING, Timer.DEADLINE}
        )
        assert timer != Timer.SUBMIT or job.state is JobState.PENDING
        if timer == Timer.DEADLINE and job.next_submit_at is not None:
            assert job.next_submit_at > job.deadline_at
    elif timer == Timer.FINISHED:
        assert (job.confirm_by, job.expiring_at, job.unconfirmed, job.next_check_at) == (None,) * 4
    else:
        assert at == min(one for one in (job.confirm_by, job.expiring_at) if one is not None)


def pending(**changes: Any) -> tuple[str | None, int | None]:
    """Return the timer of a pending job that is due by 9."""
    job = Job(id="j", project_id="p", provider="e", state=JobState.PENDING, created_at=1, updated_at=1, deadline_at=9)
    return job_rows.timer_of(msgspec.structs.replace(job, **changes))


def test_a_submission_that_is_under_way_waits_for_its_answer() -> None:
    """Sweep a submission without an answer by when it began, unless the answer is known or a callback has come."""
    assert pending(next_submit_at=9) == (Timer.SUBMIT, 9)
    assert pending(next_submit_at=10) == (Timer.DEADLINE, 9)
    assert pending(submission_started_at=3) == (Timer.SUBMITTING, 3)
    assert pending(submission_started_at=3, reason="submit_unknown") == (Timer.DEADLINE, 9)
    assert pending(submission_started_at=3, confirm_by=5) == (Timer.CONFIRM, 5)
