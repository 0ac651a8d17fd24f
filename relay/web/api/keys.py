"""`/v1/keys`, `/v1/whoami`: API keys, and which of them a request has.

An admin key manages the keys of its own project, and one of the project `default` those of all projects.
"""

import secrets
from collections.abc import Collection
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from relay import __version__
from relay.clock import rfc3339
from relay.errors import Conflict, NotFound
from relay.model import ids
from relay.model.resources.access import CallerKeyResource, KeyResource, NewKeyResource, Scope, WhoamiResource
from relay.model.resources.envelopes import PageResource
from relay.model.resources.times import time_or_none
from relay.storage.api_keys import SCOPES, digest
from relay.storage.pages import Page
from relay.storage.projects import KEYS_MAX, KeyFilter, NewKey, StoredKey
from relay.web.api.api_request import ApiRequest, ApiRoute, NoFields, Parameter
from relay.web.api.lists import cursor_and_limit, flag, page, paging
from relay.web.api.projects import NAME_MAX, PROJECT, project_resource, wanted_project
from relay.web.auth import ANY_SCOPE
from relay.web.problems import JSON


class KeyFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/keys`; `project` is an id or a name."""

    name: Annotated[str, Meta(max_length=NAME_MAX)] = ""
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1, max_length=len(SCOPES))] = ("submit", "read")
    project: Annotated[str, Meta(max_length=NAME_MAX)] | None = None


async def whoami(request: ApiRequest) -> Response:
    """`GET /v1/whoami`: the API key of the request, its project, and this relay."""
    request.query()
    caller, app = request.caller, request.app
    project = await app.store.projects.get(caller.project_id)
    if project is None:
        raise NotFound("the project of this key is gone")
    key = CallerKeyResource(
        id=caller.key_id,
        name=caller.name,
        scopes=_scopes(caller.scopes),
        created_at=time_or_none(caller.created_at),
    )
    return JSON(
        WhoamiResource(
            key=key,
            project=project_resource(project),
            operator=caller.operator,
            environment=app.settings.environment,
            version=__version__,
            docs="/docs",
        )
    )


async def index(request: ApiRequest) -> Response:
    """`GET /v1/keys`: the project's API keys, newest first, without their texts."""
    given = request.query()
    before, limit = cursor_and_limit(given, ids.API_KEY)
    live = flag(given, "live") if "live" in given else None
    project = await wanted_project(request, given.get("project"))
    found = await request.app.store.projects.keys(KeyFilter(project_id=project.id, live=live), before, limit + 1)
    items = found[:limit]
    return page(Page(items, items[-1].id if len(found) > limit else None), _key)


async def create(request: ApiRequest) -> Response:
    """`POST /v1/keys`: 201 with a new API key and its text, which is shown only here."""
    fields = request.fields(KeyFields)
    project = await wanted_project(request, fields.project)
    text = "rk_" + secrets.token_urlsafe(32)
    key = StoredKey(
        id=ids.new_id(ids.API_KEY),
        project_id=project.id,
        name=fields.name,
        scopes=" ".join(_scopes(fields.scopes)),
        created_at=request.app.clock.now_ms(),
    )
    shown = NewKeyResource(**msgspec.structs.asdict(_key(key)), key=text)
    answer = JSON(shown, 201, {"cache-control": "no-store"})
    new = NewKey(key, digest(text))
    if not await request.app.store.projects.create_key(new, request.tie(lambda made: answer if made else None)):
        raise Conflict(f"the project has {KEYS_MAX} live keys, as many as it may have: revoke one")
    request.app.rates.prove(new.digest, key.id)
    return answer


async def revoke(request: ApiRequest) -> Response:
    """`POST /v1/keys/{id}/revocations`: 200 with the key, which works no more; a key cannot revoke itself."""
    request.fields(NoFields)
    key = await request.app.store.projects.key(request.path("id"))
    if key is None or not (request.operator or key.project_id == request.project_id):
        raise NotFound("there is no such key")
    if key.id == request.key_id:
        raise Conflict("a key cannot revoke itself: make another one, and revoke this one with that")
    tie = request.tie(lambda revoked: revoked and JSON(_key(revoked)))
    revoked = await request.app.store.projects.revoke(key.id, request.app.clock.now_ms(), tie)
    return JSON(_key(revoked or key))


def _scopes(given: Collection[str]) -> list[Scope]:
    """Return scopes once each, in the order of SCOPES."""
    order: tuple[Scope, ...] = ("submit", "read", "admin")
    return [scope for scope in order if scope in given]


def _key(key: StoredKey) -> KeyResource:
    """Return a key as it is shown."""
    return KeyResource(
        id=key.id,
        project=key.project_id,
        name=key.name,
        scopes=_scopes(frozenset(key.scopes.split())),
        created_at=rfc3339(key.created_at),
        last_used_at=time_or_none(key.last_used_at),
        revoked_at=time_or_none(key.revoked_at),
    )


ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/whoami",
        handler=whoami,
        scope=ANY_SCOPE,
        summary="Show the API key, its project, and this relay",
        answers={200: WhoamiResource},
    ),
    ApiRoute(
        method="GET",
        path="/v1/keys",
        handler=index,
        scope="admin",
        summary="List API keys, without their texts",
        query=(
            *paging(ids.API_KEY),
            Parameter("live", "Only those that work, or only the revoked ones.", bool),
            PROJECT,
        ),
        answers={200: PageResource[KeyResource]},
        problems=("not_found",),
    ),
    ApiRoute(
        method="POST",
        path="/v1/keys",
        handler=create,
        scope="admin",
        summary="Make an API key",
        fields=KeyFields,
        example={"name": "reports", "scopes": ["read"]},
        answers={201: NewKeyResource},
        problems=("not_found",),
    ),
    ApiRoute(
        method="POST",
        path="/v1/keys/{id}/revocations",
        handler=revoke,
        scope="admin",
        summary="Revoke an API key",
        fields=NoFields,
        answers={200: KeyResource},
    ),
)
