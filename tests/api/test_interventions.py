"""What operators do to a job: cancel, check, resubmit and fail it; and release a callback."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.clock import SystemClock
from relay.lifecycle import operator_actions
from relay.model.job import Disposition, Job, JobState
from relay.sandbox.faults import Faults
from relay.security import signatures
from tests.support.calling_back import DONE, post
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_SUBMIT_TIMEOUT_S="1") as started:
        yield started


async def verb(running: Running, job: dict[str, Any], name: str, body: Any = None) -> httpx.Response:
    """Send an intervention; return the response."""
    return await running.client.post(f"/v1/jobs/{job['id']}/{name}", json=body)


async def said(running: Running, job: dict[str, Any]) -> list[str]:
    """Return the types of a job's events, in order."""
    return [event["type"] for event in (await running.get(f"/v1/events?job={job['id']}"))["data"][::-1]]


async def unknown(running: Running) -> dict[str, Any]:
    """Return a job whose submission is unknown to relay but reached the provider."""
    running.world.next_faults.append(Faults(submit="reset_after", lost=True))
    job = await running.submit()
    assert (job["status"], job["reason"]) == ("pending", "submit_unknown")
    return job


async def test_a_cancellation_is_passed_on_where_the_provider_can(running: Running) -> None:
    """Cancel the job at the provider and finally: later reports change nothing."""
    running.world.next_faults.append(Faults(lost=True))
    job = await running.submit("sandbox")
    answer = await verb(running, job, "cancellations")
    assert answer.status_code == 200, answer.text
    done = answer.json()
    assert (done["status"], done["reason"], done["finished_by"]) == ("canceled", None, "operator")
    assert running.world.cancellations == [job["provider_job_id"]]
    assert running.world.jobs[job["provider_job_id"]].state == "canceled"
    await running.client.post(running.callback_url(), content=DONE)
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "canceled"
    assert await said(running, job) == ["job.submitted", "job.canceled"]


@pytest.mark.parametrize(("confirmed", "disposition"), [(True, Disposition.RECORDED), (False, Disposition.STALE)])
def test_a_callback_that_reports_the_cancellation_first_is_no_conflict(
    confirmed: bool, disposition: Disposition
) -> None:
    """Accept a cancellation that the provider confirmed although its callback ended the job meanwhile."""
    job = Job(
        id="job_1", project_id="default", provider="sandbox", state=JobState.CANCELED, created_at=0, updated_at=0,
        deadline_at=1000, request={}, input=None, metadata={}, model=None, provider_job_id="task-1", finished_at=5,
    )  # fmt: skip
    transition = operator_actions.canceled(job, confirmed, 10)
    assert (transition.job, transition.disposition, transition.announce) == (job, disposition, None)


async def test_a_job_stays_open_if_the_provider_refuses_to_cancel(running: Running) -> None:
    """Answer 409 with what happens next; keep the job open and check it immediately."""
    running.world.next_faults.append(Faults(cancel="refused", lost=True))
    job = await running.submit("sandbox")
    running.world.jobs[job["provider_job_id"]].state = "succeeded"
    answer = await verb(running, job, "cancellations")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert done["finished_by"] == "status_check"


async def test_without_a_route_at_the_provider_the_job_is_detached(running: Running) -> None:
    """Detach the job and say so; a later result of the provider is late and supersedes the cancellation."""
    job = await running.submit("kinovi", notify=[{"url": running.hook}])
    done = (await verb(running, job, "cancellations")).json()
    assert (done["status"], done["reason"], done["verification"]) == ("canceled", "detached", "none")
    await running.world.finish(job["provider_job_id"])
    late = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert (late["late"], late["reason"], late["verification"]) == (True, None, "fetch")
    events = (await running.get(f"/v1/events?job={job['id']}"))["data"]
    assert [event["type"] for event in events[::-1]] == ["job.submitted", "job.canceled", "job.succeeded"]
    assert events[0]["data"]["supersedes"] == events[1]["id"]


async def test_a_job_that_was_not_sent_is_surely_canceled(tmp_path: Path) -> None:
    """Cancel a job that waits for its next submission without a doubt, and never submit it."""
    unreachable = "http://127.0.0.1:9"
    async with relay(tmp_path, clock=HeldClock(), RELAY_EVOLINK_BASE_URL=unreachable) as running:
        job = await running.submit()
        done = (await verb(running, job, "cancellations")).json()
        assert (done["status"], done["reason"]) == ("canceled", None)
        assert isinstance(running.clock, HeldClock)
        await running.clock.advance(100)
        story = await running.get(f"/v1/jobs/{job['id']}/timeline")
        assert (story["next"], [line["kind"] for line in story["data"]].count("submission")) == (None, 2)


@pytest.mark.parametrize("name", ["cancellations", "failures"])
async def test_what_has_ended_cannot_be_ended_again(running: Running, name: str) -> None:
    """Answer 409, and change nothing."""
    job = await running.submit()
    await running.world.finish(job["provider_job_id"])
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    answer = await verb(running, job, name, {"reason": "enough"} if name == "failures" else None)
    assert (answer.status_code, answer.json()["detail"]) == (409, "the job is already succeeded")
    assert await running.get(f"/v1/jobs/{job['id']}") == done


async def test_an_operator_can_fail_a_job(running: Running) -> None:
    """Fail the job with the operator's reason; the provider's result could still supersede it."""
    job = await unknown(running)
    answer = await verb(running, job, "failures", {"reason": "the provider's support says that it is gone"})
    assert answer.status_code == 200
    done = answer.json()
    assert (done["status"], done["finished_by"], done["verification"]) == ("failed", "operator", "none")
    assert done["error"]["message"] == "the provider's support says that it is gone"
    assert await said(running, job) == ["job.failed"]


@pytest.mark.parametrize("body", [None, {}, {"reason": ""}, {"reason": 7}, {"reason": "x" * 501}, {"why": "x"}])
async def test_failing_a_job_needs_a_reason(running: Running, body: Any) -> None:
    """Answer 422 that names the field, and keep the job open."""
    job = await running.submit()
    answer = await verb(running, job, "failures", body)
    assert answer.status_code == 422, answer.text
    assert {error["path"] for error in answer.json()["errors"]} <= {"reason", "why"}
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"


async def test_a_requested_check_polls_immediately(running: Running) -> None:
    """Answer with the job after the provider's status, long before a check was due."""
    running.world.next_faults.append(Faults(lost=True))
    job = await running.submit()
    assert (await verb(running, job, "status-checks")).json()["status"] == "submitted"
    await running.world.finish(job["provider_job_id"])
    done = (await verb(running, job, "status-checks", {})).json()
    assert (done["status"], done["finished_by"], done["verification"]) == ("succeeded", "status_check", "fetch")


async def test_a_check_after_the_end_brings_fresh_result_urls(running: Running) -> None:
    """Replace the job's result URL by the newly signed one, without a second event."""
    job = await running.submit()
    await running.world.finish(job["provider_job_id"])
    before = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(3600)
    after = (await verb(running, job, "status-checks")).json()
    assert after["outputs"][0]["expires_at"] > before["outputs"][0]["expires_at"]
    assert after["finished_at"] == before["finished_at"]
    assert await said(running, job) == ["job.submitted", "job.succeeded"]


async def test_a_job_without_an_id_cannot_be_checked(running: Running) -> None:
    """Answer 409 because the provider's job id is unknown."""
    answer = await verb(running, await unknown(running), "status-checks")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "id" in answer.json()["detail"]


async def test_submitting_again_needs_consent_where_it_may_be_paid_twice(running: Running) -> None:
    """Answer 409 without `accept_double_charge`; with it submit the same job once more, to its end."""
    job = await unknown(running)
    refused = await verb(running, job, "resubmissions")
    assert (refused.status_code, "accept_double_charge" in refused.json()["detail"]) == (409, True)
    assert len(running.world.submissions) == 1
    answer = await verb(running, job, "resubmissions", {"accept_double_charge": True})
    assert answer.status_code == 202, answer.text
    again = answer.json()
    assert (again["id"], again["status"], again["reason"]) == (job["id"], "submitted", None)
    assert len(running.world.submissions) == 2
    await running.world.finish(again["provider_job_id"])
    await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert await said(running, job) == ["job.submitted", "job.succeeded"]


async def test_a_refused_job_is_submitted_again_without_consent(running: Running) -> None:
    """Resubmit it since nothing was charged; the new end supersedes the failure, and the deadline starts anew."""
    running.world.next_faults.append(Faults(status_code=402))
    job = await running.submit(deadline_s=600)
    assert job["status"] == "failed"
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(900)
    again = (await verb(running, job, "resubmissions")).json()
    assert (again["status"], again["error"], again["finished_at"]) == ("submitted", None, None)
    assert again["deadline_at"] > job["deadline_at"]
    await running.world.finish(again["provider_job_id"])
    await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    events = (await running.get(f"/v1/events?job={job['id']}"))["data"][::-1]
    assert [event["type"] for event in events] == ["job.failed", "job.submitted", "job.succeeded"]
    assert events[2]["data"]["supersedes"] == events[0]["id"]
    assert [event["sequence"] for event in events] == [1, 2, 3]


async def test_a_late_callback_of_the_first_submission_is_not_the_seconds(running: Running) -> None:
    """Mark a callback of the first submission `mismatched` after the job was resubmitted."""
    job = await running.submit()
    assert isinstance(running.clock, HeldClock)
    await verb(running, job, "cancellations")
    await verb(running, job, "resubmissions", {"accept_double_charge": True})
    await running.world.finish(job["provider_job_id"])
    (callback,) = (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]
    assert callback["verdict"] == "mismatched"
    shown = await running.get(f"/v1/jobs/{job['id']}")
    assert (shown["status"], shown["provider_job_id"]) == ("submitted", list(running.world.jobs)[-1])


@pytest.mark.parametrize("state", ["submitted", "succeeded"])
async def test_a_job_under_way_or_done_is_not_submitted_again(running: Running, state: str) -> None:
    """Answer 409, with or without consent, and send nothing to the provider."""
    job = await running.submit()
    if state == "succeeded":
        await running.world.finish(job["provider_job_id"])
        await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == state)
    answer = await verb(running, job, "resubmissions", {"accept_double_charge": True})
    assert (answer.status_code, len(running.world.submissions)) == (409, 1)


@pytest.mark.parametrize("name", ["cancellations", "status-checks", "resubmissions", "failures"])
async def test_interventions_need_a_job_of_the_project(running: Running, name: str) -> None:
    """Answer 404 for a job that does not exist or is another project's."""
    answer = await verb(
        running, {"id": "job_00000000000000000000000000"}, name, {"reason": "x"} if "fail" in name else None
    )
    assert answer.status_code == 404


async def test_an_idempotency_key_holds_for_interventions_too(running: Running) -> None:
    """Make a resubmission once that is requested twice with one key."""
    job = await unknown(running)
    asked = {"json": {"accept_double_charge": True}, "headers": {"idempotency-key": "again-1"}}
    first = await running.client.post(f"/v1/jobs/{job['id']}/resubmissions", **asked)  # type: ignore[arg-type]
    again = await running.client.post(f"/v1/jobs/{job['id']}/resubmissions", **asked)  # type: ignore[arg-type]
    assert (first.status_code, again.json(), again.headers["idempotent-replayed"]) == (202, first.json(), "true")
    assert len(running.world.submissions) == 2


async def test_a_callback_with_a_wrong_signature_is_quarantined(tmp_path: Path) -> None:
    """Quarantine a callback whose required signature is wrong; a status check ends the job meanwhile."""
    secret = signatures.new_secret()
    async with relay(tmp_path, clock=SystemClock(), RELAY_EVOLINK_CALLBACK_SECRET=secret) as running:
        running.world.next_faults.append(Faults(lost=True))
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        assert (await post(running, DONE)).status_code == 200
        (callback,) = (await running.get("/v1/callbacks?verdict=quarantined"))["data"]
        assert "webhook-id" in callback["reason"]
        done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        assert done["finished_by"] == "status_check"
        released = await running.client.post(f"/v1/callbacks/{callback['id']}/releases")
        assert (released.status_code, released.json()["verdict"]) == (200, "quarantined")
        (reprocessing,) = released.json()["reprocessings"]
        assert (reprocessing["verdict"], reprocessing["by"]) == ("repeated", "RELAY_API_KEY")
        again = await running.client.post(f"/v1/callbacks/{callback['id']}/releases")
        assert again.status_code == 409


async def test_a_released_callback_is_applied_as_if_just_received(tmp_path: Path) -> None:
    """End the job by a callback released after the setting was corrected; keep its bytes and time of receipt."""
    clock, right, wrong = HeldClock(round(time.time() * 1000)), signatures.new_secret(), signatures.new_secret()
    faults = Faults(lost=True, check="not_found")
    async with relay(tmp_path, clock=clock, RELAY_EVOLINK_CALLBACK_SECRET=wrong) as running:
        running.world.next_faults.append(faults)
        job = await running.submit()
        now_s = clock.now_ms() // 1000
        signed = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(now_s),
            "webhook-signature": signatures.sign([right], "msg_1", now_s, DONE),
        }
        await running.client.post(running.callback_url(), content=DONE, headers=signed)
        (listed,) = (await running.get("/v1/callbacks?verdict=quarantined"))["data"]
        callback = await running.get(f"/v1/callbacks/{listed['id']}")
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    await clock.advance(1000)
    async with relay(tmp_path, clock=clock, RELAY_EVOLINK_CALLBACK_SECRET=right) as running:
        created = await running.app.store.access.create_api_key("default", "", ["admin"], 1)
        key_id, key = created.id, created.text
        headers = {"authorization": f"Bearer {key}"}
        released = (await running.client.post(f"/v1/callbacks/{callback['id']}/releases", headers=headers)).json()
        assert (released["verdict"], released["reason"]) == ("quarantined", callback["reason"])
        (reprocessing,) = released["reprocessings"]
        assert (reprocessing["verdict"], reprocessing["by"]) == ("recorded", key_id)
        assert (await running.get(f"/v1/callbacks/{callback['id']}"))["reprocessings"] == [reprocessing]
        entries = (await running.get(f"/v1/jobs/{job['id']}/timeline"))["data"]
        about = [(one["decision"], one["at"]) for one in entries if one["ref"] == callback["id"]]
        assert about == [("quarantined", callback["received_at"]), ("recorded", reprocessing["at"])]
        assert [released[name] for name in ("id", "received_at", "body", "headers")] == [
            callback[name] for name in ("id", "received_at", "body", "headers")
        ]
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["status"], done["verification"], done["finished_by"]) == ("succeeded", "signature", "callback")


async def test_a_signed_callback_needs_no_confirmation(tmp_path: Path) -> None:
    """End the job immediately by a callback with a valid signature, with `verification: signature`."""
    clock, secret = HeldClock(), signatures.new_secret()
    async with relay(tmp_path, clock=clock, RELAY_EVOLINK_CALLBACK_SECRET=secret) as running:
        job = await running.submit()
        now_s = clock.now_ms() // 1000
        signed = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(now_s),
            "webhook-signature": signatures.sign([secret], "msg_1", now_s, DONE),
        }
        await running.client.post(running.callback_url(), content=DONE, headers=signed)
        done = await running.get(f"/v1/jobs/{job['id']}")
        assert (done["status"], done["verification"]) == ("succeeded", "signature")
        assert running.world.status_checks == []
