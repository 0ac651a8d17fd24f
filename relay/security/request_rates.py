"""Limits requests in a second: of each API key, and of each address those that no key proves.

The counts are those of one process, in memory of a fixed size. This module knows no HTTP: `web/request_rates.py` says
which requests count.
"""

import math
from typing import Final

import msgspec

from relay.errors import Bound, TooManyRequests

NAMES_MAX: Final = 10_000
"""How many keys, and how many addresses, are remembered."""
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
    """A key that is looked up: its digest, where it comes from, and whether that is counted against its address."""

    digest: bytes
    address: str
    counted: bool


class RequestRates:
    """The rates of one process; every method's `now_ms` is monotonic."""

    def __init__(self, keys: TokenBuckets, addresses: TokenBuckets) -> None:
        self._keys = keys
        self._addresses = addresses
        self._proven: dict[bytes, None] = {}
        """Digests of the keys that have proven themselves, the latest last."""
        self._mentioned_at: dict[str, int] = {}

    def take_of_key(self, key_id: str, now_ms: int) -> None:
        """Count a request with a valid key; raise TooManyRequests for one over the key's rate."""
        if wait_ms := self._keys.take(key_id, now_ms):
            wait_s = math.ceil(wait_ms / 1000)
            rate = f"an API key may make {self._keys.per_s:g} requests a second"
            raise TooManyRequests(f"{rate}; send this one again in {wait_s} s", wait_s, bound=Bound.RATE_PER_KEY)

    def take_of_address(self, address: str, now_ms: int) -> None:
        """Count a request that nothing proves; raise TooManyRequests for one over its address's rate."""
        if wait_ms := self._addresses.take(address, now_ms):
            wait_s = math.ceil(wait_ms / 1000)
            rate = f"without a valid API key an address may make {self._addresses.per_s:g} requests a second"
            raise TooManyRequests(f"{rate}; send this one again in {wait_s} s", wait_s, bound=Bound.RATE_PER_ADDRESS)

    def begin_proof(self, digest: bytes, address: str, now_ms: int) -> Proof:
        """Count a key that is to be looked up as a wrong one; raise TooManyRequests over its address's rate.

        One that has proven itself before is looked up in any case: a client that tries keys does not shut out another
        one behind the same address.
        """
        counted = digest not in self._proven
        if counted:
            self.take_of_address(address, now_ms)
        return Proof(digest, address, counted)

    def end_proof(self, proof: Proof, now_ms: int, *, valid: bool | None) -> None:
        """Correct what `begin_proof` counted: the key was valid, or wrong, or (None) could not be looked up."""
        if valid is not False and proof.counted:
            self._addresses.give_back(proof.address)
        if valid:
            self._proven[proof.digest] = None
            if len(self._proven) > NAMES_MAX:
                del self._proven[next(iter(self._proven))]
        elif valid is False and not proof.counted:
            self._proven.pop(proof.digest, None)
            self.take_of_address(proof.address, now_ms)

    def may_mention(self, name: str, now_ms: int) -> bool:
        """Return whether the log may mention a key or an address: not twice in `MENTION_EVERY_MS`."""
        if now_ms - self._mentioned_at.get(name, -MENTION_EVERY_MS) < MENTION_EVERY_MS:
            return False
        if len(self._mentioned_at) >= NAMES_MAX:
            recent = [(at, one) for one, at in self._mentioned_at.items() if now_ms - at < MENTION_EVERY_MS]
            self._mentioned_at = {one: at for at, one in sorted(recent)[-NAMES_MAX // 2 :]}
        self._mentioned_at[name] = now_ms
        return True
