"""`relay deliveries`: list and show deliveries, and send one again."""

import click

from relay.cli.connection import Connection, connected, path_of
from relay.cli.nouns import MADE, Filter, Noun, group_of

command = group_of(
    Noun(
        path="deliveries",
        help="List and show deliveries, and send one again.",
        columns={
            "id": "id",
            "status": "status",
            "endpoint": "endpoint",
            "event": "event",
            "attempts": "attempts_made",
            "next attempt": "next_attempt_at",
            "created": "created_at",
        },
        filters=(
            Filter("status", "pending, delivered, exhausted or canceled."),
            Filter("endpoint", "To this endpoint."),
            Filter("event", "Of this event."),
            Filter("job", "About this job."),
            *MADE,
        ),
    )
)


@command.command("redeliver")
@click.argument("delivery_id", metavar="DELIVERY")
@connected
def redeliver(relay: Connection, delivery_id: str) -> None:
    """Send the same event to the same endpoint again, as a new delivery."""
    relay.print(relay.write("POST", path_of("deliveries", delivery_id, "redeliveries")))
