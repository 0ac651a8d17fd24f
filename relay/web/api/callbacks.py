"""`/v1/callbacks`: list stored callbacks, show one, and reprocess a quarantined or orphaned one.

Providers' requests themselves arrive in `web/callback_route.py`.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

import msgspec
from starlette.responses import Response

from relay.clock import rfc3339
from relay.errors import Conflict, NotFound
from relay.model import ids
from relay.model.job import Callback, CallbackHead, Disposition, Reprocessing
from relay.model.resources import callbacks as resources
from relay.model.resources.callbacks import CallbackHeadResource, CallbackResource
from relay.model.resources.envelopes import PageResource
from relay.storage.apply_updates import OTHER_ENVIRONMENT, UpdateResult
from relay.storage.history import CallbackFilter
from relay.web.api.api_request import ApiRequest, ApiRoute, NoFields, Parameter
from relay.web.api.lists import choice, id_param, listing, page, paging, span, span_parameters
from relay.web.problems import JSON

Head = TypeVar("Head", bound=CallbackHead)


async def index(request: ApiRequest) -> Response:
    """`GET /v1/callbacks`: newest first, without their bodies."""
    given = request.query()
    wanted_page = listing(request, given, ids.CALLBACK)
    wanted = CallbackFilter(
        job_id=id_param(given, "job", ids.JOB),
        disposition=choice(given, "verdict", Disposition),
        received=span(given, request.app.clock.now_ms()),
    )
    found = await request.app.store.callbacks.page(request.project_id, wanted_page, wanted)
    return page(found, lambda callback: resources.head(_redacted(request, callback)))


async def show(request: ApiRequest) -> Response:
    """`GET /v1/callbacks/{id}`."""
    request.query()
    callback = await _callback(request)
    return _response(request, callback, await request.app.store.callbacks.reprocessings(callback))


async def reprocess(request: ApiRequest) -> Response:
    """`POST /v1/callbacks/{id}/releases`: apply a quarantined or orphaned callback again; 200 with the callback.

    The job of an orphaned one is made anew if it is not there. The verdict stays; `reprocessings` shows the results. It
    can be repeated while all of them are `unreadable`.
    """
    request.fields(NoFields)
    callback = await _callback(request)
    if callback.disposition not in (Disposition.QUARANTINED, Disposition.ORPHANED):
        raise Conflict(f"the callback is {callback.disposition}: only a quarantined or orphaned one can be released")
    before = await request.app.store.callbacks.reprocessings(callback)
    done = [one for one in before if one.disposition is not Disposition.UNREADABLE]
    if done:
        raise Conflict(f"the callback was released before, at {rfc3339(done[-1].at)} by {done[-1].key_id}")

    if callback.disposition is Disposition.ORPHANED:
        await _require_lost(request, callback)
        await request.app.receiver.adopt(callback)

    def respond(result: UpdateResult) -> Response:
        return _response(request, callback, [*before, *([result.reprocessing] if result.reprocessing else [])])

    return respond(await request.app.receiver.reprocess(callback, request.key_id, request.tie(respond)))


async def _require_lost(request: ApiRequest, callback: Callback) -> None:
    """Raise Conflict if the job of an orphaned callback is not lost: it was pruned, or is another environment's."""
    if callback.reason == OTHER_ENVIRONMENT:
        raise Conflict(f"{OTHER_ENVIRONMENT}: its job is there, not here")
    assert callback.job_id is not None
    tombstone = await request.app.store.jobs.tombstone(callback.job_id, callback.project_id)
    if tombstone is not None:
        raise Conflict(tombstone.reason_at_end)


async def _callback(request: ApiRequest) -> Callback:
    """Return the callback that the path names; raise NotFound if the project has none with this id."""
    found = await request.app.store.callbacks.get(request.path("id"), request.project_id)
    if found is None:
        raise NotFound("there is no such callback")
    return found


def _response(request: ApiRequest, callback: Callback, reprocessings: Sequence[Reprocessing]) -> Response:
    """Return a callback as received, without relay's own secrets, which some providers echo."""
    redacted = msgspec.structs.replace(_redacted(request, callback), body=request.app.redactor.raw(callback.body))
    return JSON(resources.callback(redacted, reprocessings))


def _redacted(request: ApiRequest, head: Head) -> Head:
    """Return a callback without relay's own secrets in its headers; the stored one keeps them."""
    headers = [(name, request.app.redactor.text(value)) for name, value in head.headers]
    return msgspec.structs.replace(head, headers=headers)


ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/callbacks",
        handler=index,
        scope="read",
        summary="List callbacks, without their bodies",
        query=(
            *paging(ids.CALLBACK),
            Parameter("job", "Only those about this job."),
            Parameter("verdict", "Only those with this verdict.", Disposition),
            *span_parameters("received"),
        ),
        answers={200: PageResource[CallbackHeadResource]},
    ),
    ApiRoute(
        method="GET",
        path="/v1/callbacks/{id}",
        handler=show,
        scope="read",
        summary="Show a callback as received",
        answers={200: CallbackResource},
    ),
    ApiRoute(
        method="POST",
        path="/v1/callbacks/{id}/releases",
        handler=reprocess,
        scope="admin",
        summary="Apply a quarantined or orphaned callback",
        fields=NoFields,
        answers={200: CallbackResource},
    ),
)
