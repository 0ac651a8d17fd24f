"""The database: migrations, statements, indexes, and what may not be found in its file."""

import asyncio
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from relay.errors import SettingsError, StorageUnavailable
from relay.storage.engine import migrations, statements
from relay.storage.engine.database import Transaction
from relay.storage.engine.database_url import sqlite_path
from relay.storage.engine.group_commit import Writer
from relay.storage.engine.sqlite import SQLite
from relay.storage.engine.statements import Dialect
from tests.support.running import relay

pytestmark = pytest.mark.anyio

SCHEMA = Path(migrations.__file__).parent.with_name("schema.sql")
HOT = {
    "claim_deliveries": "deliveries_due",
    "next_due_delivery": "deliveries_due",
    "take_back_deliveries": "deliveries_due",
    "take_back_checks": "jobs_to_check",
    "take_back_confirmations": "jobs_to_confirm",
    "due_jobs": "jobs_due",
    "next_job_clock": "jobs_due",
    "jobs_left_in_submission": "jobs_due",
    "claim_checks": "jobs_to_check",
    "claim_check": "sqlite_autoindex_jobs",
    "next_checks": "jobs_to_check",
    "claim_confirmations": "jobs_to_confirm",
    "next_confirmations": "jobs_to_confirm",
    "recorded_digests": "callbacks_",
    "api_key_by_digest": "sqlite_autoindex_api_keys",
    "api_keys_in_use": "api_keys_in_use",
    "endpoints_listening": "endpoints_standing",
    "delivery_counts": "deliveries_of_event",
    "prunable_jobs": "jobs_due",
    "prunable_events": "events_of_no_job",
    "prunable_callbacks": "callbacks_orphaned",
    "prune_redeliveries": "redeliveries_done",
    "prune_endpoints": "endpoints_deleted",
    "prune_tombstones": "tombstones_expiry",
    "callbacks_kept": "callbacks_of_job",
    "events_following": "events_in_order",
    "first_event_after": "events_",
    "latest_event": "events_in_order",
    "insert_event": "events_in_order",
    "copies_now": "copies_waiting",
    "copy_counts": "COVERING INDEX copies_of_project",
}


@pytest.fixture
def migrated(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a database that the migrations made."""

    async def make() -> None:
        database = await SQLite.open(tmp_path / "relay.db")
        try:
            assert await migrations.migrate(database, 1) == [one.name for one in migrations.migrations()]
            assert await migrations.migrate(database, 2) == []
        finally:
            await database.close()

    asyncio.run(make())
    with closing(sqlite3.connect(tmp_path / "relay.db")) as connection:
        yield connection


def shape(connection: sqlite3.Connection) -> dict[str, str]:
    """Every table and index, however it is spaced."""
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {name: re.sub(r"\s+|IF NOT EXISTS", "", sql) for name, sql in rows}


def test_the_migrations_make_the_schema(migrated: sqlite3.Connection) -> None:
    """schema.sql is what all migrations together make."""
    with closing(sqlite3.connect(":memory:")) as fresh:
        fresh.executescript(SCHEMA.read_text())
        assert shape(migrated) == shape(fresh)


def test_the_default_project_is_as_old_as_its_database(migrated: sqlite3.Connection) -> None:
    """Show when the database was made as the age of the project that each has."""
    assert migrated.execute("SELECT name, created_at FROM projects").fetchall() == [("default", 1)]


STATEMENTS = statements.load(Dialect.SQLITE)


def test_every_statement_prepares(migrated: sqlite3.Connection) -> None:
    """Name no column in a statement that is not there."""
    wrong = {}
    for name, statement in STATEMENTS.items():
        try:
            migrated.execute(f"EXPLAIN {statement.source}", dict.fromkeys(statement.names))
        except sqlite3.Error as error:
            wrong[name] = str(error)
    assert wrong == {}


def test_a_statement_means_what_it_says_on_both_databases() -> None:
    """Say why beside each text, hide nothing in it, and give a name's texts the same parameters.

    PostgreSQL's text may need fewer: it locks a job without a version, and knows of open transactions by itself.
    """
    for name, text in statements.texts().items():
        first, *rest = text.splitlines()
        assert first.startswith("-- "), f"{name} does not say what it is for"
        assert "/*" not in text, f"{name} has a comment within its text"
        assert "--" not in "\n".join(line for line in rest if not line.startswith("-- ")), name
    postgres = statements.load(Dialect.POSTGRES)
    assert postgres.keys() - STATEMENTS.keys() == {
        "committed_before",
        "count_positions_anew",
        "durability",
        "forget_positions_of_endpoints",
        "forget_positions_of_redeliveries",
        "horizon",
        "jobs_and_listeners_unlocked",
        "lock_boot",
        "server_clock",
    }
    for name, statement in STATEMENTS.items():
        assert set(statement.names) <= set(postgres[name].names), name


def test_a_hot_statement_uses_its_index(migrated: sqlite3.Connection) -> None:
    """Read only what is due, in what runs on every turn."""
    plans = {}
    for name in HOT:
        statement = STATEMENTS[name]
        explained = migrated.execute(f"EXPLAIN QUERY PLAN {statement.source}", dict.fromkeys(statement.names))
        plans[name] = str(explained.fetchall())
    assert {name: plan for name, plan in plans.items() if HOT[name] not in plan} == {}


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """A relay that is older than its database does not touch it."""
    database = await SQLite.open(tmp_path / "relay.db")
    try:
        await migrations.migrate(database, 1)
        future = {"version": 99, "name": "from the future", "now": 1}
        await database.transact(lambda transaction: transaction.rows("register_migration", future))
        with pytest.raises(SettingsError, match="schema version 99"):
            await migrations.migrate(database, 2)
    finally:
        await database.close()


async def test_no_secret_stands_in_the_file_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    """Endpoints' secrets and headers, answers that showed them, and API keys are not in the file as they are."""
    async with relay(tmp_path, DATABASE_URL=f"sqlite:///{tmp_path}/new.db") as running:
        body = {"url": running.hook, "headers": {"x-key": "very-secret-header"}}
        made = (await running.client.post("/v1/endpoints", json=body, headers={"idempotency-key": "k"})).json()
        key = (await running.app.store.access.create_api_key("films", "", ["read"], 1)).text
        await running.submit()
    held = b"".join(path.read_bytes() for path in tmp_path.glob("new.db*"))  # noqa: ASYNC240
    assert not [text for text in (made["secret"], "very-secret-header", key) if text.encode() in held]
    assert (tmp_path / "new.db").stat().st_mode & 0o777 == 0o600


async def test_a_secret_that_no_key_opens_holds_back_no_other(tmp_path: Path) -> None:
    """An endpoint whose secret was damaged waits, and others get their notifications."""
    async with relay(tmp_path) as running:
        await running.client.post("/v1/endpoints", json={"url": f"{running.hook}/old"})
        with closing(sqlite3.connect(tmp_path / "relay.db")) as connection, connection:
            connection.execute("UPDATE endpoints SET secret = X'0203'")
        await running.submit(notify=[{"url": f"{running.hook}/new"}])
        await running.sink.wait_for(lambda sink: [one.path for one in sink.received] == ["/hook/new"])


async def test_one_bad_item_fails_alone_and_the_rest_of_its_turn_is_written(tmp_path: Path) -> None:
    """Items of one turn share a commit; the one that breaks a rule gets its error, the others their result."""
    database = await SQLite.open(tmp_path / "relay.db")
    try:
        await migrations.migrate(database, 1)
        writer = Writer(database, backlog_max=8)
        names = ["a", "b", "a", "c"]
        results = await asyncio.gather(*(writer.write(_insert, name) for name in names), return_exceptions=True)
        assert [type(result) for result in results] == [str, str, sqlite3.IntegrityError, str]
        found = await database.rows("project_by_name", {"name": "c"})
        assert len(found) == 1
        full = await asyncio.gather(*(writer.write(_insert, f"n{n}") for n in range(20)), return_exceptions=True)
        assert sum(isinstance(result, StorageUnavailable) for result in full) == 12
    finally:
        await database.close()


async def _insert(transaction: Transaction, names: Sequence[str]) -> list[str]:
    """Insert projects whose id is their name, so that the same one twice is refused."""
    params = [
        {"id": name, "name": name, "scopes": "", "project_id": "p", "digest": name.encode(), "created_at": 1}
        for name in names
    ]
    await transaction.run_many("insert_api_key", params)
    await transaction.run_many("insert_project", params)
    return list(names)


def test_a_url_that_names_no_database_is_refused() -> None:
    """Only sqlite:///path is one, and the error says so without repeating the URL."""
    assert sqlite_path("sqlite:////abs/x.db") == Path("/abs/x.db")
    assert sqlite_path("sqlite:///./rel/x.db") == Path("rel/x.db")
    for url in ("mysql://u:pw@h/d", "sqlite://", "sqlite:///", "relay.db", "sqlite:///x.db?mode=ro"):
        with pytest.raises(SettingsError) as refused:
            sqlite_path(url)
        assert "pw" not in str(refused.value)
