"""Calls providers. If a call fails, the exception says whether the request can have arrived, for each may cost money.

Retries are the callers' decision; there are none here.
"""

import asyncio
import ssl
from types import TracebackType
from typing import Final

import httpx
import msgspec

from relay import __version__
from relay.model.provider_http import KEPT_HEADERS, ProviderRequest, ProviderResponse
from relay.outbound.dialing import failure_reason
from relay.outbound.inflating import read_body
from relay.outbound.provider_transport import LOOKUP_TIMED_OUT, Transport
from relay.outbound.resolver import Resolver
from relay.outbound.trust import tls_context
from relay.security.redaction import Redactor

RESPONSE_MAX_BYTES: Final = 1 << 20
FAULTY_MAX_BYTES: Final = 65_536
"""Kept of a body with a fault: it is quoted and never parsed, and redacting a mebibyte takes 7 ms."""
CONNECTIONS_MAX: Final = 200
CONNECT_S: Final = 10.0


class NotSent(Exception):
    """The request did not arrive: no connection was made."""


class NoAnswer(Exception):
    """The request may have arrived, but no complete response was received."""


class ProviderClient:
    """One HTTP client for all providers; the operator configures their origins, so the URL policy does not apply.

    Every call opens its own connection. If a provider closed a kept connection just as it was used again, the failure
    would look like a lost response, and a job that was never sent would become `submit_unknown`.

    `resolver` and `tls` are shared with the other clients; `redactor` removes known secrets from responses.
    """

    def __init__(
        self, resolver: Resolver | None = None, tls: ssl.SSLContext | None = None, redactor: Redactor | None = None
    ) -> None:
        self._redactor = redactor
        self._http = httpx.AsyncClient(
            transport=Transport(resolver or Resolver(), tls or tls_context(), CONNECTIONS_MAX),
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": f"relay/{__version__}", "accept": "application/json", "accept-encoding": "identity"},
        )

    async def send(self, origin: str, api_key: str, request: ProviderRequest, timeout_s: float) -> ProviderResponse:
        """Return the provider's response, its body cut at RESPONSE_MAX_BYTES after inflating.

        Raise NotSent if no connection was made, NoAnswer if no complete response was received in time.
        """
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
            async with asyncio.timeout(timeout_s + 2 * connect_s), stream as response:
                return await read_response(response, self._redactor)
        except TimeoutError as error:
            raise NoAnswer("no whole answer in time") from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
            raise NotSent(failure_text(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise NoAnswer(failure_text(error)) from error

    async def __aenter__(self) -> "ProviderClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()


async def read_response(response: httpx.Response, redactor: Redactor | None) -> ProviderResponse:
    """Return a response without known secrets, its inflated body cut at RESPONSE_MAX_BYTES; `fault` says if it was.

    A body with a fault is cut at FAULTY_MAX_BYTES.
    """
    headers = {name.lower(): value for name, value in response.headers.items()}
    body = await read_body(response.aiter_raw(), headers.get("content-encoding", ""), RESPONSE_MAX_BYTES)
    content = body.content if body.fault is None else body.content[:FAULTY_MAX_BYTES]
    return ProviderResponse(
        status_code=response.status_code,
        content_type=headers.get("content-type", ""),
        body=content if redactor is None else redactor.body(content),
        headers={name: value for name, value in headers.items() if name in KEPT_HEADERS},
        fault=body.fault,
    )


def failure_text(error: Exception) -> str:
    """Return the reason of a failed call, without its URL and addresses."""
    if isinstance(error, httpx.ConnectError):
        return failure_reason(error)
    if isinstance(error, httpx.ConnectTimeout):
        return str(error) if str(error) == LOOKUP_TIMED_OUT else "no connection in time"
    kinds: dict[type[Exception], str] = {
        httpx.PoolTimeout: "no free connection in time",
        httpx.ReadTimeout: "no answer in time",
        httpx.WriteTimeout: "the request could not be written in time",
    }
    return kinds.get(type(error), "the connection broke")
