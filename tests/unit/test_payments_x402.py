"""The payments that are signed: held against the published example, the contract's own rules, and the wire's shapes."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from eth_account import Account
from eth_account.messages import SignableMessage, encode_defunct
from eth_keys.datatypes import Signature
from eth_utils.crypto import keccak
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import SettingsError
from relay.model.provider_http import ProviderResponse
from relay.payments import header
from relay.payments.challenge import Challenge, Offer
from relay.payments.policy import BASE_USDC, Policy
from relay.payments.x402 import Authorization, Settlement, Wallet, settlement, transfer_message
from tests.support.rows import rows

ROOT = Path(__file__).parents[2]
KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"  # account 1 of any development chain
ADDRESS = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
WALLET = Wallet(KEY)
PAYEE = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
POLICY = Policy(amount_max=1_000_000)
NOW_S = 1_795_226_400
RAW_V1 = {"scheme": "exact", "network": "base", "maxAmountRequired": "200000", "payTo": PAYEE, "asset": BASE_USDC}
RAW_V2 = {
    "scheme": "exact",
    "network": "eip155:8453",
    "amount": "200000",
    "payTo": PAYEE,
    "asset": BASE_USDC,
    "maxTimeoutSeconds": 120,
    "more": [1],
}
# The domain separator that the contract on Base answers for DOMAIN_SEPARATOR().
BASE_USDC_DOMAIN = "02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f"
# https://eips.ethereum.org/EIPS/eip-3009
TRANSFER_TYPE = "7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267"
JOBS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def offered(version: int) -> tuple[Offer, Challenge]:
    """Return an offer of USDC on Base and its challenge."""
    raw = RAW_V1 if version == 1 else RAW_V2
    offer = Offer(
        version=version,
        scheme="exact",
        network=str(raw["network"]),
        chain_id=8453,
        amount=200_000,
        asset=BASE_USDC,
        pay_to=PAYEE,
        max_timeout_s=120,
        raw=raw,
    )
    resource, extensions = {"url": "https://api.example.com/v"}, {"bazaar": {"info": 1}}
    return offer, Challenge(version=version, offers=(offer,), resource=resource, extensions=extensions)


def authorized(version: int = 2, job_id: str = "job_1", wallet: Wallet = WALLET) -> Authorization:
    """Return a payment for a job."""
    return wallet.authorize(*offered(version), POLICY, job_id, NOW_S)


def carried(authorization: Authorization) -> dict[str, Any]:
    """Return what the header carries."""
    said: dict[str, Any] = json.loads(base64.b64decode(authorization.header_value, validate=True))
    return said


def word(value: int | str) -> bytes:
    """Return a value in the 32 bytes of the chain."""
    return (value if isinstance(value, int) else int(value, 16)).to_bytes(32, "big")


def test_the_published_example_is_signed_by_its_payer() -> None:
    """The signature of x402's own example is one of exactly the message that is signed here."""
    # https://github.com/x402-foundation/x402/blob/main/specs/schemes/exact/scheme_exact_evm.md
    payer = "0x857b06519E91e3A54538791bDbb0E22373e36b66"
    authorization = {
        "from": payer,
        "to": PAYEE,
        "value": "10000",
        "validAfter": "1740672089",
        "validBefore": "1740672154",
        "nonce": "0xf3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480",
    }
    signature = (
        "0x2d6a7588d6acca505cbf0d9a4a227e0c52c6c34008c8e8986a1283259764173608a2ce6496642e377d6da8dbbf5836e9bd15092f9ecab05"
        "ded3d6293af148b571c"
    )
    sepolia = Policy(
        amount_max=10_000,
        chain_id=84532,
        asset="0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        asset_name="USDC",
        asset_version="2",
    )
    assert Account.recover_message(transfer_message(authorization, sepolia), signature=signature) == payer


@rows("version", [1, 2])
def test_the_contract_would_find_the_payer(version: int) -> None:
    """The digest that the contract makes, built here byte by byte, is recovered to the wallet's address."""
    signed = authorized(version)
    payload = carried(signed)["payload"]
    said = payload["authorization"]
    numbers = [int(said[name]) for name in ("value", "validAfter", "validBefore")]
    words = [word(TRANSFER_TYPE), word(said["from"]), word(said["to"]), *map(word, numbers), word(said["nonce"])]
    digest = keccak(b"\x19\x01" + bytes.fromhex(BASE_USDC_DOMAIN) + keccak(b"".join(words)))
    raw = bytes.fromhex(payload["signature"][2:])
    assert raw[64] in (27, 28)  # as the contract's ecrecover wants it
    signature = Signature(raw[:64] + bytes([raw[64] - 27]))
    assert signature.recover_public_key_from_msg_hash(digest).to_checksum_address() == ADDRESS == signed.payer


def test_version_1_on_the_wire() -> None:
    """X-PAYMENT has version 1's shape, the network as it was given, and every number as text."""
    signed = authorized(1)
    said = carried(signed)
    assert signed.header_name == "X-PAYMENT"
    assert (list(said), list(said["payload"])) == (
        ["x402Version", "scheme", "network", "payload"],
        ["signature", "authorization"],
    )
    assert (said["x402Version"], said["scheme"], said["network"]) == (1, "exact", "base")
    assert said["payload"]["authorization"] == {
        "from": ADDRESS,
        "to": PAYEE,
        "value": "200000",
        "validAfter": str(NOW_S - 600),
        "validBefore": str(NOW_S + 120),
        "nonce": WALLET.nonce("job_1"),
    }


def test_version_2_on_the_wire() -> None:
    """PAYMENT-SIGNATURE repeats the accepted entry, the resource and the extensions as the provider said them."""
    signed = authorized(2)
    said = carried(signed)
    _, challenge = offered(2)
    assert signed.header_name == "PAYMENT-SIGNATURE"
    assert (said["x402Version"], said["accepted"]) == (2, RAW_V2)
    assert (said["resource"], said["extensions"]) == (challenge.resource, challenge.extensions)
    assert set(said["payload"]) == {"signature", "authorization"}
    bare = msgspec.structs.replace(challenge, resource=None, extensions=None)
    assert set(carried(WALLET.authorize(bare.offers[0], bare, POLICY, "job_1", NOW_S))) == {
        "x402Version",
        "payload",
        "accepted",
    }


def test_what_is_recorded_is_what_is_signed() -> None:
    """The fields for the database are those in the header, in the policy's own asset and chain."""
    signed = authorized()
    said = carried(signed)["payload"]["authorization"]
    assert (signed.nonce, signed.pay_to, str(signed.amount)) == (said["nonce"], said["to"], said["value"])
    assert (str(signed.valid_after), str(signed.valid_before)) == (said["validAfter"], said["validBefore"])
    assert (signed.asset, signed.chain_id) == (BASE_USDC, 8453)


@rows("version", [1, 2])
def test_the_same_job_is_signed_the_same(version: int) -> None:
    """A second call with the same arguments, by a wallet made anew, gives the identical header."""
    assert authorized(version) == authorized(version, wallet=Wallet(KEY[2:].upper()))


@given(first=JOBS, second=JOBS)
def test_a_job_has_one_nonce(first: str, second: str) -> None:
    """A job's nonce is the same for ever, whatever is paid; another job's and another wallet's are different."""
    assert WALLET.nonce(first) == Wallet(KEY).nonce(first)
    assert (WALLET.nonce(first) == WALLET.nonce(second)) == (first == second)
    assert WALLET.nonce(first) != Wallet("0x" + "4" * 64).nonce(first)
    assert len(bytes.fromhex(WALLET.nonce(first).removeprefix("0x"))) == 32


def test_the_nonce_of_a_release_stays() -> None:
    """A later release gives an earlier release's job the nonce that may have been paid."""
    assert WALLET.nonce("job_1") == "0x82961bdfb312c25798546f88dc2973a96426a1771f09fa25396c5e8e996c798f"


def test_texts_are_signed_as_texts() -> None:
    """A text's signature is its own under EIP-191, whose prefix no transfer has."""
    signature = WALLET.sign_text("Sign in")
    message: SignableMessage = encode_defunct(text="Sign in")
    assert message.version == b"E"
    assert Account.recover_message(message, signature=signature) == ADDRESS == WALLET.address


def test_nothing_that_is_shown_holds_the_key() -> None:
    """Neither the wallet's texts nor those of an authorization hold the key; a signed header is not shown either."""
    signed = authorized()
    shown = f"{WALLET!r} {WALLET} {[WALLET]} {signed!r} {signed}"
    assert ADDRESS in shown
    assert KEY[2:] not in shown.lower()
    assert signed.header_value not in shown


@rows("key", [KEY + "00", KEY[:-1], "0x" + "f" * 64, "0x" + "0" * 64, KEY[:-1] + "g", "secret", ""])
def test_a_bad_key_is_not_repeated(key: str) -> None:
    """What is no private key is a SettingsError that names the setting, and neither the key nor its cause."""
    with pytest.raises(SettingsError, match="RELAY_WALLET_KEY") as caught:
        Wallet(key)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert not key or key not in str(caught.value)


def settled(name: str, said: object) -> ProviderResponse:
    """Return an answer with a settlement in a header."""
    value = base64.b64encode(json.dumps(said).encode()).decode()
    return ProviderResponse(status_code=200, content_type="", body=b"{}", headers={name: value})


@rows("name", ["payment-response", "x-payment-response"])
def test_settlements_are_read(name: str) -> None:
    """A success and a failure of either version, as they are published."""
    said = {"success": True, "transaction": "0x89", "network": "eip155:84532", "payer": "0x857b"}
    assert settlement(settled(name, said)) == Settlement(success=True, transaction="0x89", payer="0x857b")
    failed = {"success": False, "errorReason": "insufficient_funds", "transaction": "", "payer": "0x857b"}
    assert settlement(settled(name, failed)) == Settlement(
        success=False, payer="0x857b", error_reason="insufficient_funds"
    )


@rows("said", [None, [], {}, {"success": "yes"}, {"success": 1}, "true"])
def test_a_settlement_that_says_neither_is_none(said: object) -> None:
    """What says neither yes nor no says nothing."""
    assert settlement(settled("payment-response", said)) is None


@given(st.text())
def test_any_settlement_header_is_read_or_none(value: str) -> None:
    """Whatever stands in the header, nothing is raised."""
    answer = ProviderResponse(status_code=200, content_type="", body=b"", headers={"payment-response": value})
    assert settlement(answer) is None or header.decode(value)


def test_long_texts_of_a_settlement_are_cut() -> None:
    """No provider's text fills a row."""
    said = {"success": True, "transaction": "0x" + "1" * 5000}
    made = settlement(settled("payment-response", said))
    assert made is not None
    assert made.transaction is not None
    assert len(made.transaction) == 200


def test_everything_imports_without_the_extra() -> None:
    """Without eth-account every module imports, nothing of it is loaded, and a wallet says what to install."""
    program = """
import importlib, pkgutil, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("eth_"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import relay.payments
for module in pkgutil.iter_modules(relay.payments.__path__):
    importlib.import_module(f"relay.payments.{module.name}")
from relay.errors import SettingsError
from relay.payments.x402 import Wallet
try:
    Wallet("0x" + "4" * 64)
except SettingsError as error:
    sys.exit(0 if "requirements-x402.txt" in str(error) and "4" * 64 not in str(error) else 2)
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_is_cheap() -> None:
    """With eth-account installed, it is loaded by the first wallet and not before."""
    program = "import sys, relay.payments.x402, relay.payments.siwx; sys.exit('eth_account' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
