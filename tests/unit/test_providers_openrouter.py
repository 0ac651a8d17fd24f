"""OpenRouter's contract, from its published pages: limits, answers, callbacks, errors, prices."""

from typing import Any

import msgspec
import pytest
from hypothesis import given

from relay.errors import InvalidInput, Unreadable
from relay.model.job import Cost, ErrorClass, Input, JobState, Output, OutputKind, Report
from relay.model.provider_http import ProviderRequest
from relay.providers.base import Accepted, Refused, SubmittedJob
from relay.providers.native import native_from_input
from relay.providers.openrouter import SEEDANCE, OpenRouter
from tests.support.provider_cases import NOW_MS, answer, json_values, recorded, without_known
from tests.support.rows import rows

OPENROUTER = OpenRouter()
IMAGE = "https://example.com/a.png"
LAST = "https://example.com/b.png"
URL = "https://relay.example.com/callbacks/openrouter/t"
ID = "gen-vid-1764237540-AbCdEfGhIjKlMnOpQrSt"
CONTENT = f"https://openrouter.ai/api/v1/videos/{ID}/content?index=0"
FIRST: dict[str, object] = {"type": "image_url", "image_url": {"url": IMAGE}, "frame_type": "first_frame"}
END: dict[str, object] = {"type": "image_url", "image_url": {"url": LAST}, "frame_type": "last_frame"}
REFERENCE: dict[str, object] = {"type": "video_url", "video_url": {"url": "https://example.com/c.mp4"}}
JOB = SubmittedJob(job_id="job_1", provider_job_id=ID, state=JobState.RUNNING)


def complaints(**fields: object) -> dict[str, str]:
    """Return the errors of a good request with these fields changed, by path; None leaves one out."""
    request = {"model": SEEDANCE, "prompt": "p", **fields}
    request = {name: value for name, value in request.items() if value is not None}
    return {error.path: without_known(error.message) for error in OPENROUTER.check(request)}


@rows(
    ("fields", "path", "message"),
    [
        ({"duration": 0}, "duration", "must be an integer from 1 to 30, not 0"),
        ({"duration": 31}, "duration", "must be an integer from 1 to 30, not 31"),
        ({"duration": "5"}, "duration", 'must be an integer from 1 to 30, not "5"'),
        ({"resolution": "4k"}, "resolution", None),
        ({"aspect_ratio": "2:1"}, "aspect_ratio", None),
        ({"size": "1280*720"}, "size", None),
        ({"size": "1280x720", "resolution": "720p"}, "size", "cannot be given with resolution or aspect_ratio"),
        ({"size": "1280x720", "aspect_ratio": "16:9"}, "size", "cannot be given with resolution or aspect_ratio"),
        ({"prompt": None}, "prompt", "is required without frame_images and input_references"),
        ({"prompt": ""}, "prompt", "is required without frame_images and input_references"),
        ({"prompt": "x" * 30_001}, "prompt", None),
        ({"frame_images": [FIRST] * 3}, "frame_images", "must be an array of at most 2 items, not 3"),
        ({"frame_images": [FIRST, FIRST]}, "frame_images", "must have one first_frame and one last_frame"),
        (
            {"frame_images": [FIRST | {"image_url": {"url": "https://10.0.0.1/a"}}]},
            "frame_images[0].image_url.url",
            None,
        ),
        ({"frame_images": [FIRST | {"frame_type": "middle"}]}, "frame_images[0].frame_type", None),
        ({"frame_images": [FIRST], "input_references": [REFERENCE]}, "input_references", None),
        ({"input_references": [{"type": "image_url"}]}, "input_references[0].image_url", "is required with this type"),
        (
            {"input_references": [REFERENCE | {"video_url": {"url": "ftp://a/b"}}]},
            "input_references[0].video_url.url",
            None,
        ),
        ({"input_references": [{"type": "text"}]}, "input_references[0].type", None),
        (
            {"session_id": "x" * 257},
            "session_id",
            "must be a string of at most 256 characters, not one of 257 characters",
        ),
        ({"callback_url": URL}, "callback_url", "is not a field here"),
        ({"model": 5}, "model", None),
    ],
)
def test_each_limit_is_named(fields: dict[str, object], path: str, message: str | None) -> None:
    """A value outside a published limit is refused at its place, once."""
    found = complaints(**fields)
    assert list(found) == [path]
    assert message is None or found[path] == message


@rows(
    "fields",
    [
        {"duration": 1},
        {"duration": 30},
        {"resolution": "4K"},
        {"size": "1280x720"},
        {"frame_images": [END, FIRST]},
        {"frame_images": [END]},
        {"prompt": None, "frame_images": [FIRST]},
        {"prompt": None, "input_references": [REFERENCE]},
        {"session_id": "x" * 256},
        {"provider": {"options": {"google-vertex": {"parameters": {"a": 1}}}}},
        {"prompt": "x" * 30_000},
    ],
)
def test_the_edges_are_good(fields: dict[str, object]) -> None:
    """Both ends of every limit pass."""
    assert complaints(**fields) == {}


def test_a_full_input_becomes_openrouters_words() -> None:
    """The unified request is translated: frames in their order, the resolution as OpenRouter spells it."""
    full = Input(
        images=[IMAGE, LAST], prompt="p", duration_s=5, resolution="4k", aspect_ratio="16:9", audio=False, seed=7
    )
    assert native_from_input(OPENROUTER, full) == {
        "model": SEEDANCE,
        "prompt": "p",
        "frame_images": [FIRST, END],
        "duration": 5,
        "resolution": "4K",
        "aspect_ratio": "16:9",
        "generate_audio": False,
        "seed": 7,
    }


def test_audio_is_always_said() -> None:
    """Two defaults of `generate_audio` are published, so that it is sent with every unified request."""
    assert native_from_input(OPENROUTER, Input(prompt="p"))["generate_audio"] is True


def test_what_is_wrong_is_named_as_the_client_wrote_it() -> None:
    """The errors of frames, of the duration and of an unsupported field have the unified names."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(OPENROUTER, Input(images=[IMAGE, "ftp://x"], prompt="p", duration_s=31, mode="reference"))
    assert {error.path for error in raised.value.errors} == {"input.images[1]", "input.duration_s", "input.mode"}


def test_requests_go_where_the_page_says() -> None:
    """The submission and the status check have the published methods and paths; no cancellation is published."""
    request: dict[str, object] = {"model": SEEDANCE, "prompt": "p"}
    assert OPENROUTER.submission(request, URL, "job_1") == ProviderRequest(
        method="POST", path="/api/v1/videos", body={**request, "callback_url": URL}
    )
    assert OPENROUTER.status_check(JOB) == ProviderRequest(method="GET", path=f"/api/v1/videos/{ID}")
    assert OPENROUTER.cancellation(JOB) is None


@rows(("name", "id_"), [("submitted", ID), ("submitted_older", "job-abc123")])
def test_the_published_answers_are_read(name: str, id_: str) -> None:
    """A submission's answer, with a relative or an absolute polling URL, has the id."""
    assert OPENROUTER.read_submission(answer(202, recorded("openrouter", "answers", name))) == Accepted(
        Report(state=JobState.SUBMITTED, provider_status="pending", provider_job_id=id_)
    )


def test_a_status_answer_has_the_signed_urls() -> None:
    """Where OpenRouter keeps a copy, its URLs need no key, and expire when the answer says."""
    report = OPENROUTER.read_status(answer(200, recorded("openrouter", "answers", "completed")), NOW_MS)
    assert report.outputs == (
        Output(
            kind=OutputKind.VIDEO,
            url="https://files.example.com/videos/abc.mp4?signature=def",
            expires_at="2026-09-22T14:13:20.000Z",
        ),
    )
    assert report.cost == Cost(amount="0.336", unit="USD", kind="final")


def test_a_callback_has_urls_that_need_the_key() -> None:
    """OpenRouter's own route of results is downloaded with the API key; no time of expiry is published for it."""
    report = OPENROUTER.read_callback(recorded("openrouter", "callbacks", "completed"), NOW_MS)
    assert report.outputs == (Output(kind=OutputKind.VIDEO, url=CONTENT, needs_key=True),)


@rows(
    ("url", "needs_key"),
    [
        (CONTENT, True),
        ("https://openrouter.ai/api/v1/videos/a/content", True),
        ("https://cdn.example.com/a.mp4", False),
        ("https://openrouter.ai/api/v1/videos/a/b/content", False),
        ("https://openrouter.ai/other?x=/api/v1/videos/a/content", False),
    ],
)
def test_only_openrouters_route_needs_the_key(url: str, *, needs_key: bool) -> None:
    """An upstream provider's file needs no key."""
    report = OPENROUTER.read_callback({"data": {"id": "a", "status": "completed", "unsigned_urls": [url]}}, NOW_MS)
    assert [(one.url, one.needs_key is True) for one in report.outputs] == [(url, needs_key)]
    assert (b"needs_key" in msgspec.json.encode(report)) is needs_key


@rows(
    ("expires_at", "text"),
    [
        (NOW_MS // 1000, "2026-09-21T14:13:20.000Z"),
        (NOW_MS // 1000 - 1, None),
        (10**12, None),
        ("soon", None),
        (None, None),
    ],
)
def test_an_expiry_is_plausible_or_none(expires_at: object, text: str | None) -> None:
    """A time in the past, or one that is no time, is not kept."""
    body = {"id": "a", "status": "completed", "urls": [IMAGE], "expires_at": expires_at}
    assert [one.expires_at for one in OPENROUTER.read_callback(body, NOW_MS).outputs] == [text]


@rows(
    ("name", "state"),
    [("failed", JobState.FAILED), ("cancelled", JobState.CANCELED), ("expired", JobState.EXPIRED)],
)
def test_every_other_recorded_callback_is_read(name: str, state: JobState) -> None:
    """Each end of a job has its state, also where the model and the generation are null."""
    report = OPENROUTER.read_callback(recorded("openrouter", "callbacks", name), NOW_MS)
    assert (report.state, report.provider_job_id, report.outputs) == (state, ID, ())


@rows(
    ("error", "class_", "code"),
    [
        ("Content policy violation", ErrorClass.CONTENT_REJECTED, None),
        ("refused by a usage policy", ErrorClass.CONTENT_REJECTED, None),
        ("moderated", ErrorClass.CONTENT_REJECTED, None),
        (
            {"code": "OutputVideoSensitiveContentDetected", "message": "m"},
            ErrorClass.CONTENT_REJECTED,
            "OutputVideoSensitiveContentDetected",
        ),
        ({"code": "internal_error", "message": "m"}, ErrorClass.PROVIDER_ERROR, "internal_error"),
        ("Upstream failed", ErrorClass.UNKNOWN, None),
    ],
)
def test_a_failure_is_a_text_or_an_object(error: object, class_: ErrorClass, code: str | None) -> None:
    """Both forms of a failed job's error are classed."""
    found = OPENROUTER.read_callback({"data": {"id": "a", "status": "failed", "error": error}}, NOW_MS).error
    assert found is not None
    assert (found.class_, found.provider_code) == (class_, code)


@rows(
    ("status_code", "message", "metadata", "class_"),
    [
        (400, "Unsupported duration", {}, ErrorClass.INVALID_INPUT),
        (400, "flagged by moderation", {}, ErrorClass.CONTENT_REJECTED),
        (401, "No auth credentials found", {}, ErrorClass.AUTH),
        (402, "Insufficient credits", {}, ErrorClass.INSUFFICIENT_FUNDS),
        (402, "This request requires more credits", {}, ErrorClass.INSUFFICIENT_FUNDS),
        (403, "Forbidden", {}, ErrorClass.AUTH),
        (403, "Key limit exceeded (total limit)", {}, ErrorClass.INSUFFICIENT_FUNDS),
        (403, "Refused", {"reasons": ["violence"]}, ErrorClass.CONTENT_REJECTED),
        (403, "Refused", {"flagged_input": "a fight"}, ErrorClass.CONTENT_REJECTED),
        (403, "Refused", {"reasons": [], "flagged_input": ""}, ErrorClass.AUTH),
        (404, "No such model", {}, ErrorClass.INVALID_INPUT),
        (413, "Too large", {}, ErrorClass.INVALID_INPUT),
        (429, "Rate limited", {}, ErrorClass.RATE_LIMITED),
        (429, "Insufficient credits", {}, ErrorClass.INSUFFICIENT_FUNDS),
        (499, "Client closed request", {}, ErrorClass.PROVIDER_ERROR),
    ],
)
def test_each_refusal_has_its_class(status_code: int, message: str, metadata: object, class_: ErrorClass) -> None:
    """A refusal is classed by its status, or by its text and metadata where they are more precise."""
    body = {"error": {"code": status_code, "message": message, "metadata": metadata}, "user_id": "user_abc"}
    said = OPENROUTER.read_submission(answer(status_code, body))
    assert isinstance(said, Refused)
    assert (said.error.class_, said.error.provider_message) == (class_, message)
    assert said.error.retryable == (status_code == 429 and class_ is ErrorClass.RATE_LIMITED)


@rows(
    ("fields", "usd"),
    [
        ({"model": SEEDANCE, "resolution": "480p", "duration": 5, "generate_audio": True}, "0.336300"),
        ({"model": SEEDANCE, "resolution": "480p", "duration": 5}, None),
        ({"model": SEEDANCE, "resolution": "720p", "duration": 5, "generate_audio": True}, None),
        ({"model": SEEDANCE, "resolution": "480p", "generate_audio": True}, None),
        ({"model": "google/veo-3.1-fast", "resolution": "720p", "duration": 8, "generate_audio": True}, "0.800000"),
        ({"model": "google/veo-3.1-fast", "resolution": "720p", "duration": 8, "generate_audio": False}, None),
        ({"model": "google/veo-3.1", "resolution": "720p", "duration": 8, "generate_audio": True}, None),
    ],
)
def test_a_price_is_what_the_list_says(fields: dict[str, object], usd: str | None) -> None:
    """A price is known only at the lowest resolution, with audio and a length."""
    price = OPENROUTER.price(fields)
    assert (None if price is None else price.usd) == usd


@given(json_values, json_values, json_values)
def test_no_body_breaks_a_reader(one: Any, two: Any, three: Any) -> None:
    """Any values in a job are read or unreadable, and any request is checked and has a price or none."""
    for word in (one, "completed", "failed"):
        task = {"id": "a", "status": word, "urls": one, "unsigned_urls": two, "expires_at": three, "usage": three}
        for body in (task, {"type": two, "data": task | {"error": three, "urls": None, "unsigned_urls": [one, two]}}):
            try:
                assert msgspec.json.encode(OPENROUTER.read_callback(body, NOW_MS))
            except Unreadable as unreadable:
                assert str(unreadable)  # noqa: PT017 -- either outcome is right
    for status_code in (400, 402, 403, 429, 499):
        said = OPENROUTER.read_submission(answer(status_code, b"{}"))
        assert isinstance(said, Refused)
    request = {"model": one, "frame_images": [two, {"image_url": two}], "input_references": [three, {"type": one}]}
    assert OPENROUTER.check(request)
    OPENROUTER.price(request | {"resolution": one, "duration": two})


def test_the_work_for_a_list_has_a_limit() -> None:
    """A list of any length is one error of its length, and the URLs behind the limit are not read."""
    frames: list[object] = [FIRST | {"image_url": {"url": "ftp://a"}}] * 20_000
    found = complaints(frame_images=frames)
    assert found["frame_images"] == "must be an array of at most 2 items, not 20000"
    assert len(found) <= 5
    assert len(complaints(input_references=[{"type": "image_url"}] * 20_000)) <= 51
