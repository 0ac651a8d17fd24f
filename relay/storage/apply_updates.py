"""Applies updates to jobs: callback, job, event and deliveries in one transaction.

Callbacks, submission answers, status checks, deadlines and operators' actions all come this way, so there is one place
where a job can change. `lifecycle/` decides the transitions; `storage/fan_out.py` makes the deliveries.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from typing import Final

import msgspec

from relay.errors import Bound
from relay.lifecycle import archiving, output_expiry
from relay.lifecycle.reports import DoubtLimits, Transition, doubted
from relay.model import ids
from relay.model.archive import ArchiveMode, CopyEnd, CopyState
from relay.model.job import Disposition, Event, EventType, Job, ProviderCall, Reprocessing, Unconfirmed
from relay.model.resources import events as resources
from relay.storage import copies, event_bodies, job_rows, payments, rows
from relay.storage.boots import Lease
from relay.storage.engine.database import DueWork, Row, Transaction
from relay.storage.fan_out import FanOut, NewDelivery, NewEvent
from relay.storage.tombstones import Absent, Tombstone, absent

DEFAULT_PROJECT: Final = "prj_default"
HEADERS_MAX: Final = 1 << 17
"""About the largest size of a callback's headers, as JSON."""


class ReceivedCallback(msgspec.Struct, frozen=True, kw_only=True):
    """A callback as received; `digest` is None if the body could not be parsed.

    `quarantined` says why it is not trusted at all; `reprocessed_by` is the API key of the operator who has a stored
    one reprocessed.
    """

    id: str
    provider: str
    received_at: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    size: int
    digest: bytes | None = None
    unreadable: str | None = None
    quarantined: str | None = None
    other_environment: bool = False
    reprocessed_by: str | None = None


OTHER_ENVIRONMENT: Final = "the token was made in another environment"
"""The reason of an orphaned callback whose job is not lost."""


class JobUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """An update of a job: its transition (None: none), and the callback or call that brought it.

    `earlier_call` is the first of two calls that brought it together.
    `again` is True if an earlier commit, whose answer was lost, may have written it; its call's id shows that. `copy`
    is a copy of a result that has ended, `deletes` one that was deleted; `renews_outputs` is False where the outputs
    are those of before, but for their copies. With `releases` the event of the job's end waits no longer.
    """

    job_id: str
    at: int
    transition: Callable[[Job], Transition] | None
    received: ReceivedCallback | None = None
    call: ProviderCall | None = None
    earlier_call: ProviderCall | None = None
    settlement: payments.Settlement | None = None
    again: bool = False
    copy: CopyEnd | None = None
    deletes: str | None = None
    renews_outputs: bool = True
    releases: bool = False


class UpdateResult(msgspec.Struct, kw_only=True):
    """What became of an update; `fresh` is for the dispatcher, `announced` names the event.

    `bounds` are the limits because of which a callback is not kept, or its job is not asked about immediately;
    `unconfirmed` says why a final status was believed without a status check. `copies` is how many copies of results it
    ordered.
    """

    job: Job | None
    disposition: Disposition
    reason: str | None
    announced: EventType | None = None
    reprocessing: Reprocessing | None = None
    fresh: Sequence[NewDelivery] = ()
    bounds: tuple[Bound, ...] = ()
    unconfirmed: Unconfirmed | None = None
    also: EventType | None = None
    copies: int = 0


class Room(msgspec.Struct, frozen=True):
    """What is kept of the callbacks about one job, at most: `number_max`, and `bytes_max`, of which one has `one_max`.

    `doubts` bounds the status checks that they may bring about.
    """

    number_max: int
    bytes_max: int = 16 << 20
    one_max: int = (1 << 20) + HEADERS_MAX
    doubts: DoubtLimits = DoubtLimits()


class CallbackRow(msgspec.Struct, frozen=True, kw_only=True):
    """A callback's columns; `headers` are JSON."""

    id: str
    project_id: str
    job_id: str
    provider: str
    received_at: int
    size: int
    headers: str
    body: bytes
    disposition: Disposition
    reason: str | None
    digest: bytes | None


class ReprocessingRow(Reprocessing, frozen=True, kw_only=True):
    """A reprocessing's columns."""

    project_id: str
    job_id: str


class Read(msgspec.Struct, frozen=True):
    """What a batch of updates is judged by, as its transaction has read it.

    `rows` are those of the jobs. `listeners` are the endpoints that may want an event of these jobs, in JSON. `digests`
    are those of the callbacks recorded before, each with its job; `calls` those of the updates' calls that are stored
    already. `copies` are the rows of the copies that end or are deleted, locked.
    """

    jobs: dict[str, Job]
    rows: dict[str, Row]
    listeners: str
    digests: set[tuple[str, bytes]]
    calls: set[str]
    absent: Absent
    copies: dict[str, Row]


class UpdateApplier:
    """Applies batches of updates. `lease` is how a new delivery is leased to the dispatcher of this process.

    Where another process sends and checks, it is notified by the commit that there is something to do.
    `expiring_ms` is how long before a result expires the client is notified of that, `held_ms` how long the event of a
    job's end waits for copies of its results.
    """

    reads_last: Final = True

    def __init__(
        self,
        lease: Lease,
        room: Room,
        schedule_s: Sequence[int],
        *,
        expiring_ms: int = 0,
        held_ms: int = 0,
    ) -> None:
        self._lease = lease
        self._times = _Times(expiring_ms, held_ms)
        self._room = room
        self._fan_out = FanOut(lease, schedule_s[0])

    @staticmethod
    def apart(_: Sequence[JobUpdate]) -> bool:
        """Return True: all that it writes is one exchange with the server, after everything that it reads."""
        return True

    async def __call__(self, transaction: Transaction, updates: Sequence[JobUpdate]) -> list[UpdateResult]:
        """Apply the updates in their order; each finds the job as the one before it left it."""
        read = await _read(transaction, updates, self._room)
        batch = _Batch(read, self._room, self._times)
        for update in updates:
            batch.apply(update)
        await transaction.run_many("insert_callback", batch.callbacks)
        await transaction.run_many("insert_reprocessing", batch.reprocessings)
        await transaction.run_many("insert_call", batch.calls)
        await payments.settle(transaction, batch.settlements)
        await _update(transaction, read)
        await transaction.run_many("insert_event", [new.row for new in batch.events])
        if batch.copies is not None:
            await batch.copies.write(transaction)
        fresh = await self._fan_out(transaction, batch.events, read.listeners)
        for result, deliveries in zip(batch.announced, fresh, strict=True):
            result.fresh = [*result.fresh, *deliveries] if result.fresh else deliveries
        if not self._lease.dispatches:
            await _notify(transaction, updates, batch.results)
        return batch.results


class _Times(msgspec.Struct, frozen=True):
    """How long before a result expires that is announced, and how long an event waits for copies of results."""

    expiring_ms: int
    held_ms: int


class _Batch:
    """The rows that updates come to, and what became of each: `announced` are the results of `events`, in order."""

    def __init__(self, read: Read, room: Room, times: _Times) -> None:
        self._jobs = read.jobs
        self._read = read
        self._absent = read.absent
        self._room = room
        self._times = times
        self._bounds: list[Bound] = []
        self._ordered = 0
        self.copies: copies.Changes | None = None
        """What happens to copies of results; None for nothing, as in most batches."""
        self.callbacks: list[CallbackRow] = []
        self.reprocessings: list[ReprocessingRow] = []
        self.calls: list[ProviderCall] = []
        self.settlements: list[payments.JobSettlement] = []
        self.events: list[NewEvent] = []
        self.announced: list[UpdateResult] = []
        self.results: list[UpdateResult] = []

    def apply(self, update: JobUpdate) -> None:
        """Apply one update, after those before it."""
        if update.settlement:
            self.settlements.append(payments.JobSettlement(update.job_id, update.at, update.settlement))
        before = job = self._jobs.get(update.job_id)
        if update.call and update.call.id in self._read.calls:
            self.results.append(UpdateResult(job=job, disposition=Disposition.REPEATED, reason="written before"))
            return
        copied = None
        if (update.copy is not None or update.deletes is not None) and (copied := self._copy(update)) is None:
            reason = "the copy has ended, or is another try's"
            self.results.append(UpdateResult(job=job, disposition=Disposition.STALE, reason=reason))
            return
        self._ordered = 0
        transition = self._judged(job, update)
        tombstone = self._absent.tombstones.get(update.job_id)
        result = _result(job, transition, update, tombstone)
        self.results.append(result)
        result.copies = self._ordered
        job = transition.job if transition else job
        self._change_copies(before, update, copied)
        if update.call and job:
            self.calls += [update.earlier_call] if update.earlier_call else []
            self.calls.append(msgspec.structs.replace(update.call, decision=result.reason))
        if update.received:
            known = None if _is_foreign(update) else job or tombstone
            job = self._keep(update, update.received, job, known.project_id if known else DEFAULT_PROJECT)
        if transition and transition.announce and job:
            new = _new_event(job, transition.announce, update.at, transition.supersedes, self._read.rows[job.id])
            result.announced = transition.announce
            new.reported_at = _reported_at(before, new, update)
            self.events.append(new)
            self.announced.append(result)
            if transition.also is not None:
                self.events.append(_new_event(job, transition.also, update.at, None, self._read.rows[job.id]))
                self.announced.append(result)
                result.also = transition.also
        result.job = job
        if self._bounds:
            result.bounds, self._bounds = tuple(self._bounds), []
        if job:
            self._jobs[update.job_id] = job

    def _judged(self, job: Job | None, update: JobUpdate) -> Transition | None:
        """Return what the update does to the job, with what follows of that; None if it is not about a job here.

        The job after it is another one than before: what follows changes it, and earlier results keep theirs.
        """
        transition = _transition(job, update, self._read.digests)
        if transition is None or job is None:
            return None
        if transition.doubtful:
            transition = msgspec.structs.replace(transition, job=self._doubt(transition.job, update.at))
        if transition.job is job:
            return msgspec.structs.replace(transition, job=copy(job))
        ends = transition.announce is not None and transition.announce.final
        if ends and (job.held or update.copy is not None):
            transition = self._release(transition)
        after = transition.job
        if after.outputs is not job.outputs:
            if update.renews_outputs:
                after.expiring_at = output_expiry.due_at(after.outputs, update.at, self._times.expiring_ms)
            if after.archive is not ArchiveMode.OFF:
                transition = self._order(job, transition, update)
        return transition

    def _copy(self, update: JobUpdate) -> Row | None:
        """Return the row of the copy that an update ends or deletes; None where it is not what the update says.

        That is leased to the try that ended it, or in the archive. What a try has written whose lease is another's by
        now is queued to be deleted, unless it is the copy nevertheless.
        """
        end = update.copy
        if end is None:
            row = self._read.copies.pop(update.deletes or "", None)
            return row if row is not None and row["state"] == CopyState.ARCHIVED else None
        row = self._read.copies.get(end.copy_id)
        if row is not None and row["state"] == CopyState.PENDING and row["due_at"] == end.leased_until:
            return self._read.copies.pop(end.copy_id)
        if end.key is not None:
            left = {"job_id": update.job_id, "number": end.number, "bucket": end.bucket, "key": end.key}
            self._changes().abandoned.append(left | {"due_at": update.at})
        return None

    def _change_copies(self, job: Job | None, update: JobUpdate, copied: Row | None) -> None:
        """Note what an update does to the copies of its job; `copied` is the row of the one that it ends or deletes.

        What a copy that failed may have written is queued to be deleted: immediately if the write was answered. A copy
        past its retention is queued too, and its row is deleted where its job is gone.
        """
        end = update.copy
        if end is not None:
            ended = archiving.ended(job, end)
            if ended.state is CopyState.FAILED:
                pause_ms = 0 if end.state is CopyState.ARCHIVED else copies.UNANSWERED_MS
                self._changes().left[update.job_id, end.number] = update.at + pause_ms
            self._changes().ended.append(copies.ended(ended, update.at))
        elif update.releases:
            self._changes().released.add(update.job_id)
        elif copied is not None:
            changes = self._changes()
            changes.left[update.job_id, copied["number"]] = update.at
            if job is None:
                changes.forgotten.append({"id": copied["id"]})
            else:
                changes.deleted.append({"copy_id": copied["id"], "finished_at": update.at})

    def _changes(self) -> copies.Changes:
        """Return what happens to copies of results in this batch."""
        self.copies = self.copies or copies.Changes()
        return self.copies

    def _release(self, transition: Transition) -> Transition:
        """Return the transition of a job whose event waited for its copies, and waits no longer."""
        self._changes().released.add(transition.job.id)
        return archiving.replaced(transition) if transition.job.held else transition

    def _order(self, job: Job, transition: Transition, update: JobUpdate) -> Transition:
        """Return the transition with the copies that its results are to have, which are written with it."""
        ordered = archiving.order(job, transition)
        if ordered.new or ordered.renewed:
            changes, after = self._changes(), ordered.transition.job
            for number in ordered.new:
                new = copies.new_copy(after, number, update.at, self._times.held_ms)
                changes.new[after.id, number] = new
                self._forget_copy(after.id, number)
            changes.renewed += [copies.renewed(after, number, update.at) for number in ordered.renewed]
            self._ordered = len(ordered.new)
        return ordered.transition

    def _forget_copy(self, job_id: str, number: int) -> None:
        """Forget the copy that a new one follows: its end, in this batch too, does not end the new one."""
        for copy_id, row in list(self._read.copies.items()):
            if (row["job_id"], row["number"]) == (job_id, number):
                del self._read.copies[copy_id]

    def _doubt(self, job: Job, at: int) -> Job:
        """Return the job whose provider is asked about it, later if it was asked often."""
        asked = doubted(job, self._room.doubts, at)
        if asked is not job and asked.next_check_at is not None and asked.next_check_at > at:
            self._bounds.append(Bound.DOUBTS_FREE)
        return asked

    def _keep(self, update: JobUpdate, received: ReceivedCallback, job: Job | None, project_id: str) -> Job | None:
        """Store the callback, unless as many about its job are stored as may be; return the job with one more seen."""
        result = self.results[-1]
        if received.reprocessed_by is not None:
            row = _reprocessing(update, received, result, project_id)
            self.reprocessings.append(row)
            result.reprocessing = row
            return job
        seen = job.callbacks_seen if job else self._absent.kept[update.job_id]
        if seen >= self._room.number_max:
            self._bounds.append(Bound.CALLBACKS_PER_JOB_MAX)
        else:
            callback = _callback_row(update, received, result, project_id)
            size = len(callback.body) + len(callback.headers)
            if self._absent.bytes[update.job_id] + size <= self._room.bytes_max:
                self._absent.bytes[update.job_id] += size
                self.callbacks.append(callback)
            else:
                self._bounds.append(Bound.CALLBACK_BYTES_PER_JOB_MAX)
                # What the callback says counts, but there is no evidence of it: the provider is asked.
                job = job and self._doubt(job, update.at)
        if job is None:
            self._absent.kept[update.job_id] += 1
            return None
        job.callbacks_seen += 1
        return job


async def _read(transaction: Transaction, updates: Sequence[JobUpdate], room: Room) -> Read:
    """Return what the updates are judged by; the jobs stay locked until the transaction ends."""
    found = await transaction.rows("jobs_and_listeners", {"ids": sorted({update.job_id for update in updates})})
    by_id = {row["id"]: row for row in found}
    shown = {update.job_id for update in updates if _shows_job(update)}
    jobs = {job_id: (job_rows.job if job_id in shown else job_rows.hot_job)(row) for job_id, row in by_id.items()}
    listeners = next((row["listening"] for row in found if row["listening"]), "[]")
    digests, calls = await _digests(transaction, updates, jobs), await _calls(transaction, updates)
    elsewhere = await absent(transaction, {update.job_id for update in updates if update.received} - jobs.keys())
    elsewhere.bytes.update(await _bytes_kept(transaction, updates, jobs, room))
    copy_ids = {copy_id for update in updates if (copy_id := update.copy.copy_id if update.copy else update.deletes)}
    held = await copies.hold(transaction, copy_ids) if copy_ids else {}
    return Read(jobs, by_id, listeners, digests, calls, elsewhere, held)


async def _update(transaction: Transaction, read: Read) -> None:
    """Store the jobs; their ids at their providers too if one of them has another than before."""
    named = any(job.provider_job_id != read.rows[job_id]["provider_job_id"] for job_id, job in read.jobs.items())
    name = "update_job_and_provider_id" if named else "update_job"
    changed = [job_rows.changed_row(job, read.rows[job_id].get("version")) for job_id, job in read.jobs.items()]
    await transaction.run_many(name, changed)


def _shows_job(update: JobUpdate) -> bool:
    """Return whether the caller may show or submit the job after the update, as it does with all but callbacks."""
    return update.received is None or update.received.reprocessed_by is not None


async def _notify(transaction: Transaction, updates: Sequence[JobUpdate], results: Sequence[UpdateResult]) -> None:
    """Notify the process that sends and checks of what is due immediately; it finds the rest by polling."""
    if any(result.fresh for result in results):
        await transaction.notify(DueWork.DELIVERIES)
    jobs = ((update.at, result.job) for update, result in zip(updates, results, strict=True) if result.job)
    if any(job.next_check_at is not None and job.next_check_at <= at for at, job in jobs):
        await transaction.notify(DueWork.CHECKS)
    if any(result.copies for result in results):
        await transaction.notify(DueWork.COPIES)


async def _digests(
    transaction: Transaction, updates: Sequence[JobUpdate], jobs: dict[str, Job]
) -> set[tuple[str, bytes]]:
    """Return the digests recorded before, for the jobs that a callback is about, and not the first one."""
    about = {update.job_id for update in updates if update.received and update.received.digest}
    wanted = sorted(job_id for job_id in about if job_id in jobs and jobs[job_id].callbacks_seen)
    if not wanted:
        return set()
    found = await transaction.rows("recorded_digests", {"ids": wanted})
    return {(row["job_id"], bytes(row["digest"])) for row in found}


async def _calls(transaction: Transaction, updates: Sequence[JobUpdate]) -> set[str]:
    """Return which calls are stored, of those updates that are written again."""
    wanted = [update.call.id for update in updates if update.call and update.again]
    if not wanted:
        return set()
    return {row["id"] for row in await transaction.rows("calls_written", {"ids": wanted})}


async def _bytes_kept(
    transaction: Transaction, updates: Sequence[JobUpdate], jobs: dict[str, Job], room: Room
) -> dict[str, int]:
    """Return how many bytes are kept about those jobs that may have too many; most have too few to be counted."""
    coming = Counter(update.job_id for update in updates if update.received)
    enough = room.bytes_max // room.one_max
    wanted = sorted(job_id for job_id, job in jobs.items() if 0 < coming[job_id] > enough - job.callbacks_seen)
    if not wanted:
        return {}
    found = await transaction.rows("callback_bytes", {"ids": wanted})
    return {row["job_id"]: int(row["bytes"]) for row in found}


def _transition(job: Job | None, update: JobUpdate, digests: set[tuple[str, bytes]]) -> Transition | None:
    """Return what the update does to the job; None if there is no job that it could be applied to."""
    received = update.received
    if job is None or (received and received.other_environment):
        return None
    if received and received.quarantined:
        return Transition(job, Disposition.QUARANTINED, received.quarantined, doubtful=True)
    if received and received.unreadable:
        return Transition(job, Disposition.UNREADABLE, received.unreadable, doubtful=True)
    if received and received.digest and (job.id, received.digest) in digests:
        return Transition(job, Disposition.REPEATED, "received before")
    if update.settlement and update.settlement.cost:
        job = msgspec.structs.replace(job, cost=update.settlement.cost)
    if update.transition is None:
        return Transition(job, Disposition.RECORDED)
    transition = update.transition(job)
    if received and received.digest and transition.disposition is Disposition.RECORDED:
        digests.add((job.id, received.digest))
    return transition


def _is_foreign(update: JobUpdate) -> bool:
    """Return whether it is another environment's callback."""
    return update.received is not None and update.received.other_environment


def _result(
    job: Job | None, transition: Transition | None, update: JobUpdate, tombstone: Tombstone | None
) -> UpdateResult:
    """Return what became of the update, before any event."""
    if transition is None:
        reason = tombstone.reason_at_end if tombstone else "there is no such job here"
        if _is_foreign(update):
            reason = OTHER_ENVIRONMENT
        return UpdateResult(job=job, disposition=Disposition.ORPHANED, reason=reason)
    return UpdateResult(
        job=job, disposition=transition.disposition, reason=transition.reason, unconfirmed=transition.unconfirmed
    )


def _new_event(job: Job, kind: EventType, at: int, supersedes: str | None, row: Row) -> NewEvent:
    """Return the event of a transition, numbered within its job, with the notification's body; `row` is the job's.

    The job gets the event's number.
    """
    event_id = ids.new_id(ids.EVENT)
    job.sequence += 1
    if kind.final:
        job.last_final_event = event_id
    holed = resources.job_event(event_id, kind, at, job, supersedes, event_bodies.HOLES)
    body = event_bodies.fill(holed, event_bodies.JobParts(job.id, row["input"], row["request"], row["metadata"]))
    event = Event(
        id=event_id,
        project_id=job.project_id,
        job_id=job.id,
        type=kind,
        sequence=job.sequence,
        final=kind.final,
        created_at=at,
        body=body,
    )
    return NewEvent(event, job, msgspec.structs.replace(event, body=event_bodies.stored(holed, len(body))))


def _reported_at(before: Job | None, new: NewEvent, update: JobUpdate) -> int | None:
    """Return when the callback that brought an event was received; None where none did.

    A callback that waited for confirmation brought the final event that the confirmation makes.
    """
    if update.received is not None:
        return None if update.received.reprocessed_by else update.received.received_at
    if before is not None and before.unconfirmed is not None and new.event.final:
        return before.unconfirmed.at
    return None


def _callback_row(update: JobUpdate, received: ReceivedCallback, result: UpdateResult, project_id: str) -> CallbackRow:
    """Return a callback's columns; it is shown to that project."""
    return CallbackRow(
        id=received.id,
        project_id=project_id,
        job_id=update.job_id,
        provider=received.provider,
        received_at=received.received_at,
        size=received.size,
        headers=rows.text(received.headers) or "[]",
        body=received.body,
        disposition=result.disposition,
        reason=result.reason,
        digest=received.digest,
    )


def _reprocessing(
    update: JobUpdate, received: ReceivedCallback, result: UpdateResult, project_id: str
) -> ReprocessingRow:
    """Return what came of a callback that was processed again."""
    return ReprocessingRow(
        id=ids.new_id(ids.REPROCESSING),
        project_id=project_id,
        job_id=update.job_id,
        callback_id=received.id,
        at=update.at,
        key_id=received.reprocessed_by or "",
        disposition=result.disposition,
        reason=result.reason,
    )
