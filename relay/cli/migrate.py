"""`relay migrate`: migrate the database to this version's schema, or copy it from SQLite into PostgreSQL."""

import asyncio
import time

import click

from relay.cli import load_settings
from relay.errors import SettingsError


@click.command("migrate")
@click.option("--to", "target", metavar="URL", help="Copy the SQLite database into this empty PostgreSQL.")
def command(target: str | None) -> None:
    """Bring the database to this version's schema; with --to, copy it into PostgreSQL. Stop relay before you copy."""
    database_url = load_settings().database_url
    if target is not None:
        asyncio.run(_copy(database_url, target))
        return
    from relay.storage.engine.database_url import shown
    from relay.storage.engine.migrations import migrations

    names = asyncio.run(_migrate(database_url))
    for name in names:
        click.echo(f"applied {name}")
    newest = migrations()[-1]
    click.echo(
        f"{'nothing to do: ' if not names else ''}{shown(database_url)} is at schema {newest.version} ({newest.name})"
    )


async def _migrate(database_url: str) -> list[str]:
    """Apply the missing migrations; return their names."""
    from relay.storage.engine.migrations import migrate
    from relay.storage.store import open_database

    database = await open_database(database_url)
    try:
        return await migrate(database, time.time_ns() // 1_000_000)
    finally:
        await database.close()


async def _copy(database_url: str, target: str) -> None:
    """Copy the database, print the progress, and print what to do next."""
    from relay.storage.engine.copy_to_postgres import copy
    from relay.storage.engine.database_url import is_postgres, sqlite_path
    from relay.storage.engine.postgres import PostgreSQL

    if is_postgres(database_url):
        raise SettingsError("DATABASE_URL must name the SQLite database to copy; it names a PostgreSQL")
    if not is_postgres(target):
        raise SettingsError(
            "--to must name the PostgreSQL to copy into, such as postgres://user:password@host:5432/name"
        )
    path = sqlite_path(database_url)
    database = await PostgreSQL.open(target)
    try:
        sizes = await copy(path, database, time.time_ns() // 1_000_000, _progress)
    finally:
        await database.close()
    click.echo(f"copied and counted {sum(sizes.values())} rows of {len(sizes)} tables, {sizes['jobs']} jobs among them")
    click.echo(f"start relay with the new DATABASE_URL only: what relay does on {path} from now on is not copied")
    secret = path.with_name(path.name + ".secret")
    if secret.exists():
        click.echo(f"set RELAY_SECRET_KEYS to the content of {secret}: without it no callback URL of an open job works")


def _progress(table: str, done: int, size: int) -> None:
    """Print a progress bar for the table that is being copied."""
    filled = 30 * done // max(1, size)
    click.echo(f"\r{table:20} [{'#' * filled}{'.' * (30 - filled)}] {done}/{size}", nl=done == size, err=True)
