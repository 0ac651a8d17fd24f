"""Attempts that ended are written, with whatever else waits for the same commit; and again while the database is away.

An attempt is over for its task when its answer is there: no task waits for the commit, its future says what came of it.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from relay import log
from relay.clock import Clock
from relay.deliveries.lane import Lane
from relay.errors import StorageUnavailable
from relay.storage.deliveries import Deliveries, Parcel, Settled

TRIES: Final = 20
PAUSE_MS: Final = 500
_logger = log.get("dispatch")


class Ended(msgspec.Struct, frozen=True):
    """An attempt that ended, whose it was, and when by the monotonic clock."""

    settled: Settled
    parcel: Parcel
    lane: Lane
    monotonic_ms: int = 0


class Settler:
    """Writes attempts. `done` hears of each whether it is stored.

    `switched` is called when one disabled or enabled its endpoint: then there are notices that are due now.
    """

    def __init__(
        self, deliveries: Deliveries, clock: Clock, done: Callable[[Ended, bool], None], switched: Callable[[], None]
    ) -> None:
        self._deliveries = deliveries
        self._clock = clock
        self._done = done
        self._switched = switched
        self._writing: set[asyncio.Future[bool]] = set()
        self._again: set[asyncio.Task[None]] = set()

    def add(self, ended: Ended, tries: int = 1) -> None:
        """Has the attempt written."""
        writing = self._deliveries.settling(ended.settled)
        self._writing.add(writing)
        writing.add_done_callback(partial(self._written, ended, tries))

    async def finish(self, within_s: float) -> None:
        """Returns when nothing waits any more, or the time is over; a lease makes due again what is not written."""
        clock_s = asyncio.get_running_loop().time
        ends_s = clock_s() + within_s
        while waiting := self._writing | self._again:
            await asyncio.wait(waiting, timeout=max(0.0, ends_s - clock_s()))
            if clock_s() >= ends_s:
                break
        late = self._again.copy()
        for again in late:
            again.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _written(self, ended: Ended, tries: int, writing: "asyncio.Future[bool]") -> None:
        """The commit is over, one way or the other."""
        self._writing.discard(writing)
        error = writing.exception()
        if isinstance(error, StorageUnavailable) and tries < TRIES:
            again = asyncio.create_task(self._later(ended, tries + 1), name="settle again")
            self._again.add(again)
            again.add_done_callback(self._again.discard)
            return
        if error is not None:
            _logger.error("delivery.attempt_broke", delivery=ended.parcel.delivery_id, exc_info=error)
        elif writing.result():
            self._switched()
        self._done(ended, error is None)

    async def _later(self, ended: Ended, tries: int) -> None:
        """The database is away; the commit whose answer was lost may stand."""
        await self._clock.sleep(PAUSE_MS)
        self.add(msgspec.structs.replace(ended, settled=msgspec.structs.replace(ended.settled, again=True)), tries)
