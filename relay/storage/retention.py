"""Deletes finished jobs past the retention limit with everything stored about them, in batches of whole jobs.

A batch is one short transaction of its own, so that what comes in waits for one batch at most; the caller leaves a
pause between two. Its bound is a weight, rows and pages of bodies, and not a number of jobs: on a machine with two
busy cores a full batch (120 usual jobs) took 30 ms on SQLite and on PostgreSQL, and 70 at worst.

Nothing here waits for a lock: what another process holds is passed over, so there are no deadlocks, and several may
prune concurrently. Payments stay. They are the ledger of what was spent, a few hundred bytes for each job that cost
money, and the caps and a dispute need them; only the authorization that was sent is deleted. A job waits until
the chain has decided on its payment if a node is configured; without one, `unknown` is final.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any, Final, Protocol

import msgspec

from relay.storage import job_rows, rows
from relay.storage.copies import TRY_MAX_MS
from relay.storage.engine.database import Database, Row, Transaction

JOBS_MAX: Final = 250
WEIGHT_MAX: Final = 2_000
"""Rows, and pages of callbacks' bodies, that a batch removes at most, unless a single job has more."""
PAGE_BYTES: Final = 4_096
PAUSE_MS: Final = 100
"""What belongs between two batches."""
STORED: Final = ("callbacks", "calls", "events", "deliveries", "attempts", "endpoints")
"""What is stored of a job, as `jobs_to_prune` counts it."""

Removed = dict[str, int]
"""How many rows of which table."""


class Kind(Protocol):
    """Removes one batch of something, in a transaction."""

    async def __call__(self, transaction: Transaction, terms: "Terms") -> Removed:
        """How many rows of which table."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What is old: what ended before `before`. A callback URL works for `grace_ms` after its job's deadline.

    Where copies of results are kept for ever, what is known of them goes with their job.
    """

    now: int
    before: int
    grace_ms: int
    copies_kept: bool = True


class Pruner:
    """Removes what is old."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def batch(self, terms: Terms) -> Removed:
        """One transaction over the oldest of one kind; empty when there is nothing to remove."""
        for prune in (_jobs, _events, _callbacks, *_REST):
            if removed := await self._database.transact(partial(_prune, prune, terms)):
                return removed
        return {}

    async def count(self, terms: Terms) -> Removed:
        """Return what would go now; what is stored of a job goes with it, uncounted."""
        found = await self._database.rows("count_prunable", {"now": terms.now, "before": terms.before})
        return {row["kind"]: int(row["number"]) for row in found if row["number"]}


async def _prune(kind: Kind, terms: Terms, transaction: Transaction) -> Removed:
    """One batch of one kind."""
    return await kind(transaction, terms)


async def _jobs(transaction: Transaction, terms: Terms) -> Removed:
    """Jobs with all that is stored of them; each leaves a tombstone."""
    found = await transaction.rows("prunable_jobs", {"before": terms.before, "limit": JOBS_MAX})
    if not found:
        return {}
    by_id = {row["id"]: row for row in found}
    held = await transaction.rows("events_to_hold", {"jobs": list(by_id)})
    # The locks came after the look, and an event may have been sent again in between: so they are read again.
    seen = {"jobs": list(by_id), "events": [row["id"] for row in held]}
    going = _within_weight(await transaction.rows("jobs_to_prune", seen))
    if not going:
        return {}
    jobs = [by_id[row["id"]] for row in going]
    job_ids = {job["id"] for job in jobs}
    gone = {"jobs": sorted(job_ids)}
    await transaction.run_many("insert_tombstone", [_tombstone(job, terms) for job in jobs])
    await _prune_events(transaction, [row for row in held if row["job_id"] in job_ids])
    metadata = [
        rows.metadata_params(job["project_id"], job["id"], msgspec.json.decode(job["metadata"])) for job in jobs
    ]
    await transaction.run_many("prune_job_metadata", list(chain.from_iterable(metadata)))
    await transaction.rows("forget_headers_of_payments", gone | {"nothing": b""})
    await transaction.rows("leave_copies_of_jobs", gone | {"due_at": terms.now + TRY_MAX_MS})
    await transaction.rows("prune_copies_of_jobs", gone | {"copies_kept": int(terms.copies_kept)})
    for name in (
        "callbacks_of_jobs",
        "reprocessings_of_jobs",
        "calls_of_jobs",
        "endpoints_of_jobs",
        "requests_of_jobs",
        "jobs",
    ):
        await transaction.rows(f"prune_{name}", gone)
    return {"jobs": len(jobs)} | _sums(going, STORED)


async def _events(transaction: Transaction, terms: Terms) -> Removed:
    """Events that no job made, with their deliveries."""
    found = await transaction.rows("prunable_events", {"before": terms.before, "limit": JOBS_MAX})
    if not found:
        return {}
    seen = await transaction.rows("events_to_prune", _named("events", found))
    going = _within_weight(seen)
    if not going:
        return {}
    await _prune_events(transaction, going)
    return {"events": len(going)} | _sums(going, ("deliveries", "attempts"))


async def _callbacks(transaction: Transaction, terms: Terms) -> Removed:
    """Callbacks about jobs that are not here."""
    found = await transaction.rows("prunable_callbacks", {"before": terms.before, "limit": JOBS_MAX})
    if not found:
        return {}
    going = _within_weight(found)
    await transaction.rows("prune_callbacks", _named("callbacks", going))
    return {"callbacks": len(going)}


def _rest(table: str) -> Kind:
    """Return what goes by its own age, and alone."""

    async def prune(transaction: Transaction, terms: Terms) -> Removed:
        """One batch of it."""
        params = {"now": terms.now, "before": terms.before, "limit": JOBS_MAX}
        found = await transaction.rows(f"prune_{table}", params)
        return {table: len(found)} if found else {}

    return prune


_REST: Final = tuple(
    _rest(table) for table in ("redeliveries", "endpoints", "tombstones", "alerts", "endpoint_history")
)


async def _prune_events(transaction: Transaction, events: Sequence[Row]) -> None:
    """Events with their deliveries and attempts, the children first, since they are found by their parents."""
    gone = _named("events", events)
    for name in ("prune_attempts_of_events", "prune_deliveries_of_events", "prune_events"):
        await transaction.rows(name, gone)


def _named(table: str, found: Sequence[Row]) -> dict[str, Any]:
    """Return the rows of a table whose key is project and id."""
    projects = sorted({row["project_id"] for row in found})
    return {"projects": projects, table: [row["id"] for row in found]}


def _within_weight(found: Sequence[Row]) -> list[Row]:
    """As many of the first rows as a batch may remove; one of any weight, since it goes whole or not at all."""
    going: list[Row] = []
    weight = 0
    for row in found:
        counts = dict(row)
        weight += 1 + sum(counts.get(table, 0) for table in STORED) + counts.get("bytes", 0) // PAGE_BYTES
        if going and weight > WEIGHT_MAX:
            break
        going.append(row)
    return going


def _sums(found: Sequence[Row], tables: Sequence[str]) -> Removed:
    """How much is stored of all of them, by table."""
    return {table: number for table in tables if (number := sum(int(row[table]) for row in found))}


def _tombstone(job: Row, terms: Terms) -> dict[str, Any]:
    """Return a job's tombstone, kept until its callback URL expires and for one retention period more."""
    return {
        "job_id": job["id"],
        "project_id": job["project_id"],
        "provider": job["provider"],
        "state": job["state"],
        "finished_at": job["finished_at"],
        "pruned_at": terms.now,
        "expires_at": max(job_rows.deadline_at(job["doc"]) + terms.grace_ms, 2 * terms.now - terms.before),
    }
