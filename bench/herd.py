"""What an outage leaves behind: many deliveries that are all due, drained while callbacks go on coming.

Endpoints of one tenant have them; a quiet tenant's callbacks come at a steady rate, before as well as meanwhile. One of
the busy tenant's endpoints has a rate, which must hold however much is due.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import uvloop
from msgspec import structs

from bench.databases import Databases, databases, option
from bench.deliver import arrived
from bench.ingest import load, split
from bench.load import Loaded
from bench.processes import LOAD_CORE, Program, program, usage
from bench.receiver import Receiver, receiving
from bench.stock import Shape, new_projects, stocked

CONNECTIONS: Final = 16
FASTEST: Final = 64
PATIENCE_S: Final = 120.0
IN_FLIGHT: Final = 10
"""Attempts at one endpoint at the same time, relay's default."""
WITHIN_MS: Final = 250.0
"""A callback's answer that takes longer at the 99th percentile is starved."""
LIMITED, QUIET = "/limited", "/quiet"


class Side(msgspec.Struct, frozen=True):
    """The quiet tenant's times: of its callbacks' answers, and from sending to arrival."""

    callbacks: int
    p50_ms: float
    p99_ms: float
    arrival_p50_ms: float
    arrival_p99_ms: float


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """The quiet tenant before and meanwhile; how fast what was due went out, and how fast at the endpoint's rate."""

    due: int
    seconds: float
    per_s: float
    limited_most_per_s: int
    rss_mb: float
    before: Side
    meanwhile: Side


class Herd(msgspec.Struct, frozen=True, kw_only=True):
    """How many deliveries are due at how many endpoints, and the quiet tenant's pace."""

    due: int
    endpoints: int
    limit: float
    rate: float
    seconds: float
    delay_s: int

    @property
    def events(self) -> int:
        """Events of the busy tenant."""
        return self.due // self.endpoints

    @property
    def steady(self) -> int:
        """Callbacks of the quiet tenant, on each side."""
        return max(2, round(self.rate * self.seconds))


@click.command("herd")
@click.option("--due", default=100_000, help="Deliveries that are due when relay comes back.")
@click.option("--endpoints", default=20, help="Endpoints that they are for.")
@click.option("--limit", default=200.0, help="The rate of one of these endpoints, a second.")
@click.option("--rate", default=100.0, help="The quiet tenant's callbacks a second.")
@click.option("--seconds", default=15.0, help="How long they come, before and meanwhile.")
@click.option("--delay", "delay_s", default=60, help="Seconds until deliveries are due: time to make them all.")
@option
def command(kind: str, **wanted: Any) -> None:
    """Drain what an outage left while callbacks come; exit 1 if they starve, or a rate or an event is missed."""
    os.sched_setaffinity(0, {LOAD_CORE})
    herd = Herd(**wanted)
    with databases(kind) as made:
        found = uvloop.run(run(made, herd))
    click.echo(f"{'quiet tenant':>13}" + "".join(f"{name:>16}" for name in Side.__struct_fields__))
    for name, side in (("before", found.before), ("meanwhile", found.meanwhile)):
        click.echo(f"{name:>13}" + "".join(f"{value:16.1f}" for value in structs.astuple(side)))
    click.echo(
        f"{found.due} drained in {found.seconds:.1f} s, {found.per_s:.0f}/s; at the endpoint of {herd.limit:g}/s "
        f"at most {found.limited_most_per_s} came in a second; {found.rss_mb:.0f} MB"
    )
    starved, over = found.meanwhile.p99_ms > WITHIN_MS, found.limited_most_per_s > _most(herd.limit)
    row = {"starved": starved, "over": over, **msgspec.to_builtins(found)}
    click.echo(json.dumps({"bench": "herd", "database": kind, "run": row}))
    sys.exit(1 if starved or over else 0)


async def run(made: Databases, herd: Herd) -> Drained:
    """Measure the quiet tenant alone, then beside the drain that follows an outage."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        database, folder = made.fresh(), made.folder
        urls = [f"{origin}/{number}" for number in range(herd.endpoints - 1)]
        delayed = Shape(first_delay_s=herd.delay_s)
        busy = (await stocked(database, folder, herd.events, urls, delayed, name="busy")).callbacks
        limited = structs.replace(delayed, rate_limit_per_s=herd.limit)
        await stocked(database, folder, 0, [origin + LIMITED], limited)
        tenant = Shape(projects=await new_projects(database, 1))
        stock = await stocked(database, folder, 2 * herd.steady, [origin + QUIET], tenant)
        first, second = split(stock.callbacks, herd.steady)
        async with program(made, database) as running:
            before = await _quiet(running, receiver, herd, first)
            already = receiver.count
            _answered(await load(running.port, FASTEST, 0, busy))
        await asyncio.sleep(herd.delay_s)
        if receiver.count != already:
            raise click.ClickException("some were due before all had been made: take a longer delay")
        receiver.per_second.clear()
        began_s = time.time()
        running = await stack.enter_async_context(program(made, database))
        meanwhile = await _quiet(running, receiver, herd, second)
        if receiver.count - already >= herd.due + herd.steady:
            raise click.ClickException("all was drained before the callbacks were over: take more deliveries")
        await arrived(receiver, already + herd.due + herd.steady)
        elapsed_s = receiver.last_s - began_s
        return Drained(
            due=herd.due,
            seconds=elapsed_s,
            per_s=herd.due / elapsed_s,
            limited_most_per_s=max(n for (path, _), n in receiver.per_second.items() if path == LIMITED),
            rss_mb=usage(running.child.pid).rss_mb,
            before=before,
            meanwhile=meanwhile,
        )


async def _quiet(running: Program, receiver: Receiver, herd: Herd, callbacks: Path) -> Side:
    """Send the quiet tenant's callbacks at their pace, and wait until its events have arrived."""
    receiver.latencies_ms.pop(QUIET, None)
    loaded = await load(running.port, CONNECTIONS, herd.rate, callbacks)
    _answered(loaded)
    gives_up_at = time.monotonic() + PATIENCE_S
    while len(receiver.latencies_ms[QUIET]) < herd.steady:  # - it comes by HTTP
        if time.monotonic() > gives_up_at:
            raise click.ClickException(f"{len(receiver.latencies_ms[QUIET])} of {herd.steady} events arrived")
        await asyncio.sleep(0.05)
    cuts = statistics.quantiles(receiver.latencies_ms[QUIET], n=100)
    return Side(herd.steady, loaded.p50_ms, loaded.p99_ms, cuts[49], cuts[98])


def _answered(loaded: Loaded) -> None:
    """Raise ClickException if a callback was not acknowledged."""
    if set(loaded.statuses) != {"200"}:
        raise click.ClickException(f"relay answered {loaded.statuses}")


def _most(limit: float) -> float:
    """Return how many may come in one second of the clock: those of its rate, and what began in the second before."""
    return limit * 1.1 + IN_FLIGHT
