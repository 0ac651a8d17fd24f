"""EvoLink: Seedance 2.0 and 2.5, a model for each kind of input, integer seconds, `callback_url` at the top level.

Its callback is the same JSON as its status answer, unsigned, sent when the job ends and retried three times within
seven seconds.
Sources: https://docs.evolink.ai, the image-to-video page of https://evolink.ai, and EvoLink's public repositories.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput
from relay.model.job import Input, JobError, JobState, Report
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
    check_urls,
    items,
    with_callback,
    with_rules,
    without_none,
)
from relay.providers.prices import Price, dollars, seconds_at, text_at

STANDARD: Final = "seedance-2.0-image-to-video"
FAST: Final = "seedance-2.0-fast-image-to-video"
MINI: Final = "seedance-2.0-mini-image-to-video"
FAMILIES: Final = ("seedance-2.0", "seedance-2.0-fast", "seedance-2.0-mini", "seedance-2.5")
KINDS: Final = ("image", "text", "reference")
NEWEST: Final = "seedance-2.5"
AS_INPUT: Final = -1
"""A duration of `seedance-2.5`: as long as its media."""
LIFETIME_S: Final = 86_400
CHINESE_MAX, WORDS_MAX = 500, 1000
_CJK: Final = "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
"""A pattern that takes 2 ms to compile; `re` keeps it from its first use on."""
_USD_PER_S: Final = {
    (STANDARD, "480p"): Decimal("0.0919"),
    (STANDARD, "720p"): Decimal("0.1985"),
    (FAST, "480p"): Decimal("0.0745"),
    (FAST, "720p"): Decimal("0.1608"),
}
"""https://evolink.ai, the page of each Seedance model."""
_UNIFIED: Final = {
    "image_urls": "images",
    "video_urls": "references",
    "audio_urls": "references",
    "duration": "duration_s",
    "quality": "resolution",
    "generate_audio": "audio",
}
_RATIOS: Final = ("16:9", "9:16", "1:1", "4:3", "3:4", "21:9", "adaptive")


def _model_limits(family: str, kind: str) -> ModelLimits:
    """Return the limits of one of a family's three models."""
    newest = family == NEWEST
    most = (30, 10, 10) if newest else (9, 3, 3)
    return ModelLimits(
        duration_s=(4, 30) if newest else (4, 15),
        resolutions=("480p", "720p") if family in FAMILIES[1:3] else ("480p", "720p", "1080p"),
        aspect_ratios=("adaptive",) if newest and kind == "image" else _RATIOS,
        images=(1, 2) if kind == "image" else (0, 0),
        references=most if kind == "reference" else (0, 0, 0),
    )


MODELS: Final = {f"{family}-{kind}-to-video": _model_limits(family, kind) for family in FAMILIES for kind in KINDS}


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a submission; fields with a default are optional."""

    model: Literal[
        "seedance-2.0-image-to-video",
        "seedance-2.0-text-to-video",
        "seedance-2.0-reference-to-video",
        "seedance-2.0-fast-image-to-video",
        "seedance-2.0-fast-text-to-video",
        "seedance-2.0-fast-reference-to-video",
        "seedance-2.0-mini-image-to-video",
        "seedance-2.0-mini-text-to-video",
        "seedance-2.0-mini-reference-to-video",
        "seedance-2.5-image-to-video",
        "seedance-2.5-text-to-video",
        "seedance-2.5-reference-to-video",
    ]
    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]
    image_urls: list[str] | UnsetType = UNSET
    video_urls: list[str] | UnsetType = UNSET
    audio_urls: list[str] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=-1, le=30)] | UnsetType = UNSET
    quality: Literal["480p", "720p", "1080p"] | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "21:9", "adaptive"] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET


class EvoLink(Provider):
    """The adapter; it keeps no state between calls."""

    name = "evolink"
    title = "EvoLink"
    honours = COMMON | REFERENCES | {"last_frame", "audio"}
    base_url = "https://api.evolink.ai"
    callback_field = "callback_url"
    further_limits: Mapping[str, str] = {
        "Chinese characters of a prompt": str(CHINESE_MAX),
        "words of a prompt in other scripts": str(WORDS_MAX),
    }
    unified = _UNIFIED
    request_types: tuple[type, ...] = (Request,)
    limits = Limits(
        models=tuple(MODELS),
        by_model=MODELS,
        duration_s=(4, 30),
        resolutions=("480p", "720p", "1080p"),
        aspect_ratios=_RATIOS,
        images_max=2,
        prompt_max=None,
        prompt_required=True,
        result_lifetime_s=LIFETIME_S,
        expected_s=165,
    )

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body; the model without a name is the standard one for these media."""
        kind = "reference" if given.references else "image" if given.frames else "text"
        request = without_none(
            model=given.model or f"{FAMILIES[0]}-{kind}-to-video",
            prompt=given.prompt,
            image_urls=[*given.frames, *given.referred("image")] or None,
            video_urls=given.referred("video") or None,
            audio_urls=given.referred("audio") or None,
            duration=given.duration_s,
            quality=given.resolution,
            aspect_ratio=given.aspect_ratio,
            generate_audio=given.audio,
        )
        if given.references and given.frames:
            raise InvalidInput([FieldError("references", "cannot be given with images"), *self.check(request)])
        return request

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published limits."""
        return with_rules(validation.check(request, Request), _rules(request))

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /v1/videos/generations`."""
        body = with_callback(request, self.callback_field, callback_url)
        return ProviderRequest(method="POST", path="/v1/videos/generations", body=body)

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; a 2xx has the id and the reserved credits."""
        return answers.read_submission(response, lambda body: _report(body, None, JobState.SUBMITTED), _explain)

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /v1/tasks/{id}`."""
        return ProviderRequest(method="GET", path=f"/v1/tasks/{job.quoted_id}")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise Unreadable unless it is a 2xx with a status."""
        return _report(answers.status_body(response), now_ms)

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of a callback in its full, minimal or failed form."""
        return _report(body, now_ms)

    def price(self, request: object) -> Price | None:
        """Return USD per second by model and quality; audio is free."""
        usd_per_s = _USD_PER_S.get((text_at(request, "model"), text_at(request, "quality") or "720p"))
        seconds = seconds_at(request, "duration", range(4, 16), 5)
        return None if usd_per_s is None or seconds is None else dollars(usd_per_s * seconds)


def _rules(request: object) -> list[FieldError]:
    """Return the errors that the schema cannot express: the media, the model's own limits, the prompt."""
    model, duration = at(request, "model"), at(request, "duration")
    own = MODELS.get(model) if isinstance(model, str) else None
    errors = _media(request, own) + _prompt_length(at(request, "prompt"))
    placed = {
        "resolutions": Placed("quality", at(request, "quality")),
        "aspect_ratios": Placed("aspect_ratio", at(request, "aspect_ratio")),
    }
    if duration != AS_INPUT or not str(model).startswith(NEWEST):
        placed["duration_s"] = Placed("duration", duration)
    return errors + check_by_model(own, model, placed)


def _media(request: object, own: ModelLimits | None) -> list[FieldError]:
    """Return the errors of the media: their URLs, and how many of each kind the model accepts."""
    names, model = ("image_urls", "video_urls", "audio_urls"), at(request, "model")
    errors = [error for name in names for error in check_urls(at(request, name), name)]
    if own is None or own.images is None or own.references is None:
        return errors
    frames = own.images if own.images[1] else (0, own.references[0])
    for name, most in zip(names, (frames, (0, own.references[1]), (0, own.references[2])), strict=True):
        errors += check_count(at(request, name), name, most, model)
    if any(own.references):
        seen = [bool(items(at(request, name))) for name in names]
        enough = any(seen) if str(model).startswith(NEWEST) else any(seen[:2])
        errors += [] if enough else [FieldError("image_urls", f"or video_urls is required for {model}")]
    return errors


def _prompt_length(prompt: object) -> list[FieldError]:
    """Return the error of the prompt's length: EvoLink counts Chinese text in characters, all other text in words."""
    if not isinstance(prompt, str):
        return []
    chinese = 0 if prompt.isascii() else len(re.findall(_CJK, prompt))
    pieces = (re.sub(_CJK, " ", prompt) if chinese else prompt).split()
    if len(pieces) <= WORDS_MAX and prompt.strip() and chinese <= CHINESE_MAX:
        return []
    words = sum(any(letter.isalnum() for letter in piece) for piece in pieces)
    if prompt.strip() and chinese <= CHINESE_MAX and words <= WORDS_MAX:
        return []
    limit = f"must be 1 to {CHINESE_MAX} Chinese characters or 1 to {WORDS_MAX} words"
    return [FieldError("prompt", f"{limit}, not {chinese} and {words}")]


def _report(body: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of the task object in a submission answer, a status answer or a callback."""
    task = answers.task_of(body)
    # `results` has URLs; some answers have `result_data` with objects instead.
    urls, error = items(task.get("results")), task.get("error")
    if "result_data" in task:
        urls = urls + [at(item, "video_url") for item in items(task["result_data"])]
    expires_at, duration_s = answers.expiry(now_ms, LIFETIME_S), at(task, "task_info", "video_duration")
    outputs = [output for url in urls for output in answers.output(url, expires_at, duration_s=duration_s)]
    return answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=answers.distinct(outputs),
            error=None if error is None else answers.failure(answers.error_text(error)),
            provider_job_id=answers.identifier(task.get("id"), task.get("task_id")),
            cost=answers.credit_cost(at(task, "usage", "credits_reserved"), "reserved"),
            estimate_s=answers.whole(at(task, "task_info", "estimated_time"), 1, 86_400),
            default_state=default,
        )
    )


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of `{"error": {"code", "message", "type"}}`; in older answers the code is a number."""
    return answers.http_error(response, answers.complaint(body))
