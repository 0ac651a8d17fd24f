"""Whose turn it is: the lanes in which deliveries wait, and the next ones to attempt, however many lanes there are.

The project with the fewest attempts under way starts first (`fair_share`), and the one that waits longest of several.
Its lanes follow each other. A lane that may start nothing, since its breaker, a pause, its rate or its own limit delays
it, is not examined until that may have changed, so a turn costs what it starts, not what waits.

Times are monotonic milliseconds. Nothing here is sent or stored.
"""

from collections import Counter, OrderedDict
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from relay.deliveries.lane import Lane, QueuedDelivery
from relay.security.fair_share import FairShare

PROVEN_PART: Final = 4
"""One slot of four is reserved, within a project, for endpoints whose last attempt succeeded."""
STALE_ALARMS_MAX: Final = 1000
"""So many alarms that count no longer are kept, beside one for each lane, before they are all removed."""


class _Project:
    """The lanes of a project that may start something, each with the number of its turn, in two lists.

    The lanes of each list follow each other as they came to it. A lane that goes from one list to the other keeps its
    number, which may be the lowest, but comes after those that are there: each of them starts one delivery before it.
    """

    __slots__ = ("id", "level", "proven", "unproven")

    def __init__(self, project_id: str) -> None:
        self.id = project_id
        self.level: int | None = None
        """Under how many attempts it is listed; None while it is not."""
        self.proven: OrderedDict[Lane, int] = OrderedDict()
        self.unproven: OrderedDict[Lane, int] = OrderedDict()

    def first(self, *, unproven: bool) -> Lane | None:
        """Return the lane whose turn it is, of those that are proven alone unless `unproven` ones may start too."""
        one, other = next(iter(self.proven), None), next(iter(self.unproven), None) if unproven else None
        if one is None or other is None:
            return one or other
        return one if self.proven[one] < self.unproven[other] else other

    def remove(self, lane: Lane) -> int:
        """Remove a lane, and return the number of its turn; -1 if it had none."""
        return max(self.proven.pop(lane, -1), self.unproven.pop(lane, -1))


class Turns:
    """The lanes with waiting deliveries, and the slots of `share` for their attempts."""

    def __init__(self, share: FairShare, in_flight_max: int) -> None:
        self._share = share
        self._unproven_max = in_flight_max - in_flight_max // PROVEN_PART
        self._unproven: Counter[str] = Counter()
        """How many of each project's attempts under way are to endpoints whose attempt before had not succeeded."""
        self._projects: dict[str, _Project] = {}
        self._levels: dict[int, OrderedDict[_Project, None]] = {}
        """The projects that may start something, by how many attempts they have under way."""
        self._alarm_of: dict[Lane, int] = {}
        """When each lane in which something waits is examined next: it opens then, or a lease expires."""
        self._alarms: list[tuple[int, int, Lane]] = []
        """A heap with an alarm for each of those lanes, and with some that were replaced by an earlier one."""
        self._numbers = count()

    @property
    def next_ms(self) -> int | None:
        """Return when `expire` is to be called next; None while nothing waits."""
        while self._alarms and self._alarm_of.get(self._alarms[0][2]) != self._alarms[0][0]:
            heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    def clear(self) -> None:
        """Forget all that waits, so that nothing more starts."""
        self._projects.clear()
        self._levels.clear()
        self._alarm_of.clear()
        self._alarms.clear()

    def offer(self, lane: Lane, now_ms: int) -> None:
        """Give a lane its turn: it has got a delivery, or one of its limits may have changed."""
        if not lane.queued:
            return
        opens_at_ms = lane.opens_at_ms(now_ms)
        if opens_at_ms <= now_ms:
            self._list(lane)
        self._set_alarm(lane, now_ms, opens_at_ms)

    def expire(self, now_ms: int) -> list[QueuedDelivery]:
        """Remove and return the deliveries whose lease became too short for an attempt, and open lanes that are due."""
        expired: list[QueuedDelivery] = []
        while self._alarms and self._alarms[0][0] <= now_ms:
            at_ms, _, lane = heappop(self._alarms)
            if self._alarm_of.get(lane) != at_ms:
                continue
            del self._alarm_of[lane]
            expired += lane.pop_expired(now_ms)
            if lane.queued:
                self.offer(lane, now_ms)
            else:
                self._withdraw(lane)
        return expired

    def select(self, now_ms: int) -> list[QueuedDelivery]:
        """Return the next deliveries to attempt, counted as in flight, as many as there are slots for."""
        selected: list[QueuedDelivery] = []
        while self._levels:
            project = next(iter(self._levels[min(self._levels)]))
            if not self._share.may_start(project.id):
                break  # nor may any other, since none has fewer attempts under way
            queued = self._pop(project, now_ms)
            self._unlist(project)
            if queued is not None:
                selected.append(queued)
                self._share.start(project.id)
            if project.proven or (project.unproven and queued is not None):
                self._relist(project)
            elif not project.unproven:
                del self._projects[project.id]
        return selected

    def release(self, queued: QueuedDelivery, now_ms: int) -> None:
        """Free the slot of an attempt that has ended or did not start."""
        lane = queued.lane
        self._share.release(lane.project_id)
        if queued.unproven:
            self._unproven[lane.project_id] -= 1
            if not self._unproven[lane.project_id]:
                del self._unproven[lane.project_id]
        lane.leave(queued)
        if (project := self._projects.get(lane.project_id)) is not None:
            self._unlist(project)
            self._relist(project)
        self.offer(lane, now_ms)

    def _pop(self, project: _Project, now_ms: int) -> QueuedDelivery | None:
        """Return the project's next delivery; None where none of its lanes may start one."""
        while True:
            unproven = self._unproven[project.id] < self._unproven_max
            lane = project.first(unproven=unproven)
            if lane is None:
                return None
            number = project.remove(lane)
            if not (lane.proven or unproven):  # it has just failed, and was listed as proven
                project.unproven[lane] = number
                continue
            queued = lane.pop(now_ms)
            if queued is not None:
                break
            self._set_alarm(lane, now_ms, lane.opens_at_ms(now_ms))
        queued.unproven = not lane.proven
        if queued.unproven:
            self._unproven[project.id] += 1
        if lane.queued:
            self.offer(lane, now_ms)
        else:
            self._alarm_of.pop(lane, None)
        return queued

    def _list(self, lane: Lane) -> None:
        """Put a lane among those of its project that may start something; one that is there keeps its turn."""
        project = self._projects.get(lane.project_id)
        if project is None:
            project = self._projects[lane.project_id] = _Project(lane.project_id)
        lanes, others = (project.proven, project.unproven) if lane.proven else (project.unproven, project.proven)
        if lane not in lanes:
            number = others.pop(lane, None)
            lanes[lane] = next(self._numbers) if number is None else number
        if project.level is None:
            self._relist(project)

    def _withdraw(self, lane: Lane) -> None:
        """Remove a lane in which nothing waits any more."""
        if (project := self._projects.get(lane.project_id)) is not None:
            project.remove(lane)
            if not (project.proven or project.unproven):
                self._unlist(project)
                del self._projects[project.id]

    def _relist(self, project: _Project) -> None:
        """List a project as the last of those with as many attempts under way."""
        project.level = self._share.in_flight(project.id)
        self._levels.setdefault(project.level, OrderedDict())[project] = None

    def _unlist(self, project: _Project) -> None:
        """Remove a project from the list."""
        if project.level is not None:
            projects = self._levels[project.level]
            del projects[project]
            if not projects:
                del self._levels[project.level]
            project.level = None

    def _set_alarm(self, lane: Lane, now_ms: int, opens_at_ms: int) -> None:
        """Look at a lane when its next lease expires, or when it opens if that is earlier, unless that is planned."""
        at_ms = lane.expires_at_ms()
        assert at_ms is not None  # a delivery waits in it
        if now_ms < opens_at_ms < at_ms:
            at_ms = opens_at_ms
        planned_ms = self._alarm_of.get(lane)
        if planned_ms is not None and planned_ms <= at_ms:
            return
        if len(self._alarms) > 2 * len(self._alarm_of) + STALE_ALARMS_MAX:
            self._alarms = [alarm for alarm in self._alarms if self._alarm_of.get(alarm[2]) == alarm[0]]
            heapify(self._alarms)
        self._alarm_of[lane] = at_ms
        heappush(self._alarms, (at_ms, next(self._numbers), lane))
