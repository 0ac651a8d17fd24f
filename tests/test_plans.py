"""On a database with a past, every hot statement runs by an index: none reads a big table whole."""

import asyncio
from pathlib import Path

from bench import plans
from bench.filling import fill
from relay.storage.migrate import migrate
from relay.storage.store import open_database
from tests.postgres import Server

FINISHED, PENDING = 20_000, 5_000


async def _migrate(url: str) -> None:
    """relay's schema."""
    database = await open_database(url)
    await migrate(database, 1)
    await database.close()


def test_on_sqlite_no_hot_statement_reads_a_big_table_whole(tmp_path: Path) -> None:
    """With thousands of finished deliveries and waiting retries, measured by ANALYZE."""
    path = tmp_path / "relay.db"
    asyncio.run(_migrate(f"sqlite:///{path}"))
    fill(f"sqlite:///{path}", FINISHED, PENDING)
    found = plans.sqlite_plans(str(path))
    assert {plan.name: plan.scanned for plan in found if plan.scanned} == {}
    assert {plan.name for plan in found if plan.indexes} == set(plans.HOT)


def test_on_postgresql_no_hot_statement_reads_a_big_table_whole(database_server: Server) -> None:
    """The generic plans, which are those that relay runs, on an empty database and on one with a past."""
    url = database_server.database()
    asyncio.run(_migrate(url))
    empty = asyncio.run(plans.postgres_plans(url))
    fill(url, FINISHED, PENDING)
    filled = asyncio.run(plans.postgres_plans(url))
    assert {plan.name: plan.scanned for plan in (*empty, *filled) if plan.scanned} == {}
    assert {plan.name for plan in filled if plan.indexes} == set(plans.HOT)
