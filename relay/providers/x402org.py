"""x402.org's image-to-video: paid per call in USDC (x402); it answers with the video, or with a URL to poll.

It sends no callbacks. If the video is made within about 22 seconds, the response is the result; otherwise it has a
`job_id` and a `poll_url`, which relay polls only on the provider's own origin.
Sources: https://x402.org, https://agentutility.ai/synthforge/image-to-video and its sister page on text-to-video.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput, Unreadable
from relay.model.job import Input, JobError, JobState, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.model.result_urls import is_url
from relay.providers import answers
from relay.providers.base import (
    COMMON,
    Limits,
    Provider,
    SubmissionAnswer,
    SubmittedJob,
    at,
    check_url,
    text_or_none,
    with_rules,
    without_none,
)

MODEL: Final = "seedance-2-0-fast-image-to-video"
_HOSTS: Final = ("x402.org", "x402.agentutility.ai")
_UNIFIED: Final = {"image_url": "images", "duration": "duration_s"}
_PATH_MAX: Final = 512
NOTE_MAX: Final = 100
_NOTED: Final = ("source", "venice_request_id", "fal_request_id")


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a call; fields with a default are optional."""

    image_url: str
    prompt: Annotated[str, Meta(max_length=10_000)] | UnsetType = UNSET
    duration: Literal["5s", "10s"] | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3"] | UnsetType = UNSET
    resolution: Literal["480p", "720p"] | UnsetType = UNSET
    model: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET


class X402Org(Provider):
    """The adapter; it keeps no state between calls."""

    name = "x402org"
    title = "x402.org"
    honours = COMMON
    base_url = "https://x402.org"
    verifier = "none"
    further_limits: Mapping[str, str] = {"characters of a noted id or `source`": str(NOTE_MAX)}
    unified = _UNIFIED
    request_types: tuple[type, ...] = (Request,)
    limits = Limits(
        models=(MODEL,),
        duration_s=(5, 10),
        resolutions=("480p", "720p"),
        aspect_ratios=("16:9", "9:16", "1:1", "4:3"),
        images_max=1,
        prompt_max=10_000,
        prompt_required=False,
        result_lifetime_s=None,
        expected_s=60,
        poll_s=10,
        paid=True,
    )

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body: one image, and a length of 5 or 10 seconds."""
        request = without_none(
            image_url=given.images[0] if given.images else None,
            prompt=given.prompt,
            duration=None if given.duration_s is None else f"{given.duration_s}s",
            aspect_ratio=given.aspect_ratio,
            resolution=given.resolution,
            model=given.model,
        )
        if len(given.images) > 1:
            raise InvalidInput([FieldError("images", "must have 1 image"), *self.check(request)])
        return request

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published body."""
        image = at(request, "image_url")
        found = check_url(image, "image_url") if isinstance(image, str) else []
        return with_rules(validation.check(request, Request), found)

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /v1/image-to-video`; `jobs/payment.py` adds the payment."""
        return ProviderRequest(method="POST", path="/v1/image-to-video", body=dict(request), bearer=False)

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result: the video, or the path to poll."""
        return answers.read_submission(response, lambda body: _report(body, JobState.SUBMITTED), _explain)

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET` of the path that the submission's response named; without one, of an assumed path."""
        path = job.status_path or f"/v1/jobs/{job.quoted_id}"
        return ProviderRequest(method="GET", path=path, bearer=False)

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of the poll URL's answer; raise Unreadable for a 402, which a status check never pays."""
        if response.status_code == 402:
            raise Unreadable("HTTP 402: it asks for a sign-in or a payment")
        return _report(answers.status_body(response))


def _report(body: dict[str, Any], default: JobState | None = None) -> Report:
    """Return the report; a task with a video succeeded, whatever else the body has."""
    task = answers.task_of(body)
    url, duration = task.get("video_url") or at(task, "result", "video_url"), task.get("duration")
    duration_s = duration.removesuffix("s") if isinstance(duration, str) else duration
    outputs = tuple(output for output in answers.output(url, None, duration_s=duration_s) if is_url(output.url))
    report = answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=outputs,
            error=answers.failure(answers.error_text(task.get("error"))),
            provider_job_id=answers.identifier(
                task.get("job_id"), task.get("venice_request_id"), task.get("fal_request_id"), task.get("id")
            ),
            default_state=JobState.SUCCEEDED if outputs else JobState.FAILED if task.get("error") else default,
        )
    )
    if outputs:
        report = msgspec.structs.replace(report, state=JobState.SUCCEEDED, outputs=outputs)
    return msgspec.structs.replace(report, status_path=_own_path(task.get("poll_url")), note=_note(task))


def _note(task: dict[str, Any]) -> str | None:
    """Return how the video was made and the ids of the upstream requests, which may differ from the job's own."""
    noted = [(name, text_or_none(task.get(name), NOTE_MAX)) for name in _NOTED]
    return ", ".join(f"{name} {text}" for name, text in noted if text) or None


def _own_path(url: object) -> str | None:
    """Return the path and query of a poll URL on the provider's own hosts; None for any other URL."""
    if not isinstance(url, str) or len(url) > _PATH_MAX or not url.isascii() or not url.isprintable():
        return None
    if any(refused in url for refused in ("\\", " ", "#")):
        return None
    try:
        parts = urlsplit(url)
        own = parts.scheme == "https" and parts.netloc.lower() in _HOSTS
    except ValueError:
        return None
    relative = not parts.scheme and not parts.netloc
    if not (own or relative) or not parts.path.startswith("/") or parts.path.startswith("//"):
        return None
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of a refusal."""
    return answers.http_error(response, answers.complaint(body))
