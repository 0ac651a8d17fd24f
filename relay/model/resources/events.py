"""An event, and the body of the notifications about it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from relay.clock import rfc3339
from relay.model.job import Event, EventType, Job
from relay.model.resources import jobs
from relay.model.resources.envelopes import Json
from relay.model.resources.jobs import JobResource
from relay.model.resources.times import Time


class JobEventData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of an event about a job."""

    job: Annotated[JobResource, Meta(description="The job after the event.")]
    sequence: Annotated[int, Meta(description="The event's number among those of its job, from 1.")]
    final: Annotated[bool, Meta(description="Whether it announces an end.")]
    supersedes: Annotated[str | None, Meta(description="The event whose announced end this one replaces.")]


class EndpointEventData(msgspec.Struct, frozen=True, kw_only=True):
    """The `data` of an event about an endpoint, of which it shows the id, or what has happened to it."""

    endpoint: str | dict[str, Any]
    job: None = None
    sequence: int = 0
    final: bool = False
    supersedes: None = None


class NotificationResource(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a notification, the same bytes on every attempt."""

    id: Annotated[str, Meta(description="The event's id, as in the header `webhook-id`.")]
    type: EventType
    timestamp: Annotated[Time, Meta(description="When it happened.")]
    project: Annotated[str, Meta(description="The project whose event it is.")]
    data: Any


class DeliveryCounts(msgspec.Struct, frozen=True, kw_only=True):
    """How many deliveries of an event have each status."""

    pending: int = 0
    delivered: int = 0
    exhausted: int = 0
    canceled: int = 0


class EventResource(msgspec.Struct, frozen=True, kw_only=True):
    """A fact about a job, or about an endpoint."""

    id: Annotated[str, Meta(pattern="^evt_")]
    object: Literal["event"] = "event"
    type: EventType
    job: Annotated[str | None, Meta(description="The job's id; null for an event about an endpoint.")]
    sequence: int
    final: bool
    timestamp: Time
    data: Annotated[Any, Meta(description="The notification's `data`.")]
    deliveries: DeliveryCounts


class _Body(msgspec.Struct):
    """What is read of a stored notification."""

    data: msgspec.Raw


def event(event: Event, deliveries: dict[str, int]) -> EventResource:
    """Return an event, with the number of its deliveries by status."""
    return EventResource(
        id=event.id,
        type=event.type,
        job=event.job_id,
        sequence=event.sequence,
        final=event.final,
        timestamp=rfc3339(event.created_at),
        data=msgspec.json.decode(event.body, type=_Body).data,
        deliveries=DeliveryCounts(**deliveries),
    )


def notification(event_id: str, kind: EventType, at_ms: int, project_id: str, data: object) -> bytes:
    """Return the body of a notification, byte for byte as every attempt signs and sends it."""
    return msgspec.json.encode(
        NotificationResource(id=event_id, type=kind, timestamp=rfc3339(at_ms), project=project_id, data=data)
    )


def job_event(
    event_id: str, kind: EventType, at_ms: int, subject: Job, supersedes: str | None, in_place: Json | None = None
) -> bytes:
    """Return the body of a notification about a job, which the event has given its sequence number.

    `in_place` is what stands in place of the job's fields that never change.
    """
    data = JobEventData(
        job=jobs.job(subject, in_place), sequence=subject.sequence, final=kind.final, supersedes=supersedes
    )
    return notification(event_id, kind, at_ms, subject.project_id, data)
