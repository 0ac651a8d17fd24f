"""Makes inputs of others by small changes: bytes, words that mean something to a target, and values in JSON.

Everything follows from one random generator, so a seed gives the same inputs again.
"""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

INPUT_MAX_BYTES: Final = 20_000
_BYTES: Final = (0, 9, 10, 13, 32, 34, 37, 44, 45, 48, 57, 58, 91, 92, 93, 123, 125, 127, 128, 192, 224, 237, 255)
_SCALARS: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -1, 1, 100, 2**31, 2**53, 2**63, -(2**63), 10**40, 1e308, -0.5, 1e-320),
    *("", " ", "0", "null", "\0", "\ud800", "\u202e", "é", "\U0001d54f", "a" * 300, "100%", "-1", "1e999", "NaN"),
    *("https://example.com/a.mp4", "http://127.0.0.1/a.mp4", "javascript:alert(1)", "//example.com/a.mp4"),
    *([], {}, [[]], [{}], {"": ""}),
)


class Mutator:
    """Changes an input; `words` are texts that a target reads, `pool` the inputs to mix with."""

    def __init__(self, random: Random, words: Sequence[bytes], pool: Sequence[bytes], *, structured: bool) -> None:
        self._random = random
        self._words = [*words, b""]
        self._pool = pool
        self._structured = structured
        self._edits: tuple[Callable[[bytearray], object], ...] = (
            *(self._flip, self._replace, self._insert, self._cut, self._repeat, self._word, self._word, self._mix),
        )

    def mutated(self, data: bytes) -> bytes:
        """Return the input after one to five changes."""
        random = self._random
        if self._structured and random.random() < 0.6:
            changed = self._json(data)
            if changed is not None:
                data = changed
                if random.random() < 0.8:
                    return data[:INPUT_MAX_BYTES]
        draft = bytearray(data)
        for _ in range(1 + int(5 * random.random() ** 3)):
            self._edits[random.randrange(len(self._edits))](draft)
        return bytes(draft[:INPUT_MAX_BYTES])

    def _place(self, draft: bytearray) -> int:
        """Return a place in the draft, or its end."""
        return self._random.randrange(len(draft) + 1)

    def _flip(self, draft: bytearray) -> None:
        """Flip one bit."""
        if draft:
            draft[self._random.randrange(len(draft))] ^= 1 << self._random.randrange(8)

    def _replace(self, draft: bytearray) -> None:
        """Replace a byte by another one."""
        if draft:
            draft[self._random.randrange(len(draft))] = self._byte()

    def _byte(self) -> int:
        """Return a byte, rather one that means something."""
        return self._random.choice(_BYTES) if self._random.random() < 0.6 else self._random.randrange(256)

    def _insert(self, draft: bytearray) -> None:
        """Insert a few bytes."""
        place = self._place(draft)
        draft[place:place] = bytes(self._byte() for _ in range(self._random.randrange(1, 5)))

    def _cut(self, draft: bytearray) -> None:
        """Remove a part; rarely everything behind a place."""
        place = self._place(draft)
        length = len(draft) if self._random.random() < 0.2 else self._random.randrange(1, 12)
        del draft[place : place + length]

    def _repeat(self, draft: bytearray) -> None:
        """Repeat a part up to a thousand times."""
        place = self._place(draft)
        part = draft[place : place + self._random.randrange(1, 24)]
        times = 1 + int(1000 * self._random.random() ** 6)
        draft[place:place] = part * min(times, 4_000 // (len(part) + 1) + 1)

    def _word(self, draft: bytearray) -> None:
        """Put a word in, or in the place of another part."""
        place, word = self._place(draft), self._random.choice(self._words)
        draft[place : place + (len(word) if self._random.random() < 0.5 else 0)] = word

    def _mix(self, draft: bytearray) -> None:
        """Put a part of another input in."""
        if not self._pool:
            return
        other = self._random.choice(self._pool)
        begin = self._random.randrange(len(other) + 1)
        place = self._place(draft)
        part = other[begin : begin + self._random.randrange(1, 200)]
        draft[place : place + self._random.randrange(len(part) + 1)] = part

    def _json(self, data: bytes) -> bytes | None:
        """Return the input with a change in the JSON that it ends with; None if it ends with none."""
        start = data.find(b"{")
        if start < 0:
            return None
        try:
            value = json.loads(data[start:])
        except (ValueError, RecursionError):
            return None
        for _ in range(self._random.randrange(1, 4)):
            value = self._changed(value, 0)
        try:
            return data[:start] + json.dumps(value, ensure_ascii=self._random.random() < 0.5).encode()
        except (ValueError, RecursionError):
            return None

    def _changed(self, value: Any, depth: int) -> Any:
        """Return a JSON value with one change somewhere within."""
        random = self._random
        if isinstance(value, dict) and value and random.random() < 0.85 and depth < 20:
            name = random.choice(list(value))
            match random.randrange(8):
                case 0:
                    return {other: one for other, one in value.items() if other != name}
                case 1:
                    return value | {self._name(): value[name]}
                case 2:
                    return value | {self._name(): random.choice(_SCALARS)}
                case _:
                    return value | {name: self._changed(value[name], depth + 1)}
        if isinstance(value, list) and value and random.random() < 0.85 and depth < 20:
            index = random.randrange(len(value))
            match random.randrange(5):
                case 0:
                    return value[:index] + value[index + 1 :]
                case 1:
                    return value + value[index : index + 1] * random.choice((1, 2, 30))
                case _:
                    return [*value[:index], self._changed(value[index], depth + 1), *value[index + 1 :]]
        match random.randrange(6):
            case 0:
                return [value]
            case 1:
                return {self._name(): value}
            case 2:
                return random.choice(self._words).decode("latin-1")
            case 3 if isinstance(value, str):
                place = random.randrange(len(value) + 1)
                return value[:place] + random.choice(("\0", "é", " ", "\ud800", "%00", "\\", "/../")) + value[place:]
            case _:
                return random.choice(_SCALARS)

    def _name(self) -> str:
        """Return the name of a field."""
        return self._random.choice(self._words).decode("latin-1")
