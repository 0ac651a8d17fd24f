"""MiniMax through the real program: the challenge during a submission, the two steps of V1, a cancellation in time."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.sandbox.contract import ProviderJob
from relay.sandbox.faults import Faults
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

V2 = {
    "model": "MiniMax-H3",
    "content": [{"type": "text", "text": "A paper boat on a lake"}],
    "resolution": "768P",
    "duration": 5,
    "ratio": "16:9",
}
V1 = {"model": "MiniMax-Hailuo-2.3", "prompt": "A paper boat on a lake", "duration": 6}
FOREIGN = V2 | {"model": "MiniMax-H9", "resolution": "2K", "duration": 9, "fps": 60}
MINUTE_S = 60
both_versions = pytest.mark.parametrize("request_body", [V2, V1], ids=["v2", "v1"])


@pytest.fixture
async def clock() -> HeldClock:
    """Return the clock of the relay."""
    return HeldClock()


@pytest.fixture
async def running(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, clock=clock) as started:
        yield started


async def submitted(running: Running, body: dict[str, Any], **faults: Any) -> dict[str, Any]:
    """Return a job whose provider has these faults, and whose events go to the sink."""
    running.world.next_faults.append(Faults(**faults))
    return await running.submit("minimax", request=body, notify=[{"url": running.hook}])


def only(running: Running) -> ProviderJob:
    """Return the one job that the provider has."""
    (job,) = running.world.jobs.values()
    return job


async def shown(running: Running, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job as it is now."""
    return await running.get(f"/v1/jobs/{job['id']}")


async def callbacks(running: Running, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the job's callbacks, the oldest first."""
    listed = (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]
    return [await running.get(f"/v1/callbacks/{one['id']}") for one in reversed(listed)]


@both_versions
async def test_the_challenge_is_answered_while_the_submission_is_open(
    running: Running, request_body: dict[str, Any]
) -> None:
    """Give the challenge back before MiniMax has answered the submission; it is recorded and changes nothing."""
    job = await submitted(running, request_body)
    assert (job["status"], job["reason"]) == ("submitted", None)
    assert only(running).callback_url == running.callback_url()  # the stand-in forgets a URL that failed the challenge
    (challenge,) = await callbacks(running, job)
    assert (challenge["verdict"], challenge["reason"]) == ("recorded", "handshake")
    story = await running.get(f"/v1/jobs/{job['id']}/timeline")
    assert "handshake" in str(story["data"])
    events = (await running.get(f"/v1/events?job={job['id']}"))["data"]
    assert [event["type"] for event in events] == ["job.submitted"]


async def test_a_challenge_at_any_time_moves_nothing(running: Running, clock: HeldClock) -> None:
    """Answer a challenge to a pending, an open and a finished job alike, and leave the job as it is."""
    job = await submitted(running, V2)
    url = running.callback_url()
    for _ in range(2):
        before = await shown(running, job)
        answer = await running.client.post(url, json={"challenge": "näx€"})
        assert (answer.status_code, answer.json()) == (200, {"challenge": "näx€"})
        assert answer.headers["content-type"].startswith("application/json")
        after = await shown(running, job)
        assert {name for name in after if after[name] != before[name]} <= {"callbacks"}
        await running.world.finish(only(running).id)
        await clock.advance(1)
    assert (await shown(running, job))["status"] == "succeeded"


async def test_a_challenge_with_a_wrong_token_is_refused(running: Running) -> None:
    """Refuse a challenge to a URL whose token is not relay's, and echo nothing."""
    await submitted(running, V2)
    answer = await running.client.post(running.callback_url()[:-4] + "AAAA", json={"challenge": "abc"})
    assert answer.status_code in (401, 404)
    assert "abc" not in answer.text


@both_versions
async def test_a_callback_ends_the_job_once_its_status_confirms_it(
    running: Running, clock: HeldClock, request_body: dict[str, Any]
) -> None:
    """Notify of the end that a callback reports and a status check confirms, of V1 with the file's URL."""
    job = await submitted(running, request_body)
    await running.world.finish(job["provider_job_id"])
    await clock.advance(1)
    ended = await shown(running, job)
    assert (ended["status"], ended["finished_by"], ended["verification"]) == ("succeeded", "callback", "fetch")
    assert ended["outputs"][0]["url"] == only(running).result_url
    cost = {"amount": "0.4", "unit": "USD", "kind": "final"} if request_body is V2 else None
    assert ended["cost"] == cost
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())


@both_versions
async def test_a_lost_callback_costs_only_time(
    running: Running, clock: HeldClock, request_body: dict[str, Any]
) -> None:
    """Find the end by a status check if no callback comes, of V1 in two steps of one check."""
    job = await submitted(running, request_body, lost=True)
    await running.world.finish(job["provider_job_id"])
    await clock.advance(5 * MINUTE_S)
    ended = await shown(running, job)
    assert (ended["status"], ended["finished_by"]) == ("succeeded", "status_check")
    assert ended["outputs"][0]["url"] == only(running).result_url
    assert running.world.status_checks == [job["provider_job_id"]]
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())


async def test_an_unknown_model_reaches_minimax_as_it_is(running: Running) -> None:
    """Send a native body for an unknown model unchanged, but for relay's callback URL."""
    await submitted(running, FOREIGN)
    assert running.world.submissions == [FOREIGN | {"callback_url": running.callback_url()}]


async def test_a_v1_error_inside_200_refuses_the_job(running: Running) -> None:
    """Fail a job that V1 refuses inside HTTP 200, with the code's class."""
    body = V1 | {"prompt": "p", "resolution": "1080P", "model": "Hailuo-9", "duration": 7}
    failed = await submitted(running, body)
    assert (failed["status"], failed["error"]["class"], failed["error"]["provider_code"]) == (
        "failed",
        "invalid_input",
        "2013",
    )


async def test_a_queued_job_is_canceled_at_minimax(running: Running) -> None:
    """Delete a job that MiniMax calls queued, and say that MiniMax canceled it."""
    job = await submitted(running, V2, lost=True)
    canceled = await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
    assert (canceled.status_code, canceled.json()["status"], canceled.json()["reason"]) == (200, "canceled", None)
    assert running.world.cancellations == [job["provider_job_id"]]


async def test_a_job_that_has_ended_is_never_erased(running: Running, clock: HeldClock) -> None:
    """Send no DELETE for a job that MiniMax finished, though relay does not know yet: its end counts."""
    job = await submitted(running, V2, lost=True)
    await running.world.finish(job["provider_job_id"])
    answer = await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
    assert running.world.cancellations == []
    assert job["provider_job_id"] in running.world.jobs
    await clock.advance(5 * MINUTE_S)
    ended = await shown(running, job)
    assert ended["status"] == ("succeeded" if answer.status_code == 409 else "canceled"), answer.text


@pytest.mark.parametrize("state", ["running"])
async def test_a_running_job_is_only_detached(running: Running, state: str) -> None:
    """Detach a job that MiniMax has begun, since a DELETE would be refused."""
    job = await submitted(running, V2)
    only(running).state = state
    canceled = await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
    assert (canceled.json()["status"], canceled.json()["reason"]) == ("canceled", "detached")
    assert running.world.cancellations == []


async def test_many_challenges_arrive_together_with_their_submissions(running: Running) -> None:
    """Answer the challenges of twenty jobs that are submitted at the same time."""
    jobs = await asyncio.gather(*(running.submit("minimax", request=V2) for _ in range(20)))
    assert {job["status"] for job in jobs} == {"submitted"}
    assert all(job.callback_url for job in running.world.jobs.values())
