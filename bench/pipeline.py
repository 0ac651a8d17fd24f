"""How long a callback takes from its sender to a subscriber, at a steady rate: accepted, stored, signed, delivered.

The sender writes the time into each callback, relay passes it on within the result's URL, and the receiver reads it.
On PostgreSQL web and worker are processes of their own. relay has one core, load and receiver the other.
"""

import json
import os
import statistics
import sys
from contextlib import AsyncExitStack
from itertools import islice

import click
import httpx
import msgspec
import uvloop

from bench.databases import Databases, databases, option
from bench.deliver import arrived
from bench.ingest import LOAD_CORE, RELAY_CORE, load, settings
from bench.processes import environment, free_port, ready, started, usage
from bench.receiver import receiving
from bench.stock import stocked

WARM = 200
APART = (("relay", "serve", "--no-dispatch"), ("relay", "work"))


class Run(msgspec.Struct, frozen=True):
    """Milliseconds from the callback's first byte to its notification's arrival; seconds of CPU in a second."""

    arrived: float
    p50_ms: float
    p99_ms: float
    cpu: float
    rss_mb: float


@click.command("pipeline")
@click.option("--rate", default=500.0, help="Callbacks a second.")
@click.option("--seconds", default=10.0, help="How long each run lasts.")
@click.option("--endpoints", default=1, help="Endpoints that want every event.")
@click.option("--rounds", default=3, help="The medians count.")
@option
def command(rate: float, seconds: float, endpoints: int, rounds: int, kind: str) -> None:
    """p50 and p99 from a callback's sending to its notification's arrival, at a steady rate."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with databases(kind) as made:
        found = []
        for number in range(rounds):
            if sys.stderr.isatty():
                click.echo(f"\rround {number + 1} of {rounds} ", nl=False, err=True)
            found.append(uvloop.run(_run(made, kind, rate, round(rate * seconds), endpoints)))
    row = {name: round(statistics.median(getattr(run, name) for run in found), 2) for name in Run.__struct_fields__}
    apart = kind == "postgres"
    click.echo(f"{'processes':>10}{'rate':>7}{'arrived':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU':>6}{'MB':>6}")
    click.echo(
        f"{len(APART) if apart else 1:10}{rate:7.0f}{row['arrived']:9.0f}{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}"
        f"{row['cpu']:6.2f}{row['rss_mb']:6.0f}"
    )
    click.echo(json.dumps({"bench": "pipeline", "database": kind, "rate": rate, "run": row}))


async def _run(made: Databases, kind: str, rate: float, events: int, endpoints: int) -> Run:
    """One relay, and a steady load on it."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        port, database, folder = free_port(), made.fresh(), made.folder
        urls = [f"{origin}/{number}" for number in range(endpoints)]
        stock = await stocked(database, folder, events + WARM, urls)
        environ = environment(str(folder), port, "http://127.0.0.1:9") | settings(database)
        children = []
        for words in APART if kind == "postgres" else ((),):
            child = await started(environ | ({"PORT": "0"} if "work" in words else {}), *words, core=RELAY_CORE)
            stack.push_async_callback(child.wait)
            stack.callback(child.terminate)
            children.append(child)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await ready(client)
        with stock.callbacks.open("rb") as file:
            (folder / "warm.txt").write_bytes(b"".join(islice(file, WARM)))
            (folder / "load.txt").write_bytes(file.read())
        await load(port, 16, rate, folder / "warm.txt")
        await arrived(receiver, WARM * endpoints)
        receiver.latencies_ms.clear()
        before = sum(usage(child.pid).cpu_s for child in children)
        loaded = await load(port, 16, rate, folder / "load.txt")
        await arrived(receiver, (WARM + events) * endpoints)
        after = [usage(child.pid) for child in children]
        late = sorted(late for times in receiver.latencies_ms.values() for late in times)
        cuts = statistics.quantiles(late, n=100)
        return Run(
            arrived=len(late),
            p50_ms=cuts[49],
            p99_ms=cuts[98],
            cpu=(sum(one.cpu_s for one in after) - before) / loaded.seconds,
            rss_mb=sum(one.rss_mb for one in after),
        )
