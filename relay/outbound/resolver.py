"""Resolves names for every connection that relay opens: to endpoints, providers and file stores.

The system's lookup (`getaddrinfo`, so /etc/hosts and nsswitch.conf apply) blocks a thread until it returns, 10 s and
more if a name server does not answer. Event loops share a few threads for it, so a few such names would stop every
connection to a new address. Here each lookup has its own thread, and the threads are limited by class of name:

- a name that resolved before may use every thread;
- a new name leaves a quarter of them free, and at most PARENT_MAX lookups of one registered domain (the last two
  labels) run concurrently, so that the names of one domain cannot use up the rest;
- a name that hung recently, or whose domain did, may use a quarter.

Concurrent requests for a name share one lookup, whose addresses are cached for a few seconds. The cache holds
addresses only: the caller applies the URL policy at every connection.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Final, TypeVar

import msgspec

from relay import log

THREADS_MAX: Final = 64
CACHE_S: Final = 5.0
HANGS_AFTER_S: Final = 1.0
"""A lookup that runs longer makes its name a hung one."""
HUNG_FOR_S: Final = 300.0
PARENT_MAX: Final = 4
NAMES_MAX: Final = 4096
"""Limit of the cached names, and of the names remembered as hung."""
ADDRESSES_MAX: Final = 16
NAME_FAILED: Final = "the host's name has no address"
LOOKUP_TIMED_OUT: Final = "the host's name was not looked up in time"


class NameFailed(OSError):
    """The name has no address, or its lookup failed."""


class Address(msgspec.Struct, frozen=True):
    """An IP address as text, with its socket family."""

    family: int
    host: str


class LookupOptions(msgspec.Struct, frozen=True):
    """The limit of lookup threads, and how long addresses are cached."""

    threads_max: int = THREADS_MAX
    cache_s: float = CACHE_S


class NameClass(IntEnum):
    """The classes of names, in the order in which waiting lookups are started."""

    KNOWN = 0
    NEW = 1
    HUNG = 2


class _Lookup:
    """One name's lookup, waiting or running, and the futures that wait for its addresses."""

    __slots__ = ("host", "name_class", "parent", "started_s", "waiters")

    def __init__(self, host: str, parent: str, name_class: NameClass) -> None:
        self.host = host
        self.parent = parent
        self.name_class = name_class
        self.started_s = 0.0
        self.waiters: set[asyncio.Future[tuple[Address, ...]]] = set()


_logger = log.get("lookups")
LookupResult = Sequence[Address] | OSError
_Value = TypeVar("_Value")


class Resolver:
    """The name lookups of one process.

    `lookup` blocks and raises OSError if a name has no address. `on_hang` is called for each lookup that runs longer
    than HANGS_AFTER_S.
    """

    def __init__(
        self,
        options: LookupOptions | None = None,
        *,
        lookup: Callable[[str], Sequence[Address]] | None = None,
        on_hang: Callable[[], None] = lambda: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        options = options or LookupOptions()
        self._lookup = lookup or system_lookup
        self._on_hang = on_hang
        self._now_s = now_s
        self._cache_s = options.cache_s
        quarter = options.threads_max // 4
        self._threads_max = (options.threads_max, options.threads_max - quarter, max(1, quarter))
        self._cache: dict[str, tuple[float, tuple[Address, ...]]] = {}
        self._hung_until: dict[str, float] = {}
        self._lookups: dict[str, _Lookup] = {}
        self._waiting: dict[NameClass, list[_Lookup]] = {name_class: [] for name_class in NameClass}
        self._running: Counter[NameClass] = Counter()
        self._running_by_parent: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """Return the number of lookups that have a thread."""
        return self._running.total()

    async def addresses(self, host: str) -> tuple[Address, ...]:
        """Return the addresses of a host, at least one; an IP address is its own. Raise NameFailed if it has none.

        This waits as long as the system's lookup: the caller sets the deadline.
        """
        if literal := _literal(host):
            return (literal,)
        cached = self._cache.get(host)
        if cached is not None and self._now_s() < cached[0]:
            return cached[1]
        lookup = self._lookups.get(host)
        if lookup is None:
            parent = parent_of(host)
            lookup = self._lookups[host] = _Lookup(host, parent, self._classify(host, parent))
            self._waiting[lookup.name_class].append(lookup)
        waiter: asyncio.Future[tuple[Address, ...]] = asyncio.get_running_loop().create_future()
        lookup.waiters.add(waiter)
        self._start_waiting()
        try:
            return await waiter
        finally:
            lookup.waiters.discard(waiter)

    def _classify(self, host: str, parent: str) -> NameClass:
        """Return the class of a name, by its own last lookup or else by those of its domain."""
        if self._is_hung(host):
            return NameClass.HUNG
        if host in self._cache:
            return NameClass.KNOWN
        return NameClass.HUNG if self._is_hung(parent) else NameClass.NEW

    def _is_hung(self, name: str) -> bool:
        """Return whether the name, or one under it, hung within HUNG_FOR_S."""
        until_s = self._hung_until.get(name)
        return until_s is not None and self._now_s() < until_s

    def _start_waiting(self) -> None:
        """Start the waiting lookups that have a free thread; drop those without a waiter."""
        for name_class, waiting in self._waiting.items():
            left = []
            for lookup in waiting:
                if not lookup.waiters:
                    del self._lookups[lookup.host]
                elif self._may_run(lookup):
                    self._start(lookup)
                else:
                    left.append(lookup)
            self._waiting[name_class] = left

    def _may_run(self, lookup: _Lookup) -> bool:
        """Return whether a thread is free for the lookup's class and, unless it is KNOWN, for its domain."""
        counted = sum(self._running[name_class] for name_class in NameClass if name_class >= lookup.name_class)
        if counted >= self._threads_max[lookup.name_class] or self.running >= self._threads_max[NameClass.KNOWN]:
            return False
        return lookup.name_class is NameClass.KNOWN or self._running_by_parent[lookup.parent] < PARENT_MAX

    def _start(self, lookup: _Lookup) -> None:
        """Start the lookup in a daemon thread, so that relay stops without waiting for a name server."""
        lookup.started_s = self._now_s()
        self._running[lookup.name_class] += 1
        self._running_by_parent[lookup.parent] += 1
        loop = asyncio.get_running_loop()
        thread = threading.Thread(
            target=self._run_lookup, args=(loop, lookup), name=f"lookup {lookup.host}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            loop.call_soon(self._finish, lookup, OSError("no thread for the lookup"))
        else:
            loop.call_later(HANGS_AFTER_S, self._check_hanging, lookup)

    def _run_lookup(self, loop: asyncio.AbstractEventLoop, lookup: _Lookup) -> None:
        """Look the name up; runs in the lookup's thread and passes the result to the loop."""
        result: LookupResult
        try:
            result = self._lookup(lookup.host)
        except (OSError, UnicodeError) as error:
            result = error if isinstance(error, OSError) else OSError("the name is not valid")
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._finish, lookup, result)

    def _check_hanging(self, lookup: _Lookup) -> None:
        """Remember and report the lookup as hung if it still runs."""
        if self._lookups.get(lookup.host) is lookup:
            self._remember_hung(lookup)
            self._on_hang()
            _logger.warning("lookup.hangs", host=lookup.host, running=self.running)

    def _remember_hung(self, lookup: _Lookup) -> None:
        """Treat the name, and new names of its domain, as hung for HUNG_FOR_S."""
        until_s = self._now_s() + HUNG_FOR_S
        for name in {lookup.host, lookup.parent}:
            _put_newest(self._hung_until, name, until_s)

    def _finish(self, lookup: _Lookup, result: LookupResult) -> None:
        """Cache the result, resolve the waiters with it, and start the next lookups."""
        self._running[lookup.name_class] -= 1
        self._running_by_parent[lookup.parent] -= 1
        if not self._running_by_parent[lookup.parent]:
            del self._running_by_parent[lookup.parent]
        del self._lookups[lookup.host]
        if self._now_s() - lookup.started_s >= HANGS_AFTER_S:
            self._remember_hung(lookup)
        else:
            self._hung_until.pop(lookup.host, None)
        addresses = () if isinstance(result, OSError) else tuple(dict.fromkeys(result))[:ADDRESSES_MAX]
        if addresses:
            _put_newest(self._cache, lookup.host, (self._now_s() + self._cache_s, addresses))
        else:
            self._cache.pop(lookup.host, None)
        for waiter in lookup.waiters:
            if waiter.done():
                continue
            if addresses:
                waiter.set_result(addresses)
            else:
                waiter.set_exception(NameFailed(*(result.args if isinstance(result, OSError) else ())))
        self._start_waiting()


def system_lookup(host: str) -> list[Address]:
    """Return the system's addresses of a name in its order of preference; raise OSError if there are none."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [Address(int(family), str(sockaddr[0])) for family, _, _, _, sockaddr in found]


def parent_of(host: str) -> str:
    """Return the last two labels of a name, usually its registered domain."""
    return ".".join(host.rsplit(".", 2)[-2:])


def _literal(host: str) -> Address | None:
    """Return the host as an address, or None if it is a name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host.partition("%")[0])
    except (OSError, ValueError):
        return None
    return Address(int(family), host)


def _put_newest(values: dict[str, _Value], name: str, value: _Value) -> None:
    """Store a value as the newest; beyond NAMES_MAX, delete the oldest."""
    values.pop(name, None)
    values[name] = value
    if len(values) > NAMES_MAX:
        del values[next(iter(values))]
