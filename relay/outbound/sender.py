"""Notifications on their way out: one POST to an address that was checked at the moment of connecting.

The seam between delivery and the HTTP library: whatever is behind it, an attempt has one deadline over everything,
follows no redirect, reads a bounded answer without inflating it, and never connects to an address the policy refuses.

`python -m bench senders`, 64 in flight, guard, deadline and cap in place, plain and over TLS: aiohttp 6,228 and 5,705 a
second, pyreqwest 11,545 and 9,180, one shared httpx client 222 and 249. aiohttp is here because its resolver hook is
public API (each connection goes to an address that was judged for it), and because more than one person keeps it.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from relay import text
from relay.addresses import AddressPolicy
from relay.outbox import Outcome

RESPONSE_MAX_BYTES: Final = 16 * 1024
EXCERPT_BYTES: Final = 4 * 1024
CONNECT_S: Final = 5.0
URLS_MAX: Final = 2000


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one POST: `error` names the class of failure, never an address."""

    outcome: Outcome
    status_code: int | None = None
    error: str | None = None
    excerpt: str | None = None
    retry_after: str | None = None
    control: str | None = None


class Sender:
    """Sends notifications; one for the whole process."""

    def __init__(self, policy: AddressPolicy, connections_max: int) -> None:
        self._refusals = lru_cache(URLS_MAX)(policy.check_url)  # what the name resolves to is judged at each connection
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_GuardedResolver(policy),
                limit=connections_max,
                limit_per_host=0,
                use_dns_cache=False,
                keepalive_timeout=30,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        )

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        """One attempt; always an Answer, within the deadline over DNS, connect, TLS, headers and body."""
        refusals = self._refusals(url)
        if refusals:
            return Answer(outcome=Outcome.ADDRESS_REFUSED, error=refusals[0])
        try:
            async with asyncio.timeout(timeout_s):
                return await self._exchange(url, headers, body)
        except aiohttp.ServerTimeoutError:
            return Answer(outcome=Outcome.TIMEOUT, error=f"no connection within {CONNECT_S:g} s")
        except TimeoutError:
            return Answer(outcome=Outcome.TIMEOUT, error=f"no complete answer within {timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _failure(error)

    async def _exchange(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """The request, and a bounded look at the answer."""
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            held, whole = await _read(response)
            outcome = Outcome.OK if 200 <= response.status < 300 else Outcome.BAD_STATUS
            if response.status == 410:
                outcome = Outcome.ENDPOINT_GONE
            if not whole:
                response.close()
                outcome = Outcome.RESPONSE_TOO_LARGE
            return Answer(
                outcome=outcome,
                status_code=response.status,
                error=None if outcome is Outcome.OK else _bad_status(response.status, whole),
                excerpt=text.kept(held[:EXCERPT_BYTES].decode("utf-8", "replace")) or None,
                retry_after=response.headers.get("retry-after"),
                control=response.headers.get("webhook-delivery", "").strip().lower() or None,
            )

    async def __aenter__(self) -> "Sender":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()


class _GuardedResolver(AbstractResolver):
    """Resolves a name to addresses that may be called; the connection is made to one of these and no other."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Every resolved address must pass; one that does not refuses the name."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        except OSError as error:
            raise _DnsFailed from error
        addresses = [(kind, sockaddr) for kind, _, _, _, sockaddr in found]
        if not addresses or not all(self._policy.may_connect(str(sockaddr[0])) for _, sockaddr in addresses):
            raise _AddressRefused
        return [_resolved(host, kind, sockaddr) for kind, sockaddr in addresses]

    async def close(self) -> None:
        """Nothing is kept open."""


class _DnsFailed(OSError):
    """The name has no address."""


class _AddressRefused(OSError):
    """The name has an address that may not be called."""


def _resolved(host: str, family: int, sockaddr: tuple[Any, ...]) -> ResolveResult:
    """An address in the client's terms."""
    return ResolveResult(
        hostname=host, host=str(sockaddr[0]), port=int(sockaddr[1]), family=family, proto=0, flags=socket.AI_NUMERICHOST
    )


async def _read(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """At most 16 KiB of the answer, and whether that was all of it."""
    held = bytearray()
    async for piece in response.content.iter_any():
        held += piece
        if len(held) > RESPONSE_MAX_BYTES:
            return bytes(held[:RESPONSE_MAX_BYTES]), False
    return bytes(held), True


def _bad_status(status_code: int, whole: bool) -> str:
    """Why an answer is no success."""
    if not whole:
        return f"HTTP {status_code} with more than {RESPONSE_MAX_BYTES} bytes"
    return f"HTTP {status_code}" + (", and redirects are not followed" if 300 <= status_code < 400 else "")


def _failure(error: Exception) -> Answer:
    """The outcome word for what went wrong before there was an answer."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or getattr(cause, "os_error", None) or cause.__context__
    if any(isinstance(cause, _AddressRefused) for cause in causes):
        return Answer(outcome=Outcome.ADDRESS_REFUSED, error="the host has an address that may not be called")
    if any(isinstance(cause, _DnsFailed) for cause in causes):
        return Answer(outcome=Outcome.DNS_FAILED, error="the host's name has no address")
    if any(isinstance(cause, ssl.SSLError | ssl.CertificateError | aiohttp.ClientSSLError) for cause in causes):
        return Answer(outcome=Outcome.TLS_FAILED, error="TLS failed: the certificate or the handshake")
    if isinstance(error, aiohttp.ClientConnectorError):
        return Answer(outcome=Outcome.UNREACHABLE, error="no connection")
    return Answer(outcome=Outcome.UNREACHABLE, error="the connection broke before a whole answer came")


def host_of(url: str) -> str:
    """The host for a log line."""
    return urlsplit(url).hostname or ""
