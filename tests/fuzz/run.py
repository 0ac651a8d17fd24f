"""Runs a target for a time: mutates inputs that came to a new outcome, and keeps those that broke the rule.

A run follows from its seed. `atheris` is used in its place where it is installed and asked for (`bench/fuzz.py`).
"""

import time
import traceback
from collections.abc import Iterator
from random import Random
from typing import Final

import msgspec

from tests.fuzz.mutating import Mutator
from tests.fuzz.target import Target

POOL_MAX: Final = 500
_BATCH: Final = 200
"""Inputs between two readings of the clock."""


class Broken(msgspec.Struct, frozen=True):
    """An input that broke a rule, and how."""

    data: bytes
    error: str


class Outcome(msgspec.Struct, kw_only=True):
    """What a run found: inputs tried, how many came to each outcome, and those that broke the rule, one for a place."""

    tried: int = 0
    outcomes: dict[str, int] = msgspec.field(default_factory=dict)
    broken: dict[str, Broken] = msgspec.field(default_factory=dict)


def run(target: Target, seed: int, seconds: float, tries_max: int) -> Outcome:
    """Return what a run found; it ends at the time or at the number of inputs, whichever is first.

    Inputs that come to a rare outcome are mutated further, so that most are not refused at their first byte.
    """
    random, found = Random(f"{target.name}.{seed}"), Outcome()
    pool = target.corpus()
    mutator = Mutator(random, target.words, pool, structured=target.structured)
    ends_at = time.monotonic() + seconds
    for data in _inputs(random, pool, mutator):
        if found.tried >= tries_max or (found.tried % _BATCH == 0 and time.monotonic() > ends_at):
            return found
        found.tried += 1
        try:
            said = target.check(data)
        except Exception as error:  # noqa: BLE001 - every error is a finding
            place = _place(error)
            found.broken.setdefault(place, Broken(data, f"{type(error).__name__}: {error}"[:500]))
            continue
        if said not in found.outcomes:
            _keep(random, pool, data)
        found.outcomes[said] = found.outcomes.get(said, 0) + 1
        if random.random() < 0.02 and 4 * found.outcomes[said] < found.tried:
            _keep(random, pool, data)
    return found


def _inputs(random: Random, pool: list[bytes], mutator: Mutator) -> Iterator[bytes]:
    """Yield the inputs to begin with, then changed ones for ever; some are changed many times in a row."""
    yield from list(pool)
    while True:
        data = random.choice(pool)
        for _ in range(random.choice((1, 1, 1, 4))):
            data = mutator.mutated(data)
            yield data


def _keep(random: Random, pool: list[bytes], data: bytes) -> None:
    """Add an input to those that are mutated, in the place of another one if there are enough."""
    if len(pool) < POOL_MAX:
        pool.append(data)
    else:
        pool[random.randrange(len(pool))] = data


def _place(error: BaseException) -> str:
    """Return where an error was raised: equal errors are shown once."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename.rpartition('/')[2]}:{frame.lineno}"
