"""Uploads files to providers, streamed piece by piece: no file is held in memory.

A URL that the operator configured is called as it is. A URL from a provider's response (`guarded`) is not trusted: it
must be https, and the URL policy must allow it and every address of its host. The connection then goes to one of these
checked addresses, so that DNS cannot change in between; the certificate is still verified for the name.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from relay import __version__
from relay.model.provider_http import FileRequest, ProviderResponse
from relay.outbound.dialing import failure_reason
from relay.outbound.inflating import read_body
from relay.outbound.provider_client import CONNECT_S, RESPONSE_MAX_BYTES, NoAnswer, NotSent, provider_response
from relay.outbound.resolver import LOOKUP_TIMED_OUT, NAME_FAILED, NameFailed, Resolver
from relay.outbound.trust import Trust
from relay.security.redaction import Redactor
from relay.security.url_policy import AddressPolicy

if TYPE_CHECKING:
    import httpx

STEP_S: Final = 60.0
"""Time-out of each read and write; the deadline of the whole upload is the caller's."""
CONNECTIONS_MAX: Final = 32
ADDRESSES_MAX: Final = 4
_URL: Final = re.compile(r"[A-Za-z]+://[^/?#]*([!-\"$-~]*)(?:#.*)?")


class _Destination(msgspec.Struct, frozen=True):
    """Where to connect: `url` has a checked address in place of `name`, or is the URL itself if `name` is None."""

    url: "httpx.URL"
    name: str | None = None


class _Framing(msgspec.Struct, frozen=True):
    """The bytes before and after the file, and the content type of the whole body."""

    head: bytes
    tail: bytes
    content_type: str


class FileClient:
    """Sends files; each call opens its own connection, follows no redirect and reads at most 1 MiB of a response."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        resolver: Resolver | None = None,
        trust: Trust | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self._redactor = redactor
        self._policy = policy
        self._resolver = resolver or Resolver()
        self._trust = trust or Trust()
        self._http: httpx.AsyncClient | None = None
        """Made for the first file: httpx takes 25 ms and 4 MB to load."""

    async def send(
        self, request: FileRequest, pieces: AsyncIterator[bytes], authorization: str, timeout_s: float
    ) -> ProviderResponse:
        """Return the provider's response. The pieces must add up to `request.size` bytes.

        A refusal may come before the end of the file. Raise NotSent if no connection was made or is allowed, NoAnswer
        if no complete response was received in time, or a success before the end of the file, which says nothing of it.
        """
        import httpx  # noqa: PLC0415

        framing = _framing(request)
        headers = {"authorization": authorization} if request.bearer else {}
        headers |= {**request.headers, "content-type": framing.content_type}
        headers["content-length"] = str(len(framing.head) + request.size + len(framing.tail))
        content = _content(framing, pieces, request.size)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._send_to_first(request, content, headers)
        except TimeoutError as error:
            raise NoAnswer("no whole answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise NoAnswer("the connection broke") from error

    async def _send_to_first(
        self, request: FileRequest, content: AsyncIterator[bytes], headers: dict[str, str]
    ) -> ProviderResponse:
        """Send to the first destination that accepts a connection; `content` is not read before."""
        import httpx  # noqa: PLC0415

        from relay.outbound.duplex import CUT  # noqa: PLC0415

        reason, http = "no connection", await self._client()
        for destination in await self._destinations(request):
            name = destination.name
            host = {"host": urlsplit(request.url).netloc} if name else {}
            extensions: dict[str, Any] = {"sni_hostname": name} if name else {}
            if target := request_target(request.url):
                extensions["target"] = target
            stream = http.stream(
                request.method,
                destination.url,
                content=content,
                headers=headers | host,
                timeout=httpx.Timeout(STEP_S, connect=CONNECT_S, pool=CONNECT_S),
                extensions=extensions,
            )
            try:
                async with stream as response:
                    if response.is_success and response.extensions["network_stream"].get_extra_info(CUT):
                        raise NoAnswer("it answered before the end of the file")
                    return await read_response(response, self._redactor)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                reason = _failure_text(error)
            except httpx.UnsupportedProtocol:
                reason = "no connection"
        raise NotSent(reason)

    async def _destinations(self, request: FileRequest) -> list[_Destination]:
        """Return the URL as it is or, if `guarded`, with each checked address; raise NotSent if one is refused."""
        import httpx  # noqa: PLC0415

        if not request.guarded:
            return [_Destination(httpx.URL(request.url))]
        refusals = [] if request.url.lower().startswith("https://") else ["must begin with https://"]
        if refusals := refusals or self._policy.check_url(request.url):
            raise NotSent(f"the provider's URL for the file {refusals[0]}")
        parts = urlsplit(request.url)
        name = parts.hostname or ""
        try:
            async with asyncio.timeout(CONNECT_S):
                hosts = [address.host for address in await self._resolver.addresses(name)]
        except NameFailed:
            raise NotSent(f"the provider's URL for the file cannot be called: {NAME_FAILED}") from None
        except TimeoutError:
            raise NotSent(f"the provider's URL for the file cannot be called: {LOOKUP_TIMED_OUT}") from None
        if not all(self._policy.may_connect(host) for host in hosts):
            raise NotSent("the provider's URL for the file leads to an address that the URL policy refuses")
        return [_Destination(httpx.URL(request.url).copy_with(host=host), name) for host in hosts[:ADDRESSES_MAX]]

    async def _client(self) -> "httpx.AsyncClient":
        """Return the client of all files."""
        import httpx  # noqa: PLC0415

        from relay.outbound.httpx_transport import Transport  # noqa: PLC0415

        tls = await self._trust.context()
        if self._http is None:
            self._http = httpx.AsyncClient(
                transport=Transport(self._resolver, tls, CONNECTIONS_MAX, early_answers=True),
                follow_redirects=False,
                trust_env=False,
                headers={
                    "user-agent": f"relay/{__version__}",
                    "accept": "application/json",
                    "accept-encoding": "identity",
                },
            )
        return self._http

    async def __aenter__(self) -> "FileClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.aclose()


async def read_response(response: "httpx.Response", redactor: Redactor | None) -> ProviderResponse:
    """Return a response without known secrets, its inflated body cut at RESPONSE_MAX_BYTES; `fault` says if it was."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    body = await read_body(response.aiter_raw(), headers.get("content-encoding", ""), RESPONSE_MAX_BYTES)
    return await provider_response(response.status_code, headers, body, redactor)


def _failure_text(error: "httpx.TransportError") -> str:
    """Return why there is no connection, without its URL and addresses."""
    import httpx  # noqa: PLC0415

    if isinstance(error, httpx.ConnectError):
        return failure_reason(error)
    if isinstance(error, httpx.PoolTimeout):
        return "no free connection in time"
    return str(error) if str(error) == LOOKUP_TIMED_OUT else "no connection in time"


def request_target(url: str) -> bytes | None:
    """Return path and query unchanged, because they may be signed; None if a request line cannot hold them.

    httpx itself would resolve dot segments, and escape and unescape characters.
    """
    parts = _URL.fullmatch(url)
    return None if parts is None else (parts[1] if parts[1].startswith("/") else f"/{parts[1]}").encode("ascii")


def _framing(request: FileRequest) -> _Framing:
    """Return the framing of a bare body or, with `filename`, of a form with the field `file`."""
    if request.filename is None:
        return _Framing(b"", b"", request.content_type)
    boundary = secrets.token_hex(16)  # random, so that no file can contain it to end its part and begin another
    head = (
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="{request.filename}"\r\n'
        f"content-type: {request.content_type}\r\n\r\n"
    )
    tail = f"\r\n--{boundary}--\r\n"
    return _Framing(head.encode("ascii"), tail.encode(), f"multipart/form-data; boundary={boundary}")


async def _content(framing: _Framing, pieces: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
    """Yield the body; raise NoAnswer, which breaks the connection, if the pieces are not `size` bytes together."""
    if framing.head:
        yield framing.head
    async for piece in pieces:
        size -= len(piece)
        if size < 0:
            break
        yield piece
    if size:
        raise NoAnswer("the file's length differs from its declared size")
    if framing.tail:
        yield framing.tail
