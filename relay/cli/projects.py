"""`relay projects`: list and make projects."""

import click

from relay.cli.connection import Connection, connected, path_of
from relay.cli.nouns import Noun, group_of

command = group_of(
    Noun(
        path="projects",
        help="List and make projects.",
        columns={"id": "id", "name": "name", "live keys": "keys_live", "created": "created_at"},
    ),
    shows=False,
)


@command.command("create")
@click.argument("name")
@connected
def create(relay: Connection, name: str) -> None:
    """Make a project; for an operator's key."""
    relay.print(relay.write("POST", path_of("projects"), {"name": name}))
