"""kie.ai's contract, from its published pages: errors in a 200, results in a string, a body for each kind of model."""

import json

import pytest

from relay.errors import InvalidInput, JobUnknown, Unreadable
from relay.model.job import Cost, ErrorClass, Input, JobState, OutputKind, Reference
from relay.providers.base import Accepted, Refused, Unclear
from relay.providers.kie import (
    KLING,
    NEWEST,
    PROMPT_MAX,
    RESULT_MAX_CHARS,
    STANDARD,
    WAN_IMAGE,
    WAN_TEXT,
    Kie,
)
from relay.providers.native import native_from_input
from tests.support.provider_cases import NOW_MS, answer, asked, recorded
from tests.support.rows import rows

KIE = Kie()
IMAGE, LAST, VIDEO = "https://example.com/a.png", "https://example.com/b.png", "https://example.com/c.mp4"
SEEDANCE = {"prompt": "slow push in", "first_frame_url": IMAGE}
FLOW = {
    "prompt": "p",
    "duration": "5",
    "aspect_ratio": "16:9",
    "mode": "pro",
    "sound": False,
    "multi_shots": False,
    "multi_prompt": [],
}


def complaints(model: str = STANDARD, **given: object) -> dict[str, str]:
    """Return the errors of these parameters of a model, by path; a None takes a field away."""
    start = FLOW if model == KLING else {"prompt": "p"} if model == WAN_TEXT else SEEDANCE
    body = {"model": model, "input": {name: value for name, value in {**start, **given}.items() if value is not None}}
    return {error.path.removeprefix("input."): error.message for error in KIE.check(body)}


def native(**given: object) -> dict[str, object]:
    """Return the native body of a unified input."""
    return native_from_input(KIE, Input(**{"prompt": "slow push in", **given}))  # type: ignore[arg-type]


def refusals(**given: object) -> dict[str, str]:
    """Return the errors of a unified input that is refused, by path."""
    with pytest.raises(InvalidInput) as raised:
        native(**given)
    return {error.path.removeprefix("input."): error.message for error in raised.value.errors}


@rows(
    ("model", "given"),
    [
        (STANDARD, {"duration": 4}),
        (STANDARD, {"duration": 15, "resolution": "4k"}),
        (STANDARD, {"prompt": "x" * PROMPT_MAX}),
        (STANDARD, {"prompt": "abc"}),
        (STANDARD, {"prompt": None}),
        (STANDARD, {"first_frame_url": "asset://asset-1", "last_frame_url": LAST}),
        (STANDARD, {"first_frame_url": None, "reference_image_urls": [IMAGE] * 9, "reference_video_urls": [VIDEO] * 3}),
        (f"{STANDARD}-fast", {"resolution": "720p"}),
        (NEWEST, {"duration": 30, "prompt": "x" * 30_000}),
        (NEWEST, {"duration": -1, "output_format": "mov", "nsfw_checker": True}),
        (NEWEST, {"first_frame_url": None, "reference_image_urls": [IMAGE] * 30, "reference_audio_urls": [VIDEO] * 10}),
        (KLING, {"duration": "3", "mode": "4K", "image_urls": [IMAGE, LAST]}),
        (KLING, {"duration": "15", "kling_elements": [{}] * 3}),
        (WAN_IMAGE, {"duration": 2, "seed": 0, "negative_prompt": "x" * 500}),
        (WAN_IMAGE, {"first_frame_url": None, "first_clip_url": VIDEO, "duration": 15, "seed": 2_147_483_647}),
        (WAN_TEXT, {"duration": 15, "ratio": "3:4", "audio_url": VIDEO}),
    ],
)
def test_each_limit_may_be_reached(model: str, given: dict[str, object]) -> None:
    """A value at a published limit is good."""
    assert complaints(model, **given) == {}


@rows(
    ("model", "given", "path"),
    [
        (STANDARD, {"duration": 3}, "duration"),
        (STANDARD, {"duration": 16}, "duration"),
        (STANDARD, {"duration": "5"}, "duration"),
        (STANDARD, {"duration": -1}, "duration"),
        (STANDARD, {"prompt": "ab"}, "prompt"),
        (STANDARD, {"prompt": "x" * (PROMPT_MAX + 1)}, "prompt"),
        (STANDARD, {"prompt": None, "first_frame_url": None}, "prompt"),
        (STANDARD, {"output_format": "mov"}, "output_format"),
        (STANDARD, {"nsfw_checker": True}, "nsfw_checker"),
        (STANDARD, {"reference_image_urls": [IMAGE]}, "first_frame_url"),
        (STANDARD, {"first_frame_url": None, "reference_image_urls": [IMAGE] * 10}, "reference_image_urls"),
        (STANDARD, {"first_frame_url": None, "reference_video_urls": [VIDEO] * 4}, "reference_video_urls"),
        (STANDARD, {"first_frame_url": None, "reference_audio_urls": [VIDEO] * 4}, "reference_audio_urls"),
        (STANDARD, {"first_frame_url": None, "last_frame_url": LAST}, "last_frame_url"),
        (STANDARD, {"first_frame_url": "https://10.0.0.1/a"}, "first_frame_url"),
        (STANDARD, {"first_frame_url": "asset://../a"}, "first_frame_url"),
        (f"{STANDARD}-fast", {"resolution": "1080p"}, "resolution"),
        (f"{STANDARD}-mini", {"resolution": "4k"}, "resolution"),
        (NEWEST, {"resolution": "4k"}, "resolution"),
        (NEWEST, {"duration": 31}, "duration"),
        (NEWEST, {"duration": 0}, "duration"),
        (NEWEST, {"prompt": "x" * 30_001}, "prompt"),
        (NEWEST, {"first_frame_url": None, "reference_image_urls": [IMAGE] * 31}, "reference_image_urls"),
        (NEWEST, {"first_frame_url": None, "reference_video_urls": [VIDEO] * 11}, "reference_video_urls"),
        (KLING, {"duration": 5}, "duration"),
        (KLING, {"duration": "2"}, "duration"),
        (KLING, {"duration": "16"}, "duration"),
        (KLING, {"mode": "4k"}, "mode"),
        (KLING, {"sound": None}, "sound"),
        (KLING, {"multi_prompt": None}, "multi_prompt"),
        (KLING, {"aspect_ratio": "4:3"}, "aspect_ratio"),
        (KLING, {"image_urls": [IMAGE] * 3}, "image_urls"),
        (KLING, {"image_urls": [IMAGE, "ftp://example.com/b"]}, "image_urls[1]"),
        (KLING, {"kling_elements": [{}] * 4}, "kling_elements"),
        (WAN_IMAGE, {"duration": 1}, "duration"),
        (WAN_IMAGE, {"duration": 16}, "duration"),
        (WAN_IMAGE, {"seed": -1}, "seed"),
        (WAN_IMAGE, {"seed": 2_147_483_648}, "seed"),
        (WAN_IMAGE, {"negative_prompt": "x" * 501}, "negative_prompt"),
        (WAN_IMAGE, {"prompt": "x" * 5001}, "prompt"),
        (WAN_IMAGE, {"first_frame_url": None}, "first_frame_url"),
        (WAN_IMAGE, {"resolution": "480p"}, "resolution"),
        (WAN_IMAGE, {"driving_audio_url": "http://localhost/a"}, "driving_audio_url"),
        (WAN_TEXT, {"ratio": "21:9"}, "ratio"),
        (WAN_TEXT, {"first_frame_url": IMAGE}, "first_frame_url"),
    ],
)
def test_each_limit_is_named(model: str, given: dict[str, object], path: str) -> None:
    """A value outside a published limit is refused under its own path, and nothing else is."""
    assert list(complaints(model, **given)) == [path]


def test_what_stands_outside_input_is_pointed_at() -> None:
    """A parameter at the top level, and Kinovi's `inputs`, are told their place."""
    errors = {error.path: error.message for error in KIE.check({"model": STANDARD, "prompt": "p", "inputs": {}})}
    assert errors["prompt"].endswith("did you mean input.prompt?")
    assert errors["inputs"].endswith("did you mean input?")


def test_an_input_becomes_seedance() -> None:
    """Frames have fields of their own, references others, and nothing that was not given is sent."""
    assert native(images=[IMAGE]) == {"model": STANDARD, "input": {"prompt": "slow push in", "first_frame_url": IMAGE}}
    assert native(images=[IMAGE], last_frame=LAST, duration_s=5, resolution="480p", audio=False)["input"] == {
        "prompt": "slow push in",
        "first_frame_url": IMAGE,
        "last_frame_url": LAST,
        "duration": 5,
        "resolution": "480p",
        "generate_audio": False,
    }
    references = [IMAGE, Reference(url=VIDEO, kind="video")]
    assert native(references=references, aspect_ratio="adaptive")["input"] == {
        "prompt": "slow push in",
        "aspect_ratio": "adaptive",
        "reference_image_urls": [IMAGE],
        "reference_video_urls": [VIDEO],
    }


def test_an_input_becomes_kling() -> None:
    """Seconds become text, the resolution a mode, and the required fields have the published defaults."""
    assert native(model=KLING) == {"model": KLING, "input": {**FLOW, "prompt": "slow push in"}}
    body = native(model=KLING, images=[IMAGE, LAST], duration_s=15, resolution="4k", aspect_ratio="1:1", audio=True)
    assert body["input"] == {
        "prompt": "slow push in",
        "duration": "15",
        "aspect_ratio": "1:1",
        "mode": "4K",
        "sound": True,
        "multi_shots": False,
        "multi_prompt": [],
        "image_urls": [IMAGE, LAST],
    }


def test_an_input_becomes_wan() -> None:
    """The aspect ratio of a text is `ratio`; seed and negative prompt are Wan's alone."""
    assert native(model=WAN_TEXT, aspect_ratio="9:16", seed=7, negative_prompt="blur")["input"] == {
        "prompt": "slow push in",
        "ratio": "9:16",
        "seed": 7,
        "negative_prompt": "blur",
    }
    assert native(model=WAN_IMAGE, images=[IMAGE], seed=7)["input"] == {**SEEDANCE, "seed": 7}


@rows(
    ("given", "paths"),
    [
        ({"seed": 7}, {"seed"}),
        ({"negative_prompt": "blur"}, {"negative_prompt"}),
        ({"model": KLING, "seed": 7}, {"seed"}),
        ({"model": KLING, "references": [IMAGE]}, {"references"}),
        ({"model": KLING, "resolution": "480p"}, {"resolution"}),
        ({"model": KLING, "duration_s": 16}, {"duration_s"}),
        ({"model": WAN_TEXT, "audio": True}, {"audio"}),
        ({"model": WAN_TEXT, "images": [IMAGE]}, {"images"}),
        ({"model": WAN_IMAGE, "images": [IMAGE], "aspect_ratio": "16:9"}, {"aspect_ratio"}),
        ({"model": WAN_IMAGE}, {"images"}),
        ({"images": [IMAGE], "references": [LAST]}, {"references", "images"}),
        ({"images": [IMAGE] * 3}, {"images"}),
    ],
)
def test_what_a_model_cannot_honour_is_refused(given: dict[str, object], paths: set[str]) -> None:
    """A unified field that the model has no place for is refused by its own name, never dropped."""
    assert set(refusals(**given)) == paths


def test_a_submission_is_accepted_refused_or_unclear() -> None:
    """The code in a 200 decides: 4xx and a closed feature mean that no task exists, a fault that one may."""
    said = KIE.read_submission(answer(200, recorded("kie", "answers", "submitted")))
    assert isinstance(said, Accepted)
    assert (said.report.provider_job_id, said.report.state) == ("task_bytedance_1765180586443", JobState.SUBMITTED)
    for code, class_, retryable in (
        (401, ErrorClass.AUTH, False),
        (402, ErrorClass.INSUFFICIENT_FUNDS, False),
        (433, ErrorClass.INSUFFICIENT_FUNDS, False),
        (400, ErrorClass.INVALID_INPUT, False),
        (422, ErrorClass.INVALID_INPUT, False),
        (429, ErrorClass.RATE_LIMITED, True),
        (455, ErrorClass.PROVIDER_ERROR, True),
        (505, ErrorClass.PROVIDER_ERROR, True),
    ):
        refused = KIE.read_submission(answer(200, {"code": code, "msg": "no", "data": None}))
        assert isinstance(refused, Refused), code
        assert (refused.error.class_, refused.error.retryable) == (class_, retryable), code
        assert refused.error.provider_code == str(code)
    for code in (408, 425, 500, 501):
        assert isinstance(KIE.read_submission(answer(200, {"code": code, "msg": "no", "data": None})), Unclear), code
        fault = {"code": code, "msg": "no", "data": {"taskId": "t"}}
        assert isinstance(KIE.read_submission(answer(200, fault)), Unclear), code


def test_a_refusal_for_its_content_is_one() -> None:
    """A text about content says more than a code of wrong parameters."""
    refused = KIE.read_submission(answer(200, {"code": 422, "msg": "The prompt was flagged", "data": None}))
    assert isinstance(refused, Refused)
    assert refused.error.class_ is ErrorClass.CONTENT_REJECTED


def test_a_task_that_has_no_record_yet_is_unknown() -> None:
    """In its first seconds kie has no record of a task; other codes say nothing of it."""
    for body in (recorded("kie", "answers", "error_not_yet"), {"code": 404, "msg": "no", "data": None}):
        with pytest.raises(JobUnknown):
            KIE.read_status(answer(200, body), NOW_MS)
    with pytest.raises(Unreadable, match="455") as raised:
        KIE.read_status(answer(200, recorded("kie", "answers", "error_maintenance")), NOW_MS)
    assert not isinstance(raised.value, JobUnknown)


def test_a_running_task_has_its_progress() -> None:
    """A task that is being made has neither outputs nor a cost."""
    report = KIE.read_status(answer(200, recorded("kie", "answers", "generating")), NOW_MS)
    assert (report.state, report.progress, report.cost, report.outputs) == (JobState.RUNNING, 35, None, ())


def test_a_result_is_read_from_its_string() -> None:
    """The URLs live 24 hours from the end, credits are the cost, and the last frame is an output of its own kind."""
    now_ms = 1_787_567_410_000
    report = KIE.read_callback(recorded("kie", "callbacks", "success"), now_ms)
    (output,) = report.outputs
    assert (output.url, output.expires_at) == (
        "https://tempfile.example.com/w/1787567408129.mp4",
        "2026-08-25T10:30:09.000Z",
    )
    assert report.cost == Cost(amount="61", unit="credits", kind="final")
    older = KIE.read_callback(recorded("kie", "callbacks", "success_older"), now_ms)
    assert [one.kind for one in older.outputs] == [OutputKind.VIDEO, OutputKind.LAST_FRAME]
    assert older.cost == report.cost


def test_a_result_may_be_an_object_or_missing_but_not_garbage() -> None:
    """A result that is not JSON, or is too long, is Unreadable, since the task may have one; no result is no output."""
    task = {"taskId": "t", "state": "success"}
    for none in (None, "", "{}", "null", '{"resultUrls":null}', '{"resultUrls":[7]}'):
        assert KIE.read_callback({"code": 200, "data": {**task, "resultJson": none}}, NOW_MS).outputs == ()
    for garbage in ("{", "x", "[" * 5000, " " * RESULT_MAX_CHARS + "{}"):
        with pytest.raises(Unreadable):
            KIE.read_callback({"code": 200, "data": {**task, "resultJson": garbage}}, NOW_MS)
    whole = json.dumps({"resultUrls": [VIDEO]}).ljust(RESULT_MAX_CHARS)
    for given in (whole, {"resultUrls": [VIDEO]}):
        assert KIE.read_callback({"data": {**task, "resultJson": given}}, NOW_MS).outputs[0].url == VIDEO
    failed = {"taskId": "t", "state": "fail", "resultJson": "{", "failCode": "501"}
    assert KIE.read_callback({"code": 501, "data": failed}, NOW_MS).state is JobState.FAILED


@rows(
    ("code", "text", "class_", "retryable"),
    [
        ("400", "bad", ErrorClass.CONTENT_REJECTED, False),
        ("501", "NSFW detected", ErrorClass.CONTENT_REJECTED, False),
        ("500", "Prohibited content", ErrorClass.CONTENT_REJECTED, False),
        ("501", "upstream broke", ErrorClass.PROVIDER_ERROR, True),
        ("408", "no answer", ErrorClass.TIMEOUT, True),
        (500, "internal", ErrorClass.PROVIDER_ERROR, True),
        (None, "it broke", ErrorClass.UNKNOWN, False),
    ],
)
def test_a_failed_task_has_a_class(code: object, text: str, class_: ErrorClass, retryable: bool) -> None:
    """`failCode` gives the class, unless the text is about a policy."""
    task = {"taskId": "t", "state": "fail", "failCode": code, "failMsg": text}
    report = KIE.read_callback({"code": 501, "msg": "Playground task failed.", "data": task}, NOW_MS)
    assert report.error is not None
    assert (report.error.class_, report.error.retryable, report.error.provider_message) == (class_, retryable, text)
    assert report.cost is None


def test_a_failure_without_a_reason_has_no_error() -> None:
    """Where kie gives no reason, relay does not make one up."""
    assert KIE.read_callback(recorded("kie", "callbacks", "fail_without_reason"), NOW_MS).error is None


def test_a_price_is_published_for_the_standard_model() -> None:
    """41 credits a second at 720p, 19 at 480p, fewer with a reference video; none for what has no table."""
    price = KIE.price({"model": STANDARD, "input": {"duration": 10, "resolution": "480p"}})
    assert price is not None
    assert (price.amount, price.unit, price.usd) == ("190.000000", "credits", "0.950000")
    default = KIE.price({"model": STANDARD, "input": {}})
    assert default is not None
    assert default.amount == "205.000000"
    video = KIE.price({"model": STANDARD, "input": {"reference_video_urls": [VIDEO], "resolution": "480p"}})
    assert video is not None
    assert video.amount == "57.500000"
    for model, given in ((STANDARD, {"resolution": "4k"}), (STANDARD, {"duration": 16}), (NEWEST, {}), (KLING, {})):
        assert KIE.price({"model": model, "input": given}) is None


def test_the_requests_are_as_published() -> None:
    """The task is created at one route and asked about at another, with its id in the query."""
    sent = KIE.submission({"model": STANDARD, "input": {}}, "https://relay.example.com/c", "job_1")
    assert (sent.method, sent.path) == ("POST", "/api/v1/jobs/createTask")
    assert sent.body == {"model": STANDARD, "input": {}, "callBackUrl": "https://relay.example.com/c"}
    assert KIE.status_check(asked("task_1")).path == "/api/v1/jobs/recordInfo?taskId=task_1"
    assert KIE.cancellation(asked("task_1")) is None
