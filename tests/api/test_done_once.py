"""An Idempotency-Key's work is done once: after a kill, after a suspension, and in two processes."""

import asyncio
import re
import signal
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import pytest

from relay.clock import SystemClock
from relay.web.routes import API
from tests.support import processes
from tests.support.past import database, select
from tests.support.ports import free_port
from tests.support.running import DATABASES, INPUT, Running, http_client, relay
from tests.system.test_kill import A_MINUTE_LATER, Scene, scene

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

VERBS: Final = {
    "endpoint": ("POST", "/v1/endpoints", {"url": "{hook}"}, 201),
    "change": ("PATCH", "/v1/endpoints/{endpoint}", {"description": "new"}, 200),
    "deletion": ("DELETE", "/v1/endpoints/{endpoint}", None, 204),
    "rotation": ("POST", "/v1/endpoints/{endpoint}/secret-rotations", {}, 200),
    "test": ("POST", "/v1/endpoints/{endpoint}/tests", {}, 202),
    "probe": ("POST", "/v1/endpoints/{endpoint}/probes", {}, 200),
    "batch": ("POST", "/v1/endpoints/{endpoint}/redeliveries", {"since": "-24h", "which": "all"}, 202),
    "redelivery": ("POST", "/v1/deliveries/{delivery}/redeliveries", {}, 202),
    "cancellation": ("POST", "/v1/jobs/{job}/cancellations", {}, 200),
    "failure": ("POST", "/v1/jobs/{job}/failures", {"reason": "enough"}, 200),
    "status check": ("POST", "/v1/jobs/{job}/status-checks", {}, 200),
    "resubmission": ("POST", "/v1/jobs/{failed}/resubmissions", {"accept_double_charge": True}, 202),
    "key": ("POST", "/v1/keys", {"name": "reports"}, 201),
    "revocation": ("POST", "/v1/keys/{key}/revocations", {}, 200),
    "project": ("POST", "/v1/projects", {"name": "films"}, 201),
}
"""Every request that changes something, except those in ELSEWHERE."""
ROWS: Final = ("redeliveries", "api_keys", "projects")
"""The tables whose rows a request adds and no list of `counted` shows."""
ELSEWHERE: Final = {
    ("POST", "/v1/jobs"),  # tests/system/test_kill.py
    ("POST", "/v1/quotes"),  # changes nothing
    ("POST", "/v1/files"),  # tests/flow/test_paid_uploads.py: a paid upload is paid for once
    ("POST", "/v1/callbacks/{id}/releases"),  # a second one finds no quarantined callback
    ("POST", "/v1/endpoints/{id}/redeliveries/{id}/cancellations"),  # a batch of a few events has ended by then
    ("POST", "/v1/jobs/{id}/approvals"),  # tests/flow/test_approvals.py: a job is decided on once
    ("PATCH", "/v1/archive"),  # the same mode again changes nothing
    ("POST", "/v1/archive/backfills"),  # tests/flow/test_archive.py: a second one finds no result without a copy
    ("POST", "/v1/jobs/{id}/copies"),  # tests/flow/test_archive_shown.py: a second one finds no result to copy
    ("POST", "/v1/bulk-actions"),  # what was done to a job is refused the second time, as by the verb itself
}


def client(stage: Scene) -> httpx.AsyncClient:
    """Return a client with an API key of the scene's relay."""
    client = http_client(stage.origin, timeout_s=40)
    client.headers["idempotency-key"] = "the-one"
    return client


def before_the_kill(stage: Scene, folder: Path) -> AbstractAsyncContextManager[Running]:
    """Return the scene's relay in the test's own process, which has it ready sooner than another one."""
    port = int(stage.origin.rpartition(":")[2])
    return relay(folder, world=stage.world, clock=SystemClock(), port=port)


async def things(stage: Scene) -> dict[str, str]:
    """Return an endpoint, an open job, a failed job, a delivery and a key, by their names in the paths."""
    async with http_client(stage.origin, timeout_s=40) as plain:
        endpoint = (await plain.post("/v1/endpoints", json={"url": stage.hook})).json()["id"]
        body = {"provider": "evolink", "input": INPUT}
        job, failed = [(await plain.post("/v1/jobs", json=body)).json()["id"] for _ in range(2)]
        assert (await plain.post(f"/v1/jobs/{failed}/failures", json={"reason": "test"})).status_code == 200
        found: list[dict[str, Any]] = []
        for _ in range(200):
            if found := (await plain.get("/v1/deliveries?status=delivered")).json()["data"]:
                break
            await asyncio.sleep(0.05)  # another process delivers it
        key = (await plain.post("/v1/keys", json={})).json()["id"]
        named = {"endpoint": endpoint, "job": job, "failed": failed, "delivery": found[-1]["id"], "hook": stage.hook}
        return named | {"key": key}


async def counted(stage: Scene, redelivered_min: int = 0) -> dict[str, int]:
    """Return the number of each kind as soon as there are this many redeliveries."""
    async with client(stage) as asking, asyncio.timeout(60):
        while True:
            lists = {
                kind: (await asking.get(f"/v1/{kind}?limit=200")).json()["data"]
                for kind in ("endpoints", "events", "deliveries")
            }
            redelivered = sum(one["redelivery"] for one in lists["deliveries"])
            if redelivered >= redelivered_min:
                tests = sum(event["type"] == "relay.test" for event in lists["events"])
                return {"endpoints": len(lists["endpoints"]), "tests": tests, "redelivered": redelivered}
            await asyncio.sleep(0.05)  # another process makes them


@pytest.mark.parametrize("verb", VERBS)
async def test_killed_before_its_answer_was_stored_the_work_is_done_once(tmp_path: Path, verb: str) -> None:
    """Answer the repeated request with the work that was committed before the kill, and do nothing twice."""
    method, path, body, status = VERBS[verb]
    async with scene(tmp_path) as stage:
        async with before_the_kill(stage, tmp_path):
            named = await things(stage)
            before = await counted(stage)
        content = None if body is None else msgspec.json.encode(body).replace(b"{hook}", stage.hook.encode())
        path = path.format(**named)
        async with processes.process(stage.environ, "-m", "tests.support.crashing", "work_committed") as second:
            await processes.ready(stage.origin, second)
            async with client(stage) as asking:
                with pytest.raises(httpx.TransportError):
                    await asking.request(method, path, content=content)
            assert await asyncio.wait_for(second.wait(), 60) == -signal.SIGKILL
        sent = len(stage.world.submissions)
        async with processes.process(stage.environ, "-m", "relay", "serve") as third:
            await processes.ready(stage.origin, third)
            async with client(stage) as asking:
                answers = [await asking.request(method, path, content=content) for _ in range(2)]
                for answer in answers:
                    assert (answer.status_code, answer.headers.get("idempotent-replayed")) == (status, "true"), (
                        answer.text
                    )
                assert answers[0].content == answers[1].content
                if verb == "rotation":
                    secret = (await asking.get(f"/v1/endpoints/{named['endpoint']}/secret")).json()["secret"]
                    assert secret == answers[0].json()["secret"]
                if body is not None:
                    other = await asking.request(method, path, content=b'{"other": 1}')
                    assert other.json()["code"] == "idempotency_conflict"
            after = await counted(stage, before["redelivered"] + (answers[0].json()["count"] if verb == "batch" else 0))
    async with database(tmp_path) as opened:
        made = [len(await select(opened, f"SELECT id FROM {table}")) for table in ROWS]
    assert made == [(verb == "batch"), 1 + (verb == "key"), 1 + (verb == "project")]
    once = {"endpoint": {"endpoints": 1}, "deletion": {"endpoints": -1}, "test": {"tests": 1}}
    once |= {"redelivery": {"redelivered": 1}, "probe": {"tests": 1}}
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    if verb == "batch":
        assert changed == {"redelivered": answers[0].json()["count"]}
    else:
        assert changed == once.get(verb, {})
    assert len(stage.world.submissions) == sent


def test_every_request_that_changes_something_is_covered() -> None:
    """Cover each route that changes something: a new one is added here, or to ELSEWHERE with a reason."""
    covered = {(method, re.sub(r"{\w+}", "{id}", path)) for method, path, _, _ in VERBS.values()}
    working = {(route.method, re.sub(r"{\w+}", "{id}", route.path)) for route in API if route.method != "GET"}
    assert working == covered | ELSEWHERE


async def test_killed_while_the_provider_answers_a_resubmission_is_sent_once(tmp_path: Path) -> None:
    """Show the job to the repeated request after a kill between the provider's answer and its row; submit nothing."""
    async with scene(tmp_path) as stage:
        async with before_the_kill(stage, tmp_path):
            failed = (await things(stage))["failed"]
        path, consent = f"/v1/jobs/{failed}/resubmissions", {"accept_double_charge": True}
        sent = len(stage.world.submissions)
        async with processes.process(stage.environ, "-m", "tests.support.crashing", "provider_accepted") as second:
            await processes.ready(stage.origin, second)
            async with client(stage) as asking:
                with pytest.raises(httpx.TransportError):
                    await asking.post(path, json=consent)
            await asyncio.wait_for(second.wait(), 60)
        async with processes.process(stage.environ, *A_MINUTE_LATER) as third:
            await processes.ready(stage.origin, third)
            async with client(stage) as asking:
                answer = await asking.post(path, json=consent)
            assert (answer.status_code, answer.headers["idempotent-replayed"]) == (202, "true")
            assert (answer.json()["id"], answer.json()["status"]) == (failed, "pending")
        assert len(stage.world.submissions) == sent + 1


async def test_a_job_shown_after_a_kill_has_its_endpoints_secrets(tmp_path: Path) -> None:
    """Repeat `notify` with its ids and secrets if the first answer was never sent."""
    async with scene(tmp_path) as stage:
        async with processes.process(stage.environ, "-m", "tests.support.crashing", "submission_recorded") as first:
            await processes.ready(stage.origin, first)
            with pytest.raises(httpx.TransportError):
                await stage.submit()
            await asyncio.wait_for(first.wait(), 60)
        async with processes.process(stage.environ, *A_MINUTE_LATER) as second:
            await processes.ready(stage.origin, second)
            answer = await stage.submit()
            assert (answer.status_code, answer.json()["status"]) == (202, "submitted")
            (notify,) = answer.json()["notify"]
            async with client(stage) as asking:
                secret = await asking.get(f"/v1/endpoints/{notify['endpoint_id']}/secret")
            assert secret.json()["secret"] == notify["secret"]
            assert (await stage.submit()).json() == answer.json()


@pytest.mark.parametrize("elsewhere", [False, True], ids=["of the same process", "of another process"])
async def test_a_key_that_was_taken_over_makes_no_second_job(tmp_path: Path, elsewhere: bool) -> None:
    """Roll back a request that stood still for over a minute while another one reserved its key: one creation."""
    if elsewhere and DATABASES.postgres is None:
        pytest.skip("one process writes to a file")
    async with scene(tmp_path) as stage, AsyncExitStack() as stack:
        suspended = processes.process(stage.environ, "-m", "tests.support.crashing", "job_suspended")
        slow = await stack.enter_async_context(suspended)
        await processes.ready(stage.origin, slow)
        first = asyncio.ensure_future(stage.submit())
        await asyncio.to_thread(_until_stopped, slow.pid)
        if elsewhere:
            port = free_port()
            other = Scene(stage.environ, f"http://127.0.0.1:{port}", stage.world, stage.sink, stage.hook)
            ahead = processes.process(
                stage.environ | {"PORT": str(port)}, "-m", "tests.support.crashing", "minute_ahead"
            )
            await processes.ready(other.origin, await stack.enter_async_context(ahead))
            second = await other.submit()
            slow.send_signal(signal.SIGCONT)
        else:
            slow.send_signal(signal.SIGCONT)
            second = await stage.submit()
        answers = [second, await first, await stage.submit()]
        assert [answer.status_code for answer in answers] == [202] * 3, [answer.text for answer in answers]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len(stage.world.submissions) == 1
        async with client(stage) as asking:
            assert len((await asking.get("/v1/jobs")).json()["data"]) == 1


def _until_stopped(pid: int) -> None:
    """Return when the process is stopped."""
    for _ in range(1000):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.02)  # the kernel stops another process
    raise TimeoutError
