"""Copies of results on the dashboard: what the overview, the jobs and a job's page show, the download, and the verb."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.flow.test_archive import DIGEST, Archiving, archiving
from tests.support.browsing import Browser, Page, browser
from tests.support.quiescence import quiet
from tests.support.results import CLIP, silent, whole
from tests.support.running import HeldClock, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
LARGE = whole(b"x" * 10_001)


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archiving]:
    """Yield a relay with an archive that takes no more than ten thousand bytes."""
    async with archiving(tmp_path, RELAY_ARCHIVE_MAX_BYTES="10000") as started:
        yield started


@pytest.fixture
async def reader(archive: Archiving) -> AsyncIterator[Browser]:
    """Yield a browser that is signed in with an admin key."""
    async with browser(archive.running) as signed_in:
        yield signed_in


def said(page: Page) -> str:
    """Return the note at the head of a page."""
    return page.html.partition('id="note"')[2].partition("</div>")[0]


async def other_browser_key(archive: Archiving, project: str, *scopes: str) -> str:
    """Return the text of a new key."""
    return (await archive.running.app.store.access.create_api_key(project, "", scopes, 1)).text


async def test_a_jobs_page_shows_where_its_results_are(archive: Archiving, reader: Browser) -> None:
    """Show each result's copy, its key, hash and size, and why one failed, after how many tries."""
    archive.results.answers = [whole(), LARGE]
    job = await archive.succeeded("kinovi")
    page = await reader.get(f"/jobs/{job['id']}")
    copied, failed = (output["archive"] for output in job["outputs"])
    assert f"copy archived {copied['archived_at'][11:19]}" in page.text
    assert (copied["key"] in page.text, DIGEST in page.text) == (True, True)
    assert f"{len(CLIP):,} bytes, video/mp4" in page.text
    assert failed["state"] == "failed"
    assert "after 1 try" in page.text
    assert "too_large : it is larger than 10000 bytes (RELAY_ARCHIVE_MAX_BYTES)" in page.text
    assert page.html.count(f'href="/jobs/{job["id"]}/outputs/') == 1


async def test_a_result_is_downloaded_from_a_signed_in_page(archive: Archiving, reader: Browser) -> None:
    """Answer with the copy to the session's own project alone, as nothing that a browser would run."""
    job = await archive.succeeded()
    path = f"/jobs/{job['id']}/outputs/0"
    page = await reader.get(f"/jobs/{job['id']}")
    assert f'<a href="{path}" download>' in page.html
    answer = await reader.client.get(path)
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, CLIP, "video/mp4")
    assert "sandbox" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    part = await reader.client.get(path, headers={"range": "bytes=1-2"})
    assert (part.status_code, part.content) == (206, CLIP[1:3])
    assert (await reader.client.get(path, headers={"range": f"bytes={len(CLIP)}-"})).status_code == 416
    assert (await reader.get(f"/jobs/{job['id']}/outputs/1")).status == 404
    async with browser(archive.running, await other_browser_key(archive, "films", "admin")) as stranger:
        assert (await stranger.get(path)).status == 404
        assert (await stranger.get(f"/jobs/{job['id']}")).status == 404
    async with browser(archive.running, None) as nobody:
        answer = await nobody.client.get(path)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/signin")


async def test_a_failed_copy_is_made_again_on_its_page(archive: Archiving, reader: Browser) -> None:
    """Copy again by one press, and offer that no longer once each result is in the archive."""
    archive.results.answers = [LARGE]
    job = await archive.succeeded()
    path, action = f"/jobs/{job['id']}", f"/jobs/{job['id']}/copies"
    done = await reader.send(await reader.get(path), action)
    assert "1 result is being copied." in said(done)
    await quiet()
    page = await reader.get(path)
    assert ("copy archived" in page.text, f'action="{action}"' in page.html) == (True, False)
    fields = page.fields("/signout") | {"back": path}
    refused = Page(await reader.client.post(action, data=fields))
    assert (refused.status, "no result to copy" in said(refused)) == (409, True)


async def test_a_copy_that_waits_says_when_it_is_tried_again(archive: Archiving, reader: Browser) -> None:
    """Show the next try and why the last one failed; while a try is under way, show that and no verb."""
    archive.results.answers = [whole(status="503 Service Unavailable"), silent]
    job = await archive.succeeded()
    path, action = f"/jobs/{job['id']}", f'action="/jobs/{job["id"]}/copies"'
    page = await reader.get(path)
    assert "copy pending · try 2 in 2.0 s" in page.text
    assert "unreachable : the result's URL answers HTTP 503" in page.text
    assert "Try 2 of the copy of result 0." in page.text
    assert action in page.html
    await archive.advance(2)
    page = await reader.get(path)
    assert "copy pending · try 2 is under way" in page.text
    assert ("Try 2 of the copy" in page.text, action in page.html) == (False, False)


async def test_a_key_that_may_only_read_downloads_and_copies_nothing(archive: Archiving) -> None:
    """Show a read-only key the copies and the download, and no verb; refuse the form of one."""
    archive.results.answers = [whole(), LARGE]
    job = await archive.succeeded("kinovi")
    async with browser(archive.running, await other_browser_key(archive, "default", "read")) as reader:
        page = await reader.get(f"/jobs/{job['id']}")
        assert f'action="/jobs/{job["id"]}/copies"' not in page.html
        assert (await reader.client.get(f"/jobs/{job['id']}/outputs/0")).content == CLIP
        form = page.fields("/signout") | {"back": f"/jobs/{job['id']}"}
        assert (await reader.client.post(f"/jobs/{job['id']}/copies", data=form)).status_code == 403
    assert (await archive.job(job))["outputs"][1]["archive"]["state"] == "failed"


async def test_the_jobs_of_failed_copies_are_listed_and_copied_again(archive: Archiving, reader: Browser) -> None:
    """List the jobs with a failed copy with its reason, and copy the ticked ones, or all that match, again."""
    archived = await archive.succeeded()
    archive.results.answers = [LARGE] * 3
    failed = [(await archive.succeeded())["id"] for _ in range(3)]
    page = await reader.get("/jobs?copies=failed")
    assert [id_ in page.html for id_ in [*failed, archived["id"]]] == [True, True, True, False]
    assert "copy failed: too_large" in page.text
    form: dict[str, Any] = page.fields("/jobs/actions") | {"action": "copy", "job": [failed[0], archived["id"]]}
    done = Page(await reader.client.post("/jobs/actions", data=form, follow_redirects=True))
    assert "Copy order of 2 jobs finished: 1 ordered, 1 refused." in said(done)
    await quiet()
    matched = await reader.get("/jobs?copies=failed&all=1")
    assert "All 2 that match" in matched.text
    form = matched.fields("/jobs/actions") | {"action": "copy"}
    done = Page(await reader.client.post("/jobs/actions", data=form, follow_redirects=True))
    assert "Copy order of 2 jobs finished: all ordered." in said(done)
    await quiet()
    assert (await archive.running.get("/v1/archive"))["copies"]["failed"]["number"] == 0


async def test_the_overview_counts_copies(archive: Archiving, reader: Browser) -> None:
    """Show what was archived and what failed, with reasons, bytes and durations, and lead to the failed ones."""
    await archive.succeeded()
    archive.results.answers = [LARGE]
    failed = await archive.succeeded()
    page = await reader.get("/")
    assert "Copies of results per hour, now 0 pending" in page.text
    assert f"archived 1 failed 1 Copied {len(CLIP):,} bytes Took p50 1 ms, p95 1 ms, p99 1 ms" in page.text
    assert "too_large 1 failed Failed now 1" in page.text
    assert "1 copy of results failed in the last 24 h." in page.text
    assert 'href="/jobs?copies=failed&amp;range=30d"' in page.html
    await archive.client.post(f"/v1/jobs/{failed['id']}/copies")
    await quiet()
    page = await reader.get("/")
    assert ("failed in the last" in page.text, "Failed now" in page.text) == (False, False)


@pytest.mark.parametrize(("late_s", "shown"), [(599.999, False), (600, True)])
async def test_copies_that_are_late_need_attention(
    archive: Archiving, reader: Browser, late_s: float, shown: bool
) -> None:
    """Name the copies that have been pending for ten minutes, and lead to their jobs."""
    archive.folder.write_bytes(b"a file where the folder should be")
    await archive.succeeded()
    await archive.advance(late_s)
    page = await reader.get("/")
    assert ("1 result is not copied yet." in page.text) is shown
    assert ('href="/jobs?copies=pending&amp;range=30d"' in page.html) is shown


async def test_a_relay_without_an_archive_shows_none(tmp_path: Path) -> None:
    """Draw no panel, no filter and no verb of the archive where there is none."""
    async with relay(tmp_path, clock=HeldClock()) as running, browser(running) as reader:
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        assert "Copies of results" not in (await reader.get("/")).text
        page = await reader.get("/jobs")
        assert ('name="copies"' in page.html, 'value="copy"' in page.html) == (False, False)
        page = await reader.get(f"/jobs/{job['id']}")
        assert ("Download" in page.text, f'action="/jobs/{job["id"]}/copies"' in page.html) == (False, False)
