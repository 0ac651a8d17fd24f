"""Callbacks and events in the database: written by `record`, read here.

Ids say when an event was made, and of several processes the one that made it first may commit it last. So whoever reads
on from an event goes by positions: in PostgreSQL the number of the transaction, and none is read past one that is open.
"""

from typing import Final

import msgspec

from relay.model import Callback, Event, Verdict
from relay.storage import rows
from relay.storage.database import Database


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of events may be narrowed by."""

    type: str | None = None
    job_id: str | None = None
    after: str | None = None
    undelivered: bool = False


DOUBTFUL: Final = frozenset({Verdict.UNREADABLE, Verdict.MISMATCHED, Verdict.ORPHANED, Verdict.QUARANTINED})
"""Verdicts that few callbacks have: they are listed by an index of their own."""
PATIENCE_MS: Final = 60_000
"""An event older than this waits for no open transaction: relay's own are shorter, and others' may hang for ever."""


class Place(msgspec.Struct, frozen=True, order=True):
    """Where an event stands in the order that a project's events are told in."""

    position: int
    id: str


BEGINNING: Final = Place(-(1 << 63), "")
END: Final = Place((1 << 63) - 1, "")
DISORDER_MS: Final = 3_600_000
"""Events are in the order of their times to within this, whatever the clocks of several machines say."""


class Following(msgspec.Struct, frozen=True):
    """Events after a place, and where they end; `held` where the next one waits for a transaction that is open."""

    events: list[Event]
    place: Place
    held: bool


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
        name = "callback_page_doubtful" if verdict in DOUBTFUL else "callback_page"
        name = name if job_id is None else "callback_page_of_job"
        return [rows.callback(row) for row in await self._database.rows(name, params)]


class Events:
    """The events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, event_id: str, project_id: str) -> Event | None:
        """The project's event."""
        found = await self._database.rows("event_of_project", {"id": event_id, "project_id": project_id})
        return rows.event(found[0]) if found else None

    async def page(
        self, project_id: str, before: str | None, limit: int, wanted: EventFilter, now_ms: int
    ) -> list[Event]:
        """Events newest first. Those after an event, in the stream's order: who goes on from the first misses none."""
        params = {"project_id": project_id, "before": before, "limit": limit, **msgspec.to_builtins(wanted)}
        params |= {"undelivered": int(wanted.undelivered), "patience": now_ms - PATIENCE_MS}
        place = BEGINNING if wanted.after is None else await self.place(project_id, wanted.after, now_ms)
        params |= {"follows": int(wanted.after is not None), "position": place.position, "after": place.id}
        name = "event_page" if wanted.job_id is None else "event_page_of_job"
        if wanted.after is not None and wanted.job_id is None:
            end = END if before is None else await self.place(project_id, before, now_ms)
            name, params = "event_page_after", params | {"end": end.position, "before": end.id}
        return [rows.event(row) for row in await self._database.rows(name, params)]

    async def following(self, project_id: str, place: Place, kind: str | None, limit: int, now_ms: int) -> Following:
        """Events after that place, in their order: whoever reads on from its end misses none and gets none twice."""
        params = {"project_id": project_id, "position": place.position, "id": place.id, "type": kind, "limit": limit}
        events: list[Event] = []
        for row in await self._database.rows("events_following", params):
            if not row["settled"] and row["created_at"] > now_ms - PATIENCE_MS:
                return Following(events, place, held=True)
            events.append(rows.event(row))
            place = Place(row["position"], row["id"])
        return Following(events, place, held=False)

    async def place(self, project_id: str, event_id: str | None, now_ms: int) -> Place:
        """Where an event stands; one that is not there stands before those with a newer id; None: where now is."""
        params = {"project_id": project_id, "id": event_id, "patience": now_ms - PATIENCE_MS}
        if event_id is not None:
            if found := await self._database.rows("event_place", params):
                return Place(found[0]["position"], found[0]["id"])
            if found := await self._database.rows("first_event_after", params):
                return Place(found[0]["position"], "")
        found = await self._database.rows("latest_event", params)
        return Place(found[0]["position"], found[0]["id"]) if found else BEGINNING

    async def position_in_time(self, project_id: str, at_ms: int) -> int:
        """The position that a project's events of then begin at, where order and time agree; its lowest without any."""
        found = await self._database.rows("position_in_time", {"project_id": project_id, "at": at_ms})
        return int(found[0]["position"]) if found else BEGINNING.position

    async def delivery_counts(self, event_ids: list[str]) -> dict[str, dict[str, int]]:
        """How many deliveries of each event are in which state."""
        counts: dict[str, dict[str, int]] = {event_id: {} for event_id in event_ids}
        for row in await self._database.rows("delivery_counts", {"ids": rows.text(event_ids)}):
            counts[row["event_id"]][row["state"]] = row["number"]
        return counts
