"""Ids that are made by a held clock: lists find what was made at a time by its id."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from relay.model import ids


@contextmanager
def made_by(now_ms: Callable[[], int]) -> Iterator[None]:
    """Make the ids of this process by another clock, which gives unix milliseconds."""
    before, ids._counter = ids._counter, ids._Counter(now_ms)
    try:
        yield
    finally:
        ids._counter = before
