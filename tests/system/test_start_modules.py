"""What a process loads before it listens, and what later: time and memory of a start, and no wait for a callback.

Each case is a process of its own, since a module that one test has loaded stays loaded for all others.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from relay.clock import SystemClock
from tests.support import processes
from tests.support.calling_back import DONE
from tests.support.running import INPUT, environment, relay

pytestmark = pytest.mark.anyio

SERVED = """
import asyncio, json, os, sys, threading
from urllib.parse import urlsplit
from relay import log
from relay.app import opened
from relay.cli.starting import summary
from relay.providers import DEV_PROVIDERS, PROVIDERS
from relay.settings import load
from relay.web.server import server

def modules():
    return sorted(name for name in sys.modules if name.split(".")[0] in ("relay", "starlette", "httpx", "cryptography"))

class Imports:
    def __init__(self):
        self.by_the_loop = []

    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is threading.main_thread():
            self.by_the_loop.append(name)

async def ask(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    answer = await reader.read()
    writer.close()
    return int(answer[9:12])

async def main():
    loaded, found = load(os.environ, (*PROVIDERS, *DEV_PROVIDERS)), []
    summary(loaded, PROVIDERS)
    async with opened(loaded, PROVIDERS) as app:
        http = server(app, "127.0.0.1", 0)
        serving = asyncio.create_task(http.serve())
        while not http.started:
            await asyncio.sleep(0.01)
        port = http.servers[0].sockets[0].getsockname()[1]
        found.append([0, modules()])
        sys.meta_path.insert(0, imports)
        for request in json.loads(sys.argv[1]):
            status = await ask(port, request.encode())
            found.append([status, modules()])
        http.should_exit = True
        await serving
    log.flush()
    print(json.dumps(found + [[0, imports.by_the_loop]]))

imports = Imports()
log.configure("json")
asyncio.run(main())
"""


async def served(environ: dict[str, str], *requests: str) -> list[tuple[int, set[str]]]:
    """Return the modules of a process when it listens, and the status and the modules after each request."""
    return (await observed(environ, *requests))[:-1]


async def observed(environ: dict[str, str], *requests: str) -> list[tuple[int, set[str]]]:
    """Return what `served` returns, and at the end the modules that the event loop itself imported meanwhile."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", SERVED, json.dumps(requests)),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(processes.ROOT)} | environ,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await asyncio.wait_for(child.communicate(), 60)
    found: list[tuple[int, list[str]]] = json.loads(printed.splitlines()[-1])
    return [(status, set(modules)) for status, modules in found]


def adapters(modules: set[str]) -> set[str]:
    """Return the providers whose adapters are among the modules."""
    shared = ("base", "answers", "native", "prices", "uploads", "clip_prices", "model_rules")
    names = {name.removeprefix("relay.providers.") for name in modules if name.startswith("relay.providers.")}
    return names - set(shared)


def get(path: str, **headers: str) -> str:
    """Return a request that closes its connection."""
    lines = [f"{name}: {value}" for name, value in {"host": "relay", "connection": "close", **headers}.items()]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""])


def only(environ: dict[str, str], *providers: str) -> dict[str, str]:
    """Return the settings without those of other providers."""
    own = tuple(f"RELAY_{name.upper()}_" for name in providers)
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(own) or not name.endswith(("_BASE_URL", "_API_KEY")) or name == "RELAY_API_KEY"
    }


async def test_a_start_loads_the_configured_adapters_alone(tmp_path: Path) -> None:
    """Load the adapters of the providers that have a setting before the process listens, and no other."""
    environ = only(environment(tmp_path, "http://127.0.0.1:9", "http://127.0.0.1:9"), "kinovi", "kling")
    [(_, modules)] = await served(environ)
    assert adapters(modules) == {"kinovi", "kling"}


async def test_every_adapter_is_loaded_for_the_list_of_providers(tmp_path: Path) -> None:
    """Answer `GET /v1/providers` with every provider, though a start loaded one of them."""
    environ = only(environment(tmp_path, "http://127.0.0.1:9", "http://127.0.0.1:9"), "kinovi")
    found = await served(environ, get("/v1/providers", authorization=f"Bearer {environ['RELAY_API_KEY']}"))
    assert found[1][0] == 200
    assert len(adapters(found[1][1])) == 13


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("GET", "/v1/providers", None),
        ("POST", "/v1/quotes", {"input": INPUT}),
        ("POST", "/v1/quotes", {"input": INPUT, "providers": ["fal"]}),
        ("POST", "/v1/jobs", {"input": INPUT, "provider": "fal"}),
    ],
)
async def test_the_event_loop_imports_no_adapter(
    tmp_path: Path, method: str, path: str, fields: dict[str, Any] | None
) -> None:
    """Load the adapters of providers that are not configured in a thread, before the first request uses them."""
    environ = only(environment(tmp_path, "http://127.0.0.1:9", "http://127.0.0.1:9"), "kinovi")
    body = "" if fields is None else json.dumps(fields)
    headers = {"authorization": f"Bearer {environ['RELAY_API_KEY']}", "content-length": str(len(body))}
    asked = get(path, **headers).replace("GET", method, 1) + body
    *_, answered, (_, by_the_loop) = await observed(environ, get("/readyz"), asked)
    assert answered[0] in (200, 422)
    assert "fal" in adapters(answered[1])
    assert adapters(by_the_loop) == set()


async def test_a_callback_waits_for_no_module(tmp_path: Path) -> None:
    """Store a process's first callback without loading a module of relay's, while the API is not loaded yet."""
    fields: dict[str, Any] = {"provider": "evolink", "input": INPUT}
    async with relay(tmp_path, confirm=False, clock=SystemClock()) as running:
        assert (await running.client.post("/v1/jobs", json=fields)).status_code == 202
        path = running.callback_url().removeprefix(running.origin)
    environ = only(environment(tmp_path, running.origin, "http://127.0.0.1:9"), "evolink")
    head = f"POST {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\ncontent-length: {len(DONE)}\r\n\r\n"
    listening, answered = await served(environ | {"RELAY_EVOLINK_CONFIRM": "never"}, head + DONE.decode())
    assert answered[0] == 200
    assert answered[1] - listening[1] == set()
    assert "relay.web.routes" not in answered[1]


async def test_liveness_loads_nothing_and_readiness_loads_the_api(tmp_path: Path) -> None:
    """Answer `/healthz` without the API; once `/readyz` has answered, an API request loads no module of relay's."""
    environ = only(environment(tmp_path, "http://127.0.0.1:9", "http://127.0.0.1:9"), "evolink")
    listed = get("/v1/jobs", authorization=f"Bearer {environ['RELAY_API_KEY']}")
    listening, alive, ready, jobs = await served(environ, get("/healthz"), get("/readyz"), listed)
    assert alive == (200, listening[1])
    assert [name for name in listening[1] if name.startswith("starlette.")] == ["starlette.types"]
    assert (ready[0], "relay.web.routes" in ready[1], "relay.web.dashboard" in ready[1]) == (200, True, False)
    assert jobs == (200, ready[1])
