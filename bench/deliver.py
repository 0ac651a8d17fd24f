"""How many notifications relay delivers in a second, and the CPU each takes, against bare loops of POSTs.

Everything is in it: the callback is received and stored, its event fanned out to every endpoint, each notification
signed, sent, and its attempt stored. relay has one core; load and receiver share the other.
"""

import asyncio
import json
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import click
import msgspec
import uvloop

from bench import rounds as turns
from bench.databases import Databases, databases, option
from bench.ingest import load
from bench.processes import LOAD_CORE, Program, program, usage
from bench.receiver import Receiver, receiving
from bench.stock import Shape, stocked

BARE = ("aiohttp", "posts")
"""Loops of POSTs and nothing else: with aiohttp, and with relay's own sender."""
LANES = 16
"""Deliveries in flight to one of ten endpoints; the benchmark of one endpoint leaves relay's default."""
CONNECTIONS = 64


class Deliveries(msgspec.Struct, frozen=True):
    """One run: notifications a second from the first callback to the last arrival, and what it took.

    `accepted_per_s` are the callbacks of the same run; `cpu_us` is for one notification.
    """

    per_s: float
    accepted_per_s: float
    cpu_us: float
    rss_mb: float


@click.command("deliver")
@click.option("--endpoints", default=10, help="Endpoints that want every event.")
@click.option("--events", default=2000, help="Events of each run.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
@option
def command(endpoints: int, events: int, rounds: int, kind: str) -> None:
    """Deliveries a second and the CPU each takes, beside loops of POSTs with the same client and with aiohttp."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with databases(kind) as made:
        found = uvloop.run(
            turns.interleaved(rounds, (*BARE, "relay"), lambda sender: run(sender, endpoints, events, made))
        )
    click.echo(
        f"{'sender':>8}{'endpoints':>11}{'per s':>9}{'of aiohttp':>12}{'CPU us':>9}{'aiohttp/CPU':>13}"
        f"{'of accepted':>13}{'MB':>6}"
    )
    rows = []
    for sender, runs in found.items():
        row: dict[str, Any] = {
            "sender": sender,
            "of_aiohttp": round(turns.ratio(runs, found["aiohttp"], "per_s"), 3),
            "cpu_of_aiohttp": round(turns.ratio(found["aiohttp"], runs, "cpu_us"), 3),
            **turns.medians(runs),
        }
        rows.append(row)
        of_accepted = row["per_s"] / endpoints / row["accepted_per_s"] if sender == "relay" else 1
        click.echo(
            f"{sender:>8}{endpoints:11}{row['per_s']:9.0f}{row['of_aiohttp']:12.2f}{row['cpu_us']:9.0f}"
            f"{row['cpu_of_aiohttp']:13.2f}{of_accepted:13.2f}{row['rss_mb']:6.0f}"
        )
    click.echo(json.dumps({"bench": "deliver", "database": kind, "endpoints": endpoints, "runs": rows}))


async def run(sender: str, endpoints: int, events: int, made: Databases, database: str | None = None) -> Deliveries:
    """One sender, from the first callback to the last arrival; on a fresh database if none is given."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        urls = [f"{origin}/{number}" for number in range(endpoints)]
        wanted, database = events * endpoints, database or made.fresh()
        stock = None
        if sender == "relay":
            shape = Shape(in_flight_max=LANES if endpoints > 1 else None)
            stock = await stocked(database, made.folder, events, urls, shape)
        words = ("bench.references", sender, "{port}", str(wanted), *urls) if sender in BARE else ()
        running = await stack.enter_async_context(program(made, database, *words))
        before_s, began_s = await running.quiet(), time.time()
        accepted_per_s = 0.0
        if stock is None:
            async with running.client() as client:
                (await client.post("/go", timeout=600)).raise_for_status()
        else:
            loaded = await load(running.port, CONNECTIONS, 0, stock.callbacks)
            accepted_per_s, began_s = loaded.per_s, loaded.began_s
        await arrived(receiver, wanted)
        cpu_us = (await running.quiet() - before_s) / wanted * 1e6
        if stock is not None:
            await _forget(running, stock.endpoint_ids)
        return Deliveries(
            per_s=wanted / (receiver.last_s - began_s),
            accepted_per_s=accepted_per_s,
            cpu_us=cpu_us,
            rss_mb=usage(running.child.pid).rss_mb,
        )


async def _forget(running: Program, endpoint_ids: Sequence[str]) -> None:
    """Delete the endpoints, so that another run on the same database sends nothing to where nobody is any more."""
    async with running.client() as client:
        for endpoint_id in endpoint_ids:
            (await client.delete(f"/v1/endpoints/{endpoint_id}")).raise_for_status()


async def arrived(receiver: Receiver, wanted: int) -> None:
    """Return when everything has come; an error when nothing more does for half a minute."""
    seen, quiet_since = -1, time.monotonic()
    while receiver.count < wanted:
        if receiver.count != seen:
            seen, quiet_since = receiver.count, time.monotonic()
        elif time.monotonic() - quiet_since > 30:
            raise click.ClickException(f"{receiver.count} of {wanted} arrived")
        await asyncio.sleep(0.05)
