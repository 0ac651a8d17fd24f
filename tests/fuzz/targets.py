"""All fuzz targets. An adapter that is added to `PROVIDERS` has its targets here without a further line."""

from typing import Final

from tests.fuzz import adapters, signing, texts, wire
from tests.fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target for target in (*texts.TARGETS, *adapters.TARGETS, *wire.TARGETS, *signing.TARGETS)
}
