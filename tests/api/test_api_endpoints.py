"""`/v1/endpoints` and `/v1/providers` as docs/api.md describes them: create, change, delete, and what each receives."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from relay.clock import SystemClock
from relay.providers import PROVIDERS
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

ENDPOINT = """id object url event_types description metadata headers providers rate_limit_per_s in_flight_max timeout_s
schedule_s format status disabled_at disabled_reason failing_since held_until last_success_at last_failure_at created_at
updated_at
project secret_readable"""
URL = "https://app.example/hook"


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Yield a relay for tests that send nothing, which accepts only https and public addresses."""
    folder, origin = tmp_path_factory.mktemp("relay"), "https://relay.example"
    async with relay(folder, RELAY_ALLOW_NETWORKS="", RELAY_ALLOW_HTTP="0", RELAY_PUBLIC_URL=origin) as started:
        yield started


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay for one test."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="0,60") as started:
        yield started


async def made(running: Running, **fields: Any) -> dict[str, Any]:
    """Create an endpoint; return the answer, which alone has the secret."""
    answer = await running.client.post("/v1/endpoints", json={"url": URL} | fields)
    assert answer.status_code == 201, answer.text
    endpoint: dict[str, Any] = answer.json()
    return endpoint


def named(answer: httpx.Response) -> set[str]:
    """Return the paths that a refusal names."""
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), answer.text
    return {error["path"] for error in answer.json()["errors"]}


async def test_a_new_endpoint_shows_every_field_and_its_secret_once(shared: Running) -> None:
    """Answer 201 with the location, the defaults and 32 bytes of secret, which only `/secret` repeats."""
    answer = await shared.client.post("/v1/endpoints", json={"url": URL})
    endpoint = answer.json()
    path = f"/v1/endpoints/{endpoint['id']}"
    assert (answer.status_code, answer.headers["location"]) == (201, path)
    secret = endpoint.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) >= 24
    assert list(endpoint) == ENDPOINT.split()
    assert (endpoint["object"], endpoint["url"], endpoint["status"]) == ("endpoint", URL, "active")
    assert (endpoint["event_types"], endpoint["providers"], endpoint["headers"]) == (["job.*"], None, {})
    assert await shared.get(path) == endpoint
    assert endpoint in (await shared.get("/v1/endpoints"))["data"]
    assert await shared.get(f"{path}/secret") == {"secret": secret}
    assert (await shared.client.get(f"{path}/secret")).headers["cache-control"] == "no-store"


async def test_the_secret_is_for_admins(shared: Running) -> None:
    """Show a key with `read` the endpoint without its secret, and let it change nothing."""
    path = f"/v1/endpoints/{(await made(shared))['id']}"
    text = (await shared.app.store.access.create_api_key("default", "", ["read", "submit"], 1)).text
    headers = {"authorization": f"Bearer {text}"}
    assert (await shared.client.get(path, headers=headers)).status_code == 200
    for method, place in (("GET", f"{path}/secret"), ("PATCH", path), ("DELETE", path), ("POST", "/v1/endpoints")):
        answer = await shared.client.request(method, place, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_an_own_secret_must_be_long_enough(shared: Running) -> None:
    """Accept 24 to 64 bytes after `whsec_`; refuse anything else without repeating it."""
    for size in (24, 64):
        own = "whsec_" + base64.b64encode(b"k" * size).decode()
        assert (await made(shared, secret=own))["secret"] == own
    too = ["whsec_" + base64.b64encode(b"k" * size).decode() for size in (23, 65)]
    for secret in (*too, "k" * 40, "whsec_*" + "A" * 40, "", "whsec_" + "A" * 300, 7):
        answer = await shared.client.post("/v1/endpoints", json={"url": URL, "secret": secret})
        assert named(answer) == {"secret"}, secret
        assert len(str(secret)) < 5 or str(secret) not in answer.text


@pytest.mark.parametrize(
    "url",
    [
        "http://app.example/hook",
        "https://app.example/#part",
        "https://user:pw@app.example/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://app.example:25/",
        "https://relay.example/callbacks/evolink/x",
        "//app.example/",
        "https:///x",
        "javascript:alert(1)",
        "https://app.example/ x",
        "https://app.example/\n",
        "https://app.example/" + "x" * 2100,
        "",
        None,
        5,
    ],
)
async def test_a_url_must_be_public_https_and_not_relay(shared: Running, url: object) -> None:
    """Refuse every other URL in a new endpoint, in a change of one, and in a job's notify."""
    path = f"/v1/endpoints/{(await made(shared))['id']}"
    assert named(await shared.client.post("/v1/endpoints", json={"url": url})) == {"url"}
    assert named(await shared.client.patch(path, json={"url": url})) == {"url"}
    job = {"provider": "evolink", "input": {}, "notify": [{"url": url}]}
    assert "notify[0].url" in named(await shared.client.post("/v1/jobs", json=job))
    assert (await shared.get(path))["url"] == URL


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        *(({"headers": {name: "x"}}, f"headers.{name}") for name in ("Webhook-Id", "relay-attempt", "Host", "a b", "")),
        *(({"headers": {name: "x"}}, f"headers.{name}") for name in ("Content-Encoding", "Keep-Alive", "x\n")),
        *(({"headers": {"x": value}}, "headers.x") for value in ("a\r\nb: c", "ü", 5, "x" * 1025)),
        ({"headers": {"X": "1", "x": "2"}}, "headers.x"),
        ({"event_types": ["job.succeded"]}, "event_types[0]"),
        ({"event_types": ["job.succeeded", "job.s*"]}, "event_types[1]"),
        ({"event_types": []}, "event_types"),
        ({"event_types": "*"}, "event_types"),
        ({"providers": []}, "providers"),
        ({"providers": ["evolink", "unknown"]}, "providers[1]"),
        *(({"timeout_s": value}, "timeout_s") for value in (0, 21, "5", True)),
        *(({"in_flight_max": value}, "in_flight_max") for value in (0, 1.0, 101)),
        *(({"rate_limit_per_s": value}, "rate_limit_per_s") for value in (0, -1, 10_001)),
        ({"metadata": {"k": "x" * 5000}}, "metadata"),
        ({"description": "x" * 501}, "description"),
        ({"descripton": "x"}, "descripton"),
        ({"schedule_s": [0, -1]}, "schedule_s[1]"),
    ],
    ids=str,
)
async def test_a_wrong_field_is_named(shared: Running, fields: dict[str, Any], path: str) -> None:
    """Answer 422 with the path of a wrong value, in a creation and in a change, and change nothing."""
    endpoint = await made(shared, description="mine")
    place = f"/v1/endpoints/{endpoint['id']}"
    assert path in named(await shared.client.post("/v1/endpoints", json={"url": URL} | fields))
    assert path in named(await shared.client.patch(place, json={"description": "yours"} | fields))
    assert (await shared.get(place))["description"] == "mine"


async def test_a_change_keeps_what_it_does_not_name(shared: Running) -> None:
    """Set the given fields; null clears a field that may be empty, and changes no other."""
    fields = {
        "event_types": ["job.failed"],
        "description": "d",
        "metadata": {"k": [1, None]},
        "headers": {"x-key": "v"},
        "providers": ["kinovi"],
        "rate_limit_per_s": 0.5,
        "in_flight_max": 3,
        "timeout_s": 2.5,
    }
    endpoint = await made(shared, **fields)
    secret = endpoint.pop("secret")
    assert {name: endpoint[name] for name in fields} == fields | {"headers": {"x-key": "[redacted]"}}
    path = f"/v1/endpoints/{endpoint['id']}"
    assert isinstance(shared.clock, HeldClock)
    await shared.clock.advance(1)
    for change in ({}, {"url": URL + "/2"}, {"providers": None, "description": None}, {"event_types": ["*"]}):
        before = await shared.get(path)
        changed = (await shared.client.patch(path, json=change)).json()
        assert changed == before | change | {"updated_at": changed["updated_at"]}
        assert changed["updated_at"] > endpoint["updated_at"]
        assert changed == await shared.get(path)
    assert (await shared.get(f"{path}/secret"))["secret"] == secret
    assert named(await shared.client.patch(path, json={"secret": secret})) == {"secret"}


async def test_an_endpoint_receives_what_it_selected_with_its_headers(tmp_path: Path) -> None:
    """Filter by event types and providers, send own headers unchanged, and sign with the endpoint's secret."""
    async with relay(tmp_path, clock=SystemClock()) as running:
        kept: dict[str, dict[str, Any]] = {
            "all": {"event_types": ["*"], "headers": {"Authorization": "Bearer own", "X-Key": "v"}},
            "ends": {"event_types": ["job.succeeded", "job.failed"]},
            "kinovi": {"providers": ["kinovi"]},
            "test": {"event_types": ["relay.test"]},
        }
        hooks = {name: await made(running, url=f"{running.hook}/{name}", **fields) for name, fields in kept.items()}
        for provider in ("evolink", "kinovi"):
            await running.world.finish((await running.submit(provider))["provider_job_id"])
        await running.sink.wait_for(lambda sink: len(sink.received) == 8)
        received: dict[str, list[str]] = {}
        for one in running.sink.received:
            name = one.path.rpartition("/")[2]
            body = Webhook(hooks[name]["secret"]).verify(one.body, one.headers)
            received.setdefault(name, []).append(f"{body['data']['job']['provider']} {body['type']}")
            assert (one.headers.get("x-key"), one.headers.get("authorization")) == (
                ("v", "Bearer own") if name == "all" else (None, None)
            )
        everything = [
            f"{provider} job.{state}" for provider in ("evolink", "kinovi") for state in ("submitted", "succeeded")
        ]
        assert {name: sorted(events) for name, events in received.items()} == {
            "all": sorted(everything),
            "ends": [everything[1], everything[3]],
            "kinovi": sorted(everything[2:]),
        }


async def test_deletion_cancels_pending_deliveries(running: Running) -> None:
    """Answer 204, then 404 for all of its routes; cancel its pending deliveries and keep its events."""
    running.sink.answers = [500]
    endpoint = await made(running, url=running.hook)
    job = await running.submit()
    await running.until("/v1/deliveries", lambda shown: [one["attempts_made"] for one in shown["data"]] == [1])
    path = f"/v1/endpoints/{endpoint['id']}"
    assert (await running.client.delete(path)).status_code == 204
    for method, place in (("GET", path), ("DELETE", path), ("PATCH", path), ("GET", f"{path}/secret")):
        gone = await running.client.request(method, place, json={})
        assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
    assert (await running.get("/v1/endpoints"))["data"] == []
    delivery = (await running.get(f"/v1/deliveries?endpoint={endpoint['id']}"))["data"][0]
    assert (delivery["status"], delivery["next_attempt_at"]) == ("canceled", None)
    assert (await running.get("/v1/events"))["data"][0]["deliveries"]["canceled"] == 1
    await running.world.finish(job["provider_job_id"])
    assert len((await running.get("/v1/deliveries"))["data"]) == 1


async def test_providers_list_what_they_support(tmp_path: Path) -> None:
    """List every provider with its limits and models, whether it is configured and how it finishes, not its key."""
    async with relay(tmp_path, RELAY_KINOVI_API_KEY="") as running:
        shown = await running.get("/v1/providers")
        by_name = {one["name"]: one for one in shown["data"]}
        assert {*PROVIDERS, "sandbox"} == set(by_name)
        assert [one["configured"] for one in (by_name["evolink"], by_name["kinovi"])] == [True, False]
        assert by_name["evolink"]["duration_s"] == {"min": 4, "max": 30}
        assert by_name["evolink"]["limits_by_model"]["seedance-2.5-image-to-video"] == {
            "duration_s": {"min": 4, "max": 30},
            "resolutions": ["480p", "720p", "1080p"],
            "aspect_ratios": ["adaptive"],
            "images_min": 1,
            "images_max": 2,
            "references_max": {"image": 0, "video": 0, "audio": 0},
        }
        assert by_name["x402org"]["limits_by_model"] == {}
        assert set(by_name["kinovi"]["honours"]) == PROVIDERS["kinovi"].honours
        assert (by_name["evolink"]["images_max"], by_name["evolink"]["finished_by"]) == (2, "callback")
        assert all(one["models"] for one in shown["data"])
        unpublished = [name for name, one in PROVIDERS.items() if one.limits.result_lifetime_s is None]
        assert {name for name, one in by_name.items() if one["result_lifetime_s"] is None} == set(unpublished)
        assert "x402org" in unpublished
        assert "sandbox-key" not in json.dumps(shown)


async def test_a_project_has_a_limit_of_endpoints(tmp_path: Path) -> None:
    """Refuse one endpoint over the limit with 409, create none, and accept one again after a deletion."""
    async with relay(tmp_path, RELAY_ENDPOINTS_PER_PROJECT_MAX="3") as running:
        body = {"url": running.hook}
        answers = await asyncio.gather(*(running.client.post("/v1/endpoints", json=body) for _ in range(6)))
        assert sorted(answer.status_code for answer in answers) == [201] * 3 + [409] * 3
        problem = next(answer.json() for answer in answers if answer.status_code == 409)
        assert (problem["code"], "RELAY_ENDPOINTS_PER_PROJECT_MAX" in problem["detail"]) == ("conflict", True)
        listed = (await running.get("/v1/endpoints"))["data"]
        assert len(listed) == 3
        key = (await running.app.store.access.create_api_key("films", "", ["admin"], 1)).text
        own = {"authorization": f"Bearer {key}"}
        assert (await running.client.post("/v1/endpoints", json=body, headers=own)).status_code == 201
        await running.submit(notify=[body] * 2)
        assert (await running.client.post("/v1/endpoints", json=body)).status_code == 409
        await running.client.delete(f"/v1/endpoints/{listed[0]['id']}")
        assert (await running.client.post("/v1/endpoints", json=body)).status_code == 201
