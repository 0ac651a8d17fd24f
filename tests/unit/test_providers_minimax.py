"""MiniMax's two versions, from its published pages: limits, errors inside 200, the challenge, the file of V1."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.errors import InvalidInput, JobUnknown, Unreadable
from relay.model.job import Cost, ErrorClass, Input, JobState, Output, OutputKind, Reference, Report
from relay.model.provider_http import ProviderRequest
from relay.providers.base import Accepted, Refused, SubmittedJob, Unclear
from relay.providers.minimax import (
    CHALLENGE_MAX,
    CODES,
    H3,
    H3_MAX,
    HAILUO,
    HAILUO_02,
    HAILUO_FAST,
    MODELS,
    OLD_MODELS,
    MiniMax,
)
from relay.providers.native import native_from_input
from relay.providers.prices import Price
from tests.support.provider_cases import NOW_MS, answer, recorded, without_known
from tests.support.rows import rows

MINIMAX = MiniMax()
IMAGE = "https://example.com/a.png"
URL = "must be a public https or http URL of at most 2048 characters, without credentials; this "
SCHEME, HOST = "does not begin with https:// or http://", "has a host that is local, private or without a dot"
AN_HOUR_LATER = "2026-09-21T15:13:20.000Z"
RATIOS = '"21:9", "16:9", "4:3", "1:1", "3:4", "9:16"'
ONLY_02 = "is for MiniMax-Hailuo-02 at 768P and 1080P only"
OK = {"status_code": 0, "status_msg": "success"}


def complaints(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the errors of a body by path."""
    return {error.path: without_known(error.message) for error in MINIMAX.check(dict(body))}


def image(role: str | None = None, url: str = IMAGE) -> dict[str, Any]:
    """Return an image of `content`."""
    return {"type": "image_url", "image_url": {"url": url}} | ({} if role is None else {"role": role})


def video() -> dict[str, Any]:
    """Return a reference video of `content`."""
    return {"type": "video_url", "video_url": {"url": IMAGE}, "role": "reference_video"}


def audio() -> dict[str, Any]:
    """Return a reference audio of `content`."""
    return {"type": "audio_url", "audio_url": {"url": IMAGE}, "role": "reference_audio"}


def v2(*media: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a good V2 body with a prompt and these media; a None takes a field away."""
    body = {"model": H3, "content": [{"type": "text", "text": "p"}, *media], "resolution": "768P", "duration": 5}
    body |= ({} if media else {"ratio": "16:9"}) | fields
    return {name: value for name, value in body.items() if value is not None}


def v1(model: str = HAILUO, **fields: Any) -> dict[str, Any]:
    """Return a good V1 body; a None takes a field away."""
    body = {"model": model, "prompt": "p"} | fields
    return {name: value for name, value in body.items() if value is not None}


def job(request: dict[str, object], status: str = "", status_path: str | None = None) -> SubmittedJob:
    """Return a job with a native body and the status that MiniMax gave it a moment ago."""
    return SubmittedJob(
        job_id="job_1",
        provider_job_id="42/4",
        state=JobState.SUBMITTED,
        request=request,
        status_path=status_path,
        provider_status=status,
    )


@rows(
    ("body", "errors"),
    [
        (v2(), {}),
        (v2(duration=4), {}),
        (v2(duration=15), {}),
        (v2(duration=3), {"duration": "must be an integer from 4 to 15, not 3"}),
        (v2(duration=16), {"duration": "must be an integer from 4 to 15, not 16"}),
        (v2(duration=None), {"duration": "is required"}),
        (v2(model=H3_MAX, duration=5), {}),
        (v2(model=H3_MAX, duration=4), {"duration": "must be an integer from 5 to 15 for MiniMax-H3-Max, not 4"}),
        (v2(resolution="2K"), {}),
        (v2(resolution="480P"), {"resolution": 'must be one of "768P", "2K" for MiniMax-H3, not "480P"'}),
        (
            v2(model=H3_MAX, resolution="2K"),
            {"resolution": 'must be one of "480P", "768P" for MiniMax-H3-Max, not "2K"'},
        ),
        (v2(resolution="720p"), {"resolution": 'must be one of "2K", "480P", "768P", not "720p"'}),
        (v2(ratio=None), {"ratio": f"must be one of {RATIOS} for text-to-video"}),
        (v2(ratio="adaptive"), {"ratio": f"must be one of {RATIOS} for text-to-video"}),
        (v2(image(), ratio="16:9"), {}),
        (v2(image("reference_image"), ratio="1:1"), {}),
        (v2(model=H3_MAX, extra={"prompt_expansion_mode": "quality"}), {}),
        (v2(extra={"prompt_expansion_mode": "quality"}), {"extra": "is for MiniMax-H3-Max only"}),
        (v2(content=[{"type": "text", "text": "x" * 7000}]), {}),
        (
            v2(content=[{"type": "text", "text": "x" * 7001}]),
            {"content[0].text": "must be a string of 1 to 7000 characters, not one of 7001 characters"},
        ),
        (v2(content=[{"type": "text", "text": " "}]), {"content[0].text": "is required"}),
        (v2(content=[image()]), {"content": 'must have one item of the type "text", not 0'}),
        (v2({"type": "text", "text": "q"}, ratio="1:1"), {"content": 'must have one item of the type "text", not 2'}),
        (v2(image(), image("last_frame")), {}),
        (v2(image("last_frame")), {}),
        (v2(image(), image()), {"content": "must have at most 1 of the role first_frame, not 2"}),
        (v2(*[image("reference_image")] * 9, *[video()] * 3, *[audio()] * 3), {}),
        (v2(*[image("reference_image")] * 10), {"content": "must have at most 9 of the role reference_image, not 10"}),
        (v2(*[video()] * 4), {"content": "must have at most 3 of the role reference_video, not 4"}),
        (v2(*[audio()] * 4), {"content": "must have at most 3 of the role reference_audio, not 4"}),
        (v2(image(), audio()), {"content": "must have frames or references, not both"}),
        (
            v2(video() | {"role": "first_frame"}),
            {"content[1].role": "must be one of reference_video for video_url"},
        ),
        (v2({"type": "video_url", "role": "reference_video"}), {"content[1].video_url": "is required"}),
        (v2(image(url="mm_file://205258526306433")), {}),
        (v2(image(url="data:image/png;base64,iVBORw0KGgo=")), {}),
        (v2(image(url="mm_file://../x")), {"content[1].image_url.url": URL + SCHEME}),
        (v2(image(url="https://10.0.0.1/a")), {"content[1].image_url.url": URL + HOST}),
        (v2(seed=7), {"seed": "is not a field here"}),
    ],
)
def test_each_limit_of_v2(body: dict[str, Any], errors: dict[str, str]) -> None:
    """Accept the value at each limit, and name the one behind it."""
    assert complaints(body) == errors


@rows(
    ("body", "errors"),
    [
        (v1(duration=10, resolution="768P"), {}),
        (v1(duration=6, resolution="1080P"), {}),
        (v1(duration=10, resolution="1080P"), {"duration": "must be 6 with 1080P, not 10"}),
        (v1(duration=7), {"duration": "must be one of 6, 10, not 7"}),
        (v1("T2V-01", duration=6, resolution="720P"), {}),
        (v1("T2V-01", duration=10), {"duration": "must be 6 for T2V-01, not 10"}),
        (v1("T2V-01", resolution="768P"), {"resolution": 'must be one of "720P" for T2V-01, not "768P"'}),
        (v1(HAILUO_02, resolution="512P"), {}),
        (
            v1(resolution="512P"),
            {"resolution": 'must be one of "768P", "1080P" for MiniMax-Hailuo-2.3, not "512P"'},
        ),
        (v1(HAILUO_FAST, first_frame_image=IMAGE), {}),
        (v1(HAILUO_FAST), {"first_frame_image": "is required for MiniMax-Hailuo-2.3-Fast"}),
        (v1("I2V-01"), {"first_frame_image": "is required for I2V-01"}),
        (v1("T2V-01", first_frame_image=IMAGE), {"first_frame_image": "T2V-01 has no frames"}),
        (
            v1("S2V-01", first_frame_image=IMAGE, subject_reference=[{"type": "character", "image": [IMAGE]}]),
            {"first_frame_image": "S2V-01 has no frames"},
        ),
        (v1(HAILUO_02, first_frame_image=IMAGE, last_frame_image=IMAGE), {}),
        (
            v1(HAILUO_02, first_frame_image=IMAGE, last_frame_image=IMAGE, resolution="512P"),
            {"last_frame_image": ONLY_02},
        ),
        (v1(first_frame_image=IMAGE, last_frame_image=IMAGE), {"last_frame_image": ONLY_02}),
        (v1("S2V-01", subject_reference=[{"type": "character", "image": [IMAGE]}]), {}),
        (v1("S2V-01"), {"subject_reference": "is for S2V-01, which needs it"}),
        (
            v1("S2V-01", subject_reference=[{"type": "character", "image": ["ftp://a.example/b"]}]),
            {"subject_reference[0].image[0]": URL + SCHEME},
        ),
        (v1(prompt="x" * 2000), {}),
        (
            v1(prompt="x" * 2001),
            {"prompt": "must be a string of at most 2000 characters, not one of 2001 characters"},
        ),
        (v1(prompt=None), {"prompt": "is required"}),
        (v1(prompt=None, first_frame_image=IMAGE), {}),
        (v1(first_frame_image="https://localhost/a"), {"first_frame_image": URL + HOST}),
    ],
)
def test_each_limit_of_v1(body: dict[str, Any], errors: dict[str, str]) -> None:
    """Accept the value at each limit, and name the one behind it."""
    assert complaints(body) == errors


@rows("model", MINIMAX.limits.models)
def test_the_limits_of_a_model_are_its_rules(model: str) -> None:
    """Accept a model's own resolutions, lengths and frames, as `GET /v1/providers` shows them, and no others."""
    own = MINIMAX.limits.by_model[model]
    low, high = own.duration_s or MINIMAX.limits.duration_s
    assert own.images is None or own.images[0] <= own.images[1]
    fewest = own.images[0] if own.images else 0
    good: dict[str, Any] = {"first_frame_image": IMAGE} if fewest else {}
    if model == "S2V-01":
        good["subject_reference"] = [{"type": "character", "image": [IMAGE]}]

    assert own.resolutions is not None
    base = v2(model=model, resolution=own.resolutions[0]) if model in MODELS else v1(model, **good)
    for resolution in MINIMAX.limits.resolutions:
        assert bool(complaints(base | {"resolution": resolution})) == (resolution not in own.resolutions)
    for seconds in range(low - 1, high + 2):
        between = model in MODELS or seconds in (6, 10)
        assert bool(complaints(base | {"duration": seconds})) == (not (low <= seconds <= high and between))
    if model in OLD_MODELS:
        two = base | {"first_frame_image": IMAGE, "last_frame_image": IMAGE}
        assert bool(complaints(two)) == (own.images != (0, 2))


def test_the_page_has_the_published_prices() -> None:
    """Have a row for each model of V2 and resolution, and for each clip of V1, with the adapter's own price."""
    page = (Path(__file__).parents[2] / "docs" / "providers" / "minimax.md").read_text()

    def shown(price: Price | None, by: int) -> str:
        return "–" if price is None else f"{float(price.amount) / by:.4f}".rstrip("0")

    for model in MODELS:
        for resolution in ("768P", "2K", "480P"):
            price = MINIMAX.price(v2(model=model, resolution=resolution, duration=10))
            assert f"| `{model}` | `{resolution}` | {shown(price, 10)} |" in page
    for model in OLD_MODELS[:3]:
        for resolution in ("512P", "768P", "1080P"):
            clips = [shown(MINIMAX.price(v1(model, resolution=resolution, duration=s)), 1) for s in (6, 10)]
            assert f"| `{model}` | `{resolution}` | {' | '.join(clips)} |" in page


def test_the_body_decides_the_version_of_the_routes() -> None:
    """Submit and ask on the routes of the body's own version, and where a V1 report named its status."""
    for body, sent, asked in (
        (v2(), "/v2/video_generation", "/v2/query/video_generation/42%2F4"),
        (v1(), "/v1/video_generation", "/v1/query/video_generation?task_id=42%2F4"),
        (v2(model="MiniMax-H9"), "/v2/video_generation", "/v2/query/video_generation/42%2F4"),
        (v1("Hailuo-9"), "/v1/video_generation", "/v1/query/video_generation?task_id=42%2F4"),
    ):
        callback = {"callback_url": "https://relay.example/cb"}
        expected = ProviderRequest(method="POST", path=sent, body=body | callback)
        assert MINIMAX.submission(body, callback["callback_url"], "job_1") == expected
        assert MINIMAX.status_check(job(body)) == ProviderRequest(method="GET", path=asked)
    assert MINIMAX.status_check(job({})).path == "/v2/query/video_generation/42%2F4"
    adopted = MINIMAX.read_callback(recorded("minimax", "callbacks", "v1_processing"), NOW_MS)
    assert adopted.status_path == "/v1/query/video_generation?task_id=106916112212032"
    assert MINIMAX.status_check(job({}, status_path=adopted.status_path)).path == adopted.status_path


@rows(
    ("given", "body"),
    [
        (Input(prompt="p"), v2()),
        (
            Input(prompt="p", duration_s=15, resolution="2k", aspect_ratio="9:16"),
            v2(duration=15, resolution="2K", ratio="9:16"),
        ),
        (Input(prompt="p", images=[IMAGE]), v2(image("first_frame"))),
        (
            Input(prompt="p", images=[IMAGE], last_frame=IMAGE, aspect_ratio="adaptive"),
            v2(image("first_frame"), image("last_frame")),
        ),
        (
            Input(prompt="p", references=[IMAGE, Reference(url=IMAGE, kind="audio")], aspect_ratio="1:1"),
            v2(image("reference_image"), audio(), ratio="1:1"),
        ),
        (Input(prompt="p", references=[Reference(url=IMAGE, kind="video")]), v2(video())),
        (
            Input(prompt="p", model=HAILUO_02, images=[IMAGE, IMAGE], duration_s=6, resolution="768P"),
            v1(HAILUO_02, first_frame_image=IMAGE, last_frame_image=IMAGE, duration=6, resolution="768P"),
        ),
        (
            Input(prompt="p", model="S2V-01", references=[IMAGE]),
            v1("S2V-01", subject_reference=[{"type": "character", "image": [IMAGE]}]),
        ),
        (Input(prompt="p", model=HAILUO), v1()),
    ],
)
def test_an_input_becomes_a_body_of_its_models_version(given: Input, body: dict[str, Any]) -> None:
    """Translate frames and references into either version, with the fields that V2 requires."""
    assert native_from_input(MINIMAX, given) == body


@rows(
    ("given", "path"),
    [
        (Input(prompt="p", images=[IMAGE], aspect_ratio="16:9"), "input.aspect_ratio"),
        (Input(prompt="p", model=HAILUO, aspect_ratio="16:9"), "input.aspect_ratio"),
        (Input(prompt="p", images=[IMAGE] * 3), "input.images"),
        (Input(prompt="p", images=[IMAGE], references=[IMAGE]), "input.references"),
        (Input(prompt="p", model=HAILUO, references=[IMAGE]), "input.references"),
        (Input(prompt="p", resolution="1080p"), "input.resolution"),
        (Input(prompt="p", resolution="720p"), "input.resolution"),
        (Input(prompt="p", audio=True), "input.audio"),
        (Input(prompt="p", seed=7), "input.seed"),
        (Input(images=[IMAGE]), "input.prompt"),
        (Input(prompt="p", images=[IMAGE, "ftp://a.example/b"]), "input.images[1]"),
        (Input(prompt="p", references=[IMAGE, "ftp://a.example/b"]), "input.references[1]"),
    ],
)
def test_what_minimax_cannot_honour_is_named(given: Input, path: str) -> None:
    """Refuse a unified field that has no place, by its unified name."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(MINIMAX, given)
    assert path in [error.path for error in raised.value.errors]


V2_ERRORS = {
    400: "bad_request_error",
    401: "authorized_error",
    402: "insufficient_balance_error",
    422: "unprocessable_entity_error",
    429: "rate_limit_error",
}


@rows(
    ("code", "status_code", "class_", "retryable"),
    [
        (2013, 400, ErrorClass.INVALID_INPUT, False),
        (1042, 400, ErrorClass.INVALID_INPUT, False),
        (1004, 401, ErrorClass.AUTH, False),
        (2049, 401, ErrorClass.AUTH, False),
        (2038, 400, ErrorClass.AUTH, False),
        (1008, 402, ErrorClass.INSUFFICIENT_FUNDS, False),
        (2056, 429, ErrorClass.INSUFFICIENT_FUNDS, False),
        (1026, 422, ErrorClass.CONTENT_REJECTED, False),
        (1027, 422, ErrorClass.CONTENT_REJECTED, False),
        (1002, 429, ErrorClass.RATE_LIMITED, True),
        (1039, 429, ErrorClass.RATE_LIMITED, True),
        (1041, 429, ErrorClass.RATE_LIMITED, True),
    ],
)
def test_a_code_has_its_class_in_either_version(
    code: int, status_code: int, class_: ErrorClass, retryable: bool
) -> None:
    """Class a refusal by its code: of V1 inside HTTP 200, of V2 in brackets behind the text."""
    old = {"task_id": "", "base_resp": {"status_code": code, "status_msg": "m"}}
    new = {"type": "error", "error": {"type": V2_ERRORS[status_code], "message": f"m ({code})", "http_code": "1"}}
    for said in (MINIMAX.read_submission(answer(200, old)), MINIMAX.read_submission(answer(status_code, new))):
        assert isinstance(said, Refused)
        assert (said.error.class_, said.error.retryable, said.error.provider_code) == (class_, retryable, str(code))


@rows("status_code", list(V2_ERRORS))
def test_a_v2_error_without_a_code_is_classed_by_its_type(status_code: int) -> None:
    """Class a V2 refusal by its type if its text ends in no code."""
    kind = V2_ERRORS[status_code]
    said = MINIMAX.read_submission(answer(status_code, {"type": "error", "error": {"type": kind, "message": "m"}}))
    assert isinstance(said, Refused)
    assert said.error.class_ is CODES[kind].class_


@rows("code", [1000, 1001, 1024, 1033])
def test_a_fault_inside_minimax_may_have_made_the_job(code: int) -> None:
    """Call a submission unclear after a fault code inside 200, and after a 5xx."""
    body = {"task_id": "", "base_resp": {"status_code": code, "status_msg": "m"}}
    assert isinstance(MINIMAX.read_submission(answer(200, body)), Unclear)
    for status_code in (500, 529):
        assert isinstance(MINIMAX.read_submission(answer(status_code, {"type": "error", "error": {}})), Unclear)


def test_an_unreachable_callback_url_is_no_wrong_input() -> None:
    """Name relay's public URL if MiniMax did not get its challenge back."""
    said = MINIMAX.read_submission(answer(200, recorded("minimax", "answers", "v1_error_callback_url")))
    assert isinstance(said, Refused)
    assert (said.error.class_, said.error.retryable) == (ErrorClass.PROVIDER_ERROR, True)
    assert "RELAY_PUBLIC_URL" in said.error.message


@rows(
    ("name", "provider_job_id"),
    [
        ("v2_submitted", "424010985738629"),
        ("v1_submitted", "106916112212032"),
        ("v1_submitted_number", "106916112212032"),
    ],
)
def test_a_submission_is_accepted_with_its_id_as_text(name: str, provider_job_id: str) -> None:
    """Keep the id as text, where an old answer has a number too."""
    said = MINIMAX.read_submission(answer(200, recorded("minimax", "answers", name)))
    assert isinstance(said, Accepted)
    assert (said.report.state, said.report.provider_job_id) == (JobState.SUBMITTED, provider_job_id)


@rows(
    ("word", "state"),
    [
        *(("Preparing", JobState.SUBMITTED), ("Queueing", JobState.SUBMITTED), ("queued", JobState.SUBMITTED)),
        *(("Processing", JobState.RUNNING), ("processing", JobState.RUNNING), ("running", JobState.RUNNING)),
        *(("Success", JobState.SUCCEEDED), ("success", JobState.SUCCEEDED), ("succeeded", JobState.SUCCEEDED)),
        *(("Fail", JobState.FAILED), ("failed", JobState.FAILED)),
        *(("cancelled", JobState.CANCELED), ("expired", JobState.EXPIRED)),
    ],
)
def test_the_words_of_both_versions_have_their_states(word: str, state: JobState) -> None:
    """Read the words of V1 queries, V1 callbacks and V2."""
    assert MINIMAX.read_status(answer(200, {"task_id": "1", "status": word, "base_resp": OK}), NOW_MS).state is state
    assert MINIMAX.read_callback({"task": {"id": "1", "status": word}}, NOW_MS).state is state


VIDEO = Output(kind=OutputKind.VIDEO, url="https://cdn.example.com/out.mp4", duration_s=5.0, expires_at=AN_HOUR_LATER)


def test_a_v2_success_has_its_url_and_its_cost() -> None:
    """Read the URL of a V2 task, and its cost from the billed seconds."""
    report = MINIMAX.read_status(answer(200, recorded("minimax", "answers", "v2_succeeded")), NOW_MS)
    assert report == Report(
        state=JobState.SUCCEEDED,
        provider_status="succeeded",
        provider_job_id="424010985738629",
        outputs=(VIDEO,),
        cost=Cost(amount="0.65", unit="USD", kind="final"),
    )
    assert MINIMAX.result_request(job(v2()), report) is None


@rows(
    "usage",
    [
        {"total_seconds": 5, "input_seconds": 3, "input_image_count": 0},
        {"total_seconds": 5, "input_seconds": 0, "input_image_count": 6},
        {"total_seconds": "x"},
        {"total_seconds": -5},
        None,
    ],
)
def test_a_v2_cost_is_the_published_one_or_none(usage: object) -> None:
    """Give no cost where references had prices of their own, or no seconds are billed."""
    body = recorded("minimax", "answers", "v2_succeeded")
    body["task"]["usage"] = usage
    assert MINIMAX.read_status(answer(200, body), NOW_MS).cost is None


@rows("name", ["answers/v1_success", "callbacks/v1_success"])
def test_a_v1_success_names_the_file_to_ask_for(name: str) -> None:
    """Ask for the file of a V1 success in a second step, and take its URL."""
    kind, file = name.split("/")
    report = MINIMAX.read_status(answer(200, recorded("minimax", kind, file)), NOW_MS)
    assert (report.state, report.outputs) == (JobState.SUCCEEDED, ())
    asked = MINIMAX.result_request(job(v1()), report)
    assert asked == ProviderRequest(method="GET", path="/v1/files/retrieve?file_id=205258526306433")
    whole = MINIMAX.read_result(answer(200, recorded("minimax", "answers", "v1_file")), report, NOW_MS)
    assert [(one.url, one.expires_at) for one in whole.outputs] == [
        ("https://cdn.example.com/output.mp4?sign=1", AN_HOUR_LATER)
    ]
    assert (whole.state, whole.provider_job_id) == (JobState.SUCCEEDED, "106916112212032")


def test_a_files_id_cannot_leave_its_place() -> None:
    """Escape a file's id, and ask for no file that has no plausible id."""
    body = {"task_id": "1", "status": "Success", "file_id": "a/../b?c#d", "base_resp": OK}
    report = MINIMAX.read_status(answer(200, body), NOW_MS)
    assert report.result_path == "/v1/files/retrieve?file_id=a%2F..%2Fb%3Fc%23d"
    odd_ones: list[object] = ["", None, {}, "..", 1.5]
    for odd in odd_ones:
        assert MINIMAX.read_status(answer(200, body | {"file_id": odd}), NOW_MS).result_path is None
    assert MINIMAX.read_status(answer(200, body | {"status": "Fail"}), NOW_MS).result_path is None


@rows(
    ("status_code", "body"),
    [
        (200, {"base_resp": {"status_code": 2013, "status_msg": "invalid file_id"}}),
        (200, {"file": {"file_id": "1"}, "base_resp": OK}),
        (200, {"file": {"download_url": 5}}),
        (200, b"<html>"),
        (404, {"file": {"download_url": IMAGE}}),
        (500, b""),
    ],
)
def test_an_answer_without_the_files_url_is_no_result(status_code: int, body: object) -> None:
    """Raise Unreadable for an answer to the second step that has no URL."""
    report = MINIMAX.read_status(answer(200, recorded("minimax", "answers", "v1_success")), NOW_MS)
    with pytest.raises(Unreadable):
        MINIMAX.read_result(answer(status_code, body), report, NOW_MS)


def test_a_file_at_no_url_is_no_output() -> None:
    """Keep a text that is no URL out of the outputs."""
    report = MINIMAX.read_status(answer(200, recorded("minimax", "answers", "v1_success")), NOW_MS)
    whole = MINIMAX.read_result(answer(200, {"file": {"download_url": "javascript:alert(1)"}}), report, NOW_MS)
    assert (whole.outputs, whole.unusable) == ((), ("javascript:alert(1)",))


@rows(
    ("body", "class_", "code"),
    [
        (recorded("minimax", "callbacks", "v2_failed"), ErrorClass.CONTENT_REJECTED, "1026"),
        (recorded("minimax", "callbacks", "v1_failed"), ErrorClass.CONTENT_REJECTED, "1027"),
        (recorded("minimax", "answers", "v1_fail"), ErrorClass.CONTENT_REJECTED, "1027"),
        (
            {"task": {"id": "1", "status": "failed", "error": {"code": 1033, "message": "m"}}},
            ErrorClass.PROVIDER_ERROR,
            "1033",
        ),
        ({"task": {"id": "1", "status": "failed", "error": {"code": "77", "message": "m"}}}, ErrorClass.UNKNOWN, "77"),
    ],
)
def test_a_failed_task_is_classed_by_its_code(body: dict[str, Any], class_: ErrorClass, code: str) -> None:
    """Class a failed task of either version by its code."""
    error = MINIMAX.read_callback(body, NOW_MS).error
    assert error is not None
    assert (error.class_, error.provider_code) == (class_, code)


@rows(
    ("status_code", "body", "unknown"),
    [
        (200, {"task_id": "", "base_resp": {"status_code": 2013, "status_msg": "invalid task_id"}}, True),
        (400, {"type": "error", "error": {"type": "bad_request_error", "message": "invalid task_id (2013)"}}, True),
        (404, b"", True),
        (200, {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, False),
        (200, {"base_resp": {"status_code": "x", "status_msg": "m"}}, False),
        (400, {"type": "error", "error": {"message": "m"}}, False),
        (500, {"error": {"message": "invalid task_id"}}, False),
        (200, {"task": {"id": "1"}}, False),
    ],
)
def test_an_error_in_a_status_answer_has_no_status(status_code: int, body: object, unknown: bool) -> None:
    """Take no status from an error; MiniMax's own words say that a task is unknown."""
    with pytest.raises(Unreadable) as raised:
        MINIMAX.read_status(answer(status_code, body), NOW_MS)
    assert isinstance(raised.value, JobUnknown) == unknown


def test_only_a_queued_job_is_canceled() -> None:
    """Send the DELETE for a V2 job that MiniMax calls queued, and for no other: it would erase one that has ended."""
    assert MINIMAX.check_before_cancellation
    sent = MINIMAX.cancellation(job(v2(), "queued"))
    assert sent == ProviderRequest(method="DELETE", path="/v2/video_generation/42%2F4")
    for status in ("", "running", "succeeded", "failed", "cancelled", "expired", "odd"):
        assert MINIMAX.cancellation(job(v2(), status)) is None
    assert MINIMAX.cancellation(job(v1(), "queued")) is None


@rows(
    ("body", "reply"),
    [
        ({"challenge": "abc"}, {"challenge": "abc"}),
        ({"challenge": "", "type": "verify"}, {"challenge": ""}),
        ({"challenge": "x" * CHALLENGE_MAX}, {"challenge": "x" * CHALLENGE_MAX}),
        ({"challenge": "x" * (CHALLENGE_MAX + 1)}, None),
        ({"challenge": 5}, None),
        ({"challenge": {"a": 1}}, None),
        ({"challenge": "abc", "task_id": "1", "status": "success"}, None),
        ({"challenge": "abc", "task": {"id": "1"}}, None),
        ({}, None),
    ],
)
def test_only_a_challenge_is_given_back(body: dict[str, Any], reply: dict[str, Any] | None) -> None:
    """Give a challenge back as it came, and answer to nothing that is about a job."""
    assert MINIMAX.reply(body) == reply


@rows(
    ("body", "usd"),
    [
        (v2(), "0.400000"),
        (v2(resolution="2K", duration=15), "1.950000"),
        (v2(model=H3_MAX, resolution="480P"), "0.250000"),
        (v2(model=H3_MAX, resolution="2K"), None),
        (v2(*[image("reference_image")] * 5), "0.400000"),
        (v2(*[image("reference_image")] * 6), None),
        (v2(*[image("reference_image")] * 2, model=H3_MAX), "0.400000"),
        (v2(*[image("reference_image")] * 3, model=H3_MAX), None),
        (v2(video()), None),
        (v2(audio()), "0.400000"),
        (v2(duration=None), None),
        (v2(duration=16), None),
        (v1(), "0.280000"),
        (v1(duration=10), "0.560000"),
        (v1(resolution="1080P"), "0.490000"),
        (v1(resolution="1080P", duration=10), None),
        (v1(HAILUO_FAST, duration=10), "0.320000"),
        (v1(HAILUO_02, resolution="512P"), "0.100000"),
        (v1("T2V-01"), None),
        (None, None),
    ],
)
def test_a_price_is_the_published_one_or_none(body: Any, usd: str | None) -> None:
    """Give the published price of the seconds or of the clip; None where references or a model have another."""
    price = MINIMAX.price(body)
    assert (price.usd if price else None) == usd
