"""relay as a platform runs it: from the Procfile, stopped by a signal, refusing to start when a setting is wrong."""

import asyncio
import contextlib
import errno
import importlib.util
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from relay import __version__
from relay.cli import GC_OBJECTS
from relay.providers import PROVIDERS
from relay.sandbox.contract import API_KEY
from relay.storage.engine.database_url import shown
from relay.storage.engine.migrations import migrations
from tests.support import commands, processes
from tests.support.ports import free_port
from tests.support.running import INPUT, KEY, SECRET_KEY, environment, http_client

pytestmark = pytest.mark.anyio


def settings_for(folder: Path, port: int) -> dict[str, str]:
    """Return a relay whose provider is not there."""
    origin = f"http://127.0.0.1:{port}"
    return environment(folder, origin, "http://127.0.0.1:9") | {"PORT": str(port), "RELAY_HOST": "127.0.0.1"}


async def said(child: asyncio.subprocess.Process) -> tuple[int, str]:
    """How the process ended, and all that it said."""
    output, _ = await asyncio.wait_for(child.communicate(), 60)
    assert child.returncode is not None
    return child.returncode, output.decode()


async def run(environ: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run `relay …` to its end: what serves in an interpreter of its own, other commands forked from a loaded one."""
    if arguments[0] not in ("serve", "dev"):
        ended = await commands.run(arguments, processes.clean(environ), b"")
        return ended.status, (ended.out + ended.err).decode()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "relay", *arguments),
        cwd=processes.ROOT,
        env=processes.clean(environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    return await said(child)


async def test_the_procfile_serves_under_honcho(tmp_path: Path) -> None:
    """`honcho start web` runs what the Procfile says on the PORT it is given, and ends it with itself."""
    port = free_port()
    environ = settings_for(tmp_path, port) | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    async with processes.process(environ, "-m", "honcho", "start", "web") as child:
        await processes.ready(f"http://127.0.0.1:{port}", child)
        child.terminate()
        await asyncio.wait_for(child.wait(), 60)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


async def test_it_serves_with_nothing_but_a_port(tmp_path: Path) -> None:
    """Without any setting relay starts, makes itself a key beside its database, and says what is missing."""
    port = free_port()
    environ = {"PORT": str(port), "DATABASE_URL": f"sqlite:///{tmp_path}/sub/relay.db"}
    async with processes.process(environ, "-m", "relay", "serve") as child:
        await processes.ready(f"http://127.0.0.1:{port}", child)
    key_file = tmp_path / "sub" / "relay.db.secret"
    assert key_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT]])
async def test_a_signal_stops_it_in_time_and_cleanly(tmp_path: Path, signals: list[signal.Signals]) -> None:
    """SIGTERM (some platforms send it twice) and SIGINT end relay with status 0, with a keep-alive connection open."""
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    async with processes.process(settings_for(tmp_path, port), "-m", "relay", "serve") as child:
        await processes.ready(origin, child)
        async with http_client(origin, None) as client:
            await client.get("/healthz")
            for sent in signals:
                processes.send(child, sent)
            assert await asyncio.wait_for(child.wait(), 60) == 0


async def test_a_wrong_setting_stops_the_start_and_every_one_is_named(tmp_path: Path) -> None:
    """Exit 78 with one line that names each wrong setting, and never its value."""
    environ = settings_for(tmp_path, 1) | {
        "PORT": "no-port",
        "RELAY_SECRET_KEYS": "short",
        "RELAY_ALLOW_HTTP": "perhaps",
    }
    status, text = await run(environ, "serve")
    assert status == 78
    assert all(name in text for name in ("PORT", "RELAY_SECRET_KEYS", "RELAY_ALLOW_HTTP"))
    assert not [value for value in ("no-port", "short,", "perhaps", "Traceback") if value in text]


@pytest.mark.parametrize(
    ("url", "status"), [("mysql://u:hunter22@h/db", 78), ("postgres://u:hunter22@127.0.0.1:9/db", 1)]
)
async def test_a_database_it_cannot_use_is_named(tmp_path: Path, url: str, status: int) -> None:
    """A kind that relay does not know is a setting's fault, a server that is away is not; no password is told."""
    given = {"DATABASE_URL": url, "RELAY_DATABASE_WAIT_S": "0"}
    ended, text = await run(settings_for(tmp_path, 1) | given, "serve")
    assert (ended, "hunter22" in text, "Traceback" in text) == (status, False, False)
    assert "database" in text.lower()


@pytest.mark.parametrize("command", [("serve",), ("migrate",), ("prune",), ("keys", "list")])
async def test_an_ephemeral_disk_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Exit 78 with one paragraph on a platform that wipes the disk, and leave no file behind."""
    environ = settings_for(tmp_path, 1) | {"DYNO": "web.1"}
    status, text = await run(environ | {"DATABASE_URL": f"sqlite:///{tmp_path}/new/relay.db"}, *command)
    assert (status, len(text.splitlines()), "RELAY_ALLOW_EPHEMERAL=1" in text) == (78, 1, True)
    assert not (tmp_path / "new").exists()


async def test_an_ephemeral_disk_can_be_allowed_and_the_platform_says_the_url(tmp_path: Path) -> None:
    """Start on a wiped disk where the operator allows it, with the public URL that the platform names."""
    port = free_port()
    environ = {
        "PORT": str(port),
        "DATABASE_URL": f"sqlite:///{tmp_path}/relay.db",
        "DYNO": "web.1",
        "HEROKU_APP_DEFAULT_DOMAIN_NAME": "relay-1.herokuapp.com",
        "RELAY_PUBLIC_URL": "",
        "RELAY_ALLOW_EPHEMERAL": "1",
    }
    async with processes.process(environ, "-m", "relay", "serve") as child:
        await processes.ready(f"http://127.0.0.1:{port}", child)
        await processes.line(child, '"public_url":"https://relay-1.herokuapp.com"')


async def test_a_failing_start_does_not_hang(tmp_path: Path) -> None:
    """A file that is no database is the setting's fault, and ends the process though a connection to it was open."""
    (tmp_path / "relay.db").write_text("this is no database, " * 100)
    broken = settings_for(tmp_path, 0) | {"DATABASE_URL": f"sqlite:///{tmp_path}/relay.db"}
    status, text = await run(broken, "serve")
    assert (status, "Traceback" in text, f"{tmp_path}/relay.db" in text) == (78, False, True), text


async def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    """A key from the command line opens the API of its project until it is revoked."""
    port = free_port()
    environ = settings_for(tmp_path, port)
    await run(environ, "migrate")
    status, text = await run(environ, "keys", "list")
    assert (status, text.splitlines()) == (0, ["no keys in the database; RELAY_API_KEY is a setting, and in no list"])
    status, text = await run(environ, "keys", "create", "--project", "films", "--scope", "read", "--scope", "submit")
    key_id, key = text.split()
    assert status == 0
    async with processes.process(environ, "-m", "relay", "serve") as child:
        origin = f"http://127.0.0.1:{port}"
        await processes.ready(origin, child)
        async with http_client(origin, key) as client:
            assert (await client.get("/v1/jobs")).status_code == 200
            _, listed = await run(environ, "keys", "list")
            assert key_id in listed
            assert key not in listed
            assert (await run(environ, "keys", "revoke", key_id))[0] == 0
            assert (await client.get("/v1/jobs")).status_code == 401
        async with http_client(origin, environ["RELAY_API_KEY"]) as operator:
            entries = (await operator.get("/v1/audit?project=films")).json()["data"]
        shown = [(entry["verb"], entry["via"], entry["key"], entry["target"]) for entry in entries]
        assert shown == [("keys.revoke", "database", None, key_id), ("keys.create", "database", None, key_id)]


async def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """Name the whole path of a database file whose place is no folder, with exit 78."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "relay.db"
    status, text = await run(settings_for(tmp_path, 1) | {"DATABASE_URL": f"sqlite:///{path}"}, "migrate")
    assert (status, text.count("\n")) == (78, 1), text
    assert text.startswith(f"relay: {path} (DATABASE_URL) cannot be opened for writing: ")


@pytest.mark.parametrize("arguments", [("keys", "create"), ("keys", "list"), ("keys", "revoke", "key_1"), ("prune",)])
async def test_a_command_makes_no_database(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Refuse a database that is not there or is not relay's, with its whole path, and leave no file behind."""
    for name, holds in (("none.db", None), ("empty.db", "")):
        path = tmp_path / name
        if holds is not None:
            path.write_text(holds)
        status, text = await run(settings_for(tmp_path, 1) | {"DATABASE_URL": f"sqlite:///{path}"}, *arguments)
        assert (status, text.count("\n")) == (78, 1), text
        assert str(path) in text
        assert "python -m relay migrate" in text
        assert path.exists() == (holds is not None)


async def test_a_command_says_where_a_default_database_would_be(tmp_path: Path) -> None:
    """Refuse to make ./data/relay.db in the folder where a command happens to be run, and name that folder."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay", "keys", "create"),
        cwd=tmp_path,
        env=processes.clean({"PYTHONPATH": str(processes.ROOT)}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    status, text = await said(child)
    assert (status, str(tmp_path / "data" / "relay.db") in text) == (78, True), text
    assert os.listdir(tmp_path) == []  # noqa: PTH208


async def test_migrate_says_what_it_did(tmp_path: Path) -> None:
    """Name the migrations in the first run; then say that nothing is to do, and which database is at which schema."""
    environ = settings_for(tmp_path, 1) | {"DATABASE_URL": f"sqlite:///{tmp_path}/new.db"}
    assert "0001_initial.sql" in (await run(environ, "migrate"))[1]
    newest = migrations()[-1]
    said_again = (await run(environ, "migrate"))[1]
    assert said_again == f"nothing to do: {tmp_path}/new.db is at schema {newest.version} ({newest.name})\n"


async def test_a_start_says_in_one_line_what_it_is_and_what_is_missing(tmp_path: Path) -> None:
    """Log version, database, providers, public URL and what is missing at the start, without any secret."""
    port = free_port()
    bare = {"PORT": str(port), "DATABASE_URL": f"sqlite:///{tmp_path}/bare.db", "RELAY_API_KEY": KEY}
    full = settings_for(tmp_path, port) | {"RELAY_PUBLICURL": "x"}
    starts = []
    for environ in (bare, full):
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "serve"),
            cwd=processes.ROOT,
            env=processes.clean(environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        await processes.ready(f"http://127.0.0.1:{port}", child)
        child.terminate()
        status, text = await said(child)
        assert status == 0
        assert not [secret for secret in (KEY, SECRET_KEY, API_KEY) if secret in text]
        lines = {line["event"]: line for line in map(json.loads, text.splitlines())}
        starts.append(lines["relay.starting"])
    first, second = starts
    assert (first["version"], first["database"]) == (__version__, f"{tmp_path}/bare.db")
    assert (first["public_url"], first["providers"]) == ("none", "none")
    names = ["RELAY_EVOLINK_API_KEY", "RELAY_PUBLIC_URL", "RELAY_SECRET_KEYS"]
    assert [name for name in names if name not in first["missing"]] == []
    assert second["public_url"] == f"http://127.0.0.1:{port}"
    assert second["providers"] == ", ".join(name for name, one in PROVIDERS.items() if not one.limits.paid)
    assert second["missing"] == "nothing"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:////data/relay.db", "/data/relay.db"),
        (
            "postgres://relay:hunter22@db.example:5433/films?sslmode=require&password=hunter22",
            "postgres://db.example:5433/films",
        ),
        ("postgresql://relay:p@ss@h/films", "postgresql://h/films"),
        ("postgres:///films?host=/run/postgresql", "postgres:///films"),
    ],
)
def test_a_database_is_shown_without_its_password(url: str, name: str) -> None:
    """Show a database by its file, or by its host, port and name."""
    assert shown(url) == name


async def test_dev_shows_the_main_job_and_again() -> None:
    """`relay dev` brings one job through, with its signature verified, on any free port, as often as it is run."""
    for _ in range(2):
        status, text = await run({"PORT": "0"}, "dev", "--once")
        assert status == 0, text
        assert "job.succeeded" in text
        assert "signature verified" in text
        assert "NOT" not in text
        assert "curl http://127.0.0.1:" in text


async def test_dev_collects_garbage_as_a_server_does() -> None:
    """Leave the threshold of a start once `relay dev` has started: it runs until Ctrl-C."""
    program = (
        "import atexit, gc, sys; from relay import cli; atexit.register(lambda: print(f'{gc.get_threshold()[0]=}')); "
        "sys.argv = ['relay', 'dev', '--once']; cli.main()"
    )
    async with processes.process({"PORT": "0"}, "-c", program) as child:
        assert await asyncio.wait_for(child.wait(), 60) == 0
    assert processes.said(child)[-1].strip() == f"gc.get_threshold()[0]={GC_OBJECTS}"


async def test_dev_dates_each_step_when_it_happened() -> None:
    """Print the steps of the first job in the order of their times, with no warning before them."""
    _, text = await run({"PORT": "0"}, "dev", "--once")
    assert text.startswith("relay ")
    steps = [(int(ms), what) for ms, what in re.findall(r"^ *(\d+) ms  (\S+(?: back)?) ", text, re.MULTILINE)]
    assert [at for at, _ in steps] == sorted(at for at, _ in steps)
    assert {what for _, what in steps} == {"submitted", "called back", "confirmed", "notified"}
    first = next(at for at, what in steps if what == "notified")
    called_back = next(at for at, what in steps if what == "called back")
    assert first < called_back - 500, "job.submitted is told long before the provider calls back"


async def test_dev_says_what_to_do_next() -> None:
    """Print commands for a job, its timeline, an endpoint of one's own and a fault, and only providers that work."""
    _, text = await run({"PORT": "0", "RELAY_WALLET_KEY": ""}, "dev", "--once")
    for path in ("/v1/jobs -H", "/timeline -H", "/v1/endpoints -H"):
        assert re.search(rf"curl http://127.0.0.1:\d+\S*{path}", text), path
    assert "relay simulate" in text
    assert "relay stops here" in text
    assert "Ctrl-C" not in text
    (listed,) = re.findall(r"stand-ins  (.*?)   ", text)
    paid = importlib.util.find_spec("eth_account") is not None
    assert ("stablestudio" in listed) is paid
    assert {"evolink", "relaydance", "kinovi", "sandbox"} <= set(listed.split(", "))


async def test_dev_touches_no_installation(tmp_path: Path) -> None:
    """Call no real provider, open no other database and show no key, though the environment is an installation's."""
    database, key = tmp_path / "data" / "relay.db", "an-installations-own-key-0123456789"
    environ = {
        "PORT": "0",
        "DATABASE_URL": f"sqlite:///{database}",
        "RELAY_API_KEY": key,
        "RELAY_SECRET_KEYS": "an-installations-own-secret-0123456789",
        "RELAY_PUBLIC_URL": "https://relay.example.com",
        "RELAY_EVOLINK_API_KEY": "sk-4f1c9a27e0b7",
        "RELAY_FAL_CALLBACK_SECRETS": "not even one that this provider has",
        "RELAY_WALLET_KEY": "0x" + "02" * 32,
        "RELAY_ARCHIVE_URL": "s3://an-installations-own-bucket",
        "RELAY_SECRETS_FILE": "",
    }
    status, text = await run(environ, "dev", "--once")
    assert status == 0, text
    assert not database.parent.exists()
    assert not [one for one in (key, "sk-4f1c9a27e0b7", "real  ", "relay.example.com") if one in text]
    (line,) = re.findall(r"left out   (.*)   of this environment", text)
    assert set(line.split(", ")) == environ.keys() - {"PORT", "RELAY_SECRETS_FILE"}
    assert "relay-dev-key" in text


async def test_dev_passes_other_settings_on(tmp_path: Path) -> None:
    """Copy results into a folder of one's choice, to try the archive."""
    status, text = await run({"PORT": "0", "RELAY_ARCHIVE_URL": tmp_path.as_uri()}, "dev", "--once")
    assert status == 0, text
    assert "left out" not in text


@pytest.mark.parametrize("command", ["dev", "serve"])
async def test_a_taken_port_is_said(tmp_path: Path, command: str) -> None:
    """Refuse a port that another program listens on with a sentence that names PORT, and no traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environ = settings_for(tmp_path, port) if command == "serve" else {"PORT": str(port)}
        status, text = await run(environ, command)
    assert status == 1
    assert f"port {port} is in use by another program: set PORT" in text
    assert "Traceback" not in text


@asynccontextmanager
async def dev() -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of `relay dev`, which ends well at Ctrl-C."""
    port = free_port()
    async with processes.process({"PORT": str(port)}, "-m", "relay", "dev") as child:
        origin = f"http://127.0.0.1:{port}"
        await processes.ready(origin, child)
        async with http_client(origin, "relay-dev-key") as client:
            yield client
        child.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(child.wait(), 60) == 0


async def test_dev_can_be_stopped_in_the_middle_of_its_job() -> None:
    """Ctrl-C before the job that is shown has come to its end is no error, and prints no traceback."""
    async with dev() as client, asyncio.timeout(60):
        while not (await client.get("/v1/jobs")).json()["data"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # another process makes it


async def test_dev_ends_without_a_traceback_while_a_provider_hangs(capsys: pytest.CaptureFixture[str]) -> None:
    """End at Ctrl-C without an error while a stand-in has not answered a submission, as after `simulate --all`."""
    body = {"provider": "sandbox", "input": INPUT | {"prompt": "[sandbox: submit=hang]"}}
    async with dev() as client, asyncio.timeout(60):
        with contextlib.suppress(httpx.TimeoutException):
            await client.post("/v1/jobs", json=body, timeout=1)
        assert (await client.get("/v1/jobs?status=pending")).json()["data"] != []
    said = capsys.readouterr().out
    assert said.startswith("relay ")
    assert "Traceback" not in said


async def test_the_curl_that_dev_prints_works() -> None:
    """The command that a newcomer copies submits a job, and its notification is told."""
    async with dev() as client, asyncio.timeout(60):
        job = (await client.post("/v1/jobs", json={"provider": "kinovi", "input": INPUT})).json()
        while (await client.get(f"/v1/jobs/{job['id']}")).json()["status"] != "succeeded":  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # another process does it


@pytest.mark.parametrize("number", ["auto", "2", "0"])
async def test_web_concurrency_is_said_and_not_obeyed(tmp_path: Path, number: str) -> None:
    """Start one process whatever a platform sets, and say how more cores are used."""
    port = free_port()
    environ = settings_for(tmp_path, port) | {"WEB_CONCURRENCY": number}
    async with processes.process(environ, "-m", "relay", "serve") as child:
        await processes.ready(f"http://127.0.0.1:{port}", child)
