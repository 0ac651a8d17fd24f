"""How fast a provider is asked: so many checks at once, so many a second, and none while it asks for a pause."""

from relay.model import ErrorClass

PAUSE_MS = 30_000
"""How long a provider is left alone that answers 429 and does not say for how long."""
PAUSE_MAX_MS = 600_000
KEY_PAUSE_MS = 60_000


class Pace:
    """The room for status checks at one provider; times are monotonic milliseconds."""

    def __init__(self, in_flight_max: int, per_s: float) -> None:
        self._in_flight_max = in_flight_max
        self._interval_ms = 1000 / per_s
        self._in_flight = 0
        self._paid_until = 0.0
        self._paused_until = 0
        self._refused: ErrorClass | None = None

    def room(self, now_ms: int) -> int:
        """How many checks may start now; after a quiet second as many as may be under way at once."""
        if now_ms < self._paused_until:
            return 0
        saved_ms = now_ms + self._in_flight_max * self._interval_ms - max(self._paid_until, now_ms)
        return max(0, min(self._in_flight_max - self._in_flight, int(saved_ms / self._interval_ms + 1e-6)))

    def opens_at(self, now_ms: int) -> int | None:
        """When there is room again by the passing of time; None while only the end of a check makes room."""
        if self._in_flight >= self._in_flight_max:
            return None
        burst_ms = (self._in_flight_max - 1) * self._interval_ms
        return max(now_ms, self._paused_until, int(self._paid_until - burst_ms) + 1)

    def started(self, now_ms: int) -> None:
        """A check has begun."""
        self._in_flight += 1
        self._paid_until = max(self._paid_until, now_ms) + self._interval_ms

    def finished(self) -> None:
        """A check has ended."""
        self._in_flight -= 1

    def pause(self, until_ms: int, now_ms: int) -> int:
        """Nothing is asked before then, ten minutes at most; when that is."""
        self._paused_until = max(self._paused_until, min(until_ms, now_ms + PAUSE_MAX_MS))
        return self._paused_until

    def refused(self, why: ErrorClass | None) -> bool:
        """Notes whether the provider takes relay's key; True when that is news."""
        news = self._refused is not why
        self._refused = why
        return news
