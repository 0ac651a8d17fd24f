"""Decides when relay announces that a job's result will soon expire: pure functions, as in `lifecycle/reports.py`.

The time is a timer in the job's row. A result sets it, another result sets it anew, and the announcement clears it. A
result that has expired already, because relay was not running, is not announced.
"""

from collections.abc import Iterable

import msgspec

from relay.clock import parse_rfc3339
from relay.lifecycle.reports import Transition
from relay.model.archive import CopyState
from relay.model.job import Disposition, EventType, Job, Output


def due_at(outputs: Iterable[Output], now_ms: int, before_ms: int) -> int | None:
    """Return when to announce: `before_ms` before the first output expires, but not in the first half of its time left.

    Returns None where no output will expire, or `before_ms` is 0.
    """
    ahead = _ahead(outputs, now_ms) if before_ms else []
    if not ahead:
        return None
    left_ms = min(ahead) - now_ms
    return now_ms + max(left_ms - before_ms, left_ms // 2)


def announce(job: Job, now_ms: int, *, enabled: bool) -> Transition:
    """Return the job announced once its timer has run out; `stale` where it has not, or nothing will expire."""
    if job.expiring_at is None or job.expiring_at > now_ms:
        return Transition(job, Disposition.STALE, "the expiry of its result is announced already, or not due")
    job = msgspec.structs.replace(job, expiring_at=None)
    if not enabled:
        return Transition(job, Disposition.STALE, "announcements of expiring results are switched off")
    kept = [output for output in job.outputs if output.archive and output.archive.state is CopyState.ARCHIVED]
    if kept and len(kept) == len(job.outputs):
        return Transition(job, Disposition.STALE, "its result is archived")
    if not _ahead(job.outputs, now_ms):
        return Transition(job, Disposition.STALE, "its result has expired already")
    return Transition(job, Disposition.RECORDED, "its result will soon expire", EventType.JOB_OUTPUT_EXPIRING)


def first_at(outputs: Iterable[Output], now_ms: int) -> int | None:
    """Return when the first of the outputs expires after `now_ms`, in unix milliseconds; None if none does."""
    return min(_ahead(outputs, now_ms), default=None)


def _ahead(outputs: Iterable[Output], now_ms: int) -> list[int]:
    """Return the times, in unix milliseconds, at which outputs will expire."""
    times = (parse_rfc3339(output.expires_at) for output in outputs if output.expires_at is not None)
    return [at for at in times if at > now_ms]
