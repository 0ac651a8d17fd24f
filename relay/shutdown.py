"""The end of a process: one event that ends all waiting, and one time within which everything is over."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

LAST_S: Final = 0.3
"""Each thing that is closed gets this long even when the time is over, since most close at once."""


class Stop:
    """Begins once, by a signal or at the end of the block that holds relay open."""

    def __init__(self, within_s: float) -> None:
        self.draining = asyncio.Event()
        self._within_s = within_s
        self._ends_at: float | None = None
        self._wake: list[Callable[[], None]] = []

    def wakes(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the stop begins, for those that wait for something else."""
        self._wake.append(wake)

    def begin(self) -> None:
        """End what waits, and start the time."""
        if self._ends_at is None:
            self._ends_at = asyncio.get_running_loop().time() + self._within_s
            self.draining.set()
            for wake in self._wake:
                wake()

    def hurry(self) -> None:
        """Leave no time for what is under way."""
        self.begin()
        self._ends_at = asyncio.get_running_loop().time()

    def left_s(self) -> float:
        """Return how much of the time is left, in seconds; all of it before the beginning."""
        if self._ends_at is None:
            return self._within_s
        return max(0.0, self._ends_at - asyncio.get_running_loop().time())

    async def within(self, close: Callable[[], Awaitable[None]]) -> None:
        """Run what closes something, and leave it when the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.left_s() + LAST_S):
                await close()
