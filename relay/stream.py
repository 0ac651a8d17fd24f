"""Events as they come, for those who keep a connection open: read from the table, so a cut loses nothing."""

import asyncio
import random
from collections.abc import AsyncGenerator
from typing import Final

from relay.clock import Clock
from relay.errors import StorageUnavailable, TooManyRequests
from relay.metrics import Metrics
from relay.model import Event
from relay.settings import Settings
from relay.shares import Shares
from relay.storage.evidence import Events, Look, Place

LOOK_EVERY_MS: Final = 1_000
"""Events of other processes wake nobody here, so the table is looked at besides."""
LOOK_AGAIN_MS: Final = 20
"""An event that waits for another's transaction is looked for this soon, and then after twice as long each time."""
COMMENT_EVERY_MS: Final = 15_000
PAGE: Final = 10
"""Events that a stream looks at together, of which it holds `RELAY_STREAM_BUFFER_BYTES` while its client reads them."""
SKIM: Final = 100
"""Events that a stream looks at where none of the last was of its type: those come without their bodies."""
RETRY_MS: Final = 2_000


class Streams:
    """The open streams of this process."""

    def __init__(
        self, events: Events, clock: Clock, draining: asyncio.Event, metrics: Metrics, settings: Settings
    ) -> None:
        self._events = events
        self._clock = clock
        self._draining = draining
        self._metrics = metrics
        self._shares = Shares("streams", settings.streams_max, settings.streams_per_project_max, metrics)
        self._buffer_bytes = settings.stream_buffer_bytes
        self._open: set[asyncio.Event] = set()

    def tell(self) -> None:
        """Something was committed that may be an event."""
        for woken in self._open:
            woken.set()

    async def lines(self, project_id: str, after: str | None, kind: str | None) -> AsyncGenerator[bytes]:
        """Server-sent events of a project, in order, from the one after `after` on; None: from this moment on.

        They end when relay stops or the database is away: the client comes back with its last id. StorageUnavailable
        when it is away now, or when too many streams are open; TooManyRequests when the project has its share of them.
        """
        self._shares.check(project_id)
        return self._lines(project_id, kind, await self._events.place(project_id, after, self._clock.now_ms()))

    async def _lines(self, project_id: str, kind: str | None, place: Place) -> AsyncGenerator[bytes]:
        """Once the place is known."""
        woken = asyncio.Event()
        self._open.add(woken)
        try:
            with self._shares.taken(project_id):
                self._metrics.streams_open(self._shares.total)
                # Those who are cut off together by a restart come back one by one.
                yield f"retry: {RETRY_MS + random.randrange(RETRY_MS)}\n\n".encode()  # noqa: S311 - no secret
                async for some in self._found(project_id, kind, place, woken):
                    yield some
        except (StorageUnavailable, TooManyRequests):
            return
        finally:
            self._open.discard(woken)
            self._metrics.streams_open(self._shares.total)

    async def _found(
        self, project_id: str, kind: str | None, place: Place, woken: asyncio.Event
    ) -> AsyncGenerator[bytes]:
        """Events as they are found in the table, and comments between them."""
        said_at = self._clock.monotonic_ms()
        pause_ms, look = LOOK_AGAIN_MS, PAGE
        while not self._draining.is_set():
            woken.clear()
            found = await self._events.following(
                project_id, place, kind, Look(look, self._buffer_bytes), self._clock.now_ms()
            )
            for event in found.events:
                yield _frame(event)
            now_ms = self._clock.monotonic_ms()
            if found.place != place:
                place, pause_ms, look = found.place, LOOK_AGAIN_MS, PAGE if found.events else SKIM
                said_at = now_ms if found.events else said_at
                continue
            if now_ms - said_at >= COMMENT_EVERY_MS:
                said_at = now_ms
                yield b": still here\n\n"
            look_at = now_ms + (pause_ms if found.held else LOOK_EVERY_MS)
            pause_ms = min(2 * pause_ms, LOOK_EVERY_MS) if found.held else LOOK_AGAIN_MS
            await self._clock.wait(woken, until_monotonic_ms=min(look_at, said_at + COMMENT_EVERY_MS))


def _frame(event: Event) -> bytes:
    """One event; its body is a single line, since it is JSON without line breaks."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.type.encode(), event.body)
