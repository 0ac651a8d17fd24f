"""Keeps open pages up to date: server-sent events with those parts of a page that have changed.

A page is made again as its reader asked for it, with the session's rights, and what differs is sent. However many pages
are open, making them again takes a hundredth of the time, or a page every three seconds: pages take turns, and each
rests after its turn.
"""

import asyncio
import re
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from relay.app import App
from relay.errors import RelayError
from relay.security.shares import Shares
from relay.web import request_rates
from relay.web.api.events import EventStream
from relay.web.dashboard.session import Sessions, SignedIn

PAUSE_MS: Final = 1_000
"""The least time between two looks at one page."""
REST: Final = 99
"""After a page was made, none is made for so many times as long as that took."""
REST_MAX_MS: Final = 3_000
"""But for no longer than this: the first page compiles its templates, and must not stop for half a minute."""
_REFUSED: Final = range(400, 500)
COMMENT_EVERY_MS: Final = 15_000
RETRY_MS: Final = 2_000
PART: Final = re.compile(r"<!--part ([A-Za-z0-9_-]+)-->(.*?)<!--part -->", re.DOTALL)
_ONCE: Final = re.compile(r'name="once" value="[^"]*"|title="[^"]*" data-moment>[^<]*<')
"""What differs each time that a page is made, though nothing has changed: no reason to send a part."""

Render = Callable[[SignedIn], Awaitable[Response]]
"""Makes a page; the answer of one that cannot be made has the status of the refusal."""


class Turns:
    """Lets one caller at a time go on; those who wait get their turns by project, so that none waits for another's."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, project_id: str) -> AsyncGenerator[None]:
        """Wait for the project's turn, and keep it while the block runs."""
        if self._taken:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(project_id, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._pass_on()
                raise
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn to the next project's first caller; it is free if none waits."""
        while self._waiting:
            project_id, queue = self._waiting.popitem(last=False)
            turn = queue.popleft()
            if queue:
                self._waiting[project_id] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False


class Live:
    """The open streams of pages in this process."""

    def __init__(self, app: App, sessions: Sessions) -> None:
        settings = app.settings
        self._app = app
        self._sessions = sessions
        self._shares = Shares("streams", settings.streams_max, settings.streams_per_project_max)
        self._turns = Turns()
        self._rests_until_ms = app.clock.monotonic_ms()

    async def stream(self, http: Request, render: Render) -> Response:
        """Return the stream of a page; an empty answer, which ends a browser's tries, where none can be given.

        That is so without a session, if too many are open, and if there is no such page. A request over a rate gets
        429: a browser whose stream was open before tries again.
        """
        try:
            found = await self._sessions.read(http)
            key_id = None if found is None else found.caller.key_id
            refusal = request_rates.refusal(self._app, http.scope, key_id)
            if found is None or refusal is not None:
                return refusal or Response(status_code=204)
            with self._shares.reserve(found.session.project_id):
                parts = await self._parts(found, render)
        except RelayError:
            return Response(status_code=204)
        if parts is None:
            return Response(status_code=204)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        lines = self._lines(http, found.session.project_id, render, parts)
        return EventStream(lines, headers=headers, media_type="text/event-stream")

    async def _lines(
        self, http: Request, project_id: str, render: Render, parts: Mapping[str, str] | None
    ) -> AsyncGenerator[bytes]:
        """Return the messages until the session or relay ends, or there is no such page any more.

        `parts` are those of the page as it is now.
        """
        clock, draining = self._app.clock, self._app.draining
        try:
            with self._shares.reserve(project_id):
                yield f"retry: {RETRY_MS}\n\n".encode()
                sent: dict[str, str] = {}
                sent_at_ms = clock.monotonic_ms()
                while parts is not None:
                    if changed := {name: text for name, text in parts.items() if sent.get(name) != _comparable(text)}:
                        sent |= {name: _comparable(text) for name, text in changed.items()}
                        sent_at_ms = clock.monotonic_ms()
                        yield b"".join(_message(name, text) for name, text in changed.items())
                    elif clock.monotonic_ms() - sent_at_ms >= COMMENT_EVERY_MS:
                        sent_at_ms = clock.monotonic_ms()
                        yield b": still here\n\n"
                    await clock.wait(draining, until_monotonic_ms=clock.monotonic_ms() + PAUSE_MS)
                    signed_in = await self._sessions.read(http)
                    if signed_in is None or draining.is_set():
                        return
                    parts = await self._parts(signed_in, render)
        except RelayError:
            return

    async def _parts(self, signed_in: SignedIn, render: Render) -> Mapping[str, str] | None:
        """Return the parts of the page by their ids, when it is this page's turn; None if there is no such page."""
        clock = self._app.clock
        async with self._turns.of(signed_in.session.project_id):
            await clock.wait(self._app.draining, until_monotonic_ms=self._rests_until_ms)
            began_ms = clock.monotonic_ms()
            try:
                page = await render(signed_in)
                return None if page.status_code in _REFUSED else dict(PART.findall(bytes(page.body).decode()))
            finally:
                self._rests_until_ms = clock.monotonic_ms() + rest_ms(clock.monotonic_ms() - began_ms)


def rest_ms(took_ms: int) -> int:
    """Return for how long no page is made after one that took so long."""
    return min(REST_MAX_MS, REST * took_ms)


def _comparable(text: str) -> str:
    """Return a part without what differs each time."""
    return _ONCE.sub("", text)


def _message(name: str, text: str) -> bytes:
    """Return the message that puts a part in the place of the element with its id."""
    partial = f'<hx-partial hx-target="#{name}" hx-swap="outerMorph">{text}</hx-partial>'
    return ("\n".join(f"data: {line}" for line in partial.splitlines()) + "\n\n").encode()
