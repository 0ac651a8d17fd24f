# ruff: noqa: ARG002 - each fault is called alike
"""Makes the faults of a plan, each at its time, and ends them all before the run is judged."""

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from tests.chaos.control import shim
from tests.chaos.databases import Database, PostgreSQLDatabase, SQLiteFile
from tests.chaos.links import Link
from tests.chaos.plan import Fault
from tests.chaos.relays import Place, Process

NAMES_MS: Final = 1_500
AWAY_S: Final = 0.3
COPYING_S, COPYING_PART = 3.0, 0.1
"""How long a kill waits for a copy, and which part of its time that copy has had then."""
FILE_ROOM_BYTES: Final = 40_000
"""How far a file may still grow once its size is limited."""


class Injector:
    """`made` counts the faults by their names, `skipped` those that this machine cannot have."""

    def __init__(self, places: list[Place], links: dict[str, Link], database: Database) -> None:
        self.made: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.ahead_s = 0.0
        self._places = places
        self._links = links
        self._database = database
        self._busy = asyncio.Lock()
        """Of the processes and the server: one of these faults at a time."""

    async def inject(self, fault: Fault, begins_s: float) -> None:
        """Wait for the fault's time by the loop's clock, make it, and end it when its time is over."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, begins_s + fault.at_s - loop.time()))
        if fault.kind == "link":
            self._links[fault.target].go_wrong(fault.how)
            self.made[fault.name] += 1
            await asyncio.sleep(fault.for_s)
            self._links[fault.target].heal()
            return
        place = self._places[int(fault.target)]
        make: Callable[[Place, Fault], Awaitable[bool]] = getattr(self, f"_{fault.kind}")
        (self.made if await make(place, fault) else self.skipped)[fault.name] += 1

    async def heal(self) -> None:
        """Let everything work, and put every clock to the latest time that one has shown, so that all timers end."""
        for link in self._links.values():
            if link.mode:
                link.heal()
        for place in self._places:
            for field in ("names_fail", "names_ms", "syncs_fail"):
                place.control[field] = 0
            place.control["ahead_ms"] = round(self.ahead_s * 1000)

    def hasten(self, seconds: float) -> None:
        """Step every clock, so that what waits for its next try need not wait; all faults are over."""
        self.ahead_s += seconds
        for place in self._places:
            place.control["ahead_ms"] = round(self.ahead_s * 1000)

    async def _kill(self, place: Place, fault: Fault) -> bool:
        async with self._busy:
            await place.kill(place.processes[0])
            await asyncio.sleep(fault.for_s * AWAY_S)
            await (await place.start()).ready()
        return True

    async def _kill_copying(self, place: Place, fault: Fault) -> bool:
        """Kill every process as soon as a result is being copied, if that is soon."""
        copying = [self._links[name] for name in ("results", "store") if name in self._links]
        until_s = asyncio.get_running_loop().time() + COPYING_S
        while not any(link.carries for link in copying):
            if asyncio.get_running_loop().time() >= until_s:
                return False
            await asyncio.sleep(0.005)  # relay begins in its own time
        await asyncio.sleep(fault.for_s * COPYING_PART)
        return await self._kill_all(place, fault)

    async def _kill_all(self, place: Place, fault: Fault) -> bool:
        """Kill every process, as when a machine is lost."""
        async with self._busy:
            await asyncio.gather(*(one.kill(process) for one in self._places for process in one.processes[:]))
            await asyncio.sleep(fault.for_s * AWAY_S)
            await asyncio.gather(*[(await one.start()).ready() for one in self._places])
        return True

    async def _pause(self, place: Place, fault: Fault) -> bool:
        async with self._busy:
            place.processes[0].signal(signal.SIGSTOP)
            await asyncio.sleep(fault.amount)
            place.processes[0].signal(signal.SIGCONT)
        return True

    async def _terminate(self, place: Place, fault: Fault) -> bool:
        async with self._busy:
            await place.stop(place.processes[0])
            await (await place.start()).ready()
        return True

    async def _overlap(self, place: Place, fault: Fault) -> bool:
        """Start a second process beside the first, which then stops, or is killed."""
        async with self._busy:
            first = place.processes[0]
            await (await place.start()).ready()
            await asyncio.sleep(fault.for_s * AWAY_S)
            await (place.kill(first) if fault.for_s > 1 else place.stop(first))
        return True

    async def _log_closed(self, place: Place, fault: Fault) -> bool:
        async with self._busy:
            place.processes[0].close_log()
        return True

    async def _log_full(self, place: Place, fault: Fault) -> bool:
        async with self._busy:
            process = place.processes[0]
        process.reading.clear()
        await asyncio.sleep(fault.for_s)
        process.reading.set()
        return True

    async def _clock_step(self, place: Place, fault: Fault) -> bool:
        """Step every clock, as the one of the machine."""
        self.ahead_s = max(self.ahead_s, fault.amount)
        for one in self._places:
            one.control["ahead_ms"] = round(fault.amount * 1000)
        return True

    async def _clock_skew(self, place: Place, fault: Fault) -> bool:
        """Step the clock of one process alone."""
        self.ahead_s = max(self.ahead_s, fault.amount)
        place.control["ahead_ms"] = round(fault.amount * 1000)
        return True

    async def _names_fail(self, place: Place, fault: Fault) -> bool:
        return await self._for_a_while("names_fail", 1, fault.for_s)

    async def _names_hang(self, place: Place, fault: Fault) -> bool:
        return await self._for_a_while("names_ms", NAMES_MS, fault.for_s)

    async def _sync_fails(self, place: Place, fault: Fault) -> bool:
        return shim() is not None and await self._for_a_while("syncs_fail", 1, fault.for_s)

    def _processes(self) -> list[Process]:
        """Return every process that is there."""
        return [process for place in self._places for process in place.processes]

    async def _for_a_while(self, field: str, value: int, for_s: float) -> bool:
        """Set a number of every process, and back."""
        for one in self._places:
            one.control[field] = value
        await asyncio.sleep(for_s)
        for one in self._places:
            one.control[field] = 0
        return True

    async def _sqlite_busy(self, place: Place, fault: Fault) -> bool:
        """Hold SQLite's write lock."""
        assert isinstance(self._database, SQLiteFile)
        self._database.hold()
        await asyncio.sleep(fault.for_s)
        self._database.release()
        return True

    async def _file_limit(self, place: Place, fault: Fault) -> bool:
        """Let the database's files grow no further: writes fail, though the disk is not full."""
        assert isinstance(self._database, SQLiteFile)
        for process in self._processes():
            process.limit_files(self._database.largest_bytes() + FILE_ROOM_BYTES)
        await asyncio.sleep(fault.for_s)
        for process in self._processes():
            process.limit_files(None)
        return True

    async def _disk_full(self, place: Place, fault: Fault) -> bool:
        assert isinstance(self._database, SQLiteFile)
        if not self._database.fill():
            return False
        await asyncio.sleep(fault.for_s)
        self._database.empty()
        return True

    async def _database_restart(self, place: Place, fault: Fault) -> bool:
        return await self._restart(signal.SIGINT, fault)

    async def _database_crash(self, place: Place, fault: Fault) -> bool:
        return await self._restart(signal.SIGQUIT, fault)

    async def _restart(self, how: signal.Signals, fault: Fault) -> bool:
        """Stop the server, and start it again."""
        assert isinstance(self._database, PostgreSQLDatabase)
        async with self._busy:
            await asyncio.to_thread(self._database.server.stop, how)
            await asyncio.sleep(fault.for_s * AWAY_S)
            await asyncio.to_thread(self._database.server.start)
        return True

    async def _table_locked(self, place: Place, fault: Fault) -> bool:
        """Lock the jobs against everything, as a migration by hand does."""
        assert isinstance(self._database, PostgreSQLDatabase)
        async with self._busy:
            await self._database.lock(fault.for_s)
        return True

    async def _sessions_cut(self, place: Place, fault: Fault) -> bool:
        assert isinstance(self._database, PostgreSQLDatabase)
        async with self._busy:
            await self._database.cut_sessions()
        return True
