"""Submits jobs: commits the job with its callback token, sends it, and records the provider's answer.

Submitting costs money, so the job's row says when the sending began. A job that was never begun is sent after a crash;
one that was begun and not answered becomes `submit_unknown`. Nothing is sent twice unless it surely did not leave.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, assert_never

import msgspec

from relay import log
from relay.context import ConfiguredProvider, EndedCall, FlowContext
from relay.jobs import approvals, payment
from relay.jobs.payment import Payer
from relay.lifecycle import lookups, reports
from relay.lifecycle.reports import StatusReport, Transition
from relay.model import backoff
from relay.model.job import Approval, ErrorClass, FinishedBy, Job, JobError, Report, Verification
from relay.model.payment import PaymentState
from relay.model.provider_http import ProviderResponse
from relay.outbound.provider_client import NoAnswer, NotSent
from relay.providers.base import Accepted, Refused, Unclear, can_find, submission_id
from relay.security.callback_tokens import CallbackTokens
from relay.storage.apply_updates import JobUpdate
from relay.storage.jobs import NewJob, UnansweredJob
from relay.storage.payments import Settlement

RETRY_S: Final = (1, 3, 10, 30, 60)
"""Pauses before a submission that surely did not leave is tried again."""
HAND_OVER_MS: Final = 2_000
"""How long the process that created a job has to begin sending it, before the sweeper of any process sends it."""
MARGIN_MS: Final = 5_000
"""How long after the time of its last request a submission may take to record what came of it."""
_logger = log.get("submit")


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A submission that ended: the transition of the job, the outcome for log and metrics, and the evidence.

    `error` is why the provider refused.
    """

    transition: Callable[..., Transition]
    outcome: str
    answer: ProviderResponse | None = None
    settlement: Settlement | None = None
    note: str | None = None
    provider_job_id: str | None = None
    error: JobError | None = None


class Submitter:
    """Sends jobs to their providers."""

    def __init__(self, context: FlowContext, tokens: CallbackTokens, payer: Payer) -> None:
        self._context = context
        self._payer = payer
        self._store = context.store
        self._providers = context.providers
        self._client = context.client
        self._clock = context.clock
        self._settings = context.settings
        self._tokens = tokens
        self._sending: set[asyncio.Task[Job | None]] = set()
        self._unanswered: set[str] = set()

    async def submit(self, new: NewJob, wait_s: float) -> Job:
        """Commit the job, send it, and return it when the provider has answered or `wait_s` have passed."""
        new = await self._payer.prepared(new)
        await self._store.jobs.create(new)
        self._store.statistics.created(new.job)
        return new.job if new.job.next_submit_at is None else await self.start_and_wait(new.job, wait_s)

    async def start_and_wait(self, job: Job, wait_s: float) -> Job:
        """Send a committed job; return it when its provider has answered, after `wait_s`, or when relay stops."""
        sending = self.start(job.id)
        stopping = asyncio.ensure_future(self._context.draining.wait())
        try:
            done, _ = await asyncio.wait([sending, stopping], timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        return (sending.result() if sending in done and not sending.exception() else None) or job

    def start(self, job_id: str) -> asyncio.Task[Job | None]:
        """Send a committed job in the background."""
        sending = asyncio.create_task(self.send(job_id), name=f"submit {job_id}")
        self._sending.add(sending)
        sending.add_done_callback(self._finished)
        return sending

    async def finish(self, within_s: float) -> None:
        """Wait for the submissions under way; cancel the late ones, which the sweeper of the next start continues."""
        if self._sending:
            _, late = await asyncio.wait(self._sending, timeout=within_s)
            for sending in late:
                sending.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def send(self, job_id: str) -> Job | None:
        """Submit one job, from the row that says it began to the row that says how it ended.

        Returns the job after that; None if another process has begun the submission.
        """
        started_at = self._clock.now_ms()
        job = await self._store.jobs.start_submission(job_id, started_at)
        if job is None:
            return None
        self._unanswered.add(job.id)
        try:
            return await self._send_started(job, started_at)
        finally:
            self._unanswered.discard(job.id)

    def is_under_way(self, job: UnansweredJob, now_ms: int) -> bool:
        """Return whether an answer to a job's submission may still be recorded, by this process or by another one."""
        if job.id in self._unanswered:
            return True
        paid = self._providers[job.provider].adapter.limits.paid if job.provider in self._providers else False
        longest_s = payment.exchange_max_s(self._settings.submit_timeout_s) if paid else self._settings.submit_timeout_s
        return not job.abandoned and now_ms - job.started_at <= round(longest_s * 1000) + MARGIN_MS

    async def _send_started(self, job: Job, started_at: int) -> Job | None:
        """Send a job whose submission was marked as begun, and record how it ended; return the job after that."""
        paid = self._providers[job.provider].adapter.limits.paid
        sent = await (self._send_paid(job) if paid else self._send(job))
        now_ms, outcome = self._clock.now_ms(), sent.outcome
        call = self._context.ended_call(job, EndedCall("submission", started_at, outcome, sent.answer, sent.note))
        transition = partial(sent.transition, now_ms=now_ms)
        update = JobUpdate(job_id=job.id, at=now_ms, transition=transition, call=call, settlement=sent.settlement)
        recorded = await self._context.stored(update, provider=job.provider, provider_job_id=sent.provider_job_id)
        self._context.publish(recorded)
        self._context.metrics.submitted(job.provider, outcome)
        if sent.answer is not None and outcome in ("accepted", "refused"):
            refusal = sent.error if sent.error and sent.error.class_ is ErrorClass.AUTH else None
            self._context.key_judged(job.provider, sent.answer.status_code, refusal.message if refusal else None)
        _logger.info(
            "job.submission_finished", job=job.id, provider=job.provider, outcome=outcome, duration_ms=call.duration_ms
        )
        return recorded.job

    def callback_url(self, job: Job) -> str | None:
        """Return the job's own callback URL, the same on every try; None when relay has no public URL."""
        if self._settings.public_url is None:
            return None
        expires_at = job.deadline_at + self._settings.callback_grace_s * 1000
        token = self._tokens.make(job.provider, job.id, expires_at)
        return f"{self._settings.public_url}/callbacks/{job.provider}/{token}"

    async def _send(self, job: Job) -> Sent:
        """Send the request to a provider that bills by account."""
        if (asked := self._payer.approvals.needed_at_account(job)) is not None:
            return _held(asked)
        provider = self._providers[job.provider]
        request = provider.adapter.submission(job.request, self.callback_url(job), submission_id(job))
        try:
            answer = await self._client.send(
                provider.origin, provider.authorization, request, self._settings.submit_timeout_s
            )
        except NotSent as error:
            again = partial(reports.not_sent, error=_unreachable(str(error)), retry_at=self._retry_at(job))
            return Sent(transition=again, outcome="not_sent", note=str(error))
        except NoAnswer as error:
            unanswered = partial(self.unclear(job.provider), error=_unanswered(str(error)))
            return Sent(transition=unanswered, outcome="unanswered", note=str(error))
        return self._read(provider, answer)

    async def _send_paid(self, job: Job) -> Sent:
        """Send the request with its payment."""
        provider, retry_at = self._providers[job.provider], self._retry_at(job)
        exchange = await self._payer.exchange(job)
        match exchange:
            case ProviderResponse():
                return self._read(provider, exchange)
            case payment.Paid(answer, settlement):
                return msgspec.structs.replace(self._read(provider, answer), settlement=settlement)
            case payment.Refused(answer, settlement):
                sent = msgspec.structs.replace(self._read(provider, answer), settlement=settlement)
                if settlement.state is not PaymentState.LOST:
                    return sent
                return msgspec.structs.replace(sent, transition=partial(payment.result_lost, sent.transition))
            case payment.ResultLost(answer, settlement):
                lost = payment.paid_result_lost
                return Sent(transition=lost, outcome="paid, result lost", answer=answer, settlement=settlement)
            case payment.Unknown(answer, settlement, error):
                unclear = partial(reports.unclear, error=error)
                return Sent(transition=unclear, outcome="payment unknown", answer=answer, settlement=settlement)
            case payment.Held(asked):
                return _held(asked)
            case payment.NotSent(error, retry=True):
                return Sent(transition=partial(reports.not_sent, error=error, retry_at=retry_at), outcome="not_sent")
            case payment.NotSent(error):
                return Sent(transition=partial(reports.refused, error=error), outcome=error.code)
            case _:
                assert_never(exchange)

    def _read(self, provider: ConfiguredProvider, answer: ProviderResponse) -> Sent:
        """Return how the submission ended, as the adapter reads the provider's answer."""
        read = provider.adapter.read_submission(answer)
        match read:
            case Accepted(report):
                limits = provider.adapter.limits
                first_ms = self._first_check_ms(report.estimate_s or limits.expected_s, limits.poll_s)
                return Sent(
                    transition=partial(_accepted, report=provider.judged(report), first_ms=first_ms),
                    outcome="accepted",
                    answer=answer,
                    note=report.note,
                    provider_job_id=report.provider_job_id,
                )
            case Refused(error):
                refused = partial(reports.refused, error=error)
                return Sent(transition=refused, outcome="refused", answer=answer, note=error.message[:300], error=error)
            case Unclear(error):
                unclear = partial(self.unclear(provider.adapter.name), error=error)
                return Sent(transition=unclear, outcome="unclear", answer=answer, note=error.message[:300])
            case _:
                assert_never(read)

    def unclear(self, provider: str) -> Callable[..., Transition]:
        """Return what an unclear submission does to a job; look-ups follow if the provider knows relay's own ids."""
        known = self._providers.get(provider)
        return lookups.unclear if known is not None and can_find(known.adapter) else reports.unclear

    def _first_check_ms(self, expected_s: float, poll_s: int | None) -> int:
        """Return the milliseconds until the first status check; `poll_s` is for a provider that sends no callbacks."""
        if poll_s is not None:
            return poll_s * 1000
        return backoff.check_delay_ms(self._settings.status_check_first_s or expected_s * backoff.CHECK_MARGIN, 0)

    def _retry_at(self, job: Job) -> int | None:
        """Return when a submission that did not leave is tried again; None after the last try, or past the deadline."""
        if job.submissions_made > len(RETRY_S):
            return None
        at = self._clock.now_ms() + RETRY_S[job.submissions_made - 1] * 1000
        return at if at < job.deadline_at else None

    def _finished(self, sending: "asyncio.Task[Job | None]") -> None:
        """Forget a submission that ended; log one that failed inside relay."""
        self._sending.discard(sending)
        if not sending.cancelled() and (error := sending.exception()):
            _logger.error("job.submission_error", error=type(error).__name__, exc_info=error)


def _held(asked: Approval) -> Sent:
    """Return the end of a submission that was not made, because its price is to be approved first."""
    why = approvals.said(asked)
    return Sent(
        transition=partial(reports.awaits_approval, approval=asked, why=why), outcome="awaiting_approval", note=why
    )


def _accepted(job: Job, report: Report, first_ms: int, now_ms: int) -> Transition:
    """Return the job that its provider accepted, with its first status check in `first_ms`."""
    answered = StatusReport(report=report, source=FinishedBy.SUBMIT_ANSWER, verification=Verification.FETCH)
    accepted = reports.apply_report(job, answered, now_ms)
    return reports.checked_later(_confirm_now(accepted, now_ms), now_ms + first_ms, now_ms)


def _confirm_now(transition: Transition, now_ms: int) -> Transition:
    """Return the job with a status check due now, if a callback that came before the provider's id is unconfirmed."""
    job = transition.job
    if job.unconfirmed is None or job.state.final or job.next_check_at is not None:
        return transition
    return msgspec.structs.replace(transition, job=msgspec.structs.replace(job, next_check_at=now_ms))


def _unreachable(why: str) -> JobError:
    """Return the error of a provider that could not be reached at all."""
    return JobError(
        class_=ErrorClass.PROVIDER_ERROR,
        code="unreachable",
        message=f"the provider could not be reached: {why}",
        retryable=True,
    )


def _unanswered(why: str) -> JobError:
    """Return the error of a request that may have arrived."""
    message = f"the provider did not answer the submission: {why}; the job may exist there, so it is not sent again"
    return JobError(class_=ErrorClass.TIMEOUT, code="no_answer", message=message, retryable=False)
