"""What is old goes and nothing else, in short batches, beside whatever else the relay does."""

import asyncio
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay import settings as relay_settings
from relay.clock import SystemClock, rfc3339
from relay.errors import SettingsError
from relay.model import ids
from relay.model.delivery import DeliveryState
from relay.model.job import Event, EventType, JobState
from relay.storage.engine.database import Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.engine.postgres import PostgreSQL
from relay.storage.fan_out import EventRef, new_delivery
from relay.storage.history import Events
from relay.storage.redeliveries import Redeliveries
from relay.storage.retention import JOBS_MAX, STORED, WEIGHT_MAX, Pruner, Terms
from tests.api.test_metrics import scraped
from tests.support import processes
from tests.support.calling_back import DONE, post
from tests.support.past import DAY_MS, TERMS, Past, add, add_event, callback, database, prune, select, stored
from tests.support.ports import free_port
from tests.support.running import DATABASES, START_MS, HeldClock, Running, relay
from tests.system.test_processes import run

pytestmark = pytest.mark.anyio

ENDS = [state for state in JobState if state.final]
OLD = Past()
pasts = st.builds(
    Past,
    ended_days=st.none() | st.floats(0, 29.99) | st.floats(30.01, 1000),
    state=st.sampled_from(ENDS),
    claimed=st.sampled_from([False, False, False, True]),
    deliveries=st.lists(st.sampled_from([*DeliveryState, "delivered", "exhausted"]), max_size=3).map(
        lambda states: tuple(map(DeliveryState, states))
    ),
    payment=st.sampled_from([None, None, None, "reserved", "unknown", "paid", "lost", "void"]),
    provable=st.booleans(),
    callbacks=st.integers(0, 2),
)
states = st.lists(st.sampled_from(DeliveryState), max_size=2)
ages = st.sampled_from([1, 29.9, 30.1, 400])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pasts, max_size=8))
def test_every_old_job_goes_whole_and_no_other(tmp_path: Path, past: list[Past]) -> None:
    """Ended long ago, with nothing pending, claimed or unpaid: then all of it goes but tombstone and ledger."""

    async def check() -> None:
        async with database(tmp_path) as opened:
            job_ids = await add(opened, past)
            before = await stored(opened)
            removed = sum(map(Counter, await prune(opened)), Counter[str]())
            after = await stored(opened)
            going = {job_id for job_id, one in zip(job_ids, past, strict=True) if one.prunable}
            for table, known in before.items():
                gone = known - after[table]
                assert gone == (set() if table in ("payments", "tombstones") else known & going), table
            assert after["tombstones"] - before["tombstones"] == going
            assert removed["jobs"] == len(going)
            assert await prune(opened) == []

    asyncio.run(check())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(ages, states), max_size=5))
def test_events_of_no_job_go_when_nobody_waits_for_them(tmp_path: Path, past: list[tuple[float, list[str]]]) -> None:
    """An old `relay.test` or `endpoint.…` goes with its deliveries, unless one of them is pending."""

    async def check() -> None:
        async with database(tmp_path) as opened:
            kept = set()

            async def write(transaction: Transaction) -> None:
                for days, of_deliveries in past:
                    at = START_MS - round(days * DAY_MS)
                    event_id = await add_event(transaction, None, "ep_1", at, of_deliveries)
                    if days < 30 or DeliveryState.PENDING in of_deliveries:
                        kept.add((event_id, len(of_deliveries)))

            await opened.transact(write)
            before = {row[0] for row in await select(opened, "SELECT id FROM events")}
            await prune(opened)
            counted = "SELECT events.id, COUNT(attempts.id) FROM events LEFT JOIN deliveries ON event_id = events.id "
            counted += "LEFT JOIN attempts ON delivery_id = deliveries.id GROUP BY events.id"
            after = set(await select(opened, counted))
            assert kept <= after
            assert len(after) == len(before) - len(past) + len(kept)
            (orphans,) = await select(
                opened, "SELECT COUNT(*) FROM deliveries WHERE event_id NOT IN (SELECT id FROM events)"
            )
            assert orphans == (0,)

    asyncio.run(check())


async def test_what_belongs_to_no_job_goes_by_its_own_age(tmp_path: Path) -> None:
    """Orphaned callbacks, batches that are through, deleted endpoints, tombstones past their time; the young stay."""
    async with database(tmp_path) as opened:
        old, young = START_MS - 31 * DAY_MS, START_MS - 29 * DAY_MS

        async def write(transaction: Transaction) -> None:
            for at in (old, young):
                await transaction.run_many("insert_callback", [callback("job_gone", at, b"", "orphaned")])
                await transaction.run_many("insert_redelivery_batch", [_batch(at, at), _batch(at, None)])
                tombstone = {"project_id": "p", "provider": "evolink", "state": "failed", "finished_at": 1}
                dates = {"job_id": ids.new_id(ids.JOB), "pruned_at": 1, "expires_at": at + 30 * DAY_MS}
                await transaction.run_many("insert_tombstone", [tombstone | dates])

        await opened.transact(write)
        (first, second) = await add(opened, [Past(ended_days=1), Past(ended_days=1, deliveries=())])
        standing = await select(opened, "SELECT id FROM endpoints")

        async def delete(transaction: Transaction) -> None:
            for (endpoint_id,) in standing:
                gone = {"id": endpoint_id, "project_id": "prj_default", "now": old, "nothing": b""}
                await transaction.rows("delete_endpoint", gone)

        await opened.transact(delete)
        counted = await Pruner(opened).count(TERMS)
        removed = sum(map(Counter, await prune(opened)), Counter[str]())
        assert removed == counted == dict.fromkeys(("callbacks", "redeliveries", "endpoints", "tombstones"), 1)
        left = await stored(opened)
        assert first in left["endpoints"], "a delivery names it"
        assert second not in left["endpoints"]


def _batch(at: int, finished_at: int | None) -> dict[str, Any]:
    """Return a batch of redeliveries."""
    told = {"which": "all", "since_at": 1, "until_at": 2, "total": 1, "created_at": at, "finished_at": finished_at}
    told |= {"to_now": 0, "first_position": None}
    return {"id": ids.new_id(ids.REDELIVERY), "project_id": "prj_default", "endpoint_id": "ep_1", **told}


async def test_a_payment_stays_without_its_authorization(tmp_path: Path) -> None:
    """The ledger keeps what the job cost, and when; the header that was sent is forgotten, unless it may be needed."""
    async with database(tmp_path) as opened:
        await add(
            opened,
            [
                Past(payment="paid"),
                Past(payment="unknown"),
                Past(payment="lost"),
                Past(payment="unknown", provable=False),
            ],
        )
        await prune(opened)
        kept = await select(opened, "SELECT state, amount, header FROM payments ORDER BY state, header")
        assert [(state, amount, bytes(header)) for state, amount, header in kept] == [
            ("lost", 550_000, b""),
            ("paid", 550_000, b""),
            ("unknown", 550_000, b""),
            ("unknown", 550_000, b"sealed"),
        ]


@pytest.mark.parametrize(
    "past", [Past(deliveries=(DeliveryState.DELIVERED,) * 8), Past(callback_bytes=400_000, deliveries=())]
)
async def test_a_batch_is_small_whatever_is_in_it(tmp_path: Path, past: Past) -> None:
    """No transaction removes more jobs, rows and pages of bodies than it may, and the oldest go first."""
    async with database(tmp_path) as opened:
        await add(opened, [past] * 60)
        await add(opened, [Past(ended_days=50)])
        batches = [batch for batch in await prune(opened) if "jobs" in batch]
        assert sum(batch["jobs"] for batch in batches) == 61
        for batch in batches:
            pages = batch["callbacks"] * past.callback_bytes // 4096
            assert sum(batch.values()) + pages <= WEIGHT_MAX + 50
            assert batch["jobs"] <= JOBS_MAX


async def test_a_job_that_is_larger_than_a_batch_goes_too(tmp_path: Path) -> None:
    """One job with more rows than a batch may have is a batch of its own."""
    async with database(tmp_path) as opened:
        await add(opened, [Past(callbacks=WEIGHT_MAX + 1, callback_bytes=1), OLD])
        assert [batch["jobs"] for batch in await prune(opened)] == [1, 1]


async def test_several_may_prune_at_once(tmp_path: Path) -> None:
    """Each job is removed by one of them, nobody waits for ever, and nothing is left."""
    async with database(tmp_path) as opened, database(tmp_path) as another:
        await add(opened, [OLD] * 300)
        removed = await asyncio.gather(*(prune(one) for one in (opened, another, opened)))
        assert sum(batch.get("jobs", 0) for batches in removed for batch in batches) == 300
        left = await stored(opened)
        assert {table for table, known in left.items() if known} == {"tombstones"}


async def test_an_event_that_is_being_sent_again_is_passed_over(tmp_path: Path) -> None:
    """While a redelivery of it is being written, a job stays; and afterwards, for it is pending."""
    async with database(tmp_path) as opened:
        if not isinstance(opened, PostgreSQL):
            pytest.skip("on SQLite there is one transaction at a time")
        (job_id,) = await add(opened, [OLD])
        ((event_id,),) = await select(opened, "SELECT id FROM events")

        async def redeliver(transaction: Transaction) -> None:
            assert await transaction.rows("hold_events", {"projects": ["prj_default"], "ids": [event_id]})
            assert await prune(opened) == []
            event = EventRef(event_id, "prj_default", job_id)
            again = new_delivery(event, "ep_1", START_MS, START_MS)
            await transaction.run_many("insert_delivery", [again])

        await opened.transact(redeliver)
        assert await prune(opened) == []
        assert (await stored(opened))["jobs"] == {job_id}


async def test_what_was_just_pruned_is_not_sent_again(tmp_path: Path) -> None:
    """A redelivery that comes too late makes no delivery of an event that is gone."""
    async with database(tmp_path) as opened:
        (job_id,) = await add(opened, [OLD])
        ((event_id,),) = await select(opened, "SELECT id FROM events")
        await prune(opened)
        event = Event(
            id=event_id,
            project_id="prj_default",
            job_id=job_id,
            type=EventType.JOB_SUCCEEDED,
            sequence=1,
            final=True,
            created_at=1,
            body=b"{}",
        )
        redeliveries = Redeliveries(opened, Writer(opened, 16), Events(opened))
        assert not await redeliveries.once_more(new_delivery(event, "ep_1", START_MS, START_MS))
        assert (await stored(opened))["deliveries"] == set()


async def test_postgresql_looks_through_indexes_too(tmp_path: Path) -> None:
    """What the sweep asks every ten minutes reads an index that holds only what has ended."""
    async with database(tmp_path) as opened:
        if not isinstance(opened, PostgreSQL):
            pytest.skip("tests/storage/test_schema.py asks SQLite")
        for name, index in {
            "prunable_jobs": "jobs_due",
            "prunable_events": "events_of_no_job",
            "prunable_callbacks": "callbacks_orphaned",
            "prune_redeliveries": "redeliveries_done",
            "prune_endpoints": "endpoints_deleted",
            "prune_tombstones": "tombstones_expiry",
        }.items():
            statement = opened.statements[name]
            async with opened.pool.acquire() as connection:
                await connection.execute("SET enable_seqscan = off")
                plan = await connection.fetch(f"EXPLAIN {statement.text}", *(1 for _ in statement.names))
                assert index in str(plan), plan


async def gone(running: Running, job_id: str) -> str:
    """Return what is said of a job that is not there any more."""
    answer = await running.client.get(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    return str(answer.json()["detail"])


async def test_a_callback_for_a_pruned_job_is_kept_and_told_apart(tmp_path: Path) -> None:
    """It is 200 and an orphan of the job's own project that says what became of the job, up to a limit; no event."""
    clock = HeldClock()
    limits: dict[str, Any] = {"RELAY_CALLBACK_GRACE_S": str(90 * 86_400), "RELAY_CALLBACKS_PER_JOB_MAX": "3"}
    async with relay(tmp_path, clock=clock, **limits) as running:
        key = (await running.app.store.access.create_api_key("films", "", ["submit", "read"], START_MS)).text
        running.client.headers["authorization"] = f"Bearer {key}"
        job = await running.submit(notify=[{"url": running.hook}], metadata={"user": "42"})
        url = running.callback_url()
        await running.world.finish(job["provider_job_id"])
        await running.until("/v1/deliveries?status=delivered", lambda shown: len(shown["data"]) == 2)
        await clock.advance(31 * 86_400)
        said = await gone(running, job["id"])
        assert said == f"the job ended as succeeded and was pruned on {rfc3339(START_MS + 31 * DAY_MS)[:10]}"
        assert (await running.client.get(f"/v1/jobs/{job['id']}/timeline")).json()["detail"] == said
        for kind in ("jobs", "events", "deliveries", "callbacks"):
            assert (await running.get(f"/v1/{kind}"))["data"] == [], kind
        for _ in range(5):
            answer = await post(running, DONE, url)
            assert (answer.status_code, answer.json()) == (200, {"received": True})
        orphans = (await running.get("/v1/callbacks"))["data"]
        assert [(one["verdict"], one["reason"], one["job"]) for one in orphans] == [("orphaned", said, job["id"])] * 3
        assert (await running.get("/v1/events"))["data"] == []
        running.client.headers["authorization"] = "Bearer an-admin-key-for-the-tests"
        assert (await running.get("/v1/callbacks"))["data"] == []
        assert (await running.client.get(f"/v1/jobs/{job['id']}")).json()["detail"] == "there is no such job"
        counted = await scraped(running)
        assert counted["relay_pruned_rows_total['jobs']"] == 1
        assert counted["relay_database_size_bytes[]"] > 100_000
        await _outlives(running, clock, key, job["id"], url)


async def _outlives(running: Running, clock: HeldClock, key: str, job_id: str, url: str) -> None:
    """Keep the tombstone while the callback URL works, and delete it with the orphans then."""
    running.client.headers["authorization"] = f"Bearer {key}"
    for days, status in ((59, 200), (2, 404)):
        await clock.advance(days * 86_400)
        assert (await post(running, DONE, url)).status_code == status
        if status == 200:
            assert "was pruned on" in await gone(running, job_id)
    await clock.advance(600)
    assert (await running.client.get(f"/v1/jobs/{job_id}")).json()["detail"] == "there is no such job"


async def _empty(transaction: Transaction, table: str) -> None:
    """As if nothing had ever been in it."""
    await transaction.run_text(f"DELETE FROM {table}")


async def test_callbacks_about_a_job_that_never_was_are_bounded(tmp_path: Path) -> None:
    """A provider that repeats itself for ever, about a job that is not here, fills no disk.

    Two transactions at once may each find the last place free, so the first two come one after the other.
    """
    async with relay(tmp_path, RELAY_CALLBACKS_PER_JOB_MAX="2") as running:
        await running.submit()
        url = running.callback_url()
        for table in ("jobs", "events"):
            async with database(tmp_path) as opened:
                await opened.transact(partial(_empty, table=table))
        answers = [await post(running, DONE, url) for _ in range(2)]
        answers += await asyncio.gather(*(post(running, DONE, url) for _ in range(6)))
        assert {answer.status_code for answer in answers} == {200}
        assert len((await running.get("/v1/callbacks?verdict=orphaned"))["data"]) == 2


async def test_jobs_come_in_while_others_go(tmp_path: Path) -> None:
    """While a long past is pruned batch after batch, jobs are taken in, called back and told as ever."""
    async with database(tmp_path) as opened:
        await add(opened, [OLD] * 600)
        async with relay(tmp_path, confirm=False, RELAY_RETENTION_DAYS="0") as running:
            pruning = asyncio.create_task(prune(opened))
            for _ in range(20):
                job = await running.submit(notify=[{"url": running.hook}])
                assert (await post(running, DONE)).status_code == 200
                await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
            batches = await pruning
            assert sum(batch.get("jobs", 0) for batch in batches) == 600
            assert len((await stored(opened))["jobs"]) == 20


async def test_nothing_is_pruned_where_it_is_kept_for_ever(tmp_path: Path) -> None:
    """With RELAY_RETENTION_DAYS=0 the oldest job stays."""
    async with database(tmp_path) as opened:
        await add(opened, [OLD])
        clock = HeldClock()
        async with relay(tmp_path, clock=clock, RELAY_RETENTION_DAYS="0") as running:
            for _ in range(3):
                await clock.advance(86_400)
                await running.app.store.ready()
            assert len((await running.get("/v1/jobs"))["data"]) == 1


@pytest.mark.parametrize("days", ["4", "-1", "3651", "thirty"])
def test_a_retention_below_the_delivery_schedule_is_refused(days: str) -> None:
    """What could still be on its way is never old."""
    with pytest.raises(SettingsError, match="RELAY_RETENTION_DAYS"):
        relay_settings.load({"RELAY_RETENTION_DAYS": days}, ())


async def test_killed_in_the_middle_of_a_batch_jobs_are_whole(tmp_path: Path) -> None:
    """A SIGKILL between two statements of a batch leaves every job whole; the next start removes them all."""
    now_ms = SystemClock().now_ms()
    port = free_port()
    environ = {"DATABASE_URL": DATABASES.url(tmp_path), "PORT": str(port), "RELAY_HOST": "127.0.0.1"}
    environ |= {"RELAY_SECRET_KEYS": "a-key-that-is-long-enough-to-sign"}
    async with database(tmp_path) as opened:
        job_ids = set(await add(opened, [OLD] * 5, now_ms))
        async with processes.process(environ, "-m", "tests.support.crashing", "job_half_pruned") as first:
            assert await asyncio.wait_for(first.wait(), 60) == -signal.SIGKILL
        left = await stored(opened)
        assert {table for table, known in left.items() if known != job_ids} == {"tombstones", "payments"}
        assert left["tombstones"] == set()
        async with processes.process(environ, "-m", "relay", "serve") as second, asyncio.timeout(60):
            await processes.ready(f"http://127.0.0.1:{port}", second)
            while (await stored(opened))["tombstones"] != job_ids:  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(0.05)  # another process does it
        left = await stored(opened)
        assert {table for table, known in left.items() if known} == {"tombstones"}


async def test_a_person_may_prune_by_hand(tmp_path: Path) -> None:
    """`relay prune` counts, removes and says what of each kind; with everything kept for ever it wants a number."""
    environ = {"DATABASE_URL": DATABASES.url(tmp_path)}
    async with database(tmp_path) as opened:
        await add(opened, [Past(ended_days=days) for days in (6, 6, 40)], SystemClock().now_ms())
        assert await run(environ, "prune", "--dry-run") == (0, "would remove 1 jobs\n")
        assert len((await stored(opened))["jobs"]) == 3
        status, said = await run(environ, "prune", "--older-than", "5")
        assert (status, said.splitlines()) == (0, ["removed 3 jobs", *(f"removed 3 {table}" for table in STORED)])
        assert (await stored(opened))["jobs"] == set()
        assert await run(environ, "prune") == (0, "nothing to do: no job ended more than 30 days ago\n")
        status, said = await run(environ | {"RELAY_RETENTION_DAYS": "0"}, "prune")
        assert (status, said) == (78, "relay: RELAY_RETENTION_DAYS is 0, for ever: say --older-than DAYS\n")
        assert (await run(environ, "prune", "--older-than", "4"))[0] == 2


def test_a_tombstone_lives_as_long_as_the_longer_of_two(tmp_path: Path) -> None:
    """Until the callback URL is dead, and for as long again as its job was kept."""

    async def check() -> None:
        async with database(tmp_path) as opened:
            for grace_days in (7, 100):
                await add(opened, [OLD])
                await prune(opened, Terms(now=START_MS, before=TERMS.before, grace_ms=grace_days * DAY_MS))
            found = await select(opened, "SELECT expires_at FROM tombstones ORDER BY expires_at")
            deadline_at = START_MS - 40 * DAY_MS + 1000
            assert found == [(START_MS + 30 * DAY_MS,), (deadline_at + 100 * DAY_MS,)]

    asyncio.run(check())
