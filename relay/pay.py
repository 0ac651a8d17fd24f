"""Paying a provider for one job, never twice and never more than is allowed.

The authorization is committed with the job before it is sent; its nonce follows from the job's id, so even a lost
database cannot pay again. What an answer does not prove stays unknown until the chain does.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from relay import ids, lifecycle, log
from relay.calling import Calling
from relay.errors import PaymentRefused, ProviderNotConfigured, SpendCapReached, StorageUnavailable, Unreadable
from relay.exchange import ApiAnswer, ApiRequest
from relay.lifecycle import Move
from relay.model import Cost, ErrorClass, Job, JobError, JobState, Reason, Verdict
from relay.money import Payment, PaymentState, usdc
from relay.outbound.client import NoAnswer, NotSent
from relay.payments.challenge import Challenge, Offer, read_challenge
from relay.payments.policy import Policy, choose
from relay.payments.proof import authorization_state_call, read_authorization_state
from relay.payments.settle import Outcome, classify, may_resend
from relay.payments.x402 import Settlement as Told
from relay.payments.x402 import Wallet, settlement
from relay.storage.jobs import NewJob
from relay.storage.payments import Caps, Settlement
from relay.storage.record import Fact

QUOTE_TIMEOUT_S: Final = 15.0
RESEND_S: Final = (0, 1, 3)
"""Pauses before the identical header is sent again where its fate is unknown; the nonce lets it move money once."""
AMOUNT_MAX: Final = 10**15
PROVE_AGAIN_MS: Final = 60_000
_REFUSALS: Final = frozenset(range(400, 500)) - {402, 408, 425, 429}
"""The request was refused, whatever became of the payment."""
_logger = log.get("pay")


class Exchanged(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a paid submission: the payment's fate, and the answer, to be read as any provider's.

    Where the answer is not what decides, `move` says what happens to the job, and `outcome` says it in a word; where
    it is, and the money has moved for nothing all the same, its move goes through `result_lost`.
    """

    answer: ApiAnswer | None = None
    settlement: Settlement | None = None
    move: Callable[..., Move] | None = None
    outcome: str = ""


class Quote(msgspec.Struct, frozen=True):
    """What a provider asks for one request, chosen by the rules of paying."""

    challenge: Challenge
    offer: Offer
    policy: Policy
    """The provider's, with the bound of what the payment is for: nothing over it is signed."""


class Payer:
    """Pays with one wallet; `wallet` is None where none is configured, and then nothing can be paid."""

    def __init__(self, calling: Calling, wallet: Wallet | None, policies: Mapping[str, Policy]) -> None:
        self._calling = calling
        self._wallet = wallet
        self._policies = policies

    @property
    def address(self) -> str | None:
        """The wallet's address."""
        return self._wallet.address if self._wallet else None

    @property
    def caps(self) -> Caps:
        """What may be spent in a day; a project without a cap of its own may spend all of it."""
        settings = self._calling.settings
        of_project = settings.project_spend_max_per_day
        return Caps(settings.spend_max_per_day, settings.spend_max_per_day if of_project is None else of_project)

    async def quote(self, name: str, request: ApiRequest, max_cost: int | None = None) -> Quote | ApiAnswer:
        """What the request would cost, by sending it unpaid; the provider's answer where it is anything but a price.

        PaymentRefused or SpendCapReached for a price that is against the rules, or over `max_cost` in atomic units;
        NotSent or NoAnswer when there is none.
        """
        provider = self._calling.providers[name]
        answer = await self._calling.client.send(provider.origin, "", request, QUOTE_TIMEOUT_S)
        if answer.status_code != 402:
            return answer
        try:
            challenge = read_challenge(answer)
        except Unreadable as error:
            raise PaymentRefused(f"{name} asks for a payment in words that relay does not know: {error}") from None
        policy = self._policies[name]
        offer = choose(challenge, msgspec.structs.replace(policy, amount_max=AMOUNT_MAX))
        if offer.amount > policy.amount_max:
            raise SpendCapReached(
                f"the job would cost {usdc(offer.amount)} USDC, and one job may cost {usdc(policy.amount_max)} USDC "
                "(RELAY_SPEND_MAX_PER_JOB)"
            )
        if max_cost is not None and offer.amount > max_cost:
            raise over_max_cost(offer.amount, max_cost)
        most = policy.amount_max if max_cost is None else min(policy.amount_max, max_cost)
        return Quote(challenge, offer, msgspec.structs.replace(policy, amount_max=most))

    async def prepared(self, new: NewJob) -> NewJob:
        """The job with its payment authorized and not yet committed; a paid provider's job without a price as it is.

        SpendCapReached and PaymentRefused say why there is to be no such job. A provider that gives no price now is
        asked again when the job is sent.
        """
        provider = self._calling.providers[new.job.provider]
        if not provider.adapter.limits.paid:
            return new
        request = provider.adapter.submission(new.job.request, None)
        try:
            quoted = await self.quote(new.job.provider, request, new.job.max_cost)
        except (NotSent, NoAnswer):
            return new
        if isinstance(quoted, ApiAnswer):
            return new
        payment = await self.authorized(new.job.project_id, new.job.id, new.job.provider, request, quoted)
        cost = Cost(amount=usdc(payment.amount), unit="USDC", kind="reserved")
        job = msgspec.structs.replace(new.job, cost=cost)
        return msgspec.structs.replace(new, job=job, payment=payment, caps=self.caps)

    async def exchange(self, job: Job, retry_at: int | None) -> Exchanged:
        """Sends the job with its payment, as often as the same header may be sent; what came of it."""
        provider = self._calling.providers[job.provider]
        request = provider.adapter.submission(job.request, None)
        payment = await self._calling.store.payments.of_job(job.id)
        try:
            if payment is None:
                answered = await self._reserved(job, request)
                if isinstance(answered, ApiAnswer):
                    return Exchanged(answer=answered)
                payment = answered
            if payment.valid_before <= self._calling.clock.now_ms():
                return _refused(_ran_out())
            if job.max_cost is not None and payment.amount > job.max_cost:
                raise over_max_cost(payment.amount, job.max_cost)
            return await self.sent(job.provider, request, payment)
        except StorageUnavailable as error:
            # Only what comes before the sending reads or writes: nothing has left, and the nonce stays the same.
            away = _error(ErrorClass.PROVIDER_ERROR, "not_sent", f"relay's database was away: {error}", True)
            return Exchanged(move=partial(lifecycle.not_sent, error=away, retry_at=retry_at), outcome="not_sent")
        except (NotSent, NoAnswer) as error:
            # No answer ends here for the unpaid request alone: nothing was paid, so nothing was made.
            refusal = _error(ErrorClass.PROVIDER_ERROR, "unreachable", f"the provider gave no answer: {error}", True)
            return Exchanged(move=partial(lifecycle.not_sent, error=refusal, retry_at=retry_at), outcome="not_sent")
        except (PaymentRefused, SpendCapReached, ProviderNotConfigured) as error:
            return _refused(_error(ErrorClass.INVALID_INPUT, error.code, str(error), False))

    async def prove(self, payment: Payment) -> None:
        """Asks the chain about a payment whose time is over, and records what it says."""
        now_ms = self._calling.clock.now_ms()
        used = await self._used(payment)
        if used is None:
            again = Settlement(state=payment.state, next_proof_at=now_ms + PROVE_AGAIN_MS)
            await self._calling.store.jobs.record(Fact(job_id=payment.job_id, at=now_ms, move=None, settlement=again))
            return
        move = partial(_proven, used=used, now_ms=now_ms)
        state = PaymentState.LOST if used else PaymentState.VOID
        fact = Fact(job_id=payment.job_id, at=now_ms, move=move, settlement=_settled(payment, state))
        recorded = await self._calling.store.jobs.record(fact)
        self._calling.tell(recorded)
        _logger.warning("payment.proven", job=payment.job_id, paid=used, amount=usdc(payment.amount))

    async def _reserved(self, job: Job, request: ApiRequest) -> Payment | ApiAnswer:
        """A payment made and committed now, for a job that had no price when it came."""
        quoted = await self.quote(job.provider, request, job.max_cost)
        if isinstance(quoted, ApiAnswer):
            return quoted
        payment = await self.authorized(job.project_id, job.id, job.provider, request, quoted)
        await self._calling.store.payments.add(payment, self.caps)
        return payment

    async def authorized(self, project_id: str, job_id: str, name: str, request: ApiRequest, quoted: Quote) -> Payment:
        """Signs; nothing is sent. The signing takes milliseconds of CPU, so a thread does it."""
        if self._wallet is None:
            raise ProviderNotConfigured(f"{name} is paid for each job: RELAY_WALLET_KEY is not set")
        now_ms = self._calling.clock.now_ms()
        signing = partial(self._wallet.authorize, quoted.offer, quoted.challenge, quoted.policy, job_id, now_ms // 1000)
        signed = await asyncio.to_thread(signing)
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
            version=quoted.challenge.version,
            header_name=signed.header_name,
            header=signed.header_value,
            body_digest=_digest(request),
            valid_before=signed.valid_before * 1000,
            state=PaymentState.RESERVED,
            created_at=now_ms,
            next_proof_at=provable_at if self._calling.settings.chain_rpc_url else None,
        )

    async def sent(self, name: str, request: ApiRequest, payment: Payment) -> Exchanged:
        """Sends the identical request and header until its fate is known, or it may not be sent again.

        NotSent where none of them left.
        """
        provider = self._calling.providers[name]
        if _digest(request) != payment.body_digest:
            raise PaymentRefused("the request is not the one that was priced")
        paid = msgspec.structs.replace(request, headers={**request.headers, payment.header_name: payment.header})
        answer, sent = None, False
        for pause_s in RESEND_S if may_resend(payment.version) else RESEND_S[:1]:
            if pause_s:
                await self._calling.clock.sleep(pause_s * 1000)
            try:
                answer = await self._calling.client.send(
                    provider.origin, "", paid, self._calling.settings.submit_timeout_s
                )
                sent = True
            except NotSent:
                if not sent:
                    raise
                continue
            except NoAnswer:
                sent = True
                continue
            match classify(answer):
                case Outcome.PAID:
                    return Exchanged(answer=answer, settlement=_settled(payment, PaymentState.PAID, settlement(answer)))
                case Outcome.LOST:
                    return _result_lost(payment, answer)
                case _ if answer.status_code in _REFUSALS:
                    return Exchanged(answer=answer, settlement=_after_refusal(payment, answer))
                case _:
                    pass
        return await self._unknown(payment, answer)

    async def _unknown(self, payment: Payment, answer: ApiAnswer | None) -> Exchanged:
        """Nobody knows yet: the chain may say that the money has moved, and never yet that it will not."""
        if await self._used(payment):
            return _result_lost(payment, answer)
        words = "the payment's fate is unknown: it is not made again, and the chain decides when its time is over"
        error = _error(ErrorClass.UNKNOWN, "payment_unknown", words, False)
        unclear = partial(lifecycle.unclear, error=error)
        unknown = _settled(payment, PaymentState.UNKNOWN)
        return Exchanged(answer=answer, settlement=unknown, move=unclear, outcome="payment unknown")

    async def _used(self, payment: Payment) -> bool | None:
        """What the chain says of the nonce; None where there is no node, or no answer."""
        url = self._calling.settings.chain_rpc_url
        if url is None:
            return None
        asked = ApiRequest(
            method="POST",
            path="",
            body=authorization_state_call(payment.asset, payment.payer, payment.nonce),
            bearer=False,
        )
        try:
            return read_authorization_state(await self._calling.client.send(url, "", asked, QUOTE_TIMEOUT_S))
        except (NotSent, NoAnswer):
            return None


def over_max_cost(amount: int, max_cost: int) -> SpendCapReached:
    """Return what says that a price is over what its own request allows; both in atomic units."""
    return SpendCapReached(f"it would cost {usdc(amount)} USDC, more than its max_cost of {usdc(max_cost)}")


def _digest(request: ApiRequest) -> bytes:
    """What identifies a request: method, path and body."""
    said: list[Any] = [request.method, request.path, request.body]
    return hashlib.sha256(msgspec.json.encode(said)).digest()


def _settled(payment: Payment, state: PaymentState, told: Told | None = None) -> Settlement:
    """What is known of a payment that left: what it costs is sure once it is paid, lost or void."""
    unknown = state is PaymentState.UNKNOWN
    amount = 0 if state is PaymentState.VOID else payment.amount
    return Settlement(
        state=state,
        cost=Cost(amount=usdc(amount), unit="USDC", kind="reserved" if unknown else "final"),
        transaction=told.transaction if told else None,
        next_proof_at=payment.next_proof_at if unknown else None,
    )


def _after_refusal(payment: Payment, answer: ApiAnswer) -> Settlement:
    """A refusal that says in the same breath that the money has moved is paid all the same."""
    told = settlement(answer)
    return _settled(payment, PaymentState.LOST if told and told.success else PaymentState.UNKNOWN, told)


def _refused(error: JobError) -> Exchanged:
    """Nothing was sent, and nothing will be."""
    return Exchanged(move=partial(lifecycle.refused, error=error), outcome=error.code)


def _result_lost(payment: Payment, answer: ApiAnswer | None) -> Exchanged:
    """The money has moved, and no answer brings the job for it."""
    lost = _settled(payment, PaymentState.LOST)
    return Exchanged(answer=answer, settlement=lost, move=_lost, outcome="paid, result lost")


def _proven(job: Job, used: bool, now_ms: int) -> Move:
    """The job after the chain has spoken about its payment; that of one that has ended is told by nobody else."""
    if job.state is not JobState.PENDING or job.claim:
        if used:
            return result_lost(_paid_after_all, job, now_ms)
        return Move(job, Verdict.RECORDED, "the payment was never made")
    if used:
        return _lost(job, now_ms)
    if job.reason != Reason.SUBMIT_UNKNOWN:
        return lifecycle.refused(job, _ran_out(), now_ms)
    error = _error(ErrorClass.PROVIDER_ERROR, "payment_void", "the provider never took the payment", True)
    return lifecycle.refused(job, error, now_ms)


def _paid_after_all(job: Job, now_ms: int) -> Move:
    """The job stands as it is, and something about it is new."""
    return Move(msgspec.structs.replace(job, updated_at=now_ms), Verdict.RECORDED, "the payment was made")


def _ran_out() -> JobError:
    """The authorization's time was over before the job had been sent."""
    words = "the authorization ran out before it could be sent: make a new job"
    return _error(ErrorClass.TIMEOUT, "authorization_expired", words, True)


def result_lost(move: Callable[..., Move], job: Job, now_ms: int) -> Move:
    """The move, of a job whose money has moved: where it ends without a result, its reason says so."""
    moved = move(job, now_ms=now_ms)
    if not moved.job.state.final or moved.job.state is JobState.SUCCEEDED:
        return moved
    return msgspec.structs.replace(moved, job=msgspec.structs.replace(moved.job, reason=Reason.PAID_RESULT_LOST))


def _lost(job: Job, now_ms: int) -> Move:
    """The money has moved, and there is no result to ask for."""
    words = "the provider took the payment and gave no job for it: it is never paid again by itself"
    error = _error(ErrorClass.PROVIDER_ERROR, "paid_result_lost", words, False)
    return result_lost(partial(lifecycle.refused, error=error), job, now_ms)


def _error(class_: ErrorClass, code: str, words: str, retryable: bool) -> JobError:
    """An error in relay's own words."""
    return JobError(class_=class_, code=code, message=words[:500], retryable=retryable)
