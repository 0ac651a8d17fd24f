"""Whether dead endpoints slow others: time from event to arrival at healthy ones, with and without dead ones.

Beside those that never answer, two more are at names that are never resolved.
"""

import asyncio
import json
import statistics
import time

import click
import httpx
import msgspec

from bench import rounds as turns
from bench.databases import Databases, databases, option
from bench.processes import relay_with_sandbox
from bench.receiver import Receiver, receiving

BODY = {
    "provider": "evolink",
    "input": {"images": ["https://example.com/a.png"], "prompt": "slow push in [sandbox: lost]", "duration_s": 5},
}
ALLOWED_RATIO = 1.2
HANGING_NAMES = 2


@click.command("isolation")
@click.option("--endpoints", default=100, help="Endpoints that want every event.")
@click.option("--dead", default=10, help="How many of them accept a connection and never answer.")
@click.option("--rate", default=5.0, help="Events a second.")
@click.option("--seconds", default=15.0, help="How long each run lasts.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
@option
def command(endpoints: int, dead: int, rate: float, seconds: float, rounds: int, kind: str) -> None:
    """p99 from event to arrival at the healthy endpoints, with dead ones among them and without."""
    load = Load(endpoints=endpoints, dead=dead, rate=rate, seconds=seconds)
    with databases(kind) as made:
        beside = asyncio.run(measured(made, rounds, load))
    rows = [turns.medians(runs) for runs in beside.values()]
    click.echo(f"{'dead':>5}{'healthy':>9}{'arrived':>9}{'of':>8}{'p50 ms':>9}{'p99 ms':>9}")
    for row in rows:
        click.echo(
            f"{row['dead']:5.0f}{endpoints - row['dead']:9.0f}{row['arrived']:9.0f}{row['wanted']:8.0f}"
            f"{row['p50_ms']:9.1f}{row['p99_ms']:9.1f}"
        )
    ratio = turns.ratio(beside[dead], beside[0], "p99_ms")
    click.echo(f"p99 with {dead} dead / with none: {ratio:.2f} (at most {ALLOWED_RATIO} is asked for)")
    click.echo(json.dumps({"bench": "isolation", "ratio_p99": round(ratio, 3), "runs": rows}))


class Beside(msgspec.Struct, frozen=True):
    """What arrived at the healthy endpoints, of how many, and how late."""

    dead: int
    arrived: int
    wanted: int
    p50_ms: float
    p99_ms: float


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How many endpoints want every event, how many of them are dead, and how many events a second come how long."""

    endpoints: int = 100
    dead: int = 10
    rate: float = 5.0
    seconds: float = 15.0


async def measured(made: Databases, rounds: int, load: Load) -> dict[int, list[Beside]]:
    """Run without dead endpoints and with them, in turn."""

    async def run(dead: int) -> Beside:
        return await _run(made.fresh(), msgspec.structs.replace(load, dead=dead))

    return await turns.interleaved(rounds, (0, load.dead), run)


async def _run(database: str, load: Load) -> Beside:
    """One relay, its endpoints, a steady load; beside dead endpoints two more are at names that hang."""
    endpoints, dead, rate = load.endpoints, load.dead, load.rate
    async with (
        receiving() as (receiver, origin),
        relay_with_sandbox(3600, "bench.hanging_names", RELAY_LOG_FORMAT="json", DATABASE_URL=database) as (client, _),
    ):
        urls = [f"{origin}/{'dead' if number < dead else 'alive'}/{number}" for number in range(endpoints)]
        urls += [f"http://{number}.hangs.test/" for number in range(HANGING_NAMES if dead else 0)]
        for url in urls:
            (await client.post("/v1/endpoints", json={"url": url})).raise_for_status()
        events = max(2, round(rate * load.seconds))
        await _load(client, events, rate)
        wanted = events * (endpoints - dead)
        await _arrived(receiver, wanted)
        found = sorted(late for path, times in receiver.latencies_ms.items() if "alive" in path for late in times)
        cuts = statistics.quantiles(found, n=100)
        return Beside(dead=dead, arrived=len(found), wanted=wanted, p50_ms=cuts[49], p99_ms=cuts[98])


async def _load(client: httpx.AsyncClient, events: int, rate: float) -> None:
    """One job after another at a steady pace; each makes one event."""
    began, sending = time.monotonic(), set()
    for number in range(events):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        sending.add(asyncio.create_task(client.post("/v1/jobs", json=BODY)))
    for answer in await asyncio.gather(*sending):
        answer.raise_for_status()


async def _arrived(receiver: Receiver, wanted: int) -> None:
    """Return when everything has come, or nothing more does for five seconds."""
    seen, quiet_since = -1, time.monotonic()
    while receiver.count < wanted and time.monotonic() - quiet_since < 5:
        if receiver.count != seen:
            seen, quiet_since = receiver.count, time.monotonic()
        await asyncio.sleep(0.1)
