"""`relay healthcheck`: what a container's HEALTHCHECK says of the relay beside it."""

import asyncio
from pathlib import Path

import pytest

from tests.support import commands, processes
from tests.support.ports import free_port
from tests.support.postgres import Server
from tests.support.running import SECRET_KEY

pytestmark = pytest.mark.anyio


async def checked(environ: dict[str, str], *options: str) -> commands.Ended:
    """Return how `relay healthcheck` ended."""
    return await commands.run(("healthcheck", *options), processes.clean(environ), b"")


@pytest.mark.parametrize("host", ["", "127.0.0.1", "0.0.0.0", "::1", "::"])
async def test_it_says_yes_while_relay_serves_and_no_before_and_after(tmp_path: Path, host: str) -> None:
    """Exit 0 while relay serves on its host and port, and 1 with one sentence before it starts and after it stops."""
    environ = {
        "PORT": str(free_port()),
        "RELAY_HOST": host,
        "DATABASE_URL": f"sqlite:///{tmp_path}/relay.db",
    }
    before = await checked(environ)
    assert before.status == 1
    assert before.err.startswith(b"relay: no answer from ")
    async with processes.process(environ, "-m", "relay", "serve") as child:
        await processes.ready(f"http://{'[::1]' if ':' in host else '127.0.0.1'}:{environ['PORT']}", child)
        during = await checked(environ)
        assert (during.status, during.out, during.err) == (0, b"", b"")
        assert (await checked(environ, "--live")).status == 0
        child.terminate()
        await child.wait()
    assert (await checked(environ)).status == 1


async def test_a_relay_whose_database_is_away_is_live_and_not_ready(database_server: Server) -> None:
    """Exit 1 with the route's status while the database is away, and 0 with --live: a restart would not help."""
    environ = {
        "PORT": str(free_port()),
        "DATABASE_URL": database_server.database(),
        "RELAY_SECRET_KEYS": SECRET_KEY,
    }
    async with processes.process(environ, "-m", "relay", "serve") as child:
        await processes.ready(f"http://127.0.0.1:{environ['PORT']}", child)
        database_server.stop()
        try:
            away = await checked(environ)
            assert away.status == 1
            assert b"503" in away.err
            assert (await checked(environ, "--live")).status == 0
        finally:
            await asyncio.to_thread(database_server.start)


async def test_it_needs_a_port_that_is_known() -> None:
    """Exit 78 when PORT is 0: serve has taken a free one, and nothing says which."""
    done = await checked({"PORT": "0"})
    assert (done.status, b"PORT" in done.err) == (78, True)
