"""Plans of relay's own statements, as relay runs them: which indexes they use, and how much they read.

SQLite says how many steps of its machine a statement took, PostgreSQL how many rows its scans went through: both grow
with what is read, not with the speed of this machine.
"""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import asyncpg
import msgspec

from relay.storage.engine.postgres import SESSION
from relay.storage.engine.statements import Dialect, Statement, load

Row = dict[str, Any]

BIG = frozenset(
    {"jobs", "job_requests", "events", "callbacks", "calls", "deliveries", "attempts", "job_metadata"}
    | {"copies", "objects_left"}
)
STEPS_OF_A_ROW = 8
_SQLITE = re.compile(r"(SCAN|SEARCH) (\w+)(?: USING (AUTOMATIC )?(?:PARTIAL )?(?:COVERING )?INDEX (\w+)?)?")
_STEP = 50


class Plan(msgspec.Struct, frozen=True):
    """The indexes a statement uses, the big tables it goes through whole, and how many rows it read, about.

    `partial` are those of the indexes that only some rows enter.
    """

    indexes: tuple[str, ...]
    partial: tuple[str, ...]
    scanned: tuple[str, ...]
    rows_read: int


class Explainer(Protocol):
    """A database that shows the plans of its statements."""

    statements: Mapping[str, Statement]

    async def ask(self, text: str) -> list[Row]:
        """Return a query's rows."""

    async def plan(self, name: str, many: Sequence[Mapping[str, Any]]) -> Plan:
        """Return the plan of a named statement, run with these parameters (a batch where they are many), and undone."""


class SQLiteExplainer:
    """Of a connection in autocommit mode."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.statements = load(Dialect.SQLITE)
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'")
        self._partial = {str(row[0]) for row in found}
        self._steps = 0

    async def ask(self, text: str) -> list[Row]:
        """Return a query's rows."""
        found = self._connection.execute(text)
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]

    async def plan(self, name: str, many: Sequence[Mapping[str, Any]]) -> Plan:
        """Return the plan of a named statement; of a batch, what the first of its runs took."""
        statement = self.statements[name]
        values = statement.values(many[0])
        found = self._connection.execute(f"EXPLAIN QUERY PLAN {statement.text}", values).fetchall()
        indexes, scanned = [], []
        for kind, table, automatic, index in (part for row in found for part in _SQLITE.findall(row[3])):
            indexes += [index] if index else []
            whole = automatic or (kind == "SCAN" and index not in self._partial)
            scanned += [table] if table in BIG and whole else []
        partial = _once([index for index in indexes if index in self._partial])
        return Plan(_once(indexes), partial, _once(scanned), self._run(statement.text, values) // STEPS_OF_A_ROW)

    def _run(self, text: str, values: Sequence[Any]) -> int:
        """Return the steps of SQLite's machine, to within fifty."""
        self._steps = 0
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.set_progress_handler(self._count, _STEP)
        try:
            self._connection.execute(text, values).fetchall()
        finally:
            self._connection.set_progress_handler(None, 0)
            self._connection.execute("ROLLBACK")
        return self._steps

    def _count(self) -> int:
        """Count some steps more; return 0, which lets the statement go on."""
        self._steps += _STEP
        return 0


class PostgresExplainer:
    """Of a connection with the settings that relay's own have, so with the plans that relay gets."""

    def __init__(self, connection: "asyncpg.Connection[Any]", partial: set[str]) -> None:
        self._connection = connection
        self._partial = partial
        self.statements = load(Dialect.POSTGRES)

    @classmethod
    async def connected(cls, url: str) -> "PostgresExplainer":
        """Connect; the caller closes the connection."""
        connection = await asyncpg.connect(url, server_settings=SESSION, command_timeout=600)
        found = await connection.fetch("SELECT indexrelid::regclass::text FROM pg_index WHERE indpred IS NOT NULL")
        return cls(connection, {str(row[0]) for row in found})

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def ask(self, text: str) -> list[Row]:
        """Return a query's rows."""
        return [dict(row) for row in await self._connection.fetch(text)]

    async def plan(self, name: str, many: Sequence[Mapping[str, Any]]) -> Plan:
        """Return the generic plan, and the rows that its scans went through."""
        statement = self.statements[name]
        text, values = statement.text, statement.arrays(many) if statement.is_batch else statement.values(many[0])
        kinds = (await self._connection.prepare(text)).get_parameters()
        literals = [_literal(value, kind.name) for value, kind in zip(values, kinds, strict=True)]
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            await self._connection.execute(f"PREPARE explained AS {text}")
            asked = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE explained ({', '.join(literals)})"
            found = await self._connection.fetchval(asked if literals else asked.removesuffix(" ()"))
        finally:
            await transaction.rollback()
            await self._connection.execute("DEALLOCATE explained")
        nodes = list(_nodes(json.loads(found)[0]["Plan"]))
        indexes = _once([node["Index Name"] for node in nodes if "Index Name" in node])
        return Plan(
            indexes,
            tuple(index for index in indexes if index in self._partial),
            _once([node["Relation Name"] for node in nodes if self._whole(node)]),
            round(sum(map(_rows_read, nodes))),
        )

    def _whole(self, node: dict[str, Any]) -> bool:
        """Whether a node goes through a big table from end to end, or through an index of all of it."""
        if node.get("Relation Name") not in BIG or not node["Actual Loops"]:
            return False
        by_index = node["Node Type"] in ("Index Scan", "Index Only Scan")
        return node["Node Type"] == "Seq Scan" or (
            by_index and "Index Cond" not in node and node["Index Name"] not in self._partial
        )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a plan's nodes."""
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _rows_read(node: dict[str, Any]) -> float:
    """Return the rows that a scan looked at, those included that a filter then left out."""
    if "Scan" not in node["Node Type"] or node["Node Type"] in ("CTE Scan", "Subquery Scan", "Function Scan"):
        return 0
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    rows: float = node["Actual Rows"] + sum(node.get(name, 0) for name in removed)
    return rows * float(node["Actual Loops"])


def _literal(value: object, kind: str = "") -> str:
    """Return a value in SQL; a list is an array of its kind."""
    if isinstance(value, list | tuple):
        array = f"ARRAY[{', '.join(map(_literal, value))}]"
        return f"CAST({array} AS {kind})" if kind else array
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    return "'" + str(value).replace("'", "''") + "'"


def _once(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once, in order."""
    return tuple(dict.fromkeys(names))
