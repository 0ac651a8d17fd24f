"""How many callbacks relay takes in a second, each on the disk before it is answered, against a bare Starlette.

relay has one core, the load the other. A callback ends its job: callback, job, event and one delivery are written (the
delivery waits for an hour, so that nothing is sent meanwhile).
"""

import asyncio
import json
import shutil
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path

import click
import httpx
import msgspec

from bench.load import Loaded
from bench.processes import ROOT, environment, free_port, ready, started, usage
from bench.stock import SECRET_KEY, Stock, stocked

RELAY_CORE, LOAD_CORE = 0, 1
WARM = 1000
KINDS = ("bare", "relay", "naive")


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
def command(connections: tuple[int, ...], callbacks: int, rounds: int) -> None:
    """Callbacks a second, committed before they are answered; each as a ratio to a bare Starlette in the same run."""
    found = asyncio.run(_measure(connections, callbacks, rounds))
    click.echo(
        f"{'server':>8}{'connections':>13}{'per s':>9}{'of bare':>9}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'MB':>6}"
    )
    rows = []
    for (kind, count), runs in found.items():
        middle = {name: statistics.median(getattr(run, name) for run in runs) for name in Run.__struct_fields__}
        bare = statistics.median(run.per_s for run in found["bare", count])
        row = {"server": kind, "connections": count, "ratio": round(middle["per_s"] / bare, 3), **middle}
        rows.append(row)
        click.echo(
            f"{kind:>8}{count:13}{row['per_s']:9.0f}{row['ratio']:9.2f}{row['p50_ms']:9.2f}{row['p99_ms']:9.2f}"
            f"{row['cpu_us']:9.0f}{row['rss_mb']:6.0f}"
        )
    click.echo(json.dumps({"bench": "ingest", "database": "sqlite", "runs": rows}))


async def _measure(connections: tuple[int, ...], callbacks: int, rounds: int) -> dict[tuple[str, int], list[Run]]:
    """Every server under every load, in turn."""
    found: dict[tuple[str, int], list[Run]] = {(kind, count): [] for count in connections for kind in KINDS}
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name:
        folder = Path(name)
        template = folder / "template.db"
        stock = await stocked(
            f"sqlite:///{template}", folder, callbacks + WARM, ["http://127.0.0.1:9/"], first_delay_s=3600
        )
        for number in range(rounds):
            for kind, count in found:
                if sys.stderr.isatty():
                    click.echo(f"\rround {number + 1} of {rounds}: {kind}, {count} connections  ", nl=False, err=True)
                for left in folder.glob("run.db*"):
                    left.unlink()
                shutil.copy(template, folder / "run.db")
                found[kind, count].append(await _run(kind, count, folder, stock))
    return found


async def _run(kind: str, connections: int, folder: Path, stock: Stock) -> Run:
    """One server, warmed up, and its load."""
    async with AsyncExitStack() as stack:
        port = free_port()
        environ = environment(str(folder), port, "http://127.0.0.1:9") | {
            "DATABASE_URL": f"sqlite:///{folder / 'run.db'}",
            "RELAY_SECRET_KEYS": SECRET_KEY,
            "RELAY_EVOLINK_CONFIRM": "never",
            "RELAY_LOG_FORMAT": "json",
        }
        words = () if kind == "relay" else ("bench.references", kind, str(port), str(folder / "naive.db"))
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
        if loaded.statuses.get("200") != answered:
            raise click.ClickException(f"{kind} answered {loaded.statuses}")
        cpu_us = (after.cpu_s - before.cpu_s) / answered * 1e6
        return Run(loaded.per_s, loaded.p50_ms, loaded.p99_ms, cpu_us, after.rss_mb)


async def load(port: int, connections: int, rate: float, path: Path) -> Loaded:
    """The load of a file, from a process of its own on the other core."""
    words = (sys.executable, "-m", "bench.load", str(port), str(connections), str(rate), str(path))
    child = await asyncio.create_subprocess_exec(
        "taskset", "-c", str(LOAD_CORE), *words, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await child.communicate()
    return msgspec.json.decode(printed, type=Loaded)
