"""What goes wrong with a copy: each fault has its outcome and its event, nothing is lost, and nothing half is shown."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.archive.archiver import TRIES_OF
from relay.model.archive import CopyErrorCode
from relay.providers.openrouter import OpenRouter
from relay.sandbox.faults import Faults
from relay.sandbox.world import RESULTS_PATH
from tests.flow.test_archive import Archiving, archiving
from tests.support.calling_back import post
from tests.support.quiescence import quiet, watched_loop
from tests.support.results import CLIP, Answer, Drip, chunked, head, sent, whole

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

HOUR_S = 3600
PAGE = b"<!DOCTYPE html><title>Gone</title>"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archiving]:
    """Yield a relay with an archive that takes no more than ten thousand bytes."""
    async with archiving(tmp_path, RELAY_ARCHIVE_MAX_BYTES="10000") as started:
        yield started


async def outcome(archive: Archiving, job: dict[str, Any]) -> tuple[str, str | None]:
    """Return the state of the one copy of a job, and why it failed."""
    shown = (await archive.job(job))["outputs"][0]["archive"]
    return shown["state"], shown["error"]


@pytest.mark.parametrize(
    "fault",
    [
        sent(head("200 OK", f"content-length: {len(CLIP)}") + CLIP[:-1]),
        sent(head("200 OK", f"content-length: {len(CLIP) + 1}") + CLIP),
        sent(head("200 OK", "transfer-encoding: chunked") + b"400\r\n" + CLIP[:1024] + b"\r\n"),
        sent(b""),
        sent(b"HTTP/1.1 nonsense\r\n\r\n"),
        whole(b""),
        whole(status="503 Service Unavailable"),
        whole(status="429 Too Many Requests"),
        whole(CLIP, "200 OK", "content-encoding: gzip"),
        whole(b"", "302 Found", "location: http://["),
        whole(b"", "302 Found", "location: http://a]/"),
        sent(head("200 OK", f"content-length: {'9' * 400}") + CLIP),
        sent(head("200 OK", "content-length: -1") + CLIP),
        sent(head("200 OK", "content-length: 5", "content-length: 6") + CLIP),
        sent(head("200 OK", "transfer-encoding: chunked") + b"F" * 30 + b"\r\n" + CLIP),
        sent(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 50_000 + b"\r\n"),
    ],
    ids=[
        "cut",
        "shorter",
        "cut chunks",
        "no answer",
        "no HTTP",
        "empty",
        "503",
        "429",
        "compressed",
        "redirect to no URL",
        "redirect to no host",
        "a length of 400 digits",
        "negative",
        "two lengths",
        "a huge chunk",
        "50,000 headers",
    ],
)
async def test_a_broken_answer_is_tried_again(archive: Archiving, fault: Answer) -> None:
    """Try again after an answer that is none or breaks off; nothing of it is in the bucket or announced."""
    archive.results.answers.append(fault)
    job = await archive.succeeded()
    assert (await outcome(archive, job), archive.files) == (("pending", None), [])
    assert await archive.events(job) == ["job.submitted", "job.succeeded"]
    await archive.advance(5)
    assert await outcome(archive, job) == ("archived", None)
    assert [file.read_bytes() for file in archive.files] == [CLIP]
    assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archived"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (whole(CLIP * 4), CopyErrorCode.TOO_LARGE),
        (chunked(CLIP * 4), CopyErrorCode.TOO_LARGE),
        (sent(head("200 OK", f"content-length: {'9' * 18}") + CLIP), CopyErrorCode.TOO_LARGE),
        (whole(b"", "302 Found", "location: http://169.254.169.254/latest/meta-data"), CopyErrorCode.ADDRESS_REFUSED),
        (whole(b"", "302 Found", "location: file:///etc/passwd"), CopyErrorCode.ADDRESS_REFUSED),
        (whole(b"", "302 Found", "location: http://10.0.0.1/"), CopyErrorCode.ADDRESS_REFUSED),
    ],
    ids=["over the cap", "over the cap, unannounced", "a lie", "metadata", "file", "private"],
)
async def test_what_no_second_try_changes_fails_at_first(
    archive: Archiving, fault: Answer, error: CopyErrorCode
) -> None:
    """End a copy that is too large or leads to a private address with its first try, and say so by an event."""
    archive.results.answer = fault
    job = await archive.succeeded()
    assert (await outcome(archive, job), archive.files) == (("failed", error), [])
    assert len(archive.results.requests) == 1
    assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archive_failed"]


@pytest.mark.parametrize("size", [10_000, 10_001])
async def test_the_cap_is_exact(archive: Archiving, size: int) -> None:
    """Copy a result of just as many bytes as may be, and none of one more."""
    archive.results.answer = whole((CLIP * 4)[:size])
    job = await archive.succeeded()
    assert await outcome(archive, job) == (("archived", None) if size == 10_000 else ("failed", "too_large"))


async def test_a_wrong_type_is_tried_again_and_fails(archive: Archiving) -> None:
    """Try an error page in the place of a video thrice, and keep nothing of it."""
    archive.results.answer = whole(PAGE, "200 OK", "content-type: video/mp4")
    job = await archive.succeeded()
    for _ in range(TRIES_OF[CopyErrorCode.WRONG_TYPE]):
        assert await outcome(archive, job) == (
            ("pending", None) if len(archive.results.requests) < 3 else ("failed", "wrong_type")
        )
        await archive.advance(60)
    assert (await outcome(archive, job), archive.files) == (("failed", "wrong_type"), [])
    assert len(archive.results.requests) == TRIES_OF[CopyErrorCode.WRONG_TYPE]
    assert (await archive.events(job))[-1] == "job.archive_failed"


async def test_a_redirect_is_followed(archive: Archiving) -> None:
    """Follow a redirect to an address that is allowed."""
    archive.results.answers.append(whole(b"", "302 Found", "location: /elsewhere?x=%2F"))
    job = await archive.succeeded()
    assert await outcome(archive, job) == ("archived", None)
    assert archive.results.paths[-1] == "/elsewhere?x=%2F"


async def test_redirects_in_a_circle_end(archive: Archiving) -> None:
    """Stop after five redirects, and try again later."""
    archive.results.answer = whole(b"", "302 Found", "location: /again")
    job = await archive.succeeded()
    assert (await outcome(archive, job), len(archive.results.requests)) == (("pending", None), 6)


class Odd(OpenRouter):
    """An adapter with a fault: it makes no header of a key while `breaks`."""

    breaks = False

    def authorization(self, api_key: str, now_s: int) -> str:
        """Return the header, or raise."""
        if self.breaks:
            raise LookupError("no header")
        return super().authorization(api_key, now_s)


async def test_a_fault_of_relays_own_is_a_failed_try(tmp_path: Path) -> None:
    """Try again after an exception that nothing in relay expects, and end the copy when its time is over."""
    more: dict[str, Any] = {"adapters": {"openrouter": (odd := Odd())}, "RELAY_ARCHIVE_RETRY_S": "60"}
    async with archiving(tmp_path, **more) as archive:
        archive.results.answer = whole(b"", "503 Service Unavailable")
        archive.results.origin += RESULTS_PATH
        archive.running.world.next_faults.append(Faults(version="unsigned"))
        job = await archive.succeeded("openrouter")
        odd.breaks = True
        await archive.advance(5)
        (copy,) = (await archive.running.get(f"/v1/jobs/{job['id']}/copies"))["data"]
        assert (copy["state"], copy["tries"], copy["error"]) == ("pending", 2, "unreachable")
        assert "its log says why" in copy["error_detail"]
        await archive.advance(60)
        await archive.advance(60)
        assert (await outcome(archive, job))[0] == "failed"


async def test_a_slow_drip_is_cut_at_the_deadline(archive: Archiving) -> None:
    """End a try after RELAY_ARCHIVE_TIMEOUT_S, although bytes come all the time, and try again under another key."""
    drip = Drip()
    archive.results.answers.append(drip)
    job = await archive.succeeded()
    with watched_loop().time_held() as pass_time:
        for _ in range(44):
            pass_time(20)
            drip.next.set()
            await quiet()
        assert drip.open
        pass_time(21)
        await quiet()
    await archive.advance(5)
    assert (await outcome(archive, job), len(archive.results.requests)) == (("archived", None), 2)
    assert (await archive.job(job))["outputs"][0]["archive"]["key"].endswith("-0_2.mp4")


async def test_an_expired_url_is_signed_anew(archive: Archiving) -> None:
    """Ask the provider about the job where its result is gone, and copy from the URL that it signs then."""
    archive.results.answers.append(whole(PAGE, "403 Forbidden"))
    job = await archive.succeeded()
    checks = len(archive.running.world.status_checks)
    await archive.advance(5)
    assert await outcome(archive, job) == ("archived", None)
    assert len(archive.running.world.status_checks) == checks + 1


async def test_a_result_that_is_gone_for_good_fails(archive: Archiving) -> None:
    """End a copy whose result stays gone after the provider was asked each time, and announce it."""
    archive.results.answer = whole(PAGE, "404 Not Found")
    job = await archive.succeeded()
    for _ in range(TRIES_OF[CopyErrorCode.GONE]):
        await archive.advance(60)
    assert await outcome(archive, job) == ("failed", "gone")
    assert len(archive.results.requests) == TRIES_OF[CopyErrorCode.GONE]
    assert (await archive.events(job))[-1] == "job.archive_failed"


async def test_a_bucket_that_is_down_for_an_hour_costs_nothing(archive: Archiving) -> None:
    """Keep every copy while the bucket does not answer, at most one try a minute, and make all when it is back."""
    archive.folder.write_bytes(b"no folder")
    jobs = [await archive.succeeded() for _ in range(3)]
    tries = len(archive.results.requests)
    for _ in range(60):
        await archive.advance(60)
    assert len(archive.results.requests) - tries <= 62
    assert [await outcome(archive, job) for job in jobs] == [("pending", None)] * 3
    assert "\nrelay_archive_failing 1.0\n" in (await archive.client.get("/metrics")).text
    archive.folder.unlink()
    for _ in range(6):
        await archive.advance(30)
    assert [await outcome(archive, job) for job in jobs] == [("archived", None)] * 3
    shown = (await archive.client.get("/metrics")).text
    assert "\nrelay_archive_failing 0.0\n" in shown
    assert f'\nrelay_archive_bytes_total{{provider="evolink"}} {3 * len(CLIP):.1f}\n' in shown
    assert '\nrelay_archive_tries_total{outcome="archived",provider="evolink"} 3.0\n' in shown
    for job in jobs:
        assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archived"]


@pytest.mark.parametrize(("seconds", "sent"), [(32, False), (33, True)])
async def test_an_event_waits_no_longer_while_the_bucket_is_down(tmp_path: Path, seconds: int, sent: bool) -> None:
    """Send the event after RELAY_ARCHIVE_WAIT_S, though no copy may be tried at that time."""
    async with archiving(tmp_path, RELAY_ARCHIVE_WAIT_S="33") as archive:
        archive.folder.write_bytes(b"no folder")
        job = await archive.succeeded(archive="before_notify")
        await archive.advance(seconds)
        assert await archive.events(job) == ["job.submitted", "job.succeeded"][: 1 + sent]
        assert await outcome(archive, job) == ("pending", None)


async def test_a_result_that_is_withdrawn_leaves_nothing(tmp_path: Path) -> None:
    """Delete the copy of a result whose job turned out to have failed while it was made, and announce none."""
    held = asyncio.Event()

    async def later(writer: asyncio.StreamWriter) -> None:
        await held.wait()
        await whole()(writer)

    async with archiving(tmp_path) as archive:
        archive.results.answer = later
        job = await archive.succeeded()
        archive.running.world.jobs[job["provider_job_id"]].state = "failed"
        await post(archive.running, b'{"status":"failed","error":{"code":"x","message":"no"}}')
        await quiet()
        held.set()
        await quiet()
        assert (await archive.job(job))["outputs"] == []
        assert archive.files == []
        assert "job.archived" not in await archive.events(job)
        counted = (await archive.running.get("/v1/archive"))["copies"]
        assert (counted["archived"]["number"], counted["failed"]["number"]) == (0, 1)


async def test_a_copy_is_deleted_past_its_retention(tmp_path: Path) -> None:
    """Delete the object and show that it was, when RELAY_ARCHIVE_RETENTION_DAYS have passed, and not before."""
    async with archiving(tmp_path, RELAY_ARCHIVE_RETENTION_DAYS="1") as archive:
        job = await archive.succeeded()
        await archive.advance(24 * HOUR_S - 1)
        assert (await outcome(archive, job), len(archive.files)) == (("archived", None), 1)
        await archive.advance(HOUR_S)
        assert (await outcome(archive, job), archive.files) == (("deleted", None), [])
        assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archived"]


async def test_a_copy_is_deleted_although_its_job_is_gone(tmp_path: Path) -> None:
    """Keep what is known of a copy whose job was pruned, until its retention has deleted the object."""
    async with archiving(tmp_path, RELAY_ARCHIVE_RETENTION_DAYS="10", RELAY_RETENTION_DAYS="5") as archive:
        job = await archive.succeeded()
        await archive.advance(6 * 24 * HOUR_S)
        assert (await archive.client.get(f"/v1/jobs/{job['id']}")).status_code == 404
        assert len(archive.files) == 1
        await archive.advance(5 * 24 * HOUR_S)
        assert archive.files == []
        assert (await archive.running.get("/v1/archive"))["copies"]["archived"]["number"] == 0
