"""Boots: what a process that was killed had leased is due again, and nothing is taken from one that may live."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from relay.storage.boots import CHECK_LEASE_MS, KEPT_MS, Boots, Lease, TakenBack
from relay.storage.engine.database import Database
from relay.storage.fan_out import EventRef, new_delivery
from tests.support.past import Past, add, select
from tests.support.past import database as opened
from tests.support.running import START_MS, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

LEASE_MS = 25_000
DEAD, ALIVE = 7, 8


async def run(database: Database, text: str) -> None:
    """Run a statement of the test's own."""
    await database.transact(lambda transaction: transaction.run_text(text))


async def begun(database: Database, number: int, lease_ms: int = LEASE_MS, name: str = "host") -> None:
    """Store a boot of this number, as its process did."""
    values = f"({number}, '{name}', {lease_ms}, 1, 1)"
    await run(database, f"INSERT INTO boots (id, name, lease_ms, held, started_at) VALUES {values}")


async def leased(database: Database, many: Sequence[tuple[int, int | None]]) -> list[str]:
    """Store deliveries of no event, each due at a time and leased by a boot; return their ids."""
    made = [new_delivery(EventRef("evt_1", "prj_default", None), "ep_1", 1, at, boot) for at, boot in many]
    await database.transact(lambda transaction: transaction.run_many("insert_delivery", made))
    return [one.id for one in made]


async def due_at(database: Database, table: str, column: str) -> dict[str, int]:
    """Return the time in a column of each row."""
    return dict(await select(database, f"SELECT id, {column} FROM {table}"))


async def test_what_a_dead_boot_had_leased_is_due_and_nothing_else(tmp_path: Path) -> None:
    """Make due what the boot leases up to the end of its lease, and keep other boots' and what only waits."""
    async with opened(tmp_path) as database:
        await begun(database, DEAD)
        end = START_MS + LEASE_MS
        ids = await leased(
            database, [(end, DEAD), (end + 1, DEAD), (START_MS + 1, DEAD), (end, ALIVE), (end, None), (START_MS, DEAD)]
        )
        boots = Boots(database, Lease(LEASE_MS))
        taken = await boots.take_back([{"id": DEAD, "lease_ms": LEASE_MS}], START_MS)
        at = await due_at(database, "deliveries", "next_attempt_at")
        assert [at[one] for one in ids] == [START_MS, end + 1, START_MS, end, end, START_MS]
        assert taken == TakenBack(deliveries=2, checks=0)
        assert await select(database, f"SELECT ended_at FROM boots WHERE id = {DEAD}") == [(START_MS,)]


async def test_each_boot_had_a_lease_of_its_own(tmp_path: Path) -> None:
    """Take back up to the end of the longest lease of several boots, and nothing of none."""
    async with opened(tmp_path) as database:
        boots = Boots(database, Lease(LEASE_MS))
        assert await boots.take_back([], START_MS) == TakenBack(deliveries=0, checks=0)
        (one,) = await leased(database, [(START_MS + LEASE_MS, DEAD)])
        await boots.take_back([{"id": DEAD, "lease_ms": LEASE_MS}, {"id": ALIVE, "lease_ms": 1}], START_MS)
        assert await due_at(database, "deliveries", "next_attempt_at") == {one: START_MS}


async def test_a_status_check_under_way_is_due(tmp_path: Path) -> None:
    """Make a check due that the boot has leased, and keep the time of one that is scheduled, or another boot's."""
    async with opened(tmp_path) as database:
        await begun(database, DEAD)
        jobs = await add(database, [Past(ended_days=None)] * 5)
        await run(database, f"UPDATE jobs SET confirm_by = 1 WHERE id = '{jobs[4]}'")
        ends = [START_MS + CHECK_LEASE_MS, START_MS + CHECK_LEASE_MS + 1, *[START_MS + 5] * 3]
        for job, end, boot in zip(jobs, ends, ["7", "7", "8", "NULL", "7"], strict=True):
            await run(database, f"UPDATE jobs SET next_check_at = {end}, checked_by = {boot} WHERE id = '{job}'")
        taken = await Boots(database, Lease(1)).take_back([{"id": DEAD, "lease_ms": 1}], START_MS)
        at = await due_at(database, "jobs", "next_check_at")
        assert [at[job] for job in jobs] == [START_MS, *ends[1:4], START_MS]
        assert taken == TakenBack(deliveries=0, checks=2)


async def test_a_number_is_given_once(tmp_path: Path) -> None:
    """Give each boot the next number, also where old boots are forgotten, one of exactly a week not yet."""
    async with opened(tmp_path) as database:
        numbers = []
        for at in (START_MS, START_MS + 1, START_MS + 1 + KEPT_MS):
            lease = Lease(1)
            await Boots(database, lease).begin("host", at, held=False)
            numbers.append(lease.boot)
        assert numbers == [1, 2, 3]
        assert await select(database, "SELECT id FROM boots ORDER BY id") == [(2,), (3,)]


async def test_a_stop_gives_back_what_is_leased(tmp_path: Path) -> None:
    """Make due at a stop whatever this process still leases, and end its boot."""
    async with opened(tmp_path) as database:
        lease = Lease(LEASE_MS)
        boots = Boots(database, lease)
        await boots.begin("host", START_MS, held=False)
        (mine,) = await leased(database, [(START_MS + LEASE_MS, lease.boot)])
        await boots.end(START_MS + 1)
        assert await due_at(database, "deliveries", "next_attempt_at") == {mine: START_MS + 1}
        assert await select(database, "SELECT ended_at FROM boots") == [(START_MS + 1,)]


async def test_a_stop_cuts_an_attempt_short_and_gives_the_delivery_back(tmp_path: Path) -> None:
    """Leave what an endpoint hangs with, and what waits behind it, due at the time of the stop."""
    came = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        writer.close()

    hanging = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{hanging.sockets[0].getsockname()[1]}/"
    async with relay(tmp_path, confirm=False, unhurried=True, RELAY_SHUTDOWN_S="0") as running:
        await running.client.post("/v1/endpoints", json={"url": url, "in_flight_max": 1, "event_types": ["*"]})
        for _ in range(2):
            await running.submit()
        await asyncio.wait_for(came.wait(), 60)
        leased = await select(running.app.store.database, "SELECT next_attempt_at - created_at FROM deliveries")
        assert leased == [(LEASE_MS,), (LEASE_MS,)]
    hanging.close()
    async with opened(tmp_path) as database:
        assert (
            await select(database, "SELECT next_attempt_at - created_at, leased_by FROM deliveries") == [(0, None)] * 2
        )


async def test_a_relay_marks_its_leases_until_they_end(tmp_path: Path) -> None:
    """Name the boot in each row that is leased, and no longer once the attempt or the check is stored."""
    async with relay(tmp_path) as running:
        job = await running.submit(notify=[{"url": running.hook}])
        await running.world.finish(job["provider_job_id"])
        await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        await running.until("/v1/deliveries", lambda found: {one["status"] for one in found["data"]} == {"delivered"})
        database = running.app.store.database
        boot = running.app.store.lease.boot
        assert await select(database, "SELECT submitted_by, checked_by FROM jobs") == [(boot, None)]
        assert set(await select(database, "SELECT leased_by FROM deliveries")) == {(None,)}
        await running.sink.wait_for(lambda sink: bool(sink.received))
    async with opened(tmp_path) as database:
        assert [at is not None for (at,) in await select(database, "SELECT ended_at FROM boots")] == [True]
