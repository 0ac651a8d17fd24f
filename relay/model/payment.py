"""The nouns of paying: an authorization to move money, and what is known of it."""

import re
from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from relay.errors import FieldError, InvalidInput
from relay.validation import shown

USD_IN_WORDS: Final = 'an amount of USD as text, such as "0.50"'
_USD: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


class PaymentState(StrEnum):
    """What is known about a payment; only a void one was surely not made, and does not count for the caps."""

    RESERVED = "reserved"
    PAID = "paid"
    UNKNOWN = "unknown"
    LOST = "lost"
    VOID = "void"


def usdc(atomic: int) -> str:
    """Return atomic units as a decimal text with six places."""
    return f"{atomic // 1_000_000}.{atomic % 1_000_000:06d}"


def max_cost(text: object) -> int | None:
    """Return a `max_cost` in millionths of a USD, None where there is none; InvalidInput for what is no amount."""
    if text is None:
        return None
    if not isinstance(text, str) or not _USD.fullmatch(text):
        raise InvalidInput([FieldError("max_cost", f"must be {USD_IN_WORDS}, not {shown(text)}")])
    return int(Decimal(text) * 1_000_000)


class PaymentHead(msgspec.Struct, kw_only=True, frozen=True):
    """A payment as a list shows it, without the header that is money; as `Payment`."""

    id: str
    project_id: str
    job_id: str
    provider: str
    nonce: str
    payer: str
    pay_to: str
    asset: str
    chain_id: int
    amount: int
    valid_before: int
    state: PaymentState
    created_at: int
    settled_at: int | None
    transaction: str | None


class Payment(msgspec.Struct, kw_only=True, frozen=True):
    """An authorization to move money for one job, committed before it is sent, and never made twice.

    `amount` is in atomic units (USDC has six decimals); `header` is the whole value that is sent; times are unix ms.
    What is bought without a job has a name of its own in `job_id`, and in `answers` what was bought by it.
    """

    id: str
    project_id: str
    job_id: str
    provider: str
    nonce: str
    payer: str
    pay_to: str
    asset: str
    chain_id: int
    amount: int
    version: int
    header_name: str
    header: str
    body_digest: bytes
    valid_before: int
    state: PaymentState
    created_at: int
    settled_at: int | None = None
    transaction: str | None = None
    next_proof_at: int | None = None
    answers: tuple[str, ...] = ()
