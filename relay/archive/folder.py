"""A folder as a bucket: for one machine, and for tests. A file has its name only once it is whole and on the disk."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from relay.model.archive import CopyErrorCode
from relay.outbound.object_store import BucketFailed, Target

BUFFER_BYTES: Final = 1 << 20
"""Pieces are gathered up to so many bytes: each write is a thread's."""
PART: Final = ".part"
Result = TypeVar("Result")


class Folder:
    """A folder of copies."""

    def __init__(self, path: Path) -> None:
        self.shown = f"file://{path}"
        self._path = path

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self._path / key

    async def write(self, target: Target, pieces: AsyncIterator[bytes]) -> None:
        """Write a file whole or not at all; what `pieces` raises is raised."""
        path = self.path(target.key)
        part = path.with_name(f".{path.name}{PART}")
        try:
            opened = await _run(_open, part)
        except FileNotFoundError:
            reason = "the folder of RELAY_ARCHIVE_URL cannot be made"
            raise BucketFailed(CopyErrorCode.STORE_UNAVAILABLE, reason) from None
        try:
            held = bytearray()
            async for piece in pieces:
                held += piece
                if len(held) >= BUFFER_BYTES:
                    await _run(_write, opened, bytes(held))
                    held.clear()
            await _run(_finish, opened, bytes(held))
            await _run(_rename, part, path)
        except FileNotFoundError:
            raise BucketFailed(CopyErrorCode.STORE_UNAVAILABLE, "the folder of RELAY_ARCHIVE_URL is gone") from None
        except BaseException:
            await asyncio.shield(_run(part.unlink, True))
            raise
        finally:
            os.close(opened)

    async def size(self, key: str) -> int | None:
        """Return a file's length; None if there is none."""
        try:
            return (await _run(self.path(key).stat)).st_size
        except FileNotFoundError:
            return None

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """Yield a file's bytes."""
        opened: BinaryIO = await _run(self.path(key).open, "rb")
        with opened:
            while piece := await _run(opened.read, BUFFER_BYTES):
                yield piece

    async def delete(self, key: str) -> None:
        """Delete a file, and what an interrupted write has left of it; nothing happens if there is none."""
        path = self.path(key)
        await _run(path.with_name(f".{path.name}{PART}").unlink, True)
        await _run(path.unlink, True)

    async def link(self, key: str, expires_s: int) -> str | None:  # noqa: ARG002 - as every bucket
        """Return None: relay itself answers with the file."""
        return None


async def _run(work: Callable[..., Result], *given: Any) -> Result:
    """Return the result of work on the disk, done in a thread; raise BucketFailed if the disk refuses it."""
    try:
        return await asyncio.to_thread(work, *given)
    except FileNotFoundError:
        raise
    except PermissionError as error:
        reason = f"the folder of RELAY_ARCHIVE_URL may not be written: {error.strerror}"
        raise BucketFailed(CopyErrorCode.STORE_REFUSED, reason) from None
    except OSError as error:
        reason = f"the folder of RELAY_ARCHIVE_URL cannot be used: {error.strerror}"
        raise BucketFailed(CopyErrorCode.STORE_UNAVAILABLE, reason) from None


def _open(part: Path) -> int:
    """Return a new file, in place of what an interrupted write has left."""
    part.parent.mkdir(parents=True, exist_ok=True)
    return os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)


def _write(opened: int, data: bytes) -> None:
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(opened, view) :]


def _finish(opened: int, data: bytes) -> None:
    """Write the end, and wait until the file is on the disk."""
    _write(opened, data)
    os.fsync(opened)


def _rename(part: Path, path: Path) -> None:
    """Give a whole file its name, and wait until that is on the disk."""
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
