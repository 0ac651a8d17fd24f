"""Providers whose model is the path: the callback URL in the query, signatures, results in two steps, cancellations."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from relay.sandbox.contract import SECRET
from relay.sandbox.faults import Faults
from relay.sandbox.providers import STAND_INS
from relay.sandbox.serving import serve
from tests.support.calling_back import kept
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

PROVIDERS = ["fal", "wavespeed"]
FIRST_S = 30
KEY = "a-key-id-of-fal:4f1c9a27e0b84d5c"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay whose clock the stand-ins sign by; WaveSpeed's secret is set, fal's keys are published."""
    secrets = f"whsec_the-former-secret whsec_{SECRET}"
    async with relay(
        tmp_path,
        clock=HeldClock(),
        RELAY_STATUS_CHECK_FIRST_S=str(FIRST_S),
        RELAY_WAVESPEED_CALLBACK_SECRET=secrets,
    ) as started:
        started.world.keys.clock = lambda: started.clock.now_ms() // 1000
        yield started


async def submitted(running: Running, provider: str, **faults: Any) -> dict[str, Any]:
    """Return a job that its provider has, with these faults."""
    running.world.next_faults.append(Faults(**faults))
    job = await running.submit(provider, notify=[{"url": running.hook}])
    assert job["status"] == "submitted"
    return job


async def finished(running: Running, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job after its provider has ended it."""
    await running.world.finish(job["provider_job_id"])
    return await running.get(f"/v1/jobs/{job['id']}")


async def confirmed(running: Running, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job after its provider has ended it and a status check has confirmed that."""
    await finished(running, job)
    return await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["finished_at"] is not None)


async def advance(running: Running, seconds: float) -> None:
    """Move the clock."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_signed_callback_ends_a_job_without_a_status_check(running: Running, provider: str) -> None:
    """A submission goes out, its signed callback comes in, and the subscriber is notified."""
    job = await submitted(running, provider, signed="ok")
    done = await finished(running, job)
    assert (done["status"], done["finished_by"], done["verification"]) == ("succeeded", "callback", "signature")
    assert done["outputs"][0]["url"] == running.world.jobs[job["provider_job_id"]].result_url
    assert running.world.status_checks == []
    await running.sink.wait_for(lambda sink: sorted(sink.events()) == ["job.submitted", "job.succeeded"])


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_job_whose_callback_is_lost_ends_by_a_status_check(running: Running, provider: str) -> None:
    """The first status check brings the end, for fal with its result from a second request."""
    job = await submitted(running, provider, lost=True)
    assert (await finished(running, job))["status"] == "submitted"
    await advance(running, FIRST_S)
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert (done["finished_by"], done["verification"]) == ("status_check", "fetch")
    assert done["outputs"][0]["url"] == running.world.jobs[job["provider_job_id"]].result_url
    assert running.world.status_checks == [job["provider_job_id"]]
    await running.sink.wait_for(lambda sink: sorted(sink.events()) == ["job.submitted", "job.succeeded"])


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_failed_job_has_its_models_reason(running: Running, provider: str) -> None:
    """By a signed callback and by a status check the class is the same."""
    by_callback = await finished(running, await submitted(running, provider, outcome="failed", signed="ok"))
    job = await submitted(running, provider, outcome="failed", lost=True)
    await finished(running, job)
    await advance(running, FIRST_S)
    by_check = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "failed")
    assert by_callback["error"]["class"] == by_check["error"]["class"] == "content_rejected"
    assert by_callback["error"]["provider_code"] == by_check["error"]["provider_code"]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("signed", ["forged", "unknown_key"])
async def test_a_callback_with_a_wrong_signature_is_quarantined(running: Running, provider: str, signed: str) -> None:
    """A body or a key that does not fit moves nothing; the callback is kept."""
    job = await submitted(running, provider, signed=signed)
    assert (await finished(running, job))["status"] == "submitted"
    assert [one["verdict"] for one in await kept(running)] == ["quarantined"]
    assert running.world.callbacks[-1].status_code == 200


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("faults", [{"early": True}, {"submit": "reset_after", "early": True}], ids=str)
async def test_a_callback_that_is_faster_than_the_answer_counts(
    running: Running, provider: str, faults: dict[str, Any]
) -> None:
    """A signed callback brings the id and the end, also of a job whose submission was never answered."""
    running.world.next_faults.append(Faults(signed="ok", **faults))
    job = await running.submit(provider)
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert (done["finished_by"], done["verification"]) == ("callback", "signature")
    assert done["provider_job_id"] in running.world.jobs
    assert len(running.world.submissions) == 1


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "faults", [{"wrong_id": True}, {"malformed": "array"}, {"malformed": "deep"}, {"huge": 1 << 21}], ids=str
)
async def test_a_signed_callback_that_says_nothing_of_the_job_has_it_checked(
    running: Running, provider: str, faults: dict[str, Any]
) -> None:
    """A good signature of another job's body, or of no readable one, moves nothing: the status check decides."""
    job = await submitted(running, provider, signed="ok", **faults)
    done = await confirmed(running, job)
    assert (done["status"], done["finished_by"], done["verification"]) == ("succeeded", "status_check", "fetch")
    assert done["provider_job_id"] == job["provider_job_id"]


async def test_an_unsigned_callback_counts_where_no_secret_is_shared(running: Running) -> None:
    """fal's is confirmed by a status check; WaveSpeed's is quarantined, because its secret is set."""
    by_token = await confirmed(running, await submitted(running, "fal"))
    assert (by_token["status"], by_token["verification"]) == ("succeeded", "fetch")
    refused = await submitted(running, "wavespeed")
    assert (await finished(running, refused))["status"] == "submitted"
    assert (await kept(running))[0]["verdict"] == "quarantined"


async def replayed(running: Running, provider: str, after_s: int) -> httpx.Response:
    """Return relay's answer to a signed callback that comes so much later than it was signed."""
    job = await submitted(running, provider, lost=True)
    stand_in, at_provider = STAND_INS[provider](running.world.keys), running.world.jobs[job["provider_job_id"]]
    at_provider.state = "succeeded"
    raw = msgspec.json.encode(stand_in.callback(at_provider))
    at_provider.faults = Faults(signed="ok")
    headers = stand_in.sign(raw, at_provider, running.clock.now_ms() // 1000)
    await advance(running, after_s)
    return await running.client.post(running.callback_url(), content=raw, headers=headers)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_signature_is_good_for_five_minutes(tmp_path: Path, provider: str) -> None:
    """A callback that is 300 s old counts; one of 301 s may be replayed, and is quarantined."""
    async with relay(
        tmp_path, clock=HeldClock(), RELAY_STATUS_CHECK_FIRST_S="3600", RELAY_WAVESPEED_CALLBACK_SECRET=SECRET
    ) as running:
        for after_s, verdict in ((300, "recorded"), (301, "quarantined")):
            assert (await replayed(running, provider, after_s)).status_code == 200
            assert (await kept(running))[0]["verdict"] == verdict


async def test_a_native_request_for_an_unknown_model_arrives_byte_for_byte(running: Running) -> None:
    """The model becomes the path and the callback URL the query; the rest of the body is what the client wrote."""
    fields = {"prompt": "p", "steps": 30, "nested": {"a": [1, 2.5, None, {"b": "ü"}]}}
    for provider in PROVIDERS:
        await running.submit(provider, request={"model": "some-lab/new-model/v2/turbo", **fields})
        assert running.world.submissions[-1] == fields
        assert list(running.world.jobs.values())[-1].model == "some-lab/new-model/v2/turbo"
        assert running.callback_url().startswith(f"{running.origin}/callbacks/{provider}/")


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("fal", "../../admin"),
        ("fal", "a/b/../c"),
        ("fal", "a//b"),
        ("fal", "a/b?fal_webhook=https://evil.example"),
        ("fal", "a/b%2e%2e/c"),
        ("fal", "/a/b"),
        ("fal", "a/b/c/d/e/f/g"),
        ("fal", "a/b/requests/x/cancel"),
        ("wavespeed", "predictions"),
        ("wavespeed", "predictions/45b392b2/result"),
        ("wavespeed", "media/upload/binary"),
        ("wavespeed", "a/b#c"),
    ],
)
async def test_a_model_cannot_leave_its_place_in_the_path(running: Running, provider: str, model: str) -> None:
    """A name that would ask for another route of the provider is refused, and nothing is sent."""
    answer = await running.client.post(
        "/v1/jobs", json={"provider": provider, "request": {"model": model, "prompt": "p"}}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "request.model"
    assert running.world.submissions == []


@pytest.mark.parametrize(
    ("provider", "field"), [("fal", "fal_webhook"), ("wavespeed", "webhook"), ("wavespeed", "webhook_url")]
)
async def test_a_clients_own_callback_url_is_refused(running: Running, provider: str, field: str) -> None:
    """The name of the query's parameter is reserved in the body, too."""
    request = {"model": "some-lab/new-model", "prompt": "p", field: "https://evil.example"}
    answer = await running.client.post("/v1/jobs", json={"provider": provider, "request": request})
    assert answer.status_code == 422
    assert f"request.{field}" in answer.text


async def test_a_callback_without_its_payload_has_the_result_fetched(running: Running) -> None:
    """A signed success that could not carry its output is completed by the two steps of a status check."""
    done = await confirmed(running, await submitted(running, "fal", signed="ok", version="no_payload"))
    assert (done["status"], len(done["outputs"])) == ("succeeded", 1)
    assert len(running.world.status_checks) == 1


@pytest.mark.parametrize("result", ["not_yet", "down", "locked"])
async def test_a_result_that_is_late_is_fetched_again(running: Running, result: str) -> None:
    """A status that is ahead of the result, an outage or a locked account ends nothing; a later check brings it."""
    job = await submitted(running, "fal", lost=True, result=result, check_times=1)
    await finished(running, job)
    await advance(running, FIRST_S)
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    for _ in range(10):
        await advance(running, 2 * FIRST_S)
    done = await running.get(f"/v1/jobs/{job['id']}")
    assert (done["status"], len(done["outputs"])) == ("succeeded", 1)


async def test_a_status_that_hides_the_failure_is_corrected_by_the_result(running: Running) -> None:
    """A completed job whose result is its model's error has failed."""
    job = await submitted(running, "fal", lost=True, outcome="failed", version="without_error")
    await finished(running, job)
    await advance(running, FIRST_S)
    failed = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "failed")
    assert failed["error"]["class"] == "content_rejected"


async def test_a_refusal_inside_a_200_is_no_job(running: Running) -> None:
    """WaveSpeed's code counts: the job has failed, and nothing is asked about it."""
    running.world.next_faults.append(Faults(submit="error_in_200", status_code=400))
    answer = await running.client.post("/v1/jobs", json={"provider": "wavespeed", "input": {"prompt": "p"}})
    job = answer.json()
    assert (job["status"], job["error"]["class"], job["provider_job_id"]) == ("failed", "invalid_input", None)


@pytest.mark.parametrize(
    ("provider", "status_code", "class_"),
    [("fal", 403, "auth"), ("fal", 402, "insufficient_funds"), ("wavespeed", 402, "insufficient_funds")],
)
async def test_an_empty_account_is_not_a_wrong_key(
    running: Running, provider: str, status_code: int, class_: str
) -> None:
    """The refusal's text decides, for the same status."""
    running.world.next_faults.append(Faults(status_code=status_code))
    job = (await running.client.post("/v1/jobs", json={"provider": provider, "input": {"prompt": "p"}})).json()
    assert (job["status"], job["error"]["class"]) == ("failed", class_)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("status_code", [200, 422, 500])
async def test_an_answer_that_repeats_the_requests_url_shows_no_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], provider: str, status_code: int
) -> None:
    """The callback URL in the query, percent-encoded, and relay's key reach no error, timeline or log."""
    repeated: list[str] = []

    async def repeating(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        repeated.append(f"{request.url} refused for {request.headers['authorization']}")
        body = {"detail": repeated[-1], "message": repeated[-1], "code": 1401, "error": {"message": repeated[-1]}}
        await JSONResponse(body, status_code)(scope, receive, send)

    async with serve(repeating) as origin:
        own = {f"RELAY_{provider.upper()}_{name}": value for name, value in (("API_KEY", KEY), ("BASE_URL", origin))}
        async with relay(tmp_path, clock=HeldClock(), **own) as running:  # type: ignore[arg-type]
            job = await running.submit(provider)
            story = await running.get(f"/v1/jobs/{job['id']}/timeline")
    token = unquote(repeated[0]).partition(f"/callbacks/{provider}/")[2].partition(" ")[0]
    shown = "".join((json.dumps([job, story]), *capsys.readouterr()))
    assert len(token) > 20
    assert "refused for" in shown
    assert [secret for secret in (token, KEY) if secret in shown] == []


async def test_a_cancellation_is_requested_and_the_job_detached(running: Running) -> None:
    """fal accepts the request, which is no proof: the job ends here, and a later success supersedes that."""
    job = await submitted(running, "fal", lost=True)
    canceled = (await running.client.post(f"/v1/jobs/{job['id']}/cancellations", json={})).json()
    assert (canceled["status"], canceled["reason"]) == ("canceled", "detached")
    assert running.world.cancellations == [job["provider_job_id"]]


async def test_a_task_that_has_begun_is_never_deleted(running: Running) -> None:
    """WaveSpeed is asked for the status first, and only a waiting task is deleted: no result is erased."""
    waiting = await submitted(running, "wavespeed", lost=True)
    await running.client.post(f"/v1/jobs/{waiting['id']}/cancellations", json={})
    assert running.world.cancellations == [waiting["provider_job_id"]]
    begun = await submitted(running, "wavespeed", lost=True)
    running.world.jobs[begun["provider_job_id"]].state = "running"
    canceled = (await running.client.post(f"/v1/jobs/{begun['id']}/cancellations", json={})).json()
    assert (canceled["status"], canceled["reason"]) == ("canceled", "detached")
    assert running.world.cancellations == [waiting["provider_job_id"]]
    assert begun["provider_job_id"] in running.world.jobs


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_cancellation_that_comes_too_late_loses_no_result(running: Running, provider: str) -> None:
    """A job that its provider has finished is not canceled: relay says so, and gets its result."""
    job = await submitted(running, provider, lost=True)
    await running.world.finish(job["provider_job_id"])
    answer = await running.client.post(f"/v1/jobs/{job['id']}/cancellations", json={})
    assert answer.status_code == 409
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert len(done["outputs"]) == 1
    assert job["provider_job_id"] in running.world.jobs
