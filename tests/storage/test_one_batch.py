"""Several updates in one transaction: each result is that of its own update, and shows what its caller needs."""

from functools import partial
from pathlib import Path

import msgspec
import pytest

from relay.lifecycle.archiving import end_copy
from relay.lifecycle.reports import Transition
from relay.model import ids
from relay.model.archive import ArchiveMode, CopyState, OutputArchive
from relay.model.job import Disposition, EventType, Job, JobState, Output, OutputKind
from relay.storage.apply_updates import JobUpdate, ReceivedCallback, Room, UpdateApplier, UpdateResult
from relay.storage.boots import Lease
from relay.storage.copies import Copies, CopyClaim, CopyName
from relay.storage.engine.database import Database
from relay.storage.engine.group_commit import Writer
from tests.support.past import database, insert_jobs

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
REQUEST: dict[str, object] = {"model": "veo"}
RECORDED = Disposition.RECORDED


def submitted() -> Job:
    """Return a job that its provider works on."""
    return Job(
        id=ids.new_id(ids.JOB),
        project_id="prj_default",
        provider="evolink",
        state=JobState.SUBMITTED,
        created_at=1,
        updated_at=1,
        deadline_at=9,
        request=REQUEST,
        input={"prompt": "a gull"},
        metadata={"k": "v"},
    )


def further(job: Job) -> Transition:
    """Return a transition that counts."""
    after = msgspec.structs.replace(job, progress=(job.progress or 0) + 1, state=JobState.RUNNING)
    return Transition(after, Disposition.RECORDED, announce=EventType.JOB_RUNNING)


def callback(job: Job, unreadable: str | None = None, reprocessed_by: str | None = None) -> JobUpdate:
    """Return a callback about a job."""
    callback_id = ids.new_id(ids.CALLBACK)
    received = ReceivedCallback(
        id=callback_id,
        provider="evolink",
        received_at=2,
        headers=(),
        body=b"{}",
        size=2,
        digest=None if unreadable else callback_id.encode(),
        unreadable=unreadable,
        reprocessed_by=reprocessed_by,
    )
    return JobUpdate(job_id=job.id, at=2, transition=None if unreadable else further, received=received)


async def applied(opened: Database, job: Job, *updates: JobUpdate) -> list[UpdateResult]:
    """Return the results of updates of a new job that one transaction applies."""
    await opened.transact(partial(insert_jobs, jobs=[job]))
    return await opened.transact(partial(UpdateApplier(Lease(0), Room(100), (0,)), updates=updates))


async def test_each_result_keeps_the_job_as_it_was_after_its_update(tmp_path: Path) -> None:
    """Return the job after each of four callbacks, one of which changes nothing, whatever the later ones do."""
    job = submitted()
    async with database(tmp_path) as opened:
        some = (callback(job), callback(job), callback(job, "it is no JSON"), callback(job))
        results = await applied(opened, job, *some)
    after = [result.job for result in results if result.job]
    assert [(one.callbacks_seen, one.sequence, one.progress) for one in after] == [
        (1, 1, 1),
        (2, 2, 2),
        (3, 2, 2),
        (4, 3, 3),
    ]
    assert [result.announced for result in results] == [EventType.JOB_RUNNING] * 2 + [None, EventType.JOB_RUNNING]


@pytest.mark.parametrize("reprocessed", [False, True])
async def test_who_shows_the_job_gets_it_whole(tmp_path: Path, reprocessed: bool) -> None:
    """Return the job with its request, input and metadata to an operator, beside a callback of the same job."""
    job = submitted()
    shown = callback(job, reprocessed_by="key_1") if reprocessed else JobUpdate(job_id=job.id, at=2, transition=further)
    async with database(tmp_path) as opened:
        _, result = await applied(opened, job, callback(job), shown)
    assert result.job is not None
    assert (result.job.request, result.job.input, result.job.metadata) == (REQUEST, {"prompt": "a gull"}, {"k": "v"})


async def test_an_older_try_does_not_end_a_newer_copy(tmp_path: Path) -> None:
    """Give up the object of a try whose result came anew in the same batch: the new copy has not ended by it."""
    first, again = (Output(kind=OutputKind.VIDEO, url=f"https://cdn.example/{name}.mp4") for name in "ab")
    job = submitted()
    job.archive = ArchiveMode.AFTER

    def succeeded(output: Output, now: Job) -> Transition:
        return Transition(
            msgspec.structs.replace(now, state=JobState.SUCCEEDED, outputs=(output,), finished_at=2), RECORDED
        )

    def failed(now: Job) -> Transition:
        return Transition(msgspec.structs.replace(now, state=JobState.FAILED, outputs=(), finished_at=2), RECORDED)

    async with database(tmp_path) as opened:
        await applied(opened, job, JobUpdate(job_id=job.id, at=2, transition=partial(succeeded, first)))
        copies = Copies(opened, Writer(opened, 10), Lease(1_000, 1))
        (old,) = await copies.claim(CopyClaim(now=2, leased_until=9, limit=1))
        await copies.name(
            CopyName(id=old.id, leased_until=9, bucket="s3://b", key="old.mp4", content_type="video/mp4", writes=1)
        )
        end = old.end(CopyState.ARCHIVED, bucket="s3://b", key="old.mp4", sha256="0", bytes=1, content_type="video/mp4")
        updates = [
            JobUpdate(job_id=job.id, at=3, transition=failed),
            JobUpdate(job_id=job.id, at=3, transition=partial(succeeded, again)),
            JobUpdate(job_id=job.id, at=3, transition=partial(end_copy, copy=end, url="", now_ms=3), copy=end),
        ]
        results = await opened.transact(partial(UpdateApplier(Lease(0), Room(100), (0,)), updates=updates))
        (shown,) = await copies.of_job("prj_default", job.id)
        left = await copies.claim_left("s3://b", 1 << 40, 1 << 41)
    after = results[1].job
    assert after is not None
    assert after.outputs[0].archive == OutputArchive(state=CopyState.PENDING)
    assert results[2].disposition is Disposition.STALE
    assert (shown.id == old.id, shown.state, shown.key) == (False, CopyState.PENDING, None)
    assert left is not None
    assert left.key == "old.mp4"
