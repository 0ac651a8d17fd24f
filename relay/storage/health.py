"""An endpoint is given up, or taken up again: its rows, word of it to the project's others, what it missed."""

from typing import Any, Final

import msgspec

from relay import ids, views
from relay.model import EventType
from relay.storage.database import Transaction
from relay.storage.fanout import listeners, matches

FAILING_MAX_MS: Final = 432_000_000
"""Five days of nothing but failures, and an endpoint is disabled."""
FAILING_REASON: Final = "nothing but failures for five days"


async def disable(transaction: Transaction, endpoint_id: str, at: int, reason: str) -> None:
    """The endpoint is sent nothing more, what waits for it is canceled, and its project's others are told."""
    found = await transaction.rows("disable_endpoint", {"id": endpoint_id, "now": at, "reason": reason})
    if found:
        await transaction.rows("cancel_deliveries_of_endpoint", {"id": endpoint_id, "now": at})
        await _announce(transaction, found[0], EventType.ENDPOINT_DISABLED, at, reason)


async def disable_failing(transaction: Transaction, endpoint_id: str, at: int) -> None:
    """Disables the endpoint if it has failed for too long; the first failure is kept in its row."""
    params = {"id": endpoint_id, "failing_before": at - FAILING_MAX_MS}
    if await transaction.rows("endpoint_failing_since", params):
        await disable(transaction, endpoint_id, at, FAILING_REASON)


async def enable(transaction: Transaction, endpoint_id: str, at: int) -> None:
    """The endpoint is sent notifications again, and what it missed follows at its own rate."""
    before = await transaction.rows("endpoint_by_id", {"id": endpoint_id})
    found = await transaction.rows("enable_endpoint", {"id": endpoint_id, "now": at})
    if not found:
        return
    row = before[0]
    since = {"missing": row["disabled_at"], "failed": row["failing_since"] or row["disabled_at"]}
    for which, since_at in since.items():
        batch = {
            "id": ids.new_id(ids.REDELIVERY),
            "project_id": row["project_id"],
            "endpoint_id": endpoint_id,
            "which": which,
            "since_at": since_at,
            "until_at": at + 1,
            "total": 0,
            "created_at": at,
            "finished_at": None,
        }
        await transaction.rows("insert_redelivery_batch", batch)
    await _announce(transaction, found[0], EventType.ENDPOINT_ENABLED, at, None)


async def _announce(transaction: Transaction, row: Any, kind: EventType, at: int, reason: str | None) -> None:
    """An event of no job, for every other standing endpoint of the project that wants it."""
    event_id = ids.new_id(ids.EVENT)
    about = {"id": row["id"], "url": row["url"], "description": row["description"], "disabled_reason": reason}
    data = {"endpoint": about, "job": None, "sequence": 0, "final": False, "supersedes": None}
    event = {
        "id": event_id,
        "project_id": row["project_id"],
        "job_id": None,
        "type": kind,
        "sequence": 0,
        "final": 0,
        "created_at": at,
        "body": views.notification(event_id, kind, at, data),
    }
    await transaction.rows("insert_event", event)
    others = await listeners(transaction, [row["project_id"]], [])
    deliveries = [
        {
            "id": ids.new_id(ids.DELIVERY),
            "project_id": row["project_id"],
            "event_id": event_id,
            "endpoint_id": other["id"],
            "job_id": None,
            "next_attempt_at": at,
            "created_at": at,
        }
        for other in others
        if other["id"] != row["id"] and any(matches(p, kind) for p in msgspec.json.decode(other["event_types"]))
    ]
    await transaction.run_many("insert_delivery", deliveries)
