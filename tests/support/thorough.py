"""How much a run of the tests tries: CI plays every seed and measures with every load, a developer's run plays some."""

import os
from collections.abc import Sequence
from typing import Final, TypeVar

THOROUGH: Final = bool(os.environ.get("CI"))

T = TypeVar("T")


def played(cases: Sequence[T], count: int) -> Sequence[T]:
    """Return all of the cases in CI, and elsewhere as many of the first."""
    return cases if THOROUGH else cases[:count]
