"""Jobs that an earlier relay stored in one row each, brought to two rows: none is lost or changed."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from relay.model.job import Job
from relay.storage import job_rows
from relay.storage.engine.copy_to_postgres import copy
from relay.storage.engine.database import Transaction
from relay.storage.engine.database_url import sqlite_path
from relay.storage.engine.migrations import migrate
from relay.storage.engine.postgres import PostgreSQL
from tests.storage.test_upgrade import of_version
from tests.support.drawn_jobs import jobs
from tests.support.past import select
from tests.support.postgres import Server
from tests.support.running import DATABASES

pytestmark = pytest.mark.both_databases

BEFORE = 10
"""The schema's version whose `jobs` has a column for each field."""
NEWER = {"traceparent", "approval", "checked", "archive", "held"}
"""Fields that came later, and never had a column there."""
SETTINGS = settings(max_examples=12, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None)
"""Each example is a database of its own, so a failure is shown as it was found."""


def literal(value: object) -> str:
    """Return a value as SQL writes it."""
    if value is None or isinstance(value, (bool, int)):
        return "NULL" if value is None else str(int(value))
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return "'{}'".format(text.replace("'", "''"))


def as_before(job: Job) -> str:
    """Return the statement by which the earlier relay stored a job."""
    columns: Mapping[str, Any] = {
        name: value for name, value in msgspec.structs.asdict(job).items() if name not in NEWER
    }
    names = ", ".join(columns)
    return f"INSERT INTO jobs ({names}) VALUES ({', '.join(map(literal, columns.values()))})"


async def upgraded(folder: Path, wanted: list[Job]) -> tuple[list[Job], list[tuple[Any, ...]]]:
    """Return the jobs, and their rows, of a database that was filled before it was migrated."""
    async with of_version(folder, BEFORE) as database:

        async def write(transaction: Transaction) -> None:
            for job in wanted:
                await transaction.run_text(as_before(job))

        await database.transact(write)
        await migrate(database, 1)
        found = [
            (await database.rows("job_of_project", {"id": job.id, "project_id": job.project_id}))[0] for job in wanted
        ]
        columns = ", ".join(name for name in job_rows.JobRow.__struct_fields__ if name != "doc")
        return [job_rows.job(row) for row in found], await select(database, f"SELECT {columns} FROM jobs ORDER BY id")


@given(drawn=st.lists(jobs(), min_size=8, max_size=16))
@SETTINGS
def test_no_job_changes_when_its_row_becomes_two(tmp_path_factory: pytest.TempPathFactory, drawn: list[Job]) -> None:
    """Keep each field of each job, and give it the columns and the timer that it would have if it were stored now."""
    wanted = [msgspec.structs.replace(job, id=f"job_{number:03}") for number, job in enumerate(drawn)]
    found, stored = asyncio.run(upgraded(tmp_path_factory.mktemp("upgrade"), wanted))
    assert found == wanted
    fresh = [msgspec.structs.astuple(job_rows.row(job))[:-1] for job in wanted]
    assert [tuple(row) for row in stored] == fresh


@given(drawn=st.lists(jobs(), min_size=8, max_size=16))
@settings(SETTINGS, max_examples=1)
def test_what_was_migrated_is_copied_to_postgresql(
    tmp_path_factory: pytest.TempPathFactory, database_server: Server, drawn: list[Job]
) -> None:
    """Copy both rows of each job from a SQLite file that was migrated."""
    if DATABASES.postgres is not None:
        pytest.skip("the copy reads SQLite")
    wanted = [msgspec.structs.replace(job, id=f"job_{number:03}") for number, job in enumerate(drawn)]

    async def copied() -> list[Job]:
        folder = tmp_path_factory.mktemp("copy")
        await upgraded(folder, wanted)
        target = await PostgreSQL.open(database_server.database())
        try:
            await copy(sqlite_path(DATABASES.empty(folder)), target, 1, lambda *_: None)
            keys = [{"id": job.id, "project_id": job.project_id} for job in wanted]
            return [job_rows.job((await target.rows("job_of_project", key))[0]) for key in keys]
        finally:
            await target.close()

    assert asyncio.run(copied()) == wanted
