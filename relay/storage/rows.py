"""Rows and the model's nouns, one into the other; JSON columns are text, sealed ones are bytes.

A noun is made of the columns that it names, whatever else a row has: a newer relay may have added some while this one
runs, and it may have stored a word that this one does not know. A column that a statement forgets is a KeyError.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from operator import itemgetter
from typing import Any, TypeVar

import msgspec

from relay import log
from relay.model.delivery import Attempt, Delivery, DeliveryState, Endpoint, EndpointNote, Outcome, Redelivery
from relay.model.job import Callback, CallbackHead, Disposition, Event, EventType, ProviderCall, Reprocessing
from relay.security.encryption import DecryptionFailed, Encryption, place
from relay.storage import event_bodies
from relay.storage.engine.database import Row

_logger = log.get("storage")
Word = TypeVar("Word", bound=StrEnum)


def word(kind: type[Word], value: str) -> Word:
    """Return a stored word of a kind; one that this release does not know as a member without a name.

    While two releases overlap, the newer one may store it, and it must hide no list from the older one.
    """
    try:
        return kind(value)
    except ValueError:
        unknown = str.__new__(kind, value)
        unknown._name_ = unknown._value_ = value
        return unknown


def columns_of(kind: type[msgspec.Struct]) -> Callable[[Row], dict[str, Any]]:
    """Return what reads the columns that a noun has, by its fields' names."""
    names = kind.__struct_fields__
    pick = itemgetter(*names)
    return lambda row: dict(zip(names, pick(row), strict=True))


_of_endpoint, _of_event, _of_call = columns_of(Endpoint), columns_of(Event), columns_of(ProviderCall)
_of_delivery, _of_attempt, _of_callback = columns_of(Delivery), columns_of(Attempt), columns_of(Callback)
_of_redelivery, _of_callback_head = columns_of(Redelivery), columns_of(CallbackHead)

_of_reprocessing, _of_endpoint_note = columns_of(Reprocessing), columns_of(EndpointNote)


def text(value: object) -> str | None:
    """JSON as a column keeps it: without NUL, which PostgreSQL's text refuses, and which JSON escapes anyway."""
    return None if value is None else msgspec.json.encode(value).decode()


def metadata_pair(key: str, value: object) -> str:
    """Return `key=value`, by which jobs are found; a value that is not text counts as its JSON."""
    return f"{key}={value if isinstance(value, str) else text(value)}"


def metadata_params(project_id: str, job_id: str, metadata: Mapping[str, object]) -> list[dict[str, Any]]:
    """Return the columns of the rows that a job's metadata has, one for each entry."""
    pairs = [metadata_pair(key, value) for key, value in metadata.items()]
    return [{"project_id": project_id, "pair": pair, "job_id": job_id} for pair in pairs]


def endpoint_params(endpoint: Endpoint, encryption: Encryption) -> dict[str, Any]:
    """Return the columns a subscriber decides on; secret and headers sealed."""
    return {
        "id": endpoint.id,
        "project_id": endpoint.project_id,
        "job_id": endpoint.job_id,
        "url": endpoint.url,
        "secret": encryption.encrypt(endpoint.secret, place("endpoints", "secret", endpoint.id)),
        "headers": encryption.encrypt(text(endpoint.headers) or "{}", place("endpoints", "headers", endpoint.id)),
        "event_types": text(endpoint.event_types),
        "providers": text(endpoint.providers),
        "description": endpoint.description,
        "metadata": text(endpoint.metadata),
        "rate_limit_per_s": endpoint.rate_limit_per_s,
        "in_flight_max": endpoint.in_flight_max,
        "timeout_s": endpoint.timeout_s,
        "schedule_s": text(endpoint.schedule_s),
        "format": endpoint.format,
        "created_at": endpoint.created_at,
        "updated_at": endpoint.updated_at,
    }


def endpoint(row: Row, encryption: Encryption) -> Endpoint:
    """Return the endpoint of a row, opened; DecryptionFailed where a secret of it does not open."""
    values = _of_endpoint(row)
    for name in ("event_types", "providers", "metadata", "schedule_s"):
        values[name] = values[name] and msgspec.json.decode(values[name])
    for name in ("secret", "former_secret", "headers"):
        values[name] = values[name] and encryption.decrypt(values[name], place("endpoints", name, values["id"]))
    values["headers"] = msgspec.json.decode(values["headers"])
    return Endpoint(**values)


def endpoint_shown(row: Row, encryption: Encryption) -> Endpoint:
    """Return an endpoint to be shown; one whose secret cannot be decrypted has an empty secret and no headers.

    That is logged.

    One that cannot be read must not hide the others of a list.
    """
    try:
        return endpoint(row, encryption)
    except DecryptionFailed as error:
        _logger.error("endpoint.secret_unreadable", endpoint=row["id"], error=str(error))
        values = _of_endpoint(row)
        for name in ("event_types", "providers", "metadata", "schedule_s"):
            values[name] = values[name] and msgspec.json.decode(values[name])
        return Endpoint(**{**values, "secret": "", "former_secret": None, "headers": {}})


def event(row: Row) -> Event:
    """Return the event of a row, its body whole; BodyChangedError where that cannot be."""
    values = {"type": word(EventType, row["type"]), "final": bool(row["final"]), "body": event_bodies.of_row(row)}
    return Event(**{**_of_event(row), **values})


def delivery(row: Row) -> Delivery:
    """Return the delivery of a row."""
    return Delivery(
        **{**_of_delivery(row), "state": DeliveryState(row["state"]), "redelivery": bool(row["redelivery"])}
    )


def attempt(row: Row) -> Attempt:
    """Return the attempt of a row."""
    return Attempt(**{**_of_attempt(row), "outcome": word(Outcome, row["outcome"])})


def callback_head(row: Row) -> CallbackHead:
    """Return the callback of a row without its body."""
    values = _of_callback_head(row)
    headers = [(name, value) for name, value in msgspec.json.decode(values["headers"])]
    return CallbackHead(**{**values, "disposition": word(Disposition, values["disposition"]), "headers": headers})


def callback(row: Row) -> Callback:
    """Return the callback of a row."""
    values = _of_callback(row)
    headers = [(name, value) for name, value in msgspec.json.decode(values["headers"])]
    return Callback(**{**values, "disposition": word(Disposition, values["disposition"]), "headers": headers})


def reprocessing(row: Row) -> Reprocessing:
    """Return the reprocessing of a row."""
    return Reprocessing(**{**_of_reprocessing(row), "disposition": word(Disposition, row["disposition"])})


def call(row: Row) -> ProviderCall:
    """Return the call of a row."""
    return ProviderCall(**_of_call(row))


def endpoint_note(row: Row) -> EndpointNote:
    """Return what happened to an endpoint, of a row."""
    return EndpointNote(**_of_endpoint_note(row))


def redelivery(row: Row) -> Redelivery:
    """Return the batch of redeliveries of a row."""
    return Redelivery(**_of_redelivery(row))
