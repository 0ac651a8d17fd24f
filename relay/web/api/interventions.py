"""`POST /v1/jobs/{id}/…`: what an operator does to a job: approve, cancel, check, resubmit or fail it."""

from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from relay.app import App
from relay.jobs.interventions import Decision
from relay.model.job import Disposition, Job
from relay.model.resources.jobs import JobResource
from relay.model.resources.jobs import job as job_resource
from relay.storage.apply_updates import UpdateResult
from relay.web.api.api_request import ApiRequest, ApiRoute, NoFields
from relay.web.api.jobs import job_of
from relay.web.auth import Caller
from relay.web.problems import JSON


class ApprovalFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an approval: whether the job may be sent at its price, and why."""

    approve: bool
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)] | None = None


class Resubmission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a resubmission."""

    accept_double_charge: bool = False


class Failure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a failure: why the operator fails the job."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


async def cancel(request: ApiRequest) -> Response:
    """`POST /v1/jobs/{id}/cancellations`: 200 with the canceled job; 409 if it is final or the provider refuses."""
    request.fields(NoFields)
    job = await job_of(request)
    return JSON(job_resource(await request.app.interventions.cancel(job, request.tie(_updated))))


def admit_check(app: App, caller: Caller, http: Request) -> None:
    """Raise TooManyRequests for a status check over the rate limit of its job or project."""
    app.interventions.require_check(str(http.path_params["id"]), caller.project_id)


async def check(request: ApiRequest) -> Response:
    """`POST /v1/jobs/{id}/status-checks`: poll the provider now; 200 with the job after that."""
    request.fields(NoFields)
    job = await job_of(request)
    return JSON(job_resource(await request.app.interventions.check(job, request.tie(_updated))))


async def approve(request: ApiRequest) -> Response:
    """`POST /v1/jobs/{id}/approvals`: send a job that waits for this, 202 with it; or refuse to, 200 with it failed.

    409 if it does not wait; 402 if no cap has room for its price, and then it goes on waiting.
    """
    fields = request.fields(ApprovalFields)
    job = await job_of(request)
    decision = Decision(approve=fields.approve, key_id=request.key_id, reason=fields.reason)
    wait_s, decide = request.app.settings.submit_wait_s, request.app.interventions.approve
    if not fields.approve:
        return JSON(job_resource(await decide(job, decision, wait_s, request.tie(_updated))))
    tie = request.tie(lambda result: _updated(result) and _accepted(result.job), job_id=job.id)
    return _accepted(await decide(job, decision, wait_s, tie))


async def resubmit(request: ApiRequest) -> Response:
    """`POST /v1/jobs/{id}/resubmissions`: submit the job again; 202 with it, 409 if it may have been charged."""
    fields = request.fields(Resubmission)
    job = await job_of(request)
    await request.app.quoter.require(job)
    wait_s = request.app.settings.submit_wait_s
    tie = request.tie(lambda result: _updated(result) and _accepted(result.job), job_id=job.id)
    return _accepted(await request.app.interventions.resubmit(job, fields.accept_double_charge, wait_s, tie))


async def fail(request: ApiRequest) -> Response:
    """`POST /v1/jobs/{id}/failures`: fail the job for the reason given; 200 with it."""
    fields = request.fields(Failure)
    job = await job_of(request)
    return JSON(job_resource(await request.app.interventions.fail(job, fields.reason, request.tie(_updated))))


def _updated(result: UpdateResult) -> Response | None:
    """Return the 200 that shows the updated job; None if the update was refused and nothing was done."""
    return None if result.disposition is Disposition.STALE or result.job is None else JSON(job_resource(result.job))


def _accepted(job: Job) -> Response:
    """Return the 202 that shows a job which is being submitted."""
    return JSON(job_resource(job), 202, {"location": f"/v1/jobs/{job.id}"})


ROUTES: Final = (
    ApiRoute(
        method="POST",
        path="/v1/jobs/{id}/cancellations",
        handler=cancel,
        scope="submit",
        summary="Cancel a job",
        fields=NoFields,
        answers={200: JobResource},
    ),
    ApiRoute(
        method="POST",
        path="/v1/jobs/{id}/status-checks",
        handler=check,
        scope="submit",
        summary="Check a job's status at its provider now",
        fields=NoFields,
        answers={200: JobResource},
        problems=("provider_not_configured",),
        admission=admit_check,
    ),
    ApiRoute(
        method="POST",
        path="/v1/jobs/{id}/approvals",
        handler=approve,
        scope="admin",
        summary="Approve what a job costs, or refuse to",
        fields=ApprovalFields,
        example={"approve": True, "reason": "the client has paid for it"},
        answers={202: JobResource, 200: JobResource},
        problems=("spend_cap_reached",),
    ),
    ApiRoute(
        method="POST",
        path="/v1/jobs/{id}/resubmissions",
        handler=resubmit,
        scope="submit",
        summary="Submit a job again",
        fields=Resubmission,
        example={"accept_double_charge": True},
        answers={202: JobResource},
        problems=("provider_not_configured", "spend_cap_reached", "payment_refused", "paid_once"),
    ),
    ApiRoute(
        method="POST",
        path="/v1/jobs/{id}/failures",
        handler=fail,
        scope="submit",
        summary="Declare a job failed",
        fields=Failure,
        example={"reason": "the provider says that it lost the job"},
        answers={200: JobResource},
    ),
)
