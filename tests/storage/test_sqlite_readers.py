"""Reads of SQLite: a slow list delays no other read, and least of all the look-up of a key."""

import asyncio
from pathlib import Path

import pytest

from relay.errors import StorageUnavailable
from relay.storage.engine.database import Purpose
from relay.storage.engine.migrations import migrate
from relay.storage.engine.sqlite import SQLite
from relay.storage.engine.sqlite_readers import CONNECTIONS
from relay.storage.engine.statements import Dialect, Statement

pytestmark = pytest.mark.anyio

SLOW = """
WITH RECURSIVE counting (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counting WHERE n < :most)
SELECT MAX(n) AS n FROM counting
"""


async def opened(folder: Path) -> SQLite:
    """Return a migrated file, with a statement that takes as long as a test wants."""
    database = await SQLite.open(folder / "relay.db")
    database.statements["slow"] = Statement(SLOW, Dialect.SQLITE)
    await migrate(database, 1)
    return database


async def test_slow_lists_delay_no_other_read(tmp_path: Path) -> None:
    """Answer keys and single objects while every connection for lists is busy, and more lists wait."""
    database = await opened(tmp_path)
    try:
        lists = [
            asyncio.ensure_future(database.rows("slow", {"most": 4_000_000}, Purpose.LIST))
            for _ in range(2 * CONNECTIONS[Purpose.LIST])
        ]
        await asyncio.sleep(0)  # each has a turn of the loop: all connections for lists are taken
        for purpose in (Purpose.KEY, Purpose.READ):
            assert len(await database.rows("project_by_name", {"name": "default"}, purpose)) == 1
        assert not any(one.done() for one in lists)
        for one in lists:
            one.cancel()
        await asyncio.gather(*lists, return_exceptions=True)
        assert (await database.rows("slow", {"most": 3}, Purpose.LIST)) == [{"n": 3}]
    finally:
        await database.close()


async def test_a_read_of_a_closed_database_is_refused(tmp_path: Path) -> None:
    """Refuse a read after the end, and one that waited for a connection when the end came."""
    database = await opened(tmp_path)
    reads = [asyncio.ensure_future(database.rows("slow", {"most": 300_000}, Purpose.KEY)) for _ in range(3)]
    await asyncio.sleep(0)  # one has the connection, two wait for it
    await database.close()
    ended = await asyncio.gather(*reads, return_exceptions=True)
    assert [type(one) for one in ended[1:]] == [StorageUnavailable] * 2
    with pytest.raises(StorageUnavailable, match="closed"):
        await database.rows("project_by_name", {"name": "default"})
    await database.close()
