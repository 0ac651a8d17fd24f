"""Makes ids: a prefix for the type of object, and a UUIDv7, which sorts by creation time."""

import io
import os
import time
from functools import lru_cache
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no letter looks like a digit
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
        """Return the next 128 bits: unix milliseconds, then a random start that counts up within a millisecond."""
        now_ms = time.time_ns() // 1_000_000
        if now_ms > self.last >> 80:
            self.last = now_ms << 80 | self._bits(10)
        else:
            self.last += 1 + (self._bits(4) | 1)
        return self.last

    def _bits(self, size: int) -> int:
        """Return random bytes as a number; they are read from the system in blocks, which is faster."""
        drawn = self._random.read(size)
        if len(drawn) < size:
            self._random = io.BytesIO(os.urandom(1024))
            drawn = self._random.read(size)
        return int.from_bytes(drawn)


_counter = _Counter()


def new_id(prefix: str) -> str:
    """Return a new id: the prefix and 26 letters; ids of one process sort in the order they were made."""
    bits = _counter.next()
    bits = bits & ~(0xF << 76) | 0x7 << 76
    bits = bits & ~(0x3 << 62) | 0x2 << 62
    return prefix + encode(bits)


def made_at(id_: str) -> int:
    """Return when an id was made, in unix milliseconds."""
    return int.from_bytes(to_bytes(id_)[:6])


def first_at(prefix: str, at_ms: int) -> str:
    """Return a lower bound of the ids that are made from `at_ms` on."""
    return prefix + encode(max(0, at_ms) << 80)


def encode(bits: int) -> str:
    """Return 128 bits as 26 letters, which sort like the number."""
    return _ten_letters(bits >> 80) + _eight_letters(bits >> 40 & _FORTY) + _eight_letters(bits & _FORTY)


@lru_cache(64)
def _ten_letters(bits: int) -> str:
    """Return 48 bits, the time of an id, as letters; cached, because many ids share the time."""
    return _PAIRS[bits >> 40] + _eight_letters(bits & _FORTY)


def _eight_letters(bits: int) -> str:
    """Return 40 bits as letters."""
    return _PAIRS[bits >> 30] + _PAIRS[bits >> 20 & 1023] + _PAIRS[bits >> 10 & 1023] + _PAIRS[bits & 1023]


def to_bytes(an_id: str) -> bytes:
    """Return the 16 bytes of an id; raise ValueError if it is malformed."""
    letters = an_id.rpartition("_")[2]
    if len(letters) != _LETTERS or any(letter not in _VALUES for letter in letters):
        raise ValueError("not an id")
    bits = 0
    for letter in letters:
        bits = bits << 5 | _VALUES[letter]
    if bits >= 1 << 128:
        raise ValueError("not an id")
    return bits.to_bytes(16)


def from_bytes(prefix: str, raw: bytes) -> str:
    """Return the id of these 16 bytes."""
    return prefix + encode(int.from_bytes(raw))
