"""An operator's own price list of clips, for a provider that publishes its prices only after a login."""

import re
from decimal import Decimal
from typing import Final

import msgspec

from relay.providers.prices import Price, dollars

ENTRIES_MAX: Final = 200
_NAME: Final = re.compile(
    r"(?P<model>[A-Za-z0-9._/-]{1,100})(:(?P<resolution>[0-9]{3,4}p|[24]k))?(:(?P<seconds>[1-9][0-9]?)s)?"
)
_USD: Final = re.compile(r"(?P<usd>[0-9]{1,4}(\.[0-9]{1,6})?)(?P<per_second>/s)?")
_EXAMPLES: Final = "model=0.30, model:720p=0.06/s or model:720p:5s=0.30"


class ClipPrice(msgspec.Struct, frozen=True):
    """An operator's entry: the USD of a clip or of a second of it; None matches every resolution or length."""

    model: str
    resolution: str | None
    seconds: int | None
    usd: Decimal
    per_second: bool


ClipPrices = tuple[ClipPrice, ...]


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


def clip_price(clips: ClipPrices, model: str, resolution: str | None, seconds: int | None) -> Price | None:
    """Return the price by the most specific matching entry; an unpublished default matches no specific entry."""
    matching = [
        clip
        for clip in clips
        if clip.model == model
        and clip.resolution in (None, resolution)
        and clip.seconds in (None, seconds)
        and not (clip.per_second and seconds is None)
    ]
    if not matching:
        return None
    best = max(matching, key=lambda clip: (clip.resolution is not None, clip.seconds is not None))
    return dollars(best.usd * (seconds or 1) if best.per_second else best.usd)
