"""The dashboard's callbacks, providers, keys and audit, as a browser without JavaScript uses them."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from relay.sandbox.faults import Faults
from tests.api.test_dashboard import new_key
from tests.support.browsing import browser
from tests.support.running import HeldClock, Running, http_client, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
SECRET = "whsec_" + "A" * 43 + "="


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay that expects signatures of kinovi, which its stand-in does not make."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_KINOVI_CALLBACK_SECRET=SECRET) as started:
        yield started


async def quarantined(running: Running) -> str:
    """Return the id of a callback in quarantine."""
    running.world.next_faults.append(Faults())
    job = await running.submit("kinovi")
    await running.world.finish(job["provider_job_id"])
    shown = await running.until("/v1/callbacks?verdict=quarantined", lambda shown: bool(shown["data"]))
    return str(shown["data"][0]["id"])


async def test_a_quarantined_callback_is_read_and_released(running: Running) -> None:
    """Show it first with its body, release it, and say what became of it."""
    callback = await quarantined(running)
    async with browser(running) as reader:
        page = await reader.get("/callbacks")
        assert "Waits for a release 1" in page.text
        released = await reader.send(page, f"/callback/{callback}/releases")
        assert "Released. It is now" in released.text
        assert "Waits for a release" not in released.text
        shown = await reader.get(f"/callback/{callback}")
        assert "released by RELAY_API_KEY" in shown.text
        again = await reader.client.post(
            f"/callback/{callback}/releases", data=page.fields(f"/callback/{callback}/releases") | {"once": "another"}
        )
        assert again.status_code == 409
        raw = await reader.client.get(f"/callback/{callback}/body")
        assert raw.headers["content-type"] == "application/octet-stream"
        assert raw.headers["content-disposition"].startswith("attachment")
        assert raw.content.startswith(b"{")


async def test_callbacks_are_filtered_by_verdict_and_time(running: Running) -> None:
    """List those of a verdict, and say how to see more if there are none."""
    await quarantined(running)
    async with browser(running) as reader:
        assert "1 callbacks shown" in (await reader.get("/callbacks?verdict=quarantined")).text
        assert "No callback matches" in (await reader.get("/callbacks?verdict=stale")).text
        assert "No callback matches" in (await reader.get("/callbacks?from=2020-01-01&to=2020-01-02")).text


async def test_the_path_of_callback_urls_is_no_page(running: Running) -> None:
    """Answer below /callbacks/ as a provider is answered, not with a page."""
    async with browser(running) as reader:
        answer: httpx.Response = await reader.client.post("/callbacks/evolink/nothing")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")


async def test_a_provider_that_is_silent_or_refuses_the_key_stands_first(running: Running) -> None:
    """Say of each provider whether it works, and how its jobs ended."""
    job = await running.submit("evolink")
    await running.world.finish(job["provider_job_id"])
    await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    async with browser(running) as reader:
        page = await reader.get("/providers")
        assert "100 % by callback, 0 by check" in page.text
        assert page.status == 200
        running.world.next_faults.append(Faults(check_status=401))
        other = await running.submit("relaydance")
        await running.client.post(f"/v1/jobs/{other['id']}/status-checks")
        page = await reader.get("/providers")
        assert page.text.index("refuses the key") < page.text.index("works")


async def test_a_key_is_made_shown_once_and_revoked(running: Running) -> None:
    """Make a key in the browser, use it, revoke it, and find both in the audit."""
    async with browser(running) as reader:
        made = await reader.send(
            await reader.get("/keys"), "/keys/new", name="ci", scopes="read", project="prj_default"
        )
        (text,) = re.findall(r'id="secret">([^<]+)<', made.html)
        async with http_client(running.origin, text) as client:
            assert (await client.get("/v1/jobs")).status_code == 200
        (key,) = (await running.get("/v1/keys"))["data"]
        page = await reader.get("/keys")
        assert text not in page.html
        done = await reader.send(page, f"/keys/{key['id']}/revocations")
        assert "The key ci is revoked" in done.text
        async with http_client(running.origin, text) as client:
            assert (await client.get("/v1/jobs")).status_code == 401
        audit = await reader.get("/audit")
        assert "keys.create" in audit.text
        assert "keys.revoke" in audit.text
        assert text not in audit.html
        assert "keys.create" not in (await reader.get("/audit?verb=keys.revoke")).text


async def test_a_project_is_made(running: Running) -> None:
    """Make a project, and see its keys alone."""
    async with browser(running) as reader:
        done = await reader.send(await reader.get("/keys"), "/projects/new", name="films")
        assert "Project films is made" in done.text
        (project,) = [one for one in (await running.get("/v1/projects"))["data"] if one["name"] == "films"]
        assert "No key is live" in (await reader.get(f"/keys?project={project['id']}")).text


async def test_a_key_that_may_only_read_gets_no_keys_and_no_audit(running: Running) -> None:
    """Say which scope is missing instead of a list, and draw no release."""
    await quarantined(running)
    _, text = await new_key(running, "read")
    async with browser(running, text) as reader:
        for path in ("/keys", "/audit", "/callbacks"):
            page = await reader.get(path)
            assert page.status == 200
            assert "needs the scope admin" in page.text
            assert "/releases" not in page.html
