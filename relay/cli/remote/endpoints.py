"""`relay endpoints`: make, change, test and repair endpoints, and send them what they missed."""

import time
from typing import Any, Final

import click

from relay.cli.remote.connection import Json, progress
from relay.cli.remote.options import Finite, time_text
from relay.cli.remote.output import Columns, Session, pairs, remote, yes

LIST: Final[Columns] = {
    "ENDPOINT": "id",
    "STATUS": "status",
    "URL": "url",
    "EVENTS": lambda one: ",".join(one["event_types"]),
    "FAILING SINCE": "failing_since",
    "LAST SUCCESS": "last_success_at",
    "DESCRIPTION": "description",
}
BATCH: Final[Columns] = {name: name for name in ("id", "status", "which", "since", "until", "count", "made")}
POLL_S: Final = 0.5
"""Seconds between two requests for a batch that runs; relay does the work whether or not this command waits."""
LIST_MAX: Final = 100_000


@click.group("endpoints")
def command() -> None:
    """List, make, change, test and repair endpoints."""


@command.command("list")
@remote
def index(session: Session) -> None:
    """List the standing endpoints, newest first."""
    session.items(session.remote.pages("/v1/endpoints", {}, LIST_MAX), LIST)


@command.command("show")
@click.argument("endpoint")
@remote
def show(session: Session, endpoint: str) -> None:
    """Show an endpoint; the values of its headers are redacted."""
    session.item(session.remote.get(f"/v1/endpoints/{endpoint}"))


@command.command("history")
@click.argument("endpoint")
@remote
def history(session: Session, endpoint: str) -> None:
    """List what happened to an endpoint, newest first."""
    columns: Columns = {"AT": "at", "WHAT": "kind", "UNTIL": "until", "BY": "by", "REASON": "reason"}
    session.items(session.remote.pages(f"/v1/endpoints/{endpoint}/history", {}, 500), columns)


def _settings(function: Any) -> Any:
    """Give a command the settings of an endpoint as options."""
    for option in (
        click.option(
            "--type", "event_types", multiple=True, metavar="TYPE", help="job.*, *, or an exact type; several."
        ),
        click.option("--for-provider", "providers", multiple=True, metavar="NAME", help="Only jobs of these."),
        click.option("--description"),
        click.option("--metadata", multiple=True, metavar="KEY=VALUE"),
        click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Sent with every notification."),
        click.option("--timeout", "timeout_s", type=Finite(0, min_open=True), metavar="SECONDS"),
        click.option("--in-flight", "in_flight_max", type=click.IntRange(1), metavar="N", help="Concurrent attempts."),
        click.option(
            "--rate",
            "rate_limit_per_s",
            type=Finite(0, min_open=True),
            metavar="PER_S",
            help="Attempts a second at most.",
        ),
        click.option("--format", "format", type=click.Choice(["json", "slack"])),
    ):
        function = option(function)
    return function


def _fields(given: dict[str, Any]) -> Json:
    """Return the fields that were given."""
    fields = {name: value for name, value in given.items() if value not in (None, ())}
    for name in ("event_types", "providers"):
        if name in fields:
            fields[name] = list(fields[name])
    for name in ("metadata", "headers"):
        if name in fields:
            fields[name] = pairs(fields[name], "--header" if name == "headers" else f"--{name}")
    return fields


@command.command("create")
@click.argument("endpoint_url", metavar="URL")
@_settings
@remote
def create(session: Session, endpoint_url: str, **given: Any) -> None:
    """Make an endpoint and print it with its secret, which `relay endpoints secret` prints again."""
    session.item(session.remote.post("/v1/endpoints", {"url": endpoint_url} | _fields(given)))


@command.command("update")
@click.argument("endpoint")
@click.option("--new-url", metavar="URL")
@_settings
@remote
def update(session: Session, endpoint: str, new_url: str | None, **given: Any) -> None:
    """Change an endpoint, from the next attempt on."""
    fields = _fields(given) | ({"url": new_url} if new_url else {})
    if not fields:
        raise click.UsageError("name at least one setting to change")
    session.item(session.remote.request("PATCH", f"/v1/endpoints/{endpoint}", body=fields))


@command.command("delete")
@click.argument("endpoint")
@yes
@remote
def delete(session: Session, endpoint: str) -> None:
    """Delete an endpoint; its pending deliveries are canceled."""
    session.confirm(f"Delete {endpoint}? Its pending deliveries are canceled.")
    session.remote.request("DELETE", f"/v1/endpoints/{endpoint}")
    session.say(f"deleted {endpoint}")


@command.command("test")
@click.argument("endpoint")
@remote
def test(session: Session, endpoint: str) -> None:
    """Send an endpoint a relay.test."""
    session.item(session.remote.post(f"/v1/endpoints/{endpoint}/tests"))


@command.command("probe")
@click.argument("endpoint")
@remote
def probe(session: Session, endpoint: str) -> None:
    """Try a held or disabled endpoint now, and print the attempt."""
    session.item(session.remote.post(f"/v1/endpoints/{endpoint}/probes"))


@command.command("rotate")
@click.argument("endpoint")
@click.option("--grace", "grace_s", type=click.IntRange(0), default=86_400, show_default=True, metavar="SECONDS",
              help="For so long both secrets sign; 0 after a leak.")  # fmt: skip
@yes
@remote
def rotate(session: Session, endpoint: str, grace_s: int) -> None:
    """Give an endpoint a new secret and print it."""
    ends = f"signs for {grace_s} s more" if grace_s else "stops signing now"
    session.confirm(f"Make a new secret for {endpoint}? The present one {ends}.")
    session.item(session.remote.post(f"/v1/endpoints/{endpoint}/secret-rotations", {"grace_s": grace_s}))


@command.command("enable")
@click.argument("endpoint")
@remote
def enable(session: Session, endpoint: str) -> None:
    """Enable an endpoint; relay sends it what it missed."""
    session.item(session.remote.request("PATCH", f"/v1/endpoints/{endpoint}", body={"status": "active"}))


@command.command("disable")
@click.argument("endpoint")
@yes
@remote
def disable(session: Session, endpoint: str) -> None:
    """Disable an endpoint; its pending deliveries are canceled."""
    session.confirm(f"Disable {endpoint}? Its pending deliveries are canceled; when it is enabled, relay sends them.")
    session.item(session.remote.request("PATCH", f"/v1/endpoints/{endpoint}", body={"status": "disabled"}))


@command.command("redeliver")
@click.argument("endpoint")
@click.option("--which", type=click.Choice(["undelivered", "failed", "missing", "all"]), default="undelivered",
              show_default=True)  # fmt: skip
@click.option("--since", type=time_text, metavar="TIME", help="Required but for `undelivered`: 2026-11-26, or -24h.")
@click.option("--until", type=time_text, metavar="TIME")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--no-wait", is_flag=True, help="Do not wait for the batch.")
@yes
@remote
def redeliver(session: Session, endpoint: str, dry_run: bool, no_wait: bool, **given: str | None) -> None:
    """Send an endpoint again what it did not receive, oldest first, and follow the batch."""
    path, fields = f"/v1/endpoints/{endpoint}/redeliveries", {name: value for name, value in given.items() if value}
    counted = session.remote.post(path, fields | {"dry_run": True})
    if dry_run or not counted["count"]:
        session.item(counted)
        return
    session.confirm(f"Send {counted['count']} events to {endpoint}?")
    batch = session.remote.post(path, fields)
    if not no_wait:
        batch = _follow(session, f"/v1/endpoints/{endpoint}/redeliveries/{batch['id']}", batch)
    session.item(batch, BATCH)


def _follow(session: Session, path: str, batch: Json) -> Json:
    """Return the batch when it has ended, or waits for its endpoint."""
    with progress("redelivering", batch["count"]) as bar:
        while batch["status"] == "running":
            time.sleep(POLL_S)
            made, batch = batch["made"], session.remote.get(path)
            bar.update(batch["made"] - made)
    if batch["status"] == "waiting":
        session.say("the batch waits until the endpoint accepts notifications again; it goes on by itself")
    return batch


@command.command("batches")
@click.argument("endpoint")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@remote
def batches(session: Session, endpoint: str, limit: int) -> None:
    """List an endpoint's batches of redeliveries, newest first."""
    session.items(session.remote.pages(f"/v1/endpoints/{endpoint}/redeliveries", {}, limit), BATCH)


@command.command("stop")
@click.argument("endpoint")
@click.argument("batch")
@yes
@remote
def stop(session: Session, endpoint: str, batch: str) -> None:
    """Stop a batch of redeliveries; what it made due stays."""
    session.confirm(f"Stop {batch}? What it made due is still sent.")
    session.item(session.remote.post(f"/v1/endpoints/{endpoint}/redeliveries/{batch}/cancellations"), BATCH)


@command.command("secret")
@click.argument("endpoint")
@remote
def secret(session: Session, endpoint: str) -> None:
    """Print an endpoint's secret."""
    session.item(session.remote.get(f"/v1/endpoints/{endpoint}/secret"))
