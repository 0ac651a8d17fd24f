"""Fan-out: a delivery for each endpoint that wants an event."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import msgspec

from relay.model import ids
from relay.model.delivery import Delivery, DeliveryState
from relay.model.job import Event, EventType, Job
from relay.storage.boots import Lease
from relay.storage.engine.database import Row, Transaction

LISTENERS_KEPT: Final = 4096
"""So many endpoints stay parsed in memory: a project may have hundreds that want each event."""


class EventRef(msgspec.Struct, frozen=True):
    """An event without its content."""

    id: str
    project_id: str
    job_id: str | None


class NewEvent(msgspec.Struct):
    """An event about a job, the job after it, and the event as its row keeps it: its body has holes there.

    `reported_at` is when the callback that brought it was received; None where none did.
    """

    event: Event
    after: Job
    row: Event
    reported_at: int | None = None


class NewDelivery(msgspec.Struct):
    """A new delivery for the dispatcher's memory, leased in its row.

    `event` and `endpoint`, a row of `endpoints_sent_to`, are what its first attempt needs; None where the dispatcher
    reads them. `reported_at` is when the callback that brought the event was received; None where none did.
    """

    delivery_id: str
    endpoint_id: str
    project_id: str
    event: Event | None = None
    endpoint: Row | None = None
    reported_at: int | None = None


class LeasedDelivery(Delivery, kw_only=True, frozen=True):
    """A new delivery's columns; `leased_by` is the boot that sends it, None where it only waits.

    `reported_at` is when the callback that brought the event was received; None where none did, and for a redelivery.
    """

    leased_by: int | None = None
    reported_at: int | None = None


class FanOut:
    """Stores deliveries. `first_delay_s` is for endpoints without a schedule of their own.

    `lease` is how a new delivery is leased to the dispatcher, and whether that runs in this process.
    """

    def __init__(self, lease: Lease, first_delay_s: int) -> None:
        self._lease = lease
        self._first_delay_s = first_delay_s

    async def __call__(
        self, transaction: Transaction, events: Sequence[NewEvent], listeners: str
    ) -> list[list[NewDelivery]]:
        """Store a delivery for each event and each endpoint that wants it; return those due immediately, by event.

        `listeners` are the endpoints that may want them, read together with the jobs.
        """
        if not events:
            return []
        endpoints = [_listener(found) for found in _decode_listeners(listeners)]
        deliveries: list[LeasedDelivery] = []
        handed = []
        for new in events:
            event, fresh = new.event, []
            for endpoint in endpoints:
                if endpoint.wants(new):
                    delay_s = endpoint.first_delay_s if endpoint.first_delay_s is not None else self._first_delay_s
                    due_at = event.created_at + (delay_s * 1000 or self._lease.ms)
                    leased_by = None if delay_s else self._lease.boot
                    delivery = new_delivery(event, endpoint.id, event.created_at, due_at, leased_by)
                    if new.reported_at is not None:
                        delivery = msgspec.structs.replace(delivery, reported_at=new.reported_at)
                    deliveries.append(delivery)
                    if delay_s == 0:
                        made = NewDelivery(
                            delivery.id, endpoint.id, event.project_id, event, reported_at=new.reported_at
                        )
                        fresh.append(made)
            handed.append(fresh)
        await transaction.run_many("insert_delivery", deliveries)
        return await _complete(transaction, handed) if self._lease.dispatches else handed


async def _complete(transaction: Transaction, handed: list[list[NewDelivery]]) -> list[list[NewDelivery]]:
    """Return the deliveries with their endpoints' rows; deliveries to the same endpoint share one."""
    wanted = sorted({one.endpoint_id for fresh in handed for one in fresh})
    if not wanted:
        return handed
    found = {row["endpoint_id"]: row for row in await transaction.rows("endpoints_sent_to", {"ids": wanted})}
    for fresh in handed:
        for one in fresh:
            one.endpoint = found.get(one.endpoint_id)
    return handed


class _Found(msgspec.Struct, frozen=True, array_like=True):
    """An endpoint as `jobs_and_listeners` gives it."""

    id: str
    project_id: str
    job_id: str | None
    event_types: str
    providers: str | None
    schedule_s: str | None


_decode_listeners: Final = msgspec.json.Decoder(list[_Found]).decode


class _Listener:
    """An endpoint, parsed for fan-out."""

    def __init__(self, found: _Found) -> None:
        self.id = found.id
        self._project_id = found.project_id
        self._job_id = found.job_id
        patterns: list[str] = msgspec.json.decode(found.event_types)
        self._types = frozenset(kind for kind in EventType if any(matches(pattern, kind) for pattern in patterns))
        self._providers: list[str] | None = msgspec.json.decode(found.providers) if found.providers else None
        schedule = msgspec.json.decode(found.schedule_s) if found.schedule_s else None
        self.first_delay_s: int | None = schedule[0] if schedule else None

    def wants(self, new: NewEvent) -> bool:
        """Return whether the event is for this endpoint: its project, its job, its provider, its type."""
        return (
            self._project_id == new.after.project_id
            and self._job_id in (None, new.after.id)
            and (self._providers is None or new.after.provider in self._providers)
            and new.event.type in self._types
        )


_listener = lru_cache(LISTENERS_KEPT)(_Listener)


def matches(pattern: str, kind: EventType) -> bool:
    """Return whether a pattern matches.

    `job.succeeded` matches itself, `job.*` every event of a job, `ops.*` every one about an alert, `*` all but these.
    """
    if pattern == "*":
        return not kind.of_operators
    return pattern == kind or (pattern.endswith(".*") and kind.startswith(pattern[:-1]))


def new_delivery(
    event: Event | EventRef, endpoint_id: str, at: int, due_at: int, leased_by: int | None = None
) -> LeasedDelivery:
    """Return a new delivery of an event, made `at` (unix ms) and due, or leased by a boot until, `due_at`."""
    return LeasedDelivery(
        id=ids.new_id(ids.DELIVERY),
        project_id=event.project_id,
        event_id=event.id,
        endpoint_id=endpoint_id,
        job_id=event.job_id,
        state=DeliveryState.PENDING,
        attempts_made=0,
        next_attempt_at=due_at,
        redelivery=False,
        created_at=at,
        finished_at=None,
        leased_by=leased_by,
    )


def new_redelivery(
    event: Event | EventRef, endpoint_id: str, at: int, due_at: int, leased_by: int | None
) -> LeasedDelivery:
    """Return a new delivery of an event that the endpoint may have got before."""
    return msgspec.structs.replace(new_delivery(event, endpoint_id, at, due_at, leased_by), redelivery=True)
