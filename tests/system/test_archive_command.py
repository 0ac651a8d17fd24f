"""`relay archive`, as a user starts it: a real process, a real relay with an archive in a folder."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.cli.remote.connection import Refused, whole_file
from tests.flow.test_archive import archiving
from tests.support import commands
from tests.support.processes import clean
from tests.support.quiescence import quiet
from tests.support.results import CLIP, whole
from tests.system.test_command_line import Shell

pytestmark = pytest.mark.anyio

SIGNED = "/clip.mp4?signature=secret"
"""What a result's URL may have behind its host."""


async def test_a_backfill_is_counted_made_and_shown(tmp_path: Path) -> None:
    """Count, copy and show the results that have no copy; exit 1 if one cannot be copied."""
    async with archiving(tmp_path, RELAY_ARCHIVE="off", RELAY_ARCHIVE_MAX_BYTES="10000") as archive:
        shell = Shell(archive.running, tmp_path)
        for _ in range(2):
            await archive.succeeded()
        counted = await shell("archive", "backfill", "--dry-run", "--output", "json")
        assert counted.json() == {"examined": 2, "ordered": 2}
        assert archive.files == []
        made = await shell("archive", "backfill", "--output", "json")
        assert made.json() == {"examined": 2, "ordered": 2, "failed": 0}
        assert len(archive.files) == 2
        archive.results.answer = whole(bytes(10_001))
        await archive.succeeded()
        refused = await shell("archive", "backfill", "--output", "json")
        assert (refused.status, "1 copies failed" in refused.err) == (1, True)
        shown = (await shell("archive", "show", "--output", "json")).json()["copies"]
        assert (shown["archived"]["number"], shown["failed"]["number"]) == (2, 1)


async def test_a_result_is_downloaded(tmp_path: Path) -> None:
    """Write a copy, and without one the provider's own file, byte for byte; leave no file behind a refusal."""
    async with archiving(tmp_path, RELAY_ARCHIVE="off") as archive:
        shell = Shell(archive.running, tmp_path)
        job = (await archive.succeeded())["id"]
        target = tmp_path / "clip.mp4"
        direct = await shell("archive", "get", job, "--to", str(target), "--output", "json")
        assert (direct.json(), target.read_bytes()) == ({"file": str(target), "bytes": len(CLIP)}, CLIP)
        assert (await shell("archive", "backfill")).status == 0
        archive.results.answer = whole(b"another")
        copied = await shell("archive", "get", job, "0", "--to", str(target), "--output", "json")
        assert (copied.json()["bytes"], target.read_bytes()) == (len(CLIP), CLIP)
        none = await shell("archive", "get", job, "7", "--to", str(tmp_path / "none"))
        assert (none.status, "there is no such output" in none.err) == (3, True)
        left = await asyncio.to_thread(lambda: sorted(path.name for path in tmp_path.iterdir()))
        assert not [name for name in left if name.startswith("none") or name.endswith(".part")]


@asynccontextmanager
async def answering(answer: str) -> AsyncIterator[str]:
    """Yield the origin of a server that gives each request this answer, and closes the connection then."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer.encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def fetched(origin: str, target: Path) -> commands.Ended:
    """Return how the download of a result from this relay ended."""
    return await commands.run(("archive", "get", "job_1", "--to", str(target)), clean({"RELAY_URL": origin}), b"")


def names(folder: Path) -> list[str]:
    """Return the names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


async def test_a_result_that_does_not_answer_is_named_by_its_host(tmp_path: Path) -> None:
    """Exit 75 and name the host alone, whether it refuses, breaks off, or redirects to what refuses; leave no file."""
    refusing = f"http://localhost:1{SIGNED}"
    redirect = "HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    broken = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf"
    async with answering(broken) as cut, answering(redirect.format(refusing)) as leading:
        cases = [(refusing, "localhost"), (f"{cut}{SIGNED}", "127.0.0.1"), (f"{leading}{SIGNED}", "localhost")]
        for url, host in cases:
            async with answering(redirect.format(url)) as origin:
                done = await fetched(origin, tmp_path / "clip.mp4")
            shown = done.err.decode()
            assert (done.status, done.out) == (75, b"")
            assert shown.startswith(f"relay: the result's URL at {host} does not answer: ")
            assert not [text for text in ("signature", "start relay", origin, "Traceback") if text in shown]
            assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("answer", "status"), [("503 Service Unavailable", 75), ("429 Slow", 75), ("403 Forbidden", 1)]
)
async def test_what_the_result_answers_decides_the_status(tmp_path: Path, answer: str, status: int) -> None:
    """Exit 75 where it is worth to try again, and 1 where the result is gone; leave no file."""
    async with answering(f"HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n") as there:
        leading = f"HTTP/1.1 302 Found\r\nlocation: {there}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        async with answering(leading) as origin:
            done = await fetched(origin, tmp_path / "clip.mp4")
    assert (done.status, done.err.decode()) == (status, f"relay: the result's URL answered HTTP {answer[:3]}\n")
    assert names(tmp_path) == []


async def test_a_relay_that_breaks_off_is_named(tmp_path: Path) -> None:
    """Exit 75 and name relay if relay itself does not send the whole result; leave no file."""
    async with answering("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf") as origin:
        done = await fetched(origin, tmp_path / "clip.mp4")
    assert (done.status, done.err.decode().startswith(f"relay: {origin} does not answer: ")) == (75, True)
    assert names(tmp_path) == []


async def test_a_result_is_written_where_a_file_can_be(tmp_path: Path) -> None:
    """Exit 1 and name the file if its folder does not exist or is a file."""
    (tmp_path / "file").write_bytes(b"")
    async with answering("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nclip") as origin:
        for folder, why in (("none", "No such file or directory"), ("file", "Not a directory")):
            target = tmp_path / folder / "clip.mp4"
            done = await fetched(origin, target)
            assert (done.status, done.err.decode()) == (1, f"relay: cannot write {target}: {why}\n")
    assert names(tmp_path) == ["file"]


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    """Keep the former file, and no part of the new one, if the disk is full in the middle of a file."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"former")

    def write_a_half() -> None:
        with whole_file(path) as part:
            part.write_bytes(b"ha")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(Refused, match=r"^cannot write .*/clip\.mp4: No space left on device$"):
        write_a_half()
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"clip.mp4": b"former"}
    with whole_file(path) as part:
        part.write_bytes(b"whole")
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"clip.mp4": b"whole"}


async def test_copies_are_listed_and_made_again(tmp_path: Path) -> None:
    """List the copies of a job with why one failed, make it again, and find the jobs of others; exit 1 for nothing."""
    async with archiving(tmp_path, RELAY_ARCHIVE_MAX_BYTES="10000") as archive:
        shell = Shell(archive.running, tmp_path)
        archive.results.answers = [whole(bytes(10_001)), whole(bytes(10_001))]
        job, other = (await archive.succeeded())["id"], (await archive.succeeded())["id"]
        listed = await shell("archive", "copies", job)
        assert "larger than 10000 bytes" in listed.out
        assert (await shell("archive", "copy", job, "--output", "json")).json()[0]["number"] == 0
        await quiet()
        (made,) = (await shell("archive", "copies", job, "--output", "json")).json()
        assert (made["state"], made["bytes"], made["tries"]) == ("archived", len(CLIP), 1)
        nothing = await shell("archive", "copy", job)
        assert (nothing.status != 0, "no result to copy" in nothing.err) == (True, True)
        found = await shell("jobs", "list", "--copies", "failed", "--output", "json")
        assert [one["id"] for one in found.json()] == [other]
        done = await shell("jobs", "bulk", "copy", "--copies", "failed", "--yes", "--output", "json")
        assert [(one["job"], one["done"]) for one in done.json()] == [(other, True)]


def test_what_is_no_plain_file_is_written_itself(tmp_path: Path) -> None:
    """Replace the file that a link leads to, and write into a device, such as /dev/stdout; both stay what they are."""
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real)
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for path in (link, tmp_path / "pipe"):
        with whole_file(path) as part:
            part.write_bytes(b"clip")
    assert (real.read_bytes(), os.read(reading, 9), link.is_symlink()) == (b"clip", b"clip", True)
    os.close(reading)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe", "real"]
