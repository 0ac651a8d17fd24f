"""Ark's contract, from the pages of both regions and their SDKs: limits, roles, answers, errors, cancellation."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import InvalidInput, JobUnknown
from relay.model.job import Cost, ErrorClass, Input, JobError, JobState, Output, OutputKind, Reference, Report
from relay.model.provider_http import ProviderRequest
from relay.providers.ark import MODELS, ORIGINS, STANDARD, Ark
from relay.providers.base import Accepted, ModelLimits, Refused, SubmittedJob
from relay.providers.native import native_from_input
from tests.support.provider_cases import JOB_ID, NOW_MS, answer, recorded, without_known
from tests.support.rows import rows

ARK = Ark()
IMAGE = "https://example.com/a.png"
TASK = "cgt-20261127100000-x7k2p"
STANDARD_MODEL = STANDARD["world"]
NEWEST = "dreamina-seedance-2-5-260628"
TEXT: dict[str, Any] = {"type": "text", "text": "a kite over a harbour"}
CONTENT_OF = ("first_frame", "last_frame", "reference_image", "reference_video", "reference_audio")


def medium(role: str | None, url: str = IMAGE) -> dict[str, Any]:
    """Return one medium of the content; an image without a role for None."""
    kind = (
        "image_url"
        if role is None or ("_video" not in role and "_audio" not in role)
        else f"{role.partition('_')[2]}_url"
    )
    return {"type": kind, kind: {"url": url}} | ({} if role is None else {"role": role})


def complaints(*media: dict[str, Any], model: str = STANDARD_MODEL, **fields: object) -> dict[str, str]:
    """Return the errors of a request with these media and fields, by path."""
    request = {"model": model, "content": [TEXT, *media], **fields}
    return {error.path: without_known(error.message) for error in ARK.check(request)}


@rows(("model", "own"), MODELS.items())
def test_each_model_has_its_own_limits(model: str, own: ModelLimits) -> None:
    """Accept both ends of a model's limits, and name what is beyond them."""
    assert own.duration_s is not None
    assert own.resolutions is not None
    assert own.images is not None
    assert own.references is not None
    low, high = own.duration_s
    for seconds in (low, high):
        assert complaints(model=model, duration=seconds) == {}
    for seconds in (low - 1, high + 1):
        assert list(complaints(model=model, duration=seconds)) == ["duration"]
    automatic = "-2-" in model
    assert (complaints(model=model, duration=-1) == {}) is automatic
    for resolution in ("480p", "720p", "1080p", "4k"):
        assert (complaints(model=model, resolution=resolution) == {}) is (resolution in own.resolutions)
    frames = [medium("first_frame"), medium("last_frame")]
    assert (complaints(*frames, model=model) == {}) is (own.images[1] == 2)
    for role, most in zip(CONTENT_OF[2:], own.references, strict=True):
        assert complaints(*[medium(role)] * most, model=model) == {}
        message = f"may have at most {most} {role} for {model}, not {most + 1}"
        assert complaints(*[medium(role)] * (most + 1), model=model) == {"content": message}


@rows(
    ("field", "value", "models"),
    [
        ("frames", 57, "-1-0-"),
        ("draft", True, "-1-5-"),
        ("camera_fixed", True, "-1-"),
        ("output_format", "mov", "-2-5-"),
        ("omni_reference_task_type", "edit", "-2-5-"),
    ],
)
def test_a_field_of_some_models_is_no_field_of_the_others(field: str, value: object, models: str) -> None:
    """Accept a field for the models that have it, and name it for the others."""
    for model in MODELS:
        expected = {} if models in model else {field: f"is not a field of {model}"}
        assert complaints(model=model, **{field: value}) == expected, model


def test_sound_is_of_newer_models() -> None:
    """Refuse `generate_audio` for Seedance 1.0 alone."""
    for model in MODELS:
        assert (complaints(model=model, generate_audio=True) == {}) is ("-1-0-" not in model)


@rows(
    ("fields", "path", "message"),
    [
        ({"duration": "5"}, "duration", f'must be an integer from 4 to 15 for {STANDARD_MODEL}, not "5"'),
        ({"seed": -2}, "seed", "must be an integer from -1 to 4294967295, not -2"),
        ({"seed": 2**32}, "seed", "must be an integer from -1 to 4294967295, not 4294967296"),
        ({"priority": 10}, "priority", "must be an integer from 0 to 9, not 10"),
        (
            {"execution_expires_after": 3599},
            "execution_expires_after",
            "must be an integer from 3600 to 259200, not 3599",
        ),
        (
            {"execution_expires_after": 259_201},
            "execution_expires_after",
            "must be an integer from 3600 to 259200, not 259201",
        ),
        (
            {"safety_identifier": "x" * 65},
            "safety_identifier",
            "must be a string of 1 to 64 characters, not one of 65 characters",
        ),
        ({"ratio": "2:1"}, "ratio", None),
        ({"callback_url": IMAGE}, "callback_url", "is not a field here"),
        ({"prompt": "p"}, "prompt", None),
    ],
)
def test_each_limit_is_named(fields: dict[str, Any], path: str, message: str | None) -> None:
    """Refuse a value outside a published limit, with the limit."""
    found = complaints(**fields)
    assert list(found) == [path]
    assert message is None or found[path] == message


@rows(
    "fields",
    [{"seed": -1}, {"seed": 2**32 - 1}, {"priority": 0}, {"priority": 9}, {"safety_identifier": "x" * 64}],
)
def test_the_edges_are_good(fields: dict[str, Any]) -> None:
    """Accept both ends of every limit."""
    assert complaints(**fields) == {}


@rows(
    ("item", "path"),
    [
        (medium("first_frame", "https://10.0.0.1/a"), "content[1].image_url.url"),
        (medium("first_frame", "data:image/png;base64,AAAA"), "content[1].image_url.url"),
        (medium("first_frame", "asset://../a"), "content[1].image_url.url"),
        ({"type": "image_url", "role": "first_frame"}, "content[1].image_url"),
        ({**medium("first_frame"), "text": "x"}, "content[1].text"),
        ({**medium("first_frame"), "role": "reference_video"}, "content[1].role"),
        ({**TEXT, "role": "first_frame"}, "content[1].role"),
        ({"type": "video_url", "video_url": {"url": IMAGE}}, "content[1].role"),
        ({"type": "text"}, "content[1].text"),
        ({"type": "sound"}, "content[1].type"),
        ("text", "content[1]"),
    ],
)
def test_each_item_is_checked(item: Any, path: str) -> None:
    """Name the wrong part of an item of the content."""
    assert list(complaints(item)) == [path]


@rows(
    ("roles", "message"),
    [
        (["first_frame", "first_frame"], "may have at most 1 first_frame"),
        ([None, "first_frame"], "may have at most 1 first_frame"),
        (["last_frame"], "needs a first_frame with its last_frame"),
        (["first_frame", "reference_image"], "may have either frames or references, not both"),
        (["first_frame", "reference_audio"], "may have either frames or references, not both"),
    ],
)
def test_roles_exclude_each_other(roles: list[str | None], message: str) -> None:
    """Name roles that are not possible together."""
    assert complaints(*map(medium, roles))["content"] == message


def test_an_asset_of_the_account_is_a_medium() -> None:
    """Accept the id of an asset of up to 200 characters in place of a URL."""
    assert complaints(medium("first_frame", "asset://asset-20261127100000-x7k2p")) == {}
    assert complaints(medium("first_frame", "asset://" + "a" * 200)) == {}
    assert list(complaints(medium("first_frame", "asset://" + "a" * 201))) == ["content[1].image_url.url"]


def test_every_reference_has_room_and_is_checked() -> None:
    """Accept a text beside all references of Seedance 2.5, check the last of them too, and accept nothing more."""
    most = [medium("reference_image")] * 30 + [medium("reference_video")] * 10 + [medium("reference_audio")] * 9
    last = medium("reference_audio")
    assert complaints(*most, last, model=NEWEST) == {}
    bad = medium("reference_audio", "https://10.0.0.1/a")
    assert list(complaints(*most, bad, model=NEWEST)) == ["content[50].audio_url.url"]
    assert complaints(*most, last, TEXT, model=NEWEST) == {"content": "must be an array of 1 to 51 items, not 52"}
    assert ARK.check({"model": NEWEST, "content": []})[0].path == "content"


def test_the_newest_model_keeps_the_first_frames_ratio() -> None:
    """Require the ratio `adaptive` of Seedance 2.5 with a first frame, and choose it for an input without one."""
    message = f'must be "adaptive" for {NEWEST} with a first frame'
    assert complaints(medium(None), model=NEWEST, ratio="16:9") == {"ratio": message}
    for fields in ({"ratio": "adaptive"}, {}):
        assert complaints(medium("first_frame"), model=NEWEST, **fields) == {}
    assert complaints(model=NEWEST, ratio="16:9") == {}
    assert native_from_input(ARK, Input(images=[IMAGE], model=NEWEST))["ratio"] == "adaptive"
    assert "ratio" not in native_from_input(ARK, Input(prompt="p", model=NEWEST))
    with pytest.raises(InvalidInput) as raised:
        native_from_input(ARK, Input(images=[IMAGE], model=NEWEST, aspect_ratio="16:9"))
    assert [error.path for error in raised.value.errors] == ["input.aspect_ratio"]


def test_a_full_input_becomes_content() -> None:
    """Translate an input: the prompt and the frames by their roles, seconds as an integer."""
    given = Input(
        images=[IMAGE],
        last_frame="https://example.com/b.png",
        prompt="p",
        duration_s=5,
        resolution="720p",
        aspect_ratio="16:9",
        audio=True,
        seed=7,
    )
    assert native_from_input(ARK, given) == {
        "model": STANDARD_MODEL,
        "content": [
            {"type": "text", "text": "p"},
            medium("first_frame"),
            medium("last_frame", "https://example.com/b.png"),
        ],
        "resolution": "720p",
        "ratio": "16:9",
        "duration": 5,
        "generate_audio": True,
        "seed": 7,
    }


def test_references_have_their_roles() -> None:
    """Give each reference the role of its kind."""
    given = Input(references=[Reference(url=IMAGE, kind="audio"), IMAGE, Reference(url=IMAGE, kind="video")])
    request: dict[str, Any] = native_from_input(ARK, given)
    assert [one["role"] for one in request["content"]] == list(CONTENT_OF[2:])


def test_an_input_needs_something() -> None:
    """Refuse an input without a prompt and without media, and name the prompt."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(ARK, Input())
    assert [error.path for error in raised.value.errors] == ["input.prompt"]


def test_a_region_has_its_origin_and_its_model() -> None:
    """Choose the origin, and the model of an input that names none, by the region."""
    assert ORIGINS == {
        "world": "https://ark.ap-southeast.bytepluses.com",
        "china": "https://ark.cn-beijing.volces.com",
    }
    assert STANDARD == {"world": "dreamina-seedance-2-0-260128", "china": "doubao-seedance-2-0-260128"}
    for region, adapter in (("world", Ark("world")), ("china", Ark("china"))):
        assert adapter.base_url == ORIGINS[region]
        assert native_from_input(adapter, Input(prompt="p"))["model"] == STANDARD[region]


def job(provider_status: str, state: JobState = JobState.SUBMITTED) -> SubmittedJob:
    """Return a job whose provider said a moment ago that it has this status."""
    return SubmittedJob(job_id=JOB_ID, provider_job_id=TASK, state=state, provider_status=provider_status)


def test_requests_go_where_the_page_says() -> None:
    """Send the submission and the status check with the published methods and paths."""
    path = "/api/v3/contents/generations/tasks"
    body: dict[str, object] = {"model": STANDARD_MODEL, "content": [TEXT]}
    url = "https://relay.example.com/callbacks/ark/t"
    assert ARK.submission(body, url, JOB_ID) == ProviderRequest(
        method="POST", path=path, body={**body, "callback_url": url}
    )
    assert ARK.status_check(job("")) == ProviderRequest(method="GET", path=f"{path}/{TASK}")


@given(st.text(max_size=12) | st.sampled_from(["running", "succeeded", "failed", "expired", "cancelled", ""]))
def test_only_a_queued_task_is_deleted(provider_status: str) -> None:
    """Send DELETE for a task that was queued a moment ago, and for no other, whose record it would erase."""
    path = f"/api/v3/contents/generations/tasks/{TASK}"
    assert ARK.cancellation(job("queued")) == ProviderRequest(method="DELETE", path=path)
    if provider_status.strip().lower() != "queued":
        for state in JobState:
            assert ARK.cancellation(job(provider_status, state)) is None


def test_the_published_answer_is_read() -> None:
    """Read the id of a submission's answer, with and without what it repeats."""
    for name in ("submitted", "submitted_with_identifier"):
        report = Report(state=JobState.SUBMITTED, provider_status="", provider_job_id=TASK)
        assert ARK.read_submission(answer(200, recorded("ark", "answers", name))) == Accepted(report)


def test_a_success_has_its_results_and_its_tokens() -> None:
    """Read the video with its length and expiry, the last frame if there is one, and the tokens as the cost."""
    body = recorded("ark", "callbacks", "succeeded")
    read = ARK.read_callback(body, NOW_MS)
    video = Output(
        kind=OutputKind.VIDEO,
        url=body["content"]["video_url"],
        duration_s=5.0,
        expires_at="2026-09-22T14:13:20.000Z",
    )
    assert read == Report(
        state=JobState.SUCCEEDED,
        provider_status="succeeded",
        provider_job_id=TASK,
        outputs=(video,),
        cost=Cost(amount="108900", unit="tokens", kind="final"),
    )
    two = ARK.read_callback(recorded("ark", "callbacks", "succeeded_with_last_frame"), NOW_MS)
    assert [one.kind for one in two.outputs] == [OutputKind.VIDEO, OutputKind.LAST_FRAME]
    assert {one.expires_at for one in two.outputs} == {"2026-09-22T14:06:40.000Z"}  # counted from `updated_at`


@rows("updated_at", [None, 0, -1, 1_789_913_599, 1_790_000_001, 10**30, "x"])
def test_an_implausible_time_is_not_counted_from(updated_at: object) -> None:
    """Count a result's expiry from now if its time is older than a day or in the future."""
    body = recorded("ark", "callbacks", "succeeded") | {"updated_at": updated_at}
    assert ARK.read_callback(body, NOW_MS).outputs[0].expires_at == "2026-09-22T14:13:20.000Z"
    oldest = recorded("ark", "callbacks", "succeeded") | {"updated_at": 1_789_913_600}
    assert ARK.read_callback(oldest, NOW_MS).outputs[0].expires_at == "2026-09-21T14:13:20.000Z"


def test_a_failure_has_its_code() -> None:
    """Read the code of a failed task, and none of an open one with empty texts in `error`."""
    read = ARK.read_callback(recorded("ark", "callbacks", "failed"), NOW_MS)
    assert read.error is not None
    assert (read.error.class_, read.error.provider_code) == (
        ErrorClass.CONTENT_REJECTED,
        "OutputVideoSensitiveContentDetected",
    )
    assert ARK.read_callback(recorded("ark", "callbacks", "running"), NOW_MS).error is None
    assert ARK.read_callback(recorded("ark", "callbacks", "expired"), NOW_MS).state is JobState.EXPIRED


ERRORS = [
    (400, "MissingParameter.content", ErrorClass.INVALID_INPUT, False),
    (400, "InvalidParameter", ErrorClass.INVALID_INPUT, False),
    (400, "InvalidParameter.OversizedImage", ErrorClass.INVALID_INPUT, False),
    (400, "InvalidEndpoint.ClosedEndpoint", ErrorClass.PROVIDER_ERROR, False),
    (400, "SensitiveContentDetected.SevereViolation", ErrorClass.CONTENT_REJECTED, False),
    (400, "InputImageSensitiveContentDetected.PrivacyInformation", ErrorClass.CONTENT_REJECTED, False),
    (400, "InputTextRiskDetection", ErrorClass.CONTENT_REJECTED, False),
    (401, "AuthenticationError", ErrorClass.AUTH, False),
    (403, "AccountOverdueError", ErrorClass.INSUFFICIENT_FUNDS, False),
    (403, "OperationDenied.ServiceOverdue", ErrorClass.INSUFFICIENT_FUNDS, False),
    (403, "OperationDenied.ServiceNotOpen", ErrorClass.AUTH, False),
    (403, "OperationDenied.InvalidState", ErrorClass.PROVIDER_ERROR, False),
    (403, "AccessDenied", ErrorClass.AUTH, False),
    (404, "ModelNotOpen", ErrorClass.AUTH, False),
    (404, "InvalidEndpointOrModel.NotFound", ErrorClass.INVALID_INPUT, False),
    (429, "RateLimitExceeded.EndpointRPMExceeded", ErrorClass.RATE_LIMITED, True),
    (429, "ModelAccountTpmRateLimitExceeded", ErrorClass.RATE_LIMITED, True),
    (429, "ServerOverloaded", ErrorClass.RATE_LIMITED, True),
    (429, "QuotaExceeded", ErrorClass.INSUFFICIENT_FUNDS, False),
    (429, "SomethingElse", ErrorClass.RATE_LIMITED, True),
    (403, "SomethingElse", ErrorClass.AUTH, False),
]


@rows(("status_code", "code", "class_", "retryable"), ERRORS)
def test_a_refusal_is_classed_by_its_code(status_code: int, code: str, class_: ErrorClass, retryable: bool) -> None:
    """Class a refusal by its code, whose parts after a full stop may be unknown, and else by its status."""
    body = {"error": {"code": code, "message": "m", "param": "", "type": "t"}}
    read = ARK.read_submission(answer(status_code, body))
    assert isinstance(read, Refused)
    assert (read.error.class_, read.error.retryable) == (class_, retryable)
    assert (read.error.provider_code, read.error.code) == (code, f"http_{status_code}")


@rows(("status_code", "code", "class_", "retryable"), ERRORS[:-2])
def test_a_failed_task_is_classed_by_the_same_codes(
    status_code: int, code: str, class_: ErrorClass, retryable: bool
) -> None:
    """Class the error of a failed task, which comes with HTTP 200, by the same codes."""
    body = {"id": TASK, "status": "failed", "error": {"code": code, "message": f"m {status_code}"}}
    error = ARK.read_status(answer(200, body), NOW_MS).error
    assert isinstance(error, JobError)
    assert (error.class_, error.retryable) == (class_, retryable)


@given(st.text(max_size=60))
def test_any_code_has_a_class(code: str) -> None:
    """Read any code without an exception."""
    body = {"error": {"code": code, "message": "m"}}
    assert isinstance(ARK.read_submission(answer(400, msgspec.json.encode(body))), Refused)


def test_an_id_is_forgotten_after_a_week() -> None:
    """Read a 404 as a job that the provider does not know."""
    with pytest.raises(JobUnknown):
        ARK.read_status(answer(404, {"error": {"code": "ResourceNotFound", "message": "m"}}), NOW_MS)


@rows(
    ("fields", "usd"),
    [
        ({}, "0.750000"),
        ({"duration": 4, "resolution": "480p"}, "0.280000"),
        ({"duration": 15, "resolution": "4k"}, "11.700000"),
        ({"model": NEWEST, "duration": 30, "resolution": "1080p"}, "17.070000"),
        ({"model": NEWEST, "resolution": "4k"}, None),
        ({"duration": -1}, None),
        ({"duration": 16}, None),
        ({"service_tier": "flex"}, None),
        ({"content": [TEXT, medium("reference_video")]}, None),
        ({"content": [TEXT, medium("reference_image")]}, "0.750000"),
        ({"model": STANDARD["china"]}, None),
        ({"model": "ep-20261127-x7k2p"}, None),
    ],
)
def test_the_world_has_prices_by_the_second(fields: dict[str, Any], usd: str | None) -> None:
    """Compute the price in USD, and none where a video, a tier or a region makes another one."""
    price = ARK.price({"model": STANDARD_MODEL, "content": [TEXT]} | fields)
    assert (price and price.usd) == usd


@given(st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.lists(st.integers())))
def test_any_body_has_a_price_or_none(body: dict[str, Any]) -> None:
    """Compute the price of any body without an exception."""
    assert ARK.price(body) is None
