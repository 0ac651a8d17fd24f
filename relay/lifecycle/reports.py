"""How a job moves: pure functions from a job and a word about it to the job after it, the verdict, and the event.

    pending ──▶ submitted ──▶ running ──▶ succeeded | failed | canceled | expired

    the job is          the word is                        then
    ──────────────────  ─────────────────────────────────  ─────────────────────────────────────────────────────────
    open                of a lower rank                     stale
    open                of the same state                   recorded: progress, cost, the provider's id
    open                of a higher rank, not final         enters that state, announced
    open                final, believed                     ends, announced
    open                final, not believed yet             claimed: a status check bears it out, or its time runs out
    ended by relay      final                               as if open: ends again, `late`, superseding
    ended by provider   the same state                      repeated; a check brings cost and fresh result URLs
    ended by provider   another final state, by a check     corrected: `job.corrected`, superseding
    ended by provider   another final state, otherwise      claimed: only a status check can bear it out
    ended               not final                           stale

A word is believed when a status check or a signature brought it, or where the operator wants no confirmation. Relay
ends a job by its deadline or by a person's hand; that is not the provider's verdict, so the provider's comes after it.
What checks do to a job is in `lifecycle/checks.py`, what people do in `lifecycle/operator_actions.py`.
"""

import hashlib
from typing import Final

import msgspec

from relay.model.job import (
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

SECOND_VERDICT_MS: Final = 600_000
"""How long relay tries to have a second verdict borne out before the first one stands."""

SUBMITTING_MS: Final = 60_000
"""For so long after a submission began, its answer may still bring the id that a status check needs."""
_EVENTS: Final[dict[JobState, EventType]] = {
    state: EventType(f"job.{state}") for state in JobState if state is not JobState.PENDING
}
"""What is announced when a job enters a state."""


class Transition(msgspec.Struct, frozen=True):
    """The job after a word about it, what became of the word, and what to announce (None: nothing).

    `doubtful` says that the word leaves open how the job stands: the provider is asked, as soon as `doubted` allows.
    `unconfirmed` says why a final status was believed that a status check was to confirm.
    """

    job: Job
    disposition: Disposition
    reason: str | None = None
    announce: EventType | None = None
    supersedes: str | None = None
    doubtful: bool = False
    unconfirmed: Unconfirmed | None = None


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was said about a job, by whom, and how far it is proven.

    `confirm_ms` is how long a final word waits to be borne out by a status check; None for one that is believed.
    """

    report: Report
    source: FinishedBy
    verification: Verification
    callback_id: str | None = None
    confirm_ms: int | None = None


class DoubtLimits(msgspec.Struct, frozen=True):
    """How often callbacks that prove nothing may have a provider asked about one job.

    A check follows immediately while fewer than `free` were made; then after `pause_ms`, which doubles with each check
    up to `pause_max_ms`.
    """

    free: int = 3
    pause_ms: int = 5_000
    pause_max_ms: int = 60_000


def digest(report: Report) -> bytes:
    """16 bytes that are equal for the same word about a job: query strings (signatures, expiries) do not count."""
    outputs = [(output.kind, output.url.partition("#")[0].partition("?")[0]) for output in report.outputs]
    error = report.error and (report.error.provider_code, report.error.provider_message)
    said = [report.provider_job_id, report.state or report.word, outputs, error, report.progress]
    return hashlib.blake2b(msgspec.json.encode(said), digest_size=16).digest()


def ended_by_relay(job: Job) -> bool:
    """Whether the end of a final job is relay's or a person's, and no provider's."""
    return job.finished_by in (FinishedBy.DEADLINE, FinishedBy.OPERATOR) and job.verification is Verification.NONE


def apply_report(job: Job, word: StatusReport, now_ms: int) -> Transition:
    """A provider's word about a job, whichever way it came; the table above."""
    report = word.report
    if conflict := _conflict(job, word, now_ms):
        return conflict
    if report.state is None:
        return Transition(
            alive(job, now_ms), Disposition.RECORDED, f"a status word nobody published: {report.word[:40]!r}"
        )
    if job.state.final and not (report.state.final and ended_by_relay(job)):
        return _hear_ended(job, word, now_ms)
    if report.state.rank < job.state.rank:
        return Transition(_identified(job, report, now_ms), Disposition.STALE, f"{report.state} after {job.state}")
    if job.unconfirmed and not job.unconfirmed.tries and not report.state.final and word.source is FinishedBy.CALLBACK:
        return Transition(
            job, Disposition.STALE, f"{report.state} after {job.unconfirmed.report.state}, which is being confirmed"
        )
    if job.state.final and report.state is JobState.SUCCEEDED and not report.outputs:
        return Transition(job, Disposition.STALE, f"success without a result, after {job.state}")
    job = _merge(job, report, now_ms)
    if report.state is job.state:
        return Transition(job, Disposition.RECORDED, "no change of state")
    if report.state is JobState.SUCCEEDED and not report.outputs and job.provider_job_id:
        return _claimed(job, word, now_ms, None)
    if report.state.final and word.confirm_ms is not None:
        return _claimed(job, word, now_ms, now_ms + word.confirm_ms)
    return enter(job, word, now_ms)


def _conflict(job: Job, word: StatusReport, now_ms: int) -> Transition | None:
    """A word under another id than the job's: a callback's is about something else, a submit answer's is right."""
    told = word.report.provider_job_id
    if not told or not job.provider_job_id or told == job.provider_job_id or word.report.upstream_id:
        return None
    if word.source is FinishedBy.SUBMIT_ANSWER and not job.state.final:
        reason = f"conflict: a callback said {job.provider_job_id[:80]}, the provider's answer says {told[:80]}"
        job = msgspec.structs.replace(_merge(job, word.report, now_ms), provider_job_id=told)
        return Transition(job, Disposition.RECORDED, reason, doubtful=True)
    about = f"the body is about {told[:80]}"
    if word.source is FinishedBy.STATUS_CHECK:
        return Transition(job, Disposition.MISMATCHED, about)
    return Transition(job, Disposition.MISMATCHED, about, doubtful=True)


def _hear_ended(job: Job, word: StatusReport, now_ms: int) -> Transition:
    """A word about a job that has ended, and not by relay alone."""
    report = word.report
    job = _identified(job, report, now_ms)
    if report.state is job.state:
        return Transition(_refreshed(job, word, now_ms), Disposition.REPEATED, f"already {job.state}")
    if report.state is None or not report.state.final or word.source is FinishedBy.SUBMIT_ANSWER:
        return Transition(job, Disposition.STALE, f"{report.state} after {job.state}")
    if job.finished_by is FinishedBy.OPERATOR:
        return Transition(job, Disposition.STALE, f"{report.state} after a cancellation that the provider confirmed")
    if word.source is FinishedBy.STATUS_CHECK:
        if report.state is JobState.SUCCEEDED and not report.outputs:
            return Transition(dropped(job), Disposition.STALE, f"still without a result, and already {job.state}")
        corrected = enter(job, word, now_ms)
        return msgspec.structs.replace(corrected, announce=EventType.JOB_CORRECTED, reason=f"{job.state} was wrong")
    if job.provider_job_id is None:
        return Transition(job, Disposition.STALE, f"{report.state} after {job.state}, and the provider cannot be asked")
    return _claimed(job, word, now_ms, now_ms + SECOND_VERDICT_MS)


def _identified(job: Job, report: Report, now_ms: int) -> Job:
    """A word that moves nothing may still be the first that brings the provider's id."""
    if job.provider_job_id or not report.provider_job_id or report.upstream_id:
        return job
    submitted_at = job.submitted_at or now_ms
    return msgspec.structs.replace(job, provider_job_id=report.provider_job_id, submitted_at=submitted_at)


def _refreshed(job: Job, word: StatusReport, now_ms: int) -> Job:
    """An ended job, told again by a status check: what may still change is the cost, and how its result is signed."""
    if word.source is not FinishedBy.STATUS_CHECK:
        return job
    report = word.report
    return dropped(
        msgspec.structs.replace(
            job,
            outputs=report.outputs or job.outputs if job.state is JobState.SUCCEEDED else (),
            cost=report.cost or job.cost,
            verification=word.verification,
            updated_at=now_ms,
        )
    )


def _claimed(job: Job, word: StatusReport, now_ms: int, confirm_by: int | None) -> Transition:
    """The word is held until a status check bears it out; where none can be made, it is believed at once or dropped."""
    report = word.report
    if job.provider_job_id is None and not _being_submitted(job, now_ms):
        return enter(job, word, now_ms)
    unconfirmed = UnconfirmedResult(report=report, callback_id=word.callback_id, at=now_ms)
    due_at = now_ms if job.provider_job_id else None
    refuted = job.unconfirmed is not None and job.unconfirmed.tries > 0
    if due_at is not None and confirm_by is not None and refuted and job.next_check_at is not None:
        due_at = max(now_ms, job.next_check_at)  # one that was refuted has its pause, and the next claim shares it
        confirm_by += due_at - now_ms
    job = msgspec.structs.replace(job, unconfirmed=unconfirmed, confirm_by=confirm_by, next_check_at=due_at)
    what = f"{report.state}" if report.outputs or report.state is not JobState.SUCCEEDED else "success without a result"
    return Transition(job, Disposition.RECORDED, f"the provider says {what}: asked to confirm it")


def _being_submitted(job: Job, now_ms: int) -> bool:
    """Whether the submission of an open job began so recently that its answer may still be under way."""
    begun_at = job.submission_started_at
    return not job.state.final and begun_at is not None and now_ms - begun_at < SUBMITTING_MS


def awaits_answer(job: Job, now_ms: int) -> bool:
    """Whether the answer to the submission is still to come, and with it the id that counts."""
    return job.state is JobState.PENDING and _being_submitted(job, now_ms)


def _merge(job: Job, report: Report, now_ms: int) -> Job:
    """What any word of an open job brings: the provider's id, progress, cost; and that the submission did arrive."""
    job = msgspec.structs.replace(
        alive(job, now_ms),
        provider_job_id=job.provider_job_id or (None if report.upstream_id else report.provider_job_id),
        progress=report.progress if report.progress is not None else job.progress,
        cost=report.cost or job.cost,
        submitted_at=job.submitted_at or now_ms,
        status_path=report.status_path or job.status_path,
    )
    if job.state.final:
        return job
    return msgspec.structs.replace(job, next_submit_at=None, reason=None, error=None)


def alive(job: Job, now_ms: int) -> Job:
    """The provider gave a sign that it has the job."""
    return msgspec.structs.replace(job, last_report_at=now_ms, not_found_seen=0, updated_at=now_ms)


def enter(job: Job, word: StatusReport, now_ms: int) -> Transition:
    """The job enters the state of the word. Success without a result is not success."""
    report = word.report
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
        return Transition(job, Disposition.RECORDED, f"now {state}", _EVENTS[state])
    job = msgspec.structs.replace(
        job,
        state=state,
        reason=reason,
        outputs=report.outputs if state is JobState.SUCCEEDED else (),
        error=error if state is JobState.FAILED else None,
        progress=100 if state is JobState.SUCCEEDED else job.progress,
        cost=_final(report.cost or job.cost),
        late=job.late or (job.state.final and ended_by_relay(job)),
        finished_by=word.source,
        verification=word.verification,
    )
    return end(job, now_ms, f"now {state}")


def _final(cost: Cost | None) -> Cost | None:
    """What a job cost whose provider has ended it: what it reserved of credits, which nobody speaks of again.

    What is paid by an authorization is as sure as what is known of that.
    """
    if cost is None or cost.kind != "reserved" or cost.unit != "credits":
        return cost
    return msgspec.structs.replace(cost, kind="final")


def end(job: Job, now_ms: int, reason: str) -> Transition:
    """The job is final, announced as such; a later verdict names the one it supersedes."""
    job = msgspec.structs.replace(dropped(job), finished_at=now_ms, updated_at=now_ms, next_submit_at=None)
    return Transition(job, Disposition.RECORDED, reason, _EVENTS[job.state], job.last_final_event)


def dropped(job: Job) -> Job:
    """The job without a claim, and so without anything that is still to be asked or settled."""
    return msgspec.structs.replace(job, unconfirmed=None, confirm_by=None, next_check_at=None)


def _no_output(report: Report) -> JobError:
    """The error of a success that carries no usable URL."""
    return JobError(
        class_=ErrorClass.PROVIDER_ERROR,
        code="no_output",
        retryable=True,
        provider_code=report.word or None,
        provider_message="; ".join(report.unusable)[:TEXT_MAX_CHARS] or None,
        message="the provider reported success without a usable result URL",
    )


def doubted(job: Job, limits: DoubtLimits, now_ms: int) -> Job:
    """Return an open job whose provider is asked about it, if it knows the job by an id: later after each check.

    The holder of a callback token can send what proves nothing, and must not decide how often a provider is asked.
    """
    if job.state.final or job.provider_job_id is None:
        return job
    over = job.checks_made - limits.free
    pause_ms = 0 if over < 0 else min(limits.pause_ms << min(over, 10), limits.pause_max_ms)
    due_at = now_ms + pause_ms
    return msgspec.structs.replace(job, next_check_at=min(due_at, job.next_check_at or due_at))


def asked_later(transition: Transition, check_at: int, now_ms: int) -> Transition:
    """The move, and when the provider is asked next if that leaves the job open; at its deadline at the latest."""
    job = transition.job
    due_already = job.next_check_at is not None and job.next_check_at <= now_ms
    if job.state.final or job.provider_job_id is None or due_already:
        return transition
    next_at = min(check_at, job.deadline_at) if job.deadline_at > now_ms else check_at
    return msgspec.structs.replace(transition, job=msgspec.structs.replace(job, next_check_at=next_at))


def refused(job: Job, error: JobError, now_ms: int) -> Transition:
    """The provider did not take the submission: the job has failed, unless a callback already said better."""
    if job.state is not JobState.PENDING or job.unconfirmed:
        return Transition(job, Disposition.STALE, f"refused, but the job is {job.state}")
    job = msgspec.structs.replace(
        job, state=JobState.FAILED, reason=None, error=error, finished_by=FinishedBy.SUBMIT_ANSWER
    )
    return end(job, now_ms, f"the provider refused the submission: {error.message[:300]}")


def unclear(job: Job, error: JobError, now_ms: int) -> Transition:
    """Nobody knows whether the submission arrived: it is never sent again by relay, and a callback settles it."""
    if job.state is not JobState.PENDING or job.unconfirmed:
        return Transition(job, Disposition.STALE, f"unclear answer, but the job is {job.state}")
    job = msgspec.structs.replace(
        job, reason=Reason.SUBMIT_UNKNOWN, error=error, next_submit_at=None, updated_at=now_ms
    )
    return Transition(
        job,
        Disposition.RECORDED,
        f"the submission may or may not have arrived, and is not sent again: {error.message[:300]}",
    )


def not_sent(job: Job, error: JobError, retry_at: int | None, now_ms: int) -> Transition:
    """The submission surely did not leave: it is tried again at `retry_at`, or the job has failed."""
    if job.state is not JobState.PENDING or job.unconfirmed:
        return Transition(job, Disposition.STALE, f"not sent, but the job is {job.state}")
    if retry_at is None:
        return refused(job, error, now_ms)
    job = msgspec.structs.replace(
        job, error=error, next_submit_at=retry_at, submission_started_at=None, updated_at=now_ms
    )
    return Transition(job, Disposition.RECORDED, f"not sent, and tried again: {error.message[:300]}")
