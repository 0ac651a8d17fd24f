"""The store: opens the database, brings it to this relay's schema, and holds the nouns. The only door to SQL."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from relay import log
from relay.errors import SettingsError, StorageUnavailable
from relay.lifecycle.reports import DoubtLimits
from relay.security.encryption import Encryption
from relay.storage.alerts import Alerts
from relay.storage.api_keys import Access
from relay.storage.apply_updates import HEADERS_MAX, Room, UpdateApplier
from relay.storage.audit import Audit
from relay.storage.boots import Boots, Lease
from relay.storage.copies import Copies
from relay.storage.deliveries import Deliveries
from relay.storage.encryption_keys import require_keys
from relay.storage.endpoint_history import EndpointHistory
from relay.storage.endpoints import Endpoints
from relay.storage.engine.database import Database, DueWork, Transaction
from relay.storage.engine.database_url import is_postgres, shown, sqlite_path
from relay.storage.engine.group_commit import Writer
from relay.storage.engine.litestream import Litestream
from relay.storage.engine.migrations import MAKE_IT, migrate, require
from relay.storage.history import Callbacks, Events
from relay.storage.jobs import Jobs
from relay.storage.payments import Payments
from relay.storage.projects import Projects
from relay.storage.redeliveries import Redeliveries
from relay.storage.retention import Pruner
from relay.storage.search import Search
from relay.storage.signing_keys import SigningSeeds
from relay.storage.statistics import Statistics

LEASE_SHARE: Final = 0.8
"""How much of a lease an attempt may take; the rest is for getting to it."""

WAIT_PAUSE_S: Final = 1.0
BACKLOG_COUNTED_MAX: Final = 100_000
"""How often a start looks whether its database answers by now."""
_logger = log.get("database")


class StoreOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The store's limits: a delivery's lease, the backlog of writes, callbacks kept for a job, the retry schedule.

    Callbacks are kept by number and by bytes; `callback_max_bytes` is the largest body there may be. `doubts` bounds
    the status checks that callbacks which prove nothing bring about.

    `expiring_ms` is how long before a result is gone that is announced; 0 for never. `held_ms` is how long the event of
    a job's end waits for copies of its results.
    `dispatches` is whether this process sends what it makes; where it does not, a new delivery is due immediately.
    `wait_s` is how long opening waits for a database that does not answer. `litestream` copies a SQLite file; what it
    has not copied is not acknowledged.
    """

    lease_ms: int
    backlog_max: int
    callbacks_per_job_max: int
    callback_bytes_per_job_max: int = 16 << 20
    callback_max_bytes: int = 1 << 20
    doubts: DoubtLimits = DoubtLimits()
    schedule_s: Sequence[int]
    expiring_ms: int = 0
    held_ms: int = 0
    dispatches: bool = True
    wait_s: float = 0.0
    litestream: Litestream | None = None


class Store:
    """An open store; every method of its nouns is a whole transaction or a read."""

    def __init__(self, database: Database, encryption: Encryption, options: StoreOptions) -> None:
        self.database = database
        self._litestream = options.litestream
        self._writer = Writer(database, options.backlog_max, self._litestream.copied if self._litestream else None)
        self.lease = Lease(options.lease_ms, dispatches=options.dispatches)
        self.boots = Boots(database, self.lease)
        recorder = UpdateApplier(
            self.lease,
            Room(
                options.callbacks_per_job_max,
                options.callback_bytes_per_job_max,
                options.callback_max_bytes + HEADERS_MAX,
                options.doubts,
            ),
            options.schedule_s,
            expiring_ms=options.expiring_ms,
            held_ms=options.held_ms,
        )
        self.statistics = Statistics(database, self._writer)
        self.jobs = Jobs(database, self._writer, encryption, recorder, self.lease)
        self.copies = Copies(database, self._writer, self.lease)
        self.callbacks = Callbacks(database)
        self.events = Events(database)
        self.endpoints = Endpoints(database, self._writer, encryption)
        self.deliveries = Deliveries(database, self._writer, encryption, options.lease_ms / 1000 * LEASE_SHARE)
        self.redeliveries = Redeliveries(database, self._writer, self.events)
        self.search = Search(database)
        self.endpoint_history = EndpointHistory(database)
        self.payments = Payments(database, self._writer, encryption)
        self.alerts = Alerts(database)
        self.access = Access(database, self._writer, encryption)
        self.projects = Projects(database, self._writer, encryption)
        self.audit = Audit(database, self._writer)
        self.signing_keys = SigningSeeds(database, self._writer, encryption)
        self.pruner = Pruner(database)

    @classmethod
    async def open(cls, database_url: str, encryption: Encryption, options: StoreOptions, now_ms: int) -> "Store":
        """Open and migrate; SettingsError for another program's database, a newer schema, or other secret keys."""
        database = await open_migrated(database_url, now_ms, options.wait_s)
        try:
            await require_keys(database, encryption, now_ms)
            store = cls(database, encryption, options)
            await store.signing_keys.complete(now_ms)
        except BaseException:
            await database.close()
            raise
        return store

    @property
    def shared(self) -> bool:
        """Whether other processes may write to the database too."""
        return self.database.shared

    async def listen(self, wake: Callable[[DueWork], None]) -> None:
        """Call `wake` for each notification of another process, and prove to others that this one lives."""
        await self.database.listen(wake, self.lease.boot)

    async def ready(self) -> None:
        """Return when the database takes writes; StorageUnavailable when it does not."""
        await self._writer.write(_touch, None)

    async def size_bytes(self) -> int:
        """How much the database takes on its disk."""
        return await self.database.size_bytes()

    async def backlog(self) -> Mapping[str, Any]:
        """Count what is not done yet, up to BACKLOG_COUNTED_MAX of each, and tell the oldest due time."""
        found: Mapping[str, Any] = (await self.database.rows("backlog", {"most": BACKLOG_COUNTED_MAX}))[0]
        return found

    async def close(self, now_ms: int | None = None) -> None:
        """Write what waits, give back what is leased (at `now_ms`, where this process leases), then close."""
        try:
            with contextlib.suppress(StorageUnavailable):
                await self.statistics.flush()
            await self._writer.drain()
            if now_ms is not None:
                await self.boots.end(now_ms)
        finally:
            if self._litestream is not None:
                self._litestream.close()
            await self.database.close()


async def _touch(transaction: Transaction, asked: Sequence[Any]) -> list[None]:
    """One write that changes nothing, for all who asked."""
    await transaction.rows("touch", {})
    return [None] * len(asked)


async def open_migrated(database_url: str, now_ms: int, wait_s: float) -> Database:
    """Open a database and bring it to this relay's schema; a server that is away is waited for, so long at most."""
    began_s, wait_s = time.monotonic(), wait_s if is_postgres(database_url) else 0.0
    while True:
        database = None
        try:
            database = await open_database(database_url)
            await migrate(database, now_ms)
        except StorageUnavailable as error:
            if database is not None:
                await database.close()
            left_s = began_s + wait_s - time.monotonic()
            if left_s <= 0:
                raise
            _logger.warning("database.waiting", error=str(error), seconds_left=round(left_s))
            await asyncio.sleep(min(WAIT_PAUSE_S, left_s))
        except BaseException:
            if database is not None:
                await database.close()
            raise
        else:
            return database


async def open_database(database_url: str) -> Database:
    """Return the database behind a URL, not yet migrated."""
    if is_postgres(database_url):
        # Both are imported here: a process has one database, and need not wait for the library of the other.
        from relay.storage.engine.postgres import PostgreSQL  # noqa: PLC0415

        return await PostgreSQL.open(database_url)
    from relay.storage.engine.sqlite import SQLite  # noqa: PLC0415

    return await SQLite.open(sqlite_path(database_url))


async def require_database(database_url: str) -> None:
    """Raise SettingsError, which says where was looked, unless relay has made its tables in the database.

    Opening a SQLite file makes it; so a command that is run in another folder would get a new, empty database.
    """
    if not is_postgres(database_url) and not sqlite_path(database_url).exists():
        raise SettingsError(f"there is no database at {shown(database_url)}: {MAKE_IT}")
    database = await open_database(database_url)
    try:
        await require(database, shown(database_url))
    finally:
        await database.close()
