"""How a job moves: pure functions from a job and a word about it to the job after it, the verdict, and the event.

    pending ──▶ submitted ──▶ running ──▶ succeeded | failed | canceled | expired

Ranks only rise. A word of lower rank is stale, a word already heard is repeated. A final state moves in one case: a
provider's result that comes after relay's own deadline is announced as late, and supersedes the expiry.
"""

import hashlib
from urllib.parse import urlsplit

import msgspec

from relay.model import (
    ErrorClass,
    EventType,
    FinishedBy,
    Job,
    JobError,
    JobState,
    Reason,
    Report,
    Verdict,
    Verification,
)


class Move(msgspec.Struct, frozen=True):
    """The job after a word about it, what became of the word, and what to announce (None: nothing)."""

    job: Job
    verdict: Verdict
    reason: str | None = None
    announce: EventType | None = None
    supersedes: str | None = None


def digest(report: Report) -> bytes:
    """16 bytes that are equal for the same word about a job: query strings (signatures, expiries) do not count."""
    outputs = [(output.kind, *urlsplit(output.url)[:3]) for output in report.outputs]
    error = report.error and (report.error.provider_code, report.error.provider_message)
    said = [report.provider_job_id, report.state or report.word, outputs, error, report.progress]
    return hashlib.blake2b(msgspec.json.encode(said), digest_size=16).digest()


def hear(job: Job, report: Report, source: FinishedBy, verification: Verification, now_ms: int) -> Move:
    """A provider's word about a job, whichever way it came."""
    if (
        report.provider_job_id
        and job.provider_job_id
        and report.provider_job_id != job.provider_job_id
        and not report.upstream_id
    ):
        return Move(doubted(job, now_ms), Verdict.MISMATCHED, f"the body is about {report.provider_job_id[:80]}")
    if report.state is None:
        return Move(job, Verdict.RECORDED, f"a status word nobody published: {report.word[:40]!r}")
    if job.state.final:
        return _hear_final(job, report, source, verification, now_ms)
    if report.state.rank < job.state.rank:
        return Move(job, Verdict.STALE, f"{report.state} after {job.state}")
    job = _merge(job, report, now_ms)
    if report.state is job.state:
        return Move(job, Verdict.RECORDED, "no change of state")
    return _enter(job, report, source, verification, now_ms)


def _hear_final(job: Job, report: Report, source: FinishedBy, verification: Verification, now_ms: int) -> Move:
    """A word about a job that has ended: it fills in an unknown id, and only ends an expiry."""
    if report.provider_job_id and not job.provider_job_id and not report.upstream_id:
        job = msgspec.structs.replace(
            job, provider_job_id=report.provider_job_id, submitted_at=job.submitted_at or now_ms
        )
    if report.state is job.state:
        return Move(job, Verdict.REPEATED, f"already {job.state}")
    if job.state is JobState.EXPIRED and report.state is not None and report.state.final:
        return _enter(msgspec.structs.replace(job, late=True), report, source, verification, now_ms)
    return Move(job, Verdict.STALE, f"{report.state} after {job.state}")


def _merge(job: Job, report: Report, now_ms: int) -> Job:
    """What any word of an open job brings: the provider's id, progress, cost; and that the submission did arrive."""
    return msgspec.structs.replace(
        job,
        provider_job_id=job.provider_job_id or (None if report.upstream_id else report.provider_job_id),
        progress=report.progress if report.progress is not None else job.progress,
        cost=report.cost or job.cost,
        submitted_at=job.submitted_at or now_ms,
        next_submit_at=None,
        reason=None,
        error=None,
        updated_at=now_ms,
    )


def _enter(job: Job, report: Report, source: FinishedBy, verification: Verification, now_ms: int) -> Move:
    """The job enters the state of the report. Success without a result is not success."""
    state, error, reason = report.state, report.error, None
    assert state is not None
    if state is JobState.SUCCEEDED and not report.outputs:
        state, reason, error = JobState.FAILED, Reason.NO_OUTPUT, _no_output(report)
    if state is JobState.FAILED and error is None:
        error = JobError(
            class_=ErrorClass.UNKNOWN, code="failed", message="the provider gave no reason", retryable=False
        )
    if not state.final:
        job = msgspec.structs.replace(job, state=state, updated_at=now_ms)
        return Move(job, Verdict.RECORDED, f"now {state}", EventType(f"job.{state}"))
    job = msgspec.structs.replace(
        job,
        state=state,
        reason=reason,
        outputs=report.outputs if state is JobState.SUCCEEDED else (),
        error=error if state is JobState.FAILED else None,
        progress=100 if state is JobState.SUCCEEDED else job.progress,
        cost=report.cost or job.cost,
        finished_by=source,
        verification=verification,
    )
    return _end(job, now_ms, f"now {state}")


def _end(job: Job, now_ms: int, reason: str) -> Move:
    """The job is final, announced as such; a later verdict names the one it supersedes."""
    job = msgspec.structs.replace(job, finished_at=now_ms, updated_at=now_ms, next_submit_at=None, next_check_at=None)
    return Move(job, Verdict.RECORDED, reason, EventType(f"job.{job.state}"), job.last_final_event)


def _no_output(report: Report) -> JobError:
    """The error of a success that carries no usable URL."""
    return JobError(
        class_=ErrorClass.PROVIDER_ERROR,
        code="no_output",
        retryable=True,
        provider_code=report.word or None,
        message="the provider reported success without a usable result URL",
    )


def doubted(job: Job, now_ms: int) -> Job:
    """A callback came that says nothing sure: an open job that its provider knows by an id is asked about at once."""
    if job.state.final or job.provider_job_id is None:
        return job
    return msgspec.structs.replace(job, next_check_at=min(now_ms, job.next_check_at or now_ms))


def asked_later(move: Move, check_at: int) -> Move:
    """The move, and when the provider is asked next if that leaves the job open."""
    job = move.job
    if job.state.final or job.provider_job_id is None:
        return move
    return msgspec.structs.replace(move, job=msgspec.structs.replace(job, next_check_at=check_at))


def refused(job: Job, error: JobError, now_ms: int) -> Move:
    """The provider did not take the submission: the job has failed, unless a callback already said better."""
    if job.state is not JobState.PENDING:
        return Move(job, Verdict.STALE, f"refused, but the job is {job.state}")
    job = msgspec.structs.replace(
        job, state=JobState.FAILED, reason=None, error=error, finished_by=FinishedBy.SUBMIT_ANSWER
    )
    return _end(job, now_ms, "the provider refused the submission")


def unclear(job: Job, error: JobError, now_ms: int) -> Move:
    """Nobody knows whether the submission arrived: it is never sent again by relay, and a callback settles it."""
    if job.state is not JobState.PENDING:
        return Move(job, Verdict.STALE, f"unclear answer, but the job is {job.state}")
    job = msgspec.structs.replace(
        job, reason=Reason.SUBMIT_UNKNOWN, error=error, next_submit_at=None, updated_at=now_ms
    )
    return Move(job, Verdict.RECORDED, "the submission may or may not have arrived")


def not_sent(job: Job, error: JobError, retry_at: int | None, now_ms: int) -> Move:
    """The submission surely did not leave: it is tried again at `retry_at`, or the job has failed."""
    if job.state is not JobState.PENDING:
        return Move(job, Verdict.STALE, f"not sent, but the job is {job.state}")
    if retry_at is None:
        return refused(job, error, now_ms)
    job = msgspec.structs.replace(
        job, error=error, next_submit_at=retry_at, submission_started_at=None, updated_at=now_ms
    )
    return Move(job, Verdict.RECORDED, "not sent; it will be tried again")


def expire(job: Job, now_ms: int) -> Move:
    """The deadline has passed: relay's verdict, not the provider's."""
    if job.state.final or job.deadline_at > now_ms:
        return Move(job, Verdict.STALE, f"the job is {job.state}")
    error = JobError(
        class_=ErrorClass.TIMEOUT, code="deadline", message="the deadline passed without a result", retryable=True
    )
    reason = job.reason or Reason.DEADLINE
    job = msgspec.structs.replace(
        job, state=JobState.EXPIRED, reason=reason, error=job.error or error, finished_by=FinishedBy.DEADLINE
    )
    return _end(job, now_ms, "the deadline passed")
