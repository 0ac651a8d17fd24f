"""`relay keys`: API keys, made in the database that DATABASE_URL names; their text is shown once and kept nowhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from relay.cli import load_settings
from relay.clock import SystemClock, rfc3339

if TYPE_CHECKING:
    from relay.storage.access import Access


@click.group("keys")
def command() -> None:
    """Make, list and revoke API keys, in the database of DATABASE_URL. It must be there: `relay migrate` makes one."""


@command.command("create")
@click.option("--project", default="default", show_default=True, help="The project it belongs to; made if it is new.")
@click.option("--name", default="", help="What it is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["submit", "read", "admin"]),
    help="May be given more than once.",
)
def create(project: str, name: str, scopes: tuple[str, ...]) -> None:
    """Make a key and print it, this once."""
    key_id, text = asyncio.run(_create(project, name, scopes or ("submit", "read")))
    click.echo(f"{key_id} {text}")


@command.command("list")
def index() -> None:
    """List the keys, without their text."""
    for line in asyncio.run(_list()):
        click.echo(line)


@command.command("revoke")
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Stop a key from working."""
    asyncio.run(_revoke(key_id))
    click.echo(f"revoked {key_id}")


async def _create(project: str, name: str, scopes: tuple[str, ...]) -> tuple[str, str]:
    """Makes a key."""
    async with _access() as access:
        return await access.create_api_key(project, name, scopes, SystemClock().now_ms())


async def _list() -> list[str]:
    """A line for each key."""
    async with _access() as access:
        return [
            f"{row['id']}  {row['project']}  {row['scopes']}  {rfc3339(row['created_at'])}"
            f"  {'revoked' if row['revoked_at'] else 'live'}  {row['name']}"
            for row in await access.api_keys()
        ]


async def _revoke(key_id: str) -> None:
    """Revokes a key."""
    async with _access() as access:
        await access.revoke_api_key(key_id, SystemClock().now_ms())


@asynccontextmanager
async def _access() -> "AsyncIterator[Access]":
    """The keys of the configured database; SettingsError if there is none yet."""
    from relay.app import secret_keys
    from relay.backoff import DEFAULT_SCHEDULE_S
    from relay.seal import Seal
    from relay.storage.store import Store, StoreOptions, require_database

    settings = load_settings()
    await require_database(settings.database_url)
    options = StoreOptions(lease_ms=1, backlog_max=16, callbacks_per_job_max=1, schedule_s=DEFAULT_SCHEDULE_S)
    store = await Store.open(settings.database_url, Seal(secret_keys(settings)), options, SystemClock().now_ms())
    try:
        yield store.access
    finally:
        await store.close()
