"""Reads a provider's 402 challenge: x402 version 1 or 2, in the header or the body. It decides nothing about paying.

https://github.com/x402-foundation/x402/tree/main/specs
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec

from relay.errors import Unreadable
from relay.model.provider_http import ProviderResponse
from relay.payments import header

HEADER: Final = "payment-required"
OFFERS_MAX: Final = 32
AMOUNT_END: Final = 2**256
SIGN_IN: Final = "sign-in-with-x"
# The names of version 1: https://github.com/x402-foundation/x402/blob/main/specs/x402-specification-v1.md
CHAIN_NAMES: Final = {
    "ethereum": 1,
    "polygon": 137,
    "base": 8453,
    "avalanche-fuji": 43113,
    "avalanche": 43114,
    "polygon-amoy": 80002,
    "base-sepolia": 84532,
}
_EIP155: Final = re.compile(r"eip155:([1-9][0-9]{0,17})")

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Amount = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,78}\Z")]


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One way to pay: `amount` in atomic units of the asset, `network` as given, `raw` the unchanged entry.

    `chain_id` is None for a network that is not an EVM chain, or whose name relay does not know.
    """

    version: int
    scheme: str
    network: str
    chain_id: int | None
    amount: int
    asset: str
    pay_to: str
    max_timeout_s: int | None
    raw: dict[str, Any]


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """A 402 challenge; without offers there is nothing to pay. `sign_in` is the sign-in challenge, if there is one."""

    version: int
    offers: tuple[Offer, ...]
    resource: Any = None
    extensions: Any = None
    sign_in: dict[str, Any] | None = None


class _EntryV1(msgspec.Struct, rename="camel"):
    """The fields of an offer of version 1 that relay reads."""

    scheme: _Name
    network: _Name
    asset: _Name
    pay_to: _Name
    max_amount_required: _Amount
    max_timeout_seconds: Any = None

    @property
    def amount(self) -> str:
        """Return the price, under its name in version 2."""
        return self.max_amount_required


class _EntryV2(msgspec.Struct, rename="camel"):
    """The fields of an offer of version 2 that relay reads."""

    scheme: _Name
    network: _Name
    asset: _Name
    pay_to: _Name
    amount: _Amount
    max_timeout_seconds: Any = None


def read_challenge(response: ProviderResponse) -> Challenge:
    """Return the challenge of a 402, from its header or else its body; raise Unreadable if neither has one."""
    refusals = []
    if HEADER in response.headers:
        try:
            return _challenge(header.decode(response.headers[HEADER]))
        except Unreadable as error:
            refusals.append(f"header: {error}")
    try:
        return _challenge(header.read_object(response.body))
    except Unreadable as error:
        raise Unreadable("; ".join([*refusals, f"body: {error}"])) from None


def _challenge(given: dict[str, Any]) -> Challenge:
    """Return the challenge in a decoded JSON object."""
    version, accepts, extensions = given.get("x402Version"), given.get("accepts"), given.get("extensions")
    if type(version) is not int or version not in (1, 2):
        raise Unreadable("no x402Version that relay knows")
    if not isinstance(accepts, list) or len(accepts) > OFFERS_MAX:
        raise Unreadable(f"`accepts` is not a list of at most {OFFERS_MAX} offers")
    offers = tuple(_offers(version, accepts))
    if accepts and not offers:
        raise Unreadable("none of the offers has a published shape")
    return Challenge(
        version=version,
        offers=offers,
        resource=given.get("resource"),
        extensions=extensions,
        sign_in=_sign_in(extensions),
    )


def _offers(version: int, entries: list[Any]) -> Iterator[Offer]:
    """Yield the offers that relay can read; skip those of another shape."""
    shape: type[_EntryV1 | _EntryV2] = _EntryV1 if version == 1 else _EntryV2
    for raw in entries:
        try:
            entry = msgspec.convert(raw, shape)
        except msgspec.ValidationError:
            continue
        if int(entry.amount) >= AMOUNT_END:
            continue
        yield Offer(
            version=version,
            scheme=entry.scheme,
            network=entry.network,
            chain_id=_chain_id(entry.network),
            amount=int(entry.amount),
            asset=entry.asset,
            pay_to=entry.pay_to,
            max_timeout_s=_seconds(entry.max_timeout_seconds),
            raw=raw,
        )


def _chain_id(network: str) -> int | None:
    """Return the chain's id, from CAIP-2 (https://chainagnostic.org/CAIPs/caip-2) or a name of version 1."""
    numbered = _EIP155.fullmatch(network)
    return int(numbered[1]) if numbered else CHAIN_NAMES.get(network)


def _seconds(value: Any) -> int | None:
    """Return a positive number of seconds; None for any other value."""
    return value if type(value) is int and 0 < value < 2**31 else None


def _sign_in(extensions: Any) -> dict[str, Any] | None:
    """Return the challenge of the sign-in extension; None without it."""
    extension = extensions.get(SIGN_IN) if isinstance(extensions, dict) else None
    info = extension.get("info") if isinstance(extension, dict) else None
    return info if isinstance(info, dict) else None
