"""How many callbacks relay takes in a second, each on the disk before it is answered, against a bare Starlette.

relay has one core, the load (and a PostgreSQL server) the other. A callback ends its job: callback, job, event and one
delivery are written (the delivery waits for an hour, so that nothing is sent meanwhile). CPU is that of relay and of
the database server, until nothing that was deferred is left to do.
"""

import asyncio
import json
import os
import sys
from functools import partial
from pathlib import Path

import click
import msgspec

from bench import rounds as turns
from bench.databases import Databases, databases, option
from bench.load import Loaded
from bench.processes import LOAD_CORE, ROOT, program, usage
from bench.stock import Shape, Stock, stocked

WARM = 1000
BARE = ("bench.references", "bare", "{port}")


class Ingest(msgspec.Struct, frozen=True):
    """One load on one server; `written_kb` are what was written for one callback, by /proc/PID/io."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    written_kb: float
    rss_mb: float


@click.command("ingest")
@click.option("--connections", default=[256, 64, 8, 1], multiple=True, help="Keep-alive connections of the load.")
@click.option("--callbacks", default=20_000, help="Callbacks of each run; of one with one connection a tenth.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
@option
def command(connections: tuple[int, ...], callbacks: int, rounds: int, kind: str) -> None:
    """Callbacks a second, committed before they are answered; each as a ratio to a bare Starlette in the same round."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with databases(kind) as made:
        found = asyncio.run(measured(made, connections, callbacks, rounds))
    click.echo(
        f"{'server':>8}{'connections':>13}{'per s':>9}{'of bare':>9}{'CPU us':>9}{'bare/CPU':>10}{'p50 ms':>9}"
        f"{'p99 ms':>9}{'kB':>7}{'MB':>6}"
    )
    rows = []
    for (server, count), runs in found.items():
        bare = found["bare", count]
        row = {
            "server": server,
            "connections": count,
            "ratio": round(turns.ratio(runs, bare, "per_s"), 3),
            "cpu_ratio": round(turns.ratio(bare, runs, "cpu_us"), 3),
            **turns.medians(runs),
        }
        rows.append(row)
        click.echo(
            f"{server:>8}{count:13}{row['per_s']:9.0f}{row['ratio']:9.2f}{row['cpu_us']:9.0f}{row['cpu_ratio']:10.2f}"
            f"{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}{row['written_kb']:7.1f}{row['rss_mb']:6.0f}"
        )
    click.echo(json.dumps({"bench": "ingest", "database": kind, "runs": rows}))


async def measured(
    made: Databases, connections: tuple[int, ...], callbacks: int, rounds: int
) -> dict[tuple[str, int], list[Ingest]]:
    """Every server under every load, in turn."""
    template = made.fresh()
    warm = min(WARM, callbacks)
    stock = await stocked(template, made.folder, callbacks + warm, ["http://127.0.0.1:9/"], Shape(first_delay_s=3600))
    servers = [(server, count) for count in connections for server in ("bare", "relay")]
    return await turns.interleaved(
        rounds, servers, partial(_run, made=made, template=template, stock=stock, first=warm)
    )


async def _run(measured: tuple[str, int], made: Databases, template: str, stock: Stock, first: int) -> Ingest:
    """One server, warmed up with the first callbacks, and its load."""
    server, connections = measured
    async with program(made, made.fresh(template), *(BARE if server == "bare" else ())) as running:
        warm, rest = split(stock.callbacks, first, tenth=connections == 1)
        await load(running.port, connections, 0, warm)
        before, written_kb = await running.quiet(), running.written_kb()
        loaded = await load(running.port, connections, 0, rest)
        cpu_s, answered = await running.quiet() - before, sum(loaded.statuses.values())
        if loaded.statuses.get("200") != answered:
            raise click.ClickException(f"{server} answered {loaded.statuses}")
        return Ingest(
            per_s=loaded.per_s,
            p50_ms=loaded.p50_ms,
            p99_ms=loaded.p99_ms,
            cpu_us=cpu_s / answered * 1e6,
            written_kb=(running.written_kb() - written_kb) / answered,
            rss_mb=usage(running.child.pid).rss_mb,
        )


def split(path: Path, first: int, *, tenth: bool = False) -> tuple[Path, Path]:
    """Return a file with the first callbacks, and one with the rest or a tenth of it."""
    with path.open("rb") as file:
        lines = file.readlines()
    last = first + max(1, (len(lines) - first) // 10) if tenth else len(lines)
    parts = path.with_name("first.txt"), path.with_name("rest.txt")
    for part, chosen in zip(parts, (lines[:first], lines[first:last]), strict=True):
        part.write_bytes(b"".join(chosen))
    return parts


async def load(port: int, connections: int, rate: float, path: Path) -> Loaded:
    """Return the load of a file, from a process of its own on the other core."""
    words = (sys.executable, "-m", "bench.load", str(port), str(connections), str(rate), str(path))
    child = await asyncio.create_subprocess_exec(
        "taskset", "-c", str(LOAD_CORE), *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await child.communicate()
    return msgspec.json.decode(printed, type=Loaded)
