"""A mapping whose names are known and whose values are made at their first use, so that a start makes only some."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class LazyMapping(Mapping[str, T]):
    """Values by name; `makers` has a function for each, which is called once. To read every value makes all of them."""

    def __init__(self, makers: Mapping[str, Callable[[], T]]) -> None:
        self._makers = makers
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        """Return a value; KeyError for an unknown name."""
        if (made := self._made.get(name)) is None:
            made = self._made[name] = self._makers[name]()
        return made

    def __contains__(self, name: object) -> bool:
        """Return whether the name is known, without making its value."""
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in their order."""
        return iter(self._makers)

    def __len__(self) -> int:
        """Return how many names there are."""
        return len(self._makers)
