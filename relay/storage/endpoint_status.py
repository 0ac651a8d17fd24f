"""Disables and re-enables endpoints: their rows, notices to the project's other endpoints, and what they missed."""

from typing import Any, Final

import msgspec

from relay.model import ids
from relay.model.job import Event, EventType
from relay.model.resources import events as resources
from relay.storage import endpoint_history
from relay.storage.endpoint_history import note
from relay.storage.engine.database import DueWork, Transaction
from relay.storage.fan_out import matches, new_delivery
from relay.storage.history import BEGINNING, DISORDER_MS, PATIENCE_MS

FAILING_MAX_MS: Final = 432_000_000
"""An endpoint is disabled after five days without a success."""
WAITED_MAX_MS: Final = 345_600_000
"""Deliveries that were canceled with their endpoint may have waited for the length of a retry schedule."""
PROBE_MS: Final = 43_200_000
"""The pause between the probes of an endpoint that failures disabled."""
FAILING_REASON: Final = "nothing but failures for five days"


async def disable(transaction: Transaction, endpoint_id: str, at: int, reason: str, key_id: str | None = None) -> bool:
    """Disable an endpoint: cancel its deliveries and notify the project's other endpoints.

    Return False, and do nothing, for one that is disabled or deleted. `key_id` is the client's key, None for relay.
    """
    found = await transaction.rows("disable_endpoint", {"id": endpoint_id, "now": at, "reason": reason})
    if found:
        await transaction.rows("cancel_deliveries_of_endpoint", {"id": endpoint_id, "now": at})
        await _announce(transaction, found[0], EventType.ENDPOINT_DISABLED, at, reason)
        noted = note(found[0]["project_id"], endpoint_id, at, "disabled", reason)
        await endpoint_history.write(transaction, [msgspec.structs.replace(noted, key_id=key_id)])
    return bool(found)


async def disable_failing(transaction: Transaction, endpoint_id: str, at: int) -> bool:
    """Disable an endpoint that has failed for too long, as its row says; return whether it was disabled."""
    params = {"id": endpoint_id, "failing_before": at - FAILING_MAX_MS}
    if not await transaction.rows("endpoint_failing_since", params):
        return False
    await disable(transaction, endpoint_id, at, FAILING_REASON)
    await _probe(transaction, endpoint_id, at)
    return True


class ProbeResult(msgspec.Struct, frozen=True):
    """How a probe of an endpoint ended at a time (unix ms); `asked` where a client asked for it, and no timer."""

    at: int
    good: bool
    asked: bool


async def probed(transaction: Transaction, endpoint_id: str, result: ProbeResult) -> bool:
    """Re-enable an endpoint that failures disabled and whose probe succeeded; return whether it was re-enabled.

    The next probe is scheduled by one that failed, unless a client asked for that.
    """
    found = await transaction.rows("hold_endpoint", {"id": endpoint_id})
    if not found or found[0]["disabled_reason"] != FAILING_REASON or found[0]["deleted_at"] is not None:
        return False
    if result.good:
        await enable(transaction, endpoint_id, result.at)
    elif not result.asked:
        await _probe(transaction, endpoint_id, result.at)
    return result.good


async def enable(transaction: Transaction, endpoint_id: str, at: int, key_id: str | None = None) -> None:
    """Enable an endpoint, and start batches that send what it missed; `key_id` is the client's key, None for relay."""
    before = await transaction.rows("hold_endpoint", {"id": endpoint_id})
    found = await transaction.rows("enable_endpoint", {"id": endpoint_id, "now": at})
    if not found:
        return
    row = before[0]
    began_at = row["failing_since"] or row["disabled_at"]
    missed_at, first = row["disabled_at"], row["disabled_position"]
    if first is None:  # unknown: disabled by an older relay, or lost with a restore
        about = {"project_id": row["project_id"], "at": missed_at - DISORDER_MS}
        found_position = await transaction.rows("position_in_time", about)
        first = found_position[0]["position"] if found_position else BEGINNING.position
    else:  # the position is where it begins; the time only excludes what is far older
        missed_at = max(missed_at - DISORDER_MS, row["created_at"] - PATIENCE_MS)
    since = {"missing": missed_at, "failed": began_at - WAITED_MAX_MS}
    for which, since_at in since.items():
        batch = {
            "id": ids.new_id(ids.REDELIVERY),
            "project_id": row["project_id"],
            "endpoint_id": endpoint_id,
            "which": which,
            "since_at": since_at,
            "until_at": at + 1,
            "to_now": 1,
            "first_position": first if which == "missing" else None,
            "total": 0,
            "created_at": at,
            "finished_at": None,
        }
        await transaction.rows("insert_redelivery_batch", batch)
    await _announce(transaction, found[0], EventType.ENDPOINT_ENABLED, at, None)
    await transaction.notify(DueWork.DELIVERIES)
    noted = note(row["project_id"], endpoint_id, at, "enabled", None if key_id else "it accepted a probe")
    await endpoint_history.write(transaction, [msgspec.structs.replace(noted, key_id=key_id)])


async def _probe(transaction: Transaction, endpoint_id: str, at: int) -> None:
    """Store a `relay.test` for the endpoint, due in half a day; its row is the timer."""
    row = (await transaction.rows("endpoint_by_id", {"id": endpoint_id}))[0]
    event = endpoint_event(row["project_id"], EventType.RELAY_TEST, at, {"id": endpoint_id})
    await transaction.run_many("insert_event", [event])
    await transaction.run_many("insert_delivery", [new_delivery(event, endpoint_id, at, at + PROBE_MS)])


def endpoint_event(project_id: str, kind: EventType, at: int, about: str | dict[str, Any]) -> Event:
    """Return an event of no job; `about` is its endpoint, as its data shows it."""
    event_id = ids.new_id(ids.EVENT)
    data = resources.EndpointEventData(endpoint=about)
    return Event(
        id=event_id,
        project_id=project_id,
        job_id=None,
        type=kind,
        sequence=0,
        final=False,
        created_at=at,
        body=resources.notification(event_id, kind, at, project_id, data),
    )


async def _announce(transaction: Transaction, row: Any, kind: EventType, at: int, reason: str | None) -> None:
    """Store an event of no job for each of the project's other standing endpoints that wants it."""
    about = {"id": row["id"], "url": row["url"], "description": row["description"], "disabled_reason": reason}
    event = endpoint_event(row["project_id"], kind, at, about)
    await transaction.run_many("insert_event", [event])
    others = await transaction.rows("endpoints_listening", {"project_id": row["project_id"]})
    deliveries = [
        new_delivery(event, other["id"], at, at)
        for other in others
        if other["id"] != row["id"] and any(matches(p, kind) for p in msgspec.json.decode(other["event_types"]))
    ]
    await transaction.run_many("insert_delivery", deliveries)
