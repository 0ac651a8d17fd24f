"""Sending again: one delivery, a test, or all that an endpoint lacks, at a pace that leaves room for what is new."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from relay import ids, log
from relay.clock import Clock
from relay.deliveries.dispatcher import Dispatcher
from relay.errors import Conflict
from relay.model import serializers
from relay.model.delivery import Delivery, Endpoint, Redelivery
from relay.model.job import Event, EventType
from relay.storage.fan_out import NewDelivery, new_delivery
from relay.storage.idempotency import Tie
from relay.storage.redeliveries import OPEN_MAX, UNDELIVERED, Found, Step
from relay.storage.store import Store

WAITING_MAX: Final = 200
"""A batch goes on while less than this waits for its endpoint, so it comes at the lane's own rate."""
STEP: Final = 100
PAUSE_MS: Final = 1_000
LOOK_EVERY_MS: Final = 5_000
"""Batches are also made where nobody wakes this loop: by a probe that was taken, or by another process."""
_logger = log.get("redeliver")

TieOf = Callable[[Any], Tie | None]
"""Makes the tie of what is about to be stored: the request that asks for it may have an Idempotency-Key."""


def no_tie(_: Any) -> None:
    """Tie nothing: no request with an Idempotency-Key asks for this."""


class Redeliverer:
    """Makes redeliveries, and works through the batches."""

    def __init__(self, store: Store, clock: Clock, lease_ms: int, dispatcher: Dispatcher) -> None:
        self._store = store
        self._clock = clock
        self._lease_ms = lease_ms
        self._dispatcher = dispatcher
        self._after = ""
        self._wake = asyncio.Event()

    async def once_more(self, delivery: Delivery, tie_of: TieOf = no_tie) -> Delivery:
        """The same event for the same endpoint, as a delivery of its own; Conflict when the endpoint is gone."""
        endpoint = await self._store.endpoints.get(delivery.endpoint_id, delivery.project_id)
        event = await self._store.events.get(delivery.event_id, delivery.project_id)
        if endpoint is None or event is None:
            raise Conflict("the endpoint of this delivery was deleted")
        _require_active(endpoint)
        now_ms = self._clock.now_ms()
        made = new_delivery(event, endpoint.id, now_ms, now_ms + self._lease_ms, redelivery=True)
        if not await self._store.redeliveries.once_more(made, tie_of(made)):
            raise Conflict("the event of this delivery was pruned")
        self._dispatcher.enqueue((NewDelivery(made.id, endpoint.id, endpoint.project_id),))
        return made

    async def test(self, endpoint: Endpoint, tie_of: TieOf = no_tie) -> Delivery:
        """Send a `relay.test` to this endpoint alone, whatever it listens to; return its delivery."""
        _require_active(endpoint)
        now_ms = self._clock.now_ms()
        event_id = ids.new_id(ids.EVENT)
        data = {"endpoint": endpoint.id, "job": None, "sequence": 0, "final": False, "supersedes": None}
        event = Event(
            id=event_id,
            project_id=endpoint.project_id,
            job_id=None,
            type=EventType.RELAY_TEST,
            sequence=0,
            final=False,
            created_at=now_ms,
            body=serializers.notification(event_id, EventType.RELAY_TEST, now_ms, endpoint.project_id, data),
        )
        made = new_delivery(event, endpoint.id, now_ms, now_ms + self._lease_ms)
        await self._store.redeliveries.test(event, made, tie_of(made))
        self._dispatcher.enqueue((NewDelivery(made.id, endpoint.id, endpoint.project_id),))
        return made

    async def start(
        self,
        endpoint: Endpoint,
        which: str,
        since_ms: int,
        until_ms: int,
        *,
        to_now: bool = False,
        tie_of: TieOf = no_tie,
    ) -> Redelivery:
        """A batch that sends again what the endpoint lacks; it is a row, so it goes on after a restart."""
        _require_active(endpoint)
        now_ms = self._clock.now_ms()
        total = await self._store.redeliveries.count(endpoint, which, since_ms, until_ms, to_now=to_now)
        batch = Redelivery(
            id=ids.new_id(ids.REDELIVERY),
            project_id=endpoint.project_id,
            endpoint_id=endpoint.id,
            which=which,
            since_at=since_ms,
            until_at=until_ms,
            after_event="",
            total=total,
            made=0,
            created_at=now_ms,
            finished_at=None if total else now_ms,
            to_now=int(to_now),
        )
        await self._store.redeliveries.start(batch, tie_of(batch))
        if which == UNDELIVERED:
            self._dispatcher.reopen(endpoint.id)  # who asks for everything says that the receiver is back
        self._wake.set()
        return batch

    def reopen(self, endpoint_id: str) -> None:
        """A person has mended an endpoint: its lane forgets what failed, and what was missed is sent."""
        self._dispatcher.reopen(endpoint_id)
        self._wake.set()

    async def run(self) -> None:
        """Works through the batches, until it is cancelled."""
        while True:
            self._wake.clear()
            pause_ms = await self.once()
            await self._clock.wait(self._wake, until_monotonic_ms=self._clock.monotonic_ms() + pause_ms)

    async def once(self) -> int:
        """One step of every open batch; how long to wait for the next, in milliseconds."""
        batches = await self._store.redeliveries.open(self._after)
        self._after = batches[-1].id if len(batches) == OPEN_MAX else ""
        more = [await self._step(batch) for batch in batches]
        return 0 if any(more) else PAUSE_MS if batches else LOOK_EVERY_MS

    async def _step(self, batch: Redelivery) -> bool:
        """One step; whether the batch goes on at once, since there was little to send in what was looked at."""
        endpoint = await self._store.endpoints.get(batch.endpoint_id, batch.project_id)
        now_ms = self._clock.now_ms()
        if endpoint is None:
            found = Found(events=[], after_event=batch.after_event, through=True, more=False)
        elif endpoint.disabled_at is not None:
            return False
        else:
            waiting = await self._store.redeliveries.pending(batch.endpoint_id, now_ms + self._lease_ms)
            if waiting >= WAITING_MAX:
                return False
            batch = await self._store.redeliveries.ended(batch, now_ms)
            found = await self._store.redeliveries.find(batch, endpoint, STEP, now_ms)
        if found.after_event == batch.after_event and not found.through:
            return False
        step = Step(batch=batch, found=found, now=now_ms, leased_until=now_ms + self._lease_ms)
        stepped = await self._store.redeliveries.step(step)
        self._dispatcher.enqueue(tuple(stepped.fresh))
        if stepped.made_due:
            self._dispatcher.wake()
        if stepped.fresh or stepped.made_due or found.through:
            made = len(stepped.fresh) + stepped.made_due
            _logger.info("redelivery.stepped", redelivery=batch.id, endpoint=batch.endpoint_id, made=made)
        return found.more


def _require_active(endpoint: Endpoint) -> None:
    """A disabled endpoint is sent nothing; Conflict says so."""
    if endpoint.disabled_at is not None:
        raise Conflict("the endpoint is disabled; enable it first")
