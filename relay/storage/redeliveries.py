"""Redeliveries: one delivery that an operator asks for, and batches that continue after a restart."""

from collections.abc import Sequence
from typing import Any

import msgspec

from relay.model.delivery import Delivery, DeliveryState, Endpoint, EventSelection, Redelivery
from relay.model.job import Event
from relay.storage import pages, rows
from relay.storage.engine.database import Database, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.fan_out import EventRef, LeasedDelivery, NewDelivery, new_redelivery
from relay.storage.history import DISORDER_MS, END, PATIENCE_MS, Events, Place
from relay.storage.idempotency import Tie
from relay.storage.pages import Listing, Page

UNDELIVERED = "undelivered"
"""Selects the events that the endpoint has not accepted; a delivery that waits for its retry is made due instead."""
OPEN_MAX = 50
"""Batches that one turn advances."""
EVENTS_READ_MAX = 500
"""Events that a step reads, whether its batch sends them or not."""
FAILED = frozenset({DeliveryState.EXHAUSTED, DeliveryState.CANCELED})


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The next events of a batch, the event up to which it is done then, and whether that is the end (`through`).

    `more` is whether the next events can be read immediately.
    """

    events: list[EventRef]
    after_event: str
    through: bool
    more: bool


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The next deliveries of a batch, leased by a boot until `leased_until` (unix ms)."""

    batch: Redelivery
    found: Found
    now: int
    leased_until: int
    boot: int | None = None


class Stepped(msgspec.Struct, frozen=True, kw_only=True):
    """What a step stored: new deliveries, and how many that waited for their retry it made due instead."""

    fresh: list[NewDelivery]
    made_due: int = 0


class _Test(msgspec.Struct, frozen=True):
    """An event of no job, and its one delivery."""

    event: Event
    delivery: LeasedDelivery


class Redeliveries:
    """Reads and writes redeliveries."""

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
        """Store a batch; return after COMMIT."""
        await self._writer.write(_start, batch, tie=tie)

    async def page(self, endpoint: Endpoint, listing: Listing) -> Page[Redelivery]:
        """Return the endpoint's batches, newest first."""
        params = {"endpoint_id": endpoint.id, "project_id": endpoint.project_id}

        async def read(before: str | None, limit: int) -> Sequence[Row]:
            asked = params | {"before": before, "limit": limit}
            return await self._database.rows("redelivery_page", asked, Purpose.LIST)

        return await pages.collect(listing, read, rows.redelivery)

    async def get(self, endpoint: Endpoint, batch_id: str) -> Redelivery | None:
        """Return a batch of the endpoint, None if it has none with this id."""
        params = {"id": batch_id, "endpoint_id": endpoint.id, "project_id": endpoint.project_id}
        found = await self._database.rows("redelivery_of_endpoint", params)
        return rows.redelivery(found[0]) if found else None

    async def cancel(self, batch: Redelivery, now_ms: int, tie: Tie | None = None) -> Redelivery | None:
        """Stop a batch where it is and return it; None if it has ended. What it made stays."""
        return await self._writer.write(_cancel, {"id": batch.id, "now": now_ms}, tie=tie, locks=batch.id)

    async def open(self, after: str = "") -> list[Redelivery]:
        """Return at most OPEN_MAX unfinished batches that can continue, from the one after `after` on."""
        found = await self._database.rows("open_redeliveries", {"limit": OPEN_MAX, "after": after})
        return [rows.redelivery(row) for row in found]

    async def pending(self, endpoint_id: str, by_ms: int) -> int:
        """Return how many deliveries of the endpoint are due by `by_ms`."""
        found = await self._database.rows("pending_of_endpoint", {"endpoint_id": endpoint_id, "by": by_ms})
        return int(found[0]["number"])

    async def ended(self, batch: Redelivery, now_ms: int) -> Redelivery:
        """Return the batch with its end in the order of commits, once that is known.

        An event is fanned out to the endpoints that its transaction saw. Where several processes write, one that saw
        this endpoint disabled may be committed after it was enabled, and one with a time before `until_at` after that
        time. So the end of a batch that an enabled endpoint made, or that ends at a time, is determined a while later.
        """
        late = batch.first_position is not None or not batch.to_now
        patience_ms = PATIENCE_MS if self._database.shared and late else 0
        if batch.end_position is not None or now_ms < _ends_at(batch) + patience_ms:
            return batch
        position = await self._writer.write(_end, batch.id, locks=batch.id)
        return batch if position is None else msgspec.structs.replace(batch, end_position=position)

    async def find(self, batch: Redelivery, endpoint: Endpoint, limit: int, now_ms: int) -> Found:
        """Return the next events of a batch, at most `limit`, among the next EVENTS_READ_MAX in their order."""
        place = await self._place(batch, now_ms)
        complete = await self._complete(batch, now_ms)  # asked first: what is committed since then is read below
        params = _wanted(endpoint, batch) | {"position": place.position, "after": place.id, "limit": EVENTS_READ_MAX}
        params["horizon"] = await self._events.horizon()
        seen = await self._database.rows("events_to_redeliver", params)
        events: list[EventRef] = []
        after, more = batch.after_event, len(seen) == EVENTS_READ_MAX
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
        """Return whether every event of a batch is committed; a foreign transaction is waited for only so long."""
        if batch.end_position is None:
            return False
        if not self._database.shared or now_ms >= _ends_at(batch) + 2 * PATIENCE_MS:
            return True
        found = await self._database.rows("committed_before", {"position": batch.end_position})
        return bool(found[0]["committed"]) or await self._events.horizon() >= batch.end_position

    async def step(self, step: Step) -> Stepped:
        """Store the next deliveries of a batch and its progress, in one commit.

        An event that another batch or process has sent to the endpoint meanwhile is left out.
        """
        return await self._writer.write(_step, step, locks=step.batch.endpoint_id)

    async def once_more(self, delivery: LeasedDelivery, tie: Tie | None = None) -> bool:
        """Store another delivery of an event; return False if the event was pruned meanwhile."""
        return await self._writer.write(_insert, delivery, tie=tie) is not None

    async def make_due(self, deliveries: Sequence[Delivery], now_ms: int, leased_until_ms: int) -> None:
        """Make deliveries that wait for a retry due now; one that is leased is being sent, and stays as it is."""
        due = {"now": now_ms, "leased_until": leased_until_ms}
        await self._writer.write(_make_due, [due | {"project_id": one.project_id, "id": one.id} for one in deliveries])

    async def test(self, event: Event, delivery: LeasedDelivery, tie: Tie | None = None) -> None:
        """Store an event of no job, and its delivery to one endpoint."""
        await self._writer.write(_test, _Test(event, delivery), tie=tie)

    async def _place(self, batch: Redelivery, now_ms: int) -> Place:
        """Return where a batch continues; at first, where the time that it selects begins."""
        if batch.after_event:
            return await self._events.place(batch.project_id, batch.after_event, now_ms)
        if batch.first_position is not None:
            return Place(batch.first_position, "")
        return Place(await self._events.position_in_time(batch.project_id, batch.since_at - DISORDER_MS), "")


def _wanted(endpoint: Endpoint, selection: EventSelection) -> dict[str, Any]:
    """Return the parameters that select the events of an endpoint."""
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
    """Return the time up to which events count: no later than the batch itself."""
    return min(batch.until_at, batch.created_at)


async def _end(transaction: Transaction, batches: Sequence[str]) -> list[int | None]:
    """Store and return where each batch ends; None where another process has stored it."""
    found = [await transaction.rows("end_redelivery", {"id": batch_id}) for batch_id in batches]
    return [int(rows[0]["end_position"]) if rows else None for rows in found]


async def _start(transaction: Transaction, batches: Sequence[Redelivery]) -> list[None]:
    """Insert each batch."""
    for batch in batches:
        await transaction.rows("insert_redelivery_batch", msgspec.structs.asdict(batch))
    return [None] * len(batches)


async def _cancel(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[Redelivery | None]:
    """Stop each batch that has not ended."""
    found = [await transaction.rows("cancel_redelivery", params) for params in wanted]
    return [rows.redelivery(stopped[0]) if stopped else None for stopped in found]


async def _step(transaction: Transaction, steps: Sequence[Step]) -> list[Stepped]:
    """Advance each batch."""
    return [await _one_step(transaction, step) for step in steps]


async def _one_step(transaction: Transaction, step: Step) -> Stepped:
    """Advance a batch; its endpoint is locked, so that the second of two batches sees what the first has made."""
    batch, found = step.batch, step.found
    await transaction.rows("hold_endpoint", {"id": batch.endpoint_id})
    here = await _locked(transaction, {batch.project_id}, [event.id for event in found.events])
    known = await _known(transaction, batch.endpoint_id, here)
    waiting = [row["id"] for rows_ in known.values() for row in rows_ if row["state"] == DeliveryState.PENDING]
    made = [
        new_redelivery(event, batch.endpoint_id, step.now, step.leased_until, step.boot)
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
    lease = {"project_id": batch.project_id, "now": step.now, "leased_until": step.leased_until}
    due_now = [lease | {"id": one} for one in due]
    await transaction.run_many("make_delivery_due", due_now)
    return Stepped(fresh=[NewDelivery(one.id, batch.endpoint_id, batch.project_id) for one in made], made_due=len(due))


async def _known(transaction: Transaction, endpoint_id: str, event_ids: set[str]) -> dict[str, list[Row]]:
    """Return the endpoint's deliveries of these events, by event."""
    known: dict[str, list[Row]] = {}
    params = {"ids": sorted(event_ids), "endpoint_id": endpoint_id}
    for row in await transaction.rows("deliveries_of_events_to_endpoint", params) if event_ids else ():
        known.setdefault(row["event_id"], []).append(row)
    return known


def _lacks(which: str, states: Sequence[str]) -> bool:
    """Return whether to send an event again whose deliveries for the endpoint are in these states."""
    failed = all(state in FAILED for state in states)
    return {"all": True, "missing": not states, "failed": failed and bool(states), UNDELIVERED: failed}[which]


async def _insert(transaction: Transaction, wanted: Sequence[LeasedDelivery]) -> list[str | None]:
    """Insert one delivery for each caller, and return its id; None if its event is gone."""
    here = await _locked(transaction, {one.project_id for one in wanted}, [one.event_id for one in wanted])
    await transaction.run_many("insert_delivery", [one for one in wanted if one.event_id in here])
    return [one.id if one.event_id in here else None for one in wanted]


async def _locked(transaction: Transaction, projects: set[str], event_ids: Sequence[str]) -> set[str]:
    """Return which events still exist, locked against retention until the transaction ends."""
    if not event_ids:
        return set()
    wanted = {"projects": sorted(projects), "ids": sorted(event_ids)}
    return {row["id"] for row in await transaction.rows("hold_events", wanted)}


async def _make_due(transaction: Transaction, wanted: Sequence[list[dict[str, Any]]]) -> list[None]:
    """Make each caller's deliveries due; one that two callers name is made due once."""
    unique = {params["id"]: params for many in wanted for params in many}
    await transaction.run_many("make_delivery_due", [*unique.values()])
    return [None] * len(wanted)


async def _test(transaction: Transaction, wanted: Sequence[_Test]) -> list[None]:
    """Insert each event and its one delivery."""
    await transaction.run_many("insert_event", [one.event for one in wanted])
    await transaction.run_many("insert_delivery", [one.delivery for one in wanted])
    return [None] * len(wanted)
