"""Time limits of lanes, endpoints and streams on a held clock: nothing a millisecond before, all at the moment."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from relay.deliveries.dispatcher import Dispatcher
from relay.storage.apply_updates import DEFAULT_PROJECT
from relay.storage.fan_out import NewDelivery
from tests.support.held import DAY_S, MS, held
from tests.support.quiescence import quiet
from tests.support.running import Running

pytestmark = pytest.mark.anyio

EVERY_TIME = 1_000


async def endpoint(running: Running, **fields: Any) -> str:
    """Return the id of a standing endpoint at the sink."""
    answer = await running.client.post("/v1/endpoints", json={"url": running.hook} | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def send_test(running: Running, endpoint_id: str) -> None:
    """Send a `relay.test` to an endpoint, and return when it was attempted."""
    answer = await running.client.post(f"/v1/endpoints/{endpoint_id}/tests")
    assert answer.status_code == 202, answer.text
    await quiet()


async def status(running: Running, endpoint_id: str) -> str:
    """Return an endpoint's status."""
    return str((await running.get(f"/v1/endpoints/{endpoint_id}"))["status"])


async def test_a_rated_lane_sends_one_in_each_interval(tmp_path: Path) -> None:
    """Send the next notification 500 ms after the one before at `rate_limit_per_s` of 2, and not at 499."""
    async with held(tmp_path) as (running, clock):
        made = await endpoint(running, rate_limit_per_s=2)
        for _ in range(3):
            await send_test(running, made)
        for sent in (1, 2):
            await clock.advance(0.499)
            assert len(running.sink.received) == sent
            await clock.advance(MS)
            assert len(running.sink.received) == sent + 1


async def test_a_quiet_stream_gets_a_comment_every_15_s(tmp_path: Path) -> None:
    """Write a comment 15 s after the last event or comment, and not before."""
    async with held(tmp_path, RELAY_EVOLINK_CONFIRM="never") as (running, clock):
        lines: list[bytes] = []
        stream = await running.app.streams.lines(DEFAULT_PROJECT, None, None)

        async def read() -> None:
            async for line in stream:
                lines.append(line)  # noqa: PERF401 - what came so far is looked at while more comes

        reading = asyncio.create_task(read())
        await clock.advance(10)
        await running.submit()
        await quiet()
        assert [line.split(b":")[0] for line in lines] == [b"retry", b"id"]
        for comments in (0, 1):
            await clock.advance(15 - MS)
            assert lines[2:] == [b": still here\n\n"] * comments
            await clock.advance(MS)
            assert lines[2:] == [b": still here\n\n"] * (comments + 1)
        reading.cancel()


async def test_an_endpoint_is_disabled_after_five_days_of_failures(tmp_path: Path) -> None:
    """Disable an endpoint at the first failure that comes five days after the first one in a row, not before."""
    async with held(tmp_path, RELAY_RETRY_SCHEDULE_S="0") as (running, clock):
        made = await endpoint(running)
        running.sink.answers = [500] * EVERY_TIME
        await send_test(running, made)
        await clock.advance(5 * DAY_S - MS)
        await send_test(running, made)
        assert await status(running, made) == "active"
        await clock.advance(MS)
        await send_test(running, made)
        assert await status(running, made) == "disabled"


async def test_a_disabled_endpoint_is_probed_every_twelve_hours(tmp_path: Path) -> None:
    """Send a `relay.test` 12 h after the endpoint was disabled and after each probe, and enable it by a success."""
    async with held(tmp_path, RELAY_RETRY_SCHEDULE_S="0") as (running, clock):
        made = await endpoint(running)
        running.sink.answers = [500] * 3
        await send_test(running, made)
        await clock.advance(5 * DAY_S)
        await send_test(running, made)
        assert await status(running, made) == "disabled"
        for probes, after in ((1, "disabled"), (2, "active")):
            await clock.advance(DAY_S / 2 - MS)
            assert len(running.sink.received) == 1 + probes
            await clock.advance(MS)
            assert len(running.sink.received) == 2 + probes
            assert await status(running, made) == after


async def test_a_retry_goes_out_when_it_is_due(tmp_path: Path) -> None:
    """Send a retry at the time that its delivery shows, and not before."""
    async with held(tmp_path, RELAY_RETRY_SCHEDULE_S="0,300") as (running, clock):
        made = await endpoint(running)
        running.sink.answers = [500]
        before_ms = clock.now_ms()
        await send_test(running, made)
        (shown,) = (await running.get("/v1/deliveries"))["data"]
        delivery = await running.app.store.deliveries.get(shown["id"], DEFAULT_PROJECT)
        assert delivery is not None
        assert delivery.next_attempt_at is not None
        await clock.advance((delivery.next_attempt_at - before_ms - 1) / 1000)
        assert len(running.sink.received) == 1
        await clock.advance(MS)
        assert len(running.sink.received) == 2


@pytest.mark.both_databases
async def test_a_commit_known_after_its_lease_makes_no_second_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count a new delivery's lease from its event on: when it is over, the delivery was left to who claimed it."""
    known_late: list[tuple[Dispatcher, Sequence[NewDelivery]]] = []
    async with held(tmp_path) as (running, clock):
        await endpoint(running)
        with monkeypatch.context() as patched:
            patched.setattr(Dispatcher, "enqueue", lambda *given: known_late.append(given))
            await running.submit()
            ((dispatcher, fresh),) = known_late
            for advanced_s, attempts in ((24.999, 0), (MS, 1)):
                await clock.advance(advanced_s)
                dispatcher.wake()
                await quiet()
                assert len(running.sink.received) == attempts
        dispatcher.enqueue(fresh)
        await clock.advance(2)
        assert len(running.sink.received) == 1
