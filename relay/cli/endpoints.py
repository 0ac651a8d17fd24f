"""`relay endpoints`: list, show, make and change endpoints, test them, rotate secrets, and send again."""

import time
from typing import Any, Final

import click

from relay.cli import EXIT_AGAIN, CommandFailed
from relay.cli import output as printing
from relay.cli.connection import Connection, connected, path_of, yes_option
from relay.cli.nouns import Noun, group_of, metadata_option, pairs
from relay.client.requests import body

PROGRESS_S: Final = 0.5
"""Seconds between two questions for a batch's progress."""
ENDED: Final = ("finished", "canceled")
command = group_of(
    Noun(
        path="endpoints",
        help="List, show, make and change endpoints, test them, rotate secrets, and send again.",
        columns={
            "id": "id",
            "status": "status",
            "url": "url",
            "events": "event_types",
            "last success": "last_success_at",
            "failing since": "failing_since",
        },
    )
)
endpoint_argument = click.argument("endpoint_id", metavar="ENDPOINT")


def fields_options(function: Any) -> Any:
    """Return a command with the options that an endpoint's fields have."""
    for option in (
        metadata_option("Replaces all of it."),
        click.option("--timeout-s", type=float, help="The longest time of an attempt."),
        click.option("--rate-limit-per-s", type=float, help="Attempts a second, at most."),
        click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Sent with each notification."),
        click.option("--provider", "providers", multiple=True, help="Only about jobs of this provider."),
        click.option(
            "--event-type", "event_types", multiple=True, help="Such as `job.*`; may be given more than once."
        ),
        click.option("--description", help="What it is for."),
    ):
        function = option(function)
    return function


def fields_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are given."""
    lists = {name: list(given.pop(name)) or None for name in ("event_types", "providers")}
    maps = {name: pairs(given.pop(name)) or None for name in ("headers", "metadata")}
    return body(**given, **lists, **maps)


@command.command("create")
@click.argument("url")
@fields_options
@connected
def create(relay: Connection, **given: Any) -> None:
    """Make an endpoint; its secret is in what is printed."""
    relay.print(relay.write("POST", path_of("endpoints"), fields_of(given)))


@command.command("update")
@endpoint_argument
@click.option("--url", help="The new URL.")
@fields_options
@connected
def update(relay: Connection, endpoint_id: str, **given: Any) -> None:
    """Change an endpoint, from its next attempt on; what is not given stays."""
    fields = fields_of(given)
    if not fields:
        raise click.UsageError("give what is to change")
    relay.print(relay.write("PATCH", path_of("endpoints", endpoint_id), fields))


@command.command("delete")
@endpoint_argument
@yes_option
@connected
def delete(relay: Connection, endpoint_id: str, yes: bool) -> None:
    """Delete an endpoint; its pending deliveries are canceled."""
    printing.confirm(f"Delete {endpoint_id}? Its pending deliveries are canceled.", yes=yes)
    relay.write("DELETE", path_of("endpoints", endpoint_id))
    printing.say(f"deleted {endpoint_id}")


@command.command("test")
@endpoint_argument
@connected
def test(relay: Connection, endpoint_id: str) -> None:
    """Send an endpoint a `relay.test`."""
    relay.print(relay.write("POST", path_of("endpoints", endpoint_id, "tests")))


@command.command("probe")
@endpoint_argument
@connected
def probe(relay: Connection, endpoint_id: str) -> None:
    """Send a held or disabled endpoint a `relay.test` now; exit 1 if it does not accept it."""
    found = relay.write("POST", path_of("endpoints", endpoint_id, "probes"))
    relay.print(found)
    if found["status"] != "delivered":
        raise CommandFailed(f"{endpoint_id} did not accept it", 1)


@command.command("history")
@endpoint_argument
@connected
def history(relay: Connection, endpoint_id: str) -> None:
    """List what happened to an endpoint: held, disabled, enabled, rotated, and by which key."""
    found, cursor = relay.rows(path_of("endpoints", endpoint_id, "history"), {}, 500)
    columns = {"at": "at", "what": "kind", "reason": "reason", "until": "until", "by": "by"}
    relay.print_rows(found, columns, cursor)


@command.command("rotate")
@endpoint_argument
@click.option("--grace-s", type=click.IntRange(0), default=86_400, show_default=True, help="The old one signs so long.")
@yes_option
@connected
def rotate(relay: Connection, endpoint_id: str, grace_s: int, yes: bool) -> None:
    """Give an endpoint a new secret, and print it; both sign until the grace time is over."""
    printing.confirm(f"Rotate the secret of {endpoint_id}? The old one signs for {grace_s} s more.", yes=yes)
    path = path_of("endpoints", endpoint_id, "secret-rotations")
    relay.print(relay.write("POST", path, {"grace_s": grace_s}))


@command.command("enable")
@endpoint_argument
@connected
def enable(relay: Connection, endpoint_id: str) -> None:
    """Send to an endpoint again."""
    relay.print(relay.write("PATCH", path_of("endpoints", endpoint_id), {"status": "active"}))


@command.command("disable")
@endpoint_argument
@yes_option
@connected
def disable(relay: Connection, endpoint_id: str, yes: bool) -> None:
    """Stop sending to an endpoint; its deliveries wait."""
    printing.confirm(f"Disable {endpoint_id}? Its deliveries wait until it is enabled.", yes=yes)
    relay.print(relay.write("PATCH", path_of("endpoints", endpoint_id), {"status": "disabled"}))


@command.command("redeliver")
@endpoint_argument
@click.option(
    "--which", type=click.Choice(["undelivered", "failed", "missing", "all"]), default="missing", show_default=True
)
@click.option("--since", help="From this time, date or age (-24h) on.")
@click.option("--until", help="Until this time.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--no-wait", is_flag=True, help="Return when the batch is made, without a progress bar.")
@yes_option
@connected
def redeliver(relay: Connection, endpoint_id: str, dry_run: bool, no_wait: bool, yes: bool, **given: Any) -> None:
    """Send again what an endpoint did not receive: count first, then ask, then show the progress."""
    path = path_of("endpoints", endpoint_id, "redeliveries")
    fields = body(**given)
    counted = relay.write("POST", path, fields | {"dry_run": True})
    if dry_run:
        relay.print(counted)
        return
    printing.confirm(f"Send {counted['count']} events to {endpoint_id} again?", yes=yes)
    batch = relay.write("POST", path, fields)
    if not no_wait:
        batch = followed(relay, endpoint_id, batch)
    relay.print(batch)


def followed(relay: Connection, endpoint_id: str, batch: dict[str, Any]) -> dict[str, Any]:
    """Return the batch when it has ended, with a progress bar until then; raise CommandFailed if it has to wait."""
    path = path_of("endpoints", endpoint_id, "redeliveries", batch["id"])
    with click.progressbar(
        length=max(batch["count"], 1), label="made due", file=click.get_text_stream("stderr")
    ) as bar:
        while batch["status"] not in ENDED:
            if batch["status"] == "waiting":
                raise CommandFailed(f"{batch['id']} waits: {endpoint_id} is held or disabled", EXIT_AGAIN)
            time.sleep(PROGRESS_S)
            batch = relay.get(path)
            bar.update(batch["made"] - bar.pos)
    return batch
