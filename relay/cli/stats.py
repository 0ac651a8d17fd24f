"""`relay stats`: what happened, in numbers."""

import click

from relay.cli.connection import Connection, connected, path_of
from relay.client.requests import query

COLUMNS = {
    "at": "at",
    "created": "jobs_created",
    "succeeded": "jobs_finished.succeeded",
    "failed": "jobs_finished.failed",
    "expired": "jobs_finished.expired",
    "first attempt": "deliveries.first_attempt",
    "retried": "deliveries.after_retries",
    "exhausted": "deliveries.exhausted",
    "p50 ms": "latency.p50_ms",
    "p99 ms": "latency.p99_ms",
    "due": "backlog.due_most",
}


@click.command("stats")
@click.option("--from", "begin", default="-24h", show_default=True, help="From this time, date or age on.")
@click.option("--to", "end", help="Until this time.")
@click.option("--bucket", type=click.Choice(["1m", "15m", "1h", "1d"]), default="1h", show_default=True)
@connected
def command(relay: Connection, begin: str, end: str | None, bucket: str) -> None:
    """Show jobs, deliveries, latency and backlog by interval; as JSON, by provider too."""
    found = relay.get(path_of("stats"), query(**{"from": begin, "to": end, "bucket": bucket}))
    if relay.form == "table":
        relay.print_rows(found["series"], COLUMNS)
    else:
        relay.print(found)
