"""Secrets at rest: what the database holds of an endpoint's secrets opens only with RELAY_SECRET_KEYS."""

import base64
from collections.abc import Sequence
from typing import Final

from relay.errors import RelayError

_CONTEXT: Final = b"relay: secrets at rest"  # sets these keys apart from those that the same setting gives to tokens


class SealBroken(RelayError):
    """No key opens it: a key was taken out of RELAY_SECRET_KEYS too early, or the row was damaged."""

    code = "seal_broken"


class Seal:
    """Encrypts and authenticates short texts. Keys: the newest, which is last, seals; all of them open.

    Each entry of the setting gives a Fernet key through HKDF-SHA256 (RFC 5869).
    """

    def __init__(self, secret_keys: Sequence[str]) -> None:
        if not secret_keys:
            raise ValueError("a seal needs a key")
        # Imported here because cryptography takes longer to load than this module may, and only a Seal needs it.
        from cryptography.fernet import Fernet, InvalidToken, MultiFernet  # noqa: PLC0415
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        keys = [HKDF(SHA256(), 32, salt=None, info=_CONTEXT).derive(secret.encode()) for secret in secret_keys]
        self._fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in reversed(keys)])
        self._refusal = InvalidToken

    def seal(self, text: str) -> bytes:
        """The text, encrypted; never the same bytes twice."""
        return self._fernet.encrypt(text.encode())

    def open(self, sealed: bytes) -> str:
        """The text again; SealBroken when no key opens it."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except self._refusal:
            raise SealBroken(
                "a stored secret opens with none of RELAY_SECRET_KEYS: put back the key that was taken out"
            ) from None
