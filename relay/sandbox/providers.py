"""All stand-ins together."""

from collections.abc import Callable, Mapping
from typing import Final

from relay.sandbox.ark import Ark
from relay.sandbox.contract import StandIn
from relay.sandbox.evolink import EvoLink
from relay.sandbox.fal import Fal
from relay.sandbox.keys import Keys
from relay.sandbox.kie import Kie
from relay.sandbox.kinovi import Kinovi
from relay.sandbox.kling import Kling
from relay.sandbox.minimax import MiniMax
from relay.sandbox.openrouter import OpenRouter
from relay.sandbox.relaydance import RelayDance
from relay.sandbox.replicate import Replicate
from relay.sandbox.stablestudio import StableStudio
from relay.sandbox.wavespeed import WaveSpeed
from relay.sandbox.world import Sandbox
from relay.sandbox.x402org import X402Org

STAND_INS: Final[Mapping[str, Callable[[Keys], StandIn]]] = {
    "evolink": lambda _: EvoLink(),
    "relaydance": lambda _: RelayDance(),
    "kinovi": lambda _: Kinovi(),
    "kling": lambda _: Kling(),
    "minimax": lambda _: MiniMax(),
    "stablestudio": lambda _: StableStudio(),
    "x402org": lambda _: X402Org(),
    "replicate": lambda _: Replicate(),
    "openrouter": lambda _: OpenRouter(),
    "ark": lambda _: Ark(),
    "fal": Fal,
    "wavespeed": lambda _: WaveSpeed(),
    "kie": lambda _: Kie(),
}
"""What makes each stand-in; one that signs its callbacks by published keys receives the sandbox's."""


def sandbox(*, pace_s: float | None = 1.0, time_scale: float = 1.0) -> Sandbox:
    """Return the stand-ins of every provider on one origin; their paths do not collide."""
    keys = Keys()
    stand_ins = {name: make(keys) for name, make in STAND_INS.items()}
    return Sandbox(stand_ins, keys, pace_s=pace_s, time_scale=time_scale)


def base_urls(origin: str) -> dict[str, str]:
    """Return each provider's base URL in a sandbox at an origin: what RELAY_<NAME>_BASE_URL must be."""
    keys = Keys()
    return {name: origin + make(keys).prefix for name, make in STAND_INS.items()} | {"sandbox": origin}
