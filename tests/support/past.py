"""A past for the tests of pruning: jobs and what is stored of them, as a relay of long ago would have left them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from relay.model import ids
from relay.model.delivery import DeliveryState, Endpoint
from relay.model.job import FinishedBy, Job, JobState, Report, UnconfirmedResult
from relay.security.encryption import Encryption
from relay.storage import job_rows, rows
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.migrations import migrate
from relay.storage.fan_out import EventRef, new_delivery
from relay.storage.retention import Pruner, Removed, Terms
from relay.storage.store import open_database
from tests.support.running import DATABASES, SECRET_KEY, START_MS

DAY_MS = 86_400_000
RETENTION_DAYS = 30
TERMS = Terms(now=START_MS, before=START_MS - RETENTION_DAYS * DAY_MS, grace_ms=7 * DAY_MS)
ENDPOINT = Endpoint(
    id="ep_1",
    project_id="prj_default",
    job_id=None,
    url="https://app.example/hook",
    secret="s",
    event_types=["*"],
    created_at=1,
    updated_at=1,
)
OF_JOBS = ("job_metadata", "calls", "callbacks", "events", "deliveries", "endpoints")


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """A job of the past: when it ended (None: not yet), what of it is still under way, how much of it is stored.

    `provable` says that relay knows a node, which is asked about a payment that nobody knows of.
    """

    ended_days: float | None = 40.0
    state: JobState = JobState.SUCCEEDED
    claimed: bool = False
    deliveries: tuple[DeliveryState, ...] = (DeliveryState.DELIVERED,)
    payment: str | None = None
    provable: bool = True
    callbacks: int = 1
    callback_bytes: int = 100

    @property
    def prunable(self) -> bool:
        """Whether the rules say that it is to go."""
        return (
            self.ended_days is not None
            and self.ended_days > RETENTION_DAYS
            and not self.claimed
            and DeliveryState.PENDING not in self.deliveries
            and not self.to_prove
        )

    @property
    def to_prove(self) -> bool:
        """Whether a node is still to be asked about the payment."""
        return self.provable and self.payment in ("reserved", "unknown")


@asynccontextmanager
async def database(folder: Path) -> AsyncIterator[Database]:
    """Yield the folder's database, migrated."""
    opened = await open_database(DATABASES.url(folder))
    try:
        await migrate(opened, 1)
        yield opened
    finally:
        await opened.close()


async def select(opened: Any, text: str) -> list[tuple[Any, ...]]:
    """Return what a query of the test's own finds."""
    return [*await opened.ask(text)]


async def stored(opened: Database) -> dict[str, set[str]]:
    """Return the ids of the jobs that each table knows."""
    texts = {table: f"SELECT job_id FROM {table} WHERE job_id IS NOT NULL" for table in (*OF_JOBS, "tombstones")}
    texts |= {"jobs": "SELECT id FROM jobs", "payments": "SELECT job_id FROM payments"}
    texts |= {"attempts": "SELECT job_id FROM attempts JOIN deliveries ON deliveries.id = attempts.delivery_id"}
    return {table: {row[0] for row in await select(opened, text)} for table, text in texts.items()}


async def prune(opened: Database, terms: Terms = TERMS) -> list[Removed]:
    """Every batch, until nothing is left."""
    batches = []
    while batch := await Pruner(opened).batch(terms):
        batches.append(batch)
    return batches


async def add(opened: Database, pasts: Sequence[Past], now_ms: int = START_MS) -> list[str]:
    """Write the jobs; their ids, in order."""

    async def write(transaction: Transaction) -> list[str]:
        return [await _add(transaction, past, now_ms) for past in pasts]

    return await opened.transact(write)


async def insert_jobs(transaction: Transaction, jobs: Sequence[Job]) -> None:
    """Insert jobs as the store does, without what belongs to them."""
    await transaction.run_many("insert_job", [job_rows.row(job) for job in jobs])
    await transaction.run_many("insert_job_request", [job_rows.request_row(job) for job in jobs])


async def _add(transaction: Transaction, past: Past, now_ms: int) -> str:
    """One job with everything that can be stored of it."""
    job_id = ids.new_id(ids.JOB)
    ended_at = None if past.ended_days is None else now_ms - round(past.ended_days * DAY_MS)
    at = ended_at or now_ms - 60 * DAY_MS
    job = Job(
        id=job_id,
        project_id="prj_default",
        provider="evolink",
        state=JobState.RUNNING if ended_at is None else past.state,
        finished_by=FinishedBy.CALLBACK if ended_at else None,
        finished_at=ended_at,
        created_at=at,
        updated_at=at,
        deadline_at=at + 1000,
        request={},
        metadata={"user": job_id, "number": 7},
        unconfirmed=UnconfirmedResult(
            report=Report(state=JobState.FAILED, provider_status="failed"), callback_id="cb_1", at=at
        )
        if past.claimed
        else None,
        callbacks_seen=past.callbacks,
    )
    await insert_jobs(transaction, [job])
    metadata = rows.metadata_params(job.project_id, job_id, job.metadata)
    await transaction.run_many("insert_job_metadata", metadata)
    await transaction.run_many("insert_call", [_call(job_id, at)])
    body = b"x" * past.callback_bytes
    await transaction.run_many("insert_callback", [callback(job_id, at, body) for _ in range(past.callbacks)])
    if past.payment:
        await transaction.run_many("insert_payment", [_payment(job_id, at, past.payment, past.to_prove)])
    endpoint = Endpoint(
        id=ids.new_id(ids.ENDPOINT),
        project_id=job.project_id,
        job_id=job_id,
        url="https://app.example/hook",
        secret="s",
        event_types=["*"],
        created_at=at,
        updated_at=at,
    )
    await transaction.run_many("insert_endpoint", [rows.endpoint_params(endpoint, Encryption([SECRET_KEY]))])
    for number, state in enumerate(past.deliveries):
        await add_event(transaction, job_id, endpoint.id, at, (state,), number)
    return job_id


async def add_event(
    transaction: Transaction, job_id: str | None, endpoint_id: str, at: int, states: Sequence[str], sequence: int = 0
) -> str:
    """Return an event with a delivery in each of the states, each tried once."""
    event_id = ids.new_id(ids.EVENT)
    kind = "job.succeeded" if job_id else "relay.test"
    event = {"id": event_id, "project_id": "prj_default", "job_id": job_id, "type": kind, "sequence": sequence}
    await transaction.run_many("insert_event", [event | {"final": 0, "created_at": at, "body": b"{}"}])
    for state in states:
        delivery = new_delivery(EventRef(event_id, "prj_default", job_id), endpoint_id, at, at + 1)
        await transaction.run_many("insert_delivery", [delivery])
        tried = {"outcome": "ok", "status_code": 200, "error": None, "duration_ms": 1, "response_excerpt": None}
        tried |= {"exchange": None}
        attempt = {
            "id": ids.new_id(ids.ATTEMPT),
            "delivery_id": delivery.id,
            "project_id": "prj_default",
            "started_at": at,
        }
        await transaction.run_many("insert_attempt", [attempt | tried])
        pending = state == DeliveryState.PENDING
        after = {"finished_at": None if pending else at, "next_attempt_at": at + 1 if pending else None}
        named = {"project_id": "prj_default", "id": delivery.id}
        await transaction.run_many("settle_delivery", [named | {"state": state} | after])
    return event_id


def callback(job_id: str, at: int, body: bytes, disposition: str = "repeated") -> dict[str, Any]:
    """Return a callback's columns."""
    return {
        "id": ids.new_id(ids.CALLBACK),
        "project_id": "prj_default",
        "job_id": job_id,
        "provider": "evolink",
        "disposition": disposition,
        "reason": None,
        "received_at": at,
        "size": len(body),
        "headers": "[]",
        "body": body,
        "digest": None,
    }


def _call(job_id: str, at: int) -> dict[str, Any]:
    """Return a call's columns."""
    said = {"outcome": "accepted", "status_code": 200, "summary": "", "excerpt": None, "decision": None}
    return {
        "id": ids.new_id(ids.CALL),
        "job_id": job_id,
        "kind": "submission",
        "started_at": at,
        "duration_ms": 1,
        **said,
    }


def _payment(job_id: str, at: int, state: str, to_prove: bool) -> dict[str, Any]:
    """Return a payment's columns."""
    whom = {"nonce": job_id, "payer": "0x1", "pay_to": "0x2", "asset": "0x3", "chain_id": 8453, "version": 2}
    sent = {"header_name": "X-PAYMENT", "header": b"sealed", "body_digest": b"", "valid_before": at + 1}
    told = {"state": state, "created_at": at, "next_proof_at": at + 60_000 if to_prove else None, "amount": 550_000}
    about = {"id": ids.new_id(ids.PAYMENT), "project_id": "prj_default", "job_id": job_id, "provider": "x402org"}
    return about | whom | sent | told
