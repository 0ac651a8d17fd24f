"""Probes an endpoint when a client asks for it: one `relay.test`, sent immediately, past its lane and its breaker.

It is a delivery as any other, with one attempt. If that succeeds, a held endpoint is active again and gets what waits
for it, and one that failures disabled is enabled. One that a client or the endpoint itself disabled stays disabled.
"""

from typing import Final

import msgspec

from relay.clock import Clock
from relay.deliveries.attempt import Deliverer
from relay.deliveries.attempt_writer import write_attempt
from relay.deliveries.dispatcher import Dispatcher
from relay.deliveries.redelivery import Redeliverer, TieOf, no_tie
from relay.errors import Conflict
from relay.model.delivery import DeliveryState, Endpoint
from relay.model.job import EventType
from relay.storage.deliveries import AttemptResult, DeliveryKey
from relay.storage.endpoint_status import endpoint_event
from relay.storage.fan_out import new_delivery
from relay.storage.store import Store

UNREADABLE: Final = "the endpoint's secret opens with none of RELAY_SECRET_KEYS: rotate it to have a new one"


class Prober:
    """Makes probes, one at a time for each endpoint."""

    def __init__(self, store: Store, clock: Clock, deliverer: Deliverer, to: tuple[Dispatcher, Redeliverer]) -> None:
        self._store = store
        self._clock = clock
        self._deliverer = deliverer
        self._dispatcher, self._redeliverer = to
        self._under_way: set[str] = set()

    async def probe(self, endpoint: Endpoint, tie_of: TieOf = no_tie) -> str:
        """Send the endpoint a `relay.test` and return its delivery's id once the attempt is stored.

        That takes up to the endpoint's `timeout_s`. Conflict if a probe of it is under way, or it cannot be signed.
        `tie_of` is asked for the delivery as it is before its attempt.
        """
        if endpoint.id in self._under_way:
            raise Conflict("a probe of this endpoint is under way")
        self._under_way.add(endpoint.id)
        try:
            return await self._probe(endpoint, tie_of)
        finally:
            self._under_way.discard(endpoint.id)

    async def _probe(self, endpoint: Endpoint, tie_of: TieOf) -> str:
        """Store the event and its delivery, attempt it, and store the result."""
        now_ms, lease = self._clock.now_ms(), self._store.lease
        event = endpoint_event(endpoint.project_id, EventType.RELAY_TEST, now_ms, endpoint.id)
        made = new_delivery(event, endpoint.id, now_ms, now_ms + lease.ms, lease.boot)
        await self._store.redeliveries.test(event, made, tie_of(made))
        rows = await self._store.deliveries.due_deliveries([DeliveryKey(made.project_id, made.id)])
        if not rows:
            raise Conflict(UNREADABLE)
        attempted = await self._deliverer.attempt(msgspec.structs.replace(rows[0], probe=True))
        attempted = msgspec.structs.replace(attempted, asked=True, held_until=endpoint.held_until)
        result = self._after(endpoint, self._dispatcher.probed(attempted))
        enabled = await write_attempt(self._store.deliveries, result, self._clock)
        if result.state is DeliveryState.DELIVERED:
            self._dispatcher.reopen(endpoint.id)
        if enabled:
            self._redeliverer.reopen(endpoint.id)
        return made.id

    def _after(self, endpoint: Endpoint, result: AttemptResult) -> AttemptResult:
        """Return the result with what it did to the breaker, if that is another process's."""
        if result.state is not DeliveryState.DELIVERED or result.breaker or endpoint.held_until is None:
            return result
        return msgspec.structs.replace(result, breaker="reopened")
