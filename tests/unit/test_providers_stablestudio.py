"""StableStudio's contract, from its published pages: two request bodies, a job asked about by whoever paid for it."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import InvalidInput, JobUnknown, Unreadable
from relay.model.job import ErrorClass, Input, JobError, JobState, Output, OutputKind, Report
from relay.model.provider_http import ProviderRequest
from relay.providers.base import Accepted, Refused, Unclear
from relay.providers.native import native_from_input
from relay.providers.stablestudio import FAST, STANDARD, StableStudio
from tests.support.provider_cases import JOB_ID, NOW_MS, answer, asked, json_values, recorded, scalars
from tests.support.rows import rows

STUDIO = StableStudio()
NEWER = StableStudio("b")
IMAGE = "https://example.com/a.png"
LAST = "https://example.com/b.png"
VIDEO = "https://x.public.blob.vercel-storage.com/generated/uuid.mp4"
THUMBNAIL = "https://x.public.blob.vercel-storage.com/generated/uuid.png"
IN_TWENTY_MINUTES = "2026-09-21T14:33:20.000Z"
JOB = "job_abc123def456"
FULL = Input(
    images=[IMAGE, LAST], prompt="p", duration_s=12, resolution="1080p", aspect_ratio="21:9", audio=False, seed=7
)

_SAID = "jobId id status state progress result videoUrl thumbnailUrl error code message data pollUrl success"
_NAMES = _SAID.split()
_WORDS = st.sampled_from([VIDEO, "complete", "loading", "failed", "sensitive", "100", JOB])
bodies = st.dictionaries(
    st.sampled_from(_NAMES),
    st.recursive(
        scalars | _WORDS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner)
    ),
    max_size=6,
)


def complaints(**fields: object) -> dict[str, str]:
    """Return the errors of a body of the older page with these fields, by path; a None takes a field away."""
    given = {"image": IMAGE, "prompt": "p", **fields}
    return {e.path: e.message for e in STUDIO.check({k: v for k, v in given.items() if v is not None})}


def newer_complaints(**fields: object) -> dict[str, str]:
    """Return the same of the newer page."""
    given = {"urls": [IMAGE], "prompt": "p", **fields}
    return {e.path: e.message for e in STUDIO.check({k: v for k, v in given.items() if v is not None})}


def test_it_is_paid_and_asked_every_ten_seconds() -> None:
    """It has no callback field; its results live for twenty minutes, so it is asked often."""
    assert STUDIO.callback_field == ""
    assert (STUDIO.limits.paid, STUDIO.limits.poll_s, STUDIO.limits.result_lifetime_s) == (True, 10, 1200)
    assert (STUDIO.limits.duration_s, STUDIO.limits.images_max, STUDIO.limits.expected_s) == ((4, 12), 2, 60)


@rows(
    ("fields", "path", "word"),
    [
        ({"image": None, "last_image": LAST}, "image", "is required with last_image"),
        ({"prompt": None}, "prompt", "is required"),
        ({"prompt": ""}, "prompt", "1 to 10000"),
        ({"image": "https://10.0.0.1/a"}, "image", "public"),
        ({"last_image": "file:///a"}, "last_image", "public"),
        ({"duration": 5}, "duration", '"12"'),
        ({"duration": "3"}, "duration", '"4"'),
        ({"duration": "13"}, "duration", '"12"'),
        ({"duration": "5s"}, "duration", '"4"'),
        ({"resolution": "4k"}, "resolution", '"1080p"'),
        ({"aspect_ratio": "adaptive"}, "aspect_ratio", '"21:9"'),
        ({"camera_fixed": "no"}, "camera_fixed", "true or false"),
        ({"generate_audio": 1}, "generate_audio", "true or false"),
        ({"seed": "7"}, "seed", "integer"),
        ({"model": "seedance-2"}, "model", '"seedance-fast"'),
        ({"outputFormat": "mp4"}, "outputFormat", "is not a field here"),
        ({"mode": "keyframe"}, "mode", "is not a field here"),
        ({"outputResolution": "720p"}, "outputResolution", "is not a field here"),
    ],
)
def test_each_limit_of_the_older_body_is_named(fields: dict[str, object], path: str, word: str) -> None:
    """A value outside a published limit is refused with the limit, and so is a field of the other page."""
    found = complaints(**fields)
    assert list(found) == [path]
    assert word in found[path]


@rows(
    ("fields", "path", "word"),
    [
        ({"prompt": None}, "prompt", "is required"),
        ({"urls": []}, "urls", "1 to 9"),
        ({"urls": [IMAGE, "http://localhost/"]}, "urls[1]", "public"),
        ({"duration": 5}, "duration", '"12"'),
        ({"outputResolution": "2k"}, "outputResolution", '"1080p"'),
        ({"aspectRatio": "2:1"}, "aspectRatio", '"21:9"'),
        ({"mode": "motion"}, "mode", '"reference"'),
        ({"urls": None, "mode": "reference"}, "urls", "is required in reference mode"),
        ({"urlMediaTypes": ["text"]}, "urlMediaTypes[0]", '"video"'),
        ({"aspect_ratio": "16:9"}, "aspect_ratio", "is not a field here"),
        ({"seed": 7}, "seed", "is not a field here"),
    ],
)
def test_each_limit_of_the_newer_body_is_named(fields: dict[str, object], path: str, word: str) -> None:
    """A body with `urls` is measured by the newer page alone."""
    found = newer_complaints(**fields)
    assert list(found) == [path]
    assert word in found[path]


@rows(
    "fields",
    [
        {"duration": "4", "resolution": "480p"},
        {"duration": "12", "resolution": "1080p", "last_image": LAST, "seed": 0},
        {"camera_fixed": True, "generate_audio": True, "model": FAST},
    ],
)
def test_the_edges_are_good(fields: dict[str, object]) -> None:
    """Both ends of every limit pass."""
    assert complaints(**fields) == {}


def test_a_full_input_becomes_the_body_of_the_setting() -> None:
    """Seconds are text; the second image is the last frame, or another of the `urls`."""
    assert native_from_input(STUDIO, FULL) == {
        "image": IMAGE,
        "last_image": LAST,
        "prompt": "p",
        "duration": "12",
        "resolution": "1080p",
        "aspect_ratio": "21:9",
        "generate_audio": False,
        "seed": 7,
    }
    newer = msgspec.structs.replace(FULL, audio=None, seed=None, mode="keyframe", model=FAST)
    assert native_from_input(NEWER, newer) == {
        "model": FAST,
        "urls": [IMAGE, LAST],
        "urlMediaTypes": ["image", "image"],
        "prompt": "p",
        "duration": "12",
        "outputResolution": "1080p",
        "aspectRatio": "21:9",
        "mode": "keyframe",
    }


@rows(
    ("studio", "changed", "paths"),
    [
        (STUDIO, {"mode": "keyframe"}, ["input.mode"]),
        (STUDIO, {"images": [IMAGE] * 3}, ["input.images"]),
        (STUDIO, {"model": "other", "duration_s": 3}, ["input.model", "input.duration_s"]),
        (NEWER, {}, ["input.audio", "input.seed"]),
        (NEWER, {"audio": None, "seed": None, "images": [IMAGE] * 3}, ["input.images"]),
    ],
)
def test_what_has_no_place_is_refused_in_the_clients_words(
    studio: StableStudio, changed: dict[str, Any], paths: list[str]
) -> None:
    """Each error names a unified field; what one body cannot say is refused, never dropped."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(studio, msgspec.structs.replace(FULL, **changed))
    assert [error.path for error in raised.value.errors] == paths


@rows(("model", "path"), [(None, STANDARD), (STANDARD, STANDARD), (FAST, FAST)])
def test_the_model_is_a_part_of_the_path(model: str | None, path: str) -> None:
    """relay's own `model` chooses the path and is not sent; no key and no callback URL goes along."""
    body: dict[str, object] = {"image": IMAGE, "prompt": "p"}
    sent = STUDIO.submission(body | ({"model": model} if model else {}), "https://r.example/callbacks/x", JOB_ID)
    assert sent == ProviderRequest(method="POST", path=f"/api/generate/{path}/i2v", body=body, bearer=False)


@rows(
    ("studio", "expected"),
    [
        (STUDIO, {"prompt": "p", "duration": "5", "resolution": "720p", "aspect_ratio": "16:9"}),
        (NEWER, {"prompt": "p", "duration": "5", "outputResolution": "720p", "aspectRatio": "16:9"}),
    ],
)
def test_text_alone_makes_a_video(studio: StableStudio, expected: dict[str, Any]) -> None:
    """Send an input without media to the route of text-to-video, in the body of the setting."""
    request = native_from_input(studio, Input(prompt="p", duration_s=5, resolution="720p", aspect_ratio="16:9"))
    assert request == expected
    for media, kind in (({}, "t2v"), ({"image": IMAGE}, "i2v"), ({"urls": [IMAGE]}, "i2v")):
        assert studio.submission(request | media, None, JOB_ID).path == f"/api/generate/{STANDARD}/{kind}"


@rows("status_path", [None, "/api/jobs/other"])
def test_a_job_is_asked_about_by_its_id(status_path: str | None) -> None:
    """The status route is published, so no other path is followed."""
    assert STUDIO.status_check(asked(JOB, status_path=status_path)) == ProviderRequest(
        method="GET", path=f"/api/jobs/{JOB}", bearer=False
    )


def test_the_published_answer_is_read() -> None:
    """`success` is no state: the job was taken, and has its id."""
    said = STUDIO.read_submission(answer(200, recorded("stablestudio", "answers", "submitted")))
    assert said == Accepted(Report(state=JobState.SUBMITTED, provider_status="pending", provider_job_id=JOB))
    assert STUDIO.read_submission(answer(202, {"jobId": "cmobn9mi9000e04l51w62943i"})) == Accepted(
        Report(state=JobState.SUBMITTED, provider_status="", provider_job_id="cmobn9mi9000e04l51w62943i")
    )


@rows(
    ("status_code", "kind", "class_"),
    [
        (402, Refused, ErrorClass.INSUFFICIENT_FUNDS),
        (400, Refused, ErrorClass.INVALID_INPUT),
        (429, Refused, ErrorClass.RATE_LIMITED),
        (500, Unclear, ErrorClass.PROVIDER_ERROR),
        (502, Unclear, ErrorClass.PROVIDER_ERROR),
    ],
)
def test_what_is_no_job(status_code: int, kind: type[Refused | Unclear], class_: ErrorClass) -> None:
    """A 4xx is a refusal, a 402 among them for whoever did not pay; a 5xx may hide a job."""
    said = STUDIO.read_submission(answer(status_code, {"success": False, "error": "no"}))
    assert isinstance(said, Refused | Unclear)
    assert (type(said), said.error.class_) == (kind, class_)


def test_a_job_that_is_made_tells_its_progress() -> None:
    """`loading` is running."""
    report = STUDIO.read_status(answer(200, recorded("stablestudio", "answers", "loading")), NOW_MS)
    assert report == Report(state=JobState.RUNNING, provider_status="loading", provider_job_id=JOB, progress=40)


@rows("word", ["complete", "completed"])
@rows("nested", [True, False])
def test_a_result_lives_for_twenty_minutes(word: str, nested: bool) -> None:
    """Video and thumbnail are outputs that expire, in `result` or beside the status."""
    body = recorded("stablestudio", "answers", "complete") | {"status": word}
    if not nested:
        body |= body.pop("result")
    assert STUDIO.read_status(answer(200, body), NOW_MS) == Report(
        state=JobState.SUCCEEDED,
        provider_status=word,
        provider_job_id=JOB,
        outputs=(
            Output(kind=OutputKind.VIDEO, url=VIDEO, expires_at=IN_TWENTY_MINUTES),
            Output(kind=OutputKind.THUMBNAIL, url=THUMBNAIL, expires_at=IN_TWENTY_MINUTES),
        ),
    )


@rows("result", [None, {}, {"thumbnailUrl": THUMBNAIL}, {"videoUrl": "the render failed"}])
def test_a_success_without_a_video_has_no_outputs(result: object) -> None:
    """A thumbnail alone, or text that is no URL, is no result."""
    report = STUDIO.read_status(answer(200, {"status": "complete", "result": result}), NOW_MS)
    assert (report.state, report.outputs) == (JobState.SUCCEEDED, ())


def test_the_recorded_failure_is_read() -> None:
    """A refused image is never tried again."""
    text = "The input was flagged as sensitive. (E005)"
    report = STUDIO.read_status(answer(200, recorded("stablestudio", "answers", "failed")), NOW_MS)
    assert report.error == JobError(
        class_=ErrorClass.CONTENT_REJECTED,
        code="failed",
        message=f"the provider reports: {text}",
        retryable=False,
        provider_message=text,
    )


@rows("word", ["failed", "error"])
@rows(
    ("error", "class_"),
    [
        ("Sensitive content", ErrorClass.CONTENT_REJECTED),
        ("E005", ErrorClass.CONTENT_REJECTED),
        ("stopped by Moderation", ErrorClass.CONTENT_REJECTED),
        ({"code": "E005", "message": "try another image"}, ErrorClass.CONTENT_REJECTED),
        ({"message": "image was flagged"}, ErrorClass.CONTENT_REJECTED),
        ("upstream timed out", ErrorClass.UNKNOWN),
    ],
)
def test_the_words_of_a_failure_have_their_class(word: str, error: object, class_: ErrorClass) -> None:
    """The words that integrators know as permanent are a refused content, whatever shape they come in."""
    report = STUDIO.read_status(answer(200, {"status": word, "error": error}), NOW_MS)
    assert report.state is JobState.FAILED
    assert report.error is not None
    assert (report.error.class_, report.error.retryable) == (class_, False)


def test_a_status_is_never_paid_for() -> None:
    """A 402 says no status, whatever it asks for; an unknown job is one that may be lost."""
    challenge = {"x402Version": 2, "accepts": [], "extensions": {"sign-in-with-x": {"info": {}}}}
    with pytest.raises(Unreadable, match="sign-in or a payment") as raised:
        STUDIO.read_status(answer(402, challenge), NOW_MS)
    assert not isinstance(raised.value, JobUnknown)
    with pytest.raises(JobUnknown):
        STUDIO.read_status(answer(404, {"success": False, "error": "Job not found"}), NOW_MS)


def test_nobody_calls_back() -> None:
    """Even its own status in a callback is not read."""
    with pytest.raises(Unreadable, match="no callbacks"):
        STUDIO.read_callback(recorded("stablestudio", "answers", "complete"), NOW_MS)
    assert STUDIO.cancellation(asked(JOB)) is None


@given(bodies | json_values)
def test_any_job_is_read_or_unreadable(body: Any) -> None:
    """No body makes a reading raise anything but Unreadable, and what is read can be stored."""
    assert isinstance(STUDIO.read_submission(answer(200, json.dumps(body).encode())), Accepted | Unclear)
    try:
        report = STUDIO.read_status(answer(200, json.dumps(body).encode()), NOW_MS)
    except Unreadable:
        return
    assert msgspec.json.encode(report)
    assert not report.outputs or report.outputs[0].kind is OutputKind.VIDEO
    assert not report.outputs or report.state is JobState.SUCCEEDED
