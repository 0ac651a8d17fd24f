"""The pace of status checks: never more at once, or in a second, than is allowed, and none in a pause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import TooManyRequests
from relay.jobs.rate_limit import PAUSE_MAX_MS, AskedPace, GrowingPace, Pace
from relay.jobs.status_checks import StatusAnswer
from relay.lifecycle.checks import CheckOutcome
from relay.model.provider_http import ProviderResponse
from tests.support.rows import rows

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


BASE = (10, 20.0)
"""Ten checks concurrently, twenty a second."""


def begin(pace: GrowingPace, projects: dict[str, int], now_ms: int) -> list[str]:
    """Start the checks that may start for these waiting numbers, and return their projects."""
    granted = pace.grant([project for project, waiting in projects.items() if waiting], now_ms)
    begun = [project for project, checks in granted.items() for _ in range(min(checks, projects[project]))]
    pace.note_scarcity(len(begun) >= granted.total(), now_ms)
    for project in begun:
        pace.start(project, now_ms)
        projects[project] -= 1
    return begun


def run(
    pace: GrowingPace, projects: dict[str, int], times: range, *, answer_ms: int = 10, failed: bool = False
) -> list[tuple[int, str]]:
    """Return when each check began, of what waits, where each is answered after so long."""
    begun: list[tuple[int, str]] = []
    under_way: list[tuple[int, str]] = []
    for now_ms in times:
        while under_way and under_way[0][0] + answer_ms <= now_ms:
            started_at, project = under_way.pop(0)
            pace.answered(started_at, now_ms, failed=failed)
            pace.finish(project)
        opens_at = pace.opens_at(now_ms)
        if opens_at is not None and opens_at <= now_ms:
            started = [(now_ms, project) for project in begin(pace, projects, now_ms)]
            begun += started
            under_way += started
    return begun


def grown(times: int, per_s_max: float = 10_000) -> GrowingPace:
    """Return a pace that has doubled so often, at time 0."""
    pace = GrowingPace(*BASE, per_s_max)
    pace.note_scarcity(True, 0)
    for doubled in range(times):
        for _ in range(5 * 2**doubled):
            pace.answered(0, 0, failed=False)
    return pace


def most(pace: GrowingPace, now_ms: int) -> int:
    """Return for how many checks there is room at this time."""
    pace.grant(["a"], now_ms)
    return pace.room(now_ms)


@rows(("answers", "may_start"), [(4, 10), (5, 20), (14, 20), (15, 40)])
def test_the_pace_doubles_after_half_as_many_quick_answers_as_may_run(answers: int, may_start: int) -> None:
    """Double after five quick answers in succession, then after ten."""
    pace = grown(0)
    for _ in range(answers):
        pace.answered(0, 1_000, failed=False)
    assert most(pace, 1_000) == may_start
    assert pace.grown == (may_start > 10)


def test_an_answer_that_took_over_a_second_starts_the_count_again() -> None:
    """Count answers within a second, and only in succession."""
    pace = grown(0)
    for took_ms in (1_000, 1_000, 1_000, 1_000, 1_001, 1_000, 1_000, 1_000, 1_000):
        pace.answered(0, took_ms, failed=False)
    assert most(pace, 1_001) == 10
    pace.answered(0, 1_000, failed=False)
    assert most(pace, 1_001) == 20


def test_the_pace_stays_where_nothing_waits() -> None:
    """Grow by no answer while every check that is due may start."""
    pace = GrowingPace(*BASE, 10_000)
    for _ in range(50):
        pace.answered(0, 0, failed=False)
    assert most(pace, 0) == 10
    pace = grown(0)
    for _ in range(4):
        pace.answered(0, 0, failed=False)
    pace.note_scarcity(False, 0)
    pace.answered(0, 0, failed=False)
    assert most(pace, 0) == 10


@rows(("per_s_max", "may_start"), [(19, 10), (40, 20), (79, 40), (80, 40), (500, 250)])
def test_the_pace_has_a_bound(per_s_max: float, may_start: int) -> None:
    """Reach the bound of checks a second, with as many concurrent ones in proportion, and never pass it."""
    pace = grown(7, per_s_max)
    assert most(pace, 0) == pytest.approx(may_start, abs=1)


def test_a_failure_halves_the_pace_once_for_all_that_were_under_way() -> None:
    """Halve at a failure; of those that began before it none halves again, and the first pace is the least."""
    pace = grown(3)
    assert most(pace, 0) == 80
    for took_ms in (1, 2, 3):
        pace.answered(0, took_ms, failed=True)
    assert most(pace, 3) == 40
    pace.answered(1, 4, failed=True)
    assert most(pace, 4) == 20
    pace.answered(3, 5, failed=True)
    assert most(pace, 5) == 20
    pace.answered(4, 6, failed=True)
    pace.answered(6, 7, failed=True)
    assert most(pace, 7) == 10
    assert not pace.grown


@rows(("calm_ms", "may_start"), [(60_000, 80), (60_001, 10)])
def test_after_a_minute_without_waiting_the_pace_is_the_first_again(calm_ms: int, may_start: int) -> None:
    """Forget what a provider bore more than a minute ago."""
    assert most(grown(3), calm_ms) == may_start


def test_a_burst_of_a_thousand_is_confirmed_in_time() -> None:
    """Begin a thousand checks within four seconds by the defaults, where each answer takes 100 ms."""
    begun = run(GrowingPace(*BASE, 500), {"a": 1_000}, range(4_000), answer_ms=100)
    assert len(begun) == 1_000
    first_second = [at for at, _ in begun if at < 1_000]
    assert len(first_second) < 200
    for at, _ in begun[::50]:
        assert len([other for other, _ in begun if at <= other < at + 1_000]) <= 250 + 500


def test_a_provider_that_fails_is_asked_at_the_first_pace() -> None:
    """Begin twenty checks a second, and ten at first, where each answer is a failure."""
    begun = run(GrowingPace(*BASE, 500), {"a": 1_000}, range(10_000), failed=True)
    assert len(begun) in range(200, 212)


def test_one_project_with_a_thousand_does_not_delay_another_with_ten() -> None:
    """Give each project its turn: ten checks of the second begin as fast as ten of the first."""
    pace, waiting = GrowingPace(*BASE, 500), {"flood": 1_000, "quiet": 0}
    run(pace, waiting, range(1_000))
    waiting["quiet"] = 10
    begun = run(pace, waiting, range(1_100, 1_600))
    assert [project for _, project in begun[:20]].count("quiet") in range(8, 11)


def test_a_project_whose_checks_hang_leaves_slots_to_others() -> None:
    """Keep an eighth of the slots for projects that have none under way."""
    pace, waiting = GrowingPace(*BASE, 500), {"hangs": 100, "quiet": 1}
    run(pace, waiting | {"quiet": 0}, range(2_000), answer_ms=10_000)
    assert not pace.may_start("hangs")
    assert begin(pace, {"hangs": 100, "quiet": 1}, 2_000) == ["quiet"]


def test_at_a_grown_pace_checks_start_together() -> None:
    """Start fifty together every 100 ms at 500 a second, since claims and answers are transactions."""
    pace = grown(7, 500)
    for _ in range(pace.room(0)):
        pace.start("a", 0)
        pace.finish("a")
    opens_at = pace.opens_at(0)
    assert opens_at is not None
    assert opens_at in range(100, 102)
    assert pace.grant(["a"], 99).total() == 0
    assert pace.grant(["a"], opens_at).total() == 50


@rows(("job", "project", "asked", "pause_s"), [(3, 100, ["a"] * 3, 20), (100, 2, ["a", "b"], 30)])
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


@rows(
    ("status_code", "failed"),
    [
        (200, False),
        (404, False),
        (428, False),
        (429, True),
        (430, False),
        (499, False),
        (500, True),
        (501, True),
        (599, True),
    ],
)
def test_a_429_and_every_5xx_halve_the_pace(status_code: int, failed: bool) -> None:
    """Count an answer as failed if the provider wants fewer requests or broke, and no other answer."""
    response = ProviderResponse(status_code=status_code, content_type="application/json", body=b"{}")
    assert StatusAnswer(CheckOutcome.NO_STATUS, None, "", response).failed is failed


@rows(("finding", "failed"), [(CheckOutcome.NO_ANSWER, True), (CheckOutcome.NOT_FOUND, False)])
def test_no_answer_halves_the_pace(finding: CheckOutcome, failed: bool) -> None:
    """Count a call without an answer as failed."""
    assert StatusAnswer(finding, None, "").failed is failed


def pace_after(quick: int, slow_ms: int | None = None) -> GrowingPace:
    """Return a pace of four and then eight a second, while more waits, after so many quick answers and a slow one."""
    pace = GrowingPace(4, 4.0, 16.0)
    pace.note_scarcity(True, 0)
    for _ in range(quick):
        pace.answered(0, 0, failed=False)
    if slow_ms is not None:
        pace.answered(0, slow_ms, failed=False)
    return pace


def test_a_failure_starts_the_count_of_quick_answers_again() -> None:
    """Double after two quick answers of four; a failure in between makes it two more."""
    assert pace_after(1).grown is False
    assert pace_after(2).grown is True
    pace = pace_after(1)
    pace.answered(0, 0, failed=True)
    pace.answered(0, 0, failed=False)
    assert pace.grown is False
    pace.answered(0, 0, failed=False)
    assert pace.grown is True


def test_a_slow_answer_starts_the_count_of_quick_answers_again() -> None:
    """Count an answer of a second, and begin anew at one that took a millisecond longer."""
    assert pace_after(1, slow_ms=1000).grown is True
    pace = pace_after(1, slow_ms=1001)
    pace.answered(0, 0, failed=False)
    assert pace.grown is False
    pace.answered(0, 0, failed=False)
    assert pace.grown is True
