"""What a fuzz target is: a rule about any bytes, the inputs to begin with, and the words that it reads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

CORPUS: Final = Path(__file__).parent / "corpus"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A rule: `check` raises for an input that breaks it, and else returns a short text that says what came of it.

    That text says how deep an input came: the random driver keeps inputs that came where none did before, and a test
    asks that some were accepted. `outcomes` are those that the seeds alone must reach. `structured` says that inputs
    are JSON, perhaps behind a few bytes that choose something.
    """

    name: str
    check: Callable[[bytes], str]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()
    structured: bool = False
    outcomes: frozenset[str] = frozenset()

    def corpus(self) -> list[bytes]:
        """Return the seeds, and the inputs of the target's folder: those that found something once."""
        folder = CORPUS / self.name
        return [*self.seeds, *(path.read_bytes() for path in sorted(folder.glob("*")))]


class Choices:
    """Draws choices from the first bytes of an input; the rest is the payload."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, end: int) -> int:
        """Return a number from 0 to `end` - 1; 0 once the bytes are used up."""
        value = self._data[self._at] if self._at < len(self._data) else 0
        self._at += 1
        return value % end

    def rest(self) -> bytes:
        """Return the bytes that no choice was drawn from."""
        return self._data[self._at :]
