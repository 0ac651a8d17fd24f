"""Subscribers' endpoints in the database; their secrets and headers are sealed there and open only here."""

from collections.abc import Sequence
from typing import Any

from relay.outbox import Endpoint
from relay.seal import Seal
from relay.storage import health, rows
from relay.storage.database import Database, Transaction
from relay.storage.writer import Writer


class Endpoints:
    """The endpoints."""

    def __init__(self, database: Database, writer: Writer, seal: Seal) -> None:
        self._database = database
        self._writer = writer
        self._seal = seal

    async def create(self, endpoint: Endpoint) -> None:
        """A new endpoint; it hears of what is committed after it."""
        await self._writer.write(self._insert, endpoint)

    async def update(self, endpoint: Endpoint) -> None:
        """What the subscriber may change; deliveries that wait use it from their next attempt on."""
        await self._writer.write(self._update, endpoint)

    async def rotate(self, endpoint: Endpoint, secret: str, until_ms: int, now_ms: int) -> None:
        """A new secret from the next attempt on; the former one signs too until then."""
        params = {
            "id": endpoint.id,
            "project_id": endpoint.project_id,
            "secret": self._seal.seal(secret),
            "until": until_ms,
            "now": now_ms,
        }
        await self._writer.write(_rotate, params)

    async def switch(self, endpoint_id: str, active: bool, now_ms: int) -> None:
        """Enables or disables the endpoint by hand; nothing happens where it is so already."""
        await self._writer.write(_switch, (endpoint_id, active, now_ms))

    async def delete(self, endpoint_id: str, project_id: str, now_ms: int) -> bool:
        """The endpoint is gone and what waited for it is canceled; False when there was none."""
        return await self._writer.write(_delete, (endpoint_id, project_id, now_ms))

    async def get(self, endpoint_id: str, project_id: str) -> Endpoint | None:
        """The project's endpoint."""
        found = await self._database.rows("endpoint_of_project", {"id": endpoint_id, "project_id": project_id})
        return rows.endpoint(found[0], self._seal) if found else None

    async def page(self, project_id: str, before: str | None, limit: int) -> list[Endpoint]:
        """Endpoints newest first."""
        found = await self._database.rows("endpoint_page", {"project_id": project_id, "before": before, "limit": limit})
        return [rows.endpoint(row, self._seal) for row in found]

    async def _insert(self, transaction: Transaction, endpoints: Sequence[Endpoint]) -> list[None]:
        await transaction.run_many(
            "insert_endpoint", [rows.endpoint_params(endpoint, self._seal) for endpoint in endpoints]
        )
        return [None] * len(endpoints)

    async def _update(self, transaction: Transaction, endpoints: Sequence[Endpoint]) -> list[None]:
        await transaction.run_many(
            "update_endpoint", [rows.endpoint_params(endpoint, self._seal) for endpoint in endpoints]
        )
        return [None] * len(endpoints)


async def _rotate(transaction: Transaction, wanted: Sequence[dict[str, Any]]) -> list[None]:
    """Rotates for each caller in turn."""
    for params in wanted:
        await transaction.rows("rotate_secret", params)
    return [None] * len(wanted)


async def _switch(transaction: Transaction, wanted: Sequence[tuple[str, bool, int]]) -> list[None]:
    """Switches for each caller in turn."""
    for endpoint_id, active, now_ms in wanted:
        if active:
            await health.enable(transaction, endpoint_id, now_ms)
        else:
            await health.disable(transaction, endpoint_id, now_ms, "disabled by hand")
    return [None] * len(wanted)


async def _delete(transaction: Transaction, wanted: Sequence[tuple[str, str, int]]) -> list[bool]:
    """Deletes each, and calls off what waited for it."""
    deleted = []
    for endpoint_id, project_id, now_ms in wanted:
        params = {"id": endpoint_id, "project_id": project_id, "now": now_ms, "nothing": b""}
        found = await transaction.rows("delete_endpoint", params)
        if found:
            await transaction.rows("cancel_deliveries_of_endpoint", {"id": endpoint_id, "now": now_ms})
        deleted.append(bool(found))
    return deleted
