"""Copies of results in the database: claimed under a lease like deliveries, ended by `apply_updates` with their job."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from relay.clock import parse_rfc3339
from relay.model import ids
from relay.model.archive import ArchiveMode, CopyEnd, CopyErrorCode, CopyState
from relay.model.job import Job, Output
from relay.storage.boots import Lease
from relay.storage.engine.database import Database, DueWork, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.idempotency import Tie

ENDLESS_MS: Final = 86_400_000
"""A result without a known lifetime is as urgent as one that expires a day after it came."""
BATCH: Final = 100
WINDOW: Final = 64
"""A claim reads so many of the copies that expire first, and so many of those that became due first."""
FEW: Final = 8
"""So many of each project and host where others are full."""
NAMED_AT_A_TIME: Final = 1_000
TRY_MAX_MS: Final = 3_600_000
"""No try of a copy lasts so long: what one may still be writing is deleted after that."""
UNANSWERED_MS: Final = 60_000
"""What a try may have written that has failed is deleted so much later: its bucket may not have finished with it."""


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

    `gone_seen` counts the tries in a row that found the result gone. `key` is where an earlier try began to write, in
    `bucket` (empty: the one that is configured); `writes` counts the keys that were used, and `writing` is True where
    that try may still write. `leased_until` is the lease: once another process has claimed the copy, it is another.
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
    bucket: str
    key: str | None
    writes: int
    writing: bool
    leased_until: int

    def end(self, state: CopyState, **outcome: Any) -> CopyEnd:
        """Return how this copy ends."""
        return CopyEnd(
            copy_id=self.id,
            number=self.number,
            state=state,
            leased_until=self.leased_until,
            held_until=self.held_until,
            supersedes=self.supersedes,
            **outcome,
        )


class CopyClaim(msgspec.Struct, frozen=True, kw_only=True):
    """How many copies a process can make now; none of the projects and hosts that are full. Times are unix ms.

    With `in_turn` the first that became due comes first, instead of the first to expire.
    """

    now: int
    leased_until: int
    limit: int
    full: Collection[str] = ()
    full_hosts: Collection[str] = ()
    in_turn: bool = False


class CopyRetry(msgspec.Struct, frozen=True, kw_only=True):
    """When a copy is tried again, and why it has to be; `leased_until` is the lease of the last try.

    `writing` says that the last try may still write, as where a disk hangs: the next one then has a key of its own.
    """

    id: str
    leased_until: int
    due_at: int
    attempts_made: int
    gone_seen: int
    error_code: CopyErrorCode
    error: str
    writing: bool = False


class StoredCopy(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of a result, as it is shown."""

    id: str
    state: CopyState
    bucket: str
    key: str | None
    content_type: str | None
    bytes: int | None
    sha256: str | None


class ShownCopy(StoredCopy, frozen=True, kw_only=True):
    """A copy with its tries: why the last one failed, and when the next one is due. Times are unix milliseconds.

    `leased_by` is the boot of the process that is copying it now. `expires_at` is when its result expires.
    """

    number: int
    kind: str
    attempts_made: int
    error_code: CopyErrorCode | None
    error: str | None
    due_at: int | None
    leased_by: int | None
    expires_at: int | None
    created_at: int
    finished_at: int | None


class CopyCount(msgspec.Struct, frozen=True):
    """A number of copies, and their bytes together."""

    number: int = 0
    bytes: int = 0


class HeldEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The event of a job's end that has waited long enough for one of its copies."""

    job_id: str
    copy: CopyEnd


class NextTimes(msgspec.Struct, frozen=True):
    """When the next copy becomes due, and the next event has waited long enough, in unix milliseconds; None if none."""

    due_at: int | None
    held_until: int | None


class OldCopy(msgspec.Struct, frozen=True, kw_only=True):
    """A copy that is past its retention."""

    id: str
    job_id: str
    number: int


class CopyName(msgspec.Struct, frozen=True, kw_only=True):
    """The key that a try is about to write to, the `writes`th of its copy, and the lease that it is made under."""

    id: str
    leased_until: int
    bucket: str
    key: str
    content_type: str
    writes: int


class LeftObject(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is to be deleted, leased to this process until then."""

    bucket: str
    key: str
    leased_until: int


class Changes:
    """What a batch of updates does to copies: those that are new, by job and number, and parameters of statements.

    `released` are the jobs whose event waits no longer for its copies. `left` are copies, by job and number, whose
    object is to be deleted from a time on; `abandoned` are objects of tries whose copy is another's by now.
    """

    def __init__(self) -> None:
        self.new: dict[tuple[str, int], NewCopy] = {}
        self.renewed: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []
        self.deleted: list[dict[str, Any]] = []
        self.forgotten: list[dict[str, Any]] = []
        self.abandoned: list[dict[str, Any]] = []
        self.left: dict[tuple[str, int], int] = {}
        self.released: set[str] = set()

    async def write(self, transaction: Transaction) -> None:
        """Write it, in the transaction of the updates: an event that was released may have new copies to wait for.

        What a copy may have in its bucket is queued to be deleted before its row loses the key.
        """
        for copy in self.new.values():
            self.left.setdefault((copy.job_id, copy.number), copy.created_at + TRY_MAX_MS)
        left = [{"job_id": job_id, "number": number, "due_at": at} for (job_id, number), at in self.left.items()]
        await transaction.run_many("leave_copy", left)
        await transaction.run_many("leave_object", self.abandoned)
        await transaction.run_many("release_event", [{"job_id": job_id} for job_id in sorted(self.released)])
        await transaction.run_many("end_copy", self.ended)
        await transaction.run_many("delete_copy", self.deleted)
        await transaction.run_many("forget_copy", self.forgotten)
        await transaction.run_many("renew_copy", self.renewed)
        await transaction.run_many("insert_copy", list(self.new.values()))


class Copies:
    """Reads and writes copies."""

    def __init__(self, database: Database, writer: Writer, lease: Lease) -> None:
        self._database = database
        self._writer = writer
        self._lease = lease

    async def claim(self, claim: CopyClaim) -> list[DueCopy]:
        """Return due copies, leased."""
        params = msgspec.structs.asdict(claim) | {
            "full": sorted(claim.full),
            "full_hosts": sorted(claim.full_hosts),
            "in_turn": int(claim.in_turn),
            "boot": self._lease.boot,
            "window": WINDOW,
            "few": FEW,
        }
        claimed = await self._writer.write(_claim, params)
        return [_due(row) for row in claimed]

    async def get(self, copy: DueCopy) -> DueCopy | None:
        """Return a copy as it is now; None where its lease is another's, or it is not pending any more."""
        found = await self._database.rows("copy_leased", {"id": copy.id, "leased_until": copy.leased_until})
        return _due(found[0]) if found else None

    async def of_output(self, project_id: str, job_id: str, number: int) -> StoredCopy | None:
        """Return the copy of a project's result; None where it has none."""
        params = {"project_id": project_id, "job_id": job_id, "number": number}
        found = await self._database.rows("copy_of_output", params)
        return msgspec.convert(dict(found[0]), StoredCopy) if found else None

    async def of_job(self, project_id: str, job_id: str) -> list[ShownCopy]:
        """Return the copies of the results of a project's job, in their order."""
        found = await self._database.rows("copies_of_job", {"project_id": project_id, "job_id": job_id})
        return [msgspec.convert(dict(row), ShownCopy) for row in found]

    async def hasten(self, job_id: str, now_ms: int) -> int:
        """Make the pending copies of a job due now, but for those that are being copied; return how many."""
        return await self._writer.write(_hasten, {"job_id": job_id, "now": now_ms}, locks=job_id)

    async def name(self, name: CopyName) -> bool:
        """Store the key that a copy is about to be written to; return False if its lease is another's.

        The key of an earlier try, if it had another one, is queued to be deleted.
        """
        return await self._writer.write(_name, name)

    async def retry(self, retry: CopyRetry) -> None:
        """Release a copy, to be tried again, if its lease is still that of its last try."""
        await self._writer.write(_retry, retry, locks=retry.id)

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

    async def next_times(self, now_ms: int) -> NextTimes:
        """Return when the next copy becomes due after now, and when the next event has waited long enough."""
        (found,) = await self._database.rows("next_copy", {"now": now_ms})
        return NextTimes(found["due_at"], found["held_until"])

    async def past_retention(self, before_ms: int) -> list[OldCopy]:
        """Return copies that were made before then, the oldest first, at most BATCH."""
        found = await self._database.rows("copies_past_retention", {"before": before_ms, "limit": BATCH})
        return [msgspec.convert(dict(row), OldCopy) for row in found]

    async def buckets_left(self, now_ms: int) -> list[str]:
        """Return the buckets in which objects are to be deleted now."""
        return [row["bucket"] for row in await self._database.rows("buckets_left", {"now": now_ms})]

    async def claim_left(self, bucket: str, now_ms: int, leased_until_ms: int) -> LeftObject | None:
        """Return the object of a bucket that is to be deleted first, leased; None if none is due."""
        params = {"bucket": bucket, "now": now_ms, "leased_until": leased_until_ms}
        found = await self._writer.write(_claim_left, params)
        return msgspec.convert(dict(found[0]), LeftObject) if found else None

    async def forget_left(self, left: LeftObject) -> None:
        """Store that an object is gone."""
        await self._writer.write(_forget_left, left)

    async def postpone_left(self, left: LeftObject, due_at_ms: int) -> None:
        """Store when to try again to delete an object."""
        await self._writer.write(_postpone_left, msgspec.structs.asdict(left) | {"due_at": due_at_ms})

    async def name_bucket(self, bucket: str) -> None:
        """Give copies and objects from before buckets had names that of the configured one, some at a time."""
        while await self._writer.write(_name_bucket, {"bucket": bucket, "limit": NAMED_AT_A_TIME}):
            pass

    async def counts(self, project_id: str) -> dict[CopyState, CopyCount]:
        """Return how many copies of a project have each state, and their bytes."""
        found = await self._database.rows("copy_counts", {"project_id": project_id}, Purpose.LIST)
        return {CopyState(row["state"]): CopyCount(int(row["number"]), int(row["bytes"])) for row in found}

    async def modes(self) -> dict[str, ArchiveMode]:
        """Return the projects that have a mode of their own."""
        return {row["id"]: ArchiveMode(row["archive"]) for row in await self._database.rows("archive_modes", {})}

    async def set_mode(self, project_id: str, mode: ArchiveMode | None, tie: Tie | None = None) -> None:
        """Give a project a mode of its own, or none."""
        await self._writer.write(_set_mode, {"id": project_id, "mode": mode}, tie=tie, locks=project_id)


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
    """Return the parameters of `end_copy`; `leave_copy` has queued what a copy that failed was written to."""
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
    return DueCopy(**{**values, "needs_key": bool(values["needs_key"]), "writing": bool(values["writing"])})


async def _claim(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[Sequence[Row]]:
    """Claim for each caller in turn."""
    claimed = []
    for params in wanted:
        beside = params["full"] or params["full_hosts"]
        claimed.append(await transaction.rows("claim_copies_beside" if beside else "claim_copies", params))
    return claimed


async def _name(transaction: Transaction, wanted: Sequence[CopyName]) -> list[bool]:
    """Store the keys, each after that of an earlier try was queued to be deleted: that try may still write."""
    held = await hold(transaction, [name.id for name in wanted])
    stored = []
    for name in wanted:
        row = held.get(name.id)
        leased = row is not None and row["state"] == CopyState.PENDING and row["due_at"] == name.leased_until
        stored.append(leased)
        if row is None or not leased:
            continue
        if row["key"] is not None and (row["bucket"], row["key"]) != (name.bucket, name.key):
            due_at = name.leased_until + TRY_MAX_MS
            left = {"job_id": row["job_id"], "number": row["number"], "due_at": due_at}
            await transaction.run_many("leave_copy", [left])
        await transaction.rows("name_copy", msgspec.structs.asdict(name))
    return stored


async def hold(transaction: Transaction, copy_ids: Collection[str]) -> dict[str, Row]:
    """Return the rows of copies that are pending or in the archive, by their ids; they stay as they are until the end.

    Each has `job_id`, `number`, `state`, `due_at`, `bucket` and `key`.
    """
    rows = await transaction.rows("hold_copies", {"ids": sorted(copy_ids)})
    return {row["id"]: row for row in rows}


async def _retry(transaction: Transaction, wanted: Sequence[CopyRetry]) -> list[None]:
    """Release the copies."""
    for retry in wanted:
        await transaction.rows("retry_copy", msgspec.structs.asdict(retry) | {"writing": int(retry.writing)})
    return [None] * len(wanted)


async def _hasten(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[int]:
    """Make the copies due, for each caller in turn, and tell the process that makes them."""
    hastened = [len(await transaction.rows("hasten_copies", params)) for params in wanted]
    if any(hastened):
        await transaction.notify(DueWork.COPIES)
    return hastened


async def _name_bucket(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[bool]:
    """Store the name, and return for each caller whether there was anything to name."""
    named = []
    for params in wanted:
        copies = await transaction.rows("name_copies", params)
        await transaction.rows("name_objects_left", params)
        objects = await transaction.rows("forget_unnamed", params)
        named.append(bool(copies or objects))
    return named


async def _claim_left(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[Sequence[Row]]:
    """Claim an object for each caller in turn."""
    return [await transaction.rows("claim_object_left", params) for params in wanted]


async def _forget_left(transaction: Transaction, wanted: Sequence[LeftObject]) -> list[None]:
    """Delete the rows of objects that are gone."""
    for left in wanted:
        await transaction.rows("forget_object_left", msgspec.structs.asdict(left))
    return [None] * len(wanted)


async def _postpone_left(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[None]:
    """Store when to try again."""
    for params in wanted:
        await transaction.rows("postpone_object_left", params)
    return [None] * len(wanted)


async def _set_mode(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[None]:
    """Store the modes."""
    for params in wanted:
        await transaction.rows("set_archive_mode", params)
    return [None] * len(wanted)
