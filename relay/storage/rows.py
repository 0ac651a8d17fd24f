"""Rows and the model's nouns, one into the other; JSON columns are text, sealed ones are bytes."""

from typing import Any, Final

import msgspec

from relay.model import (
    Call,
    Callback,
    Event,
    EventType,
    Job,
    Verdict,
)
from relay.outbox import Attempt, Delivery, DeliveryState, Endpoint, Outcome
from relay.seal import Seal
from relay.storage.database import Row

_JSON_OF_JOB: Final = ("input", "request", "metadata", "outputs", "error", "cost", "claim")


def text(value: object) -> str | None:
    """JSON as a column keeps it: without NUL, which PostgreSQL's text refuses, and which JSON escapes anyway."""
    return None if value is None else msgspec.json.encode(value).decode()


def job_params(job: Job) -> dict[str, Any]:
    """Every column of a job."""
    params = msgspec.structs.asdict(job)
    params.update({name: text(params[name]) for name in _JSON_OF_JOB})
    params["late"] = int(job.late)
    return params


def moved_job_params(job: Job) -> dict[str, Any]:
    """The columns of a job that a move may change; what never changes is not written out as JSON again."""
    params = msgspec.structs.asdict(job)
    params["outputs"] = text(job.outputs)
    params["error"] = text(job.error)
    params["cost"] = text(job.cost)
    params["claim"] = text(job.claim)
    params["late"] = int(job.late)
    return params


def job(row: Row) -> Job:
    """The job of a row."""
    values = dict(row)
    for name in _JSON_OF_JOB:
        if values[name] is not None:
            values[name] = msgspec.json.decode(values[name])
    values["late"] = bool(values["late"])
    return msgspec.convert(values, Job)


def endpoint_params(endpoint: Endpoint, seal: Seal) -> dict[str, Any]:
    """The columns a subscriber decides on; secret and headers sealed."""
    return {
        "id": endpoint.id,
        "project_id": endpoint.project_id,
        "job_id": endpoint.job_id,
        "url": endpoint.url,
        "secret": seal.seal(endpoint.secret),
        "headers": seal.seal(text(endpoint.headers) or "{}"),
        "event_types": text(endpoint.event_types),
        "providers": text(endpoint.providers),
        "description": endpoint.description,
        "metadata": text(endpoint.metadata),
        "rate_limit_per_s": endpoint.rate_limit_per_s,
        "in_flight_max": endpoint.in_flight_max,
        "timeout_s": endpoint.timeout_s,
        "schedule_s": text(endpoint.schedule_s),
        "created_at": endpoint.created_at,
        "updated_at": endpoint.updated_at,
    }


def endpoint(row: Row, seal: Seal) -> Endpoint:
    """The endpoint of a row, opened."""
    values = dict(row)
    del values["deleted_at"]
    for name in ("event_types", "providers", "metadata", "schedule_s"):
        values[name] = values[name] and msgspec.json.decode(values[name])
    values["secret"] = seal.open(values["secret"])
    values["former_secret"] = values["former_secret"] and seal.open(values["former_secret"])
    values["headers"] = msgspec.json.decode(seal.open(values["headers"]))
    return Endpoint(**values)


def event(row: Row) -> Event:
    """The event of a row."""
    values = {name: row[name] for name in Event.__struct_fields__}
    return Event(**{**values, "type": EventType(row["type"]), "final": bool(row["final"])})


def delivery(row: Row) -> Delivery:
    """The delivery of a row."""
    return Delivery(**{**dict(row), "state": DeliveryState(row["state"]), "redelivery": bool(row["redelivery"])})


def attempt(row: Row) -> Attempt:
    """The attempt of a row."""
    return Attempt(**{**dict(row), "outcome": Outcome(row["outcome"])})


def callback(row: Row) -> Callback:
    """The callback of a row."""
    values = dict(row)
    del values["digest"]
    headers = [(name, value) for name, value in msgspec.json.decode(values["headers"])]
    return Callback(**{**values, "verdict": Verdict(values["verdict"]), "headers": headers})


def call(row: Row) -> Call:
    """The call of a row."""
    return Call(**dict(row))
