"""One API call from door to door: who calls, the body, the Idempotency-Key, the handler, the answer or the problem."""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from relay import log, validation
from relay.app import App
from relay.clock import TIME_FORMS, parse_time
from relay.errors import (
    BadBody,
    Conflict,
    FieldError,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    RelayError,
    ReservationLost,
    TooManyRequests,
)
from relay.model import serializers, text
from relay.storage.api_keys import Known, Reservation
from relay.storage.apply_updates import DEFAULT_PROJECT
from relay.storage.idempotency import Tie, Tied
from relay.storage.pages import Listing, Page
from relay.web import auth, problems, request_body

LIMIT_MAX: Final = 200
LIMIT_DEFAULT: Final = 50
WAIT_MAX_S: Final = 25.0
"""The longest `Prefer: wait`; routers cut a request that is not answered within 30 s."""
REPLAY_MARGIN_MS: Final = 2_000
"""The first of two equal requests answers within the longest wait and this; if not, its process is gone."""
REPLAY_PAUSE_S: Final = 0.05
"""How often the second one looks; in real time, as the wait for the provider is."""
NO_CONTENT: Final = 204
_WAIT: Final = re.compile(r"wait\s*=\s*\"?([0-9]{1,9})\"?(\s*;.*)?", re.IGNORECASE)
_logger = log.get("web")


Fields = TypeVar("Fields", bound=msgspec.Struct)


class ProviderRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may be answered, with its body as it came."""

    app: App
    request: Request
    project_id: str
    key_id: str
    operator: bool = False
    """Whether an admin of the default project calls: the one who runs this relay, and may see all of it."""
    raw: bytes = b""
    idempotency_key: str | None = None
    reservation: Reservation | None = None

    def body(self) -> object:
        """What the body holds; BadBody for what is not one JSON value to every reader."""
        return request_body.parse(self.raw)

    def fields(self, kind: type[Fields]) -> Fields:
        """The body as a struct, one that is left out being empty; InvalidInput names every wrong field."""
        given = self.body() if self.raw.strip() else {}
        if errors := validation.check(given, kind):
            raise InvalidInput(errors)
        return validation.read(given, kind)

    def path(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def tie(self, answer: Callable[[Any], Response | None], job_id: str | None = None) -> Tie | None:
        """Return what ties the request's Idempotency-Key to its work, in the commit that does it; None without a key.

        `answer` makes of the work's result what this request, and each like it, is answered; None where nothing was
        done. With `job_id` it is only how the job began: one that asks later is shown the job as it is by then.
        """
        if self.reservation is None:
            return None

        def kept(result: Any) -> Tied | None:
            response = answer(result)
            return None if response is None else Tied(_stored(response, whole=job_id is None), job_id)

        return self.app.store.access.tie(self.reservation, kept)

    def wait_s(self) -> float | None:
        """How long `Prefer: wait=N` (RFC 7240) asks to hold the answer; one that is malformed asks nothing."""
        for preference in ",".join(self.request.headers.getlist("prefer")).split(","):
            if asked := _WAIT.fullmatch(preference.strip()):
                return min(float(asked[1]), WAIT_MAX_S)
        return None

    def query(self, *names: str) -> dict[str, str]:
        """The query's parameters; InvalidInput for one that is not among the names, so that a typo is heard."""
        given = dict(self.request.query_params)
        times = Counter(name for name, _ in self.request.query_params.multi_items())
        known = f"is not a parameter here; there are {', '.join(names) or 'none'}"
        errors = [FieldError(name[:60], known) for name in given if _unkeyed(name) not in names]
        errors += [FieldError(name[:60], "is there twice") for name in given if times[name] > 1]
        if errors:
            raise InvalidInput(errors)
        return given


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A body that need not be there."""


Handler = Callable[[ProviderRequest], Awaitable[Response]]
Admission = Callable[[App, auth.Caller, Request], None]
"""Raises what refuses a request before its body is read and anything is looked up for it."""


class Door(msgspec.Struct, frozen=True):
    """How a route's requests are let in: by keys with a scope, and past an admission where there is one.

    With `streams` the handler reads the body itself, and calls `once` when it knows what it holds.
    """

    scope: str
    streams: bool = False
    admission: Admission | None = None


class Stored(msgspec.Struct, frozen=True):
    """An answer that an Idempotency-Key stands for; one that is not `whole` shows its job as it was at first."""

    status: int
    body: msgspec.Raw
    location: str | None
    whole: bool = True


def handled(
    app: App, handler: Handler, door: Door, memory: request_body.BodyMemory
) -> Callable[[Request], Awaitable[Response]]:
    """Return the handler as a route's endpoint: a RelayError becomes a problem document, anything else a bare 500."""

    async def answer(request: Request) -> Response:
        try:
            caller = await auth.caller(app, request, door.scope)
            _require_text(request)
            works = request.method in ("POST", "PATCH", "DELETE")
            key = _idempotency_key(request) if works else None
            if door.admission is not None:
                await _admit(app, caller, request, key, door.admission)
            read = request.method in ("POST", "PATCH") and not door.streams
            raw = await _body(app, request, memory, caller.project_id) if read else b""
            call = ProviderRequest(
                app=app,
                request=request,
                project_id=caller.project_id,
                key_id=caller.key_id,
                operator=caller.admin and caller.project_id == DEFAULT_PROJECT,
                raw=raw,
                idempotency_key=key,
            )
            if not works or door.streams:
                return await handler(call)
            return await once(call, raw, handler)
        except RelayError as error:
            app.metrics.refused(error.bound)
            return problems.of_error(error)
        except request_body.BodyCut:
            return problems.problem("bad_body", "the body was not whole")

    return answer


async def _admit(app: App, caller: auth.Caller, request: Request, key: str | None, admission: Admission) -> None:
    """Refuse what the admission refuses, unless its Idempotency-Key stands for an answer already."""
    try:
        admission(app, caller, request)
    except TooManyRequests:
        if key is None or await app.store.access.known(caller.project_id, key) is None:
            raise


def _require_text(request: Request) -> None:
    """Refuse U+0000: NotFound in the path, where no id has it, InvalidInput in the query, naming each parameter."""
    if text.NUL in request.url.path or text.NUL in str(request.scope["path"]):
        raise NotFound("there is no such path: it holds U+0000")
    if b"%00" not in request.scope["query_string"]:
        return
    wrong = [name for name, value in request.query_params.multi_items() if text.NUL in name + value]
    if wrong:
        errors = [FieldError(text.kept(name[:60]), text.REFUSAL) for name in wrong]
        raise InvalidInput(errors)


def _idempotency_key(request: Request) -> str | None:
    """The request's key; BadBody for one that is none."""
    key = request.headers.get("idempotency-key")
    if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise BadBody("the Idempotency-Key must be 1 to 255 printable ASCII characters")
    return key


async def once(call: ProviderRequest, content: bytes, run: Handler) -> Response:
    """Runs once for each Idempotency-Key; `content` is what another request with the same key must hold too.

    The key is reserved first, and tied to the work by the transaction that does it. A request that stood still for so
    long that another one took its key over does nothing, and is answered what the key stands for by then.
    """
    app, key = call.app, call.idempotency_key
    if key is None:
        return await run(call)
    what = (call.request.method.encode(), call.request.url.path.encode(), content)
    wanted = Reservation(
        project_id=call.project_id,
        key=key,
        fingerprint=hashlib.sha256(b"\n".join(what)).digest(),
        now=app.clock.now_ms(),
    )
    held: Reservation | Response = wanted if await app.store.access.reserve(wanted) else await _replay(app, wanted)
    while isinstance(held, Reservation):
        try:
            response = await run(msgspec.structs.replace(call, reservation=held))
        except ReservationLost:
            held = await _replay(app, held)
            continue
        except BaseException:
            await asyncio.shield(app.store.access.release(held))
            raise
        await app.store.access.answer(held, _stored(response, whole=True))
        return response
    return held


def _stored(response: Response, *, whole: bool) -> bytes:
    """Return an answer as it is kept; one without a body as null."""
    body = msgspec.Raw(bytes(response.body) or b"null")
    return msgspec.json.encode(Stored(response.status_code, body, response.headers.get("location"), whole))


async def _replay(app: App, wanted: Reservation) -> Reservation | Response:
    """The answer that the key stands for; the second of two equal requests waits for the first one's.

    A reservation where the first came to nothing: the key is this one's now.
    """
    wait_ms = round(max(app.settings.submit_wait_s, WAIT_MAX_S) * 1000) + REPLAY_MARGIN_MS
    while True:
        known = await app.store.access.known(wanted.project_id, wanted.key)
        if known is None:
            wanted = msgspec.structs.replace(wanted, now=app.clock.now_ms())
            if await app.store.access.reserve(wanted):
                return wanted
            continue
        if known.fingerprint != wanted.fingerprint:
            raise IdempotencyConflict("this Idempotency-Key was used for another request; use a new one")
        stored = None if known.answer is None else msgspec.json.decode(known.answer, type=Stored)
        if stored is not None and stored.whole:
            return _replayed(stored)
        if app.clock.now_ms() >= known.reserved_at + wait_ms:
            return await _unfinished(app, wanted, known, stored)
        await asyncio.sleep(REPLAY_PAUSE_S)


async def _unfinished(app: App, wanted: Reservation, known: Known, stored: Stored | None) -> Response:
    """The first request was never answered: its job is shown as it is now, with what it was to be told of it.

    Where there is none, nothing came of it yet.
    """
    job = await app.store.jobs.get(known.job_id, wanted.project_id) if known.job_id else None
    if job is None:
        if stored is not None:
            return _replayed(stored)
        raise Conflict("the first request with this Idempotency-Key is not finished; try again")
    if stored is None:  # tied by a relay that kept only the job's id
        return _replayed(Stored(202, msgspec.Raw(msgspec.json.encode(serializers.job(job))), f"/v1/jobs/{job.id}"))
    body = msgspec.json.decode(stored.body, type=dict[str, Any]) | serializers.job(job)
    return _replayed(Stored(stored.status, msgspec.Raw(msgspec.json.encode(body)), stored.location))


def _replayed(stored: Stored) -> Response:
    """A stored answer, marked as such."""
    headers = {"idempotent-replayed": "true"} | ({"location": stored.location} if stored.location else {})
    if stored.status == NO_CONTENT:
        return Response(None, stored.status, headers)
    return Response(bytes(stored.body), stored.status, headers, media_type="application/json")


async def _body(app: App, request: Request, memory: request_body.BodyMemory, project_id: str) -> bytes:
    """The request's body within its limits."""
    owner = request_body.Owner(project_id)
    limits = request_body.Limits(app.settings.request_body_max_bytes, app.settings.body_deadline_s, memory, owner)
    return await request_body.read(request.receive, limits)


def _unkeyed(name: str) -> str:
    """`metadata[user]` → `metadata[]`; a name without a bracket as it is, any other as none."""
    holder, bracket, rest = name.partition("[")
    if not bracket:
        return name
    return f"{holder}[]" if len(rest) > 1 and rest.endswith("]") else ""


def page_of(given: dict[str, str], prefix: str) -> tuple[str | None, int]:
    """Where a list begins and how long it may be."""
    errors = []
    cursor, limit = given.get("cursor"), given.get("limit", str(LIMIT_DEFAULT))
    if cursor is not None and not (cursor.startswith(prefix) and cursor.isascii() and len(cursor) < 64):
        errors.append(FieldError("cursor", "must be the next_cursor of an earlier page"))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= LIMIT_MAX):
        errors.append(FieldError("limit", f"must be an integer from 1 to {LIMIT_MAX}"))
    if errors:
        raise InvalidInput(errors)
    return cursor, int(limit)


def listing_of(call: ProviderRequest, given: dict[str, str], prefix: str) -> Listing:
    """Where a list begins, how long it may be, and how large."""
    before, limit = page_of(given, prefix)
    return Listing(before=before, limit=limit, bytes_max=call.app.settings.page_max_bytes)


def listed(found: Page[Any], view: Callable[[Any], serializers.Json]) -> Response:
    """A list's answer; it may be short, or empty, and go on all the same."""
    return problems.JSON({"data": [view(one) for one in found.items], "next_cursor": found.next_cursor})


def page(found: list[Any], limit: int, view: Callable[[Any], serializers.Json]) -> Response:
    """A list's answer; `found` holds one more than the limit where there is another page."""
    shown = found[:limit]
    return problems.JSON(
        {"data": [view(one) for one in shown], "next_cursor": shown[-1].id if len(found) > limit else None}
    )


def time_of(name: str, given: str, now_ms: int) -> int:
    """A time in unix milliseconds, in any form of `parse_time`; InvalidInput names the forms.

    A `+` that a query did not escape is read as it was meant.
    """
    try:
        return parse_time(given.replace(" ", "+"), now_ms)
    except (ValueError, OverflowError):
        raise InvalidInput([FieldError(name, f"must be {TIME_FORMS}")]) from None


def one_of(given: dict[str, str], name: str, words: type[StrEnum]) -> str | None:
    """A parameter that must be one of a closed list."""
    value = given.get(name)
    if value is not None and value not in list(words):
        raise InvalidInput([FieldError(name, f"must be one of {', '.join(words)}")])
    return value
