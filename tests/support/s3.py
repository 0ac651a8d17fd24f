"""A real S3 server in a thread of the tests, and Amazon's own SDK as its client."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

KEY_ID, SECRET, REGION = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1"
BUCKET = "relay-results"
_RANGE = re.compile(r"\r\nrange: (\S+)", re.IGNORECASE)


def refusal(status: str, code: str, *, body: bool = True) -> bytes:
    """Return an answer of S3's, as its documentation shows them; `code` is in its body."""
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>Why</Message></Error>'
    shown = text.encode() if body else b""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(shown)}\r\nconnection: close\r\n\r\n".encode() + shown


class S3:
    """A running server with one bucket; `client` is boto3's."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client = client(endpoint)
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which obstore finds it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_ALLOW_HTTP": "true",
        }

    def keys(self) -> list[str]:
        """Return the keys of the bucket."""
        return [one["Key"] for one in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    def body(self, key: str) -> bytes:
        """Return an object as the SDK reads it."""
        body: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def content_type(self, key: str) -> str:
        """Return the type of an object."""
        return str(self.client.head_object(Bucket=BUCKET, Key=key)["ContentType"])

    def uploads(self) -> list[Any]:
        """Return the uploads in parts that nobody has ended."""
        found: list[Any] = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return found

    def empty(self) -> None:
        """Delete every object."""
        for key in self.keys():
            self.client.delete_object(Bucket=BUCKET, Key=key)


def client(endpoint: str) -> Any:
    """Return boto3's client of a server."""
    import boto3  # noqa: PLC0415 - not every worker needs what takes so long to load
    import botocore.config  # noqa: PLC0415

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
        region_name=REGION,
        config=botocore.config.Config(retries={"max_attempts": 0}),
    )


DENIED = refusal("403 Forbidden", "AccessDenied")


def refused_deletion(key: str, code: str) -> bytes:
    """Return S3's answer to a deletion that it took, and did not do: the object may not be deleted."""
    error = f"<Error><Key>{key}</Key><Code>{code}</Code><Message>Why</Message></Error>"
    shown = f'<?xml version="1.0" encoding="UTF-8"?>\n<DeleteResult>{error}</DeleteResult>'.encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(shown), shown)


class Gate:
    """What stands before a server, and passes everything on unless `answer` is set: that is given to each request.

    With `answers_to` it is given to requests of that method alone, with `answers_about` to those whose path has it. A
    request of the method `holds` waits for `let_go`.
    An answer is given once the head of the request is there, and the connection is closed without reading a body, as a
    server does that refuses one.
    """

    def __init__(self, endpoint: str) -> None:
        self.answer: bytes | None = None
        self.answers_to = ""
        self.answers_about = ""
        self.holds = ""
        self.let_go = asyncio.Event()
        self.held: list[str] = []
        """The paths of the requests that wait, or have waited."""
        self.loses_answers = False
        """Requests arrive, and the connection is closed in place of the answer."""
        self.refused: list[str] = []
        """The methods of the requests that were refused."""
        self.ranges: list[str] = []
        """The ranges that were asked for."""
        self.port = 0
        self._target = int(endpoint.rpartition(":")[2])
        self._open: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        """Return its URL."""
        return f"http://127.0.0.1:{self.port}"

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Refuse a connection's requests, or pass them on."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.decode("latin-1").split(" ", 2)
            if method == self.holds:
                self.held.append(path)
                await self.let_go.wait()
            self.ranges += _RANGE.findall(head.decode("latin-1"))
            if self.answer is not None and self.answers_to in ("", method) and self.answers_about in path:
                self.refused.append(method)
                start, _, body = self.answer.partition(b"\r\n\r\n")
                writer.write(start + b"\r\n\r\n" + (b"" if head.startswith(b"HEAD ") else body))
                await writer.drain()
                return
            back, there = await asyncio.open_connection("127.0.0.1", self._target)
            there.write(head)
            try:
                if self.loses_answers:
                    passing = asyncio.ensure_future(_passed(reader, there))
                    await back.read(1)
                    passing.cancel()
                    return
                await asyncio.gather(_passed(reader, there), _passed(back, writer))
            finally:
                there.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            if self.answer is None:
                writer.transport.abort()
            else:
                writer.close()

    @asynccontextmanager
    async def served(self) -> AsyncIterator["Gate"]:
        """Serve while the block runs."""
        running = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = running.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            running.close()
            open_ = list(self._open)
            for task in open_:
                task.cancel()
            await asyncio.gather(*open_, return_exceptions=True)


async def _passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass one direction on until it ends, and end the other one then."""
    while piece := await reader.read(65_536):
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


@contextmanager
def server() -> Iterator[S3]:
    """Run a server while the block runs."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - it takes a second to load

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    try:
        yield S3(f"http://{host}:{port}")
    finally:
        running.stop()
