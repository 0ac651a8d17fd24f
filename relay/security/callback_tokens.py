"""Makes and verifies callback tokens: the last part of a one-job callback URL, and an unsigned callback's only proof.

A token is verified without the database. It holds the environment's digest, the expiry and the job's id, and is signed
with a key derived for callbacks of one provider, so it is valid nowhere else. It has letters, digits, `-` and `_` only,
because providers mangle other characters.
"""

import hashlib
import hmac
import re
import struct
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from itsdangerous import Signer
from itsdangerous.encoding import want_bytes
from itsdangerous.signer import SigningAlgorithm

from relay.model import ids
from relay.security.hmac_key import HmacKey

_VERSION, _PURPOSE = b"\x01", b"c"
_HEAD: Final = _VERSION + _PURPOSE
_PAYLOAD: Final = struct.Struct("2s4s5s16s")  # head, environment, expiry in seconds, the job's id
_PAYLOAD_LETTERS = _PAYLOAD.size * 4 // 3  # 27 bytes need no padding
# 43 letters hold 258 bits, a SHA-256 has 256: the two spare bits must be 0, or every token would have four spellings.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{78}[AEIMQUYcgkosw048]")
_PLACEHOLDER: Final = "A" * 79  # verified instead of a malformed token, so that every refusal takes the same time
_PROVIDERS_MAX = 64  # bounded, because the provider's name comes from a URL


class CallbackToken(msgspec.Struct, frozen=True):
    """A valid token's content; `other_environment` is True if it was made in another environment with the same keys."""

    job_id: str
    other_environment: bool
    expires_at_ms: int


class CallbackTokens:
    """Makes and verifies the tokens of one environment. The last of the secret keys signs; all of them verify."""

    def __init__(self, secret_keys: Sequence[str], environment: str) -> None:
        if not secret_keys:
            raise ValueError("callback tokens need a key")
        self._secret_keys = list(secret_keys)
        self._environment = hashlib.sha256(environment.encode()).digest()[:4]
        self._signer = lru_cache(_PROVIDERS_MAX)(self._new_signer)

    @property
    def prefix(self) -> str:
        """Return the first characters of every token of this environment."""
        return urlsafe_b64encode(_HEAD + self._environment).decode()

    def make(self, provider: str, job_id: str, expires_at_ms: int) -> str:
        """Return a token of 79 characters for one job, valid until `expires_at_ms`, rounded up to a second."""
        expiry_s = -(-expires_at_ms // 1000)
        payload = _PAYLOAD.pack(_HEAD, self._environment, expiry_s.to_bytes(5), ids.to_bytes(job_id))
        text = urlsafe_b64encode(payload).decode()
        return text + self._signer(provider).get_signature(text).decode()

    def verify(self, provider: str, token: str, now_ms: int) -> CallbackToken | None:
        """Return the token's content, or None if it is invalid, expired or another provider's. Never raise."""
        shaped = token if _TOKEN.fullmatch(token) else _PLACEHOLDER
        raw = a2b_base64(shaped.replace("-", "+").replace("_", "/") + "=")
        if not self._signer(provider).signed(shaped[:_PAYLOAD_LETTERS].encode(), raw[_PAYLOAD.size :]):
            return None
        head, environment, expiry, job = _PAYLOAD.unpack_from(raw)
        expires_at_ms = int.from_bytes(expiry) * 1000
        if head != _HEAD or now_ms >= expires_at_ms:
            return None
        return CallbackToken(ids.from_bytes(ids.JOB, job), environment != self._environment, expires_at_ms)

    def _new_signer(self, provider: str) -> "_Signer":
        """Return the signer of one provider's tokens; the salt separates it from other uses of the same keys."""
        salt = b"relay.callback." + provider.encode(errors="surrogatepass")
        return _Signer(
            self._secret_keys, salt=salt, key_derivation="hmac", digest_method=hashlib.sha256, algorithm=_Hmac()
        )


class _Signer(Signer):
    """A signer that derives each key once: tokens are verified for every callback, and the keys never change."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._derived = {key: super(_Signer, self).derive_key(key) for key in self.secret_keys}
        self._hmac_keys = [HmacKey(key) for key in self._derived.values()]

    def derive_key(self, secret_key: str | bytes | None = None) -> bytes:
        """Return the derived key of a secret key, of the newest one by default."""
        return self._derived[self.secret_keys[-1] if secret_key is None else want_bytes(secret_key)]

    def signed(self, value: bytes, signature: bytes) -> bool:
        """Return whether one of the keys signed the value; the base class's conversions would double the time."""
        for key in self._hmac_keys:  # noqa: SIM110 - a generator costs as much as the comparison
            if hmac.compare_digest(key.digest(value), signature):
                return True
        return False


class _Hmac(SigningAlgorithm):
    """HMAC-SHA256 in one call."""

    def get_signature(self, key: bytes, value: bytes) -> bytes:
        """Return the signature of the value."""
        return hmac.digest(key, value, "sha256")
