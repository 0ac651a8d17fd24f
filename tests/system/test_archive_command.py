"""`relay archive`, as a user starts it: a real process, a real relay with an archive in a folder."""

import asyncio
from pathlib import Path

import pytest

from tests.flow.test_archive import archiving
from tests.support.quiescence import quiet
from tests.support.results import CLIP, whole
from tests.system.test_command_line import Shell

pytestmark = pytest.mark.anyio


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
