"""The streams that keep the dashboard's pages up to date: what they send, when, to whom, and how they end."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from relay.web.dashboard.live import COMMENT_EVERY_MS, PAUSE_MS, REST_MAX_MS, Turns, rest_ms
from tests.support.browsing import Browser, browser
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
JOB_PARTS = ["status", "answer", "verbs", "states", "timeline", "deliveries", "callbacks", "next", "facts"]


@pytest.fixture
def clock() -> HeldClock:
    """Return a clock that the test advances."""
    return HeldClock()


@pytest.fixture
async def running(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path, clock=clock) as started:
        yield started


class Stream:
    """An open stream of a page."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def parts(self, number: int) -> dict[str, str]:
        """Return the next so many parts by their ids; a comment counts as the part `:`."""
        found: dict[str, str] = {}
        text = ""
        async with asyncio.timeout(60):
            while len(found) < number:
                line = await anext(self._lines)
                if line.startswith(":"):
                    found[":"] = line
                elif line.startswith("data: "):
                    text += line.removeprefix("data: ") + "\n"
                elif text:
                    name = re.match(r'<hx-partial hx-target="#([\w-]+)" hx-swap="outerMorph">', text)
                    assert name, text
                    found[name[1]] = text
                    text = ""
        return found

    async def ended(self) -> None:
        """Return once the stream has ended, whatever comes before."""
        async with asyncio.timeout(60):
            async for _ in self._lines:
                pass

    async def ends(self) -> bool:
        """Return whether the stream ends without another part."""
        async with asyncio.timeout(60):
            return not [line async for line in self._lines if line]


@asynccontextmanager
async def watching(reader: Browser, path: str) -> AsyncIterator[Stream]:
    """Open the stream of a page."""
    async with reader.client.stream("GET", f"/live{path}") as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        yield Stream(answer)


async def test_a_stream_sends_a_page_and_then_what_changes(running: Running, clock: HeldClock) -> None:
    """Send every part at first, afterwards those alone that differ, each as the page would show it."""
    job = await running.submit()
    async with browser(running) as reader:
        page = await reader.get(f"/jobs/{job['id']}")
        assert f'hx-sse:connect="/live/jobs/{job["id"]}" hx-swap="none"' in page.html
        async with watching(reader, f"/jobs/{job['id']}") as stream:
            first = await stream.parts(len(JOB_PARTS))
            assert list(first) == JOB_PARTS
            assert all(f'id="{name}"' in text for name, text in first.items())
            await running.world.finish(job["provider_job_id"])
            await running.until(f"/v1/jobs/{job['id']}", lambda shown: bool(shown["status"] == "succeeded"))
            await clock.advance(PAUSE_MS / 1000)
            changed = await stream.parts(3)
            assert "succeeded" in changed["status"]
            assert "The video is ready." in changed["answer"]


async def test_a_page_without_changes_sends_comments_alone(running: Running, clock: HeldClock) -> None:
    """Send nothing for times that grow older, and a comment every 15 s so that no router closes the connection."""
    job = await running.submit(deadline_s=86_400)
    async with browser(running) as reader, watching(reader, f"/jobs/{job['id']}") as stream:
        await stream.parts(len(JOB_PARTS))
        for _ in range(COMMENT_EVERY_MS // PAUSE_MS):
            await clock.advance(PAUSE_MS / 1000)
        assert list(await stream.parts(1)) == [":"]


@pytest.mark.parametrize(("took_ms", "rest"), [(0, 0), (1, 99), (30, 2970), (31, 3000), (300, 3000)])
def test_pages_rest_for_a_hundred_times_as_long_as_they_took(took_ms: int, rest: int) -> None:
    """Leave the loop to others, but stand still for no more than three seconds."""
    assert rest_ms(took_ms) == rest


async def test_projects_take_turns() -> None:
    """Let a project with one page go on after one page of a project with many, also if some of those are closed."""
    turns, order = Turns(), []

    async def page(project: str, name: str) -> None:
        async with turns.of(project):
            order.append(name)
            await asyncio.sleep(0)

    many = [asyncio.create_task(page("prj_many", f"many {number}")) for number in range(5)]
    await asyncio.sleep(0)
    many[2].cancel()
    one = asyncio.create_task(page("prj_one", "one"))
    await asyncio.gather(*many, one, return_exceptions=True)
    assert order == ["many 0", "many 1", "one", "many 3", "many 4"]
    async with turns.of("prj_many"):
        order.append("free again")


async def test_a_revoked_key_ends_its_streams(running: Running, clock: HeldClock) -> None:
    """End the stream at the next look at the page."""
    job = await running.submit()
    made = await running.app.store.access.create_api_key("default", "", ("read",), 1)
    async with browser(running, made.text) as reader, watching(reader, f"/jobs/{job['id']}") as stream:
        assert "form" not in (await stream.parts(len(JOB_PARTS)))["verbs"]
        await running.app.store.access.revoke_api_key(made.id, clock.now_ms())
        await clock.advance(PAUSE_MS / 1000)
        assert await stream.ends()


async def test_a_stop_of_relay_ends_streams(running: Running) -> None:
    """End the streams when the shutdown begins."""
    job = await running.submit()
    async with browser(running) as reader, watching(reader, f"/jobs/{job['id']}") as stream:
        await stream.parts(len(JOB_PARTS))
        running.app.stop.begin()
        assert await stream.ends()


async def test_a_stream_without_a_session_is_empty(running: Running) -> None:
    """Answer 204, which puts nothing on the page, without a session, and over the limit of a project's streams."""
    job = await running.submit()
    async with browser(running, None) as reader:
        assert (await reader.client.get(f"/live/jobs/{job['id']}")).status_code == 204


async def test_a_stream_of_what_is_not_there_holds_no_slot(tmp_path: Path) -> None:
    """Answer 204, which ends a browser's tries, for an object that is not there or is another project's."""
    async with relay(tmp_path, RELAY_STREAMS_PER_PROJECT_MAX="1") as running, browser(running) as reader:
        job = await running.submit()
        for path in ("/jobs/job_01980000000070008000000000000001", "/jobs/x", "/endpoints/ep_1", "/jobs?status=none"):
            assert (await reader.client.get(f"/live{path}")).status_code == 204
        other = await running.app.store.access.create_api_key("other", "", ("read",), running.clock.now_ms())
        async with browser(running, other.text) as foreign:
            assert (await foreign.client.get(f"/live/jobs/{job['id']}")).status_code == 204
        async with watching(reader, f"/jobs/{job['id']}") as stream:
            assert len(await stream.parts(len(JOB_PARTS))) == len(JOB_PARTS)


async def test_a_stream_ends_when_its_object_is_gone(tmp_path: Path, clock: HeldClock) -> None:
    """End the stream of an endpoint's page once the endpoint is deleted, and free its slot."""
    async with relay(tmp_path, clock=clock, RELAY_STREAMS_PER_PROJECT_MAX="1") as running, browser(running) as reader:
        job, made = await running.submit(), await running.client.post("/v1/endpoints", json={"url": running.hook})
        path = f"/v1/endpoints/{made.json()['id']}"
        async with watching(reader, path.removeprefix("/v1")) as stream:
            assert await stream.parts(1)
            assert (await running.client.delete(path)).status_code == 204
            await clock.advance((PAUSE_MS + REST_MAX_MS) / 1000)
            await stream.ended()
        async with watching(reader, f"/jobs/{job['id']}") as stream:
            assert len(await stream.parts(len(JOB_PARTS))) == len(JOB_PARTS)


async def test_streams_of_pages_have_a_limit(tmp_path: Path) -> None:
    """Answer 204 to a stream over its project's share, and open one after another has ended."""
    async with relay(tmp_path, RELAY_STREAMS_PER_PROJECT_MAX="1") as running, browser(running) as reader:
        job = await running.submit()
        path = f"/jobs/{job['id']}"
        async with watching(reader, path) as stream:
            await stream.parts(len(JOB_PARTS))
            assert (await reader.client.get(f"/live{path}")).status_code == 204
        await quiet()
        async with watching(reader, path) as stream:
            assert len(await stream.parts(len(JOB_PARTS))) == len(JOB_PARTS)
