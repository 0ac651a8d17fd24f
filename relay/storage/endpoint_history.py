"""What happened to each endpoint: written by the transaction that does it, at most KEPT_MAX entries an endpoint."""

from collections.abc import Sequence
from typing import Final

from relay.model import ids
from relay.model.delivery import EndpointNote, NoteKind
from relay.storage import pages, rows
from relay.storage.engine.database import Database, Purpose, Row, Transaction
from relay.storage.pages import Listing, Page

KEPT_MAX: Final = 500


class EndpointHistory:
    """Reads what happened to endpoints."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, project_id: str, endpoint_id: str, listing: Listing) -> Page[EndpointNote]:
        """Return what happened to an endpoint, newest first."""
        params = {"project_id": project_id, "endpoint_id": endpoint_id}

        async def read(before: str | None, limit: int) -> Sequence[Row]:
            asked = params | {"before": before, "limit": limit}
            return await self._database.rows("endpoint_history_page", asked, Purpose.LIST)

        return await pages.collect(listing, read, rows.endpoint_note)


def note(project_id: str, endpoint_id: str, at: int, kind: NoteKind, reason: str | None = None) -> EndpointNote:
    """Return what relay itself notes about an endpoint; times in unix milliseconds."""
    return EndpointNote(
        id=ids.new_id(ids.ENDPOINT_NOTE),
        project_id=project_id,
        endpoint_id=endpoint_id,
        at=at,
        kind=kind,
        reason=reason,
    )


async def write(transaction: Transaction, notes: Sequence[EndpointNote]) -> None:
    """Store what happened to endpoints, and drop what is too much."""
    for one in notes:
        await transaction.run_many("insert_endpoint_note", [one])
        await transaction.rows("trim_endpoint_history", {"endpoint_id": one.endpoint_id, "kept": KEPT_MAX})
