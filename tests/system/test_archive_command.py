"""`relay archive`, as a user starts it: a real process, a real relay with an archive in a folder."""

from pathlib import Path

import pytest

from tests.flow.test_archive import archiving
from tests.support.results import whole
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
