"""Events that are committed in another order than they were made in: the stream tells each once, across any cut."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.clock import SystemClock
from relay.model import ids
from relay.storage.engine import statements
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.migrations import migrate
from relay.storage.engine.statements import Dialect
from relay.storage.history import PATIENCE_MS, EventFilter, EventQuery, Events
from relay.storage.pages import Listing
from relay.storage.store import open_database
from tests.api.test_stream import reading
from tests.support.postgres import Server
from tests.support.running import DATABASES, relay

pytestmark = pytest.mark.anyio

PROJECT = "prj_default"
STATEMENTS = statements.load(Dialect.POSTGRES)
INSERT = STATEMENTS["insert_event"]
NOW = 1_795_219_200_000


def event(event_id: str, at: int | None = None, kind: str = "relay.test") -> dict[str, Any]:
    """Return an event of no job."""
    return {
        "id": event_id,
        "project_id": PROJECT,
        "job_id": None,
        "type": kind,
        "sequence": 0,
        "final": 0,
        "created_at": at if at is not None else time.time_ns() // 1_000_000,
        "body": msgspec.json.encode({"id": event_id, "type": kind, "data": {}}),
    }


def new_ids(number: int) -> list[str]:
    """Ids, the oldest first."""
    return [ids.new_id(ids.EVENT) for _ in range(number)]


class Writer:
    """A process that has a transaction open for as long as the test wants."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._open: Any = None
        self._written: list[str] = []
        self.committed: list[str] = []

    async def insert(self, event_id: str, at: int | None = None, kind: str = "relay.test") -> None:
        """Insert an event without a commit."""
        if self._open is None:
            self._open = self._connection.transaction()
            await self._open.start()
        await self._connection.execute(INSERT.text, *INSERT.arrays([event(event_id, at, kind)]))
        self._written.append(event_id)

    async def end(self, *, good: bool = True) -> None:
        """Commit what was written, or undo it."""
        if self._open is not None:
            await (self._open.commit() if good else self._open.rollback())
            self.committed += self._written if good else []
        self._open, self._written = None, []


@asynccontextmanager
async def writers(url: str, number: int) -> AsyncIterator[list[Writer]]:
    """So many processes that write."""
    connections: list[Any] = [await asyncpg.connect(url) for _ in range(number)]
    try:
        yield [Writer(connection) for connection in connections]
    finally:
        for connection in connections:
            connection.terminate()


@asynccontextmanager
async def migrated(url: str) -> AsyncIterator[Database]:
    """Yield a database with relay's tables."""
    database = await open_database(url)
    try:
        await migrate(database, 1)
        yield database
    finally:
        await database.close()


class Follower:
    """A client that is cut off now and then, and knows nothing but the id of the last event that it got."""

    def __init__(self, events: Events, now_ms: int = NOW) -> None:
        self._events = events
        self._now_ms = now_ms
        self.seen: list[str] = []

    async def read(self, limit: int = 100) -> bool:
        """Connect, read what there is, and cut off; return whether something waits for an open transaction."""
        last = self.seen[-1] if self.seen else "evt_0"
        place = await self._events.place(PROJECT, last, self._now_ms)
        found = await self._events.following(EventQuery(PROJECT, place, None, limit), self._now_ms)
        self.seen += [one.id for one in found.events]
        return found.held


class Poller:
    """A client that lists what came after the event that it saw last, page by page, as `GET /v1/events?after=` does."""

    def __init__(self, events: Events, seen: str) -> None:
        self._events = events
        self.seen = [seen]

    async def read(self, limit: int = 100) -> None:
        """Every page there is, the last of them first."""
        wanted = EventFilter(after=self.seen[-1])
        found: list[str] = []
        before: str | None = None
        while True:
            page = await self._events.page(PROJECT, Listing(before=before, limit=limit), wanted, NOW)
            found += [one.id for one in page.items]
            if (before := page.next_cursor) is None:
                break
        self.seen += reversed(found)


async def _insert(transaction: Transaction, event_id: str) -> None:
    """One event, alone in its transaction."""
    await transaction.rows("insert_event", event(event_id))


async def test_what_was_made_first_and_committed_last_is_told(tmp_path: Path) -> None:
    """On both databases: a client that has the newer event gets the older one when it comes, and no other again."""
    first, older, newer, last = new_ids(4)
    async with migrated(DATABASES.url(tmp_path)) as database:
        follower, poller = Follower(Events(database)), Poller(Events(database), "evt_0")
        for event_id in (first, newer, older, last):
            await database.transact(partial(_insert, event_id=event_id))
            await follower.read()
            await poller.read()
    assert follower.seen == [first, newer, older, last]
    assert poller.seen[1:] == follower.seen


@pytest.mark.parametrize("cut", [False, True])
async def test_a_stream_waits_for_a_transaction_that_began_earlier(
    tmp_path: Path, database_server: Server, cut: bool
) -> None:
    """The newer event is held until the older one is committed; both come at once then, in order, also after a cut."""
    url = database_server.database()
    async with relay(tmp_path, clock=SystemClock(), DATABASE_URL=url) as running, writers(url, 2) as (slow, quick):
        start, older, newer = new_ids(3)
        await quick.insert(start)
        await quick.end()
        async with reading(running, after="evt_0") as reader:
            assert await reader.events(1) == [(start, "relay.test")]
            await slow.insert(older)
            await quick.insert(newer)
            await quick.end()
            running.app.streams.publish(PROJECT)
            waiting = asyncio.create_task(reader.events(2))
            done, _ = await asyncio.wait([waiting], timeout=0.3)
            assert not done
            if not cut:
                await slow.end()
                assert [event_id for event_id, _ in await waiting] == [older, newer]
            waiting.cancel()
        if cut:
            await slow.end()
            async with reading(running, after=start) as reader:
                assert [event_id for event_id, _ in await reader.events(2)] == [older, newer]


async def test_a_list_after_an_event_waits_for_a_transaction_that_began_earlier(
    tmp_path: Path, database_server: Server
) -> None:
    """Who polls with `after` and goes on from the first of the list is told of both, whichever was committed first."""
    url = database_server.database()
    async with relay(tmp_path, clock=SystemClock(), DATABASE_URL=url) as running, writers(url, 2) as (slow, quick):
        start, older, newer = new_ids(3)
        await quick.insert(start)
        await quick.end()
        await slow.insert(older)
        await quick.insert(newer)
        await quick.end()
        assert [one["id"] for one in (await running.get(f"/v1/events?after={start}"))["data"]] == []
        await slow.end()
        path = f"/v1/events?after={start}&type=relay.test&undelivered=false"
        assert [one["id"] for one in (await running.get(path))["data"]] == [newer, older]
        first = await running.get(f"{path}&limit=1")
        assert [one["id"] for one in first["data"]] == [newer] == [first["next_cursor"]]
        second = await running.get(f"{path}&limit=1&cursor={newer}")
        assert ([one["id"] for one in second["data"]], second["next_cursor"]) == ([older], None)
        assert (await running.get(f"/v1/events?after={newer}"))["data"] == []


async def test_a_new_event_does_not_wait_for_the_next_look(tmp_path: Path, database_server: Server) -> None:
    """What this process knows of is sent within a fraction of a second, though others write all the time."""
    url = database_server.database()
    async with relay(tmp_path, clock=SystemClock(), DATABASE_URL=url) as running, writers(url, 2) as (other, own):
        made = new_ids(10)
        async with reading(running) as reader:
            began = time.monotonic()
            for event_id in made:
                await other.insert(ids.new_id(ids.EVENT))
                await own.insert(event_id)
                await own.end()
                running.app.streams.publish(PROJECT)
                await other.end(good=False)
                assert await reader.events(1) == [(event_id, "relay.test")]
            assert time.monotonic() - began < 5


async def test_a_transaction_that_hangs_holds_nothing_for_ever(database_server: Server) -> None:
    """After a minute an event waits for nobody; and who asks for what comes from now on gets nothing old."""
    url = database_server.database()
    async with migrated(url) as database, writers(url, 2) as (hanging, writer):
        events = Events(database)
        hung, waits = new_ids(2)
        await hanging.insert(hung, NOW)
        await writer.insert(waits, NOW)
        await writer.end()
        follower = Follower(events, NOW + PATIENCE_MS - 1)
        assert (await follower.read(), follower.seen) == (True, [])
        late = Follower(events, NOW + PATIENCE_MS + 1)
        assert (await late.read(), late.seen) == (False, [waits])
        now = await events.place(PROJECT, None, NOW + PATIENCE_MS + 1)
        assert (await events.following(EventQuery(PROJECT, now, None, 10), NOW)).events == []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("id"), st.integers(0, 3)),
        st.tuples(st.just("insert"), st.integers(0, 3)),
        st.tuples(st.just("commit"), st.integers(0, 3)),
        st.tuples(st.just("undo"), st.integers(0, 3)),
        st.tuples(st.just("read"), st.integers(1, 3)),
    ),
    max_size=40,
)


@pytest.fixture(scope="module")
def shared_url(database_server: Server) -> str:
    """One database for all examples."""
    return database_server.database()


@given(steps=STEPS)
def test_any_interleaving_is_told_whole_and_once(shared_url: str, steps: list[tuple[str, int]]) -> None:
    """However four processes make ids, write, commit and undo: who is cut off all the time or polls gets each once."""
    asyncio.run(_interleaved(shared_url, steps))


async def _interleaved(url: str, steps: list[tuple[str, int]]) -> None:
    """Run the steps; at the end everything that was committed has been read, once."""
    async with migrated(url) as database, writers(url, 4) as processes:
        follower = Follower(Events(database))
        follower.seen = [ids.new_id(ids.EVENT)]  # later than all of the examples before
        poller = Poller(Events(database), follower.seen[0])
        made: list[list[str]] = [[] for _ in processes]
        for step, number in steps:
            match step:
                case "id":
                    made[number].append(ids.new_id(ids.EVENT))
                case "insert" if made[number]:
                    await processes[number].insert(made[number].pop(), NOW)
                case "commit" | "undo":
                    await processes[number].end(good=step == "commit")
                case "read":
                    await follower.read(number)
                    await poller.read(number)
        for process in processes:
            await process.end()
        while True:
            before = len(follower.seen)
            held = await follower.read()
            if len(follower.seen) == before:
                break
        committed = [event_id for process in processes for event_id in process.committed]
        assert not held
        assert len(follower.seen) - 1 == len(set(follower.seen[1:])) == len(committed)
        assert set(follower.seen[1:]) == set(committed)
        await poller.read()
        assert poller.seen == follower.seen


async def test_a_restore_to_a_server_that_counts_from_a_lower_number(database_server: Server) -> None:
    """What was written there comes first, in its order; what comes is told, and a client's last id stays good."""
    url = database_server.database()
    old, new = new_ids(5), new_ids(2)
    async with migrated(url) as database, writers(url, 1) as (writer,):
        for event_id in old:
            await writer.insert(event_id)
            await writer.end()
        connection: Any = await asyncpg.connect(url)
        await connection.execute("UPDATE events SET position = position + 1000000000")
        await connection.close()
        await migrate(database, 1)
        await migrate(database, 1)
        follower = Follower(Events(database))
        follower.seen = [old[1]]
        await follower.read()
        for event_id in new:
            await writer.insert(event_id)
            await writer.end()
        await follower.read()
    assert follower.seen == old[1:] + new


async def test_a_wide_read_uses_the_order(database_server: Server) -> None:
    """PostgreSQL finds the next events, and whether a restore happened, without reading the table."""
    url = database_server.database()
    async with migrated(url):
        connection: Any = await asyncpg.connect(url)
        try:
            await connection.execute("SET enable_seqscan = off")
            for name in ("events_following", "event_page_after", "latest_event", "event_floor_after"):
                text = STATEMENTS[name]
                names = ["position", "end", "limit", "patience", "undelivered", "horizon", "window"]
                names += ["created_after", "created_before"]
                numbers = dict.fromkeys(names, 1) | {"type": None}
                values = [numbers.get(n, "x") for n in text.names]
                await connection.execute("SET plan_cache_mode = force_generic_plan")
                plan = await connection.fetch(f"EXPLAIN {text.text}", *values)
                assert "events_in_order" in str(plan), plan
        finally:
            await connection.close()


@pytest.mark.parametrize("where", ["another database", "this one"])
async def test_only_this_databases_transactions_are_waited_for(database_server: Server, where: str) -> None:
    """Tell what is committed at once while a stranger's transaction is open in another database of the server."""
    url, elsewhere = database_server.database(), database_server.database()
    async with migrated(url) as database:
        stranger: Any = await asyncpg.connect(elsewhere if where == "another database" else url)
        transaction = stranger.transaction()
        await transaction.start()
        await stranger.fetchval("SELECT pg_current_xact_id()")
        try:
            events = Events(database)
            (first, second) = new_ids(2)
            now_ms = time.time_ns() // 1_000_000
            for one in (first, second):
                await database.transact(partial(_insert, event_id=one))
            follower = Follower(events, now_ms)
            held = await follower.read()
            page = await events.page(PROJECT, Listing(before=None, limit=5), EventFilter(after=first), now_ms)
            told = [second, first] if where == "another database" else []
            assert (held, follower.seen[::-1]) == (where == "this one", told)
            assert [one.id for one in page.items] == told[:1]
            at = await events.place(PROJECT, None, now_ms)
            assert (at.id == second) == (where == "another database")
        finally:
            await transaction.rollback()
            await stranger.close()


async def test_the_horizon_counts_as_positions_do(database_server: Server) -> None:
    """Put the horizon at the oldest transaction that is open here, in the 64 bits that positions have."""
    url = database_server.database()
    async with migrated(url) as database, writers(url, 2) as (slow, quick):
        first, second = new_ids(2)
        await slow.insert(first)
        await quick.insert(second)
        await quick.end()
        horizon = await Events(database).horizon()
        await slow.end()
        place = {one: await Events(database).place(PROJECT, one, NOW) for one in (first, second)}
        assert place[first].position == horizon < place[second].position < await Events(database).horizon()
