"""Lists of what is stored: a filter keeps what it says, page by page, by whichever index its rows are found."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import ids
from relay.model.delivery import DeliveryState, Endpoint
from relay.model.job import Disposition, Job, JobState
from relay.security.encryption import Encryption
from relay.storage import rows
from relay.storage.apply_updates import Room, UpdateApplier
from relay.storage.boots import Lease
from relay.storage.deliveries import Deliveries, DeliveryFilter
from relay.storage.engine.database import Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.history import CallbackFilter, Callbacks, EventFilter, Events
from relay.storage.jobs import JobFilter, Jobs
from relay.storage.pages import PAGE_BYTES, SKEW_MS, WINDOW, Listing, Page, Span
from tests.support.held_ids import made_by
from tests.support.past import add_event, callback, database, insert_jobs
from tests.support.running import SECRET_KEY, START_MS

pytestmark = pytest.mark.both_databases

STATES = st.lists(st.sampled_from(DeliveryState), max_size=12)
VERDICTS = st.lists(st.sampled_from([*Disposition]), max_size=12)
NOBODYS = "prj_nobody"


@given(states=STATES, dispositions=VERDICTS, limit=st.integers(1, 5))
def test_a_filter_keeps_its_own_newest_first(
    tmp_path_factory: pytest.TempPathFactory, states: list[DeliveryState], dispositions: list[Disposition], limit: int
) -> None:
    """Deliveries by status and callbacks by verdict: all pages together are those that have it, and no other's."""
    asyncio.run(_listed(tmp_path_factory.getbasetemp(), states, dispositions, limit))


async def _listed(folder: Path, states: list[DeliveryState], dispositions: list[Disposition], limit: int) -> None:
    """One example."""
    async with database(folder) as opened:

        async def write(transaction: Transaction) -> None:
            for table in ("deliveries", "events", "attempts", "callbacks"):
                await transaction.run_text(f"DELETE FROM {table}")
            await add_event(transaction, None, "ep_1", START_MS, states)
            await transaction.run_many("insert_callback", [callback("job_1", 1, b"", one) for one in dispositions])

        await opened.transact(write)
        deliveries = Deliveries(opened, Writer(opened, 10), Encryption([SECRET_KEY]), 1.0)
        callbacks = Callbacks(opened)
        for state in DeliveryState:
            wanted = DeliveryFilter(status=state)
            found = await every_page(partial(deliveries.page, "prj_default", wanted=wanted), limit)
            assert {one.state for one in found} <= {state}
            shown = [one.id for one in found]
            assert (shown, len(shown)) == (sorted(shown, reverse=True), states.count(state))
            assert await every_page(partial(deliveries.page, NOBODYS, wanted=wanted), limit) == []
        for disposition in Disposition:
            wanted_callbacks = CallbackFilter(disposition=disposition)
            asked = partial(callbacks.page, "prj_default", wanted=wanted_callbacks)
            heads = await every_page(asked, limit)
            assert {one.disposition for one in heads} <= {disposition}
            shown = [one.id for one in heads]
            assert (shown, len(shown)) == (sorted(shown, reverse=True), dispositions.count(disposition))
            nobodys = partial(callbacks.page, NOBODYS, wanted=wanted_callbacks)
            assert await every_page(nobodys, limit) == []


async def every_page(ask: Callable[..., Awaitable[Page[Any]]], limit: int, bytes_max: int = PAGE_BYTES) -> list[Any]:
    """Everything that a list shows, by its cursors."""
    found: list[Any] = []
    before: str | None = None
    for _ in range(1000):
        page = await ask(listing=Listing(before=before, limit=limit, bytes_max=bytes_max))
        assert len(page.items) <= limit
        found += page.items
        if (before := page.next_cursor) is None:
            return found
    raise AssertionError("a list without an end")


SPANS = st.builds(Span, after=st.none() | st.integers(-5, 40), before=st.none() | st.integers(-5, 40))


@given(made=st.lists(st.integers(0, 35), max_size=10), span=SPANS, limit=st.integers(1, 4))
def test_a_list_of_a_time_has_what_was_made_between(
    tmp_path_factory: pytest.TempPathFactory, made: list[int], span: Span, limit: int
) -> None:
    """Show exactly the jobs, events, deliveries and callbacks made after one time and before another, both excluded."""
    scaled = Span(*(None if one is None else START_MS + one * 1000 for one in (span.after, span.before)))
    asyncio.run(_of_a_time(tmp_path_factory.getbasetemp(), made, scaled, limit))


async def _of_a_time(folder: Path, made_s: list[int], span: Span, limit: int) -> None:
    """One example: each list, also narrowed by an endpoint and by a status that few have or that none has."""
    now_ms = START_MS
    times = [START_MS + one * 1000 for one in sorted(made_s)]
    async with database(folder) as opened:

        async def write(transaction: Transaction) -> None:
            nonlocal now_ms
            for table in ("deliveries", "events", "attempts", "callbacks", "endpoints", "jobs", "job_requests"):
                await transaction.run_text(f"DELETE FROM {table}")
            endpoint = Endpoint(id="ep_1", url="", secret="", event_types=[], **_OWNED)
            await transaction.run_many("insert_endpoint", [rows.endpoint_params(endpoint, Encryption([SECRET_KEY]))])
            for at_ms in times:
                now_ms = at_ms + 7  # an id is made a little after the time that its row shows
                await add_event(transaction, None, "ep_1", at_ms, [DeliveryState.EXHAUSTED])
                await transaction.run_many("insert_callback", [callback("job_1", at_ms, b"", "quarantined")])
                await insert_jobs(transaction, [a_job(at_ms)])

        with made_by(lambda: now_ms):
            await opened.transact(write)
        writer, encryption = Writer(opened, 10), Encryption([SECRET_KEY])
        deliveries, events = Deliveries(opened, writer, encryption, 1.0), Events(opened)
        jobs = Jobs(opened, writer, encryption, UpdateApplier(Lease(1), Room(1), (0,)), Lease(1))
        callbacks = Callbacks(opened)
        of_events = partial(events.page, PROJECT, now_ms=now_ms)
        of_deliveries, of_callbacks = partial(deliveries.page, PROJECT), partial(callbacks.page, PROJECT)
        failed = DeliveryFilter(status="exhausted", made=span)
        failed_to_one = msgspec.structs.replace(failed, endpoint_id="ep_1")
        lists: dict[str, tuple[Callable[..., Awaitable[Page[Any]]], str]] = {
            "events": (partial(of_events, wanted=EventFilter(made=span)), "created_at"),
            "events undelivered": (partial(of_events, wanted=EventFilter(made=span, undelivered=True)), "created_at"),
            "events after": (partial(of_events, wanted=EventFilter(made=span, after="evt_!")), "created_at"),
            "deliveries": (partial(of_deliveries, wanted=DeliveryFilter(made=span)), "created_at"),
            "failed": (partial(of_deliveries, wanted=failed), "created_at"),
            "of one": (partial(of_deliveries, wanted=failed_to_one), "created_at"),
            "callbacks": (partial(of_callbacks, wanted=CallbackFilter(received=span)), "received_at"),
            "doubtful": (
                partial(of_callbacks, wanted=CallbackFilter(disposition="quarantined", received=span)),
                "received_at",
            ),
            "of a job": (partial(of_callbacks, wanted=CallbackFilter(job_id="job_1", received=span)), "received_at"),
            "jobs": (partial(jobs.page, PROJECT, wanted=JobFilter(made=span)), "created_at"),
            "jobs by status": (partial(jobs.page, PROJECT, wanted=JobFilter(made=span, status="open")), "created_at"),
        }
        low, high = span.after or 0, span.before or 1 << 60
        expected = sorted((at_ms for at_ms in times if low < at_ms < high), reverse=True)
        for name, (ask, time_of) in lists.items():
            assert [getattr(one, time_of) for one in await every_page(ask, limit)] == expected, name


@pytest.mark.anyio
async def test_a_time_long_ago_is_one_page(tmp_path: Path) -> None:
    """Read only the rows of the time that is asked for, give or take SKEW_MS, however many were made since."""
    now_ms, rows_made = START_MS, WINDOW + 500
    async with database(tmp_path) as opened:

        async def write(transaction: Transaction) -> None:
            nonlocal now_ms
            await transaction.run_many("insert_callback", [callback("job_1", now_ms, b"", "stale")])
            now_ms += SKEW_MS + 2
            await transaction.run_many("insert_callback", [callback("job_1", now_ms, b"") for _ in range(rows_made)])

        with made_by(lambda: now_ms):
            await opened.transact(write)
        old = CallbackFilter(disposition="stale", received=Span(before=START_MS + 1))
        page = await Callbacks(opened).page(PROJECT, Listing(before=None, limit=10), old)
        assert ([one.received_at for one in page.items], page.next_cursor) == ([START_MS], None)
        page = await Callbacks(opened).page(
            PROJECT, Listing(before=None, limit=10), CallbackFilter(disposition="stale", received=Span(after=START_MS))
        )
        assert page.items == []
        assert page.next_cursor is not None


PROJECT = "prj_default"
_OWNED: dict[str, Any] = {"project_id": PROJECT, "job_id": None, "created_at": 1, "updated_at": 1}


def a_job(at_ms: int) -> Job:
    """Return an open job that was made then."""
    return Job(
        id=ids.new_id(ids.JOB),
        project_id=PROJECT,
        provider="evolink",
        state=JobState.RUNNING,
        created_at=at_ms,
        updated_at=at_ms,
        deadline_at=at_ms + 1000,
        request={},
        metadata={},
    )
