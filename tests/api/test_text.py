"""U+0000 on both databases: refused from clients, stored as U+FFFD from providers and receivers."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from relay.model import text
from relay.sandbox.serving import serve
from tests.support.calling_back import post
from tests.support.provider_cases import json_values
from tests.support.running import INPUT, HeldClock, Running, relay

pytestmark = pytest.mark.both_databases

NUL = "a\0b"
REQUEST = {"model": "seedance-2.0-image-to-video", "prompt": NUL, "image_urls": ["https://example.com/a.png"]}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path, clock=HeldClock(), confirm=False) as started:
        yield started


def job(**fields: Any) -> dict[str, Any]:
    """Return the body of a job's request."""
    return {"provider": "evolink", "input": INPUT} | fields


BODIES = (
    ("POST", "/v1/endpoints", {"url": "https://example.com/", "description": NUL}, ["description"]),
    ("POST", "/v1/endpoints", {"url": "https://example.com/", "metadata": {"k": [NUL, {NUL: NUL}]}}, 3),
    ("POST", "/v1/endpoints", {"url": "https://example.com/", "metadata": {NUL: "v"}}, ["metadata.a\ufffdb"]),
    ("POST", "/v1/endpoints", {"url": "https://example.com/", "headers": {"x": NUL}}, ["headers.x"]),
    ("POST", "/v1/endpoints", {"url": f"https://example.com/{NUL}"}, ["url"]),
    ("PATCH", "/v1/endpoints/{endpoint}", {"description": NUL}, ["description"]),
    ("POST", "/v1/endpoints/{endpoint}/redeliveries", {"since": NUL}, ["since"]),
    ("POST", "/v1/endpoints/{endpoint}/secret-rotations", {"secret": NUL}, ["secret"]),
    ("POST", "/v1/jobs", job(metadata={"k": NUL}), ["metadata.k"]),
    ("POST", "/v1/jobs", job(metadata={NUL: "v"}), ["metadata.a\ufffdb"]),
    ("POST", "/v1/jobs", job(input={**INPUT, "prompt": NUL, "model": NUL}), ["input.model", "input.prompt"]),
    ("POST", "/v1/jobs", job(input=None, request=REQUEST), ["request.prompt"]),
    ("POST", "/v1/jobs", job(provider=NUL), ["provider"]),
    ("POST", "/v1/jobs/{job}/failures", {"reason": NUL}, ["reason"]),
    ("POST", "/v1/quotes", {"input": {**INPUT, "prompt": NUL}}, ["input.prompt"]),
)
QUERIES = (
    *("/v1/jobs?metadata[k]=%00", "/v1/jobs?metadata[%00]=x", "/v1/jobs?provider=%00", "/v1/jobs?cursor=job_%00"),
    *("/v1/jobs?created_after=%00", "/v1/events?job=%00", "/v1/events?after=%00", "/v1/events?cursor=evt_%00"),
    *("/v1/events/stream?type=%00", "/v1/deliveries?endpoint=%00", "/v1/deliveries?event=a%00b"),
    *("/v1/deliveries?job=%00", "/v1/callbacks?job=%00", "/v1/callbacks?verdict=%00", "/v1/endpoints?cursor=ep_%00"),
    *("/v1/providers?%00=1", "/v1/jobs/{job}?x=%00"),
)
PATHS = (
    *("/v1/jobs/job_%00", "/v1/jobs/%00/timeline", "/v1/events/%00", "/v1/deliveries/%00", "/v1/callbacks/%00"),
    *(
        "/v1/endpoints/%00",
        "/v1/endpoints/%00/secret",
        "/v1/jobs/%FF%FE",
        "/v1/events/%ED%A0%80",
        "/callbacks/evolink/%00",
    ),
)


@pytest.mark.anyio
async def test_nul_from_a_client_is_refused_with_every_place(running: Running) -> None:
    """Refuse U+0000 in every body, parameter, path and header of the API, without a 500 on either database."""
    held = await running.submit(notify=[{"url": running.hook}])
    names = {"job": held["id"], "endpoint": held["notify"][0]["endpoint_id"]}
    for method, path, body, paths in BODIES:
        answer = await running.client.request(method, path.format(**names), json=body)
        refused = sorted(error["path"] for error in answer.json()["errors"])
        assert (answer.status_code, refused if isinstance(paths, list) else len(refused)) == (422, paths), (path, body)
        assert all(error["message"] == text.REFUSAL for error in answer.json()["errors"])
    for path in QUERIES:
        answer = await running.client.get(path.format(**names))
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), path
    for path in PATHS:
        method = "POST" if path.startswith("/callbacks") else "GET"
        assert (await running.client.request(method, path)).status_code == 404, path
    for path in ("/v1/jobs/%00/cancellations", "/v1/endpoints/%00/tests", "/v1/callbacks/%00/releases"):
        assert (await running.client.post(path)).status_code == 404, path
    assert (await running.client.get("/v1/jobs?metadata[k]=%ED%A0%80")).json()["data"] == []


@pytest.mark.anyio
async def test_an_escaped_backslash_is_not_nul(running: Running) -> None:
    r"""Accept `\\u0000` as six letters, which a careless search for the escape would refuse, and U+0001."""
    made = await running.submit(metadata={"k": "\\u0000", "l": "\1"})
    assert (await running.get(f"/v1/jobs/{made['id']}"))["metadata"] == {"k": "\\u0000", "l": "\1"}


@pytest.mark.anyio
async def test_a_callback_with_nul_is_stored_and_applied(running: Running) -> None:
    """Store a callback's bytes unchanged and its texts with U+FFFD; end the job with a readable error."""
    made = await running.submit()
    body = json.dumps({"status": "failed", "error": {"code": "c\0", "message": "\0too \0dark"}, "x\0": ["\0"]}).encode()
    assert (await post(running, body)).status_code == 200
    shown = await running.until(f"/v1/jobs/{made['id']}", lambda one: one["status"] == "failed")
    assert shown["error"]["provider_message"] == "\ufffdtoo \ufffddark"
    (callback,) = (await running.get(f"/v1/callbacks?job={made['id']}"))["data"]
    assert callback["size"] == len(body)
    await running.get(f"/v1/jobs/{made['id']}/timeline")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (200, b'{"id":"task\\u0000-1","status":"pend\\u0000ing","note":"\\u0000"}'),
        (200, b'{"id":"task-1","status":"pending","\\u0000":{"\\u0000":["\\u0000"]}}'),
        (400, b'{"error":{"code":"no\\u0000","message":"\\u0000not so"}}'),
        (400, b"\0\0 a page \0"),
        (500, b"\0"),
        (200, b"\0"),
    ],
)
async def test_a_providers_answer_with_nul_is_stored(tmp_path: Path, status: int, raw: bytes) -> None:
    """Store a provider's answers to a submission and a status check with any characters in them."""

    async def answer(_: Request) -> Response:
        return Response(raw, status, media_type="application/json")

    provider = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])
    async with serve(provider) as origin, relay(tmp_path, RELAY_EVOLINK_BASE_URL=origin) as running:
        made = await running.submit()
        asked = await running.client.post(f"/v1/jobs/{made['id']}/status-checks")
        assert asked.status_code in (200, 409), asked.text
        shown = await running.client.get(f"/v1/jobs/{made['id']}")
        timeline = await running.client.get(f"/v1/jobs/{made['id']}/timeline")
        assert {shown.status_code, timeline.status_code} == {200}
        assert "\\u0000" not in shown.text + timeline.text


@pytest.mark.anyio
async def test_a_receivers_answer_with_nul_is_stored(tmp_path: Path) -> None:
    """Store a receiver's page in the attempt, with U+FFFD."""

    async def answer(_: Request) -> Response:
        return Response(b"\0no\0", 500)

    receiver = Starlette(routes=[Route("/", answer, methods=["POST"])])
    async with serve(receiver) as origin, relay(tmp_path) as running:
        made = await running.submit(notify=[{"url": f"{origin}/"}])
        (delivery,) = (await running.get(f"/v1/deliveries?job={made['id']}"))["data"]
        shown = await running.until(f"/v1/deliveries/{delivery['id']}", lambda one: one["attempts_made"] == 1)
        assert shown["attempts"][0]["response_excerpt"] == "\ufffdno\ufffd"


@given(st.text(st.characters() | st.sampled_from("\0\ud800\udfff\ufeff\U0001f600")))
def test_stored_text_fits_every_database(given_text: str) -> None:
    """Replace only U+0000 and lone surrogates, each by U+FFFD, and a surrogate pair by its character."""
    made = text.kept(given_text)
    made.encode()
    assert "\0" not in made
    assert text.kept(made) == made
    if "\0" not in given_text and not any("\ud800" <= letter <= "\udfff" for letter in given_text):
        assert made == given_text


@given(json_values)
def test_every_place_is_found_and_replaced(value: object) -> None:
    """Find U+0000 wherever JSON can hold it, and find none in what is stored."""
    raw = json.dumps(value).encode()
    assert bool(list(text.paths_with_nul(value))) <= text.may_hold_nul(raw)
    assert not list(text.paths_with_nul(text.kept_json(value)))
    assert not list(text.paths_with_nul(value)) or text.kept_json(value) != value
