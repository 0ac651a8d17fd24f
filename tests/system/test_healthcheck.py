"""`relay healthcheck`: what a container's HEALTHCHECK says of the relay beside it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.postgres import Server
from tests.support.running import SECRET_KEY

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


async def checked(environ: dict[str, str], *options: str) -> "subprocess.CompletedProcess[str]":
    """Return how `relay healthcheck` ended."""
    asked = [sys.executable, "-m", "relay", "healthcheck", *options]
    return await asyncio.to_thread(
        subprocess.run,
        asked,
        cwd=ROOT,
        env=processes.clean(environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("host", ["", "127.0.0.1", "0.0.0.0", "::1", "::"])
async def test_it_says_yes_while_relay_serves_and_no_before_and_after(tmp_path: Path, host: str) -> None:
    """Exit 0 while relay serves on its host and port, and 1 with one sentence before it starts and after it stops."""
    environ = {
        "PORT": str(processes.free_port()),
        "RELAY_HOST": host,
        "DATABASE_URL": f"sqlite:///{tmp_path}/relay.db",
    }
    before = await checked(environ)
    assert before.returncode == 1
    assert before.stderr.startswith("relay: no answer from ")
    async with processes.process(environ, "-m", "relay", "serve") as child:
        await processes.ready(f"http://{'[::1]' if ':' in host else '127.0.0.1'}:{environ['PORT']}", child)
        during = await checked(environ)
        assert (during.returncode, during.stdout, during.stderr) == (0, "", "")
        assert (await checked(environ, "--live")).returncode == 0
        child.terminate()
        await child.wait()
    assert (await checked(environ)).returncode == 1


async def test_a_relay_whose_database_is_away_is_live_and_not_ready(database_server: Server) -> None:
    """Exit 1 with the route's status while the database is away, and 0 with --live: a restart would not help."""
    environ = {
        "PORT": str(processes.free_port()),
        "DATABASE_URL": database_server.database(),
        "RELAY_SECRET_KEYS": SECRET_KEY,
    }
    async with processes.process(environ, "-m", "relay", "serve") as child:
        await processes.ready(f"http://127.0.0.1:{environ['PORT']}", child)
        database_server.stop()
        try:
            away = await checked(environ)
            assert away.returncode == 1
            assert "503" in away.stderr
            assert (await checked(environ, "--live")).returncode == 0
        finally:
            await asyncio.to_thread(database_server.start)


async def test_it_needs_a_port_that_is_known() -> None:
    """Exit 78 when PORT is 0: serve has taken a free one, and nothing says which."""
    done = await checked({"PORT": "0"})
    assert (done.returncode, "PORT" in done.stderr) == (78, True)
