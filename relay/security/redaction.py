"""Known secrets cut out of what others send back: a refusal that repeats the API key, a page with the callback URL.

relay knows the exact strings: the keys it sends, and callback tokens, which all begin alike in one environment. They
are found as they are, with any of their letters escaped (JSON, percent, HTML, once or more often), and in base64. What
has none of them, which is nearly everything, costs a few searches for short strings and nothing else.
"""

import base64
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

import msgspec

from relay import strict_json
from relay.errors import BadBody

CUT: Final = "[redacted]"
SECRET_CHARS_MIN: Final = 8
"""Shorter ones are words that stand in harmless texts too."""
TOKEN_REST_CHARS: Final = 71
_ALNUM: Final = r"3[0-9]|4[1-9A-Fa-f]|6[1-9A-Fa-f]|5[0-9AaFf]|7[0-9Aa]|2[Dd]"
_ESCAPES: Final = (
    (b"%", re.compile(rf"%(?:25)*(?:{_ALNUM})".encode())),
    (b"\\u00", re.compile(rf"\\u00(?:{_ALNUM})".encode())),
    (b"\\U00", re.compile(rf"\\U00(?:{_ALNUM})".encode())),
    (b"&#", re.compile(b"&#")),
)
"""What begins an escape, which is looked for first, and a letter that is written so without need."""
_PUNCTUATION: Final = re.compile(r"[^A-Za-z0-9_-]")
_BASE64: Final = r"[A-Za-z0-9+/_-]*"
_BASE64_START: Final = r"(?<![A-Za-z0-9+/_-])"
"""A search that could begin within a run of such letters takes the square of its length."""
_SLASHES: Final = r"\\{1,16}"
"""Escaped four times; without the bound a run of backslashes takes the square of its length."""
_TOKEN_LETTER: Final = (
    rf"(?:[A-Za-z0-9_-]|%(?:25)*(?:{_ALNUM})|{_SLASHES}[uU]00(?:{_ALNUM})|&#[xX]?[0-9A-Fa-f]{{2,5}};)"
)


class Redactor:
    """Cuts secrets out of texts. `token_prefix` is what each callback token of this environment begins with."""

    def __init__(self, secrets: Iterable[str | None], token_prefix: str) -> None:
        known = {secret for secret in secrets if secret and len(secret) >= SECRET_CHARS_MIN}
        self._secrets = sorted(known, key=len, reverse=True)
        self._token_prefix = token_prefix
        literals = [*self._secrets, token_prefix]
        self._variants = [variant for literal in literals for variant in _in_base64(literal)]
        self._needles = [needle.encode() for needle in (*literals, *self._variants)]
        self._has_punctuation = any(_PUNCTUATION.search(secret) for secret in self._secrets)
        self._worth_a_look = re.compile(b"|".join(map(re.escape, [*self._needles, b"%", b"\\", b"&#"])))

    def suspects(self, raw: bytes) -> bool:
        """Whether a secret may be in these bytes."""
        if self._worth_a_look.search(raw) is None:
            return False
        for needle in self._needles:
            if needle in raw:
                return True
        for sign, escape in _ESCAPES:
            if sign in raw and (self._has_punctuation or escape.search(raw)):
                return True
        return self._has_punctuation and b"\\" in raw

    def text(self, text: str) -> str:
        """The text without secrets; one that has none is given back as it is."""
        if not self.suspects(text.encode("utf-8", "surrogatepass")):
            return text
        for secret in self._secrets:
            text = text.replace(secret, CUT)
        for variant in self._variants:
            if variant in text:
                text = re.sub(_BASE64_START + _BASE64 + re.escape(variant) + _BASE64 + "=*", CUT, text)
        return self._escaped.sub(CUT, text)

    def json(self, value: Any) -> Any:
        """A JSON value with each of its texts and names without secrets."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.json(one) for one in value]
        if isinstance(value, dict):
            return {self.text(name): self.json(one) for name, one in value.items()}
        return value

    def raw(self, raw: bytes) -> bytes:
        """Any bytes without secrets, all others of them as they are."""
        return self.text(raw.decode("latin-1")).encode("latin-1") if self.suspects(raw) else raw

    def body(self, raw: bytes) -> bytes:
        """A body without secrets: JSON stays JSON, anything else is cut as text is."""
        if not self.suspects(raw):
            return raw
        try:
            strict_json.check_exponents(raw)
            value = msgspec.json.decode(raw)
        except (BadBody, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.raw(raw)
        clean = self.json(value)
        return raw if clean == value else msgspec.json.encode(clean)

    @cached_property
    def _escaped(self) -> re.Pattern[str]:
        """What finds a secret of which any letter may be escaped; made when there is first a reason to look."""
        patterns = ["".join(map(_any_form, secret)) for secret in self._secrets]
        token = "".join(map(_any_form, self._token_prefix)) + _TOKEN_LETTER + f"{{0,{TOKEN_REST_CHARS}}}"
        return re.compile("|".join([*patterns, token]))


def _any_form(char: str) -> str:
    """The pattern of one character, as it is or escaped in any of the usual ways."""
    code = f"{ord(char):02x}"
    digits = "".join(f"[{digit.upper()}{digit}]" if digit.isalpha() else digit for digit in code)
    slash = rf"(?:{_SLASHES})?" if char == "/" else ""
    numbered = rf"&#(?:[xX]0*{digits}|0*{ord(char)});"
    return rf"(?:{slash}{re.escape(char)}|%(?:25)*{digits}|{_SLASHES}[uU]00{digits}|{numbered})"


def _in_base64(literal: str) -> set[str]:
    """How the inner part of a text is written in base64, at each of its three places in a group of three bytes."""
    found = set()
    for before in range(3):
        padded = b"\0" * before + literal.encode()
        whole = len(padded) // 3 * 3
        encoded = base64.b64encode(padded[:whole]).decode()[4 if before else 0 :]
        found |= {encoded, encoded.replace("+", "-").replace("/", "_")}
    return found
