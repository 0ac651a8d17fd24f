"""What `GET /v1/stats` shows: numbers of a time, in all, by interval and by provider."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.model.resources.times import Time

Bucket = Literal["1m", "15m", "1h", "1d"]


class EndsResource(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that ended, by status."""

    succeeded: int
    failed: int
    canceled: int
    expired: int


class EndedByResource(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that ended, by what ended them."""

    callback: int
    status_check: int
    other: Annotated[int, Meta(description="The answer to the submission, an operator, or the deadline.")]


class DeliveryNumbersResource(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries that ended by an attempt."""

    first_attempt: Annotated[int, Meta(description="Accepted at the first attempt.")]
    after_retries: Annotated[int, Meta(description="Accepted at a later one.")]
    exhausted: Annotated[int, Meta(description="Not accepted by the last one.")]


class LatencyResource(msgspec.Struct, frozen=True, kw_only=True):
    """From the receipt of a callback until the endpoint accepted the event that it brought."""

    count: int
    p50_ms: Annotated[int, Meta(description="9.1 % off at most, as the others.")]
    p95_ms: int
    p99_ms: int


class CopySumsResource(msgspec.Struct, frozen=True, kw_only=True):
    """Copies of results that ended, and copies that were deleted past their retention."""

    archived: int
    failed: int
    deleted: int
    bytes: Annotated[int, Meta(description="Of those that were archived.")]
    errors: Annotated[dict[str, int], Meta(description="Those that failed, by `outputs[].archive.error`.")]


class DurationResource(msgspec.Struct, frozen=True, kw_only=True):
    """How long the tries took that made a copy."""

    count: int
    p50_ms: Annotated[int, Meta(description="9.1 % off at most, as the others.")]
    p95_ms: int
    p99_ms: int


class CopyNumbersResource(CopySumsResource, frozen=True, kw_only=True):
    """The copies of a time."""

    duration: Annotated[DurationResource | None, Meta(description="null if none was archived.")]


class BacklogMostResource(msgspec.Struct, frozen=True, kw_only=True):
    """The most that was seen; relay looks once a minute."""

    due_most: Annotated[int, Meta(description="Deliveries that were due.")]
    oldest_due_ms_most: Annotated[int, Meta(description="How late the oldest one was.")]


class NumbersResource(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a time."""

    jobs_created: int
    jobs_finished: EndsResource
    finished_by: EndedByResource
    deliveries: DeliveryNumbersResource
    attempts: Annotated[dict[str, int], Meta(description="Attempts by outcome.")]
    latency: Annotated[LatencyResource | None, Meta(description="null without such a delivery.")]
    archive: CopyNumbersResource
    backlog: BacklogMostResource


class IntervalResource(NumbersResource, frozen=True, kw_only=True):
    """The numbers of one interval."""

    at: Annotated[Time, Meta(description="Its beginning.")]
    unfinished: Annotated[bool, Meta(description="Whether it is not over yet.")]


class CostSumResource(msgspec.Struct, frozen=True, kw_only=True):
    """What the jobs that ended cost, in one unit."""

    unit: Annotated[str, Meta(description="`USDC`, `USD`, `credits` or `tokens`.")]
    kind: Annotated[str, Meta(description="`estimate`, `reserved` or `final`, as it was when the job ended.")]
    amount: Annotated[str, Meta(description="A decimal with six places.")]


class LastErrorResource(msgspec.Struct, frozen=True, kw_only=True):
    """The error of the job that failed last."""

    at: Time
    message: str


class ProviderNumbersResource(msgspec.Struct, frozen=True, kw_only=True):
    """One provider's numbers."""

    provider: str
    jobs_created: int
    jobs_finished: EndsResource
    finished_by: EndedByResource
    checks: Annotated[int, Meta(description="Status checks.")]
    checks_per_job: Annotated[float | None, Meta(description="For each job that ended; null without one.")]
    callbacks: Annotated[dict[str, int], Meta(description="Callbacks by verdict.")]
    last_callback_at: Annotated[Time | None, Meta(description="Whenever that was.")]
    last_error: Annotated[LastErrorResource | None, Meta(description="Whenever that was.")]
    archive: CopySumsResource
    cost: list[CostSumResource]


class BacklogResource(msgspec.Struct, frozen=True, kw_only=True):
    """The deliveries that are due now."""

    due: int
    more: Annotated[bool, Meta(description="Whether there may be more: relay counts the first 20,000 of all projects.")]
    oldest_due_at: Time | None


class CopiesNowResource(msgspec.Struct, frozen=True, kw_only=True):
    """The copies that are pending now, and those that failed."""

    pending: int
    failed: int
    more: Annotated[bool, Meta(description="Whether there may be more: relay counts the first 20,000 of each.")]
    oldest_pending_at: Annotated[Time | None, Meta(description="Since when the oldest one is pending.")]


class StatsResource(msgspec.Struct, frozen=True, kw_only=True):
    """What happened in a project."""

    object: Literal["stats"] = "stats"
    project: str
    from_: Annotated[Time, Meta(description="`from`, rounded down to an interval.")] = msgspec.field(name="from")
    to: Annotated[Time, Meta(description="`to`, rounded up to an interval.")]
    bucket: Bucket
    bucket_s: int
    totals: NumbersResource
    series: Annotated[list[IntervalResource], Meta(description="Each interval, the oldest first.")]
    providers: list[ProviderNumbersResource]
    cost: list[CostSumResource]
    backlog: BacklogResource
    archive: CopiesNowResource
