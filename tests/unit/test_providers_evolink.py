"""EvoLink's contract, from its published pages: limits, answers, callbacks, errors."""

from typing import Any

import pytest

from relay.errors import InvalidInput
from relay.model.job import Cost, ErrorClass, Input, JobError, JobState, Output, OutputKind, Report
from relay.model.provider_http import ProviderRequest
from relay.providers.base import Accepted, ModelLimits, Refused
from relay.providers.evolink import FAST, MINI, MODELS, STANDARD, EvoLink
from relay.providers.native import native_from_input
from tests.support.provider_cases import JOB_ID, NOW_MS, answer, asked, recorded, without_known
from tests.support.rows import rows

EVOLINK = EvoLink()
IMAGE = "https://example.com/a.png"
GOOD: dict[str, object] = {"model": STANDARD, "prompt": "slow push in", "image_urls": [IMAGE]}
A_DAY_LATER = "2026-09-22T14:13:20.000Z"


def complaints(**fields: object) -> dict[str, str]:
    """Return the errors of a good request with these fields changed, by path."""
    return {error.path: without_known(error.message) for error in EVOLINK.check({**GOOD, **fields})}


@rows(
    ("fields", "path", "message"),
    [
        ({"duration": 3}, "duration", f"must be an integer from 4 to 15 for {STANDARD}, not 3"),
        ({"duration": 16}, "duration", f"must be an integer from 4 to 15 for {STANDARD}, not 16"),
        ({"duration": "5"}, "duration", f'must be an integer from 4 to 15 for {STANDARD}, not "5"'),
        ({"duration": 5.5}, "duration", f"must be an integer from 4 to 15 for {STANDARD}, not 5.5"),
        ({"image_urls": [IMAGE] * 3}, "image_urls", f"must be an array of 1 to 2 items for {STANDARD}, not 3"),
        ({"image_urls": []}, "image_urls", f"must be an array of 1 to 2 items for {STANDARD}, not 0"),
        ({"image_urls": IMAGE}, "image_urls", f'must be an array, not "{IMAGE}"'),
        ({"quality": "1080p", "model": FAST}, "quality", f'must be one of "480p", "720p" for {FAST}, not "1080p"'),
        ({"quality": "1080p", "model": MINI}, "quality", f'must be one of "480p", "720p" for {MINI}, not "1080p"'),
        ({"quality": "4k"}, "quality", f'must be one of "480p", "720p", "1080p" for {STANDARD}, not "4k"'),
        ({"generate_audio": "true"}, "generate_audio", 'must be true or false, not "true"'),
        ({"duration_s": 5}, "duration_s", "is not a field here; did you mean duration?"),
        ({"callback_url": "https://a.example"}, "callback_url", "is not a field here"),
        ({"prompt": ""}, "prompt", "must be 1 to 500 Chinese characters or 1 to 1000 words, not 0 and 0"),
        (
            {"prompt": "word " * 1001},
            "prompt",
            "must be 1 to 500 Chinese characters or 1 to 1000 words, not 0 and 1001",
        ),
        ({"prompt": "字" * 501}, "prompt", "must be 1 to 500 Chinese characters or 1 to 1000 words, not 501 and 0"),
    ],
)
def test_each_limit_is_named(fields: dict[str, object], path: str, message: str) -> None:
    """A value outside a published limit is refused with the limit."""
    assert complaints(**fields) == {path: message}


@rows(
    "fields",
    [
        {"duration": 4},
        {"duration": 15},
        {"image_urls": [IMAGE, "http://example.com/b.webp"]},
        {"quality": "1080p"},
        {"model": MINI, "quality": "480p"},
        {"aspect_ratio": "adaptive"},
        {"generate_audio": False},
        {"prompt": "word " * 1000},
        {"prompt": "字" * 500},
        {"prompt": "镜头" * 100 + " then " * 900},
    ],
)
def test_the_edges_are_good(fields: dict[str, object]) -> None:
    """Both ends of every limit pass."""
    assert complaints(**fields) == {}


def body(model: str, **fields: object) -> dict[str, object]:
    """Return a body of the fewest media that a model needs, with these fields changed."""
    media = {} if "-text-" in model else {"image_urls": [IMAGE]}
    return {"model": model, "prompt": "slow push in", **media, **fields}


@rows(("model", "own"), MODELS.items())
def test_each_model_has_its_own_limits(model: str, own: ModelLimits) -> None:
    """Accept both ends of a model's limits, and nothing beyond them."""
    assert own.duration_s is not None
    assert own.resolutions is not None
    assert own.aspect_ratios is not None
    assert own.images is not None
    assert own.references is not None
    low, high = own.duration_s
    pictures = max(own.images[1], own.references[0])
    good: list[dict[str, Any]] = [{"duration": low}, {"duration": high}]
    good += [{"quality": one} for one in own.resolutions] + [{"aspect_ratio": one} for one in own.aspect_ratios]
    good += [{"image_urls": [IMAGE] * pictures}] if pictures else []
    bad: list[dict[str, Any]] = [{"duration": low - 1}, {"duration": high + 1}]
    bad += [{"image_urls": [IMAGE] * (pictures + 1)}]
    bad += [{"quality": one} for one in {"480p", "720p", "1080p"} - set(own.resolutions)]
    bad += [{"aspect_ratio": one} for one in {"16:9", "adaptive"} - set(own.aspect_ratios)]
    for name, most in zip(("video_urls", "audio_urls"), own.references[1:], strict=True):
        good += [{name: [IMAGE] * most}] if most else []
        bad += [{name: [IMAGE] * (most + 1)}]
    for fields in good:
        assert EVOLINK.check(body(model, **fields)) == [], fields
    for fields in bad:
        assert [error.path for error in EVOLINK.check(body(model, **fields))] == list(fields), fields


def test_the_newest_model_may_last_as_long_as_its_media() -> None:
    """Accept a duration of -1 for Seedance 2.5, and for no other model."""
    assert EVOLINK.check(body("seedance-2.5-image-to-video", duration=-1)) == []
    assert [error.path for error in EVOLINK.check(body(STANDARD, duration=-1))] == ["duration"]


def test_references_are_not_sounds_alone() -> None:
    """Require an image or a video beside sounds for Seedance 2.0; for 2.5 sounds are enough."""
    for model, enough in (("seedance-2.0-reference-to-video", False), ("seedance-2.5-reference-to-video", True)):
        sounds = body(model, audio_urls=["https://example.com/a.mp3"])
        del sounds["image_urls"]
        assert (EVOLINK.check(sounds) == []) is enough
        assert [error.path for error in EVOLINK.check({"model": model, "prompt": "p"})] == ["image_urls"]


@rows(
    ("fields", "kind"),
    [({}, "text"), ({"images": [IMAGE]}, "image"), ({"references": [IMAGE]}, "reference")],
)
def test_the_media_choose_the_model(fields: dict[str, Any], kind: str) -> None:
    """Choose the standard model for text, frames or references; the client may name another of the kind."""
    assert native_from_input(EVOLINK, Input(prompt="p", **fields))["model"] == f"seedance-2.0-{kind}-to-video"
    newest = f"seedance-2.5-{kind}-to-video"
    made = native_from_input(EVOLINK, Input(prompt="p", model=newest, duration_s=30, **fields))
    assert (made["model"], made["duration"]) == (newest, 30)


def test_references_and_frames_are_different_models() -> None:
    """Refuse references beside a frame, and name a list of references that is too long as the client wrote it."""
    with pytest.raises(InvalidInput, match="cannot be given with images"):
        native_from_input(EVOLINK, Input(images=[IMAGE], references=[IMAGE], prompt="p"))
    with pytest.raises(InvalidInput) as raised:
        native_from_input(EVOLINK, Input(references=[IMAGE] * 10, prompt="p"))
    assert [error.path for error in raised.value.errors] == ["input.references"]


def test_every_error_is_named_at_once() -> None:
    """Shape and rules between fields are in one list."""
    assert complaints(model=FAST, quality="1080p", duration="5", image_urls=[IMAGE, "https://10.0.0.1/a"]).keys() == {
        "duration",
        "quality",
        "image_urls[1]",
    }


def test_a_full_input_becomes_evolinks_words() -> None:
    """The unified request is translated, seconds as an integer."""
    given = Input(
        images=[IMAGE, IMAGE], prompt="p", duration_s=5, resolution="720p", aspect_ratio="16:9", audio=True, model=FAST
    )
    assert native_from_input(EVOLINK, given) == {
        "model": FAST,
        "prompt": "p",
        "image_urls": [IMAGE, IMAGE],
        "duration": 5,
        "quality": "720p",
        "aspect_ratio": "16:9",
        "generate_audio": True,
    }


def test_what_has_no_place_is_refused_with_the_rest() -> None:
    """A seed and a mode are refused by name, beside the other errors."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(EVOLINK, Input(images=[IMAGE] * 3, prompt="p", seed=1, mode="keyframe"))
    assert [(error.path, error.message) for error in raised.value.errors] == [
        ("input.seed", "EvoLink does not support seed"),
        ("input.mode", "EvoLink does not support mode"),
        ("input.images", f"must be an array of 1 to 2 items for {STANDARD}, not 3"),
    ]


def test_requests_go_where_the_page_says() -> None:
    """The submission and the status check have EvoLink's methods and paths."""
    assert EVOLINK.submission(GOOD, "https://relay.example.com/callbacks/evolink/t", JOB_ID) == ProviderRequest(
        method="POST",
        path="/v1/videos/generations",
        body={**GOOD, "callback_url": "https://relay.example.com/callbacks/evolink/t"},
    )
    assert EVOLINK.status_check(asked("task-unified-1")) == ProviderRequest(
        method="GET", path="/v1/tasks/task-unified-1"
    )


def test_the_published_answer_is_read() -> None:
    """The submission's answer gives the id, the reserved credits and the expected seconds."""
    assert EVOLINK.read_submission(answer(200, recorded("evolink", "answers", "submitted"))) == Accepted(
        Report(
            state=JobState.SUBMITTED,
            provider_status="pending",
            provider_job_id="task-unified-1774857405-abc123",
            progress=0,
            cost=Cost(amount="50", unit="credits", kind="reserved"),
            estimate_s=165,
        )
    )


@rows(
    ("name", "report"),
    [
        (
            "completed",
            Report(
                state=JobState.SUCCEEDED,
                provider_status="completed",
                provider_job_id="task-unified-1756817821-4x3rx6ny",
                progress=100,
                outputs=(
                    Output(
                        kind=OutputKind.VIDEO,
                        url="https://cdn.example.com/videos/task-unified-1756817821-4x3rx6ny.mp4",
                        expires_at=A_DAY_LATER,
                    ),
                ),
            ),
        ),
        (
            "minimal_completed",
            Report(
                state=JobState.SUCCEEDED,
                provider_status="completed",
                provider_job_id="task-unified-1774857405-abc123",
                outputs=(Output(kind=OutputKind.VIDEO, url="https://media.evolink.ai/...", expires_at=A_DAY_LATER),),
            ),
        ),
        (
            "failed_without_error",
            Report(
                state=JobState.FAILED,
                provider_status="failed",
                provider_job_id="task-unified-1756817821-4x3rx6ny",
                progress=0,
            ),
        ),
        (
            "failed_with_error",
            Report(
                state=JobState.FAILED,
                provider_status="failed",
                provider_job_id="task-unified-1756817821-4x3rx6ny",
                progress=0,
                error=JobError(
                    class_=ErrorClass.INVALID_INPUT,
                    code="failed",
                    message="the provider reports: Explain what went wrong.",
                    retryable=False,
                    provider_code="invalid_request",
                    provider_message="Explain what went wrong.",
                ),
            ),
        ),
        (
            "cancelled",
            Report(
                state=JobState.CANCELED,
                provider_status="cancelled",
                provider_job_id="task-unified-1756817821-4x3rx6ny",
                progress=0,
            ),
        ),
    ],
)
def test_every_published_callback_is_read(name: str, report: Report) -> None:
    """Each form of the callback gives exactly this report."""
    assert EVOLINK.read_callback(recorded("evolink", "callbacks", name), NOW_MS) == report


@rows(
    ("fields", "urls"),
    [
        ({"results": [IMAGE, "https://example.com/b.mp4"]}, [IMAGE, "https://example.com/b.mp4"]),
        ({"results": [IMAGE, IMAGE]}, [IMAGE]),
        ({"result_data": [{"video_url": IMAGE}, {}, None]}, [IMAGE]),
        ({"results": [IMAGE], "result_data": [{"video_url": IMAGE}]}, [IMAGE]),
        ({"results": [None, 5, "", "javascript:alert(1)", "file:///etc/passwd", IMAGE]}, [IMAGE]),
        ({"results": IMAGE}, []),
        ({"results": None}, []),
        ({}, []),
    ],
)
def test_outputs_are_the_usable_urls(fields: dict[str, Any], urls: list[str]) -> None:
    """Only public http and https URLs count, each once; success without one has no outputs."""
    report = EVOLINK.read_callback({"id": "t", "status": "completed", **fields}, NOW_MS)
    assert [output.url for output in report.outputs] == urls
    assert report.state is JobState.SUCCEEDED


def test_results_of_a_failed_job_do_not_count() -> None:
    """A URL beside a failure is no result."""
    assert EVOLINK.read_callback({"id": "t", "status": "failed", "results": [IMAGE]}, NOW_MS).outputs == ()


@rows(
    ("code", "class_", "retryable"),
    [
        ("content_policy_violation", ErrorClass.CONTENT_REJECTED, False),
        ("invalid_parameters", ErrorClass.INVALID_INPUT, False),
        ("image_dimension_mismatch", ErrorClass.INVALID_INPUT, False),
        ("image_processing_error", ErrorClass.INVALID_INPUT, False),
        ("request_cancelled", ErrorClass.UNKNOWN, False),
        ("resource_not_found", ErrorClass.INVALID_INPUT, False),
        ("model_unavailable", ErrorClass.PROVIDER_ERROR, False),
        ("generation_timeout", ErrorClass.TIMEOUT, True),
        ("quota_exceeded", ErrorClass.RATE_LIMITED, True),
        ("resource_exhausted", ErrorClass.RATE_LIMITED, True),
        ("generation_failed_no_content", ErrorClass.PROVIDER_ERROR, True),
        ("service_error", ErrorClass.PROVIDER_ERROR, True),
        ("service_unavailable", ErrorClass.PROVIDER_ERROR, True),
        ("upstream_error", ErrorClass.PROVIDER_ERROR, True),
        ("rate_limited", ErrorClass.RATE_LIMITED, True),
        ("unknown_error", ErrorClass.UNKNOWN, True),
        ("never_heard_of", ErrorClass.UNKNOWN, False),
        (40013, ErrorClass.UNKNOWN, False),
    ],
)
def test_each_published_task_error_has_its_class(code: object, class_: ErrorClass, retryable: bool) -> None:
    """A task's error code gives relay's class, and whether another try may do better."""
    error = EVOLINK.read_callback({"status": "failed", "error": {"code": code, "message": "m"}}, NOW_MS).error
    assert error is not None
    assert (error.class_, error.retryable, error.provider_code) == (class_, retryable, str(code))


@rows(
    ("status_code", "error", "class_"),
    [
        (400, {"code": "invalid_request", "message": "m", "type": "invalid_request_error"}, ErrorClass.INVALID_INPUT),
        (400, {"code": "content_policy_violation", "message": "m"}, ErrorClass.CONTENT_REJECTED),
        (400, {"code": "x", "message": "The image contains a realistic human face"}, ErrorClass.CONTENT_REJECTED),
        (401, {"code": "unauthorized", "message": "m", "type": "authentication_error"}, ErrorClass.AUTH),
        (402, {"code": "insufficient_quota", "message": "m"}, ErrorClass.INSUFFICIENT_FUNDS),
        (403, {"code": "model_access_denied", "message": "m"}, ErrorClass.AUTH),
        (403, {"code": "insufficient_quota", "message": "m"}, ErrorClass.INSUFFICIENT_FUNDS),
        (404, {"code": 404, "message": "m"}, ErrorClass.INVALID_INPUT),
        (413, {"code": 413, "message": "m"}, ErrorClass.INVALID_INPUT),
        (429, {"code": "rate_limit_exceeded", "message": "m", "type": "rate_limit_error"}, ErrorClass.RATE_LIMITED),
    ],
)
def test_each_published_refusal_has_its_class(status_code: int, error: dict[str, object], class_: ErrorClass) -> None:
    """A refusal is classed by its status, and by its code where that knows better."""
    said = EVOLINK.read_submission(answer(status_code, {"error": error}))
    assert isinstance(said, Refused)
    assert (said.error.class_, said.error.provider_code) == (class_, str(error["code"]))


def test_older_errors_say_which_parameter() -> None:
    """A numeric code, the parameter and the suggestion of older answers are kept."""
    error = {"code": 1003, "message": "bad", "param": "image_urls", "fallback_suggestion": "use a PNG"}
    said = EVOLINK.read_submission(answer(400, {"error": error}))
    assert isinstance(said, Refused)
    assert said.error.provider_code == "1003"
    assert said.error.provider_message == "bad (param: image_urls, fallback_suggestion: use a PNG)"
    assert said.error.message == f"the provider answered HTTP 400: {said.error.provider_message}"
