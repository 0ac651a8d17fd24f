"""A job that a restored database lacks is made anew from its orphaned callback, once, and no other is."""

import asyncio
from pathlib import Path

import pytest

from relay.clock import parse_rfc3339
from relay.model import ids
from relay.security.callback_tokens import CallbackTokens
from tests.support.calling_back import DONE, post
from tests.support.running import SECRET_KEY, START_MS, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

JOB_ID = ids.first_at(ids.JOB, START_MS - 1000)


async def orphan(running: Running, job_id: str = JOB_ID, environment: str = "default") -> str:
    """Return the id of the callback that came for a job which is not here."""
    token = CallbackTokens((SECRET_KEY,), environment).make("evolink", job_id, START_MS + 90_000_000)
    answer = await post(running, DONE, f"{running.origin}/callbacks/evolink/{token}")
    assert answer.status_code == 200
    return str((await running.get("/v1/callbacks?verdict=orphaned"))["data"][0]["id"])


async def test_the_job_is_made_anew_and_ends_by_its_callback(tmp_path: Path) -> None:
    """Make the job with the time of its id, without a request, and have it end as the callback says."""
    async with relay(tmp_path, clock=HeldClock(), confirm=False) as running:
        callback_id = await orphan(running)
        released = await running.client.post(f"/v1/callbacks/{callback_id}/releases")
        assert (released.status_code, released.json()["verdict"]) == (200, "orphaned")
        assert [one["verdict"] for one in released.json()["reprocessings"]] == ["recorded"]
        job = await running.get(f"/v1/jobs/{JOB_ID}")
        assert (job["status"], job["finished_by"], job["metadata"]) == ("succeeded", "callback", {})
        assert parse_rfc3339(job["created_at"]) == START_MS - 1000
        events = (await running.get(f"/v1/events?job={JOB_ID}"))["data"]
        assert [event["type"] for event in events] == ["job.succeeded"]
        again = await running.client.post(f"/v1/callbacks/{callback_id}/releases")
        assert again.status_code == 409


async def test_two_releases_together_make_one_job(tmp_path: Path) -> None:
    """Make one job from two callbacks that are released together, and let one of them end it."""
    async with relay(tmp_path, clock=HeldClock(), confirm=False) as running:
        callbacks = [await orphan(running), await orphan(running)]
        answers = await asyncio.gather(*(running.client.post(f"/v1/callbacks/{one}/releases") for one in callbacks))
        assert [answer.status_code for answer in answers] == [200, 200]
        verdicts = [one["verdict"] for answer in answers for one in answer.json()["reprocessings"]]
        assert sorted(verdicts) == ["recorded", "repeated"]
        assert len((await running.get("/v1/jobs"))["data"]) == 1


async def test_a_job_that_nothing_more_is_heard_of_ends_by_a_deadline(tmp_path: Path) -> None:
    """End an adopted job a day later, where its callback says nothing and its provider's id is not known."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        token = CallbackTokens((SECRET_KEY,), "default").make("evolink", JOB_ID, START_MS + 90_000_000)
        await post(running, b"not json", f"{running.origin}/callbacks/evolink/{token}")
        callback_id = (await running.get("/v1/callbacks"))["data"][0]["id"]
        released = await running.client.post(f"/v1/callbacks/{callback_id}/releases")
        assert [one["verdict"] for one in released.json()["reprocessings"]] == ["unreadable"]
        assert (await running.get(f"/v1/jobs/{JOB_ID}"))["reason"] == "submit_unknown"
        await clock.advance(86_399)
        assert (await running.get(f"/v1/jobs/{JOB_ID}"))["status"] == "pending"
        await clock.advance(1)
        await running.until(f"/v1/jobs/{JOB_ID}", lambda shown: shown["status"] == "expired")


async def test_an_adopted_job_is_not_submitted_again(tmp_path: Path) -> None:
    """Refuse to submit an adopted job again: what was requested is lost."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, confirm=False) as running:
        await running.client.post(f"/v1/callbacks/{await orphan(running)}/releases")
        token = CallbackTokens((SECRET_KEY,), "default").make(
            "evolink", ids.first_at(ids.JOB, 5), START_MS + 90_000_000
        )
        await post(running, b'{"status":"failed"}', f"{running.origin}/callbacks/evolink/{token}")
        failed = (await running.get("/v1/callbacks?verdict=orphaned"))["data"][0]
        await running.client.post(f"/v1/callbacks/{failed['id']}/releases")
        asked = {"accept_double_charge": True}
        answer = await running.client.post(f"/v1/jobs/{failed['job']}/resubmissions", json=asked)
        assert (answer.status_code, "lost" in answer.json()["detail"]) == (409, True)
        assert running.world.submissions == []


async def test_another_environments_job_is_not_adopted(tmp_path: Path) -> None:
    """Refuse to make a job from a callback whose token was made in another environment."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        callback_id = await orphan(running, environment="staging")
        answer = await running.client.post(f"/v1/callbacks/{callback_id}/releases")
        assert (answer.status_code, "another environment" in answer.json()["detail"]) == (409, True)
        assert (await running.get("/v1/jobs"))["data"] == []


async def test_a_pruned_job_is_not_adopted(tmp_path: Path) -> None:
    """Refuse to make a job anew that ended and was pruned, and say so."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_CALLBACK_GRACE_S=str(90 * 86_400)) as running:
        job = await running.submit()
        url = running.callback_url()
        await running.world.finish(job["provider_job_id"])
        await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        await clock.advance(31 * 86_400)
        await post(running, DONE, url)
        (orphaned,) = (await running.get("/v1/callbacks?verdict=orphaned"))["data"]
        answer = await running.client.post(f"/v1/callbacks/{orphaned['id']}/releases")
        assert (answer.status_code, "was pruned" in answer.json()["detail"]) == (409, True)
