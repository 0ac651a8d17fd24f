"""Every id relay hands out: a prefix that says what it names, and a UUIDv7 that sorts by the time it was made."""

import io
import os
import time
from functools import lru_cache
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no letter that reads as a digit
_VALUES: Final = {letter: value for value, letter in enumerate(_ALPHABET)}
_LETTERS: Final = 26  # 130 bits hold the 128 of a UUID
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_FORTY: Final = (1 << 40) - 1

JOB, CALLBACK, EVENT, ENDPOINT, DELIVERY, ATTEMPT = "job_", "cb_", "evt_", "ep_", "dlv_", "att_"
PROJECT, API_KEY, CALL, PAYMENT, REDELIVERY = "prj_", "key_", "call_", "pay_", "red_"
REPROCESSING = "rep_"


class _Counter:
    """Orders ids that one process makes within one millisecond (RFC 9562 §6.2, method 2)."""

    def __init__(self) -> None:
        self.last = 0
        self._random = io.BytesIO()

    def next(self) -> int:
        """The next 128 bits: unix milliseconds, then a random start that only counts up within a millisecond."""
        now_ms = time.time_ns() // 1_000_000
        if now_ms > self.last >> 80:
            self.last = now_ms << 80 | self._bits(10)
        else:
            self.last += 1 + (self._bits(4) | 1)
        return self.last

    def _bits(self, size: int) -> int:
        """So many random bytes as a number; the system is asked for many at once."""
        taken = self._random.read(size)
        if len(taken) < size:
            self._random = io.BytesIO(os.urandom(1024))
            taken = self._random.read(size)
        return int.from_bytes(taken)


_counter = _Counter()


def new_id(prefix: str) -> str:
    """A new id such as `job_` + 26 letters; ids of one process rise in the order they were made."""
    bits = _counter.next()
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    return prefix + encode(bits)


def first_at(prefix: str, at_ms: int) -> str:
    """Return what no id that is made from then on sorts before."""
    return prefix + encode(max(0, at_ms) << 80)


def encode(bits: int) -> str:
    """128 bits as 26 letters that sort as the number does."""
    return _ten(bits >> 80) + _eight(bits >> 40 & _FORTY) + _eight(bits & _FORTY)


@lru_cache(64)
def _ten(bits: int) -> str:
    """48 bits, which are the time in an id: many ids have the same."""
    return _PAIRS[bits >> 40] + _eight(bits & _FORTY)


def _eight(bits: int) -> str:
    """40 bits."""
    return _PAIRS[bits >> 30] + _PAIRS[bits >> 20 & 1023] + _PAIRS[bits >> 10 & 1023] + _PAIRS[bits & 1023]


def to_bytes(an_id: str) -> bytes:
    """The 16 bytes behind an id; ValueError when it is not one of ours."""
    letters = an_id.rpartition("_")[2]
    if len(letters) != _LETTERS or any(letter not in _VALUES for letter in letters):
        raise ValueError("not an id")
    bits = 0
    for letter in letters:
        bits = bits << 5 | _VALUES[letter]
    return bits.to_bytes(17)[1:] if bits < 1 << 128 else _too_large()


def from_bytes(prefix: str, raw: bytes) -> str:
    """The id whose 16 bytes these are."""
    return prefix + encode(int.from_bytes(raw))


def _too_large() -> bytes:
    raise ValueError("not an id")
