"""relay mounted in another ASGI application: callbacks, API and notifications below the path of the mount."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.errors import SettingsError
from relay.providers import DEV_PROVIDERS, PROVIDERS
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.web import embedded
from tests.support.oracles import ROOT
from tests.support.ports import free_port
from tests.support.processes import clean, line, process
from tests.support.running import INPUT, KEY, environment

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


class Deferred:
    """An application that is known only once its server's port is."""

    app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        assert self.app is not None
        await self.app(scope, receive, send)


@asynccontextmanager
async def hosting(folder: Path, providers_at: str) -> AsyncIterator[str]:
    """Yield the origin of an application that has relay at /webhooks/relay."""
    host = Deferred()
    async with serve(host) as origin:
        environ = environment(folder, f"{origin}/webhooks/relay", providers_at)
        async with embedded.relay(environ, {**PROVIDERS, **DEV_PROVIDERS}) as relay:

            async def own(_: Request) -> Response:
                return PlainTextResponse("the host's own page")

            host.app = Starlette(routes=[Mount("/webhooks/relay", relay), Route("/{rest:path}", own)])
            yield origin


async def test_a_job_runs_below_the_path_of_the_mount(tmp_path: Path) -> None:
    """Submit a job, receive its callback and notify, all below the mount; leave the rest to the host."""
    world, sink = sandbox(time_scale=0), Sink()
    async with serve(world.app) as providers_at, serve(sink) as hook, hosting(tmp_path, providers_at) as origin:
        base = f"{origin}/webhooks/relay"
        async with httpx.AsyncClient(base_url=base, headers={"authorization": f"Bearer {KEY}"}) as client:
            body = {"provider": "evolink", "input": INPUT, "notify": [{"url": f"{hook}/hook"}]}
            submitted = await client.post("/v1/jobs", json=body)
            assert submitted.status_code == 202, submitted.text
            assert submitted.headers["request-id"]
            (provider_job,) = world.jobs.values()
            assert provider_job.callback_url is not None
            assert provider_job.callback_url.startswith(f"{base}/callbacks/evolink/")
            await world.finish(submitted.json()["provider_job_id"])
            await sink.wait_for(lambda sink: "job.succeeded" in sink.events())
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/v1/nothing")).json()["code"] == "not_found"
            assert (await client.get(f"{origin}/v1/jobs")).text == "the host's own page"
    await world.close()


async def test_every_wrong_setting_is_named(tmp_path: Path) -> None:
    """Refuse to start with a wrong setting, as `relay serve` does."""
    environ = environment(tmp_path, "http://127.0.0.1:1/relay", "http://127.0.0.1:1")
    with pytest.raises(SettingsError, match="RELAY_PUBLIC_URL"):
        async with embedded.relay(environ | {"RELAY_PUBLIC_URL": "nowhere"}, {**PROVIDERS, **DEV_PROVIDERS}):
            pass


async def test_the_recipe_works_as_printed(tmp_path: Path) -> None:
    """Start the page's own file by uvicorn, and have a job announced below its mount."""
    page = (ROOT / "docs" / "recipes" / "embedding.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "shop.py").write_text(program)
    port, world, sink = free_port(), sandbox(time_scale=0), Sink()
    origin = f"http://127.0.0.1:{port}"
    async with serve(world.app) as providers_at, serve(sink) as hook:
        environ = environment(tmp_path, f"{origin}/relay", providers_at) | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
        async with process(clean(environ), "-m", "uvicorn", "shop:app", "--workers", "1", "--port", str(port)) as child:
            await line(child, "Uvicorn running")
            headers = {"authorization": f"Bearer {KEY}"}
            async with httpx.AsyncClient(base_url=origin, headers=headers, trust_env=False) as client:
                assert (await client.get("/")).text == "my own application"
                body = {"provider": "evolink", "input": INPUT, "notify": [{"url": f"{hook}/hook"}]}
                job = (await client.post("/relay/v1/jobs", json=body)).json()
                await world.finish(job["provider_job_id"])
                await sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    await world.close()
