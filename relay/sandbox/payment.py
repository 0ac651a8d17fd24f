"""What the paid stand-ins ask for a job, how they look at what they are paid with, and the ledger of what has moved.

A payment is verified as a facilitator would: the signature against the token's own domain, the terms, the times. No
chain is behind it, so the ledger is what says that money has moved, once for each nonce.
Sources: https://github.com/x402-foundation/x402/tree/main/specs, https://eips.ethereum.org/EIPS/eip-3009.
"""

import base64
import binascii
import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from relay.sandbox.faults import Faults
from relay.sandbox.serving import hang_up

PAY_TO: Final = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
WRONG_PAY_TO: Final = "0x000000000000000000000000000000000000dEaD"
TIMEOUT_S: Final = 300
MARGIN_S: Final = 6
"""An authorization that is over so soon could not be settled in time."""
WRONG_FACTOR: Final = 1000
USED: Final = "nonce_already_used"
HEADERS: Final = {1: ("x-payment", "x-payment-response"), 2: ("payment-signature", "payment-response")}
_NETWORKS: Final = {(1, 8453): "base", (1, 84532): "base-sepolia", (2, 8453): "eip155:8453", (2, 84532): "eip155:84532"}
_USDC: Final = {
    8453: ("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin", "2"),
    84532: ("0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC", "2"),
}
"""Of each chain: the token's address, and the name and version of its domain."""
_ADDRESSES: Final = ("from", "to")
_NUMBERS: Final = ("value", "validAfter", "validBefore")
_TRANSFER: Final = {
    "TransferWithAuthorization": [
        *({"name": name, "type": "address"} for name in _ADDRESSES),
        *({"name": name, "type": "uint256"} for name in _NUMBERS),
        {"name": "nonce", "type": "bytes32"},
    ]
}

Json = dict[str, Any]


class Terms(msgspec.Struct, frozen=True):
    """What is asked for one job; `said_name` is what the challenge calls the token."""

    amount: int
    pay_to: str
    chain_id: int
    said_name: str


class Till:
    """The payments of one stand-in, in version 1 or 2 of x402; `now_s` is its clock.

    `ledger` has what was moved, in millionths of a USDC, by nonce; `asked` counts challenges. With `keeps_refused` a
    payment is settled for a request that is then refused with a 4xx.
    """

    def __init__(self, version: int, now_s: Callable[[], int], *, keeps_refused: bool = False) -> None:
        self.version = version
        self.now_s = now_s
        self.ledger: dict[str, int] = {}
        self.asked = 0
        self._keeps_refused = keeps_refused
        self._sendings: Counter[str] = Counter()

    def nonce(self, request: Request) -> str | None:
        """Return the nonce of the payment that came along; None for a request without a payment that can be read."""
        nonce = _at(self._payment(request), "payload", "authorization", "nonce")
        return nonce.lower() if isinstance(nonce, str) else None

    async def sell(
        self, request: Request, price: int, faults: Faults, make: Callable[[str], Awaitable[Response]]
    ) -> Response:
        """Return the challenge, or for a good payment what `make` answers to the payer's address.

        As at the real ones the job is made first, and then the payment is settled.
        """
        terms = _terms(price, faults.pay)
        if HEADERS[self.version][0] not in request.headers:
            return self._challenge(request, terms)
        payment = self._payment(request)
        if not isinstance(payment, dict):
            return JSONResponse({"x402Version": self.version, "error": "Invalid or malformed payment header"}, 400)
        error = self._wrong(payment, request, terms)
        if error is not None:
            return self._challenge(request, terms, error)
        authorization = payment["payload"]["authorization"]
        payer, nonce = authorization["from"], authorization["nonce"].lower()
        self._sendings[nonce] += 1
        fault = faults.pay if not 0 < faults.pay_times < self._sendings[nonce] else "ok"
        if fault == "facilitator_down":
            return JSONResponse({"error": "unexpected_verify_error"}, 502)
        if fault == "refused":
            return self._challenge(request, terms, "insufficient_funds")
        answer = await make(payer)
        if answer.status_code >= (500 if self._keeps_refused else 400):
            return answer
        if nonce in self.ledger:
            return self._challenge(request, terms, USED)
        self.ledger[nonce] = terms.amount
        return await self._after_settling(request, terms, answer, (payer, nonce), fault)

    async def _after_settling(
        self, request: Request, terms: Terms, answer: Response, paid: tuple[str, str], fault: str
    ) -> Response:
        """Return the answer with its receipt, or what comes in its place though the money has moved."""
        match fault:
            case "settle_then_fail":
                return JSONResponse({"error": "Internal server error"}, 500)
            case "drop_after_settle":
                await hang_up(request)
            case "again_402":
                return self._challenge(request, terms)
            case _:
                pass
        payer, nonce = paid
        receipt = {
            "success": True,
            "transaction": "0x" + hashlib.sha256(nonce.encode()).hexdigest(),
            "network": _NETWORKS[self.version, terms.chain_id],
            "payer": payer,
        }
        answer.headers[HEADERS[self.version][1]] = encoded(receipt)
        return answer

    def _payment(self, request: Request) -> Any:
        """Return what the payment header holds; None for no header, and for one that is no JSON in base64."""
        return decoded(request.headers.get(HEADERS[self.version][0], ""))

    def _challenge(self, request: Request, terms: Terms, error: str | None = None) -> Response:
        """Return the 402: of version 1 in the body, of version 2 in a header with an empty object beside it."""
        self.asked += 1
        entry = self._entry(request, terms)
        if self.version == 1:
            words = error or "X-PAYMENT header is required"
            return JSONResponse({"x402Version": 1, "error": words, "accepts": [entry]}, 402)
        resource = {"url": str(request.url), "description": "Image to video", "mimeType": "application/json"}
        said = {"x402Version": 2, "error": error or "PAYMENT-SIGNATURE header is required", "resource": resource}
        answer = JSONResponse({}, 402, {"payment-required": encoded(said | {"accepts": [entry]})})
        if error is not None:
            network = _NETWORKS[2, terms.chain_id]
            failed = {"success": False, "errorReason": error, "transaction": "", "network": network, "payer": ""}
            answer.headers["payment-response"] = encoded(failed)
        return answer

    def _entry(self, request: Request, terms: Terms) -> Json:
        """Return what is accepted."""
        asset, _, version = _USDC[terms.chain_id]
        shared = {
            "scheme": "exact",
            "network": _NETWORKS[self.version, terms.chain_id],
            "asset": asset,
            "payTo": terms.pay_to,
            "maxTimeoutSeconds": TIMEOUT_S,
            "extra": {"name": terms.said_name, "version": version},
        }
        if self.version == 2:
            return shared | {"amount": str(terms.amount)}
        about = {"resource": str(request.url), "description": "Image to video", "mimeType": "application/json"}
        return shared | about | {"maxAmountRequired": str(terms.amount), "outputSchema": None}

    def _wrong(self, payment: Json, request: Request, terms: Terms) -> str | None:
        """Return the published code of what is wrong with a payment; None when nothing is."""
        if payment.get("x402Version") != self.version:
            return "invalid_x402_version"
        entry = self._entry(request, terms)
        accepted = payment if self.version == 1 else payment.get("accepted")
        if _at(accepted, "scheme") != "exact":
            return "invalid_scheme"
        if _at(accepted, "network") != entry["network"]:
            return "invalid_network"
        if self.version == 2 and accepted != entry:
            return "invalid_payment_requirements"
        authorization = _at(payment, "payload", "authorization")
        if not _is_authorization(authorization):
            return "invalid_payload"
        if authorization["to"].lower() != terms.pay_to.lower():
            return "invalid_exact_evm_payload_recipient_mismatch"
        if int(authorization["value"]) != terms.amount:
            return "invalid_exact_evm_payload_authorization_value_mismatch"
        if int(authorization["validBefore"]) < self.now_s() + MARGIN_S:
            return "invalid_exact_evm_payload_authorization_valid_before"
        if int(authorization["validAfter"]) > self.now_s():
            return "invalid_exact_evm_payload_authorization_valid_after"
        if not _is_signed(authorization, _at(payment, "payload", "signature"), terms.chain_id):
            return "invalid_exact_evm_payload_signature"
        # Version 1 looks at the signature alone: whether the nonce is free shows only when the payment is settled.
        return USED if self.version == 2 and authorization["nonce"].lower() in self.ledger else None


def encoded(value: Json) -> str:
    """JSON in base64, as it stands in a header."""
    return base64.b64encode(msgspec.json.encode(value)).decode()


def decoded(text: str) -> Any:
    """Return the JSON in a header; None for anything else."""
    try:
        return msgspec.json.decode(base64.b64decode(text, validate=True))
    except (binascii.Error, msgspec.DecodeError, ValueError):
        return None


def _terms(price: int, fault: str) -> Terms:
    """Return what is asked, rightly or wrongly."""
    chain_id = 84532 if fault == "wrong_chain" else 8453
    return Terms(
        amount=price * WRONG_FACTOR if fault == "wrong_amount" else price,
        pay_to=WRONG_PAY_TO if fault == "wrong_payee" else PAY_TO,
        chain_id=chain_id,
        said_name="USDC on Base" if fault == "wrong_domain" else _USDC[chain_id][1],
    )


def _at(value: Any, *keys: str) -> Any:
    """Return what stands under these keys, None where nothing does."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _is_authorization(value: Any) -> bool:
    """Whether it has every field of a transfer, in its form: numbers are decimal text."""
    forms = dict.fromkeys(_ADDRESSES, r"0x[0-9a-fA-F]{40}") | dict.fromkeys(_NUMBERS, r"[0-9]{1,77}")
    forms["nonce"] = r"0x[0-9a-fA-F]{64}"
    found = {name: _at(value, name) for name in forms}
    return all(isinstance(found[name], str) and re.fullmatch(form, found[name]) for name, form in forms.items())


def _is_signed(authorization: Json, signature: Any, chain_id: int) -> bool:
    """Whether the payer signed the transfer, in the token's own domain whatever the challenge called it."""
    from eth_account import Account  # noqa: PLC0415 - it takes most of a second to load
    from eth_account.messages import encode_typed_data  # noqa: PLC0415

    if not isinstance(signature, str) or not re.fullmatch(r"0x[0-9a-fA-F]{130}", signature):
        return False
    asset, name, version = _USDC[chain_id]
    domain = {"name": name, "version": version, "chainId": chain_id, "verifyingContract": asset}
    signed = {name: authorization[name] for name in (*_ADDRESSES, "nonce")}
    signed |= {name: int(authorization[name]) for name in _NUMBERS}
    try:
        signer = Account.recover_message(encode_typed_data(domain, _TRANSFER, signed), signature=signature)
    except Exception:  # noqa: BLE001 - the library has no one error for points that are on no curve
        return False
    return str(signer).lower() == str(authorization["from"]).lower()
