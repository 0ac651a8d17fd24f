"""What is due goes out: fresh deliveries from memory, the rest from the table, each endpoint in a lane of its own.

The table is the truth. What is handed over in memory is leased there, so what a crash loses is due again when its
lease runs out; and what a lane cannot take in time is let go the same way.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from relay import log
from relay.clock import Clock
from relay.deliver import Deliverer
from relay.errors import StorageUnavailable
from relay.metrics import Metrics
from relay.storage.deliveries import Parcel, Settled
from relay.storage.record import Fresh
from relay.storage.store import Store

LANE_WAITING_MAX: Final = 1000
LANE_IN_FLIGHT: Final = 10
IDLE_MS: Final = 1000
"""How often the table is looked at while it holds due rows that no lane has room for, or that another process wrote."""
SETTLE_TRIES: Final = 20
_logger = log.get("dispatch")


class DispatchOptions(msgspec.Struct, frozen=True):
    """Attempts under way at once, and how long a claim lasts."""

    in_flight_max: int
    lease_ms: int


class _Lane:
    """One endpoint's deliveries in memory."""

    def __init__(self, endpoint_id: str) -> None:
        self.endpoint_id = endpoint_id
        self.waiting: deque[tuple[str, int]] = deque()
        self.in_flight = 0
        self.in_flight_max = LANE_IN_FLIGHT

    @property
    def busy(self) -> bool:
        """Whether what waits already fills the lane."""
        return self.in_flight + len(self.waiting) >= self.in_flight_max


class Dispatcher:
    """The loop over deliveries."""

    def __init__(
        self, store: Store, deliverer: Deliverer, clock: Clock, options: DispatchOptions, metrics: Metrics
    ) -> None:
        self._store = store
        self._deliverer = deliverer
        self._clock = clock
        self._options = options
        self._metrics = metrics
        self._lanes: dict[str, _Lane] = {}
        self._held: set[str] = set()
        self._attempts: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def hand_over(self, fresh: Iterable[Fresh]) -> None:
        """Takes new deliveries, straight after their commit; their lease began with it."""
        self._queue(fresh, self._clock.now_ms() + self._options.lease_ms)
        self._wake.set()

    async def run(self) -> None:
        """Claims and starts what is due, until it is cancelled."""
        while True:
            self._wake.clear()
            await self._start()
            now_ms = self._clock.now_ms()
            if await self._claim(now_ms):
                continue
            await self._clock.wait(self._wake, await self._next_look(now_ms))

    async def finish(self, within_s: float) -> None:
        """Waits for the attempts under way, and gives back what was not begun."""
        waiting = [delivery_id for lane in self._lanes.values() for delivery_id, _ in lane.waiting]
        self._lanes.clear()
        if self._attempts:
            _, late = await asyncio.wait(self._attempts, timeout=within_s)
            for attempt in late:
                attempt.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if waiting:
            await self._store.deliveries.release(waiting, self._clock.now_ms())

    async def _claim(self, now_ms: int) -> int:
        """Leases due deliveries for the lanes that have room; how many."""
        room = self._options.in_flight_max - len(self._attempts)
        if room <= 0:
            return 0
        busy = [endpoint_id for endpoint_id, lane in self._lanes.items() if lane.busy]
        claimed = await self._store.deliveries.claim(now_ms, now_ms + self._options.lease_ms, room, busy)
        self._queue(claimed, now_ms + self._options.lease_ms)
        return len(claimed)

    def _queue(self, fresh: Iterable[Fresh], leased_until: int) -> None:
        """Puts deliveries into their lanes; one that is here already, or finds its lane full, is left to the table."""
        for delivery in fresh:
            if delivery.delivery_id in self._held:
                continue
            lane = self._lanes.setdefault(delivery.endpoint_id, _Lane(delivery.endpoint_id))
            if len(lane.waiting) < LANE_WAITING_MAX:
                self._held.add(delivery.delivery_id)
                lane.waiting.append((delivery.delivery_id, leased_until))

    async def _start(self) -> None:
        """Starts as many attempts as there is room for, a lane at a time in turn."""
        while chosen := self._choose():
            try:
                parcels = {parcel.delivery_id: parcel for parcel in await self._store.deliveries.parcels(list(chosen))}
            except BaseException:
                for delivery_id, (lane, _) in chosen.items():
                    self._let_go(delivery_id, lane)
                raise
            for delivery_id, (lane, leased_until) in chosen.items():
                parcel = parcels.get(delivery_id)
                if parcel is None or leased_until - self._clock.now_ms() < parcel.timeout_s * 1000:
                    self._let_go(delivery_id, lane)
                    continue
                lane.in_flight_max = parcel.in_flight_max
                attempt = asyncio.create_task(self._attempt(parcel, lane), name=f"deliver {delivery_id}")
                self._attempts.add(attempt)
                attempt.add_done_callback(self._attempts.discard)

    def _choose(self) -> dict[str, tuple[_Lane, int]]:
        """The next deliveries to start, one from each lane in turn, and counts them as in flight."""
        room = self._options.in_flight_max - len(self._attempts)
        chosen: dict[str, tuple[_Lane, int]] = {}
        lanes = [lane for lane in self._lanes.values() if lane.waiting]
        while lanes and len(chosen) < room:
            for lane in lanes:
                if lane.waiting and lane.in_flight < lane.in_flight_max and len(chosen) < room:
                    delivery_id, leased_until = lane.waiting.popleft()
                    lane.in_flight += 1
                    chosen[delivery_id] = (lane, leased_until)
            lanes = [lane for lane in lanes if lane.waiting and lane.in_flight < lane.in_flight_max]
        return chosen

    async def _attempt(self, parcel: Parcel, lane: _Lane) -> None:
        """One attempt, from the request to its commit."""
        try:
            settled = await self._deliverer.attempt(parcel)
            await self._settle(settled)
            self._metrics.attempted(settled.attempt.outcome)
            _logger.info(
                "delivery.attempt_finished",
                delivery=parcel.delivery_id,
                endpoint=parcel.endpoint_id,
                about=parcel.event_id,
                outcome=settled.attempt.outcome,
                status_code=settled.attempt.status_code,
                attempt=settled.attempt.number,
                state=settled.state,
                duration_ms=settled.attempt.duration_ms,
            )
        except Exception as error:
            _logger.error("delivery.attempt_broke", delivery=parcel.delivery_id, exc_info=error)
        finally:
            self._let_go(parcel.delivery_id, lane)
            self._wake.set()

    async def _settle(self, settled: Settled) -> None:
        """Writes the attempt; while the database is away it is tried again, until the lease makes it due elsewhere."""
        for tries in range(SETTLE_TRIES):
            try:
                await self._store.deliveries.settle(settled)
            except StorageUnavailable:
                if tries == SETTLE_TRIES - 1:
                    raise
                await self._clock.wait(asyncio.Event(), self._clock.now_ms() + 500)
            else:
                return

    def _let_go(self, delivery_id: str, lane: _Lane) -> None:
        """The delivery is no longer in memory; a lane with nothing left is dropped."""
        self._held.discard(delivery_id)
        lane.in_flight -= 1
        if not lane.waiting and not lane.in_flight and self._lanes.get(lane.endpoint_id) is lane:
            del self._lanes[lane.endpoint_id]

    async def _next_look(self, claimed_ms: int) -> int | None:
        """When to look at the table again: at the next due time, but a while later for what no lane had room for."""
        due_at = await self._store.deliveries.next_due()
        return due_at if due_at is None or due_at > claimed_ms else claimed_ms + IDLE_MS
