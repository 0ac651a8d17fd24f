"""SQLite's read connections: a small pool through aiosqlite, so that a slow list blocks neither other reads nor keys.

Each connection has a thread of its own. Look-ups of keys, which every request begins with, have a connection that
nothing else uses, and lists have theirs; the writer is not here.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final

import aiosqlite

from relay.errors import StorageUnavailable
from relay.storage.engine.database import Params, Purpose, Row
from relay.storage.engine.statements import Statement

CONNECTIONS: Final = {Purpose.KEY: 1, Purpose.READ: 2, Purpose.LIST: 2}
_PRAGMAS: Final = """
PRAGMA busy_timeout = 5000;
PRAGMA temp_store = MEMORY;
PRAGMA cache_size = -8192;
PRAGMA synchronous = FULL;
PRAGMA query_only = ON;  -- what reads only reads
"""


class Readers:
    """The open read connections of one file."""

    def __init__(self) -> None:
        self._open: list[aiosqlite.Connection] = []
        self._free: dict[Purpose, asyncio.LifoQueue[aiosqlite.Connection]] = {
            purpose: asyncio.LifoQueue() for purpose in Purpose
        }
        self._names: dict[str, list[str]] = {}
        self._closed = False

    async def open(self, path: Path) -> None:
        """Open every connection, each in autocommit mode."""
        with translated():
            for purpose, number in CONNECTIONS.items():
                for _ in range(number):
                    connection = await aiosqlite.connect(path, isolation_level=None, cached_statements=256)
                    self._open.append(connection)
                    await connection.executescript(_PRAGMAS)
                    self._free[purpose].put_nowait(connection)

    async def rows(self, statement: Statement, params: Params, purpose: Purpose) -> list[Row]:
        """Run a read on a connection of its purpose; each row is a dictionary."""
        values = statement.values(params)
        async with self._taken(purpose) as connection:
            # A statement names its columns, so what they are is asked once; the usual read is one hop to the thread.
            if (names := self._names.get(statement.text)) is None:
                async with connection.execute(statement.text, values) as cursor:
                    names = self._names[statement.text] = [column[0] for column in cursor.description]
                    found = await cursor.fetchall()
            else:
                found = await connection.execute_fetchall(statement.text, values)
        return [dict(zip(names, row, strict=True)) for row in found]

    async def numbers(self, *texts: str) -> list[int]:
        """Run statements that give one number each."""
        async with self._taken(Purpose.READ) as connection:
            return [int(next(iter(await connection.execute_fetchall(text)))[0]) for text in texts]

    async def ask(self, text: str) -> Sequence[tuple[object, ...]]:
        """Run a statement that has no name, on each connection in turn; its rows, for tests and tools."""
        with translated():
            return [tuple(row) for one in self._open for row in await one.execute_fetchall(text)]

    async def close(self) -> None:
        """Close every connection, each behind what its thread still has to do."""
        self._closed = True
        opened, self._open = self._open, []
        for connection in opened:
            with suppress(sqlite3.Error, ValueError):
                await connection.close()

    @asynccontextmanager
    async def _taken(self, purpose: Purpose) -> AsyncIterator[aiosqlite.Connection]:
        """Yield a connection of the purpose; a cancelled caller's read runs on it to its end before the next."""
        if self._closed:
            raise StorageUnavailable("the database is closed")
        connection = await self._free[purpose].get()
        try:
            with translated():
                if self._closed:
                    raise StorageUnavailable("the database is closed")
                yield connection
        finally:
            self._free[purpose].put_nowait(connection)


@contextmanager
def translated() -> Iterator[None]:
    """Translate errors of the disk or a lock into StorageUnavailable; an error in a statement stays a bug."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
        raise
    except sqlite3.DatabaseError as error:
        raise StorageUnavailable(f"the database did not take it: {error}") from error
