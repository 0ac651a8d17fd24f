"""`/v1/jobs`, `/v1/providers`: submit a job, show jobs and what happened to them, and list the providers."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from relay.app import App
from relay.clock import parse_time, rfc3339
from relay.errors import FieldError, InvalidInput, NotFound
from relay.jobs.job_requests import Intake, JobFields
from relay.jobs.quotes import CHEAPEST
from relay.model import ids, timeline
from relay.model.archive import CopyState
from relay.model.job import Job, JobState, Reason
from relay.model.payment import max_cost
from relay.model.resources import jobs as resources
from relay.model.resources.envelopes import PageResource
from relay.model.resources.jobs import (
    JobEndpointResource,
    JobResource,
    ListedJobResource,
    NewJobResource,
    TimelineResource,
)
from relay.model.resources.providers import DurationRange, ModelResource, ProviderDayResource, ProviderResource
from relay.model.resources.times import time_or_none
from relay.outbound import tracing
from relay.providers.base import ModelLimits, callbacks_expected, can_cancel
from relay.storage.jobs import JobFilter
from relay.storage.pages import Span
from relay.storage.statistics import DAY_MS, ProviderMark
from relay.storage.statistics import Span as StatisticsSpan
from relay.validation import shown
from relay.web.api.adapters import load_adapters
from relay.web.api.api_request import ApiRequest, ApiRoute, Parameter
from relay.web.api.lists import choice, flag, listing, page, paging, span, span_parameters
from relay.web.problems import JSON

OPEN: Final = "open"
"""As `status` in `GET /v1/jobs`: every job that is not final."""


async def create(request: ApiRequest) -> Response:
    """`POST /v1/jobs`: 202 with the job after the provider's answer, or after `RELAY_SUBMIT_WAIT_S`.

    With `Prefer: wait` 200 if the job became final in that time. A client that disconnects does not stop the job.
    """
    app = request.app
    intake = Intake(app.providers, app.policy, app.settings.notify_max)
    given = await _with_provider(request, request.body())
    if isinstance(name := given.get("provider"), str):
        await load_adapters(app, [name])
    archive = None if app.archive is None else await app.archive.modes.of(request.project_id)
    new = intake.job(given, request.project_id, app.clock.now_ms(), archive)
    if app.tracing is not None:
        new.job.traceparent = tracing.parse(request.http.headers.get(tracing.HEADER))
    await app.quoter.require(new.job)
    secrets = [entry.get("secret") for entry in given.get("notify") or ()]
    notify = [
        resources.notify(endpoint, with_secret=secret is None)
        for endpoint, secret in zip(new.endpoints, secrets, strict=True)
    ]
    created = _response(request, new.job, notify)
    new = msgspec.structs.replace(new, tie=request.tie(lambda _: created, job_id=new.job.id))
    wait_s, began_at = request.wait_s(), app.clock.monotonic_ms()
    job = await app.submitter.submit(new, app.settings.submit_wait_s if wait_s is None else wait_s)
    if wait_s is not None:
        job = await _final(request, job, began_at + round(wait_s * 1000))
    return _response(request, job, notify)


async def _with_provider(request: ApiRequest, given: dict[str, Any]) -> dict[str, Any]:
    """Return the body, with `cheapest` replaced by the provider with the lowest price for its input."""
    if given.get("provider") != CHEAPEST:
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
        return JSON(resources.job(job))
    return _response(request, await _final(request, job, request.app.clock.monotonic_ms() + round(wait_s * 1000)))


async def index(request: ApiRequest) -> Response:
    """`GET /v1/jobs`: newest first."""
    given = request.query()
    wanted_page = listing(request, given, ids.JOB)
    wanted = job_filter(given, request.app.providers, request.app.clock.now_ms())
    found = await request.app.store.jobs.page(request.project_id, wanted_page, wanted)
    ends = [job.last_final_event for job in found.items if job.last_final_event is not None]
    counts = await request.app.store.events.endpoints_reached(ends)
    reached = {
        event: resources.ReachedResource(endpoints=wants, delivered=has) for event, (wants, has) in counts.items()
    }
    return page(found, lambda job: resources.listed_job(job, reached))


def job_filter(given: dict[str, str], providers: Iterable[str], now_ms: int) -> JobFilter:
    """Return which jobs the parameters of a list select at a time; raise InvalidInput for a wrong one.

    `providers` are the names of all providers, also of those that are not configured.
    """
    return JobFilter(
        status=choice(given, "status", (OPEN, *JobState)),
        provider=choice(given, "provider", providers),
        reason=choice(given, "reason", Reason),
        provider_job_id=given.get("provider_job_id"),
        made=_made(given, now_ms),
        undelivered=flag(given, "undelivered"),
        expiring_after=now_ms if flag(given, "expiring_undelivered") else None,
        copies=choice(given, "copies", CopyState),
        metadata={
            name[9:-1]: value for name, value in given.items() if name.startswith("metadata[") and name.endswith("]")
        },
    )


async def show_timeline(request: ApiRequest) -> Response:
    """`GET /v1/jobs/{id}/timeline`: everything stored about the job, in order, and what happens next."""
    request.query()
    job = await job_of(request)
    stored = await request.app.store.jobs.evidence(job.id)
    sent_to = {delivery.endpoint_id for delivery in stored.deliveries}
    hosts = timeline.endpoint_hosts(await request.app.store.endpoints.urls(sent_to, request.project_id))
    names = timeline.endpoint_names(hosts)
    to = {delivery.id: names.get(delivery.endpoint_id, delivery.endpoint_id) for delivery in stored.deliveries}
    lines = [
        *timeline.of_job(job),
        *(line for payment in stored.payments for line in timeline.of_payment(payment)),
        *map(timeline.of_call, stored.calls),
        *map(timeline.of_callback, stored.callbacks),
        *map(timeline.of_reprocessing, stored.reprocessings),
        *map(timeline.of_event, stored.events),
        *(timeline.of_delivery(delivery, hosts.get(delivery.endpoint_id)) for delivery in stored.deliveries),
        *(timeline.of_attempt(attempt, to[attempt.delivery_id]) for attempt in stored.attempts),
    ]
    return JSON(timeline.timeline(job, lines, stored.deliveries))


async def providers(request: ApiRequest) -> Response:
    """`GET /v1/providers`: what each supports, and whether it is configured."""
    request.query()
    app, now_ms = request.app, request.app.clock.now_ms()
    await load_adapters(app, app.providers)
    hour_ms = 3_600_000
    day = StatisticsSpan(3_600, (now_ms - DAY_MS) // hour_ms * hour_ms, now_ms + 1)
    sums = (await app.store.statistics.sums(request.project_id, day)).by_provider
    marks = await app.store.statistics.marks(request.project_id)
    data = [
        _provider(app, name, marks.get(name, ProviderMark()), _last_day(sums.get(name, {})))
        for name in sorted(app.providers)
    ]
    return JSON(PageResource(data=data, next_cursor=None))


def _last_day(measures: Mapping[str, int]) -> ProviderDayResource:
    """Return how a provider's jobs ended, by the sums of a day."""
    ended = sum(value for measure, value in measures.items() if measure.startswith("finished:"))
    return ProviderDayResource(
        jobs_ended=ended,
        by_callback=round(measures.get("by:callback", 0) / ended, 3) if ended else None,
        checks_per_job=round(measures.get("checks", 0) / ended, 3) if ended else None,
    )


def _provider(app: App, name: str, mark: ProviderMark, day: ProviderDayResource) -> ProviderResource:
    """Return what a provider supports, whether it is configured, and how its jobs end."""
    provider, refused = app.providers[name], app.keys_refused.get(name)
    adapter, limits = provider.adapter, provider.adapter.limits
    return ProviderResource(
        name=name,
        title=adapter.title,
        configured=provider.usable,
        key_refused_at=rfc3339(refused.at) if refused else None,
        last_error=refused.error if refused else mark.last_error,
        last_error_at=time_or_none(refused.last_at if refused else mark.last_error_at),
        last_callback_at=time_or_none(mark.last_callback_at),
        verifies="secret" if provider.callback_secrets else "published_keys" if provider.keys else "token",
        finished_by="callback" if app.settings.public_url and callbacks_expected(adapter) else "status_check",
        verifier=adapter.verifier,
        last_day=day,
        paid=limits.paid,
        cancel=can_cancel(adapter),
        models=limits.models,
        limits_by_model={model: _model(own) for model, own in limits.by_model.items()},
        other_models=True,
        duration_s=DurationRange(*limits.duration_s),
        resolutions=limits.resolutions,
        aspect_ratios=limits.aspect_ratios,
        images_max=limits.images_max,
        prompt_max=limits.prompt_max,
        prompt_required=limits.prompt_required,
        honours=sorted(adapter.honours),
        result_lifetime_s=limits.result_lifetime_s,
        further_limits=dict(adapter.further_limits),
    )


def _model(own: ModelLimits) -> ModelResource:
    """Return a model's own limits."""
    low, high = own.images or (None, None)
    kinds: tuple[Literal["image", "video", "audio"], ...] = ("image", "video", "audio")
    return ModelResource(
        duration_s=None if own.duration_s is None else DurationRange(*own.duration_s),
        resolutions=own.resolutions,
        aspect_ratios=own.aspect_ratios,
        images_min=low,
        images_max=high,
        references_max=None if own.references is None else dict(zip(kinds, own.references, strict=True)),
    )


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


def _response(request: ApiRequest, job: Job, notify: list[JobEndpointResource] | None = None) -> Response:
    """Return the job: 200 if a wait was requested and it is final, else 202; with `notify` it is a new one."""
    wait_s = request.wait_s()
    headers = {} if wait_s is None else {"preference-applied": f"wait={wait_s:g}"}
    status = 200 if wait_s is not None and job.state.final else 202
    if notify is None:
        return JSON(resources.job(job), status, headers)
    return JSON(resources.new_job(job, notify), status, headers | {"location": f"/v1/jobs/{job.id}"})


def _made(given: dict[str, str], now_ms: int) -> Span:
    """Return the times that the jobs were made between; `older_than` is an age such as `2h`."""
    made, age = span(given, now_ms), given.get("older_than")
    if age is None:
        return made
    try:
        aged = parse_time(f"-{age}", now_ms)
    except (ValueError, OverflowError):
        wrong = f"must be an age such as 90s, 30m, 2h or 7d, not {shown(age)}"
        raise InvalidInput([FieldError("older_than", wrong)]) from None
    return Span(after=made.after, before=aged if made.before is None else min(made.before, aged))


WAIT: Final = Parameter(
    "prefer", "`wait=N` holds the answer until the job is final, for N seconds, 25 at most.", example="wait=20"
)
ROUTES: Final = (
    ApiRoute(
        method="POST",
        path="/v1/jobs",
        handler=create,
        scope="submit",
        audited=False,
        summary="Submit a job",
        fields=JobFields,
        example={
            "provider": "evolink",
            "input": {"images": ["https://example.com/a.png"], "prompt": "slow push in", "duration_s": 5},
            "metadata": {"user": "42"},
        },
        headers=(WAIT,),
        answers={202: NewJobResource, 200: NewJobResource},
        problems=("callback_field_reserved", "provider_not_configured", "spend_cap_reached", "payment_refused"),
    ),
    ApiRoute(
        method="GET",
        path="/v1/jobs",
        handler=index,
        scope="read",
        summary="List jobs",
        query=(
            *paging(ids.JOB),
            Parameter("status", "`open`: every one that is not final.", values=(OPEN, *JobState)),
            Parameter("provider", "Only those of this provider."),
            Parameter("reason", "Only those with this reason.", Reason),
            Parameter("provider_job_id", "Only the one with this id at its provider."),
            *span_parameters("made"),
            Parameter("undelivered", "Only those with an event that an endpoint has not accepted.", bool),
            Parameter(
                "expiring_undelivered",
                "Only those whose result will expire, though no endpoint has accepted their last final event.",
                bool,
            ),
            Parameter("copies", "Only those with a result whose copy has this state.", CopyState),
            Parameter("older_than", "Only those of at least this age.", example="2h"),
            Parameter("metadata[]", "Only those with these pairs in their metadata.", dict[str, str]),
        ),
        answers={200: PageResource[ListedJobResource]},
    ),
    ApiRoute(
        method="GET",
        path="/v1/jobs/{id}",
        handler=show,
        scope="read",
        summary="Show a job",
        headers=(WAIT,),
        answers={200: JobResource, 202: JobResource},
    ),
    ApiRoute(
        method="GET",
        path="/v1/jobs/{id}/timeline",
        handler=show_timeline,
        scope="read",
        summary="Show what happened to a job, and what comes next",
        answers={200: TimelineResource},
    ),
    ApiRoute(
        method="GET",
        path="/v1/providers",
        handler=providers,
        scope="read",
        summary="List the providers and what each accepts",
        answers={200: PageResource[ProviderResource]},
    ),
)
