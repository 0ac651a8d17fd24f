"""How fast a provider is asked: so many checks at once, so many a second, and none while it asks for a pause."""

import math
from collections import OrderedDict

from relay.errors import TooManyRequests

REMEMBERED_MAX = 10_000
"""Of so many jobs and projects it is remembered when they were last asked about."""
MINUTE_MS = 60_000

PAUSE_MS = 30_000
"""How long a provider is left alone that answers 429 and does not say for how long."""
PAUSE_MAX_MS = 600_000
KEY_PAUSE_MS = 60_000


class Pace:
    """The room for status checks at one provider; times are monotonic milliseconds."""

    def __init__(self, in_flight_max: int, per_s: float) -> None:
        self._in_flight_max = in_flight_max
        self._interval_ms = 1000 / per_s
        self._in_flight = 0
        self._paid_until = 0.0
        self._paused_until = 0

    def room(self, now_ms: int) -> int:
        """How many checks may start now; after a quiet second as many as may be under way at once."""
        if now_ms < self._paused_until:
            return 0
        saved_ms = now_ms + self._in_flight_max * self._interval_ms - max(self._paid_until, now_ms)
        return max(0, min(self._in_flight_max - self._in_flight, int(saved_ms / self._interval_ms + 1e-6)))

    def opens_at(self, now_ms: int) -> int | None:
        """When there is room again by the passing of time; None while only the end of a check makes room."""
        if self._in_flight >= self._in_flight_max:
            return None
        burst_ms = (self._in_flight_max - 1) * self._interval_ms
        return max(now_ms, self._paused_until, int(self._paid_until - burst_ms) + 1)

    def started(self, now_ms: int) -> None:
        """A check has begun."""
        self._in_flight += 1
        self._paid_until = max(self._paid_until, now_ms) + self._interval_ms

    def finished(self) -> None:
        """A check has ended."""
        self._in_flight -= 1

    def pause(self, until_ms: int, now_ms: int) -> int:
        """Nothing is asked before then, ten minutes at most; when that is."""
        self._paused_until = max(self._paused_until, min(until_ms, now_ms + PAUSE_MAX_MS))
        return self._paused_until


class AskedPace:
    """How often clients may ask for status checks: so many a minute for each job, and for each project."""

    def __init__(self, per_job: int, per_project: int) -> None:
        self._per_minute = {"job": per_job, "project": per_project}
        self._paid_until: OrderedDict[tuple[str, str], float] = OrderedDict()

    def check(self, job_id: str, project_id: str, now_ms: int) -> None:
        """TooManyRequests where the job or its project has had its share by a monotonic time; nothing is noted."""
        for (kind, _), until_ms in self._asked(job_id, project_id, now_ms).items():
            if (late_ms := until_ms - now_ms - MINUTE_MS) > 0:
                share = f"{self._per_minute[kind]} status checks a minute"
                raise TooManyRequests(f"one {kind} may be asked about by {share}", math.ceil(late_ms / 1000))

    def ask(self, job_id: str, project_id: str, now_ms: int) -> None:
        """Note that a client asks at a monotonic time; TooManyRequests as in `check`, and then nothing is noted."""
        self.check(job_id, project_id, now_ms)
        for key, until_ms in self._asked(job_id, project_id, now_ms).items():
            self._paid_until[key] = until_ms
            self._paid_until.move_to_end(key)
        while len(self._paid_until) > REMEMBERED_MAX:
            self._paid_until.popitem(last=False)

    def _asked(self, job_id: str, project_id: str, now_ms: int) -> dict[tuple[str, str], float]:
        """Return until when one more would be paid for, for each share; an id means a job of this project alone."""
        keys = (("job", f"{project_id} {job_id}"), ("project", project_id))
        return {key: self._paid(key, now_ms) for key in keys}

    def _paid(self, key: tuple[str, str], now_ms: int) -> float:
        """Until when one more would be paid for, at the usual rate."""
        return max(self._paid_until.get(key, 0.0), now_ms) + MINUTE_MS / self._per_minute[key[0]]
