"""uvicorn, started from relay's own code: one process, no access log (paths hold callback tokens), a cap on headers."""

import asyncio
import signal
import socket
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from relay import log

HEADERS_MAX_BYTES: Final = 64 * 1024
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_logger = log.get("server")


class CappedProtocol(HttpToolsProtocol):
    """httptools accepts headers without end; this closes the connection at HEADERS_MAX_BYTES."""

    _header_bytes = 0
    _in_headers = True

    def data_received(self, data: bytes) -> None:
        """Counts what comes in until the headers are whole."""
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > HEADERS_MAX_BYTES + len(data) or len(data) > 16 * HEADERS_MAX_BYTES:
                self.transport.write(_TOO_LARGE)
                self.transport.close()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Another request begins."""
        self._in_headers, self._header_bytes = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers, which come after the body, are nobody's, and would be kept without end."""
        if self._in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """What follows is the body, which has its own cap."""
        self._in_headers = False
        super().on_headers_complete()


class Server(uvicorn.Server):
    """Sets `draining` when it is told to stop, so that what waits on it ends at once."""

    def __init__(self, config: uvicorn.Config, draining: asyncio.Event) -> None:
        super().__init__(config)
        self._draining = draining

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says where."""
        await super().startup(sockets)
        for listening in self.servers:
            for address in {sock.getsockname()[:2] for sock in listening.sockets}:
                _logger.info("relay.listening", host=address[0], port=address[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Stops gracefully on every signal (some platforms send SIGTERM twice), at once on a second SIGINT.

        uvicorn would raise the signal again when it has stopped serving, which would end the process before relay has
        put its work away; so the signal is taken here for good.
        """
        self._draining.set()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def server(app: ASGIApp, host: str, port: int, shutdown_s: float, draining: asyncio.Event) -> Server:
    """A server that is ready to be run."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=CappedProtocol,
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_keep_alive=100,
        timeout_graceful_shutdown=max(1, round(shutdown_s)),
    )
    return Server(config, draining)
