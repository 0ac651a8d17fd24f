"""`relay keys`: manage API keys, the encryption of stored secrets, and signing keys, in the database of DATABASE_URL.

The text of an API key is printed once; the database keeps only its hash.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from relay.cli import load_settings
from relay.cli.remote.access import keys as remote_keys
from relay.clock import SystemClock, rfc3339
from relay.errors import SettingsError

if TYPE_CHECKING:
    from relay.settings import Settings
    from relay.storage.api_keys import Access, CreatedKey
    from relay.storage.encryption_keys import Resealed
    from relay.storage.store import Store


@click.group("keys")
def command() -> None:
    """Make, list and revoke API keys, in the database of DATABASE_URL, which `relay migrate` creates."""


command.add_command(remote_keys)


@command.command("create")
@click.option("--project", default="default", show_default=True, help="The project of the key; created if it is new.")
@click.option("--name", default="", help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(["submit", "read", "admin"]),
    help="May be given more than once.",
)
def create(project: str, name: str, scopes: tuple[str, ...]) -> None:
    """Make a key and print it, this once."""
    created = asyncio.run(_create(project, name, scopes or ("submit", "read")))
    click.echo(f"{created.id} {created.text}")


@command.command("list")
def index() -> None:
    """List the keys, without their text."""
    lines = asyncio.run(_list())
    for line in lines:
        click.echo(line)
    if not lines:
        click.echo("no keys in the database; RELAY_API_KEY is a setting, and in no list", err=True)


@command.command("revoke")
@click.argument("key_id")
def revoke(key_id: str) -> None:
    """Stop a key from working."""
    asyncio.run(_revoke(key_id))
    click.echo(f"revoked {key_id}")


@command.command("reseal")
@click.option("--accept-loss", is_flag=True, help="Drop secrets that no key of RELAY_SECRET_KEYS decrypts.")
def reseal(*, accept_loss: bool) -> None:
    """Encrypt everything again with the newest of RELAY_SECRET_KEYS, so that the others can be removed.

    relay may run meanwhile. If it is interrupted, run it again: it continues.
    """
    done = asyncio.run(_reseal(accept_loss=accept_loss))
    click.echo(
        f"encrypted {done.resealed} again with the newest key, {done.already} already were, "
        f"{done.broken} decrypt with none"
    )
    if done.broken and not accept_loss:
        raise SettingsError(
            "some secrets decrypt with none of RELAY_SECRET_KEYS: put the missing key in front of the others and run "
            "this again, or drop them with --accept-loss (each of their endpoints then needs a secret rotation)"
        )
    click.echo("stored secrets need only the newest of RELAY_SECRET_KEYS; callback URLs of open jobs that an older key")
    click.echo("signed stop working when it is removed (those jobs end by status checks)")


@command.command("renew-signing")
@click.option("--project", default="default", show_default=True, help="The project whose key is renewed.")
@click.option("--drop-former", is_flag=True, help="Stop publishing the former keys, because they leaked.")
def renew_signing(project: str, *, drop_former: bool) -> None:
    """Make a new ed25519 signing key for a project; relay signs with it from its next start on."""
    asyncio.run(_renew_signing(project, drop_former=drop_former))
    click.echo(f"made a new signing key for {project}: restart relay to sign with it")


async def _reseal(*, accept_loss: bool) -> "Resealed":
    """Encrypt every stored secret again; return the counts."""
    from relay.app import secret_keys
    from relay.security.encryption import Encryption
    from relay.storage.encryption_keys import reseal
    from relay.storage.store import open_migrated, require_database

    settings = load_settings()
    await require_database(settings.database_url)
    now_ms = SystemClock().now_ms()
    database = await open_migrated(settings.database_url, now_ms, settings.database_wait_s)
    try:
        done = await reseal(database, Encryption(secret_keys(settings)), _progress, now_ms, accept_loss=accept_loss)
    finally:
        await database.close()
    async with _store(settings) as store:
        detail = f"accept_loss={str(accept_loss).lower()}, encrypted again: {done.resealed}"
        await _record(store, "default", "secrets.reseal", detail=detail)
    return done


def _progress(table: str, done: int, broken: int) -> None:
    """Print the progress of a table."""
    click.echo(
        f"{table}: {done} encrypted with the newest key so far" + (f", {broken} decrypt with none" if broken else ""),
        err=True,
    )


async def _renew_signing(project: str, *, drop_former: bool) -> None:
    """Store a new signing key."""
    async with _store() as store:
        await store.signing_keys.renew(project, SystemClock().now_ms(), drop_former=drop_former)
        await _record(store, project, "signing_keys.renew", detail=f"drop_former={str(drop_former).lower()}")


async def _create(project: str, name: str, scopes: tuple[str, ...]) -> "CreatedKey":
    """Store a new API key; return it with its text."""
    async with _store() as store:
        created = await store.access.create_api_key(project, name, scopes, SystemClock().now_ms())
        await _record(store, project, "keys.create", created.id, f"name={name}, scopes={' '.join(scopes)}")
        return created


async def _list() -> list[str]:
    """Return a line for each key."""
    async with _access() as access:
        return [
            f"{row['id']}  {row['project']}  {row['scopes']}  {rfc3339(row['created_at'])}"
            f"  {'revoked' if row['revoked_at'] else 'live'}  {row['name']}"
            for row in await access.api_keys()
        ]


async def _revoke(key_id: str) -> None:
    """Revoke a key."""
    async with _store() as store:
        await store.access.revoke_api_key(key_id, SystemClock().now_ms())
        key = await store.projects.key(key_id)
        if key is not None:
            await _record(store, key.project_id, "keys.revoke", key_id)


async def _record(
    store: "Store", project: str, verb: str, target: str | None = None, detail: str | None = None
) -> None:
    """Store an entry of the audit for the project with this id or name."""
    from relay.storage.audit import AuditEntry, Via, cut

    found = await store.projects.get(project)
    if found is not None:
        entry = AuditEntry(
            project_id=found.id,
            at=SystemClock().now_ms(),
            via=Via.DATABASE,
            verb=verb,
            target=target,
            detail=detail and cut(detail),
        )
        await store.audit.record(entry)


@asynccontextmanager
async def _access() -> "AsyncIterator[Access]":
    """Open the API keys of the configured database."""
    async with _store() as store:
        yield store.access


@asynccontextmanager
async def _store(settings: "Settings | None" = None) -> "AsyncIterator[Store]":
    """Open the configured database; raise SettingsError if it does not exist yet.

    A command that has loaded the settings passes them: to load them again would find no secrets in the environment.
    """
    from relay.app import secret_keys
    from relay.model.backoff import DEFAULT_SCHEDULE_S
    from relay.security.encryption import Encryption
    from relay.storage.store import Store, StoreOptions, require_database

    settings = settings or load_settings()
    await require_database(settings.database_url)
    options = StoreOptions(lease_ms=1, backlog_max=16, callbacks_per_job_max=1, schedule_s=DEFAULT_SCHEDULE_S)
    store = await Store.open(settings.database_url, Encryption(secret_keys(settings)), options, SystemClock().now_ms())
    try:
        yield store
    finally:
        await store.close()
