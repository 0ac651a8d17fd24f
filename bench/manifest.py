"""Whether everything arrives: events published in one phase, then every id looked for at every endpoint.

Receivers fail at random, and relay is killed with SIGKILL in between and started again on the same database.
"""

import asyncio
import hashlib
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack

import click
import httpx

from bench.databases import databases, option
from bench.processes import KEY, environment, ready, started
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from tests.support.ports import free_port

_ID = re.compile(rb"webhook-id: *(evt_\w+)", re.IGNORECASE)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
BODY = {
    "provider": "evolink",
    "input": {"images": ["https://example.com/a.png"], "prompt": "slow push in [sandbox: lost]", "duration_s": 5},
}
SCHEDULE = ",".join(["0", *["1"] * 49])


class Flaky:
    """A receiver that fails at random, and keeps the ids of what it took, by path."""

    def __init__(self, failing: float, seed: int) -> None:
        self.taken: dict[str, Counter[bytes]] = defaultdict(Counter)
        self._failing = failing
        self._random = random.Random(seed)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length, event = _LENGTH.search(head), _ID.search(head)
                await reader.readexactly(int(length[1]) if length else 0)
                luck = self._random.random()
                if luck < self._failing / 3:
                    break
                good = luck >= self._failing
                if good and event:
                    self.taken[head.split(b" ", 2)[1].decode()][event[1]] += 1
                status = b"200 OK" if good else b"500 Internal Server Error"
                writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def manifests(self) -> dict[str, tuple[int, str]]:
        """For each path how many ids it took, and a digest of them in order."""
        return {
            path: (len(ids), hashlib.sha256(b"".join(sorted(ids))).hexdigest()[:12]) for path, ids in self.taken.items()
        }


@click.command("manifest")
@click.option("--events", default=20_000, help="Events to publish.")
@click.option("--endpoints", default=20, help="Endpoints that want each of them.")
@click.option("--failing", default=0.05, help="Share of attempts that fail: an error, or a cut connection.")
@click.option("--kills", default=2, help="How often relay is killed while it works.")
@click.option("--seed", default=1, help="What the failures are drawn with.")
@option
def command(events: int, endpoints: int, failing: float, kills: int, seed: int, kind: str) -> None:
    """Every event at every endpoint, in spite of failures and kills; exit 1 if one is missing."""
    with databases(kind) as made:
        flaky, took_s, ids = asyncio.run(_run(made.fresh(), events, endpoints, failing, kills, seed))
    manifests = flaky.manifests()
    repeated = sum(times - 1 for taken in flaky.taken.values() for times in taken.values())
    wanted = (len(ids), hashlib.sha256(b"".join(sorted(ids))).hexdigest()[:12])
    whole = len(manifests) == endpoints and set(manifests.values()) == {wanted}
    click.echo(f"{'events':>8}{'endpoints':>11}{'deliveries':>12}{'repeated':>10}{'kills':>7}{'seconds':>9}  manifests")
    said = "all equal, nothing missing" if whole else "NOT EQUAL"
    deliveries = sum(number for number, _ in manifests.values())
    click.echo(f"{len(ids):8}{len(manifests):11}{deliveries:12}{repeated:10}{kills:7}{took_s:9.0f}  {said}")
    found = {
        "events": len(ids),
        "deliveries": deliveries,
        "repeated": repeated,
        "seconds": round(took_s),
        "whole": whole,
    }
    click.echo(json.dumps({"bench": "manifest", "database": kind, **found, "whole": whole}))
    sys.exit(0 if whole else 1)


async def _run(
    database: str, events: int, endpoints: int, failing: float, kills: int, seed: int
) -> tuple[Flaky, float, set[bytes]]:
    """Publish, kills, starts again, and waits until every endpoint has every event."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-bench-"))
        world = sandbox(pace_s=3600)
        stack.push_async_callback(world.close)
        providers_at = await stack.enter_async_context(serve(world.app))
        flaky, port = Flaky(failing, seed), free_port()
        server = await asyncio.start_server(flaky.connected, "127.0.0.1", 0, backlog=4096)
        stack.callback(server.close)
        origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        environ = environment(folder, port, providers_at) | {
            "DATABASE_URL": database,
            "RELAY_RETRY_SCHEDULE_S": SCHEDULE,
            "RELAY_LEASE_S": "4",
        }
        headers = {"authorization": f"Bearer {KEY}"}
        base = f"http://127.0.0.1:{port}"
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=30)
        )
        child = await started(environ)
        try:
            await ready(client)
            for number in range(endpoints):
                body = {"url": f"{origin}/{number}", "timeout_s": 2, "in_flight_max": 32}
                (await client.post("/v1/endpoints", json=body)).raise_for_status()
            began, ids = time.monotonic(), set()
            for part in range(kills + 1):
                await _publish(client, events // (kills + 1) + (events % (kills + 1) if part == 0 else 0))
                if part < kills:
                    child.send_signal(signal.SIGKILL)
                    await child.wait()
                    child = await started(environ)
                    await ready(client)
            ids = await _published(client)
            await _arrived(flaky, len(ids) * endpoints)
            return flaky, time.monotonic() - began, ids
        finally:
            child.terminate()
            await child.wait()


async def _publish(client: httpx.AsyncClient, events: int) -> None:
    """So many jobs, sixteen at a time, each of which makes one event."""
    left = iter(range(events))

    async def work() -> None:
        for number in left:
            (await client.post("/v1/jobs", json=BODY)).raise_for_status()
            if number % 1000 == 999 and sys.stderr.isatty():
                click.echo(f"\r{number + 1} published ", nl=False, err=True)

    await asyncio.gather(*(work() for _ in range(16)))


async def _published(client: httpx.AsyncClient) -> set[bytes]:
    """Return the ids of every event that relay has."""
    ids: set[bytes] = set()
    cursor = ""
    while True:
        page = (await client.get(f"/v1/events?limit=200{cursor}")).json()
        ids |= {event["id"].encode() for event in page["data"]}
        if page["next_cursor"] is None:
            return ids
        cursor = f"&cursor={page['next_cursor']}"


async def _arrived(flaky: Flaky, wanted: int) -> None:
    """Return when everything has come, or nothing new has for half a minute."""
    seen, quiet_since = -1, time.monotonic()
    while time.monotonic() - quiet_since < 30:
        there = sum(len(taken) for taken in flaky.taken.values())
        if there >= wanted:
            return
        if there != seen:
            seen, quiet_since = there, time.monotonic()
            if sys.stderr.isatty():
                click.echo(f"\r{there}/{wanted} arrived ", nl=False, err=True)
        await asyncio.sleep(0.2)
