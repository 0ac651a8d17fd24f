"""Decides what a status check does to a job: pure functions, as in `lifecycle/reports.py`.

    the provider's status route    nothing unconfirmed  an unconfirmed result of a    an unconfirmed result that
                                                        job that its provider has     contradicts the provider's
                                                        not ended                     own end of the job
    ─────────────────────────────  ───────────────────  ────────────────────────────  ─────────────────────────────
    gives the unconfirmed status   –                    confirmed: the job ends       corrected: `job.corrected`
    gives another final status     the job ends         the status route counts       its own end stands if it is
                                                                                      that, else checked again
    gives a status not final       recorded             disputed: checked again       checked again
    gives no verdict               lost if the job is   believed on the callback's    checked again, for ten minutes
                                   not found, or the    token when the time is over   at most
                                   provider silent,
                                   for too long; else
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
from relay.lifecycle.reports import Move, Word, end, enter
from relay.model.job import (
    Claim,
    ErrorClass,
    FinishedBy,
    Job,
    JobError,
    JobState,
    Reason,
    Report,
    Unconfirmed,
    Verdict,
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
_CLAIM_PAUSE_MS: Final = 5_000
_CLAIM_PAUSE_MAX_MS: Final = 600_000


_UNCHECKED: Final = {
    Unconfirmed.PACED_OUT: "no status check began: other jobs used up what RELAY_CHECKS_IN_FLIGHT_MAX and "
    "RELAY_CHECKS_PER_S allow",
    Unconfirmed.PAUSED: "no status check began: the provider is not asked for a while, because it answered 429 or "
    "refuses relay's key",
    Unconfirmed.STOPPED: "relay was stopped, or its database was away",
    Unconfirmed.NO_ID: "no status check began: the provider's id of the job is not known",
    Unconfirmed.NO_ANSWER: "the provider has not answered the status check yet",
}
"""Why a claim had no answer of a status check in time, in words."""


class Finding(StrEnum):
    """What kind of answer a status check got."""

    VERDICT = "verdict"
    NOT_FOUND = "not_found"
    KEY_REFUSED = "key_refused"
    RATE_LIMITED = "rate_limited"
    NO_VERDICT = "no_verdict"
    NO_ANSWER = "no_answer"


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One status check: the id that it asked about, what it found, and when to check again; times in unix milliseconds.

    `report` is None unless the finding is a verdict. `heartbeat_ms` is how long the provider may give no sign of life.
    """

    asked_id: str | None
    finding: Finding
    report: Report | None
    started_at: int
    again_at: int
    heartbeat_ms: int


def decide(job: Job, check: Checked, now_ms: int) -> Move:
    """Return the job after a status check, by the table above, with its next check scheduled if it is still open."""
    claim = job.claim
    if check.asked_id and check.asked_id != job.provider_job_id:
        return Move(job, Verdict.RECORDED, "asked under an id that turned out to be another job's")
    if claim is None:
        move = _nothing_unconfirmed(job, check, now_ms)
    elif check.started_at < claim.at and not (check.report and check.report.state is claim.report.state):
        return Move(job, Verdict.RECORDED, "asked before the callback came, so it says nothing about that")
    elif job.state.final and not reports.ended_by_relay(job):
        move = _contradiction(job, claim, check, now_ms)
    else:
        move = _unconfirmed(job, claim, check, now_ms)
    return move if move.job.state.final else _scheduled(move, check, now_ms)


def _nothing_unconfirmed(job: Job, check: Checked, now_ms: int) -> Move:
    """Decide about a job without an unconfirmed result."""
    if check.report is not None:
        return reports.hear(job, by_check(check.report), now_ms)
    if job.state.final:
        return Move(job, Verdict.RECORDED, f"no verdict: {check.finding}")
    if check.finding is Finding.NOT_FOUND:
        job = msgspec.structs.replace(job, not_found_seen=job.not_found_seen + 1)
        age_ms = now_ms - (job.submitted_at or now_ms)
        if job.not_found_seen >= NOT_FOUND_TRIES and age_ms >= NOT_FOUND_AGE_MS:
            return _lost(job, now_ms)
    silence_ms = now_ms - (job.last_heard_at or now_ms)
    if silence_ms >= check.heartbeat_ms:
        why = f"no sign of life from the provider for {silence_ms // 60_000} minutes"
        return _expired(job, Reason.LOST, why, now_ms)
    return Move(job, Verdict.RECORDED, f"no verdict about the job: {check.finding}")


def _unconfirmed(job: Job, claim: Claim, check: Checked, now_ms: int) -> Move:
    """Decide about an unconfirmed result where the job is open, or was ended by relay alone."""
    match _verdict(job, check):
        case None if check.finding is Finding.NOT_FOUND and reports.awaits_answer(job, now_ms):
            return Move(job, Verdict.RECORDED, "not found under the callback's id: the submission's answer decides")
        case None if job.settle_by is None:
            return Move(job, Verdict.RECORDED, f"no verdict about the job: {_said(check)}")
        case None:
            why = Unconfirmed.NO_VERDICT if check.finding is Finding.VERDICT else Unconfirmed(check.finding)
            return _believed(conclude(job, now_ms), why, f"it could not be confirmed ({_said(check)})")
        case Report(state=claim.report.state) as report:
            return _confirmed(job, claim, report, now_ms)
        case Report(state=JobState(final=True)) as report:
            applied = reports.hear(reports.dropped(job), by_check(report), now_ms)
            return msgspec.structs.replace(applied, reason=f"{_says_both(claim, report)}: that counts")
        case report:
            reason = f"{_says_both(claim, report)}: asked again"
            if job.state.final:
                return _checked_again(job, claim, reason, now_ms)
            applied = reports.hear(reports.dropped(job), by_check(report), now_ms)
            after = msgspec.structs.replace(applied.job, claim=_tried(claim))
            return msgspec.structs.replace(applied, job=after, reason=reason)


def _contradiction(job: Job, claim: Claim, check: Checked, now_ms: int) -> Move:
    """Decide about an unconfirmed result that contradicts the provider's own end of the job."""
    again = f"asked again before {job.state} is corrected"
    match _verdict(job, check):
        case None:
            return _checked_again(job, claim, f"{_said(check)}: {again}", now_ms)
        case Report(state=claim.report.state) as report:
            return reports.hear(job, _confirming(claim, report, FinishedBy.STATUS_CHECK), now_ms)
        case Report(state=job.state):
            reason = f"the provider's status says {job.state}: that stands"
            return Move(reports.dropped(job), Verdict.RECORDED, reason)
        case report:
            return _checked_again(job, claim, f"the provider's status says {report.state}: {again}", now_ms)


def _verdict(job: Job, check: Checked) -> Report | None:
    """Return the report of a check that brought a known status of this very job."""
    report = check.report
    if report is None or report.state is None or (report.provider_job_id or job.provider_job_id) != job.provider_job_id:
        return None
    return report


def _said(check: Checked) -> str:
    """Return, for the timeline, what a check without a verdict brought."""
    return check.finding if check.report is None else f"the status route says {check.report.word[:40]!r}"


def _says_both(claim: Claim, report: Report) -> str:
    """Return, for the timeline, what the callback and the status route say."""
    return f"a callback said {claim.report.state}, the provider's status says {report.state}"


def _confirmed(job: Job, claim: Claim, report: Report, now_ms: int) -> Move:
    """Return the job ended with the confirmed result; a success without any result is checked again first."""
    missing = report.state is JobState.SUCCEEDED and not report.outputs and not claim.report.outputs
    if missing and not job.state.final and claim.tries + 1 < NO_OUTPUT_TRIES:
        job = msgspec.structs.replace(reports.alive(job, now_ms), claim=_tried(claim))
        return Move(job, Verdict.RECORDED, "succeeded, and still without a result: asked again")
    entered = enter(reports.alive(job, now_ms), _confirming(claim, report, _source(claim)), now_ms)
    return msgspec.structs.replace(entered, reason=f"confirmed: {entered.reason}")


def _confirming(claim: Claim, report: Report, source: FinishedBy) -> Word:
    """Return the status route's report with the callback's result, on its token, where the status route gives none."""
    verification = Verification.FETCH
    if report.state is JobState.SUCCEEDED and not report.outputs and claim.report.outputs:
        report = msgspec.structs.replace(report, outputs=claim.report.outputs)
        verification = Verification.TOKEN
    return Word(report=report, source=source, verification=verification, callback_id=claim.callback_id)


def _source(claim: Claim) -> FinishedBy:
    """Return what brought an unconfirmed result: a success without a result may come from a status check."""
    return FinishedBy.CALLBACK if claim.callback_id else FinishedBy.STATUS_CHECK


def _tried(claim: Claim) -> Claim:
    """Return the unconfirmed result after one more check that did not confirm it."""
    return msgspec.structs.replace(claim, tries=claim.tries + 1)


def _checked_again(job: Job, claim: Claim, reason: str, now_ms: int) -> Move:
    """Return an ended job that keeps its unconfirmed result for ten minutes at most, with its next check scheduled."""
    claim = _tried(claim)
    settle_by = claim.at + reports.SECOND_VERDICT_MS
    next_check_at = min(now_ms + _claim_pause_ms(claim), settle_by)
    job = msgspec.structs.replace(job, claim=claim, settle_by=settle_by, next_check_at=next_check_at)
    return Move(job, Verdict.RECORDED, reason)


def _scheduled(move: Move, check: Checked, now_ms: int) -> Move:
    """Return an open job with its next check; the last one at its deadline, after which it expires."""
    job = move.job
    if (last := _last_check_again(job, check, now_ms)) is not None:
        return msgspec.structs.replace(move, job=last)
    if job.deadline_at <= now_ms and (job.claim is None or job.claim.tries):
        expired = expire(job, now_ms)
        return msgspec.structs.replace(expired, reason=f"{move.reason}; {expired.reason}")
    again_at = min(check.again_at, now_ms + _claim_pause_ms(job.claim)) if job.claim else check.again_at
    return reports.asked_later(move, again_at, now_ms)


def _last_check_again(job: Job, check: Checked, now_ms: int) -> Job | None:
    """Return the job with its last check scheduled again if that brought no answer about it; None if it is over.

    A check that was under way at the deadline may end before the sweeper sees that the job is overdue.
    """
    settle_by = job.settle_by or (now_ms + LAST_CHECK_MS if job.deadline_at <= now_ms else None)
    if job.claim or settle_by is None or check.finding in (Finding.VERDICT, Finding.NOT_FOUND):
        return None
    again_at = now_ms + _LAST_AGAIN_MS
    if check.finding in (Finding.RATE_LIMITED, Finding.KEY_REFUSED):
        again_at = max(again_at, check.again_at)
    if again_at >= settle_by:
        return None
    return msgspec.structs.replace(job, settle_by=settle_by, next_check_at=again_at)


def conclude(job: Job, now_ms: int) -> Move:
    """Return the job when the time is over for confirming its result, or for its last check after the deadline."""
    claim = job.claim
    if claim is None:
        if job.settle_by is not None and now_ms - job.settle_by >= _LATE_MS and job.provider_job_id is not None:
            job = msgspec.structs.replace(job, settle_by=now_ms + LAST_CHECK_MS, next_check_at=now_ms)
            return Move(job, Verdict.RECORDED, "relay was stopped meanwhile: the provider is asked one last time")
        return expire(job, now_ms)
    if job.state.final and (claim.tries or not reports.ended_by_relay(job)):
        reason = f"{claim.report.state} was never confirmed: {job.state} stands"
        return Move(reports.dropped(job), Verdict.RECORDED, reason)
    if claim.tries:
        return expire(msgspec.structs.replace(job, claim=None), now_ms)
    return enter(job, Word(report=claim.report, source=_source(claim), verification=Verification.TOKEN), now_ms)


def out_of_time(job: Job, paused: frozenset[str], now_ms: int) -> Move:
    """Return the job when the sweeper finds that the time for its status check is over, with the reason in words.

    `paused` are the providers that are not asked at the moment, because they answered 429 or refuse relay's key.
    """
    if job.settle_by is None or job.settle_by > now_ms:
        return Move(job, Verdict.STALE, "it was decided meanwhile")
    why = _unchecked(job, paused, now_ms)
    return _believed(conclude(job, now_ms), why, f"it could not be confirmed in time ({_UNCHECKED[why]})")


def _unchecked(job: Job, paused: frozenset[str], now_ms: int) -> Unconfirmed:
    """Return why no status check has confirmed a claim whose time is over."""
    if job.next_check_at is None:
        return Unconfirmed.NO_ID
    if job.settle_by is not None and now_ms - job.settle_by >= _LATE_MS:
        return Unconfirmed.STOPPED
    if job.next_check_at > now_ms:  # leased: a check is under way
        return Unconfirmed.NO_ANSWER
    return Unconfirmed.PAUSED if job.provider in paused else Unconfirmed.PACED_OUT


def _believed(move: Move, why: Unconfirmed, said: str) -> Move:
    """Return the decision, with the reason in words if a claim was believed on its callback's token."""
    if move.announce is None or move.job.verification is not Verification.TOKEN:
        return move
    return msgspec.structs.replace(move, reason=f"{said}: {move.reason}", unconfirmed=why)


def overdue(job: Job, askable: bool, now_ms: int) -> Move:
    """Return a job whose deadline has passed: checked one last time if its provider can be asked, else expired."""
    if job.state.final or job.deadline_at > now_ms or job.settle_by is not None:
        return Move(job, Verdict.STALE, f"the job is {job.state}")
    if not askable or job.provider_job_id is None:
        return expire(job, now_ms)
    asked_at = max(now_ms, job.next_check_at or now_ms)  # what is due later than its deadline is leased: under way
    job = msgspec.structs.replace(job, settle_by=now_ms + LAST_CHECK_MS, next_check_at=asked_at)
    return Move(job, Verdict.RECORDED, "the deadline passed: the provider is asked one last time")


def expire(job: Job, now_ms: int) -> Move:
    """Return the job expired, because its deadline has passed: relay's verdict, not the provider's."""
    if job.state.final:
        return Move(reports.dropped(job), Verdict.STALE, f"the job is {job.state}")
    if job.claim and job.claim.report.state is JobState.SUCCEEDED and not job.claim.report.outputs:
        return enter(job, by_check(job.claim.report), now_ms)
    return _expired(job, job.reason or Reason.DEADLINE, "the deadline passed without a result", now_ms)


def _expired(job: Job, reason: str, why: str, now_ms: int) -> Move:
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


def _lost(job: Job, now_ms: int) -> Move:
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


def by_check(report: Report) -> Word:
    """Return a report of the provider's status route."""
    return Word(report=report, source=FinishedBy.STATUS_CHECK, verification=Verification.FETCH)


def _claim_pause_ms(claim: Claim) -> int:
    """Return the pause after a check that did not confirm a result: 5 s, 15 s, 45 s, up to ten minutes."""
    return min(_CLAIM_PAUSE_MS * int(3 ** min(max(claim.tries - 1, 0), 10)), _CLAIM_PAUSE_MAX_MS)
