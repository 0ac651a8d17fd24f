"""Statistics: sums of what happened, by project, provider and time, for charts.

A process counts in memory on the paths that know an outcome, and adds the sums to rows every few seconds and at its
end. So a chart reads a few rows, however many jobs there are, and a process that is killed loses what it counted since.
Each count is added to one row of every width, so no row has to be summed up later; WIDTHS says how long each is kept.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

import msgspec

from relay import log
from relay.errors import StorageUnavailable
from relay.model.archive import CopyEnd, CopyState
from relay.model.delivery import DeliveryState
from relay.model.job import Cost, EventType, FinishedBy, Job
from relay.storage.apply_updates import DEFAULT_PROJECT, ReceivedCallback, UpdateResult
from relay.storage.deliveries import AttemptResult, DueDelivery
from relay.storage.engine.database import Database, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Writer

MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
WIDTHS: Final = {60: 2, 900: 8, 3_600: 35, 86_400: 400}
"""The widths of rows in seconds, and for how many days the rows of each are kept."""
COUNTS_MAX: Final = 100_000
"""Counts that wait in memory, while the database is away; others are lost."""
DUE_COUNTED_MAX: Final = 20_000
COPIES_COUNTED_MAX: Final = 20_000
ERROR_MAX_CHARS: Final = 300
PROJECTS_MAX: Final = 200
"""Projects whose old rows one step deletes."""
STEPS: Final = 4
"""Intervals of the latency's histogram in which it doubles."""
STEPS_MAX: Final = 160
"""More than a latency of ten years has."""
MICRO: Final = 1_000_000
NO_PROVIDER: Final = ""
_SUMS: Final = msgspec.json.Decoder(dict[str, int])
_logger = log.get("statistics")

Count = tuple[int, str, str, str, str]
"""Minutes since 1970, project, provider, measure, and the measure's label, '' for none."""


class Sums(msgspec.Struct, frozen=True):
    """What a project's rows of a time add up to.

    `by_time` has the measures of each interval by its beginning in unix ms, `by_provider` those of the whole time.
    """

    by_time: dict[int, dict[str, int]]
    by_provider: dict[str, dict[str, int]]


class Span(msgspec.Struct, frozen=True):
    """A time in unix ms, `last` exclusive, in intervals of `width_s`, which is one of WIDTHS."""

    width_s: int
    first: int
    last: int


class ProviderMark(msgspec.Struct, kw_only=True):
    """A provider's last callback and last error, for a project."""

    last_callback_at: int | None = None
    last_error_at: int | None = None
    last_error: str | None = None


class Due(msgspec.Struct, frozen=True):
    """How many deliveries of a project are due, among the first DUE_COUNTED_MAX of all, and since when the oldest.

    `more` is whether there may be more.
    """

    number: int
    oldest_at: int | None
    more: bool


class CopiesNow(msgspec.Struct, frozen=True):
    """How many copies of a project are pending, and how many failed, the first COPIES_COUNTED_MAX of each.

    `oldest_at` is since when the oldest one is pending, in unix ms; `more` is whether there may be more.
    """

    pending: int
    failed: int
    oldest_at: int | None
    more: bool


class Statistics:
    """The sums; the methods that count neither wait nor raise."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._counts: Counter[Count] = Counter()
        self._marks: dict[tuple[str, str], ProviderMark] = {}
        self._keys_used: dict[str, int] = {}
        self._keys_noted: dict[str, int] = {}
        self._lost = 0

    def created(self, job: Job) -> None:
        """Count a new job."""
        self._counts[job.created_at // MINUTE_MS, job.project_id, job.provider, "created", ""] += 1

    def applied(self, result: UpdateResult, now_ms: int) -> None:
        """Count an end that was announced: by status, by its source and with its cost. A correction is none."""
        job, kind = result.job, result.announced
        if job is None or kind is None or not kind.final or kind is EventType.JOB_CORRECTED:
            return
        minute, project, provider = now_ms // MINUTE_MS, job.project_id, job.provider
        self._counts[minute, project, provider, "finished", job.state] += 1
        self._counts[minute, project, provider, "by", _source(job.finished_by)] += 1
        if job.cost is not None:
            label, amount = _cost(job.cost)
            self._counts[minute, project, provider, "cost", label] += amount
        if job.error is not None:
            mark = self._mark(project, provider)
            mark.last_error_at, mark.last_error = now_ms, f"{job.error.code}: {job.error.message}"[:ERROR_MAX_CHARS]

    def callback(self, received: ReceivedCallback, result: UpdateResult) -> None:
        """Count a stored callback by its disposition."""
        project = DEFAULT_PROJECT if result.job is None else result.job.project_id
        at = received.received_at
        self._counts[at // MINUTE_MS, project, received.provider, "callback", result.disposition] += 1
        self._mark(project, received.provider).last_callback_at = at

    def checked(self, job: Job, now_ms: int) -> None:
        """Count a status check."""
        self._counts[now_ms // MINUTE_MS, job.project_id, job.provider, "checks", ""] += 1

    def attempted(self, delivery: DueDelivery, result: AttemptResult) -> None:
        """Count an attempt by its outcome, its delivery if that is over, and how long ago the callback came."""
        minute, project, attempt = result.at // MINUTE_MS, result.project_id, result.attempt
        self._counts[minute, project, NO_PROVIDER, "attempt", attempt.outcome] += 1
        if result.state is DeliveryState.DELIVERED:
            number = "first_attempt" if attempt.number == 1 else "after_retries"
            self._counts[minute, project, NO_PROVIDER, "delivery", number] += 1
            if delivery.reported_at is not None:
                step = step_of(result.at - delivery.reported_at)
                self._counts[minute, project, NO_PROVIDER, "latency", step] += 1
        elif result.state is DeliveryState.EXHAUSTED:
            self._counts[minute, project, NO_PROVIDER, "delivery", "exhausted"] += 1

    def copied(self, job: Job, copy: CopyEnd, now_ms: int, duration_ms: int) -> None:
        """Count a copy that has ended: by its state, with its bytes and how long its last try took, or its error."""
        minute, project, provider = now_ms // MINUTE_MS, job.project_id, job.provider
        self._counts[minute, project, provider, "copy", copy.state] += 1
        if copy.error_code is not None:
            self._counts[minute, project, provider, "copy_error", copy.error_code] += 1
        if copy.state is CopyState.ARCHIVED:
            self._counts[minute, project, provider, "copy_bytes", ""] += copy.bytes or 0
            self._counts[minute, project, NO_PROVIDER, "copy_took", step_of(duration_ms)] += 1

    def copy_deleted(self, job: Job, now_ms: int) -> None:
        """Count a copy that was deleted past its retention."""
        self._counts[now_ms // MINUTE_MS, job.project_id, job.provider, "copy", CopyState.DELETED] += 1

    def key_used(self, key_id: str, now_ms: int) -> None:
        """Note the use of an API key; it is stored at most once a minute."""
        if now_ms - self._keys_noted.get(key_id, 0) >= MINUTE_MS:
            self._keys_used[key_id] = now_ms

    async def flush(self) -> None:
        """Add what was counted to the rows; return after COMMIT. Keep the counts if the database is away."""
        counts, self._counts = self._counts, Counter()
        marks, self._marks = self._marks, {}
        keys, self._keys_used = self._keys_used, {}
        if self._lost:
            _logger.warning("statistics.lost", counts=self._lost, advice="the database was away for long")
            self._lost = 0
        if not (counts or marks or keys):
            return
        try:
            await self._writer.write(_store, _Flush(counts, marks, keys))
        except StorageUnavailable:
            self._keep(counts, marks, keys)
            raise
        self._keys_noted |= keys

    async def sample(self, now_ms: int) -> None:
        """Store how many deliveries of each project are due, if that is more than was seen in this interval."""
        found = await self._database.rows("due_of_projects", {"now": now_ms, "most": DUE_COUNTED_MAX}, Purpose.LIST)
        counts: dict[Count, int] = {}
        for row in found:
            where = (now_ms // MINUTE_MS, row["project_id"], NO_PROVIDER)
            counts[*where, "due", ""] = row["due"]
            counts[*where, "oldest", ""] = max(0, now_ms - row["oldest_at"])
        if counts:
            await self._writer.write(_raise, counts)

    async def sums(self, project_id: str, span: Span) -> Sums:
        """Return a project's sums of a time, with what this process counted until now if that can be stored."""
        with contextlib.suppress(StorageUnavailable):
            await self.flush()
        params = {"project_id": project_id, "width_s": span.width_s, "first": span.first, "last": span.last}
        found = await self._database.rows("statistics_of_time", params, Purpose.LIST)
        return _added(found)

    async def marks(self, project_id: str) -> dict[str, ProviderMark]:
        """Return the last callback and the last error of each of a project's providers."""
        found = await self._database.rows("provider_marks", {"project_id": project_id}, Purpose.LIST)
        return {row["provider"]: _read_mark(row) for row in found}

    async def due(self, project_id: str, now_ms: int) -> Due:
        """Return how many deliveries of a project are due."""
        found = await self._database.rows("due_of_projects", {"now": now_ms, "most": DUE_COUNTED_MAX}, Purpose.LIST)
        more = sum(row["due"] for row in found) >= DUE_COUNTED_MAX
        of = {row["project_id"]: Due(row["due"], row["oldest_at"], more) for row in found}
        return of.get(project_id, Due(0, None, more))

    async def copies(self, project_id: str) -> CopiesNow:
        """Return how many copies of a project are pending, and how many failed."""
        params = {"project_id": project_id, "most": COPIES_COUNTED_MAX}
        (found,) = await self._database.rows("copies_now", params, Purpose.LIST)
        more = COPIES_COUNTED_MAX in (found["pending"], found["failed"])
        return CopiesNow(found["pending"], found["failed"], found["oldest_at"], more)

    async def forget(self, now_ms: int) -> None:
        """Delete the rows that are past their retention, project by project."""
        before: str | None = None
        while True:
            params = {"project_id": None, "before": before, "limit": PROJECTS_MAX}
            projects = [row["id"] for row in await self._database.rows("project_page", params)]
            await self._writer.write(_forget, [*_old(projects, now_ms)])
            if len(projects) < PROJECTS_MAX:
                return
            before = projects[-1]

    def _mark(self, project_id: str, provider: str) -> ProviderMark:
        """Return the mark of a provider that waits to be stored."""
        mark = self._marks.get((project_id, provider))
        if mark is None:
            mark = self._marks[project_id, provider] = ProviderMark()
        return mark

    def _keep(
        self, counts: Counter[Count], marks: Mapping[tuple[str, str], ProviderMark], keys: Mapping[str, int]
    ) -> None:
        """Keep what could not be stored, within COUNTS_MAX."""
        for count, number in counts.items():
            if count in self._counts or len(self._counts) < COUNTS_MAX:
                self._counts[count] += number
            else:
                self._lost += 1
        self._marks = {**marks, **self._marks}
        self._keys_used = {**keys, **self._keys_used}


def _added(intervals: Iterable[Row]) -> Sums:
    """Return the sums of intervals, each with its sums as JSON, those of providers by `measure provider`.

    Only what is counted by provider is summed up over the providers of an interval.
    """
    by_time: dict[int, dict[str, int]] = {}
    by_provider: dict[str, dict[str, int]] = {}
    names: dict[str, tuple[str, dict[str, int]]] = {}
    for interval in intervals:
        of_interval = by_time[interval["starts_at"]] = _SUMS.decode(interval["sums"] or "{}")
        for name, value in _SUMS.decode(interval["sums_of_providers"] or "{}").items():
            found = names.get(name)
            if found is None:
                measure, _, provider = name.rpartition(" ")
                found = names[name] = measure, by_provider.setdefault(provider, {})
            measure, of_provider = found
            of_interval[measure] = of_interval.get(measure, 0) + value
            of_provider[measure] = of_provider.get(measure, 0) + value
    return Sums(by_time, by_provider)


class _Flush(msgspec.Struct, frozen=True):
    """What a process counted: sums, marks of providers by project, and when keys were used."""

    counts: Mapping[Count, int]
    marks: Mapping[tuple[str, str], ProviderMark]
    keys: Mapping[str, int]


def step_of(latency_ms: int) -> str:
    """Return the interval of the histogram that a latency is in; each is 19 % wider than the one before."""
    return _step(max(1, latency_ms))


@lru_cache(4096)
def _step(latency_ms: int) -> str:
    """Return the interval as text; most latencies were seen before."""
    return str(math.floor(STEPS * math.log2(latency_ms)))


def latency_of(step: int) -> int:
    """Return the middle of an interval in ms: it is 9.1 % off at most, and a ms for rounding."""
    return round(2 ** ((step + 0.5) / STEPS))


def percentiles(steps: Mapping[int, int], shares: Sequence[float]) -> list[int]:
    """Return for each share the latency in ms that it of a histogram does not exceed, by the nearest rank.

    The shares go up, and the histogram is not empty.
    """
    ordered, total, found, counted = iter(sorted(steps)), sum(steps.values()), [], 0
    step = 0
    for share in shares:
        while counted < max(1, math.ceil(share * total)):
            step = next(ordered)
            counted += steps[step]
        found.append(latency_of(step))
    return found


def micro(cost: Cost) -> int:
    """Return a cost in millionths of its unit; 0 for an amount that is no number."""
    try:
        return int(Decimal(cost.amount) * MICRO)
    except (InvalidOperation, OverflowError, ValueError):
        return 0


@lru_cache(4096)
def _cost(cost: Cost) -> tuple[str, int]:
    """Return a cost's label and its amount in millionths; most costs were seen before."""
    return f"{cost.unit}:{cost.kind}", micro(cost)


def _source(finished_by: FinishedBy | None) -> str:
    """Return by what a job was ended: a callback, a status check, or something else."""
    named = (FinishedBy.CALLBACK, FinishedBy.STATUS_CHECK)
    return finished_by if finished_by in named else "other"


def _read_mark(row: Row) -> ProviderMark:
    """Return the mark of a row."""
    return ProviderMark(
        last_callback_at=row["last_callback_at"], last_error_at=row["last_error_at"], last_error=row["last_error"]
    )


def _rows(counts: Mapping[Count, int], *, most: bool = False) -> list[dict[str, Any]]:
    """Return the rows of counts, of each width, in the order of their keys, so that processes do not lock in circles.

    Where several counts have one row they are added up, or with `most` the greatest counts.
    """
    sums: dict[tuple[str, int, int, str, str], int] = {}
    for (minute, project, provider, measure, label), number in counts.items():
        for width_s in WIDTHS:
            starts_at = minute * MINUTE_MS // (width_s * 1000) * (width_s * 1000)
            key = (project, width_s, starts_at, f"{measure}:{label}" if label else measure, provider)
            sums[key] = max(sums.get(key, 0), number) if most else sums.get(key, 0) + number
    names = ("project_id", "width_s", "starts_at", "measure", "provider")
    return [dict(zip(names, key, strict=True)) | {"value": number} for key, number in sorted(sums.items())]


def _old(projects: Sequence[str], now_ms: int) -> Iterator[dict[str, Any]]:
    """Yield what is past its retention: of each project and width all rows before a time."""
    for project_id in projects:
        for width_s, days in WIDTHS.items():
            yield {"project_id": project_id, "width_s": width_s, "before": now_ms - days * DAY_MS}


async def _store(transaction: Transaction, flushes: Sequence[_Flush]) -> list[None]:
    """Add the counts of each flush to the rows."""
    counts: Counter[Count] = Counter()
    for flush in flushes:
        counts.update(flush.counts)
    await transaction.run_many("add_statistic", _rows(counts))
    for flush in flushes:
        for (project_id, provider), mark in sorted(flush.marks.items()):
            noted = {"project_id": project_id, "provider": provider} | msgspec.structs.asdict(mark)
            await transaction.rows("note_provider", noted)
        for key_id, at in sorted(flush.keys.items()):
            await transaction.rows("note_key_used", {"id": key_id, "at": at})
    return [None] * len(flushes)


async def _raise(transaction: Transaction, samples: Sequence[Mapping[Count, int]]) -> list[None]:
    """Raise the rows to what was seen."""
    for counts in samples:
        await transaction.run_many("raise_statistic", _rows(counts, most=True))
    return [None] * len(samples)


async def _forget(transaction: Transaction, wanted: Sequence[list[dict[str, Any]]]) -> list[None]:
    """Delete old rows."""
    for many in wanted:
        await transaction.run_many("forget_statistics", many)
    return [None] * len(wanted)
