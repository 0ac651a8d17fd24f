"""Builds the JSON-RPC call that asks a chain whether a nonce was used, and reads its response, without I/O.

https://eips.ethereum.org/EIPS/eip-3009
"""

import re
from typing import Final

from relay.errors import Unreadable
from relay.model.provider_http import ProviderResponse
from relay.payments import header

AUTHORIZATION_STATE: Final = "e94a0102"  # the selector of authorizationState(address,bytes32)
_WORD_DIGITS: Final = 64
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_NONCE: Final = re.compile(r"0x[0-9a-fA-F]{64}")


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
