"""A machine is lost: relay is restored from its backup, and adopts the jobs that the backup lacks."""

import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from relay.clock import SystemClock
from relay.sandbox.providers import sandbox
from tests.support.postgres import programs
from tests.support.running import DATABASES, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


def backed_up(folder: Path) -> Path:
    """Return a backup of the folder's database, made as docs/runbooks.md says while relay runs."""
    url, backup = DATABASES.url(folder), folder / "backup"
    if DATABASES.postgres is None:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
            database.execute("VACUUM INTO ?", [str(backup)])
        database.close()
        return backup
    subprocess.run([f"{programs()}/pg_dump", "--format=custom", f"--file={backup}", url], check=True, timeout=60)
    return backup


def restored(backup: Path, folder: Path) -> None:
    """Put the backup into the database of another folder, which has none yet."""
    folder.mkdir()
    url = DATABASES.url(folder)
    if DATABASES.postgres is None:
        shutil.copy(backup, url.removeprefix("sqlite:///"))
        return
    command = [f"{programs()}/pg_restore", "--clean", "--if-exists", "--no-owner", f"--dbname={url}", str(backup)]
    subprocess.run(command, check=True, timeout=60)


async def subscribed(running: Running) -> None:
    """Have a standing endpoint for every event."""
    made = await running.client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["job.*"]})
    assert made.status_code == 201


async def test_a_job_that_the_backup_lacks_is_adopted_from_its_callback(tmp_path: Path) -> None:
    """Restore on a new machine; a job of before goes on, and one of after is made anew from its orphaned callback.

    Its provider confirms its result there, and the standing endpoints get its events.
    """
    old, new, world = tmp_path / "old", tmp_path / "new", sandbox(pace_s=None, time_scale=0)
    old.mkdir()
    async with relay(old, clock=SystemClock(), world=world) as lost:
        port = int(lost.origin.rpartition(":")[2])
        await subscribed(lost)
        before = await lost.submit()
        backup = backed_up(old)
        after = await lost.submit(metadata={"order": "43"})
    restored(backup, new)
    async with relay(new, clock=SystemClock(), world=world, port=port) as running:
        hook = {"url": running.hook, "event_types": ["job.*"]}  # the sink is another one by now
        assert (await running.client.post("/v1/endpoints", json=hook)).status_code == 201
        for job in (before, after):
            await world.finish(job["provider_job_id"])
        await running.until(f"/v1/jobs/{before['id']}", lambda shown: shown["status"] == "succeeded")
        assert (await running.client.get(f"/v1/jobs/{after['id']}")).status_code == 404
        (orphan,) = (await running.get("/v1/callbacks?verdict=orphaned"))["data"]
        assert orphan["job"] == after["id"]
        released = await running.client.post(f"/v1/callbacks/{orphan['id']}/releases")
        assert (released.status_code, released.json()["reprocessings"][0]["verdict"]) == (200, "recorded")
        done = await running.until(f"/v1/jobs/{after['id']}", lambda shown: shown["status"] == "succeeded")
        assert (done["provider_job_id"], done["verification"]) == (after["provider_job_id"], "fetch")
        assert done["outputs"]
        await running.sink.wait_for(lambda sink: sink.events().count("job.succeeded") == 2)
    await world.close()
