"""A transaction of PostgreSQL in as few exchanges with the server as it can be."""

import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, Final

from relay.storage.engine.database import Hint, Params, Row
from relay.storage.engine.refusals import explained_rights
from relay.storage.engine.wording import Statement, together

CHANNEL: Final = "relay"
"""What hints go through."""
SLOW_S: Final = 86_400.0
"""Migrating and copying take as long as they take."""
LOOK_S: Final = 5.0
"""What was read without a lock is good for so long. A process that stood still for longer reads it again: an endpoint
may have been enabled meanwhile, and a batch for it waits a bounded time for events that were fanned out without it."""
_SCHEMA_LOCK: Final = 0x52454C4159


class Outdated(Exception):
    """What the transaction has read without a lock is too old to be written by."""


class PostgreSQLTransaction:
    """An open write transaction.

    What it only writes waits until something is read, or to its end, and is then sent at once: each exchange with the
    server costs as much as the rows of a small batch. A transaction that is one exchange needs no BEGIN and no COMMIT,
    and what is only looked at before does not make it two: without `locks` it is not begun for that.
    """

    def __init__(
        self,
        connection: Any,
        statements: dict[str, Statement],
        joined: dict[tuple[str, ...], str],
        *,
        locks: bool = False,
    ) -> None:
        self._connection = connection
        self._locks = locks
        self._statements = statements
        self._joined = joined
        self._waiting: dict[str, Sequence[Params]] = {}
        self._hints: set[Hint] = set()
        self._begun: Any = None
        self._looked_at: float | None = None
        self._timeout_s: float | None = None

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a named statement."""
        await self._begin()
        statement, timeout_s = self._statements[name], self._timeout_s
        with explained_rights() if self._timeout_s is not None else nullcontext():
            found: Sequence[Row] = await self._connection.fetch(
                statement.text, *statement.values(params), timeout=timeout_s
            )
        return found

    async def look(self, name: str, params: Params) -> Sequence[Row]:
        """Reads what is committed, without a lock; in the transaction where it has begun, or changes what is read."""
        statement = self._statements[name]
        if self._locks or self._begun is not None or self._mentions_changed(statement):
            return await self.rows(name, params)
        if self._looked_at is None:
            self._looked_at = time.monotonic()
        found: Sequence[Row] = await self._connection.fetch(statement.unlocked, *statement.values(params))
        return found

    async def run_many(self, name: str, many: Sequence[Params]) -> None:
        """Runs a named statement for all of the parameters; with others, unless it mentions what these change."""
        if not many:
            return
        statement = self._statements[name]
        if self._mentions_changed(statement):
            await self._begin()
        if statement.many is not None and statement.many.fits(many):
            await self._learn(statement)
            self._waiting[name] = many
        else:
            await self._begin()
            await self._connection.executemany(statement.text, [statement.values(params) for params in many])

    async def commit(self) -> None:
        """Sends what waits, and ends the transaction."""
        told = sorted(self._hints)
        await self._send(", ".join(f"pg_notify('{CHANNEL}', '{hint}')" for hint in told))
        if self._begun is not None:
            begun, self._begun = self._begun, None
            await begun.commit()

    async def undo(self) -> None:
        """As if it had never been."""
        if self._begun is not None:
            await self._begun.rollback()

    async def _begin(self) -> None:
        """There is more than one exchange."""
        if self._begun is None:
            self._require_fresh()
            begun = self._connection.transaction()
            await begun.start()
            self._begun = begun
        await self._send()

    def _mentions_changed(self, statement: Statement) -> bool:
        """Whether it is made of something that what waits will change."""
        return any(self._statements[waiting].writes & statement.words for waiting in self._waiting)

    async def _send(self, hint: str = "") -> None:
        """What waits, and the hint if there is one, in one exchange."""
        if not self._waiting and not hint:
            return
        if self._begun is None:
            self._require_fresh()
        waiting, self._waiting = self._waiting, {}
        names = (*waiting, hint)
        text = self._joined.get(names)
        if text is None:
            text = self._joined[names] = together([self._statements[name] for name in waiting], hint)
        batches = [(self._statements[name].many, many) for name, many in waiting.items()]
        arrays = [array for batch, many in batches if batch is not None for array in batch.arrays(many)]
        await self._connection.execute(text, *arrays)

    def _require_fresh(self) -> None:
        """Raise Outdated where too much time has passed since the first look."""
        if self._looked_at is not None and time.monotonic() - self._looked_at > LOOK_S:
            raise Outdated

    async def _learn(self, statement: Statement) -> None:
        """The types of a statement's parameters, which the server knows."""
        if statement.types is None:
            prepared = await self._connection.prepare(statement.text)
            statement.types = [told.name for told in prepared.get_parameters()]

    async def run_text(self, text: str) -> None:
        """Runs a statement that has no name: only migrations do this."""
        await self._begin()
        with explained_rights():
            await self._connection.execute(text, timeout=self._timeout_s)

    async def columns(self, table: str) -> frozenset[str]:
        """The columns of the first table of this name in the search path."""
        await self._begin()
        text = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"
        return frozenset(row["attname"] for row in await self._connection.fetch(text, table))

    async def has(self, name: str) -> bool:
        """Whether the schema that things are made in has something of this name."""
        await self._begin()
        text = (
            "SELECT 1 FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
            " WHERE relname = $1 AND nspname = current_schema()"
        )
        return await self._connection.fetchval(text, name) is not None

    async def fill(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Rows of another database, by COPY, however long it takes."""
        await self._begin()
        await self._connection.copy_records_to_table(table, columns=columns, records=rows, timeout=SLOW_S)

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        await self._begin()
        return int(await self._connection.fetchval(f"SELECT COUNT(*) FROM {table}", timeout=SLOW_S))  # noqa: S608

    async def tables(self) -> set[str]:
        """The tables that are here, whosever they are."""
        await self._begin()
        found = await self._connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        return {row["tablename"] for row in found}

    async def hint(self, about: Hint) -> None:
        """NOTIFY: the server passes it on when the transaction is committed."""
        self._hints.add(about)

    async def lock_schema(self) -> None:
        """Of several processes that start at once, one migrates and the others wait, for as long as it takes."""
        self._timeout_s = SLOW_S
        await self._begin()
        await self._connection.execute("SET LOCAL statement_timeout = 0")  # a host may have set one for the role
        await self._connection.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})", timeout=SLOW_S)
