"""Room that projects share: one whose receivers are slow, or whose backlog is long, makes no other wait."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from relay.deliveries.turns import PROVEN_PART
from relay.sandbox.serving import serve
from relay.security.fair_share import RESERVED_PART, FairShare
from tests.flow.test_lanes import Hanging
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, http_client, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

IN_FLIGHT_MAX = 16
SLOW_ENDPOINTS = 30


@given(
    st.integers(1, 64), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 80), min_size=1), st.integers(0, 99)
)
def test_the_room_is_shared_and_used_up(in_flight_max: int, waiting: dict[str, int], ended: int) -> None:
    """Start as many as there is room for, evenly, whatever waits; and leave none idle that somebody may use."""
    share, left = FairShare(in_flight_max), dict(waiting)

    def pop(project_id: str) -> str | None:
        left[project_id] -= 1
        return project_id if left[project_id] >= 0 else None

    begun = share.select(waiting, pop)
    under_way = {project_id: begun.count(project_id) for project_id in waiting}
    assert {project_id: share.in_flight(project_id) for project_id in waiting} == under_way
    kept = in_flight_max // RESERVED_PART
    for project_id, number in under_way.items():
        if number == waiting[project_id]:
            continue
        assert not share.may_start(project_id)
        assert len(begun) >= in_flight_max - kept
        assert all(other <= number + 1 for other in under_way.values())
    for project_id in begun[: ended % (len(begun) + 1)]:
        share.release(project_id)
    assert share.free_slots == in_flight_max - len(begun) + ended % (len(begun) + 1)


@pytest.mark.parametrize(("in_flight_max", "alone"), [(7, 7), (8, 7), (256, 224)])
def test_one_project_alone_leaves_one_in_eight_to_others(in_flight_max: int, alone: int) -> None:
    """Let one project have all but an eighth, and another one that eighth at once."""
    share = FairShare(in_flight_max)
    assert len(share.select(["a"], lambda project_id: project_id)) == alone == share.project_max
    assert len(share.select(["a", "b"], lambda project_id: project_id)) == in_flight_max - alone
    assert share.in_flight("b") == in_flight_max - alone


def test_what_ends_goes_to_who_has_less() -> None:
    """Give each slot that frees up to the project with fewer under way, until both have the same."""
    share = FairShare(16)
    share.select(["a"], lambda project_id: project_id)
    for _ in range(40):
        share.release("a" if share.in_flight("a") >= share.in_flight("b") else "b")
        share.select(["a", "b"], lambda project_id: project_id)
    assert abs(share.in_flight("a") - share.in_flight("b")) <= 2


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock with room for 16 attempts."""
    environ = {"RELAY_DELIVERIES_IN_FLIGHT_MAX": str(IN_FLIGHT_MAX), "RELAY_RETRY_SCHEDULE_S": "0,60,60"}
    async with relay(tmp_path, clock=HeldClock(), confirm=False, **environ) as started:  # type: ignore[arg-type]
        yield started


async def films(running: Running) -> httpx.AsyncClient:
    """Return a client of another project."""
    key = (await running.app.store.access.create_api_key("films", "", ["admin"], 1)).text
    return http_client(running.origin, key)


async def hang(running: Running, url: str, each: int) -> None:
    """Endpoints of the default project that never answer, with so many notifications for each."""
    for number in range(SLOW_ENDPOINTS):
        made = (await running.client.post("/v1/endpoints", json={"url": f"{url}/{number}"})).json()
        for _ in range(each):
            await running.client.post(f"/v1/endpoints/{made['id']}/tests")


async def test_slow_receivers_of_one_project_hold_up_no_other(running: Running) -> None:
    """Send another project's notifications at once while one has more hanging receivers than there is share."""
    async with serve(Hanging()) as hanging, await films(running) as other:
        await hang(running, hanging, 1)
        made = (await other.post("/v1/endpoints", json={"url": running.hook})).json()
        for _ in range(10):
            await other.post(f"/v1/endpoints/{made['id']}/tests")
        await running.sink.wait_for(lambda sink: len(sink.received) == 10)


async def test_the_backlog_of_one_project_keeps_no_retry_of_another(running: Running) -> None:
    """Claim another project's retry when it is due, behind everything that waits for hanging receivers."""
    async with serve(Hanging()) as hanging, await films(running) as other:
        made = (await other.post("/v1/endpoints", json={"url": running.hook})).json()
        running.sink.answers = [500]
        delivery: dict[str, Any] = (await other.post(f"/v1/endpoints/{made['id']}/tests")).json()
        await running.sink.wait_for(lambda sink: len(sink.received) == 1)
        await quiet()
        assert (await other.get(f"/v1/deliveries/{delivery['id']}")).json()["attempts_made"] == 1
        await hang(running, hanging, 4)
        assert isinstance(running.clock, HeldClock)
        await running.clock.advance(75)
        await running.sink.wait_for(lambda sink: len(sink.received) == 2)


async def test_who_is_alone_uses_the_room(running: Running) -> None:
    """Let one project use three of four slots for endpoints that never succeeded, and one of eight for those that did.

    The last eighth is other projects'.
    """
    async with serve(Counting()) as hanging:
        proven = [(await running.client.post("/v1/endpoints", json={"url": f"{hanging}/then"})).json() for _ in "abc"]
        for made in proven:
            await running.client.post(f"/v1/endpoints/{made['id']}/tests")
        await quiet()
        await hang(running, hanging, 1)
        await quiet()
        assert Counting.under_way == IN_FLIGHT_MAX - IN_FLIGHT_MAX // PROVEN_PART
        for made in proven:
            await running.client.post(f"/v1/endpoints/{made['id']}/tests")
        await quiet()
        assert Counting.under_way == IN_FLIGHT_MAX - IN_FLIGHT_MAX // RESERVED_PART


async def test_endpoints_that_hang_delay_none_that_works(running: Running) -> None:
    """Deliver to an endpoint that works while twice as many others hang as there are slots."""
    async with serve(Hanging()) as hanging:
        made = (await running.client.post("/v1/endpoints", json={"url": running.hook})).json()
        await running.client.post(f"/v1/endpoints/{made['id']}/tests")
        await running.sink.wait_for(lambda sink: len(sink.received) == 1)
        await quiet()
        await hang(running, hanging, 1)
        await quiet()
        await running.client.post(f"/v1/endpoints/{made['id']}/tests")
        await running.sink.wait_for(lambda sink: len(sink.received) == 2)


class Counting:
    """A receiver that never answers, and counts who waits; at `/then` it answers three times before that."""

    under_way = 0
    answered = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Wait for ever."""
        if scope["path"] == "/then" and Counting.answered < 3:
            Counting.answered += 1
            await Response()(scope, receive, send)
            return
        Counting.under_way += 1
        await asyncio.Event().wait()
