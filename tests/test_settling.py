"""Attempts that ended: one commit for many, a bad one fails alone, and nothing that ended is forgotten."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from relay import ids
from relay.clock import SystemClock
from relay.lane import Lane
from relay.outbox import Attempt, DeliveryState, Outcome
from relay.seal import Seal
from relay.settling import TOGETHER_MAX, Ended, Settler
from relay.storage.database import Database
from relay.storage.deliveries import Deliveries, Parcel, Settled
from relay.storage.writer import Writer
from tests.past import database as opened
from tests.past import select
from tests.running import SECRET_KEY
from tests.test_claiming import waiting

pytestmark = pytest.mark.anyio

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


class Told:
    """What a settler says: the size of each commit, and what became of each delivery."""

    def __init__(self, database: Database) -> None:
        self.sizes: list[int] = []
        self.stored: dict[str, bool] = {}
        deliveries = Deliveries(database, Writer(database, 10), Seal([SECRET_KEY]), 1.0)
        self.settler = Settler(deliveries, SystemClock(), self._done, lambda: None)

    def _done(self, together: Sequence[Ended], stored: bool) -> None:
        self.sizes.append(len(together))
        self.stored |= {one.settled.attempt.delivery_id: stored for one in together}


async def attempted(database: Database) -> set[str]:
    """The deliveries that have an attempt, and are delivered."""
    found = await select(database, "SELECT id FROM deliveries WHERE state = 'delivered' AND attempts_made = 1")
    stored = await select(database, "SELECT delivery_id FROM attempts")
    assert sorted(stored) == sorted(found)
    return {row[0] for row in found}


async def test_what_ends_during_a_commit_shares_the_next(tmp_path: Path) -> None:
    """The first goes at once; those that end while it is written are one commit, as far as that may grow."""
    async with opened(tmp_path) as database:
        made = await waiting(database, [("ep_1", 1)] * (TOGETHER_MAX + 3))
        told = Told(database)
        told.settler.add(ended(made[0]))
        await asyncio.sleep(0)
        for delivery_id in made[1:]:
            told.settler.add(ended(delivery_id))
        await told.settler.finish(10)
        assert told.sizes == [1, TOGETHER_MAX, 2]
        assert await attempted(database) == set(made)
        assert all(told.stored.values())


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


async def test_after_a_pause_it_goes_on(tmp_path: Path) -> None:
    """What ends when nothing waited any more is written as well."""
    async with opened(tmp_path) as database:
        made = await waiting(database, [("ep_1", 1)] * 2)
        told = Told(database)
        for delivery_id in made:
            told.settler.add(ended(delivery_id))
            await told.settler.finish(10)
        assert told.sizes == [1, 1]
        assert await attempted(database) == set(made)
