"""Kinovi (formerly seedance2-pro.com): parameters inside `inputs`, credits per second, `callBackUrl` at the top level.

Two generations of its request are published (`urls` with text durations, `imageUrls` with numbers) and three of its
callback: flat with `status`, an envelope with `state`, an envelope with `status`. All are supported. The newest
callback is sent only once.
Sources: https://kinovi.ai/docs/seedance2.0/image-to-video, https://kinovi.ai/openapi.json.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput
from relay.model.job import Cost, Input, JobError, JobState, Output, OutputKind, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.providers import answers
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
    check_reference_mode,
    check_urls,
    items,
    text_or_none,
    with_callback,
    with_rules,
    with_suggestions,
    without_none,
)
from relay.providers.prices import Price, in_credits, seconds_at, text_at

STANDARD: Final = "seedance-20"
FAST: Final = "seedance2-fast"
NEWEST: Final = "seedance2-5"
LIFETIME_S: Final = 14 * 86_400
KEYFRAMES_MAX: Final = 2
USD_PER_CREDIT: Final = Decimal("0.005")
UPSCALE_CREDITS: Final = 28
_CREDITS: Final[dict[tuple[str, str], int | Decimal]] = {
    (STANDARD, "480p"): 15,
    (STANDARD, "720p"): 40,
    (STANDARD, "1080p"): 90,
    (STANDARD, "4k"): 200,
    (FAST, "720p"): 28,
    (NEWEST, "480p"): 26,
    (NEWEST, "720p"): 59,
    (NEWEST, "1080p"): Decimal("143.4"),
}
"""Per second. The image-to-video page has 720p of both models, the upscale and the price of a credit.

Kinovi's public repository kinovi-models has the standard model's other sizes and its prices with a reference video.
With one the newest model counts its seconds too, which relay does not know.
"""
_CREDITS_WITH_VIDEO: Final[dict[tuple[str, str], int | Decimal]] = {
    (STANDARD, "480p"): 19,
    (STANDARD, "720p"): 48,
    (STANDARD, "1080p"): 108,
    (STANDARD, "4k"): 240,
}
PROMPT_MAX: Final = 4000  # with `urls`; with `imageUrls` or without images the model's own applies
PROMPT_MAX_OF: Final = {STANDARD: 10_000, FAST: 10_000, NEWEST: 30_000}
_SIZES: Final = ("480p", "720p", "1080p")
MODELS: Final = {
    STANDARD: ModelLimits(duration_s=(4, 15), resolutions=(*_SIZES, "4k"), references=(9, 3, 3)),
    FAST: ModelLimits(duration_s=(4, 15), resolutions=("480p", "720p", "4k"), references=(9, 3, 3)),
    NEWEST: ModelLimits(duration_s=(4, 30), resolutions=_SIZES, references=(30, 10, 10)),
}
"""Of each model; 4K of the fast one is an upscale."""
CODES: Final[answers.Codes] = {
    **answers.CODES,
    **answers.codes({answers.REJECTED: "2038 asset_review_failed", answers.PROVIDER_FAULT: "500"}),
}
_UNIFIED: Final = {
    "inputs.urls": "images",
    "inputs.imageUrls": "images",
    "inputs.videoUrls": "references",
    "inputs.audioUrls": "references",
    "inputs.prompt": "prompt",
    "inputs.duration": "duration_s",
    "inputs.outputResolution": "resolution",
    "inputs.upscaleResolution": "resolution",
    "inputs.aspectRatio": "aspect_ratio",
    "inputs.generate_audio": "audio",
    "inputs.seed": "seed",
    "inputs.mode": "mode",
}
_SUGGESTIONS: Final = {name.removeprefix("inputs."): name for name in _UNIFIED} | {
    "inputs.resolution": "inputs.outputResolution",
    "inputs.aspect_ratio": "inputs.aspectRatio",
    "inputs.image_urls": "inputs.imageUrls",
}
_OLDER: Final = ("urls", "upscaleResolution")
"""Fields of the first generation, which the newest model does not have."""
_DURATION: Final = re.compile(r"[1-9][0-9]?")
_CAMEL: Final = {
    "image_urls": "imageUrls",
    "video_urls": "videoUrls",
    "audio_urls": "audioUrls",
    "aspect_ratio": "aspectRatio",
    "output_resolution": "outputResolution",
    "upscale_resolution": "upscaleResolution",
}


class Inputs(msgspec.Struct, forbid_unknown_fields=True, rename=_CAMEL):
    """The parameters of both published generations."""

    urls: Annotated[list[str], Meta(min_length=1, max_length=2)] | UnsetType = UNSET
    image_urls: Annotated[list[str], Meta(max_length=30)] | UnsetType = UNSET
    video_urls: Annotated[list[str], Meta(max_length=10)] | UnsetType = UNSET
    audio_urls: Annotated[list[str], Meta(max_length=10)] | UnsetType = UNSET
    prompt: Annotated[str, Meta(max_length=30_000)] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=4, le=30)] | str | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "1:1", "3:4", "4:3", "21:9"] | UnsetType = UNSET
    mode: Literal["keyframe", "reference"] | UnsetType = UNSET
    output_resolution: Literal["480p", "720p", "1080p", "4k"] | UnsetType = UNSET
    upscale_resolution: Literal["4k"] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    bitrate_mode: Literal["high"] | UnsetType = UNSET
    output_format: Literal["mp4", "mov"] | UnsetType = UNSET
    seed: int | UnsetType = UNSET


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a submission."""

    model: Literal["seedance-20", "seedance2-fast", "seedance2-5"]
    inputs: Inputs


class Kinovi(Provider):
    """The adapter; it keeps no state between calls."""

    name = "kinovi"
    title = "Kinovi"
    honours = COMMON | REFERENCES | {"last_frame", "audio", "seed", "mode"}
    base_url = "https://kinovi.ai"
    callback_field = "callBackUrl"
    further_limits: Mapping[str, str] = {
        "images in keyframe mode": str(KEYFRAMES_MAX),
        "characters of a prompt with `urls`": str(PROMPT_MAX),
    }
    unified = _UNIFIED
    request_types: tuple[type, ...] = (Request,)
    limits = Limits(
        models=tuple(MODELS),
        by_model=MODELS,
        duration_s=(4, 30),
        resolutions=("480p", "720p", "1080p", "4k"),
        aspect_ratios=("16:9", "9:16", "1:1", "3:4", "4:3", "21:9"),
        images_max=30,
        prompt_max=PROMPT_MAX,
        prompt_required=False,
        result_lifetime_s=LIFETIME_S,
        expected_s=180,
    )

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body: `adaptive` omits the ratio, and all but one or two images go into `imageUrls`.

        The newest model has no `urls` and no duration as text.
        """
        mode = "reference" if given.references else given.mode
        pictures = [*given.frames, *given.referred("image")]
        newest = given.model == NEWEST
        many = newest or not pictures or (mode == "reference" and len(pictures) > KEYFRAMES_MAX)
        upscaled = given.resolution == "4k"
        inputs = without_none(
            prompt=given.prompt,
            duration=given.duration_s if newest or given.duration_s is None else str(given.duration_s),
            aspectRatio=None if given.aspect_ratio == "adaptive" else given.aspect_ratio,
            mode=mode,
            outputResolution=None if upscaled else given.resolution,
            upscaleResolution="4k" if upscaled else None,
            generate_audio=given.audio,
            seed=given.seed,
            videoUrls=given.referred("video") or None,
            audioUrls=given.referred("audio") or None,
        )
        inputs |= {"imageUrls" if many else "urls": pictures} if pictures else {}
        request: dict[str, object] = {"model": given.model or STANDARD, "inputs": inputs}
        if wrong := check_reference_mode(given):
            raise InvalidInput(wrong + self.check(request))
        return request

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published limits."""
        return with_rules(
            with_suggestions(validation.check(request, Request), _SUGGESTIONS),
            _rules(at(request, "inputs"), at(request, "model")),
        )

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /api/v1/jobs/createTask`."""
        body = with_callback(request, self.callback_field, callback_url)
        return ProviderRequest(method="POST", path="/api/v1/jobs/createTask", body=body)

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; a 2xx is only `{"taskId"}`."""
        return answers.read_submission(response, lambda body: _report(body, None, JobState.SUBMITTED), _explain)

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /api/v1/jobs/recordInfo?taskId=`."""
        return ProviderRequest(method="GET", path=f"/api/v1/jobs/recordInfo?taskId={job.quoted_id}")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise Unreadable unless it is a 2xx with a status."""
        return _report(answers.status_body(response), now_ms)

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of any of the three published callbacks."""
        return _report(body, now_ms)

    def price(self, request: object) -> Price | None:
        """Return credits per second, more for an upscale to 4K; the whole duration is charged at submission."""
        inputs = at(request, "inputs")
        with_video, upscaled = bool(items(at(inputs, "videoUrls"))), at(inputs, "upscaleResolution") is not None
        size = text_at(inputs, "outputResolution") or "720p"
        rate = (_CREDITS_WITH_VIDEO if with_video else _CREDITS).get((text_at(request, "model"), size))
        longest = 30 if text_at(request, "model") == NEWEST else 15
        seconds = seconds_at(inputs, "duration", range(4, longest + 1), 5)
        if rate is None or seconds is None or (upscaled and (with_video or size != "720p")):
            return None
        return in_credits(Decimal((rate + UPSCALE_CREDITS if upscaled else rate) * seconds), USD_PER_CREDIT)


def _rules(inputs: object, model: object) -> list[FieldError]:
    """Return the errors that the schema cannot express: images, mode, prompt and media together; the model's limits."""
    if not isinstance(inputs, dict):
        return []
    own = MODELS.get(model) if isinstance(model, str) else None
    names = ("urls", "imageUrls", "videoUrls", "audioUrls")
    errors = [error for name in names for error in check_urls(inputs.get(name), f"inputs.{name}")]
    errors += _images(inputs, model) + _prompt(inputs, model) + _duration(inputs, own)
    media = any(inputs.get(name) for name in names[2:])
    if media and inputs.get("mode") != "reference" and not (model == NEWEST and "mode" not in inputs):
        errors += [
            FieldError(f"inputs.{name}", 'needs inputs.mode "reference"') for name in names[2:] if inputs.get(name)
        ]
    if own is None or own.references is None:
        return errors
    for name, most in zip(names[1:], own.references, strict=True):
        errors += check_count(inputs.get(name), f"inputs.{name}", (0, most), model)
    if model == FAST and inputs.get("outputResolution") == "4k":
        errors.append(FieldError("inputs.outputResolution", f"is an upscale at {model}: use inputs.upscaleResolution"))
    if model == NEWEST:
        errors += [FieldError(f"inputs.{name}", f"is not a field of {model}") for name in _OLDER if name in inputs]
    placed = {"resolutions": Placed("inputs.outputResolution", inputs.get("outputResolution"))}
    if (seconds := _whole(inputs.get("duration"))) is not None:
        placed["duration_s"] = Placed("inputs.duration", seconds)
    return errors + check_by_model(own, model, placed)


def _images(inputs: dict[str, Any], model: object) -> list[FieldError]:
    """Return the error of the images: one of the two fields, and more than two images only as references."""
    if "urls" in inputs and "imageUrls" in inputs:
        return [FieldError("inputs.imageUrls", "cannot be given with inputs.urls: give one of them")]
    count = len(items(inputs.get("imageUrls")))
    mode = inputs.get("mode", "reference" if model == NEWEST else "keyframe")
    if count > KEYFRAMES_MAX and mode != "reference":
        return [FieldError("inputs.imageUrls", f"must be an array of 1 to 2 items in keyframe mode, not {count}")]
    return []


def _duration(inputs: dict[str, Any], own: ModelLimits | None) -> list[FieldError]:
    """Return the error of a duration that is neither a number nor the same as text."""
    if "duration" not in inputs or _whole(inputs["duration"]) is not None:
        return []
    low, high = (own and own.duration_s) or Kinovi.limits.duration_s
    limit = f"must be an integer from {low} to {high} or a string with one"
    return [FieldError("inputs.duration", f"{limit}, not {validation.shown(inputs['duration'])}")]


def _whole(seconds: object) -> int | None:
    """Return the seconds of a number or a text; None for anything else."""
    if isinstance(seconds, str) and _DURATION.fullmatch(seconds):
        return int(seconds)
    return seconds if isinstance(seconds, int) and not isinstance(seconds, bool) else None


def _prompt(inputs: dict[str, Any], model: object) -> list[FieldError]:
    """Return the error of the prompt: optional and shorter with `urls`, else required."""
    prompt = inputs.get("prompt")
    if "urls" not in inputs and not prompt:
        return [FieldError("inputs.prompt", "is required without inputs.urls")]
    most = PROMPT_MAX if "urls" in inputs else PROMPT_MAX_OF.get(str(model), PROMPT_MAX)
    if isinstance(prompt, str) and len(prompt) > most:
        return [FieldError("inputs.prompt", f"must be a string of at most {most} characters, not {len(prompt)}")]
    return []


def _report(body: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of the task, bare or in an envelope, whose own code and message are no status."""
    task = answers.task_of(body)
    report = answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=_outputs(task, now_ms),
            error=answers.failure(answers.error_text(task.get("error")), CODES),
            provider_job_id=answers.identifier(task.get("taskId"), task.get("task_id")),
            default_state=default,
        )
    )
    return msgspec.structs.replace(report, cost=_cost(task, report.state))


def _cost(task: dict[str, Any], state: JobState | None) -> Cost | None:
    """Return the credits: final on success, reserved before; none on failure, which is refunded but still shown."""
    if state is JobState.SUCCEEDED:
        return answers.credit_cost(task.get("creditsUsed"), "final")
    return answers.credit_cost(task.get("creditsUsed"), "reserved") if state and not state.final else None


def _outputs(task: dict[str, Any], now_ms: int | None) -> tuple[Output, ...]:
    """Return the videos with their sizes, and their last frames."""
    expires_at = answers.expiry(_made_at(task, now_ms), LIFETIME_S)
    given = task.get("output")
    found: list[Output] = []
    for item in [given] if isinstance(given, dict | str) else items(given):
        url = item if isinstance(item, str) else at(item, "url")
        found += answers.output(url, expires_at, size=item)
        found += answers.output(at(item, "lastFrameImage"), expires_at, OutputKind.LAST_FRAME)
    return answers.distinct(found)


def _made_at(task: dict[str, Any], now_ms: int | None) -> int | None:
    """Return when the result was made: its `completeTime` (unix milliseconds) if that is plausible, else now."""
    if now_ms is None:
        return None
    return answers.whole(task.get("completeTime"), now_ms - LIFETIME_S * 1000, now_ms) or now_ms


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of `{"message"}` with its numbers for credits and concurrency, and the paths of wrong inputs."""
    reason = answers.complaint(body)
    text = answers.with_details(reason.text, body, "required", "available", "limit", "current")
    paths = [path for error in items(body.get("errors"))[:10] if (path := _error_path(at(error, "path")))]
    text = f"{text} ({', '.join(paths)})" if text and paths else text
    return answers.http_error(response, answers.ErrorText(reason.code, text), CODES)


def _error_path(path: object) -> str | None:
    """Return the path of a wrong input, which may be text or a list of names."""
    parts = path if isinstance(path, list) else [path]
    return ".".join(part for item in parts[:10] if (part := text_or_none(item, 60))) or None
