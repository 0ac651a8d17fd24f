"""`/v1/endpoints`: subscribers' URLs."""

from collections import Counter
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from starlette.responses import Response

from relay import ids, validation
from relay.clock import rfc3339
from relay.errors import ERRORS_MAX, Bound, Conflict, FieldError, InvalidInput, NotFound
from relay.jobs.job_requests import Metadata, Patterns, check_endpoint, check_metadata
from relay.model import serializers
from relay.model.delivery import Endpoint, EventSelection, Redelivery
from relay.security import signatures
from relay.security.encryption import DecryptionFailed
from relay.storage.endpoints import DISABLED_BY_HAND, Change
from relay.storage.redeliveries import UNDELIVERED
from relay.web.api.api_request import Nothing, ProviderRequest, page, page_of, time_of
from relay.web.api.history import accepted
from relay.web.problems import JSON

Headers = Annotated[
    dict[
        Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")],
        Annotated[str, msgspec.Meta(max_length=1024)],
    ],
    msgspec.Meta(max_length=20),
]
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
NULLABLE = frozenset({"description", "providers", "rate_limit_per_s", "schedule_s"})


class Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a subscriber says of an endpoint; a field that is not given, or null where it cannot be, keeps its value."""

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
    secret: Annotated[str, msgspec.Meta(max_length=200)] | msgspec.UnsetType | None = msgspec.UNSET
    status: Literal["active", "disabled"] | msgspec.UnsetType = msgspec.UNSET


async def create(call: ProviderRequest) -> Response:
    """`POST /v1/endpoints`: 201 with the secret, this once."""
    fields = _fields(call)
    if fields.url is msgspec.UNSET:
        raise InvalidInput([FieldError("url", "is required")])
    now_ms = call.app.clock.now_ms()
    endpoint = Endpoint(
        id=ids.new_id(ids.ENDPOINT),
        project_id=call.project_id,
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
    shown = serializers.endpoint(endpoint) | {"secret": endpoint.secret}
    answer = JSON(shown, 201, {"location": f"/v1/endpoints/{endpoint.id}", "cache-control": "no-store"})
    most = call.app.settings.endpoints_per_project_max
    if not await call.app.store.endpoints.create(endpoint, most, call.tie(lambda stored: answer if stored else None)):
        raise Conflict(
            f"this project has {most} endpoints, as many as RELAY_ENDPOINTS_PER_PROJECT_MAX allows: delete one",
            bound=Bound.ENDPOINTS_PER_PROJECT_MAX,
        )
    return answer


async def show(call: ProviderRequest) -> Response:
    """`GET /v1/endpoints/{id}`."""
    return JSON(serializers.endpoint(await _endpoint(call)))


async def show_secret(call: ProviderRequest) -> Response:
    """`GET /v1/endpoints/{id}/secret`."""
    endpoint = await _endpoint(call)
    if not endpoint.secret:
        raise DecryptionFailed(
            "the endpoint's secret opens with none of RELAY_SECRET_KEYS: rotate it to have a new one"
        )
    return JSON({"secret": endpoint.secret}, headers={"cache-control": "no-store"})


async def index(call: ProviderRequest) -> Response:
    """`GET /v1/endpoints`: newest first."""
    before, limit = page_of(call.query("limit", "cursor"), ids.ENDPOINT)
    return page(await call.app.store.endpoints.page(call.project_id, before, limit + 1), limit, serializers.endpoint)


async def change(call: ProviderRequest) -> Response:
    """`PATCH /v1/endpoints/{id}`: what is given changes, from the next attempt on; `status` enables and disables.

    An endpoint that is enabled again is sent what it missed.
    """
    fields = _fields(call)
    if fields.secret is not msgspec.UNSET:
        raise InvalidInput([FieldError("secret", "is changed by a rotation, not by PATCH")])
    call.query()
    active = None if fields.status is msgspec.UNSET else fields.status == "active"
    change = Change(
        endpoint_id=call.path("id"),
        project_id=call.project_id,
        at=call.app.clock.now_ms(),
        apply=partial(_changed, fields=fields),
        active=active,
    )
    tie = call.tie(lambda endpoint: JSON(serializers.endpoint(endpoint)) if endpoint else None)
    endpoint = await call.app.store.endpoints.change(change, tie)
    if endpoint is None:
        raise NotFound("there is no such endpoint")
    if active is not None:
        call.app.redeliverer.reopen(endpoint.id)
    return JSON(serializers.endpoint(endpoint))


class Rotation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a rotation: how long the former secret signs too, a day if not given; and the new one."""

    grace_s: Annotated[int, msgspec.Meta(ge=0, le=604_800)] = 86_400
    secret: Annotated[str, msgspec.Meta(max_length=200)] | None = None


class RedeliveryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a batch: which events between two times; `dry_run` only counts them.

    Without `since`, which only `undelivered` does not need, everything since the endpoint was made.
    """

    since: str | None = None
    until: str | None = None
    which: Literal["failed", "missing", "undelivered", "all"] = "failed"
    dry_run: bool = False


async def rotate(call: ProviderRequest) -> Response:
    """`POST /v1/endpoints/{id}/secret-rotations`: 200 with the new secret; both sign until the grace is over."""
    asked = call.fields(Rotation)
    if asked.secret is not None:
        try:
            signatures.check_secret(asked.secret)
        except ValueError as error:
            raise InvalidInput([FieldError("secret", str(error))]) from None
    endpoint, now_ms = await _endpoint(call), call.app.clock.now_ms()
    secret, until = asked.secret or signatures.new_secret(), now_ms + asked.grace_s * 1000
    shown = {"secret": secret, "former_secret_until": rfc3339(until)}
    answer = JSON(shown, 200, {"cache-control": "no-store"})
    await call.app.store.endpoints.rotate(endpoint, secret, until, now_ms, call.tie(lambda _: answer))
    return answer


async def test(call: ProviderRequest) -> Response:
    """`POST /v1/endpoints/{id}/tests`: 202 with the delivery of a `relay.test`, for this endpoint alone."""
    call.fields(Nothing)
    endpoint = await _endpoint(call)
    return accepted(await call.app.redeliverer.test(endpoint, lambda made: call.tie(lambda _: accepted(made))))


async def redeliver(call: ProviderRequest) -> Response:
    """`POST /v1/endpoints/{id}/redeliveries`: 202 with the batch, which goes on by itself; or only its count."""
    asked = call.fields(RedeliveryRequest)
    endpoint, now_ms = await _endpoint(call), call.app.clock.now_ms()
    if asked.since is None and asked.which != UNDELIVERED:
        raise InvalidInput([FieldError("since", f"is required, except with which: {UNDELIVERED}")])
    since_ms = endpoint.created_at if asked.since is None else time_of("since", asked.since, now_ms)
    until_ms = now_ms + 1 if asked.until is None else time_of("until", asked.until, now_ms)
    if until_ms <= since_ms:
        raise InvalidInput([FieldError("until", "must be after since")])
    to_now = int(asked.until is None)
    selection = EventSelection(which=asked.which, since_at=since_ms, until_at=until_ms, to_now=to_now)
    if asked.dry_run:
        count = await call.app.store.redeliveries.count(endpoint, selection)
        return JSON({"object": "redelivery", "endpoint": endpoint.id, "count": count, "dry_run": True}, 200)
    batch = await call.app.redeliverer.start(endpoint, selection, lambda batch: call.tie(lambda _: _started(batch)))
    return _started(batch)


async def delete(call: ProviderRequest) -> Response:
    """`DELETE /v1/endpoints/{id}`: 204; what waited for it is canceled."""
    tie = call.tie(lambda deleted: Response(status_code=204) if deleted else None)
    if not await call.app.store.endpoints.delete(call.path("id"), call.project_id, call.app.clock.now_ms(), tie):
        raise NotFound("there is no such endpoint")
    return Response(status_code=204)


def _started(batch: Redelivery) -> Response:
    """Return the answer that shows a batch which was just started."""
    return JSON(serializers.redelivery(batch) | {"dry_run": False}, 202)


def _fields(call: ProviderRequest) -> Fields:
    """The body, with every wrong field named."""
    body = call.body()
    errors = validation.check(body, Fields)
    given: dict[str, Any] = body if isinstance(body, dict) else {}
    errors += (
        check_endpoint(given, call.app.policy)
        + check_metadata(given.get("metadata"))
        + _check_headers(given.get("headers"))
    )
    providers = given.get("providers")
    for index, name in enumerate(providers[:ERRORS_MAX] if isinstance(providers, list) else ()):
        if isinstance(name, str) and name not in call.app.providers:
            errors.append(FieldError(f"providers[{index}]", f"must be one of {', '.join(sorted(call.app.providers))}"))
    if errors:
        raise InvalidInput(errors)
    return validation.read(body, Fields)


def _check_headers(headers: object) -> list[FieldError]:
    """Custom headers may not replace relay's own, nor carry a line break."""
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


def _changed(endpoint: Endpoint, fields: Fields) -> Endpoint:
    """The endpoint with what was given."""
    given = {name: getattr(fields, name) for name in fields.__struct_fields__ if name not in ("secret", "status")}
    kept = {name for name, value in given.items() if value is msgspec.UNSET or (value is None and name not in NULLABLE)}
    return msgspec.structs.replace(endpoint, **{name: value for name, value in given.items() if name not in kept})


async def _endpoint(call: ProviderRequest) -> Endpoint:
    """The endpoint of the path, if it is the caller's."""
    call.query()
    endpoint = await call.app.store.endpoints.get(call.path("id"), call.project_id)
    if endpoint is None:
        raise NotFound("there is no such endpoint")
    return endpoint
