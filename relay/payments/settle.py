"""Classifies the answer to a payment: paid, paid with the result lost, or unknown."""

import re
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final

from relay.errors import Unreadable
from relay.model.provider_http import ProviderResponse
from relay.payments import header
from relay.payments.challenge import HEADER
from relay.payments.x402 import settlement

# x402's own code, and the error messages of the token's contract:
# https://github.com/circlefin/stablecoin-evm/blob/master/contracts/v2/EIP3009.sol
_USED: Final = re.compile(
    r"(?<![a-z])nonce_already_used|authorization[ _](is[ _])?(already[ _])?used(?![a-z])", re.IGNORECASE
)
_REASONS: Final = ("error", "errorReason", "errorMessage", "invalidReason", "reason", "code", "message", "details")


class Outcome(StrEnum):
    """What is known of a payment after its answer, or without one; only the chain or the expiry ends `unknown`."""

    PAID = "paid"
    LOST = "lost"
    UNKNOWN = "unknown"


def classify(answer: ProviderResponse | None) -> Outcome:
    """Return what the answer to a payment proves; `answer` is None where there was none.

    A nonce belongs to one job: if it was used before, that job was paid, and its result is lost. Every other refusal
    and failure can come after the money has moved, so it proves nothing.
    """
    if answer is None:
        return Outcome.UNKNOWN
    if 200 <= answer.status_code < 300:
        return Outcome.PAID
    if any(_USED.search(reason) for reason in _reasons(answer)):
        return Outcome.LOST
    return Outcome.UNKNOWN


def may_resend(version: int) -> bool:
    """Return whether the identical header may be sent again while the outcome is unknown.

    A server of version 1 would make the video again, for a payment that it cannot settle twice.
    """
    return version == 2


def _reasons(answer: ProviderResponse) -> Iterator[str]:
    """Yield the server's reasons for refusing a payment: from the settlement, the new challenge, and the body."""
    settled = settlement(answer)
    if settled is not None and settled.error_reason:
        yield settled.error_reason
    with suppress(Unreadable):
        yield from _texts(header.decode(answer.headers.get(HEADER, "")))
    with suppress(Unreadable):
        yield from _texts(header.read_object(answer.body))


def _texts(given: dict[str, Any]) -> Iterator[str]:
    """Yield the reasons in an object, and in objects at the place of one."""
    for name in _REASONS:
        value = given.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from (text for key in _REASONS if isinstance(text := value.get(key), str))
