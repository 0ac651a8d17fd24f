"""How long a callback takes from its sender to a subscriber, at a steady rate: accepted, stored, signed, delivered.

The sender writes the time into each callback, relay passes it on within the result's URL, and the receiver reads it.
relay (on PostgreSQL web and worker, processes of their own, with `--apart`) has one core, load and receiver the other.
"""

import json
import os
import statistics
from contextlib import AsyncExitStack
from functools import partial

import click
import msgspec
import uvloop

from bench import rounds as turns
from bench.databases import Databases, databases, option
from bench.deliver import arrived
from bench.ingest import load, split
from bench.processes import LOAD_CORE, WEB, WORK, program, usage
from bench.receiver import receiving
from bench.stock import stocked

WARM = 200
APART = (WEB, WORK)


class Steady(msgspec.Struct, frozen=True):
    """Milliseconds from the callback's first byte to its notification's arrival; the CPU of one event."""

    arrived: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    rss_mb: float


@click.command("pipeline")
@click.option("--rate", default=500.0, help="Callbacks a second.")
@click.option("--seconds", default=10.0, help="How long each run lasts.")
@click.option("--endpoints", default=1, help="Endpoints that want every event.")
@click.option("--rounds", default=3, help="The medians count.")
@click.option("--apart", is_flag=True, help="Web and worker are processes of their own; PostgreSQL only.")
@option
def command(rate: float, seconds: float, endpoints: int, rounds: int, apart: bool, kind: str) -> None:
    """p50 and p99 from a callback's sending to its notification's arrival, at a steady rate."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with databases(kind) as made:
        one = partial(run, made, seconds=seconds, endpoints=endpoints, apart=apart)
        found = uvloop.run(turns.interleaved(rounds, [rate], one))[rate]
    row = {name: round(value, 2) for name, value in turns.medians(found).items()}
    click.echo(f"{'processes':>10}{'rate':>7}{'arrived':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>8}{'MB':>6}")
    click.echo(
        f"{len(APART) if apart else 1:10}{rate:7.0f}{row['arrived']:9.0f}{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}"
        f"{row['cpu_us']:8.0f}{row['rss_mb']:6.0f}"
    )
    click.echo(json.dumps({"bench": "pipeline", "database": kind, "rate": rate, "run": row}))


async def run(made: Databases, rate: float, *, seconds: float, endpoints: int = 1, apart: bool = False) -> Steady:
    """One relay, and a steady load on it."""
    events = max(2, round(rate * seconds))
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        database = made.fresh()
        urls = [f"{origin}/{number}" for number in range(endpoints)]
        stock = await stocked(database, made.folder, events + WARM, urls)
        running = [
            await stack.enter_async_context(program(made, database, *words)) for words in (APART if apart else ((),))
        ]
        warm, rest = split(stock.callbacks, WARM)
        await load(running[0].port, 16, rate, warm)
        await arrived(receiver, WARM * endpoints)
        receiver.latencies_ms.clear()
        for one in running:
            await one.quiet()
        before_s = sum(usage(one.child.pid).cpu_s for one in running) + made.cpu_s()
        await load(running[0].port, 16, rate, rest)
        await arrived(receiver, (WARM + events) * endpoints)
        after = [usage(one.child.pid) for one in running]
        late = sorted(late for times in receiver.latencies_ms.values() for late in times)
        cuts = statistics.quantiles(late, n=100)
        return Steady(
            arrived=len(late),
            p50_ms=cuts[49],
            p99_ms=cuts[98],
            cpu_us=(sum(one.cpu_s for one in after) + made.cpu_s() - before_s) / events * 1e6,
            rss_mb=sum(one.rss_mb for one in after),
        )
