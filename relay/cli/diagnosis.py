"""The checks of `relay doctor`, which `serve` and `work` also make once after their start.

Each check finds facts, says why they matter and how to mend them, and names the setting. None changes anything, but for
an object in the archive that is written and deleted, and none costs money: providers are asked for a job that does not
exist.
"""

import asyncio
import base64
import ipaddress
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from relay import log, settings
from relay.archive.buckets import opened_bucket
from relay.cli.platforms import wiping
from relay.errors import RelayError, SettingsError, StorageUnavailable
from relay.jobs.alerts import ENDED_UNASKED, SILENT_FROM_MS, SILENT_JOBS, SILENT_TO_MS
from relay.model import ids
from relay.model.archive import CopyErrorCode
from relay.model.payment import usdc
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.outbound.file_upload import FileClient
from relay.outbound.object_store import BucketFailed, Target
from relay.outbound.provider_client import NoAnswer, NotSent, ProviderClient
from relay.payments.outcome import balance_call, chain_id_call, read_quantity
from relay.payments.x402 import Wallet
from relay.providers import DEV_PROVIDERS
from relay.providers.base import Provider, callbacks_expected, example_job
from relay.security.encryption import Encryption
from relay.security.url_policy import AddressPolicy
from relay.settings import FORMER_KEY_CHARS_MIN, SECRET_KEY_CHARS_MIN, Settings, guessable
from relay.storage.engine.database_url import is_postgres, shown, sqlite_path
from relay.storage.examination import Examination

TIMEOUT_S: Final = 5.0
"""How long one request of a check may take."""
CHECK_S: Final = 20.0
"""How long a check may take in all."""
SKEW_WARNING_MS: Final = 5_000
SKEW_ERROR_MS: Final = 60_000
"""Receivers refuse signatures that are five minutes old, and tokens and payments have times too."""
DISK_FREE_MIN_BYTES: Final = 1 << 30
OVERDUE_MS: Final = 60_000
"""Nothing is due for so long where a process works."""
UNKNOWN_ID: Final = "relay-doctor-asks-whether-the-key-is-good"
"""The id of a job that no provider has."""
PROBE: Final = "relay-doctor"
"""How the key begins, and what is in the object, that a check writes to the archive."""
SETTING_NAMES: Final = ("RELAY_", "DATABASE_URL", "PORT")
"""How the names of relay's settings begin."""
KEY_REFUSED: Final = (401, 403)
WIDE_PREFIX: Final = {4: 8, 6: 16}
"""A network with a shorter prefix is more than any one owner's."""
_logger = log.get("doctor")


class Level(StrEnum):
    """How bad a finding is; `skipped` where a check could not be made."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    ERROR = "error"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found: a sentence, why it matters, and how to mend it; `setting` is the variable that decides it."""

    check: str
    level: Level
    setting: str | None
    what: str
    why: str = ""
    mend: str = ""


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks look at: the settings, the environment, and the database if it could be opened.

    `encryption` is None if the keys are not known. `skews` collects by how many milliseconds this machine's clock is
    ahead of others', by their names.
    """

    settings: Settings
    environ: Mapping[str, str]
    adapters: Mapping[str, Provider]
    client: ProviderClient
    database: Examination | None
    encryption: Encryption | None
    now_ms: Callable[[], int]
    skews: dict[str, int] = {}


Check = Callable[[Examined], Awaitable[list[Finding]]]


async def diagnose(examined: Examined) -> list[Finding]:
    """Return what every check found, in their order; a check that fails or takes too long is one finding."""
    findings = []
    for name, check in CHECKS.items():
        try:
            async with asyncio.timeout(CHECK_S):
                found = await check(examined)
        except SettingsError as error:
            found = of_settings_error(error)
        except Exception as error:
            if not isinstance(error, RelayError | TimeoutError | OSError):
                _logger.error("doctor.check_failed", check=name, error=type(error).__name__, exc_info=error)
            what = f"the check could not be made: {str(error) or type(error).__name__}"
            found = [Finding(check=name, level=Level.SKIPPED, setting=None, what=what)]
        findings += found
    return findings


def of_settings_error(error: SettingsError) -> list[Finding]:
    """Return a finding for each sentence of an error about settings."""
    why = "relay does not start with a setting that it cannot read or that contradicts another"
    return [
        Finding(
            check="settings",
            level=Level.ERROR,
            setting=next((word for word in problem.split() if word.startswith(SETTING_NAMES)), None),
            what=problem,
            why=why,
            mend="correct the variable; docs/settings.md has every setting with its values",
        )
        for problem in error.problems
    ]


async def warn(examined: Examined) -> None:
    """Make the checks, and log each finding that an operator should read; never raise."""
    try:
        findings = await diagnose(examined)
    except Exception as error:
        _logger.error("doctor.failed", error=type(error).__name__, exc_info=error)
        return
    for one in findings:
        if one.level in (Level.WARNING, Level.ERROR):
            said = {"check": one.check, "setting": one.setting, "what": one.what, "why": one.why, "mend": one.mend}
            _logger.warning("doctor.finding", level_found=one.level, **said)
    counted = {level: sum(one.level is level for one in findings) for level in (Level.WARNING, Level.ERROR)}
    _logger.info("doctor.done", warnings=counted[Level.WARNING], errors=counted[Level.ERROR])


def unknown_settings(environ: Mapping[str, str], providers: tuple[str, ...]) -> list[Finding]:
    """Return a finding for each variable that no setting reads."""
    return [
        Finding(
            check="settings",
            level=Level.WARNING,
            setting=name.split(" ")[0],
            what=f"no setting reads {name}",
            why="a misspelled setting has no effect, and its default applies",
            mend="correct the name or remove the variable",
        )
        for name in settings.unknown(environ, providers)
    ]


async def _settings(examined: Examined) -> list[Finding]:
    """Find variables that no setting reads, and more processes than relay starts."""
    found = unknown_settings(examined.environ, (*examined.adapters, *DEV_PROVIDERS))
    if examined.environ.get("WEB_CONCURRENCY", "1") != "1":
        found.append(
            Finding(
                check="settings",
                level=Level.WARNING,
                setting="WEB_CONCURRENCY",
                what="WEB_CONCURRENCY is set, and relay serves in one process",
                why="the machine is not used as that variable says",
                mend="remove it; on PostgreSQL start more of `relay serve --no-dispatch` to use more cores",
            )
        )
    return found or [_ok("settings", None, "every variable is one that relay reads")]


async def _database(examined: Examined) -> list[Finding]:
    """Find a database that cannot be written, is not migrated, or may lose what it has committed."""
    name, why = "DATABASE_URL", "relay acknowledges only what is stored: without its database it answers 503"
    there = shown(examined.settings.database_url)
    if examined.database is None:
        mend = "create it with `relay migrate`, or correct DATABASE_URL"
        return [_error("database", name, f"{there} cannot be opened", why, mend)]
    try:
        schema = await examined.database.schema()
        await examined.database.write()
    except StorageUnavailable as error:
        mend = "start the database server, or give relay's user the right to write"
        return [_error("database", name, f"{there} accepts no writes: {error}", why, mend)]
    found = []
    if schema.there < schema.known:
        found.append(
            _error(
                "database",
                name,
                f"{there} is at schema {schema.there}, this relay needs {schema.known}",
                "a start migrates it; until then no process of this version works with it",
                "run `relay migrate`, or start this version of relay",
            )
        )
    elif schema.there > schema.known:
        found.append(
            _error(
                "database",
                name,
                f"{there} is at schema {schema.there}, newer than the {schema.known} of this relay",
                "this version does not start with it",
                "start the newer relay, or restore a backup",
            )
        )
    found += [
        _warning(
            "database",
            name,
            f"the server of {there} has {setting} = off",
            "a crash of the server may lose jobs and callbacks that relay has acknowledged",
            f"set {setting} = on for relay's database",
        )
        for setting in await examined.database.volatile()
    ]
    return found or [_ok("database", name, f"{there} accepts writes and is at schema {schema.there}")]


async def _disk(examined: Examined) -> list[Finding]:
    """Find a SQLite file on a disk that is wiped, or that is nearly full."""
    url, name = examined.settings.database_url, "DATABASE_URL"
    if is_postgres(url):
        return []
    path, found = sqlite_path(url), []
    if platform := wiping(path, examined.environ):
        level = Level.WARNING if examined.settings.allow_ephemeral else Level.ERROR
        found.append(
            Finding(
                check="disk",
                level=level,
                setting="RELAY_ALLOW_EPHEMERAL" if examined.settings.allow_ephemeral else name,
                what=f"{path.absolute()} lies on a disk that {platform.name} wipes when the process ends",
                why="every job, callback and notification would be lost with the next deployment",
                mend="mount a volume and put the database there, or use PostgreSQL (DATABASE_URL=postgres://…)",
            )
        )
    folder = next((one for one in (path.parent, *path.absolute().parents) if one.exists()), Path("/"))
    free = await asyncio.to_thread(lambda: shutil.disk_usage(folder).free)
    if free < DISK_FREE_MIN_BYTES:
        found.append(
            _warning(
                "disk",
                name,
                f"{free >> 20} MiB are free where {path.name} is",
                "on a full disk relay stores nothing, and answers 503",
                "free space, enlarge the volume, or lower RELAY_RETENTION_DAYS",
            )
        )
    return found or [_ok("disk", name, f"{path.name} lies on a lasting disk with {free >> 20} MiB free")]


async def _secrets(examined: Examined) -> list[Finding]:
    """Find keys that can be guessed, that are in a file only, or that the database does not fit."""
    own, found, name = examined.settings, [], "RELAY_SECRET_KEYS"
    if not own.secret_keys and not is_postgres(own.database_url):
        file = f"{sqlite_path(own.database_url).name}.secret"
        found.append(
            _warning(
                "secrets",
                name,
                f"RELAY_SECRET_KEYS is not set: the key is in {file} beside the database",
                "a copy of the folder has both the secrets and their key, and a backup without the file is useless",
                f"set RELAY_SECRET_KEYS to the content of {file}, then delete the file",
            )
        )
    for number, key in enumerate(own.secret_keys[:-1], 1):
        if weakness := guessable(key, SECRET_KEY_CHARS_MIN):
            found.append(
                _warning(
                    "secrets",
                    name,
                    f"key {number} of RELAY_SECRET_KEYS {weakness}",
                    "who guesses it can forge callbacks: tokens of every key are accepted",
                    f"run `relay keys reseal`, and remove the key once no open job needs it (at least "
                    f"{FORMER_KEY_CHARS_MIN} characters are needed to start)",
                )
            )
    if own.api_key is None:
        found.append(
            _warning(
                "secrets",
                "RELAY_API_KEY",
                "RELAY_API_KEY is not set: only keys of the database work",
                "a new installation has none",
                "make one with `relay keys create --scope admin`, or set RELAY_API_KEY",
            )
        )
    if own.metrics_key is None and own.public_url is not None:
        found.append(
            _warning(
                "secrets",
                "RELAY_METRICS_KEY",
                "RELAY_METRICS_KEY is not set: GET /metrics needs no key",
                "anyone who reaches relay can read how much it does, though no secret and no id",
                "set RELAY_METRICS_KEY, or let the proxy in front refuse /metrics",
            )
        )
    if examined.database is not None and examined.encryption is not None:
        missing = (await examined.database.keys_seen()).keys() - set(examined.encryption.fingerprints)
        if missing:
            found.append(
                _error(
                    "secrets",
                    name,
                    f"the database is sealed with {len(missing)} key{'s' if len(missing) > 1 else ''} that "
                    "RELAY_SECRET_KEYS lacks",
                    "relay could not read endpoints' secrets and would refuse open jobs' callbacks: it does not start",
                    "put the key back, newest last; if one is lost for ever: `relay keys reseal`",
                )
            )
    return found or [_ok("secrets", name, "the keys cannot be guessed, and are this database's")]


async def _former_keys(examined: Examined) -> list[Finding]:
    """Find out which keys open jobs still need for their callback URLs, before an operator drops one."""
    if examined.database is None or examined.encryption is None:
        return []
    name, seen, prints = "RELAY_SECRET_KEYS", await examined.database.keys_seen(), examined.encryption.fingerprints
    since = seen.get(prints[-1])
    if since is None or since == 0:
        return []
    if len(prints) == 1:
        older = 0 if len(seen) > 1 else await examined.database.open_jobs(0, since)
        return [
            _warning(
                "former_keys",
                name,
                f"{_jobs(older)} older than the only key, so another key may have signed their callback URLs",
                "if so, their callbacks are refused, and these jobs end by status checks",
                "if RELAY_SECRET_KEYS had another key, put it back in front until these jobs have ended",
            )
        ][: 1 if older else 0]
    starts = [seen.get(print_, 0) for print_ in prints]
    needed = {
        number: await examined.database.open_jobs(began_at, min((at for at in starts[number:] if at), default=since))
        for number, began_at in enumerate(starts[:-1], 1)
    }
    if any(needed.values()):
        return [
            _ok("former_keys", name, f"keep key {number} of RELAY_SECRET_KEYS: {_jobs(open_jobs)} called back by it")
            for number, open_jobs in needed.items()
            if open_jobs
        ]
    sealing = [number for number, print_ in enumerate(prints[:-1], 1) if print_ in seen]
    if sealing:
        return [
            _warning(
                "former_keys",
                name,
                "no open job needs a former key, and the database still has values that are sealed with one",
                "a key that is no longer needed is one more that can leak",
                "run `relay keys reseal`, then remove the former keys",
            )
        ]
    return [_ok("former_keys", name, "no open job and no stored secret needs a former key: remove them")]


def _jobs(number: int) -> str:
    """Return the subject of a sentence about so many open jobs."""
    return f"{number} open job{' is' if number == 1 else 's are'}"


async def _public_url(examined: Examined) -> list[Finding]:
    """Find a public URL where providers do not reach this relay over HTTPS."""
    url, name, why = examined.settings.public_url, "RELAY_PUBLIC_URL", "providers send callbacks there"
    if url is None:
        why = "providers cannot call back: every job waits for status checks"
        return [_warning("public_url", name, "RELAY_PUBLIC_URL is not set", why, "set it to relay's https URL")]
    found = []
    if url.startswith("http://"):
        mend = "put TLS in front (see docs/deploy.md), and remove RELAY_ALLOW_HTTP"
        found.append(_warning("public_url", name, f"{url} is not https", "callbacks can be read and changed", mend))
    answer = await _get(examined, url, "/.well-known/webhook-keys", "RELAY_PUBLIC_URL")
    mend = "correct RELAY_PUBLIC_URL, the DNS record, the certificate or the proxy in front of relay"
    if isinstance(answer, str):
        return [*found, _error("public_url", name, f"{url} does not answer: {answer}", why, mend)]
    if 300 <= answer.status_code < 400:
        what = f"{url} answers with a redirect ({answer.status_code})"
        return [*found, _error("public_url", name, what, "providers do not follow redirects", mend)]
    published = _published(answer)
    if published is None:
        what = f"{url} is answered by something that is not relay (HTTP {answer.status_code})"
        return [*found, _error("public_url", name, what, why, mend)]
    own = {one.key for one in await examined.database.public_keys()} if examined.database else published
    if not own & published:
        what = f"{url} leads to another relay, with another database"
        return [*found, _error("public_url", name, what, "callbacks arrive where their jobs are not known", mend)]
    return found or [_ok("public_url", name, f"{url} leads here")]


async def _network(examined: Examined) -> list[Finding]:
    """Find settings that open more of the network to notifications than one owner has."""
    wide = [one for one in examined.settings.allow_networks if one.prefixlen < WIDE_PREFIX[one.version]]
    metadata = ipaddress.ip_address("169.254.169.254")
    wide += [one for one in examined.settings.allow_networks if one not in wide and metadata in one]
    found = [
        _warning(
            "network",
            "RELAY_ALLOW_NETWORKS",
            f"RELAY_ALLOW_NETWORKS allows {network}",
            "a client with an admin key can have relay call hosts inside your network, such as the cloud's metadata",
            "name only the networks that receivers are in",
        )
        for network in wide
    ]
    url = examined.settings.public_url or ""
    if examined.settings.allow_http and url.startswith("https://"):
        found.append(
            _warning(
                "network",
                "RELAY_ALLOW_HTTP",
                "RELAY_ALLOW_HTTP is set although the public URL is https",
                "endpoints without TLS are accepted: what they receive can be read on the way",
                "remove RELAY_ALLOW_HTTP, which is for development",
            )
        )
    return found or [_ok("network", "RELAY_ALLOW_NETWORKS", "notifications go to public addresses, or to few networks")]


async def _providers(examined: Examined) -> list[Finding]:
    """Find providers that refuse relay's key, by asking each for a job that does not exist."""
    keyed = [name for name in examined.adapters if examined.settings.provider(name).api_key]
    asked = [name for name in keyed if not _paid(examined, name)]
    if not asked and not examined.settings.wallet_key:
        names = " or ".join(f"RELAY_{name.upper()}_API_KEY" for name in examined.adapters if not _paid(examined, name))
        why = "no job can be submitted"
        return [_warning("providers", names.split(" ")[0], "no provider is configured", why, f"set {names}")]
    return [one for found in await asyncio.gather(*(_provider(examined, name) for name in asked)) for one in found]


async def _provider(examined: Examined, name: str) -> list[Finding]:
    """Find out whether one provider accepts relay's key."""
    own, adapter = examined.settings.provider(name), examined.adapters[name]
    origin, setting, found = own.base_url or adapter.base_url, f"RELAY_{name.upper()}_API_KEY", []
    if origin.startswith("http://"):
        base, why = f"RELAY_{name.upper()}_BASE_URL", "the API key and every prompt can be read on the way"
        found.append(_warning("providers", base, f"{base} is not https", why, "use the provider's https URL"))
    request = adapter.status_check(example_job(adapter, UNKNOWN_ID))
    authorization = adapter.authorization(own.api_key or "", examined.now_ms() // 1000)
    try:
        answer = await examined.client.send(origin, authorization, request, TIMEOUT_S)
    except (NotSent, NoAnswer) as error:
        why, mend = (
            "no job can be submitted there, and none is checked",
            "check the network, and the provider's status page",
        )
        return [*found, _warning("providers", setting, f"{name} does not answer: {error}", why, mend)]
    _note_skew(examined, name, answer)
    if answer.status_code in KEY_REFUSED:
        what = f"{name} refuses the key of {setting} (HTTP {answer.status_code})"
        return [
            *found,
            _error("providers", setting, what, "each submission to it fails", "set a valid key, and restart"),
        ]
    if answer.status_code >= 500 or answer.status_code == 429:
        why, mend = "it is unknown whether it accepts the key", "run the doctor again later"
        return [*found, _warning("providers", setting, f"{name} answers HTTP {answer.status_code}", why, mend)]
    return found or [_ok("providers", setting, f"{name} accepts the key")]


async def _archive(examined: Examined) -> list[Finding]:
    """Find an archive that does not take, show or delete an object; the one that is written for this is deleted."""
    url, setting = examined.settings.archive_url, "RELAY_ARCHIVE_URL"
    if url is None:
        return [Finding(check="archive", level=Level.SKIPPED, setting=setting, what="there is no archive")]
    async with FileClient(AddressPolicy((), allow_http=True)) as files:
        bucket, key = opened_bucket(url, files), f"{PROBE}-{ids.new_id(ids.COPY)}"
        try:
            await bucket.write(Target(key, "text/plain", len(PROBE)), _probe())
            size = await bucket.size(key)
            await bucket.delete(key)
        except BucketFailed as error:
            refused = error.code is CopyErrorCode.STORE_REFUSED
            mend = "check its credentials, its name and its region" if refused else "check its address and the network"
            return [
                _error("archive", setting, str(error), "results are not copied, and expire at their providers", mend)
            ]
    if size != len(PROBE):
        why = "what is written there cannot be read: copies would be lost"
        return [_error("archive", setting, f"{bucket.shown} does not show what was written", why, "use another bucket")]
    return [_ok("archive", setting, f"{bucket.shown} takes, shows and deletes objects")]


async def _probe() -> AsyncIterator[bytes]:
    """Yield what is written for a check."""
    yield PROBE.encode()


async def _clock(examined: Examined) -> list[Finding]:
    """Find a clock that differs from those of the database and of the providers."""
    if examined.database is not None and (theirs := await examined.database.clock_ms()) is not None:
        examined.skews["the database"] = examined.now_ms() - theirs
    if not examined.skews:
        return [Finding(check="clock", level=Level.SKIPPED, setting=None, what="no other clock to compare with")]
    # If another clock agrees, this one is right, and a third that differs is wrong itself.
    source, skew_ms = min(examined.skews.items(), key=lambda item: abs(item[1]))
    if abs(skew_ms) < SKEW_WARNING_MS:
        return [_ok("clock", None, f"the clock agrees with that of {source}")]
    way = "ahead of" if skew_ms > 0 else "behind"
    what = f"this machine's clock is {abs(skew_ms) // 1000} s {way} that of {source}"
    why = "receivers refuse notifications that seem old, and payments and tokens have times"
    report = _error if abs(skew_ms) >= SKEW_ERROR_MS else _warning
    return [report("clock", None, what, why, "synchronize the machine's clock (NTP, chrony, systemd-timesyncd)")]


async def _worker(examined: Examined) -> list[Finding]:
    """Find work that is due and that no process does."""
    if examined.database is None:
        return []
    overdue_ms = await examined.database.overdue_ms(examined.now_ms())
    if overdue_ms < OVERDUE_MS:
        return [_ok("worker", None, "nothing is due for long")]
    start = "start `relay serve`"
    if is_postgres(examined.settings.database_url):
        start = "start `relay work`, or `relay serve` without --no-dispatch, with the same DATABASE_URL"
    return [
        _error(
            "worker",
            "DATABASE_URL",
            f"work is due for {overdue_ms // 1000} s: no process sends notifications and checks jobs on this database",
            "callbacks are stored, and their notifications wait",
            start,
        )
    ]


async def _callbacks(examined: Examined) -> list[Finding]:
    """Find providers whose callbacks do not arrive, though they are given a URL."""
    if examined.database is None or examined.settings.public_url is None:
        return []
    now_ms, found = examined.now_ms(), []
    for name, endings in (await examined.database.endings(now_ms - SILENT_FROM_MS, now_ms - SILENT_TO_MS)).items():
        if name not in examined.adapters or not callbacks_expected(examined.adapters[name]):
            continue
        newest = [one.callbacks_seen for one in endings if one.finished_by not in ENDED_UNASKED][:SILENT_JOBS]
        if len(newest) == SILENT_JOBS and not any(newest):
            found.append(
                _warning(
                    "callbacks",
                    "RELAY_PUBLIC_URL",
                    f"the last {SILENT_JOBS} jobs at {name} ended without a callback",
                    "their results came late, by status checks",
                    "check that the provider reaches RELAY_PUBLIC_URL: DNS, certificate, firewall, proxy",
                )
            )
        elif newest:
            found.append(_ok("callbacks", None, f"callbacks of {name} arrive"))
    return found


async def _payments(examined: Examined) -> list[Finding]:
    """Find caps that contradict each other, and a wallet that cannot pay or whose payments cannot be proven."""
    own, found = examined.settings, []
    project_day = own.project_spend_max_per_day
    for name, cap in (
        ("RELAY_SPEND_MAX_PER_JOB", own.spend_max_per_job),
        ("RELAY_PROJECT_SPEND_MAX_PER_DAY", project_day if project_day is not None else 0),
        ("RELAY_SPEND_MAX_PER_HOUR", own.spend_max_per_hour or 0),
        ("RELAY_PROJECT_SPEND_MAX_PER_HOUR", own.project_spend_max_per_hour or 0),
    ):
        if cap > own.spend_max_per_day:
            found.append(
                _warning(
                    "payments",
                    name,
                    f"{name} ({usdc(cap)}) is more than RELAY_SPEND_MAX_PER_DAY ({usdc(own.spend_max_per_day)})",
                    "the day's cap refuses first, so this one has no effect",
                    f"lower {name}, or raise RELAY_SPEND_MAX_PER_DAY",
                )
            )
    if not own.wallet_key:
        return found
    if not own.chain_rpc_url:
        why = "a payment whose answer was lost stays unknown for ever, and counts as spent"
        mend = "set it to a node of the chain, such as https://mainnet.base.org"
        return [*found, _warning("payments", "RELAY_CHAIN_RPC_URL", "RELAY_CHAIN_RPC_URL is not set", why, mend)]
    return found + await _wallet(examined, own.wallet_key, own.chain_rpc_url)


async def _wallet(examined: Examined, key: str, node: str) -> list[Finding]:
    """Find a node of another chain, and a balance that pays for no further job."""
    own, wallet = examined.settings, Wallet(key)
    name, why = "RELAY_CHAIN_RPC_URL", "no payment can be proven made or void"
    chain = await _quantity(examined, node, chain_id_call())
    if chain is None:
        return [_warning("payments", name, "the node of RELAY_CHAIN_RPC_URL does not answer", why, "use another node")]
    if chain != own.pay_chain_id:
        what = f"the node of RELAY_CHAIN_RPC_URL is of chain {chain}, and RELAY_PAY_CHAIN_ID is {own.pay_chain_id}"
        return [_error("payments", name, what, why, "set both to the same chain")]
    balance = await _quantity(examined, node, balance_call(own.pay_asset, wallet.address))
    if balance is None:
        what = "the node does not tell the wallet's balance: RELAY_PAY_ASSET is no token of the chain"
        return [_warning("payments", "RELAY_PAY_ASSET", what, why, "set it to the token's contract")]
    if balance < own.spend_max_per_job:
        return [
            _warning(
                "payments",
                "RELAY_WALLET_KEY",
                f"the wallet {wallet.address} holds {usdc(balance)} USDC, less than RELAY_SPEND_MAX_PER_JOB "
                f"({usdc(own.spend_max_per_job)})",
                "the next job may be refused for lack of funds",
                f"send USDC to {wallet.address} on chain {own.pay_chain_id}",
            )
        ]
    return [_ok("payments", "RELAY_WALLET_KEY", f"the wallet {wallet.address} holds {usdc(balance)} USDC")]


CHECKS: Final[dict[str, Check]] = {
    "settings": _settings,
    "database": _database,
    "disk": _disk,
    "secrets": _secrets,
    "former_keys": _former_keys,
    "public_url": _public_url,
    "network": _network,
    "providers": _providers,
    "archive": _archive,
    "clock": _clock,
    "worker": _worker,
    "callbacks": _callbacks,
    "payments": _payments,
}


def _ok(check: str, setting: str | None, what: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(check=check, level=Level.OK, setting=setting, what=what)


def _warning(check: str, setting: str | None, what: str, why: str, mend: str) -> Finding:
    """Return a finding that does not stop relay."""
    return Finding(check=check, level=Level.WARNING, setting=setting, what=what, why=why, mend=mend)


def _error(check: str, setting: str | None, what: str, why: str, mend: str) -> Finding:
    """Return a finding with which relay does not do its work."""
    return Finding(check=check, level=Level.ERROR, setting=setting, what=what, why=why, mend=mend)


def _paid(examined: Examined, name: str) -> bool:
    """Return whether a provider is paid for each job, and so has no key."""
    return examined.adapters[name].limits.paid


async def _get(examined: Examined, url: str, path: str, source: str) -> ProviderResponse | str:
    """Return the answer to a GET, or why there is none; note the other side's clock."""
    request = ProviderRequest(method="GET", path=path, bearer=False)
    try:
        answer = await examined.client.send(url, "", request, TIMEOUT_S)
    except (NotSent, NoAnswer) as error:
        return str(error)
    _note_skew(examined, source, answer)
    return answer


async def _quantity(examined: Examined, node: str, call: dict[str, object]) -> int | None:
    """Return the number that a node answers; None without one."""
    request = ProviderRequest(method="POST", path="", body=call, bearer=False)
    try:
        return read_quantity(await examined.client.send(node, "", request, TIMEOUT_S))
    except (NotSent, NoAnswer):
        return None


def _note_skew(examined: Examined, source: str, answer: ProviderResponse) -> None:
    """Note by how much this machine's clock is ahead of the `date` of an answer, which has whole seconds."""
    try:
        theirs_ms = round(parsedate_to_datetime(answer.headers.get("date", "")).timestamp() * 1000)
    except ValueError:
        return
    if source != "RELAY_PUBLIC_URL":  # that may be this machine itself
        examined.skews[source] = examined.now_ms() - theirs_ms


def _published(answer: ProviderResponse) -> set[bytes] | None:
    """Return the public keys of an answer of `/.well-known/webhook-keys`; None if it is none of relay's."""
    if answer.status_code != 200:
        return None
    try:
        read = msgspec.json.decode(answer.body, type=_Keys)
        return {base64.urlsafe_b64decode(one.x + "=" * (-len(one.x) % 4)) for one in read.keys}
    except (msgspec.DecodeError, ValueError):
        return None


class _Key(msgspec.Struct):
    """What is read of a published key."""

    x: str


class _Keys(msgspec.Struct):
    """What is read of `/.well-known/webhook-keys`."""

    keys: list[_Key]


def encryption_of(own: Settings) -> Encryption | None:
    """Return what opens the database's secrets; None if the keys are in a file that is not there yet."""
    keys = own.secret_keys
    if not keys and not is_postgres(own.database_url):
        path = sqlite_path(own.database_url)
        file = path.with_name(path.name + ".secret")
        keys = (file.read_text("utf-8").strip(),) if file.exists() else ()
    return Encryption(keys) if keys else None
