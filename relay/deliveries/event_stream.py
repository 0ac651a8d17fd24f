"""Event streams: a project's events as server-sent events, read from the table, so that a cut loses nothing.

One key may hold many streams, and each costs what it reads. So the streams of a project share the pages that they read
at the same place, an event wakes the streams of its own project only, and streams that are behind take turns
(`_CatchUp`).
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
from relay.storage.history import EventQuery, Events, Following

POLL_PAUSE_MS: Final = 1_000
"""The pause between polls of the table, shared by a project's streams: events of other processes wake none here."""
HELD_PAUSE_MS: Final = 20
"""The pause before the next poll where an event waits for an open transaction; it doubles up to `POLL_PAUSE_MS`."""
COMMENT_EVERY_MS: Final = 15_000
PAGE: Final = 20
"""Events of a page; a stream holds `RELAY_STREAM_BUFFER_BYTES` of their bodies while its client reads them."""
SKIM: Final = 100
"""Events of a page after one in which none was of the stream's type: those come without their bodies."""
RETRY_MS: Final = 2_000
CHUNK_BYTES: Final = 65_536
"""Events are sent together up to this size; a larger one goes alone."""
REST: Final = 19
"""Catching up rests for so many times as long as a page took: it gets a twentieth of the time …"""
REST_MIN_MS: Final = 4
"""… and for at least so long, since a page that another stream has read costs nothing to read, but 0.2 ms to send."""
SHARED_MAX: Final = 8
"""Pages that the streams of a project keep for each other, and no more than there are streams."""


class _Project:
    """The open streams of one project, and the pages that they have read since its last change."""

    def __init__(self, now_ms: int) -> None:
        self.open: set[asyncio.Event] = set()
        """The event that wakes each stream."""
        self.reading = asyncio.Lock()
        self.catching_up = asyncio.Lock()
        self.changed_at_ms = now_ms
        self.pages: dict[EventQuery, Following] = {}

    def changed(self, now_ms: int) -> None:
        """Drop the pages, because there may be more events now."""
        self.changed_at_ms = now_ms
        self.pages = {}

    def poll(self, due_at_ms: int, now_ms: int) -> None:
        """Drop the pages if the poll is due, unless another stream did, or something changed since."""
        if self.changed_at_ms < due_at_ms <= now_ms:
            self.changed(now_ms)

    def keep(self, query: EventQuery, page: Following) -> None:
        """Keep a page for the other streams."""
        self.pages[query] = page
        while len(self.pages) > min(SHARED_MAX, len(self.open)):
            del self.pages[next(iter(self.pages))]


class _CatchUp:
    """Reads for streams that are behind: one page at a time, then a rest in proportion to what the page took.

    Such streams want everything as fast as they can get it, while every other reader wants one thing now. The pages of
    projects take turns, whatever the number of their streams.
    """

    def __init__(self, clock: Clock, draining: asyncio.Event) -> None:
        self._clock = clock
        self._draining = draining
        self._turn = asyncio.Lock()
        self._rests_until_ms = clock.monotonic_ms()

    async def read(self, project: _Project, read_page: Callable[[], Awaitable[Following]]) -> Following:
        """Return the page when it is its project's turn."""
        async with project.catching_up, self._turn:
            await self._clock.wait(self._draining, until_monotonic_ms=self._rests_until_ms)
            began_ms = self._clock.monotonic_ms()
            try:
                return await read_page()
            finally:
                ended_ms = self._clock.monotonic_ms()
                self._rests_until_ms = ended_ms + max(REST_MIN_MS, REST * (ended_ms - began_ms))


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
        """Wake the streams of the project for which an event was committed."""
        if project := self._projects.get(project_id):
            project.changed(self._clock.monotonic_ms())
            for woken in project.open:
                woken.set()

    def wake_all(self) -> None:
        """Wake every stream, because relay stops."""
        for project_id in self._projects:
            self.publish(project_id)

    async def lines(self, project_id: str, after: str | None, kind: str | None) -> AsyncGenerator[bytes]:
        """Return server-sent events of a project, in order, from the one after `after` on; None: from now on.

        The stream ends when relay stops or the database is away; the client reconnects with its last id.
        StorageUnavailable when the database is away now, or too many streams are open; TooManyRequests when the project
        has its share of them.
        """
        self._shares.check(project_id)
        place = await self._events.place(project_id, after, self._clock.now_ms())
        query = EventQuery(project_id, place, kind, PAGE, self._buffer_bytes)
        return self._lines(query, behind=after is not None)

    async def _lines(self, query: EventQuery, *, behind: bool) -> AsyncGenerator[bytes]:
        """Return the lines, and count the stream as open while they are read."""
        woken = asyncio.Event()
        project = self._projects.setdefault(query.project_id, _Project(self._clock.monotonic_ms()))
        project.open.add(woken)
        try:
            with self._shares.reserve(query.project_id):
                self._metrics.streams_open(self._shares.total)
                # Clients that a restart cuts off together reconnect one by one.
                yield f"retry: {RETRY_MS + random.randrange(RETRY_MS)}\n\n".encode()  # noqa: S311 - no secret
                async for chunk in self._follow(project, query, woken, behind=behind):
                    yield chunk
        except (StorageUnavailable, TooManyRequests):
            return
        finally:
            project.open.discard(woken)
            if not project.open:
                self._projects.pop(query.project_id, None)
            self._metrics.streams_open(self._shares.total)

    async def _follow(
        self, project: _Project, query: EventQuery, woken: asyncio.Event, *, behind: bool
    ) -> AsyncGenerator[bytes]:
        """Return events as they are committed, and comments between them."""
        sent_at_ms, held_pause_ms = self._clock.monotonic_ms(), HELD_PAUSE_MS
        while not self._draining.is_set():
            woken.clear()
            page = await self._read(project, query, behind=behind)
            for chunk in _chunks(page.events):
                yield chunk
            now_ms = self._clock.monotonic_ms()
            if page.events:
                sent_at_ms = now_ms
            if page.place != query.place:
                held_pause_ms = HELD_PAUSE_MS
                events_max = PAGE if page.events else SKIM
                query = msgspec.structs.replace(query, place=page.place, events_max=events_max)
            if behind := page.more:
                continue
            if now_ms - sent_at_ms >= COMMENT_EVERY_MS:
                sent_at_ms = now_ms
                yield b": still here\n\n"
            poll_at_ms = project.changed_at_ms + (held_pause_ms if page.held else POLL_PAUSE_MS)
            held_pause_ms = min(2 * held_pause_ms, POLL_PAUSE_MS) if page.held else HELD_PAUSE_MS
            await self._clock.wait(woken, until_monotonic_ms=min(poll_at_ms, sent_at_ms + COMMENT_EVERY_MS))
            project.poll(poll_at_ms, self._clock.monotonic_ms())

    async def _read(self, project: _Project, query: EventQuery, *, behind: bool) -> Following:
        """Return the next page: the one that another stream of the project has just read, or one from the table."""

        async def read_page() -> Following:
            if self._draining.is_set():
                return Following([], query.place)
            if (shared := project.pages.get(query)) is not None:
                return shared
            pages = project.pages
            page = await self._events.following(query, self._clock.now_ms())
            if pages is project.pages:
                project.keep(query, page)
            return page

        if behind:
            return await self._catch_up.read(project, read_page)
        async with project.reading:
            return await read_page()


def _chunks(events: list[Event]) -> Iterator[bytes]:
    """Return the events as they are sent; each body is one line, because it is JSON without line breaks."""
    chunk = bytearray()
    for event in events:
        if chunk and len(chunk) + len(event.body) > CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
        chunk += b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.type.encode(), event.body)
    if chunk:
        yield bytes(chunk)
