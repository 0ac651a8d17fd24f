"""Lists of what is stored: a filter keeps what it says, page by page, by whichever index its rows are found."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model.delivery import DeliveryState
from relay.model.job import Disposition
from relay.security.encryption import Encryption
from relay.storage.deliveries import Deliveries
from relay.storage.engine.database import Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.history import Callbacks
from relay.storage.pages import PAGE_BYTES, Listing, Page
from tests.support.past import add_event, callback, database
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
        anything = dict.fromkeys(("endpoint_id", "event_id", "job_id"))
        for state in DeliveryState:
            wanted = anything | {"status": state}
            found = await every_page(partial(deliveries.page, "prj_default", wanted=wanted), limit)
            assert {one.state for one in found} <= {state}
            shown = [one.id for one in found]
            assert (shown, len(shown)) == (sorted(shown, reverse=True), states.count(state))
            assert await every_page(partial(deliveries.page, NOBODYS, wanted=wanted), limit) == []
        for disposition in Disposition:
            asked = partial(callbacks.page, "prj_default", job_id=None, disposition=disposition)
            heads = await every_page(asked, limit)
            assert {one.disposition for one in heads} <= {disposition}
            shown = [one.id for one in heads]
            assert (shown, len(shown)) == (sorted(shown, reverse=True), dispositions.count(disposition))
            nobodys = partial(callbacks.page, NOBODYS, job_id=None, disposition=disposition)
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
