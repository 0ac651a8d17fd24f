"""What an answer proves about a payment, and what the chain does."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.provider_http import ProviderResponse
from relay.payments.outcome import (
    Outcome,
    authorization_state_call,
    classify,
    may_resend,
    read_authorization_state,
)
from tests.support.rows import rows

USED = "invalid_exact_evm_nonce_already_used"
REVERTED = 'reverted with the following reason:\nFiatTokenV2: authorization is used or canceled\n\nContract Call:"'
ASSET, PAYER = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
NONCE = "0x" + "aB" * 32


def answer(status_code: int, body: object = None, **headers: object) -> ProviderResponse:
    """Return an answer with a JSON body and headers of base64."""
    encoded = {
        name.replace("_", "-"): base64.b64encode(json.dumps(said).encode()).decode() for name, said in headers.items()
    }
    raw = b"" if body is None else json.dumps(body).encode()
    return ProviderResponse(status_code=status_code, content_type="application/json", body=raw, headers=encoded)


@given(status_code=st.integers(200, 299), body=st.none() | st.dictionaries(st.text(), st.text()))
def test_every_2xx_is_paid(status_code: int, body: object) -> None:
    """A success is one whatever else is said; a server settles before it lets one out."""
    assert classify(answer(status_code, body)) is Outcome.PAID
    assert classify(answer(status_code, {"error": USED})) is Outcome.PAID


@rows(
    "told",
    [
        answer(402, {"x402Version": 1, "error": USED, "accepts": []}),
        answer(402, {"error": f"Payment rejected ({USED}): the contract function reverted"}),
        answer(402, {"error": {"code": "nonce_already_used", "message": "no"}}),
        answer(400, {"invalidReason": "authorization_already_used"}),
        answer(500, {"message": REVERTED}),
        answer(402, {}, payment_required={"x402Version": 2, "error": USED, "accepts": []}),
        answer(402, {}, payment_response={"success": False, "errorReason": USED}),
        answer(402, None, x_payment_response={"success": False, "errorReason": "nonce_already_used"}),
    ],
)
def test_a_used_nonce_is_a_lost_result(told: ProviderResponse) -> None:
    """The nonce is one job's own, so a server that has seen it used took the money for this job."""
    assert classify(told) is Outcome.LOST


@rows(
    "told",
    [
        None,
        answer(402, {}),
        answer(402, {"error": "siwx_nonce_used"}),
        answer(402, {"error": "nonce too low: transaction nonce has already been used"}),
        answer(402, {"error": "insufficient_funds"}),
        answer(402, {}, payment_response={"success": False, "errorReason": "insufficient_funds"}),
        answer(422, {"error": "prompt rejected"}, payment_response={"success": True, "transaction": "0x1"}),
        answer(500, {"error": {"message": {"code": USED}}}),
        answer(503, None),
        answer(302, {}),
        answer(409, [USED]),
    ],
)
def test_everything_else_is_unknown(told: ProviderResponse | None) -> None:
    """No answer, a refusal and a failure can all come after the money has moved."""
    assert classify(told) is Outcome.UNKNOWN


@given(status_code=st.integers(300, 599), body=st.binary(max_size=100), value=st.text(max_size=100))
def test_any_answer_is_classified(status_code: int, body: bytes, value: str) -> None:
    """Whatever bytes come with a failure, they are unknown, and nothing is raised."""
    headers = {"payment-required": value, "payment-response": value}
    told = ProviderResponse(status_code=status_code, content_type="", body=body, headers=headers)
    assert classify(told) is Outcome.UNKNOWN


def test_only_version_2_is_sent_again() -> None:
    """A server of version 1 would render once more."""
    assert (may_resend(1), may_resend(2)) == (False, True)


def test_the_question_to_the_chain() -> None:
    """An eth_call of authorizationState(address,bytes32), its arguments in 32 bytes each."""
    body: dict[str, Any] = authorization_state_call(ASSET, PAYER, NONCE)
    call, block = body["params"]
    assert (body["jsonrpc"], body["method"], block, call["to"]) == ("2.0", "eth_call", "latest", ASSET)
    assert call["data"] == "0xe94a0102" + "0" * 24 + PAYER[2:].lower() + "ab" * 32


def test_the_selector_is_the_functions_own() -> None:
    """The selector is the first four bytes of the signature's hash."""
    crypto = pytest.importorskip("eth_utils.crypto")
    assert crypto.keccak(text="authorizationState(address,bytes32)")[:4].hex() == "e94a0102"


@rows(("asset", "payer", "nonce"), [("", PAYER, NONCE), (ASSET, PAYER + "\n", NONCE), (ASSET, PAYER, NONCE[:-1])])
def test_a_question_about_nothing_is_not_asked(asset: str, payer: str, nonce: str) -> None:
    """What is no address and no nonce would be answered with a no that proves nothing."""
    with pytest.raises(ValueError, match="two addresses and a nonce"):
        authorization_state_call(asset, payer, nonce)


@rows(
    ("told", "used"),
    [
        (answer(200, {"jsonrpc": "2.0", "id": 1, "result": "0x" + "0" * 63 + "1"}), True),
        (answer(200, {"jsonrpc": "2.0", "id": 1, "result": "0x" + "0" * 64}), False),
        (answer(200, {"jsonrpc": "2.0", "id": 1, "result": "0x"}), None),
        (answer(200, {"result": "0x0"}), None),
        (answer(200, {"result": "0x" + "0" * 63 + "2"}), None),
        (answer(200, {"result": False}), None),
        (answer(200, {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": "header not found"}}), None),
        (answer(500, {"result": "0x" + "0" * 64}), None),
        (answer(200, []), None),
        (answer(200), None),
    ],
)
def test_only_a_plain_answer_is_one(told: ProviderResponse, used: bool | None) -> None:
    """A yes or a no in 32 bytes; an error, no contract or anything else is neither."""
    assert read_authorization_state(told) is used
