"""What happens to a job after 202: refusals, unknown submissions, retries, deadlines; and lists of jobs."""

import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.sandbox.faults import Faults
from relay.sandbox.serving import serve
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

CLASSES = {
    "evolink": {400: "invalid_input", 401: "auth", 402: "insufficient_funds", 403: "auth", 404: "invalid_input"}
    | {413: "invalid_input", 429: "rate_limited"},
    "relaydance": {400: "invalid_input", 401: "auth", 402: "insufficient_funds", 404: "invalid_input"}
    | {413: "invalid_input", 429: "rate_limited"},
    "kinovi": {400: "invalid_input", 401: "auth", 402: "insufficient_funds", 403: "auth", 404: "invalid_input"}
    | {413: "invalid_input", 429: "rate_limited"},
}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay for one test, on a held clock."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


async def advance(running: Running, seconds: float) -> None:
    """Advance relay's clock."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)


async def reaching(running: Running, job: dict[str, Any], status: str) -> dict[str, Any]:
    """Return the job as soon as it is in a state."""
    return await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == status)


@pytest.mark.parametrize("provider", CLASSES)
async def test_each_refusal_fails_the_job_with_the_providers_message(running: Running, provider: str) -> None:
    """Answer 202, fail the job immediately with class, HTTP status and the provider's message, and send job.failed."""
    for status_code, error_class in CLASSES[provider].items():
        running.world.next_faults.append(Faults(status_code=status_code))
        job = await running.submit(provider, notify=[{"url": running.hook}])
        error = job["error"]
        assert (job["status"], error["class"], error["code"]) == ("failed", error_class, f"http_{status_code}")
        assert list(error) == ["class", "code", "message", "retryable", "provider_code", "provider_message"]
        assert error["provider_message"]
        assert error["retryable"] is (error_class == "rate_limited")
        assert (job["finished_at"], job["provider_job_id"], job["submitted_at"]) == (job["created_at"], None, None)
    await running.sink.wait_for(lambda sink: len(sink.received) == len(CLASSES[provider]))
    assert set(running.sink.events()) == {"job.failed"}


@pytest.mark.parametrize("provider", CLASSES)
@pytest.mark.parametrize("status_code", [500, 502, 503])
async def test_a_server_error_leaves_the_submission_unknown(running: Running, provider: str, status_code: int) -> None:
    """Treat a 5xx, as JSON or as a page, as unknown: keep the message and do not submit the job again."""
    job: dict[str, Any] = {}
    for html in (True, False):
        running.world.next_faults.append(Faults(html=html, status_code=status_code))
        job = await running.submit(provider, deadline_s=60)
        assert (job["status"], job["reason"]) == ("pending", "submit_unknown")
        assert (job["error"]["code"], job["error"]["retryable"]) == (f"http_{status_code}", False)
        assert ("<h1>" in job["error"]["provider_message"]) is html
    await advance(running, 61)
    assert (await reaching(running, job, "expired"))["reason"] == "submit_unknown"
    assert len(running.world.submissions) == 2


@pytest.mark.parametrize("provider", CLASSES)
@pytest.mark.parametrize("submit", ["reset_after", "empty", "id_missing"])
async def test_a_callback_adopts_a_job_whose_answer_was_lost(running: Running, provider: str, submit: str) -> None:
    """Identify the job by the token: use the callback's id and result, and clear the doubt."""
    running.world.next_faults.append(Faults(submit=submit))
    job = await running.submit(provider)
    assert (job["status"], job["reason"], job["provider_job_id"]) == ("pending", "submit_unknown", None)
    theirs = next(iter(running.world.jobs))
    await running.world.finish(theirs)
    done = await reaching(running, job, "succeeded")
    assert (done["provider_job_id"], done["reason"], done["error"]) == (theirs, None, None)
    assert len(running.world.submissions) == 1


async def test_a_provider_that_hangs_does_not_delay_the_answer(tmp_path: Path) -> None:
    """Answer `pending` without a doubt after the wait, and continue the submission in the background."""
    async with relay(tmp_path, RELAY_SUBMIT_WAIT_S="0.2") as running:
        running.world.next_faults.append(Faults(submit="hang"))
        job = await running.submit()
        assert (job["status"], job["reason"], job["error"]) == ("pending", None, None)
        await running.world.wait_for(lambda world: bool(world.jobs))
        await running.world.finish(next(iter(running.world.jobs)))
        await reaching(running, job, "succeeded")


async def test_a_provider_that_is_reachable_again_gets_the_job_once(tmp_path: Path) -> None:
    """Retry the submission while no connection opens, and submit the job once."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_EVOLINK_BASE_URL=f"http://127.0.0.1:{port}") as running:
        job = await running.submit(notify=[{"url": running.hook}])
        assert (job["status"], job["reason"], job["error"]["retryable"]) == ("pending", None, True)
        async with serve(running.world.app, port):
            await clock.advance(6)
            sent = await reaching(running, job, "submitted")
        assert (sent["error"], sent["provider_job_id"]) == (None, next(iter(running.world.jobs)))
        assert len(running.world.submissions) == 1
        assert len((await running.get("/v1/jobs"))["data"]) == 1
        await running.sink.wait_for(lambda sink: sink.events() == ["job.submitted"])


async def test_a_deadline_expires_a_job_and_sends_its_event(running: Running) -> None:
    """Expire the job at its deadline and not before, and send job.expired."""
    job = await running.submit(deadline_s=60, notify=[{"url": running.hook, "event_types": ["job.expired"]}])
    await advance(running, 59)
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    await advance(running, 6)
    ended = await reaching(running, job, "expired")
    assert (ended["reason"], ended["finished_by"], ended["late"]) == ("deadline", "deadline", False)
    assert (ended["error"]["class"], ended["error"]["code"]) == ("timeout", "deadline")
    await running.sink.wait_for(lambda sink: sink.events() == ["job.expired"])
    body = json.loads(running.sink.received[0].body)
    assert (body["data"]["final"], body["data"]["supersedes"], body["data"]["job"]) == (True, None, ended)


async def test_a_late_success_is_a_success_that_supersedes(running: Running) -> None:
    """End the job as succeeded and late, and name the superseded expiry in its event."""
    job = await running.submit(deadline_s=60)
    await advance(running, 61)
    await reaching(running, job, "expired")
    await running.world.finish(job["provider_job_id"])
    done = await reaching(running, job, "succeeded")
    assert (done["late"], done["reason"], done["error"], done["finished_by"]) == (True, None, None, "callback")
    events = (await running.get(f"/v1/events?job={job['id']}"))["data"]
    assert [event["type"] for event in events] == ["job.succeeded", "job.expired", "job.submitted"]
    assert events[0]["data"]["supersedes"] == events[1]["id"]
    assert [event["sequence"] for event in events] == [3, 2, 1]


async def test_lists_are_whole_pages_newest_first(running: Running) -> None:
    """List each item of every kind of list once through its cursor, and mark the last page."""
    for number in range(4):
        await running.submit(notify=[{"url": running.hook}], metadata={"n": str(number)})
        await running.client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["relay.test"]})
    await running.world.finish(next(iter(running.world.jobs)))
    await quiet()  # the callback is answered before the status check that confirms the end, and its event
    for kind, count in (("jobs", 4), ("endpoints", 4), ("events", 5), ("deliveries", 5), ("callbacks", 1)):
        whole = (await running.get(f"/v1/{kind}?limit=200"))["data"]
        ids = [one["id"] for one in whole]
        assert (len(ids), ids) == (count, sorted(ids, reverse=True)), kind
        seen: list[Any] = []
        cursor: str | None = ""
        while cursor is not None:
            shown = await running.get(f"/v1/{kind}?limit=1{f'&cursor={cursor}' if cursor else ''}")
            assert len(shown["data"]) == 1
            seen, cursor = [*seen, shown["data"][0]["id"]], shown["next_cursor"]
        assert seen == ids


async def test_jobs_are_filtered(running: Running) -> None:
    """Filter by status, provider, metadata of any type and creation time, each and all together."""
    first = await running.submit("kinovi", metadata={"user": "42", "n": 7, "deep": {"a": None}, "a=b": "c"})
    await advance(running, 10)
    second = await running.submit("evolink", metadata={"user": "43", "n": "7"})
    await running.world.finish(second["provider_job_id"])
    await reaching(running, second, "succeeded")
    at = "2026-11-21T00:00:00.000Z"
    expected = {
        "status=succeeded": [second],
        "provider=kinovi": [first],
        "metadata[user]=42": [first],
        "metadata[n]=7": [second, first],
        "metadata[n]=7&metadata[user]=43": [second],
        "metadata[a%3Db]=c": [first],
        f"created_after={at}": [second],
        f"created_before={at}": [],
        "created_before=2026-11-21T00:00:00.001Z": [first],
        "created_after=2026-11-20T23:59:59Z&status=submitted": [first],
        "created_after=2026-11-21T01:00:05+01:00": [second],
        "metadata[user]=4": [],
    }
    for query, jobs in expected.items():
        found = (await running.get(f"/v1/jobs?{query}"))["data"]
        assert [one["id"] for one in found] == [one["id"] for one in jobs], query


@pytest.mark.parametrize("kind", ["jobs", "endpoints", "events", "deliveries", "callbacks"])
async def test_wrong_parameters_are_named(running: Running, kind: str) -> None:
    """Answer 422 to a limit out of range, another list's cursor, and an unknown, malformed or repeated parameter."""
    wrong = {name: name for name in ("limt", "metadata", "metadata[a", "metadata[]", "x[y]")}
    queries = {f"{query}=x": path for query, path in wrong.items()} | {
        "limit=0": "limit",
        "limit=201": "limit",
        "limit=-1": "limit",
        "limit=": "limit",
        "limit=1&limit=2": "limit",
        "cursor=x_1": "cursor",
    }
    for query, path in queries.items():
        answer = await running.client.get(f"/v1/{kind}?{query}")
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, path), query


async def test_projects_do_not_see_each_other(running: Running) -> None:
    """Answer 404 to an admin of another project on every route, and keep a job's events in its project."""
    text = (await running.app.store.access.create_api_key("other", "", ["admin"], 1)).text
    headers = {"authorization": f"Bearer {text}"}
    theirs = {"url": running.hook, "event_types": ["*"]}
    await running.client.post("/v1/endpoints", json=theirs, headers=headers)
    job = await running.submit(metadata={"user": "42"}, notify=[{"url": running.hook}])
    endpoint = f"/v1/endpoints/{job['notify'][0]['endpoint_id']}"
    for method, path in (
        ("GET", f"/v1/jobs/{job['id']}"),
        ("GET", f"/v1/jobs/{job['id']}/timeline"),
        ("GET", endpoint),
        ("GET", f"{endpoint}/secret"),
        ("PATCH", endpoint),
        ("DELETE", endpoint),
    ):
        body = {"description": "mine"} if method == "PATCH" else None
        answer = await running.client.request(method, path, headers=headers, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    for query in ("jobs?metadata[user]=42", f"events?job={job['id']}", f"deliveries?job={job['id']}", "callbacks"):
        assert (await running.client.get(f"/v1/{query}", headers=headers)).json()["data"] == []
    await running.world.finish(job["provider_job_id"])
    await running.until("/v1/deliveries?status=delivered", lambda shown: len(shown["data"]) == 2)
    assert (await running.client.get("/v1/deliveries", headers=headers)).json()["data"] == []
