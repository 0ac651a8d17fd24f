"""What the flow shares: the store, the providers and their client, and how a provider's answer becomes rows.

Everything that calls a provider or records its answer gets one `FlowContext`. It decides nothing about a job.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, TypeVar

import msgspec

from relay import log
from relay.clock import Clock
from relay.errors import StorageUnavailable
from relay.metrics import Metrics
from relay.model import ids, result_urls
from relay.model.job import Job, ProviderCall, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.outbound.jwks import KeySet
from relay.outbound.provider_client import ProviderClient
from relay.outbound.tracing import Tracing
from relay.providers.base import Provider
from relay.security.redaction import Redactor
from relay.settings import Settings
from relay.storage.apply_updates import JobUpdate, UpdateResult
from relay.storage.idempotency import Tie
from relay.storage.store import Store

_logger = log.get("provider")
WRITE_PAUSE_MS: Final = 500
"""The pause before a write that the database did not accept is repeated."""
Result = TypeVar("Result")


async def write_again(write: Callable[[], Awaitable[Result]], clock: Clock, tries_max: int | None = None) -> Result:
    """Repeat a write that raised StorageUnavailable, each time after `WRITE_PAUSE_MS`, until it succeeds.

    The failed commit may stand although its answer was lost, so `write` must recognize rows that it has written.
    StorageUnavailable after `tries_max` failures; None repeats without a limit.
    """
    tries = 0
    while True:
        await clock.sleep(WRITE_PAUSE_MS)
        try:
            return await write()
        except StorageUnavailable:
            tries += 1
            if tries == tries_max:
                raise


SignIn = Callable[[ProviderResponse, str], dict[str, str]]
"""Makes the headers that prove which wallet paid, from a 402 and its URL; none where the 402 wants no sign-in."""


class ConfiguredProvider(msgspec.Struct, frozen=True):
    """A provider and its settings; without an API key (or a wallet, where it is paid) it only sends callbacks.

    `confirm` says whether a status check confirms a final status from an unsigned callback. `callback_secrets` verify
    signed callbacks, each of them alone; `keys` verify those of a provider that publishes its keys. `opened` says
    whether results on a private host are shown. `redactor` removes relay's secrets that this provider knows from its
    callbacks. `now_ms` is the clock.
    """

    adapter: Provider
    origin: str
    api_key: str | None
    confirm: bool = True
    callback_secrets: tuple[str, ...] = ()
    wallet: bool = False
    keys: KeySet | None = None
    opened: Callable[[str], bool] = lambda _: False
    redactor: Redactor | None = None
    now_ms: Callable[[], int] = lambda: 0

    @property
    def authorization(self) -> str:
        """Return the Authorization header of a request that is sent now."""
        return self.adapter.authorization(self.api_key or "", self.now_ms() // 1000)

    def judged(self, report: Report) -> Report:
        """Return the report with only those result URLs that may be shown to clients."""
        return result_urls.judged(report, self.opened)

    @property
    def usable(self) -> bool:
        """Return whether jobs can be submitted to the provider."""
        return self.wallet if self.adapter.limits.paid else bool(self.api_key)


class KeyRefused(msgspec.Struct, frozen=True):
    """A provider that refuses relay's API key: since when and when last, in unix ms, and its latest error message."""

    at: int
    error: str
    last_at: int = 0


class EndedCall(msgspec.Struct, frozen=True):
    """One request to a provider that has ended: its kind, its start in unix milliseconds, and what came of it.

    `outcome` is a short text; `answer` is None where none came; `note` is a detail for the timeline.
    """

    kind: str
    started_at: int
    outcome: str
    answer: ProviderResponse | None = None
    note: str | None = None


class FlowContext(msgspec.Struct, frozen=True, kw_only=True):
    """The shared parts: `publish` publishes a recorded update, `draining` ends waits.

    `sign_in` can sign a proof of who paid, and nothing that moves money; None without a wallet.
    """

    store: Store
    providers: Mapping[str, ConfiguredProvider]
    client: ProviderClient
    clock: Clock
    settings: Settings
    metrics: Metrics
    publish: Callable[[UpdateResult], None]
    draining: asyncio.Event
    sign_in: SignIn | None = None
    tracing: Tracing | None = None
    keys_refused: dict[str, KeyRefused] = {}
    """The providers that refused relay's key in the latest answer that this process received."""
    keys_accepted: dict[str, int] = {}
    """When each provider last accepted relay's key, in unix milliseconds, as far as this process knows."""

    @property
    def usable(self) -> list[str]:
        """Return the providers that jobs can be submitted to, without making those that have neither key nor wallet."""
        settings = self.settings
        keyed = [name for name in self.providers if settings.wallet_key or settings.provider(name).api_key]
        return [name for name in keyed if self.providers[name].usable]

    async def until_stored(self, write: Callable[[bool], Awaitable[Result]], **about: str | None) -> Result:
        """Write a provider's answer and return the result; retry while the database is away.

        The provider may give this answer only once. `write` receives whether an earlier try may have been committed;
        `about` are fields for the log. The number of waiting writes is bounded by the calls that were under way when
        the database went away, because every call is stored before it is sent.
        """
        self.metrics.unstored(1)
        try:
            return await write(False)
        except StorageUnavailable as error:
            _logger.warning("provider.answer_waits", reason=str(error), **about)
            try:
                return await write_again(partial(write, True), self.clock)
            except asyncio.CancelledError:
                _logger.error("provider.answer_lost", advice="the database was away until relay stopped", **about)
                raise
        finally:
            self.metrics.unstored(-1)

    async def stored(self, update: JobUpdate, tie: Tie | None = None, **about: str | None) -> UpdateResult:
        """Record an update from a provider and return the result; retry while the database is away."""

        async def write(tried: bool) -> UpdateResult:
            return await self.store.jobs.record(msgspec.structs.replace(update, again=tried), tie)

        return await self.until_stored(write, job=update.job_id, **about)

    def ended_call(self, job: Job, ended: EndedCall) -> ProviderCall:
        """Return the timeline entry of a call that ends now, with the answer's first 2 KB unless it was a 2xx."""
        answer = ended.answer
        good = answer is not None and 200 <= answer.status_code < 300
        note = f" ({ended.note})" if ended.note else ""
        call = ProviderCall(
            id=ids.new_id(ids.CALL),
            job_id=job.id,
            kind=ended.kind,
            started_at=ended.started_at,
            duration_ms=max(0, self.clock.now_ms() - ended.started_at),
            outcome=ended.outcome,
            status_code=answer.status_code if answer else None,
            summary=f"{ended.kind} at {job.provider}: {ended.outcome}{note}",
            excerpt=answer.excerpt if answer and not good else None,
        )
        if self.tracing is not None:
            self.tracing.provider_call(job, call)
        return call

    def key_judged(self, provider: str, status_code: int, refusal: str | None) -> None:
        """Record whether a provider accepted relay's API key (`refusal` is None) or refused it; log a change."""
        now_ms = self.clock.now_ms()
        if refusal is not None:
            at = self.keys_refused[provider].at if provider in self.keys_refused else now_ms
            if provider not in self.keys_refused:
                advice = f"check RELAY_{provider.upper()}_API_KEY"
                _logger.error("provider.key_refused", provider=provider, status=status_code, advice=advice)
            self.keys_refused[provider] = KeyRefused(at=at, error=refusal[:300], last_at=now_ms)
        else:
            self.keys_accepted[provider] = now_ms
        if refusal is None and self.keys_refused.pop(provider, None) is not None:
            _logger.info("provider.key_accepted", provider=provider)
        self.metrics.key_refused(provider, refused=refusal is not None)

    def unknown_status(self, provider: str, status: str) -> None:
        """Log a warning about a status that the provider never published, once per status."""
        if self.metrics.unknown_status(provider, status):
            _logger.warning("provider.unknown_status", provider=provider, status=status)


async def send_signed_in(
    client: ProviderClient,
    provider: ConfiguredProvider,
    request: ProviderRequest,
    sign_in: SignIn | None,
    timeout_s: float,
) -> ProviderResponse:
    """Send the request and return the answer; repeat it once with a signature where a 402 wants the wallet to sign in.

    NotSent or NoAnswer when there is no answer in `timeout_s` per request.
    """
    answer = await client.send(provider.origin, provider.authorization, request, timeout_s)
    if answer.status_code != 402 or sign_in is None:
        return answer
    headers = await asyncio.to_thread(sign_in, answer, provider.origin + request.path)
    if not headers:
        return answer
    signed = msgspec.structs.replace(request, headers={**request.headers, **headers})
    return await client.send(provider.origin, provider.authorization, signed, timeout_s)
