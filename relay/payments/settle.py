"""What an answer to a payment proves: paid, paid with the result lost, or nothing yet."""

import re
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final

from relay.errors import Unreadable
from relay.model.provider_http import ApiAnswer
from relay.payments import header
from relay.payments.challenge import HEADER
from relay.payments.x402 import settlement

# x402's own code, and what the token's contract says:
# https://github.com/circlefin/stablecoin-evm/blob/master/contracts/v2/EIP3009.sol
_USED: Final = re.compile(
    r"(?<![a-z])nonce_already_used|authorization[ _](is[ _])?(already[ _])?used(?![a-z])", re.IGNORECASE
)
_REASONS: Final = ("error", "errorReason", "errorMessage", "invalidReason", "reason", "code", "message", "details")


class Outcome(StrEnum):
    """What is known of a payment after an answer, or none: only the chain or the expiry can end `unknown`."""

    PAID = "paid"
    LOST = "lost"
    UNKNOWN = "unknown"


def classify(answer: ApiAnswer | None) -> Outcome:
    """What the answer to a payment proves; None stands for no answer.

    A nonce belongs to one job, so where it was used before, that job was paid, and its result is lost. Every other
    refusal and failure can come after the money has moved, so it proves nothing.
    """
    if answer is None:
        return Outcome.UNKNOWN
    if 200 <= answer.status_code < 300:
        return Outcome.PAID
    if any(_USED.search(reason) for reason in _reasons(answer)):
        return Outcome.LOST
    return Outcome.UNKNOWN


def may_resend(version: int) -> bool:
    """Whether the identical header may be sent again while the outcome is unknown.

    A server of version 1 makes the video again for a payment that it then cannot settle twice.
    """
    return version == 2


def _reasons(answer: ApiAnswer) -> Iterator[str]:
    """Where a server says why it took no payment: the settlement, the new challenge, and the body."""
    settled = settlement(answer)
    if settled is not None and settled.error_reason:
        yield settled.error_reason
    with suppress(Unreadable):
        yield from _texts(header.decode(answer.headers.get(HEADER, "")))
    with suppress(Unreadable):
        yield from _texts(header.read_object(answer.body))


def _texts(said: dict[str, Any]) -> Iterator[str]:
    """The reasons in an object, or in the objects that stand for one."""
    for name in _REASONS:
        value = said.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from (text for key in _REASONS if isinstance(text := value.get(key), str))
