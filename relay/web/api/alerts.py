"""`/v1/alerts`: list the conditions that an operator should know of."""

from functools import partial
from typing import Final

from starlette.responses import Response

from relay.model import ids
from relay.model.alert import AlertKind
from relay.model.resources import alerts as resources
from relay.model.resources.alerts import AlertResource
from relay.model.resources.envelopes import PageResource
from relay.storage.alerts import AlertFilter, AlertSelection
from relay.web.api.api_request import ApiRequest, ApiRoute, Parameter
from relay.web.api.lists import choice, listing, page, paging


async def index(request: ApiRequest) -> Response:
    """`GET /v1/alerts`: newest first; those that are open unless `state` says otherwise."""
    given = request.query()
    wanted_page = listing(request, given, ids.ALERT)
    wanted = AlertFilter(
        state=AlertSelection(choice(given, "state", AlertSelection) or AlertSelection.OPEN),
        kind=choice(given, "kind", AlertKind),
    )
    found = await request.app.store.alerts.page(request.project_id, wanted_page, wanted)
    return page(found, partial(resources.alert, public_url=request.app.settings.public_url))


ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/alerts",
        handler=index,
        scope="read",
        summary="List alerts",
        query=(
            *paging(ids.ALERT),
            Parameter("state", "Only those that are `open` (if not given) or `ended`, or `all`.", AlertSelection),
            Parameter("kind", "Only those of this kind.", AlertKind),
        ),
        answers={200: PageResource[AlertResource]},
    ),
)
