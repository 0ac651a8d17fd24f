"""`relay files`: upload an image to a provider."""

import json
import mimetypes
from pathlib import Path

import click

from relay.cli.connection import Connection, connected, path_of
from relay.client.requests import body, uploading


@click.group("files")
def command() -> None:
    """Upload images to a provider."""


@command.command("upload")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--provider", required=True, help="Where it is uploaded.")
@click.option("--max-cost", help="The highest price in USD.")
@connected
def upload(relay: Connection, file: Path, provider: str, max_cost: str | None) -> None:
    """Upload an image (JPEG, PNG, WebP or GIF); its URL is for a job's `images`."""
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    form = body(provider=provider, max_cost=max_cost)
    relay.print(json.loads(relay.relay.fetch(uploading(path_of("files"), form, (file.name, file.read_bytes(), kind)))))
