"""Whether relay slows down as its database grows; what its statements read there is `reads`' to say.

The whole pipeline runs on an empty database, on one with a million retries that wait, and on one with millions of
finished deliveries.
"""

import asyncio
import json
import os
import statistics
import sys

import click
import uvloop

from bench.databases import databases, option
from bench.deliver import Run, run
from bench.filling import Filling, fill
from bench.ingest import LOAD_CORE


@click.command("growth")
@click.option("--pending", default=1_000_000, help="Retries that wait.")
@click.option("--finished", default=5_000_000, help="Deliveries that are through.")
@click.option("--events", default=1500, help="Events of each run, for ten endpoints.")
@click.option("--rounds", default=3, help="The medians count.")
@option
def command(pending: int, finished: int, events: int, rounds: int, kind: str) -> None:
    """Deliveries a second, of ten for each event, against those on an empty database."""
    os.sched_setaffinity(0, {LOAD_CORE})
    fillings = {"empty": Filling(), "pending": Filling(retries=pending), "finished": Filling(finished=finished)}
    click.echo(f"{'database':>10}{'finished':>10}{'pending':>10}{'per s':>9}{'of empty':>10}{'CPU us':>8}{'MB':>6}")
    rows: list[dict[str, float | str]] = []
    empty = 0.0
    for name, filling in fillings.items():
        with databases(kind) as made:
            filled = made.fresh()
            asyncio.run(fill(filled, filling))
            runs = []
            for number in range(rounds):
                if sys.stderr.isatty():
                    click.echo(f"\r{name}: round {number + 1} of {rounds} ", nl=False, err=True)
                runs.append(uvloop.run(run("relay", 10, events, made, database=filled)))
        middle = {field: statistics.median(getattr(one, field) for one in runs) for field in Run.__struct_fields__}
        empty = empty or middle["per_s"]
        of_empty = middle["per_s"] / empty
        rows.append({"database": name, "of_empty": round(of_empty, 3), **middle})
        click.echo(
            f"{name:>10}{filling.finished:10}{filling.retries:10}{middle['per_s']:9.0f}{of_empty:10.2f}"
            f"{middle['cpu_us']:8.0f}{middle['rss_mb']:6.0f}"
        )
    click.echo(json.dumps({"bench": "growth", "database": kind, "runs": rows}))
