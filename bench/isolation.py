"""Whether a dead endpoint slows another: time from event to arrival at healthy ones, with and without dead ones."""

import asyncio
import json
import statistics
import sys
import time
from typing import Any

import click
import httpx

from bench.processes import relay_with_sandbox
from bench.receiver import Receiver, receiving
from bench.strangers import known, measured, show

BODY = {
    "provider": "evolink",
    "input": {"images": ["https://example.com/a.png"], "prompt": "slow push in [sandbox: lost]", "duration_s": 5},
}
ALLOWED_RATIO = 1.2


@click.command("isolation")
@click.option("--endpoints", default=100, help="Endpoints that want every event.")
@click.option("--dead", default=10, help="How many of them accept a connection and never answer.")
@click.option("--rate", default=5.0, help="Events a second.")
@click.option("--seconds", type=float, help="How long each run lasts: 15, and 2 with --strangers.")
@click.option("--rounds", type=int, help="Interleaved rounds: 3, of which the medians count; 10 with --strangers.")
@click.option("--strangers", help="A comma list of hostile loads, or all: what a quiet tenant feels of them instead.")
def command(
    endpoints: int, dead: int, rate: float, seconds: float | None, rounds: int | None, strangers: str | None
) -> None:
    """p99 from event to arrival at the healthy endpoints, with dead ones among them and without."""
    if strangers:
        found = asyncio.run(measured(known(strangers), seconds or 2.0, rounds or 10))
        show(found)
        click.echo(json.dumps({"bench": "isolation", "strangers": found}))
        return
    seconds, rounds = seconds or 15.0, rounds or 3
    runs: dict[int, list[dict[str, float]]] = {0: [], dead: []}
    for number in range(rounds):
        for count, each in runs.items():
            if sys.stderr.isatty():
                click.echo(f"round {number + 1}/{rounds}, {count} dead", err=True)
            each.append(asyncio.run(_run(endpoints, count, rate, seconds)))
    rows = [_medians(count, found) for count, found in runs.items()]
    click.echo(f"{'dead':>5}{'healthy':>9}{'arrived':>9}{'of':>8}{'p50 ms':>9}{'p99 ms':>9}")
    for row in rows:
        click.echo(
            f"{row['dead']:5.0f}{endpoints - row['dead']:9.0f}{row['arrived']:9.0f}{row['wanted']:8.0f}"
            f"{row['p50_ms']:9.1f}{row['p99_ms']:9.1f}"
        )
    ratio = rows[1]["p99_ms"] / rows[0]["p99_ms"]
    click.echo(f"p99 with {dead} dead / with none: {ratio:.2f} (at most {ALLOWED_RATIO} is asked for)")
    click.echo(json.dumps({"bench": "isolation", "ratio_p99": round(ratio, 3), "runs": rows}))


async def _run(endpoints: int, dead: int, rate: float, seconds: float) -> dict[str, float]:
    """One relay, its endpoints, a steady load; what arrived at the healthy ones, and how late."""
    async with receiving() as (receiver, origin), relay_with_sandbox(3600, RELAY_LOG_FORMAT="json") as (client, _):
        for number in range(endpoints):
            kind = "dead" if number < dead else "alive"
            made = await client.post("/v1/endpoints", json={"url": f"{origin}/{kind}/{number}"})
            made.raise_for_status()
        events = round(rate * seconds)
        await _load(client, events, rate)
        wanted = events * (endpoints - dead)
        await _arrived(receiver, wanted)
        found = sorted(late for path, times in receiver.latencies_ms.items() if "alive" in path for late in times)
        cuts = statistics.quantiles(found, n=100)
        return {"dead": dead, "arrived": len(found), "wanted": wanted, "p50_ms": cuts[49], "p99_ms": cuts[98]}


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


def _medians(dead: int, found: list[dict[str, float]]) -> dict[str, Any]:
    """Return the median of each number over the rounds."""
    return {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]} | {"dead": dead}
