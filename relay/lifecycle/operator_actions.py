"""Decides what an operator's action does to a job: approve, cancel, declare failed, submit again.

Pure functions, as in `lifecycle/reports.py`. A result that is `stale` changes nothing; its reason says why.
"""

import msgspec

from relay.lifecycle import reports
from relay.lifecycle.reports import Transition, end
from relay.model.job import (
    Approval,
    Cost,
    Disposition,
    ErrorClass,
    FinishedBy,
    Job,
    JobError,
    JobState,
    Reason,
    Verification,
)
from relay.model.payment import Payment, PaymentState


def canceled(job: Job, confirmed: bool, now_ms: int, accepted: bool = False) -> Transition:
    """Return the job canceled; `detached` where it was sent and its provider has not confirmed the cancellation.

    `accepted` says that the provider took the cancellation, which does not prove that it came in time.
    """
    if (confirmed or accepted) and job.state is JobState.CANCELED:
        return Transition(job, Disposition.RECORDED, "canceled at the provider, which reported it first")
    if job.state.final:
        return Transition(job, Disposition.STALE, f"the job is already {job.state}")
    unsent = job.submission_started_at is None and job.provider_job_id is None
    why = "before it was sent" if unsent else "at the provider" if confirmed else "here; the provider may go on"
    job = msgspec.structs.replace(
        job,
        state=JobState.CANCELED,
        reason=None if unsent or confirmed else Reason.DETACHED,
        error=None,
        finished_by=FinishedBy.OPERATOR,
        verification=Verification.FETCH if confirmed else Verification.NONE,
    )
    return end(job, now_ms, f"canceled {why}")


def failed(job: Job, why: str, now_ms: int) -> Transition:
    """Return the job declared failed by an operator."""
    if job.state.final:
        return Transition(job, Disposition.STALE, f"the job is already {job.state}")
    error = JobError(class_=ErrorClass.UNKNOWN, code="operator", message=why, retryable=False)
    job = msgspec.structs.replace(job, state=JobState.FAILED, reason=None, error=error, finished_by=FinishedBy.OPERATOR)
    return end(job, now_ms, f"declared failed: {why[:200]}")


def approved(job: Job, decided: Approval, next_submit_at: int) -> Transition:
    """Return the job ready to be submitted, since a key approves its price; stale where it does not wait for that."""
    if refusal := _not_waiting(job):
        return refusal
    approval = _decided(job, decided)
    job = msgspec.structs.replace(
        job, reason=None, approval=approval, next_submit_at=next_submit_at, updated_at=decided.asked_at
    )
    return Transition(job, Disposition.RECORDED, f"approved by {decided.key_id}" + _because(decided))


def not_approved(job: Job, decided: Approval, now_ms: int) -> Transition:
    """Return the job failed, since a key refuses to approve it."""
    if refusal := _not_waiting(job):
        return refusal
    why = f"not approved by {decided.key_id}" + _because(decided)
    job = msgspec.structs.replace(
        job,
        state=JobState.FAILED,
        reason=None,
        approval=_decided(job, decided),
        error=JobError(class_=ErrorClass.UNKNOWN, code="not_approved", message=why, retryable=False),
        finished_by=FinishedBy.OPERATOR,
    )
    return end(job, now_ms, why[:200])


def _not_waiting(job: Job) -> Transition | None:
    """Return the refusal of a decision about a job that waits for none; None if it waits."""
    if job.state is JobState.PENDING and job.reason == Reason.AWAITING_APPROVAL:
        return None
    return Transition(job, Disposition.STALE, f"the job is {job.state}: it does not wait for an approval")


def _decided(job: Job, decided: Approval) -> Approval:
    """Return a decision about the price that was asked for.

    An earlier relay may have lost that price; then nothing is approved but a price of 0, and relay asks again.
    """
    asked = job.approval or Approval(amount=0, asked_at=decided.asked_at)
    return msgspec.structs.replace(decided, amount=asked.amount, asked_at=asked.asked_at)


def _because(decided: Approval) -> str:
    """Return a decision's reason as the end of a sentence."""
    return f": {decided.reason}" if decided.reason else ""


def maybe_charged(job: Job) -> bool:
    """Return whether a provider may have charged for the job: not if it was never sent, or surely refused or failed."""
    if job.submission_started_at is None and job.provider_job_id is None:
        return False
    return not (job.state is JobState.FAILED and job.reason is None and job.finished_by is not FinishedBy.OPERATOR)


def did_not_succeed(job: Job) -> bool:
    """Return whether the job has ended without a result, or waits after a submission without an answer."""
    unknown = job.state is JobState.PENDING and job.reason == Reason.SUBMIT_UNKNOWN
    return unknown or job.state in (JobState.FAILED, JobState.CANCELED, JobState.EXPIRED)


def paid_once(job: Job, payment: Payment, now_ms: int) -> str | None:
    """Return why a job with a payment cannot be sent again; None if its authorization is valid and surely never left.

    A job has one authorization with one nonce. If that may have been sent, sending it again buys nothing; if it has
    ended, a second one would be another payment under the name of the first.
    """
    unsent = payment.state is PaymentState.RESERVED and not maybe_charged(job)
    if unsent and payment.valid_before > now_ms:
        return None
    known = {
        PaymentState.PAID: "it was paid for",
        PaymentState.LOST: "it was paid for, and the result is lost",
        PaymentState.VOID: "its authorization was never used, and is void",
    }
    what = "its authorization expired unsent" if unsent else known.get(payment.state, "it may have been paid for")
    return f"{what}: a job is paid for once, whatever accept_double_charge says; make a new job with POST /v1/jobs"


def resubmitted(
    job: Job, accept_double_charge: bool, next_submit_at: int, now_ms: int, cost: Cost | None = None
) -> Transition:
    """Return the job ready to be submitted again, with its original time until the deadline.

    What the provider did before stays in the timeline only. `cost` is what is authorized for the job already. An
    approval was for the first time alone.
    """
    if not did_not_succeed(job):
        return Transition(
            job, Disposition.STALE, f"the job is {job.state}: only one that did not succeed can be submitted again"
        )
    if maybe_charged(job) and not accept_double_charge:
        charged = 'it may have been charged: {"accept_double_charge": true} submits it all the same'
        return Transition(job, Disposition.STALE, charged)
    before = f", which was {job.provider_job_id[:80]} at the provider" if job.provider_job_id else ""
    job = msgspec.structs.replace(
        reports.dropped(job),
        state=JobState.PENDING,
        reason=None,
        error=None,
        provider_job_id=None,
        progress=None,
        outputs=(),
        cost=cost,
        approval=None,
        finished_by=None,
        verification=Verification.NONE,
        late=False,
        submitted_at=None,
        finished_at=None,
        updated_at=now_ms,
        deadline_at=now_ms + job.deadline_at - job.created_at,
        next_submit_at=next_submit_at,
        submission_started_at=None,
        submissions_made=0,
        last_report_at=None,
        not_found_seen=0,
    )
    return Transition(job, Disposition.RECORDED, f"submitted again by hand{before}")
