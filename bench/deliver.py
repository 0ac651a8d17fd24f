"""How many notifications relay delivers in a second, against bare loops of POSTs and a naive relay with httpx.

Everything is in it: the callback is received and stored, its event fanned out to every endpoint, each notification
signed, sent, and its attempt stored. relay has one core; load and receiver share the other.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import click
import httpx
import msgspec
import uvloop

from bench.databases import Databases, databases, option
from bench.ingest import LOAD_CORE, RELAY_CORE, load, settings
from bench.processes import KEY, environment, free_port, ready, started, usage
from bench.receiver import Receiver, receiving
from bench.stock import stocked

SENDERS = ("posts", "aiohttp", "relay", "naive")
BARE = ("posts", "aiohttp")
"""Loops of POSTs and nothing else: with relay's own sender, and with aiohttp."""
LANES = 16
"""Endpoints' own limit of deliveries in flight."""


class Run(msgspec.Struct, frozen=True):
    """One run: notifications a second from the first callback to the last arrival, and what it took."""

    per_s: float
    cpu_us: float
    rss_mb: float


@click.command("deliver")
@click.option("--endpoints", default=10, help="Endpoints that want every event.")
@click.option("--events", default=2000, help="Events of each run.")
@click.option("--naive-events", default=200, help="Events of the naive relay's run: it is slow.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
@option
def command(endpoints: int, events: int, naive_events: int, rounds: int, kind: str) -> None:
    """Deliveries a second and the CPU each takes, beside loops of POSTs with the same client and with aiohttp."""
    os.sched_setaffinity(0, {LOAD_CORE})
    with databases(kind) as made:
        found = uvloop.run(_measure(made, endpoints, events, naive_events, rounds))
    click.echo(
        f"{'sender':>8}{'endpoints':>11}{'per s':>9}{'of posts':>10}{'of naive':>10}{'CPU us':>9}"
        f"{'CPU of aiohttp':>16}{'MB':>6}"
    )
    middle = {
        sender: {name: statistics.median(getattr(run, name) for run in runs) for name in Run.__struct_fields__}
        for sender, runs in found.items()
    }
    rows = []
    for sender, row in middle.items():
        of_posts, of_naive = row["per_s"] / middle["posts"]["per_s"], row["per_s"] / middle["naive"]["per_s"]
        of_aiohttp = middle["aiohttp"]["cpu_us"] / row["cpu_us"]
        ratios = {
            "of_posts": round(of_posts, 3),
            "of_naive": round(of_naive, 1),
            "cpu_of_aiohttp": round(of_aiohttp, 2),
        }
        rows.append({"sender": sender, **ratios, **row})
        click.echo(
            f"{sender:>8}{endpoints:11}{row['per_s']:9.0f}{of_posts:10.2f}{of_naive:10.1f}"
            f"{row['cpu_us']:9.0f}{of_aiohttp:16.2f}{row['rss_mb']:6.0f}"
        )
    click.echo(json.dumps({"bench": "deliver", "database": kind, "endpoints": endpoints, "runs": rows}))


async def _measure(
    made: Databases, endpoints: int, events: int, naive_events: int, rounds: int
) -> dict[str, list[Run]]:
    """Every sender in turn."""
    found: dict[str, list[Run]] = {sender: [] for sender in SENDERS}
    for number in range(rounds):
        for sender, runs in found.items():
            if sys.stderr.isatty():
                click.echo(f"\rround {number + 1} of {rounds}: {sender}  ", nl=False, err=True)
            runs.append(await run(sender, endpoints, naive_events if sender == "naive" else events, made))
    return found


async def run(sender: str, endpoints: int, events: int, made: Databases, database: str | None = None) -> Run:
    """One sender, from the first callback to the last arrival; on a fresh database if none is given."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        urls = [f"{origin}/{number}" for number in range(endpoints)]
        port, folder = free_port(), made.folder
        database = database or made.fresh()
        stock = await stocked(database, folder, events, urls, in_flight_max=LANES)
        environ = environment(str(folder), port, "http://127.0.0.1:9") | settings(database)
        words: tuple[str, ...] = ()
        if sender == "naive":
            words = ("bench.references", "naive", str(port), str(folder / f"{port}.db"), *urls)
        if sender in BARE:
            words = ("bench.references", sender, str(port), str(events * endpoints), *urls)
        child = await started(environ, *words, core=RELAY_CORE)
        stack.push_async_callback(child.wait)
        stack.callback(child.terminate)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await ready(client)
        before, began_s = usage(child.pid), time.time()
        if sender in BARE:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                await client.post("/go", timeout=600)
        else:
            await load(port, 64, 0, stock.callbacks)
        await arrived(receiver, events * endpoints)
        after = usage(child.pid)
        if sender == "relay":
            await _forget(port, stock.endpoint_ids)
        took_s = receiver.last_s - began_s
        cpu_us = (after.cpu_s - before.cpu_s) / (events * endpoints) * 1e6
        return Run(events * endpoints / took_s, cpu_us, after.rss_mb)


async def _forget(port: int, endpoint_ids: Sequence[str]) -> None:
    """Delete the endpoints, so that another run on the same database sends nothing to where nobody is any more."""
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False) as client:
        for endpoint_id in endpoint_ids:
            (await client.delete(f"/v1/endpoints/{endpoint_id}", timeout=60)).raise_for_status()


async def arrived(receiver: Receiver, wanted: int) -> None:
    """Return when everything has come; an error when nothing more does for half a minute."""
    seen, quiet_since = -1, time.monotonic()
    while receiver.count < wanted:
        if receiver.count != seen:
            seen, quiet_since = receiver.count, time.monotonic()
        elif time.monotonic() - quiet_since > 30:
            raise click.ClickException(f"{receiver.count} of {wanted} arrived")
        await asyncio.sleep(0.05)
