"""A server of results that speaks raw HTTP, so that it can answer as servers do that are slow, broken or hostile."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

CLIP = (Path(__file__).parents[2] / "relay" / "sandbox" / "clip.mp4").read_bytes()
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def whole(body: bytes = CLIP, status: str = "200 OK", *headers: str) -> Answer:
    """Return an answer with its length."""
    return sent(head(status, f"content-length: {len(body)}", *headers) + body)


def sent(raw: bytes) -> Answer:
    """Return an answer of these bytes, after which the connection is closed."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await writer.drain()

    return answer


def head(status: str, *headers: str) -> bytes:
    """Return the start of an answer."""
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", *headers, "connection: close", "")).encode()


def chunked(body: bytes, size: int = 65_536) -> Answer:
    """Return an answer that does not tell its length before its end."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return sent(head("200 OK", "transfer-encoding: chunked") + framed + b"0\r\n\r\n")


async def silent(writer: asyncio.StreamWriter) -> None:
    """Begin an answer, and send nothing more of it."""
    writer.write(head("200 OK", f"content-length: {len(CLIP)}") + CLIP[:1000])
    await asyncio.Event().wait()


class Drip:
    """An answer that sends another byte whenever `next` is set; `open` until its connection has closed."""

    def __init__(self) -> None:
        self.next = asyncio.Event()
        self.open = True

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        """Begin an answer, and go on with it byte by byte."""
        writer.write(head("200 OK", f"content-length: {len(CLIP)}") + CLIP[:1000])
        try:
            while not writer.is_closing():
                await self.next.wait()
                self.next.clear()
                writer.write(b"x")
                await writer.drain()
        finally:
            self.open = False


class Results:
    """The server: `answers` are those to the next requests, in order; then `answer` is given to each."""

    def __init__(self) -> None:
        self.origin = ""
        self.answer: Answer = whole()
        self.answers: list[Answer] = []
        self.requests: list[str] = []
        """The heads of the requests."""
        self._open: set[asyncio.Task[None]] = set()

    @property
    def paths(self) -> list[str]:
        """Return the targets of the requests."""
        return [request.split(" ")[1] for request in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.requests.append(request)
            await (self.answers.pop(0) if self.answers else self.answer)(writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def hang_up(self) -> None:
        """Close the connections on which an answer has not ended."""
        open_ = list(self._open)
        for task in open_:
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)

    @asynccontextmanager
    async def served(self) -> AsyncIterator["Results"]:
        """Serve while the block runs."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            await self.hang_up()
