"""What a status check does to a job: pure functions, as in `lifecycle/reports.py`.

    the provider's status route    the job has a claim                       the job has none
    ─────────────────────────────  ────────────────────────────────────────  ────────────────────────────────────────
    says the same final state      borne out: ends as claimed, proven        ends; success without result: claimed
    says another final state       the status route counts                   ends
    says that it goes on           disputed: asked again soon, then later    recorded
    says nothing of use            believed on the token's word              asked again later

A claim of success without a result is asked about twice more before it counts as a failure. A job that its provider
does not know is lost after three such answers and ten minutes, for a replica may not know a new job; one that gives no
sign of life for long is lost too. What is due for its end when its deadline has passed is asked about one last time.
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
    Verdict,
    Verification,
)

NO_OUTPUT_TRIES: Final = 2
NOT_FOUND_TRIES: Final = 3
NOT_FOUND_AGE_MS: Final = 600_000
LAST_CHECK_MS: Final = 120_000
"""How long an overdue job waits for its last status check: for the lease of one that died, and for one more."""
_LAST_AGAIN_MS: Final = 5_000
_LATE_MS: Final = 30_000
"""A sweep that comes this much later than it should was stopped, and so were the status checks."""
_CLAIM_PAUSE_MS: Final = 5_000
_CLAIM_PAUSE_MAX_MS: Final = 600_000


class Finding(StrEnum):
    """What kind of answer a status check got."""

    VERDICT = "verdict"
    NOT_FOUND = "not_found"
    KEY_REFUSED = "key_refused"
    RATE_LIMITED = "rate_limited"
    NO_VERDICT = "no_verdict"
    NO_ANSWER = "no_answer"


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One status check: under which id it asked, what it found (`report` where a verdict), when to ask again."""

    asked_id: str | None
    finding: Finding
    report: Report | None
    started_at: int
    again_at: int
    heartbeat_ms: int
    """How long the provider may give no sign of life."""


def checked(job: Job, check: Checked, now_ms: int) -> Move:
    """The job after a status check."""
    if check.asked_id and check.asked_id != job.provider_job_id:
        return Move(job, Verdict.RECORDED, "asked under an id that turned out to be another job's")
    if (
        job.claim
        and check.started_at < job.claim.at
        and not (check.report and check.report.state is job.claim.report.state)
    ):
        return Move(job, Verdict.RECORDED, "asked before the callback came, so it says nothing about that")
    move = _told(job, check.report, now_ms) if check.report else _untold(job, check, now_ms)
    if move.job.state.final:
        return move
    if (asked := _asked_last_again(move.job, check, now_ms)) is not None:
        return msgspec.structs.replace(move, job=asked)
    if move.job.deadline_at <= now_ms and (move.job.claim is None or move.job.claim.tries):
        expired = expire(move.job, now_ms)
        return msgspec.structs.replace(expired, reason=f"{move.reason}; {expired.reason}")
    again_at = min(check.again_at, now_ms + _claim_pause_ms(move.job.claim)) if move.job.claim else check.again_at
    return reports.asked_later(move, again_at, now_ms)


def _asked_last_again(job: Job, check: Checked, now_ms: int) -> Job | None:
    """The job whose last status check, which brought no answer about it, is made again; None where it is not.

    A check that was under way at the deadline may end before the sweep sees that the job is overdue.
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


def _told(job: Job, report: Report, now_ms: int) -> Move:
    """The status route has said something about the job."""
    claim, word = job.claim, by_check(report)
    if claim is None:
        return reports.hear(job, word, now_ms)
    if report.state is None or (report.provider_job_id or job.provider_job_id) != job.provider_job_id:
        return _untold_claim(job, claim, now_ms, f"the status route says {report.word[:40]!r}")
    if report.state is claim.report.state:
        return _borne_out(job, claim, report, now_ms)
    if job.state.final and not reports.ended_by_relay(job):
        return _second_verdict_refuted(job, report, now_ms)
    said = f"a callback said {claim.report.state}, the provider's status says {report.state}"
    unclaimed = reports.dropped(job)
    if report.state.final:
        return msgspec.structs.replace(reports.hear(unclaimed, word, now_ms), reason=f"{said}: that counts")
    disputed = msgspec.structs.replace(claim, tries=claim.tries + 1)
    if job.state.final:
        return _asked_again(job, disputed, now_ms, f"{said}: asked again")
    heard = reports.hear(unclaimed, word, now_ms)
    after = msgspec.structs.replace(heard.job, claim=disputed)
    return msgspec.structs.replace(heard, job=after, reason=f"{said}: asked again")


def _borne_out(job: Job, claim: Claim, report: Report, now_ms: int) -> Move:
    """The status route says what the callback said: it counts as the callback's word, proven."""
    source = FinishedBy.CALLBACK if claim.callback_id else FinishedBy.STATUS_CHECK
    word = Word(report=report, source=source, verification=Verification.FETCH, callback_id=claim.callback_id)
    if report.state is JobState.SUCCEEDED and not report.outputs:
        if claim.report.outputs:
            unproven = msgspec.structs.replace(report, outputs=claim.report.outputs)
            word = msgspec.structs.replace(word, report=unproven, verification=Verification.TOKEN)
        elif not job.state.final and claim.tries + 1 < NO_OUTPUT_TRIES:
            claim = msgspec.structs.replace(claim, tries=claim.tries + 1)
            job = msgspec.structs.replace(reports.alive(job, now_ms), claim=claim)
            return Move(job, Verdict.RECORDED, "succeeded, and still without a result: asked again")
    if job.state.final and not reports.ended_by_relay(job):
        word = msgspec.structs.replace(word, source=FinishedBy.STATUS_CHECK)
        return reports.hear(job, word, now_ms)
    entered = enter(reports.alive(job, now_ms), word, now_ms)
    return msgspec.structs.replace(entered, reason=f"confirmed: {entered.reason}")


def _second_verdict_refuted(job: Job, report: Report, now_ms: int) -> Move:
    """The status route stands by what was announced, or at least does not say what the later callback said."""
    assert job.claim is not None
    if report.state is job.state:
        return Move(reports.dropped(job), Verdict.RECORDED, f"the provider's status says {job.state}: that stands")
    return _second_verdict_open(job, job.claim, now_ms, f"the provider's status says {report.state}")


def _second_verdict_open(job: Job, claim: Claim, now_ms: int, why: str) -> Move:
    """A second verdict that could not be borne out yet."""
    claim = msgspec.structs.replace(claim, tries=claim.tries + 1)
    return _asked_again(job, claim, now_ms, f"{why}: asked again before {job.state} is corrected")


def _asked_again(job: Job, claim: Claim, now_ms: int, reason: str) -> Move:
    """A job that has ended keeps its claim for a while, and is asked about again."""
    settle_by = claim.at + reports.SECOND_VERDICT_MS
    job = msgspec.structs.replace(
        job, claim=claim, settle_by=settle_by, next_check_at=min(now_ms + _claim_pause_ms(claim), settle_by)
    )
    return Move(job, Verdict.RECORDED, reason)


def _untold(job: Job, check: Checked, now_ms: int) -> Move:
    """The status check brought no verdict about the job."""
    if job.claim and check.finding is Finding.NOT_FOUND and reports.awaits_answer(job, now_ms):
        return Move(job, Verdict.RECORDED, "not found under the callback's id: the submission's answer will tell")
    if job.claim:
        return _untold_claim(job, job.claim, now_ms, check.finding)
    if job.state.final:
        return Move(job, Verdict.RECORDED, f"no verdict: {check.finding}")
    if check.finding is Finding.NOT_FOUND:
        job = msgspec.structs.replace(job, not_found_seen=job.not_found_seen + 1)
        age_ms = now_ms - (job.submitted_at or now_ms)
        if job.not_found_seen >= NOT_FOUND_TRIES and age_ms >= NOT_FOUND_AGE_MS:
            return _lost(job, now_ms)
    silence_ms = now_ms - (job.last_heard_at or now_ms)
    if silence_ms >= check.heartbeat_ms:
        return _silent(job, now_ms, silence_ms)
    return Move(job, Verdict.RECORDED, f"no verdict about the job: {check.finding}")


def _untold_claim(job: Job, claim: Claim, now_ms: int, why: str) -> Move:
    """The check that should bear out a claim could not be made."""
    if job.state.final and not reports.ended_by_relay(job):
        return _second_verdict_open(job, claim, now_ms, why)
    if job.settle_by is None:
        return Move(job, Verdict.RECORDED, f"no verdict about the job: {why}")
    settled = settle(job, now_ms)
    return msgspec.structs.replace(settled, reason=f"it could not be confirmed ({why}): {settled.reason}")


def settle(job: Job, now_ms: int) -> Move:
    """The time is over that a claim, or an overdue job, had for its status check."""
    claim = job.claim
    if claim is None:
        if job.settle_by is not None and now_ms - job.settle_by >= _LATE_MS and job.provider_job_id is not None:
            job = msgspec.structs.replace(job, settle_by=now_ms + LAST_CHECK_MS, next_check_at=now_ms)
            return Move(job, Verdict.RECORDED, "relay was stopped meanwhile: the provider is asked one last time")
        return expire(job, now_ms)
    if job.state.final and (claim.tries or not reports.ended_by_relay(job)):
        reason = f"{claim.report.state} was never borne out: {job.state} stands"
        return Move(reports.dropped(job), Verdict.RECORDED, reason)
    if claim.tries:
        return expire(msgspec.structs.replace(job, claim=None), now_ms)
    source = FinishedBy.CALLBACK if claim.callback_id else FinishedBy.STATUS_CHECK
    return enter(job, Word(report=claim.report, source=source, verification=Verification.TOKEN), now_ms)


def overdue(job: Job, askable: bool, now_ms: int) -> Move:
    """The deadline has passed: the provider is asked one last time where it can be, else the job expires."""
    if job.state.final or job.deadline_at > now_ms or job.settle_by is not None:
        return Move(job, Verdict.STALE, f"the job is {job.state}")
    if not askable or job.provider_job_id is None:
        return expire(job, now_ms)
    asked_at = max(now_ms, job.next_check_at or now_ms)  # what is due later than its deadline is leased: under way
    job = msgspec.structs.replace(job, settle_by=now_ms + LAST_CHECK_MS, next_check_at=asked_at)
    return Move(job, Verdict.RECORDED, "the deadline passed: the provider is asked one last time")


def expire(job: Job, now_ms: int) -> Move:
    """The deadline has passed: relay's verdict, not the provider's."""
    if job.state.final:
        return Move(reports.dropped(job), Verdict.STALE, f"the job is {job.state}")
    if job.claim and job.claim.report.state is JobState.SUCCEEDED and not job.claim.report.outputs:
        return enter(job, by_check(job.claim.report), now_ms)
    return _expired(job, job.reason or Reason.DEADLINE, "the deadline passed without a result", now_ms)


def _silent(job: Job, now_ms: int, silence_ms: int) -> Move:
    """The provider has given no sign of life for too long."""
    return _expired(job, Reason.LOST, f"no sign of life from the provider for {silence_ms // 60_000} minutes", now_ms)


def _expired(job: Job, reason: str, why: str, now_ms: int) -> Move:
    """Relay ends the job."""
    error = JobError(class_=ErrorClass.TIMEOUT, code="deadline", message=why, retryable=True)
    if reason == Reason.LOST:
        error = msgspec.structs.replace(error, code="lost")
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
    """The provider does not know the job any more, and says so again and again."""
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
    """A report as the word of the provider's status route."""
    return Word(report=report, source=FinishedBy.STATUS_CHECK, verification=Verification.FETCH)


def _claim_pause_ms(claim: Claim) -> int:
    """Return the pause after a check that did not confirm a claim: 5 s, 15 s, 45 s, up to ten minutes."""
    return min(_CLAIM_PAUSE_MS * int(3 ** min(max(claim.tries - 1, 0), 10)), _CLAIM_PAUSE_MAX_MS)
