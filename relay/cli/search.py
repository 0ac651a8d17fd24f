"""`relay search`: find jobs, events, deliveries, callbacks and endpoints by what is known of them."""

import click

from relay.cli.connection import Connection, connected, path_of

COLUMNS = {"kind": "kind", "id": "id", "job": "job_id", "title": "title", "matched": "matched", "created": "created_at"}


@click.command("search")
@click.argument("text")
@click.option("--limit", type=click.IntRange(1, 50), default=10, show_default=True, help="How many of each kind.")
@connected
def command(relay: Connection, text: str, limit: int) -> None:
    """Find by id, by a provider's id, by metadata (KEY=VALUE or a value), by an endpoint's URL."""
    relay.print_rows(relay.get(path_of("search"), {"q": text, "limit": str(limit)})["data"], COLUMNS)
