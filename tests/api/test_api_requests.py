"""Rules of every API request: keys, scopes, bodies, problem documents, Idempotency-Keys, health."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.faults import Faults
from tests.support.provider_cases import json_values
from tests.support.quiescence import quiet, watched_loop
from tests.support.running import INPUT, KEY, HeldClock, Running, http_client, relay

pytestmark = pytest.mark.anyio

GOOD = {"provider": "evolink", "input": INPUT}
_NAMES = """provider input request notify metadata deadline_s url event_types description headers providers
rate_limit_per_s in_flight_max timeout_s schedule_s secret"""
FIELDS = _NAMES.split()
PROBLEM = ["type", "title", "status", "detail", "code"]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


@pytest.fixture(scope="module")
def synchronous(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Yield a client of a relay in its own event loop, for tests that hypothesis drives."""
    found: list[str] = []
    loop, started, ended = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with relay(tmp_path_factory.mktemp("relay")) as running:
            found.append(running.origin)
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(20)
        with httpx.Client(base_url=found[0], headers={"authorization": f"Bearer {KEY}"}, trust_env=False) as client:
            yield client
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(20)
        loop.close()


def problem(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and code of a complete problem document that agrees with its response."""
    assert answer.headers["content-type"] == "application/problem+json"
    shown = answer.json()
    assert list(shown)[:5] == PROBLEM
    assert shown["status"] == answer.status_code
    assert all(isinstance(shown[name], str) and shown[name] for name in PROBLEM if name != "status")
    assert ("errors" in shown) is (answer.status_code == 422 and shown["code"] != "provider_not_configured")
    return answer.status_code, shown["code"]


async def key(running: Running, project: str, *scopes: str) -> tuple[str, dict[str, str]]:
    """Return the id of a new key, and its Authorization header."""
    created = await running.app.store.access.create_api_key(project, "", scopes, 1)
    key_id, text = created.id, created.text
    return key_id, {"authorization": f"Bearer {text}"}


async def test_every_route_needs_a_key(running: Running) -> None:
    """Answer 401 with a challenge and nothing more without a key, or with an unknown, cut or revoked one."""
    key_id, revoked = await key(running, "default", "admin")
    assert (await running.client.get("/v1/jobs", headers=revoked)).status_code == 200
    await running.app.store.access.revoke_api_key(key_id, 2)
    wrong = [revoked, *({"authorization": text} for text in (KEY, "Bearer", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x"))]
    for headers in (*wrong, {"authorization": "Bearer " + "x" * 5000}, {"authorization": ""}):
        for method, path in (("POST", "jobs"), ("GET", "jobs/x"), ("POST", "endpoints"), ("DELETE", "endpoints/x")):
            answer = await running.client.request(method, f"/v1/{path}", headers=headers, content=b"{" * 9)
            assert problem(answer) == (401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert (await running.client.get("/v1/jobs", headers={"authorization": f"bearer  {KEY}"})).status_code == 200


async def test_a_key_may_do_what_its_scopes_say(running: Running) -> None:
    """Let `submit` submit, `read` read, both do both and `admin` do all; answer 403 with the missing scope."""
    asked = {"submit": ("POST", "/v1/jobs"), "read": ("GET", "/v1/jobs"), "admin": ("POST", "/v1/endpoints")}
    for scopes in (["submit"], ["read"], ["submit", "read"], ["admin"]):
        _, headers = await key(running, "films", *scopes)
        for scope, (method, path) in asked.items():
            answer = await running.client.request(method, path, headers=headers, content=b"{}")
            if scope in scopes or "admin" in scopes:
                assert answer.status_code in (200, 422)
            else:
                assert problem(answer) == (403, "forbidden")
                assert scope in answer.json()["detail"]


BODIES = [
    (b"", (400, "bad_body")),
    (b" ", (400, "bad_body")),
    (b"provider=evolink", (400, "bad_body")),
    (b'{"provider": "evolink"', (400, "bad_body")),
    (b'{"provider": NaN}', (400, "bad_body")),
    (b'{"deadline_s": 1e999}', (400, "bad_body")),
    (b'{"deadline_s": ' + b"9" * 5000 + b"}", (400, "bad_body")),
    (b'{"metadata": {"a": 1, "a": 2}}', (400, "bad_body")),
    (b'{"metadata": {"a": "\\udc00"}}', (400, "bad_body")),
    (b'{"a":' * 33 + b"1" + b"}" * 33, (400, "bad_body")),
    (b"[" * 200_000, (400, "bad_body")),
    (b'{"provider": "\xff"}', (400, "bad_body")),
    ('{"provider": "evolink"}'.encode("utf-16"), (400, "bad_body")),
    (b'{"a": "' + b"x" * 2_000_000 + b'"}', (413, "body_too_large")),
    *((text, (422, "invalid_input")) for text in (b"[]", b"null", b"7", b'"text"', b"{}", b"[{}]")),
]


@pytest.mark.parametrize(("raw", "expected"), BODIES, ids=lambda value: str(value)[:24])
def test_each_kind_of_bad_body_has_its_problem(
    synchronous: httpx.Client, raw: bytes, expected: tuple[int, str]
) -> None:
    """Refuse a body that is unreadable, ambiguous or too large, with its problem, on every route with a body."""
    assert problem(synchronous.post("/v1/jobs", content=raw)) == expected
    assert problem(synchronous.post("/v1/endpoints", content=raw)) == expected
    assert problem(synchronous.patch("/v1/endpoints/x", content=raw)) == (
        (404, "not_found") if raw == b"{}" else expected
    )


@given(raw=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_answered(synchronous: httpx.Client, raw: bytes) -> None:
    """Answer any bytes with a 4xx problem document."""
    for path in ("/v1/jobs", "/v1/endpoints"):
        assert 400 <= problem(synchronous.post(path, content=raw))[0] < 500


@given(
    given_fields=st.dictionaries(st.sampled_from(FIELDS), json_values),
    image=json_values,
    provider=st.sampled_from(["evolink", "relaydance", "kinovi", "sandbox"]),
)
def test_any_values_in_the_right_places_are_answered(
    synchronous: httpx.Client, given_fields: dict[str, Any], image: Any, provider: str
) -> None:
    """Answer valid fields beside any values without a 5xx, and refusals with a complete problem document."""
    shapes: list[dict[str, Any]] = [
        {**GOOD, **given_fields},
        {"provider": provider, "input": {"images": image, **given_fields}},
        {"provider": provider, "request": {"model": image, "inputs": given_fields, "metadata": given_fields}},
    ]
    for path, body in (*(("/v1/jobs", shape) for shape in shapes), ("/v1/endpoints", given_fields)):
        answer = synchronous.post(path, content=json.dumps(body))
        assert answer.status_code in (201, 202) or problem(answer)[0] in (400, 422), answer.text


def test_paths_and_methods_that_are_not_there_are_problems(synchronous: httpx.Client) -> None:
    """Answer 404 to an unknown path, without a redirect, and 405 with every allowed method."""
    doubled = f"{str(synchronous.base_url).removesuffix('/')}//v1/jobs"  # as a path alone, httpx reads a host in it
    for path in ("/v1/jobs/", "/v1/nothing", "/v1", "/v1/jobs/x/nothing", doubled, "/V1/jobs", "/v1/jobs/%00"):
        assert problem(synchronous.get(path)) == (404, "not_found")
    assert problem(synchronous.post("/v1/jobs/", json=GOOD)) == (404, "not_found")
    for method, path, allowed in (
        ("DELETE", "/v1/jobs", "GET, HEAD, POST"),
        ("PUT", "/v1/endpoints/x", "DELETE, GET, HEAD, PATCH"),
        ("POST", "/v1/providers", "GET, HEAD"),
    ):
        answer = synchronous.request(method, path)
        assert (problem(answer), answer.headers["allow"]) == ((405, "method_not_allowed"), allowed)


async def test_the_same_key_and_body_is_answered_again(running: Running) -> None:
    """Repeat the stored answer, byte for byte and marked, after the job has changed; refuse another body or path."""
    body, headers = GOOD | {"notify": [{"url": running.hook}]}, {"idempotency-key": "order 42"}
    first = await running.client.post("/v1/jobs", json=body, headers=headers)
    await running.world.finish(first.json()["provider_job_id"])
    again = await running.client.post("/v1/jobs", json=body, headers=headers)
    assert (again.status_code, again.content) == (202, first.content)
    for name in ("location", "content-type"):
        assert again.headers[name] == first.headers[name]
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert len(running.world.submissions) == 1
    for path, other in (("/v1/jobs", GOOD), ("/v1/endpoints", body)):
        answer = await running.client.post(path, json=other, headers=headers)
        assert problem(answer) == (409, "idempotency_conflict")


async def test_endpoints_and_failed_jobs_are_replayed_too(running: Running) -> None:
    """Run any POST once: create the endpoint and its secret once, and do not submit a refused job again."""
    headers = {"idempotency-key": "e"}
    answers = [await running.client.post("/v1/endpoints", json={"url": running.hook}, headers=headers) for _ in "ab"]
    assert ([one.status_code for one in answers], answers[0].content) == ([201, 201], answers[1].content)
    assert len((await running.get("/v1/endpoints"))["data"]) == 1
    running.world.next_faults.append(Faults(status_code=429))
    jobs = [await running.client.post("/v1/jobs", json=GOOD, headers={"idempotency-key": "j"}) for _ in "ab"]
    assert [job.json()["status"] for job in jobs] == ["failed", "failed"]
    assert len(running.world.submissions) == 1


async def test_concurrent_equal_requests_are_one(tmp_path: Path) -> None:
    """Submit one of several equal concurrent requests, and answer all with its job, with a slow provider too."""
    for faults, wait in ((Faults(), "8"), (Faults(submit="hang"), "0.2")):
        async with relay(tmp_path / wait, clock=HeldClock(), RELAY_SUBMIT_WAIT_S=wait) as running:
            running.world.next_faults.append(faults)
            send, headers = running.client.post, {"idempotency-key": "k"}
            answers = await asyncio.gather(*(send("/v1/jobs", json=GOOD, headers=headers) for _ in range(8)))
            assert {answer.status_code for answer in answers} == {202}
            assert len({answer.content for answer in answers}) == len(running.world.submissions) == 1
            assert sum("idempotent-replayed" in answer.headers for answer in answers) == 7


async def test_a_refused_request_frees_its_key(running: Running) -> None:
    """Store no 422, also for requests that waited for it; accept the corrected request with the same key."""
    send, headers = running.client.post, {"idempotency-key": "k"}
    answers = await asyncio.gather(*(send("/v1/jobs", json={}, headers=headers) for _ in range(5)))
    assert {problem(answer) for answer in answers} == {(422, "invalid_input")}
    assert (await send("/v1/jobs", json=GOOD, headers=headers)).status_code == 202
    for wrong in ("", "x" * 256, "a\tb"):
        with contextlib.suppress(httpx.LocalProtocolError):
            answer = await send("/v1/jobs", json=GOOD, headers={"idempotency-key": wrong})
            assert problem(answer) == (422, "invalid_input")
            assert [error["path"] for error in answer.json()["errors"]] == ["Idempotency-Key"]


async def test_a_key_is_its_projects_own_and_lives_a_day(running: Running) -> None:
    """Separate equal keys of two projects; repeat the answer until 24 hours have passed, then free the key."""
    assert isinstance(running.clock, HeldClock)
    _, other = await key(running, "other", "admin")
    headers = {"idempotency-key": "k"}
    first = await running.client.post("/v1/jobs", json=GOOD, headers=headers)
    theirs = await running.client.post("/v1/jobs", json=GOOD, headers=headers | other)
    assert first.json()["id"] != theirs.json()["id"]
    await running.clock.advance(86_399)
    assert (await running.client.post("/v1/jobs", json=GOOD, headers=headers)).content == first.content
    await running.clock.advance(2)
    later = await running.client.post("/v1/jobs", json=GOOD, headers=headers)
    assert (later.status_code, later.json()["id"] != first.json()["id"]) == (202, True)


async def test_health_needs_no_key(running: Running) -> None:
    """Answer /healthz while the process runs, and /readyz with 503 and Retry-After as soon as it drains."""
    async with http_client(running.origin, None) as client:
        assert [(await client.get(path)).status_code for path in ("/healthz", "/readyz")] == [200, 200]
        with watched_loop().time_held():  # or the server sees at its next tick that it drains, and closes
            await quiet()  # a tick that is due already is over
            running.app.draining.set()
            answer = await client.get("/readyz")
            assert (problem(answer)[0], answer.headers["retry-after"]) == (503, "2")
            assert (await client.get("/healthz")).json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/quotes", "/v1/endpoints"])
@pytest.mark.parametrize(
    "body",
    [
        {"providers": ["evolink "] * 20_000},
        {
            "request": {"metadata": {"content": [{"type": "image_url", "video_url": 1}] * 5_000}},
            "provider": "relaydance",
        },
        {"input": {f"field{number}": 1 for number in range(15_000)}, "provider": "evolink"},
        {"x" * 100_000: {"y" * 100_000: 1}},
    ],
)
async def test_a_refusal_is_no_longer_than_its_request(running: Running, path: str, body: dict[str, Any]) -> None:
    """Answer a hostile body of 250 KB with 64 KiB at most, on every route that lists errors."""
    answer = await running.client.post(path, json=body)
    assert answer.status_code in (200, 422)
    assert len(answer.content) <= 65_536


@pytest.mark.parametrize(
    "fields",
    [
        {"input": INPUT | {"prompt": 1, "duration_s": 99}},
        {"input": INPUT | {"duration_s": 99, "seed": 1, "colour": "red"}},
        {"request": {"model": "seedance-2.0-image-to-video", "duration": 99}},
        {"request": {"callback_url": "https://attacker.example/"}},
    ],
)
async def test_a_quote_has_the_errors_of_a_job(running: Running, fields: dict[str, Any]) -> None:
    """Name the same errors in a quote as in a job's refusal: wrong types, and fields the provider does not accept."""
    refused = await running.client.post("/v1/jobs", json={"provider": "evolink", **fields})
    answer = await running.client.post("/v1/quotes", json={"providers": ["evolink"], **fields})
    (quote,) = answer.json()["data"]
    assert refused.status_code == 422
    assert quote["errors"] == refused.json()["errors"]
    assert not quote["accepted"]
