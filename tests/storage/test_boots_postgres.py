"""Boots on PostgreSQL: a process is dead when the lock of its boot is free at two looks, and only then."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from relay.jobs.resuming import watch
from relay.storage.boots import Boots, Lease
from relay.storage.engine.migrations import migrate
from relay.storage.engine.postgres import PostgreSQL
from tests.storage.test_boots import LEASE_MS, due_at, leased
from tests.support.past import select
from tests.support.postgres import Server
from tests.support.running import START_MS, HeldClock

pytestmark = pytest.mark.anyio

CONNECTED_S = 10.1
"""A little more than a server has run for before the boots of its processes are judged."""


class Process:
    """A process, as far as its boot is concerned: its row, and the session that holds its lock."""

    def __init__(self, database: PostgreSQL, lease: Lease, boots: Boots) -> None:
        self._database = database
        self.boots = boots
        self.lease = lease
        self._listening: asyncio.Task[None] | None = None

    @property
    def number(self) -> int:
        """The number of its boot."""
        assert self.lease.boot is not None
        return self.lease.boot

    async def dead(self) -> list[int]:
        """Return the boots that it finds dead at this look."""
        return [row["id"] for row in await self.boots.dead()]


@asynccontextmanager
async def process(url: str, name: str = "host", *, listens: bool = True) -> AsyncIterator[Process]:
    """Yield a process that has begun and holds its lock; at the end its sessions are cut, as by a kill."""
    database = await PostgreSQL.open(url)
    lease = Lease(LEASE_MS)
    boots = Boots(database, lease)
    await boots.begin(name, START_MS, held=False)
    listening = asyncio.create_task(database.listen(lambda _: None, lease.boot))
    if listens:
        while not (await select(database, f"SELECT 1 FROM boots WHERE id = {lease.boot} AND held = 1")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # PostgreSQL is another process
    else:
        listening.cancel()
    try:
        yield Process(database, lease, boots)
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await database.close()


@asynccontextmanager
async def killed(url: str, name: str = "host", *, listens: bool = True) -> AsyncIterator[int]:
    """Yield the number of a boot whose process is gone, once the server has noticed."""
    async with process(url, name, listens=listens) as one:
        number = one.number
    connection = await asyncpg.connect(url)
    try:
        held = "SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1"
        while await connection.fetchval(held, number):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # PostgreSQL is another process
        yield number
    finally:
        await connection.close()


@pytest.fixture
async def url(database_server: Server) -> str:
    """Return a fresh database of a server that has run for long enough to judge by its locks."""
    url = database_server.database()
    connection: Any = await asyncpg.connect(url)
    since = "EXTRACT(EPOCH FROM clock_timestamp() - pg_postmaster_start_time())"
    await connection.execute(f"SELECT pg_sleep(CAST(GREATEST(0, {CONNECTED_S} - {since}) AS DOUBLE PRECISION))")
    await connection.close()
    database = await PostgreSQL.open(url)
    await migrate(database, 1)
    await database.close()
    return url


async def test_a_boot_is_dead_when_its_lock_is_free(url: str) -> None:
    """Find the killed one of two workers on a host dead, and the living one not."""
    async with killed(url) as gone, process(url) as living, process(url) as successor:
        assert await successor.dead() == [gone]
        assert await living.dead() == [gone]


async def test_only_boots_of_the_same_process_are_judged(url: str) -> None:
    """Leave a boot of another name to its lease, also where its lock is free."""
    async with killed(url, "other"), process(url) as successor:
        assert await successor.dead() == []


async def test_a_boot_that_never_held_its_lock_is_left_to_its_lease(url: str) -> None:
    """Judge no boot behind a pooler, which keeps no session, nor one that was killed before it had the lock."""
    async with killed(url, listens=False), process(url) as successor:
        assert await successor.dead() == []


async def test_who_cannot_see_the_own_lock_judges_none(url: str) -> None:
    """Find no boot dead without a lock of one's own: behind a pooler, or on a server that shows no locks."""
    async with killed(url), process(url, listens=False) as successor:
        assert await successor.dead() == []


async def test_two_looks_take_back_and_one_does_not(url: str) -> None:
    """Take back at the second look, and not a millisecond before."""
    clock, taken = HeldClock(), list[bool]()
    async with killed(url) as gone, process(url) as successor:
        database = successor.boots._database
        (one,) = await leased(database, [(START_MS + LEASE_MS, gone)])
        watching = asyncio.create_task(watch(successor.boots, clock, lambda: taken.append(True)))
        try:
            await clock.advance(0.999)
            assert (await due_at(database, "deliveries", "next_attempt_at"), taken) == ({one: START_MS + LEASE_MS}, [])
            await clock.advance(0.001)
            at = await due_at(database, "deliveries", "next_attempt_at")
            assert (at, taken) == ({one: START_MS + 1000}, [True])
            assert await successor.dead() == []
        finally:
            watching.cancel()


async def test_looks_are_frequent_at_first(url: str) -> None:
    """Look every 200 ms for two seconds, then every five: a boot that dies later is suspected at the next look."""
    clock, taken = HeldClock(), list[bool]()
    async with process(url) as successor:
        watching = asyncio.create_task(watch(successor.boots, clock, lambda: taken.append(True)))
        try:
            for _ in range(9):
                await clock.advance(0.2)
            async with killed(url):
                for pause_s in (5, 1):
                    await clock.advance(pause_s - 0.001)
                    assert taken == []
                    await clock.advance(0.001)
                assert taken == [True]
        finally:
            watching.cancel()


async def test_a_process_that_was_cut_off_is_not_dead(url: str) -> None:
    """Take the lock again on the next connection, so that no look finds it free for long."""
    async with process(url) as cut, process(url) as successor:
        database = successor.boots._database
        holder = f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND objid = {cut.number}"
        ((former,),) = await select(database, holder)
        await select(database, f"SELECT pg_terminate_backend({former})")
        async with asyncio.timeout(60):
            while (await select(database, holder)) in ([], [(former,)]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # PostgreSQL is another process
        assert await successor.dead() == []


async def test_a_server_that_just_started_is_given_time(tmp_path: Path, database_server: Server) -> None:
    """Judge none right after the server's own start: its processes have to connect again first."""
    url = database_server.database()
    database = await PostgreSQL.open(url)
    await migrate(database, 1)
    await database.close()
    async with killed(url), process(url) as successor:
        text = "SELECT pg_postmaster_start_time() > clock_timestamp() - INTERVAL '10 seconds'"
        ((young,),) = await select(successor.boots._database, text)
        assert bool(await successor.dead()) is not young
