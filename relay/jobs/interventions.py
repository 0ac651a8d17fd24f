"""The verbs of a person: cancel, check now, submit again, give up. Each is one recorded fact, with its evidence."""

from collections.abc import Callable
from functools import partial
from typing import Final

from relay import ids, log
from relay.context import Calling, EndedCall
from relay.errors import Conflict, PaidOnce, StorageUnavailable
from relay.jobs.status_checks import Checker
from relay.jobs.submission import HAND_OVER_MS, Submitter
from relay.lifecycle import operator_actions
from relay.lifecycle.reports import Move
from relay.model.job import Call, Job, Verdict
from relay.model.provider_http import ApiAnswer
from relay.outbound.provider_client import NoAnswer, NotSent
from relay.storage.apply_updates import Fact
from relay.storage.idempotency import Tie

CANCEL_TIMEOUT_S: Final = 15.0
_logger = log.get("intervene")


class Interventions:
    """What people do to jobs that they may see; Conflict says why something cannot be done."""

    def __init__(self, calling: Calling, submitter: Submitter, checker: Checker) -> None:
        self._calling = calling
        self._submitter = submitter
        self._checker = checker

    async def cancel(self, job: Job, tie: Tie | None = None) -> Job:
        """Cancels the job, at its provider too where that can be done; detached from it where not."""
        confirmed, call = False, None
        provider = self._calling.providers.get(job.provider)
        request = (
            provider.adapter.cancellation(job.provider_job_id)
            if provider and provider.usable and job.provider_job_id and not job.state.final
            else None
        )
        if provider and request:
            started_at = self._calling.clock.now_ms()
            try:
                answer = await self._calling.client.send(
                    provider.origin, provider.api_key or "", request, CANCEL_TIMEOUT_S
                )
                confirmed, outcome = 200 <= answer.status_code < 300, f"HTTP {answer.status_code}"
                call = self._calling.ended_call(job, EndedCall("cancellation", started_at, outcome, answer))
                if 400 <= answer.status_code < 500:
                    await self._refused(job, call, answer)
            except (NotSent, NoAnswer) as error:
                call = self._calling.ended_call(job, EndedCall("cancellation", started_at, str(error)))
        return await self._do(job, partial(operator_actions.canceled, confirmed=confirmed), call, tie)

    def require_check(self, job_id: str, project_id: str) -> None:
        """TooManyRequests where the job, whether it is there or not, or its project has had its share of checks."""
        self._checker.require_share(job_id, project_id)

    async def check(self, job: Job, tie: Tie | None = None) -> Job:
        """Asks the provider now; the job as that leaves it."""
        if job.provider_job_id is None:
            raise Conflict("the provider's id of this job is not known, so it cannot be asked about")
        recorded = await self._checker.check_now(job, tie)
        if recorded is None or recorded.job is None:
            raise StorageUnavailable("the check could not be recorded, or its provider is not configured")
        return recorded.job

    async def resubmit(self, job: Job, accept_double_charge: bool, wait_s: float, tie: Tie | None = None) -> Job:
        """Sends the same job to its provider again; PaidOnce where its one payment has left, or is over."""
        provider = self._calling.providers.get(job.provider)
        if provider is None or not provider.usable:
            raise Conflict(f"{job.provider} is not configured here")
        now_ms = self._calling.clock.now_ms()
        again = partial(operator_actions.resubmitted, next_submit_at=now_ms + HAND_OVER_MS)
        payment = await self._calling.store.payments.of_job(job.id)
        if payment is None:
            again = partial(again, accept_double_charge=accept_double_charge)
        else:
            if operator_actions.did_not_succeed(job) and (why := operator_actions.paid_once(job, payment, now_ms)):
                raise PaidOnce(why)
            again = partial(again, accept_double_charge=False, cost=job.cost)
        return await self._submitter.start_and_wait(await self._do(job, again, None, tie), wait_s)

    async def fail(self, job: Job, why: str, tie: Tie | None = None) -> Job:
        """Declares the job failed."""
        return await self._do(job, partial(operator_actions.failed, why=why), None, tie)

    async def _refused(self, job: Job, call: Call, answer: ApiAnswer) -> None:
        """The provider would not cancel: the job goes on, and is asked about at once."""
        now_ms = self._calling.clock.now_ms()
        fact = Fact(job_id=job.id, at=now_ms, move=_doubted, call=call)
        self._calling.tell(await self._calling.store.jobs.record(fact))
        raise Conflict(
            f"the provider did not cancel the job (HTTP {answer.status_code}); it is asked how the job stands"
        )

    async def _do(self, job: Job, move: Callable[..., Move], call: Call | None, tie: Tie | None) -> Job:
        """Records what a person decided; Conflict when it does not fit the job as it is by now."""
        now_ms = self._calling.clock.now_ms()
        if call is None:
            call = Call(
                id=ids.new_id(ids.CALL),
                job_id=job.id,
                kind="intervention",
                started_at=now_ms,
                duration_ms=0,
                outcome="by hand",
                status_code=None,
                summary="a person intervened",
                excerpt=None,
            )
        fact = Fact(job_id=job.id, at=now_ms, move=partial(move, now_ms=now_ms), call=call)
        if call.kind == "cancellation":
            recorded = await self._calling.stored(fact, tie, provider=job.provider)
        else:
            recorded = await self._calling.store.jobs.record(fact, tie)
        self._calling.tell(recorded)
        _logger.info("job.intervened", job=job.id, decision=recorded.reason, verdict=recorded.verdict)
        if recorded.verdict is Verdict.STALE or recorded.job is None:
            raise Conflict(recorded.reason or "there is no such job")
        return recorded.job


def _doubted(job: Job) -> Move:
    """Return the job, whose provider is asked how it stands."""
    return Move(job, Verdict.RECORDED, "the provider did not cancel: asked how it stands", doubtful=True)
