"""PostgreSQL through asyncpg: a small pool, the statements of SQLite, safe behind a pooler that shares connections.

Behind a pooler such as PgBouncer in its transaction mode, two transactions of one connection may be in two sessions.
So everything is a transaction there and tells its own settings, and nothing is prepared under a name.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg

from relay.errors import SettingsError, StorageUnavailable
from relay.storage.database import Params, Row
from relay.storage.statements import PARAMETER, Numbered

Result = TypeVar("Result")

POOL_MAX: Final = 5
ACQUIRE_S: Final = 2.0
"""A request waits no longer than this for a connection: a provider is told 503 in time to try again."""
COMMAND_S: Final = 10.0
"""A server that vanished without a word is given up after this long, on all connections at once."""
SLOW_S: Final = 86_400.0
"""Migrating and copying take as long as they take."""
LISTEN_AGAIN_S: Final = 1.0
DEADLOCKS_MAX: Final = 3
SESSION: Final = {
    "application_name": "relay",
    "plan_cache_mode": "force_generic_plan",
    # A plan is made once, often while the tables are still empty: by an index is right when they no longer are.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",  # its rows come in no order: a page would sort all that there is for its first fifty
    "jit": "off",  # a generic plan expects many rows where few come, and would be compiled for longer than it runs
    "idle_in_transaction_session_timeout": "20s",  # what a process that vanished had locked is free again
}
_LOCAL: Final = "; ".join(
    f"SET LOCAL {name} = '{value}'" for name, value in SESSION.items() if name != "application_name"
)
"""The same for one transaction, where a session is not relay's own."""
_CHANNEL: Final = "relay"
_LIST: Final = re.compile(r"(NOT )?IN \(SELECT value FROM json_each\((:[a-z_]+)\)\)")
_VALUES: Final = re.compile(r"VALUES \((.*)\)(\s+ON CONFLICT DO NOTHING)?\Z", re.DOTALL)
_KEY: Final = re.compile(r"/\* (?:FROM|,) many \*/ WHERE [\w.]+ = :([a-z_]+)")
_NUMBER: Final = "CAST(CAST({} AS TEXT) AS BIGINT)"
_WORDS: Final = {
    "/* skip locked */": "FOR UPDATE SKIP LOCKED",
    "/* for update */": "FOR UPDATE",
    "/* which need not outlast a crash */": "AND (SELECT set_config('synchronous_commit', 'off', TRUE)) IS NOT NULL",
    "/* this transaction, */": _NUMBER.format("pg_current_xact_id()") + ",",
    "/* and no open transaction is older */": "AND position < "
    + _NUMBER.format("pg_snapshot_xmin(pg_current_snapshot())"),
    "/* or no transaction here had its number */": "OR ahead.position >= "
    + _NUMBER.format("pg_snapshot_xmax(pg_current_snapshot())"),
}
"""What a comment in a statement says here; transactions are numbered as they begin to write, never twice."""
_SCHEMA_LOCK: Final = 0x52454C4159
_LOST: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)


class Statement(Numbered):
    """A statement as PostgreSQL takes it: `$1` for `:name`, its words for a list in JSON and for a comment.

    `many` is the same for a batch, and `many_text` that with its types, once they are known.
    """

    def __init__(self, text: str) -> None:
        text = _LIST.sub(_in_array, text)
        for comment, word in _WORDS.items():
            text = text.replace(comment, word)
        super().__init__(text.replace("/* FROM many */ ", "").replace("/* , many */ ", ""), "$")
        self.many = Many(text) if "/* FROM many */" in text or "/* , many */" in text or _VALUES.search(text) else None
        self.many_text: str | None = None


def _in_array(found: re.Match[str]) -> str:
    """A list in JSON as an array that an index is searched by; as rows it would be joined, perhaps the wrong way."""
    word = "<> ALL" if found[1] else "= ANY"
    return f"{word} (ARRAY(SELECT jsonb_array_elements_text(CAST({found[2]} AS JSONB))))"


class Many:
    """A statement that takes a whole batch: each parameter is an array, and `unnest` makes rows of them again.

    `text` has a place for the arrays' types, which the server tells. `key` names the parameter by which rows are found,
    if any: a batch is sent in its order, since two processes that lock the same rows in two orders wait for each other.
    """

    def __init__(self, statement: str) -> None:
        self.names = list(dict.fromkeys(PARAMETER.findall(statement)))
        text = _VALUES.sub(r"SELECT \1 /* FROM many */\2", statement)
        rows = f"unnest({{arrays}}) AS many({', '.join(f'p_{name}' for name in self.names)})"
        self.text = PARAMETER.sub(r"many.p_\1", text)
        self.text = self.text.replace("/* FROM many */", f"FROM {rows}").replace("/* , many */", f", {rows}")
        found = _KEY.search(statement)
        self.key = found[1] if found else None

    def fits(self, many: Sequence[Params]) -> bool:
        """Whether each row is found once: a statement changes a row once, whatever its arrays say."""
        return self.key is None or len({params[self.key] for params in many}) == len(many)

    def arrays(self, many: Sequence[Params]) -> list[list[Any]]:
        """One array for each parameter."""
        key = self.key
        ordered = many if key is None else sorted(many, key=lambda params: params[key])
        return [[params[name] for params in ordered] for name in self.names]


class Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """Closes in a bounded time and quietly: the pool closes what it has given up in a task that nobody waits for."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
        """Says good-bye, to a server that may have vanished."""
        with suppress(*_LOST):
            await super().close(timeout=timeout or ACQUIRE_S)


class PostgreSQL:
    """An open database; each transaction has a connection of the pool to itself."""

    shared = True

    def __init__(self, pool: "asyncpg.Pool[Any]", url: str, pooled: bool, statements: dict[str, str]) -> None:
        self._pool = pool
        self._url = url
        self._pooled = pooled
        self._listening: Any = None
        self._statements = {name: Statement(text) for name, text in statements.items()}

    @classmethod
    async def open(cls, url: str, statements: dict[str, str]) -> "PostgreSQL":
        """Connects; SettingsError for a URL that opens nothing, StorageUnavailable for a server that is away."""
        plain, pooled = _without_pooler(url)
        try:
            pooled = pooled or await _forgets(plain)
            pool = await asyncpg.create_pool(
                plain,
                min_size=1,
                max_size=POOL_MAX,
                connection_class=Connection,
                command_timeout=COMMAND_S,
                max_inactive_connection_lifetime=60.0,
                statement_cache_size=0 if pooled else 256,
                server_settings={"application_name": SESSION["application_name"]} if pooled else SESSION,
                reset=_nothing if pooled else None,
            )
        except (ValueError, asyncpg.ClientConfigurationError, asyncpg.InvalidAuthorizationSpecificationError) as error:
            raise SettingsError(f"DATABASE_URL opens no database: {type(error).__name__}") from None
        except asyncpg.InvalidCatalogNameError:
            raise SettingsError("DATABASE_URL names a database that is not there") from None
        except _LOST as error:
            raise StorageUnavailable(f"the database does not answer: {type(error).__name__}") from None
        return cls(pool, plain, pooled, statements)

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a named read; behind a pooler in a transaction, or its two exchanges could come to two sessions."""
        if self._pooled:
            return await self.transact(lambda transaction: transaction.rows(name, params))
        statement = self._statements[name]
        with _translated():
            async with self._acquired() as connection:
                found: Sequence[Row] = await connection.fetch(statement.text, *statement.values(params))
                return found

    async def take(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a statement that writes, alone and in one exchange: it is a transaction of its own."""
        return await self.rows(name, params)

    async def transact(self, work: "Callable[[PostgreSQLTransaction], Coroutine[Any, Any, Result]]") -> Result:
        """BEGIN … COMMIT on a connection of its own; undone when anything in it fails or is cancelled.

        What the server undid because two transactions waited for each other is done again.
        """
        for _ in range(DEADLOCKS_MAX):
            try:
                return await self._transact(work)
            except StorageUnavailable as error:
                if not isinstance(error.__cause__, asyncpg.TransactionRollbackError):
                    raise
        return await self._transact(work)

    async def _transact(self, work: "Callable[[PostgreSQLTransaction], Coroutine[Any, Any, Result]]") -> Result:
        """One try."""
        with _translated():
            async with self._acquired() as connection, connection.transaction():
                try:
                    if self._pooled:
                        await connection.execute(_LOCAL)
                    return await work(PostgreSQLTransaction(connection, self._statements))
                except TimeoutError:
                    connection.terminate()  # or its ROLLBACK would wait for an answer without an end
                    raise

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Any]:
        """A connection; where no answer comes on it, it is cut, and the others are made anew before they are used."""
        async with self._pool.acquire(timeout=ACQUIRE_S) as connection:
            try:
                yield connection
            except TimeoutError:
                await self._pool.expire_connections()
                with suppress(asyncpg.InterfaceError):  # it is cut already
                    connection.terminate()
                if self._listening is not None:
                    self._listening.terminate()
                raise

    async def size_bytes(self) -> int:
        """The files of this database, whatever else the server holds."""
        with _translated():
            async with self._acquired() as connection, connection.transaction():
                return int(await connection.fetchval("SELECT pg_database_size(current_database())"))

    async def heed(self, wake: Callable[[], None]) -> None:
        """LISTEN on a connection of its own, made again when it breaks; behind a pooler polling has to do."""
        if self._pooled:
            await asyncio.Event().wait()
        while True:
            try:
                connection = await asyncpg.connect(self._url, timeout=ACQUIRE_S)
            except _LOST:
                await asyncio.sleep(LISTEN_AGAIN_S)
                continue
            gone, self._listening = asyncio.Event(), connection
            connection.add_termination_listener(lambda _, gone=gone: gone.set())
            try:
                await connection.add_listener(_CHANNEL, lambda *_: wake())
                wake()
                await gone.wait()
            except _LOST:
                await asyncio.sleep(LISTEN_AGAIN_S)
            finally:
                connection.terminate()

    async def close(self) -> None:
        """Closes the pool, within a bounded time."""
        try:
            await asyncio.wait_for(self._pool.close(), ACQUIRE_S)
        except (TimeoutError, *_LOST):
            self._pool.terminate()


class PostgreSQLTransaction:
    """An open write transaction."""

    def __init__(self, connection: Any, statements: dict[str, Statement]) -> None:
        self._connection = connection
        self._statements = statements
        self._timeout_s: float | None = None

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a named statement."""
        statement, timeout_s = self._statements[name], self._timeout_s
        found: Sequence[Row] = await self._connection.fetch(
            statement.text, *statement.values(params), timeout=timeout_s
        )
        return found

    async def run_many(self, name: str, many: Sequence[Params]) -> None:
        """Runs a named statement for all of the parameters, in one exchange with the server."""
        statement = self._statements[name]
        batch = statement.many
        if len(many) > 1 and batch is not None and batch.fits(many):
            if statement.many_text is None:
                types = (await self._connection.prepare(statement.text)).get_parameters()
                arrays = ", ".join(f"${number}::{told.name}[]" for number, told in enumerate(types, 1))
                statement.many_text = batch.text.format(arrays=arrays)
            await self._connection.execute(statement.many_text, *batch.arrays(many))
        elif many:
            await self._connection.executemany(statement.text, [statement.values(params) for params in many])

    async def run_text(self, text: str) -> None:
        """Runs a statement that has no name: only migrations do this."""
        await self._connection.execute(text, timeout=self._timeout_s)

    async def fill(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Rows of another database, by COPY, however long it takes."""
        await self._connection.copy_records_to_table(table, columns=columns, records=rows, timeout=SLOW_S)

    async def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(await self._connection.fetchval(f"SELECT COUNT(*) FROM {table}", timeout=SLOW_S))  # noqa: S608

    async def tables(self) -> set[str]:
        """The tables that are here, whosever they are."""
        found = await self._connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        return {row["tablename"] for row in found}

    async def hint(self) -> None:
        """NOTIFY: the server passes it on when the transaction is committed."""
        await self._connection.execute(f"NOTIFY {_CHANNEL}")

    async def lock_schema(self) -> None:
        """Of several processes that start at once, one migrates and the others wait, for as long as it takes."""
        self._timeout_s = SLOW_S
        await self._connection.execute(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})", timeout=SLOW_S)


def _without_pooler(url: str) -> tuple[str, bool]:
    """The URL without `pgbouncer=true`, and whether it said so: then relay need not find out."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    pooled = query.pop("pgbouncer", "false").lower() in ("true", "1")
    return urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query), "")), pooled


async def _forgets(url: str) -> bool:
    """Whether a session does not keep what it is told: PgBouncer refuses a setting it does not know, or drops it."""
    try:
        connection = await asyncpg.connect(url, server_settings=SESSION, statement_cache_size=0, timeout=COMMAND_S)
    except asyncpg.ProtocolViolationError:
        return True
    try:
        async with connection.transaction():
            return bool(await connection.fetchval("SHOW plan_cache_mode") != SESSION["plan_cache_mode"])
    finally:
        connection.terminate()


async def _nothing(_: Any) -> None:
    """A connection goes back to the pool as it is: a transaction leaves nothing behind."""


@contextmanager
def _translated() -> Iterator[None]:
    """A server that is away, stopping or full is StorageUnavailable; what is wrong in a statement stays a bug."""
    try:
        yield
    except _LOST as error:
        # A cancelled statement whose server has vanished ends so, and whoever was cancelled must still hear of it.
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError from error
        raise StorageUnavailable(f"the database did not take it: {type(error).__name__}") from error
