"""What honest providers send: every published callback drives its job, once, whatever the order and the copies."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.providers import PROVIDERS
from relay.providers.base import replies
from relay.sandbox.faults import Faults
from tests.support.provider_cases import RECORDINGS, recorded
from tests.support.running import Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

RECEIVED = (200, {"received": True})
MP4 = "https://cdn.example.com/videos/out.mp4"
EVOLINK_MP4 = "https://cdn.example.com/videos/task-unified-1756817821-4x3rx6ny.mp4"
ARK_MP4 = "https://ark-acg-cn-beijing.tos-cn-beijing.volces.com/…mp4?X-Tos-…"
KINOVI_MP4 = "https://static.kinovi.ai/generated/video.mp4"
LONG = "https://static.kinovi.ai/videos/seedance_video_1789985969759_29632007"
RULES = "Your input text violates platform rules. Please modify and try again."
REAL_PERSON = "The request failed because the input image may contain real person"
FILTER = "The prompt was rejected by the content filter."
FLAGGED = "prompt: The content could not be processed because it contained material flagged by a content checker."
OPENROUTER_MP4 = "https://openrouter.ai/api/v1/videos/gen-vid-1764237540-AbCdEfGhIjKlMnOpQrSt/content?index=0"
E005 = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
UPSTREAM = "The upstream could not make the video."
ARK_REQUEST = "Request id: 02176423760000400000000000000000000ffff0a0a0a0a"
CHINA = "https://ark-acg-cn-beijing.tos-cn-beijing.volces.com/doubao-seedance-2-5/a"
WORLD_MP4 = (
    "https://ark-content-generation-ap-southeast-1.tos-ap-southeast-1.volces.com/dreamina-seedance-2-0/"
    "02176423760000000000000000000000000ffff0a0a0a0a.mp4?X-Tos-Algorithm=TOS4-HMAC-SHA256&X-Tos-Expires=86400"
)
ARK_REFUSAL = "The request failed because the output video may contain sensitive information."

# Each published callback: the state it brings the job to; then the results, or the error's class, code and text.
EXPECTED: dict[str, tuple[Any, ...]] = {
    "ark/expired": ("expired",),
    "ark/failed": ("failed", "content_rejected", "OutputVideoSensitiveContentDetected", f"{ARK_REFUSAL} {ARK_REQUEST}"),
    "ark/queued": ("submitted",),
    "ark/running": ("running",),
    "ark/succeeded": ("succeeded", ("video", WORLD_MP4)),
    "ark/succeeded_with_last_frame": (
        "succeeded",
        ("video", f"{CHINA}.mp4"),
        ("last_frame", f"{CHINA}.jpeg"),
    ),
    "evolink/cancelled": ("canceled",),
    "evolink/completed": ("succeeded", ("video", EVOLINK_MP4)),
    "evolink/failed_with_error": ("failed", "invalid_input", "invalid_request", "Explain what went wrong."),
    "evolink/failed_without_error": ("failed", "unknown", None, None),
    "evolink/minimal_completed": ("succeeded", ("video", "https://media.evolink.ai/...")),
    "fal/error_content": ("failed", "content_rejected", "content_policy_violation", FLAGGED),
    "fal/error_infrastructure": ("failed", "timeout", "request_timeout", "Request timed out"),
    "fal/error_without_payload": ("failed", "provider_error", None, "Invalid status code: 500"),
    "fal/ok": ("succeeded", ("video", "https://v3b.fal.media/files/b/x/out.mp4")),
    "fal/ok_after_retry": ("succeeded", ("video", "https://v3b.fal.media/files/b/x/out.mp4")),
    "kinovi/envelope_state_fail": ("failed", "content_rejected", "2038", RULES),
    "kinovi/envelope_state_success": ("succeeded", ("video", KINOVI_MP4)),
    "kinovi/envelope_status_fail": ("failed", "content_rejected", "2038", RULES),
    "kinovi/envelope_status_success": ("succeeded", ("video", KINOVI_MP4)),
    "kinovi/flat_fail": ("failed", "unknown", None, "Invalid prompt content"),
    "kinovi/flat_success": ("succeeded", ("video", "https://static.seedance2-pro.com/generated/video.mp4")),
    "kinovi/recordinfo_success": ("succeeded", ("video", f"{LONG}.mp4"), ("last_frame", f"{LONG}_lastframe.png")),
    "kie/fail_without_reason": ("failed", "unknown", None, None),
    "kie/success": ("succeeded", ("video", "https://tempfile.example.com/w/1787567408129.mp4")),
    "kie/success_older": (
        "succeeded",
        ("video", "https://tempfile.example.com/w/1787567408129.mp4"),
        ("last_frame", "https://tempfile.example.com/w/last.png"),
    ),
    "kie/fail": ("failed", "content_rejected", "400", "The input was flagged by our content policy."),
    "kling/failed": ("failed", "content_rejected", None, "Failure to pass the risk control system"),
    "kling/old_failed": ("failed", "provider_error", None, "Internal error, please try again"),
    "kling/old_succeed": ("succeeded", ("video", "https://cdn.example.com/853920.mp4")),
    "kling/processing": ("running",),
    "kling/submitted": ("submitted",),
    "kling/succeeded": ("succeeded", ("video", "https://v16-kling-fdl.example.com/853920.mp4")),
    "minimax/v1_failed": ("failed", "content_rejected", "1027", "output new_sensitive"),
    "minimax/v1_processing": ("running",),
    "minimax/v1_success": ("submitted",),  # its file is asked for, and this job's status says that it is queued
    "minimax/v2_cancelled": ("canceled",),
    "minimax/v2_failed": ("failed", "content_rejected", "1026", "input new_sensitive"),
    "minimax/v2_queued": ("submitted",),
    "minimax/v2_running": ("running",),
    "minimax/v2_succeeded": ("succeeded", ("video", "https://cdn.example.com/out.mp4")),
    "openrouter/cancelled": ("canceled",),
    "openrouter/completed": ("succeeded", ("video", OPENROUTER_MP4)),
    "openrouter/expired": ("expired",),
    "openrouter/failed": ("failed", "content_rejected", None, "Content policy violation"),
    "relaydance/ark_failed": ("failed", "content_rejected", "OutputVideoSensitiveContentDetected", ARK_REFUSAL),
    "relaydance/ark_queued": ("submitted",),
    "relaydance/ark_running": ("running",),
    "relaydance/ark_succeeded": ("succeeded", ("video", ARK_MP4)),
    "relaydance/documented_failed": ("failed", "content_rejected", "invalid_request_error", FILTER),
    "relaydance/documented_succeeded": ("succeeded", ("video", "https://...mp4")),
    "relaydance/newapi_envelope_failure": ("failed", "content_rejected", None, REAL_PERSON),
    "relaydance/newapi_envelope_success": ("succeeded", ("video", MP4)),
    "relaydance/openai_video_completed": ("succeeded", ("video", MP4)),
    "relaydance/openai_video_failed": ("failed", "provider_error", "upstream_error", UPSTREAM),
    "replicate/aborted": ("expired",),
    "replicate/canceled": ("canceled",),
    "replicate/failed": ("failed", "content_rejected", "E005", E005),
    "replicate/succeeded": ("succeeded", ("video", "https://replicate.delivery/xezq/abc/tmp5v9d9dtm.mp4")),
    "replicate/succeeded_list": ("succeeded", ("video", "https://replicate.delivery/xezq/abc/tmp5v9d9dtm.mp4")),
    "wavespeed/completed": ("succeeded", ("video", "https://d2p7pge43lyniu.cloudfront.net/output/45b392b2.mp4")),
    "wavespeed/completed_as_signed_example": ("succeeded", ("video", "https://cdn.example.com/out.mp4")),
    "wavespeed/failed_moderation": ("failed", "content_rejected", "1200", "content moderation failed"),
    "wavespeed/failed_with_code": ("failed", "invalid_input", "1401", "invalid value: duration"),
}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, confirm=False) as started:
        yield started


def about(body: dict[str, Any], provider_job_id: str) -> bytes:
    """Return a recorded body with this job's id at the provider's own place for it; an upstream's id stays as it is."""
    upstream = "\0" if provider_job_id.startswith("cgt-") else "cgt-"
    for holder in (body, body.get("data"), body.get("task")):
        for name in ("id", "taskId", "task_id", "request_id"):
            if isinstance(holder, dict) and name in holder and not holder[name].startswith(upstream):
                holder[name] = provider_job_id
    return msgspec.json.encode(body)


def word(job: dict[str, Any], status: str, **fields: Any) -> bytes:
    """Return an EvoLink callback about a job."""
    return msgspec.json.encode({"id": job["provider_job_id"], "status": status} | fields)


async def post(running: Running, body: bytes, url: str | None = None) -> tuple[int, Any]:
    """Send a callback, to the URL of the last job where no other is given; the answer's status and body."""
    headers = {"content-type": "application/json"}
    answer = await running.client.post(url or running.callback_url(), content=body, headers=headers)
    return answer.status_code, answer.json()


async def dispositions(running: Running, job: dict[str, Any]) -> list[str]:
    """Return what became of the job's callbacks, in the order they came."""
    shown = await running.get(f"/v1/callbacks?job={job['id']}")
    return [callback["verdict"] for callback in reversed(shown["data"])]


async def announced(running: Running, job: dict[str, Any]) -> list[str]:
    """Return the types of the job's events, in order."""
    return [event["type"] for event in reversed((await running.get(f"/v1/events?job={job['id']}"))["data"])]


def test_every_recorded_callback_is_expected_to_do_something() -> None:
    """The table names each recorded callback, and nothing else."""
    there = {f"{path.parts[-3]}/{path.stem}" for path in RECORDINGS.glob("*/callbacks/*.json")}
    assert there == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
async def test_a_published_callback_drives_its_job(running: Running, name: str) -> None:
    """Each published callback brings its job to the right state, with the right results or error, and says so once."""
    provider, _, file = name.partition("/")
    state, *rest = EXPECTED[name]
    job = await running.submit(provider)
    assert await post(running, about(recorded(provider, "callbacks", file), job["provider_job_id"])) == RECEIVED

    heard = await running.get(f"/v1/jobs/{job['id']}")
    assert (heard["status"], heard["provider_job_id"]) == (state, job["provider_job_id"])
    outputs = rest if state == "succeeded" else []
    assert [(output["kind"], output["url"]) for output in heard["outputs"]] == outputs
    error = heard["error"] and [heard["error"][key] for key in ("class", "provider_code", "provider_message")]
    assert error == (rest if state == "failed" else None)
    assert heard["finished_by"] == ("callback" if state in ("succeeded", "failed", "canceled", "expired") else None)
    tested = ["recorded"] if replies(PROVIDERS[provider]) else []
    assert await dispositions(running, job) == [*tested, "recorded"]
    assert await announced(running, job) == ["job.submitted"] + ([] if state == "submitted" else [f"job.{state}"])


async def test_a_job_runs_through_its_states(running: Running) -> None:
    """Queued, running and succeeded callbacks with the upstream's own id move the job step by step."""
    job = await running.submit("relaydance")
    for file in ("ark_queued", "ark_running", "ark_succeeded"):
        assert await post(running, msgspec.json.encode(recorded("relaydance", "callbacks", file))) == RECEIVED
    assert await announced(running, job) == ["job.submitted", "job.running", "job.succeeded"]


async def test_a_duplicate_is_repeated(running: Running) -> None:
    """The same callback again is 200, kept as `repeated`, and causes no second event."""
    job = await running.submit()
    for _ in range(3):
        assert await post(running, word(job, "completed", results=[MP4])) == RECEIVED
    assert await dispositions(running, job) == ["recorded", "repeated", "repeated"]
    assert await announced(running, job) == ["job.submitted", "job.succeeded"]


async def test_a_result_with_a_new_signature_is_repeated(running: Running) -> None:
    """A retry whose result URL was signed again, or whose body says more, is still the word already heard."""
    job = await running.submit()
    await post(running, word(job, "completed", results=[f"{MP4}?sig=1"]))
    await post(running, word(job, "completed", results=[f"{MP4}?sig=2"]))
    await post(running, word(job, "completed", results=[MP4, "https://cdn.example.com/second.mp4"]))
    assert await dispositions(running, job) == ["recorded", "repeated", "repeated"]
    assert [output["url"] for output in (await running.get(f"/v1/jobs/{job['id']}"))["outputs"]] == [f"{MP4}?sig=1"]


async def test_of_ten_at_once_one_counts(running: Running) -> None:
    """Ten identical callbacks at the same time are all 200; one is recorded, and there is one final event."""
    job = await running.submit(notify=[{"url": running.hook}])
    body = word(job, "completed", results=[MP4])
    assert await asyncio.gather(*(post(running, body) for _ in range(10))) == [RECEIVED] * 10
    assert sorted(await dispositions(running, job)) == ["recorded"] + ["repeated"] * 9
    assert await announced(running, job) == ["job.submitted", "job.succeeded"]
    await running.sink.wait_for(lambda sink: "job.succeeded" in sink.events())
    assert sorted(running.sink.events()) == ["job.submitted", "job.succeeded"]


@pytest.mark.parametrize("late", ["processing", "pending"])
async def test_what_comes_after_the_end_is_stale(running: Running, late: str) -> None:
    """A lower word after the end is 200 and kept as `stale`; the job and its events stay."""
    job = await running.submit()
    await post(running, word(job, "completed", results=[MP4]))
    before = await running.get(f"/v1/jobs/{job['id']}")
    assert await post(running, word(job, late)) == RECEIVED
    assert await dispositions(running, job) == ["recorded", "stale"]
    assert await running.get(f"/v1/jobs/{job['id']}") == before
    assert await announced(running, job) == ["job.submitted", "job.succeeded"]


async def test_an_unknown_word_moves_nothing(running: Running) -> None:
    """A status word that nobody published is kept with its reason, and is neither running nor failed."""
    job = await running.submit()
    assert await post(running, word(job, "pondering")) == RECEIVED
    (callback,) = (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]
    assert "pondering" in callback["reason"]
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"


async def test_another_jobs_id_is_mismatched(running: Running) -> None:
    """A body about another of the provider's jobs is `mismatched`, before the end and after it, and moves nothing."""
    job = await running.submit()
    other = job | {"provider_job_id": "task-unified-1-someoneelse"}
    assert await post(running, word(other, "completed", results=[MP4])) == RECEIVED
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
    for one in (job, other):
        assert await post(running, word(one, "completed", results=[MP4])) == RECEIVED
    assert await dispositions(running, job) == ["mismatched", "recorded", "mismatched"]
    assert await announced(running, job) == ["job.submitted", "job.succeeded"]


@pytest.mark.parametrize(
    ("provider", "version"), [("evolink", ""), ("evolink", "minimal"), ("kinovi", "flat"), ("relaydance", "ark")]
)
async def test_a_callback_may_come_before_the_submissions_answer(running: Running, provider: str, version: str) -> None:
    """A job whose callback is first succeeds by it; the answer then brings the provider's id where it is missing."""
    running.world.next_faults.append(Faults(early=True, version=version))
    job = await running.submit(provider)
    assert (job["status"], job["finished_by"]) == ("succeeded", "callback")
    assert job["provider_job_id"] == list(running.world.jobs)[-1]
    assert {sent.status_code for sent in running.world.callbacks} == {200}
    finals = [event for event in await announced(running, job) if event == "job.succeeded"]
    assert len(finals) == 1


@pytest.mark.parametrize("results", [[], None, ["javascript:alert(1)"], ["http://10.0.0.1/a.mp4"], [7], "text"])
async def test_a_success_without_a_result_is_asked_about(running: Running, results: object) -> None:
    """`completed` without a usable result URL ends nothing by itself: the provider is asked for the result."""
    job = await running.submit()
    list(running.world.jobs.values())[-1].state = "succeeded"
    assert await post(running, word(job, "completed", results=results)) == RECEIVED
    done = await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
    assert (done["finished_by"], done["verification"], len(done["outputs"])) == ("callback", "fetch", 1)


@pytest.mark.parametrize("change", ["slash", "slashes", "query", "doubled", "escaped"])
async def test_a_url_that_the_provider_changed_still_works(running: Running, change: str) -> None:
    """A trailing slash, doubled slashes, a query of the provider's own and percent escapes are tolerated."""
    job = await running.submit()
    url = running.callback_url()
    token = url.rpartition("/")[2]
    changed = {
        "slash": f"{url}/",
        "slashes": f"{url}///",
        "query": f"{url}?taskId={job['provider_job_id']}&status=failed",
        "doubled": url.replace("/callbacks/evolink/", "//callbacks//evolink//"),
        "escaped": url.replace(token, "".join(f"%{ord(letter):02X}" for letter in token)),
    }
    assert await post(running, word(job, "completed", results=[MP4]), changed[change]) == RECEIVED
    assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"


async def test_callbacks_over_the_limit_are_answered_and_not_kept(tmp_path: Path) -> None:
    """A job's callbacks beyond RELAY_CALLBACKS_PER_JOB_MAX still count and get 200, but their bytes are not kept."""
    async with relay(tmp_path, confirm=False, RELAY_CALLBACKS_PER_JOB_MAX="3") as running:
        job = await running.submit()
        for progress in range(0, 50, 10):
            assert await post(running, word(job, "processing", progress=progress)) == RECEIVED
        assert await post(running, word(job, "completed", results=[MP4])) == RECEIVED
        assert await dispositions(running, job) == ["recorded"] * 3
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"
        assert await announced(running, job) == ["job.submitted", "job.running", "job.succeeded"]
