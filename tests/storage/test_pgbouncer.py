"""Behind PgBouncer in its transaction mode: whatever session a transaction comes to, relay works as ever."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.clock import SystemClock
from relay.storage.engine.database import DueWork
from relay.storage.engine.exchanges import PostgreSQLTransaction
from relay.storage.engine.migrations import migrate
from relay.storage.engine.postgres import SESSION, PostgreSQL
from relay.storage.engine.statements import Dialect, Statement
from tests.support import pgbouncer
from tests.support.pgbouncer import SESSIONS, Pooler
from tests.support.postgres import Server
from tests.support.running import relay

pytestmark = pytest.mark.anyio

DONE = b'{"status":"completed","results":["https://cdn.example.com/videos/out.mp4"]}'
CLAIM: dict[str, Any] = {
    "now": 1,
    "leased_until": 2,
    "boot": None,
    "busy": [],
    "full": [],
    "limit": 1,
    "window": 1,
    "candidates": 1,
}
WAYS = {"refuses": ("", ""), "ignores": (",".join(SESSION), ""), "declared": ("", "?pgbouncer=true")}
"""What the pooler does with the settings of a session that it does not know, and what the URL says of it."""


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, database_server: Server) -> Iterator[tuple[Pooler, str]]:
    """Yield a pooler, and what is behind a URL that leads to it."""
    if pgbouncer.program() is None and not os.environ.get("CI"):
        pytest.skip("PgBouncer is not installed")
    ignored, query = WAYS[request.param]
    with pgbouncer.pooler(database_server, ignored) as pooler:
        yield pooler, query


@pytest.fixture
def url(way: tuple[Pooler, str], database_server: Server) -> str:
    """Return a fresh database by way of the pooler."""
    pooler, query = way
    return pooler.url(database_server.database()) + query


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgreSQL]:
    """Yield a database, migrated."""
    database = await PostgreSQL.open(url)
    try:
        await migrate(database, 1)
        yield database
    finally:
        await database.close()


async def told(transaction: PostgreSQLTransaction) -> dict[str, str]:
    """Return the settings that are in force."""
    (row,) = await transaction.rows("settings_in_force", {})
    return dict(row)


async def test_a_transaction_has_relays_settings_and_leaves_none_behind(url: str) -> None:
    """Each session's plans are made as relay wants them; what is not relay's finds the server's own."""
    async with opened(url) as database:
        settings = ", ".join(f"current_setting('{name}') AS {name}" for name in SESSION)
        database.statements["settings_in_force"] = Statement(f"SELECT {settings}", Dialect.POSTGRES)
        assert await database.transact(told) == SESSION
        async with database.pool.acquire() as connection, connection.transaction():
            assert await connection.fetchval("SHOW plan_cache_mode") == "auto"


async def test_relays_that_share_sessions_do_not_meet(url: str) -> None:
    """Many reads, claims and batches at once over two sessions of the server: none finds another's statement."""
    async with opened(url) as one, opened(url) as another:

        async def write(transaction: PostgreSQLTransaction, name: str) -> None:
            projects = [
                {"id": f"prj_{name}_{number}", "name": f"{name}_{number}", "created_at": 1} for number in (1, 2)
            ]
            await transaction.run_many("insert_project", projects)
            await transaction.notify(DueWork.DELIVERIES)

        async def use(database: PostgreSQL, name: str) -> str:
            await database.transact(lambda transaction: write(transaction, name))
            assert await database.claim("claim_deliveries", [CLAIM], read="due_deliveries") == []
            assert await database.size_bytes() > 0
            return str((await database.rows("project_by_name", {"name": f"{name}_2"}))[0]["id"])

        names = [f"p{number}" for number in range(40)]
        found = await asyncio.gather(*(use((one, another)[n % 2], name) for n, name in enumerate(names)))
        assert found == [f"prj_{name}_2" for name in names]
        for _ in range(2 * SESSIONS):
            async with one.pool.acquire() as connection, connection.transaction():
                assert await connection.fetchval("SELECT COUNT(*) FROM pg_prepared_statements WHERE name <> ''") == 0


async def test_a_whole_relay_works_behind_it(tmp_path: Path, url: str) -> None:
    """Two relays on one database: a job is submitted, called back and told, once, whichever of them does it."""
    async with (
        relay(tmp_path, clock=SystemClock(), confirm=False, DATABASE_URL=url) as running,
        relay(tmp_path, clock=SystemClock(), confirm=False, DATABASE_URL=url),
    ):
        jobs = [await running.submit(notify=[{"url": running.hook, "event_types": ["job.succeeded"]}]) for _ in "12345"]
        answers = await asyncio.gather(
            *(running.client.post(running.callback_url(number), content=DONE) for number in range(len(jobs)))
        )
        assert [answer.status_code for answer in answers] == [200] * len(jobs)
        await running.until(
            "/v1/deliveries?status=delivered", lambda found: len(found["data"]) == len(jobs), timeout_s=20
        )
        assert running.sink.events() == ["job.succeeded"] * len(jobs)
        assert (await running.client.get("/readyz")).status_code == 200


async def test_without_a_pooler_sessions_are_relays_own(database_server: Server) -> None:
    """A server that keeps what a session was told is used with prepared statements and hints."""
    async with opened(database_server.database()) as database:
        assert not database.pooled
        async with database.pool.acquire() as connection:
            assert await connection.fetchval("SHOW plan_cache_mode") == SESSION["plan_cache_mode"]
