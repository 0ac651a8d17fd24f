"""Limits concurrent resources, such as streams and uploads, in total and for each project."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from relay.errors import Bound, StorageUnavailable, TooManyRequests


class Shares:
    """Counts the open resources of one kind; `what` names it in texts and settings (`…_MAX`, `…_PER_PROJECT_MAX`)."""

    def __init__(self, what: str, total_max: int, project_max: int) -> None:
        self._what = what
        self._total_max, self._project_max = total_max, project_max
        self._open: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Return the number of open resources."""
        return self._open.total()

    def check(self, project_id: str) -> None:
        """Raise TooManyRequests if the project is at its limit, StorageUnavailable if relay is."""
        if self._open[project_id] >= self._project_max:
            detail = f"this project has {self._project_max} {self._what} open, which is its limit"
            raise TooManyRequests(detail, bound=Bound(f"{self._what}_per_project_max"))
        if self.total >= self._total_max:
            detail = f"{self._total_max} {self._what} are open, which is relay's limit"
            raise StorageUnavailable(detail, bound=Bound(f"{self._what}_max"))

    @contextmanager
    def reserve(self, project_id: str) -> Iterator[None]:
        """Count one resource while the block runs; raise the errors of `check`."""
        self.check(project_id)
        self._open[project_id] += 1
        try:
            yield
        finally:
            self._open[project_id] -= 1
            if not self._open[project_id]:
                del self._open[project_id]
