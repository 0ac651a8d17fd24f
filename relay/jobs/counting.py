"""The loop that stores what this process counted, and samples the backlog; `storage/statistics.py` has the sums."""

from typing import Final

from relay.clock import Clock
from relay.storage.statistics import Statistics

FLUSH_MS: Final = 5_000
"""A process that is killed loses at most so much of its counts."""
SAMPLE_MS: Final = 60_000


async def count(statistics: Statistics, clock: Clock, *, samples: bool) -> None:
    """Store the counts every FLUSH_MS, and with `samples` the backlog every SAMPLE_MS, until cancelled."""
    sample_at = clock.monotonic_ms()
    while True:
        await clock.sleep(FLUSH_MS)
        if samples and clock.monotonic_ms() >= sample_at:
            sample_at = clock.monotonic_ms() + SAMPLE_MS
            await statistics.sample(clock.now_ms())
        await statistics.flush()
