"""`relay quote`: what a job would cost at each provider."""

import click

from relay.cli.connection import Connection, connected, path_of
from relay.cli.jobs import document
from relay.client.requests import body


@click.command("quote")
@click.option("--input", "unified", metavar="JSON|@FILE|-", help="The input in relay's own form.")
@click.option("--request", "native", metavar="JSON|@FILE|-", help="A provider's own body instead.")
@click.option("--provider", "providers", multiple=True, help="Only at this one; may be given more than once.")
@connected
def command(relay: Connection, unified: str | None, native: str | None, providers: tuple[str, ...]) -> None:
    """List what a job would cost at each provider, cheapest first."""
    fields = body(input=document(unified), request=document(native), providers=list(providers) or None)
    found = relay.write("POST", path_of("quotes"), fields)["data"]
    relay.print_rows(found, {name: name for name in (found[0] if found else {"provider": None})})
