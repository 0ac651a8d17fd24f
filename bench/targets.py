"""The table of what relay has to reach, measured in one go: each row from interleaved rounds, beside what is asked for.

CPU is that of relay and, on PostgreSQL, of the server. Where a row asks for a time of CPU, it was set on a machine on
which a bare Starlette took 37 to 54 us for a request: `bare` in the last row says what this one takes.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import click
import msgspec
import uvloop

from bench import coldstart, deliver, ingest, isolation, jobs, pipeline, resume
from bench import rounds as turns
from bench.databases import Databases, databases, option
from bench.processes import LOAD_CORE

CONFIRMED_ALWAYS = {"RELAY_EVOLINK_CONFIRM": "always"}
SURELY = {"RELAY_CONFIRM_WAIT_S": "60", "RELAY_CHECKS_PER_S": "1000", "RELAY_CHECKS_IN_FLIGHT_MAX": "64"}
"""Every end is confirmed, as fast as it goes: what one costs is asked for, and not how many a second there may be."""


BURST = 1000
CONFIRMED = "burst of 1,000: confirmed by a status check"


class Scale(msgspec.Struct, frozen=True):
    """How much is measured: rounds, and a factor of the items and seconds of each run."""

    rounds: int
    factor: float

    def of(self, number: int) -> int:
        """Return so many items, at least 20."""
        return max(20, round(number * self.factor))


class Row(msgspec.Struct, frozen=True):
    """A row of the table; `sqlite` and `postgres` are what is asked for: at most so much, at least with `least`."""

    name: str
    sqlite: float | None
    postgres: float | None
    least: bool = False

    def asked(self, kind: str) -> float | None:
        """Return what is asked for on a kind of database."""
        return self.sqlite if kind == "sqlite" else self.postgres


ROWS = (
    Row("ingest: CPU of bare / relay, 64 connections", 0.40, 0.28, least=True),
    Row("ingest: CPU of bare / relay, 256 connections", 0.50, None, least=True),
    Row("ingest: CPU of bare / relay, 8 connections", 0.26, 0.15, least=True),
    Row("ingest: callbacks/s of bare, 64 connections", None, None),
    Row("ingest: callbacks/s of bare, 256 connections", None, None),
    Row("ingest: callbacks/s of bare, 8 connections", None, None),
    Row("ingest: kB written for a callback, 1 connection", 110, None),
    Row("ingest: kB written for a callback, 64 connections", 13, None),
    Row("deliver: CPU of aiohttp / relay, ten endpoints", 1.0, 0.6, least=True),
    Row("deliver: CPU us of a delivery, ten endpoints", 125, 220),
    Row("one endpoint: CPU us of an event, 64 connections", 360, 650),
    Row("one endpoint: delivered/s of accepted/s", 0.9, 0.9, least=True),
    Row("one endpoint: CPU us of an event at 100/s", 1800, 3000),
    Row("one endpoint: p50 ms at 500/s", 1.5, 3),
    Row("one endpoint: p99 ms at 500/s", 6, 12),
    Row("finished job: CPU with confirmation / with never", 2.5, 2.5),
    Row(CONFIRMED, 0.99, 0.99, least=True),
    Row("submit: CPU us of a job, 16 connections", 990, 1560),
    Row("kill -9: s until all has gone out", 3, 3),
    Row("dead endpoints and names: p99 of healthy ones", 1.2, 1.2),
    Row("start: ms to the first 200 beyond bare", 80, 80),
    Row("idle: MB resident", 48, 48),
    Row("bare: CPU us of a request, 64 connections", None, None),
)


@click.command("targets")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
@click.option("--scale", default=1.0, help="A factor of the items and seconds of every run: 0.3 is a short look.")
@click.option("--only", multiple=True, type=click.Choice(("ingest", "deliver", "steady", "jobs", "resume", "start")))
@option
def command(rounds: int, scale: float, only: Sequence[str], kind: str) -> None:
    """Everything that is asked for, beside what is measured now."""
    os.sched_setaffinity(0, {LOAD_CORE})
    found: dict[str, float] = {}
    began_s = time.monotonic()
    with databases(kind) as made:
        for name, part in PARTS.items():
            if not only or name in only:
                found |= uvloop.run(part(made, Scale(rounds, scale)))
        _show(kind, found)
    seconds = round(time.monotonic() - began_s)
    click.echo(json.dumps({"bench": "targets", "database": kind, "seconds": seconds, "rows": found}))


def _show(kind: str, found: dict[str, float]) -> None:
    """Print the table."""
    click.echo(f"{kind:54}{'now':>9}{'asked':>10}")
    for row in ROWS:
        if row.name in found:
            asked, now = row.asked(kind), found[row.name]
            missed = asked is not None and (now < asked if row.least else now > asked)
            said = "" if asked is None else f"{'≥' if row.least else '≤'} {asked:g}"
            click.echo(f"{row.name:54}{_shown(now):>9}{said:>10}{'   missed' if missed else ''}")


def _shown(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


async def _ingest(made: Databases, scale: Scale) -> dict[str, float]:
    """Measure callbacks that end jobs, with nothing to deliver yet."""
    found = await ingest.measured(made, (64, 256, 8, 1), scale.of(10_000), scale.rounds)
    rows = {}
    for count in (64, 256, 8):
        bare, relay = found["bare", count], found["relay", count]
        rows[f"ingest: CPU of bare / relay, {count} connections"] = turns.ratio(bare, relay, "cpu_us")
        rows[f"ingest: callbacks/s of bare, {count} connections"] = turns.ratio(relay, bare, "per_s")
    if not made.served:  # what a server writes is another process's
        rows["ingest: kB written for a callback, 1 connection"] = turns.middle(found["relay", 1], "written_kb")
        rows["ingest: kB written for a callback, 64 connections"] = turns.middle(found["relay", 64], "written_kb")
    return rows | {"bare: CPU us of a request, 64 connections": turns.middle(found["bare", 64], "cpu_us")}


async def _deliver(made: Databases, scale: Scale) -> dict[str, float]:
    """Measure notifications to ten endpoints beside bare POSTs, and to one."""

    async def run(sender: str) -> deliver.Deliveries:
        if sender == "one":
            return await deliver.run("relay", 1, scale.of(8000), made)
        return await deliver.run(sender, 10, scale.of(1500), made)

    found = await turns.interleaved(scale.rounds, ("aiohttp", "relay", "one"), run)
    shares = [one.per_s / one.accepted_per_s for one in found["one"]]
    return {
        "deliver: CPU of aiohttp / relay, ten endpoints": turns.ratio(found["aiohttp"], found["relay"], "cpu_us"),
        "deliver: CPU us of a delivery, ten endpoints": turns.middle(found["relay"], "cpu_us"),
        "one endpoint: CPU us of an event, 64 connections": turns.middle(found["one"], "cpu_us"),
        "one endpoint: delivered/s of accepted/s": statistics.median(shares),
    }


async def _steady(made: Databases, scale: Scale) -> dict[str, float]:
    """Measure events at a steady rate to one endpoint."""

    async def run(rate: float) -> pipeline.Steady:
        return await pipeline.run(made, rate, seconds=6 * scale.factor, apart=rate == 500 and made.served)

    found = await turns.interleaved(scale.rounds, (100.0, 500.0), run)
    return {
        "one endpoint: CPU us of an event at 100/s": turns.middle(found[100], "cpu_us"),
        "one endpoint: p50 ms at 500/s": turns.middle(found[500], "p50_ms"),
        "one endpoint: p99 ms at 500/s": turns.middle(found[500], "p99_ms"),
    }


async def _jobs(made: Databases, scale: Scale) -> dict[str, float]:
    """Measure what asking a provider costs, and whether a burst of ends is confirmed."""

    async def run(what: str) -> jobs.Cost:
        match what:
            case "never":
                return await jobs.finished(made, scale.of(3000))
            case "always":
                return await jobs.finished(made, scale.of(1000), {**CONFIRMED_ALWAYS, **SURELY})
            case "burst":
                return await jobs.finished(made, BURST if scale.factor >= 0.1 else 20, CONFIRMED_ALWAYS)
            case _:
                return await jobs.submitted(made, scale.of(1000))

    found = await turns.interleaved(scale.rounds, ("never", "always", "burst", "submit"), run)
    if turns.middle(found["always"], "fetched") < 1:
        click.echo(f"only {turns.middle(found['always'], 'fetched'):.0%} of the ends were confirmed", err=True)
    return {
        "finished job: CPU with confirmation / with never": turns.ratio(found["always"], found["never"], "cpu_us"),
        CONFIRMED: turns.middle(found["burst"], "fetched"),
        "submit: CPU us of a job, 16 connections": turns.middle(found["submit"], "cpu_us"),
    }


async def _resume(made: Databases, scale: Scale) -> dict[str, float]:
    """Measure how soon relay resumes after a kill, and how dead endpoints slow healthy ones."""
    resumed_s = await resume.resumed_s(made, scale.of(300))
    beside = await isolation.measured(made, scale.rounds, isolation.Load(seconds=10 * scale.factor))
    return {
        "kill -9: s until all has gone out": resumed_s,
        "dead endpoints and names: p99 of healthy ones": turns.ratio(beside[10], beside[0], "p99_ms"),
    }


async def _start(made: Databases, scale: Scale) -> dict[str, float]:
    """Measure starts, and idle processes."""
    found = await coldstart.measured(made, ("bare", "relay"), scale.rounds)
    more = [one.first_200_ms - other.first_200_ms for one, other in zip(found["relay"], found["bare"], strict=True)]
    return {
        "start: ms to the first 200 beyond bare": statistics.median(more),
        "idle: MB resident": turns.middle(found["relay"], "rss_mb"),
    }


PARTS: dict[str, Callable[[Databases, Scale], Coroutine[Any, Any, dict[str, float]]]] = {
    "ingest": _ingest,
    "deliver": _deliver,
    "steady": _steady,
    "jobs": _jobs,
    "resume": _resume,
    "start": _start,
}
