"""Makes a TCP connection to one of a name's addresses: both families raced, the next one where one fails or is slow.

RFC 8305 ("Happy Eyeballs"): the addresses take turns by family, in the system's order; while one has no answer the next
is tried after a quarter of a second, and the first connection counts.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from relay.outbound.resolver import NAME_FAILED, Address, NameFailed
from relay.outbound.trust import tls_words

DELAY_S: Final = 0.25
TRIED_MAX: Final = 8
Made = TypeVar("Made")

_CLASSES: Final = {
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


async def connected(addresses: Sequence[Address], port: int) -> socket.socket:
    """A connected socket; the first address's OSError where none takes a connection. The caller sets the deadline."""

    async def connect(address: Address) -> socket.socket:
        return await _connect(address, port)

    return await first(addresses, connect, socket.socket.close)


async def first(
    addresses: Sequence[Address], connect: Callable[[Address], Awaitable[Made]], discard: Callable[[Made], Any]
) -> Made:
    """What `connect` makes of the first address that answers; a second one that answers too is discarded."""
    order = in_turn(addresses)[:TRIED_MAX]
    if len(order) == 1:
        return await connect(order[0])
    tries: list[asyncio.Future[Made]] = []
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
                return tries[0].result()  # raises what came of the first address
    finally:
        for one in tries:
            one.cancel()
            one.add_done_callback(lambda made: _drop(made, discard))


def _drop(made: "asyncio.Future[Made]", discard: Callable[[Made], Any]) -> None:
    """Closes a connection that came too late, and has seen the error of one that did not come."""
    if not made.cancelled() and made.exception() is None:
        discard(made.result())


def in_turn(addresses: Iterable[Address]) -> list[Address]:
    """The addresses with their families in turn, beginning with the first one's."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address.family, []).append(address)
    longest = max(map(len, families.values()), default=0)
    return [family[place] for place in range(longest) for family in families.values() if place < len(family)]


async def _connect(address: Address, port: int) -> socket.socket:
    """One connection."""
    made = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, (address.host, port))
    except BaseException:
        made.close()
        raise
    return made


def failure_class(error: BaseException | None, otherwise: str = "no connection") -> str:
    """Which kind of failure it was, in words that hold no address; of a chain, the innermost kind that is known."""
    seen: set[int] = set()
    words = otherwise
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, NameFailed):
            return NAME_FAILED
        if isinstance(error, ssl.SSLError | ssl.CertificateError):
            return tls_words(error)
        number = getattr(error, "errno", None)
        words = _CLASSES.get(number, words) if isinstance(number, int) else words
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else None
        error = inner or error.__cause__ or error.__context__
    return words
