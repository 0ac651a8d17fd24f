"""The nouns of sending: endpoints, deliveries, attempts and redeliveries; no behaviour, no I/O."""

from enum import StrEnum
from typing import Literal

import msgspec

Which = Literal["failed", "missing", "undelivered", "all"]
"""Which events a batch of redeliveries has."""


class DeliveryState(StrEnum):
    """A delivery is pending until its endpoint accepts it, its schedule is exhausted, or it is canceled."""

    PENDING = "pending"
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"
    CANCELED = "canceled"


class Outcome(StrEnum):
    """How an attempt ended; a closed list."""

    OK = "ok"
    BAD_STATUS = "bad_status"
    TIMEOUT = "timeout"
    DNS_FAILED = "dns_failed"
    UNREACHABLE = "unreachable"
    TLS_FAILED = "tls_failed"
    ADDRESS_REFUSED = "address_refused"
    RESPONSE_TOO_LARGE = "response_too_large"
    ENDPOINT_GONE = "endpoint_gone"


class Endpoint(msgspec.Struct, kw_only=True):
    """A subscriber's URL and settings; `job_id` is set where a job's `notify` made it.

    `format` is None for JSON.
    """

    id: str
    project_id: str
    job_id: str | None
    url: str
    secret: str
    event_types: list[str]
    former_secret: str | None = None
    former_secret_until: int | None = None
    description: str | None = None
    metadata: dict[str, object] = {}
    headers: dict[str, str] = {}
    providers: list[str] | None = None
    rate_limit_per_s: float | None = None
    in_flight_max: int = 10
    timeout_s: float = 15.0
    schedule_s: list[int] | None = None
    format: str | None = None
    disabled_at: int | None = None
    disabled_reason: str | None = None
    failing_since: int | None = None
    held_until: int | None = None
    last_success_at: int | None = None
    last_failure_at: int | None = None
    created_at: int
    updated_at: int


class Delivery(msgspec.Struct, kw_only=True, frozen=True):
    """One event for one endpoint."""

    id: str
    project_id: str
    event_id: str
    endpoint_id: str
    job_id: str | None
    state: DeliveryState
    attempts_made: int
    next_attempt_at: int | None
    redelivery: bool
    created_at: int
    finished_at: int | None


NoteKind = Literal[
    "created",
    "changed",
    "secret_rotated",
    "held",
    "probe_failed",
    "reopened",
    "probed",
    "disabled",
    "enabled",
]
"""What can happen to an endpoint."""


class EndpointNote(msgspec.Struct, kw_only=True, frozen=True):
    """Something that happened to an endpoint at a time (unix ms).

    `until` is when a held endpoint is tried again, or until when a former secret signs. `key_id` is the API key of the
    client that did it; None where relay did.
    """

    id: str
    project_id: str
    endpoint_id: str
    at: int
    kind: NoteKind
    reason: str | None = None
    until: int | None = None
    key_id: str | None = None


class EventSelection(msgspec.Struct, kw_only=True, frozen=True):
    """The events that a batch sends again: `which` of those from `since_at` on and before `until_at`, in unix ms.

    `to_now` is 1 where every event counts that is committed by `until_at`, whatever its own time says.
    """

    which: Which
    since_at: int
    until_at: int
    to_now: int = 0


class Redelivery(EventSelection, kw_only=True, frozen=True):
    """A batch of redeliveries for one endpoint, and its progress: events up to `after_event` are done.

    `first_position` and `end_position` bound its events in the order of commits: the first where that is known, the end
    once no event before it can still be committed without a delivery for the endpoint.
    """

    id: str
    project_id: str
    endpoint_id: str
    after_event: str
    total: int
    made: int
    created_at: int
    finished_at: int | None
    first_position: int | None = None
    end_position: int | None = None
    canceled_at: int | None = None


class Attempt(msgspec.Struct, kw_only=True, frozen=True):
    """One HTTP request for one delivery; immutable."""

    id: str
    delivery_id: str
    number: int
    outcome: Outcome
    status_code: int | None
    error: str | None
    started_at: int
    duration_ms: int
    response_excerpt: str | None
    exchange: str | None = None
    """How its time was spent and how its answer began, as `model/exchange.py` writes it; None of an older relay's."""
