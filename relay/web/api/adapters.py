"""Load the adapters of providers in a thread, before a request uses them for the first time.

A start loads those of the configured providers alone: all of them take 1.2 MB. Loading them takes 40 to 70 ms, for
which the event loop, and with it every callback, would stand still.
"""

import asyncio
import importlib
from collections.abc import Iterable

from relay.app import App
from relay.providers import DEV_PROVIDERS, PROVIDERS


async def load_adapters(app: App, names: Iterable[str]) -> None:
    """Return when the modules of these providers are loaded; a name that no provider has is left out."""
    loaded = app.adapters_loaded
    missing = [name for name in names if name not in loaded and (name in PROVIDERS or name in DEV_PROVIDERS)]
    if missing:
        await asyncio.to_thread(_load, missing)
        loaded.update(missing)


def _load(names: Iterable[str]) -> None:
    """Import the modules of these providers; an import that another thread has begun is waited for."""
    for name in names:
        importlib.import_module(f"relay.providers.{name}")
