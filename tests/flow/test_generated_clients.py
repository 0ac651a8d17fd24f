"""Clients that others' generators make of `/openapi.json` go the whole way: submit, wait, verify."""

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import standardwebhooks

from relay.clock import SystemClock
from tests.support.running import INPUT, KEY, Running, relay

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


async def document(running: Running, folder: Path) -> Path:
    """Return the file that holds what relay serves as `/openapi.json`."""
    file = folder / "openapi.json"
    async with httpx.AsyncClient(base_url=running.origin) as stranger:
        file.write_bytes((await stranger.get("/openapi.json")).content)
    return file


def done(command: list[str], folder: Path) -> None:
    """Run a command in a folder; AssertionError with what it printed if it fails."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr


async def test_the_client_of_openapi_python_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generate a client without a warning, and submit, wait and verify with it."""
    async with relay(tmp_path, clock=SystemClock()) as running:
        made = tmp_path / "generated_relay_client"
        command = ["-m", "openapi_python_client", "generate", "--path", str(await document(running, tmp_path))]
        (tmp_path / "generator.yaml").write_text("post_hooks: []")
        options = ["--output-path", str(made), "--meta", "none", "--fail-on-warning", "--config", "generator.yaml"]
        await asyncio.to_thread(done, [sys.executable, *command, *options], tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        job = await _driven(running, made.name)
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    received = next(one for one in running.sink.received if b'"job.succeeded"' in one.body)
    event = standardwebhooks.Webhook(job["secret"]).verify(received.body, received.headers)
    assert (event["type"], event["data"]["job"]["id"]) == ("job.succeeded", job["id"])


async def _driven(running: Running, package: str) -> dict[str, Any]:
    """Make an endpoint, submit a job and wait for its end by a generated client; return their secret and id."""

    def module(name: str) -> Any:
        return importlib.import_module(f"{package}.{name}")

    async with module("client").AuthenticatedClient(running.origin, KEY, raise_on_unexpected_status=True) as client:
        models = module("models")
        create = module("api.endpoints.endpoints_create").asyncio
        endpoint = await create(client=client, body=models.NewEndpointFields.from_dict({"url": running.hook}))
        submit = module("api.jobs.jobs_create").asyncio
        job = await submit(client=client, body=models.JobFields.from_dict({"provider": "evolink", "input": INPUT}))
        show = module("api.jobs.jobs_show").asyncio
        waiting = asyncio.ensure_future(show(job.id, client=client, prefer="wait=20"))
        await running.world.finish(job.provider_job_id)
        assert (await waiting).status.value == "succeeded"
        refused = await show("job_none", client=client)
        assert (refused.code, refused.status) == ("not_found", 404)
        return {"secret": endpoint.secret, "id": job.id}


async def test_the_types_of_openapi_typescript(node_packages: Path, tmp_path: Path) -> None:
    """Compile tests/node/generated.ts against generated types, and go the whole way with it."""
    modules = node_packages / "node_modules"
    async with relay(tmp_path, clock=SystemClock()) as running:
        (tmp_path / "node_modules").symlink_to(modules)
        (tmp_path / "package.json").write_text('{"type": "module"}')
        (tmp_path / "client.ts").write_text((ROOT / "tests" / "node" / "generated.ts").read_text())
        file = await document(running, tmp_path)
        generate = ["node", str(modules / "openapi-typescript" / "bin" / "cli.js"), str(file), "-o", "schema.ts"]
        await asyncio.to_thread(done, generate, tmp_path)
        options = ["--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "--types", "node"]
        compiler = str(modules / "typescript" / "bin" / "tsc")
        await asyncio.to_thread(done, ["node", compiler, *options, "client.ts"], tmp_path)
        pipe = asyncio.subprocess.PIPE
        command = ["node", str(tmp_path / "client.js"), running.origin, KEY, running.hook]
        node = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            assert node.stdin is not None
            assert node.stdout is not None
            job = json.loads(await asyncio.wait_for(node.stdout.readline(), 60))
            await running.world.finish(job["provider_job_id"])
            ended = json.loads(await asyncio.wait_for(node.stdout.readline(), 60))
            assert ended == {"status": "succeeded", "code": "not_found"}
            await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
            received = next(one for one in running.sink.received if b'"job.succeeded"' in one.body)
            sent = {"headers": dict(received.headers), "body": received.body.decode()}
            printed, errors = await asyncio.wait_for(node.communicate(json.dumps(sent).encode()), 60)
            assert json.loads(printed or errors) == {"type": "job.succeeded"}
        finally:
            if node.returncode is None:
                node.kill()
                await node.communicate()
