"""Looks names up for every connection that relay opens: to endpoints, to providers, to stores of files.

The system's own look-up (`getaddrinfo`, so /etc/hosts and nsswitch.conf count) blocks a thread until it has an answer,
which takes 10 s and more where a name server stays silent. Event loops share a handful of threads for it, so a few such
names stop every connection to a new address. Here each look-up has a thread of its own, in three classes:

- a name that resolved before may use every thread;
- a new name leaves a quarter of them free, and no more than PARENT_MAX look-ups under one registered domain (told by
  the last two labels) are under way at once, so one domain's names cannot fill the rest;
- a name that hung lately, or whose domain's names did, may use a quarter.

One look-up of a name serves everybody who asks for it meanwhile, and a few seconds more. What is cached is addresses
and no verdict: who connects judges them each time.
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
"""A look-up that takes longer makes its name one that hung."""
HUNG_FOR_S: Final = 300.0
PARENT_MAX: Final = 4
NAMES_MAX: Final = 4096
"""So many names are remembered: their addresses, and whether they hung."""
ADDRESSES_MAX: Final = 16


NAME_FAILED: Final = "the host's name has no address"


class NameFailed(OSError):
    """The name has no address, or nobody could say which."""


class Address(msgspec.Struct, frozen=True):
    """One address of a name, as text, with its family."""

    family: int
    host: str


class LookupOptions(msgspec.Struct, frozen=True):
    """How many threads look-ups may take, and how long an answer is used again."""

    threads_max: int = THREADS_MAX
    cache_s: float = CACHE_S


class Kind(IntEnum):
    """What is known of a name; the order is the order in which waiting look-ups are begun."""

    KNOWN = 0
    NEW = 1
    HUNG = 2


class _Lookup:
    """One name being looked up, and who waits for it."""

    __slots__ = ("host", "kind", "parent", "started_s", "waiters")

    def __init__(self, host: str, parent: str, kind: Kind) -> None:
        self.host = host
        self.parent = parent
        self.kind = kind
        self.started_s = 0.0
        self.waiters: set[asyncio.Future[tuple[Address, ...]]] = set()


_logger = log.get("lookups")
Found = Sequence[Address] | OSError
_Kept = TypeVar("_Kept")


class Resolver:
    """Name look-ups of one process; `lookup` blocks, and raises OSError where a name has no address.

    `hangs` is called for each look-up that takes longer than HANGS_AFTER_S.
    """

    def __init__(
        self,
        options: LookupOptions | None = None,
        *,
        lookup: Callable[[str], Sequence[Address]] | None = None,
        hangs: Callable[[], None] = lambda: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        options = options or LookupOptions()
        self._lookup = lookup or system_lookup
        self._hangs = hangs
        self._now_s = now_s
        self._cache_s = options.cache_s
        quarter = options.threads_max // 4
        self._threads_max = (options.threads_max, options.threads_max - quarter, max(1, quarter))
        self._names: dict[str, tuple[float, tuple[Address, ...]]] = {}
        self._hung_until: dict[str, float] = {}
        self._lookups: dict[str, _Lookup] = {}
        self._waiting: dict[Kind, list[_Lookup]] = {kind: [] for kind in Kind}
        self._running: Counter[Kind] = Counter()
        self._parents: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """How many look-ups have a thread now."""
        return self._running.total()

    async def addresses(self, host: str) -> tuple[Address, ...]:
        """Every address of a host, at least one; of one that is an address, itself. NameFailed where it has none.

        It takes as long as the system's look-up: who calls this sets a deadline.
        """
        if literal := _literal(host):
            return (literal,)
        kept = self._names.get(host)
        if kept is not None and self._now_s() < kept[0]:
            return kept[1]
        lookup = self._lookups.get(host)
        if lookup is None:
            parent = parent_of(host)
            lookup = self._lookups[host] = _Lookup(host, parent, self._kind(host, parent))
            self._waiting[lookup.kind].append(lookup)
        waiter: asyncio.Future[tuple[Address, ...]] = asyncio.get_running_loop().create_future()
        lookup.waiters.add(waiter)
        self._begin()
        try:
            return await waiter
        finally:
            lookup.waiters.discard(waiter)

    def _kind(self, host: str, parent: str) -> Kind:
        """The class of a name, by what its last look-up was like; else by what its domain's names were like."""
        if self._hung(host):
            return Kind.HUNG
        if host in self._names:
            return Kind.KNOWN
        return Kind.HUNG if self._hung(parent) else Kind.NEW

    def _hung(self, name: str) -> bool:
        """Whether the name, or one under it, hung lately."""
        until_s = self._hung_until.get(name)
        return until_s is not None and self._now_s() < until_s

    def _begin(self) -> None:
        """Starts as many of the waiting look-ups as may run; one for which nobody waits any more is dropped."""
        for kind, waiting in self._waiting.items():
            left = []
            for lookup in waiting:
                if not lookup.waiters:
                    del self._lookups[lookup.host]
                elif self._may_run(lookup):
                    self._start(lookup)
                else:
                    left.append(lookup)
            self._waiting[kind] = left

    def _may_run(self, lookup: _Lookup) -> bool:
        """Whether a thread is free for the look-up."""
        of_kind_max = self._threads_max[lookup.kind]
        like = self._running[Kind.HUNG] + (self._running[Kind.NEW] if lookup.kind < Kind.HUNG else 0)
        like += self._running[Kind.KNOWN] if lookup.kind is Kind.KNOWN else 0
        if like >= of_kind_max or self.running >= self._threads_max[Kind.KNOWN]:
            return False
        return lookup.kind is Kind.KNOWN or self._parents[lookup.parent] < PARENT_MAX

    def _start(self, lookup: _Lookup) -> None:
        """Looks the name up in a daemon thread: a stop of relay waits for no name server."""
        lookup.started_s = self._now_s()
        self._running[lookup.kind] += 1
        self._parents[lookup.parent] += 1
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._look, args=(loop, lookup), name=f"lookup {lookup.host}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            loop.call_soon(self._ended, lookup, OSError("no thread for a look-up"))
        else:
            loop.call_later(HANGS_AFTER_S, self._judge, lookup)

    def _look(self, loop: asyncio.AbstractEventLoop, lookup: _Lookup) -> None:
        """In the thread: the look-up itself."""
        found: Found
        try:
            found = self._lookup(lookup.host)
        except (OSError, UnicodeError) as error:
            found = error if isinstance(error, OSError) else OSError("no name that can be looked up")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._ended, lookup, found)

    def _judge(self, lookup: _Lookup) -> None:
        """A look-up that is still under way makes its name one that hung, and its domain one to be careful with."""
        if self._lookups.get(lookup.host) is lookup:
            self._remember_hung(lookup)
            self._hangs()
            _logger.warning("lookup.hangs", host=lookup.host, running=self.running)

    def _remember_hung(self, lookup: _Lookup) -> None:
        """For a while, the name's look-ups, and new ones under its domain, are begun apart."""
        until_s = self._now_s() + HUNG_FOR_S
        for name in {lookup.host, lookup.parent}:
            _put(self._hung_until, name, until_s)

    def _ended(self, lookup: _Lookup, found: Found) -> None:
        """The look-up has an answer: whoever waits gets it, and its thread is free."""
        self._running[lookup.kind] -= 1
        self._parents[lookup.parent] -= 1
        if not self._parents[lookup.parent]:
            del self._parents[lookup.parent]
        del self._lookups[lookup.host]
        if self._now_s() - lookup.started_s >= HANGS_AFTER_S:
            self._remember_hung(lookup)
        else:
            self._hung_until.pop(lookup.host, None)
        addresses = () if isinstance(found, OSError) else tuple(dict.fromkeys(found))[:ADDRESSES_MAX]
        if addresses:
            _put(self._names, lookup.host, (self._now_s() + self._cache_s, addresses))
        else:
            self._names.pop(lookup.host, None)
        for waiter in lookup.waiters:
            if waiter.done():
                continue
            if addresses:
                waiter.set_result(addresses)
            else:
                waiter.set_exception(NameFailed(*(found.args if isinstance(found, OSError) else ())))
        self._begin()


def system_lookup(host: str) -> list[Address]:
    """What the system knows of a name, in the order that it prefers; OSError where that is nothing."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [Address(int(family), str(sockaddr[0])) for family, _, _, _, sockaddr in found]


def parent_of(host: str) -> str:
    """The last two labels of a name, which mostly are the domain that somebody registered."""
    return ".".join(host.rsplit(".", 2)[-2:])


def _literal(host: str) -> Address | None:
    """The host as an address, where it is one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.inet_pton(family, host.partition("%")[0])
    except (OSError, ValueError):
        return None
    return Address(int(family), host)


def _put(kept: dict[str, _Kept], name: str, value: _Kept) -> None:
    """Keeps a value as the newest; of too many, the oldest goes."""
    kept.pop(name, None)
    kept[name] = value
    if len(kept) > NAMES_MAX:
        del kept[next(iter(kept))]
