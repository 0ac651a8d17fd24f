"""List every route, and build the ASGI application: the callback route first, then the API and the system's routes."""

import asyncio
import contextlib
import hmac
import importlib
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from relay import log
from relay.app import App
from relay.errors import StorageUnavailable
from relay.log import request_ids
from relay.model.resources.envelopes import HealthResource
from relay.model.resources.webhook_keys import webhook_keys
from relay.providers import PROVIDERS
from relay.storage.api_keys import digest
from relay.web import auth
from relay.web.api import (
    alerts,
    archive,
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
from relay.web.problems import JSON, error_problem, internal_problem, problem
from relay.web.protocol import BODY_INCOMPLETE
from relay.web.request_body import BodyMemory

if TYPE_CHECKING:
    from relay.web.dashboard.frame import Frame

API: Final = (
    *jobs.ROUTES,
    *archive.ROUTES,
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
Handler = Callable[[Request], Response]
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
    openapi_json, docs_page, docs_file = _described(app)
    pages = _Pages(app, memory)
    starlette = Starlette(
        routes=[
            *(Route(route.path, request_handler(app, route, memory), methods=[route.method]) for route in API),
            Route("/healthz", _healthz),
            Route("/readyz", _readyz(app)),
            Route("/metrics", _metrics(app)),
            Route("/openapi.json", openapi_json),
            Route("/docs", docs_page),
            Route("/docs/{name}", docs_file),
            Route("/.well-known/webhook-keys", _webhook_keys(app)),
        ],
        exception_handlers={HTTPException: _http_problem(pages), Exception: _log_bug},
    )
    starlette.router.redirect_slashes = False
    if app.settings.dashboard:
        pages.join(starlette.router)
    return starlette


class _Pages:
    """The dashboard's routes, made when the first path is asked for that no other route has.

    Its modules take 40 ms and some megabytes, for which neither a start waits nor a relay that shows no page.
    """

    def __init__(self, app: App, memory: BodyMemory) -> None:
        self.frame: Frame | None = None
        self._app = app
        self._memory = memory
        self._making = asyncio.Lock()

    def join(self, router: Router) -> None:
        """Let the router ask here before it answers that it has no such path."""

        async def make(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"].startswith("/v1/"):
                await router.not_found(scope, receive, send)
                return
            async with self._making:
                if self.frame is None:
                    router.routes.extend(await self._made())
                    router.default = router.not_found
            await router(scope, receive, send)

        router.default = make

    async def _made(self) -> list[Route]:
        """Return the routes; the modules are loaded in a thread, so that callbacks do not wait for them."""
        dashboard = await asyncio.to_thread(importlib.import_module, "relay.web.dashboard")
        self.frame = dashboard.frame(self._app, API, self._memory)
        return self.frame.routes(dashboard.VERBS)


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


def _described(app: App) -> tuple[Handler, Handler, Handler]:
    """Return the routes that describe the API, for programs and for people, and that of the page's files.

    What they need is loaded and made for the first request.
    """

    @lru_cache
    def document() -> dict[str, Any]:
        from relay.web import openapi  # noqa: PLC0415

        return openapi.document(API, PROVIDERS, app.settings.public_url or "/")

    @lru_cache
    def page() -> str:
        from relay.web import docs  # noqa: PLC0415

        return docs.page(document())

    def openapi_json(_: Request) -> Response:
        return JSON(document())

    def docs_page(_: Request) -> Response:
        from relay.web import docs  # noqa: PLC0415

        headers = {"content-security-policy": docs.SECURITY_POLICY, "x-content-type-options": "nosniff"}
        return Response(page(), headers=headers, media_type="text/html; charset=utf-8")

    def docs_file(request: Request) -> Response:
        from relay.web import docs  # noqa: PLC0415

        name = request.path_params["name"]
        if name not in docs.CONTENT_TYPES:
            return problem("not_found", "there is no such path")
        return Response(docs.file(name), headers={"content-type": docs.CONTENT_TYPES[name]})

    return openapi_json, docs_page, docs_file


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


def _http_problem(pages: _Pages) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return what answers a refusal of the router, 404 or 405: a problem document, or a page to a browser."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            response = problem("method_not_allowed", "this path does not allow this method")
            response.headers["allow"] = _allowed(request)
            return response
        frame = None if request.url.path.startswith("/v1/") else pages.frame
        page = None if frame is None else frame.not_found(request)
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
