"""Finds conditions that an operator should know of, and has each announced when it begins and when it is over.

It reads what other parts have stored, a bounded number of rows for each kind, and changes nothing but alerts. A process
that only serves knows one kind: whether providers refuse relay's key in the answers that it gets itself.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from relay import log
from relay.clock import rfc3339
from relay.context import FlowContext
from relay.model.alert import Alert, AlertKind, Condition, Subject
from relay.model.job import FinishedBy
from relay.model.payment import usdc
from relay.providers.base import callbacks_expected
from relay.storage.alerts import READ_MAX, AlertChanges
from relay.storage.apply_updates import DEFAULT_PROJECT

EVERY_MS: Final = 30_000
"""The pause between two searches; the first comes after it, when a start has caught up."""
FAILING_MS: Final = 300_000
"""An endpoint fails if it has accepted nothing for so long although attempts were made."""
GIVEN_UP_MS: Final = 86_400_000
"""A delivery that was exhausted counts for so long, unless the endpoint accepts its event meanwhile."""
QUARANTINE_MS: Final = 86_400_000
"""A quarantined callback counts for so long, unless it is released."""
LATE_MS: Final = 300_000
"""The backlog is old if a delivery is due for so long."""
DOUBT_MS: Final = 604_800_000
"""A payment counts as unknown for so long after it was made."""
LOST_MS: Final = 86_400_000
"""A payment counts as lost for so long after that was found out."""
SILENT_JOBS: Final = 5
"""A provider is silent if so many of its newest jobs ended without a callback."""
SILENT_FROM_MS, SILENT_TO_MS = 86_400_000, 600_000
"""Jobs that were made in this time before now are judged: younger ones may still get their callbacks."""
NEAR_PERCENT: Final = 80
"""A cap is near from so many percent on."""
DAY_MS: Final = 86_400_000
HOUR_MS: Final = 3_600_000
NAME_CHARS: Final = 80
LAST_ATTEMPT: Final = "; the last attempt: "
NOTIFY: Final = "notify"
"""The subject of conditions of endpoints that jobs made: together, since there may be one for each job."""
ENDED_UNASKED: Final = (FinishedBy.SUBMIT_ANSWER, FinishedBy.OPERATOR)
"""Jobs that end like this have no callback."""
_logger = log.get("alerts")


class _Found(msgspec.Struct, frozen=True):
    """The conditions of some kinds; not `whole` if there may be more of them than were read."""

    kinds: frozenset[AlertKind]
    conditions: Sequence[Condition]
    whole: bool = True


class AlertWatch:
    """Runs the loop; `wake` notifies the dispatcher of new deliveries."""

    def __init__(self, context: FlowContext, wake: Callable[[], None]) -> None:
        self._context = context
        self._store = context.store.alerts
        self._clock = context.clock
        self._wake = wake

    async def run(self) -> None:
        """Search for conditions every `EVERY_MS`, until cancelled."""
        while True:
            await self._clock.sleep(EVERY_MS)
            await self.once()

    async def once(self) -> None:
        """Search once, and store what has begun and what is over."""
        now_ms = self._clock.now_ms()
        found = [] if not self._context.store.lease.dispatches else await self._find(now_ms)
        conditions = {one.key: one for part in found for one in part.conditions}
        judged = frozenset(kind for part in found if part.whole for kind in part.kinds)
        refused = {one.key: one for one in self._keys_refused()}
        opened = await self._store.open()
        known = {alert.key for alert in opened}
        begun = [one for key, one in (conditions | refused).items() if key not in known]
        over = [alert for alert in opened if alert.kind in judged and alert.key not in conditions]
        over += [alert for alert in opened if self._accepted(alert)]
        refreshed = [
            _refreshed(alert, await self._explained(conditions[alert.key]))
            for alert in opened
            if alert.key in conditions and _is_stale(alert, conditions[alert.key])
        ]
        if begun or over or refreshed:
            url, explained = self._context.settings.public_url, [await self._explained(one) for one in begun]
            await self._change(AlertChanges(at=now_ms, begun=explained, over=over, refreshed=refreshed, public_url=url))
            opened = await self._store.open()
        if found:
            self._context.metrics.alerts_open(opened)

    async def _change(self, changes: AlertChanges) -> None:
        """Store the changes, log those that no other process had made, and have their deliveries sent."""
        changed = await self._store.apply(changes)
        for change in changed:
            alert = change.alert
            about = {"alert": alert.id, "kind": alert.kind, "subject": alert.subject.id, "project": alert.project_id}
            if alert.ended_at is None:
                _logger.warning("alert.open", **about, summary=alert.summary)
            else:
                _logger.info("alert.ended", **about)
        if any(change.deliveries for change in changed):
            self._wake()

    async def _find(self, now_ms: int) -> list[_Found]:
        """Return the conditions of every kind that is found in the database."""
        return [
            await self._failing(now_ms),
            await self._given_up(now_ms),
            await self._quarantined(now_ms),
            await self._in_doubt(now_ms),
            await self._spending(now_ms),
            await self._silent(now_ms),
            await self._late(now_ms),
        ]

    async def _failing(self, now_ms: int) -> _Found:
        """Find the endpoints that accept nothing."""
        kind = AlertKind.ENDPOINT_FAILING
        rows = await self._store.endpoints_failing(now_ms - FAILING_MS)
        found: dict[tuple[str, str], Condition] = {}
        for row in rows:
            subject = _endpoint(row)
            since = rfc3339(row["failing_since"])
            disabled = " and is disabled for that" if row["disabled_at"] is not None else ""
            condition = Condition(
                project_id=row["project_id"],
                kind=kind,
                subject=subject,
                summary=f"{subject.name} has accepted nothing since {since}{disabled}",
                detail={"failing_since": since},
                seen_at=now_ms,
            )
            found.setdefault((condition.project_id, subject.id), condition)
        return _Found(frozenset({kind}), list(found.values()), whole=len(rows) < READ_MAX)

    async def _given_up(self, now_ms: int) -> _Found:
        """Find the endpoints with notifications that no attempt delivered."""
        kind = AlertKind.DELIVERY_EXHAUSTED
        numbers: dict[tuple[str, str], tuple[Subject, int, str]] = {}
        rows, whole = await self._store.endpoints_given_up(now_ms - GIVEN_UP_MS)
        for row in rows:
            subject = _endpoint(row)
            _, number, last = numbers.get((row["project_id"], subject.id), (subject, 0, ""))
            last = max(last, row["last_delivery"])
            numbers[row["project_id"], subject.id] = subject, number + int(row["number"]), last
        conditions = [
            Condition(
                project_id=project_id,
                kind=kind,
                subject=subject,
                summary=f"{number} {_plural(number, 'notification')} to {subject.name} could not be delivered, "
                "and relay does not try again",
                detail={"number": number, "last_delivery": last},
                seen_at=now_ms,
            )
            for (project_id, _), (subject, number, last) in numbers.items()
        ]
        return _Found(frozenset({kind}), conditions, whole=whole)

    async def _quarantined(self, now_ms: int) -> _Found:
        """Find the providers with callbacks that are not trusted and wait for an operator."""
        kind = AlertKind.CALLBACK_QUARANTINED
        rows = await self._store.callbacks_in_quarantine(now_ms - QUARANTINE_MS)
        conditions = [
            Condition(
                project_id=row["project_id"],
                kind=kind,
                subject=_provider(row["provider"]),
                summary=f"{row['number']} {_plural(row['number'], 'callback')} from {row['provider']} in quarantine: "
                f"{row['reason']}",
                detail={"number": int(row["number"]), "last_callback": row["last_callback"]},
                seen_at=now_ms,
            )
            for row in rows
        ]
        return _Found(frozenset({kind}), conditions, whole=sum(int(row["number"]) for row in rows) < READ_MAX)

    async def _in_doubt(self, now_ms: int) -> _Found:
        """Find payments that may have moved money for nothing."""
        said = {
            AlertKind.PAYMENT_UNKNOWN: "it is unknown whether they were made",
            AlertKind.PAYMENT_LOST: "they were made, and bought nothing",
        }
        conditions = []
        for row in await self._store.payments_in_doubt(now_ms - DOUBT_MS, now_ms - LOST_MS):
            kind, amount = AlertKind(f"payment.{row['state']}"), usdc(int(row["amount"]))
            number = f"{row['number']} {_plural(row['number'], 'payment')} to {row['provider']}"
            conditions.append(
                Condition(
                    project_id=row["project_id"],
                    kind=kind,
                    subject=_provider(row["provider"]),
                    summary=f"{number}, together {amount} USDC: {said[kind]}",
                    detail={"number": int(row["number"]), "amount": amount, "unit": "USDC", "last": row["last_job"]},
                    seen_at=now_ms,
                )
            )
        return _Found(frozenset(said), conditions)

    async def _spending(self, now_ms: int) -> _Found:
        """Find the caps that are nearly or wholly used up in this day or this hour (UTC)."""
        own = self._context.settings
        conditions = await self._spent(_Period("DAY", own.spend_max_per_day, own.project_spend_max_per_day), now_ms)
        hour = _Period("HOUR", own.spend_max_per_hour, own.project_spend_max_per_hour)
        if hour.most is not None or hour.of_project is not None:
            conditions += await self._spent(hour, now_ms)
        return _Found(frozenset({AlertKind.SPEND_CAP_NEAR, AlertKind.SPEND_CAP_REACHED}), conditions)

    async def _spent(self, period: "_Period", now_ms: int) -> list[Condition]:
        """Return the conditions of the caps of a day or an hour."""
        spent = {row["project_id"]: row for row in await self._store.spending(now_ms - now_ms % period.ms)}
        conditions = []
        if period.most is not None:
            everything = sum(int(row["amount"]) for row in spent.values())
            cheapest = min((int(row["cheapest"]) for row in spent.values()), default=0)
            used = _Spent(everything, cheapest, period.most, period.said)
            conditions += _cap(DEFAULT_PROJECT, f"RELAY_SPEND_MAX_PER_{period.name}", used, now_ms)
        if period.of_project is not None:
            for project_id, row in spent.items():
                used = _Spent(int(row["amount"]), int(row["cheapest"]), period.of_project, period.said)
                conditions += _cap(project_id, f"RELAY_PROJECT_SPEND_MAX_PER_{period.name}", used, now_ms)
        return conditions

    async def _silent(self, now_ms: int) -> _Found:
        """Find the providers whose callbacks no longer arrive: their newest jobs all ended without one."""
        kind = AlertKind.PROVIDER_SILENT
        if self._context.settings.public_url is None:  # none is expected
            return _Found(frozenset({kind}), [])
        endings = await self._store.endings(now_ms - SILENT_FROM_MS, now_ms - SILENT_TO_MS)
        conditions = []
        for name, of_provider in endings.items():
            known = self._context.providers.get(name)
            if known is None or not callbacks_expected(known.adapter):
                continue
            newest = [one.callbacks_seen for one in of_provider if one.finished_by not in ENDED_UNASKED][:SILENT_JOBS]
            if len(newest) == SILENT_JOBS and not any(newest):
                conditions.append(
                    Condition(
                        project_id=DEFAULT_PROJECT,
                        kind=kind,
                        subject=_provider(name),
                        summary=f"the last {SILENT_JOBS} jobs at {name} ended without a callback: check that providers "
                        "reach RELAY_PUBLIC_URL",
                        detail={"jobs": SILENT_JOBS, "public_url": self._context.settings.public_url},
                        seen_at=now_ms,
                    )
                )
        return _Found(frozenset({kind}), conditions)

    async def _late(self, now_ms: int) -> _Found:
        """Find out whether deliveries are due for long that no failing endpoint holds up."""
        kind, conditions = AlertKind.BACKLOG_OLD, []
        oldest = await self._store.oldest_due(now_ms - LATE_MS)
        if oldest["at"] is not None:
            since = rfc3339(oldest["at"])
            conditions.append(
                Condition(
                    project_id=DEFAULT_PROJECT,
                    kind=kind,
                    subject=Subject("relay", "relay", "relay"),
                    summary=f"notifications are due since {since}: no process sends them, or too few do",
                    detail={"due_since": since, "number": int(oldest["number"])},
                    seen_at=now_ms,
                )
            )
        return _Found(frozenset({kind}), conditions)

    def _keys_refused(self) -> list[Condition]:
        """Return the providers that refuse relay's key, as the answers to this process say."""
        return [
            Condition(
                project_id=DEFAULT_PROJECT,
                kind=AlertKind.PROVIDER_KEY_REFUSED,
                subject=_provider(name),
                summary=f"{name} refuses relay's key: check RELAY_{name.upper()}_API_KEY",
                detail={"refused_since": rfc3339(refused.at), "error": refused.error},
                seen_at=refused.last_at,
            )
            for name, refused in self._context.keys_refused.items()
        ]

    def _accepted(self, alert: Alert) -> bool:
        """Return whether a provider has accepted relay's key since the alert about it, as far as this process knows."""
        provider = alert.subject.id
        return (
            alert.kind is AlertKind.PROVIDER_KEY_REFUSED
            and provider not in self._context.keys_refused
            and self._context.keys_accepted.get(provider, 0) >= alert.opened_at
        )

    async def _explained(self, condition: Condition) -> Condition:
        """Return a new condition of a failing endpoint with its last attempt; every other one unchanged."""
        if condition.kind is not AlertKind.ENDPOINT_FAILING or condition.subject.id == NOTIFY:
            return condition
        row = await self._store.last_failure(condition.subject.id)
        if row is None:
            return condition
        status = "" if row["status_code"] is None else f" (HTTP {row['status_code']})"
        attempt = {
            "delivery": row["delivery_id"],
            "outcome": row["outcome"],
            "status_code": row["status_code"],
            "error": row["error"],
            "started_at": rfc3339(row["started_at"]),
        }
        return msgspec.structs.replace(
            condition,
            summary=f"{condition.summary}{LAST_ATTEMPT}{row['outcome']}{status}",
            detail={**condition.detail, "last_attempt": attempt},
        )


class _Spent(msgspec.Struct, frozen=True):
    """What was authorized of a cap in its time so far, and the cheapest payment of it, in atomic units."""

    amount: int
    cheapest: int
    cap: int
    when: str


class _Period(msgspec.Struct, frozen=True):
    """The time that caps are for, `DAY` or `HOUR`, with the cap of all projects and that of each; None: no cap."""

    name: str
    most: int | None
    of_project: int | None

    @property
    def ms(self) -> int:
        """Return how long it is."""
        return DAY_MS if self.name == "DAY" else HOUR_MS

    @property
    def said(self) -> str:
        """Return the present one in words."""
        return "today" if self.name == "DAY" else "this hour"


def _cap(project_id: str, setting: str, spent: _Spent, now_ms: int) -> list[Condition]:
    """Return the conditions of a cap: near from 80 % on, reached where less is left than the cheapest payment."""
    if not spent.amount:
        return []
    used = f"{usdc(spent.amount)} of the {usdc(spent.cap)} USDC of {setting}"
    said = {}
    if spent.amount * 100 >= spent.cap * NEAR_PERCENT:
        said[AlertKind.SPEND_CAP_NEAR] = f"{used} are authorized {spent.when}"
    if spent.amount + spent.cheapest > spent.cap:
        said[AlertKind.SPEND_CAP_REACHED] = f"{used} are authorized {spent.when}: relay refuses what would exceed it"
    return [
        Condition(
            project_id=project_id,
            kind=kind,
            subject=Subject("cap", setting, setting),
            summary=summary,
            detail={"authorized": usdc(spent.amount), "cap": usdc(spent.cap), "unit": "USDC"},
            seen_at=now_ms,
        )
        for kind, summary in said.items()
    ]


def _is_stale(alert: Alert, condition: Condition) -> bool:
    """Return whether an open alert says something else than its condition; a last attempt is only said at a change."""
    if alert.kind is not AlertKind.ENDPOINT_FAILING:
        return (alert.summary, alert.detail) != (condition.summary, condition.detail)
    rest = alert.summary.removeprefix(condition.summary)
    return rest == alert.summary or not (rest == "" or rest.startswith(LAST_ATTEMPT))


def _refreshed(alert: Alert, condition: Condition) -> Alert:
    """Return an alert with what is wrong by now."""
    return msgspec.structs.replace(alert, summary=condition.summary, detail=condition.detail)


def _endpoint(row: Any) -> Subject:
    """Return an endpoint as a subject, by its host or its description; those that jobs made are one together."""
    if row["job_id"] is not None:
        return Subject("endpoint", NOTIFY, "endpoints that jobs made by notify")
    return Subject("endpoint", row["id"], (row["description"] or urlsplit(row["url"]).hostname or "")[:NAME_CHARS])


def _provider(name: str) -> Subject:
    """Return a provider as a subject."""
    return Subject("provider", name, name)


def _plural(number: int, noun: str) -> str:
    """Return the noun for so many."""
    return noun if number == 1 else noun + "s"
