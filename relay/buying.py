"""Files that are paid for: however often an upload is tried, money moves once for what it buys.

What is bought is the provider's answer, a token that is good for some minutes. It is kept with the payment, and with it
what the steps behind it were answered: an upload that failed goes on where it stopped, and one that is through is told
again. The nonce follows from what is uploaded, so where nobody knows a payment's fate, the token contract takes one.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from relay.calling import Calling
from relay.errors import PaidOnce
from relay.exchange import ApiAnswer, ApiRequest
from relay.money import Payment, PaymentState
from relay.outbound.client import NoAnswer
from relay.pay import Payer, over_max_cost
from relay.storage.payments import NUMBER_MAX, numbered
from relay.uploads import Upload

GOOD_MS: Final = 300_000
"""For how long the same upload is not bought anew: a token is good for five minutes (https://stablestudio.dev)."""
LOST_MS: Final = 24 * 3_600_000
"""How long an upload whose payment brought nothing is not paid for again: as long as an Idempotency-Key is kept."""
_UNDECIDED: Final = (PaymentState.RESERVED, PaymentState.UNKNOWN)


class FileBuyer:
    """Buys for uploads."""

    def __init__(self, calling: Calling, payer: Payer) -> None:
        self._calling = calling
        self._payer = payer
        self._payments = calling.store.payments
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, upload: Upload) -> asyncio.Lock:
        """The upload's own; it is there for as long as somebody has it."""
        return self._turns.setdefault(upload.id, asyncio.Lock())

    async def buy(self, name: str, upload: Upload, request: ApiRequest) -> list[ApiAnswer]:
        """The answer to the request that is paid for, and those that earlier tries had to the steps after it.

        PaidOnce where the money has moved and the answer is lost; NotSent, NoAnswer, PaymentRefused or
        SpendCapReached where there is none.
        """
        last = await self._payments.of_upload(upload.id)
        if last is not None and last.answers and self._age_ms(last.settled_at) < GOOD_MS:
            return [_answer(body) for body in last.answers]
        payment = await self._payment(name, upload, request, last)
        return [payment if isinstance(payment, ApiAnswer) else await self._bought(name, request, payment)]

    async def keep(self, upload: Upload, answers: Sequence[ApiAnswer]) -> None:
        """Keeps how far the upload has come."""

        async def write(_: bool) -> None:
            if (last := await self._payments.of_upload(upload.id)) is not None:
                await self._payments.keep_answers(last.job_id, [_body(answer) for answer in answers])

        await self._calling.until_stored(write, upload=upload.id)

    async def _payment(
        self, name: str, upload: Upload, request: ApiRequest, last: Payment | None
    ) -> Payment | ApiAnswer:
        """What is to be sent: the last authorization while it is good, or a new one, which is committed.

        While a payment is undecided a new one has its nonce, and can be made only if the other one was not.
        """
        number, undecided = 0, last is not None and last.state in _UNDECIDED
        if last is not None:
            if undecided and self._age_ms(last.valid_before) < 0:
                if upload.max_cost is not None and last.amount > upload.max_cost:
                    raise over_max_cost(last.amount, upload.max_cost)
                return last
            if last.state is PaymentState.LOST and not last.answers and self._age_ms(last.created_at) < LOST_MS:
                raise _lost()
            number = min(int(last.job_id[-6:]) + (not undecided), NUMBER_MAX)
        quoted = await self._payer.quote(name, request, upload.max_cost)
        if isinstance(quoted, ApiAnswer):
            return quoted
        payment = await self._payer.authorized(upload.project_id, numbered(upload.id, number), name, request, quoted)
        reserve = self._payments.renew if undecided else self._payments.add
        await reserve(payment, self._payer.caps)
        return payment

    async def _bought(self, name: str, request: ApiRequest, payment: Payment) -> ApiAnswer:
        """The answer, committed before it is used."""
        exchanged = await self._payer.sent(name, request, payment)
        answer, settled = exchanged.answer, exchanged.settlement
        if settled is not None:
            bought = [_body(answer)] if answer is not None and settled.state is PaymentState.PAID else []
            now_ms = self._calling.clock.now_ms()
            settling = partial(self._payments.settle, payment.job_id, now_ms, settled, bought)
            await self._calling.until_stored(lambda _: settling(), upload=payment.job_id)
            if settled.state is PaymentState.LOST:
                raise _lost()
        if answer is None:
            raise NoAnswer(exchanged.outcome or "no answer")
        return answer

    def _age_ms(self, at_ms: int | None) -> int:
        """How long ago that was."""
        return self._calling.clock.now_ms() - (at_ms or 0)


def _lost() -> PaidOnce:
    """Nothing more can be done for this upload."""
    return PaidOnce(
        "the provider took the payment for this file and gave nothing for it: it is not paid again by itself; with an "
        "Idempotency-Key that was not used before it is another upload, which is paid for"
    )


def _body(answer: ApiAnswer) -> str:
    """What is kept of a good answer."""
    return answer.body.decode("utf-8", "replace")


def _answer(body: str) -> ApiAnswer:
    """A good answer again."""
    return ApiAnswer(status_code=200, content_type="application/json", body=body.encode())
