"""List every route but that of callbacks: the API's, the system's, and the dashboard's.

`dispatch.py` loads this module for the first request that needs it.
"""

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
from starlette.types import Receive, Scope, Send

from relay import log
from relay.app import App
from relay.errors import StorageUnavailable
from relay.model.resources.envelopes import HealthResource
from relay.model.resources.webhook_keys import webhook_keys
from relay.providers import PROVIDERS
from relay.storage.api_keys import digest
from relay.web import auth, request_rates
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
from relay.web.problems import JSON, error_problem, internal_problem, problem
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
Handler = Callable[[Request], Awaitable[Response]]
BACKLOG_EVERY_MS: Final = 10_000
"""The least time between two counts of unfinished work for the metrics."""
_logger = log.get("web")


def routed(app: App, memory: BodyMemory) -> Starlette:
    """Return the API and the system's routes; a path with an extra slash is 404, never a redirect."""
    openapi_json, docs_page, docs_file = _described(app)
    pages = _Pages(app, memory)
    starlette = Starlette(
        routes=[
            *(Route(route.path, request_handler(app, route, memory), methods=[route.method]) for route in API),
            Route("/healthz", _healthz),
            Route("/readyz", _readyz(app)),
            Route("/metrics", _metrics(app)),
            Route("/openapi.json", _public(app, openapi_json)),
            Route("/docs", _public(app, docs_page)),
            Route("/docs/{name}", _public(app, docs_file)),
            Route("/.well-known/webhook-keys", _public(app, _webhook_keys(app))),
        ],
        exception_handlers={HTTPException: _http_problem(app, pages), Exception: _log_bug},
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


def _readyz(app: App) -> Handler:
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


def _metrics(app: App) -> Handler:
    """Return the route that shows this process's metrics to Prometheus; they hold no id and no secret.

    Each scrape reads the database's size; the count of unfinished work is read every ten seconds at most. If the
    database does not answer, the last values are shown.
    """
    key_digest = digest(app.settings.metrics_key) if app.settings.metrics_key else None
    next_backlog_at = 0

    async def metrics(request: Request) -> Response:
        given = auth.bearer(request)
        if key_digest and not (given and hmac.compare_digest(digest(given), key_digest)):
            return request_rates.refusal(app, request.scope) or problem(
                "unauthorized", "send RELAY_METRICS_KEY as Authorization: Bearer <key>"
            )
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

    async def openapi_json(_: Request) -> Response:
        return JSON(document())

    async def docs_page(_: Request) -> Response:
        from relay.web import docs  # noqa: PLC0415

        headers = {"content-security-policy": docs.SECURITY_POLICY, "x-content-type-options": "nosniff"}
        return Response(page(), headers=headers, media_type="text/html; charset=utf-8")

    async def docs_file(request: Request) -> Response:
        from relay.web import docs  # noqa: PLC0415

        name = request.path_params["name"]
        if name not in docs.CONTENT_TYPES:
            return problem("not_found", "there is no such path")
        return Response(docs.file(name), headers={"content-type": docs.CONTENT_TYPES[name]})

    return openapi_json, docs_page, docs_file


def _public(app: App, handler: Handler) -> Handler:
    """Return the route of what everyone may read, which counts against the rate of the client's address."""

    async def answer(request: Request) -> Response:
        refusal = request_rates.refusal(app, request.scope)
        return refusal if refusal is not None else await handler(request)

    return answer


def _webhook_keys(app: App) -> Handler:
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


def _http_problem(app: App, pages: _Pages) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return what answers a refusal of the router, 404 or 405: a problem document, or a page to a browser."""

    async def answer(request: Request, error: Exception) -> Response:
        if refusal := request_rates.refusal(app, request.scope):
            return refusal
        if isinstance(error, HTTPException) and error.status_code == 405:
            allowed = _allowed(request)
            response = problem("method_not_allowed", f"{request.method[:20]} is not allowed here, but {allowed}")
            response.headers["allow"] = allowed
            return response
        frame = None if request.url.path.startswith("/v1/") else pages.frame
        page = None if frame is None else frame.not_found(request)
        return problem("not_found", "there is no such path; GET /openapi.json has all") if page is None else page

    return answer


def _allowed(request: Request) -> str:
    """Return every method of the path; Starlette names only those of the first matching route."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for methods in matching for method in methods}))


async def _log_bug(request: Request, error: Exception) -> Response:
    """Log an unexpected exception, and answer 500 without its details."""
    _logger.error("request.error", method=request.method, path=request.url.path, exc_info=error)
    return internal_problem()
