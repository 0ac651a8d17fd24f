"""Jobs in the database: made once, changed only through `record`, found by page."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import msgspec

from relay.lifecycle import output_expiry
from relay.model import ids
from relay.model.delivery import Attempt, Delivery, Endpoint
from relay.model.job import Job, JobState, ProviderCall
from relay.model.payment import Payment
from relay.security.encryption import Encryption
from relay.storage import job_rows, pages, payments, rows
from relay.storage.apply_updates import JobUpdate, UpdateApplier, UpdateResult
from relay.storage.boots import CONFIRMING_MAX, Lease
from relay.storage.engine.database import Database, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Waiting, Writer
from relay.storage.idempotency import Tie
from relay.storage.job_rows import Timer
from relay.storage.pages import EVER, Listing, Page, Span
from relay.storage.tombstones import Tombstone

EVIDENCE_MAX = 500


class NewJob(msgspec.Struct, frozen=True):
    """A job with the endpoints made for it alone, the Idempotency-Key's tie, and what it may cost.

    `caps` bound what is spent in a time; there are some where there is a payment.
    """

    job: Job
    endpoints: tuple[Endpoint, ...]
    tie: Tie | None = None
    payment: Payment | None = None
    caps: payments.Caps = payments.Caps(day=0, project_day=0)


class ConfirmationClaim(msgspec.Struct, frozen=True, kw_only=True):
    """How many of a project's jobs to claim for confirmation at a provider; times in unix milliseconds."""

    provider: str
    project_id: str
    now: int
    leased_until: int
    limit: int


class DueJob(msgspec.Struct, frozen=True):
    """A job whose timer has run out."""

    id: str
    provider: str
    deadline_at: int


class UnansweredJob(msgspec.Struct, frozen=True):
    """A job whose submission began at a unix millisecond and has no answer; `abandoned` if its process has ended."""

    id: str
    provider: str
    started_at: int
    abandoned: bool


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of jobs may be narrowed by; times in unix milliseconds."""

    status: str | None = None
    provider: str | None = None
    reason: str | None = None
    provider_job_id: str | None = None
    made: Span = EVER
    undelivered: bool = False
    """Those with an event that an endpoint should have and has not accepted."""
    expiring_after: int | None = None
    """Those whose result expires after this time, though no endpoint has accepted their last final event."""
    copies: str | None = None
    """Those with a result whose copy has this state."""
    metadata: dict[str, str] = {}

    @property
    def narrows(self) -> bool:
        """Whether a page may have to read more jobs than it shows, besides those of a time."""
        exact = (self.status, self.provider, self.reason, self.provider_job_id, self.expiring_after, self.copies)
        return self.undelivered or any(one is not None for one in exact)


class Evidence(msgspec.Struct, frozen=True):
    """All that is stored about one job, for its timeline; at most EVIDENCE_MAX of each, and one payment, unopened."""

    calls: list[ProviderCall]
    callbacks: list[Row]
    reprocessings: list[Row]
    events: list[Row]
    deliveries: list[Delivery]
    attempts: list[Attempt]
    payments: list[Row]


class Jobs:
    """The jobs."""

    def __init__(
        self, database: Database, writer: Writer, encryption: Encryption, recorder: UpdateApplier, lease: Lease
    ) -> None:
        self._database = database
        self._writer = writer
        self._encryption = encryption
        self._recorder = recorder
        self._lease = lease

    async def create(self, new: NewJob) -> None:
        """Store the job, its endpoints and its idempotency key in one commit, before anything is sent."""
        await self._writer.write(self._insert, new, tie=new.tie)

    async def start_submission(self, job_id: str, now_ms: int) -> Job | None:
        """Mark the job as being submitted; return it to the one caller that may send it, None to all others."""
        return await self._writer.write(_start_submissions, {"id": job_id, "now": now_ms, "boot": self._lease.boot})

    async def record(self, update: JobUpdate, tie: Tie | None = None) -> UpdateResult:
        """Apply an update to a job, with all that follows from it, in one commit."""
        return await self._writer.write(self._recorder, update, tie=tie)

    def record_nowait(self, update: JobUpdate, done: Callable[[list[Waiting]], None], caller: object) -> None:
        """Non-async variant of `record`: `done` is called after COMMIT; StorageUnavailable if too many updates wait."""
        self._writer.enqueue(Waiting(self._recorder, update, done, caller))

    async def get(self, job_id: str, project_id: str) -> Job | None:
        """Return the project's job."""
        found = await self._database.rows("job_of_project", {"id": job_id, "project_id": project_id})
        return job_rows.job(found[0]) if found else None

    async def traceparent(self, job_id: str) -> str | None:
        """Return the `traceparent` that a job was submitted with; None without one, or without such a job."""
        found = await self._database.rows("job_document", {"id": job_id})
        return job_rows.traceparent(found[0]["doc"]) if found else None

    async def tombstone(self, job_id: str, project_id: str) -> Tombstone | None:
        """Return what is left of the project's job, if it was pruned."""
        found = await self._database.rows("tombstones_by_id", {"ids": [job_id]})
        return Tombstone.of(found[0]) if found and found[0]["project_id"] == project_id else None

    async def page(self, project_id: str, listing: Listing, wanted: JobFilter) -> Page[Job]:
        """Jobs newest first."""
        pairs = sorted({rows.metadata_pair(key, value) for key, value in wanted.metadata.items()})
        params: dict[str, Any] = {
            "project_id": project_id,
            "status": wanted.status,
            "provider": wanted.provider,
            "reason": wanted.reason,
            "provider_job_id": wanted.provider_job_id,
            "pairs": pairs,
            "pair": pairs[0] if pairs else None,
            "pair_count": len(pairs),
            "undelivered": int(wanted.undelivered),
            "copies": wanted.copies,
            "result_undelivered": int(wanted.expiring_after is not None),
            **wanted.made.params(),
        }
        listing, lowest = wanted.made.narrow(listing, ids.JOB)
        name = "job_page_by_metadata" if pairs else "job_page"
        floor_name = "job_floor_by_pair" if pairs else "job_floor" if wanted.narrows else None
        if wanted.provider_job_id is not None and not pairs:
            name, floor_name = "job_page_by_provider_id", None
        params, ends_at = await pages.bounds(self._database, floor_name, params | {"before": listing.before}, lowest)

        async def read(before: str | None, limit: int) -> Sequence[Row]:
            return await self._database.rows(name, params | {"before": before, "limit": limit}, Purpose.LIST)

        page = await pages.collect(listing, read, job_rows.job, ends_at)
        if wanted.expiring_after is None:
            return page
        kept = [job for job in page.items if output_expiry.first_at(job.outputs, wanted.expiring_after) is not None]
        return Page(kept, page.next_cursor)

    async def due(self, timer: Timer, now_ms: int, limit: int) -> list[DueJob]:
        """Return the jobs whose timer of this kind ran out by `now_ms`, the first ones first."""
        return _due(await self._database.rows("due_jobs", {"timer": timer.value, "now": now_ms, "limit": limit}))

    async def left_in_submission(self, before_ms: int, limit: int) -> list[UnansweredJob]:
        """Return jobs whose submission never ended: it began before then, or the process that began it has ended."""
        found = await self._database.rows("jobs_left_in_submission", {"before": before_ms, "limit": limit})
        return [UnansweredJob(row["id"], row["provider"], row["started_at"], bool(row["abandoned"])) for row in found]

    async def claim_checks(self, provider: str, now_ms: int, leased_until_ms: int, limit: int) -> list[Job]:
        """Return a provider's jobs whose status check is due, leased until then; none that waits to be confirmed."""
        params: dict[str, Any] = {"provider": provider, "now": now_ms, "limit": limit}
        params |= {"leased_until": leased_until_ms, "boot": self._lease.boot}
        return await self._writer.write(_claim_checks, params)

    async def claim_confirmations(self, claim: ConfirmationClaim) -> list[Job]:
        """Return a project's jobs that wait for a due status check at a provider, leased."""
        return await self._writer.write(
            _claim_confirmations, msgspec.structs.asdict(claim) | {"boot": self._lease.boot}
        )

    async def claim_check(self, job_id: str, leased_until_ms: int) -> Job | None:
        """One job, to be asked about now; None when there is none."""
        params = {"id": job_id, "leased_until": leased_until_ms, "boot": self._lease.boot}
        claimed = await self._writer.write(_claim_check, params, locks=job_id)
        return claimed[0] if claimed else None

    async def next_checks(self) -> dict[str, int]:
        """Return when each provider's next status check is due, without what waits to be confirmed."""
        return {row["provider"]: row["at"] for row in await self._database.rows("next_checks", {})}

    async def next_confirmations(self) -> dict[str, dict[str, int]]:
        """Return when each project's next job that waits to be confirmed is due, by provider and project."""
        due: dict[str, dict[str, int]] = {}
        for row in await self._database.rows("next_confirmations", {"limit": CONFIRMING_MAX}):
            due.setdefault(row["provider"], {})[row["project_id"]] = row["at"]
        return due

    async def next_clock(self) -> int | None:
        """Return when the next timer runs out, but for those of submissions that are under way."""
        at: int | None = (await self._database.rows("next_job_clock", {}))[0]["at"]
        return at

    async def evidence(self, job_id: str) -> Evidence:
        """Return what is stored about a job that the caller was allowed to see.

        Of attempts those that the deliveries count: one may have been written since these were read.
        """
        wanted = {"job_id": job_id, "limit": EVIDENCE_MAX}
        deliveries = [rows.delivery(row) for row in await self._database.rows("deliveries_of_job", wanted)]
        made = {delivery.id: delivery.attempts_made for delivery in deliveries}
        found = await self._database.rows("attempts_of_deliveries", {"ids": list(made), "limit": EVIDENCE_MAX})
        attempts = [rows.attempt(row) for row in found]
        return Evidence(
            [rows.call(row) for row in await self._database.rows("calls_of_job", wanted)],
            list(await self._database.rows("callbacks_of_job", wanted)),
            list(await self._database.rows("reprocessings_of_job", wanted)),
            list(await self._database.rows("events_of_job", wanted)),
            deliveries,
            [attempt for attempt in attempts if attempt.number <= made[attempt.delivery_id]],
            list(await self._database.rows("payment_of_job", {"job_id": job_id})),
        )

    async def _insert(self, transaction: Transaction, news: Sequence[NewJob]) -> list[None]:
        """Write a batch of new jobs."""
        await transaction.run_many("insert_job", [job_rows.row(new.job) for new in news])
        await transaction.run_many("insert_job_request", [job_rows.request_row(new.job) for new in news])
        metadata = [rows.metadata_params(new.job.project_id, new.job.id, new.job.metadata) for new in news]
        await transaction.run_many("insert_job_metadata", list(chain.from_iterable(metadata)))
        endpoints = [rows.endpoint_params(endpoint, self._encryption) for new in news for endpoint in new.endpoints]
        await transaction.run_many("insert_endpoint", endpoints)
        for new in news:
            if new.payment is not None:
                await payments.reserve(transaction, new.payment, new.caps, self._encryption)
        return [None] * len(news)


async def _start_submissions(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[Job | None]:
    """Compare and set: each job is started once."""
    found = await transaction.rows("jobs_to_submit", {"ids": sorted({params["id"] for params in wanted})})
    jobs = {row["id"]: job_rows.job(row) for row in found}
    started: list[Job | None] = []
    stored: list[dict[str, Any]] = []
    for params in wanted:
        job = jobs.pop(params["id"], None)
        if job is None or job.state is not JobState.PENDING or job.next_submit_at is None:
            started.append(None)
            continue
        job.next_submit_at, job.submission_started_at = None, params["now"]
        job.submissions_made += 1
        row = job_rows.row(job)
        stored.append(
            {name: getattr(row, name) for name in ("id", "timer", "next_at", "doc")} | {"boot": params["boot"]}
        )
        started.append(job)
    await transaction.run_many("start_submission", stored)
    return started


async def _claim_checks(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[list[Job]]:
    """Claims for each caller in turn."""
    return [[job_rows.job(row) for row in await transaction.rows("claim_checks", params)] for params in wanted]


async def _claim_confirmations(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[list[Job]]:
    """Claims for each project in turn."""
    return [[job_rows.job(row) for row in await transaction.rows("claim_confirmations", params)] for params in wanted]


async def _claim_check(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[list[Job]]:
    """Claims one job for each caller."""
    return [[job_rows.job(row) for row in await transaction.rows("claim_check", params)] for params in wanted]


def _due(found: Sequence[Row]) -> list[DueJob]:
    """Return the jobs of rows."""
    return [DueJob(row["id"], row["provider"], job_rows.deadline_at(row["doc"])) for row in found]
