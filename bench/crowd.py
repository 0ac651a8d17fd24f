"""What many endpoints cost beside few: as many deliveries, to those of a thousand projects and to ten of one project.

Each endpoint has an address of 127.0.0.0/8 of its own: no connection is shared, and each lane has few deliveries.
"""

import json
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
import msgspec
import uvloop

from bench import rounds as turns
from bench.databases import Databases, databases, option
from bench.deliver import CONNECTIONS, LANES, arrived
from bench.ingest import load
from bench.processes import LOAD_CORE, program, usage
from bench.receiver import receiving
from bench.stock import Shape, new_projects, stocked

OF_PROJECT: Final = 10
"""Endpoints that an event goes to."""


class Crowd(msgspec.Struct, frozen=True):
    """One run: deliveries a second, the CPU of one, resident megabytes and open descriptors after it."""

    per_s: float
    cpu_us: float
    rss_mb: float
    descriptors: float


@click.command("crowd")
@click.option("--endpoints", default=10_000, help="Endpoints, ten for each project.")
@click.option("--events", default=4_000, help="Events of each run, dealt out to the projects; each has ten deliveries.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
@option
def command(endpoints: int, events: int, rounds: int, kind: str) -> None:
    """Deliveries a second and what each costs, to many endpoints against ten."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with databases(kind) as made:
        found = uvloop.run(turns.interleaved(rounds, (OF_PROJECT, endpoints), lambda count: run(made, count, events)))
    few, rows = found[OF_PROJECT], []
    click.echo(f"{'endpoints':>10}{'per s':>9}{'of ten':>8}{'CPU us':>8}{'of ten':>8}{'MB':>6}{'descriptors':>13}")
    for count, runs in found.items():
        row: dict[str, Any] = {
            "endpoints": count,
            "per_s_of_ten": round(turns.ratio(runs, few, "per_s"), 3),
            "cpu_of_ten": round(turns.ratio(runs, few, "cpu_us"), 3),
            **turns.medians(runs),
        }
        rows.append(row)
        click.echo(
            f"{count:10}{row['per_s']:9.0f}{row['per_s_of_ten']:8.2f}{row['cpu_us']:8.0f}{row['cpu_of_ten']:8.2f}"
            f"{row['rss_mb']:6.0f}{row['descriptors']:13.0f}"
        )
    click.echo(json.dumps({"bench": "crowd", "database": kind, "events": events, "runs": rows}))


async def run(made: Databases, endpoints: int, events: int) -> Crowd:
    """One relay, from the first callback to the last arrival."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving("0.0.0.0"))
        port, database = urlsplit(origin).port, made.fresh()
        urls = [f"http://127.{1 + n // 62_500}.{n // 250 % 250}.{1 + n % 250}:{port}/{n}" for n in range(endpoints)]
        projects = await new_projects(database, max(1, endpoints // OF_PROJECT))
        shape = Shape(projects=projects, in_flight_max=LANES)
        stock = await stocked(database, made.folder, events, urls, shape)
        wanted = events * OF_PROJECT
        running = await stack.enter_async_context(program(made, database))
        before_s = await running.quiet()
        loaded = await load(running.port, CONNECTIONS, 0, stock.callbacks)
        if loaded.statuses != {"200": events}:
            raise click.ClickException(f"relay answered {loaded.statuses}")
        await arrived(receiver, wanted)
        descriptors = len(list(Path(f"/proc/{running.child.pid}/fd").iterdir()))  # noqa: ASYNC240 - not a disk's
        cpu_us = (await running.quiet() - before_s) / wanted * 1e6
        return Crowd(
            per_s=wanted / (receiver.last_s - loaded.began_s),
            cpu_us=cpu_us,
            rss_mb=usage(running.child.pid).rss_mb,
            descriptors=float(descriptors),
        )
