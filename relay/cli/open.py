"""`relay open`: the dashboard's page of a thing, in the browser of this machine."""

import sys

import click

from relay import ids
from relay.cli.connection import chosen
from relay.errors import RelayError

PAGES = {ids.JOB: "/jobs/", ids.ENDPOINT: "/endpoints/", ids.CALLBACK: "/callback/"}
LISTS = ("jobs", "endpoints", "callbacks", "providers", "spend", "keys", "audit")


@click.command("open")
@click.argument("what", required=False, metavar="[ID|PAGE]")
def command(what: str | None) -> None:
    """Open the dashboard, one of its pages, or the page of a job, endpoint or callback; print its URL.

    Without a terminal it only prints.
    """
    url = chosen().url + page_of(what)
    click.echo(url)
    if sys.stdout.isatty():
        click.launch(url)


def page_of(what: str | None) -> str:
    """Return the path of the page."""
    if what is None:
        return "/"
    if what in LISTS:
        return f"/{what}"
    for prefix, path in PAGES.items():
        if what.startswith(prefix) and what.isalnum() | ("_" in what):
            return path + what
    raise RelayError(
        f"there is no page of {what!r}: give the id of a job, an endpoint or a callback, or {', '.join(LISTS)}"
    )
