"""Jobs at Ark: callbacks at every change, references, a refusal by its code, and cancellations that erase nothing."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.errors import SettingsError
from relay.sandbox.faults import Faults
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


async def settled(running: Running, job: dict[str, Any], seconds: float = 0) -> dict[str, Any]:
    """Return the job once everything that is due is done."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)
    return await running.get(f"/v1/jobs/{job['id']}")


async def test_a_job_runs_through_its_states(running: Running) -> None:
    """Announce each change once, confirm the end by a status check, and show the tokens as the cost."""
    job = await running.submit("ark")
    assert (job["status"], job["provider_job_id"]) == ("submitted", "cgt-20261127100000-00001")
    await running.world.finish(job["provider_job_id"])
    ended = await settled(running, job)
    assert (ended["status"], ended["verification"], ended["finished_by"]) == ("succeeded", "fetch", "callback")
    assert ended["cost"] == {"amount": "108900", "unit": "tokens", "kind": "final"}
    assert [output["kind"] for output in ended["outputs"]] == ["video"]
    events = await running.get(f"/v1/events?job={job['id']}")
    assert [one["type"] for one in reversed(events["data"])] == ["job.submitted", "job.running", "job.succeeded"]
    assert running.world.status_checks == [job["provider_job_id"]]


async def test_references_and_options_reach_the_provider(running: Running) -> None:
    """Send references with their roles, and a provider's own field, in a body that the provider accepts."""
    given = {
        "prompt": "the dancer moves to the music",
        "references": ["https://example.com/a.png", {"url": "https://example.com/a.mp3", "kind": "audio"}],
        "model": "dreamina-seedance-2-5-260628",
        "duration_s": 30,
        "provider_options": {"return_last_frame": True},
    }
    job = await running.submit("ark", input=given)
    sent: dict[str, Any] = dict(running.world.submissions[-1])
    assert [one.get("role") for one in sent["content"]] == [None, "reference_image", "reference_audio"]
    assert (sent["return_last_frame"], sent["duration"]) == (True, 30)
    await running.world.finish(job["provider_job_id"])
    assert [output["kind"] for output in (await settled(running, job))["outputs"]] == ["video", "last_frame"]


async def test_a_refusal_has_its_class(running: Running) -> None:
    """Class a 403 of an account in arrears as missing funds, not as a refused key."""
    running.world.next_faults.append(Faults(status_code=403))
    job = await running.submit("ark")
    assert (job["status"], job["error"]["class"]) == ("failed", "insufficient_funds")
    shown = {one["name"]: one for one in (await running.get("/v1/providers"))["data"]}
    assert shown["ark"]["key_refused_at"] is None


async def test_a_rejected_video_is_a_failure(running: Running) -> None:
    """Announce a task that failed with HTTP 200 by the code in its error."""
    running.world.next_faults.append(Faults(outcome="failed"))
    job = await running.submit("ark")
    await running.world.finish(job["provider_job_id"])
    ended = await settled(running, job)
    assert (ended["status"], ended["error"]["class"]) == ("failed", "content_rejected")
    assert ended["error"]["provider_code"] == "OutputVideoSensitiveContentDetected"


async def test_a_queued_task_is_canceled(running: Running) -> None:
    """Ask for the status, and send DELETE for a task that is still queued."""
    running.world.next_faults.append(Faults(lost=True))  # a callback before the answer would be confirmed by a check
    job = await running.submit("ark")
    answer = await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
    assert (answer.json()["status"], answer.json()["reason"]) == ("canceled", None)
    assert running.world.status_checks == running.world.cancellations == [job["provider_job_id"]]
    assert running.world.jobs[job["provider_job_id"]].state == "canceled"


@pytest.mark.parametrize("state", ["running", "succeeded", "failed"])
async def test_a_cancellation_erases_nothing(running: Running, state: str) -> None:
    """Keep the task of a job that is canceled when its provider has begun or finished it, whatever relay knew."""
    running.world.next_faults.append(Faults(outcome=state if state != "running" else "succeeded", lost=True))
    job = await running.submit("ark")
    task = running.world.jobs[job["provider_job_id"]]
    if state == "running":
        task.state = "running"
    else:
        await running.world.finish(job["provider_job_id"])
    await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
    assert running.world.jobs[job["provider_job_id"]].state == state
    assert running.world.cancellations == []


async def test_a_callback_secret_is_refused_at_the_start(tmp_path: Path) -> None:
    """Do not start with a secret that no callback can be verified by, since Ark signs nothing."""
    with pytest.raises(SettingsError, match="RELAY_ARK_CALLBACK_SECRET must not be set"):
        async with relay(tmp_path, RELAY_ARK_CALLBACK_SECRET="whsec_" + "A" * 43 + "="):
            pass
