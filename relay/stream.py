"""Events as they come, for those who keep a connection open: read from the table, so a cut loses nothing."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Final

from relay.clock import Clock
from relay.model import Event
from relay.storage.evidence import Events

LOOK_EVERY_MS: Final = 1_000
"""Events of other processes wake nobody here, so the table is looked at besides."""
COMMENT_EVERY_MS: Final = 15_000
PAGE: Final = 100
STREAMS_MAX: Final = 1_000
RETRY_MS: Final = 2_000


class Streams:
    """The open streams of this process."""

    def __init__(self, events: Events, clock: Clock, draining: asyncio.Event) -> None:
        self._events = events
        self._clock = clock
        self._draining = draining
        self._open: set[asyncio.Event] = set()

    @property
    def full(self) -> bool:
        """Whether there are as many as there may be."""
        return len(self._open) >= STREAMS_MAX

    def tell(self) -> None:
        """Something was committed that may be an event."""
        for woken in self._open:
            woken.set()

    async def lines(self, project_id: str, after: str | None, kind: str | None) -> AsyncIterator[bytes]:
        """Server-sent events of a project, in order, from the one after `after` on; None: from now on."""
        woken = asyncio.Event()
        self._open.add(woken)
        try:
            # Those who are cut off together by a restart come back one by one.
            yield f"retry: {RETRY_MS + random.randrange(RETRY_MS)}\n\n".encode()  # noqa: S311 - no secret
            if after is None:
                after = await self._events.latest(project_id)
            said_at = self._clock.now_ms()
            while not self._draining.is_set():
                woken.clear()
                found = await self._events.following(project_id, after, kind, PAGE)
                for event in found:
                    yield _frame(event)
                now_ms = self._clock.now_ms()
                if found:
                    after, said_at = found[-1].id, now_ms
                    continue
                if now_ms - said_at >= COMMENT_EVERY_MS:
                    said_at = now_ms
                    yield b": still here\n\n"
                await self._clock.wait(woken, min(now_ms + LOOK_EVERY_MS, said_at + COMMENT_EVERY_MS))
        finally:
            self._open.discard(woken)


def _frame(event: Event) -> bytes:
    """One event; its body is a single line, since it is JSON without line breaks."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (event.id.encode(), event.type.encode(), event.body)
