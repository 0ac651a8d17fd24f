"""The dashboard's list of jobs: filters, verbs on several jobs, its stream, and the search."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from relay.web.dashboard.jobs import PAGE
from relay.web.dashboard.live import PAUSE_MS
from tests.api.test_dashboard_live import watching
from tests.support.browsing import Browser, Page, browser
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
def clock() -> HeldClock:
    """Return a clock that the test advances."""
    return HeldClock()


@pytest.fixture
async def running(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path, clock=clock) as started:
        yield started


@pytest.fixture
async def reader(running: Running) -> AsyncIterator[Browser]:
    """Yield a browser that is signed in with an admin key."""
    async with browser(running) as signed_in:
        yield signed_in


def rows(page: Page) -> list[str]:
    """Return the ids of the jobs that a page lists."""
    return re.findall(r'<tr id="(job_\w+)"', page.html)


def said(page: Page) -> str:
    """Return the note at the head of a page."""
    return page.html.partition('id="note"')[2].partition("</div>")[0]


async def send(reader: Browser, page: Page, jobs: list[str], **fields: str) -> Page:
    """Return what comes after a verb on the ticked jobs."""
    form: dict[str, Any] = page.fields("/jobs/actions") | fields | {"job": jobs}
    return Page(await reader.client.post("/jobs/actions", data=form, follow_redirects=True))


async def test_the_list_is_narrowed_by_its_filters(running: Running, clock: HeldClock, reader: Browser) -> None:
    """List what the status, the provider, the metadata, the time and the delivery ask for."""
    old = (await running.submit(metadata={"user": "1"}))["id"]
    await clock.advance(7199)
    ended = (await running.submit(metadata={"user": "2", "scene": "3"}, notify=[{"url": running.hook}]))["id"]
    kinovi = (await running.submit("kinovi"))["id"]
    await running.client.post(f"/v1/jobs/{ended}/cancellations")
    expected = {
        "": [kinovi, ended, old],
        "range=1h": [kinovi, ended],
        "status=canceled": [ended],
        "provider=kinovi": [kinovi],
        "metadata=user%3D2+scene%3D3": [ended],
        "metadata=user%3D1+scene%3D3": [],
        "from=2026-11-20+23:59&to=2026-11-21+01:00": [old],
    }
    for query, found in expected.items():
        page = await reader.get(f"/jobs?{query}")
        assert (page.status, rows(page)) == (200, found), query


async def test_a_time_that_is_none_is_refused_with_its_forms(reader: Browser) -> None:
    """Answer 422 with the forms that a time may have."""
    page = await reader.get("/jobs?from=yesterday")
    assert (page.status, "created_after" in page.text) == (422, True)


async def test_older_jobs_are_on_further_pages(running: Running, reader: Browser) -> None:
    """Lead from page to page, and back to the newest, with the filters kept."""
    made = [(await running.submit())["id"] for _ in range(PAGE + 1)]
    first = await reader.get("/jobs?provider=evolink")
    assert rows(first) == made[:0:-1]
    older = re.search(r'rel="next" href="([^"]+)"', first.html)
    assert older
    second = await reader.get(older[1].replace("&amp;", "&"))
    assert rows(second) == made[:1]
    assert 'href="/jobs?provider=evolink">Newest' in second.html


async def test_a_verb_on_ticked_jobs_names_what_was_refused(running: Running, reader: Browser) -> None:
    """Cancel those that can be, say both numbers, and name each refusal with its reason."""
    jobs = [(await running.submit())["id"] for _ in range(3)]
    await running.client.post(f"/v1/jobs/{jobs[0]}/cancellations")
    page = await send(reader, await reader.get("/jobs"), jobs, action="cancel")
    assert "Cancellation of 3 jobs finished: 2 canceled, 1 refused." in said(page)
    assert "409 <code>conflict</code>: the job is already canceled" in said(page)
    assert {job["status"] for job in (await running.get("/v1/jobs"))["data"]} == {"canceled"}


async def test_a_verb_without_jobs_or_without_a_name_changes_nothing(running: Running, reader: Browser) -> None:
    """Say so, also for the button that a press of Enter in a field means."""
    job = (await running.submit())["id"]
    page = await reader.get("/jobs")
    assert "No job was ticked." in said(await send(reader, page, [], action="cancel"))
    assert "No verb was chosen." in said(await send(reader, page, [job], action=""))
    first = re.search(r"<button[^>]*>", page.html.partition('action="/jobs/actions"')[2])
    assert first
    assert 'value=""' in first[0]
    assert (await running.get(f"/v1/jobs/{job}"))["status"] == "submitted"


async def test_a_resubmission_needs_its_box(running: Running, reader: Browser) -> None:
    """Refuse a job that may have been charged without `accept_double_charge`, and submit it again with it."""
    job = (await running.submit())["id"]
    await running.client.post(f"/v1/jobs/{job}/cancellations")
    page = await reader.get("/jobs")
    assert "1 refused" in said(await send(reader, page, [job], action="resubmit"))
    assert "all resubmitted" in said(await send(reader, page, [job], action="resubmit", accept_double_charge="on"))
    assert (await running.get(f"/v1/jobs/{job}"))["status"] == "submitted"


async def test_a_read_only_key_ticks_nothing(running: Running) -> None:
    """Draw neither boxes nor verbs, and refuse each verb for each job."""
    job = (await running.submit())["id"]
    key = (await running.app.store.access.create_api_key("default", "", ("read",), 1)).text
    async with browser(running, key) as reader:
        page = await reader.get("/jobs")
        assert 'type="checkbox" name="job"' not in page.html
        assert '<button name="action"' not in page.html
        form: dict[str, Any] = page.fields("/signout") | {"action": "cancel", "job": [job], "back": "/jobs"}
        refused = Page(await reader.client.post("/jobs/actions", data=form, follow_redirects=True))
        assert "0 canceled, 1 refused" in said(refused)
        assert "403 <code>forbidden</code>" in said(refused)
    assert (await running.get(f"/v1/jobs/{job}"))["status"] == "submitted"


async def test_a_stream_keeps_the_rows_and_counts_newer_jobs(
    running: Running, clock: HeldClock, reader: Browser
) -> None:
    """Replace the rows of the page, also of a job that left the filter; count new jobs, and shift nothing."""
    job = await running.submit()
    page = await reader.get("/jobs?status=submitted")
    assert f"rows={job['id']}" in page.html
    query = urlencode({"status": "submitted", "rows": job["id"]})
    async with watching(reader, f"/jobs?{query}") as stream:
        assert list(await stream.parts(2)) == ["newer", job["id"]]
        await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
        await clock.advance(PAUSE_MS / 1000)
        assert "canceled" in (await stream.parts(1))[job["id"]]
        await running.submit()
        await clock.advance(PAUSE_MS / 1000)
        assert "1 newer job: show it" in (await stream.parts(1))["newer"]


async def test_an_empty_list_says_that_jobs_have_come(running: Running, clock: HeldClock, reader: Browser) -> None:
    """Count the jobs that come while a reader looks at a list without one."""
    assert 'id="newer"' in (await reader.get("/jobs")).html
    async with watching(reader, "/jobs") as stream:
        assert "newer job" not in (await stream.parts(1))["newer"]
        await running.submit()
        await clock.advance(PAUSE_MS / 1000)
        assert "1 newer job: show it" in (await stream.parts(1))["newer"]


async def test_a_search_opens_what_a_text_surely_means(running: Running, reader: Browser) -> None:
    """Lead from an id or a provider's id to the job, and list what else matches."""
    job = await running.submit(metadata={"user": "42"})
    await running.submit(metadata={"user": "42"})
    for text in (job["id"], job["provider_job_id"]):
        assert (await reader.get(f"/jobs?q={text}")).path == f"/jobs/{job['id']}"
    listed = await reader.get("/search?q=user%3D42")
    assert (listed.status, job["id"] in listed.html, listed.html.count("<tr>")) == (200, True, 3)
    assert "Nothing matches “nowhere”" in (await reader.get("/search?q=nowhere")).text
    assert (await reader.get("/search")).status == 200
    assert (await reader.get(f"/search?q={'x' * 501}")).status == 422


async def test_the_shortcuts_can_be_turned_off(reader: Browser) -> None:
    """Offer the switch on the page of the shortcuts, and show how it stands."""
    assert "Turn single keys off" in (await reader.get("/keyboard")).text
    reader.client.cookies.set("relay-keys", "off")
    assert "Turn single keys on" in (await reader.get("/keyboard")).text


async def test_a_verb_on_all_that_match_counts_them_first(running: Running, clock: HeldClock, reader: Browser) -> None:
    """Show the count, then act on what matched when it was counted: not on other jobs, nor on those made since."""
    jobs = [(await running.submit())["id"] for _ in range(PAGE + 2)]
    other = (await running.submit("kinovi"))["id"]
    page = await reader.get("/jobs?provider=evolink&all=1")
    assert f"All {len(jobs)} that match" in page.text
    assert f"Cancel {len(jobs)} jobs" in page.text
    await clock.advance(1)
    since = (await running.submit())["id"]
    done = await send(reader, page, [], action="cancel")
    assert f"Cancellation of {len(jobs)} jobs finished: all canceled." in said(done)
    assert rows(await reader.get("/jobs?status=submitted")) == [since, other]


@pytest.mark.parametrize("filter_", ["[", "{", "[" * 20_000])
async def test_a_filter_that_is_no_json_is_refused(running: Running, reader: Browser, filter_: str) -> None:
    """Stay on the page with the refusal, and change nothing."""
    job = (await running.submit())["id"]
    page = await reader.get("/jobs?all=1")
    refused = await send(reader, page, [], action="cancel", filter=filter_)
    assert (refused.status, "Action refused" in said(refused)) == (400, True)
    assert (await running.get(f"/v1/jobs/{job}"))["status"] == "submitted"


async def test_a_redelivery_of_all_that_match_needs_an_admin_key(running: Running) -> None:
    """Draw and do it for an admin key alone."""
    job = (await running.submit())["id"]
    key = (await running.app.store.access.create_api_key("default", "", ("read", "submit"), 1)).text
    async with browser(running, key) as reader:
        page = await reader.get("/jobs?all=1")
        assert 'value="redeliver"' not in page.html
        refused = await send(reader, page, [], action="redeliver")
        assert (refused.status, "forbidden" in said(refused)) == (403, True)
        assert "1 job finished: all canceled" in said(await send(reader, page, [], action="cancel"))
    assert (await running.get(f"/v1/jobs/{job}"))["status"] == "canceled"
