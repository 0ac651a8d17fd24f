"""`GET /v1/events/stream`: events as they come, resumed without a gap or a repeat after a cut and after a restart."""

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
        """The ids and types of the next so many events."""
        found: list[tuple[str, str]] = []
        fields: dict[str, str] = {}
        async with asyncio.timeout(10):
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
    """An open stream."""
    headers = {"last-event-id": after} if after else {}
    async with running.client.stream("GET", f"/v1/events/stream{query}", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Reader(answer)


async def job_done(running: Running) -> None:
    """A job that is submitted and succeeds: two events."""
    job = await running.submit()
    await running.world.finish(job["provider_job_id"])


async def test_events_come_as_they_happen(tmp_path: Path) -> None:
    """A stream that is open gets each event once, in order, with its id."""
    async with relay(tmp_path, clock=SystemClock(), confirm=False) as running:
        await job_done(running)
        async with reading(running) as reader:
            await job_done(running)
            assert [kind for _, kind in await reader.events(2)] == ["job.submitted", "job.succeeded"]


async def test_a_stream_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    """With Last-Event-ID everything that came meanwhile follows, across a cut and across a restart."""
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
    """`after` keeps what came later, of a job too; one that is not there stands before those with a newer id."""
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
        assert await after("evt_z") == await after("nothing") == []


async def test_a_stream_can_be_narrowed_to_a_type(tmp_path: Path) -> None:
    """`type` leaves the others out."""
    async with relay(tmp_path, clock=SystemClock(), confirm=False) as running:
        await job_done(running)
        async with reading(running, after="evt_0", query="?type=job.succeeded") as reader:
            assert [kind for _, kind in await reader.events(1)] == ["job.succeeded"]


async def test_a_quiet_stream_says_that_it_lives(tmp_path: Path) -> None:
    """A comment comes every 15 seconds, so that no router takes the connection for dead."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, confirm=False) as running, reading(running) as reader:
        lines = reader.answer.aiter_lines()
        assert (await anext(lines)).startswith("retry: ")
        await clock.advance(15)
        async with asyncio.timeout(5):
            while not (await anext(lines)).startswith(":"):
                pass


@pytest.mark.parametrize(("most", "status"), [("PER_PROJECT_", 429), ("", 503)])
async def test_streams_have_their_number(tmp_path: Path, most: str, status: int) -> None:
    """Answer 429 to a stream beyond its project's share, 503 to one beyond all, with Retry-After; take one later."""
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
        async with asyncio.timeout(5):
            while status != 200:
                async with running.client.stream("GET", "/v1/events/stream") as another:
                    status = another.status_code


async def test_what_a_stream_holds_is_bounded(tmp_path: Path) -> None:
    """Look at so many bytes of events together, the next ones afterwards, and one event that alone is larger."""
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


async def test_a_stream_with_little_room_gives_every_event(tmp_path: Path) -> None:
    """Give all events in order to a stream that holds one at a time."""
    async with relay(tmp_path, RELAY_STREAM_BUFFER_BYTES="1") as running:
        for _ in range(3):
            await job_done(running)
        shown = await running.until("/v1/events", lambda shown: len(shown["data"]) == 6)
        first = shown["data"][-1]["id"]
        later = (await running.get(f"/v1/events?after={first}"))["data"]
        ids = [event["id"] for event in reversed(later)]
        async with reading(running, after=first) as reader:
            assert [event_id for event_id, _ in await reader.events(5)] == ids


@pytest.mark.parametrize("after", ["x", "evt_" + "a" * 80])
async def test_an_id_that_is_none_is_refused(tmp_path: Path, after: str) -> None:
    """422 names the header."""
    async with relay(tmp_path) as running:
        answer = await running.client.get("/v1/events/stream", headers={"last-event-id": after})
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "Last-Event-ID")


async def test_a_relay_that_stops_ends_its_streams(tmp_path: Path) -> None:
    """A client is let go at once, and comes back with its last id."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running, reading(running) as reader:
        await quiet()
        running.app.draining.set()
        await clock.advance(1)
        async with asyncio.timeout(5):
            assert [line async for line in reader.answer.aiter_lines() if line.startswith("id")] == []


async def test_a_stream_gives_its_room_back(tmp_path: Path) -> None:
    """Count a stream as closed as soon as its answer ends, even where writing it raised."""
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
