"""One endpoint's way out: its room, its rate, its breaker. What a lane holds back costs no attempt.

    closed ──ten failures in a row──▶ open ──its pause is over──▶ half open: one probe at a time
       ▲                                ▲                              │
       └──────────── a success ─────────┼──────── a success ───────────┤
                                        └── a failure, twice the pause ┘

A lane begins with two at once, has room for one more after each success, up to its endpoint's limit, and for half as
many after a failure: receivers that hang hold few of the connections that all lanes share. A receiver that is busy
(429, 502, 503, 504) pauses its lane for as long as it says, or for 1, 2, 4 … seconds.

A lane holds no more than it can begin while the leases last: what waits longer than that is given back to the table. A
rate is paid for when an attempt begins, and what was paid for one that did not begin counts for the next.
"""

from collections import deque
from typing import Final

from relay.backoff import RETRY_AFTER_MAX_MS

WINDOW: Final = 2
FAILURES_MAX: Final = 10
PAUSE_MS: Final = 30_000
PAUSE_MAX_MS: Final = 3_600_000
BUSY_MS: Final = 1_000
BUSY_MAX_MS: Final = 60_000
RETRY_EVERY: Final = 4
"""While fresh deliveries wait, every fourth start is a retry: neither starves the other."""
WAITING_MAX: Final = 1_000
BUSY_STATUSES: Final = frozenset({429, 502, 503, 504})


class Lane:
    """One endpoint's deliveries in memory, and whether one may start; times are monotonic milliseconds."""

    def __init__(self, endpoint_id: str, project_id: str = "") -> None:
        self.endpoint_id = endpoint_id
        self.project_id = project_id
        self.in_flight = 0
        self.more = False
        """Whether the table is known, or likely, to hold more that is due for it."""
        self._in_flight_max = 1  # until the endpoint's own settings are known, with its first delivery
        self._window = WINDOW
        self._rate_per_s: float | None = None
        self._timeout_ms = 0
        self._duration_ms = 0.0
        self.fresh: deque[tuple[str, int]] = deque()
        self.retries: deque[tuple[str, int]] = deque()
        self._started = 0
        self._paid_until = 0.0
        self._failures = 0
        self._busy_answers = 0
        self._pause_ms = 0
        self._held_until = 0
        self._paused_until = 0

    @property
    def waiting(self) -> int:
        """How many wait here."""
        return len(self.fresh) + len(self.retries)

    @property
    def begins(self) -> int:
        """How many of those that wait may begin at once; a rate lets them begin one by one."""
        return 0 if self._rate_per_s else max(0, self._room_max - self.in_flight)

    @property
    def idle(self) -> bool:
        """Whether the lane holds nothing, and has nothing to remember."""
        remembers = self._failures or self._busy_answers or self._rate_per_s
        return not (self.waiting or self.in_flight or remembers)

    @property
    def held_until(self) -> int | None:
        """When a lane whose breaker is open sends its next probe; None while it is closed."""
        return self._held_until if self._pause_ms else None

    def capacity(self, lease_ms: int) -> int:
        """How many may wait here so that each begins while enough of its lease is left for its attempt."""
        spare_ms, most = max(0, lease_ms - self._timeout_ms), WAITING_MAX
        if self._rate_per_s:
            most = min(most, int(spare_ms * self._rate_per_s / 1000))
        if self._duration_ms:
            most = min(most, int(spare_ms * self._room_max / self._duration_ms))
        return max(1, most)

    def wants(self, now_ms: int, lease_ms: int) -> int:
        """How many more are to be claimed for it: none while it is held back, or has enough for half of the time."""
        capacity = self.capacity(lease_ms)
        if now_ms < self._held_until or now_ms < self._paused_until or self.waiting > capacity // 2:
            return 0
        if self.opens_at(now_ms) > now_ms + max(0, lease_ms - self._timeout_ms):
            return 0
        return capacity + self.begins - self.waiting

    def crowded(self, now_ms: int) -> bool:
        """Whether nothing more should be claimed for it: what waits fills it, or it is held back."""
        return self.in_flight + self.waiting >= self._room_max or self.opens_at(now_ms) > now_ms

    def outlived(self, now_ms: int) -> list[tuple[str, int]]:
        """Return what has waited for too long to begin within its lease; it is here no longer."""
        found = []
        for waiting in (self.fresh, self.retries):
            while waiting and waiting[0][1] - self._timeout_ms < now_ms:
                found.append(waiting.popleft())
        return found

    def outlives_at(self) -> int | None:
        """When the first of what waits will have waited for too long."""
        ends = [waiting[0][1] for waiting in (self.fresh, self.retries) if waiting]
        return min(ends) - self._timeout_ms + 1 if ends else None

    def queue(self, delivery_id: str, leased_until: int, *, retry: bool) -> bool:
        """Takes a delivery; False where the lane is full, so that it is left to the table."""
        if self.waiting >= WAITING_MAX:
            return False
        (self.retries if retry else self.fresh).append((delivery_id, leased_until))
        return True

    def opens_at(self, now_ms: int) -> int:
        """When the next may start, its room aside."""
        return max(self._held_until, self._paused_until, int(self._paid_until)) if self._held(now_ms) else now_ms

    def take(self, now_ms: int) -> tuple[str, int] | None:
        """The next delivery to start, counted as in flight; None when none may."""
        if not self.waiting or self.in_flight >= self._room_max or self._held(now_ms):
            return None
        self._started += 1
        turn = self.retries if self.retries and (not self.fresh or self._started % RETRY_EVERY == 0) else self.fresh
        self.in_flight += 1
        if self._rate_per_s:
            self._paid_until = max(self._paid_until, now_ms) + 1000 / self._rate_per_s
        return turn.popleft()

    def unpaid(self) -> None:
        """What was taken last did not begin: its slot is the next one's."""
        if self._rate_per_s:
            self._paid_until -= 1000 / self._rate_per_s

    def learn(self, in_flight_max: int, rate_per_s: float | None, now_ms: int, timeout_ms: int = 0) -> None:
        """The endpoint's settings, as they are with each delivery; a rate counts from the first one on."""
        if rate_per_s and not self._rate_per_s and self.in_flight:
            self._paid_until = now_ms + 1000 / rate_per_s
        self._in_flight_max, self._rate_per_s, self._timeout_ms = in_flight_max, rate_per_s, timeout_ms
        if not rate_per_s:
            self._paid_until = 0.0

    def took(self, duration_ms: int) -> None:
        """An attempt has ended after so long: how long those take lately says how many may wait."""
        self._duration_ms = (2 * self._duration_ms + duration_ms) / 3 if self._duration_ms else float(duration_ms)

    def succeeded(self) -> None:
        """The endpoint took one: the breaker closes."""
        self._failures = self._busy_answers = self._pause_ms = self._held_until = self._paused_until = 0
        self._window = min(self._window + 1, self._in_flight_max)

    def failed(self, now_ms: int, status_code: int | None, retry_after_ms: int | None) -> bool:
        """An attempt failed; True when that opens the breaker, or opens it anew."""
        self._failures += 1
        self._window = max(1, self._window // 2)
        if status_code in BUSY_STATUSES:
            own_ms = min(BUSY_MS << min(self._busy_answers, 16), BUSY_MAX_MS)
            self._busy_answers += 1
            self._paused_until = now_ms + max(own_ms, min(retry_after_ms or 0, RETRY_AFTER_MAX_MS))
        if self._failures < FAILURES_MAX or now_ms < self._held_until:
            return False
        self._pause_ms = min(max(PAUSE_MS, 2 * self._pause_ms), PAUSE_MAX_MS)
        self._held_until = now_ms + self._pause_ms
        return True

    def _held(self, now_ms: int) -> bool:
        """Whether breaker, pause or rate hold the next one back."""
        return now_ms < self._held_until or now_ms < self._paused_until or now_ms < int(self._paid_until)

    @property
    def _room_max(self) -> int:
        """One probe at a time while the breaker is not closed; else as many as the endpoint has shown to take."""
        return 1 if self._pause_ms else min(self._window, self._in_flight_max)
