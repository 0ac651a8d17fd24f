"""relay as Heroku runs it: from the pushed files alone, with its buildpack's variables, on PostgreSQL.

The buildpack puts the requirements into the dyno's Python, and relay itself is only there as files (PYTHONPATH=$HOME).
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from tests.support import checkout, processes
from tests.support.ports import free_port
from tests.support.postgres import Server
from tests.support.running import INPUT, KEY, environment

pytestmark = pytest.mark.anyio

STOP_S = 30
"""How long a dyno has between SIGTERM and SIGKILL."""


class Dynos:
    """An app: its slug, and the config vars that each of its dynos has."""

    def __init__(self, slug: Path, config: dict[str, str]) -> None:
        self.slug = slug
        self.config = config
        lines = (slug / "Procfile").read_text().splitlines()
        self.commands = {kind: command.strip() for kind, _, command in (line.partition(":") for line in lines)}

    def environ(self, name: str, port: int) -> dict[str, str]:
        """Return a dyno's environment: as the buildpack's .profile.d scripts leave it."""
        return {
            "HOME": str(self.slug),
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "PYTHONPATH": str(self.slug),
            "PYTHONUNBUFFERED": "true",
            "LANG": "C.UTF-8",
            "WEB_CONCURRENCY": "2",
            "FORWARDED_ALLOW_IPS": "*",
            "DYNO": name,
            "PORT": str(port),
            **self.config,
        }

    @asynccontextmanager
    async def dyno(self, name: str, port: int) -> AsyncIterator["Dyno"]:
        """Run a line of the Procfile as a dyno does; killed at the end if it is still there."""
        log = self.slug.parent / f"{name}.log"
        with log.open("wb") as written:
            child = await asyncio.create_subprocess_exec(
                *("bash", "-c", self.commands[name.partition(".")[0]]),
                cwd=self.slug,
                env=self.environ(name, port),
                stdout=written,
                stderr=written,
                start_new_session=True,
            )
        try:
            yield Dyno(child, log, f"http://127.0.0.1:{port}")
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
            sys.stdout.write(log.read_text())


class Dyno:
    """One process of the app."""

    def __init__(self, child: asyncio.subprocess.Process, log: Path, origin: str) -> None:
        self.child = child
        self.log = log
        self.origin = origin

    async def logged(self, text: str) -> None:
        """Return when the log has this text; TimeoutError if it does not come."""
        async with asyncio.timeout(60):
            while text not in self.log.read_text():  # noqa: ASYNC110 - another process writes it
                await asyncio.sleep(0.02)

    async def stopped(self) -> int:
        """Return the status after SIGTERM, which Heroku sends to every process of the dyno, here twice."""
        for _ in range(2):
            os.killpg(self.child.pid, signal.SIGTERM)
        return await asyncio.wait_for(self.child.wait(), STOP_S)


async def test_the_pushed_files_boot_as_release_web_and_worker(tmp_path: Path, database_server: Server) -> None:
    """Migrate in `release`, serve in `web`, send in `worker`, and end both in time when SIGTERM comes twice."""
    slug = checkout.copied(tmp_path / "app")
    world, sink = sandbox(pace_s=None, time_scale=0), Sink()
    port = free_port()
    async with serve(world.app) as providers_at, serve(sink) as sink_at:
        config = environment(tmp_path, f"http://127.0.0.1:{port}", providers_at)
        config["DATABASE_URL"] = database_server.database().replace("postgresql://", "postgres://")
        app = Dynos(slug, config)
        async with app.dyno("release.1", 0) as release:
            assert await asyncio.wait_for(release.child.wait(), 60) == 0
            assert "applied" in release.log.read_text()
        async with app.dyno("web.1", port) as web, app.dyno("worker.1", free_port()) as worker:
            await processes.ready(web.origin, web.child)
            await worker.logged("relay.working")
            headers = {"authorization": f"Bearer {KEY}"}
            async with httpx.AsyncClient(base_url=web.origin, headers=headers, trust_env=False, timeout=30) as client:
                hook = {"url": f"{sink_at}/hook", "event_types": ["*"]}
                assert (await client.post("/v1/endpoints", json=hook)).status_code == 201
                job = (await client.post("/v1/jobs", json={"provider": "evolink", "input": INPUT})).json()
                await world.finish(job["provider_job_id"])
                await sink.wait_for(lambda sink: "job.succeeded" in sink.events())
            assert await web.stopped() == 0
            assert await worker.stopped() == 0
            assert "Traceback" not in web.log.read_text() + worker.log.read_text()
    await world.close()


async def test_a_new_web_dyno_serves_before_the_old_one_stops(tmp_path: Path, database_server: Server) -> None:
    """Serve from old and new dynos together, as Heroku's preboot has it, and go on when the old one has stopped."""
    slug = checkout.copied(tmp_path / "app")
    ports = [free_port(), free_port()]
    config = environment(tmp_path, f"http://127.0.0.1:{ports[0]}", "http://127.0.0.1:9")
    config["DATABASE_URL"] = database_server.database()
    app = Dynos(slug, config)
    async with app.dyno("web.1", ports[0]) as old:
        await processes.ready(old.origin, old.child)
        async with app.dyno("web.2", ports[1]) as new:
            await processes.ready(new.origin, new.child)
            assert await old.stopped() == 0
            async with httpx.AsyncClient(base_url=new.origin, trust_env=False, timeout=30) as client:
                assert (await client.get("/readyz")).status_code == 200
