"""A job goes out: committed with its callback token, and only then sent; what the provider answers is recorded.

Submitting costs money. So a row says when the sending began: a job that was never begun is sent after a crash, one
that was begun and not answered is `submit_unknown`, and nothing is sent twice unless it surely did not leave.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from relay import backoff, lifecycle, log
from relay.calling import Calling, Configured
from relay.exchange import ApiAnswer
from relay.lifecycle import Move, Word
from relay.model import ErrorClass, FinishedBy, Job, JobError, Report, Verification
from relay.money import PaymentState
from relay.outbound.client import NoAnswer, NotSent
from relay.pay import Payer, result_lost
from relay.providers.base import Accepted, Refused
from relay.storage.jobs import NewJob
from relay.storage.payments import Settlement
from relay.storage.record import Fact
from relay.tokens import CallbackTokens

RETRY_S: Final = (1, 3, 10, 30, 60)
"""Pauses before a submission that surely did not leave is tried again."""
HAND_OVER_MS: Final = 2_000
"""A new job is sent by whoever took it in; after this long the sweep believes that they are gone."""
_logger = log.get("submit")


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """How a submission ended: what it does to the job, the outcome in a word, and all that came with it."""

    move: Callable[..., Move]
    outcome: str
    answer: ApiAnswer | None = None
    settlement: Settlement | None = None
    note: str | None = None
    provider_job_id: str | None = None
    error: JobError | None = None
    """Why the provider refused."""


class Submitter:
    """Sends jobs to their providers."""

    def __init__(self, calling: Calling, tokens: CallbackTokens, payer: Payer) -> None:
        self._calling = calling
        self._payer = payer
        self._store = calling.store
        self._providers = calling.providers
        self._client = calling.client
        self._clock = calling.clock
        self._settings = calling.settings
        self._tokens = tokens
        self._under_way: set[asyncio.Task[Job | None]] = set()

    async def submit(self, new: NewJob, wait_s: float) -> Job:
        """Commits the job, sends it, and gives it as it is when the provider has answered or `wait_s` have passed."""
        await self._store.jobs.create(await self._payer.prepared(new))
        return await self.start_and_wait(new.job, wait_s)

    async def start_and_wait(self, job: Job, wait_s: float) -> Job:
        """Sends a committed job; the job when its provider has answered, after `wait_s`, or when relay is stopping."""
        sending = self.start(job.id)
        stopping = asyncio.ensure_future(self._calling.draining.wait())
        try:
            done, _ = await asyncio.wait([sending, stopping], timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        return (sending.result() if sending in done and not sending.exception() else None) or job

    def start(self, job_id: str) -> asyncio.Task[Job | None]:
        """Sends a committed job in the background."""
        sending = asyncio.create_task(self.send(job_id), name=f"submit {job_id}")
        self._under_way.add(sending)
        sending.add_done_callback(self._finished)
        return sending

    async def finish(self, within_s: float) -> None:
        """Waits for the submissions under way; those that take longer are left to the sweep of the next start."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=within_s)
            for sending in late:
                sending.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def send(self, job_id: str) -> Job | None:
        """One submission, from the row that says it began to the row that says how it ended; None if not ours."""
        started_at = self._clock.now_ms()
        job = await self._store.jobs.start_submission(job_id, started_at)
        if job is None:
            return None
        sent = await self._exchange(job)
        now_ms, outcome = self._clock.now_ms(), sent.outcome
        call = self._calling.told(job, "submission", started_at, outcome, sent.answer, sent.note)
        move = partial(sent.move, now_ms=now_ms)
        fact = Fact(job_id=job.id, at=now_ms, move=move, call=call, settlement=sent.settlement)
        recorded = await self._calling.stored(fact, provider=job.provider, provider_job_id=sent.provider_job_id)
        self._calling.tell(recorded)
        self._calling.metrics.submitted(job.provider, outcome)
        if sent.answer is not None and outcome in ("accepted", "refused"):
            refusal = sent.error if sent.error and sent.error.class_ is ErrorClass.AUTH else None
            self._calling.key_judged(job.provider, sent.answer.status_code, refusal.message if refusal else None)
        _logger.info(
            "job.submission_finished", job=job.id, provider=job.provider, outcome=outcome, duration_ms=call.duration_ms
        )
        return recorded.job

    def callback_url(self, job: Job) -> str | None:
        """The job's own callback URL; the same on every try, None when relay has no public URL."""
        if self._settings.public_url is None:
            return None
        expires_at = job.deadline_at + self._settings.callback_grace_s * 1000
        token = self._tokens.make(job.provider, job.id, expires_at)
        return f"{self._settings.public_url}/callbacks/{job.provider}/{token}"

    async def _exchange(self, job: Job) -> Sent:
        """Sends the request, with a payment where the provider wants one."""
        provider = self._providers[job.provider]
        if provider.adapter.limits.paid:
            paid = await self._payer.exchange(job, self._retry_at(job))
            if paid.move is not None:
                return Sent(move=paid.move, outcome=paid.outcome, answer=paid.answer, settlement=paid.settlement)
            assert paid.answer is not None
            sent = msgspec.structs.replace(self._read(provider, paid.answer), settlement=paid.settlement)
            if paid.settlement is None or paid.settlement.state is not PaymentState.LOST:
                return sent
            return msgspec.structs.replace(sent, move=partial(result_lost, sent.move))
        request = provider.adapter.submission(job.request, self.callback_url(job))
        try:
            answer = await self._client.send(
                provider.origin, provider.api_key or "", request, self._settings.submit_timeout_s
            )
        except NotSent as error:
            again = partial(lifecycle.not_sent, error=_unreachable(str(error)), retry_at=self._retry_at(job))
            return Sent(move=again, outcome="not_sent", note=str(error))
        except NoAnswer as error:
            unanswered = partial(lifecycle.unclear, error=_unanswered(str(error)))
            return Sent(move=unanswered, outcome="unanswered", note=str(error))
        return self._read(provider, answer)

    def _read(self, provider: Configured, answer: ApiAnswer) -> Sent:
        """What an answer does to the job."""
        match provider.adapter.read_submission(answer):
            case Accepted(report):
                limits = provider.adapter.limits
                first_ms = self._first_check_ms(report.estimate_s or limits.expected_s, limits.poll_s)
                move: Callable[..., Move] = partial(_accepted, report=provider.judged(report), first_ms=first_ms)
                return Sent(
                    move=move,
                    outcome="accepted",
                    answer=answer,
                    note=report.note,
                    provider_job_id=report.provider_job_id,
                )
            case Refused(error=refusal):
                refused = partial(lifecycle.refused, error=refusal)
                return Sent(move=refused, outcome="refused", answer=answer, note=refusal.message[:300], error=refusal)
            case unclear:
                said = partial(lifecycle.unclear, error=unclear.error)
                return Sent(move=said, outcome="unclear", answer=answer, note=unclear.error.message[:300])

    def _first_check_ms(self, expected_s: float, poll_s: int | None) -> int:
        """How long a callback is waited for before the provider is asked; one that never calls is asked at its pace."""
        if poll_s is not None:
            return poll_s * 1000
        return backoff.check_delay_ms(self._settings.status_check_first_s or expected_s * backoff.CHECK_MARGIN, 0)

    def _retry_at(self, job: Job) -> int | None:
        """When a submission that did not leave is tried again; None after the last try, or past the deadline."""
        if job.submissions_made > len(RETRY_S):
            return None
        at = self._clock.now_ms() + RETRY_S[job.submissions_made - 1] * 1000
        return at if at < job.deadline_at else None

    def _finished(self, sending: "asyncio.Task[Job | None]") -> None:
        """Forgets a submission that ended, and tells of one that failed inside relay."""
        self._under_way.discard(sending)
        if not sending.cancelled() and (error := sending.exception()):
            _logger.error("job.submission_broke", error=type(error).__name__, exc_info=error)


def _accepted(job: Job, report: Report, first_ms: int, now_ms: int) -> Move:
    """The provider has the job; it is asked about if no callback comes in its own time."""
    word = Word(report=report, source=FinishedBy.SUBMIT_ANSWER, verification=Verification.FETCH)
    heard = lifecycle.hear(job, word, now_ms)
    return lifecycle.asked_later(_asked_by_id(heard, now_ms), now_ms + first_ms, now_ms)


def _asked_by_id(move: Move, now_ms: int) -> Move:
    """A callback that came first may wait to be confirmed: now that the id is known, it can be."""
    job = move.job
    if job.claim is None or job.state.final or job.next_check_at is not None:
        return move
    return msgspec.structs.replace(move, job=msgspec.structs.replace(job, next_check_at=now_ms))


def _unreachable(why: str) -> JobError:
    """The provider could not be reached at all."""
    return JobError(
        class_=ErrorClass.PROVIDER_ERROR,
        code="unreachable",
        message=f"the provider could not be reached: {why}",
        retryable=True,
    )


def _unanswered(why: str) -> JobError:
    """The request may have arrived."""
    message = f"the provider did not answer the submission: {why}; the job may exist there, so it is not sent again"
    return JobError(class_=ErrorClass.TIMEOUT, code="no_answer", message=message, retryable=False)
