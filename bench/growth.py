"""Whether relay slows down as its database grows, and by which index its hot statements run there.

The whole pipeline runs on an empty database, on one with a million retries that wait, and on one with millions of
finished deliveries.
"""

import asyncio
import json
import os
import statistics
import sys

import click
import msgspec
import uvloop

from bench import plans
from bench.databases import Databases, databases, option
from bench.deliver import Run, run
from bench.filling import fill
from bench.ingest import LOAD_CORE
from relay.storage.migrate import migrate
from relay.storage.store import open_database


@click.command("growth")
@click.option("--pending", default=1_000_000, help="Retries that wait.")
@click.option("--finished", default=5_000_000, help="Deliveries that are through.")
@click.option("--events", default=1500, help="Events of each run, for ten endpoints.")
@click.option("--rounds", default=3, help="The medians count.")
@option
def command(pending: int, finished: int, events: int, rounds: int, kind: str) -> None:
    """Deliveries a second against an empty database; exit 1 if a hot statement reads a big table whole."""
    os.sched_setaffinity(0, {LOAD_CORE})
    sizes = {"empty": (0, 0), "pending": (0, pending), "finished": (finished, 0)}
    rows, found = [], []
    click.echo(f"{'database':>10}{'finished':>10}{'pending':>10}{'per s':>9}{'of empty':>10}{'CPU us':>8}{'MB':>6}")
    for name, (done, waiting) in sizes.items():
        with databases(kind) as made:
            filled = made.fresh()
            asyncio.run(_migrate(filled))
            if done or waiting:
                fill(filled, done, waiting)
            runs = [uvloop.run(_run(made, filled, events)) for _ in range(rounds)]
            middle = {field: statistics.median(getattr(one, field) for one in runs) for field in Run.__struct_fields__}
            found += [(name, plan) for plan in _plans(kind, filled)] if done else []
        rows.append(
            {
                "database": name,
                "of_empty": round(middle["per_s"] / (rows[0]["per_s"] if rows else middle["per_s"]), 3),
                **middle,
            }
        )
        click.echo(
            f"{name:>10}{done:10}{waiting:10}{middle['per_s']:9.0f}{rows[-1]['of_empty']:10.2f}"
            f"{middle['cpu_us']:8.0f}{middle['rss_mb']:6.0f}"
        )
    scanned = [(plan.name, plan.scanned) for _, plan in found if plan.scanned]
    for _, plan in found:
        whole = f"  READS WHOLE: {', '.join(plan.scanned)}" if plan.scanned else ""
        click.echo(f"{plan.name:>26}  {', '.join(plan.indexes)}{whole}")
    told = {"bench": "growth", "kind": kind, "runs": rows, "plans": [msgspec.to_builtins(plan) for _, plan in found]}
    click.echo(json.dumps(told))
    sys.exit(1 if scanned else 0)


async def _migrate(url: str) -> None:
    """relay's schema."""
    database = await open_database(url)
    await migrate(database, 1)
    await database.close()


async def _run(made: Databases, filled: str, events: int) -> Run:
    """relay on the filled database; what it adds stays, and is little."""
    return await run("relay", 10, events, made, database=filled)


def _plans(kind: str, url: str) -> list[plans.Plan]:
    """The hot statements' plans."""
    if kind == "sqlite":
        return plans.sqlite_plans(url.removeprefix("sqlite:///"))
    return asyncio.run(plans.postgres_plans(url))
