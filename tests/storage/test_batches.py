"""Batches of redeliveries: each step reads little, and together they miss nothing and repeat nothing."""

import asyncio
from functools import partial
from itertools import accumulate
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import ids
from relay.model.delivery import EventSelection, Redelivery, Which
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.fan_out import EventRef
from relay.storage.history import DISORDER_MS, PATIENCE_MS, Events
from relay.storage.redeliveries import EVENTS_READ_MAX, Redeliveries, Step
from tests.storage.test_stream_order import migrated, writers
from tests.support.past import ENDPOINT, add_event, database, select
from tests.support.postgres import Server
from tests.support.running import START_MS

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

MINUTE_MS = 60_000
WHICH = st.sampled_from(["failed", "missing", "all"])
STATES = st.lists(st.sampled_from(["delivered", "exhausted", "canceled", "pending"]), max_size=2)
MADE = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 59), STATES), max_size=25)
"""Events in their order: minutes since the one before, minutes that a clock is ahead, the states of its deliveries."""


def redeliveries(opened: Database) -> Redeliveries:
    """Return the redeliveries of a database."""
    return Redeliveries(opened, Writer(opened, 16), Events(opened))


async def begun(opened: Database, which: Which, since_ms: int, until_ms: int) -> Redelivery:
    """Start a batch."""
    selection = EventSelection(which=which, since_at=since_ms, until_at=until_ms)
    batch = Redelivery(
        id=ids.new_id(ids.REDELIVERY),
        project_id="prj_default",
        endpoint_id="ep_1",
        which=which,
        since_at=since_ms,
        until_at=until_ms,
        after_event="",
        total=await redeliveries(opened).count(ENDPOINT, selection),
        made=0,
        created_at=START_MS,
        finished_at=None,
    )
    await redeliveries(opened).start(batch)
    return batch


async def step(opened: Database, now_ms: int, limit: int = 100) -> list[str]:
    """One step of the one open batch; the events that it sends again."""
    (batch,) = await redeliveries(opened).open()
    batch = await redeliveries(opened).ended(batch, now_ms)
    found = await redeliveries(opened).find(batch, ENDPOINT, limit, now_ms)
    assert len(found.events) <= limit
    stepped = await redeliveries(opened).step(Step(batch=batch, found=found, now=now_ms, leased_until=now_ms + 1))
    assert len(stepped.fresh) + stepped.made_due == len(found.events)
    return [event.id for event in found.events]


async def rest(opened: Database, now_ms: int, limit: int = 100) -> list[str]:
    """Every step until the batch is through."""
    sent: list[str] = []
    while await redeliveries(opened).open():
        sent += await step(opened, now_ms, limit)
    return sent


def wanted(which: str, states: list[str]) -> bool:
    """Return what docs/api.md says of an event whose deliveries for the endpoint are in these states."""
    failed = bool(states) and all(state in ("exhausted", "canceled") for state in states)
    return {"all": True, "missing": not states, "failed": failed}[which]


@given(made=MADE, which=WHICH, since=st.integers(-60, 600), length=st.integers(1, 600), limit=st.integers(1, 9))
def test_a_batch_sends_what_it_is_about_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[tuple[int, int, list[str]]],
    which: Which,
    since: int,
    length: int,
    limit: int,
) -> None:
    """Whatever events there are, by clocks an hour apart: all those of the times, in order, as many as were counted."""
    asyncio.run(_sent(tmp_path_factory.getbasetemp(), made, which, (since, since + length), limit))


async def _sent(
    folder: Path, made: list[tuple[int, int, list[str]]], which: Which, about: tuple[int, int], limit: int
) -> None:
    """One example; times are minutes."""
    minutes = [at + ahead for at, (_, ahead, _) in zip(accumulate(gap for gap, _, _ in made), made, strict=True)]
    async with database(folder) as opened:

        async def forget(transaction: Transaction) -> None:
            for table in ("redeliveries", "deliveries", "attempts", "events"):
                await transaction.run_text(f"DELETE FROM {table}")

        async def write(transaction: Transaction, number: int) -> str:
            at = START_MS + minutes[number] * MINUTE_MS
            return await add_event(transaction, "job_1", "ep_1", at, made[number][2], number)

        await opened.transact(forget)
        written = [await opened.transact(partial(write, number=number)) for number in range(len(made))]
        since_ms, until_ms = (START_MS + at * MINUTE_MS for at in about)
        expected = [
            event_id
            for event_id, at, (_, _, states) in zip(written, minutes, made, strict=True)
            if about[0] <= at < about[1] and wanted(which, states)
        ]
        batch = await begun(opened, which, since_ms, until_ms)
        assert batch.total == len(expected)
        assert await rest(opened, until_ms + PATIENCE_MS, limit) == expected
        ((made_in_all,),) = await select(opened, "SELECT made FROM redeliveries")
        assert made_in_all == len(expected)


async def test_what_is_not_wanted_is_passed_over_in_short_looks(tmp_path: Path) -> None:
    """Two and a half looks of events that nobody wants again, then one: each look is a step that goes on at once."""
    async with database(tmp_path) as opened:

        async def write(transaction: Transaction) -> str:
            for number in range(5 * EVENTS_READ_MAX // 2):
                await add_event(transaction, "job_1", "ep_1", START_MS, ["delivered"], number)
            return await add_event(transaction, "job_2", "ep_1", START_MS, ["exhausted"])

        last = await opened.transact(write)
        await begun(opened, "failed", START_MS, START_MS + 1)
        looked = []
        while batches := await redeliveries(opened).open():
            batch = await redeliveries(opened).ended(batches[0], START_MS + PATIENCE_MS)
            found = await redeliveries(opened).find(batch, ENDPOINT, 100, START_MS + PATIENCE_MS)
            looked.append((found.events, found.more))
            await redeliveries(opened).step(Step(batch=batch, found=found, now=START_MS, leased_until=START_MS))
        assert looked == [([], True), ([], True), ([EventRef(last, "prj_default", "job_2")], False)]


async def test_events_of_other_times_are_not_looked_at(tmp_path: Path) -> None:
    """A batch about one day begins within an hour of it and ends within an hour after, whatever is before and after."""
    async with database(tmp_path) as opened:

        async def write(transaction: Transaction, hour: int) -> list[str]:
            at = START_MS + hour * DISORDER_MS
            return [await add_event(transaction, f"job_{hour}", "ep_1", at, (), number) for number in range(40)]

        hours = [await opened.transact(partial(write, hour=hour)) for hour in (0, 1, 50, 51, 52, 53, 99)]
        about = (START_MS + 52 * DISORDER_MS, START_MS + 52 * DISORDER_MS + 1)
        batch = await begun(opened, "all", *about)
        found = await redeliveries(opened).find(batch, ENDPOINT, 100, about[1] + PATIENCE_MS)
        assert ([event.id for event in found.events], found.through) == (hours[4], True)
        assert found.after_event == hours[5][-1]


async def test_a_step_that_two_processes_take_is_made_once(tmp_path: Path) -> None:
    """Both have looked at the same batch: the second one's deliveries are not made."""
    async with database(tmp_path) as opened:
        await opened.transact(lambda transaction: add_event(transaction, "job_1", "ep_1", START_MS, ()))
        batch = await begun(opened, "missing", START_MS, START_MS + 1)
        found = await redeliveries(opened).find(batch, ENDPOINT, 100, START_MS)
        both = Step(
            batch=batch, found=msgspec.structs.replace(found, through=False), now=START_MS, leased_until=START_MS
        )
        made = await asyncio.gather(*(redeliveries(opened).step(both) for _ in range(2)))
        assert sorted(len(one.fresh) for one in made) == [0, 1]
        assert await select(opened, "SELECT COUNT(*) FROM deliveries") == [(1,)]


async def test_what_is_committed_late_is_sent_too(database_server: Server) -> None:
    """A batch waits for a transaction that is open: its event, made first, is sent in its turn; and not for ever."""
    url = database_server.database()
    async with migrated(url) as opened, writers(url, 3) as (slow, quick, hanging):
        older, newer, last, never = (ids.new_id(ids.EVENT) for _ in range(4))
        await slow.insert(older, START_MS, "endpoint.disabled")
        await quick.insert(newer, START_MS, "endpoint.disabled")
        await quick.end()
        await begun(opened, "all", START_MS, START_MS + 1)
        assert await step(opened, START_MS) == []
        await slow.end()
        await hanging.insert(never, START_MS, "endpoint.disabled")
        await quick.insert(last, START_MS, "endpoint.disabled")
        await quick.end()
        assert await step(opened, START_MS) == [older, newer]
        assert await step(opened, START_MS) == []
        assert await step(opened, START_MS + PATIENCE_MS) == [last]
        assert await redeliveries(opened).open() != []
        assert await rest(opened, START_MS + 2 * PATIENCE_MS) == []
