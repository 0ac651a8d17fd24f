"""Signs notifications and verifies callbacks by Standard Webhooks 1.0.0.

The signed content is `{id}.{timestamp}.{body}` with the exact bytes of the body. Rules and header names:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
Providers' own signature schemes are read by their adapters; published keys by `outbound/jwks.py`.
"""

import base64
import binascii
import hmac
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from relay.errors import RelayError
from relay.security.hmac_key import HmacKey

SECRET_PREFIX: Final = "whsec_"
ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER = "webhook-id", "webhook-timestamp", "webhook-signature"
HOP_HEADER: Final = "relay-hop"

_KEY_BYTES_MIN, _KEY_BYTES_MAX = 24, 64
_NEW_KEY_BYTES = 32
PUBLIC_PREFIX: Final = "whpk_"
PUBLIC_BYTES: Final = 32
AGE_MAX_S: Final = 300
_SECRETS_MAX = 2000
_SIGNED_MAX = 4096  # events with more than one endpoint that are sent within a second
_SIGNATURES_MAX = 16  # a sender that rotates keys sends two or three
# Visible ASCII without the full stop: with one in the id, the same MAC would fit another id, timestamp and body.
_ID: Final = re.compile(r"[!-\-/-~]{1,256}")
# int() also reads other scripts' digits, ` 12_3 ` and `+12`; float() reads `nan`, which no comparison refuses.
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")


def is_event_id(text: str) -> bool:
    """Return whether a text is an event's id: visible ASCII without a full stop."""
    return _ID.fullmatch(text) is not None


class SignatureInvalid(RelayError):
    """The headers do not prove that the holder of the secret sent this body within the allowed time."""

    code = "signature_invalid"


def new_secret() -> str:
    """Return a new endpoint secret: `whsec_` and 32 random bytes in base64."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(_NEW_KEY_BYTES)).decode()


@lru_cache(_SECRETS_MAX)
def check_secret(text: str) -> bytes:
    """Return the key bytes of a secret; raise ValueError, whose text never repeats the secret, if it is malformed."""
    if not text.startswith(SECRET_PREFIX):
        raise ValueError(f"must begin with {SECRET_PREFIX}")
    encoded = text.removeprefix(SECRET_PREFIX)
    # Receivers' libraries differ in what they accept; only the spelling that all of them read is allowed.
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = None
    if key is None or base64.b64encode(key).decode() != encoded:
        raise ValueError(f"must be padded standard base64 (A-Z a-z 0-9 + / =) after {SECRET_PREFIX}")
    if not _KEY_BYTES_MIN <= len(key) <= _KEY_BYTES_MAX:
        raise ValueError(f"must hold {_KEY_BYTES_MIN} to {_KEY_BYTES_MAX} bytes, not {len(key)}")
    return key


def sign(secret_keys: Sequence[str], event_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the `webhook-signature` of one attempt: a `v1,…` for each secret, so that rotation breaks no receiver.

    Raise ValueError if there is no secret, or if a secret or the event id is malformed.
    """
    if not secret_keys:
        raise ValueError("nothing to sign with")
    if not is_event_id(event_id):
        raise ValueError("an id is visible ASCII without a full stop")
    content = _content(event_id, str(timestamp_s), body)
    return " ".join([_v1(check_secret(secret), content).decode() for secret in secret_keys])


class SigningKeys:
    """The ed25519 keys that relay signs with, one set for each project.

    A subscriber that verifies `v1a` needs no secret, only `GET /.well-known/webhook-keys?project=…`. `seeds` returns a
    project's seeds, newest last.
    """

    def __init__(self, seeds: Callable[[str], Awaitable[Sequence[bytes]]]) -> None:
        self._seeds = seeds
        self._keys: dict[str, Callable[[bytes], bytes]] = {}
        self._signed: dict[tuple[str, str, int], str] = {}

    def has(self, project_id: str) -> bool:
        """Return whether the project's key is loaded."""
        return project_id in self._keys

    async def load(self, project_id: str) -> None:
        """Load a project's newest key."""
        # Imported here because cryptography takes longer to load than this module may.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

        seeds = await self._seeds(project_id)
        self._keys[project_id] = Ed25519PrivateKey.from_private_bytes(seeds[-1]).sign

    def sign(self, project_id: str, event_id: str, timestamp_s: int, body: bytes) -> str:
        """Return the `v1a,…` signature of one attempt; all endpoints of an event share it within a second."""
        key = (project_id, event_id, timestamp_s)  # an event's body never changes
        signature = self._signed.get(key)
        if signature is None:
            if len(self._signed) >= _SIGNED_MAX:
                del self._signed[next(iter(self._signed))]
            signature = self._signed[key] = sign_v1a(self._keys[project_id], event_id, timestamp_s, body)
        return signature


class PublicKey(msgspec.Struct, frozen=True):
    """A project's ed25519 public key."""

    project_id: str
    key: bytes


def new_seed() -> bytes:
    """Return the seed of a new ed25519 key."""
    return os.urandom(PUBLIC_BYTES)


def public_key(seed: bytes) -> bytes:
    """Return the public key of a seed, 32 bytes."""
    # Imported here because cryptography takes longer to load than this module may.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def sign_v1a(sign_bytes: Callable[[bytes], bytes], event_id: str, timestamp_s: int, body: bytes) -> str:
    """Return the asymmetric signature of one attempt: `v1a,` and the signature in base64."""
    signature = sign_bytes(_content(event_id, str(timestamp_s), body))
    return "v1a," + base64.b64encode(signature).decode()


def verify(secret: str, headers: Mapping[str, str], body: bytes, now_s: int, tolerance_s: int = AGE_MAX_S) -> None:
    """Raise SignatureInvalid unless the headers, their names in any case, hold a valid signature of the body.

    `now_s` is when it was received. Raise ValueError if the secret is malformed, which is the operator's mistake.
    """
    key = check_secret(secret)
    lower = {name.lower(): value for name, value in headers.items()}
    event_id, timestamp = lower.get(ID_HEADER, ""), lower.get(TIMESTAMP_HEADER, "")
    if not is_event_id(event_id):
        raise SignatureInvalid(f"{ID_HEADER} is missing or malformed")
    timestamp_s = parse_timestamp(TIMESTAMP_HEADER, timestamp)
    expected = _v1(key, _content(event_id, timestamp, body))
    listed = lower.get(SIGNATURE_HEADER, "").split(" ", _SIGNATURES_MAX)[:_SIGNATURES_MAX]
    # As bytes, because `compare_digest` raises TypeError on text that is not ASCII.
    if not any(hmac.compare_digest(expected, given.encode(errors="replace")) for given in listed):
        raise SignatureInvalid(f"no signature in {SIGNATURE_HEADER} is valid")
    check_age(timestamp_s, now_s, tolerance_s)


def parse_timestamp(header: str, text: str) -> int:
    """Return a header's unix time in seconds; raise SignatureInvalid for anything but plain digits."""
    if not _TIMESTAMP.fullmatch(text):
        raise SignatureInvalid(f"{header} is missing or malformed")
    return int(text)


def check_age(timestamp_s: int, now_s: int, tolerance_s: int = AGE_MAX_S) -> None:
    """Raise SignatureInvalid if a signature is more than `tolerance_s` old or early: it may be replayed."""
    if abs(now_s - timestamp_s) > tolerance_s:
        raise SignatureInvalid(f"the signature's time is more than {tolerance_s} s from now")


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's ed25519 signature and the message that it signs; `key_id` is None if the callback names no key."""

    key_id: str | None
    message: bytes
    signature: bytes
    timestamp_s: int


def is_signed_by(public: bytes, signed: Signed) -> bool:
    """Return whether the holder of the public key made the signature."""
    # Imported here because cryptography takes longer to load than this module may.
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signed.signature, signed.message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _content(event_id: str, timestamp: str, body: bytes) -> bytes:
    """Return the signed content, with the timestamp exactly as in its header."""
    return f"{event_id}.{timestamp}.".encode() + body


def _v1(key: bytes, content: bytes) -> bytes:
    """Return one symmetric signature as it is written in the header."""
    return b"v1," + base64.b64encode(_hmac_key(key).digest(content))


@lru_cache(_SECRETS_MAX)
def _hmac_key(key: bytes) -> HmacKey:
    """Return the key ready for use."""
    return HmacKey(key)
