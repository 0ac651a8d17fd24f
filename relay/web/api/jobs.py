"""`/v1/jobs`, `/v1/providers`: submit a job, show jobs and what happened to them, and list the providers."""

import asyncio
from functools import partial
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from relay import ids
from relay.clock import rfc3339
from relay.errors import FieldError, InvalidInput, NotFound
from relay.jobs.job_requests import Intake
from relay.jobs.quotes import CHEAPEST
from relay.model import serializers, timeline
from relay.model.delivery import Endpoint
from relay.model.job import Job, JobState, Reason
from relay.model.payment import max_cost
from relay.providers.native import unknown_model
from relay.storage.jobs import JobFilter
from relay.web.api.api_request import ApiRequest
from relay.web.api.lists import enum_param, listing, page, time_param
from relay.web.problems import JSON

OPEN: Final = "open"
"""As `status` in `GET /v1/jobs`: every job that is not final."""


async def create(request: ApiRequest) -> Response:
    """`POST /v1/jobs`: 202 with the job after the provider's answer, or after `RELAY_SUBMIT_WAIT_S`.

    With `Prefer: wait` 200 if the job became final in that time. A client that disconnects does not stop the job.
    """
    app = request.app
    intake = Intake(app.providers, app.policy, app.settings.notify_max)
    given: Any = await _with_provider(request, request.body())
    new = intake.job(given, request.project_id, app.clock.now_ms())
    await app.quoter.require(new.job)
    secrets = [entry.get("secret") for entry in given.get("notify") or ()]
    notify = [_notify(endpoint, secret is None) for endpoint, secret in zip(new.endpoints, secrets, strict=True)]
    more, headers = {"notify": notify}, {"location": f"/v1/jobs/{new.job.id}"}
    created = _response(request, new.job, more, headers)
    new = msgspec.structs.replace(new, tie=request.tie(lambda _: created, job_id=new.job.id))
    wait_s, began_at = request.wait_s(), app.clock.monotonic_ms()
    job = await app.submitter.submit(new, app.settings.submit_wait_s if wait_s is None else wait_s)
    if wait_s is not None:
        job = await _final(request, job, began_at + round(wait_s * 1000))
    return _response(request, job, more, headers)


async def _with_provider(request: ApiRequest, given: Any) -> Any:
    """Return the body, with `cheapest` replaced by the provider with the lowest price for its input."""
    if not isinstance(given, dict) or given.get("provider") != CHEAPEST:
        return given
    wanted = given.get("input")
    if not isinstance(wanted, dict):
        raise InvalidInput([FieldError("input", "is required with provider cheapest")])
    return given | {"provider": await request.app.quoter.cheapest(wanted, max_cost(given.get("max_cost")))}


async def show(request: ApiRequest) -> Response:
    """`GET /v1/jobs/{id}`: 200; with `Prefer: wait` 200 as soon as it is final, 202 if it is not when the wait ends."""
    request.query()
    job, wait_s = await job_of(request), request.wait_s()
    if wait_s is None:
        return JSON(serializers.job(job))
    return _response(request, await _final(request, job, request.app.clock.monotonic_ms() + round(wait_s * 1000)))


async def index(request: ApiRequest) -> Response:
    """`GET /v1/jobs`: newest first."""
    times = ("created_after", "created_before", "older_than")
    given = request.query("limit", "cursor", "status", "provider", "reason", "provider_job_id", *times, "metadata[]")
    wanted_page = listing(request, given, ids.JOB)
    wanted = JobFilter(
        status=OPEN if given.get("status") == OPEN else enum_param(given, "status", JobState),
        provider=given.get("provider"),
        reason=enum_param(given, "reason", Reason),
        provider_job_id=given.get("provider_job_id"),
        created_after=_time(request, given, "created_after"),
        created_before=_created_before(request, given),
        metadata={
            name[9:-1]: value for name, value in given.items() if name.startswith("metadata[") and name.endswith("]")
        },
    )
    return page(await request.app.store.jobs.page(request.project_id, wanted_page, wanted), serializers.job)


async def show_timeline(request: ApiRequest) -> Response:
    """`GET /v1/jobs/{id}/timeline`: everything stored about the job, in order, and what happens next."""
    request.query()
    job = await job_of(request)
    stored = await request.app.store.jobs.evidence(job.id)
    provider = request.app.providers.get(job.provider)
    lines = [
        *timeline.of_job(job, unknown_model(provider.adapter, job.request) if provider else None),
        *(line for payment in stored.payments for line in timeline.of_payment(payment)),
        *map(timeline.of_call, stored.calls),
        *map(timeline.of_callback, stored.callbacks),
        *map(timeline.of_reprocessing, stored.reprocessings),
        *map(timeline.of_event, stored.events),
        *map(timeline.of_delivery, stored.deliveries),
        *map(timeline.of_attempt, stored.attempts),
    ]
    return JSON({"data": timeline.in_order(lines), "next": timeline.what_next(job, stored.deliveries)})


async def providers(request: ApiRequest) -> Response:
    """`GET /v1/providers`: what each supports, and whether it is configured."""
    request.query()
    app = request.app
    data = [
        {
            "name": name,
            "configured": provider.usable,
            "key_refused_at": rfc3339(refused.at) if (refused := app.keys_refused.get(name)) else None,
            "last_error": refused.error if refused else None,
            "finished_by": "callback"
            if request.app.settings.public_url and provider.adapter.callback_field
            else "status_check",
            "paid": provider.adapter.limits.paid,
            "cancel": provider.adapter.cancellation("any") is not None,
            "models": provider.adapter.limits.models,
            "other_models": True,
            "duration_s": {"min": provider.adapter.limits.duration_s[0], "max": provider.adapter.limits.duration_s[1]},
            "resolutions": provider.adapter.limits.resolutions,
            "aspect_ratios": provider.adapter.limits.aspect_ratios,
            "images_max": provider.adapter.limits.images_max,
            "prompt_max": provider.adapter.limits.prompt_max,
            "prompt_required": provider.adapter.limits.prompt_required,
            "result_lifetime_s": provider.adapter.limits.result_lifetime_s,
        }
        for name, provider in sorted(request.app.providers.items())
    ]
    return JSON({"data": data, "next_cursor": None})


async def job_of(request: ApiRequest) -> Job:
    """Return the job that the path names; raise NotFound, which says when it was deleted if it was."""
    job = await request.app.store.jobs.get(request.path("id"), request.project_id)
    if job is None:
        tombstone = await request.app.store.jobs.tombstone(request.path("id"), request.project_id)
        raise NotFound(tombstone.reason_at_end if tombstone else "there is no such job")
    return job


async def _final(request: ApiRequest, job: Job, until_monotonic_ms: int) -> Job:
    """Return the job as soon as it is final, the time is over, or the client has disconnected."""
    poll = partial(request.app.store.jobs.get, job.id, job.project_id)
    final = asyncio.create_task(request.app.waiting.final(job, poll, until_monotonic_ms))
    disconnected = asyncio.create_task(_disconnected(request.http))
    try:
        await asyncio.wait([final, disconnected], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (final, disconnected):
            task.cancel()
    return final.result() if final.done() else job


async def _disconnected(http: Request) -> None:
    """Return when the client has disconnected; its body was read before."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _response(
    request: ApiRequest, job: Job, more: serializers.Json | None = None, headers: dict[str, str] | None = None
) -> Response:
    """Return the job: 200 if a wait was requested and it is final, else 202."""
    wait_s = request.wait_s()
    applied = {} if wait_s is None else {"preference-applied": f"wait={wait_s:g}"}
    status = 200 if wait_s is not None and job.state.final else 202
    return JSON(serializers.job(job) | (more or {}), status, applied | (headers or {}))


def _notify(endpoint: Endpoint, with_secret: bool) -> serializers.Json:
    """Return an endpoint that was made for this job, with its secret if relay made that too."""
    shown = {"endpoint_id": endpoint.id, "url": endpoint.url, "event_types": endpoint.event_types}
    return shown | ({"secret": endpoint.secret} if with_secret else {})


def _created_before(request: ApiRequest, given: dict[str, str]) -> int | None:
    """Return the earlier of `created_before` and of now less `older_than`, an age such as `2h`; None without both."""
    age = given.get("older_than")
    aged = None if age is None else time_param("older_than", f"-{age}", request.app.clock.now_ms())
    return min((at for at in (_time(request, given, "created_before"), aged) if at is not None), default=None)


def _time(request: ApiRequest, given: dict[str, str], name: str) -> int | None:
    """Return a time of the query in unix milliseconds, None if it is not given."""
    text = given.get(name)
    return None if text is None else time_param(name, text, request.app.clock.now_ms())
