"""`relay attempts`: what was sent to an endpoint for a delivery, and what it answered."""

import click

from relay.cli import EXIT_NOT_FOUND, CommandFailed
from relay.cli.connection import Connection, connected, path_of

COLUMNS = {
    "number": "number",
    "outcome": "outcome",
    "status": "status_code",
    "ms": "duration_ms",
    "at": "started_at",
    "error": "error",
    "id": "id",
}


@click.group("attempts")
def command() -> None:
    """List and show the attempts of a delivery."""


@command.command("list")
@click.argument("delivery_id", metavar="DELIVERY")
@connected
def index(relay: Connection, delivery_id: str) -> None:
    """List the attempts of a delivery."""
    relay.print_rows(relay.get(path_of("deliveries", delivery_id))["attempts"], COLUMNS)


@command.command("show")
@click.argument("delivery_id", metavar="DELIVERY")
@click.argument("number", type=click.IntRange(1))
@connected
def show(relay: Connection, delivery_id: str, number: int) -> None:
    """Show one attempt: its request, its answer and its times."""
    for attempt in relay.get(path_of("deliveries", delivery_id))["attempts"]:
        if attempt["number"] == number:
            relay.print(attempt)
            return
    raise CommandFailed(f"{delivery_id} has no attempt {number}", EXIT_NOT_FOUND)
