"""Replicate in the whole flow: models in the path, versions, cancellations, and results that are removed."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.sandbox.faults import Faults
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
INPUT: dict[str, Any] = {"prompt": "a wave", "odd": {"deep": [1.5, None, {"é": "\u2028"}]}}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


@pytest.mark.parametrize(
    ("request_body", "sent", "model"),
    [
        ({"model": "some-maker/new_model.v2", "input": INPUT}, {"input": INPUT}, "some-maker/new_model.v2"),
        ({"version": VERSION, "input": INPUT}, {"version": VERSION, "input": INPUT}, VERSION),
        ({"model": f"a/b:{VERSION}", "input": INPUT}, {"version": f"a/b:{VERSION}", "input": INPUT}, f"a/b:{VERSION}"),
    ],
)
async def test_an_unknown_model_is_sent_unchanged(
    running: Running, request_body: dict[str, Any], sent: dict[str, Any], model: str
) -> None:
    """Send a native body as it is but for the callback; the model goes into the path, and the job names it."""
    job = await running.submit("replicate", request=request_body)
    arrived = dict(running.world.submissions[-1])
    assert (arrived.pop("webhook"), arrived.pop("webhook_events_filter")) == (running.callback_url(), ["completed"])
    assert arrived == sent
    assert running.world.jobs[job["provider_job_id"]].model == model
    assert (job["model"], job["checked"], job["request"]) == (model, "partly", request_body)
    await running.world.finish(job["provider_job_id"])
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert done["finished_by"] == "callback"


async def test_a_running_prediction_is_canceled_there(running: Running) -> None:
    """Cancel at Replicate, whose answer confirms it."""
    running.world.next_faults.append(Faults(lost=True))
    job = await running.submit("replicate")
    done = (await running.client.post(f"/v1/jobs/{job['id']}/cancellations")).json()
    assert (done["status"], done["reason"]) == ("canceled", None)
    assert running.world.jobs[job["provider_job_id"]].state == "canceled"


async def test_a_cancellation_never_loses_a_finished_video(running: Running) -> None:
    """Refuse to cancel what had ended at Replicate, ask for its status, and end the job with its video."""
    running.world.next_faults.append(Faults(lost=True))
    job = await running.submit("replicate", notify=[{"url": running.hook}])
    await running.world.finish(job["provider_job_id"])
    answer = await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
    assert (answer.status_code, running.world.cancellations) == (409, [job["provider_job_id"]])
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert done["outputs"][0]["kind"] == "video"
    await running.sink.wait_for(lambda sink: sorted(sink.events()) == ["job.submitted", "job.succeeded"])


async def test_a_429_pauses_checks_as_long_as_its_text_says(tmp_path: Path) -> None:
    """After a 429 whose text says 45 seconds no job is asked about before they are over, and then it is."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_STATUS_CHECK_FIRST_S="10") as running:
        running.world.next_faults += [Faults(lost=True, check_status=429, check_times=1), Faults(lost=True)]
        first = await running.submit("replicate")
        await clock.advance(10)
        await running.until(f"/v1/jobs/{first['id']}/timeline", lambda shown: "no status" in str(shown["data"]))
        second = await running.submit("replicate")
        await clock.advance(44)
        assert running.world.status_checks == [first["provider_job_id"]]
        await clock.advance(1)
        await running.until(f"/v1/jobs/{second['id']}/timeline", lambda shown: "check" in str(shown["data"]))
