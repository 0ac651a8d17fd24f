"""Computes delays: between delivery attempts (schedule, jitter, Retry-After) and between status checks."""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

# The delays that Standard Webhooks recommends: 75.5 hours from the first attempt to the last, longer than a weekend.
DEFAULT_SCHEDULE_S: Final = (0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400)
RETRY_AFTER_MAX_MS: Final = 86_400_000
CHECK_MAX_MS: Final = 600_000
CHECK_MARGIN: Final = 1.5  # the first status check is this many times the provider's own estimate after the submission

_JITTER_DIVISOR = 5  # a fifth: 20 %
_SECONDS: Final = re.compile(r"(-?)0*([0-9]{1,12})")
_VALUE_CHARS_MAX = 64
# RFC 9110 §5.6.7: the current form, and two obsolete ones that must still be accepted.
_DATES: Final = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


def next_delay_ms(
    schedule_s: Sequence[int], attempts_made: int, random: Callable[[], float], retry_after_ms: int | None = None
) -> int | None:
    """Return the milliseconds until the next attempt, None after the schedule's last one.

    Entry i of the schedule is the delay before attempt i + 1, plus or minus 20 %. Retry-After, capped at 24 hours, can
    only make the delay longer, and has only positive jitter: an endpoint is never called earlier than it asked.
    """
    if attempts_made >= len(schedule_s):
        return None
    delay_ms = schedule_s[attempts_made] * 1000
    spread_ms = delay_ms // _JITTER_DIVISOR
    scheduled_ms = delay_ms - spread_ms + int(2 * spread_ms * random())
    if retry_after_ms is None or retry_after_ms <= scheduled_ms:
        return scheduled_ms
    requested_ms = min(retry_after_ms, RETRY_AFTER_MAX_MS)
    return max(scheduled_ms, requested_ms + int(requested_ms // _JITTER_DIVISOR * random()))


def check_delay_ms(first_s: float, checks_made: int) -> int:
    """Return the milliseconds until the next status check: `first_s`, doubled by each check, at most ten minutes."""
    return min(int(first_s * 1000) << min(checks_made, 20), max(CHECK_MAX_MS, int(first_s * 1000)))


def parse_retry_after(value: str | None, now_ms: int) -> int | None:
    """Return the milliseconds of a Retry-After header (RFC 9110 §10.2.3), seconds or date; None if it is malformed."""
    if value is None:
        return None
    text = value.strip(" \t")
    if not text.isascii() or len(text) > _VALUE_CHARS_MAX:
        return None
    if seconds := _SECONDS.fullmatch(text):
        return 0 if seconds[1] else int(seconds[2]) * 1000
    for form in _DATES:
        try:
            at = datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return max(0, int(at.timestamp()) * 1000 - now_ms)
    return None
