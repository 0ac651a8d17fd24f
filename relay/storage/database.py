"""What the store asks of a database, so that its transactions are written once for all of them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

Params = Mapping[str, Any]
Row = Any
"""A row that is read by column name."""


class Transaction(Protocol):
    """An open write transaction; nothing from the network is awaited while it is open."""

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a named statement, and gives the rows it returns."""

    async def run_many(self, name: str, many: Sequence[Params]) -> None:
        """Runs a named statement once for each of the parameters; nothing happens for none."""


class Database(Protocol):
    """One database: reads by name, and write transactions one at a time."""

    async def rows(self, name: str, params: Params) -> Sequence[Row]:
        """Runs a named read; StorageUnavailable when the database does not answer."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A write transaction: committed at its end, undone on an exception; StorageUnavailable if not committed."""

    async def close(self) -> None:
        """Closes every connection; never raises."""
