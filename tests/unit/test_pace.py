"""The pace of status checks: never more at once, or in a second, than is allowed, and none in a pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import TooManyRequests
from relay.jobs.rate_limit import PAUSE_MAX_MS, AskedPace, Pace

steps = st.lists(st.tuples(st.integers(0, 700), st.booleans(), st.none() | st.integers(0, 5_000)), max_size=60)


@given(st.integers(1, 6), st.sampled_from([0.5, 1.0, 4.0, 20.0]), steps)
def test_there_is_never_more_than_is_allowed(
    in_flight_max: int, per_s: float, told: list[tuple[int, bool, int | None]]
) -> None:
    """Whatever starts, ends and pauses: the number at once, the number in any span, and every pause hold."""
    pace, now_ms, under_way, begun, paused_until = Pace(in_flight_max, per_s), 1_000_000, 0, [], 0
    for passed_ms, ends, pause_ms in told:
        now_ms += passed_ms
        if ends and under_way:
            pace.finished()
            under_way -= 1
        if pause_ms is not None:
            paused_until = pace.pause(now_ms + pause_ms, now_ms)
        room = pace.room(now_ms)
        opens_at = pace.opens_at(now_ms)
        assert room == 0 or now_ms >= paused_until
        assert (opens_at is None) == (under_way == in_flight_max)
        assert room > 0 or opens_at is None or opens_at > now_ms
        for _ in range(room):
            pace.started(now_ms)
            begun.append(now_ms)
            under_way += 1
        assert under_way <= in_flight_max
        assert pace.room(now_ms) == 0
    for first, at in enumerate(begun):
        within = [later for later in begun[first:] if later - at < 10_000]
        assert len(within) <= in_flight_max + 10 * per_s + 1


@given(st.integers(1, 6), st.sampled_from([0.5, 1.0, 4.0, 20.0]), st.integers(0, 20_000))
def test_when_it_is_said_to_open_it_does(in_flight_max: int, per_s: float, pause_ms: int) -> None:
    """At the time that `opens_at` names there is room, so that a loop which waits for it makes progress."""
    pace, now_ms = Pace(in_flight_max, per_s), 0
    for _ in range(30):
        for _ in range(pace.room(now_ms)):
            pace.started(now_ms)
            pace.finished()
        pace.pause(now_ms + pause_ms, now_ms)
        opens_at = pace.opens_at(now_ms)
        assert opens_at is not None
        assert pace.room(opens_at) > 0
        now_ms = opens_at


def test_a_pause_is_ten_minutes_at_most() -> None:
    """A provider that asks for a day gets ten minutes."""
    pace = Pace(1, 1)
    assert pace.pause(86_400_000, 0) == PAUSE_MAX_MS


@pytest.mark.parametrize(("job", "project", "asked", "pause_s"), [(3, 100, ["a"] * 3, 20), (100, 2, ["a", "b"], 30)])
def test_a_job_and_a_project_have_their_share_of_a_minute(
    job: int, project: int, asked: list[str], pause_s: int
) -> None:
    """Refuse what is over the share, say when to come again, and take it then and no millisecond before."""
    pace = AskedPace(job, project)
    for one in asked:
        pace.check("a", "default", 5_000)
        pace.check("a", "default", 5_000)
        pace.ask(one, "default", 5_000)
    with pytest.raises(TooManyRequests) as refused:
        pace.check("a", "default", 5_000)
    assert refused.value.retry_after_s == pause_s
    pace.check("a", "another project", 5_000)
    with pytest.raises(TooManyRequests) as refused:
        pace.ask("a", "default", 5_000)
    assert refused.value.retry_after_s == pause_s
    pace.ask("a", "another project", 5_000) if project == 2 else pace.ask("b", "default", 5_000)
    with pytest.raises(TooManyRequests):
        pace.ask("a", "default", 5_000 + pause_s * 1000 - 1)
    pace.ask("a", "default", 5_000 + pause_s * 1000)
