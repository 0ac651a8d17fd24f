"""How long relay takes from its start to the first answer, and what it holds when nothing happens.

Beside it, in the same run: a bare Starlette on the same server, relay with the keys of all providers, and relay as if
the extra `x402` were not installed.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterable

import click
import msgspec

from bench import rounds as turns
from bench.databases import Databases, databases, option
from bench.processes import ROOT, environment, usage
from relay.providers import DEV_PROVIDERS, PROVIDERS
from tests.support.ports import free_port

ASK = b"GET /%b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
QUIET_S = 2.0
WITHOUT_EXTRA = (
    "import sys; sys.modules['eth_account'] = None; sys.argv[1:] = ['serve']; from relay.cli import main; main()"
)
SERVERS = {
    "bare": ("-m", "bench.bare"),
    "relay": ("-m", "relay", "serve"),
    "all keys": ("-m", "relay", "serve"),
    "no extra": ("-c", WITHOUT_EXTRA),
}


class Start(msgspec.Struct, frozen=True):
    """One start: until the process answers, which is when it receives callbacks, and until its API is loaded too.

    It is idle after both.
    """

    first_200_ms: float
    ready_ms: float
    cpu_ms: float
    rss_mb: float


@click.command("coldstart")
@click.option("--rounds", default=9, help="Interleaved rounds; the medians count.")
@option
def command(rounds: int, kind: str) -> None:
    """Milliseconds from exec to the first 200 on a database that is there already, and megabytes when idle.

    relay has the key of one provider, but for the row that says otherwise.
    """
    with databases(kind) as made:
        found = asyncio.run(measured(made, SERVERS, rounds))
    click.echo(f"{'server':>9}{'first 200 ms':>14}{'more than bare':>16}{'ready ms':>10}{'CPU ms':>8}{'idle MB':>9}")
    rows = []
    bare_ms = turns.middle(found["bare"], "first_200_ms")
    for server, starts in found.items():
        row = turns.medians(starts)
        rows.append({"server": server, **row})
        more = row["first_200_ms"] - bare_ms
        times = f"{row['first_200_ms']:14.0f}{more:16.0f}{row['ready_ms']:10.0f}"
        click.echo(f"{server:>9}{times}{row['cpu_ms']:8.0f}{row['rss_mb']:9.1f}")
    click.echo(json.dumps({"bench": "coldstart", "database": kind, "runs": rows}))


async def measured(made: Databases, servers: Iterable[str], rounds: int) -> dict[str, list[Start]]:
    """Every server in turn, after a first start of each that makes its database and its bytecode."""
    urls = {server: made.fresh() for server in servers}

    async def start(server: str) -> Start:
        return await _start(server, made, urls[server])

    await turns.interleaved(1, urls, start)
    return await turns.interleaved(rounds, urls, start)


async def _start(server: str, made: Databases, database_url: str) -> Start:
    """One process, from exec to its end."""
    port, quiet = free_port(), asyncio.subprocess.DEVNULL
    environ = environment(str(made.folder), port, "http://127.0.0.1:9") | {"DATABASE_URL": database_url}
    if server == "relay":
        for name in {*PROVIDERS, *DEV_PROVIDERS} - {"evolink"}:
            del environ[f"RELAY_{name.upper()}_API_KEY"], environ[f"RELAY_{name.upper()}_BASE_URL"]
    # Compiled once, as an installed program is, whatever this shell says of it; the first start sees to that.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):  # with these relay loads the authorities at its start, for 18 ms
        environ.pop(name, None)
    environ["PYTHONPYCACHEPREFIX"] = str(made.folder / "bytecode")
    words = (*SERVERS[server], str(port)) if server == "bare" else SERVERS[server]
    began = time.perf_counter()
    child = await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=ROOT, env=environ, stdout=quiet, stderr=quiet
    )
    try:
        await _answers(port, b"healthz")
        first_200_ms = (time.perf_counter() - began) * 1000
        cpu_ms = usage(child.pid).cpu_s * 1000
        await _answers(port, b"readyz")
        ready_ms = (time.perf_counter() - began) * 1000
        await asyncio.sleep(QUIET_S)
        return Start(first_200_ms, ready_ms, cpu_ms, usage(child.pid).rss_mb)
    finally:
        child.terminate()
        await child.wait()


async def _answers(port: int, path: bytes) -> None:
    """Return with the first 200 of a path."""
    async with asyncio.timeout(30):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.002)
                continue
            writer.write(ASK % path)
            head = await reader.read(64)
            writer.close()
            if head.startswith(b"HTTP/1.1 200"):
                return
