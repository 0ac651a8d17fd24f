"""Pages of lists: bounded in the rows they look at and in bytes, and complete all the same, on both databases."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import ids
from relay.model.delivery import Delivery
from relay.security.encryption import Encryption
from relay.storage import job_rows, pages, rows
from relay.storage.apply_updates import Room, UpdateApplier
from relay.storage.boots import Lease
from relay.storage.deliveries import Deliveries, DeliveryFilter
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.fan_out import EventRef, new_delivery
from relay.storage.history import BEGINNING, CallbackFilter, Callbacks, EventFilter, EventQuery, Events
from relay.storage.jobs import JobFilter, Jobs
from relay.storage.pages import WINDOW, Listing
from tests.storage.test_lists import every_page
from tests.support.past import ENDPOINT, Past, add, callback, database, insert_jobs
from tests.support.running import SECRET_KEY, START_MS, HeldClock, relay

pytestmark = pytest.mark.both_databases

PROJECT = "prj_default"
ROWS = 2 * WINDOW + 10


def numbered(prefix: str, number: int) -> str:
    """Return an id whose place among others is its number."""
    return f"{prefix}{number:026}"


def event(number: int, kind: str, size: int = 0) -> dict[str, Any]:
    """Return an event of no job."""
    about = {"id": numbered(ids.EVENT, number), "project_id": PROJECT, "job_id": None, "type": kind, "sequence": 0}
    body = msgspec.json.encode({"data": "x" * size})
    return about | {"final": 0, "created_at": START_MS - 3_600_000, "body": body}


def delivery(number: int) -> Delivery:
    """Return a delivery that waits."""
    made = new_delivery(EventRef(numbered(ids.EVENT, number), PROJECT, None), "ep_1", START_MS, START_MS)
    return msgspec.structs.replace(made, id=numbered(ids.DELIVERY, number))


async def fill(opened: Database) -> None:
    """ROWS of everything; what the tests look for is the oldest alone."""

    async def write(transaction: Transaction) -> None:
        events = [event(number, "relay.test" if number else "endpoint.disabled") for number in range(ROWS)]
        await transaction.run_many("insert_event", events)
        await transaction.run_many("insert_delivery", [delivery(number) for number in range(ROWS)])
        await transaction.run_text("UPDATE deliveries SET state = 'delivered', next_attempt_at = NULL, finished_at = 1")
        oldest = numbered(ids.DELIVERY, 0)
        pending = f"state = 'pending', next_attempt_at = 1, finished_at = NULL WHERE id = '{oldest}'"
        await transaction.run_text(f"UPDATE deliveries SET {pending}")
        await transaction.run_many("insert_endpoint", [rows.endpoint_params(ENDPOINT, Encryption([SECRET_KEY]))])
        callbacks = [callback("job_1", 1, b"", "repeated" if number else "stale") for number in range(ROWS)]
        named = [one | {"id": numbered(ids.CALLBACK, number)} for number, one in enumerate(callbacks)]
        await transaction.run_many("insert_callback", named)

    await add(opened, [Past(deliveries=(), callbacks=0)])
    await opened.transact(write)


async def counted(ask: Any, limit: int = 50) -> tuple[int, int]:
    """How many pages a list has, and how many items."""
    found, number, before = 0, 0, None
    while True:
        page = await ask(listing=Listing(before=before, limit=limit))
        number, found, before = number + 1, found + len(page.items), page.next_cursor
        if before is None:
            return number, found


@pytest.mark.anyio
async def test_a_filter_that_nothing_passes_is_a_short_page(tmp_path: Path) -> None:
    """Look at WINDOW rows for a page, come back empty with a cursor that moves on, and find the one at the end."""
    async with database(tmp_path) as opened:
        await fill(opened)
        events, callbacks = Events(opened), Callbacks(opened)
        deliveries = Deliveries(opened, Writer(opened, 10), Encryption([SECRET_KEY]), 1.0)
        of_events = partial(events.page, PROJECT, now_ms=START_MS)
        after = numbered(ids.EVENT, 0)
        lists = {
            "events by type": partial(of_events, wanted=EventFilter(type="endpoint.disabled")),
            "events undelivered": partial(of_events, wanted=EventFilter(undelivered=True)),
            "events after": partial(of_events, wanted=EventFilter(after="evt_!", type="endpoint.disabled")),
            "deliveries": partial(deliveries.page, PROJECT, wanted=DeliveryFilter(status="pending")),
            "of an endpoint": partial(
                deliveries.page, PROJECT, wanted=DeliveryFilter(status="pending", endpoint_id="ep_1")
            ),
            "callbacks": partial(callbacks.page, PROJECT, wanted=CallbackFilter(disposition="stale")),
        }
        for name, ask in lists.items():
            assert await counted(ask) == (3, 1), name
        none = partial(of_events, wanted=EventFilter(after=after, type="endpoint.disabled"))
        assert await counted(none) == (3, 0)
        assert await counted(partial(of_events, wanted=EventFilter()), limit=200) == (-(-ROWS // 200), ROWS)


@pytest.mark.anyio
async def test_jobs_are_found_by_filters_and_metadata_within_a_window(tmp_path: Path) -> None:
    """Look at WINDOW jobs for a page, whether they are found by the project or by a pair of metadata."""
    async with database(tmp_path) as opened:
        (oldest,) = await add(opened, [Past(deliveries=(), callbacks=0)])
        (found,) = await opened.rows("job_of_project", {"id": oldest, "project_id": PROJECT})
        like = job_rows.job(found)
        many = [msgspec.structs.replace(like, id=numbered("job_z", number)) for number in range(ROWS - 1)]
        pairs = [{"project_id": PROJECT, "pair": "env=prod", "job_id": one.id} for one in [like, *many]]
        pairs += [{"project_id": PROJECT, "pair": "user=7", "job_id": oldest}]

        async def write(transaction: Transaction) -> None:
            await insert_jobs(transaction, many)
            await transaction.run_text("DELETE FROM job_metadata")
            await transaction.run_many("insert_job_metadata", pairs)

        await opened.transact(write)
        writer, encryption = Writer(opened, 10), Encryption([SECRET_KEY])
        jobs = Jobs(opened, writer, encryption, UpdateApplier(Lease(1), Room(1), (0,)), Lease(1))
        for wanted, expected in (
            (JobFilter(status="failed"), (3, 0)),
            (JobFilter(provider="other"), (3, 0)),
            (JobFilter(metadata={"env": "prod"}, status="failed"), (3, 0)),
            (JobFilter(metadata={"env": "prod", "user": "7"}), (3, 1)),
            (JobFilter(metadata={"user": "7"}), (1, 1)),
            (JobFilter(metadata={"user": "8"}), (1, 0)),
        ):
            assert await counted(partial(jobs.page, PROJECT, wanted=wanted), limit=200) == expected, wanted


@pytest.mark.anyio
async def test_another_projects_endpoint_shows_nothing(tmp_path: Path) -> None:
    """Answer an empty last page for another project's endpoint: a cursor would tell that it is there."""
    async with database(tmp_path) as opened:
        await fill(opened)
        deliveries = Deliveries(opened, Writer(opened, 10), Encryption([SECRET_KEY]), 1.0)
        wanted = DeliveryFilter(endpoint_id="ep_1", status="pending")
        assert await counted(partial(deliveries.page, "prj_other", wanted=wanted)) == (1, 0)


@pytest.mark.anyio
async def test_who_waits_for_one_type_moves_on(tmp_path: Path) -> None:
    """Move a filtered stream's place past what it does not show, a page at a time, without reading bodies."""
    async with database(tmp_path) as opened:
        await fill(opened)
        events, place = Events(opened), BEGINNING
        for _ in range(-(-ROWS // 500)):
            found = await events.following(EventQuery(PROJECT, place, "endpoint.enabled", 500), START_MS)
            assert found.events == []
            assert found.place > place
            place = found.place
        assert place.id == numbered(ids.EVENT, ROWS - 1)
        assert (await events.following(EventQuery(PROJECT, place, "endpoint.enabled", 500), START_MS)).place == place


@pytest.mark.anyio
async def test_a_made_up_id_is_placed_by_few_rows(tmp_path: Path) -> None:
    """Place an id that is not there before those that are newer, at the end where none is."""
    async with database(tmp_path) as opened:
        await fill(opened)
        events = Events(opened)
        first = await events.place(PROJECT, numbered(ids.EVENT, 0), START_MS)
        last = await events.place(PROJECT, numbered(ids.EVENT, ROWS - 1), START_MS)
        assert (await events.place(PROJECT, "evt_!", START_MS)).position == first.position
        assert await events.place(PROJECT, "evt_zzz", START_MS) == last
        between = await events.place(PROJECT, numbered(ids.EVENT, 7) + "x", START_MS)
        assert between.position == (await events.place(PROJECT, numbered(ids.EVENT, 8), START_MS)).position


sizes = st.lists(st.integers(0, 300), max_size=40)


@given(sizes=sizes, limit=st.integers(1, 20), bytes_max=st.integers(1, 500), window=st.integers(1, 10))
def test_pages_are_whole_and_within_their_bytes(sizes: list[int], limit: int, bytes_max: int, window: int) -> None:
    """Show each row once, in order, on pages within the limit and the bytes, one row at least, whatever their sizes."""
    stored = [{"id": f"{number:06}", "text": "x" * size} for number, size in reversed([*enumerate(sizes)])]

    async def ask(listing: Listing) -> pages.Page[dict[str, Any]]:
        later = [row for row in stored if listing.before is None or row["id"] < listing.before]
        floor = later[window - 1]["id"] if len(later) >= window else None

        async def read(before: str | None, number: int) -> list[dict[str, Any]]:
            seen = [row for row in later if before is None or row["id"] < before]
            return [row for row in seen if floor is None or row["id"] >= floor][:number]

        page = await pages.collect(listing, read, dict, floor)
        assert len(page.items) < 2 or sum(map(pages.weight_of, page.items)) <= bytes_max
        return page

    assert asyncio.run(every_page(ask, limit, bytes_max)) == stored


@pytest.mark.parametrize(("spare", "number"), [(0, 2), (-1, 1)])
def test_a_page_is_as_large_as_it_may_be(spare: int, number: int) -> None:
    """Show as many rows as just fit."""
    stored = [{"id": "b", "text": "x" * 9}, {"id": "a", "text": "x" * 9}]

    async def read(before: str | None, limit: int) -> list[dict[str, Any]]:
        return [row for row in stored if before is None or row["id"] < before][:limit]

    page = asyncio.run(pages.collect(Listing(before=None, limit=5, bytes_max=20 + spare), read, dict))
    assert (len(page.items), page.next_cursor) == (number, None if number == 2 else "b")


@pytest.mark.anyio
async def test_lists_answer_in_pages_of_a_bounded_size(tmp_path: Path) -> None:
    """Cut a page at RELAY_PAGE_MAX_BYTES, go on with its cursor, and list callbacks without their bodies."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_PAGE_MAX_BYTES="4096") as running:
        made = [(await running.submit(metadata={"k": "x" * 2000}))["id"] for _ in range(4)]
        for path in ("/v1/jobs", "/v1/events"):
            shown: list[str] = []
            answer = await running.get(path)
            while True:
                assert 1 <= len(answer["data"]) <= 2
                shown += [one["id" if path == "/v1/jobs" else "job"] for one in answer["data"]]
                if answer["next_cursor"] is None:
                    break
                answer = await running.get(f"{path}?cursor={answer['next_cursor']}")
            assert shown == made[::-1]
        url = running.callback_url()
        await running.client.post(url, content=b"not to be shown in a list")
        (listed,) = (await running.get("/v1/callbacks"))["data"]
        assert "body" not in listed
        assert "body_text" not in listed
        assert (await running.get(f"/v1/callbacks/{listed['id']}"))["body_text"] == "not to be shown in a list"
