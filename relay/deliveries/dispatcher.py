"""The dispatcher: puts new deliveries from memory and due ones from the table into lanes, and starts their attempts.

The table is the truth. A delivery that is enqueued in memory is leased there, so after a crash it is due again when its
lease ends. What a lane cannot start within the lease is released to the table, due immediately. The projects share the
slots for attempts (`turns.py`) and the claims: nothing is claimed for a project that holds enough to fill its slots.
Of a project's slots, a quarter is for endpoints whose last attempt succeeded: however many hang, those are not delayed.

The table is polled when something in it is due, when another process notifies it, when a lane has free slots for what
the last poll left, and a second after anything else happened. It is not polled after every attempt, because a poll is a
transaction.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from relay import log
from relay.clock import Clock
from relay.deliveries.attempt import Deliverer
from relay.deliveries.attempt_writer import write_attempt
from relay.deliveries.lane import Lane, QueuedDelivery
from relay.deliveries.turns import Turns
from relay.metrics import Metrics
from relay.model.delivery import DeliveryState, Outcome
from relay.security.fair_share import FairShare
from relay.storage.deliveries import AttemptResult, ClaimRequest, DeliveryKey, DueDelivery
from relay.storage.fan_out import NewDelivery
from relay.storage.store import Store

POLL_PAUSE_MS: Final = 1000
"""The pause between polls while the table holds due deliveries for full lanes, or another process writes to it."""
POLL_PAUSE_MAX_MS: Final = 60_000
"""The longest pause until a delivery is due: if the wall clock is set forward, nothing waits longer than this."""
LANES_KEPT: Final = 1000
"""Above this many, a lane is dropped when it is idle; lanes are kept because they know their endpoint's settings."""
LOADED_MAX: Final = 1000
"""So many deliveries wait in their lanes with the row that they came with; the others' are read when they start."""
LOADED_MS: Final = 1000
"""So long such a row is used: a change of its endpoint by another process counts from then on, one here immediately."""
_logger = log.get("dispatch")


class DispatchOptions(msgspec.Struct, frozen=True):
    """How many attempts may be under way, and how long a claim lasts."""

    in_flight_max: int
    lease_ms: int


class _Loaded(msgspec.Struct, frozen=True):
    """A row that came with a delivery, from a commit or a claim, and until when it is used (monotonic ms)."""

    row: DueDelivery
    until_ms: int


class Dispatcher:
    """The loop over deliveries. Fields named `…_ms` are monotonic milliseconds."""

    def __init__(
        self, store: Store, deliverer: Deliverer, clock: Clock, options: DispatchOptions, metrics: Metrics
    ) -> None:
        self._store = store
        self._deliverer = deliverer
        self._clock = clock
        self._options = options
        self._metrics = metrics
        self._share = FairShare(options.in_flight_max)
        self._turns = Turns(self._share, options.in_flight_max)
        self._lanes: dict[str, Lane] = {}
        self._queued_ids: set[str] = set()
        """The deliveries that wait in a lane or are in flight."""
        self._loaded: dict[str, _Loaded] = {}
        """The rows that came with deliveries that wait in a lane."""
        self._changes_seen = store.endpoints.changes
        self._attempts: set[asyncio.Task[None]] = set()
        self._to_release: list[DeliveryKey] = []
        self._poll_after_release = False
        self._walked_to = ""
        self._next_poll_at_ms: int | None = 0
        self._breakers_unsure = False
        """Whether another process may have closed an open breaker, by a probe or by enabling the endpoint."""
        self._due_in_table = True
        """Whether the last poll left due deliveries in the table, for want of free slots."""
        self._wake = asyncio.Event()

    def enqueue(self, fresh: Sequence[NewDelivery]) -> None:
        """Put new deliveries into their lanes, after the commit that leased them from the time of their event on."""
        if not self._store.lease.dispatches:
            return
        now_ms = self._clock.monotonic_ms()
        event = fresh[0].event if fresh else None
        late_ms = 0 if event is None else max(0, self._clock.now_ms() - event.created_at)
        self._store.deliveries.keep_bodies(fresh)
        room = max(0, LOADED_MAX - len(self._loaded))
        self._keep_rows(self._store.deliveries.at_hand(fresh[:room]), now_ms)
        self._enqueue(fresh, now_ms - late_ms, retry=False)
        self._poll_by(now_ms + POLL_PAUSE_MS)
        self._wake.set()

    def wake(self) -> None:
        """Poll the table now: another process or an operator made deliveries due, or reopened an endpoint."""
        self._next_poll_at_ms = 0
        self._breakers_unsure = True
        self._wake.set()

    def reopen(self, endpoint_id: str) -> None:
        """Close the breaker of an endpoint that an operator repaired, and poll."""
        if lane := self._lanes.get(endpoint_id):
            self._close_breaker(lane)
        self.wake()

    def probed(self, result: AttemptResult) -> AttemptResult:
        """Apply the result of a probe that a client asked for to its lane, and return it with the breaker's end."""
        self._metrics.attempted(result.attempt.outcome)
        lane = self._lanes.get(result.endpoint_id)
        if lane is None:
            return result
        applied = self._update_lane(lane, result)
        self._turns.offer(lane, self._clock.monotonic_ms())
        return applied

    async def run(self) -> None:
        """Claim due deliveries and start their attempts, until cancelled."""
        self._next_poll_at_ms = 0
        while True:
            self._wake.clear()
            await self._release()
            await self._start_attempts()
            now_ms = self._clock.monotonic_ms()
            if not self._poll_is_due(now_ms) or not await self._poll(now_ms):
                await self._clock.wait(self._wake, until_monotonic_ms=self._next_turn_ms(now_ms))

    async def finish(self, within_s: float) -> None:
        """Wait for the attempts under way and their commits, and cancel one that takes longer.

        What was not started or was cancelled is given back with everything else that the process leases
        (`storage/boots.py`).
        """
        self._lanes.clear()
        self._turns.clear()
        if self._attempts:
            _, late = await asyncio.wait(self._attempts, timeout=within_s)
            for attempt in late:
                attempt.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _release(self) -> None:
        """Return to the table, due immediately, what its lane could not start in time."""
        if not self._to_release:
            return
        released, self._to_release = self._to_release, []
        await self._store.deliveries.release(released, self._clock.now_ms())
        self._due_in_table = True
        if self._poll_after_release:
            self._next_poll_at_ms, self._poll_after_release = 0, False

    def _poll_is_due(self, now_ms: int) -> bool:
        """Return whether to poll the table now."""
        return self._next_poll_at_ms is not None and self._next_poll_at_ms <= now_ms

    async def _poll(self, now_ms: int) -> bool:
        """Claim due deliveries for the lanes that have free slots; return whether there were any.

        Set when to poll next. A delivery is due by the wall clock; polls and leases in memory are monotonic.
        """
        if self._share.free_slots <= 0:
            self._next_poll_at_ms, self._due_in_table = now_ms + POLL_PAUSE_MS, True
            return False
        self._next_poll_at_ms = None  # what happens during the claim may set it again
        if self._breakers_unsure:
            await self._close_breakers()
        request = self._claim_request(now_ms)
        refilled = [(self._lanes[endpoint_id], limit) for endpoint_id, limit in request.refills.items()]
        result = await self._store.deliveries.claim(request)
        self._walked_to = result.walked_to
        claimed_of = Counter(claimed.endpoint_id for claimed in result.deliveries)
        for lane, limit in refilled:
            lane.more_in_table = claimed_of[lane.endpoint_id] == limit
        self._keep_rows((row for row in result.deliveries if isinstance(row, DueDelivery)), now_ms)
        self._enqueue(result.deliveries, now_ms, retry=True)
        if result.deliveries or result.walked_to:
            self._next_poll_at_ms = now_ms
            return bool(result.deliveries)
        due_in_ms = None if result.next_due_at is None else result.next_due_at - request.now_ms
        self._due_in_table = due_in_ms is not None and due_in_ms <= 0
        if self._due_in_table or self._store.shared:
            self._poll_by(now_ms + POLL_PAUSE_MS)
        if due_in_ms is not None and due_in_ms > 0:
            self._poll_by(now_ms + min(due_in_ms, POLL_PAUSE_MAX_MS))
        return False

    async def _close_breakers(self) -> None:
        """Close the breakers that are no longer open in the table; those with an attempt under way may be written."""
        self._breakers_unsure = False
        unsure = [
            lane for lane in self._lanes.values() if lane.circuit_open_until_ms is not None and not lane.in_flight
        ]
        if unsure:
            closed = await self._store.deliveries.not_held([lane.endpoint_id for lane in unsure])
            for lane in unsure:
                if lane.endpoint_id in closed:
                    self._close_breaker(lane)

    def _close_breaker(self, lane: Lane) -> None:
        """Let a lane continue whose endpoint was repaired."""
        lane.record_success()
        self._turns.offer(lane, self._clock.monotonic_ms())

    def _claim_request(self, now_ms: int) -> ClaimRequest:
        """Return what the free slots of lanes and projects allow to claim."""
        limits: dict[str, int] = {}
        refills: dict[str, int] = {}
        startable: Counter[str] = Counter()
        for endpoint_id, lane in self._lanes.items():
            if lane.queued and lane.opens_at_ms(now_ms) <= now_ms:
                startable[lane.project_id] += lane.queued
            if lane.capacity < self._options.in_flight_max:
                limits[endpoint_id] = lane.claimable(now_ms)
                if limits[endpoint_id] and lane.more_in_table:
                    refills[endpoint_id] = limits[endpoint_id]
            elif lane.full(now_ms):
                limits[endpoint_id] = 0
        share = self._share
        full = {one for one, queued in startable.items() if queued + share.in_flight(one) >= share.project_max}
        now_wall_ms = self._clock.now_ms()
        return ClaimRequest(
            now_ms=now_wall_ms,
            leased_until_ms=now_wall_ms + self._options.lease_ms,
            boot=self._store.lease.boot,
            limit=share.free_slots,
            endpoint_limits=limits,
            refills={one: limit for one, limit in refills.items() if self._lanes[one].project_id not in full},
            full_projects=full,
            walked_to=self._walked_to,
        )

    def _poll_by(self, at_ms: int) -> None:
        """Poll the table at that time or earlier."""
        self._next_poll_at_ms = at_ms if self._next_poll_at_ms is None else min(self._next_poll_at_ms, at_ms)

    def _enqueue(self, deliveries: Iterable[NewDelivery | DueDelivery], leased_at_ms: int, *, retry: bool) -> None:
        """Put deliveries into their lanes, without those that are there already; release what does not fit."""
        leased_until_ms, now_ms = leased_at_ms + self._options.lease_ms, self._clock.monotonic_ms()
        for delivery in deliveries:
            delivery_id = delivery.delivery_id
            if delivery_id in self._queued_ids:
                self._loaded.pop(delivery_id, None)
                continue
            lane = self._lanes.get(delivery.endpoint_id) or self._new_lane(delivery)
            if lane.enqueue(delivery_id, leased_until_ms, retry=retry):
                self._queued_ids.add(delivery_id)
                self._turns.offer(lane, now_ms)
            else:
                self._loaded.pop(delivery_id, None)
                self._to_release.append(DeliveryKey(lane.project_id, delivery_id))
                lane.more_in_table = True

    def _new_lane(self, delivery: NewDelivery | DueDelivery) -> Lane:
        """Return a new lane, with its endpoint's settings where the delivery's row is loaded."""
        lane = Lane(delivery.endpoint_id, delivery.project_id, self._options.lease_ms)
        self._lanes[delivery.endpoint_id] = lane
        if (loaded := self._loaded.get(delivery.delivery_id)) is not None:
            self._configure(lane, loaded.row)
        return lane

    def _configure(self, lane: Lane, row: DueDelivery) -> None:
        """Apply the endpoint's settings to its lane."""
        timeout_ms = round(row.timeout_s * 1000)
        now_ms = self._clock.monotonic_ms()
        if lane.configure(row.in_flight_max, row.rate_limit_per_s, timeout_ms, now_ms):
            self._turns.offer(lane, now_ms)

    async def _start_attempts(self) -> None:
        """Start attempts until no slot is free or every lane is empty or blocked; read the rows that are not here."""
        while selected := self._select():
            now_ms, unread = self._clock.monotonic_ms(), []
            for queued in selected:
                if (row := self._pop_row(queued, now_ms)) is not None:
                    self._start(queued, row)
                else:
                    unread.append(queued)
            rows = await self._load(unread)
            for queued in unread:
                self._start(queued, rows.get(queued.delivery_id))

    def _keep_rows(self, rows: Iterable[DueDelivery], now_ms: int) -> None:
        """Keep the rows of deliveries that are enqueued, for their attempts."""
        until_ms = now_ms + LOADED_MS
        self._loaded |= {row.delivery_id: _Loaded(row, until_ms) for row in rows}

    def _pop_row(self, queued: QueuedDelivery, now_ms: int) -> DueDelivery | None:
        """Return the row that came with a delivery; None where it is too old, or an endpoint has changed since."""
        if self._changes_seen != self._store.endpoints.changes:
            self._changes_seen = self._store.endpoints.changes
            self._loaded.clear()
        loaded = self._loaded.pop(queued.delivery_id, None)
        return loaded.row if loaded is not None and now_ms <= loaded.until_ms else None

    def _select(self) -> list[QueuedDelivery]:
        """Return the next deliveries to attempt, counted as in flight; release those whose lease became too short."""
        now_ms = self._clock.monotonic_ms()
        for queued in self._turns.expire(now_ms):
            self._queued_ids.discard(queued.delivery_id)
            self._loaded.pop(queued.delivery_id, None)
            self._release_later(queued, now_ms)
        return self._turns.select(now_ms)

    def _release_later(self, queued: QueuedDelivery, now_ms: int) -> None:
        """Release a delivery in the next turn; if its lane is then empty, poll, so that it gets a lease long enough."""
        queued.lane.more_in_table = True
        self._poll_after_release |= not queued.lane.queued
        if queued.leased_until_ms > now_ms:  # otherwise it is due already, and may be another process's
            self._to_release.append(_key(queued))

    async def _load(self, selected: Sequence[QueuedDelivery]) -> dict[str, DueDelivery]:
        """Return the rows of the selected deliveries by id, without those that are no longer pending."""
        if not selected:
            return {}
        try:
            found = await self._store.deliveries.due_deliveries([_key(queued) for queued in selected])
        except BaseException:
            for queued in selected:
                self._free(queued)
            raise
        return {row.delivery_id: row for row in found}

    def _start(self, queued: QueuedDelivery, row: DueDelivery | None) -> None:
        """Start the attempt, unless the delivery is no longer pending or its lease is shorter than the time-out."""
        now_ms = self._clock.monotonic_ms()
        if row is not None and queued.leased_until_ms - now_ms >= row.timeout_s * 1000:
            self._configure(queued.lane, row)
            attempt = asyncio.create_task(self._attempt(row, queued))
            self._attempts.add(attempt)
            attempt.add_done_callback(self._attempts.discard)
            return
        queued.lane.return_interval()
        self._free(queued)
        if row is not None:
            self._release_later(queued, now_ms)

    async def _attempt(self, row: DueDelivery, queued: QueuedDelivery) -> None:
        """Send the notification, store the attempt and free its slot; if not stored, it is repeated after the lease."""
        try:
            result = self._update_lane(queued.lane, await self._deliverer.attempt(row))
            if result.state is DeliveryState.DELIVERED and not result.gone:
                # The receiver is free, and its next notification need not wait for this one's commit. After any other
                # answer it does: that commit may disable the endpoint.
                queued.lane.leave(queued)
                self._turns.offer(queued.lane, self._clock.monotonic_ms())
                self._wake.set()
            ended_at_ms = self._clock.monotonic_ms()
            # Until it is stored it has a slot, of which the next attempts may be short.
            patient = result.is_plain and 2 * self._share.free_slots >= self._options.in_flight_max
            switched = await write_attempt(self._store.deliveries, result, self._clock, patient=patient)
        except Exception as error:
            _logger.error("delivery.attempt_error", delivery=row.delivery_id, exc_info=error)
            self._finished(queued)
            return
        if switched:
            self._loaded.clear()
            self._next_poll_at_ms = 0
        self._finished(queued)
        retry_in_ms = POLL_PAUSE_MS if result.next_attempt_at is None else result.next_attempt_at - result.at
        self._poll_by(ended_at_ms + min(retry_in_ms, POLL_PAUSE_MS))
        attempt = result.attempt
        self._metrics.attempted(attempt.outcome)
        self._store.statistics.attempted(row, result)
        _logger.info(
            "delivery.attempt_finished",
            delivery=attempt.delivery_id,
            endpoint=result.endpoint_id,
            event_id=row.event_id,
            outcome=attempt.outcome,
            status_code=attempt.status_code,
            attempt=attempt.number,
            state=result.state,
            duration_ms=attempt.duration_ms,
        )

    def _update_lane(self, lane: Lane, result: AttemptResult) -> AttemptResult:
        """Apply the result to its lane; return it with the breaker's end, which the endpoint's status shows."""
        attempt, now_ms = result.attempt, self._clock.monotonic_ms()
        lane.record_duration(attempt.duration_ms)
        opened, was_open = False, lane.circuit_open_until_ms is not None
        if attempt.outcome is Outcome.OK:
            lane.record_success()
        elif not result.aborted:
            opened = lane.record_failure(now_ms, attempt.status_code, result.retry_after_ms)
        if lane.circuit_open_until_ms is None:
            return msgspec.structs.replace(result, breaker="reopened") if was_open else result
        open_until = result.at + lane.circuit_open_until_ms - now_ms
        if opened:
            _logger.warning("lane.circuit_opened", endpoint=lane.endpoint_id, until=open_until)
        breaker = ("probe_failed" if was_open else "held") if opened else None
        return msgspec.structs.replace(result, held_until=open_until, breaker=breaker)

    def _finished(self, queued: QueuedDelivery) -> None:
        """Free the slot of an attempt, and poll where its lane has nothing else to start."""
        self._free(queued)
        if self._due_in_table and not queued.lane.queued:
            self._next_poll_at_ms = 0
        self._wake.set()

    def _free(self, queued: QueuedDelivery) -> None:
        """Forget a delivery that was in flight; drop its lane where it is idle and there are many."""
        lane = queued.lane
        self._queued_ids.discard(queued.delivery_id)
        self._turns.release(queued, self._clock.monotonic_ms())
        if len(self._lanes) > LANES_KEPT and lane.idle and self._lanes.get(lane.endpoint_id) is lane:
            del self._lanes[lane.endpoint_id]

    def _next_turn_ms(self, now_ms: int) -> int | None:
        """Return when to continue without being woken: for a poll, a lane that opens, or a lease that expires."""
        turns = [] if self._next_poll_at_ms is None else [self._next_poll_at_ms]
        if (alarm_ms := self._turns.next_ms) is not None:
            turns.append(alarm_ms)
        if self._to_release:
            turns.append(now_ms)
        return min(turns, default=None)


def _key(queued: QueuedDelivery) -> DeliveryKey:
    """Return what the delivery's row is found by."""
    return DeliveryKey(queued.lane.project_id, queued.delivery_id)
