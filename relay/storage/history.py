"""Callbacks and events in the database: written by `record`, read here.

Ids say when an event was made, but the process that made it first may commit it last. So a reader that continues from
an event goes by positions: in PostgreSQL the number of the transaction, and none is read past one that is open.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from relay.model import ids
from relay.model.job import Callback, CallbackHead, Disposition, Event, Reprocessing
from relay.storage import pages, rows
from relay.storage.engine.database import Database, Purpose, Row
from relay.storage.pages import EVER, Listing, Page, Span


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of events may be narrowed by."""

    type: str | None = None
    job_id: str | None = None
    after: str | None = None
    undelivered: bool = False
    made: Span = EVER


class CallbackFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of callbacks may be narrowed by."""

    job_id: str | None = None
    disposition: str | None = None
    received: Span = EVER


REPROCESSINGS_MAX: Final = 500
DOUBTFUL: Final = frozenset(
    {Disposition.UNREADABLE, Disposition.MISMATCHED, Disposition.ORPHANED, Disposition.QUARANTINED}
)
"""Verdicts that few callbacks have: they are listed by an index of their own."""
PATIENCE_MS: Final = 60_000
"""An event older than this waits for no open transaction: relay's own are shorter, and others' may hang for ever."""


class Place(msgspec.Struct, frozen=True, order=True):
    """Where an event stands in the order of a project's events."""

    position: int
    id: str


BEGINNING: Final = Place(-(1 << 63), "")
END: Final = Place((1 << 63) - 1, "")
DISORDER_MS: Final = 3_600_000
"""Events are in the order of their times to within this, whatever the clocks of several machines say."""


class EventQuery(msgspec.Struct, frozen=True):
    """The events of a project after `place`, of one type or (None) of any.

    At most `events_max` are read, and `bytes_max` of their bodies, but one event in any case.
    """

    project_id: str
    place: Place
    kind: str | None
    events_max: int
    bytes_max: int = 1 << 20


class Following(msgspec.Struct, frozen=True):
    """Events after a place, and the place where they end.

    `held` where the next one waits for a transaction that is open, `more` where a bound of the query was reached.
    """

    events: list[Event]
    place: Place
    held: bool = False
    more: bool = False


class Callbacks:
    """The callbacks, as they came."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, callback_id: str, project_id: str) -> Callback | None:
        """Return the project's callback."""
        found = await self._database.rows("callback_of_project", {"id": callback_id, "project_id": project_id})
        return rows.callback(found[0]) if found else None

    async def reprocessings(self, callback: Callback) -> list[Reprocessing]:
        """How a callback of the project was run again, in order."""
        if callback.job_id is None:
            return []
        params = {"job_id": callback.job_id, "limit": REPROCESSINGS_MAX}
        found = await self._database.rows("reprocessings_of_job", params)
        return [rows.reprocessing(row) for row in found if row["callback_id"] == callback.id]

    async def page(self, project_id: str, listing: Listing, wanted: CallbackFilter) -> Page[CallbackHead]:
        """Callbacks newest first, without their bodies."""
        disposition = wanted.disposition
        params: dict[str, Any] = {"project_id": project_id, "job_id": wanted.job_id, "disposition": disposition}
        params |= wanted.received.params()
        name, floor_name, lowest = "callback_page", None, None
        if wanted.job_id is not None:
            name = "callback_page_of_job"
        else:
            listing, lowest = wanted.received.narrow(listing, ids.CALLBACK)
            if disposition in DOUBTFUL:
                name = "callback_page_doubtful"
            elif disposition is not None:
                floor_name = "callback_floor"
        params, ends_at = await pages.bounds(self._database, floor_name, params | {"before": listing.before}, lowest)

        async def read(before: str | None, limit: int) -> Sequence[Row]:
            return await self._database.rows(name, params | {"before": before, "limit": limit}, Purpose.LIST)

        return await pages.collect(listing, read, rows.callback_head, ends_at)


class Events:
    """The events."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, event_id: str, project_id: str) -> Event | None:
        """Return the project's event."""
        found = await self._database.rows("event_of_project", {"id": event_id, "project_id": project_id})
        return rows.event(found[0]) if found else None

    async def page(self, project_id: str, listing: Listing, wanted: EventFilter, now_ms: int) -> Page[Event]:
        """Events newest first. Those after an event, in the stream's order: who goes on from the first misses none."""
        params: dict[str, Any] = {"project_id": project_id, "type": wanted.type, "job_id": wanted.job_id}
        params |= {"undelivered": int(wanted.undelivered), "patience": now_ms - PATIENCE_MS} | wanted.made.params()
        follows = wanted.after is not None
        place = BEGINNING if wanted.after is None else await self.place(project_id, wanted.after, now_ms)
        params |= {"follows": int(follows), "position": place.position, "after": place.id}
        params["horizon"] = await self.horizon() if follows else BEGINNING.position
        if follows and wanted.job_id is None:
            return await self._page_after(listing, params, now_ms)
        name, floor_name, lowest = "event_page_of_job", None, None
        if wanted.job_id is None:
            listing, lowest = wanted.made.narrow(listing, ids.EVENT)
            name, floor_name = "event_page", "event_floor" if wanted.type is not None or wanted.undelivered else None
        params, ends_at = await pages.bounds(self._database, floor_name, params | {"before": listing.before}, lowest)

        async def read(before: str | None, limit: int) -> Sequence[Row]:
            return await self._database.rows(name, params | {"before": before, "limit": limit}, Purpose.LIST)

        return await pages.collect(listing, read, rows.event, ends_at)

    async def _page_after(self, listing: Listing, params: dict[str, Any], now_ms: int) -> Page[Event]:
        """Those after a place, the last first."""
        project_id, last = params["project_id"], None
        if params["type"] is not None or params["undelivered"] or params["created_after"] or params["created_before"]:
            bounds = params | await self._end(project_id, listing.before, now_ms) | {"window": pages.WINDOW - 1}
            found = await self._database.rows("event_floor_after", bounds, Purpose.LIST)
            last = Place(found[0]["position"], found[0]["id"]) if found else None
            if last is not None:  # a shorter id comes just before, so that the last one is looked at too
                params |= {"position": last.position, "after": last.id[:-1]}

        async def read(before: str | None, limit: int) -> Sequence[Row]:
            bounds = params | await self._end(project_id, before, now_ms) | {"limit": limit}
            found = await self._database.rows("event_page_after", bounds, Purpose.LIST)
            return [row for row in found if last is None or Place(row["position"], row["id"]) >= last]

        return await pages.collect(listing, read, rows.event, None if last is None else last.id)

    async def _end(self, project_id: str, before: str | None, now_ms: int) -> dict[str, Any]:
        """Where a page that goes backwards begins."""
        end = END if before is None else await self.place(project_id, before, now_ms)
        return {"end": end.position, "before": end.id}

    async def following(self, query: EventQuery, now_ms: int) -> Following:
        """Return the next events; a reader that continues from the returned place misses none and gets none twice.

        That place is behind every event that was read, of whatever type.
        """
        found = await self._following(query, BEGINNING.position, now_ms)
        if not found.held:
            return found
        # Another database's transaction may be what holds it. This one's own are asked only now, since they rarely are.
        return await self._following(query, await self.horizon(), now_ms)

    async def _following(self, query: EventQuery, horizon: int, now_ms: int) -> Following:
        """Return the next events; those before the horizon count as committed, besides what the server says so of."""
        place = query.place
        params = {
            "project_id": query.project_id,
            "position": place.position,
            "id": place.id,
            "type": query.kind,
            "limit": query.events_max,
        }
        events: list[Event] = []
        room_bytes = query.bytes_max
        found = await self._database.rows("events_following", params | {"horizon": horizon}, Purpose.LIST)
        for row in found:
            if not row["settled"] and row["created_at"] > now_ms - PATIENCE_MS:
                return Following(events, place, held=True)
            if row["body"] is not None:
                event = rows.event(row)
                room_bytes -= len(event.body)
                if events and room_bytes < 0:
                    return Following(events, place, more=True)
                events.append(event)
            place = Place(row["position"], row["id"])
        return Following(events, place, more=len(found) == query.events_max)

    async def horizon(self) -> int:
        """Return the position that no transaction of this database can write below any more.

        On SQLite, where one writes, it is never needed.
        """
        if not self._database.shared:
            return BEGINNING.position
        return int((await self._database.rows("horizon", {}, Purpose.LIST))[0]["position"])

    async def place(self, project_id: str, event_id: str | None, now_ms: int) -> Place:
        """Where an event stands; one that is not there stands before those with a newer id; None: where now is."""
        params = {"project_id": project_id, "id": event_id, "patience": now_ms - PATIENCE_MS, "window": pages.WINDOW}
        if event_id is not None:
            if found := await self._database.rows("event_place", params):
                return Place(found[0]["position"], found[0]["id"])
            newer = (await self._database.rows("first_event_after", params, Purpose.LIST))[0]["position"]
            if newer is not None:
                return Place(newer, "")
        params["horizon"] = await self.horizon()
        found = await self._database.rows("latest_event", params, Purpose.LIST)
        return Place(found[0]["position"], found[0]["id"]) if found else BEGINNING

    async def position_in_time(self, project_id: str, at_ms: int) -> int:
        """Return the position at which a project's events of that time begin; the lowest position without any."""
        found = await self._database.rows("position_in_time", {"project_id": project_id, "at": at_ms})
        return int(found[0]["position"]) if found else BEGINNING.position

    async def endpoints_reached(self, event_ids: list[str]) -> dict[str, tuple[int, int]]:
        """Return by event how many endpoints want it, and how many of them have accepted it; none for no endpoint."""
        rows = await self._database.rows("endpoints_reached", {"ids": event_ids}) if event_ids else []
        return {row["event_id"]: (row["endpoints"], row["delivered"]) for row in rows}

    async def delivery_counts(self, event_ids: list[str]) -> dict[str, dict[str, int]]:
        """How many deliveries of each event are in which state."""
        counts: dict[str, dict[str, int]] = {event_id: {} for event_id in event_ids}
        for row in await self._database.rows("delivery_counts", {"ids": event_ids}):
            counts[row["event_id"]][row["state"]] = row["number"]
        return counts
