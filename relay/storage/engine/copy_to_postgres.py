"""A SQLite database into an empty PostgreSQL, whole or not at all, so that relay can grow without losing a job."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from relay.errors import SettingsError, StorageUnavailable
from relay.storage.engine.exchanges import PostgreSQLTransaction
from relay.storage.engine.migrations import migrate
from relay.storage.engine.postgres import PostgreSQL

CHUNK: Final = 1_000
WAIT_S: Final = 2.0
"""How long a relay that is just stopping is waited for."""
_TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
_REGISTER: Final = "schema_migrations"
Progress = Callable[[str, int, int], None]


class Source:
    """A SQLite file that no other process has open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.version: int = self._one(f"SELECT COALESCE(MAX(version), 0) FROM {_REGISTER}")  # noqa: S608
        names = [str(row[0]) for row in connection.execute(_TABLES)]
        self.sizes = {name: self._one(f"SELECT COUNT(*) FROM {name}") for name in names if name != _REGISTER}  # noqa: S608

    def columns(self, table: str) -> list[str]:
        """Return a table's columns."""
        found = self._connection.execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608 - a name that the file itself tells
        return [str(column[0]) for column in found.description]

    def rows(self, table: str, progress: Progress) -> Iterator[tuple[object, ...]]:
        """Yield a table's rows; `progress` is called for every thousandth row and the last."""
        size = self.sizes[table]
        for done, row in enumerate(self._connection.execute(f"SELECT * FROM {table}"), 1):  # noqa: S608
            yield row
            if done % CHUNK == 0 or done == size:
                progress(table, done, size)

    def _one(self, text: str) -> int:
        """Return a number."""
        return int(self._connection.execute(text).fetchone()[0])


async def copy(path: Path, target: PostgreSQL, now_ms: int, progress: Progress) -> dict[str, int]:
    """Copy every row in one transaction; return how many of each table. `progress`: table, done, in all.

    SettingsError when there is no such database, when it is of another version, or when the target is not empty;
    StorageUnavailable when anybody has the source open: what was written there meanwhile would be lost.
    """
    with _alone(path) as source:
        await _require_fit(source, target, now_ms)
        await target.transact(partial(_fill, source=source, progress=progress))
        return source.sizes


async def _fill(transaction: PostgreSQLTransaction, source: Source, progress: Progress) -> None:
    """Every table of the source, counted."""
    await transaction.lock_schema()
    await _require_empty(source, transaction)
    for table in source.sizes:
        await transaction.fill(table, source.columns(table), source.rows(table, progress))
    there = {table: await transaction.count(table) for table in source.sizes}
    if there != source.sizes:
        wrong = [table for table, number in there.items() if number != source.sizes[table]]
        raise StorageUnavailable(f"another process wrote to the target ({', '.join(wrong)}): nothing was copied")
    for table in source.sizes:
        await transaction.run_text(f"ANALYZE {table}")


@contextmanager
def _alone(path: Path) -> Iterator[Source]:
    """Yield the source, locked against other processes until the block ends, an idle relay included."""
    if not path.exists():
        raise SettingsError(f"there is no database to copy: {path.absolute()} (DATABASE_URL names it)")
    try:
        opened = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None, timeout=WAIT_S)
    except sqlite3.OperationalError as error:
        raise SettingsError(f"{path.absolute()} cannot be opened for writing: {error}") from None
    with closing(opened) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise SettingsError(f"{path.absolute()} is no SQLite database: {error}") from None
            raise StorageUnavailable(
                f"{path.absolute()} is in use: stop relay first, so that nothing is lost"
            ) from None
        try:
            source = Source(connection)
        except sqlite3.OperationalError:
            raise SettingsError(f"{path.absolute()} is no database of relay's") from None
        yield source
        connection.execute("ROLLBACK")


async def _require_fit(source: Source, target: PostgreSQL, now_ms: int) -> None:
    """Raise SettingsError unless the target is empty and both databases have this relay's schema."""
    there = await target.transact(PostgreSQLTransaction.tables)
    foreign = sorted(there - source.sizes.keys() - {_REGISTER})
    if foreign or (there and _REGISTER not in there):
        raise SettingsError(
            f"the target holds tables that are not relay's ({', '.join(sorted(foreign or there)[:5])}): "
            "give relay a database of its own"
        )
    await migrate(target, now_ms)
    version = (await target.rows("schema_version", {}))[0]["version"]
    if version != source.version:
        raise SettingsError(f"the source has schema version {source.version}, this relay {version}: migrate it first")


async def _require_empty(source: Source, transaction: PostgreSQLTransaction) -> None:
    """Nothing is there but the project that the schema begins with, and that makes room for the source's."""
    there = {table: await transaction.count(table) for table in source.sizes}
    if sum(there.values()) > 1 or there["projects"] != 1:
        if there == source.sizes:
            raise SettingsError("the target has as many rows of everything as the source: it was copied before")
        found = ", ".join(f"{number} {table}" for table, number in there.items() if number)
        raise SettingsError(f"the target is not empty ({found}): copy into an empty database")
    await transaction.run_text("DELETE FROM projects")
