"""Shares slots for requests (attempts, status checks) between projects: the one with the fewest under way starts first.

One project alone may use seven of eight slots. The rest is reserved for projects with few requests under way, so that a
project whose requests are all slow does not make another wait for their answers.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heapreplace
from typing import Final, TypeVar

RESERVED_PART: Final = 8
"""One slot of eight is reserved for projects with fewer requests under way than are reserved."""
Item = TypeVar("Item")


class FairShare:
    """Counts the requests under way, in total and of each project, from their selection to their commit."""

    def __init__(self, in_flight_max: int) -> None:
        self._in_flight = 0
        self._of_project: Counter[str] = Counter()
        self.resize(in_flight_max)

    def resize(self, in_flight_max: int) -> None:
        """Change the number of slots; requests under way keep theirs."""
        self._in_flight_max = in_flight_max
        self._reserved = in_flight_max // RESERVED_PART

    @property
    def free_slots(self) -> int:
        """Return how many more requests may start."""
        return self._in_flight_max - self._in_flight

    @property
    def project_max(self) -> int:
        """Return the most slots that one project may use."""
        return self._in_flight_max - self._reserved

    def in_flight(self, project_id: str) -> int:
        """Return how many of the project's requests are under way."""
        return self._of_project[project_id]

    def may_start(self, project_id: str) -> bool:
        """Return whether the project may start another request."""
        reserved = 0 if self._of_project[project_id] < self._reserved else self._reserved
        return self.free_slots > reserved

    def start(self, project_id: str) -> None:
        """Count a request that starts."""
        self._in_flight += 1
        self._of_project[project_id] += 1

    def select(self, projects: Iterable[str], pop: Callable[[str], Item | None]) -> list[Item]:
        """Return what `pop` returns project by project, the one with the fewest under way first, each counted.

        A project is done when `pop` returns None for it, or when no slot is left that it may use.
        """
        selected: list[Item] = []
        turns = [(self._of_project[project_id], place, project_id) for place, project_id in enumerate(projects)]
        heapify(turns)
        while turns:
            _, place, project_id = turns[0]
            item = pop(project_id) if self.may_start(project_id) else None
            if item is None:
                heappop(turns)
                continue
            self.start(project_id)
            selected.append(item)
            heapreplace(turns, (self._of_project[project_id], place, project_id))
        return selected

    def release(self, project_id: str) -> None:
        """Count a request that has ended."""
        self._in_flight -= 1
        self._of_project[project_id] -= 1
        if not self._of_project[project_id]:
            del self._of_project[project_id]
