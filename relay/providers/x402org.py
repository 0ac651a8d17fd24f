"""x402.org's image-to-video: paid for each call in USDC (x402); it answers with the video, or with where to ask for it.

It never calls back. Within about 22 seconds the answer is the result itself; after that it is a `job_id` and a
`poll_url`, which is followed on the provider's own origin alone.
Sources: https://x402.org, https://agentutility.ai/synthforge/image-to-video and its sister page on text-to-video.
"""

from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput, Unreadable
from relay.model.job import Input, JobError, JobState, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.model.result_urls import is_url
from relay.providers import answers
from relay.providers.base import (
    Limits,
    SubmissionAnswer,
    at,
    check_url,
    not_taken,
    text_or_none,
    unified_path,
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
    """The body of a call; what has a default may be left out."""

    image_url: str
    prompt: Annotated[str, Meta(max_length=10_000)] | UnsetType = UNSET
    duration: Literal["5s", "10s"] | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3"] | UnsetType = UNSET
    resolution: Literal["480p", "720p"] | UnsetType = UNSET
    model: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET


class X402Org:
    """The adapter; it keeps nothing between calls."""

    name = "x402org"
    base_url = "https://x402.org"
    callback_field = ""
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
        """The native body; one image, and a length of 5 or 10 seconds."""
        request = without_none(
            image_url=given.images[0] if given.images else None,
            prompt=given.prompt,
            duration=None if given.duration_s is None else f"{given.duration_s}s",
            aspect_ratio=given.aspect_ratio,
            resolution=given.resolution,
            model=given.model,
        )
        refused = not_taken("x402.org", audio=given.audio, seed=given.seed, mode=given.mode)
        if len(given.images) > 1:
            refused.append(FieldError("images", "must have 1 image"))
        if refused:
            raise InvalidInput(refused + self.check(request))
        return request

    def check(self, request: object) -> list[FieldError]:
        """Every error against the published body."""
        image = at(request, "image_url")
        found = check_url(image, "image_url") if isinstance(image, str) else []
        return with_rules(validation.check(request, Request), found)

    def input_path(self, native_path: str) -> str:
        """`image_url` → `images`."""
        return unified_path(native_path, _UNIFIED)

    def submission(self, request: dict[str, object], callback_url: str | None) -> ProviderRequest:  # noqa: ARG002
        """`POST /v1/image-to-video`; the payment is added by whoever pays."""
        return ProviderRequest(method="POST", path="/v1/image-to-video", body=dict(request), bearer=False)

    def read_submission(self, answer: ProviderResponse) -> SubmissionAnswer:
        """The video, or where to ask for it."""
        return answers.read_submission(answer, lambda body: _report(body, JobState.SUBMITTED), _explain)

    def status_check(self, provider_job_id: str, status_path: str | None = None) -> ProviderRequest:
        """`GET` of the path that the answer named; without one, a guess in the manner of the submission."""
        path = status_path or f"/v1/jobs/{quote(provider_job_id, safe='')}"
        return ProviderRequest(method="GET", path=path, bearer=False)

    def read_status(self, answer: ProviderResponse, now_ms: int) -> Report:  # noqa: ARG002 - the protocol's signature
        """The job as its poll URL tells it; Unreadable for a 402, which a status check never pays."""
        if answer.status_code == 402:
            raise Unreadable("HTTP 402: it asks for a sign-in or a payment")
        return _report(answers.status_body(answer))

    def cancellation(self, provider_job_id: str) -> ProviderRequest | None:  # noqa: ARG002 - the protocol's signature
        """None: no page tells of a route."""
        return None

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:  # noqa: ARG002 - the protocol's signature
        """There are none."""
        raise Unreadable("x402.org sends no callbacks")


def _report(body: dict[str, Any], otherwise: JobState | None = None) -> Report:
    """A video is a success, whatever else is said."""
    body = answers.task_of(body)
    url = body.get("video_url") or at(body, "result", "video_url")
    named = answers.distinct(answers.output(url, None, duration_s=_seconds(body.get("duration"))))
    outputs = tuple(one for one in named if is_url(one.url))
    found = answers.told(
        body,
        outputs,
        answers.failure(*answers.error_words(body.get("error"))),
        provider_job_id=answers.identifier(
            body.get("job_id"), body.get("venice_request_id"), body.get("fal_request_id"), body.get("id")
        ),
        otherwise=JobState.SUCCEEDED if outputs else JobState.FAILED if body.get("error") else otherwise,
    )
    if outputs:
        found = msgspec.structs.replace(found, state=JobState.SUCCEEDED, outputs=outputs)
    return msgspec.structs.replace(found, status_path=_own_path(body.get("poll_url")), note=_note(body))


def _note(body: dict[str, Any]) -> str | None:
    """Whether the video was made or found, and the id of the request behind it, which the job's own need not be."""
    said = [(name, text_or_none(body.get(name), NOTE_MAX)) for name in _NOTED]
    return ", ".join(f"{name} {text}" for name, text in said if text) or None


def _seconds(duration: object) -> object:
    """`5s` → `5`."""
    return duration.removesuffix("s") if isinstance(duration, str) else duration


def _own_path(url: object) -> str | None:
    """The path and query of a poll URL on the provider's own hosts; None for any other, which is never followed."""
    if not isinstance(url, str) or len(url) > _PATH_MAX or not url.isascii() or not url.isprintable():
        return None
    if any(odd in url for odd in ("\\", " ", "#")):
        return None
    try:
        parts = urlsplit(url)
        own = parts.scheme == "https" and parts.netloc.lower() in _HOSTS
    except ValueError:
        return None
    bare = not parts.scheme and not parts.netloc
    if not (own or bare) or not parts.path.startswith("/") or parts.path.startswith("//"):
        return None
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _explain(answer: ProviderResponse, body: dict[str, Any]) -> JobError:
    """A refusal."""
    return answers.http_error(answer, *answers.complaint(body))
