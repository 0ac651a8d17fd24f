"""`GET /v1/search`: what a text may mean: an id or its beginning, a provider's id, metadata, an endpoint's URL."""

from typing import Annotated, Final

import msgspec
from starlette.responses import Response

from relay.clock import rfc3339
from relay.errors import FieldError, InvalidInput
from relay.model.resources.search import HitResource, HitsResource
from relay.storage.search import Hit
from relay.validation import shown
from relay.web.api.api_request import ApiRequest, ApiRoute, Parameter
from relay.web.problems import JSON

TEXT_MAX: Final = 500
LIMIT_MAX: Final = 50
LIMIT_DEFAULT: Final = 10


async def search(request: ApiRequest) -> Response:
    """`GET /v1/search`: at most `limit` of each kind."""
    given = request.query()
    text, limit = given.get("q", "").strip(), given.get("limit", str(LIMIT_DEFAULT))
    errors = []
    if not 1 <= len(text) <= TEXT_MAX:
        errors.append(FieldError("q", f"is required, with 1 to {TEXT_MAX} characters"))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 3 and 1 <= int(limit) <= LIMIT_MAX):
        errors.append(FieldError("limit", f"must be an integer from 1 to {LIMIT_MAX}, not {shown(limit)}"))
    if errors:
        raise InvalidInput(errors)
    found = await request.app.store.search.find(request.project_id, text, int(limit))
    return JSON(HitsResource(data=[_resource(hit) for hit in found]))


def _resource(hit: Hit) -> HitResource:
    """Return a hit as it is shown."""
    return HitResource(
        kind=hit.kind,
        id=hit.id,
        job_id=hit.job_id,
        title=hit.title,
        matched=hit.matched,
        created_at=rfc3339(hit.created_at),
    )


ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/search",
        handler=search,
        scope="read",
        summary="Find what a text may mean",
        query=(
            Parameter(
                "q",
                "An id or its beginning, a provider's id of a job, `key=value` or a value of metadata, or a part of an"
                " endpoint's URL or description.",
                Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_MAX)],
                "task-unified-1795744985-k3vd9q4r",
                required=True,
            ),
            Parameter(
                "limit",
                f"How many of each kind; {LIMIT_DEFAULT} if not given.",
                Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)],
                "10",
            ),
        ),
        answers={200: HitsResource},
    ),
)
