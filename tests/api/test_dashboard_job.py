"""The dashboard's page of a job: what it says, its verbs and their refusals, and what a read-only key sees."""

import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browsing import Browser, Page, browser
from tests.support.running import Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path) as started:
        yield started


@pytest.fixture
async def reader(running: Running) -> AsyncIterator[Browser]:
    """Yield a browser that is signed in with an admin key."""
    async with browser(running) as signed_in:
        yield signed_in


async def finished(running: Running, **fields: Any) -> dict[str, Any]:
    """Return a job that has ended, when its last event is delivered."""
    job = await running.submit(notify=[{"url": running.hook, "event_types": ["job.*"]}], **fields)
    await running.world.finish(job["provider_job_id"])
    await running.until(f"/v1/deliveries?job={job['id']}&status=delivered", lambda shown: len(shown["data"]) == 2)
    return await running.get(f"/v1/jobs/{job['id']}")


def said(page: Page) -> str:
    """Return the note at the head of a page."""
    return page.html.partition('id="note"')[2].partition("</div>")[0]


async def test_a_finished_job_shows_its_whole_story(running: Running, reader: Browser) -> None:
    """Show where the video is, each step with its proof, the callback's body, the attempts and the result."""
    job = await finished(running, metadata={"user": "42"})
    page = await reader.get(f"/jobs/{job['id']}")
    assert page.status == 200
    assert "The video is ready. Its endpoint has it." in page.text
    for step in ("Accepted", "Submission 1 to evolink", "Callback", "Status check 1 at evolink", "Job succeeded"):
        assert step in page.text
    assert page.text.count("HTTP 200 in") == 2
    assert '"status": "completed"' in page.text
    assert job["provider_job_id"] in page.text
    assert "user=42" in page.text


async def test_an_open_job_says_what_it_waits_for(running: Running, reader: Browser) -> None:
    """Show that the provider has it, and when relay asks next."""
    job = await running.submit()
    page = await reader.get(f"/jobs/{job['id']}")
    assert "evolink makes the video." in page.text
    assert "What happens next" in page.text
    assert "The deadline: after one last status check the job expires." in page.text


async def test_a_check_asks_the_provider_and_says_what_came_of_it(running: Running, reader: Browser) -> None:
    """Return to the page with the job's status after the check."""
    job = await running.submit()
    page = await reader.send(await reader.get(f"/jobs/{job['id']}"), f"/jobs/{job['id']}/status-checks")
    assert (page.status, page.path) == (200, f"/jobs/{job['id']}")
    assert "evolink was asked" in said(page)
    assert running.world.status_checks == [job["provider_job_id"]]
    assert said(await reader.get(f"/jobs/{job['id']}")) == ""


async def test_a_redelivery_sends_the_event_again_once(running: Running, reader: Browser) -> None:
    """Deliver the chosen event again; the same form sent twice makes one delivery."""
    job = await finished(running)
    page = await reader.get(f"/jobs/{job['id']}")
    action = f"/jobs/{job['id']}/redeliveries"
    chosen = page.html.partition('name="delivery" value="')[2].partition('"')[0]
    for _ in range(2):
        assert "The event is sent again" in said(await reader.send(page, action, delivery=chosen))
    deliveries = (await running.get(f"/v1/deliveries?job={job['id']}"))["data"]
    assert [one["redelivery"] for one in deliveries] == [True, False, False]
    again = await reader.send(await reader.get(f"/jobs/{job['id']}"), action, delivery=chosen)
    assert again.status == 200
    assert len((await running.get(f"/v1/deliveries?job={job['id']}"))["data"]) == 4


async def test_a_refusal_stays_on_the_page_with_its_reason(running: Running, reader: Browser) -> None:
    """Show the API's refusal with its status and code on the page where it was asked for, and change nothing."""
    job = await running.submit()
    page = await reader.get(f"/jobs/{job['id']}")
    await reader.send(page, f"/jobs/{job['id']}/cancellations")
    refused = await reader.send(page, f"/jobs/{job['id']}/failures", reason="we lost it")
    assert (refused.status, refused.path) == (409, f"/jobs/{job['id']}/failures")
    assert "Fail refused" in said(refused)
    assert "(409 <code>conflict</code>)" in said(refused)
    assert "Nothing was changed." in said(refused)
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "canceled"


async def test_what_was_typed_is_kept_after_a_refusal(running: Running, reader: Browser) -> None:
    """Fill the form again with a reason that is too long, which the API refuses."""
    job = await running.submit()
    page = await reader.get(f"/jobs/{job['id']}")
    refused = await reader.send(page, f"/jobs/{job['id']}/failures", reason="x" * 501)
    assert refused.status == 422
    assert f'value="{"x" * 501}"' in refused.html
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"


async def test_a_failure_ends_the_job_with_its_reason(running: Running, reader: Browser) -> None:
    """Show the operator's reason as the job's error."""
    job = await running.submit()
    page = await reader.send(
        await reader.get(f"/jobs/{job['id']}"), f"/jobs/{job['id']}/failures", reason="<b>lost</b> by hand"
    )
    assert "The job failed: <b>lost</b> by hand." in page.text
    assert "<b>lost" not in page.html


async def test_a_read_only_key_sees_the_page_without_verbs(running: Running) -> None:
    """Draw no verb for a key that may only read, and refuse each of their forms."""
    job = await finished(running)
    key = (await running.app.store.access.create_api_key("default", "", ("read",), 1)).text
    async with browser(running, key) as reader:
        page = await reader.get(f"/jobs/{job['id']}")
        assert f'action="/jobs/{job["id"]}' not in page.html
        assert "Your key may not change anything here" in page.text
        for verb in ("status-checks", "cancellations", "failures", "resubmissions", "redeliveries"):
            form = page.fields("/signout") | {"reason": "x", "delivery": "dlv_x", "accept_double_charge": "on"}
            refused = Page(await reader.client.post(f"/jobs/{job['id']}/{verb}", data=form))
            assert (refused.status, "forbidden" in said(refused)) == (403, True)
    assert (await running.get(f"/v1/jobs/{job['id']}"))["updated_at"] == job["updated_at"]


async def test_a_form_of_another_site_changes_nothing(running: Running, reader: Browser) -> None:
    """Refuse a verb without the session's CSRF value, and one whose origin is another host."""
    job = await running.submit()
    fields = (await reader.get(f"/jobs/{job['id']}")).fields(f"/jobs/{job['id']}/cancellations")
    for form, origin in ((fields | {"csrf": ""}, None), (fields, "https://evil.example"), (fields, "null")):
        headers = {"origin": origin} if origin else {}
        refused = await reader.client.post(f"/jobs/{job['id']}/cancellations", data=form, headers=headers)
        assert refused.status_code == 403
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"


async def test_a_verb_is_in_the_audit_as_the_dashboards(running: Running, reader: Browser) -> None:
    """Record the verb with the session's key, through the dashboard."""
    job = await running.submit()
    await reader.send(await reader.get(f"/jobs/{job['id']}"), f"/jobs/{job['id']}/cancellations")
    found = (await running.get("/v1/audit?verb=jobs.cancel"))["data"]
    assert [(one["via"], one["key"], one["target"]) for one in found] == [("dashboard", "RELAY_API_KEY", job["id"])]


async def test_a_job_that_is_not_there_has_an_error_page(reader: Browser) -> None:
    """Answer 404 with a page, also for an id that is none."""
    for id_ in ("job_01m8dbvty5edqrb018tr4sjm6r", "nothing", "%3Cb%3E"):
        page = await reader.get(f"/jobs/{id_}")
        assert (page.status, "not_found" in page.text) == (404, True)


async def test_an_incident_has_everything_and_no_token(running: Running, reader: Browser) -> None:
    """Send the job's rows and its callbacks' bodies as a zip file, without the callback token."""
    job = await finished(running)
    answer = await reader.client.get(f"/jobs/{job['id']}/incident")
    assert answer.headers["content-disposition"] == f'attachment; filename="incident-{job["id"]}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    token = running.callback_url().rpartition("/")[2]
    assert all(token.encode() not in content for content in members.values())
    assert json.loads(members["job.json"])["id"] == job["id"]
    bodies = [content for name, content in members.items() if name.startswith("callbacks/")]
    assert [json.loads(body)["status"] for body in bodies] == ["completed"]


async def test_big_integers_of_a_callback_are_exact(running: Running, reader: Browser) -> None:
    """Show 9007199254740993 as it came."""
    job = await running.submit(input={"images": ["https://example.com/a.png"], "prompt": "[sandbox: malformed=bigint]"})
    await running.world.finish(job["provider_job_id"])
    await running.until(f"/v1/callbacks?job={job['id']}", lambda shown: len(shown["data"]) > 0)
    callbacks = (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]
    body = (await running.get(f"/v1/callbacks/{callbacks[-1]['id']}"))["body_text"]
    numbers = [word.strip(',}]" ') for word in body.split(":") if len(word.strip(',}]" ')) > 16]
    page = await reader.get(f"/jobs/{job['id']}")
    assert numbers
    assert all(number in page.text for number in numbers if number.isdigit())
