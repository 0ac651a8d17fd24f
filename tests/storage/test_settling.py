"""Attempts that ended: a bad one fails alone, and nothing that ended is forgotten or counted twice."""

import asyncio
from pathlib import Path

import pytest

from relay import ids
from relay.deliveries.attempt_writer import PAUSE_MS, TRIES, Ended, Settler
from relay.deliveries.lane import Lane
from relay.errors import StorageUnavailable
from relay.model.delivery import Attempt, DeliveryState, Outcome
from relay.security.encryption import Seal
from relay.storage.deliveries import Deliveries, Parcel, Settled
from relay.storage.engine.database import Database
from relay.storage.engine.group_commit import BATCH_MAX, Writer
from tests.storage.test_claiming import waiting
from tests.support.past import database as opened
from tests.support.past import select
from tests.support.running import SECRET_KEY, HeldClock

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

NOT_TEXT = "\ud800"
"""What no database takes."""


def ended(delivery_id: str, excerpt: str = "ok") -> Ended:
    """An attempt that was answered."""
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
    parcel = Parcel(
        delivery_id=delivery_id,
        endpoint_id="ep_1",
        project_id="prj_default",
        event_id="evt_1",
        attempts_made=0,
        redelivery=False,
        body=b"{}",
        url="https://app.example/hook",
        secret="s",
        former_secret=None,
        former_secret_until=None,
        headers={},
        timeout_s=1.0,
        in_flight_max=1,
        rate_limit_per_s=None,
        schedule_s=None,
    )
    settled = Settled(attempt=attempt, endpoint_id="ep_1", state=DeliveryState.DELIVERED, next_attempt_at=None, at=2)
    return Ended(settled, parcel, Lane("ep_1"))


class Forgetful(Deliveries):
    """Writes, and says `lost` times that the database went away before its answer came."""

    lost = 0

    def settling(self, settled: Settled) -> asyncio.Future[bool]:
        """The attempt is stored either way."""
        writing = super().settling(settled)
        if not self.lost:
            return writing
        self.lost -= 1
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        writing.add_done_callback(lambda _: told.set_exception(StorageUnavailable("cut off")))
        return told


class Told:
    """What a settler says became of each delivery."""

    def __init__(self, database: Database) -> None:
        self.stored: dict[str, bool] = {}
        self.clock = HeldClock()
        self.deliveries = Forgetful(database, Writer(database, 10), Seal([SECRET_KEY]), 1.0)
        self.settler = Settler(self.deliveries, self.clock, self._done, lambda: None)

    def _done(self, one: Ended, stored: bool) -> None:
        self.stored[one.settled.attempt.delivery_id] = stored


async def attempted(database: Database) -> set[str]:
    """The deliveries that have an attempt, and are delivered."""
    found = await select(database, "SELECT id FROM deliveries WHERE state = 'delivered' AND attempts_made = 1")
    stored = await select(database, "SELECT delivery_id FROM attempts")
    assert sorted(stored) == sorted(found)
    return {row[0] for row in found}


async def test_all_that_end_are_written(tmp_path: Path) -> None:
    """However many end at once, and however few: of each it is told that it is stored."""
    async with opened(tmp_path) as database:
        made = await waiting(database, [("ep_1", 1)] * (BATCH_MAX + 3))
        told = Told(database)
        for delivery_id in made[1:]:
            told.settler.add(ended(delivery_id))
        await told.settler.finish(10)
        told.settler.add(ended(made[0]))
        await told.settler.finish(10)
        assert await attempted(database) == set(made)
        assert told.stored == dict.fromkeys(made, True)


async def test_an_attempt_that_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    """The others of its commit are stored, and of each it is told what became of it."""
    async with opened(tmp_path) as database:
        made = await waiting(database, [("ep_1", 1)] * 5)
        told = Told(database)
        for number, delivery_id in enumerate(made):
            told.settler.add(ended(delivery_id, NOT_TEXT if number == 2 else "ok"))
        await told.settler.finish(10)
        assert told.stored == {delivery_id: number != 2 for number, delivery_id in enumerate(made)}
        assert await attempted(database) == set(made) - {made[2]}


async def test_what_is_not_known_to_be_written_is_written_again_and_counts_once(tmp_path: Path) -> None:
    """A commit whose answer was lost may stand: the attempt is written again after a pause, and is there once."""
    async with opened(tmp_path) as database:
        made = await waiting(database, [("ep_1", 1)] * 2)
        told = Told(database)
        told.deliveries.lost = 3
        for delivery_id in made:
            told.settler.add(ended(delivery_id))
        await told.clock.advance((PAUSE_MS - 1) / 1000)
        assert told.stored == {}
        await told.clock.advance(0.001)
        assert len(told.stored) == 1
        await told.clock.advance(PAUSE_MS / 1000)
        assert told.stored == dict.fromkeys(made, True)
        assert await attempted(database) == set(made)


async def test_what_cannot_be_written_in_time_is_left_to_its_lease(tmp_path: Path) -> None:
    """When relay stops while the database is away, nobody waits longer than is said."""
    async with opened(tmp_path) as database:
        (made,) = await waiting(database, [("ep_1", 1)])
        told = Told(database)
        told.deliveries.lost = TRIES
        told.settler.add(ended(made))
        await told.settler.finish(0.2)
        assert told.stored == {}


@pytest.mark.parametrize(("lost", "stored"), [(19, True), (20, False)])
async def test_an_attempt_is_written_again_every_half_second_up_to_twenty_times(
    tmp_path: Path, lost: int, stored: bool
) -> None:
    """Try again 500 ms after each failure of the database, and leave the attempt to its lease at the twentieth."""
    async with opened(tmp_path) as database:
        (made,) = await waiting(database, [("ep_1", 1)])
        told = Told(database)
        told.deliveries.lost = lost
        told.settler.add(ended(made))
        for left in range(lost - 1, lost - 20, -1):
            await told.clock.advance(0.499)
            assert (told.deliveries.lost, told.stored) == (left, {})
            await told.clock.advance(0.001)
        assert told.stored == {made: stored}
