"""The limits of a lane, each just before and just after: slots, rate, breaker, pauses, and how much it may hold."""

from relay.deliveries.lane import Lane
from tests.support.rows import rows

LEASE_MS = 25_000


def lane(
    in_flight_max: int = 10, rate_per_s: float | None = None, timeout_ms: int = 15_000, lease_ms: int = LEASE_MS
) -> Lane:
    """Return a lane that knows its endpoint's settings at the moment 0."""
    made = Lane("ep_1", "prj_1", lease_ms)
    made.configure(in_flight_max, rate_per_s, timeout_ms, 0)
    return made


def filled(made: Lane, number: int = 2_000, *, retry: bool = False, leased_until: int = 1 << 40) -> Lane:
    """Return the lane with so many more deliveries, as far as it accepts them."""
    for one in range(number):
        made.enqueue(f"{'r' if retry else 'f'}{one}", leased_until, retry=retry)
    return made


def open_until(made: Lane) -> int | None:
    """Return when a lane whose breaker is open makes its next attempt."""
    return made.circuit_open_until_ms


def begun(made: Lane, now_ms: int = 0) -> int:
    """Return how many may begin at this moment, and begin them."""
    number = 0
    while made.pop(now_ms) is not None:
        number += 1
    return number


def test_a_new_lane_begins_one_delivery_until_it_knows_its_endpoint() -> None:
    """Let exactly one delivery begin while the endpoint's settings are unknown, and remember nothing before it."""
    made = Lane("ep_1", "prj_1", LEASE_MS)
    assert (made.in_flight, made.queued, made.idle, made.circuit_open_until_ms, made.free_slots) == (
        0,
        0,
        True,
        None,
        1,
    )
    assert not made.full(0)
    filled(made, 3, leased_until=5_000)
    assert made.expires_at_ms() == 5_001
    assert (begun(made), made.in_flight, made.free_slots, made.idle) == (1, 1, 0, False)
    assert made.pop(1 << 40) is None
    assert Lane("ep_2", "prj_1", 500).capacity == 1_000


def test_a_lane_waits_for_no_time_before_the_first_attempt() -> None:
    """Let the first delivery begin at the very first moment of the clock, also after a rate was removed."""
    assert filled(lane(), 1).pop(0) is not None
    made = filled(lane(rate_per_s=1.0), 2)
    assert (made.pop(0) is not None, made.pop(999) is not None) == (True, False)
    made.configure(10, None, 0, 0)
    assert made.pop(0) is not None


def test_a_lane_without_a_timeout_holds_a_delivery_to_the_end_of_its_lease() -> None:
    """Count a timeout of 0 where none is given."""
    made = Lane("ep_1", "prj_1", LEASE_MS)
    made.configure(10, None, 0, 0)
    filled(made, 1, leased_until=5_000)
    assert (made.pop_expired(5_000), len(made.pop_expired(5_001))) == ([], 1)


def test_the_window_grows_by_one_with_each_success_up_to_the_endpoints_limit() -> None:
    """Begin with two concurrent attempts, allow one more after each success, and never more than `in_flight_max`."""
    made = filled(lane(in_flight_max=4))
    assert begun(made) == 2
    for now_in_flight in (3, 4, 4):
        made.record_success()
        begun(made)
        assert made.in_flight == now_in_flight


@rows(("successes", "failures", "slots"), [(0, 0, 2), (6, 1, 4), (6, 2, 2), (6, 3, 1), (6, 4, 1)])
def test_the_window_is_halved_by_each_failure(successes: int, failures: int, slots: int) -> None:
    """Allow half as many concurrent attempts after each failure, and always at least one."""
    made = filled(lane())
    for _ in range(successes):
        made.record_success()
    for _ in range(failures):
        made.record_failure(0, 500, None)
    assert (made.free_slots, begun(made)) == (slots, slots)
    assert made.free_slots == 0


def test_a_lane_with_more_under_way_than_its_window_begins_none() -> None:
    """Count no negative number of free slots after a failure halved the window below what is under way."""
    made = filled(lane())
    begun(made)
    made.record_failure(0, 500, None)
    assert (made.in_flight, made.free_slots, made.pop(0)) == (2, 0, None)


def test_a_lane_is_crowded_when_its_slots_are_taken_or_it_is_held_back() -> None:
    """Ask for nothing more once waiting and started deliveries fill the slots, or before the next may start."""
    made = filled(lane(), 1)
    assert not made.full(0)
    filled(made, 1)
    assert made.full(0)
    begun(made)
    made.in_flight -= 1
    assert not made.full(0)
    made.record_failure(0, 503, None)
    made.in_flight -= 1
    assert (made.full(999), made.full(1_000)) == (True, False)


def test_a_lane_is_dropped_only_when_it_has_nothing_to_remember() -> None:
    """Keep a lane that holds a delivery, failed lately, or has a rate."""
    assert lane().idle
    assert not lane(rate_per_s=1.0).idle
    failed, mended = lane(), lane()
    for one in (failed, mended):
        one.record_failure(0, 500, None)
    mended.record_success()
    assert (failed.idle, mended.idle) == (False, True)
    assert not filled(lane(), 1).idle


def test_every_fourth_start_is_a_retry_while_fresh_deliveries_wait() -> None:
    """Start three fresh deliveries and then one retry; start the others without a pause where one kind is used up."""
    made = filled(filled(lane(), 6), 4, retry=True)
    order = ""
    while made.queued:
        taken = made.pop(0)
        assert taken is not None
        assert made.in_flight == 1
        made.in_flight -= 1
        order += taken.delivery_id[0]
    assert order == "fffrfffrrr"


def test_a_lane_queues_a_thousand_deliveries_and_no_more() -> None:
    """Accept the thousandth waiting delivery and refuse the next."""
    made = filled(lane(), 999)
    assert made.enqueue("thousandth", 1, retry=True)
    assert not made.enqueue("one more", 1, retry=True)
    assert made.queued == 1_000


def test_a_lane_gives_back_the_first_whose_lease_is_too_short() -> None:
    """Look at the oldest fresh delivery and the oldest retry, and give back each of them at its own time."""
    made = lane(timeout_ms=1_000)
    assert made.expires_at_ms() is None
    for name, leased_until, retry in (
        ("f1", 6_000, False),
        ("f2", 9_000, False),
        ("r1", 5_000, True),
        ("r2", 8_000, True),
    ):
        made.enqueue(name, leased_until, retry=retry)
    for at, name, leased_until in (
        (4_001, "r1", 5_000),
        (5_001, "f1", 6_000),
        (7_001, "r2", 8_000),
        (8_001, "f2", 9_000),
    ):
        assert (made.expires_at_ms(), made.pop_expired(at - 1)) == (at, [])
        (expired,) = made.pop_expired(at)
        assert (expired.delivery_id, expired.leased_until_ms, expired.lane) == (name, leased_until, made)


@rows(("rate", "interval_ms"), [(1.0, 1_000), (0.5, 2_000), (4.0, 250)])
def test_the_rate_lets_one_begin_in_each_interval(rate: float, interval_ms: int) -> None:
    """Start the next delivery one interval after the one before, no millisecond earlier, and save nothing up."""
    made = filled(lane(rate_per_s=rate))
    assert made.free_slots == 0
    for now_ms in (0, interval_ms, 10 * interval_ms, 11 * interval_ms):
        assert made.pop(now_ms) is not None
        made.in_flight -= 1
        assert made.opens_at_ms(now_ms) == now_ms + interval_ms
        assert made.pop(now_ms + interval_ms - 1) is None


def test_a_rate_that_is_set_while_an_attempt_is_under_way_counts_from_then() -> None:
    """Let an interval pass after the change, and do not start it anew with each delivery that repeats the rate."""
    made = filled(lane())
    assert made.pop(0) is not None
    made.configure(10, 2.0, 15_000, 100)
    made.configure(10, 2.0, 15_000, 400)
    assert (made.pop(599), made.opens_at_ms(599)) == (None, 600)
    assert made.pop(600) is not None
    fresh = filled(Lane("ep_1", "prj_1", LEASE_MS))
    fresh.configure(10, 2.0, 15_000, 100)
    assert fresh.pop(100) is not None


def test_a_slot_that_was_not_used_is_not_charged() -> None:
    """Give the interval of a delivery that did not begin to the next one, and charge nothing without a rate."""
    made = filled(lane(rate_per_s=0.5))
    made.pop(0)
    made.return_interval()
    assert made.opens_at_ms(0) == 0
    unlimited = filled(lane())
    unlimited.pop(0)
    unlimited.return_interval()
    assert unlimited.pop(0) is not None


@rows(
    ("rate", "timeout_ms", "lease_ms", "capacity"),
    [
        (None, 15_000, LEASE_MS, 1_000),
        (2.0, 15_000, LEASE_MS, 20),
        (0.5, 15_000, LEASE_MS, 5),
        (500.0, 15_000, LEASE_MS, 1_000),
        (0.01, 15_000, LEASE_MS, 1),
        (5_000.0, 15_000, 15_000, 1),
        (5_000.0, 15_000, 10_000, 1),
    ],
)
def test_a_rated_lane_holds_what_it_can_begin_while_the_leases_last(
    rate: float | None, timeout_ms: int, lease_ms: int, capacity: int
) -> None:
    """Hold the rate times what a lease has beyond one attempt's time-out: at least one, and a thousand at most."""
    assert lane(rate_per_s=rate, timeout_ms=timeout_ms, lease_ms=lease_ms).capacity == capacity


@rows(("rate", "accepted"), [(0.5, 5), (None, 7)])
def test_a_lane_accepts_its_capacity_and_what_its_free_slots_start(rate: float | None, accepted: int) -> None:
    """Refuse the first delivery that could not start within its lease; a rate limit leaves no slot free."""
    made = lane(rate_per_s=rate)
    made.record_duration(0 if rate else 4_000)
    assert (made.capacity, filled(made, 20).queued) == (5, accepted)


def test_what_attempts_take_lately_weighs_a_third() -> None:
    """Average the durations, each new one with a third, and hold what the slots can begin in the time to spare."""
    made = lane()
    made.record_duration(4_000)
    assert made.capacity == 5
    made.record_duration(10_000)
    assert made.capacity == 3
    made.record_duration(2)
    made.record_duration(2)
    assert made.capacity == 7
    fast = lane()
    fast.record_duration(1)
    assert fast.capacity == 1_000


def test_a_lane_wants_more_once_half_of_its_capacity_is_used_up() -> None:
    """Claim nothing while more than half of the capacity waits, and then as much as fills it, free slots included."""
    rated = filled(lane(rate_per_s=2.0), 11)
    assert rated.claimable(0) == 0
    rated.pop(0)
    assert rated.claimable(0) == 10
    free = filled(lane(), 1)
    assert free.claimable(0) == 1_000 + 2 - 1


def test_a_lane_that_is_held_back_wants_nothing_until_it_opens() -> None:
    """Claim nothing for an open breaker or a paused lane, and something at the moment when that ends."""
    paused = lane()
    paused.record_failure(0, 503, None)
    assert (paused.claimable(999), paused.claimable(1_000) > 0) == (0, True)
    broken = lane()
    for _ in range(10):
        broken.record_failure(0, 500, None)
    assert (broken.claimable(29_999), broken.claimable(30_000) > 0) == (0, True)


@rows(
    ("rate", "timeout_ms", "lease_ms", "wants"),
    [(0.1, 15_000, LEASE_MS, 1), (0.1, 15_001, LEASE_MS, 0), (1e3, 9, 0, 0)],
)
def test_nothing_is_claimed_that_its_lease_cannot_serve(
    rate: float, timeout_ms: int, lease_ms: int, wants: int
) -> None:
    """Claim one where the next start leaves exactly the time-out of a lease, and none where it leaves less."""
    made = filled(lane(rate_per_s=rate, timeout_ms=timeout_ms, lease_ms=lease_ms), 1)
    made.pop(0)
    assert made.claimable(0) == wants


def test_the_breaker_opens_at_the_tenth_failure_for_thirty_seconds() -> None:
    """Hold everything back for 30 s after ten failures in a row, then let one probe at a time go."""
    made = filled(lane())
    assert [made.record_failure(0, 500, None) for _ in range(10)] == [False] * 9 + [True]
    assert (made.circuit_open_until_ms, made.opens_at_ms(0), made.pop(29_999)) == (30_000, 30_000, None)
    assert not made.record_failure(29_999, 500, None)
    assert begun(made, 30_000) == 1
    assert made.record_failure(30_000, 500, None)
    assert made.circuit_open_until_ms == 90_000
    made.record_success()
    assert (open_until(made), made.opens_at_ms(0)) == (None, 0)
    assert [made.record_failure(0, 500, None) for _ in range(10)] == [False] * 9 + [True]
    assert open_until(made) == 30_000


def test_the_breakers_pause_doubles_up_to_an_hour() -> None:
    """Pause for 30 s, 1, 2, 4, 8, 16, 32 minutes, and then for an hour each time."""
    made, now_ms, pauses_s = lane(), 0, []
    for _ in range(9):
        made.record_failure(now_ms, 500, None)
    for _ in range(9):
        assert made.record_failure(now_ms, 500, None)
        assert made.circuit_open_until_ms is not None
        pauses_s.append((made.circuit_open_until_ms - now_ms) / 1000)
        now_ms = made.circuit_open_until_ms
    assert pauses_s == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_busy_receivers_pause_doubles_up_to_a_minute() -> None:
    """Pause for 1, 2, 4, 8, 16, 32 s and then 60 s; begin anew after a success."""
    made, now_ms, pauses_s = filled(lane()), 0, []
    for _ in range(8):
        made.record_failure(now_ms, 503, None)
        pauses_s.append((made.opens_at_ms(now_ms) - now_ms) / 1000)
        now_ms = made.opens_at_ms(now_ms)
    assert pauses_s == [1, 2, 4, 8, 16, 32, 60, 60]
    made.record_success()
    made.record_failure(0, 503, None)
    assert (made.pop(999), made.pop(1_000) is not None) == (None, True)


@rows(
    ("status_code", "pause_ms"),
    [
        (428, 0),
        (429, 1_000),
        (430, 0),
        (500, 0),
        (501, 0),
        (502, 1_000),
        (503, 1_000),
        (504, 1_000),
        (505, 0),
        (None, 0),
    ],
)
def test_only_four_statuses_say_that_a_receiver_is_busy(status_code: int | None, pause_ms: int) -> None:
    """Pause the lane after 429, 502, 503 and 504, and after no other failure."""
    made = lane()
    made.record_failure(0, status_code, None)
    assert made.opens_at_ms(0) == pause_ms


@rows(
    ("asked_ms", "pause_ms"),
    [(0, 1_000), (999, 1_000), (1_001, 1_001), (86_400_000, 86_400_000), (86_400_001, 86_400_000)],
)
def test_a_busy_receiver_gets_the_pause_that_it_asks_for(asked_ms: int, pause_ms: int) -> None:
    """Pause for the longer of relay's own pause and Retry-After, of which a day at most counts."""
    made = lane()
    made.record_failure(0, 429, asked_ms)
    assert made.opens_at_ms(0) == pause_ms


def test_the_longest_of_breaker_pause_and_rate_counts() -> None:
    """Open when the last of the three ends."""
    made = filled(lane(rate_per_s=0.001))
    for _ in range(9):
        made.record_failure(0, 500, None)
    made.record_failure(0, 503, 40_000)
    assert (made.circuit_open_until_ms, made.opens_at_ms(0)) == (30_000, 40_000)
    made.record_success()
    assert made.pop(0) is not None
    made.record_failure(0, 503, 40_000)
    assert made.opens_at_ms(0) == 1_000_000
