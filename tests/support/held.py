"""Helpers for the tests of time limits: a relay on a held clock, and a job whose callback never comes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from relay.sandbox.faults import Faults
from tests.support.running import HeldClock, Running, relay

MS = 0.001
"""The step of the clock: a millisecond."""
DAY_S = 86_400


@asynccontextmanager
async def held(folder: Path, **environ: str) -> AsyncIterator[tuple[Running, HeldClock]]:
    """Yield a relay and the clock that it goes by."""
    clock = HeldClock()
    async with relay(folder, clock=clock, **environ) as running:  # type: ignore[arg-type]
        yield running, clock


async def lost(running: Running, faults: Faults | None = None, **fields: Any) -> dict[str, Any]:
    """Return a submitted job whose callback never comes."""
    running.world.next_faults.append(faults or Faults(lost=True))
    return await running.submit(**fields)
