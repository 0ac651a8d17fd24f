"""The retry schedule: never earlier than told, jitter within its bounds, and every form of Retry-After."""

from datetime import UTC, datetime
from email.utils import format_datetime

from hypothesis import example, given
from hypothesis import strategies as st

from relay.model.backoff import DEFAULT_SCHEDULE_S, RETRY_AFTER_MAX_MS, next_delay_ms, parse_retry_after
from tests.support.rows import rows

NOW = int(datetime(2026, 11, 21, 2, 3, 4, 500_000, UTC).timestamp() * 1000)

delays = st.integers(0, 604_800)
schedules = st.lists(delays, min_size=1, max_size=50)
fractions = st.floats(0, 1, exclude_max=True)
told = st.integers(0, 10 * RETRY_AFTER_MAX_MS)


def nominal(value: float = 0.5) -> float:
    """Return the middle of the jitter."""
    return value


def test_the_default_outlasts_a_weekend() -> None:
    """Ten attempts over 75.5 hours, the first at once."""
    assert DEFAULT_SCHEDULE_S == (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
    assert round(sum(DEFAULT_SCHEDULE_S) / 3600, 1) == 75.6


def test_the_middle_of_the_jitter_is_the_schedule() -> None:
    """Without luck either way, entry i is the delay before attempt i + 1, and at least 72 hours pass in all."""
    waits = [next_delay_ms(DEFAULT_SCHEDULE_S, made, nominal) for made in range(10)]
    assert waits == [delay_s * 1000 for delay_s in DEFAULT_SCHEDULE_S]
    assert sum(wait or 0 for wait in waits) >= 72 * 3_600_000


@given(schedules, st.data(), fractions)
def test_jitter_stays_within_a_fifth(schedule_s: list[int], data: st.DataObject, fraction: float) -> None:
    """A delay is within 20 % of its entry, to the millisecond."""
    made = data.draw(st.integers(0, len(schedule_s) - 1))
    delay_ms = next_delay_ms(schedule_s, made, lambda: fraction)
    assert delay_ms is not None
    assert abs(delay_ms - schedule_s[made] * 1000) <= schedule_s[made] * 200


def test_jitter_reaches_both_ends() -> None:
    """The least and the most luck give 80 % and (almost) 120 %."""
    assert next_delay_ms((100,), 0, lambda: 0.0) == 80_000
    assert next_delay_ms((100,), 0, lambda: 0.999999999) == 119_999


@given(schedules, st.integers(0, 10), st.none() | told)
def test_a_used_up_schedule_ends(schedule_s: list[int], more: int, retry_after_ms: int | None) -> None:
    """After the last entry there is no next attempt, whatever the receiver asks for."""
    assert next_delay_ms(schedule_s, len(schedule_s) + more, nominal, retry_after_ms) is None


@given(delays, told, fractions)
def test_nobody_is_called_earlier_than_they_asked(delay_s: int, retry_after_ms: int, fraction: float) -> None:
    """Retry-After is waited for in full, up to 24 hours, and at most a fifth longer than the longer of the two."""
    delay_ms = next_delay_ms((delay_s,), 0, lambda: fraction, retry_after_ms)
    clamped_ms = min(retry_after_ms, RETRY_AFTER_MAX_MS)
    assert delay_ms is not None
    assert delay_ms >= clamped_ms
    assert delay_ms <= max(delay_s * 1200, clamped_ms * 6 // 5)


@rows("asked_ms", [86_400_000, 86_400_001, 10 * 86_400_000])
def test_a_day_of_retry_after_counts(asked_ms: int) -> None:
    """Wait for 24 hours and no longer, whatever more a receiver asks for."""
    assert next_delay_ms((300,), 0, lambda: 0.0, asked_ms) == 86_400_000
    assert next_delay_ms((300,), 0, lambda: 0.0, 86_399_999) == 86_399_999


@given(delays, told, fractions)
@example(604_800, 10 * RETRY_AFTER_MAX_MS, 0.5)  # asked for more than the schedule, clamped to less
def test_retry_after_only_extends(delay_s: int, retry_after_ms: int, fraction: float) -> None:
    """With Retry-After, a wait is never shorter than without."""
    without, with_it = (next_delay_ms((delay_s,), 0, lambda: fraction, asked) for asked in (None, retry_after_ms))
    assert without is not None
    assert with_it is not None
    assert with_it >= without


def test_a_short_retry_after_changes_nothing() -> None:
    """What is shorter than the schedule, 0 or negative leaves the schedule as it is."""
    for asked in (-5000, 0, 1, 299_000, 300_000):
        assert next_delay_ms((300,), 0, nominal, asked) == 300_000


def test_a_herd_is_spread() -> None:
    """Many that are told the same moment come after it, and not all at once."""
    waits = {next_delay_ms((5,), 0, lambda: step / 100, 60_000) for step in range(100)}  # noqa: B023
    assert len(waits) == 100
    assert min(wait or 0 for wait in waits) == 60_000


@rows(
    ("value", "wait_ms"),
    [
        ("0", 0),
        ("120", 120_000),
        ("  120\t", 120_000),
        ("0" * 61 + "120", 120_000),
        ("86400", 86_400_000),
        ("999999999999", 999_999_999_999_000),
        ("-1", 0),
        ("-99999", 0),
        ("Sat, 21 Nov 2026 02:05:04 GMT", 119_500),
        ("Saturday, 21-Nov-26 02:05:04 GMT", 119_500),
        ("Sat Nov 21 02:05:04 2026", 119_500),
        ("Sun Dec  6 02:03:05 2026", 15 * 86_400_000 + 500),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Sun Nov  6 08:49:37 1994", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799_000 - NOW),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0),
    ],
)
def test_reads_every_form(value: str, wait_ms: int) -> None:
    """Seconds and the three date forms of RFC 9110; what is past or negative is 0."""
    assert parse_retry_after(value, NOW) == wait_ms


@rows(
    "value",
    [
        *(None, "", " ", "soon", "1.5", "1e3", "+5", "--5", "5s", "1 2", "1_0", "0x10", "nan", "inf", "١٢٠", "²"),
        *(
            "0" * 62 + "120",
            "9" * 13,
            "9" * 5000,
            "\ud800",
            "\0",
            "120\n",
            "Sat, 21 Nov 2026 02:05:04",
            "Sat, 21 Nov 2026 02:05:04 CET",
        ),
        *("Sat, 21 Nov 2026 02:05:04 +0100", "Sat, 31 Feb 2026 02:05:04 GMT", "Sat, 21 Nov 2026 02:05:60 GMT"),
        *("Sat, 21 Nov 2026 25:05:04 GMT", "Sat, 21 Nov 0000 02:05:04 GMT", "2026-11-21T02:05:04Z", "21 Nov 2026"),
    ],
)
def test_garbage_is_none(value: str | None) -> None:
    """What is neither form is as if the header were not there."""
    assert parse_retry_after(value, NOW) is None


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_dates_agree_with_the_standard_library(when: datetime) -> None:
    """A date that `email.utils` writes for HTTP is waited for to the second, and never waited for less."""
    wait_ms = parse_retry_after(format_datetime(when, usegmt=True), NOW)
    second = when.replace(microsecond=0)  # far off, a float of seconds has no room for them, and rounds up
    assert wait_ms == max(0, int(second.timestamp()) * 1000 - NOW)


@given(st.text(st.characters()), st.integers(0, 4_000_000_000_000))
def test_any_text_is_read_or_none(value: str, now_ms: int) -> None:
    """No header value raises, and no wait is negative."""
    wait_ms = parse_retry_after(value, now_ms)
    assert wait_ms is None or wait_ms >= 0
