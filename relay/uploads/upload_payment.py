"""Pays for uploads: however often an upload is tried, the provider is paid once for it.

    the upload's last payment                   what a try of the upload does
    ──────────────────────────────────────────  ────────────────────────────────────────────────────────────
    none                                        pays
    answered within the last five minutes       pays nothing: continues with the stored answers
    undecided, its authorization still valid    sends the same authorization again
    undecided, its authorization expired        pays with the same nonce: the token accepts one of the two
    lost without an answer, within 24 hours     409 `paid_once`
    any other                                   pays with a new nonce

The answer to the paid step holds a token that is valid for some minutes. It is stored with the payment, together with
the answers to the later steps: an upload that failed continues where it stopped, and a finished one is answered again.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from relay.context import FlowContext
from relay.errors import PaidOnce
from relay.jobs.payment import Paid, Payer, over_max_cost
from relay.model.payment import Payment, PaymentState
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.outbound.provider_client import NoAnswer
from relay.storage.payments import NUMBER_MAX, numbered
from relay.uploads.file_uploads import Upload

GOOD_MS: Final = 300_000
"""How long the same upload is not paid for again: a token is valid for five minutes (https://stablestudio.dev)."""
LOST_MS: Final = 24 * 3_600_000
"""How long an upload whose payment brought no answer is not paid for again: an Idempotency-Key's lifetime."""
_UNDECIDED: Final = (PaymentState.RESERVED, PaymentState.UNKNOWN)


class FileBuyer:
    """Pays the first step of an upload and stores the answers to its steps."""

    def __init__(self, context: FlowContext, payer: Payer) -> None:
        self._context = context
        self._payer = payer
        self._payments = context.store.payments
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, upload: Upload) -> asyncio.Lock:
        """Return the upload's lock, which exists for as long as a request holds it."""
        return self._turns.setdefault(upload.id, asyncio.Lock())

    async def buy(self, name: str, upload: Upload, request: ProviderRequest) -> list[ProviderResponse]:
        """Return the answer to the paid request, and the answers that earlier tries had to the steps after it.

        PaidOnce where the money has moved and the answer is lost; NotSent, NoAnswer, PaymentRefused or
        SpendCapReached where there is no answer.
        """
        last = await self._payments.of_upload(upload.id)
        if last is not None:
            if last.answers and self._age_ms(last.settled_at) < GOOD_MS:
                return [_answer(body) for body in last.answers]
            if last.state in _UNDECIDED and self._age_ms(last.valid_before) < 0:
                if upload.max_cost is not None and last.amount > upload.max_cost:
                    raise over_max_cost(last.amount, upload.max_cost)
                return [await self._send(name, request, last)]
            if last.state is PaymentState.LOST and not last.answers and self._age_ms(last.created_at) < LOST_MS:
                raise _lost()
        payment = await self._authorize(name, upload, request, last)
        return [payment if isinstance(payment, ProviderResponse) else await self._send(name, request, payment)]

    async def keep(self, upload: Upload, answers: Sequence[ProviderResponse]) -> None:
        """Store the answers to all steps so far."""

        async def write(_: bool) -> None:
            if (last := await self._payments.of_upload(upload.id)) is not None:
                await self._payments.keep_answers(last.job_id, [_body(answer) for answer in answers])

        await self._context.until_stored(write, upload=upload.id)

    async def _authorize(
        self, name: str, upload: Upload, request: ProviderRequest, last: Payment | None
    ) -> Payment | ProviderResponse:
        """Commit and return a new authorization; the provider's answer where that names no price.

        It has the nonce of the last payment if that is undecided, else the next one.
        """
        undecided = last is not None and last.state in _UNDECIDED
        number = 0 if last is None else min(int(last.job_id[-6:]) + (not undecided), NUMBER_MAX)
        priced = await self._payer.quote(name, request, upload.max_cost)
        if isinstance(priced, ProviderResponse):
            return priced
        self._payer.approvals.require_none(priced.offer.amount)
        payment = await self._payer.authorize(upload.project_id, numbered(upload.id, number), name, request, priced)
        reserve = self._payments.renew if undecided else self._payments.add
        await reserve(payment, self._payer.caps)
        return payment

    async def _send(self, name: str, request: ProviderRequest, payment: Payment) -> ProviderResponse:
        """Return the answer to the paid request, after it is committed with the settlement."""
        sent = await self._payer.send(name, request, payment)
        answers = [_body(sent.answer)] if isinstance(sent, Paid) else []
        now_ms = self._context.clock.now_ms()
        settle = partial(self._payments.settle, payment.job_id, now_ms, sent.settlement, answers)
        await self._context.until_stored(lambda _: settle(), upload=payment.job_id)
        if sent.settlement.state is PaymentState.LOST:
            raise _lost()
        if sent.answer is None:
            raise NoAnswer("payment unknown")
        return sent.answer

    def _age_ms(self, at_ms: int | None) -> int:
        """Return how many milliseconds ago a time was."""
        return self._context.clock.now_ms() - (at_ms or 0)


def _lost() -> PaidOnce:
    """Return the error of a payment for which the provider gave nothing."""
    return PaidOnce(
        "the provider charged for this file and returned nothing for it; relay does not pay again by itself. With an "
        "Idempotency-Key that was not used before it is another upload, which is paid for"
    )


def _body(answer: ProviderResponse) -> str:
    """Return what is stored of an answer."""
    return answer.body.decode("utf-8", "replace")


def _answer(body: str) -> ProviderResponse:
    """Return an answer from what was stored of it."""
    return ProviderResponse(status_code=200, content_type="application/json", body=body.encode())
