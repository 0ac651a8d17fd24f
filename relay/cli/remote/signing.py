"""`relay verify` and `relay sign`: check and make the signature of a notification, from files or standard input."""

import json
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final

import click

from relay.cli.remote.options import webhook_id
from relay.client import notifications
from relay.errors import RelayError, SettingsError
from relay.security import signatures

SECRET = click.option(
    "--secret",
    metavar="WHSEC",
    envvar="RELAY_ENDPOINT_SECRET",
    required=True,
    help="The endpoint's, or to verify the project's public key (whpk_…); better in RELAY_ENDPOINT_SECRET, since other "
    "users can read a command line.",
)
AT_MAX_S: Final = 999_999_999_999
"""The last time that a `webhook-timestamp` of twelve digits holds."""
BODY = click.argument("body", type=click.File("rb"), default="-")


@click.command("verify")
@SECRET
@click.option("--headers", "headers_file", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A file with `name: value` lines, or a JSON object.")  # fmt: skip
@click.option(
    "--at", "at_s", type=click.IntRange(0, AT_MAX_S), metavar="UNIX_S", help="When it was received, if not now."
)
@BODY
def verify(secret: str, headers_file: Path, at_s: int | None, body: BinaryIO) -> None:
    """Verify a notification whose body is a file or standard input; exit with 1 if it is not genuine."""
    headers, content, now_s = _headers(headers_file), body.read(), int(time.time()) if at_s is None else at_s
    try:
        if secret.startswith(signatures.PUBLIC_PREFIX):
            notifications.verify(headers, content, secret, now_s=now_s)
        else:
            signatures.verify(secret, headers, content, now_s)
    except signatures.SignatureInvalid as error:
        raise RelayError(f"not genuine: {error}") from None
    except ValueError as error:
        raise SettingsError(f"the secret {error}") from None
    click.echo("genuine")


def _headers(file: Path) -> dict[str, str]:
    """Return the headers of a file; raise BadParameter for one that is neither of the two forms."""
    try:
        text = file.read_text("utf-8")
        if text.lstrip().startswith("{"):
            return {str(name): str(value) for name, value in json.loads(text).items()}
    except ValueError as error:
        must = "must be a file with `name: value` lines, or a JSON object"
        raise click.BadParameter(f"{must}: {error}", param_hint="--headers") from None
    lines = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, _, value in lines}


@click.command("sign")
@SECRET
@click.option(
    "--id", "event_id", type=webhook_id, metavar="ID", default="evt_test", show_default=True, help="The webhook-id."
)
@click.option(
    "--at", "at_s", type=click.IntRange(0, AT_MAX_S), metavar="UNIX_S", help="The webhook-timestamp, if not now."
)
@BODY
def sign(secret: str, event_id: str, at_s: int | None, body: BinaryIO) -> None:
    """Print the headers that sign a body, which is a file or standard input: to test a receiver."""
    now_s = int(time.time()) if at_s is None else at_s
    try:
        signature = signatures.sign([secret], event_id, now_s, body.read())
    except ValueError as error:
        raise SettingsError(f"the secret {error}") from None
    click.echo(f"{signatures.ID_HEADER}: {event_id}")
    click.echo(f"{signatures.TIMESTAMP_HEADER}: {now_s}")
    click.echo(f"{signatures.SIGNATURE_HEADER}: {signature}")
    sys.stdout.flush()
