"""The outbox: claims due deliveries under a lease, and stores each attempt with its delivery in one commit."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Final, Literal

import msgspec

from relay import log
from relay.model import ids
from relay.model.delivery import Attempt, Delivery, DeliveryState, EndpointNote
from relay.model.job import EventType
from relay.model.resources import slack
from relay.security.encryption import DecryptionFailed, Encryption, place
from relay.storage import endpoint_history, endpoint_status, event_bodies, pages, rows
from relay.storage.endpoint_status import ProbeResult
from relay.storage.engine.database import Database, DueWork, Purpose, Row, Transaction
from relay.storage.engine.group_commit import Writer
from relay.storage.fan_out import NewDelivery
from relay.storage.pages import EVER, Listing, Page, Span

ATTEMPTS_MAX = 1000
OF_JOB_MAX = 2000
WINDOW = 500
"""A claim reads so many of the deliveries that are due first."""
WALK = 200
"""Where all of these are for endpoints with a limit, a claim reads so many endpoints."""
CLAIMERS = 4
"""So many processes may claim concurrently and find something each."""
FAILED = frozenset({DeliveryState.EXHAUSTED, DeliveryState.CANCELED})
"""Few deliveries end in these states, which have an index of their own."""
BODIES_MAX_BYTES = 8 << 20
"""So many bytes of events' bodies stay in memory, for deliveries that wait in a lane and for retries."""
OPENED_MAX = 2000
"""So many secrets stay decrypted in memory: to decrypt one costs as much as to send a notification."""
_logger = log.get("storage")


class DeliveryFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of deliveries may be narrowed by."""

    endpoint_id: str | None = None
    status: str | None = None
    event_id: str | None = None
    job_id: str | None = None
    made: Span = EVER


class DeliveryKey(msgspec.Struct, frozen=True):
    """What a delivery's row is found by."""

    project_id: str
    id: str


class DueDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery and everything that its next attempt needs, as it is now; `timeout_s` is shorter than the lease."""

    delivery_id: str
    endpoint_id: str
    project_id: str
    event_id: str
    attempts_made: int
    redelivery: bool
    body: bytes
    url: str
    secret: str
    former_secret: str | None
    former_secret_until: int | None
    headers: dict[str, str]
    timeout_s: float
    in_flight_max: int
    rate_limit_per_s: float | None
    schedule_s: list[int] | None
    probe: bool = False
    to_disabled: bool = False
    """Whether the endpoint is disabled, and this is no probe: the event was committed while it was being disabled."""
    reported_at: int | None = None
    """When the callback that brought the event was received; None where none did, and for a redelivery."""


class _Typed(msgspec.Struct, frozen=True):
    """What is read of a notification's body."""

    type: str = ""


class AttemptResult(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt, and its delivery's new state; times are unix milliseconds.

    `gone` is why the endpoint is to be disabled; `aborted` is set where the receiver refuses this event for good;
    `held_until` is when an open breaker lets the next attempt start, and `breaker` what the attempt did to the breaker;
    `probe` is set where the endpoint is disabled and was only tested, `asked` where a client asked for that;
    `to_disabled` where the endpoint was disabled, and gets the event when it is enabled; `again` where an earlier
    commit, whose answer was lost, may have stored the attempt.
    """

    attempt: Attempt
    project_id: str
    endpoint_id: str
    state: DeliveryState
    next_attempt_at: int | None
    at: int
    gone: str | None = None
    aborted: bool = False
    retry_after_ms: int | None = None
    held_until: int | None = None
    probe: bool = False
    to_disabled: bool = False
    asked: bool = False
    breaker: Literal["held", "probe_failed", "reopened"] | None = None
    again: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is delivered, and changes nothing of its endpoint but its health."""
        changes = self.gone or self.probe or self.asked or self.breaker is not None or self.again
        return self.state is DeliveryState.DELIVERED and not changes


class ClaimRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a dispatcher can use now: `limit` deliveries in all, leased until `leased_until_ms` (unix ms).

    `endpoint_limits` bounds what may be claimed for an endpoint; 0 for a lane that is full or blocked. `refills` are
    those of them for which the table is known to hold more. `full_projects` have enough in memory. `walked_to` is that
    of the result before. `boot` is the number of the process's boot, which the leases name.
    """

    now_ms: int
    leased_until_ms: int
    boot: int | None = None
    limit: int
    endpoint_limits: Mapping[str, int] = {}
    refills: Mapping[str, int] = {}
    full_projects: Collection[str] = ()
    walked_to: str = ""


class ClaimResult(msgspec.Struct, frozen=True):
    """What was claimed: with everything that its attempt needs (DueDelivery) or without it (NewDelivery).

    `next_due_at` is when the next delivery is due, leased ones included; None where none is pending. `walked_to` is the
    endpoint after which the next claim continues, "" where it starts anew.
    """

    deliveries: list[DueDelivery | NewDelivery]
    next_due_at: int | None
    walked_to: str = ""


class Deliveries:
    """Reads and writes deliveries and their attempts."""

    def __init__(self, database: Database, writer: Writer, encryption: Encryption, timeout_max_s: float) -> None:
        self._database = database
        self._writer = writer
        self._open = lru_cache(OPENED_MAX)(encryption.decrypt)
        self._timeout_max_s = timeout_max_s
        self._bodies = event_bodies.BodyCache(BODIES_MAX_BYTES)

    async def claim(self, request: ClaimRequest) -> ClaimResult:
        """Return due deliveries, leased until `leased_until_ms`.

        Lanes with a limit of their own are refilled one by one, all others together in the order of their due times.
        Where that finds nothing although something is due, the endpoints are walked a part at a time, because what is
        due first may all belong to full lanes.
        """
        claimed: list[DueDelivery | NewDelivery] = [*await self._claim_of(request.refills, request)]
        claimed += await self._claim_first_due(request)
        if claimed:
            return ClaimResult(claimed, request.now_ms)
        (found,) = await self._database.rows("next_due_delivery", {"now": request.now_ms, "window": WINDOW})
        due = found["at"] is not None and found["at"] <= request.now_ms
        if found["due"] < WINDOW and not (due and any(request.endpoint_limits.values())):
            return ClaimResult([], found["at"])
        return await self._walk(request, found["at"])

    async def _claim_first_due(self, request: ClaimRequest) -> list[DueDelivery]:
        """Claim among the first that are due, without the endpoints that have a limit and without full projects."""
        claim = {
            "now": request.now_ms,
            "leased_until": request.leased_until_ms,
            "boot": request.boot,
            "limit": request.limit,
            "window": WINDOW,
            "candidates": CLAIMERS * request.limit,
            "busy": sorted(request.endpoint_limits),
            "full": sorted(request.full_projects),
        }
        return await self._with_bodies(await self._database.claim("claim_deliveries", [claim], read="due_deliveries"))

    async def _walk(self, request: ClaimRequest, next_due_at: int | None) -> ClaimResult:
        """Claim from the next endpoints after `walked_to`."""
        found = await self._database.rows("endpoints_waiting", {"after": request.walked_to, "limit": WALK})
        due = [row for row in found if row["at"] <= request.now_ms and row["project_id"] not in request.full_projects]
        limits = request.endpoint_limits
        free = [row["endpoint_id"] for row in due if limits.get(row["endpoint_id"], 1) > 0]
        chosen = free[: request.limit]
        last = chosen[-1] if len(chosen) < len(free) else found[-1]["endpoint_id"] if len(found) == WALK else ""
        each = max(1, request.limit // max(1, len(chosen)))
        wanted = {endpoint_id: min(each, limits.get(endpoint_id, each)) for endpoint_id in chosen}
        return ClaimResult([*await self._claim_of(wanted, request)], next_due_at, last)

    async def _claim_of(self, limits: Mapping[str, int], request: ClaimRequest) -> list[NewDelivery]:
        """Claim at most so many for each of these endpoints."""
        lease = {"now": request.now_ms, "leased_until": request.leased_until_ms, "boot": request.boot}
        many = [lease | {"endpoint_id": endpoint_id, "limit": limit} for endpoint_id, limit in limits.items()]
        claimed = await self._database.claim("claim_deliveries_of_endpoint", many) if many else ()
        return [NewDelivery(row["id"], row["endpoint_id"], row["project_id"]) for row in claimed]

    async def release(self, keys: Sequence[DeliveryKey], now_ms: int) -> None:
        """Return deliveries that were claimed and not started to the table, due immediately."""
        await self._writer.write(_release, [msgspec.structs.asdict(key) | {"now": now_ms} for key in keys])

    async def due_deliveries(self, keys: Iterable[DeliveryKey]) -> list[DueDelivery]:
        """Return the deliveries that are still pending; without those whose secret or body cannot be read."""
        pairs = [[key.project_id, key.id] for key in keys]
        return await self._with_bodies(await self._database.rows("due_deliveries", {"keys": pairs}))

    def keep_bodies(self, fresh: Iterable[NewDelivery]) -> None:
        """Keep the bodies of new events in memory, for the deliveries that wait in their lanes and for retries."""
        for one in fresh:
            if one.event is not None:
                self._bodies.keep(one.event.id, one.event.body)

    def at_hand(self, fresh: Iterable[NewDelivery]) -> list[DueDelivery]:
        """Return those new deliveries that their commit has loaded, without a read from the database."""
        new = {"attempts_made": 0, "redelivery": 0}
        made = [
            self._due_delivery(
                dict(one.endpoint)
                | new
                | {"id": one.delivery_id, "event_id": one.event.id, "project_id": one.project_id}
                | {"reported_at": one.reported_at},
                one.event.body,
            )
            for one in fresh
            if one.event is not None and one.endpoint is not None
        ]
        return [due for due in made if due is not None]

    async def not_held(self, endpoint_ids: Sequence[str]) -> set[str]:
        """Return which of these endpoints no breaker holds, as their rows say."""
        return {row["id"] for row in await self._database.rows("endpoints_not_held", {"ids": [*endpoint_ids]})}

    def write_attempt(self, result: AttemptResult, *, patient: bool = False) -> asyncio.Future[bool]:
        """Store an attempt, its delivery's new state and the endpoint's health; the future resolves after COMMIT.

        It is True if that disabled or enabled the endpoint, whose notices are due now. `patient` is for a result that
        nothing waits for.
        """
        if patient:
            return self._writer.submit_patient(_save_attempts, result)
        return self._writer.submit(_save_attempts, result, urgent=True)

    async def get(self, delivery_id: str, project_id: str) -> Delivery | None:
        """Return the project's delivery, None if it has none with this id."""
        found = await self._database.rows("delivery_of_project", {"id": delivery_id, "project_id": project_id})
        return rows.delivery(found[0]) if found else None

    async def attempts(self, delivery: Delivery) -> list[Attempt]:
        """Return the first ATTEMPTS_MAX attempts of a delivery, in order."""
        params = {"ids": [delivery.id], "limit": min(delivery.attempts_made, ATTEMPTS_MAX)}
        return [rows.attempt(row) for row in await self._database.rows("attempts_of_deliveries", params)]

    async def of_job(self, job_id: str) -> list[Delivery]:
        """Return the first OF_JOB_MAX deliveries of a job's events, in order."""
        found = await self._database.rows("deliveries_of_job", {"job_id": job_id, "limit": OF_JOB_MAX})
        return [rows.delivery(row) for row in found]

    async def page(self, project_id: str, listing: Listing, wanted: DeliveryFilter) -> Page[Delivery]:
        """Return a page of deliveries, newest first."""
        given: dict[str, str | None] = {
            "endpoint_id": wanted.endpoint_id,
            "status": wanted.status,
            "event_id": wanted.event_id,
            "job_id": wanted.job_id,
        }
        narrow = next((of for of in ("event", "job", "endpoint") if given[f"{of}_id"] is not None), None)
        failed = "delivery_page_failed" if wanted.status in FAILED else "delivery_page"
        name = f"delivery_page_of_{narrow}" if narrow else failed
        if narrow == "endpoint":
            owner = await self._database.rows("endpoint_project", {"id": wanted.endpoint_id})
            if not owner or owner[0]["project_id"] != project_id:
                return Page([], None)
        lowest = None
        if narrow in (None, "endpoint"):
            listing, lowest = wanted.made.narrow(listing, ids.DELIVERY)
        floors = {"delivery_page": "delivery_floor", "delivery_page_of_endpoint": "delivery_floor_of_endpoint"}
        floor_name = floors.get(name) if wanted.status is not None else None
        params: dict[str, Any] = {"project_id": project_id, "before": listing.before, **given, **wanted.made.params()}
        params, ends_at = await pages.bounds(self._database, floor_name, params, lowest)

        async def read(before: str | None, limit: int) -> Sequence[Row]:
            return await self._database.rows(name, params | {"before": before, "limit": limit}, Purpose.LIST)

        return await pages.collect(listing, read, rows.delivery, ends_at)

    async def _with_bodies(self, found: Sequence[Row]) -> list[DueDelivery]:
        """Return the deliveries of rows, each with its event's body from memory or, all others in one read, the table.

        One whose secret or body cannot be read is left out, so that it waits and delays no other.
        """
        events = {row["event_id"]: row["project_id"] for row in found}
        bodies = {event_id: body for event_id in events if (body := self._bodies.get(event_id)) is not None}
        unread = [[project_id, event_id] for event_id, project_id in events.items() if event_id not in bodies]
        for row in await self._database.rows("event_bodies", {"keys": unread}) if unread else ():
            try:
                bodies[row["id"]] = event_bodies.of_row(row)
            except event_bodies.BodyChangedError as error:
                _logger.error("delivery.body_unreadable", event=row["id"], error=str(error))
                continue
            self._bodies.keep(row["id"], bodies[row["id"]])
        readable = [row for row in found if row["event_id"] in bodies]
        return [due for row in readable if (due := self._due_delivery(row, bodies[row["event_id"]])) is not None]

    def _due_delivery(self, row: Row, body: bytes) -> DueDelivery | None:
        """Return the delivery of a row; None where the key of its secret was removed."""
        endpoint_id, former = row["endpoint_id"], row["former_secret"]
        try:
            secret = self._open(row["secret"], place("endpoints", "secret", endpoint_id))
            headers = self._open(row["headers"], place("endpoints", "headers", endpoint_id))
            former = former and self._open(former, place("endpoints", "former_secret", endpoint_id))
        except DecryptionFailed as error:
            _logger.error(
                "delivery.secret_unreadable", delivery=row["id"], endpoint=row["endpoint_id"], error=str(error)
            )
            return None
        probe = row["disabled_at"] is not None and _is_test(body)
        return DueDelivery(
            delivery_id=row["id"],
            endpoint_id=endpoint_id,
            project_id=row["project_id"],
            event_id=row["event_id"],
            attempts_made=row["attempts_made"],
            redelivery=bool(row["redelivery"]),
            body=slack.message(body) if row["format"] == slack.FORMAT else body,
            url=row["url"],
            secret=secret,
            former_secret=former,
            former_secret_until=row["former_secret_until"],
            headers=msgspec.json.decode(headers),
            timeout_s=min(row["timeout_s"], self._timeout_max_s),
            in_flight_max=row["in_flight_max"],
            rate_limit_per_s=row["rate_limit_per_s"],
            probe=probe,
            to_disabled=row["disabled_at"] is not None and not probe,
            reported_at=row["reported_at"],
            schedule_s=row["schedule_s"] and msgspec.json.decode(row["schedule_s"]),
        )


async def _release(transaction: Transaction, batches: Sequence[list[dict[str, Any]]]) -> list[None]:
    """Release each caller's deliveries."""
    await transaction.run_many("release_deliveries", [params for batch in batches for params in batch])
    return [None] * len(batches)


def _is_test(body: bytes) -> bool:
    """Return whether the body is that of a `relay.test`."""
    return msgspec.json.decode(body, type=_Typed).type == EventType.RELAY_TEST


async def _unless_enabled(transaction: Transaction, one: AttemptResult) -> AttemptResult:
    """Return a result that cancels its delivery because the endpoint is disabled; due again if it is enabled by now.

    The batch that enabling starts may have passed the delivery by, so it must not be canceled after that.
    """
    if one.state is not DeliveryState.CANCELED:
        return one
    found = await transaction.rows("hold_endpoint", {"id": one.endpoint_id})
    if not found or found[0]["disabled_at"] is not None or found[0]["deleted_at"] is not None:
        return one
    return msgspec.structs.replace(one, state=DeliveryState.PENDING, next_attempt_at=one.at)


class _SaveAttempts:
    """Inserts attempts, then updates deliveries and endpoints: an attempt's number counts from its delivery's row.

    Those that are plain are written in one exchange, which concerns deliveries that no other operation writes.
    """

    @staticmethod
    def apart(ended: Sequence[AttemptResult]) -> bool:
        """Return whether all are plain."""
        return all(one.is_plain for one in ended)

    async def __call__(self, transaction: Transaction, ended: Sequence[AttemptResult]) -> list[bool]:
        """Return for each whether it disabled or enabled its endpoint."""
        settled = await _unwritten(transaction, ended)
        if any(one.to_disabled for one in settled):
            settled = [await _unless_enabled(transaction, one) for one in settled]
        await transaction.run_many("insert_attempt", [_attempt_row(one) for one in settled])
        await transaction.run_many("settle_delivery", [_delivery_after(one) for one in settled])
        last = {one.endpoint_id: one for one in settled}
        bad = [one for one in last.values() if one.state is not DeliveryState.DELIVERED]
        switched = set()
        for one in last.values():
            delivered = one.state is DeliveryState.DELIVERED
            if one.probe and await endpoint_status.probed(
                transaction, one.endpoint_id, ProbeResult(one.at, delivered, one.asked)
            ):
                switched.add(one.endpoint_id)
            if one.asked and delivered:
                await transaction.notify(DueWork.DELIVERIES)
        await endpoint_history.write(transaction, [noted for one in settled for noted in _notes(one)])
        await transaction.run_many("note_endpoint_outcome", [_outcome(one) for one in last.values()])
        for one in settled:
            if one.gone and await endpoint_status.disable(transaction, one.endpoint_id, one.at, one.gone):
                switched.add(one.endpoint_id)
        for one in bad:
            if await endpoint_status.disable_failing(transaction, one.endpoint_id, one.at):
                switched.add(one.endpoint_id)
        return [one.endpoint_id in switched for one in ended]


_save_attempts: Final = _SaveAttempts()


async def _unwritten(transaction: Transaction, wanted: Sequence[AttemptResult]) -> Sequence[AttemptResult]:
    """Return the results without those that are stored already, by a commit whose answer was lost."""
    again = [one.attempt.delivery_id for one in wanted if one.again]
    if not again:
        return wanted
    written = {row["id"] for row in await transaction.rows("attempts_written", {"ids": again})}
    return [one for one in wanted if one.attempt.id not in written]


class _AttemptRow(msgspec.Struct, frozen=True):
    """An attempt's columns, and its project; its number counts from its delivery's row."""

    id: str
    project_id: str
    delivery_id: str
    outcome: str
    status_code: int | None
    error: str | None
    started_at: int
    duration_ms: int
    response_excerpt: str | None
    exchange: str | None


class _DeliveryAfter(msgspec.Struct, frozen=True):
    """A delivery's columns after an attempt."""

    project_id: str
    id: str
    state: DeliveryState
    next_attempt_at: int | None
    finished_at: int | None


class _EndpointOutcome(msgspec.Struct, frozen=True):
    """An endpoint's health after its last attempt; `good` is 1 where that delivered."""

    id: str
    at: int
    good: int
    held_until: int | None


def _attempt_row(one: AttemptResult) -> _AttemptRow:
    """Return the attempt's columns."""
    made = one.attempt
    return _AttemptRow(
        made.id,
        one.project_id,
        made.delivery_id,
        made.outcome,
        made.status_code,
        made.error,
        made.started_at,
        made.duration_ms,
        made.response_excerpt,
        made.exchange,
    )


def _delivery_after(one: AttemptResult) -> _DeliveryAfter:
    """Return the delivery's columns after an attempt."""
    if one.state is DeliveryState.PENDING:
        return _DeliveryAfter(one.project_id, one.attempt.delivery_id, one.state, one.next_attempt_at, None)
    return _DeliveryAfter(one.project_id, one.attempt.delivery_id, one.state, None, one.at)


def _notes(one: AttemptResult) -> list[EndpointNote]:
    """Return what the attempt did to its endpoint."""
    if one.breaker is None and not one.asked:
        return []
    why = one.attempt.error or one.attempt.outcome
    noted = partial(endpoint_history.note, one.project_id, one.endpoint_id, one.at)
    notes = [noted("probed", "accepted" if one.state is DeliveryState.DELIVERED else why)] if one.asked else []
    if one.breaker is not None:
        if one.breaker == "reopened":
            notes.append(noted("reopened"))
        else:
            notes.append(msgspec.structs.replace(noted(one.breaker, why), until=one.held_until))
    return notes


def _outcome(one: AttemptResult) -> _EndpointOutcome:
    """Return the endpoint's columns after an attempt."""
    return _EndpointOutcome(one.endpoint_id, one.at, int(one.state is DeliveryState.DELIVERED), one.held_until)
