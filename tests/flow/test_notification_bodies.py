"""Bodies of notifications, byte for byte as they were recorded, so that no change of how they are stored changes them.

A recording has one body a line. Ids, which are random, are numbered there in the order in which they appear.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.sandbox.faults import Faults
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from tests.support.calling_back import post
from tests.support.provider_cases import RECORDINGS, recorded
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

ID = re.compile(rb"\b(evt|job|ep)_[0-9a-z]{26}\b")
METADATA = {
    "z": 1.0,
    "a": {"ü/\u2028": 'a "quoted" \\ </script> \U0001f600\x7f\t', "n": None, "t": True},
    "beyond 2^53": 9007199254740993,
    "small": 1e-7,
    "large": 1.5e300,
    "zero": -0.0,
    "empty": {"list": [], "object": {}, "text": ""},
}
INPUT = {"prompt": "Zoë\n geht – «langsam»", "images": ["https://example.com/ä.png?a=1&b=%20"], "duration_s": 5}


async def advance(running: Running, seconds: float) -> None:
    """Advance the clock once everything that is due is done."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)


async def what_a_client_may_send(running: Running) -> None:
    """Send metadata of every kind of value, and a callback with escapes."""
    await running.submit(input=INPUT, metadata=METADATA)
    await advance(running, 1.234)
    await post(running, b'{"status":"processing","progress":41}')
    await advance(running, 60.001)
    await post(running, b'{"status":"completed","results":["https://cdn.example.com/a.mp4?x=%C3%BC&y=\\u00fc"]}')


async def what_a_provider_refuses(running: Running) -> None:
    """Send a native request of a model that relay does not know, which its provider refuses."""
    request = {"prompt": "a", "model": "seedance-9", "options": METADATA, "list": [[1, -2.5], [], [None, False]]}
    await running.submit(request=request)


async def each_provider(running: Running) -> None:
    """Have each provider report a success and a failure, with outputs, costs and errors."""
    for provider in ("evolink", "relaydance", "kinovi"):
        for outcome in ("succeeded", "failed"):
            running.world.next_faults.append(Faults(outcome=outcome))
            job = await running.submit(provider)
            await advance(running, 2)
            await running.world.finish(job["provider_job_id"])
            await advance(running, 3.5)


async def recorded_callbacks(running: Running) -> None:
    """Post the recorded callbacks of EvoLink, as if each were about a job of its own."""
    for name in ("cancelled", "completed", "failed_with_error", "failed_without_error", "minimal_completed"):
        job = await running.submit(request=recorded("evolink", "requests", "portrait"), metadata={"recorded": name})
        body = recorded("evolink", "callbacks", name) | {"id": job["provider_job_id"]}
        await post(running, msgspec.json.encode(body))
        await advance(running, 0.5)


async def ends_that_are_not_the_last(running: Running) -> None:
    """Have an end corrected, and a cancellation superseded by a late success."""
    corrected = await running.submit("kinovi")
    await running.world.finish(corrected["provider_job_id"])
    await advance(running, 1)
    await running.world.turn(corrected["provider_job_id"], "failed")
    await advance(running, 1)
    detached = await running.submit("kinovi")
    (await running.client.post(f"/v1/jobs/{detached['id']}/cancellations")).raise_for_status()
    await advance(running, 1)
    await running.world.finish(detached["provider_job_id"])


async def ends_without_a_provider(running: Running) -> None:
    """Declare one job failed, let one pass its deadline, and let the result of one expire."""
    failed = await running.submit()
    body = {"reason": "the customer left"}
    (await running.client.post(f"/v1/jobs/{failed['id']}/failures", json=body)).raise_for_status()
    await running.submit(deadline_s=60)
    await advance(running, 0)
    await running.submit()
    await post(running, b'{"status":"completed","results":["https://cdn.example.com/a.mp4"]}')
    for seconds in (60, 60, 120, 23 * 3600):
        await advance(running, seconds)


async def about_endpoints(running: Running) -> None:
    """Disable, enable and test an endpoint."""
    made = (await running.client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["job.*"]})).json()
    path = f"/v1/endpoints/{made['id']}"
    for status in ("disabled", "active"):
        (await running.client.patch(path, json={"status": status})).raise_for_status()
        await advance(running, 1)
    (await running.client.post(f"{path}/tests")).raise_for_status()


STORIES = (
    what_a_client_may_send,
    what_a_provider_refuses,
    each_provider,
    recorded_callbacks,
    ends_that_are_not_the_last,
    ends_without_a_provider,
    about_endpoints,
)


@asynccontextmanager
async def listening(folder: Path, clock: HeldClock, url: str = "") -> AsyncIterator[Running]:
    """Yield a relay with an endpoint for everything, at the URL or at its own sink; EvoLink's word is enough."""
    async with relay(folder, clock=clock, RELAY_EVOLINK_CONFIRM="never") as running:
        body = {"url": url or running.hook, "event_types": ["*"]}
        (await running.client.post("/v1/endpoints", json=body)).raise_for_status()
        yield running


def numbered(bodies: Iterable[bytes], running: Running) -> list[bytes]:
    """Return the bodies with numbers in place of ids, and of what a free port and the wall clock made."""
    names: dict[bytes, bytes] = {}

    def name(found: re.Match[bytes]) -> bytes:
        count = sum(known.startswith(found[1]) for known in names)
        return names.setdefault(found[0], b"%b_%d" % (found[1], count + 1))

    shown = []
    for body in bodies:
        for number, provider_job_id in enumerate(running.world.jobs, 1):
            body = body.replace(provider_job_id.encode(), b"provider_job_%d" % number)  # noqa: PLW2901
        shown.append(ID.sub(name, body.replace(running.hook.encode(), b"http://receiver/hook")))
    return shown


async def sent_twice(running: Running) -> list[bytes]:
    """Return each event's body in the events' order, once every delivery was made, and made again from its row."""
    await advance(running, 0)
    first = (await running.get("/v1/deliveries?limit=200"))["data"]
    assert {one["status"] for one in first} == {"delivered"}
    for one in first:
        (await running.client.post(f"/v1/deliveries/{one['id']}/redeliveries")).raise_for_status()
    await running.sink.wait_for(lambda sink: len(sink.received) == 2 * len(first))
    bodies: dict[str, set[bytes]] = {}
    for received in running.sink.received:
        assert received.body.startswith(f'{{"id":"{received.headers["webhook-id"]}",'.encode())
        bodies.setdefault(received.headers["webhook-id"], set()).add(received.body)
    assert {len(found) for found in bodies.values()} == {1}
    return [found.pop() for _, found in sorted(bodies.items())]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
async def test_bodies_are_as_recorded(tmp_path: Path, story: Callable[[Running], Awaitable[None]]) -> None:
    """Send the recorded bytes, at the first attempt and again from the table; the API shows the same data."""
    async with listening(tmp_path, HeldClock()) as running:
        await story(running)
        bodies = await sent_twice(running)
        shown = numbered(bodies, running)
        recording = RECORDINGS / "notifications" / f"{story.__name__}.jsonl"
        assert shown == recording.read_bytes().splitlines()
        for body in bodies:
            sent: dict[str, Any] = msgspec.json.decode(body)
            event = await running.get(f"/v1/events/{sent['id']}")
            assert list(event["data"].items()) == list(sent["data"].items())
            row = await running.app.store.events.get(sent["id"], sent["project"])
            assert row is not None
            assert row.body == body  # what is sent again may come from memory, and this does not


async def test_a_retry_by_another_process_sends_the_same_bytes(tmp_path: Path) -> None:
    """Send after a restart, byte for byte, what was sent before it."""
    clock, sink = HeldClock(), Sink()
    sink.answers = [503] * 20
    async with serve(sink) as origin:
        async with listening(tmp_path, clock, f"{origin}/hook") as running:
            await what_a_client_may_send(running)
            await clock.advance(0)
        before = len(sink.received)
        sink.answers.clear()
        async with relay(tmp_path, clock=clock):
            await clock.advance(3600)
            await sink.wait_for(lambda sink: len(sink.received) == before + 3)
    assert before >= 3
    bodies: dict[str, set[bytes]] = {}
    for received in sink.received:
        bodies.setdefault(received.headers["webhook-id"], set()).add(received.body)
    assert [len(found) for found in bodies.values()] == [1] * 3
