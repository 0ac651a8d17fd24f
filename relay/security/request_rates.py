"""Limits requests in a second: of each API key, and of each address those that nothing proves, and unknown keys.

The counts are those of one process, in memory of a fixed size. This module knows no HTTP: `web/request_rates.py` says
which requests count.
"""

import math
from typing import Final

import msgspec

from relay.errors import Bound, TooManyRequests

NAMES_MAX: Final = 10_000
"""How many keys, addresses and proven keys are remembered."""
MENTION_EVERY_MS: Final = 60_000
"""The log mentions the refusals of one key or address once in this time."""
_NS: Final = 1_000_000


class TokenBuckets:
    """A token bucket for each name: it holds `burst` tokens and gets `per_s` a second; 0 a second limits nothing.

    A bucket is kept as one number: when it is full again. A full one is not kept. Times are monotonic milliseconds
    outside, and whole nanoseconds inside, so that no rounding adds a token.
    """

    def __init__(self, per_s: float, burst: int, names_max: int = NAMES_MAX) -> None:
        self.per_s = per_s
        self._interval_ns = math.ceil(1000 * _NS / per_s) if per_s else 0
        self._capacity_ns = burst * self._interval_ns
        self._names_max = names_max
        self._full_at_ns: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._full_at_ns)

    def take(self, name: str, now_ms: int) -> int:
        """Take a token and return 0; if there is none, return in how many milliseconds there is one."""
        if not self._interval_ns:
            return 0
        now_ns = now_ms * _NS
        full_at_ns = max(self._full_at_ns.get(name, 0), now_ns) + self._interval_ns
        missing_ns = full_at_ns - now_ns - self._capacity_ns
        if missing_ns > 0:
            return -(-missing_ns // _NS)
        if len(self._full_at_ns) >= self._names_max and name not in self._full_at_ns:
            self._make_room(now_ns)
        self._full_at_ns[name] = full_at_ns
        return 0

    def give_back(self, name: str) -> None:
        """Put a token that was taken back."""
        if name in self._full_at_ns:
            self._full_at_ns[name] -= self._interval_ns

    def _make_room(self, now_ns: int) -> None:
        """Forget the buckets that are full again; of the others keep the emptiest, in half of the places.

        So a client with many addresses does not make relay forget the one that it has used up. Sorting for each
        newcomer would be slow, so half of the places become free together.
        """
        used = ((full_at_ns, name) for name, full_at_ns in self._full_at_ns.items() if full_at_ns > now_ns)
        emptiest = sorted(used, reverse=True)[: self._names_max // 2]
        self._full_at_ns = {name: full_at_ns for full_at_ns, name in emptiest}


class Proof(msgspec.Struct, frozen=True):
    """A key that is looked up: its digest, the address that sent it, and whether that is counted for the address."""

    digest: bytes
    address: str
    counted: bool


class RequestRates:
    """The rates of one process; every method's `now_ms` is monotonic.

    Each address has two buckets: `addresses` for requests that nothing proves, `lookups` for keys that have not proven
    themselves in this process. So requests without a key do not use up what a valid key's first request needs.
    """

    def __init__(self, keys: TokenBuckets, addresses: TokenBuckets, lookups: TokenBuckets) -> None:
        self._keys = keys
        self._addresses = addresses
        self._lookups = lookups
        self._proven: dict[bytes, str] = {}
        """The ids of the keys that have proven themselves, by their digests; the key that did so last is the last."""
        self._mentioned_at: dict[str, int] = {}

    def take_of_key(self, key_id: str, now_ms: int) -> None:
        """Count a request with a valid key; raise TooManyRequests for one over the key's rate."""
        if wait_ms := self._keys.take(key_id, now_ms):
            rate = f"an API key may make {self._keys.per_s:g} requests a second"
            raise _refusal(rate, wait_ms, Bound.RATE_PER_KEY)

    def take_of_address(self, address: str, now_ms: int) -> None:
        """Count a request that nothing proves; raise TooManyRequests for one over its address's rate."""
        if wait_ms := self._addresses.take(address, now_ms):
            rate = f"without a valid API key an address may make {self._addresses.per_s:g} requests a second"
            raise _refusal(rate, wait_ms, Bound.RATE_PER_ADDRESS)

    def prove(self, digest: bytes, key_id: str) -> None:
        """Remember a key as valid: one that was looked up, made here, or in use before this process began.

        It is still looked up for each request. Beyond NAMES_MAX the key that has proven itself least recently is
        forgotten.
        """
        self._proven.pop(digest, None)
        self._proven[digest] = key_id
        if len(self._proven) > NAMES_MAX:
            del self._proven[next(iter(self._proven))]

    def proven(self, digest: bytes) -> str | None:
        """Return the id of a key that has proven itself; None for any other key."""
        return self._proven.get(digest)

    def begin_proof(self, digest: bytes, address: str, now_ms: int) -> Proof:
        """Count a key that is to be looked up as a wrong one; raise TooManyRequests over its address's rate.

        A key that has proven itself is looked up in any case: a client that tries keys does not lock out another
        client at the same address whose key is remembered.
        """
        counted = digest not in self._proven
        if counted:
            self._take_lookup(address, now_ms)
        return Proof(digest, address, counted)

    def end_proof(self, proof: Proof, key_id: str | None, now_ms: int) -> None:
        """Remember a valid key by its id, and count it no longer; None: it was wrong, and is counted if it was not yet.

        Raise TooManyRequests for a key that was proven, is revoked now, and whose address is over its rate.
        """
        if key_id is not None:
            self.cancel_proof(proof)
            self.prove(proof.digest, key_id)
        elif not proof.counted:
            self._proven.pop(proof.digest, None)
            self._take_lookup(proof.address, now_ms)

    def cancel_proof(self, proof: Proof) -> None:
        """Take back what `begin_proof` counted: the key was valid, or could not be looked up."""
        if proof.counted:
            self._lookups.give_back(proof.address)

    def _take_lookup(self, address: str, now_ms: int) -> None:
        """Count a key that has not proven itself; raise TooManyRequests over its address's rate."""
        if wait_ms := self._lookups.take(address, now_ms):
            rate = f"an address may try {self._lookups.per_s:g} API keys a second that this process does not know"
            raise _refusal(rate, wait_ms, Bound.RATE_PER_ADDRESS)

    def may_mention(self, name: str, now_ms: int) -> bool:
        """Return whether the log may mention a key or an address: not twice in `MENTION_EVERY_MS`."""
        if now_ms - self._mentioned_at.get(name, -MENTION_EVERY_MS) < MENTION_EVERY_MS:
            return False
        if len(self._mentioned_at) >= NAMES_MAX:
            recent = [(at, one) for one, at in self._mentioned_at.items() if now_ms - at < MENTION_EVERY_MS]
            self._mentioned_at = {one: at for at, one in sorted(recent)[-NAMES_MAX // 2 :]}
        self._mentioned_at[name] = now_ms
        return True


def _refusal(rate: str, wait_ms: int, bound: Bound) -> TooManyRequests:
    """Return the refusal of a request over a rate, which passes after so many milliseconds."""
    wait_s = math.ceil(wait_ms / 1000)
    return TooManyRequests(f"{rate}; send this one again in {wait_s} s", wait_s, bound=bound)
