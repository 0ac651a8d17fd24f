"""PostgreSQL goes away under relay, at any moment: what was acknowledged is there and told, and relay goes on."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest

from relay.clock import Clock, SystemClock
from relay.context import WRITE_PAUSE_MS
from relay.errors import StorageUnavailable
from relay.storage.engine.database import DueWork
from relay.storage.engine.migrations import migrate
from relay.storage.engine.postgres import POOL_MAX, PostgreSQL
from relay.web.callback_route import COMMIT_DEADLINE_S
from tests.support.postgres import Server
from tests.support.running import INPUT, HeldClock, Running, relay
from tests.system.test_many_processes import Scene, ends, scene

pytestmark = pytest.mark.anyio

JOBS = 40
DONE = b'{"status":"completed","results":["https://cdn.example.com/videos/out.mp4"]}'


class Provider:
    """Posts the callbacks of jobs, each again and again until it gets a 200, as a patient provider would."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.statuses: Counter[int] = Counter()
        self.slowest_s = 0.0

    async def call_back(self, pause_s: float) -> None:
        """All of them, steadily, one begun every `pause_s`."""
        limits = httpx.Limits(max_connections=JOBS, max_keepalive_connections=JOBS)
        async with (
            httpx.AsyncClient(trust_env=False, timeout=10, limits=limits) as client,
            asyncio.TaskGroup() as posting,
        ):
            for url in self.urls:
                posting.create_task(self._until_received(client, url))
                await asyncio.sleep(pause_s)  # the load's own pace

    async def _until_received(self, client: httpx.AsyncClient, url: str) -> None:
        """One callback; a 503 says when to come again."""
        while True:
            began = time.monotonic()
            answer = await client.post(url, content=DONE)
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                return
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            await asyncio.sleep(0.2)  # a provider's pause, shorter than it was asked for: processes, in real time


async def submitted(stage: Scene, number: int) -> list[str]:
    """So many jobs; the callback URLs that their provider was given."""
    async with stage.client() as client:
        body = {
            "provider": "evolink",
            "input": INPUT,
            "notify": [{"url": stage.hook, "event_types": ["job.succeeded"]}],
        }
        answers = [await client.post("/v1/jobs", json=body) for _ in range(number)]
    assert {answer.status_code for answer in answers} == {202}
    return [str(job.callback_url) for job in stage.world.jobs.values()]


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGINT], ids=["immediate", "fast"])
@pytest.mark.parametrize("apart", [False, True], ids=["one process", "web and work"])
async def test_a_restart_under_load_loses_nothing(
    tmp_path: Path, database_server: Server, how: signal.Signals, apart: bool
) -> None:
    """Each callback gets 200, or 503 in time; what got 200 is stored once and told; the same processes go on."""
    async with scene(tmp_path, database_server.database()) as stage:
        stage.environ |= {"RELAY_EVOLINK_CONFIRM": "never"}
        children = [await stage.start("serve", *(["--no-dispatch"] if apart else []))]
        children += [await stage.start("work")] if apart else []
        provider = Provider(await submitted(stage, JOBS))
        posting = asyncio.create_task(provider.call_back(0.03))
        async with asyncio.timeout(60):
            while provider.statuses[200] < JOBS // 10:  # noqa: ASYNC110 - processes of their own answer
                await asyncio.sleep(0.01)
        await asyncio.to_thread(database_server.restart, how)
        restarted_at = time.monotonic()
        await asyncio.wait_for(posting, 60)
        await stage.told(JOBS)
        assert time.monotonic() - restarted_at < 15
        assert set(provider.statuses) == {200, 503}
        assert provider.slowest_s < COMMIT_DEADLINE_S
        assert [child.returncode for child in children] == [None] * len(children)
        async with stage.client() as client:
            jobs = (await client.get("/v1/jobs?limit=200")).json()["data"]
            assert Counter(job["status"] for job in jobs) == {"succeeded": JOBS}
            found = (await client.get("/v1/callbacks?limit=200")).json()["data"]
            assert Counter(one["job"] for one in found if one["verdict"] == "recorded") == {
                job["id"]: 1 for job in jobs
            }
            events = (await client.get("/v1/events?type=job.succeeded&limit=200")).json()["data"]
            assert {event["id"] for event in events} == set(ends(stage.sink, "job.succeeded"))
            assert len(events) == JOBS


class Cutter:
    """Stands between relay and PostgreSQL, and cuts a connection once its COMMIT has arrived, before the answer.

    What comes without BEGIN is committed as it arrives.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._marker: bytes | None = None
        self._open: set[asyncio.Event] = set()
        self.cut = asyncio.Event()

    def vanish(self) -> int:
        """Lose what comes on the open connections, both ways, without notice; return how many. New ones are good."""
        for vanished in self._open:
            vanished.set()
        return len(self._open)

    def arm(self, marker: bytes) -> None:
        """Commit the next transaction that writes this, and lose the answer."""
        self._marker = marker
        self.cut.clear()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        silenced, vanished = asyncio.Event(), asyncio.Event()
        self._open.add(vanished)

        async def down() -> None:
            while answer := await up_reader.read(65536):
                if silenced.is_set():
                    break
                if not vanished.is_set():
                    writer.write(answer)

        answering = asyncio.create_task(down())
        written, begun = b"", False
        try:
            while sent := await reader.read(65536):
                if vanished.is_set():
                    continue
                written, begun = written + sent, begun or b"BEGIN" in sent
                if b"COMMIT" in written or not begun:
                    if self._marker and self._marker in written:
                        self._marker = None
                        silenced.set()
                    written, begun = b"", False
                up_writer.write(sent)
                if silenced.is_set():
                    await asyncio.wait_for(answering, 60)
                    self.cut.set()
                    return
        except ConnectionError:
            return
        finally:
            self._open.discard(vanished)
            answering.cancel()
            up_writer.close()
            writer.close()


@asynccontextmanager
async def cutter_before(database_server: Server) -> AsyncIterator[tuple[str, Cutter]]:
    """Yield a cutter, and the URL of a fresh database by way of it."""
    cutter = Cutter(database_server)
    server = await asyncio.start_server(cutter, "127.0.0.1", 0)
    parts = urlsplit(database_server.database())
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield urlunsplit(parts._replace(netloc=f"relay@127.0.0.1:{port}")), cutter


@asynccontextmanager
async def cut_off(
    tmp_path: Path, database_server: Server, clock: Clock | None = None
) -> AsyncIterator[tuple[Running, Cutter]]:
    """Yield a relay that reaches its database by way of a cutter."""
    async with (
        cutter_before(database_server) as (url, cutter),
        relay(tmp_path, clock=clock or SystemClock(), confirm=False, DATABASE_URL=url, RELAY_LEASE_S="2") as running,
    ):
        yield running, cutter


async def delivered(running: Running, job: dict[str, Any], *kinds: str) -> None:
    """Return when the job's events are these and each is delivered by one attempt; AssertionError otherwise."""
    path = f"/v1/deliveries?job={job['id']}"
    shown = await running.until(
        path, lambda page: len(page["data"]) == len(kinds) and all(one["status"] == "delivered" for one in page["data"])
    )
    assert [one["attempts_made"] for one in shown["data"]] == [1] * len(kinds)
    assert sorted(running.sink.events()) == sorted(kinds)


async def test_a_callback_whose_commit_was_cut_is_repeated_and_told_once(
    tmp_path: Path, database_server: Server
) -> None:
    """503, for nobody knows; the provider's next try is a repetition, and the one event goes out after its lease."""
    async with cut_off(tmp_path, database_server) as (running, cutter):
        job = await running.submit(notify=[{"url": running.hook, "event_types": ["job.succeeded"]}])
        cutter.arm(b"cb_")
        answer = await running.client.post(running.callback_url(), content=DONE)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        answer = await running.client.post(running.callback_url(), content=DONE)
        assert answer.status_code == 200
        dispositions = [one["verdict"] for one in (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]]
        assert dispositions == ["repeated", "recorded"]
        await delivered(running, job, "job.succeeded")


async def test_a_submission_whose_commit_was_cut_is_recorded_once(
    tmp_path: Path, database_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The provider's answer is written again and found to be there: one call, one event, one submission."""
    async with cut_off(tmp_path, database_server) as (running, cutter):
        cutter.arm(b"call_")
        job = await running.submit(notify=[{"url": running.hook}])
        assert cutter.cut.is_set()
        assert (job["status"], len(running.world.submissions)) == ("submitted", 1)
        timeline = (await running.get(f"/v1/jobs/{job['id']}/timeline"))["data"]
        assert [one["kind"] for one in timeline].count("submission") == 1
        await delivered(running, job, "job.submitted")
    assert "attempt_error" not in caplog.text


async def test_an_attempt_whose_commit_was_cut_counts_once(
    tmp_path: Path, database_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is written again and found to be there: the endpoint is called once, and the delivery has one attempt."""
    clock = HeldClock()
    async with cut_off(tmp_path, database_server, clock) as (running, cutter):
        cutter.arm(b"att_")
        job = await running.submit(notify=[{"url": running.hook}])
        await asyncio.wait_for(cutter.cut.wait(), 60)
        for later_s in (0, WRITE_PAUSE_MS / 1000, 60):
            await clock.advance(later_s)
            await delivered(running, job, "job.submitted")
    assert "attempt_error" not in capsys.readouterr().err


async def test_the_first_connection_that_gets_no_answer_speaks_for_all(
    database_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Five connections and one that listens vanish: one read fails, then all is made anew, and hints come again."""
    async with cutter_before(database_server) as (url, cutter):
        database = await PostgreSQL.open(url)
        try:
            await migrate(database, 1)
            together = asyncio.Barrier(POOL_MAX)

            async def meet(_: Any) -> None:
                await together.wait()

            woken = asyncio.Queue[DueWork]()
            listening = asyncio.create_task(database.listen(woken.put_nowait))
            assert [await woken.get() for _ in DueWork] == list(DueWork)
            await asyncio.gather(*(database.transact(meet) for _ in range(POOL_MAX)))
            assert cutter.vanish() == POOL_MAX + 1
            with pytest.raises(StorageUnavailable):
                await database.rows("schema_version", {})
            await asyncio.gather(*(database.transact(meet) for _ in range(POOL_MAX)))
            assert [await woken.get() for _ in DueWork] == list(DueWork)
            await database.transact(lambda transaction: transaction.notify(DueWork.CHECKS))
            assert await woken.get() is DueWork.CHECKS
            listening.cancel()
        finally:
            await database.close()
    assert not caplog.records


async def test_a_server_that_vanished_without_a_word_is_given_up(tmp_path: Path, database_server: Server) -> None:
    """As in a failover: no connection is cut, none answers. 503 in time, and soon 200 by another connection."""
    async with cut_off(tmp_path, database_server) as (running, cutter):
        job = await running.submit(notify=[{"url": running.hook, "event_types": ["job.succeeded"]}])
        cutter.vanish()
        provider = Provider([running.callback_url()])
        async with asyncio.timeout(60):  # one connection's timeout, not that of five
            await provider.call_back(0)
        assert set(provider.statuses) == {200, 503}
        assert provider.slowest_s < COMMIT_DEADLINE_S + 1
        await delivered(running, job, "job.succeeded")
