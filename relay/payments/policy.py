"""Decides which offers relay may pay, before anything is signed. Spending limits are in `storage/payments.py`."""

import re
from typing import Final

import msgspec

from relay.errors import PaymentRefused
from relay.payments.challenge import Challenge, Offer

BASE: Final = 8453
BASE_USDC: Final = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
VALIDITY_MIN_S, VALIDITY_DEFAULT_S, VALIDITY_MAX_S = 30, 300, 600
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_ZERO_ADDRESS: Final = "0x" + "0" * 40


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The rules for one provider; `amount_max` is in atomic units of the asset (USDC has six decimals).

    Without addresses in `pay_to` any payee is allowed: the signature names the payee of the job's priced offer, and a
    job has one nonce, so it cannot be paid to another payee later. The asset's address, name and version are the domain
    of the signature (https://eips.ethereum.org/EIPS/eip-712); what a provider sends for them is never used.
    """

    amount_max: int
    pay_to: frozenset[str] = frozenset()
    chain_id: int = BASE
    asset: str = BASE_USDC
    asset_name: str = "USD Coin"
    asset_version: str = "2"
    validity_max_s: int = VALIDITY_MAX_S

    def validity_s(self, offer: Offer) -> int:
        """Return the seconds that an authorization for the offer is valid: as the offer requests, within limits."""
        return min(self.validity_max_s, max(VALIDITY_MIN_S, offer.max_timeout_s or VALIDITY_DEFAULT_S))


def choose(challenge: Challenge, policy: Policy) -> Offer:
    """Return the cheapest offer that the policy allows; raise PaymentRefused, with the reasons, if there is none."""
    if not challenge.offers:
        raise PaymentRefused("the provider names no price: it asks for a sign-in, not for a payment")
    refusals = [refusal(offer, policy) for offer in challenge.offers]
    allowed = [offer for offer, refused in zip(challenge.offers, refusals, strict=True) if refused is None]
    if not allowed:
        reasons = dict.fromkeys(reason for reason in refusals if reason)
        raise PaymentRefused("relay pays none of the provider's offers: " + "; ".join(list(reasons)[:5]))
    return min(allowed, key=lambda offer: offer.amount)


def refusal(offer: Offer, policy: Policy) -> str | None:
    """Return why the policy refuses the offer; None if it allows it."""
    payee, asset = offer.pay_to.lower(), policy.asset.lower()
    if offer.scheme != "exact":
        return f"the scheme is {offer.scheme!r}, not exact"
    if offer.chain_id != policy.chain_id:
        return f"the network is {offer.network!r}, not chain {policy.chain_id}"
    if offer.asset.lower() != asset:
        return f"the asset is {offer.asset!r}, not {policy.asset}"
    if not _ADDRESS.fullmatch(offer.pay_to) or payee in (_ZERO_ADDRESS, asset):
        return f"the payee {offer.pay_to!r} is not an address that can be paid"
    if policy.pay_to and payee not in {address.lower() for address in policy.pay_to}:
        return f"the payee {offer.pay_to} is not one of those allowed"
    if offer.amount <= 0:
        return "the price is 0"
    if offer.amount > policy.amount_max:
        return f"the price of {offer.amount} atomic units is over the {policy.amount_max} allowed for a job"
    return _contradiction(offer, policy)


def _contradiction(offer: Offer, policy: Policy) -> str | None:
    """Return what in the offer's `extra` contradicts a plain transfer of the policy's asset; None if nothing does."""
    extra = offer.raw.get("extra")
    if extra is None:
        return None
    if not isinstance(extra, dict):
        return "its `extra` is not an object"
    expected = {
        "assetTransferMethod": "eip3009",
        "name": policy.asset_name,
        "version": policy.asset_version,
    }
    for name, value in expected.items():
        if extra.get(name) not in (None, value):
            return f"its `extra.{name}` is {str(extra[name])[:40]!r}, not {value!r}"
    return None
