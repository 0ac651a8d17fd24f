"""`relay doctor`: check the settings, the database, the network and the providers, and say how to mend them."""

import asyncio
import os
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import click
import msgspec

from relay.cli import load_settings
from relay.clock import SystemClock
from relay.errors import RelayError, SettingsError

if TYPE_CHECKING:
    from relay.cli.diagnosis import Examined, Finding
    from relay.settings import Settings
    from relay.storage.engine.database import Database

COLUMNS: Final = 100
MARKS: Final = {"ok": "ok     ", "skipped": "skipped", "warning": "WARNING", "error": "ERROR  "}
COLOURS: Final = {"ok": "green", "skipped": None, "warning": "yellow", "error": "red"}


@click.command("doctor")
@click.option(
    "--output",
    type=click.Choice(["table", "json", "jsonl"]),
    default="table",
    show_default=True,
    help="The form of the findings on standard output.",
)
def command(output: str) -> None:
    """Check this installation; exit 1 if something is wrong with which relay does not do its work.

    It uses the settings of this environment, may run beside a running relay, changes nothing, and costs nothing:
    each provider is asked for a job that does not exist.
    """
    environ = dict(os.environ)
    findings = asyncio.run(_findings(environ))
    bad = any(one.level == "error" for one in findings)
    if output == "json":
        click.echo(msgspec.json.encode({"ok": not bad, "findings": findings}).decode())
    elif output == "jsonl":
        for one in findings:
            click.echo(msgspec.json.encode(one).decode())
    else:
        _print(findings)
    sys.exit(1 if bad else 0)


def _print(findings: "list[Finding]") -> None:
    """Print the findings for people, and at the end how many are bad."""
    for one in findings:
        colour = None if "NO_COLOR" in os.environ else COLOURS[one.level]
        named = f" [{one.setting}]" if one.setting and one.level in ("warning", "error") else ""
        click.echo(f"{click.style(MARKS[one.level], fg=colour)} {one.check}: {one.what}{named}")
        for label, text in (("why: ", one.why), ("mend: ", one.mend)):
            if text and one.level in ("warning", "error"):
                click.echo(textwrap.fill(text, COLUMNS, initial_indent=" " * 8 + label, subsequent_indent=" " * 14))
    counted = {level: sum(one.level == level for one in findings) for level in ("error", "warning")}
    click.echo(
        ", ".join(f"{number} {level}{'' if number == 1 else 's'}" for level, number in counted.items()), err=True
    )


async def _findings(environ: Mapping[str, str]) -> "list[Finding]":
    """Return what the checks find; where the settings cannot be read, what is wrong with them."""
    from relay.cli import diagnosis

    try:
        loaded = load_settings()
    except SettingsError as error:
        return diagnosis.of_settings_error(error) + _misspelled(environ)
    async with examined(loaded, environ) as about:
        return await diagnosis.diagnose(about)


def _misspelled(environ: Mapping[str, str]) -> "list[Finding]":
    """Return a finding for each variable that no setting reads."""
    from relay.cli.diagnosis import unknown_settings
    from relay.providers import DEV_PROVIDERS, PROVIDERS

    return unknown_settings(environ, (*PROVIDERS, *DEV_PROVIDERS))


@asynccontextmanager
async def examined(loaded: "Settings", environ: Mapping[str, str]) -> "AsyncIterator[Examined]":
    """Yield what the checks look at, with clients of its own, and the database if it can be opened."""
    from relay.app import with_settings
    from relay.cli.diagnosis import Examined, encryption_of
    from relay.outbound.provider_client import ProviderClient
    from relay.providers import PROVIDERS
    from relay.storage.examination import Examination

    database = await _opened(loaded)
    try:
        async with ProviderClient() as client:
            yield Examined(
                settings=loaded,
                environ=environ,
                adapters=with_settings(loaded, PROVIDERS),
                client=client,
                database=None if database is None else Examination(database),
                encryption=encryption_of(loaded),
                now_ms=SystemClock().now_ms,
                skews={},
            )
    finally:
        if database is not None:
            await database.close()


async def _opened(loaded: "Settings") -> "Database | None":
    """Return the database as it is; None if it cannot be opened, or is not there: a check must not create it."""
    from relay.storage.store import open_database, require_database

    try:
        await require_database(loaded.database_url)
        return await open_database(loaded.database_url)
    except RelayError:
        return None
