"""Computes a job's price before it is submitted, from the providers' published tables, in exact decimals.

A price that no page publishes is None, never a guess. RelayDance's prices (https://relaydance.com/pricing) need a
login, so the operator configures them.
"""

import re
from decimal import Decimal
from typing import Final, Literal

import msgspec

from relay.providers import evolink, kinovi
from relay.providers.base import at, items

PLACES: Final = Decimal("0.000001")
USD_PER_CREDIT: Final = Decimal("0.005")
ENTRIES_MAX: Final = 200
SECONDS_DEFAULT: Final = 5
_SECONDS: Final = range(4, 16)
_UPSCALE_CREDITS: Final = 28
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
    """A price: decimals as text with six places; `usd` is None if the price in USD is not known."""

    amount: str
    unit: Literal["USD", "USDC", "credits"]
    usd: str | None
    basis: Literal["table", "quote"]


class ClipPrice(msgspec.Struct, frozen=True):
    """An operator's entry: the USD of a clip or of a second of it; None matches every resolution or length."""

    model: str
    resolution: str | None
    seconds: int | None
    usd: Decimal
    per_second: bool


ClipPrices = tuple[ClipPrice, ...]


def price_of(provider: str, request: object, clips: ClipPrices = ()) -> Price | None:
    """Return the price of a native body at a provider; None if no table has it, or the body is invalid.

    `clips` is the operator's table for RelayDance.
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
    """Return the price of a 402's offer, in millionths of a USDC; a USDC counts as a USD."""
    text = _text(Decimal(amount).scaleb(-6))
    return Price(text, "USDC", text, "quote")


def price_order(provider: str, price: Price | None) -> tuple[bool, Decimal, str]:
    """Return a sort key: by USD, then by the provider's name; prices without USD last."""
    unknown = price is None or price.usd is None
    return (unknown, Decimal(0) if price is None or price.usd is None else Decimal(price.usd), provider)


def read_clip_prices(text: str) -> ClipPrices:
    """Return the entries of RELAY_RELAYDANCE_PRICES; raise ValueError, which names the wrong entry.

    A comma list of `model[:resolution][:seconds]=usd`, the price of a clip, or with `/s` of a second:
    `seedance-1-5-pro-no-audio:720p:5s=0.13, seedance-1-5-pro-with-audio=0.052/s`. The most specific match applies.
    """
    entries: dict[tuple[str, str | None, int | None], ClipPrice] = {}
    texts = text.split(",") if text.strip() else []
    if len(texts) > ENTRIES_MAX:
        raise ValueError(f"must have at most {ENTRIES_MAX} entries, not {len(texts)}")
    for number, entry_text in enumerate(texts, 1):
        entry = _parse_entry(entry_text.strip(), f"must be a comma list of entries such as {_EXAMPLES}: entry {number}")
        key = (entry.model, entry.resolution, entry.seconds)
        if key in entries:
            raise ValueError(f"must have one entry for each model, resolution and length: entry {number} is another")
        entries[key] = entry
    return tuple(entries.values())


def _parse_entry(text: str, blame: str) -> ClipPrice:
    """Return one entry of the operator's table; raise ValueError, whose text begins with `blame`."""
    if not text:
        raise ValueError(f"{blame} is empty")
    before, equals, after = (part.strip() for part in text.partition("="))
    if not equals:
        raise ValueError(f"{blame} has no price")
    name, price = _NAME.fullmatch(before), _USD.fullmatch(after)
    if name is None:
        raise ValueError(f"{blame} has a name that is not model, model:720p or model:720p:5s")
    if price is None:
        raise ValueError(f"{blame} has a price that is not an amount of USD below 10000 with at most six decimals")
    if name["seconds"] and price["per_second"]:
        raise ValueError(f"{blame} has both a length and a price per second: give one of them")
    seconds = int(name["seconds"]) if name["seconds"] else None
    return ClipPrice(name["model"], name["resolution"], seconds, Decimal(price["usd"]), bool(price["per_second"]))


def _evolink(request: object) -> Price | None:
    """Return USD per second by model and quality; audio is free. https://evolink.ai, each Seedance model's page."""
    unit = _EVOLINK.get((_text_at(request, "model"), _text_at(request, "quality") or "720p"))
    seconds = _length(request, "duration")
    return None if unit is None or seconds is None else _dollars(unit * seconds)


def _kinovi(request: object) -> Price | None:
    """Return credits per second, 28 more for an upscale to 4K; the whole duration is charged at submission.

    https://kinovi.ai/docs/seedance2.0/image-to-video has 720p of both models, the upscale and the price of a credit.
    Kinovi's public repository kinovi-models has the standard model's other sizes and its prices with a reference video.
    """
    inputs = at(request, "inputs")
    with_video, upscaled = bool(items(at(inputs, "videoUrls"))), at(inputs, "upscaleResolution") is not None
    size = _text_at(inputs, "outputResolution") or "720p"
    rate = (_KINOVI_WITH_VIDEO if with_video else _KINOVI).get((_text_at(request, "model"), size))
    seconds = _length(inputs, "duration")
    if rate is None or seconds is None or (upscaled and (with_video or size != "720p")):
        return None
    credit = Decimal((rate + _UPSCALE_CREDITS if upscaled else rate) * seconds)
    return Price(_text(credit), "credits", _text(credit * USD_PER_CREDIT), "table")


def _relaydance(request: object, clips: ClipPrices) -> Price | None:
    """Return the price by the most specific matching entry; an unpublished default matches no specific entry."""
    model, seconds = _text_at(request, "model"), _text_at(request, "seconds")
    named = _RESOLUTION.search(model)
    resolution = _text_at(at(request, "metadata"), "resolution") or (named[1] if named else None)
    length = int(seconds) if re.fullmatch(r"[1-9][0-9]?", seconds) else None
    matching = [
        clip
        for clip in clips
        if clip.model == model
        and clip.resolution in (None, resolution)
        and clip.seconds in (None, length)
        and not (clip.per_second and length is None)
    ]
    if not matching:
        return None
    best = max(matching, key=lambda clip: (clip.resolution is not None, clip.seconds is not None))
    return _dollars(best.usd * (length or 1) if best.per_second else best.usd)


def _text_at(holder: object, name: str) -> str:
    """Return the text of a field, or an empty text if it is none."""
    found = at(holder, name)
    return found if isinstance(found, str) else ""


def _length(holder: object, name: str) -> int | None:
    """Return the seconds of a field, a number or text, SECONDS_DEFAULT without it; None for an unsupported length."""
    given = at(holder, name)
    if given is None:
        return SECONDS_DEFAULT
    if isinstance(given, str) and re.fullmatch(r"[0-9]{1,2}", given):
        given = int(given)
    return given if isinstance(given, int) and not isinstance(given, bool) and given in _SECONDS else None


def _dollars(amount: Decimal) -> Price:
    """Return a price in USD."""
    text = _text(amount)
    return Price(text, "USD", text, "table")


def _text(amount: Decimal) -> str:
    """Return an amount with six decimals; no table has more."""
    return f"{amount.quantize(PLACES):f}"
