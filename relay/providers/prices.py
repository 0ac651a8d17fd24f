"""A job's price before it is submitted, in exact decimals; each adapter has its provider's published table.

A price that no page publishes is None, never a guess.
"""

import re
from collections.abc import Container
from decimal import Decimal
from typing import Final, Literal

import msgspec

PLACES: Final = Decimal("0.000001")


class Price(msgspec.Struct, frozen=True):
    """A price: decimals as text with six places; `usd` is None if the price in USD is not known."""

    amount: str
    unit: Literal["USD", "USDC", "credits"]
    usd: str | None
    basis: Literal["table", "quote"]


def quoted(amount: int) -> Price:
    """Return the price of a 402's offer, in millionths of a USDC; a USDC counts as a USD."""
    text = _text(Decimal(amount).scaleb(-6))
    return Price(text, "USDC", text, "quote")


def price_order(provider: str, price: Price | None) -> tuple[bool, Decimal, str]:
    """Return a sort key: by USD, then by the provider's name; prices without USD last."""
    unknown = price is None or price.usd is None
    return (unknown, Decimal(0) if price is None or price.usd is None else Decimal(price.usd), provider)


def dollars(amount: Decimal) -> Price:
    """Return a price in USD."""
    text = _text(amount)
    return Price(text, "USD", text, "table")


def in_credits(amount: Decimal, usd_per_credit: Decimal | None) -> Price:
    """Return a price in the provider's credits, and in USD if a credit's price is published."""
    return Price(_text(amount), "credits", None if usd_per_credit is None else _text(amount * usd_per_credit), "table")


def text_at(holder: object, name: str) -> str:
    """Return the text of a field, or an empty text if it is none."""
    found = holder.get(name) if isinstance(holder, dict) else None
    return found if isinstance(found, str) else ""


def seconds_at(holder: object, name: str, allowed: Container[int], default: int | None) -> int | None:
    """Return the seconds of a field, a number or text such as `5` or `5s`; `default` without it.

    None for a length that is not allowed.
    """
    given = holder.get(name) if isinstance(holder, dict) else None
    if given is None:
        return default
    if isinstance(given, str) and re.fullmatch(r"[0-9]{1,4}s?", given):
        given = int(given.removesuffix("s"))
    return given if isinstance(given, int) and not isinstance(given, bool) and given in allowed else None


def _text(amount: Decimal) -> str:
    """Return an amount with six decimals; no table has more."""
    return f"{amount.quantize(PLACES):f}"
