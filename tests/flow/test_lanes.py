"""Lanes: each endpoint has its own room, rate and breaker; one that fails holds up nobody, and is given up in time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relay.clock import rfc3339
from relay.deliveries.lane import FAILURES_MAX, PAUSE_MAX_MS, PAUSE_MS, QUEUED_MAX, Lane
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.storage.deliveries import AttemptResult
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
DAY_S = 86_400


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock that tries each delivery often, an hour apart."""
    schedule = ",".join(["0"] + ["3600"] * 49)
    async with relay(tmp_path, clock=HeldClock(), confirm=False, RELAY_RETRY_SCHEDULE_S=schedule) as started:
        yield started


async def advance(running: Running, seconds: float) -> None:
    """Move the relay's clock."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)


async def endpoint(running: Running, **fields: Any) -> dict[str, Any]:
    """Return a standing endpoint at the sink."""
    answer = await running.client.post("/v1/endpoints", json={"url": running.hook} | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def shown(running: Running, made: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    """Return the endpoint, once it shows what is wanted."""
    return await running.until(f"/v1/endpoints/{made['id']}", lambda found: wanted.items() <= found.items())


async def send_tests(running: Running, made: dict[str, Any], number: int) -> list[str]:
    """So many `relay.test` for the endpoint; the deliveries' ids."""
    sent = [await running.client.post(f"/v1/endpoints/{made['id']}/tests") for _ in range(number)]
    return [answer.json()["id"] for answer in sent]


async def attempted(running: Running, number: int) -> None:
    """Return when so many attempts are written."""
    await running.until(
        "/v1/deliveries?limit=200", lambda found: sum(d["attempts_made"] for d in found["data"]) == number
    )


async def test_ten_failures_hold_the_lane_and_a_success_opens_it(running: Running) -> None:
    """After ten failures in a row the endpoint is held: one probe after 30 s, and after its success all that waits."""
    made = await endpoint(running, in_flight_max=1)
    running.sink.answers = [500] * FAILURES_MAX
    await send_tests(running, made, FAILURES_MAX + 5)
    await shown(running, made, status="held")
    await attempted(running, FAILURES_MAX)
    assert len(running.sink.received) == FAILURES_MAX
    await advance(running, 29)
    assert len(running.sink.received) == FAILURES_MAX
    await advance(running, 1)
    await running.sink.wait_for(lambda sink: len(sink.received) == FAILURES_MAX + 5)
    await shown(running, made, status="active", failing_since=None)


async def test_what_is_held_back_costs_no_attempt(running: Running) -> None:
    """Deliveries that wait behind an open breaker have made no attempt, and keep their whole schedule."""
    made = await endpoint(running, in_flight_max=1)
    running.sink.answers = [500] * FAILURES_MAX
    await send_tests(running, made, FAILURES_MAX + 3)
    await attempted(running, FAILURES_MAX)
    waiting = (await running.get("/v1/deliveries?limit=200"))["data"]
    assert sorted(one["attempts_made"] for one in waiting) == [0] * 3 + [1] * FAILURES_MAX


async def test_what_waited_in_its_lane_goes_to_where_the_endpoint_is_by_then(running: Running) -> None:
    """Two retries are claimed at once, and the lane is paused after the first: the other finds the mended URL."""
    made = await endpoint(running, in_flight_max=1)
    running.sink.answers = [500, 500, 429]
    await send_tests(running, made, 2)
    await attempted(running, 2)
    await advance(running, 7200)
    await attempted(running, 3)
    mended = {"url": f"{running.hook}/mended"}
    assert (await running.client.patch(f"/v1/endpoints/{made['id']}", json=mended)).status_code == 200
    await advance(running, 2)
    await running.sink.wait_for(lambda sink: len(sink.received) == 4)
    assert [one.path.endswith("/mended") for one in running.sink.received] == [False] * 3 + [True]


@pytest.mark.parametrize(("status_code", "sent"), [(200, 3), (500, 1), (410, 1)])
async def test_only_an_accepted_notification_frees_its_lane_before_its_commit(
    running: Running, status_code: int, sent: int
) -> None:
    """Send the next one while the last one's attempt is being written, unless that may disable the endpoint."""
    made = await endpoint(running, in_flight_max=1)
    deliveries, commits = running.app.store.deliveries, asyncio.Event()
    write = deliveries.write_attempt

    async def written(result: AttemptResult, *, patient: bool) -> bool:
        await commits.wait()
        return await write(result, patient=patient)

    deliveries.write_attempt = written  # type: ignore[method-assign, assignment]
    running.sink.answers = [status_code] * 3
    await send_tests(running, made, 3)
    await advance(running, 0)
    assert len(running.sink.received) == sent
    commits.set()
    await attempted(running, 1 if status_code == 410 else 3)
    await advance(running, 0)
    assert len(running.sink.received) == (1 if status_code == 410 else 3)


@pytest.mark.parametrize("status_code", [429, 502, 503, 504])
async def test_a_busy_receiver_pauses_its_lane(running: Running, status_code: int) -> None:
    """A receiver that asks for 40 s gets 40 s of peace, whatever else waits for it."""
    made = await endpoint(running, in_flight_max=1)
    running.sink.answers, running.sink.response_headers = [status_code], {"retry-after": "40"}
    await send_tests(running, made, 4)
    await attempted(running, 1)
    await advance(running, 39)
    assert len(running.sink.received) == 1
    await advance(running, 1)
    await running.sink.wait_for(lambda sink: len(sink.received) == 4)


async def test_an_endpoint_gets_no_more_a_second_than_it_asked_for(running: Running) -> None:
    """`rate_limit_per_s` of 2: after the first there is one every half second."""
    made = await endpoint(running, rate_limit_per_s=2)
    await send_tests(running, made, 1)
    await running.sink.wait_for(lambda sink: len(sink.received) == 1)
    await advance(running, 1)
    await send_tests(running, made, 6)
    for number in (2, 3, 4, 5):
        await quiet()
        assert len(running.sink.received) == number
        await advance(running, 0.5)


async def test_a_dead_endpoint_holds_up_nobody(running: Running) -> None:
    """While one receiver hangs with all its room taken, another gets everything at once."""
    async with serve(Hanging()) as hanging:
        dead, alive = await endpoint(running, url=hanging), await endpoint(running)
        await send_tests(running, dead, 30)
        await send_tests(running, alive, 30)
        await running.sink.wait_for(lambda sink: len(sink.received) == 30)


class Hanging:
    """A receiver that never answers."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - ASGI's signature
        """Wait for ever."""
        await asyncio.Event().wait()


async def test_fresh_deliveries_do_not_wait_behind_retries(running: Running) -> None:
    """When a hundred retries come due at once, a new event still starts among the next few."""
    made = await endpoint(running, in_flight_max=1, schedule_s=[0, 60])
    running.sink.answers = [400, 200] * 4
    await send_tests(running, made, 8)
    await attempted(running, 8)
    await advance(running, 120)
    fresh = (await send_tests(running, made, 1))[0]
    await running.until(f"/v1/deliveries/{fresh}", lambda found: found["status"] == "delivered")


async def test_a_receiver_can_ask_not_to_get_this_event_again(running: Running) -> None:
    """`webhook-delivery: abort-message` ends the delivery, and nothing else."""
    made = await endpoint(running)
    running.sink.answers, running.sink.response_headers = [500], {"webhook-delivery": "abort-message"}
    (delivery,) = await send_tests(running, made, 1)
    await running.until(f"/v1/deliveries/{delivery}", lambda found: found["status"] == "exhausted")
    assert (await running.get(f"/v1/endpoints/{made['id']}"))["status"] == "active"


async def test_a_receiver_can_ask_to_be_disabled(running: Running) -> None:
    """`webhook-delivery: disable` disables the endpoint; what waits is canceled."""
    made = await endpoint(running)
    running.sink.response_headers = {"webhook-delivery": "disable"}
    await send_tests(running, made, 1)
    found = await shown(running, made, status="disabled")
    assert "webhook-delivery" in found["disabled_reason"]


async def disabled(running: Running, made: dict[str, Any]) -> dict[str, Any]:
    """Return the endpoint when it has failed on six days: from the first failure to the last are five."""
    await quiet()
    for _ in range(5):
        assert (await running.get(f"/v1/endpoints/{made['id']}"))["status"] == "active"
        await advance(running, DAY_S)
    found = await running.get(f"/v1/endpoints/{made['id']}")
    assert found["status"] == "disabled"
    return found


async def test_five_days_of_failures_disable_an_endpoint_and_the_others_hear_of_it(running: Running) -> None:
    """The first failure is kept in the database: after five days without a success the endpoint is disabled."""
    async with serve(Sink()) as dead:
        watcher = await endpoint(running, event_types=["endpoint.disabled", "endpoint.enabled"])
        failing = Sink()
        failing.answers = [500] * 1000
        async with serve(failing) as at:
            made = await endpoint(running, url=at, event_types=["job.*"])
            await running.submit()
            found = await disabled(running, made)
            assert found["disabled_reason"] == "nothing but failures for five days"
        await running.sink.wait_for(lambda sink: sink.events() == ["endpoint.disabled"])
        await running.submit()
        await running.client.patch(f"/v1/endpoints/{made['id']}", json={"status": "active", "url": dead})
        await running.sink.wait_for(lambda sink: sink.events() == ["endpoint.disabled", "endpoint.enabled"])
        await running.until(
            f"/v1/deliveries?endpoint={made['id']}&status=delivered", lambda found: len(found["data"]) == 3
        )
        assert (await running.get(f"/v1/endpoints/{watcher['id']}"))["status"] == "active"


async def test_an_endpoint_that_was_given_up_is_tried_and_taken_up_again(running: Running) -> None:
    """Twice a day it gets a `relay.test`: when it takes one it is active again, and gets what it missed."""
    failing = Sink()
    failing.answers = [500] * 1000
    async with serve(failing) as at:
        made = await endpoint(running, url=at, event_types=["job.submitted"])
        await running.submit()
        await disabled(running, made)
        failing.received.clear()
        await advance(running, DAY_S / 2)
        await failing.wait_for(lambda sink: sink.events() == ["relay.test"])
        assert (await running.get(f"/v1/endpoints/{made['id']}"))["status"] == "disabled"
        failing.answers.clear()
        await running.until("/v1/deliveries?status=exhausted", lambda found: len(found["data"]) >= 1)
        await advance(running, DAY_S / 2)
        await shown(running, made, status="active")
        await advance(running, 10)
        await failing.wait_for(lambda sink: sink.events()[-1] == "job.submitted")


async def test_an_endpoint_can_be_disabled_and_enabled_by_hand(running: Running) -> None:
    """While it is disabled nothing is sent to it; when it is enabled it gets what it missed."""
    made = await endpoint(running)
    answer = await running.client.patch(f"/v1/endpoints/{made['id']}", json={"status": "disabled"})
    assert (answer.json()["status"], answer.json()["disabled_reason"]) == ("disabled", "disabled by hand")
    await running.submit()
    assert (await running.client.post(f"/v1/endpoints/{made['id']}/tests")).status_code == 409
    await running.client.patch(f"/v1/endpoints/{made['id']}", json={"status": "active"})
    await running.sink.wait_for(lambda sink: sink.events() == ["job.submitted"])


class Breaker(RuleBasedStateMachine):
    """A lane, and what its breaker may never do."""

    def __init__(self) -> None:
        super().__init__()
        self.lane, self.now_ms, self.number, self.flying, self.failures = Lane("ep_1", "prj_1", 60_000), 1_000, 0, 0, 0
        self.lane.configure(10, None, 0, 0)
        self.pause_ms = 0

    @rule(retry=st.booleans())
    def queue(self, retry: bool) -> None:
        """Queue a delivery."""
        self.number += 1
        assert self.lane.enqueue(str(self.number), self.now_ms, retry=retry)

    @rule(ms=st.sampled_from([1, 1_000, 30_000, 3_600_000]))
    def wait(self, ms: int) -> None:
        """Time passes."""
        self.now_ms += ms

    @rule()
    def start(self) -> None:
        """Start as many as the lane lets go."""
        while self.lane.pop(self.now_ms) is not None:
            self.flying += 1
            held = self.lane.circuit_open_until_ms
            assert held is None or held <= self.now_ms
            assert self.flying <= (1 if held is not None else 10) or self.failures >= FAILURES_MAX

    @rule(good=st.booleans())
    def end(self, good: bool) -> None:
        """One that is under way ends."""
        if not self.flying:
            return
        self.flying -= 1
        self.lane.in_flight -= 1
        if good:
            self.lane.record_success()
            self.failures = 0
            return
        self.failures += 1
        if self.lane.record_failure(self.now_ms, 500, None):
            assert self.failures >= FAILURES_MAX

    @invariant()
    def the_breaker_is_open_after_ten_failures_and_never_longer_than_an_hour(self) -> None:
        """Keep the circuit closed below ten failures in a row; open, probe within an hour."""
        held = self.lane.circuit_open_until_ms
        assert (held is not None) == (self.failures >= FAILURES_MAX)
        assert held is None or held <= self.now_ms + PAUSE_MAX_MS


TestBreaker = Breaker.TestCase


@given(st.integers(1, 12))
def test_each_failed_probe_doubles_the_pause(probes: int) -> None:
    """30 s, a minute, two … an hour at most."""
    lane, now_ms, pauses = Lane("ep_1", "prj_1", 60_000), 0, []
    for _ in range(FAILURES_MAX - 1):
        assert not lane.record_failure(now_ms, 500, None)
    for _ in range(probes):
        assert lane.record_failure(now_ms, 500, None)
        assert lane.circuit_open_until_ms is not None
        pauses.append(lane.circuit_open_until_ms - now_ms)
        now_ms = lane.circuit_open_until_ms
    assert pauses == [min(PAUSE_MS * 2**number, PAUSE_MAX_MS) for number in range(probes)]


@pytest.mark.parametrize(("rate", "number", "step_s"), [(1, 60, 1), (10, 150, 0.1), (0.2, 6, 5)])
async def test_a_backlog_goes_out_at_the_rate_that_was_asked_for(
    running: Running, rate: float, number: int, step_s: float
) -> None:
    """Send one notification in each interval of the rate, and lose none of them: 60 at one a second take a minute."""
    made = await endpoint(running, rate_limit_per_s=rate)
    await send_tests(running, made, number)
    for sent in range(1, number + 1):
        await quiet()
        assert len(running.sink.received) == sent
        await advance(running, step_s)


async def test_what_a_lane_cannot_begin_in_time_is_given_back(running: Running) -> None:
    """Leave to the table, due at once, what would outlive its lease in its lane."""
    made = await endpoint(running, rate_limit_per_s=0.5)
    await send_tests(running, made, 40)
    await running.sink.wait_for(lambda sink: len(sink.received) == 1)
    path = "/v1/deliveries?status=pending&limit=200"
    now = rfc3339(running.clock.now_ms())
    found = await running.until(path, lambda shown: sum(one["next_attempt_at"] <= now for one in shown["data"]) >= 30)
    assert len(found["data"]) == 39


@given(st.integers(1_000, 60_000), st.integers(500, 20_000), st.sampled_from([0.1, 1.0, 7.0]), st.integers(1, 10))
def test_a_lane_holds_no_more_than_its_leases_serve(lease_ms: int, timeout_ms: int, rate: float, more: int) -> None:
    """Give back nothing of what a rated lane has taken up to its capacity, where it can begin at least one."""
    lane, now_ms = Lane("ep_1", "prj_1", lease_ms), 1_000
    lane.configure(10, rate, timeout_ms, now_ms)
    capacity = lane.capacity
    for number in range(capacity):
        assert lane.enqueue(str(number), now_ms + lease_ms, retry=bool(number % 2))
    begun, ends = 0, now_ms + lease_ms - timeout_ms
    while lane.queued and now_ms <= max(ends, 1_000):
        while lane.pop(now_ms):
            begun += 1
            lane.in_flight -= 1
        now_ms = max(now_ms + 1, lane.opens_at_ms(now_ms))
    assert begun >= min(capacity, max(1, int(max(0, lease_ms - timeout_ms) * rate / 1000))) or lease_ms < timeout_ms
    assert lane.claimable(now_ms) <= capacity
    assert more > 0


def test_a_slot_that_was_not_used_is_the_next_ones() -> None:
    """Let the next delivery begin at once where the one before was taken and did not begin."""
    lane = Lane("ep_1", "prj_1", 25_000)
    lane.configure(10, 0.5, 1_000, 0)
    for number in range(3):
        lane.enqueue(str(number), 25_000, retry=False)
    assert lane.pop(0) is not None
    assert lane.pop(1_999) is None
    assert lane.pop(2_000) is not None
    assert lane.pop(2_001) is None
    lane.return_interval()
    lane.in_flight -= 1
    assert lane.pop(2_001) is not None


def test_how_long_attempts_take_says_how_many_may_wait() -> None:
    """Hold for a receiver that takes four seconds what two at once can begin in the ten that a lease has to spare."""
    lane = Lane("ep_1", "prj_1", 25_000)
    lane.configure(10, None, 15_000, 0)
    assert lane.capacity == QUEUED_MAX
    lane.record_duration(4_000)
    assert lane.capacity == 5
    lane.record_duration(14_000_000)
    assert lane.capacity == 1


def test_what_outlives_its_lease_leaves_the_lane() -> None:
    """Give back at the first moment that leaves less than the timeout, and keep what has just enough."""
    lane = Lane("ep_1", "prj_1", 25_000)
    lane.configure(10, None, 1_000, 0)
    lane.enqueue("a", 5_000, retry=False)
    lane.enqueue("b", 6_000, retry=True)
    assert lane.expires_at_ms() == 4_001
    assert lane.pop_expired(4_000) == []
    assert [queued.delivery_id for queued in lane.pop_expired(4_001)] == ["a"]
    assert (lane.queued, lane.expires_at_ms()) == (1, 5_001)
