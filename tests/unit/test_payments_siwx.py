"""Signing in with the wallet that paid: the text, the header, and what is never signed."""

import base64
import json
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from relay.clock import parse_rfc3339, rfc3339
from relay.errors import Unreadable
from relay.model.provider_http import ProviderResponse
from relay.payments.siwx import HEADER_NAME, sign_in, sign_in_header
from relay.payments.x402 import Wallet
from tests.support.rows import rows

KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"  # account 1 of any development chain
WALLET = Wallet(KEY)
URI = "https://api.example.com/premium-data"
NOW_MS = parse_rfc3339("2024-01-15T10:31:00.000Z")
# https://github.com/x402-foundation/x402/blob/main/specs/extensions/sign-in-with-x.md
INFO: dict[str, Any] = {
    "domain": "api.example.com",
    "uri": URI,
    "version": "1",
    "chainId": "eip155:8453",
    "type": "eip191",
    "nonce": "a1b2c3d4e5f67890a1b2c3d4e5f67890",
    "issuedAt": "2024-01-15T10:30:00.000Z",
    "expirationTime": "2024-01-15T10:35:00.000Z",
    "statement": "Sign in to access premium data",
    "resources": [URI],
}
TEXT = f"""api.example.com wants you to sign in with your Ethereum account:
{WALLET.address}

Sign in to access premium data

URI: https://api.example.com/premium-data
Version: 1
Chain ID: 8453
Nonce: a1b2c3d4e5f67890a1b2c3d4e5f67890
Issued At: 2024-01-15T10:30:00.000Z
Expiration Time: 2024-01-15T10:35:00.000Z
Resources:
- https://api.example.com/premium-data"""


def carried(value: str) -> dict[str, Any]:
    """Return what the header carries."""
    said: dict[str, Any] = json.loads(base64.b64decode(value, validate=True))
    return said


def signed(info: dict[str, Any], uri: str = URI) -> dict[str, Any]:
    """Return what the wallet says to the challenge."""
    return carried(sign_in_header(info, WALLET, uri, NOW_MS))


def without(*names: str) -> dict[str, Any]:
    """Return the challenge without some of its fields."""
    return {name: value for name, value in INFO.items() if name not in names}


def signer(said: dict[str, Any], text: str) -> str:
    """Who signed the text."""
    return str(Account.recover_message(encode_defunct(text=text), signature=said["signature"]))


def test_the_published_text_is_signed() -> None:
    """The text is that of the specification, with a bare chain number; the JSON has CAIP-2 and echoes every field."""
    said = signed(INFO)
    assert signer(said, TEXT) == said["address"] == WALLET.address
    assert {name: said[name] for name in INFO} == INFO
    assert set(said) - set(INFO) == {"address", "signatureScheme", "signature"}
    assert said["signatureScheme"] == "eip191"


@rows(
    ("missing", "line"),
    [
        ("resources", "\nResources:\n- https://api.example.com/premium-data"),
        ("expirationTime", "\nExpiration Time: 2024-01-15T10:35:00.000Z"),
        ("statement", "Sign in to access premium data\n"),
    ],
)
def test_only_what_was_sent_is_in_the_text(missing: str, line: str) -> None:
    """A field that the server left out, sent as null, or sent empty has no line, and is not made up."""
    empty = [] if missing == "resources" else ""
    for info in (without(missing), INFO | {missing: None}, INFO | {missing: empty}):
        said = signed(info)
        assert signer(said, TEXT.replace(line, "")) == WALLET.address
        assert not said.get(missing)


def test_more_fields_are_in_their_places() -> None:
    """`notBefore` and `requestId` have their lines; fields that nobody published are echoed and not signed."""
    said = signed(INFO | {"notBefore": "2024-01-15T10:30:00Z", "requestId": "r-1", "tenant": {"a": 1}})
    lines = "\nNot Before: 2024-01-15T10:30:00Z\nRequest ID: r-1\nResources:"
    assert signer(said, TEXT.replace("\nResources:", lines)) == WALLET.address
    assert said["tenant"] == {"a": 1}


def test_what_a_server_must_not_leave_out_is_filled_in() -> None:
    """URI, version, chain and time of issue are the obvious ones; the address cannot be the server's."""
    said = signed(without("uri", "version", "chainId", "issuedAt", "type") | {"address": "0x1", "signature": "0x2"})
    assert (said["uri"], said["version"], said["chainId"], said["type"]) == (URI, "1", "eip155:8453", "eip191")
    assert (said["issuedAt"], said["address"]) == (rfc3339(NOW_MS), WALLET.address)
    issued = TEXT.replace("Issued At: 2024-01-15T10:30:00.000Z", f"Issued At: {rfc3339(NOW_MS)}")
    assert signer(said, issued) == WALLET.address


@rows("domain", ["api.example.com", "api.example.com:8443"])
def test_the_port_may_be_named_or_not(domain: str) -> None:
    """Servers name themselves with their port or without."""
    uri = "https://api.example.com:8443/jobs/1"
    assert signed(INFO | {"domain": domain, "uri": uri}, uri)["domain"] == domain


@rows(
    "changes",
    [
        {"domain": "bank.example"},
        {"domain": "evil.api.example.com"},
        {"domain": "api.example.com:444"},
        {"domain": None},
        {"uri": "https://bank.example/premium-data"},
        {"uri": "https://api.example.com@bank.example/"},
        {"uri": "https://[bad"},
        {"uri": "https://bank.example\\@api.example.com/"},
        {"uri": "https://api.example.com\\.bank.example/"},
        {"uri": "https://bank.example#@api.example.com/"},
        {"uri": "https://user@api.example.com/"},
        {"uri": "https:///api.example.com/"},
        {"uri": "https:\\\\api.example.com/"},
        {"uri": "https://api.example.com%2f@bank.example/"},
        {"uri": "https://api.example.com\u3002bank.example/"},
        {"uri": "//api.example.com/"},
        {"uri": "javascript://api.example.com/%0aalert(1)"},
        {"uri": "https://api.example.com /"},
        {"uri": "https://api.example.com/%zz"},
        {"expirationTime": rfc3339(NOW_MS)},
        {"expirationTime": "2024-01-15T10:35:00"},
        {"expirationTime": "soon"},
        {"expirationTime": 1_700_000_000},
        {"chainId": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"},
        {"chainId": "8453"},
        {"chainId": 8453},
        {"version": "2"},
        {"version": 1},
        {"nonce": None},
        {"nonce": "short"},
        {"nonce": "a1b2c3d4\nURI: https://bank.example"},
        {"statement": "yes\n\nURI: https://bank.example/"},
        {"statement": "x" * 2001},
        {"statement": ["x"]},
        {"resources": "https://api.example.com"},
        {"resources": [URI, 7]},
        {"resources": [URI + "\n- https://bank.example"]},
        {"resources": [URI] * 21},
        {"requestId": "1\u2028"},
    ],
)
def test_other_challenges_are_not_signed(changes: dict[str, Any]) -> None:
    """Another host's challenge, one that is over, and one that would write lines of its own are refused."""
    with pytest.raises(Unreadable):
        signed(INFO | changes)


@given(st.dictionaries(st.sampled_from(list(INFO)), st.none() | st.integers() | st.text() | st.lists(st.text())))
def test_any_challenge_is_signed_or_refused(changes: dict[str, Any]) -> None:
    """Whatever stands in the fields: the host is ours or nothing is signed, and nothing but Unreadable is raised."""
    try:
        said = signed(INFO | changes)
    except Unreadable:
        return
    assert said["domain"] == "api.example.com"


def test_a_402_is_answered_with_a_header() -> None:
    """The challenge is found in the answer; a 402 that wants no sign-in, or a bad one, gets no headers."""
    said = {"x402Version": 2, "accepts": [], "extensions": {"sign-in-with-x": {"info": INFO}}}
    headers = sign_in(answer(said), URI, WALLET, NOW_MS)
    assert list(headers) == [HEADER_NAME]
    assert signer(carried(headers[HEADER_NAME]), TEXT) == WALLET.address
    for other in ({}, said | {"extensions": {}}, said | {"extensions": {"sign-in-with-x": {"info": {}}}}):
        assert sign_in(answer(other), URI, WALLET, NOW_MS) == {}


def answer(said: object) -> ProviderResponse:
    """Return a 402 with a body."""
    return ProviderResponse(status_code=402, content_type="application/json", body=json.dumps(said).encode())
