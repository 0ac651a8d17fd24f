"""Connections that read while they write, so that an answer that comes before the end of a request is not lost.

A server that refuses an upload answers after its head, and closes without reading the body. The connections of httpcore
read nothing while they write: all that is left of the refusal is a connection that broke.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import httpcore

HELD_MAX: Final = 256 << 10
"""Above so many bytes that were received and not read, nothing more is read from the socket."""
CUT: Final = "cut"
"""Asks a connection whether a part of the request was not sent, because the server had answered before its end."""
_INTERIM: Final = b"HTTP/1.1 1"
"""How an answer begins that another one follows, such as 100 and 103."""


class _Protocol(asyncio.Protocol):
    """Holds what was received until it is read."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.received = bytearray()
        self.ended = False
        self.lost = False
        self.broken = False
        self._reads = True
        self._full = False
        self._changed = asyncio.Event()

    @property
    def has_answer(self) -> bool:
        """Return whether the server has begun an answer that is not an interim one, as far as is known yet."""
        at = 0
        while self.received.startswith(_INTERIM, at):
            end = self.received.find(b"\r\n\r\n", at)
            if end < 0:
                return False
            at = end + 4
        return len(self.received) > at and not _INTERIM.startswith(self.received[at : at + len(_INTERIM)])

    async def until(self, condition: Callable[[], bool], timeout_s: float | None, late: type[Exception]) -> None:
        """Return when the condition holds or the connection is gone; raise `late` if that takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (condition() or self.lost):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise late("nothing in time") from None

    @property
    def accepts(self) -> bool:
        """Return whether more may be written."""
        return not self._full

    def cuts(self, unwritten: int) -> bool:
        """Return whether so many bytes, or some that were written before, stay unsent.

        That is so if the connection broke, and if the server has answered or closed it while they wait.
        """
        waiting = unwritten or self.transport.get_write_buffer_size()
        return self.broken or (waiting > 0 and (self.has_answer or self.lost))

    def taken(self, size: int) -> bytes:
        """Return what was received, so many bytes at most."""
        data = bytes(self.received[:size])
        del self.received[:size]
        if not self._reads and len(self.received) <= HELD_MAX and not self.lost:
            self._reads = True
            self.transport.resume_reading()
        return data

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it

    def data_received(self, data: bytes) -> None:
        """Hold what came."""
        self.received += data
        if self._reads and len(self.received) > HELD_MAX:
            self._reads = False
            self.transport.pause_reading()
        self._changed.set()

    def eof_received(self) -> None:
        """Note that nothing more comes; the transport closes."""
        self.ended = True
        self._changed.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone; what was received before can still be read.

        One that did not break was closed by the server, after all that was written had been sent.
        """
        self.lost, self.broken = True, exc is not None
        self._changed.set()

    def pause_writing(self) -> None:
        """Write no more for now."""
        self._full = True

    def resume_writing(self) -> None:
        """Write on."""
        self._full = False
        self._changed.set()


class Duplex(httpcore.AsyncNetworkStream):
    """A connection of httpcore's that refuses to write on once the server has answered."""

    def __init__(self, protocol: _Protocol) -> None:
        self._protocol = protocol
        self._cut = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the base class's
        """Return what came, nothing at its end; raise ReadError or ReadTimeout."""
        protocol = self._protocol
        await protocol.until(lambda: bool(protocol.received) or protocol.ended, timeout, httpcore.ReadTimeout)
        if not protocol.received and not protocol.ended:
            raise httpcore.ReadError("the connection broke")
        return protocol.taken(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the base class's
        """Write; raise WriteError, after which httpcore reads the answer, if there is one or the connection is gone."""
        protocol = self._protocol
        if not buffer:
            return
        unwritten = len(buffer)
        if not protocol.cuts(unwritten):
            protocol.transport.write(buffer)
            await protocol.until(lambda: protocol.accepts or protocol.has_answer, timeout, httpcore.WriteTimeout)
            unwritten = 0
        if protocol.cuts(unwritten):
            self._cut = True
            raise httpcore.WriteError("the server answered before the end of the request, or closed the connection")

    async def aclose(self) -> None:
        """Close the connection, without what was not sent yet."""
        if self._protocol.transport.get_write_buffer_size():
            self._protocol.transport.abort()
        else:
            self._protocol.transport.close()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the base class's signature
    ) -> httpcore.AsyncNetworkStream:
        """Return the connection with TLS; raise ConnectError or ConnectTimeout."""
        protocol = self._protocol
        try:
            async with asyncio.timeout(timeout):
                started = await asyncio.get_running_loop().start_tls(
                    protocol.transport, protocol, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError:
            protocol.transport.abort()
            raise httpcore.ConnectTimeout("no TLS in time") from None
        except (OSError, ssl.SSLError) as error:
            protocol.transport.abort()
            raise httpcore.ConnectError(str(error)) from error
        assert started is not None
        protocol.transport = started
        return self

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks about the connection, and whether an answer has CUT the request."""
        if info == CUT:
            return self._cut or self._protocol.transport.get_write_buffer_size() > 0
        if info == "is_readable":
            return bool(self._protocol.received) or self._protocol.ended or self._protocol.lost
        names = {"client_addr": "sockname", "server_addr": "peername"}
        return self._protocol.transport.get_extra_info(names.get(info, info))


async def opened(host: str, port: int, local_address: str | None, options: Iterable[Any] | None) -> Duplex:
    """Return a connection to an address; raise ConnectError. The deadline is the caller's."""
    local = None if local_address is None else (local_address, 0)
    try:
        _, protocol = await asyncio.get_running_loop().create_connection(_Protocol, host, port, local_addr=local)
    except OSError as error:
        raise httpcore.ConnectError(str(error)) from error
    for option in options or ():
        protocol.transport.get_extra_info("socket").setsockopt(*option)
    return Duplex(protocol)
