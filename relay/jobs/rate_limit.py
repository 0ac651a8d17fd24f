"""Limits status checks: how many run concurrently and start per second, and none while a provider wants a pause."""

import math
from collections import Counter, OrderedDict
from collections.abc import Collection
from typing import Final

from relay.errors import Bound, TooManyRequests
from relay.security.fair_share import FairShare

REMEMBERED_MAX: Final = 10_000
"""How many jobs and projects relay remembers the latest requested checks of."""
MINUTE_MS: Final = 60_000
PAUSE_MS: Final = 30_000
"""The pause after a 429 without Retry-After."""
PAUSE_MAX_MS: Final = 600_000
KEY_PAUSE_MS: Final = 60_000
"""The pause after a refused API key."""
GROWN_PAUSE_MS: Final = 1_000
"""The pause after a 429 without Retry-After while the pace is a grown one, which the 429 halves."""
QUICK_MS: Final = 1_000
"""An answer within this time lets the pace of confirmations grow."""
CALM_MS: Final = 60_000
"""After so long without a check that had to wait, confirmations start at their first pace again."""
STEP_MS: Final = 100
"""At a grown pace as many checks start together as it allows in this time: claims and answers share transactions."""


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
        return max(now_ms, self._paused_until, int(self._opens_for(1)) + 1)

    def _opens_for(self, checks: int) -> float:
        """Return when so many checks may start by the pace alone."""
        return self._paid_until - (self._in_flight_max - checks) * self._interval_ms

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


class GrowingPace(Pace):
    """Limits the confirmations at one provider, and shares them between projects; times are monotonic milliseconds.

    It begins as a `Pace` of these limits. While more waits than may start, it doubles both after half as many quick
    answers in succession as may run concurrently, up to `per_s_max` a second; a failure (no answer, 429, 5xx) halves
    them. `finished`, `started` and the pauses are those of `Pace`.
    """

    def __init__(self, in_flight_max: int, per_s: float, per_s_max: float) -> None:
        super().__init__(in_flight_max, per_s)
        self._first = (in_flight_max, per_s)
        self._factor_max = max(1.0, per_s_max / per_s)
        self._factor = 1.0
        self._quick_answers = 0
        self._halved_at = 0
        self._scarce_at: int | None = None
        self._share = FairShare(in_flight_max)
        self._last_project = ""

    @property
    def grown(self) -> bool:
        """Return whether the pace is above the one it began with."""
        return self._factor > 1

    def grant(self, projects: Collection[str], now_ms: int) -> Counter[str]:
        """Return how many checks of each project may start now; each project has its turn, wherever it waits."""
        if self._scarce_at is not None and now_ms - self._scarce_at > CALM_MS:
            self._scale(1.0)
        opens_at = self.opens_at(now_ms)
        left = self.room(now_ms) if opens_at is not None and opens_at <= now_ms else 0
        order = sorted(projects)
        later = [project for project in order if project > self._last_project]

        def pop(project: str) -> str | None:
            nonlocal left
            left -= 1
            return project if left >= 0 else None

        granted = self._share.select(later + order[: len(order) - len(later)], pop)
        for project in granted:  # `start` counts those that are claimed
            self._share.release(project)
        return Counter(granted)

    def may_start(self, project: str) -> bool:
        """Return whether the project may have another check under way, whatever the pace."""
        return self._share.may_start(project)

    def start(self, project: str, now_ms: int) -> None:
        """Count a project's check that begins."""
        self.started(now_ms)
        self._share.start(project)
        self._last_project = project

    def finish(self, project: str) -> None:
        """Count a project's check that has ended."""
        self.finished()
        self._share.release(project)

    def note_scarcity(self, scarce: bool, now_ms: int) -> None:
        """Note whether more waited than could start: only then the pace grows."""
        self._scarce_at = now_ms if scarce else self._scarce_at
        self._quick_answers = self._quick_answers if scarce else 0

    def answered(self, started_at: int, now_ms: int, *, failed: bool) -> None:
        """Adapt the pace to a check's end; of the failures that began before a halving only the first one counts."""
        if failed:
            self._quick_answers = 0
            if started_at >= self._halved_at:
                self._halved_at = now_ms
                self._scale(max(1.0, self._factor / 2))
        elif now_ms - started_at > QUICK_MS or self._scarce_at is None:
            self._quick_answers = 0
        else:
            self._quick_answers += 1
            if self._quick_answers * 2 >= self._in_flight_max:
                self._scale(min(self._factor_max, self._factor * 2))

    def opens_at(self, now_ms: int) -> int | None:
        """Return when the next checks may start, at a grown pace several together; None as in `Pace`."""
        opens_at = super().opens_at(now_ms)
        together = min(int(STEP_MS / self._interval_ms), self._in_flight_max - self._in_flight)
        if opens_at is None or together <= 1 or self.room(now_ms) >= together:
            return opens_at
        return max(opens_at, int(self._opens_for(together)) + 1)

    def _scale(self, factor: float) -> None:
        """Multiply the first limits by a factor."""
        in_flight_max, per_s = self._first
        self._factor, self._quick_answers = factor, 0
        self._in_flight_max = round(in_flight_max * factor)
        self._interval_ms = 1000 / (per_s * factor)
        self._share.resize(self._in_flight_max)


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
