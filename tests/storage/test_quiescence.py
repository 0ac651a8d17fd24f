"""The tests' own promise: a held clock's advance returns when nothing can go on by itself, and not before."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from relay.sandbox.faults import Faults
from relay.sandbox.serving import serve
from relay.storage.engine.sqlite import SQLite
from relay.storage.engine.statements import Dialect, Statement
from tests.flow.test_lanes import Hanging
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, relay

pytestmark = pytest.mark.anyio


async def test_a_commit_that_takes_long_is_waited_for(tmp_path: Path) -> None:
    """Return after the commit of what was under way, however long another program locks the database."""
    async with relay(tmp_path, clock=HeldClock(), DATABASE_URL=f"sqlite:///{tmp_path}/relay.db") as running:
        other = sqlite3.connect(tmp_path / "relay.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        posting = asyncio.create_task(running.submit())
        threading.Timer(0.3, other.rollback).start()
        await quiet()
        assert posting.done()
        other.close()


async def test_a_whole_chain_over_sockets_is_waited_for(tmp_path: Path) -> None:
    """Return when the end of a job is confirmed, stored and delivered, whatever the number of exchanges."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        job = await running.submit(notify=[{"url": running.hook}])
        finishing = asyncio.create_task(running.world.finish(job["provider_job_id"]))
        await quiet()
        assert finishing.done()
        assert sorted(running.sink.events()) == ["job.submitted", "job.succeeded"]
        assert {one["attempts_made"] for one in (await running.get("/v1/deliveries"))["data"]} == {1}


async def test_a_stand_in_that_keeps_silent_is_not_waited_for(tmp_path: Path) -> None:
    """Return while a provider and a receiver have not answered; what they hold goes on."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_SUBMIT_WAIT_S="20") as running, serve(Hanging()) as hanging:
        running.world.next_faults.append(Faults(submit="hang"))
        posting = asyncio.create_task(running.submit(notify=[{"url": hanging, "event_types": ["*"]}]))
        await quiet()
        assert not posting.done()
        assert len(running.world.submissions) == 1
        posting.cancel()


async def test_every_loop_begins_with_the_time_that_it_waited_at() -> None:
    """Let what is under way reach its wait before the clock is advanced, then wake what waits for that time."""
    clock, woken = HeldClock(), []

    async def loop() -> None:
        for _ in range(3):
            await clock.wait(asyncio.Event(), until_monotonic_ms=clock.monotonic_ms() + 1000)
            woken.append(clock.now_ms())

    began_ms, running = clock.now_ms(), asyncio.create_task(loop())
    await quiet()
    await clock.advance(0.999)
    assert woken == []
    for seconds in (0.001, 5, 1):
        await clock.advance(seconds)
    assert woken == [began_ms + 1000, began_ms + 6000, began_ms + 7000]
    assert running.done()


async def test_what_never_waits_is_an_error(tmp_path: Path) -> None:
    """Name the task that is still at work when the time is over: a statement that takes long, say."""
    counts = "SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3000000"
    endless = f"WITH RECURSIVE n AS ({counts}) SELECT max(i) AS i FROM n"
    slow = await SQLite.open(tmp_path / "slow.db")
    slow.statements["endless"] = Statement(endless, Dialect.SQLITE)
    reading = asyncio.create_task(slow.rows("endless", {}), name="an endless read")
    with pytest.raises(TimeoutError, match="an endless read"):
        await quiet(0.1)
    assert len(await reading) == 1
    await slow.close()


async def test_time_elapses_no_further_than_what_is_waited_for() -> None:
    """Advance to each moment that something waits for until the awaited is done; TimeoutError if that takes longer."""
    clock = HeldClock()

    async def pauses() -> int:
        for pause_ms in (300, 700):
            await clock.sleep(pause_ms)
        return clock.monotonic_ms()

    began_ms = clock.monotonic_ms()
    assert await clock.elapse(pauses(), within_s=1) == began_ms + 1000
    with pytest.raises(TimeoutError):
        await clock.elapse(pauses(), within_s=0.999)
