"""SQLite: one connection writes, in its own thread; WAL, synchronous=FULL, so a commit is on the disk.

A whole transaction is one hop to the writing thread: between its statements nothing waits for the event loop. The
standard library's `sqlite3` is used as it is, since a wrapper that hops at every statement costs half of the speed.
Reads have connections of their own (`sqlite_readers.py`).
"""

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from relay.errors import SettingsError, StorageUnavailable
from relay.storage.engine.database import DueWork, Params, Purpose, Row, Transaction
from relay.storage.engine.single_process import beside
from relay.storage.engine.sqlite_readers import Readers, translated
from relay.storage.engine.statements import Dialect, Statement, load

Result = TypeVar("Result")

# A list among the parameters becomes JSON, of which `json_each` makes rows.
sqlite3.register_adapter(list, lambda values: msgspec.json.encode(values).decode())

_PRAGMAS: Final = (
    "PRAGMA page_size = 4096",  # of a new file; a commit writes each page it changes, and of small ones it writes half
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA busy_timeout = 5000",
    "PRAGMA wal_autocheckpoint = 4000",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -16384",
)


LISTEN_S: Final = 0.5
"""How often to look whether another process wrote to the file."""


class SQLite:
    """An open SQLite database; `path` is its file."""

    shared = False

    def __init__(self, path: Path, statements: dict[str, Statement], writer: "_Thread", readers: Readers) -> None:
        self.path = path
        self._file = _File(path)
        self.statements = statements
        self.readers = readers
        self._writer = writer

    @classmethod
    async def open(cls, path: Path) -> "SQLite":
        """Open the file, and make it (its owner's alone) if there is none; SettingsError if it cannot be made."""
        _require_file(path)
        writer, readers = _Thread("sqlite-writer"), Readers()
        try:
            await writer.connect(path)
            await readers.open(path)
        except BaseException:
            await readers.close()
            await writer.close()
            raise
        return cls(path, dict(load(Dialect.SQLITE)), writer, readers)

    async def rows(self, name: str, params: Params, purpose: Purpose = Purpose.READ) -> Sequence[Row]:
        """Run a named read on a reading connection."""
        return await self.readers.rows(self.statements[name], params, purpose)

    async def claim(self, name: str, many: Sequence[Params], read: str | None = None) -> Sequence[Row]:
        """Run a claim, and the read of what it claimed, in one hop to the writing thread."""

        async def work(transaction: Transaction) -> Sequence[Row]:
            claimed = [row for params in many for row in await transaction.rows(name, params)]
            if read is None or not claimed:
                return claimed
            return await transaction.rows(read, {"keys": [(row["project_id"], row["id"]) for row in claimed]})

        return await self.transact(work)

    async def transact(self, work: Callable[[Transaction], Coroutine[Any, Any, Result]]) -> Result:
        """BEGIN IMMEDIATE … COMMIT in the writing thread, one at a time; undone when anything in it fails.

        Once begun it goes on to its end, even if its caller is cancelled.
        """
        return await self._writer.run(_transaction, self.statements, work, self._file)

    async def transact_apart(self, work: Callable[[Transaction], Coroutine[Any, Any, Result]]) -> Result:
        """`transact`: the file is locked anyway."""
        return await self.transact(work)

    async def ask(self, text: str) -> Sequence[tuple[Any, ...]]:
        """Run a statement that has no name on the writing connection, for tests and tools; its rows."""
        return await self._writer.run(_ask, text)

    async def size_bytes(self) -> int:
        """Return the pages, and the write-ahead log beside them."""
        log = beside(self.path, "-wal")
        pages, page_bytes = await self.readers.numbers("PRAGMA page_count", "PRAGMA page_size")
        return pages * page_bytes + (log.stat().st_size if log.exists() else 0)

    async def listen(self, wake: Callable[[DueWork], None], boot: int | None = None) -> None:  # noqa: ARG002 - the protocol's
        """Wake for what another process wrote: one that waits for the lock of the file, or a command."""
        seen = await self._writer.run(_data_version)
        while True:
            await asyncio.sleep(LISTEN_S)
            version = await self._writer.run(_data_version)
            if version != seen:
                for due_work in DueWork:
                    wake(due_work)
            seen = version

    async def close(self) -> None:
        """Close all connections, each behind what its thread still has to do."""
        await self.readers.close()
        await self._writer.close()


class _File:
    """The file that the connections have open, which may not be the one that has its name any more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is = _identity(path)

    def require(self) -> None:
        """StorageUnavailable where the file was deleted, moved or replaced: what is written would go into nowhere."""
        if _identity(self._path) != self._is:
            raise StorageUnavailable(
                f"{self._path} was deleted, moved or replaced while relay had it open: "
                "put the file back where it was, or restart relay"
            )


class SQLiteTransaction:
    """An open write transaction. Its coroutines never wait: they run to their end in the writing thread."""

    def __init__(self, connection: sqlite3.Connection, statements: dict[str, Statement]) -> None:
        self._connection = connection
        self._statements = statements

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Run a named statement."""
        return _fetch(self._connection, self._statements[name], params)

    async def run_many(self, name: str, many: Sequence[Params] | Sequence[msgspec.Struct]) -> None:
        """Run a named statement for each row."""
        if many:
            statement = self._statements[name]
            self._connection.executemany(statement.text, statement.rows(many))

    async def run_text(self, text: str) -> None:
        """Run a statement that has no name: only migrations do this."""
        self._connection.execute(text)

    async def columns(self, table: str) -> frozenset[str]:
        """Return the columns of a table."""
        return frozenset(
            name for (name,) in self._connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
        )

    async def has(self, name: str) -> bool:
        """Whether the file has something of this name."""
        text = "SELECT 1 FROM sqlite_master WHERE name = ? COLLATE NOCASE"
        return self._connection.execute(text, (name,)).fetchone() is not None

    async def notify(self, about: DueWork) -> None:
        """Do nothing: another process sees the commit by itself."""

    def begin_part(self) -> None:
        """Do nothing: statements see each other's writes in any case."""

    async def lock_schema(self) -> None:
        """BEGIN IMMEDIATE has locked the whole file already."""


class _Thread:
    """A connection, and the one thread that uses it."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._connection: sqlite3.Connection | None = None

    async def connect(self, path: Path) -> None:
        """Open the connection in autocommit mode, so that BEGIN and COMMIT are only ours."""
        loop = asyncio.get_running_loop()
        with translated():
            self._connection = await loop.run_in_executor(self._executor, _connect, path)

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Call the function in the thread, with the connection before its arguments."""
        if self._connection is None:
            raise StorageUnavailable("the database is closed")
        with translated():
            return await asyncio.get_running_loop().run_in_executor(self._executor, work, self._connection, *arguments)

    async def close(self) -> None:
        """Close the connection behind everything that was given to the thread."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                await asyncio.get_running_loop().run_in_executor(self._executor, connection.close)
        self._executor.shutdown(wait=False)


def _connect(path: Path) -> sqlite3.Connection:
    """Return a connection with relay's settings."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256, check_same_thread=False)
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma).fetchall()
    except sqlite3.DatabaseError as error:
        connection.close()
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise SettingsError(f"{path.absolute()} (DATABASE_URL) is no SQLite database") from None
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _fetch(connection: sqlite3.Connection, statement: Statement, params: Params) -> list[Row]:
    """Every row of a statement, as a dictionary: `sqlite3.Row` looks for a column from left to right."""
    found = connection.execute(statement.text, statement.values(params))
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found]


def _data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes with each commit of another connection, and with none of this one."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _ask(connection: sqlite3.Connection, text: str) -> list[tuple[Any, ...]]:
    """Return every row of a statement that has no name."""
    return connection.execute(text).fetchall()


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file has this name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _transaction(
    connection: sqlite3.Connection,
    statements: dict[str, Statement],
    work: Callable[[Transaction], Awaitable[Result]],
    file: _File,
) -> Result:
    """Return a transaction from its beginning to its end."""
    file.require()
    connection.execute("BEGIN IMMEDIATE")
    try:
        result: Result = _driven(work(SQLiteTransaction(connection, statements)))
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    return result


def _driven(coroutine: Any) -> Any:
    """Run a coroutine to its end that awaits only its transaction, which never suspends it."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise RuntimeError("a transaction waited for something that is not its database")


def _require_file(path: Path) -> None:
    """Make the file (its owner's alone) if there is none; SettingsError names it if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        where = f"{path.absolute()} (DATABASE_URL)"
        raise SettingsError(f"{where} cannot be opened for writing: {error.strerror}") from error
