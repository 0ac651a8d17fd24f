"""Sends a notification: one POST over HTTP/1.1, to an address that the URL policy allowed for this connection.

One deadline covers lookup, connection, TLS, headers and body. The sender follows no redirect, uses no proxy (even if
the environment names one), reads a limited part of the response without inflating it, and never connects to an address
that the policy refuses. The response's status decides the outcome. Retries are the dispatcher's decision.

The URL is sent unchanged, byte for byte: escapes and dot segments stay. Blanks, control characters, non-ASCII and
fragments are refused when an endpoint is created, and here again.

Connections are reused. If a reused connection closes before a byte of a response, or answers with the 408 that some
servers write to an idle connection, the server had most likely closed it already: the request is sent once more on a
new connection, within the same attempt and with the same `webhook-id`.
"""

import asyncio
import re
import resource
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from time import perf_counter
from types import TracebackType
from typing import Final

import msgspec

from relay.model import text
from relay.model.delivery import Outcome
from relay.model.exchange import Timings
from relay.outbound import dialing
from relay.outbound.connection import Connection, ExchangeFailed, Response
from relay.outbound.open_files import open_files_max
from relay.outbound.pool import Origin, Pool
from relay.outbound.resolver import NAME_FAILED, NameFailed, Resolver
from relay.outbound.trust import Trust
from relay.security.url_policy import ALLOW_NETWORKS, AddressPolicy

CONNECT_S: Final = 5.0
KEEPALIVE_S: Final = 30.0
KEPT_MAX: Final = 1000
"""So many connections may be open, idle ones included, where fewer attempts are allowed concurrently …"""
KEPT_FILES_PART: Final = 8
"""… unless that is more than this part of the files that the process may open."""
URLS_MAX: Final = 2000

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[^\]]*\]|[^:/?#]*)(?::(?P<port>[0-9]+))?(?P<target>.*)", re.IGNORECASE
)
_PORTS: Final = {"http": 80, "https": 443}
_REQUEST_TIMEOUT, _GONE = 408, 410
_REFUSED: Final = f"the host has an address that may not be called: it is not public ({ALLOW_NETWORKS} opens networks)"


class PostResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one POST. `excerpt` is the start of the body, `retry_after` and `control` are response headers.

    `timings` is how its time was spent, and `headers` the start of the response's headers, a line each. `error` is the
    reason of the failure, without addresses; with the outcome `ok`, a note about an irregular response.
    """

    outcome: Outcome
    status_code: int | None = None
    error: str | None = None
    excerpt: str | None = None
    retry_after: str | None = None
    control: str | None = None
    timings: Timings = msgspec.field(default_factory=Timings)
    headers: Sequence[bytes] = ()


class _Target(msgspec.Struct, frozen=True):
    """A parsed URL: `head` starts every request to it; `refusal` says why it may not be called, or is None."""

    refusal: str | None
    origin: Origin = ("", "", 0)
    head: str = ""


class _Failed(Exception):
    """The request was not sent: the outcome, and the reason as `str()`."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class WebhookSender:
    """Sends notifications; a process has one sender.

    At most `connections_max` requests run concurrently; an idle connection is kept for `keepalive_s`. More may be
    kept than that, because a new one costs half of a notification, and with TLS many times as much.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        resolver: Resolver,
        trust: Trust,
        *,
        connections_max: int,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._trust = trust
        self.pool = Pool(max(connections_max, _kept_max()), keepalive_s)
        self._free_slots = asyncio.Semaphore(connections_max)
        self._parse = lru_cache(URLS_MAX)(partial(_parse, policy))

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> PostResult:
        """Send one POST and return its result within `timeout_s`; no failure of the endpoint raises."""
        target = self._parse(url)
        if target.refusal is not None:
            return PostResult(outcome=Outcome.ADDRESS_REFUSED, error=target.refusal)
        deadline_s, timings = asyncio.get_running_loop().time() + timeout_s, Timings()
        try:
            request = _request(target.head, headers, body)
            if self._free_slots.locked():
                await self._wait_for_slot(deadline_s)
            else:
                await self._free_slots.acquire()
            try:
                response = await self._exchange(target.origin, request, deadline_s, timings)
            finally:
                self._free_slots.release()
        except _Failed as failed:
            return PostResult(outcome=failed.outcome, error=str(failed), timings=timings)
        except ExchangeFailed as failed:
            if failed.timed_out:
                return PostResult(outcome=Outcome.TIMEOUT, error=f"no answer within {timeout_s:g} s", timings=timings)
            return PostResult(outcome=Outcome.UNREACHABLE, error=str(failed), timings=timings)
        timings.wait_ms = response.wait_s * 1000
        return _result(response, timings)

    async def _wait_for_slot(self, deadline_s: float) -> None:
        """Wait for a free slot until the deadline."""
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._free_slots.acquire()
        except TimeoutError:
            raise _Failed(Outcome.TIMEOUT, "no free connection in time") from None

    async def _exchange(self, origin: Origin, request: bytes, deadline_s: float, timings: Timings) -> Response:
        """Return the response over a reused connection; over a new one if there is none, or if the server closed it."""
        connection = self.pool.reuse(origin, asyncio.get_running_loop().time())
        if connection is not None:
            try:
                response = await self._send(connection, origin, request, deadline_s)
            except ExchangeFailed as failed:
                if failed.started or failed.timed_out:
                    raise
            else:
                if response.status != _REQUEST_TIMEOUT:
                    return response
        connection = await self._open(origin, deadline_s, timings)
        return await self._send(connection, origin, request, deadline_s)

    async def _send(self, connection: Connection, origin: Origin, request: bytes, deadline_s: float) -> Response:
        """Return the response over this connection, then keep the connection for reuse."""
        try:
            response = await connection.exchange(request, deadline_s)
        except asyncio.CancelledError:
            connection.abort()
            raise
        self.pool.keep(origin, connection, asyncio.get_running_loop().time())
        return response

    async def _open(self, origin: Origin, deadline_s: float, timings: Timings) -> Connection:
        """Return a new connection to an allowed address of the host; raise _Failed if there is none in time."""
        _, host, port = origin
        began_s = perf_counter()
        failure = "the host's name was not looked up"
        try:
            async with asyncio.timeout_at(deadline_s):
                addresses = await self._resolver.addresses(host)
                found_s = perf_counter()
                timings.lookup_ms = (found_s - began_s) * 1000
                if not all(self._policy.may_connect(address.host) for address in addresses):
                    raise _Failed(Outcome.ADDRESS_REFUSED, _REFUSED)
                failure = "no connection"
                try:
                    with self.pool.opening():
                        async with asyncio.timeout(CONNECT_S):
                            opened = await dialing.open_socket(addresses, port)
                        timings.connect_ms = (perf_counter() - found_s) * 1000
                        failure = "no TLS connection"
                        make = partial(Connection, asyncio.get_running_loop(), self.pool.discard)
                        connection = await self._start(opened, make, origin, timings)
                        if connection.is_open:
                            self.pool.add(connection)
                        return connection
                except TimeoutError as error:
                    if asyncio.get_running_loop().time() >= deadline_s:
                        raise
                    reason = dialing.failure_reason(error, f"no connection within {CONNECT_S:g} s")
                    raise _Failed(Outcome.TIMEOUT, reason) from None
        except NameFailed:
            raise _Failed(Outcome.DNS_FAILED, NAME_FAILED) from None
        except TimeoutError:
            raise _Failed(Outcome.TIMEOUT, f"{failure} in time") from None
        except dialing.TLSFailed as error:
            raise _Failed(Outcome.TLS_FAILED, str(error)) from None
        except OSError as error:
            raise _Failed(Outcome.UNREACHABLE, dialing.failure_reason(error)) from None

    async def _start(
        self, opened: socket.socket, make: Callable[[], Connection], origin: Origin, timings: Timings
    ) -> Connection:
        """Return the connection over an open socket, with TLS for an https origin."""
        scheme, host, _ = origin
        if scheme != "https":
            return await dialing.start_protocol(opened, make, None, host)
        tls = await self._trust.context()
        began_s = perf_counter()
        connection = await dialing.start_protocol(opened, make, tls, host)
        timings.tls_ms = (perf_counter() - began_s) * 1000
        return connection

    async def __aenter__(self) -> "WebhookSender":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pool.close()


def _kept_max() -> int:
    """Return how many connections to keep open, by the limit on open files."""
    files = open_files_max()
    return KEPT_MAX if files == resource.RLIM_INFINITY else min(KEPT_MAX, files // KEPT_FILES_PART)


def _parse(policy: AddressPolicy, url: str) -> _Target:
    """Return where a URL leads and how a request to it begins, or why the policy refuses it."""
    refusals = policy.check_url(url)
    parts = None if refusals else _URL.fullmatch(url)
    if parts is None:
        return _Target(refusals[0] if refusals else "must be a URL such as https://app.example/hook")
    scheme, host, target = parts["scheme"].lower(), parts["host"].lower(), parts["target"]
    port = int(parts["port"] or _PORTS[scheme])
    authority = host if port == _PORTS[scheme] else f"{host}:{port}"
    path = target if target.startswith("/") else f"/{target}"
    return _Target(None, (scheme, host.strip("[]"), port), f"POST {path} HTTP/1.1\r\nhost: {authority}\r\n")


def _request(head: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the request's bytes; raise _Failed if a header contains a line break or NUL."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if name.lower() != "content-length"]
    fields = "".join(lines)
    if fields.count("\n") > len(lines) or fields.count("\r") > len(lines) or "\x00" in fields:
        raise _Failed(Outcome.UNREACHABLE, "a header of the endpoint cannot be sent")
    return f"{head}{fields}content-length: {len(body)}\r\n\r\n".encode() + body


def _result(response: Response, timings: Timings) -> PostResult:
    """Return the result of a POST that has a response; the status decides the outcome."""
    status, note = response.status, response.note
    outcome, error = Outcome.OK, None
    if not 200 <= status < 300:
        outcome = Outcome.ENDPOINT_GONE if status == _GONE else Outcome.BAD_STATUS
        error = f"HTTP {status}" + (", and redirects are not followed" if 300 <= status < 400 else "")
    return PostResult(
        outcome=outcome,
        status_code=status,
        error="; ".join(filter(None, (error, note))) or None,
        excerpt=text.kept(response.body.decode("utf-8", "replace")) or None if response.body else None,
        retry_after=response.retry_after,
        control=response.control,
        timings=timings,
        headers=response.lines,
    )
