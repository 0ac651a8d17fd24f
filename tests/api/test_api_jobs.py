"""`/v1/jobs` as docs/api.md describes it: what a job shows, what is refused and with which message."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import INPUT, HeldClock, Running, relay

pytestmark = pytest.mark.anyio

_FIELDS = """id object provider provider_job_id status reason progress model input request outputs error cost archive
metadata
finished_by verification late created_at submitted_at updated_at finished_at deadline_at links"""
JOB = _FIELDS.split()
NATIVE: dict[str, dict[str, Any]] = {
    "evolink": {"model": "seedance-2.0-image-to-video", "prompt": "x", "image_urls": ["https://example.com/a.png"]},
    "relaydance": {"model": "seedance-1-5-pro-with-audio", "prompt": "x"},
    "kinovi": {"model": "seedance-20", "inputs": {"urls": ["https://example.com/a.png"]}},
}


@pytest.fixture(scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """Yield a relay for tests that create no job."""
    async with relay(tmp_path_factory.mktemp("relay")) as started:
        yield started


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay for one test."""
    async with relay(tmp_path) as started:
        yield started


async def refused(running: Running, body: object, code: str = "invalid_input") -> dict[str, str]:
    """Send a request that must be refused with 422 and store nothing; return its messages by path."""
    answer = await running.client.post("/v1/jobs", json=body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code), problem
    assert not running.world.submissions
    assert (await running.get("/v1/jobs"))["data"] == []
    return {error["path"]: error["message"] for error in problem.get("errors", [])} | {"": problem["detail"]}


def item(role: str, url: str = "https://example.com/a.png") -> dict[str, Any]:
    """Return an image in the form of RelayDance's list."""
    return {"type": "image_url", "image_url": {"url": url}, "role": role}


async def test_a_new_job_shows_every_field(running: Running) -> None:
    """Answer 202 with the location and every field, without the callback URL and the provider's key."""
    answer = await running.client.post(
        "/v1/jobs", json={"provider": "evolink", "input": INPUT, "metadata": {"user": "42"}, "deadline_s": 60}
    )
    job = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{job['id']}")
    assert list(job) == [*JOB, "notify"]
    assert (job["object"], job["status"], job["late"], job["notify"]) == ("job", "submitted", False, [])
    assert job["request"] == NATIVE["evolink"] | {"prompt": INPUT["prompt"], "duration": 5}
    assert (job["input"], job["metadata"], job["outputs"]) == (INPUT, {"user": "42"}, [])
    assert job["cost"] == {"amount": "50", "unit": "credits", "kind": "reserved"}
    assert (job["created_at"], job["deadline_at"]) == ("2026-11-21T00:00:00.000Z", "2026-11-21T00:01:00.000Z")
    assert job["links"] == {
        "self": f"/v1/jobs/{job['id']}",
        "events": f"/v1/events?job={job['id']}",
        "timeline": f"/v1/jobs/{job['id']}/timeline",
    }
    for link in job["links"].values():
        await running.get(link)
    shown = (await running.client.get(job["links"]["self"])).text
    assert "/callbacks/" not in answer.text + shown
    assert "sandbox-key" not in answer.text + shown
    assert list(await running.get(job["links"]["self"])) == JOB


async def test_a_timeline_names_the_endpoint_of_each_delivery_and_attempt(running: Running) -> None:
    """Name it by the host and port of its URL, whose path and query may be secret."""
    host = running.hook.split("/")[2]
    job = await running.submit(notify=[{"url": f"{running.hook}/path?key=hidden"}])
    path = f"/v1/jobs/{job['id']}/timeline"
    shown = await running.until(path, lambda shown: bool(_of(shown, "attempt")))
    assert _of(shown, "delivery") == [f"to {job['notify'][0]['endpoint_id']} at {host}"]
    assert _of(shown, "attempt") == [f"attempt 1 to {host}: HTTP 200"]
    assert not any(word in str(shown) for word in ("/path", "hidden"))


async def test_a_timeline_tells_endpoints_of_one_host_apart(running: Running) -> None:
    """Add the id where endpoints share a host, and name one that was deleted by its id alone."""
    host = running.hook.split("/")[2]
    job = await running.submit(notify=[{"url": f"{running.hook}/{name}"} for name in "ab"])
    first, second = (one["endpoint_id"] for one in job["notify"])
    path = f"/v1/jobs/{job['id']}/timeline"
    shown = await running.until(path, lambda shown: len(_of(shown, "attempt")) == 2)
    assert set(_of(shown, "delivery")) == {f"to {first} at {host}", f"to {second} at {host}"}
    assert set(_of(shown, "attempt")) == {f"attempt 1 to {host} ({id_}): HTTP 200" for id_ in (first, second)}
    assert (await running.client.delete(f"/v1/endpoints/{first}")).status_code == 204
    shown = await running.get(path)
    assert set(_of(shown, "delivery")) == {f"to {first}", f"to {second} at {host}"}
    assert set(_of(shown, "attempt")) == {f"attempt 1 to {first}: HTTP 200", f"attempt 1 to {host}: HTTP 200"}


def _of(timeline: dict[str, Any], kind: str) -> list[str]:
    """Return the summaries of a timeline's entries of one kind."""
    return [entry["summary"] for entry in timeline["data"] if entry["kind"] == kind]


async def test_a_finished_job_shows_its_result(running: Running) -> None:
    """Show every field of the output with its expiry, and the same job in the event."""
    made = await running.submit("kinovi", notify=[{"url": running.hook, "secret": None}])
    await running.world.finish(made["provider_job_id"])
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    job = await running.get(f"/v1/jobs/{made['id']}")
    output = job["outputs"][0]
    assert list(output) == ["kind", "url", "width", "height", "duration_s", "expires_at", "archive"]
    assert (output["kind"], output["width"], output["expires_at"]) == ("video", 1280, "2026-12-05T00:00:00.000Z")
    assert (job["progress"], job["cost"]["kind"], job["finished_at"]) == (100, "final", "2026-11-21T00:00:00.000Z")
    newest = (await running.get(f"/v1/events?job={job['id']}"))["data"][0]
    assert (newest["data"]["job"], newest["final"], newest["sequence"]) == (job, True, 2)


async def test_notify_shows_only_a_secret_that_relay_made(running: Running) -> None:
    """Answer `notify` with the endpoint's id, and with its secret if relay made it."""
    own = "whsec_" + "A" * 32
    notify = [{"url": running.hook}, {"url": running.hook, "secret": own, "event_types": ["job.succeeded"]}]
    made = (await running.submit(notify=notify))["notify"]
    assert made[0]["secret"].startswith("whsec_")
    assert "secret" not in made[1]
    assert made[1]["event_types"] == ["job.succeeded"]
    for one in made:
        assert (await running.get(f"/v1/endpoints/{one['endpoint_id']}"))["url"] == running.hook


@pytest.mark.parametrize("both", [{"input": INPUT, "request": {}}, {}, {"input": None, "request": None}], ids=str)
async def test_exactly_one_of_input_and_request(shared: Running, both: dict[str, Any]) -> None:
    """Refuse both and neither with the same message."""
    assert "exactly one" in (await refused(shared, {"provider": "evolink"} | both))["input"]


async def test_every_wrong_field_is_named_with_its_path(shared: Running) -> None:
    """Name all of them in one answer, and suggest the name that an unknown one resembles."""
    named = await refused(
        shared,
        {
            "provider": "evolink",
            "input": {"images": ["ftp://x"] * 3, "prompt": 7, "duration_s": "5", "promt": "x", "mode": "fast"},
            "notify": [{"url": "ftp://x"}, {"ulr": ""}, 5, {"url": shared.hook, "secret": "whsec_"}],
            "metadata": {"k": "x" * 5000},
            "deadline_s": 0,
            "deadlin_s": 1,
        },
    )
    assert set(named) == {
        "",
        *("input.images", "input.prompt", "input.duration_s", "input.promt", "input.mode"),
        *("input.images[0]", "input.images[1]", "input.images[2]", "metadata", "deadline_s", "deadlin_s"),
        *("notify[0].url", "notify[1].url", "notify[1].ulr", "notify[2]", "notify[3].secret"),
    }
    assert named["deadlin_s"].endswith("did you mean deadline_s?")
    assert named["input.promt"].endswith("did you mean prompt?")
    assert set(await refused(shared, {})) == {"", "provider", "input"}


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("metadata", {str(number): 1 for number in range(51)}),
        ("metadata", ["x"]),
        ("deadline_s", 604_801),
        ("deadline_s", 5.0),
        ("provider", 5),
        ("input", "x"),
    ],
)
async def test_what_surrounds_the_request_has_limits(shared: Running, field: str, wrong: Any) -> None:
    """Refuse metadata, deadline and notify over their limits, and every wrong type."""
    assert field in await refused(shared, {"provider": "evolink", "input": INPUT} | {field: wrong})


async def test_notify_has_a_limit_of_endpoints(tmp_path: Path) -> None:
    """Accept `RELAY_NOTIFY_MAX` endpoints for one job, 10 by default, and refuse one more."""
    for most, given in ((10, {}), (2, {"RELAY_NOTIFY_MAX": "2"})):
        async with relay(tmp_path, **given) as running:  # type: ignore[arg-type]
            hooks = [{"url": running.hook}] * most
            assert len((await running.submit(notify=hooks))["notify"]) == most
            body = {"provider": "evolink", "input": INPUT, "notify": [*hooks, *hooks[:1]]}
            answer = await running.client.post("/v1/jobs", json=body)
            assert (answer.status_code, answer.json()["errors"]) == (
                422,
                [{"path": "notify", "message": f"must be an array of at most {most} items, not {most + 1}"}],
            )


@pytest.mark.parametrize(
    ("provider", "holder", "name"),
    [
        ("evolink", "", "callback_url"),
        ("evolink", "", "callBackUrl"),
        ("evolink", "", "webhook"),
        ("relaydance", "metadata", "callback_url"),
        ("relaydance", "", "callback_url"),
        ("relaydance", "metadata", "notify_url"),
        ("kinovi", "", "callBackUrl"),
        ("kinovi", "", "callback_url"),
        ("kinovi", "inputs", "callBackUrl"),
    ],
)
async def test_a_callback_field_is_relays_own(shared: Running, provider: str, holder: str, name: str) -> None:
    """Refuse it in any spelling and place with its own code, and name the place."""
    own = {name: "https://mine.example/"}
    request = NATIVE[provider] | ({holder: NATIVE[provider].get(holder, {}) | own} if holder else own)
    path = f"request.{holder}.{name}" if holder else f"request.{name}"
    assert path in await refused(shared, {"provider": provider, "request": request}, "callback_field_reserved")


@pytest.mark.parametrize(
    ("provider", "change", "path", "limit"),
    [
        ("evolink", {"image_urls": ["https://example.com/a.png"] * 3}, "image_urls", "1 to 2"),
        ("evolink", {"image_urls": []}, "image_urls", "1 to 2"),
        ("evolink", {"duration": 3}, "duration", "4 to 15"),
        ("evolink", {"duration": 16}, "duration", "4 to 15"),
        ("evolink", {"duration": "5"}, "duration", "integer"),
        ("evolink", {"duration": 5.0}, "duration", "integer"),
        ("evolink", {"duration": True}, "duration", "integer"),
        ("evolink", {"quality": "1080P"}, "quality", "1080p"),
        ("evolink", {"aspect_ratio": "9:21"}, "aspect_ratio", "21:9"),
        ("evolink", {"prompt": "word " * 1001}, "prompt", "1000 words"),
        ("evolink", {"prompt": "字" * 501}, "prompt", "500"),
        ("evolink", {"seconds": "5"}, "seconds", "not a field"),
        ("relaydance", {"seconds": 5}, "seconds", "string"),
        ("relaydance", {"seconds": "16"}, "seconds", "15"),
        ("relaydance", {"duration": 5}, "duration", "did you mean seconds"),
        (
            "relaydance",
            {"metadata": {"content": [item("reference_image"), item("first_frame")]}},
            "metadata.content",
            "not both",
        ),
        ("relaydance", {"metadata": {"content": [item("last_frame")]}}, "metadata.content", "first_frame"),
        ("kinovi", {"inputs": {"urls": ["https://example.com/a.png"] * 3}}, "inputs.urls", "1 to 2"),
        ("kinovi", {"inputs": NATIVE["kinovi"]["inputs"] | {"prompt": "x" * 4001}}, "inputs.prompt", "4000"),
        (
            "kinovi",
            {"inputs": NATIVE["kinovi"]["inputs"] | {"upscaleResolution": "2k"}},
            "inputs.upscaleResolution",
            "4k",
        ),
        ("kinovi", {"inputs": NATIVE["kinovi"]["inputs"] | {"duration": "5s"}}, "inputs.duration", "4 to 15"),
        ("kinovi", {"model": "so ra"}, "model", "seedance-20"),
    ],
)
async def test_a_native_request_is_held_to_the_providers_limits(
    shared: Running, provider: str, change: dict[str, Any], path: str, limit: str
) -> None:
    """Answer 422 with the provider's own field and its limit, and send nothing."""
    named = await refused(shared, {"provider": provider, "request": NATIVE[provider] | change})
    assert limit in named[f"request.{path}"]


async def test_an_unusable_provider_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    """List the providers for an unknown one, and name the setting for one that is not configured."""
    async with relay(tmp_path, RELAY_KINOVI_API_KEY="") as running:
        for provider, words in (("kinovi", "RELAY_KINOVI_API_KEY"), ("evo link", "evolink, fal")):
            said = await refused(running, {"provider": provider, "input": INPUT}, "provider_not_configured")
            assert words in said[""]


async def test_without_a_public_url_a_job_has_no_callback(tmp_path: Path) -> None:
    """Submit no callback URL that the provider could not reach; a status check ends the job."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_PUBLIC_URL="") as running:
        job = await running.submit()
        assert "callback_url" not in running.world.submissions[0]
        await running.world.finish(job["provider_job_id"])
        await clock.advance(1800)
        ended = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        assert (ended["finished_by"], ended["verification"]) == ("status_check", "fetch")
