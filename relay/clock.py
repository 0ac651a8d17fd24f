"""The clock that relay's loops get as an argument: unix milliseconds inside, RFC 3339 on the wire.

There are two times. Times that are stored, shown or compared with stored ones are the wall clock's, which an operator
or NTP may set back or forward. Durations in memory (waits, pauses, rates, leases, cache entries) are measured by the
monotonic clock, so that a step of the wall clock stops none of them.
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
"""The forms that `parse_time` accepts, as an error names them."""
_AGO: Final = re.compile(r"-([0-9]{1,6})([smhd])")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_UNITS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
FIRST_MS: Final = -62_135_596_800_000
"""The first time that `rfc3339` can show: the year 1 begins; one that was longer ago is read as this."""
LAST_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, the last time that `rfc3339` can show."""
_MILLIS: Final = tuple(f".{millis:03d}Z" for millis in range(1000))


class Clock(Protocol):
    """The times and waits that relay needs; tests pass a clock that they can hold and advance."""

    def now_ms(self) -> int:
        """Return the wall clock's time in unix milliseconds."""

    def monotonic_ms(self) -> int:
        """Return milliseconds since an arbitrary moment; they never run backward."""

    async def wait(self, event: asyncio.Event, *, until_monotonic_ms: int | None) -> None:
        """Return when the event is set or `monotonic_ms` reaches this time; None: only when the event is set."""

    async def sleep(self, duration_ms: int) -> None:
        """Return when that many milliseconds have passed by `monotonic_ms`."""


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Return the wall clock's time in unix milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> int:
        """Return milliseconds of the monotonic clock."""
        return time.monotonic_ns() // 1_000_000

    async def wait(self, event: asyncio.Event, *, until_monotonic_ms: int | None) -> None:
        """Return when the event is set or `monotonic_ms` reaches this time, whichever is first."""
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
    """Return a time such as `2026-11-21T02:03:04.005Z`."""
    return _whole_second(at_ms // 1000) + _MILLIS[at_ms % 1000]


@lru_cache(512)
def _whole_second(seconds: int) -> str:
    """Return the time up to the second; cached, because most times that are written share a few seconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def parse_rfc3339(text: str) -> int:
    """Return the unix milliseconds of an RFC 3339 time; raise ValueError if it is malformed or has no offset.

    ValueError too for one whose year in UTC is not 1 to 9999: it could not be shown.
    """
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("a time needs an offset, such as Z")
    at_ms = round(when.timestamp() * 1000)
    if not FIRST_MS <= at_ms <= LAST_MS:
        raise ValueError("the year must be 1 to 9999")
    return at_ms


def parse_time(text: str, now_ms: int) -> int:
    """Return the unix milliseconds of a time in a request; raise ValueError for any other text.

    It is RFC 3339 with an offset; a date, which means its first moment in UTC; or a time before now such as `-24h`.
    """
    if ago := _AGO.fullmatch(text):
        return max(FIRST_MS, now_ms - int(ago[1]) * _UNITS_MS[ago[2]])
    return parse_rfc3339(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
