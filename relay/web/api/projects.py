"""`/v1/projects`: list projects, and make one.

An admin key sees its own project, and one of the project `default`, an operator's, all of them.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from relay.clock import rfc3339
from relay.errors import Conflict, Forbidden, NotFound
from relay.model import ids
from relay.model.resources.access import ProjectResource
from relay.model.resources.envelopes import PageResource
from relay.storage.pages import Page
from relay.storage.projects import Project
from relay.web.api.api_request import ApiRequest, ApiRoute, Parameter
from relay.web.api.lists import cursor_and_limit, page, paging
from relay.web.problems import JSON

NAME_MAX: Final = 100
NAME_IN_WORDS: Final = f"1 to {NAME_MAX} characters without blanks at either end, and not begin with prj_"
PROJECT: Final = Parameter("project", "Of this project (id or name); another than the key's needs an operator's key.")


class ProjectFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/projects`; a name that looks like an id would be taken for one."""

    name: Annotated[
        str,
        Meta(min_length=1, max_length=NAME_MAX, pattern=r"^(?!prj_)\S(.*\S)?$", extra={"in_words": NAME_IN_WORDS}),
    ]


async def index(request: ApiRequest) -> Response:
    """`GET /v1/projects`: the key's own project; an operator's key sees all: `default`, then the newest first."""
    before, limit = cursor_and_limit(request.query(), ids.PROJECT)
    only = None if request.operator else request.project_id
    found = await request.app.store.projects.page(only, before, limit + 1)
    items = found[:limit]
    return page(Page(items, items[-1].id if len(found) > limit else None), project_resource)


async def create(request: ApiRequest) -> Response:
    """`POST /v1/projects`: 201 with a new project; it needs an operator's key."""
    fields = request.fields(ProjectFields)
    if not request.operator:
        raise Forbidden("a new project needs an admin key of the project default")
    project = Project(id=ids.new_id(ids.PROJECT), name=fields.name, created_at=request.app.clock.now_ms())
    answer = JSON(project_resource(project), 201)
    if not await request.app.store.projects.create(project, request.tie(lambda made: answer if made else None)):
        raise Conflict(f"there is a project with the name {fields.name}")
    return answer


async def wanted_project(request: ApiRequest, given: str | None) -> Project:
    """Return the project of a parameter, or the key's own; NotFound for one that the key may not see."""
    found = await request.app.store.projects.get(given or request.project_id)
    if found is None or not (request.operator or found.id == request.project_id):
        raise NotFound("there is no such project")
    return found


def project_resource(project: Project) -> ProjectResource:
    """Return a project as it is shown."""
    return ProjectResource(
        id=project.id, name=project.name, created_at=rfc3339(project.created_at), keys_live=project.keys_live
    )


ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/projects",
        handler=index,
        scope="admin",
        summary="List projects",
        query=paging(ids.PROJECT),
        answers={200: PageResource[ProjectResource]},
    ),
    ApiRoute(
        method="POST",
        path="/v1/projects",
        handler=create,
        scope="admin",
        summary="Make a project",
        fields=ProjectFields,
        example={"name": "films"},
        answers={201: ProjectResource},
    ),
)
