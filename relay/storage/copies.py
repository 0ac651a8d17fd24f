"""Copies of results in the database: claimed under a lease like deliveries, ended by `apply_updates` with their job."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from relay.clock import parse_rfc3339
from relay.model import ids
from relay.model.archive import ArchiveMode, CopyEnd, CopyErrorCode, CopyState
from relay.model.job import Job, Output
from relay.storage.boots import Lease
from relay.storage.engine.database import Database, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.idempotency import Tie

ENDLESS_MS: Final = 86_400_000
"""A result without a known lifetime is as urgent as one that expires a day after it came."""
BATCH: Final = 100


class NewCopy(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a copy that is to be made; times are unix milliseconds."""

    id: str
    project_id: str
    job_id: str
    number: int
    provider: str
    kind: str
    url: str
    host: str
    needs_key: int
    expires_at: int | None
    urgent_at: int
    due_at: int
    created_at: int
    held_until: int | None
    supersedes: str | None


class DueCopy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy that is leased to this process; `expires_at` is when its result expires, as far as that is known.

    `gone_seen` counts the tries in a row that found the result gone. `key` is where an earlier try began to write.
    """

    id: str
    project_id: str
    job_id: str
    number: int
    provider: str
    kind: str
    url: str
    host: str
    needs_key: bool
    expires_at: int | None
    attempts_made: int
    gone_seen: int
    created_at: int
    held_until: int | None
    supersedes: str | None
    key: str | None

    def end(self, state: CopyState, **outcome: Any) -> CopyEnd:
        """Return how this copy ends."""
        return CopyEnd(
            copy_id=self.id,
            number=self.number,
            state=state,
            held_until=self.held_until,
            supersedes=self.supersedes,
            **outcome,
        )


class CopyClaim(msgspec.Struct, frozen=True, kw_only=True):
    """How many copies a process can make now; none of the projects and hosts that are full. Times are unix ms."""

    now: int
    leased_until: int
    limit: int
    full: Collection[str] = ()
    full_hosts: Collection[str] = ()


class CopyRetry(msgspec.Struct, frozen=True, kw_only=True):
    """When a copy is tried again, and why it has to be."""

    id: str
    due_at: int
    attempts_made: int
    gone_seen: int
    error_code: CopyErrorCode
    error: str


class StoredCopy(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of a result, as it is shown."""

    id: str
    state: CopyState
    key: str | None
    content_type: str | None
    bytes: int | None
    sha256: str | None


class CopyCount(msgspec.Struct, frozen=True):
    """A number of copies, and their bytes together."""

    number: int = 0
    bytes: int = 0


class HeldEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The event of a job's end that has waited long enough for one of its copies."""

    job_id: str
    copy: CopyEnd


class OldCopy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy past its retention."""

    id: str
    job_id: str
    number: int
    key: str


class Changes:
    """What a batch of updates does to copies: those that are new, by job and number, and parameters of statements.

    `released` are the jobs whose event waits no longer for its copies.
    """

    def __init__(self) -> None:
        self.new: dict[tuple[str, int], NewCopy] = {}
        self.renewed: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []
        self.deleted: list[dict[str, Any]] = []
        self.released: set[str] = set()

    async def write(self, transaction: Transaction) -> None:
        """Write it, in the transaction of the updates: an event that was released may have new copies to wait for."""
        await transaction.run_many("release_event", [{"job_id": job_id} for job_id in sorted(self.released)])
        await transaction.run_many("end_copy", self.ended)
        await transaction.run_many("delete_copy", self.deleted)
        await transaction.run_many("renew_copy", self.renewed)
        await transaction.run_many("insert_copy", list(self.new.values()))


class Copies:
    """Reads and writes copies."""

    def __init__(self, database: Database, writer: Writer, lease: Lease) -> None:
        self._database = database
        self._writer = writer
        self._lease = lease

    async def claim(self, claim: CopyClaim) -> list[DueCopy]:
        """Return due copies, leased, the first to expire first."""
        full = {"full": sorted(claim.full), "full_hosts": sorted(claim.full_hosts)}
        params = msgspec.structs.asdict(claim) | full | {"boot": self._lease.boot}
        claimed = await self._writer.write(_claim, params)
        return [_due(row) for row in claimed]

    async def get(self, copy_id: str) -> DueCopy | None:
        """Return a copy as it is now; None where it is not pending any more."""
        found = await self._database.rows("copy_by_id", {"id": copy_id})
        return _due(found[0]) if found else None

    async def of_output(self, project_id: str, job_id: str, number: int) -> StoredCopy | None:
        """Return the copy of a project's result; None where it has none."""
        params = {"project_id": project_id, "job_id": job_id, "number": number}
        found = await self._database.rows("copy_of_output", params)
        return msgspec.convert(dict(found[0]), StoredCopy) if found else None

    async def name(self, copy_id: str, key: str, content_type: str) -> bool:
        """Store the key that a copy is about to be written to; return False if it is not pending any more."""
        return bool(await self._writer.write(_name, {"id": copy_id, "key": key, "content_type": content_type}))

    async def retry(self, retry: CopyRetry) -> None:
        """Release a copy, to be tried again."""
        await self._writer.write(_retry, retry)

    async def out_of_time(self, now_ms: int) -> list[HeldEvent]:
        """Return the events that have waited long enough, at most BATCH."""
        found = await self._database.rows("copies_out_of_time", {"now": now_ms, "limit": BATCH})
        return [
            HeldEvent(
                job_id=row["job_id"],
                copy=CopyEnd(
                    copy_id=row["id"],
                    number=row["number"],
                    state=CopyState.PENDING,
                    held_until=row["held_until"],
                    supersedes=row["supersedes"],
                ),
            )
            for row in found
        ]

    async def next_at(self) -> int | None:
        """Return when the next copy is due, or the next event has waited long enough, in unix milliseconds."""
        (found,) = await self._database.rows("next_copy", {})
        return min((at for at in (found["due_at"], found["held_until"]) if at is not None), default=None)

    async def past_retention(self, before_ms: int) -> list[OldCopy]:
        """Return copies that were made before then, at most BATCH."""
        found = await self._database.rows("copies_past_retention", {"before": before_ms, "limit": BATCH})
        return [msgspec.convert(dict(row), OldCopy) for row in found]

    async def forget(self, copy_id: str) -> None:
        """Delete the row of a copy whose object and job are gone."""
        await self._writer.write(_forget, {"id": copy_id})

    async def counts(self, project_id: str) -> dict[CopyState, CopyCount]:
        """Return how many copies of a project have each state, and their bytes."""
        found = await self._database.rows("copy_counts", {"project_id": project_id}, Purpose.LIST)
        return {CopyState(row["state"]): CopyCount(int(row["number"]), int(row["bytes"])) for row in found}

    async def modes(self) -> dict[str, ArchiveMode]:
        """Return the projects that have a mode of their own."""
        return {row["id"]: ArchiveMode(row["archive"]) for row in await self._database.rows("archive_modes", {})}

    async def set_mode(self, project_id: str, mode: ArchiveMode | None, tie: Tie | None = None) -> None:
        """Give a project a mode of its own, or none."""
        await self._writer.write(_set_mode, {"id": project_id, "mode": mode}, tie=tie)


def new_copy(job: Job, number: int, now_ms: int, wait_ms: int) -> NewCopy:
    """Return the copy of a job's result that is to be made now; an event that waits for it does so for `wait_ms`."""
    output = job.outputs[number]
    expires_at = _expires_at(output)
    return NewCopy(
        id=ids.new_id(ids.COPY),
        project_id=job.project_id,
        job_id=job.id,
        number=number,
        provider=job.provider,
        kind=output.kind,
        url=output.url,
        host=_host(output.url),
        needs_key=int(output.needs_key is True),
        expires_at=expires_at,
        urgent_at=now_ms + ENDLESS_MS if expires_at is None else expires_at,
        due_at=now_ms,
        created_at=now_ms,
        held_until=now_ms + wait_ms if job.held else None,
        supersedes=job.last_final_event,
    )


def renewed(job: Job, number: int, now_ms: int) -> dict[str, Any]:
    """Return the parameters of `renew_copy` for a result whose provider has signed another URL."""
    output = job.outputs[number]
    expires_at = _expires_at(output)
    return {
        "job_id": job.id,
        "number": number,
        "url": output.url,
        "expires_at": expires_at,
        "urgent_at": now_ms + ENDLESS_MS if expires_at is None else expires_at,
    }


def ended(copy: CopyEnd, at: int) -> dict[str, Any]:
    """Return the parameters of `end_copy`."""
    names = ("copy_id", "state", "key", "bytes", "content_type", "error_code", "error")
    return {name: getattr(copy, name) for name in names} | {"digest": copy.sha256, "finished_at": at}


def _host(url: str) -> str:
    """Return the host and port of a URL, as far as it has them."""
    return url.partition("://")[2].partition("/")[0].lower()


def _expires_at(output: Output) -> int | None:
    """Return when a result expires, in unix milliseconds; None where that is not known."""
    return None if output.expires_at is None else parse_rfc3339(output.expires_at)


def _due(row: Row) -> DueCopy:
    """Return the copy of a row."""
    values: Mapping[str, Any] = dict(row)
    return DueCopy(**{**values, "needs_key": bool(values["needs_key"])})


async def _claim(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[Sequence[Row]]:
    """Claim for each caller in turn."""
    return [await transaction.rows("claim_copies", params) for params in wanted]


async def _name(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[bool]:
    """Store the keys."""
    return [bool(await transaction.rows("name_copy", params)) for params in wanted]


async def _retry(transaction: Transaction, wanted: Sequence[CopyRetry]) -> list[None]:
    """Release the copies."""
    for retry in wanted:
        await transaction.rows("retry_copy", msgspec.structs.asdict(retry))
    return [None] * len(wanted)


async def _forget(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[None]:
    """Delete the rows."""
    for params in wanted:
        await transaction.rows("forget_copy", params)
    return [None] * len(wanted)


async def _set_mode(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[None]:
    """Store the modes."""
    for params in wanted:
        await transaction.rows("set_archive_mode", params)
    return [None] * len(wanted)
