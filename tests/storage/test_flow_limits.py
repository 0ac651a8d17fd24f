"""The limits of one process's loops over a real database: leases, polls of the table, redeliveries, streams, sweeps."""

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from relay import settings
from relay.deliveries.attempt import Deliverer
from relay.deliveries.dispatcher import LOADED_MAX, Dispatcher, DispatchOptions
from relay.deliveries.event_stream import REST_MIN_MS, Streams
from relay.deliveries.lane import Lane
from relay.deliveries.redelivery import Redeliverer
from relay.metrics import Metrics
from relay.model import ids
from relay.model.delivery import Endpoint, EventSelection, Which
from relay.model.job import Event, EventType
from relay.outbound.resolver import Resolver
from relay.outbound.trust import Trust
from relay.outbound.webhook_sender import WebhookSender
from relay.providers import PROVIDERS
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.security.encryption import Encryption
from relay.security.signatures import SigningKeys, new_secret
from relay.security.url_policy import AddressPolicy
from relay.settings import parse_networks
from relay.storage.deliveries import ClaimRequest, DeliveryKey, DueDelivery
from relay.storage.endpoints import Change
from relay.storage.engine.database import Database, Transaction
from relay.storage.fan_out import EventRef, NewDelivery, new_delivery
from relay.storage.history import EventFilter, EventQuery, Events, Following
from relay.storage.pages import Listing
from relay.storage.store import Store, StoreOptions
from tests.flow.test_lanes import Hanging
from tests.storage.test_settling import result_of
from tests.storage.test_stream_order import event, migrated, new_ids, writers
from tests.support.past import database as opened
from tests.support.past import select
from tests.support.postgres import Server
from tests.support.quiescence import quiet
from tests.support.running import SECRET_KEY, START_MS, HeldClock, environment

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

MS = 0.001
LEASE_MS = 25_000
PROJECT = "prj_default"
LISTING = Listing(before=None, limit=1)
POLICY = AddressPolicy(parse_networks("127.0.0.0/8,::1/128"), True, frozenset())


class Sending(NamedTuple):
    """What sends, over a database of its own; neither loop runs until a test starts it."""

    database: Database
    store: Store
    clock: HeldClock
    dispatcher: Dispatcher
    redeliverer: Redeliverer

    async def endpoint(self, url: str = "http://127.0.0.1:9/", **fields: Any) -> Endpoint:
        """Store an endpoint that wants everything."""
        made = Endpoint(
            id=ids.new_id(ids.ENDPOINT), project_id=PROJECT, job_id=None, url=url, secret=new_secret(),
            event_types=["*"], created_at=1, updated_at=1, **fields,
        )  # fmt: skip
        await self.store.endpoints.create(made)
        return made

    async def events(self, number: int, kind: str = "job.running") -> list[str]:
        """Store so many events of no job; return their ids, in order."""
        made = [event(event_id, self.clock.now_ms(), kind) for event_id in new_ids(number)]
        await self.database.transact(lambda transaction: transaction.run_many("insert_event", made))
        return [str(one["id"]) for one in made]

    async def deliveries(self, endpoint: Endpoint, event_ids: Sequence[str], due_at: int) -> list[NewDelivery]:
        """Store a delivery of each event that is due, or leased, until then."""
        events = [EventRef(event_id, PROJECT, None) for event_id in event_ids]
        made = [new_delivery(event, endpoint.id, 1, due_at) for event in events]
        await self.database.transact(lambda transaction: transaction.run_many("insert_delivery", made))
        return [NewDelivery(one.id, endpoint.id, PROJECT) for one in made]

    async def delivery(self, endpoint: Endpoint, due_at: int) -> NewDelivery:
        """Store one delivery of a new event."""
        return (await self.deliveries(endpoint, await self.events(1), due_at))[0]

    async def due_at(self, fresh: NewDelivery) -> int | None:
        """Return when a delivery's next attempt is due, or its lease ends."""
        found = await self.store.deliveries.get(fresh.delivery_id, PROJECT)
        assert found is not None
        return found.next_attempt_at

    @asynccontextmanager
    async def dispatching(self) -> AsyncIterator[None]:
        """Run the dispatcher's loop."""
        running = asyncio.create_task(self.dispatcher.run())
        try:
            await quiet()
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await self.dispatcher.finish(0)


@asynccontextmanager
async def sending(folder: Path, in_flight_max: int = 8) -> AsyncIterator[Sending]:
    """Open a database, and what sends from it."""
    options = StoreOptions(lease_ms=LEASE_MS, backlog_max=1_000, callbacks_per_job_max=5, schedule_s=(0,))
    clock = HeldClock()
    async with (
        opened(folder) as database,
        WebhookSender(POLICY, Resolver(), Trust(), connections_max=in_flight_max) as sender,
    ):
        store = Store(database, Encryption([SECRET_KEY]), options)
        keys = SigningKeys(lambda project_id: store.signing_keys.seeds(project_id, clock.now_ms()))
        deliverer = Deliverer(sender, clock, (0,), lambda: 0.5, keys)
        dispatcher = Dispatcher(store, deliverer, clock, DispatchOptions(in_flight_max, LEASE_MS), Metrics())
        yield Sending(database, store, clock, dispatcher, Redeliverer(store, clock, dispatcher))


@pytest.mark.parametrize(("asked_s", "given_s"), [(19.9, 19.9), (20.0, 20.0), (20.1, 20.0), (60.0, 20.0)])
async def test_an_attempt_takes_at_most_four_fifths_of_its_lease(
    tmp_path: Path, asked_s: float, given_s: float
) -> None:
    """Bound an endpoint's time-out by 20 s where a lease is 25 s."""
    async with sending(tmp_path) as some:
        fresh = await some.delivery(await some.endpoint(timeout_s=asked_s), START_MS)
        (due,) = await some.store.deliveries.due_deliveries([DeliveryKey(PROJECT, fresh.delivery_id)])
        assert due.timeout_s == given_s


@pytest.mark.parametrize(("waited_ms", "begun"), [(10_000, True), (10_001, False)])
async def test_no_attempt_begins_with_less_than_its_time_out_left(tmp_path: Path, waited_ms: int, begun: bool) -> None:
    """Begin an attempt with exactly its time-out left of the lease; with less, claim the delivery anew."""
    async with sending(tmp_path) as some, serve(Hanging()) as at:
        fresh = await some.delivery(await some.endpoint(at, timeout_s=15.0), START_MS + LEASE_MS)
        some.dispatcher.enqueue([fresh])
        await some.clock.advance(waited_ms / 1000)
        async with some.dispatching():
            await some.clock.advance(0)
            assert await some.due_at(fresh) == START_MS + LEASE_MS + (0 if begun else waited_ms)


@pytest.mark.parametrize(("waited_ms", "path"), [(1000, "/old"), (1001, "/new")])
async def test_a_row_that_came_with_a_claim_is_used_for_a_second(tmp_path: Path, waited_ms: int, path: str) -> None:
    """Send what waited a second in its lane to where its endpoint was when it was claimed, and what waited longer not.

    The endpoint is changed as another process would, of which this one learns nothing.
    """
    async with sending(tmp_path) as some, serve(sink := Sink()) as at:
        made = await some.endpoint(f"{at}/old", rate_limit_per_s=1000 / waited_ms)
        await some.deliveries(made, await some.events(2), START_MS)
        async with some.dispatching():
            assert [one.path for one in sink.received] == ["/old"]
            moved = f"UPDATE endpoints SET url = '{at}/new'"
            await some.database.transact(lambda transaction: transaction.run_text(moved))
            await some.clock.advance(waited_ms / 1000)
            assert [one.path for one in sink.received] == ["/old", path]


async def test_a_change_of_an_endpoint_here_counts_immediately(tmp_path: Path) -> None:
    """Send what waits in a lane to where its endpoint is by then, if this process has changed it."""
    async with sending(tmp_path) as some, serve(sink := Sink()) as at:
        made = await some.endpoint(f"{at}/old", rate_limit_per_s=10.0)
        await some.deliveries(made, await some.events(2), START_MS)
        async with some.dispatching():
            moved = partial(msgspec.structs.replace, url=f"{at}/new")
            await some.store.endpoints.change(Change(endpoint_id=made.id, project_id=PROJECT, at=2, apply=moved))
            await some.clock.advance(0.1)
            assert [one.path for one in sink.received] == ["/old", "/new"]


@pytest.mark.parametrize("over", [0, 1])
async def test_a_thousand_deliveries_wait_with_the_rows_that_came_with_them(tmp_path: Path, over: int) -> None:
    """Read the rows of new deliveries beyond a thousand when their attempts start."""
    async with sending(tmp_path, in_flight_max=64) as some, serve(sink := Sink()) as at:
        two = [await some.endpoint(at, in_flight_max=32) for _ in range(2)]
        found = await some.database.rows("endpoints_sent_to", {"ids": [one.id for one in two]})
        rows = {row["endpoint_id"]: row for row in found}
        ((event_id,), number) = (await some.events(1), LOADED_MAX // 2)
        (body,) = [one.body for one in (await some.store.events.page(PROJECT, LISTING, EventFilter(), 1)).items]
        event = Event(
            id=event_id, project_id=PROJECT, job_id=None, type=EventType.RELAY_TEST, sequence=0, final=False,
            created_at=some.clock.now_ms(), body=body,
        )  # fmt: skip
        fresh = [
            msgspec.structs.replace(one, event=event, endpoint=rows[endpoint.id])
            for place, endpoint in enumerate(two)
            for one in await some.deliveries(endpoint, [event_id] * (number + place * over), START_MS + LEASE_MS)
        ]
        read, asked = some.store.deliveries.due_deliveries, 0

        async def counted(keys: Iterable[DeliveryKey]) -> list[DueDelivery]:
            nonlocal asked
            asked += len(wanted := list(keys))
            return await read(wanted)

        some.store.deliveries.due_deliveries = counted  # type: ignore[method-assign]
        some.dispatcher.enqueue(fresh)
        async with some.dispatching():
            await some.clock.advance(0)
            assert (len(sink.received), asked) == (LOADED_MAX + over, over)


async def test_the_table_is_polled_a_second_after_an_attempt(tmp_path: Path) -> None:
    """Find what another process stored a second after the last attempt, and not before."""
    async with sending(tmp_path) as some, serve(sink := Sink()) as at:
        made = await some.endpoint(at)
        async with some.dispatching():
            some.dispatcher.enqueue([await some.delivery(made, START_MS + LEASE_MS)])
            await quiet()
            assert len(sink.received) == 1
            await some.delivery(made, START_MS)
            await some.clock.advance(1 - MS)
            assert len(sink.received) == 1
            await some.clock.advance(MS)
            assert len(sink.received) == 2


async def test_the_table_is_polled_while_something_is_due_later(tmp_path: Path) -> None:
    """Notice within a minute that the wall clock was set forward; within a second where others write to the table."""
    async with sending(tmp_path) as some, serve(sink := Sink()) as at:
        await some.delivery(await some.endpoint(at), START_MS + 3_600_000)
        async with some.dispatching():
            some.clock.set_back(-3_600)
            await some.clock.advance((1 if some.store.shared else 60) - MS)
            assert sink.received == []
            await some.clock.advance(MS)
            assert len(sink.received) == 1


async def test_what_is_due_goes_out_at_its_time(tmp_path: Path) -> None:
    """Claim a delivery when it is due, which is less than a minute away, and not before."""
    async with sending(tmp_path) as some, serve(sink := Sink()) as at:
        await some.delivery(await some.endpoint(at), START_MS + 40_000)
        async with some.dispatching():
            await some.clock.advance(40 - MS)
            assert sink.received == []
            await some.clock.advance(MS)
            assert len(sink.received) == 1


async def made(some: Sending, endpoint: Endpoint) -> int:
    """Return how many deliveries of an endpoint wait."""
    return await some.store.redeliveries.pending(endpoint.id, 1 << 60)


def selection(which: Which) -> EventSelection:
    """Return these events, up to now."""
    return EventSelection(which=which, since_at=0, until_at=START_MS, to_now=1)


async def test_a_redelivery_makes_a_hundred_a_step_while_less_than_200_wait(tmp_path: Path) -> None:
    """Make 100 deliveries in a step a second, stop at 200 that wait, go on at 199, and then look every five seconds."""
    async with sending(tmp_path) as some:
        endpoint = await some.endpoint()
        await some.events(250)
        assert await some.redeliverer.once() == 5_000
        batch = await some.redeliverer.start(endpoint, selection("all"))
        assert (batch.total, batch.made) == (250, 0)
        steps = []
        for _ in range(3):
            pause_ms = await some.redeliverer.once()
            steps.append((await made(some, endpoint), pause_ms))
        assert steps == [(100, 1_000), (200, 1_000), (200, 1_000)]
        request = ClaimRequest(now_ms=START_MS + LEASE_MS, leased_until_ms=START_MS + 2 * LEASE_MS, limit=1)
        (first,) = (await some.store.deliveries.claim(request)).deliveries
        result = result_of(first.delivery_id)
        await some.store.deliveries.write_attempt(result)
        assert await some.redeliverer.once() == 1_000
        assert await made(some, endpoint) == 249
        assert await some.redeliverer.once() == 5_000


async def test_a_redelivery_goes_on_immediately_where_a_step_found_nothing(tmp_path: Path) -> None:
    """Look at the next 500 events without a pause where none of the last was wanted."""
    async with sending(tmp_path) as some:
        endpoint = await some.endpoint()
        await some.deliveries(endpoint, await some.events(500), START_MS + 10 * LEASE_MS)
        await some.events(1)
        batch = await some.redeliverer.start(endpoint, selection("missing"))
        assert batch.total == 1
        assert await some.redeliverer.once() == 0
        assert await made(some, endpoint) == 500
        await some.redeliverer.once()
        assert await made(some, endpoint) == 501


async def test_a_redelivery_ends_where_its_endpoint_was_deleted(tmp_path: Path) -> None:
    """Make nothing for an endpoint that is gone, and keep its batch open no longer."""
    async with sending(tmp_path) as some:
        endpoint = await some.endpoint()
        await some.events(1)
        await some.redeliverer.start(endpoint, selection("all"))
        await some.store.endpoints.delete(endpoint.id, PROJECT, START_MS)
        await some.redeliverer.once()
        assert (await made(some, endpoint), await some.redeliverer.once()) == (0, 5_000)


async def test_redeliveries_that_cannot_go_on_keep_no_other_from_its_turn(tmp_path: Path) -> None:
    """Work on fifty batches in a turn, and on the next fifty in the next one."""
    async with sending(tmp_path) as some:
        full, other = await some.endpoint(), await some.endpoint()
        await some.deliveries(full, await some.events(200), START_MS)
        for _ in range(149):
            await some.redeliverer.start(full, selection("all"))
        await some.redeliverer.start(other, selection("all"))
        for waiting in (0, 0, 100):
            await some.redeliverer.once()
            assert await made(some, other) == waiting


async def test_the_last_slot_is_used(tmp_path: Path) -> None:
    """Claim what is due where only one attempt may be under way, one after the other."""
    async with sending(tmp_path, in_flight_max=1) as some, serve(sink := Sink()) as at:
        endpoint = await some.endpoint(at)
        await some.deliveries(endpoint, await some.events(3), START_MS)
        async with some.dispatching():
            assert len(sink.received) == 3


async def test_a_test_is_an_event_of_its_own(tmp_path: Path) -> None:
    """Number a `relay.test` 0, in its row and in its body, since it belongs to no job's story."""
    async with sending(tmp_path) as some:
        delivery = await some.redeliverer.test(await some.endpoint())
        stored = await some.store.events.get(delivery.event_id, PROJECT)
        assert stored is not None
        assert (stored.sequence, msgspec.json.decode(stored.body)["data"]["sequence"]) == (0, 0)


class Noting(Events):
    """The events, and how many of them each page of a stream may have."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.pages: list[int] = []

    async def following(self, query: EventQuery, now_ms: int) -> Following:
        """Note how many events the page may have."""
        self.pages.append(query.events_max)
        return await super().following(query, now_ms)


@asynccontextmanager
async def streaming(
    folder: Path, events: Events, clock: HeldClock, kind: str | None = None
) -> AsyncIterator[list[bytes]]:
    """Read a stream from now on; what came is in the list."""
    loaded = settings.load(environment(folder, "http://127.0.0.1", "http://127.0.0.1"), tuple(PROVIDERS))
    streams = Streams(events, clock, asyncio.Event(), Metrics(), loaded)
    came: list[bytes] = []
    lines = await streams.lines(PROJECT, None, kind)

    async def read() -> None:
        async for line in lines:
            came.append(line)  # noqa: PERF401 - what came so far is looked at while more comes

    reading = asyncio.create_task(read())
    try:
        await quiet()
        yield came
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


def number_of_events(came: Sequence[bytes]) -> int:
    """Return how many events came on a stream."""
    return b"".join(came).count(b"id: ")


async def test_a_stream_finds_what_another_process_stored_within_a_second(tmp_path: Path) -> None:
    """Look at the table every second where nothing wakes the stream, and ask to come back after 2 to 4 s."""
    async with sending(tmp_path) as some, streaming(tmp_path, some.store.events, some.clock) as came:
        retry, value = came[0].decode().split()
        assert retry == "retry:"
        assert 2_000 <= int(value) < 4_000
        await some.events(1)
        await some.clock.advance(1 - MS)
        assert len(came) == 1
        await some.clock.advance(MS)
        assert len(came) == 2


async def test_a_stream_reads_twenty_events_and_skims_a_hundred(tmp_path: Path) -> None:
    """Read twenty events together, a hundred if none of the last was of its type, and twenty after one that was."""
    async with sending(tmp_path) as some:
        noting = Noting(some.database)
        async with streaming(tmp_path, noting, some.clock, "job.failed") as came:
            await some.events(125)
            await some.events(1, "job.failed")
            await some.clock.advance(1)
            assert (noting.pages, number_of_events(came)) == ([20, 20, 100], 0)
            await some.clock.advance(REST_MIN_MS / 1000)
            assert (noting.pages, number_of_events(came)) == ([20, 20, 100, 100], 1)
            await some.clock.advance(1)
            assert noting.pages == [20, 20, 100, 100, 20]


async def test_an_event_behind_an_open_transaction_is_looked_for_after_20_ms_and_then_less_often(
    tmp_path: Path, database_server: Server
) -> None:
    """Look again after 20, 40, 80, 160, 320 and 640 ms and then every second, and after 20 ms at the next event."""
    clock, url = HeldClock(), database_server.database()
    async with migrated(url) as database, writers(url, 2) as (open_one, other):
        noting = Noting(database)
        async with streaming(tmp_path, noting, clock) as came:
            first, second, third, fourth = new_ids(4)
            for early, late in ((first, second), (third, fourth)):
                await open_one.insert(early, clock.now_ms())
                await other.insert(late, clock.now_ms())
                await other.end()
                await clock.advance(1)
                for pause_ms in (20, 40, 80, 160, 320, 640, 1_000, 1_000):
                    looks = len(noting.pages)
                    await clock.advance((pause_ms - 1) / 1000)
                    assert len(noting.pages) == looks
                    await clock.advance(MS)
                    assert len(noting.pages) > looks
                    if pause_ms == 1_000:
                        break
                await open_one.end()
                await clock.advance(1)
            assert number_of_events(came) == 4


async def test_a_thousand_idle_lanes_stay_in_memory(tmp_path: Path) -> None:
    """Keep what is known of a thousand endpoints that nothing waits for, and forget one of 1,001."""
    async with sending(tmp_path, in_flight_max=64) as some, serve(sink := Sink()) as at:
        (event_id,) = await some.events(1)
        endpoints = [await some.endpoint(at) for _ in range(1_001)]
        for endpoint in endpoints:
            await some.deliveries(endpoint, [event_id], START_MS)
        async with some.dispatching():
            await sink.wait_for(lambda sink: len(sink.received) == 1_001, timeout_s=60)
            await quiet()
            names = {endpoint.id for endpoint in endpoints}
            assert sum(isinstance(one, Lane) and one.endpoint_id in names for one in gc.get_objects()) == 1_000


@pytest.mark.parametrize(("under_way", "claimed"), [(12, True), (13, False)])
async def test_nothing_is_claimed_for_a_project_that_can_fill_its_slots(
    tmp_path: Path, under_way: int, claimed: bool
) -> None:
    """Leave a due delivery to the table while as much is at hand as one project alone may have under way, 14 of 16."""
    async with sending(tmp_path, in_flight_max=16) as some, serve(Hanging()) as at:
        endpoints = [await some.endpoint(at, in_flight_max=1) for _ in range(under_way)]
        event_ids = await some.events(2)
        leased = [await some.deliveries(endpoint, event_ids[:1], START_MS + LEASE_MS) for endpoint in endpoints]
        leased.append(await some.deliveries(endpoints[0], event_ids[1:], START_MS + LEASE_MS))
        async with some.dispatching():
            some.dispatcher.enqueue([*itertools.chain(*leased)])
            await quiet()
            due = await some.delivery(await some.endpoint(at), START_MS)
            await some.clock.advance(1)
            assert (await some.due_at(due) != START_MS) == claimed


async def switch(some: Sending, endpoint: Endpoint, *, active: bool) -> None:
    """Disable or enable an endpoint as an operator does, at the clock's time."""
    change = Change(
        endpoint_id=endpoint.id, project_id=PROJECT, at=some.clock.now_ms(), apply=lambda one: one, active=active
    )
    assert await some.store.endpoints.change(change) is not None


async def test_an_enabled_endpoint_gets_what_it_missed_and_what_failed_for_four_days_before(tmp_path: Path) -> None:
    """Redeliver what is missing since an hour before it was disabled, and what failed since four days before that."""
    async with sending(tmp_path) as some:
        endpoint = await some.endpoint()
        await some.clock.advance(10 * 86_400)
        disabled_at = some.clock.now_ms()
        await switch(some, endpoint, active=False)
        await some.clock.advance(86_400)
        await switch(some, endpoint, active=True)
        missing, failed = sorted(await some.store.redeliveries.open(), key=lambda one: one.which != "missing")
        assert (missing.since_at, failed.since_at) == (disabled_at - 3_600_000, disabled_at - 345_600_000)
        for one in (missing, failed):
            assert (one.until_at, one.created_at) == (some.clock.now_ms() + 1, some.clock.now_ms())
            assert (one.total, one.made, one.to_now, one.finished_at) == (0, 0, 1, None)


async def test_what_was_missed_is_found_by_its_time_where_its_position_is_unknown(tmp_path: Path) -> None:
    """Begin with the first event of an hour before the endpoint was disabled, where an older relay disabled it."""
    async with sending(tmp_path) as some:
        endpoint = await some.endpoint()
        await some.events(3)
        await some.clock.advance(3_600 + 1)
        await some.events(2)
        await some.clock.advance(1)
        await switch(some, endpoint, active=False)

        async def forget(transaction: Transaction) -> None:
            await transaction.run_text("UPDATE endpoints SET disabled_position = NULL")

        await some.database.transact(forget)
        await switch(some, endpoint, active=True)
        missing, _ = sorted(await some.store.redeliveries.open(), key=lambda one: one.which != "missing")
        of_jobs = "SELECT position, created_at FROM events WHERE type = 'job.running' ORDER BY id"
        rows = await select(some.database, of_jobs)
        assert missing.first_position is not None
        assert [position < missing.first_position for position, _ in rows] == [True] * 3 + [False] * 2


async def test_events_about_endpoints_are_part_of_no_jobs_story(tmp_path: Path) -> None:
    """Number each `endpoint.disabled` 0 and call it not final, in its row and in its body."""
    async with sending(tmp_path) as some:
        await switch(some, await some.endpoint(), active=False)
        listing, wanted = Listing(before=None, limit=10), EventFilter(type="endpoint.disabled")
        (stored,) = (await some.store.events.page(PROJECT, listing, wanted, some.clock.now_ms())).items
        data = msgspec.json.decode(stored.body)["data"]
        assert (stored.sequence, stored.final, data["sequence"], data["final"]) == (0, False, 0, False)


@pytest.mark.parametrize(("more_bytes", "chunks"), [(0, 1), (1, 2)])
async def test_a_stream_sends_events_together_up_to_64_kib(tmp_path: Path, more_bytes: int, chunks: int) -> None:
    """Write two events as one chunk where the first and the second's body have 65,536 bytes, and else as two."""
    async with sending(tmp_path) as some, streaming(tmp_path, some.store.events, some.clock) as came:
        first, second = (event(event_id, some.clock.now_ms()) for event_id in new_ids(2))
        first["body"] = b"1" * 40_000
        frame = b"id: %s\nevent: relay.test\ndata: %s\n\n" % (first["id"].encode(), first["body"])
        second["body"] = b"2" * (65_536 - len(frame) + more_bytes)
        await some.database.transact(lambda transaction: transaction.run_many("insert_event", [first, second]))
        await some.clock.advance(1)
        assert (number_of_events(came), len(came) - 1) == (2, chunks)
