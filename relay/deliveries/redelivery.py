"""Redeliveries: one delivery once more, a test, or a batch of what an endpoint lacks, no faster than its lane sends."""

import asyncio
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec

from relay import log
from relay.clock import Clock
from relay.deliveries.dispatcher import Dispatcher
from relay.errors import Conflict
from relay.model import ids
from relay.model.delivery import Delivery, DeliveryState, Endpoint, EventSelection, Redelivery
from relay.model.job import EventType, Job
from relay.storage.endpoint_status import endpoint_event
from relay.storage.fan_out import NewDelivery, new_delivery, new_redelivery
from relay.storage.idempotency import Tie
from relay.storage.redeliveries import OPEN_MAX, UNDELIVERED, Found, Step
from relay.storage.store import Store

PENDING_MAX: Final = 200
"""A batch continues while fewer deliveries wait for its endpoint, so that it sends at the lane's own rate."""
EVENTS_PER_STEP: Final = 100
PAUSE_MS: Final = 1_000
POLL_PAUSE_MS: Final = 5_000
"""The pause between polls for batches that did not wake the loop: of another process, or of a probe that succeeded."""
_logger = log.get("redeliver")

TieOf = Callable[[Any], Tie | None]
"""Returns what ties the Idempotency-Key of the current request, if it has one, to what is about to be stored."""


def no_tie(_: Any) -> None:
    """Return no tie: the caller has no Idempotency-Key."""


class Redeliverer:
    """Makes redeliveries, and the loop that works through the batches."""

    def __init__(self, store: Store, clock: Clock, dispatcher: Dispatcher) -> None:
        self._store = store
        self._clock = clock
        self._dispatcher = dispatcher
        self._after_batch = ""
        """The batch after which the next turn starts; "" for the first."""
        self._wake = asyncio.Event()

    async def redeliver(self, delivery: Delivery, tie_of: TieOf = no_tie) -> Delivery:
        """Send the event to the endpoint once more, as a new delivery; Conflict if one of them was deleted."""
        endpoint = await self._store.endpoints.get(delivery.endpoint_id, delivery.project_id)
        event = await self._store.events.get(delivery.event_id, delivery.project_id)
        if endpoint is None or event is None:
            raise Conflict("the endpoint of this delivery was deleted")
        _require_active(endpoint)
        now_ms = self._clock.now_ms()
        made = new_redelivery(event, endpoint.id, now_ms, now_ms + self._store.lease.ms, self._store.lease.boot)
        if not await self._store.redeliveries.once_more(made, tie_of(made)):
            raise Conflict("the event of this delivery was pruned")
        return self._enqueue(made)

    async def redeliver_job(self, job: Job) -> None:
        """Send a job's events again to each endpoint that has not accepted them; what waits for a retry is due now.

        Conflict where every endpoint has accepted them, or where nothing can be sent: that of the last one says why.
        """
        now_ms, lease_ms = self._clock.now_ms(), self._store.lease.ms
        lacking = lacking_deliveries(await self._store.deliveries.of_job(job.id))
        if not lacking:
            raise Conflict("every endpoint has accepted the events of this job that were sent to it")
        waiting = [one for one in lacking if one.state is DeliveryState.PENDING]
        if waiting:
            await self._store.redeliveries.make_due(waiting, now_ms, now_ms + lease_ms)
            self._dispatcher.wake()
        refused = None
        sent = len(waiting)
        for delivery in lacking:
            if delivery.state is DeliveryState.PENDING:
                continue
            try:
                await self.redeliver(delivery)
                sent += 1
            except Conflict as error:
                refused = error
        if refused is not None and not sent:
            raise refused

    async def test(self, endpoint: Endpoint, tie_of: TieOf = no_tie) -> Delivery:
        """Send a `relay.test` to this endpoint, whatever its event types are; return the delivery."""
        _require_active(endpoint)
        now_ms = self._clock.now_ms()
        event = endpoint_event(endpoint.project_id, EventType.RELAY_TEST, now_ms, endpoint.id)
        made = new_delivery(event, endpoint.id, now_ms, now_ms + self._store.lease.ms, self._store.lease.boot)
        await self._store.redeliveries.test(event, made, tie_of(made))
        return self._enqueue(made)

    async def start(self, endpoint: Endpoint, selection: EventSelection, tie_of: TieOf = no_tie) -> Redelivery:
        """Store a batch that sends the selected events to the endpoint, and continues after a restart."""
        _require_active(endpoint)
        now_ms = self._clock.now_ms()
        total = await self._store.redeliveries.count(endpoint, selection)
        batch = Redelivery(
            id=ids.new_id(ids.REDELIVERY),
            project_id=endpoint.project_id,
            endpoint_id=endpoint.id,
            after_event="",
            total=total,
            made=0,
            created_at=now_ms,
            finished_at=None if total else now_ms,
            **msgspec.structs.asdict(selection),
        )
        await self._store.redeliveries.start(batch, tie_of(batch))
        if selection.which == UNDELIVERED:
            self._dispatcher.reopen(endpoint.id)  # a client that asks for everything says that the receiver works again
        self._wake.set()
        return batch

    def reopen(self, endpoint_id: str) -> None:
        """Close the breaker of an endpoint that an operator repaired, and send what it missed."""
        self._dispatcher.reopen(endpoint_id)
        self._wake.set()

    async def run(self) -> None:
        """Work through the batches, until cancelled."""
        while True:
            self._wake.clear()
            pause_ms = await self.once()
            await self._clock.wait(self._wake, until_monotonic_ms=self._clock.monotonic_ms() + pause_ms)

    async def once(self) -> int:
        """Advance every open batch by a step; return the pause before the next turn, in milliseconds."""
        batches = await self._store.redeliveries.open(self._after_batch)
        self._after_batch = batches[-1].id if len(batches) == OPEN_MAX else ""
        more = [await self._advance(batch) for batch in batches]
        return 0 if any(more) else PAUSE_MS if batches else POLL_PAUSE_MS

    async def _advance(self, batch: Redelivery) -> bool:
        """Send the next events of a batch; return whether it can continue immediately, since few were to be sent."""
        found = await self._next_events(batch)
        if found is None or (found.after_event == batch.after_event and not found.through):
            return False
        now_ms = self._clock.now_ms()
        leased_until, boot = now_ms + self._store.lease.ms, self._store.lease.boot
        step = Step(batch=batch, found=found, now=now_ms, leased_until=leased_until, boot=boot)
        stepped = await self._store.redeliveries.step(step)
        self._dispatcher.enqueue(stepped.fresh)
        if stepped.made_due:
            self._dispatcher.wake()
        if stepped.fresh or stepped.made_due or found.through:
            made = len(stepped.fresh) + stepped.made_due
            _logger.info("redelivery.stepped", redelivery=batch.id, endpoint=batch.endpoint_id, made=made)
        return found.more

    async def _next_events(self, batch: Redelivery) -> Found | None:
        """Return the next events of a batch; None while its endpoint is disabled or enough waits for it."""
        redeliveries, now_ms = self._store.redeliveries, self._clock.now_ms()
        endpoint = await self._store.endpoints.get(batch.endpoint_id, batch.project_id)
        if endpoint is None:
            return Found(events=[], after_event=batch.after_event, through=True, more=False)
        if endpoint.disabled_at is not None:
            return None
        if await redeliveries.pending(batch.endpoint_id, now_ms + self._store.lease.ms) >= PENDING_MAX:
            return None
        batch = await redeliveries.ended(batch, now_ms)
        return await redeliveries.find(batch, endpoint, EVENTS_PER_STEP, now_ms)

    def _enqueue(self, made: Delivery) -> Delivery:
        """Enqueue a delivery that was stored, and return it."""
        self._dispatcher.enqueue((NewDelivery(made.id, made.endpoint_id, made.project_id),))
        return made


def lacking_deliveries(deliveries: Sequence[Delivery]) -> list[Delivery]:
    """Return, in order, the newest delivery of each event to each endpoint that has accepted none of it."""
    accepted = {(one.event_id, one.endpoint_id) for one in deliveries if one.state is DeliveryState.DELIVERED}
    newest = {(one.event_id, one.endpoint_id): one for one in sorted(deliveries, key=attrgetter("id"))}
    lacking = [one for pair, one in newest.items() if pair not in accepted]
    return sorted(lacking, key=attrgetter("event_id"))


def _require_active(endpoint: Endpoint) -> None:
    """Raise Conflict for a disabled endpoint, to which nothing is sent."""
    if endpoint.disabled_at is not None:
        raise Conflict("the endpoint is disabled; enable it first")
