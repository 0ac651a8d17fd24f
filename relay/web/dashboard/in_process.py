"""Calls the API's own handlers in this process, with the key of a session: same scopes, checks, refusals and audit.

No page reads the store or changes anything otherwise, so whatever a page shows or does is in the API too.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from relay.app import App
from relay.errors import RelayError
from relay.model.resources.envelopes import ProblemResource
from relay.web import problems
from relay.web.api.api_request import ApiRoute, run
from relay.web.auth import Caller
from relay.web.request_body import BodyMemory

_OWN: Final = frozenset(
    {
        *(b"authorization", b"cookie", b"content-length", b"content-type", b"transfer-encoding", b"idempotency-key"),
        *(b"prefer", b"relay-via", b"last-event-id", b"accept", b"expect"),
    }
)
"""Headers of the browser's request that are not passed on: they are about that request alone."""


class Refused(Exception):
    """The API refused a request; `problem` says why."""

    def __init__(self, problem: ProblemResource) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class ApiCall(msgspec.Struct, frozen=True, kw_only=True):
    """One request: the route as it is declared (`GET /v1/jobs/{id}`), its path's parameters, its query and body."""

    route: str
    path: Mapping[str, str] = {}
    query: Mapping[str, str | None] = {}
    body: Any = None
    idempotency_key: str | None = None
    prefer: str | None = None


class InProcessApi:
    """The routes of the API, to call with the rights of a caller."""

    def __init__(self, app: App, routes: Iterable[ApiRoute], memory: BodyMemory) -> None:
        self._app = app
        self._routes = {f"{route.method} {route.path}": route for route in routes}
        self._memory = memory

    def has(self, route: str) -> bool:
        """Return whether there is such a route."""
        return route in self._routes

    async def call(self, caller: Caller, http: Request, wanted: ApiCall) -> Response:
        """Return the response of a route to the caller behind a browser's request; raise Refused for a problem."""
        route = self._routes[wanted.route]
        try:
            response = await run(self._app, route, self._memory, caller, _request(route, http, wanted))
        except RelayError as error:
            self._app.metrics.refused(error.bound)
            response = problems.error_problem(error)
        if response.status_code >= 400:
            raise Refused(msgspec.json.decode(response.body, type=ProblemResource))
        return response


def _request(route: ApiRoute, http: Request, wanted: ApiCall) -> Request:
    """Return the request as the API receives it."""
    path = route.path
    for name, value in wanted.path.items():
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
    raw = b"" if wanted.body is None else msgspec.json.encode(wanted.body)
    headers = [(name, value) for name, value in http.scope["headers"] if name not in _OWN]
    headers.append((b"relay-via", b"dashboard"))
    if wanted.idempotency_key is not None:
        headers.append((b"idempotency-key", wanted.idempotency_key.encode()))
    if wanted.prefer is not None:
        headers.append((b"prefer", wanted.prefer.encode()))
    query = urlencode({name: value for name, value in wanted.query.items() if value is not None})
    scope = {
        **http.scope,
        "method": route.method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": headers,
        "path_params": dict(wanted.path),
    }
    parts = iter((raw,))

    async def receive() -> Message:
        """Return the body, and afterwards nothing: a page's call is not cut by its browser."""
        for part in parts:
            return {"type": "http.request", "body": part, "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    return Request(scope, receive)
