"""`relay login`: check a key at a running relay, and store both in the profile file, readable by its owner alone."""

import sys

import click
import httpx

from relay import client
from relay.cli import output as printing
from relay.cli.connection import (
    DEFAULT_URL,
    LOOPBACK,
    Connection,
    Profile,
    checked_url,
    key_of,
    path_of,
    store_profile,
    translated,
    transport_options,
)


@click.command("login")
@click.option("--url", envvar="RELAY_URL", default=DEFAULT_URL, show_default=True, help="Where relay is.")
def command(url: str) -> None:
    """Store the URL and a key of a relay, after relay accepted the key.

    The key is asked for, or read from standard input: it is never an argument, which other users of the machine see.
    """
    url = checked_url(url)
    host = httpx.URL(url).host
    if url.startswith("http:") and host not in LOOPBACK:
        printing.say(f"{host} is reached without TLS: whoever is between can read the key")
    text = click.prompt("API key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    profile = Profile(url, text.strip())
    with (
        translated(),
        httpx.Client(**transport_options(url)) as http,
        client.Relay(url, key_of(profile), http=http) as relay,
    ):
        me = Connection(relay, url, "json").get(path_of("whoami"))
    printing.say(
        f"stored in {store_profile(profile)}: {me['key']['name'] or me['key']['id']} of {me['project']['name']}"
    )
