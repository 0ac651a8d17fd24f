"""The state machine of jobs: pure functions from a job and a report to the job after it, a disposition and an event.

    pending ──▶ submitted ──▶ running ──▶ succeeded | failed | canceled | expired

    the job is          the report is                      then
    ──────────────────  ─────────────────────────────────  ─────────────────────────────────────────────────────────
    open                of a lower rank                     stale
    open                of the same state                   recorded: progress, cost, the provider's id
    open                of a higher rank, not final         enters that state, announced
    open                final, trusted                     ends, announced
    open                final, not trusted                 unconfirmed, until a status check confirms it or `confirm_by`
    ended by relay      final                              as if open: ends again, `late`, superseding
    ended by provider   the same state                     repeated; a check brings cost and fresh result URLs
    ended by provider   another final state, by a check    corrected: `job.corrected`, superseding
    ended by provider   another final state, otherwise     unconfirmed, until a status check confirms or refutes it
    ended               not final                          stale

A report is trusted if a status check or a signature proves it, or if the operator wants no confirmation. relay ends a
job at its deadline or for an operator; the provider's own end may still follow and supersedes that.
`lifecycle/checks.py` decides what status checks do to a job, `lifecycle/operator_actions.py` what operators do.
"""

import hashlib
from typing import Final

import msgspec

from relay.model.job import (
    Approval,
    Cost,
    Disposition,
    ErrorClass,
    EventType,
    FinishedBy,
    Job,
    JobError,
    JobState,
    Reason,
    Report,
    Unconfirmed,
    UnconfirmedResult,
    Verification,
)
from relay.model.result_urls import TEXT_MAX_CHARS

SECOND_END_MS: Final = 600_000
"""How long relay tries to confirm a second, contradicting end of a job before the first one stands."""

HANDSHAKE: Final = "handshake"
"""The reason of a callback that only tests the callback URL."""
SUBMITTING_MS: Final = 60_000
"""How long after its start a submission may still be answered with the id that a status check needs."""
_EVENTS: Final[dict[JobState, EventType]] = {
    state: EventType(f"job.{state}") for state in JobState if state is not JobState.PENDING
}
"""The event that is announced when a job enters a state."""


class Transition(msgspec.Struct, frozen=True):
    """The job after a report, the report's disposition with its reason, and the event to announce (None: nothing).

    `job` is the job that it was made from, unchanged, or another one that nothing else refers to.
    `supersedes` is the id of the final event that the new one replaces. `doubtful` says that the report leaves the
    job's status open: the provider is asked as soon as `doubted` allows.
    `unconfirmed` says why a final status was believed that a status check was to confirm. `also` is a second event,
    announced after the first.
    """

    job: Job
    disposition: Disposition
    reason: str | None = None
    announce: EventType | None = None
    supersedes: str | None = None
    doubtful: bool = False
    unconfirmed: Unconfirmed | None = None
    also: EventType | None = None


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """A report, who brought it, and how far it is proven.

    `confirm_ms` is how long a final status waits for confirmation by a status check; None if it is trusted.
    """

    report: Report
    source: FinishedBy
    verification: Verification
    callback_id: str | None = None
    confirm_ms: int | None = None


class DoubtLimits(msgspec.Struct, frozen=True):
    """How often callbacks that prove nothing may cause status checks of one job.

    A check follows immediately while fewer than `free` were made; then after `pause_ms`, which doubles with each check
    up to `pause_max_ms`.
    """

    free: int = 3
    pause_ms: int = 5_000
    pause_max_ms: int = 60_000


def digest(report: Report) -> bytes:
    """Return 16 bytes that are equal for equal reports; query strings (signatures, expiries) do not count."""
    outputs = [(output.kind, output.url.partition("#")[0].partition("?")[0]) for output in report.outputs]
    error = report.error and (report.error.provider_code, report.error.provider_message)
    content = [report.provider_job_id, report.state or report.provider_status, outputs, error, report.progress]
    return hashlib.blake2b(msgspec.json.encode(content), digest_size=16).digest()


def ended_by_relay(job: Job) -> bool:
    """Return whether relay or an operator ended the final job, and not its provider."""
    return job.finished_by in (FinishedBy.DEADLINE, FinishedBy.OPERATOR) and job.verification is Verification.NONE


def apply_report(job: Job, status_report: StatusReport, now_ms: int) -> Transition:
    """Return the transition of a job by a provider's report, whichever way it came: the table above."""
    report = status_report.report
    if conflict := _conflict(job, status_report, now_ms):
        return conflict
    if report.state is None:
        return Transition(
            alive(job, now_ms),
            Disposition.RECORDED,
            f"the provider published no such status: {report.provider_status[:40]!r}",
        )
    if job.state.final and not (report.state.final and ended_by_relay(job)):
        return _apply_to_ended(job, status_report, now_ms)
    if report.state.rank < job.state.rank:
        return Transition(_identified(job, report, now_ms), Disposition.STALE, f"{report.state} after {job.state}")
    if (
        job.unconfirmed
        and not job.unconfirmed.tries
        and not report.state.final
        and status_report.source is FinishedBy.CALLBACK
    ):
        return Transition(
            job, Disposition.STALE, f"{report.state} after {job.unconfirmed.report.state}, which is being confirmed"
        )
    if job.state.final and report.state is JobState.SUCCEEDED and not report.outputs:
        return Transition(job, Disposition.STALE, f"success without a result, after {job.state}")
    job = _merge(job, report, now_ms)
    if report.state is job.state:
        return Transition(job, Disposition.RECORDED, "no change of state")
    if report.state is JobState.SUCCEEDED and not report.outputs and job.provider_job_id:
        return _unconfirmed(job, status_report, now_ms, None)
    if report.state.final and status_report.confirm_ms is not None:
        return _unconfirmed(job, status_report, now_ms, now_ms + status_report.confirm_ms)
    return enter(job, status_report, now_ms)


def handshake(job: Job) -> Transition:
    """Return the job unchanged: its provider only tests the callback URL, and says nothing about the job."""
    return Transition(job, Disposition.RECORDED, HANDSHAKE)


def _conflict(job: Job, status_report: StatusReport, now_ms: int) -> Transition | None:
    """Return the transition by a report under another id than the job's, None for the job's own id.

    A callback under another id is about another job; the id of a submission's answer replaces the job's.
    """
    reported_id = status_report.report.provider_job_id
    if (
        not reported_id
        or not job.provider_job_id
        or reported_id == job.provider_job_id
        or status_report.report.upstream_id
    ):
        return None
    if status_report.source is FinishedBy.SUBMIT_ANSWER and not job.state.final:
        reason = f"conflict: a callback said {job.provider_job_id[:80]}, the provider's answer says {reported_id[:80]}"
        job = msgspec.structs.replace(_merge(job, status_report.report, now_ms), provider_job_id=reported_id)
        return Transition(job, Disposition.RECORDED, reason, doubtful=True)
    about = f"the body is about {reported_id[:80]}"
    if status_report.source is FinishedBy.STATUS_CHECK:
        return Transition(job, Disposition.MISMATCHED, about)
    return Transition(job, Disposition.MISMATCHED, about, doubtful=True)


def _apply_to_ended(job: Job, status_report: StatusReport, now_ms: int) -> Transition:
    """Return the transition of a job that its provider, or an operator with the provider's consent, has ended."""
    report = status_report.report
    job = _identified(job, report, now_ms)
    if report.state is job.state:
        return Transition(_refreshed(job, status_report, now_ms), Disposition.REPEATED, f"already {job.state}")
    if report.state is None or not report.state.final or status_report.source is FinishedBy.SUBMIT_ANSWER:
        return Transition(job, Disposition.STALE, f"{report.state} after {job.state}")
    if job.finished_by is FinishedBy.OPERATOR:
        return Transition(job, Disposition.STALE, f"{report.state} after a cancellation that the provider confirmed")
    if status_report.source is FinishedBy.STATUS_CHECK:
        if report.state is JobState.SUCCEEDED and not report.outputs:
            return Transition(dropped(job), Disposition.STALE, f"still without a result, and already {job.state}")
        corrected = enter(job, status_report, now_ms)
        return msgspec.structs.replace(corrected, announce=EventType.JOB_CORRECTED, reason=f"{job.state} was wrong")
    if job.provider_job_id is None:
        return Transition(job, Disposition.STALE, f"{report.state} after {job.state}, and the provider cannot be asked")
    return _unconfirmed(job, status_report, now_ms, now_ms + SECOND_END_MS)


def _identified(job: Job, report: Report, now_ms: int) -> Job:
    """Return the job with the provider's id, if the report is the first that brings it."""
    if job.provider_job_id or not report.provider_job_id or report.upstream_id:
        return job
    submitted_at = job.submitted_at or now_ms
    return msgspec.structs.replace(job, provider_job_id=report.provider_job_id, submitted_at=submitted_at)


def _refreshed(job: Job, status_report: StatusReport, now_ms: int) -> Job:
    """Return an ended job that a status check reports again, with the new cost and freshly signed result URLs."""
    if status_report.source is not FinishedBy.STATUS_CHECK:
        return job
    report = status_report.report
    return dropped(
        msgspec.structs.replace(
            job,
            outputs=report.outputs or job.outputs if job.state is JobState.SUCCEEDED else (),
            cost=report.cost or job.cost,
            verification=status_report.verification,
            updated_at=now_ms,
        )
    )


def _unconfirmed(job: Job, status_report: StatusReport, now_ms: int, confirm_by: int | None) -> Transition:
    """Return the job with an unconfirmed result, to be checked immediately; ended where no status check can be made."""
    report = status_report.report
    if job.provider_job_id is None and not _being_submitted(job, now_ms):
        return enter(job, status_report, now_ms)
    unconfirmed = UnconfirmedResult(report=report, callback_id=status_report.callback_id, at=now_ms)
    due_at = now_ms if job.provider_job_id else None
    refuted = job.unconfirmed is not None and job.unconfirmed.tries > 0
    if due_at is not None and confirm_by is not None and refuted and job.next_check_at is not None:
        due_at = max(now_ms, job.next_check_at)  # a new callback does not shorten the pause after a refutation
        confirm_by += due_at - now_ms
    job = msgspec.structs.replace(job, unconfirmed=unconfirmed, confirm_by=confirm_by, next_check_at=due_at)
    said = f"{report.state}" if report.outputs or report.state is not JobState.SUCCEEDED else "success without a result"
    return Transition(job, Disposition.RECORDED, f"the provider says {said}: a status check is to confirm it")


def _being_submitted(job: Job, now_ms: int) -> bool:
    """Return whether the open job's submission began so recently that its answer may still arrive."""
    begun_at = job.submission_started_at
    return not job.state.final and begun_at is not None and now_ms - begun_at < SUBMITTING_MS


def awaits_answer(job: Job, now_ms: int) -> bool:
    """Return whether the answer to the submission is still awaited, and with it the id that counts."""
    return job.state is JobState.PENDING and _being_submitted(job, now_ms)


def _merge(job: Job, report: Report, now_ms: int) -> Job:
    """Return an open job with a report's id, progress and cost; the report also proves that the submission arrived."""
    merged = alive(job, now_ms)
    merged.provider_job_id = job.provider_job_id or (None if report.upstream_id else report.provider_job_id)
    merged.progress = report.progress if report.progress is not None else job.progress
    merged.cost = report.cost or job.cost
    merged.submitted_at = job.submitted_at or now_ms
    merged.status_path = report.status_path or job.status_path
    if not job.state.final:
        merged.next_submit_at = merged.reason = merged.error = None
    return merged


def alive(job: Job, now_ms: int) -> Job:
    """Return a copy of the job with the time of its provider's latest sign of life."""
    return msgspec.structs.replace(job, last_report_at=now_ms, not_found_seen=0, updated_at=now_ms)


def enter(job: Job, status_report: StatusReport, now_ms: int) -> Transition:
    """Return the job in the state of the report; a success without a result is a failure, `no_output`."""
    report = status_report.report
    state, error, reason = report.state, report.error, None
    assert state is not None
    if state is JobState.SUCCEEDED and not report.outputs:
        state, reason, error = JobState.FAILED, Reason.NO_OUTPUT, _no_output_error(report)
    if state is JobState.FAILED and error is None:
        error = JobError(
            class_=ErrorClass.UNKNOWN, code="failed", message="the provider gave no reason", retryable=False
        )
    if not state.final:
        job = msgspec.structs.replace(job, state=state, updated_at=now_ms)
        return Transition(job, Disposition.RECORDED, f"now {state}", _EVENTS[state])
    ended = dropped(job)
    ended.state, ended.reason = state, reason
    ended.outputs = report.outputs if state is JobState.SUCCEEDED else ()
    ended.error = error if state is JobState.FAILED else None
    ended.progress = 100 if state is JobState.SUCCEEDED else job.progress
    ended.cost = _final(report.cost or job.cost)
    ended.late = job.late or (job.state.final and ended_by_relay(job))
    ended.finished_by, ended.verification = status_report.source, status_report.verification
    return _announced(ended, now_ms, f"now {state}")


def _final(cost: Cost | None) -> Cost | None:
    """Return the cost of a job that its provider ended: reserved credits are final, no provider reports them again.

    An amount in USDC stays as its authorization is known: payments decide about it.
    """
    if cost is None or cost.kind != "reserved" or cost.unit != "credits":
        return cost
    return msgspec.structs.replace(cost, kind="final")


def end(job: Job, now_ms: int, reason: str) -> Transition:
    """Return the final job, announced; the event supersedes the job's former final event, if it has one."""
    return _announced(dropped(job), now_ms, reason)


def _announced(job: Job, now_ms: int, reason: str) -> Transition:
    """Return the transition of a job that has its final state; the job, a copy, gets its times."""
    job.finished_at = job.updated_at = now_ms
    job.next_submit_at = None
    return Transition(job, Disposition.RECORDED, reason, _EVENTS[job.state], job.last_final_event)


def dropped(job: Job) -> Job:
    """Return a copy of the job without an unconfirmed result, and so without a status check that is due."""
    return msgspec.structs.replace(job, unconfirmed=None, confirm_by=None, next_check_at=None)


def _no_output_error(report: Report) -> JobError:
    """Return the error of a success that carries no usable URL."""
    return JobError(
        class_=ErrorClass.PROVIDER_ERROR,
        code="no_output",
        retryable=True,
        provider_code=report.provider_status or None,
        provider_message="; ".join(report.unusable)[:TEXT_MAX_CHARS] or None,
        message="the provider reported success without a usable result URL",
    )


def doubted(job: Job, limits: DoubtLimits, now_ms: int) -> Job:
    """Return an open job with a status check due, if it has a provider's id; later after each check that was made.

    The holder of a callback token can send callbacks that prove nothing, and must not decide how often a provider is
    asked.
    """
    if job.state.final or job.provider_job_id is None:
        return job
    over = job.checks_made - limits.free
    pause_ms = 0 if over < 0 else min(limits.pause_ms << min(over, 10), limits.pause_max_ms)
    due_at = now_ms + pause_ms
    return msgspec.structs.replace(job, next_check_at=min(due_at, job.next_check_at or due_at))


def checked_later(transition: Transition, check_at: int, now_ms: int) -> Transition:
    """Return the transition with the next status check at `check_at`, or at the job's deadline if that is earlier."""
    job = transition.job
    due_already = job.next_check_at is not None and job.next_check_at <= now_ms
    if job.state.final or job.provider_job_id is None or due_already:
        return transition
    next_at = min(check_at, job.deadline_at) if job.deadline_at > now_ms else check_at
    return msgspec.structs.replace(transition, job=msgspec.structs.replace(job, next_check_at=next_at))


def refused(job: Job, error: JobError, now_ms: int) -> Transition:
    """Return the job failed because its provider refused it, unless a callback proves that the provider has it."""
    if job.state is not JobState.PENDING or job.unconfirmed:
        return Transition(job, Disposition.STALE, f"refused, but the job is {job.state}")
    job = msgspec.structs.replace(
        job, state=JobState.FAILED, reason=None, error=error, finished_by=FinishedBy.SUBMIT_ANSWER
    )
    return end(job, now_ms, f"the provider refused the submission: {error.message[:300]}")


def unclear(job: Job, error: JobError, now_ms: int) -> Transition:
    """Return the job as `submit_unknown`: it may have arrived, so relay never sends it again; a report resolves it."""
    if job.state is not JobState.PENDING or job.unconfirmed:
        return Transition(job, Disposition.STALE, f"unclear answer, but the job is {job.state}")
    job = msgspec.structs.replace(
        job, reason=Reason.SUBMIT_UNKNOWN, error=error, next_submit_at=None, updated_at=now_ms
    )
    return Transition(
        job,
        Disposition.RECORDED,
        f"the submission may have arrived, so it is not sent again: {error.message[:300]}",
    )


def awaits_approval(job: Job, approval: Approval, why: str, now_ms: int) -> Transition:
    """Return the job to wait for an approval, because nothing was signed or sent; that was no submission."""
    if job.state is not JobState.PENDING or job.unconfirmed:
        return Transition(job, Disposition.STALE, f"not approved, but the job is {job.state}")
    job = msgspec.structs.replace(
        job,
        reason=Reason.AWAITING_APPROVAL,
        approval=approval,
        error=None,
        next_submit_at=None,
        submission_started_at=None,
        submissions_made=max(0, job.submissions_made - 1),
        updated_at=now_ms,
    )
    return Transition(job, Disposition.RECORDED, why)


def not_sent(job: Job, error: JobError, retry_at: int | None, now_ms: int) -> Transition:
    """Return the job to be submitted again at `retry_at` (None: failed), because nothing was sent."""
    if job.state is not JobState.PENDING or job.unconfirmed:
        return Transition(job, Disposition.STALE, f"not sent, but the job is {job.state}")
    if retry_at is None:
        return refused(job, error, now_ms)
    job = msgspec.structs.replace(
        job, reason=None, error=error, next_submit_at=retry_at, submission_started_at=None, updated_at=now_ms
    )
    return Transition(job, Disposition.RECORDED, f"not sent, and tried again: {error.message[:300]}")
