"""HMAC-SHA256 with a key that is used many times."""

import hmac

from hypothesis import given
from hypothesis import strategies as st

from relay.security.hmac_key import HmacKey
from tests.support.rows import rows


@given(st.binary(max_size=200), st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_it_makes_the_codes_of_the_standard_library(key: bytes, messages: list[bytes]) -> None:
    """Return for each message of one key what `hmac.digest` returns, whatever was digested before."""
    made = HmacKey(key)
    assert [made.digest(message) for message in messages] == [hmac.digest(key, one, "sha256") for one in messages]


@rows("size", [0, 63, 64, 65, 128])
def test_a_key_longer_than_a_block_is_hashed(size: int) -> None:
    """Use a key of up to 64 bytes as it is, and the hash of a longer one."""
    assert HmacKey(b"k" * size).digest(b"m") == hmac.digest(b"k" * size, b"m", "sha256")


def test_it_makes_the_codes_of_rfc_4231() -> None:
    """Return the code of the RFC's second test case."""
    code = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert HmacKey(b"Jefe").digest(b"what do ya want for nothing?").hex() == code
