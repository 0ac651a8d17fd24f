"""`POST /v1/bulk-actions`: do to all jobs that match a filter what a client may do to one: count them first, then act.

A dry run counts, and says as of when. Acting names that time, so that no job made since is touched; a job that matches
no longer is left alone. One call acts on a bounded number of jobs, and says where the next one goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from starlette.responses import Response

from relay import log
from relay.clock import rfc3339
from relay.errors import FieldError, Forbidden, InvalidInput, RelayError
from relay.model import ids
from relay.model.job import Job
from relay.model.resources.bulk_actions import BulkResultResource, DoneResource, RefusedResource
from relay.storage.jobs import JobFilter
from relay.storage.pages import Listing
from relay.web.api.api_request import ApiRequest, ApiRoute
from relay.web.api.archive import archive_of
from relay.web.api.jobs import job_filter
from relay.web.api.lists import CURSOR_IN_WORDS, LIMIT_MAX, time_param
from relay.web.problems import JSON, KINDS

COUNTED_MAX: Final = 1_000
"""A dry run counts so many jobs."""
PAGES_MAX: Final = 20
"""A dry run reads so many pages, and so does a call that finds little to act on."""
CONCURRENT: Final = 8
WITHIN_MS: Final = 15_000
"""After so long a call begins with no further jobs, and the next one goes on."""
LIMIT_DEFAULT: Final = 100
_logger = log.get("web")


class BulkFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which jobs: the parameters of `GET /v1/jobs`, with their meaning."""

    status: str | None = None
    provider: str | None = None
    reason: str | None = None
    provider_job_id: str | None = None
    created_after: str | None = None
    created_before: str | None = None
    older_than: str | None = None
    undelivered: bool | None = None
    expiring_undelivered: bool | None = None
    copies: str | None = None
    metadata: Annotated[dict[str, str], msgspec.Meta(max_length=50)] = {}

    def parameters(self) -> dict[str, str]:
        """Return them as the query of a list has them."""
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if name != "metadata"}
        named = {name: str(value).lower() if isinstance(value, bool) else value for name, value in given.items()}
        pairs = {f"metadata[{key}]": value for key, value in self.metadata.items()}
        return {name: value for name, value in named.items() if value is not None} | pairs


class BulkAction(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a bulk action. To act, send the `as_of` of a dry run; `cursor` goes on after an earlier call."""

    action: Literal["cancel", "check", "resubmit", "fail", "redeliver", "copy"]
    filter: BulkFilter = BulkFilter()
    dry_run: bool = False
    as_of: str | None = None
    cursor: (
        Annotated[str, msgspec.Meta(pattern=f"^{ids.JOB}[!-~]{{1,59}}$", extra={"in_words": CURSOR_IN_WORDS})] | None
    ) = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT
    accept_double_charge: bool = False
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)] | None = None


Act = Callable[[Job], Awaitable[Any]]


async def act_on_all(request: ApiRequest) -> Response:
    """`POST /v1/bulk-actions`: with `dry_run` how many jobs match, else what was done to those made until `as_of`.

    `redeliver` needs the scope `admin`.
    """
    asked = request.fields(BulkAction)
    if asked.action == "redeliver" and not request.caller.admin:
        raise Forbidden("this key lacks the scope admin")
    now_ms = request.app.clock.now_ms()
    as_of_ms = now_ms if asked.as_of is None else min(now_ms, time_param("as_of", asked.as_of, now_ms))
    wanted = _filter(request, asked, as_of_ms)
    if asked.dry_run:
        matched, more = await _count(request, wanted)
        return _answer(asked, as_of_ms, matched=matched, matched_more=more)
    errors = []
    if asked.as_of is None:
        errors.append(FieldError("as_of", "is required to act: send the as_of that a dry run answered"))
    if asked.action == "fail" and asked.reason is None:
        errors.append(FieldError("reason", "is required to fail jobs"))
    if errors:
        raise InvalidInput(errors)
    jobs, cursor = await _next_jobs(request, asked, wanted)
    done, refused = await _act(request, asked, jobs)
    ended = len(done) + len(refused)
    if ended < len(jobs):
        cursor = jobs[ended - 1].id
    return _answer(asked, as_of_ms, done=done, refused=refused, next_cursor=cursor)


def _filter(request: ApiRequest, asked: BulkAction, as_of_ms: int) -> JobFilter:
    """Return the jobs that are asked for, none of them made after `as_of_ms`; ages count back from that time."""
    try:
        wanted = job_filter(asked.filter.parameters(), request.app.providers, as_of_ms)
    except InvalidInput as error:
        raise InvalidInput([FieldError(f"filter.{one.path}", one.message) for one in error.errors]) from None
    made = wanted.made
    before = as_of_ms + 1 if made.before is None else min(made.before, as_of_ms + 1)
    return msgspec.structs.replace(wanted, made=msgspec.structs.replace(made, before=before))


async def _count(request: ApiRequest, wanted: JobFilter) -> tuple[int, bool]:
    """Return how many jobs match, and whether there may be more than were counted."""
    matched, before = 0, None
    for _ in range(PAGES_MAX):
        page = await request.app.store.jobs.page(request.project_id, Listing(before=before, limit=LIMIT_MAX), wanted)
        matched, before = matched + len(page.items), page.next_cursor
        if matched >= COUNTED_MAX or before is None:
            return min(matched, COUNTED_MAX), before is not None or matched > COUNTED_MAX
    return matched, True


async def _next_jobs(request: ApiRequest, asked: BulkAction, wanted: JobFilter) -> tuple[Sequence[Job], str | None]:
    """Return the next jobs to act on, and where the call after this one goes on; None after the last job."""
    cursor = asked.cursor
    for _ in range(PAGES_MAX):
        listing = Listing(before=cursor, limit=asked.limit, bytes_max=request.app.settings.page_max_bytes)
        page = await request.app.store.jobs.page(request.project_id, listing, wanted)
        cursor = page.next_cursor
        if page.items or cursor is None:
            return page.items, cursor
    return [], cursor


async def _act(
    request: ApiRequest, asked: BulkAction, jobs: Sequence[Job]
) -> tuple[list[DoneResource], list[RefusedResource]]:
    """Act on the jobs in their order, some concurrently, as far as the time allows; each is done or refused."""
    act, clock = _verb(request, asked), request.app.clock
    until_ms = clock.monotonic_ms() + WITHIN_MS
    done: list[DoneResource] = []
    refused: list[RefusedResource] = []
    for start in range(0, len(jobs), CONCURRENT):
        if start and clock.monotonic_ms() >= until_ms:
            break
        some = jobs[start : start + CONCURRENT]
        for job, refusal in zip(some, await asyncio.gather(*(_refusal(act, job) for job in some)), strict=True):
            if refusal is None:
                done.append(DoneResource(job=job.id))
            else:
                refused.append(refusal)
    return done, refused


async def _refusal(act: Act, job: Job) -> RefusedResource | None:
    """Act on a job; return why it was refused, None if it was not. A fault of relay's own concerns this job alone."""
    try:
        await act(job)
    except RelayError as error:
        if error.code in KINDS:
            return RefusedResource(job=job.id, code=error.code, detail=str(error))
        _logger.error("bulk_action.error", job=job.id, exc_info=error)
    except Exception as error:
        _logger.error("bulk_action.error", job=job.id, exc_info=error)
    else:
        return None
    return RefusedResource(job=job.id, code="internal", detail="relay could not do this; the log says why")


def _verb(request: ApiRequest, asked: BulkAction) -> Act:
    """Return what is done to each job: what the route for one job does."""
    interventions = request.app.interventions

    async def check(job: Job) -> None:
        interventions.require_check(job.id, job.project_id)
        await interventions.check(job)

    async def resubmit(job: Job) -> None:
        await request.app.quoter.require(job)
        await interventions.resubmit(job, asked.accept_double_charge, 0)

    async def fail(job: Job) -> None:
        await interventions.fail(job, asked.reason or "")

    async def copy(job: Job) -> None:
        await archive_of(request.app).archiver.again(job.id)

    verbs: dict[str, Act] = {
        "cancel": interventions.cancel,
        "check": check,
        "resubmit": resubmit,
        "fail": fail,
        "redeliver": request.app.redeliverer.redeliver_job,
        "copy": copy,
    }
    return verbs[asked.action]


def _answer(asked: BulkAction, as_of_ms: int, **found: Any) -> Response:
    """Return the 200 with what was counted or done."""
    return JSON(BulkResultResource(action=asked.action, dry_run=asked.dry_run, as_of=rfc3339(as_of_ms), **found))


ROUTES: Final = (
    ApiRoute(
        method="POST",
        path="/v1/bulk-actions",
        handler=act_on_all,
        scope="submit",
        summary="Act on all jobs that match a filter",
        fields=BulkAction,
        example={"action": "redeliver", "filter": {"undelivered": True, "created_after": "-24h"}, "dry_run": True},
        answers={200: BulkResultResource},
    ),
)
