"""A job as its two rows, and back.

The hot row of `jobs` is what an update rewrites: a column for each thing that is filtered on, or that a statement
changes by itself, and `doc`, one JSON document with the rest. The cold row of `job_requests` is what the job was made
of, written once.

A field has one place: a column that is empty in a new job is left out of `doc`. Only what never changes, and the state,
stand in both, so that `doc` is a job by itself. An earlier relay that updates a job drops what it does not know of
`doc`: a new field has a default, and one that must not be lost while both run gets a column.
"""

from enum import StrEnum
from typing import Any, Final

import msgspec

from relay.model.job import Cost, FinishedBy, Job, JobState
from relay.storage.engine.database import Row


class Timer(StrEnum):
    """What the sweeper does with a job at the time in its column `next_at`."""

    SUBMIT = "submit"
    """Send it."""
    SUBMITTING = "submitting"
    """End a submission that has no answer; the column has the time when it began."""
    CONFIRM = "confirm"
    """End the wait for a status check."""
    DEADLINE = "deadline"
    """Expire it, or check it one last time."""
    EXPIRING = "expiring"
    """Announce that its result will expire."""
    FINISHED = "finished"
    """Delete it, once that time is long ago."""


class JobRow(msgspec.Struct, frozen=True):
    """The columns of a job's hot row."""

    id: str
    project_id: str
    provider: str
    state: str
    reason: str | None
    provider_job_id: str | None
    cost: str | None
    created_at: int
    finished_at: int | None
    confirm_by: int | None
    next_check_at: int | None
    checks_made: int
    timer: str | None
    next_at: int | None
    doc: str


class ChangedRow(JobRow, frozen=True):
    """A hot row that replaces one of this `version`, PostgreSQL's `xmin`; None where that is locked."""

    version: str | None = None


class RequestRow(msgspec.Struct, frozen=True):
    """The columns of a job's cold row."""

    job_id: str
    request: str
    input: str | None
    metadata: str


class _Deadline(msgspec.Struct):
    """The one field of a document that statements about many jobs need."""

    at: int = msgspec.field(name="deadline_at")


class _Traced(msgspec.Struct):
    """What a document says about the trace of its job."""

    traceparent: str | None = None


class Ending(msgspec.Struct, frozen=True):
    """What a document says about how its job ended, and how many callbacks it got."""

    finished_by: FinishedBy | None = None
    callbacks_seen: int = 0


_encode: Final = msgspec.json.Encoder().encode
_decode_json: Final = msgspec.json.Decoder().decode
_decode_job: Final = msgspec.json.Decoder(Job).decode
_decode_deadline: Final = msgspec.json.Decoder(_Deadline).decode
_decode_traced: Final = msgspec.json.Decoder(_Traced).decode
_decode_ending: Final = msgspec.json.Decoder(Ending).decode
_decode_cost: Final = msgspec.json.Decoder(Cost).decode


def row(job: Job) -> JobRow:
    """Return a job's hot row."""
    return JobRow(*_columns(job))


def changed_row(job: Job, version: str | None = None) -> ChangedRow:
    """Return the hot row of a job that was read with a row of this version."""
    return ChangedRow(*(*_columns(job), version))


def _columns(job: Job) -> tuple[Any, ...]:
    """Return the values of a job's hot row, in order."""
    timer, next_at = timer_of(job)
    rest = msgspec.structs.replace(
        job,
        request={},
        input=None,
        metadata={},
        reason=None,
        provider_job_id=None,
        cost=None,
        finished_at=None,
        confirm_by=None,
        next_check_at=None,
        checks_made=0,
    )
    return (
        job.id,
        job.project_id,
        job.provider,
        str(job.state),
        job.reason,
        job.provider_job_id,
        None if job.cost is None else _encode(job.cost).decode(),
        job.created_at,
        job.finished_at,
        job.confirm_by,
        job.next_check_at,
        job.checks_made,
        timer,
        next_at,
        _encode(rest).decode(),
    )


def request_row(job: Job) -> RequestRow:
    """Return a job's cold row."""
    given = None if job.input is None else _encode(job.input).decode()
    return RequestRow(job.id, _encode(job.request).decode(), given, _encode(job.metadata).decode())


def job(row: Row) -> Job:
    """Return the job of a hot row that was read together with its cold row."""
    job, given = hot_job(row), row["input"]
    job.input = None if given is None else _decode_json(given)
    job.request, job.metadata = _decode_json(row["request"]), _decode_json(row["metadata"])
    return job


def hot_job(row: Row) -> Job:
    """Return the job of a hot row alone, without input, request and metadata, which are long and do not change."""
    job = _decode_job(row["doc"])
    job.reason, job.provider_job_id, job.finished_at = row["reason"], row["provider_job_id"], row["finished_at"]
    job.confirm_by, job.next_check_at, job.checks_made = row["confirm_by"], row["next_check_at"], row["checks_made"]
    if (cost := row["cost"]) is not None:
        job.cost = _decode_cost(cost)
    return job


def deadline_at(doc: str) -> int:
    """Return the deadline that a document has."""
    return _decode_deadline(doc).at


def traceparent(doc: str) -> str | None:
    """Return the client's trace that a document has."""
    return _decode_traced(doc).traceparent


def ending(doc: str) -> Ending:
    """Return how the job of a document ended."""
    return _decode_ending(doc)


def timer_of(job: Job) -> tuple[str | None, int | None]:
    """Return the one thing that the sweeper has to do next with a job, and when.

    Each of them ends with an update of the job, which sets the next: what is due later needs no column of its own. Of
    an open job there is always one. A wait for a status check has a bound of its own, and comes before the deadline.
    """
    if not job.state.final:
        if job.confirm_by is not None:
            return Timer.CONFIRM.value, job.confirm_by
        if job.next_submit_at is not None and job.next_submit_at <= job.deadline_at:
            return Timer.SUBMIT.value, job.next_submit_at
        began_at = job.submission_started_at if job.state is JobState.PENDING else None
        if began_at is not None and job.next_submit_at is None and job.reason is None and job.unconfirmed is None:
            return Timer.SUBMITTING.value, began_at
        return Timer.DEADLINE.value, job.deadline_at
    if job.expiring_at is not None and (job.confirm_by is None or job.expiring_at < job.confirm_by):
        return Timer.EXPIRING.value, job.expiring_at
    if job.confirm_by is not None:
        return Timer.CONFIRM.value, job.confirm_by
    if job.unconfirmed is None and job.next_check_at is None:
        return Timer.FINISHED.value, job.finished_at
    return None, None
