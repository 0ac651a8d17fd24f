"""Decides what a look-up by relay's own id does to a job whose submission was unclear: pure functions.

    the provider's answer          then
    ─────────────────────────────  ──────────────────────────────────────────────────────────────────────────────────
    has the job, with its id       the job goes on as if the submission had been answered so
    has no such job                looked up again; after three such answers and ten minutes it failed: `not_created`
    says neither, or there is none looked up again

Ten minutes, because a submission that was cut off may still be under way, and a replica may not know a new job yet. The
job is never submitted again by itself. It expires at its deadline like any other.
"""

from typing import Final

import msgspec

from relay.lifecycle import checks, reports
from relay.lifecycle.checks import NOT_FOUND_AGE_MS, NOT_FOUND_TRIES, CheckOutcome, StatusCheck
from relay.lifecycle.reports import Transition, end
from relay.model.job import (
    Disposition,
    ErrorClass,
    FinishedBy,
    Job,
    JobError,
    JobState,
    Reason,
    Verification,
)

PAUSE_MS: Final = 5_000
PAUSE_MAX_MS: Final = 60_000
"""The pauses between look-ups: 5 s, 10 s, 20 s, 40 s, then a minute each."""


def wanted(job: Job) -> bool:
    """Return whether the job may exist at its provider, whose id of it is not known."""
    return job.state is JobState.PENDING and job.reason == Reason.SUBMIT_UNKNOWN and job.provider_job_id is None


def pause_ms(job: Job) -> int:
    """Return the pause after a look-up; `checks_made` counts those that were made."""
    return min(PAUSE_MS << min(max(job.checks_made - 1, 0), 10), PAUSE_MAX_MS)


def unclear(job: Job, error: JobError, now_ms: int) -> Transition:
    """Return the job as `submit_unknown`, with its first look-up scheduled."""
    return _again(reports.unclear(job, error, now_ms), now_ms + PAUSE_MS)


def decide(job: Job, check: StatusCheck, now_ms: int) -> Transition:
    """Return the job after a look-up, by the table above."""
    if check.report is not None and check.report.provider_job_id is not None:
        found = reports.apply_report(job, checks.by_check(check.report), now_ms)
        found = msgspec.structs.replace(found, reason=f"found by relay's own id: {found.reason}")
        return reports.checked_later(found, check.again_at, now_ms)
    if not wanted(job):
        return Transition(job, Disposition.STALE, "it is known meanwhile whether the job exists")
    if check.finding is not CheckOutcome.NOT_FOUND:
        said = Transition(job, Disposition.RECORDED, f"no status of the job: {check.finding}")
        return _again(said, check.again_at)
    job = msgspec.structs.replace(job, not_found_seen=job.not_found_seen + 1)
    age_ms = now_ms - (job.submission_started_at or now_ms)
    if job.not_found_seen >= NOT_FOUND_TRIES and age_ms >= NOT_FOUND_AGE_MS:
        return _not_created(job, now_ms)
    return _again(Transition(job, Disposition.RECORDED, "the provider has no such job yet"), check.again_at)


def _again(transition: Transition, at: int) -> Transition:
    """Return the transition with a look-up at a time, if the job still wants one."""
    job = transition.job
    if not wanted(job):
        return transition
    return msgspec.structs.replace(transition, job=msgspec.structs.replace(job, next_check_at=at))


def _not_created(job: Job, now_ms: int) -> Transition:
    """Return the job failed, because its provider surely never had it: it may be submitted again."""
    error = JobError(
        class_=ErrorClass.PROVIDER_ERROR,
        code="not_created",
        message="the submission did not reach the provider: it has no job with relay's id",
        retryable=True,
    )
    job = msgspec.structs.replace(
        job,
        state=JobState.FAILED,
        reason=None,
        error=error,
        next_check_at=None,
        finished_by=FinishedBy.STATUS_CHECK,
        verification=Verification.FETCH,
    )
    return end(job, now_ms, f"not found {job.not_found_seen} times by relay's own id: it was never created")
