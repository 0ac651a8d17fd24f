"""kie.ai: one route for many models, parameters inside `input`, errors in the body of a 200, results in a string.

`callBackUrl` is at the top level. A callback comes once, at the end. If the operator sets a key in kie's console, a
signature covers the task's id and the time, and not the body: it proves where a callback came from, and no more.
The routes of Veo and Runway have other shapes and are not supported. No cancellation is published. Not published are
whether a callback is tried again, how old a signature may be, and whether `param` is always escaped twice.
Sources: https://docs.kie.ai, its pages of the models, of getting a task's detail and of verifying webhooks.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput, JobUnknown, Unreadable
from relay.model.job import ErrorClass, Input, JobError, JobState, Output, OutputKind, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.providers import answers
from relay.providers.answers import ErrorKind
from relay.providers.base import (
    COMMON,
    REFERENCES,
    Limits,
    ModelLimits,
    Placed,
    Provider,
    SubmissionAnswer,
    SubmittedJob,
    at,
    check_by_model,
    check_count,
    check_url,
    items,
    with_callback,
    with_rules,
    with_suggestions,
    without_none,
)
from relay.providers.prices import Price, in_credits, seconds_at, text_at

STANDARD: Final = "bytedance/seedance-2"
NEWEST: Final = "bytedance/seedance-2-5"
KLING: Final = "kling-3.0/video"
WAN_IMAGE, WAN_TEXT = "wan/2-7-image-to-video", "wan/2-7-text-to-video"
LIFETIME_S: Final = 86_400
RESULT_MAX_CHARS: Final = 65_536
USD_PER_CREDIT: Final = Decimal("0.005")
_CREDITS: Final[dict[str, Decimal]] = {"480p": Decimal(19), "720p": Decimal(41)}
_CREDITS_WITH_VIDEO: Final[dict[str, Decimal]] = {"480p": Decimal("11.5"), "720p": Decimal(25)}
"""Per second of the standard model; no table of the others is published."""
_SIZES: Final = ("480p", "720p", "1080p")
_RATIOS: Final = ("1:1", "4:3", "3:4", "16:9", "9:16", "21:9", "adaptive")
_KLING_RATIOS: Final = ("16:9", "9:16", "1:1")
_MODES: Final = {"720p": "std", "1080p": "pro", "4k": "4K"}
"""Kling's mode of a resolution."""
MODELS: Final = {
    STANDARD: ModelLimits(duration_s=(4, 15), resolutions=(*_SIZES, "4k"), images=(0, 2), references=(9, 3, 3)),
    f"{STANDARD}-fast": ModelLimits(duration_s=(4, 15), resolutions=_SIZES[:2], images=(0, 2), references=(9, 3, 3)),
    f"{STANDARD}-mini": ModelLimits(duration_s=(4, 15), resolutions=_SIZES[:2], images=(0, 2), references=(9, 3, 3)),
    NEWEST: ModelLimits(duration_s=(4, 30), resolutions=_SIZES, images=(0, 2), references=(30, 10, 10)),
    KLING: ModelLimits(
        duration_s=(3, 15),
        resolutions=tuple(_MODES),
        aspect_ratios=_KLING_RATIOS,
        images=(0, 2),
        references=(0, 0, 0),
    ),
    WAN_IMAGE: ModelLimits(duration_s=(2, 15), resolutions=_SIZES[1:], images=(1, 2), references=(0, 0, 0)),
    WAN_TEXT: ModelLimits(
        duration_s=(2, 15),
        resolutions=_SIZES[1:],
        aspect_ratios=("16:9", "9:16", "1:1", "4:3", "3:4"),
        images=(0, 0),
        references=(0, 0, 0),
    ),
}
PROMPT_MAX_OF: Final = {NEWEST: 30_000, WAN_IMAGE: 5000, WAN_TEXT: 5000}
PROMPT_MAX: Final = 20_000
AS_MODEL: Final = -1
"""A duration that leaves the length to the newest model."""
CODES: Final[answers.Codes] = {
    **answers.CODES,
    **answers.codes(
        {
            answers.REJECTED: "400",
            answers.PROVIDER_FAULT: "455 500 501 505",
            ErrorKind(ErrorClass.AUTH, retryable=False): "401",
            ErrorKind(ErrorClass.INSUFFICIENT_FUNDS, retryable=False): "402 433",
            ErrorKind(ErrorClass.INVALID_INPUT, retryable=False): "404 422",
            ErrorKind(ErrorClass.TIMEOUT, retryable=True): "408",
            ErrorKind(ErrorClass.RATE_LIMITED, retryable=True): "429",
        }
    ),
}
"""`code` of an answer and `failCode` of a task. 400 of a task stands for wrong parameters and for rejected content."""
_POLICY: Final = re.compile(r"policy|nsfw|prohibited", re.IGNORECASE)
_OK: Final = 200
_NOT_CREATED: Final = frozenset({*range(400, 500), 505}) - {408, 425}
"""Codes in a 2xx after which surely no task exists; after a fault inside kie it may."""
_NOT_YET: Final = (404, 422)
"""What a status check is answered in a task's first seconds, and for a task that kie does not know."""
_UNIFIED: Final = {
    "input.first_frame_url": "images",
    "input.last_frame_url": "images",
    "input.image_urls": "images",
    "input.reference_image_urls": "references",
    "input.reference_video_urls": "references",
    "input.reference_audio_urls": "references",
    "input.prompt": "prompt",
    "input.negative_prompt": "negative_prompt",
    "input.duration": "duration_s",
    "input.resolution": "resolution",
    "input.mode": "resolution",
    "input.aspect_ratio": "aspect_ratio",
    "input.ratio": "aspect_ratio",
    "input.generate_audio": "audio",
    "input.sound": "audio",
    "input.seed": "seed",
}
_SUGGESTIONS: Final = {name.removeprefix("input."): name for name in _UNIFIED} | {"inputs": "input"}
_ASSET: Final = re.compile(r"asset://[A-Za-z0-9_-]{1,200}")
_FRAMES: Final = ("first_frame_url", "last_frame_url")
_REFERENCES: Final = ("reference_image_urls", "reference_video_urls", "reference_audio_urls")


class Seedance(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of Seedance 2 and 2.5; `output_format` and `nsfw_checker` are published for 2.5."""

    prompt: Annotated[str, Meta(min_length=3, max_length=30_000)] | UnsetType = UNSET
    first_frame_url: str | UnsetType = UNSET
    last_frame_url: str | UnsetType = UNSET
    reference_image_urls: Annotated[list[str], Meta(max_length=30)] | UnsetType = UNSET
    reference_video_urls: Annotated[list[str], Meta(max_length=10)] | UnsetType = UNSET
    reference_audio_urls: Annotated[list[str], Meta(max_length=10)] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=-1, le=30)] | UnsetType = UNSET
    resolution: Literal["480p", "720p", "1080p", "4k"] | UnsetType = UNSET
    aspect_ratio: Literal["1:1", "4:3", "3:4", "16:9", "9:16", "21:9", "adaptive"] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    return_last_frame: bool | UnsetType = UNSET
    web_search: bool | UnsetType = UNSET
    output_format: Literal["mp4", "mov"] | UnsetType = UNSET
    nsfw_checker: bool | UnsetType = UNSET


class Kling(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of Kling 3.0, whose seconds are text; most are required."""

    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]
    duration: Literal["3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"]
    aspect_ratio: Literal["16:9", "9:16", "1:1"]
    mode: Literal["std", "pro", "4K"]
    sound: bool
    multi_shots: bool
    multi_prompt: list[dict[str, Any]]
    image_urls: Annotated[list[str], Meta(min_length=1, max_length=2)] | UnsetType = UNSET
    kling_elements: Annotated[list[dict[str, Any]], Meta(max_length=3)] | UnsetType = UNSET


class WanImage(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of Wan 2.7 from an image."""

    prompt: Annotated[str, Meta(min_length=1, max_length=5000)]
    first_frame_url: str | UnsetType = UNSET
    last_frame_url: str | UnsetType = UNSET
    first_clip_url: str | UnsetType = UNSET
    driving_audio_url: str | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=2, le=15)] | UnsetType = UNSET
    resolution: Literal["720p", "1080p"] | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=0, le=2_147_483_647)] | UnsetType = UNSET
    negative_prompt: Annotated[str, Meta(max_length=500)] | UnsetType = UNSET
    prompt_extend: bool | UnsetType = UNSET
    watermark: bool | UnsetType = UNSET


class WanText(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of Wan 2.7 from a text; its aspect ratio is `ratio`."""

    prompt: Annotated[str, Meta(min_length=1, max_length=5000)]
    ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4"] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=2, le=15)] | UnsetType = UNSET
    resolution: Literal["720p", "1080p"] | UnsetType = UNSET
    audio_url: str | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=0, le=2_147_483_647)] | UnsetType = UNSET
    negative_prompt: Annotated[str, Meta(max_length=500)] | UnsetType = UNSET


class SeedanceRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a submission to Seedance."""

    model: Literal[
        "bytedance/seedance-2", "bytedance/seedance-2-fast", "bytedance/seedance-2-mini", "bytedance/seedance-2-5"
    ]
    input: Seedance


class KlingRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a submission to Kling 3.0."""

    model: Literal["kling-3.0/video"]
    input: Kling


class WanImageRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a submission to Wan 2.7 from an image."""

    model: Literal["wan/2-7-image-to-video"]
    input: WanImage


class WanTextRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a submission to Wan 2.7 from a text."""

    model: Literal["wan/2-7-text-to-video"]
    input: WanText


_TYPES: Final[Mapping[object, type]] = {KLING: KlingRequest, WAN_IMAGE: WanImageRequest, WAN_TEXT: WanTextRequest}
"""The body's type by model; SeedanceRequest for all others."""


class Kie(Provider):
    """The adapter; it keeps no state between calls."""

    name = "kie"
    title = "kie.ai"
    base_url = "https://api.kie.ai"
    callback_field = "callBackUrl"
    verifier = "shared-header"
    honours = COMMON | REFERENCES | {"last_frame", "audio", "seed", "negative_prompt"}
    unified = _UNIFIED
    request_types: tuple[type, ...] = (SeedanceRequest, KlingRequest, WanImageRequest, WanTextRequest)
    further_limits: Mapping[str, str] = {
        **{f"characters of a prompt of `{model}`": str(most) for model, most in PROMPT_MAX_OF.items()},
        "submissions": "20 in 10 seconds",
        "concurrent jobs": "100",
    }
    limits = Limits(
        models=tuple(MODELS),
        by_model=MODELS,
        duration_s=(2, 30),
        resolutions=(*_SIZES, "4k"),
        aspect_ratios=_RATIOS,
        images_max=2,
        prompt_max=PROMPT_MAX,
        prompt_required=False,
        result_lifetime_s=LIFETIME_S,
        expected_s=180,
    )

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body, of the standard Seedance if no model is named."""
        model = given.model or STANDARD
        body = _kling_input(given) if model == KLING else _input(given, model)
        request: dict[str, object] = {"model": model, "input": body}
        if wrong := _unsupported(given, model):
            raise InvalidInput([*wrong, *self.check(request)])
        return request

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published limits."""
        model = at(request, "model")
        type_ = _TYPES.get(model, SeedanceRequest) if isinstance(model, str) else SeedanceRequest
        errors = with_suggestions(validation.check(request, type_), _SUGGESTIONS)
        return with_rules(errors, _rules(at(request, "input"), model))

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /api/v1/jobs/createTask`."""
        body = with_callback(request, self.callback_field, callback_url)
        return ProviderRequest(method="POST", path="/api/v1/jobs/createTask", body=body)

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; a 2xx has the id in `data`, or an error's `code`."""
        return answers.read_submission(response, _submitted, _explain, lambda body: _code(body) in _NOT_CREATED)

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /api/v1/jobs/recordInfo?taskId=`."""
        return ProviderRequest(method="GET", path=f"/api/v1/jobs/recordInfo?taskId={job.quoted_id}")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise JobUnknown if kie has no record of the task yet, or none at all.

        Raise Unreadable for an answer without a task's state.
        """
        body = answers.status_body(response)
        if isinstance(body.get("data"), dict) or (code := _code(body)) in (None, _OK):
            return _report(body, now_ms)
        message = f"code {code}: {answers.complaint(body).text or ''}"
        raise JobUnknown(message) if code in _NOT_YET else Unreadable(message)

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of a callback; its own `code` repeats what the task's `state` says."""
        return _report(body, now_ms)

    def price(self, request: object) -> Price | None:
        """Return credits per second of the standard model at 480p and 720p; fewer with a reference video."""
        given = at(request, "input")
        with_video = bool(items(at(given, "reference_video_urls")))
        rate = (_CREDITS_WITH_VIDEO if with_video else _CREDITS).get(text_at(given, "resolution") or "720p")
        seconds = seconds_at(given, "duration", range(4, 16), 5)
        if text_at(request, "model") != STANDARD or rate is None or seconds is None:
            return None
        return in_credits(rate * seconds, USD_PER_CREDIT)


def _input(given: Input, model: str) -> dict[str, object]:
    """Return the parameters of Seedance and Wan: each frame has a field of its own."""
    text, wan = model == WAN_TEXT, model in (WAN_IMAGE, WAN_TEXT)
    return without_none(
        prompt=given.prompt,
        duration=given.duration_s,
        resolution=given.resolution,
        generate_audio=given.audio,
        negative_prompt=given.negative_prompt if wan else None,
        seed=given.seed if wan else None,
        **{"ratio" if text else "aspect_ratio": given.aspect_ratio},
        **{name: given.referred(name.split("_")[1]) or None for name in _REFERENCES},
        **({} if text else dict(zip(_FRAMES, given.frames, strict=False))),
    )


def _kling_input(given: Input) -> dict[str, object]:
    """Return the parameters of Kling 3.0, with the published defaults of those that it requires."""
    return without_none(
        prompt=given.prompt,
        duration=str(5 if given.duration_s is None else given.duration_s),
        aspect_ratio=given.aspect_ratio or "16:9",
        mode="pro" if given.resolution is None else _MODES.get(given.resolution, given.resolution),
        sound=bool(given.audio),
        multi_shots=False,
        multi_prompt=[],
        image_urls=given.frames or None,
    )


def _unsupported(given: Input, model: str) -> list[FieldError]:
    """Return the errors of fields that kie.ai has, but not for this model, and of references beside frames."""
    own, count = MODELS.get(model), len(given.frames)
    errors = []
    if own is not None and own.images is not None and count > own.images[1]:
        limit = f"must be an array of at most {own.images[1]} items for {model}"
        errors.append(FieldError("images", f"{limit}, not {count}"))
    if model not in (WAN_IMAGE, WAN_TEXT):
        errors += [
            FieldError(name, f"is not supported by {model}")
            for name in ("negative_prompt", "seed")
            if getattr(given, name) is not None
        ]
    elif given.audio is not None:
        errors.append(FieldError("audio", f"is not supported by {model}"))
    if model == WAN_IMAGE and given.aspect_ratio is not None:
        errors.append(FieldError("aspect_ratio", f"is not supported by {model}: the image has it"))
    if given.references and model == KLING:
        errors.append(FieldError("references", f"is not supported by {model}"))
    elif given.references and given.frames:
        errors.append(FieldError("references", "cannot be given with images"))
    return errors


def _rules(given: object, model: object) -> list[FieldError]:
    """Return the errors that the schema cannot express: media together, their URLs, the prompt, the model's limits."""
    if not isinstance(given, dict):
        return []
    own = MODELS.get(model) if isinstance(model, str) else None
    errors = [error for name, path in _media(given) for error in _check_media(at(given, *name), path)]
    framed, referring = any(given.get(name) for name in _FRAMES), any(given.get(name) for name in _REFERENCES)
    if framed and referring:
        errors.append(FieldError("input.first_frame_url", "cannot be given with references: give one of them"))
    if "last_frame_url" in given and "first_frame_url" not in given:
        errors.append(FieldError("input.last_frame_url", "needs input.first_frame_url"))
    if model == WAN_IMAGE and not any(given.get(name) for name in ("first_frame_url", "first_clip_url")):
        errors.append(FieldError("input.first_frame_url", f"or input.first_clip_url is required for {model}"))
    if own is None:
        return errors
    if model not in _TYPES:
        errors += _seedance_rules(given, str(model), own)
    duration = given.get("duration")
    placed = {
        "resolutions": Placed("input.resolution", given.get("resolution")),
        "duration_s": Placed("input.duration", duration),
    }
    if model == KLING or (duration == AS_MODEL and model == NEWEST):
        del placed["duration_s"]  # the schema has Kling's, which are text
    return errors + check_by_model(own, model, placed)


def _seedance_rules(given: dict[str, Any], model: str, own: ModelLimits) -> list[FieldError]:
    """Return the errors of one Seedance model's own numbers, and of a body without prompt and frames."""
    errors = []
    for name, most in zip(_REFERENCES, own.references or (), strict=False):
        errors += check_count(given.get(name, []), f"input.{name}", (0, most), model)
    prompt, most = given.get("prompt"), PROMPT_MAX_OF.get(model, PROMPT_MAX)
    if isinstance(prompt, str) and len(prompt) > most:
        message = f"must be a string of at most {most} characters for {model}, not {len(prompt)}"
        errors.append(FieldError("input.prompt", message))
    if prompt is None and not any(given.get(name) for name in (*_FRAMES, *_REFERENCES)):
        errors.append(FieldError("input.prompt", "is required without media"))
    if model != NEWEST:
        errors += [
            FieldError(f"input.{name}", f"is only a field of {NEWEST}")
            for name in ("output_format", "nsfw_checker")
            if name in given
        ]
    return errors


def _media(given: dict[str, Any]) -> list[tuple[tuple[str | int, ...], str]]:
    """Return where the media of the parameters are, with their paths in the body."""
    single = (*_FRAMES, "first_clip_url", "driving_audio_url", "audio_url")
    found: list[tuple[tuple[str | int, ...], str]] = [((name,), f"input.{name}") for name in single if name in given]
    for name in (*_REFERENCES, "image_urls"):
        found += [((name, index), f"input.{name}[{index}]") for index, _ in enumerate(items(given.get(name)))]
    return found


def _check_media(url: object, path: str) -> list[FieldError]:
    """Return the error of a URL that is neither public nor an asset of kie's; other types are the schema's errors."""
    return check_url(url, path) if isinstance(url, str) and not _ASSET.fullmatch(url) else []


def _code(body: object) -> int | None:
    """Return the `code` of an answer, which may be a number or its text."""
    return answers.whole(at(body, "code"), 0, 9999)


def _submitted(body: dict[str, Any]) -> Report:
    """Return the report of an answer to a submission; without an id if it has the code of a fault."""
    code = _code(body)
    return _report(body if code in (None, _OK) else {}, None, JobState.SUBMITTED)


def _report(body: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of the task in `data`, or of the body if it is the task."""
    task = answers.task_of(body)
    succeeded = answers.STATUSES.get((answers.status_of(task) or "").strip().lower()) is JobState.SUCCEEDED
    report = answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=_outputs(task, now_ms) if succeeded else (),
            error=_failure(task),
            provider_job_id=answers.identifier(task.get("taskId"), task.get("task_id")),
            default_state=default,
        )
    )
    if report.state is not JobState.SUCCEEDED:
        return report
    credits_ = next((task[name] for name in ("creditsConsumed", "consumeCredits") if task.get(name) is not None), None)
    return msgspec.structs.replace(report, cost=answers.credit_cost(credits_, "final"))


def _outputs(task: dict[str, Any], now_ms: int | None) -> tuple[Output, ...]:
    """Return the videos and the last frame of `resultJson`, a string of JSON; raise Unreadable if it is not JSON."""
    result = task.get("resultJson")
    if isinstance(result, str) and result:
        if len(result) > RESULT_MAX_CHARS:
            raise Unreadable(f"resultJson has more than {RESULT_MAX_CHARS} characters")
        try:
            result = msgspec.json.decode(result)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
            raise Unreadable("resultJson is not JSON") from error
    expires_at = answers.expiry(_made_at(task, now_ms), LIFETIME_S)
    found = [output for url in items(at(result, "resultUrls")) for output in answers.output(url, expires_at)]
    found += answers.output(at(result, "lastFrameUrl"), expires_at, OutputKind.LAST_FRAME)
    return answers.distinct(found)


def _made_at(task: dict[str, Any], now_ms: int | None) -> int | None:
    """Return when the result was made: its `completeTime` (unix milliseconds) if that is plausible, else now."""
    if now_ms is None:
        return None
    return answers.whole(task.get("completeTime"), now_ms - LIFETIME_S * 1000, now_ms) or now_ms


def _failure(task: dict[str, Any]) -> JobError | None:
    """Return the error of a task by `failCode`; a text about a policy says more than the code."""
    reason = answers.ErrorText(
        answers.error_text({"code": task.get("failCode")}).code, answers.error_text(task.get("failMsg")).text
    )
    rejected = _POLICY.search(reason.text or "") is not None
    return answers.failure(reason, {(reason.code or "").lower(): answers.REJECTED} if rejected else CODES)


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of `{"code", "msg"}`: its class by the code, since the HTTP status is 200 for errors too."""
    reason = answers.complaint(body)
    kind = CODES.get(reason.code or "") if 200 <= response.status_code < 300 else None
    if kind is None:
        return answers.http_error(response, reason, CODES)
    said = answers.failure(answers.ErrorText(None, reason.text))
    if said is not None and said.class_ is ErrorClass.CONTENT_REJECTED:
        return answers.error_for(response, said.class_, reason)
    # Of a submission 400 only says that a parameter is wrong.
    return answers.error_for(response, ErrorClass.INVALID_INPUT if kind is answers.REJECTED else kind.class_, reason)
