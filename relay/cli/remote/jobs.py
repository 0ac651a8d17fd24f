"""`relay jobs`: list, show and explain jobs, submit and wait, and act on them."""

import sys
import time
from typing import Any, Final

import click

from relay.cli.remote.bulk import OPEN, bulk
from relay.cli.remote.connection import EXIT_AGAIN, Json, Refused
from relay.cli.remote.options import Finite, age_text, idempotency_key, json_object, limited, one_of, usd_text
from relay.cli.remote.output import Columns, Session, in_a_line, pairs, printable, remote, yes
from relay.errors import RelayError
from relay.model.archive import CopyState
from relay.model.job import JobState, Reason

FINAL: Final = frozenset({"succeeded", "failed", "canceled", "expired"})
HELD_S: Final = 25
"""The longest time for which relay holds a request."""
LIST: Final[Columns] = {
    "JOB": "id",
    "STATUS": "status",
    "REASON": "reason",
    "PROVIDER": "provider",
    "MODEL": "model",
    "CREATED": "created_at",
    "FINISHED": "finished_at",
    "METADATA": lambda job: _pairs(job["metadata"]),
}
_INPUT: Final = ("prompt", "image", "last_frame", "reference", "model")
"""The options of `submit` that are fields of the unified input."""
SHOWN: Final[Columns] = {
    **{name: name for name in ("id", "status", "reason", "provider", "provider_job_id", "model", "progress")},
    **{name: name for name in ("finished_by", "verification", "late")},
    "cost": lambda job: _cost(job["cost"]),
    "error": "error",
    "metadata": lambda job: _pairs(job["metadata"]),
    **{name: name for name in ("created_at", "submitted_at", "finished_at", "deadline_at")},
    "outputs": lambda job: "\n         ".join(output["url"] for output in job["outputs"]),
}


def _pairs(metadata: Json) -> str:
    """Return a job's metadata as text."""
    return " ".join(f"{key}={value if isinstance(value, str) else in_a_line(value)}" for key, value in metadata.items())


def _cost(cost: Json | None) -> str | None:
    """Return a job's cost as text, None without one."""
    return None if cost is None else f"{cost['amount']} {cost['unit']} ({cost['kind']})"


@click.group("jobs")
def command() -> None:
    """List, submit and follow jobs, and act on them."""


command.add_command(bulk)


@command.command("list")
@click.option("--status", type=one_of(JobState, OPEN), help="`open`: every one that is not final.")
@click.option("--provider")
@click.option("--provider-job-id")
@click.option("--reason", type=one_of(Reason))
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="May be given more than once.")
@click.option("--older-than", type=age_text, metavar="AGE", help="Such as 2h.")
@click.option("--undelivered", is_flag=True, help="Not delivered to every endpoint.")
@click.option("--expiring-undelivered", is_flag=True, help="The result will expire, and no endpoint has its end.")
@click.option("--copies", type=one_of(CopyState), help="A copy of its results is in this state.")
@limited
@remote
def index(session: Session, limit: int, since: str | None, until: str | None, **given: Any) -> None:
    """List jobs, newest first."""
    query = {name: value or None for name, value in given.items() if name != "metadata"}
    query |= {"created_after": since, "created_before": until}
    query["metadata"] = pairs(given["metadata"], "--metadata") or None
    session.items(session.remote.pages("/v1/jobs", query, limit), LIST)


@command.command("show")
@click.argument("job")
@remote
def show(session: Session, job: str) -> None:
    """Show a job."""
    session.item(session.remote.get(f"/v1/jobs/{job}"), SHOWN)


@command.command("explain")
@click.argument("job")
@remote
def explain(session: Session, job: str) -> None:
    """Show what happened to a job, what relay decided and why, and what comes next."""
    timeline = session.remote.get(f"/v1/jobs/{job}/timeline")
    if session.output != "table":
        session.item(timeline)
        return
    for line in timeline["data"]:
        click.echo(printable(f"{line['at']}  {line['kind']:<11}  {line['summary']}  {line['ref']}"))
        for more in ("decision", "reason"):
            if line[more]:
                click.echo(printable(f"{'':<24}  {'':<11}  {line[more]}"))
    if timeline["next"]:
        click.echo(f"{timeline['next']['at']}  next         {timeline['next']['what']}")


@command.command("submit")
@click.argument("provider")
@click.option("--input", "input_", metavar="JSON", help="The unified input, as JSON, @file or - for standard input.")
@click.option("--request", metavar="JSON", help="The provider's own body instead, as --input.")
@click.option("--prompt")
@click.option("--image", multiple=True, metavar="URL", help="May be given more than once; none for text-to-video.")
@click.option("--last-frame", metavar="URL", help="The last frame, beside one image.")
@click.option(
    "--reference", multiple=True, metavar="URL", help="An image that is no frame. May be given more than once."
)
@click.option("--model", metavar="NAME", help="One that relay knows; another only in a --request.")
@click.option("--notify", multiple=True, metavar="URL", help="An endpoint for this job alone; its secret is printed.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE")
@click.option("--max-cost", type=usd_text, metavar="USD")
@click.option(
    "--idempotency-key",
    "key",
    type=idempotency_key,
    metavar="KEY",
    help="The same key submits one job, however often this runs.",
)
@click.option("--wait", "waits", is_flag=True, help="Return when the job has ended; exit with 1 if it did not succeed.")
@remote
def submit(session: Session, provider: str, waits: bool, key: str | None, **given: Any) -> None:
    """Submit a job to a provider, or to `cheapest`."""
    unified = {"--input": "input_"} | {f"--{name.replace('_', '-')}": name for name in _INPUT}
    if given["request"] is not None and (both := [option for option, name in unified.items() if given[name]]):
        raise click.UsageError(f"--request is the provider's own body: put into it what {', '.join(both)} would say")
    made = json_object(given["input_"], "--input") or {}
    made |= {"prompt": given["prompt"]} if given["prompt"] else {}
    made |= {"images": list(given["image"])} if given["image"] else {}
    made |= {"references": list(given["reference"])} if given["reference"] else {}
    made |= {name: given[name] for name in ("last_frame", "model") if given[name]}
    body: Json = {"provider": provider}
    request = json_object(given["request"], "--request")
    body |= {"input": made} if request is None else {"request": request}
    body |= {"notify": [{"url": url} for url in given["notify"]]} if given["notify"] else {}
    body |= {"metadata": pairs(given["metadata"], "--metadata")} if given["metadata"] else {}
    body |= {"max_cost": given["max_cost"]} if given["max_cost"] else {}
    headers = {"idempotency-key": key} if key else {}
    job = session.remote.post("/v1/jobs", body, **headers)
    if not waits:
        session.item(job, {**SHOWN, **({"notify": "notify"} if given["notify"] else {})})
        return
    session.say(f"submitted {job['id']}")
    _end(session, _wait(session, job["id"], None))


@command.command("wait")
@click.argument("job")
@click.option("--for", "for_s", type=Finite(0), metavar="SECONDS", help="Exit with 75 after so long.")
@remote
def wait(session: Session, job: str, for_s: float | None) -> None:
    """Return when a job has ended; exit with 1 if it did not succeed."""
    _end(session, _wait(session, job, for_s))


def _wait(session: Session, job_id: str, for_s: float | None) -> Json:
    """Return the job when it is final: relay holds each request until then, so nothing is polled in between."""
    until = None if for_s is None else time.monotonic() + for_s
    while True:
        left = HELD_S if until is None else min(HELD_S, max(0, round(until - time.monotonic())))
        headers = {"prefer": f"wait={left}"}
        job: Json = session.remote.request("GET", f"/v1/jobs/{job_id}", headers=headers)
        if job["status"] in FINAL:
            return job
        if until is not None and time.monotonic() >= until:
            raise Refused(f"{job_id} is {job['status']} after {for_s:g} s", EXIT_AGAIN)


def _end(session: Session, job: Json) -> None:
    """Print an ended job; exit with 1 unless it succeeded."""
    session.item(job, SHOWN)
    if job["status"] != "succeeded":
        sys.exit(1)


@command.command("cancel")
@click.argument("job")
@yes
@remote
def cancel(session: Session, job: str) -> None:
    """Cancel a job, at its provider too if it can be canceled there."""
    session.confirm(f"Cancel {job}? Its endpoints get job.canceled.")
    session.item(session.remote.post(f"/v1/jobs/{job}/cancellations"), SHOWN)


@command.command("check")
@click.argument("job")
@remote
def check(session: Session, job: str) -> None:
    """Check a job's status at its provider now."""
    session.item(session.remote.post(f"/v1/jobs/{job}/status-checks"), SHOWN)


@command.command("resubmit")
@click.argument("job")
@click.option("--accept-double-charge", is_flag=True, help="Also if the first submission may have been charged.")
@yes
@remote
def resubmit(session: Session, job: str, accept_double_charge: bool) -> None:
    """Submit a job again that did not succeed."""
    session.confirm(
        f"Submit {job} again? The provider charges for it{' a second time' if accept_double_charge else ''}."
    )
    body = {"accept_double_charge": accept_double_charge}
    session.item(session.remote.post(f"/v1/jobs/{job}/resubmissions", body), SHOWN)


@command.command("fail")
@click.argument("job")
@click.option("--reason", required=True, help="Shown to the application.")
@yes
@remote
def fail(session: Session, job: str, reason: str) -> None:
    """Declare a job failed; its provider is not asked."""
    session.confirm(f"Declare {job} failed? Its endpoints get job.failed.")
    session.item(session.remote.post(f"/v1/jobs/{job}/failures", {"reason": reason}), SHOWN)


@command.command("approve")
@click.argument("job")
@click.option("--reason", help="Stored with the job.")
@yes
@remote
def approve(session: Session, job: str, reason: str | None) -> None:
    """Send a job that waits for approval to its provider, at its price."""
    approval = session.remote.get(f"/v1/jobs/{job}").get("approval") or {"amount": None}
    price = (
        f"for {approval['amount']} {approval['unit']}" if approval["amount"] else "at a price that relay cannot know"
    )
    session.confirm(f"Send {job} to its provider {price}?")
    session.item(session.remote.post(f"/v1/jobs/{job}/approvals", {"approve": True} | _reason(reason)), SHOWN)


@command.command("refuse")
@click.argument("job")
@click.option("--reason", help="Stored with the job.")
@yes
@remote
def refuse(session: Session, job: str, reason: str | None) -> None:
    """Refuse a job that waits for approval; it fails, and nothing is paid."""
    session.confirm(f"Refuse {job}? It fails, and its endpoints get job.failed.")
    session.item(session.remote.post(f"/v1/jobs/{job}/approvals", {"approve": False} | _reason(reason)), SHOWN)


def _reason(given: str | None) -> Json:
    """Return the field of a reason, if there is one."""
    return {} if given is None else {"reason": given}


@command.command("redeliver")
@click.argument("job")
@yes
@remote
def redeliver(session: Session, job: str) -> None:
    """Send the job's last event again, to each endpoint that wanted it."""
    newest: dict[str, Json] = {}
    for delivery in session.remote.pages("/v1/deliveries", {"job": job}, 200):
        newest.setdefault(delivery["endpoint"], delivery)
    if not newest:
        raise RelayError(f"no endpoint wanted an event of {job}")
    session.confirm(f"Send the last event of {job} to {len(newest)} endpoint{'s' if len(newest) > 1 else ''} again?")
    done = [session.remote.post(f"/v1/deliveries/{one['id']}/redeliveries") for one in newest.values()]
    session.items(done, {"DELIVERY": "id", "EVENT": "event", "ENDPOINT": "endpoint", "STATUS": "status"})
