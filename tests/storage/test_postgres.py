"""What is PostgreSQL's own: batches as one statement, and transactions that wait for each other."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import asyncpg
import msgspec
import pytest

from relay.security.encryption import Encryption
from relay.storage.engine.database import DueWork
from relay.storage.engine.exchanges import PostgreSQLTransaction
from relay.storage.engine.migrations import migrate
from relay.storage.engine.postgres import PostgreSQL
from relay.storage.rows import endpoint_params
from tests.support.past import ENDPOINT
from tests.support.postgres import Server
from tests.support.running import SECRET_KEY

pytestmark = pytest.mark.anyio

DELIVERY = {
    "project_id": "prj_default",
    "event_id": "evt_1",
    "endpoint_id": "ep_1",
    "job_id": None,
    "next_attempt_at": 1,
    "leased_by": None,
    "reported_at": None,
    "redelivery": 0,
    "created_at": 1,
}


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[PostgreSQL]:
    """Yield a fresh database, migrated."""
    database = await PostgreSQL.open(server.database())
    try:
        await migrate(database, 1)
        yield database
    finally:
        await database.close()


def attempt(number: int, delivery: str) -> dict[str, Any]:
    """Return an attempt's columns."""
    about = {"id": f"att_{number}", "project_id": "prj_default", "delivery_id": delivery}
    said = {"outcome": "ok", "status_code": 200, "error": None, "started_at": number, "duration_ms": 1}
    return about | said | {"response_excerpt": None, "exchange": None}


async def numbers(database: PostgreSQL, *deliveries: str) -> list[tuple[str, int]]:
    """Each attempt with its number."""
    found = await database.rows("attempts_of_deliveries", {"ids": list(deliveries), "limit": 100})
    return [(row["id"], row["number"]) for row in found]


async def test_every_batch_is_a_statement_that_the_server_takes(database_server: Server) -> None:
    """Each statement for many rows at once is prepared with its arrays; those that relay sends often are among them."""
    async with opened(database_server) as database, database.pool.acquire() as connection:
        taken = {name for name, statement in database.statements.items() if statement.is_batch}
        for name in taken:
            kinds = (await connection.prepare(database.statements[name].text)).get_parameters()
            assert all(kind.name.endswith("[]") for kind in kinds), name
        often = {
            "insert_callback",
            "update_job",
            "insert_event",
            "insert_delivery",
            "insert_attempt",
            "settle_delivery",
        }
        assert often | {"insert_job", "note_endpoint_outcome", "release_deliveries"} <= taken


async def test_a_batch_writes_what_its_rows_would_one_by_one(database_server: Server) -> None:
    """Write rows as they were given, and number an attempt behind those that earlier batches stored."""
    async with opened(database_server) as database:

        async def write(transaction: PostgreSQLTransaction) -> None:
            deliveries = [DELIVERY | {"id": f"dlv_{number}", "next_attempt_at": number} for number in range(5)]
            await transaction.run_many("insert_delivery", deliveries)
            await transaction.run_many("insert_attempt", [attempt(number, f"dlv_{number}") for number in range(4)])
            settled = {"project_id": "prj_default", "state": "pending", "next_attempt_at": 9, "finished_at": None}
            await transaction.run_many("settle_delivery", [settled | {"id": f"dlv_{number}"} for number in range(4)])
            await transaction.run_many("insert_attempt", [attempt(9, "dlv_0")])
            for _ in range(2):
                await transaction.run_many("settle_delivery", [settled | {"id": "dlv_4"}])

        await database.transact(write)
        assert await numbers(database, "dlv_0", "dlv_3") == [("att_0", 1), ("att_9", 2), ("att_3", 1)]
        (row,) = await database.rows("delivery_of_project", {"id": "dlv_4", "project_id": "prj_default"})
        assert (row["attempts_made"], row["next_attempt_at"]) == (2, 9)


async def test_what_is_only_written_is_one_exchange(database_server: Server) -> None:
    """It goes together with the hint, without BEGIN and COMMIT; what mentions a table that is written goes after."""
    async with opened(database_server) as database, database.pool.acquire() as connection:
        sent: list[str] = []

        async def write(transaction: PostgreSQLTransaction, *, later: bool) -> None:
            numbers = range(3, 5) if later else range(3)
            await transaction.run_many("insert_attempt", [attempt(number, f"dlv_{number}") for number in numbers])
            deliveries = [DELIVERY | {"id": f"dlv_{number}", "next_attempt_at": number} for number in numbers]
            await transaction.run_many("insert_delivery", deliveries)
            if later:
                await transaction.run_many("insert_attempt", [attempt(number, f"dlv_{number}") for number in numbers])
            await transaction.notify(DueWork.DELIVERIES)

        connection.add_query_logger(lambda query: sent.append(query.query))
        for later in (False, True):
            transaction = database.transaction(connection)
            await write(transaction, later=later)
            await transaction.commit()
        await asyncio.sleep(0)  # the logger is called by the loop
        kinds = ("BEGIN;", "COMMIT;", "WITH part_0", "INSERT")
        exchanges = [kind for query in sent for kind in kinds if query.lstrip("-").startswith(kind)]
        assert exchanges == ["WITH part_0", "BEGIN;", "WITH part_0", "WITH part_0", "COMMIT;"]
        assert await numbers(database, *(f"dlv_{number}" for number in range(5))) == [("att_3", 1), ("att_4", 1)]


async def test_a_part_that_fails_undoes_the_others(database_server: Server) -> None:
    """One exchange without BEGIN is a transaction all the same; and the next one finds a good connection."""
    async with opened(database_server) as database:

        async def write(transaction: PostgreSQLTransaction) -> None:
            await transaction.run_many("insert_project", [{"id": "p", "name": "p", "created_at": 0}])
            await transaction.run_many("insert_delivery", [DELIVERY | {"id": "dlv_1", "next_attempt_at": 0}] * 2)

        with pytest.raises(asyncpg.UniqueViolationError):
            await database.transact(write)
        assert not await database.rows("project_by_name", {"name": "p"})


async def test_every_batch_says_what_it_changes(database_server: Server) -> None:
    """Each statement for many rows names the tables that it writes: what mentions one of them must come after it."""
    async with opened(database_server) as database:
        tables = {row[0] for row in await database.pool.fetch("SELECT tablename FROM pg_tables")}
        batches = {name: one for name, one in database.statements.items() if one.is_batch}
        assert [name for name, one in batches.items() if one.table not in tables & one.words] == []


async def test_of_two_transactions_that_wait_for_each_other_neither_fails(database_server: Server) -> None:
    """PostgreSQL undoes one of the two; relay does it again, and its callers never hear of it."""
    async with opened(database_server) as database:
        both = asyncio.Barrier(2)
        tries: list[str] = []

        async def write(transaction: PostgreSQLTransaction, first: str, second: str) -> None:
            tries.append(first)
            await transaction.run_text(f"UPDATE projects SET created_at = created_at + 1 WHERE id = '{first}'")
            if len(tries) <= 2:
                await both.wait()
            await transaction.run_text(f"UPDATE projects SET created_at = created_at + 1 WHERE id = '{second}'")

        async def insert(transaction: PostgreSQLTransaction) -> None:
            await transaction.rows("insert_project", {"id": "p", "name": "p", "created_at": 0})
            await transaction.rows("insert_project", {"id": "q", "name": "q", "created_at": 0})

        await database.transact(insert)
        await asyncio.gather(
            database.transact(lambda transaction: write(transaction, "p", "q")),
            database.transact(lambda transaction: write(transaction, "q", "p")),
        )
        found = [(await database.rows("project_by_name", {"name": name}))[0]["created_at"] for name in "pq"]
        assert found == [2, 2]
        assert len(tries) > 2


async def test_endpoints_of_a_batch_are_locked_in_one_order(database_server: Server) -> None:
    """Let two processes write the outcomes of the same endpoints, good and bad ones mixed, without a deadlock."""
    async with opened(database_server) as database:
        names = [f"ep_{number:03}" for number in range(200)]
        rows = [msgspec.structs.replace(ENDPOINT, id=name) for name in names]
        params = [endpoint_params(one, Encryption([SECRET_KEY])) for one in rows]

        async def insert(transaction: PostgreSQLTransaction) -> None:
            await transaction.run_many("insert_endpoint", params)

        tries: list[int] = []

        async def note(transaction: PostgreSQLTransaction, seed: int) -> None:
            tries.append(seed)
            order = random.Random(seed).sample(names, len(names))
            one = {"at": seed, "held_until": None}
            many = [one | {"id": name, "good": (n + seed) % 2} for n, name in enumerate(order)]
            await transaction.run_many("note_endpoint_outcome", many)

        await database.transact(insert)
        await asyncio.gather(*(database.transact(partial(note, seed=seed)) for seed in range(60)))
        assert sorted(tries) == list(range(60))  # what a deadlock undoes is done again
        found = await database.rows("endpoint_by_id", {"id": names[0]})
        assert found[0]["last_success_at"] or found[0]["last_failure_at"]
