"""The charts: round tops, gaps, failures on the zero line, words that are escaped."""

import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from relay.web.dashboard.charts import HEIGHT, Axis, Plot, Series, bars, lines, round_top, share, spark, sparse
from tests.support.rows import rows

NAMES = ["04:00", "05:00", "06:00"]


def rects(plot: Plot, style: str) -> list[tuple[float, float]]:
    """Return the top and the height of each rectangle of a class, from left."""
    root = ElementTree.fromstring(plot.svg)
    found = [rect for rect in root.iter("rect") if rect.get("class") == style]
    return [(float(rect.get("y", "")), float(rect.get("height", ""))) for rect in found]


@rows(
    ("value", "top"),
    [
        (0, 2),
        (2, 2),
        (3, 4),
        (4, 4),
        (5, 6),
        (11, 12),
        (12, 12),
        (13, 16),
        (217, 240),
        (241, 300),
        (99, 100),
        (101, 120),
    ],
)
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    """Choose the next round number whose half is whole."""
    assert round_top(value) == top


@given(st.floats(0, 1e12))
def test_a_top_is_above_every_value_and_not_far(value: float) -> None:
    """Leave less than half of the plot empty, and draw half of the top as a whole number."""
    top = round_top(value)
    assert value <= top <= max(2, 2 * value)
    assert (top / 2) % 1 == 0


def test_failures_stand_on_the_zero_line() -> None:
    """Stack the first series first: its bars end at the zero line, the next ones above."""
    failed = Series(name="failed", style="f-bad", values=[1, None, 0])
    good = Series(name="succeeded", style="f-ok", values=[3, 2, None])
    plot = bars(NAMES, [failed, good], "Jobs")
    assert plot.y == ["4", "2", "0"]
    assert rects(plot, "f-bad") == [(75, 25)]
    assert rects(plot, "f-ok") == [(0, 75), (50, 50)]
    titles = re.findall("<title>(.*?)</title>", plot.svg)
    assert titles == [
        "04:00: 1 failed, 3 succeeded", "05:00: 0 failed, 2 succeeded", "06:00: 0 failed, 0 succeeded",
    ]  # fmt: skip


def test_a_bucket_without_data_is_a_gap() -> None:
    """Begin the line anew after a gap, and draw a lone value as a short line."""
    plot = lines([*NAMES, "07:00"], [Series(name="p50", style="a", values=[10, 10, None, 20])], "Latency")
    (path,) = re.findall(r'<path class="l a" d="([^"]*)"', plot.svg)
    assert path == "M5 50.0L15 50.0M32 0.0h6"


def test_a_logarithmic_axis_has_whole_decades() -> None:
    """Label decades around the values, with the unit that fits."""
    plot = lines(NAMES, [Series(name="p99", style="c", values=[25, 700, 7000])], "Latency", logarithmic=True)
    assert plot.y == ["10 s", "1 s", "100 ms", "10 ms"]
    assert "<title>04:00: p99 25 ms</title>" in plot.svg
    assert lines(NAMES, [], "Latency", logarithmic=True).y == ["1 s", "100 ms", "10 ms"]


@given(st.floats(0.001, 1e9), st.floats(0.001, 1e9))
def test_a_larger_value_is_drawn_higher(one: float, other: float) -> None:
    """Keep the order of values and the bounds of the plot, on both kinds of axis."""
    low, high = sorted((one, other))
    for axis in (Axis(top=1e9), Axis(top=1e9, low=0.001)):
        assert 0 <= axis.at(high) <= axis.at(low) <= HEIGHT


def test_a_share_is_never_wider_than_its_bar() -> None:
    """Cut a part that is more than the whole, and draw nothing of nothing."""
    assert [float(width) for width in re.findall(r'width="([\d.]+)%"', share([("f-acc", 3), ("f-2", 1)]))] == [
        100,
        75,
        25,
    ]
    assert re.findall(r'width="([\d.]+)%"', share([("f-warn", 30)], whole=20)) == ["100", "100.0"]
    assert re.findall(r'width="([\d.]+)%"', share([("f-acc", 0)])) == ["100", "0.0"]


def test_names_are_escaped() -> None:
    """Write what came from outside as text."""
    series = Series(name="<b>", style="f-ok", values=[1])
    for svg in (bars(['"><script>'], [series], '"x"').svg, spark([1], [0], "<i>")):
        assert "<script>" not in svg
        assert "<b>" not in svg
        ElementTree.fromstring(svg)


@rows(("count", "shown"), [(1, [0]), (5, [0, 1, 2, 3, 4]), (6, [0, 1, 2, 4, 5]), (24, [0, 6, 12, 17, 23])])
def test_at_most_five_labels_stand_below(count: int, shown: list[int]) -> None:
    """Keep the first and the last name."""
    assert sparse([str(index) for index in range(count)]) == [str(index) for index in shown]


def test_a_plot_of_nothing_says_so() -> None:
    """Know a plot that has no value."""
    assert bars(NAMES, [Series(name="x", style="f-ok", values=[0, None, 0])], "x").empty
    assert not bars(NAMES, [Series(name="x", style="f-ok", values=[0, 1, 0])], "x").empty
