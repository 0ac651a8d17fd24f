"""Boots: each start of a process has a number, which its leases name, so that its successor takes back what it held.

A lease alone would do, since it ends by itself; but a process that was killed is back after a second, and what it had
under way need not wait for the rest of 25. No lease of a process that may live is ended: on SQLite the lock beside the
file proves that all others have ended; on PostgreSQL each process holds the lock of its boot in a session, and only an
earlier boot of the same process is judged, by its lock at two looks. Without such a proof the lease counts.
"""

import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from relay import log
from relay.errors import StorageUnavailable
from relay.storage.engine.database import Database, Row, Transaction

CHECK_LEASE_MS: Final = 60_000
"""How long a claimed status check belongs to one process."""
CONFIRMING_MAX: Final = 1000
"""How many pairs of provider and project one reading of what waits to be confirmed lists."""
KEPT_MS: Final = 7 * 86_400_000
_logger = log.get("boot")


class Lease(msgspec.Struct):
    """How long this process leases what it claims, and the number of its boot; None before that has begun.

    `dispatches` is whether it sends, checks and sweeps; otherwise what it makes is due immediately, for another.
    """

    length_ms: int
    boot: int | None = None
    dispatches: bool = True

    @property
    def ms(self) -> int:
        """Return how long what this process makes is leased to it."""
        return self.length_ms if self.dispatches else 0


class TakenBack(msgspec.Struct, frozen=True):
    """How many deliveries, status checks and copies became due because the process that had leased them ended."""

    deliveries: int
    checks: int
    copies: int = 0


def process_name() -> str:
    """Return what this process is called on its platform, the same after a restart: a dyno, or a host."""
    return os.environ.get("DYNO") or socket.gethostname()


class Boots:
    """The boots. `lease` is what the other parts of the storage claim with."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease
        self._name = ""

    async def begin(self, name: str, now_ms: int, *, held: bool) -> None:
        """Begin this process's boot; `held` where it has the lock of a SQLite file, and takes back what others held."""
        self._name = name
        begin = partial(_begin, name=name, lease_ms=self._lease.length_ms, held=held, now_ms=now_ms)
        self._lease.boot = await self._database.transact(begin)
        if held:
            await self.take_back(await self.dead(), now_ms)

    async def hold(self, now_ms: int) -> None:
        """Take back what others held, now that this process has the lock of the file."""
        await self._database.transact(partial(_hold, number=self._lease.boot))
        await self.take_back(await self.dead(), now_ms)

    async def dead(self) -> Sequence[Row]:
        """Return the earlier boots that have ended by force; on PostgreSQL at this look, which may be deceived."""
        return await self._database.rows("dead_boots", {"id": self._lease.boot, "name": self._name})

    async def take_back(self, boots: Sequence[Row], now_ms: int) -> TakenBack:
        """Make due what these boots had leased, and note that they have ended."""
        if not boots:
            return TakenBack(0, 0)
        resumed = await self._database.transact(partial(_take_back, boots=boots, now_ms=now_ms, ended=True))
        numbers = [boot["id"] for boot in boots]
        _logger.info("boot.resumed", boots=numbers, **msgspec.structs.asdict(resumed))
        return resumed

    async def end(self, now_ms: int) -> None:
        """Give back what this process still leases; where the database is away, the leases end by themselves."""
        if self._lease.boot is None:
            return
        own = {"id": self._lease.boot, "lease_ms": self._lease.length_ms}
        try:
            await self._database.transact(partial(_take_back, boots=[own], now_ms=now_ms, ended=False))
        except StorageUnavailable as error:
            _logger.warning("boot.not_ended", error=str(error))


async def _begin(transaction: Transaction, name: str, lease_ms: int, *, held: bool, now_ms: int) -> int:
    """Insert the boot, and return its number; the lock of the schema keeps two from getting the same."""
    await transaction.lock_schema()
    params = {"name": name, "lease_ms": lease_ms, "held": int(held), "now": now_ms}
    number = int((await transaction.rows("insert_boot", params))[0]["id"])
    await transaction.rows("forget_boots", {"before": now_ms - KEPT_MS, "id": number})
    return number


async def _hold(transaction: Transaction, number: int | None) -> None:
    """Note that the boot can be judged."""
    await transaction.rows("hold_boot", {"id": number})


async def _take_back(transaction: Transaction, boots: Sequence[Any], now_ms: int, *, ended: bool) -> TakenBack:
    """Do what `take_back` promises, within its transaction; a process that has not `ended` may still write copies."""
    numbers = [boot["id"] for boot in boots]
    lease_ms = max(boot["lease_ms"] for boot in boots)
    leased = {"boots": numbers, "now": now_ms, "until": now_ms + lease_ms}
    deliveries = await transaction.rows("take_back_deliveries", leased)
    leased["until"] = now_ms + CHECK_LEASE_MS
    checks = 0
    for row in await transaction.rows("next_checks", {}):
        of_provider = leased | {"provider": row["provider"]}
        checks += len(await transaction.rows("take_back_checks", of_provider))
    for row in await transaction.rows("next_confirmations", {"limit": CONFIRMING_MAX}):
        of_project = leased | {"provider": row["provider"], "project_id": row["project_id"]}
        checks += len(await transaction.rows("take_back_confirmations", of_project))
    of_copies = "take_back_copies" if ended else "give_back_copies"
    copies = await transaction.rows(of_copies, {"boots": numbers, "now": now_ms})
    await transaction.rows("end_boots", {"boots": numbers, "now": now_ms})
    return TakenBack(len(deliveries), checks, len(copies))
