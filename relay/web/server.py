"""uvicorn, started from relay's own code: one process, no access log (paths hold callback tokens)."""

import asyncio
import errno
import signal
import socket
from functools import partial
from types import FrameType

import uvicorn

from relay import log
from relay.app import App
from relay.errors import RelayError
from relay.web.asgi import web
from relay.web.callbacks import Callbacks
from relay.web.connections import Connections, max_open
from relay.web.protocol import Protocol

_logger = log.get("server")


class Server(uvicorn.Server):
    """Sets `draining` when it is told to stop, so that what waits on it ends at once."""

    def __init__(self, config: uvicorn.Config, draining: asyncio.Event) -> None:
        super().__init__(config)
        self._draining = draining

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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Stops gracefully on every signal (some platforms send SIGTERM twice), at once on a second SIGINT.

        uvicorn would raise the signal again when it has stopped serving, which would end the process before relay has
        put its work away; so the signal is taken here for good.
        """
        self._draining.set()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def server(app: App, host: str, port: int, shutdown_s: float) -> Server:
    """A server of an open relay that is ready to be run."""
    callbacks, settings = Callbacks(app), app.settings
    room = max_open(settings.connections_max)
    if room < settings.connections_max:
        _logger.info("connections.limited", open_files_allow=room, setting=settings.connections_max)
    books = Connections(room, settings.header_deadline_s, settings.write_deadline_s, app.metrics)
    config = uvicorn.Config(
        web(app, callbacks),
        host=host,
        port=port,
        http=partial(Protocol, callbacks.take, books),  # type: ignore[arg-type]  # it is called as a class is
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=100,
        timeout_graceful_shutdown=max(1, round(shutdown_s)),
    )
    return Server(config, app.draining)
