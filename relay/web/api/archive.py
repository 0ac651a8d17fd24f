"""`/v1/archive` and `/v1/jobs/{id}/outputs/{n}`: the copies of results, which of them are made, and the way to one."""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from relay.app import App
from relay.archive.archive import Archive
from relay.archive.folder import Folder
from relay.clock import parse_rfc3339, rfc3339
from relay.errors import Conflict, NotFound
from relay.lifecycle import archiving
from relay.model.archive import ArchiveMode, CopyState
from relay.model.job import Job, JobState, Output
from relay.model.resources.archive import (
    ArchiveResource,
    BackfillResource,
    CopyCountResource,
    CopyCountsResource,
    CopyResource,
)
from relay.model.resources.envelopes import PageResource
from relay.model.resources.times import time_or_none
from relay.outbound.object_store import BucketFailed
from relay.storage.copies import CopyCount, ShownCopy, StoredCopy
from relay.storage.jobs import JobFilter
from relay.storage.pages import Listing
from relay.web.api.api_request import ApiRequest, ApiRoute, NoFields
from relay.web.api.jobs import job_of
from relay.web.api.lists import CURSOR_IN_WORDS, span
from relay.web.api.media import MediaResponse
from relay.web.problems import JSON

PART: Final = 100
"""So many jobs one request for a backfill examines."""
OCTETS: Final = "application/octet-stream"


class ModeFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `PATCH /v1/archive`."""

    mode: Annotated[ArchiveMode | None, Meta(description="null: that of the setting RELAY_ARCHIVE.")]


class BackfillFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/archive/backfills`: which jobs, and where to go on."""

    created_after: str | None = None
    created_before: str | None = None
    provider: Annotated[str, Meta(max_length=64)] | None = None
    failed: bool = False
    dry_run: bool = False
    cursor: Annotated[str, Meta(pattern="^job_[!-~]{1,59}$", extra={"in_words": CURSOR_IN_WORDS})] | None = None


async def output(request: ApiRequest) -> Response:
    """`GET /v1/jobs/{id}/outputs/{n}`: 302 to a fresh link to the copy; 200 with it, where the archive is a folder.

    Without a copy, 302 to the provider's URL as long as that is known to work.
    """
    request.query()
    app, job, number = request.app, await job_of(request), request.path("n")
    index = int(number) if re.fullmatch(r"[0-9]{1,4}", number) else len(job.outputs)
    if index >= len(job.outputs):
        raise NotFound(f"there is no such output: the job has {len(job.outputs)}, counted from 0")
    one = job.outputs[index]
    if one.archive is not None and one.archive.state is CopyState.ARCHIVED and app.archive is not None:
        copy = await app.store.copies.of_output(job.project_id, job.id, index)
        if copy is not None and copy.key is not None:
            return await _copy(request, copy, copy.key)
    return _redirect(_provider_url(one, app.clock.now_ms()))


async def _copy(request: ApiRequest, copy: StoredCopy, key: str) -> Response:
    """Return the way to a copy, or the copy itself."""
    assert request.app.archive is not None
    try:
        bucket = request.app.archive.buckets.of(copy.bucket)
        link = await bucket.link(key, request.app.settings.archive_link_s)
        if link is not None:
            return _redirect(link)
        if isinstance(bucket, Folder) and (stat := await bucket.stat(key)) is not None:
            return MediaResponse(bucket.path(key), stat, copy.content_type or OCTETS, request.http.headers)
    except BucketFailed as error:
        raise Conflict(f"the archive cannot show it now: {error}") from None
    raise NotFound("the copy is not in the archive any more: its file was deleted")


def _provider_url(one: Output, now_ms: int) -> str:
    """Return the provider's URL; raise NotFound where that does not work, as far as is known."""
    if one.needs_key is True:
        raise NotFound("there is no copy of it yet, and its provider shows it to relay alone")
    if one.expires_at is not None and parse_rfc3339(one.expires_at) <= now_ms:
        raise NotFound("it has expired at its provider, and there is no copy of it")
    return one.url


def _redirect(url: str) -> Response:
    """Return a redirect that nothing keeps: the next request gets another link."""
    return Response(status_code=302, headers={"location": url, "cache-control": "no-store"})


async def show(request: ApiRequest) -> Response:
    """`GET /v1/archive`: the project's mode, and how many copies it has."""
    request.query()
    return JSON(await _archive(request))


async def update(request: ApiRequest) -> Response:
    """`PATCH /v1/archive`: give the project a mode of its own, or none."""
    fields = request.fields(ModeFields)
    await archive_of(request.app).modes.set(request.project_id, fields.mode)
    return JSON(await _archive(request))


async def _archive(request: ApiRequest) -> ArchiveResource:
    """Return the archive of the project of a request."""
    archive, project_id = request.app.archive, request.project_id
    counts = await request.app.store.copies.counts(project_id)
    return ArchiveResource(
        project=project_id,
        configured=archive is not None,
        bucket=archive.buckets.own.shown if archive is not None and request.caller.admin else None,
        mode=ArchiveMode.OFF if archive is None else await archive.modes.of(project_id),
        own_mode=None if archive is None else await archive.modes.own(project_id),
        copies=CopyCountsResource(**{state.value: _count(counts.get(state, CopyCount())) for state in CopyState}),
    )


def _count(count: CopyCount) -> CopyCountResource:
    """Return a number of copies as it is shown."""
    return CopyCountResource(number=count.number, bytes=count.bytes)


async def copies(request: ApiRequest) -> Response:
    """`GET /v1/jobs/{id}/copies`: the copies of the job's results, with their tries."""
    request.query()
    return JSON(await _copies(request, await job_of(request)))


async def copy(request: ApiRequest) -> Response:
    """`POST /v1/jobs/{id}/copies`: copy results that have no copy or whose copy failed, and try pending ones now.

    202 with the job's copies; 409 if there is none of them.
    """
    request.fields(NoFields)
    job = await job_of(request)
    await archive_of(request.app).archiver.again(job.id)
    return JSON(await _copies(request, job), 202)


def archive_of(app: App) -> Archive:
    """Return the archive; raise Conflict without one."""
    if app.archive is None:
        raise Conflict("this relay has no archive: RELAY_ARCHIVE_URL is not set")
    return app.archive


async def _copies(request: ApiRequest, job: Job) -> PageResource[CopyResource]:
    """Return the copies of a job's results as they are shown."""
    found = await request.app.store.copies.of_job(job.project_id, job.id)
    return PageResource(data=[_shown(job, one) for one in found], next_cursor=None)


def _shown(job: Job, found: ShownCopy) -> CopyResource:
    """Return a copy as it is shown; its `url` is that of the job's output."""
    outputs = job.outputs[found.number : found.number + 1]
    archived = found.state is CopyState.ARCHIVED
    return CopyResource(
        number=found.number,
        kind=found.kind,
        state=found.state,
        url=next((one.archive.url for one in outputs if archived and one.archive is not None), None),
        key=found.key if archived else None,
        content_type=found.content_type,
        bytes=found.bytes,
        sha256=found.sha256,
        tries=found.attempts_made,
        error=found.error_code,
        error_detail=found.error,
        copying=found.leased_by is not None,
        next_try_at=time_or_none(found.due_at if found.leased_by is None else None),
        expires_at=time_or_none(found.expires_at),
        created_at=rfc3339(found.created_at),
        finished_at=time_or_none(found.finished_at),
    )


async def backfill(request: ApiRequest) -> Response:
    """`POST /v1/archive/backfills`: order copies of results without one, of a part of the jobs, the newest first."""
    app, fields = request.app, request.fields(BackfillFields)
    archive, now_ms = archive_of(app), app.clock.now_ms()
    times = {"created_after": fields.created_after, "created_before": fields.created_before}
    made = span({name: time for name, time in times.items() if time is not None}, now_ms)
    wanted = JobFilter(status=JobState.SUCCEEDED, provider=fields.provider, made=made)
    listing = Listing(limit=PART, before=fields.cursor, bytes_max=app.settings.page_max_bytes)
    page = await app.store.jobs.page(request.project_id, listing, wanted)
    ordered = 0
    for job in page.items:
        ordering = archiving.order_missing(job, now_ms, failed=fields.failed)
        ordered += sum(new is not old for new, old in zip(ordering.job.outputs, job.outputs, strict=True))
        if not fields.dry_run and ordering.job is not job:
            await archive.archiver.order(job.id, failed=fields.failed)
    return JSON(BackfillResource(examined=len(page.items), ordered=ordered, next_cursor=page.next_cursor))


ROUTES: Final = (
    ApiRoute(
        method="GET",
        path="/v1/jobs/{id}/outputs/{n}",
        handler=output,
        scope="read",
        summary="Get a result from the archive",
        answers={302: None, 200: MediaResponse, 206: MediaResponse},
        problems=("conflict", "range_not_satisfiable"),
    ),
    ApiRoute(
        method="GET",
        path="/v1/jobs/{id}/copies",
        handler=copies,
        scope="read",
        summary="Show the copies of a job's results",
        answers={200: PageResource[CopyResource]},
    ),
    ApiRoute(
        method="POST",
        path="/v1/jobs/{id}/copies",
        handler=copy,
        scope="submit",
        summary="Copy a job's results again",
        fields=NoFields,
        answers={202: PageResource[CopyResource]},
        problems=("conflict",),
    ),
    ApiRoute(
        method="GET",
        path="/v1/archive",
        handler=show,
        scope="read",
        summary="Show which results are copied, and how many are",
        answers={200: ArchiveResource},
    ),
    ApiRoute(
        method="PATCH",
        path="/v1/archive",
        handler=update,
        scope="admin",
        summary="Choose which results of the project are copied",
        fields=ModeFields,
        example={"mode": "before_notify"},
        answers={200: ArchiveResource},
        problems=("conflict",),
    ),
    ApiRoute(
        method="POST",
        path="/v1/archive/backfills",
        handler=backfill,
        scope="admin",
        summary="Copy results that have no copy",
        fields=BackfillFields,
        example={"created_after": "-24h"},
        answers={200: BackfillResource},
        problems=("conflict",),
    ),
)
