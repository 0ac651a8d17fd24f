"""`relay migrate --to`: a SQLite database in the middle of everything grows into PostgreSQL, and nothing is lost."""

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from standardwebhooks import Webhook

from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from tests.support import processes
from tests.support.paying import Seller
from tests.support.postgres import Server
from tests.support.running import INPUT
from tests.system.test_many_processes import Scene, ends, scene

pytestmark = pytest.mark.anyio

REDELIVERY = """INSERT INTO redeliveries
(id, project_id, endpoint_id, which, since_at, until_at, after_event, total, made, created_at, finished_at)
SELECT 'red_01m00000000000000000000000', project_id, id, 'all', 0, 4102444800000, '', 1, 0, created_at - 120000, NULL
FROM endpoints WHERE id = ?"""
FILLER = """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
INSERT INTO calls
    SELECT printf('call_%026d', i), 'job_x', 'submission', i, 5, 'accepted', 200, 'a call', NULL, NULL FROM n"""
IN_USE = "relay.db is in use: stop relay first, so that nothing is lost"
COPIED = "the target has as many rows of everything as the source: it was copied before"


class Growing(Scene):
    """Processes on a SQLite file, and the PostgreSQL that they are to move to."""

    file: Path
    target: str
    down: str
    seller: Seller

    async def migrate(self) -> tuple[int, str]:
        """`relay migrate --to`, as an operator calls it: its exit status and what it said."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "relay", "migrate", "--to", self.target),
            cwd=processes.ROOT,
            env=processes.clean(self.environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(child.communicate(), 60)
        assert child.returncode is not None
        return child.returncode, said.decode()

    def body(self) -> dict[str, Any]:
        """Return a job that tells the sink."""
        return {"provider": "evolink", "input": INPUT, "notify": [{"url": self.hook}]}

    async def traffic(self, client: httpx.AsyncClient) -> None:
        """Jobs, one after the other, for as long as relay answers; every third waits for its provider."""
        with contextlib.suppress(httpx.TransportError):
            for number in count():
                job = await post(client, "/v1/jobs", self.body())
                if number % 3 and job["provider_job_id"]:
                    await self.world.finish(job["provider_job_id"])

    async def all_ended(self, client: httpx.AsyncClient) -> None:
        """Return when every job that its provider has is brought to its end, with the paid one."""
        async with asyncio.timeout(60):
            while True:
                for job_id in [job.id for job in self.world.jobs.values() if not job.ended]:
                    await self.world.finish(job_id)
                if await self.succeeded(client) == len(self.world.jobs) + 1:
                    return
                await asyncio.sleep(0.1)  # another process does it

    async def succeeded(self, client: httpx.AsyncClient) -> int:
        """How many jobs the list shows as succeeded, over all its pages: a fast machine makes more than one holds."""
        number = 0
        cursor: str | None = ""
        while cursor is not None:
            path = f"/v1/jobs?limit=200&status=succeeded{cursor and f'&cursor={cursor}'}"
            page = (await client.get(path)).raise_for_status().json()
            number, cursor = number + len(page["data"]), page["next_cursor"]
        return number

    async def open_redeliveries(self) -> int:
        """How many batches are not through."""
        connection: Any = await asyncpg.connect(self.target)
        try:
            return int(await connection.fetchval("SELECT COUNT(*) FROM redeliveries WHERE finished_at IS NULL"))
        finally:
            await connection.close()

    async def fill(self, number: int) -> None:
        """Fill a database with so many rows of one table."""
        async with processes.process(self.environ, "-m", "relay", "migrate") as child:
            assert await asyncio.wait_for(child.wait(), 60) == 0
        with closing(sqlite3.connect(self.file)) as file:
            file.execute(FILLER, (number,))
            file.commit()

    async def keys(self, url: str) -> None:
        """Insert an API key into another database."""
        environ = self.environ | {"DATABASE_URL": url}
        for command in (("migrate",), ("keys", "create")):
            async with processes.process(environ, "-m", "relay", *command) as child:
                assert await asyncio.wait_for(child.wait(), 60) == 0

    def rows(self) -> dict[str, Counter[tuple[Any, ...]]]:
        """All that the file holds, but the register of migrations."""
        with closing(sqlite3.connect(self.file)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            tables = sorted(name for (name,) in found if name != "schema_migrations")
            return {table: Counter(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables}

    async def rows_there(self) -> dict[str, Counter[tuple[Any, ...]]]:
        """Return the same of the target."""
        connection: Any = await asyncpg.connect(self.target)
        try:
            tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations'"
            names = sorted(row[0] for row in await connection.fetch(tables))
            fetched = {name: await connection.fetch(f"SELECT * FROM {name}") for name in names}
            return {name: Counter(tuple(row.values()) for row in rows) for name, rows in fetched.items()}
        finally:
            await connection.close()


@asynccontextmanager
async def growing(folder: Path, server: Server) -> AsyncIterator[Growing]:
    """Yield a scene on SQLite, with a provider that is paid."""
    seller = Seller()
    async with scene(folder, f"sqlite:///{folder}/relay.db") as stage, serve(seller.app) as origin:
        stage.__class__ = Growing
        assert isinstance(stage, Growing)
        stage.file, stage.target, stage.seller = folder / "relay.db", server.database(), seller
        stage.environ |= {
            "RELAY_STATUS_CHECK_FIRST_S": "2",  # a callback that met a killed relay is not sent again for ever
            "RELAY_WALLET_KEY": "0x" + "22" * 32,
            "RELAY_X402ORG_BASE_URL": origin,
            "RELAY_RETRY_SCHEDULE_S": ",".join(["0"] + ["1"] * 19),
        }
        yield stage


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    """Return what a POST answers."""
    answer = (await client.post(path, json=body, headers=headers)).raise_for_status()
    shown: dict[str, Any] = answer.json()
    return shown


async def underway(stage: Growing, client: httpx.AsyncClient, down: str) -> dict[str, dict[str, Any]]:
    """One of everything that may be in the middle: an endpoint that is down, one that is disabled, what is paid."""
    made = {
        "down": await post(client, "/v1/endpoints", {"url": f"{down}/down", "event_types": ["job.succeeded"]}),
        "again": await post(client, "/v1/endpoints", {"url": f"{stage.hook}/again", "event_types": ["job.failed"]}),
        "off": await post(client, "/v1/endpoints", {"url": f"{stage.hook}/off"}),
        "paid": await post(client, "/v1/jobs", {"provider": "x402org", "input": INPUT}),
        "keyed": await post(client, "/v1/jobs", stage.body(), **{"idempotency-key": "the-one"}),
    }
    (await client.patch(f"/v1/endpoints/{made['off']['id']}", json={"status": "disabled"})).raise_for_status()
    return made


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_all_goes_on_in_postgresql(tmp_path: Path, database_server: Server, end: signal.Signals) -> None:
    """Stopped under traffic, or killed: every row is there, and each thing that was under way comes to its end."""
    deaf = Sink()
    deaf.answers = [503] * 10_000
    async with growing(tmp_path, database_server) as stage, serve(deaf) as down, stage.client() as client:
        child = await stage.start("serve")
        made = await underway(stage, client, down)
        busy = asyncio.create_task(stage.traffic(client))
        await stage.told(10)
        assert await stage.migrate() == (1, f"relay: {tmp_path}/{IN_USE}\n")
        os.killpg(child.pid, end)
        await child.wait()
        await busy
        with closing(sqlite3.connect(stage.file)) as file:
            file.execute(REDELIVERY, (made["again"]["id"],))
            file.commit()
        before = stage.rows()
        status, said = await stage.migrate()
        number = sum(map(Counter.total, before.values()))
        assert (status, f"copied and counted {number} rows" in said) == (0, True)
        assert await stage.rows_there() == before == stage.rows()
        assert await stage.migrate() == (78, f"relay: {COPIED}\n")

        stage.environ |= {"DATABASE_URL": stage.target}
        await stage.start("serve")
        deaf.answers.clear()
        replayed = await client.post("/v1/jobs", json=stage.body(), headers={"idempotency-key": "the-one"})
        assert replayed.headers["idempotent-replayed"] == "true"
        assert replayed.json()["id"] == made["keyed"]["id"]
        await stage.all_ended(client)
        assert stage.seller.moved == 330_000
        ended = len(stage.world.jobs)
        await stage.told(ended)
        await deaf.wait_for(lambda sink: len(ends(sink, "job.succeeded")) == ended + 1, timeout_s=60)
        for one in deaf.received:
            Webhook(made["down"]["secret"]).verify(one.body, one.headers)
        assert (await client.get(f"/v1/endpoints/{made['off']['id']}")).json()["status"] == "disabled"
        assert not await stage.open_redeliveries()
        if end is signal.SIGTERM:
            assert set(ends(stage.sink, "job.succeeded").values()) == {1}


async def test_a_copy_that_is_killed_leaves_nothing_and_can_be_made_again(
    tmp_path: Path, database_server: Server
) -> None:
    """SIGKILL in the middle of a hundred thousand rows; the second copy has them all, in a few seconds."""
    async with growing(tmp_path, database_server) as stage:
        await stage.fill(100_000)
        environ = processes.clean(stage.environ)
        command = [sys.executable, "-m", "relay", "migrate", "--to", stage.target]
        child = await asyncio.create_subprocess_exec(
            *command, cwd=processes.ROOT, env=environ, stderr=asyncio.subprocess.PIPE
        )
        assert child.stderr is not None
        said = b""
        while b"calls" not in said:
            said += await child.stderr.read(1000)
        child.kill()
        await child.wait()
        assert sum(map(Counter.total, (await stage.rows_there()).values())) == 1
        began = time.monotonic()
        status, _ = await stage.migrate()
        took_s = time.monotonic() - began
        assert (status, took_s < 10) == (0, True)
        assert (await stage.rows_there())["calls"].total() == 100_000


async def test_a_target_that_is_in_use_is_refused(tmp_path: Path, database_server: Server) -> None:
    """One that holds anything, or another program's tables: exit 78 names what is there, and nothing is touched."""
    async with growing(tmp_path, database_server) as stage:
        await stage.fill(10)
        connection: Any = await asyncpg.connect(stage.target)
        try:
            await connection.execute("CREATE TABLE customers (id INTEGER)")
            status, said = await stage.migrate()
            assert (status, "tables that are not relay's (customers)" in said) == (78, True)
            await connection.execute("DROP TABLE customers")
            await stage.keys(stage.target)
            status, said = await stage.migrate()
            assert (
                status,
                "the target is not empty (1 api_keys, 1 audit, 1 projects, 1 sealing_keys, 1 signing_keys)" in said,
            ) == (78, True)
            for table in ("api_keys", "audit", "sealing_keys", "signing_keys"):
                await connection.execute(f"DELETE FROM {table}")
            assert (await stage.migrate())[0] == 0
        finally:
            await connection.close()


@pytest.mark.parametrize("content", [None, b"no database, but long enough to be taken for one" * 40, b""])
async def test_a_source_that_is_none_is_refused(tmp_path: Path, database_server: Server, content: bytes | None) -> None:
    """No file, another file, an empty one: exit 78 in a sentence."""
    async with growing(tmp_path, database_server) as stage:
        stage.file.unlink()
        if content is not None:
            stage.file.write_bytes(content)
        status, said = await stage.migrate()
        assert (status, said.count("\n"), "Traceback" in said) == (78, 1, False)
