"""The time, as something that is handed in: unix milliseconds everywhere inside, RFC 3339 at the edge.

Two clocks, for two questions. What is stored, shown or compared with a stored time goes by the wall clock, which an
operator or NTP may set back or forward. How long something lasts (a wait, a pause, a rate, a lease or a cache entry
held in memory) goes by the monotonic clock, which only runs forward: a wall clock that steps stops none of these.
"""

import asyncio
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

_MILLIS: Final = tuple(f".{millis:03d}Z" for millis in range(1000))


class Clock(Protocol):
    """What the flow needs of time; tests hand in one they can hold and move."""

    def now_ms(self) -> int:
        """Return the wall clock's time in unix milliseconds."""

    def monotonic_ms(self) -> int:
        """Return milliseconds since an arbitrary moment; they never run backward, whatever the wall clock does."""

    async def wait(self, event: asyncio.Event, *, until_monotonic_ms: int | None) -> None:
        """Return when the event is set or `monotonic_ms` is that; None: only when the event is set."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Return the wall clock's time in unix milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Return milliseconds since the machine started, or since another fixed moment."""
        return time.monotonic_ns() // 1_000_000

    async def wait(self, event: asyncio.Event, *, until_monotonic_ms: int | None) -> None:
        """Return when the event is set or `monotonic_ms` has come so far, whichever is first."""
        timeout_s = None if until_monotonic_ms is None else max(0.0, (until_monotonic_ms - self.monotonic_ms()) / 1000)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            pass


def rfc3339(at_ms: int) -> str:
    """`2026-11-21T02:03:04.005Z`."""
    return _whole_second(at_ms // 1000) + _MILLIS[at_ms % 1000]


@lru_cache(512)
def _whole_second(seconds: int) -> str:
    """The text up to the second: of the many times that are written, most are of a few seconds."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_rfc3339(text: str) -> int:
    """Unix milliseconds of an RFC 3339 time; ValueError without an offset, so that no local time slips in."""
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("a time needs its offset, such as Z")
    return round(when.timestamp() * 1000)
