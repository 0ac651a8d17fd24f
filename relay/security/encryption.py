"""Encrypts the secrets in the database by RELAY_SECRET_KEYS, each for its own column and row."""

import base64
import hmac
import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final

from relay.errors import RelayError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

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
        self._secret_keys = tuple(secret_keys)
        self.fingerprints = [_derive(key, _FINGERPRINT_CONTEXT, FINGERPRINT_BYTES) for key in secret_keys]
        """Ids by which the database recognizes its keys, newest last; they reveal nothing about the keys."""
        self._newest = _BOUND + self.fingerprints[-1][:_ID_BYTES]

    @cached_property
    def _ciphers(self) -> "dict[bytes, AESSIV]":
        """Return the cipher of each key by the key's id."""
        # Imported here, as below: cryptography takes 20 ms and 7 MB, and a start that decrypts nothing needs none.
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415

        ciphers = [AESSIV(_derive(key, _BOUND_CONTEXT, _BOUND_KEY_BYTES)) for key in self._secret_keys]
        return dict(zip((print_[:_ID_BYTES] for print_ in self.fingerprints), ciphers, strict=True))

    @cached_property
    def _unbound(self) -> "MultiFernet":
        """Return the decryption of former versions' values."""
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415

        keys = [base64.urlsafe_b64encode(_derive(key, _UNBOUND_CONTEXT, 32)) for key in reversed(self._secret_keys)]
        return MultiFernet([Fernet(key) for key in keys])

    @cached_property
    def _refusals(self) -> tuple[type[Exception], ...]:
        """Return the errors of a value that a key does not decrypt."""
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415
        from cryptography.fernet import InvalidToken  # noqa: PLC0415

        return InvalidTag, InvalidToken, ValueError

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
    """Return a key derived for one purpose by HKDF-SHA256 (RFC 5869), at most 255 × 32 bytes."""
    key = hmac.digest(bytes(32), secret.encode(), "sha256")
    derived = block = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + context + bytes([number]), "sha256")
        derived += block
    return derived[:length]
