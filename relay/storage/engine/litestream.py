"""Waits for Litestream: what relay acknowledges is then also at the replica, and survives the loss of the disk.

Litestream copies a SQLite file to an object store a moment after each commit. Its control socket speaks HTTP; `POST
/sync` with `wait` answers when everything committed so far is copied (https://litestream.io, 0.5.17 was tried). Without
`RELAY_LITESTREAM_SOCKET` relay does not ask, and a loss of the disk loses what was not copied yet.
"""

import asyncio
from pathlib import Path
from typing import Final

import msgspec

from relay.errors import StorageUnavailable

COPY_S: Final = 3.0
"""A provider must learn within five seconds to send its callback again."""
ANSWER_MAX_BYTES: Final = 65_536


class _Synced(msgspec.Struct, frozen=True):
    """Litestream's answer: the last transaction of the file and of the replica, or an error."""

    txid: int = 0
    replicated_txid: int = -1
    error: str = ""


class Litestream:
    """The control socket of the Litestream that copies a database; one question at a time."""

    def __init__(self, socket: Path, database: Path) -> None:
        self._socket = socket
        body = msgspec.json.encode({"path": str(database.absolute()), "wait": True, "timeout": int(COPY_S)})
        head = "POST /sync HTTP/1.1\r\nhost: litestream\r\ncontent-type: application/json"
        self._request = f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        self._kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def copied(self) -> None:
        """Return when everything committed so far is at the replica; StorageUnavailable if it is not in COPY_S."""
        try:
            async with asyncio.timeout(COPY_S):
                answer = await self._ask()
        except TimeoutError:
            self.close()
            raise StorageUnavailable(f"Litestream did not copy it within {COPY_S:g} s") from None
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            self.close()
            raise StorageUnavailable(f"Litestream does not answer at {self._socket}: {type(error).__name__}") from error
        if answer.error or answer.replicated_txid < answer.txid:
            raise StorageUnavailable(f"Litestream did not copy it: {answer.error or 'the replica is behind'}")

    async def _ask(self) -> _Synced:
        """Return the answer, on a new connection if the kept one was closed meanwhile: to ask twice does no harm."""
        if self._kept is not None:
            try:
                return await self._exchange(*self._kept)
            except (OSError, asyncio.IncompleteReadError):
                self.close()
        self._kept = await asyncio.open_unix_connection(self._socket, limit=ANSWER_MAX_BYTES)
        return await self._exchange(*self._kept)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Synced:
        """Send the question, and return the answer; ValueError for one that Litestream does not give."""
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, found, length = head.partition(b"\r\ncontent-length:")
        if not found or int(length.partition(b"\r\n")[0]) > ANSWER_MAX_BYTES:
            raise ValueError("an answer without a length, or with one that is too large")
        body = await reader.readexactly(int(length.partition(b"\r\n")[0]))
        return msgspec.json.decode(body, type=_Synced)

    def close(self) -> None:
        """Close the connection, if one is open."""
        if self._kept is not None:
            self._kept[1].transport.abort()
            self._kept = None
