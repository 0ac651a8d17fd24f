"""A subscriber for `relay dev` and the tests: keeps every notification, and answers what it is told to."""

import asyncio
import time
from collections.abc import Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.sandbox.serving import hang_up


class Received(msgspec.Struct, frozen=True):
    """A notification as it came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float


class Sink:
    """An ASGI app. `answers` are given one a request, then 200; a status of 0 hangs up without an answer."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answers: list[int] = []
        self.response_headers: dict[str, str] = {}
        self._changed = asyncio.Condition()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One notification."""
        request = Request(scope, receive)
        body = await request.body()
        self.received.append(Received(request.url.path, dict(request.headers), body, time.monotonic()))
        async with self._changed:
            self._changed.notify_all()
        status_code = self.answers.pop(0) if self.answers else 200
        if status_code == 0:
            await hang_up(request)
        await Response(status_code=status_code or 200, headers=self.response_headers)(scope, receive, send)

    async def wait_for(self, reached: "Callable[[Sink], bool]", timeout_s: float = 30.0) -> None:
        """Return when the sink has come so far; TimeoutError when it has not in time."""
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: reached(self))

    def events(self) -> list[str]:
        """Return the types of what came, in order."""
        return [str(msgspec.json.decode(one.body)["type"]) for one in self.received]
