"""Whose turn it is, held to a plain reading of the rules: among few lanes of any state, and among many that wait."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.deliveries.lane import Lane, QueuedDelivery
from relay.deliveries.turns import PROVEN_PART, STALE_ALARMS_MAX, Turns
from relay.security.fair_share import FairShare

LEASE_MS = 25_000
TIMEOUT_MS = 10_000
SLOTS = 8
PROJECTS = ("a", "b", "c")
LANES = 7


def lane_of(project: str, number: int = 0, *, in_flight_max: int = 10, rate_per_s: float | None = None) -> Lane:
    """Return a lane whose endpoint's settings are known."""
    lane = Lane(f"{project}{number}", project, LEASE_MS)
    lane.configure(in_flight_max, rate_per_s, TIMEOUT_MS, 0)
    return lane


def turns_of(slots: int = SLOTS) -> tuple[Turns, FairShare]:
    """Return turns over so many slots, with the share that counts them."""
    share = FairShare(slots)
    return Turns(share, slots), share


def fill(turns: Turns, lane: Lane, deliveries: int, now_ms: int = 0) -> None:
    """Put deliveries into a lane, leased now."""
    for number in range(deliveries):
        assert lane.enqueue(f"{lane.endpoint_id}-{number}", now_ms + LEASE_MS, retry=False)
        turns.offer(lane, now_ms)


STEPS = st.one_of(
    st.tuples(st.just("enqueue"), st.integers(0, LANES - 1), st.booleans()),
    st.tuples(st.just("advance"), st.sampled_from([1, 50, 1000, 14_999, 15_001, 30_000]), st.none()),
    st.tuples(st.just("end"), st.integers(0, 20), st.sampled_from([200, 500, 503])),
    st.tuples(st.just("configure"), st.integers(0, LANES - 1), st.sampled_from([(1, None), (10, None), (3, 5.0)])),
    st.tuples(st.just("repair"), st.integers(0, LANES - 1), st.none()),
)


@given(st.lists(STEPS, max_size=60))
def test_nothing_that_may_start_waits_and_nothing_is_lost(steps: list[tuple[str, int, Any]]) -> None:
    """Start whatever the limits of lane, project and process allow; return, start or keep each delivery once."""
    turns, share = turns_of()
    lanes = [lane_of(PROJECTS[number % len(PROJECTS)], number) for number in range(LANES)]
    under_way: list[QueuedDelivery] = []
    now_ms, enqueued, ended, expired = 0, 0, 0, 0
    for name, number, extra in steps:
        if name == "enqueue":
            enqueued += lanes[number].enqueue(str(enqueued), now_ms + LEASE_MS, retry=extra)
            turns.offer(lanes[number], now_ms)
        elif name == "advance":
            now_ms += number
        elif name == "end" and under_way:
            queued, ended = under_way.pop(number % len(under_way)), ended + 1
            if extra == 200:
                queued.lane.record_success()
            else:
                queued.lane.record_failure(now_ms, extra, None)
            turns.release(queued, now_ms)
        elif name == "configure" and lanes[number].configure(extra[0], extra[1], TIMEOUT_MS, now_ms):
            turns.offer(lanes[number], now_ms)
        elif name == "repair":
            lanes[number].record_success()
            turns.offer(lanes[number], now_ms)
        expired += len(turns.expire(now_ms))
        selected = turns.select(now_ms)
        under_way += selected
        assert len({id(queued) for queued in under_way}) == len(under_way)
        assert enqueued == ended + expired + len(under_way) + sum(lane.queued for lane in lanes)
        assert Counter(queued.lane.project_id for queued in under_way) == {
            one: share.in_flight(one) for one in PROJECTS if share.in_flight(one)
        }
        unproven = Counter(queued.lane.project_id for queued in under_way if queued.unproven)
        for lane in (one for one in lanes if one.queued):
            wakes_ms, opens_ms = [lane.expires_at_ms()], lane.opens_at_ms(now_ms)
            wakes_ms += [opens_ms] if opens_ms > now_ms else []
            assert turns.next_ms is not None
            assert turns.next_ms <= min(at_ms for at_ms in wakes_ms if at_ms is not None)
            held_back = not lane.proven and unproven[lane.project_id] >= SLOTS - SLOTS // PROVEN_PART
            if share.may_start(lane.project_id) and not held_back:
                assert lane.pop(now_ms) is None, "it could have started"


def test_more_projects_than_slots_all_have_their_turn() -> None:
    """Start each project's first delivery before any second one, with three times as many projects as slots."""
    turns, _ = turns_of(SLOTS)
    for number in range(3 * SLOTS):
        fill(turns, lane_of(f"p{number}"), 5)
    started: list[str] = []
    selected = turns.select(0)
    while len(started) < 3 * SLOTS:
        started += [queued.lane.project_id for queued in selected]
        for queued in selected:
            turns.release(queued, 0)
        selected = turns.select(0)
    assert len(set(started[: 3 * SLOTS])) == 3 * SLOTS


def test_lanes_of_a_project_follow_each_other() -> None:
    """Start a project's lanes in the order in which they wait, over one slot too."""
    turns, _ = turns_of(1)
    for number in range(3):
        fill(turns, lane_of("a", number), 2)
    order = []
    while selected := turns.select(0):
        order += [queued.delivery_id for queued in selected]
        turns.release(selected[0], 0)
    assert order == ["a0-0", "a1-0", "a2-0", "a0-1", "a1-1", "a2-1"]


def test_a_lane_that_has_just_failed_waits_for_a_slot_of_its_kind() -> None:
    """Start a proven endpoint in place of one that failed since it was listed, where no unproven one may start."""
    turns, _ = turns_of(SLOTS)
    hanging = lane_of("a", 0, in_flight_max=100)
    for _ in range(SLOTS):
        hanging.record_success()
    hanging.proven = False
    fill(turns, hanging, SLOTS)
    assert len(turns.select(0)) == SLOTS - SLOTS // PROVEN_PART
    failed, works = lane_of("a", 1), lane_of("a", 2)
    for lane in (failed, works):
        lane.record_success()
        fill(turns, lane, 1)
    failed.record_failure(0, 500, None)
    assert [queued.lane for queued in turns.select(0)] == [works]


def test_a_longer_time_out_expires_a_delivery_earlier() -> None:
    """Return a delivery as soon as its lease is shorter than its endpoint's time-out, which grew while it waited."""
    turns, _ = turns_of()
    lane = lane_of("a", in_flight_max=1)
    fill(turns, lane, 2)
    turns.select(0)
    assert lane.configure(1, None, TIMEOUT_MS + 5_000, 0)
    turns.offer(lane, 0)
    at_ms = LEASE_MS - TIMEOUT_MS - 5_000 + 1
    assert turns.next_ms == at_ms
    assert turns.expire(at_ms - 1) == []
    assert [queued.delivery_id for queued in turns.expire(at_ms)] == ["a0-1"]
    assert turns.next_ms is None


def test_a_turn_looks_only_at_lanes_that_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at a few lanes for each attempt that ends, while two thousand wait for a slot."""
    turns, _ = turns_of()
    for number in range(1_000):
        fill(turns, lane_of(f"p{number % 100}", number), 3)
    for number in range(1_000, 2_000):
        fill(turns, lane_of(f"p{number % 100}", number, rate_per_s=1.0), 3)
    seen = SimpleNamespace(looks=0)
    limits = Lane.opens_at_ms

    def counted(lane: Lane, now_ms: int) -> int:
        seen.looks += 1
        return limits(lane, now_ms)

    monkeypatch.setattr(Lane, "opens_at_ms", counted)
    under_way = turns.select(0)
    seen.looks, ends = 0, 200
    for now_ms in range(1, ends + 1):
        turns.release(under_way.pop(0), now_ms)
        assert turns.expire(now_ms) == []
        under_way += turns.select(now_ms)
        assert turns.next_ms is not None
    assert len(under_way) == SLOTS
    assert seen.looks <= 4 * ends


def test_alarms_that_count_no_longer_do_not_pile_up() -> None:
    """Keep no more replaced alarms than a thousand, however often a lane of a high rate opens."""
    turns, _ = turns_of()
    lane = lane_of("a", rate_per_s=500.0)
    for at_ms in range(0, 20 * STALE_ALARMS_MAX, 2):
        fill(turns, lane, 1, at_ms)
        turns.expire(at_ms)
        for queued in turns.select(at_ms):
            turns.release(queued, at_ms)
    assert len(turns._alarms) <= STALE_ALARMS_MAX + 3


def test_nothing_starts_once_it_is_cleared() -> None:
    """Start nothing and set no alarm after the end began; attempts under way still free their slots."""
    turns, share = turns_of()
    lane = lane_of("a", in_flight_max=1)
    fill(turns, lane, 1)
    (queued,) = turns.select(0)
    other = lane_of("b")
    fill(turns, other, 1)
    turns.clear()
    assert (turns.select(0), turns.expire(LEASE_MS), turns.next_ms) == ([], [], None)
    turns.release(queued, 0)
    assert share.free_slots == SLOTS


@pytest.mark.parametrize(("slots", "unproven"), [(3, 3), (4, 3), (12, 9), (15, 12)])
def test_a_quarter_of_the_slots_is_for_endpoints_that_work(slots: int, unproven: int) -> None:
    """Start attempts to endpoints that do not work on three slots of four, and another for each that ends."""
    turns, _ = turns_of(slots)
    for number in range(2 * slots):
        fill(turns, lane_of("a", number), 1)
    selected = turns.select(0)
    assert len(selected) == unproven
    turns.release(selected[0], 0)
    assert len(turns.select(0)) == 1


def test_leases_that_end_early_expire_together() -> None:
    """Return every delivery whose lease has become too short, however many lanes there are and however early it is."""
    turns, _ = turns_of()
    for number in range(40):
        lane = Lane(f"a{number}", "a", 20)
        lane.configure(10, None, 10, 0)
        assert lane.enqueue(str(number), 20, retry=False)
        turns.offer(lane, 0)
    assert turns.next_ms == 11
    assert turns.expire(10) == []
    assert len(turns.expire(11)) == 40


def test_what_has_ended_is_forgotten() -> None:
    """Keep nothing of a project whose deliveries were all attempted, gave back their slots, or expired."""
    turns, share = turns_of(2)
    for number in range(3):
        fill(turns, lane_of("a", number), 2)
    while under_way := turns.select(0):
        for queued in under_way:
            turns.release(queued, 0)
    fill(turns, lane_of("b"), 1)
    fill(turns, lane_of("c", in_flight_max=1), 1)
    assert turns.next_ms is not None
    assert len(turns.expire(turns.next_ms)) == 2
    assert share.free_slots == 2
    kept = (turns._projects, turns._levels, turns._alarm_of, turns._unproven)
    assert [len(one) for one in kept] == [0, 0, 0, 0]
    assert turns.next_ms is None


def test_a_lane_that_waits_has_one_alarm() -> None:
    """Set no second alarm for a lane that is offered again, unless it is an earlier one."""
    turns, _ = turns_of()
    lane = lane_of("a", in_flight_max=1)
    fill(turns, lane, 2)
    turns.select(0)
    for now_ms in range(5):
        turns.offer(lane, now_ms)
    assert len(turns._alarms) == 1


def test_replaced_alarms_are_removed_and_no_others() -> None:
    """Remove alarms that count no longer once more than a thousand are kept beside two for each lane that waits."""
    turns, _ = turns_of()
    waits, lane = lane_of("b", in_flight_max=1), lane_of("a")
    fill(turns, waits, 2)
    turns.select(0)
    kept = []
    for _ in range(2_500):  # each leaves an alarm for the end of a lease that is not waited for any more
        fill(turns, lane, 1)
        kept.append(len(turns._alarms))
        (queued,) = turns.select(0)
        turns.release(queued, 0)
    assert (max(kept), min(kept[1_100:])) == (1_003, 2)
    assert [queued.delivery_id for queued in turns.expire(LEASE_MS)] == ["b0-1"]
