"""Keeps idle connections for reuse: by origin, the newest first, limited in number, idle time and age.

A connection stays at the address that the URL policy allowed when it was opened, and is replaced after AGE_MAX_S, so
that changes of DNS take effect. The pool opens no connection itself.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from relay.outbound.connection import Connection

AGE_MAX_S: Final = 300.0
Origin = tuple[str, str, int]


class Pool:
    """The connections of one sender: at most `connections_max` are open, and an idle one is closed after `idle_s`."""

    def __init__(self, connections_max: int, idle_s: float) -> None:
        self.connections_max = connections_max
        self._idle_s = idle_s
        self._idle: dict[Connection, Origin] = {}
        self._by_origin: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._opening = 0
        self._emptied: asyncio.Event | None = None

    def __len__(self) -> int:
        """Return the number of open connections, idle or not."""
        return len(self._open)

    @property
    def idle(self) -> Collection[Connection]:
        """Return the idle connections, the longest idle first."""
        return self._idle.keys()

    def reuse(self, origin: Origin, now_s: float) -> Connection | None:
        """Return the newest idle connection to the origin that is usable, or None."""
        idle = self._by_origin.get(origin)
        while idle:
            connection = idle.pop()
            del self._idle[connection]
            if not idle:
                del self._by_origin[origin]
            if self._is_fresh(connection, now_s) and connection.is_usable():
                return connection
            connection.close()
        return None

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Reserve a place for a connection being opened; close the longest idle ones if the limit is exceeded."""
        self._opening += 1
        while len(self._open) + self._opening > self.connections_max and self._idle:
            connection = next(iter(self._idle))
            self._remove_idle(connection)
            self._open.discard(connection)
            connection.close()
        try:
            yield
        finally:
            self._opening -= 1

    def add(self, connection: Connection) -> None:
        """Count a new connection until it is closed."""
        self._open.add(connection)

    def keep(self, origin: Origin, connection: Connection, now_s: float) -> None:
        """Keep a connection for the next request, or close it if it is closing or too old.

        Bytes that answer no request close it when they are read, or when `reuse` finds them unread.
        """
        if connection.is_closing or now_s - connection.made_s >= AGE_MAX_S:
            connection.close()
            return
        connection.idle_since_s = now_s
        self._idle[connection] = origin
        self._by_origin.setdefault(origin, []).append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._sweep)

    def discard(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self._open.discard(connection)
        if connection in self._idle:
            self._remove_idle(connection)
        if self._emptied is not None and not self._open:
            self._emptied.set()

    def close_idle(self, now_s: float) -> None:
        """Close the connections that are idle for `idle_s` or too old."""
        for connection in list(self._idle):  # the longest idle first
            if self._is_fresh(connection, now_s):
                return
            self._remove_idle(connection)
            connection.close()

    async def close(self, within_s: float = 1.0) -> None:
        """Abort all connections, those with a request included, and wait up to `within_s` until they are closed."""
        if self._timer is not None:
            self._timer.cancel()
        self._emptied = asyncio.Event()
        for connection in list(self._open):
            connection.abort()
        if self._open:
            try:
                async with asyncio.timeout(within_s):
                    await self._emptied.wait()
            except TimeoutError:
                pass  # the process is ending anyway

    def _is_fresh(self, connection: Connection, now_s: float) -> bool:
        """Return whether the connection is within the limits of idle time and age."""
        return now_s - connection.idle_since_s < self._idle_s and now_s - connection.made_s < AGE_MAX_S

    def _remove_idle(self, connection: Connection) -> None:
        """Remove a connection from the idle ones."""
        origin = self._idle.pop(connection)
        idle = self._by_origin[origin]
        idle.remove(connection)
        if not idle:
            del self._by_origin[origin]

    def _sweep(self) -> None:
        """Close the idle connections that are due, and set the timer for the next one."""
        self._timer = None
        loop = asyncio.get_running_loop()
        self.close_idle(loop.time())
        if self._idle:
            oldest = next(iter(self._idle))
            self._timer = loop.call_at(max(loop.time(), oldest.idle_since_s + self._idle_s), self._sweep)
