"""What the store asks of a database, so that its transactions are written once for all of them."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import msgspec

Result = TypeVar("Result")
Params = Mapping[str, Any]
Row = Any
"""A row that is read by column name."""


class DueWork(StrEnum):
    """What there may be to do for the process that sends and checks."""

    DELIVERIES = "deliveries"
    CHECKS = "checks"
    COPIES = "copies"


class Purpose(StrEnum):
    """What a read is for: each has connections of its own, so that what is slow delays nothing but its like."""

    KEY = "key"
    """A look-up that every request begins with."""
    READ = "read"
    """What relay's own work and a single object need."""
    LIST = "list"
    """A page, a stream or a count that a client asks for."""


class Transaction(Protocol):
    """An open write transaction; nothing from the network is awaited while it is open."""

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Run a named statement and return its rows."""

    async def run_many(self, name: str, many: Sequence[Params] | Sequence[msgspec.Struct]) -> None:
        """Run a named statement for each row, given as a struct or a dictionary; they are different rows, or none."""

    async def run_text(self, text: str) -> None:
        """Run a statement that has no name: only migrations do this."""

    async def columns(self, table: str) -> frozenset[str]:
        """Return the columns of the table that statements with this name mean; none where there is none."""

    async def has(self, name: str) -> bool:
        """Return whether something is where a new table or index with this name would be made."""

    async def notify(self, about: DueWork) -> None:
        """Notify the other processes, with the commit, that there may be something to do; it may be lost."""

    def begin_part(self) -> None:
        """Begin a part that neither reads nor writes what the parts before it have written."""

    async def lock_schema(self) -> None:
        """Wait until no other process migrates; held until the transaction ends."""


class Database(Protocol):
    """One database: reads by name, and write transactions.

    `shared` is True where other processes may write to it too, so that this process cannot know everything.
    """

    shared: bool

    async def rows(self, name: str, params: Params, purpose: Purpose = Purpose.READ) -> Sequence[Row]:
        """Run a named read; StorageUnavailable when the database does not answer."""

    async def claim(self, name: str, many: Sequence[Params], read: str | None = None) -> Sequence[Row]:
        """Run a named claim for each of the parameters, as one transaction; its rows.

        With `read`, a named read of the `keys` (project and id) that were claimed, they are the rows of that.
        """

    async def transact(self, work: Callable[[Transaction], Coroutine[Any, Any, Result]]) -> Result:
        """`work` in a write transaction: committed at its end, undone on an exception.

        StorageUnavailable if it was not committed. `work` awaits nothing but the transaction.
        """

    async def transact_apart(self, work: Callable[[Transaction], Coroutine[Any, Any, Result]]) -> Result:
        """`transact` for work in parts, each of which reads before it writes, and only the last may read after that.

        What it reads then is changed by no write. A server need not lock jobs that are updated: it writes only if none
        has changed since it was read, else all is done again.
        """

    async def size_bytes(self) -> int:
        """How much it takes on its disk; StorageUnavailable when it does not answer."""

    async def listen(self, wake: Callable[[DueWork], None], boot: int | None = None) -> None:
        """Call `wake` for each notification of other processes, and hold the lock of the boot, until cancelled."""

    async def close(self) -> None:
        """Close every connection; never raises."""
