"""What a refused request is told: the field, what was given, and what is allowed."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.clock import TIME_FORMS
from tests.support.running import INPUT, Running, relay

pytestmark = pytest.mark.anyio

STATUSES = "open, pending, submitted, running, succeeded, failed, canceled, expired"
LIMIT = "must be an integer from 1 to 200, not "


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a running relay."""
    async with relay(tmp_path) as started:
        yield started


@pytest.mark.parametrize(
    ("query", "path", "message"),
    [
        ("jobs?limit=0", "limit", LIMIT + '"0"'),
        ("jobs?limit=201", "limit", LIMIT + '"201"'),
        ("jobs?limit=", "limit", LIMIT + '""'),
        ("jobs?cursor=evt_1", "cursor", 'must be the next_cursor of an earlier page, not "evt_1"'),
        ("jobs?status=a,b", "status", f'must be one of {STATUSES}, not "a,b"'),
        ("jobs?status=succeded", "status", f'must be one of {STATUSES}, not "succeded"; did you mean succeeded?'),
        ("jobs?undelivered=yes", "undelivered", 'must be true or false, not "yes"'),
        ("jobs?created_after=now", "created_after", f'must be {TIME_FORMS}, not "now"'),
        ("jobs?older_than=old", "older_than", 'must be an age such as 90s, 30m, 2h or 7d, not "old"'),
        ("events?job=evt_1", "job", 'must be an id that begins with job_, not "evt_1"'),
        ("deliveries?endpoint=x", "endpoint", 'must be an id that begins with ep_, not "x"'),
        ("deliveries?event=x", "event", 'must be an id that begins with evt_, not "x"'),
        ("callbacks?job=", "job", 'must be an id that begins with job_, not ""'),
        ("keys?live=maybe", "live", 'must be true or false, not "maybe"'),
        ("events/stream?after=x", "after", "is not a parameter here; there is type"),
        ("search?q=a&limit=51", "limit", 'must be an integer from 1 to 50, not "51"'),
        ("stats?bucket=2h", "bucket", 'must be one of 1m, 15m, 1h, 1d, not "2h"'),
    ],
)
async def test_a_wrong_parameter_is_named_with_its_value(running: Running, query: str, path: str, message: str) -> None:
    """Name the parameter, what is allowed there, and what was given."""
    answer = await running.client.get(f"/v1/{query}")
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"path": path, "message": message}])


async def test_an_unknown_provider_is_no_empty_list(running: Running) -> None:
    """Refuse a filter by a provider that relay does not have, and list the jobs of one that it has: none."""
    for place in ("jobs", "payments"):
        answer = await running.client.get(f"/v1/{place}?provider=evolnk")
        (error,) = answer.json()["errors"]
        assert (answer.status_code, error["path"]) == (422, "provider")
        assert "kinovi" in error["message"]
        assert error["message"].endswith('not "evolnk"; did you mean evolink?')
        assert (await running.get(f"/v1/{place}?provider=kinovi"))["data"] == []


async def test_the_parameter_of_metadata_is_named_as_it_is_written(running: Running) -> None:
    """Say `metadata[KEY]` where a client wrote `metadata.user`."""
    answer = await running.client.get("/v1/jobs?metadata.user=42")
    assert "metadata[KEY]" in answer.json()["errors"][0]["message"]
    assert (await running.get("/v1/jobs?metadata[user]=42"))["data"] == []


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"7", b"null"])
@pytest.mark.parametrize("path", ["jobs", "endpoints", "quotes"])
async def test_a_body_that_is_no_object_has_one_error(running: Running, path: str, body: bytes) -> None:
    """Name the body, and no field that it cannot have."""
    answer = await running.client.post(f"/v1/{path}", content=body)
    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["path"]) == (422, "")
    assert error["message"].startswith("the body must be an object, not ")


async def test_a_compressed_body_is_told_so(running: Running) -> None:
    """Name the compression instead of an encoding that the bytes resemble."""
    raw = gzip.compress(json.dumps({"provider": "evolink", "input": INPUT}).encode())
    answer = await running.client.post("/v1/jobs", content=raw, headers={"content-encoding": "gzip"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_body")
    assert answer.json()["detail"] == "the body is compressed (gzip); it must be sent uncompressed"


@pytest.mark.parametrize(
    ("path", "body", "wrong", "message"),
    [
        ("jobs", {"provider": "evolink"}, "input", "exactly one of input and request must be given, not neither"),
        (
            "jobs",
            {"provider": "evolink", "input": INPUT, "request": {}},
            "input",
            "exactly one of input and request must be given, not both",
        ),
        (
            "jobs",
            {"provider": "evolink", "input": INPUT, "metadata": {"a": "x" * 4089}},
            "metadata",
            "must be at most 4096 bytes of JSON, not 4097",
        ),
        (
            "jobs",
            {"provider": "evolink", "input": INPUT, "max_cost": 5},
            "max_cost",
            'must be an amount of USD as text, such as "0.50", not 5',
        ),
        (
            "jobs",
            {"provider": "evolink", "input": INPUT, "max_cost": "5 USD"},
            "max_cost",
            'must be an amount of USD as text, such as "0.50", not "5 USD"',
        ),
        (
            "projects",
            {"name": "prj_x"},
            "name",
            'must be 1 to 100 characters without blanks at either end, and not begin with prj_, not "prj_x"',
        ),
        (
            "endpoints",
            {"url": "https://app.example/h", "headers": {"x y": "1"}},
            "headers.x y",
            "has a name that must be 1 to 64 letters, digits or one of !#$%&'*+.^_`|~-",
        ),
    ],
)
async def test_a_wrong_field_is_told_in_words(
    running: Running, path: str, body: dict[str, Any], wrong: str, message: str
) -> None:
    """Describe a rule in words instead of a pattern, and say by how much a limit is exceeded."""
    answer = await running.client.post(f"/v1/{path}", json=body)
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"path": wrong, "message": message}])


async def test_an_unknown_field_or_event_type_is_told_what_there_is(running: Running) -> None:
    """List the known fields where none resembles the given one; name the event type that was probably meant."""
    given = {"provider": "evolink", "input": INPUT}
    answer = await running.client.post("/v1/jobs", json=given | {"callback_url": "https://app.example/h"})
    known = "provider, input, request, notify, metadata, max_cost, archive, deadline_s"
    assert answer.json()["errors"] == [{"path": "callback_url", "message": f"is not a field here; there are {known}"}]
    wanted = {"url": "https://app.example/h", "event_types": ["job.succeded"]}
    answer = await running.client.post("/v1/endpoints", json=wanted)
    (error,) = answer.json()["errors"]
    assert error["path"] == "event_types[0]"
    assert error["message"].endswith('relay.test, not "job.succeded"; did you mean job.succeeded?')


async def test_a_wrong_last_event_id_is_named(running: Running) -> None:
    """Say what the id of an event begins with, and what was sent."""
    answer = await running.client.get("/v1/events/stream", headers={"last-event-id": "job_1"})
    message = 'must be the id of an event, which begins with evt_, not "job_1"'
    assert (answer.status_code, answer.json()["errors"]) == (422, [{"path": "Last-Event-ID", "message": message}])


async def test_an_unknown_model_of_an_input_is_told_the_two_ways(running: Running) -> None:
    """Name the model that was probably meant, or where models are listed, and that `request` takes any other."""
    for model, hint in (
        ("fal-ai/kling-vide/v3/pro/text-to-video", "; did you mean fal-ai/kling-video/v3/pro/text-to-video?"),
        ("q/r", "; GET /v1/providers lists them"),
    ):
        given = {"provider": "fal", "input": {"prompt": "a cat", "model": model}}
        answer = await running.client.post("/v1/jobs", json=given)
        message = f'must be a model whose fields relay knows, not "{model}"{hint}'
        message += "; any other takes its own body in request"
        assert {"path": "input.model", "message": message} in answer.json()["errors"]


async def test_the_cheapest_is_refused_with_each_providers_name(running: Running) -> None:
    """Say which provider each error is of, where no provider takes an input."""
    given = {"provider": "cheapest", "input": INPUT | {"duration_s": 4000}}
    answer = await running.client.post("/v1/jobs", json=given)
    assert answer.status_code == 422
    messages = [error["message"] for error in answer.json()["errors"]]
    assert messages
    assert all(message.startswith("at ") for message in messages)
    assert any(message.startswith("at evolink: must be an integer from ") for message in messages)


async def test_a_wrong_method_or_path_is_told_where_to_look(running: Running) -> None:
    """Name the methods of a path in the answer's text too, and where every path is listed."""
    answer = await running.client.delete("/v1/jobs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert answer.json()["detail"] == "DELETE is not allowed here, but GET, HEAD, POST"
    answer = await running.client.post("/v1/jobs/job_1/cancel")
    assert (answer.status_code, answer.json()["detail"]) == (
        404,
        "there is no such path; GET /openapi.json has all",
    )
