"""What streams cost everything else: readings are shared, those behind take turns, unread ones do nothing."""

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from relay import settings
from relay.deliveries.event_stream import CHUNK_BYTES, PAGE, POLL_PAUSE_MS, Streams, _chunks, _Project
from relay.metrics import Metrics
from relay.model import ids
from relay.model.job import Event, EventType
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.migrations import migrate
from relay.storage.history import BEGINNING, EventQuery, Events, Following
from relay.storage.store import open_database
from tests.storage.test_stream_order import event
from tests.support.quiescence import quiet
from tests.support.running import DATABASES, KEY, START_MS, HeldClock, environment, relay

pytestmark = pytest.mark.anyio

PAGE_MS = 10
REST_MS = 190
"""Nineteen times what a page takes, so that it takes a twentieth of the time."""
RELAY_TEST = Event(
    id="evt_1",
    project_id="prj_a",
    job_id=None,
    type=EventType.RELAY_TEST,
    sequence=0,
    final=False,
    created_at=START_MS,
    body=b"",
)


class Passing(HeldClock):
    """A held clock, of which work may take some time."""

    def pass_ms(self, duration_ms: int) -> None:
        """Note that so much time went by while something worked."""
        self._monotonic_ms += duration_ms


class Counted(Events):
    """Events whose readings are counted; each takes so much of the clock's time."""

    def __init__(self, database: Database, clock: Passing) -> None:
        super().__init__(database)
        self.read: list[str] = []
        self.page_ms = 0
        self._clock = clock

    async def following(self, query: EventQuery, now_ms: int) -> Following:
        """Read, and note of which project."""
        self.read.append(query.project_id)
        self._clock.pass_ms(self.page_ms)
        return await super().following(query, now_ms)

    def reads(self) -> list[str]:
        """Return what was read since this was asked last."""
        read, self.read = self.read, []
        return read


class House:
    """Streams of two projects, on a held clock."""

    def __init__(self, database: Database, environ: dict[str, str], events: "type[Counted]") -> None:
        self._database = database
        self.clock = Passing()
        self.draining = asyncio.Event()
        self.events = events(database, self.clock)
        self.streams = Streams(self.events, self.clock, self.draining, Metrics(), settings.load(environ, ()))
        self.reading: list[asyncio.Task[None]] = []

    async def add(self, project_id: str, number: int, filler: str = "") -> None:
        """Commit so many events of a project."""
        many = [event(ids.new_id(ids.EVENT), START_MS) | {"project_id": project_id} for _ in range(number)]
        for one in many:
            one["body"] = msgspec.json.encode({"id": one["id"], "type": one["type"], "data": filler})

        async def work(transaction: Transaction) -> None:
            await transaction.run_many("insert_event", many)

        await self._database.transact(work)

    async def open(self, project_id: str, after: str | None = None) -> list[bytes]:
        """Return a stream whose client reads all that comes: what it got so far."""
        lines, got = await self.streams.lines(project_id, after, None), []

        async def read(lines: AsyncGenerator[bytes]) -> None:
            async for some in lines:
                got.append(some)  # noqa: PERF401 - a test looks at it meanwhile

        self.reading.append(asyncio.create_task(read(lines)))
        await quiet()
        return got

    async def close(self) -> None:
        """End the streams, as a stop does."""
        self.draining.set()
        self.streams.wake_all()
        async with asyncio.timeout(60):
            await asyncio.gather(*self.reading, return_exceptions=True)


@asynccontextmanager
async def house(folder: Path, events: type[Counted] = Counted) -> AsyncIterator[House]:
    """Two projects with streams."""
    database = await open_database(DATABASES.url(folder))
    await migrate(database, START_MS)
    await database.transact(_two_projects)
    made = House(database, environment(folder, "http://relay.example", "http://127.0.0.1:9"), events)
    try:
        yield made
        await made.close()
    finally:
        await database.close()


async def _two_projects(transaction: Transaction) -> None:
    """Make the projects."""
    for name in ("a", "b"):
        await transaction.rows("insert_project", {"id": f"prj_{name}", "name": name, "created_at": START_MS})


async def test_an_event_wakes_the_streams_of_its_project_alone(tmp_path: Path) -> None:
    """Read once for all streams of the project that the event is of, and not at all for another's."""
    async with house(tmp_path) as made:
        got = [await made.open(project) for project in ("prj_a", "prj_a", "prj_a", "prj_b", "prj_b")]
        made.events.reads()
        await made.add("prj_b", 1)
        made.streams.publish("prj_b")
        await quiet()
        assert made.events.reads() == ["prj_b"]
        assert [len(one) for one in got] == [1, 1, 1, 2, 2]
        assert got[3][1] == got[4][1] != b""


async def test_a_project_polls_once_for_all_of_its_streams(tmp_path: Path) -> None:
    """Read once a second whatever the number of streams, and so find an event that another process committed."""
    async with house(tmp_path) as made:
        got = []
        for number in range(8):
            got.append(await made.open("prj_a"))
            await made.clock.advance(number / 100)
        await made.clock.advance(2 * POLL_PAUSE_MS / 1000)
        made.events.reads()
        for _ in range(3):
            await made.clock.advance((POLL_PAUSE_MS - 1) / 1000)
            assert made.events.reads() == []
            await made.clock.advance(0.001)
            assert made.events.reads() == ["prj_a"]
        await made.add("prj_a", 1)
        await made.clock.advance(POLL_PAUSE_MS / 1000)
        assert [len(one) for one in got] == [2] * 8


async def test_streams_that_are_behind_take_turns(tmp_path: Path) -> None:
    """Read a page, rest in proportion to its time, and go on with the other project, however many streams each has."""
    async with house(tmp_path) as made:
        await made.add("prj_a", 4 * PAGE)
        await made.add("prj_b", 4 * PAGE)
        made.events.page_ms = PAGE_MS
        first = (await made.events.following(EventQuery("prj_a", BEGINNING, None, 4), START_MS)).events
        made.events.reads()
        starts = ["evt_0", *(one.id for one in first[:2])]
        got = [await made.open("prj_a", start) for start in starts]
        got.append(await made.open("prj_b", "evt_0"))
        read = made.events.reads()
        for _ in range(6):
            await made.clock.advance((REST_MS - 1) / 1000)
            assert made.events.reads() == []
            await made.clock.advance(0.001)
            read += (page := made.events.reads())
            assert len(page) == 1
        assert read == ["prj_a", *["prj_a", "prj_b"] * 3]
        assert [sum(some.count(b"id: ") for some in one) for one in got] == [2 * PAGE, PAGE, PAGE, 3 * PAGE]


async def test_a_page_that_was_read_already_has_its_rest_too(tmp_path: Path) -> None:
    """Send one page in four milliseconds to streams that are behind, also where another stream has read it."""
    async with house(tmp_path) as made:
        await made.add("prj_a", 10 * PAGE)
        got = [await made.open("prj_a", "evt_0") for _ in range(3)]
        made.events.reads()
        for pages in range(1, 6):
            assert sum(some.count(b"id: ") for one in got for some in one) == pages * PAGE
            await made.clock.advance(0.003)
            assert sum(some.count(b"id: ") for one in got for some in one) == pages * PAGE
            await made.clock.advance(0.001)
        assert sum(some.count(b"id: ") for one in got for some in one) == 6 * PAGE
        assert len(made.events.reads()) < 5, "a page is read once for streams at the same place"


async def test_a_stream_that_is_not_behind_waits_for_none_that_is(tmp_path: Path) -> None:
    """Give a new event immediately, while other streams of the same project and of another rest."""
    async with house(tmp_path) as made:
        await made.add("prj_a", 4 * PAGE)
        live = await made.open("prj_a")
        made.events.page_ms = PAGE_MS
        await made.open("prj_a", "evt_0")
        await made.open("prj_a", "evt_0")
        await made.add("prj_a", 1)
        made.streams.publish("prj_a")
        await quiet()
        assert [some.count(b"id: ") for some in live] == [0, 1]


async def test_a_stop_ends_streams_that_wait_for_their_turn(tmp_path: Path) -> None:
    """Read nothing more for streams that are behind once relay stops; they end without a rest."""
    async with house(tmp_path) as made:
        await made.add("prj_a", 40 * PAGE)
        made.events.page_ms = PAGE_MS
        for _ in range(5):
            await made.open("prj_a", "evt_0")
        made.events.reads()
        await made.close()
        assert made.events.reads() == []


async def test_a_stream_that_nobody_reads_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read no further page for a connection that takes none of what was sent, whatever is committed meanwhile."""
    async with relay(tmp_path) as running:
        many = [event(ids.new_id(ids.EVENT), START_MS) for _ in range(400)]
        for one in many:
            one["body"] = b'"' + b"x" * 60_000 + b'"'

        async def work(transaction: Transaction) -> None:
            await transaction.run_many("insert_event", many)

        database: Any = running.app.store.database
        await database.transact(work)
        reads = 0
        following = Events.following

        async def counted(events: Events, *arguments: Any) -> Following:
            nonlocal reads
            reads += 1
            return await following(events, *arguments)

        monkeypatch.setattr(Events, "following", counted)
        at = urlsplit(running.origin)
        with socket.create_connection((at.hostname or "", at.port or 0)) as unread:
            head = f"GET /v1/events/stream HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {KEY}\r\n"
            unread.sendall(f"{head}last-event-id: evt_0\r\n\r\n".encode())
            await quiet()
            seen = reads
            assert 0 < seen < len(many) / 4  # four of these are a page
            for _ in range(20):
                running.app.streams.publish("prj_default")
                await quiet()
            assert reads == seen


async def test_a_stream_that_ends_leaves_the_others_of_its_project(tmp_path: Path) -> None:
    """Give an event immediately to the stream that is left, where another of the same project was closed."""
    async with house(tmp_path) as made:
        left, _ = await made.open("prj_a"), await made.open("prj_a")
        made.reading[1].cancel()
        await quiet()
        await made.add("prj_a", 1)
        made.streams.publish("prj_a")
        await quiet()
        assert [one.count(b"id: ") for one in left] == [0, 1]


class Interrupted(Counted):
    """Events of which another is committed while a page is read, once."""

    between: "Callable[[], Awaitable[None]] | None" = None

    async def following(self, query: EventQuery, now_ms: int) -> Following:
        """Read, and have the event committed and published before the page is used."""
        page = await super().following(query, now_ms)
        if between := self.between:
            self.between = None
            await between()
        return page


async def test_a_page_is_not_shared_after_something_changed(tmp_path: Path) -> None:
    """Read anew for the second stream where an event was committed while the first one's page was read."""
    async with house(tmp_path, Interrupted) as made:
        got = [await made.open("prj_a") for _ in range(2)]

        async def commit() -> None:
            await made.add("prj_a", 1)
            made.streams.publish("prj_a")

        assert isinstance(made.events, Interrupted)
        made.events.between = commit
        made.streams.publish("prj_a")
        await quiet()
        assert [sum(some.count(b"id: ") for some in one) for one in got] == [1, 1]


@pytest.mark.parametrize(("streams", "kept"), [(3, 3), (7, 7), (8, 8), (20, 8)])
def test_a_project_keeps_a_page_for_each_stream_and_eight_at_most(streams: int, kept: int) -> None:
    """Drop the oldest of the pages that the streams of a project share."""
    project, queries = _Project(0), [EventQuery("prj_a", BEGINNING, None, number) for number in range(20)]
    project.open.update(asyncio.Event() for _ in range(streams))
    for query in queries:
        project.keep(query, Following([], BEGINNING))
    assert list(project.pages) == queries[-kept:]


def test_events_are_sent_together_up_to_a_size() -> None:
    """Join the frames of a page into chunks; a body that fills one exactly ends it, one byte more begins another."""
    frame = len(b"id: evt_1\nevent: relay.test\ndata: \n\n")

    def chunks(*sizes: int) -> list[int]:
        made = [msgspec.structs.replace(RELAY_TEST, body=b"x" * size) for size in sizes]
        return [len(chunk) for chunk in _chunks(made)]

    assert chunks() == []
    assert chunks(100, 100) == [2 * (frame + 100)]
    fits = CHUNK_BYTES - (frame + 100)
    assert chunks(100, fits) == [CHUNK_BYTES + frame]
    assert chunks(100, fits + 1) == [frame + 100, frame + fits + 1]
    assert chunks(3 * CHUNK_BYTES, 1) == [frame + 3 * CHUNK_BYTES, frame + 1]
