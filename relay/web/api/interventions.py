"""What a person does to a job or a callback: `/v1/jobs/{id}/…`, `/v1/callbacks/{id}/releases`."""

from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from relay.app import App
from relay.clock import rfc3339
from relay.errors import Conflict, NotFound
from relay.model import serializers
from relay.model.job import Disposition, Job
from relay.storage.apply_updates import UpdateResult
from relay.web.api.api_request import Nothing, ProviderRequest
from relay.web.api.history import shown
from relay.web.api.jobs import job_of
from relay.web.auth import Caller
from relay.web.problems import JSON


class Resubmission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a resubmission."""

    accept_double_charge: bool = False


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a failure: why a person gives the job up."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


async def cancel(call: ProviderRequest) -> Response:
    """`POST /v1/jobs/{id}/cancellations`: 200 with the canceled job, 409 if it has ended or the provider refuses."""
    call.fields(Nothing)
    return JSON(serializers.job(await call.app.interventions.cancel(await job_of(call), call.tie(_shown))))


def admit_check(app: App, caller: Caller, request: Request) -> None:
    """TooManyRequests for a check that is over its share, before anything is read for it."""
    app.interventions.require_check(str(request.path_params["id"]), caller.project_id)


async def check(call: ProviderRequest) -> Response:
    """`POST /v1/jobs/{id}/status-checks`: asks the provider now; 200 with the job as that leaves it."""
    call.fields(Nothing)
    return JSON(serializers.job(await call.app.interventions.check(await job_of(call), call.tie(_shown))))


async def resubmit(call: ProviderRequest) -> Response:
    """`POST /v1/jobs/{id}/resubmissions`: 202 with the job, sent again; 409 where it may have been charged."""
    asked = call.fields(Resubmission)
    job = await job_of(call)
    await call.app.quoter.require(job)
    wait_s = call.app.settings.submit_wait_s
    tie = call.tie(lambda recorded: _shown(recorded) and _accepted(recorded.job), job_id=job.id)
    job = await call.app.interventions.resubmit(job, asked.accept_double_charge, wait_s, tie)
    return _accepted(job)


async def fail(call: ProviderRequest) -> Response:
    """`POST /v1/jobs/{id}/failures`: 200 with the job, failed by a person's word."""
    asked = call.fields(Failure)
    return JSON(serializers.job(await call.app.interventions.fail(await job_of(call), asked.reason, call.tie(_shown))))


async def release(call: ProviderRequest) -> Response:
    """`POST /v1/callbacks/{id}/releases`: 200 with the quarantined callback after it was run again.

    It keeps its verdict; `reprocessings` tells what came of it. One that was still not readable may be run once more.
    """
    call.fields(Nothing)
    callbacks = call.app.store.callbacks
    callback = await callbacks.get(call.path("id"), call.project_id)
    if callback is None:
        raise NotFound("there is no such callback")
    if callback.disposition is not Disposition.QUARANTINED:
        raise Conflict(f"the callback is {callback.disposition}: only a quarantined one can be released")
    before = await callbacks.reprocessings(callback)
    done = [one for one in before if one.disposition is not Disposition.UNREADABLE]
    if done:
        raise Conflict(f"the callback was released before, at {rfc3339(done[-1].at)} by {done[-1].key_id}")

    def released(recorded: UpdateResult) -> Response:
        return JSON(shown(call, callback, [*before, *([recorded.reprocessing] if recorded.reprocessing else [])]))

    return released(await call.app.receiver.reprocess(callback, call.key_id, call.tie(released)))


def _shown(recorded: UpdateResult) -> Response | None:
    """Return the job as what was recorded leaves it; None where it was refused, and so nothing was done."""
    return (
        None
        if recorded.disposition is Disposition.STALE or recorded.job is None
        else JSON(serializers.job(recorded.job))
    )


def _accepted(job: Job) -> Response:
    """Return the answer that shows a job which goes out."""
    return JSON(serializers.job(job), 202, {"location": f"/v1/jobs/{job.id}"})
