"""Alerts in the database: each condition is announced once when it begins and once when it ends, by any process.

The events about an alert are stored with it in one transaction, as those about endpoints are.
"""

from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from typing import Any, Final

import msgspec

from relay.model import ids
from relay.model.alert import Alert, AlertKind, Condition, Subject
from relay.model.job import Event
from relay.model.resources import alerts as resources
from relay.model.resources.events import notification
from relay.storage import job_rows, pages, rows
from relay.storage.endpoint_status import FAILING_REASON
from relay.storage.engine.database import Database, DueWork, Purpose, Row, Transaction
from relay.storage.fan_out import matches, new_delivery
from relay.storage.job_rows import Ending
from relay.storage.pages import Listing, Page

OPEN_MAX: Final = 2_000
"""So many conditions may be open at a time; no further ones are opened meanwhile."""
READ_MAX: Final = 1_000
"""So many rows are read at most to find the conditions of one kind."""
SKEW_MS: Final = 60_000
"""By so much an id may have been made before the time that its row has."""
ATTEMPTS_READ: Final = 50
"""The latest failed attempt is searched for among so many of an endpoint's newest deliveries."""


class AlertChanges(msgspec.Struct, frozen=True, kw_only=True):
    """The conditions that have begun, and the alerts whose condition is over; `public_url` leads to the dashboard.

    `refreshed` are open alerts with what is wrong by now, which is announced by nothing.
    """

    at: int
    begun: Sequence[Condition] = ()
    over: Sequence[Alert] = ()
    refreshed: Sequence[Alert] = ()
    public_url: str | None = None


class AlertChange(msgspec.Struct, frozen=True):
    """An alert that was opened or ended, and how many deliveries announce that."""

    alert: Alert
    deliveries: int


class AlertSelection(StrEnum):
    """Which alerts a list has, by whether their condition is over."""

    OPEN = "open"
    ENDED = "ended"
    ALL = "all"


class AlertFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which alerts a list has; `kind` is None for any."""

    state: AlertSelection = AlertSelection.OPEN
    kind: str | None = None


class Alerts:
    """Reads what conditions are found in, and stores them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, project_id: str, listing: Listing, wanted: AlertFilter) -> Page[Alert]:
        """Return a page of a project's alerts, newest first."""
        name = "alert_page_open" if wanted.state is AlertSelection.OPEN else "alert_page"
        params: dict[str, Any] = {"project_id": project_id, "kind": wanted.kind, "before": listing.before}
        params |= {"ended": 1 if wanted.state is AlertSelection.ENDED else None, "floor": None}
        if name == "alert_page" and (wanted.kind or wanted.state is AlertSelection.ENDED):
            params["floor"] = await pages.floor(self._database, "alert_floor", params)

        async def read(before: str | None, limit: int) -> Sequence[Row]:
            return await self._database.rows(name, params | {"before": before, "limit": limit}, Purpose.LIST)

        return await pages.collect(listing, read, _alert, params["floor"])

    async def open(self) -> list[Alert]:
        """Return the open alerts of all projects, OPEN_MAX at most."""
        return [_alert(row) for row in await self._database.rows("open_alerts", {"limit": OPEN_MAX})]

    async def apply(self, changes: AlertChanges) -> list[AlertChange]:
        """Open and end alerts, each with its event and deliveries; return those that no other process had changed."""
        return await self._database.transact(partial(_apply, changes=changes))

    async def endpoints_failing(self, before: int) -> Sequence[Row]:
        """Return the endpoints that have accepted nothing since `before` (unix ms), though attempts were made."""
        params = {"before": before, "failing": FAILING_REASON, "limit": READ_MAX}
        return await self._database.rows("endpoints_in_trouble", params)

    async def last_failure(self, endpoint_id: str) -> Row | None:
        """Return the endpoint's latest failed attempt, None if none is found among its newest deliveries."""
        params = {"endpoint_id": endpoint_id, "window": ATTEMPTS_READ}
        found = await self._database.rows("last_failure_of_endpoint", params)
        return found[0] if found else None

    async def endpoints_given_up(self, since: int) -> tuple[Sequence[Row], bool]:
        """Return the endpoints with deliveries exhausted since then whose events they have not accepted later.

        And whether all such deliveries were read.
        """
        params = {"since": since, "limit": READ_MAX}
        number = (await self._database.rows("number_given_up", params))[0]["number"]
        return await self._database.rows("endpoints_given_up", params), number < READ_MAX

    async def callbacks_in_quarantine(self, since: int) -> Sequence[Row]:
        """Return the number of quarantined callbacks since then that were not released, by project and provider."""
        params = {"first": ids.first_at(ids.CALLBACK, since - SKEW_MS), "since": since, "limit": READ_MAX}
        return await self._database.rows("callbacks_in_quarantine", params)

    async def payments_in_doubt(self, since: int, lost_since: int) -> Sequence[Row]:
        """Return the unknown payments since then and those found lost since `lost_since`, by project and provider."""
        return await self._database.rows("payments_in_doubt", {"since": since, "lost_since": lost_since})

    async def spending(self, since: int) -> Sequence[Row]:
        """Return what each project authorized since then, in atomic units, and its cheapest payment."""
        return await self._database.rows("spending_by_project", {"since": since})

    async def oldest_due(self, before: int) -> Row:
        """Return since when the oldest delivery is due and how many are, of those due before then."""
        return (await self._database.rows("oldest_due", {"before": before, "limit": READ_MAX}))[0]

    async def endings(self, first_at: int, last_at: int) -> dict[str, list[Ending]]:
        """Return how the newest jobs ended that were made from `first_at` to `last_at` (unix ms), by provider."""
        of_time = {"first": ids.first_at(ids.JOB, first_at), "last": ids.first_at(ids.JOB, last_at)}
        found: dict[str, list[Ending]] = {}
        for row in await self._database.rows("jobs_ended", of_time | {"limit": READ_MAX}):
            found.setdefault(row["provider"], []).append(job_rows.ending(row["doc"]))
        return found


def _alert(row: Row) -> Alert:
    """Return the alert of a row."""
    return Alert(
        id=row["id"],
        project_id=row["project_id"],
        kind=rows.word(AlertKind, row["kind"]),
        subject=Subject(row["subject_type"], row["subject_id"], row["subject_name"]),
        summary=row["summary"],
        detail=msgspec.json.decode(row["detail"]),
        opened_at=row["opened_at"],
        ended_at=row["ended_at"],
    )


async def _apply(transaction: Transaction, changes: AlertChanges) -> list[AlertChange]:
    """Open and end the alerts in the order of their keys, so that two processes do not wait for each other."""
    changed = []
    for condition in sorted(changes.begun, key=lambda one: one.key):
        alert = Alert(
            id=ids.new_id(ids.ALERT),
            project_id=condition.project_id,
            kind=condition.kind,
            subject=condition.subject,
            summary=condition.summary,
            detail=condition.detail,
            opened_at=changes.at,
            ended_at=None,
        )
        if await transaction.rows("open_alert", _params(alert) | {"seen_at": condition.seen_at}):
            changed.append(AlertChange(alert, await _announce(transaction, alert, changes)))
    for alert in sorted(changes.refreshed, key=lambda one: one.key):
        params = {"id": alert.id, "summary": alert.summary, "detail": rows.text(alert.detail)}
        await transaction.rows("refresh_alert", params)
    for alert in sorted(changes.over, key=lambda one: one.key):
        if await transaction.rows("end_alert", {"id": alert.id, "now": changes.at}):
            ended = msgspec.structs.replace(alert, ended_at=changes.at)
            changed.append(AlertChange(ended, await _announce(transaction, ended, changes)))
    if any(change.deliveries for change in changed):
        await transaction.notify(DueWork.DELIVERIES)
    return changed


def _params(alert: Alert) -> dict[str, Any]:
    """Return the columns of a new alert."""
    return {
        "id": alert.id,
        "project_id": alert.project_id,
        "kind": alert.kind,
        "subject_type": alert.subject.type,
        "subject_id": alert.subject.id,
        "subject_name": alert.subject.name,
        "summary": alert.summary,
        "detail": rows.text(alert.detail),
        "opened_at": alert.opened_at,
    }


async def _announce(transaction: Transaction, alert: Alert, changes: AlertChanges) -> int:
    """Store the event about an alert, and its deliveries; return how many.

    Only standing endpoints that ask for it get one, and never the endpoint that the alert is about.
    """
    event_id, kind = ids.new_id(ids.EVENT), alert.kind.event_type
    data = resources.AlertEventData(alert=resources.alert(alert, changes.public_url))
    event = Event(
        id=event_id,
        project_id=alert.project_id,
        job_id=None,
        type=kind,
        sequence=0,
        final=False,
        created_at=changes.at,
        body=notification(event_id, kind, changes.at, alert.project_id, data),
    )
    await transaction.run_many("insert_event", [event])
    listening = await transaction.rows("endpoints_listening", {"project_id": alert.project_id})
    deliveries = [
        new_delivery(event, found["id"], changes.at, changes.at)
        for found in listening
        if found["id"] != alert.subject.id
        and any(matches(pattern, kind) for pattern in msgspec.json.decode(found["event_types"]))
    ]
    await transaction.run_many("insert_delivery", deliveries)
    return len(deliveries)
