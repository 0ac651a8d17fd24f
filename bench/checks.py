"""How often providers are asked: status checks per job, with callbacks that work and with none that arrives."""

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

import click
import httpx

from bench.processes import relay_with_sandbox
from relay.providers import PROVIDERS

INPUT = {"images": ["https://example.com/a.png"], "duration_s": 5}
FINAL = {"succeeded", "failed", "canceled", "expired"}
IN_FLIGHT = 20


@click.command("checks")
@click.option("--jobs", default=200, help="Jobs in each of the two runs.")
@click.option("--pace", default=2.0, help="Seconds that a job takes at its provider.")
def command(jobs: int, pace: float) -> None:
    """Status checks per job, confirmation included, and whether every job ends when no callback ever comes."""
    rows = [asyncio.run(_run(name, prompt, jobs, pace)) for name, prompt in RUNS.items()]
    click.echo(f"{'callbacks':12}{'jobs':>6}{'ended':>7}{'checks':>8}{'per job':>9}{'p50 s':>8}{'p99 s':>8}  ended by")
    for row in rows:
        click.echo(
            f"{row['callbacks']:12}{row['jobs']:6}{row['ended']:7}{row['checks']:8}{row['checks_per_job']:9.2f}"
            f"{row['p50_s']:8.1f}{row['p99_s']:8.1f}  {row['ended_by']}"
        )
    click.echo(json.dumps({"bench": "checks", "runs": rows}))


RUNS = {"working": "slow push in", "all lost": "slow push in [sandbox: lost]"}


async def _run(name: str, prompt: str, jobs: int, pace_s: float) -> dict[str, Any]:
    """So many jobs over all providers that call back; what was asked, and how they ended."""
    # The first check is due where a provider's own estimate and half of it would put it.
    async with relay_with_sandbox(pace_s, RELAY_STATUS_CHECK_FIRST_S=str(pace_s * 1.5)) as (client, world):
        room, began = asyncio.Semaphore(IN_FLIGHT), time.monotonic()
        names = sorted(name for name, adapter in PROVIDERS.items() if adapter.callback_field)

        async def one(number: int) -> float:
            body = {"provider": names[number % len(names)], "input": INPUT | {"prompt": prompt}}
            async with room:
                job = (await client.post("/v1/jobs", json=body)).raise_for_status().json()
            started = time.monotonic()
            while job["status"] not in FINAL and time.monotonic() - began < 120:
                async with room:
                    job = (await client.get(f"/v1/jobs/{job['id']}", headers={"prefer": "wait=1"})).json()
            return time.monotonic() - started

        running = [asyncio.create_task(one(number)) for number in range(jobs)]
        await _shown(name, running)
        took = sorted(task.result() for task in running)
        ended = [job for job in await _all(client) if job["status"] in FINAL]
        return {
            "callbacks": name,
            "jobs": jobs,
            "ended": len(ended),
            "checks": len(world.status_checks),
            "checks_per_job": round(len(world.status_checks) / jobs, 3),
            "p50_s": round(took[jobs // 2], 2),
            "p99_s": round(took[min(jobs - 1, jobs * 99 // 100)], 2),
            "ended_by": dict(Counter(f"{job['finished_by']}/{job['verification']}" for job in ended)),
        }


async def _shown(name: str, running: list[asyncio.Task[float]]) -> None:
    """Print a line about the progress."""
    while pending := [task for task in running if not task.done()]:
        if sys.stderr.isatty():
            click.echo(f"\r{name}: {len(running) - len(pending)}/{len(running)} ended ", nl=False, err=True)
        await asyncio.wait(pending, timeout=0.5)


async def _all(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Every job, page by page."""
    jobs: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = (await client.get(f"/v1/jobs?limit=200{cursor}")).json()
        jobs += page["data"]
        if page["next_cursor"] is None:
            return jobs
        cursor = f"&cursor={page['next_cursor']}"
