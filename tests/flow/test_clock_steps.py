"""The machine's clock is set back or forward while relay runs: what lasts a while goes on, and what is new goes out."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.clock import SystemClock
from relay.deliveries.event_stream import COMMENT_EVERY_MS
from relay.deliveries.lane import FAILURES_MAX, PAUSE_MS
from relay.sandbox.faults import Faults
from tests.api.test_stream import reading
from tests.flow.test_lanes import attempted, endpoint, send_tests, shown
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
HOUR_S = 3600


@pytest.fixture
def clock() -> HeldClock:
    """Return a clock that a test moves and sets."""
    return HeldClock()


@pytest.fixture
async def running(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Running]:
    """Yield a relay on that clock."""
    async with relay(tmp_path, clock=clock, RELAY_RETRY_SCHEDULE_S="0,60,60") as started:
        yield started


@given(st.lists(st.integers(-10_000, 10_000), max_size=20))
def test_setting_the_held_clock_passes_no_time(steps: list[int]) -> None:
    """Keep the monotonic clock where it is, wherever the wall clock is set."""
    clock = HeldClock()
    began, shown_at = clock.monotonic_ms(), clock.now_ms()
    for step in steps:
        clock.set_back(step)
    assert (clock.monotonic_ms(), clock.now_ms()) == (began, shown_at - sum(steps) * 1000)


async def test_the_machines_wait_ends_by_the_monotonic_clock() -> None:
    """Return at the monotonic deadline, not before and not at a wall clock's time; at once where that has passed."""
    clock = SystemClock()
    until = clock.monotonic_ms() + 20
    async with asyncio.timeout(60):
        await clock.wait(asyncio.Event(), until_monotonic_ms=until)
        assert clock.monotonic_ms() >= until
        await clock.wait(asyncio.Event(), until_monotonic_ms=until - 1)


async def test_a_rate_limited_endpoint_goes_on_when_the_clock_is_set_back(running: Running, clock: HeldClock) -> None:
    """Send the next notification of an endpoint with 2/s after half a second, though its clock says an hour ago."""
    made = await endpoint(running, rate_limit_per_s=2)
    await send_tests(running, made, 1)
    await running.sink.wait_for(lambda sink: len(sink.received) == 1)
    clock.set_back(HOUR_S)
    await send_tests(running, made, 1)
    await clock.advance(0.5)
    await running.sink.wait_for(lambda sink: len(sink.received) == 2)


async def test_a_breakers_pause_lasts_as_long_as_it_lasts(running: Running, clock: HeldClock) -> None:
    """Send a held endpoint's probe after 30 seconds, not earlier and not an hour later."""
    made = await endpoint(running, in_flight_max=1)
    running.sink.answers = [500] * FAILURES_MAX
    await send_tests(running, made, FAILURES_MAX + 1)
    await shown(running, made, status="held")
    await attempted(running, FAILURES_MAX)
    clock.set_back(-HOUR_S)
    await quiet()
    assert len(running.sink.received) == FAILURES_MAX
    clock.set_back(2 * HOUR_S)
    await clock.advance(PAUSE_MS / 1000 - 10)  # the lease of what waits is shorter than the pause
    await clock.advance(10)
    await send_tests(running, made, 1)
    await running.sink.wait_for(lambda sink: len(sink.received) > FAILURES_MAX)


async def test_a_confirmation_is_made_at_once_after_the_clock_was_set_back(running: Running, clock: HeldClock) -> None:
    """Ask the provider about a callback that came after the step, and announce the end as proven."""
    await running.submit()
    await running.world.finish(list(running.world.jobs)[-1])
    await running.until("/v1/jobs", lambda found: found["data"][0]["status"] == "succeeded")
    clock.set_back(HOUR_S)
    job = await running.submit(notify=[{"url": running.hook}])
    await running.world.finish(list(running.world.jobs)[-1])
    ended = await running.until(f"/v1/jobs/{job['id']}", lambda found: found["status"] == "succeeded")
    assert ended["verification"] == "fetch"
    await running.sink.wait_for(lambda sink: sorted(sink.events()) == ["job.submitted", "job.succeeded"])


async def test_status_checks_that_were_full_go_on(tmp_path: Path, clock: HeldClock) -> None:
    """Make the second check a second after the first where one a second is allowed, on whatever day that is."""
    limits: dict[str, Any] = {
        "RELAY_CHECKS_IN_FLIGHT_MAX": "1",
        "RELAY_CHECKS_PER_S": "1",
        "RELAY_STATUS_CHECK_FIRST_S": "30",
    }
    async with relay(tmp_path, clock=clock, **limits) as running:
        running.world.next_faults += [Faults(lost=True)] * 2
        jobs = [await running.submit() for _ in range(2)]
        for number in list(running.world.jobs):
            await running.world.finish(number)
        await clock.advance(30)
        await running.until("/v1/jobs?status=succeeded", lambda found: len(found["data"]) == 1)
        clock.set_back(-HOUR_S / 2)
        await quiet()
        assert len((await running.get("/v1/jobs?status=succeeded"))["data"]) == 1
        clock.set_back(HOUR_S / 2)
        await clock.advance(1.1)
        await running.until("/v1/jobs?status=succeeded", lambda found: len(found["data"]) == len(jobs))


async def test_a_caller_that_waits_is_answered_in_time(running: Running, clock: HeldClock) -> None:
    """End `Prefer: wait=10` after ten seconds, with the clock an hour back in between."""
    job = await running.submit()
    prefer = {"prefer": "wait=10"}
    waiting = asyncio.create_task(running.client.get(f"/v1/jobs/{job['id']}", headers=prefer))
    await quiet()
    clock.set_back(HOUR_S)
    await clock.advance(9)
    assert not waiting.done()
    await clock.advance(1)
    answer = await asyncio.wait_for(waiting, 60)
    assert answer.status_code == 202


async def test_a_stream_keeps_talking(running: Running, clock: HeldClock) -> None:
    """Write a comment 15 seconds after the last line, whatever the wall clock says by then."""
    async with reading(running) as reader:
        await quiet()
        clock.set_back(HOUR_S)
        await clock.advance(COMMENT_EVERY_MS / 1000)
        await running.submit()
        await reader.events(1)
        assert reader.comments == 1


async def test_what_is_due_when_the_clock_jumps_forward_waits_a_minute_at_most(
    running: Running, clock: HeldClock
) -> None:
    """Make a retry that the step has made due within a minute of real time."""
    made = await endpoint(running, schedule_s=[0, HOUR_S])
    running.sink.answers = [500]
    await send_tests(running, made, 1)
    await attempted(running, 1)
    await clock.advance(1)
    clock.set_back(-2 * HOUR_S)
    await clock.advance(60)
    await running.sink.wait_for(lambda sink: len(sink.received) == 2)
