"""PostgreSQL: web and worker processes of their own, on one database; any of them killed, every connection cut."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from relay.errors import SettingsError, StorageUnavailable
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.sandbox.world import Sandbox
from relay.storage.engine import statements
from relay.storage.engine.migrations import migrate, migrations
from relay.storage.engine.postgres import PostgreSQL
from relay.storage.engine.statements import Dialect
from tests.support import processes
from tests.support.paying import Seller
from tests.support.ports import free_port
from tests.support.postgres import Server
from tests.support.rows import row
from tests.support.running import INPUT, environment, http_client

pytestmark = pytest.mark.anyio


class Scene:
    """Processes on one database, with the world around them."""

    def __init__(self, stack: AsyncExitStack, environ: dict[str, str], world: Sandbox, sink: Sink, hook: str) -> None:
        self.stack = stack
        self.environ = environ
        self.world = world
        self.sink = sink
        self.hook = hook
        self.port = int(environ["PORT"])

    async def start(self, *arguments: str, port: int | None = None) -> asyncio.subprocess.Process:
        """Return a process of relay."""
        environ = self.environ | {"PORT": str(port or self.port)}
        child = await self.stack.enter_async_context(processes.process(environ, "-m", "relay", *arguments))
        if arguments[0] == "serve":
            await processes.ready(f"http://127.0.0.1:{environ['PORT']}", child)
        return child

    def client(self, port: int | None = None) -> httpx.AsyncClient:
        """Return an API client of one of the web processes."""
        return http_client(f"http://127.0.0.1:{port or self.port}")

    async def job_done(self, client: httpx.AsyncClient) -> str:
        """Return a job that is submitted and brought to its end at the provider."""
        body = {"provider": "evolink", "input": INPUT, "notify": [{"url": self.hook}]}
        job = (await client.post("/v1/jobs", json=body)).raise_for_status().json()
        await self.world.finish(job["provider_job_id"])
        return str(job["id"])

    async def told(self, number: int, kind: str = "job.succeeded") -> None:
        """Return when so many jobs' ends have arrived, each at least once."""
        await self.sink.wait_for(lambda sink: len(ends(sink, kind)) >= number, timeout_s=30)


def ends(sink: Sink, kind: str) -> Counter[str]:
    """How often each notification of a type came, by its webhook-id."""
    pairs = zip(sink.events(), sink.received, strict=True)
    return Counter(received.headers["webhook-id"] for event, received in pairs if event == kind)


@asynccontextmanager
async def scene(folder: Path, url: str) -> AsyncIterator[Scene]:
    """Yield the world around processes on this database."""
    async with AsyncExitStack() as stack:
        world, sink = sandbox(pace_s=None, time_scale=0), Sink()
        stack.push_async_callback(world.close)
        providers_at = await stack.enter_async_context(serve(world.app))
        hook = await stack.enter_async_context(serve(sink)) + "/hook"
        port = free_port()
        environ = environment(folder, f"http://127.0.0.1:{port}", providers_at) | {
            "PORT": str(port),
            "RELAY_HOST": "127.0.0.1",
            "RELAY_LEASE_S": "2",
            "DATABASE_URL": url,
        }
        yield Scene(stack, environ, world, sink, hook)


async def test_web_and_workers_are_processes_of_their_own(tmp_path: Path, database_server: Server) -> None:
    """Two of each: whichever takes a job or a callback, a worker confirms and tells it, once."""
    async with scene(tmp_path, database_server.database()) as stage:
        other = free_port()
        await stage.start("serve", "--no-dispatch")
        await stage.start("serve", "--no-dispatch", port=other)
        await stage.start("work")
        await stage.start("work")
        async with stage.client() as first, stage.client(other) as second:
            job_ids = [await stage.job_done(client) for client in (first, second) * 5]
            await stage.told(10)
            shown = [(await second.get(f"/v1/jobs/{job_id}")).json() for job_id in job_ids]
            totals = await _counted(second, len(stage.sink.received))
        assert {(job["status"], job["verification"]) for job in shown} == {("succeeded", "fetch")}
        assert set(ends(stage.sink, "job.succeeded").values()) == {1}
        assert (totals["jobs_created"], totals["finished_by"]["callback"], totals["latency"]["count"]) == (10, 10, 10)


async def _counted(client: httpx.AsyncClient, attempts: int) -> Any:
    """Return the statistics of all processes together as soon as they have so many attempts: each adds its own."""
    async with asyncio.timeout(60):
        while True:
            totals = (await client.get("/v1/stats?from=-15m")).json()["totals"]
            if totals["attempts"]["ok"] == attempts and totals["jobs_created"] == totals["finished_by"]["callback"]:
                return totals
            await asyncio.sleep(0.2)  # other processes store what they counted


@pytest.mark.parametrize("killed", ["web", "worker"])
async def test_a_kill_of_any_of_them_loses_nothing(tmp_path: Path, database_server: Server, killed: str) -> None:
    """SIGKILL in the middle of the work: every job ends, and every end arrives."""
    async with scene(tmp_path, database_server.database()) as stage:
        other = free_port()
        web = [await stage.start("serve", "--no-dispatch"), await stage.start("serve", "--no-dispatch", port=other)]
        workers = [await stage.start("work"), await stage.start("work")]
        victim = web[1] if killed == "web" else workers[0]
        async with stage.client() as client:
            for number in range(12):
                await stage.job_done(client)
                if number == 5:
                    os.killpg(victim.pid, signal.SIGKILL)
            await stage.told(12)


async def test_a_restarted_server_is_503_and_then_all_goes_on(tmp_path: Path, database_server: Server) -> None:
    """While every connection is cut relay answers 503; afterwards it works on by itself, and nothing is lost."""
    url = database_server.database()
    async with scene(tmp_path, url) as stage:
        await stage.start("serve")
        async with stage.client() as client:
            before = await stage.job_done(client)
            await stage.told(1)
            name = url.rpartition("/")[2]
            admin: Any = await asyncpg.connect(database_server.url)
            try:
                await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
                cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
                await admin.execute(cut, name)
                body = {"provider": "evolink", "input": INPUT}
                assert (await client.post("/v1/jobs", json=body)).status_code == 503
                assert (await client.get("/readyz")).status_code == 503
                await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            finally:
                await admin.close()
            async with asyncio.timeout(60):
                while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - it is behind HTTP
                    await asyncio.sleep(0.05)  # another process connects again
            await stage.job_done(client)
            await stage.told(2)
            assert (await client.get(f"/v1/jobs/{before}")).json()["status"] == "succeeded"


async def test_ten_that_start_at_once_migrate_once(database_server: Server) -> None:
    """Whoever comes first migrates, and the others wait for it."""
    url = database_server.database()

    async def start() -> list[str]:
        database = await PostgreSQL.open(url)
        try:
            return await migrate(database, 1)
        finally:
            await database.close()

    done = await asyncio.gather(*(start() for _ in range(10)))
    assert max(done) == [migration.name for migration in migrations()]
    assert sum(bool(names) for names in done) == 1


async def test_every_statement_can_be_prepared(database_server: Server, prepared: str) -> None:
    """PostgreSQL knows every table, column and type that a statement names."""
    connection: Any = await asyncpg.connect(prepared)
    try:
        for name, statement in statements.load(Dialect.POSTGRES).items():
            with row(name):
                await connection.prepare(statement.text)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def prepared(database_server: Server) -> str:
    """Return a migrated database."""
    url = database_server.database()

    async def make() -> None:
        database = await PostgreSQL.open(url)
        await migrate(database, 1)
        await database.close()

    asyncio.run(make())
    return url


@pytest.mark.parametrize("command", [("work",), ("serve", "--no-dispatch")])
async def test_on_sqlite_one_process_does_both(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Exit 78 with a sentence that names what is needed."""
    environ = {"DATABASE_URL": f"sqlite:///{tmp_path}/relay.db", "PORT": "0"}
    async with processes.process(environ, "-m", "relay", *command) as child:
        assert await asyncio.wait_for(child.wait(), 60) == 78


async def test_a_database_that_is_not_there_says_so(database_server: Server) -> None:
    """A wrong name is the operator's mistake, a server that is away may come back."""
    with pytest.raises(SettingsError, match="nowhere"):
        await PostgreSQL.open(database_server.url.replace("/postgres", "/nowhere"))
    with pytest.raises(StorageUnavailable):
        await PostgreSQL.open(f"postgresql://relay@127.0.0.1:{free_port()}/x")


async def test_two_processes_cannot_overspend_the_day_between_them(tmp_path: Path, database_server: Server) -> None:
    """Ten requests at two web processes, with room for three: three are paid, seven are 402."""
    seller = Seller()
    async with scene(tmp_path, database_server.database()) as stage, serve(seller.app) as origin:
        stage.environ |= {
            "RELAY_WALLET_KEY": "0x" + "22" * 32,
            "RELAY_X402ORG_BASE_URL": origin,
            "RELAY_SPEND_MAX_PER_DAY": "1.00",
        }
        other = free_port()
        await stage.start("serve", "--no-dispatch")
        await stage.start("serve", "--no-dispatch", port=other)
        async with stage.client() as first, stage.client(other) as second:
            body = {"provider": "x402org", "input": INPUT}
            answers = await asyncio.gather(*(client.post("/v1/jobs", json=body) for client in (first, second) * 5))
        assert sorted(answer.status_code for answer in answers) == [202] * 3 + [402] * 7
        assert len(seller.ledger) == 3
