"""Statements in a database that has grown: each that is hot goes by an index, and reads no more than it needs.

What is filled in is small, for speed, and what a statement read is counted, not timed.
"""

import asyncio
import re

import pytest

from bench.cases import Case, cases, sample
from bench.explaining import Plan
from bench.filling import Filling, fill
from bench.reads import explaining, wrong
from relay.clock import SystemClock
from relay.storage.engine.statements import Dialect, load
from tests.support.postgres import Server

FILLING = Filling(finished=30_000, retries=10_000, open_jobs=4_000)
QUIET = Filling(finished=20_000, retries=10, open_jobs=10)
BY_ID = re.compile(r"(?<!\w)id( = given\.keys| = :id| = many\.id| = ANY \(:ids)")
# SQLite has no statistics unless somebody gathers them; PostgreSQL gathers them by itself.
ANALYZED = {"sqlite": (False, True), "postgres": (True,)}
Plans = list[tuple[Case, Plan]]


@pytest.fixture(scope="module", params=sorted(ANALYZED))
def plans(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, database_server: Server
) -> list[Plans]:
    """Return the plans of every case on one of the databases, without and with statistics."""
    made = []
    for analyze in ANALYZED[request.param]:
        path = tmp_path_factory.mktemp("plans") / "relay.db"
        url = f"sqlite:///{path}" if request.param == "sqlite" else database_server.database()
        made.append(asyncio.run(found(url, analyze)))
    return made


async def found(url: str, analyze: bool, filling: Filling = FILLING) -> Plans:
    """Return a database is filled, and its plans are asked for."""
    filled = await fill(url, filling, analyze=analyze)
    async with explaining(url) as explainer:
        asked = cases(await sample(explainer, filled, SystemClock().now_ms()))
        return [(case, await explainer.plan(case.name, case.many)) for case in asked]


def test_a_hot_statement_reads_no_more_than_it_needs(plans: list[Plans]) -> None:
    """None goes through a table, or through an index from end to end, and none reads what it then leaves out."""
    bad = [f"{case.name} ({case.note}): {why}" for made in plans for case, plan in made if (why := wrong(case, plan))]
    hot = {f"{case.name} ({case.note})" for case, _ in plans[0] if case.hot}
    assert [one for one in bad if one.partition(": ")[0] in hot] == []


def test_little_that_waits_is_not_all_that_is_read(database_server: Server) -> None:
    """However little is pending when PostgreSQL gathers its statistics: such an index fills with what no longer is.

    What is named by its id is found by that, and what waits for an endpoint by the endpoint; endpoints are few.
    """
    found_by = load(Dialect.POSTGRES)
    plans = asyncio.run(found(database_server.database(), analyze=True, filling=QUIET))
    used = {case.name: set(plan.partial) for case, plan in plans}
    few = ("endpoints_standing", "endpoints_page")
    named = {name: partial.difference(few) for name, partial in used.items() if BY_ID.search(found_by[name].source)}
    assert {"due_deliveries", "release_deliveries", "jobs_and_listeners", "jobs_to_submit"} <= named.keys()
    assert {name: one for name, one in named.items() if any(not index.endswith("_of_job") for index in one)} == {}
    of_endpoint = ("endpoints_waiting", "claim_deliveries_of_endpoint", "pending_of_endpoint")
    assert [used[name] for name in of_endpoint] == [{"deliveries_waiting"}] * 3


BY_KEY = {
    "due_deliveries": {"deliveries_pkey", "endpoints_pkey"},
    "event_bodies": {"events_pkey", "job_requests_pkey"},
    "insert_attempt": {"deliveries_pkey"},
    "settle_delivery": {"deliveries_pkey"},
    "release_deliveries": {"deliveries_pkey"},
    "make_delivery_due": {"deliveries_pkey"},
}


@pytest.mark.anyio
async def test_a_plan_made_on_empty_tables_finds_rows_by_their_keys(database_server: Server) -> None:
    """Look up by its key what is named by it, though PostgreSQL plans while nothing is stored yet, and only once."""
    url = database_server.database()
    named = {"project_id": "prj_default", "id": "dlv_1", "delivery_id": "dlv_1", "keys": [["prj_default", "dlv_1"]]}
    attempt = {"outcome": "ok", "status_code": 200, "error": None, "started_at": 1, "duration_ms": 1}
    attempt |= {"response_excerpt": None, "exchange": None}
    after = {
        "state": "delivered",
        "next_attempt_at": None,
        "finished_at": 1,
    }
    await fill(url, Filling(), analyze=False)
    async with explaining(url) as explainer:
        times = {"now": 1, "leased_until": 1}
        found = {name: await explainer.plan(name, [named | attempt | after | times]) for name in BY_KEY}
    assert {name: set(plan.indexes) for name, plan in found.items()} == BY_KEY


def test_the_check_sees_a_plan_that_is_wrong(plans: list[Plans]) -> None:
    """A filter that nothing passes, and that has no index, is found to go through the table."""
    for made in plans:
        seen = {(case.name, case.note): wrong(case, plan) for case, plan in made}
        assert seen["callback_page", "stale, none"]
        assert seen["event_page", "undelivered, few"]


def test_every_statement_about_what_grows_is_looked_at(plans: list[Plans]) -> None:
    """A new statement that names a large table gets a case, or is one that finds a single row by its id."""
    looked_at = {case.name for case, _ in plans[0]}
    large = ("jobs", "job_requests", "events", "callbacks", "deliveries", "attempts")
    for name, statement in load(Dialect.SQLITE).items():
        text = f"{statement.source}\n"
        named = any(f" {table}\n" in text or f" {table} " in text for table in large)
        assert name in looked_at or not named or "WHERE id = :id" in text or "INSERT INTO" in text, name
