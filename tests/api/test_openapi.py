"""`/openapi.json` describes the API that relay has; tests/support/contract.py holds every answer against it."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from relay.cli.openapi import command
from relay.model.job import EventType
from relay.model.resources.jobs import JobResource
from relay.providers import PROVIDERS
from relay.web import openapi
from relay.web.api.api_request import ApiRoute, CsvResponse
from relay.web.api.events import EventStream
from relay.web.api.media import MediaResponse
from relay.web.routes import API
from tests.support import contract
from tests.support.rows import rows
from tests.support.running import relay


@cache
def document() -> dict[str, Any]:
    """Return the document as a client reads it."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(openapi.document(API, PROVIDERS, "/")))
    return found


def schemas() -> dict[str, Any]:
    """Return its types."""
    found: dict[str, Any] = document()["components"]["schemas"]
    return found


def test_the_document_is_valid() -> None:
    """Have the document accepted by the validator of OpenAPI 3.1."""
    from openapi_spec_validator import OpenAPIV31SpecValidator  # noqa: PLC0415 - not every worker needs what takes so long to load

    assert list(OpenAPIV31SpecValidator(document()).iter_errors()) == []


def test_every_route_and_event_is_in_the_document() -> None:
    """Describe each route of the API with an operation of its own, and each event type as a webhook."""
    operations = {
        (method.upper(), path): operation["operationId"]
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/v1/")
    }
    assert operations == {(route.method, route.path): openapi.operation_id(route) for route in API}
    assert len(set(operations.values())) == len(API)
    assert list(document()["webhooks"]) == list(EventType)


def test_every_field_of_an_answer_is_required() -> None:
    """Mark every field of an answer as required, but for those that are left out if there is nothing to say."""
    absent = {
        (name, field)
        for name, schema in schemas().items()
        for field in schema.get("properties", {})
        if field not in schema["required"] and name in _answered()
    }
    jobs = {(name, field) for name in ("Job", "NewJob", "ListedJob") for field in ("approval", "checked")}
    assert absent == jobs | {("JobEndpoint", "secret"), ("Output", "needs_key"), ("Problem", "errors")}


def _answered() -> set[str]:
    """Return the names of the schemas that an answer or a notification refers to, by whatever way."""
    pending = [
        *(operation["responses"] for path in document()["paths"].values() for operation in path.values()),
        *(hook["post"]["requestBody"] for hook in document()["webhooks"].values()),
    ]
    found: set[str] = set()
    while pending:
        names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(pending.pop()))) - found
        found |= names
        pending += [schemas()[name] for name in names]
    return found


def test_native_bodies_are_described() -> None:
    """Describe `request` of a job by the type of each provider's native body."""
    names = {one.get("$ref", "").rpartition("/")[2] for one in schemas()["JobFields"]["properties"]["request"]["anyOf"]}
    assert names >= {"EvoLinkRequest", "KinoviRequest", "RelayDanceRequest", "StableStudioRequestA", "X402OrgRequest"}
    assert schemas()["EvoLinkRequest"]["properties"]["duration"]["maximum"] == 30


@pytest.mark.anyio
async def test_the_document_is_served_and_printed(tmp_path: Path) -> None:
    """Answer `/openapi.json` without a key, with relay's public URL, and print the same by `relay openapi`."""
    async with relay(tmp_path) as running:
        async with httpx.AsyncClient(base_url=running.origin) as stranger:
            served = (await stranger.get("/openapi.json")).json()
        printed = json.loads(CliRunner().invoke(command, ["--server", running.origin]).output)
    assert served["servers"] == [{"url": running.origin}]
    assert served == printed


@pytest.mark.anyio
@pytest.mark.parametrize("route", [route for route in API if route.example is not None], ids=openapi.operation_id)
async def test_every_example_works(route: ApiRoute, tmp_path: Path) -> None:
    """Answer each example of a body as its route declares, without an error."""
    above = "0" if route.path.endswith("/approvals") else "1000"
    archive = {"RELAY_ARCHIVE_URL": (tmp_path / "results").as_uri(), "RELAY_ARCHIVE": "off"}
    async with relay(tmp_path, RELAY_APPROVAL_ABOVE=above, **archive) as running:  # type: ignore[arg-type]
        made = await running.client.post("/v1/endpoints", json={"url": running.hook})
        job = await running.submit()
        example = route.example | ({"url": running.hook} if route.path == "/v1/endpoints" else {})
        if route.summary == "Submit a job again":
            await running.client.post(f"/v1/jobs/{job['id']}/failures", json={"reason": "lost"})
        path = route.path.replace("{id}", made.json()["id"] if "/endpoints/" in route.path else job["id"])
        answer = await running.client.request(route.method, path, json=example)
    assert answer.status_code in route.answers, answer.text


@pytest.mark.anyio
async def test_a_parameter_is_declared_as_required_if_it_is(tmp_path: Path) -> None:
    """Refuse a request that lacks a parameter which the document calls required, and no other, on each route."""
    asked = [route for route in API if route.query and EventStream not in route.answers.values()]
    async with relay(tmp_path) as running:
        endpoint = (await running.client.post("/v1/endpoints", json={"url": running.hook})).json()["id"]
        for route in asked:
            path = route.path.replace("{id}", endpoint)
            declared = document()["paths"][route.path][route.method.lower()]["parameters"]
            required = [one["name"] for one in declared if one["in"] == "query" and one.get("required")]
            assert required == [one.name for one in route.query if one.required]
            answer = await running.client.request(route.method, path, params=dict.fromkeys(required, "x"))
            assert answer.status_code in route.answers, (route.path, answer.text)
            if required:
                answer = await running.client.request(route.method, path)
                assert answer.status_code == 422, route.path
                assert [error["path"] for error in answer.json()["errors"]] == required, route.path
    assert {one.name for route in API for one in route.query if one.required} == {"q"}


@pytest.mark.anyio
async def test_the_page_shows_the_whole_document(tmp_path: Path) -> None:
    """Show every operation, event and schema at `/docs`; its links lead somewhere, and none leads elsewhere."""
    async with relay(tmp_path) as running, httpx.AsyncClient(base_url=running.origin) as stranger:
        page = await stranger.get("/docs")
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        ids = re.findall(r' id="([^"]+)"', page.text)
        assert len(ids) == len(set(ids))
        operations = {openapi.operation_id(route) for route in API}
        assert set(ids) >= operations | {f"event-{kind}" for kind in EventType} | {
            f"schema-{name}" for name in schemas()
        }
        links = set(re.findall(r'(?:href|src)="([^"]+)"', page.text))
        assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
        files = {link for link in links if not link.startswith("#")}
        assert files == {"docs/style.css", "docs/script.js", "docs/icon.svg", "openapi.json"}
        assert [(await stranger.get(f"/{file}")).status_code for file in sorted(files)] == [200, 200, 200, 200]
        assert '<link rel="icon" href="docs/icon.svg" type="image/svg+xml">' in page.text
        assert (await stranger.get("/docs/icon.svg")).headers["content-type"] == "image/svg+xml"
        assert (await stranger.get("/docs/page.html")).status_code == 404
    assert " style=" not in page.text
    assert re.findall(r"<script[^>]*>", page.text) == ['<script src="docs/script.js" defer>']


@rows("change", ["missing", "unknown", "another type"])
def test_the_check_of_answers_can_fail(change: str) -> None:
    """Refuse an answer that lacks a field, has one that is not declared, or has one of another type."""
    page = httpx.Request("GET", "http://relay/v1/deliveries")
    one = {
        "id": "dlv_1",
        "object": "delivery",
        "event": "evt_1",
        "endpoint": "ep_1",
        "job": None,
        "status": "pending",
        "attempts_made": 0,
        "next_attempt_at": None,
        "redelivery": False,
        "created_at": "2026-11-21T02:03:04.005Z",
        "finished_at": None,
    }
    headers = {"request-id": "12345678"}
    contract.check(httpx.Response(200, headers=headers, json={"data": [one], "next_cursor": None}, request=page))
    wrong = {"missing": {"id": "dlv_1"}, "unknown": one | {"more": 1}, "another type": one | {"attempts_made": "0"}}
    with pytest.raises(AssertionError):
        contract.check(
            httpx.Response(200, headers=headers, json={"data": [wrong[change]], "next_cursor": None}, request=page)
        )


def test_an_undeclared_status_or_problem_is_noticed() -> None:
    """Refuse a status and a problem that the route does not declare."""
    headers = {"request-id": "12345678"}
    page = httpx.Request("GET", "http://relay/v1/deliveries")
    with pytest.raises(AssertionError, match="undeclared"):
        contract.check(httpx.Response(201, headers=headers, json={}, request=page))
    problem = {"type": "", "title": "", "status": 409, "detail": "", "code": "paid_once"}
    with pytest.raises(AssertionError, match="paid_once"):
        contract.check(httpx.Response(409, headers=headers, json=problem, request=page))


def test_a_job_has_the_fields_of_its_schema() -> None:
    """Show a job's fields in the order of their declaration."""
    assert list(schemas()["Job"]["properties"]) == list(JobResource.__struct_encode_fields__)


@rows("route", API)
def test_each_answer_has_an_example_of_its_type(route: ApiRoute) -> None:
    """Show an answer of relay for each route that answers JSON; it reads as the route's type, and holds no secret."""
    for status, kind in route.answers.items():
        if kind in (None, EventStream, CsvResponse, MediaResponse):
            continue
        example = json.dumps(openapi.examples()[f"{route.method} {route.path} {status}"]).encode()
        contract.read(example, kind)
        assert contract.SECRETS.search(example) is None


def test_no_example_is_left_over() -> None:
    """Drop the example of a route that is gone."""
    known = {f"{route.method} {route.path} {status}" for route in API for status in route.answers}
    assert set(openapi.examples()) <= known
