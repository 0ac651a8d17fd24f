"""Callbacks and events in the database: written by `record`, read here."""

import msgspec

from relay.model import Callback, Event
from relay.storage import rows
from relay.storage.database import Database


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of events may be narrowed by."""

    type: str | None = None
    job_id: str | None = None
    after: str | None = None
    undelivered: bool = False


class Callbacks:
    """The callbacks, as they came."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, callback_id: str, project_id: str) -> Callback | None:
        """The project's callback."""
        found = await self._database.rows("callback_of_project", {"id": callback_id, "project_id": project_id})
        return rows.callback(found[0]) if found else None

    async def page(
        self, project_id: str, before: str | None, limit: int, job_id: str | None, verdict: str | None
    ) -> list[Callback]:
        """Callbacks newest first."""
        params = {"project_id": project_id, "before": before, "limit": limit, "job_id": job_id, "verdict": verdict}
        return [rows.callback(row) for row in await self._database.rows("callback_page", params)]


class Events:
    """The events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, event_id: str, project_id: str) -> Event | None:
        """The project's event."""
        found = await self._database.rows("event_of_project", {"id": event_id, "project_id": project_id})
        return rows.event(found[0]) if found else None

    async def page(self, project_id: str, before: str | None, limit: int, wanted: EventFilter) -> list[Event]:
        """Events newest first."""
        params = {"project_id": project_id, "before": before, "limit": limit, **msgspec.to_builtins(wanted)}
        params["undelivered"] = int(wanted.undelivered)
        return [rows.event(row) for row in await self._database.rows("event_page", params)]

    async def following(self, project_id: str, after: str, kind: str | None, limit: int) -> list[Event]:
        """Events after that id, oldest first."""
        params = {"project_id": project_id, "after": after, "type": kind, "limit": limit}
        return [rows.event(row) for row in await self._database.rows("events_following", params)]

    async def latest(self, project_id: str) -> str:
        """The newest event's id, empty when there is none."""
        return (await self._database.rows("latest_event", {"project_id": project_id}))[0]["id"] or ""

    async def delivery_counts(self, event_ids: list[str]) -> dict[str, dict[str, int]]:
        """How many deliveries of each event are in which state."""
        counts: dict[str, dict[str, int]] = {event_id: {} for event_id in event_ids}
        for row in await self._database.rows("delivery_counts", {"ids": rows.text(event_ids)}):
            counts[row["event_id"]][row["state"]] = row["number"]
        return counts
