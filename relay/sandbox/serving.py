"""Runs an ASGI app on a port of this machine, inside the running event loop; it may also hang up on its callers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

SHUTDOWN_S: Final = 0.2


class _Protocol(HttpToolsProtocol):
    """Lets the app reach its connection."""

    def on_message_begin(self) -> None:
        """Count a request that begins."""
        super().on_message_begin()
        self.scope["extensions"] = {"connection": {"transport": self.transport}}


async def hang_up(request: Request) -> None:
    """Reset the caller's connection without a word."""
    request.scope["extensions"]["connection"]["transport"].abort()
    await asyncio.sleep(0)


class _Server(uvicorn.Server):
    """A server that leaves the signals to the program it runs in."""

    def install_signal_handlers(self) -> None:
        """Nothing."""


def _ending_quietly(app: ASGIApp) -> ASGIApp:
    """Return the app, of which an answer that is not finished at the end of the block is no error."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return answer


@asynccontextmanager
async def serve(app: ASGIApp, port: int = 0) -> AsyncIterator[str]:
    """Yield the origin (`http://127.0.0.1:54321`) at which the app answers until the block ends."""
    config = uvicorn.Config(
        _ending_quietly(app),
        host="127.0.0.1",
        port=port,
        http=_Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # so that the server sees the cut before it answers
        answering = list(server.server_state.tasks)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        for listening in server.servers:
            listening.close()
        tasks = list(server.server_state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
