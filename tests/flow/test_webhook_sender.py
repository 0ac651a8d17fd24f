"""relay's own sender against raw sockets: what goes out, what an answer is worth, which connection is used."""

import asyncio
import errno
import re
import resource
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.delivery import Outcome
from relay.model.provider_http import ProviderRequest
from relay.outbound import dialing, webhook_sender
from relay.outbound.connection import (
    EXCERPT_BYTES,
    FRAMING_FACTOR,
    HEAD_MAX_BYTES,
    HEADERS_NOTED_BYTES,
    INTERIM_MAX,
    RESPONSE_MAX_BYTES,
)
from relay.outbound.pool import AGE_MAX_S
from relay.outbound.provider_client import NotSent, ProviderClient
from relay.outbound.resolver import Address, LookupOptions, Resolver
from relay.outbound.trust import Trust
from relay.outbound.webhook_sender import CONNECT_S, PostResult, WebhookSender
from relay.security.url_policy import AddressPolicy
from relay.settings import parse_networks
from tests.flow.test_delivery import OK, self_signed
from tests.flow.test_receivers import certificate
from tests.support.rows import rows

pytestmark = pytest.mark.anyio

OPEN = AddressPolicy(parse_networks("127.0.0.0/8,::1/128"), True, frozenset())
HOUR = timedelta(hours=1)
TWO = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both loops: relay is served by uvloop, and its commands run on Python's own."""
    return "asyncio", {"use_uvloop": request.param}


class Request:
    """A request as it came over the wire."""

    def __init__(self, head: bytes, body: bytes, connection: int) -> None:
        self.line, *fields = head.decode("latin-1").split("\r\n")[:-2]
        self.headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        self.body = body
        self.connection = connection


Talk = Callable[[Request, asyncio.StreamWriter], Awaitable[bool]]


class Server:
    """A receiver on raw sockets: `talk` answers each request, and says whether the connection goes on."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.port = 0
        self.heard: list[Request] = []
        self.connections = 0
        self.open: set[int] = set()
        self.changed = asyncio.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until one side ends it."""
        self.connections += 1
        number = self.connections
        self.open.add(number)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
                body = await reader.readexactly(int(lengths[0].partition(b":")[2])) if lengths else b""
                self.heard.append(Request(head, body, number))
                if not await self.talk(self.heard[-1], writer):
                    break
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()
            self.open.discard(number)
            self.changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Return when a connection's end brought it so far."""
        async with asyncio.timeout(60):
            while not reached():
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def serving(talk: Talk, context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Yield a running server."""
    server = Server(talk)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server


def answers(*texts: bytes, goes_on: bool = True) -> Talk:
    """Write these answers, one after another for each request, the last one again and again."""
    left = list(texts)

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()
        return goes_on

    return talk


async def reset(writer: asyncio.StreamWriter) -> None:
    """Reset the connection."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def sender_of(
    *, resolver: Resolver | None = None, tls: ssl.SSLContext | None = None, most: int = 10, keepalive_s: float = 30
) -> WebhookSender:
    """Return a sender that may call this machine."""
    return WebhookSender(OPEN, resolver or Resolver(), Trust(tls), connections_max=most, keepalive_s=keepalive_s)


def leading_to(*addresses: str) -> Resolver:
    """Return a resolver for which every name has these addresses."""
    found = [Address(int(socket.AF_INET6 if ":" in one else socket.AF_INET), one) for one in addresses]
    return Resolver(LookupOptions(cache_s=0), lookup=lambda _: found)


async def post(sender: WebhookSender, url: str, body: bytes = b"{}", timeout_s: float = 5.0) -> PostResult:
    """One attempt."""
    return await sender.post(url, {"webhook-id": "evt_1"}, body, timeout_s)


@rows(
    "target",
    [
        "/", "/plain?x=1", "/a%2Fb%2fc", "/%7Euser/~user", "/a/../b/./c", "/a//b", "/?a=1+2&b=1%202", "/q?a=;b&c",
        "/q?x=%41", "/q?u=a@b:c", "/(x)!*'", "/q?json={\"a\":[1]}", "/a|b^c`d", "/q?a?b??", "/;p=1", "/%zz%",
    ],
)  # fmt: skip
async def test_a_url_goes_out_as_it_was_given(target: str) -> None:
    """Send path and query byte for byte."""
    async with serving(answers(OK)) as server, sender_of() as sender:
        assert (await post(sender, server.url + target)).outcome is Outcome.OK
    assert server.heard[0].line == f"POST {target} HTTP/1.1"
    assert server.heard[0].headers["host"] == f"127.0.0.1:{server.port}"


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#\\"), max_size=60))
async def test_whatever_may_stand_in_a_request_line_does(rest: str) -> None:
    """Keep every printable character of ASCII that an endpoint's URL may hold."""
    async with serving(answers(OK)) as server, sender_of() as sender:
        assert (await post(sender, f"{server.url}/{rest}")).outcome is Outcome.OK
    assert server.heard[0].line == f"POST /{rest} HTTP/1.1"


@rows("rest", ["/a b", "/a\tb", "/a\r\nx: y", "/é", "/a#b", "/a\\b", "/a\x00", "/\x7f", "/\u2028"])
async def test_what_cannot_stand_in_a_request_line_is_refused(rest: str) -> None:
    """Refuse blanks, control characters, fragments and what is not ASCII, and open no connection for it."""
    async with serving(answers(OK)) as server, sender_of() as sender:
        answer = await post(sender, server.url + rest)
    assert answer.outcome is Outcome.ADDRESS_REFUSED
    assert server.connections == 0


@rows(("rest", "target"), [("", "/"), ("?a=1", "/?a=1")])
async def test_an_empty_path_is_the_root(rest: str, target: str) -> None:
    """Ask for `/` where the URL has no path, since a request line needs one."""
    async with serving(answers(OK)) as server, sender_of() as sender:
        await post(sender, server.url + rest)
    assert server.heard[0].line == f"POST {target} HTTP/1.1"


async def test_headers_go_out_as_they_are_and_in_one_line_each() -> None:
    """Send each header as it was given; refuse one that would become two."""
    async with serving(answers(OK)) as server, sender_of() as sender:
        await sender.post(server.url, {"X-Team": "films", "content-length": "99"}, b"{}", 5)
        broken = await sender.post(server.url, {"x": "a\r\ny: b"}, b"{}", 5)
    assert server.heard[0].headers == {"host": f"127.0.0.1:{server.port}", "x-team": "films", "content-length": "2"}
    assert (broken.outcome, broken.error) == (Outcome.UNREACHABLE, "a header of the endpoint cannot be sent")
    assert len(server.heard) == 1


HEADED = b"HTTP/1.1 200 OK\r\n%b\r\ncontent-length: 2\r\n\r\nok"
PAGE = b"x" * RESPONSE_MAX_BYTES
FRAMED_MAX_BYTES = FRAMING_FACTOR * RESPONSE_MAX_BYTES
LONG = f"its body is longer than {RESPONSE_MAX_BYTES} bytes"


@pytest.mark.parametrize(
    ("text", "note"),
    [
        pytest.param(TWO, None, id="plain"),
        pytest.param(b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", None, id="no reason"),
        pytest.param(b"HTTP/1.1 200 \xe9t\xe9\r\ncontent-length: 2\r\n\r\nok", None, id="latin-1 reason"),
        pytest.param(HEADED % b"x: caf\xe9", None, id="latin-1 header"),
        pytest.param(HEADED % b"set-cookie: =;;;\x01bad", None, id="control character in a header"),
        pytest.param(HEADED % b"x: a\r\n folded", None, id="folded header"),
        pytest.param(HEADED % b"connection: upgrade\r\nupgrade: h2c", None, id="offers an upgrade"),
        pytest.param(b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok", None, id="bare LF"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nok", None, id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nok", None, id="no length"),
        pytest.param(b"\r\n" + TWO, None, id="empty line first"),
        pytest.param(b"HTTP/1.1 299 Fine\r\ncontent-length: 0\r\n\r\n", None, id="299"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + TWO, None, id="100 first"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + TWO, None, id="103 first"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;ext=1\r\no\r\n1\r\nk\r\n0\r\nx-sum: 1\r\n\r\n",
            None,
            id="chunked with a trailer",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nok", None, id="no gzip"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 16384\r\n\r\n" + PAGE, None, id="16 KiB"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 16385\r\n\r\nx" + PAGE, LONG, id="16 KiB and one"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\nx" + PAGE, LONG, id="too long without a length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"e" * 2_000_000, LONG, id="endless extension"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nok", "its body was cut", id="cut"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel", "its body was cut", id="cut chunk"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "its framing is not HTTP", id="bad chunk"
        ),
        pytest.param(HEADED % b"x-name : v", "its framing is not HTTP", id="blank before the colon"),
        pytest.param(HEADED % b"content-length: 2", "its framing is not HTTP", id="two lengths"),
        pytest.param(HEADED % b"transfer-encoding: chunked", "its framing is not HTTP", id="length and chunked"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", "its framing is not HTTP", id="huge"
        ),
        pytest.param(
            b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello", "HTTP 204 has no body, but one came", id="204"
        ),
        pytest.param(TWO + TWO, "more came than one answer", id="two answers"),
        pytest.param(TWO + b"garbage", "more came than one answer", id="bytes behind it"),
    ],
)  # fmt: skip
async def test_a_2xx_counts_whatever_it_looks_like(text: bytes, note: str | None) -> None:
    """Take the status at its word; what is odd about the rest is a note, and the next request gets a new connection."""
    async with serving(answers(text, goes_on=False)) as server, sender_of() as sender:
        answer = await post(sender, server.url)
    status = int(re.findall(rb"HTTP/1\.\d (\d{3})", text)[0 if text.endswith(TWO + TWO) else -1])
    assert (answer.outcome, answer.status_code, answer.error) == (Outcome.OK, status, note)
    assert len(answer.excerpt or "") <= EXCERPT_BYTES


@rows(
    ("text", "words"),
    [
        (b"", "the connection was closed before a whole answer came"),
        (b"HTTP/1.1 200 OK\r\ncontent-", "the connection was closed before a whole answer came"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/2 200\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2000 OK\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "the connection was closed before a whole answer came"),
    ],
)
async def test_what_has_no_status_is_no_answer(text: bytes, words: str) -> None:
    """Fail an attempt that got no whole head of an answer."""
    async with serving(answers(text, goes_on=False)) as server, sender_of() as sender:
        answer = await post(sender, server.url)
    assert (answer.outcome, answer.status_code, answer.error) == (Outcome.UNREACHABLE, None, words)


@rows(
    ("status", "outcome", "words"),
    [
        (302, Outcome.BAD_STATUS, "HTTP 302, and redirects are not followed"),
        (500, Outcome.BAD_STATUS, "HTTP 500"),
        (199, Outcome.UNREACHABLE, None),
        (300, Outcome.BAD_STATUS, "HTTP 300, and redirects are not followed"),
        (410, Outcome.ENDPOINT_GONE, "HTTP 410"),
        (101, Outcome.BAD_STATUS, "HTTP 101"),
    ],
)
async def test_other_statuses_fail_in_their_own_way(status: int, outcome: Outcome, words: str | None) -> None:
    """Fail what is no 2xx, and tell 410 apart."""
    text = b"HTTP/1.1 %d X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n" % status
    async with serving(answers(text, goes_on=False)) as server, sender_of() as sender:
        answer = await post(sender, server.url)
    assert answer.outcome is outcome
    assert words is None or answer.error == words
    assert server.connections == 1


@rows(
    ("size", "note"),
    [
        (HEADERS_NOTED_BYTES, None),
        (HEADERS_NOTED_BYTES + 1, f"its headers are longer than {HEADERS_NOTED_BYTES} bytes"),
    ],
)
async def test_long_headers_are_remarked_on(size: int, note: str | None) -> None:
    """Count an answer with headers that other clients would refuse, and say so."""
    length = b"content-length: 0\r\n"
    field = b"x: " + b"y" * (size - len(length) - 5) + b"\r\n"
    text = b"HTTP/1.1 200 OK\r\n" + length + field + b"\r\n"
    async with serving(answers(text)) as server, sender_of() as sender:
        answer = await post(sender, server.url)
    assert (answer.outcome, answer.error) == (Outcome.OK, note)


@rows(("size", "outcome"), [(HEAD_MAX_BYTES, Outcome.OK), (HEAD_MAX_BYTES + 1, Outcome.UNREACHABLE)])
async def test_a_head_has_a_bound(size: int, outcome: Outcome) -> None:
    """Give up an answer whose head does not end within its bound, all of it counted."""
    start = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: "
    head = start + b"y" * (size - len(start))  # so much came, and the head has not ended

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(head)
        await writer.drain()
        if outcome is Outcome.OK:
            await asyncio.sleep(0.05)  # as a piece of its own
            writer.write(b"\r\n\r\n")
        return True

    async with serving(talk) as server, sender_of() as sender:
        answer = await post(sender, server.url)
    assert answer.outcome is outcome, answer
    if outcome is Outcome.UNREACHABLE:
        assert answer.error == f"the answer's headers are longer than {HEAD_MAX_BYTES} bytes"


@rows(("size", "note"), [(FRAMED_MAX_BYTES, None), (FRAMED_MAX_BYTES + 1, LONG)])
async def test_the_framing_of_a_body_has_a_bound(size: int, note: str | None) -> None:
    """Read no further where a chunk's extension makes a small body endless."""

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)  # the head is a piece of its own
        writer.write(b"1;x=" + b"y" * (size - 4))
        await writer.drain()
        await asyncio.sleep(0.05)  # and so is the end
        writer.write(b"\r\nz\r\n0\r\n\r\n")
        return True

    async with serving(talk) as server, sender_of() as sender:
        answer = await post(sender, server.url)
    assert (answer.outcome, answer.error) == (Outcome.OK, note)


@rows(("number", "outcome"), [(INTERIM_MAX, Outcome.OK), (INTERIM_MAX + 1, Outcome.UNREACHABLE)])
async def test_interim_answers_have_a_bound(number: int, outcome: Outcome) -> None:
    """Skip interim answers, but not any number of them."""

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * number)
        await writer.drain()
        await asyncio.sleep(0.05)  # the answer that counts is a piece of its own
        writer.write(OK)
        return True

    async with serving(talk) as server, sender_of() as sender:
        assert (await post(sender, server.url)).outcome is outcome


async def test_an_interim_answers_headers_are_not_the_answers() -> None:
    """Take `retry-after` and `webhook-delivery` from the answer that counts, and from no other and no trailer."""
    text = (
        b"HTTP/1.1 103 Early Hints\r\nretry-after: 1\r\nwebhook-delivery: disable\r\n\r\n"
        b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\ntransfer-encoding: chunked\r\n\r\n"
        b"0\r\nwebhook-delivery: disable\r\n\r\n"
    )
    async with serving(answers(text)) as server, sender_of() as sender:
        answer = await post(sender, server.url)
    assert (answer.status_code, answer.retry_after, answer.control) == (503, "7", None)


async def test_a_connection_is_used_again() -> None:
    """Send the next request over the connection that has answered."""
    async with serving(answers(TWO)) as server, sender_of() as sender:
        for _ in range(3):
            assert (await post(sender, server.url)).outcome is Outcome.OK
    assert [request.connection for request in server.heard] == [1, 1, 1]


@rows(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        TWO + TWO,
        TWO + b"x",
        b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + b"x" * 2_000_000,
    ],
)
async def test_a_connection_that_may_hold_more_is_not_used_again(text: bytes) -> None:
    """Close a connection whose next bytes could be taken for the next answer."""
    async with serving(answers(text)) as server, sender_of() as sender:
        for _ in range(2):
            assert (await post(sender, server.url)).outcome is Outcome.OK
        await server.until(lambda: not server.open)
    assert [request.connection for request in server.heard] == [1, 2]


@rows("stray", [TWO, b"HTTP/1.0 408 Request Time-out\r\nconnection: close\r\n\r\n", b"x"])
async def test_bytes_on_an_idle_connection_close_it_and_count_for_nothing(stray: bytes) -> None:
    """Close an idle connection that says something; the next request goes elsewhere and has its own answer."""

    async def talk(request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(TWO if request.connection == 1 else b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n")
        if request.connection == 1:
            asyncio.get_running_loop().call_later(0.05, writer.write, stray)
        return True

    async with serving(talk) as server, sender_of() as sender:
        assert (await post(sender, server.url)).outcome is Outcome.OK
        await server.until(lambda: not server.open)
        second = await post(sender, server.url)
    assert (second.status_code, [request.connection for request in server.heard]) == (500, [1, 2])


async def test_bytes_that_wait_unread_are_nobodys_answer_either() -> None:
    """Look into a connection before it is used again: what waits there came before the request."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        made: list[socket.socket] = []

        def serve(text: bytes) -> None:
            connection, _ = listening.accept()
            made.append(connection)
            connection.recv(65_536)
            connection.sendall(text)

        loop, url = asyncio.get_running_loop(), f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with sender_of() as sender:
            serving_one = loop.run_in_executor(None, serve, TWO)
            assert (await post(sender, url)).status_code == 200
            await serving_one
            serving_one = loop.run_in_executor(None, serve, b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n")
            made[0].sendall(TWO)  # in the kernel before the loop comes round to read it
            assert (await post(sender, url)).status_code == 500
            await serving_one
        for connection in made:
            connection.close()


@rows("end", ["closed", "reset", "408"])
async def test_a_kept_connection_that_is_over_is_replaced_within_the_attempt(end: str) -> None:
    """Send once more, with the same id, where a kept connection breaks before a byte of an answer."""

    async def talk(request: Request, writer: asyncio.StreamWriter) -> bool:
        if len(server.heard) != 2:
            writer.write(TWO)
            return True
        if end == "reset":
            await reset(writer)
        if end == "408":
            writer.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        return False

    async with serving(talk) as server, sender_of() as sender:
        outcomes = [(await post(sender, server.url)).outcome for _ in range(2)]
    assert outcomes == [Outcome.OK, Outcome.OK]
    assert [request.connection for request in server.heard] == [1, 1, 2]
    assert {request.headers["webhook-id"] for request in server.heard} == {"evt_1"}


async def test_it_is_replaced_once() -> None:
    """Fail the attempt when the new connection ends as the kept one did."""

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        if len(server.heard) == 1:
            writer.write(TWO)
        return len(server.heard) == 1

    async with serving(talk) as server, sender_of() as sender:
        assert (await post(sender, server.url)).outcome is Outcome.OK
        assert (await post(sender, server.url)).outcome is Outcome.UNREACHABLE
    assert len(server.heard) == 3


@rows("text", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_an_answer_that_began_is_not_asked_for_again(text: bytes) -> None:
    """Send nothing twice once a byte of an answer has come."""

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(TWO if len(server.heard) == 1 else text)
        await writer.drain()
        return len(server.heard) == 1

    async with serving(talk) as server, sender_of() as sender:
        await post(sender, server.url)
        assert (await post(sender, server.url)).outcome is Outcome.UNREACHABLE
    assert len(server.heard) == 2


async def test_a_408_on_a_new_connection_is_an_answer() -> None:
    """Take a 408 at its word where the request was surely the first."""
    text = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"
    async with serving(answers(text, goes_on=False)) as server, sender_of() as sender:
        answer = await post(sender, server.url)
    assert (answer.outcome, answer.status_code, len(server.heard)) == (Outcome.BAD_STATUS, 408, 1)


async def test_an_answer_may_come_before_the_request_was_taken() -> None:
    """Take an early answer, and leave the rest of the request unsent; nothing of it is buffered for long."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        await gone.wait()
        writer.transport.abort()

    gone = asyncio.Event()
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening, sender_of() as sender:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        answer = await post(sender, url, bytes(20_000_000))
        gone.set()
    assert (answer.status_code, len(sender.pool)) == (413, 0)


async def test_one_deadline_is_over_everything() -> None:
    """End an attempt in time, wherever it hangs, and say where."""
    blocked = threading.Event()

    def look(host: str) -> list[Address]:
        if host == "hangs.example.com":
            blocked.wait(5)
        return [Address(int(socket.AF_INET), "127.0.0.1")]

    async def silent(_: Request, __: asyncio.StreamWriter) -> bool:
        await over.wait()
        return False

    over = asyncio.Event()
    async with serving(silent) as server, sender_of(resolver=Resolver(lookup=look)) as sender:
        loop = asyncio.get_running_loop()
        for url, words in (
            (f"http://hangs.example.com:{server.port}/", "the host's name was not looked up in time"),
            (f"https://other.example.com:{server.port}/", "no TLS connection in time"),
            (f"http://other.example.com:{server.port}/", "no answer within 0.2 s"),
        ):
            began_s = loop.time()
            answer = await post(sender, url, timeout_s=0.2)
            assert (answer.outcome, answer.error) == (Outcome.TIMEOUT, words)
            assert loop.time() - began_s < 2
        over.set()
    blocked.set()


async def test_an_answer_that_drips_ends_at_the_deadline() -> None:
    """End an attempt in time though its answer's head keeps coming, a byte now and then."""

    async def drips(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nx: ")
        while not writer.transport.is_closing():
            writer.write(b"y")
            await asyncio.sleep(0.01)  # the pace of the drip: much less than the deadline
        return False

    async with serving(drips) as server, sender_of() as sender:
        began_s = asyncio.get_running_loop().time()
        answer = await post(sender, server.url, timeout_s=0.2)
        took_s = asyncio.get_running_loop().time() - began_s
    assert (answer.outcome, answer.error) == (Outcome.TIMEOUT, "no answer within 0.2 s")
    assert took_s < 2


async def test_names_that_hang_delay_no_other_name() -> None:
    """Deliver to a name that resolves while the names of sixty other endpoints hang."""
    let_go = threading.Event()

    def look(host: str) -> list[Address]:
        if "dead" in host:
            let_go.wait(10)
        return [Address(int(socket.AF_INET), "127.0.0.1")]

    async with serving(answers(TWO)) as server, sender_of(resolver=Resolver(lookup=look), most=100) as sender:
        urls = [f"http://h{number}.dead{number % 9}.test:{server.port}/" for number in range(60)]
        hanging = [asyncio.create_task(post(sender, url, timeout_s=9)) for url in urls]
        await asyncio.sleep(0)  # each has begun its lookup
        assert (await post(sender, f"http://good.test:{server.port}/", timeout_s=2)).outcome is Outcome.OK
        assert not any(task.done() for task in hanging)
        let_go.set()
        assert {(await task).outcome for task in hanging} == {Outcome.OK}


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call endpoints and providers directly, whatever proxy the environment names."""
    async with serving(answers(TWO)) as proxy, serving(answers(TWO)) as server:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.upper(), proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        request = ProviderRequest(method="POST", path="/", body={})
        async with sender_of(resolver=leading_to("127.0.0.1")) as sender, ProviderClient() as client:
            assert (await post(sender, f"http://app.example.com:{server.port}/")).outcome is Outcome.OK
            assert (await client.send(server.url, "key", request, 5)).status_code == 200
    assert (proxy.connections, len(server.heard)) == (0, 2)


async def test_why_there_is_no_connection() -> None:
    """Name the class of the failure, and no address."""

    async def resets(_: Request, writer: asyncio.StreamWriter) -> bool:
        await reset(writer)
        return False

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with serving(resets) as server, sender_of() as sender:
            refused, broken = await post(sender, nobody), await post(sender, server.url)
    assert (refused.outcome, refused.error) == (Outcome.UNREACHABLE, "the connection was refused")
    assert broken.outcome is Outcome.UNREACHABLE
    assert broken.error in (
        "the connection was reset before a whole answer came",
        "the connection was closed before a whole answer came",
    )


@rows(
    ("number", "words"),
    [
        (errno.ECONNREFUSED, "the connection was refused"),
        (errno.ECONNRESET, "the connection was reset"),
        (errno.ETIMEDOUT, "the connection timed out"),
        (errno.EHOSTUNREACH, "the host is unreachable"),
        (errno.ENETUNREACH, "the network is unreachable"),
        (errno.EMFILE, "relay has no file descriptor left"),
        (errno.EIO, "no connection"),
    ],
)
def test_each_failure_of_the_network_has_its_words(number: int, words: str) -> None:
    """Say refused, reset, timed out or unreachable by what the system says, also behind a library's own error."""
    error = OSError(number, "Connect call failed ('192.0.2.1', 443)")
    assert dialing.failure_reason(error) == words
    wrapped = RuntimeError("All connection attempts failed")
    wrapped.__cause__ = ExceptionGroup("several", [error])
    assert dialing.failure_reason(wrapped) == words


async def test_a_provider_is_told_apart_in_the_same_words() -> None:
    """Say of a provider, too, whether it refused the connection or its name has no address."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with ProviderClient(Resolver(lookup=lambda _: [])) as client:
            request = ProviderRequest(method="GET", path="/")
            with pytest.raises(NotSent, match="the connection was refused"):
                await client.send(f"http://127.0.0.1:{unused.getsockname()[1]}", "", request, 5)
            with pytest.raises(NotSent, match="the host's name has no address"):
                await client.send("http://nowhere.example.com", "", request, 5)


async def test_a_name_that_hangs_is_no_lost_answer() -> None:
    """Say that a submission was surely not sent where its host's name was not looked up in time."""
    blocked = threading.Event()

    def look(_: str) -> list[Address]:
        blocked.wait(5)
        return []

    async with ProviderClient(Resolver(lookup=look)) as client:
        with pytest.raises(NotSent, match="the host's name was not looked up in time"):
            await client.send("http://hangs.example.com", "", ProviderRequest(method="POST", path="/"), 0.2)
    blocked.set()


# Addresses: which one is connected to.


def test_families_take_turns() -> None:
    """Alternate between the families, in the system's order within each."""
    four, six = int(socket.AF_INET), int(socket.AF_INET6)
    order = dialing.alternate_families(
        [Address(six, "a"), Address(six, "b"), Address(six, "c"), Address(four, "d"), Address(four, "e")]
    )
    assert [address.host for address in order] == ["a", "d", "b", "e", "c"]


async def test_an_address_that_refuses_is_followed_by_the_next() -> None:
    """Call the next address at once where one refuses, of the other family too."""
    loop = asyncio.get_running_loop()
    resolver = leading_to("::1", "127.0.0.9", "127.0.0.1")
    async with serving(answers(OK)) as server, sender_of(resolver=resolver) as sender:
        began_s = loop.time()
        answer = await post(sender, f"http://several.example.com:{server.port}/")
        took_s = loop.time() - began_s
    assert answer.outcome is Outcome.OK
    assert took_s < dialing.DELAY_S


async def test_an_address_that_hangs_is_raced() -> None:
    """Try the next address while one gives no sign, rather than wait for its end."""
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.2", 0))
        hanging.listen(0)
        port = hanging.getsockname()[1]
        fillers = [socket.socket() for _ in range(8)]  # the queue is full, so the next one gets no answer at all
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", port))
        server = Server(answers(OK))
        listening = await asyncio.start_server(server.serve, "127.0.0.1", port)
        async with listening, sender_of(resolver=leading_to("127.0.0.2", "127.0.0.1")) as sender:
            began_s = asyncio.get_running_loop().time()
            answer = await post(sender, f"http://several.example.com:{port}/")
            took_s = asyncio.get_running_loop().time() - began_s
        for filler in fillers:
            filler.close()
    assert answer.outcome is Outcome.OK
    assert dialing.DELAY_S <= took_s < CONNECT_S


@rows(
    ("refusing", "outcome"),
    [(dialing.ADDRESSES_TRIED_MAX - 1, Outcome.OK), (dialing.ADDRESSES_TRIED_MAX, Outcome.UNREACHABLE)],
)
async def test_so_many_addresses_are_tried(refusing: int, outcome: Outcome) -> None:
    """Try the first addresses of a name, and no more than ADDRESSES_TRIED_MAX of them."""
    resolver = leading_to(*(f"127.0.1.{number}" for number in range(1, refusing + 1)), "127.0.0.1")
    async with serving(answers(TWO)) as server, sender_of(resolver=resolver) as sender:
        answer = await post(sender, f"http://several.example.com:{server.port}/")
    assert answer.outcome is outcome


async def test_the_address_that_comes_second_is_let_go() -> None:
    """Discard a connection that is made after another one has won."""
    discarded: list[str] = []
    slow = asyncio.Event()

    async def connect(address: Address) -> str:
        if address.host == "slow":
            await slow.wait()
        return address.host

    family = int(socket.AF_INET)
    won = await dialing.race([Address(family, "slow"), Address(family, "quick")], connect, discarded.append)
    assert (won, discarded) == ("quick", [])


# Connections: how many, for how long.


@pytest.mark.parametrize(("attempts", "most", "kept"), [(1, 3, 3), (1, 2, 2), (3, 1, 3), (2, 1, 2)])
async def test_no_more_connections_are_open_than_allowed(
    attempts: int, most: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Close the longest idle connection where a new one would be one too many, and none before.

    As many are open as attempts may be under way, and as are kept beyond that.
    """
    monkeypatch.setattr(webhook_sender, "KEPT_MAX", most)
    async with (
        serving(answers(TWO)) as one,
        serving(answers(TWO)) as two,
        serving(answers(TWO)) as three,
        sender_of(most=attempts) as sender,
    ):
        for server in (one, two, three):
            assert (await post(sender, server.url)).outcome is Outcome.OK
            assert len(sender.pool) <= kept
        if kept == 2:
            await one.until(lambda: not one.open)
        assert (len(one.open), two.open, three.open, len(sender.pool.idle)) == (kept - 2, {1}, {1}, kept)


@pytest.mark.parametrize(
    ("files", "kept"), [(resource.RLIM_INFINITY, 1000), (8000, 1000), (7999, 999), (1024, 128), (80, 10), (8, 10)]
)
async def test_idle_connections_leave_most_files_to_others(
    files: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep at most a thousand connections, and an eighth of the files that may be open, or one for each attempt."""
    limits = [(files, files)]
    for soft in (files, 8):
        limits[0] = (soft, files)
        monkeypatch.setattr(resource, "getrlimit", lambda _: limits[0])
        monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(0, new))
        async with sender_of(most=10) as sender:
            assert (sender.pool.connections_max, limits) == (kept, [(files, files)])


def test_a_process_may_open_what_it_is_allowed() -> None:
    """Raise a soft limit on open files, such as systemd's 1024, to the hard one."""
    code = (
        "import resource; from relay.outbound.open_files import open_files_max; print(open_files_max()); "
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    command = f"ulimit -S -n 256; ulimit -H -n 2048; exec {sys.executable} -c '{code}'"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["2048"] * 3


async def test_a_limit_that_cannot_be_raised_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep as many connections as the soft limit leaves where the system does not let it be raised."""

    def refuse(*_: object) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    async with sender_of(most=10) as sender:
        assert sender.pool.connections_max == 32


async def test_a_connection_is_for_one_host(tmp_path: Path) -> None:
    """Open another connection for another name or scheme, though both lead to the same address and port."""
    async with (
        tls_server(tmp_path, answers(TWO), "one.example.com") as (server, trusting),
        serving(answers(TWO)) as plain,
        sender_of(tls=trusting, resolver=leading_to("127.0.0.1")) as sender,
    ):
        assert (await post(sender, f"https://one.example.com:{server.port}/")).outcome is Outcome.OK
        answer = await post(sender, f"https://two.example.com:{server.port}/")
        assert answer.error == "TLS failed: the certificate is for another name"
        for host in ("one", "two", "one", "two"):
            assert (await post(sender, f"http://{host}.example.com:{plain.port}/")).outcome is Outcome.OK
    assert [request.connection for request in plain.heard] == [1, 2, 1, 2]


async def test_what_is_too_many_waits_and_not_for_ever() -> None:
    """Hold back an attempt while all connections are under way, and end it at its deadline."""
    go = asyncio.Event()

    async def waits(_: Request, writer: asyncio.StreamWriter) -> bool:
        await go.wait()
        writer.write(TWO)
        return True

    async with serving(waits) as server, sender_of(most=2) as sender:
        under_way = [asyncio.create_task(post(sender, server.url)) for _ in range(2)]
        await asyncio.sleep(0)  # these two have begun
        late = await post(sender, server.url, timeout_s=0.2)
        assert (late.outcome, late.error) == (Outcome.TIMEOUT, "no free connection in time")
        third = asyncio.create_task(post(sender, server.url))
        go.set()
        assert [(await task).outcome for task in (*under_way, third)] == [Outcome.OK] * 3
        assert server.connections == 2


@rows(("passed_s", "kept"), [(29.9, 1), (30.0, 0)])
async def test_an_idle_connection_is_closed_when_its_time_is_over(passed_s: float, kept: int) -> None:
    """Close it after `keepalive_s`, and not before."""
    async with serving(answers(TWO)) as server, sender_of(keepalive_s=30) as sender:
        await post(sender, server.url)
        (connection,) = sender.pool.idle
        sender.pool.close_idle(connection.idle_since_s + passed_s)
        assert len(sender.pool.idle) == kept
        if not kept:
            await server.until(lambda: not server.open)


@rows(("passed_s", "connections"), [(AGE_MAX_S - 0.1, 1), (AGE_MAX_S + 0.1, 2)])
async def test_an_old_connection_is_replaced(passed_s: float, connections: int) -> None:
    """Replace a connection that is old, however busy it is, so that a name that moved is noticed."""
    async with serving(answers(TWO)) as server, sender_of() as sender:
        await post(sender, server.url)
        (connection,) = sender.pool.idle
        connection.made_s -= passed_s
        await post(sender, server.url)
        assert server.connections == connections


async def test_an_idle_connection_ends_by_itself() -> None:
    """Close an idle connection though no other request comes."""
    async with serving(answers(TWO)) as server, sender_of(keepalive_s=0.05) as sender:
        await post(sender, server.url)
        await server.until(lambda: not server.open)
        assert len(sender.pool) == 0


async def test_an_attempt_that_is_called_off_leaves_nothing() -> None:
    """Close the connection of an attempt that is canceled."""
    heard, over = asyncio.Event(), asyncio.Event()

    async def silent(_: Request, __: asyncio.StreamWriter) -> bool:
        heard.set()
        await over.wait()
        return False

    async with serving(silent) as server, sender_of() as sender:
        attempt = asyncio.create_task(post(sender, server.url))
        await heard.wait()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        over.set()
        await asyncio.sleep(0)  # the loop calls who waits for the end of a connection
        assert len(sender.pool) == 0


# TLS.


@asynccontextmanager
async def tls_server(
    folder: Path, talk: Talk, name: str = "localhost", **change: Any
) -> AsyncIterator[tuple[Server, ssl.SSLContext]]:
    """Yield a server over TLS, and a context that trusts it."""
    context, root = certificate(folder, name, -HOUR, HOUR)
    for field, value in change.items():
        setattr(context, field, value)
    async with serving(talk, context) as server:
        yield server, ssl.create_default_context(cafile=str(root))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_of_both_versions_is_spoken_and_kept(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Speak TLS 1.2 and 1.3, use the connection again, and time the handshake once."""
    async with (
        tls_server(tmp_path, answers(TWO), maximum_version=version, minimum_version=version) as (server, trusting),
        sender_of(tls=trusting) as sender,
    ):
        made = [await post(sender, f"https://localhost:{server.port}/") for _ in range(3)]
        assert {one.outcome for one in made} == {Outcome.OK}
        assert [one.timings.tls_ms is not None for one in made] == [True, False, False]
        assert server.connections == 1


async def test_the_name_of_the_url_is_asked_for(tmp_path: Path) -> None:
    """Tell the server which host is meant (SNI), and in the Host header."""
    asked: list[str] = []

    def seen(_: Any, name: str, __: Any) -> None:
        asked.append(name)

    async with (
        tls_server(tmp_path, answers(TWO), "app.example.com", sni_callback=seen) as (server, trusting),
        sender_of(tls=trusting, resolver=leading_to("127.0.0.1")) as sender,
    ):
        assert (await post(sender, f"https://App.example.com:{server.port}/")).outcome is Outcome.OK
    assert (asked, server.heard[0].headers["host"]) == (["app.example.com"], f"app.example.com:{server.port}")


@pytest.mark.parametrize(
    ("name", "began", "ends", "words"),
    [
        ("other.example.com", -HOUR, HOUR, "is for another name"),
        ("localhost", -2 * HOUR, -HOUR, "has expired"),
        ("localhost", HOUR, 2 * HOUR, "is not valid yet"),
    ],
)
async def test_what_is_wrong_with_a_certificate_is_told(
    tmp_path: Path, name: str, began: timedelta, ends: timedelta, words: str
) -> None:
    """Say why a certificate is refused, and send nothing."""
    context, root = certificate(tmp_path, name, began, ends)
    trusting = ssl.create_default_context(cafile=str(root))
    async with serving(answers(TWO), context) as server, sender_of(tls=trusting) as sender:
        answer = await post(sender, f"https://localhost:{server.port}/")
    assert (answer.outcome, answer.error) == (Outcome.TLS_FAILED, f"TLS failed: the certificate {words}")
    assert server.heard == []


async def test_a_certificate_that_nobody_signed_is_refused(tmp_path: Path) -> None:
    """Refuse a self-signed certificate, and one of an authority that is not trusted."""
    folder = tmp_path / "other"
    folder.mkdir()
    alone, signed = self_signed(tmp_path), certificate(folder, "localhost", -HOUR, HOUR)[0]
    async with serving(answers(TWO), alone) as one, serving(answers(TWO), signed) as other, sender_of() as sender:
        answer = await post(sender, f"https://127.0.0.1:{one.port}/")
        unknown = await post(sender, f"https://localhost:{other.port}/")
    assert (answer.outcome, answer.error) == (Outcome.TLS_FAILED, "TLS failed: the certificate is self-signed")
    assert (unknown.outcome, (unknown.error or "")[:62]) == (
        Outcome.TLS_FAILED,
        "TLS failed: the certificate is signed by an authority that is ",
    )


async def test_what_speaks_no_tls_is_told_as_such() -> None:
    """Say that there is no TLS at the other end, or that it hung up in the handshake."""

    async def shouts(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(TWO)
        await writer.drain()
        writer.close()

    async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    for serve, words in (
        (shouts, "TLS failed: what answers speaks no TLS"),
        (hangs_up, "TLS failed: the connection was closed in the handshake"),
    ):
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with listening, sender_of() as sender:
            answer = await post(sender, f"https://localhost:{listening.sockets[0].getsockname()[1]}/")
        assert (answer.outcome, answer.error) == (Outcome.TLS_FAILED, words)


@pytest.mark.parametrize("text", [TWO, b"HTTP/1.1 200 OK\r\n\r\nok", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"])
async def test_a_close_without_notice_changes_no_status(tmp_path: Path, text: bytes) -> None:
    """Count a 2xx whose connection ends without TLS's own goodbye."""

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(text)
        await writer.drain()
        await asyncio.sleep(0.02)  # the text is sent before the connection is cut
        return False  # and the transport is aborted

    async with tls_server(tmp_path, talk) as (server, trusting), sender_of(tls=trusting) as sender:
        answer = await post(sender, f"https://localhost:{server.port}/")
    assert (answer.outcome, answer.status_code) == (Outcome.OK, 200)


async def test_an_authority_of_ones_own_counts_for_endpoints_and_providers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trust what `SSL_CERT_FILE` holds, whoever is called."""
    context, root = certificate(tmp_path, "localhost", -HOUR, HOUR)
    request = ProviderRequest(method="POST", path="/", body={})
    async with serving(answers(TWO), context) as server:
        origin = f"https://localhost:{server.port}"
        async with sender_of() as sender, ProviderClient() as client:
            assert (await post(sender, origin)).outcome is Outcome.TLS_FAILED
            with pytest.raises(NotSent, match="the certificate"):
                await client.send(origin, "key", request, 5)
        monkeypatch.setenv("SSL_CERT_FILE", str(root))
        async with sender_of() as sender, ProviderClient() as client:
            assert (await post(sender, origin)).outcome is Outcome.OK
            assert (await client.send(origin, "key", request, 5)).status_code == 200
