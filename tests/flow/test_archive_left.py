"""Objects that belong to no copy any more: each is deleted, and never one that relay shows, whoever is late."""

import asyncio
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from relay.archive.archiver import LEASE_MARGIN_MS, LEFT_EVERY_MS
from relay.archive.folder import DISK_S
from relay.storage.copies import TRY_MAX_MS
from relay.storage.engine.database import Transaction
from tests.flow.test_archive import Archiving, archiving
from tests.flow.test_archive_refused import failed
from tests.flow.test_archive_s3 import PREFIX, archived
from tests.support import s3
from tests.support.calling_back import post
from tests.support.quiescence import quiet, watched_loop
from tests.support.results import CLIP, Answer, head
from tests.support.running import HeldClock

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

DAY_S = 86_400
DELETES = "POST"
"""obstore deletes by POST, as it would delete many objects."""
OTHER = CLIP[: len(CLIP) // 2] + bytes(len(CLIP) - len(CLIP) // 2)
"""Another result of the same length, that begins as the clip does."""


def parted(body: bytes) -> tuple[Answer, asyncio.Event]:
    """Return an answer whose second half waits for an event, and that event: a try that is late."""
    on = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", f"content-length: {len(body)}") + body[: len(body) // 2])
        await writer.drain()
        await on.wait()
        writer.write(body[len(body) // 2 :])
        await writer.drain()

    return answer, on


async def one_left(archive: Archiving, server: s3.S3, gate: s3.Gate) -> dict[str, Any]:
    """Return a job whose copy has failed, and whose object is in the bucket: the answers to its writes were lost.

    The bucket refuses to delete it until the gate has no answer of its own any more.
    """
    gate.answer, gate.answers_to = s3.DENIED, DELETES
    gate.loses_answers = True
    job = await archive.succeeded()
    await failed(archive, 1)
    await archive.advance(2)
    await failed(archive, 2)
    assert (await archive.job(job))["outputs"][0]["archive"]["state"] == "failed"
    gate.loses_answers = False
    assert len(await asyncio.to_thread(server.keys)) == 1
    return job


async def until(archive: Archiving, condition: Any, step_s: float = 1) -> None:
    """Let time pass until a condition holds; obstore works in threads of its own, which no held clock knows."""
    async with asyncio.timeout(120):
        while not condition():
            await archive.advance(step_s)
            await asyncio.sleep(0.01)


def whole_in_store(server: s3.S3, job: dict[str, Any]) -> bool:
    """Return whether the object that a job shows is in the bucket, as it is shown."""
    shown = job["outputs"][0]["archive"]
    body = server.body(f"some/prefix/{shown['key']}")
    return (hashlib.sha256(body).hexdigest(), len(body)) == (shown["sha256"], shown["bytes"])


async def test_a_late_deletion_does_not_meet_a_new_copy(tmp_path: Path, server: s3.S3, gate: s3.Gate) -> None:
    """Keep the object of a copy that was ordered anew while what its former try had left was being deleted."""
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX, RELAY_ARCHIVE_RETRY_S="1") as archive:
        job = await one_left(archive, server, gate)
        (left,) = server.keys()
        gate.answer, gate.holds = None, DELETES
        await until(archive, lambda: gate.held, LEFT_EVERY_MS / 1000)
        assert (await archive.client.post(f"/v1/jobs/{job['id']}/copies")).status_code == 202
        shown = await archived(archive, job["id"])
        gate.let_go.set()
        await until(archive, lambda: server.keys().count(left) == 0)
        assert shown["outputs"][0]["archive"]["state"] == "archived"
        assert server.keys() == [f"some/prefix/{shown['outputs'][0]['archive']['key']}"]
        assert whole_in_store(server, shown)


async def test_an_order_does_not_forget_what_a_former_try_left(tmp_path: Path, server: s3.S3, gate: s3.Gate) -> None:
    """Delete what a failed copy had left, although it was ordered anew before, and has another key since."""
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX, RELAY_ARCHIVE_RETRY_S="1") as archive:
        job = await one_left(archive, server, gate)
        await archive.advance(DAY_S)
        await archive.client.post(f"/v1/jobs/{job['id']}/copies")
        shown = await archived(archive, job["id"])
        gate.answer = None
        await until(archive, lambda: len(server.keys()) == 1, LEFT_EVERY_MS / 1000)
        assert whole_in_store(server, shown)


async def test_an_object_that_may_not_be_deleted_delays_no_other(tmp_path: Path, server: s3.S3, gate: s3.Gate) -> None:
    """Delete the others while the bucket refuses to delete one, and that one when it does no more."""
    days: dict[str, Any] = {"RELAY_ARCHIVE_RETENTION_DAYS": "1", "RELAY_RETENTION_DAYS": "30"}
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX, **days) as archive:
        jobs = [await archived(archive, (await archive.succeeded())["id"]) for _ in range(3)]
        gate.answer, gate.answers_to = s3.DENIED, DELETES
        await archive.advance(DAY_S)
        await until(archive, lambda: gate.refused, 60)
        refused_at_ms = archive.running.clock.now_ms()
        gate.answer = None
        await until(archive, lambda: len(server.keys()) == 1)
        assert {(await archive.job(job))["outputs"][0]["archive"]["state"] for job in jobs} == {"deleted"}
        await until(archive, lambda: not server.keys(), 60)
        assert 3_400_000 < archive.running.clock.now_ms() - refused_at_ms < 4_000_000  # an hour later


async def test_a_copy_is_shown_no_more_before_it_is_deleted(tmp_path: Path, server: s3.S3, gate: s3.Gate) -> None:
    """Show a copy that is past its retention as deleted before its object is, however long that takes."""
    days: dict[str, Any] = {"RELAY_ARCHIVE_RETENTION_DAYS": "1", "RELAY_RETENTION_DAYS": "30"}
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX, **days) as archive:
        job = await archived(archive, (await archive.succeeded())["id"])
        gate.holds = DELETES
        await archive.advance(DAY_S)
        await until(archive, lambda: gate.held, 60)
        assert len(server.keys()) == 1
        assert (await archive.job(job))["outputs"][0]["archive"]["state"] == "deleted"
        copies, now_ms = archive.running.app.store.copies, archive.running.clock.now_ms()
        assert await copies.claim_left(PREFIX, now_ms + 165_000, now_ms) is None  # it is leased for five minutes
        assert await copies.claim_left(PREFIX, now_ms + 310_000, now_ms) is not None
        gate.let_go.set()
        await until(archive, lambda: not server.keys())


@pytest.mark.parametrize("order", ["the late one ends last", "the late one ends first"])
async def test_two_tries_of_a_copy_do_not_meet(tmp_path: Path, order: str) -> None:
    """Keep the object of the try that has the lease, whole, though a try whose lease has run out still writes."""
    async with archiving(tmp_path, RELAY_ARCHIVE_TIMEOUT_S="300") as archive:
        (late, late_on), (current, current_on) = parted(OTHER), parted(CLIP)
        archive.results.answers = [late, current]
        job = await archive.succeeded()
        await archive.advance(300 + LEASE_MARGIN_MS / 1000)
        assert len(archive.results.requests) == 2
        for on in (current_on, late_on) if order == "the late one ends last" else (late_on, current_on):
            on.set()
            await quiet()
        shown = (await archive.job(job))["outputs"][0]["archive"]
        assert (shown["state"], shown["sha256"]) == ("archived", hashlib.sha256(CLIP).hexdigest())
        assert (await archive.client.get(f"/v1/jobs/{job['id']}/outputs/0")).content == CLIP
        assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archived"]
        counted = 'relay_archive_tries_total{outcome="archived",provider="evolink"} 1.0\n'
        assert counted in (await archive.client.get("/metrics")).text
        await archive.advance(TRY_MAX_MS / 1000)
        await archive.advance(LEFT_EVERY_MS / 1000)
        assert [file.relative_to(archive.folder).as_posix() for file in archive.files] == [shown["key"]]


async def test_a_clock_that_is_set_forward_costs_no_copy(tmp_path: Path) -> None:
    """Copy a result once and whole, though the wall clock was set forward past the lease while it was copied."""
    async with archiving(tmp_path) as archive:
        assert isinstance(archive.running.clock, HeldClock)
        late, on = parted(CLIP)
        archive.results.answers = [late]
        job = await archive.succeeded()
        archive.running.clock.set_back(-DAY_S)
        await archive.advance(5)
        on.set()
        await archive.advance(TRY_MAX_MS / 1000)
        await archive.advance(LEFT_EVERY_MS / 1000)
        shown = (await archive.job(job))["outputs"][0]["archive"]
        assert [file.relative_to(archive.folder).as_posix() for file in archive.files] == [shown["key"]]
        assert (await archive.client.get(f"/v1/jobs/{job['id']}/outputs/0")).content == CLIP
        assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archived"]


async def test_a_result_that_comes_again_replaces_its_copy(tmp_path: Path) -> None:
    """Copy the result of a job that failed after its success and succeeded again; delete the former object."""
    async with archiving(tmp_path) as archive:
        job = await archive.succeeded()
        former = job["outputs"][0]["archive"]["key"]
        made = archive.running.world.jobs[job["provider_job_id"]]
        made.state = "failed"
        await post(archive.running, b'{"status":"failed","error":{"code":"x","message":"no"}}')
        await quiet()
        assert (await archive.job(job))["outputs"] == []
        made.state = "succeeded"
        await post(archive.running, b'{"status":"completed","results":["https://cdn.example/a.mp4"]}')
        await quiet()
        shown = (await archive.job(job))["outputs"][0]["archive"]
        assert (shown["state"], shown["key"] == former) == ("archived", False)
        assert len(archive.files) == 2
        await archive.advance(TRY_MAX_MS / 1000)
        await archive.advance(LEFT_EVERY_MS / 1000)
        assert [file.relative_to(archive.folder).as_posix() for file in archive.files] == [shown["key"]]


async def test_a_job_that_is_pruned_while_it_is_copied_leaves_nothing(tmp_path: Path) -> None:
    """Delete what a try has written of a job that was pruned meanwhile."""
    async with archiving(tmp_path, RELAY_RETENTION_DAYS="5") as archive:
        job = await archive.succeeded(archive="off")
        await archive.advance(5 * DAY_S - 60)
        late, on = parted(CLIP)
        archive.results.answer = late
        await archive.client.post(f"/v1/jobs/{job['id']}/copies")
        await quiet()
        assert len(archive.files) == 1
        for _ in range(26):
            await archive.advance(3_600)
        assert (await archive.client.get(f"/v1/jobs/{job['id']}")).status_code == 404
        on.set()
        await archive.advance(TRY_MAX_MS / 1000)
        await archive.advance(LEFT_EVERY_MS / 1000)
        assert archive.files == []


async def test_a_copy_from_before_buckets_had_names_is_where_it_was(tmp_path: Path) -> None:
    """Find a copy that an earlier relay stored without its bucket's name, though RELAY_ARCHIVE_URL changes later."""
    clock = HeldClock()
    async with archiving(tmp_path, clock=clock) as archive:
        job = await archive.succeeded()
        copy = await archive.running.app.store.copies.of_output("prj_default", job["id"], 0)
        assert copy is not None
        unnamed = {"id": copy.id, "bucket": "", "key": copy.key, "content_type": copy.content_type, "writes": 1}

        async def unname(transaction: Transaction) -> None:
            await transaction.rows("name_copy", unnamed)

        await archive.running.app.store.database.transact(unname)
    async with archiving(tmp_path, clock=clock) as archive:
        await quiet()
    moved = (tmp_path / "new bucket").as_uri()
    async with archiving(tmp_path, clock=clock, RELAY_ARCHIVE_URL=moved) as archive:
        assert (await archive.client.get(f"/v1/jobs/{job['id']}/outputs/0")).content == CLIP


async def test_a_disk_that_hung_changes_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write to another file after a disk has hung: what hung may still write to the first one, at any later time."""
    hangs, go = threading.Event(), threading.Event()

    def sync(opened: int) -> None:
        hangs.set()
        go.wait(60)
        os.pwrite(opened, b"late", 0)

    async with archiving(tmp_path) as archive:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", sync)
            job = await archive.running.submit()
            archive.running.world.jobs[job["provider_job_id"]].results_at = archive.results.origin
            await archive.running.world.finish(job["provider_job_id"])
            await asyncio.to_thread(hangs.wait, 60)
            with watched_loop().time_held() as pass_time:
                await asyncio.sleep(0)
                pass_time(DISK_S + 1)
            await failed(archive, 1)
        await archive.advance(2)
        await until(archive, lambda: any(file.suffix == ".mp4" for file in archive.files))
        shown = (await archive.job(job))["outputs"][0]["archive"]
        assert (shown["state"], shown["key"][-8:]) == ("archived", "-0_2.mp4")
        go.set()
        await until(archive, lambda: len(archive.files) == 1)
        assert (await archive.client.get(f"/v1/jobs/{job['id']}/outputs/0")).content == CLIP


async def test_copies_in_a_former_bucket_are_still_shown_and_deleted(tmp_path: Path) -> None:
    """Find a copy where it was written, though RELAY_ARCHIVE_URL names another folder since, and delete it there."""
    days: dict[str, Any] = {"RELAY_ARCHIVE_RETENTION_DAYS": "1", "RELAY_RETENTION_DAYS": "30"}
    clock = HeldClock()
    async with archiving(tmp_path, clock=clock, **days) as archive:
        job = await archive.succeeded()
        former = archive.folder
    moved = (tmp_path / "new bucket").as_uri()
    async with archiving(tmp_path, clock=clock, RELAY_ARCHIVE_URL=moved, **days) as archive:
        assert (await archive.client.get(f"/v1/jobs/{job['id']}/outputs/0")).content == CLIP
        other = await archive.succeeded()
        assert (await archive.client.get(f"/v1/jobs/{other['id']}/outputs/0")).content == CLIP
        assert len([path for path in (tmp_path / "new bucket").rglob("*") if path.is_file()]) == 1
        for _ in range(26):
            await archive.advance(3_600)
        for folder in (former, tmp_path / "new bucket"):
            assert [path for path in folder.rglob("*") if path.is_file()] == []
