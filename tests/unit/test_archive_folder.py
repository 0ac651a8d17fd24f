"""The archive in a folder: what is on the disk when, seen by the calls that reach the system."""

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from relay.archive.folder import BUFFER_BYTES, DISK_S, THREADS_MAX, Folder
from relay.model.archive import CopyErrorCode
from relay.outbound.object_store import BucketFailed, Target
from tests.support.quiescence import watched_loop

pytestmark = pytest.mark.anyio

PIECE = 64 << 10


class Disk:
    """The syncs of this process, passed on to the system: each with the file's size, or None for a folder."""

    def __init__(self, folder: Path) -> None:
        self.syncs: list[int | None] = []
        self.names: list[list[str]] = []
        """The names in the folder at each sync."""
        self._folder = folder

    def synced(self, real: Any) -> Any:
        """Return a system call that is noted once it has returned."""

        def call(opened: int) -> None:
            real(opened)
            found = os.fstat(opened)
            self.syncs.append(None if stat.S_ISDIR(found.st_mode) else found.st_size)
            self.names.append(names(self._folder))

        return call


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Return what notes the syncs of this process."""
    disk = Disk(tmp_path)
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, disk.synced(getattr(os, name)))
    return disk


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


async def emptied(folder: Path) -> None:
    """Return once nothing is in a folder."""
    async with asyncio.timeout(60):
        while names(folder):  # noqa: ASYNC110 - what deletes is a thread
            await asyncio.sleep(0.001)


async def in_pieces(size: int) -> AsyncIterator[bytes]:
    """Yield so many bytes."""
    for at in range(0, size, PIECE):
        yield bytes(min(PIECE, size - at))


@pytest.mark.parametrize(
    ("size", "syncs"),
    [
        (BUFFER_BYTES - 1, [BUFFER_BYTES - 1] * 2),
        (BUFFER_BYTES, [BUFFER_BYTES] * 3),
        (BUFFER_BYTES + 1, [BUFFER_BYTES, *[BUFFER_BYTES + 1] * 2]),
        (3 * BUFFER_BYTES + PIECE, [1 << 20, 2 << 20, 3 << 20, *[(3 << 20) + PIECE] * 2]),
    ],
)
async def test_each_mebibyte_is_on_the_disk_before_the_next(
    disk: Disk, tmp_path: Path, size: int, syncs: list[int]
) -> None:
    """Sync each mebibyte as it is written, the whole file before it has its name, and the folder after that.

    If only the end were synced, one sync would write a whole video, and a commit of the database on that disk would
    wait for it.
    """
    await Folder(tmp_path).write(Target("a.mp4", "video/mp4", size), in_pieces(size))
    assert disk.syncs == [*syncs, None]
    assert disk.names == [[".a.mp4.part"]] * len(syncs) + [["a.mp4"]]
    assert (tmp_path / "a.mp4").stat().st_size == size


async def test_a_disk_that_does_not_sync_takes_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise BucketFailed, and leave nothing, where the system could not write to the disk: as when it is full."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdatasync", full)
    with pytest.raises(BucketFailed, match="No space left on device") as failed:
        await Folder(tmp_path).write(Target("a.mp4", "video/mp4", None), in_pieces(2 * BUFFER_BYTES))
    assert failed.value.code is CopyErrorCode.STORE_UNAVAILABLE
    await emptied(tmp_path)


async def test_a_system_without_fdatasync_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a file on macOS, which has fsync alone."""
    monkeypatch.delattr(os, "fdatasync")
    await Folder(tmp_path).write(Target("a.mp4", "video/mp4", 9), in_pieces(9))
    assert names(tmp_path) == ["a.mp4"]


class Hanging:
    """A disk whose next sync hangs until `go`; `hangs` is set while it does."""

    def __init__(self) -> None:
        self.hangs = threading.Event()
        self.go = threading.Event()
        self.files: list[int] = []

    def __call__(self, opened: int) -> None:
        """Hang."""
        self.files.append(opened)
        self.hangs.set()
        self.go.wait(30)


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """Return a disk that hangs; it goes on at the end of the test."""
    disk = Hanging()
    monkeypatch.setattr(os, "fdatasync", disk)
    yield disk
    disk.go.set()


async def test_a_file_stays_open_while_a_thread_still_writes(hanging: Hanging, tmp_path: Path) -> None:
    """Close the file of a write that was cancelled after the thread's last call: its number is no other's before."""
    folder = Folder(tmp_path)
    writing = asyncio.create_task(folder.write(Target("a.mp4", "video/mp4", None), in_pieces(2 * BUFFER_BYTES)))
    await asyncio.to_thread(hanging.hangs.wait, 30)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    (opened,) = hanging.files
    assert os.fstat(opened).st_size == BUFFER_BYTES
    hanging.go.set()
    await emptied(tmp_path)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened)


async def test_a_disk_that_hangs_takes_no_thread_from_others(hanging: Hanging, tmp_path: Path) -> None:
    """Say that the folder does not answer after a minute; what needs a thread meanwhile, gets one."""
    folder = Folder(tmp_path)
    writes = [
        asyncio.create_task(folder.write(Target(f"{n}.mp4", "video/mp4", None), in_pieces(BUFFER_BYTES)))
        for n in range(2 * THREADS_MAX)
    ]
    await asyncio.to_thread(hanging.hangs.wait, 30)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 60) == 1
    with watched_loop().time_held() as pass_time:
        await asyncio.sleep(0)
        pass_time(DISK_S + 1)
        found = await asyncio.gather(*writes, return_exceptions=True)
    assert {type(one) for one in found} == {BucketFailed}
    assert "does not answer" in str(found[0])
    assert all(isinstance(one, BucketFailed) and one.hangs for one in found)


async def test_a_part_is_no_link(tmp_path: Path) -> None:
    """Write nothing to where a link leads that is in the place of a part."""
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    (tmp_path / "bucket").mkdir()
    (tmp_path / "bucket" / ".a.mp4.part").symlink_to(target)
    with pytest.raises(BucketFailed):
        await Folder(tmp_path / "bucket").write(Target("a.mp4", "video/mp4", 9), in_pieces(9))
    assert target.read_bytes() == b"precious"


async def test_what_is_no_file_is_not_shown(tmp_path: Path) -> None:
    """Say why a folder or a pipe in the place of a copy cannot be read."""
    (tmp_path / "a.mp4").mkdir()
    os.mkfifo(tmp_path / "b.mp4")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(BucketFailed, match="no file of that name"):
            await Folder(tmp_path).stat(name)
    assert await Folder(tmp_path).stat("c.mp4") is None
