"""Knows when status checks are due: read from the table, and noted when this process commits a job.

The table is the truth: the checker reads it at least every few seconds, and when a time that it waited for has come.
What is noted saves that reading for jobs whose check is due immediately, such as a result that waits to be confirmed.
"""

import asyncio

from relay.model.job import Job

Kind = tuple[str, str | None]
"""A provider; for what waits to be confirmed, with a project."""


class CheckTimes:
    """The kinds of checks that are due now, and when the others are; times in unix milliseconds.

    `changed` is set when a check is due before `waits_until_ms`, until which the checker waits.
    """

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.waits_until_ms = 0
        self.must_read = True
        self._due: set[Kind] = set()
        self._later: dict[Kind, int] = {}

    def note(self, job: Job, now_ms: int) -> None:
        """Note when a committed job is to be checked."""
        at = job.next_check_at
        if at is None:
            return
        kind = job.provider, None if job.confirm_by is None else job.project_id
        if at <= now_ms:
            self._due.add(kind)
        else:
            self._later[kind] = min(at, self._later.get(kind, at))
        if at < self.waits_until_ms:
            self.changed.set()

    def read_soon(self) -> None:
        """Have the table read: another process has made a check due."""
        self.must_read = True
        self.changed.set()

    def begin_reading(self) -> None:
        """Forget the later times, which the table says again; what is noted from now on stays."""
        self.must_read = False
        self._later.clear()

    def add(self, kind: Kind, at: int) -> None:
        """Add a time that the table says."""
        self._later[kind] = min(at, self._later.get(kind, at))

    def of(self, provider: str) -> dict[Kind, int]:
        """Return when checks at a provider are due, by kind; 0 for what was noted as due."""
        times = {kind: at for kind, at in self._later.items() if kind[0] == provider}
        return times | {kind: 0 for kind in self._due if kind[0] == provider}

    def claim(self, kind: Kind, now_ms: int) -> bool:
        """Forget that a kind is due, because it is claimed now; return whether later ones of it may be unknown then."""
        self._due.discard(kind)
        unknown = self._later.get(kind, now_ms + 1) <= now_ms
        if unknown:
            del self._later[kind]
        return unknown

    def claimed(self, kind: Kind, *, all_of_it: bool, unknown: bool) -> None:
        """Note whether a claim got everything that was due of a kind; `unknown` is what `claim` returned."""
        if not all_of_it:
            self._due.add(kind)
        self.must_read |= unknown
