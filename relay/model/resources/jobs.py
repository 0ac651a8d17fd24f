"""A job, the endpoints that its `notify` makes, and its timeline."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.clock import rfc3339
from relay.model.archive import ArchiveMode
from relay.model.delivery import Endpoint
from relay.model.job import Approval, Cost, FinishedBy, Job, JobError, JobState, Output, Reason, Verification
from relay.model.payment import usdc
from relay.model.resources.envelopes import Json
from relay.model.resources.payments import Amount
from relay.model.resources.times import Time, time_or_none

EntryKind = Literal["submission", "callback", "check", "state", "event", "delivery", "attempt"]


class JobLinksResource(msgspec.Struct, frozen=True, kw_only=True):
    """Where to read more about a job."""

    self_: str = msgspec.field(name="self")
    events: str
    timeline: str


class ApprovalResource(msgspec.Struct, frozen=True, kw_only=True):
    """An admin key's approval of what a job costs."""

    amount: Annotated[Amount | None, Meta(description="The price; null if relay does not know it.")]
    unit: Literal["USD"] = "USD"
    asked_at: Time
    decided_at: Annotated[Time | None, Meta(description="Null while the job waits.")]
    approved: Annotated[bool | None, Meta(description="Null while the job waits.")]
    by: Annotated[str | None, Meta(description="The id of the key that decided.")]
    reason: str | None


class JobResource(msgspec.Struct, frozen=True, kw_only=True):
    """One request for a video."""

    id: Annotated[str, Meta(pattern="^job_")]
    object: Literal["job"] = "job"
    provider: str
    provider_job_id: Annotated[str | None, Meta(description="The provider's own id; null until it answered.")]
    status: JobState
    reason: Annotated[Reason | None, Meta(description="Why it has this status, if the status does not say it.")]
    progress: Annotated[int | None, Meta(description="Percent, if the provider reports it.")]
    model: str | None
    input: Annotated[Json | None, Meta(description="The unified request, if the job came with one.")]
    request: Annotated[Json, Meta(description="The provider's own body, without the callback URL.")]
    outputs: tuple[Output, ...]
    error: Annotated[JobError | None, Meta(description="Why it failed.")]
    cost: Cost | None
    archive: Annotated[ArchiveMode, Meta(description="Whether its results are copied to the operator's bucket.")]
    metadata: Annotated[Json, Meta(description="As the client sent it.")]
    finished_by: Annotated[FinishedBy | None, Meta(description="Which report ended it.")]
    verification: Annotated[Verification, Meta(description="How far that report is proven.")]
    late: Annotated[bool, Meta(description="Whether its result came after it had ended otherwise.")]
    created_at: Time
    submitted_at: Time | None
    updated_at: Time
    finished_at: Time | None
    deadline_at: Annotated[Time, Meta(description="When it expires, if it has no final status by then.")]
    links: JobLinksResource
    approval: Annotated[
        ApprovalResource | msgspec.UnsetType,
        Meta(description="Only if its price was to be approved."),
    ] = msgspec.UNSET
    checked: Annotated[
        Literal["partly"] | msgspec.UnsetType,
        Meta(description="Only if relay did not know its model, and checked a part of its request."),
    ] = msgspec.UNSET


class JobEndpointResource(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint that was made for one job."""

    endpoint_id: Annotated[str, Meta(pattern="^ep_")]
    url: str
    event_types: list[str]
    secret: Annotated[str | msgspec.UnsetType, Meta(description="Only if relay made it, and only here.")] = (
        msgspec.UNSET
    )


class NewJobResource(JobResource, frozen=True, kw_only=True):
    """A job as `POST /v1/jobs` answers it."""

    notify: list[JobEndpointResource]


class ReachedResource(msgspec.Struct, frozen=True, kw_only=True):
    """How far the news of a job's end have come."""

    endpoints: Annotated[int, Meta(description="How many endpoints want the event of its end.")]
    delivered: Annotated[int, Meta(description="How many of them have accepted it.")]


class ListedJobResource(JobResource, frozen=True, kw_only=True):
    """A job as a list shows it."""

    reached: Annotated[ReachedResource | None, Meta(description="Null if it announced no end yet.")]


class EntryResource(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a job's timeline."""

    at: Time
    kind: EntryKind
    summary: str
    decision: Annotated[str | None, Meta(description="What relay did upon it.")]
    reason: str | None
    ref: Annotated[str, Meta(description="The id of what the line is about.")]


class NextResource(msgspec.Struct, frozen=True, kw_only=True):
    """What relay waits for or does next, and by when."""

    what: str
    at: Time


class TimelineResource(msgspec.Struct, frozen=True, kw_only=True):
    """A job's history in order, and the next step."""

    data: list[EntryResource]
    next: Annotated[NextResource | None, Meta(description="Null if all is done.")]


def job(job: Job, in_place: Json | None = None) -> JobResource:
    """Return a job; its `request` is the provider's body without the callback URL.

    `in_place` is what stands in place of its input, request, metadata and links.
    """
    never_changes = in_place or {
        "input": job.input,
        "request": job.request,
        "metadata": job.metadata,
        "links": JobLinksResource(
            self_=f"/v1/jobs/{job.id}", events=f"/v1/events?job={job.id}", timeline=f"/v1/jobs/{job.id}/timeline"
        ),
    }
    return JobResource(
        id=job.id,
        provider=job.provider,
        provider_job_id=job.provider_job_id,
        status=job.state,
        reason=job.reason,
        progress=job.progress,
        model=job.model,
        outputs=job.outputs,
        error=job.error,
        cost=job.cost,
        archive=job.archive,
        finished_by=job.finished_by,
        verification=job.verification,
        late=job.late,
        created_at=rfc3339(job.created_at),
        submitted_at=time_or_none(job.submitted_at),
        updated_at=rfc3339(job.updated_at),
        finished_at=time_or_none(job.finished_at),
        deadline_at=rfc3339(job.deadline_at),
        approval=msgspec.UNSET if job.approval is None else _approval(job.approval),
        checked=job.checked or msgspec.UNSET,
        **never_changes,
    )


def _approval(approval: Approval) -> ApprovalResource:
    """Return an approval, or what is to be approved."""
    return ApprovalResource(
        amount=None if approval.amount is None else usdc(approval.amount),
        asked_at=rfc3339(approval.asked_at),
        decided_at=time_or_none(approval.decided_at),
        approved=approval.approved,
        by=approval.key_id,
        reason=approval.reason,
    )


def new_job(new: Job, notify: list[JobEndpointResource]) -> NewJobResource:
    """Return a job with the endpoints that were made for it."""
    return NewJobResource(**msgspec.structs.asdict(job(new)), notify=notify)


def listed_job(one: Job, reached: Mapping[str, ReachedResource]) -> ListedJobResource:
    """Return a job as a list shows it; `reached` is by event, without those that no endpoint wants."""
    last = one.last_final_event
    found = None if last is None else reached.get(last, ReachedResource(endpoints=0, delivered=0))
    return ListedJobResource(**msgspec.structs.asdict(job(one)), reached=found)


def notify(endpoint: Endpoint, *, with_secret: bool) -> JobEndpointResource:
    """Return an endpoint that was made for one job, with its secret if relay made that too."""
    secret = endpoint.secret if with_secret else msgspec.UNSET
    return JobEndpointResource(
        endpoint_id=endpoint.id, url=endpoint.url, event_types=endpoint.event_types, secret=secret
    )
