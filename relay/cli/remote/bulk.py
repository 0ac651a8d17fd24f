"""`relay jobs bulk`: act on all jobs that match: counted first, then asked, then with a progress bar."""

from typing import Any, Final

import click

from relay.cli.remote.connection import Json, Refused, progress
from relay.cli.remote.options import age_text, made_between, one_of
from relay.cli.remote.output import Columns, Session, pairs, remote, yes
from relay.model.archive import CopyState
from relay.model.job import JobState, Reason

DONE: Final[Columns] = {"JOB": "job", "DONE": "done", "CODE": "code", "WHY NOT": "detail"}
WARNINGS: Final = {
    "cancel": "What the providers charged stays charged.",
    "check": "Each is one request to its provider.",
    "resubmit": "Each is sent to its provider again, and may be charged.",
    "fail": "Their endpoints are notified.",
    "redeliver": "An endpoint that has an event may get it twice.",
    "copy": "Their results are copied to the archive, unless they are there.",
}

OPEN: Final = "open"
"""What the filter by status calls every status that is not final."""


@click.command("bulk")
@click.argument("action", type=click.Choice(list(WARNINGS)))
@click.option("--status", type=one_of(JobState, OPEN), help="`open`: every one that is not final.")
@click.option("--provider")
@click.option("--reason", "because", type=one_of(Reason), help="With this reason.")
@click.option("--provider-job-id")
@click.option("--older-than", type=age_text, metavar="AGE", help="Such as 2h.")
@made_between
@click.option("--metadata", multiple=True, metavar="KEY=VALUE")
@click.option("--undelivered", is_flag=True, default=None, help="An endpoint has not accepted one of its events.")
@click.option(
    "--expiring-undelivered", is_flag=True, default=None, help="The result will expire, and none has its end."
)
@click.option("--copies", type=one_of(CopyState), help="A copy of its results is in this state.")
@click.option("--why", help="The reason that is stored; required for fail.")
@click.option("--accept-double-charge", is_flag=True, help="Resubmit also what may have been charged.")
@click.option("--dry-run", is_flag=True, help="Only count.")
@yes
@remote
def bulk(session: Session, action: str, dry_run: bool, **given: Any) -> None:
    """Act on all jobs that match; exit 1 if one of them was refused.

    Jobs that are made after the count are not touched.
    """
    if action == "fail" and not given["why"] and not dry_run:
        raise click.UsageError("fail needs --why")
    body = {"action": action, "filter": _filter(given)}
    counted = session.remote.post("/v1/bulk-actions", body | {"dry_run": True})
    if dry_run:
        session.item(counted)
        return
    more = " or more" if counted["matched_more"] else ""
    session.confirm(f"{action} {counted['matched']}{more} jobs? {WARNINGS[action]}")
    body |= {"as_of": counted["as_of"], "accept_double_charge": given["accept_double_charge"]}
    rows = _acted(session, body | ({"reason": given["why"]} if given["why"] else {}), counted["matched"])
    session.items(rows, DONE)
    if refused := [row for row in rows if not row["done"]]:
        raise Refused(f"{len(refused)} of {len(rows)} jobs were refused", 1)


def _filter(given: Json) -> Json:
    """Return the filter of the API."""
    ages = ("older_than", "created_after", "created_before")
    names = ("status", "provider", "provider_job_id", *ages, "undelivered", "expiring_undelivered", "copies")
    found = {name: given[name] for name in names} | {"reason": given["because"]}
    found = {name: value for name, value in found.items() if value is not None}
    metadata = pairs(given["metadata"], "--metadata")
    return found | ({"metadata": metadata} if metadata else {})


def _acted(session: Session, body: Json, matched: int) -> list[Json]:
    """Act call after call; return a row for each job."""
    rows: list[Json] = []
    with progress(body["action"], max(matched, 1)) as bar:
        while True:
            answer = session.remote.post("/v1/bulk-actions", body)
            rows += [{"job": one["job"], "done": True, "code": None, "detail": None} for one in answer["done"]]
            rows += [one | {"done": False} for one in answer["refused"]]
            bar.update(len(answer["done"]) + len(answer["refused"]))
            if answer["next_cursor"] is None:
                return rows
            body = body | {"cursor": answer["next_cursor"]}
