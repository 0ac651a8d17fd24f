"""Makes ids: a prefix for the type of object, and a UUIDv7, which sorts by creation time."""

import os
import struct
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32: no letter looks like a digit
_VALUES: Final = {letter: value for value, letter in enumerate(_ALPHABET)}
_LETTERS: Final = 26  # 130 bits hold the 128 of a UUID
_PAIRS: Final = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_FORTY: Final = (1 << 40) - 1
_COUNTED: Final = (1 << 22) - 1
_BLOCK: Final = struct.Struct("256I")

JOB, CALLBACK, EVENT, ENDPOINT, DELIVERY, ATTEMPT = "job_", "cb_", "evt_", "ep_", "dlv_", "att_"
PROJECT, API_KEY, CALL, PAYMENT, REDELIVERY = "prj_", "key_", "call_", "pay_", "red_"
REPROCESSING, ALERT, AUDIT = "rep_", "alr_", "aud_"
ENDPOINT_NOTE, COPY = "eh_", "cpy_"


class Bits(msgspec.Struct, frozen=True):
    """The 128 bits of an id: its time, and two halves of 40; the upper one has a UUID's version and variant.

    The letters of the first two are here, since they rarely change within a millisecond.
    """

    at_ms: int
    time_letters: str
    upper: int
    upper_letters: str
    lower: int

    @property
    def letters(self) -> str:
        """Return the 26 letters."""
        lower, pairs = self.lower, _PAIRS  # written out, since three ids are made for each callback
        return (
            self.time_letters
            + self.upper_letters
            + pairs[lower >> 30]
            + pairs[lower >> 20 & 1023]
            + pairs[lower >> 10 & 1023]
            + pairs[lower & 1023]
        )


def begun(at_ms: int, draw: Callable[[], int]) -> Bits:
    """Return a random start within a millisecond; `draw` gives 32 random bits."""
    upper = 0x7 << 36 | (draw() >> 20) << 24 | 0x2 << 22 | draw() >> 10
    return Bits(at_ms, _ten_letters(at_ms), upper, _eight_letters(upper), (draw() & 0xFF) << 32 | draw())


def following(last: Bits, now_ms: int, draw: Callable[[], int]) -> Bits:
    """Return the next id's bits: in a new millisecond a random start, else a random number more than the last one's.

    So ids sort in the order they were made, also when the clock goes back (RFC 9562 §6.2, method 2).
    """
    if now_ms > last.at_ms:
        return begun(now_ms, draw)
    lower = last.lower + 1 + draw()
    if lower <= _FORTY:
        return Bits(last.at_ms, last.time_letters, last.upper, last.upper_letters, lower)
    upper = last.upper + 1
    if upper & _COUNTED:
        return Bits(last.at_ms, last.time_letters, upper, _eight_letters(upper), lower & _FORTY)
    return begun(last.at_ms + 1, draw)


class _Counter:
    """The id made last by this process, as one object, because two threads make ids."""

    def __init__(self, now_ms: Callable[[], int] | None = None) -> None:
        self._now_ms = now_ms
        self._last = Bits(0, "", 0, "", 0)
        self._drawn: list[int] = []

    def next(self) -> str:
        """Return the letters of the next id."""
        now_ms = time.time_ns() // 1_000_000 if self._now_ms is None else self._now_ms()
        self._last = last = following(self._last, now_ms, self._draw)
        return last.letters

    def _draw(self) -> int:
        """Return 32 random bits; they are read from the system in blocks, which is faster."""
        try:
            return self._drawn.pop()
        except IndexError:
            self._drawn = drawn = [*_BLOCK.unpack(os.urandom(_BLOCK.size))]
            return int(drawn.pop())


_counter = _Counter()


def new_id(prefix: str) -> str:
    """Return a new id: the prefix and 26 letters; ids of one process sort in the order they were made."""
    return prefix + _counter.next()


def made_at(id_: str) -> int:
    """Return when an id was made, in unix milliseconds."""
    return int.from_bytes(to_bytes(id_)[:6])


def first_at(prefix: str, at_ms: int) -> str:
    """Return a lower bound of the ids that are made from `at_ms` on."""
    return prefix + encode(max(0, at_ms) << 80)


def encode(bits: int) -> str:
    """Return 128 bits as 26 letters, which sort like the number."""
    pairs = _PAIRS  # written out, since a job's id is read from each callback's token
    return (
        _ten_letters(bits >> 80)
        + pairs[bits >> 70 & 1023]
        + pairs[bits >> 60 & 1023]
        + pairs[bits >> 50 & 1023]
        + pairs[bits >> 40 & 1023]
        + pairs[bits >> 30 & 1023]
        + pairs[bits >> 20 & 1023]
        + pairs[bits >> 10 & 1023]
        + pairs[bits & 1023]
    )


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
