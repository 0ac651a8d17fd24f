"""What is sent again because a person asked: one delivery at once, or a batch that survives restarts."""

from collections.abc import Sequence
from typing import Any

import msgspec

from relay import ids
from relay.model import Endpoint, Event, Redelivery
from relay.storage import rows
from relay.storage.database import Database, Transaction
from relay.storage.record import Fresh
from relay.storage.writer import Writer

OPEN_MAX = 50
"""Batches that are worked on in one turn."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """The next deliveries of a batch: at most `limit`, leased until then."""

    batch: Redelivery
    endpoint: Endpoint
    limit: int
    now: int
    leased_until: int


class Redeliveries:
    """The redeliveries."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def count(self, endpoint: Endpoint, which: str, since_ms: int, until_ms: int) -> int:
        """How many events a batch would send again."""
        params = _wanted(endpoint, which, since_ms, until_ms, "")
        return int((await self._database.rows("count_events_to_redeliver", params))[0]["number"])

    async def start(self, batch: Redelivery) -> None:
        """A batch, committed before anybody is told that it will be done."""
        await self._writer.write(_start, batch)

    async def open(self) -> list[Redelivery]:
        """The batches that are not through."""
        found = await self._database.rows("open_redeliveries", {"limit": OPEN_MAX})
        return [Redelivery(**dict(row)) for row in found]

    async def pending(self, endpoint_id: str) -> int:
        """How much waits for the endpoint."""
        found = await self._database.rows("pending_of_endpoint", {"endpoint_id": endpoint_id})
        return int(found[0]["number"])

    async def step(self, step: Step) -> list[Fresh]:
        """Makes the next deliveries of a batch and says how far it has come, in one commit."""
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


def _wanted(endpoint: Endpoint, which: str, since_ms: int, until_ms: int, after: str) -> dict[str, Any]:
    """The events that an endpoint listens to, in the terms of the statements."""
    return {
        "project_id": endpoint.project_id,
        "endpoint_id": endpoint.id,
        "job_id": endpoint.job_id,
        "since_at": since_ms,
        "until_at": until_ms,
        "after_event": after,
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
    results = []
    for step in steps:
        batch = step.batch
        wanted = _wanted(step.endpoint, batch.which, batch.since_at, batch.until_at, batch.after_event)
        found = await transaction.rows("events_to_redeliver", wanted | {"limit": step.limit})
        here = await _held(transaction, [row["id"] for row in found])
        made = [
            _delivery(batch.project_id, row["id"], row["job_id"], batch.endpoint_id, step.now, step.leased_until)
            for row in found
            if row["id"] in here
        ]
        await transaction.run_many("insert_redelivery", made)
        advanced = {
            "id": batch.id,
            "after_event": found[-1]["id"] if found else batch.after_event,
            "made": len(made),
            "finished_at": step.now if len(found) < step.limit or step.limit == 0 else None,
        }
        await transaction.rows("advance_redelivery", advanced)
        results.append([Fresh(params["id"], batch.endpoint_id) for params in made])
    return results


async def _insert(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[str | None]:
    """One delivery for each caller."""
    here = await _held(transaction, [params["event_id"] for params in wanted])
    made = [params for params in wanted if params["event_id"] in here]
    await transaction.run_many("insert_redelivery", made)
    return [params["id"] if params["event_id"] in here else None for params in wanted]


async def _held(transaction: Transaction, event_ids: Sequence[str]) -> set[str]:
    """Those of the events that are still here, and that nobody prunes until this transaction has ended."""
    found = await transaction.rows("hold_events", {"ids": rows.text(sorted(event_ids))}) if event_ids else ()
    return {row["id"] for row in found}


async def _test(transaction: Transaction, wanted: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> list[None]:
    """An event and its one delivery."""
    for event, delivery in wanted:
        await transaction.rows("insert_event", event)
        await transaction.rows("insert_delivery", delivery)
    return [None] * len(wanted)
