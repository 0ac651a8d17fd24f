"""`relay callbacks`: list and show callbacks, print one's body as received, and release one from quarantine."""

import base64
import sys

import click

from relay.cli import output as printing
from relay.cli.connection import Connection, connected, path_of, yes_option
from relay.cli.nouns import MADE, Filter, Noun, group_of
from relay.errors import RelayError

command = group_of(
    Noun(
        path="callbacks",
        help="List and show callbacks, print a body as received, and release one from quarantine.",
        columns={
            "id": "id",
            "verdict": "verdict",
            "provider": "provider",
            "job": "job",
            "bytes": "size",
            "received": "received_at",
            "reason": "reason",
        },
        filters=(Filter("job", "Of this job."), Filter("verdict", "With this verdict."), *MADE),
    )
)


@command.command("body")
@click.argument("callback_id", metavar="CALLBACK")
@connected
def body(relay: Connection, callback_id: str) -> None:
    """Write a callback's body to standard output, byte by byte as received."""
    found = relay.get(path_of("callbacks", callback_id))
    if found["body"] is None:
        raise RelayError(f"the body of {callback_id} is no longer stored")
    sys.stdout.buffer.write(base64.b64decode(found["body"]))
    sys.stdout.buffer.flush()


@command.command("release")
@click.argument("callback_id", metavar="CALLBACK")
@yes_option
@connected
def release(relay: Connection, callback_id: str, yes: bool) -> None:
    """Apply a quarantined callback, or an orphaned one, whose job is then made anew."""
    printing.confirm(f"Apply {callback_id} to its job, although relay could not verify it?", yes=yes)
    relay.print(relay.write("POST", path_of("callbacks", callback_id, "releases")))
