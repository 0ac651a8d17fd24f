"""Secrets at rest: what the database holds of them opens only with RELAY_SECRET_KEYS, and only in its own row."""

import base64
import os
from collections.abc import Sequence
from typing import Final

from relay.errors import RelayError

# Each sets these keys apart from those that the same setting gives to something else.
_UNBOUND_CONTEXT: Final = b"relay: secrets at rest"
_BOUND_CONTEXT: Final = b"relay: secrets at rest, bound to their row"
_FINGERPRINT_CONTEXT: Final = b"relay: fingerprint of a key"
_BOUND: Final = b"\x02"  # the first byte of what is sealed now; what was sealed before is Fernet's, and begins with `g`
_BOUND_KEY_BYTES: Final = 64
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 16
_HEAD_BYTES: Final = len(_BOUND) + _ID_BYTES
FINGERPRINT_BYTES: Final = 16


class DecryptionFailed(RelayError):
    """No key opens it: a key was taken out of RELAY_SECRET_KEYS too early, the row was damaged, or it is another's."""

    code = "seal_broken"


def place(table: str, column: str, row_id: str) -> str:
    """Return the name of the one place in the database that a sealed value belongs to."""
    return f"{table}.{column}:{row_id}"


class Encryption:
    """Encrypts and authenticates short texts, each for its place. Keys: the newest, which is last, seals; all open.

    A value begins with the id of its key. AES-SIV (RFC 5297) takes the place as associated data, so a value that is
    moved to another row does not open there, and no number of values wears its nonces out. Values of former versions
    are Fernet's, bound to no place; they open as long as their key is there, and `keys reseal` binds them.
    """

    def __init__(self, secret_keys: Sequence[str]) -> None:
        if not secret_keys:
            raise ValueError("a seal needs a key")
        # Imported here because cryptography takes longer to load than this module may, and only a Seal needs it.
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415
        from cryptography.fernet import Fernet, InvalidToken, MultiFernet  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415

        self.fingerprints = [_derived(key, _FINGERPRINT_CONTEXT, FINGERPRINT_BYTES) for key in secret_keys]
        """What the database may keep to know its keys by, newest last; nothing that a key seals follows from it."""
        ciphers = [AESSIV(_derived(key, _BOUND_CONTEXT, _BOUND_KEY_BYTES)) for key in secret_keys]
        self._ciphers = {mark[:_ID_BYTES]: cipher for mark, cipher in zip(self.fingerprints, ciphers, strict=True)}
        self._newest = _BOUND + self.fingerprints[-1][:_ID_BYTES]
        unbound = [base64.urlsafe_b64encode(_derived(key, _UNBOUND_CONTEXT, 32)) for key in reversed(secret_keys)]
        self._unbound = MultiFernet([Fernet(key) for key in unbound])
        self._refusals = (InvalidTag, InvalidToken, ValueError)

    def encrypt(self, text: str, where: str) -> bytes:
        """The text, encrypted for its place; never the same bytes twice."""
        nonce = os.urandom(_NONCE_BYTES)
        cipher = self._ciphers[self._newest[len(_BOUND) :]]
        return self._newest + nonce + cipher.encrypt(text.encode(), [where.encode(), nonce])

    def decrypt(self, sealed: bytes, where: str) -> str:
        """The text again; DecryptionFailed when no key opens it there."""
        try:
            if sealed[:1] == _BOUND:
                cipher = self._ciphers.get(bytes(sealed[len(_BOUND) : _HEAD_BYTES]))
                if cipher is None:
                    raise ValueError("its key is not there")
                nonce, rest = sealed[_HEAD_BYTES : _HEAD_BYTES + _NONCE_BYTES], sealed[_HEAD_BYTES + _NONCE_BYTES :]
                return cipher.decrypt(bytes(rest), [where.encode(), bytes(nonce)]).decode()
            return self._unbound.decrypt(bytes(sealed)).decode()
        except self._refusals:
            raise DecryptionFailed(
                "a stored secret opens with none of RELAY_SECRET_KEYS: put back the key that was taken out"
            ) from None

    def is_newest(self, sealed: bytes) -> bool:
        """Whether it was sealed by the newest key, for a place."""
        return bytes(sealed[:_HEAD_BYTES]) == self._newest


def _derived(secret: str, context: bytes, length: int) -> bytes:
    """Return a key of one purpose, by HKDF-SHA256 (RFC 5869)."""
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

    return HKDF(SHA256(), length, salt=None, info=context).derive(secret.encode())
