"""Volcengine Ark and BytePlus ModelArk: one contract in two regions, media as `content` with roles, unsigned callbacks.

A callback is the status answer, sent at every change; the provider waits 5 s for an answer and tries three times. A
`DELETE` cancels a queued task, fails for a running one, and erases the record of a finished one: relay sends it only
for a task that was queued a moment ago. Keys and models of the two regions are not shared.
Sources: https://www.volcengine.com/docs/82379 and https://docs.byteplus.com/en/docs/ModelArk (pages on video
generation and on error codes), and the SDKs volcengine-python-sdk and byteplus-python-sdk-v2.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput
from relay.model.job import Cost, ErrorClass, Input, JobError, JobState, OutputKind, Report
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
    check_url,
    items,
    with_callback,
    with_rules,
    without_none,
)
from relay.providers.prices import Price, dollars, seconds_at, text_at

TASKS: Final = "/api/v3/contents/generations/tasks"
ORIGINS: Final = {
    "world": "https://ark.ap-southeast.bytepluses.com",
    "china": "https://ark.cn-beijing.volces.com",
}
STANDARD: Final = {"world": "dreamina-seedance-2-0-260128", "china": "doubao-seedance-2-0-260128"}
"""The model of an input that names none."""
LIFETIME_S: Final = 86_400
SEED_MAX: Final = 2**32 - 1
CONTENT_MAX: Final = 51
"""A text, and as many references as Seedance 2.5 accepts."""
AUTO_S: Final = -1
"""A duration that the model chooses; of Seedance 2.0 and 2.5."""
_RATIOS: Final = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "adaptive")
_FULL: Final = ("480p", "720p", "1080p", "4k")
_V2_5: Final = ModelLimits(duration_s=(4, 30), resolutions=_FULL, images=(0, 2), references=(30, 10, 10))
_V2_0: Final = ModelLimits(duration_s=(4, 15), resolutions=_FULL, images=(0, 2), references=(9, 3, 3))
_V2_0_SMALL: Final = ModelLimits(duration_s=(4, 15), resolutions=_FULL[:2], images=(0, 2), references=(9, 3, 3))
_V1_5: Final = ModelLimits(duration_s=(4, 12), resolutions=_FULL[:3], images=(0, 2), references=(0, 0, 0))
_V1_0: Final = ModelLimits(duration_s=(2, 12), resolutions=_FULL[:3], images=(0, 2), references=(0, 0, 0))
_V1_0_FAST: Final = ModelLimits(duration_s=(2, 12), resolutions=_FULL[:3], images=(0, 1), references=(0, 0, 0))
MODELS: Final[Mapping[str, ModelLimits]] = {
    "dreamina-seedance-2-0-260128": _V2_0,
    "dreamina-seedance-2-0-fast-260128": _V2_0_SMALL,
    "dreamina-seedance-2-0-mini-260615": _V2_0_SMALL,
    "dreamina-seedance-2-5-260628": _V2_5,
    "seedance-1-0-pro-250528": _V1_0,
    "seedance-1-0-pro-fast-251015": _V1_0_FAST,
    "doubao-seedance-2-0-260128": _V2_0,
    "doubao-seedance-2-0-fast-260128": _V2_0_SMALL,
    "doubao-seedance-2-5-260628": _V2_5,
    "doubao-seedance-1-5-pro-251215": _V1_5,
    "doubao-seedance-1-0-pro-250528": _V1_0,
}
_OWN_FIELDS: Final = {
    "frames": (_V1_0, _V1_0_FAST),
    "draft": (_V1_5,),
    "camera_fixed": (_V1_5, _V1_0, _V1_0_FAST),
    "generate_audio": (_V2_5, _V2_0, _V2_0_SMALL, _V1_5),
    "output_format": (_V2_5,),
    "omni_reference_task_type": (_V2_5,),
}
"""The kinds of models that have a field; every model has the others."""
_USD_PER_S: Final[Mapping[tuple[str, str], Decimal]] = {
    ("dreamina-seedance-2-5-260628", "480p"): Decimal("0.103"),
    ("dreamina-seedance-2-5-260628", "720p"): Decimal("0.231"),
    ("dreamina-seedance-2-5-260628", "1080p"): Decimal("0.569"),
    ("dreamina-seedance-2-0-260128", "480p"): Decimal("0.07"),
    ("dreamina-seedance-2-0-260128", "720p"): Decimal("0.15"),
    ("dreamina-seedance-2-0-260128", "1080p"): Decimal("0.37"),
    ("dreamina-seedance-2-0-260128", "4k"): Decimal("0.78"),
    ("dreamina-seedance-2-0-fast-260128", "480p"): Decimal("0.06"),
    ("dreamina-seedance-2-0-fast-260128", "720p"): Decimal("0.12"),
    ("dreamina-seedance-2-0-mini-260615", "480p"): Decimal("0.04"),
    ("dreamina-seedance-2-0-mini-260615", "720p"): Decimal("0.08"),
}
"""Of the world's region, without a video among the media; China's prices are in CNY."""
ROLES: Final = {
    "image_url": ("first_frame", "last_frame", "reference_image"),
    "video_url": ("reference_video",),
    "audio_url": ("reference_audio",),
}
_REFERENCES: Final = ("reference_image", "reference_video", "reference_audio")
_ASSET: Final = re.compile(r"asset://[A-Za-z0-9._-]{1,200}")
_UNIFIED: Final = {
    "content": "images",
    "duration": "duration_s",
    "ratio": "aspect_ratio",
    "generate_audio": "audio",
}
CODES: Final[answers.Codes] = answers.codes(
    {
        answers.ErrorKind(ErrorClass.INVALID_INPUT, retryable=False): (
            "missingparameter invalidparameter invalidendpointormodel.notfound invalidendpoint.notfound"
        ),
        answers.ErrorKind(ErrorClass.PROVIDER_ERROR, retryable=False): (
            "invalidendpoint.closedendpoint operationdenied.invalidstate operationdenied.unsupportedphase"
        ),
        answers.ErrorKind(ErrorClass.AUTH, retryable=False): (
            "authenticationerror accessdenied operationdenied modelnotopen"
        ),
        answers.ErrorKind(ErrorClass.INSUFFICIENT_FUNDS, retryable=False): (
            "accountoverdueerror operationdenied.serviceoverdue quotaexceeded setlimitexceeded"
        ),
        answers.ErrorKind(ErrorClass.RATE_LIMITED, retryable=True): (
            "ratelimitexceeded modelaccountrpmratelimitexceeded modelaccounttpmratelimitexceeded "
            "modelaccountipmratelimitexceeded accountratelimitexceeded serveroverloaded modelloadingerror"
        ),
        answers.PROVIDER_FAULT: "internalserviceerror",
    }
)
"""By the code, or by what is before one of its full stops: `InvalidParameter.OversizedImage`."""
_CONTENT: Final = ("sensitivecontent", "riskdetection")


class Link(msgspec.Struct, forbid_unknown_fields=True):
    """A URL in its own object."""

    url: str


class Draft(msgspec.Struct, forbid_unknown_fields=True):
    """An earlier draft, which the job completes."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]


class Content(msgspec.Struct, forbid_unknown_fields=True):
    """A text, or a medium and its role."""

    type: Literal["text", "image_url", "video_url", "audio_url", "draft_task"]
    text: str | UnsetType = UNSET
    image_url: Link | UnsetType = UNSET
    video_url: Link | UnsetType = UNSET
    audio_url: Link | UnsetType = UNSET
    draft_task: Draft | UnsetType = UNSET
    role: Literal["first_frame", "last_frame", "reference_image", "reference_video", "reference_audio"] | UnsetType = (
        UNSET
    )


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    """What the model may use."""

    type: Literal["web_search"]


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a submission; fields with a default are optional."""

    model: Literal[
        "dreamina-seedance-2-0-260128",
        "dreamina-seedance-2-0-fast-260128",
        "dreamina-seedance-2-0-mini-260615",
        "dreamina-seedance-2-5-260628",
        "seedance-1-0-pro-250528",
        "seedance-1-0-pro-fast-251015",
        "doubao-seedance-2-0-260128",
        "doubao-seedance-2-0-fast-260128",
        "doubao-seedance-2-5-260628",
        "doubao-seedance-1-5-pro-251215",
        "doubao-seedance-1-0-pro-250528",
    ]
    content: Annotated[list[Content], Meta(min_length=1, max_length=CONTENT_MAX)]
    resolution: Literal["480p", "720p", "1080p", "4k"] | UnsetType = UNSET
    ratio: Literal["16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "adaptive"] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=-1, le=30)] | UnsetType = UNSET
    frames: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=-1, le=SEED_MAX)] | UnsetType = UNSET
    camera_fixed: bool | UnsetType = UNSET
    watermark: bool | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    return_last_frame: bool | UnsetType = UNSET
    output_format: Literal["mp4", "mov"] | UnsetType = UNSET
    omni_reference_task_type: Literal["auto", "reference", "edit", "extend"] | UnsetType = UNSET
    service_tier: Literal["default", "flex"] | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=0, le=9)] | UnsetType = UNSET
    execution_expires_after: Annotated[int, Meta(ge=3600, le=259_200)] | UnsetType = UNSET
    draft: bool | UnsetType = UNSET
    tools: Annotated[list[Tool], Meta(max_length=1)] | UnsetType = UNSET
    safety_identifier: Annotated[str, Meta(min_length=1, max_length=64)] | UnsetType = UNSET


class Ark(Provider):
    """The adapter; `region` selects the origin and the model of an input that names none."""

    name = "ark"
    title = "Ark"
    honours = COMMON | REFERENCES | {"last_frame", "audio", "seed"}
    callback_field = "callback_url"
    verifier = "none"
    check_before_cancellation = True
    unified = _UNIFIED
    request_types: tuple[type, ...] = (Request,)
    limits = Limits(
        models=tuple(MODELS),
        by_model=MODELS,
        duration_s=(2, 30),
        resolutions=_FULL,
        aspect_ratios=_RATIOS,
        images_max=2,
        prompt_max=None,
        prompt_required=False,
        result_lifetime_s=LIFETIME_S,
        expected_s=180,
    )
    further_limits: Mapping[str, str] = {
        "requests a minute, Seedance 2.0 and 2.5": "600 of a company, 180 of a person; 15 at 4K",
        "jobs at the same time, Seedance 2.0 and 2.5": "10 of a company, 3 of a person; 1 at 4K",
        "an id is known for": "7 d",
        "downloads of a result, Seedance 2.5": "100",
    }

    def __init__(self, region: Literal["world", "china"] = "world") -> None:
        self.base_url = ORIGINS[region]
        self._standard = STANDARD[region]

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body: the prompt as a text of the content, then the frames and the references."""
        roles = ("first_frame", "last_frame")
        content = [] if given.prompt is None else [{"type": "text", "text": given.prompt}]
        content += [_medium("image", url, roles[min(index, 1)]) for index, url in enumerate(given.frames)]
        content += [
            _medium(kind, url, f"reference_{kind}")
            for kind in ("image", "video", "audio")
            for url in given.referred(kind)
        ]
        model = given.model or self._standard
        fixed = MODELS.get(model) is _V2_5 and given.frames  # its ratio is that of the first frame
        request = without_none(
            model=model,
            content=content,
            resolution=given.resolution,
            ratio="adaptive" if fixed and given.aspect_ratio is None else given.aspect_ratio,
            duration=given.duration_s,
            generate_audio=given.audio,
            seed=given.seed,
        )
        if not content:
            raise InvalidInput([FieldError("prompt", "is required without images and references")])
        return request

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published limits."""
        return with_rules(validation.check(request, Request), _rules(request))

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /api/v3/contents/generations/tasks`."""
        body = with_callback(request, self.callback_field, callback_url)
        return ProviderRequest(method="POST", path=TASKS, body=body)

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; a 2xx is `{"id"}`."""
        return answers.read_submission(response, lambda body: _report(body, None, JobState.SUBMITTED), _explain)

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /api/v3/contents/generations/tasks/{id}`."""
        return ProviderRequest(method="GET", path=f"{TASKS}/{job.quoted_id}")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise Unreadable unless it is a 2xx with a status."""
        return _report(answers.status_body(response), now_ms)

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of a callback, which is the status answer."""
        return _report(body, now_ms)

    def cancellation(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return `DELETE` of a task that was queued a moment ago; None for any other, which it would erase."""
        if job.provider_status.strip().lower() != "queued":
            return None
        return ProviderRequest(method="DELETE", path=f"{TASKS}/{job.quoted_id}")

    def price(self, request: object) -> Price | None:
        """Return USD per second of a model of the world's region; None beside a video, whose seconds count too."""
        kinds = [at(item, "type") for item in items(at(request, "content"))]
        if "video_url" in kinds or at(request, "service_tier") == "flex" or at(request, "frames") is not None:
            return None
        model = text_at(request, "model")
        usd_per_s = _USD_PER_S.get((model, text_at(request, "resolution") or "720p"))
        if usd_per_s is None:
            return None
        low, high = MODELS[model].duration_s or self.limits.duration_s
        seconds = seconds_at(request, "duration", range(low, high + 1), 5)
        return None if seconds is None else dollars(usd_per_s * seconds)


def _medium(kind: str, url: str, role: str) -> dict[str, Any]:
    """Return one medium of the content."""
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}, "role": role}


def _rules(request: object) -> list[FieldError]:
    """Return the errors that the schema cannot express: the content, the model's own limits and fields."""
    content = items(at(request, "content"))[:CONTENT_MAX]
    model, duration = at(request, "model"), at(request, "duration")
    own = MODELS.get(model) if isinstance(model, str) else None
    errors = [error for index, item in enumerate(content) for error in _item(item, f"content[{index}]")]
    errors += _roles([_role(item) for item in content], own, model)
    if own is None or not isinstance(request, dict):
        return errors
    placed = {"resolutions": Placed("resolution", request.get("resolution"))}
    if duration != AUTO_S or own not in (_V2_5, _V2_0, _V2_0_SMALL):
        placed["duration_s"] = Placed("duration", duration)
    errors += check_by_model(own, model, placed)
    errors += [
        FieldError(name, f"is not a field of {model}")
        for name, kinds in _OWN_FIELDS.items()
        if name in request and not any(own is kind for kind in kinds)
    ]
    if "frames" in request and "duration" in request:
        errors.append(FieldError("frames", "cannot be given with duration"))
    first = any(_role(item) == "first_frame" for item in content)
    if own is _V2_5 and first and request.get("ratio", "adaptive") != "adaptive":
        errors.append(FieldError("ratio", f'must be "adaptive" for {model} with a first frame'))
    return errors


def _role(item: object) -> object:
    """Return the role of a medium; an image without one is a first frame."""
    return at(item, "role") or ("first_frame" if at(item, "type") == "image_url" else None)


def _item(item: object, path: str) -> list[FieldError]:
    """Return the errors of one item: its value is in the field of its type, and the role fits the type."""
    kind, role = at(item, "type"), at(item, "role")
    names = ("text", *ROLES, "draft_task")
    if not isinstance(item, dict) or not isinstance(kind, str) or kind not in names:
        return []
    errors = [
        FieldError(f"{path}.{other}", f"cannot be given with type {kind}")
        for other in names
        if other != kind and other in item
    ]
    if kind not in item:
        errors.append(FieldError(f"{path}.{kind}", "is required"))
    url = at(item, kind, "url")
    if isinstance(url, str) and not _ASSET.fullmatch(url):
        errors += check_url(url, f"{path}.{kind}.url")
    roles = ROLES.get(kind, ())
    if isinstance(role, str) and role not in roles:
        errors.append(FieldError(f"{path}.role", f"must be one of {', '.join(roles) or 'none'} for type {kind}"))
    if role is None and kind in ("video_url", "audio_url"):
        errors.append(FieldError(f"{path}.role", f'must be "{roles[0]}"'))
    return errors


def _roles(roles: list[object], own: ModelLimits | None, model: object) -> list[FieldError]:
    """Return the error of too many media of a role, or of roles that exclude each other."""
    frames = roles.count("first_frame") + roles.count("last_frame")
    references = [roles.count(one) for one in _REFERENCES]
    errors = [f"may have at most 1 {role}" for role in ("first_frame", "last_frame") if roles.count(role) > 1]
    if "last_frame" in roles and "first_frame" not in roles:
        errors.append("needs a first_frame with its last_frame")
    if frames and any(references):
        errors.append("may have either frames or references, not both")
    if own is not None and own.images is not None and own.references is not None:
        if frames > own.images[1]:
            errors.append(f"may have at most {own.images[1]} frame for {model}, not {frames}")
        errors += [
            f"may have at most {most} {role} for {model}, not {count}"
            for role, most, count in zip(_REFERENCES, own.references, references, strict=True)
            if count > most
        ]
    return [FieldError("content", "; ".join(errors))] if errors else []


def _report(body: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of a task, in a submission's answer, a status answer or a callback."""
    task = answers.task_of(body)
    expires_at, seconds = answers.expiry(_made_at(task, now_ms), LIFETIME_S), task.get("duration")
    outputs = answers.output(at(task, "content", "video_url"), expires_at, duration_s=seconds)
    outputs += answers.output(at(task, "content", "last_frame_url"), expires_at, OutputKind.LAST_FRAME)
    return answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=answers.distinct(outputs),
            error=_failure(task.get("error")),
            provider_job_id=answers.identifier(task.get("id")),
            cost=_cost(task),
            default_state=default,
        )
    )


def _made_at(task: dict[str, Any], now_ms: int | None) -> int | None:
    """Return when the result was made: `updated_at` (unix seconds) if that is plausible, else now."""
    if now_ms is None:
        return None
    seconds = answers.whole(task.get("updated_at"), now_ms // 1000 - LIFETIME_S, now_ms // 1000)
    return now_ms if seconds is None else seconds * 1000


def _cost(task: dict[str, Any]) -> Cost | None:
    """Return the tokens that a job used, which are what is billed; only successes are."""
    found = answers.credit_cost(at(task, "usage", "completion_tokens"), "final")
    return None if found is None or found.amount == "0" else msgspec.structs.replace(found, unit="tokens")


def _failure(error: object) -> JobError | None:
    """Return the error of a failed task."""
    reason = answers.error_text(error)
    return answers.failure(reason, _known(reason.code))


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of a refusal: by its code, which is more precise than the status, else by the status."""
    reason = answers.complaint(body)
    kind = _kind(reason.code)
    if kind is None:
        return answers.http_error(response, reason)
    return msgspec.structs.replace(answers.error_for(response, kind.class_, reason), retryable=kind.retryable)


def _known(code: str | None) -> answers.Codes:
    """Return a table in which a code is found as it is spelled."""
    kind = _kind(code)
    return answers.CODES if kind is None or code is None else {code.lower(): kind}


def _kind(code: str | None) -> answers.ErrorKind | None:
    """Return the kind of a code, or of the longest part of it before a full stop that is known."""
    lower = (code or "").lower()
    if any(part in lower for part in _CONTENT):
        return answers.REJECTED
    while lower:
        if lower in CODES:
            return CODES[lower]
        lower = lower.rpartition(".")[0]
    return None
