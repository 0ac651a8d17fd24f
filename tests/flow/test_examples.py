"""The receivers of docs/examples: each accepts and refuses the same vectors, and some receive from a live relay."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from relay.clock import SystemClock
from relay.security import signatures
from tests.support.oracles import oracle_missing
from tests.support.ports import free_port
from tests.support.running import relay

pytestmark = pytest.mark.anyio
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
RECEIVERS = EXAMPLES / "receivers"
VECTORS: list[dict[str, Any]] = json.loads((EXAMPLES / "vectors.json").read_text())
BODY = '{"id":"evt_1","type":"relay.test","data":{"endpoint":"ep_1","job":null}}'
SECRET, OTHER = signatures.new_secret(), signatures.new_secret()
UVICORN = [sys.executable, "-m", "uvicorn", "--log-level", "warning", "--port", "{port}"]
NEXT = """
import { createServer } from "node:http";
import { POST } from "./route.js";
createServer(async (incoming, outgoing) => {
  const chunks = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const options = { method: "POST", headers: incoming.headers, body: Buffer.concat(chunks) };
  const answer = await POST(new Request("http://here/api/relay", options));
  outgoing.writeHead(answer.status).end();
}).listen(process.env.PORT);
"""


class Receiver(msgspec.Struct, frozen=True):
    """An example: the file, the program that it needs, and the command that starts it in the folder of a copy."""

    file: str
    needs: str
    command: list[str]
    live: bool = False


RECEIVER_LIST = [
    Receiver("starlette_app.py", "python3", [*UVICORN, "starlette_app:app"], live=True),
    Receiver("fastapi_app.py", "python3", [*UVICORN, "fastapi_app:app"]),
    Receiver("flask_app.py", "python3", [sys.executable, "-m", "flask", "--app", "flask_app", "run", "-p", "{port}"]),
    Receiver("django_app.py", "python3", [sys.executable, "django_app.py", "runserver", "--noreload", "{port}"]),
    Receiver("plain.mjs", "node", ["node", "plain.mjs"], live=True),
    Receiver("express_app.mjs", "node", ["node", "express_app.mjs"]),
    Receiver("nextjs/app/api/relay/route.js", "node", ["node", "next.mjs"]),
    Receiver("go/main.go", "go", ["./receiver"], live=True),
    Receiver("php/receiver.php", "php", ["php", "-S", "127.0.0.1:{port}", "receiver.php"]),
    Receiver("ruby/receiver.rb", "ruby", ["ruby", "receiver.rb"]),
]


def of(vector: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a vector, signed now, then changed as it says."""
    timestamp_s = int(time.time()) - vector.get("age_s", 0)
    body = vector.get("body", BODY).encode()
    signed = {"own": SECRET, "other": OTHER}
    listed = [
        "v1a," + "A" * 86 + "==" if one == "v1a" else signatures.sign([signed[one]], "evt_1", timestamp_s, body)
        for one in vector.get("signatures", ["own"])
    ]
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(timestamp_s), "webhook-signature": " ".join(listed)}
    for name, value in vector.get("change", {}).items():
        match name:
            case "body":
                body = value.encode()
            case "append":
                body += value.encode()
            case "timestamp_s_later":
                headers["webhook-timestamp"] = str(timestamp_s + value)
            case _ if value is None:
                del headers[name]
            case _:
                headers[name] = value
    return {"content-type": "application/json", **headers}, body


def test_every_example_is_tested() -> None:
    """Have a test for each receiver in docs/examples."""
    kept = {".py", ".mjs", ".js", ".go", ".php", ".rb", ".sh"}
    found = {path.relative_to(RECEIVERS).as_posix() for path in RECEIVERS.rglob("*") if path.suffix in kept}
    assert found == {receiver.file for receiver in RECEIVER_LIST} | {"bash/receiver.sh"}


@asynccontextmanager
async def receiving(receiver: Receiver, node_packages: Path, folder: Path, secret: str) -> AsyncIterator[str]:
    """Yield the URL of a receiver that runs; its output goes to `out` in the folder."""
    if shutil.which(receiver.needs, path=os.environ["PATH"] + ":/usr/local/go/bin") is None:
        if receiver.needs == "go":
            pytest.skip("Go is not installed; Debian 12 has none that is new enough for the official library")
        oracle_missing(f"{receiver.needs} is not installed")
    shutil.copy(RECEIVERS / receiver.file, folder)
    (folder / "node_modules").symlink_to(node_packages / "node_modules")
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "next.mjs").write_text(NEXT)
    if receiver.needs == "go":
        await asyncio.to_thread(build, folder)
    port = free_port()
    command = [part.replace("{port}", str(port)) for part in receiver.command]
    environ = os.environ | {"PORT": str(port), "RELAY_ENDPOINT_SECRET": secret, "PYTHONUNBUFFERED": "1"}
    with (folder / "out").open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environ, stdout=out, stderr=out)
        try:
            url = f"http://127.0.0.1:{port}/hook"
            async with httpx.AsyncClient() as client, asyncio.timeout(60):
                while not await answers(client, url):
                    assert process.returncode is None, (folder / "out").read_text()
                    await asyncio.sleep(0.05)
            yield url
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def answers(client: httpx.AsyncClient, url: str) -> bool:
    """Return whether anything answers there."""
    try:
        await client.post(url, content=b"{}")
    except httpx.TransportError:
        return False
    return True


def build(folder: Path) -> None:
    """Compile the receiver in Go; skip the test with a Go that is too old for the official library."""
    go = shutil.which("go", path=os.environ["PATH"] + ":/usr/local/go/bin") or "go"
    for name in ("go.mod", "go.sum"):
        shutil.copy(RECEIVERS / "go" / name, folder)
    done = subprocess.run([go, "build", "-o", "receiver", "."], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("receiver", RECEIVER_LIST, ids=lambda receiver: receiver.file)
async def test_a_receiver_accepts_the_genuine_and_nothing_else(
    receiver: Receiver, node_packages: Path, tmp_path: Path
) -> None:
    """Answer 204 to what is genuine and 400 to everything else."""
    async with receiving(receiver, node_packages, tmp_path, SECRET) as url, httpx.AsyncClient() as client:
        answered = {}
        for vector in VECTORS:
            headers, body = of(vector)
            answered[vector["name"]] = (await client.post(url, content=body, headers=headers)).status_code
    assert answered == {vector["name"]: 204 if vector["accept"] else 400 for vector in VECTORS}


@pytest.mark.parametrize("receiver", [one for one in RECEIVER_LIST if one.live], ids=lambda receiver: receiver.file)
async def test_a_receiver_is_notified_by_relay(receiver: Receiver, node_packages: Path, tmp_path: Path) -> None:
    """Receive the end of a job from a live relay."""
    (folder := tmp_path / "receiver").mkdir()
    started = receiving(receiver, node_packages, folder, SECRET)
    async with started as url, relay(tmp_path, clock=SystemClock()) as running:
        await running.client.post("/v1/endpoints", json={"url": url, "secret": SECRET})
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        path = f"/v1/deliveries?job={job['id']}&status=delivered"
        await running.until(path, lambda shown: len(shown["data"]) == 2)
    assert sorted((folder / "out").read_text().split())[-2:] == ["job.submitted", "job.succeeded"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_the_receiver_in_bash_accepts_the_genuine_and_nothing_else(vector: dict[str, Any]) -> None:
    """Answer as the others do, by CGI."""
    headers, body = of(vector)
    environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()}
    environ |= {"PATH": os.environ["PATH"], "RELAY_ENDPOINT_SECRET": SECRET, "CONTENT_LENGTH": str(len(body))}
    script = str(RECEIVERS / "bash" / "receiver.sh")
    done = subprocess.run([script], input=body, env=environ, capture_output=True, timeout=10, check=True)
    assert done.stdout == (b"Status: 204\r\n\r\n" if vector["accept"] else b"Status: 400\r\n\r\n"), done.stderr
