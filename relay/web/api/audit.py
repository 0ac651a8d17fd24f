"""`/v1/audit`: who did what. `audited.py` writes the entries."""

from typing import Final

from starlette.responses import Response

from relay.clock import rfc3339
from relay.model import ids
from relay.model.resources.access import AuditEntryResource
from relay.model.resources.envelopes import PageResource
from relay.storage.audit import AuditEntry, AuditFilter, Via
from relay.web.api.api_request import ApiRequest, ApiRoute, Parameter
from relay.web.api.lists import TIME, choice, listing, page, paging, time_param
from relay.web.api.projects import PROJECT, wanted_project

_TIMES: Final = ("created_after", "created_before")


async def index(request: ApiRequest) -> Response:
    """`GET /v1/audit`: what changed something, or was refused, newest first."""
    given = request.query()
    now_ms = request.app.clock.now_ms()
    times = {name: time_param(name, given[name], now_ms) for name in _TIMES if name in given}
    wanted = AuditFilter(
        key_id=given.get("key"),
        verb=given.get("verb"),
        target=given.get("target"),
        via=choice(given, "via", Via),
        **times,
    )
    project = await wanted_project(request, given.get("project"))
    return page(await request.app.store.audit.page(project.id, listing(request, given, ids.AUDIT), wanted), _entry)


def _entry(entry: AuditEntry) -> AuditEntryResource:
    """Return an entry as it is shown."""
    return AuditEntryResource(
        id=entry.id,
        at=rfc3339(entry.at),
        project=entry.project_id,
        key=entry.key_id,
        key_name=entry.key_name,
        via=entry.via.value,
        address=entry.address,
        request_id=entry.request_id,
        verb=entry.verb,
        target=entry.target,
        detail=entry.detail,
        status=entry.status,
        code=entry.code,
    )


ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/audit",
        handler=index,
        scope="admin",
        summary="List what changed something",
        query=(
            *paging(ids.AUDIT),
            Parameter("key", "Only by the API key with this id."),
            Parameter("verb", "Only this verb, such as `jobs.cancel`."),
            Parameter("target", "Only on the object with this id."),
            Parameter("via", "Only by this program.", Via),
            Parameter("created_after", "Only from this time on.", TIME),
            Parameter("created_before", "Only before this time.", TIME),
            PROJECT,
        ),
        answers={200: PageResource[AuditEntryResource]},
        problems=("not_found",),
    ),
)
