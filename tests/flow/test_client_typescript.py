"""The TypeScript client, compiled by the official compiler, against a live relay: submit, wait, verify."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import INPUT, KEY, relay

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


async def test_a_job_is_submitted_awaited_and_its_notification_verified(compiled: Path, tmp_path: Path) -> None:
    """Go the whole way in Node: one job for one key, its end by the stream, its notification genuine or refused."""
    async with relay(tmp_path) as running, driven(compiled) as step:
        first = await step(url=running.origin, key=KEY, hook=running.hook, input=INPUT)
        assert first["job"] == first["again"]
        assert len(running.world.jobs) == 1
        submitted = (await running.get(f"/v1/events?job={first['job']}"))["data"][0]["id"]
        await running.world.finish(first["provider_job_id"])
        second = await step(after=submitted)
        ended = {"status": "succeeded", "listed": [first["job"]], "streamed": ["job.succeeded"]}
        assert {name: second[name] for name in ended} == ended
        assert second["output"].startswith("http")
        assert (second["refused"], second["wrong"]) == ("invalid_input", ["input.images[0]", "input.prompt"])
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
        received = next(one for one in running.sink.received if b'"job.succeeded"' in one.body)
        now_s = int(received.headers["webhook-timestamp"])
        third = await step(headers=received.headers, body=received.body.decode(), now=now_s)
        assert third == {"type": "job.succeeded", "bad": ["refused"] * 4}


async def test_an_abort_ends_what_waits(compiled: Path) -> None:
    """Throw the AbortError of a signal that is aborted before, or during a pause or a request, of every method."""
    script, pipe = str(ROOT / "tests" / "node" / "abort.mjs"), asyncio.subprocess.PIPE
    node = await asyncio.create_subprocess_exec("node", script, str(compiled), stdout=pipe)
    printed, _ = await asyncio.wait_for(node.communicate(), 60)
    found: dict[str, list[str | int]] = json.loads(printed)
    assert found == {
        "stream, aborted before": ["AbortError", 0],
        "stream, in a pause that relay asked for": ["AbortError", 1],
        "stream, in a pause after a lost connection": ["AbortError", 1],
        "wait, aborted before": ["AbortError", 0],
        "wait, in a pause": ["AbortError", 1],
        "wait, while the job is requested": ["AbortError", 2],
        "wait, in a pause after its stream has ended": ["AbortError", 2],
        "a request, in a pause that relay asked for": ["AbortError", 1],
        "a request, in a pause after a lost connection": ["AbortError", 1],
    }


@asynccontextmanager
async def driven(compiled: Path) -> AsyncIterator[Callable[..., Awaitable[dict[str, Any]]]]:
    """Yield what gives tests/node/client.mjs a line and returns the line that it prints."""
    script, pipe = str(ROOT / "tests" / "node" / "client.mjs"), asyncio.subprocess.PIPE
    node = await asyncio.create_subprocess_exec("node", script, str(compiled), stdin=pipe, stdout=pipe, stderr=pipe)

    async def step(**given: Any) -> dict[str, Any]:
        assert node.stdin is not None
        assert node.stdout is not None
        node.stdin.write(json.dumps(given).encode() + b"\n")
        line = await asyncio.wait_for(node.stdout.readline(), 60)
        assert line, (await node.communicate())[1].decode()
        shown: dict[str, Any] = json.loads(line)
        return shown

    try:
        yield step
        assert await asyncio.wait_for(node.wait(), 60) == 0
    finally:
        if node.returncode is None:
            node.kill()
        await node.communicate()
