"""An endpoint, its secret, and the batches of redeliveries to it."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.clock import rfc3339
from relay.model.delivery import Endpoint, Redelivery, Which
from relay.model.resources.envelopes import Json
from relay.model.resources.times import Time, time_or_none


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
    finished_at: Time | None
    dry_run: bool = False


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


def redelivery(batch: Redelivery) -> RedeliveryResource:
    """Return a batch of redeliveries and its progress."""
    return RedeliveryResource(
        id=batch.id,
        endpoint=batch.endpoint_id,
        which=batch.which,
        since=rfc3339(batch.since_at),
        until=rfc3339(batch.until_at),
        count=batch.total,
        made=batch.made,
        created_at=rfc3339(batch.created_at),
        finished_at=time_or_none(batch.finished_at),
    )
