"""A delivery, and its attempts."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.clock import rfc3339
from relay.model.delivery import Attempt, Delivery, DeliveryState, Outcome
from relay.model.resources.times import Time, time_or_none


class DeliveryResource(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one endpoint, as a list shows it."""

    id: Annotated[str, Meta(pattern="^dlv_")]
    object: Literal["delivery"] = "delivery"
    event: Annotated[str, Meta(pattern="^evt_")]
    endpoint: Annotated[str, Meta(pattern="^ep_")]
    job: str | None
    status: DeliveryState
    attempts_made: int
    next_attempt_at: Annotated[Time | None, Meta(description="Null unless it is pending.")]
    redelivery: Annotated[bool, Meta(description="Whether an operator requested it.")]
    created_at: Time
    finished_at: Time | None


class AttemptResource(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request for one delivery."""

    id: Annotated[str, Meta(pattern="^att_")]
    number: Annotated[int, Meta(description="From 1; the request's header `relay-attempt`.")]
    outcome: Outcome
    status_code: int | None
    error: Annotated[str | None, Meta(description="Why it failed.")]
    note: Annotated[str | None, Meta(description="What was unusual about an answer that counts as `ok`.")]
    started_at: Time
    duration_ms: int
    response_excerpt: Annotated[str | None, Meta(description="The first characters of the answer's body.")]


class DeliveryWithAttemptsResource(DeliveryResource, frozen=True, kw_only=True):
    """One event for one endpoint, with its attempts, oldest first."""

    attempts: list[AttemptResource]


def delivery(delivery: Delivery) -> DeliveryResource:
    """Return a delivery as a list shows it."""
    return DeliveryResource(
        id=delivery.id,
        event=delivery.event_id,
        endpoint=delivery.endpoint_id,
        job=delivery.job_id,
        status=delivery.state,
        attempts_made=delivery.attempts_made,
        next_attempt_at=time_or_none(delivery.next_attempt_at),
        redelivery=delivery.redelivery,
        created_at=rfc3339(delivery.created_at),
        finished_at=time_or_none(delivery.finished_at),
    )


def with_attempts(one: Delivery, attempts: Sequence[Attempt]) -> DeliveryWithAttemptsResource:
    """Return a delivery with its attempts."""
    return DeliveryWithAttemptsResource(**msgspec.structs.asdict(delivery(one)), attempts=[*map(attempt, attempts)])


def attempt(attempt: Attempt) -> AttemptResource:
    """Return an attempt of a delivery."""
    return AttemptResource(
        id=attempt.id,
        number=attempt.number,
        outcome=attempt.outcome,
        status_code=attempt.status_code,
        error=None if attempt.outcome is Outcome.OK else attempt.error,
        note=attempt.error if attempt.outcome is Outcome.OK else None,
        started_at=rfc3339(attempt.started_at),
        duration_ms=attempt.duration_ms,
        response_excerpt=attempt.response_excerpt,
    )
