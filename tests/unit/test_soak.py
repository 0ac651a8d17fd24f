"""The line that `bench soak` lays through its figures finds what grows, and no more."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.soak import ALLOWED, drift


@given(st.floats(1, 1e6), st.floats(-1e3, 1e3), st.integers(3, 60))
def test_a_straight_line_is_found(start: float, step: float, count: int) -> None:
    """Return the growth of a straight line, its mean, and next to no error."""
    line = drift([start + step * number for number in range(count)])
    assert line.growth == pytest.approx(step * (count - 1), rel=1e-6, abs=1e-6)
    assert line.mean == pytest.approx(start + step * (count - 1) / 2, rel=1e-6, abs=1e-6)
    assert line.error == pytest.approx(0, abs=1e-3)


def test_a_leak_is_found_in_noise() -> None:
    """Find a leak of 1 % of the memory a portion beneath a scatter of 2 %, in each of a hundred runs."""
    for seed in range(100):
        scatter = random.Random(seed)
        leaking = [100 + number + scatter.gauss(0, 2) for number in range(39)]
        assert not drift(leaking).within(ALLOWED["rss_mb"])


def test_noise_is_no_leak() -> None:
    """Find no growth in scatter alone, at most twice in a hundred runs, however wide it is."""
    found = 0
    for seed in range(100):
        scatter = random.Random(seed)
        found += not drift([100 + scatter.gauss(0, 30) for _ in range(39)]).within(0)
    assert found <= 2


def test_a_share_of_the_mean_is_allowed() -> None:
    """Allow a certain growth up to its share of the mean, and none beyond it."""
    line = drift([100, 102, 104, 106, 108])
    assert line.within(8 / 104)
    assert not line.within(7.99 / 104)
