"""Brings a database to this relay's schema: numbered files, forward only, recorded in the transaction that ran them."""

from functools import partial
from importlib import resources
from typing import Final

import msgspec

from relay.errors import SettingsError
from relay.storage.database import Database, Transaction

_REGISTER: Final = (
    "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)"
)


MAKE_IT: Final = "name the database that relay uses in DATABASE_URL, or make a new one with: python -m relay migrate"


class Migration(msgspec.Struct, frozen=True):
    """One file: its number, its name, its statements."""

    version: int
    name: str
    statements: tuple[str, ...]


def migrations() -> list[Migration]:
    """Every migration in order; ValueError when a number is missing or used twice."""
    files = sorted(
        file.name
        for file in resources.files(__package__).joinpath("migrations").iterdir()
        if file.name.endswith(".sql")
    )
    found = [Migration(int(name[:4]), name, tuple(split(_text(name)))) for name in files]
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations are not numbered 1, 2, 3 …: {files}")
    return found


async def migrate(database: Database, now_ms: int) -> list[str]:
    """Runs what is missing, all in one transaction, and names it; SettingsError when the database is newer."""
    return await database.transact(partial(_migrate, now_ms=now_ms))


async def require(database: Database, name: str) -> None:
    """Raise SettingsError, with the database's name, unless relay has made its tables there."""
    await database.transact(partial(_require, name=name))


def split(text: str) -> list[str]:
    """The statements of a file, without its comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";\n") if statement.strip()]


async def _migrate(transaction: Transaction, now_ms: int) -> list[str]:
    """What `migrate` promises, within its transaction."""
    await transaction.lock_schema()
    if not await transaction.has_table("schema_migrations"):  # a role that may not make tables may use those there are
        await transaction.run_text(_REGISTER)
    version = (await transaction.rows("schema_version", {}))[0]["version"]
    known = migrations()
    if version > len(known):
        raise SettingsError(
            f"the database has schema version {version}, this relay knows {len(known)}: "
            "start the newer relay, or restore a backup"
        )
    for migration in known[version:]:
        await _run(transaction, migration, now_ms)
    for name in ("forget_positions_of_endpoints", "forget_positions_of_redeliveries", "count_positions_anew"):
        await transaction.rows(name, {})
    return [migration.name for migration in known[version:]]


async def _require(transaction: Transaction, name: str) -> None:
    """What `require` promises."""
    made = await transaction.has_table("schema_migrations")
    if not made or not (await transaction.rows("schema_version", {}))[0]["version"]:
        raise SettingsError(f"{name} holds no tables of relay's: {MAKE_IT}")


async def _run(transaction: Transaction, migration: Migration, now_ms: int) -> None:
    """One migration and its entry in the register."""
    for statement in migration.statements:
        await transaction.run_text(statement.rstrip(";"))
    await transaction.rows("register_migration", {"version": migration.version, "name": migration.name, "now": now_ms})


def _text(name: str) -> str:
    """The text of a migration's file."""
    return resources.files(__package__).joinpath("migrations", name).read_text("utf-8")
