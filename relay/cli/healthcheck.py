"""`relay healthcheck`: ask the relay of this container whether it serves, for a HEALTHCHECK without curl.

It uses the standard library alone, since a platform runs it every few seconds.
"""

import http.client

import click

from relay.cli import load_settings
from relay.errors import RelayError, SettingsError
from relay.settings import Settings

TIMEOUT_S = 5.0
ANY_HOST = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - it connects there and does not listen
"""Where a relay answers that listens on every address."""


@click.command("healthcheck")
@click.option("--live", is_flag=True, help="Ask whether the process answers; its database may be away.")
def command(live: bool) -> None:
    """Exit 0 if relay on this PORT is ready (its database accepts writes), 1 if not."""
    check(load_settings(), "/healthz" if live else "/readyz")


def check(settings: Settings, path: str) -> None:
    """Raise RelayError unless the relay with these settings answers 200 within TIMEOUT_S."""
    if settings.port == 0:
        raise SettingsError("healthcheck needs the PORT that serve listens on, and 0 is any")
    host = ANY_HOST.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise RelayError(f"no answer from {host} port {settings.port}: {error}") from None
    finally:
        connection.close()
    if status != http.client.OK:
        raise RelayError(f"{path} answers {status}")
