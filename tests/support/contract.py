"""Every answer of relay that the tests receive is held against the types of its route, which `/openapi.json` shows.

`watched` makes httpx check each answer that carries relay's `request-id`, wherever a test sends a request from.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx
import msgspec
import pytest

from relay.model.resources.envelopes import ProblemResource
from relay.web.api.api_request import ApiRoute, CsvResponse
from relay.web.api.events import EventStream
from relay.web.api.media import MediaResponse
from relay.web.openapi import problem_codes
from relay.web.problems import KINDS
from relay.web.routes import API

ROUTES: Final = [(route, re.compile(re.sub(r"\{\w+\}", "[^/]+", route.path))) for route in API]
EVERYWHERE: Final = {"method_not_allowed", "not_found"}
"""The problems of a path or method that is no route's."""


def route_of(method: str, path: str) -> ApiRoute | None:
    """Return the first route of a request, as the router finds it; None if there is none."""
    found = (route for route, pattern in ROUTES if route.method == method and pattern.fullmatch(path))
    return next(found, None)


SECRETS: Final = re.compile(
    rb"an-admin-key-for-the-tests|a-key-that-is-long-enough-to-sign|sandbox-key(?!-id)"
    rb"|callbacks(?:/|%2F|\\u002[fF]|&#x2F;)[a-z0-9]+(?:/|%2F|\\u002[fF]|&#x2F;)[A-Za-z0-9_-]{40,}"
)
"""What no answer holds, in whatever form it is escaped: the tests' keys, and the tokens of callback URLs."""


def check_secrets(response: httpx.Response) -> None:
    """Raise AssertionError if an answer of relay, page, export or metric, holds a key or a callback token."""
    found = SECRETS.search(response.content) if "request-id" in response.headers else None
    if found and found[0] not in response.request.content:  # a refusal may name a field as it was sent
        begin = max(0, found.start() - 80)
        context = response.content[begin : found.end() + 20]
        raise AssertionError(f"{response.request.method} {response.request.url.path} shows a secret: …{context!r}…")


def check(response: httpx.Response) -> None:
    """Raise AssertionError if an answer is not what its route declares: its status, its problem, or any field."""
    check_secrets(response)
    route = route_of(response.request.method, response.request.url.path)
    if route is None or "request-id" not in response.headers:
        return
    where = f"{route.method} {route.path} answers {response.status_code}"
    if response.is_error:
        problem = read(response.content, ProblemResource)
        assert problem.code in {*problem_codes(route), *EVERYWHERE}, f"{where} with {problem.code}, which is undeclared"
        assert problem.code == "internal" or KINDS[problem.code].status == response.status_code, where
        return
    assert response.status_code in route.answers, f"{where}, which is undeclared"
    kind = route.answers[response.status_code]
    if kind is None:
        assert response.content == b"", where
    elif kind is CsvResponse:
        assert response.headers["content-type"] == "text/csv; charset=utf-8", where
    elif kind not in (EventStream, MediaResponse):
        read(response.content, kind)


def read(content: bytes, kind: Any) -> Any:
    """Return the body as its type; raise AssertionError for a field that is missing, unknown or of another type."""
    given = msgspec.json.decode(content)
    try:
        found = msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise AssertionError(f"{kind}: {error}: {content[:2000]!r}") from None
    shown = msgspec.json.decode(msgspec.json.encode(found))
    assert shown == given, f"{kind} has other fields than {content[:2000]!r}"
    return found


@contextmanager
def watched() -> Iterator[None]:
    """Check each answer that httpx receives and reads whole, until the end."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(httpx.AsyncClient, "send", _checked_async(httpx.AsyncClient.send))
        patched.setattr(httpx.Client, "send", _checked(httpx.Client.send))
        yield


def _checked_async(send: Callable[..., Awaitable[httpx.Response]]) -> Callable[..., Awaitable[httpx.Response]]:
    """Return httpx's `send` with the check after it."""

    async def checked(client: httpx.AsyncClient, request: httpx.Request, *, stream: bool = False, **more: Any) -> Any:
        response = await send(client, request, stream=stream, **more)
        if not stream:
            check(response)
        return response

    return checked


def _checked(send: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    """Return httpx's `send` with the check after it."""

    def checked(client: httpx.Client, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        response = send(client, request, stream=stream, **more)
        if not stream:
            check(response)
        return response

    return checked
