"""Calls providers over HTTP/1.1. If a call fails, the exception says whether the request can have arrived.

That matters because a submission may cost money. So each call opens its own connection: if a provider closed a kept one
just as it was used again, the failure would look like a lost answer, and a job that was never sent would become
`submit_unknown`. A GET costs nothing and may be repeated: it uses kept connections, one pool for each origin. If a kept
connection closes before a byte of an answer, or answers with the 408 that some servers write to an idle connection, the
GET is sent once more on a new one.

The operator configures the origins, so the URL policy does not apply. Retries are the callers' decision, no redirect is
followed, and no proxy is used.
"""

import asyncio
import base64
import re
import string
from collections.abc import AsyncIterator, Mapping
from functools import partial
from types import TracebackType
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import msgspec

from relay import __version__
from relay.model.provider_http import KEPT_HEADERS, ProviderRequest, ProviderResponse
from relay.outbound import dialing
from relay.outbound.connection import Connection, ExchangeFailed, Response
from relay.outbound.inflating import Body, read_body
from relay.outbound.pool import Origin, Pool
from relay.outbound.resolver import LOOKUP_TIMED_OUT, NAME_FAILED, NameFailed, Resolver
from relay.outbound.trust import Trust
from relay.security.redaction import Redactor

RESPONSE_MAX_BYTES: Final = 1 << 20
FAULTY_MAX_BYTES: Final = 65_536
"""Kept of a body with a fault: it is quoted and never parsed, and redacting a mebibyte takes 7 ms."""
CONNECTIONS_MAX: Final = 256
"""Limit of the calls under way at one origin: of GETs, and of all others."""
CONNECT_S: Final = 10.0
KEEPALIVE_S: Final = 30.0

_READ_HEADERS: Final = KEPT_HEADERS | {"content-type", "content-encoding"}
_REQUEST_TIMEOUT: Final = 408
_PORTS: Final = {"http": 80, "https": 443}
_TARGET: Final = re.compile(r"/[!-\"$-~]*")
_PRINTABLE: Final = string.punctuation


class NotSent(Exception):
    """The request did not arrive: no connection was made."""


class NoAnswer(Exception):
    """The request may have arrived, but no complete response was received."""


class _Connection(Connection):
    """A connection to a provider: it keeps the whole body up to the limit, and the headers that adapters read."""

    body_max_bytes = RESPONSE_MAX_BYTES
    kept_bytes = RESPONSE_MAX_BYTES
    lines_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers that adapters read."""
        super().on_header(name, value)
        lower = name.decode("latin-1").lower()
        if lower in _READ_HEADERS and not self._head_ended:
            headers = self._response.headers = self._response.headers or {}
            text = value.decode("latin-1").strip()
            headers[lower] = f"{headers[lower]}, {text}" if lower in headers else text


class _Place:
    """An origin: where it is, how each request to it begins, its kept connections, and its slots for calls."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        host = host if host.isascii() else host.encode("idna").decode()
        authority = f"[{host}]" if ":" in host else host
        authority += "" if port == _PORTS[parts.scheme] else f":{port}"
        self.origin: Origin = (parts.scheme, host, port)
        self.target = parts.path + (f"?{parts.query}" if parts.query else "")
        self.head = (
            f"host: {authority}\r\nuser-agent: relay/{__version__}\r\naccept: application/json\r\n"
            "accept-encoding: identity\r\n"
        )
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self.head += f"authorization: Basic {base64.b64encode(credentials).decode()}\r\n"
        self.pool = Pool(2 * CONNECTIONS_MAX, KEEPALIVE_S)
        self.slots = {repeatable: asyncio.Semaphore(CONNECTIONS_MAX) for repeatable in (False, True)}


class ProviderClient:
    """The client of all providers.

    `resolver` and `trust` are shared with the other clients; `redactor` removes known secrets from responses.
    """

    def __init__(
        self, resolver: Resolver | None = None, trust: Trust | None = None, redactor: Redactor | None = None
    ) -> None:
        self._resolver = resolver or Resolver()
        self._trust = trust or Trust()
        self._redactor = redactor
        self._places: dict[str, _Place] = {}

    async def send(
        self, origin: str, authorization: str, request: ProviderRequest, timeout_s: float
    ) -> ProviderResponse:
        """Return the provider's response within `timeout_s`, its body cut at RESPONSE_MAX_BYTES after inflating.

        `authorization` is that header's value, sent unless the request says that the key must not be.
        Raise NotSent if no connection was made, NoAnswer if no complete response was received in time.
        """
        place = self._places.get(origin) or self._places.setdefault(origin, _Place(origin))
        content, repeatable = _request(place, authorization, request), request.method == "GET"
        began_s = asyncio.get_running_loop().time()
        deadline_s, connected_by_s = began_s + timeout_s, began_s + min(timeout_s, CONNECT_S)
        await _wait_for_slot(place.slots[repeatable], connected_by_s)
        try:
            answer = await self._reuse(place, content, deadline_s) if repeatable else None
            if answer is None:
                connection = await self._open(place, connected_by_s)
                answer = await _exchange(connection, content, deadline_s)
                if repeatable:
                    place.pool.keep(place.origin, connection, asyncio.get_running_loop().time())
                else:
                    connection.close()
        except ExchangeFailed as failed:
            raise NoAnswer("no answer in time" if failed.timed_out else str(failed)) from None
        finally:
            place.slots[repeatable].release()
        return await self._read(answer)

    async def _reuse(self, place: _Place, content: bytes, deadline_s: float) -> Response | None:
        """Return the answer over a kept connection; None if there is none, or if the provider had closed it."""
        connection = place.pool.reuse(place.origin, asyncio.get_running_loop().time())
        if connection is None:
            return None
        try:
            answer = await _exchange(connection, content, deadline_s)
        except ExchangeFailed as failed:
            if failed.started or failed.timed_out:
                raise
            return None
        place.pool.keep(place.origin, connection, asyncio.get_running_loop().time())
        return answer if answer.status != _REQUEST_TIMEOUT else None

    async def _open(self, place: _Place, until_s: float) -> Connection:
        """Return a new connection to the origin; raise NotSent if there is none in time."""
        scheme, host, port = place.origin
        failure = LOOKUP_TIMED_OUT
        try:
            async with asyncio.timeout_at(until_s):
                addresses = await self._resolver.addresses(host)
                failure = "no connection in time"
                with place.pool.opening():
                    opened = await dialing.open_socket(addresses, port)
                    make = partial(_Connection, asyncio.get_running_loop(), place.pool.discard)
                    tls = await self._trust.context() if scheme == "https" else None
                    connection = await dialing.start_protocol(opened, make, tls, host)
                    if connection.is_open:
                        place.pool.add(connection)
                    return connection
        except NameFailed:
            raise NotSent(NAME_FAILED) from None
        except TimeoutError:
            raise NotSent(failure) from None
        except OSError as error:
            raise NotSent(dialing.failure_reason(error)) from None

    async def _read(self, answer: Response) -> ProviderResponse:
        """Return an answer without known secrets, its body inflated; raise NoAnswer if its end is missing."""
        too_long = answer.size > RESPONSE_MAX_BYTES
        if not answer.whole and not too_long:
            raise NoAnswer(answer.note or "the connection broke")
        headers = answer.headers or {}
        content, encoding = bytes(answer.body), headers.get("content-encoding")
        body = await read_body(_piece(content), encoding, RESPONSE_MAX_BYTES) if encoding else Body(content)
        fault = body.fault or (f"is longer than {RESPONSE_MAX_BYTES} bytes" if too_long else None)
        return await provider_response(answer.status, headers, Body(body.content, fault), self._redactor)

    async def __aenter__(self) -> "ProviderClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(place.pool.close() for place in self._places.values()))


async def provider_response(
    status_code: int, headers: Mapping[str, str], body: Body, redactor: Redactor | None
) -> ProviderResponse:
    """Return a response without known secrets (names of headers in lower case).

    A body with a fault is cut at FAULTY_MAX_BYTES.
    """
    content = body.content if body.fault is None else body.content[:FAULTY_MAX_BYTES]
    return ProviderResponse(
        status_code=status_code,
        content_type=headers.get("content-type", ""),
        body=content if redactor is None else await redactor.body_stepwise(content),
        headers={name: value for name, value in headers.items() if name in KEPT_HEADERS},
        fault=body.fault,
    )


async def _wait_for_slot(slots: asyncio.Semaphore, until_s: float) -> None:
    """Take a slot; raise NotSent if none is free in time."""
    if not slots.locked():
        await slots.acquire()
        return
    try:
        async with asyncio.timeout_at(until_s):
            await slots.acquire()
    except TimeoutError:
        raise NotSent("no free connection in time") from None


async def _exchange(connection: Connection, content: bytes, deadline_s: float) -> Response:
    """Send a request and return its answer; close the connection if the caller is cancelled."""
    try:
        return await connection.exchange(content, deadline_s)
    except asyncio.CancelledError:
        connection.abort()
        raise


async def _piece(content: bytes) -> AsyncIterator[bytes]:
    """Yield a body as one piece."""
    yield content


def _request(place: _Place, authorization: str, request: ProviderRequest) -> bytes:
    """Return a request's bytes; raise NotSent if a header contains a line break or NUL."""
    body = b"" if request.body is None else msgspec.json.encode(request.body)
    headers = {"authorization": authorization} if request.bearer else {}
    if request.body is not None:
        headers["content-type"] = "application/json"
    headers |= request.headers
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    if body or request.method != "GET":
        lines.append(f"content-length: {len(body)}\r\n")
    fields = "".join(lines)
    if fields.count("\n") > len(lines) or fields.count("\r") > len(lines) or "\x00" in fields:
        raise NotSent("a header cannot be sent")
    return (
        f"{request.method} {_target(place.target + request.path)} HTTP/1.1\r\n{place.head}{fields}\r\n".encode() + body
    )


def _target(text: str) -> str:
    """Return path and query as they are, without a fragment; characters that a request line cannot hold are escaped."""
    target = text if text.startswith("/") else f"/{text}"
    return target if _TARGET.fullmatch(target) else quote(target.partition("#")[0], safe=_PRINTABLE)
