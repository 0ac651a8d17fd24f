"""Secrets at rest: they come back with any listed key, and with no other."""

import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import RelayError
from relay.security.encryption import DecryptionFailed, Encryption, _derive, place
from tests.support.rows import rows

OLD, NEW, OTHER = "old-" + "a" * 32, "new-" + "b" * 32, "other-" + "c" * 32
SEAL = Encryption([OLD, NEW])
HERE = place("endpoints", "secret", "ep_1")


@given(st.text(max_size=500))
def test_what_is_sealed_opens(text: str) -> None:
    """Any text comes back, and what is stored shows nothing of it."""
    sealed = SEAL.encrypt(text, HERE)
    assert SEAL.decrypt(sealed, HERE) == text
    assert len(text) < 8 or text.encode() not in sealed


def test_sealing_twice_differs() -> None:
    """Equal secrets are not seen to be equal."""
    assert SEAL.encrypt("whsec_x", HERE) != SEAL.encrypt("whsec_x", HERE)


def test_keys_rotate() -> None:
    """What the old key sealed opens while that key is listed; what is sealed now needs the newest."""
    before = Encryption([OLD]).encrypt("whsec_before", HERE)
    assert SEAL.decrypt(before, HERE) == "whsec_before"
    assert Encryption([NEW]).decrypt(SEAL.encrypt("whsec_now", HERE), HERE) == "whsec_now"
    for key in (OLD, OTHER):
        with pytest.raises(DecryptionFailed):
            Encryption([key]).decrypt(SEAL.encrypt("whsec_now", HERE), HERE)


def test_a_missing_key_is_named() -> None:
    """The error names the setting that is wrong, and neither a key nor the secret."""
    with pytest.raises(DecryptionFailed, match="RELAY_SECRET_KEYS") as caught:
        Encryption([OTHER]).decrypt(SEAL.encrypt("whsec_now", HERE), HERE)
    assert isinstance(caught.value, RelayError)
    assert caught.value.code == "seal_broken"
    assert caught.value.__cause__ is None
    assert not any(word in str(caught.value) for word in (OTHER, NEW, "whsec_now"))


@given(st.binary() | st.text().map(str.encode))
def test_any_other_bytes_are_refused(sealed: bytes) -> None:
    """Bytes that no Seal made are DecryptionFailed and nothing else."""
    with pytest.raises(DecryptionFailed):
        SEAL.decrypt(sealed, HERE)


@given(st.data())
def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    """What was damaged at rest is never opened to something else."""
    sealed = bytearray(SEAL.encrypt("whsec_" + "x" * 44, HERE))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DecryptionFailed):
        SEAL.decrypt(bytes(sealed), HERE)


def test_this_format_stays_readable() -> None:
    """What an earlier release sealed still opens."""
    stored = b"gAAAAABrASJfI_UMsdqe7yL09SGQVoZ4F69YpPJlyKhEfkWQhpxq8tc5tjsATNUTYSlP3TzpeLv0bjqjdwE-GNuuNHER0M6HSw=="
    assert SEAL.decrypt(stored, HERE) == "whsec_stored"


@rows("elsewhere", [("endpoints", "secret", "ep_2"), ("endpoints", "headers", "ep_1")])
def test_what_is_sealed_opens_in_its_own_place_alone(elsewhere: tuple[str, str, str]) -> None:
    """Refuse a value that was moved to another row, or to another column of its row."""
    with pytest.raises(DecryptionFailed):
        SEAL.decrypt(SEAL.encrypt("whsec_now", HERE), place(*elsewhere))


@given(key=st.text(min_size=1), context=st.binary(max_size=80), length=st.integers(1, 255 * 32))
def test_keys_are_derived_by_the_standard(key: str, context: bytes, length: int) -> None:
    """Derive the same bytes as another implementation of RFC 5869, for every length that it allows."""
    expected = HKDF(SHA256(), length, salt=None, info=context).derive(key.encode())
    assert _derive(key, context, length) == expected


def test_a_fingerprint_tells_keys_apart_and_no_key() -> None:
    """Know a key by its fingerprint, which is the same each time, another for each key, and holds nothing of it."""
    assert Encryption([NEW]).fingerprints == SEAL.fingerprints[1:]
    assert len(set(SEAL.fingerprints)) == 2
    assert NEW.encode()[:4] not in SEAL.fingerprints[1]


def test_a_key_is_needed() -> None:
    """Without a key nothing is stored in clear."""
    with pytest.raises(ValueError, match="needs a key"):
        Encryption([])


def test_importing_is_cheap() -> None:
    """The module can be imported by every command: cryptography is loaded with the first Seal."""
    program = "import sys, relay.security.encryption; sys.exit('cryptography' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
