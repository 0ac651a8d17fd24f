"""The audit: who changed what, when, and from where. Reading changes nothing and leaves no entry.

An entry is written before its verb runs and ended with the answer's status after it, so that no change is without one.
An entry without a status is of a verb that a stop of relay cut off, which may or may not be done.
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec

from relay.model import ids
from relay.storage import pages, rows
from relay.storage.engine.database import Database, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.pages import Listing, Page

DETAIL_MAX_CHARS: Final = 300
FORGET_MAX: Final = 1_000
"""Entries that one statement deletes."""
LAST: Final = "z"
"""Sorts after every id."""
REFUSALS_MAX: Final = 60
"""Refusals of one key that are kept in a minute; more of them say nothing new."""
_REFUSED: Final = range(400, 500)
MINUTE_MS: Final = 60_000


class Via(StrEnum):
    """By which program a verb came; `database` for a command that works on the database itself."""

    API = "api"
    DASHBOARD = "dashboard"
    CLI = "cli"
    DATABASE = "database"


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One verb: who (`key_id`, `key_name`), when (unix ms), what, on which object (`target`), and from where.

    `status` and `code` are the answer's; `code` is a problem's.
    """

    id: str = msgspec.field(default_factory=lambda: ids.new_id(ids.AUDIT))
    project_id: str
    at: int
    via: Via
    verb: str
    key_id: str | None = None
    key_name: str | None = None
    address: str | None = None
    request_id: str | None = None
    target: str | None = None
    detail: str | None = None
    status: int | None = None
    code: str | None = None


class AuditFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries a page shows; None: any. The times are unix ms, `created_before` exclusive."""

    key_id: str | None = None
    verb: str | None = None
    target: str | None = None
    via: str | None = None
    created_after: int | None = None
    created_before: int | None = None


_of_entry: Final = rows.columns_of(AuditEntry)


def cut(detail: str) -> str:
    """Return a detail, cut to DETAIL_MAX_CHARS."""
    return detail if len(detail) <= DETAIL_MAX_CHARS else detail[: DETAIL_MAX_CHARS - 1] + "…"


class Audit:
    """Writes and reads the entries."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._minute = 0
        self._refusals: Counter[str | None] = Counter()

    async def record(self, entry: AuditEntry) -> None:
        """Store an entry; return after COMMIT. StorageUnavailable: nothing is stored, and the verb must not run."""
        await self._writer.write(_insert, entry)

    async def refuse(self, entry: AuditEntry) -> None:
        """Store a refusal, unless REFUSALS_MAX of its key are stored this minute: a client may repeat it for ever."""
        if self._is_new(entry):
            await self.record(entry)

    async def end(self, entry: AuditEntry) -> None:
        """Store the entry's status, its code, and its target if that was not known before.

        An entry of a verb that was refused, which changed nothing, is deleted if REFUSALS_MAX of its key are stored
        this minute.
        """
        keep = entry.status not in _REFUSED or self._is_new(entry)
        await self._writer.write(_end if keep else _delete, entry, urgent=True)

    def _is_new(self, refusal: AuditEntry) -> bool:
        """Count a refusal; return whether it is one of the first of its key in this minute."""
        if self._minute != (minute := refusal.at // MINUTE_MS):
            self._minute = minute
            self._refusals.clear()
        self._refusals[refusal.key_id] += 1
        return self._refusals[refusal.key_id] <= REFUSALS_MAX

    async def page(self, project_id: str, listing: Listing, wanted: AuditFilter) -> Page[AuditEntry]:
        """Return a page of a project's entries, newest first."""
        after, before = wanted.created_after, wanted.created_before
        params: dict[str, Any] = {
            "project_id": project_id,
            "key_id": wanted.key_id,
            "verb": wanted.verb,
            "target": wanted.target,
            "via": wanted.via,
            "first": "" if after is None else ids.first_at(ids.AUDIT, after),
            "last": LAST if before is None else ids.first_at(ids.AUDIT, before),
            "floor": None,
        }
        if any((wanted.key_id, wanted.verb, wanted.target, wanted.via)):
            params["floor"] = await pages.floor(self._database, "audit_floor", params | {"before": listing.before})

        async def read(before: str | None, limit: int) -> Sequence[Row]:
            return await self._database.rows("audit_page", params | {"before": before, "limit": limit}, Purpose.LIST)

        return await pages.collect(listing, read, _entry, params["floor"])

    async def forget(self, before_ms: int) -> None:
        """Delete a batch of the entries that are older."""
        await self._writer.write(_forget, before_ms)


def _entry(row: Row) -> AuditEntry:
    """Return the entry of a row."""
    return AuditEntry(**{**_of_entry(row), "via": rows.word(Via, row["via"])})


async def _insert(transaction: Transaction, entries: Sequence[AuditEntry]) -> list[None]:
    """Insert new entries."""
    for entry in entries:
        await transaction.rows("insert_audit", msgspec.structs.asdict(entry))
    return [None] * len(entries)


async def _end(transaction: Transaction, entries: Sequence[AuditEntry]) -> list[None]:
    """Store what became of entries."""
    for entry in entries:
        await transaction.rows("end_audit", msgspec.structs.asdict(entry))
    return [None] * len(entries)


async def _delete(transaction: Transaction, entries: Sequence[AuditEntry]) -> list[None]:
    """Delete entries that say nothing new."""
    for entry in entries:
        await transaction.rows("delete_audit", {"project_id": entry.project_id, "id": entry.id})
    return [None] * len(entries)


async def _forget(transaction: Transaction, wanted: Sequence[int]) -> list[None]:
    """Delete the oldest entries."""
    for before_ms in wanted:
        await transaction.rows("forget_audit", {"before": before_ms, "limit": FORGET_MAX})
    return [None] * len(wanted)
