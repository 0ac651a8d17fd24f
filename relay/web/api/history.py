"""`/v1/events`, `/v1/deliveries`, `/v1/callbacks`: what is stored, for whoever wants to see it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from relay import ids
from relay.errors import FieldError, InvalidInput, NotFound
from relay.model import serializers
from relay.model.delivery import Delivery, DeliveryState
from relay.model.job import Callback, CallbackHead, Disposition, EventType, Reprocessing
from relay.storage.history import EventFilter
from relay.web.api.api_request import Nothing, ProviderRequest, listed, listing_of, one_of
from relay.web.problems import JSON

Head = TypeVar("Head", bound=CallbackHead)


async def events(call: ProviderRequest) -> Response:
    """`GET /v1/events`: newest first; `after` an event in the stream's order; `undelivered=true`: somebody lacks it."""
    given = call.query("limit", "cursor", "type", "job", "after", "undelivered")
    listing = listing_of(call, given, ids.EVENT)
    if given.get("undelivered", "false") not in ("true", "false"):
        raise InvalidInput([FieldError("undelivered", "must be true or false")])
    wanted = EventFilter(
        type=one_of(given, "type", EventType),
        job_id=given.get("job"),
        after=given.get("after"),
        undelivered=given.get("undelivered") == "true",
    )
    found = await call.app.store.events.page(call.project_id, listing, wanted, call.app.clock.now_ms())
    counts = await call.app.store.events.delivery_counts([event.id for event in found.items])
    return listed(found, lambda event: serializers.event(event, counts[event.id]))


async def stream(call: ProviderRequest) -> Response:
    """`GET /v1/events/stream`: server-sent events from now on, or from `Last-Event-ID` on; a comment every 15 s."""
    given = call.query("type")
    kind = one_of(given, "type", EventType)
    after = call.request.headers.get("last-event-id")
    if after is not None and not (after.startswith(ids.EVENT) and after.isascii() and len(after) < 64):
        raise InvalidInput([FieldError("Last-Event-ID", "must be the id of an event")])
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    lines = await call.app.streams.lines(call.project_id, after, kind)
    return Streamed(lines, headers=headers, media_type="text/event-stream")


class Streamed(StreamingResponse):
    """An answer that gives back what its lines hold as soon as it is over, however it ends.

    Starlette leaves lines that are not read to their end to the garbage collector, which may come much later.
    """

    def __init__(self, lines: AsyncGenerator[bytes], **more: Any) -> None:
        super().__init__(lines, **more)
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        async with aclosing(self._lines):
            await super().__call__(scope, receive, send)


async def event(call: ProviderRequest) -> Response:
    """`GET /v1/events/{id}`."""
    call.query()
    found = await call.app.store.events.get(call.path("id"), call.project_id)
    if found is None:
        raise NotFound("there is no such event")
    counts = await call.app.store.events.delivery_counts([found.id])
    return JSON(serializers.event(found, counts[found.id]))


async def deliveries(call: ProviderRequest) -> Response:
    """`GET /v1/deliveries`: newest first, without their attempts."""
    given = call.query("limit", "cursor", "endpoint", "status", "event", "job")
    listing = listing_of(call, given, ids.DELIVERY)
    wanted = {
        "endpoint_id": given.get("endpoint"),
        "status": one_of(given, "status", DeliveryState),
        "event_id": given.get("event"),
        "job_id": given.get("job"),
    }
    return listed(await call.app.store.deliveries.page(call.project_id, listing, wanted), serializers.delivery)


async def delivery(call: ProviderRequest) -> Response:
    """`GET /v1/deliveries/{id}`, with its attempts."""
    call.query()
    found = await call.app.store.deliveries.get(call.path("id"), call.project_id)
    if found is None:
        raise NotFound("there is no such delivery")
    attempts = await call.app.store.deliveries.attempts(found)
    return JSON(serializers.delivery(found) | {"attempts": [serializers.attempt(one) for one in attempts]})


async def redeliver(call: ProviderRequest) -> Response:
    """`POST /v1/deliveries/{id}/redeliveries`: 202 with a new delivery of the same event to the same endpoint."""
    call.fields(Nothing)
    found = await call.app.store.deliveries.get(call.path("id"), call.project_id)
    if found is None:
        raise NotFound("there is no such delivery")
    made = await call.app.redeliverer.redeliver(
        found, lambda made: call.tie(lambda done: accepted(made) if done else None)
    )
    return accepted(made)


def accepted(made: Delivery) -> Response:
    """Return the answer that shows a delivery which was just made."""
    return JSON(serializers.delivery(made), 202, {"location": f"/v1/deliveries/{made.id}"})


async def callbacks(call: ProviderRequest) -> Response:
    """`GET /v1/callbacks`: newest first, without their bodies."""
    given = call.query("limit", "cursor", "job", "verdict")
    listing, disposition = listing_of(call, given, ids.CALLBACK), one_of(given, "verdict", Disposition)
    found = await call.app.store.callbacks.page(call.project_id, listing, given.get("job"), disposition)
    return listed(found, lambda one: serializers.callback_head(_cut(call, one)))


async def callback(call: ProviderRequest) -> Response:
    """`GET /v1/callbacks/{id}`."""
    call.query()
    found = await call.app.store.callbacks.get(call.path("id"), call.project_id)
    if found is None:
        raise NotFound("there is no such callback")
    return JSON(shown(call, found, await call.app.store.callbacks.reprocessings(found)))


def shown(call: ProviderRequest, callback: Callback, reprocessings: Sequence[Reprocessing]) -> serializers.Json:
    """Return a callback as it came, except for relay's own secrets, which some providers repeat: they are cut out."""
    cut = msgspec.structs.replace(_cut(call, callback), body=call.app.redactor.raw(callback.body))
    return serializers.callback(cut) | {"reprocessings": [serializers.reprocessing(one) for one in reprocessings]}


def _cut(call: ProviderRequest, head: Head) -> Head:
    """Return a callback with those secrets cut out of its headers; what is stored stays as it came."""
    headers = [(name, call.app.redactor.text(value)) for name, value in head.headers]
    return msgspec.structs.replace(head, headers=headers)
