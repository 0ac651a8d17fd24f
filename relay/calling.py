"""What it takes to call providers and to record what they say: handed to everything in the flow that does."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import msgspec

from relay import ids, log, result_urls
from relay.clock import Clock
from relay.errors import StorageUnavailable
from relay.exchange import ApiAnswer
from relay.metrics import Metrics
from relay.model import Call, Job, Report
from relay.outbound.client import ProviderClient
from relay.outbound.keys import KeySet
from relay.providers.base import Provider
from relay.redaction import Redactor
from relay.settings import Settings
from relay.storage.record import Fact, Recorded
from relay.storage.store import Store
from relay.storage.ties import Tie

STORE_PAUSE_MS: Final = 500
"""How long it is until what could not be stored is tried again."""
_logger = log.get("provider")

Result = TypeVar("Result")


class Configured(msgspec.Struct, frozen=True):
    """A provider as this relay can use it; without a key (or a wallet, where it is paid) it can only read callbacks.

    `confirm` is whether a callback that ends a job is confirmed first; `callback_secret` verifies signed ones, `keys`
    those of a provider that publishes its keys. `opened` says of a private host whether its results are told.
    `redactor` cuts what this provider knows of relay's out of its callbacks.
    """

    adapter: Provider
    origin: str
    api_key: str | None
    confirm: bool = True
    callback_secret: str | None = None
    wallet: bool = False
    keys: KeySet | None = None
    opened: Callable[[str], bool] = lambda _: False
    redactor: Redactor | None = None

    def judged(self, report: Report) -> Report:
        """Return the report with those results that may be told."""
        return result_urls.judged(report, self.opened)

    @property
    def usable(self) -> bool:
        """Whether jobs can be submitted to it."""
        return self.wallet if self.adapter.limits.paid else bool(self.api_key)


class KeyRefused(msgspec.Struct, frozen=True):
    """Since when a provider refuses relay's key, in unix milliseconds, and what it said last."""

    at: int
    error: str


class Calling(msgspec.Struct, frozen=True, kw_only=True):
    """The shared parts; `tell` passes on what was recorded, `check_soon` wakes the checks, `draining` ends waits.

    `sign_in` answers a challenge to prove who paid, for a URL; it can sign that, and nothing that moves money.
    """

    store: Store
    providers: Mapping[str, Configured]
    client: ProviderClient
    clock: Clock
    settings: Settings
    metrics: Metrics
    tell: Callable[[Recorded], None]
    check_soon: asyncio.Event
    draining: asyncio.Event
    sign_in: Callable[[ApiAnswer, str], dict[str, str]] | None = None
    keys_refused: dict[str, KeyRefused] = {}
    """The providers that refuse relay's key, as this process met it."""

    async def until_stored(self, write: Callable[[bool], Awaitable[Result]], **about: str | None) -> Result:
        """Write what a provider has answered, however long the database is away: it may say so only once.

        `write` is told whether an earlier try may have been committed; `about` names it in the log. What waits here is
        bounded by what was under way when the database went, since nothing is sent before it is stored that it will be.
        """
        tried = False
        self.metrics.unstored(1)
        try:
            while True:
                try:
                    return await write(tried)
                except StorageUnavailable as error:
                    if not tried:
                        _logger.warning("provider.answer_waits", reason=str(error), **about)
                    tried = True
                await self.clock.sleep(STORE_PAUSE_MS)
        except asyncio.CancelledError:
            if tried:
                _logger.error("provider.answer_lost", advice="the database was away until relay stopped", **about)
            raise
        finally:
            self.metrics.unstored(-1)

    async def stored(self, fact: Fact, tie: Tie | None = None, **about: str | None) -> Recorded:
        """Record what a provider has answered about a job, however long the database is away."""

        async def write(tried: bool) -> Recorded:
            return await self.store.jobs.record(msgspec.structs.replace(fact, again=tried), tie)

        return await self.until_stored(write, job=fact.job_id, **about)

    def told(
        self, job: Job, kind: str, started_at: int, outcome: str, answer: ApiAnswer | None, note: str | None = None
    ) -> Call:
        """The evidence of one call that ends now; a refusal's or an outage's page is kept with it, and a note told."""
        good = answer is not None and 200 <= answer.status_code < 300
        return Call(
            id=ids.new_id(ids.CALL),
            job_id=job.id,
            kind=kind,
            started_at=started_at,
            duration_ms=max(0, self.clock.now_ms() - started_at),
            outcome=outcome,
            status_code=answer.status_code if answer else None,
            summary=f"{kind} at {job.provider}: {outcome}" + (f" ({note})" if note else ""),
            excerpt=answer.excerpt if answer and not good else None,
        )

    def key_judged(self, provider: str, status_code: int, refusal: str | None) -> None:
        """Note whether a provider took relay's key; log and count it where that is news."""
        if refusal is not None:
            at = self.keys_refused[provider].at if provider in self.keys_refused else self.clock.now_ms()
            if provider not in self.keys_refused:
                advice = f"check RELAY_{provider.upper()}_API_KEY"
                _logger.error("provider.key_refused", provider=provider, status=status_code, advice=advice)
            self.keys_refused[provider] = KeyRefused(at=at, error=refusal[:300])
        elif self.keys_refused.pop(provider, None) is not None:
            _logger.info("provider.key_accepted", provider=provider)
        self.metrics.key_refused(provider, refused=refusal is not None)

    def unknown_word(self, provider: str, word: str) -> None:
        """Warns of a status word that the provider never published, once for each."""
        if self.metrics.unknown_word(provider, word):
            _logger.warning("provider.unknown_word", provider=provider, word=word)
