"""The one rule for text that relay keeps: no U+0000 and no half of a surrogate pair, whatever the database is.

PostgreSQL's TEXT holds neither. A client that sends one is refused, and every place is named. What a provider or a
receiver sends is kept with U+FFFD in its place, since refusing it would lose a paid result; a callback's own bytes are
stored beside it as they came.
"""

from collections.abc import Iterator
from typing import Final

NUL: Final = "\0"
REPLACEMENT: Final = "\ufffd"
REFUSAL: Final = "must not hold U+0000, which relay does not keep in text"
_ESCAPED_NUL: Final = b"\\u0000"
_BACKSLASH: Final = ord("\\")
_PATH_NAME_MAX: Final = 60


def may_hold_nul(raw: bytes) -> bool:
    """Return whether JSON in these bytes may spell U+0000; the backslash alone is looked for first, which is faster."""
    return _BACKSLASH in raw and raw.find(_ESCAPED_NUL) >= 0


def kept(text: str) -> str:
    """Return the text as relay keeps it, with U+FFFD for each character that no database takes."""
    if NUL in text:
        text = text.replace(NUL, REPLACEMENT)
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def kept_json(value: object) -> object:
    """Return a JSON value with each of its texts and names as relay keeps them."""
    if isinstance(value, str):
        return kept(value)
    if isinstance(value, list):
        return [kept_json(one) for one in value]
    if isinstance(value, dict):
        return {kept(name): kept_json(one) for name, one in value.items()}
    return value


def paths_with_nul(value: object, path: str = "") -> Iterator[str]:
    """Yield the path of each text, and of each name, that holds U+0000 in a JSON value."""
    if isinstance(value, str) and NUL in value:
        yield path
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from paths_with_nul(one, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, one in value.items():
            place = f"{path}.{kept(name)[:_PATH_NAME_MAX]}" if path else kept(name)[:_PATH_NAME_MAX]
            if NUL in name:
                yield place
            yield from paths_with_nul(one, place)
