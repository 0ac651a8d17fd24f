"""What relay pays at all: one offer of many, and nothing that is outside the rules by a single property."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import PaymentRefused
from relay.payments.challenge import Challenge, Offer
from relay.payments.policy import BASE_USDC, Policy, choose, refusal
from relay.payments.x402 import Wallet
from tests.support.rows import rows

PAYEE = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
POLICY = Policy(amount_max=1_000_000, pay_to=frozenset({PAYEE.lower()}))
GOOD = Offer(
    version=2,
    scheme="exact",
    network="eip155:8453",
    chain_id=8453,
    amount=200_000,
    asset=BASE_USDC,
    pay_to=PAYEE,
    max_timeout_s=300,
    raw={"extra": {"name": "USD Coin", "version": "2"}},
)
OF_A_TEST = "0x" + "4" * 64
WALLET = Wallet(OF_A_TEST)


def offer(**changes: Any) -> Offer:
    """Return the good offer, with something else about it."""
    return msgspec.structs.replace(GOOD, **changes)


def challenge(*offers: Offer) -> Challenge:
    """Return a challenge with these offers."""
    return Challenge(version=2, offers=offers)


WRONG: dict[str, st.SearchStrategy[Any]] = {
    "scheme": st.text(max_size=12).filter(lambda text: text != "exact"),
    "chain_id": st.none() | st.integers().filter(lambda number: number != 8453),
    "asset": st.text(max_size=42) | st.from_regex(r"\A0x[0-9a-f]{40}\Z"),
    "pay_to": st.text(max_size=42)
    | st.from_regex(r"\A0x[0-9a-fA-F]{40}\Z")
    | st.sampled_from(["0x" + "0" * 40, BASE_USDC, PAYEE[:-1], PAYEE + "0", PAYEE[2:], PAYEE + "\n", " " + PAYEE]),
    "amount": st.integers(max_value=0) | st.integers(min_value=1_000_001),
    "raw": st.sampled_from(
        [
            {"extra": {"assetTransferMethod": "permit2"}},
            {"extra": {"assetTransferMethod": "erc7710", "name": "USD Coin", "version": "2"}},
            {"extra": {"name": "USDC", "version": "2"}},
            {"extra": {"name": "USD Coin", "version": "1"}},
            {"extra": {"name": "USD Coin", "version": 2}},
            {"extra": {"name": ["USD Coin"]}},
            {"extra": ["eip3009"]},
            {"extra": "eip3009"},
        ]
    ),
}


@given(data=st.data(), name=st.sampled_from(list(WRONG)))
def test_one_wrong_property_is_enough(data: st.DataObject, name: str) -> None:
    """An offer outside the policy by any one property is refused, when it is chosen and again before it is signed."""
    wrong = offer(**{name: data.draw(WRONG[name])})
    with pytest.raises(PaymentRefused):
        choose(challenge(wrong), POLICY)
    with pytest.raises(PaymentRefused):
        WALLET.authorize(wrong, challenge(wrong), POLICY, "job_1", 1_800_000_000)
    assert choose(challenge(wrong, GOOD, wrong), POLICY) is GOOD


@given(amounts=st.lists(st.integers(-5, 2_000_000), min_size=1, max_size=8))
def test_the_cheapest_allowed_offer_is_chosen(amounts: list[int]) -> None:
    """Of those within the limit the cheapest wins; a price of nothing is none."""
    allowed = [amount for amount in amounts if 0 < amount <= 1_000_000]
    offered = challenge(*(offer(amount=amount) for amount in amounts))
    if allowed:
        assert choose(offered, POLICY).amount == min(allowed)
    else:
        with pytest.raises(PaymentRefused):
            choose(offered, POLICY)


def test_the_case_of_addresses_says_nothing() -> None:
    """Asset and payee are compared as addresses, whatever their capitals, also those of the list."""
    lower = offer(asset=BASE_USDC.lower(), pay_to=PAYEE.lower())
    for pay_to in ({PAYEE.lower()}, {PAYEE}):
        assert choose(challenge(lower), Policy(amount_max=1_000_000, pay_to=frozenset(pay_to))) is lower


@rows("extra", [None, {}, {"assetTransferMethod": "eip3009"}, {"name": None}, {"name": "USD Coin", "gas": 1}])
def test_an_extra_that_agrees_is_allowed(extra: object) -> None:
    """What `extra` leaves out is not held against the offer."""
    assert refusal(offer(raw={"extra": extra}), POLICY) is None
    assert refusal(offer(raw={}), POLICY) is None


def test_without_a_list_any_payee_is_taken() -> None:
    """An empty list allows every address that can be paid, and still not the zero address or the asset."""
    anybody = Policy(amount_max=1_000_000)
    assert refusal(offer(pay_to="0x" + "7" * 40), anybody) is None
    for payee in ("0x" + "0" * 40, BASE_USDC, "", "vitalik.eth"):
        assert refusal(offer(pay_to=payee), anybody) is not None


def test_a_sign_in_is_never_paid() -> None:
    """A challenge without offers is refused in words that say so."""
    with pytest.raises(PaymentRefused, match="sign-in"):
        choose(challenge(), POLICY)


def test_a_refusal_says_why() -> None:
    """The text names each reason once, and the code is the one that a program acts on."""
    dear, other_environment = offer(amount=1_000_001), offer(chain_id=1, network="eip155:1")
    with pytest.raises(PaymentRefused, match="'eip155:1', not chain 8453; the price of 1000001") as caught:
        choose(challenge(other_environment, dear, other_environment), POLICY)
    assert caught.value.code == "payment_refused"


@rows(("asked_s", "validity_s"), [(None, 300), (1, 30), (30, 30), (120, 120), (600, 600), (2**30, 600)])
def test_validity_is_bounded(asked_s: int | None, validity_s: int) -> None:
    """An authorization is good for what is asked, at least 30 s, at most the policy's limit, else 300 s."""
    assert POLICY.validity_s(offer(max_timeout_s=asked_s)) == validity_s
    assert Policy(amount_max=1, validity_max_s=20).validity_s(offer(max_timeout_s=asked_s)) == 20
