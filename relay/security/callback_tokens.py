"""Callback tokens: the last part of a one-job callback URL, and all the proof that a provider without signatures gives.

A token is checked without the database. It carries the environment's digest, the expiry and the job's id, and is signed
with a key of its purpose and provider, so it opens nothing else. Letters, digits, `-` and `_` only, because providers
mangle the rest.
"""

import hashlib
import hmac
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from itsdangerous import Signer
from itsdangerous.encoding import want_bytes
from itsdangerous.signer import SigningAlgorithm

from relay import ids

_VERSION, _PURPOSE = b"\x01", b"c"
_HEAD: Final = _VERSION + _PURPOSE
_PAYLOAD: Final = struct.Struct("2s4s5s16s")  # head, environment, expiry in seconds, the job's id
_PAYLOAD_LETTERS = _PAYLOAD.size * 4 // 3  # 27 bytes need no padding
# 43 letters hold 258 bits, a SHA-256 has 256: the two spare bits must be 0, or every token would have four spellings.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{78}[AEIMQUYcgkosw048]")
_MISSHAPEN: Final = "A" * 79  # checked in place of what is no token, so that every refusal costs the same
_PROVIDERS_MAX = 64  # the provider's name comes from a URL


class CallbackToken(msgspec.Struct, frozen=True):
    """What a good token says; `foreign` when it was made for another environment that shares the keys."""

    job_id: str
    other_environment: bool
    expires_at_ms: int


class CallbackTokens:
    """Makes and reads the tokens of one environment. Keys: the newest, which is last, signs; all of them verify."""

    def __init__(self, secret_keys: Sequence[str], environment: str) -> None:
        if not secret_keys:
            raise ValueError("callback tokens need a key")
        self._secret_keys = list(secret_keys)
        self._environment = hashlib.sha256(environment.encode()).digest()[:4]
        self._signer = lru_cache(_PROVIDERS_MAX)(self._new_signer)

    @property
    def prefix(self) -> str:
        """What every token of this environment begins with."""
        return urlsafe_b64encode(_HEAD + self._environment).decode()

    def make(self, provider: str, job_id: str, expires_at_ms: int) -> str:
        """A token of 79 characters for one job, good until the time, rounded up to a second."""
        expiry_s = -(-expires_at_ms // 1000)
        payload = _PAYLOAD.pack(_HEAD, self._environment, expiry_s.to_bytes(5), ids.to_bytes(job_id))
        text = urlsafe_b64encode(payload).decode()
        return text + self._signer(provider).get_signature(text).decode()

    def read(self, provider: str, token: str, now_ms: int) -> CallbackToken | None:
        """What the token says; None if it is wrong, expired or another provider's. Never raises."""
        shaped = token if _TOKEN.fullmatch(token) else _MISSHAPEN
        text, signature = shaped[:_PAYLOAD_LETTERS], shaped[_PAYLOAD_LETTERS:]
        if not self._signer(provider).verify_signature(text, signature):
            return None
        return self._claims(urlsafe_b64decode(text), now_ms)

    def _claims(self, payload: bytes, now_ms: int) -> CallbackToken | None:
        """The claims of a payload that is proven; None if it is of another version or purpose, or expired."""
        head, environment, expiry, job = _PAYLOAD.unpack(payload)
        expires_at_ms = int.from_bytes(expiry) * 1000
        if head != _HEAD or now_ms >= expires_at_ms:
            return None
        return CallbackToken(ids.from_bytes(ids.JOB, job), environment != self._environment, expires_at_ms)

    def _new_signer(self, provider: str) -> Signer:
        """The signer of one provider's tokens; the salt keeps it from any other use of the same keys."""
        salt = b"relay.callback." + provider.encode(errors="surrogatepass")
        return _Signer(
            self._secret_keys, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256, algorithm=_Hmac()
        )


class _Signer(Signer):
    """Derives each key once: a token is read for every callback, and the keys never change."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._derived = {key: super(_Signer, self).derive_key(key) for key in self.secret_keys}

    def derive_key(self, secret_key: str | bytes | None = None) -> bytes:
        """The key that signs under this salt; without an argument the newest."""
        return self._derived[self.secret_keys[-1] if secret_key is None else want_bytes(secret_key)]


class _Hmac(SigningAlgorithm):
    """HMAC-SHA256 in one call."""

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        """The signature of the value."""
        return hmac.digest(key, value, "sha256")
