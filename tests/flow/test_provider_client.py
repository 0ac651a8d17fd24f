"""Calls to providers against raw sockets: which connection they use, when they are repeated, and what an answer is."""

import asyncio
import contextlib
import socket
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.outbound.provider_client import (
    CONNECT_S,
    CONNECTIONS_MAX,
    FAULTY_MAX_BYTES,
    KEEPALIVE_S,
    RESPONSE_MAX_BYTES,
    NoAnswer,
    NotSent,
    ProviderClient,
)
from relay.outbound.trust import Trust
from tests.flow.test_delivery import self_signed
from tests.flow.test_receivers import certificate
from tests.flow.test_webhook_sender import Request, Server, answers, reset, serving
from tests.support.held import MS
from tests.support.quiescence import quiet, watched_loop
from tests.support.rows import rows

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
CHUNKS = b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
GET = ProviderRequest(method="GET", path="/v1/tasks/1")
POST = ProviderRequest(method="POST", path="/v1/tasks", body={"prompt": "a gull"})


async def send(client: ProviderClient, server: Server, request: ProviderRequest = GET) -> ProviderResponse:
    """Send a request to a server."""
    return await client.send(server.url, "Bearer key-1", request, 5)


@rows("method", ["POST", "DELETE", "PUT"])
async def test_only_a_get_uses_a_connection_again(method: str) -> None:
    """Open a connection for each submission, though one is kept; and keep those of status checks."""
    async with serving(answers(OK)) as server, ProviderClient() as client:
        for request in (GET, GET, ProviderRequest(method=method, path="/"), ProviderRequest(method=method, path="/")):
            assert (await send(client, server, request)).status_code == 200
        await send(client, server)
        assert [request.connection for request in server.heard] == [1, 1, 2, 3, 1]
        await server.until(lambda: server.open == {1})


async def test_a_submission_looks_as_it_always_did() -> None:
    """Send the JSON body with its length, the key, and headers of relay's own."""
    async with serving(answers(OK)) as server, ProviderClient() as client:
        await send(client, server, POST)
        (sent,) = server.heard
    assert sent.line == "POST /v1/tasks HTTP/1.1"
    assert sent.headers["host"] == f"127.0.0.1:{server.port}"
    wanted = {"authorization": "Bearer key-1", "content-type": "application/json", "accept-encoding": "identity"}
    assert wanted.items() <= sent.headers.items()
    assert sent.headers["user-agent"].startswith("relay/")
    assert sent.body == b'{"prompt":"a gull"}'


async def test_each_provider_gets_its_own_key_alone() -> None:
    """Keep connections by origin: what one provider is sent reaches no other."""
    async with serving(answers(OK)) as one, serving(answers(OK)) as two, ProviderClient() as client:
        for _ in range(3):
            await client.send(one.url, "Bearer key-of-one", GET, 5)
            await client.send(two.url, "Key key-of-two", GET, 5)
            await client.send(two.url, "Key key-of-two", ProviderRequest(method="GET", path="/", bearer=False), 5)
    assert {request.headers["authorization"] for request in one.heard} == {"Bearer key-of-one"}
    assert [request.headers.get("authorization") for request in two.heard] == ["Key key-of-two", None] * 3
    assert (one.connections, two.connections) == (1, 1)


@rows("stray", [OK, b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n", b"x"])
async def test_bytes_on_a_kept_connection_are_never_the_next_answer(stray: bytes) -> None:
    """Close a kept connection on which something comes, and ask on a new one."""

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        if len(server.heard) > 1:
            writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return True
        writer.write(OK)
        await writer.drain()
        await quiet()
        writer.write(stray)
        return True

    async with serving(talk) as server, ProviderClient() as client:
        assert (await send(client, server)).status_code == 200
        await server.until(lambda: not server.open)
        assert (await send(client, server)).status_code == 404
    assert [request.connection for request in server.heard] == [1, 2]


async def test_bytes_that_wait_unread_are_never_the_next_answer() -> None:
    """Look into a kept connection before it is used again: what waits there came before the request."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        made: list[socket.socket] = []

        def serve(text: bytes) -> None:
            connection, _ = listening.accept()
            made.append(connection)
            connection.recv(65_536)
            connection.sendall(text)

        loop, origin = asyncio.get_running_loop(), f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with ProviderClient() as client:
            serving_one = loop.run_in_executor(None, serve, OK)
            assert (await client.send(origin, "", GET, 5)).status_code == 200
            await serving_one
            serving_one = loop.run_in_executor(None, serve, b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n")
            made[0].sendall(OK)
            assert (await client.send(origin, "", GET, 5)).status_code == 500
            await serving_one
        for connection in made:
            connection.close()


@rows("end", ["closed", "reset", "408"])
async def test_a_get_on_a_connection_that_is_over_is_sent_once_more(end: str) -> None:
    """Ask again on a new connection where a kept one breaks before a byte of an answer."""

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        if len(server.heard) != 2:
            writer.write(OK)
            return True
        if end == "reset":
            await reset(writer)
        if end == "408":
            writer.write(b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        return False

    async with serving(talk) as server, ProviderClient() as client:
        assert [(await send(client, server)).status_code for _ in range(2)] == [200, 200]
    assert [request.connection for request in server.heard] == [1, 1, 2]


async def test_a_get_is_sent_once_more_and_not_twice() -> None:
    """Give no answer where the new connection ends as the kept one did."""

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        if len(server.heard) == 1:
            writer.write(OK)
        return len(server.heard) == 1

    async with serving(talk) as server, ProviderClient() as client:
        await send(client, server)
        with pytest.raises(NoAnswer, match=r"the connection was (closed|reset) before a whole answer came"):
            await send(client, server)
    assert len(server.heard) == 3


async def test_a_get_whose_answer_began_is_not_sent_again() -> None:
    """Give no answer where a kept connection breaks after the first byte."""

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK if len(server.heard) == 1 else b"H")
        await writer.drain()
        return len(server.heard) == 1

    async with serving(talk) as server, ProviderClient() as client:
        await send(client, server)
        with pytest.raises(NoAnswer):
            await send(client, server)
    assert len(server.heard) == 2


@rows("text", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-", b"junk\r\n\r\n"])
async def test_a_submission_without_a_whole_answer_is_never_sent_again(text: bytes) -> None:
    """Raise NoAnswer after one request, whatever part of an answer came."""

    async def talk(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(text)
        return False

    async with serving(talk) as server, ProviderClient() as client:
        with pytest.raises(NoAnswer):
            await send(client, server, POST)
    assert len(server.heard) == 1


@rows("request_", [GET, POST])
@rows(
    "text",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n",
    ],
)
async def test_an_answer_that_was_cut_is_none(request_: ProviderRequest, text: bytes) -> None:
    """Never parse the part of a body as if it were whole."""
    async with serving(answers(text, goes_on=False)) as server, ProviderClient() as client:
        with pytest.raises(NoAnswer):
            await send(client, server, request_)


@rows(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{}",
        b"HTTP/1.1 103 Early Hints\r\ncontent-type: text/plain\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\ncontent-type:application/json\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKS,
        OK + b"more",
    ],
)
async def test_a_whole_answer_counts_in_every_framing(text: bytes) -> None:
    """Read an answer by its length, by chunks, or until the connection ends."""
    async with serving(answers(text, goes_on=False)) as server, ProviderClient() as client:
        answer = await send(client, server, POST)
    assert (answer.status_code, answer.content_type, answer.body, answer.fault) == (
        200,
        "application/json",
        b"{}",
        None,
    )


@rows(("over", "fault"), [(0, None), (1, f"is longer than {RESPONSE_MAX_BYTES} bytes")])
async def test_an_answer_has_a_limit(over: int, fault: str | None) -> None:
    """Read a mebibyte; of a longer answer keep the start, and say so."""
    size = RESPONSE_MAX_BYTES + over
    text = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"1" * size
    async with serving(answers(text)) as server, ProviderClient() as client:
        answer = await send(client, server)
    assert (len(answer.body), answer.fault) == (FAULTY_MAX_BYTES if over else size, fault)


async def test_headers_that_adapters_read_are_kept() -> None:
    """Keep `Retry-After` and the payment's headers, their names in lower case; and no others."""
    text = (
        b"HTTP/1.1 402 Pay\r\nRetry-After: 7\r\nPAYMENT-REQUIRED: e30=\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
    )
    async with serving(answers(text)) as server, ProviderClient() as client:
        answer = await send(client, server)
        await send(client, server)
    assert answer.headers == {"retry-after": "7", "payment-required": "e30="}
    assert "cookie" not in server.heard[1].headers


@rows("request_", [GET, POST])
async def test_one_deadline_is_over_the_whole_call(request_: ProviderRequest) -> None:
    """Give up exactly when the time is over, although a byte of the body has come."""
    over = asyncio.Event()

    async def drip(_: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n1")
        await over.wait()
        return False

    async with serving(drip) as server, ProviderClient() as client:
        with watched_loop().time_held() as advance:
            call = asyncio.create_task(client.send(server.url, "", request_, 30))
            await quiet()
            advance(30 - MS)
            await quiet()
            assert not call.done()
            advance(2 * MS)
            with pytest.raises(NoAnswer, match="its body did not end in time"):
                await call
        over.set()


@rows(("timeout_s", "connect_s"), [(30.0, CONNECT_S), (4.0, 4.0)])
async def test_a_connection_has_ten_seconds(timeout_s: float, connect_s: float) -> None:
    """Say that nothing was sent where a provider accepts no connection for so long, and not before."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(8):  # the queue is full, so the next one gets no answer
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        async with ProviderClient() as client:
            with watched_loop().time_held() as advance:
                origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
                call = asyncio.create_task(client.send(origin, "", POST, timeout_s))
                await quiet()
                advance(connect_s - MS)
                await quiet()
                assert not call.done()
                advance(2 * MS)
                with pytest.raises(NotSent, match="no connection in time"):
                    await call


@rows(("passed_s", "connections"), [(KEEPALIVE_S - MS, 1), (KEEPALIVE_S + MS, 2)])
async def test_an_idle_connection_is_kept_for_thirty_seconds(passed_s: float, connections: int) -> None:
    """Use it again until then, and close it by itself."""
    async with serving(answers(OK)) as server, ProviderClient() as client:
        with watched_loop().time_held() as advance:
            await send(client, server)
            advance(passed_s)
            await quiet()
            assert len(server.open) == 2 - connections
            await send(client, server)
        assert server.connections == connections


async def test_submissions_that_hang_hold_back_neither_checks_nor_another_provider() -> None:
    """Bound the calls under way at each origin; one more waits, and was surely not sent when its time is over."""
    over = asyncio.Event()

    async def hangs(request: Request, writer: asyncio.StreamWriter) -> bool:
        if request.line.startswith("POST"):
            await over.wait()
        writer.write(OK)
        return True

    async with serving(hangs) as server, serving(answers(OK)) as other, ProviderClient() as client:
        hanging = [asyncio.create_task(send(client, server, POST)) for _ in range(CONNECTIONS_MAX)]
        async with asyncio.timeout(60):
            while len(server.heard) < CONNECTIONS_MAX:
                await quiet()
        with pytest.raises(NotSent, match="no free connection in time"):
            await client.send(server.url, "", POST, 0.05)
        assert (await send(client, server)).status_code == 200
        assert (await send(client, other, POST)).status_code == 200
        assert len(server.heard) == CONNECTIONS_MAX + 1
        over.set()
        assert {answer.status_code for answer in await asyncio.gather(*hanging)} == {200}


PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=20)


@given(PRINTABLE)
@settings(max_examples=50)
def test_a_path_goes_out_as_it_is(rest: str) -> None:
    """Change no character of a path or query that a request line can hold: `%2F`, `..`, brackets."""
    assert asyncio.run(_target(f"/{rest}")) == f"/{rest}"


@rows(
    ("path", "target"),
    [("/a b\r\nx: y", "/a%20b%0D%0Ax:%20y"), ("/ä?é", "/%C3%A4?%C3%A9"), ("/a#b", "/a"), ("", "/"), ("?a=1", "/?a=1")],
)
async def test_a_path_that_a_request_line_cannot_hold_is_escaped(path: str, target: str) -> None:
    """Escape blanks, line breaks and letters beyond ASCII, and leave a fragment out."""
    assert await _target(path) == target


async def _target(path: str) -> str:
    """Return the request target that a server reads."""
    async with serving(answers(OK)) as server, ProviderClient() as client:
        await client.send(server.url, "", ProviderRequest(method="GET", path=path), 5)
        return server.heard[0].line.split(" ")[1]


@rows("value", ["a\r\nx: y", "a\nb", "a\x00"])
async def test_a_header_cannot_hold_a_second_one(value: str) -> None:
    """Send nothing where a key or header holds a line break or NUL."""
    async with serving(answers(OK)) as server, ProviderClient() as client:
        for key, headers in ((value, {}), ("", {"x-payment": value})):
            request = ProviderRequest(method="POST", path="/", headers=headers)
            with pytest.raises(NotSent, match="a header cannot be sent"):
                await client.send(server.url, key, request, 5)
    assert server.heard == []


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect to the provider itself, whatever proxy the environment names."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with serving(answers(OK)) as server, ProviderClient() as client:
        assert (await send(client, server)).status_code == 200


async def test_credentials_in_a_url_are_sent_as_basic_ones() -> None:
    """Send user and password of a node's URL in the header, as any client does."""
    async with serving(answers(OK)) as server, ProviderClient() as client:
        url = server.url.replace("//", "//me:p%40ss@") + "/rpc?chain=8453"
        await client.send(url, "", ProviderRequest(method="POST", path="", body={}, bearer=False), 5)
    (sent,) = server.heard
    assert sent.line == "POST /rpc?chain=8453 HTTP/1.1"
    assert sent.headers["authorization"] == "Basic bWU6cEBzcw=="


@pytest.mark.parametrize(
    ("name", "began", "ends", "why"),
    [
        ("localhost", -1, 1, None),
        ("other.example.com", -1, 1, "is for another name"),
        ("localhost", -2, -1, "has expired"),
        ("localhost", 1, 2, "is not valid yet"),
    ],
    ids=["good", "another name", "expired", "not yet valid"],
)
async def test_a_providers_certificate_is_verified(
    tmp_path: Path, name: str, began: int, ends: int, why: str | None
) -> None:
    """Send nothing to a provider whose certificate is for another name or time, and say why."""
    context, root = certificate(tmp_path, name, began * HOUR, ends * HOUR)
    trusting = ssl.create_default_context(cafile=str(root))
    async with serving(answers(OK), context) as server, ProviderClient(trust=Trust(trusting)) as client:
        origin = f"https://localhost:{server.port}"
        for request in (GET, POST):
            if why is None:
                assert (await client.send(origin, "key", request, 5)).status_code == 200
            else:
                with pytest.raises(NotSent, match=why):
                    await client.send(origin, "key", request, 5)
    assert len(server.heard) == (0 if why else 2)


async def test_a_provider_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    """Send nothing to a provider with a self-signed certificate, with one of an unknown authority, or without TLS."""
    folder = tmp_path / "other"
    folder.mkdir()
    alone, signed = self_signed(tmp_path), certificate(folder, "localhost", -HOUR, HOUR)[0]

    async def shouts(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        writer.close()

    plain = await asyncio.start_server(shouts, "127.0.0.1", 0)
    async with serving(answers(OK), alone) as one, serving(answers(OK), signed) as other, plain:
        for port, why in (
            (one.port, "TLS failed: the certificate is self-signed"),
            (other.port, "TLS failed: the certificate is signed by an authority that is not trusted"),
            (plain.sockets[0].getsockname()[1], "TLS failed: what answers speaks no TLS"),
        ):
            async with ProviderClient() as client:
                with pytest.raises(NotSent, match=why):
                    await client.send(f"https://127.0.0.1:{port}", "key", POST, 5)
    assert one.heard == other.heard == []


async def test_tls_connections_are_kept_too(tmp_path: Path) -> None:
    """Use a connection again for a GET over TLS: a handshake costs a hundred times as much."""
    context, root = certificate(tmp_path, "localhost", -HOUR, HOUR)
    trusting = ssl.create_default_context(cafile=str(root))
    async with serving(answers(OK), context) as server, ProviderClient(trust=Trust(trusting)) as client:
        for _ in range(3):
            await client.send(f"https://localhost:{server.port}", "key", GET, 5)
    assert server.connections == 1
