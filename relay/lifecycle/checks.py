"""Decides what a status check does to a job: pure functions, as in `lifecycle/reports.py`.

    the provider's status route    nothing unconfirmed  an unconfirmed result of a    an unconfirmed result that
                                                        job that its provider has     contradicts the provider's
                                                        not ended                     own end of the job
    ─────────────────────────────  ───────────────────  ────────────────────────────  ─────────────────────────────
    gives the unconfirmed status   –                    confirmed: the job ends       corrected: `job.corrected`
    gives another final status     the job ends         the status route counts       its own end stands if it is
                                                                                      that, else checked again
    gives a status not final       recorded             disputed: checked again       checked again
    gives no status                lost if the job is   believed on the callback's    checked again, for ten minutes
                                   not found, or the    token; after a 429 checked    at most
                                   provider silent,     again if the pause ends
                                   for too long; else   within the time
                                   checked again

An unconfirmed result is a final status that only an unsigned callback has reported. A success without a result is
checked twice more before it counts as a failure. A job that its provider does not know is lost after three such answers
and ten minutes, because a replica may not know a new job yet. A job past its deadline is checked one last time before
it expires.
"""

from enum import StrEnum
from typing import Final

import msgspec

from relay.lifecycle import reports
from relay.lifecycle.reports import StatusReport, Transition, end, enter
from relay.model.job import (
    Disposition,
    ErrorClass,
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

NO_OUTPUT_TRIES: Final = 2
NOT_FOUND_TRIES: Final = 3
NOT_FOUND_AGE_MS: Final = 600_000
LAST_CHECK_MS: Final = 120_000
"""How long an overdue job waits for its last status check: the lease of a check that died, and one more check."""
_LAST_AGAIN_MS: Final = 5_000
_LATE_MS: Final = 30_000
"""A sweep that comes this late means that relay was stopped, and that no status check was made meanwhile."""
_ASKED_AGAIN_MS: Final = 86_400_000
"""For so long after its deadline a job may have another last check, because relay was stopped during the former one."""
_UNCONFIRMED_PAUSE_MS: Final = 5_000
_UNCONFIRMED_PAUSE_MAX_MS: Final = 600_000


_UNCHECKED: Final = {
    Unconfirmed.PACED_OUT: "no status check began: other jobs used up what RELAY_CHECKS_IN_FLIGHT_MAX, "
    "RELAY_CHECKS_PER_S and RELAY_CONFIRMATIONS_PER_S_MAX allow",
    Unconfirmed.PAUSED: "no status check began: the provider is not asked for a while, because it answered 429 or "
    "refuses relay's key",
    Unconfirmed.NO_ID: "no status check began: the provider's id of the job is not known",
    Unconfirmed.NO_ANSWER: "the provider has not answered the status check yet",
}
"""Why an unconfirmed result had no answer of a status check in time, as text."""


class CheckOutcome(StrEnum):
    """What kind of answer a status check got."""

    STATUS = "status"
    NOT_FOUND = "not_found"
    KEY_REFUSED = "key_refused"
    RATE_LIMITED = "rate_limited"
    NO_STATUS = "no_status"
    NO_ANSWER = "no_answer"


class StatusCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One status check: the id that it asked about, what it found, and when to check again; times in unix milliseconds.

    `report` is None unless the finding is a status. Until `paused_until` the provider is not asked. `heartbeat_ms` is
    how long it may give no sign of life.
    """

    asked_id: str | None
    finding: CheckOutcome
    report: Report | None
    started_at: int
    again_at: int
    paused_until: int
    heartbeat_ms: int


def decide(job: Job, check: StatusCheck, now_ms: int) -> Transition:
    """Return the job after a status check, by the table above, with its next check scheduled if it is still open."""
    unconfirmed = job.unconfirmed
    if check.asked_id and check.asked_id != job.provider_job_id:
        return Transition(job, Disposition.RECORDED, "asked under an id that turned out to be another job's")
    if unconfirmed is None:
        transition = _nothing_unconfirmed(job, check, now_ms)
    elif check.started_at < unconfirmed.at and not (check.report and check.report.state is unconfirmed.report.state):
        return Transition(job, Disposition.RECORDED, "asked before the callback came, so it says nothing about that")
    elif job.state.final and not reports.ended_by_relay(job):
        transition = _contradiction(job, unconfirmed, check, now_ms)
    elif _paused_in_time(job, check):
        job = msgspec.structs.replace(job, next_check_at=check.paused_until)
        return Transition(job, Disposition.RECORDED, f"no status ({_said(check)}): asked again after the pause")
    else:
        transition = _unconfirmed(job, unconfirmed, check, now_ms)
    return transition if transition.job.state.final else _scheduled(transition, check, now_ms)


def _nothing_unconfirmed(job: Job, check: StatusCheck, now_ms: int) -> Transition:
    """Decide about a job without an unconfirmed result."""
    if check.report is not None:
        return reports.apply_report(job, by_check(check.report), now_ms)
    if job.state.final:
        return Transition(job, Disposition.RECORDED, f"no status: {check.finding}")
    if check.finding is CheckOutcome.NOT_FOUND:
        job = msgspec.structs.replace(job, not_found_seen=job.not_found_seen + 1)
        age_ms = now_ms - (job.submitted_at or now_ms)
        if job.not_found_seen >= NOT_FOUND_TRIES and age_ms >= NOT_FOUND_AGE_MS:
            return _lost(job, now_ms)
    silence_ms = now_ms - (job.last_report_at or now_ms)
    if silence_ms >= check.heartbeat_ms:
        why = f"no sign of life from the provider for {silence_ms // 60_000} minutes"
        return _expired(job, Reason.LOST, why, now_ms)
    return Transition(job, Disposition.RECORDED, f"no status of the job: {check.finding}")


def _unconfirmed(job: Job, unconfirmed: UnconfirmedResult, check: StatusCheck, now_ms: int) -> Transition:
    """Decide about an unconfirmed result where the job is open, or was ended by relay alone."""
    match _status_report(job, check):
        case None if check.finding is CheckOutcome.NOT_FOUND and reports.awaits_answer(job, now_ms):
            return Transition(
                job, Disposition.RECORDED, "not found under the callback's id: the submission's answer decides"
            )
        case None if job.confirm_by is None:
            return Transition(job, Disposition.RECORDED, f"no status of the job: {_said(check)}")
        case None:
            why = Unconfirmed.NO_STATUS if check.finding is CheckOutcome.STATUS else Unconfirmed(check.finding)
            return _believed(conclude(job, now_ms), why, f"it could not be confirmed ({_said(check)})")
        case Report(state=unconfirmed.report.state) as report:
            return _confirmed(job, unconfirmed, report, now_ms)
        case Report(state=JobState(final=True)) as report:
            applied = reports.apply_report(reports.dropped(job), by_check(report), now_ms)
            return msgspec.structs.replace(applied, reason=f"{_says_both(unconfirmed, report)}: that counts")
        case report:
            reason = f"{_says_both(unconfirmed, report)}: asked again"
            if job.state.final:
                return _checked_again(job, unconfirmed, reason, now_ms)
            applied = reports.apply_report(reports.dropped(job), by_check(report), now_ms)
            after = msgspec.structs.replace(applied.job, unconfirmed=_tried(unconfirmed))
            return msgspec.structs.replace(applied, job=after, reason=reason)


def _paused_in_time(job: Job, check: StatusCheck) -> bool:
    """Return whether the pause after a 429 ends before the time is over for confirming the job's result."""
    limited = check.finding is CheckOutcome.RATE_LIMITED
    return limited and job.confirm_by is not None and check.paused_until < job.confirm_by


def _contradiction(job: Job, unconfirmed: UnconfirmedResult, check: StatusCheck, now_ms: int) -> Transition:
    """Decide about an unconfirmed result that contradicts the provider's own end of the job."""
    again = f"asked again before {job.state} is corrected"
    match _status_report(job, check):
        case None:
            return _checked_again(job, unconfirmed, f"{_said(check)}: {again}", now_ms)
        case Report(state=unconfirmed.report.state) as report:
            return reports.apply_report(job, _confirming(unconfirmed, report, FinishedBy.STATUS_CHECK), now_ms)
        case Report(state=job.state):
            reason = f"the provider's status says {job.state}: that stands"
            return Transition(reports.dropped(job), Disposition.RECORDED, reason)
        case report:
            return _checked_again(job, unconfirmed, f"the provider's status says {report.state}: {again}", now_ms)


def _status_report(job: Job, check: StatusCheck) -> Report | None:
    """Return the report of a check that brought a known status of this very job."""
    report = check.report
    if report is None or report.state is None or (report.provider_job_id or job.provider_job_id) != job.provider_job_id:
        return None
    return report


def _said(check: StatusCheck) -> str:
    """Return, for the timeline, what a check without a status brought."""
    return check.finding if check.report is None else f"the status route says {check.report.provider_status[:40]!r}"


def _says_both(unconfirmed: UnconfirmedResult, report: Report) -> str:
    """Return, for the timeline, what the callback and the status route say."""
    return f"a callback said {unconfirmed.report.state}, the provider's status says {report.state}"


def _confirmed(job: Job, unconfirmed: UnconfirmedResult, report: Report, now_ms: int) -> Transition:
    """Return the job ended with the confirmed result; a success without any result is checked again first."""
    missing = report.state is JobState.SUCCEEDED and not report.outputs and not unconfirmed.report.outputs
    if missing and not job.state.final and unconfirmed.tries + 1 < NO_OUTPUT_TRIES:
        job = msgspec.structs.replace(reports.alive(job, now_ms), unconfirmed=_tried(unconfirmed))
        return Transition(job, Disposition.RECORDED, "succeeded, and still without a result: asked again")
    entered = enter(reports.alive(job, now_ms), _confirming(unconfirmed, report, _source(unconfirmed)), now_ms)
    return msgspec.structs.replace(entered, reason=f"confirmed: {entered.reason}")


def _confirming(unconfirmed: UnconfirmedResult, report: Report, source: FinishedBy) -> StatusReport:
    """Return the status route's report with the callback's result, on its token, where the status route gives none."""
    verification = Verification.FETCH
    if report.state is JobState.SUCCEEDED and not report.outputs and unconfirmed.report.outputs:
        report = msgspec.structs.replace(report, outputs=unconfirmed.report.outputs)
        verification = Verification.TOKEN
    return StatusReport(report=report, source=source, verification=verification, callback_id=unconfirmed.callback_id)


def _source(unconfirmed: UnconfirmedResult) -> FinishedBy:
    """Return what brought an unconfirmed result: a success without a result may come from a status check."""
    return FinishedBy.CALLBACK if unconfirmed.callback_id else FinishedBy.STATUS_CHECK


def _tried(unconfirmed: UnconfirmedResult) -> UnconfirmedResult:
    """Return the unconfirmed result after one more check that did not confirm it."""
    return msgspec.structs.replace(unconfirmed, tries=unconfirmed.tries + 1)


def _checked_again(job: Job, unconfirmed: UnconfirmedResult, reason: str, now_ms: int) -> Transition:
    """Return an ended job that keeps its unconfirmed result for ten minutes at most, with its next check scheduled."""
    unconfirmed = _tried(unconfirmed)
    confirm_by = unconfirmed.at + reports.SECOND_END_MS
    next_check_at = min(now_ms + _unconfirmed_pause_ms(unconfirmed), confirm_by)
    job = msgspec.structs.replace(job, unconfirmed=unconfirmed, confirm_by=confirm_by, next_check_at=next_check_at)
    return Transition(job, Disposition.RECORDED, reason)


def _scheduled(transition: Transition, check: StatusCheck, now_ms: int) -> Transition:
    """Return an open job with its next check; the last one at its deadline, after which it expires."""
    job = transition.job
    if (last := _last_check_again(job, check, now_ms)) is not None:
        return msgspec.structs.replace(transition, job=last)
    if job.deadline_at <= now_ms and (job.unconfirmed is None or job.unconfirmed.tries):
        expired = expire(job, now_ms)
        return msgspec.structs.replace(expired, reason=f"{transition.reason}; {expired.reason}")
    again_at = check.again_at
    if job.unconfirmed:
        again_at = min(again_at, now_ms + _unconfirmed_pause_ms(job.unconfirmed))
    return reports.checked_later(transition, again_at, now_ms)


def _last_check_again(job: Job, check: StatusCheck, now_ms: int) -> Job | None:
    """Return the job with its last check scheduled again if that brought no answer about it; None if it is over.

    A check that was under way at the deadline may end before the sweeper sees that the job is overdue.
    """
    confirm_by = job.confirm_by or (now_ms + LAST_CHECK_MS if job.deadline_at <= now_ms else None)
    if job.unconfirmed or confirm_by is None or check.finding in (CheckOutcome.STATUS, CheckOutcome.NOT_FOUND):
        return None
    again_at = now_ms + _LAST_AGAIN_MS
    if check.finding in (CheckOutcome.RATE_LIMITED, CheckOutcome.KEY_REFUSED):
        again_at = max(again_at, check.again_at)
    if again_at >= confirm_by:
        return None
    return msgspec.structs.replace(job, confirm_by=confirm_by, next_check_at=again_at)


def conclude(job: Job, now_ms: int) -> Transition:
    """Return the job when the time is over for confirming its result, or for its last check after the deadline."""
    unconfirmed = job.unconfirmed
    if unconfirmed is None:
        late = job.confirm_by is not None and now_ms - job.confirm_by >= _LATE_MS
        if late and job.provider_job_id is not None and now_ms - job.deadline_at < _ASKED_AGAIN_MS:
            job = msgspec.structs.replace(job, confirm_by=now_ms + LAST_CHECK_MS, next_check_at=now_ms)
            return Transition(
                job, Disposition.RECORDED, "relay was stopped meanwhile: the provider is asked one last time"
            )
        return expire(job, now_ms)
    if job.state.final and (unconfirmed.tries or not reports.ended_by_relay(job)):
        reason = f"{unconfirmed.report.state} was never confirmed: {job.state} stands"
        return Transition(reports.dropped(job), Disposition.RECORDED, reason)
    if unconfirmed.tries:
        return expire(msgspec.structs.replace(job, unconfirmed=None), now_ms)
    return enter(
        job,
        StatusReport(report=unconfirmed.report, source=_source(unconfirmed), verification=Verification.TOKEN),
        now_ms,
    )


def out_of_time(job: Job, paused: frozenset[str], now_ms: int) -> Transition:
    """Return the job when the sweeper finds that the time for its status check is over, with the reason as text.

    `paused` are the providers that are not asked at the moment, because they answered 429 or refuse relay's key.
    """
    if job.confirm_by is None or job.confirm_by > now_ms:
        return Transition(job, Disposition.STALE, "it was decided meanwhile")
    believed = conclude(job, now_ms)
    if job.unconfirmed is None or believed.announce is None or believed.job.verification is not Verification.TOKEN:
        return believed
    if now_ms - job.confirm_by >= _LATE_MS and now_ms < job.deadline_at and job.provider_job_id is not None:
        confirm_by = now_ms + job.confirm_by - job.unconfirmed.at
        again = msgspec.structs.replace(job, confirm_by=confirm_by, next_check_at=now_ms)
        return Transition(again, Disposition.RECORDED, "relay was stopped meanwhile: the provider is asked now")
    why = _unchecked(job, paused, now_ms)
    return _believed(believed, why, f"it could not be confirmed in time ({_UNCHECKED[why]})")


def _unchecked(job: Job, paused: frozenset[str], now_ms: int) -> Unconfirmed:
    """Return why no status check has confirmed an unconfirmed result whose time is over."""
    if job.next_check_at is None:
        return Unconfirmed.NO_ID
    if job.next_check_at > now_ms:  # leased: a check is under way
        return Unconfirmed.NO_ANSWER
    return Unconfirmed.PAUSED if job.provider in paused else Unconfirmed.PACED_OUT


def _believed(transition: Transition, why: Unconfirmed, said: str) -> Transition:
    """Return the decision, with the reason as text if an unconfirmed result was believed on its callback's token."""
    if transition.announce is None or transition.job.verification is not Verification.TOKEN:
        return transition
    return msgspec.structs.replace(transition, reason=f"{said}: {transition.reason}", unconfirmed=why)


def overdue(job: Job, askable: bool, now_ms: int) -> Transition:
    """Return a job whose deadline has passed: checked one last time if its provider can be asked, else expired."""
    if job.state.final or job.deadline_at > now_ms or job.confirm_by is not None:
        return Transition(job, Disposition.STALE, f"the job is {job.state}")
    if not askable or job.provider_job_id is None:
        return expire(job, now_ms)
    asked_at = max(now_ms, job.next_check_at or now_ms)  # what is due later than its deadline is leased: under way
    job = msgspec.structs.replace(job, confirm_by=now_ms + LAST_CHECK_MS, next_check_at=asked_at)
    return Transition(job, Disposition.RECORDED, "the deadline passed: the provider is asked one last time")


def expire(job: Job, now_ms: int) -> Transition:
    """Return the job expired, because its deadline has passed: by relay's decision, not the provider's."""
    if job.state.final:
        return Transition(reports.dropped(job), Disposition.STALE, f"the job is {job.state}")
    if job.unconfirmed and job.unconfirmed.report.state is JobState.SUCCEEDED and not job.unconfirmed.report.outputs:
        return enter(job, by_check(job.unconfirmed.report), now_ms)
    return _expired(job, job.reason or Reason.DEADLINE, "the deadline passed without a result", now_ms)


def _expired(job: Job, reason: str, why: str, now_ms: int) -> Transition:
    """Return the job expired, for one of relay's own reasons."""
    code = "lost" if reason == Reason.LOST else "deadline"
    error = JobError(class_=ErrorClass.TIMEOUT, code=code, message=why, retryable=True)
    job = msgspec.structs.replace(
        job,
        state=JobState.EXPIRED,
        reason=reason,
        error=job.error or error,
        finished_by=FinishedBy.DEADLINE,
        verification=Verification.NONE,
    )
    return end(job, now_ms, why)


def _lost(job: Job, now_ms: int) -> Transition:
    """Return the job failed, because its provider says again and again that it does not know it."""
    error = JobError(
        class_=ErrorClass.PROVIDER_ERROR,
        code="not_found",
        message="the provider does not know the job any more",
        retryable=True,
    )
    job = msgspec.structs.replace(
        job,
        state=JobState.FAILED,
        reason=Reason.LOST,
        error=error,
        finished_by=FinishedBy.STATUS_CHECK,
        verification=Verification.FETCH,
    )
    return end(job, now_ms, f"not found {job.not_found_seen} times: lost")


def by_check(report: Report) -> StatusReport:
    """Return a report of the provider's status route."""
    return StatusReport(report=report, source=FinishedBy.STATUS_CHECK, verification=Verification.FETCH)


def _unconfirmed_pause_ms(unconfirmed: UnconfirmedResult) -> int:
    """Return the pause after a check that did not confirm a result: 5 s, 15 s, 45 s, up to ten minutes."""
    return min(_UNCONFIRMED_PAUSE_MS * int(3 ** min(max(unconfirmed.tries - 1, 0), 10)), _UNCONFIRMED_PAUSE_MAX_MS)
