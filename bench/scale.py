"""Whether more processes do more: web and worker processes on one PostgreSQL, one of each against two of each.

Nothing is pinned to a core: load, receiver and server take what they need. The table says how many cores there are, and
how many of them were busy: where one of each keeps all of them busy, two of each have nothing to run on.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import click
import msgspec
import uvloop

from bench.databases import TICKS_PER_S, Databases, databases
from bench.deliver import LANES, arrived
from bench.ingest import load
from bench.processes import WEB, WORK, program
from bench.receiver import receiving
from bench.stock import stocked

ENOUGH = 1.6


class Run(msgspec.Struct, frozen=True):
    """Deliveries a second, and how many cores were busy meanwhile, whoever used them."""

    per_s: float
    busy: float


@click.command("scale")
@click.option("--events", default=4000, help="Events of each run.")
@click.option("--endpoints", default=2, help="Endpoints that want every event.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
def command(events: int, endpoints: int, rounds: int) -> None:
    """Deliveries a second with one web and one worker process, and with two of each."""
    found: dict[int, list[Run]] = {1: [], 2: []}
    with databases("postgres") as made:
        for number in range(rounds):
            for each, runs in found.items():
                if sys.stderr.isatty():
                    click.echo(f"\rround {number + 1} of {rounds}: {each} of each ", nl=False, err=True)
                runs.append(uvloop.run(_run(made, each, events, endpoints)))
    middle = {
        each: Run(*(statistics.median(getattr(run, name) for run in runs) for name in Run.__struct_fields__))
        for each, runs in found.items()
    }
    ratio = middle[2].per_s / middle[1].per_s
    click.echo(f"{'of each':>8}{'deliveries/s':>14}{'of one':>8}{'cores busy':>12}{'of':>4}")
    for each, run in middle.items():
        share = run.per_s / middle[1].per_s
        click.echo(f"{each:8}{run.per_s:14.0f}{share:8.2f}{run.busy:12.2f}{os.cpu_count():4}")
    click.echo(
        f"two of each / one of each: {ratio:.2f} (at least {ENOUGH} is asked for where there are cores for them)"
    )
    runs_said = {each: msgspec.to_builtins(run) for each, run in middle.items()}
    click.echo(json.dumps({"bench": "scale", "cores": os.cpu_count(), "ratio": round(ratio, 3), "runs": runs_said}))


async def _run(made: Databases, each: int, events: int, endpoints: int) -> Run:
    """So many of each kind of process, from the first callback to the last arrival."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        urls = [f"{origin}/{number}" for number in range(endpoints)]
        database = made.fresh()
        stock = await stocked(database, made.folder, events, urls, in_flight_max=LANES)
        pairs = [(WEB, WORK)] * each
        running = [
            await stack.enter_async_context(program(made, database, *words, core=None))
            for pair in pairs
            for words in pair
        ]
        ports = [web.port for web in running[::2]]
        began_s, busy_s = time.time(), _busy_s()
        await asyncio.gather(
            *(load(port, 64, 0, path) for port, path in zip(ports, _shares(stock.callbacks, each), strict=True))
        )
        await arrived(receiver, events * endpoints)
        busy = (_busy_s() - busy_s) / (time.time() - began_s)
        return Run(events * endpoints / (receiver.last_s - began_s), busy)


def _busy_s() -> float:
    """How long all cores together have not been idle since the machine started (proc_stat(5))."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    idle = ticks[3] + ticks[4]
    return (sum(ticks[:8]) - idle) / TICKS_PER_S


def _shares(path: Path, number: int) -> list[Path]:
    """Return the callbacks in so many files."""
    lines = path.read_bytes().splitlines(keepends=True)
    paths = [path.with_name(f"share{index}.txt") for index in range(number)]
    for index, share in enumerate(paths):
        share.write_bytes(b"".join(lines[index::number]))
    return paths
