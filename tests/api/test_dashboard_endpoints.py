"""The overview and the endpoints of the dashboard, read and used as a browser without JavaScript does."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.test_dashboard import new_key
from tests.support.browsing import browser
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


async def standing(running: Running, **fields: Any) -> dict[str, Any]:
    """Return a new endpoint."""
    answer = await running.client.post("/v1/endpoints", json={"url": running.hook} | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def test_the_overview_has_numbers_and_what_needs_attention(running: Running, clock: HeldClock) -> None:
    """Draw what happened, and name an endpoint that has accepted nothing for five minutes first."""
    running.sink.answers += [500] * 40
    await standing(running, schedule_s=[0, 60, 60, 60, 60, 60])
    async with browser(running) as reader:
        page = await reader.get("/")
        assert "Needs attention 0" in page.text
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        await clock.elapse(running.sink.wait_for(lambda sink: len(sink.received) >= 6))
        await clock.advance(360)
        await clock.advance(60)
        page = await reader.get("/?range=1h")
        assert page.status == 200
        assert re.search(r"Needs attention [1-9]", page.text), page.text[:300]
        assert "Endpoint failing" in page.text
        assert re.search(r"succeeded 1\b", page.text)
        assert "evolink 1 100 %" in page.text


async def test_a_held_endpoint_says_since_when_nothing_was_accepted(running: Running, clock: HeldClock) -> None:
    """Name the first failure as such, and not as the time when the endpoint was held, which is later."""
    running.sink.answers += [500] * 40
    endpoint = await standing(running, schedule_s=[0, *([2] * 12)])
    job = await running.submit()
    await running.world.finish(job["provider_job_id"])
    while (await running.get(f"/v1/endpoints/{endpoint['id']}"))["status"] != "held":
        await clock.advance(1)
    shown = await running.get(f"/v1/endpoints/{endpoint['id']}")
    async with browser(running) as reader:
        text = (await reader.get(f"/endpoints/{endpoint['id']}")).text
    since = shown["failing_since"][11:19]
    assert f"Held: ten failures in a row or more; nothing was accepted since {since}." in text


async def test_the_list_begins_with_trouble_and_filters(running: Running) -> None:
    """Show a failing endpoint first, filter by status and by a part of the URL, and say what is waiting."""
    await standing(running, description="fine one")
    running.sink.answers.append(500)
    bad = await standing(running, url=running.hook + "/bad")
    await running.client.post(f"/v1/endpoints/{bad['id']}/tests")
    await running.sink.wait_for(lambda sink: len(sink.received) == 1)
    await running.until(f"/v1/endpoints/{bad['id']}", lambda shown: shown["failing_since"] is not None)
    async with browser(running) as reader:
        page = await reader.get("/endpoints")
        assert page.html.index("/hook/bad") < page.html.index("fine one")
        assert "nothing accepted for" in page.text
        assert "fine one" not in (await reader.get("/endpoints?q=BAD")).text
        assert "No endpoint matches" in (await reader.get("/endpoints?status=disabled")).text


async def test_an_endpoint_is_made_and_its_secret_is_shown_once(running: Running) -> None:
    """Make an endpoint in the browser, see its secret on the answer alone, and rotate it."""
    async with browser(running) as reader:
        page = await reader.get("/endpoints")
        made = await reader.send(
            page, "/endpoints/new", url=running.hook, event_types="job.*, relay.test", description="mine"
        )
        (secret,) = re.findall(r'id="secret">(whsec_[^<]+)<', made.html)
        (listed,) = (await running.get("/v1/endpoints"))["data"]
        assert (listed["description"], listed["event_types"]) == ("mine", ["job.*", "relay.test"])
        path = f"/endpoints/{listed['id']}"
        page = await reader.get(path)
        assert "whsec_" not in page.html
        rotated = await reader.send(page, f"{path}/secret-rotations", grace_s="3600")
        (other,) = re.findall(r'id="secret">(whsec_[^<]+)<', rotated.html)
        assert other != secret
        assert (await running.get(f"/v1/endpoints/{listed['id']}/secret"))["secret"] == other


async def test_a_refused_form_keeps_what_was_typed(running: Running) -> None:
    """Stay on the page, say what is wrong, and keep the fields."""
    async with browser(running) as reader:
        refused = await reader.send(
            await reader.get("/endpoints"), "/endpoints/new", url="ftp://nowhere", description="kept"
        )
        assert refused.status == 422
        assert 'value="ftp://nowhere"' in refused.html
        assert 'value="kept"' in refused.html
        made = await standing(running)
        path = f"/endpoints/{made['id']}"
        page = await reader.get(path)
        fields = {"url": running.hook, "event_types": "job.*", "in_flight_max": "many", "timeout_s": "15"}
        refused = await reader.send(page, f"{path}/changes", **fields)
        assert refused.status == 422
        assert 'value="many"' in refused.html
        done = await reader.send(page, f"{path}/changes", **fields | {"in_flight_max": "3", "rate_limit_per_s": "2.5"})
        assert "The endpoint is changed" in done.text
        shown = await running.get(f"/v1/endpoints/{made['id']}")
        assert (shown["in_flight_max"], shown["rate_limit_per_s"], shown["timeout_s"]) == (3, 2.5, 15)


async def test_what_is_missing_is_counted_and_then_sent(running: Running, clock: HeldClock) -> None:
    """Count first, on the same page with what was typed, then send exactly that."""
    job = await running.submit()
    await running.world.finish(job["provider_job_id"])
    await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    made = await standing(running, event_types=["job.succeeded"])
    path = f"/endpoints/{made['id']}"
    async with browser(running) as reader:
        page = await reader.get(path)
        asked = {"which": "missing", "since": "2026-11-20 00:00", "until": ""}
        fields = page.fields(f"{path}/redeliveries") | asked
        answer = await reader.client.post(f"{path}/count", data=fields, follow_redirects=True)
        assert "1 delivery matches" in re.sub(r"<[^>]+>", "", answer.text)
        assert running.sink.received == []
        counted = type(page)(answer)
        assert '<option value="missing" selected' in counted.html
        sent = await reader.send(counted, f"{path}/redeliveries", **asked)
        assert "A batch of 1 is on its way" in sent.text
        await clock.elapse(running.sink.wait_for(lambda sink: sink.events() == ["job.succeeded"]))


async def test_an_endpoint_is_disabled_probed_and_enabled(running: Running) -> None:
    """Say how it is, disable it, refuse nothing silently, and enable it again."""
    made = await standing(running)
    path = f"/endpoints/{made['id']}"
    async with browser(running) as reader:
        page = await reader.get(path)
        assert "Nothing was sent yet" in page.text
        tested = await reader.send(page, f"{path}/tests")
        assert "on its way" in tested.text
        await running.sink.wait_for(lambda sink: len(sink.received) == 1)
        off = await reader.send(page, f"{path}/status", status="disabled")
        assert "Disabled:" in off.text
        on = await reader.send(off, f"{path}/status", status="active")
        assert "It is enabled" in on.text
        history = [one["kind"] for one in (await running.get(f"/v1/endpoints/{made['id']}/history"))["data"]]
        assert {"enabled", "disabled", "created"} <= set(history)
        assert all(kind.replace("_", " ") in on.text for kind in history)


async def test_a_key_that_may_only_read_sees_no_verbs_and_changes_nothing(running: Running) -> None:
    """Draw no form for it, and refuse one that it sends anyway."""
    made = await standing(running)
    _, text = await new_key(running, "read")
    path = f"/endpoints/{made['id']}"
    async with browser(running) as owner, browser(running, text) as reader:
        page = await reader.get(path)
        assert "needs the scope admin" in page.text
        assert f'action="{path}' not in page.html
        assert 'action="/endpoints/new"' not in (await reader.get("/endpoints")).html
        own = (await reader.get("/jobs")).fields("/signout") | {"status": "disabled", "back": path}
        refused = await reader.client.post(f"{path}/status", data=own)
        assert refused.status_code == 403
        assert (await owner.get(path)).text.count("active") >= 1
        assert (await running.get(f"/v1/endpoints/{made['id']}"))["status"] == "active"
