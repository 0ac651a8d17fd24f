"""Jobs that are not here: what a pruned one left behind, and how much is kept of what still comes in about it."""

from collections import Counter
from collections.abc import Iterable

import msgspec

from relay.clock import rfc3339
from relay.storage import rows
from relay.storage.engine.database import Row, Transaction


class Tombstone(msgspec.Struct, frozen=True):
    """What is left of a pruned job."""

    job_id: str
    project_id: str
    state: str
    pruned_at: int

    @classmethod
    def of(cls, row: Row) -> "Tombstone":
        """Return the tombstone of a row."""
        return cls(**_columns(row))

    @property
    def reason_at_end(self) -> str:
        """How the job ended, and when it was pruned."""
        return f"the job ended as {self.state} and was pruned on {rfc3339(self.pruned_at)[:10]}"


_columns = rows.columns_of(Tombstone)


class Absent:
    """What is known of jobs that are not here, in one transaction: their tombstones, the callbacks kept about each.

    `bytes` are those of callbacks that are kept, about any job of a batch.
    """

    def __init__(self, found: Iterable[Row] = (), kept: Iterable[Row] = ()) -> None:
        self.tombstones = {row["job_id"]: Tombstone.of(row) for row in found}
        kept = list(kept)
        self.kept = Counter({row["job_id"]: int(row["number"]) for row in kept})
        self.bytes = Counter({row["job_id"]: int(row["bytes"]) for row in kept})


async def absent(transaction: Transaction, job_ids: set[str]) -> Absent:
    """Return what is known about the jobs of callbacks that are not here; no read if all are here."""
    if not job_ids:
        return Absent()
    wanted = {"ids": sorted(job_ids)}
    return Absent(await transaction.rows("tombstones_by_id", wanted), await transaction.rows("callbacks_kept", wanted))
