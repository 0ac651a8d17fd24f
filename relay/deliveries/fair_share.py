"""The room for attempts that all projects share: whoever has the fewest under way comes first.

One project alone may use nearly all of it. The rest is kept for projects that have little under way, so that one whose
receivers are all slow does not make another wait until they have answered.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heapreplace
from typing import Final, TypeVar

KEPT_PART: Final = 8
"""One in eight is kept for projects with fewer than that under way."""
Item = TypeVar("Item")


class FairRoom:
    """How many attempts are under way, in all and of each project."""

    def __init__(self, in_flight_max: int) -> None:
        self._in_flight_max = in_flight_max
        self._kept = in_flight_max // KEPT_PART
        self._in_flight = 0
        self._of: Counter[str] = Counter()

    @property
    def room(self) -> int:
        """How many more may be under way, from their choice to their commit."""
        return self._in_flight_max - self._in_flight

    @property
    def alone(self) -> int:
        """The most that one project may have under way, were it the only one."""
        return self._in_flight_max - self._kept

    def of(self, project_id: str) -> int:
        """How many of a project's are under way."""
        return self._of[project_id]

    def may_start(self, project_id: str) -> bool:
        """Whether the project may begin another one."""
        kept = 0 if self._of[project_id] < self._kept else self._kept
        return self.room > kept

    def started(self, project_id: str) -> None:
        """Count one that begins."""
        self._in_flight += 1
        self._of[project_id] += 1

    def ended(self, project_id: str) -> None:
        """Count one that has ended."""
        self._in_flight -= 1
        self._of[project_id] -= 1
        if not self._of[project_id]:
            del self._of[project_id]

    def chosen(self, projects: Iterable[str], take: Callable[[str], Item | None]) -> list[Item]:
        """Return what `take` gives project by project, the one with the fewest under way first, each counted.

        A project is done when `take` gives None for it, or when there is no more room that it may use.
        """
        found: list[Item] = []
        turns = [(self._of[project_id], place, project_id) for place, project_id in enumerate(projects)]
        heapify(turns)
        while turns:
            _, place, project_id = turns[0]
            item = take(project_id) if self.may_start(project_id) else None
            if item is None:
                heappop(turns)
                continue
            self.started(project_id)
            found.append(item)
            heapreplace(turns, (self._of[project_id], place, project_id))
        return found
