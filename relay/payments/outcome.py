"""Determines the outcome of a payment by its response, or by asking the chain whether its nonce was used.

It builds the chain's JSON-RPC call and reads its response, without I/O. https://eips.ethereum.org/EIPS/eip-3009
"""

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
AUTHORIZATION_STATE: Final = "e94a0102"  # the selector of authorizationState(address,bytes32)
BALANCE_OF: Final = "70a08231"  # the selector of balanceOf(address)
_WORD_DIGITS: Final = 64
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_NONCE: Final = re.compile(r"0x[0-9a-fA-F]{64}")
_QUANTITY: Final = re.compile(r"0x[0-9a-fA-F]{1,64}")
_REASONS: Final = ("error", "errorReason", "errorMessage", "invalidReason", "reason", "code", "message", "details")


class Outcome(StrEnum):
    """The known outcome of a payment; `unknown` is only resolved by the chain or the authorization's expiry."""

    PAID = "paid"
    LOST = "lost"
    UNKNOWN = "unknown"


def classify(response: ProviderResponse | None) -> Outcome:
    """Return the outcome that the response to a payment proves; `response` is None if there is none.

    A nonce belongs to one job: if it was used before, the job was paid and its result is lost. Any other refusal or
    failure may follow a transfer, so it proves nothing.
    """
    if response is None:
        return Outcome.UNKNOWN
    if 200 <= response.status_code < 300:
        return Outcome.PAID
    if any(_USED.search(reason) for reason in _reasons(response)):
        return Outcome.LOST
    return Outcome.UNKNOWN


def may_resend(version: int) -> bool:
    """Return whether the identical header may be sent again while the outcome is unknown.

    A server of version 1 would generate the video again, for a payment that it cannot execute twice.
    """
    return version == 2


def _reasons(response: ProviderResponse) -> Iterator[str]:
    """Yield the server's reasons for refusing a payment: from the settlement, the new challenge, and the body."""
    receipt = settlement(response)
    if receipt is not None and receipt.error_reason:
        yield receipt.error_reason
    with suppress(Unreadable):
        yield from _texts(header.decode(response.headers.get(HEADER, "")))
    with suppress(Unreadable):
        yield from _texts(header.read_object(response.body))


def _texts(given: dict[str, Any]) -> Iterator[str]:
    """Yield the reasons of an object; a reason may itself be such an object."""
    for name in _REASONS:
        value = given.get(name)
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from (text for key in _REASONS if isinstance(text := value.get(key), str))


def authorization_state_call(asset: str, payer: str, nonce: str) -> dict[str, object]:
    """Return the JSON-RPC body that asks the asset's contract about the nonce; raise ValueError for bad arguments."""
    if not (_ADDRESS.fullmatch(asset) and _ADDRESS.fullmatch(payer) and _NONCE.fullmatch(nonce)):
        raise ValueError("the call needs two addresses and a nonce of 32 bytes")
    data = "0x" + AUTHORIZATION_STATE + payer[2:].lower().rjust(_WORD_DIGITS, "0") + nonce[2:].lower()
    return {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [{"to": asset, "data": data}, "latest"]}


def read_authorization_state(response: ProviderResponse) -> bool | None:
    """Return whether the nonce was used; None for a response that is not plainly true or false.

    A node of another chain has no such contract, and its empty result does not mean false.
    """
    try:
        result = header.read_object(response.body).get("result")
    except Unreadable:
        return None
    if response.status_code != 200 or not isinstance(result, str):
        return None
    return {"0x" + "0" * 63 + "0": False, "0x" + "0" * 63 + "1": True}.get(result)


def balance_call(asset: str, owner: str) -> dict[str, object]:
    """Return the JSON-RPC body that asks the asset's contract for the owner's balance."""
    data = "0x" + BALANCE_OF + owner[2:].lower().rjust(_WORD_DIGITS, "0")
    return {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [{"to": asset, "data": data}, "latest"]}


def chain_id_call() -> dict[str, object]:
    """Return the JSON-RPC body that asks a node for the number of its chain."""
    return {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}


def read_quantity(response: ProviderResponse) -> int | None:
    """Return the number in a node's answer; None for any other answer, such as the empty one of another chain."""
    try:
        result = header.read_object(response.body).get("result")
    except Unreadable:
        return None
    if response.status_code != 200 or not isinstance(result, str) or not _QUANTITY.fullmatch(result):
        return None
    return int(result, 16)
