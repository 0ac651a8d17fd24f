"""No request puts a header into an answer, or a line into the log: line breaks in every place of every route."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from relay.web import dashboard
from relay.web.routes import API
from tests.support.browsing import browser
from tests.support.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio

BREAKS: Final = ("%0d%0a", "%0a", "%0d", "%E5%98%8A%E5%98%8D", "%c4%8d%c4%8a", "%00%0d%0a", "%250d%250a")
HEADER: Final = "x-injected:%20yes"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


def injected(answer: httpx.Response) -> list[str]:
    """Return what an answer has of the header that its request tried to add."""
    whole = [f"{name}: {value}" for name, value in answer.headers.multi_items()]
    return [line for line in whole if line.startswith("x-injected") or re.search(r"[\r\n\0]", line)]


def paths() -> list[str]:
    """Return the path of every route, with a line break and a header in the place of each parameter."""
    routes = [route.path for route in API if not route.path.endswith("/stream")]
    routes += [page.path for page in dashboard.PAGES] + ["/docs/{name}", "/assets/{name}", "/callbacks/{a}/{b}", "/{a}"]
    return [re.sub(r"{\w+}", f"a{br}{HEADER}", path) for path in routes for br in BREAKS[:3] if "{" in path]


async def test_no_path_adds_a_header(running: Running) -> None:
    """Answer each path with a line break in it without a header of it, and with a request id of relay's own."""
    async with browser(running) as reader:
        for client in (running.client, reader.client):
            for path in paths():
                for method in ("GET", "POST", "DELETE"):
                    answer = await client.request(method, path)
                    assert injected(answer) == [], (method, path)
                    assert answer.status_code < 500, (method, path)


async def test_no_query_and_no_form_adds_a_header(running: Running) -> None:
    """Redirect nowhere but to a page of the dashboard, whatever `next` and `back` hold, and set no cookie of them."""
    async with browser(running) as reader:
        csrf = (await reader.get("/jobs")).fields("/signout")["csrf"]
        for br in BREAKS:
            text = f"/jobs{br}{HEADER}"
            plain = httpx.QueryParams(f"a={text}")["a"]
            answers = [
                await reader.client.get(f"/signin?next={text}"),
                await reader.client.post("/theme", data={"theme": "dark", "back": plain}),
                await reader.client.post("/theme", data={"theme": plain, "back": "/jobs"}),
                await reader.client.post(
                    "/keys/new", data={"csrf": csrf, "name": plain, "scopes": "read", "back": plain}
                ),
                await running.client.get(f"/v1/receipts?cursor={text}"),
                await running.client.get(f"/v1/jobs?metadata[{text}]={text}&provider={text}"),
            ]
            async with browser(running, None) as outside:
                answers.append(await outside.client.get(f"/jobs?q={text}"))
                answers.append(await outside.client.post("/signin", data={"key": "x", "next": plain}))
            for answer in answers:
                assert injected(answer) == [], (br, answer.request.url)
                assert answer.status_code < 500
                assert answer.headers.get("location", "/").startswith("/")
                assert not answer.headers.get("location", "/").startswith("//")


@pytest.mark.parametrize("value", ["a b", "a\tb", "a;b", "é", "a" * 300, "<b>", '"a"', "a,b", "%0d%0aset-cookie:a=b"])
async def test_a_request_id_that_is_no_plain_word_is_not_repeated(running: Running, value: str) -> None:
    """Answer with a request id of relay's own unless the given one is short and plain."""
    answer = await running.client.get("/healthz", headers=[(b"x-request-id", value.encode())])
    assert answer.headers["request-id"].startswith("req_")


async def test_no_text_of_a_request_begins_a_line_of_the_log(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """Write a line break in a path, an id, a key's name or a user agent as an escape, so that it forges no line."""
    forged = "\n2026-01-01T00:00:00Z [error    ] forged.line source=web"
    for path in ("/v1/jobs/a", "/callbacks/evolink/a", "/a"):
        await running.client.get(path + forged.replace(" ", "%20").replace("\n", "%0a"))
        await running.client.post(path + forged.replace(" ", "%20").replace("\n", "%0a"))
    await running.client.post("/v1/keys", json={"name": f"a{forged}", "scopes": ["read"]})
    await running.submit(metadata={"of": forged})
    for endpoint in ({"description": forged}, {"metadata": {"a": forged}}, {"event_types": [forged]}):
        await running.client.post("/v1/endpoints", json={"url": running.hook} | endpoint)
    failed = await running.submit()
    await running.client.post(f"/v1/jobs/{failed['id']}/failures", json={"reason": forged})
    body: dict[str, Any] = {"id": failed["provider_job_id"], "status": f"odd{forged}", "error": {"message": forged}}
    await running.client.post(running.callback_url(), content=json.dumps(body))
    said = "".join(capsys.readouterr())
    assert "source=web" in said or "source=" in said
    assert not [line for line in said.splitlines() if line.startswith("2026-01-01")]
