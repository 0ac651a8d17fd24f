"""Things that take room for a while, such as streams: so many in all, and so many for one project."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from relay.errors import Bound, StorageUnavailable, TooManyRequests


class Shares:
    """Counts what is open of one kind; `what` names it, and its settings, `…_MAX` and `…_PER_PROJECT_MAX`."""

    def __init__(self, what: str, total_max: int, project_max: int) -> None:
        self._what = what
        self._total_max, self._project_max = total_max, project_max
        self._open: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many are open."""
        return self._open.total()

    def check(self, project_id: str) -> None:
        """TooManyRequests where the project has its share, StorageUnavailable where there is no room for anyone."""
        if self._open[project_id] >= self._project_max:
            share = f"this project has {self._project_max} {self._what} open, which is its share"
            raise TooManyRequests(share, bound=Bound(f"{self._what}_per_project_max"))
        if self.total >= self._total_max:
            most = f"{self._total_max} {self._what} are open, which is the most that relay holds"
            raise StorageUnavailable(most, bound=Bound(f"{self._what}_max"))

    @contextmanager
    def taken(self, project_id: str) -> Iterator[None]:
        """Take room for as long as the block lasts; the errors of `check` where there is none."""
        self.check(project_id)
        self._open[project_id] += 1
        try:
            yield
        finally:
            self._open[project_id] -= 1
            if not self._open[project_id]:
                del self._open[project_id]
