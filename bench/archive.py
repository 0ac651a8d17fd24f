"""Whether copies of results slow notifications of other jobs, and how much memory they take.

In both runs as many jobs end at the same moment, and others are submitted at a steady pace; in one of them the results
of those that end are copied into a folder.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import httpx
import msgspec

from bench import rounds as turns
from bench.isolation import BODY, _load
from bench.processes import free_port, relay_with_sandbox
from bench.receiver import receiving
from relay.sandbox.world import Sandbox

ALLOWED_RATIO = 1.1
SERVER = """
import asyncio, sys
body = b"\\x00\\x00\\x00\\x20ftypisom" + bytes(int(sys.argv[2]) - 12)
async def serve(reader, writer):
    await reader.readuntil(b"\\r\\n\\r\\n")
    writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\nconnection: close\\r\\n\\r\\n" % len(body))
    for at in range(0, len(body), 1 << 18):
        writer.write(body[at : at + (1 << 18)])
        await writer.drain()
    writer.close()
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()
asyncio.run(main())
"""


class Measured(msgspec.Struct, frozen=True):
    """What a run came to: how late the other jobs' notifications were, the copies, and relay's memory."""

    copied: int
    seconds: float
    p50_ms: float
    p99_ms: float
    rss_before_mb: float
    rss_peak_mb: float


@click.command("archive")
@click.option("--results", default=500, help="Jobs that end at the same moment.")
@click.option("--megabytes", default=5, help="The size of each result.")
@click.option("--rate", default=20.0, help="Other jobs a second.")
@click.option("--seconds", default=20.0, help="How long they are submitted.")
@click.option("--rounds", default=2, help="Interleaved rounds; the medians count.")
def command(results: int, megabytes: int, rate: float, seconds: float, rounds: int) -> None:
    """p99 from event to arrival for other jobs, with copies under way and without, and relay's memory."""

    async def run(copies: int) -> Measured:
        return await _run(results, megabytes * 1_000_000, (rate, seconds), copies=bool(copies))

    beside = asyncio.run(turns.interleaved(rounds, (0, results), run))
    rows = [turns.medians(runs) for runs in beside.values()]
    for row in rows:
        click.echo(" ".join(f"{name}={value:.1f}" for name, value in row.items()))
    ratio = turns.ratio(beside[results], beside[0], "p99_ms")
    click.echo(f"p99 with copies / without: {ratio:.2f} (at most {ALLOWED_RATIO} is asked for)")
    click.echo(json.dumps({"bench": "archive", "ratio_p99": round(ratio, 3), "runs": rows}))


async def _run(results: int, size: int, load: tuple[float, float], *, copies: bool) -> Measured:
    """One relay; its jobs end, and others are submitted."""
    rate, seconds = load
    port = free_port()
    server = subprocess.Popen([sys.executable, "-c", SERVER, str(port), str(size)])  # noqa: ASYNC220 - once, before
    folder = tempfile.TemporaryDirectory(prefix="relay-bench-archive-")
    settings = {"RELAY_ARCHIVE_URL": Path(folder.name).as_uri()}
    try:
        async with receiving() as (receiver, origin), relay_with_sandbox(3600, **settings) as (client, world):
            ids = await _submitted(client, world, results, port, "after" if copies else "off")
            body = {"url": f"{origin}/alive/0", "event_types": ["job.submitted"]}
            (await client.post("/v1/endpoints", json=body)).raise_for_status()
            pid = _pid(client)
            before, began = _rss_mb(pid), time.monotonic()
            ending = asyncio.gather(*(world.finish(one) for one in ids))
            await _load(client, round(rate * seconds), rate)
            await ending
            while (shown := (await client.get("/v1/archive")).json()["copies"])["pending"]["number"]:  # noqa: ASYNC110 - HTTP
                await asyncio.sleep(0.2)
            cuts = statistics.quantiles(receiver.latencies_ms["/alive/0"], n=100)
            return Measured(
                copied=shown["archived"]["number"],
                seconds=time.monotonic() - began,
                p50_ms=cuts[49],
                p99_ms=cuts[98],
                rss_before_mb=before,
                rss_peak_mb=_rss_mb(pid, "VmHWM"),
            )
    finally:
        server.kill()
        folder.cleanup()


async def _submitted(client: httpx.AsyncClient, world: Sandbox, results: int, port: int, mode: str) -> list[str]:
    """Return the providers' ids of jobs whose results are on the server."""
    for _ in range(results):
        (await client.post("/v1/jobs", json=BODY | {"archive": mode})).raise_for_status()
    for job in world.jobs.values():
        job.results_at = f"http://127.0.0.1:{port}"
        job.faults = type(job.faults)()
    return list(world.jobs)


def _pid(client: httpx.AsyncClient) -> int:
    """Return the process that has the port of a client."""
    wanted = f"PORT={client.base_url.port}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in environ.read_bytes().split(b"\0"):
                return int(environ.parent.name)
        except OSError:
            continue
    raise LookupError("no process has the port")


def _rss_mb(pid: int, name: str = "VmRSS") -> float:
    """Return the memory of a process in megabytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(name))
