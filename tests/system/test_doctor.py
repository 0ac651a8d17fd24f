"""`relay doctor`: each misconfiguration is found, with the setting that decides it; a start logs the same findings."""

import asyncio
import base64
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from relay import settings
from relay.cli import diagnosis, doctor, starting
from relay.cli.diagnosis import Finding, Level
from relay.clock import SystemClock
from relay.jobs.alerts import SILENT_JOBS, SILENT_TO_MS
from relay.providers import PROVIDERS
from relay.sandbox.faults import Faults
from relay.sandbox.serving import serve
from relay.security.encryption import Encryption
from relay.storage.encryption_keys import reseal
from relay.storage.engine.database import Transaction
from relay.storage.engine.database_url import is_postgres
from tests.support import processes, s3
from tests.support.paying import KEY as WALLET_KEY
from tests.support.ports import free_port
from tests.support.running import SECRET_KEY, HeldClock, Running, environment, relay

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
OTHER_KEY = "another-key-that-nobody-can-guess-43"
REFUSED = "http://127.0.0.1:1"
WEAK = "1111111111111111"


class Place:
    """A running relay, and the environment of a `relay doctor` beside it."""

    def __init__(self, running: Running, environ: dict[str, str]) -> None:
        self.running = running
        self.environ = environ

    async def findings(
        self, changed: Mapping[str, str | None] | None = None, ahead_ms: int = 0, at_ms: int | None = None
    ) -> list[Finding]:
        """Return what the doctor finds in this environment, with settings changed or (None) removed.

        The clock of its machine is `ahead_ms` ahead, or stands at `at_ms`.
        """
        merged = {**self.environ, **(changed or {})}
        environ = {name: value for name, value in merged.items() if value is not None}
        loaded = settings.load(environ, tuple(PROVIDERS))
        async with doctor.examined(loaded, environ) as about:
            clock = SystemClock()

            def now_ms() -> int:
                return clock.now_ms() + ahead_ms if at_ms is None else at_ms

            return await diagnosis.diagnose(msgspec.structs.replace(about, now_ms=now_ms))

    async def bad(self, ahead_ms: int = 0) -> set[tuple[str, str | None, str]]:
        """Return check, setting and level of each finding that is not good."""
        found = await self.findings(ahead_ms=ahead_ms)
        return {(one.check, one.setting, str(one.level)) for one in found if one.level in (Level.WARNING, Level.ERROR)}


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """Yield a relay that is well configured but for what a test on this machine needs: no TLS."""
    async with serve(_other_site()) as other, relay(tmp_path, clock=SystemClock()) as running:
        providers_at = running.app.settings.provider("evolink").base_url or ""
        environ = environment(tmp_path, running.origin, providers_at)
        environ |= {"RELAY_METRICS_KEY": "a-key-of-prometheus", "OTHER": other, "RELAY_KINOVI_BASE_URL": other}
        yield Place(running, environ)


def _other_site() -> Starlette:
    """Return a site that is not relay, whose answers have a `date`, and a node that knows an almost empty wallet."""

    async def redirect(_: Request) -> Response:
        return RedirectResponse("/elsewhere", 308)

    async def node(request: Request) -> Response:
        asked = await request.json()
        result = {"eth_chainId": "0x2105", "eth_call": "0x" + f"{123_456:064x}"}[asked["method"]]
        return JSONResponse({"jsonrpc": "2.0", "id": 1, "result": result})

    async def shop(_: Request) -> Response:
        return PlainTextResponse("welcome to the shop", headers={"date": formatdate(usegmt=True)})

    return Starlette(
        routes=[
            Route("/moved/.well-known/webhook-keys", redirect),
            Route("/rpc", node, methods=["POST"]),
            Route("/{path:path}", shop),
        ]
    )


BASELINE = {("public_url", "RELAY_PUBLIC_URL", "warning")} | {
    ("providers", f"RELAY_{name.upper()}_BASE_URL", "warning") for name, one in PROVIDERS.items() if not one.limits.paid
}
"""What is found of a good relay here: its public URL and its providers have no TLS."""
UNSAFE = ("database", "DATABASE_URL", "warning")
"""What is found of the tests' PostgreSQL, which writes nothing through to its disk."""


@pytest.mark.both_databases
async def test_a_good_installation_has_only_the_findings_of_a_machine_without_tls(place: Place) -> None:
    """Find nothing bad but plain HTTP, and say of each check what is good."""
    found = await place.findings()
    bad = {(one.check, one.setting, str(one.level)) for one in found if one.level is Level.WARNING}
    assert bad == BASELINE | ({UNSAFE} if is_postgres(place.environ["DATABASE_URL"]) else set())
    assert [one for one in found if one.level is Level.ERROR] == []
    good = {one.check for one in found if one.level is Level.OK}
    assert good | {UNSAFE[0]} >= {"settings", "database", "secrets", "network", "clock", "worker"}
    shown = str(found)
    for secret in (SECRET_KEY, place.environ["RELAY_API_KEY"], place.environ["RELAY_EVOLINK_API_KEY"]):
        assert secret not in shown


PLANTED: dict[str, tuple[dict[str, str | None], tuple[str, str, str]]] = {
    "a misspelled setting": ({"RELAY_EVOLNK_API_KEY": "x"}, ("settings", "RELAY_EVOLNK_API_KEY", "warning")),
    "several workers": ({"WEB_CONCURRENCY": "4"}, ("settings", "WEB_CONCURRENCY", "warning")),
    "no database": ({"DATABASE_URL": "sqlite:////nowhere/relay.db"}, ("database", "DATABASE_URL", "error")),
    "no public URL": ({"RELAY_PUBLIC_URL": None}, ("public_url", "RELAY_PUBLIC_URL", "warning")),
    "a public URL that no one answers": ({"RELAY_PUBLIC_URL": REFUSED}, ("public_url", "RELAY_PUBLIC_URL", "error")),
    "another site": ({"RELAY_PUBLIC_URL": "OTHER"}, ("public_url", "RELAY_PUBLIC_URL", "error")),
    "a redirect": ({"RELAY_PUBLIC_URL": "OTHER/moved"}, ("public_url", "RELAY_PUBLIC_URL", "error")),
    "a wrong key": ({"RELAY_EVOLINK_API_KEY": "sk-wrong"}, ("providers", "RELAY_EVOLINK_API_KEY", "error")),
    "a provider away": ({"RELAY_KINOVI_BASE_URL": REFUSED}, ("providers", "RELAY_KINOVI_API_KEY", "warning")),
    "another secret key": ({"RELAY_SECRET_KEYS": OTHER_KEY}, ("secrets", "RELAY_SECRET_KEYS", "error")),
    "a weak former key": ({"RELAY_SECRET_KEYS": f"{WEAK},{SECRET_KEY}"}, ("secrets", "RELAY_SECRET_KEYS", "warning")),
    "no API key": ({"RELAY_API_KEY": None}, ("secrets", "RELAY_API_KEY", "warning")),
    "open metrics": ({"RELAY_METRICS_KEY": None}, ("secrets", "RELAY_METRICS_KEY", "warning")),
    "every network": ({"RELAY_ALLOW_NETWORKS": "0.0.0.0/0"}, ("network", "RELAY_ALLOW_NETWORKS", "warning")),
    "cloud metadata": ({"RELAY_ALLOW_NETWORKS": "169.254.0.0/16"}, ("network", "RELAY_ALLOW_NETWORKS", "warning")),
    "plain http beside https": (
        {"RELAY_PUBLIC_URL": "https://127.0.0.1:1"},
        ("network", "RELAY_ALLOW_HTTP", "warning"),
    ),
    "a wiped disk": (
        {"DYNO": "web.1", "RELAY_ALLOW_EPHEMERAL": "1", "DATABASE_URL": "sqlite:////proc/relay.db"},
        ("disk", "RELAY_ALLOW_EPHEMERAL", "warning"),
    ),
    "an archive that cannot be written": (
        {"RELAY_ARCHIVE_URL": "file:///proc/results"},
        ("archive", "RELAY_ARCHIVE_URL", "error"),
    ),
    "a cap above the day's": ({"RELAY_SPEND_MAX_PER_JOB": "11"}, ("payments", "RELAY_SPEND_MAX_PER_JOB", "warning")),
    "a project's cap above the day's": (
        {"RELAY_PROJECT_SPEND_MAX_PER_DAY": "10.01"},
        ("payments", "RELAY_PROJECT_SPEND_MAX_PER_DAY", "warning"),
    ),
    "an hour's cap above the day's": (
        {"RELAY_SPEND_MAX_PER_HOUR": "10.01"},
        ("payments", "RELAY_SPEND_MAX_PER_HOUR", "warning"),
    ),
    "a project's cap of an hour above the day's": (
        {"RELAY_PROJECT_SPEND_MAX_PER_HOUR": "10.01"},
        ("payments", "RELAY_PROJECT_SPEND_MAX_PER_HOUR", "warning"),
    ),
    "a wallet without a node": ({"RELAY_WALLET_KEY": WALLET_KEY}, ("payments", "RELAY_CHAIN_RPC_URL", "warning")),
    "a node that no one answers": (
        {"RELAY_WALLET_KEY": WALLET_KEY, "RELAY_CHAIN_RPC_URL": REFUSED},
        ("payments", "RELAY_CHAIN_RPC_URL", "warning"),
    ),
    "a node of another chain": (
        {"RELAY_WALLET_KEY": WALLET_KEY, "RELAY_CHAIN_RPC_URL": "OTHER/rpc", "RELAY_PAY_CHAIN_ID": "84532"},
        ("payments", "RELAY_CHAIN_RPC_URL", "error"),
    ),
    "an empty wallet": (
        {"RELAY_WALLET_KEY": WALLET_KEY, "RELAY_CHAIN_RPC_URL": "OTHER/rpc"},
        ("payments", "RELAY_WALLET_KEY", "warning"),
    ),
}


async def test_each_planted_misconfiguration_is_found_and_names_its_setting(place: Place) -> None:
    """Find each of these, one at a time, with what, why and how to mend it; and nothing else that was good before."""
    wrong = {}
    for name, (planted, expected) in PLANTED.items():
        changed = {
            setting: value and value.replace("OTHER", place.environ["OTHER"]) for setting, value in planted.items()
        }
        found = await place.findings(changed)
        bad = {(one.check, one.setting, str(one.level)): one for one in found if one.level in ("warning", "error")}
        one = bad.get(expected)
        if one is None or not (one.what and one.why and one.mend):
            wrong[name] = sorted(bad.keys() - BASELINE, key=str)
    assert wrong == {}


async def test_caps_and_a_balance_that_just_suffice_are_good(place: Place) -> None:
    """Find nothing about caps as high as the day's, nor about a wallet that pays for exactly one job."""
    caps = {"RELAY_SPEND_MAX_PER_JOB": "10", "RELAY_PROJECT_SPEND_MAX_PER_DAY": "10", "RELAY_SPEND_MAX_PER_HOUR": "10"}
    assert [one for one in await place.findings(caps) if one.check == "payments"] == []
    wallet = {"RELAY_WALLET_KEY": WALLET_KEY, "RELAY_CHAIN_RPC_URL": f"{place.environ['OTHER']}/rpc"}
    (finding,) = (
        one for one in await place.findings(wallet | {"RELAY_SPEND_MAX_PER_JOB": "0.123456"}) if one.check == "payments"
    )
    assert (finding.level, "holds 0.123456 USDC" in finding.what) == (Level.OK, True)
    assert WALLET_KEY not in finding.what


@pytest.mark.parametrize(
    ("ahead_ms", "level"),
    [
        (0, None),
        (3_500, None),
        (6_500, "warning"),
        (-3_500, None),
        (-6_500, "warning"),
        (58_500, "warning"),
        (61_500, "error"),
    ],
)
@pytest.mark.both_databases
async def test_a_clock_that_differs_is_found(place: Place, ahead_ms: int, level: str | None) -> None:
    """Compare the clock with the database's and the providers'; a `date` has whole seconds."""
    found = {one[2] for one in await place.bad(ahead_ms) if one[0] == "clock"}
    assert found == ({level} if level else set())


@pytest.mark.both_databases
@pytest.mark.parametrize(("newer", "told"), [(False, "relay migrate"), (True, "start the newer relay")])
async def test_a_database_of_another_version_is_found(place: Place, newer: bool, told: str) -> None:
    """Find a database that this version would migrate, or that a newer one has migrated."""

    async def change(transaction: Transaction) -> None:
        if newer:
            await transaction.rows("register_migration", {"version": 9999, "name": "9999_later.sql", "now": 1})
        else:
            await transaction.run_text(
                "DELETE FROM schema_migrations WHERE version = (SELECT MAX(version) FROM schema_migrations)"
            )

    await place.running.app.store.database.transact(change)
    (finding,) = (one for one in await place.findings() if one.check == "database" and one.level is Level.ERROR)
    assert (finding.setting, told in finding.mend) == ("DATABASE_URL", True)


@pytest.mark.both_databases
@pytest.mark.parametrize(("late_ms", "level"), [(59_999, Level.OK), (60_000, Level.ERROR)])
async def test_work_that_no_process_does_is_found(tmp_path: Path, late_ms: int, level: Level) -> None:
    """Find a notification that is due for a minute, to the millisecond: no process sends it."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="90") as running:
        await running.submit(notify=[{"url": running.hook}])
        environ = environment(tmp_path, running.origin, running.app.settings.provider("evolink").base_url or "")
        due_at = running.clock.now_ms() + 90_000
        found = await Place(running, environ).findings(at_ms=due_at + late_ms)
        (finding,) = (one for one in found if one.check == "worker")
        assert finding.level is level, finding
        assert level is Level.OK or "start `relay" in finding.mend


@pytest.mark.parametrize(("free", "level"), [(1 << 30, Level.OK), ((1 << 30) - 1, Level.WARNING)])
async def test_a_disk_that_is_nearly_full_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: Level
) -> None:
    """Warn below 1 GiB of free space where the SQLite file is."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 39, free))
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/relay.db"}
    async with doctor.examined(settings.load(environ, ()), environ) as about:
        (finding,) = (one for one in await diagnosis.diagnose(about) if one.check == "disk")
    assert (finding.level, finding.setting) == (level, "DATABASE_URL")


@pytest.mark.both_databases
async def test_callbacks_that_do_not_arrive_are_found(place: Place) -> None:
    """Find a provider whose newest jobs all ended without a callback; one with a callback clears it."""
    running = place.running
    for lost in [True] * SILENT_JOBS + [False]:
        running.world.next_faults.append(Faults(lost=lost))
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        if lost:
            await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
        await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        silent = {one for one in await place.bad(SILENT_TO_MS + 60_000) if one[0] == "callbacks"}
        count = len((await running.get("/v1/jobs"))["data"])
        assert silent == ({("callbacks", "RELAY_PUBLIC_URL", "warning")} if count == SILENT_JOBS else set())


@pytest.mark.both_databases
async def test_a_former_key_is_kept_while_open_jobs_need_it(tmp_path: Path) -> None:
    """Say how many open jobs have URLs by a former key; warn if it was dropped; then say that it can be removed."""
    both = f"{SECRET_KEY},{OTHER_KEY}"
    async with relay(tmp_path, clock=SystemClock()) as running:
        running.world.next_faults.append(Faults(lost=True))
        job = await running.submit()
    async with relay(tmp_path, clock=SystemClock(), RELAY_SECRET_KEYS=both) as running:
        providers_at = running.app.settings.provider("evolink").base_url or ""
        place = Place(running, environment(tmp_path, running.origin, providers_at) | {"RELAY_SECRET_KEYS": both})

        async def found() -> list[Finding]:
            return [one for one in await place.findings() if one.check == "former_keys"]

        (needed,) = await found()
        assert (needed.level, needed.what) == (
            Level.OK,
            "keep key 1 of RELAY_SECRET_KEYS: 1 open job is called back by it",
        )
        keys = Encryption((SECRET_KEY, OTHER_KEY))
        await reseal(running.app.store.database, keys, lambda *_: None, running.clock.now_ms(), accept_loss=False)
        (dropped,) = (
            one for one in await place.findings({"RELAY_SECRET_KEYS": OTHER_KEY}) if one.check == "former_keys"
        )
        assert (dropped.level, dropped.what.startswith("1 open job is older than the only key")) == (
            Level.WARNING,
            True,
        )
        await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
        assert "remove them" in (await found())[0].what
        assert [one.check for one in await place.findings({"RELAY_SECRET_KEYS": OTHER_KEY})].count("former_keys") == 0


@pytest.mark.both_databases
async def test_each_former_key_has_its_own_jobs(tmp_path: Path) -> None:
    """Tell by a job's creation which of several keys signed its callback URL."""
    keys = [SECRET_KEY, OTHER_KEY, "a-third-key-that-no-one-guesses-81"]
    for number, jobs in ((1, 1), (2, 2)):
        async with relay(tmp_path, clock=SystemClock(), RELAY_SECRET_KEYS=",".join(keys[:number])) as running:
            for _ in range(jobs):
                running.world.next_faults.append(Faults(lost=True))
                await running.submit()
    all_keys = ",".join(keys)
    async with relay(tmp_path, clock=SystemClock(), RELAY_SECRET_KEYS=all_keys) as running:
        providers_at = running.app.settings.provider("evolink").base_url or ""
        place = Place(running, environment(tmp_path, running.origin, providers_at) | {"RELAY_SECRET_KEYS": all_keys})
        found = [one.what for one in await place.findings() if one.check == "former_keys"]
    assert found == [
        "keep key 1 of RELAY_SECRET_KEYS: 1 open job is called back by it",
        "keep key 2 of RELAY_SECRET_KEYS: 2 open jobs are called back by it",
    ]


@pytest.mark.parametrize(
    ("network", "wide"),
    [
        ("10.0.0.0/8", False),
        ("10.0.0.0/7", True),
        ("fd00::/16", False),
        ("fc00::/15", True),
        ("169.254.169.254/32", True),
        ("169.254.169.253/32", False),
    ],
)
async def test_a_network_that_is_more_than_one_owners_is_found(tmp_path: Path, network: str, wide: bool) -> None:
    """Warn of a network that is wider than any private one, or that has the cloud's metadata."""
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/relay.db", "RELAY_ALLOW_NETWORKS": network}
    async with doctor.examined(settings.load(environ, ()), environ) as about:
        (finding,) = (one for one in await diagnosis.diagnose(about) if one.check == "network")
    assert (finding.level, finding.setting) == (Level.WARNING if wide else Level.OK, "RELAY_ALLOW_NETWORKS")


@pytest.mark.parametrize(
    ("status", "level"),
    [
        (401, Level.ERROR),
        (403, Level.ERROR),
        (402, Level.OK),
        (404, Level.OK),
        (429, Level.WARNING),
        (499, Level.OK),
        (500, Level.WARNING),
    ],
)
async def test_a_providers_answer_says_whether_it_accepts_the_key(tmp_path: Path, status: int, level: Level) -> None:
    """Take 401 and 403 as a refusal, 429 and 5xx as no answer about the key, and anything else as a good key."""

    async def answer(_: Request) -> Response:
        return JSONResponse({"error": {"message": "no"}}, status)

    async with serve(Starlette(routes=[Route("/{path:path}", answer)])) as origin:
        environ = {
            "DATABASE_URL": f"sqlite:///{tmp_path}/relay.db",
            "RELAY_EVOLINK_API_KEY": "sk-4f1c9a27e0",
            "RELAY_EVOLINK_BASE_URL": origin,
        }
        async with doctor.examined(settings.load(environ, tuple(PROVIDERS)), environ) as about:
            found = await diagnosis.diagnose(about)
    about_key = [one.level for one in found if one.setting == "RELAY_EVOLINK_API_KEY"]
    assert about_key == ([] if level is Level.OK else [level])


@pytest.mark.both_databases
async def test_a_former_key_that_still_seals_values_is_found(tmp_path: Path) -> None:
    """Ask for `keys reseal` while values are sealed with a key that no open job needs."""
    async with relay(tmp_path, clock=SystemClock()):
        pass
    both = f"{SECRET_KEY},{OTHER_KEY}"
    async with relay(tmp_path, clock=SystemClock(), RELAY_SECRET_KEYS=both) as running:
        providers_at = running.app.settings.provider("evolink").base_url or ""
        place = Place(running, environment(tmp_path, running.origin, providers_at) | {"RELAY_SECRET_KEYS": both})
        (idle,) = (one for one in await place.findings() if one.check == "former_keys")
        assert (idle.level, "relay keys reseal" in idle.mend) == (Level.WARNING, True)


async def test_wrong_settings_are_findings_too(tmp_path: Path) -> None:
    """Name every setting with which relay does not start, as JSON, and exit with 1; no secret is shown."""
    environ = {
        "PORT": "99999",
        "RELAY_SECRET_KEYS": "short-secret",
        "RELAY_SPEND_MAX_PER_DAY": "much",
        "RELAY_EVOLNK_API_KEY": "x",
        "DATABASE_URL": f"sqlite:///{tmp_path}/relay.db",
    }
    ended = await run(environ, "--output", "json")
    shown = json.loads(ended.stdout)
    assert (ended.returncode, shown["ok"]) == (1, False)
    assert [one["setting"] for one in shown["findings"]] == [
        "PORT",
        "RELAY_SECRET_KEYS",
        "RELAY_SPEND_MAX_PER_DAY",
        "RELAY_EVOLNK_API_KEY",
    ]
    assert "short-secret" not in ended.stdout + ended.stderr
    assert not (tmp_path / "relay.db").exists(), "a check makes no database"


async def test_a_disk_that_is_wiped_stops_a_start_and_is_a_finding(tmp_path: Path) -> None:
    """Report the error of a start on a platform without a lasting disk, with its ways out."""
    ended = await run({"DYNO": "web.1", "DATABASE_URL": f"sqlite:///{tmp_path}/relay.db"})
    assert ended.returncode == 1
    assert "DATABASE_URL" in ended.stdout
    assert "RELAY_ALLOW_EPHEMERAL=1" in ended.stdout


async def test_the_doctor_runs_beside_a_relay_and_a_start_logs_the_same(tmp_path: Path) -> None:
    """Exit 0 without an error; a start logs each finding once, with the same words, and no secret."""
    secret = base64.b64encode(bytes(range(7, 39))).decode()
    environ = {
        "PORT": str(free_port()),
        "DATABASE_URL": f"sqlite:///{tmp_path}/relay.db",
        "RELAY_SECRET_KEYS": secret,
        "RELAY_EVOLNK_API_KEY": "x",
    }
    code = "import relay.cli.starting as s, relay.cli as c; s.CHECKED_AFTER_S = 0.2; c.group(['serve'])"
    async with processes.process(environ, "-c", code) as child:
        await processes.ready(f"http://127.0.0.1:{environ['PORT']}", child)
        await processes.line(child, "doctor.done")
        ended, shown = await run(environ, "--output", "jsonl"), await run(environ)
        said = [json.loads(one) for one in processes.said(child) if "doctor." in one]
    findings = [json.loads(one) for one in ended.stdout.splitlines()]
    bad = [one for one in findings if one["level"] in ("warning", "error")]
    assert ended.returncode == 0, ended.stdout
    assert shown.stderr.splitlines()[-1] == f"0 errors, {len(bad)} warning{'' if len(bad) == 1 else 's'}"
    assert [(one["check"], one["what"]) for one in said[:-1]] == [(one["check"], one["what"]) for one in bad]
    assert (said[-1]["warnings"], said[-1]["errors"]) == (len(bad), 0)
    assert secret not in ended.stdout + str(said)


async def test_the_checks_at_the_start_can_be_turned_off(tmp_path: Path) -> None:
    """Make no check after the start with RELAY_CHECK_AT_START=0."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_CHECK_AT_START="0") as off, starting.checked(off.app, PROVIDERS):
        assert "checks" not in {task.get_name() for task in asyncio.all_tasks()}
    async with relay(tmp_path, clock=clock) as on:
        async with starting.checked(on.app, PROVIDERS):
            assert "checks" in {task.get_name() for task in asyncio.all_tasks()}
        assert "checks" not in {task.get_name() for task in asyncio.all_tasks()}


async def run(environ: Mapping[str, str], *options: str) -> "subprocess.CompletedProcess[str]":
    """Return how `relay doctor` ended."""
    arguments: list[Any] = [sys.executable, "-m", "relay", "doctor", *options]
    return await asyncio.to_thread(
        subprocess.run,
        arguments,
        cwd=ROOT,
        env=processes.clean(dict(environ)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_the_doctor_asks_the_region_of_ark(tmp_path: Path) -> None:
    """Examine the adapters as relay runs them: a key of China's Ark is not shown to the world's."""
    environ = environment(tmp_path, "http://127.0.0.1:1", "http://127.0.0.1:1") | {"RELAY_ARK_REGION": "china"}
    loaded = settings.load(environ, (*PROVIDERS, "sandbox"))
    async with doctor.examined(loaded, environ) as examined:
        assert examined.adapters["ark"].base_url == "https://ark.cn-beijing.volces.com"
        assert set(examined.adapters) == set(PROVIDERS)


async def test_an_archive_is_written_and_left_as_it_was(place: Place, tmp_path: Path) -> None:
    """Say that the archive takes objects, and leave none there."""
    bucket = tmp_path / "bucket"
    place.environ["RELAY_ARCHIVE_URL"] = bucket.as_uri()
    (found,) = [one for one in await place.findings() if one.check == "archive"]
    assert (found.level, [*bucket.rglob("*")]) == (Level.OK, [])


@pytest.mark.parametrize(
    ("status", "code", "shown"),
    [
        (
            "403 Forbidden",
            "InvalidAccessKeyId",
            "the bucket does not know relay's access key (InvalidAccessKeyId, HTTP 403)",
        ),
        ("400 Bad Request", "ExpiredToken", "relay's credentials for the bucket have expired (ExpiredToken, HTTP 400)"),
        (
            "301 Moved Permanently",
            "PermanentRedirect",
            "the bucket is in another region than AWS_REGION says (HTTP 301)",
        ),
        ("404 Not Found", "NoSuchBucket", "there is no such bucket (NoSuchBucket, HTTP 404)"),
    ],
)
async def test_a_bucket_that_refuses_is_said_in_a_line(place: Place, status: str, code: str, shown: str) -> None:
    """Print in one line what has to be mended, and exit 1."""
    async with s3.Gate("http://127.0.0.1:9").served() as gate:
        gate.answer = s3.refusal(status, code)
        keys = {"AWS_ACCESS_KEY_ID": s3.KEY_ID, "AWS_SECRET_ACCESS_KEY": s3.SECRET, "AWS_REGION": s3.REGION}
        environ = place.environ | keys | {"AWS_ENDPOINT_URL": gate.endpoint, "RELAY_ARCHIVE_URL": f"s3://{s3.BUCKET}"}
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "doctor"),
            cwd=ROOT,
            env=processes.clean(environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await child.communicate()
    found = [line for line in said.decode().splitlines() if shown in line]
    assert len(found) == 1, said.decode()
    assert child.returncode == 1
