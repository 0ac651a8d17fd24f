"""httpx over connections whose names relay's own resolver looks up, so that no look-up waits for another one's.

httpx has no setting for that; httpcore, which it stands on, has one (its network backend).
"""

import asyncio
import ssl
from collections.abc import Iterable
from typing import Any, Final

import httpcore
import httpx

from relay.outbound import dialing
from relay.outbound.resolver import NAME_FAILED, Address, NameFailed, Resolver

NAME_LATE: Final = "the host's name was not looked up in time"


class Transport(httpx.AsyncHTTPTransport):
    """httpx's transport, but for where its connections come from; each call has a connection of its own."""

    def __init__(self, resolver: Resolver, tls: ssl.SSLContext, connections_max: int) -> None:
        # The base class makes a pool of its own, and takes no other: this is all that it does.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=connections_max,
            max_keepalive_connections=0,
            http1=True,
            http2=False,
            network_backend=_Backend(resolver),
        )


class _Backend(httpcore.AsyncNetworkBackend):
    """Connects to a host by the addresses that the resolver knows of it."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as the base class has it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A stream to the first address that takes a connection; httpcore's ConnectError or ConnectTimeout else."""
        resolved = False

        async def connect(address: Address) -> httpcore.AsyncNetworkStream:
            return await self._inner.connect_tcp(address.host, port, None, local_address, socket_options)

        def discard(stream: httpcore.AsyncNetworkStream) -> None:
            closing.append(asyncio.ensure_future(stream.aclose()))

        closing: list[asyncio.Future[None]] = []
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolver.addresses(host)
                resolved = True
                return await dialing.first(addresses, connect, discard)
        except NameFailed:
            raise httpcore.ConnectError(NAME_FAILED) from None
        except TimeoutError:
            raise httpcore.ConnectTimeout("no connection in time" if resolved else NAME_LATE) from None
        except httpcore.ConnectError as error:
            raise httpcore.ConnectError(dialing.failure_class(error)) from error

    async def sleep(self, seconds: float) -> None:
        """As the loop does it."""
        await asyncio.sleep(seconds)
