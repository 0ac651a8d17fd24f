"""OpenRouter video: one body for the models of many vendors, frames in `frame_images`, `callback_url` at the top level.

The callback is an envelope around the job, sent when the job has ended, and signed only if the workspace has a secret.
A workspace may have a callback URL of its own, so callbacks about jobs that are not relay's may come. The results'
`unsigned_urls` need the API key; `urls` do not, but exist only where OpenRouter keeps a copy. What a model accepts is
published by `GET /api/v1/videos/models` and not in these pages: relay checks what is common to all, and OpenRouter
refuses the rest with 400. Retries of a callback are not published.
Sources: https://openrouter.ai/docs, its guide to video generation and its OpenAPI description.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.clock import rfc3339
from relay.errors import FieldError
from relay.model.job import Cost, ErrorClass, Input, JobError, JobState, Output, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.providers import answers
from relay.providers.base import (
    COMMON,
    REFERENCES,
    Limits,
    Provider,
    SubmissionAnswer,
    SubmittedJob,
    at,
    check_url,
    items,
    with_callback,
    with_rules,
    without_none,
)
from relay.providers.prices import Price, dollars, seconds_at, text_at

SEEDANCE: Final = "bytedance/seedance-2.0"
SECONDS_MAX: Final = 30
SESSION_MAX: Final = 256
FRAMES_MAX: Final = 2
REFERENCES_MAX: Final = 50
"""relay's own limit: none is published for all models."""
_RESOLUTIONS: Final = ("360p", "480p", "720p", "768p", "1080p", "1K", "2K", "4K")
_AS_SPELLED: Final = {name.lower(): name for name in _RESOLUTIONS}
_LOWEST_USD: Final = {
    "bytedance/seedance-2.5": ("480p", Decimal("0.1028")),
    "bytedance/seedance-2.0": ("480p", Decimal("0.06726")),
    "bytedance/seedance-2.0-fast": ("480p", Decimal("0.04035")),
    "bytedance/seedance-2.0-mini": ("480p", Decimal("0.03363")),
    "alibaba/wan-3.0": ("480p", Decimal("0.0425")),
    "minimax/hailuo-3-max": ("480p", Decimal("0.05")),
    "x-ai/grok-imagine-video": ("480p", Decimal("0.05")),
    "google/veo-3.1-fast": ("720p", Decimal("0.10")),
    "google/veo-3.1-lite": ("720p", Decimal("0.05")),
}
"""USD a second at a model's lowest resolution, with audio: the only one that a list without conditions can mean."""

_UNIFIED: Final = {
    "frame_images": "images",
    "input_references": "references",
    "duration": "duration_s",
    "generate_audio": "audio",
}
_Prompt = Annotated[str, Meta(max_length=30_000)]


class Url(msgspec.Struct, forbid_unknown_fields=True):
    """A URL of an image, a video or a sound."""

    url: Annotated[str, Meta(max_length=2048)]


class Frame(msgspec.Struct, forbid_unknown_fields=True):
    """An image that is the first or the last frame."""

    type: Literal["image_url"]
    image_url: Url
    frame_type: Literal["first_frame", "last_frame"]


class Reference(msgspec.Struct, forbid_unknown_fields=True):
    """A reference, with the field that its type names."""

    type: Literal["image_url", "video_url", "audio_url"]
    image_url: Url | UnsetType = UNSET
    video_url: Url | UnsetType = UNSET
    audio_url: Url | UnsetType = UNSET


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a submission."""

    model: Literal[
        "bytedance/seedance-2.0",
        "bytedance/seedance-2.0-fast",
        "bytedance/seedance-2.0-mini",
        "bytedance/seedance-2.5",
        "google/veo-3.1",
        "google/veo-3.1-fast",
        "google/veo-3.1-lite",
        "kwaivgi/kling-v3.0-std",
        "kwaivgi/kling-v3.0-pro",
        "alibaba/wan-2.7",
        "alibaba/wan-3.0",
        "minimax/hailuo-3",
        "minimax/hailuo-3-max",
        "x-ai/grok-imagine-video",
    ]
    prompt: _Prompt | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=1, le=SECONDS_MAX)] | UnsetType = UNSET
    resolution: Literal["360p", "480p", "720p", "768p", "1080p", "1K", "2K", "4K"] | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "9:21"] | UnsetType = UNSET
    size: Annotated[str, Meta(pattern=r"^[0-9]{2,5}x[0-9]{2,5}$")] | UnsetType = UNSET
    frame_images: Annotated[list[Frame], Meta(max_length=FRAMES_MAX)] | UnsetType = UNSET
    input_references: Annotated[list[Reference], Meta(max_length=REFERENCES_MAX)] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    previous_job_id: Annotated[str, Meta(max_length=200)] | UnsetType = UNSET
    provider: dict[str, Any] | UnsetType = UNSET
    session_id: Annotated[str, Meta(max_length=SESSION_MAX)] | UnsetType = UNSET
    user: Annotated[str, Meta(max_length=SESSION_MAX)] | UnsetType = UNSET
    trace: dict[str, Any] | UnsetType = UNSET
    creativity: Any | UnsetType = UNSET
    upscale_factor: Any | UnsetType = UNSET


_CONTENT: Final = re.compile(r"policy|sensitive|moderat|flagged", re.IGNORECASE)
_NO_CREDIT: Final = re.compile(r"insufficient (credit|fund|balance)|more credits|key limit exceeded", re.IGNORECASE)
_OWN_CONTENT: Final = re.compile(r"/api/v1/videos/[^/]+/content")


class OpenRouter(Provider):
    """The adapter; it keeps no state between calls."""

    name = "openrouter"
    title = "OpenRouter"
    base_url = "https://openrouter.ai"
    callback_field = "callback_url"
    verifier = "openrouter"
    unified = _UNIFIED
    honours = COMMON | REFERENCES | {"last_frame", "audio", "seed"}
    request_types: tuple[type, ...] = (Request,)
    limits = Limits(
        models=tuple(Request.__annotations__["model"].__args__),
        duration_s=(1, SECONDS_MAX),
        resolutions=_RESOLUTIONS,
        aspect_ratios=("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9", "9:21"),
        images_max=2,
        prompt_max=30_000,
        prompt_required=False,
        result_lifetime_s=None,
        expected_s=120,
    )

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body; `generate_audio` is always in it, because two defaults of it are published."""
        frames = [
            {
                "type": "image_url",
                "image_url": {"url": url},
                "frame_type": "last_frame" if index else "first_frame",
            }
            for index, url in enumerate(given.frames)
        ]
        references = [
            {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
            for kind in ("image", "video", "audio")
            for url in given.referred(kind)
        ]
        resolution = given.resolution
        return without_none(
            model=given.model or SEEDANCE,
            prompt=given.prompt,
            frame_images=frames or None,
            input_references=references or None,
            duration=given.duration_s,
            resolution=None if resolution is None else _AS_SPELLED.get(resolution.lower(), resolution),
            aspect_ratio=given.aspect_ratio,
            generate_audio=True if given.audio is None else given.audio,
            seed=given.seed,
        )

    def check(self, request: object) -> list[FieldError]:
        """Return every error by what is published for all models."""
        return with_rules(validation.check(request, Request), _rules(request))

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /api/v1/videos`."""
        body = with_callback(request, self.callback_field, callback_url)
        return ProviderRequest(method="POST", path="/api/v1/videos", body=body)

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; a 2xx has the id."""
        return answers.read_submission(response, lambda body: _report(body, None, JobState.SUBMITTED), _explain)

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /api/v1/videos/{id}`; `polling_url` is the same, relative or absolute."""
        return ProviderRequest(method="GET", path=f"/api/v1/videos/{job.quoted_id}")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise Unreadable unless it is a 2xx with a status."""
        return _report(answers.status_body(response), now_ms)

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of a callback, `{"type", "created_at", "data"}`."""
        return _report(body, now_ms)

    def price(self, request: object) -> Price | None:
        """Return USD by the second at a model's lowest resolution, as the list of models has it."""
        resolution, unit = _LOWEST_USD.get(text_at(request, "model"), ("", None))
        seconds = seconds_at(request, "duration", range(1, SECONDS_MAX + 1), None)
        if unit is None or seconds is None or text_at(request, "resolution") != resolution:
            return None
        return dollars(unit * seconds) if at(request, "generate_audio") is True else None


def _rules(request: object) -> list[FieldError]:
    """Return the errors that the schema cannot express: URLs, frames, references, the prompt, the size."""
    if not isinstance(request, dict):
        return []
    # Of longer lists the schema says that they are too long.
    frames = items(request.get("frame_images"))[: FRAMES_MAX + 1]
    references = items(request.get("input_references"))[:REFERENCES_MAX]
    errors = []
    for index, frame in enumerate(frames):
        if isinstance(url := at(frame, "image_url", "url"), str):
            errors += check_url(url, f"frame_images[{index}].image_url.url")
    for index, reference in enumerate(references):
        errors += _reference(reference, f"input_references[{index}]")
    kinds = [at(frame, "frame_type") for frame in frames]
    if len(kinds) == 2 and kinds[0] == kinds[1]:
        errors.append(FieldError("frame_images", "must have one first_frame and one last_frame"))
    if frames and references:
        errors.append(FieldError("input_references", "cannot be given with frame_images: OpenRouter ignores them"))
    if not frames and not references and not request.get("prompt"):
        errors.append(FieldError("prompt", "is required without frame_images and input_references"))
    if "size" in request and ("resolution" in request or "aspect_ratio" in request):
        errors.append(FieldError("size", "cannot be given with resolution or aspect_ratio"))
    return errors


def _reference(reference: object, path: str) -> list[FieldError]:
    """Return the errors of a reference: the field that its type names, with a public URL."""
    kind = at(reference, "type")
    if kind not in ("image_url", "video_url", "audio_url"):
        return []
    url = at(reference, kind, "url")
    if at(reference, kind) is None:
        return [FieldError(f"{path}.{kind}", "is required with this type")]
    return check_url(url, f"{path}.{kind}.url") if isinstance(url, str) else []


def _report(body: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of a job, bare or in a callback's envelope."""
    task = answers.task_of(body)
    return answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=_outputs(task, now_ms),
            error=_failure(task.get("error")),
            provider_job_id=answers.identifier(task.get("id")),
            cost=_cost(at(task, "usage", "cost")),
            default_state=default,
        )
    )


def _outputs(task: dict[str, Any], now_ms: int | None) -> tuple[Output, ...]:
    """Return the results: the signed URLs if there are any, else those that need the API key."""
    signed = items(task.get("urls"))
    if any(isinstance(url, str) and url.strip() for url in signed):
        expires_at = _expiry(task.get("expires_at"), now_ms)
        return answers.distinct(one for url in signed for one in answers.output(url, expires_at))
    found = answers.distinct(one for url in items(task.get("unsigned_urls")) for one in answers.output(url, None))
    return tuple(msgspec.structs.replace(one, needs_key=True) if _is_content(one.url) else one for one in found)


def _is_content(url: str) -> bool:
    """Return whether a URL is OpenRouter's own route of results, and not an upstream provider's file."""
    try:
        return _OWN_CONTENT.fullmatch(urlsplit(url).path) is not None
    except ValueError:
        return False


def _expiry(value: object, now_ms: int | None) -> str | None:
    """Return a time in unix seconds as RFC 3339, if it lies in the next ten years."""
    if now_ms is None:
        return None
    seconds = answers.whole(value, now_ms // 1000, now_ms // 1000 + 10 * 365 * 86_400)
    return None if seconds is None else rfc3339(seconds * 1000)


def _cost(value: object) -> Cost | None:
    """Return the cost in USD, which is exact when the job has ended."""
    cost = answers.credit_cost(value, "final")
    return None if cost is None else msgspec.structs.replace(cost, unit="USD")


def _failure(error: object) -> JobError | None:
    """Return the error of a failed job, a text or an object with a code."""
    reason = answers.error_text(error)
    known = answers.failure(reason)
    if known is None or known.class_ is not ErrorClass.UNKNOWN or not _CONTENT.search(str(reason)):
        return known
    return msgspec.structs.replace(known, class_=ErrorClass.CONTENT_REJECTED, retryable=False)


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of `{"error": {"code", "message", "metadata"}}`.

    A key's own limit of credits answers 403, as a refused prompt does, whose metadata has the reasons.
    """
    reason = answers.complaint(body)
    metadata = at(body, "error", "metadata")
    text = reason.text or ""
    if response.status_code in (402, 403, 429) and _NO_CREDIT.search(text):
        return answers.error_for(response, ErrorClass.INSUFFICIENT_FUNDS, reason)
    if response.status_code == 403 and (at(metadata, "reasons") or at(metadata, "flagged_input")):
        return answers.error_for(response, ErrorClass.CONTENT_REJECTED, reason)
    if response.status_code == 400 and _CONTENT.search(text):
        return answers.error_for(response, ErrorClass.CONTENT_REJECTED, reason)
    if response.status_code == 499:
        # The connection ended before OpenRouter answered: another submission may be charged again.
        error = answers.error_for(response, ErrorClass.PROVIDER_ERROR, reason)
        return msgspec.structs.replace(error, retryable=False)
    return answers.http_error(response, reason)
