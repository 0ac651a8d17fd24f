"""Connections that wait for their next request: by origin, the newest first, bounded in all and in time.

A connection stays at the address that was judged when it was made, and is replaced after AGE_MAX_S, so that a name that
leads elsewhere is noticed.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Final

from relay.outbound.connection import Connection

AGE_MAX_S: Final = 300.0
Origin = tuple[str, str, int]


class Pool:
    """The connections of one sender, open at once `connections_max` at most; an idle one is closed after `idle_s`."""

    def __init__(self, connections_max: int, idle_s: float) -> None:
        self._connections_max = connections_max
        self._idle_s = idle_s
        self._idle: dict[Connection, Origin] = {}
        self._by_origin: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._reserved = 0
        self._emptied: asyncio.Event | None = None

    def __len__(self) -> int:
        """How many are open, idle or not."""
        return len(self._open)

    @property
    def idle(self) -> Collection[Connection]:
        """Those that wait for their next request, the longest idle first."""
        return self._idle.keys()

    def take(self, origin: Origin, now_s: float) -> Connection | None:
        """An idle connection to the origin that can be used; None where there is none."""
        waiting = self._by_origin.get(origin)
        while waiting:
            connection = waiting.pop()
            del self._idle[connection]
            if not waiting:
                del self._by_origin[origin]
            if self._fresh(connection, now_s) and connection.usable():
                return connection
            connection.close()
        return None

    @contextmanager
    def room(self) -> Iterator[None]:
        """Room for one more while it is being opened; where that is one too many, the longest idle one is closed."""
        self._reserved += 1
        while len(self._open) + self._reserved > self._connections_max and self._idle:
            connection = next(iter(self._idle))
            self._remove(connection)
            self._open.discard(connection)
            connection.close()
        try:
            yield
        finally:
            self._reserved -= 1

    def opened(self, connection: Connection) -> None:
        """Counts a new connection until it is lost."""
        self._open.add(connection)

    def give(self, origin: Origin, connection: Connection, now_s: float) -> None:
        """Keeps a connection for the next request, if it can have one."""
        if not connection.usable() or now_s - connection.made_s >= AGE_MAX_S:
            connection.close()
            return
        connection.idle_since_s = now_s
        self._idle[connection] = origin
        self._by_origin.setdefault(origin, []).append(connection)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._sweep)

    def lost(self, connection: Connection) -> None:
        """Forgets a connection that is none any more."""
        self._open.discard(connection)
        if connection in self._idle:
            self._remove(connection)
        if self._emptied is not None and not self._open:
            self._emptied.set()

    def close_idle(self, now_s: float) -> None:
        """Closes those that have been idle for `idle_s`."""
        for connection in list(self._idle):  # the longest idle first
            if self._fresh(connection, now_s):
                return
            self._remove(connection)
            connection.close()

    async def close(self, within_s: float = 1.0) -> None:
        """Closes all, what is under way included, and waits until they are gone."""
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
                pass  # the process ends anyway

    def _fresh(self, connection: Connection, now_s: float) -> bool:
        """Whether it is neither idle for too long nor too old."""
        return now_s - connection.idle_since_s < self._idle_s and now_s - connection.made_s < AGE_MAX_S

    def _remove(self, connection: Connection) -> None:
        """It is idle no longer."""
        origin = self._idle.pop(connection)
        waiting = self._by_origin[origin]
        waiting.remove(connection)
        if not waiting:
            del self._by_origin[origin]

    def _sweep(self) -> None:
        """The timer: closes what is due, and comes again for the next one."""
        self._timer = None
        loop = asyncio.get_running_loop()
        self.close_idle(loop.time())
        if self._idle:
            oldest = next(iter(self._idle))
            self._timer = loop.call_at(max(loop.time(), oldest.idle_since_s + self._idle_s), self._sweep)
