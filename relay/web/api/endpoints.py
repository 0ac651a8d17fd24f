"""`/v1/endpoints`: create, change and delete subscribers' URLs, rotate their secrets, test them, redeliver to them."""

from collections import Counter
from functools import partial
from typing import Annotated, Final, Literal

import msgspec
from starlette.responses import Response

from relay import validation
from relay.clock import rfc3339
from relay.errors import ERRORS_MAX, Bound, Conflict, FieldError, InvalidInput, NotFound
from relay.jobs.job_requests import Metadata, Patterns, check_endpoint, check_metadata
from relay.model import ids
from relay.model.delivery import Endpoint, EventSelection, Redelivery, Which
from relay.model.resources import endpoints as resources
from relay.model.resources.deliveries import DeliveryResource, DeliveryWithAttemptsResource
from relay.model.resources.endpoints import (
    EndpointNoteResource,
    EndpointResource,
    NewEndpointResource,
    RedeliveryCountResource,
    RedeliveryResource,
    RotatedSecretResource,
    SecretResource,
)
from relay.model.resources.envelopes import PageResource
from relay.security import signatures
from relay.security.encryption import DecryptionFailed
from relay.storage.endpoints import DISABLED_BY_HAND, Change, Rotation
from relay.storage.pages import Page
from relay.storage.redeliveries import UNDELIVERED
from relay.web.api.api_request import ApiRequest, ApiRoute, NoFields
from relay.web.api.deliveries import accepted, begun, shown
from relay.web.api.lists import cursor_and_limit, listing, page, paging, time_param
from relay.web.problems import JSON

Headers = Annotated[
    dict[
        Annotated[
            str,
            msgspec.Meta(
                pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$",
                extra={"in_words": "1 to 64 letters, digits or one of !#$%&'*+.^_`|~-"},
            ),
        ],
        Annotated[str, msgspec.Meta(max_length=1024)],
    ],
    msgspec.Meta(max_length=20),
]
Secret = Annotated[str, msgspec.Meta(max_length=200, extra_json_schema={"pattern": "^whsec_"})]
RESERVED_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "connection",
        "keep-alive",
        "transfer-encoding",
        "user-agent",
        "expect",
        "upgrade",
        "te",
        "trailer",
    }
)
TIMEOUT_MAX_S = 20
NULLABLE = frozenset({"description", "providers", "rate_limit_per_s", "schedule_s", "format"})


class EndpointFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body that creates or changes an endpoint; an absent field, or null unless in NULLABLE, changes nothing."""

    url: str | msgspec.UnsetType = msgspec.UNSET
    event_types: Patterns | msgspec.UnsetType | None = msgspec.UNSET
    description: Annotated[str, msgspec.Meta(max_length=500)] | msgspec.UnsetType | None = msgspec.UNSET
    metadata: Metadata | msgspec.UnsetType | None = msgspec.UNSET
    headers: Headers | msgspec.UnsetType | None = msgspec.UNSET
    providers: Annotated[list[str], msgspec.Meta(min_length=1, max_length=20)] | msgspec.UnsetType | None = (
        msgspec.UNSET
    )
    rate_limit_per_s: Annotated[float, msgspec.Meta(ge=0.01, le=10_000)] | msgspec.UnsetType | None = msgspec.UNSET
    in_flight_max: Annotated[int, msgspec.Meta(ge=1, le=100)] | msgspec.UnsetType | None = msgspec.UNSET
    timeout_s: Annotated[float, msgspec.Meta(ge=1, le=TIMEOUT_MAX_S)] | msgspec.UnsetType | None = msgspec.UNSET
    schedule_s: (
        Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=604_800)]], msgspec.Meta(min_length=1, max_length=50)]
        | msgspec.UnsetType
        | None
    ) = msgspec.UNSET
    format: Literal["json", "slack"] | msgspec.UnsetType | None = msgspec.UNSET
    secret: Secret | msgspec.UnsetType | None = msgspec.UNSET
    status: Literal["active", "disabled"] | msgspec.UnsetType = msgspec.UNSET


async def create(request: ApiRequest) -> Response:
    """`POST /v1/endpoints`: 201 with the endpoint and, only here, its secret."""
    fields = _fields(request)
    if fields.url is msgspec.UNSET:
        raise InvalidInput([FieldError("url", "is required")])
    now_ms = request.app.clock.now_ms()
    endpoint = Endpoint(
        id=ids.new_id(ids.ENDPOINT),
        project_id=request.project_id,
        job_id=None,
        url=fields.url,
        secret=fields.secret or signatures.new_secret(),
        event_types=["job.*"],
        created_at=now_ms,
        updated_at=now_ms,
    )
    endpoint = _changed(endpoint, fields)
    if fields.status == "disabled":
        endpoint.disabled_at, endpoint.disabled_reason = now_ms, DISABLED_BY_HAND
    answer = JSON(
        resources.new_endpoint(endpoint), 201, {"location": f"/v1/endpoints/{endpoint.id}", "cache-control": "no-store"}
    )
    most = request.app.settings.endpoints_per_project_max
    if not await request.app.store.endpoints.create(
        endpoint, most, request.tie(lambda stored: answer if stored else None), request.key_id
    ):
        raise Conflict(
            f"this project has {most} endpoints, as many as RELAY_ENDPOINTS_PER_PROJECT_MAX allows: delete one",
            bound=Bound.ENDPOINTS_PER_PROJECT_MAX,
        )
    return answer


async def show(request: ApiRequest) -> Response:
    """`GET /v1/endpoints/{id}`."""
    return JSON(resources.endpoint(await _endpoint(request)))


async def show_secret(request: ApiRequest) -> Response:
    """`GET /v1/endpoints/{id}/secret`."""
    endpoint = await _endpoint(request)
    if not endpoint.secret:
        raise DecryptionFailed(
            "the endpoint's secret opens with none of RELAY_SECRET_KEYS: rotate it to have a new one"
        )
    return JSON(SecretResource(secret=endpoint.secret), headers={"cache-control": "no-store"})


async def index(request: ApiRequest) -> Response:
    """`GET /v1/endpoints`: newest first."""
    before, limit = cursor_and_limit(request.query(), ids.ENDPOINT)
    found = await request.app.store.endpoints.page(request.project_id, before, limit + 1)
    items = found[:limit]
    return page(Page(items, items[-1].id if len(found) > limit else None), resources.endpoint)


async def change(request: ApiRequest) -> Response:
    """`PATCH /v1/endpoints/{id}`: change the given fields, from the next attempt on; `status` enables or disables.

    An endpoint that is enabled again receives the events it missed.
    """
    fields = _fields(request)
    if fields.secret is not msgspec.UNSET:
        raise InvalidInput([FieldError("secret", "is changed by a rotation, not by PATCH")])
    request.query()
    active = None if fields.status is msgspec.UNSET else fields.status == "active"
    change = Change(
        endpoint_id=request.path("id"),
        project_id=request.project_id,
        at=request.app.clock.now_ms(),
        apply=partial(_changed, fields=fields),
        active=active,
        key_id=request.key_id,
    )
    tie = request.tie(lambda endpoint: JSON(resources.endpoint(endpoint)) if endpoint else None)
    endpoint = await request.app.store.endpoints.change(change, tie)
    if endpoint is None:
        raise NotFound("there is no such endpoint")
    if active is not None:
        request.app.redeliverer.reopen(endpoint.id)
    return JSON(resources.endpoint(endpoint))


class RotationRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a rotation: for how long the former secret signs too, one day by default, and the new secret."""

    grace_s: Annotated[int, msgspec.Meta(ge=0, le=604_800)] = 86_400
    secret: Secret | None = None


class RedeliveryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a batch of redeliveries: which events between two times; `dry_run` only counts them.

    `since` may be left out only with `undelivered`, and then means the endpoint's creation.
    """

    since: str | None = None
    until: str | None = None
    which: Which = "failed"
    dry_run: bool = False


async def rotate(request: ApiRequest) -> Response:
    """`POST /v1/endpoints/{id}/secret-rotations`: 200 with the new secret; both sign until `grace_s` is over."""
    asked = request.fields(RotationRequest)
    if asked.secret is not None:
        try:
            signatures.check_secret(asked.secret)
        except ValueError as error:
            raise InvalidInput([FieldError("secret", str(error))]) from None
    endpoint, now_ms = await _endpoint(request), request.app.clock.now_ms()
    secret, until = asked.secret or signatures.new_secret(), now_ms + asked.grace_s * 1000
    shown = RotatedSecretResource(secret=secret, former_secret_until=rfc3339(until))
    answer = JSON(shown, 200, {"cache-control": "no-store"})
    rotation = Rotation(
        id=endpoint.id,
        project_id=endpoint.project_id,
        secret=secret,
        until=until,
        now=now_ms,
        key_id=request.key_id,
    )
    await request.app.store.endpoints.rotate(rotation, request.tie(lambda _: answer))
    return answer


async def test(request: ApiRequest) -> Response:
    """`POST /v1/endpoints/{id}/tests`: 202 with the delivery of a `relay.test` event to this endpoint only."""
    request.fields(NoFields)
    endpoint = await _endpoint(request)
    return accepted(await request.app.redeliverer.test(endpoint, lambda new: request.tie(lambda _: accepted(new))))


async def redeliver(request: ApiRequest) -> Response:
    """`POST /v1/endpoints/{id}/redeliveries`: 202 with the batch, which runs in the background, or 200 with a count."""
    asked = request.fields(RedeliveryRequest)
    endpoint, now_ms = await _endpoint(request), request.app.clock.now_ms()
    if asked.since is None and asked.which != UNDELIVERED:
        raise InvalidInput([FieldError("since", f"is required, except with which: {UNDELIVERED}")])
    since_ms = endpoint.created_at if asked.since is None else time_param("since", asked.since, now_ms)
    until_ms = now_ms + 1 if asked.until is None else time_param("until", asked.until, now_ms)
    if until_ms <= since_ms:
        raise InvalidInput([FieldError("until", "must be after since")])
    to_now = int(asked.until is None)
    selection = EventSelection(which=asked.which, since_at=since_ms, until_at=until_ms, to_now=to_now)
    if asked.dry_run:
        count = await request.app.store.redeliveries.count(endpoint, selection)
        return JSON(RedeliveryCountResource(endpoint=endpoint.id, count=count))
    batch = await request.app.redeliverer.start(
        endpoint, selection, lambda batch: request.tie(lambda _: _started(batch, endpoint))
    )
    return _started(batch, endpoint)


async def delete(request: ApiRequest) -> Response:
    """`DELETE /v1/endpoints/{id}`: 204; its pending deliveries are canceled."""
    tie = request.tie(lambda deleted: Response(status_code=204) if deleted else None)
    if not await request.app.store.endpoints.delete(
        request.path("id"), request.project_id, request.app.clock.now_ms(), tie
    ):
        raise NotFound("there is no such endpoint")
    return Response(status_code=204)


def _started(batch: Redelivery, to: Endpoint) -> Response:
    """Return the 202 that shows a new batch."""
    return JSON(resources.redelivery(batch, to), 202, {"location": f"/v1/endpoints/{to.id}/redeliveries/{batch.id}"})


async def probe(request: ApiRequest) -> Response:
    """`POST /v1/endpoints/{id}/probes`: send it a `relay.test` now; 200 with the delivery after its one attempt.

    A repetition with the same Idempotency-Key that comes before the attempt has ended gets the delivery without it.
    """
    request.fields(NoFields)
    endpoint, deliveries = await _endpoint(request), request.app.store.deliveries
    probed = await request.app.prober.probe(endpoint, lambda new: request.tie(lambda _: begun(new)))
    delivery = await deliveries.get(probed, endpoint.project_id)
    if delivery is None:
        raise NotFound("the delivery was pruned")
    return await shown(request, delivery)


async def history(request: ApiRequest) -> Response:
    """`GET /v1/endpoints/{id}/history`: what happened to it, newest first."""
    wanted_page = listing(request, request.query(), ids.ENDPOINT_NOTE)
    endpoint = await _found(request)
    found = await request.app.store.endpoint_history.page(request.project_id, endpoint.id, wanted_page)
    return page(found, resources.endpoint_note)


async def redeliveries(request: ApiRequest) -> Response:
    """`GET /v1/endpoints/{id}/redeliveries`: its batches, newest first."""
    wanted_page = listing(request, request.query(), ids.REDELIVERY)
    endpoint = await _found(request)
    found = await request.app.store.redeliveries.page(endpoint, wanted_page)
    return page(found, partial(resources.redelivery, to=endpoint))


async def show_redelivery(request: ApiRequest) -> Response:
    """`GET /v1/endpoints/{id}/redeliveries/{redelivery}`."""
    endpoint = await _endpoint(request)
    return JSON(resources.redelivery(await _batch(request, endpoint), endpoint))


async def cancel_redelivery(request: ApiRequest) -> Response:
    """`POST /v1/endpoints/{id}/redeliveries/{redelivery}/cancellations`: 200 with the batch; what it made stays."""
    request.fields(NoFields)
    endpoint = await _endpoint(request)
    batch, now_ms = await _batch(request, endpoint), request.app.clock.now_ms()

    def respond(stopped: Redelivery | None) -> Response | None:
        return None if stopped is None else JSON(resources.redelivery(stopped, endpoint))

    answer = respond(await request.app.store.redeliveries.cancel(batch, now_ms, request.tie(respond)))
    if answer is None:
        raise Conflict("the batch has ended")
    return answer


async def _batch(request: ApiRequest, endpoint: Endpoint) -> Redelivery:
    """Return the batch that the path names; raise NotFound if the endpoint has none with this id."""
    batch = await request.app.store.redeliveries.get(endpoint, request.path("redelivery"))
    if batch is None:
        raise NotFound("there is no such batch of redeliveries")
    return batch


def _fields(request: ApiRequest) -> EndpointFields:
    """Return the body; raise InvalidInput, which names every wrong field."""
    body = request.body()
    errors = validation.check(body, EndpointFields)
    errors += (
        check_endpoint(body, request.app.policy)
        + check_metadata(body.get("metadata"))
        + _check_headers(body.get("headers"))
    )
    providers = body.get("providers")
    for index, name in enumerate(providers[:ERRORS_MAX] if isinstance(providers, list) else ()):
        if isinstance(name, str) and name not in request.app.providers:
            wrong = validation.must_be_one_of(sorted(request.app.providers), name)
            errors.append(FieldError(f"providers[{index}]", wrong))
    if errors:
        raise InvalidInput(errors)
    return validation.read(body, EndpointFields)


def _check_headers(headers: object) -> list[FieldError]:
    """Return what is wrong with custom headers: they may not replace relay's own, nor contain a line break."""
    if not isinstance(headers, dict):
        return []
    errors = []
    times = Counter(name.lower() for name in headers)
    for name, value in headers.items():
        if times[name.lower()] > 1:
            errors.append(FieldError(f"headers.{name[:60]}", "is there twice, since case does not count"))
        if name.lower() in RESERVED_HEADERS or name.lower().startswith(("webhook-", "relay-")):
            errors.append(FieldError(f"headers.{name[:60]}", "is one that relay sets itself"))
        elif isinstance(value, str) and not (value.isascii() and (name + value).isprintable()):
            errors.append(FieldError(f"headers.{name[:60]}", "must be printable ASCII"))
    return errors


def _changed(endpoint: Endpoint, fields: EndpointFields) -> Endpoint:
    """Return the endpoint with the given fields changed."""
    given = {name: getattr(fields, name) for name in fields.__struct_fields__ if name not in ("secret", "status")}
    kept = {name for name, value in given.items() if value is msgspec.UNSET or (value is None and name not in NULLABLE)}
    return msgspec.structs.replace(endpoint, **{name: value for name, value in given.items() if name not in kept})


async def _endpoint(request: ApiRequest) -> Endpoint:
    """Return the endpoint that the path names, of a request without parameters; raise NotFound if there is none."""
    request.query()
    return await _found(request)


async def _found(request: ApiRequest) -> Endpoint:
    """Return the endpoint that the path names; raise NotFound if the project has none with this id."""
    endpoint = await request.app.store.endpoints.get(request.path("id"), request.project_id)
    if endpoint is None:
        raise NotFound("there is no such endpoint")
    return endpoint


ROUTES: Final = (
    ApiRoute(
        method="POST",
        path="/v1/endpoints",
        handler=create,
        scope="admin",
        summary="Make an endpoint",
        fields=EndpointFields,
        required=("url",),
        example={"url": "https://app.example.com/hook", "event_types": ["job.*"]},
        answers={201: NewEndpointResource},
    ),
    ApiRoute(
        method="GET",
        path="/v1/endpoints",
        handler=index,
        scope="read",
        summary="List endpoints",
        query=paging(ids.ENDPOINT),
        answers={200: PageResource[EndpointResource]},
    ),
    ApiRoute(
        method="GET",
        path="/v1/endpoints/{id}",
        handler=show,
        scope="read",
        summary="Show an endpoint",
        answers={200: EndpointResource},
    ),
    ApiRoute(
        method="PATCH",
        path="/v1/endpoints/{id}",
        handler=change,
        scope="admin",
        summary="Change an endpoint",
        fields=EndpointFields,
        example={"rate_limit_per_s": 10, "status": "active"},
        answers={200: EndpointResource},
        problems=("seal_broken",),
    ),
    ApiRoute(
        method="DELETE",
        path="/v1/endpoints/{id}",
        handler=delete,
        scope="admin",
        summary="Delete an endpoint",
        answers={204: None},
    ),
    ApiRoute(
        method="GET",
        path="/v1/endpoints/{id}/secret",
        handler=show_secret,
        audited=True,
        scope="admin",
        summary="Show an endpoint's secret",
        answers={200: SecretResource},
        problems=("seal_broken",),
    ),
    ApiRoute(
        method="POST",
        path="/v1/endpoints/{id}/secret-rotations",
        handler=rotate,
        scope="admin",
        summary="Give an endpoint a new secret",
        fields=RotationRequest,
        example={"grace_s": 86400},
        answers={200: RotatedSecretResource},
        problems=("seal_broken",),
    ),
    ApiRoute(
        method="POST",
        path="/v1/endpoints/{id}/tests",
        handler=test,
        scope="admin",
        summary="Send an endpoint a `relay.test`",
        fields=NoFields,
        answers={202: DeliveryResource},
    ),
    ApiRoute(
        method="POST",
        path="/v1/endpoints/{id}/redeliveries",
        handler=redeliver,
        scope="admin",
        summary="Send an endpoint again what it did not receive",
        fields=RedeliveryRequest,
        example={"since": "-24h", "which": "undelivered"},
        answers={202: RedeliveryResource, 200: RedeliveryCountResource},
    ),
    ApiRoute(
        method="GET",
        path="/v1/endpoints/{id}/redeliveries",
        handler=redeliveries,
        scope="read",
        summary="List the batches of redeliveries to an endpoint",
        query=paging(ids.REDELIVERY),
        answers={200: PageResource[RedeliveryResource]},
    ),
    ApiRoute(
        method="GET",
        path="/v1/endpoints/{id}/redeliveries/{redelivery}",
        handler=show_redelivery,
        scope="read",
        summary="Show a batch of redeliveries and its progress",
        answers={200: RedeliveryResource},
    ),
    ApiRoute(
        method="POST",
        path="/v1/endpoints/{id}/redeliveries/{redelivery}/cancellations",
        handler=cancel_redelivery,
        scope="admin",
        summary="Stop a batch of redeliveries",
        fields=NoFields,
        answers={200: RedeliveryResource},
    ),
    ApiRoute(
        method="POST",
        path="/v1/endpoints/{id}/probes",
        handler=probe,
        scope="admin",
        summary="Try an endpoint now",
        fields=NoFields,
        answers={200: DeliveryWithAttemptsResource},
    ),
    ApiRoute(
        method="GET",
        path="/v1/endpoints/{id}/history",
        handler=history,
        scope="read",
        summary="Show what happened to an endpoint",
        query=paging(ids.ENDPOINT_NOTE),
        answers={200: PageResource[EndpointNoteResource]},
    ),
)
