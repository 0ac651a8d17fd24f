"""`/v1/jobs`, `/v1/providers`: submitting, and seeing what became of it."""

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
from relay.web.api.api_request import ProviderRequest, listed, listing_of, one_of, time_of
from relay.web.problems import JSON

OPEN: Final = "open"
"""As a status in `GET /v1/jobs`: every job that has not ended."""


async def create(call: ProviderRequest) -> Response:
    """`POST /v1/jobs`: 202 with the job as it is when the provider answered, or when the wait was over.

    With `Prefer: wait` 200 where the job became final meanwhile. A caller that goes away does not stop the job.
    """
    app = call.app
    intake = Intake(app.providers, app.policy, app.settings.notify_max)
    given: Any = await _with_provider(call, call.body())
    new = intake.job(given, call.project_id, app.clock.now_ms())
    await app.quoter.require(new.job)
    asked = [entry.get("secret") for entry in given.get("notify") or ()]
    shown = [_notify(endpoint, secret is None) for endpoint, secret in zip(new.endpoints, asked, strict=True)]
    more, headers = {"notify": shown}, {"location": f"/v1/jobs/{new.job.id}"}
    begun = _shown(call, new.job, more, headers)
    new = msgspec.structs.replace(new, tie=call.tie(lambda _: begun, job_id=new.job.id))
    wait_s, began_at = call.wait_s(), app.clock.monotonic_ms()
    job = await app.submitter.submit(new, app.settings.submit_wait_s if wait_s is None else wait_s)
    if wait_s is not None:
        job = await _held(call, job, began_at + round(wait_s * 1000))
    return _shown(call, job, more, headers)


async def _with_provider(call: ProviderRequest, given: Any) -> Any:
    """The body, with the provider that takes its input for the least money where it asks for `cheapest`."""
    if not isinstance(given, dict) or given.get("provider") != CHEAPEST:
        return given
    wanted = given.get("input")
    if not isinstance(wanted, dict):
        raise InvalidInput([FieldError("input", "is required with provider cheapest")])
    return given | {"provider": await call.app.quoter.cheapest(wanted, max_cost(given.get("max_cost")))}


async def show(call: ProviderRequest) -> Response:
    """`GET /v1/jobs/{id}`; with `Prefer: wait` once it is final, or 202 when it is not by then."""
    call.query()
    job, wait_s = await job_of(call), call.wait_s()
    if wait_s is None:
        return JSON(serializers.job(job))
    return _shown(call, await _held(call, job, call.app.clock.monotonic_ms() + round(wait_s * 1000)))


async def index(call: ProviderRequest) -> Response:
    """`GET /v1/jobs`: newest first."""
    times = ("created_after", "created_before", "older_than")
    given = call.query("limit", "cursor", "status", "provider", "reason", "provider_job_id", *times, "metadata[]")
    listing = listing_of(call, given, ids.JOB)
    wanted = JobFilter(
        status=OPEN if given.get("status") == OPEN else one_of(given, "status", JobState),
        provider=given.get("provider"),
        reason=one_of(given, "reason", Reason),
        provider_job_id=given.get("provider_job_id"),
        created_after=_time(call, given, "created_after"),
        created_before=_before(call, given),
        metadata={
            name[9:-1]: value for name, value in given.items() if name.startswith("metadata[") and name.endswith("]")
        },
    )
    return listed(await call.app.store.jobs.page(call.project_id, listing, wanted), serializers.job)


async def show_timeline(call: ProviderRequest) -> Response:
    """`GET /v1/jobs/{id}/timeline`: everything that is stored about the job, in order, and what comes next."""
    call.query()
    job = await job_of(call)
    stored = await call.app.store.jobs.evidence(job.id)
    provider = call.app.providers.get(job.provider)
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


async def providers(call: ProviderRequest) -> Response:
    """`GET /v1/providers`: what each can do, and whether it is configured."""
    call.query()
    app = call.app
    data = [
        {
            "name": name,
            "configured": provider.usable,
            "key_refused_at": rfc3339(refused.at) if (refused := app.keys_refused.get(name)) else None,
            "last_error": refused.error if refused else None,
            "finished_by": "callback"
            if call.app.settings.public_url and provider.adapter.callback_field
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
        for name, provider in sorted(call.app.providers.items())
    ]
    return JSON({"data": data, "next_cursor": None})


async def job_of(call: ProviderRequest) -> Job:
    """The job of the path, if it is the caller's."""
    job = await call.app.store.jobs.get(call.path("id"), call.project_id)
    if job is None:
        tombstone = await call.app.store.jobs.tombstone(call.path("id"), call.project_id)
        raise NotFound(tombstone.reason_at_end if tombstone else "there is no such job")
    return job


async def _held(call: ProviderRequest, job: Job, until_monotonic_ms: int) -> Job:
    """The job when it is final, the time is over, or the caller has gone away."""
    look = partial(call.app.store.jobs.get, job.id, job.project_id)
    ending = asyncio.create_task(call.app.waiting.final(job, look, until_monotonic_ms))
    left = asyncio.create_task(_left(call.request))
    try:
        await asyncio.wait([ending, left], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (ending, left):
            task.cancel()
    return ending.result() if ending.done() else job


async def _left(request: Request) -> None:
    """Return when the caller has gone away; its body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _shown(
    call: ProviderRequest, job: Job, more: serializers.Json | None = None, headers: dict[str, str] | None = None
) -> Response:
    """The job: 200 where a wait was asked for and it is final, else 202."""
    wait_s = call.wait_s()
    applied = {} if wait_s is None else {"preference-applied": f"wait={wait_s:g}"}
    status = 200 if wait_s is not None and job.state.final else 202
    return JSON(serializers.job(job) | (more or {}), status, applied | (headers or {}))


def _notify(endpoint: Endpoint, made_here: bool) -> serializers.Json:
    """An endpoint made for one job, with its secret where the caller cannot know it."""
    shown = {"endpoint_id": endpoint.id, "url": endpoint.url, "event_types": endpoint.event_types}
    return shown | ({"secret": endpoint.secret} if made_here else {})


def _before(call: ProviderRequest, given: dict[str, str]) -> int | None:
    """Before when the jobs were made: the earlier of `created_before` and of `older_than`, an age such as `2h`."""
    age = given.get("older_than")
    aged = None if age is None else time_of("older_than", f"-{age}", call.app.clock.now_ms())
    return min((at for at in (_time(call, given, "created_before"), aged) if at is not None), default=None)


def _time(call: ProviderRequest, given: dict[str, str], name: str) -> int | None:
    """A time of the query."""
    text = given.get(name)
    return None if text is None else time_of(name, text, call.app.clock.now_ms())
