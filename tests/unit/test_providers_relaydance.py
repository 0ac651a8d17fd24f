"""RelayDance's contract, from its pages and the two systems behind it: limits, answers, four kinds of callback."""

from typing import Any

import pytest

from relay.errors import InvalidInput, Unreadable
from relay.model.job import ErrorClass, Input, JobError, JobState, Output, OutputKind, Report
from relay.model.provider_http import ProviderRequest
from relay.providers.base import Accepted, Refused, Unclear
from relay.providers.native import native_from_input
from relay.providers.relaydance import NO_AUDIO, WITH_AUDIO, RelayDance
from tests.support.provider_cases import JOB_ID, NOW_MS, answer, asked, recorded, without_known
from tests.support.rows import rows

RELAYDANCE = RelayDance()
IMAGE = "https://example.com/a.png"
GOOD: dict[str, object] = {"model": WITH_AUDIO, "prompt": "@image1 comes alive"}
HALF_AN_HOUR_LATER = "2026-09-21T14:43:20.000Z"
TASK = "task_4f3c2b1a09f8e7d6c5b4a39281706f5e"
ARK = "cgt-20260312231129-7db6s"
MUST = "must be a public https or http URL of at most 2048 characters, without credentials"


def item(role: str = "reference_image", kind: str = "image_url", url: object = IMAGE) -> dict[str, object]:
    """One item of `metadata.content`."""
    return {"type": kind, kind: {"url": url}, "role": role}


def complaints(metadata: object = None, **fields: object) -> dict[str, str]:
    """Return the errors of a good request with these fields changed, by path."""
    body = {**GOOD, **fields} if metadata is None else {**GOOD, "metadata": metadata, **fields}
    return {error.path: without_known(error.message) for error in RELAYDANCE.check(body)}


SECONDS = 'must be a string with a whole number from "1" to "15", not '


@rows(
    ("fields", "path", "message"),
    [
        ({"seconds": 5}, "seconds", SECONDS + "5"),
        ({"seconds": "16"}, "seconds", SECONDS + '"16"'),
        ({"seconds": "0"}, "seconds", SECONDS + '"0"'),
        ({"seconds": "05"}, "seconds", SECONDS + '"05"'),
        ({"seconds": "5s"}, "seconds", SECONDS + '"5s"'),
        ({"seconds": "5.5"}, "seconds", SECONDS + '"5.5"'),
        ({"seconds": None}, "seconds", SECONDS + "null"),
        ({"duration": 5}, "duration", "is not a field here; did you mean seconds?"),
        ({"resolution": "720p"}, "resolution", "is not a field here; did you mean metadata.resolution?"),
        ({"images": []}, "images", "is not a field here; did you mean metadata.content?"),
        ({"callback_url": ""}, "callback_url", "is not a field here"),
        ({"model": ""}, "model", 'must be a string of 1 to 100 characters, not ""'),
        ({"prompt": None}, "prompt", "must be a string of 1 to 10000 characters, not null"),
        ({"metadata": []}, "metadata", "must be an object, not an array"),
    ],
)
def test_each_limit_is_named(fields: dict[str, object], path: str, message: str) -> None:
    """A value outside a published limit is refused with the limit."""
    assert complaints(**fields) == {path: message}


@rows(
    ("metadata", "path", "message"),
    [
        ({"resolution": "4k"}, "metadata.resolution", 'must be one of "1080p", "480p", "720p", not "4k"'),
        ({"generate_audio": 1}, "metadata.generate_audio", "must be true or false, not 1"),
        ({"callback_url": "https://a.example"}, "metadata.callback_url", "is relay's own field"),
        (
            {"camera": {}},
            "metadata.camera",
            "must be a string of at most 4096 characters or a number or true or false or null, not an object",
        ),
        (dict.fromkeys(map(str, range(33)), 1), "metadata", "may have at most 32 unlisted fields, not 33"),
        (
            {"content": [item()] * 10},
            "metadata.content",
            "may have at most 9 reference_image, not 10",
        ),
        (
            {"content": [item("reference_video", "video_url")] * 4},
            "metadata.content",
            "may have at most 3 reference_video, not 4",
        ),
        (
            {"content": [item("reference_audio", "audio_url")] * 4},
            "metadata.content",
            "may have at most 3 reference_audio, not 4",
        ),
        ({"content": [item("first_frame")] * 2}, "metadata.content", "may have at most 1 first_frame, not 2"),
        ({"content": [item("last_frame")]}, "metadata.content", "needs a first_frame with its last_frame"),
        (
            {"content": [item("first_frame"), item()]},
            "metadata.content",
            "may have either reference images or first and last frames, not both",
        ),
        (
            {"content": [item("reference_video")]},
            "metadata.content[0].role",
            "must be one of reference_image, first_frame, last_frame for type image_url, not reference_video",
        ),
        (
            {"content": [item("reference_image", "audio_url")]},
            "metadata.content[0].role",
            "must be one of reference_audio for type audio_url, not reference_image",
        ),
        (
            {"content": [item(), item(url="file:///etc/passwd")]},
            "metadata.content[1].image_url.url",
            f"{MUST}; this does not begin with https:// or http://",
        ),
        ({"content": [item() | {"video_url": {"url": IMAGE}}]}, "metadata.content[0].video_url", None),
        ({"content": [{"type": "image_url", "role": "first_frame"}]}, "metadata.content[0].image_url", "is required"),
        ({"content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}, "metadata.content[0].role", "is required"),
    ],
)
def test_each_limit_of_metadata_is_named(metadata: dict[str, object], path: str, message: str | None) -> None:
    """Wrong metadata is refused, naming the item and the rule."""
    found = complaints(metadata)
    assert list(found) == [path]
    assert message in (None, found[path])


def test_a_models_resolution_has_the_last_word() -> None:
    """A model named after a resolution goes with that one or with none."""
    assert complaints({"resolution": "720p"}, model="doubao-seedance-2-0-480p") == {
        "metadata.resolution": 'must be "480p" for doubao-seedance-2-0-480p, not "720p"'
    }
    assert complaints({"resolution": "480p"}, model="doubao-seedance-2-0-480p") == {}
    assert complaints({}, model="doubao-seedance-2-0-480p") == {}


@rows(
    "metadata",
    [
        {"content": [item()] * 9 + [item("reference_video", "video_url")] * 3},
        {"content": [item()] + [item("reference_audio", "audio_url")] * 3},
        {"content": [item("first_frame"), item("last_frame")]},
        {"content": [item("first_frame")]},
        {"content": []},
        {"seed": 7, "camera_fixed": True, "note": "x", "strength": 0.5, "nothing": None},
        {"ratio": "21:9", "resolution": "1080p", "generate_audio": False},
    ],
)
def test_the_edges_are_good(metadata: dict[str, object]) -> None:
    """Full lists, both frames, and unlisted plain values pass."""
    assert complaints(metadata, seconds="15") == {}


def test_images_are_references_unless_they_are_frames() -> None:
    """The mode decides the roles, and the sound the default model."""
    given = Input(images=[IMAGE, IMAGE], prompt="p", duration_s=5, resolution="720p", aspect_ratio="9:16", audio=False)
    assert native_from_input(RELAYDANCE, given) == {
        "model": NO_AUDIO,
        "prompt": "p",
        "seconds": "5",
        "metadata": {"ratio": "9:16", "resolution": "720p", "generate_audio": False, "content": [item(), item()]},
    }
    assert native_from_input(RELAYDANCE, Input(images=[IMAGE, IMAGE], prompt="p", mode="keyframe")) == {
        "model": WITH_AUDIO,
        "prompt": "p",
        "metadata": {"content": [item("first_frame"), item("last_frame")]},
    }
    assert native_from_input(RELAYDANCE, Input(prompt="p", model="happyhorse-1.0-i2v", mode="reference")) == {
        "model": "happyhorse-1.0-i2v",
        "prompt": "p",
    }


def test_what_has_no_place_is_refused() -> None:
    """A seed, an unknown mode and a third frame are refused in the client's words."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(RELAYDANCE, Input(images=["x"], prompt="p", seed=1, mode="odd"))
    assert [error.path for error in raised.value.errors] == ["input.seed", "input.mode", "input.images[0]"]
    with pytest.raises(InvalidInput) as raised:
        native_from_input(RELAYDANCE, Input(images=[IMAGE] * 3, prompt="p", mode="keyframe"))
    assert [(error.path, error.message) for error in raised.value.errors] == [
        ("input.images", "may have at most 1 last_frame, not 2")
    ]


def test_requests_go_where_the_page_says() -> None:
    """The callback URL goes inside metadata, beside what is there or alone."""
    body = {**GOOD, "metadata": {"ratio": "1:1"}}
    assert RELAYDANCE.submission(body, "https://r.example/c", JOB_ID) == ProviderRequest(
        method="POST",
        path="/v1/video/generations",
        body={**GOOD, "metadata": {"ratio": "1:1", "callback_url": "https://r.example/c"}},
    )
    assert RELAYDANCE.submission(GOOD, "https://r.example/c", JOB_ID).body == {
        **GOOD,
        "metadata": {"callback_url": "https://r.example/c"},
    }
    assert "metadata" not in GOOD
    assert RELAYDANCE.status_check(asked("task_1")) == ProviderRequest(
        method="GET", path="/v1/video/generations/task_1"
    )


@rows(
    ("body", "word", "identifier"),
    [
        (recorded("relaydance", "answers", "submitted"), "submitted", "task_abc123"),
        (
            {"id": "task_1", "task_id": "task_1", "object": "video", "status": "queued", "progress": 0},
            "queued",
            "task_1",
        ),
        (
            {"code": "success", "message": "", "data": {"task_id": "task_2", "status": "NOT_START"}},
            "NOT_START",
            "task_2",
        ),
        ({"code": "success", "message": "", "data": "task_3"}, "", "task_3"),
        ({"id": "video_4"}, "", "video_4"),
    ],
)
def test_every_known_answer_is_read(body: object, word: str, identifier: str) -> None:
    """The documented answer and those of the gateway behind it give the id, which is RelayDance's own."""
    said = RELAYDANCE.read_submission(answer(200, body))
    assert isinstance(said, Accepted)
    report = said.report
    assert (report.state, report.provider_status, report.provider_job_id) == (JobState.SUBMITTED, word, identifier)
    assert not report.upstream_id


def video(url: str, duration_s: float | None = None) -> tuple[Output, ...]:
    """Return the one output of a success."""
    return (Output(kind=OutputKind.VIDEO, url=url, duration_s=duration_s, expires_at=HALF_AN_HOUR_LATER),)


def failed(class_: ErrorClass, text: str, code: str | None = None, *, retryable: bool = False) -> JobError:
    """Return the error of a failure."""
    return JobError(
        class_=class_,
        code="failed",
        message=f"the provider reports: {text}",
        retryable=retryable,
        provider_code=code,
        provider_message=text,
    )


OUT = "https://cdn.example.com/videos/out.mp4"
ARK_OUT = "https://ark-acg-cn-beijing.tos-cn-beijing.volces.com/…mp4?X-Tos-…"


@rows(
    ("name", "report"),
    [
        (
            "documented_succeeded",
            Report(
                state=JobState.SUCCEEDED,
                provider_status="succeeded",
                provider_job_id="task_abc123",
                outputs=video("https://...mp4"),
            ),
        ),
        (
            "documented_failed",
            Report(
                state=JobState.FAILED,
                provider_status="failed",
                provider_job_id="task_abc123",
                error=failed(
                    ErrorClass.CONTENT_REJECTED,
                    "The prompt was rejected by the content filter.",
                    "invalid_request_error",
                ),
            ),
        ),
        (
            "newapi_envelope_success",
            Report(
                state=JobState.SUCCEEDED,
                provider_status="SUCCESS",
                provider_job_id=TASK,
                progress=100,
                outputs=video(OUT),
            ),
        ),
        (
            "newapi_envelope_failure",
            Report(
                state=JobState.FAILED,
                provider_status="FAILURE",
                provider_job_id=TASK,
                progress=100,
                error=failed(
                    ErrorClass.CONTENT_REJECTED,
                    "The request failed because the input image may contain real person",
                ),
            ),
        ),
        (
            "openai_video_completed",
            Report(
                state=JobState.SUCCEEDED,
                provider_status="completed",
                provider_job_id=TASK,
                progress=100,
                outputs=video(OUT),
            ),
        ),
        (
            "openai_video_failed",
            Report(
                state=JobState.FAILED,
                provider_status="failed",
                provider_job_id=TASK,
                progress=100,
                error=failed(
                    ErrorClass.PROVIDER_ERROR,
                    "The upstream could not make the video.",
                    "upstream_error",
                    retryable=True,
                ),
            ),
        ),
        (
            "ark_queued",
            Report(state=JobState.SUBMITTED, provider_status="queued", provider_job_id=ARK, upstream_id=True),
        ),
        (
            "ark_running",
            Report(state=JobState.RUNNING, provider_status="running", provider_job_id=ARK, upstream_id=True),
        ),
        (
            "ark_succeeded",
            Report(
                state=JobState.SUCCEEDED,
                provider_status="succeeded",
                provider_job_id=ARK,
                upstream_id=True,
                outputs=video(ARK_OUT, 5.0),
            ),
        ),
        (
            "ark_failed",
            Report(
                state=JobState.FAILED,
                provider_status="failed",
                provider_job_id=ARK,
                upstream_id=True,
                error=failed(
                    ErrorClass.CONTENT_REJECTED,
                    "The request failed because the output video may contain sensitive information.",
                    "OutputVideoSensitiveContentDetected",
                ),
            ),
        ),
    ],
)
def test_every_known_callback_is_read(name: str, report: Report) -> None:
    """Each form of the callback gives exactly this report; Ark's id is marked as the upstream's."""
    assert RELAYDANCE.read_callback(recorded("relaydance", "callbacks", name), NOW_MS) == report


@rows(
    "fields",
    [
        {"url": OUT},
        {"metadata": {"url": OUT}},
        {"video_url": OUT},
        {"result_url": OUT},
        {"content": {"video_url": OUT}},
        {"data": {"content": {"video_url": OUT}}},
        {"data": {"result_url": OUT}},
        {"data": {"url": OUT}},
        {"url": "not yet", "result_url": "https://10.0.0.1/a", "video_url": OUT},
        {"url": OUT, "metadata": {"url": OUT + "?signed"}},
    ],
)
def test_the_url_is_found_wherever_it_is(fields: dict[str, Any]) -> None:
    """The places are names for one video: the first usable URL is the output."""
    report = RELAYDANCE.read_callback({"task_id": "task_1", "status": "succeeded", **fields}, NOW_MS)
    assert report.outputs == video(OUT)


def test_the_gateways_word_counts_before_its_upstreams() -> None:
    """A bare task with its upstream's answer inside is read from the outside, its id and state first."""
    body = {"task_id": TASK, "status": "FAILURE", "data": {"id": ARK, "status": "succeeded", "url": OUT}}
    report = RELAYDANCE.read_callback(body, NOW_MS)
    assert (report.state, report.provider_job_id, report.upstream_id) == (JobState.FAILED, TASK, False)


def test_an_expired_job_is_not_running() -> None:
    """Ark's `expired` ends the job."""
    assert RELAYDANCE.read_callback({"id": ARK, "status": "expired"}, NOW_MS).state is JobState.EXPIRED


def test_an_unknown_task_has_no_status() -> None:
    """The gateway's answers for an unknown task say nothing about the job, with 400 or with 200."""
    for status_code in (200, 400):
        with pytest.raises(Unreadable):
            RELAYDANCE.read_status(answer(status_code, recorded("relaydance", "answers", "error_unknown_task")), NOW_MS)


@rows(
    ("status_code", "body", "class_", "code"),
    [
        (401, recorded("relaydance", "answers", "error_unauthorized"), ErrorClass.AUTH, "authentication_error"),
        (403, {"error": {"message": "Insufficient balance", "type": "x"}}, ErrorClass.INSUFFICIENT_FUNDS, "x"),
        (
            403,
            {"error": {"message": "no", "type": "insufficient_quota"}},
            ErrorClass.INSUFFICIENT_FUNDS,
            "insufficient_quota",
        ),
        (
            403,
            {"code": "insufficient_user_quota", "message": "额度不足", "data": None},
            ErrorClass.INSUFFICIENT_FUNDS,
            None,
        ),
        (403, {"code": "fail", "message": "用户余额不足", "data": None}, ErrorClass.INSUFFICIENT_FUNDS, "fail"),
        (403, b"<html>quota exceeded</html>", ErrorClass.INSUFFICIENT_FUNDS, None),
        (403, {"error": {"message": "Model not allowed for this key", "type": "x"}}, ErrorClass.AUTH, "x"),
        (404, {"error": {"message": "Unknown model", "type": "invalid_request_error"}}, ErrorClass.INVALID_INPUT, None),
        (400, {"code": "invalid_request", "message": "bad", "data": None}, ErrorClass.INVALID_INPUT, "invalid_request"),
        (
            429,
            {"error": {"message": "slow down", "type": "rate_limit_error"}},
            ErrorClass.RATE_LIMITED,
            "rate_limit_error",
        ),
    ],
)
def test_each_published_refusal_has_its_class(
    status_code: int, body: object, class_: ErrorClass, code: str | None
) -> None:
    """A refusal is classed by its status; a 403 about money is about money."""
    said = RELAYDANCE.read_submission(answer(status_code, body))
    assert isinstance(said, Refused)
    assert said.error.class_ is class_
    assert code in (None, said.error.provider_code)


def test_a_gateway_error_behind_a_200_is_unclear() -> None:
    """An error in a 200 has no id: nobody knows whether the job exists."""
    said = RELAYDANCE.read_submission(answer(200, {"code": "fail", "message": "odd", "data": None}))
    assert isinstance(said, Unclear)
    assert said.error.message == "the provider answered HTTP 200: odd"
