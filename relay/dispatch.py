"""What is due goes out: fresh deliveries from memory, the rest from the table, each endpoint in a lane of its own.

The table is the truth. What is handed over in memory is leased there, so what a crash loses is due again when its
lease runs out. What a full lane does not take is given back to the table, due at once.

The table is looked at when something in it is due or another process says so, when a lane has room for what it held
back, and a while after anything else happened; not after every attempt, for a look is a transaction.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from relay import log
from relay.clock import Clock
from relay.deliver import Deliverer
from relay.lane import Lane
from relay.metrics import Metrics
from relay.outbox import Outcome
from relay.settling import Ended, Settler
from relay.storage.deliveries import Parcel, Settled
from relay.storage.fanout import Fresh
from relay.storage.store import Store

IDLE_MS: Final = 1000
"""How often the table is looked at while it holds due rows that no lane has room for, or that another process wrote."""
WALL_MS: Final = 60_000
"""How often at least, so that what is due when somebody has set the wall clock forward waits no longer than this."""
LANES_KEPT: Final = 1000
"""So many lanes stay in memory with nothing in them, for they know their endpoint's settings."""
_logger = log.get("dispatch")


class DispatchOptions(msgspec.Struct, frozen=True):
    """Attempts under way at once, how long a claim lasts, and whether this process sends at all."""

    in_flight_max: int
    lease_ms: int
    dispatches: bool = True


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
        self._lanes: dict[str, Lane] = {}
        self._held: set[str] = set()
        self._overflow: list[str] = []
        self._at_hand: dict[str, Parcel] = {}
        self._look_at: int | None = 0
        self._more = True
        self._walked = ""
        self._in_flight = 0
        self._attempts: set[asyncio.Task[None]] = set()
        self._settler = Settler(store.deliveries, clock, self._settled, self.wake)
        self._wake = asyncio.Event()

    def hand_over(self, fresh: Sequence[Fresh]) -> None:
        """Takes new deliveries, straight after their commit; their lease began with it."""
        if not self._options.dispatches:
            return
        now_ms = self._clock.monotonic_ms()
        room = max(0, self._room - len(self._at_hand))
        self._at_hand |= {parcel.delivery_id: parcel for parcel in self._store.deliveries.at_hand(fresh[:room])}
        self._queue(fresh, now_ms + self._options.lease_ms, retry=False)
        self._look_by(now_ms + IDLE_MS)
        self._wake.set()

    def wake(self) -> None:
        """Something in the table may be due: another process, or a person, has seen to that."""
        self._look_at = 0
        self._wake.set()

    def reopen(self, endpoint_id: str) -> None:
        """The endpoint was mended by a person: its breaker closes."""
        if lane := self._lanes.get(endpoint_id):
            lane.succeeded()
        self.wake()

    async def run(self) -> None:
        """Claims and starts what is due, until it is cancelled."""
        self._look_at = 0
        while True:
            self._wake.clear()
            await self._give_back()
            await self._start()
            now_ms = self._clock.monotonic_ms()
            if not self._is_time(now_ms) or not await self._look(now_ms):
                await self._clock.wait(self._wake, until_monotonic_ms=self._next_turn(now_ms))

    async def finish(self, within_s: float) -> None:
        """Waits for the attempts under way and their commits, and gives back what was not begun."""
        clock_s = asyncio.get_running_loop().time
        ends_s = clock_s() + within_s
        waiting = [delivery_id for lane in self._lanes.values() for delivery_id, _ in (*lane.fresh, *lane.retries)]
        waiting += self._overflow
        self._lanes.clear()
        if self._attempts:
            _, late = await asyncio.wait(self._attempts, timeout=within_s)
            for attempt in late:
                attempt.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._settler.finish(max(0.0, ends_s - clock_s()))
        if waiting:
            await self._store.deliveries.release(waiting, self._clock.now_ms())

    @property
    def _room(self) -> int:
        """How many more may be under way, from their choice to their commit."""
        return self._options.in_flight_max - self._in_flight

    def _is_time(self, now_ms: int) -> bool:
        """Whether the table is to be looked at now."""
        return self._look_at is not None and self._look_at <= now_ms

    async def _look(self, now_ms: int) -> int:
        """Leases due deliveries for the lanes that have room; how many. Sets when to look again.

        What is due is a matter of the wall clock; when to look again, and how long a lease lasts here, is not.
        """
        room, wall_ms = self._room, self._clock.now_ms()
        if room <= 0:
            self._look_at, self._more = now_ms + IDLE_MS, True
            return 0
        self._look_at = None  # whatever happens from here on may bring it forward again
        busy = {endpoint_id for endpoint_id, lane in self._lanes.items() if lane.crowded(now_ms)}
        lease = (wall_ms, wall_ms + self._options.lease_ms)
        claimed: Sequence[Parcel | Fresh] = await self._claim(*lease, room, busy)
        due_at, crowded = (wall_ms, False) if claimed else await self._store.deliveries.next_due(wall_ms)
        if crowded:
            claimed, self._walked = await self._store.deliveries.claim_behind(*lease, room, busy, self._walked)
        else:
            self._walked = ""
        self._queue(claimed, now_ms + self._options.lease_ms, retry=True)
        if claimed or self._walked:
            self._look_at = now_ms  # these are on their way first
            return len(claimed)
        self._more = due_at is not None and due_at <= wall_ms
        if self._more or self._store.shared:
            self._look_by(now_ms + IDLE_MS)
        if due_at is not None and not self._more:
            self._look_by(now_ms + min(due_at - wall_ms, WALL_MS))
        return 0

    async def _claim(self, now_ms: int, leased_until: int, room: int, busy: set[str]) -> list[Parcel]:
        """What is due, with all that its attempt needs if it starts at once."""
        claimed = await self._store.deliveries.claim(now_ms, leased_until, room, busy)
        self._at_hand |= {parcel.delivery_id: parcel for parcel in claimed}
        return claimed

    def _look_by(self, at_ms: int) -> None:
        """The table is to be looked at then, or before."""
        self._look_at = at_ms if self._look_at is None else min(self._look_at, at_ms)

    async def _give_back(self) -> None:
        """What found its lane full is the table's again, due at once."""
        if self._overflow:
            given, self._overflow = self._overflow, []
            await self._store.deliveries.release(given, self._clock.now_ms())
            self._more = True

    def _queue(self, deliveries: Iterable[Fresh | Parcel], leased_until: int, *, retry: bool) -> None:
        """Puts deliveries into their lanes; one that is here already is left alone."""
        for delivery in deliveries:
            if delivery.delivery_id not in self._held:
                lane = self._lanes.get(delivery.endpoint_id)
                if lane is None:
                    lane = self._lanes[delivery.endpoint_id] = Lane(delivery.endpoint_id)
                if lane.queue(delivery.delivery_id, leased_until, retry=retry):
                    self._held.add(delivery.delivery_id)
                else:
                    self._overflow.append(delivery.delivery_id)

    async def _start(self) -> None:
        """Starts as many attempts as there is room for, a lane at a time in turn.

        What came just now goes as it came; what has waited in its lane since is read again.
        """
        at_hand, self._at_hand = self._at_hand, {}
        while chosen := self._choose():
            parcels, at_hand = at_hand, {}
            unread = chosen.keys() - parcels.keys()
            try:
                read = await self._store.deliveries.parcels(unread) if unread else []
                parcels |= {parcel.delivery_id: parcel for parcel in read}
            except BaseException:
                for delivery_id, (lane, _) in chosen.items():
                    self._let_go(delivery_id, lane)
                raise
            for delivery_id, (lane, leased_until) in chosen.items():
                parcel = parcels.get(delivery_id)
                if parcel is None or leased_until - self._clock.monotonic_ms() < parcel.timeout_s * 1000:
                    self._let_go(delivery_id, lane)
                    continue
                lane.learn(parcel.in_flight_max, parcel.rate_limit_per_s, self._clock.monotonic_ms())
                attempt = asyncio.create_task(self._attempt(parcel, lane))
                self._attempts.add(attempt)
                attempt.add_done_callback(self._attempts.discard)

    def _choose(self) -> dict[str, tuple[Lane, int]]:
        """The next deliveries to start, one from each lane in turn, and counts them as in flight."""
        now_ms = self._clock.monotonic_ms()
        chosen: dict[str, tuple[Lane, int]] = {}
        lanes = [lane for lane in self._lanes.values() if lane.waiting]
        while lanes and self._room > 0:
            going_on = []
            for lane in lanes:
                taken = lane.take(now_ms) if self._room > 0 else None
                if taken is not None:
                    chosen[taken[0]] = (lane, taken[1])
                    self._in_flight += 1
                    going_on.append(lane)
            lanes = going_on
        return chosen

    async def _attempt(self, parcel: Parcel, lane: Lane) -> None:
        """One attempt, from the request to its answer; its commit comes after."""
        try:
            settled = self._judged(lane, await self._deliverer.attempt(parcel))
            self._settler.add(Ended(settled, parcel, lane))
        except Exception as error:
            _logger.error("delivery.attempt_broke", delivery=parcel.delivery_id, exc_info=error)
            self._over(parcel.delivery_id, lane)

    def _settled(self, ended: Ended, stored: bool) -> None:
        """What follows the commit of an attempt; one that was not stored is made again when its lease runs out."""
        self._over(ended.parcel.delivery_id, ended.lane)
        if not stored:
            return
        settled, attempt = ended.settled, ended.settled.attempt
        due_in_ms = IDLE_MS if settled.next_attempt_at is None else settled.next_attempt_at - settled.at
        self._look_by(self._clock.monotonic_ms() + min(due_in_ms, IDLE_MS))
        self._metrics.attempted(attempt.outcome)
        _logger.info(
            "delivery.attempt_finished",
            delivery=attempt.delivery_id,
            endpoint=settled.endpoint_id,
            about=ended.parcel.event_id,
            outcome=attempt.outcome,
            status_code=attempt.status_code,
            attempt=attempt.number,
            state=settled.state,
            duration_ms=attempt.duration_ms,
        )

    def _over(self, delivery_id: str, lane: Lane) -> None:
        """Its lane has room again."""
        self._let_go(delivery_id, lane)
        if self._more and not lane.waiting:
            self._look_at = 0
        self._wake.set()

    def _judged(self, lane: Lane, settled: Settled) -> Settled:
        """The lane after an attempt; while its breaker is open its endpoint shows as held."""
        attempt, now_ms = settled.attempt, self._clock.monotonic_ms()
        opened = False
        if attempt.outcome is Outcome.OK:
            lane.succeeded()
        elif not settled.aborted:
            opened = lane.failed(now_ms, attempt.status_code, settled.retry_after_ms)
        if lane.held_until is None:
            return settled
        held_until = settled.at + lane.held_until - now_ms
        if opened:
            _logger.warning("lane.held", endpoint=lane.endpoint_id, until=held_until)
        return msgspec.structs.replace(settled, held_until=held_until)

    def _let_go(self, delivery_id: str, lane: Lane) -> None:
        """The delivery is no longer in memory; of many lanes, one with nothing left is dropped."""
        self._held.discard(delivery_id)
        self._in_flight -= 1
        lane.in_flight -= 1
        if lane.idle and len(self._lanes) > LANES_KEPT and self._lanes.get(lane.endpoint_id) is lane:
            del self._lanes[lane.endpoint_id]

    def _next_turn(self, now_ms: int) -> int | None:
        """When there is something to do without being woken: a look at the table, or a lane that opens again."""
        turns = [] if self._look_at is None else [self._look_at]
        turns += [at for lane in self._lanes.values() if lane.waiting and (at := lane.opens_at(now_ms)) > now_ms]
        return min(turns, default=None)
