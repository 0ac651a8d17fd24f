"""A newer relay migrates the database while this one runs: columns that it adds disturb nothing, on both databases."""

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from relay.storage.engine import statements
from relay.storage.engine.exchanges import PostgreSQLTransaction
from relay.storage.engine.migrations import migrate
from relay.storage.engine.postgres import PostgreSQL
from relay.storage.engine.statements import texts
from tests.support.calling_back import DONE, post
from tests.support.postgres import Server
from tests.support.running import DATABASES, HeldClock, Running, relay

pytestmark = pytest.mark.anyio

TABLES = tuple(re.findall(r"CREATE TABLE (\w+)", Path(statements.__file__).parent.with_name("schema.sql").read_text()))
READS = (
    *(
        "/v1/jobs",
        "/v1/jobs/{job}",
        "/v1/jobs/{job}/timeline",
        "/v1/jobs?metadata[k]=v",
        "/v1/events",
        "/v1/events?job={job}",
    ),
    *(
        "/v1/events?after=evt_0",
        "/v1/deliveries",
        "/v1/deliveries?job={job}",
        "/v1/callbacks",
        "/v1/callbacks?job={job}",
    ),
    *(
        "/v1/endpoints",
        "/v1/endpoints/{endpoint}",
        "/v1/endpoints/{endpoint}/secret",
        "/v1/spend",
        "/readyz",
        "/metrics",
    ),
)


async def change(folder: Path, texts: Sequence[str]) -> None:
    """Run statements as another process, on whichever database the test has."""
    url = DATABASES.url(folder)
    if DATABASES.postgres is None:
        with closing(sqlite3.connect(folder / "relay.db")) as connection:
            for text in texts:
                connection.execute(text)
        return
    connection = await asyncpg.connect(url)
    try:
        for text in texts:
            await connection.execute(text)
    finally:
        await connection.close()


async def round_of_everything(running: Running, key: str) -> list[int]:
    """Submit, call back, notify, redeliver, enable, prune and read; return the statuses of all answers."""
    client, statuses = running.client, []
    made = await client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["*"]})
    endpoint = made.json()["id"]
    one = {"provider": "evolink", "input": {"images": ["https://example.com/a.png"], "prompt": "x", "duration_s": 5}}
    submitted = await client.post("/v1/jobs", json=one | {"metadata": {"k": "v"}}, headers={"idempotency-key": key})
    again = await client.post("/v1/jobs", json=one | {"metadata": {"k": "v"}}, headers={"idempotency-key": key})
    job = submitted.json()["id"]
    statuses += [made.status_code, submitted.status_code, again.status_code]
    statuses.append((await post(running, DONE)).status_code)
    await running.until(f"/v1/jobs/{job}", lambda shown: shown["status"] == "succeeded")
    delivered = await running.until(
        f"/v1/deliveries?job={job}&endpoint={endpoint}",
        lambda found: {d["status"] for d in found["data"]} == {"delivered"},
    )
    path = f"/v1/deliveries/{delivered['data'][0]['id']}"
    statuses += [(await client.get(path)).status_code, (await client.post(f"{path}/redeliveries")).status_code]
    for status in ("disabled", "active"):
        statuses.append((await client.patch(f"/v1/endpoints/{endpoint}", json={"status": status})).status_code)
    for verb, body in (
        ("tests", None),
        ("secret-rotations", None),
        ("redeliveries", {"since": "2020-01-01T00:00:00Z"}),
    ):
        statuses.append((await client.post(f"/v1/endpoints/{endpoint}/{verb}", json=body)).status_code)
    for verb in ("status-checks", "failures", "cancellations"):
        statuses.append(
            (
                await client.post(f"/v1/jobs/{job}/{verb}", json={"reason": "x"} if verb == "failures" else {})
            ).status_code
        )
    for read in READS:
        statuses.append((await client.get(read.format(job=job, endpoint=endpoint))).status_code)
    return statuses


async def test_columns_that_a_newer_relay_adds_disturb_nothing(tmp_path: Path) -> None:
    """Serve every request as before when each table gets a column while relay runs, with all statements prepared."""
    async with relay(tmp_path, clock=HeldClock(), confirm=False) as running:
        before = await round_of_everything(running, "a")
        assert all(status < 500 for status in before), before
        await change(tmp_path, [f"ALTER TABLE {table} ADD COLUMN added_later INTEGER DEFAULT 7" for table in TABLES])
        assert await round_of_everything(running, "b") == before
        assert await round_of_everything(running, "c") == before


async def test_a_column_of_another_type_is_prepared_anew(database_server: Server) -> None:
    """Do a transaction again where a column that it reads has another type since its statement was prepared."""
    database = await PostgreSQL.open(database_server.database())

    async def rename(transaction: PostgreSQLTransaction) -> int:
        await transaction.rows("revoke_api_key", {"id": "none", "now": 1})
        return len(await transaction.rows("project_by_name", {"name": "default"}))

    async def widen(transaction: PostgreSQLTransaction) -> None:
        await transaction.run_text("ALTER TABLE projects ALTER COLUMN created_at TYPE NUMERIC")

    try:
        await migrate(database, 1)
        assert await database.transact(rename) == 1
        await database.transact(widen)
        assert await database.transact(rename) == 1
    finally:
        await database.close()


def test_every_statement_names_its_columns() -> None:
    """Refuse `SELECT *` and `RETURNING *`: what a newer relay adds would come into a noun that does not know it."""
    named = {name: text.replace("SELECT * FROM unnest(", "") for name, text in texts().items()}  # arrays that are given
    starred = [name for name, text in named.items() if re.search(r"(?:\*,|(?:SELECT|RETURNING|\w\.)\s*\*)", text)]
    assert starred == []
