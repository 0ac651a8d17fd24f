"""Opens a TCP connection to one of a host's addresses by RFC 8305 ("Happy Eyeballs").

The addresses alternate by family, in the system's order. The next one is tried when the previous one fails, or has not
connected within DELAY_S; the first connection is used. Deadlines, TLS and the URL policy are the caller's.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from relay.outbound.resolver import NAME_FAILED, Address, NameFailed
from relay.outbound.trust import tls_failure

DELAY_S: Final = 0.25
ADDRESSES_TRIED_MAX: Final = 8
TLS_CLOSE_S: Final = 1.0
Opened = TypeVar("Opened")
Spoken = TypeVar("Spoken", bound=asyncio.Protocol)

_REASONS: Final = {
    errno.ECONNREFUSED: "the connection was refused",
    errno.ECONNRESET: "the connection was reset",
    errno.ECONNABORTED: "the connection was reset",
    errno.EPIPE: "the connection was closed",
    errno.ETIMEDOUT: "the connection timed out",
    errno.EHOSTUNREACH: "the host is unreachable",
    errno.EHOSTDOWN: "the host is unreachable",
    errno.ENETUNREACH: "the network is unreachable",
    errno.EADDRNOTAVAIL: "the network is unreachable",
    errno.EAFNOSUPPORT: "the network is unreachable",
    errno.EACCES: "this machine does not allow the connection",
    errno.EPERM: "this machine does not allow the connection",
    errno.EMFILE: "relay has no file descriptor left",
    errno.ENFILE: "this machine has no file descriptor left",
}


async def open_socket(addresses: Sequence[Address], port: int) -> socket.socket:
    """Return a connected socket. Raise the first address's OSError if no address accepts a connection.

    The caller sets the deadline.
    """

    async def connect(address: Address) -> socket.socket:
        opened = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            opened.setblocking(False)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(opened, (address.host, port))
        except BaseException:
            opened.close()
            raise
        return opened

    return await race(addresses, connect, socket.socket.close)


class TLSFailed(OSError):
    """The TLS handshake failed; `str()` is the reason, without names and addresses."""


async def start_protocol(
    opened: socket.socket, make: Callable[[], Spoken], tls: ssl.SSLContext | None, host: str
) -> Spoken:
    """Return a protocol over a connected socket, with TLS for this host if `tls` is given; raise TLSFailed.

    The caller sets the deadline.
    """
    loop = asyncio.get_running_loop()
    if tls is None:
        _, protocol = await loop.create_connection(make, sock=opened)
        return protocol
    try:
        _, protocol = await loop.create_connection(
            make, sock=opened, ssl=tls, server_hostname=host, ssl_shutdown_timeout=TLS_CLOSE_S
        )
    except (ssl.SSLError, ssl.CertificateError, ConnectionError) as error:
        raise TLSFailed(tls_failure(error)) from None
    return protocol


async def race(
    addresses: Sequence[Address], connect: Callable[[Address], Awaitable[Opened]], discard: Callable[[Opened], Any]
) -> Opened:
    """Return the result of the first successful `connect`; call `discard` on any later one.

    Raise the first address's error if every address fails.
    """
    order = alternate_families(addresses)[:ADDRESSES_TRIED_MAX]
    if len(order) == 1:
        return await connect(order[0])
    tries: list[asyncio.Future[Opened]] = []
    try:
        while True:
            if len(tries) < len(order):
                tries.append(asyncio.ensure_future(connect(order[len(tries)])))
            timeout_s = DELAY_S if len(tries) < len(order) else None
            pending = [one for one in tries if not one.done()]
            if pending:
                await asyncio.wait(pending, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for one in tries:
                if one.done() and one.exception() is None:
                    tries.remove(one)
                    return one.result()
            if len(tries) == len(order) and all(one.done() for one in tries):
                return tries[0].result()  # raises the first address's error
    finally:
        for one in tries:
            one.cancel()
            one.add_done_callback(lambda late: _discard_late(late, discard))


def _discard_late(late: "asyncio.Future[Opened]", discard: Callable[[Opened], Any]) -> None:
    """Close a connection that lost the race; retrieve the error of a failed one, so that asyncio does not log it."""
    if not late.cancelled() and late.exception() is None:
        discard(late.result())


def alternate_families(addresses: Iterable[Address]) -> list[Address]:
    """Return the addresses with alternating families, beginning with the first address's family."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    longest = max(map(len, families.values()), default=0)
    return [family[place] for place in range(longest) for family in families.values() if place < len(family)]


def failure_reason(error: BaseException | None, otherwise: str = "no connection") -> str:
    """Return the reason of a connection failure without addresses: the innermost known one of the exception chain."""
    seen: set[int] = set()
    reason = otherwise
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, NameFailed):
            return NAME_FAILED
        if isinstance(error, TLSFailed):
            return str(error)
        if isinstance(error, ssl.SSLError | ssl.CertificateError):
            return tls_failure(error)
        number = getattr(error, "errno", None)
        reason = _REASONS.get(number, reason) if isinstance(number, int) else reason
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = inner or error.__cause__ or error.__context__
    return reason
