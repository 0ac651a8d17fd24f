"""An answer that comes before the end of a file's upload ends that, with and without TLS; an interim one does not."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.certificate import made
from relay.model.provider_http import FileRequest
from relay.outbound.duplex import HELD_MAX
from relay.outbound.file_upload import FileClient
from relay.outbound.provider_client import NoAnswer
from relay.outbound.trust import Trust
from relay.security.url_policy import AddressPolicy
from tests.support.results import head

pytestmark = pytest.mark.anyio

TLS = tuple[ssl.SSLContext, ssl.SSLContext] | None
PIECE, PIECES = 1 << 18, 128
"""Far more than the kernel's buffers of a connection hold."""
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
REFUSAL = head("403 Forbidden", "content-length: 2") + b"no"


class Server:
    """Reads so many bytes of a body, sends `answers` (one before each next part), and closes without reading on."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.answers: list[bytes] = []
        self.received = 0
        self.sent = 0

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for size, answer in zip(self.reads, self.answers, strict=True):
            until = self.received + size
            while self.received < until and (data := await reader.read(min(until - self.received, 65_536))):
                self.received += len(data)
            writer.write(answer)
            await writer.drain()
        writer.close()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the file, piece by piece."""
        for _ in range(PIECES):
            self.sent += 1
            yield bytes(PIECE)
            await asyncio.sleep(0)  # as a file comes from a disk or from another server

    @asynccontextmanager
    async def serving(self, tls: TLS) -> AsyncIterator[FileRequest]:
        """Yield a request that uploads the file to it."""
        running = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls[0] if tls else None)
        url = f"http{'s' if tls else ''}://localhost:{running.sockets[0].getsockname()[1]}/file"
        try:
            yield FileRequest(method="PUT", url=url, size=PIECE * PIECES, content_type="video/mp4", headers={})
        finally:
            running.close()
            await running.wait_closed()


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> TLS:
    """Return the server's TLS, and the client's that trusts its authority, or none."""
    if not request.param:
        return None
    authority, certificate, key = made(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context, ssl.create_default_context(cafile=str(authority))


@pytest.fixture
async def client(tls: TLS) -> AsyncIterator[FileClient]:
    """Yield what uploads files."""
    policy = AddressPolicy((), allow_http=True)
    async with FileClient(policy, trust=Trust(tls[1] if tls else None)) as client:
        yield client


@pytest.mark.parametrize("after", [0, PIECE, 3 * PIECE])
async def test_a_refusal_ends_the_upload(client: FileClient, tls: TLS, after: int) -> None:
    """Return the refusal, and send no more of the file."""
    server = Server()
    server.reads, server.answers = [after], [REFUSAL]
    async with server.serving(tls) as request:
        answer = await client.send(request, server.pieces(), "", 20)
    assert (answer.status_code, answer.body) == (403, b"no")
    assert server.sent < PIECES


@pytest.mark.parametrize("after", [0, PIECE, PIECE * PIECES // 2])
async def test_a_success_before_the_end_is_none(client: FileClient, tls: TLS, after: int) -> None:
    """Raise NoAnswer where the server says that it has what it cannot have: a proxy's page, or a store's mistake."""
    server = Server()
    server.reads, server.answers = [after], [head("200 OK", "content-length: 2") + b"ok"]
    async with server.serving(tls) as request:
        with pytest.raises(NoAnswer, match="before the end of the file"):
            await client.send(request, server.pieces(), "", 20)


async def test_an_interim_answer_does_not(client: FileClient, tls: TLS) -> None:
    """Send the whole file although the server says that it may continue, and return the answer after it."""
    server = Server()
    server.reads = [0, PIECE * PIECES]
    server.answers = [INTERIM, head("200 OK", "content-length: 2") + b"ok"]
    async with server.serving(tls) as request:
        answer = await client.send(request, server.pieces(), "", 20)
    assert (answer.status_code, answer.body, server.received) == (200, b"ok", PIECE * PIECES)


@pytest.mark.parametrize("split", [1, 9, 10, 12, len(INTERIM) - 1, len(INTERIM)])
async def test_an_interim_answer_may_come_in_parts(client: FileClient, tls: TLS, split: int) -> None:
    """Send the whole file although an interim answer comes in parts that do not yet show what they are."""
    server = Server()
    server.reads = [0, PIECE, PIECE * (PIECES - 1)]
    server.answers = [INTERIM[:split], INTERIM[split:], head("200 OK", "content-length: 2") + b"ok"]
    async with server.serving(tls) as request:
        answer = await client.send(request, server.pieces(), "", 20)
    assert (answer.status_code, answer.body, server.received) == (200, b"ok", PIECE * PIECES)


async def test_a_refusal_after_an_interim_answer_ends_the_upload(client: FileClient, tls: TLS) -> None:
    """Return the refusal that follows an interim answer, and send no more of the file."""
    server = Server()
    server.reads, server.answers = [0, PIECE], [INTERIM, REFUSAL]
    async with server.serving(tls) as request:
        answer = await client.send(request, server.pieces(), "", 20)
    assert (answer.status_code, answer.body) == (403, b"no")
    assert server.sent < PIECES


async def test_a_long_refusal_is_read_whole(client: FileClient, tls: TLS) -> None:
    """Return an answer that is longer than what a connection holds unread."""
    server, body = Server(), b"x" * (HELD_MAX * 2 + 1)
    server.reads, server.answers = [PIECE * PIECES], [head("403 Forbidden", f"content-length: {len(body)}") + body]
    async with server.serving(tls) as request:
        answer = await client.send(request, server.pieces(), "", 20)
    assert (answer.status_code, answer.body) == (403, body)


async def test_a_connection_that_closes_is_no_answer(client: FileClient, tls: TLS) -> None:
    """Raise NoAnswer where the server closes the connection and says nothing."""
    server = Server()
    server.reads, server.answers = [PIECE], [b""]
    async with server.serving(tls) as request:
        with pytest.raises(NoAnswer):
            await client.send(request, server.pieces(), "", 20)
    assert server.sent < PIECES
