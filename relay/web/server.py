"""Configure and run uvicorn: one process, no access log, since paths hold callback tokens.

Signals are handled by `cli/stopping.py`; what the server answers is decided by `routes.py` and `callback_route.py`.
"""

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
from relay.shutdown import CLOSE_MIN_S, Stop
from relay.web.callback_route import CallbackRoute
from relay.web.connections import ConnectionTracker, limits_of, max_open
from relay.web.dispatch import asgi_app
from relay.web.protocol import Protocol
from relay.web.request_body import BodyMemory, memory_limits

REQUESTS_SHARE: Final = 0.5
"""Share of the shutdown time for unanswered requests; deliveries in flight and the database get the rest."""
_logger = log.get("server")


class Server(uvicorn.Server):
    """Serves until relay's stop begins."""

    def __init__(self, config: uvicorn.Config, stop: Stop) -> None:
        super().__init__(config)
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the addresses; raise RelayError with the reason if that fails."""
        try:
            await super().startup(sockets)
        except SystemExit:
            raise RelayError(await self._listen_error()) from None
        for listening in self.servers:
            for address in {sock.getsockname()[:2] for sock in listening.sockets}:
                _logger.info("relay.listening", host=address[0], port=address[1])

    async def _listen_error(self) -> str:
        """Return why the server cannot listen; try once more to learn it, because uvicorn only logs it and exits."""
        host, port = self.config.host, self.config.port
        try:
            (await asyncio.get_running_loop().create_server(asyncio.Protocol, host or None, port)).close()
        except PermissionError:
            return f"port {port} may not be opened by this user: set PORT to one from 1024 on"
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"port {port} is in use by another program: set PORT to another one (0 uses a free one)"
            where = f"{host or 'any address'}, port {port}"
            return f"relay cannot listen on {where} ({error.strerror}): set RELAY_HOST or PORT"
        return f"port {port} was in use for a moment: start again"

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop; called every 0.1 s."""
        return await super().on_tick(counter) or self._stop.draining.is_set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for unanswered requests for half of the time left; then cancel them, which answers 503."""
        share_s: Any = self._stop.left_s() * REQUESTS_SHARE  # uvicorn declares an int, and accepts a float
        self.config.timeout_graceful_shutdown = share_s
        await super().shutdown(sockets)
        # A request cancelled by uvicorn writes its 503 in `dispatch.asgi_app`.
        if tasks := set(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=CLOSE_MIN_S)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no handlers: uvicorn would raise the signal again when it has stopped, before relay has stopped."""
        yield


def server(app: App, host: str, port: int) -> Server:
    """Return the server of an open relay, ready for `serve()`."""
    settings = app.settings
    memory = BodyMemory(memory_limits(settings))
    callbacks = CallbackRoute(app, memory)
    connections_max = max_open(settings.connections_max)
    if connections_max < settings.connections_max:
        _logger.info("connections.limited", open_files_allow=connections_max, setting=settings.connections_max)
    tracker = ConnectionTracker(limits_of(settings, connections_max), app.metrics)
    config = uvicorn.Config(
        asgi_app(app, callbacks, memory),
        host=host,
        port=port,
        http=partial(Protocol, callbacks, tracker),  # type: ignore[arg-type]  # uvicorn calls it like a class
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        workers=1,  # otherwise uvicorn reads WEB_CONCURRENCY, which may be `auto`
    )
    return Server(config, app.stop)
