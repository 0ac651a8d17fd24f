"""Limits status checks: how many run concurrently and start per second, and none while a provider wants a pause."""

import math
from collections import OrderedDict
from typing import Final

from relay.errors import Bound, TooManyRequests

REMEMBERED_MAX: Final = 10_000
"""How many jobs and projects relay remembers the latest requested checks of."""
MINUTE_MS: Final = 60_000
PAUSE_MS: Final = 30_000
"""The pause after a 429 without Retry-After."""
PAUSE_MAX_MS: Final = 600_000
KEY_PAUSE_MS: Final = 60_000
"""The pause after a refused API key."""


class Pace:
    """Limits the status checks at one provider; times are monotonic milliseconds."""

    def __init__(self, in_flight_max: int, per_s: float) -> None:
        self._in_flight_max = in_flight_max
        self._interval_ms = 1000 / per_s
        self._in_flight = 0
        self._paid_until = 0.0
        self._paused_until = 0

    def room(self, now_ms: int) -> int:
        """Return how many checks may start now; after a quiet second as many as may run concurrently."""
        if self.paused(now_ms):
            return 0
        saved_ms = now_ms + self._in_flight_max * self._interval_ms - max(self._paid_until, now_ms)
        return max(0, min(self._in_flight_max - self._in_flight, int(saved_ms / self._interval_ms + 1e-6)))

    def paused(self, now_ms: int) -> bool:
        """Return whether the provider has to be left alone."""
        return now_ms < self._paused_until

    def opens_at(self, now_ms: int) -> int | None:
        """Return when the next check may start; None while only the end of a check frees a slot."""
        if self._in_flight >= self._in_flight_max:
            return None
        burst_ms = (self._in_flight_max - 1) * self._interval_ms
        return max(now_ms, self._paused_until, int(self._paid_until - burst_ms) + 1)

    def started(self, now_ms: int) -> None:
        """Count a check that begins."""
        self._in_flight += 1
        self._paid_until = max(self._paid_until, now_ms) + self._interval_ms

    def finished(self) -> None:
        """Count a check that has ended."""
        self._in_flight -= 1

    def pause(self, until_ms: int, now_ms: int) -> int:
        """Start no check before `until_ms`, at most ten minutes from now; return when the pause ends."""
        self._paused_until = max(self._paused_until, min(until_ms, now_ms + PAUSE_MAX_MS))
        return self._paused_until


class AskedPace:
    """Limits the status checks that clients request: so many a minute for each job, and for each project."""

    def __init__(self, per_job: int, per_project: int) -> None:
        self._per_minute = {"job": per_job, "project": per_project}
        self._paid_until: OrderedDict[tuple[str, str], float] = OrderedDict()

    def check(self, job_id: str, project_id: str, now_ms: int) -> None:
        """Raise TooManyRequests if the job or its project has used up its checks at a monotonic time; count nothing."""
        for (kind, _), until_ms in self._asked(job_id, project_id, now_ms).items():
            if (late_ms := until_ms - now_ms - MINUTE_MS) > 0:
                share = f"{self._per_minute[kind]} status checks a minute"
                raise TooManyRequests(
                    f"one {kind} may be asked about by {share}",
                    math.ceil(late_ms / 1000),
                    bound=Bound(f"checks_asked_per_{kind}"),
                )

    def ask(self, job_id: str, project_id: str, now_ms: int) -> None:
        """Count a client's request at a monotonic time; TooManyRequests as in `check`, and then nothing is counted."""
        self.check(job_id, project_id, now_ms)
        for key, until_ms in self._asked(job_id, project_id, now_ms).items():
            self._paid_until[key] = until_ms
            self._paid_until.move_to_end(key)
        while len(self._paid_until) > REMEMBERED_MAX:
            self._paid_until.popitem(last=False)

    def _asked(self, job_id: str, project_id: str, now_ms: int) -> dict[tuple[str, str], float]:
        """Return until when one more check would use up each limit; a job counts within its project alone."""
        keys = (("job", f"{project_id} {job_id}"), ("project", project_id))
        return {key: self._paid(key, now_ms) for key in keys}

    def _paid(self, key: tuple[str, str], now_ms: int) -> float:
        """Return until when the checks are used up after one more, at the usual rate."""
        return max(self._paid_until.get(key, 0.0), now_ms) + MINUTE_MS / self._per_minute[key[0]]
