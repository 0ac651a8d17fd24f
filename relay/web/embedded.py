"""Run relay within another ASGI application, for a deployment of one process; `relay serve` does not use this.

The host's server limits connections, heads and pipelining itself: relay's own limits of these are part of its server.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from relay import settings
from relay.app import opened
from relay.providers import PROVIDERS
from relay.providers.base import Provider
from relay.web.callback_route import CallbackRoute
from relay.web.dispatch import asgi_app
from relay.web.protocol import BODY_INCOMPLETE
from relay.web.request_body import BodyMemory, memory_limits

_STATE: Final = {BODY_INCOMPLETE: lambda: False}


@asynccontextmanager
async def relay(
    environ: Mapping[str, str] = os.environ, providers: Mapping[str, Provider] = PROVIDERS
) -> AsyncIterator[ASGIApp]:
    """Yield relay as an ASGI application to mount, and run its background loops while the block runs.

    Enter it in the lifespan of the host. `environ` holds the settings; RELAY_PUBLIC_URL ends with the path that relay
    is mounted at. Raise SettingsError, with every wrong setting.
    """
    async with opened(settings.load(environ, tuple(providers)), providers) as app:
        memory = BodyMemory(memory_limits(app.settings))
        routes = asgi_app(app, CallbackRoute(app, memory), memory)

        async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
            """Answer a request below the mount's path."""
            if scope["type"] == "http":
                path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
                await routes({**scope, "path": path, "root_path": "", "state": _STATE}, receive, send)

        yield mounted
