"""A link passes bytes on until it is told to go wrong, and then each fault is what its name says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.links import DENIAL, FORBIDDEN, GARBAGE, Link, link
from tests.support.ports import free_port

pytestmark = pytest.mark.anyio
SOON_S, LATE_S = 0.3, 10.0
"""How long silence is listened to, and how long an answer is waited for."""


class Echo:
    """A server that answers each line with itself, and counts what it received."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while line := await reader.readline():
                self.lines.append(line)
                writer.write(line)
        except OSError:
            pass
        finally:
            await ended(writer)


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[Echo, Link, asyncio.StreamReader, asyncio.StreamWriter]]:
    """Yield a server, the link to it, and a connection that has passed a line."""
    echo = Echo()
    server = await asyncio.start_server(echo.connected, "127.0.0.1", 0)
    try:
        async with link(lambda: [server.sockets[0].getsockname()[1]]) as made:
            reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
            assert await said(reader, writer, b"before\n") == b"before\n"
            try:
                yield echo, made, reader, writer
            finally:
                await ended(writer)
    finally:
        server.close()
        await server.wait_closed()


async def ended(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and return when it is closed."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def said(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes, within_s: float = LATE_S
) -> bytes | None:
    """Return what is answered to a line: nothing where the connection is reset, None where it is silent so long."""
    try:
        writer.write(line)
        return await asyncio.wait_for(reader.read(1000), within_s)
    except TimeoutError:
        return None
    except OSError:
        return b""


async def said_anew(made: Link, line: bytes, within_s: float = LATE_S) -> bytes | None:
    """Return what is answered on a new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", made.port)
    try:
        return await said(reader, writer, line, within_s)
    finally:
        await ended(writer)


@pytest.mark.parametrize("mode", ["cut", "refuse", "lose_answers", "garble", "forbid"])
async def test_open_connections_are_reset(mode: str) -> None:
    """Reset what is open when such a fault begins."""
    async with linked() as (_, made, reader, writer):
        made.go_wrong(mode)
        assert await said(reader, writer, b"during\n") == b""
        assert made.harmed > 0


@pytest.mark.parametrize(
    ("mode", "answer", "arrives"),
    [
        ("cut", b"during\n", True),
        ("refuse", b"", False),
        ("lose_answers", b"", True),
        ("garble", GARBAGE, True),
        ("forbid", FORBIDDEN + DENIAL, False),
        ("hang", None, False),
        ("half_open", None, False),
        ("slow", b"during\n", True),
    ],
)
async def test_a_new_connection_meets_the_fault(mode: str, answer: bytes | None, arrives: bool) -> None:
    """Answer, garble, reset or hang as the mode says; let the request arrive or not."""
    async with linked() as (echo, made, _, __):
        made.go_wrong(mode)
        assert await said_anew(made, b"during\n", SOON_S if answer is None else LATE_S) == answer
        assert (b"during\n" in echo.lines) == arrives


@pytest.mark.parametrize("mode", ["refuse", "lose_answers", "garble", "hang", "half_open", "slow", "forbid"])
async def test_a_new_connection_works_after_the_fault(mode: str) -> None:
    """Pass everything on again when the fault is over."""
    async with linked() as (_, made, __, ___):
        made.go_wrong(mode)
        made.heal()
        assert await said_anew(made, b"after\n") == b"after\n"


@pytest.mark.parametrize(("mode", "answer"), [("hang", b""), ("half_open", None)])
async def test_what_hung_is_reset_or_stays_silent(mode: str, answer: bytes | None) -> None:
    """Reset what hung when the fault is over; leave what is half open silent for a while longer."""
    async with linked() as (echo, made, reader, writer):
        made.go_wrong(mode)
        assert await said(reader, writer, b"during\n", SOON_S) is None
        made.heal()
        assert await said(reader, writer, b"after\n", SOON_S if answer is None else LATE_S) == answer
        assert echo.lines == [b"before\n"]


async def test_the_first_target_that_takes_connections_is_used() -> None:
    """Lead to the next port where nothing listens on the first; reset where none listens."""
    echo = Echo()
    server = await asyncio.start_server(echo.connected, "127.0.0.1", 0)
    targets = [free_port(), server.sockets[0].getsockname()[1]]
    try:
        async with link(lambda: targets) as made:
            assert await said_anew(made, b"one\n") == b"one\n"
            del targets[1]
            assert await said_anew(made, b"two\n") == b""
    finally:
        server.close()
        await server.wait_closed()
