"""docs/runbooks.md is run: its shell lines against a relay with a stand-in provider, all else against what there is."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio.to_thread
import click
import pytest

from relay.cli import group
from relay.metrics import METRICS
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.settings import PROVIDER_SETTINGS, SETTINGS
from relay.web.routes import API
from tests.support import processes
from tests.support.ports import free_port
from tests.support.postgres import Server, programs
from tests.support.running import INPUT, KEY, environment

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runbooks.md").read_text()
BLOCKS: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SHELL = [text for language, text in BLOCKS if language == "sh"]
(SETTING_UP,) = [text for text in SHELL if "api() {" in text]
(BACKUP,) = [text for text in SHELL if "VACUUM INTO" in text]
(RESTORE,) = [text for text in SHELL if "rm -f data/relay.db" in text]
(PG_BACKUP,) = [text for text in SHELL if "pg_dump" in text]
(PG_RESTORE,) = [text for text in SHELL if "pg_restore" in text]
TASKS = [text for text in SHELL if text not in (SETTING_UP, BACKUP, RESTORE, PG_BACKUP, PG_RESTORE)]
NEW_JOB = ("/cancellations", "/failures")
TEN = (
    *("Find a video", "Send a day again", "Rotate a secret", "Notice a refused key", "See what is stuck"),
    *("See what was spent", "Develop on a laptop", "Upgrade", "Back up and restore", "Make a read-only key"),
)


def lines() -> list[str]:
    """Each command line of the page, in blocks and in the text."""
    inline = re.findall(r"`((?:python -m relay|GET|POST) [^`]*)`", PAGE)
    return [line for _, text in BLOCKS for line in text.splitlines() if line] + inline


def test_the_page_has_the_ten_tasks() -> None:
    """Have a section for each of the ten everyday tasks, each with a command."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert tuple(section.partition("\n")[0] for section in sections) == TEN
    assert [section.partition("\n")[0] for section in sections if "```" not in section] == []


def test_every_route_on_the_page_exists() -> None:
    """Name only routes that relay has."""
    known = [re.sub(r"\{\w+\}", "[^/]+", route.path) for route in API]
    paths = {path.partition("?")[0] for line in lines() for path in re.findall(r"/v1/[^\s'\"`)]*", line)}
    assert len(paths) > 10
    assert [path for path in sorted(paths) if not any(re.fullmatch(pattern, path) for pattern in known)] == []


def test_every_command_on_the_page_exists() -> None:
    """Name only commands and options that relay has."""
    called = [line.partition("python -m relay ")[2] for line in lines() if "python -m relay " in line]
    assert len(called) > 5
    for line in called:
        command: click.Command = group
        words = shlex.split(line.partition("#")[0])
        context = click.Context(group)
        while isinstance(command, click.Group):
            found = command.get_command(context, words.pop(0))
            assert found is not None, line
            command = found
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_every_setting_and_metric_on_the_page_exists() -> None:
    """Name only settings that relay reads and metrics that it counts."""
    known = {setting.name for setting in (*SETTINGS, *PROVIDER_SETTINGS)} | {"RELAY_URL"}
    named = set(re.findall(r"\bRELAY_(?:<PROVIDER>_)?[A-Z0-9_]*[A-Z0-9]\b", PAGE))
    assert named - known == set()
    assert set(re.findall(r"\brelay_\w+", PAGE)) <= {metric.name for metric in METRICS}


@pytest.fixture(scope="module")
async def relay_at(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """Yield the environment of the page's shell, beside a relay that runs."""
    async with running(tmp_path_factory.mktemp("runbooks")) as environ:
        yield environ


@asynccontextmanager
async def running(folder: Path, database_url: str | None = None) -> AsyncIterator[dict[str, str]]:
    """Yield the environment of a shell beside `relay serve`, with a database, a stand-in provider and a sink."""
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    world, sink = sandbox(pace_s=None, time_scale=0), Sink()
    async with serve(world.app) as providers_at, serve(sink) as sink_at:
        settings = environment(folder, origin, providers_at) | {
            "PORT": str(port),
            "RELAY_HOST": "127.0.0.1",
            "DATABASE_URL": database_url or f"sqlite:///{folder}/data/relay.db",
        }
        async with processes.process(settings, "-m", "relay", "serve") as child:
            await processes.ready(origin, child)
            yield settings | {
                "RELAY_URL": origin,
                "RELAY_API_KEY": KEY,
                "FOLDER": str(folder),
                "HOOK": f"{sink_at}/hook",
                "PATH": f"{Path(sys.executable).parent}:{programs() or ''}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
            }
        await world.close()


def shell(environ: dict[str, str], text: str) -> "subprocess.CompletedProcess[str]":
    """Run lines after the page's first block, which says where relay is."""
    (function,) = [line for line in SETTING_UP.splitlines() if line.startswith("api()")]
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{function}\n{text}"],
        cwd=environ["FOLDER"],
        env=processes.clean(environ) | {"RELAY_API_KEY": environ["RELAY_API_KEY"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def asked(environ: dict[str, str], text: str) -> str:
    """Return what a line prints; AssertionError when it fails."""
    done = await anyio.to_thread.run_sync(shell, environ, text)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


async def new_ids(environ: dict[str, str]) -> dict[str, str]:
    """Return a job of now, an endpoint, and the delivery of its first event."""
    find = """python -c 'import json, sys; print(json.load(sys.stdin)["id"])'"""
    body = f'{{"url": "{environ["HOOK"]}", "event_types": ["job.*"]}}'
    endpoint = await asked(environ, f"api /v1/endpoints -d '{body}' | {find}")
    body = json.dumps({"provider": "evolink", "input": INPUT})
    job = await asked(environ, f"api /v1/jobs -d '{body}' | {find}")
    found = await asked(environ, f"api '/v1/deliveries?job={job.strip()}'")
    delivery = re.search(r'"(dlv_\w+)"', found)
    assert delivery
    return {"ENDPOINT": endpoint.strip(), "JOB": job.strip(), "DELIVERY": delivery[1]}


@pytest.mark.parametrize("number", range(len(TASKS)))
async def test_the_commands_of_the_page_work(relay_at: dict[str, str], number: int) -> None:
    """Run each line of a task as printed: relay takes it, with ids that are there."""
    ids = await new_ids(relay_at)
    for line in TASKS[number].splitlines():
        if any(ending in line for ending in NEW_JOB):
            ids["JOB"] = (await new_ids(relay_at))["JOB"]
        await asked(relay_at | ids, line)


async def test_a_backup_brings_everything_back(tmp_path: Path) -> None:
    """Restore with the printed lines what was backed up beside a running relay: job, endpoint and secret."""
    await comes_back(tmp_path, None, BACKUP, RESTORE)


async def test_a_backup_of_postgresql_brings_everything_back(tmp_path: Path, database_server: Server) -> None:
    """Restore with the printed lines what pg_dump wrote beside a running relay: job, endpoint and secret."""
    await comes_back(tmp_path, database_server.database(), PG_BACKUP, PG_RESTORE)


async def comes_back(folder: Path, database_url: str | None, backup: str, restore: str) -> None:
    """Find after the restore what was there at the backup, and nothing later."""
    async with running(folder, database_url) as environ:
        ids = await new_ids(environ)
        secret = await asked(environ | ids, 'api "/v1/endpoints/$ENDPOINT/secret"')
        await asked(environ, backup)
        later = await new_ids(environ)
    assert "nothing to do" in await asked(environ, restore)
    async with running(folder, database_url) as again:
        assert ids["JOB"] in await asked(again | ids, 'api "/v1/jobs/$JOB"')
        assert await asked(again | ids, 'api "/v1/endpoints/$ENDPOINT/secret"') == secret
        assert "404" in (await anyio.to_thread.run_sync(shell, again | later, 'api "/v1/jobs/$JOB"')).stderr
