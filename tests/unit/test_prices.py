"""Prices before sending: exact decimals from the published tables and the operator's, and never a guess."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.job import Input
from relay.providers import PROVIDERS
from relay.providers.clip_prices import read_clip_prices
from relay.providers.native import native_from_input
from relay.providers.prices import Price, price_order, quoted
from relay.providers.relaydance import RelayDance
from tests.support.provider_cases import bodies
from tests.support.rows import rows

EVOLINK = "seedance-2.0-{}image-to-video"
UNITS = {("", "480p"): "0.0919", ("", "720p"): "0.1985", ("fast-", "480p"): "0.0745", ("fast-", "720p"): "0.1608"}
CREDITS = {"480p": 15, "720p": 40, "1080p": 90, "4k": 200}
WITH_VIDEO = {"480p": 19, "720p": 48, "1080p": 108, "4k": 240}
TEXT = "a-with=0.30, a-with:720p=0.40 ,a-with:720p:5s=0.5,b=0.052/s,b:1080p=0.1/s,c-720p:720p=1"


def price_of(provider: str, request: Any, table: str = "") -> Price | None:
    """Return the price of a request; `table` is the operator's for RelayDance."""
    adapter = RelayDance(read_clip_prices(table)) if provider == "relaydance" else PROVIDERS[provider]
    return adapter.price(request)


def usd(provider: str, request: dict[str, Any], table: str = "") -> str | None:
    """Return the dollars of a request; None where it has no price."""
    price = price_of(provider, request, table)
    return None if price is None else price.usd


def kinovi(model: str = "seedance-20", **inputs: object) -> Price | None:
    """Return the price of a job at Kinovi."""
    return price_of("kinovi", {"model": model, "inputs": {"urls": ["https://example.com/a.png"], **inputs}})


@pytest.mark.parametrize(("kind", "quality"), UNITS)
@given(seconds=st.integers(4, 15))
def test_evolink_costs_seconds_times_unit(kind: str, quality: str, seconds: int) -> None:
    """Every allowed length costs exactly its seconds times the published unit, with six places."""
    request = {"model": EVOLINK.format(kind), "quality": quality, "duration": seconds}
    amount = f"{Decimal(UNITS[kind, quality]) * seconds:.6f}"
    assert price_of("evolink", request) == Price(amount, "USD", amount, "table")
    assert len(amount.partition(".")[2]) == 6


@rows(
    ("request_", "amount"),
    [
        ({}, "0.992500"),
        ({"duration": 15}, "2.977500"),
        ({"quality": "480p", "duration": 7}, "0.643300"),
        ({"quality": "1080p"}, None),
        ({"model": EVOLINK.format("mini-")}, None),
        ({"model": EVOLINK.format("fast-"), "quality": "1080p"}, None),
        ({"model": "seedance-3"}, None),
        ({"duration": 16}, None),
        ({"duration": True}, None),
        ({"duration": 5.0}, None),
    ],
)
def test_evolink_has_defaults_and_gaps(request_: dict[str, Any], amount: str | None) -> None:
    """Five seconds of 720p unless it is said otherwise; what the page has no price for has none."""
    assert usd("evolink", {"model": EVOLINK.format("")} | request_) == amount


@pytest.mark.parametrize("resolution", CREDITS)
@given(seconds=st.integers(4, 15), as_text=st.booleans())
def test_kinovi_costs_credits_by_the_second(resolution: str, seconds: int, as_text: bool) -> None:
    """Credits are whole numbers times seconds, and a credit is half a cent; a length may be text."""
    duration = str(seconds) if as_text else seconds
    price = kinovi(outputResolution=resolution, duration=duration)
    credits_ = CREDITS[resolution] * seconds
    assert price == Price(f"{credits_}.000000", "credits", f"{Decimal(credits_ * 5) / 1000:.6f}", "table")
    price = kinovi(outputResolution=resolution, duration=duration, videoUrls=["https://example.com/a.mp4"])
    assert price is not None
    assert price.amount == f"{WITH_VIDEO[resolution] * seconds}.000000"


@rows(
    ("model", "inputs", "amount", "dollars"),
    [
        ("seedance-20", {}, "200.000000", "1.000000"),
        ("seedance2-fast", {}, "140.000000", "0.700000"),
        ("seedance-20", {"upscaleResolution": "4k"}, "340.000000", "1.700000"),
        ("seedance2-fast", {"upscaleResolution": "4k", "duration": "4"}, "224.000000", "1.120000"),
        ("seedance2-fast", {"outputResolution": "720p"}, "140.000000", "0.700000"),
        ("seedance2-5", {"duration": 4, "outputResolution": "480p"}, "104.000000", "0.520000"),
        ("seedance2-5", {"duration": 30}, "1770.000000", "8.850000"),
        ("seedance2-5", {"outputResolution": "1080p"}, "717.000000", "3.585000"),
    ],
)
def test_kinovi_has_two_tables(model: str, inputs: dict[str, Any], amount: str, dollars: str) -> None:
    """The page's prices of both models, and 28 credits a second more for an upscale."""
    assert kinovi(model, **inputs) == Price(amount, "credits", dollars, "table")


@rows(
    ("model", "inputs"),
    [
        ("seedance2-fast", {"outputResolution": "1080p"}),
        ("seedance2-fast", {"videoUrls": ["https://example.com/a.mp4"]}),
        ("seedance-20", {"outputResolution": "4k", "upscaleResolution": "4k"}),
        ("seedance-20", {"upscaleResolution": "4k", "videoUrls": ["https://example.com/a.mp4"]}),
        ("seedance-20", {"duration": "16"}),
        ("seedance2-5", {"duration": 31}),
        ("seedance2-5", {"videoUrls": ["https://example.com/a.mp4"]}),
        ("seedance-9", {}),
    ],
)
def test_kinovi_has_gaps(model: str, inputs: dict[str, Any]) -> None:
    """What neither table names has no price."""
    assert kinovi(model, **inputs) is None


@rows(
    ("request_", "dollars"),
    [
        ({"model": "a-with"}, "0.300000"),
        ({"model": "a-with", "seconds": "5"}, "0.300000"),
        ({"model": "a-with", "metadata": {"resolution": "480p"}}, "0.300000"),
        ({"model": "a-with", "metadata": {"resolution": "720p"}}, "0.400000"),
        ({"model": "a-with", "seconds": "5", "metadata": {"resolution": "720p"}}, "0.500000"),
        ({"model": "b"}, None),
        ({"model": "b", "seconds": "7"}, "0.364000"),
        ({"model": "b", "seconds": "7", "metadata": {"resolution": "1080p"}}, "0.700000"),
        ({"model": "c-720p"}, "1.000000"),
        ({"model": "d"}, None),
    ],
)
def test_relaydance_costs_what_the_operator_wrote(request_: dict[str, Any], dollars: str | None) -> None:
    """The narrowest entry that fits counts; a length or size that is not given fits none that names one."""
    assert usd("relaydance", request_, TEXT) == dollars


@rows(
    ("text", "blame"),
    [
        ("a=1,", "entry 2 is empty"),
        ("a", "entry 1 has no price"),
        ("a=1,b=", "entry 2 has a price that is not an amount"),
        ("a=1e3", "entry 1 has a price that is not an amount"),
        ("a=-1", "entry 1 has a price that is not an amount"),
        ("a=0.1234567", "entry 1 has a price that is not an amount"),
        ("a=1/min", "entry 1 has a price that is not an amount"),
        ("a:720=1", "entry 1 has a name that is not model"),
        ("a:5s:720p=1", "entry 1 has a name that is not model"),
        ("=1", "entry 1 has a name that is not model"),
        ("a:5s=1/s", "entry 1 has both a length and a price per second"),
        ("a:720p=1,b=1,a:720p=2", "entry 3 is another"),
        ("a=1," * 201, "at most 200 entries"),
    ],
)
def test_a_wrong_table_says_where(text: str, blame: str) -> None:
    """The error names the entry and what is wrong with it, and repeats nothing of the text."""
    with pytest.raises(ValueError, match=r"^must ") as raised:
        read_clip_prices(text)
    assert blame in str(raised.value)


def test_no_table_is_an_empty_one() -> None:
    """Without the setting RelayDance has no price."""
    assert read_clip_prices("  ") == ()
    assert price_of("relaydance", {"model": "a"}) is None


@pytest.mark.parametrize("provider", ["evolink", "kinovi", "relaydance"])
@given(seconds=st.integers(4, 15), resolution=st.sampled_from([None, "480p", "720p"]))
def test_unified_inputs_have_prices(provider: str, seconds: int, resolution: str | None) -> None:
    """What an adapter makes of a unified input is priced as a native body is: in proportion to its length."""
    prices = []
    for length in (seconds, 4):
        wanted = Input(images=["https://example.com/a.png"], prompt="push in", duration_s=length, resolution=resolution)
        request = native_from_input(PROVIDERS[provider], wanted)
        prices.append(Decimal(usd(provider, request, "seedance-1-5-pro-with-audio=0.01/s") or "NaN"))
    assert prices[0] * 4 == prices[1] * seconds


@given(provider=st.sampled_from(["evolink", "kinovi", "relaydance", "x402org"]), body=bodies)
def test_any_json_has_a_price_or_none(provider: str, body: dict[str, Any]) -> None:
    """Nothing that is handed in breaks it."""
    price = price_of(provider, body, TEXT)
    assert price is None or Decimal(price.amount) >= 0


@given(st.integers(0, 10**15))
def test_a_quote_is_exact(amount: int) -> None:
    """Millionths of a USDC become six places and nothing else."""
    price = quoted(amount)
    assert (price.unit, price.usd, price.basis) == ("USDC", price.amount, "quote")
    assert int(price.amount.replace(".", "")) == amount


def test_the_cheapest_is_first() -> None:
    """By dollars, not as text; by name where they are equal; and last without dollars."""
    ten, nine = quoted(10_000_000), quoted(9_000_000)
    unknown = Price("5.000000", "credits", None, "table")
    offered = [("f", None), ("b", ten), ("e", unknown), ("c", nine), ("a", ten)]
    assert [name for name, _ in sorted(offered, key=lambda pair: price_order(*pair))] == ["c", "a", "b", "e", "f"]
