"""What is sent again because a person asked: one delivery at once, or a batch that survives restarts."""

from collections.abc import Sequence
from typing import Any

import msgspec

from relay.model.delivery import Delivery, DeliveryState, Endpoint, EventSelection, Redelivery
from relay.model.job import Event
from relay.storage import rows
from relay.storage.engine.database import Database, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.fan_out import EventRef, NewDelivery, new_delivery
from relay.storage.history import DISORDER_MS, END, PATIENCE_MS, Events, Place
from relay.storage.idempotency import Tie

UNDELIVERED = "undelivered"
"""Which events: those that the endpoint has not taken; what waits for a later attempt is due, and is not doubled."""
OPEN_MAX = 50
"""Batches that are worked on in one turn."""
LOOK = 500
"""Events that a step looks at, whether a batch sends them again or not."""
FAILED = frozenset({DeliveryState.EXHAUSTED, DeliveryState.CANCELED})


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch sends again next, how far it has come with that, and whether it is through.

    `more` is whether there is something to look at right away.
    """

    events: list[EventRef]
    after_event: str
    through: bool
    more: bool


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The next deliveries of a batch, leased until then; what is due after that, nobody holds."""

    batch: Redelivery
    found: Found
    now: int
    leased_until: int


class Stepped(msgspec.Struct, frozen=True, kw_only=True):
    """What a step came to: new deliveries, and how many that waited for their next attempt are due instead."""

    fresh: list[NewDelivery]
    made_due: int = 0


class _Test(msgspec.Struct, frozen=True):
    """An event that no job made, and its one delivery."""

    event: Event
    delivery: Delivery


class Redeliveries:
    """The redeliveries."""

    def __init__(self, database: Database, writer: Writer, events: Events) -> None:
        self._database = database
        self._writer = writer
        self._events = events

    async def count(self, endpoint: Endpoint, selection: EventSelection) -> int:
        """Return how many events a batch would send again."""
        first = await self._events.position_in_time(endpoint.project_id, selection.since_at - DISORDER_MS)
        end = END.position
        if not selection.to_now:
            end = await self._events.position_in_time(endpoint.project_id, selection.until_at + DISORDER_MS)
        params = _wanted(endpoint, selection) | {"first": first, "end": end}
        return int((await self._database.rows("count_events_to_redeliver", params, Purpose.LIST))[0]["number"])

    async def start(self, batch: Redelivery, tie: Tie | None = None) -> None:
        """A batch, committed before anybody is told that it will be done."""
        await self._writer.write(_start, batch, tie=tie)

    async def open(self, after: str = "") -> list[Redelivery]:
        """Return the batches after that one that are not through and can go on, OPEN_MAX at most."""
        found = await self._database.rows("open_redeliveries", {"limit": OPEN_MAX, "after": after})
        return [rows.redelivery(row) for row in found]

    async def pending(self, endpoint_id: str, by_ms: int) -> int:
        """How much waits for the endpoint that is due by then."""
        found = await self._database.rows("pending_of_endpoint", {"endpoint_id": endpoint_id, "by": by_ms})
        return int(found[0]["number"])

    async def ended(self, batch: Redelivery, now_ms: int) -> Redelivery:
        """Return the batch with where it ends, in the order of commits, once that can be told.

        An event is fanned out to the endpoints that its transaction saw. Where several processes write, one that saw
        this endpoint disabled may be committed after it was enabled, and one that is stamped before a time after that
        time. So the end of a batch that a switch made, or that ends at a time, is told a while later: behind them all.
        """
        late = batch.first_position is not None or not batch.to_now
        patience_ms = PATIENCE_MS if self._database.shared and late else 0
        if batch.end_position is not None or now_ms < _ends_at(batch) + patience_ms:
            return batch
        position = await self._writer.write(_end, batch.id)
        return batch if position is None else msgspec.structs.replace(batch, end_position=position)

    async def find(self, batch: Redelivery, endpoint: Endpoint, limit: int, now_ms: int) -> Found:
        """The next events of a batch, at most `limit`, among the next LOOK in their order."""
        place = await self._place(batch, now_ms)
        complete = await self._complete(batch, now_ms)  # looked at first: what is committed since then is seen below
        params = _wanted(endpoint, batch) | {"position": place.position, "after": place.id, "limit": LOOK}
        params["horizon"] = await self._events.horizon()
        seen = await self._database.rows("events_to_redeliver", params)
        events: list[EventRef] = []
        after, more = batch.after_event, len(seen) == LOOK
        through = complete and not more
        for row in seen:
            if batch.end_position is not None and row["position"] >= batch.end_position:
                through, more = complete, False
                break
            if not row["settled"] and row["created_at"] > now_ms - PATIENCE_MS:
                through = more = False
                break
            if not batch.to_now and row["created_at"] >= batch.until_at + DISORDER_MS:
                through = True
                break
            after = row["id"]
            if row["wanted"]:
                events.append(EventRef(row["id"], batch.project_id, row["job_id"]))
            if len(events) == limit:
                through = more = False
                break
        return Found(events=events, after_event=after, through=through, more=more and not through)

    async def _complete(self, batch: Redelivery, now_ms: int) -> bool:
        """Whether all that a batch is about is committed; a stranger's transaction is not waited for without an end."""
        if batch.end_position is None:
            return False
        if not self._database.shared or now_ms >= _ends_at(batch) + 2 * PATIENCE_MS:
            return True
        found = await self._database.rows("committed_before", {"position": batch.end_position})
        return bool(found[0]["committed"]) or await self._events.horizon() >= batch.end_position

    async def step(self, step: Step) -> Stepped:
        """Makes the next deliveries of a batch and says how far it has come, in one commit.

        What the endpoint has got meanwhile, by another batch or another process, is not made again.
        """
        return await self._writer.write(_step, step)

    async def once_more(self, delivery: Delivery, tie: Tie | None = None) -> bool:
        """Store a delivery of an event that was sent before; False when the event has just been pruned."""
        return await self._writer.write(_insert, delivery, tie=tie) is not None

    async def test(self, event: Event, delivery: Delivery, tie: Tie | None = None) -> None:
        """Store an event that no job made, and its delivery to one endpoint alone."""
        await self._writer.write(_test, _Test(event, delivery), tie=tie)

    async def _place(self, batch: Redelivery, now_ms: int) -> Place:
        """Where a batch goes on; one that has not begun, where the time that it is about begins."""
        if batch.after_event:
            return await self._events.place(batch.project_id, batch.after_event, now_ms)
        if batch.first_position is not None:
            return Place(batch.first_position, "")
        return Place(await self._events.position_in_time(batch.project_id, batch.since_at - DISORDER_MS), "")


def _wanted(endpoint: Endpoint, selection: EventSelection) -> dict[str, Any]:
    """The events that an endpoint listens to, in the terms of the statements."""
    return {
        "project_id": endpoint.project_id,
        "endpoint_id": endpoint.id,
        "job_id": endpoint.job_id,
        "since_at": selection.since_at,
        "until_at": selection.until_at,
        "to_now": selection.to_now,
        "any_type": int("*" in endpoint.event_types),
        "any_job_type": int("job.*" in endpoint.event_types),
        "types": endpoint.event_types,
        "providers": endpoint.providers,
        "which": selection.which,
    }


def _ends_at(batch: Redelivery) -> int:
    """The time up to which events count; there is no asking for those that are still to come."""
    return min(batch.until_at, batch.created_at)


async def _end(transaction: Transaction, batches: Sequence[str]) -> list[int | None]:
    """Where each batch ends; None where another process has told that."""
    found = [await transaction.rows("end_redelivery", {"id": batch_id}) for batch_id in batches]
    return [int(rows[0]["end_position"]) if rows else None for rows in found]


async def _start(transaction: Transaction, batches: Sequence[Redelivery]) -> list[None]:
    """Writes each batch; one with nothing to do is through at once."""
    for batch in batches:
        await transaction.rows("insert_redelivery_batch", msgspec.structs.asdict(batch))
    return [None] * len(batches)


async def _step(transaction: Transaction, steps: Sequence[Step]) -> list[Stepped]:
    """Each batch goes on from the event that it had come to."""
    return [await _one_step(transaction, step) for step in steps]


async def _one_step(transaction: Transaction, step: Step) -> Stepped:
    """One batch; its endpoint is locked, so that of two batches the second sees what the first has made."""
    batch, found = step.batch, step.found
    await transaction.rows("hold_endpoint", {"id": batch.endpoint_id})
    here = await _held(transaction, {batch.project_id}, [event.id for event in found.events])
    known = await _known(transaction, batch.endpoint_id, here)
    waiting = [row["id"] for rows_ in known.values() for row in rows_ if row["state"] == DeliveryState.PENDING]
    made = [
        new_delivery(event, batch.endpoint_id, step.now, step.leased_until, redelivery=True)
        for event in found.events
        if event.id in here and _lacks(batch.which, [row["state"] for row in known.get(event.id, ())])
    ]
    due = waiting if batch.which == UNDELIVERED else []
    advanced = {
        "id": batch.id,
        "was": batch.after_event,
        "after_event": found.after_event,
        "made": len(made) + len(due),
        "finished_at": step.now if found.through else None,
    }
    if not await transaction.rows("advance_redelivery", advanced):
        return Stepped(fresh=[])
    await transaction.run_many("insert_delivery", made)
    due_now = [{"id": one, "now": step.now, "leased_until": step.leased_until} for one in due]
    await transaction.run_many("make_delivery_due", due_now)
    return Stepped(fresh=[NewDelivery(one.id, batch.endpoint_id, batch.project_id) for one in made], made_due=len(due))


async def _known(transaction: Transaction, endpoint_id: str, event_ids: set[str]) -> dict[str, list[Row]]:
    """The deliveries that the endpoint has of these events, by event."""
    known: dict[str, list[Row]] = {}
    params = {"ids": sorted(event_ids), "endpoint_id": endpoint_id}
    for row in await transaction.rows("deliveries_of_events_to_endpoint", params) if event_ids else ():
        known.setdefault(row["event_id"], []).append(row)
    return known


def _lacks(which: str, states: Sequence[str]) -> bool:
    """Whether an event whose deliveries for an endpoint are in these states is to have another one."""
    failed = all(state in FAILED for state in states)
    return {"all": True, "missing": not states, "failed": failed and bool(states), UNDELIVERED: failed}[which]


async def _insert(transaction: Transaction, wanted: Sequence[Delivery]) -> list[str | None]:
    """Insert one delivery for each caller, and return its id; None if its event is gone."""
    here = await _held(transaction, {one.project_id for one in wanted}, [one.event_id for one in wanted])
    await transaction.run_many("insert_delivery", [one for one in wanted if one.event_id in here])
    return [one.id if one.event_id in here else None for one in wanted]


async def _held(transaction: Transaction, projects: set[str], event_ids: Sequence[str]) -> set[str]:
    """Those of the projects' events that are still here, and that nobody prunes until this transaction has ended."""
    if not event_ids:
        return set()
    wanted = {"projects": sorted(projects), "ids": sorted(event_ids)}
    return {row["id"] for row in await transaction.rows("hold_events", wanted)}


async def _test(transaction: Transaction, wanted: Sequence[_Test]) -> list[None]:
    """Insert each event and its one delivery."""
    await transaction.run_many("insert_event", [one.event for one in wanted])
    await transaction.run_many("insert_delivery", [one.delivery for one in wanted])
    return [None] * len(wanted)
