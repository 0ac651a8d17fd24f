"""`relay whoami`: the key that the commands use, its scopes and project, and the relay that answers."""

import click

from relay.cli.connection import Connection, connected, path_of


@click.command("whoami")
@connected
def command(relay: Connection) -> None:
    """Show the key in use, its scopes and project, and the relay that answers."""
    relay.print({"url": relay.url, **relay.get(path_of("whoami"))})
