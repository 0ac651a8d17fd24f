"""Files on their way to a provider: streamed from where they wait, and never held whole.

Where the URL is the operator's word it is called as it is. Where it came in a provider's answer (`guarded`) it is
somebody else's: it must be https, the address policy must take it, and every address that its name leads to. The
connection is then made to one of these very addresses, so a name that changes its mind between the look and the call
changes nothing; the certificate is still verified for the name.
"""

import asyncio
import re
import secrets
import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from relay import __version__
from relay.model.provider_http import FileRequest, ProviderResponse
from relay.outbound import inflating
from relay.outbound.provider_client import ANSWER_MAX_BYTES, CONNECT_S, NoAnswer, NotSent, redacted, words
from relay.outbound.provider_transport import NAME_LATE, Transport
from relay.outbound.resolver import NAME_FAILED, NameFailed, Resolver
from relay.outbound.trust import trusted
from relay.security.redaction import Redactor
from relay.security.url_policy import AddressPolicy

STEP_S: Final = 60.0
CONNECTIONS_MAX: Final = 32
ADDRESSES_MAX: Final = 4
_PLACE: Final = re.compile(r"[A-Za-z]+://[^/?#]*([!-\"$-~]*)(?:#.*)?")


class FileClient:
    """Sends files; every call has a connection of its own, follows no redirect and reads at most 1 MiB of an answer."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self._redactor = redactor
        self._policy = policy
        self._resolver = resolver or Resolver()
        self._http = httpx.AsyncClient(
            transport=Transport(self._resolver, tls or trusted(), CONNECTIONS_MAX),
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": f"relay/{__version__}", "accept": "application/json", "accept-encoding": "identity"},
        )

    async def send(
        self, request: FileRequest, pieces: AsyncIterator[bytes], api_key: str, timeout_s: float
    ) -> ProviderResponse:
        """The answer; NotSent where no connection was made or may be, NoAnswer where none came whole within the time.

        The pieces must add up to `size` bytes; no more than one of them is held.
        """
        head, tail, content_type = _frame(request)
        headers = {"authorization": f"Bearer {api_key}"} if request.bearer else {}
        headers |= {**request.headers, "content-type": content_type}
        headers["content-length"] = str(len(head) + request.size + len(tail))
        content = _framed(head, pieces, tail, request.size)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._to_first(request, content, headers)
        except TimeoutError as error:
            raise NoAnswer("no whole answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise NoAnswer("the connection broke") from error

    async def _to_first(
        self, request: FileRequest, content: AsyncIterator[bytes], headers: dict[str, str]
    ) -> ProviderResponse:
        """The answer of the first address that a connection can be made to; the content is not touched before."""
        reason = "no connection"
        for url, name in await self._targets(request):
            asked: dict[str, str] = headers | ({"host": urlsplit(request.url).netloc} if name else {})
            extensions: dict[str, Any] = {"sni_hostname": name} if name else {}
            if target := _target(request.url):
                extensions["target"] = target
            timeout = httpx.Timeout(STEP_S, connect=CONNECT_S, pool=CONNECT_S)
            stream = self._http.stream(
                request.method, url, content=content, headers=asked, timeout=timeout, extensions=extensions
            )
            try:
                async with stream as answer:
                    return redacted(await _read(answer), self._redactor)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                reason = words(error)
            except httpx.UnsupportedProtocol:
                reason = "no connection"
        raise NotSent(reason)

    async def _targets(self, request: FileRequest) -> list[tuple[httpx.URL, str | None]]:
        """Where to connect: the URL as it is, or with each checked address in place of the name it is verified for."""
        if not request.guarded:
            return [(httpx.URL(request.url), None)]
        refusals = [] if request.url.lower().startswith("https://") else ["must begin with https://"]
        if refusals := refusals or self._policy.check_url(request.url):
            raise NotSent(f"the provider named a place for the file that {refusals[0]}")
        parts = urlsplit(request.url)
        name = parts.hostname or ""
        try:
            async with asyncio.timeout(CONNECT_S):
                found = [address.host for address in await self._resolver.addresses(name)]
        except NameFailed:
            raise NotSent(f"the provider named a place for the file, but {NAME_FAILED}") from None
        except TimeoutError:
            raise NotSent(f"the provider named a place for the file, but {NAME_LATE}") from None
        if not all(self._policy.may_connect(address) for address in found):
            raise NotSent("the provider named a place for the file that has an address which may not be called")
        return [(httpx.URL(request.url).copy_with(host=address), name) for address in found[:ADDRESSES_MAX]]

    async def __aenter__(self) -> "FileClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


def _target(url: str) -> bytes | None:
    """Path and query as they were written, for a place may have signed them; None for what a request line cannot hold.

    httpx would resolve dot segments, and escape and unescape characters.
    """
    parts = _PLACE.fullmatch(url)
    return None if parts is None else (parts[1] if parts[1].startswith("/") else f"/{parts[1]}").encode("ascii")


def _frame(request: FileRequest) -> tuple[bytes, bytes, str]:
    """What stands before and behind the file, and the type of the whole."""
    if request.filename is None:
        return b"", b"", request.content_type
    boundary = secrets.token_hex(16)  # known to nobody, so that no file can end its own part and begin another
    head = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{request.filename}"\r\n'
        f"content-type: {request.content_type}\r\n\r\n"
    )
    return head.encode("ascii"), f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


async def _framed(head: bytes, pieces: AsyncIterator[bytes], tail: bytes, size: int) -> AsyncIterator[bytes]:
    """The body in its pieces; a file that is longer or shorter than was said breaks the connection."""
    if head:
        yield head
    async for piece in pieces:
        size -= len(piece)
        if size < 0:
            break
        yield piece
    if size:
        raise NoAnswer("the file is not as long as was said")
    if tail:
        yield tail


async def _read(answer: httpx.Response) -> ProviderResponse:
    """The answer, inflated where it is encoded, and cut at its limit; then it says so."""
    body = await inflating.read(answer.aiter_raw(), answer.headers.get("content-encoding", ""), ANSWER_MAX_BYTES)
    return ProviderResponse(
        status_code=answer.status_code,
        content_type=answer.headers.get("content-type", ""),
        body=body.content,
        fault=body.fault,
    )
