"""An endpoint is disabled and enabled while events are on their way: it gets every one of them, and misses none."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.clock import SystemClock
from relay.errors import StorageUnavailable
from relay.model import ids
from relay.model.delivery import DeliveryState, Endpoint
from relay.security.encryption import Encryption
from relay.storage import endpoint_status
from relay.storage.deliveries import Deliveries
from relay.storage.endpoints import Change, Endpoints
from relay.storage.engine.database import Database, DueWork, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.engine.postgres import SESSION
from relay.storage.fan_out import EventRef, new_delivery
from relay.storage.history import PATIENCE_MS, Events
from relay.storage.redeliveries import Redeliveries, Step
from tests.storage.test_settling import result_of
from tests.storage.test_stream_order import migrated, writers
from tests.support.past import ENDPOINT, add_event, database, select
from tests.support.postgres import Server
from tests.support.running import SECRET_KEY, START_MS, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

SEAL = Encryption([SECRET_KEY])
MINUTE_MS = 60_000
LISTENER = msgspec.structs.replace(ENDPOINT, event_types=["job.*"], created_at=START_MS - 60 * MINUTE_MS)
"""It wants no word of its own switches."""


class Switched:
    """An endpoint in a database, and the events that are written while it is switched."""

    def __init__(self, opened: Database) -> None:
        self.opened = opened
        self.redeliveries = Redeliveries(opened, Writer(opened, 16), Events(opened))
        self._endpoints = Endpoints(opened, Writer(opened, 16), SEAL)

    async def begin(self) -> None:
        """Add the endpoint, an hour old."""
        assert await self._endpoints.create(LISTENER, 1)

    async def patch(self, at: int, *, active: bool) -> Endpoint | None:
        """Return what `PATCH` with a status does, stamped at that time."""
        return await self._endpoints.change(
            Change(endpoint_id="ep_1", project_id="prj_default", at=at, apply=lambda found: found, active=active)
        )

    async def event(self, at: int, states: tuple[str, ...] = ()) -> str:
        """Insert an event stamped at that time and committed now, with or without a delivery for the endpoint."""
        number = self._number = getattr(self, "_number", 0) + 1
        return await self.opened.transact(
            partial(add_event, job_id="job_1", endpoint_id="ep_1", at=at, states=states, sequence=number)
        )

    async def sent(self, now_ms: int) -> list[str]:
        """Return the events that all open batches send again at that time, step by step, in order of their batches."""
        sent: list[str] = []
        for batch in await self.redeliveries.open():
            while True:
                batch = await self.redeliveries.ended(batch, now_ms)  # noqa: PLW2901 - the batch, further on
                found = await self.redeliveries.find(batch, LISTENER, 100, now_ms)
                await self.redeliveries.step(Step(batch=batch, found=found, now=now_ms, leased_until=now_ms + 1))
                sent += [event.id for event in found.events]
                if not found.more:
                    break
                (batch,) = [one for one in await self.redeliveries.open() if one.id == batch.id]  # noqa: PLW2901
        return sent


@asynccontextmanager
async def switched(folder: Path) -> AsyncIterator[Switched]:
    """Yield a database of the folder's with one endpoint."""
    async with database(folder) as opened:
        stage = Switched(opened)
        await stage.begin()
        yield stage


async def test_an_event_that_is_stamped_after_the_switch_and_committed_before_it_is_sent(tmp_path: Path) -> None:
    """Send what the endpoint missed by the order of commits: the request was stamped, then waited for its commit."""
    async with switched(tmp_path) as stage:
        await stage.patch(START_MS, active=False)
        missed = [await stage.event(START_MS + 5), await stage.event(START_MS + 2 * MINUTE_MS)]
        await stage.patch(START_MS + MINUTE_MS, active=True)
        after = await stage.event(START_MS + MINUTE_MS, ("delivered",))
        assert await stage.sent(START_MS + 5 * MINUTE_MS) == missed
        assert await stage.sent(START_MS + 5 * MINUTE_MS) == []
        assert after not in missed
        assert await stage.redeliveries.open() == []


async def test_an_event_that_is_stamped_before_it_was_disabled_and_committed_after_is_sent(tmp_path: Path) -> None:
    """Begin where the endpoint was disabled in the order of commits, however old the stamp of the event is."""
    async with switched(tmp_path) as stage:
        seen = await stage.event(START_MS - MINUTE_MS, ("delivered",))
        unwanted = await stage.event(START_MS - MINUTE_MS)  # before it was disabled: this endpoint never wanted it
        await stage.patch(START_MS, active=False)
        missed = await stage.event(START_MS - MINUTE_MS)
        await stage.patch(START_MS + 1, active=True)
        assert await stage.sent(START_MS + MINUTE_MS) == [missed]
        assert seen != unwanted


async def test_the_return_after_five_days_is_bounded_by_commits_too(tmp_path: Path) -> None:
    """Send what was committed around the switches that the endpoint's own attempts make."""
    async with switched(tmp_path) as stage:
        reason = endpoint_status.FAILING_REASON
        await stage.opened.transact(partial(endpoint_status.disable, endpoint_id="ep_1", at=START_MS, reason=reason))
        missed = [await stage.event(START_MS - 1), await stage.event(START_MS + 2 * MINUTE_MS)]
        accepted = endpoint_status.ProbeResult(at=START_MS + 1, good=True, asked=False)
        assert await stage.opened.transact(partial(endpoint_status.probed, endpoint_id="ep_1", result=accepted))
        assert await stage.sent(START_MS + 5 * MINUTE_MS) == missed


async def test_what_is_missing_is_made_once(tmp_path: Path) -> None:
    """Make one delivery of each missed event, however many batches have found it before either wrote."""
    async with switched(tmp_path) as stage:
        await stage.patch(START_MS, active=False)
        missed = [await stage.event(START_MS + number) for number in range(3)]
        for at in (START_MS + 10, START_MS + 30):
            await stage.patch(at, active=True)
            await stage.patch(at + 10, active=False)
        await stage.patch(START_MS + 50, active=True)
        now_ms = START_MS + 5 * MINUTE_MS
        batches = [one for one in await stage.redeliveries.open() if one.which == "missing"]
        assert len(batches) == 3
        batches = [msgspec.structs.replace(one, first_position=batches[0].first_position) for one in batches]
        found = [await stage.redeliveries.find(one, LISTENER, 100, now_ms) for one in batches]
        assert [[event.id for event in one.events] for one in found] == [missed] * 3
        await asyncio.gather(
            *(
                stage.redeliveries.step(Step(batch=batch, found=one, now=now_ms, leased_until=now_ms + 1))
                for batch, one in zip(batches, found, strict=True)
            )
        )
        assert sorted(await select(stage.opened, "SELECT event_id FROM deliveries")) == sorted((one,) for one in missed)


async def test_a_batch_ends_only_when_what_is_uncommitted_is_there(database_server: Server) -> None:
    """Keep a batch open over an event whose transaction began before the batch's end and is committed after it."""
    url = database_server.database()
    async with migrated(url) as opened, writers(url, 1) as (slow,):
        stage = Switched(opened)
        await stage.begin()
        await stage.patch(START_MS, active=False)
        await stage.patch(START_MS + 1, active=True)
        now_ms = START_MS + 1 + PATIENCE_MS
        assert await stage.sent(now_ms - 1) == []
        late = ids.new_id(ids.EVENT)
        await slow.insert(late, START_MS, "job.running")
        for _ in range(2):
            assert await stage.sent(now_ms) == []
            assert [one.which for one in await stage.redeliveries.open()] == ["missing"]
        await slow.end()
        assert await stage.sent(now_ms) == [late]
        assert await stage.redeliveries.open() == []


async def test_a_transaction_that_stands_still_is_undone_before_a_batch_stops_waiting(database_server: Server) -> None:
    """End the session of a process that stood still since it read who listens, so that it writes nothing by that."""
    assert int(SESSION["idle_in_transaction_session_timeout"].removesuffix("s")) * 1000 < PATIENCE_MS / 2
    async with migrated(database_server.database()) as opened:

        async def work(transaction: Transaction) -> None:
            await transaction.run_text("SET LOCAL idle_in_transaction_session_timeout = '10ms'")
            await transaction.rows("jobs_and_listeners", {"ids": ["job_1"]})
            time.sleep(0.1)  # noqa: ASYNC251 - the whole process stands still
            await transaction.run_many("insert_job_metadata", [{"project_id": "p", "pair": "a=b", "job_id": "j"}])

        with pytest.raises(StorageUnavailable):
            await opened.transact(work)
        assert await select(opened, "SELECT COUNT(*) FROM job_metadata") == [(0,)]


async def missing(running: Running, made: dict[str, Any]) -> set[str]:
    """Return the events that the endpoint should have had and did not get."""
    wanted, cursor = set(), ""
    while True:
        page = await running.get(f"/v1/events?type=job.submitted&limit=200{cursor}")
        wanted |= {event["id"] for event in page["data"]}
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    got = {one.headers["webhook-id"] for one in running.sink.received if one.path == made["url"][-len(one.path) :]}
    return wanted - got


@pytest.mark.parametrize("processes", [1, 2])
async def test_nothing_is_lost_while_an_endpoint_is_switched_under_load(tmp_path: Path, processes: int) -> None:
    """Deliver every event of the jobs that are submitted while a client disables and enables the endpoint."""
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(relay(tmp_path, clock=SystemClock(), confirm=False))
        if processes > 1 and not running.app.store.shared:
            pytest.skip("SQLite has one process")
        others = [relay(tmp_path, clock=SystemClock(), confirm=False) for _ in range(processes - 1)]
        relays = [running, *[await stack.enter_async_context(other) for other in others]]
        fields = {"url": running.hook, "event_types": ["job.submitted"], "in_flight_max": 50}
        made = (await running.client.post("/v1/endpoints", json=fields)).json()

        async def submit(one: Running) -> None:
            for _ in range(15):
                await one.submit()

        async def switch(one: Running) -> None:
            for _ in range(8):
                for status in ("disabled", "active"):
                    answer = await one.client.patch(f"/v1/endpoints/{made['id']}", json={"status": status})
                    assert answer.json()["status"] == status

        submitting = [submit(one) for one in relays for _ in range(8)]
        await asyncio.gather(*submitting, *(switch(one) for one in relays[:1]))
        await running.client.patch(f"/v1/endpoints/{made['id']}", json={"status": "active"})
        async with asyncio.timeout(60):
            while await missing(running, made):
                before = len(running.sink.received)
                await running.sink.wait_for(lambda sink, before=before: len(sink.received) > before)  # type: ignore[misc]


async def late(running: Running, made: dict[str, Any]) -> str:
    """Return a delivery to a disabled endpoint, as a transaction makes it that saw the endpoint active."""
    event = (await running.get("/v1/events?type=job.submitted"))["data"][0]
    now_ms = running.clock.now_ms()
    about = EventRef(event["id"], "prj_default", event["data"]["job"]["id"])
    delivery = new_delivery(about, made["id"], now_ms, now_ms)

    async def insert(transaction: Transaction) -> None:
        await transaction.run_many("insert_delivery", [delivery])
        await transaction.notify(DueWork.DELIVERIES)

    await running.app.store.database.transact(insert)
    running.app.redeliverer.reopen(made["id"])  # on SQLite nothing else tells the dispatcher
    return delivery.id


@pytest.mark.parametrize("answer", [500, 200])
async def test_what_a_disabled_endpoint_refuses_is_canceled_and_sent_when_it_is_enabled(
    tmp_path: Path, answer: int
) -> None:
    """End a late delivery to a disabled endpoint as canceled, never as exhausted; as delivered if it is accepted."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, confirm=False, RELAY_RETRY_SCHEDULE_S="0,60,60") as running:
        fields = {"url": running.hook, "event_types": ["job.submitted"], "status": "disabled"}
        made = (await running.client.post("/v1/endpoints", json=fields)).json()
        await running.submit()
        running.sink.answers = [answer]
        delivery_id = await late(running, made)
        await clock.advance(2)
        ended = await running.get(f"/v1/deliveries/{delivery_id}")
        assert ended["status"] == ("delivered" if answer == 200 else "canceled")
        assert [attempt["status_code"] for attempt in ended["attempts"]] == [answer]
        await clock.advance(120)
        assert len(running.sink.received) == 1
        await running.client.patch(f"/v1/endpoints/{made['id']}", json={"status": "active"})
        await clock.advance(180)
        sent = [one.headers["webhook-id"] for one in running.sink.received]
        assert sent == [ended["event"]] * (1 if answer == 200 else 2)


async def test_what_ends_after_its_endpoint_is_enabled_is_not_canceled(tmp_path: Path) -> None:
    """Make a delivery due again whose attempt ends after the endpoint was enabled: its batch may have passed it by."""
    async with switched(tmp_path) as stage:
        await stage.patch(START_MS, active=False)
        for number, active in enumerate((False, True)):
            event_id = await stage.event(START_MS + number, ("pending",))
            if active:
                await stage.patch(START_MS + 5, active=True)
            query = f"SELECT id FROM deliveries WHERE event_id = '{event_id}'"
            ((delivery_id,),) = await select(stage.opened, query)
            result = msgspec.structs.replace(
                result_of(delivery_id), endpoint_id="ep_1", state=DeliveryState.CANCELED, to_disabled=True
            )
            await Deliveries(stage.opened, Writer(stage.opened, 16), SEAL, 15).write_attempt(result)
            after = f"SELECT state, next_attempt_at FROM deliveries WHERE id = '{delivery_id}'"
            expected = ("pending", result.at) if active else ("canceled", None)
            assert await select(stage.opened, after) == [expected]


async def test_an_endpoint_that_an_older_relay_disabled_gets_what_came_since(tmp_path: Path) -> None:
    """Go by the time where no position is known: a database from before the upgrade, or restored to another server."""
    async with switched(tmp_path) as stage:
        before = await stage.event(START_MS - 1)
        await stage.patch(START_MS, active=False)

        async def forget(transaction: Transaction) -> None:
            await transaction.run_text("UPDATE endpoints SET disabled_position = NULL")

        await stage.opened.transact(forget)
        missed = [await stage.event(START_MS), await stage.event(START_MS + 2 * MINUTE_MS)]
        await stage.patch(START_MS + MINUTE_MS, active=True)
        assert await stage.sent(START_MS + 5 * MINUTE_MS) == missed
        assert before not in missed
