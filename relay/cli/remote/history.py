"""`relay events`, `deliveries`, `attempts` and `callbacks`: what is stored, and a callback's bytes and release."""

import base64
import sys
from typing import Any, Final

import click

from relay.cli.remote.connection import EXIT_NOT_FOUND, Refused
from relay.cli.remote.options import id_of, limited, one_of, typed
from relay.cli.remote.output import Columns, Session, remote, yes
from relay.model import ids
from relay.model.delivery import DeliveryState
from relay.model.job import Disposition

EVENTS: Final[Columns] = {
    "EVENT": "id", "TYPE": "type", "JOB": "job", "NUMBER": "sequence", "FINAL": "final", "TIME": "timestamp",
    "DELIVERIES": lambda event: " ".join(f"{word} {count}" for word, count in event["deliveries"].items() if count),
}  # fmt: skip
DELIVERIES: Final[Columns] = {
    "DELIVERY": "id", "STATUS": "status", "TRIED": "attempts_made", "EVENT": "event", "ENDPOINT": "endpoint",
    "JOB": "job", "CREATED": "created_at", "NEXT": "next_attempt_at",
}  # fmt: skip
ATTEMPTS: Final[Columns] = {
    "NO": "number", "STARTED": "started_at", "OUTCOME": "outcome", "HTTP": "status_code", "MS": "duration_ms",
    "ERROR": "error", "NOTE": "note",
}  # fmt: skip
CALLBACKS: Final[Columns] = {
    "CALLBACK": "id", "VERDICT": "verdict", "PROVIDER": "provider", "JOB": "job", "RECEIVED": "received_at",
    "SIZE": "size", "REASON": "reason",
}  # fmt: skip


@click.group("events")
def events() -> None:
    """List and show events."""


@events.command("list")
@typed
@click.option("--job", type=id_of(ids.JOB), metavar="JOB")
@click.option(
    "--after",
    type=id_of(ids.EVENT, optional=True),
    metavar="EVENT",
    help="Those behind this event, in the order of commits.",
)
@click.option("--undelivered", is_flag=True, help="Those that an endpoint has not received.")
@limited
@remote
def events_list(session: Session, limit: int, since: str | None, until: str | None, **given: Any) -> None:
    """List events, newest first."""
    query = {"type": given["kind"], "job": given["job"], "after": given["after"]}
    query |= {"undelivered": given["undelivered"] or None, "created_after": since, "created_before": until}
    session.items(session.remote.pages("/v1/events", query, limit), EVENTS)


@events.command("show")
@click.argument("event")
@remote
def events_show(session: Session, event: str) -> None:
    """Show an event with the data of its notification."""
    session.item(session.remote.get(f"/v1/events/{event}"))


@click.group("deliveries")
def deliveries() -> None:
    """List and show deliveries, and send one again."""


@deliveries.command("list")
@click.option("--endpoint", type=id_of(ids.ENDPOINT), metavar="ENDPOINT")
@click.option("--status", type=one_of(DeliveryState))
@click.option("--event", type=id_of(ids.EVENT), metavar="EVENT")
@click.option("--job", type=id_of(ids.JOB), metavar="JOB")
@limited
@remote
def deliveries_list(session: Session, limit: int, since: str | None, until: str | None, **given: Any) -> None:
    """List deliveries, newest first."""
    query = given | {"created_after": since, "created_before": until}
    session.items(session.remote.pages("/v1/deliveries", query, limit), DELIVERIES)


@deliveries.command("show")
@click.argument("delivery")
@remote
def deliveries_show(session: Session, delivery: str) -> None:
    """Show a delivery with its attempts: the request as it was sent, the answer, and the times."""
    session.item(session.remote.get(f"/v1/deliveries/{delivery}"))


@deliveries.command("redeliver")
@click.argument("delivery")
@yes
@remote
def deliveries_redeliver(session: Session, delivery: str) -> None:
    """Send the same event to the same endpoint again."""
    session.confirm(f"Send the event of {delivery} again? An endpoint that has it gets it twice.")
    session.item(session.remote.post(f"/v1/deliveries/{delivery}/redeliveries"))


@click.group("attempts")
def attempts() -> None:
    """List the attempts of a delivery."""


@attempts.command("list")
@click.argument("delivery")
@remote
def attempts_list(session: Session, delivery: str) -> None:
    """List the attempts of a delivery, oldest first."""
    session.items(session.remote.get(f"/v1/deliveries/{delivery}")["attempts"], ATTEMPTS)


@attempts.command("show")
@click.argument("delivery")
@click.argument("number", type=click.IntRange(1))
@remote
def attempts_show(session: Session, delivery: str, number: int) -> None:
    """Show one attempt of a delivery by its number."""
    found = [one for one in session.remote.get(f"/v1/deliveries/{delivery}")["attempts"] if one["number"] == number]
    if not found:
        raise Refused(f"{delivery} has no attempt {number}", EXIT_NOT_FOUND)
    session.item(found[0])


@click.group("callbacks")
def callbacks() -> None:
    """List and show callbacks, and release one that is held back."""


@callbacks.command("list")
@click.option("--job", type=id_of(ids.JOB), metavar="JOB")
@click.option("--verdict", type=one_of(Disposition))
@limited
@remote
def callbacks_list(session: Session, limit: int, since: str | None, until: str | None, **given: Any) -> None:
    """List callbacks, newest first."""
    query = given | {"created_after": since, "created_before": until}
    session.items(session.remote.pages("/v1/callbacks", query, limit), CALLBACKS)


@callbacks.command("show")
@click.argument("callback")
@remote
def callbacks_show(session: Session, callback: str) -> None:
    """Show a callback with its headers and body, secrets redacted."""
    session.item(session.remote.get(f"/v1/callbacks/{callback}"))


@callbacks.command("body")
@click.argument("callback")
@remote
def callbacks_body(session: Session, callback: str) -> None:
    """Write a callback's body as received to standard output, byte for byte."""
    found = session.remote.get(f"/v1/callbacks/{callback}")
    sys.stdout.buffer.write(base64.b64decode(found["body"]))
    sys.stdout.buffer.flush()


@callbacks.command("release")
@click.argument("callback")
@yes
@remote
def callbacks_release(session: Session, callback: str) -> None:
    """Apply a quarantined or orphaned callback now."""
    session.confirm(f"Release {callback}? It is applied as if it had come with a valid signature.")
    session.item(session.remote.post(f"/v1/callbacks/{callback}/releases"))
