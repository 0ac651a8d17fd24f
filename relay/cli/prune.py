"""`relay prune`: delete old finished jobs now, which the sweeper would delete later; relay may run meanwhile."""

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING, Final

import click

from relay.cli import load_settings
from relay.clock import SystemClock
from relay.errors import SettingsError
from relay.settings import RETENTION_MAX_DAYS, RETENTION_MIN_DAYS

if TYPE_CHECKING:
    from relay.storage.retention import Removed, Terms

DAY_MS: Final = 86_400_000


@click.command("prune")
@click.option(
    "--older-than",
    "days",
    type=click.IntRange(RETENTION_MIN_DAYS, RETENTION_MAX_DAYS),
    metavar="DAYS",
    help="Jobs that ended so long ago; RELAY_RETENTION_DAYS by default.",
)
@click.option("--dry-run", is_flag=True, help="Only count the jobs, which would be deleted with all of theirs.")
def command(days: int | None, dry_run: bool) -> None:
    """Delete old finished jobs with everything stored about them. relay may run meanwhile."""
    from relay.storage.retention import Terms

    settings = load_settings()
    days = days or settings.retention_days
    if not days:
        raise SettingsError("RELAY_RETENTION_DAYS is 0, for ever: say --older-than DAYS")
    now_ms = SystemClock().now_ms()
    terms = Terms(
        now=now_ms,
        before=now_ms - days * DAY_MS,
        grace_ms=settings.callback_grace_s * 1000,
        copies_kept=not settings.archive_retention_days,
    )
    removed = asyncio.run(_prune(settings.database_url, terms, dry_run))
    for table, number in removed.items():
        click.echo(f"{'would remove' if dry_run else 'removed'} {number} {table}")
    if not removed:
        click.echo(f"nothing to do: no job ended more than {days} days ago")


async def _prune(database_url: str, terms: "Terms", dry_run: bool) -> "Removed":
    """Delete batch after batch until none is left, or only count; return the numbers by table."""
    from relay.storage.engine.migrations import migrate
    from relay.storage.retention import PAUSE_MS, Pruner
    from relay.storage.store import open_database, require_database

    await require_database(database_url)
    database = await open_database(database_url)
    try:
        await migrate(database, terms.now)
        pruner, removed = Pruner(database), Counter[str]()
        if dry_run:
            return await pruner.count(terms)
        while batch := await pruner.batch(terms):
            removed.update(batch)
            _progress(removed)
            await asyncio.sleep(PAUSE_MS / 1000)
        if removed:
            _progress(removed, done=True)
        return removed
    finally:
        await database.close()


def _progress(removed: Counter[str], *, done: bool = False) -> None:
    """Print the progress, if standard error is a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r{removed['jobs']} jobs, {removed.total()} rows removed", nl=done, err=True)
