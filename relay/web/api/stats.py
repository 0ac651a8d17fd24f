"""`/v1/stats`: what happened in a project, in numbers, for charts. `storage/statistics.py` keeps the sums."""

from collections import Counter
from collections.abc import Mapping
from typing import Final, TypedDict, TypeVar

from starlette.responses import Response

from relay.clock import rfc3339
from relay.errors import FieldError, InvalidInput
from relay.model.archive import CopyErrorCode
from relay.model.delivery import Outcome
from relay.model.job import Disposition
from relay.model.resources.stats import (
    BacklogMostResource,
    BacklogResource,
    Bucket,
    CopiesNowResource,
    CopyNumbersResource,
    CopySumsResource,
    CostSumResource,
    DeliveryNumbersResource,
    DurationResource,
    EndedByResource,
    EndsResource,
    IntervalResource,
    LastErrorResource,
    LatencyResource,
    NumbersResource,
    ProviderNumbersResource,
    StatsResource,
)
from relay.model.resources.times import time_or_none
from relay.storage.statistics import DAY_MS, MICRO, STEPS_MAX, ProviderMark, Span, Sums, percentiles
from relay.validation import must_be_one_of
from relay.web.api.api_request import ApiRequest, ApiRoute, Parameter
from relay.web.api.lists import TIME, time_param
from relay.web.problems import JSON

BUCKETS: Final[dict[Bucket, int]] = {"1m": 60, "15m": 900, "1h": 3_600, "1d": 86_400}
"""The seconds of each interval."""
HOUR_MS: Final = 3_600_000
CHOSEN: Final[tuple[tuple[int, Bucket], ...]] = ((2 * HOUR_MS, "1m"), (25 * HOUR_MS, "15m"), (8 * DAY_MS, "1h"))
"""The longest time that each interval is chosen for; a longer one has days."""
BUCKETS_MAX: Final = 500

Measures = Mapping[str, int]
"""Sums by measure, such as `finished:succeeded`."""
Shown = TypeVar("Shown", LatencyResource, DurationResource)


async def show(request: ApiRequest) -> Response:
    """`GET /v1/stats`: numbers of a time, in all, by interval and by provider."""
    given = request.query()
    now_ms = request.app.clock.now_ms()
    bucket, span = _span(given, now_ms)
    statistics, project_id = request.app.store.statistics, request.project_id
    sums = await statistics.sums(project_id, span)
    marks = await statistics.marks(project_id)
    due = await statistics.due(project_id, now_ms)
    copies = await statistics.copies(project_id)
    totals = _totals(sums)
    names = sorted(sums.by_provider.keys() | marks.keys())
    return JSON(
        StatsResource(
            project=project_id,
            from_=rfc3339(span.first),
            to=rfc3339(span.last),
            bucket=bucket,
            bucket_s=span.width_s,
            totals=_numbers(totals),
            series=_series(sums, span, now_ms),
            providers=[
                _provider(name, sums.by_provider.get(name, {}), marks.get(name, ProviderMark())) for name in names
            ],
            cost=_cost(totals),
            backlog=BacklogResource(due=due.number, more=due.more, oldest_due_at=time_or_none(due.oldest_at)),
            archive=CopiesNowResource(
                pending=copies.pending,
                failed=copies.failed,
                more=copies.more,
                oldest_pending_at=time_or_none(copies.oldest_at),
            ),
        )
    )


def _span(given: Mapping[str, str], now_ms: int) -> tuple[Bucket, Span]:
    """Return the time that is asked for, in whole intervals; raise InvalidInput for one of too many."""
    first = time_param("from", given.get("from", "-24h"), now_ms)
    last = time_param("to", given["to"], now_ms) if "to" in given else now_ms + 1
    if last <= first:
        raise InvalidInput([FieldError("to", "must be after from")])
    wanted = given.get("bucket", next((name for most, name in CHOSEN if last - first <= most + 1), "1d"))
    bucket = next((name for name in BUCKETS if name == wanted), None)
    if bucket is None:
        raise InvalidInput([FieldError("bucket", must_be_one_of(BUCKETS, wanted))])
    width_ms = BUCKETS[bucket] * 1000
    span = Span(BUCKETS[bucket], first // width_ms * width_ms, -(-last // width_ms) * width_ms)
    if (number := (span.last - span.first) // width_ms) > BUCKETS_MAX:
        raise InvalidInput(
            [
                FieldError(
                    "bucket",
                    f"makes {number} intervals of this time, and {BUCKETS_MAX} are the most: choose a longer one",
                )
            ]
        )
    return bucket, span


def _series(sums: Sums, span: Span, now_ms: int) -> list[IntervalResource]:
    """Return each interval, also those in which nothing happened."""
    width_ms = span.width_s * 1000
    return [
        IntervalResource(at=rfc3339(at), unfinished=at + width_ms > now_ms, **_fields(sums.by_time.get(at, {})))
        for at in range(span.first, span.last, width_ms)
    ]


def _totals(sums: Sums) -> Measures:
    """Return the sums of all intervals; of what was seen the most."""
    totals: Counter[str] = Counter()
    for measures in sums.by_time.values():
        for measure, value in measures.items():
            totals[measure] = max(totals[measure], value) if measure in _SEEN else totals[measure] + value
    return totals


def _numbers(measures: Measures) -> NumbersResource:
    """Return the numbers of a time."""
    return NumbersResource(**_fields(measures))


def _provider(name: str, measures: Measures, mark: ProviderMark) -> ProviderNumbersResource:
    """Return one provider's numbers."""
    ended = sum(value for measure, value in measures.items() if measure.startswith("finished:"))
    checks, error = measures.get("checks", 0), None
    if mark.last_error_at is not None:
        error = LastErrorResource(at=rfc3339(mark.last_error_at), message=mark.last_error or "")
    return ProviderNumbersResource(
        provider=name,
        jobs_created=measures.get("created", 0),
        jobs_finished=_ends(measures),
        finished_by=_ended_by(measures),
        checks=checks,
        checks_per_job=round(checks / ended, 3) if ended else None,
        callbacks={verdict.value: measures.get(f"callback:{verdict}", 0) for verdict in Disposition},
        last_callback_at=time_or_none(mark.last_callback_at),
        last_error=error,
        archive=CopySumsResource(**_copies(measures)),
        cost=_cost(measures),
    )


class _Fields(TypedDict):
    """The fields of NumbersResource."""

    jobs_created: int
    jobs_finished: EndsResource
    finished_by: EndedByResource
    deliveries: DeliveryNumbersResource
    attempts: dict[str, int]
    latency: LatencyResource | None
    archive: CopyNumbersResource
    backlog: BacklogMostResource


class _CopyFields(TypedDict):
    """The fields of CopySumsResource."""

    archived: int
    failed: int
    deleted: int
    bytes: int
    errors: dict[str, int]


def _fields(measures: Measures) -> _Fields:
    """Return the numbers of a time as fields."""
    return {
        "jobs_created": measures.get("created", 0),
        "jobs_finished": _ends(measures),
        "finished_by": _ended_by(measures),
        "deliveries": DeliveryNumbersResource(
            first_attempt=measures.get("delivery:first_attempt", 0),
            after_retries=measures.get("delivery:after_retries", 0),
            exhausted=measures.get("delivery:exhausted", 0),
        ),
        "attempts": {outcome: measures.get(measure, 0) for outcome, measure in _ATTEMPTS.items()},
        "latency": _percentiles(measures, _STEPS, LatencyResource),
        "archive": CopyNumbersResource(
            **_copies(measures), duration=_percentiles(measures, _COPY_STEPS, DurationResource)
        ),
        "backlog": BacklogMostResource(due_most=measures.get("due", 0), oldest_due_ms_most=measures.get("oldest", 0)),
    }


def _ends(measures: Measures) -> EndsResource:
    """Return the jobs that ended, by status."""
    return EndsResource(
        succeeded=measures.get("finished:succeeded", 0),
        failed=measures.get("finished:failed", 0),
        canceled=measures.get("finished:canceled", 0),
        expired=measures.get("finished:expired", 0),
    )


def _ended_by(measures: Measures) -> EndedByResource:
    """Return the jobs that ended, by what ended them."""
    return EndedByResource(
        callback=measures.get("by:callback", 0),
        status_check=measures.get("by:status_check", 0),
        other=measures.get("by:other", 0),
    )


def _copies(measures: Measures) -> _CopyFields:
    """Return the copies that ended."""
    return {
        "archived": measures.get("copy:archived", 0),
        "failed": measures.get("copy:failed", 0),
        "deleted": measures.get("copy:deleted", 0),
        "bytes": measures.get("copy_bytes", 0),
        "errors": {code: measures[measure] for code, measure in _COPY_ERRORS.items() if measure in measures},
    }


def _percentiles(measures: Measures, names: Mapping[str, int], kind: type[Shown]) -> Shown | None:
    """Return the percentiles of the histogram whose steps have these names, None for an empty one."""
    steps = {names[measure]: measures[measure] for measure in names.keys() & measures.keys()}
    if not steps:
        return None
    p50, p95, p99 = percentiles(steps, (0.5, 0.95, 0.99))
    return kind(count=sum(steps.values()), p50_ms=p50, p95_ms=p95, p99_ms=p99)


def _cost(measures: Measures) -> list[CostSumResource]:
    """Return what jobs cost, by unit and kind."""
    found = []
    for measure, value in sorted(measures.items()):
        if measure.startswith(_COST):
            unit, _, kind = measure.removeprefix(_COST).rpartition(":")
            found.append(CostSumResource(unit=unit, kind=kind, amount=f"{value // MICRO}.{value % MICRO:06}"))
    return found


_STEPS: Final = {f"latency:{step}": step for step in range(STEPS_MAX)}
_COPY_STEPS: Final = {f"copy_took:{step}": step for step in range(STEPS_MAX)}
_COPY_ERRORS: Final = {code.value: f"copy_error:{code}" for code in CopyErrorCode}
_ATTEMPTS: Final = {outcome.value: f"attempt:{outcome}" for outcome in Outcome}
_COST: Final = "cost:"
_SEEN: Final = frozenset({"due", "oldest"})
"""The measures that are the most that was seen, and no sums."""
ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/stats",
        handler=show,
        scope="read",
        summary="Show what happened, in numbers",
        query=(
            Parameter("from", "From this time on; `-24h` if not given.", TIME, "-24h"),
            Parameter("to", "Until this time; now if not given.", TIME),
            Parameter("bucket", "The length of an interval; chosen by the time if not given.", values=tuple(BUCKETS)),
        ),
        answers={200: StatsResource},
    ),
)
