"""Sends notifications: one POST, over HTTP/1.1, to an address that was judged when the connection was made.

Whatever is at the other end, an attempt has one deadline over look-up, connection, TLS, headers and body; it follows no
redirect, uses no proxy (also none that the environment names), reads a bounded answer without inflating it, and never
connects to an address that the policy refuses. What counts is the status of the answer, not what else it looks like.

The URL goes out as it was given, byte for byte: no escape is decoded or added, no dot segment resolved. What cannot
stand in a request line (blanks, control characters, everything beyond ASCII) or would be cut off (a fragment) is
refused when the URL is given, and here again.

A connection is used again where it can be. If such a one breaks before a byte of an answer came, or answers the 408
that some servers write to an idle connection, its server most likely closed it meanwhile: the request goes out once
more on a new connection, within the same attempt and with the same `webhook-id`.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Mapping
from functools import lru_cache, partial
from types import TracebackType
from typing import Final

import msgspec

from relay.model import text
from relay.model.delivery import Outcome
from relay.outbound import dialing
from relay.outbound.connection import Broke, Connection, Response
from relay.outbound.pool import Origin, Pool
from relay.outbound.resolver import NAME_FAILED, NameFailed, Resolver
from relay.outbound.trust import tls_words
from relay.security.url_policy import ALLOW_NETWORKS, AddressPolicy

CONNECT_S: Final = 5.0
KEEPALIVE_S: Final = 30.0
URLS_MAX: Final = 2000
TLS_CLOSE_S: Final = 1.0

_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[^\]]*\]|[^:/?#]*)(?::(?P<port>[0-9]+))?(?P<target>.*)", re.IGNORECASE
)
_PORTS: Final = {"http": 80, "https": 443}
_REQUEST_TIMEOUT, _GONE = 408, 410
_REFUSED: Final = f"the host has an address that may not be called: it is not public ({ALLOW_NETWORKS} opens networks)"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one POST: `error` names the class of failure, never an address.

    With the outcome `ok` it is no error but a note: what was odd about the answer.
    """

    outcome: Outcome
    status_code: int | None = None
    error: str | None = None
    excerpt: str | None = None
    retry_after: str | None = None
    control: str | None = None


class _Target(msgspec.Struct, frozen=True):
    """Where a URL leads: `refusal` says why nowhere; `head` is the start of every request to it."""

    refusal: str | None
    origin: Origin = ("", "", 0)
    head: str = ""


class _Failed(Exception):
    """There was no answer, with the outcome that is, and its words."""

    def __init__(self, outcome: Outcome, words: str) -> None:
        super().__init__(words)
        self.outcome = outcome


class WebhookSender:
    """Sends notifications; one for the whole process.

    `tls` is whom it trusts. No more than `connections_max` are open at once; an idle one is kept for `keepalive_s`.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        resolver: Resolver,
        tls: ssl.SSLContext,
        *,
        connections_max: int,
        keepalive_s: float = KEEPALIVE_S,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._tls = tls
        self.pool = Pool(connections_max, keepalive_s)
        self._room = asyncio.Semaphore(connections_max)
        self._target = lru_cache(URLS_MAX)(partial(_target, policy))

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        """One attempt; always an Answer, within the deadline over everything."""
        target = self._target(url)
        if target.refusal is not None:
            return Answer(outcome=Outcome.ADDRESS_REFUSED, error=target.refusal)
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        try:
            request = _request(target.head, headers, body)
            if self._room.locked():
                await self._wait_for_room(deadline_s)
            else:
                await self._room.acquire()
            try:
                response = await self._exchange(target.origin, request, deadline_s)
            finally:
                self._room.release()
        except _Failed as failed:
            return Answer(outcome=failed.outcome, error=str(failed))
        except Broke as broke:
            if broke.late:
                return Answer(outcome=Outcome.TIMEOUT, error=f"no answer within {timeout_s:g} s")
            return Answer(outcome=Outcome.UNREACHABLE, error=str(broke))
        return _answer(response)

    async def _wait_for_room(self, deadline_s: float) -> None:
        """Waits until fewer connections are under way."""
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._room.acquire()
        except TimeoutError:
            raise _Failed(Outcome.TIMEOUT, "no free connection in time") from None

    async def _exchange(self, origin: Origin, request: bytes, deadline_s: float) -> Response:
        """The answer to a request: over a connection that waits for one, else, or where that one is over, a new one."""
        loop = asyncio.get_running_loop()
        connection = self.pool.take(origin, loop.time())
        if connection is not None:
            try:
                response = await self._over(connection, origin, request, deadline_s)
            except Broke as broke:
                if broke.answered or broke.late:
                    raise
            else:
                if response.status != _REQUEST_TIMEOUT:
                    return response
        connection = await self._open(origin, deadline_s)
        return await self._over(connection, origin, request, deadline_s)

    async def _over(self, connection: Connection, origin: Origin, request: bytes, deadline_s: float) -> Response:
        """The answer over this connection, which waits for another request then, where it can."""
        try:
            response = await connection.exchange(request, deadline_s)
        except asyncio.CancelledError:
            connection.abort()
            raise
        self.pool.give(origin, connection, asyncio.get_running_loop().time())
        return response

    async def _open(self, origin: Origin, deadline_s: float) -> Connection:
        """A new connection to a judged address of the host; _Failed with the reason where there is none in time."""
        _, host, port = origin
        doing = "the host's name was not looked up"
        try:
            async with asyncio.timeout_at(deadline_s):
                addresses = await self._resolver.addresses(host)
                if not all(self._policy.may_connect(address.host) for address in addresses):
                    raise _Failed(Outcome.ADDRESS_REFUSED, _REFUSED)
                doing = "no connection"
                try:
                    with self.pool.room():
                        async with asyncio.timeout(CONNECT_S):
                            made = await dialing.connected(addresses, port)
                        doing = "no TLS connection"
                        return await self._begin(made, origin)
                except TimeoutError as error:
                    if asyncio.get_running_loop().time() >= deadline_s:
                        raise
                    words = dialing.failure_class(error, f"no connection within {CONNECT_S:g} s")
                    raise _Failed(Outcome.TIMEOUT, words) from None
        except NameFailed:
            raise _Failed(Outcome.DNS_FAILED, NAME_FAILED) from None
        except TimeoutError:
            raise _Failed(Outcome.TIMEOUT, f"{doing} in time") from None
        except OSError as error:
            raise _Failed(Outcome.UNREACHABLE, dialing.failure_class(error)) from None

    async def _begin(self, made: socket.socket, origin: Origin) -> Connection:
        """HTTP over a connected socket, over TLS where the scheme says so."""
        loop = asyncio.get_running_loop()
        scheme, host, _ = origin

        def protocol() -> Connection:
            return Connection(loop, self.pool.lost)

        try:
            if scheme == "http":
                _, connection = await loop.create_connection(protocol, sock=made)
            else:
                _, connection = await loop.create_connection(
                    protocol, sock=made, ssl=self._tls, server_hostname=host, ssl_shutdown_timeout=TLS_CLOSE_S
                )
        except (ssl.SSLError, ssl.CertificateError, ConnectionError) as error:
            raise _Failed(Outcome.TLS_FAILED, tls_words(error)) from None
        if connection.is_open:
            self.pool.opened(connection)
        return connection

    async def __aenter__(self) -> "WebhookSender":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.pool.close()


def _target(policy: AddressPolicy, url: str) -> _Target:
    """Where a URL leads, and how a request to it begins."""
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
    """The whole request; a header that would be more than one line is refused."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if name.lower() != "content-length"]
    fields = "".join(lines)
    if fields.count("\n") > len(lines) or fields.count("\r") > len(lines) or "\x00" in fields:
        raise _Failed(Outcome.UNREACHABLE, "a header of the endpoint cannot be sent")
    return f"{head}{fields}content-length: {len(body)}\r\n\r\n".encode() + body


def _answer(response: Response) -> Answer:
    """What an answer is worth: its status says so."""
    status, note = response.status, response.note
    outcome, error = Outcome.OK, None
    if not 200 <= status < 300:
        outcome = Outcome.ENDPOINT_GONE if status == _GONE else Outcome.BAD_STATUS
        error = f"HTTP {status}" + (", and redirects are not followed" if 300 <= status < 400 else "")
    return Answer(
        outcome=outcome,
        status_code=status,
        error="; ".join(filter(None, (error, note))) or None,
        excerpt=text.kept(response.body.decode("utf-8", "replace")) or None if response.body else None,
        retry_after=response.retry_after,
        control=response.control,
    )
