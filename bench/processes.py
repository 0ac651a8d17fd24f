"""relay as a process of its own, and what it is measured against: started, and asked what it has used."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import msgspec

from bench.databases import Databases, cpu_s
from bench.load import KEY
from relay.sandbox.contract import API_KEY
from relay.sandbox.providers import base_urls, sandbox
from relay.sandbox.serving import serve
from relay.sandbox.world import Sandbox
from tests.support.ports import free_port

ROOT = Path(__file__).parents[1]
RELAY_CORE, LOAD_CORE = 0, 1
"""relay has one core; load, receiver and a PostgreSQL server share the other."""
QUIET_S, QUIET_CPU_S, QUIET_MAX_S = 0.3, 0.012, 60.0
"""A program is quiet when it uses less CPU than this in so many seconds; what never is, is no result."""
WEB, WORK = ("relay", "serve", "--no-dispatch"), ("relay", "work")


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
    for name, base_url in base_urls(providers_at).items():
        environ |= {f"RELAY_{name.upper()}_API_KEY": API_KEY, f"RELAY_{name.upper()}_BASE_URL": base_url}
    return environ


@asynccontextmanager
async def relay_with_sandbox(
    pace_s: float, *words: str, **more: str
) -> AsyncIterator[tuple[httpx.AsyncClient, Sandbox]]:
    """Yield a client of a fresh relay, and the sandbox whose jobs take `pace_s`; `more` are settings.

    `words` are the module that is started in place of `relay serve`.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-"))
        world = sandbox(pace_s=pace_s)
        stack.push_async_callback(world.close)
        providers_at = await stack.enter_async_context(serve(world.app))
        port = free_port()
        await stack.enter_async_context(_process(environment(folder, port, providers_at) | more, *words))
        headers = {"authorization": f"Bearer {KEY}"}
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=60)
        await stack.enter_async_context(client)
        await ready(client)
        yield client, world


class Program:
    """A server on RELAY_CORE, and the databases that work for it."""

    def __init__(self, port: int, child: asyncio.subprocess.Process, made: Databases) -> None:
        self.port = port
        self.child = child
        self._made = made

    def cpu_s(self) -> float:
        """Return the seconds of CPU that the program has used, and the database server for it."""
        return usage(self.child.pid).cpu_s + self._made.cpu_s()

    def written_kb(self) -> float:
        """Return what the program has given to the disk, by its `write_bytes` in /proc (proc_pid_io(5)), in kB."""
        fields = Path(f"/proc/{self.child.pid}/io").read_text().split()
        return int(fields[fields.index("write_bytes:") + 1]) / 1000

    async def quiet(self) -> float:
        """Return the seconds of CPU used so far, once nothing that was deferred is left to do."""
        until_s, before = time.monotonic() + QUIET_MAX_S, self.cpu_s()
        while time.monotonic() < until_s:
            await asyncio.sleep(QUIET_S)
            now = self.cpu_s()
            if now - before < QUIET_CPU_S:
                return now
            before = now
        raise TimeoutError(f"still at work after {QUIET_MAX_S} s")

    def client(self) -> httpx.AsyncClient:
        """Return a client of it, with the API key."""
        headers = {"authorization": f"Bearer {KEY}"}
        return httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", headers=headers, trust_env=False, timeout=60)


@asynccontextmanager
async def program(
    made: Databases,
    database_url: str,
    *words: str,
    settings: Mapping[str, str] | None = None,
    core: int | None = RELAY_CORE,
) -> AsyncIterator[Program]:
    """Yield a program that takes requests, `relay serve` if no module is named, on this database.

    `{port}` in `words` is replaced with the port. Unless `settings` say otherwise, callbacks are believed immediately.
    """
    port = free_port()
    environ = environment(str(made.folder), port, "http://127.0.0.1:9")
    environ |= {"DATABASE_URL": database_url, "RELAY_EVOLINK_CONFIRM": "never", "RELAY_LOG_FORMAT": "json"}
    environ |= settings or {}
    async with _process(environ, *(word.format(port=port) for word in words), core=core) as child:
        running = Program(port, child, made)
        if words != WORK:
            async with running.client() as client:
                await ready(client)
        yield running


@asynccontextmanager
async def _process(
    environ: dict[str, str], *words: str, core: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Yield a started module, ended when the block ends unless it was killed within it."""
    child = await started(environ, *words, core=core)
    try:
        yield child
    finally:
        if child.returncode is None:
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
    """Read the process's clock, and /proc."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    page = os.sysconf("SC_PAGE_SIZE")
    return Usage(cpu_s=cpu_s(pid), rss_mb=pages * page / 1e6)


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
