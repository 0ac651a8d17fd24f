"""A folder as a bucket: for one machine, and for tests. A file has its name only once it is whole and on the disk.

The disk's calls run in threads of their own and have a deadline: a network disk that hangs takes no thread from what
else relay does in threads, such as resolving names. A thread cannot be cancelled, so a file is closed by the last one
that uses it: else its number might be another file's or a connection's by the time of a late write.
"""

import asyncio
import os
import stat
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from relay.model.archive import CopyErrorCode
from relay.outbound.object_store import BucketFailed, Target

BUFFER_BYTES: Final = 1 << 20
"""Pieces are gathered up to so many bytes: each write is a thread's, and is on the disk before the next."""
PART: Final = ".part"
DISK_S: Final = 60.0
"""How long one call may take."""
THREADS_MAX: Final = 16
Result = TypeVar("Result")


class Folder:
    """A folder of copies."""

    def __init__(self, path: Path) -> None:
        self.shown = path.as_uri()
        self._path = path
        self._threads = ThreadPoolExecutor(THREADS_MAX, "archive")

    def path(self, key: str) -> Path:
        """Return the file of a key."""
        return self._path / key

    async def write(self, target: Target, pieces: AsyncIterator[bytes]) -> None:
        """Write a file whole or not at all; what `pieces` raises is raised."""
        path = self.path(target.key)
        part = path.with_name(f".{path.name}{PART}")
        file = _File(self._threads)
        try:
            await file.do(file.create, part, missing="the folder of RELAY_ARCHIVE_URL cannot be made")
            held, size = list[bytes](), 0
            async for piece in pieces:
                held.append(piece)
                size += len(piece)
                if size >= BUFFER_BYTES:
                    await file.do(file.write, held)
                    held, size = [], 0
            await file.do(file.finish, held)
            await file.do(_rename, part, path, missing="the folder of RELAY_ARCHIVE_URL is gone")
        except (BucketFailed, asyncio.CancelledError):  # the disk may hang: it is closed and deleted when it can be
            file.end(part)
            raise
        except BaseException:
            with suppress(BucketFailed):
                await in_thread(file.end(part))
            raise
        file.end()

    async def size(self, key: str) -> int | None:
        """Return a file's length; None if there is none."""
        found = await self.stat(key)
        return None if found is None else found.st_size

    async def stat(self, key: str) -> os.stat_result | None:
        """Return the length and times of a file that can be read; None if there is none."""
        try:
            return await in_thread(self._threads.submit(_readable, self.path(key)))
        except FileNotFoundError:
            return None

    async def read(self, key: str) -> AsyncIterator[bytes]:
        """Yield a file's bytes; raise FileNotFoundError if there is none."""
        file = _File(self._threads)
        try:
            await file.do(file.open, self.path(key))
            while piece := await file.do(file.read):
                yield piece
        finally:
            file.end()

    async def delete(self, key: str) -> None:
        """Delete a file, and what an interrupted write has left of it; nothing happens if there is none."""
        path = self.path(key)
        for one in (path.with_name(f".{path.name}{PART}"), path):
            await in_thread(self._threads.submit(one.unlink, True))

    async def link(self, key: str, expires_s: int) -> str | None:  # noqa: ARG002 - as every bucket
        """Return None: relay itself answers with the file."""
        return None


class _File:
    """An open file, used by one thread at a time; it is closed by the last one, whatever was cancelled."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._work: Future[Any] | None = None
        self._opened: int | None = None

    async def do(self, work: Callable[..., Result], *given: Any, missing: str | None = None) -> Result:
        """Return the result of work on the disk, in a thread; raise BucketFailed if the disk refuses it.

        `missing` is the reason where a folder is missing; without one FileNotFoundError is raised.
        """
        self._work = begun = self._threads.submit(work, *given)
        try:
            return await in_thread(begun)
        except FileNotFoundError:
            if missing is None:
                raise
            raise BucketFailed(CopyErrorCode.STORE_UNAVAILABLE, missing) from None

    def end(self, part: Path | None = None) -> "Future[None]":
        """Close the file, and delete `part`, once no thread is at work any more; return what is done then."""
        assert self._work is not None
        ended: Future[None] = Future()

        def close() -> None:
            try:
                if self._opened is not None:
                    os.close(self._opened)
                if part is not None:
                    part.unlink(missing_ok=True)
            except OSError:
                pass  # what is left is deleted later, with its key
            ended.set_result(None)

        self._work.add_done_callback(lambda _: self._threads.submit(close))
        return ended

    def create(self, part: Path) -> None:
        """Open a new file, in place of what an interrupted write has left; never what a link leads to."""
        part.parent.mkdir(parents=True, exist_ok=True)
        self._opened = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640)

    def open(self, path: Path) -> None:
        """Open a file that is there."""
        self._opened = os.open(path, os.O_RDONLY)

    def read(self) -> bytes:
        """Return the next bytes, none at the end."""
        assert self._opened is not None
        return os.read(self._opened, BUFFER_BYTES)

    def write(self, pieces: list[bytes]) -> None:
        """Write all of them, and wait until they are on the disk.

        If only the end waited, one sync would write a whole video, and a commit of the database on that disk wait for
        it. Joining them first would cost the event loop two copies of each byte.
        """
        assert self._opened is not None
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(self._opened, view) :]
        _sync_bytes(self._opened)

    def finish(self, pieces: list[bytes]) -> None:
        """Write the end, and wait until the file is on the disk."""
        assert self._opened is not None
        self.write(pieces)
        os.fsync(self._opened)


async def in_thread(work: Future[Result]) -> Result:
    """Return the result of work on the disk; raise BucketFailed if the disk refuses it, or does not answer."""
    try:
        async with asyncio.timeout(DISK_S):
            return await asyncio.wrap_future(work)
    except FileNotFoundError:
        raise
    except TimeoutError:
        reason = "the folder of RELAY_ARCHIVE_URL does not answer"
        raise BucketFailed(CopyErrorCode.STORE_UNAVAILABLE, reason, hangs=True) from None
    except PermissionError as error:
        reason = f"relay may not use the folder of RELAY_ARCHIVE_URL: {error.strerror}"
        raise BucketFailed(CopyErrorCode.STORE_REFUSED, reason) from None
    except OSError as error:
        reason = f"the folder of RELAY_ARCHIVE_URL cannot be used: {error.strerror}"
        raise BucketFailed(CopyErrorCode.STORE_UNAVAILABLE, reason) from None


def _sync_bytes(opened: int) -> None:
    """Wait until a file's bytes are on the disk; macOS has only the call that also waits for its times."""
    getattr(os, "fdatasync", os.fsync)(opened)


def _readable(path: Path) -> os.stat_result:
    """Return a file's length and times; raise OSError if it cannot be read, or is a folder."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(opened)
    finally:
        os.close(opened)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(0, "there is no file of that name")
    return found


def _rename(part: Path, path: Path) -> None:
    """Give a whole file its name, and wait until that is on the disk."""
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
