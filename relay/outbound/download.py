"""Downloads a result from its URL, piece by piece: nothing is kept here, and nothing is retried.

Result URLs come from providers, so they are not trusted: the URL policy judges each of them, that of every redirect
too, and each address at the moment of its connection. A URL is sent as it stands, because most are signed.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urljoin

import msgspec

from relay import __version__
from relay.model.archive import CopyErrorCode
from relay.model.result_urls import URL_MAX_CHARS, trimmed
from relay.outbound.dialing import failure_reason
from relay.outbound.file_upload import request_target
from relay.outbound.provider_client import CONNECT_S
from relay.outbound.resolver import Resolver
from relay.outbound.trust import Trust
from relay.security.url_policy import AddressPolicy

if TYPE_CHECKING:
    import httpx

REDIRECTS_MAX: Final = 5
SILENCE_S: Final = 30.0
"""How long a server may send nothing; the deadline of the whole download is the caller's."""
CONNECTIONS_MAX: Final = 1000
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_LATER: Final = frozenset({408, 421, 425, 429})
"""Client errors that say nothing about the result; all others, and a signature's 403 first, say that it is gone."""
_UNSAFE: Final = re.compile(r"[^!-\[\]-~]")
_SAFE: Final = "".join(map(chr, range(0x21, 0x7F))).replace("\\", "")


class DownloadFailed(Exception):
    """The result was not downloaded; `str()` says why, without addresses and without its URL."""

    def __init__(self, code: CopyErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Download(msgspec.Struct, frozen=True):
    """An answer whose body can be read: its length, if the answer has it, and its pieces.

    `pieces` raises DownloadFailed where the body breaks off.
    """

    size: int | None
    pieces: AsyncIterator[bytes]


class ResultKey(msgspec.Struct, frozen=True):
    """The API key of a result that needs one: its Authorization header, None if no key is set.

    It is sent to `origin`, the provider's configured one, and nowhere else, whatever redirects there are.
    """

    origin: str
    authorization: str | None

    def header(self, url: str) -> str | None:
        """Return the Authorization header for a URL, None for one that must not get it."""
        return self.authorization if url.startswith(f"{self.origin}/") else None


class Downloader:
    """Downloads results; each opens its own connections."""

    def __init__(self, policy: AddressPolicy, resolver: Resolver, trust: Trust) -> None:
        self._policy = policy
        self._resolver = resolver
        self._trust = trust
        self._http: httpx.AsyncClient | None = None
        """Made for the first download: httpx takes 25 ms and 4 MB to load."""

    @asynccontextmanager
    async def open(self, url: str, key: ResultKey | None) -> AsyncIterator[Download]:
        """Follow redirects to the result and yield it; raise DownloadFailed. The deadline is the caller's.

        `key` is that of a result that needs one.
        """
        url, key_sent = fetchable(url), False
        for _ in range(REDIRECTS_MAX + 1):
            if refusals := self._policy.check_url(url, URL_MAX_CHARS):
                raise DownloadFailed(CopyErrorCode.ADDRESS_REFUSED, f"the result's URL {refusals[0]}")
            authorization = None if key is None else key.header(url)
            async with self._stream(url, authorization) as response:
                if response.status_code not in _REDIRECTS:
                    key_counts = key is not None and (authorization is not None or not key_sent)
                    if key is not None and key_counts and response.status_code in (401, 403):
                        raise _refused(response.status_code, key, sent=authorization is not None)
                    yield Download(_size(response), _pieces(response))
                    return
                key_sent = key_sent or authorization is not None
                url = _redirected(url, response.headers.get("location", ""))
        raise DownloadFailed(CopyErrorCode.UNREACHABLE, f"more than {REDIRECTS_MAX} redirects")

    @asynccontextmanager
    async def _stream(self, url: str, authorization: str | None) -> AsyncIterator["httpx.Response"]:
        """Send one GET, and yield its answer before its body."""
        import httpx  # noqa: PLC0415

        from relay.outbound.httpx_transport import AddressRefused  # noqa: PLC0415

        http = await self._client()
        extensions: dict[str, Any] = {"target": target} if (target := request_target(url)) else {}
        headers = {} if authorization is None else {"authorization": authorization}
        try:
            request = http.build_request("GET", url, headers=headers, extensions=extensions)
            response = await http.send(request, stream=True)
        except AddressRefused:
            reason = "the result's URL leads to an address that the URL policy refuses"
            raise DownloadFailed(CopyErrorCode.ADDRESS_REFUSED, reason) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise DownloadFailed(CopyErrorCode.UNREACHABLE, _reason(error)) from None
        try:
            yield response
        finally:
            await response.aclose()

    async def _client(self) -> "httpx.AsyncClient":
        """Return the client of all downloads."""
        import httpx  # noqa: PLC0415

        from relay.outbound.httpx_transport import Transport  # noqa: PLC0415

        tls = await self._trust.context()
        if self._http is None:
            self._http = httpx.AsyncClient(
                transport=Transport(self._resolver, tls, CONNECTIONS_MAX, self._policy),
                follow_redirects=False,
                trust_env=False,
                timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
                headers={"user-agent": f"relay/{__version__}", "accept": "*/*", "accept-encoding": "identity"},
            )
        return self._http

    async def __aenter__(self) -> "Downloader":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.aclose()


def _redirected(url: str, location: str) -> str:
    """Return where an answer redirects to; raise DownloadFailed where that is no URL at all."""
    try:
        return fetchable(urljoin(url, location))
    except ValueError:
        raise DownloadFailed(CopyErrorCode.UNREACHABLE, "it redirects to what is no URL") from None


def fetchable(url: str) -> str:
    """Return a result's URL as a request can name it: blanks and other letters escaped, without a fragment."""
    bare = trimmed(url).partition("#")[0]
    return quote(bare, safe=_SAFE) if _UNSAFE.search(bare) else bare


def _refused(status: int, key: ResultKey, *, sent: bool) -> DownloadFailed:
    """Return the failure of a result that needs a key, and was refused with the key or without it."""
    reason = "it refuses the API key"
    if not sent:
        reason = "no API key was sent, because "
        reason += "none is set" if key.authorization is None else "the URL is not at the provider's configured address"
    return DownloadFailed(CopyErrorCode.KEY_REFUSED, f"the result's URL answers HTTP {status}: {reason}")


def _size(response: "httpx.Response") -> int | None:
    """Return the announced length, None if there is none; raise DownloadFailed for an answer that is no result."""
    status = response.status_code
    if 400 <= status < 500 and status not in _LATER:
        raise DownloadFailed(CopyErrorCode.GONE, f"the result's URL answers HTTP {status}")
    if status != 200:
        raise DownloadFailed(CopyErrorCode.UNREACHABLE, f"the result's URL answers HTTP {status}")
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise DownloadFailed(CopyErrorCode.UNREACHABLE, "the result comes compressed, which was not asked for")
    length = response.headers.get("content-length", "")
    return int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None


async def _pieces(response: "httpx.Response") -> AsyncIterator[bytes]:
    """Yield the body as it comes; raise DownloadFailed where it breaks off."""
    import httpx  # noqa: PLC0415

    try:
        async for piece in response.aiter_raw():
            yield piece
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise DownloadFailed(CopyErrorCode.UNREACHABLE, _reason(error, "its body was cut")) from None


def _reason(error: Exception, otherwise: str = "no connection") -> str:
    """Return why there is no answer, or no more of it, without URL and addresses."""
    import httpx  # noqa: PLC0415

    if isinstance(error, httpx.ConnectError):
        return f"the result's URL: {failure_reason(error, otherwise)}"
    if isinstance(error, httpx.TimeoutException):
        return f"the result's URL: {otherwise}: nothing came in time"
    return f"the result's URL: {otherwise}"
