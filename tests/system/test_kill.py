"""A real SIGKILL between any two steps: what was acknowledged is there after a restart, and nothing is sent twice."""

import asyncio
import hashlib
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from relay.archive.folder import PART
from relay.sandbox.faults import Faults
from relay.sandbox.providers import sandbox
from relay.sandbox.serving import serve
from relay.sandbox.sink import Sink
from relay.sandbox.world import Sandbox
from relay.storage.engine.database_url import is_postgres
from tests.support import crashing, processes, s3
from tests.support.ports import free_port
from tests.support.results import CLIP, Results, chunked, whole
from tests.support.running import INPUT, environment, http_client

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

SUBMITTING = ("job_committed", "submission_started", "provider_accepted", "submission_recorded")
RECEIVING = ("callback_arrived", "callback_committed")
DELIVERING = ("delivery_claimed", "notification_sent", "attempt_committed")
PRUNING = ("job_half_pruned",)
"""Tried in tests/storage/test_prune.py."""
CHECKING = ("check_claimed",)
"""Tried in tests/system/test_resuming.py."""
COPYING = ("copy_claimed", "copy_named", "copy_half_written", "copy_written", "copy_ended")
STREAMING = ("copy_half_sent", "copy_half_spooled", "copy_sent")
VIDEO = CLIP + bytes(range(256)) * 48_000
"""Twelve million bytes: more than are written to a bucket whole."""
ONCE = ("work_committed", "job_suspended", "minute_ahead")
"""Tried in tests/api/test_done_once.py."""
A_MINUTE_LATER = ("-m", "tests.support.crashing", "minute_ahead")
"""relay as it is a minute after the kill: it no longer waits for the answer of the request that was killed, which would
take the test 27 seconds."""


class Scene:
    """The world around a relay that is killed and started again on the same port and database."""

    def __init__(self, environ: dict[str, str], origin: str, world: Sandbox, sink: Sink, hook: str) -> None:
        self.environ = environ
        self.origin = origin
        self.world = world
        self.sink = sink
        self.hook = hook
        self.body = {"provider": "evolink", "input": INPUT, "notify": [{"url": hook}]}

    async def submit(self) -> httpx.Response:
        """Return the one job, always with the same Idempotency-Key."""
        async with http_client(self.origin) as client:
            return await client.post("/v1/jobs", json=self.body, headers={"idempotency-key": "the-one"})

    async def job_when(self, job_id: str, *states: str, reason: str | None = None) -> dict[str, object]:
        """Return the job once it is in one of these states (for that reason)."""
        async with http_client(self.origin) as client, asyncio.timeout(60):
            while True:
                job: dict[str, object] = (await client.get(f"/v1/jobs/{job_id}")).json()
                if job["status"] in states and (reason is None or job["reason"] == reason):
                    return job
                await asyncio.sleep(0.05)  # another process does it

    async def all_delivered(self, job_id: str, final: str) -> None:
        """Return when every event of the job is delivered, the final one among them."""
        async with http_client(self.origin) as client, asyncio.timeout(60):
            while True:
                events = (await client.get(f"/v1/events?job={job_id}")).json()["data"]
                if [e for e in events if e["type"] == final] and all(e["deliveries"]["delivered"] == 1 for e in events):
                    return
                await asyncio.sleep(0.05)  # another process does it

    async def event_types(self, job_id: str) -> list[str]:
        """Return the types of the job's events, the first one first."""
        async with http_client(self.origin) as client:
            return [event["type"] for event in (await client.get(f"/v1/events?job={job_id}")).json()["data"][::-1]]


@asynccontextmanager
async def scene(folder: Path, submit_s: str = "10") -> AsyncIterator[Scene]:
    """Yield a sandbox, a sink, and the settings of a relay between them; a submission has so long for its answer."""
    async with AsyncExitStack() as stack:
        world, sink = sandbox(pace_s=None, time_scale=0), Sink()
        stack.push_async_callback(world.close)
        providers_at = await stack.enter_async_context(serve(world.app))
        hook = await stack.enter_async_context(serve(sink)) + "/hook"
        port = free_port()
        origin = f"http://127.0.0.1:{port}"
        environ = environment(folder, origin, providers_at) | {
            "PORT": str(port),
            "RELAY_HOST": "127.0.0.1",
            "RELAY_LEASE_S": "2",
            "RELAY_SUBMIT_TIMEOUT_S": submit_s,
            "RELAY_SUBMIT_WAIT_S": submit_s,
        }
        yield Scene(environ, origin, world, sink, hook)


@pytest.mark.parametrize("point", SUBMITTING)
async def test_killed_while_submitting_the_job_is_sent_once_and_told(tmp_path: Path, point: str) -> None:
    """Killed while submitting, the job is there after a restart, created at most once, ended by its callback."""
    async with scene(tmp_path, submit_s="1") as stage:
        await _killed(stage, point)
        async with processes.process(stage.environ, *A_MINUTE_LATER) as second:
            await processes.ready(stage.origin, second)
            answer = await stage.submit()
            assert (answer.status_code, answer.headers["idempotent-replayed"]) == (202, "true")
            job_id = answer.json()["id"]
            created = {"job_committed": "submitted", "submission_recorded": "submitted"}.get(point, "pending")
            reason = "submit_unknown" if created == "pending" else None
            job = await stage.job_when(job_id, created, reason=reason)
            if point != "submission_started":
                await stage.world.wait_for(lambda world: len(world.jobs) == 1)
                await stage.world.finish(next(iter(stage.world.jobs)))
                job = await stage.job_when(job_id, "succeeded")
                await stage.all_delivered(job_id, "job.succeeded")
            assert len(stage.world.submissions) == (0 if point == "submission_started" else 1), job
            _same_id_for_each_event(stage.sink)


@pytest.mark.parametrize("point", RECEIVING + DELIVERING)
async def test_killed_after_that_every_event_arrives(tmp_path: Path, point: str) -> None:
    """Killed at any step from the callback on, every event is delivered after a restart, a repeat under the same id."""
    async with scene(tmp_path) as stage:
        async with processes.process(stage.environ, "-m", "tests.support.crashing", point) as first:
            await processes.ready(stage.origin, first)
            try:
                await stage.submit()
                await stage.world.finish(next(iter(stage.world.jobs)))
            except (httpx.TransportError, StopIteration):
                pass
            assert await asyncio.wait_for(first.wait(), 60) == -signal.SIGKILL
        async with processes.process(stage.environ, "-m", "relay", "serve") as second:
            await processes.ready(stage.origin, second)
            job_id = (await stage.submit()).json()["id"]
            await stage.world.finish(next(iter(stage.world.jobs)))
            job = await stage.job_when(job_id, "succeeded")
            await stage.all_delivered(job_id, "job.succeeded")
            assert len(stage.world.submissions) == 1, job
            assert stage.sink.events().count("job.succeeded") <= 2
            _same_id_for_each_event(stage.sink)


@pytest.mark.parametrize("point", COPYING)
async def test_killed_while_copying_the_result_is_whole_and_announced(tmp_path: Path, point: str) -> None:
    """Killed at any step of a copy, the bucket has no half object, and after a restart the whole one is announced."""
    bucket = tmp_path / "bucket"
    async with scene(tmp_path) as stage:
        stage.world.serves_results = True
        stage.environ["RELAY_ARCHIVE_URL"] = bucket.as_uri()
        async with processes.process(stage.environ, "-m", "tests.support.crashing", point) as first:
            await processes.ready(stage.origin, first)
            job_id = (await stage.submit()).json()["id"]
            await stage.world.finish(next(iter(stage.world.jobs)))
            assert await asyncio.wait_for(first.wait(), 60) == -signal.SIGKILL
        assert [file.read_bytes() for file in bucket.rglob("*.mp4") if file.name[0] != "."] in ([], [CLIP])
        async with processes.process(stage.environ, "-m", "relay", "serve") as second:
            await processes.ready(stage.origin, second)
            await stage.all_delivered(job_id, "job.archived")
            job = await stage.job_when(job_id, "succeeded")
            assert job["outputs"][0]["archive"]["sha256"] == hashlib.sha256(CLIP).hexdigest()  # type: ignore[index]
        files = {file.name: file.read_bytes() for file in bucket.rglob("*") if file.is_file()}
        halves = {name for name in files if name.startswith(".")}
        assert [body for name, body in files.items() if name not in halves] == [CLIP]
        # On PostgreSQL the killed process may be one that was cut off and still writes, so its half is deleted later.
        url = stage.environ["DATABASE_URL"]
        assert halves <= (await _parts_left(url) if is_postgres(url) else set())
        assert stage.sink.events().count("job.archived") <= 2
        _same_id_for_each_event(stage.sink)


async def _parts_left(url: str) -> set[str]:
    """Return the names of the half files that are queued to be deleted."""
    connection: Any = await asyncpg.connect(url)
    try:
        keys = [row["key"] for row in await connection.fetch("SELECT key FROM objects_left")]
    finally:
        await connection.close()
    return {f".{key.rpartition('/')[2]}{PART}" for key in keys}


@pytest.fixture(scope="module")
def store() -> Iterator[s3.S3]:
    """Yield an S3 server, which lives on when relay is killed."""
    with s3.server() as running:
        yield running


@pytest.mark.parametrize(
    ("point", "body"),
    [
        *((point, CLIP) for point in COPYING if point != "copy_half_written"),
        *((point, VIDEO) for point in (*STREAMING, "copy_written")),
    ],
)
async def test_killed_while_copying_to_s3_nothing_half_is_left(
    tmp_path: Path, store: s3.S3, point: str, body: bytes
) -> None:
    """Killed at any step of a copy to S3, there is no half object and no upload in parts, and one fact is announced."""
    store.empty()
    async with scene(tmp_path) as stage, Results().served() as results:
        results.answer = chunked(body) if point == "copy_half_spooled" else whole(body)
        stage.environ |= store.environment | {"RELAY_ARCHIVE_URL": f"s3://{s3.BUCKET}/kept"}
        async with processes.process(stage.environ, "-m", "tests.support.crashing", point) as first:
            await processes.ready(stage.origin, first)
            job_id = (await stage.submit()).json()["id"]
            made = next(iter(stage.world.jobs.values()))
            made.results_at = results.origin
            await stage.world.finish(made.id)
            assert await asyncio.wait_for(first.wait(), 60) == -signal.SIGKILL
        assert list(map(store.body, store.keys())) in ([], [body])
        assert store.uploads() == []
        async with processes.process(stage.environ, "-m", "relay", "serve") as second:
            await processes.ready(stage.origin, second)
            await stage.all_delivered(job_id, "job.archived")
            shown = (await stage.job_when(job_id, "succeeded"))["outputs"][0]["archive"]  # type: ignore[index]
            assert await stage.event_types(job_id) == ["job.submitted", "job.succeeded", "job.archived"]
        (key,) = store.keys()
        assert key == f"kept/{shown['key']}"
        assert shown["sha256"] == hashlib.sha256(store.body(key)).hexdigest() == hashlib.sha256(body).hexdigest()
        assert (shown["bytes"], store.uploads()) == (len(body), [])
        _same_id_for_each_event(stage.sink)


async def _killed(stage: Scene, point: str) -> None:
    """Submit the job to a relay that dies at the point."""
    async with processes.process(stage.environ, "-m", "tests.support.crashing", point) as first:
        await processes.ready(stage.origin, first)
        with pytest.raises(httpx.TransportError):
            await stage.submit()
        assert await asyncio.wait_for(first.wait(), 60) == -signal.SIGKILL


def _same_id_for_each_event(sink: Sink) -> None:
    """Every notification of one event carries its id as webhook-id, and the same bytes."""
    seen: dict[tuple[str, int], set[tuple[str, bytes]]] = defaultdict(set)
    for received in sink.received:
        body = msgspec.json.decode(received.body)
        assert received.headers["webhook-id"] == body["id"]
        seen[body["data"]["job"]["id"], body["data"]["sequence"]].add((body["id"], received.body))
    assert all(len(bodies) == 1 for bodies in seen.values())


def test_every_point_is_tried() -> None:
    """No crash point is left out of the tests above."""
    assert sorted(SUBMITTING + RECEIVING + DELIVERING + CHECKING + PRUNING + COPYING + STREAMING + ONCE) == sorted(
        crashing.POINTS
    )


async def test_killed_within_a_verb_its_entry_in_the_audit_stays_open(tmp_path: Path) -> None:
    """Killed while a status check waits for the provider, the audit has it after a restart, without a status."""
    async with scene(tmp_path) as stage:
        stage.world.next_faults.append(Faults(check="hang"))
        async with processes.process(stage.environ, "-m", "relay", "serve") as first:
            await processes.ready(stage.origin, first)
            job_id = (await stage.submit()).json()["id"]
            async with http_client(stage.origin) as client:
                check = asyncio.create_task(client.post(f"/v1/jobs/{job_id}/status-checks"))
                async with asyncio.timeout(60):
                    while not (await client.get("/v1/audit")).json()["data"]:  # noqa: ASYNC110 - what is awaited is behind HTTP
                        await asyncio.sleep(0.02)  # another process does it
                first.kill()
                with pytest.raises(httpx.TransportError):
                    await check
        async with processes.process(stage.environ, "-m", "relay", "serve") as second:
            await processes.ready(stage.origin, second)
            async with http_client(stage.origin) as client:
                (entry,) = (await client.get("/v1/audit")).json()["data"]
    assert (entry["verb"], entry["target"], entry["status"], entry["code"]) == ("jobs.check", job_id, None, None)


async def test_killed_between_a_cut_answer_and_its_look_up_the_job_is_found(tmp_path: Path) -> None:
    """Killed before it looks up a job whose answer was cut, relay finds it later, and creates no second one."""
    async with scene(tmp_path, submit_s="1") as stage:
        request = {"model": "kling-3.0", "prompt": "A paper boat on a lake"}
        stage.body = {"provider": "kling", "request": request, "notify": [{"url": stage.hook}]}
        stage.world.next_faults.append(Faults(submit="reset_after", lost=True))
        async with processes.process(stage.environ, "-m", "tests.support.crashing", "check_claimed") as first:
            await processes.ready(stage.origin, first)
            job_id = (await stage.submit()).json()["id"]
            await stage.job_when(job_id, "pending", reason="submit_unknown")
            assert await asyncio.wait_for(first.wait(), 60) == -signal.SIGKILL
        assert stage.world.status_checks == []
        async with processes.process(stage.environ, "-m", "relay", "serve") as second:
            await processes.ready(stage.origin, second)
            job = await stage.job_when(job_id, "submitted")
            assert [job["provider_job_id"]] == list(stage.world.jobs)
            await stage.world.finish(str(job["provider_job_id"]))
            async with http_client(stage.origin) as client:
                checked = await client.post(f"/v1/jobs/{job_id}/status-checks")
                assert checked.json()["status"] == "succeeded"
            await stage.all_delivered(job_id, "job.succeeded")
        assert len(stage.world.submissions) == len(stage.world.jobs) == 1
        assert stage.world.callbacks == []
        _same_id_for_each_event(stage.sink)
