"""Decides which jobs wait for an admin key's approval: those that cost more than `RELAY_APPROVAL_ABOVE`.

A job that waits is committed, with its price, and nothing of it is signed or sent. It waits as `pending`, with the
reason `awaiting_approval`, until a key approves or refuses it, a client cancels it, or its deadline passes.
"""

from decimal import Decimal
from typing import Final

import msgspec

from relay.context import ConfiguredProvider, FlowContext
from relay.errors import SpendCapReached
from relay.model.job import Approval, Job, Reason
from relay.model.payment import usdc
from relay.providers.native import unknown_model
from relay.providers.prices import Price

FREE: Final = "sandbox"
"""The provider that charges nothing."""


class Approvals:
    """Says which jobs wait."""

    def __init__(self, context: FlowContext) -> None:
        self._context = context
        self._above = context.settings.approval_above

    def needed(self, job: Job, amount: int | None) -> Approval | None:
        """Return what must be approved before a job of this price is sent; None if nothing, or if it is approved.

        `amount` is in millionths of a USD, None for a price that is not known: that may be any.
        """
        if self._above is None or (amount is not None and amount <= self._above):
            return None
        if job.approval is not None and job.approval.covers(amount):
            return None
        return Approval(amount=amount, asked_at=self._context.clock.now_ms())

    def needed_at_account(self, job: Job) -> Approval | None:
        """Return what must be approved of a job that its provider charges to an account, by the published prices."""
        provider = self._context.providers.get(job.provider)
        if self._above is None or provider is None or job.provider == FREE:
            return None
        price = table_price(provider, job.request)
        return self.needed(job, None if price is None else micros(price))

    def require_none(self, amount: int) -> None:
        """Raise SpendCapReached where a file's price would have to be approved, which only a job's can be."""
        if self._above is not None and amount > self._above:
            raise SpendCapReached(
                f"it would cost {usdc(amount)} USDC, more than {usdc(self._above)} (RELAY_APPROVAL_ABOVE), and only a "
                "job can be approved"
            )


def waiting(job: Job, approval: Approval) -> Job:
    """Return a new job that is not sent before it is approved."""
    return msgspec.structs.replace(job, reason=Reason.AWAITING_APPROVAL, approval=approval, next_submit_at=None)


def said(approval: Approval) -> str:
    """Return why a job waits."""
    price = "relay does not know its price" if approval.amount is None else f"it would cost {usdc(approval.amount)} USD"
    return f"{price}: it waits for an admin key's approval (RELAY_APPROVAL_ABOVE)"


def table_price(provider: ConfiguredProvider, request: dict[str, object]) -> Price | None:
    """Return the price of a job that is charged to an account; None if it is unknown."""
    return None if unknown_model(provider.adapter, request) else provider.adapter.price(request)


def micros(price: Price) -> int | None:
    """Return a price in millionths of a USD, rounded up; None if that is not known."""
    return None if price.usd is None else int((Decimal(price.usd) * 1_000_000).to_integral_value("ROUND_CEILING"))
