"""Litestream: with its socket configured nothing is acknowledged that its replica does not have."""

import asyncio
import json
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pytest

from relay.errors import SettingsError, StorageUnavailable
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.storage.engine.litestream import ANSWER_MAX_BYTES, Litestream
from tests.support import processes
from tests.support.calling_back import DONE, post
from tests.support.ports import free_port
from tests.support.postgres import Server
from tests.support.running import INPUT, KEY, HeldClock, environment, relay

pytestmark = pytest.mark.anyio

SYNCED = b'{"status":"synced","path":"/data/relay.db","txid":21,"replicated_txid":21}\n'
"""What Litestream 0.5.17 answers."""
UNKNOWN = b'{"error":"database not found: /tmp/none.db"}\n'
JOBS = 20


def answered(body: bytes, status: bytes = b"200 OK") -> bytes:
    """Return an answer of Litestream's server."""
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class StandIn:
    """Litestream's control socket: `asked` are the questions, `answer` is what each gets; None for silence."""

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []
        self.answer: Callable[[], bytes | None] = lambda: answered(SYNCED)
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the questions of one connection."""
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"POST /sync HTTP/1.1\r\n")
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.asked.append(json.loads(await reader.readexactly(length)))
                if (answer := self.answer()) is None:
                    await reader.read()
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def stand_in(folder: Path) -> AsyncIterator[tuple[StandIn, Path]]:
    """Yield a stand-in, and its socket."""
    listening, socket = StandIn(), folder / "l.sock"
    server = await asyncio.start_unix_server(listening, socket)
    yield listening, socket
    server.close()


async def asked_once(socket: Path, folder: Path) -> None:
    """Ask for one copy."""
    litestream = Litestream(socket, folder / "relay.db")
    try:
        await litestream.copied()
    finally:
        litestream.close()
        await asyncio.sleep(0)  # the loop closes it


async def test_a_copy_is_asked_for_with_the_files_path(tmp_path: Path) -> None:
    """Ask for the file by its whole path, to wait, and return when the replica has everything; keep the connection."""
    async with stand_in(tmp_path) as (listening, socket):
        litestream = Litestream(socket, tmp_path / "relay.db")
        await litestream.copied()
        await litestream.copied()
        litestream.close()
        await asyncio.sleep(0)  # the loop closes it
    assert listening.asked == [{"path": f"{tmp_path}/relay.db", "wait": True, "timeout": 3}] * 2
    assert listening.connections == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answered(UNKNOWN, b"404 Not Found"), "database not found"),
        (answered(SYNCED.replace(b":21}", b":20}")), "replica is behind"),
        (answered(b'{"status":"synced"}'), "replica is behind"),
        (answered(b"no json"), "does not answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "does not answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (ANSWER_MAX_BYTES + 1), "does not answer"),
    ],
)
async def test_an_answer_that_proves_nothing_is_no_copy(tmp_path: Path, answer: bytes, says: str) -> None:
    """Refuse to count as copied what Litestream does not know, has not copied yet, or says in no known form."""
    async with stand_in(tmp_path) as (listening, socket):
        listening.answer = lambda: answer
        with pytest.raises(StorageUnavailable, match=says):
            await asked_once(socket, tmp_path)


async def test_a_silent_or_missing_litestream_is_no_copy(tmp_path: Path) -> None:
    """Give up after three seconds of silence, and immediately where no socket is."""
    async with stand_in(tmp_path) as (listening, socket):
        listening.answer = lambda: None
        with pytest.raises(StorageUnavailable, match="within 3 s"):
            await asked_once(socket, tmp_path)
    with pytest.raises(StorageUnavailable, match="does not answer"):
        await asked_once(tmp_path / "none.sock", tmp_path)


async def test_a_litestream_that_was_restarted_is_asked_again(tmp_path: Path) -> None:
    """Connect again where the kept connection was closed."""
    async with stand_in(tmp_path) as (listening, socket):
        litestream = Litestream(socket, tmp_path / "relay.db")
        await litestream.copied()
        for writer in listening.writers:
            writer.close()
        await litestream.copied()
        assert listening.connections == 2
        litestream.close()
        await asyncio.sleep(0)  # the loop closes it


async def test_a_loop_that_cannot_write_says_why_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Log what the database said, without a traceback: an operator mends that, no programmer."""
    clock = HeldClock()
    async with (
        stand_in(tmp_path) as (listening, socket),
        relay(tmp_path, clock=clock, RELAY_LITESTREAM_SOCKET=str(socket)) as running,
    ):
        await running.submit(deadline_s=1)
        listening.answer = lambda: answered(b'{"error":"bucket is away"}', b"500 Internal Server Error")
        said = ""
        while "loop.failed" not in said:
            await clock.advance(2)
            said += "".join(capsys.readouterr())
        listening.answer = lambda: answered(SYNCED)
    (line, *_) = [line for line in said.splitlines() if "loop.failed" in line]
    assert "StorageUnavailable" in line
    assert "bucket is away" in line
    assert "Traceback" not in said


async def test_nothing_is_acknowledged_that_is_not_copied(tmp_path: Path) -> None:
    """Answer a callback and a job 503 while Litestream has not copied them, and 2xx when it has; keep both."""
    async with (
        stand_in(tmp_path) as (listening, socket),
        relay(tmp_path, confirm=False, RELAY_LITESTREAM_SOCKET=str(socket)) as running,
    ):
        job = await running.submit()
        listening.answer = lambda: answered(b'{"error":"bucket is away"}', b"500 Internal Server Error")
        assert (await post(running, DONE)).status_code == 503
        refused = await running.client.post("/v1/jobs", json={"provider": "evolink", "input": INPUT})
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
        ready = await running.client.get("/readyz")
        assert (ready.status_code, "bucket is away" in ready.text) == (503, True)
        listening.answer = lambda: answered(SYNCED)
        assert (await post(running, DONE)).status_code == 200
        assert (await running.client.get("/readyz")).status_code == 200
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"


async def test_postgresql_has_no_litestream(tmp_path: Path, database_server: Server) -> None:
    """Refuse the setting on PostgreSQL."""
    url = database_server.database()
    with pytest.raises(SettingsError, match="RELAY_LITESTREAM_SOCKET is for SQLite"):
        async with relay(tmp_path, DATABASE_URL=url, RELAY_LITESTREAM_SOCKET="/tmp/l.sock"):
            pass


@pytest.mark.skipif(shutil.which("litestream") is None, reason="litestream is not installed")
async def test_a_kill_and_the_loss_of_the_disk_lose_no_acknowledged_job(tmp_path: Path) -> None:
    """Restore each acknowledged job from the replica of the real Litestream, after a kill of both, without the file."""
    disk, replica, socket = tmp_path / "disk", tmp_path / "replica", tmp_path / "l.sock"
    disk.mkdir()
    world = sandbox(pace_s=None, time_scale=0)
    port = free_port()
    async with serve(world.app) as providers_at:
        environ = environment(tmp_path, f"http://127.0.0.1:{port}", providers_at)
        environ |= {"DATABASE_URL": f"sqlite:///{disk}/relay.db", "PORT": str(port), "RELAY_HOST": "127.0.0.1"}
        environ |= {"RELAY_LITESTREAM_SOCKET": str(socket)}
        config = tmp_path / "litestream.yml"
        dbs = [{"path": f"{disk}/relay.db", "replica": {"type": "file", "path": str(replica), "sync-interval": "1h"}}]
        config.write_text(json.dumps({"socket": {"enabled": True, "path": str(socket)}, "dbs": dbs}))
        copying = await asyncio.create_subprocess_exec("litestream", "replicate", "-config", str(config))
        acknowledged = []
        async with processes.process(environ, "-m", "relay", "serve") as child:
            await processes.ready(f"http://127.0.0.1:{port}", child)
            async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}, trust_env=False) as client:
                for _ in range(JOBS):
                    body = {"provider": "evolink", "input": INPUT}
                    answer = await client.post(f"http://127.0.0.1:{port}/v1/jobs", json=body, timeout=30)
                    acknowledged += [answer.json()["id"]] if answer.status_code == 202 else []
            child.send_signal(signal.SIGKILL)
            copying.send_signal(signal.SIGKILL)
            await asyncio.gather(child.wait(), copying.wait())
    await world.close()
    shutil.rmtree(disk)
    restored = tmp_path / "restored.db"
    command = ["litestream", "restore", "-config", str(config), "-o", str(restored), f"{disk}/relay.db"]
    restoring = await asyncio.create_subprocess_exec(*command)
    assert await restoring.wait() == 0
    with closing(sqlite3.connect(restored)) as connection:
        found = {row[0] for row in connection.execute("SELECT id FROM jobs")}
    assert len(acknowledged) == JOBS
    assert set(acknowledged) <= found
