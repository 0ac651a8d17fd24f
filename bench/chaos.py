"""Whether relay keeps its promises under fire: seeds of faults, each of which is played and judged by itself.

The harness is tests/chaos/. A seed that breaks an invariant is printed with the command that plays it again.
"""

import asyncio
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bench.databases import option
from tests.chaos.databases import PostgreSQLDatabase, SQLiteFile
from tests.chaos.plan import Plan, plan
from tests.chaos.run import Outcome, play
from tests.support.postgres import Server, server

OPTIONS = ("-c", "max_connections=100", "-c", "fsync=off", "-c", "full_page_writes=off")

SLOW_S = 15.0
"""What a seed that took longer waited for is printed."""


def _range(_: click.Context, __: click.Parameter, text: str) -> range:
    """Return the seeds of `7` or `1-200`."""
    found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", text)
    if found is None:
        raise click.BadParameter("must be a number, or two such as 1-200")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


@click.command("chaos")
@click.option("--seeds", default="1-10", callback=_range, help="The seeds to play, such as 1-200.")
@click.option("--logs", is_flag=True, help="Print the plan, and the log of each process.")
@option
def command(seeds: range, logs: bool, kind: str) -> None:
    """Faults of every kind against real processes; exit 1 if an invariant is broken."""
    outcomes: list[Outcome] = []
    click.echo(f"{'seed':>6}{'s':>6}{'jobs':>6}{'events':>8}{'sent':>7}{'MB':>6}  faults")
    with _server(kind) as running:
        for seed in seeds:
            made = plan(seed, kind)
            if logs:
                _show(made)
            outcome = asyncio.run(_play(made, running))
            outcomes.append(outcome)
            _print(outcome, logs=logs)
    found = {
        "seeds": len(outcomes),
        "jobs": sum(one.jobs for one in outcomes),
        "events": sum(one.events for one in outcomes),
        "deliveries": sum(one.deliveries for one in outcomes),
        "callbacks": sum(one.callbacks for one in outcomes),
        "notifications": sum(one.notifications for one in outcomes),
        "copies": dict(sorted(sum((Counter(one.copies) for one in outcomes), Counter[str]()).items())),
        "results_met": dict(sorted(sum((Counter(one.results_met) for one in outcomes), Counter[str]()).items())),
        "connections_harmed": sum(one.harmed for one in outcomes),
        "stops_cut_short": sum(one.cut_short for one in outcomes),
        "memory_mb": round(max(one.memory_mb for one in outcomes)),
        "faults": dict(sorted(sum((Counter(one.made) for one in outcomes), Counter[str]()).items())),
        "skipped": dict(sorted(sum((Counter(one.skipped) for one in outcomes), Counter[str]()).items())),
        "failed": [one.seed for one in outcomes if one.broken],
    }
    click.echo(json.dumps({"bench": "chaos", "database": kind, **found}))
    sys.exit(1 if found["failed"] else 0)


@contextmanager
def _server(kind: str) -> Iterator[Server | None]:
    """Yield a server for PostgreSQL's seeds."""
    if kind != "postgres":
        yield None
        return
    with server(OPTIONS) as running:
        yield running


async def _play(made: Plan, running: Server | None) -> Outcome:
    """Play one plan on a database of its own."""
    with tempfile.TemporaryDirectory(prefix="relay-chaos-") as name:
        folder = Path(name)
        if running is not None:
            running.ensure()
            return await play(made, PostgreSQLDatabase(running, running.database()), folder)
        file = SQLiteFile(folder / "data")
        file.prepare(small=any(fault.kind == "disk_full" for fault in made.faults))
        try:
            return await play(made, file, folder)
        finally:
            file.remove()


def _show(made: Plan) -> None:
    """Print a plan."""
    click.echo(f"layout {made.layout}, failing {made.failing}, paid {made.paid}, TLS {made.tls}, {made.bucket}")
    for fault in made.faults:
        click.echo(f"  {fault.at_s:6.2f} s for {fault.for_s:.2f} s: {fault.name} {fault.target} {fault.amount or ''}")
    for operation in made.operations:
        click.echo(f"  {operation.at_s:6.2f} s for {operation.for_s:.2f} s: {operation.kind} {operation.endpoint}")
    for job in sorted(made.jobs, key=lambda job: job.at_s):
        click.echo(
            f"  {job.at_s:6.2f} s {job.marker} {job.provider} [{job.faults}] {job.deadline_s} s {job.verb} "
            f"{job.archive} [{job.result.fault} {job.result.times}] {job.result.size}"
        )


def _print(outcome: Outcome, *, logs: bool) -> None:
    """Print what one seed showed."""
    if logs:
        click.echo("\n".join(outcome.log))
    faults = ", ".join(f"{name} {times}" if times > 1 else name for name, times in sorted(outcome.made.items()))
    skipped = "".join(f", {name} skipped" for name in sorted(outcome.skipped))
    click.echo(
        f"{outcome.seed:6}{outcome.seconds:6.1f}{outcome.jobs:6}{outcome.events:8}{outcome.notifications:7}"
        f"{outcome.memory_mb:6.0f}  {faults}{skipped}"
    )
    for one in outcome.broken:
        click.echo(f"       BROKEN {one.invariant}: {one.what}")
    if outcome.seconds > SLOW_S:
        click.echo("\n".join(f"       waited {line}" for line in outcome.waited[::5]))
    if outcome.broken:
        click.echo(f"       replay: {outcome.replay}")
