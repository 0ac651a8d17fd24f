"""Kling through the real program: callbacks of both contracts, status checks, the look-up that heals a cut answer."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.sandbox.contract import ProviderJob
from relay.sandbox.faults import Faults
from relay.sandbox.shared_secrets import WEBHOOK_SECRET
from relay.security.signatures import new_secret
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

NEW = {"model": "kling-3.0", "prompt": "A paper boat on a lake", "settings": {"duration": 5}}
OLD = {"model_name": "kling-v2-6", "prompt": "A paper boat on a lake", "image": "https://example.com/a.png"}
FRAME = {"type": "first_frame", "url": "https://example.com/a.png"}
FOREIGN = {"model": "kling-4.0", "contents": [{"type": "prompt", "text": "p"}, FRAME], "settings": {"fps": 60}}
MINUTE_S = 60
both_contracts = pytest.mark.parametrize("request_body", [NEW, OLD], ids=["new", "old"])


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
    return await running.submit("kling", request=body, notify=[{"url": running.hook}])


def only(running: Running) -> ProviderJob:
    """Return the one job that the provider has."""
    (job,) = running.world.jobs.values()
    return job


async def shown(running: Running, job: dict[str, Any]) -> dict[str, Any]:
    """Return the job as it is now."""
    return await running.get(f"/v1/jobs/{job['id']}")


@both_contracts
async def test_a_callback_ends_the_job_once_its_status_confirms_it(
    running: Running, clock: HeldClock, request_body: dict[str, Any]
) -> None:
    """Notify of the end that a callback reports and a status check confirms, with the result and the bill."""
    job = await submitted(running, request_body)
    await running.world.finish(job["provider_job_id"])
    await clock.advance(1)
    ended = await shown(running, job)
    assert (ended["status"], ended["finished_by"], ended["verification"]) == ("succeeded", "callback", "fetch")
    assert ended["outputs"][0]["url"] == only(running).result_url
    assert ended["cost"] == {"amount": "3", "unit": "credits", "kind": "final"}
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    assert len(running.world.status_checks) == 1


@both_contracts
async def test_a_lost_callback_costs_only_time(
    running: Running, clock: HeldClock, request_body: dict[str, Any]
) -> None:
    """Find the end by a status check if no callback ever comes."""
    job = await submitted(running, request_body, lost=True)
    await running.world.finish(job["provider_job_id"])
    await clock.advance(5 * MINUTE_S)
    ended = await shown(running, job)
    assert (ended["status"], ended["finished_by"]) == ("succeeded", "status_check")
    assert running.world.callbacks == []
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())


async def test_an_unknown_model_reaches_kling_as_it_is(running: Running) -> None:
    """Send a native body for an unknown model unchanged, but for relay's callback URL and id, on the path it names."""
    job = await submitted(running, FOREIGN)
    sent = running.world.submissions[0]
    assert sent.pop("options") == {"callback_url": running.callback_url(), "external_task_id": job["id"]}
    assert sent == {name: value for name, value in FOREIGN.items() if name != "model"}
    assert only(running).model == "kling-4.0"


@both_contracts
async def test_a_cut_answer_heals_by_a_look_up_without_any_callback(
    running: Running, clock: HeldClock, request_body: dict[str, Any]
) -> None:
    """Find the job by relay's own id after its answer was cut, follow it to its end, and create no second one."""
    job = await submitted(running, request_body, submit="reset_after", lost=True)
    assert (job["status"], job["reason"], job["provider_job_id"]) == ("pending", "submit_unknown", None)
    await clock.advance(MINUTE_S)
    found = await shown(running, job)
    assert (found["status"], found["reason"], found["error"]) == ("submitted", None, None)
    assert found["provider_job_id"] == only(running).id
    await running.world.finish(only(running).id)
    await clock.advance(15 * MINUTE_S)
    assert (await shown(running, job))["status"] == "succeeded"
    assert len(running.world.submissions) == len(running.world.jobs) == 1
    assert running.world.callbacks == []
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    assert len({one.headers["webhook-id"] for one in running.sink.received}) == len(running.sink.received)


async def test_a_job_that_ended_before_its_look_up_ends_by_it(running: Running, clock: HeldClock) -> None:
    """End a job whose look-up finds it finished, with its result."""
    job = await submitted(running, NEW, submit="reset_after", lost=True)
    await running.world.finish(only(running).id)
    await clock.advance(MINUTE_S)
    await clock.advance(MINUTE_S)
    ended = await shown(running, job)
    assert ended["status"] == "succeeded"
    assert ended["outputs"][0]["url"] == only(running).result_url


async def test_a_job_that_never_arrived_fails_and_may_be_submitted_again(running: Running, clock: HeldClock) -> None:
    """Fail a job that Kling does not have after three look-ups and ten minutes, not earlier; a new try has a new id."""
    job = await submitted(running, NEW, submit="reset", lost=True)
    assert job["reason"] == "submit_unknown"
    for _ in range(9):
        await clock.advance(MINUTE_S)
        assert (await shown(running, job))["reason"] == "submit_unknown"
    for _ in range(20):
        await clock.advance(MINUTE_S)
    failed = await shown(running, job)
    assert (failed["status"], failed["error"]["code"], failed["error"]["retryable"]) == ("failed", "not_created", True)
    assert len(running.world.status_checks) >= 3
    assert running.world.jobs == {}
    again = await running.client.post(f"/v1/jobs/{job['id']}/resubmissions", json={})
    assert again.status_code in (200, 202), again.text
    first, second = (sent["options"]["external_task_id"] for sent in running.world.submissions)
    assert first == job["id"]
    assert second != first
    assert second.startswith(job["id"])


async def test_a_look_up_without_an_answer_decides_nothing(running: Running, clock: HeldClock) -> None:
    """Go on looking a job up while Kling answers with errors, and fail it by no number of them."""
    job = await submitted(running, NEW, submit="reset_after", lost=True, check="html")
    for _ in range(30):
        await clock.advance(MINUTE_S)
    assert (await shown(running, job))["reason"] == "submit_unknown"
    only(running).faults = Faults(lost=True)
    for _ in range(30):
        await clock.advance(MINUTE_S)
    assert (await shown(running, job))["provider_job_id"] == only(running).id
    assert len(running.world.submissions) == 1


async def test_an_error_inside_200_refuses_the_job(running: Running) -> None:
    """Fail a job that Kling refuses by a code inside HTTP 200, with the code's class."""
    job = await submitted(running, NEW, submit="error_in_200", status_code=402)
    failed = await shown(running, job)
    assert (failed["status"], failed["error"]["class"], failed["error"]["provider_code"]) == (
        "failed",
        "insufficient_funds",
        "1102",
    )


async def test_callbacks_in_any_order_announce_each_state_once(running: Running, clock: HeldClock) -> None:
    """Keep a finished job finished when copies and earlier states come after its end, and notify of each state once."""
    job = await submitted(running, NEW, reordered=True, duplicate=2)
    await running.world.finish(job["provider_job_id"])
    await clock.advance(1)
    assert (await shown(running, job))["status"] == "succeeded"
    await running.sink.wait_for(lambda sink: len(sink.received) >= 3)
    assert sorted(running.sink.events()) == ["job.running", "job.submitted", "job.succeeded"]


@pytest.mark.parametrize(
    ("signed", "counts"), [("ok", True), ("forged", False), ("unknown_key", False), ("", False)], ids=str
)
@pytest.mark.parametrize("secrets", [[WEBHOOK_SECRET], [new_secret(), WEBHOOK_SECRET]], ids=["one", "rotated"])
async def test_with_a_secret_only_a_signed_callback_counts(
    tmp_path: Path, clock: HeldClock, signed: str, counts: bool, secrets: list[str]
) -> None:
    """Believe a callback that one of the secrets signed, without a status check; quarantine every other, and check."""
    async with relay(tmp_path, clock=clock, RELAY_KLING_CALLBACK_SECRET=" ".join(secrets)) as running:
        running.world.keys.clock = lambda: clock.now_ms() // 1000
        job = await submitted(running, NEW, signed=signed)
        await running.world.finish(job["provider_job_id"])
        await clock.advance(1)
        found = await shown(running, job)
        proven = ("callback", "signature") if counts else ("status_check", "fetch")
        assert (found["finished_by"], found["verification"]) == proven
        verdicts = {one["verdict"] for one in (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]}
        assert verdicts == ({"recorded"} if counts else {"quarantined"})
        assert bool(running.world.status_checks) != counts


async def test_a_repeated_own_id_is_looked_up_and_not_refused(running: Running, clock: HeldClock) -> None:
    """Look a job up if Kling says that its id exists already, since the refusal means that the job is there."""
    job = await submitted(running, NEW, submit="reset_after", lost=True)
    await running.client.post(f"/v1/jobs/{job['id']}/resubmissions", json={"accept_double_charge": True})
    assert len(running.world.submissions) == 2
    assert running.world.submissions[0]["options"] == running.world.submissions[1]["options"]
    await clock.advance(MINUTE_S)
    assert (await shown(running, job))["provider_job_id"] == only(running).id
