"""Build relay from its settings: open the clients, the store and the loops, and close them in reverse order.

The only module that knows every part; it decides which part gets the wallet, and nothing about jobs or HTTP.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from relay import log
from relay.archive.archive import Archive, opened_archive
from relay.callbacks.receiver import Receiver
from relay.clock import Clock, SystemClock
from relay.context import ConfiguredProvider, FlowContext, KeyRefused
from relay.deliveries.attempt import Deliverer
from relay.deliveries.dispatcher import Dispatcher, DispatchOptions
from relay.deliveries.event_stream import Streams
from relay.deliveries.probing import Prober
from relay.deliveries.redelivery import Redeliverer
from relay.errors import SettingsError, StorageUnavailable
from relay.jobs.alerts import AlertWatch
from relay.jobs.approvals import Approvals
from relay.jobs.check_times import CheckTimes
from relay.jobs.counting import count
from relay.jobs.interventions import Interventions
from relay.jobs.long_poll import Waiting
from relay.jobs.payment import Payer
from relay.jobs.quotes import Quoter
from relay.jobs.resuming import watch
from relay.jobs.status_checks import Checker
from relay.jobs.submission import Submitter
from relay.jobs.sweeper import Sweeper
from relay.lifecycle.reports import DoubtLimits
from relay.metrics import Metrics
from relay.model import backoff
from relay.model.lazy_mapping import LazyMapping
from relay.model.provider_http import ProviderResponse
from relay.model.result_urls import opener
from relay.outbound.download import Downloader
from relay.outbound.file_upload import FileClient
from relay.outbound.jwks import KeySet
from relay.outbound.provider_client import ProviderClient
from relay.outbound.resolver import LookupOptions, Resolver
from relay.outbound.tracing import FLUSH_S, TracedSender, Tracing
from relay.outbound.trust import Trust
from relay.outbound.webhook_sender import WebhookSender
from relay.payments.policy import Policy
from relay.payments.siwx import sign_in
from relay.payments.x402 import Wallet
from relay.providers.base import Provider, Signing, keys_at
from relay.security import whole_file
from relay.security.callback_signatures import check_secrets
from relay.security.callback_tokens import CallbackTokens
from relay.security.encryption import Encryption
from relay.security.redaction import Redactor
from relay.security.request_rates import NAMES_MAX, RequestRates, TokenBuckets
from relay.security.shares import Shares
from relay.security.signatures import SigningKeys
from relay.security.signed_cookies import SignedCookies
from relay.security.url_policy import AddressPolicy
from relay.settings import ProviderSettings, Settings
from relay.shutdown import CLOSE_MIN_S, Stop
from relay.storage.apply_updates import UpdateResult
from relay.storage.boots import process_name
from relay.storage.encryption_keys import is_encrypted
from relay.storage.engine.database import DueWork
from relay.storage.engine.database_url import is_postgres, shown, sqlite_path
from relay.storage.engine.litestream import Litestream
from relay.storage.engine.single_process import FileLock
from relay.storage.statistics import Statistics
from relay.storage.store import Store, StoreOptions
from relay.uploads.file_uploads import StepSender, UploadLimits, Uploads
from relay.uploads.upload_payment import FileBuyer

if TYPE_CHECKING:
    from relay.providers.clip_prices import ClipPrices

_logger = log.get("app")
PAUSE_AFTER_FAILURE_MS = 1000
"""How long a loop that failed waits before it runs again."""


class App(msgspec.Struct, frozen=True, kw_only=True):
    """The open parts that `relay/web` uses.

    `adapters_loaded` has the names of the providers whose modules `web/api/adapters.py` has loaded.
    """

    settings: Settings
    clock: Clock
    store: Store
    providers: Mapping[str, ConfiguredProvider]
    policy: AddressPolicy
    submitter: Submitter
    receiver: Receiver
    interventions: Interventions
    redeliverer: Redeliverer
    prober: Prober
    waiting: Waiting
    streams: Streams
    metrics: Metrics
    payer: Payer
    quoter: Quoter
    uploads: Uploads
    archive: Archive | None
    redactor: Redactor
    stop: Stop
    tracing: Tracing | None
    keys_refused: Mapping[str, KeyRefused]
    cookies: SignedCookies
    rates: RequestRates
    adapters_loaded: set[str] = msgspec.field(default_factory=set)

    @property
    def draining(self) -> asyncio.Event:
        """Return the event that is set when the shutdown begins."""
        return self.stop.draining


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What every part is built from: the settings, what is computed from them, the clock and the shutdown.

    Without `dispatches` this process serves requests only.
    """

    settings: Settings
    adapters: Mapping[str, Provider]
    clock: Clock
    stop: Stop
    dispatches: bool
    keys: tuple[str, ...]
    tokens: CallbackTokens
    policy: AddressPolicy
    metrics: Metrics
    tracing: Tracing | None

    @property
    def schedule_s(self) -> Sequence[int]:
        """Return the seconds before each attempt of a delivery."""
        return self.settings.retry_schedule_s or backoff.DEFAULT_SCHEDULE_S

    @property
    def lease_ms(self) -> int:
        """Return how long a claimed delivery stays leased."""
        return round(self.settings.lease_s * 1000)


class Outbound(msgspec.Struct, frozen=True):
    """The clients that open connections; `redactor` removes the operator's secrets from texts."""

    client: ProviderClient
    files: FileClient
    sender: WebhookSender
    downloader: Downloader
    redactor: Redactor


class Storage(msgspec.Struct, frozen=True):
    """The open store, and on SQLite the lock of its file, which another process may still have."""

    store: Store
    lock: FileLock | None


class Notifications(msgspec.Struct, frozen=True):
    """What delivers or shows committed events."""

    dispatcher: Dispatcher
    redeliverer: Redeliverer
    prober: Prober
    waiting: Waiting
    streams: Streams


class Flow(msgspec.Struct, frozen=True):
    """What submits jobs, checks their status and pays for them, over one shared context."""

    context: FlowContext
    payer: Payer
    submitter: Submitter
    checker: Checker
    check_times: CheckTimes
    sweeper: Sweeper
    archive: Archive | None


@asynccontextmanager
async def opened(
    settings: Settings,
    providers: Mapping[str, Provider],
    clock: Clock | None = None,
    *,
    dispatches: bool = True,
    stop: Stop | None = None,
) -> AsyncIterator[App]:
    """Run relay while the block runs; afterwards finish or release all work within the shutdown's time limit.

    Without `dispatches` no loops run: a worker on the same database delivers, checks and sweeps. Raise SettingsError
    if the settings contradict each other.
    """
    setup = _setup(settings, providers, clock or SystemClock(), stop or Stop(settings.shutdown_s), dispatches)
    async with AsyncExitStack() as stack:
        if setup.tracing is not None:
            stack.push_async_callback(_close_tracing, setup.tracing, setup.stop)
        outbound = await stack.enter_async_context(_open_outbound(setup))
        configured = _configured_providers(setup, outbound.client)
        storage = await stack.enter_async_context(_open_store(setup))
        store = storage.store
        notifications = _notifications(setup, store, outbound.sender)
        flow = _flow(setup, store, configured, outbound, notifications)
        finish = partial(_finish, flow.submitter, notifications.dispatcher, setup.stop)
        stack.push_async_callback(setup.stop.close_in_time, finish)
        await stack.enter_async_context(_running(_loops(setup, storage, notifications, flow), setup))
        stack.callback(setup.stop.begin)
        yield _app(setup, outbound, notifications, flow, await _rates(settings, store))


async def _close_tracing(tracing: Tracing, stop: Stop) -> None:
    """Export the last spans, as far as the shutdown leaves time for it."""
    await tracing.close(min(FLUSH_S, max(CLOSE_MIN_S, stop.left_s())))


def with_settings(settings: Settings, providers: Mapping[str, Provider]) -> Mapping[str, Provider]:
    """Return the adapters, those that have settings of their own made by them; each is made at its first use."""
    own: dict[str, Callable[[], Provider]] = {
        "stablestudio": partial(_stablestudio, settings),
        "relaydance": partial(_relaydance, clip_prices(settings) if settings.relaydance_prices else ()),
        "ark": partial(_ark, settings),
    }
    return LazyMapping({name: own.get(name, partial(providers.__getitem__, name)) for name in providers})


def _stablestudio(settings: Settings) -> Provider:
    from relay.providers.stablestudio import StableStudio  # noqa: PLC0415 - one provider of many

    return StableStudio(settings.stablestudio_schema)


def _relaydance(prices: "ClipPrices") -> Provider:
    from relay.providers.relaydance import RelayDance  # noqa: PLC0415 - one provider of many

    return RelayDance(prices)


def _ark(settings: Settings) -> Provider:
    from relay.providers.ark import Ark  # noqa: PLC0415 - one provider of many

    return Ark(settings.ark_region)


def _setup(settings: Settings, providers: Mapping[str, Provider], clock: Clock, stop: Stop, dispatches: bool) -> Setup:
    """Return the settings with what is computed from them; raise SettingsError if they contradict each other."""
    if not dispatches and not is_postgres(settings.database_url):
        raise SettingsError("web and worker processes of their own need PostgreSQL; on SQLite one process does both")
    keys = secret_keys(settings)
    return Setup(
        settings=settings,
        adapters=with_settings(settings, providers),
        clock=clock,
        stop=stop,
        dispatches=dispatches,
        keys=keys,
        tokens=CallbackTokens(keys, settings.environment),
        policy=AddressPolicy(settings.allow_networks, settings.allow_http, own_hosts(settings)),
        metrics=Metrics(),
        tracing=Tracing(settings.environment, process_name()) if settings.otel else None,
    )


@asynccontextmanager
async def _open_outbound(setup: Setup) -> AsyncIterator[Outbound]:
    """Open the clients, which share a resolver and a TLS context, while the block runs."""
    settings, trust, redactor = setup.settings, Trust(), _redactor(setup)
    lookups = LookupOptions(settings.lookups_max, settings.lookup_cache_s)
    resolver = Resolver(lookups, on_hang=setup.metrics.lookup_hangs)
    files = FileClient(setup.policy, resolver=resolver, trust=trust, redactor=redactor)
    sender = WebhookSender(
        setup.policy,
        resolver,
        trust,
        connections_max=settings.deliveries_in_flight_max,
        keepalive_s=settings.keepalive_s,
    )
    downloader = Downloader(setup.policy, resolver, trust)
    async with ProviderClient(resolver, trust, redactor) as client, files, sender, downloader:
        yield Outbound(client, files, sender, downloader, redactor)


@asynccontextmanager
async def _open_store(setup: Setup) -> AsyncIterator[Storage]:
    """Migrate and open the store while the block runs; on SQLite only the process with the file's lock dispatches."""
    settings, lock, free = setup.settings, None, True
    async with AsyncExitStack() as stack:
        if not is_postgres(settings.database_url):
            lock = stack.enter_context(closing(FileLock(sqlite_path(settings.database_url))))
            if not (free := lock.take()):
                advice = "until that has ended, this process only serves requests"
                _logger.warning(
                    "database.in_use", file=shown(settings.database_url), process=lock.holder, advice=advice
                )
        options = StoreOptions(
            lease_ms=setup.lease_ms,
            backlog_max=settings.backlog_max,
            callbacks_per_job_max=settings.callbacks_per_job_max,
            callback_bytes_per_job_max=settings.callback_bytes_per_job_max,
            callback_max_bytes=settings.callback_body_max_bytes,
            doubts=DoubtLimits(
                settings.doubts_free, round(settings.doubt_pause_s * 1000), round(settings.doubt_pause_max_s * 1000)
            ),
            schedule_s=setup.schedule_s,
            expiring_ms=settings.output_expiring_s * 1000,
            held_ms=round(settings.archive_wait_s * 1000),
            dispatches=setup.dispatches and free,
            wait_s=settings.database_wait_s,
            litestream=_litestream(settings),
        )
        store = await Store.open(settings.database_url, Encryption(setup.keys), options, setup.clock.now_ms())
        stack.push_async_callback(setup.stop.close_in_time, lambda: store.close(setup.clock.now_ms()))
        await store.boots.begin(process_name(), setup.clock.now_ms(), held=lock is not None and lock.proven)
        yield Storage(store, lock)


def _litestream(settings: Settings) -> Litestream | None:
    """Return the Litestream that copies the database, None without one; SettingsError on PostgreSQL."""
    if not settings.litestream_socket:
        return None
    if is_postgres(settings.database_url):
        raise SettingsError("RELAY_LITESTREAM_SOCKET is for SQLite: a PostgreSQL has replicas of its own")
    return Litestream(Path(settings.litestream_socket), sqlite_path(settings.database_url))


def _notifications(setup: Setup, store: Store, sender: WebhookSender) -> Notifications:
    """Return what delivers and shows events; open long polls and streams end when the shutdown begins."""
    settings, clock, stop = setup.settings, setup.clock, setup.stop
    signing_keys = SigningKeys(lambda project_id: store.signing_keys.seeds(project_id, clock.now_ms()))
    if setup.tracing is not None:
        setup.tracing.lookup = store.jobs.traceparent
    posting = sender if setup.tracing is None else TracedSender(sender, setup.tracing, clock.now_ms)
    deliverer = Deliverer(posting, clock, setup.schedule_s, random.SystemRandom().random, signing_keys)
    options = DispatchOptions(settings.deliveries_in_flight_max, setup.lease_ms)
    dispatcher = Dispatcher(store, deliverer, clock, options, setup.metrics)
    redeliverer = Redeliverer(store, clock, dispatcher)
    prober = Prober(store, clock, deliverer, (dispatcher, redeliverer))
    waiting = Waiting(clock, stop.draining)
    streams = Streams(store.events, clock, stop.draining, setup.metrics, settings)
    stop.on_begin(waiting.wake_all)
    stop.on_begin(streams.wake_all)
    return Notifications(dispatcher, redeliverer, prober, waiting, streams)


def _flow(
    setup: Setup,
    store: Store,
    configured: Mapping[str, ConfiguredProvider],
    outbound: Outbound,
    notifications: Notifications,
) -> Flow:
    """Return what submits, checks and pays for jobs; only the payer and the sign-in get the wallet."""
    settings, clock = setup.settings, setup.clock
    wallet = Wallet(settings.wallet_key) if settings.wallet_key else None
    check_times, ordered = CheckTimes(), asyncio.Event()
    context = FlowContext(
        store=store,
        providers=configured,
        client=outbound.client,
        clock=clock,
        settings=settings,
        metrics=setup.metrics,
        publish=_publisher(setup, store.statistics, notifications, check_times, ordered),
        sign_in=_signer_in(wallet, clock),
        tracing=setup.tracing,
        draining=setup.stop.draining,
    )
    approvals = Approvals(context)
    payer = Payer(context, wallet, policies(settings, setup.adapters), approvals)
    submitter = Submitter(context, setup.tokens, payer)
    checker = Checker(context, check_times)
    sweeper = Sweeper(context, submitter, checker, payer)
    archive = opened_archive(context, checker, outbound.downloader, outbound.files, ordered)
    return Flow(context, payer, submitter, checker, check_times, sweeper, archive)


async def _rates(settings: Settings, store: Store) -> RequestRates:
    """Return the rates of this process, in which the keys that were used last count as proven.

    So a client whose address is over its rate after a start is refused only if its key was not in use before.
    """
    keys = TokenBuckets(settings.rate_per_key, settings.burst_per_key)
    unproven, lookups = (TokenBuckets(settings.rate_per_address, settings.burst_per_address) for _ in range(2))
    rates = RequestRates(keys, unproven, lookups)
    for key in reversed(await store.access.keys_in_use(NAMES_MAX)):
        rates.prove(key.digest, key.id)
    return rates


def _app(setup: Setup, outbound: Outbound, notifications: Notifications, flow: Flow, rates: RequestRates) -> App:
    """Return the parts that `relay/web` uses."""
    settings, context, payer = setup.settings, flow.context, flow.payer
    shares = Shares("uploads", settings.uploads_max, settings.uploads_per_project_max)
    uploads = Uploads(
        context.providers,
        StepSender(outbound.client, outbound.files, context.sign_in),
        setup.clock,
        UploadLimits(settings.upload_max_bytes, shares),
        None if payer.address is None else FileBuyer(context, payer),
    )
    return App(
        settings=settings,
        clock=setup.clock,
        store=context.store,
        providers=context.providers,
        policy=setup.policy,
        submitter=flow.submitter,
        receiver=Receiver(context, setup.tokens),
        interventions=Interventions(context, flow.submitter, flow.checker, payer),
        redeliverer=notifications.redeliverer,
        prober=notifications.prober,
        waiting=notifications.waiting,
        streams=notifications.streams,
        metrics=setup.metrics,
        payer=payer,
        quoter=Quoter(context, payer),
        uploads=uploads,
        archive=flow.archive,
        redactor=outbound.redactor,
        stop=setup.stop,
        tracing=setup.tracing,
        keys_refused=context.keys_refused,
        cookies=SignedCookies(setup.keys, settings.environment),
        rates=rates,
    )


def _loops(
    setup: Setup, storage: Storage, notifications: Notifications, flow: Flow
) -> dict[str, Callable[[], Awaitable[None]]]:
    """Return the background loops by name; a process that serves only proves that it lives, and wakes nothing.

    Where another process has the lock of a SQLite file, the others wait until this one has it.
    """
    store = storage.store
    wake: dict[DueWork, Callable[[], None]] = {
        DueWork.DELIVERIES: notifications.dispatcher.wake,
        DueWork.CHECKS: flow.check_times.read_soon,
        DueWork.COPIES: flow.archive.archiver.wake if flow.archive is not None else lambda: None,
    }

    def resume() -> None:
        for wake_loop in (*wake.values(), flow.sweeper.wake):
            wake_loop()

    loops: dict[str, Callable[[], Awaitable[None]]] = {
        "listen": partial(store.listen, lambda due_work: wake[due_work]()),
        "alerts": AlertWatch(flow.context, notifications.dispatcher.wake).run,
        "statistics": partial(count, store.statistics, setup.clock, samples=setup.dispatches),
    }
    if store.shared:
        loops["boots"] = partial(watch, store.boots, setup.clock, resume)
    dispatching: dict[str, Callable[[], Awaitable[None]]] = {
        "dispatch": notifications.dispatcher.run,
        "sweep": flow.sweeper.run,
        "check": flow.checker.run,
        "redeliver": notifications.redeliverer.run,
    }
    if flow.archive is not None:
        dispatching["archive"] = flow.archive.archiver.run
    if not setup.dispatches:
        return loops
    if store.lease.dispatches:
        return loops | dispatching
    in_charge = asyncio.Event()
    loops["take over"] = partial(_take_over, storage, setup.clock, in_charge)
    return loops | {name: partial(_run_after, in_charge, run) for name, run in dispatching.items()}


async def _take_over(storage: Storage, clock: Clock, in_charge: asyncio.Event) -> None:
    """Dispatch from the moment on when the process that has the lock of the file has ended."""
    if storage.lock is not None and not in_charge.is_set():
        await storage.lock.acquired()
        await storage.store.boots.hold(clock.now_ms())
        storage.store.lease.dispatches = True
        in_charge.set()
        _logger.info("database.taken_over")
    await asyncio.Event().wait()


async def _run_after(begun: asyncio.Event, run: Callable[[], Awaitable[None]]) -> None:
    """Run a loop once the event is set."""
    await begun.wait()
    await run()


@asynccontextmanager
async def _running(loops: Mapping[str, Callable[[], Awaitable[None]]], setup: Setup) -> AsyncIterator[None]:
    """Run the loops while the block runs."""
    running = [asyncio.create_task(_run_forever(name, run, setup.clock), name=name) for name, run in loops.items()]
    try:
        yield
    finally:
        for loop in running:
            loop.cancel()
        if running:
            await asyncio.wait(running, timeout=setup.stop.left_s() + CLOSE_MIN_S)


async def _run_forever(name: str, run: Callable[[], Awaitable[None]], clock: Clock) -> None:
    """Run a loop again after a failure, and a pause; only an unexpected failure is logged with its traceback."""
    while True:
        try:
            await run()
        except StorageUnavailable as error:
            _logger.error("loop.failed", loop=name, error=type(error).__name__, reason=str(error))
        except Exception as error:
            _logger.error("loop.failed", loop=name, error=type(error).__name__, exc_info=error)
        await clock.sleep(PAUSE_AFTER_FAILURE_MS)


async def _finish(submitter: Submitter, dispatcher: Dispatcher, stop: Stop) -> None:
    """Finish the work that the stopped loops left, or release its leases when the time limit is reached."""
    within_s = stop.left_s()
    await asyncio.gather(submitter.finish(within_s), dispatcher.finish(within_s), return_exceptions=True)


def _publisher(
    setup: Setup, statistics: Statistics, to: Notifications, check_times: CheckTimes, ordered: asyncio.Event
) -> Callable[[UpdateResult], None]:
    """Return what passes a committed update on: to the dispatcher, what counts, the checks, the archive, long polls."""
    tracing = setup.tracing

    def publish(result: UpdateResult) -> None:
        job = result.job
        if tracing is not None and job is not None:
            tracing.note(job)
            if result.announced is not None and result.announced.final:
                tracing.job_ended(job)
        for bound in result.bounds:
            setup.metrics.refused(bound)
        if result.fresh:
            to.dispatcher.enqueue(result.fresh)
        if job is None:
            return
        if result.unconfirmed is not None:
            setup.metrics.unconfirmed(job.provider, result.unconfirmed)
        if result.announced is not None:
            setup.metrics.announced(job, result.announced)
            statistics.applied(result, setup.clock.now_ms())
            to.streams.publish(job.project_id)
        if result.also is not None:
            setup.metrics.announced(job, result.also)
        if result.copies:
            ordered.set()
        check_times.note(job, setup.clock.now_ms())
        to.waiting.publish(job)

    return publish


def _configured_providers(setup: Setup, client: ProviderClient) -> Mapping[str, ConfiguredProvider]:
    """Return every provider with its settings, those that have any made now; the others are made at their first use.

    A callback waits for no module to be loaded, unless it is of a provider that is no longer configured. The API loads
    the modules of the others in a thread before it uses them (`web/api/adapters.py`).
    """
    settings = setup.settings
    providers = LazyMapping({name: partial(_configured, name, setup, client) for name in setup.adapters})
    for name in providers:
        if settings.wallet_key or settings.provider(name) != ProviderSettings():
            providers[name]
    return providers


def _configured(name: str, setup: Setup, client: ProviderClient) -> ConfiguredProvider:
    """Return a provider with its settings; with its published keys if it signs by them and no secret is set."""
    adapter, settings = setup.adapters[name], setup.settings
    own = settings.provider(name)
    secrets: tuple[str, ...] = ()
    if own.callback_secret is not None:
        try:
            secrets = check_secrets(adapter.verifier, own.callback_secret)
        except ValueError as error:
            raise SettingsError(f"RELAY_{name.upper()}_CALLBACK_SECRET {error}") from None
    origin, keys = own.base_url or adapter.base_url, None
    if isinstance(adapter, Signing) and not secrets:
        keys_origin, path = keys_at(adapter.keys_url, adapter.base_url, own.base_url)
        keys = KeySet(client, keys_origin, path, adapter.signed, setup.clock)
    return ConfiguredProvider(
        adapter,
        origin,
        own.api_key,
        confirm=own.confirm == "always",
        callback_secrets=secrets,
        wallet=settings.wallet_key is not None,
        keys=keys,
        opened=opener(origin, settings.allow_networks),
        redactor=Redactor((own.api_key, *secrets), setup.tokens.prefix),
        now_ms=setup.clock.now_ms,
    )


def _redactor(setup: Setup) -> Redactor:
    """Return what removes every secret of the operator from a text."""
    settings = setup.settings
    of_providers = [own.api_key for own in settings.providers.values()]
    of_providers += [one for own in settings.providers.values() for one in (own.callback_secret or "").split()]
    wallet = (settings.wallet_key or "").removeprefix("0x")
    return Redactor((settings.api_key, wallet, *setup.keys, *of_providers), setup.tokens.prefix)


def clip_prices(settings: Settings) -> "ClipPrices":
    """Return the operator's prices; raise SettingsError for a malformed setting."""
    from relay.providers.clip_prices import read_clip_prices  # noqa: PLC0415 - one provider of many

    try:
        return read_clip_prices(settings.relaydance_prices)
    except ValueError as error:
        raise SettingsError(f"RELAY_RELAYDANCE_PRICES {error}") from None


def policies(settings: Settings, providers: Mapping[str, Provider]) -> Mapping[str, Policy]:
    """Return the payment policy of each paid provider, made when it is first paid."""
    return LazyMapping({name: partial(_policy, settings, providers, name) for name in providers})


def _policy(settings: Settings, providers: Mapping[str, Provider], name: str) -> Policy:
    """Return the chain, the token, the most for one job, and the payees; KeyError for a provider that is not paid."""
    if not providers[name].limits.paid:
        raise KeyError(name)
    return Policy(
        amount_max=settings.spend_max_per_job,
        pay_to=frozenset(settings.provider(name).pay_to),
        chain_id=settings.pay_chain_id,
        asset=settings.pay_asset,
        asset_name=settings.pay_asset_name,
    )


def _signer_in(wallet: Wallet | None, clock: Clock) -> Callable[[ProviderResponse, str], dict[str, str]] | None:
    """Return what signs in as the payer, None without a wallet; status checks get this function, never the wallet."""
    return None if wallet is None else lambda answer, url: sign_in(answer, url, wallet, clock.now_ms())


def own_hosts(settings: Settings) -> frozenset[str]:
    """Return relay's own hosts, where an endpoint would be a delivery loop."""
    if settings.public_url is None:
        return frozenset()
    parts = urlsplit(settings.public_url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    return frozenset({f"[{IPv6Address(host).compressed}]:{port}" if ":" in host else f"{host}:{port}"})


def secret_keys(settings: Settings) -> tuple[str, ...]:
    """Return the configured keys; without any, one that is made once, in a file beside the SQLite file.

    Raise SettingsError on PostgreSQL, and if the file was lost or holds no key.
    """
    if settings.secret_keys:
        return settings.secret_keys
    if is_postgres(settings.database_url):
        raise SettingsError("RELAY_SECRET_KEYS must be set with PostgreSQL (make one with: openssl rand -base64 32)")
    database = sqlite_path(settings.database_url)
    path = database.with_name(database.name + ".secret")
    if not path.exists() and is_encrypted(database):
        raise SettingsError(
            f"{database.name} holds secrets that a key encrypts, and there is none: RELAY_SECRET_KEYS is not set, and "
            f"{path.name} is not beside it. Set RELAY_SECRET_KEYS to the keys that relay ran with (set -a; . "
            "./relay.env; set +a), or put the file back from the backup"
        )
    if not path.exists() and whole_file.create_once(path, secrets.token_urlsafe(32)):
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
