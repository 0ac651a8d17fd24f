"""A lane: the queue of one endpoint's deliveries in memory, with its concurrency limit, rate limit and circuit breaker.

    closed ──ten failures in a row──▶ open ──its pause is over──▶ half open: one attempt at a time
       ▲                                ▲                              │
       └──────────── a success ─────────┼──────── a success ───────────┤
                                        └── a failure, twice the pause ┘

A lane starts with two concurrent attempts, gains one with each success up to its endpoint's limit, and loses half with
each failure: receivers that hang occupy few of the slots that all lanes share. A busy receiver (429, 502, 503, 504)
pauses its lane for as long as it asks, or for 1, 2, 4 … seconds. What waits in a lane makes no attempt.

A lane queues no more than it can start before the leases end; what waits longer returns to the table. Each attempt uses
one interval of the rate limit when it leaves the queue; one that could not start returns its interval.
"""

from collections import deque
from typing import Final

import msgspec

from relay.model.backoff import RETRY_AFTER_MAX_MS

CONCURRENCY_START: Final = 2
FAILURES_MAX: Final = 10
PAUSE_MS: Final = 30_000
PAUSE_MAX_MS: Final = 3_600_000
BUSY_MS: Final = 1_000
BUSY_MAX_MS: Final = 60_000
RETRY_EVERY: Final = 4
"""While new deliveries wait, every fourth attempt is a retry, so that neither kind waits for all of the other."""
QUEUED_MAX: Final = 1_000
BUSY_STATUSES: Final = frozenset({429, 502, 503, 504})


class QueuedDelivery(msgspec.Struct, eq=False):
    """A delivery in a lane's queue, or in flight; its lease ends at `leased_until_ms`, monotonic.

    `occupies` is whether it is one of those that its lane counts, or will count, as in flight; `unproven` whether its
    lane's last attempt had not succeeded when it left the queue.
    """

    delivery_id: str
    leased_until_ms: int
    lane: "Lane"
    occupies: bool = True
    unproven: bool = False


class Lane:
    """One endpoint's queued deliveries and whether the next may start; all times are monotonic milliseconds."""

    def __init__(self, endpoint_id: str, project_id: str, lease_ms: int) -> None:
        self.endpoint_id = endpoint_id
        self.project_id = project_id
        self.in_flight = 0
        self.more_in_table = False
        """Whether the table is known, or likely, to hold more due deliveries for the endpoint."""
        self.proven = False
        """Whether the last attempt succeeded."""
        self._lease_ms = lease_ms
        self._new: deque[QueuedDelivery] = deque()
        self._retries: deque[QueuedDelivery] = deque()
        self._started = 0
        # The endpoint's settings, known with its first delivery.
        self._in_flight_max = 1
        self._rate_per_s: float | None = None
        self._timeout_ms = 0
        # What the endpoint's answers say.
        self._concurrency = CONCURRENCY_START
        self._duration_ms = 0.0
        self._failures = 0
        self._busy_answers = 0
        self._pause_ms = 0
        # Before these times no attempt starts.
        self._circuit_open_until_ms = 0
        self._busy_until_ms = 0
        self._rate_limited_until_ms = 0.0

    @property
    def queued(self) -> int:
        """Return the number of deliveries that wait here."""
        return len(self._new) + len(self._retries)

    @property
    def free_slots(self) -> int:
        """Return how many attempts may start now; 0 where a rate limit starts them one by one."""
        return 0 if self._rate_per_s else max(0, self._in_flight_limit - self.in_flight)

    @property
    def idle(self) -> bool:
        """Return whether the lane holds no delivery and no state that a new lane would lack."""
        remembers = self._failures or self._busy_answers or self._rate_per_s
        return not (self.queued or self.in_flight or remembers)

    @property
    def circuit_open_until_ms(self) -> int | None:
        """Return when a lane whose breaker is open makes its next attempt; None while the breaker is closed."""
        return self._circuit_open_until_ms if self._pause_ms else None

    @property
    def capacity(self) -> int:
        """Return how many may wait here so that each starts while its lease is longer than its time-out."""
        spare_ms, most = max(0, self._lease_ms - self._timeout_ms), QUEUED_MAX
        if self._rate_per_s:
            most = min(most, int(spare_ms * self._rate_per_s / 1000))
        if self._duration_ms:
            most = min(most, int(spare_ms * self._in_flight_limit / self._duration_ms))
        return max(1, most)

    def claimable(self, now_ms: int) -> int:
        """Return how many more to claim for the lane; 0 while it is blocked or holds enough for half of the time."""
        capacity = self.capacity
        if now_ms < self._circuit_open_until_ms or now_ms < self._busy_until_ms or self.queued > capacity // 2:
            return 0
        if self.opens_at_ms(now_ms) > now_ms + max(0, self._lease_ms - self._timeout_ms):
            return 0
        return capacity + self.free_slots - self.queued

    def full(self, now_ms: int) -> bool:
        """Return whether nothing more should be claimed: the queue fills every slot, or the lane is blocked."""
        return self.in_flight + self.queued >= self._in_flight_limit or self.opens_at_ms(now_ms) > now_ms

    def opens_at_ms(self, now_ms: int) -> int:
        """Return when breaker, pause and rate limit let the next attempt start; `now_ms` where they do already."""
        if not self._blocked(now_ms):
            return now_ms
        return max(self._circuit_open_until_ms, self._busy_until_ms, int(self._rate_limited_until_ms))

    def enqueue(self, delivery_id: str, leased_until_ms: int, *, retry: bool) -> bool:
        """Append a delivery; return False where it could not start within its lease and stays in the table."""
        queued = self.queued
        if queued and (queued >= QUEUED_MAX or queued - self.free_slots >= self.capacity):
            return False
        (self._retries if retry else self._new).append(QueuedDelivery(delivery_id, leased_until_ms, self))
        return True

    def pop(self, now_ms: int) -> QueuedDelivery | None:
        """Remove and return the next delivery to attempt, counted as in flight; None where none may start."""
        if not self.queued or self.in_flight >= self._in_flight_limit or self._blocked(now_ms):
            return None
        self._started += 1
        self.in_flight += 1
        if self._rate_per_s:
            self._rate_limited_until_ms = max(self._rate_limited_until_ms, now_ms) + 1000 / self._rate_per_s
        retry = self._retries and (not self._new or self._started % RETRY_EVERY == 0)
        return (self._retries if retry else self._new).popleft()

    def leave(self, queued: QueuedDelivery) -> None:
        """Count a delivery that was popped no longer as in flight; once, however often it is called."""
        self.in_flight -= queued.occupies
        queued.occupies = False

    def return_interval(self) -> None:
        """Let the next attempt start an interval of the rate limit earlier: the one popped last did not start."""
        if self._rate_per_s:
            self._rate_limited_until_ms -= 1000 / self._rate_per_s

    def pop_expired(self, now_ms: int) -> list[QueuedDelivery]:
        """Remove and return the deliveries whose remaining lease is shorter than an attempt's time-out."""
        expired = []
        for queue in (self._new, self._retries):
            while queue and queue[0].leased_until_ms - self._timeout_ms < now_ms:
                expired.append(queue.popleft())
        return expired

    def expires_at_ms(self) -> int | None:
        """Return when `pop_expired` returns the first of what waits; None where nothing waits."""
        ends = [queue[0].leased_until_ms for queue in (self._new, self._retries) if queue]
        return min(ends) - self._timeout_ms + 1 if ends else None

    def configure(self, in_flight_max: int, rate_per_s: float | None, timeout_ms: int, now_ms: int) -> bool:
        """Apply the endpoint's settings, as each delivery carries them; return whether they differ from those before.

        A new rate limit counts from now on.
        """
        settings = (in_flight_max, rate_per_s, timeout_ms)
        if settings == (self._in_flight_max, self._rate_per_s, self._timeout_ms):
            return False
        if rate_per_s and not self._rate_per_s and self.in_flight:
            self._rate_limited_until_ms = now_ms + 1000 / rate_per_s
        self._in_flight_max, self._rate_per_s, self._timeout_ms = settings
        if not rate_per_s:
            self._rate_limited_until_ms = 0.0
        return True

    def record_duration(self, duration_ms: int) -> None:
        """Average how long recent attempts took; `capacity` depends on it."""
        self._duration_ms = (2 * self._duration_ms + duration_ms) / 3 if self._duration_ms else float(duration_ms)

    def record_success(self) -> None:
        """Close the breaker, end a pause, and allow one more concurrent attempt."""
        self.proven = True
        self._failures = self._busy_answers = self._pause_ms = self._circuit_open_until_ms = self._busy_until_ms = 0
        self._concurrency = min(self._concurrency + 1, self._in_flight_max)

    def record_failure(self, now_ms: int, status_code: int | None, retry_after_ms: int | None) -> bool:
        """Halve the concurrent attempts and pause for a busy receiver; return whether the breaker opens now."""
        self._failures += 1
        self.proven = False
        self._concurrency = max(1, self._concurrency // 2)
        if status_code in BUSY_STATUSES:
            pause_ms = min(BUSY_MS << min(self._busy_answers, 16), BUSY_MAX_MS)
            self._busy_answers += 1
            self._busy_until_ms = now_ms + max(pause_ms, min(retry_after_ms or 0, RETRY_AFTER_MAX_MS))
        if self._failures < FAILURES_MAX or now_ms < self._circuit_open_until_ms:
            return False
        self._pause_ms = min(max(PAUSE_MS, 2 * self._pause_ms), PAUSE_MAX_MS)
        self._circuit_open_until_ms = now_ms + self._pause_ms
        return True

    def _blocked(self, now_ms: int) -> bool:
        """Return whether breaker, pause or rate limit delay the next attempt."""
        return (
            now_ms < self._circuit_open_until_ms
            or now_ms < self._busy_until_ms
            or now_ms < int(self._rate_limited_until_ms)
        )

    @property
    def _in_flight_limit(self) -> int:
        """Return how many attempts may be under way: one until an open breaker closes."""
        return 1 if self._pause_ms else min(self._concurrency, self._in_flight_max)
