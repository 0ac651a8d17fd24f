"""Two processes that write about the same jobs concurrently, on PostgreSQL: neither overwrites the other's."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.lifecycle.reports import Transition
from relay.model import ids
from relay.model.delivery import Attempt, DeliveryState, Outcome
from relay.model.job import Disposition, EventType, Job, JobState
from relay.security.encryption import Encryption
from relay.storage import job_rows, rows
from relay.storage.apply_updates import JobUpdate, ReceivedCallback, Room, UpdateApplier, UpdateResult
from relay.storage.boots import Lease
from relay.storage.deliveries import AttemptResult, Deliveries
from relay.storage.endpoints import Change, Rotation
from relay.storage.engine import exchanges
from relay.storage.engine.database import Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.engine.migrations import migrate
from relay.storage.engine.postgres import PostgreSQL
from relay.storage.fan_out import NewDelivery
from relay.storage.history import PATIENCE_MS
from relay.storage.store import Store, StoreOptions
from tests.support.past import ENDPOINT, insert_jobs, select
from tests.support.postgres import Server
from tests.support.running import SECRET_KEY

pytestmark = pytest.mark.anyio


async def added(opened: PostgreSQL) -> list[tuple[str, int, int, int | None]]:
    """Return what has been added up in each job."""
    jobs = [msgspec.json.decode(doc, type=Job) for (doc,) in await select(opened, "SELECT doc FROM jobs ORDER BY id")]
    return [(job.id, job.sequence, job.callbacks_seen, job.progress) for job in jobs]


def running(job_id: str) -> Job:
    """Return a job that its provider works on."""
    return Job(
        id=job_id,
        project_id="prj_default",
        provider="evolink",
        state=JobState.RUNNING,
        progress=0,
        created_at=1,
        updated_at=1,
        deadline_at=9,
        request={},
    )


def further(job: Job, announce: EventType | None = EventType.JOB_RUNNING) -> Transition:
    """Return a move that no other may overwrite: it counts."""
    after = msgspec.structs.replace(job, progress=(job.progress or 0) + 1)
    return Transition(after, Disposition.RECORDED, announce=announce)


def heard(job_id: str, digest: bytes | None = None) -> JobUpdate:
    """Return a callback about a job; without a digest it is like no other."""
    callback_id = ids.new_id(ids.CALLBACK)
    received = ReceivedCallback(
        id=callback_id,
        provider="evolink",
        received_at=2,
        headers=(),
        body=b"{}",
        size=2,
        digest=digest or callback_id.encode(),
    )
    return JobUpdate(job_id=job_id, at=2, transition=further, received=received)


async def fill(transaction: Transaction, jobs: Sequence[str]) -> None:
    """Store these jobs, of which nothing happened yet, and an endpoint that wants every event; nothing else is left."""
    await transaction.run_text("TRUNCATE jobs, job_requests, callbacks, events, deliveries, endpoints")
    await insert_jobs(transaction, [running(job_id) for job_id in jobs])
    await transaction.run_many("insert_endpoint", [rows.endpoint_params(ENDPOINT, Encryption([SECRET_KEY]))])


@asynccontextmanager
async def two(server: Server, jobs: Sequence[str]) -> AsyncIterator[tuple[PostgreSQL, PostgreSQL]]:
    """Two processes' databases, which are one; with jobs, and an endpoint that wants every event."""
    url = server.database()
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            opened.append(await PostgreSQL.open(url))
            stack.push_async_callback(opened[-1].close)

        await migrate(opened[0], 1)
        await opened[0].transact(partial(fill, jobs=jobs))
        yield opened[0], opened[1]


async def record(database: PostgreSQL, *updates: JobUpdate) -> list[UpdateResult]:
    """Apply updates, as group commit does."""
    applier = UpdateApplier(Lease(0, dispatches=False), Room(100), (0,))
    return await database.transact_apart(partial(applier, updates=updates))


def attempt_of(fresh: NewDelivery, outcome: Outcome, state: DeliveryState) -> AttemptResult:
    """Return the only attempt of a delivery."""
    attempt = Attempt(
        id=ids.new_id(ids.ATTEMPT),
        delivery_id=fresh.delivery_id,
        number=1,
        outcome=outcome,
        status_code=200 if outcome is Outcome.OK else 500,
        error=None,
        started_at=1,
        duration_ms=1,
        response_excerpt=None,
    )
    return AttemptResult(
        attempt=attempt,
        project_id=fresh.project_id,
        endpoint_id=fresh.endpoint_id,
        state=state,
        next_attempt_at=None,
        at=7,
    )


class Overtaken(UpdateApplier):
    """Applies updates, while another process changes the jobs between the first reading and the writing."""

    def __init__(self, another: PostgreSQL) -> None:
        super().__init__(Lease(0, dispatches=True), Room(100), (0,))
        self._another = another
        self.times = 0

    async def __call__(self, transaction: Transaction, updates: Sequence[JobUpdate]) -> list[UpdateResult]:
        """Apply the updates to what was read before."""
        self.times += 1
        run_many, times = transaction.run_many, self.times

        class Late:
            def __getattr__(self, name: str) -> object:
                return getattr(transaction, name)

            async def run_many(_, name: str, many: Sequence[msgspec.Struct]) -> None:  # noqa: N805
                if name == "insert_callback" and times == 1:
                    await self._another.ask("UPDATE jobs SET state = state")
                await run_many(name, many)

        late: Any = Late()
        return await super().__call__(late, updates)


@asynccontextmanager
async def held(database: PostgreSQL, *job_ids: str) -> AsyncIterator[Transaction]:
    """Yield a transaction of another process that has read these jobs, and writes when the block ends."""
    async with database.pool.acquire() as connection:
        transaction = database.transaction(connection)
        await transaction.rows("jobs_and_listeners", {"ids": list(job_ids)})
        yield transaction
        await transaction.commit()


async def waiting(database: PostgreSQL, number: int = 1) -> None:
    """Return when so many transactions wait for a lock."""
    text = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(60):
        while (await select(database, text))[0][0] < number:  # noqa: ASYNC110 - the server does not say when
            await asyncio.sleep(0.01)


async def test_what_another_wrote_meanwhile_is_not_overwritten(database_server: Server) -> None:
    """Wait for a process that has read one of two jobs, and judge both as they are after its commit."""
    async with two(database_server, ["job_1", "job_2"]) as (one, another):
        async with held(another, "job_2") as transaction:
            recording = asyncio.create_task(record(one, heard("job_1"), heard("job_2")))
            await waiting(another)
            moved = msgspec.structs.replace(running("job_2"), progress=1)
            await transaction.run_many("update_job", [job_rows.changed_row(moved)])
        recorded = await recording
        assert [(found.job and found.job.progress, len(found.fresh)) for found in recorded] == [(1, 1), (2, 1)]
        assert await added(one) == [("job_1", 1, 1, 1), ("job_2", 1, 1, 2)]
        assert await select(one, "SELECT job_id FROM events ORDER BY job_id") == [("job_1",), ("job_2",)]
        assert await select(one, "SELECT job_id FROM callbacks ORDER BY job_id") == [("job_1",), ("job_2",)]


LOCKING: dict[tuple[str, str], Callable[[Store, str], Awaitable[Any]]] = {
    ("jobs", "start"): lambda store, id_: store.jobs.start_submission(id_, 2),
    ("jobs", "claim"): lambda store, id_: store.jobs.claim_check(id_, 2),
    ("endpoints", "change"): lambda store, id_: store.endpoints.change(change_of(id_)),
    ("endpoints", "rotate"): lambda store, id_: store.endpoints.rotate(rotation_of(id_)),
    ("endpoints", "delete"): lambda store, id_: store.endpoints.delete(id_, "prj_default", 2),
}
"""What locks a row of a table for each of its items."""


def change_of(endpoint_id: str) -> Change:
    """Return a change of an endpoint."""
    described = partial(msgspec.structs.replace, description="changed")
    return Change(endpoint_id=endpoint_id, project_id="prj_default", at=2, apply=described)


def rotation_of(endpoint_id: str) -> Rotation:
    """Return a new secret for an endpoint."""
    return Rotation(id=endpoint_id, project_id="prj_default", secret="new", until=3, now=2)


@pytest.mark.parametrize(("table", "verb"), LOCKING)
async def test_a_batch_locks_its_rows_in_one_order(database_server: Server, table: str, verb: str) -> None:
    """Wait for the first row that another process holds without holding a later one, whatever order the items have.

    Every process looks for the same jobs that are due, so that two of them often begin the same ones.
    """
    url = database_server.database()
    encryption, names = Encryption([SECRET_KEY]), "abc"
    due = [msgspec.structs.replace(running(name), state=JobState.PENDING, next_submit_at=1) for name in names]
    wanted = [rows.endpoint_params(msgspec.structs.replace(ENDPOINT, id=name), encryption) for name in names]
    async with AsyncExitStack() as stack:
        store = await Store.open(
            url, encryption, StoreOptions(lease_ms=1, backlog_max=9, callbacks_per_job_max=5, schedule_s=(0,)), 1
        )
        stack.push_async_callback(store.close)
        another = await PostgreSQL.open(url)
        stack.push_async_callback(another.close)
        await another.transact(partial(insert_jobs, jobs=due))
        await another.transact(lambda transaction: transaction.run_many("insert_endpoint", wanted))
        async with another.pool.acquire() as connection, connection.transaction():
            await connection.execute(f"SELECT id FROM {table} WHERE id = 'a' FOR UPDATE")
            writing = [asyncio.ensure_future(LOCKING[table, verb](store, name)) for name in "cba"]
            await waiting(another)
            await connection.execute(f"SELECT id FROM {table} WHERE id <> 'a' FOR UPDATE NOWAIT")
        answers = await asyncio.gather(*writing)
    if verb in ("start", "claim", "change"):
        assert [answer.id for answer in answers] == list("cba")


async def test_the_same_callback_in_two_processes_is_recorded_once(database_server: Server) -> None:
    """Record one of the two as repeated, though neither was stored when both came."""
    async with two(database_server, ["job_1"]) as (one, another):
        async with held(one, "job_1"):
            both = [asyncio.create_task(record(database, heard("job_1", b"the same"))) for database in (one, another)]
            await waiting(another, 2)
        dispositions = sorted(recorded.disposition for (recorded,) in await asyncio.gather(*both))
        assert dispositions == [Disposition.RECORDED, Disposition.REPEATED]
        assert await added(one) == [("job_1", 1, 2, 1)]


async def test_a_job_that_goes_meanwhile_is_not_written_to(database_server: Server) -> None:
    """Keep the callback as one about a job that is not here, where the job is pruned as it comes."""
    async with two(database_server, ["job_1"]) as (one, another):
        async with held(another, "job_1") as transaction:
            recording = asyncio.create_task(record(one, heard("job_1")))
            await waiting(another)
            await transaction.run_text("DELETE FROM jobs")
        (recorded,) = await recording
        assert (recorded.disposition, recorded.fresh) == (Disposition.ORPHANED, ())
        assert await select(one, "SELECT disposition FROM callbacks") == [("orphaned",)]
        assert await select(one, "SELECT id FROM events") == []


@pytest.mark.parametrize("unlocked", [False, True])
@pytest.mark.parametrize("sends", [False, True])
async def test_a_batch_is_few_exchanges(database_server: Server, sends: bool, unlocked: bool) -> None:
    """Lock the jobs as they are read, and send all that is written together, between BEGIN and COMMIT.

    Where this process sends too, the endpoints of what is new are read with that. Unlocked, neither is sent.
    """
    async with two(database_server, ["job_1", "job_2"]) as (one, _), one.pool.acquire() as connection:
        sent: list[str] = []
        results: list[UpdateResult] = []
        for _ in range(2):  # the first prepares
            connection.add_query_logger(note := lambda query: sent.append(query.query))
            transaction = one.transaction(connection, unlocked=unlocked)
            sent.clear()
            results = await UpdateApplier(Lease(0, dispatches=sends), Room(100), (0,))(
                transaction, [heard("job_1"), heard("job_2")]
            )
            await transaction.commit()
            await asyncio.sleep(0)  # the logger is called by the loop
            connection.remove_query_logger(note)
        starts = [
            "BEGIN;",
            "WITH found AS",
            "SELECT job_id, CASE WHEN disposition = 'recorded'",
            "WITH part_0 AS",
            "COMMIT;",
        ]
        starts = starts[1:-1] if unlocked else starts
        assert [text.startswith(start) for text, start in zip(sent, starts, strict=True)] == [True] * len(starts), sent
        assert [text for text in sent if "FOR UPDATE" in text] == ([] if unlocked else [sent[1]])
        assert {one.endpoint["url"] for result in results for one in result.fresh if one.endpoint} == (
            {ENDPOINT.url} if sends else set()
        )


@pytest.mark.parametrize(("conflicts", "outcome"), [(False, "ok"), (True, "ok"), (False, "bad_status")])
async def test_attempts_go_along_with_updates(database_server: Server, conflicts: bool, outcome: str) -> None:
    """Write delivered attempts and new deliveries in one exchange, without locks, and once if it is done again.

    It is done again where a job has changed, and with locks from the first where an attempt failed.
    """
    async with two(database_server, ["job_1"]) as (one, another):
        writer, sent = Writer(one, 10), list[str]()
        deliveries = Deliveries(one, writer, Encryption([SECRET_KEY]), 1.0)
        applier = UpdateApplier(Lease(0, dispatches=True), Room(100), (0,))
        await writer.write(applier, heard("job_1"))  # it prepares
        (fresh,) = (await writer.write(applier, heard("job_1"))).fresh
        async with one.pool.acquire() as connection:
            connection.add_query_logger(lambda query: sent.append(query.query))
        state = DeliveryState.DELIVERED if outcome == "ok" else DeliveryState.EXHAUSTED
        result = attempt_of(fresh, Outcome(outcome), state)
        applier = Overtaken(another) if conflicts else applier
        switched, _ = await asyncio.gather(deliveries.write_attempt(result), writer.submit(applier, heard("job_1")))
        await asyncio.sleep(0)  # the logger is called by the loop
        assert switched is False
        assert ("BEGIN;" in sent, len(sent)) == ((True, ANY) if conflicts or outcome != "ok" else (False, 3)), sent
        assert await select(one, "SELECT state, attempts_made FROM deliveries ORDER BY id") == [
            ("pending", 0),
            (str(state), 1),
            ("pending", 0),
        ]
        assert await select(one, "SELECT delivery_id, number FROM attempts") == [(fresh.delivery_id, 1)]
        assert await select(one, "SELECT last_success_at, last_failure_at FROM endpoints") == [
            (7, None) if outcome == "ok" else (None, 7)
        ]
        assert [(job, sequence) for job, sequence, *_ in await added(one)] == [("job_1", 3)]


@pytest.mark.parametrize(("stands_still", "tries"), [(0, 1), (0.2, 2)])
async def test_what_was_read_long_ago_decides_nothing(
    database_server: Server, monkeypatch: pytest.MonkeyPatch, stands_still: float, tries: int
) -> None:
    """Read again, with locks, where the process stood still since it read who listens; write nothing by the first."""
    assert exchanges.STALE_MS < PATIENCE_MS / 2
    monkeypatch.setattr(exchanges, "STALE_MS", 100)
    applier, tried = UpdateApplier(Lease(0, dispatches=False), Room(100), (0,)), 0

    class Slow:
        """Stands still after the first reading."""

        def __init__(self, transaction: Transaction) -> None:
            self._transaction = transaction

        def __getattr__(self, name: str) -> object:
            return getattr(self._transaction, name)

        async def run_many(self, name: str, many: Sequence[msgspec.Struct]) -> None:
            """Write, a while after the reading at first."""
            if name == "insert_callback" and tried == 1:
                time.sleep(stands_still)  # noqa: ASYNC251 - the whole process stands still
            await self._transaction.run_many(name, many)

    async def work(transaction: Transaction) -> list[UpdateResult]:
        nonlocal tried
        tried += 1
        slow: Any = Slow(transaction)
        return await applier(slow, [heard("job_1")])

    async with two(database_server, ["job_1"]) as (one, _):
        (recorded,) = await one.transact_apart(work)
        assert (tried, len(recorded.fresh)) == (tries, 1)
        assert await added(one) == [("job_1", 1, 1, 1)]
        assert await select(one, "SELECT COUNT(*) FROM callbacks") == [(1,)]


async def test_without_locks_nothing_follows_what_is_written(database_server: Server) -> None:
    """Raise where a transaction without locks goes on after its exchange, or changes less than it read.

    The second is done again with locks.
    """
    async with two(database_server, ["job_1"]) as (one, _):

        async def goes_on(transaction: Transaction) -> None:
            await UpdateApplier(Lease(0), Room(100), (0,))(transaction, [heard("job_1")])
            await transaction.rows("touch", {})

        locked: list[bool] = []

        async def reads(transaction: Transaction) -> None:
            await transaction.rows("jobs_and_listeners", {"ids": ["job_1"]})
            await transaction.run_many("insert_job_metadata", [{"project_id": "p", "pair": "a=b", "job_id": "j"}])
            locked.append(len(locked) > 0)

        with pytest.raises(RuntimeError, match="goes on"):
            await one.transact_apart(goes_on)
        await one.transact_apart(reads)
        assert locked == [False, True]
        assert await select(one, "SELECT COUNT(*) FROM job_metadata") == [(1,)]


NAMES = [f"job_{number}" for number in range(4)]
BATCHES = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6), min_size=2, max_size=12)


def test_whatever_two_processes_receive_concurrently_all_of_it_counts(database_server: Server) -> None:
    """Count each callback once, in batches about the same jobs in any order, and miss no event."""
    with asyncio.Runner() as runner:

        async def opened(stack: AsyncExitStack) -> tuple[PostgreSQL, PostgreSQL]:
            return await stack.enter_async_context(two(database_server, NAMES))

        stack = AsyncExitStack()
        both = runner.run(opened(stack))

        @settings(max_examples=30)
        @given(batches=BATCHES)
        def example(batches: list[list[str]]) -> None:
            runner.run(_all_count(both, batches))

        example()
        runner.run(stack.aclose())


async def _all_count(both: tuple[PostgreSQL, PostgreSQL], batches: list[list[str]]) -> None:
    """Run one example."""
    await both[0].transact(partial(fill, jobs=NAMES))
    told = await asyncio.gather(*(record(both[number % 2], *map(heard, batch)) for number, batch in enumerate(batches)))
    assert {found.disposition for recorded in told for found in recorded} == {Disposition.RECORDED}
    counts = [sum(batch.count(name) for batch in batches) for name in NAMES]
    assert await added(both[0]) == [(name, count, count, count) for name, count in zip(NAMES, counts, strict=True)]
    made = await select(both[0], "SELECT job_id, sequence FROM events ORDER BY job_id, sequence")
    assert made == [(name, n + 1) for name, count in zip(NAMES, counts, strict=True) for n in range(count)]
    assert await select(both[0], "SELECT COUNT(DISTINCT event_id) FROM deliveries") == [(sum(counts),)]
