"""WaveSpeed's contract, from its published pages and client: models, envelopes, errors inside a 200, deletion."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import InvalidInput, JobUnknown, Unreadable
from relay.model.job import ErrorClass, Input, JobState, Report
from relay.providers.base import Accepted, Refused, SubmittedJob, Unclear
from relay.providers.native import native_from_input
from relay.providers.wavespeed import IMAGE, KLING, LIFETIME_S, MODELS, SEEDANCE, SEEDANCE_25, TEXT, VEO, WaveSpeed
from tests.support.provider_cases import NOW_MS, answer, bodies, json_values, recorded, without_known
from tests.support.rows import rows

WAVESPEED = WaveSpeed()
A, B = "https://example.com/a.png", "https://example.com/b.png"
ID = "45b392b22c3b449fa935bd4dc2219dfe"


def body_of(model: str, **fields: Any) -> dict[str, Any]:
    """Return a good body of a model, with these fields changed; None leaves one out."""
    body = {"model": model, "prompt": "slow push in", **dict.fromkeys(MODELS[model].frames[:1], A), **fields}
    return {name: value for name, value in body.items() if value is not None}


def complaints(model: str, **fields: Any) -> dict[str, str]:
    """Return the errors of a good body with these fields changed, by path."""
    return {error.path: without_known(error.message) for error in WAVESPEED.check(body_of(model, **fields))}


def read(body: object, status_code: int = 200) -> Report:
    """Return what a status answer says."""
    return WAVESPEED.read_status(answer(status_code, body), NOW_MS)


def task(**fields: Any) -> dict[str, Any]:
    """Return an envelope with a task."""
    return {"code": 200, "message": "success", "data": {"id": ID, "outputs": [], **fields}}


def job(provider_status: str = "", provider_job_id: str = ID) -> SubmittedJob:
    """Return a job of which the provider said this a moment ago."""
    return SubmittedJob(
        job_id="job_1", provider_job_id=provider_job_id, state=JobState.SUBMITTED, provider_status=provider_status
    )


@rows("model", MODELS)
def test_each_model_has_a_good_body(model: str) -> None:
    """A prompt and the first frame, where there is one, are enough for each model."""
    assert complaints(model) == {}


@rows(
    ("model", "fields", "path", "message"),
    [
        (f"{SEEDANCE}/{TEXT}", {"duration": 3}, "duration", "must be an integer from 4 to 15, not 3"),
        (f"{SEEDANCE}/{TEXT}", {"duration": 16}, "duration", "must be an integer from 4 to 15, not 16"),
        (f"{SEEDANCE_25}/{TEXT}", {"duration": 31}, "duration", "must be an integer from 4 to 30, not 31"),
        (f"{SEEDANCE}/{TEXT}", {"duration": "5"}, "duration", 'must be an integer from 4 to 30, not "5"'),
        (f"{KLING}-std/{TEXT}", {"duration": 2}, "duration", "must be an integer from 3 to 15, not 2"),
        (f"{KLING}-pro/{TEXT}", {"duration": 16}, "duration", "must be an integer from 3 to 15, not 16"),
        (f"{VEO}/{TEXT}", {"duration": 9}, "duration", "must be an integer from 4 to 8, not 9"),
        (
            f"{SEEDANCE}-fast/{TEXT}",
            {"resolution": "1080p"},
            "resolution",
            'must be one of "480p", "720p" for {}, not "1080p"',
        ),
        (
            f"{SEEDANCE}-turbo/{TEXT}",
            {"resolution": "480p"},
            "resolution",
            'must be one of "720p", "1080p" for {}, not "480p"',
        ),
        (f"{SEEDANCE}/{TEXT}", {"seed": 7}, "seed", "is not a field of {}"),
        (f"{SEEDANCE}/{TEXT}", {"image": A}, "image", "is not a field of {}"),
        (f"{SEEDANCE}/{IMAGE}", {"image": None}, "image", "is required for {}"),
        (f"{SEEDANCE}/{IMAGE}", {"enable_sync_mode": True}, "enable_sync_mode", "is not a field here"),
        (f"{SEEDANCE}/{IMAGE}", {"image": "http://10.0.0.1/a"}, "image", None),
        (f"{KLING}-std/{IMAGE}", {"aspect_ratio": "1:1"}, "aspect_ratio", "is not a field of {}"),
        (
            f"{KLING}-std/{IMAGE}",
            {"prompt": None},
            "prompt",
            "is required, or multi_prompt instead: exactly one of both",
        ),
        (
            f"{KLING}-std/{IMAGE}",
            {"prompt": None, "multi_prompt": [{}], "end_image": B},
            "end_image",
            "cannot be given with multi_prompt",
        ),
        (f"{KLING}-std/{IMAGE}", {"element_list": [{"image": "http://localhost/a"}]}, "element_list[0].image", None),
        (f"{VEO}/{TEXT}", {"aspect_ratio": "1:1"}, "aspect_ratio", 'must be one of "16:9", "9:16", not "1:1"'),
    ],
)
def test_each_limit_of_a_model_is_named(model: str, fields: dict[str, Any], path: str, message: str | None) -> None:
    """A value outside a published limit, a sibling's field, or a private URL is refused by name."""
    found = complaints(model, **fields)
    assert found.keys() == {path}
    assert message is None or found[path] == message.replace("{}", model)


@rows(
    ("model", "fields"),
    [
        (f"{SEEDANCE}/{IMAGE}", {"duration": 4, "last_image": B, "resolution": "1080p", "enable_web_search": True}),
        (f"{SEEDANCE}/{TEXT}", {"duration": 15, "aspect_ratio": "21:9"}),
        (f"{SEEDANCE_25}/{TEXT}", {"duration": 30, "seed": 7, "resolution": "1080p"}),
        (f"{KLING}-pro/{IMAGE}", {"duration": 3, "end_image": B, "sound": True, "cfg_scale": 0.5}),
        (f"{KLING}-pro/{TEXT}", {"duration": 15, "aspect_ratio": "9:16"}),
        (f"{VEO}/{IMAGE}", {"duration": 8, "resolution": "1080p", "seed": 0}),
    ],
)
def test_the_edges_are_good(model: str, fields: dict[str, Any]) -> None:
    """The last value within each limit passes."""
    assert complaints(model, **fields) == {}


@rows(
    ("fields", "native"),
    [
        ({}, {"model": f"{SEEDANCE}/{TEXT}"}),
        (
            {"images": [A], "last_frame": B, "duration_s": 5, "resolution": "1080p", "audio": True},
            {
                "model": f"{SEEDANCE}/{IMAGE}",
                "image": A,
                "last_image": B,
                "duration": 5,
                "resolution": "1080p",
                "generate_audio": True,
            },
        ),
        ({"images": [A], "aspect_ratio": "adaptive"}, {"model": f"{SEEDANCE}/{IMAGE}", "image": A}),
        (
            {"images": [A, B], "model": KLING, "resolution": "1080p", "audio": False, "negative_prompt": "blur"},
            {
                "model": f"{KLING}-pro/{IMAGE}",
                "image": A,
                "end_image": B,
                "sound": False,
                "negative_prompt": "blur",
            },
        ),
        ({"model": KLING, "aspect_ratio": "1:1"}, {"model": f"{KLING}-std/{TEXT}", "aspect_ratio": "1:1"}),
        ({"model": f"{KLING}-pro", "resolution": "1080p"}, {"model": f"{KLING}-pro/{TEXT}"}),
        ({"images": [A], "model": VEO, "seed": 7}, {"model": f"{VEO}/{IMAGE}", "image": A, "seed": 7}),
        ({"model": f"{SEEDANCE_25}/{TEXT}", "duration_s": 30}, {"model": f"{SEEDANCE_25}/{TEXT}", "duration": 30}),
    ],
)
def test_a_unified_input_becomes_the_body_of_a_model(fields: dict[str, Any], native: dict[str, Any]) -> None:
    """The frames and Kling's resolution choose the model; each model has its own field names."""
    assert native_from_input(WAVESPEED, Input(prompt="p", **fields)) == {"prompt": "p", **native}


@rows(
    ("fields", "path"),
    [
        ({"model": KLING, "resolution": "480p"}, "resolution"),
        ({"model": f"{KLING}-pro/{TEXT}", "resolution": "720p"}, "resolution"),
        ({"images": [A, B, A]}, "images"),
        ({"images": [A, B], "model": VEO}, "images"),
        ({"images": [A], "model": f"{SEEDANCE}/{TEXT}"}, "images[0]"),
        ({"seed": 7}, "seed"),
        ({"references": [A]}, "references"),
        ({"mode": "keyframe"}, "mode"),
        ({"negative_prompt": "blur"}, "negative_prompt"),
        ({"images": [A], "model": KLING, "aspect_ratio": "16:9"}, "aspect_ratio"),
        ({"model": "some-lab/new-model"}, "model"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_what_a_model_has_no_place_for_is_refused_by_its_unified_name(fields: dict[str, Any], path: str) -> None:
    """Nothing that was given is dropped: it is refused under the name that the client wrote."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(WAVESPEED, Input(**{"prompt": "p", **fields}))
    assert [error.path for error in raised.value.errors] == [f"input.{path}"]


def test_the_model_is_the_path_and_the_callback_url_a_parameter() -> None:
    """A submission has neither in its body; a status check has the quoted id."""
    given_body = body_of(f"{SEEDANCE}/{IMAGE}")
    sent = WAVESPEED.submission(given_body, "https://relay.example.com/callbacks/wavespeed/a.b", "job_1")
    assert (sent.method, sent.path) == (
        "POST",
        f"/api/v3/{SEEDANCE}/{IMAGE}?webhook=https%3A%2F%2Frelay.example.com%2Fcallbacks%2Fwavespeed%2Fa.b",
    )
    assert sent.body == {"prompt": "slow push in", "image": A}
    assert WAVESPEED.status_check(job(provider_job_id="a/../b")).path == "/api/v3/predictions/a%2F..%2Fb/result"
    assert WAVESPEED.authorization("k", 0) == "Bearer k"


def test_an_accepted_submission_is_a_task_in_an_envelope() -> None:
    """`created` is a job that waits."""
    said = WAVESPEED.read_submission(answer(200, recorded("wavespeed", "answers", "submitted")))
    assert isinstance(said, Accepted)
    assert (said.report.state, said.report.provider_job_id, said.report.provider_status) == (
        JobState.SUBMITTED,
        ID,
        "created",
    )


@rows(
    ("name", "status_code", "class_", "retryable"),
    [
        ("error_in_200", 200, ErrorClass.INVALID_INPUT, False),
        ("error_moderation", 200, ErrorClass.CONTENT_REJECTED, False),
        ("error_moderation", 400, ErrorClass.CONTENT_REJECTED, False),
        ("error_media", 400, ErrorClass.INVALID_INPUT, False),
        ("error_balance", 400, ErrorClass.INSUFFICIENT_FUNDS, False),
        ("error_balance", 403, ErrorClass.INSUFFICIENT_FUNDS, False),
        ("error_balance", 200, ErrorClass.INSUFFICIENT_FUNDS, False),
        ("error_unauthorized", 401, ErrorClass.AUTH, False),
        ("error_unauthorized", 200, ErrorClass.AUTH, False),
        ("error_not_found", 404, ErrorClass.INVALID_INPUT, False),
        ("error_rate", 429, ErrorClass.RATE_LIMITED, True),
        ("error_rate", 200, ErrorClass.RATE_LIMITED, True),
    ],
)
def test_a_refusal_is_read_by_its_code(name: str, status_code: int, class_: ErrorClass, retryable: bool) -> None:
    """A refusal in a 200 is one, and the code says more than the status."""
    said = WAVESPEED.read_submission(answer(status_code, recorded("wavespeed", "answers", name)))
    assert isinstance(said, Refused)
    assert (said.error.class_, said.error.retryable) == (class_, retryable)


def test_a_text_about_the_prompt_is_not_about_money() -> None:
    """A validation error that only mentions a balance keeps its class."""
    said = WAVESPEED.read_submission(answer(400, {"code": 1401, "message": "invalid value: white balance"}))
    assert isinstance(said, Refused)
    assert said.error.class_ is ErrorClass.INVALID_INPUT


@rows(
    "body",
    [
        {"code": 5004, "message": "timeout"},
        {"code": 5000, "message": "internal"},
        {"code": 500, "message": "internal"},
        {"code": "OK"},
        {"code": 200, "data": {}},
        {"code": 0},
    ],
)
def test_a_200_that_names_no_task_and_no_refusal_is_unclear(body: dict[str, Any]) -> None:
    """5004 says that the task goes on: relay does not treat it as refused, and does not send it again."""
    assert isinstance(WAVESPEED.read_submission(answer(200, body)), Unclear)


def test_a_task_with_an_error_code_is_still_a_task() -> None:
    """An id in the answer means that there is a job, whatever the code says."""
    said = WAVESPEED.read_submission(answer(200, {"code": 1403, "data": {"id": ID, "status": "created"}}))
    assert isinstance(said, Accepted)


@rows(
    ("status", "state"),
    [
        ("created", JobState.SUBMITTED),
        ("pending", JobState.SUBMITTED),
        ("processing", JobState.RUNNING),
        ("completed", JobState.SUCCEEDED),
        ("failed", JobState.FAILED),
        ("timeout", JobState.FAILED),
        ("cancelled", JobState.CANCELED),
        ("deleted", JobState.CANCELED),
        ("archived", None),
    ],
)
def test_each_status_has_its_state(status: str, state: JobState | None) -> None:
    """The documented words and those of the published client, in an envelope as in a callback."""
    assert read(task(status=status)).state is state
    assert WAVESPEED.read_callback({"id": ID, "status": status}, NOW_MS).state is state


@rows(
    ("fields", "class_", "retryable"),
    [
        ({"code": 1200, "error": "content moderation failed"}, ErrorClass.CONTENT_REJECTED, False),
        ({"code": 1401, "error": "invalid"}, ErrorClass.INVALID_INPUT, False),
        ({"code": 1403, "error": "task failed"}, ErrorClass.PROVIDER_ERROR, True),
        ({"code": 5003, "error": "unavailable"}, ErrorClass.PROVIDER_ERROR, True),
        ({"code": 5004, "error": "too slow"}, ErrorClass.TIMEOUT, True),
        ({"code": 200, "error": "", "status": "timeout"}, ErrorClass.TIMEOUT, True),
        ({"code": 200, "error": "x", "has_nsfw_contents": [False, True]}, ErrorClass.CONTENT_REJECTED, False),
        ({"error": "the frames differ"}, ErrorClass.UNKNOWN, False),
    ],
)
def test_a_failed_task_is_classed_by_its_code(fields: dict[str, Any], class_: ErrorClass, retryable: bool) -> None:
    """The task's own code and text decide; the envelope's 200 says nothing."""
    report = read(task(**{"status": "failed", **fields}))
    assert report.error is not None
    assert (report.state, report.error.class_, report.error.retryable) == (JobState.FAILED, class_, retryable)


@rows(
    ("codes", "class_", "retryable"),
    [
        ((1200,), ErrorClass.CONTENT_REJECTED, False),
        ((400, 404, 1400, 1401, 1402), ErrorClass.INVALID_INPUT, False),
        ((401, 403), ErrorClass.AUTH, False),
        ((402,), ErrorClass.INSUFFICIENT_FUNDS, False),
        ((429,), ErrorClass.RATE_LIMITED, True),
        ((1403, 1405, 5000, 5003), ErrorClass.PROVIDER_ERROR, True),
        ((5004,), ErrorClass.TIMEOUT, True),
        ((0, 200, 1404, 1999), ErrorClass.UNKNOWN, False),
    ],
)
def test_each_code_has_its_class(codes: tuple[int, ...], class_: ErrorClass, retryable: bool) -> None:
    """The published codes of a failed task; 0 and 200 are none."""
    for code in codes:
        error = read(task(status="failed", code=code, error="x")).error
        assert error is not None
        assert (error.class_, error.retryable) == (class_, retryable)
        assert error.provider_code == (None if code in (0, 200) else str(code))


@rows("status_code", [200, 400, 402, 403])
@rows("message", ["Insufficient credits", "account balance is 0", "no credit left", "please top up"])
def test_a_text_about_the_account_is_about_money(status_code: int, message: str) -> None:
    """The error of an empty account is not published: its text decides, with the statuses that it may have."""
    for code in (None, 400, 402, 403):
        said = WAVESPEED.read_submission(answer(status_code, {"code": code, "message": message}))
        if status_code == 200 and code is None:
            assert isinstance(said, Unclear)
        else:
            assert isinstance(said, Refused)
            assert said.error.class_ is ErrorClass.INSUFFICIENT_FUNDS
    said = WAVESPEED.read_submission(answer(401, {"code": 401, "message": message}))
    assert isinstance(said, Refused)
    assert said.error.class_ is ErrorClass.AUTH


@rows(
    ("model", "good"),
    [
        ("a/b", True),
        ("a/b/c/d/e/f", True),
        ("a/b/c/d/e/f/g", False),
        ("a", False),
        ("a/prediction", True),
        *(
            (f"a/{name}", False)
            for name in ("predictions", "media", "webhook", "balance", "models", "billing", "users")
        ),
        ("user/b", False),
    ],
)
def test_a_models_name_leads_to_a_model(model: str, good: bool) -> None:
    """Two to six segments are a model; nothing that leads to another route of the account is one."""
    assert (WAVESPEED.check_model({"model": model}) == []) == good


def test_a_flagged_task_without_a_result_has_failed() -> None:
    """`completed` with a flag and no output is rejected content, with an output it is a result."""
    flagged = read(task(status="completed", has_nsfw_contents=[True]))
    assert flagged.error is not None
    assert (flagged.state, flagged.error.class_) == (JobState.FAILED, ErrorClass.CONTENT_REJECTED)
    kept = read(task(status="completed", has_nsfw_contents=[True], outputs=["https://cdn.example.com/a.mp4"]))
    assert (kept.state, len(kept.outputs)) == (JobState.SUCCEEDED, 1)


def test_results_are_urls_or_objects_with_one() -> None:
    """Each output is a URL, once, that expires with the prediction."""
    url = "https://cdn.example.com/a.mp4"
    report = read(task(status="completed", outputs=[url, {"url": url}, {"url": "https://cdn.example.com/b.mp4"}, None]))
    assert [output.url for output in report.outputs] == [url, "https://cdn.example.com/b.mp4"]
    assert LIFETIME_S == 604_800
    assert {output.expires_at for output in report.outputs} == {"2026-09-28T14:13:20.000Z"}


def test_an_unknown_task_is_known_by_its_404_in_either_place() -> None:
    """The HTTP status or the code of a 200 without a task says that there is none."""
    for status_code in (404, 200):
        with pytest.raises(JobUnknown):
            read(recorded("wavespeed", "answers", "error_not_found"), status_code)
    with pytest.raises(Unreadable):
        read(recorded("wavespeed", "answers", "error_rate"))


@rows("status", ["created", "pending", "Created"])
def test_a_task_that_waits_may_be_deleted(status: str) -> None:
    """Deletion is asked for only before the task begins, and is no proof that it stopped."""
    sent = WAVESPEED.cancellation(job(status, "a/b"))
    assert sent is not None
    assert (sent.method, sent.path, sent.body) == ("DELETE", "/api/v3/predictions/a%2Fb", None)
    assert not WAVESPEED.canceled(answer(200, recorded("wavespeed", "answers", "deleted")))


@rows("status", ["", "processing", "completed", "failed", "timeout", "deleted", "odd"])
def test_a_task_that_has_begun_is_never_deleted(status: str) -> None:
    """A result that was paid for would be erased."""
    assert WAVESPEED.check_before_cancellation
    assert WAVESPEED.cancellation(job(status)) is None


@rows(
    ("model", "fields", "usd"),
    [
        (f"{SEEDANCE}-fast-turbo/{IMAGE}", {}, "0.600000"),
        (f"{SEEDANCE}-fast-turbo/{IMAGE}", {"duration": 5, "resolution": "720p"}, "0.600000"),
        (f"{SEEDANCE}-fast-turbo/{IMAGE}", {"duration": 6}, None),
        (f"{SEEDANCE}-fast-turbo/{IMAGE}", {"resolution": "1080p"}, None),
        (f"{SEEDANCE}-fast-turbo/{TEXT}", {}, None),
        (f"{SEEDANCE}/{IMAGE}", {}, None),
        (f"{KLING}-std/{IMAGE}", {"sound": False}, "0.420000"),
        (f"{KLING}-pro/{IMAGE}", {"sound": False, "duration": 5}, "0.560000"),
        (f"{KLING}-pro/{IMAGE}", {}, None),
        (f"{KLING}-pro/{IMAGE}", {"sound": True}, None),
        (f"{KLING}-pro/{IMAGE}", {"sound": False, "element_list": [{}]}, None),
        (f"{KLING}-pro/{IMAGE}", {"sound": False, "duration": 2}, None),
    ],
)
def test_a_price_is_published_or_unknown(model: str, fields: dict[str, Any], usd: str | None) -> None:
    """Only runs of five seconds have a published price, and of few models."""
    price = WAVESPEED.price(body_of(model, **fields))
    assert (None if price is None else price.usd) == usd


_names = st.sampled_from(["code", "message", "data", "id", "status", "error", "outputs", "has_nsfw_contents", "url"])
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, 200, 404, 1200, 1401, 5004])
    | st.text(max_size=8)
    | st.sampled_from(["completed", "failed", "created", "timeout", ID, "https://cdn.example.com/a.mp4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=5),
    max_leaves=15,
)
_bodies = st.dictionaries(_names, _values, max_size=7) | bodies


@given(_bodies)
def test_any_body_is_read_or_unreadable(body: dict[str, Any]) -> None:
    """No object under WaveSpeed's own names raises anything but Unreadable, wherever it comes."""
    raw = json.dumps(body).encode()
    said = WAVESPEED.read_submission(answer(200, raw))
    data = body.get("data")
    assert not (isinstance(said, Refused) and isinstance(data, dict) and data.get("id") == ID)
    assert isinstance(WAVESPEED.read_submission(answer(422, raw)), Refused)
    for called_back in (True, False):
        try:
            report = WAVESPEED.read_callback(body, NOW_MS) if called_back else read(raw)
        except Unreadable:
            continue
        assert not report.outputs or report.state is JobState.SUCCEEDED


@given(json_values)
def test_any_json_is_a_price_or_none(body: object) -> None:
    """No body makes the price raise."""
    assert WAVESPEED.price(body) is None
