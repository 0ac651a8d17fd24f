"""An endpoint, its secret, and the batches of redeliveries to it."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.clock import rfc3339
from relay.model.delivery import Endpoint, EndpointNote, NoteKind, Redelivery, Which
from relay.model.resources.envelopes import Json
from relay.model.resources.times import Time, time_or_none

BatchStatus = Literal["running", "waiting", "finished", "canceled"]


class EndpointResource(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber's URL and its settings."""

    id: Annotated[str, Meta(pattern="^ep_")]
    object: Literal["endpoint"] = "endpoint"
    url: str
    event_types: Annotated[list[str], Meta(description="Exact types, `job.*` or `*`.")]
    description: str | None
    metadata: Json
    headers: Annotated[dict[str, str], Meta(description="Sent with every notification; their values are redacted.")]
    providers: Annotated[list[str] | None, Meta(description="Only jobs of these; null for all.")]
    rate_limit_per_s: Annotated[float | None, Meta(description="Attempts a second at most; null for no limit.")]
    in_flight_max: Annotated[int, Meta(description="Concurrent attempts.")]
    timeout_s: Annotated[float, Meta(description="For the whole attempt.")]
    schedule_s: Annotated[
        list[int] | None, Meta(description="A delay before each attempt; null for RELAY_RETRY_SCHEDULE_S.")
    ]
    format: Annotated[Literal["json", "slack"], Meta(description="`slack`: each body is a message for Slack.")]
    status: Annotated[
        Literal["active", "held", "disabled"], Meta(description="`held`: relay waits, because attempts failed.")
    ]
    disabled_at: Time | None
    disabled_reason: str | None
    failing_since: Time | None
    held_until: Annotated[Time | None, Meta(description="When relay tries a held endpoint again.")]
    last_success_at: Time | None
    last_failure_at: Time | None
    created_at: Time
    updated_at: Time
    project: str
    secret_readable: Annotated[bool, Meta(description="False if no key of RELAY_SECRET_KEYS decrypts its secret.")]


class NewEndpointResource(EndpointResource, frozen=True, kw_only=True):
    """An endpoint as `POST /v1/endpoints` answers it."""

    secret: Annotated[str, Meta(pattern="^whsec_")]


class SecretResource(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's secret."""

    secret: Annotated[str, Meta(pattern="^whsec_")]


class RotatedSecretResource(SecretResource, frozen=True, kw_only=True):
    """A new secret; both sign until the former one ends."""

    former_secret_until: Time


class RedeliveryCountResource(msgspec.Struct, frozen=True, kw_only=True):
    """How many events a batch would have, as a dry run counts them."""

    object: Literal["redelivery"] = "redelivery"
    endpoint: Annotated[str, Meta(pattern="^ep_")]
    count: int
    dry_run: bool = True


class RedeliveryResource(msgspec.Struct, frozen=True, kw_only=True):
    """A batch of redeliveries and its progress."""

    id: Annotated[str, Meta(pattern="^red_")]
    object: Literal["redelivery"] = "redelivery"
    endpoint: str
    which: Which
    since: Time
    until: Time
    count: Annotated[int, Meta(description="How many events it has in all.")]
    made: Annotated[int, Meta(description="For how many of them a delivery was made.")]
    created_at: Time
    status: Annotated[
        BatchStatus,
        Meta(description="`waiting`: its endpoint is held or disabled."),
    ]
    finished_at: Annotated[Time | None, Meta(description="When it had made every delivery, or was canceled.")]
    canceled_at: Time | None
    dry_run: bool = False


class EndpointNoteResource(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to an endpoint."""

    id: Annotated[str, Meta(pattern="^eh_")]
    at: Time
    kind: NoteKind
    reason: Annotated[str | None, Meta(description="Why; of `changed` the names of the fields.")]
    until: Annotated[
        Time | None,
        Meta(description="When a held endpoint is tried again; until when a former secret signs."),
    ]
    by: Annotated[str | None, Meta(description="The id of the API key of the client that did it; null for relay.")]


def endpoint(endpoint: Endpoint) -> EndpointResource:
    """Return an endpoint without its secret, its header values redacted."""
    return EndpointResource(
        id=endpoint.id,
        url=endpoint.url,
        event_types=endpoint.event_types,
        description=endpoint.description,
        metadata=endpoint.metadata,
        headers=dict.fromkeys(endpoint.headers, "[redacted]"),
        providers=endpoint.providers,
        rate_limit_per_s=endpoint.rate_limit_per_s,
        in_flight_max=endpoint.in_flight_max,
        timeout_s=endpoint.timeout_s,
        schedule_s=endpoint.schedule_s,
        format="slack" if endpoint.format == "slack" else "json",
        status="disabled" if endpoint.disabled_at is not None else "held" if endpoint.held_until else "active",
        disabled_at=time_or_none(endpoint.disabled_at),
        disabled_reason=endpoint.disabled_reason,
        failing_since=time_or_none(endpoint.failing_since),
        held_until=time_or_none(None if endpoint.disabled_at is not None else endpoint.held_until),
        last_success_at=time_or_none(endpoint.last_success_at),
        last_failure_at=time_or_none(endpoint.last_failure_at),
        created_at=rfc3339(endpoint.created_at),
        updated_at=rfc3339(endpoint.updated_at),
        project=endpoint.project_id,
        secret_readable=endpoint.secret != "",
    )


def new_endpoint(new: Endpoint) -> NewEndpointResource:
    """Return an endpoint with its secret."""
    return NewEndpointResource(**msgspec.structs.asdict(endpoint(new)), secret=new.secret)


def redelivery(batch: Redelivery, to: Endpoint) -> RedeliveryResource:
    """Return a batch of redeliveries to an endpoint, and its progress."""
    return RedeliveryResource(
        id=batch.id,
        endpoint=batch.endpoint_id,
        which=batch.which,
        since=rfc3339(batch.since_at),
        until=rfc3339(batch.until_at),
        count=batch.total,
        made=batch.made,
        created_at=rfc3339(batch.created_at),
        status=_status(batch, to),
        finished_at=time_or_none(batch.finished_at),
        canceled_at=time_or_none(batch.canceled_at),
    )


def endpoint_note(note: EndpointNote) -> EndpointNoteResource:
    """Return what happened to an endpoint."""
    return EndpointNoteResource(
        id=note.id,
        at=rfc3339(note.at),
        kind=note.kind,
        reason=note.reason,
        until=time_or_none(note.until),
        by=note.key_id,
    )


def _status(batch: Redelivery, to: Endpoint) -> BatchStatus:
    """Return how far a batch has come."""
    if batch.canceled_at is not None:
        return "canceled"
    if batch.finished_at is not None:
        return "finished"
    return "waiting" if to.disabled_at is not None or to.held_until is not None else "running"
