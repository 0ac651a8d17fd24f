"""SQLite through aiosqlite: one connection writes, one reads; WAL with synchronous=FULL, so a commit is on the disk."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import aiosqlite

from relay.errors import SettingsError, StorageUnavailable
from relay.storage.database import Params, Row

_PRAGMAS: Final = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA busy_timeout = 5000",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -16384",
)


class SQLite:
    """An open SQLite database; `path` is its file."""

    shared = False

    def __init__(
        self, path: Path, statements: dict[str, str], writer: aiosqlite.Connection, reader: aiosqlite.Connection
    ) -> None:
        self.path = path
        self._statements = statements
        self._writer = writer
        self._reader = reader
        self._one_writer = asyncio.Lock()

    @classmethod
    async def open(cls, path: Path, statements: dict[str, str]) -> "SQLite":
        """Opens the file, and makes it (its owner's alone) where there is none; SettingsError where none can be."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise SettingsError(f"the file of DATABASE_URL cannot be opened for writing: {error.strerror}") from error
        writer = await _connect(path)
        try:
            reader = await _connect(path)
        except BaseException:
            await writer.close()
            raise
        await reader.execute_fetchall("PRAGMA query_only = ON")
        return cls(path, statements, writer, reader)

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a named read on the reading connection."""
        with _translated():
            return list(await self._reader.execute_fetchall(self._statements[name], dict(params)))

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["SQLiteTransaction"]:
        """BEGIN IMMEDIATE … COMMIT; one at a time, and undone when anything in it fails or is cancelled."""
        async with self._one_writer:
            with _translated():
                try:
                    await self._writer.execute_fetchall("BEGIN IMMEDIATE")
                    yield SQLiteTransaction(self._writer, self._statements)
                    await self._writer.execute_fetchall("COMMIT")
                except BaseException:
                    # It queues behind a statement that was cancelled and runs all the same, even behind BEGIN itself.
                    await asyncio.shield(self._writer.rollback())
                    raise

    async def size_bytes(self) -> int:
        """The pages, and the log beside them that has not been taken over yet."""
        with _translated():
            found = [await self._reader.execute_fetchall(f"PRAGMA {name}") for name in ("page_count", "page_size")]
        count, size = (next(iter(rows))[0] for rows in found)
        log = self.path.with_name(self.path.name + "-wal")
        return int(count * size) + (log.stat().st_size if log.exists() else 0)

    async def hint(self) -> None:
        """There is nobody else."""

    async def heed(self, wake: Callable[[], None]) -> None:  # noqa: ARG002 - the protocol's signature
        """There is nobody who could hint."""
        await asyncio.Event().wait()

    async def close(self) -> None:
        """Closes both connections; aiosqlite's threads are not daemons, so an open one would keep the process alive."""
        for connection in (self._reader, self._writer):
            try:
                await connection.close()
            except (sqlite3.Error, ValueError):
                continue


class SQLiteTransaction:
    """An open write transaction."""

    def __init__(self, connection: aiosqlite.Connection, statements: dict[str, str]) -> None:
        self._connection = connection
        self._statements = statements

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a named statement in one hop to the connection's thread."""
        return list(await self._connection.execute_fetchall(self._statements[name], dict(params)))

    async def run_many(self, name: str, many: Sequence[Params]) -> None:
        """Runs a named statement for all of the parameters in one hop."""
        if many:
            await self._connection.executemany(self._statements[name], list(many))

    async def run_text(self, text: str) -> None:
        """Runs a statement that has no name: only migrations do this."""
        await self._connection.execute_fetchall(text)

    async def lock_schema(self) -> None:
        """BEGIN IMMEDIATE has locked the whole file already."""


async def _connect(path: Path) -> aiosqlite.Connection:
    """A connection in autocommit mode, so that BEGIN and COMMIT are only ours."""
    with _translated():
        connection = await aiosqlite.connect(path, isolation_level=None, cached_statements=256)
        try:
            connection.row_factory = sqlite3.Row
            for pragma in _PRAGMAS:
                await connection.execute_fetchall(pragma)
        except BaseException:
            await connection.close()
            raise
        return connection


@contextmanager
def _translated() -> Iterator[None]:
    """What the disk or a lock refuses is StorageUnavailable; what is wrong in a statement stays a bug."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except sqlite3.DatabaseError as error:
        raise StorageUnavailable(f"the database did not take it: {error}") from error
