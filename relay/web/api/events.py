"""`/v1/events`: list events, show one, and stream them as server-sent events."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from relay.errors import FieldError, InvalidInput, NotFound
from relay.model import ids
from relay.model.job import EventType
from relay.model.resources import events as resources
from relay.model.resources.envelopes import PageResource
from relay.model.resources.events import EventResource
from relay.storage.history import EventFilter
from relay.validation import shown
from relay.web.api.api_request import ApiRequest, ApiRoute, Parameter
from relay.web.api.lists import choice, flag, id_param, listing, page, paging, span, span_parameters
from relay.web.problems import JSON


async def index(request: ApiRequest) -> Response:
    """`GET /v1/events`: newest first.

    `after` an event lists those behind it in the stream's order; `undelivered=true` those that an endpoint has not
    received.
    """
    given = request.query()
    wanted_page = listing(request, given, ids.EVENT)
    wanted = EventFilter(
        type=choice(given, "type", EventType),
        job_id=id_param(given, "job", ids.JOB),
        after=id_param(given, "after", ids.EVENT) if given.get("after") else given.get("after"),
        undelivered=flag(given, "undelivered"),
        made=span(given, request.app.clock.now_ms()),
    )
    events = request.app.store.events
    found = await events.page(request.project_id, wanted_page, wanted, request.app.clock.now_ms())
    counts = await events.delivery_counts([event.id for event in found.items])
    return page(found, lambda event: resources.event(event, counts[event.id]))


async def show(request: ApiRequest) -> Response:
    """`GET /v1/events/{id}`."""
    request.query()
    events = request.app.store.events
    found = await events.get(request.path("id"), request.project_id)
    if found is None:
        raise NotFound("there is no such event")
    counts = await events.delivery_counts([found.id])
    return JSON(resources.event(found, counts[found.id]))


async def stream(request: ApiRequest) -> Response:
    """`GET /v1/events/stream`: server-sent events, new ones or those after `Last-Event-ID`; a comment every 15 s."""
    given = request.query()
    kind = choice(given, "type", EventType)
    after = request.http.headers.get("last-event-id")
    if after is not None and not (after.startswith(ids.EVENT) and after.isascii() and len(after) < 64):
        wrong = f"must be the id of an event, which begins with {ids.EVENT}, not {shown(after)}"
        raise InvalidInput([FieldError("Last-Event-ID", wrong)])
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    lines = await request.app.streams.lines(request.project_id, after, kind)
    return EventStream(lines, headers=headers, media_type="text/event-stream")


class EventStream(StreamingResponse):
    """A response that closes its generator as soon as it ends, however it ends, which frees the stream's slot.

    Starlette leaves a generator that was not read to its end to the garbage collector, which may run much later.
    """

    def __init__(self, lines: AsyncGenerator[bytes], **options: Any) -> None:
        super().__init__(lines, **options)
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        async with aclosing(self._lines):
            await super().__call__(scope, receive, send)


_TYPE: Final = Parameter("type", "Only those of this type.", EventType)
ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/events",
        handler=index,
        scope="read",
        summary="List events",
        query=(
            *paging(ids.EVENT),
            _TYPE,
            Parameter("job", "Only those about this job."),
            Parameter("after", "Only those behind this event in the order of commits."),
            Parameter("undelivered", "Only those that an endpoint has not received.", bool),
            *span_parameters("made"),
        ),
        answers={200: PageResource[EventResource]},
    ),
    ApiRoute(
        method="GET",
        path="/v1/events/stream",
        handler=stream,
        scope="read",
        summary="Receive events as they happen (server-sent events)",
        query=(_TYPE,),
        headers=(Parameter("last-event-id", "The id of the last event received: the stream goes on after it."),),
        answers={200: EventStream},
        problems=("too_many_requests",),
    ),
    ApiRoute(
        method="GET",
        path="/v1/events/{id}",
        handler=show,
        scope="read",
        summary="Show an event",
        answers={200: EventResource},
    ),
)
