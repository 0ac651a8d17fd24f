"""What one PostgreSQL carries: the cost of an event, measured, and a simulation of more cores than this machine has.

An event is a callback that ends its job: received and stored by a web process, its notifications sent and recorded by
a work process. Both stages are measured one after the other, each with a web or a work process and the server alone.
The simulation has the server's cores, its log's device with group commit, and processes that batch as relay does. It
knows nothing of locks and of memory: what it says is the most that the cores and the device allow.
"""

import heapq
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack
from typing import Final

import asyncpg
import msgspec

from bench.databases import Databases
from bench.deliver import LANES, arrived
from bench.ingest import load
from bench.processes import WEB, WORK, Program, program, usage
from bench.receiver import receiving
from bench.stock import Shape, stocked

US: Final = 1e-6
DELAY_S: Final = 3600
"""How long after its event a notification is due: longer than anything here takes."""
TURNS: Final = 2
"""Transactions that a process has under way: storage/engine/group_commit.py."""
WAITING: Final = 500
"""Events that one stage may be ahead of the other."""
IDLE_S: Final = 0.0005
SIMULATED_S: Final = 3.0
WARM_S: Final = 1.0


class Stage(msgspec.Struct, frozen=True):
    """What one event costs in one stage: CPU of relay and of the server, its share of a transaction, bytes of log."""

    relay_us: float
    server_us: float
    commits: float
    wal_bytes: float


class Costs(msgspec.Struct, frozen=True):
    """Both stages of an event with so many endpoints, the bytes that it leaves behind, and how long a flush takes."""

    receive: Stage
    send: Stage
    endpoints: int
    stored_bytes: float
    flush_ms: float


class _Reading(msgspec.Struct, frozen=True):
    """Counters at one moment."""

    relay_s: float
    server_s: float
    commits: int
    wal: int


async def measured(made: Databases, events: int, endpoints: int) -> Costs:
    """Return the costs of an event, from one run: all callbacks are received first, then all notifications are sent."""
    async with AsyncExitStack() as stack:
        receiver, origin = await stack.enter_async_context(receiving())
        urls = [f"{origin}/{number}" for number in range(endpoints)]
        database = made.fresh()
        stock = await stocked(database, made.folder, events, urls, Shape(first_delay_s=DELAY_S, in_flight_max=LANES))
        server = await asyncpg.connect(database)
        stack.push_async_callback(server.close)
        size = await server.fetchval("SELECT pg_database_size(current_database())")
        web = await stack.enter_async_context(program(made, database, *WEB, core=None))
        begin = await _read(server, web)
        await load(web.port, 64, 0, stock.callbacks)
        received = await _read(server, web)
        async with program(made, database, *WORK, core=None) as idle:
            await idle.quiet()
            start_s = usage(idle.child.pid).cpu_s
        await server.execute("UPDATE deliveries SET next_attempt_at = created_at")
        await server.execute("VACUUM ANALYZE deliveries")
        first = msgspec.structs.replace(await _read(server, web), relay_s=start_s)
        work = await stack.enter_async_context(program(made, database, *WORK, core=None))
        await arrived(receiver, events * endpoints)
        sent = await _read(server, work)
        grown = await server.fetchval("SELECT pg_database_size(current_database())") - size
        return Costs(
            receive=_stage(begin, received, events),
            send=_stage(first, sent, events),
            endpoints=endpoints,
            stored_bytes=grown / events,
            flush_ms=await _flush_ms(server),
        )


async def _flush_ms(server: "asyncpg.Connection[asyncpg.Record]") -> float:
    """Return how long the server takes to put a small transaction on its disk."""
    began, rounds = time.monotonic(), 200
    for _ in range(rounds):
        await server.execute("SELECT pg_logical_emit_message(TRUE, '', '')")
    return (time.monotonic() - began) / rounds * 1000


async def _read(server: "asyncpg.Connection[asyncpg.Record]", of: Program) -> _Reading:
    """Return the counters of a process of relay and of the server, once nothing is left to do."""
    both_s = await of.quiet()
    commits, wal = await server.fetchrow(
        "SELECT xact_commit, pg_current_wal_insert_lsn() - '0/0' FROM pg_stat_database"
        " WHERE datname = current_database()"
    )
    relay_s = usage(of.child.pid).cpu_s
    return _Reading(relay_s, both_s - relay_s, commits, int(wal))


def _stage(before: _Reading, after: _Reading, events: int) -> Stage:
    """Return what happened between two readings, for each event."""
    return Stage(
        relay_us=(after.relay_s - before.relay_s) / events / US,
        server_us=(after.server_s - before.server_s) / events / US,
        commits=(after.commits - before.commits) / events,
        wal_bytes=(after.wal - before.wal) / events,
    )


class Machine(msgspec.Struct, frozen=True):
    """A server: its cores, and its log's device: how long one flush takes, and how many bytes a second it writes."""

    cores: int
    flush_ms: float = 1.0
    wal_mb_per_s: float = 400.0


class Rate(msgspec.Struct, frozen=True):
    """What came out of each stage in a second, and the share of the server's cores that was busy."""

    received_per_s: float
    sent_per_s: float
    busy: float

    @property
    def events_per_s(self) -> float:
        """Events through both stages."""
        return min(self.received_per_s, self.sent_per_s)


def simulate(costs: Costs, machine: Machine, webs: int, works: int) -> Rate:
    """Return what so many web and work processes, each with a core of its own, get out of a server."""
    world = _World(machine)
    done = {"receive": 0.0, "send": 0.0}

    def process(name: str, stage: Stage, own: "_Cores") -> Generator[Callable[[Callable[[], None]], None]]:
        batch, sign = 1 / stage.commits, 1 if name == "receive" else -1
        while True:
            while sign * (done["receive"] - done["send"]) > WAITING:  # a load that is steady: what comes in goes out
                yield world.sleep(IDLE_S)
            yield own.use(batch * stage.relay_us * US)
            yield world.cores.use(batch * stage.server_us * US)
            yield world.log.flush(batch * stage.wal_bytes)
            done[name] += batch

    for name, stage, number in (("receive", costs.receive, webs), ("send", costs.send, works)):
        for _ in range(number):
            own = _Cores(world, 1)
            for _ in range(TURNS):
                world.run(process(name, stage, own))
    world.go(WARM_S)
    before, busy_before = dict(done), world.cores.busy_s
    world.go(SIMULATED_S)
    took_s = SIMULATED_S - WARM_S
    busy = (world.cores.busy_s - busy_before) / took_s / machine.cores
    return Rate((done["receive"] - before["receive"]) / took_s, (done["send"] - before["send"]) / took_s, busy)


class _World:
    """Simulated time: what happens when, in order."""

    def __init__(self, machine: Machine) -> None:
        self.now_s = 0.0
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self.cores = _Cores(self, machine.cores)
        self.log = _Log(self, machine.flush_ms / 1000, machine.wal_mb_per_s * 1e6)

    def at(self, delay_s: float, what: Callable[[], None]) -> None:
        """Have something happen later; what is due together happens in the order in which it was asked for."""
        self._number += 1
        heapq.heappush(self._later, (self.now_s + delay_s, self._number, what))

    def sleep(self, seconds: float) -> Callable[[Callable[[], None]], None]:
        """Return what calls back after so long."""
        return lambda done: self.at(seconds, done)

    def run(self, steps: Generator[Callable[[Callable[[], None]], None]]) -> None:
        """Run a process: each thing that it yields calls it back when it is done."""

        def on() -> None:
            next(steps)(on)

        self.at(0, on)

    def go(self, until_s: float) -> None:
        """Let time pass."""
        while self._later[0][0] <= until_s:
            self.now_s, _, what = heapq.heappop(self._later)
            what()


class _Cores:
    """Cores that serve one after another, in order of arrival."""

    def __init__(self, world: _World, number: int) -> None:
        self._world = world
        self._free = number
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self.busy_s = 0.0

    def use(self, seconds: float) -> Callable[[Callable[[], None]], None]:
        """Return what takes a core for so long and then calls back."""
        return lambda done: self._take(seconds, done)

    def _take(self, seconds: float, done: Callable[[], None]) -> None:
        if not self._free:
            self._waiting.append((seconds, done))
            return
        self._free -= 1
        self.busy_s += seconds
        self._world.at(seconds, lambda: self._end(done))

    def _end(self, done: Callable[[], None]) -> None:
        self._free += 1
        if self._waiting:
            self._take(*self._waiting.popleft())
        done()


class _Log:
    """The write-ahead log: one flush at a time, for every transaction that waits when it begins."""

    def __init__(self, world: _World, flush_s: float, bytes_per_s: float) -> None:
        self._world = world
        self._flush_s = flush_s
        self._bytes_per_s = bytes_per_s
        self._waiting: list[Callable[[], None]] = []
        self._bytes = 0.0
        self._busy = False

    def flush(self, size: float) -> Callable[[Callable[[], None]], None]:
        """Return what calls back when these bytes are on the disk."""
        return lambda done: self._add(size, done)

    def _add(self, size: float, done: Callable[[], None]) -> None:
        self._waiting.append(done)
        self._bytes += size
        if not self._busy:
            self._begin()

    def _begin(self) -> None:
        together, size = self._waiting, self._bytes
        self._waiting, self._bytes, self._busy = [], 0.0, True
        self._world.at(self._flush_s + size / self._bytes_per_s, lambda: self._end(together))

    def _end(self, together: list[Callable[[], None]]) -> None:
        self._busy = False
        for done in together:
            done()
        if self._waiting and not self._busy:
            self._begin()
