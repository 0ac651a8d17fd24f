"""When copies are tried, given up and deleted, and how many are under way: each limit from both of its sides."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.clock import parse_rfc3339
from relay.storage.engine.database import Transaction
from tests.flow.test_archive import Archiving, archiving
from tests.support.quiescence import quiet
from tests.support.results import CLIP, head, sent, silent, whole
from tests.support.running import HeldClock

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

TENTH = 0.1
"""relay looks no more often than each tenth of a second."""
DAY_S = 86_400
AWAY = whole(b"", "503 Service Unavailable")
GONE = whole(b"", "404 Not Found")
PAGE = whole(b"<!DOCTYPE html>")


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archiving]:
    """Yield a relay with an archive in a folder."""
    async with archiving(tmp_path) as started:
        yield started


async def next_try(archive: Archiving, pause_s: float, tries: int = 1) -> None:
    """Let this pause pass, at whose end a try begins, and none before."""
    made = len(archive.results.requests)
    await archive.advance(pause_s - TENTH)
    assert len(archive.results.requests) == made, pause_s
    await archive.advance(TENTH)
    assert len(archive.results.requests) == made + tries, pause_s


async def next_failure(archive: Archiving, pause_s: float) -> None:
    """Let this pause pass, at whose end the bucket fails once more, and not before."""

    async def failures() -> float:
        shown = (await archive.client.get("/metrics")).text
        found = re.search(r'relay_archive_tries_total{outcome="store_unavailable",provider="evolink"} (\S+)', shown)
        assert found is not None
        return float(found[1])

    before = await failures()
    await archive.advance(pause_s - TENTH)
    assert await failures() == before, pause_s
    await archive.advance(TENTH)
    assert await failures() == before + 1, pause_s


async def copy_of(archive: Archiving, job: dict[str, Any]) -> dict[str, Any]:
    """Return the one copy of a job, with its tries."""
    (copy,) = (await archive.running.get(f"/v1/jobs/{job['id']}/copies"))["data"]
    return dict(copy)


async def ordered(archive: Archiving, left_s: float) -> dict[str, Any]:
    """Return a job whose result is ordered to be copied so many seconds before it expires."""
    job = await archive.succeeded(archive="off")
    left_ms = parse_rfc3339(job["outputs"][0]["expires_at"]) - archive.running.clock.now_ms()
    await archive.advance(left_ms / 1000 - left_s)
    assert (await archive.client.post(f"/v1/jobs/{job['id']}/copies")).status_code == 202
    await quiet()
    return job


async def test_the_pauses_between_tries(archive: Archiving) -> None:
    """Try again after 2, 5, 15, 60, 180, 600, 1800 and then every 3600 seconds, and count the tries."""
    archive.results.answer = AWAY
    job = await archive.succeeded()
    for tries, pause_s in enumerate((2, 5, 15, 60, 180, 600, 1800, 3600, 3600, 3600), 1):
        assert (await copy_of(archive, job))["tries"] == tries
        await next_try(archive, pause_s)


async def test_a_result_that_expires_soon_is_tried_soon(archive: Archiving) -> None:
    """Try again after a quarter of the time that a result has left, if that is sooner."""
    archive.results.answer = AWAY
    await ordered(archive, 100)
    for pause_s in (2, 5, 15, 19.5, 14.625):
        await next_try(archive, pause_s)


async def test_tries_before_the_end_are_two_seconds_apart(archive: Archiving) -> None:
    """Try no sooner than after two seconds, however soon a result expires, and after the usual pause once it has."""
    archive.results.answer = AWAY
    await ordered(archive, 4)
    for pause_s in (2, 2, 15):  # the third try is made when it expires
        await next_try(archive, pause_s)


@pytest.mark.parametrize(("left_s", "checks"), [(0.001, 0), (0, 1)])
async def test_a_result_is_asked_for_once_it_has_expired(archive: Archiving, left_s: float, checks: int) -> None:
    """Ask the provider for a fresh URL from the moment on in which a result expires."""
    before = len(archive.running.world.status_checks)
    job = await ordered(archive, left_s)
    assert len(archive.running.world.status_checks) - before - 1 == checks
    assert (await copy_of(archive, job))["state"] == "archived"


@pytest.mark.parametrize(("retry_s", "state"), [(4, "failed"), (5, "pending")])
async def test_no_try_begins_after_the_time_for_all(tmp_path: Path, retry_s: int, state: str) -> None:
    """End a copy with a try after which less than a pause is left of RELAY_ARCHIVE_RETRY_S."""
    async with archiving(tmp_path, RELAY_ARCHIVE_RETRY_S=str(retry_s)) as archive:
        archive.results.answer = AWAY
        job = await archive.succeeded()
        await next_try(archive, 2)
        assert (await copy_of(archive, job))["state"] == state


@pytest.mark.parametrize(("answer", "tries"), [(GONE, 4), (PAGE, 3)])
async def test_what_is_gone_is_tried_so_often(archive: Archiving, answer: Any, tries: int) -> None:
    """End a copy after 4 tries in a row that found its result gone, or 3 that found a page, not counting others."""
    archive.results.answers = [answer] * (tries - 1) + [AWAY]
    archive.results.answer = answer
    job = await archive.succeeded()
    for _ in range(12):
        await archive.advance(1_800)
    assert ((await copy_of(archive, job))["state"], len(archive.results.requests)) == ("failed", 2 * tries)
    assert (await copy_of(archive, job))["tries"] == 2 * tries


async def test_the_pauses_of_a_bucket(archive: Archiving) -> None:
    """Try a bucket that fails again after 2, 5, 15, 30 and then every 60 seconds, with one copy each time."""
    archive.folder.write_bytes(b"no folder")
    jobs = [await archive.succeeded()]
    for pause_s in (2, 5, 15, 30, 60, 60):
        await next_failure(archive, pause_s)
    jobs.append(await archive.succeeded())
    await next_failure(archive, 60)
    archive.folder.unlink()
    await archive.advance(60)
    assert {(await copy_of(archive, job))["state"] for job in jobs} == {"archived"}
    archive.folder.rename(archive.folder.with_name("away"))
    archive.folder.write_bytes(b"no folder")
    await archive.succeeded()
    await next_failure(archive, 2)  # the pauses begin anew


async def test_failures_that_come_together_are_one(tmp_path: Path) -> None:
    """Wait no longer where several copies were under way when the bucket failed."""
    async with archiving(tmp_path, RELAY_ARCHIVE_IN_FLIGHT_MAX="4") as archive:
        archive.results.answer = silent
        for _ in range(3):
            await archive.succeeded()
        archive.folder.rename(archive.folder.with_name("away"))
        archive.folder.write_bytes(b"no folder")
        archive.results.answer = whole()
        await archive.cut()
        await archive.advance(2)
        await next_failure(archive, 2)
        await next_failure(archive, 5)


@pytest.mark.parametrize(("retry_s", "state"), [(7, "failed"), (8, "pending")])
async def test_a_bucket_fails_no_longer_than_the_time_for_all(tmp_path: Path, retry_s: int, state: str) -> None:
    """End a copy that the bucket does not take once RELAY_ARCHIVE_RETRY_S are over, and not before."""
    async with archiving(tmp_path, RELAY_ARCHIVE_RETRY_S=str(retry_s)) as archive:
        archive.folder.write_bytes(b"no folder")
        job = await archive.succeeded()
        for pause_s in (2, 5):
            assert (await copy_of(archive, job))["state"] == "pending"
            await next_failure(archive, pause_s)
        assert (await copy_of(archive, job))["state"] == state


async def test_a_lease_is_half_a_minute_longer_than_a_try(tmp_path: Path) -> None:
    """Make a copy due again 30 seconds after the time limit of a try that does not end."""
    async with archiving(tmp_path, RELAY_ARCHIVE_TIMEOUT_S="300") as archive:
        archive.results.answer = silent
        await archive.succeeded()
        await next_try(archive, 330)


async def test_what_another_process_has_ordered_is_found(archive: Archiving) -> None:
    """Read the table every five seconds, though nothing in this process says that there is something to do."""
    archive.results.answer = AWAY
    job = await archive.succeeded()
    for pause_s in (2, 5, 15):
        await next_try(archive, pause_s)

    async def hasten(transaction: Transaction) -> None:
        await transaction.rows("hasten_copies", {"job_id": job["id"], "now": archive.running.clock.now_ms()})

    await archive.running.app.store.database.transact(hasten)
    await next_try(archive, 5)


async def test_what_another_process_was_asked_for_is_tried_now(
    archive: Archiving, request: pytest.FixtureRequest
) -> None:
    """Try a copy immediately that another process was asked to make again, as PostgreSQL tells of it."""
    if request.config.getoption("database") == "sqlite":
        pytest.skip("on SQLite one process does everything")
    archive.results.answer = AWAY
    job = await archive.succeeded()
    assert await archive.running.app.store.copies.hasten(job["id"], archive.running.clock.now_ms()) == 1
    async with asyncio.timeout(60):
        while len(archive.results.requests) < 2:  # noqa: ASYNC110 - PostgreSQL is another process
            await asyncio.sleep(0.01)


async def test_what_may_not_start_yet_is_not_looked_for_all_the_time(tmp_path: Path) -> None:
    """Wait until a slot is free, or for five seconds, while all that is due is of a project that has all its slots."""
    async with archiving(tmp_path, RELAY_ARCHIVE_IN_FLIGHT_MAX="4") as archive:
        assert isinstance(archive.running.clock, HeldClock)
        await archive.advance(60)  # past what a start does
        archive.results.answer = silent
        for _ in range(4):
            await archive.succeeded()
        assert len(archive.results.requests) == 3
        assert archive.running.clock.waits_ms() > 100  # a look is 100 ms after the last one at the soonest


@pytest.mark.parametrize(("slots", "of_one"), [(1, 1), (2, 1), (4, 3), (8, 7), (15, 14), (16, 14)])
async def test_a_project_leaves_slots_to_others(tmp_path: Path, slots: int, of_one: int) -> None:
    """Leave one slot in eight, and one at least, to other projects, and fill all others."""
    never = {"RELAY_EVOLINK_CONFIRM": "never"}  # else no more than ten are confirmed concurrently
    more: dict[str, Any] = {"RELAY_ARCHIVE_IN_FLIGHT_MAX": str(slots)} | never
    async with archiving(tmp_path, **more) as archive:
        archive.results.answer = silent
        for _ in range(slots):
            await archive.succeeded()
        assert len(archive.results.requests) == of_one


@pytest.mark.parametrize(("slots", "of_one"), [(1, 1), (2, 1), (3, 1), (6, 3)])
async def test_a_host_that_fails_has_half_of_the_slots(tmp_path: Path, slots: int, of_one: int) -> None:
    """Use half of the slots, and one at least, for a host whose last copy failed, and all again once one works."""
    async with archiving(tmp_path, RELAY_ARCHIVE_IN_FLIGHT_MAX=str(slots)) as archive:
        archive.results.answers, archive.results.answer = [AWAY], silent
        for _ in range(slots + 1):
            await archive.succeeded()
        assert len(archive.results.requests) == 1 + of_one


async def test_so_many_hosts_are_remembered(archive: Archiving) -> None:
    """Remember no more than a thousand hosts whose last copy failed."""
    assert archive.running.app.archive is not None
    archiver = archive.running.app.archive.archiver
    for number in range(1_001):
        archiver._note_host(str(number), failed=True)
    assert len(archiver._failing_hosts) == 1_000
    archiver._note_host("0", failed=False)
    archiver._note_host("other", failed=True)
    assert "other" in archiver._failing_hosts


async def left(archive: Archiving, *keys: str) -> list[Path]:
    """Queue files to be deleted, in this order, and return them."""
    now_ms = archive.running.clock.now_ms()
    files = [archive.folder / key for key in keys]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(CLIP)

    async def write(transaction: Transaction) -> None:
        many = [
            {"job_id": "job_0", "number": 0, "bucket": "", "key": key, "due_at": now_ms - 1000 + place}
            for place, key in enumerate(keys)
        ]
        await transaction.run_many("leave_object", many)

    await archive.running.app.store.database.transact(write)
    return files


async def test_what_is_left_is_looked_for_each_minute(archive: Archiving) -> None:
    """Delete objects that were given up a minute after the last look, all that are due."""
    await quiet()
    files = await left(archive, "a.mp4", "b.mp4")
    await archive.advance(60 - TENTH)
    assert archive.files == files
    await archive.advance(TENTH)
    assert archive.files == []


async def test_a_bucket_that_does_not_delete_is_asked_again(archive: Archiving) -> None:
    """Go on with other objects ten seconds after one was not deleted, and with that one after a minute."""
    await quiet()
    bad, good = await left(archive, "a.mp4", "b.mp4")
    bad.unlink()
    (bad / "full").mkdir(parents=True)
    await archive.advance(60)
    failed_at_ms = archive.running.clock.now_ms()
    assert archive.files == [good]
    await archive.advance(10 - TENTH)
    assert archive.files == [good]
    await archive.advance(TENTH)
    assert archive.files == []
    copies = archive.running.app.store.copies
    assert await copies.claim_left("", failed_at_ms + 60_000 - 1, failed_at_ms) is None
    again = await copies.claim_left("", failed_at_ms + 60_000, failed_at_ms + 1)
    assert (again is not None and again.key) == "a.mp4"


async def test_a_bucket_that_refuses_to_delete_delays_no_other(archive: Archiving) -> None:
    """Delete what is in one bucket at the usual time, however many objects another one refuses to delete."""
    await quiet()

    async def write(transaction: Transaction) -> None:
        refused = [{"bucket": "nowhere://former", "key": f"{n}.mp4"} for n in range(50)]
        new = [one | {"due_at": 0, "job_id": "job_0", "number": 0} for one in refused]
        await transaction.run_many("leave_object", new)

    await archive.running.app.store.database.transact(write)
    await left(archive, "a.mp4", "b.mp4")
    await archive.advance(60)
    assert archive.files == []


async def test_what_a_failed_write_may_have_left_is_deleted_after_a_minute(tmp_path: Path) -> None:
    """Delete what is under the key of a copy that failed while it was written, a minute after it failed."""
    async with archiving(tmp_path, RELAY_ARCHIVE_RETRY_S="1") as archive:
        archive.results.answer = sent(head("200 OK", f"content-length: {len(CLIP)}") + CLIP[:-1])
        job = await archive.succeeded()
        assert ((await copy_of(archive, job))["state"], archive.files) == ("failed", [])
        key = archive.folder / f"prj_default/{job['created_at'][:10]}/{job['id']}-0.mp4"
        key.write_bytes(CLIP)
        await archive.advance(60 - TENTH)
        assert archive.files == [key]
        await archive.advance(TENTH)
        assert archive.files == []


async def test_when_copies_pass_their_retention(tmp_path: Path) -> None:
    """Look for copies past their retention every ten minutes, and a second after some were found."""
    days: dict[str, Any] = {"RELAY_ARCHIVE_RETENTION_DAYS": "1", "RELAY_RETENTION_DAYS": "30"}
    async with archiving(tmp_path, **days) as archive:
        first = await archive.succeeded()
        await archive.advance(600.5)
        second = await archive.succeeded()
        await archive.advance(DAY_S - 600.5)

        async def states() -> list[str]:
            return [(await copy_of(archive, job))["state"] for job in (first, second)]

        for advanced_s, shown in (
            (0, ["archived", "archived"]),
            (600 - TENTH, ["archived", "archived"]),
            (TENTH, ["deleted", "archived"]),
            (1 - TENTH, ["deleted", "archived"]),
            (TENTH, ["deleted", "deleted"]),
        ):
            await archive.advance(advanced_s)
            assert await states() == shown
        assert archive.files == []
