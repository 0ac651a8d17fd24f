"""JSON from strangers: read so that every reader would read the same, or refused with a reason, whatever the bytes.

The standard library's parser takes UTF-16, NaN and half a surrogate pair, keeps the last of two equal keys in silence,
and fails in its own way on deep nesting. Each of those is either settled here or told to the caller.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate, islice
from math import isinf
from typing import Final, NoReturn

import msgspec

from relay.errors import BadBody

_BOM: Final = "\ufeff"
_NONE: Final[frozenset[str]] = frozenset()
_QUICK: Final = msgspec.json.Decoder()
_WRITER: Final = msgspec.json.Encoder()
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
DEPTH_MAX: Final = 64
EXPONENTS_MAX: Final = 1_000
"""Numbers with an exponent of two digits or more: msgspec takes 8 µs for each, which is long for six bytes."""
_EXPONENT: Final = re.compile(rb"\d[eE][+-]?\d\d")
_STRING_OR_EXPONENT: Final = re.compile(_STRING.pattern + rb"|(?P<exponent>" + _EXPONENT.pattern + rb")", re.DOTALL)
_EXPONENT_MIN_BYTES: Final = 5
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
# Reads escapes from left to right: a surrogate pair, half a pair (the group), or any other escape with what it escapes.
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class Parsed(msgspec.Struct, frozen=True):
    """The value, the keys that one object held twice (the last counts), and whether half a surrogate pair was there.

    Each such half is U+FFFD in the value.
    """

    value: object
    duplicates: frozenset[str]
    surrogates: bool


def parse(raw: bytes, *, depth_max: int = DEPTH_MAX) -> Parsed:
    """The JSON value in the bytes (RFC 8259; UTF-8, with or without a BOM); BadBody says why there is none.

    Nothing else is raised, whatever the bytes.
    """
    check_exponents(raw)
    quick = _quick(raw, depth_max)
    if quick is not None:
        return quick
    text = _decode(raw)
    # Most bodies have fewer brackets in all than they may nest, which is quicker to see than how they nest.
    if raw.count(b"[") + raw.count(b"{") > depth_max and _depth(raw) > depth_max:
        raise BadBody(f"the body nests deeper than {depth_max} levels")
    whole = _without_halves(text) if _SURROGATE_ESCAPE.search(raw) else text
    value, duplicates = _load(whole)
    return Parsed(value, duplicates, whole != text)


def check_exponents(raw: bytes) -> None:
    """Raise BadBody for more numbers with a large exponent than a video's job could need; none beyond that is read."""
    if len(raw) <= EXPONENTS_MAX * _EXPONENT_MIN_BYTES or not _too_many(_EXPONENT.finditer(raw)):
        return
    if _too_many(found for found in _STRING_OR_EXPONENT.finditer(raw) if found["exponent"]):
        raise BadBody(f"the body holds more than {EXPONENTS_MAX} numbers with an exponent of two digits or more")


def _too_many(exponents: Iterable[re.Match[bytes]]) -> bool:
    """Whether there are more than may be."""
    return next(islice(exponents, EXPONENTS_MAX, None), None) is not None


def _quick(raw: bytes, depth_max: int) -> Parsed | None:
    """What most bodies are, ten times as fast; None for one that needs a closer look.

    Bytes that come back when their value is written out again can be read in one way only: no key was there twice.
    """
    try:
        value = _QUICK.decode(raw)
        canonical = _WRITER.encode(value) == raw
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    shallow = raw.count(b"[") + raw.count(b"{") <= depth_max
    return Parsed(value, _NONE, False) if canonical and shallow else None


def _decode(raw: bytes) -> str:
    """The body as text, without its BOM."""
    if b"\0" in raw[:4]:  # never in JSON; always in ASCII as UTF-16 or UTF-32 writes it
        raise BadBody("the body is not UTF-8 (it looks like UTF-16 or UTF-32)")
    try:
        text = raw.decode().removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not UTF-8 (byte {error.start})") from None
    if not text or text.isspace():
        raise BadBody("the body is empty")
    return text


def _depth(raw: bytes) -> int:
    """How deep the brackets outside strings nest; exact as far as the bytes are JSON, where the parser stops too."""
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _without_halves(text: str) -> str:
    """The JSON text with U+FFFD for each escaped half of a surrogate pair: no database and no UTF-8 can hold one."""
    return _ESCAPE.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], text)


def _load(text: str) -> tuple[object, frozenset[str]]:
    """The value, and the keys that were there twice in one object."""
    duplicates: set[str] = set()

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) != len(pairs):
            duplicates.update(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return made

    try:
        value: object = json.loads(text, object_pairs_hook=unique, parse_float=_finite, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadBody(f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError:  # the interpreter's own limit on the digits of an integer
        raise BadBody("the body holds an integer of too many digits") from None
    except RecursionError:
        raise BadBody("the body nests too deep") from None
    return value, frozenset(duplicates)


def _finite(text: str) -> float:
    """A float; infinity would be written out again as something that is not JSON."""
    number = float(text)
    if isinf(number):
        raise BadBody("the body holds a number beyond the range of a double")
    return number


def _refuse_constant(name: str) -> NoReturn:
    """NaN and the infinities, which JSON does not have."""
    raise BadBody(f"the body holds {name}, which is not JSON")
