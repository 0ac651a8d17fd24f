"""A transaction of PostgreSQL in as few exchanges with the server as it can be."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Final

import asyncpg
import msgspec

from relay.storage.engine.database import DueWork, Params, Row
from relay.storage.engine.refusals import explained_rights
from relay.storage.engine.statements import Dialect, Statement, numbered

CHANNEL: Final = "relay"
"""The channel of NOTIFY."""
SLOW_S: Final = 86_400.0
"""Migrating and copying take as long as they take."""
_SCHEMA_LOCK: Final = 0x52454C4159


_LOCKING: Final = "jobs_and_listeners"
_UPDATES: Final = ("update_job", "update_job_and_provider_id")
STALE_MS = 20_000
"""What was read without a lock is used no longer than this, by the server's clock: as long as SESSION lets a
transaction stand still, and less than others wait for one that saw another list of endpoints."""
_UNCHANGED: Final = """
SELECT 1 / CASE
    WHEN (SELECT COUNT(*) FROM part_{place}) <> :updated THEN 0
    WHEN EXTRACT(EPOCH FROM clock_timestamp()) * 1000 > CAST(:until AS BIGINT) THEN 0
    ELSE 1
END AS unchanged
"""
"""Fails, and with it all that is written in the exchange, unless so many jobs were updated, in time."""
_GUARDED: Final = "SELECT found.*, unchanged FROM ({unchanged}) AS guard LEFT JOIN ({select}) AS found ON TRUE"
"""Has one row at least, and each has the guard's column: so the guard is computed."""


class RowsChangedError(Exception):
    """A transaction without locks has written nothing: a job has changed since it was read, or it needs locks."""


class PostgreSQLTransaction:
    """An open write transaction.

    What it only writes waits for the next read, or for its end, and is then sent together: each exchange with the
    server costs as much as the rows of a small batch. All parts of one exchange see the tables as they were before it,
    so what mentions a table that another part changes goes after that, unless `begin_part` says that they are about
    different rows. https://www.postgresql.org/docs/current/queries-with.html#QUERIES-WITH-MODIFYING
    A transaction that is one exchange needs no BEGIN and no COMMIT.

    `unlocked`: jobs are read without a lock, outside of any transaction, and with their versions. What is written is
    one exchange, and its last; an update of a job of another version undoes it. RowsChangedError means: again, with
    locks.
    """

    def __init__(
        self,
        connection: Any,
        statements: dict[str, Statement],
        joined: dict[tuple[str, ...], str],
        *,
        unlocked: bool = False,
    ) -> None:
        self._connection = connection
        self._statements = statements
        self._joined = joined
        self._waiting: dict[str, Sequence[Params] | Sequence[msgspec.Struct]] = {}
        self._before: frozenset[str] = frozenset()
        """What waits of parts before this one."""
        self._due_work: set[DueWork] = set()
        self._begun: Any = None
        self._timeout_s: float | None = None
        self._unlocked = unlocked
        self._jobs_read = self._until = 0
        self._ended = False

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Run a named statement; of one for a batch, a batch of one."""
        statement = self._statements[name]
        if self._unlocked and name == _LOCKING:
            statement = self._statements[f"{name}_unlocked"]
            found = await self.fetch(statement, statement.values(params))
            self._jobs_read = len(found)
            self._until = found[0]["read_at"] + STALE_MS if found else 0
            return found
        return await self.fetch(
            statement, statement.arrays([params]) if statement.is_batch else statement.values(params)
        )

    async def fetch(self, statement: Statement, values: Sequence[Any]) -> Sequence[Row]:
        """Run a statement with its parameters in their order."""
        if not self._unlocked or self._ended or statement.locks or not statement.source.startswith(("SELECT", "WITH")):
            await self._begin()
        if len(self._waiting) > len(self._before):
            if statement.source.startswith("SELECT") and not self._mentions_changed(statement):
                return await self._send(statement.source, values)
            await self._flush()
        with explained_rights() if self._timeout_s is not None else nullcontext():
            found: Sequence[Row] = await self._connection.fetch(statement.text, *values, timeout=self._timeout_s)
        return found

    async def run_many(self, name: str, many: Sequence[Params] | Sequence[msgspec.Struct]) -> None:
        """Run a named statement for all rows; with others, unless it mentions what these change."""
        if not many:
            return
        statement = self._statements[name]
        if name in self._waiting or (self._waiting and (not statement.is_batch or self._mentions_changed(statement))):
            await self._flush()
        if statement.is_batch:
            self._waiting[name] = many
        else:
            await self._begin()
            await self._connection.executemany(statement.text, list(statement.rows(many)))

    async def commit(self) -> None:
        """Send what waits, and end the transaction."""
        notices = ", ".join(f"pg_notify('{CHANNEL}', '{due_work}')" for due_work in sorted(self._due_work))
        await self._send(f"SELECT {notices}" if notices else "")
        if self._begun is not None:
            begun, self._begun = self._begun, None
            await begun.commit()

    async def undo(self) -> None:
        """Undo it: as if it had never been."""
        if self._begun is not None:
            await self._begun.rollback()

    async def _begin(self) -> None:
        """Begin the transaction, if it has not begun: there is more than one exchange."""
        if self._ended:
            raise RuntimeError("a transaction without locks goes on after it has written")
        if self._unlocked:
            raise RowsChangedError("it takes more than one exchange")
        if self._begun is None:
            begun = self._connection.transaction()
            await begun.start()
            self._begun = begun

    async def _flush(self) -> None:
        """Begin, and send what waits."""
        await self._begin()
        await self._send()

    def _mentions_changed(self, statement: Statement) -> bool:
        """Return whether the statement mentions a table that what waits of this part will change."""
        changed = (self._statements[name].table for name in self._waiting if name not in self._before)
        return any(table in statement.words for table in changed)

    async def _send(self, select: str = "", values: Sequence[Any] = ()) -> Sequence[Row]:
        """Send what waits, and a SELECT with it if there is one, in one exchange; return the rows of that."""
        if not self._waiting and not select:
            return ()
        if self._unlocked and self._waiting:
            return await self._send_unlocked(select, values)
        waiting, self._waiting, self._before = self._waiting, {}, frozenset()
        batches = [(self._statements[name], many) for name, many in waiting.items()]
        names = (*waiting, select)
        text = self._joined.get(names)
        if text is None:
            sources = [statement.source for statement, _ in batches]
            text = self._joined[names] = numbered(sources + [select] * bool(select), Dialect.POSTGRES)
        arrays = (array for statement, many in batches for array in statement.arrays(many))
        found: Sequence[Row] = await self._connection.fetch(text, *arrays, *values)
        return found

    async def _send_unlocked(self, select: str, values: Sequence[Any]) -> Sequence[Row]:
        """Send all that is written, which is committed thereby, if no job has changed since it was read."""
        if self._ended:
            raise RuntimeError("a transaction without locks writes twice")
        places = [place for place, name in enumerate(self._waiting) if name in _UPDATES]
        if self._jobs_read and not places:
            raise RowsChangedError("a job was read and is not updated")
        self._unlocked, self._ended = False, True
        if places:
            unchanged = _UNCHANGED.format(place=places[0])
            select = _GUARDED.format(unchanged=unchanged, select=select) if select else unchanged
            values = (self._jobs_read, self._until, *values)
        try:
            found = await self._send(select, values)
        except asyncpg.DivisionByZeroError as error:
            raise RowsChangedError("a job has changed since it was read") from error
        finally:
            self._unlocked = True
        return [row for row in found if row[0] is not None] if places else found

    async def run_text(self, text: str) -> None:
        """Run a statement that has no name: only migrations do this."""
        await self._flush()
        with explained_rights():
            await self._connection.execute(text, timeout=self._timeout_s)

    async def columns(self, table: str) -> frozenset[str]:
        """Return the columns of the first table of this name in the search path."""
        await self._flush()
        text = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"
        return frozenset(row["attname"] for row in await self._connection.fetch(text, table))

    async def has(self, name: str) -> bool:
        """Whether the schema that things are made in has something of this name."""
        await self._flush()
        text = (
            "SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
            " WHERE relname = $1 AND nspname = current_schema()"
        )
        return await self._connection.fetchval(text, name) is not None

    async def fill(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Rows of another database, by COPY, however long it takes."""
        await self._flush()
        await self._connection.copy_records_to_table(table, columns=columns, records=rows, timeout=SLOW_S)

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        await self._flush()
        return int(await self._connection.fetchval(f"SELECT COUNT(*) FROM {table}", timeout=SLOW_S))  # noqa: S608

    async def tables(self) -> set[str]:
        """Return the tables that are here, whosever they are."""
        await self._flush()
        found = await self._connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        return {row["tablename"] for row in found}

    async def notify(self, about: DueWork) -> None:
        """NOTIFY: the server passes it on when the transaction is committed."""
        self._due_work.add(about)

    def begin_part(self) -> None:
        """Let what waits go along with what follows, whichever tables both mention: the rows are different ones."""
        self._before = frozenset(self._waiting)

    async def lock_schema(self) -> None:
        """Let one of several processes that start together migrate, and the others wait, for as long as it takes."""
        self._timeout_s = SLOW_S
        await self._flush()
        await self._connection.execute("SET LOCAL statement_timeout = 0")  # a host may have set one for the role
        await self._connection.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})", timeout=SLOW_S)
