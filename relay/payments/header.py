"""Encodes and decodes JSON in a header, as base64: x402 and its sign-in send it in both directions."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from relay.errors import BadBody, Unreadable
from relay.security import strict_json

BYTES_MAX: Final = 65_536
_STANDARD: Final = str.maketrans("-_", "+/")


def encode(value: Mapping[str, object]) -> str:
    """Return the object as compact JSON in padded, standard base64."""
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()


def decode(text: str) -> dict[str, Any]:
    """Return the object of a header's value, in either base64 alphabet, padded or not; raise Unreadable without one."""
    if len(text) > BYTES_MAX * 4 // 3:
        raise Unreadable("the header is too long")
    bare = text.strip().rstrip("=").translate(_STANDARD)
    try:
        raw = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable("the header is not base64") from None
    return read_object(raw)


def read_object(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in the bytes; raise Unreadable without one, or if parsers could read it differently."""
    if len(raw) > BYTES_MAX:
        raise Unreadable(f"over {BYTES_MAX} bytes of JSON")
    try:
        parsed = strict_json.parse(raw)
    except BadBody as error:
        raise Unreadable(str(error)) from None
    if parsed.duplicates or parsed.surrogates:
        raise Unreadable("the JSON has a key twice, or half a surrogate pair")
    if not isinstance(parsed.value, dict):
        raise Unreadable("the JSON is not an object")
    return parsed.value
