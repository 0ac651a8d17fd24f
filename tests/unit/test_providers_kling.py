"""Kling's two contracts, from its published pages: each limit, the codes inside 200, the look-up by relay's own id."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from relay.errors import InvalidInput, JobUnknown, Unreadable
from relay.model.job import Cost, ErrorClass, Input, JobState, Output, OutputKind, Reference, Report
from relay.model.provider_http import ProviderRequest
from relay.providers.base import Accepted, ModelLimits, Refused, SubmittedJob, Unclear
from relay.providers.kling import CODES, MODELS, OMNI, STANDARD, TURBO, V25_TURBO, V26, Kling
from relay.providers.native import native_from_input
from tests.support.provider_cases import NOW_MS, answer, recorded, without_known
from tests.support.rows import rows

KLING = Kling()
IMAGE = "https://example.com/a.png"
FRAME = {"type": "first_frame", "url": IMAGE}
BASE64 = "iVBORw0KGgo" + "A" * 60
URL = "must be a public https or http URL of at most 2048 characters, without credentials; this "
SCHEME, HOST = "does not begin with https:// or http://", "has a host that is local, private or without a dot"
OWN = "is relay's own field: relay looks the job up by its id there"
FOLLOWS = "is for text-to-video only: a video follows its first frame"
ALL = '"kling-2.5-turbo", "kling-2.6", "kling-3.0", "kling-3.0-omni", "kling-3.0-turbo"'
JOB = "job_01j0000000000000000000000a"


def complaints(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the errors of a body by path."""
    return {error.path: without_known(error.message) for error in KLING.check(dict(body))}


def text(model: str = STANDARD, **fields: Any) -> dict[str, Any]:
    """Return a good text-to-video body with these fields; a None takes a field away."""
    return {name: value for name, value in ({"model": model, "prompt": "p"} | fields).items() if value is not None}


def contents(*more: dict[str, Any], model: str = STANDARD, **fields: Any) -> dict[str, Any]:
    """Return a body with a prompt and these contents."""
    return {"model": model, "contents": [{"type": "prompt", "text": "p"}, *more]} | fields


def old(model: str = "kling-v3", **fields: Any) -> dict[str, Any]:
    """Return a body of the old contract; a None takes a field away."""
    body = {"model_name": model, "prompt": "p"} | fields
    return {name: value for name, value in body.items() if value is not None}


def job(request: dict[str, object], provider_job_id: str | None = "85") -> SubmittedJob:
    """Return a job with a native body."""
    return SubmittedJob(job_id=JOB, provider_job_id=provider_job_id, state=JobState.SUBMITTED, request=request)


@rows(
    ("body", "errors"),
    [
        (text(settings={"duration": 3}), {}),
        (text(settings={"duration": 15}), {}),
        (text(settings={"duration": 2}), {"settings.duration": "must be an integer from 3 to 15, not 2"}),
        (text(settings={"duration": 16}), {"settings.duration": "must be an integer from 3 to 15, not 16"}),
        (text(settings={"duration": "5"}), {"settings.duration": 'must be an integer from 3 to 15, not "5"'}),
        (text(V26, settings={"duration": 10}), {}),
        (text(V26, settings={"duration": 6}), {"settings.duration": "must be 5 or 10 for kling-2.6, not 6"}),
        (
            text(V25_TURBO, settings={"duration": 4}),
            {"settings.duration": "must be 5 or 10 for kling-2.5-turbo, not 4"},
        ),
        (text(settings={"resolution": "4k"}), {}),
        (
            text(TURBO, settings={"resolution": "4k"}),
            {"settings.resolution": 'must be one of "720p", "1080p" for kling-3.0-turbo, not "4k"'},
        ),
        (text(settings={"audio": "native", "multi_shot": True}), {}),
        (
            text(settings={"audio": "original"}),
            {"settings.audio": 'must be one of "native", "off" for kling-3.0, not "original"'},
        ),
        (contents(model=OMNI, settings={"audio": "original"}), {}),
        (text(TURBO, settings={"audio": "off"}), {"settings.audio": "kling-3.0-turbo has no such setting"}),
        (text(V26, settings={"multi_shot": False}), {"settings.multi_shot": "kling-2.6 has no such setting"}),
        (text(V26, settings={"audio": "native", "resolution": "1080p"}), {}),
        (text(V26, settings={"audio": "native"}), {"settings.resolution": 'must be "1080p" for kling-2.6 with sound'}),
        (text(prompt="x" * 3072), {}),
        (text(prompt="x" * 3073), {"prompt": "must be a string of 1 to 3072 characters, not one of 3073 characters"}),
        (text(TURBO, prompt="x" * 2500), {}),
        (text(TURBO, prompt="x" * 2501), {"prompt": "must be a string of at most 2500 characters, not 2501"}),
        (text(prompt=""), {"prompt": 'must be a string of 1 to 3072 characters, not ""'}),
        (text(prompt=None), {"prompt": "is required (or contents, for image-to-video)"}),
        (text(OMNI), {"contents": "is required for kling-3.0-omni"}),
        (text(contents=[FRAME]), {"prompt": "cannot be given with contents: give the prompt as one of them"}),
        (text(options={"external_task_id": "mine"}), {"options.external_task_id": OWN}),
        (text(duration=5), {"duration": "is not a field here; did you mean settings.duration?"}),
        (text("kling-9"), {"model": f'must be one of {ALL}, not "kling-9"'}),
    ],
)
def test_each_limit_of_the_new_contract(body: dict[str, Any], errors: dict[str, str]) -> None:
    """Accept the value at each limit, and name the one behind it."""
    assert complaints(body) == errors


@rows(
    ("body", "errors"),
    [
        (contents(FRAME), {}),
        (contents(FRAME, {"type": "last_frame", "url": IMAGE}), {}),
        (contents(FRAME, {"type": "element", "element_id": 7}), {}),
        (contents({"type": "first_frame", "url": BASE64}), {}),
        (contents({"type": "first_frame", "url": "data:image/png;base64," + BASE64}), {}),
        (
            contents({"type": "first_frame", "url": "data:text/html;base64," + BASE64}),
            {"contents[1].url": URL + SCHEME},
        ),
        (contents({"type": "first_frame", "url": "https://127.0.0.1/a"}), {"contents[1].url": URL + HOST}),
        (contents({"type": "first_frame"}), {"contents[1].url": "is required"}),
        (contents(FRAME, {"type": "element"}), {"contents[2].element_id": "is required"}),
        (contents(), {"contents": 'must have an item of the type "first_frame"'}),
        (contents(model=OMNI), {}),
        (contents(FRAME, FRAME), {"contents": "must have one first_frame at most"}),
        ({"model": STANDARD, "contents": [FRAME]}, {"contents": 'must have an item of the type "prompt"'}),
        (
            {"model": STANDARD, "contents": [{"type": "prompt"}, FRAME]},
            {"contents[0].text": "is required"},
        ),
        (
            contents(FRAME, {"type": "last_frame", "url": IMAGE}, model=TURBO),
            {"contents[2].type": "kling-3.0-turbo has no last frame"},
        ),
        (
            contents(FRAME, {"type": "refer_image", "url": IMAGE}),
            {"contents[2].type": "refer_image is for kling-3.0-omni only"},
        ),
        (contents({"type": "refer_image", "url": IMAGE}, {"type": "base_video", "url": IMAGE}, model=OMNI), {}),
        (contents(FRAME, settings={"aspect_ratio": "1:1"}), {"settings.aspect_ratio": FOLLOWS}),
        (contents(FRAME, model=OMNI, settings={"aspect_ratio": "1:1"}), {}),
        (
            {"model": V26, "contents": [{"type": "prompt", "text": "x" * 2501}, FRAME]},
            {"contents[0].text": "must be a string of at most 2500 characters, not 2501"},
        ),
    ],
)
def test_each_rule_of_the_contents(body: dict[str, Any], errors: dict[str, str]) -> None:
    """Accept the published kinds of contents, and name what each lacks."""
    assert complaints(body) == errors


@rows(
    ("body", "errors"),
    [
        (old(image=IMAGE, image_tail=IMAGE, duration="15", mode="4k", sound="on"), {}),
        (old(image=BASE64), {}),
        (
            old(image="data:image/png;base64," + BASE64),
            {"image": "must be base64 without the prefix data:, or a public URL"},
        ),
        (old(image_tail="ftp://example.com/a"), {"image_tail": URL + SCHEME}),
        (old(image_list=[{"image": "https://10.0.0.1/a"}]), {"image_list[0].image": URL + HOST}),
        (old("kling-v2-6", duration="10", sound="on"), {}),
        (old("kling-v2-6", duration="9"), {"duration": 'must be one of "5", "10" for kling-v2-6'}),
        (old("kling-v1-6", sound="off"), {}),
        (old("kling-v1-6", sound="on"), {"sound": "kling-v1-6 makes no sound"}),
        (old("kling-v1-6", cfg_scale=1), {}),
        (old("kling-v1-6", cfg_scale=1.1), {"cfg_scale": "must be a number from 0 to 1, not 1.1"}),
        (old("kling-v2-1", cfg_scale=0.5), {"cfg_scale": "kling-v2-1 has no such field"}),
        (old(prompt=None), {"prompt": "is required"}),
        (old(prompt=None, multi_shot=True, shot_type="customize", multi_prompt=[{"index": 1}]), {}),
        (old(prompt=None, multi_shot=True, shot_type="intelligence"), {"prompt": "is required"}),
        (old(prompt="x" * 2500, negative_prompt="x" * 2500), {}),
        (
            old(prompt="x" * 2501),
            {"prompt": "must be a string of at most 2500 characters, not one of 2501 characters"},
        ),
        (old(aspect_ratio="9:16"), {}),
        (old(image=IMAGE, aspect_ratio="9:16"), {"aspect_ratio": FOLLOWS}),
        (old(external_task_id="mine"), {"external_task_id": OWN}),
    ],
)
def test_each_limit_of_the_old_contract(body: dict[str, Any], errors: dict[str, str]) -> None:
    """Accept the value at each limit, and name the one behind it."""
    assert complaints(body) == errors


@rows("model", MODELS)
def test_the_limits_of_a_model_are_its_rules(model: str) -> None:
    """Accept a model's own resolutions and lengths, as `GET /v1/providers` shows them, and refuse all others."""
    own = KLING.limits.by_model.get(model, ModelLimits())
    for resolution in KLING.limits.resolutions:
        body = contents(FRAME, model=model, settings={"resolution": resolution})
        good = resolution in (own.resolutions or KLING.limits.resolutions)
        assert list(complaints(body)) == ([] if good else ["settings.resolution"])
    for seconds in range(3, 16):
        good = own.duration_s is None or seconds in own.duration_s
        body = contents(FRAME, model=model, settings={"duration": seconds})
        assert list(complaints(body)) == ([] if good else ["settings.duration"])
    two = contents(FRAME, {"type": "last_frame", "url": IMAGE}, model=model)
    assert bool(complaints(two)) == (own.images == (0, 1))


@rows(
    ("body", "path", "asked"),
    [
        (text(), "/text-to-video/kling-3.0", "/tasks"),
        (contents(FRAME), "/image-to-video/kling-3.0", "/tasks"),
        (contents(model=OMNI), "/omni-video/kling-3.0-omni", "/tasks"),
        (text("kling-4.0"), "/text-to-video/kling-4.0", "/tasks"),
        (contents(FRAME, model="motion-control/kling-4.0"), "/motion-control/kling-4.0", "/tasks"),
        (old(), "/v1/videos/text2video", "/v1/videos/text2video"),
        (old(image=IMAGE), "/v1/videos/image2video", "/v1/videos/image2video"),
        (old(image_tail=IMAGE), "/v1/videos/image2video", "/v1/videos/image2video"),
        (old(image_list=[{"image": IMAGE}]), "/v1/videos/multi-image2video", "/v1/videos/multi-image2video"),
        (old("kling-video-o1", image_list=[]), "/v1/videos/omni-video", "/v1/videos/omni-video"),
    ],
)
def test_the_contract_decides_the_routes(body: dict[str, Any], path: str, asked: str) -> None:
    """Submit, ask and look up on the routes of the body's own contract, with relay's id in the submission."""
    sent = KLING.submission(body, "https://relay.example/cb", JOB)
    own = {"callback_url": "https://relay.example/cb", "external_task_id": JOB}
    kept = {name: value for name, value in body.items() if name != "model"}
    assert sent == ProviderRequest(
        method="POST", path=path, body=kept | ({"options": own} if asked == "/tasks" else own)
    )
    in_query = asked == "/tasks"
    assert KLING.status_check(job(body, "8/5")).path == (f"{asked}?task_ids=8%2F5" if in_query else f"{asked}/8%2F5")
    find = KLING.find(job(body, None))
    assert find is not None
    assert find.path == (f"{asked}?external_task_ids={JOB}" if in_query else f"{asked}/{JOB}")


def test_an_adopted_job_is_asked_for_by_the_new_contract() -> None:
    """Ask by the new contract for a job whose request is lost."""
    assert KLING.status_check(job({})).path == "/tasks?task_ids=85"


def test_an_access_key_signs_a_token_for_each_request() -> None:
    """Sign the published token from `AccessKey:SecretKey`, and send an API key as it is."""
    token = KLING.authorization("ak_test:sk_test", 1764237600)
    assert token == (
        "Bearer eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJha190ZXN0IiwiZXhwIjoxNzY0MjM5NDAwLCJuYmYiOjE3NjQyMzc1"
        "OTV9.v2ojqaPSdlyWRHes_mSQsy7In5CCINuaODJbLp4zqOM"
    )
    assert KLING.authorization("sk-1", 1764237600) == "Bearer sk-1"


@rows(
    ("given", "body"),
    [
        (
            Input(prompt="p", duration_s=5, resolution="1080p", aspect_ratio="16:9", audio=True),
            text(
                settings={
                    "resolution": "1080p",
                    "duration": 5,
                    "aspect_ratio": "16:9",
                    "audio": "native",
                }
            ),
        ),
        (
            Input(prompt="p", images=[IMAGE, IMAGE], audio=False),
            contents(FRAME, {"type": "last_frame", "url": IMAGE}, settings={"audio": "off"}),
        ),
        (Input(prompt="p", images=[IMAGE], model=TURBO), contents(FRAME, model=TURBO)),
        (
            Input(prompt="p", images=[IMAGE, IMAGE], model="kling-v2-6", resolution="1080p", duration_s=10, audio=True),
            old("kling-v2-6", image=IMAGE, image_tail=IMAGE, mode="pro", duration="10", sound="on"),
        ),
        (
            Input(prompt="p", model="kling-v1", aspect_ratio="1:1", negative_prompt="n"),
            old("kling-v1", aspect_ratio="1:1", negative_prompt="n"),
        ),
        (
            Input(prompt="p", images=[IMAGE], references=[IMAGE, Reference(url=IMAGE, kind="video")]),
            contents(FRAME, {"type": "refer_image", "url": IMAGE}, {"type": "feature_video", "url": IMAGE}, model=OMNI),
        ),
        (
            Input(prompt="p", provider_options={"settings": {"multi_shot": False}}),
            text(settings={"multi_shot": False}),
        ),
    ],
)
def test_an_input_becomes_a_body_of_its_models_contract(given: Input, body: dict[str, Any]) -> None:
    """Translate images, sound and resolution into either contract."""
    assert native_from_input(KLING, given) == body


@rows(
    ("given", "path"),
    [
        (Input(prompt="p", images=[IMAGE], aspect_ratio="16:9"), "input.aspect_ratio"),
        (Input(prompt="p", images=[IMAGE] * 3), "input.images"),
        (Input(prompt="p", images=[IMAGE, "ftp://a.example/b"]), "input.images[1]"),
        (Input(prompt="p", images=[IMAGE, "ftp://a.example/b"], model="kling-v3"), "input.images[1]"),
        (Input(prompt="p", model="kling-v3", resolution="2k"), "input.resolution"),
        (Input(prompt="p", model=TURBO, audio=True), "input.audio"),
        (Input(images=[IMAGE]), "input.prompt"),
        (Input(prompt="p", seed=7), "input.seed"),
        (Input(prompt="p", negative_prompt="n"), "input.negative_prompt"),
        (Input(prompt="p", references=[IMAGE], model=STANDARD), "input.references"),
        (Input(prompt="p", references=[Reference(url=IMAGE, kind="audio")]), "input.references[0]"),
        (Input(prompt="p", references=[IMAGE, "ftp://a.example/b"]), "input.references[1]"),
        (
            Input(prompt="p", provider_options={"options": {"external_task_id": "mine"}}),
            "input.provider_options.options.external_task_id",
        ),
    ],
)
def test_what_kling_cannot_honour_is_named(given: Input, path: str) -> None:
    """Refuse a unified field that has no place, by its unified name."""
    with pytest.raises(InvalidInput) as raised:
        native_from_input(KLING, given)
    assert [error.path for error in raised.value.errors] == [path]


@rows("status_code", [200, 429])
@rows(
    ("code", "class_", "retryable"),
    [
        (1000, ErrorClass.AUTH, False),
        (1004, ErrorClass.AUTH, False),
        (1100, ErrorClass.AUTH, False),
        (1101, ErrorClass.INSUFFICIENT_FUNDS, False),
        (1102, ErrorClass.INSUFFICIENT_FUNDS, False),
        (1103, ErrorClass.AUTH, False),
        (1201, ErrorClass.INVALID_INPUT, False),
        (1203, ErrorClass.INVALID_INPUT, False),
        (1300, ErrorClass.CONTENT_REJECTED, False),
        (1301, ErrorClass.CONTENT_REJECTED, False),
        (1302, ErrorClass.RATE_LIMITED, True),
        (1303, ErrorClass.RATE_LIMITED, True),
        (1304, ErrorClass.AUTH, False),
    ],
)
def test_a_code_has_its_class_in_any_http_status(
    status_code: int, code: int, class_: ErrorClass, retryable: bool
) -> None:
    """Refuse a submission by its code, in HTTP 200 too, and class it by that rather than by the HTTP status."""
    said = KLING.read_submission(answer(status_code, {"code": code, "message": "m", "request_id": "r"}))
    assert isinstance(said, Refused)
    assert (said.error.class_, said.error.retryable, said.error.provider_code) == (class_, retryable, str(code))


@rows("code", [5000, 5001, 5002])
def test_a_fault_inside_kling_may_have_made_the_job(code: int) -> None:
    """Call a submission unclear after a fault code, in HTTP 200 too."""
    for status_code in (200, 500, 503, 504):
        assert isinstance(KLING.read_submission(answer(status_code, {"code": code, "message": "m"})), Unclear)
    assert CODES[str(code)].retryable


@rows(
    "message",
    [
        "external_task_id already exists",
        "duplicate external_id",
        "The external task id must be unique",
        "external_task_id 重复",
    ],
)
def test_a_repeated_own_id_says_that_the_job_exists(message: str) -> None:
    """Call a submission unclear, to be looked up, if Kling has a job of this id already."""
    assert isinstance(KLING.read_submission(answer(400, {"code": 1201, "message": message})), Unclear)
    assert isinstance(
        KLING.read_submission(answer(400, {"code": 1201, "message": "external_task_id too long"})), Refused
    )


def test_a_submission_is_accepted_with_its_long_id() -> None:
    """Keep the id of either contract as text."""
    for name, provider_job_id in (("submitted", "853920163412905984"), ("old_submitted", "853920163412905985")):
        said = KLING.read_submission(answer(200, recorded("kling", "answers", name)))
        assert said == Accepted(
            Report(state=JobState.SUBMITTED, provider_status="submitted", provider_job_id=provider_job_id)
        )


VIDEO = Output(
    kind=OutputKind.VIDEO,
    url="https://v16-kling-fdl.example.com/853920.mp4",
    duration_s=5.0,
    expires_at="2026-10-21T14:13:20.000Z",
)


@rows("name", ["task_succeeded", "task_as_object"])
def test_a_status_answer_has_a_list_or_an_object(name: str) -> None:
    """Read `data` in both published forms, with the units as the final cost."""
    assert KLING.read_status(answer(200, recorded("kling", "answers", name)), NOW_MS) == Report(
        state=JobState.SUCCEEDED,
        provider_status="succeeded",
        provider_job_id="853920163412905984",
        outputs=(VIDEO,),
        cost=Cost(amount="0.6", unit="credits", kind="final"),
    )


def test_the_old_contract_succeeds_by_another_word() -> None:
    """Read `succeed`, the videos of `task_result` and the deducted units."""
    report = KLING.read_status(answer(200, recorded("kling", "answers", "old_task_succeeded")), NOW_MS)
    assert (report.state, report.provider_status) == (JobState.SUCCEEDED, "succeed")
    assert [output.url for output in report.outputs] == ["https://cdn.example.com/853920.mp4"]
    assert report.cost == Cost(amount="1.5", unit="credits", kind="final")


@rows(
    ("billing", "cost"),
    [
        ([{"charge_type": "cash", "amount": "0.42", "currency": "USD"}], Cost(amount="0.42", unit="USD", kind="final")),
        ([{"charge_type": "unit", "amount": "0.6"}] * 2, Cost(amount="1.2", unit="credits", kind="final")),
        ([{"charge_type": "cash", "amount": "3", "currency": "CNY"}], None),
        ([{"charge_type": "unit", "amount": "1"}, {"charge_type": "cash", "amount": "1", "currency": "USD"}], None),
        ([{"charge_type": "unit", "amount": "x"}], None),
        ([{"charge_type": "unit", "amount": "-1"}], None),
        ([], None),
        ("free", None),
    ],
)
def test_a_bill_has_one_unit_or_no_amount(billing: object, cost: Cost | None) -> None:
    """Add up a bill of one known unit; give no cost for any other."""
    body = recorded("kling", "callbacks", "succeeded") | {"billing": billing}
    assert KLING.read_callback(body, NOW_MS).cost == cost


def test_a_result_expires_thirty_days_after_it_was_made() -> None:
    """Count a result's time from the task's last change, and from now if that is not plausible."""
    body = recorded("kling", "callbacks", "succeeded")
    for made_at, expires_at in (
        (NOW_MS - 86_400_000, "2026-10-20T14:13:20.000Z"),
        (NOW_MS + 1, "2026-10-21T14:13:20.000Z"),
    ):
        report = KLING.read_callback(body | {"update_time": made_at}, NOW_MS)
        assert report.outputs[0].expires_at == expires_at


@rows(
    ("message", "class_", "retryable"),
    [
        ("Failure to pass the risk control system", ErrorClass.CONTENT_REJECTED, False),
        ("触发平台的内容风控", ErrorClass.CONTENT_REJECTED, False),
        ("Internal error, please try again", ErrorClass.PROVIDER_ERROR, True),
    ],
)
def test_a_failed_task_is_classed_by_its_text(message: str, class_: ErrorClass, retryable: bool) -> None:
    """Class the text of a failed task: rejected content by its words, else Kling's own fault."""
    bodies: list[dict[str, Any]] = [
        {"id": "1", "status": "failed", "message": message},
        {"task_id": "1", "task_status": "failed", "task_status_msg": message},
    ]
    for body in bodies:
        error = KLING.read_callback(body, NOW_MS).error
        assert error is not None
        assert (error.class_, error.retryable, error.provider_message) == (class_, retryable, message)


@rows(
    ("status_code", "body", "unknown"),
    [
        (200, {"code": 0, "message": "SUCCEED", "data": []}, True),
        (200, {"code": 1203, "message": "no such task"}, True),
        (404, {"code": 1203, "message": "no such task"}, True),
        (200, {"code": 1302, "message": "slow down"}, False),
        (200, {"code": "odd", "data": [{"id": "1", "status": "failed"}]}, False),
        (200, {"code": 5000, "message": "m", "data": []}, False),
    ],
)
def test_a_code_in_a_status_answer_has_no_status(status_code: int, body: dict[str, Any], unknown: bool) -> None:
    """Take no status from an answer with an error code; an empty list says that the job is unknown."""
    with pytest.raises(Unreadable) as raised:
        KLING.read_status(answer(status_code, body), NOW_MS)
    assert isinstance(raised.value, JobUnknown) == unknown


@rows(
    ("status_code", "body"),
    [
        (200, {"code": 0, "message": "SUCCEED", "data": []}),
        (404, {"code": 1203, "message": "resource not found"}),
        (400, {"code": 1201, "message": "Task not found"}),
        (200, {"code": 1201, "message": "the task does not exist"}),
    ],
)
def test_only_klings_own_word_says_that_no_job_exists(status_code: int, body: object) -> None:
    """Take an empty list, and a code that says so, for the absence of a job."""
    assert KLING.read_found(answer(status_code, body), job(text(), None), NOW_MS) is None


@rows(
    ("status_code", "body"),
    [
        (404, b"<html>not found</html>"),
        (404, {"message": "no route"}),
        (404, {"code": 1202, "message": "invalid method"}),
        (200, {"code": 5000, "message": "m", "data": []}),
        (200, {"code": 1302, "message": "m", "data": []}),
        (200, {"message": "SUCCEED"}),
        (200, {"code": 0, "data": [{"id": "1", "status": "submitted", "external_id": "another"}]}),
        (200, {"code": 0, "data": [{"id": "1", "status": "submitted"}]}),
        (200, {"code": 0, "data": [{"status": "submitted", "external_id": JOB}]}),
        (200, [1]),
        (429, {"code": 1303, "message": "m"}),
        (503, {"code": 5001, "message": "m"}),
    ],
)
def test_anything_else_leaves_the_look_up_open(status_code: int, body: object) -> None:
    """Raise Unreadable for an answer that neither names the job nor denies it: a proxy's 404 fails no job."""
    with pytest.raises(Unreadable):
        KLING.read_found(answer(status_code, body), job(text(), None), NOW_MS)


def test_a_look_up_brings_the_job_with_its_id() -> None:
    """Read the task whose own id is the job's, in a list, as an object, and of either contract."""
    task: dict[str, Any] = {"id": "2", "status": "processing", "external_id": JOB}
    other = {"id": "1", "status": "succeeded", "external_id": "another"}
    for data in ([task], [other, task], task):
        found = KLING.read_found(answer(200, {"code": 0, "data": data}), job(text(), None), NOW_MS)
        assert found is not None
        assert (found.provider_job_id, found.state) == ("2", JobState.RUNNING)
    task = {"task_id": "3", "task_status": "submitted", "task_info": {"external_task_id": JOB}}
    found = KLING.read_found(answer(200, {"code": 0, "data": task}), job(old(), None), NOW_MS)
    assert found is not None
    assert (found.provider_job_id, found.state) == ("3", JobState.SUBMITTED)


@rows(
    ("body", "usd"),
    [
        (text(), "0.420000"),
        (text(settings={"duration": 10, "resolution": "1080p"}), "1.120000"),
        (text(settings={"resolution": "4k", "audio": "native"}), "2.100000"),
        (text(settings={"audio": "native"}), "0.630000"),
        (text(TURBO, settings={"resolution": "1080p", "duration": 3}), "0.420000"),
        (contents(model=OMNI, settings={"audio": "native"}), "0.560000"),
        (contents({"type": "base_video", "url": IMAGE}, model=OMNI), "0.630000"),
        (text(V26, settings={"duration": 5}), "0.210000"),
        (text(V26, settings={"audio": "native", "resolution": "1080p"}), None),
        (text(V25_TURBO, settings={"resolution": "1080p"}), "0.350000"),
        (text("kling-4.0"), None),
        (text(settings={"duration": 16}), None),
        (old(mode="pro", duration="10"), "1.120000"),
        (old(sound="on"), "0.630000"),
        (old("kling-v1"), None),
        (None, None),
    ],
)
def test_a_price_is_the_published_one_or_none(body: Any, usd: str | None) -> None:
    """Give the price of the seconds at the published rate; None where no page has one rate."""
    price = KLING.price(body)
    assert (price.usd if price else None) == usd


def test_the_page_has_the_published_prices() -> None:
    """Have a row for each model and resolution, without and with sound, with the adapter's own price."""
    page = (Path(__file__).parents[2] / "docs" / "providers" / "kling.md").read_text()
    for model in MODELS:
        for resolution in KLING.limits.resolutions:
            settings = {"resolution": resolution, "duration": 10}
            prices = [KLING.price(text(model, settings=settings | {"audio": sound})) for sound in ("off", "native")]
            shown = ["–" if one is None else f"{float(one.amount) / 10:.4f}".rstrip("0") for one in prices]
            assert f"| `{model}` | `{resolution}` | {' | '.join(shown)} |" in page
