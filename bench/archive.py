"""Whether copies of results slow notifications of other jobs, and how much memory they take.

In both runs as many jobs end at the same moment, and others are submitted at a steady pace; in one of them the results
of those that end are copied into a folder. relay has one core; load, receiver, provider and results share the other.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import click
import httpx
import msgspec
import uvloop

from bench import rounds as turns
from bench.databases import Databases, databases, option
from bench.ingest import load as posted
from bench.jobs import PROVIDER_AT, write_requests
from bench.processes import LOAD_CORE, ROOT, program
from bench.receiver import receiving
from bench.stock import Shape, stocked
from relay.model.archive import ArchiveMode

ALLOWED_RATIO = 1.1
BURST_CONNECTIONS, STEADY_CONNECTIONS = 64, 4
COPIED_WITHIN_S = 600.0
WARM = 50


class Measured(msgspec.Struct, frozen=True):
    """What a run came to: how late the other jobs' notifications were, the copies, and relay's memory."""

    copied: int
    seconds: float
    p50_ms: float
    p99_ms: float
    rss_before_mb: float
    rss_peak_mb: float


class Load(msgspec.Struct, frozen=True):
    """How many jobs end at the same moment, the bytes of their results, and the others: a second, for how long."""

    results: int
    size: int
    rate: float
    seconds: float


@click.command("archive")
@click.option("--results", default=500, help="Jobs that end at the same moment.")
@click.option("--megabytes", default=5.0, help="The size of each result.")
@click.option("--rate", default=40.0, help="Other jobs a second.")
@click.option("--seconds", default=60.0, help="How long they are submitted.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
@option
def command(results: int, megabytes: float, rate: float, seconds: float, rounds: int, kind: str) -> None:
    """p99 from event to arrival for other jobs, with copies under way and without, and relay's memory."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with databases(kind) as made:
        run = partial(_run, made, load=Load(results, round(megabytes * 1e6), rate, seconds))
        beside = uvloop.run(turns.interleaved(rounds, (ArchiveMode.OFF, ArchiveMode.AFTER), run))
    rows = [turns.medians(runs) for runs in beside.values()]
    for row in rows:
        click.echo(" ".join(f"{name}={value:.1f}" for name, value in row.items()))
    ratio = turns.ratio(beside[ArchiveMode.AFTER], beside[ArchiveMode.OFF], "p99_ms")
    click.echo(f"p99 with copies / without: {ratio:.2f} (at most {ALLOWED_RATIO} is asked for)")
    click.echo(json.dumps({"bench": "archive", "database": kind, "ratio_p99": round(ratio, 3), "runs": rows}))


async def _run(made: Databases, mode: ArchiveMode, *, load: Load) -> Measured:
    """One relay; its jobs end, and others are submitted."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        results_at = await stack.enter_async_context(_results(load.size))
        copies = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-archive-")))
        settings = {"RELAY_ARCHIVE_URL": copies.as_uri(), "RELAY_ARCHIVE": "off", PROVIDER_AT: origin}
        shape = Shape(event_types=("job.submitted",), archive=mode, results_at=results_at)
        database = made.fresh()
        ends = (await stocked(database, made.folder, load.results, [f"{origin}/other"], shape)).callbacks
        running = await stack.enter_async_context(program(made, database, settings=settings))
        client = await stack.enter_async_context(running.client())
        warm, others = made.folder / "warm.txt", made.folder / "others.txt"
        write_requests(warm, WARM)
        write_requests(others, max(2, round(load.rate * load.seconds)))
        await posted(running.port, STEADY_CONNECTIONS, 0, warm)
        await running.quiet()
        receiver.latencies_ms.clear()
        before, began = _rss_mb(running.child.pid), time.monotonic()
        await asyncio.gather(
            posted(running.port, BURST_CONNECTIONS, 0, ends),
            posted(running.port, STEADY_CONNECTIONS, load.rate, others),
        )
        copied = await _copied(client, 0 if mode is ArchiveMode.OFF else load.results)
        cuts = statistics.quantiles(receiver.latencies_ms["/other"], n=100)
        return Measured(
            copied=copied,
            seconds=time.monotonic() - began,
            p50_ms=cuts[49],
            p99_ms=cuts[98],
            rss_before_mb=before,
            rss_peak_mb=_rss_mb(running.child.pid, "VmHWM"),
        )


@asynccontextmanager
async def _results(size: int) -> AsyncIterator[str]:
    """Yield the origin of a server, a process of its own, whose every resource is a video of so many bytes."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.results", str(size)), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(await child.stdout.readline())}"
    finally:
        child.kill()
        await child.wait()


async def _copied(client: httpx.AsyncClient, wanted: int) -> int:
    """Return how many copies were made, once as many are there as are wanted."""
    async with asyncio.timeout(COPIED_WITHIN_S):
        while True:
            copies = (await client.get("/v1/archive")).raise_for_status().json()["copies"]
            if (made := int(copies["archived"]["number"])) >= wanted:
                return made
            await asyncio.sleep(0.2)


def _rss_mb(pid: int, name: str = "VmRSS") -> float:
    """Return the memory of a process in megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(name))
