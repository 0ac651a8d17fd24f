"""Pays a provider for one job: never twice, and never more than the operator allows.

The authorization is committed with the job before it is sent. Its nonce is derived from the job's id, so even a lost
database cannot pay a second time. What an answer does not prove stays unknown until the chain proves it.

    exchange     what happened                                  what the job does
    ───────────  ─────────────────────────────────────────────  ──────────────────────────────────────────────────
    Paid         the provider accepted the payment              the adapter reads the answer
    Refused      the provider refused the request               the adapter reads the answer; `paid_result_lost` if
                                                                the answer says that the money moved all the same
    ResultLost   the money moved, and no answer brings a job    fails: `paid_result_lost`
    Unknown      nothing proves whether the money moved         `submit_unknown`, until the chain decides
    NotSent      no payment left relay                          is sent again later, or fails
    Held         nothing was signed: the price is to be         waits as `pending`, `awaiting_approval`
                 approved first
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from relay import log
from relay.context import FlowContext
from relay.errors import Bound, PaymentRefused, ProviderNotConfigured, SpendCapReached, StorageUnavailable, Unreadable
from relay.jobs import approvals
from relay.jobs.approvals import Approvals
from relay.lifecycle import reports
from relay.lifecycle.reports import Transition
from relay.model import ids
from relay.model.job import Approval, Cost, Disposition, ErrorClass, Job, JobError, JobState, Reason
from relay.model.payment import Payment, PaymentState, usdc
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.outbound import provider_client
from relay.payments.challenge import Challenge, Offer, read_challenge
from relay.payments.outcome import (
    Outcome,
    authorization_state_call,
    classify,
    may_resend,
    read_authorization_state,
)
from relay.payments.policy import Policy, choose
from relay.payments.x402 import Settlement as SettlementHeader
from relay.payments.x402 import Wallet, settlement
from relay.storage.apply_updates import JobUpdate
from relay.storage.jobs import NewJob
from relay.storage.payments import Caps, Settlement, require_room

QUOTE_TIMEOUT_S: Final = 15.0
RESEND_S: Final = (0, 1, 3)
"""Pauses before the identical header is sent again while its result is unknown; the nonce lets it move money once."""
AMOUNT_MAX: Final = 10**15
PROVE_AGAIN_MS: Final = 60_000
_REFUSALS: Final = frozenset(range(400, 500)) - {402, 408, 425, 429}
"""Statuses that refuse the request, whatever became of the payment."""
_logger = log.get("pay")


class PricedOffer(msgspec.Struct, frozen=True):
    """The offer that relay would pay for one request, out of the provider's challenge.

    `policy.amount_max` is the lower of the provider's limit and the request's own: nothing over it is signed.
    """

    challenge: Challenge
    offer: Offer
    policy: Policy


class Paid(msgspec.Struct, frozen=True):
    """The provider accepted the payment; its answer says what became of the job."""

    answer: ProviderResponse
    settlement: Settlement


class Refused(msgspec.Struct, frozen=True):
    """The provider refused the request after the payment was sent: the settlement is unknown, or the money is lost."""

    answer: ProviderResponse
    settlement: Settlement


class ResultLost(msgspec.Struct, frozen=True):
    """The money moved, and there is no result to ask the provider for."""

    answer: ProviderResponse | None
    settlement: Settlement


class Unknown(msgspec.Struct, frozen=True):
    """The payment was sent, and nothing proves yet whether the money moved."""

    answer: ProviderResponse | None
    settlement: Settlement
    error: JobError


class NotSent(msgspec.Struct, frozen=True):
    """No payment left relay; `retry` says whether the submission may be tried again."""

    error: JobError
    retry: bool


class Held(msgspec.Struct, frozen=True):
    """Nothing was signed: an admin key has to approve the price first."""

    approval: Approval


Sent = Paid | Refused | ResultLost | Unknown
Exchange = Sent | NotSent | Held


class Payer:
    """Pays with one wallet; `wallet` is None where none is configured, and then nothing can be paid."""

    def __init__(
        self, context: FlowContext, wallet: Wallet | None, policies: Mapping[str, Policy], approvals: Approvals
    ) -> None:
        self.approvals = approvals
        self._context = context
        self._wallet = wallet
        self._policies = policies

    @property
    def address(self) -> str | None:
        """Return the wallet's address."""
        return self._wallet.address if self._wallet else None

    @property
    def caps(self) -> Caps:
        """Return what may be spent in a time; a project without a cap of its own may spend all of it."""
        own = self._context.settings
        day, hour = own.project_spend_max_per_day, own.project_spend_max_per_hour
        return Caps(
            day=own.spend_max_per_day,
            project_day=own.spend_max_per_day if day is None else day,
            hour=own.spend_max_per_hour,
            project_hour=own.spend_max_per_hour if hour is None else hour,
        )

    async def quote(
        self, name: str, request: ProviderRequest, max_cost: int | None = None
    ) -> PricedOffer | ProviderResponse:
        """Return what the request would cost, by sending it unpaid; the provider's answer where that names no price.

        PaymentRefused or SpendCapReached for a price that is against the rules, or over `max_cost` in atomic units;
        the client's NotSent or NoAnswer where the provider gives no answer.
        """
        provider = self._context.providers[name]
        answer = await self._context.client.send(provider.origin, "", request, QUOTE_TIMEOUT_S)
        if answer.status_code != 402:
            return answer
        try:
            challenge = read_challenge(answer)
        except Unreadable as error:
            raise PaymentRefused(f"{name} asks for a payment in a form that relay does not know: {error}") from None
        policy = self._policies[name]
        offer = choose(challenge, msgspec.structs.replace(policy, amount_max=AMOUNT_MAX))
        if offer.amount > policy.amount_max:
            raise SpendCapReached(
                f"the job would cost {usdc(offer.amount)} USDC, and one job may cost {usdc(policy.amount_max)} USDC "
                "(RELAY_SPEND_MAX_PER_JOB)",
                bound=Bound.SPEND_MAX_PER_JOB,
            )
        if max_cost is not None and offer.amount > max_cost:
            raise over_max_cost(offer.amount, max_cost)
        amount_max = policy.amount_max if max_cost is None else min(policy.amount_max, max_cost)
        return PricedOffer(challenge, offer, msgspec.structs.replace(policy, amount_max=amount_max))

    async def prepared(self, new: NewJob) -> NewJob:
        """Return the job with an authorized payment, not committed yet; unchanged where no payment is needed now.

        One that must be approved first has no payment, and waits.
        SpendCapReached and PaymentRefused say why the job must not exist. A paid provider that gives no price now is
        asked again when the job is sent.
        """
        provider = self._context.providers[new.job.provider]
        if not provider.adapter.limits.paid:
            return _held(new, self.approvals.needed_at_account(new.job))
        request = provider.adapter.submission(new.job.request, None, new.job.id)
        try:
            priced = await self.quote(new.job.provider, request, new.job.max_cost)
        except (provider_client.NotSent, provider_client.NoAnswer):
            return new
        if isinstance(priced, ProviderResponse):
            return new
        if (asked := self.approvals.needed(new.job, priced.offer.amount)) is not None:
            return _held(new, asked)
        payment = await self.authorize(new.job.project_id, new.job.id, new.job.provider, request, priced)
        cost = Cost(amount=usdc(payment.amount), unit="USDC", kind="reserved")
        job = msgspec.structs.replace(new.job, cost=cost)
        return msgspec.structs.replace(new, job=job, payment=payment, caps=self.caps)

    async def exchange(self, job: Job) -> Exchange | ProviderResponse:
        """Send the job with its payment; return the provider's answer where it asks for no payment."""
        request = self._context.providers[job.provider].adapter.submission(job.request, None, job.id)
        payment = await self._context.store.payments.of_job(job.id)
        try:
            if payment is None:
                reserved = await self._reserve(job, request)
                if isinstance(reserved, ProviderResponse | Held):
                    return reserved
                payment = reserved
            if payment.valid_before <= self._context.clock.now_ms():
                return NotSent(_ran_out(), retry=False)
            if job.max_cost is not None and payment.amount > job.max_cost:
                raise over_max_cost(payment.amount, job.max_cost)
            return await self.send(job.provider, request, payment)
        except StorageUnavailable as error:
            # The database is used only before the sending: nothing has left, and the nonce stays the same.
            message = f"relay's database was away: {error}"
            return NotSent(_error(ErrorClass.PROVIDER_ERROR, "not_sent", message, True), retry=True)
        except (provider_client.NotSent, provider_client.NoAnswer) as error:
            # `send` never raises NoAnswer: it is the unpaid request that had none, so nothing was paid or made.
            message = f"the provider gave no answer: {error}"
            return NotSent(_error(ErrorClass.PROVIDER_ERROR, "unreachable", message, True), retry=True)
        except (PaymentRefused, SpendCapReached, ProviderNotConfigured) as error:
            self._context.metrics.refused(error.bound)
            return NotSent(_error(ErrorClass.INVALID_INPUT, error.code, str(error), False), retry=False)

    async def prove(self, payment: Payment) -> None:
        """Ask the chain about a payment whose authorization has ended, and record the answer."""
        now_ms = self._context.clock.now_ms()
        used = await self._used(payment)
        if used is None:
            again = Settlement(state=payment.state, next_proof_at=now_ms + PROVE_AGAIN_MS)
            await self._context.store.jobs.record(
                JobUpdate(job_id=payment.job_id, at=now_ms, transition=None, settlement=again)
            )
            return
        transition = partial(_proven, used=used, now_ms=now_ms)
        state = PaymentState.LOST if used else PaymentState.VOID
        update = JobUpdate(
            job_id=payment.job_id, at=now_ms, transition=transition, settlement=_settlement(payment, state)
        )
        recorded = await self._context.store.jobs.record(update)
        self._context.publish(recorded)
        _logger.warning("payment.proven", job=payment.job_id, paid=used, amount=usdc(payment.amount))

    async def require_room(self, job: Job) -> None:
        """Raise SpendCapReached where the price of a job that waits for its approval is over a cap by now.

        Nothing is reserved by that: the caps decide again when the payment is signed.
        """
        paid = self._context.providers[job.provider].adapter.limits.paid
        if not paid or job.approval is None or job.approval.amount is None:
            return
        now_ms = self._context.clock.now_ms()
        require_room(job.approval.amount, await self._context.store.payments.used(self.caps, job.project_id, now_ms))

    async def _reserve(self, job: Job, request: ProviderRequest) -> Payment | ProviderResponse | Held:
        """Authorize and commit a payment for a job that had no price when it was created, or was to be approved."""
        priced = await self.quote(job.provider, request, job.max_cost)
        if isinstance(priced, ProviderResponse):
            return priced
        if (asked := self.approvals.needed(job, priced.offer.amount)) is not None:
            return Held(asked)
        payment = await self.authorize(job.project_id, job.id, job.provider, request, priced)
        await self._context.store.payments.add(payment, self.caps)
        return payment

    async def authorize(
        self, project_id: str, job_id: str, name: str, request: ProviderRequest, priced: PricedOffer
    ) -> Payment:
        """Return a signed payment; nothing is sent or committed. ProviderNotConfigured without a wallet."""
        if self._wallet is None:
            raise ProviderNotConfigured(f"{name} is paid for each job: RELAY_WALLET_KEY is not set")
        now_ms = self._context.clock.now_ms()
        sign = partial(self._wallet.authorize, priced.offer, priced.challenge, priced.policy, job_id, now_ms // 1000)
        signed = await asyncio.to_thread(sign)  # it takes milliseconds of CPU
        provable_at = signed.valid_before * 1000 + PROVE_AGAIN_MS
        return Payment(
            id=ids.new_id(ids.PAYMENT),
            project_id=project_id,
            job_id=job_id,
            provider=name,
            nonce=signed.nonce,
            payer=signed.payer,
            pay_to=signed.pay_to,
            asset=signed.asset,
            chain_id=signed.chain_id,
            amount=signed.amount,
            version=priced.challenge.version,
            header_name=signed.header_name,
            header=signed.header_value,
            body_digest=_digest(request),
            valid_before=signed.valid_before * 1000,
            state=PaymentState.RESERVED,
            created_at=now_ms,
            next_proof_at=provable_at if self._context.settings.chain_rpc_url else None,
        )

    async def send(self, name: str, request: ProviderRequest, payment: Payment) -> Sent:
        """Send the identical request and header until the result is known, or the header may not be sent again.

        The client's NotSent where none of them left; PaymentRefused where the request is not the one that was priced.
        """
        provider = self._context.providers[name]
        if _digest(request) != payment.body_digest:
            raise PaymentRefused("the request is not the one that was priced")
        paid = msgspec.structs.replace(request, headers={**request.headers, payment.header_name: payment.header})
        timeout_s = self._context.settings.submit_timeout_s
        answer, left = None, False
        for pause_s in RESEND_S if may_resend(payment.version) else RESEND_S[:1]:
            if pause_s:
                await self._context.clock.sleep(pause_s * 1000)
            try:
                answer = await self._context.client.send(provider.origin, "", paid, timeout_s)
                left = True
            except provider_client.NotSent:
                if not left:
                    raise
                continue
            except provider_client.NoAnswer:
                left = True
                continue
            match classify(answer):
                case Outcome.PAID:
                    return Paid(answer, _settlement(payment, PaymentState.PAID, settlement(answer)))
                case Outcome.LOST:
                    return _result_lost(payment, answer)
                case Outcome.UNKNOWN:
                    if answer.status_code in _REFUSALS:
                        return _refused(payment, answer)
        if await self._used(payment):
            return _result_lost(payment, answer)
        message = "nothing proves yet whether the payment was made: relay does not pay again, and the chain decides"
        error = _error(ErrorClass.UNKNOWN, "payment_unknown", message, False)
        return Unknown(answer, _settlement(payment, PaymentState.UNKNOWN), error)

    async def _used(self, payment: Payment) -> bool | None:
        """Return whether the chain says that the nonce was used; None without a node, or without its answer."""
        url = self._context.settings.chain_rpc_url
        if url is None:
            return None
        call = authorization_state_call(payment.asset, payment.payer, payment.nonce)
        request = ProviderRequest(method="POST", path="", body=call, bearer=False)
        try:
            return read_authorization_state(await self._context.client.send(url, "", request, QUOTE_TIMEOUT_S))
        except (provider_client.NotSent, provider_client.NoAnswer):
            return None


def _held(new: NewJob, asked: Approval | None) -> NewJob:
    """Return a new job that waits for an approval; unchanged if none is needed."""
    return new if asked is None else msgspec.structs.replace(new, job=approvals.waiting(new.job, asked))


def exchange_max_s(timeout_s: float) -> float:
    """Return the longest that `Payer.exchange` waits for others: a quote, each sending, and the chain's answer."""
    return 2 * QUOTE_TIMEOUT_S + sum(RESEND_S) + len(RESEND_S) * timeout_s


def over_max_cost(amount: int, max_cost: int) -> SpendCapReached:
    """Return the error of a price over its own request's limit; both in atomic units."""
    return SpendCapReached(f"it would cost {usdc(amount)} USDC, more than its max_cost of {usdc(max_cost)}")


def _digest(request: ProviderRequest) -> bytes:
    """Return what identifies a request: a hash of its method, path and body."""
    identity: list[Any] = [request.method, request.path, request.body]
    return hashlib.sha256(msgspec.json.encode(identity)).digest()


def _settlement(payment: Payment, state: PaymentState, header: SettlementHeader | None = None) -> Settlement:
    """Return what is known of a payment that left relay; its cost is final once it is paid, lost or void."""
    unknown = state is PaymentState.UNKNOWN
    amount = 0 if state is PaymentState.VOID else payment.amount
    return Settlement(
        state=state,
        cost=Cost(amount=usdc(amount), unit="USDC", kind="reserved" if unknown else "final"),
        transaction=header.transaction if header else None,
        next_proof_at=payment.next_proof_at if unknown else None,
    )


def _refused(payment: Payment, answer: ProviderResponse) -> Refused:
    """Return a refusal of the request; its settlement header may still say that the money moved."""
    header = settlement(answer)
    state = PaymentState.LOST if header and header.success else PaymentState.UNKNOWN
    return Refused(answer, _settlement(payment, state, header))


def _result_lost(payment: Payment, answer: ProviderResponse | None) -> ResultLost:
    """Return a payment that was made for nothing."""
    return ResultLost(answer, _settlement(payment, PaymentState.LOST))


def _proven(job: Job, used: bool, now_ms: int) -> Transition:
    """Return the job after the chain has decided about its payment."""
    if job.state is not JobState.PENDING or job.unconfirmed:
        if used:
            return result_lost(_paid_after_all, job, now_ms)
        return Transition(job, Disposition.RECORDED, "the payment was never made")
    if used:
        return paid_result_lost(job, now_ms)
    if job.reason != Reason.SUBMIT_UNKNOWN:
        return reports.refused(job, _ran_out(), now_ms)
    error = _error(ErrorClass.PROVIDER_ERROR, "payment_void", "the provider never used the payment", True)
    return reports.refused(job, error, now_ms)


def _paid_after_all(job: Job, now_ms: int) -> Transition:
    """Return the job as it is, marked as updated because its payment is."""
    return Transition(msgspec.structs.replace(job, updated_at=now_ms), Disposition.RECORDED, "the payment was made")


def _ran_out() -> JobError:
    """Return the error of an authorization that ended before the job was sent."""
    message = "the authorization ran out before it could be sent: make a new job"
    return _error(ErrorClass.TIMEOUT, "authorization_expired", message, True)


def result_lost(transition: Callable[..., Transition], job: Job, now_ms: int) -> Transition:
    """Apply `transition` to a job whose money has moved: where that ends it without a result, its reason says so."""
    ended = transition(job, now_ms=now_ms)
    if not ended.job.state.final or ended.job.state is JobState.SUCCEEDED:
        return ended
    return msgspec.structs.replace(ended, job=msgspec.structs.replace(ended.job, reason=Reason.PAID_RESULT_LOST))


def paid_result_lost(job: Job, now_ms: int) -> Transition:
    """Return the job failed, because the money has moved and there is no result to ask for."""
    message = "the provider was paid and returned no job for it; relay never pays again by itself"
    error = _error(ErrorClass.PROVIDER_ERROR, "paid_result_lost", message, False)
    return result_lost(partial(reports.refused, error=error), job, now_ms)


def _error(class_: ErrorClass, code: str, message: str, retryable: bool) -> JobError:
    """Return an error of relay's own, its message cut at 500 characters."""
    return JobError(class_=class_, code=code, message=message[:500], retryable=retryable)
