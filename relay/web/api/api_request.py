"""Run one API request: authenticate, read the body, apply the Idempotency-Key, call the handler, answer errors.

Each handler is in the file of its resource; `routes.py` lists them.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from relay import log, validation
from relay.app import App
from relay.errors import (
    FieldError,
    Forbidden,
    InvalidInput,
    NotFound,
    RelayError,
    TooManyRequests,
    Unauthorized,
)
from relay.model import text
from relay.storage.api_keys import Reservation
from relay.storage.idempotency import Tie, Tied
from relay.web import auth, problems, request_body
from relay.web.api import audited, idempotency
from relay.web.api.idempotency import WAIT_MAX_S
from relay.web.client_address import client_address

_WAIT: Final = re.compile(r"wait\s*=\s*\"?([0-9]{1,9})\"?(\s*;.*)?", re.IGNORECASE)

_logger = log.get("web")

Fields = TypeVar("Fields", bound=msgspec.Struct)


class ApiRequest(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated API request."""

    app: App
    http: Request
    route: "ApiRoute"
    caller: auth.Caller
    project_id: str
    key_id: str
    operator: bool = False
    """Whether the key is an admin key of the project `default`, which may see all projects."""
    raw: bytes = b""
    """The body; empty for a route with `streams`."""
    idempotency_key: str | None = None
    reservation: Reservation | None = None

    def body(self) -> dict[str, Any]:
        """Return the body's JSON object.

        Raise BadBody for what is not one unambiguous JSON value, and InvalidInput for one that is no object.
        """
        given = request_body.parse(self.raw)
        if not isinstance(given, dict):
            raise InvalidInput([FieldError("", f"the body must be an object, not {validation.shown(given)}")])
        return given

    def fields(self, kind: type[Fields]) -> Fields:
        """Return the body as a struct, an empty body as `{}`; raise InvalidInput, which names every wrong field."""
        given = self.body() if self.raw.strip() else {}
        if errors := validation.check(given, kind):
            raise InvalidInput(errors)
        return validation.read(given, kind)

    def path(self, name: str) -> str:
        """Return a parameter of the path."""
        return str(self.http.path_params[name])

    def tie(self, respond: Callable[[Any], Response | None], job_id: str | None = None) -> Tie | None:
        """Return what stores the response under the Idempotency-Key in the work's own transaction; None without a key.

        `respond` makes the response from the work's result, or returns None if nothing was done. With `job_id` the
        response shows only how the job began: a later request with the same key gets the job's present state.
        """
        if self.reservation is None:
            return None

        def stored(result: Any) -> Tied | None:
            response = respond(result)
            return None if response is None else Tied(idempotency.encoded(response, final=job_id is None), job_id)

        return self.app.store.access.tie(self.reservation, stored)

    async def idempotent(self, content: bytes, handler: "Handler") -> Response:
        """Return the handler's response, run once for the Idempotency-Key; without a key, run it.

        Raise IdempotencyConflict if the key was used with another method, path or `content`, and Conflict if the
        first request is unfinished. What the handler does is in the audit; a repetition, which does nothing, is not.
        """
        if self.idempotency_key is None:
            return await self.audited(handler)
        what = (self.http.method.encode(), self.http.url.path.encode(), content)
        reservation = Reservation(
            project_id=self.project_id,
            key=self.idempotency_key,
            fingerprint=hashlib.sha256(b"\n".join(what)).digest(),
            now=self.app.clock.now_ms(),
        )
        return await idempotency.run_once(
            self.app, reservation, lambda held: msgspec.structs.replace(self, reservation=held).audited(handler)
        )

    async def audited(self, handler: "Handler") -> Response:
        """Return the handler's response, with an entry in the audit unless its route changes nothing."""
        if not self.route.in_audit:
            return await handler(self)
        began = audited.entry(self.app, self.caller, self.http, self.route.verb)
        began = msgspec.structs.replace(began, detail=audited.detail(self.app, self.raw, self.route.fields))
        return await audited.run(self.app.store.audit, began, lambda: handler(self))

    def wait_s(self) -> float | None:
        """Return for how long `Prefer: wait=N` (RFC 7240) asks to delay the response; None if absent or malformed."""
        for preference in ",".join(self.http.headers.getlist("prefer")).split(","):
            if wait := _WAIT.fullmatch(preference.strip()):
                return min(float(wait[1]), WAIT_MAX_S)
        return None

    def query(self) -> dict[str, str]:
        """Return the query's parameters; raise InvalidInput for one that the route does not have, or given twice."""
        names = [parameter.name for parameter in self.route.query]
        given = dict(self.http.query_params)
        times = Counter(name for name, _ in self.http.query_params.multi_items())
        shown = [name.replace("[]", "[KEY]") for name in names]
        unknown = f"is not a parameter here; there {'is' if len(shown) == 1 else 'are'} {', '.join(shown) or 'none'}"
        errors = [FieldError(name[:60], unknown) for name in given if _without_key(name) not in names]
        errors += [FieldError(name[:60], "is there twice") for name in given if times[name] > 1]
        if errors:
            raise InvalidInput(errors)
        return given


class NoFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request that has no fields; it may be left out."""


Handler = Callable[[ApiRequest], Awaitable[Response]]
Admission = Callable[[App, auth.Caller, Request], None]
"""Raises TooManyRequests for a request over a rate limit, before its body is read or anything is queried for it."""


class Parameter(msgspec.Struct, frozen=True):
    """A parameter: its name (`metadata[]` for `metadata[key]`), what it means, its type or `values`, an example.

    A request without a `required` one is refused by the route's handler.
    """

    name: str
    description: str
    kind: Any = str
    example: str | None = None
    values: tuple[str, ...] = ()
    required: bool = False


class CsvResponse(Response):
    """A table; it may hold what a provider says, so a browser must not read it as anything else."""

    media_type = "text/csv"


class ApiRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A route of the API: its handler, the scope that a key needs for it, and what `/openapi.json` says about it.

    `answers` are the bodies of its 2xx answers by status, None for none; `fields` is the type of its request's body,
    `required` those that it needs although the type does not say so, `example` a body that works; `problems` are the
    codes of its own errors, besides those that `openapi.py` knows by the route's kind.
    With `streams` the handler reads the body itself, and calls `ApiRequest.idempotent` when it knows the content.
    `audited` is whether its requests are in the audit; None for all that are not GET.
    """

    method: str
    path: str
    handler: Handler
    scope: str
    summary: str
    answers: dict[int, Any]
    query: tuple[Parameter, ...] = ()
    fields: Any = None
    example: Any = None
    required: tuple[str, ...] = ()
    headers: tuple[Parameter, ...] = ()
    problems: tuple[str, ...] = ()
    streams: bool = False
    admission: Admission | None = None
    audited: bool | None = None

    @property
    def in_audit(self) -> bool:
        """Return whether the route's requests are in the audit."""
        return self.method != "GET" if self.audited is None else self.audited

    @property
    def verb(self) -> str:
        """Return what the route does, for the audit: its resource and its handler's name, such as `jobs.cancel`."""
        return f"{self.path.split('/')[2]}.{self.handler.__name__}"


def request_handler(
    app: App, route: ApiRoute, memory: request_body.BodyMemory
) -> Callable[[Request], Awaitable[Response]]:
    """Return the function that answers a route's requests; it answers every RelayError as a problem document."""
    address_of = client_address(app.settings.client_ip)

    async def respond(request: Request) -> Response:
        try:
            return await run(app, route, memory, await auth.authenticate(app, request), request)
        except RelayError as error:
            if isinstance(error, Unauthorized):
                _logger.info("api_key.refused", method=route.method, route=route.path, client=address_of(request.scope))
            app.metrics.refused(error.bound)
            return problems.error_problem(error)

    return respond


async def run(
    app: App, route: ApiRoute, memory: request_body.BodyMemory, caller: auth.Caller, http: Request
) -> Response:
    """Return the handler's response to a client that has proven who it is; raise RelayError for a refused request.

    The dashboard calls it too, so a page has the scopes, the checks, the refusals and the audit of the API.
    """
    await _require_scope(app, route, caller, http)
    _refuse_nul(http)
    changes = http.method in ("POST", "PATCH", "DELETE")
    key = _idempotency_key(http) if changes else None
    if route.admission is not None:
        await _admit(app, caller, http, key, route.admission)
    raw = b""
    if http.method in ("POST", "PATCH") and not route.streams:
        owner, settings = request_body.Owner(caller.project_id), app.settings
        limits = request_body.ReadLimits(settings.request_body_max_bytes, settings.body_deadline_s, memory, owner)
        raw = await request_body.read(http.receive, limits)
    request = ApiRequest(
        app=app,
        http=http,
        route=route,
        caller=caller,
        project_id=caller.project_id,
        key_id=caller.key_id,
        operator=caller.operator,
        raw=raw,
        idempotency_key=key,
    )
    if route.streams:
        return await route.handler(request)
    return await (request.idempotent(raw, route.handler) if changes else request.audited(route.handler))


async def _require_scope(app: App, route: ApiRoute, caller: auth.Caller, http: Request) -> None:
    """Raise Forbidden if the key has not the route's scope; that is in the audit too, up to a number a minute."""
    try:
        auth.require_scope(caller, route.scope)
    except Forbidden as error:
        if route.in_audit:
            refused = audited.entry(app, caller, http, route.verb)
            await app.store.audit.refuse(msgspec.structs.replace(refused, status=403, code=error.code))
        raise


async def _admit(app: App, caller: auth.Caller, http: Request, key: str | None, admission: Admission) -> None:
    """Apply a rate limit, except to a request that repeats an earlier one with the same Idempotency-Key."""
    try:
        admission(app, caller, http)
    except TooManyRequests:
        if key is None or await app.store.access.known(caller.project_id, key) is None:
            raise


def _refuse_nul(http: Request) -> None:
    """Raise NotFound for U+0000 in the path, since no id has it, and InvalidInput for each parameter that has it."""
    if text.NUL in http.url.path or text.NUL in str(http.scope["path"]):
        raise NotFound("there is no such path: it holds U+0000")
    if b"%00" not in http.scope["query_string"]:
        return
    wrong = [name for name, value in http.query_params.multi_items() if text.NUL in name + value]
    if wrong:
        errors = [FieldError(text.kept(name[:60]), text.REFUSAL) for name in wrong]
        raise InvalidInput(errors)


def _idempotency_key(http: Request) -> str | None:
    """Return the Idempotency-Key, None without one; raise InvalidInput for a malformed one."""
    key = http.headers.get("idempotency-key")
    if key is not None and not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        wrong = f"must be 1 to 255 printable ASCII characters, not {validation.shown(key)}"
        raise InvalidInput([FieldError("Idempotency-Key", wrong)])
    return key


def _without_key(name: str) -> str:
    """Return `metadata[user]` as `metadata[]`, a name without brackets unchanged, a malformed one as ''."""
    holder, bracket, rest = name.partition("[")
    if not bracket:
        return name
    return f"{holder}[]" if len(rest) > 1 and rest.endswith("]") else ""
