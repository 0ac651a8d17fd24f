"""Coordinate the shutdown of a process: one event that ends all waits, and one time limit for everything to finish."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

CLOSE_MIN_S: Final = 0.3
"""What each part may take to close even after the time limit; most close immediately."""


class Stop:
    """The shutdown of a process; begins once, by a signal or when the block that holds relay open ends."""

    def __init__(self, limit_s: float) -> None:
        self.draining = asyncio.Event()
        self._limit_s = limit_s
        self._ends_at_s: float | None = None
        """When the limit is reached, in the loop's seconds; None before the shutdown."""
        self._on_begin: list[Callable[[], None]] = []

    def on_begin(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the shutdown begins, to end waits that do not watch `draining`."""
        self._on_begin.append(wake)

    def begin(self) -> None:
        """Begin the shutdown: end all waits and start the time limit; do nothing if it has begun."""
        if self._ends_at_s is None:
            self._ends_at_s = asyncio.get_running_loop().time() + self._limit_s
            self.draining.set()
            for wake in self._on_begin:
                wake()

    def end_now(self) -> None:
        """Set the remaining time to zero."""
        self.begin()
        self._ends_at_s = asyncio.get_running_loop().time()

    def left_s(self) -> float:
        """Return the remaining seconds; before the shutdown, all of them."""
        if self._ends_at_s is None:
            return self._limit_s
        return max(0.0, self._ends_at_s - asyncio.get_running_loop().time())

    async def close_in_time(self, close: Callable[[], Awaitable[None]]) -> None:
        """Run `close`; cancel it CLOSE_MIN_S after the time limit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.left_s() + CLOSE_MIN_S):
                await close()
