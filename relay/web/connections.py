"""The open connections of a server: how many there may be, how long each may take, and which one makes room.

A connection that is between two requests, or whose request is not whole yet, costs its sender nothing. So those are
bounded by a deadline, and the one that has been so the longest is closed when a new connection needs its place.
"""

import asyncio
import resource
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from relay.metrics import Metrics
from relay.settings import Settings

SWEEP_S: Final = 0.5
"""How often the deadlines are looked at; a connection lives that much longer at most."""
SPARE_FILES: Final = 64
"""Files for the database, the log and what starts beside them."""
JUST_NOW_S: Final = 1.0
"""A connection that is idle for less than this keeps its place where another's body has stood still for longer."""
OUTBOUND_SHARE: Final = 2
"""Of the files that are left, every second one is for connections that relay opens itself."""


class Closed(StrEnum):
    """Why relay closed a connection by itself: the name of a setting without `RELAY_`, or another reason.

    One that is `evicted` made room for another connection, because of `RELAY_CONNECTIONS_MAX`.
    """

    CONNECTIONS_MAX = "connections_max"
    EVICTED = "evicted"
    PIPELINED_MAX = "pipelined_max"
    HEAD_MAX_BYTES = "head_max_bytes"
    HEADERS_MAX = "headers_max"
    HEADER_DEADLINE = "header_deadline_s"
    WRITE_DEADLINE = "write_deadline_s"
    LINGER = "linger_s"
    LINGER_MAX_BYTES = "linger_max_bytes"
    IDLE = "idle_s"
    NOT_HTTP = "not_http"
    TUNNEL = "tunnel"


class Connection(Protocol):
    """What is known of a connection here."""

    def evict(self) -> None:
        """Close it without an answer: its sender has not sent a whole request."""

    def refuse(self) -> None:
        """Answer 503 and close it."""

    def expire(self) -> None:
        """Close it: nothing has come on it for long."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one server allows its connections; each field is the setting of its name.

    `idle_s` must be longer than the router in front keeps a connection (Heroku's: 90 s), else the router sends a
    request on a connection that relay has just closed.
    """

    connections_max: int
    idle_s: float
    head_deadline_s: float
    write_deadline_s: float
    pipelined_max: int
    head_max_bytes: int
    headers_max: int
    linger_s: float
    linger_max_bytes: int


def limits_of(settings: Settings, connections_max: int) -> Limits:
    """Return the limits that the settings give; `connections_max` may be less than its setting (`max_open`)."""
    return Limits(
        connections_max=connections_max,
        idle_s=settings.idle_s,
        head_deadline_s=settings.header_deadline_s,
        write_deadline_s=settings.write_deadline_s,
        pipelined_max=settings.pipelined_max,
        head_max_bytes=settings.head_max_bytes,
        headers_max=settings.headers_max,
        linger_s=settings.linger_s,
        linger_max_bytes=settings.linger_max_bytes,
    )


class Connections:
    """Keeps the books of one server."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self._open = 0
        self._heads: dict[Connection, float] = {}
        self._kept: dict[Connection, float] = {}
        self._bodies: dict[Connection, float] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def opened(self, connection: Connection) -> None:
        """Count a new connection; the one that has said nothing the longest is closed when there are too many."""
        self._open += 1
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_S, self._close_late)
        self.await_head(connection)
        self.metrics.connections(self._open)
        if self._open <= self.limits.connections_max:
            return
        oldest = self._oldest()
        self._forget(oldest)
        if oldest is connection:
            connection.refuse()
        else:
            self.metrics.connection_closed(Closed.EVICTED)
            oldest.evict()

    def closed(self, connection: Connection) -> None:
        """Stop counting a connection."""
        self._open -= 1
        self.metrics.connections(self._open)
        self._forget(connection)

    def await_head(self, connection: Connection) -> None:
        """Start the deadline for the head of a connection's next request, unless it runs."""
        if connection in self._heads:
            return
        self._kept.pop(connection, None)
        self._heads[connection] = self._loop.time()

    def begin(self, connection: Connection) -> None:
        """A head is whole: the connection is busy with a request."""
        if self._kept.pop(connection, None) is None:
            self._heads.pop(connection, None)

    def keep(self, connection: Connection) -> None:
        """The request was answered, and nothing of the next one has come."""
        self._kept[connection] = self._loop.time()

    def await_body(self, connection: Connection) -> None:
        """Some of a request came, and more of its body is to come."""
        self._bodies.pop(connection, None)
        self._bodies[connection] = self._loop.time()

    def whole(self, connection: Connection) -> None:
        """All of the request has come."""
        self._bodies.pop(connection, None)

    def _oldest(self) -> Connection:
        """The connection whose place is needed the least; there is one at least whose head is awaited."""
        firsts = [next(iter(some.items())) for some in (self._kept, self._heads) if some]
        oldest, since_s = min(firsts, key=lambda entry: entry[1])
        if self._bodies and since_s > self._loop.time() - JUST_NOW_S:
            body, stands_since_s = next(iter(self._bodies.items()))
            if stands_since_s < since_s:
                return body
        return oldest

    def _close_late(self) -> None:
        """Close each connection whose head is not whole after its deadline, and each that was idle for too long.

        One timer looks after all connections: to make one for each answer costs more than the answer's bytes.
        """
        now_s = self._loop.time()
        while self._heads and next(iter(self._heads.values())) <= now_s - self.limits.head_deadline_s:
            connection = next(iter(self._heads))
            self._forget(connection)
            self.metrics.connection_closed(Closed.HEADER_DEADLINE)
            connection.evict()
        while self._kept and next(iter(self._kept.values())) <= now_s - self.limits.idle_s:
            connection = next(iter(self._kept))
            self._forget(connection)
            self.metrics.connection_closed(Closed.IDLE)
            connection.expire()
        self._sweep = self._loop.call_later(SWEEP_S, self._close_late) if self._open else None

    def _forget(self, connection: Connection) -> None:
        """The connection is not idle, or not there any more."""
        self._heads.pop(connection, None)
        self._kept.pop(connection, None)
        self._bodies.pop(connection, None)


def max_open(setting: int) -> int:
    """Return how many connections may be open: the setting, or what the limit on open files allows if that is less.

    The soft limit is raised to the hard one first, which a process may do by itself.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return setting
    return max(1, min(setting, (hard - SPARE_FILES) // OUTBOUND_SHARE))
