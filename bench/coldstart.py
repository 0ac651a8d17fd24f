"""How long relay takes from its start to its first answer, and what it holds in memory then, against a bare Starlette.

`relay serve` is started on a database that is there already, on a fresh one, and as if the extra x402 were not
installed; each from `exec` to the first 200.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click
import msgspec

from bench.databases import Databases, databases, option
from bench.processes import environment, free_port, started, usage
from relay.storage.migrate import migrate
from relay.storage.store import open_database

IDLE_S = 3.0
LATER_MS, RSS_MB = 150, 65
"""What is asked for: at most so much later than the bare server, and so much memory."""
_BLOCKED = "import sys\nsys.modules['eth_account'] = None\n"
_OF_X402 = 1.05


class Start(msgspec.Struct, frozen=True):
    """One start: milliseconds to the first 200 of each path, and resident megabytes some seconds later."""

    healthz_ms: float
    readyz_ms: float
    rss_mb: float


@click.command("coldstart")
@click.option("--rounds", default=9, help="Interleaved rounds; the medians count.")
@option
def command(rounds: int, kind: str) -> None:
    """Milliseconds from exec to the first 200, and idle memory, as a ratio to a bare Starlette on uvicorn."""
    with databases(kind) as made:
        found = asyncio.run(_measure(made, rounds))
    middle = {
        server: {name: statistics.median(getattr(start, name) for start in starts) for name in Start.__struct_fields__}
        for server, starts in found.items()
    }
    click.echo(f"{'server':>18}{'healthz ms':>12}{'readyz ms':>12}{'later ms':>10}{'MB':>6}")
    for server, row in middle.items():
        later = row["healthz_ms"] - middle["bare"]["healthz_ms"]
        click.echo(f"{server:>18}{row['healthz_ms']:12.0f}{row['readyz_ms']:12.0f}{later:10.0f}{row['rss_mb']:6.0f}")
    later = middle["relay"]["healthz_ms"] - middle["bare"]["healthz_ms"]
    x402 = middle["relay"]["healthz_ms"] / middle["without x402"]["healthz_ms"]
    rss_mb = middle["relay"]["rss_mb"]
    click.echo(f"later than bare: {later:.0f} ms (at most {LATER_MS}); memory {rss_mb:.0f} MB (at most {RSS_MB})")
    click.echo(f"with the extra x402 installed / without: {x402:.2f} (at most {_OF_X402})")
    click.echo(json.dumps({"bench": "coldstart", "database": kind, "medians": middle, "x402": round(x402, 3)}))


async def _measure(made: Databases, rounds: int) -> dict[str, list[Start]]:
    """Every kind of start in turn."""
    await _migrated(migrated := made.fresh())
    blocked = made.folder / "without"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(_BLOCKED)
    servers: dict[str, Callable[[], tuple[dict[str, str], bool]]] = {
        "bare": lambda: ({}, True),
        "relay": lambda: ({"DATABASE_URL": migrated}, False),
        "without x402": lambda: ({"DATABASE_URL": migrated, "PYTHONPATH": str(blocked)}, False),
        "fresh database": lambda: ({"DATABASE_URL": made.fresh()}, False),
    }
    found: dict[str, list[Start]] = {server: [] for server in servers}
    for number in range(rounds + 1):
        for server, prepare in servers.items():
            if sys.stderr.isatty():
                click.echo(f"\rround {number} of {rounds}: {server}  ", nl=False, err=True)
            more, bare = prepare()
            start = await _start(made.folder, more, bare=bare)
            found[server] += [start] if number else []  # the first round only warms the disk's cache
    return found


async def _migrated(database_url: str) -> None:
    """Brings a database to this relay's schema."""
    database = await open_database(database_url)
    try:
        await migrate(database, 1)
    finally:
        await database.close()


async def _start(folder: Path, more: dict[str, str], *, bare: bool) -> Start:
    """One process, from its start to its end."""
    port = free_port()
    environ = environment(str(folder), port, "http://127.0.0.1:9") | more
    # Compiled once, as an installed program is; the first round sees to it.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    environ["PYTHONPYCACHEPREFIX"] = str(folder / "pycache")
    began = time.perf_counter()
    child = await started(environ, *(("bench.bare", str(port)) if bare else ()))
    try:
        healthz_ms = await _first_200(port, "/healthz", began, child)
        readyz_ms = await _first_200(port, "/readyz", began, child)
        await asyncio.sleep(IDLE_S)
        return Start(healthz_ms, readyz_ms, usage(child.pid).rss_mb)
    finally:
        with suppress(ProcessLookupError):
            child.terminate()
        await child.wait()


async def _first_200(port: int, path: str, began: float, child: asyncio.subprocess.Process) -> float:
    """Milliseconds since the start; asked for each millisecond, over a bare socket."""
    asked = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n".encode()
    while time.perf_counter() - began < 30:
        if child.returncode is not None:
            raise click.ClickException(f"the server ended with {child.returncode}")
        with suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(asked)
            status = await reader.readline()
            writer.close()
            if b" 200 " in status:
                return (time.perf_counter() - began) * 1000
        await asyncio.sleep(0.001)
    raise click.ClickException(f"{path} does not answer with 200")
