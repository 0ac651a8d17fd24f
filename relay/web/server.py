"""uvicorn, started from relay's own code: one process, no access log (paths hold callback tokens)."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import uvicorn

from relay import log
from relay.app import App
from relay.errors import RelayError
from relay.shutdown import LAST_S, Stop
from relay.web.callback_route import Callbacks
from relay.web.connections import Connections, limits_of, max_open
from relay.web.protocol import Protocol
from relay.web.request_body import BodyMemory, room_of
from relay.web.routes import web

REQUESTS_SHARE: Final = 0.5
"""Of the time of a stop; deliveries under way and the database get the rest."""
_logger = log.get("server")


class Server(uvicorn.Server):
    """Serves until relay's stop begins; its signals are taken by the command that runs it (`cli/stopping.py`)."""

    def __init__(self, config: uvicorn.Config, stop: Stop) -> None:
        super().__init__(config)
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log where; RelayError says why that cannot be done."""
        try:
            await super().startup(sockets)
        except SystemExit:
            raise RelayError(await self._why_not()) from None
        for listening in self.servers:
            for address in {sock.getsockname()[:2] for sock in listening.sockets}:
                _logger.info("relay.listening", host=address[0], port=address[1])

    async def _why_not(self) -> str:
        """Why the server cannot listen: uvicorn logs it and exits, so it is tried once more."""
        host, port = self.config.host, self.config.port
        try:
            (await asyncio.get_running_loop().create_server(asyncio.Protocol, host or None, port)).close()
        except PermissionError:
            return f"port {port} may not be opened by this user: set PORT to one from 1024 on"
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"port {port} is taken by another program: set PORT to another one (0 takes a free one)"
            where = f"{host or 'any address'}, port {port}"
            return f"relay cannot listen on {where} ({error.strerror}): set RELAY_HOST or PORT"
        return f"port {port} was taken for a moment: start again"

    async def on_tick(self, counter: int) -> bool:
        """Look whether to go on; every tenth of a second."""
        return await super().on_tick(counter) or self._stop.draining.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Give the requests under way half of the time; what is not answered then is answered 503."""
        share_s: Any = self._stop.left_s() * REQUESTS_SHARE  # uvicorn declares whole seconds and takes any
        self.config.timeout_graceful_shutdown = share_s
        await super().shutdown(sockets)
        await self._last_answers()

    async def _last_answers(self) -> None:
        """Let the requests that were cut off write their answers."""
        if tasks := set(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=LAST_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: uvicorn would raise them again when it has stopped, before relay has."""
        yield


def server(app: App, host: str, port: int) -> Server:
    """A server of an open relay that is ready to be run."""
    settings = app.settings
    memory = BodyMemory(room_of(settings))
    callbacks = Callbacks(app, memory)
    room = max_open(settings.connections_max)
    if room < settings.connections_max:
        _logger.info("connections.limited", open_files_allow=room, setting=settings.connections_max)
    books = Connections(limits_of(settings, room), app.metrics)
    config = uvicorn.Config(
        web(app, callbacks, memory),
        host=host,
        port=port,
        http=partial(Protocol, callbacks.take, books),  # type: ignore[arg-type]  # it is called as a class is
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        workers=1,  # else uvicorn reads WEB_CONCURRENCY, which may be `auto`
    )
    return Server(config, app.stop)
