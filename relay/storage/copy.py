"""A SQLite database into an empty PostgreSQL, whole or not at all, so that relay can grow without losing a job."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from relay.errors import SettingsError, StorageUnavailable
from relay.storage.migrate import migrate
from relay.storage.postgres import PostgreSQL, PostgreSQLTransaction

CHUNK: Final = 1_000
_TABLES: Final = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
_REGISTER: Final = "schema_migrations"


class Source:
    """A SQLite file that nobody else writes to while it is open here."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.version: int = self._one("SELECT COALESCE(MAX(version), 0) FROM schema_migrations")
        names = [str(row[0]) for row in connection.execute(_TABLES)]
        self.sizes = {name: self._one(f"SELECT COUNT(*) FROM {name}") for name in names if name != _REGISTER}  # noqa: S608

    def chunks(self, table: str) -> Iterator[tuple[list[str], list[tuple[object, ...]]]]:
        """The columns of a table, and its rows, a thousand at a time."""
        found = self._connection.execute(f"SELECT * FROM {table}")  # noqa: S608 - a name that the file itself tells
        columns = [str(column[0]) for column in found.description]
        while rows := found.fetchmany(CHUNK):
            yield columns, rows

    def _one(self, text: str) -> int:
        """A number."""
        return int(self._connection.execute(text).fetchone()[0])


async def copy(
    path: Path, target: PostgreSQL, now_ms: int, progress: Callable[[str, int, int], None]
) -> dict[str, int]:
    """Copies every row in one transaction; how many of each table. `progress` hears table, rows done, rows in all.

    SettingsError when there is no such file, when it is of another version, or when the target is not empty.
    """
    try:
        opened = sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None, timeout=5)
    except sqlite3.OperationalError:
        raise SettingsError(f"there is no database to copy: {path.name} (DATABASE_URL names it)") from None
    await migrate(target, now_ms)
    with closing(opened) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise StorageUnavailable(f"the source is being written to: stop relay first ({error})") from None
        source = Source(connection)
        await target.transact(partial(_fill, source=source, progress=progress))
        connection.execute("ROLLBACK")
        return source.sizes


async def _fill(transaction: PostgreSQLTransaction, source: Source, progress: Callable[[str, int, int], None]) -> None:
    """Every table of the source."""
    await transaction.lock_schema()
    await _require_fit(source, transaction)
    for table, size in source.sizes.items():
        done = 0
        for columns, rows in source.chunks(table):
            await transaction.insert(table, columns, rows)
            done += len(rows)
            progress(table, done, size)


async def _require_fit(source: Source, transaction: PostgreSQLTransaction) -> None:
    """Both are of one version, and the target holds nothing yet."""
    version = (await transaction.rows("schema_version", {}))[0]["version"]
    if version != source.version:
        raise SettingsError(f"the source has schema version {source.version}, this relay {version}: migrate it first")
    if await transaction.rows("any_job", {}):
        raise SettingsError("the target has jobs already: copy into an empty database")
