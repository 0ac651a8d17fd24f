"""What was spent, the caps on it, and each payment."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.clock import rfc3339
from relay.model.ids import JOB
from relay.model.payment import PaymentHead, PaymentState, usdc
from relay.model.resources.times import Time, time_or_none

Amount = Annotated[str, Meta(pattern=r"^[0-9]+\.[0-9]{6}$")]
"""A decimal with six places."""


class CapResource(msgspec.Struct, frozen=True, kw_only=True):
    """A cap, and what is authorized under it in the job, the hour or the day (UTC) that it is for."""

    setting: str
    period: Literal["job", "hour", "day"]
    max: Amount
    used: Annotated[Amount | None, Meta(description="Null for the cap of a job.")]
    left: Annotated[Amount | None, Meta(description="Null for the cap of a job.")]
    resets_at: Annotated[Time | None, Meta(description="Null for the cap of a job.")]


class ProviderSpendResource(msgspec.Struct, frozen=True, kw_only=True):
    """What one provider's jobs cost in one unit, by how sure that is."""

    provider: str
    unit: str
    estimate: str
    reserved: str
    final: str
    jobs: int


class SpendResource(msgspec.Struct, frozen=True, kw_only=True):
    """What was spent, and what was authorized today (UTC)."""

    project: Annotated[str | None, Meta(description="Null for all projects together.")]
    wallet: Annotated[str | None, Meta(description="The paying address, with `all=true`.")]
    unit: Literal["USDC"] = "USDC"
    since: Time
    today: Amount
    left_today: Amount
    reserved: Amount
    paid: Amount
    unknown: Amount
    lost: Amount
    void: Amount
    max_per_job: Amount
    max_per_day: Amount
    approval_above: Annotated[Amount | None, Meta(description="In USD; null if no job needs an approval.")]
    caps: list[CapResource]
    providers: list[ProviderSpendResource]


class PaymentResource(msgspec.Struct, frozen=True, kw_only=True):
    """A payment, without the authorization itself, which is money."""

    id: Annotated[str, Meta(pattern="^pay_")]
    object: Literal["payment"] = "payment"
    project: str
    job: Annotated[str | None, Meta(description="Null for a file that was uploaded.")]
    provider: str
    amount: Amount
    unit: Literal["USDC"] = "USDC"
    state: PaymentState
    created_at: Time
    settled_at: Annotated[Time | None, Meta(description="When its state became known.")]
    valid_before: Annotated[Time, Meta(description="When the authorization ends.")]
    transaction: Annotated[str | None, Meta(description="On the chain, as the provider says.")]
    chain_id: int
    asset: Annotated[str, Meta(description="The token's contract.")]
    payer: str
    pay_to: str
    nonce: str


def payment(head: PaymentHead) -> PaymentResource:
    """Return a payment as it is shown."""
    return PaymentResource(
        id=head.id,
        project=head.project_id,
        job=head.job_id if head.job_id.startswith(JOB) else None,
        provider=head.provider,
        amount=usdc(head.amount),
        state=head.state,
        created_at=rfc3339(head.created_at),
        settled_at=time_or_none(head.settled_at),
        valid_before=rfc3339(head.valid_before),
        transaction=head.transaction,
        chain_id=head.chain_id,
        asset=head.asset,
        payer=head.payer,
        pay_to=head.pay_to,
        nonce=head.nonce,
    )
