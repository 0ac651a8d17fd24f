"""Token buckets: never more than the burst and the rate allow, one name apart from another, in bounded memory."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import Bound, TooManyRequests
from relay.security import request_rates
from relay.security.request_rates import MENTION_EVERY_MS, NAMES_MAX, RequestRates, TokenBuckets
from relay.web.request_rates import network_of
from tests.support.rows import rows

rates = st.sampled_from([0.5, 1.0, 3.0, 7.0, 50.0, 999.0, 1000.0, 1_000_000.0]) | st.floats(0.1, 10_000)
steps = st.lists(st.integers(0, 5) | st.integers(0, 4_000), max_size=200)


@given(rates, st.integers(1, 20), steps, st.integers(0, 1 << 45))
def test_no_window_has_more_than_the_burst_and_the_rate_allow(
    per_s: float, burst: int, waits_ms: list[int], began_ms: int
) -> None:
    """Let through at most `burst + per_s * t` requests in every window of `t` seconds, however they come."""
    buckets, now_ms, passed = TokenBuckets(per_s, burst), began_ms, []
    for wait_ms in waits_ms:
        now_ms += wait_ms
        if buckets.take("a", now_ms) == 0:
            passed.append(now_ms)
    for first, at_ms in enumerate(passed):
        for number, later_ms in enumerate(passed[first:], 1):
            assert number <= burst + per_s * (later_ms - at_ms) / 1000


@given(rates, st.integers(1, 20), steps)
def test_a_refusal_says_when_there_is_a_token_again(per_s: float, burst: int, waits_ms: list[int]) -> None:
    """Return the first millisecond at which the request passes: not one earlier, and not one later."""
    buckets, now_ms = TokenBuckets(per_s, burst), 0
    for step_ms in waits_ms:
        now_ms += step_ms
        if wait_ms := buckets.take("a", now_ms):
            assert buckets.take("a", now_ms + wait_ms - 1) == 1
            now_ms += wait_ms
            assert buckets.take("a", now_ms) == 0


@given(rates, st.integers(1, 20), st.integers(0, 1 << 45))
def test_a_full_bucket_holds_the_burst(per_s: float, burst: int, now_ms: int) -> None:
    """Let through the whole burst in one moment, and not one request more, unless the rate makes it within that."""
    buckets = TokenBuckets(per_s, burst)
    assert [buckets.take("a", now_ms) for _ in range(burst)] == [0] * burst
    assert buckets.take("a", now_ms) > 0


def test_a_token_comes_after_its_interval() -> None:
    """Refuse just before the interval has passed, and pass then; a full bucket gets no more tokens."""
    buckets = TokenBuckets(per_s=4, burst=2)
    assert [buckets.take("a", 1_000) for _ in range(3)] == [0, 0, 250]
    assert [buckets.take("a", 1_249), buckets.take("a", 1_250), buckets.take("a", 1_250)] == [1, 0, 250]
    assert [buckets.take("a", 999_000) for _ in range(3)] == [0, 0, 250]


def test_without_a_rate_nothing_is_limited_or_kept() -> None:
    """Let everything through at 0 a second."""
    buckets = TokenBuckets(per_s=0, burst=1)
    assert [buckets.take("a", 1_000) for _ in range(1_000)] == [0] * 1_000
    assert len(buckets) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 300)), max_size=80))
def test_one_name_takes_nothing_of_another(requests: list[tuple[str, int]]) -> None:
    """Answer each name as if it were alone."""
    shared, alone, now_ms = TokenBuckets(10, 3), {name: TokenBuckets(10, 3) for name in "abc"}, 0
    for name, wait_ms in requests:
        now_ms += wait_ms
        assert shared.take(name, now_ms) == alone[name].take(name, now_ms)


@given(st.integers(2, 40), st.lists(st.integers(0, 60), min_size=1, max_size=300))
def test_many_names_make_no_more_memory(names_max: int, names: list[int]) -> None:
    """Keep at most so many buckets, whatever names come."""
    buckets = TokenBuckets(0.001, 5, names_max)
    for name in names:
        buckets.take(str(name), 1_000)
        assert len(buckets) <= names_max


def test_many_names_do_not_free_the_one_that_is_used_up() -> None:
    """Forget the fullest buckets first, so that a client does not get another burst by other addresses."""
    buckets = TokenBuckets(per_s=1, burst=3, names_max=100)
    for _ in range(3):
        buckets.take("guesser", 0)
    for number in range(1_000):
        assert buckets.take(f"other {number}", 0) == 0
        assert buckets.take("guesser", 0) == 1_000
    assert len(buckets) <= 100


def test_full_buckets_make_room_first() -> None:
    """Keep every bucket that is not full while there are full ones to forget."""
    buckets = TokenBuckets(per_s=1, burst=2, names_max=10)
    for number in range(6):
        buckets.take(f"earlier {number}", 0)
    for number in range(4):
        buckets.take(f"used up {number}", 1_000)
        buckets.take(f"used up {number}", 1_000)
    buckets.take("new", 1_000)
    assert len(buckets) == 5
    assert [buckets.take(f"used up {number}", 1_000) for number in range(4)] == [1_000] * 4


def test_a_token_is_given_back() -> None:
    """Pass one request more after a token came back; a name that is not kept is full anyway."""
    buckets = TokenBuckets(per_s=1, burst=1)
    buckets.give_back("a")
    assert (buckets.take("a", 0), buckets.take("a", 0)) == (0, 1_000)
    buckets.give_back("a")
    assert (buckets.take("a", 0), buckets.take("a", 0)) == (0, 1_000)


def limits(per_key: float = 1, per_address: float = 1, burst: int = 2) -> RequestRates:
    """Return rates with small bursts."""
    addresses, lookups = (TokenBuckets(per_address, burst) for _ in range(2))
    return RequestRates(TokenBuckets(per_key, burst), addresses, lookups)


def refused(act: Callable[[], object]) -> tuple[Bound | None, int]:
    """Return the limit that refuses, and after how many seconds it may pass."""
    with pytest.raises(TooManyRequests) as caught:
        act()
    return caught.value.bound, caught.value.retry_after_s


def test_a_refusal_names_its_limit_and_whole_seconds() -> None:
    """Round the time up to whole seconds, since Retry-After has no parts of one."""
    of = limits(per_key=0.4, per_address=10)
    for _ in range(2):
        of.take_of_key("key", 0)
        of.take_of_address("192.0.2.1", 0)
    assert refused(lambda: of.take_of_key("key", 0)) == (Bound.RATE_PER_KEY, 3)
    assert refused(lambda: of.take_of_key("key", 501)) == (Bound.RATE_PER_KEY, 2)
    assert refused(lambda: of.take_of_address("192.0.2.1", 0)) == (Bound.RATE_PER_ADDRESS, 1)
    of.take_of_key("another key", 0)
    of.take_of_address("192.0.2.2", 0)


def test_a_guess_is_refused_before_it_is_looked_up() -> None:
    """Look up as many wrong keys as the bucket has tokens, although their look-ups overlap."""
    of = limits()
    begun = [of.begin_proof(bytes([number]), "192.0.2.1", 0) for number in range(2)]
    assert refused(lambda: of.begin_proof(b"third", "192.0.2.1", 0)) == (Bound.RATE_PER_ADDRESS, 1)
    for proof in begun:
        of.end_proof(proof, None, 0)
    assert refused(lambda: of.begin_proof(b"third", "192.0.2.1", 999)) == (Bound.RATE_PER_ADDRESS, 1)
    of.begin_proof(b"third", "192.0.2.1", 1_000)


def test_requests_that_nothing_proves_use_up_no_look_up() -> None:
    """Look up a key that this process does not know, however many requests without a key its address makes."""
    of = limits()
    for _ in range(2):
        of.take_of_address("192.0.2.1", 0)
    assert refused(lambda: of.take_of_address("192.0.2.1", 0)) == (Bound.RATE_PER_ADDRESS, 1)
    for key in (b"one", b"other"):
        assert of.begin_proof(key, "192.0.2.1", 0).counted
    assert refused(lambda: of.begin_proof(b"third", "192.0.2.1", 0)) == (Bound.RATE_PER_ADDRESS, 1)


def test_wrong_keys_use_up_no_request_that_nothing_proves() -> None:
    """Answer requests without a key while the look-ups of their address are used up."""
    of = limits()
    for number in range(2):
        of.end_proof(of.begin_proof(bytes([number]), "192.0.2.1", 0), None, 0)
    of.take_of_address("192.0.2.1", 0)


def test_a_valid_key_costs_its_address_nothing() -> None:
    """Give the token back of a key that was valid, or that the database could not look up, also of two at a time."""
    of = limits()
    for _ in range(3):
        for proof in [of.begin_proof(b"good", "192.0.2.1", 0) for _ in range(2)]:
            of.cancel_proof(proof)
    for proof in [of.begin_proof(b"good", "192.0.2.1", 0) for _ in range(2)]:
        of.end_proof(proof, "key_1", 0)
    for number in range(2):
        of.begin_proof(bytes([number]), "192.0.2.1", 0)
    assert refused(lambda: of.begin_proof(b"third", "192.0.2.1", 0)) == (Bound.RATE_PER_ADDRESS, 1)


def test_a_key_that_has_proven_itself_passes_beside_guesses() -> None:
    """Look up a key that was valid before, whatever others behind its address try; a revoked one becomes a guess."""
    of = limits()
    of.end_proof(of.begin_proof(b"good", "192.0.2.1", 0), "key_1", 0)
    for number in range(2):
        of.end_proof(of.begin_proof(bytes([number]), "192.0.2.1", 0), None, 0)
    assert of.proven(b"good") == "key_1"
    proof = of.begin_proof(b"good", "192.0.2.1", 0)
    of.end_proof(proof, "key_1", 0)
    revoked = of.begin_proof(b"good", "192.0.2.1", 0)
    assert refused(lambda: of.end_proof(revoked, None, 0)) == (Bound.RATE_PER_ADDRESS, 1)
    assert of.proven(b"good") is None
    assert refused(lambda: of.begin_proof(b"good", "192.0.2.1", 0)) == (Bound.RATE_PER_ADDRESS, 1)


def test_a_proven_key_whose_look_up_fails_stays_proven() -> None:
    """Count nothing, and forget nothing, where the database could not say whether a proven key is still valid."""
    of = limits()
    of.prove(b"good", "key_1")
    of.cancel_proof(of.begin_proof(b"good", "192.0.2.1", 0))
    assert of.proven(b"good") == "key_1"


def test_a_wrong_key_is_none_that_has_proven_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember valid keys alone, and no more than so many."""
    monkeypatch.setattr(request_rates, "NAMES_MAX", 3)
    of = limits(burst=1_000)
    for number in range(9):
        key_id = f"key_{number}" if number % 2 == 0 else None
        of.end_proof(of.begin_proof(bytes([number]), "192.0.2.1", 0), key_id, 0)
    known = [of.proven(bytes([number])) for number in range(9)]
    assert known == [None, None, None, None, "key_4", None, "key_6", None, "key_8"]


def test_the_key_that_proved_itself_least_recently_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the oldest key while it is used, and forget one that is not."""
    monkeypatch.setattr(request_rates, "NAMES_MAX", 3)
    of = limits(burst=1_000)
    for number in range(9):
        for key in (b"busy", bytes([number])):
            of.end_proof(of.begin_proof(key, "192.0.2.1", 0), key.hex(), 0)
    assert [of.proven(key) is not None for key in (b"busy", b"\6", b"\7", b"\x08")] == [True, False, True, True]


def test_the_log_mentions_a_name_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mention each name again after a minute, and remember no more names than so many."""
    monkeypatch.setattr(request_rates, "NAMES_MAX", 4)
    of = limits()
    assert [of.may_mention("a", 0), of.may_mention("a", MENTION_EVERY_MS - 1), of.may_mention("b", 0)] == [1, 0, 1]
    assert of.may_mention("a", MENTION_EVERY_MS)
    for number in range(50):
        assert of.may_mention(f"other {number}", MENTION_EVERY_MS)
        assert len(of._mentioned_at) <= 4


def test_the_page_says_how_many_are_remembered() -> None:
    """Name in docs/api.md how many keys and addresses are remembered, and how often the log mentions one."""
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    assert f"remembers {NAMES_MAX:,} keys and {NAMES_MAX:,} addresses" in page
    assert ("once a minute for each" in page, MENTION_EVERY_MS) == (True, 60_000)


@rows(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2:3::4", "2001:db8:1:2:ffff::", True),
        ("2001:db8:1:2::", "2001:db8:1:3::", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "64:ff9b::192.0.2.1", True),
        ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", False),
        ("64:ff9b::1:0:192.0.2.1", "192.0.2.1", False),
        (None, "no address", True),
        (None, "192.0.2.1", False),
    ],
)
def test_a_client_counts_by_its_network(one: str | None, other: str, same: bool) -> None:
    """Count an IPv6 client by its /64, since one client has all of it, and an IPv4 client by its address.

    An IPv4 client that comes over NAT64, as an IPv6 address that ends with its own, counts by that.
    """
    assert (network_of(one) == network_of(other)) == same
