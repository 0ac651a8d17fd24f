"""What is due goes out: fresh deliveries from memory, the rest from the table, each endpoint in a lane of its own.

The table is the truth. What is handed over in memory is leased there, so what a crash loses is due again when its
lease runs out. What a full lane does not take, or could not begin while its lease lasts, is given back to the table,
due at once. The room for attempts is shared by the projects (`deliveries/fair_share.py`), and so is what is claimed:
nothing more for a project that has enough at hand to fill the room.

The table is looked at when something in it is due or another process says so, when a lane has room for what it held
back, and a while after anything else happened; not after every attempt, for a look is a transaction.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from relay import log
from relay.clock import Clock
from relay.deliveries.attempt import Deliverer
from relay.deliveries.attempt_writer import Ended, Settler
from relay.deliveries.fair_share import FairRoom
from relay.deliveries.lane import Lane
from relay.metrics import Metrics
from relay.model.delivery import Outcome
from relay.storage.deliveries import Parcel, Settled
from relay.storage.fan_out import Fresh
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
        self._waiting: dict[str, Lane] = {}
        self._held: set[str] = set()
        self._overflow: list[str] = []
        self._emptied: list[Lane] = []
        self._at_hand: dict[str, Parcel] = {}
        self._look_at: int | None = 0
        self._more = True
        self._walked = ""
        self._fair = FairRoom(options.in_flight_max)
        self._attempts: set[asyncio.Task[None]] = set()
        self._settler = Settler(store.deliveries, clock, self._settled, self.wake)
        self._wake = asyncio.Event()

    def hand_over(self, fresh: Sequence[Fresh]) -> None:
        """Takes new deliveries, straight after their commit; their lease began with it."""
        if not self._options.dispatches:
            return
        now_ms = self._clock.monotonic_ms()
        room = max(0, self._fair.room - len(self._at_hand))
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
        self._waiting.clear()
        if self._attempts:
            _, late = await asyncio.wait(self._attempts, timeout=within_s)
            for attempt in late:
                attempt.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._settler.finish(max(0.0, ends_s - clock_s()))
        if waiting:
            await self._store.deliveries.release(waiting, self._clock.now_ms())

    def _is_time(self, now_ms: int) -> bool:
        """Whether the table is to be looked at now."""
        return self._look_at is not None and self._look_at <= now_ms

    async def _look(self, now_ms: int) -> int:
        """Leases due deliveries for the lanes that have room; how many. Sets when to look again.

        What is due is a matter of the wall clock; when to look again, and how long a lease lasts here, is not.
        """
        room, wall_ms = self._fair.room, self._clock.now_ms()
        if room <= 0:
            self._look_at, self._more = now_ms + IDLE_MS, True
            return 0
        self._look_at = None  # whatever happens from here on may bring it forward again
        wanted = self._wanted(now_ms)
        lease = (wall_ms, wall_ms + self._options.lease_ms)
        claimed: Sequence[Parcel | Fresh] = await self._claim(*lease, room, wanted)
        due_at, crowded = (wall_ms, False) if claimed else await self._store.deliveries.next_due(wall_ms)
        if crowded or (not claimed and wanted.limited and due_at is not None and due_at <= wall_ms):
            claimed, self._walked = await self._store.deliveries.claim_behind(
                *lease, room, wanted.limits, self._walked, wanted.full
            )
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

    def _wanted(self, now_ms: int) -> "_Wanted":
        """What the lanes and the projects have room for."""
        lease_ms, most = self._options.lease_ms, self._options.in_flight_max
        wanted = _Wanted()
        at_hand: Counter[str] = Counter()
        for endpoint_id, lane in self._lanes.items():
            if lane.waiting and lane.opens_at(now_ms) <= now_ms:
                at_hand[lane.project_id] += lane.waiting
            if lane.capacity(lease_ms) < most:
                wanted.limited.add(endpoint_id)
                wanted.limits[endpoint_id] = lane.wants(now_ms, lease_ms)
            elif lane.crowded(now_ms):
                wanted.limits[endpoint_id] = 0
        wanted.full |= {one for one, waiting in at_hand.items() if waiting + self._fair.of(one) >= self._fair.alone}
        hungry = (one for one in wanted.limited if wanted.limits[one] and self._lanes[one].more)
        wanted.hungry |= {one: wanted.limits[one] for one in hungry if self._lanes[one].project_id not in wanted.full}
        return wanted

    async def _claim(self, now_ms: int, leased_until: int, room: int, wanted: "_Wanted") -> list[Parcel | Fresh]:
        """What is due, most of it with all that its attempt needs if it starts at once.

        A lane that can take only so many is asked for by itself, and the others together.
        """
        claimed: list[Parcel | Fresh] = []
        claimed += await self._store.deliveries.claim_for(now_ms, leased_until, wanted.hungry)
        if wanted.hungry:
            came = Counter(one.endpoint_id for one in claimed)
            for endpoint_id, limit in wanted.hungry.items():
                self._lanes[endpoint_id].more = came[endpoint_id] == limit
        busy = wanted.limited | wanted.limits.keys()
        parcels = await self._store.deliveries.claim(now_ms, leased_until, room, busy, wanted.full)
        self._at_hand |= {parcel.delivery_id: parcel for parcel in parcels}
        return [*claimed, *parcels]

    def _look_by(self, at_ms: int) -> None:
        """The table is to be looked at then, or before."""
        self._look_at = at_ms if self._look_at is None else min(self._look_at, at_ms)

    async def _give_back(self) -> None:
        """What found its lane full is the table's again, due at once."""
        if self._overflow:
            given, self._overflow = self._overflow, []
            await self._store.deliveries.release(given, self._clock.now_ms())
            self._more = True
            if any(lane.more and not lane.waiting for lane in self._emptied):
                self._look_at = 0  # what it has given back is claimed anew, with a lease that is long enough
            self._emptied.clear()

    def _queue(self, deliveries: Iterable[Fresh | Parcel], leased_until: int, *, retry: bool) -> None:
        """Puts deliveries into their lanes; one that is here already is left alone."""
        for delivery in deliveries:
            if delivery.delivery_id not in self._held:
                lane = self._lanes.get(delivery.endpoint_id) or self._new_lane(delivery)
                fits = not lane.waiting or lane.waiting - lane.begins < lane.capacity(self._options.lease_ms)
                if fits and lane.queue(delivery.delivery_id, leased_until, retry=retry):
                    self._held.add(delivery.delivery_id)
                    self._waiting[lane.endpoint_id] = lane
                else:
                    self._overflow.append(delivery.delivery_id)
                    lane.more = True

    def _new_lane(self, delivery: Fresh | Parcel) -> Lane:
        """A lane for an endpoint that has none; with its settings, where these came along."""
        lane = self._lanes[delivery.endpoint_id] = Lane(delivery.endpoint_id, delivery.project_id)
        if (parcel := self._at_hand.get(delivery.delivery_id)) is not None:
            self._learn(lane, parcel)
        return lane

    def _learn(self, lane: Lane, parcel: Parcel) -> None:
        """The lane knows its endpoint's settings from each of its deliveries."""
        now_ms = self._clock.monotonic_ms()
        lane.learn(parcel.in_flight_max, parcel.rate_limit_per_s, now_ms, round(parcel.timeout_s * 1000))

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
                parcel, now_ms = parcels.get(delivery_id), self._clock.monotonic_ms()
                if parcel is None or leased_until - now_ms < parcel.timeout_s * 1000:
                    lane.unpaid()
                    self._let_go(delivery_id, lane)
                    if parcel is not None and leased_until > now_ms:
                        self._overflow.append(delivery_id)
                        lane.more = True
                        self._emptied.append(lane)
                    continue
                self._learn(lane, parcel)
                attempt = asyncio.create_task(self._attempt(parcel, lane))
                self._attempts.add(attempt)
                attempt.add_done_callback(self._attempts.discard)

    def _choose(self) -> dict[str, tuple[Lane, int]]:
        """The next deliveries to start, from each project and each of its lanes in turn, counted as in flight."""
        if not self._waiting:
            return {}
        now_ms = self._clock.monotonic_ms()
        turns: dict[str, deque[Lane]] = {}
        for lane in list(self._waiting.values()):
            self._give_up(lane, now_ms)
            if lane.waiting:
                turns.setdefault(lane.project_id, deque()).append(lane)
            else:
                del self._waiting[lane.endpoint_id]

        def take(project_id: str) -> tuple[str, Lane, int] | None:
            lanes = turns[project_id]
            while lanes:
                lane = lanes.popleft()
                if taken := lane.take(now_ms):
                    if lane.waiting:
                        lanes.append(lane)
                    else:
                        del self._waiting[lane.endpoint_id]
                    return taken[0], lane, taken[1]
            return None

        return {delivery_id: (lane, leased) for delivery_id, lane, leased in self._fair.chosen(turns, take)}

    def _give_up(self, lane: Lane, now_ms: int) -> None:
        """What waited in its lane until its lease is too short for an attempt is the table's again."""
        for delivery_id, leased_until in lane.outlived(now_ms):
            self._held.discard(delivery_id)
            lane.more = True
            self._emptied.append(lane)
            if leased_until > now_ms:  # else it is due already, and may be another process's
                self._overflow.append(delivery_id)

    async def _attempt(self, parcel: Parcel, lane: Lane) -> None:
        """One attempt, from the request to its answer; its commit comes after."""
        try:
            settled = self._judged(lane, await self._deliverer.attempt(parcel))
            self._settler.add(Ended(settled, parcel, lane, self._clock.monotonic_ms()))
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
        self._look_by(ended.monotonic_ms + min(due_in_ms, IDLE_MS))
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
        lane.took(attempt.duration_ms)
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
        self._fair.ended(lane.project_id)
        lane.in_flight -= 1
        if lane.idle and len(self._lanes) > LANES_KEPT and self._lanes.get(lane.endpoint_id) is lane:
            del self._lanes[lane.endpoint_id]

    def _next_turn(self, now_ms: int) -> int | None:
        """When there is something to do without being woken: a look at the table, or a lane that opens again."""
        turns = [] if self._look_at is None else [self._look_at]
        for lane in self._waiting.values():
            turns += [at for at in (lane.opens_at(now_ms),) if at > now_ms]
            turns += [at for at in (lane.outlives_at(),) if at is not None]  # the past too: it is given back then
        if self._overflow:
            turns.append(now_ms)
        return min(turns, default=None)


class _Wanted(msgspec.Struct):
    """What may be claimed: `limits` by endpoint where there are any, 0 for busy ones; nothing of `full` projects.

    `limited` are the endpoints of which a claim could bring more than they can begin in time; `hungry` those of them
    that the table is known to hold more for.
    """

    limits: dict[str, int] = {}
    limited: set[str] = set()
    full: set[str] = set()
    hungry: dict[str, int] = {}
