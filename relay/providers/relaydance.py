"""RelayDance: a New-API gateway; seconds as text, and all other parameters, the callback URL too, inside `metadata`.

Its callback has one of four forms: its documented one, New-API's envelope, an OpenAI-style video object, or the
upstream's (Volcengine Ark) with an id (`cgt-…`) that relay does not know. None is signed.
Sources: https://relaydance.com/docs, https://github.com/QuantumNous/new-api, https://www.volcengine.com/docs/82379.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput
from relay.model import result_urls
from relay.model.job import ErrorClass, Input, JobError, JobState, Report
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
    text_or_none,
    with_callback,
    with_rules,
    with_suggestions,
    without_none,
)
from relay.providers.clip_prices import ClipPrices, clip_price
from relay.providers.prices import Price, text_at

WITH_AUDIO: Final = "seedance-1-5-pro-with-audio"
NO_AUDIO: Final = "seedance-1-5-pro-no-audio"
LIFETIME_S: Final = 1800
SECONDS_MAX: Final = 15
EXTRA_KEYS_MAX: Final = 32
ROLES: Final = {
    "image_url": ("reference_image", "first_frame", "last_frame"),
    "video_url": ("reference_video",),
    "audio_url": ("reference_audio",),
}
ROLE_MAX: Final = {"reference_image": 9, "reference_video": 3, "reference_audio": 3, "first_frame": 1, "last_frame": 1}
MODES: Final = ("reference", "keyframe")
_UNIFIED: Final = {
    "seconds": "duration_s",
    "metadata.content": "images",
    "metadata.resolution": "resolution",
    "metadata.ratio": "aspect_ratio",
    "metadata.generate_audio": "audio",
}
_SUGGESTIONS: Final = {
    "duration": "seconds",
    "ratio": "metadata.ratio",
    "aspect_ratio": "metadata.ratio",
    "resolution": "metadata.resolution",
    "generate_audio": "metadata.generate_audio",
    "content": "metadata.content",
    "images": "metadata.content",
    "image_urls": "metadata.content",
}
_SECONDS: Final = tuple(str(seconds) for seconds in range(1, SECONDS_MAX + 1))
_PLAIN: Final[Any] = Annotated[str, Meta(max_length=4096)] | float | bool | None
_RESOLUTION: Final = re.compile(r"-([0-9]{3,4}p|[24]k)$")
_FUNDS: Final = re.compile(r"quota|balance|insufficient|credit|额度|余额", re.IGNORECASE)
_URL_PATHS: Final = (
    ("url",),
    ("metadata", "url"),
    ("video_url",),
    ("result_url",),
    ("content", "video_url"),
)


class Link(msgspec.Struct, forbid_unknown_fields=True):
    """A URL in its own object."""

    url: str


class Content(msgspec.Struct, forbid_unknown_fields=True):
    """One image, video or sound, and its role."""

    type: Literal["image_url", "video_url", "audio_url"]
    role: Literal["reference_image", "first_frame", "last_frame", "reference_video", "reference_audio"]
    image_url: Link | UnsetType = UNSET
    video_url: Link | UnsetType = UNSET
    audio_url: Link | UnsetType = UNSET


class Metadata(msgspec.Struct):
    """The parameters that the gateway passes to its upstream; it also passes unlisted ones."""

    ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "21:9"] | UnsetType = UNSET
    resolution: Literal["480p", "720p", "1080p"] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    content: Annotated[list[Content], Meta(max_length=15)] | UnsetType = UNSET


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a submission."""

    model: Annotated[str, Meta(min_length=1, max_length=100)]
    prompt: Annotated[str, Meta(min_length=1, max_length=10_000)]
    seconds: str | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class RelayDance(Provider):
    """The adapter; `clips` are the operator's own prices."""

    name = "relaydance"
    title = "RelayDance"
    honours = COMMON | REFERENCES | {"last_frame", "audio", "mode"}
    base_url = "https://relaydance.com"
    callback_field = "metadata.callback_url"
    further_limits: Mapping[str, str] = {
        **{f"items with the role `{role}`": str(most) for role, most in ROLE_MAX.items()},
        "unlisted fields of `metadata`": str(EXTRA_KEYS_MAX),
    }
    unified = _UNIFIED
    request_types: tuple[type, ...] = (Request,)
    limits = Limits(
        models=(
            WITH_AUDIO,
            NO_AUDIO,
            "doubao-seedance-2-0-480p",
            "doubao-seedance-2-0-720p",
            "doubao-seedance-2-0-1080p",
            "happyhorse-1.0-i2v",
        ),
        duration_s=(1, SECONDS_MAX),
        resolutions=("480p", "720p", "1080p"),
        aspect_ratios=("16:9", "9:16", "1:1", "4:3", "3:4", "21:9"),
        images_max=9,
        prompt_max=10_000,
        prompt_required=True,
        result_lifetime_s=LIFETIME_S,
        expected_s=180,
    )

    def __init__(self, clips: ClipPrices = ()) -> None:
        self._clips = clips

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body: images are references, unless `mode` is `keyframe` or there is a last frame.

        `audio` selects the default model.
        """
        metadata = without_none(
            ratio=given.aspect_ratio,
            resolution=given.resolution,
            generate_audio=given.audio,
            content=_content(given) or None,
        )
        request = without_none(
            model=given.model or (NO_AUDIO if given.audio is False else WITH_AUDIO),
            prompt=given.prompt,
            seconds=None if given.duration_s is None else str(given.duration_s),
            metadata=metadata or None,
        )
        if given.mode not in (None, *MODES):
            wrong = FieldError("mode", 'must be one of "reference", "keyframe"')
            raise InvalidInput([wrong, *self.check(request)])
        return request

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published limits."""
        return with_rules(with_suggestions(validation.check(request, Request), _SUGGESTIONS), _rules(request))

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /v1/video/generations`; a callback URL outside `metadata` would be ignored."""
        body = with_callback(request, self.callback_field, callback_url)
        return ProviderRequest(method="POST", path="/v1/video/generations", body=body)

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; `data` may be the id itself."""
        return answers.read_submission(response, _accepted, _explain)

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /v1/video/generations/{task_id}`."""
        return ProviderRequest(method="GET", path=f"/v1/video/generations/{job.quoted_id}")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise Unreadable unless it is a 2xx with a status."""
        return _report(answers.status_body(response), now_ms)

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of any of the four forms."""
        return _report(body, now_ms)

    def price(self, request: object) -> Price | None:
        """Return the price by the operator's list, because https://relaydance.com/pricing needs a login."""
        model, seconds = text_at(request, "model"), text_at(request, "seconds")
        named = _RESOLUTION.search(model)
        resolution = text_at(at(request, "metadata"), "resolution") or (named[1] if named else None)
        length = int(seconds) if re.fullmatch(r"[1-9][0-9]?", seconds) else None
        return clip_price(self._clips, model, resolution, length)


def _content(given: Input) -> list[dict[str, object]]:
    """Return the images and references with their roles, in order: `@image1` is the first."""
    keyframes = ("first_frame", "last_frame")
    as_keyframes = given.mode == "keyframe" or given.last_frame is not None
    roles = [keyframes[min(index, 1)] if as_keyframes else "reference_image" for index in range(len(given.frames))]
    frames = [_medium("image", url, role) for url, role in zip(given.frames, roles, strict=True)]
    return frames + [
        _medium(kind, url, f"reference_{kind}") for kind in ("image", "video", "audio") for url in given.referred(kind)
    ]


def _medium(kind: str, url: str, role: str) -> dict[str, object]:
    """Return one item of the content."""
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}, "role": role}


def _rules(request: object) -> list[FieldError]:
    """Return the errors that the schema cannot express."""
    metadata = at(request, "metadata")
    content = items(at(metadata, "content"))
    errors = _seconds(request) + _resolution(request)
    for index, item in enumerate(content[:50]):
        errors += _item(item, f"metadata.content[{index}]")
    return errors + _roles([at(item, "role") for item in content]) + _extra(metadata)


def _seconds(request: object) -> list[FieldError]:
    """Return the error of `seconds` that is not a whole number as text."""
    seconds = at(request, "seconds")
    if not isinstance(request, dict) or "seconds" not in request or seconds in _SECONDS:
        return []
    limit = f'must be a string with a whole number from "1" to "{SECONDS_MAX}"'
    return [FieldError("seconds", f"{limit}, not {validation.shown(seconds)}")]


def _resolution(request: object) -> list[FieldError]:
    """Return the error of a resolution that differs from the one at the end of the model's name."""
    model, resolution = at(request, "model"), at(request, "metadata", "resolution")
    named = re.search(r"-(480p|720p|1080p)$", model) if isinstance(model, str) else None
    if named is None or not isinstance(resolution, str) or resolution == named[1]:
        return []
    shown = validation.clipped(str(model))
    return [
        FieldError("metadata.resolution", f'must be "{named[1]}" for {shown}, not "{validation.clipped(resolution)}"')
    ]


def _item(item: object, path: str) -> list[FieldError]:
    """Return the errors of one item: the URL is in the field of its type, and the role fits the type."""
    kind, role = at(item, "type"), at(item, "role")
    if not isinstance(item, dict) or not isinstance(kind, str) or kind not in ROLES:
        return []
    others = [other for other in ROLES if other != kind and other in item]
    errors = [FieldError(f"{path}.{other}", f"cannot be given with type {kind}") for other in others]
    if kind not in item:
        errors.append(FieldError(f"{path}.{kind}", "is required"))
    elif isinstance(url := at(item, kind, "url"), str):
        errors += check_url(url, f"{path}.{kind}.url")
    if isinstance(role, str) and role in ROLE_MAX and role not in ROLES[kind]:
        roles = ", ".join(ROLES[kind])
        errors.append(FieldError(f"{path}.role", f"must be one of {roles} for type {kind}, not {role}"))
    return errors


def _roles(roles: list[object]) -> list[FieldError]:
    """Return the error of too many items of a role, or of roles that exclude each other."""
    counts = {role: roles.count(role) for role in ROLE_MAX}
    over = [role for role, most in ROLE_MAX.items() if counts[role] > most]
    errors = [f"may have at most {ROLE_MAX[role]} {role}, not {counts[role]}" for role in over]
    if counts["last_frame"] and not counts["first_frame"]:
        errors.append("needs a first_frame with its last_frame")
    if counts["reference_image"] and (counts["first_frame"] or counts["last_frame"]):
        errors.append("may have either reference images or first and last frames, not both")
    return [FieldError("metadata.content", "; ".join(errors))] if errors else []


def _extra(metadata: object) -> list[FieldError]:
    """Return the errors of unlisted fields: too many, values that are not plain, or a callback URL."""
    extra = set(metadata if isinstance(metadata, dict) else ()) - set(Metadata.__struct_fields__)
    if len(extra) > EXTRA_KEYS_MAX:
        return [FieldError("metadata", f"may have at most {EXTRA_KEYS_MAX} unlisted fields, not {len(extra)}")]
    errors = []
    for name in sorted(extra, key=repr):
        path = validation.join("metadata", validation.clipped(name))
        if name == "callback_url":
            errors.append(FieldError(path, "is relay's own field"))
        else:
            errors += validation.check(at(metadata, name), _PLAIN, path)
    return errors


def _accepted(body: dict[str, Any]) -> Report:
    """Return the report of a submission's response; older New-API responses have only the id in `data`."""
    data = body.get("data")
    return _report({"task_id": data} if isinstance(data, str) else body, None, JobState.SUBMITTED)


def _report(body: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of the task in any of the four forms."""
    task = (
        body if "task_id" in body else answers.task_of(body)
    )  # RelayDance's own task may have its upstream's in `data`
    own = answers.identifier(task.get("task_id"))
    found = own or answers.identifier(task.get("id"))
    reason = answers.error_text(task.get("error"))
    text = reason.text or text_or_none(task.get("fail_reason")) or text_or_none(task.get("message"))
    upstream = found is not None and (found.startswith("cgt-") or (own is None and not found.startswith("task_")))
    # The first usable URL, for all of these fields name the same video; `result_url` may hold a failure's reason.
    urls = [at(holder, *path) for holder in (task, task.get("data"), body) for path in _URL_PATHS]
    expires_at, duration_s = answers.expiry(now_ms, LIFETIME_S), task.get("duration")
    outputs = (output for url in urls for output in answers.output(url, expires_at, duration_s=duration_s))
    return answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=result_urls.first(outputs),
            error=answers.failure(answers.ErrorText(reason.code, text)),
            provider_job_id=found,
            upstream_id=upstream and default is None,
            default_state=default,
        )
    )


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error; an empty account gets a 403, as a key without rights does, so the text decides."""
    reason = answers.complaint(body)
    if response.status_code == 403 and _FUNDS.search(f"{reason.code} {reason.text or response.excerpt}"):
        return answers.error_for(response, ErrorClass.INSUFFICIENT_FUNDS, reason)
    return answers.http_error(response, reason)
