"""The time, as something that is handed in: unix milliseconds everywhere inside, RFC 3339 at the edge.

Two clocks, for two questions. What is stored, shown or compared with a stored time goes by the wall clock, which an
operator or NTP may set back or forward. How long something lasts (a wait, a pause, a rate, a lease or a cache entry
held in memory) goes by the monotonic clock, which only runs forward: a wall clock that steps stops none of these.
"""

import asyncio
import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol

TIME_FORMS: Final = (
    "an RFC 3339 time such as 2026-11-21T02:03:04Z, a date such as 2026-11-21, or a time ago such as -24h"
)
"""What `parse_time` takes, in the words of an error."""
_AGO: Final = re.compile(r"-([0-9]{1,6})([smhd])")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_MILLIS: Final = tuple(f".{millis:03d}Z" for millis in range(1000))


class Clock(Protocol):
    """What the flow needs of time; tests hand in one they can hold and move."""

    def now_ms(self) -> int:
        """Return the wall clock's time in unix milliseconds."""

    def monotonic_ms(self) -> int:
        """Return milliseconds since an arbitrary moment; they never run backward, whatever the wall clock does."""

    async def wait(self, event: asyncio.Event, *, until_monotonic_ms: int | None) -> None:
        """Return when the event is set or `monotonic_ms` is that; None: only when the event is set."""

    async def sleep(self, duration_ms: int) -> None:
        """Return when that many milliseconds have passed by `monotonic_ms`."""


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

    async def sleep(self, duration_ms: int) -> None:
        """Return when that many milliseconds have passed."""
        await asyncio.sleep(duration_ms / 1000)


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


def parse_time(text: str, now_ms: int) -> int:
    """Unix milliseconds of a time that an operator gives; ValueError for any other text.

    RFC 3339 with an offset; a date, which is its first moment in UTC; or a time before now such as `-24h`.
    """
    if ago := _AGO.fullmatch(text):
        return now_ms - int(ago[1]) * _UNITS_MS[ago[2]]
    return parse_rfc3339(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
