"""The main job, end to end: a submission out, a callback in, a signed notification to the subscriber."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from relay.clock import SystemClock
from relay.sandbox.faults import Faults
from tests.support.running import Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on the machine's clock, since the official libraries check the time themselves."""
    async with relay(tmp_path, clock=SystemClock()) as started:
        yield started


@pytest.mark.parametrize("provider", ["evolink", "relaydance", "kinovi", "kie", "sandbox"])
async def test_a_job_goes_out_its_callback_comes_in_and_the_subscriber_is_told(running: Running, provider: str) -> None:
    """A submitted job succeeds by its callback, and its endpoint gets signed notifications with their sequence."""
    job = await running.submit(provider, notify=[{"url": running.hook}], metadata={"user": "42"})
    assert job["status"] == "submitted"
    await running.world.finish(job["provider_job_id"])
    await running.sink.wait_for(lambda sink: len(sink.received) == 2)

    done = await running.get(f"/v1/jobs/{job['id']}")
    assert (done["status"], done["finished_by"], done["verification"]) == ("succeeded", "callback", "fetch")
    assert done["outputs"][0]["kind"] == "video"
    assert sorted(running.sink.events()) == ["job.submitted", "job.succeeded"]
    secret = job["notify"][0]["secret"]
    told = {}
    for received in running.sink.received:
        body = Webhook(secret).verify(received.body, received.headers)
        told[body["type"]] = body["data"]["sequence"]
        assert body["data"]["job"]["metadata"] == {"user": "42"}
        assert received.headers["webhook-id"] == body["id"]
    assert told == {"job.submitted": 1, "job.succeeded": 2}


async def test_a_failed_job_tells_the_providers_reason(running: Running) -> None:
    """What the provider says of a failure stands in the job's error, in relay's words and in its own."""
    running.world.next_faults.append(Faults(outcome="failed"))
    job = await running.submit(notify=[{"url": running.hook, "event_types": ["job.failed"]}])
    await running.world.finish(job["provider_job_id"])
    await running.sink.wait_for(lambda sink: sink.events() == ["job.failed"])
    error = (await running.get(f"/v1/jobs/{job['id']}"))["error"]
    assert (error["class"], error["provider_code"]) == ("content_rejected", "content_policy_violation")


async def test_the_timeline_tells_the_whole_story(running: Running) -> None:
    """The timeline holds the submission, the callback, the events, the deliveries and their attempts, in order."""
    job = await running.submit(notify=[{"url": running.hook}])
    await running.world.finish(job["provider_job_id"])
    path = f"/v1/jobs/{job['id']}/timeline"
    story = await running.until(path, lambda shown: sum(line["kind"] == "attempt" for line in shown["data"]) == 2)
    kinds = [line["kind"] for line in story["data"]]
    assert {"state", "submission", "callback", "check", "event", "delivery", "attempt"} == set(kinds)
    (check,) = [line for line in story["data"] if line["kind"] == "check"]
    assert (check["decision"], check["reason"]) == ("succeeded", "HTTP 200; confirmed: now succeeded")
    assert [line["at"] for line in story["data"]] == sorted(line["at"] for line in story["data"])
    assert story["next"] is None


async def test_nothing_secret_is_logged_on_the_way(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither the callback token nor an endpoint's secret nor an API key reaches the log."""
    job = await running.submit(notify=[{"url": running.hook}])
    await running.world.finish(job["provider_job_id"])
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    said = "".join(capsys.readouterr())
    token = running.callback_url().rpartition("/")[2]
    assert job["id"] in said
    assert not [secret for secret in (token, job["notify"][0]["secret"], "sandbox-key") if secret in said]
    assert token not in json.dumps(await running.get(f"/v1/jobs/{job['id']}"))
