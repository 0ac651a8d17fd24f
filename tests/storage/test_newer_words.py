"""Reads what a newer release stored while both run: a word that this one does not know hides nothing of a list."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.model.alert import AlertKind
from relay.model.delivery import Outcome
from relay.model.job import Disposition, EventType
from relay.storage import rows
from relay.storage.audit import Via
from relay.storage.engine.database import Transaction
from tests.support.calling_back import DONE
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
NEWER = (
    "UPDATE events SET type = 'job.newer'",
    "UPDATE attempts SET outcome = 'newer'",
    "UPDATE callbacks SET disposition = 'newer'",
    "UPDATE audit SET via = 'newer'",
    """INSERT INTO alerts (id, project_id, kind, subject_type, subject_id, subject_name, summary, detail, opened_at)
    VALUES ('alr_1', 'prj_default', 'newer.kind', 'provider', 'evolink', 'evolink', 'A newer alert.', '{}', 1)""",
)
SHOWN = {
    "/v1/events": "type",
    "/v1/callbacks": "verdict",
    "/v1/audit": "via",
    "/v1/alerts": "kind",
}


@pytest.fixture
def clock() -> HeldClock:
    """Return a clock that the test advances."""
    return HeldClock()


@pytest.fixture
async def running(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Running]:
    """Yield a relay with an endpoint that has events, of which the words are of a newer release."""
    async with relay(tmp_path, clock=clock) as started:
        await started.client.post("/v1/endpoints", json={"url": started.hook})
        await started.submit()
        await started.client.post(started.callback_url(), content=DONE)
        await clock.advance(1)

        async def work(transaction: Transaction) -> None:
            for statement in NEWER:
                await transaction.run_text(statement)

        await started.app.store.database.transact(work)
        yield started


async def shown(running: Running, path: str) -> dict[str, Any]:
    """Return an answer that has words which its route does not declare."""
    async with running.client.stream("GET", path) as answer:
        await answer.aread()
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_newer_word_hides_nothing(running: Running) -> None:
    """Show each list, each object and the job's history with the word as it is stored."""
    for path, name in SHOWN.items():
        first = (await shown(running, path))["data"][-1]
        assert "newer" in first[name]
        if path not in ("/v1/audit", "/v1/alerts"):
            assert (await shown(running, f"{path}/{first['id']}"))[name] == first[name]
    delivery = (await shown(running, "/v1/deliveries"))["data"][-1]["id"]
    assert (await shown(running, f"/v1/deliveries/{delivery}"))["attempts"][0]["outcome"] == "newer"
    job = (await shown(running, "/v1/jobs"))["data"][0]["id"]
    assert await shown(running, f"/v1/jobs/{job}")
    assert "newer" in str(await shown(running, f"/v1/jobs/{job}/timeline"))


async def test_an_alert_of_a_newer_kind_stays_open(running: Running, clock: HeldClock) -> None:
    """End no alert whose condition this release cannot judge."""
    await clock.advance(600)
    alerts = (await shown(running, "/v1/alerts"))["data"]
    assert [(alert["kind"], alert["state"]) for alert in alerts if alert["id"] == "alr_1"] == [("newer.kind", "open")]


@pytest.mark.parametrize("kind", [EventType, Outcome, Disposition, AlertKind, Via])
def test_a_known_word_is_itself_and_a_newer_one_is_its_text(kind: type[EventType]) -> None:
    """Return the member of a known word, and of a newer one what equals its text and no member."""
    for known in kind:
        assert rows.word(kind, known.value) is known
    newer = rows.word(kind, "a.newer.word")
    assert newer == "a.newer.word"
    assert isinstance(newer, kind)
    assert newer not in list(kind)
