"""`relay migrate`: the database brought to this relay's schema, as `serve` does it; for a platform's release phase."""

import asyncio
import time

import click

from relay.cli import load_settings


@click.command("migrate")
def command() -> None:
    """Bring the database to this version's schema."""
    names = asyncio.run(_migrate(load_settings().database_url))
    for name in names:
        click.echo(f"applied {name}")
    if not names:
        click.echo("nothing to do")


async def _migrate(database_url: str) -> list[str]:
    """Runs what is missing, and names it."""
    from relay.storage import statements
    from relay.storage.migrate import migrate
    from relay.storage.sqlite import SQLite
    from relay.storage.store import sqlite_path

    database = await SQLite.open(sqlite_path(database_url), statements.load())
    try:
        return await migrate(database, time.time_ns() // 1_000_000)
    finally:
        await database.close()
