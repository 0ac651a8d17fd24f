"""relay put together: opens the store, the clients and the loops, and closes them in the opposite order."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from ipaddress import IPv6Address
from urllib.parse import urlsplit

import msgspec

from relay import backoff, log
from relay.callbacks.receiver import Receiver
from relay.clock import Clock, SystemClock
from relay.context import Calling, Configured, KeyRefused
from relay.deliveries.attempt import Deliverer
from relay.deliveries.dispatcher import Dispatcher, DispatchOptions
from relay.deliveries.event_stream import Streams
from relay.deliveries.redelivery import Redeliverer
from relay.errors import SettingsError
from relay.jobs.interventions import Interventions
from relay.jobs.long_poll import Waiting
from relay.jobs.payment import Payer
from relay.jobs.quotes import Quoter
from relay.jobs.status_checks import Checker
from relay.jobs.submission import Submitter
from relay.jobs.sweeper import Sweeper
from relay.lifecycle.reports import DoubtLimits
from relay.metrics import Metrics
from relay.model.provider_http import ApiAnswer
from relay.model.result_urls import opener
from relay.outbound.file_upload import FileClient
from relay.outbound.jwks import KeySet
from relay.outbound.provider_client import ProviderClient
from relay.outbound.resolver import LookupOptions, Resolver
from relay.outbound.trust import trusted
from relay.outbound.webhook_sender import WebhookSender
from relay.payments.policy import Policy
from relay.payments.siwx import sign_in
from relay.payments.x402 import Wallet
from relay.providers.base import Provider, Signing
from relay.providers.prices import ClipPrices, read_clip_prices
from relay.providers.stablestudio import StableStudio
from relay.security import signatures, whole_file
from relay.security.callback_tokens import CallbackTokens
from relay.security.encryption import Seal
from relay.security.redaction import Redactor
from relay.security.shares import Shares
from relay.security.signatures import SigningKeys
from relay.security.url_policy import AddressPolicy
from relay.settings import Settings
from relay.shutdown import LAST_S, Stop
from relay.storage.apply_updates import Recorded
from relay.storage.encryption_keys import is_sealed
from relay.storage.engine.database import Hint
from relay.storage.engine.database_url import is_postgres, sqlite_path
from relay.storage.engine.single_process import alone
from relay.storage.store import Store, StoreOptions
from relay.uploads.file_uploads import StepSender, UploadLimits, Uploads
from relay.uploads.upload_payment import FileBuyer

_logger = log.get("app")
PAUSE_AFTER_FAILURE_MS = 1000
STABLESTUDIO = StableStudio.name


class App(msgspec.Struct, frozen=True, kw_only=True):
    """The open parts, as the web floor needs them."""

    settings: Settings
    clock: Clock
    store: Store
    providers: Mapping[str, Configured]
    policy: AddressPolicy
    submitter: Submitter
    receiver: Receiver
    interventions: Interventions
    redeliverer: Redeliverer
    waiting: Waiting
    streams: Streams
    metrics: Metrics
    payer: Payer
    quoter: Quoter
    uploads: Uploads
    redactor: Redactor
    stop: Stop
    keys_refused: Mapping[str, KeyRefused]

    @property
    def draining(self) -> asyncio.Event:
        """Set when relay is told to stop."""
        return self.stop.draining


@asynccontextmanager
async def opened(
    settings: Settings,
    providers: Mapping[str, Provider],
    clock: Clock | None = None,
    *,
    dispatches: bool = True,
    stop: Stop | None = None,
) -> AsyncIterator[App]:
    """relay, running: store migrated, loops started; at the end all is finished or given back within the stop's time.

    Without `dispatches` there are no loops: another process sends, checks and sweeps, on the same database.
    """
    clock, keys = clock or SystemClock(), secret_keys(settings)
    stop = stop or Stop(settings.shutdown_s)
    tokens = CallbackTokens(keys, settings.environment)
    schedule_s = settings.retry_schedule_s or backoff.DEFAULT_SCHEDULE_S
    policy = AddressPolicy(settings.allow_networks, settings.allow_http, own_hosts(settings))
    wallet = Wallet(settings.wallet_key) if settings.wallet_key else None
    providers = _as_set(providers, settings)
    options = _store_options(settings, schedule_s, dispatches)
    if not dispatches and not is_postgres(settings.database_url):
        raise SettingsError("web and worker processes of their own need PostgreSQL; on SQLite one process does both")
    async with AsyncExitStack() as stack:
        metrics, tls, redactor = Metrics(), trusted(), _redactor(settings, keys, tokens)
        resolver = Resolver(_lookups(settings), hangs=metrics.lookup_hangs)
        client = await stack.enter_async_context(ProviderClient(resolver, tls, redactor))
        configured = {name: _configured(one, settings, client, clock, tokens) for name, one in providers.items()}
        store = await stack.enter_async_context(_open_store(settings, Seal(keys), options, clock.now_ms(), stop))
        files = await stack.enter_async_context(FileClient(policy, resolver=resolver, tls=tls, redactor=redactor))
        sender = await stack.enter_async_context(
            WebhookSender(
                policy,
                resolver,
                tls,
                connections_max=settings.deliveries_in_flight_max,
                keepalive_s=settings.keepalive_s,
            )
        )
        signing_keys = SigningKeys(lambda project_id: store.signing_keys.seeds(project_id, clock.now_ms()))
        deliverer = Deliverer(sender, clock, schedule_s, random.SystemRandom().random, signing_keys)
        check_soon, draining = asyncio.Event(), stop.draining
        dispatcher = Dispatcher(store, deliverer, clock, _in_flight(settings, dispatches), metrics)
        waiting, streams = (
            Waiting(clock, draining),
            Streams(store.events, clock, draining, metrics, settings),
        )
        stop.wakes(waiting.wake_all)
        stop.wakes(streams.wake_all)
        teller = _teller(metrics, waiting, streams, dispatcher, check_soon, clock)
        calling = Calling(
            store=store,
            providers=configured,
            client=client,
            clock=clock,
            settings=settings,
            metrics=metrics,
            tell=teller,
            check_soon=check_soon,
            sign_in=_signer_in(wallet, clock),
            draining=draining,
        )
        payer = Payer(calling, wallet, policies(settings, providers))
        submitter, checker = Submitter(calling, tokens, payer), Checker(calling)
        sweeper = Sweeper(calling, submitter, payer)
        redeliverer = Redeliverer(store, clock, options.lease_ms if dispatches else 0, dispatcher)
        app = App(
            settings=settings,
            clock=clock,
            store=store,
            providers=configured,
            policy=policy,
            submitter=submitter,
            receiver=Receiver(calling, tokens),
            interventions=Interventions(calling, submitter, checker),
            redeliverer=redeliverer,
            waiting=waiting,
            streams=streams,
            metrics=metrics,
            payer=payer,
            quoter=Quoter(calling, payer, clip_prices(settings)),
            redactor=redactor,
            uploads=_uploads(calling, payer, files),
            stop=stop,
            keys_refused=calling.keys_refused,
        )
        loops = {"dispatch": dispatcher.run, "sweep": sweeper.run, "check": checker.run, "redeliver": redeliverer.run}
        loops |= {"heed": partial(store.heed, _waker(dispatcher, check_soon))}
        stack.push_async_callback(stop.within, partial(_finish, submitter, dispatcher, stop))
        await stack.enter_async_context(_running(loops if dispatches else {}, clock, stop))
        stack.callback(stop.begin)
        yield app


@asynccontextmanager
async def _open_store(
    settings: Settings, seal: Seal, options: StoreOptions, now_ms: int, stop: Stop
) -> AsyncIterator[Store]:
    """The store, closed within the stop's time; on SQLite this process is the only one that serves its file."""
    async with AsyncExitStack() as stack:
        if not is_postgres(settings.database_url):
            await stack.enter_async_context(alone(sqlite_path(settings.database_url), settings.database_wait_s))
        store = await Store.open(settings.database_url, seal, options, now_ms)
        stack.push_async_callback(stop.within, store.close)
        yield store


def _store_options(settings: Settings, schedule_s: Sequence[int], dispatches: bool) -> StoreOptions:
    """What of the settings the store needs."""
    return StoreOptions(
        lease_ms=round(settings.lease_s * 1000),
        backlog_max=settings.backlog_max,
        callbacks_per_job_max=settings.callbacks_per_job_max,
        callback_bytes_per_job_max=settings.callback_bytes_per_job_max,
        callback_max_bytes=settings.callback_body_max_bytes,
        doubts=DoubtLimits(
            settings.doubts_free, round(settings.doubt_pause_s * 1000), round(settings.doubt_pause_max_s * 1000)
        ),
        schedule_s=schedule_s,
        expiring_ms=settings.output_expiring_s * 1000,
        dispatches=dispatches,
        wait_s=settings.database_wait_s,
    )


def _in_flight(settings: Settings, dispatches: bool) -> DispatchOptions:
    """What of the settings dispatch needs."""
    return DispatchOptions(settings.deliveries_in_flight_max, round(settings.lease_s * 1000), dispatches)


def _lookups(settings: Settings) -> LookupOptions:
    """What of the settings name look-ups need."""
    return LookupOptions(settings.lookups_max, settings.lookup_cache_s)


def _waker(dispatcher: Dispatcher, check_soon: asyncio.Event) -> Callable[[Hint], None]:
    """What a hint of another process does here."""
    does = {Hint.DELIVERIES: dispatcher.wake, Hint.CHECKS: check_soon.set}
    return lambda hint: does[hint]()


async def _finish(submitter: Submitter, dispatcher: Dispatcher, stop: Stop) -> None:
    """What is under way when the loops have stopped is brought to its end, or given back."""
    within_s = stop.left_s()
    await asyncio.gather(submitter.finish(within_s), dispatcher.finish(within_s), return_exceptions=True)


@asynccontextmanager
async def _running(loops: Mapping[str, Callable[[], Awaitable[None]]], clock: Clock, stop: Stop) -> AsyncIterator[None]:
    """The loops, for as long as the block lasts."""
    running = [asyncio.create_task(_for_ever(name, run, clock), name=name) for name, run in loops.items()]
    try:
        yield
    finally:
        for loop in running:
            loop.cancel()
        if running:
            await asyncio.wait(running, timeout=stop.left_s() + LAST_S)


async def _for_ever(name: str, run: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """A loop that a failure (a full disk, say) pauses and does not end."""
    while True:
        try:
            await run()
        except Exception as error:
            _logger.error("loop.failed", loop=name, error=type(error).__name__, exc_info=error)
        await clock.sleep(PAUSE_AFTER_FAILURE_MS)


def _teller(
    metrics: Metrics,
    waiting: Waiting,
    streams: Streams,
    dispatcher: Dispatcher,
    check_soon: asyncio.Event,
    clock: Clock,
) -> Callable[[Recorded], None]:
    """Passes on what was committed: it is dispatched, counted, asked about, and shown to those who wait."""

    def tell(recorded: Recorded) -> None:
        job = recorded.job
        for bound in recorded.bounds:
            metrics.refused(bound)
        if recorded.fresh:
            dispatcher.hand_over(recorded.fresh)
        if job is None:
            return
        if recorded.announced is not None:
            metrics.announced(job, recorded.announced)
            streams.publish(job.project_id)
        if job.next_check_at is not None and job.next_check_at <= clock.now_ms():
            check_soon.set()
        waiting.tell(job)

    return tell


def _configured(
    adapter: Provider, settings: Settings, client: ProviderClient, clock: Clock, tokens: CallbackTokens
) -> Configured:
    """A provider with what the operator said of it, and its published keys where it signs and no secret is set."""
    name = adapter.name
    said = settings.provider(name)
    if said.callback_secret is not None:
        try:
            signatures.check_secret(said.callback_secret)
        except ValueError as error:
            raise SettingsError(f"RELAY_{name.upper()}_CALLBACK_SECRET {error}") from None
    origin = said.base_url or adapter.base_url
    wallet = settings.wallet_key is not None
    keys = None
    if isinstance(adapter, Signing) and said.callback_secret is None:
        keys = KeySet(client, origin, adapter.keys_path, adapter.signed, clock)
    redactor = Redactor((said.api_key, said.callback_secret), tokens.prefix)
    return Configured(
        adapter,
        origin,
        said.api_key,
        said.confirm == "always",
        said.callback_secret,
        wallet,
        keys,
        opener(origin, settings.allow_networks),
        redactor,
    )


def _redactor(settings: Settings, keys: Sequence[str], tokens: CallbackTokens) -> Redactor:
    """What cuts every secret of the operator's out of a text."""
    of_providers = [secret for said in settings.providers.values() for secret in (said.api_key, said.callback_secret)]
    wallet = (settings.wallet_key or "").removeprefix("0x")
    return Redactor((settings.api_key, wallet, *keys, *of_providers), tokens.prefix)


def _as_set(providers: Mapping[str, Provider], settings: Settings) -> Mapping[str, Provider]:
    """The adapters, one of them as a setting wants it."""
    if STABLESTUDIO not in providers:
        return providers
    return {**providers, STABLESTUDIO: StableStudio(settings.stablestudio_schema)}


def _uploads(calling: Calling, payer: Payer, files: FileClient) -> Uploads:
    """Files on their way to a provider; StableStudio is paid for each."""
    settings, paying = calling.settings, payer.address is not None
    shares = Shares("uploads", settings.uploads_max, settings.uploads_per_project_max)
    return Uploads(
        calling.providers,
        StepSender(calling.client, files, calling.sign_in),
        calling.clock,
        UploadLimits(settings.upload_max_bytes, shares),
        FileBuyer(calling, payer) if paying else None,
    )


def clip_prices(settings: Settings) -> ClipPrices:
    """The operator's prices; SettingsError for what cannot be read as such."""
    try:
        return read_clip_prices(settings.relaydance_prices)
    except ValueError as error:
        raise SettingsError(f"RELAY_RELAYDANCE_PRICES {error}") from None


def policies(settings: Settings, providers: Mapping[str, Provider]) -> dict[str, Policy]:
    """What may be paid to each paid provider: one chain, one token, so much for a job, and to whom."""
    return {
        name: Policy(
            amount_max=settings.spend_max_per_job,
            pay_to=frozenset(settings.provider(name).pay_to),
            chain_id=settings.pay_chain_id,
            asset=settings.pay_asset,
            asset_name=settings.pay_asset_name,
        )
        for name, adapter in providers.items()
        if adapter.limits.paid
    }


def _signer_in(wallet: Wallet | None, clock: Clock) -> Callable[[ApiAnswer, str], dict[str, str]] | None:
    """Proves to a provider who paid; the loops that ask get this, and never the wallet."""
    return None if wallet is None else lambda answer, url: sign_in(answer, url, wallet, clock.now_ms())


def own_hosts(settings: Settings) -> frozenset[str]:
    """Where relay itself answers: an endpoint there would be a loop."""
    if settings.public_url is None:
        return frozenset()
    parts = urlsplit(settings.public_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    return frozenset({f"[{IPv6Address(host).compressed}]:{port}" if ":" in host else f"{host}:{port}"})


def secret_keys(settings: Settings) -> tuple[str, ...]:
    """The configured keys; without any, one that is made once and kept beside the SQLite file, for its owner alone."""
    if settings.secret_keys:
        return settings.secret_keys
    if is_postgres(settings.database_url):
        raise SettingsError("RELAY_SECRET_KEYS must be set with PostgreSQL (make one with: openssl rand -base64 32)")
    database = sqlite_path(settings.database_url)
    path = database.with_name(database.name + ".secret")
    if not path.exists() and is_sealed(database):
        raise SettingsError(
            f"{database.name} is sealed with a key, and {path.name} beside it is gone: put the file back from the "
            "backup, or set RELAY_SECRET_KEYS to what was in it"
        )
    if not path.exists() and whole_file.make_once(path, secrets.token_urlsafe(32)):
        _logger.warning(
            "secret_key.made",
            file=path.name,
            advice="set RELAY_SECRET_KEYS; without it this file is part of every backup",
        )
    key = path.read_text("utf-8").strip()
    if len(key) < 16:
        raise SettingsError(
            f"{path.name} beside the database holds no key: set RELAY_SECRET_KEYS, or delete it if relay never ran here"
        )
    return (key,)
