"""Signs what relay keeps in a browser's cookies: readable by the browser, but made by relay alone, for one purpose.

A value is not encrypted, so no secret belongs in it. Its age is checked by its reader.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
from itsdangerous import BadData, URLSafeSerializer

COOKIE_MAX_CHARS: Final = 3_000
"""A browser keeps 4,096 bytes of a cookie, with its name and attributes."""
_MARK_BYTES: Final = 16

Value = TypeVar("Value", bound=msgspec.Struct)


class SignedCookies:
    """Makes and reads the cookies of one environment. The last of the secret keys signs; all of them verify."""

    def __init__(self, secret_keys: Sequence[str], environment: str) -> None:
        if not secret_keys:
            raise ValueError("signed cookies need a key")
        self._secret_keys = list(secret_keys)
        self._environment = environment

    def make(self, purpose: str, value: msgspec.Struct) -> str:
        """Return the value as text for a cookie; only `read` with the same purpose accepts it."""
        return str(self._serializer(purpose).dumps(msgspec.to_builtins(value)))

    def read(self, purpose: str, cookie: str, kind: type[Value]) -> Value | None:
        """Return the value of a cookie, None if relay did not make it for this purpose. Never raise."""
        if len(cookie) > COOKIE_MAX_CHARS:
            return None
        try:
            return msgspec.convert(self._serializer(purpose).loads(cookie), kind)
        except (BadData, msgspec.ValidationError, ValueError, RecursionError):
            return None

    def mark(self, text: str) -> str:
        """Return what recognizes a secret text again and reveals nothing about it."""
        return _mark(self._secret_keys[-1], text)

    def marked(self, text: str, mark: str) -> bool:
        """Return whether `mark` was made of this text, by any of the keys."""
        return any(hmac.compare_digest(_mark(key, text), mark) for key in self._secret_keys)

    def _serializer(self, purpose: str) -> URLSafeSerializer:
        """Return what signs for a purpose; the salt separates it from other uses of the same keys."""
        options: dict[str, Any] = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        salt = f"relay.cookie.{purpose}.{self._environment}"
        return URLSafeSerializer(self._secret_keys, salt=salt, signer_kwargs=options)


def _mark(key: str, text: str) -> str:
    """Return the mark of a text by one key."""
    return hmac.digest(key.encode(), b"relay.mark\0" + text.encode(), "sha256")[:_MARK_BYTES].hex()
