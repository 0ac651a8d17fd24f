"""Events as they come, for those who keep a connection open: read from the table, so a cut loses nothing.

Streams cost what they read, and one key may hold many of them. So the streams of a project share what they read at the
same place, an event wakes only those of its own project, and streams that are behind take turns (`_CatchUp`).
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Final

import msgspec

from relay.clock import Clock
from relay.errors import StorageUnavailable, TooManyRequests
from relay.metrics import Metrics
from relay.model.job import Event
from relay.security.shares import Shares
from relay.settings import Settings
from relay.storage.history import Events, Following, Look, Place

LOOK_EVERY_MS: Final = 1_000
"""Events of other processes wake no stream here, so the table is polled besides, once for all streams of a project."""
LOOK_AGAIN_MS: Final = 20
"""An event that waits for another's transaction is looked for this soon, and then after twice as long each time."""
COMMENT_EVERY_MS: Final = 15_000
PAGE: Final = 10
"""Events that a stream looks at together, of which it holds `RELAY_STREAM_BUFFER_BYTES` while its client reads them."""
SKIM: Final = 100
"""Events that a stream looks at where none of the last was of its type: those come without their bodies."""
RETRY_MS: Final = 2_000
CHUNK_BYTES: Final = 65_536
"""Events are sent together up to this size; a larger one goes alone."""
REST: Final = 9
"""After a page of catching up, none is read for so many times as long as it took: they have a tenth of the time."""
SHARED_MAX: Final = 8
"""Readings that the streams of a project keep for each other, and no more than there are streams."""


class _Wanted(msgspec.Struct, frozen=True):
    """What a stream reads next: streams that want the same share one reading."""

    place: Place
    kind: str | None
    look: Look


class _Project:
    """The open streams of one project, and what they have read since anything may have changed."""

    def __init__(self, project_id: str, now_ms: int) -> None:
        self.id = project_id
        self.open: set[asyncio.Event] = set()
        self.reading = asyncio.Lock()
        self.catching_up = asyncio.Lock()
        self.changed_at = now_ms
        self.changes = 0
        self.read: dict[_Wanted, Following] = {}

    def changed(self, now_ms: int) -> None:
        """Forget what was read: there may be more by now."""
        self.changed_at = now_ms
        self.changes += 1
        self.read.clear()

    def polled(self, due_at: int, now_ms: int) -> None:
        """Note that a poll which was due then is made, unless another stream made it or something changed since."""
        if self.changed_at < due_at <= now_ms:
            self.changed(now_ms)

    def keep(self, wanted: _Wanted, found: Following) -> None:
        """Keep a reading for the other streams."""
        self.read[wanted] = found
        while len(self.read) > min(SHARED_MAX, len(self.open)):
            del self.read[next(iter(self.read))]


class _CatchUp:
    """Reads for streams that are behind: one page at a time, and then a rest in proportion to what the page took.

    They want all there is as fast as it can be had, while everything else wants one thing now. The pages of projects
    take turns, whatever the number of their streams.
    """

    def __init__(self, clock: Clock, draining: asyncio.Event) -> None:
        self._clock = clock
        self._draining = draining
        self._turn = asyncio.Lock()
        self._rests_until_ms = 0

    async def read(self, project: _Project, page: Callable[[], Awaitable[Following]]) -> Following:
        """Return the page when it is its project's turn."""
        async with project.catching_up, self._turn:
            await self._clock.wait(self._draining, until_monotonic_ms=self._rests_until_ms)
            began_ms = self._clock.monotonic_ms()
            try:
                return await page()
            finally:
                ended_ms = self._clock.monotonic_ms()
                self._rests_until_ms = ended_ms + REST * (ended_ms - began_ms)


class Streams:
    """The open streams of this process."""

    def __init__(
        self, events: Events, clock: Clock, draining: asyncio.Event, metrics: Metrics, settings: Settings
    ) -> None:
        self._events = events
        self._clock = clock
        self._draining = draining
        self._metrics = metrics
        self._shares = Shares("streams", settings.streams_max, settings.streams_per_project_max)
        self._buffer_bytes = settings.stream_buffer_bytes
        self._projects: dict[str, _Project] = {}
        self._catch_up = _CatchUp(clock, draining)

    def publish(self, project_id: str) -> None:
        """Wake the streams of a project that an event was committed for."""
        if project := self._projects.get(project_id):
            project.changed(self._clock.monotonic_ms())
            for woken in project.open:
                woken.set()

    def wake_all(self) -> None:
        """Wake every stream, since relay stops."""
        for project_id in self._projects:
            self.publish(project_id)

    async def lines(self, project_id: str, after: str | None, kind: str | None) -> AsyncGenerator[bytes]:
        """Server-sent events of a project, in order, from the one after `after` on; None: from this moment on.

        They end when relay stops or the database is away: the client comes back with its last id. StorageUnavailable
        when it is away now, or when too many streams are open; TooManyRequests when the project has its share of them.
        """
        self._shares.check(project_id)
        place = await self._events.place(project_id, after, self._clock.now_ms())
        return self._lines(project_id, kind, place, behind=after is not None)

    async def _lines(self, project_id: str, kind: str | None, place: Place, *, behind: bool) -> AsyncGenerator[bytes]:
        """Count the stream as open for as long as it is read."""
        woken = asyncio.Event()
        if (project := self._projects.get(project_id)) is None:
            project = self._projects[project_id] = _Project(project_id, self._clock.monotonic_ms())
        project.open.add(woken)
        try:
            with self._shares.taken(project_id):
                self._metrics.streams_open(self._shares.total)
                # Those who are cut off together by a restart come back one by one.
                yield f"retry: {RETRY_MS + random.randrange(RETRY_MS)}\n\n".encode()  # noqa: S311 - no secret
                async for some in self._found(project, kind, place, woken, behind):
                    yield some
        except (StorageUnavailable, TooManyRequests):
            return
        finally:
            project.open.discard(woken)
            if not project.open:
                self._projects.pop(project_id, None)
            self._metrics.streams_open(self._shares.total)

    async def _found(
        self, project: _Project, kind: str | None, place: Place, woken: asyncio.Event, behind: bool
    ) -> AsyncGenerator[bytes]:
        """Events as they are found in the table, and comments between them."""
        said_at = self._clock.monotonic_ms()
        pause_ms, look = LOOK_AGAIN_MS, PAGE
        while not self._draining.is_set():
            woken.clear()
            found = await self._read(project, _Wanted(place, kind, Look(look, self._buffer_bytes)), behind=behind)
            for chunk in _chunks(found.events):
                yield chunk
            now_ms = self._clock.monotonic_ms()
            if found.place != place:
                place, pause_ms, look = found.place, LOOK_AGAIN_MS, PAGE if found.events else SKIM
                said_at = now_ms if found.events else said_at
            if behind := found.more:
                continue
            if now_ms - said_at >= COMMENT_EVERY_MS:
                said_at = now_ms
                yield b": still here\n\n"
            look_at = project.changed_at + (pause_ms if found.held else LOOK_EVERY_MS)
            pause_ms = min(2 * pause_ms, LOOK_EVERY_MS) if found.held else LOOK_AGAIN_MS
            await self._clock.wait(woken, until_monotonic_ms=min(look_at, said_at + COMMENT_EVERY_MS))
            project.polled(look_at, self._clock.monotonic_ms())

    async def _read(self, project: _Project, wanted: _Wanted, *, behind: bool) -> Following:
        """Return what comes next: what another stream of the project has just read, or else from the table."""

        async def page() -> Following:
            if self._draining.is_set():
                return Following([], wanted.place)
            if (shared := project.read.get(wanted)) is not None:
                return shared
            changes = project.changes
            place, kind, look = wanted.place, wanted.kind, wanted.look
            found = await self._events.following(project.id, place, kind, look, self._clock.now_ms())
            if changes == project.changes:
                project.keep(wanted, found)
            return found

        if behind:
            return await self._catch_up.read(project, page)
        async with project.reading:
            return await page()


def _chunks(events: list[Event]) -> Iterator[bytes]:
    """The events as they are sent: each body is a single line, since it is JSON without line breaks."""
    chunk = bytearray()
    for event in events:
        if chunk and len(chunk) + len(event.body) > CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
        chunk += b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.type.encode(), event.body)
    if chunk:
        yield bytes(chunk)
