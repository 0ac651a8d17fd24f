"""Parses untrusted JSON so that every parser would read the same value, or refuses it with a reason.

The standard library's parser accepts UTF-16, NaN and lone surrogates, silently keeps the last of two equal keys, and
raises RecursionError on deep nesting. Here each of these is refused or reported to the caller.
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
_GZIP: Final = b"\x1f\x8b"
_QUICK: Final = msgspec.json.Decoder()
_WRITER: Final = msgspec.json.Encoder()
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_STEPS: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
DEPTH_MAX: Final = 64
VALUES_MAX: Final = 25_000
"""Limit of commas and opening brackets, in texts too: each is a value, and a megabyte of them takes up to 200 ms.

Nothing else runs while the parser does. Providers' bodies have a few dozen.
"""
EXPONENTS_MAX: Final = 1_000
"""Limit of numbers with an exponent of two or more digits: msgspec needs 8 µs for each, although it has six bytes."""
_EXPONENT: Final = re.compile(rb"\d[eE][+-]?\d\d")
_STRING_OR_EXPONENT: Final = re.compile(_STRING.pattern + rb"|(?P<exponent>" + _EXPONENT.pattern + rb")", re.DOTALL)
_EXPONENT_MIN_BYTES: Final = 5
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
# Matches escapes from left to right: a surrogate pair, a lone surrogate (the group), or any other escape.
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


class Parsed(msgspec.Struct, frozen=True):
    """A value, the keys that an object had twice (the last one counts), and whether there were lone surrogates.

    Each lone surrogate is U+FFFD in the value.
    """

    value: object
    duplicates: frozenset[str] = frozenset()
    surrogates: bool = False


def parse(raw: bytes, *, depth_max: int = DEPTH_MAX) -> Parsed:
    """Return the JSON value of the bytes (RFC 8259; UTF-8, with or without a BOM); raise BadBody with the reason.

    Raise nothing else, whatever the bytes.
    """
    check_cost(raw)
    quick = _quick(raw, depth_max)
    if quick is not None:
        return quick
    text = _decode(raw)
    # Counting all brackets is faster than their depth, and most bodies have fewer than the allowed depth.
    if not _shallow(raw, depth_max) and _depth(raw) > depth_max:
        raise BadBody(f"the body nests deeper than {depth_max} levels")
    clean = _without_surrogates(text) if _SURROGATE_ESCAPE.search(raw) else text
    return _load(clean, surrogates=clean != text)


def check_cost(raw: bytes) -> None:
    """Raise BadBody for more than VALUES_MAX values, or EXPONENTS_MAX numbers with an exponent of over one digit."""
    if len(raw) > VALUES_MAX and raw.count(b",") + raw.count(b"[") + raw.count(b"{") > VALUES_MAX:
        raise BadBody(f"the body has more than {VALUES_MAX} commas and opening brackets")
    if len(raw) <= EXPONENTS_MAX * _EXPONENT_MIN_BYTES or not _too_many(_EXPONENT.finditer(raw)):
        return
    if _too_many(found for found in _STRING_OR_EXPONENT.finditer(raw) if found["exponent"]):
        raise BadBody(f"the body has more than {EXPONENTS_MAX} numbers with an exponent of two digits or more")


def _too_many(exponents: Iterable[re.Match[bytes]]) -> bool:
    """Return whether there are more than EXPONENTS_MAX."""
    return next(islice(exponents, EXPONENTS_MAX, None), None) is not None


def _quick(raw: bytes, depth_max: int) -> Parsed | None:
    """Return the value of a body that is canonical but for blanks, which most are, twice as fast; None for any other.

    If writing the value gives the same bytes again, blanks aside, every parser reads the same value, and no key is
    there twice.
    """
    try:
        value = _QUICK.decode(raw)
        written = _WRITER.encode(value)
        canonical = written == raw or written == msgspec.json.format(raw, indent=-1)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return Parsed(value) if canonical and _shallow(raw, depth_max) else None


def _shallow(raw: bytes, depth_max: int) -> bool:
    """Return whether there are no more brackets than may nest; splitting finds few of them faster than counting."""
    return len(raw.split(b"[", depth_max + 1)) + len(raw.split(b"{", depth_max + 1)) <= depth_max + 2


def _decode(raw: bytes) -> str:
    """Return the body as text, without its BOM."""
    if raw.startswith(_GZIP):
        raise BadBody("the body is compressed (gzip); it must be sent uncompressed")
    if b"\0" in raw[:4]:  # JSON has no NUL; ASCII text in UTF-16 or UTF-32 always has
        raise BadBody("the body is not UTF-8 (it looks like UTF-16 or UTF-32)")
    try:
        text = raw.decode().removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise BadBody(f"the body is not UTF-8 (byte {error.start})") from None
    if not text or text.isspace():
        raise BadBody("the body is empty")
    return text


def _depth(raw: bytes) -> int:
    """Return the depth of the brackets outside strings; exact up to the first error, where the parser stops too."""
    brackets = _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _without_surrogates(text: str) -> str:
    """Return the JSON text with U+FFFD for each escaped lone surrogate, which neither databases nor UTF-8 can hold."""
    return _ESCAPE.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], text)


def _load(text: str, *, surrogates: bool) -> Parsed:
    """Return the parsed text with the keys that an object has twice; raise BadBody if it is not JSON."""
    duplicates: set[str] = set()

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        built = dict(pairs)
        if len(built) != len(pairs):
            duplicates.update(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return built

    try:
        value: object = json.loads(text, object_pairs_hook=unique, parse_float=_finite, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadBody(f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError:  # the interpreter's own limit on the digits of an integer
        raise BadBody("the body has an integer of too many digits") from None
    except RecursionError:
        raise BadBody("the body nests too deep") from None
    return Parsed(value, frozenset(duplicates), surrogates)


def _finite(text: str) -> float:
    """Return a float; raise BadBody for infinity, which JSON cannot express."""
    number = float(text)
    if isinf(number):
        raise BadBody("the body has a number beyond the range of a double")
    return number


def _refuse_constant(name: str) -> NoReturn:
    """Raise BadBody for NaN and the infinities, which JSON does not have."""
    raise BadBody(f"the body has {name}, which is not JSON")
