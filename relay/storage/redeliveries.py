"""What is sent again because a person asked: one delivery at once, or a batch that survives restarts."""

from collections.abc import Sequence
from typing import Any

import msgspec

from relay import ids
from relay.model import Event
from relay.outbox import Endpoint, Redelivery
from relay.storage import rows
from relay.storage.database import Database, Transaction
from relay.storage.evidence import DISORDER_MS, PATIENCE_MS, Events, Place
from relay.storage.fanout import Fresh
from relay.storage.writer import Writer

OPEN_MAX = 50
"""Batches that are worked on in one turn."""
LOOK = 500
"""Events that a step looks at, whether a batch sends them again or not."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch sends again next, how far it has come with that, and whether it is through.

    `more` is whether there is something to look at right away.
    """

    events: list[tuple[str, str | None]]
    after_event: str
    through: bool
    more: bool


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The next deliveries of a batch, leased until then."""

    batch: Redelivery
    found: Found
    now: int
    leased_until: int


class Redeliveries:
    """The redeliveries."""

    def __init__(self, database: Database, writer: Writer, events: Events) -> None:
        self._database = database
        self._writer = writer
        self._events = events

    async def count(self, endpoint: Endpoint, which: str, since_ms: int, until_ms: int) -> int:
        """How many events a batch would send again."""
        first = await self._events.position_in_time(endpoint.project_id, since_ms - DISORDER_MS)
        end = await self._events.position_in_time(endpoint.project_id, until_ms + DISORDER_MS)
        params = _wanted(endpoint, which, since_ms, until_ms) | {"first": first, "end": end}
        return int((await self._database.rows("count_events_to_redeliver", params))[0]["number"])

    async def start(self, batch: Redelivery) -> None:
        """A batch, committed before anybody is told that it will be done."""
        await self._writer.write(_start, batch)

    async def open(self) -> list[Redelivery]:
        """The batches that are not through."""
        found = await self._database.rows("open_redeliveries", {"limit": OPEN_MAX})
        return [rows.redelivery(row) for row in found]

    async def pending(self, endpoint_id: str) -> int:
        """How much waits for the endpoint."""
        found = await self._database.rows("pending_of_endpoint", {"endpoint_id": endpoint_id})
        return int(found[0]["number"])

    async def find(self, batch: Redelivery, endpoint: Endpoint, limit: int, now_ms: int) -> Found:
        """The next events of a batch, at most `limit`, among the next LOOK in their order."""
        place = await self._place(batch, now_ms)
        wanted = _wanted(endpoint, batch.which, batch.since_at, batch.until_at)
        params = wanted | {"position": place.position, "after": place.id, "limit": LOOK}
        seen = await self._database.rows("events_to_redeliver", params)
        events: list[tuple[str, str | None]] = []
        after, through, more = batch.after_event, len(seen) < LOOK, True
        for row in seen:
            if not row["settled"] and row["created_at"] > now_ms - PATIENCE_MS:
                through, more = now_ms >= batch.until_at + PATIENCE_MS, False
                break
            if row["created_at"] >= batch.until_at + DISORDER_MS:
                through = True
                break
            after = row["id"]
            events += [(row["id"], row["job_id"])] if row["wanted"] else []
            if len(events) == limit:
                through = more = False
                break
        return Found(events=events, after_event=after, through=through, more=more and not through)

    async def step(self, step: Step) -> list[Fresh]:
        """Makes the next deliveries of a batch and says how far it has come, in one commit.

        Nothing is made where another process has taken the same step.
        """
        return await self._writer.write(_step, step)

    async def once_more(self, event: Event, endpoint_id: str, at: int, leased_until: int) -> str | None:
        """One event for one endpoint, at once; the new delivery's id, None when the event has just been pruned."""
        params = _delivery(event.project_id, event.id, event.job_id, endpoint_id, at, leased_until)
        return await self._writer.write(_insert, params)

    async def test(self, event: Event, endpoint_id: str, leased_until: int) -> str:
        """An event that no job made, for one endpoint alone; the delivery's id."""
        delivery = _delivery(event.project_id, event.id, None, endpoint_id, event.created_at, leased_until)
        made = msgspec.structs.asdict(event) | {"final": int(event.final)}
        await self._writer.write(_test, (made, delivery))
        return str(delivery["id"])

    async def _place(self, batch: Redelivery, now_ms: int) -> Place:
        """Where a batch goes on; one that has not begun, where the time that it is about begins."""
        if batch.after_event:
            return await self._events.place(batch.project_id, batch.after_event, now_ms)
        return Place(await self._events.position_in_time(batch.project_id, batch.since_at - DISORDER_MS), "")


def _wanted(endpoint: Endpoint, which: str, since_ms: int, until_ms: int) -> dict[str, Any]:
    """The events that an endpoint listens to, in the terms of the statements."""
    return {
        "project_id": endpoint.project_id,
        "endpoint_id": endpoint.id,
        "job_id": endpoint.job_id,
        "since_at": since_ms,
        "until_at": until_ms,
        "any_type": int("*" in endpoint.event_types),
        "any_job_type": int("job.*" in endpoint.event_types),
        "types": rows.text(endpoint.event_types),
        "providers": rows.text(endpoint.providers),
        "which": which,
    }


def _delivery(
    project_id: str, event_id: str, job_id: str | None, endpoint_id: str, at: int, leased_until: int
) -> dict[str, Any]:
    """A new delivery's columns."""
    return {
        "id": ids.new_id(ids.DELIVERY),
        "project_id": project_id,
        "event_id": event_id,
        "endpoint_id": endpoint_id,
        "job_id": job_id,
        "next_attempt_at": leased_until,
        "created_at": at,
    }


async def _start(transaction: Transaction, batches: Sequence[Redelivery]) -> list[None]:
    """Writes each batch; one with nothing to do is through at once."""
    for batch in batches:
        await transaction.rows("insert_redelivery_batch", msgspec.structs.asdict(batch))
    return [None] * len(batches)


async def _step(transaction: Transaction, steps: Sequence[Step]) -> list[list[Fresh]]:
    """Each batch goes on from the event that it had come to."""
    return [await _one_step(transaction, step) for step in steps]


async def _one_step(transaction: Transaction, step: Step) -> list[Fresh]:
    """One batch."""
    batch, found = step.batch, step.found
    here = await _held(transaction, {batch.project_id}, [event_id for event_id, _ in found.events])
    made = [
        _delivery(batch.project_id, event_id, job_id, batch.endpoint_id, step.now, step.leased_until)
        for event_id, job_id in found.events
        if event_id in here
    ]
    advanced = {
        "id": batch.id,
        "was": batch.after_event,
        "after_event": found.after_event,
        "made": len(made),
        "finished_at": step.now if found.through else None,
    }
    if not await transaction.rows("advance_redelivery", advanced):
        return []
    await transaction.run_many("insert_redelivery", made)
    return [Fresh(params["id"], batch.endpoint_id) for params in made]


async def _insert(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[str | None]:
    """One delivery for each caller."""
    projects = {params["project_id"] for params in wanted}
    here = await _held(transaction, projects, [params["event_id"] for params in wanted])
    made = [params for params in wanted if params["event_id"] in here]
    await transaction.run_many("insert_redelivery", made)
    return [params["id"] if params["event_id"] in here else None for params in wanted]


async def _held(transaction: Transaction, projects: set[str], event_ids: Sequence[str]) -> set[str]:
    """Those of the projects' events that are still here, and that nobody prunes until this transaction has ended."""
    if not event_ids:
        return set()
    wanted = {"projects": rows.text(sorted(projects)), "ids": rows.text(sorted(event_ids))}
    return {row["id"] for row in await transaction.rows("hold_events", wanted)}


async def _test(transaction: Transaction, wanted: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[None]:
    """An event and its one delivery."""
    for event, delivery in wanted:
        await transaction.rows("insert_event", event)
        await transaction.rows("insert_delivery", delivery)
    return [None] * len(wanted)
