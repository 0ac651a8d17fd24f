"""What the store asks of a database, so that its transactions are written once for all of them."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")
Params = Mapping[str, Any]
Row = Any
"""A row that is read by column name."""


class Transaction(Protocol):
    """An open write transaction; nothing from the network is awaited while it is open."""

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a named statement, and gives the rows it returns."""

    async def run_many(self, name: str, many: Sequence[Params]) -> None:
        """Runs a named statement once for each of the parameters; nothing happens for none."""

    async def run_text(self, text: str) -> None:
        """Runs a statement that has no name: only migrations do this."""

    async def hint(self) -> None:
        """Tells the other processes, with the commit, that there may be something to do; it may be lost."""

    async def lock_schema(self) -> None:
        """Waits until no other process migrates; held until the transaction ends."""


class Database(Protocol):
    """One database: reads by name, and write transactions.

    `shared` is True where other processes may write to it too, so that nobody here can know of everything.
    """

    shared: bool

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a named read; StorageUnavailable when the database does not answer."""

    async def take(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a named statement that writes, as a transaction of its own: for claims, which nobody waits to share."""

    async def transact(self, work: Callable[[Transaction], Coroutine[Any, Any, Result]]) -> Result:
        """`work` in a write transaction: committed at its end, undone on an exception.

        StorageUnavailable if it was not committed. `work` awaits nothing but the transaction.
        """

    async def size_bytes(self) -> int:
        """How much it takes on its disk; StorageUnavailable when it does not answer."""

    async def heed(self, wake: Callable[[], None]) -> None:
        """Calls `wake` for each hint of others, until it is cancelled."""

    async def close(self) -> None:
        """Closes every connection; never raises."""
