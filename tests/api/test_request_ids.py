"""Every answer has a request id, whatever answers: a route, a refusal, a page, a bug; the log has it too."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from relay.web.dashboard import PAGES, VERBS
from relay.web.routes import API
from tests.support.calling_back import DONE
from tests.support.running import Running, http_client, relay

pytestmark = pytest.mark.anyio

SYSTEM = ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/style.css", "/.well-known/webhook-keys")
OWN = {"x-request-id": "the-request-of-a-test"}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path) as started:
        yield started


def path_of(path: str) -> str:
    """Return a route's path with an id that is not there."""
    for name in ("id", "redelivery", "n"):
        path = path.replace(f"{{{name}}}", "nothing")
    return path


async def test_every_route_answers_with_the_request_id(running: Running) -> None:
    """Send it with each answer of the API: without a key, with one that has no scope, and with one that has all."""
    weak = (await running.app.store.access.create_api_key("default", "", [], 1)).text
    missing = {}
    async with http_client(running.origin, None) as stranger, http_client(running.origin, weak) as weakling:
        for route in API:
            if route.path == "/v1/events/stream":
                continue
            for client, status in ((stranger, 401), (weakling, None), (running.client, None)):
                answer = await client.request(route.method, path_of(route.path), headers=OWN)
                if answer.headers.get("request-id") != OWN["x-request-id"] or status not in (None, answer.status_code):
                    missing[route.method, route.path] = answer.status_code
    assert missing == {}


async def test_everything_else_answers_with_the_request_id(running: Running) -> None:
    """Send it with the system's routes, the dashboard's pages and forms, callbacks, and what is not there."""
    await running.submit()
    asked = [("GET", path) for path in SYSTEM]
    asked += [("GET", path_of(page.path)) for page in PAGES] + [("POST", path_of(verb.path)) for verb in VERBS]
    asked += [("GET", "/signin"), ("POST", "/signin"), ("POST", "/signout"), ("GET", "/assets/nothing")]
    asked += [("PUT", "/v1/jobs"), ("GET", "/nothing"), ("POST", "/callbacks/evolink/nothing"), ("OPTIONS", "/v1/jobs")]
    answers = [(method, path, await running.client.request(method, path, headers=OWN)) for method, path in asked]
    answers.append(("POST", "callback", await running.client.post(running.callback_url(), content=DONE, headers=OWN)))
    wrong = [
        (method, path) for method, path, answer in answers if answer.headers.get("request-id") != OWN["x-request-id"]
    ]
    assert wrong == []


async def test_a_bug_is_answered_and_logged_with_the_request_id(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answer 500 with the id, name it in the detail, and have it on the line of the log that has the traceback."""

    async def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(running.app.store.projects, "page", broken)
    answer = await running.client.get("/v1/projects", headers=OWN)
    assert (answer.status_code, answer.headers["request-id"]) == (500, OWN["x-request-id"])
    assert OWN["x-request-id"] in answer.json()["detail"]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "request.error" in line]
    assert OWN["x-request-id"] in line


async def test_each_line_about_a_request_has_its_id(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Have it on the lines of a submission and of a callback, which is published after a commit that others share."""
    ids = [f"request-number-{number}" for number in range(3)]
    jobs = [await running.submit() for _ in ids]
    capsys.readouterr()
    urls = [running.callback_url(number) for number in range(len(jobs))]
    for request_id, url in zip(ids, urls, strict=True):
        answer = await running.client.post(url, content=DONE, headers={"x-request-id": request_id})
        assert isinstance(answer, httpx.Response)
    lines = [line for line in capsys.readouterr().err.splitlines() if "callback.received" in line]
    for request_id, job in zip(ids, jobs, strict=True):
        assert [job["id"] in line for line in lines if request_id in line] == [True]
