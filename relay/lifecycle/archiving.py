"""Decides what copies of its results do to a job: pure functions, as in `lifecycle/reports.py`.

the job                                  then
───────────────────────────────────────  ───────────────────────────────────────────────────────────────────────
succeeds, its archive `after`            each result gets a copy, pending; the event of its end is sent now
succeeds, its archive `before_notify`    the same, but the event waits until no copy is pending, or `held_until`
has no pending copy any more             `job.archived`, or `job.archive_failed` if one failed; the event that
waited is sent before it, and shows the copies
waited until `held_until`                the event is sent, and shows which copies are pending
its provider signs a result's URL anew   a pending copy uses the new one; a copy that has ended stays
turns out to have failed meanwhile       the event that waited is never sent: that of the other end is
"""

from collections.abc import Sequence

import msgspec

from relay.clock import rfc3339
from relay.lifecycle.reports import Transition
from relay.model.archive import ArchiveMode, CopyEnd, CopyErrorCode, CopyState, OutputArchive
from relay.model.job import Disposition, EventType, Job, JobState, Output

PENDING = OutputArchive(state=CopyState.PENDING)


class Ordered(msgspec.Struct, frozen=True):
    """A job's transition with the results to copy, by number: new copies, and pending ones whose URL is another."""

    transition: Transition
    new: Sequence[int] = ()
    renewed: Sequence[int] = ()


def order(before: Job, transition: Transition) -> Ordered:
    """Return the transition with a copy for each new result of the job, whose archive is on."""
    job = transition.job
    former = before.outputs if before.state is JobState.SUCCEEDED else ()
    outputs, new, renewed = [], [], []
    for number, output in enumerate(job.outputs):
        known = former[number] if number < len(former) and former[number].kind is output.kind else None
        was = known.archive if known is not None else None
        archive = output.archive or was or PENDING
        if archive.state is CopyState.PENDING and (was is None or was.state is not CopyState.PENDING):
            new.append(number)
        elif archive.state is CopyState.PENDING and known is not None and known.url != output.url:
            renewed.append(number)
        outputs.append(output if output.archive is archive else msgspec.structs.replace(output, archive=archive))
    job.outputs = tuple(outputs)
    if new and job.archive is ArchiveMode.BEFORE_NOTIFY and transition.announce is EventType.JOB_SUCCEEDED:
        job.held = True
        reason = f"{transition.reason}; its event waits for the copies of its results"
        transition = msgspec.structs.replace(transition, announce=None, reason=reason)
    return Ordered(transition, new, renewed)


def replaced(transition: Transition) -> Transition:
    """Return the transition of a job to another end, while the event of its former end waited and was never sent."""
    transition.job.held = False
    if transition.announce is EventType.JOB_CORRECTED:
        return msgspec.structs.replace(transition, announce=EventType(f"job.{transition.job.state}"))
    return transition


def end_copy(job: Job, copy: CopyEnd, url: str, now_ms: int) -> Transition:
    """Return the job with a copy that has ended: archived, shown by `url`, or failed."""
    output = job.outputs[copy.number] if copy.number < len(job.outputs) else None
    if output is None or output.archive is None or output.archive.state is not CopyState.PENDING:
        return Transition(job, Disposition.STALE, "this result has no copy that is pending")
    archived = copy.state is CopyState.ARCHIVED
    archive = OutputArchive(
        state=copy.state,
        url=url if archived else None,
        key=copy.key if archived else None,
        sha256=copy.sha256,
        bytes=copy.bytes,
        archived_at=rfc3339(now_ms) if archived else None,
        error=copy.error_code,
    )
    job = _with_archive(job, copy.number, output, archive, now_ms)
    reason = f"result {copy.number} {copy.state}" + (f": {copy.error}" if copy.error else "")
    states = {one.archive.state for one in job.outputs if one.archive is not None}
    if CopyState.PENDING in states:
        return Transition(job, Disposition.RECORDED, reason)
    outcome = EventType.JOB_ARCHIVE_FAILED if CopyState.FAILED in states else EventType.JOB_ARCHIVED
    if not _waits(job, copy):
        return Transition(job, Disposition.RECORDED, reason, outcome)
    job.held = False
    return Transition(job, Disposition.RECORDED, reason, EventType.JOB_SUCCEEDED, copy.supersedes, also=outcome)


def ended(job: Job | None, copy: CopyEnd) -> CopyEnd:
    """Return how a copy ended: withdrawn where the job has no such result any more, as after a late failure."""
    if job is None or (copy.number < len(job.outputs) and job.outputs[copy.number].archive is not None):
        return copy
    return CopyEnd(
        copy_id=copy.copy_id,
        number=copy.number,
        state=CopyState.FAILED,
        error_code=CopyErrorCode.WITHDRAWN,
        error="the job has no such result any more",
    )


def out_of_time(job: Job, copy: CopyEnd, now_ms: int) -> Transition:
    """Return the job whose event has waited long enough for this copy; `stale` where it does not wait."""
    if not _waits(job, copy):
        return Transition(job, Disposition.STALE, "its event does not wait")
    job = msgspec.structs.replace(job, held=False, updated_at=now_ms)
    reason = "its event has waited long enough for the copies of its results"
    return Transition(job, Disposition.RECORDED, reason, EventType.JOB_SUCCEEDED, copy.supersedes)


def delete_copy(job: Job, number: int, now_ms: int) -> Transition:
    """Return the job with a copy that was deleted, past its retention."""
    output = job.outputs[number] if number < len(job.outputs) else None
    if output is None or output.archive is None or output.archive.state is not CopyState.ARCHIVED:
        return Transition(job, Disposition.STALE, "this result has no copy that is archived")
    archive = msgspec.structs.replace(output.archive, state=CopyState.DELETED, url=None, key=None)
    job = _with_archive(job, number, output, archive, now_ms)
    return Transition(job, Disposition.RECORDED, f"the copy of result {number} is past its retention")


def order_missing(job: Job, now_ms: int, *, failed: bool) -> Transition:
    """Return the succeeded job with its results to copy that have no copy, or with `failed` one that failed."""
    outputs = [_wanted(output, failed=failed) for output in job.outputs]
    if job.state is not JobState.SUCCEEDED or all(new is old for new, old in zip(outputs, job.outputs, strict=True)):
        return Transition(job, Disposition.STALE, "it has no result to copy")
    mode = ArchiveMode.AFTER if job.archive is ArchiveMode.OFF else job.archive
    job = msgspec.structs.replace(job, outputs=tuple(outputs), archive=mode, updated_at=now_ms)
    return Transition(job, Disposition.RECORDED, "its results are to be copied")


def _wanted(output: Output, *, failed: bool) -> Output:
    """Return a result with a pending copy, if it is to have a new one."""
    archive = output.archive
    if archive is None or (failed and archive.state is CopyState.FAILED):
        return msgspec.structs.replace(output, archive=PENDING)
    return output


def _waits(job: Job, copy: CopyEnd) -> bool:
    """Return whether the event of the job's end still waits.

    `job.held` alone does not tell: a relay of an earlier version that updated the job has dropped it.
    """
    return copy.held_until is not None and job.state is JobState.SUCCEEDED and job.last_final_event == copy.supersedes


def _with_archive(job: Job, number: int, output: Output, archive: OutputArchive, now_ms: int) -> Job:
    """Return the job with the state of one copy."""
    outputs = list(job.outputs)
    outputs[number] = msgspec.structs.replace(output, archive=archive)
    return msgspec.structs.replace(job, outputs=tuple(outputs), updated_at=now_ms)
