"""A delivery, and its attempts."""

from collections.abc import Callable
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from relay.clock import rfc3339
from relay.model import exchange
from relay.model.delivery import Attempt, Delivery, DeliveryState, Outcome
from relay.model.resources.times import Time, time_or_none

CUT: Final = "[redacted]"
HIDDEN: Final = frozenset({"set-cookie", "set-cookie2", "authorization", "proxy-authorization", "www-authenticate"})
"""Headers of an answer whose values are not shown."""


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


class RequestResource(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it was sent, without secrets; made again from the event, and from the endpoint as it is now."""

    method: Literal["POST"] = "POST"
    url: str
    headers: dict[str, str]
    body_bytes: int


class TimingsResource(msgspec.Struct, frozen=True, kw_only=True):
    """How long the parts of an attempt took; null for what a kept connection did not need, or what did not come."""

    lookup_ms: Annotated[float | None, Meta(description="The look-up of the host's name.")]
    connect_ms: Annotated[float | None, Meta(description="Opening the connection.")]
    tls_ms: Annotated[float | None, Meta(description="The TLS handshake.")]
    wait_ms: Annotated[float | None, Meta(description="From the request until the first byte of the answer.")]


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
    request: Annotated[RequestResource | None, Meta(description="Null if its event or its endpoint was deleted.")]
    response_headers: Annotated[
        dict[str, str] | None, Meta(description="The first 2,048 bytes of them; null if no answer came.")
    ]
    timings: Annotated[TimingsResource | None, Meta(description="Null if an older relay sent it.")]


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


def with_attempts(one: Delivery, attempts: list[AttemptResource]) -> DeliveryWithAttemptsResource:
    """Return a delivery with its attempts."""
    return DeliveryWithAttemptsResource(**msgspec.structs.asdict(delivery(one)), attempts=attempts)


def attempt(attempt: Attempt, request: RequestResource | None, redact: Callable[[str], str]) -> AttemptResource:
    """Return an attempt of a delivery; `redact` removes the operator's secrets from a text."""
    found = None if attempt.exchange is None else exchange.read(attempt.exchange)
    headers: dict[str, str] = {}
    for name, value in found.headers if found else ():
        shown = CUT if name in HIDDEN else redact(value)
        headers[name] = f"{headers[name]}, {shown}" if name in headers else shown
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
        request=request,
        response_headers=headers if found and attempt.status_code is not None else None,
        timings=None if found is None else TimingsResource(**msgspec.structs.asdict(found.timings)),
    )
