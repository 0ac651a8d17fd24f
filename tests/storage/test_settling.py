"""Storing attempts: a bad one fails alone, and none is lost or counted twice."""

import asyncio
from pathlib import Path

import pytest

from relay.context import WRITE_PAUSE_MS
from relay.deliveries.attempt_writer import write_attempt
from relay.errors import StorageUnavailable
from relay.model import ids
from relay.model.delivery import Attempt, DeliveryState, Outcome
from relay.security.encryption import Encryption
from relay.storage.deliveries import AttemptResult, Deliveries
from relay.storage.engine.database import Database
from relay.storage.engine.group_commit import BATCH_MAX, Writer
from tests.storage.test_claiming import waiting
from tests.support.past import database as opened
from tests.support.past import select
from tests.support.running import SECRET_KEY, HeldClock, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

NOT_TEXT = "\ud800"
"""What no database takes."""


def result_of(delivery_id: str, excerpt: str = "ok") -> AttemptResult:
    """Return an attempt that delivered."""
    attempt = Attempt(
        id=ids.new_id(ids.ATTEMPT),
        delivery_id=delivery_id,
        number=1,
        outcome=Outcome.OK,
        status_code=200,
        error=None,
        started_at=1,
        duration_ms=1,
        response_excerpt=excerpt,
    )
    return AttemptResult(
        attempt=attempt,
        project_id="prj_default",
        endpoint_id="ep_1",
        state=DeliveryState.DELIVERED,
        next_attempt_at=None,
        at=2,
    )


class Forgetful(Deliveries):
    """Storage that commits, and raises `lost` times as if the database went away before its answer came."""

    lost = 0

    def write_attempt(self, result: AttemptResult, *, patient: bool = False) -> asyncio.Future[bool]:
        """Store the attempt in either case."""
        writing = super().write_attempt(result, patient=patient)
        if not self.lost:
            return writing
        self.lost -= 1
        lost: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        writing.add_done_callback(lambda _: lost.set_exception(StorageUnavailable("cut off")))
        return lost


def forgetful(database: Database) -> Forgetful:
    """Return the deliveries of the database."""
    return Forgetful(database, Writer(database, 10), Encryption([SECRET_KEY]), 1.0)


async def attempted(database: Database) -> set[str]:
    """Return the deliveries that have an attempt and are delivered."""
    found = await select(database, "SELECT id FROM deliveries WHERE state = 'delivered' AND attempts_made = 1")
    stored = await select(database, "SELECT delivery_id FROM attempts")
    assert sorted(stored) == sorted(found)
    return {row[0] for row in found}


async def test_all_that_end_are_written(tmp_path: Path) -> None:
    """Store every attempt, however many end concurrently."""
    async with opened(tmp_path) as database:
        made = await waiting(database, [("ep_1", 1)] * (BATCH_MAX + 3))
        deliveries, clock = forgetful(database), HeldClock()
        written = [write_attempt(deliveries, result_of(delivery_id), clock) for delivery_id in made[1:]]
        assert not any(await asyncio.gather(*written))
        assert not await write_attempt(deliveries, result_of(made[0]), clock)
        assert await attempted(database) == set(made)


async def test_an_attempt_that_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    """Raise for the attempt that cannot be stored, and store the others of its commit."""
    async with opened(tmp_path) as database:
        made = await waiting(database, [("ep_1", 1)] * 5)
        deliveries, clock = forgetful(database), HeldClock()
        results = [result_of(delivery_id, NOT_TEXT if number == 2 else "ok") for number, delivery_id in enumerate(made)]
        found = await asyncio.gather(
            *(write_attempt(deliveries, one, clock) for one in results), return_exceptions=True
        )
        assert [isinstance(one, Exception) for one in found] == [number == 2 for number in range(5)]
        assert await attempted(database) == set(made) - {made[2]}


async def test_what_is_not_known_to_be_written_is_written_again_and_counts_once(tmp_path: Path) -> None:
    """Write an attempt again after a pause where the answer of its commit was lost, and store it once."""
    async with opened(tmp_path) as database:
        made = await waiting(database, [("ep_1", 1)] * 2)
        deliveries, clock = forgetful(database), HeldClock()
        deliveries.lost = 3
        writing = [asyncio.ensure_future(write_attempt(deliveries, result_of(one), clock)) for one in made]
        await clock.advance((WRITE_PAUSE_MS - 1) / 1000)
        assert not any(one.done() for one in writing)
        await clock.advance(0.001)
        assert [one.done() for one in writing].count(True) == 1
        await clock.advance(WRITE_PAUSE_MS / 1000)
        assert [one.result() for one in writing] == [False, False]
        assert await attempted(database) == set(made)


@pytest.mark.parametrize(("lost", "raises"), [(19, False), (20, True)])
async def test_an_attempt_is_written_again_every_half_second_up_to_twenty_times(
    tmp_path: Path, lost: int, raises: bool
) -> None:
    """Try again 500 ms after each failure of the database, and raise at the twentieth: the lease makes it due again."""
    async with opened(tmp_path) as database:
        (made,) = await waiting(database, [("ep_1", 1)])
        deliveries, clock = forgetful(database), HeldClock()
        deliveries.lost = lost
        writing = asyncio.ensure_future(write_attempt(deliveries, result_of(made), clock))
        for left in range(lost - 1, lost - 20, -1):
            await clock.advance(0.499)
            assert (deliveries.lost, writing.done()) == (left, False)
            await clock.advance(0.001)
        assert isinstance(writing.exception(), StorageUnavailable) == raises
        assert deliveries.lost == 0


async def test_a_stop_does_not_wait_for_a_write_that_cannot_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop within the time-out while the database is away, and leave the attempt's delivery to its lease."""
    failed = asyncio.Event()

    def unavailable(_: AttemptResult, **__: bool) -> asyncio.Future[bool]:
        writing: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        writing.set_exception(StorageUnavailable("cut off"))
        failed.set()
        return writing

    async with asyncio.timeout(60), relay(tmp_path, RELAY_SHUTDOWN_S="1") as running:
        made = (await running.client.post("/v1/endpoints", json={"url": running.hook})).json()
        monkeypatch.setattr(running.app.store.deliveries, "write_attempt", unavailable)
        delivery = (await running.client.post(f"/v1/endpoints/{made['id']}/tests")).json()
        await failed.wait()
    async with relay(tmp_path) as running:
        assert (await running.get(f"/v1/deliveries/{delivery['id']}"))["status"] == "pending"
