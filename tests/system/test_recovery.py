"""The drills of docs/recovery.md: what comes back by itself after a day of trouble, and what an operator does.

The drill of a lost machine is in test_restore_drill.py.
"""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.clock import Clock
from relay.sandbox.providers import base_urls, sandbox
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.sandbox.world import Sandbox
from relay.security.encryption import Encryption
from relay.storage import encryption_keys
from relay.storage.store import open_database
from tests.support.running import DATABASES, KEY, SECRET_KEY, HeldClock, Running, http_client, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
DAY_S: Final = 86_400
HOUR_S: Final = 3_600
STEP_S: Final = 600
RUNNING_STEP_S: Final = 25
"""Less than the delay of a sweep by which relay knows that it was stopped."""
NEW_SECRET_KEY: Final = "another-key-that-is-long-enough-to-sign"


def announced(sink: Sink, kind: str) -> Counter[str]:
    """Return how often each job was announced so, each notification once by its id."""
    found = {one.headers["webhook-id"]: msgspec.json.decode(one.body) for one in sink.received}
    return Counter(body["data"]["job"]["id"] for body in found.values() if body["type"] == kind)


async def pass_a_day(clock: HeldClock) -> None:
    """Let a day pass; the first hours in steps that a running relay takes too, which is where deadlines are."""
    for _ in range(2 * HOUR_S // RUNNING_STEP_S):
        await clock.advance(RUNNING_STEP_S)
    for _ in range((DAY_S - 2 * HOUR_S) // STEP_S):
        await clock.advance(STEP_S)


class Outage:
    """The providers, which answer 503 to everything while they are down."""

    def __init__(self, world: Sandbox) -> None:
        self.down = False
        self.refused = 0
        self._world = world

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if self.down:
            self.refused += 1
            await Response("down", 503)(scope, receive, send)
        else:
            await self._world.app(scope, receive, send)


@asynccontextmanager
async def beside_an_outage(folder: Path, clock: Clock) -> AsyncIterator[tuple[Running, Outage]]:
    """Yield a relay, and its providers that can be down."""
    world = sandbox(pace_s=None, time_scale=0)
    outage = Outage(world)
    async with serve(outage) as origin:
        evolink = base_urls(origin)["evolink"]
        async with relay(
            folder, clock=clock, world=world, RELAY_EVOLINK_BASE_URL=evolink, RELAY_HEARTBEAT_S=str(2 * DAY_S)
        ) as running:
            yield running, outage
    await world.close()


async def subscribed(running: Running, **fields: Any) -> dict[str, Any]:
    """Return a standing endpoint for the events of jobs."""
    made = await running.client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["job.*"]} | fields)
    assert made.status_code == 201
    shown: dict[str, Any] = made.json()
    return shown


async def test_the_worker_is_lost_for_a_day(tmp_path: Path) -> None:
    """Accept jobs and callbacks for a day without a worker, and do everything when one is there again.

    On SQLite one process is both, so callbacks find nobody for a day, and the status route has the results.
    """
    clock, world = HeldClock(), sandbox(pace_s=None, time_scale=0)
    async with relay(tmp_path, clock=clock, world=world) as before:
        port = int(before.origin.rpartition(":")[2])
        await subscribed(before)
        jobs = [await before.submit(deadline_s=2 * DAY_S) for _ in range(3)]
        await before.sink.wait_for(lambda sink: sink.events().count("job.submitted") == 3)
        sink_before = before.sink
    if DATABASES.postgres is not None:
        async with relay(tmp_path, clock=clock, world=world, port=port, dispatches=False) as web:
            jobs.append(await web.submit(deadline_s=2 * DAY_S))
            for job in jobs:
                await world.finish(job["provider_job_id"])
            await pass_a_day(clock)
            assert {one["status"] for one in (await web.get("/v1/jobs"))["data"]} == {"submitted"}
            assert len((await web.get("/v1/callbacks"))["data"]) == 4
            assert web.sink.received == []
    else:
        for job in jobs:
            world.jobs[job["provider_job_id"]].state = "succeeded"
        await clock.advance(DAY_S)
    async with relay(tmp_path, clock=clock, world=world, port=port) as after:
        (standing,) = (await after.get("/v1/endpoints"))["data"]
        await after.client.patch(f"/v1/endpoints/{standing['id']}", json={"url": after.hook})
        for _ in range(6):
            await clock.advance(STEP_S)
        assert {one["status"] for one in (await after.get("/v1/jobs"))["data"]} == {"succeeded"}
        assert announced(after.sink, "job.succeeded") == Counter({job["id"]: 1 for job in jobs})
        submitted = announced(sink_before, "job.submitted") + announced(after.sink, "job.submitted")
        assert submitted == Counter({job["id"]: 1 for job in jobs})
    await world.close()


async def test_a_provider_is_down_for_a_day(tmp_path: Path) -> None:
    """Keep a job that has time open, and end another at its deadline; bring both results once the provider answers."""
    clock = HeldClock()
    async with beside_an_outage(tmp_path, clock) as (running, outage):
        await subscribed(running)
        patient = await running.submit(deadline_s=2 * DAY_S)
        usual = await running.submit()
        outage.down = True
        for job in (patient, usual):
            running.world.jobs[job["provider_job_id"]].state = "succeeded"
        await pass_a_day(clock)
        shown = {one["id"]: one["status"] for one in (await running.get("/v1/jobs"))["data"]}
        assert shown[usual["id"]] == "expired"
        assert announced(running.sink, "job.expired")[usual["id"]] == 1
        assert shown[patient["id"]] == "submitted"
        assert 10 < outage.refused < 3 * DAY_S / STEP_S
        outage.down = False
        checked = await running.client.post(f"/v1/jobs/{usual['id']}/status-checks")
        assert checked.status_code == 200
        await clock.advance(STEP_S)
        await clock.advance(STEP_S)
        for job in (patient, usual):
            assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"
            assert announced(running.sink, "job.succeeded")[job["id"]] == 1


async def test_a_subscriber_is_down_for_a_day(tmp_path: Path) -> None:
    """Deliver every event of the day once the subscriber is back, each once, after few attempts in between."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, confirm=False) as running:
        await subscribed(running)
        jobs = [await running.submit() for _ in range(20)]
        await running.sink.wait_for(lambda sink: len(sink.received) == len(jobs))
        running.sink.received.clear()
        running.sink.answers[:] = [503] * 100_000
        for job in jobs:
            await running.world.finish(job["provider_job_id"])
        await pass_a_day(clock)
        attempts = len(running.sink.received)
        assert len(jobs) <= attempts + 10
        assert attempts < 600
        running.sink.received.clear()
        running.sink.answers.clear()
        for _ in range(DAY_S // STEP_S):
            await clock.advance(STEP_S)
            if len(announced(running.sink, "job.succeeded")) == len(jobs):
                break
        assert announced(running.sink, "job.succeeded") == Counter({job["id"]: 1 for job in jobs})
        assert (await running.get("/v1/deliveries?status=pending"))["data"] == []
        (endpoint,) = (await running.get("/v1/endpoints"))["data"]
        assert endpoint["status"] == "active"


async def resealed(folder: Path, keys: str, now_ms: int) -> None:
    """Encrypt everything again by the newest key, as `relay keys reseal` does."""
    database = await open_database(DATABASES.url(folder))
    try:
        done = await encryption_keys.reseal(
            database, Encryption(keys.split(",")), lambda *_: None, now_ms, accept_loss=False
        )
    finally:
        await database.close()
    assert (done.resealed > 0, done.broken) == (True, 0)


async def replaced(running: Running, old: dict[str, Any]) -> None:
    """Make a new API key, and revoke the old one."""
    made = (await running.client.post("/v1/keys", json={"name": "films", "scopes": ["submit"]})).json()
    await running.client.post(f"/v1/keys/{old['id']}/revocations")
    for key, status in ((old["key"], 401), (made["key"], 403)):
        async with http_client(running.origin, key) as client:
            assert (await client.get("/v1/jobs")).status_code == status


async def test_every_key_is_rotated_while_jobs_are_outstanding(tmp_path: Path) -> None:
    """Change all keys in the order of the runbook; lose no job, no notification and no secret by it."""
    clock, world = HeldClock(), sandbox(pace_s=None, time_scale=0)
    old, both = SECRET_KEY, f"{SECRET_KEY},{NEW_SECRET_KEY}"
    async with relay(tmp_path, clock=clock, world=world, RELAY_SECRET_KEYS=old) as before:
        port = int(before.origin.rpartition(":")[2])
        endpoint = await subscribed(before, headers={"x-key": "a header"})
        client_key = (await before.client.post("/v1/keys", json={"name": "films", "scopes": ["submit"]})).json()
        by_callback, by_check = await before.submit(), await before.submit(deadline_s=DAY_S)
        await before.sink.wait_for(lambda sink: len(sink.received) == 2)
    # 1. A new key signs beside the old one, and everything is encrypted anew.
    async with relay(tmp_path, clock=clock, world=world, port=port, RELAY_SECRET_KEYS=both) as running:
        newer = await running.submit()
        await running.client.patch(f"/v1/endpoints/{endpoint['id']}", json={"url": running.hook})
        # 2. API keys: the new one works before the old one is revoked.
        await replaced(running, client_key)
        # 3. The endpoint's secret, while a notification waits for its next attempt: both sign.
        running.sink.answers[:] = [503]
        await world.finish(by_callback["provider_job_id"])
        await clock.advance(1)
        rotated = (await running.client.post(f"/v1/endpoints/{endpoint['id']}/secret-rotations")).json()
        await clock.advance(60)
        done = [one for one in running.sink.received if b'"job.succeeded"' in one.body]
        assert len(done) == 2
        assert done[-1].headers["webhook-signature"].count("v1,") == 2
    await resealed(tmp_path, both, clock.now_ms())
    # 4. The old key is gone: its callback URLs are refused, so that job ends by a status check.
    async with relay(
        tmp_path, clock=clock, world=world, port=port, RELAY_SECRET_KEYS=NEW_SECRET_KEY, RELAY_API_KEY=KEY + "-new"
    ) as after:
        assert (await after.client.get("/v1/jobs")).status_code == 401
        after.client.headers["authorization"] = f"Bearer {KEY}-new"
        await after.client.patch(f"/v1/endpoints/{endpoint['id']}", json={"url": after.hook})
        assert (await after.get(f"/v1/endpoints/{endpoint['id']}/secret"))["secret"] == rotated["secret"]
        for job in (by_check, newer):
            await world.finish(job["provider_job_id"])
        await clock.advance(STEP_S)
        await clock.advance(STEP_S)
        ended = {one["id"]: one["finished_by"] for one in (await after.get("/v1/jobs"))["data"]}
        assert (ended[by_check["id"]], ended[newer["id"]]) == ("status_check", "callback")
        assert announced(after.sink, "job.succeeded") == Counter([by_check["id"], newer["id"]])
        assert all(one.headers["x-key"] == "a header" for one in after.sink.received)
    await world.close()
