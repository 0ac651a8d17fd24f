"""`relay alerts`, `audit`, `search` and `stats`: what needs attention, who changed what, and the numbers of a time."""

from typing import Any, Final

import click

from relay.cli.remote.options import limited, one_of, time_text
from relay.cli.remote.output import Columns, Session, remote
from relay.model.alert import AlertKind

ALERTS: Final[Columns] = {
    "KIND": "kind", "STATE": "state", "ABOUT": "subject.name", "SINCE": "since", "ENDED": "ended_at",
    "SUMMARY": "summary",
}  # fmt: skip
AUDIT: Final[Columns] = {
    "TIME": "at", "KEY": "key_name", "VIA": "via", "FROM": "address", "VERB": "verb", "TARGET": "target",
    "HTTP": "status", "DETAIL": "detail",
}  # fmt: skip
FOUND: Final[Columns] = {
    "KIND": "kind", "ID": "id", "JOB": "job_id", "TITLE": "title", "MATCHED": "matched", "CREATED": "created_at",
}  # fmt: skip
INTERVALS: Final[Columns] = {
    "FROM": "at", "CREATED": "jobs_created", "SUCCEEDED": "jobs_finished.succeeded", "FAILED": "jobs_finished.failed",
    "CANCELED": "jobs_finished.canceled", "EXPIRED": "jobs_finished.expired", "DELIVERED": "deliveries.first_attempt",
    "RETRIED": "deliveries.after_retries", "EXHAUSTED": "deliveries.exhausted", "P50 MS": "latency.p50_ms",
    "P99 MS": "latency.p99_ms", "DUE": "backlog.due_most", "COPIED": "archive.archived", "NOT COPIED": "archive.failed",
}  # fmt: skip


@click.command("alerts")
@click.option("--state", type=click.Choice(["open", "ended", "all"]), default="open", show_default=True)
@click.option("--kind", type=one_of(AlertKind), metavar="KIND", help=f"Only of this kind: {', '.join(AlertKind)}.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@remote
def alerts(session: Session, limit: int, **given: Any) -> None:
    """List what an operator should know of, newest first."""
    session.items(session.remote.pages("/v1/alerts", given, limit), ALERTS)


@click.command("audit")
@click.option("--key", help="By this API key.")
@click.option("--verb", help="Such as endpoints.create.")
@click.option("--target", help="Of this id.")
@click.option("--via", type=click.Choice(["api", "dashboard", "cli", "database"]))
@click.option("--project", help="Of this project; needs an operator's key.")
@limited
@remote
def audit(session: Session, limit: int, since: str | None, until: str | None, **given: Any) -> None:
    """List who changed what, and from where, newest first."""
    query = given | {"created_after": since, "created_before": until}
    session.items(session.remote.pages("/v1/audit", query, limit), AUDIT)


@click.command("search")
@click.argument("text")
@click.option("--limit", type=click.IntRange(1, 50), default=10, show_default=True, help="So many of each kind.")
@remote
def search(session: Session, text: str, limit: int) -> None:
    """Find by an id, a provider's id, metadata (KEY=VALUE or a value), or a part of an endpoint's URL."""
    session.items(session.remote.get("/v1/search", {"q": text, "limit": limit})["data"], FOUND)


@click.command("stats")
@click.option(
    "--from",
    "begin",
    type=time_text,
    default="-24h",
    show_default=True,
    metavar="TIME",
    help="2026-11-26, RFC 3339, or -7d.",
)
@click.option("--to", "end", type=time_text, metavar="TIME", help="Now if not given.")
@click.option("--bucket", type=click.Choice(["1m", "15m", "1h", "1d"]), default="1h", show_default=True)
@remote
def stats(session: Session, begin: str, end: str | None, bucket: str) -> None:
    """Show jobs, deliveries, latency, backlog and copies by interval; as JSON in all and by provider too."""
    found = session.remote.get("/v1/stats", {"from": begin, "to": end, "bucket": bucket})
    if session.output == "table":
        session.items(found["series"], INTERVALS)
    else:
        session.item(found)
