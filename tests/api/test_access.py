"""Authorization and refusals of the API: keys, scopes, projects, bodies, Idempotency-Keys, endpoints."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.clock import SystemClock
from relay.web.dashboard import VERBS
from relay.web.routes import API
from tests.support.quiescence import quiet, watched_loop
from tests.support.running import INPUT, HeldClock, Running, http_client, relay

pytestmark = pytest.mark.anyio

GOOD = {"provider": "evolink", "input": INPUT}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path) as started:
        yield started


def code(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and code of a complete problem document."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail", "code"} <= set(problem)
    return answer.status_code, problem["code"]


async def key(running: Running, project: str, *scopes: str) -> dict[str, str]:
    """Return the Authorization header of a new key."""
    text = (await running.app.store.access.create_api_key(project, "", scopes, 1)).text
    return {"authorization": f"Bearer {text}"}


async def test_every_route_needs_a_valid_key(running: Running) -> None:
    """Answer 401 without a key, with an unknown one, and with another scheme."""
    for header in ("", "Bearer", "Bearer wrong", "Basic abc", "Bearer ü"):
        async with http_client(running.origin, None) as client:
            answer = await client.get("/v1/jobs", headers=[(b"authorization", header.encode())])
            assert code(answer) == (401, "unauthorized")


async def test_a_key_does_what_its_scopes_say(running: Running) -> None:
    """Let `read` read, `submit` submit and `admin` do everything; answer 403 to the rest."""
    allowed = {"read": {"GET"}, "submit": {"POST"}, "admin": {"GET", "POST", "ADMIN"}}
    for scope, may in allowed.items():
        headers = await key(running, "films", scope)
        answers = {
            "GET": await running.client.get("/v1/jobs", headers=headers),
            "POST": await running.client.post("/v1/jobs", json=GOOD, headers=headers),
            "ADMIN": await running.client.post("/v1/endpoints", json={"url": running.hook}, headers=headers),
        }
        assert {name for name, answer in answers.items() if answer.status_code < 300} == may
        assert all(answer.status_code in (200, 201, 202, 403) for answer in answers.values())


async def test_a_key_that_reads_changes_nothing_by_any_route(running: Running) -> None:
    """Refuse each route of the API that is not GET, and each form of the dashboard, to a key that may only read."""
    headers = await key(running, "films", "read")
    answers = {
        (route.method, route.path): (
            await running.client.request(route.method, re.sub(r"{\w+}", "x", route.path), headers=headers)
        ).status_code
        for route in API
        if route.method != "GET"
    }
    assert len(answers) > 15
    assert set(answers.values()) == {403}
    assert {route for verb in VERBS for route in verb.routes} <= {" ".join(route) for route in answers}


async def test_another_projects_things_are_not_there(running: Running) -> None:
    """Answer 404 for another project's jobs, endpoints, events, deliveries and callbacks, and list none of them."""
    job = await running.submit(notify=[{"url": running.hook}])
    await running.world.finish(job["provider_job_id"])
    await running.until("/v1/deliveries?status=delivered", lambda shown: len(shown["data"]) == 2)
    stranger = await key(running, "strangers", "admin")
    for kind in ("jobs", "events", "deliveries", "callbacks", "endpoints"):
        mine = (await running.get(f"/v1/{kind}"))["data"]
        ids = [one["id"] for one in mine] or [job["notify"][0]["endpoint_id"]]
        assert (await running.client.get(f"/v1/{kind}", headers=stranger)).json()["data"] == []
        for path in (f"/v1/{kind}/{ids[0]}", f"/v1/{kind}/nothing"):
            assert code(await running.client.get(path, headers=stranger)) == (404, "not_found")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", (400, "bad_body")),
        (b"{", (400, "bad_body")),
        (b'{"provider": NaN}', (400, "bad_body")),
        (b'{"provider": "evolink", "provider": "kinovi"}', (400, "bad_body")),
        (b'{"provider": "\\ud800"}', (400, "bad_body")),
        (b"[" * 1000 + b"]" * 1000, (400, "bad_body")),
        (b'{"provider": "\xff"}', (400, "bad_body")),
        (b'{"provider": "' + b"x" * 300_000 + b'"}', (413, "body_too_large")),
        (b"[]", (422, "invalid_input")),
        (b'"text"', (422, "invalid_input")),
        (b"{}", (422, "invalid_input")),
    ],
    ids=lambda value: str(value)[:24],
)
async def test_a_body_that_cannot_be_read_says_why(running: Running, raw: bytes, expected: tuple[int, str]) -> None:
    """Answer any body with a problem document and never with a 5xx."""
    assert code(await running.client.post("/v1/jobs", content=raw)) == expected
    assert code(await running.client.post("/v1/endpoints", content=raw)) == expected


async def test_every_wrong_field_is_named_in_one_answer(running: Running) -> None:
    """Name wrong types, exceeded limits, unknown names and a wrong endpoint URL in one answer."""
    body = {
        "provider": "evolink",
        "input": {"images": [], "prompt": 7, "duration_s": "5", "colour": 1},
        "notify": [{"url": "ftp://x", "event_types": ["job.done"]}],
        "metadata": {"k": "x" * 5000},
        "deadline_s": 0,
        "providr": 1,
    }
    answer = await running.client.post("/v1/jobs", json=body)
    assert code(answer) == (422, "invalid_input")
    named = {error["path"] for error in answer.json()["errors"]}
    wrong = {"input.prompt", "input.duration_s", "input.colour", "notify[0].url", "metadata", "deadline_s", "providr"}
    assert wrong | {"notify[0].event_types[0]"} <= named


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"provider": "unknown", "input": INPUT}, "provider_not_configured"),
        ({"provider": "evolink"}, "invalid_input"),
        ({"provider": "evolink", "input": INPUT, "request": {}}, "invalid_input"),
        ({"provider": "evolink", "request": {"callback_url": "https://x.example/"}}, "callback_field_reserved"),
        (
            {"provider": "relaydance", "request": {"metadata": {"callback_url": "https://x.example/"}}},
            "callback_field_reserved",
        ),
        ({"provider": "kinovi", "request": {"callBackUrl": "https://x.example/"}}, "callback_field_reserved"),
    ],
)
async def test_what_relay_refuses_itself_makes_no_job(running: Running, body: dict[str, Any], expected: str) -> None:
    """Give each refusal its code, and store and send nothing."""
    assert code(await running.client.post("/v1/jobs", json=body)) == (422, expected)
    assert (await running.get("/v1/jobs"))["data"] == []


async def test_a_provider_without_a_key_names_the_setting(tmp_path: Path) -> None:
    """Name the setting that is missing."""
    async with relay(tmp_path, RELAY_KINOVI_API_KEY="") as running:
        answer = await running.client.post("/v1/jobs", json=GOOD | {"provider": "kinovi"})
        assert code(answer) == (422, "provider_not_configured")
        assert "RELAY_KINOVI_API_KEY" in answer.json()["detail"]


async def test_the_same_key_and_body_is_answered_again_and_sent_once(running: Running) -> None:
    """Repeat the first answer, marked and with its secrets, and submit the job once."""
    body, headers = GOOD | {"notify": [{"url": running.hook}]}, {"idempotency-key": "order 42"}
    first = await running.client.post("/v1/jobs", json=body, headers=headers)
    second = await running.client.post("/v1/jobs", json=body, headers=headers)
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert (second.headers["idempotent-replayed"], "idempotent-replayed" in first.headers) == ("true", False)
    assert second.headers["location"] == first.headers["location"]
    assert len(running.world.submissions) == 1
    other = await running.client.post("/v1/jobs", json=GOOD, headers=headers)
    assert code(other) == (409, "idempotency_conflict")


async def test_concurrent_equal_requests_are_one(tmp_path: Path) -> None:
    """Submit one of ten equal concurrent requests, and answer all of them with its job."""
    async with relay(tmp_path, clock=SystemClock()) as running:
        headers = {"idempotency-key": "k"}
        posts = [running.client.post("/v1/jobs", json=GOOD, headers=headers) for _ in range(10)]
        answers = await asyncio.gather(*posts)
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == len(running.world.submissions) == 1


async def test_a_key_lives_a_day_and_a_refusal_frees_it(tmp_path: Path) -> None:
    """Free the key of a refused request, and let a key be used for another request after 24 hours."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        headers = {"idempotency-key": "k"}
        refused = await running.client.post("/v1/jobs", json={"provider": "evolink"}, headers=headers)
        good = await running.client.post("/v1/jobs", json=GOOD, headers=headers)
        assert (refused.status_code, good.status_code) == (422, 202)
        await clock.advance(86_401)
        made = await running.client.post("/v1/endpoints", json={"url": running.hook}, headers=headers)
        assert made.status_code == 201


async def test_a_list_is_paged_newest_first_and_filtered(running: Running) -> None:
    """List every job once through next_cursor, and filter by metadata, status, provider and time."""
    jobs = [await running.submit(metadata={"n": number, "even": str(number % 2 == 0)}) for number in range(5)]
    seen: list[str] = []
    page = await running.get("/v1/jobs?limit=2")
    while True:
        seen += [job["id"] for job in page["data"]]
        if page["next_cursor"] is None:
            break
        page = await running.get(f"/v1/jobs?limit=2&cursor={page['next_cursor']}")
    assert seen == [job["id"] for job in reversed(jobs)]
    for query, number in (
        ("metadata[even]=True", 3),
        ("metadata[even]=True&metadata[n]=2", 1),
        ("metadata[n]=9", 0),
        ("status=submitted&provider=evolink", 5),
        ("provider=kinovi", 0),
        ("created_after=2020-01-01T00:00:00Z", 5),
        ("created_before=2020-01-01T00:00:00+02:00", 0),
    ):
        assert len((await running.get(f"/v1/jobs?{query}"))["data"]) == number, query
    for query in ("limit=0", "limit=201", "limit=x", "cursor=evt_1", "status=done", "created_after=now", "statsu=x"):
        assert code(await running.client.get(f"/v1/jobs?{query}")) == (422, "invalid_input")


async def test_an_endpoint_receives_what_it_selected_until_deleted(running: Running) -> None:
    """Make, read, change and delete an endpoint that receives its types and providers, with its own headers."""
    body = {
        "url": running.hook,
        "event_types": ["job.succeeded"],
        "providers": ["kinovi"],
        "headers": {"x-key": "hidden"},
        "metadata": {"team": "a"},
    }
    made = await running.client.post("/v1/endpoints", json=body)
    endpoint = made.json()
    path = f"/v1/endpoints/{endpoint['id']}"
    assert (made.status_code, made.headers["location"], endpoint["secret"][:6]) == (201, path, "whsec_")
    shown = await running.get(path)
    assert ("secret" in shown, "hidden" in json.dumps(shown), shown["status"]) == (False, False, "active")
    assert (await running.get(f"{path}/secret"))["secret"] == endpoint["secret"]
    for provider in ("evolink", "kinovi"):
        job = await running.submit(provider)
        await running.world.finish(job["provider_job_id"])
    await running.sink.wait_for(lambda sink: len(sink.received) == 1)
    assert running.sink.received[0].headers["x-key"] == "hidden"
    changed = (await running.client.patch(path, json={"description": "d", "event_types": ["*"]})).json()
    assert (changed["description"], changed["event_types"], changed["providers"]) == ("d", ["*"], ["kinovi"])
    assert (await running.client.delete(path)).status_code == 204
    assert code(await running.client.get(path)) == (404, "not_found")
    assert code(await running.client.delete(path)) == (404, "not_found")


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://user:pw@app.example/"},
        {"url": "https://app.example/#x"},
        {"url": "https://app.example:22/"},
        {"secret": "whsec_short"},
        {"headers": {"webhook-id": "x"}},
        {"headers": {"x": "a\r\nb: c"}},
        {"event_types": []},
        {"providers": ["unknown"]},
        {"timeout_s": 0},
        {"urls": "x"},
    ],
    ids=str,
)
async def test_a_wrong_endpoint_is_refused(running: Running, wrong: dict[str, Any]) -> None:
    """Answer 422 that names the field."""
    answer = await running.client.post("/v1/endpoints", json={"url": running.hook} | wrong)
    assert code(answer) == (422, "invalid_input")
    assert answer.json()["errors"][0]["path"].startswith(next(iter(wrong)))


async def test_paths_and_methods_that_are_not_there_are_problems(running: Running) -> None:
    """Answer 404 and 405 as problem documents, and redirect no path with an extra slash."""
    assert code(await running.client.get("/v1/nothing")) == (404, "not_found")
    assert code(await running.client.get("/v1/jobs/")) == (404, "not_found")
    assert code(await running.client.put("/v1/jobs", json={})) == (405, "method_not_allowed")


async def test_health_and_readiness(running: Running) -> None:
    """Answer /healthz while the process runs, and /readyz until it drains."""
    assert (await running.get("/healthz")) == {"status": "ok"}
    assert (await running.get("/readyz")) == {"status": "ready"}
    with watched_loop().time_held():  # or the server sees at its next tick that it drains, and closes
        await quiet()  # a tick that is due already is over
        running.app.draining.set()
        assert (await running.client.get("/readyz")).status_code == 503
