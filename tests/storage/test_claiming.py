"""Claiming what is due: deliveries, however much waits for busy endpoints; checks, confirmations by project."""

import asyncio
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.model import ids
from relay.model.delivery import Endpoint
from relay.model.job import Job, JobState
from relay.security.encryption import Encryption
from relay.storage import job_rows, rows
from relay.storage.apply_updates import Room, UpdateApplier
from relay.storage.boots import Lease
from relay.storage.deliveries import WALK, WINDOW, ClaimRequest, Deliveries
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.fan_out import EventRef, new_delivery
from relay.storage.jobs import ConfirmationClaim, Jobs
from tests.support.past import database as opened
from tests.support.past import insert_jobs, select
from tests.support.running import SECRET_KEY, HeldClock, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

NOW, LEASED, LIMIT = 1_000_000, 1_025_000, 7
SEAL = Encryption([SECRET_KEY])
Due = tuple[str, int]
"""An endpoint, and when something is due for it."""


async def waiting(database: Database, many: Sequence[Due]) -> list[str]:
    """Replace the deliveries by these, of one event, with their endpoints; return their ids in order."""
    made = [new_delivery(EventRef("evt_1", "prj_default", None), endpoint_id, 1, at) for endpoint_id, at in many]
    about = {"project_id": "prj_default", "job_id": None, "type": "relay.test", "sequence": 0, "final": 0}
    event = about | {"id": "evt_1", "created_at": 1, "body": b"{}"}
    of_none: dict[str, Any] = {"project_id": "prj_default", "job_id": None, "created_at": 1, "updated_at": 1}
    names = sorted({name for name, _ in many})
    endpoints = [Endpoint(id=name, url="http://a", secret="s", event_types=[], **of_none) for name in names]

    async def write(transaction: Transaction) -> None:
        for table in ("deliveries", "events", "endpoints"):
            await transaction.run_text(f"DELETE FROM {table}")
        await transaction.run_many("insert_event", [event])
        await transaction.run_many("insert_endpoint", [rows.endpoint_params(one, SEAL) for one in endpoints])
        await transaction.run_many("insert_delivery", made)

    await database.transact(write)
    return [one.id for one in made]


async def claimed(database: Database, busy: Collection[str]) -> list[tuple[str, str]]:
    """Return all that a dispatcher claims while these endpoints are busy, poll after poll."""
    deliveries = Deliveries(database, Writer(database, 10), SEAL, 1.0)
    found: list[tuple[str, str]] = []
    walked_to = ""
    while True:
        result = await deliveries.claim(request(LIMIT, dict.fromkeys(busy, 0), walked_to))
        walked_to = result.walked_to
        found += [(one.delivery_id, one.endpoint_id) for one in result.deliveries]
        assert len(result.deliveries) <= LIMIT
        if not result.deliveries and not walked_to:
            return found


def request(limit: int, endpoint_limits: Mapping[str, int] = {}, walked_to: str = "") -> ClaimRequest:
    """Return what a dispatcher with so many free slots asks for."""
    return ClaimRequest(
        now_ms=NOW, leased_until_ms=LEASED, limit=limit, endpoint_limits=endpoint_limits, walked_to=walked_to
    )


async def test_what_is_due_behind_a_crowd_is_found(tmp_path: Path) -> None:
    """More is due for a busy endpoint than a claim looks at: what is due later for others is claimed all the same."""
    async with opened(tmp_path) as database:
        others = [("ep_free", NOW), ("ep_also", NOW), ("ep_free", NOW), ("ep_later", NOW + 1)]
        made = await waiting(database, [("ep_busy", NOW - 1)] * (WINDOW + 1) + others)
        assert sorted(await claimed(database, {"ep_busy"})) == sorted(
            zip(made[-4:-1], ["ep_free", "ep_also", "ep_free"], strict=True)
        )


async def test_a_walk_goes_through_all_endpoints(tmp_path: Path) -> None:
    """More endpoints wait than are looked at in one go; none is left out, whatever its name."""
    async with opened(tmp_path) as database:
        names = [f"ep_{number:04}" for number in range(2 * WALK + 10)]
        busy = set(names[:: len(names) // 3])
        many = [(name, NOW - 1) for name in sorted(busy) for _ in range(WINDOW)] + [(name, NOW) for name in names]
        await waiting(database, many)
        found = [endpoint_id for _, endpoint_id in await claimed(database, busy)]
        assert sorted(found) == sorted(set(names) - busy)


NAMES = st.sampled_from(["ep_a", "ep_b", "ep_c", "ep_d"])
SOME = st.lists(st.tuples(NAMES, st.integers(NOW - 3, NOW + 3)), max_size=60)


@given(some=SOME, crowd=st.sampled_from([0, WINDOW]), busy=st.sets(NAMES))
def test_each_due_delivery_is_claimed_once(
    tmp_path_factory: pytest.TempPathFactory, some: list[Due], crowd: int, busy: set[str]
) -> None:
    """Whatever is due, and whoever is busy: exactly what is due for the others is claimed, and what is not stays."""
    asyncio.run(_each_once(tmp_path_factory.getbasetemp(), some, crowd, busy))


async def _each_once(folder: Path, some: list[Due], crowd: int, busy: set[str]) -> None:
    """One example; the crowd is in front of the rest."""
    async with opened(folder) as database:
        many = [("ep_crowd", NOW - 9)] * crowd + some
        made = await waiting(database, many)
        busy = busy | {"ep_crowd"}
        wanted = [(one, name) for one, (name, at) in zip(made, many, strict=True) if at <= NOW and name not in busy]
        assert sorted(await claimed(database, busy)) == sorted(wanted)
        result = await Deliveries(database, Writer(database, 10), SEAL, 1.0).claim(request(1, dict.fromkeys(busy, 0)))
        left = [at for name, at in many if at > NOW or name in busy]
        assert result.next_due_at == min([LEASED] * bool(wanted) + left, default=None)
        (due,) = await database.rows("next_due_delivery", {"now": NOW + 9, "window": WINDOW})
        assert due["due"] == min(len(left), WINDOW)


async def test_several_processes_that_look_at_once_find_something_each(tmp_path: Path) -> None:
    """Four claims at the same moment get different deliveries."""
    async with opened(tmp_path) as database:
        await waiting(database, [(f"ep_{random.randrange(9)}", NOW)] * 100)
        deliveries = Deliveries(database, Writer(database, 10), SEAL, 1.0)
        found = await asyncio.gather(*(deliveries.claim(request(10)) for _ in range(4)))
        claimed_ids = [one.delivery_id for result in found for one in result.deliveries]
        assert len(set(claimed_ids)) == len(claimed_ids) == 40


async def test_each_endpoint_is_claimed_for_up_to_its_own_limit(tmp_path: Path) -> None:
    """Claim the first that are due of several endpoints in one call, of each as many as it may have and no more."""
    async with opened(tmp_path) as database:
        times = {"ep_a": (NOW - 3, NOW - 2, NOW - 1), "ep_b": (NOW, NOW + 1), "ep_c": (NOW,)}
        made = await waiting(database, [(name, at) for name, many in times.items() for at in reversed(many)])
        deliveries = Deliveries(database, Writer(database, 10), SEAL, 1.0)
        limits = {"ep_a": 2, "ep_b": 2, "ep_c": 0}
        asked = msgspec.structs.replace(request(9, limits), refills={"ep_a": 2, "ep_b": 2})
        claimed_ids = {one.delivery_id for one in (await deliveries.claim(asked)).deliveries}
        assert claimed_ids == {made[2], made[1], made[4]}


async def test_a_retry_is_made_in_time_behind_a_crowd_for_a_held_endpoint(tmp_path: Path) -> None:
    """A whole relay: hundreds are due for an endpoint that is held, and the other's retry goes out when it is due."""
    async with relay(tmp_path, clock=(clock := HeldClock()), RELAY_RETRY_SCHEDULE_S="0,60,60") as running:
        bodies = [{"url": f"{running.hook}/{name}", "in_flight_max": 1} for name in ("held", "free")]
        held, free = [(await running.client.post("/v1/endpoints", json=body)).json()["id"] for body in bodies]
        running.sink.answers = [500] * 10
        for _ in range(10):
            await running.client.post(f"/v1/endpoints/{held}/tests")
        await running.until(f"/v1/endpoints/{held}", lambda found: found["status"] == "held")
        running.sink.answers = [400]
        retried = (await running.client.post(f"/v1/endpoints/{free}/tests")).json()["id"]
        await running.until(f"/v1/deliveries/{retried}", lambda found: found["attempts_made"] == 1)
        await _crowd(running.app.store.database, retried, held, clock.now_ms())
        running.sink.received.clear()
        # The lane is held again after its probe, and the crowd still waits when the retry comes due.
        running.sink.answers = [500]
        await clock.advance(30)
        await running.sink.wait_for(lambda sink: len(sink.received) == 1)
        await running.until(f"/v1/endpoints/{held}", lambda found: found["status"] == "held")
        await clock.advance(45)
        await running.until(f"/v1/deliveries/{retried}", lambda found: found["status"] == "delivered")
        assert [one.path for one in running.sink.received] == ["/hook/held", "/hook/free"]


async def _crowd(database: Database, like: str, endpoint_id: str, at: int) -> None:
    """Deliveries of the same event that are due for another endpoint."""
    row = dict((await database.rows("delivery_of_project", {"id": like, "project_id": "prj_default"}))[0])
    row |= {"endpoint_id": endpoint_id, "next_attempt_at": at, "leased_by": None, "created_at": at, "reported_at": None}
    many = [row | {"id": ids.new_id(ids.DELIVERY)} for _ in range(2 * WINDOW)]
    await database.transact(lambda transaction: transaction.run_many("insert_delivery", many))


PROVIDERS = st.sampled_from(["evolink", "kinovi", "relaydance"])
PROJECTS = st.sampled_from(["prj_default", "prj_other", "prj_third"])
ASKED = st.lists(st.tuples(PROVIDERS, PROJECTS, st.booleans(), st.none() | st.integers(NOW - 3, NOW + 3)), max_size=25)


class Asked(msgspec.Struct, frozen=True):
    """One example: jobs (provider, project, whether they wait to be confirmed, when they are checked) and a claim."""

    jobs: list[tuple[str, str, bool, int | None]]
    provider: str
    project: str
    limit: int


@given(st.builds(Asked, ASKED, PROVIDERS, PROJECTS, st.integers(1, 9)))
def test_checks_are_claimed_by_provider_and_confirmations_by_project(
    tmp_path_factory: pytest.TempPathFactory, asked: Asked
) -> None:
    """Claim a provider's due jobs by time, what waits to be confirmed by project too; and know what comes next."""
    asyncio.run(_checks(tmp_path_factory.getbasetemp(), asked))


async def _checks(folder: Path, asked: Asked) -> None:
    """Run one example."""
    async with opened(folder) as database:
        jobs = [_job(provider, project, NOW + 99 if waits else None, at) for provider, project, waits, at in asked.jobs]

        async def write(transaction: Transaction) -> None:
            await transaction.run_text("DELETE FROM jobs")
            await transaction.run_text("DELETE FROM job_requests")
            await insert_jobs(transaction, jobs)

        await database.transact(write)
        store = Jobs(database, Writer(database, 10), SEAL, UpdateApplier(Lease(1), Room(1), (0,)), Lease(1))
        checks: dict[str, list[int]] = {}
        confirmations: dict[str, dict[str, list[int]]] = {}
        for provider, project, waits, at in asked.jobs:
            if at is not None and waits:
                confirmations.setdefault(provider, {}).setdefault(project, []).append(at)
            elif at is not None:
                checks.setdefault(provider, []).append(at)
        assert await store.next_checks() == {name: min(times) for name, times in checks.items()}
        assert await store.next_confirmations() == {
            name: {project: min(times) for project, times in of.items()} for name, of in confirmations.items()
        }
        before = {job.id: job for job in jobs}
        due = sorted(at for at in checks.get(asked.provider, []) if at <= NOW)[: asked.limit]
        taken = await store.claim_checks(asked.provider, NOW, LEASED, asked.limit)
        assert sorted(before[job.id].next_check_at or 0 for job in taken) == due
        assert {(job.provider, job.confirm_by) for job in taken} <= {(asked.provider, None)}
        waiting = confirmations.get(asked.provider, {}).get(asked.project, [])
        claim = ConfirmationClaim(
            provider=asked.provider, project_id=asked.project, now=NOW, leased_until=LEASED, limit=asked.limit
        )
        confirming = await store.claim_confirmations(claim)
        assert (
            sorted(before[job.id].next_check_at or 0 for job in confirming)
            == sorted(at for at in waiting if at <= NOW)[: asked.limit]
        )
        assert {(job.provider, job.project_id) for job in confirming} <= {(asked.provider, asked.project)}
        assert {(job.next_check_at, job.checks_made) for job in taken + confirming} <= {(LEASED, 1)}


def _job(provider: str, project: str, confirm_by: int | None, next_check_at: int | None) -> Job:
    """Return a job that its provider works on."""
    return Job(
        id=ids.new_id(ids.JOB),
        project_id=project,
        provider=provider,
        state=JobState.RUNNING,
        created_at=1,
        updated_at=1,
        deadline_at=NOW + 99,
        request={},
        metadata={},
        confirm_by=confirm_by,
        next_check_at=next_check_at,
    )


async def test_an_open_job_reserves_the_room_of_a_result(tmp_path: Path) -> None:
    """Keep the length of an open job's document at 1,180 letters on SQLite, so that its end moves no other row."""
    async with opened(tmp_path) as database:
        job = msgspec.structs.replace(_job("evolink", "prj_default", None, None), id="job_1")

        async def put(name: str, *changed: Job) -> None:
            await database.transact(lambda some: some.run_many(name, [job_rows.changed_row(one) for one in changed]))

        async def stored() -> list[tuple[int, bool]]:
            ((doc,),) = await select(database, "SELECT doc FROM jobs")
            return [(len(doc), doc.endswith(" "))]

        reserved = [(len(job_rows.row(job).doc), False)] if database.shared else [(1180, True)]
        await put("insert_job", job)
        assert await stored() == reserved
        await put("update_job", job)
        assert await stored() == reserved
        started = msgspec.structs.asdict(job_rows.row(job)) | {"boot": 1}
        await database.transact(lambda some: some.run_many("start_submission", [started]))
        assert await stored() == reserved
        ended = msgspec.structs.replace(job, state=JobState.FAILED, finished_at=9)
        await put("update_job", ended)
        assert await stored() == [(len(job_rows.row(ended).doc), False)]
