"""The heart of relay: what is heard about a job becomes rows, in one transaction.

The callback as it came, the job's move, its event, and one delivery for each endpoint that wants it.

Callbacks, submit answers, status checks and deadlines all come this way, so there is one place where a job can change.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from relay import ids
from relay.errors import Bound
from relay.lifecycle import output_expiry
from relay.lifecycle.reports import DoubtLimits, Transition, doubted
from relay.model import serializers
from relay.model.job import Disposition, Event, EventType, Job, ProviderCall, Reprocessing, Unconfirmed
from relay.storage import payments, rows
from relay.storage.engine.database import Hint, Transaction
from relay.storage.fan_out import FanOut, NewDelivery, NewEvent
from relay.storage.tombstones import Absent, Tombstone, absent

DEFAULT_PROJECT: Final = "prj_default"
HEADERS_MAX: Final = 1 << 17
"""About how much a callback's headers are, as JSON, at most."""


class ReceivedCallback(msgspec.Struct, frozen=True, kw_only=True):
    """A callback as it came; `digest` is None where the body could not be read.

    `quarantined` says why it is not believed at all; `released_by` is the key of the person who has one that is stored
    run again.
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


class JobUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Something heard or decided about a job: what it does to the job (None: nothing), and its evidence.

    `again` is True where it may be written already, by a commit whose answer was lost; its call tells.
    """

    job_id: str
    at: int
    transition: Callable[[Job], Transition] | None
    received: ReceivedCallback | None = None
    call: ProviderCall | None = None
    settlement: payments.Settlement | None = None
    again: bool = False


class UpdateResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a fact; `fresh` is for dispatch, `announced` names the event.

    `bounds` are the limits because of which a callback is not kept, or its job is not asked about immediately;
    `unconfirmed` says why a final status was believed without a status check.
    """

    job: Job | None
    disposition: Disposition
    reason: str | None
    announced: EventType | None = None
    reprocessing: Reprocessing | None = None
    fresh: Sequence[NewDelivery] = ()
    bounds: tuple[Bound, ...] = ()
    unconfirmed: Unconfirmed | None = None


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


class UpdateApplier:
    """Writes batches of facts. `lease_ms` is how long a fresh delivery is dispatch's own before it counts as lost.

    `expiring_ms` is how long before a result is gone that is announced. With `hints` it is another process that sends
    and checks: it is told with the commit that there is something to do.
    """

    def __init__(
        self,
        lease_ms: int,
        room: Room,
        schedule_s: Sequence[int],
        *,
        expiring_ms: int = 0,
        hints: bool = False,
    ) -> None:
        self._hints = hints
        self._expiring_ms = expiring_ms
        self._room = room
        self._fan_out = FanOut(lease_ms, schedule_s[0], sends=not hints)

    async def __call__(self, transaction: Transaction, updates: Sequence[JobUpdate]) -> list[UpdateResult]:
        """Records the facts in order; each sees the job as the one before it left it."""
        jobs, listening = await _found(transaction, updates)
        heard, written = await _heard(transaction, updates, jobs), await _written(transaction, updates)
        elsewhere = await absent(transaction, {update.job_id for update in updates if update.received} - jobs.keys())
        elsewhere.bytes.update(await _bytes_kept(transaction, updates, jobs, self._room))
        batch = _Batch(jobs, heard, written, elsewhere, self._room, self._expiring_ms)
        for update in updates:
            batch.take(update)
        await transaction.run_many("insert_callback", batch.callbacks)
        await transaction.run_many("insert_reprocessing", batch.released)
        await transaction.run_many("insert_call", batch.calls)
        settled = [(update.job_id, update.at, update.settlement) for update in updates if update.settlement]
        if settled:
            await payments.settle(transaction, settled)
        await transaction.run_many("update_job", [rows.changed_job_params(job) for job in jobs.values()])
        await transaction.run_many("insert_event", [new.event for _, new in batch.events])
        fresh = await self._fan_out(transaction, [new for _, new in batch.events], listening)
        for (index, _), handed in zip(batch.events, fresh, strict=True):
            batch.results[index] = msgspec.structs.replace(batch.results[index], fresh=handed)
        for index, bound in batch.bounds:
            reached = batch.results[index]
            batch.results[index] = msgspec.structs.replace(reached, bounds=(*reached.bounds, bound))
        if self._hints:
            await _hint(transaction, updates, batch.results)
        return batch.results


class _Batch:
    """The rows that facts come to, and what became of each; `jobs` are as the last fact left them."""

    def __init__(
        self,
        jobs: dict[str, Job],
        heard: set[tuple[str, bytes]],
        written: set[str],
        elsewhere: Absent,
        room: Room,
        expiring_ms: int,
    ) -> None:
        self._jobs = jobs
        self._heard = heard
        self._written = written
        self._elsewhere = elsewhere
        self._room = room
        self._expiring_ms = expiring_ms
        self.callbacks: list[CallbackRow] = []
        self.released: list[dict[str, Any]] = []
        self.calls: list[ProviderCall] = []
        self.events: list[tuple[int, NewEvent]] = []
        self.bounds: list[tuple[int, Bound]] = []
        self.results: list[UpdateResult] = []

    def take(self, update: JobUpdate) -> None:
        """One fact, after those before it."""
        job = self._jobs.get(update.job_id)
        if update.call and update.call.id in self._written:
            self.results.append(UpdateResult(job=job, disposition=Disposition.REPEATED, reason="written before"))
            return
        moved = _judge(job, update, self._heard)
        if moved and moved.doubtful:
            moved = msgspec.structs.replace(moved, job=self._doubt(moved.job, update.at))
        if moved and job and moved.job.outputs is not job.outputs:
            moved = self._timed(moved, update.at)
        tombstone = self._elsewhere.tombstones.get(update.job_id)
        recorded = _result(job, moved, update, tombstone)
        if update.received and update.received.reprocessed_by is not None:
            recorded = msgspec.structs.replace(recorded, reprocessing=_reprocessing(update, update.received, recorded))
        job = moved.job if moved else job
        if update.call and job:
            self.calls.append(msgspec.structs.replace(update.call, decision=recorded.reason))
        if update.received:
            job = self._keep(update, update.received, job, tombstone, recorded)
        if moved and moved.announce and job:
            new = _event(job, moved.announce, update.at, moved.supersedes)
            job, recorded = new.after, msgspec.structs.replace(recorded, announced=new.event.type, job=new.after)
            self.events.append((len(self.results), new))
        elif job is not recorded.job:
            recorded = msgspec.structs.replace(recorded, job=job)
        if job:
            self._jobs[update.job_id] = job
        self.results.append(recorded)

    def _reach(self, bound: Bound) -> None:
        """Note that the fact in hand reaches a limit."""
        self.bounds.append((len(self.results), bound))

    def _doubt(self, job: Job, at: int) -> Job:
        """Return the job whose provider is asked about it, later if it was asked often."""
        asked = doubted(job, self._room.doubts, at)
        if asked is not job and asked.next_check_at is not None and asked.next_check_at > at:
            self._reach(Bound.DOUBTS_FREE)
        return asked

    def _timed(self, moved: Transition, at: int) -> Transition:
        """A move that brought another result, with the time at which it is told that this one expires."""
        due_at = output_expiry.due_at(moved.job.outputs, at, self._expiring_ms)
        return msgspec.structs.replace(moved, job=msgspec.structs.replace(moved.job, expiring_at=due_at))

    def _keep(
        self,
        update: JobUpdate,
        received: ReceivedCallback,
        job: Job | None,
        tombstone: Tombstone | None,
        recorded: UpdateResult,
    ) -> Job | None:
        """The callback as evidence, unless its job has as many as are kept; the job with one more seen."""
        if received.reprocessed_by is not None:
            of = {"project_id": _owner(update, job, tombstone), "job_id": update.job_id}
            self.released.append(of | msgspec.to_builtins(recorded.reprocessing))
            return job
        if _seen(update, job, self._elsewhere) < self._room.number_max:
            row = _callback_row(update, received, _owner(update, job, tombstone), recorded)
            size = len(row.body) + len(row.headers)
            if self._elsewhere.bytes[update.job_id] + size <= self._room.bytes_max:
                self._elsewhere.bytes[update.job_id] += size
                self.callbacks.append(row)
            else:
                self._reach(Bound.CALLBACK_BYTES_PER_JOB_MAX)
                # What the callback says counts, but there is no evidence of it: the provider is asked.
                job = job and self._doubt(job, update.at)
        else:
            self._reach(Bound.CALLBACKS_PER_JOB_MAX)
        if job is None:
            self._elsewhere.kept[update.job_id] += 1
            return None
        return msgspec.structs.replace(job, callbacks_seen=job.callbacks_seen + 1)


async def _found(transaction: Transaction, updates: Sequence[JobUpdate]) -> tuple[dict[str, Job], str]:
    """Return the jobs, locked until the transaction ends, and who may want their events."""
    found = await transaction.rows("jobs_and_listeners", {"ids": sorted({update.job_id for update in updates})})
    listening = next((row["listening"] for row in found if row["listening"]), "[]")
    return {row["id"]: rows.job(row) for row in found}, listening


async def _hint(transaction: Transaction, updates: Sequence[JobUpdate], results: Sequence[UpdateResult]) -> None:
    """Says what there is to do at once for the process that sends and checks; all else it finds in time by itself."""
    if any(result.fresh for result in results):
        await transaction.hint(Hint.DELIVERIES)
    jobs = ((update.at, result.job) for update, result in zip(updates, results, strict=True) if result.job)
    if any(job.next_check_at is not None and job.next_check_at <= at for at, job in jobs):
        await transaction.hint(Hint.CHECKS)


async def _heard(
    transaction: Transaction, updates: Sequence[JobUpdate], jobs: dict[str, Job]
) -> set[tuple[str, bytes]]:
    """The digests recorded before, for the jobs of this batch that a callback is about, and not the first one."""
    about = {update.job_id for update in updates if update.received and update.received.digest}
    wanted = sorted(job_id for job_id in about if job_id in jobs and jobs[job_id].callbacks_seen)
    if not wanted:
        return set()
    return {
        (row["job_id"], bytes(row["digest"])) for row in await transaction.rows("recorded_digests", {"ids": wanted})
    }


async def _written(transaction: Transaction, updates: Sequence[JobUpdate]) -> set[str]:
    """The calls of facts that are written again, as far as they are stored."""
    wanted = [update.call.id for update in updates if update.call and update.again]
    if not wanted:
        return set()
    return {row["id"] for row in await transaction.rows("calls_written", {"ids": wanted})}


async def _bytes_kept(
    transaction: Transaction, updates: Sequence[JobUpdate], jobs: dict[str, Job], room: Room
) -> dict[str, int]:
    """How many bytes are kept about those jobs that may have too many: there is no need to look at most."""
    coming = Counter(update.job_id for update in updates if update.received)
    enough = room.bytes_max // room.one_max
    wanted = sorted(job_id for job_id, job in jobs.items() if 0 < coming[job_id] > enough - job.callbacks_seen)
    if not wanted:
        return {}
    found = await transaction.rows("callback_bytes", {"ids": wanted})
    return {row["job_id"]: int(row["bytes"]) for row in found}


def _judge(job: Job | None, update: JobUpdate, heard: set[tuple[str, bytes]]) -> Transition | None:
    """What the fact does to the job; None where there is no job it could be applied to."""
    received = update.received
    if job is None or (received and received.other_environment):
        return None
    if received and received.quarantined:
        return Transition(job, Disposition.QUARANTINED, received.quarantined, doubtful=True)
    if received and received.unreadable:
        return Transition(job, Disposition.UNREADABLE, received.unreadable, doubtful=True)
    if received and received.digest and (job.id, received.digest) in heard:
        return Transition(job, Disposition.REPEATED, "heard before")
    if update.settlement and update.settlement.cost:
        job = msgspec.structs.replace(job, cost=update.settlement.cost)
    if update.transition is None:
        return Transition(job, Disposition.RECORDED)
    moved = update.transition(job)
    if received and received.digest and moved.disposition is Disposition.RECORDED:
        heard.add((job.id, received.digest))
    return moved


def _foreign(update: JobUpdate) -> bool:
    """Whether it is another environment's callback."""
    return update.received is not None and update.received.other_environment


def _seen(update: JobUpdate, job: Job | None, elsewhere: Absent) -> int:
    """How many callbacks came about the job before; of one that is not here, how many are kept."""
    return job.callbacks_seen if job else elsewhere.kept[update.job_id]


def _owner(update: JobUpdate, job: Job | None, tombstone: Tombstone | None) -> str:
    """The project that sees a callback; one that belongs to no job here is the default project's to see."""
    known = None if _foreign(update) else job or tombstone
    return known.project_id if known else DEFAULT_PROJECT


def _result(job: Job | None, moved: Transition | None, update: JobUpdate, tombstone: Tombstone | None) -> UpdateResult:
    """What became of the fact, before any event."""
    if moved is None:
        reason = tombstone.reason_at_end if tombstone else "there is no such job here"
        if _foreign(update):
            reason = "the token was made in another environment"
        return UpdateResult(job=job, disposition=Disposition.ORPHANED, reason=reason)
    return UpdateResult(job=job, disposition=moved.disposition, reason=moved.reason, unconfirmed=moved.unconfirmed)


def _event(job: Job, kind: EventType, at: int, supersedes: str | None) -> NewEvent:
    """The event of a move, numbered within its job, with the notification's bytes."""
    event_id, sequence = ids.new_id(ids.EVENT), job.sequence + 1
    last_final = event_id if kind.final else job.last_final_event
    after = msgspec.structs.replace(job, sequence=sequence, last_final_event=last_final)
    event = Event(
        id=event_id,
        project_id=job.project_id,
        job_id=job.id,
        type=kind,
        sequence=sequence,
        final=kind.final,
        created_at=at,
        body=serializers.job_event(event_id, kind, at, after, sequence, supersedes),
    )
    return NewEvent(event, after)


def _callback_row(
    update: JobUpdate, received: ReceivedCallback, project_id: str, recorded: UpdateResult
) -> CallbackRow:
    """Return a callback's columns."""
    return CallbackRow(
        id=received.id,
        project_id=project_id,
        job_id=update.job_id,
        provider=received.provider,
        received_at=received.received_at,
        size=received.size,
        headers=rows.text(received.headers) or "[]",
        body=received.body,
        disposition=recorded.disposition,
        reason=recorded.reason,
        digest=received.digest,
    )


def _reprocessing(update: JobUpdate, received: ReceivedCallback, recorded: UpdateResult) -> Reprocessing:
    """What came of a callback that was run again."""
    return Reprocessing(
        id=ids.new_id(ids.REPROCESSING),
        callback_id=received.id,
        at=update.at,
        key_id=received.reprocessed_by or "",
        disposition=recorded.disposition,
        reason=recorded.reason,
    )
