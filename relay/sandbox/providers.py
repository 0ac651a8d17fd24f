"""All stand-ins together."""

from relay.sandbox.contract import StandIn
from relay.sandbox.evolink import EvoLink
from relay.sandbox.kinovi import Kinovi
from relay.sandbox.relaydance import RelayDance
from relay.sandbox.stablestudio import StableStudio
from relay.sandbox.world import Sandbox
from relay.sandbox.x402org import X402Org


def sandbox(*, pace_s: float | None = 1.0, time_scale: float = 1.0) -> Sandbox:
    """Return the stand-ins of every provider on one origin; their paths do not collide."""
    stand_ins: dict[str, StandIn] = {
        "evolink": EvoLink(),
        "relaydance": RelayDance(),
        "kinovi": Kinovi(),
        "stablestudio": StableStudio(),
        "x402org": X402Org(),
    }
    return Sandbox(stand_ins, pace_s=pace_s, time_scale=time_scale)
