"""Whether relay's statements stay as fast as in an empty database: plans, rows read and times in a grown one."""

import asyncio
import json
import sqlite3
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import click
import msgspec

from bench.cases import Case, cases, sample
from bench.databases import databases, option
from bench.explaining import Explainer, Plan, PostgresExplainer, SQLiteExplainer
from bench.filling import Filling, fill
from relay.clock import SystemClock
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.database_url import is_postgres, sqlite_path
from relay.storage.store import open_database

RUNS = 5


class Row(msgspec.Struct, frozen=True):
    """A case, its plan, and the median of its times."""

    case: Case
    plan: Plan
    ms: float

    @property
    def wrong(self) -> str:
        """Why the plan is none for a large table; empty where it is one."""
        return wrong(self.case, self.plan)


class _Undone(Exception):
    """Rolls a transaction back."""


@click.command("reads")
@click.option("--deliveries", default=5_000_000, help="Finished deliveries, with all that belongs to them.")
@click.option("--retries", default=100_000, help="Deliveries that wait for their next attempt.")
@click.option("--open-jobs", default=10_000, help="Jobs at their provider.")
@click.option("--analyze/--no-analyze", default=True, help="Whether the database has statistics of its tables.")
@option
def command(deliveries: int, retries: int, open_jobs: int, analyze: bool, kind: str) -> None:
    """Print the plan and the time of every statement that matters, in a database that has grown."""
    wanted = Filling(finished=deliveries, retries=retries, open_jobs=open_jobs)
    with databases(kind) as made:
        rows = asyncio.run(_measured(made.fresh(), wanted, analyze))
    click.echo(f"{'statement':62}{'ms':>9}{'rows read':>11}  index")
    for row in rows:
        name = f"{row.case.name} ({row.case.note})" if row.case.note else row.case.name
        disposition = f"  <-- {row.wrong}" if row.wrong else ""
        mark = "" if row.case.hot or not disposition else " (by hand)"
        click.echo(f"{name:62}{row.ms:9.2f}{row.plan.rows_read:11}  {', '.join(row.plan.indexes)}{disposition}{mark}")
    found = [msgspec.to_builtins(row.plan) | _said(row) for row in rows]
    said = {"bench": "reads", "database": kind, "deliveries": deliveries, "analyzed": analyze, "runs": found}
    click.echo(json.dumps(said))
    if any(row.case.hot and row.wrong for row in rows):
        sys.exit(1)


def wrong(case: Case, plan: Plan) -> str:
    """Why a plan is none for a large table; empty where it is one."""
    if plan.scanned:
        return f"goes through {', '.join(plan.scanned)}"
    return f"reads more than {case.rows_max} rows" if plan.rows_read > case.rows_max else ""


@asynccontextmanager
async def explaining(database_url: str) -> AsyncIterator[Explainer]:
    """Yield what tells the plans of a database."""
    if is_postgres(database_url):
        explainer = await PostgresExplainer.connected(database_url)
        try:
            yield explainer
        finally:
            await explainer.close()
    else:
        with closing(sqlite3.connect(sqlite_path(database_url), isolation_level=None)) as connection:
            yield SQLiteExplainer(connection)


async def _measured(database_url: str, wanted: Filling, analyze: bool) -> list[Row]:
    """Every case."""
    filled = await fill(database_url, wanted, analyze=analyze)
    async with explaining(database_url) as explainer:
        found = cases(await sample(explainer, filled, SystemClock().now_ms()))
        plans = [await explainer.plan(case.name, case.many) for case in found]
    database = await open_database(database_url)
    try:
        times = []
        for number, case in enumerate(found):
            if sys.stderr.isatty():
                click.echo(f"\rmeasuring: {number} of {len(found)} ", nl=False, err=True)
            times.append(await _median_ms(database, case))
    finally:
        await database.close()
    return [Row(case, plan, ms) for case, plan, ms in zip(found, plans, times, strict=True)]


async def _median_ms(database: Database, case: Case) -> float:
    """Through relay's own connections; what writes is undone."""
    times: list[float] = []

    async def work(transaction: Transaction) -> None:
        began = time.perf_counter()
        if len(case.many) > 1:
            await transaction.run_many(case.name, case.many)
        else:
            await transaction.rows(case.name, case.many[0])
        times.append(time.perf_counter() - began)
        raise _Undone

    for _ in range(RUNS):
        if case.writes:
            try:
                await database.transact(work)
            except _Undone:
                continue
        else:
            began = time.perf_counter()
            await database.rows(case.name, case.many[0])
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def _said(row: Row) -> dict[str, object]:
    """Return what is not in the plan itself."""
    return {
        "statement": row.case.name,
        "note": row.case.note,
        "hot": row.case.hot,
        "ms": round(row.ms, 3),
        "wrong": row.wrong,
    }
