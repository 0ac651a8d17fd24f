"""Whether another tenant's load slows a quiet one: its submissions, callbacks, notifications and reads.

relay has one core; the loads (`hostile.py`), the quiet tenant and the stand-ins share the other. A load that costs CPU
takes it from everyone, so each is one that a single cheap client can make.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any, Final
from urllib.parse import urlsplit

import click
import httpx

from bench.hostile import LOADS
from bench.processes import KEY, ROOT, environment, free_port, ready, started, usage
from bench.receiver import receiving
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.sandbox.world import Sandbox

RELAY_CORE: Final = 0
PAUSE_S: Final = 0.04
DONE: Final = b'{"status":"completed","progress":100,"results":["https://media.example.com/clip.mp4"]}'
BODY: Final = {
    "provider": "evolink",
    "input": {"images": ["https://example.com/a.png"], "prompt": "slow push in [sandbox: lost]", "duration_s": 5},
}
KINDS: Final = ("submission", "callback", "read", "notification")

Times = dict[str, list[float]]


class Quiet:
    """A tenant with an application of its own: one job after another, each with its callback and a look at it."""

    def __init__(self, client: httpx.AsyncClient, world: Sandbox) -> None:
        self._client = client
        self._world = world

    async def works(self, seconds: float) -> Times:
        """Return how many milliseconds each of its requests took; AssertionError where one is refused."""
        times: Times = defaultdict(list)
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            made = await self._timed(times, "submission", "POST", "/v1/jobs", json=BODY)
            job = made.json()
            url = self._world.jobs[job["provider_job_id"]].callback_url
            await self._timed(times, "callback", "POST", str(url), content=DONE)
            await self._timed(times, "read", "GET", f"/v1/jobs/{job['id']}")
            await asyncio.sleep(PAUSE_S)
        return times

    async def _timed(self, times: Times, kind: str, method: str, path: str, **more: Any) -> httpx.Response:
        """One request."""
        began = time.perf_counter()
        answer = await self._client.request(method, path, **more)
        times[kind].append((time.perf_counter() - began) * 1000)
        assert answer.status_code < 300, answer.text
        return answer


async def measured(loads: tuple[str, ...], seconds: float, rounds: int) -> list[dict[str, Any]]:
    """For each load the p50 and p99 of the quiet tenant beside it, over those without it, and relay's memory."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-"))
        receiver, hook = await stack.enter_async_context(receiving())
        world = sandbox(pace_s=3600)
        stack.push_async_callback(world.close)
        providers_at = await stack.enter_async_context(serve(world.app))
        port = free_port()
        environ = environment(folder, port, providers_at) | {"RELAY_EVOLINK_CONFIRM": "never"}
        relay = await started(environ, core=RELAY_CORE)
        stack.push_async_callback(_ended, relay)
        origin = f"http://127.0.0.1:{port}"
        other = await stack.enter_async_context(_client(origin, KEY))
        await ready(other)
        quiet_key = await _key_of_another_project(environ)
        client = await stack.enter_async_context(_client(origin, quiet_key))
        (await client.post("/v1/endpoints", json={"url": f"{hook}/quiet"})).raise_for_status()
        quiet, found = Quiet(client, world), []
        await quiet.works(1)
        for name in loads:
            job = (await other.post("/v1/jobs", json=BODY)).json()
            callback = urlsplit(str(world.jobs[job["provider_job_id"]].callback_url)).path
            given = {"origin": origin, "key": KEY, "job": job["id"], "callback": callback, "seconds": seconds + 1}
            without: Times = defaultdict(list)
            beside: Times = defaultdict(list)
            for _ in range(rounds):
                for times, load in ((without, None), (beside, name)):
                    hostile = await _hostile(load, given) if load else None
                    await asyncio.sleep(0.5)
                    receiver.latencies_ms.clear()
                    for kind, some in (await quiet.works(seconds)).items():
                        times[kind] += some
                    times["notification"] += [one for some in receiver.latencies_ms.values() for one in some]
                    if hostile:
                        await hostile.wait()
            found.append(_row(name, without, beside, usage(relay.pid).rss_mb))
        return found


def show(found: list[dict[str, Any]]) -> None:
    """Print the table."""
    click.echo(f"{'load':>14}" + "".join(f"{kind + ' p50':>18}{'p99':>6}" for kind in KINDS) + f"{'MB':>6}")
    for row in found:
        ratios = "".join(f"{row[kind]['p50']:18.2f}{row[kind]['p99']:6.2f}" for kind in KINDS)
        click.echo(f"{row['load']:>14}{ratios}{row['rss_mb']:6.0f}")


def _row(name: str, without: Times, beside: Times, rss_mb: float) -> dict[str, Any]:
    """Return the ratios of one load."""
    row: dict[str, Any] = {"load": name, "rss_mb": round(rss_mb)}
    for kind in KINDS:
        quiet, loaded = (statistics.quantiles(times[kind], n=100) for times in (without, beside))
        row[kind] = {
            "p50": round(loaded[49] / quiet[49], 2),
            "p99": round(loaded[98] / quiet[98], 2),
            "p99_ms": round(loaded[98], 1),
        }
    return row


def _client(origin: str, key: str) -> httpx.AsyncClient:
    """Return an API client."""
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=origin, headers=headers, trust_env=False, timeout=30)


async def _key_of_another_project(environ: dict[str, str]) -> str:
    """Return an admin key of the quiet tenant's project."""
    words = ("-m", "relay", "keys", "create", "--project", "quiet", "--scope", "admin")
    child = await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=ROOT, env=environ, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await child.communicate()
    return said.decode().split()[-1]


async def _hostile(name: str, given: dict[str, Any]) -> asyncio.subprocess.Process:
    """Return the load's process."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.hostile", name, cwd=ROOT, stdin=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(given).encode())
    child.stdin.close()
    return child


async def _ended(child: asyncio.subprocess.Process) -> None:
    """End relay."""
    child.terminate()
    await child.wait()


def known(names: str) -> tuple[str, ...]:
    """Return the loads of a comma list, all of them for `all`; click.BadParameter names those that there are."""
    wanted = tuple(LOADS) if names == "all" else tuple(names.split(","))
    if unknown := [name for name in wanted if name not in LOADS]:
        raise click.BadParameter(f"{', '.join(unknown)} is none of {', '.join(LOADS)}")
    return wanted
