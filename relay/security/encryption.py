"""Encrypts the secrets in the database by RELAY_SECRET_KEYS, each for its own column and row."""

import base64
import os
from collections.abc import Sequence
from typing import Final

from relay.errors import RelayError

# Contexts of key derivation: they separate these keys from other uses of the same setting.
_UNBOUND_CONTEXT: Final = b"relay: secrets at rest"
_BOUND_CONTEXT: Final = b"relay: secrets at rest, bound to their row"
_FINGERPRINT_CONTEXT: Final = b"relay: fingerprint of a key"
_BOUND: Final = b"\x02"  # the first byte of a value; values of former versions are Fernet's and begin with `g`
_BOUND_KEY_BYTES: Final = 64
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 16
_HEAD_BYTES: Final = len(_BOUND) + _ID_BYTES
FINGERPRINT_BYTES: Final = 16


class DecryptionFailed(RelayError):
    """No key decrypts the value: its key was removed from RELAY_SECRET_KEYS, or the row was damaged or moved."""

    code = "seal_broken"


def place(table: str, column: str, row_id: str) -> str:
    """Return the name of the column and row that an encrypted value belongs to."""
    return f"{table}.{column}:{row_id}"


class Encryption:
    """Encrypts and authenticates short texts, each for its `place`. The last key encrypts; all of them decrypt.

    A value begins with the id of its key. AES-SIV (RFC 5297) authenticates the place as associated data, so a value
    moved to another row does not decrypt there; it also tolerates repeated nonces. Values of former versions are
    Fernet's, without a place; they decrypt while their key is configured, and `keys reseal` encrypts them again.
    """

    def __init__(self, secret_keys: Sequence[str]) -> None:
        if not secret_keys:
            raise ValueError("encryption needs a key")
        # Imported here because cryptography takes longer to load than this module may.
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415
        from cryptography.fernet import Fernet, InvalidToken, MultiFernet  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415

        self.fingerprints = [_derive(key, _FINGERPRINT_CONTEXT, FINGERPRINT_BYTES) for key in secret_keys]
        """Ids by which the database recognizes its keys, newest last; they reveal nothing about the keys."""
        ciphers = [AESSIV(_derive(key, _BOUND_CONTEXT, _BOUND_KEY_BYTES)) for key in secret_keys]
        key_ids = [fingerprint[:_ID_BYTES] for fingerprint in self.fingerprints]
        self._ciphers = dict(zip(key_ids, ciphers, strict=True))
        self._newest = _BOUND + key_ids[-1]
        unbound = [base64.urlsafe_b64encode(_derive(key, _UNBOUND_CONTEXT, 32)) for key in reversed(secret_keys)]
        self._unbound = MultiFernet([Fernet(key) for key in unbound])
        self._refusals = (InvalidTag, InvalidToken, ValueError)

    def encrypt(self, text: str, where: str) -> bytes:
        """Return the text encrypted for its place; the bytes differ each time."""
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._ciphers[self._newest[len(_BOUND) :]]
        return self._newest + nonce + cipher.encrypt(text.encode(), [where.encode(), nonce])

    def decrypt(self, encrypted: bytes, where: str) -> str:
        """Return the decrypted text; raise DecryptionFailed if no key decrypts it at this place."""
        try:
            if encrypted[:1] == _BOUND:
                cipher = self._ciphers.get(bytes(encrypted[len(_BOUND) : _HEAD_BYTES]))
                if cipher is None:
                    raise ValueError("its key is not configured")
                end = _HEAD_BYTES + _NONCE_BYTES
                nonce, rest = encrypted[_HEAD_BYTES:end], encrypted[end:]
                return cipher.decrypt(bytes(rest), [where.encode(), bytes(nonce)]).decode()
            return self._unbound.decrypt(bytes(encrypted)).decode()
        except self._refusals:
            raise DecryptionFailed(
                "none of RELAY_SECRET_KEYS decrypts a stored secret: put back the key that was removed"
            ) from None

    def is_newest(self, encrypted: bytes) -> bool:
        """Return whether the value was encrypted by the newest key and for a place."""
        return bytes(encrypted[:_HEAD_BYTES]) == self._newest


def _derive(secret: str, context: bytes, length: int) -> bytes:
    """Return a key derived for one purpose by HKDF-SHA256 (RFC 5869)."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    return HKDF(SHA256(), length, salt=None, info=context).derive(secret.encode())
