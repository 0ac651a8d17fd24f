"""Attempts that ended are written: those that end while one commit is under way share the next.

An attempt is over for its task when its answer is there; one loop for all of them waits for the disk, instead of a task
each that is woken for it.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from relay import log
from relay.clock import Clock
from relay.errors import StorageUnavailable
from relay.lane import Lane
from relay.storage.deliveries import Deliveries, Parcel, Settled

TOGETHER_MAX: Final = 128
"""So many attempts share a commit."""
TRIES: Final = 20
PAUSE_MS: Final = 500
_logger = log.get("dispatch")


class Ended(msgspec.Struct, frozen=True):
    """An attempt that ended, and whose it was."""

    settled: Settled
    parcel: Parcel
    lane: Lane


class Settler:
    """Writes attempts in the order they ended. `done` hears of those of each commit, and whether they are stored.

    `turns_max` commits may be under way at once.
    `switched` is called when a commit disabled or enabled an endpoint: then there are notices that are due now.
    """

    def __init__(
        self,
        deliveries: Deliveries,
        clock: Clock,
        done: Callable[[Sequence[Ended], bool], None],
        switched: Callable[[], None],
        turns_max: int = 1,
    ) -> None:
        self._deliveries = deliveries
        self._clock = clock
        self._done = done
        self._switched = switched
        self._ended: list[Ended] = []
        self._turns: set[asyncio.Task[None]] = set()
        self._turns_max = turns_max

    def add(self, ended: Ended) -> None:
        """Has the attempt written, with whatever else waits."""
        self._ended.append(ended)
        if len(self._turns) < self._turns_max:
            self._turns.add(asyncio.create_task(self._take_turns(), name="settle"))

    async def finish(self, within_s: float) -> None:
        """Returns when nothing waits any more, or the time is over; a lease makes due again what is not written."""
        if self._turns:
            _, late = await asyncio.wait(self._turns, timeout=within_s)
            for turns in late:
                turns.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _take_turns(self) -> None:
        """Takes turns until nothing waits; whoever comes after that starts another task."""
        try:
            while self._ended:
                together, self._ended = self._ended[:TOGETHER_MAX], self._ended[TOGETHER_MAX:]
                await self._write(together)
        finally:
            self._turns = {turns for turns in self._turns if turns is not asyncio.current_task()}

    async def _write(self, together: list[Ended]) -> None:
        """One commit; when an attempt cannot be written, one for each, so that it fails alone."""
        stored = False
        try:
            if await self._settle([ended.settled for ended in together]):
                self._switched()
            stored = True
        except Exception as error:
            if len(together) > 1 and not isinstance(error, StorageUnavailable):
                for ended in together:
                    await self._write([ended])
                return
            for ended in together:
                _logger.error("delivery.attempt_broke", delivery=ended.parcel.delivery_id, exc_info=error)
        asyncio.get_running_loop().call_soon(self._done, together, stored)  # where that fails, the next go on

    async def _settle(self, settled: list[Settled]) -> bool:
        """Writes them; while the database is away it is tried again, until the lease makes them due elsewhere."""
        for _ in range(TRIES - 1):
            try:
                return await self._deliveries.settle(settled)
            except StorageUnavailable:
                settled = [msgspec.structs.replace(one, again=True) for one in settled]
                await self._clock.wait(asyncio.Event(), self._clock.now_ms() + PAUSE_MS)
        return await self._deliveries.settle(settled)
