"""StableStudio: Seedance from images or text, paid per job in USDC (x402); only the wallet that paid reads the status.

It sends no callbacks. Two request bodies are published: a native request may be either, and RELAY_STABLESTUDIO_SCHEMA
selects the one for a unified input. The model is in the path, not in the body, so `model` in a native request is
relay's own field and is removed before sending.
Sources: https://stablestudio.dev and its agents' pages, https://github.com/Merit-Systems.
"""

from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput, Unreadable
from relay.model.job import ErrorClass, Input, JobError, JobState, OutputKind, Report
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
    check_reference_mode,
    check_url,
    check_urls,
    with_rules,
    without_none,
)

STANDARD: Final = "seedance"
FAST: Final = "seedance-fast"
LIFETIME_S: Final = 1200
RATIOS: Final = ("16:9", "9:16", "4:3", "3:4", "1:1", "21:9")
Model = Literal["seedance", "seedance-fast"]
Seconds = Literal["4", "5", "6", "7", "8", "9", "10", "11", "12"]
Resolution = Literal["480p", "720p", "1080p"]
Ratio = Literal["16:9", "9:16", "4:3", "3:4", "1:1", "21:9"]
Prompt = Annotated[str, Meta(min_length=1, max_length=10_000)]
_UNIFIED: Final = {
    "image": "images",
    "last_image": "images",
    "urls": "images",
    "duration": "duration_s",
    "outputResolution": "resolution",
    "aspectRatio": "aspect_ratio",
    "generate_audio": "audio",
}
_NEWER: Final = ("outputResolution", "aspectRatio", "mode")
"""Fields that only the newer body has, which tell it from the older one if there are no media."""
_HONOURS: Final = {
    "a": COMMON | {"last_frame", "audio", "seed"},
    "b": COMMON | REFERENCES | {"last_frame", "mode"},
}
_REFUSED: Final = ("sensitive", "e005", "moderation", "flagged")
"""Texts of its errors about a prompt or an image that it will never accept."""


class RequestA(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the first published page."""

    prompt: Prompt
    image: str | UnsetType = UNSET
    model: Model | UnsetType = UNSET
    last_image: str | UnsetType = UNSET
    duration: Seconds | UnsetType = UNSET
    resolution: Resolution | UnsetType = UNSET
    aspect_ratio: Ratio | UnsetType = UNSET
    camera_fixed: bool | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] | UnsetType = UNSET


class RequestB(msgspec.Struct, forbid_unknown_fields=True):
    """The newer body."""

    prompt: Prompt
    urls: Annotated[list[str], Meta(min_length=1, max_length=9)] | UnsetType = UNSET
    model: Model | UnsetType = UNSET
    urlMediaTypes: list[Literal["image", "video", "audio"]] | UnsetType = UNSET  # noqa: N815 - the provider's spelling
    duration: Seconds | UnsetType = UNSET
    aspectRatio: Ratio | UnsetType = UNSET  # noqa: N815
    outputResolution: Resolution | UnsetType = UNSET  # noqa: N815
    mode: Literal["keyframe", "reference"] | UnsetType = UNSET


class StableStudio(Provider):
    """The adapter; `schema` selects the body of a unified input."""

    name = "stablestudio"
    title = "StableStudio"
    base_url = "https://stablestudio.dev"
    verifier = "none"
    unified = _UNIFIED
    request_types: tuple[type, ...] = (RequestA, RequestB)
    limits = Limits(
        models=(STANDARD, FAST),
        duration_s=(4, 12),
        resolutions=("480p", "720p", "1080p"),
        aspect_ratios=RATIOS,
        images_max=2,
        prompt_max=10_000,
        prompt_required=True,
        result_lifetime_s=LIFETIME_S,
        expected_s=60,
        poll_s=10,
        paid=True,
    )

    def __init__(self, schema: Literal["a", "b"] = "a") -> None:
        self._schema = schema
        self.honours = _HONOURS[schema]

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body in the configured schema."""
        seconds = None if given.duration_s is None else str(given.duration_s)
        shared = without_none(model=given.model, prompt=given.prompt, duration=seconds)
        if self._schema == "b":
            media = [("image", url) for url in given.frames]
            media += [(kind, url) for kind in ("image", "video", "audio") for url in given.referred(kind)]
            request = shared | without_none(
                urls=[url for _, url in media] or None,
                urlMediaTypes=[kind for kind, _ in media] or None,
                aspectRatio=given.aspect_ratio,
                outputResolution=given.resolution,
                mode="reference" if given.references else given.mode,
            )
            wrong = check_reference_mode(given)
        else:
            first, last = [*given.frames, None, None][:2]
            request = shared | without_none(
                image=first,
                last_image=last,
                resolution=given.resolution,
                aspect_ratio=given.aspect_ratio,
                generate_audio=given.audio,
                seed=given.seed,
            )
            wrong = []
        if len(given.images) > self.limits.images_max:
            wrong.append(FieldError("images", "must have 1 or 2 images"))
        if wrong:
            raise InvalidInput(wrong + self.check(request))
        return request

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published body that the request's own fields indicate."""
        newer = isinstance(request, dict) and (
            "urls" in request or ("image" not in request and any(name in request for name in _NEWER))
        )
        errors = validation.check(request, RequestB if newer else RequestA)
        found = check_urls(at(request, "urls"), "urls")
        for name in ("image", "last_image"):
            found += check_url(at(request, name), name) if isinstance(at(request, name), str) else []
        if at(request, "last_image") is not None and at(request, "image") is None:
            found.append(FieldError("image", "is required with last_image"))
        if at(request, "mode") == "reference" and not at(request, "urls"):
            found.append(FieldError("urls", "is required in reference mode"))
        return with_rules(errors, found)

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /api/generate/seedance/i2v`, or `t2v` without media; `jobs/payment.py` adds the payment."""
        kind = "i2v" if request.get("image") or request.get("urls") else "t2v"
        model = quote(str(request.get("model", STANDARD)), safe="")
        body = {name: value for name, value in request.items() if name != "model"}
        return ProviderRequest(method="POST", path=f"/api/generate/{model}/{kind}", body=body, bearer=False)

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; a 2xx is `{"jobId", "status", "success"}`."""
        return answers.read_submission(response, lambda body: _report(body, None, JobState.SUBMITTED), _explain)

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /api/jobs/{id}`; the wallet that paid signs it."""
        return ProviderRequest(method="GET", path=f"/api/jobs/{job.quoted_id}", bearer=False)

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise Unreadable for a 402, which a status check never pays."""
        if response.status_code == 402:
            raise Unreadable("HTTP 402: it asks for a sign-in or a payment")
        return _report(answers.status_body(response), now_ms)


def _report(body: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of the job object; its success flag only says that the job was accepted."""
    task = answers.task_of(body)
    expires_at = answers.expiry(now_ms, LIFETIME_S)
    outputs = answers.output(at(task, "result", "videoUrl") or task.get("videoUrl"), expires_at)
    thumbnail = at(task, "result", "thumbnailUrl") or task.get("thumbnailUrl")
    outputs += answers.output(thumbnail, expires_at, OutputKind.THUMBNAIL)
    return answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=answers.distinct(outputs),
            error=_failure(task.get("error")),
            provider_job_id=answers.identifier(task.get("jobId"), task.get("id")),
            default_state=default,
        )
    )


def _failure(error: object) -> JobError | None:
    """Return the error of a failed job, usually a text, which decides whether another try can succeed."""
    reason = answers.error_text(error)
    found = answers.failure(reason)
    if found is not None and any(phrase in f"{reason.code} {reason.text}".lower() for phrase in _REFUSED):
        return msgspec.structs.replace(found, class_=ErrorClass.CONTENT_REJECTED, retryable=False)
    return found


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of a refusal."""
    return answers.http_error(response, answers.complaint(body))
