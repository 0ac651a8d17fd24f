"""What `relay doctor` reads of a database; it changes nothing, and takes a database that is not migrated."""

from typing import Any, Final

import msgspec

from relay.security.signatures import PublicKey
from relay.storage.alerts import Alerts
from relay.storage.engine.database import Database, Transaction
from relay.storage.engine.migrations import migrations
from relay.storage.job_rows import Ending
from relay.storage.signing_keys import PUBLIC_MAX

COUNTED_MAX: Final = 100_000


class Schema(msgspec.Struct, frozen=True):
    """The number of the newest migration that ran, and of the newest that this relay has."""

    there: int
    known: int


class Examination:
    """Reads a database, which may be in use by a running relay."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._alerts = Alerts(database)

    async def schema(self) -> Schema:
        """Return which migrations ran."""
        found = await self._database.rows("schema_version", {})
        return Schema(int(found[0]["version"]), len(migrations()))

    async def write(self) -> None:
        """Return if the database accepts a write; StorageUnavailable if not."""
        await self._database.transact(_touch)

    async def clock_ms(self) -> int | None:
        """Return the time of the database's own machine; None for SQLite, which is on this one."""
        if not self._database.shared:
            return None
        return int((await self._database.rows("server_clock", {}))[0]["now"])

    async def volatile(self) -> list[str]:
        """Return the server's settings by which a crash may lose what was committed; none for SQLite."""
        if not self._database.shared:
            return []
        row = (await self._database.rows("durability", {}))[0]
        return [name for name in ("fsync", "full_page_writes", "synchronous_commit") if row[name] == "off"]

    async def keys_seen(self) -> dict[bytes, int]:
        """Return when each key that seals values of the database was first used, by its fingerprint."""
        found = await self._database.rows("sealing_keys_seen", {})
        return {bytes(row["fingerprint"]): int(row["first_seen_at"]) for row in found}

    async def public_keys(self) -> list[PublicKey]:
        """Return the public signing keys of all projects."""
        found = await self._database.rows("signing_keys_public", {"limit": PUBLIC_MAX, "project_id": None})
        return [PublicKey(row["project_id"], bytes(row["public_key"])) for row in found]

    async def open_jobs(self, first_at: int, last_at: int) -> int:
        """Return how many jobs that were made from `first_at` on and before `last_at` have not ended."""
        params = {"first": first_at, "last": last_at, "most": COUNTED_MAX}
        return int((await self._database.rows("count_open_jobs", params))[0]["number"])

    async def overdue_ms(self, now_ms: int) -> int:
        """Return for how long the oldest delivery, submission or deadline is due, in milliseconds; 0 for none."""
        row: Any = (await self._database.rows("overdue", {}))[0]
        due = [row[name] for name in ("delivery_at", "submission_at", "deadline_at") if row[name] is not None]
        return max(0, now_ms - min(due)) if due else 0

    async def endings(self, first_at: int, last_at: int) -> dict[str, list[Ending]]:
        """Return how the newest jobs of a time ended, by provider."""
        return await self._alerts.endings(first_at, last_at)


async def _touch(transaction: Transaction) -> None:
    """Write, and change nothing."""
    await transaction.rows("touch", {})
