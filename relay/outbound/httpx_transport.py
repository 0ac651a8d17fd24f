"""An httpx transport that resolves names by relay's resolver, so that a hanging lookup does not delay the others.

httpx has no setting for this; httpcore below it has one, its network backend.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import httpcore
import httpx

from relay.outbound import dialing, duplex
from relay.outbound.resolver import LOOKUP_TIMED_OUT, NAME_FAILED, Address, NameFailed, Resolver
from relay.security.url_policy import AddressPolicy

Connect = Callable[[str, int, str | None, Iterable[Any] | None], Awaitable[httpcore.AsyncNetworkStream]]
"""Returns a stream to an address and port, from a local address, with options of the socket."""


class AddressRefused(Exception):
    """The host has an address that the URL policy refuses; nothing was sent."""


class Transport(httpx.AsyncHTTPTransport):
    """An httpx transport with relay's network backend; each call opens its own connection.

    With a `policy` it connects only where that allows every address of the host; AddressRefused otherwise.
    With `early_answers` an answer that comes before the end of a request ends that, and is returned.
    """

    def __init__(
        self,
        resolver: Resolver,
        tls: ssl.SSLContext,
        connections_max: int,
        policy: AddressPolicy | None = None,
        *,
        early_answers: bool = False,
    ) -> None:
        # Creating its own pool is all that the base class's __init__ does, and it accepts no other.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            max_connections=connections_max,
            max_keepalive_connections=0,
            http1=True,
            http2=False,
            network_backend=_Backend(resolver, policy, duplex.opened if early_answers else None),
        )


class _Backend(httpcore.AsyncNetworkBackend):
    """Connects to a host by the addresses that the resolver returns, if the policy allows all of them."""

    def __init__(self, resolver: Resolver, policy: AddressPolicy | None, connect: Connect | None) -> None:
        self._resolver = resolver
        self._policy = policy
        self._connect = connect or _connect

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the base class's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a stream to the first address that accepts a connection.

        Raise httpcore's ConnectError or ConnectTimeout, which httpx translates to its own, or AddressRefused.
        """
        resolved = False

        async def connect(address: Address) -> httpcore.AsyncNetworkStream:
            return await self._connect(address.host, port, local_address, socket_options)

        def discard(stream: httpcore.AsyncNetworkStream) -> None:
            closing.append(asyncio.ensure_future(stream.aclose()))

        closing: list[asyncio.Future[None]] = []
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolver.addresses(host)
                resolved = True
                if self._policy is not None and not all(self._policy.may_connect(one.host) for one in addresses):
                    raise AddressRefused
                return await dialing.race(addresses, connect, discard)
        except NameFailed:
            raise httpcore.ConnectError(NAME_FAILED) from None
        except TimeoutError:
            raise httpcore.ConnectTimeout("no connection in time" if resolved else LOOKUP_TIMED_OUT) from None
        except httpcore.ConnectError as error:
            raise httpcore.ConnectError(dialing.failure_reason(error)) from error

    async def sleep(self, seconds: float) -> None:
        """Sleep by asyncio, which relay always runs on."""
        await asyncio.sleep(seconds)


async def _connect(
    host: str, port: int, local_address: str | None, options: Iterable[Any] | None
) -> httpcore.AsyncNetworkStream:
    """Return a stream of httpcore's own, which reads only what is waited for."""
    return await httpcore.AnyIOBackend().connect_tcp(host, port, None, local_address, options)
