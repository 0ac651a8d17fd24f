"""What a job costs where its provider is asked: a submission, and an end that is confirmed by a status check.

The provider answers at once, in this process. Without endpoints, so that nothing else is measured.
"""

import asyncio
import re
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import click
import httpx
import msgspec

from bench.databases import Databases
from bench.ingest import load, split
from bench.processes import program
from bench.receiver import receiving
from bench.stock import PROVIDER, REQUEST, stocked

WARM = 100
PROVIDER_AT = "RELAY_EVOLINK_BASE_URL"
EVERY_END_S = 120.0
_ENDED = re.compile(r'^relay_jobs_finished_total\{[^}]*verification="(\w+)"\} (\S+)$', re.MULTILINE)


class Cost(msgspec.Struct, frozen=True):
    """CPU of one job; the share of the ends that a status check confirmed; seconds until the last end."""

    cpu_us: float
    fetched: float
    took_s: float


async def finished(made: Databases, jobs: int, settings: Mapping[str, str] | None = None) -> Cost:
    """Return the cost of the end of a job, by one callback each, all sent as fast as they are answered."""
    async with AsyncExitStack() as stack:
        _, origin = await stack.enter_async_context(receiving())
        database = made.fresh()
        stock = await stocked(database, made.folder, jobs + WARM, [])
        running = await stack.enter_async_context(
            program(made, database, settings={PROVIDER_AT: origin, **(settings or {})})
        )
        client = await stack.enter_async_context(running.client())
        warm, rest = split(stock.callbacks, WARM)
        await load(running.port, 16, 0, warm)
        before = await _all_ended(client, WARM)
        before_s, began_s = await running.quiet(), time.monotonic()
        await load(running.port, 64, 0, rest)
        after = await _all_ended(client, WARM + jobs)
        took_s = time.monotonic() - began_s
        fetched = after.get("fetch", 0) - before.get("fetch", 0)
        return Cost(cpu_us=(await running.quiet() - before_s) / jobs * 1e6, fetched=fetched / jobs, took_s=took_s)


async def _all_ended(client: httpx.AsyncClient, wanted: int) -> dict[str, int]:
    """Return how many jobs ended with each verification, once so many have."""
    until_s, ends = time.monotonic() + EVERY_END_S, {}
    while time.monotonic() < until_s:
        counted = _ENDED.findall((await client.get("/metrics")).text)
        ends = {how: round(sum(float(number) for one, number in counted if one == how)) for how, _ in counted}
        if sum(ends.values()) >= wanted:
            return ends
        await asyncio.sleep(0.25)
    raise click.ClickException(f"{ends} of {wanted} jobs ended")


async def submitted(made: Databases, jobs: int, connections: int = 16) -> Cost:
    """Return the cost of a job from its request to the provider's answer, stored."""
    async with AsyncExitStack() as stack:
        _, origin = await stack.enter_async_context(receiving())
        settings = {PROVIDER_AT: origin, "RELAY_RATE_PER_KEY": "0"}  # the load is one key, as fast as relay answers
        running = await stack.enter_async_context(program(made, made.fresh(), settings=settings))
        warm, rest = made.folder / "warm.txt", made.folder / "rest.txt"
        for path, number in ((warm, WARM), (rest, jobs)):
            write_requests(path, number)
        await load(running.port, connections, 0, warm)
        before_s, began_s = await running.quiet(), time.monotonic()
        loaded = await load(running.port, connections, 0, rest)
        took_s = time.monotonic() - began_s
        if loaded.statuses != {"202": jobs}:
            raise click.ClickException(f"relay answered {loaded.statuses}")
        return Cost(cpu_us=(await running.quiet() - before_s) / jobs * 1e6, fetched=0.0, took_s=took_s)


def write_requests(path: Path, number: int) -> None:
    """Write so many requests for jobs, as a load reads them."""
    body = msgspec.json.encode({"provider": PROVIDER, "request": REQUEST, "metadata": {"order": "4711"}})
    path.write_bytes((b"/v1/jobs\t" + body + b"\n") * number)
