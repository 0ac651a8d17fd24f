"""Holds requests open until a job is final: `Prefer: wait`."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

from relay.clock import Clock
from relay.model.job import Job

READ_EVERY_MS: Final = 1_000
"""Another process may end the job, so the row is also read this often."""


class Waiting:
    """Wakes the requests that wait for a job, as soon as this process has recorded its end."""

    def __init__(self, clock: Clock, draining: asyncio.Event) -> None:
        self._clock = clock
        self._draining = draining
        self._waiters: dict[str, set[asyncio.Event]] = defaultdict(set)

    def publish(self, job: Job) -> None:
        """Wake the requests that wait for a job, if it is final."""
        if job.state.final:
            for woken in self._waiters.get(job.id, ()):
                woken.set()

    @property
    def held(self) -> int:
        """Return how many requests are held open."""
        return sum(map(len, self._waiters.values()))

    def wake_all(self) -> None:
        """Wake every request when relay stops: each reads its job once more, and ends."""
        for woken in [event for events in self._waiters.values() for event in events]:
            woken.set()

    async def final(self, job: Job, read: Callable[[], Awaitable[Job | None]], until_monotonic_ms: int) -> Job:
        """Return the job as it is when it is final, when the time is over, or when relay stops."""
        woken = asyncio.Event()
        self._waiters[job.id].add(woken)
        try:
            while True:
                job = await read() or job
                now_ms = self._clock.monotonic_ms()
                if job.state.final or now_ms >= until_monotonic_ms or self._draining.is_set():
                    return job
                woken.clear()
                await self._clock.wait(woken, until_monotonic_ms=min(until_monotonic_ms, now_ms + READ_EVERY_MS))
        finally:
            self._waiters[job.id].discard(woken)
            if not self._waiters[job.id]:
                del self._waiters[job.id]
