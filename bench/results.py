"""Results as a provider's storage serves them, at next to no cost: `python -m bench.results BYTES`.

Each request is answered with a video of so many bytes. The first line that it prints is its port.
"""

import asyncio
import sys
import tempfile
from functools import partial
from typing import BinaryIO

START = b"\x00\x00\x00\x20ftypisom"


async def main(size: int) -> None:
    """Listen until it is ended."""
    with tempfile.TemporaryFile() as video:
        video.write(START + bytes(size - len(START)))
        video.flush()
        server = await asyncio.start_server(partial(_serve, video, size), "127.0.0.1", 0, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with server:
            await server.serve_forever()


async def _serve(video: BinaryIO, size: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, and close."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % size)
        await writer.drain()
        await asyncio.get_running_loop().sendfile(writer.transport, video, 0, size)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # the client has gone
    finally:
        writer.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
