"""Build the ASGI application: callbacks go to their route, everything else to `routes.py`, loaded at its first use.

A process listens as soon as it can receive callbacks. The API, its types and Starlette are loaded for the first request
that needs them, in a thread, while callbacks are answered. `GET /readyz` is such a request: once it answers, the API is
loaded, but for the adapters of providers that are not configured: `api/adapters.py` loads them, in a thread too.
"""

import asyncio
import importlib
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay.app import App
from relay.log import request_ids
from relay.web.callback_route import CallbackRoute
from relay.web.client_address import ProxyNotice
from relay.web.protocol import BODY_INCOMPLETE
from relay.web.request_body import BodyMemory

_ALIVE: Final = b'{"status":"ok"}'


def asgi_app(app: App, callback_route: CallbackRoute, memory: BodyMemory) -> ASGIApp:
    """Return the ASGI application of an open relay; `memory` limits the bodies of API requests."""
    routes, proxies = _Routes(app, memory), ProxyNotice(app.settings.client_ip)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the callback route or the API; answer 503 to one that the shutdown cancels."""
        request_id = request_ids.of(scope["headers"])
        request_ids.CURRENT.set(request_id)
        response = _ResponseSender(scope, request_id, send)
        try:
            if scope["path"].lstrip("/").startswith("callbacks/"):
                await callback_route(scope, receive, response)
            elif routes.loaded is not None:
                proxies.note(scope)
                await routes.loaded(scope, receive, response)
            elif scope["path"] == "/healthz" and scope["method"] == "GET":
                await _alive(response)
            else:
                api = await routes.load()
                await api(scope, receive, response)
        except asyncio.CancelledError:
            if response.started or not app.draining.is_set():
                raise
            from relay.web.problems import problem  # noqa: PLC0415 - it needs Starlette

            await problem("stopping", "this process is stopping; send the request again")(scope, receive, response)

    return dispatch


class _Routes:
    """The API and the system's routes, loaded once."""

    def __init__(self, app: App, memory: BodyMemory) -> None:
        self.loaded: ASGIApp | None = None
        self._app = app
        self._memory = memory
        self._loading = asyncio.Lock()

    async def load(self) -> ASGIApp:
        """Return the routes; their modules are loaded in a thread, so that callbacks do not wait for them."""
        async with self._loading:
            if self.loaded is None:
                module = await asyncio.to_thread(importlib.import_module, "relay.web.routes")
                self.loaded = module.routed(self._app, self._memory)
            return self.loaded


class _ResponseSender:
    """An ASGI `send` that adds the request id, and `connection: close` if the request's body was not read."""

    def __init__(self, scope: Scope, request_id: str, send: Send) -> None:
        self.started = False
        self._body_incomplete = scope["state"][BODY_INCOMPLETE]
        self._request_id = request_id.encode()
        self._send = send

    async def __call__(self, message: Message) -> None:
        """Send a message of the response."""
        if message["type"] == "http.response.start":
            self.started = True
            headers = [*message["headers"], (request_ids.HEADER, self._request_id)]
            if self._body_incomplete():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)


async def _alive(send: Send) -> None:
    """Answer `GET /healthz` as `routes.py` does, before that is loaded."""
    headers = [(b"content-length", str(len(_ALIVE)).encode()), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ALIVE})
