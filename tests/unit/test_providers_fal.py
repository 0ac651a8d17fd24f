"""fal's contract, from its published pages and clients: models, routes, two-step results, errors, signatures."""

import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from relay.errors import InvalidInput, JobUnknown, Unreadable
from relay.model.job import ErrorClass, Input, JobState, Reference, Report
from relay.providers.base import Accepted, Refused, SubmittedJob, Unclear
from relay.providers.fal import (
    CODES,
    FIRST_LAST,
    H3,
    IMAGE,
    KLING,
    MODELS,
    REFERENCE,
    SEEDANCE,
    SEEDANCE_25,
    TEXT,
    TURBO,
    VEO,
    Fal,
)
from relay.providers.native import native_from_input
from relay.security.signatures import SignatureInvalid, is_signed_by
from tests.support.provider_cases import NOW_MS, answer, bodies, json_values, recorded, without_known
from tests.support.rows import rows

FAL = Fal()
A, B = "https://example.com/a.png", "https://example.com/b.png"
ID = "764cabcf-b745-4b3e-ae38-1200304cf45b"
ROUTE = f"/bytedance/seedance-2.0/requests/{ID}"
DONE = Report(state=JobState.SUCCEEDED, provider_status="COMPLETED", provider_job_id=ID)
BROKEN = Report(state=JobState.FAILED, provider_status="COMPLETED", provider_job_id=ID)
# The published headers of a webhook; the body is the first recorded callback's form, the key's seed is 0 to 31.
VECTOR_BODY = (
    b'{"request_id":"123e4567-e89b-12d3-a456-426614174000","gateway_request_id":"123e4567-e89b-12d3-a456-426614174000",'
    b'"status":"OK","payload":{"video":{"url":"https://v3b.fal.media/files/b/a/out.mp4","content_type":"video/mp4",'
    b'"file_name":"out.mp4","file_size":1234567},"seed":42}}'
)
VECTOR = {
    "x-fal-webhook-request-id": "123e4567-e89b-12d3-a456-426614174000",
    "x-fal-webhook-user-id": "user_1",
    "x-fal-webhook-timestamp": "1735689600",
    "x-fal-webhook-signature": "8c266754a731285e22e68dd72ec25480beeb6fdd1e3320074905cd36a6e193f1"
    "9eaa4b09987f278ad6852c17d4104beaf1af04d0a0be24cf783a90cf6ffac20a",
}
VECTOR_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().public_bytes_raw()


def body_of(model: str, **fields: Any) -> dict[str, Any]:
    """Return a good body of a model, with these fields changed; None leaves one out."""
    rules = MODELS[model]
    body = {"model": model, "prompt": "slow push in", **dict.fromkeys(rules.required, A), **fields}
    return {name: value for name, value in body.items() if value is not None}


def complaints(model: str, **fields: Any) -> dict[str, str]:
    """Return the errors of a good body with these fields changed, by path."""
    return {error.path: without_known(error.message) for error in FAL.check(body_of(model, **fields))}


def job(model: str = f"{SEEDANCE}/{IMAGE}", status_path: str | None = None, provider_job_id: str = ID) -> SubmittedJob:
    """Return a job of a model."""
    return SubmittedJob(
        job_id="job_1",
        provider_job_id=provider_job_id,
        state=JobState.SUBMITTED,
        request={"model": model},
        status_path=status_path,
    )


def read(name: str, status_code: int = 200) -> Report:
    """Return what a recorded status answer says."""
    return FAL.read_status(answer(status_code, recorded("fal", "answers", name)), NOW_MS)


def result(report: Report, name: str, status_code: int = 200) -> Report:
    """Return the whole report after a recorded answer in place of the result."""
    return FAL.read_result(answer(status_code, recorded("fal", "answers", name)), report, NOW_MS)


@rows("model", MODELS)
def test_each_model_has_a_good_body(model: str) -> None:
    """A prompt and the required frames are enough for each model."""
    assert complaints(model) == {}


@rows(
    ("model", "good", "bad", "message"),
    [
        (f"{SEEDANCE}/{TEXT}", "4", "3", 'must be "auto" or a string from "4" to "15", not "3"'),
        (f"{SEEDANCE}/{TEXT}", "15", "16", 'must be "auto" or a string from "4" to "15", not "16"'),
        (f"{SEEDANCE}/{TEXT}", "auto", 5, 'must be "auto" or a string from "4" to "15", not 5'),
        (f"{SEEDANCE_25}/{TEXT}", "30", "31", 'must be "auto" or a string from "4" to "30", not "31"'),
        (f"{SEEDANCE_25}/{TEXT}", "4", "04", 'must be "auto" or a string from "4" to "30", not "04"'),
        (f"{KLING}/pro/{TEXT}", "3", "2", 'must be a string from "3" to "15", not "2"'),
        (f"{KLING}/pro/{TEXT}", "15", "16", 'must be a string from "3" to "15", not "16"'),
        (f"{TURBO}/pro/{TEXT}", "3", "auto", 'must be a string from "3" to "15", not "auto"'),
        (VEO, "8s", "8", 'must be one of "4s", "6s", "8s", not "8"'),
        (VEO, "4s", "5s", 'must be one of "4s", "6s", "8s", not "5s"'),
        (f"{H3}/{TEXT}", 30, 31, "must be an integer from 1 to 30, not 31"),
        (f"{H3}/{TEXT}", 1, "5", 'must be an integer from 1 to 30, not "5"'),
    ],
)
def test_each_model_has_its_own_spelling_of_seconds(model: str, good: object, bad: object, message: str) -> None:
    """Accept both ends of the published seconds in the model's spelling, and name the limit behind them."""
    assert complaints(model, duration=good) == {}
    assert complaints(model, duration=bad) == {"duration": message}


@rows(
    ("model", "fields", "path", "message"),
    [
        (
            f"{SEEDANCE}/fast/{TEXT}",
            {"resolution": "1080p"},
            "resolution",
            'must be one of "480p", "720p" for {}, not "1080p"',
        ),
        (
            f"{SEEDANCE}/mini/{TEXT}",
            {"resolution": "4k"},
            "resolution",
            'must be one of "480p", "720p" for {}, not "4k"',
        ),
        (
            f"{SEEDANCE_25}/{TEXT}",
            {"resolution": "4k"},
            "resolution",
            'must be one of "480p", "720p", "1080p" for {}, not "4k"',
        ),
        (f"{SEEDANCE}/{TEXT}", {"seed": 7}, "seed", "is not a field of {}"),
        (f"{SEEDANCE}/{REFERENCE}", {"task": "editing"}, "task", "is not a field of {}"),
        (f"{SEEDANCE}/{TEXT}", {"image_url": A}, "image_url", "is not a field of {}"),
        (f"{SEEDANCE}/{IMAGE}", {"image_url": None}, "image_url", "is required for {}"),
        (f"{SEEDANCE}/{IMAGE}", {"image_urls": [A]}, "image_urls", "is not a field of {}"),
        (
            f"{SEEDANCE}/{REFERENCE}",
            {"image_urls": [A] * 10},
            "image_urls",
            "must be an array of at most 9 items for {}, not 10",
        ),
        (
            f"{SEEDANCE}/{REFERENCE}",
            {"video_urls": [A] * 4},
            "video_urls",
            "must be an array of at most 3 items for {}, not 4",
        ),
        (
            f"{SEEDANCE}/{REFERENCE}",
            {"audio_urls": [A] * 4},
            "audio_urls",
            "must be an array of at most 3 items for {}, not 4",
        ),
        (
            f"{SEEDANCE_25}/{REFERENCE}",
            {"video_urls": [A] * 11},
            "video_urls",
            "must be an array of at most 10 items for {}, not 11",
        ),
        (
            f"{SEEDANCE_25}/{REFERENCE}",
            {"audio_urls": [A] * 11},
            "audio_urls",
            "must be an array of at most 10 items for {}, not 11",
        ),
        (
            f"{SEEDANCE_25}/{REFERENCE}",
            {"image_urls": [A] * 31},
            "image_urls",
            "must be an array of at most 30 items for {}, not 31",
        ),
        (f"{KLING}/pro/{IMAGE}", {"aspect_ratio": "16:9"}, "aspect_ratio", "is not a field of {}"),
        (f"{KLING}/pro/{IMAGE}", {"image_url": A}, "image_url", "is not a field of {}"),
        (f"{TURBO}/pro/{IMAGE}", {"generate_audio": True}, "generate_audio", "is not a field of {}"),
        (f"{KLING}/4k/{TEXT}", {"prompt": None}, "prompt", "is required, or multi_prompt instead: exactly one of both"),
        (
            f"{KLING}/4k/{TEXT}",
            {"multi_prompt": [{"prompt": "p"}]},
            "prompt",
            "is required, or multi_prompt instead: exactly one of both",
        ),
        (
            f"{KLING}/4k/{TEXT}",
            {"prompt": None, "multi_prompt": [{"prompt": "p", "duration": "16"}]},
            "multi_prompt[0].duration",
            'must be a string from "1" to "15", not "16"',
        ),
        (VEO, {"aspect_ratio": "auto"}, "aspect_ratio", 'must be one of "16:9", "9:16" for {}, not "auto"'),
        (f"{VEO}/{FIRST_LAST}", {"last_frame_url": None}, "last_frame_url", "is required for {}"),
        (
            f"{VEO}/{IMAGE}",
            {"safety_tolerance": "7"},
            "safety_tolerance",
            'must be one of "1", "2", "3", "4", "5", "6", not "7"',
        ),
        (f"{H3}/{TEXT}", {"generate_audio": True}, "generate_audio", "is not a field here"),
    ],
)
def test_each_limit_of_a_model_is_named(model: str, fields: dict[str, Any], path: str, message: str) -> None:
    """A value outside a published limit, or a sibling's field, is refused by name."""
    assert complaints(model, **fields) == {path: message.replace("{}", model)}


@rows(
    ("model", "fields"),
    [
        (
            f"{SEEDANCE}/{TEXT}",
            {"resolution": "4k", "aspect_ratio": "auto", "bitrate_mode": "high", "end_user_id": "u"},
        ),
        (f"{SEEDANCE}/{REFERENCE}", {"image_urls": [A] * 9, "video_urls": [A] * 3, "audio_urls": [A] * 3}),
        (f"{SEEDANCE_25}/{REFERENCE}", {"image_urls": [A] * 30, "video_urls": [A] * 10, "task": "extension"}),
        (f"{SEEDANCE_25}/{IMAGE}", {"seed": 7, "resolution": "1080p"}),
        (f"{KLING}/4k/{TEXT}", {"prompt": None, "multi_prompt": [{"prompt": "p", "duration": "15"}], "elements": [{}]}),
        (f"{VEO}/{IMAGE}", {"aspect_ratio": "auto", "resolution": "4k"}),
        (f"{H3}/{IMAGE}", {"end_image_url": B, "resolution": "768P"}),
    ],
)
def test_the_edges_are_good(model: str, fields: dict[str, Any]) -> None:
    """The last value within each limit passes."""
    assert complaints(model, **fields) == {}


def test_private_urls_are_refused_wherever_they_stand() -> None:
    """Frames, references, and URLs inside Kling's elements must be public."""
    assert complaints(f"{SEEDANCE}/{IMAGE}", end_image_url="http://127.0.0.1/a").keys() == {"end_image_url"}
    assert complaints(f"{SEEDANCE}/{REFERENCE}", image_urls=[A, "ftp://a.example"]).keys() == {"image_urls[1]"}
    elements = [{"frontal_image_url": "https://10.0.0.1/a", "reference_image_urls": ["http://localhost/a", A]}]
    assert complaints(f"{KLING}/pro/{IMAGE}", elements=elements).keys() == {
        "elements[0].frontal_image_url",
        "elements[0].reference_image_urls[0]",
    }
    assert complaints(f"{SEEDANCE}/{IMAGE}", image_url="data:image/png;base64,AAAA").keys() == {"image_url"}


@rows(
    ("fields", "native"),
    [
        ({}, {"model": f"{SEEDANCE}/{TEXT}", "duration": "5"}),
        ({"images": [A]}, {"model": f"{SEEDANCE}/{IMAGE}", "image_url": A, "duration": "5"}),
        (
            {"images": [A, B], "duration_s": 15, "resolution": "4k", "aspect_ratio": "adaptive", "audio": False},
            {
                "model": f"{SEEDANCE}/{IMAGE}",
                "image_url": A,
                "end_image_url": B,
                "duration": "15",
                "resolution": "4k",
                "aspect_ratio": "auto",
                "generate_audio": False,
            },
        ),
        (
            {"references": [A, Reference(url=B, kind="video")], "model": SEEDANCE_25},
            {"model": f"{SEEDANCE_25}/{REFERENCE}", "image_urls": [A], "video_urls": [B], "duration": "5"},
        ),
        (
            {"images": [A], "last_frame": B, "model": f"{KLING}/pro", "negative_prompt": "blur"},
            {
                "model": f"{KLING}/pro/{IMAGE}",
                "start_image_url": A,
                "end_image_url": B,
                "negative_prompt": "blur",
            },
        ),
        (
            {"images": [A], "model": KLING, "resolution": "1080p", "duration_s": 3},
            {"model": f"{KLING}/pro/{IMAGE}", "start_image_url": A, "duration": "3"},
        ),
        ({"model": KLING, "aspect_ratio": "1:1"}, {"model": f"{KLING}/standard/{TEXT}", "aspect_ratio": "1:1"}),
        ({"model": f"{KLING}/4k", "resolution": "4k"}, {"model": f"{KLING}/4k/{TEXT}"}),
        ({"images": [A], "model": TURBO}, {"model": f"{TURBO}/standard/{IMAGE}", "image_url": A}),
        ({"model": VEO, "duration_s": 8, "seed": 7}, {"model": VEO, "duration": "8s", "seed": 7}),
        ({"images": [A], "model": VEO}, {"model": f"{VEO}/{IMAGE}", "image_url": A}),
        (
            {"images": [A, B], "model": f"{VEO}/fast"},
            {"model": f"{VEO}/fast/{FIRST_LAST}", "first_frame_url": A, "last_frame_url": B},
        ),
        (
            {"images": [A], "model": f"{H3}/{IMAGE}", "duration_s": 6, "resolution": "2K"},
            {"model": f"{H3}/{IMAGE}", "image_url": A, "duration": 6, "resolution": "2K"},
        ),
    ],
)
def test_a_unified_input_becomes_the_body_of_a_model(fields: dict[str, Any], native: dict[str, Any]) -> None:
    """The frames, the references and Kling's resolution choose the model; each model has its own field names."""
    assert native_from_input(FAL, Input(prompt="p", **fields)) == {"prompt": "p", **native}


@rows(
    ("fields", "path"),
    [
        ({"model": KLING, "resolution": "480p"}, "resolution"),
        ({"model": TURBO, "resolution": "4k"}, "resolution"),
        ({"model": f"{KLING}/pro/{TEXT}", "resolution": "720p"}, "resolution"),
        ({"model": KLING, "references": [A]}, "references"),
        ({"images": [A], "references": [B]}, "images[0]"),
        ({"mode": "reference"}, "mode"),
        ({"negative_prompt": "blur"}, "negative_prompt"),
        ({"images": [A, B, A]}, "images"),
        ({"images": [A, B], "model": TURBO}, "images"),
        ({"images": [A], "model": f"{SEEDANCE}/{TEXT}"}, "images[0]"),
        ({"seed": 7}, "seed"),
        ({"images": [A], "model": KLING, "aspect_ratio": "16:9"}, "aspect_ratio"),
        ({"model": f"{H3}/{TEXT}", "audio": True}, "audio"),
        ({"model": VEO, "duration_s": 5}, "duration_s"),
        ({"model": "some-lab/new-model"}, "model"),
        ({"prompt": None}, "prompt"),
    ],
)
def test_what_a_model_has_no_place_for_is_refused_by_its_unified_name(fields: dict[str, Any], path: str) -> None:
    """Nothing that was given is dropped: it is refused under the name that the client wrote."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(FAL, Input(**{"prompt": "p", **fields}))
    assert [error.path for error in raised.value.errors] == [f"input.{path}"]


def test_the_model_is_the_path_and_the_callback_url_a_parameter() -> None:
    """A submission has neither in its body, and leaves the given body as it was."""
    given = body_of(f"{SEEDANCE}/{IMAGE}")
    sent = FAL.submission(given, "https://relay.example.com/callbacks/fal/a.b?c=d&e", "job_1")
    assert (sent.method, sent.path) == (
        "POST",
        f"/{SEEDANCE}/{IMAGE}?fal_webhook=https%3A%2F%2Frelay.example.com%2Fcallbacks%2Ffal%2Fa.b%3Fc%3Dd%26e",
    )
    assert sent.body == {"prompt": "slow push in", "image_url": A}
    assert given["model"] == f"{SEEDANCE}/{IMAGE}"
    assert FAL.submission(given, None, "job_1").path == f"/{SEEDANCE}/{IMAGE}"
    assert FAL.authorization("id:secret", 0) == "Key id:secret"


def test_an_accepted_submission_names_its_status_route() -> None:
    """The answer has the id, and a status route that keeps only two segments of the model."""
    said = FAL.read_submission(answer(200, recorded("fal", "answers", "submitted")))
    assert isinstance(said, Accepted)
    assert (said.report.provider_job_id, said.report.state) == (ID, JobState.SUBMITTED)
    assert said.report.status_path == f"{ROUTE}/status"
    assert FAL.read_submission(answer(202, {"request_id": ID})) == Accepted(
        Report(state=JobState.SUBMITTED, provider_status="", provider_job_id=ID)
    )


@rows(
    "status_url",
    [
        f"https://queue.fal.run{ROUTE}",
        f"https://queue.fal.run{ROUTE}x/status",
        f"https://queue.fal.run/../a/b/requests/{ID}/status",
        f"https://queue.fal.run/a/%2e%2e/requests/{ID}/status",
        f"https://queue.fal.run/a//b/requests/{ID}/status",
        f"https://queue.fal.run/a/requests/{ID}/status",
        f"https://[queue.fal.run/a/b/requests/{ID}/status",
        f"/{'a/' * 600}requests/{ID}/status",
        f"https://queue.fal.run/a/{'b' * (1025 - len(f'/a//requests/{ID}/status'))}/requests/{ID}/status",
        "https://evil.example/steal",
        f"https://queue.fal.run/a\n/b/requests/{ID}/status",
        None,
        5,
        {},
    ],
)
def test_a_status_route_of_another_form_is_not_followed(status_url: object) -> None:
    """Only the path of the published form is kept, and never another host: otherwise the model gives the route."""
    said = FAL.read_submission(answer(200, {"request_id": ID, "status_url": status_url}))
    assert isinstance(said, Accepted)
    assert said.report.status_path is None
    longest = f"/a/{'b' * (1024 - len(f'/a//requests/{ID}/status'))}/requests/{ID}/status"
    kept = FAL.read_submission(answer(200, {"request_id": ID, "status_url": longest}))
    assert isinstance(kept, Accepted)
    assert kept.report.status_path == longest
    elsewhere = FAL.read_submission(
        answer(200, {"request_id": ID, "status_url": f"https://evil.example{ROUTE}/status?x=1"})
    )
    assert isinstance(elsewhere, Accepted)
    assert elsewhere.report.status_path == f"{ROUTE}/status"


@rows(
    ("model", "route"),
    [
        (f"{SEEDANCE}/{IMAGE}", "/bytedance/seedance-2.0"),
        (f"{KLING}/pro/{IMAGE}", "/fal-ai/kling-video"),
        (VEO, "/fal-ai/veo3.1"),
        ("workflows/someone/pipeline/v1", "/workflows/someone/pipeline"),
        ("comfy/someone/graph", "/comfy/someone/graph"),
        ("../admin", ""),
        ("", ""),
    ],
)
def test_follow_up_routes_keep_the_owner_and_the_alias(model: str, route: str) -> None:
    """Status, result and cancellation are at two segments of the model, three in the shared namespaces."""
    asked = job(model)
    assert FAL.status_check(asked).path == f"{route}/requests/{ID}/status?logs=0"
    fetched, canceled = FAL.result_request(asked, DONE), FAL.cancellation(asked)
    assert fetched is not None
    assert canceled is not None
    assert (fetched.method, fetched.path) == ("GET", f"{route}/requests/{ID}")
    assert (canceled.method, canceled.path, canceled.body) == ("PUT", f"{route}/requests/{ID}/cancel", None)


def test_a_stored_status_route_is_used_for_its_own_id_only() -> None:
    """The path that the submission named counts, unless the job has another id by now."""
    assert FAL.status_check(job(VEO, f"{ROUTE}/status")).path == f"{ROUTE}/status?logs=0"
    assert FAL.status_check(job(VEO, f"{ROUTE}/status", "other")).path == "/fal-ai/veo3.1/requests/other/status?logs=0"


@rows(
    ("name", "status_code", "state"),
    [
        ("in_queue", 202, JobState.SUBMITTED),
        ("in_progress", 202, JobState.RUNNING),
        ("completed", 200, JobState.SUCCEEDED),
        ("completed_with_error", 200, JobState.FAILED),
    ],
)
def test_three_statuses_have_four_meanings(name: str, status_code: int, state: JobState) -> None:
    """A completed job with an error has failed; 200 and 202 count alike."""
    report = read(name, status_code)
    assert (report.state, report.provider_job_id, report.outputs) == (state, ID, ())
    wanted = FAL.result_request(job(), report)
    assert (wanted is not None) == (state in (JobState.SUCCEEDED, JobState.FAILED))


def test_a_canceled_job_is_completed_with_an_error_of_its_own() -> None:
    """`client_cancelled` is the end of a job that was canceled, and nothing is fetched for it."""
    report = FAL.read_status(
        answer(200, {"status": "COMPLETED", "request_id": ID, "error": "x", "error_type": "client_cancelled"}), NOW_MS
    )
    assert (report.state, report.error) == (JobState.CANCELED, None)
    assert FAL.result_request(job(), report) is None


def test_an_unknown_job_is_known_by_its_404() -> None:
    """A status check and a fetch that find nothing say so."""
    with pytest.raises(JobUnknown):
        read("not_found", 404)
    with pytest.raises(JobUnknown):
        result(DONE, "not_found", 404)


def test_a_result_is_the_models_output() -> None:
    """The second answer brings the video with what it says about it."""
    (output,) = result(DONE, "result_with_size").outputs
    assert (output.url, output.width, output.height, output.duration_s) == (
        "https://v3b.fal.media/files/b/x/out.mp4",
        1280,
        720,
        5.04,
    )
    assert output.expires_at is None
    assert result(DONE, "result").state is JobState.SUCCEEDED


@rows(
    "body",
    [
        {"video": "https://v3b.fal.media/files/b/x/out.mp4"},
        {"videos": [{"url": "https://v3b.fal.media/files/b/x/out.mp4"}]},
        {"video_url": "https://v3b.fal.media/files/b/x/out.mp4"},
    ],
)
def test_other_forms_of_a_video_are_read_too(body: dict[str, Any]) -> None:
    """A model that relay does not know may name its video otherwise."""
    report = FAL.read_result(answer(200, body), DONE, NOW_MS)
    assert [one.url for one in report.outputs] == ["https://v3b.fal.media/files/b/x/out.mp4"]


@rows(
    ("name", "status_code", "class_", "code"),
    [
        ("error_content", 422, ErrorClass.CONTENT_REJECTED, "content_policy_violation"),
        ("error_validation", 422, ErrorClass.INVALID_INPUT, "literal_error"),
        ("error_infrastructure", 504, ErrorClass.TIMEOUT, "request_timeout"),
    ],
)
def test_a_failed_job_gets_its_models_own_error(name: str, status_code: int, class_: ErrorClass, code: str) -> None:
    """The second answer of a failed job says why."""
    report = result(BROKEN, name, status_code)
    assert report.state is JobState.FAILED
    assert report.error is not None
    assert (report.error.class_, report.error.provider_code) == (class_, code)


@rows(
    ("name", "status_code"),
    [
        ("still_in_progress", 400),
        ("error_balance", 403),
        ("error_queue_full", 429),
        ("not_found", 404),
        ("result", 200),
    ],
)
def test_a_failed_job_keeps_its_error_if_nothing_better_comes(name: str, status_code: int) -> None:
    """An answer that is not about the failure does not replace what the status said."""
    failed = read("completed_with_error")
    assert failed.error is not None
    assert failed.error.class_ is ErrorClass.INVALID_INPUT
    assert result(failed, name, status_code) == failed


@rows(
    ("name", "status_code"),
    [
        ("still_in_progress", 400),
        ("error_balance", 403),
        ("error_admin_lock", 401),
        ("error_queue_full", 429),
        ("error_infrastructure", 504),
        ("error_content", 500),
        ("error_content", 403),
        ("result", 302),
    ],
)
def test_a_success_is_never_ended_by_an_answer_that_is_not_its_result(name: str, status_code: int) -> None:
    """A locked account, a limit, an outage or a lagging replica has no status: relay asks again."""
    with pytest.raises(Unreadable):
        result(DONE, name, status_code)


def test_a_success_whose_result_is_a_models_error_has_failed() -> None:
    """A completed job may have no `error` in its status; the result's 422 has it."""
    report = result(DONE, "error_content", 422)
    assert (report.state, report.outputs) == (JobState.FAILED, ())
    assert report.error is not None
    assert report.error.class_ is ErrorClass.CONTENT_REJECTED


def test_a_callback_without_a_payload_is_a_success_to_be_fetched() -> None:
    """It brings no output; the status check that follows asks for the result."""
    report = FAL.read_callback(recorded("fal", "answers", "callback_payload_null"), NOW_MS)
    assert (report.state, report.outputs, report.provider_job_id) == (JobState.SUCCEEDED, (), ID)
    assert FAL.result_request(job(), report) is not None


@rows(
    ("name", "class_", "retryable"),
    [
        ("error_content", ErrorClass.CONTENT_REJECTED, False),
        ("error_infrastructure", ErrorClass.TIMEOUT, True),
        ("error_without_payload", ErrorClass.PROVIDER_ERROR, True),
    ],
)
def test_a_failed_callback_is_classed_by_its_type_before_its_number(
    name: str, class_: ErrorClass, retryable: bool
) -> None:
    """The first type of the payload counts, then the HTTP status in `error`."""
    report = FAL.read_callback(recorded("fal", "callbacks", name), NOW_MS)
    assert report.error is not None
    assert (report.state, report.error.class_, report.error.retryable) == (JobState.FAILED, class_, retryable)


@rows(
    ("number", "class_", "retryable"),
    [
        (400, ErrorClass.INVALID_INPUT, False),
        (401, ErrorClass.AUTH, False),
        (403, ErrorClass.AUTH, False),
        (404, ErrorClass.INVALID_INPUT, False),
        (418, ErrorClass.UNKNOWN, False),
        (422, ErrorClass.INVALID_INPUT, False),
        (429, ErrorClass.RATE_LIMITED, True),
        (498, ErrorClass.UNKNOWN, False),
        (499, ErrorClass.PROVIDER_ERROR, True),
        (500, ErrorClass.PROVIDER_ERROR, True),
        (503, ErrorClass.PROVIDER_ERROR, True),
        (504, ErrorClass.TIMEOUT, True),
    ],
)
def test_a_number_alone_has_a_class(number: int, class_: ErrorClass, retryable: bool) -> None:
    """Without a type, the HTTP status in the text of a failed callback decides, and so it does for an unknown type."""
    for payload in (None, {"detail": "x", "error_type": "of_tomorrow"}):
        body = {"request_id": ID, "status": "ERROR", "error": f"Invalid status code: {number}", "payload": payload}
        error = FAL.read_callback(body, NOW_MS).error
        assert error is not None
        assert (error.class_, error.retryable) == (class_, retryable)


@rows("code", sorted(set(CODES) - {"client_cancelled"}))
def test_each_type_counts_more_than_the_number(code: str) -> None:
    """A published type has its class whatever the HTTP status says."""
    body = {"request_id": ID, "status": "ERROR", "error": "418", "payload": {"detail": [{"type": code, "msg": "x"}]}}
    error = FAL.read_callback(body, NOW_MS).error
    assert error is not None
    assert (error.class_, error.retryable) == (CODES[code].class_, CODES[code].retryable)


@rows(
    ("model", "good"),
    [
        ("a/b", True),
        ("a/b/c/d/e/f", True),
        ("a/b/c/d/e/f/g", False),
        ("a", False),
        ("a/requests/b", False),
        ("requests/a", False),
        ("a/request", True),
        ("", False),
        (None, False),
    ],
)
def test_a_models_name_leads_to_a_model(model: object, good: bool) -> None:
    """Two to six segments are a model; nothing that leads to the routes of a job is one."""
    assert (FAL.check_model({"model": model}) == []) == good


def test_another_gateway_id_is_noted_and_is_not_the_jobs() -> None:
    """After a retry inside fal the gateway's id differs: the job keeps the id of its submission."""
    report = FAL.read_callback(recorded("fal", "callbacks", "ok_after_retry"), NOW_MS)
    assert (report.provider_job_id, report.note) == (ID, "gateway_request_id b3c1f6a2-08aa-4f55-a2c4-9e4b6d1f7c31")
    assert FAL.read_callback(recorded("fal", "callbacks", "ok"), NOW_MS).note is None


@rows(
    ("name", "status_code", "class_", "retryable"),
    [
        ("error_content", 422, ErrorClass.CONTENT_REJECTED, False),
        ("error_validation", 422, ErrorClass.INVALID_INPUT, False),
        ("error_balance", 403, ErrorClass.INSUFFICIENT_FUNDS, False),
        ("error_balance", 402, ErrorClass.INSUFFICIENT_FUNDS, False),
        ("error_balance", 400, ErrorClass.INVALID_INPUT, False),
        ("error_admin_lock", 403, ErrorClass.AUTH, False),
        ("error_queue_full", 429, ErrorClass.RATE_LIMITED, True),
        ("not_found", 404, ErrorClass.INVALID_INPUT, False),
        ("error_infrastructure", 499, ErrorClass.PROVIDER_ERROR, True),
    ],
)
def test_a_refused_submission_has_its_class(name: str, status_code: int, class_: ErrorClass, retryable: bool) -> None:
    """Locked for want of money is not a wrong key, and every 4xx is a refusal."""
    said = FAL.read_submission(answer(status_code, recorded("fal", "answers", name)))
    assert isinstance(said, Refused)
    assert (said.error.class_, said.error.retryable) == (class_, retryable)


def test_a_refusal_names_the_field() -> None:
    """The text of a validation error says which field is wrong."""
    said = FAL.read_submission(answer(422, recorded("fal", "answers", "error_validation")))
    assert isinstance(said, Refused)
    assert said.error.provider_message == "duration: Input should be 'auto', '4', '5' or '6'"


def test_an_outage_leaves_a_submission_unclear() -> None:
    """A 504 of the gateway may hide a job."""
    assert isinstance(FAL.read_submission(answer(504, recorded("fal", "answers", "error_infrastructure"))), Unclear)


@rows("name", ["cancellation_requested", "canceled_as_success"])
def test_a_request_to_cancel_is_no_cancellation(name: str) -> None:
    """Neither published answer says that the job will not succeed."""
    assert not FAL.canceled(answer(202, recorded("fal", "answers", name)))


@rows(
    ("model", "fields", "usd"),
    [
        (f"{SEEDANCE}/{IMAGE}", {"duration": "5"}, "1.517000"),
        (f"{SEEDANCE}/fast/{TEXT}", {"duration": "10", "resolution": "720p", "generate_audio": False}, "2.419000"),
        (f"{SEEDANCE}/{IMAGE}", {}, None),
        (f"{SEEDANCE}/{IMAGE}", {"duration": "auto"}, None),
        (f"{SEEDANCE}/{IMAGE}", {"duration": "5", "resolution": "1080p"}, None),
        (f"{SEEDANCE}/mini/{IMAGE}", {"duration": "5"}, None),
        (f"{SEEDANCE_25}/{IMAGE}", {"duration": "5"}, None),
        (f"{KLING}/pro/{IMAGE}", {}, "0.840000"),
        (f"{KLING}/pro/{IMAGE}", {"generate_audio": False, "duration": "10"}, "1.120000"),
        (f"{KLING}/pro/{IMAGE}", {"elements": [{}]}, None),
        (f"{KLING}/standard/{IMAGE}", {}, None),
        (VEO, {}, "3.200000"),
        (VEO, {"generate_audio": False, "duration": "4s"}, "0.800000"),
        (VEO, {"resolution": "4k", "duration": "6s"}, "3.600000"),
        (f"{VEO}/fast", {"duration": "4s"}, "0.600000"),
        (f"{VEO}/fast", {"resolution": "4k"}, None),
        (f"{VEO}/lite", {}, None),
        (VEO, {"duration": "5s"}, None),
    ],
)
def test_a_price_is_published_or_unknown(model: str, fields: dict[str, Any], usd: str | None) -> None:
    """The table's rate times the seconds that are billed; None where a rate or the seconds are not known."""
    price = FAL.price(body_of(model, **fields))
    assert (None if price is None else price.usd) == usd
    assert price is None or (price.unit, price.basis) == ("USD", "table")


def test_the_vector_of_a_signed_callback_verifies() -> None:
    """The message is three headers and the SHA-256 of the body; the signature is hexadecimal and names no key."""
    signed = FAL.signed(VECTOR, VECTOR_BODY)
    assert signed is not None
    assert hashlib.sha256(VECTOR_BODY).hexdigest().startswith("d04c3f8b")
    assert (signed.key_id, signed.timestamp_s) == (None, 1735689600)
    assert is_signed_by(VECTOR_KEY, signed)
    upper = FAL.signed(VECTOR | {"x-fal-webhook-signature": VECTOR["x-fal-webhook-signature"].upper()}, VECTOR_BODY)
    assert upper is not None
    assert is_signed_by(VECTOR_KEY, upper)


@rows(
    ("name", "value"),
    [("request-id", "123e4567"), ("user-id", "github|2"), ("timestamp", "1735689601"), ("signature", "0" * 128)],
)
def test_a_changed_header_breaks_the_signature(name: str, value: str) -> None:
    """Each of the four headers is covered, and so is each byte of the body."""
    signed = FAL.signed(VECTOR | {f"x-fal-webhook-{name}": value}, VECTOR_BODY)
    assert signed is not None
    assert not is_signed_by(VECTOR_KEY, signed)
    changed = FAL.signed(VECTOR, VECTOR_BODY + b" ")
    assert changed is not None
    assert not is_signed_by(VECTOR_KEY, changed)


@rows(
    "changed",
    [
        {"x-fal-webhook-signature": ""},
        {"x-fal-webhook-signature": "0" * 126},
        {"x-fal-webhook-signature": "g" * 128},
        {"x-fal-webhook-timestamp": ""},
        {"x-fal-webhook-timestamp": "1735689600.5"},
        {"x-fal-webhook-request-id": ""},
        {"x-fal-webhook-user-id": "a\nb"},
        {"x-fal-webhook-user-id": "u" * 201},
    ],
)
def test_malformed_headers_are_no_signature(changed: dict[str, str]) -> None:
    """A part that is missing or malformed is refused, and not taken for an unsigned callback."""
    with pytest.raises(SignatureInvalid):
        FAL.signed(VECTOR | changed, VECTOR_BODY)


def test_a_callback_without_headers_is_unsigned() -> None:
    """Without any of the four headers there is no signature to judge."""
    assert FAL.signed({"content-type": "application/json"}, VECTOR_BODY) is None


_names = st.sampled_from(
    ["detail", "error", "error_type", "payload", "status", "request_id", "gateway_request_id", "video", "url", "type"]
)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=10)
    | st.sampled_from(["COMPLETED", "OK", "ERROR", ID]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=15,
)
_bodies = st.dictionaries(_names, _values, max_size=7) | bodies


@given(st.integers(100, 599), _bodies | json_values, st.sampled_from([DONE, BROKEN]))
def test_any_answer_is_a_result_or_unreadable(status_code: int, body: object, report: Report) -> None:
    """No body in place of a result raises anything but Unreadable, nor makes a failed job succeed."""
    try:
        whole = FAL.read_result(answer(status_code, json.dumps(body).encode()), report, NOW_MS)
    except Unreadable:
        assert report is DONE
    else:
        assert whole.state in (report.state, JobState.FAILED)
        assert whole.outputs == () or whole.state is JobState.SUCCEEDED


@given(_bodies)
def test_any_body_is_a_callback_or_unreadable(body: dict[str, Any]) -> None:
    """No object under fal's own names raises anything but Unreadable, whatever it answers."""
    raw = json.dumps(body).encode()
    assert isinstance(FAL.read_submission(answer(200, raw)), Accepted | Unclear)
    assert isinstance(FAL.read_submission(answer(422, raw)), Refused)
    for called_back in (True, False):
        try:
            report = FAL.read_callback(body, NOW_MS) if called_back else FAL.read_status(answer(200, raw), NOW_MS)
        except Unreadable:
            continue
        assert not report.outputs or report.state is JobState.SUCCEEDED


@given(st.dictionaries(st.sampled_from([*VECTOR, "webhook-id"]), st.text(max_size=130)), st.binary(max_size=20))
def test_any_headers_are_judged(headers: dict[str, str], body: bytes) -> None:
    """No headers make the reading of a signature raise anything but SignatureInvalid."""
    try:
        signed = FAL.signed(headers, body)
    except SignatureInvalid:
        return
    assert signed is None or not is_signed_by(VECTOR_KEY, signed)
