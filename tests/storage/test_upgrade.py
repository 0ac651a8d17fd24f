"""A database that an earlier relay filled, brought to this one's schema: every row is there, as it was."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from relay.model.job import Job, JobState
from relay.security.encryption import Encryption
from relay.storage import job_rows
from relay.storage.deliveries import Deliveries
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.engine.migrations import migrate, migrations
from relay.storage.engine.statements import Dialect
from relay.storage.history import Events
from relay.storage.redeliveries import Redeliveries
from relay.storage.search import Search
from relay.storage.store import open_database
from tests.support.past import select
from tests.support.running import DATABASES, SECRET_KEY

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

PROJECTS = ("prj_default", "prj_other")
STATES = ("pending", "delivered", "exhausted", "canceled")
DELIVERY = (
    "id, project_id, event_id, endpoint_id, job_id, state, attempts_made, next_attempt_at, redelivery, created_at, "
    "finished_at, leased_by"
)
ATTEMPT = "id, delivery_id, number, outcome, status_code, error, started_at, duration_ms, response_excerpt"


@asynccontextmanager
async def of_version(folder: Path, version: int) -> AsyncIterator[Database]:
    """Yield a database as a relay left it that knew so many migrations."""
    database = await open_database(DATABASES.empty(folder))

    async def make(transaction: Transaction) -> None:
        register = "version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL"
        await transaction.run_text(f"CREATE TABLE schema_migrations ({register})")
        for migration in migrations(Dialect.POSTGRES if database.shared else Dialect.SQLITE)[:version]:
            for statement in migration.statements:
                await transaction.run_text(statement.rstrip(";"))
            named = {"version": migration.version, "name": migration.name, "now": 1}
            await transaction.rows("register_migration", named)

    try:
        await database.transact(make)
        yield database
    finally:
        await database.close()


async def run(database: Database, texts: list[str]) -> None:
    """Run statements of the test's own, in one transaction."""

    async def write(transaction: Transaction) -> None:
        for text in texts:
            await transaction.run_text(text)

    await database.transact(write)


async def test_deliveries_and_attempts_keep_every_row(tmp_path: Path) -> None:
    """Keep each delivery of each project and state, and each attempt with its id and number, when their keys change."""
    texts = []
    for number in range(40):
        project, state = PROJECTS[number % 2], STATES[number // 2 % 4]
        due, ended = ("5", "NULL") if state == "pending" else ("NULL", "6")
        texts.append(
            f"INSERT INTO deliveries ({DELIVERY}) VALUES ('dlv_{99 - number}', '{project}', 'evt_{number // 4}', "
            f"'ep_1', NULL, '{state}', {number % 4}, {due}, {number % 2}, {number}, {ended}, {number % 3})"
        )
        texts += [
            f"INSERT INTO attempts ({ATTEMPT}) VALUES ('att_{number}_{made}', 'dlv_{99 - number}', {made}, "
            f"'bad_status', 500, NULL, {made}, 7, 'an answer')"
            for made in range(number % 4, 0, -1)
        ]
    async with of_version(tmp_path, 9) as database:
        await run(database, texts)
        reads = [f"SELECT {DELIVERY} FROM deliveries ORDER BY id", f"SELECT {ATTEMPT} FROM attempts ORDER BY id"]
        before = [await select(database, text) for text in reads]
        assert [len(found) for found in before] == [40, 60]
        assert await migrate(database, 1)
        assert [await select(database, text) for text in reads] == before
        deliveries = Deliveries(database, Writer(database, 10), Encryption([SECRET_KEY]), 1.0)
        found = await deliveries.get("dlv_92", PROJECTS[1])
        assert found is not None
        assert [one.id for one in await deliveries.attempts(found)] == ["att_7_1", "att_7_2", "att_7_3"]
        assert {one.exchange for one in await deliveries.attempts(found)} == {None}
        assert await deliveries.get("dlv_92", PROJECTS[0]) is None


async def test_a_batch_of_an_older_relay_goes_on(tmp_path: Path) -> None:
    """Keep an open batch of redeliveries when batches can be stopped, and find the jobs of before by their ids."""
    async with of_version(tmp_path, 13) as database:
        batch = "'red_1', 'prj_default', 'ep_1', 'all', 1, 9, 'evt_1', 5, 2, 3, NULL"
        columns = (
            "id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at"
        )
        request = "INSERT INTO job_requests (job_id, request, metadata) VALUES ('job_1', '{}', '{}')"
        job = job_rows.row(a_job())
        await run(database, [f"INSERT INTO redeliveries ({columns}) VALUES ({batch})", request])
        await database.transact(partial(insert, job=job))
        assert await migrate(database, 1)
        (found,) = await Redeliveries(database, Writer(database, 10), Events(database)).open()
        assert (found.made, found.after_event, found.canceled_at) == (2, "evt_1", None)
        hits = await Search(database).find("prj_default", "task-1", 10)
        assert [(hit.id, hit.matched) for hit in hits] == [("job_1", "provider_job_id")]


def a_job() -> Job:
    """Return a job that its provider has accepted."""
    return Job(
        id="job_1",
        project_id="prj_default",
        provider="evolink",
        provider_job_id="task-1",
        state=JobState.RUNNING,
        created_at=1,
        updated_at=1,
        deadline_at=2,
        request={},
        metadata={},
    )


async def insert(transaction: Transaction, job: job_rows.JobRow) -> None:
    """Store a job."""
    await transaction.run_many("insert_job", [job])
