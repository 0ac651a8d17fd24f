"""Kinovi's contract, from its published pages and its repository: two kinds of request, three kinds of callback."""

import copy

import pytest

from relay.errors import InvalidInput
from relay.model.job import Cost, ErrorClass, Input, JobError, JobState, Output, OutputKind, Report
from relay.model.provider_http import ProviderRequest
from relay.providers.base import Accepted, Refused
from relay.providers.kinovi import FAST, NEWEST, STANDARD, Kinovi
from relay.providers.native import native_from_input
from tests.support.provider_cases import JOB_ID, NOW_MS, answer, asked, recorded
from tests.support.rows import rows

KINOVI = Kinovi()
IMAGE = "https://example.com/a.png"
VIDEO = "https://static.kinovi.ai/generated/video.mp4"
TWO_WEEKS_LATER = "2026-10-05T14:13:20.000Z"
CREDITS = Cost(amount="200", unit="credits", kind="final")


def complaints(**inputs: object) -> dict[str, str]:
    """Return the errors of these inputs beside one image, by path; a None takes a field away."""
    given = {"urls": [IMAGE], **inputs}
    body = {"model": STANDARD, "inputs": {name: value for name, value in given.items() if value is not None}}
    return {error.path: error.message for error in KINOVI.check(body)}


DURATION = "must be an integer from 4 to 15 or a string with one, not "
SECONDS = f"must be an integer from 4 to 15 for {STANDARD}, not "


@rows(
    ("inputs", "path", "message"),
    [
        ({"duration": 3}, "inputs.duration", SECONDS + "3"),
        ({"duration": "16"}, "inputs.duration", SECONDS + "16"),
        ({"duration": "5s"}, "inputs.duration", DURATION + '"5s"'),
        ({"duration": 5.0}, "inputs.duration", DURATION + "5.0"),
        ({"duration": True}, "inputs.duration", DURATION + "true"),
        ({"duration": 10**400}, "inputs.duration", SECONDS + "so large a number"),
        ({"urls": [IMAGE] * 3}, "inputs.urls", "must be an array of 1 to 2 items, not 3"),
        ({"urls": []}, "inputs.urls", "must be an array of 1 to 2 items, not 0"),
        ({"urls": None}, "inputs.prompt", "is required without inputs.urls"),
        (
            {"imageUrls": [IMAGE], "prompt": "p"},
            "inputs.imageUrls",
            "cannot be given with inputs.urls: give one of them",
        ),
        (
            {"urls": None, "imageUrls": [IMAGE] * 3, "prompt": "p"},
            "inputs.imageUrls",
            "must be an array of 1 to 2 items in keyframe mode, not 3",
        ),
        (
            {"urls": None, "imageUrls": [IMAGE] * 10, "prompt": "p", "mode": "reference"},
            "inputs.imageUrls",
            f"must be an array of 0 to 9 items for {STANDARD}, not 10",
        ),
        ({"urls": None, "imageUrls": [IMAGE]}, "inputs.prompt", "is required without inputs.urls"),
        ({"prompt": "x" * 4001}, "inputs.prompt", "must be a string of at most 4000 characters, not 4001"),
        (
            {"urls": None, "imageUrls": [IMAGE], "prompt": "x" * 10_001},
            "inputs.prompt",
            "must be a string of at most 10000 characters, not 10001",
        ),
        ({"videoUrls": [VIDEO]}, "inputs.videoUrls", 'needs inputs.mode "reference"'),
        ({"audioUrls": [VIDEO], "mode": "keyframe"}, "inputs.audioUrls", 'needs inputs.mode "reference"'),
        (
            {"videoUrls": [VIDEO] * 4, "mode": "reference"},
            "inputs.videoUrls",
            f"must be an array of 0 to 3 items for {STANDARD}, not 4",
        ),
        (
            {"audioUrls": [VIDEO] * 4, "mode": "reference"},
            "inputs.audioUrls",
            f"must be an array of 0 to 3 items for {STANDARD}, not 4",
        ),
        ({"upscaleResolution": "8k"}, "inputs.upscaleResolution", 'must be one of "4k", not "8k"'),
        ({"bitrate_mode": "low"}, "inputs.bitrate_mode", 'must be one of "high", not "low"'),
        ({"seed": "7"}, "inputs.seed", 'must be an integer, not "7"'),
        ({"resolution": "720p"}, "inputs.resolution", "is not a field here; did you mean inputs.outputResolution?"),
        ({"aspect_ratio": "1:1"}, "inputs.aspect_ratio", "is not a field here; did you mean inputs.aspectRatio?"),
    ],
)
def test_each_limit_is_named(inputs: dict[str, object], path: str, message: str) -> None:
    """A value outside a published limit is refused with the limit."""
    assert complaints(**inputs) == {path: message}


def test_private_urls_are_named_one_by_one() -> None:
    """Each URL that is not public is named by its place."""
    found = complaints(urls=[IMAGE, "https://10.0.0.1/a"], videoUrls=["x"], mode="reference")
    assert list(found) == ["inputs.urls[1]", "inputs.videoUrls[0]"]


def test_what_stands_outside_inputs_is_pointed_at() -> None:
    """A parameter at the top level is told its place."""
    errors = KINOVI.check({"model": STANDARD, "prompt": "p", "urls": []})
    assert [(error.path, error.message) for error in errors] == [
        ("inputs", "is required"),
        ("prompt", "is not a field here; did you mean inputs.prompt?"),
        ("urls", "is not a field here; did you mean inputs.urls?"),
    ]


@rows(
    "inputs",
    [
        {"duration": 4},
        {"duration": "15"},
        {"urls": [IMAGE, IMAGE], "prompt": "x" * 4000, "mode": "keyframe"},
        {"urls": None, "imageUrls": [IMAGE, IMAGE], "prompt": "x" * 10_000},
        {
            "urls": None,
            "imageUrls": [IMAGE] * 9,
            "videoUrls": [VIDEO] * 3,
            "audioUrls": [VIDEO] * 3,
            "prompt": "p",
            "mode": "reference",
        },
        {"outputResolution": "4k", "generate_audio": False, "bitrate_mode": "high", "seed": 10792},
        {"upscaleResolution": "4k", "aspectRatio": "21:9"},
        {"urls": None, "prompt": "x" * 10_000},
    ],
)
def test_the_edges_are_good(inputs: dict[str, object]) -> None:
    """Both ends of every limit and both published spellings pass."""
    assert complaints(**inputs) == {}


def test_a_full_input_becomes_kinovis_words() -> None:
    """The unified request is translated, seconds as text."""
    given = Input(
        images=[IMAGE, IMAGE],
        prompt="p",
        duration_s=5,
        resolution="720p",
        aspect_ratio="16:9",
        audio=True,
        model=FAST,
        seed=7,
        mode="keyframe",
    )
    assert native_from_input(KINOVI, given) == {
        "model": FAST,
        "inputs": {
            "urls": [IMAGE, IMAGE],
            "prompt": "p",
            "duration": "5",
            "aspectRatio": "16:9",
            "mode": "keyframe",
            "outputResolution": "720p",
            "generate_audio": True,
            "seed": 7,
        },
    }


def test_some_values_are_spelled_differently() -> None:
    """`4k` is an upscale, `adaptive` is no ratio at all, and many references have their own name."""
    given = Input(images=[IMAGE], resolution="4k", aspect_ratio="adaptive")
    assert native_from_input(KINOVI, given)["inputs"] == {"urls": [IMAGE], "upscaleResolution": "4k"}
    given = Input(images=[IMAGE] * 3, prompt="p", mode="reference")
    assert native_from_input(KINOVI, given)["inputs"] == {"imageUrls": [IMAGE] * 3, "prompt": "p", "mode": "reference"}


def test_too_many_images_are_refused_in_the_clients_words() -> None:
    """Three images without the mode that takes them name `images`."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(KINOVI, Input(images=[IMAGE] * 3, prompt="p"))
    assert [(error.path, error.message) for error in raised.value.errors] == [
        ("input.images", "must be an array of 1 to 2 items, not 3")
    ]


def test_text_alone_makes_a_video() -> None:
    """Send a prompt without images, which it then needs."""
    assert native_from_input(KINOVI, Input(prompt="p", duration_s=5)) == {
        "model": STANDARD,
        "inputs": {"prompt": "p", "duration": "5"},
    }
    with pytest.raises(InvalidInput) as raised:
        native_from_input(KINOVI, Input())
    assert [error.path for error in raised.value.errors] == ["input.prompt"]


@rows(
    ("model", "inputs", "path"),
    [
        (FAST, {"outputResolution": "720p"}, None),
        (FAST, {"outputResolution": "1080p"}, "inputs.outputResolution"),
        (FAST, {"outputResolution": "4k"}, "inputs.outputResolution"),
        (FAST, {"upscaleResolution": "4k"}, None),
        (NEWEST, {"duration": 4}, None),
        (NEWEST, {"duration": 30}, None),
        (NEWEST, {"duration": 3}, "inputs.duration"),
        (NEWEST, {"duration": 31}, "inputs.duration"),
        (NEWEST, {"outputResolution": "1080p", "output_format": "mov"}, None),
        (NEWEST, {"outputResolution": "4k"}, "inputs.outputResolution"),
        (NEWEST, {"upscaleResolution": "4k"}, "inputs.upscaleResolution"),
        (NEWEST, {"urls": [IMAGE]}, "inputs.urls"),
        (NEWEST, {"imageUrls": [IMAGE] * 30, "videoUrls": [VIDEO] * 10, "audioUrls": [VIDEO] * 10}, None),
        (NEWEST, {"imageUrls": [IMAGE] * 31}, "inputs.imageUrls"),
        (NEWEST, {"videoUrls": [VIDEO] * 11}, "inputs.videoUrls"),
        (NEWEST, {"audioUrls": [VIDEO] * 11}, "inputs.audioUrls"),
        (NEWEST, {"imageUrls": [IMAGE] * 3, "mode": "keyframe"}, "inputs.imageUrls"),
        (NEWEST, {"prompt": "x" * 30_000}, None),
        (NEWEST, {"prompt": "x" * 30_001}, "inputs.prompt"),
    ],
)
def test_each_model_has_its_own_limits(model: str, inputs: dict[str, object], path: str | None) -> None:
    """Accept both ends of a model's own limits, and name what is beyond them."""
    errors = KINOVI.check({"model": model, "inputs": {"prompt": "p", **inputs}})
    assert [error.path for error in errors] == ([] if path is None else [path])


def test_the_newest_model_has_the_newer_body() -> None:
    """Translate an input for Seedance 2.5 into `imageUrls` and a number of seconds."""
    given = Input(images=[IMAGE], last_frame=VIDEO, prompt="p", duration_s=30, model=NEWEST)
    inputs = {"imageUrls": [IMAGE, VIDEO], "prompt": "p", "duration": 30}
    assert native_from_input(KINOVI, given) == {"model": NEWEST, "inputs": inputs}


def test_requests_go_where_the_page_says() -> None:
    """The submission and the status check have Kinovi's methods and paths."""
    body: dict[str, object] = {"model": STANDARD, "inputs": {"urls": [IMAGE]}}
    assert KINOVI.submission(body, "https://r.example/c", JOB_ID) == ProviderRequest(
        method="POST", path="/api/v1/jobs/createTask", body={**body, "callBackUrl": "https://r.example/c"}
    )
    assert KINOVI.status_check(asked("task_1")) == ProviderRequest(
        method="GET", path="/api/v1/jobs/recordInfo?taskId=task_1"
    )


def test_the_published_answer_is_read() -> None:
    """The flat answer gives the id; that it was taken is the answer itself."""
    assert KINOVI.read_submission(answer(200, recorded("kinovi", "answers", "submitted"))) == Accepted(
        Report(state=JobState.SUBMITTED, provider_status="", provider_job_id="task_d5ibgnwdlw8fe3zpptx9mp0f")
    )


def succeeded(url: str = VIDEO) -> Report:
    """Return the report of the published successes."""
    output = Output(kind=OutputKind.VIDEO, url=url, width=1280, height=720, expires_at=TWO_WEEKS_LATER)
    return Report(
        state=JobState.SUCCEEDED,
        provider_status="success",
        provider_job_id="task_clxxxxxx",
        outputs=(output,),
        cost=CREDITS,
    )


def failed(class_: ErrorClass, text: str, code: str | None = None) -> Report:
    """Return the report of the published failures: refunded, so without a cost."""
    error = JobError(
        class_=class_,
        code="failed",
        message=f"the provider reports: {text}",
        retryable=False,
        provider_code=code,
        provider_message=text,
    )
    return Report(state=JobState.FAILED, provider_status="fail", provider_job_id="task_clxxxxxx", error=error)


RULES = "Your input text violates platform rules. Please modify and try again."


@rows(
    ("name", "report"),
    [
        ("flat_success", succeeded("https://static.seedance2-pro.com/generated/video.mp4")),
        ("flat_fail", failed(ErrorClass.UNKNOWN, "Invalid prompt content")),
        ("envelope_state_success", succeeded()),
        ("envelope_state_fail", failed(ErrorClass.CONTENT_REJECTED, RULES, "2038")),
        ("envelope_status_success", succeeded()),
        ("envelope_status_fail", failed(ErrorClass.CONTENT_REJECTED, RULES, "2038")),
    ],
)
def test_every_published_callback_is_read(name: str, report: Report) -> None:
    """Each of the three forms gives exactly this report, whatever its envelope says."""
    assert KINOVI.read_callback(recorded("kinovi", "callbacks", name), NOW_MS) == report


def test_the_envelope_is_not_the_state() -> None:
    """A 500 around a success is a success, and a 200 around a failure is a failure."""
    body = copy.deepcopy(recorded("kinovi", "callbacks", "envelope_state_success"))
    body |= {"code": 500, "message": "error", "status": "fail"}
    assert KINOVI.read_callback(body, NOW_MS) == succeeded()
    assert (
        KINOVI.read_callback({"code": 200, "message": "success", "data": {"state": "fail"}}, NOW_MS).state
        is JobState.FAILED
    )
    assert KINOVI.read_callback({"state": "generating", "status": "success"}, NOW_MS).state is JobState.RUNNING


def test_the_last_frame_is_an_output_of_its_own() -> None:
    """The status answer's video and last frame both count, and both are gone two weeks after the job's end."""
    now_ms = 1_789_985_975_235 + 60_000
    report = KINOVI.read_status(answer(200, recorded("kinovi", "callbacks", "recordinfo_success")), now_ms)
    assert [(output.kind, output.width, output.expires_at) for output in report.outputs] == [
        (OutputKind.VIDEO, 1280, "2026-10-05T10:19:35.235Z"),
        (OutputKind.LAST_FRAME, None, "2026-10-05T10:19:35.235Z"),
    ]


@rows("time", [None, 0, -1, 1_789_985_975, 10**18, "soon", {}])
def test_an_implausible_time_is_not_believed(time: object) -> None:
    """Seconds, the future and nonsense are not when the job ended: the result lives from now."""
    body = {"state": "success", "completeTime": time, "output": [{"url": VIDEO}]}
    assert [output.expires_at for output in KINOVI.read_callback(body, NOW_MS).outputs] == [TWO_WEEKS_LATER]


@rows("given", [[VIDEO], VIDEO, {"url": VIDEO}, [{"url": VIDEO, "width": "x"}, {"url": VIDEO}, 5]])
def test_outputs_in_another_shape_are_read(given: object) -> None:
    """A bare URL, a bare object and repeated URLs give the one video."""
    report = KINOVI.read_callback({"status": "success", "output": given}, NOW_MS)
    assert [output.url for output in report.outputs] == [VIDEO]


def test_credits_are_reserved_until_the_end() -> None:
    """Credits of a running job are a reservation; of a failed one they are not shown, for it is refunded."""
    running = KINOVI.read_callback({"status": "generating", "creditsUsed": 160.5}, NOW_MS)
    assert running.cost == Cost(amount="160.5", unit="credits", kind="reserved")
    assert KINOVI.read_callback({"status": "fail", "creditsUsed": 200}, NOW_MS).cost is None


@rows(
    ("code", "class_", "retryable"),
    [
        ("2038", ErrorClass.CONTENT_REJECTED, False),
        (2038, ErrorClass.CONTENT_REJECTED, False),
        ("asset_review_failed", ErrorClass.CONTENT_REJECTED, False),
        ("InvalidParameter", ErrorClass.INVALID_INPUT, False),
        ("500", ErrorClass.PROVIDER_ERROR, True),
        ("4011", ErrorClass.UNKNOWN, False),
    ],
)
def test_each_published_task_error_has_its_class(code: object, class_: ErrorClass, retryable: bool) -> None:
    """A task's error code gives relay's class, and whether another try may do better."""
    error = KINOVI.read_callback({"state": "fail", "error": {"code": code, "message": "m"}}, NOW_MS).error
    assert error is not None
    assert (error.class_, error.retryable) == (class_, retryable)


@rows(
    ("status_code", "body", "class_", "text"),
    [
        (
            400,
            {"message": "Invalid inputs for model", "errors": [{"path": "duration"}, {"path": ["urls", 0]}, {}, None]},
            ErrorClass.INVALID_INPUT,
            "Invalid inputs for model (duration, urls.0)",
        ),
        (400, {"message": "Unknown model"}, ErrorClass.INVALID_INPUT, "Unknown model"),
        (401, {"message": "Invalid API Key"}, ErrorClass.AUTH, "Invalid API Key"),
        (
            402,
            recorded("kinovi", "answers", "error_insufficient_credits"),
            ErrorClass.INSUFFICIENT_FUNDS,
            "Insufficient credits (required: 200, available: 10)",
        ),
        (403, {"message": "API access not enabled"}, ErrorClass.AUTH, "API access not enabled"),
        (
            429,
            recorded("kinovi", "answers", "error_concurrency"),
            ErrorClass.RATE_LIMITED,
            "Concurrency limit reached (3). You have 3 tasks in progress… (limit: 3, current: 3)",
        ),
    ],
)
def test_each_published_refusal_has_its_class(status_code: int, body: object, class_: ErrorClass, text: str) -> None:
    """A refusal keeps Kinovi's words and the numbers beside them."""
    said = KINOVI.read_submission(answer(status_code, body))
    assert isinstance(said, Refused)
    assert (said.error.class_, said.error.provider_message) == (class_, text)
    assert said.error.retryable == (status_code == 429)
