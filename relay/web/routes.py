"""List every route, and build the ASGI application: the callback route first, then the API and the system's routes."""

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay import log
from relay.app import App
from relay.errors import StorageUnavailable
from relay.log import request_ids
from relay.model.resources.envelopes import HealthResource
from relay.model.resources.webhook_keys import webhook_keys
from relay.providers import PROVIDERS
from relay.storage.api_keys import digest
from relay.web import auth, dashboard, docs, openapi
from relay.web.api import (
    alerts,
    audit,
    bulk_actions,
    callbacks,
    deliveries,
    endpoints,
    events,
    files,
    interventions,
    jobs,
    keys,
    payments,
    projects,
    quotes,
    search,
    stats,
)
from relay.web.api.api_request import request_handler
from relay.web.callback_route import CallbackRoute
from relay.web.dashboard.frame import Frame
from relay.web.problems import JSON, error_problem, internal_problem, problem
from relay.web.protocol import BODY_INCOMPLETE
from relay.web.request_body import BodyMemory

API: Final = (
    *jobs.ROUTES,
    *interventions.ROUTES,
    *quotes.ROUTES,
    *payments.ROUTES,
    *files.ROUTES,
    *endpoints.ROUTES,
    *events.ROUTES,
    *deliveries.ROUTES,
    *callbacks.ROUTES,
    *alerts.ROUTES,
    *keys.ROUTES,
    *projects.ROUTES,
    *audit.ROUTES,
    *stats.ROUTES,
    *search.ROUTES,
    *bulk_actions.ROUTES,
)
BACKLOG_EVERY_MS: Final = 10_000
"""The least time between two counts of unfinished work for the metrics."""
_logger = log.get("web")


def asgi_app(app: App, callback_route: CallbackRoute, memory: BodyMemory) -> ASGIApp:
    """Return the ASGI application of an open relay; `memory` limits the bodies of API requests."""
    api = _api(app, memory)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the callback route or the API; answer 503 to one that the shutdown cancels."""
        request_id = request_ids.of(scope["headers"])
        request_ids.CURRENT.set(request_id)
        response = _ResponseSender(scope, request_id, send)
        try:
            if scope["path"].lstrip("/").startswith("callbacks/"):
                await callback_route(scope, receive, response)
            else:
                await api(scope, receive, response)
        except asyncio.CancelledError:
            if response.started or not app.draining.is_set():
                raise
            await problem("stopping", "this process is stopping; send the request again")(scope, receive, response)

    return dispatch


class _ResponseSender:
    """An ASGI `send` that adds the request id, and `connection: close` if the request's body was not read."""

    def __init__(self, scope: Scope, request_id: str, send: Send) -> None:
        self.started = False
        self._body_incomplete = scope["state"][BODY_INCOMPLETE]
        self._request_id = request_id.encode()
        self._send = send

    async def __call__(self, message: Message) -> None:
        """Send a message of the response."""
        if message["type"] == "http.response.start":
            self.started = True
            headers = [*message["headers"], (request_ids.HEADER, self._request_id)]
            if self._body_incomplete():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)


def _api(app: App, memory: BodyMemory) -> Starlette:
    """Return the API and the system's routes; a path with an extra slash is 404, never a redirect."""
    openapi_json, docs_page = _described(app)
    pages = dashboard.frame(app, API, memory)
    starlette = Starlette(
        routes=[
            *(Route(route.path, request_handler(app, route, memory), methods=[route.method]) for route in API),
            Route("/healthz", _healthz),
            Route("/readyz", _readyz(app)),
            Route("/metrics", _metrics(app)),
            Route("/openapi.json", openapi_json),
            Route("/docs", docs_page),
            Route("/docs/{name}", _docs_file),
            Route("/.well-known/webhook-keys", _webhook_keys(app)),
            *dashboard.routes(pages),
        ],
        exception_handlers={HTTPException: _http_problem(pages), Exception: _log_bug},
    )
    starlette.router.redirect_slashes = False
    return starlette


async def _healthz(_: Request) -> Response:
    """Answer that the process runs."""
    return JSON(HealthResource(status="ok"))


def _readyz(app: App) -> Callable[[Request], Awaitable[Response]]:
    """Return the route that answers 200 while the database accepts writes and the process is not stopping."""

    async def ready(_: Request) -> Response:
        if app.draining.is_set():
            return problem("storage_unavailable", "this process is stopping")
        try:
            await app.store.ready()
        except StorageUnavailable as error:
            return problem("storage_unavailable", str(error))
        return JSON(HealthResource(status="ready"))

    return ready


def _metrics(app: App) -> Callable[[Request], Awaitable[Response]]:
    """Return the route that shows this process's metrics to Prometheus; they hold no id and no secret.

    Each scrape reads the database's size; the count of unfinished work is read every ten seconds at most. If the
    database does not answer, the last values are shown.
    """
    key_digest = digest(app.settings.metrics_key) if app.settings.metrics_key else None
    next_backlog_at = 0

    async def metrics(request: Request) -> Response:
        given = auth.bearer(request)
        if key_digest and not (given and hmac.compare_digest(digest(given), key_digest)):
            return problem("unauthorized", "send RELAY_METRICS_KEY as Authorization: Bearer <key>")
        nonlocal next_backlog_at
        with contextlib.suppress(StorageUnavailable):
            app.metrics.database_size(await app.store.size_bytes())
            if app.clock.monotonic_ms() >= next_backlog_at:
                next_backlog_at = app.clock.monotonic_ms() + BACKLOG_EVERY_MS
                app.metrics.backlog(await app.store.backlog(), app.clock.now_ms())
        return Response(app.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return metrics


def _described(app: App) -> tuple[Callable[[Request], Response], Callable[[Request], Response]]:
    """Return the routes that describe the API, for programs and for people; both are made for the first request."""

    @lru_cache
    def document() -> dict[str, Any]:
        return openapi.document(API, PROVIDERS, app.settings.public_url or "/")

    @lru_cache
    def page() -> str:
        return docs.page(document())

    def openapi_json(_: Request) -> Response:
        return JSON(document())

    def docs_page(_: Request) -> Response:
        headers = {"content-security-policy": docs.SECURITY_POLICY, "x-content-type-options": "nosniff"}
        return Response(page(), headers=headers, media_type="text/html; charset=utf-8")

    return openapi_json, docs_page


async def _docs_file(request: Request) -> Response:
    """Answer with the style or the script of the page `/docs`."""
    name = request.path_params["name"]
    if name not in docs.CONTENT_TYPES:
        return problem("not_found", "there is no such path")
    return Response(docs.file(name), headers={"content-type": docs.CONTENT_TYPES[name]})


def _webhook_keys(app: App) -> Callable[[Request], Awaitable[Response]]:
    """Return the route that publishes the keys for `v1a` signatures: those of all projects, or of `?project=`.

    It needs no API key, and its response may be cached for an hour.
    """

    async def keys(request: Request) -> Response:
        try:
            public = await app.store.signing_keys.public(request.query_params.get("project"))
        except StorageUnavailable as error:
            return error_problem(error)
        return JSON(webhook_keys(public), headers={"cache-control": "public, max-age=3600"})

    return keys


def _http_problem(pages: Frame | None) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return what answers a refusal of the router, 404 or 405: a problem document, or a page to a browser."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            response = problem("method_not_allowed", "this path does not allow this method")
            response.headers["allow"] = _allowed(request)
            return response
        page = None if pages is None or request.url.path.startswith("/v1/") else pages.not_found(request)
        return problem("not_found", "there is no such path") if page is None else page

    return answer


def _allowed(request: Request) -> str:
    """Return every method of the path; Starlette names only those of the first matching route."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for methods in matching for method in methods}))


async def _log_bug(request: Request, error: Exception) -> Response:
    """Log an unexpected exception, and answer 500 without its details."""
    _logger.error("request.broke", method=request.method, path=request.url.path, exc_info=error)
    return internal_problem()
