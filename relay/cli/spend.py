"""`relay spend`: what the project spent, and what is left of the caps."""

import click

from relay.cli.connection import Connection, connected, path_of
from relay.client.requests import query


@click.command("spend")
@click.option("--since", help="From this time, date or age (-24h) on.")
@click.option("--all-projects", is_flag=True, default=None, help="Of all projects; for an operator's key.")
@connected
def command(relay: Connection, since: str | None, all_projects: bool | None) -> None:
    """Show what the project spent, by provider and unit, and what is left of the caps."""
    relay.print(relay.get(path_of("spend"), query(since=since, all=all_projects)))
