"""`relay jobs`: list, show and explain jobs, submit them, wait for them, and intervene."""

import json
import sys
from pathlib import Path
from typing import Any, Final

import click

from relay.cli import CommandFailed
from relay.cli import output as printing
from relay.cli.connection import Connection, connected, path_of, yes_option
from relay.cli.nouns import MADE, Filter, Noun, group_of, metadata_option, pairs
from relay.client.requests import body
from relay.errors import RelayError

INPUT_MAX_BYTES: Final = 2_000_000
command = group_of(
    Noun(
        path="jobs",
        help="List, explain and submit jobs, wait for them, and intervene.",
        columns={
            "id": "id",
            "status": "status",
            "reason": "reason",
            "provider": "provider",
            "created": "created_at",
            "finished by": "finished_by",
            "error": "error.message",
        },
        filters=(
            Filter("status", "pending, submitted, running, succeeded, failed, canceled, expired, or open."),
            Filter("provider", "Of this provider."),
            Filter("reason", "With this reason."),
            Filter("provider_job_id", "With this id at the provider."),
            Filter("older_than", "Older than this (2h)."),
            Filter("undelivered", "An endpoint has not accepted one of its events.", flag=True),
            Filter("expiring_undelivered", "The result will expire, and no endpoint has its end.", flag=True),
            *MADE,
        ),
        metadata=True,
    )
)


@command.command("explain")
@click.argument("job_id", metavar="JOB")
@connected
def explain(relay: Connection, job_id: str) -> None:
    """Say in words what happened to a job, and what comes next."""
    job, timeline = relay.get(path_of("jobs", job_id)), relay.get(path_of("jobs", job_id, "timeline"))
    if relay.form != "table":
        relay.print({"job": job, "timeline": timeline["data"], "next": timeline["next"]})
        return
    for text in sentences(job):
        click.echo(printing.printable(text))
    for entry in timeline["data"]:
        decided = f" → {entry['decision']}" if entry["decision"] else ""
        why = f" ({entry['reason']})" if entry["reason"] else ""
        click.echo(printing.printable(f"  {entry['at']}  {entry['kind']:<11} {entry['summary']}{decided}{why}"))
    following = timeline["next"]
    parts = "" if following is None else "  ".join(f"{name} {value}" for name, value in following.items() if value)
    click.echo(printing.printable(f"Next: {parts or 'nothing, all is done'}."))


def sentences(job: dict[str, Any]) -> list[str]:
    """Return what a job is and why."""
    at = f" at {job['finished_at']}" if job["finished_at"] else ""
    by = f", ended by {job['finished_by']}" if job["finished_by"] else ""
    why = f" (reason: {job['reason']})" if job["reason"] else ""
    found = [f"{job['id']} at {job['provider']} is {job['status']}{at}{by}{why}."]
    if job["error"]:
        found.append(f"Error: {job['error'].get('message') or job['error'].get('code')}.")
    found += [
        f"Result: {one['url']} (until {one['expires_at'] or 'its host removes it'})" for one in job["outputs"] or []
    ]
    return found


@command.command("submit")
@click.option("--provider", required=True, help="Its name, or `cheapest`.")
@click.option("--input", "unified", metavar="JSON|@FILE|-", help="The input in relay's own form.")
@click.option("--request", "native", metavar="JSON|@FILE|-", help="The provider's own body instead.")
@click.option("--notify", multiple=True, metavar="URL", help="An endpoint for this job alone.")
@metadata_option("Stored with the job, and in every notification.")
@click.option("--max-cost", help="The highest price in USD.")
@click.option("--deadline-s", type=int, help="When the job expires, in seconds.")
@click.option("--idempotency-key", help="Makes it safe to repeat the command.")
@click.option("--wait", "waits", is_flag=True, help="Return when the job is final; exit 1 unless it succeeded.")
@connected
def submit(relay: Connection, waits: bool, idempotency_key: str | None, **given: Any) -> None:
    """Submit a job by exactly one of --input and --request."""
    if (given["unified"] is None) == (given["native"] is None):
        raise click.UsageError("give exactly one of --input and --request")
    fields = body(
        provider=given["provider"],
        input=document(given["unified"]),
        request=document(given["native"]),
        notify=[{"url": url} for url in given["notify"]] or None,
        metadata=pairs(given["metadata"]) or None,
        max_cost=given["max_cost"],
        deadline_s=given["deadline_s"],
    )
    job = relay.write("POST", path_of("jobs"), fields, idempotency_key)
    if waits:
        _print_final(relay, job["id"], None)
    else:
        relay.print(job)


def document(given: str | None) -> Any:
    """Return the JSON that an option gives: itself, a file after `@`, or standard input by `-`."""
    if given is None:
        return None
    try:
        if given == "-":
            given = sys.stdin.read(INPUT_MAX_BYTES)
        elif given.startswith("@"):
            given = Path(given[1:]).read_text(encoding="utf-8")
        return json.loads(given)
    except OSError as error:
        raise RelayError(f"{given[1:]} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RelayError(f"that is no JSON: {error}") from None


@command.command("wait")
@click.argument("job_id", metavar="JOB")
@click.option("--timeout-s", type=click.FloatRange(0), help="Give up after that long, with exit status 75.")
@connected
def wait(relay: Connection, job_id: str, timeout_s: float | None) -> None:
    """Return when a job is final; exit 1 unless it succeeded."""
    _print_final(relay, job_id, timeout_s)


def _print_final(relay: Connection, job_id: str, timeout_s: float | None) -> None:
    """Print the job when it is final; raise CommandFailed unless it succeeded."""
    printing.say(f"waiting for {job_id}")
    relay.relay.wait(job_id, timeout_s)
    job = relay.get(path_of("jobs", job_id))
    relay.print(job)
    if job["status"] != "succeeded":
        raise CommandFailed(f"{job_id} is {job['status']}", 1)


@command.command("cancel")
@click.argument("job_id", metavar="JOB")
@yes_option
@connected
def cancel(relay: Connection, job_id: str, yes: bool) -> None:
    """Cancel a job, at its provider too if it can be canceled there."""
    printing.confirm(f"Cancel {job_id}? What the provider charged stays charged.", yes=yes)
    relay.print(relay.write("POST", path_of("jobs", job_id, "cancellations")))


@command.command("check")
@click.argument("job_id", metavar="JOB")
@connected
def check(relay: Connection, job_id: str) -> None:
    """Check a job's status at its provider now."""
    relay.print(relay.write("POST", path_of("jobs", job_id, "status-checks")))


@command.command("resubmit")
@click.argument("job_id", metavar="JOB")
@click.option("--accept-double-charge", is_flag=True, help="Also if the job may have been charged already.")
@yes_option
@connected
def resubmit(relay: Connection, job_id: str, accept_double_charge: bool, yes: bool) -> None:
    """Submit a job again."""
    twice = " It may be charged twice." if accept_double_charge else ""
    printing.confirm(f"Submit {job_id} to its provider again?{twice}", yes=yes)
    fields = {"accept_double_charge": accept_double_charge}
    relay.print(relay.write("POST", path_of("jobs", job_id, "resubmissions"), fields))


@command.command("fail")
@click.argument("job_id", metavar="JOB")
@click.option("--reason", required=True, help="Shown with the job.")
@yes_option
@connected
def fail(relay: Connection, job_id: str, reason: str, yes: bool) -> None:
    """Declare a job failed."""
    printing.confirm(f"Declare {job_id} failed? Its endpoints are notified.", yes=yes)
    relay.print(relay.write("POST", path_of("jobs", job_id, "failures"), {"reason": reason}))
