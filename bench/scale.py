"""Whether more processes do more: web and worker processes on one PostgreSQL, one of each against two of each.

Nothing is pinned to a core: load, receiver and server take what they need. The table says how many cores there are, and
how many of them were busy: where one of each keeps all of them busy, two of each have nothing to run on.
"""

import asyncio
import json
import math
import os
import statistics
import sys
import time
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path

import click
import msgspec
import uvloop

from bench.capacity import Costs, Machine, Rate, measured, simulate
from bench.databases import TICKS_PER_S, Databases, databases
from bench.deliver import LANES, arrived
from bench.ingest import load
from bench.processes import WEB, WORK, program
from bench.receiver import receiving
from bench.stock import Shape, stocked

ENOUGH = 1.6
SERVERS = (4, 16, 64)
"""Cores of a PostgreSQL server that the simulation has."""
FULL = 0.7
"""How busy a server's cores may be in normal operation: the rest is for peaks, vacuum and backups."""


class Run(msgspec.Struct, frozen=True):
    """Deliveries a second, and how many cores were busy meanwhile, whoever used them."""

    per_s: float
    busy: float


@click.command("scale")
@click.option("--events", default=4000, help="Events of each run.")
@click.option("--endpoints", default=2, help="Endpoints that want every event.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
@click.option("--capacity", is_flag=True, help="What an event costs, and what servers of 4, 16 and 64 cores carry.")
def command(events: int, endpoints: int, rounds: int, capacity: bool) -> None:
    """Deliveries a second with one web and one worker process, and with two of each."""
    if capacity:
        _capacity(events, endpoints, rounds)
        return
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


def _capacity(events: int, endpoints: int, rounds: int) -> None:
    """Print the cost of an event, and what servers of more cores carry."""
    with databases("postgres") as made:
        all_costs = [uvloop.run(measured(made, events, endpoints)) for _ in range(rounds)]
    costs = sorted(all_costs, key=lambda one: one.receive.server_us + one.send.server_us)[rounds // 2]
    click.echo(f"{'stage':>8}{'relay us':>10}{'server us':>11}{'events a commit':>17}{'log bytes':>11}")
    for name, stage in (("receive", costs.receive), ("send", costs.send)):
        batch = 1 / stage.commits
        click.echo(f"{name:>8}{stage.relay_us:10.0f}{stage.server_us:11.0f}{batch:17.1f}{stage.wal_bytes:11.0f}")
    click.echo(
        f"an event of {endpoints} endpoints leaves {costs.stored_bytes:.0f} bytes; flush {costs.flush_ms:.2f} ms"
    )
    rows = [_fullest(costs, cores) for cores in SERVERS]
    click.echo(f"{'cores':>6}{'events/s':>10}{'web':>5}{'work':>6}{'busy':>6}{'log MB/s':>10}{'GB a day':>10}")
    log_bytes = costs.receive.wal_bytes + costs.send.wal_bytes
    for cores, (webs, works, rate) in zip(SERVERS, rows, strict=True):
        log_mb = rate.events_per_s * log_bytes / 1e6
        stored_gb = rate.events_per_s * 86_400 * costs.stored_bytes / 1e9
        click.echo(
            f"{cores:6}{rate.events_per_s:10.0f}{webs:5}{works:6}{rate.busy:6.2f}{log_mb:10.0f}{stored_gb:10.0f}"
        )
    said = {
        "costs": msgspec.to_builtins(costs),
        "servers": [
            {"cores": cores, "webs": webs, "works": works, "events_per_s": rate.events_per_s, "busy": rate.busy}
            for cores, (webs, works, rate) in zip(SERVERS, rows, strict=True)
        ],
    }
    click.echo(json.dumps({"bench": "scale", "capacity": said}))


def _fullest(costs: Costs, cores: int) -> tuple[int, int, Rate]:
    """Return the fewest web and work processes that keep a server FULL, or that bring no more, and their rate."""
    machine, best = Machine(cores), Rate(0, 0, 0)
    works_each = costs.send.relay_us / costs.receive.relay_us
    for works in count(1, max(1, cores // 4)):
        webs = math.ceil(works / works_each)
        rate = simulate(costs, machine, webs, works)
        if rate.busy >= FULL or rate.events_per_s < best.events_per_s * 1.005:
            return webs, works, rate
        best = max(best, rate, key=lambda one: one.events_per_s)
    raise AssertionError


async def _run(made: Databases, each: int, events: int, endpoints: int) -> Run:
    """So many of each kind of process, from the first callback to the last arrival."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        urls = [f"{origin}/{number}" for number in range(endpoints)]
        database = made.fresh()
        stock = await stocked(database, made.folder, events, urls, Shape(in_flight_max=LANES))
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
