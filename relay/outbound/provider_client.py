"""Calls to providers: few, slow, worth money. What matters is to know, when one fails, whether it can have arrived."""

import asyncio
import ssl
from types import TracebackType
from typing import Final

import httpx
import msgspec

from relay import __version__
from relay.model.provider_http import KEPT_HEADERS, ProviderRequest, ProviderResponse
from relay.outbound import inflating
from relay.outbound.dialing import failure_class
from relay.outbound.provider_transport import NAME_LATE, Transport
from relay.outbound.resolver import Resolver
from relay.outbound.trust import trusted
from relay.security.redaction import Redactor

ANSWER_MAX_BYTES: Final = 1 << 20
CONNECTIONS_MAX: Final = 200
CONNECT_S: Final = 10.0


class NotSent(Exception):
    """The request surely did not arrive: no connection was made."""


class NoAnswer(Exception):
    """The request may have arrived; the answer did not, or not whole."""


class ProviderClient:
    """One HTTP client for all providers; their origins are the operator's word, so no address guard is here.

    Every call has a connection of its own. A kept one that the provider closes at the moment it is used again fails in
    a way that looks like a lost answer, and a job would be `submit_unknown` that was never sent.

    `tls` is whom it trusts and `resolver` looks names up; the other clients share both. `redactor` cuts out of answers
    what no answer may hold.
    """

    def __init__(
        self, resolver: Resolver | None = None, tls: ssl.SSLContext | None = None, redactor: Redactor | None = None
    ) -> None:
        self._redactor = redactor
        self._http = httpx.AsyncClient(
            transport=Transport(resolver or Resolver(), tls or trusted(), CONNECTIONS_MAX),
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": f"relay/{__version__}", "accept": "application/json", "accept-encoding": "identity"},
        )

    async def send(self, origin: str, api_key: str, request: ProviderRequest, timeout_s: float) -> ProviderResponse:
        """The provider's answer, at most 1 MiB of it once inflated; NotSent or NoAnswer when there is none in time."""
        content = None if request.body is None else msgspec.json.encode(request.body)
        headers = {"authorization": f"Bearer {api_key}"} if request.bearer else {}
        headers |= {"content-type": "application/json"} if content is not None else {}
        headers |= request.headers
        connect_s = min(timeout_s, CONNECT_S)
        timeout = httpx.Timeout(timeout_s, connect=connect_s, pool=connect_s)
        stream = self._http.stream(
            request.method, origin + request.path, content=content, headers=headers, timeout=timeout
        )
        try:
            async with asyncio.timeout(timeout_s + 2 * connect_s), stream as answer:
                return redacted(await _read(answer), self._redactor)
        except TimeoutError as error:
            raise NoAnswer("no whole answer in time") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
            raise NotSent(words(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise NoAnswer(words(error)) from error

    async def __aenter__(self) -> "ProviderClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


async def _read(answer: httpx.Response) -> ProviderResponse:
    """The answer, inflated where it is encoded, and cut at its limit; then it says so."""
    body = await inflating.read(answer.aiter_raw(), answer.headers.get("content-encoding", ""), ANSWER_MAX_BYTES)
    return ProviderResponse(
        status_code=answer.status_code,
        content_type=answer.headers.get("content-type", ""),
        body=body.content,
        headers={name.lower(): value for name, value in answer.headers.items() if name.lower() in KEPT_HEADERS},
        fault=body.fault,
    )


def redacted(answer: ProviderResponse, redactor: Redactor | None) -> ProviderResponse:
    """Return the answer without known secrets."""
    if redactor is None:
        return answer
    body = redactor.body(answer.body)
    return answer if body is answer.body else msgspec.structs.replace(answer, body=body)


def words(error: Exception) -> str:
    """The kind of failure in words; never the URL and no address."""
    if isinstance(error, httpx.ConnectError):
        return failure_class(error)
    if isinstance(error, httpx.ConnectTimeout):
        return str(error) if str(error) == NAME_LATE else "no connection in time"
    kinds: dict[type[Exception], str] = {
        httpx.PoolTimeout: "no free connection in time",
        httpx.ReadTimeout: "no answer in time",
        httpx.WriteTimeout: "the request could not be written in time",
    }
    return kinds.get(type(error), "the connection broke")
