"""The order of the tests where several processes share them: what takes long is spread over all of them.

pytest-xdist gives each worker a run of the list. A worker that had the seeds of faults or the benchmarks to itself
would play one after the other while the rest has nothing left to do; all of them at once are more than two cores run.
"""

from collections.abc import Sequence
from typing import Final

import pytest

LONG: Final = (
    "test_chaos.py",
    "test_benches.py",
    "test_contract_changes.py",
    "test_random_walk.py",
    "test_recovery.py",
)
"""Files whose tests take long each, and need nothing that they could share with each other."""
EARLY: Final = 0.75
"""The part of each run, from its beginning, that what takes long is spread over: the end is for what is short."""


def spread(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Return the items as a run for each worker, with its part of what takes long between the files of the others.

    The others keep their order.
    """
    long = [item for item in items if item.path.name in LONG]
    others = [item for item in items if item.path.name not in LONG]
    made: list[pytest.Item] = []
    begin = 0
    for worker in range(workers):
        mine = long[worker::workers]
        end = begin + max(0, len(items) * (worker + 1) // workers - len(made) - len(mine))
        made += _between_files(mine, others[begin:end])
        begin = min(end, len(others))
    return made


def _between_files(long: Sequence[pytest.Item], others: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the run with each long item at the first change of files behind its even place."""
    made: list[pytest.Item] = []
    waiting = list(long)
    step = EARLY * len(others) / max(1, len(long))
    for place, item in enumerate(others):
        changes = place == 0 or item.path != others[place - 1].path
        while changes and waiting and place >= step * (len(long) - len(waiting)):
            made.append(waiting.pop(0))
        made.append(item)
    return made + waiting
