"""The archive: a result is copied into the operator's bucket before it expires, and each outcome is shown and told."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from relay.clock import Clock
from relay.settings import Settings
from tests.support.quiescence import quiet
from tests.support.results import CLIP, Results, silent, whole
from tests.support.running import INPUT, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

DIGEST = hashlib.sha256(CLIP).hexdigest()


class Archiving:
    """A relay with an archive in a folder, and the server of its results."""

    def __init__(self, running: Running, results: Results, folder: Path) -> None:
        self.running = running
        self.results = results
        self.folder = folder
        self.client = running.client

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        assert isinstance(self.running.clock, HeldClock)
        await self.running.clock.advance(seconds)

    async def succeeded(self, provider: str = "evolink", **fields: Any) -> dict[str, Any]:
        """Return a job that has succeeded, its result on the server."""
        job = await self.running.submit(provider, **fields)
        made = self.running.world.jobs[job["provider_job_id"]]
        made.results_at = self.results.origin
        await self.running.world.finish(made.id)
        await quiet()
        return await self.job(job)

    async def cut(self) -> None:
        """Close the connections on which an answer has not ended."""
        await self.results.hang_up()
        await quiet()

    async def job(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return a job as it is now."""
        return await self.running.get(f"/v1/jobs/{job['id']}")

    async def events(self, job: dict[str, Any]) -> list[str]:
        """Return the types of a job's events, in order; their numbers have no gap."""
        events = (await self.running.get(f"/v1/events?job={job['id']}"))["data"][::-1]
        assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
        return [event["type"] for event in events]

    @property
    def files(self) -> list[Path]:
        """Return the files of the folder, those that begin with a dot among them."""
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file()]


@asynccontextmanager
async def archiving(folder: Path, *, clock: Clock | None = None, **environ: str) -> AsyncIterator[Archiving]:
    """Run a relay with an archive in the folder's `bucket`, on a held clock unless another is given."""
    bucket, results = folder / "bucket", Results()
    settings: dict[str, Any] = {"RELAY_ARCHIVE_URL": bucket.as_uri()} | environ
    async with results.served(), relay(folder, clock=clock or HeldClock(), **settings) as running:
        yield Archiving(running, results, bucket)


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archiving]:
    """Yield a relay with an archive in a folder."""
    async with archiving(tmp_path) as started:
        yield started


async def test_a_result_is_copied_and_shown(archive: Archiving) -> None:
    """Copy a result after the job's end, byte for byte, and show and announce where it is."""
    job = await archive.succeeded()
    (output,) = job["outputs"]
    (file,) = archive.files
    assert file.read_bytes() == CLIP
    assert output["archive"] == {
        "state": "archived",
        "url": f"{archive.running.origin}/v1/jobs/{job['id']}/outputs/0",
        "key": file.relative_to(archive.folder).as_posix(),
        "sha256": DIGEST,
        "bytes": len(CLIP),
        "archived_at": job["updated_at"],
        "error": None,
    }
    assert output["archive"]["key"] == f"prj_default/{job['created_at'][:10]}/{job['id']}-0.mp4"
    assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archived"]


async def test_a_copy_pauses_so_that_others_have_their_turn(archive: Archiving) -> None:
    """Pause 4 ms after each 24,000 bytes of a copy, which is 6 MB a second, and after no fewer."""
    archive.results.answer = whole(CLIP.ljust(23_999, b"x"))
    assert (await archive.succeeded())["outputs"][0]["archive"]["state"] == "archived"
    for turns in (1, 2):
        archive.results.answer = whole(CLIP.ljust(turns * 24_000, b"x"))
        job = await archive.succeeded()
        for advanced_s, state in [(0.004, "pending")] * (turns - 1) + [(0.003, "pending"), (0.001, "archived")]:
            await archive.advance(advanced_s)
            assert (await archive.job(job))["outputs"][0]["archive"]["state"] == state


async def test_copies_share_one_pace(archive: Archiving) -> None:
    """Pause for one copy after the other, so that many together are no faster than one."""
    archive.results.answer = whole(CLIP.ljust(24_000, b"x"))
    jobs = [await archive.succeeded() for _ in range(3)]
    for advanced_s, archived in ((0.003, 0), (0.001, 1), (0.003, 1), (0.001, 2), (0.004, 3)):
        await archive.advance(advanced_s)
        states = [(await archive.job(job))["outputs"][0]["archive"]["state"] for job in jobs]
        assert states == ["archived"] * archived + ["pending"] * (3 - archived)


async def test_an_operator_sets_how_fast_copies_are(tmp_path: Path) -> None:
    """Pause 4 ms after each 400 bytes with RELAY_ARCHIVE_BYTES_PER_S=100000."""
    async with archiving(tmp_path, RELAY_ARCHIVE_BYTES_PER_S="100000") as archive:
        archive.results.answer = whole(CLIP[:799])
        job = await archive.succeeded()
        for advanced_s, state in ((0.003, "pending"), (0.001, "archived")):
            await archive.advance(advanced_s)
            assert (await archive.job(job))["outputs"][0]["archive"]["state"] == state


def test_the_largest_result_is_copied_in_time() -> None:
    """Allow a copy of RELAY_ARCHIVE_MAX_BYTES the time that it takes while all the others are as large."""
    default = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    slowest_s = default["archive_in_flight_max"] * default["archive_max_bytes"] / default["archive_bytes_per_s"]
    assert slowest_s < default["archive_timeout_s"]


async def test_the_event_waits_for_the_copy(tmp_path: Path) -> None:
    """Send `job.succeeded` with the copy in it, and `job.archived` after it, if the job says `before_notify`."""
    async with archiving(tmp_path) as archive:
        archive.results.answer = silent
        job = await archive.succeeded(archive="before_notify", notify=[{"url": archive.running.hook}])
        assert (job["status"], job["outputs"][0]["archive"]["state"]) == ("succeeded", "pending")
        assert await archive.events(job) == ["job.submitted"]
        archive.results.answer = whole()
        await archive.cut()
        await archive.advance(5)
        assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archived"]
        told = [msgspec.json.decode(notification.body) for notification in archive.running.sink.received]
        (end,) = [one for one in told if one["type"] == "job.succeeded"]
        assert end["data"]["job"]["outputs"][0]["archive"]["sha256"] == DIGEST
        assert end["data"]["final"]


@pytest.mark.parametrize(("seconds", "sent"), [(29, False), (30, True)])
async def test_the_event_waits_no_longer_than_that(tmp_path: Path, seconds: int, sent: bool) -> None:
    """Send the event after RELAY_ARCHIVE_WAIT_S, say in it that the copy is pending, and announce the copy later."""
    async with archiving(tmp_path, RELAY_ARCHIVE_WAIT_S="30", RELAY_ARCHIVE="before_notify") as archive:
        archive.results.answer = silent
        job = await archive.succeeded()
        await archive.advance(seconds)
        assert ("job.succeeded" in await archive.events(job)) is sent
        if sent:
            event = (await archive.running.get(f"/v1/events?job={job['id']}&type=job.succeeded"))["data"][0]
            assert event["data"]["job"]["outputs"][0]["archive"]["state"] == "pending"
            archive.results.answer = whole()
            await archive.cut()
            await archive.advance(5)
            assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archived"]


@pytest.mark.parametrize("mode", ["off", "after", "before_notify"])
async def test_a_project_has_a_mode_of_its_own(archive: Archiving, mode: str) -> None:
    """Copy as the project says where the job says nothing, and as the setting says once the project says nothing."""
    answer = await archive.client.patch("/v1/archive", json={"mode": mode})
    assert (answer.json()["mode"], answer.json()["own_mode"]) == (mode, mode)
    job = await archive.succeeded()
    assert job["archive"] == mode
    assert len(archive.files) == (mode != "off")
    await archive.client.patch("/v1/archive", json={"mode": None})
    assert (await archive.succeeded())["archive"] == "after"
    assert (await archive.succeeded(archive="off"))["outputs"][0]["archive"] is None


async def test_the_result_is_downloaded_from_relay(archive: Archiving) -> None:
    """Answer with the file, or the part of it that is asked for; nothing a browser would run."""
    job = await archive.succeeded()
    path = f"/v1/jobs/{job['id']}/outputs/0"
    answer = await archive.client.get(path)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, CLIP, "video/mp4")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    part = await archive.client.get(path, headers={"range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, CLIP[:10])
    for number in ("1", "-1", "x", "00000"):
        assert (await archive.client.get(f"/v1/jobs/{job['id']}/outputs/{number}")).status_code == 404
    archive.files[0].unlink()
    assert (await archive.client.get(path)).status_code == 404


async def test_parts_of_the_result_are_downloaded(archive: Archiving) -> None:
    """Send the parts that there are, the whole file for another unit, and a problem for no part that there is."""
    job = await archive.succeeded()
    path, size = f"/v1/jobs/{job['id']}/outputs/0", len(CLIP)
    whole = await archive.client.get(path)

    async def got(asked: str, **headers: str) -> httpx.Response:
        return await archive.client.get(path, headers={"range": asked} | headers)

    for asked, first in ((f"bytes={size - 1}-", size - 1), (f"bytes=-{size}", 0), (f"bytes=0-{size}", 0)):
        part = await got(asked)
        assert (part.status_code, part.content) == (206, CLIP[first:])
        assert part.headers["content-range"] == f"bytes {first}-{size - 1}/{size}"
    two = await got("bytes=0-1,5-6")
    assert two.headers["content-type"].startswith("multipart/byteranges")
    assert two.content.count(f"/{size}".encode()) == 2
    for asked in (f"bytes={size}-", "bytes=-0", "bytes=x", "bytes=2-1", "bytes="):
        refused = await got(asked)
        assert (refused.status_code, refused.headers["content-type"]) == (416, "application/problem+json")
        assert refused.headers["content-range"] == f"bytes */{size}"
        assert refused.json()["code"] == "range_not_satisfiable"
    assert (await got("items=0-1")).content == CLIP
    assert (await got("bytes=0-1", **{"if-range": whole.headers["etag"]})).status_code == 206
    assert (await got("bytes=0-1", **{"if-range": whole.headers["last-modified"]})).status_code == 206
    assert (await got(f"bytes={size}-", **{"if-range": '"another"'})).content == CLIP


async def test_another_project_gets_no_result(archive: Archiving) -> None:
    """Answer 404 to a key of another project, as for a job that is not there."""
    job = await archive.succeeded()
    project = (await archive.client.post("/v1/projects", json={"name": "films"})).json()
    made = await archive.client.post("/v1/keys", json={"project": project["id"], "name": "k", "scopes": ["read"]})
    headers = {"authorization": f"Bearer {made.json()['key']}"}
    answer = await archive.client.get(f"/v1/jobs/{job['id']}/outputs/0", headers=headers)
    assert answer.status_code == 404


async def test_a_result_without_a_copy_is_its_providers(archive: Archiving) -> None:
    """Redirect to the provider's URL until that expires, and say that it has."""
    job = await archive.succeeded(archive="off")
    path = f"/v1/jobs/{job['id']}/outputs/0"
    answer = await archive.client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (302, job["outputs"][0]["url"])
    await archive.advance(86_399)
    assert (await archive.client.get(path)).status_code == 302
    await archive.advance(2)
    assert (await archive.client.get(path)).status_code == 404


async def test_a_backfill_copies_what_has_no_copy(archive: Archiving) -> None:
    """Order the copies that are missing, and those that failed if that is asked for; none twice."""
    jobs = [await archive.succeeded(archive="off") for _ in range(2)]
    counted = (await archive.client.post("/v1/archive/backfills", json={"dry_run": True})).json()
    assert (counted["examined"], counted["ordered"], archive.files) == (2, 2, [])
    assert (await archive.client.post("/v1/archive/backfills", json={})).json()["ordered"] == 2
    await quiet()
    assert len(archive.files) == 2
    assert {(await archive.job(job))["outputs"][0]["archive"]["state"] for job in jobs} == {"archived"}
    again = (await archive.client.post("/v1/archive/backfills", json={"failed": True})).json()
    assert (again["examined"], again["ordered"], again["next_cursor"]) == (2, 0, None)
    shown = (await archive.running.get("/v1/archive"))["copies"]
    assert shown["archived"] == {"number": 2, "bytes": 2 * len(CLIP)}


async def test_without_an_archive_none_is_promised(tmp_path: Path) -> None:
    """Refuse a job that wants its results copied, and an order of copies, where there is no archive."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        body = {"provider": "evolink", "input": INPUT, "archive": "after"}
        answer = await running.client.post("/v1/jobs", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "archive")
        assert (await running.submit(archive="off"))["archive"] == "off"
        assert (await running.client.post("/v1/archive/backfills", json={})).status_code == 409
        assert (await running.client.patch("/v1/archive", json={"mode": "off"})).status_code == 409
        assert (await running.get("/v1/archive"))["configured"] is False
