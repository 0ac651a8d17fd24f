"""Whether relay stays as it is through millions of events: memory, descriptors and times, at a steady rate.

The events come in portions. After each, relay's figures are read; a line is laid through those of all portions but the
first, in which relay warms up. What grows along it, by more than the portions scatter around it, is a leak.
"""

import itertools
import json
import math
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import click
import msgspec
import uvloop

from bench.databases import Databases, databases, option
from bench.deliver import arrived
from bench.ingest import load
from bench.processes import LOAD_CORE, Program, program, usage
from bench.receiver import Receiver, receiving
from bench.stock import stocked

CONNECTIONS: Final = 16
SIGMAS: Final = 3.0
"""A growth along the line is one if it is over so many of its own standard errors …"""
ALLOWED: Final = {
    "rss_mb": 0.05,
    "descriptors": 0.05,
    "cpu_us": 0.1,
    "p50_ms": 0.1,
    "p99_ms": 0.2,
    "arrival_p99_ms": 0.2,
}
"""… and over this share of the mean."""


class Portion(msgspec.Struct, frozen=True, kw_only=True):
    """relay after a portion of the events: times of the callbacks' answers, and from sending to arrival."""

    events: int
    rss_mb: float
    descriptors: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    arrival_p50_ms: float
    arrival_p99_ms: float


class Drift(msgspec.Struct, frozen=True):
    """What a figure has grown by from the first portion to the last, its standard error, and the mean."""

    growth: float
    error: float
    mean: float

    def within(self, allowed: float) -> bool:
        """Return whether the growth is no more than the portions' scatter, or than this share of the mean."""
        return self.growth <= max(SIGMAS * self.error, allowed * self.mean)


def drift(values: Sequence[float]) -> Drift:
    """Return how three or more values, equally far apart, grow along the straight line of least squares."""
    count, mean = len(values), statistics.fmean(values)
    places = [number - (count - 1) / 2 for number in range(count)]
    square = math.fsum(place * place for place in places)
    slope = math.fsum(place * value for place, value in zip(places, values, strict=True)) / square
    rest = math.fsum((value - mean - slope * place) ** 2 for place, value in zip(places, values, strict=True))
    return Drift(slope * (count - 1), math.sqrt(rest / (count - 2) / square) * (count - 1), mean)


@click.command("soak")
@click.option("--events", default=2_000_000, help="Events in all, the first portion's too.")
@click.option("--portions", default=40, type=click.IntRange(4), help="How many times relay is looked at.")
@click.option("--rate", default=500.0, help="Callbacks a second.")
@option
def command(events: int, portions: int, rate: float, kind: str) -> None:
    """Memory, descriptors, CPU and times through millions of events; exit 1 if one grows or an event is missing."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with databases(kind) as made:
        found = uvloop.run(run(made, max(1, events // portions), portions, rate))
    rows = [msgspec.to_builtins(portion) for portion in found]
    click.echo("".join(f"{name:>15}" for name in rows[0]))
    for row in rows:
        click.echo("".join(f"{value:15.2f}" if isinstance(value, float) else f"{value:15}" for value in row.values()))
    grown = []
    for name, allowed in ALLOWED.items():
        line = drift([row[name] for row in rows[1:]])
        flat = line.within(allowed)
        grown += [] if flat else [name]
        click.echo(
            f"{name}: {line.growth:+.3g} of {line.mean:.4g} over the run, standard error {line.error:.2g}: "
            + ("flat" if flat else "GROWS")
        )
    click.echo(json.dumps({"bench": "soak", "database": kind, "rate": rate, "grown": grown, "runs": rows}))
    sys.exit(1 if grown else 0)


async def run(made: Databases, each: int, portions: int, rate: float) -> list[Portion]:
    """One relay through all portions."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        database, found = made.fresh(), []
        stock = await stocked(database, made.folder, each * portions, [f"{origin}/hook"])
        running = await stack.enter_async_context(program(made, database))
        with stock.callbacks.open("rb") as lines:
            for number in range(portions):
                part = made.folder / "portion.txt"
                part.write_bytes(b"".join(itertools.islice(lines, each)))
                found.append(await _portion(running, receiver, part, rate))
                if found[-1].events != each:
                    raise click.ClickException(f"{found[-1].events} of {each} events arrived in portion {number}")
                click.echo(f"{number + 1} of {portions}: {msgspec.json.encode(found[-1]).decode()}", err=True)
        return found


async def _portion(running: Program, receiver: Receiver, part: Path, rate: float) -> Portion:
    """Send the callbacks of a file, and wait until their events have arrived."""
    with part.open("rb") as file:
        wanted = sum(1 for _ in file)
    before, began_cpu_s = receiver.count, running.cpu_s()
    receiver.ids.clear()
    receiver.latencies_ms.clear()
    receiver.per_second.clear()
    loaded = await load(running.port, CONNECTIONS, rate, part)
    if loaded.statuses != {"200": wanted}:
        raise click.ClickException(f"relay answered {loaded.statuses}")
    await arrived(receiver, before + wanted)
    late = [one for times in receiver.latencies_ms.values() for one in times]
    cuts = statistics.quantiles(late, n=100)
    used_s = running.cpu_s() - began_cpu_s
    return Portion(
        events=len(receiver.ids),
        rss_mb=usage(running.child.pid).rss_mb,
        descriptors=float(len(list(Path(f"/proc/{running.child.pid}/fd").iterdir()))),  # noqa: ASYNC240 - not a disk's
        cpu_us=used_s / wanted * 1e6,
        p50_ms=loaded.p50_ms,
        p99_ms=loaded.p99_ms,
        arrival_p50_ms=cuts[49],
        arrival_p99_ms=cuts[98],
    )
