"""relay as a process of its own, with the sandbox behind every provider: what each benchmark starts."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec

from relay.providers import PROVIDERS
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.sandbox.world import API_KEY, Sandbox

ROOT = Path(__file__).parents[1]
KEY = "bench-key-of-this-machine-alone"


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(folder: str, port: int, providers_at: str) -> dict[str, str]:
    """Return the settings of a relay on this machine alone, in front of the machine's own environment."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
    environ |= {
        "PORT": str(port),
        "DATABASE_URL": f"sqlite:///{folder}/relay.db",
        "RELAY_HOST": "127.0.0.1",
        "RELAY_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "RELAY_SECRET_KEYS": "a-key-that-is-for-the-benchmarks-alone",
        "RELAY_API_KEY": KEY,
        "RELAY_ALLOW_HTTP": "1",
        "RELAY_ALLOW_NETWORKS": "127.0.0.0/8",
    }
    for name in PROVIDERS:
        environ |= {f"RELAY_{name.upper()}_API_KEY": API_KEY, f"RELAY_{name.upper()}_BASE_URL": providers_at}
    return environ


@asynccontextmanager
async def relay_with_sandbox(pace_s: float, **more: str) -> AsyncIterator[tuple[httpx.AsyncClient, Sandbox]]:
    """Yield a client of a fresh relay, and the sandbox whose jobs take `pace_s`; `more` are settings."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-"))
        world = sandbox(pace_s=pace_s)
        stack.push_async_callback(world.close)
        providers_at = await stack.enter_async_context(serve(world.app))
        port = free_port()
        await stack.enter_async_context(_process(environment(folder, port, providers_at) | more))
        headers = {"authorization": f"Bearer {KEY}"}
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=60)
        await stack.enter_async_context(client)
        await ready(client)
        yield client, world


@asynccontextmanager
async def _process(environ: dict[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """`relay serve`, ended when the block ends."""
    child = await started(environ)
    try:
        yield child
    finally:
        child.terminate()
        await child.wait()


async def started(environ: dict[str, str], *words: str, core: int | None = None) -> asyncio.subprocess.Process:
    """Start a Python module (`relay serve` if none is named), on one core if asked; the caller ends it."""
    quiet = asyncio.subprocess.DEVNULL
    pin = None if core is None else partial(os.sched_setaffinity, 0, {core})
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *(words or ("relay", "serve")),
        cwd=ROOT,
        env=environ,
        stdout=quiet,
        stderr=quiet,
        preexec_fn=pin,
    )


class Usage(msgspec.Struct, frozen=True):
    """What a process has used: seconds of CPU, and resident megabytes."""

    cpu_s: float
    rss_mb: float


def usage(pid: int) -> Usage:
    """Read from /proc, threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    return Usage(cpu_s=(int(fields[11]) + int(fields[12])) / ticks, rss_mb=pages * page / 1e6)


async def ready(client: httpx.AsyncClient) -> None:
    """Return when relay takes requests."""
    async with asyncio.timeout(20):
        while True:
            try:
                if (await client.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)
