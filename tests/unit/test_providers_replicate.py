"""Replicate's contract, from its published pages: paths, limits, answers, callbacks, errors, prices."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import CallbackFieldReserved, InvalidInput, Unreadable
from relay.model.job import ErrorClass, Input, JobState, Output, OutputKind, Report
from relay.model.provider_http import ProviderRequest
from relay.providers.base import Accepted, Refused, SubmittedJob
from relay.providers.native import native_body, native_from_input, unknown_model
from relay.providers.replicate import KLING, SEEDANCE, SEEDANCE_25, SEEDANCE_FAST, VEO, VEO_FAST, Replicate
from tests.support.provider_cases import NOW_MS, answer, json_values, recorded, without_known
from tests.support.rows import rows

REPLICATE = Replicate()
IMAGE = "https://example.com/a.png"
LAST = "https://example.com/b.png"
URL = "https://relay.example.com/callbacks/replicate/t"
VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
AN_HOUR_LATER = "2026-09-21T15:13:20.000Z"
SHOT = '{"prompt":"a","duration":4}'
SHOTS = "[" + ",".join([SHOT] * 7) + "]"
JOB = SubmittedJob(job_id="job_1", provider_job_id="gm3qorzdhgbf", state=JobState.RUNNING)


def complaints(model: str = SEEDANCE, **inputs: object) -> dict[str, str]:
    """Return the errors of a good request with these parameters added or changed, by path."""
    return {
        error.path: without_known(error.message)
        for error in REPLICATE.check({"model": model, "input": {"prompt": "p", **inputs}})
    }


def refusals(given_input: Input) -> dict[str, str]:
    """Return the errors of a unified input, by the client's field."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(REPLICATE, given_input)
    return {error.path: error.message for error in raised.value.errors}


@rows(
    ("model", "inputs", "path", "message"),
    [
        (SEEDANCE, {"duration": 3}, "duration", "must be an integer from 4 to 15, or -1 (the model decides), not 3"),
        (SEEDANCE, {"duration": 16}, "duration", "must be an integer from 4 to 15, or -1 (the model decides), not 16"),
        (SEEDANCE, {"duration": 0}, "duration", "must be an integer from 4 to 15, or -1 (the model decides), not 0"),
        (
            SEEDANCE,
            {"duration": "5"},
            "duration",
            'must be an integer from 4 to 15, or -1 (the model decides), not "5"',
        ),
        (
            SEEDANCE,
            {"duration": True},
            "duration",
            "must be an integer from 4 to 15, or -1 (the model decides), not true",
        ),
        (
            SEEDANCE_25,
            {"duration": 31},
            "duration",
            "must be an integer from 4 to 30, or -1 (the model decides), not 31",
        ),
        (KLING, {"duration": 2}, "duration", "must be an integer from 3 to 15, not 2"),
        (KLING, {"duration": 16}, "duration", "must be an integer from 3 to 15, not 16"),
        (VEO, {"duration": 5}, "duration", "must be one of 4, 6, 8, not 5"),
        (SEEDANCE_FAST, {"resolution": "1080p"}, "resolution", None),
        (SEEDANCE_FAST, {"resolution": "4k"}, "resolution", None),
        (VEO, {"resolution": "4k"}, "resolution", 'must be one of "1080p", "720p", not "4k"'),
        (SEEDANCE, {"last_frame_image": LAST}, "last_frame_image", "needs input.image"),
        (KLING, {"end_image": LAST}, "end_image", "needs input.start_image"),
        (VEO, {"last_frame": LAST}, "last_frame", "needs input.image"),
        (
            SEEDANCE,
            {"image": IMAGE, "reference_images": [LAST]},
            "reference_images",
            "cannot be given with input.image",
        ),
        (
            SEEDANCE,
            {"reference_images": [IMAGE] * 10},
            "reference_images",
            "must be an array of at most 9 items, not 10",
        ),
        (
            SEEDANCE_25,
            {"reference_images": [IMAGE] * 31},
            "reference_images",
            "must be an array of at most 30 items, not 31",
        ),
        (SEEDANCE, {"image": "https://10.0.0.1/a"}, "image", None),
        (SEEDANCE, {"image": None}, "image", None),
        (SEEDANCE, {"reference_videos": ["file:///etc/passwd"]}, "reference_videos[0]", None),
        (SEEDANCE, {"webhook": URL}, "webhook", "is not a field here"),
        (SEEDANCE, {"prompt": ""}, "prompt", None),
        (SEEDANCE, {"prompt": "x" * 4001}, "prompt", None),
        (SEEDANCE_25, {"prompt": "x" * 2001}, "prompt", None),
        (SEEDANCE_25, {"prompt": ""}, "prompt", "is required without an image or a reference"),
        (KLING, {"prompt": "x" * 2501}, "prompt", None),
        (KLING, {"seed": 1}, "seed", None),
        (KLING, {"multi_prompt": "[]"}, "multi_prompt", None),
        (KLING, {"multi_prompt": SHOTS}, "multi_prompt", None),
        (KLING, {"multi_prompt": "[" * 9999}, "multi_prompt", None),
        (KLING, {"multi_prompt": "\ud800"}, "multi_prompt", None),
        (KLING, {"multi_prompt": '[{"prompt":"a"}]'}, "multi_prompt", None),
        (
            KLING,
            {"multi_prompt": f"[{SHOT}]", "duration": 5},
            "multi_prompt",
            "must have shots of 5 s together, not 4 s",
        ),
        (VEO, {"reference_images": [IMAGE], "duration": 6}, "duration", "must be 8 with input.reference_images"),
        (
            VEO,
            {"reference_images": [IMAGE], "aspect_ratio": "9:16"},
            "aspect_ratio",
            'must be "16:9" with input.reference_images',
        ),
        (VEO, {"reference_images": [IMAGE], "image": IMAGE, "last_frame": LAST}, "last_frame", None),
        (VEO_FAST, {"reference_images": [IMAGE]}, "reference_images", None),
        (VEO, {"reference_images": [IMAGE] * 4}, "reference_images", "must be an array of at most 3 items, not 4"),
    ],
)
def test_each_limit_is_named(model: str, inputs: dict[str, object], path: str, message: str | None) -> None:
    """A value outside a published limit is refused at its place, once."""
    found = complaints(model, **inputs)
    assert list(found) == [f"input.{path}"]
    assert message is None or found[f"input.{path}"] == message


@rows(
    ("model", "inputs"),
    [
        (SEEDANCE, {"duration": -1}),
        (SEEDANCE, {"duration": 4}),
        (SEEDANCE, {"duration": 15, "resolution": "4k"}),
        (SEEDANCE_25, {"duration": 30}),
        (SEEDANCE_25, {"prompt": "", "image": IMAGE}),
        (SEEDANCE_FAST, {"resolution": "720p"}),
        (SEEDANCE, {"image": IMAGE, "last_frame_image": LAST, "reference_images": []}),
        (SEEDANCE, {"reference_images": [IMAGE] * 9}),
        (KLING, {"duration": 3, "mode": "4k"}),
        (KLING, {"multi_prompt": f"[{SHOT}]"}),
        (KLING, {"multi_prompt": f"[{SHOT},{SHOT}]", "duration": 8}),
        (KLING, {"multi_prompt": "[" + ",".join([SHOT] * 6) + "]"}),
        (VEO, {"reference_images": [IMAGE] * 3, "duration": 8, "aspect_ratio": "16:9"}),
        (VEO_FAST, {"reference_images": [], "duration": 6}),
        (VEO_FAST, {"duration": 8, "seed": 7}),
        (SEEDANCE, {"prompt": "x" * 4000}),
    ],
)
def test_the_edges_are_good(model: str, inputs: dict[str, object]) -> None:
    """Both ends of every limit pass."""
    assert complaints(model, **inputs) == {}


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    """A model that relay does not know is an error of `model` alone, which lists the six known ones."""
    (error,) = REPLICATE.check({"model": "a/b", "input": {"prompt": "p"}})
    assert error.path == "model"
    assert all(f'"{known}"' in error.message for known in REPLICATE.limits.models)


@rows(
    ("given_input", "inputs"),
    [
        (
            Input(images=[IMAGE, LAST], prompt="p", duration_s=5, resolution="720p", audio=True, seed=1),
            {"prompt": "p", "image": IMAGE, "last_frame_image": LAST, "duration": 5, "resolution": "720p"}
            | {"generate_audio": True, "seed": 1},
        ),
        (Input(prompt="p", aspect_ratio="9:21"), {"prompt": "p", "aspect_ratio": "9:21"}),
        (
            Input(images=[IMAGE, LAST], prompt="p", model=KLING, resolution="1080p"),
            {"prompt": "p", "start_image": IMAGE, "end_image": LAST, "mode": "pro"},
        ),
        (
            Input(prompt="p", model=KLING, resolution="720p", aspect_ratio="9:16"),
            {"prompt": "p", "mode": "standard", "aspect_ratio": "9:16"},
        ),
        (Input(prompt="p", model=KLING, resolution="4k"), {"prompt": "p", "mode": "4k"}),
        (
            Input(images=[IMAGE, LAST], prompt="p", model=VEO, duration_s=6, audio=False),
            {"prompt": "p", "image": IMAGE, "last_frame": LAST, "duration": 6, "generate_audio": False},
        ),
    ],
)
def test_an_input_becomes_the_models_parameters(given_input: Input, inputs: dict[str, object]) -> None:
    """Each field of the unified input has the name that the model gives it."""
    model = given_input.model or SEEDANCE
    assert native_from_input(REPLICATE, given_input) == {"model": model, "input": inputs}


@rows(
    ("given_input", "fields"),
    [
        (Input(prompt="p", model=KLING, seed=1), {"input.seed"}),
        (Input(prompt="p", model=KLING, resolution="480p"), {"input.resolution"}),
        (Input(images=[IMAGE], prompt="p", model=KLING, aspect_ratio="1:1"), {"input.aspect_ratio"}),
        (Input(images=[IMAGE] * 3, prompt="p"), {"input.images"}),
        (Input(images=[IMAGE, "ftp://x"], prompt="p", mode="reference"), {"input.images[1]", "input.mode"}),
        (Input(prompt="p", model="a/b"), {"input.model"}),
        (Input(), {"input.prompt"}),
    ],
)
def test_what_a_model_has_no_parameter_for_is_refused(given_input: Input, fields: set[str]) -> None:
    """A field without a place is an error with the client's name, and is never left out silently."""
    assert set(refusals(given_input)) == fields


@rows(
    ("request_body", "path", "body"),
    [
        (
            {"model": SEEDANCE, "input": {"prompt": "p"}},
            f"/v1/models/{SEEDANCE}/predictions",
            {"input": {"prompt": "p"}},
        ),
        ({"version": VERSION, "input": {}}, "/v1/predictions", {"version": VERSION, "input": {}}),
        ({"version": "a/b", "input": {}}, "/v1/predictions", {"version": "a/b", "input": {}}),
        (
            {"model": f"a/b:{VERSION}", "input": {}},
            "/v1/predictions",
            {"version": f"a/b:{VERSION}", "input": {}},
        ),
    ],
)
def test_a_prediction_is_created_where_its_model_is(
    request_body: dict[str, object], path: str, body: dict[str, object]
) -> None:
    """A model stands in the path, a version in the body; the callback is asked for the end alone."""
    hook: dict[str, object] = {"webhook": URL, "webhook_events_filter": ["completed"]}
    assert REPLICATE.submission(request_body, URL, "job_1") == ProviderRequest(
        method="POST", path=path, body=body | hook
    )
    assert REPLICATE.submission(request_body, None, "job_1").body == body


@rows(
    "request_body",
    [
        {"model": "a/b"},
        {"model": "A.b-c_1/d"},
        {"model": f"a/b:{VERSION}"},
        {"version": VERSION},
        {"version": "a/b"},
        {"version": f"a/b:{VERSION}"},
    ],
)
def test_an_unknown_model_has_a_published_form(request_body: dict[str, object]) -> None:
    """A model or a version that relay does not know is sent as it is; its parameters are the provider's to check."""
    body = native_body(REPLICATE, {"request": request_body | {"input": {"anything": [1]}}})
    assert (body.errors, body.body) == ([], request_body | {"input": {"anything": [1]}})
    assert unknown_model(REPLICATE, body.body) == next(iter(request_body.values()))


@rows(
    ("request_body", "path"),
    [
        ({"model": "a"}, "model"),
        ({"model": "a/b/c"}, "model"),
        ({"model": "a/../b"}, "model"),
        ({"model": "a/.."}, "model"),
        ({"model": "../a/b"}, "model"),
        ({"model": "/a/b"}, "model"),
        ({"model": "a/b/"}, "model"),
        ({"model": "a/b?c=d"}, "model"),
        ({"model": "a/b#c"}, "model"),
        ({"model": "a/b%2F.."}, "model"),
        ({"model": "a/b:"}, "model"),
        ({"model": "a/b:c:d"}, "model"),
        ({"model": "a/b\n"}, "model"),
        ({"model": "a/é"}, "model"),
        ({"model": ["a/b"]}, "model"),
        ({"model": "a/" + "b" * 200}, "model"),
        ({"version": "a"}, "version"),
        ({"version": VERSION[:-1]}, "version"),
        ({"version": "a/b/c"}, "version"),
        ({"version": VERSION, "model": "a/b"}, "version"),
        ({"version": VERSION, "model": SEEDANCE}, "version"),
    ],
)
def test_a_model_cannot_name_another_path(request_body: dict[str, object], path: str) -> None:
    """A model with other segments, or with characters of a URL, is refused before anything is sent."""
    body = native_body(REPLICATE, {"request": request_body | {"input": {"prompt": "p"}}})
    assert f"request.{path}" in {error.path for error in body.errors}


def test_a_known_model_is_checked_under_either_name() -> None:
    """A known model in `version` has the same strict check as in `model`."""
    bad = {"input": {"prompt": "p", "duration": 99}}
    (by_model,) = REPLICATE.check({"model": SEEDANCE, **bad})
    body = native_body(REPLICATE, {"request": {"version": SEEDANCE, **bad}})
    assert [(one.path, one.message) for one in body.errors] == [(f"request.{by_model.path}", by_model.message)]


@rows("name", ["webhook", "webhook_events_filter", "webhookEventsFilter"])
def test_the_callbacks_own_fields_are_relays(name: str) -> None:
    """A client can set neither the callback URL nor which events it is for, or relay would wait for ever."""
    with pytest.raises(CallbackFieldReserved):
        native_body(REPLICATE, {"request": {"model": "a/b", "input": {}, name: ["start"]}})


def test_a_prediction_is_asked_about_and_canceled_by_its_id() -> None:
    """The status check and the cancellation have the published methods and paths."""
    path = "/v1/predictions/gm3qorzdhgbf"
    assert REPLICATE.status_check(JOB) == ProviderRequest(method="GET", path=path)
    assert REPLICATE.cancellation(JOB) == ProviderRequest(method="POST", path=f"{path}/cancel")


@rows(
    ("status_code", "body", "canceled", "too_late"),
    [
        (200, {"id": "a", "status": "canceled"}, True, False),
        (200, {"id": "a", "status": "aborted"}, True, False),
        (200, {"id": "a", "status": "succeeded", "output": IMAGE}, False, True),
        (200, {"id": "a", "status": "failed"}, False, True),
        (200, {"id": "a", "status": "processing"}, False, False),
        (200, {"id": "a", "status": "archived"}, False, False),
        (200, b"", False, False),
        (200, [], False, False),
        (404, {"id": "a", "status": "canceled"}, False, False),
        (500, {"status": "succeeded"}, False, False),
    ],
)
def test_only_a_canceled_prediction_is_canceled(
    status_code: int, body: object, *, canceled: bool, too_late: bool
) -> None:
    """The answer to a cancellation counts by the prediction's status, since a finished one is answered with 200 too."""
    response = answer(status_code, body)
    assert (REPLICATE.canceled(response), REPLICATE.too_late(response)) == (canceled, too_late)


def test_the_published_answer_is_read() -> None:
    """The answer to a submission, a 201, has the id."""
    assert REPLICATE.read_submission(answer(201, recorded("replicate", "answers", "submitted"))) == Accepted(
        Report(state=JobState.SUBMITTED, provider_status="starting", provider_job_id="gm3qorzdhgbfurvjtvhg6dckhu")
    )


@rows(
    ("name", "state", "word"),
    [
        ("succeeded", JobState.SUCCEEDED, "succeeded"),
        ("succeeded_list", JobState.SUCCEEDED, "succeeded"),
        ("failed", JobState.FAILED, "failed"),
        ("canceled", JobState.CANCELED, "canceled"),
        ("aborted", JobState.EXPIRED, "aborted"),
    ],
)
def test_every_recorded_callback_is_read(name: str, state: JobState, word: str) -> None:
    """Each end of a prediction has its state; success has the video, which lives for an hour."""
    report = REPLICATE.read_callback(recorded("replicate", "callbacks", name), NOW_MS)
    assert (report.state, report.provider_status) == (state, word)
    assert report.provider_job_id == "vcscvthbaxrm80cq9xqtcbaw4m"
    video = Output(
        kind=OutputKind.VIDEO,
        url="https://replicate.delivery/xezq/abc/tmp5v9d9dtm.mp4",
        expires_at=AN_HOUR_LATER,
    )
    assert report.outputs == ((video,) if state is JobState.SUCCEEDED else ())


def test_a_running_prediction_is_running() -> None:
    """A status answer during the run has no output."""
    report = REPLICATE.read_status(answer(200, recorded("replicate", "answers", "processing")), NOW_MS)
    assert (report.state, report.outputs) == (JobState.RUNNING, ())


def test_a_removed_output_is_said_to_be_removed() -> None:
    """A success without an output, whose data Replicate has removed, has a note of it for the timeline."""
    removed = recorded("replicate", "answers", "data_removed")
    report = REPLICATE.read_status(answer(200, removed), NOW_MS)
    assert (report.state, report.outputs, report.note) == (JobState.SUCCEEDED, (), "Replicate has removed the output")
    assert REPLICATE.read_status(answer(200, removed | {"data_removed": False}), NOW_MS).note is None


@rows(
    ("output", "urls"),
    [
        (IMAGE, [IMAGE]),
        ([IMAGE, IMAGE, LAST], [IMAGE, LAST]),
        ({"video": IMAGE, "frames": 3}, [IMAGE]),
        ([None, 5, "", "javascript:alert(1)", IMAGE], [IMAGE]),
        (None, []),
        ("a text of a language model", []),
        (7, []),
    ],
)
def test_an_output_is_any_url_in_its_place(output: object, urls: list[str]) -> None:
    """One URL is published; lists and objects of other models are read too, and texts that are no URL are not."""
    report = REPLICATE.read_callback({"id": "a", "status": "succeeded", "output": output}, NOW_MS)
    assert [one.url for one in report.outputs] == urls


@rows(
    ("text", "class_", "retryable", "code"),
    [
        ("The input was flagged as sensitive. (E005)", ErrorClass.CONTENT_REJECTED, False, "E005"),
        ("Prediction failed: E005", ErrorClass.CONTENT_REJECTED, False, "E005"),
        ("NSFW content detected", ErrorClass.CONTENT_REJECTED, False, None),
        ("rejected by the moderation", ErrorClass.CONTENT_REJECTED, False, None),
        ("violates our content policy", ErrorClass.CONTENT_REJECTED, False, None),
        ("Prediction timed out.", ErrorClass.TIMEOUT, True, None),
        ("timeout while waiting", ErrorClass.TIMEOUT, True, None),
        ("Director: unexpected error (E9243)", ErrorClass.PROVIDER_ERROR, True, "E9243"),
        ("CUDA out of memory", ErrorClass.PROVIDER_ERROR, True, None),
        ({"code": "E005", "message": "m"}, ErrorClass.CONTENT_REJECTED, False, "E005"),
    ],
)
def test_a_failure_is_classed_by_its_text(
    text: object, class_: ErrorClass, code: str | None, *, retryable: bool
) -> None:
    """A failed prediction has only a text: what is rejected, what timed out, and the rest is the provider's fault."""
    error = REPLICATE.read_callback({"id": "a", "status": "failed", "error": text}, NOW_MS).error
    assert error is not None
    assert (error.class_, error.retryable, error.provider_code) == (class_, retryable, code)


@rows(
    ("status_code", "name", "class_"),
    [
        (401, "error_unauthenticated", ErrorClass.AUTH),
        (402, "error_insufficient_credit", ErrorClass.INSUFFICIENT_FUNDS),
        (422, "error_invalid_input", ErrorClass.INVALID_INPUT),
        (429, "error_throttled", ErrorClass.RATE_LIMITED),
    ],
)
def test_every_recorded_refusal_has_its_class(status_code: int, name: str, class_: ErrorClass) -> None:
    """A problem is classed, with its text."""
    problem = recorded("replicate", "answers", name)
    said = REPLICATE.read_submission(answer(status_code, problem))
    assert isinstance(said, Refused)
    assert said.error.class_ is class_
    assert said.error.provider_message == problem["detail"]


@rows(
    ("detail", "class_"),
    [
        ("You have insufficient credit to run this model.", ErrorClass.INSUFFICIENT_FUNDS),
        (
            (
                "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests per minute "
                "with a burst of 1 requests while you have less than $5.0 in credit. Your rate limit resets in ~7s."
            ),
            ErrorClass.RATE_LIMITED,
        ),
    ],
)
def test_a_429_for_want_of_credit_is_no_rate_limit(detail: str, class_: ErrorClass) -> None:
    """The gate may answer 429 where the credit is missing; a limit that is low for want of credit is still a limit."""
    said = REPLICATE.read_submission(answer(429, {"detail": detail, "status": 429}))
    assert isinstance(said, Refused)
    assert said.error.class_ is class_


def test_a_problem_without_a_detail_has_its_title() -> None:
    """The title stands for a missing detail."""
    said = REPLICATE.read_submission(answer(403, {"title": "Forbidden", "status": 403}))
    assert isinstance(said, Refused)
    assert (said.error.class_, said.error.provider_message) == (ErrorClass.AUTH, "Forbidden")


@rows(
    ("status_code", "detail", "wait_s"),
    [
        (429, "Request was throttled. Your rate limit resets in ~30s.", 30),
        (429, "Your rate limit resets in 7s.", 7),
        (429, "Your rate limit resets in ~1.5s.", 1.5),
        (429, "Request was throttled.", None),
        (429, "Your rate limit resets in a while.", None),
        (503, "Your rate limit resets in ~30s.", None),
    ],
)
def test_the_pause_of_a_429_is_in_its_text(status_code: int, detail: str, wait_s: float | None) -> None:
    """The number in the text of a 429 is how long to wait."""
    assert REPLICATE.retry_after_s(answer(status_code, {"detail": detail})) == wait_s


@rows(
    ("model", "inputs", "usd"),
    [
        (SEEDANCE_25, {}, "1.156000"),
        (SEEDANCE_25, {"duration": 10, "resolution": "480p"}, "1.028000"),
        (SEEDANCE_25, {"duration": -1}, None),
        (SEEDANCE_25, {"resolution": "1080p"}, None),
        (SEEDANCE, {"duration": 5}, None),
        (KLING, {"duration": 5, "mode": "pro", "generate_audio": True}, "1.680000"),
        (KLING, {"duration": 5, "mode": "pro", "generate_audio": False}, "1.120000"),
        (KLING, {"duration": 5, "mode": "pro"}, None),
        (KLING, {"duration": 5, "mode": "4k"}, "2.100000"),
        (KLING, {"mode": "4k"}, None),
        (VEO, {"duration": 8, "generate_audio": True}, "3.200000"),
        (VEO, {"duration": 8}, None),
        (VEO_FAST, {"duration": 8, "generate_audio": True}, None),
    ],
)
def test_a_price_is_what_the_pages_say(model: str, inputs: dict[str, object], usd: str | None) -> None:
    """A price is known only where the model, its size and its length decide it; a default that no page has is none."""
    price = REPLICATE.price({"model": model, "input": inputs})
    assert (None if price is None else price.usd) == usd


@given(json_values, json_values, json_values)
def test_no_body_breaks_a_reader(output: object, error: Any, status: Any) -> None:
    """Any values in a prediction are read or unreadable, and any request has a price or none."""
    for word in (status, "succeeded", "failed"):
        body = {"id": "a", "status": word, "output": output, "error": error}
        try:
            assert msgspec.json.encode(REPLICATE.read_callback(body, NOW_MS))
        except Unreadable as unreadable:
            assert str(unreadable)  # noqa: PT017 -- either outcome is right
    for model in (KLING, VEO, SEEDANCE_25, error):
        assert REPLICATE.price({"model": model, "input": output}) is None or isinstance(output, dict)
    REPLICATE.price(output)
    REPLICATE.check({"model": status, "input": {"duration": output, "image": error, "reference_images": output}})
    for model in REPLICATE.limits.models:
        REPLICATE.check({"model": model, "input": output})
        REPLICATE.check({"model": model, "input": {"prompt": "p", "multi_prompt": status, "duration": error}})
        REPLICATE.check({"model": model, "input": {"reference_images": [IMAGE], "aspect_ratio": status}})


@given(st.text(max_size=60))
def test_a_path_has_only_the_models_own_segments(model: str) -> None:
    """A model that passes the check is a known one, so that no text of a client becomes another path."""
    if not REPLICATE.check({"model": model, "input": {"prompt": "p"}}):
        assert model in REPLICATE.limits.models


def test_the_work_for_a_list_has_a_limit() -> None:
    """A list of any length is one error of its length, and the URLs behind the limit are not read."""
    found = complaints(SEEDANCE, reference_images=["ftp://a"] * 20_000)
    assert found["input.reference_images"] == "must be an array of at most 9 items, not 20000"
    assert len(found) == 31
