"""Brings a database to this relay's schema: numbered files, forward only, recorded in the transaction that ran them.

A file is for both databases, unless PostgreSQL's own text stands beside it as `0010_fewer_trees.postgres.sql`.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from relay.errors import SettingsError
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.statements import Dialect

_FOLDER: Final = Path(__file__).parents[1] / "migrations"
_REGISTER: Final = "schema_migrations"
_MAKE_REGISTER: Final = (
    "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)"
)
_REGISTER_COLUMNS: Final = frozenset({"version", "name", "applied_at"})
_MADE: Final = re.compile(r"CREATE (?:TABLE|(?:UNIQUE )?INDEX) (\w+)")
_OWN: Final = f".{Dialect.POSTGRES}.sql"
NAMED_MAX: Final = 5

MAKE_IT: Final = "name the database that relay uses in DATABASE_URL, or make a new one with: python -m relay migrate"


class Migration(msgspec.Struct, frozen=True):
    """One file: its number, its name, its statements."""

    version: int
    name: str
    statements: tuple[str, ...]


def migrations(dialect: Dialect = Dialect.SQLITE) -> list[Migration]:
    """Return a database's migrations in order; ValueError when a number is missing or used twice."""
    texts = {file.name: file.read_text("utf-8") for file in _FOLDER.glob("*.sql")}
    files = sorted(name for name in texts if not name.endswith(_OWN))
    if unpaired := [name for name in texts if name.endswith(_OWN) and name.replace(_OWN, ".sql") not in texts]:
        raise ValueError(f"there is no migration of both databases beside {unpaired}")
    chosen = {name: name.replace(".sql", _OWN) if dialect is Dialect.POSTGRES else name for name in files}
    found = [Migration(int(name[:4]), name, tuple(split(texts.get(chosen[name], texts[name])))) for name in files]
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"the migrations are not numbered 1, 2, 3 …: {files}")
    return found


async def migrate(database: Database, now_ms: int) -> list[str]:
    """Run the missing migrations in one transaction and return their names; SettingsError if the database is newer."""
    return await database.transact(partial(_migrate, now_ms=now_ms, shared=database.shared))


async def require(database: Database, name: str) -> None:
    """Raise SettingsError, with the database's name, unless relay has made its tables there."""
    await database.transact(partial(_require, name=name))


def split(text: str) -> list[str]:
    """Return the statements of a file, without its comments."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return [statement.strip() for statement in "\n".join(lines).split(";\n") if statement.strip()]


async def _migrate(transaction: Transaction, now_ms: int, *, shared: bool) -> list[str]:
    """Do what `migrate` promises, within its transaction."""
    await transaction.lock_schema()
    known = migrations(Dialect.POSTGRES if shared else Dialect.SQLITE)
    if not await _has_register(transaction):  # a role that may not make tables may use those there are
        await _require_free(transaction, known, 0)
        await transaction.run_text(_MAKE_REGISTER)
    version = (await transaction.rows("schema_version", {}))[0]["version"]
    if version > len(known):
        raise SettingsError(
            f"the database has schema version {version}, this relay knows {len(known)}: "
            "start the newer relay, or restore a backup"
        )
    await _require_free(transaction, known, version)
    for migration in known[version:]:
        await _run(transaction, migration, now_ms)
    if shared:
        for name in ("forget_positions_of_endpoints", "forget_positions_of_redeliveries", "count_positions_anew"):
            await transaction.rows(name, {})
    return [migration.name for migration in known[version:]]


async def _has_register(transaction: Transaction) -> bool:
    """Whether relay's register of migrations is there; SettingsError for one of another program (Rails, dbmate …)."""
    columns = await transaction.columns(_REGISTER)
    if columns and not columns >= _REGISTER_COLUMNS:
        raise _foreign([_REGISTER])
    return bool(columns)


async def _require_free(transaction: Transaction, known: Sequence[Migration], version: int) -> None:
    """Raise SettingsError if another program's tables have these names: many have `jobs` and `events`."""
    before, to_make = (_names(some) for some in (known[:version], known[version:]))
    if foreign := [name for name in to_make if name not in before and await transaction.has(name)]:
        raise _foreign(foreign)


def _names(some: Sequence[Migration]) -> list[str]:
    """Return the tables and indexes that the migrations make, each once, in their order."""
    texts = [text for migration in some for text in migration.statements]
    return list(dict.fromkeys(name for text in texts for name in _MADE.findall(text)))


def _foreign(names: Sequence[str]) -> SettingsError:
    """Return the error for a database that another program uses."""
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return SettingsError(
        f"the database of DATABASE_URL holds what is not relay's, under names that relay needs "
        f"({', '.join(names[:NAMED_MAX])}{more}): give relay a database of its own"
    )


async def _require(transaction: Transaction, name: str) -> None:
    """Raise SettingsError unless relay has made its tables in the database."""
    if not await _has_register(transaction) or not (await transaction.rows("schema_version", {}))[0]["version"]:
        raise SettingsError(f"{name} holds no tables of relay's: {MAKE_IT}")


async def _run(transaction: Transaction, migration: Migration, now_ms: int) -> None:
    """One migration and its entry in the register."""
    for statement in migration.statements:
        await transaction.run_text(statement.rstrip(";"))
    await transaction.rows("register_migration", {"version": migration.version, "name": migration.name, "now": now_ms})
