"""What a 402 asks for: both versions of x402, in both places, and whatever else a provider may send."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.errors import Unreadable
from relay.model.provider_http import ProviderResponse
from relay.payments import header
from relay.payments.challenge import OFFERS_MAX, read_challenge
from tests.support.rows import rows

# The examples of https://github.com/x402-foundation/x402/tree/main/specs
V1: dict[str, Any] = {
    "x402Version": 1,
    "error": "Payment required to access this resource",
    "accepts": [
        {
            "scheme": "exact",
            "network": "base-sepolia",
            "maxAmountRequired": "10000",
            "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "resource": "https://api.example.com/premium-data",
            "description": "Access to premium market data",
            "mimeType": "application/json",
            "outputSchema": None,
            "maxTimeoutSeconds": 60,
            "extra": {"name": "USDC", "version": "2"},
        }
    ],
}
V2: dict[str, Any] = {
    "x402Version": 2,
    "error": "PAYMENT-SIGNATURE header is required",
    "resource": {
        "url": "https://api.example.com/premium-data",
        "description": "Access to premium market data",
        "mimeType": "application/json",
    },
    "accepts": [
        {
            "scheme": "exact",
            "network": "eip155:84532",
            "amount": "10000",
            "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            "maxTimeoutSeconds": 60,
            "extra": {"name": "USDC", "version": "2"},
        }
    ],
}
INFO = {"domain": "api.example.com", "nonce": "a1b2c3d4e5f67890", "statement": "Sign in"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def in_body(said: object) -> ProviderResponse:
    """Return a 402 that says it in its body."""
    return ProviderResponse(status_code=402, content_type="application/json", body=json.dumps(said).encode())


def in_header(said: object, body: bytes = b"{}") -> ProviderResponse:
    """Return a 402 that says it in its header."""
    value = base64.b64encode(json.dumps(said).encode()).decode()
    return ProviderResponse(status_code=402, content_type="", body=body, headers={"payment-required": value})


@rows("place", [in_body, in_header])
@rows("said", [V1, V2])
def test_published_challenges_are_read(said: dict[str, Any], place: Callable[[object], ProviderResponse]) -> None:
    """The published example of each version is read in either place, and its entry is kept untouched."""
    challenge = read_challenge(place(said))
    (offer,) = challenge.offers
    entry = said["accepts"][0]
    assert (challenge.version, offer.version) == (said["x402Version"], said["x402Version"])
    assert (offer.scheme, offer.network, offer.chain_id) == ("exact", entry["network"], 84532)
    assert (offer.amount, offer.asset, offer.pay_to) == (10000, entry["asset"], entry["payTo"])
    assert (offer.max_timeout_s, offer.raw) == (60, entry)
    assert (challenge.resource, challenge.sign_in) == (said.get("resource"), None)


@rows(
    ("network", "chain_id"),
    [
        ("base", 8453),
        ("eip155:8453", 8453),
        ("eip155:1", 1),
        ("eip155:08453", None),
        ("eip155:8453\n", None),
        ("eip155:\u0668", None),
        ("solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", None),
        ("Base", None),
    ],
)
def test_networks_have_one_number(network: str, chain_id: int | None) -> None:
    """A chain is known by its CAIP-2 number or its name of version 1, spelled exactly; any other is nobody's."""
    for said in (V1, V2):
        entry = said["accepts"][0] | {"network": network}
        assert read_challenge(in_body(said | {"accepts": [entry]})).offers[0].chain_id == chain_id


@rows("missing", ["extra", "maxTimeoutSeconds"])
def test_optional_fields_may_be_missing(missing: str) -> None:
    """An offer without `extra` or a timeout, or with null for it, is an offer."""
    entry = V2["accepts"][0]
    for changed in ({k: v for k, v in entry.items() if k != missing}, entry | {missing: None}):
        (offer,) = read_challenge(in_header(V2 | {"accepts": [changed]})).offers
        assert offer.max_timeout_s == (None if missing == "maxTimeoutSeconds" else 60)


@rows("timeout", ["60", 0, -1, True, 1.5, 2**40, [60]])
def test_a_timeout_without_sense_is_none(timeout: object) -> None:
    """A timeout that is no positive number of seconds counts as not given."""
    entry = V2["accepts"][0] | {"maxTimeoutSeconds": timeout}
    assert read_challenge(in_body(V2 | {"accepts": [entry]})).offers[0].max_timeout_s is None


@rows(
    "amount",
    ["", "-1", "+1", "1.0", "1e5", "0x10", " 1", "1\n", "1_000", "\u0661", "1" * 79, str(2**256), 10000, None, []],
)
def test_amounts_are_ascii_digits(amount: object) -> None:
    """An offer whose amount is anything but up to 256 bits in ASCII digits cannot be read, and so not be paid."""
    entry = V2["accepts"][0] | {"amount": amount}
    with pytest.raises(Unreadable, match="none of the offers"):
        read_challenge(in_body(V2 | {"accepts": [entry]}))


@rows("field", ["amount", "maxAmountRequired"])
def test_each_version_has_its_own_name_for_the_amount(field: str) -> None:
    """The other version's name is not read, so that no entry has two prices."""
    said = V1 if field == "amount" else V2
    entry = {k: v for k, v in said["accepts"][0].items() if k not in ("amount", "maxAmountRequired")}
    with pytest.raises(Unreadable):
        read_challenge(in_body(said | {"accepts": [entry | {field: "1"}]}))


def test_offers_of_other_shapes_are_left_out() -> None:
    """An entry that cannot be read hides none of the others."""
    challenge = read_challenge(in_body(V2 | {"accepts": [{"scheme": "stream"}, 7, V2["accepts"][0]]}))
    assert [offer.raw for offer in challenge.offers] == V2["accepts"]


def test_sign_in_is_a_challenge_without_offers() -> None:
    """`accepts: []` with the extension is read in either place, and offers nothing to pay."""
    extensions = {"sign-in-with-x": {"info": INFO, "schema": {}}}
    said = {"x402Version": 2, "accepts": [], "extensions": extensions}
    for answer in (in_body(said), in_header(said)):
        challenge = read_challenge(answer)
        assert (challenge.offers, challenge.sign_in, challenge.extensions) == ((), INFO, extensions)


def test_the_header_comes_before_the_body() -> None:
    """A provider that says both is taken by its header; one whose header is broken, by its body."""
    assert read_challenge(in_header(V2, json.dumps(V1).encode())).version == 2
    broken = in_header("nothing", json.dumps(V1).encode())
    assert read_challenge(broken).version == 1


@rows("alphabet", [base64.b64encode, base64.urlsafe_b64encode])
def test_headers_in_any_base64(alphabet: Callable[[bytes], bytes]) -> None:
    """Either alphabet, with or without padding, means the same."""
    for text in ("?>~ÿ", "?>~ÿ1", "?>~ÿ12"):
        value = alphabet(json.dumps({"a": text}, ensure_ascii=False).encode()).decode()
        assert header.decode(value) == header.decode(value.rstrip("=")) == {"a": text}


@given(st.dictionaries(st.text(), JSON))
def test_headers_come_back(value: dict[str, Any]) -> None:
    """What is put into a header is read from it, in characters that a header may hold."""
    encoded = header.encode(value)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert header.decode(encoded) == value


@rows(
    "said",
    [
        {},
        [],
        None,
        V2 | {"x402Version": 3},
        V2 | {"x402Version": True},
        V2 | {"x402Version": "2"},
        V2 | {"x402Version": 2.0},
        {"x402Version": 2},
        V2 | {"accepts": {}},
        V2 | {"accepts": V2["accepts"] * (OFFERS_MAX + 1)},
        V2 | {"error": "x" * header.BYTES_MAX},
    ],
)
def test_anything_else_is_unreadable(said: object) -> None:
    """What is no challenge of a known version, or beyond its limits, is Unreadable in either place."""
    for answer in (in_body(said), in_header(said)):
        with pytest.raises(Unreadable):
            read_challenge(answer)


def test_a_key_that_stands_twice_is_unreadable() -> None:
    """Two prices in one entry could be read as either."""
    twice = json.dumps(V2).replace('"amount"', '"amount": "1", "amount"').encode()
    with pytest.raises(Unreadable, match="twice"):
        read_challenge(ProviderResponse(status_code=402, content_type="", body=twice))


@given(said=JSON, entry=JSON, name=st.sampled_from(list(V2["accepts"][0])), place=st.sampled_from([in_body, in_header]))
def test_any_json_is_read_or_unreadable(
    said: object, entry: object, name: str, place: Callable[[object], ProviderResponse]
) -> None:
    """Whatever JSON stands for the challenge, its offers, its extensions or one field: nothing else is raised."""
    within = V2["accepts"][0] | {name: entry}
    extensions = {"sign-in-with-x": said}
    for whole in (said, V2 | {"accepts": said}, V2 | {"accepts": [within]}, V2 | {"extensions": extensions}):
        try:
            challenge = read_challenge(place(whole))
        except Unreadable:
            continue
        assert all(0 <= offer.amount < 2**256 for offer in challenge.offers)


@given(raw=st.binary(max_size=200), value=st.text(max_size=200))
@example(raw=b"[" * 60_000, value="A" * 3)
@example(raw=b'{"x402Version":' + b"9" * 5000 + b"}", value="=")
def test_any_bytes_are_read_or_unreadable(raw: bytes, value: str) -> None:
    """Whatever bytes stand in the body and characters in the header: Unreadable."""
    answer = ProviderResponse(status_code=402, content_type="", body=raw, headers={"payment-required": value})
    with pytest.raises(Unreadable):
        read_challenge(answer)
