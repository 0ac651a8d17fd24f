"""Whether relay slows down as its database grows; what its statements read there is `reads`' to say.

The whole pipeline runs on an empty database, on one with a million retries that wait, and on one with millions of
finished deliveries.
"""

import asyncio
import json
import os

import click
import uvloop

from bench import rounds as turns
from bench.databases import databases, option
from bench.deliver import run
from bench.filling import Filling, fill
from bench.processes import LOAD_CORE


@click.command("growth")
@click.option("--pending", default=1_000_000, help="Retries that wait.")
@click.option("--finished", default=5_000_000, help="Deliveries that are through.")
@click.option("--events", default=1500, help="Events of each run, for ten endpoints.")
@click.option("--rounds", default=3, help="The medians count.")
@option
def command(pending: int, finished: int, events: int, rounds: int, kind: str) -> None:
    """Deliveries a second, of ten for each event, against those on an empty database, in turn."""
    os.sched_setaffinity(0, {LOAD_CORE})
    fillings = {"empty": Filling(), "pending": Filling(retries=pending), "finished": Filling(finished=finished)}
    with databases(kind) as made:
        filled = {name: made.fresh() for name in fillings}
        for name, filling in fillings.items():
            asyncio.run(fill(filled[name], filling))
        found = uvloop.run(
            turns.interleaved(rounds, fillings, lambda name: run("relay", 10, events, made, database=filled[name]))
        )
    click.echo(f"{'database':>10}{'finished':>10}{'pending':>10}{'per s':>9}{'of empty':>10}{'CPU us':>8}{'MB':>6}")
    middle = {name: turns.medians(runs) for name, runs in found.items()}
    rows = []
    for name, row in middle.items():
        of_empty = row["per_s"] / middle["empty"]["per_s"]
        rows.append({"database": name, "of_empty": round(of_empty, 3), **row})
        click.echo(
            f"{name:>10}{fillings[name].finished:10}{fillings[name].retries:10}{row['per_s']:9.0f}{of_empty:10.2f}"
            f"{row['cpu_us']:8.0f}{row['rss_mb']:6.0f}"
        )
    click.echo(json.dumps({"bench": "growth", "database": kind, "runs": rows}))
