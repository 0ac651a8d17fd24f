"""How callbacks go out: their tries, the URL as a provider mangles it, and how badly the body is sent."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from typing import Any, Final

import httpx
import msgspec

from relay.sandbox.contract import ProviderJob, StandIn
from relay.sandbox.faults import Faults
from relay.sandbox.keys import Keys

PIECES: Final = 4
CUT_OFF: Final = 8
_tls_context: Final = cache(httpx.create_ssl_context)  # loading the authorities takes 20 ms


class CallbackSent(msgspec.Struct, frozen=True):
    """One try of one callback, what came back (None: no answer), and when, by the monotonic clock."""

    job_id: str
    url: str
    body: bytes
    status_code: int | None
    at: float


class _CutError(Exception):
    """The rest of a body is not sent."""


class Caller:
    """Sends callbacks, keeps each try in `sent` and says so with `tell`."""

    def __init__(
        self, sent: list[CallbackSent], keys: Keys, time_scale: float, tell: Callable[[], Awaitable[None]]
    ) -> None:
        self._sent = sent
        self._keys = keys
        self._time_scale = time_scale
        self._tell = tell
        self._http = httpx.AsyncClient(verify=_tls_context(), trust_env=False, follow_redirects=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def call(self, stand_in: StandIn, job: ProviderJob, raw: bytes) -> None:
        """Send a callback as often as its provider tries; nothing if the job has no callback URL."""
        url, faults = job.callback_url, job.faults
        if url is None or faults.lost:
            return
        if faults.forged:
            await self._try(stand_in, job, url[:-1] + ("A" if url[-1] != "A" else "E"), raw)
        for pause_s in (0.0, *stand_in.pauses_s):
            await asyncio.sleep(pause_s * self._time_scale)
            if await self._try(stand_in, job, upset(url, job), raw) or faults.cut:
                return

    async def tested(self, stand_in: StandIn, job: ProviderJob, body: dict[str, Any]) -> bool:
        """Post a body to the job's callback URL, and return whether it came back as it is, in time and as JSON."""
        if job.callback_url is None:
            return True
        try:
            answer = await self._http.post(job.callback_url, json=body, timeout=stand_in.callback_timeout_s)
            good = answer.status_code == 200 and answer.json() == body
        except (httpx.HTTPError, ValueError):
            good = False
        return good

    async def _try(self, stand_in: StandIn, job: ProviderJob, url: str, raw: bytes) -> bool:
        """One try of one callback; True for a 2xx."""
        faults = job.faults
        headers = {"content-type": faults.content_type or "application/json"}
        signature = stand_in.sign(raw, job, self._keys.clock())
        headers |= signature or self._keys.headers(raw, faults.signed, len(self._sent))
        if faults.encoding == "gzip":
            headers["content-encoding"] = "gzip"
        content: bytes | AsyncIterator[bytes] = raw
        if faults.chunked or faults.drip_s or faults.cut:
            content = _pieces(raw, faults)
            if not faults.chunked:
                headers["content-length"] = str(len(raw))
        try:
            answer = await self._http.post(url, content=content, headers=headers, timeout=stand_in.callback_timeout_s)
            status_code: int | None = answer.status_code
        except (httpx.HTTPError, _CutError):
            status_code = None
        self._sent.append(CallbackSent(job.id, url, raw, status_code, time.monotonic()))
        await self._tell()
        return status_code is not None and 200 <= status_code < 300


def upset(url: str, job: ProviderJob) -> str:
    """Return the callback URL as the provider calls it."""
    match job.faults.upset_url:
        case "slash":
            return url + "/"
        case "query":
            return f"{url}{'&' if '?' in url else '?'}taskId={job.id}"
        case "double_slash":
            scheme, _, rest = url.partition("://")
            return f"{scheme}://{rest.replace('/', '//', 1)}"
        case "truncated":
            return url[:-CUT_OFF]
        case _:
            return url


async def _pieces(raw: bytes, faults: Faults) -> AsyncIterator[bytes]:
    """Yield the body bit by bit, in the time that `drip_s` gives it; with `cut`, half of it."""
    size = max(1, -(-len(raw) // PIECES))
    for start in range(0, len(raw), size):
        if faults.cut and start * 2 >= len(raw):
            raise _CutError
        if start:
            await asyncio.sleep(faults.drip_s / (PIECES - 1))
        yield raw[start : start + size]
