"""The archive: a result is copied into the operator's bucket before it expires, and each outcome is shown and told."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.quiescence import quiet
from tests.support.results import CLIP, Results
from tests.support.running import HeldClock, Running, relay

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
async def archiving(folder: Path, **environ: str) -> AsyncIterator[Archiving]:
    """Run a relay with an archive in the folder's `bucket`."""
    bucket, results = folder / "bucket", Results()
    settings: dict[str, Any] = {"RELAY_ARCHIVE_URL": bucket.as_uri()} | environ
    async with results.served(), relay(folder, clock=HeldClock(), **settings) as running:
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
