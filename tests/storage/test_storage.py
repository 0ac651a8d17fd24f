"""The database's file, as the world may leave it: half migrated, foreign, locked, sealed with another key."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay.errors import RelayError, SettingsError, StorageUnavailable
from relay.security.encryption import Encryption
from relay.storage.api_keys import KeyInUse, digest
from relay.storage.engine import migrations
from relay.storage.engine.sqlite import SQLite
from relay.storage.engine.sqlite_readers import CONNECTIONS
from relay.storage.store import Store, StoreOptions
from tests.support.running import SECRET_KEY, HeldClock, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

OTHER_KEY = "another-key-that-is-long-enough-too"
OPTIONS = StoreOptions(lease_ms=25_000, backlog_max=64, callbacks_per_job_max=10, schedule_s=(0, 5))


async def opened(path: Path) -> Store:
    """Return a store at the path."""
    return await Store.open(f"sqlite:///{path}", Encryption([SECRET_KEY]), OPTIONS, 1)


def schema(path: Path) -> list[str]:
    """Return what the tables and indexes of a file were made with, read from outside."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT sql FROM sqlite_master ORDER BY name")]


async def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """When a statement in the middle fails, those before it are undone, and the file is as it was."""
    path = tmp_path / "relay.db"
    await (await opened(tmp_path / "whole.db")).close()
    with closing(sqlite3.connect(tmp_path / "whole.db")) as connection:
        (register,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'schema_migrations'").fetchone()
    first = migrations.migrations()[0]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(";\n".join([register, *(text.rstrip(";") for text in first.statements)]))
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?, 1)", (first.version, first.name))
        connection.execute("ALTER TABLE jobs ADD COLUMN max_cost BIGINT")  # the third migration adds it
    before = schema(path)
    with pytest.raises(StorageUnavailable, match="duplicate column name: max_cost"):
        await opened(path)
    assert schema(path) == before


async def test_the_keys_in_use_are_those_that_were_used_last(tmp_path: Path) -> None:
    """Return live keys alone, the one that was used last first, and no more than so many; none that was never used."""
    async with relay(tmp_path) as running:
        store, now_ms = running.app.store, running.clock.now_ms()
        keys = [await store.access.create_api_key("films", "", ["read"], now_ms) for _ in range(5)]
        assert await store.access.keys_in_use(9) == []
        for at, key in zip((3, 1, 4, 2), keys, strict=False):
            store.statistics.key_used(key.id, now_ms + at)
        await store.statistics.flush()
        await store.access.revoke_api_key(keys[0].id, now_ms)
        expected = [KeyInUse(keys[number].id, digest(keys[number].text)) for number in (2, 3, 1)]
        assert await store.access.keys_in_use(9) == expected
        assert await store.access.keys_in_use(2) == expected[:2]


async def test_two_relays_that_start_at_once_migrate_once(tmp_path: Path) -> None:
    """The second one waits for the first one's lock, and finds nothing to do."""
    databases = [await SQLite.open(tmp_path / "relay.db") for _ in range(2)]
    try:
        ran = await asyncio.gather(*(migrations.migrate(database, 1) for database in databases))
        assert sorted(ran) == [[], [one.name for one in migrations.migrations()]]
    finally:
        for database in databases:
            await database.close()


async def test_a_commit_is_on_the_disk(tmp_path: Path) -> None:
    """WAL with synchronous=FULL, foreign writers are waited for, and the reading connection cannot write."""
    database = await SQLite.open(tmp_path / "relay.db")
    try:
        texts = [f"PRAGMA {name}" for name in ("journal_mode", "synchronous", "busy_timeout")]
        found = [(await database.ask(text))[0][0] for text in texts]
        assert found == ["wal", 2, 5000]
        for text, value in zip(texts, found, strict=True):
            assert await database.readers.ask(text) == [(value,)] * sum(CONNECTIONS.values())
        await migrations.migrate(database, 1)
        with pytest.raises(StorageUnavailable, match="readonly"):
            await database.rows("insert_project", {"id": "p", "name": "p", "created_at": 1})
    finally:
        await database.close()


async def test_the_file_and_its_companions_are_the_owners_alone(tmp_path: Path) -> None:
    """Neither the database nor its log nor its index can be read by anybody else, and its folder is made."""
    store = await opened(tmp_path / "new" / "folder" / "relay.db")
    try:
        modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "new" / "folder").iterdir()}
        assert modes == dict.fromkeys(("relay.db", "relay.db-wal", "relay.db-shm"), 0o600)
    finally:
        await store.close()


async def test_a_file_that_is_no_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    """Refuse a DATABASE_URL that names another kind of file with one sentence, and leave the file as it is."""
    path = tmp_path / "notes.txt"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(SettingsError, match=r"notes\.txt \(DATABASE_URL\) is no SQLite database"):
        await opened(path)
    assert path.read_bytes() == b"not a database" * 1000


@pytest.mark.parametrize("place", ["file/relay.db", "folder"])
async def test_a_place_where_no_file_can_be_is_a_wrong_setting(tmp_path: Path, place: str) -> None:
    """A path below a file, or that is a folder, is SettingsError, a sentence that names the setting."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SettingsError, match="DATABASE_URL"):
        await opened(tmp_path / place)


async def test_a_closed_store_refuses_quietly(tmp_path: Path) -> None:
    """Closing twice does no harm; what is asked of a closed store is refused, not waited for."""
    store = await opened(tmp_path / "relay.db")
    await store.ready()
    await store.close()
    await store.close()
    async with asyncio.timeout(60):
        with pytest.raises((RelayError, ValueError, sqlite3.ProgrammingError)):
            await store.ready()


async def test_a_key_that_was_taken_out_is_noticed_and_put_back_loses_nothing(tmp_path: Path) -> None:
    """Refuse to start without a key that something is sealed with; with the key back, all goes on."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        path = (await running.client.post("/v1/endpoints", json={"url": running.hook})).headers["location"]
    with pytest.raises(SettingsError, match="Put the key back"):
        async with relay(tmp_path, clock=clock, RELAY_SECRET_KEYS=OTHER_KEY):
            pass
    async with relay(tmp_path, clock=clock, RELAY_SECRET_KEYS=f"{SECRET_KEY},{OTHER_KEY}") as running:
        assert (await running.client.patch(path, json={"url": running.hook})).status_code == 200
        await running.submit()
        await running.sink.wait_for(lambda sink: sink.events() == ["job.submitted"])
