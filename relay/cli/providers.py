"""`relay providers`: what each provider accepts, and whether it is configured."""

import click

from relay.cli.connection import Connection, connected, path_of

COLUMNS = {
    "name": "name",
    "configured": "configured",
    "ends by": "finished_by",
    "paid": "paid",
    "last callback": "last_callback_at",
    "key refused": "key_refused_at",
    "last error": "last_error",
    "models": "models",
}


@click.command("providers")
@connected
def command(relay: Connection) -> None:
    """List the providers: what each accepts, and whether it is configured."""
    relay.print_rows(relay.get(path_of("providers"))["data"], COLUMNS)
