"""A new delivery goes out with what its commit knew: nothing is read for it once more."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.lifecycle.reports import Transition
from relay.model import ids
from relay.model.delivery import Endpoint
from relay.model.job import Disposition, EventType, Job, JobState
from relay.security.encryption import Encryption
from relay.storage.apply_updates import JobUpdate, UpdateResult
from relay.storage.deliveries import DeliveryKey, DueDelivery
from relay.storage.endpoints import Rotation
from relay.storage.engine.database import Database
from relay.storage.jobs import NewJob
from relay.storage.store import Store, StoreOptions
from tests.support.past import database as opened
from tests.support.running import SECRET_KEY, HeldClock, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

NOW = 1_000_000
OPTIONS = StoreOptions(lease_ms=25_000, backlog_max=64, callbacks_per_job_max=5, schedule_s=(0, 5))
OF_PROJECT: dict[str, Any] = {"project_id": "prj_default", "created_at": 1, "updated_at": 1}
JOB = Job(
    id=ids.new_id(ids.JOB),
    provider="evolink",
    state=JobState.PENDING,
    deadline_at=NOW,
    request={"prompt": "é"},
    **OF_PROJECT,
)
PLAIN = Endpoint(id="ep_1", job_id=None, url="https://app.example/1", secret="whsec_1", event_types=["*"], **OF_PROJECT)
ODD = msgspec.structs.replace(
    PLAIN,
    id="ep_2",
    url="https://app.example/2",
    secret="whsec_2",
    headers={"authorization": "Bearer x"},
    rate_limit_per_s=2.5,
    in_flight_max=3,
    timeout_s=60.0,
    schedule_s=[0, 7],
)
LATER = msgspec.structs.replace(PLAIN, id="ep_3", schedule_s=[9, 9])
DEAF = msgspec.structs.replace(PLAIN, id="ep_4", event_types=["job.failed"])


async def running(database: Database, dispatches: bool) -> tuple[Store, UpdateResult]:
    """Return a job that began to run, and who listens to that; one secret was rotated before."""
    store = Store(database, Encryption([SECRET_KEY]), msgspec.structs.replace(OPTIONS, dispatches=dispatches))
    await store.jobs.create(NewJob(JOB, ()))
    for endpoint in (PLAIN, ODD, LATER, DEAF):
        await store.endpoints.create(endpoint)
    await store.endpoints.rotate(
        Rotation(id=ODD.id, project_id=ODD.project_id, secret="whsec_new", until=NOW + 5, now=NOW)
    )
    return store, await store.jobs.record(JobUpdate(job_id=JOB.id, at=NOW, transition=_run))


def _run(job: Job) -> Transition:
    return Transition(
        msgspec.structs.replace(job, state=JobState.RUNNING), Disposition.RECORDED, None, EventType.JOB_RUNNING
    )


async def test_what_comes_with_a_new_delivery_is_what_would_be_read(tmp_path: Path) -> None:
    """The event's bytes, and each endpoint as it is now, its rotated secret and its limits included."""
    async with opened(tmp_path) as database:
        store, recorded = await running(database, dispatches=True)
        at_hand = store.deliveries.at_hand(recorded.fresh)
        keys = [DeliveryKey(fresh.project_id, fresh.delivery_id) for fresh in recorded.fresh]
        read = await store.deliveries.due_deliveries(keys)
        assert sorted(at_hand, key=lambda one: one.endpoint_id) == sorted(read, key=lambda one: one.endpoint_id)
        assert {(one.url, one.secret, one.former_secret) for one in at_hand} == {
            (PLAIN.url, PLAIN.secret, None),
            (ODD.url, "whsec_new", ODD.secret),
        }


async def test_nothing_comes_with_what_another_process_sends(tmp_path: Path) -> None:
    """Who only takes callbacks in does not ask how their events would be sent."""
    async with opened(tmp_path) as database:
        store, recorded = await running(database, dispatches=False)
        assert {fresh.endpoint_id for fresh in recorded.fresh} == {PLAIN.id, ODD.id}
        assert store.deliveries.at_hand(recorded.fresh) == []


async def test_neither_an_event_nor_a_retry_is_read_once_more(tmp_path: Path) -> None:
    """A whole relay: what is handed over, or claimed, starts as it came."""
    async with relay(tmp_path, clock=(clock := HeldClock()), RELAY_RETRY_SCHEDULE_S="0,60") as started:
        deliveries, asked = started.app.store.deliveries, []
        read = deliveries.due_deliveries

        async def noted(keys: Iterable[DeliveryKey]) -> list[DueDelivery]:
            asked.append(wanted := list(keys))
            return await read(wanted)

        deliveries.due_deliveries = noted  # type: ignore[method-assign]
        started.sink.answers = [500]
        await started.client.post("/v1/endpoints", json={"url": started.hook, "event_types": ["job.submitted"]})
        await started.submit()
        await started.until("/v1/deliveries", lambda found: [one["attempts_made"] for one in found["data"]] == [1])
        await clock.advance(75)
        await started.until("/v1/deliveries", lambda found: found["data"][0]["status"] == "delivered")
        assert asked == []
