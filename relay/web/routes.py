"""Every route in one list, behind the callback route, which comes first and needs none of this."""

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Final

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
from relay.model import serializers
from relay.storage.api_keys import digest
from relay.web import auth
from relay.web.api import endpoints, files, history, interventions, jobs, quotes
from relay.web.api.api_request import Admission, Door, Handler, handled
from relay.web.callback_route import Callbacks
from relay.web.problems import JSON, of_error, problem
from relay.web.protocol import UNREAD
from relay.web.request_body import BodyMemory

API: Final[tuple[tuple[str, str, Handler, str], ...]] = (
    ("POST", "/v1/jobs", jobs.create, "submit"),
    ("GET", "/v1/jobs", jobs.index, "read"),
    ("GET", "/v1/jobs/{id}", jobs.show, "read"),
    ("GET", "/v1/jobs/{id}/timeline", jobs.show_timeline, "read"),
    ("POST", "/v1/jobs/{id}/cancellations", interventions.cancel, "submit"),
    ("POST", "/v1/jobs/{id}/status-checks", interventions.check, "submit"),
    ("POST", "/v1/jobs/{id}/resubmissions", interventions.resubmit, "submit"),
    ("POST", "/v1/jobs/{id}/failures", interventions.fail, "submit"),
    ("POST", "/v1/quotes", quotes.create, "submit"),
    ("POST", "/v1/files", files.create, "submit"),
    ("GET", "/v1/spend", quotes.spend, "read"),
    ("GET", "/v1/providers", jobs.providers, "read"),
    ("POST", "/v1/endpoints", endpoints.create, "admin"),
    ("GET", "/v1/endpoints", endpoints.index, "read"),
    ("GET", "/v1/endpoints/{id}", endpoints.show, "read"),
    ("PATCH", "/v1/endpoints/{id}", endpoints.change, "admin"),
    ("DELETE", "/v1/endpoints/{id}", endpoints.delete, "admin"),
    ("GET", "/v1/endpoints/{id}/secret", endpoints.show_secret, "admin"),
    ("POST", "/v1/endpoints/{id}/secret-rotations", endpoints.rotate, "admin"),
    ("POST", "/v1/endpoints/{id}/tests", endpoints.test, "admin"),
    ("POST", "/v1/endpoints/{id}/redeliveries", endpoints.redeliver, "admin"),
    ("GET", "/v1/events", history.events, "read"),
    ("GET", "/v1/events/stream", history.stream, "read"),
    ("GET", "/v1/events/{id}", history.event, "read"),
    ("GET", "/v1/deliveries", history.deliveries, "read"),
    ("GET", "/v1/deliveries/{id}", history.delivery, "read"),
    ("POST", "/v1/deliveries/{id}/redeliveries", history.redeliver, "admin"),
    ("GET", "/v1/callbacks", history.callbacks, "read"),
    ("GET", "/v1/callbacks/{id}", history.callback, "read"),
    ("POST", "/v1/callbacks/{id}/releases", interventions.release, "admin"),
)
BACKLOG_EVERY_MS: Final = 10_000
STREAMING: Final = (files.create,)
"""What reads its own body, piece by piece."""
ADMISSIONS: Final[dict[Handler, Admission]] = {interventions.check: interventions.admit_check}
"""What is refused by its pace before it costs anything."""
_logger = log.get("web")


def web(app: App, callbacks: Callbacks, memory: BodyMemory) -> ASGIApp:
    """The ASGI application of an open relay; `memory` is that of the bodies that are being read."""
    rest = _rest(app, memory)

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        """Callbacks first, everything else after; each under its request's id."""
        request_id = request_ids.of(scope["headers"])
        request_ids.CURRENT.set(request_id)
        answer = _Answering(scope, request_id, send)
        try:
            if scope["path"].lstrip("/").startswith("callbacks/"):
                await callbacks(scope, receive, answer)
            else:
                await rest(scope, receive, answer)
        except asyncio.CancelledError:
            if answer.begun or not app.draining.is_set():
                raise
            await problem("stopping", "this process is stopping; send the request again")(scope, receive, answer)

    return front


class _Answering:
    """A `send` that adds the request's id, and closes a connection that was answered before its request was read."""

    def __init__(self, scope: Scope, request_id: str, send: Send) -> None:
        self.begun = False
        self._unread = scope["state"][UNREAD]
        self._request_id = request_id.encode()
        self._send = send

    async def __call__(self, message: Message) -> None:
        """Pass the message on."""
        if message["type"] == "http.response.start":
            self.begun = True
            headers = [*message["headers"], (request_ids.HEADER, self._request_id)]
            if self._unread():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)


def _rest(app: App, memory: BodyMemory) -> Starlette:
    """The API and what surrounds it; a path that is nearly right is 404, never a redirect."""
    routes = [
        Route(path, handled(app, handler, _door(handler, scope), memory), methods=[method])
        for method, path, handler, scope in API
    ]
    around = [
        Route("/healthz", _healthz),
        Route("/readyz", _readyz(app)),
        Route("/metrics", _metrics(app)),
        Route("/.well-known/webhook-keys", _webhook_keys(app)),
    ]
    starlette = Starlette(
        routes=[*routes, *around], exception_handlers={HTTPException: _http_problem, Exception: _broken}
    )
    starlette.router.redirect_slashes = False
    return starlette


def _door(handler: Handler, scope: str) -> Door:
    """How requests for a handler are let in."""
    return Door(scope, streams=handler in STREAMING, admission=ADMISSIONS.get(handler))


async def _healthz(_: Request) -> Response:
    """The process answers."""
    return JSON({"status": "ok"})


def _readyz(app: App) -> Callable[[Request], Awaitable[Response]]:
    """Whether this process should be sent requests: its database takes writes, and it is not stopping."""

    async def ready(_: Request) -> Response:
        if app.draining.is_set():
            return problem("storage_unavailable", "this process is stopping")
        try:
            await app.store.ready()
        except StorageUnavailable as error:
            return problem("storage_unavailable", str(error))
        return JSON({"status": "ready"})

    return ready


def _metrics(app: App) -> Callable[[Request], Awaitable[Response]]:
    """What this process has counted, for Prometheus; there is no id and no secret in it.

    The database's size is read with each scrape, and what is not done yet every ten seconds at most; while it does not
    answer, what was read last stands.
    """
    wanted = digest(app.settings.metrics_key) if app.settings.metrics_key else None

    again_at = 0

    async def metrics(request: Request) -> Response:
        given = auth.bearer(request)
        if wanted and not (given and hmac.compare_digest(digest(given), wanted)):
            return problem("unauthorized", "send RELAY_METRICS_KEY as Authorization: Bearer <key>")
        nonlocal again_at
        with contextlib.suppress(StorageUnavailable):
            app.metrics.database_size(await app.store.size_bytes())
            if app.clock.monotonic_ms() >= again_at:
                again_at = app.clock.monotonic_ms() + BACKLOG_EVERY_MS
                app.metrics.backlog(await app.store.backlog(), app.clock.now_ms())
        return Response(app.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return metrics


def _webhook_keys(app: App) -> Callable[[Request], Awaitable[Response]]:
    """The public keys that `v1a` signatures are verified with, all projects' or those of `?project=`.

    Anybody may have them, and keep them for an hour.
    """

    async def keys(request: Request) -> Response:
        try:
            public = await app.store.signing_keys.public(request.query_params.get("project"))
        except StorageUnavailable as error:
            return of_error(error)
        return JSON(serializers.webhook_keys(public), headers={"cache-control": "public, max-age=3600"})

    return keys


async def _http_problem(request: Request, error: Exception) -> Response:
    """What the router refuses, as a problem document."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        response = problem("method_not_allowed", "this path does not take this method")
        response.headers["allow"] = _allowed(request)
        return response
    return problem("not_found", "there is no such path")


def _allowed(request: Request) -> str:
    """Every method of the path: Starlette itself names only those of the first route with it."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for methods in matching for method in methods}))


async def _broken(request: Request, error: Exception) -> Response:
    """A bug: the log has it, the caller gets no details."""
    _logger.error("request.broke", method=request.method, path=request.url.path, exc_info=error)
    return problem("internal", f"relay could not do this; the log says why, at request {request_ids.CURRENT.get()}")
