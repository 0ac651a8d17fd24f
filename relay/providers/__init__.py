"""Lists the providers that relay can submit to: one file and one line each."""

from collections.abc import Mapping
from typing import Final

from relay.providers.ark import Ark
from relay.providers.base import Provider
from relay.providers.evolink import EvoLink
from relay.providers.fal import Fal
from relay.providers.kie import Kie
from relay.providers.kinovi import Kinovi
from relay.providers.kling import Kling
from relay.providers.minimax import MiniMax
from relay.providers.openrouter import OpenRouter
from relay.providers.relaydance import RelayDance
from relay.providers.replicate import Replicate
from relay.providers.sandbox import Sandbox
from relay.providers.stablestudio import StableStudio
from relay.providers.wavespeed import WaveSpeed
from relay.providers.x402org import X402Org

PROVIDERS: Final[Mapping[str, Provider]] = {
    "evolink": EvoLink(),
    "relaydance": RelayDance(),
    "kinovi": Kinovi(),
    "kling": Kling(),
    "minimax": MiniMax(),
    "stablestudio": StableStudio(),
    "x402org": X402Org(),
    "replicate": Replicate(),
    "openrouter": OpenRouter(),
    "ark": Ark(),
    "fal": Fal(),
    "wavespeed": WaveSpeed(),
    "kie": Kie(),
}
DEV_PROVIDERS: Final[Mapping[str, Provider]] = {"sandbox": Sandbox()}  # only with `relay dev`
