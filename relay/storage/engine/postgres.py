"""PostgreSQL through asyncpg: a small pool, safe behind a pooler that shares connections.

Behind a pooler such as PgBouncer in its transaction mode, two transactions of one connection may be in two sessions.
So everything is a transaction there and tells its own settings, and nothing is prepared under a name.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeVar

import asyncpg

from relay import log
from relay.errors import SettingsError, StorageUnavailable
from relay.storage.engine.database import DueWork, Params, Purpose, Row
from relay.storage.engine.database_url import PostgresTarget, postgres_target
from relay.storage.engine.exchanges import CHANNEL, PostgreSQLTransaction, RowsChangedError
from relay.storage.engine.refusals import explained
from relay.storage.engine.statements import Dialect, Statement, load

Result = TypeVar("Result")

POOL_MAX: Final = 5
LISTS_MAX: Final = 2
ACQUIRE_S: Final = 2.0
"""A request waits no longer than this for a connection: a provider gets 503 in time to try again."""
COMMAND_S: Final = 10.0
"""After this long without an answer every connection to a server that vanished is closed."""
LISTEN_AGAIN_S: Final = 1.0
QUERIES_MAX: Final = 1_000_000
"""A connection is made anew after so many, with every plan that it has kept: asyncpg's own 50,000 is half a minute."""
AGAIN_MAX: Final = 4
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
_FIT: Final = """
SELECT current_setting('server_encoding') AS encoding, current_setting('plan_cache_mode') AS plans,
    CAST(current_setting('server_version_num') AS INTEGER) AS version, pg_is_in_recovery() AS standby,
    current_database() AS name
"""
VERSION_MIN: Final = 13
"""The first with `pg_current_xact_id`."""
_logger = log.get("database")
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


class Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """Closes in a bounded time and quietly: the pool closes an abandoned connection in a task of its own."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's signature
        """Says good-bye, to a server that may have vanished."""
        with suppress(*_LOST):
            await super().close(timeout=timeout or ACQUIRE_S)


class PostgreSQL:
    """An open database; each transaction has a connection of the pool to itself."""

    shared = True

    def __init__(self, pool: "asyncpg.Pool[Any]", target: PostgresTarget, pooled: bool) -> None:
        self.pool = pool
        self._target = target
        self.pooled = pooled
        self._listening: Any = None
        self._lists = asyncio.Semaphore(LISTS_MAX)
        self.statements: dict[str, Statement] = dict(load(Dialect.POSTGRES))
        self._joined: dict[tuple[str, ...], str] = {}

    @classmethod
    async def open(cls, url: str) -> "PostgreSQL":
        """Connect; SettingsError for what only the operator can mend, StorageUnavailable for a server that is away."""
        target = postgres_target(url)
        if target.ignored:
            _logger.info("database.options_ignored", options=", ".join(target.ignored))
        settings = SESSION | target.settings
        with explained(target):
            pooled = await _meet(target, settings)
            pool = await asyncpg.create_pool(
                **target.arguments,
                min_size=1,
                max_size=POOL_MAX,
                connection_class=Connection,
                command_timeout=COMMAND_S,
                max_inactive_connection_lifetime=60.0,
                statement_cache_size=0 if pooled else 256,
                server_settings={"application_name": SESSION["application_name"]} | target.settings
                if pooled
                else settings,
                max_queries=QUERIES_MAX,
                reset=_nothing,
            )
        return cls(pool, target, pooled)

    async def rows(self, name: str, params: Params, purpose: Purpose = Purpose.READ) -> Sequence[Row]:
        """Run a named read; behind a pooler in a transaction, or its two exchanges could come to two sessions.

        Lists use no more than LISTS_MAX of the pool's connections, so that one is always left for what is not a list.
        """
        if purpose is Purpose.LIST:
            async with self._lists:
                return await self.rows(name, params)
        statement = self.statements[name]
        return await self._fetch(statement, statement.values(params))

    async def claim(self, name: str, many: Sequence[Params], read: str | None = None) -> Sequence[Row]:  # noqa: ARG002
        """Run a claim in one exchange, a transaction of its own: its text is for a batch, or reads what it claimed."""
        statement = self.statements[name]
        return await self._fetch(statement, statement.arrays(many) if statement.is_batch else statement.values(many[0]))

    async def _fetch(self, statement: Statement, values: Sequence[Any]) -> Sequence[Row]:
        """Run a statement that is a transaction of its own."""
        if self.pooled:
            return await self.transact(lambda transaction: transaction.fetch(statement, values))
        with _translated():
            async with self._acquired() as connection:
                found: Sequence[Row] = await connection.fetch(statement.text, *values)
                return found

    async def transact(self, work: "Callable[[PostgreSQLTransaction], Coroutine[Any, Any, Result]]") -> Result:
        """BEGIN … COMMIT on a connection of its own; undone when anything in it fails or is cancelled.

        What the server undid because two transactions waited for each other is done again; and what was prepared
        before another process migrated, which asyncpg prepares anew by itself only where no transaction is open.
        """
        for _ in range(AGAIN_MAX):
            try:
                return await self._transact(work)
            except asyncpg.InvalidCachedStatementError:
                continue
            except StorageUnavailable as error:
                if not isinstance(error.__cause__, asyncpg.TransactionRollbackError):
                    raise
        return await self._transact(work)

    async def transact_apart(self, work: "Callable[[PostgreSQLTransaction], Coroutine[Any, Any, Result]]") -> Result:
        """Read without locks and write in one exchange, which needs neither BEGIN nor COMMIT.

        Where a job has changed meanwhile, or one exchange is not enough, it is done again with locks.
        """
        if not self.pooled:
            try:
                return await self._transact(work, unlocked=True)
            except (RowsChangedError, asyncpg.InvalidCachedStatementError):
                pass
            except StorageUnavailable as error:
                if not isinstance(error.__cause__, asyncpg.TransactionRollbackError):
                    raise
        return await self.transact(work)

    async def _transact(
        self, work: "Callable[[PostgreSQLTransaction], Coroutine[Any, Any, Result]]", *, unlocked: bool = False
    ) -> Result:
        """Try once."""
        with _translated():
            async with self._acquired() as connection:
                transaction = self.transaction(connection, unlocked=unlocked)
                try:
                    if self.pooled:
                        await transaction.run_text(_LOCAL)
                    result = await work(transaction)
                    await transaction.commit()
                except TimeoutError:
                    raise  # the connection is cut: its ROLLBACK would wait for an answer without an end
                except BaseException:
                    await transaction.undo()
                    raise
                return result

    def transaction(self, connection: Any, *, unlocked: bool = False) -> PostgreSQLTransaction:
        """Return a transaction on a connection of the pool; it begins with its first statement."""
        return PostgreSQLTransaction(connection, self.statements, self._joined, unlocked=unlocked)

    async def ask(self, text: str) -> Sequence[tuple[Any, ...]]:
        """Run a statement that has no name, for tests and tools; its rows."""
        return [tuple(row) for row in await self.pool.fetch(text)]

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Any]:
        """Yield a connection; if no answer comes on it, cut it and renew the others before they are used."""
        async with self.pool.acquire(timeout=ACQUIRE_S) as connection:
            try:
                yield connection
            except TimeoutError:
                await self.pool.expire_connections()
                with suppress(asyncpg.InterfaceError):  # it is cut already
                    connection.terminate()
                if self._listening is not None:
                    self._listening.terminate()
                raise

    async def size_bytes(self) -> int:
        """Return the files of this database, whatever else the server holds."""
        with _translated():
            async with self._acquired() as connection, connection.transaction():
                return int(await connection.fetchval("SELECT pg_database_size(current_database())"))

    async def listen(self, wake: Callable[[DueWork], None], boot: int | None = None) -> None:
        """LISTEN on a connection of its own, made again when it breaks; behind a pooler polling has to do.

        Its session holds the lock of the boot, by which others know that this process lives.
        """
        if self.pooled:
            await asyncio.Event().wait()
        while True:
            try:
                connection = await asyncpg.connect(**self._target.arguments | {"timeout": ACQUIRE_S})
            except _LOST:
                await asyncio.sleep(LISTEN_AGAIN_S)
                continue
            gone, self._listening = asyncio.Event(), connection
            connection.add_termination_listener(lambda _, gone=gone: gone.set())
            try:
                await connection.add_listener(CHANNEL, lambda *received: _wake(wake, received[-1]))
                _wake(wake, "")
                if boot is not None:
                    await self._hold(connection, boot)
                await gone.wait()
            except _LOST:
                await asyncio.sleep(LISTEN_AGAIN_S)
            finally:
                connection.terminate()

    async def _hold(self, connection: Any, boot: int) -> None:
        """Take the lock of the boot, which a session that the server has not missed yet may have, and note it."""
        lock, hold = self.statements["lock_boot"], self.statements["hold_boot"]
        while not await connection.fetchval(lock.text, boot):  # noqa: ASYNC110 - PostgreSQL sends no signal
            await asyncio.sleep(LISTEN_AGAIN_S)
        await connection.execute(hold.text, boot)

    async def close(self) -> None:
        """Close the pool, within a bounded time."""
        try:
            await asyncio.wait_for(self.pool.close(), ACQUIRE_S)
        except (TimeoutError, *_LOST):
            self.pool.terminate()


async def _meet(target: PostgresTarget, settings: dict[str, str]) -> bool:
    """Require a server that relay can use, and return whether a session loses its settings.

    PgBouncer refuses a setting that it does not know, or drops it.
    """
    sent, pooled = {} if target.pooled else settings, target.pooled
    try:
        connection = await asyncpg.connect(**target.arguments, server_settings=sent, statement_cache_size=0)
    except asyncpg.ProtocolViolationError:
        if target.pooled:
            raise
        pooled = True
        connection = await asyncpg.connect(**target.arguments, statement_cache_size=0)
    try:
        async with connection.transaction():
            found = await connection.fetchrow(_FIT)
    finally:
        connection.terminate()
    where = f"the database {found['name']!r} at {target.at}"
    if found["encoding"] != "UTF8":
        raise SettingsError(
            f"{where} has the encoding {found['encoding']}, and relay needs UTF8: "
            "CREATE DATABASE relay ENCODING 'UTF8' TEMPLATE template0"
        )
    if found["version"] < VERSION_MIN * 10_000:
        raise SettingsError(f"{where} is PostgreSQL {found['version'] // 10_000}: relay needs {VERSION_MIN} or newer")
    if found["standby"]:
        raise StorageUnavailable(f"{where} is a read-only replica: DATABASE_URL must name the primary")
    return pooled or bool(found["plans"] != SESSION["plan_cache_mode"])


def _wake(wake: Callable[[DueWork], None], payload: str) -> None:
    """Pass on what a NOTIFY is about; an empty payload is about everything."""
    for due_work in DueWork:
        if payload in (due_work, ""):
            wake(due_work)


async def _nothing(_: Any) -> None:
    """Leave a connection unreset on its way to the pool: nothing outlasts its transaction."""


@contextmanager
def _translated() -> Iterator[None]:
    """Translate errors of a server that is away or full into StorageUnavailable; a wrong statement stays a bug."""
    try:
        yield
    except _LOST as error:
        # A cancelled statement whose server has vanished ends so; its caller must still receive the cancellation.
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError from error
        raise StorageUnavailable(f"the database did not take it: {type(error).__name__}") from error
