"""Applies what operators and clients request of a job: approve, cancel, check now, submit again, declare failed.

Each intervention is one update of the job with its timeline entry. Whether it fits the job is decided in
`lifecycle/operator_actions.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from relay import log
from relay.context import ConfiguredProvider, EndedCall, FlowContext, send_signed_in
from relay.errors import Conflict, PaidOnce, StorageUnavailable, Unreadable
from relay.jobs.payment import Payer
from relay.jobs.status_checks import Checker
from relay.jobs.submission import HAND_OVER_MS, Submitter
from relay.lifecycle import lookups, operator_actions
from relay.lifecycle.reports import Transition
from relay.model import ids
from relay.model.job import Approval, Disposition, Job, ProviderCall, Reason
from relay.outbound.provider_client import NoAnswer, NotSent
from relay.providers.base import SubmittedJob, can_find, submitted_job
from relay.storage.apply_updates import JobUpdate
from relay.storage.idempotency import Tie

CANCEL_TIMEOUT_S: Final = 15.0
_logger = log.get("intervene")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the holder of a key approves a job's price, and why."""

    approve: bool
    key_id: str
    reason: str | None


class _Cancellation(msgspec.Struct, frozen=True):
    """What was sent to cancel a job, and whether its provider took it, and says that the job is canceled."""

    calls: tuple[ProviderCall, ...] = ()
    accepted: bool = False
    confirmed: bool = False


class Interventions:
    """Applies interventions; Conflict says why one does not fit the job."""

    def __init__(self, context: FlowContext, submitter: Submitter, checker: Checker, payer: Payer) -> None:
        self._context = context
        self._payer = payer
        self._submitter = submitter
        self._checker = checker

    async def cancel(self, job: Job, tie: Tie | None = None) -> Job:
        """Cancel the job, at its provider too where that publishes a cancellation; else detach it from its provider.

        Conflict where the job has ended, or its provider refuses.
        """
        sent = await self._cancel_at_provider(job)
        canceled = partial(operator_actions.canceled, confirmed=sent.confirmed, accepted=sent.accepted)
        return await self._apply(job, canceled, tie, sent.calls)

    def require_check(self, job_id: str, project_id: str) -> None:
        """TooManyRequests where the job, whether it is there or not, or its project has had its share of checks."""
        self._checker.require_share(job_id, project_id)

    async def check(self, job: Job, tie: Tie | None = None) -> Job:
        """Ask the provider now and return the job after its answer."""
        known = self._context.providers.get(job.provider)
        findable = known is not None and can_find(known.adapter) and lookups.wanted(job)
        if job.provider_job_id is None and not findable:
            raise Conflict("the provider's id of this job is not known, so it cannot be asked about")
        recorded = await self._checker.check_now(job, tie)
        if recorded is None or recorded.job is None:
            raise StorageUnavailable("the check could not be recorded, or its provider is not configured")
        return recorded.job

    async def approve(self, job: Job, decision: Decision, wait_s: float, tie: Tie | None = None) -> Job:
        """Submit a job that waits for its approval and return it, or fail it where the decision refuses it.

        Conflict where it does not wait; SpendCapReached where no cap has room for it, and then it goes on waiting.
        """
        now_ms = self._context.clock.now_ms()
        decided = Approval(
            amount=None,
            asked_at=now_ms,
            decided_at=now_ms,
            approved=decision.approve,
            key_id=decision.key_id,
            reason=decision.reason,
        )
        if not decision.approve:
            return await self._apply(job, partial(operator_actions.not_approved, decided=decided), tie)
        provider = self._context.providers.get(job.provider)
        if provider is None or not provider.usable:
            raise Conflict(f"{job.provider} is not configured here")
        if job.reason == Reason.AWAITING_APPROVAL:
            await self._payer.require_room(job)

        def approved(waiting: Job, now_ms: int) -> Transition:
            return operator_actions.approved(waiting, decided, now_ms + HAND_OVER_MS)

        return await self._submitter.start_and_wait(await self._apply(job, approved, tie), wait_s)

    async def resubmit(self, job: Job, accept_double_charge: bool, wait_s: float, tie: Tie | None = None) -> Job:
        """Send the same job to its provider again and return it; PaidOnce if its one payment was sent or has ended."""
        provider = self._context.providers.get(job.provider)
        if provider is None or not provider.usable:
            raise Conflict(f"{job.provider} is not configured here")
        if not job.request:
            raise Conflict("the job was adopted from its callback, and what was requested is lost: submit a new job")
        now_ms = self._context.clock.now_ms()
        again = partial(operator_actions.resubmitted, next_submit_at=now_ms + HAND_OVER_MS)
        payment = await self._context.store.payments.of_job(job.id)
        if payment is None:
            again = partial(again, accept_double_charge=accept_double_charge)
        else:
            if operator_actions.did_not_succeed(job) and (why := operator_actions.paid_once(job, payment, now_ms)):
                raise PaidOnce(why)
            again = partial(again, accept_double_charge=False, cost=job.cost)
        return await self._submitter.start_and_wait(await self._apply(job, again, tie), wait_s)

    async def fail(self, job: Job, why: str, tie: Tie | None = None) -> Job:
        """Declare the job failed."""
        return await self._apply(job, partial(operator_actions.failed, why=why), tie)

    async def _cancel_at_provider(self, job: Job) -> _Cancellation:
        """Send the provider's cancellation, if the job has one to send.

        Conflict where the provider refuses, or has ended the job: a status check is made immediately.
        """
        provider = self._context.providers.get(job.provider)
        if provider is None or not provider.usable or not job.provider_job_id or job.state.final:
            return _Cancellation()
        asked: SubmittedJob | None = submitted_job(job)
        calls: tuple[ProviderCall, ...] = ()
        if provider.adapter.check_before_cancellation:
            asked, check = await self._ask_first(provider, job)
            calls = (check,)
        request = None if asked is None else provider.adapter.cancellation(asked)
        if request is None:
            return _Cancellation(calls)
        started_at = self._context.clock.now_ms()
        try:
            answer = await self._context.client.send(provider.origin, provider.authorization, request, CANCEL_TIMEOUT_S)
        except (NotSent, NoAnswer) as error:
            failed = self._context.ended_call(job, EndedCall("cancellation", started_at, str(error)))
            return _Cancellation((*calls, failed))
        outcome = f"HTTP {answer.status_code}"
        call = self._context.ended_call(job, EndedCall("cancellation", started_at, outcome, answer))
        if 400 <= answer.status_code < 500 or provider.adapter.too_late(answer):
            await self._doubt(job, call)
            raise Conflict(f"the provider did not cancel the job ({outcome}); relay asks it for the job's status")
        accepted = 200 <= answer.status_code < 300
        confirmed = accepted and provider.adapter.canceled(answer)
        return _Cancellation((*calls, call), accepted=accepted, confirmed=confirmed)

    async def _ask_first(self, provider: ConfiguredProvider, job: Job) -> tuple[SubmittedJob | None, ProviderCall]:
        """Ask for the job's status before a cancellation that would erase an ended job; None if there is no status.

        Conflict where the provider has ended the job.
        """
        adapter, client, started_at = provider.adapter, self._context.client, self._context.clock.now_ms()
        request = adapter.status_check(submitted_job(job))
        try:
            answer = await send_signed_in(client, provider, request, self._context.sign_in, CANCEL_TIMEOUT_S)
            report = adapter.read_status(answer, self._context.clock.now_ms())
        except (NotSent, NoAnswer, Unreadable) as error:
            outcome = f"no status, so nothing is canceled there: {str(error)[:200]}"
            return None, self._context.ended_call(job, EndedCall("check", started_at, outcome))
        outcome = f"{report.provider_status[:40]}, before it is canceled"
        call = self._context.ended_call(job, EndedCall("check", started_at, outcome, answer))
        if report.state is None:
            return None, call
        if report.state.final:
            await self._doubt(job, call)
            raise Conflict(f"the provider has ended the job ({report.state}); relay asks it for the result")
        asked = submitted_job(job, report.provider_status)
        return msgspec.structs.replace(asked, state=report.state), call

    async def _doubt(self, job: Job, call: ProviderCall) -> None:
        """Record a call after which the provider is asked for the job's status immediately."""
        update = JobUpdate(job_id=job.id, at=self._context.clock.now_ms(), transition=_doubted, call=call)
        self._context.publish(await self._context.store.jobs.record(update))

    async def _apply(
        self, job: Job, transition: Callable[..., Transition], tie: Tie | None, calls: tuple[ProviderCall, ...] = ()
    ) -> Job:
        """Record an intervention and return the job; Conflict where it does not fit the job as it is by now."""
        now_ms = self._context.clock.now_ms()
        by_hand = ProviderCall(
            id=ids.new_id(ids.CALL),
            job_id=job.id,
            kind="intervention",
            started_at=now_ms,
            duration_ms=0,
            outcome="by hand",
            status_code=None,
            summary="an operator intervened",
            excerpt=None,
        )
        call, earlier = calls[-1] if calls else by_hand, calls[0] if len(calls) > 1 else None
        update = JobUpdate(
            job_id=job.id, at=now_ms, transition=partial(transition, now_ms=now_ms), call=call, earlier_call=earlier
        )
        if call.kind == "cancellation":
            recorded = await self._context.stored(update, tie, provider=job.provider)
        else:
            recorded = await self._context.store.jobs.record(update, tie)
        self._context.publish(recorded)
        _logger.info("job.intervened", job=job.id, decision=recorded.reason, disposition=recorded.disposition)
        if recorded.disposition is Disposition.STALE or recorded.job is None:
            raise Conflict(recorded.reason or "there is no such job")
        return recorded.job


def _doubted(job: Job) -> Transition:
    """Return the job with a status check due now."""
    return Transition(job, Disposition.RECORDED, "the provider did not cancel: asked for its status", doubtful=True)
