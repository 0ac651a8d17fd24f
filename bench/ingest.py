"""How many callbacks relay takes in a second, each on the disk before it is answered, against a bare Starlette.

relay has one core, the load (and a PostgreSQL server) the other. A callback ends its job: callback, job, event and one
delivery are written (the delivery waits for an hour, so that nothing is sent meanwhile).
"""

import asyncio
import json
import os
import statistics
import sys
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path

import click
import httpx
import msgspec

from bench.databases import Databases, databases, option
from bench.load import Loaded
from bench.processes import ROOT, environment, free_port, ready, started, usage
from bench.stock import SECRET_KEY, Stock, stocked

RELAY_CORE, LOAD_CORE = 0, 1
WARM = 1000
SERVERS = ("bare", "relay", "naive")


class Run(msgspec.Struct, frozen=True):
    """One load on one server."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    rss_mb: float


@click.command("ingest")
@click.option("--connections", default=[64, 8], multiple=True, help="Keep-alive connections of the load.")
@click.option("--callbacks", default=20_000, help="Callbacks of each run.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
@option
def command(connections: tuple[int, ...], callbacks: int, rounds: int, kind: str) -> None:
    """Callbacks a second, committed before they are answered; each as a ratio to a bare Starlette in the same run."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with databases(kind) as made:
        found = asyncio.run(_measure(made, connections, callbacks, rounds))
    click.echo(
        f"{'server':>8}{'connections':>13}{'per s':>9}{'of bare':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'MB':>6}"
    )
    rows = []
    for (server, count), runs in found.items():
        middle = {name: statistics.median(getattr(run, name) for run in runs) for name in Run.__struct_fields__}
        bare = statistics.median(run.per_s for run in found["bare", count])
        row = {"server": server, "connections": count, "ratio": round(middle["per_s"] / bare, 3), **middle}
        rows.append(row)
        click.echo(
            f"{server:>8}{count:13}{row['per_s']:9.0f}{row['ratio']:9.2f}{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}"
            f"{row['cpu_us']:9.0f}{row['rss_mb']:6.0f}"
        )
    click.echo(json.dumps({"bench": "ingest", "database": kind, "runs": rows}))


async def _measure(
    made: Databases, connections: tuple[int, ...], callbacks: int, rounds: int
) -> dict[tuple[str, int], list[Run]]:
    """Every server under every load, in turn."""
    found: dict[tuple[str, int], list[Run]] = {(server, count): [] for count in connections for server in SERVERS}
    template = made.fresh()
    stock = await stocked(template, made.folder, callbacks + WARM, ["http://127.0.0.1:9/"], first_delay_s=3600)
    for number in range(rounds):
        for (server, count), runs in found.items():
            if sys.stderr.isatty():
                click.echo(f"\rround {number + 1} of {rounds}: {server}, {count} connections  ", nl=False, err=True)
            runs.append(await _run(server, count, made, template, stock))
    return found


async def _run(server: str, connections: int, made: Databases, template: str, stock: Stock) -> Run:
    """One server, warmed up, and its load."""
    async with AsyncExitStack() as stack:
        port, folder = free_port(), made.folder
        environ = environment(str(folder), port, "http://127.0.0.1:9") | settings(made.fresh(template))
        words = () if server == "relay" else ("bench.references", server, str(port), str(folder / f"{port}.db"))
        child = await started(environ, *words, core=RELAY_CORE)
        stack.push_async_callback(child.wait)
        stack.callback(child.terminate)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await ready(client)
        with stock.callbacks.open("rb") as file:
            (folder / "warm.txt").write_bytes(b"".join(islice(file, WARM)))
            (folder / "load.txt").write_bytes(file.read())
        await load(port, connections, 0, folder / "warm.txt")
        before = usage(child.pid)
        loaded = await load(port, connections, 0, folder / "load.txt")
        after = usage(child.pid)
        answered = sum(loaded.statuses.values())
        if (
            loaded.statuses.get("200") != answered and server != "naive"
        ):  # it breaks now and then, as such a relay would
            raise click.ClickException(f"{server} answered {loaded.statuses}")
        cpu_us = (after.cpu_s - before.cpu_s) / answered * 1e6
        return Run(loaded.per_s, loaded.p50_ms, loaded.p99_ms, cpu_us, after.rss_mb)


def settings(database_url: str) -> dict[str, str]:
    """Of a relay that believes callbacks at once, with a stocked database."""
    return {
        "DATABASE_URL": database_url,
        "RELAY_SECRET_KEYS": SECRET_KEY,
        "RELAY_EVOLINK_CONFIRM": "never",
        "RELAY_LOG_FORMAT": "json",
    }


async def load(port: int, connections: int, rate: float, path: Path) -> Loaded:
    """Return the load of a file, from a process of its own on the other core."""
    words = (sys.executable, "-m", "bench.load", str(port), str(connections), str(rate), str(path))
    child = await asyncio.create_subprocess_exec(
        "taskset", "-c", str(LOAD_CORE), *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await child.communicate()
    return msgspec.json.decode(printed, type=Loaded)
