"""What the archive shows of itself: numbers of a time, what is pending and failed now, and each copy of a job."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.clock import rfc3339
from relay.storage import statistics
from relay.storage.statistics import latency_of, step_of
from tests.flow.test_archive import Archiving, archiving
from tests.support.quiescence import quiet
from tests.support.results import CLIP, head, silent, whole
from tests.support.running import HeldClock, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

DAY_S = 86_400
NOTHING = {"archived": 0, "failed": 0, "deleted": 0, "bytes": 0, "errors": {}}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archiving]:
    """Yield a relay with an archive that keeps copies for a day and takes no more than ten thousand bytes."""
    async with archiving(tmp_path, RELAY_ARCHIVE_RETENTION_DAYS="1", RELAY_ARCHIVE_MAX_BYTES="10000") as started:
        yield started


async def stats(archive: Archiving, query: str = "?from=-1h&bucket=1m") -> dict[str, Any]:
    """Return what the statistics show."""
    return await archive.running.get(f"/v1/stats{query}")


async def other_project(archive: Archiving, *scopes: str) -> dict[str, str]:
    """Return the headers of a key of another project."""
    project = (await archive.client.post("/v1/projects", json={"name": "films"})).json()
    made = await archive.client.post(
        "/v1/keys", json={"project": project["id"], "name": "k", "scopes": scopes or ["read"]}
    )
    return {"authorization": f"Bearer {made.json()['key']}"}


async def test_the_numbers_of_copies_are_exactly_what_happened(archive: Archiving) -> None:
    """Count copies by state, provider and interval, their bytes, how long they took, and failures by reason."""
    go_on = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", f"content-length: {len(CLIP)}") + CLIP[:1000])
        await go_on.wait()
        writer.write(CLIP[1000:])
        await writer.drain()

    archive.results.answers = [slow]
    slow_job = await archive.succeeded()
    await archive.advance(4)
    go_on.set()
    await quiet()
    await archive.succeeded("kinovi")
    archive.results.answers = [whole(b"x" * 10_001)]
    await archive.succeeded("kinovi")
    archive.results.answer = silent
    pending = await archive.succeeded()
    shown = await stats(archive)
    totals = shown["totals"]["archive"]
    assert totals.pop("duration") == {
        "count": 4,
        "p50_ms": 1,
        "p95_ms": latency_of(int(step_of(4_000))),
        "p99_ms": latency_of(int(step_of(4_000))),
    }
    assert totals == NOTHING | {"archived": 4, "failed": 1, "bytes": 4 * len(CLIP), "errors": {"too_large": 1}}
    evolink, kinovi = shown["providers"]
    assert evolink["archive"] == NOTHING | {"archived": 1, "bytes": len(CLIP)}
    of_kinovi = {"archived": 3, "failed": 1, "bytes": 3 * len(CLIP), "errors": {"too_large": 1}}
    assert kinovi["archive"] == NOTHING | of_kinovi  # a result of its has two outputs
    assert sum(one["archive"]["archived"] for one in shown["series"]) == 4
    assert all(one["archive"]["duration"] is None for one in shown["series"] if not one["archive"]["archived"])
    now = {"pending": 1, "failed": 1, "more": False, "oldest_pending_at": pending["finished_at"]}
    assert shown["archive"] == now
    assert (await archive.job(slow_job))["outputs"][0]["archive"]["state"] == "archived"
    answer = await archive.client.get("/v1/stats", headers=await other_project(archive))
    assert answer.json()["totals"]["archive"] == NOTHING | {"duration": None}
    assert answer.json()["archive"] == {"pending": 0, "failed": 0, "more": False, "oldest_pending_at": None}


async def test_a_deleted_copy_is_counted(archive: Archiving) -> None:
    """Count a copy that was deleted past its retention, once."""
    await archive.succeeded()
    await archive.advance(DAY_S + 3600)
    await archive.advance(3600)
    totals = (await stats(archive, "?from=-7d&bucket=1h"))["totals"]["archive"]
    assert (totals["archived"], totals["deleted"]) == (1, 1)


@pytest.mark.parametrize(("most", "more"), [(2, True), (3, False)])
async def test_what_is_pending_or_failed_is_counted_up_to_a_limit(
    archive: Archiving, monkeypatch: pytest.MonkeyPatch, most: int, more: bool
) -> None:
    """Count as many copies of a state as the limit says, and say that there may be more once it is reached."""
    monkeypatch.setattr(statistics, "COPIES_COUNTED_MAX", most)
    archive.results.answer = whole(b"x" * 10_001)
    for _ in range(2):
        await archive.succeeded()
    shown = (await stats(archive))["archive"]
    assert (shown["failed"], shown["more"]) == (2, more)


async def copies(archive: Archiving, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the copies of a job as they are shown."""
    shown: list[dict[str, Any]] = (await archive.running.get(f"/v1/jobs/{job['id']}/copies"))["data"]
    return shown


async def again(archive: Archiving, job: dict[str, Any]) -> int:
    """Ask for the copies of a job again; return the status of the answer, once what that begins has ended."""
    answer = await archive.client.post(f"/v1/jobs/{job['id']}/copies")
    await quiet()
    return answer.status_code


async def test_a_copy_is_shown_with_its_tries(archive: Archiving) -> None:
    """Show where a copy is; while it is not there why, whether it is being copied, and when it is tried again."""
    archive.results.answers = [whole(status="503 Service Unavailable"), silent]
    job = await archive.succeeded()
    (waiting,) = await copies(archive, job)
    assert (waiting["state"], waiting["tries"], waiting["error"]) == ("pending", 1, "unreachable")
    assert waiting["error_detail"] == "the result's URL answers HTTP 503"
    assert (waiting["copying"], waiting["next_try_at"]) == (False, rfc3339(archive.running.clock.now_ms() + 2_000))
    await archive.advance(2)
    (running,) = await copies(archive, job)
    assert (running["state"], running["copying"], running["next_try_at"]) == ("pending", True, None)
    await archive.cut()
    await archive.advance(5)
    (made,) = await copies(archive, job)
    shown = (await archive.job(job))["outputs"][0]
    assert made == {
        "object": "copy",
        "number": 0,
        "kind": "video",
        "content_type": "video/mp4",
        "tries": 3,
        "error_detail": None,
        "copying": False,
        "next_try_at": None,
        "expires_at": shown["expires_at"],
        "created_at": job["finished_at"],
        "finished_at": shown["archive"]["archived_at"],
    } | {name: shown["archive"][name] for name in ("state", "url", "key", "bytes", "sha256", "error")}


async def test_a_failed_copy_is_made_again(archive: Archiving) -> None:
    """Copy a result again whose copy failed, announce the new end, and refuse it once there is nothing to copy."""
    archive.results.answers = [whole(b"x" * 10_001)]
    job = await archive.succeeded()
    (failed,) = await copies(archive, job)
    assert (failed["state"], failed["error"], failed["tries"]) == ("failed", "too_large", 1)
    assert await again(archive, job) == 202
    assert (await copies(archive, job))[0]["state"] == "archived"
    assert (await archive.events(job))[-2:] == ["job.archive_failed", "job.archived"]
    assert await again(archive, job) == 409
    assert len(archive.results.paths) == 2


async def test_a_result_without_a_copy_is_copied_when_asked_for(archive: Archiving) -> None:
    """Copy the results of one job whose archive was off, and of no other."""
    job, other = await archive.succeeded(archive="off"), await archive.succeeded(archive="off")
    assert await copies(archive, job) == []
    assert await again(archive, job) == 202
    assert [one["state"] for one in await copies(archive, job)] == ["archived"]
    assert await copies(archive, other) == []


async def test_a_copy_that_waits_is_tried_now(archive: Archiving) -> None:
    """Try a copy that waits for its next try immediately; one that is being copied goes on, and is refused."""
    archive.results.answers = [whole(status="503 Service Unavailable"), silent]
    job = await archive.succeeded()
    assert (await copies(archive, job))[0]["copying"] is False
    assert await again(archive, job) == 202
    assert (await copies(archive, job))[0]["copying"] is True
    assert await again(archive, job) == 409
    assert len(archive.results.paths) == 2


async def test_a_bucket_that_works_again_is_tried_now(archive: Archiving) -> None:
    """Do not wait for the end of the bucket's pause when a copy is asked for again."""
    archive.folder.parent.mkdir(exist_ok=True)
    archive.folder.write_bytes(b"a file where the folder should be")
    job = await archive.succeeded()
    (waiting,) = await copies(archive, job)
    assert (waiting["state"], waiting["error"], waiting["tries"]) == ("pending", "store_unavailable", 0)
    archive.folder.unlink()
    assert (await copies(archive, job))[0]["state"] == "pending"
    assert await again(archive, job) == 202
    assert (await copies(archive, job))[0]["state"] == "archived"


async def test_only_its_own_project_sees_and_makes_copies(archive: Archiving) -> None:
    """Answer 404 to a key of another project, and 403 to one that may only read."""
    archive.results.answers = [whole(b"x" * 10_001)]
    job = await archive.succeeded()
    path, other = f"/v1/jobs/{job['id']}/copies", await other_project(archive, "read", "submit")
    assert (await archive.client.get(path, headers=other)).status_code == 404
    assert (await archive.client.post(path, headers=other)).status_code == 404
    made = await archive.client.post("/v1/keys", json={"name": "reader", "scopes": ["read"]})
    reader = {"authorization": f"Bearer {made.json()['key']}"}
    assert len((await archive.client.get(path, headers=reader)).json()["data"]) == 1
    assert (await archive.client.post(path, headers=reader)).status_code == 403
    assert (await copies(archive, job))[0]["state"] == "failed"


async def test_no_copy_is_made_of_what_is_not_there(archive: Archiving, tmp_path: Path) -> None:
    """Refuse copies of a job that has not succeeded, and at a relay without an archive."""
    open_job = await archive.running.submit()
    assert await again(archive, open_job) == 409
    async with relay(tmp_path / "another", clock=HeldClock()) as running:
        job = await running.submit()
        answer = await running.client.post(f"/v1/jobs/{job['id']}/copies")
        assert (answer.status_code, "RELAY_ARCHIVE_URL" in answer.json()["detail"]) == (409, True)
        assert (await running.get(f"/v1/jobs/{job['id']}/copies"))["data"] == []


async def test_jobs_are_found_by_the_state_of_their_copies(archive: Archiving) -> None:
    """List the jobs with a copy in a state, alone and with other filters; refuse a state that there is not."""
    archived = await archive.succeeded()
    archive.results.answers = [whole(b"x" * 10_001), silent]
    failed = await archive.succeeded(metadata={"user": "42"})
    pending = await archive.succeeded(metadata={"user": "42"})
    await archive.succeeded(archive="off")
    found = {"archived": archived, "failed": failed, "pending": pending, "deleted": None}
    for state, job in found.items():
        expected = [] if job is None else [job["id"]]
        assert [one["id"] for one in (await archive.running.get(f"/v1/jobs?copies={state}"))["data"]] == expected
    for query in ("metadata[user]=42", f"provider_job_id={failed['provider_job_id']}", "provider=evolink"):
        shown = await archive.running.get(f"/v1/jobs?copies=failed&{query}")
        assert [one["id"] for one in shown["data"]] == [failed["id"]]
    assert (await archive.client.get("/v1/jobs?copies=lost")).status_code == 422


async def test_all_failed_copies_are_made_again(archive: Archiving) -> None:
    """Copy the results of all jobs with a failed copy by a bulk action, and refuse it for others."""
    archive.results.answers = [whole(b"x" * 10_001)] * 2
    failed = [await archive.succeeded() for _ in range(2)]
    archived = await archive.succeeded()
    body: dict[str, Any] = {"action": "copy", "filter": {"copies": "failed"}}
    counted = (await archive.client.post("/v1/bulk-actions", json=body | {"dry_run": True})).json()
    assert counted["matched"] == 2
    done = (await archive.client.post("/v1/bulk-actions", json=body | {"as_of": counted["as_of"]})).json()
    assert {one["job"] for one in done["done"]} == {job["id"] for job in failed}
    await quiet()
    assert [one["state"] for job in failed for one in await copies(archive, job)] == ["archived"] * 2
    rest: dict[str, Any] = {"action": "copy", "filter": {"status": "succeeded"}, "as_of": counted["as_of"]}
    refused = (await archive.client.post("/v1/bulk-actions", json=rest)).json()["refused"]
    assert archived["id"] in {one["job"] for one in refused}
    assert {one["code"] for one in refused} == {"conflict"}
