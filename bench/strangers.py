"""Whether another tenant's load slows a quiet one: its submissions, callbacks, notifications, reads, streams, uploads.

relay has one core; the loads (`hostile.py`), the quiet tenant and the stand-ins share the other. A load that costs CPU
takes it from everyone, so each is one that a single cheap client can make. Rounds beside a load and without it follow
each other, since a machine's pace changes; what relay used of its core says more than times do on a busy machine.
"""

import asyncio
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import click
import httpx
import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp

from bench.filling import Filling, fill
from bench.hostile import BODY, FILLED, LOADS
from bench.ingest import BARE
from bench.processes import KEY, LOAD_CORE, RELAY_CORE, ROOT, environment, ready, started, usage
from bench.receiver import Receiver, receiving
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.sandbox.world import Sandbox
from tests.support.ports import free_port

PAUSE_S: Final = 0.02
SETTLE_S: Final = 0.5
"""How long a load has worked before its effect is measured; and how long one that ended is left to end."""
NOTIFIED_WITHIN_S: Final = 30
EVENTS_OF_JOB: Final = 2
DONE: Final = b'{"status":"completed","progress":100,"results":["https://media.example.com/clip.mp4"]}'
KINDS: Final = ("submission", "callback", "read", "upload", "notification", "stream")
PICTURE: Final = b"\x89PNG\r\n\x1a\n" + bytes(20_000)
EACH_UPLOAD: Final = 2
"""The quiet tenant uploads a picture with every second job."""

Times = dict[str, list[float]]


class Side(msgspec.Struct):
    """What was measured beside a load, or without it, round by round."""

    rounds: list[Times] = msgspec.field(default_factory=list)
    cpu_s: float = 0.0
    elapsed_s: float = 0.0

    def times(self, kind: str) -> list[float]:
        """Return the milliseconds of all rounds."""
        return [one for some in self.rounds for one in some[kind]]


class Quiet:
    """A tenant with an application of its own: one job after another, each with its callback and a look at it."""

    def __init__(self, client: httpx.AsyncClient, world: Sandbox, receiver: Receiver) -> None:
        self._client = client
        self._world = world
        self._receiver = receiver
        self._streamed = Receiver()

    async def follows(self) -> None:
        """Note when each event comes by the tenant's event stream, until cancelled."""
        async with self._client.stream("GET", "/v1/events/stream", timeout=None) as stream:
            assert stream.status_code == 200
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    self._streamed.note("stream", line.encode())

    async def works(self, seconds: float) -> Times:
        """Return how many milliseconds each of its requests and notifications took.

        AssertionError where a request is refused, or a notification does not come.
        """
        times: Times = defaultdict(list)
        both = (self._receiver, self._streamed)
        for one in both:
            one.latencies_ms.clear()
        seen, jobs, ends_at = [one.count for one in both], 0, time.monotonic() + seconds
        while time.monotonic() < ends_at:
            made = await self._timed(times, "submission", "POST", "/v1/jobs", json=BODY)
            job = made.json()
            url = self._world.jobs[job["provider_job_id"]].callback_url
            await self._timed(times, "callback", "POST", str(url), content=DONE)
            await self._timed(times, "read", "GET", f"/v1/jobs/{job['id']}")
            if jobs % EACH_UPLOAD == 0:
                files = {"file": ("picture.png", PICTURE, "image/png")}
                await self._timed(times, "upload", "POST", "/v1/files", data={"provider": "evolink"}, files=files)
            jobs += 1
            await asyncio.sleep(PAUSE_S)
        awaited = [count + EVENTS_OF_JOB * jobs for count in seen]
        gives_up_at = time.monotonic() + NOTIFIED_WITHIN_S
        while [one.count for one in both] != awaited and time.monotonic() < gives_up_at:  # noqa: ASYNC110 - by HTTP
            await asyncio.sleep(0.01)
        assert [one.count for one in both] == awaited, f"{[one.count for one in both]} of {awaited} events have come"
        for kind, one in zip(("notification", "stream"), both, strict=True):
            times[kind] += [late for some in one.latencies_ms.values() for late in some]
        return times

    async def _timed(self, times: Times, kind: str, method: str, path: str, **more: Any) -> httpx.Response:
        """One request."""
        began = time.perf_counter()
        answer = await self._client.request(method, path, **more)
        times[kind].append((time.perf_counter() - began) * 1000)
        assert answer.status_code < 300, answer.text
        return answer


class Bench:
    """A relay with a quiet tenant, and the loads beside it."""

    def __init__(self, relay: asyncio.subprocess.Process, environ: dict[str, str], world: Sandbox) -> None:
        self._relay = relay
        self._environ = environ
        self._world = world
        self._origin = f"http://127.0.0.1:{environ['PORT']}"
        self.quiet: Quiet

    async def begin(self, stack: AsyncExitStack) -> None:
        """Make the quiet tenant, with an endpoint."""
        receiver, hook = await stack.enter_async_context(receiving())
        client = await stack.enter_async_context(_client(self._origin, KEY))
        await ready(client)
        key = await self._key_of_project("quiet")
        client = await stack.enter_async_context(_client(self._origin, key))
        (await client.post("/v1/endpoints", json={"url": f"{hook}/quiet"})).raise_for_status()
        self.quiet = Quiet(client, self._world, receiver)
        following = asyncio.create_task(self.quiet.follows())
        stack.push_async_callback(_cancelled, following)
        await asyncio.sleep(SETTLE_S)
        await self.quiet.works(2)

    async def load(self, name: str, seconds: float, rounds: int) -> dict[str, Any]:
        """Return what the quiet tenant feels of one load: rounds beside it and without it, in turn."""
        key = KEY if name in FILLED else await self._key_of_project(name)
        async with _client(self._origin, key) as client:
            job = (await client.post("/v1/jobs", json=BODY)).raise_for_status().json()
        callback = urlsplit(str(self._world.jobs[job["provider_job_id"]].callback_url)).path
        given = {"origin": self._origin, "key": key, "job": job["id"], "callback": callback}
        without, beside = Side(), Side()
        for number in range(rounds):
            for hostile in (False, True) if number % 2 == 0 else (True, False):
                if not hostile:
                    await self._measure(without, seconds)
                    continue
                async with _hostile(name, given):
                    await self._measure(beside, seconds)
        return _row(name, without, beside, usage(self._relay.pid).rss_mb)

    async def _measure(self, side: Side, seconds: float) -> None:
        """Let the quiet tenant work, and note what relay used of its core meanwhile."""
        await asyncio.sleep(SETTLE_S)
        used, began = usage(self._relay.pid).cpu_s, time.monotonic()
        side.rounds.append(await self.quiet.works(seconds))
        side.cpu_s += usage(self._relay.pid).cpu_s - used
        side.elapsed_s += time.monotonic() - began

    async def _key_of_project(self, project: str) -> str:
        """Return an admin key of another project than the default one."""
        words = ("-m", "relay", "keys", "create", "--project", project, "--scope", "admin")
        child = await asyncio.create_subprocess_exec(
            sys.executable, *words, cwd=ROOT, env=self._environ, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await child.communicate()
        return said.decode().split()[-1]


@click.command("strangers")
@click.option("--loads", default="all", help="A comma list of hostile loads, or all.")
@click.option("--seconds", default=2.0, help="How long each round lasts.")
@click.option("--rounds", default=10, help="Rounds beside each load and without it, in turn.")
@click.option("--history", default=50_000, help="Jobs of the project whose loads read much: each with two deliveries.")
def command(loads: str, seconds: float, rounds: int, history: int) -> None:
    """Measure what a quiet tenant feels of another tenant's hostile loads."""
    found = asyncio.run(measured(known(loads), seconds, rounds, history))
    show(found)
    click.echo(json.dumps({"bench": "strangers", "loads": found}))


async def measured(loads: tuple[str, ...], seconds: float, rounds: int, history: int) -> list[dict[str, Any]]:
    """Return for each load the quiet tenant's times beside it over those without it, relay's CPU and its memory."""
    os.sched_setaffinity(0, {LOAD_CORE})
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-"))
        world = sandbox(pace_s=3600)
        stack.push_async_callback(world.close)
        providers_at = await stack.enter_async_context(serve(world.app))
        bombs_at = await stack.enter_async_context(serve(bomb()))
        environ = environment(folder, free_port(), providers_at)
        environ |= {"RELAY_EVOLINK_CONFIRM": "never", "RELAY_KINOVI_BASE_URL": bombs_at}
        files_at = free_port()  # a process of its own: what reads large files may not delay the quiet tenant here
        words = (sys.executable, "-m", *BARE[:2], str(files_at))
        sink = await asyncio.create_subprocess_exec(*words, cwd=ROOT, preexec_fn=_after_others)
        stack.push_async_callback(_ended, sink)
        environ |= {"RELAY_RELAYDANCE_BASE_URL": f"http://127.0.0.1:{files_at}"}
        if FILLED.intersection(loads):
            await fill(environ["DATABASE_URL"], Filling(finished=2 * history, per_event=2, days=3))
        relay = await started(environ, core=RELAY_CORE)
        stack.push_async_callback(_ended, relay)
        bench, found = Bench(relay, environ, world), []
        await bench.begin(stack)
        for number, name in enumerate(loads):
            if sys.stderr.isatty():
                click.echo(f"\r{number + 1} of {len(loads)}: {name}    ", nl=False, err=True)
            found.append(await bench.load(name, seconds, rounds))
        return found


def bomb() -> ASGIApp:
    """Return a provider that answers everything with a few hundred bytes, which are 256 MiB once they are inflated."""
    body = gzip.compress(gzip.compress(bytes(256 << 20)))
    headers = {"content-encoding": "gzip, gzip", "content-type": "application/json"}
    return Response(body, headers=headers)


def show(found: list[dict[str, Any]]) -> None:
    """Print the table."""
    kinds = "".join(f"{kind + ' p50':>18}{'p99':>6}{'half of p99':>13}" for kind in KINDS)
    click.echo(f"{'load':>14}{'times':>7}{kinds}{'CPU':>12}{'MB':>6}")
    for row in found:
        ratios = "".join(
            f"{one['p50']:18.2f}{one['p99']:6.2f}{one['p99_from']:7.2f}-{one['p99_to']:5.2f}"
            for one in (row[kind] for kind in KINDS)
        )
        cpu = f"{row['cpu_without']:6.0%}{row['cpu_beside']:6.0%}"
        click.echo(f"{row['load']:>14}{row['times']:7}{ratios}{cpu}{row['rss_mb']:6}")


def _row(name: str, without: Side, beside: Side, rss_mb: float) -> dict[str, Any]:
    """Return the ratios of one load; of each kind of request there were `times` or more on both sides.

    p50 and p99 are the medians of the rounds' ratios, each of two rounds that follow each other; half of the rounds'
    p99 ratios are from `p99_from` to `p99_to`. `p99_all` is of all rounds together.
    """
    fewest = min(len(side.times(kind)) for side in (without, beside) for kind in KINDS)
    row: dict[str, Any] = {"load": name, "times": fewest, "rss_mb": round(rss_mb)}
    row |= {"cpu_without": _cpu(without), "cpu_beside": _cpu(beside)}
    for kind in KINDS:
        pairs = list(zip(without.rounds, beside.rounds, strict=True))
        middle = [_cut(loaded[kind], 50) / _cut(quiet[kind], 50) for quiet, loaded in pairs]
        late = [_cut(loaded[kind], 99) / _cut(quiet[kind], 99) for quiet, loaded in pairs]
        quiet_ms, loaded_ms = (_cut(side.times(kind), 99) for side in (without, beside))
        row[kind] = {
            "p50": round(statistics.median(middle), 2),
            "p50_ms": round(statistics.median(beside.times(kind)), 1),
            "p99": round(statistics.median(late), 2),
            "p99_from": round(_cut(late, 25), 2),
            "p99_to": round(_cut(late, 75), 2),
            "p99_all": round(loaded_ms / quiet_ms, 2),
            "p99_ms": round(loaded_ms, 1),
        }
    return row


def _cut(values: list[float], percent: int) -> float:
    """Return a percentile, which is none beyond the largest value; the value itself where there is but one."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def _cpu(side: Side) -> float:
    """How much of a core relay used."""
    return round(side.cpu_s / side.elapsed_s, 2)


def _client(origin: str, key: str) -> httpx.AsyncClient:
    """Return an API client."""
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=origin, headers=headers, trust_env=False, timeout=30)


@asynccontextmanager
async def _hostile(name: str, given: dict[str, Any]) -> AsyncIterator[None]:
    """Yield the load's process, from when its load has begun until the block ends."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.hostile", name),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=_after_others,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(given).encode() + b"\n")
        assert await child.stdout.readline() == b"begun\n", f"the load {name} has not begun"
        yield
    finally:
        child.stdin.close()
        await child.wait()


def _after_others() -> None:
    """Let this process have what the quiet tenant leaves of their core: it may slow relay, but not the benchmark."""
    os.nice(10)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel a task; an error that ended it before is raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


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
