"""Callback tokens: what they carry, what they refuse, and that nothing makes reading one fail."""

import base64
import gc
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous.signer import Signer

from relay.model import ids
from relay.security.callback_tokens import CallbackToken, CallbackTokens
from relay.security.hmac_key import HmacKey
from tests.support.rows import rows

OLD, NEW = "k1-" + "a" * 32, "k2-" + "b" * 32
PROVIDERS = ["evolink", "relaydance", "kinovi", "stablestudio", "x402org", "sandbox"]
JOB = "job_01m7y6jkydfp8vj4v1bgexb4vb"
NOW = 1_763_700_000_123
LATER = NOW + 3_600_000
ALPHABET = string.ascii_letters + string.digits + "-_"

TOKENS = CallbackTokens([OLD, NEW], "production")
TOKEN = TOKENS.make("evolink", JOB, LATER)

job_ids = st.integers(0, (1 << 128) - 1).map(lambda bits: ids.JOB + ids.encode(bits))
times = st.integers(0, 1_000_000_000_000_000)


@given(st.sampled_from(PROVIDERS), job_ids, times, st.text(max_size=20))
def test_a_token_says_what_it_was_made_of(provider: str, job_id: str, expires_at_ms: int, environment: str) -> None:
    """The job comes back, its own environment is not foreign, and the expiry is rounded up to a second, never down."""
    tokens = CallbackTokens([NEW], environment)
    claims = tokens.verify(provider, tokens.make(provider, job_id, expires_at_ms), expires_at_ms - 1)
    assert claims is not None
    assert (claims.job_id, claims.other_environment) == (job_id, False)
    assert 0 <= claims.expires_at_ms - expires_at_ms < 1000


@given(job_ids, times)
def test_a_token_survives_every_url(job_id: str, expires_at_ms: int) -> None:
    """Tokens are 79 letters, digits, `-` and `_`, and show neither job, provider, environment nor expiry."""
    token = TOKENS.make("evolink", job_id, expires_at_ms)
    assert re.fullmatch(r"[A-Za-z0-9_-]{79}", token)
    assert job_id not in token
    assert job_id.removeprefix(ids.JOB) not in token
    assert not any(word in token for word in ("evolink", "production"))


def test_a_token_is_the_same_each_time() -> None:
    """The same job and expiry give the same token, so that a URL can be made again and need not be stored."""
    assert TOKENS.make("evolink", JOB, LATER) == TOKEN
    assert CallbackTokens([NEW], "production").make("evolink", JOB, LATER) == TOKEN


def test_this_format_stays_readable() -> None:
    """A token that an earlier release handed to a provider still reads: providers hold them for days."""
    held = "AWOrjhjvAGkf_MABofxpT819kbkTYVwd1ZNrGUdV8Au6NyJRfTDaU5JWqGlN_5LA-xAJIcy8LBUdl8k"
    assert TOKENS.verify("evolink", held, NOW) == CallbackToken(JOB, False, 1_763_704_000_000)


@rows("other", [name for name in PROVIDERS if name != "evolink"] + ["", "evolink ", "EVOLINK", "é"])
def test_another_providers_token_is_refused(other: str) -> None:
    """A token opens the callbacks of its own provider and of no other."""
    assert TOKENS.verify(other, TOKEN, NOW) is None


def test_expiry_is_exact() -> None:
    """A token reads until the millisecond before it expires."""
    claims = TOKENS.verify("evolink", TOKEN, NOW)
    assert claims is not None
    assert TOKENS.verify("evolink", TOKEN, claims.expires_at_ms - 1) == claims
    assert TOKENS.verify("evolink", TOKEN, claims.expires_at_ms) is None


def test_another_environments_token_is_foreign() -> None:
    """With shared keys, the other environment's job is named and marked: it is kept as an orphan, not thrown away."""
    claims = CallbackTokens([NEW], "staging").verify("evolink", TOKEN, NOW)
    assert claims is not None
    assert claims.other_environment
    assert claims.job_id == JOB


def test_keys_rotate() -> None:
    """The newest key signs; a token of the old key reads for as long as that key is listed, and no longer."""
    before = CallbackTokens([OLD], "production").make("evolink", JOB, LATER)
    assert before != TOKEN
    assert TOKENS.verify("evolink", before, NOW) == TOKENS.verify("evolink", TOKEN, NOW)
    assert CallbackTokens([NEW], "production").verify("evolink", before, NOW) is None
    assert CallbackTokens([OLD], "production").verify("evolink", TOKEN, NOW) is None


def test_a_key_is_needed() -> None:
    """Without a key nothing is signed in silence."""
    with pytest.raises(ValueError, match="need a key"):
        CallbackTokens([], "production")


@rows("length", range(len(TOKEN)))
def test_a_truncated_token_is_refused(length: int) -> None:
    """No beginning of a token is a token, and no end of it either."""
    assert TOKENS.verify("evolink", TOKEN[:length], NOW) is None
    assert TOKENS.verify("evolink", TOKEN[len(TOKEN) - length :], NOW) is None


@rows("position", range(len(TOKEN)))
def test_one_other_letter_is_refused(position: int) -> None:
    """Each letter has one right value, the last one too, whose spare bits a lenient decoder drops."""
    for letter in ALPHABET:
        if letter != TOKEN[position]:
            assert TOKENS.verify("evolink", TOKEN[:position] + letter + TOKEN[position + 1 :], NOW) is None


@rows(
    "token",
    [
        *(
            TOKEN + "=",
            TOKEN + "A",
            "A" + TOKEN,
            TOKEN + "\n",
            " " + TOKEN,
            TOKEN + "/",
            TOKEN + "?taskId=1",
            TOKEN * 2,
        ),
        *(TOKEN.upper(), TOKEN.lower(), TOKEN.swapcase(), TOKEN[:-1] + "\0", TOKEN[:-1] + "é", TOKEN[:-1] + "\ud800"),
        *(
            TOKEN[:40] + "." + TOKEN[40:],
            TOKEN[:40] + "!" + TOKEN[40:],
            TOKEN[:-1] + "%41",
            "",
            "A" * 79,
            "A" * 100_000,
        ),
    ],
)
def test_no_other_spelling_is_a_token(token: str) -> None:
    """Padding, blanks, escapes, other case, odd characters and any length are refused quietly."""
    assert TOKENS.verify("evolink", token, NOW) is None


@given(st.text(st.characters()) | st.text(ALPHABET, min_size=79, max_size=79), st.text(st.characters(), max_size=20))
def test_reading_never_fails(token: str, provider: str) -> None:
    """Any text for any provider is no token, and never an exception."""
    assert TOKENS.verify(provider, token, NOW) is None


@given(st.binary(min_size=27, max_size=27) | st.binary(min_size=25, max_size=25).map(lambda rest: b"\x01c" + rest))
def test_only_this_version_and_purpose_count(payload: bytes) -> None:
    """A payload that a key signed counts only with the version and the purpose of a callback token."""
    signer = TOKENS._signer("evolink")
    text = base64.urlsafe_b64encode(payload).decode()
    claims = TOKENS.verify("evolink", text + signer.get_signature(text).decode(), -1)
    assert (claims is not None) == payload.startswith(b"\x01c")


@pytest.mark.parametrize("token", ["", "é", TOKEN[:-1], TOKEN + "A", "A" * 79, "B" + TOKEN[1:], "x" * 10_000])
def test_refusals_cost_the_same_work(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misshapen token is checked against every key, as a wrong one is: the time of the answer tells nothing."""
    tokens, digest, lengths = CallbackTokens([OLD, NEW], "production"), HmacKey.digest, []
    assert tokens.verify("evolink", TOKEN, NOW) is not None  # from here on the keys are derived

    def counting(key: HmacKey, message: bytes) -> bytes:
        lengths.append(len(message))
        return digest(key, message)

    monkeypatch.setattr(HmacKey, "digest", counting)
    assert tokens.verify("evolink", token, NOW) is None
    assert lengths == [36, 36]


def test_names_from_urls_do_not_pile_up() -> None:
    """A stream of made-up providers leaves a bounded number of signers behind."""
    tokens, before = CallbackTokens([NEW], "production"), signers()
    for number in range(200):
        assert tokens.verify(f"made-up-{number}", TOKEN, NOW) is None
    assert 0 < signers() - before <= 64


def signers() -> int:
    """Return how many signers are in memory."""
    gc.collect()
    return sum(isinstance(one, Signer) for one in gc.get_objects())


@rows("job_id", ["", "job_", "job_1", "01m7y6jkydfp8vj4v1bgexb4v", JOB + "0"])
def test_only_ids_get_a_token(job_id: str) -> None:
    """What is no id is a ValueError when the token is made."""
    with pytest.raises(ValueError, match="not an id"):
        TOKENS.make("evolink", job_id, LATER)
