"""Removes known secrets from received texts: a refusal that repeats the API key, an error page with the callback URL.

relay knows the exact strings: the keys it sends, and callback tokens, which share a prefix in one environment. They are
found plain, with any characters escaped (JSON, percent, HTML's numbers, once or repeatedly), and in base64. A text
without any of them, the usual case, costs only a few searches for short strings. `log.redact` removes secrets by their
shape instead.
"""

import asyncio
import base64
import re
import struct
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

import msgspec

from relay.errors import BadBody
from relay.security import strict_json

CUT: Final = "[redacted]"
SECRET_CHARS_MIN: Final = 8
"""Shorter secrets are not searched for, because they occur in harmless texts too."""
TOKEN_REST_CHARS: Final = 71
_ALNUM: Final = r"3[0-9]|4[1-9A-Fa-f]|6[1-9A-Fa-f]|5[0-9AaFf]|7[0-9Aa]|2[Dd]"
_PERCENT: Final = re.compile(rf"%(?:25)*(?:{_ALNUM})".encode())
_UNICODE: Final = re.compile(rf"\\[uU]00(?:{_ALNUM})".encode())
"""Escaped characters that needed no escape."""
_PERCENT_SIGN, _BACKSLASH, _HASH = b"%\\#"
_RAREST_FIRST: Final = b"XQZJKYVWUGHFBNMLPORDTISCEAjqzxkvw7985643bgyfm201uphdlcrsnoait_-e"
"""The letters of keys and of base64, the rarest in JSON bodies and URLs first."""
STEP_BYTES: Final = 65_536
"""Of a large body so much is searched in one step of the event loop: 1 ms at most."""
_ESCAPE_BYTES: Final = 64
"""The longest escape of one character that steps find: `%41` escaped 30 times over has as many."""
_PUNCTUATION: Final = re.compile(r"[^A-Za-z0-9_-]")
_BASE64: Final = r"[A-Za-z0-9+/_-]*"
_BASE64_START: Final = r"(?<![A-Za-z0-9+/_-])"
"""Without this bound, searching a run of such characters takes time quadratic in its length."""
_SLASHES: Final = r"\\{1,16}"
"""Up to four levels of escapes; without the limit, a run of backslashes takes quadratic time."""
_TOKEN_LETTER: Final = (
    rf"(?:[A-Za-z0-9_-]|%(?:25)*(?:{_ALNUM})|{_SLASHES}[uU]00(?:{_ALNUM})|&#[xX]?[0-9A-Fa-f]{{2,5}};)"
)


class Redactor:
    """Removes secrets from texts; `token_prefix` begins every callback token of this environment."""

    def __init__(self, secrets: Iterable[str | None], token_prefix: str) -> None:
        known = {secret for secret in secrets if secret and len(secret) >= SECRET_CHARS_MIN}
        self._secrets = sorted(known, key=len, reverse=True)
        self._token_prefix = token_prefix
        literals = [*self._secrets, token_prefix]
        self._variants = [variant for literal in literals for variant in _base64_variants(literal)]
        self._needles = [_utf8(needle) for needle in (*literals, *self._variants)]
        self._by_rarest = [(_rarest(needle), needle) for needle in self._needles]
        self._has_punctuation = any(_PUNCTUATION.search(secret) for secret in self._secrets)

    def may_hold_secret(self, raw: bytes) -> bool:
        """Return False if the bytes hold no secret; True if they may hold one.

        Rarest bytes are numbers here: of bytes, `in` tries first whether they are a number, which costs five searches.
        """
        for rarest, needle in self._by_rarest:
            if rarest in raw and raw.find(needle) >= 0:
                return True
        odd = self._has_punctuation  # a secret with a character that JSON or a URL may escape
        return (
            (_PERCENT_SIGN in raw and (odd or _PERCENT.search(raw) is not None))
            or (_BACKSLASH in raw and (odd or _UNICODE.search(raw) is not None))
            or (_HASH in raw and raw.find(b"&#") >= 0)
        )

    async def may_hold_secret_stepwise(self, raw: bytes) -> bool:
        """Return what `may_hold_secret` returns; other work of the loop goes on after each STEP_BYTES."""
        overlap = max(_ESCAPE_BYTES, *map(len, self._needles))
        for start in range(0, len(raw), STEP_BYTES):
            if self.may_hold_secret(raw[start : start + STEP_BYTES + overlap]):
                return True
            await asyncio.sleep(0)
        return False

    def text(self, text: str) -> str:
        """Return the text without secrets; the same object if it has none."""
        if not self.may_hold_secret(_utf8(text)):
            return text
        for secret in self._secrets:
            text = text.replace(secret, CUT)
        for variant in self._variants:
            if variant in text:
                text = re.sub(_BASE64_START + _BASE64 + re.escape(variant) + _BASE64 + "=*", CUT, text)
        return self._escaped.sub(CUT, text)

    def json(self, value: Any) -> Any:
        """Return a JSON value without secrets in its texts and names."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.json(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self.json(item) for name, item in value.items()}
        return value

    def raw(self, raw: bytes) -> bytes:
        """Return bytes of any kind without secrets, all other bytes unchanged."""
        if not self.may_hold_secret(raw):
            return raw
        return self.text(raw.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    def body(self, raw: bytes) -> bytes:
        """Return a body without secrets; JSON stays JSON, and the same object is returned if it has none."""
        if not self.may_hold_secret(raw):
            return raw
        try:
            strict_json.check_cost(raw)
            value = msgspec.json.decode(raw)
        except (BadBody, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.raw(raw)
        clean = self.json(value)
        return raw if clean == value else msgspec.json.encode(clean)

    async def body_stepwise(self, raw: bytes) -> bytes:
        """Return what `body` returns; other work of the loop goes on while a large body is searched."""
        if len(raw) > STEP_BYTES and not await self.may_hold_secret_stepwise(raw):
            return raw
        return self.body(raw)

    @cached_property
    def _escaped(self) -> re.Pattern[str]:
        """Return the pattern of a secret with any characters escaped; compiled at its first use."""
        patterns = ["".join(map(_escape_pattern, secret)) for secret in self._secrets]
        token = "".join(map(_escape_pattern, self._token_prefix)) + _TOKEN_LETTER + f"{{0,{TOKEN_REST_CHARS}}}"
        return re.compile("|".join([*patterns, token]))


def _utf8(text: str) -> bytes:
    """Return the bytes of a text of any characters; one half of a surrogate pair too, which JSON can escape."""
    return text.encode("utf-8", "surrogatepass")


def _rarest(needle: bytes) -> int:
    """Return the needle's rarest byte: a text without it, which is found quickly, needs no longer search.

    A byte that is not in the list, such as each of a letter outside of ASCII, counts as the most frequent one.
    """
    return min(needle, key=lambda byte: _RAREST_FIRST.find(byte) % len(_RAREST_FIRST))


def _escape_pattern(char: str) -> str:
    """Return the pattern of one character, plain or escaped in any of the usual ways.

    A percent escape is one of each byte of UTF-8, and JSON's one of each half of the surrogate pair beyond U+FFFF.
    Escapes come first, so that none is cut after its first character where the secret ends with that: `&` in `&#38;`.
    """
    slash = rf"(?:{_SLASHES})?" if char in '/"' else ""
    percent = "".join(f"%(?:25)*{_digits(byte, 2)}" for byte in _utf8(char))
    halves = struct.iter_unpack(">H", char.encode("utf-16-be", "surrogatepass"))
    escaped = "".join(f"{_SLASHES}[uU]{_digits(half, 4)}" for (half,) in halves)
    numbered = rf"&#(?:[xX]0*{_digits(ord(char), 1)}|0*{ord(char)});"
    return rf"(?:{percent}|{escaped}|{numbered}|{slash}{re.escape(char)})"


def _digits(number: int, least: int) -> str:
    """Return the pattern of a number in at least so many hexadecimal digits, in upper or lower case."""
    return "".join(f"[{digit.upper()}{digit}]" if digit.isalpha() else digit for digit in f"{number:0{least}x}")


def _base64_variants(literal: str) -> set[str]:
    """Return the base64 of a text's inner part, at each of the three offsets in a group of three bytes."""
    variants = set()
    for before in range(3):
        padded = b"\0" * before + _utf8(literal)
        whole = len(padded) // 3 * 3
        encoded = base64.b64encode(padded[:whole]).decode()[4 if before else 0 :]
        variants |= {encoded, encoded.replace("+", "-").replace("/", "_")}
    return variants - {""}
