"""`relay providers`, `quote`, `spend` and `files`: what providers accept, and what it costs."""

import mimetypes
from pathlib import Path
from typing import Any, Final

import click

from relay.cli.remote.options import json_object, time_text, usd_text
from relay.cli.remote.output import Columns, Session, remote

PROVIDERS: Final[Columns] = {
    "PROVIDER": "name",
    "CONFIGURED": "configured",
    "KEY REFUSED": "key_refused_at",
    "VERIFIES": "verifies",
    "SIGNS BY": "verifier",
    "ENDS BY": "finished_by",
    "JOBS 24 H": lambda one: one["last_day"]["jobs_ended"],
    "BY CALLBACK": lambda one: _percent(one["last_day"]["by_callback"]),
    "CHECKS A JOB": lambda one: one["last_day"]["checks_per_job"],
    "LAST CALLBACK": "last_callback_at",
    "PAID": "paid",
    "CANCEL": "cancel",
    "MODELS": lambda one: len(one["models"]),
    "LAST ERROR": "last_error",
}
QUOTES: Final[Columns] = {
    "PROVIDER": "provider",
    "ACCEPTED": "accepted",
    "AMOUNT": "amount",
    "UNIT": "unit",
    "USD": "usd",
    "BASIS": "basis",
    "WHY NOT": lambda one: (
        "; ".join(f"{error['path']} {error['message']}".strip() for error in one["errors"]) or one.get("reason")
    ),
}
SPEND: Final[Columns] = {
    "PROVIDER": "provider", "UNIT": "unit", "ESTIMATE": "estimate", "RESERVED": "reserved", "FINAL": "final",
    "JOBS": "jobs",
}  # fmt: skip


def _percent(share: float | None) -> str | None:
    """Return a share as text."""
    return None if share is None else f"{share:.0%}"


@click.command("providers")
@remote
def providers(session: Session) -> None:
    """List the providers, whether relay's key works there, and how their jobs of the last 24 hours ended."""
    session.items(session.remote.get("/v1/providers")["data"], PROVIDERS)


@click.command("quote")
@click.option("--input", "input_", metavar="JSON", help="The unified input, as JSON, @file or - for standard input.")
@click.option("--request", metavar="JSON", help="A provider's own body instead, as --input.")
@click.option("--provider", "names", multiple=True, metavar="NAME", help="Only these.")
@remote
def quote(session: Session, input_: str | None, request: str | None, names: tuple[str, ...]) -> None:
    """Quote what a job would cost at each provider, cheapest first; nothing is bought."""
    if (input_ is None) == (request is None):
        raise click.UsageError("give either --input or --request: what the job would be")
    body: dict[str, Any] = {"input": json_object(input_, "--input"), "request": json_object(request, "--request")}
    body = {name: value for name, value in body.items() if value is not None}
    body |= {"providers": list(names)} if names else {}
    session.items(session.remote.post("/v1/quotes", body)["data"], QUOTES)


@click.command("spend")
@click.option("--since", type=time_text, metavar="TIME", help="From midnight UTC if not given.")
@click.option("--all", "everything", is_flag=True, help="Of all projects; needs an operator's key.")
@remote
def spend(session: Session, since: str | None, everything: bool) -> None:
    """Show what was spent, by provider, and what is left of the caps."""
    found = session.remote.get("/v1/spend", {"since": since, "all": everything or None})
    if session.output != "table":
        session.item(found)
        return
    session.items(found["providers"], SPEND)
    for cap in found["caps"]:
        used = f"used {cap['used']}, left {cap['left']} until {cap['resets_at']}" if cap["used"] is not None else "each"
        session.say(f"{cap['setting']}: {cap['max']} {found['unit']} a {cap['period']}, {used}")


@click.group("files")
def files() -> None:
    """Upload files to providers."""


@files.command("upload")
@click.argument("provider")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--max-cost", type=usd_text, metavar="USD")
@remote
def upload(session: Session, provider: str, file: Path, max_cost: str | None) -> None:
    """Upload a picture to a provider; its URL is for a job's images."""
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    fields = {"provider": provider} | ({"max_cost": max_cost} if max_cost else {})
    session.item(session.remote.upload("/v1/files", fields, (file.name, file.read_bytes(), kind)))
