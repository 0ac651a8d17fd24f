"""What a job will cost before it is sent, from the providers' published tables; exact decimals, never floats.

A table is only as good as the page that it stands on, so what no page says has no price here: None, and never a guess.
RelayDance shows its prices to people alone (https://relaydance.com/pricing), so the operator writes them down.
"""

import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

import msgspec

from relay.providers import evolink, kinovi
from relay.providers.base import at, items

PLACES: Final = Decimal("0.000001")
USD_PER_CREDIT: Final = Decimal("0.005")
ENTRIES_MAX: Final = 200
SECONDS_DEFAULT: Final = 5
_SECONDS: Final = range(4, 16)
_UPSCALE: Final = 28
_EVOLINK: Final = {
    (evolink.STANDARD, "480p"): Decimal("0.0919"),
    (evolink.STANDARD, "720p"): Decimal("0.1985"),
    (evolink.FAST, "480p"): Decimal("0.0745"),
    (evolink.FAST, "720p"): Decimal("0.1608"),
}
_KINOVI: Final = {
    (kinovi.STANDARD, "480p"): 15,
    (kinovi.STANDARD, "720p"): 40,
    (kinovi.STANDARD, "1080p"): 90,
    (kinovi.STANDARD, "4k"): 200,
    (kinovi.FAST, "720p"): 28,
}
_KINOVI_WITH_VIDEO: Final = {
    (kinovi.STANDARD, "480p"): 19,
    (kinovi.STANDARD, "720p"): 48,
    (kinovi.STANDARD, "1080p"): 108,
    (kinovi.STANDARD, "4k"): 240,
}
_NAME: Final = re.compile(
    r"(?P<model>[A-Za-z0-9._/-]{1,100})(:(?P<resolution>[0-9]{3,4}p|[24]k))?(:(?P<seconds>[1-9][0-9]?)s)?"
)
_USD: Final = re.compile(r"(?P<usd>[0-9]{1,4}(\.[0-9]{1,6})?)(?P<per_second>/s)?")
_EXAMPLES: Final = "model=0.30, model:720p=0.06/s or model:720p:5s=0.30"
_RESOLUTION: Final = re.compile(r"-([0-9]{3,4}p|[24]k)$")


class Price(msgspec.Struct, frozen=True):
    """Decimals as text with six places; `usd` is None where the unit has no known price in dollars."""

    amount: str
    unit: str
    usd: str | None
    basis: str


class ClipPrice(msgspec.Struct, frozen=True):
    """An operator's entry: what one clip, or one second of it, costs in USD; None fits every resolution or length."""

    model: str
    resolution: str | None
    seconds: int | None
    usd: Decimal
    per_second: bool


ClipPrices = tuple[ClipPrice, ...]


def price_of(provider: str, request: object, clips: ClipPrices = ()) -> Price | None:
    """What a native body will cost at a provider; None where no table tells, and for what is no such body.

    `clips` is RelayDance's table.
    """
    match provider:
        case "evolink":
            return _evolink(request)
        case "kinovi":
            return _kinovi(request)
        case "relaydance":
            return _relaydance(request, clips)
        case _:
            return None


def quoted(amount: int) -> Price:
    """The price that a provider asks in a 402, in millionths of a USDC; a USDC is counted as a dollar."""
    text = _text(Decimal(amount).scaleb(-6))
    return Price(text, "USDC", text, "quote")


def cheapest_first(prices: Iterable[tuple[str, Price | None]]) -> list[tuple[str, Price | None]]:
    """Providers and their prices by dollars, then by name; where no dollars are known, last."""
    return sorted(prices, key=lambda pair: (_usd(pair[1]) is None, _usd(pair[1]) or Decimal(0), pair[0]))


def read_clip_prices(text: str) -> ClipPrices:
    """RELAY_RELAYDANCE_PRICES; ValueError says which entry is wrong, and in what.

    A comma list of `model[:resolution][:seconds]=usd`, the price of a clip, or with `/s` of a second:
    `seedance-1-5-pro-no-audio:720p:5s=0.13, seedance-1-5-pro-with-audio=0.052/s`. The narrowest entry that fits counts.
    """
    entries: dict[tuple[str, str | None, int | None], ClipPrice] = {}
    texts = text.split(",") if text.strip() else []
    if len(texts) > ENTRIES_MAX:
        raise ValueError(f"must have at most {ENTRIES_MAX} entries, not {len(texts)}")
    for number, one in enumerate(texts, 1):
        entry = _entry(one.strip(), f"must be a comma list of entries such as {_EXAMPLES}: entry {number}")
        place = (entry.model, entry.resolution, entry.seconds)
        if place in entries:
            raise ValueError(f"must have one entry for each model, resolution and length: entry {number} is another")
        entries[place] = entry
    return tuple(entries.values())


def _entry(text: str, blame: str) -> ClipPrice:
    """One entry of the operator's table."""
    if not text:
        raise ValueError(f"{blame} is empty")
    before, equals, behind = (part.strip() for part in text.partition("="))
    if not equals:
        raise ValueError(f"{blame} has no price")
    name, price = _NAME.fullmatch(before), _USD.fullmatch(behind)
    if name is None:
        raise ValueError(f"{blame} has a name that is no model, model:720p or model:720p:5s")
    if price is None:
        raise ValueError(f"{blame} has a price that is no amount of USD below 10000 with six decimals at most")
    if name["seconds"] and price["per_second"]:
        raise ValueError(f"{blame} has a length beside a price for each second: it is one or the other")
    seconds = int(name["seconds"]) if name["seconds"] else None
    return ClipPrice(name["model"], name["resolution"], seconds, Decimal(price["usd"]), bool(price["per_second"]))


def _evolink(request: object) -> Price | None:
    """Dollars a second by model and quality; sound is free. https://evolink.ai, the page of each Seedance 2.0 model."""
    unit = _EVOLINK.get((_word(request, "model"), _word(request, "quality") or "720p"))
    seconds = _length(request, "duration")
    return None if unit is None or seconds is None else _dollars(unit * seconds)


def _kinovi(request: object) -> Price | None:
    """Credits a second, charged for the whole duration when the job is sent, and 28 more for an upscale to 4K.

    The page https://kinovi.ai/docs/seedance2.0/image-to-video has 720p of both models, the upscale and the price of a
    credit; Kinovi's public repository kinovi-models has the other sizes, and what a reference video adds, for the
    standard model alone.
    """
    inputs = at(request, "inputs")
    with_video, upscaled = bool(items(at(inputs, "videoUrls"))), at(inputs, "upscaleResolution") is not None
    size = _word(inputs, "outputResolution") or "720p"
    rate = (_KINOVI_WITH_VIDEO if with_video else _KINOVI).get((_word(request, "model"), size))
    seconds = _length(inputs, "duration")
    if rate is None or seconds is None or (upscaled and (with_video or size != "720p")):
        return None
    credit = Decimal((rate + _UPSCALE if upscaled else rate) * seconds)
    return Price(_text(credit), "credits", _text(credit * USD_PER_CREDIT), "table")


def _relaydance(request: object, clips: ClipPrices) -> Price | None:
    """The narrowest of the operator's entries that fits; a default that nobody published fits no narrow one."""
    model, seconds = _word(request, "model"), _word(request, "seconds")
    named = _RESOLUTION.search(model)
    resolution = _word(at(request, "metadata"), "resolution") or (named[1] if named else None)
    length = int(seconds) if re.fullmatch(r"[1-9][0-9]?", seconds) else None
    fitting = [
        clip
        for clip in clips
        if clip.model == model
        and clip.resolution in (None, resolution)
        and clip.seconds in (None, length)
        and not (clip.per_second and length is None)
    ]
    if not fitting:
        return None
    best = max(fitting, key=lambda clip: (clip.resolution is not None, clip.seconds is not None))
    return _dollars(best.usd * (length or 1) if best.per_second else best.usd)


def _word(holder: object, name: str) -> str:
    """The text under a name; empty for anything else."""
    found = at(holder, name)
    return found if isinstance(found, str) else ""


def _length(holder: object, name: str) -> int | None:
    """Seconds, as a number or as text, five where none are given; None for what no provider takes."""
    given = at(holder, name)
    if given is None:
        return SECONDS_DEFAULT
    if isinstance(given, str) and re.fullmatch(r"[0-9]{1,2}", given):
        given = int(given)
    return given if isinstance(given, int) and not isinstance(given, bool) and given in _SECONDS else None


def _dollars(amount: Decimal) -> Price:
    """A price in dollars."""
    text = _text(amount)
    return Price(text, "USD", text, "table")


def _usd(price: Price | None) -> Decimal | None:
    """The dollars of a price, to compare."""
    return None if price is None or price.usd is None else Decimal(price.usd)


def _text(amount: Decimal) -> str:
    """An amount with six places; no table has more."""
    return f"{amount.quantize(PLACES):f}"
