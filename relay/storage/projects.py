"""Projects and their API keys, as an operator sees them: without the texts of the keys."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from relay.security.encryption import Encryption
from relay.storage import signing_keys
from relay.storage.engine.database import Database, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.idempotency import Tie

KEYS_MAX: Final = 1_000
"""Live keys that a project may have."""


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A project, and how many live keys it has."""

    id: str
    name: str
    created_at: int
    keys_live: int = 0


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its text; times are unix ms. `last_used_at` is exact to a minute."""

    id: str
    project_id: str
    name: str
    scopes: str
    created_at: int
    last_used_at: int | None = None
    revoked_at: int | None = None


class NewKey(msgspec.Struct, frozen=True):
    """A key to store, and the digest of its text."""

    key: StoredKey
    digest: bytes


class KeyFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which keys a page shows: a project's, and of these the live or the revoked ones; None for both."""

    project_id: str
    live: bool | None = None


class Projects:
    """Reads and writes projects and their keys."""

    def __init__(self, database: Database, writer: Writer, encryption: Encryption) -> None:
        self._database = database
        self._writer = writer
        self._encryption = encryption

    async def get(self, given: str) -> Project | None:
        """Return the project with this id, or else with this name."""
        found = await self._database.rows("project", {"given": given})
        return _project(found[0]) if found else None

    async def page(self, project_id: str | None, before: str | None, limit: int) -> list[Project]:
        """Return projects, newest first; with `project_id` only that one."""
        params = {"project_id": project_id, "before": before, "limit": limit}
        return [_project(row) for row in await self._database.rows("project_page", params, Purpose.LIST)]

    async def create(self, project: Project, tie: Tie | None = None) -> bool:
        """Store a project with its signing key; return False if another one has its name."""
        return await self._writer.write(self._insert_projects, project, tie=tie)

    async def keys(self, wanted: KeyFilter, before: str | None, limit: int) -> list[StoredKey]:
        """Return keys of a project, newest first."""
        live = None if wanted.live is None else int(wanted.live)
        params = {"project_id": wanted.project_id, "live": live, "before": before, "limit": limit}
        return [_key(row) for row in await self._database.rows("key_page", params, Purpose.LIST)]

    async def key(self, key_id: str) -> StoredKey | None:
        """Return a key of any project, revoked or not."""
        found = await self._database.rows("stored_key", {"id": key_id})
        return _key(found[0]) if found else None

    async def create_key(self, new: NewKey, tie: Tie | None = None) -> bool:
        """Store a key; return False if its project has KEYS_MAX live ones."""
        return await self._writer.write(_insert_keys, new, tie=tie)

    async def revoke(self, key_id: str, now_ms: int, tie: Tie | None = None) -> StoredKey | None:
        """Revoke a key and return it; None if there is none with this id."""
        return await self._writer.write(_revoke_keys, {"id": key_id, "now": now_ms}, tie=tie, locks=key_id)

    async def _insert_projects(self, transaction: Transaction, wanted: Sequence[Project]) -> list[bool]:
        """Insert each project with its first signing key, unless its name is in use."""
        made = []
        for project in wanted:
            new = {"id": project.id, "name": project.name, "created_at": project.created_at}
            made.append(bool(await transaction.rows("insert_new_project", new)))
            if made[-1]:
                signs = signing_keys.new_params(self._encryption, project.id, signing_keys.FIRST, project.created_at)
                await transaction.rows("insert_signing_key", signs)
        return made


def _project(row: Row) -> Project:
    """Return the project of a row."""
    return msgspec.convert(dict(row), Project)


def _key(row: Row) -> StoredKey:
    """Return the key of a row."""
    return msgspec.convert(dict(row), StoredKey)


async def _insert_keys(transaction: Transaction, wanted: Sequence[NewKey]) -> list[bool]:
    """Insert each key, unless its project has too many."""
    made = []
    for new in wanted:
        (found,) = await transaction.rows("keys_live", {"project_id": new.key.project_id})
        made.append(found["number"] < KEYS_MAX)
        if made[-1]:
            await transaction.rows("insert_api_key", msgspec.structs.asdict(new.key) | {"digest": new.digest})
    return made


async def _revoke_keys(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[StoredKey | None]:
    """Revoke each key."""
    found = [await transaction.rows("revoke_key", params) for params in wanted]
    return [_key(rows[0]) if rows else None for rows in found]
