"""`/v1/deliveries`: list deliveries, show one with its attempts, and request a redelivery."""

from typing import Final

from starlette.responses import Response

from relay.deliveries.attempt import headers_shown
from relay.errors import NotFound
from relay.model import ids
from relay.model.delivery import Attempt, Delivery, DeliveryState
from relay.model.resources import deliveries as resources
from relay.model.resources import slack
from relay.model.resources.deliveries import DeliveryResource, DeliveryWithAttemptsResource, RequestResource
from relay.model.resources.envelopes import PageResource
from relay.storage.deliveries import DeliveryFilter
from relay.web.api.api_request import ApiRequest, ApiRoute, NoFields, Parameter
from relay.web.api.lists import choice, id_param, listing, page, paging, span, span_parameters
from relay.web.problems import JSON


async def index(request: ApiRequest) -> Response:
    """`GET /v1/deliveries`: newest first, without their attempts."""
    given = request.query()
    wanted_page = listing(request, given, ids.DELIVERY)
    wanted = DeliveryFilter(
        endpoint_id=id_param(given, "endpoint", ids.ENDPOINT),
        status=choice(given, "status", DeliveryState),
        event_id=id_param(given, "event", ids.EVENT),
        job_id=id_param(given, "job", ids.JOB),
        made=span(given, request.app.clock.now_ms()),
    )
    return page(await request.app.store.deliveries.page(request.project_id, wanted_page, wanted), resources.delivery)


async def show(request: ApiRequest) -> Response:
    """`GET /v1/deliveries/{id}`, with its attempts."""
    request.query()
    return await shown(request, await _delivery(request))


async def shown(request: ApiRequest, delivery: Delivery) -> Response:
    """Return the 200 that shows a delivery with its attempts, each with the request as it was sent."""
    store, redact = request.app.store, request.app.redactor.text
    attempts = await store.deliveries.attempts(delivery)
    endpoint = await store.endpoints.get(delivery.endpoint_id, delivery.project_id) if attempts else None
    event = await store.events.get(delivery.event_id, delivery.project_id) if endpoint else None

    def sent(attempt: Attempt) -> RequestResource | None:
        if endpoint is None or event is None:
            return None
        body = slack.message(event.body) if endpoint.format == slack.FORMAT else event.body
        headers = headers_shown(endpoint, delivery, attempt)
        return RequestResource(url=endpoint.url, headers=headers, body_bytes=len(body))

    return JSON(resources.with_attempts(delivery, [resources.attempt(one, sent(one), redact) for one in attempts]))


async def redeliver(request: ApiRequest) -> Response:
    """`POST /v1/deliveries/{id}/redeliveries`: 202 with a new delivery of the same event to the same endpoint."""
    request.fields(NoFields)
    new = await request.app.redeliverer.redeliver(
        await _delivery(request), lambda new: request.tie(lambda done: accepted(new) if done else None)
    )
    return accepted(new)


def accepted(delivery: Delivery) -> Response:
    """Return the 202 that shows a new delivery."""
    return JSON(resources.delivery(delivery), 202, {"location": f"/v1/deliveries/{delivery.id}"})


def begun(delivery: Delivery) -> Response:
    """Return the 200 that shows a delivery before its first attempt."""
    return JSON(resources.with_attempts(delivery, []))


async def _delivery(request: ApiRequest) -> Delivery:
    """Return the delivery that the path names; raise NotFound if the project has none with this id."""
    found = await request.app.store.deliveries.get(request.path("id"), request.project_id)
    if found is None:
        raise NotFound("there is no such delivery")
    return found


ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/deliveries",
        handler=index,
        scope="read",
        summary="List deliveries",
        query=(
            *paging(ids.DELIVERY),
            Parameter("endpoint", "Only those to this endpoint."),
            Parameter("status", "Only those with this status.", DeliveryState),
            Parameter("event", "Only those of this event."),
            Parameter("job", "Only those about this job."),
            *span_parameters("made"),
        ),
        answers={200: PageResource[DeliveryResource]},
    ),
    ApiRoute(
        method="GET",
        path="/v1/deliveries/{id}",
        handler=show,
        scope="read",
        summary="Show a delivery with its attempts",
        answers={200: DeliveryWithAttemptsResource},
    ),
    ApiRoute(
        method="POST",
        path="/v1/deliveries/{id}/redeliveries",
        handler=redeliver,
        scope="admin",
        summary="Send the same event to the same endpoint again",
        fields=NoFields,
        answers={202: DeliveryResource},
    ),
)
