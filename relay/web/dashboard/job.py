"""The page of one job: what became of it, the proof, and what an operator can do about it."""

import base64
import io
import json
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from starlette.responses import Response

from relay.web.dashboard import answer, copies, story
from relay.web.dashboard.in_process import Refused
from relay.web.dashboard.story import Evidence
from relay.web.dashboard.view import Form, PageRoute, Verb, View, text_of, ticked

Json = dict[str, Any]
DELIVERIES_MAX: Final = 40
"""Deliveries whose attempts are read, the newest."""
INCIDENT_BODIES_MAX: Final = 20
BODIES_MAX: Final = 5
"""Callbacks whose bodies are on the page, the newest; the others are one click away."""
_SENT: Final[Json] = {"request": None, "response_headers": None, "timings": None}
"""What the API does not say of an attempt that an older relay made."""
BODY_CHARS_MAX: Final = 100_000


class CallbackShown(msgspec.Struct, frozen=True):
    """A callback with its body as the page shows it: indented if it is JSON, None if it is not on the page."""

    head: Json
    body: str | None
    is_json: bool


async def show(view: View) -> Response:
    """Show a job with everything that is stored about it."""
    evidence = await gather(view, view.path("id"))
    job, app = evidence.job, view.app
    bodies = [
        await _callback(view, one, number < BODIES_MAX) for number, one in enumerate(reversed(evidence.callbacks))
    ]
    found = story.lines(evidence)
    delivered_at = answer.branches(evidence)
    attempts = [
        (delivery, _SENT | attempt, story.after_attempt(evidence, delivery, attempt))
        for delivery in evidence.deliveries
        for attempt in delivery["attempts"]
    ]
    return await view.page(
        "job.html",
        job=job,
        evidence=evidence,
        answer=answer.answer(evidence, view.now_ms),
        lines=found,
        states=answer.states(evidence),
        ends_not_taken=[word for word in answer.ENDS if word != job["status"]],
        branches=delivered_at,
        steps=answer.steps(evidence, view.now_ms, app.settings.output_expiring_s * 1000),
        attempts=sorted(attempts, key=lambda one: one[1]["started_at"], reverse=True),
        callbacks=bodies,
        last=_last_deliveries(evidence),
        outputs=copies.by_output(job, evidence.copies),
        can_copy=copies.can_copy(view, job, evidence.copies),
        may_be_charged=may_be_charged(job),
        resubmission_off=resubmission_off(job),
        request_text=indented(msgspec.json.encode(job["request"])),
        schedules=view.app.settings.retry_schedule_s,
    )


async def gather(view: View, job_id: str) -> Evidence:
    """Return what the API says about a job."""
    job = await view.get("/v1/jobs/{id}", id=job_id)
    timeline = await view.get("/v1/jobs/{id}/timeline", id=job_id)
    of_job: dict[str, str | None] = {"job": job_id, "limit": "200"}
    heads = (await view.get("/v1/deliveries", of_job))["data"][:DELIVERIES_MAX]
    deliveries = [await view.get("/v1/deliveries/{id}", id=one["id"]) for one in reversed(heads)]
    return Evidence(
        job=job,
        timeline=timeline["data"],
        next=timeline["next"],
        deliveries=deliveries,
        events=list(reversed((await view.get("/v1/events", of_job))["data"])),
        callbacks=list(reversed((await view.get("/v1/callbacks", of_job))["data"])),
        endpoints=await _endpoints(view, (one["endpoint"] for one in deliveries)),
        copies=await copies.of_job(view, job),
    )


async def _endpoints(view: View, ids: Iterable[str]) -> dict[str, Json]:
    """Return the endpoints with these ids, without those that were deleted."""
    found = {}
    for id_ in dict.fromkeys(ids):
        try:
            found[id_] = await view.get("/v1/endpoints/{id}", id=id_)
        except Refused as refused:
            if refused.problem.status != 404:
                raise
    return found


async def _callback(view: View, head: Json, whole: bool) -> CallbackShown:
    """Return a callback as the page shows it."""
    if not whole:
        return CallbackShown(head, None, is_json=False)
    found = await view.get("/v1/callbacks/{id}", id=head["id"])
    text = found["body_text"]
    if text is None:
        return CallbackShown(found, f"{found['body'][:BODY_CHARS_MAX]}\n(not text; in base64)", is_json=False)
    shown = indented(text.encode())
    return CallbackShown(found, shown or text[:BODY_CHARS_MAX], is_json=shown is not None)


async def incident(view: View) -> Response:
    """Send everything that the API says about a job as one zip file, for a report to a provider or a colleague."""
    evidence = await gather(view, view.path("id"))
    members: dict[str, bytes] = {
        f"{name}.json": msgspec.json.format(msgspec.json.encode(value), indent=2)
        for name, value in (
            ("job", evidence.job),
            ("timeline", {"data": evidence.timeline, "next": evidence.next}),
            ("events", evidence.events),
            ("deliveries", evidence.deliveries),
            ("callbacks", evidence.callbacks),
            ("endpoints", list(evidence.endpoints.values())),
            ("copies", evidence.copies),
        )
    }
    for head in evidence.callbacks[-INCIDENT_BODIES_MAX:]:
        body = (await view.get("/v1/callbacks/{id}", id=head["id"]))["body"]
        members[f"callbacks/{head['id']}.bin"] = base64.b64decode(body)
    import zipfile  # noqa: PLC0415 - a start does not wait for it

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    headers = {
        "content-disposition": f'attachment; filename="incident-{evidence.job["id"]}.zip"',
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    return Response(packed.getvalue(), headers=headers, media_type="application/zip")


def indented(raw: bytes) -> str | None:
    """Return JSON with line breaks, its numbers exactly as they came; None for what is no JSON, or too long."""
    if len(raw) > BODY_CHARS_MAX:
        return None
    try:
        json.loads(raw, parse_int=str, parse_float=str)
        return msgspec.json.format(raw, indent=2).decode()
    except (ValueError, RecursionError):
        return None


def _last_deliveries(evidence: Evidence) -> list[tuple[str, Json]]:
    """Return the delivery that a redelivery repeats, for each endpoint, those that lack it first."""
    found = [(branch.name, branch.delivery) for branch in answer.branches(evidence)]
    return sorted(found, key=lambda one: one[1]["status"] == "delivered")


def may_be_charged(job: Json) -> bool:
    """Return whether a second submission may be a second charge: a hint, which the API decides again."""
    sent = job["submitted_at"] is not None or job["provider_job_id"] is not None or job["reason"] is not None
    surely_not = job["status"] == "failed" and job["reason"] is None and job["finished_by"] != "operator"
    return sent and not surely_not


def resubmission_off(job: Json) -> str | None:
    """Return why the job cannot be submitted again; None if it can."""
    if job["reason"] == "submit_unknown" or job["status"] in ("failed", "canceled", "expired"):
        return None
    return f"the job is {job['status']}: only one that did not succeed can be submitted again"


def _checked(answered: Json, _: Form) -> str:
    """Return what a status check found."""
    return f"{answered['provider']} was asked. The job is `{answered['status']}`."


def _redelivered(answered: Json, _: Form) -> str:
    """Return what a redelivery does."""
    return f"The event is sent again, as delivery `{answered['id']}`."


PAGES: Final = (PageRoute("/jobs/{id}", show, live=True), PageRoute("/jobs/{id}/incident", incident))
VERBS: Final = (
    Verb(
        path="/jobs/{id}/status-checks",
        route="POST /v1/jobs/{id}/status-checks",
        title="Check",
        done=_checked,
    ),
    Verb(
        path="/jobs/{id}/cancellations",
        route="POST /v1/jobs/{id}/cancellations",
        title="Cancel",
        done=lambda answered, _: f"The job is `{answered['status']}`.",
    ),
    Verb(
        path="/jobs/{id}/failures",
        route="POST /v1/jobs/{id}/failures",
        title="Fail",
        body=lambda form: {"reason": text_of(form, "reason")},
        done=lambda answered, _: f"The job is `{answered['status']}`.",
    ),
    Verb(
        path="/jobs/{id}/resubmissions",
        route="POST /v1/jobs/{id}/resubmissions",
        title="Resubmit",
        body=lambda form: {"accept_double_charge": ticked(form, "accept_double_charge")},
        done=lambda answered, _: f"The job is submitted again, and is `{answered['status']}`.",
    ),
    Verb(
        path="/jobs/{job}/redeliveries",
        route="POST /v1/deliveries/{id}/redeliveries",
        title="Redeliver",
        params=lambda form: {"id": text_of(form, "delivery")},
        done=_redelivered,
    ),
)
