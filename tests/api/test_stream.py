"""`GET /v1/events/stream`: new events, resumed without a gap or a repeat after a disconnect and a restart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from starlette.types import Message

from relay.clock import SystemClock
from relay.storage.apply_updates import DEFAULT_PROJECT
from relay.storage.history import BEGINNING, EventQuery
from relay.web.api.events import EventStream
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


class Reader:
    """A client that reads server-sent events as a browser does."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.comments = 0
        self._lines = answer.aiter_lines()

    async def events(self, number: int) -> list[tuple[str, str]]:
        """Return the ids and types of the next so many events."""
        found: list[tuple[str, str]] = []
        fields: dict[str, str] = {}
        async with asyncio.timeout(60):
            while len(found) < number:
                line = await anext(self._lines)
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif "id" in fields:
                    body = msgspec.json.decode(fields["data"])
                    assert (body["id"], body["type"]) == (fields["id"], fields["event"])
                    found.append((fields["id"], fields["event"]))
                    fields = {}
        return found


@asynccontextmanager
async def reading(running: Running, after: str | None = None, query: str = "") -> AsyncIterator[Reader]:
    """Open a stream."""
    headers = {"last-event-id": after} if after else {}
    async with running.client.stream("GET", f"/v1/events/stream{query}", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Reader(answer)


async def job_done(running: Running) -> None:
    """Submit a job that succeeds, which makes two events."""
    job = await running.submit()
    await running.world.finish(job["provider_job_id"])


async def test_new_events_are_sent_immediately(tmp_path: Path) -> None:
    """Send each event once, in order, with its id, on an open stream."""
    async with relay(tmp_path, clock=SystemClock(), confirm=False) as running:
        await job_done(running)
        async with reading(running) as reader:
            await job_done(running)
            assert [kind for _, kind in await reader.events(2)] == ["job.submitted", "job.succeeded"]


async def test_a_stream_resumes_where_it_was_cut(tmp_path: Path) -> None:
    """Send every event after Last-Event-ID, across a disconnect and across a restart."""
    clock = SystemClock()
    async with relay(tmp_path, clock=clock, confirm=False) as running:
        await job_done(running)
        first = (await running.get("/v1/events"))["data"][-1]["id"]
        async with reading(running, after=first) as reader:
            seen = [event_id for event_id, _ in await reader.events(1)]
        await job_done(running)
        async with reading(running, after=seen[-1]) as reader:
            seen += [event_id for event_id, _ in await reader.events(1)]
    async with relay(tmp_path, clock=clock, confirm=False) as running:
        await job_done(running)
        async with reading(running, after=seen[-1]) as reader:
            seen += [event_id for event_id, _ in await reader.events(3)]
        everything = [event["id"] for event in (await running.get("/v1/events"))["data"]][::-1]
        assert [first, *seen] == everything


async def test_a_list_can_begin_after_an_event(tmp_path: Path) -> None:
    """List the events after `after`, of a job too; for an unknown id those with a newer id."""
    async with relay(tmp_path, clock=SystemClock(), confirm=False) as running:
        await job_done(running)
        await job_done(running)
        shown = (await running.get("/v1/events"))["data"]
        ids, job = [event["id"] for event in shown], shown[0]["job"]

        async def after(event_id: str, more: str = "") -> list[str]:
            return [event["id"] for event in (await running.get(f"/v1/events?after={event_id}{more}"))["data"]]

        assert len(ids) == 4
        assert [await after(event_id) for event_id in ids] == [[], ids[:1], ids[:2], ids[:3]]
        assert await after(ids[1], f"&job={job}") == ids[:1]
        assert await after(ids[3], f"&job={job}") == ids[:2]
        assert await after("evt_0") == await after("", "&undelivered=false") == ids
        assert await after("evt_z") == []
        refused = await running.client.get("/v1/events?after=job_1")
        assert (refused.status_code, refused.json()["errors"]) == (
            422,
            [{"path": "after", "message": 'must be an id that begins with evt_, not "job_1"'}],
        )


async def test_a_stream_can_be_narrowed_to_a_type(tmp_path: Path) -> None:
    """Send only events of `type`."""
    async with relay(tmp_path, clock=SystemClock(), confirm=False) as running:
        await job_done(running)
        async with reading(running, after="evt_0", query="?type=job.succeeded") as reader:
            assert [kind for _, kind in await reader.events(1)] == ["job.succeeded"]


async def test_a_quiet_stream_sends_comments(tmp_path: Path) -> None:
    """Send a comment every 15 seconds, so that no router closes the connection as idle."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, confirm=False) as running, reading(running) as reader:
        lines = reader.answer.aiter_lines()
        assert (await anext(lines)).startswith("retry: ")
        await clock.advance(15)
        async with asyncio.timeout(60):
            while not (await anext(lines)).startswith(":"):
                pass


@pytest.mark.parametrize(("most", "status"), [("PER_PROJECT_", 429), ("", 503)])
async def test_streams_have_a_limit(tmp_path: Path, most: str, status: int) -> None:
    """Answer 429 to a stream over its project's share, 503 over the total, with Retry-After; open one later."""
    limits: dict[str, Any] = {f"RELAY_STREAMS_{most}MAX": "2"}
    async with relay(tmp_path, **limits) as running:
        async with reading(running) as first, reading(running) as second:
            open_lines = [reader.answer.aiter_lines() for reader in (first, second)]  # each closes when it is dropped
            for lines in open_lines:
                assert (await anext(lines)).startswith("retry: ")
            answer = await running.client.get("/v1/events/stream")
            assert answer.status_code == status
            assert int(answer.headers["retry-after"]) in (1, 2)
            shown = (await running.client.get("/metrics")).text
            bound = "streams_per_project_max" if most else "streams_max"
            assert f'relay_refused_total{{bound="{bound}"}} 1.0' in shown
            assert "relay_streams_open 2.0" in shown
        status = 0
        async with asyncio.timeout(60):
            while status != 200:
                async with running.client.stream("GET", "/v1/events/stream") as another:
                    status = another.status_code


async def test_the_memory_of_a_stream_is_bounded(tmp_path: Path) -> None:
    """Read a bounded number of bytes of events in one query, the rest in the next, and one larger event alone."""
    async with relay(tmp_path) as running:
        await job_done(running)
        await running.until("/v1/events", lambda shown: len(shown["data"]) == 2)
        events, now_ms = running.app.store.events, running.app.clock.now_ms()
        whole = await events.following(EventQuery(DEFAULT_PROJECT, BEGINNING, None, 10), now_ms)
        size = sum(len(event.body) for event in whole.events)
        for max_bytes, number in ((size, 2), (size - 1, 1), (1, 1)):
            some = await events.following(EventQuery(DEFAULT_PROJECT, BEGINNING, None, 10, max_bytes), now_ms)
            assert some.events == whole.events[:number]
            rest = await events.following(EventQuery(DEFAULT_PROJECT, some.place, None, 10), now_ms)
            assert rest.events == whole.events[number:]


async def test_a_stream_with_little_memory_sends_every_event(tmp_path: Path) -> None:
    """Send all events in order on a stream that holds one at a time."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_STREAM_BUFFER_BYTES="1") as running:
        for _ in range(3):
            await job_done(running)
        shown = await running.until("/v1/events", lambda shown: len(shown["data"]) == 6)
        first = shown["data"][-1]["id"]
        later = (await running.get(f"/v1/events?after={first}"))["data"]
        ids = [event["id"] for event in reversed(later)]
        async with reading(running, after=first) as reader:
            came = [event_id for event_id, _ in await reader.events(1)]
            for _ in range(4):
                await clock.advance(0.004)  # the rest of a stream that is behind
                came += [event_id for event_id, _ in await reader.events(1)]
            assert came == ids


@pytest.mark.parametrize("after", ["x", "evt_" + "a" * 80])
async def test_a_malformed_id_is_refused(tmp_path: Path, after: str) -> None:
    """Answer 422 that names the header."""
    async with relay(tmp_path) as running:
        answer = await running.client.get("/v1/events/stream", headers={"last-event-id": after})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "Last-Event-ID")


async def test_a_shutdown_ends_streams(tmp_path: Path) -> None:
    """End a stream immediately, and resume it with its last id."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running, reading(running) as reader:
        await quiet()
        running.app.draining.set()
        await clock.advance(1)
        async with asyncio.timeout(60):
            assert [line async for line in reader.answer.aiter_lines() if line.startswith("id")] == []


async def test_a_stream_releases_its_slot(tmp_path: Path) -> None:
    """Count a stream as closed as soon as its response ends, even if writing it raised."""
    async with relay(tmp_path) as running:
        streams = running.app.streams
        answer = EventStream(await streams.lines(DEFAULT_PROJECT, None, None))
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)
            if message["type"] == "http.response.body":
                raise RuntimeError("the connection is closed")

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        with pytest.raises(RuntimeError) as raised:
            await answer({"type": "http"}, receive, send)
        assert (len(sent), raised.value.args) == (2, ("the connection is closed",))
        assert b"relay_streams_open 0.0" in running.app.metrics.exposition()
