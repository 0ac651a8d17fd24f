"""When it is told that a job's result will soon be gone: pure functions, as in `lifecycle/reports.py`.

The time is a timer in the job's row. It is set where a result is heard, moved where another one is, and off once it was
told; a result that is gone by then, since relay was not running, is not told of any more.
"""

from collections.abc import Iterable

import msgspec

from relay.clock import parse_rfc3339
from relay.lifecycle.reports import Move
from relay.model.job import EventType, Job, Output, Verdict


def due_at(outputs: Iterable[Output], now_ms: int, before_ms: int) -> int | None:
    """When to tell: so long before the first output expires, but not in the first half of the time it has from now.

    None where no output will expire, or `before_ms` is 0.
    """
    ahead = _ahead(outputs, now_ms) if before_ms else []
    if not ahead:
        return None
    left_ms = min(ahead) - now_ms
    return now_ms + max(left_ms - before_ms, left_ms // 2)


def told(job: Job, now_ms: int, before_ms: int) -> Move:
    """The timer has run out: announced, this once; `stale` where it has not, or there is nothing to announce."""
    if job.expiring_at is None or job.expiring_at > now_ms:
        return Move(job, Verdict.STALE, "that its result expires is told already, or not due")
    job = msgspec.structs.replace(job, expiring_at=None)
    if not before_ms:
        return Move(job, Verdict.STALE, "that results expire is not to be told")
    if not _ahead(job.outputs, now_ms):
        return Move(job, Verdict.STALE, "its result has expired already")
    return Move(job, Verdict.RECORDED, "its result will soon expire", EventType.JOB_OUTPUT_EXPIRING)


def _ahead(outputs: Iterable[Output], now_ms: int) -> list[int]:
    """The times at which outputs expire, as far as they are still to come."""
    times = (parse_rfc3339(output.expires_at) for output in outputs if output.expires_at is not None)
    return [at for at in times if at > now_ms]
