"""Track a server's open connections: their number, their deadlines, and which one to evict for a new one.

An idle or incomplete connection costs its client nothing, so a client could hold all of them. Therefore each has a
deadline, and at `RELAY_CONNECTIONS_MAX` the longest waiting one is closed for the new one. `protocol.py` reads and
writes; this module knows no bytes.
"""

import asyncio
import resource
from enum import StrEnum
from typing import Final, Protocol

import msgspec

from relay.metrics import Metrics
from relay.outbound.open_files import open_files_max
from relay.settings import Settings

SWEEP_S: Final = 0.5
"""Seconds between two checks of the deadlines; a connection may outlive its deadline by as much."""
RESERVED_FILES: Final = 64
"""Open files kept for the database, the log and libraries."""
RECENTLY_IDLE_S: Final = 1.0
"""A connection idle for less than this is evicted only after one whose body has made no progress for longer."""
FILES_PER_CONNECTION: Final = 2
"""Open files counted for a client's connection: its own, and one for a connection that relay opens itself."""


class CloseReason(StrEnum):
    """Why relay itself closed a connection: a setting's name without `RELAY_`, or another reason.

    `evicted` means closed in favour of a new connection, because of `RELAY_CONNECTIONS_MAX`.
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
    """A connection as this module closes it."""

    def evict(self) -> None:
        """Close without an answer: the client has not sent a complete request."""

    def refuse(self) -> None:
        """Answer 503 and close."""

    def expire(self) -> None:
        """Close after the idle timeout."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one server's connections; each field is the setting of the same name.

    `idle_s` must exceed the keep-alive of the router in front (Heroku: 90 s); otherwise the router may send a request
    on a connection that relay has just closed.
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
    """Return the settings as limits; `connections_max` may be below its setting, see `max_open`."""
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


class ConnectionTracker:
    """The open connections of one server, by what each waits for; in each dict the longest waiting comes first."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self._open = 0
        self._awaiting_head: dict[Connection, float] = {}
        """A part of a request's head may have arrived; since when, in the loop's seconds."""
        self._idle: dict[Connection, float] = {}
        """The last request was answered and nothing of the next has arrived; since when."""
        self._awaiting_body: dict[Connection, float] = {}
        """The body is incomplete; when a part of it last arrived."""
        self._sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def add(self, connection: Connection) -> None:
        """Count a new connection; above `connections_max`, evict the one that waits longest or refuse the new one."""
        self._open += 1
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_S, self._close_expired)
        self.await_head(connection)
        self.metrics.connections(self._open)
        if self._open <= self.limits.connections_max:
            return
        longest_waiting = self._longest_waiting()
        self._forget(longest_waiting)
        if longest_waiting is connection:
            connection.refuse()
        else:
            self.metrics.connection_closed(CloseReason.EVICTED)
            longest_waiting.evict()

    def remove(self, connection: Connection) -> None:
        """Stop counting a connection."""
        self._open -= 1
        self.metrics.connections(self._open)
        self._forget(connection)

    def await_head(self, connection: Connection) -> None:
        """Start the deadline for the head of the next request, unless it is running."""
        if connection in self._awaiting_head:
            return
        self._idle.pop(connection, None)
        self._awaiting_head[connection] = self._loop.time()

    def head_complete(self, connection: Connection) -> None:
        """Stop the head's deadline: the connection is busy with a request."""
        if self._idle.pop(connection, None) is None:
            self._awaiting_head.pop(connection, None)

    def idle(self, connection: Connection) -> None:
        """Start the idle timeout: the last request was answered and nothing of the next has arrived."""
        self._idle[connection] = self._loop.time()

    def await_body(self, connection: Connection) -> None:
        """Record that a part of a request arrived now, and that its body is incomplete."""
        self._awaiting_body.pop(connection, None)
        self._awaiting_body[connection] = self._loop.time()

    def body_complete(self, connection: Connection) -> None:
        """Record that the whole request has arrived."""
        self._awaiting_body.pop(connection, None)

    def _longest_waiting(self) -> Connection:
        """Return the connection to evict: idle or awaiting a head for longest, or a body without progress.

        At least one connection awaits its head: the new one.
        """
        firsts = [next(iter(waiting.items())) for waiting in (self._idle, self._awaiting_head) if waiting]
        connection, since_s = min(firsts, key=lambda entry: entry[1])
        if self._awaiting_body and since_s > self._loop.time() - RECENTLY_IDLE_S:
            awaiting_body, progress_s = next(iter(self._awaiting_body.items()))
            if progress_s < since_s:
                return awaiting_body
        return connection

    def _close_expired(self) -> None:
        """Close each connection past its deadline for a head, and each idle for too long.

        One timer serves all connections: a timer for each response would cost more than writing the response.
        """
        now_s = self._loop.time()
        while self._awaiting_head and next(iter(self._awaiting_head.values())) <= now_s - self.limits.head_deadline_s:
            connection = next(iter(self._awaiting_head))
            self._forget(connection)
            self.metrics.connection_closed(CloseReason.HEADER_DEADLINE)
            connection.evict()
        while self._idle and next(iter(self._idle.values())) <= now_s - self.limits.idle_s:
            connection = next(iter(self._idle))
            self._forget(connection)
            self.metrics.connection_closed(CloseReason.IDLE)
            connection.expire()
        self._sweep = self._loop.call_later(SWEEP_S, self._close_expired) if self._open else None

    def _forget(self, connection: Connection) -> None:
        """Stop every deadline of a connection."""
        self._awaiting_head.pop(connection, None)
        self._idle.pop(connection, None)
        self._awaiting_body.pop(connection, None)


def max_open(setting: int) -> int:
    """Return how many connections may be open: the setting, or less if the limit on open files does not allow it."""
    files = open_files_max()
    if files == resource.RLIM_INFINITY:
        return setting
    return max(1, min(setting, (files - RESERVED_FILES) // FILES_PER_CONNECTION))
