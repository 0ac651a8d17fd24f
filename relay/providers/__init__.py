"""Lists the providers that relay can submit to: one file and one line each.

An adapter's module is imported when its provider is first asked for, since few relays use all of them. `relay/app.py`
asks at the start for those that are configured.
"""

import importlib
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from relay.model.lazy_mapping import LazyMapping

if TYPE_CHECKING:
    from relay.providers.base import Provider

_CLASSES: Final = {
    "evolink": "EvoLink",
    "relaydance": "RelayDance",
    "kinovi": "Kinovi",
    "kling": "Kling",
    "minimax": "MiniMax",
    "stablestudio": "StableStudio",
    "x402org": "X402Org",
    "replicate": "Replicate",
    "openrouter": "OpenRouter",
    "ark": "Ark",
    "fal": "Fal",
    "wavespeed": "WaveSpeed",
    "kie": "Kie",
}
"""The class of each provider, in the module of the provider's name."""


def _adapter(name: str, class_name: str) -> "Provider":
    """Return a new adapter of a provider."""
    adapter: Provider = getattr(importlib.import_module(f"relay.providers.{name}"), class_name)()
    return adapter


PROVIDERS: "Final[Mapping[str, Provider]]" = LazyMapping(
    {name: partial(_adapter, name, class_name) for name, class_name in _CLASSES.items()}
)
DEV_PROVIDERS: "Final[Mapping[str, Provider]]" = LazyMapping(
    {"sandbox": partial(_adapter, "sandbox", "Sandbox")}  # only with `relay dev`
)
