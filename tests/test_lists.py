"""Lists of what is stored: a filter keeps what it says, page by page, by whichever index its rows are found."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import Verdict
from relay.outbox import DeliveryState
from relay.seal import Seal
from relay.storage.database import Transaction
from relay.storage.deliveries import Deliveries
from relay.storage.evidence import Callbacks
from relay.storage.writer import Writer
from tests.past import add_event, callback, database
from tests.running import SECRET_KEY, START_MS

STATES = st.lists(st.sampled_from(DeliveryState), max_size=12)
VERDICTS = st.lists(st.sampled_from([*Verdict]), max_size=12)
NOBODYS = "prj_nobody"


@given(states=STATES, verdicts=VERDICTS, limit=st.integers(1, 5))
def test_a_filter_keeps_its_own_newest_first(
    tmp_path_factory: pytest.TempPathFactory, states: list[DeliveryState], verdicts: list[Verdict], limit: int
) -> None:
    """Deliveries by status and callbacks by verdict: all pages together are those that have it, and no other's."""
    asyncio.run(_listed(tmp_path_factory.getbasetemp(), states, verdicts, limit))


async def _listed(folder: Path, states: list[DeliveryState], verdicts: list[Verdict], limit: int) -> None:
    """One example."""
    async with database(folder) as opened:

        async def write(transaction: Transaction) -> None:
            for table in ("deliveries", "events", "attempts", "callbacks"):
                await transaction.run_text(f"DELETE FROM {table}")
            await add_event(transaction, None, "ep_1", START_MS, states)
            await transaction.run_many("insert_callback", [callback("job_1", 1, b"", one) for one in verdicts])

        await opened.transact(write)
        deliveries = Deliveries(opened, Writer(opened, 10), Seal([SECRET_KEY]), 1.0)
        callbacks = Callbacks(opened)
        anything = dict.fromkeys(("endpoint_id", "event_id", "job_id"))
        for state in DeliveryState:
            shown: list[str] = []
            wanted = anything | {"status": state}
            while some := await deliveries.page("prj_default", shown[-1] if shown else None, limit, wanted):
                assert {one.state for one in some} == {state}
                shown += [one.id for one in some]
            assert (shown, len(shown)) == (sorted(shown, reverse=True), states.count(state))
            assert await deliveries.page(NOBODYS, None, limit, wanted) == []
        for verdict in Verdict:
            shown = []
            while page := await callbacks.page("prj_default", shown[-1] if shown else None, limit, None, verdict):
                assert {one.verdict for one in page} == {verdict}
                shown += [one.id for one in page]
            assert (shown, len(shown)) == (sorted(shown, reverse=True), verdicts.count(verdict))
            assert await callbacks.page(NOBODYS, None, limit, None, verdict) == []
