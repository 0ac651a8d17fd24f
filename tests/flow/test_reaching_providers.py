"""What goes out: the providers' own examples reach them unchanged, and what they answer becomes the job's state."""

import json
from pathlib import Path
from typing import Any

import pytest

from relay.sandbox.faults import Faults
from tests.support.running import INPUT, HeldClock, Running, relay

pytestmark = pytest.mark.anyio

RECORDINGS = Path(__file__).parents[1] / "recordings"
CALLING_BACK = ("evolink", "kinovi", "relaydance")
EXAMPLES = {
    path: path.read_text() for name in CALLING_BACK for path in sorted(RECORDINGS.glob(f"{name}/requests/*.json"))
}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
async def test_the_providers_own_examples_reach_them_unchanged(tmp_path: Path, example: Path) -> None:
    """A published request goes through; only the callback field is relay's, where the provider wants it."""
    provider, body = example.parts[-3], json.loads(EXAMPLES[example])
    body.pop("callBackUrl", None)
    async with relay(tmp_path) as running:
        job = await running.submit(provider, request=body)
        assert (job["status"], job["request"]) == ("submitted", body)
        sent = running.world.submissions[0]
        place = sent["metadata"] if provider == "relaydance" else sent
        url = place.pop("callBackUrl" if provider == "kinovi" else "callback_url")
        assert url.startswith(f"{running.origin}/callbacks/{provider}/")
        assert sent == body | ({"metadata": sent["metadata"]} if provider == "relaydance" else {})


@pytest.mark.parametrize(
    ("provider", "status_code", "error_class"),
    [
        ("evolink", 400, "invalid_input"),
        ("evolink", 401, "auth"),
        ("evolink", 402, "insufficient_funds"),
        ("evolink", 403, "auth"),
        ("evolink", 413, "invalid_input"),
        ("evolink", 429, "rate_limited"),
        ("relaydance", 401, "auth"),
        ("relaydance", 403, "insufficient_funds"),
        ("relaydance", 429, "rate_limited"),
        ("kinovi", 400, "invalid_input"),
        ("kinovi", 402, "insufficient_funds"),
        ("kinovi", 429, "rate_limited"),
    ],
)
async def test_a_refusal_fails_the_job_with_its_class(
    tmp_path: Path, provider: str, status_code: int, error_class: str
) -> None:
    """What the provider refuses is a failed job that says why; it was never created there."""
    async with relay(tmp_path) as running:
        running.world.next_faults.append(Faults(status_code=status_code))
        job = await running.submit(provider)
        assert (job["status"], job["finished_by"], job["error"]["class"]) == ("failed", "submit_answer", error_class)
        assert not running.world.jobs


@pytest.mark.parametrize(("status_code", "state"), [(400, "failed"), (502, "pending")])
async def test_an_html_page_is_kept_in_the_error(tmp_path: Path, status_code: int, state: str) -> None:
    """A proxy's page is no JSON: its first 2 KB stand in the job's error, whether it refuses or leaves all open."""
    async with relay(tmp_path) as running:
        running.world.next_faults.append(Faults(html=True, status_code=status_code))
        job = await running.submit()
        assert job["status"] == state
        assert "<h1>502 Bad Gateway</h1>" in job["error"]["provider_message"]


@pytest.mark.parametrize("submit", ["reset", "reset_after", "empty", "id_missing"])
async def test_an_unclear_answer_is_never_sent_again_and_a_callback_settles_it(tmp_path: Path, submit: str) -> None:
    """The job waits as `submit_unknown`; if the provider has it after all, its callback adopts it."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        running.world.next_faults.append(Faults(submit=submit))
        job = await running.submit(deadline_s=600)
        assert (job["status"], job["reason"]) == ("pending", "submit_unknown")
        assert len(running.world.submissions) == 1
        if running.world.jobs:
            await running.world.finish(next(iter(running.world.jobs)))
            await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        else:
            await clock.advance(601)
            ended = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "expired")
            assert (ended["reason"], ended["finished_by"]) == ("submit_unknown", "deadline")
        assert len(running.world.submissions) == 1


async def test_a_provider_that_cannot_be_reached_is_tried_again_and_then_the_job_fails(tmp_path: Path) -> None:
    """A refused connection surely sent nothing: the same job is tried again at growing pauses, and fails in the end."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock, RELAY_EVOLINK_BASE_URL="http://127.0.0.1:9") as running:
        job = await running.submit()
        assert (job["status"], job["reason"], job["error"]["code"]) == ("pending", None, "unreachable")
        for tries in range(2, 7):
            await clock.advance(61)
            await _submissions(running, job["id"], tries)
        ended = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "failed")
        assert ended["error"]["class"] == "provider_error"


async def test_a_slow_provider_does_not_hold_the_client(tmp_path: Path) -> None:
    """After the wait the answer is 202 and pending; the submission goes on, and its callback ends the job."""
    async with relay(tmp_path, RELAY_SUBMIT_WAIT_S="0.1") as running:
        running.world.next_faults.append(Faults(submit="hang"))
        job = await running.submit()
        assert (job["status"], job["reason"]) == ("pending", None)
        await running.world.wait_for(lambda world: len(world.jobs) == 1)
        await running.world.finish(next(iter(running.world.jobs)))
        await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")


async def test_a_result_after_the_deadline_supersedes_the_expiry(tmp_path: Path) -> None:
    """The deadline is relay's own end: a late success is announced, and names the expiry that it replaces."""
    clock = HeldClock()
    async with relay(tmp_path, clock=clock) as running:
        job = await running.submit(deadline_s=60, notify=[{"url": running.hook}])
        await clock.advance(61)
        await running.sink.wait_for(lambda sink: "job.expired" in sink.events())
        await running.world.finish(job["provider_job_id"])
        await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
        told: list[dict[str, Any]] = [json.loads(received.body) for received in running.sink.received]
        expired, late = (next(one for one in told if one["type"] == kind) for kind in ("job.expired", "job.succeeded"))
        assert late["data"]["supersedes"] == expired["id"]
        assert late["data"]["job"]["late"] is True


@pytest.mark.parametrize(
    ("provider", "wrong", "path", "limit"),
    [
        ("evolink", {"images": ["https://example.com/a.png"] * 3}, "input.images", "1 to 2"),
        ("evolink", {"duration_s": 16}, "input.duration_s", "15"),
        ("evolink", {"duration_s": 3}, "input.duration_s", "4"),
        ("evolink", {"duration_s": "5"}, "input.duration_s", "integer"),
        ("evolink", {"resolution": "4k"}, "input.resolution", "720p"),
        ("evolink", {"aspect_ratio": "2:1"}, "input.aspect_ratio", "21:9"),
        ("evolink", {"prompt": None}, "input.prompt", "required"),
        ("evolink", {"model": "other"}, "input.model", "seedance-2.0-image-to-video"),
        ("evolink", {"images": ["http://127.0.0.1/a.png"]}, "input.images[0]", "public"),
        ("relaydance", {"duration_s": 16}, "input.duration_s", "15"),
        ("kinovi", {"images": ["https://example.com/a.png"] * 3}, "input.images", "2"),
        ("kinovi", {"duration_s": 16}, "input.duration_s", "15"),
        ("kinovi", {"prompt": "x" * 4001}, "input.prompt", "4000"),
    ],
)
async def test_a_value_the_provider_cannot_take_is_refused_before_anything_is_sent(
    tmp_path: Path, provider: str, wrong: dict[str, Any], path: str, limit: str
) -> None:
    """422 names the unified field and the provider's limit, and no job is made."""
    async with relay(tmp_path) as running:
        answer = await running.client.post("/v1/jobs", json={"provider": provider, "input": INPUT | wrong})
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "invalid_input")
        errors = {error["path"]: error["message"] for error in problem["errors"]}
        assert limit in errors[path]
        assert not running.world.submissions
        assert (await running.get("/v1/jobs"))["data"] == []


async def _submissions(running: Running, job_id: str, number: int) -> None:
    """Return when the job was submitted so often."""
    path = f"/v1/jobs/{job_id}/timeline"
    await running.until(path, lambda told: sum(line["kind"] == "submission" for line in told["data"]) == number)
