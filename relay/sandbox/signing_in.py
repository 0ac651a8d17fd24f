"""The sign-in with a wallet (SIGN-IN-WITH-X) at a stand-in that shows a job only to the wallet that paid for it.

Stricter than the real ones in one thing: a nonce has to be one that was given out here.
Source: https://github.com/x402-foundation/x402/blob/main/specs/extensions/sign-in-with-x.md.
"""

import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.payment import decoded

HEADER: Final = "sign-in-with-x"
LIFE_S: Final = 300
WORDS: Final = {
    "siwx_missing_header": "Sign in with the wallet that paid",
    "siwx_malformed": "The sign-in cannot be read",
    "siwx_expired": "The sign-in is over",
    "siwx_nonce_used": "The nonce was used",
    "siwx_invalid_signature": "The signature is not that of the address",
}

Json = dict[str, Any]


class SignIns:
    """The challenges of one stand-in, each good for one sign-in within five minutes; `now_s` is its clock."""

    def __init__(self, now_s: Callable[[], int]) -> None:
        self._now_s = now_s
        self._open: dict[str, Json] = {}
        self._ends_at: dict[str, int] = {}

    def signed_in(self, request: Request) -> str | Response:
        """Return the address that signed in; else the 402 with a challenge and the code of what was wrong."""
        if HEADER not in request.headers:
            return self._challenge(request, "siwx_missing_header")
        said = decoded(request.headers[HEADER])
        if not isinstance(said, dict) or not all(isinstance(said.get(one), str) for one in ("nonce", "address")):
            return self._challenge(request, "siwx_malformed")
        if said["nonce"] not in self._ends_at:
            return self._challenge(request, "siwx_malformed")
        info = self._open.pop(said["nonce"], None)
        if info is None:
            return self._challenge(request, "siwx_nonce_used")
        if self._ends_at[said["nonce"]] <= self._now_s():
            return self._challenge(request, "siwx_expired")
        if info["uri"] != str(request.url) or any(said.get(name) != info[name] for name in info):
            return self._challenge(request, "siwx_malformed")
        if not _is_signed(_text(info, said["address"]), said.get("signature"), said["address"]):
            return self._challenge(request, "siwx_invalid_signature")
        return str(said["address"])

    def _challenge(self, request: Request, code: str) -> Response:
        """Return a 402 with nothing to pay."""
        now_s, nonce = self._now_s(), secrets.token_hex(16)
        self._ends_at[nonce] = now_s + LIFE_S
        info = self._open[nonce] = {
            "domain": request.url.hostname,
            "uri": str(request.url),
            "version": "1",
            "chainId": "eip155:8453",
            "type": "eip191",
            "nonce": nonce,
            "issuedAt": _time(now_s),
            "expirationTime": _time(now_s + LIFE_S),
            "statement": "Sign in to see your job",
            "resources": [str(request.url)],
        }
        body = {"x402Version": 2, "error": WORDS[code], "code": code, "accepts": []}
        return JSONResponse(body | {"extensions": {HEADER: {"info": info}}}, 402)


def _time(at_s: int) -> str:
    """RFC 3339, with the milliseconds that a server in JavaScript writes."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%S}.000Z"


def _text(info: Json, address: str) -> str:
    """Return the text to sign, in the form of https://eips.ethereum.org/EIPS/eip-4361 with the chain's number."""
    return f"""{info["domain"]} wants you to sign in with your Ethereum account:
{address}

{info["statement"]}

URI: {info["uri"]}
Version: {info["version"]}
Chain ID: {info["chainId"].removeprefix("eip155:")}
Nonce: {info["nonce"]}
Issued At: {info["issuedAt"]}
Expiration Time: {info["expirationTime"]}
Resources:
- {info["resources"][0]}"""


def _is_signed(text: str, signature: Any, address: str) -> bool:
    """Whether the address, written with the capitals of EIP-55, signed the text."""
    from eth_account import Account  # noqa: PLC0415 - it takes most of a second to load
    from eth_account.messages import encode_defunct  # noqa: PLC0415

    if not isinstance(signature, str) or not re.fullmatch(r"0x[0-9a-fA-F]{130}", signature):
        return False
    try:
        return str(Account.recover_message(encode_defunct(text=text), signature=signature)) == address
    except Exception:  # noqa: BLE001 - the library has no one error for points that are on no curve
        return False
