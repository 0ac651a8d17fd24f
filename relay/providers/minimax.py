"""MiniMax, in both versions of its API: V2 for H3 and H3 Max, V1 for Hailuo 2.3, 02 and the older models.

During a submission MiniMax posts `{"challenge"}` to the callback URL and wants it back within three seconds. It signs
nothing, and publishes no retries. A V1 result is a file's id, and the file's URL is asked for in a second step. A V2
cancellation deletes the record of a job that has ended, so the status is read immediately before one is sent.
Not published, and read defensively: the body of a V2 callback (the page says: as the status answer), the lifetime of a
V2 URL, and whether a failed challenge fails a V2 submission; a job whose URL was not registered is found by its status.
Sources: https://platform.minimax.io/docs, the video pages of both versions, of files and of prices.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput, JobUnknown, Unreadable
from relay.model import result_urls
from relay.model.job import Cost, ErrorClass, Input, JobError, JobState, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.providers import answers
from relay.providers.base import (
    COMMON,
    REFERENCES,
    Limits,
    ModelLimits,
    Provider,
    SubmissionAnswer,
    SubmittedJob,
    at,
    check_url,
    items,
    text_or_none,
    with_callback,
    with_rules,
    without_none,
)
from relay.providers.prices import Price, dollars, seconds_at, text_at

H3: Final = "MiniMax-H3"
H3_MAX: Final = "MiniMax-H3-Max"
HAILUO: Final = "MiniMax-Hailuo-2.3"
HAILUO_FAST: Final = "MiniMax-Hailuo-2.3-Fast"
HAILUO_02: Final = "MiniMax-Hailuo-02"
MODELS: Final = (H3, H3_MAX)
OLD_MODELS: Final = (
    HAILUO,
    HAILUO_FAST,
    HAILUO_02,
    "T2V-01-Director",
    "T2V-01",
    "I2V-01-Director",
    "I2V-01-live",
    "I2V-01",
    "S2V-01",
)
PROMPT_MAX, OLD_PROMPT_MAX = 7000, 2000
FRAMES_MAX: Final = 2
REFERENCES_MAX: Final[Mapping[str, int]] = {"reference_image": 9, "reference_video": 3, "reference_audio": 3}
CHALLENGE_MAX: Final = 4096
FILE_URL_LIFETIME_S: Final = 3600
"""Of a V1 result's URL; the page of V2 calls its own "time-limited" only, and relay counts the same."""
SECONDS_DEFAULT, RESOLUTION_DEFAULT, RATIO_DEFAULT = 5, "768P", "16:9"
"""What relay sends where an `input` has nothing: V2 requires the three, the ratio of a text-to-video."""
FREE_IMAGES: Final = {H3: 5, H3_MAX: 2}
"""So many reference images cost nothing; more of them, and every reference video, have prices of their own."""
_FRAMES: Final = ("first_frame", "last_frame")
_KINDS: Final = {"image_url": "reference_image", "video_url": "reference_video", "audio_url": "reference_audio"}
_RATIOS: Final = ("21:9", "16:9", "4:3", "1:1", "3:4", "9:16")
_RESOLUTIONS: Final = {H3: ("768P", "2K"), H3_MAX: ("480P", "768P")}
_OLD_RATIOS: Final = ()
"""V1 has no ratio: a text-to-video is 16:9, and every other follows its image."""
_T2V: Final = ModelLimits(
    duration_s=(6, 6), resolutions=("720P",), aspect_ratios=_OLD_RATIOS, images=(0, 0), references=(0, 0, 0)
)
_I2V: Final = msgspec.structs.replace(_T2V, images=(1, 1))
_HAILUO: Final = ModelLimits(
    duration_s=(6, 10),
    resolutions=("768P", "1080P"),
    aspect_ratios=_OLD_RATIOS,
    images=(0, 1),
    references=(0, 0, 0),
)
_BY_MODEL: Final = {
    H3: ModelLimits(resolutions=_RESOLUTIONS[H3], references=(9, 3, 3)),
    H3_MAX: ModelLimits(duration_s=(5, 15), resolutions=_RESOLUTIONS[H3_MAX], references=(9, 3, 3)),
    HAILUO: _HAILUO,
    HAILUO_FAST: msgspec.structs.replace(_HAILUO, images=(1, 1)),
    HAILUO_02: msgspec.structs.replace(_HAILUO, resolutions=("512P", "768P", "1080P"), images=(0, 2)),
    "T2V-01-Director": _T2V,
    "T2V-01": _T2V,
    "I2V-01-Director": _I2V,
    "I2V-01-live": _I2V,
    "I2V-01": _I2V,
    "S2V-01": msgspec.structs.replace(_T2V, references=(1, 0, 0)),
}
_UNIFIED: Final = {
    "model": "model",
    "content[0]": "prompt",
    "content": "images",
    "prompt": "prompt",
    "duration": "duration_s",
    "resolution": "resolution",
    "ratio": "aspect_ratio",
    "first_frame_image": "images[0]",
    "last_frame_image": "images[1]",
    "subject_reference": "references",
}
_USD_PER_S: Final = {
    (H3, "768P"): "0.08",
    (H3, "2K"): "0.13",
    (H3_MAX, "480P"): "0.05",
    (H3_MAX, "768P"): "0.08",
}
_USD: Final = {
    (HAILUO, "768P", 6): "0.28",
    (HAILUO, "768P", 10): "0.56",
    (HAILUO, "1080P", 6): "0.49",
    (HAILUO_FAST, "768P", 6): "0.19",
    (HAILUO_FAST, "768P", 10): "0.32",
    (HAILUO_FAST, "1080P", 6): "0.33",
    (HAILUO_02, "512P", 6): "0.10",
    (HAILUO_02, "512P", 10): "0.15",
    (HAILUO_02, "768P", 6): "0.28",
    (HAILUO_02, "768P", 10): "0.56",
    (HAILUO_02, "1080P", 6): "0.49",
}
"""Of a clip. https://platform.minimax.io/docs/guides/pricing-paygo has both tables."""
CODES: Final[answers.Codes] = {
    **answers.CODES,
    **answers.codes(
        {
            answers.ErrorKind(ErrorClass.INVALID_INPUT, retryable=False): "2013 1042 bad_request_error",
            answers.ErrorKind(ErrorClass.AUTH, retryable=False): "1004 2049 2038 authorized_error",
            answers.ErrorKind(ErrorClass.INSUFFICIENT_FUNDS, retryable=False): "1008 2056 insufficient_balance_error",
            answers.REJECTED: "1026 1027 unprocessable_entity_error",
            answers.ErrorKind(ErrorClass.RATE_LIMITED, retryable=True): "1002 1039 1041 rate_limit_error",
            answers.PROVIDER_FAULT: "1000 1024 1033 server_error overloaded_error",
            answers.ErrorKind(ErrorClass.TIMEOUT, retryable=True): "1001",
        }
    ),
}
_FAULTS: Final = frozenset({1000, 1001, 1024, 1033})
"""Codes of faults inside MiniMax, after which a job may exist."""
_CALLBACK_CODE: Final = "2013"
_CALLBACK_TEXT: Final = re.compile(r"call.?back", re.IGNORECASE)
_INNER_CODE: Final = re.compile(r"\((\d{3,5})\)\s*$")
_UNKNOWN_TASK: Final = re.compile(r"task.?id|task (was )?not found|no such task", re.IGNORECASE)
_MEDIA: Final = re.compile(
    r"mm_file://[A-Za-z0-9_-]{1,100}|data:(image|video|audio)/[a-z0-9.+-]{1,40};base64,[A-Za-z0-9+/\r\n]+={0,2}\s*"
)


class Media(msgspec.Struct, forbid_unknown_fields=True):
    """Where a medium is: an https URL, `mm_file://{id}` or base64 in a `data:` URL."""

    url: str


class Item(msgspec.Struct, forbid_unknown_fields=True):
    """One item of `content`: the prompt, or a medium with what it is for."""

    type: Literal["text", "image_url", "video_url", "audio_url"]
    text: Annotated[str, Meta(min_length=1, max_length=7000)] | UnsetType = UNSET
    image_url: Media | UnsetType = UNSET
    video_url: Media | UnsetType = UNSET
    audio_url: Media | UnsetType = UNSET
    role: Literal["first_frame", "last_frame", "reference_image", "reference_video", "reference_audio"] | UnsetType = (
        UNSET
    )


class Extra(msgspec.Struct, forbid_unknown_fields=True):
    """The further options of H3 Max."""

    prompt_expansion_mode: Literal["disabled", "balanced", "quality"] | UnsetType = UNSET


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """The body of V2."""

    model: Literal["MiniMax-H3", "MiniMax-H3-Max"]
    content: Annotated[list[Item], Meta(min_length=1, max_length=16)]
    resolution: Literal["480P", "768P", "2K"]
    duration: Annotated[int, Meta(ge=4, le=15)]
    ratio: Literal["adaptive", "21:9", "16:9", "4:3", "1:1", "3:4", "9:16"] | UnsetType = UNSET
    extra: Extra | UnsetType = UNSET
    aigc_watermark: bool | UnsetType = UNSET


class OldRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of V1."""

    model: Literal[
        "MiniMax-Hailuo-2.3",
        "MiniMax-Hailuo-2.3-Fast",
        "MiniMax-Hailuo-02",
        "T2V-01-Director",
        "T2V-01",
        "I2V-01-Director",
        "I2V-01-live",
        "I2V-01",
        "S2V-01",
    ]
    prompt: Annotated[str, Meta(max_length=2000)] | UnsetType = UNSET
    first_frame_image: str | UnsetType = UNSET
    last_frame_image: str | UnsetType = UNSET
    subject_reference: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=1)] | UnsetType = UNSET
    duration: Literal[6, 10] | UnsetType = UNSET
    resolution: Literal["512P", "720P", "768P", "1080P"] | UnsetType = UNSET
    prompt_optimizer: bool | UnsetType = UNSET
    fast_pretreatment: bool | UnsetType = UNSET
    aigc_watermark: bool | UnsetType = UNSET


class MiniMax(Provider):
    """The adapter; it keeps no state between calls."""

    name = "minimax"
    title = "MiniMax"
    base_url = "https://api.minimax.io"
    callback_field = "callback_url"
    verifier = "none"
    check_before_cancellation = True
    unified = _UNIFIED
    honours = COMMON | REFERENCES | {"last_frame"}
    request_types: tuple[type, ...] = (Request, OldRequest)
    limits = Limits(
        models=(*MODELS, *OLD_MODELS),
        duration_s=(4, 15),
        resolutions=("768P", "2K", "480P", "512P", "720P", "1080P"),
        aspect_ratios=("adaptive", *_RATIOS),
        images_max=FRAMES_MAX,
        prompt_max=PROMPT_MAX,
        prompt_required=True,
        result_lifetime_s=FILE_URL_LIFETIME_S,
        expected_s=120,
        by_model=_BY_MODEL,
    )
    further_limits: Mapping[str, str] = {
        "characters of a prompt of V1": str(OLD_PROMPT_MAX),
        "lengths from 6 to 10 s": "6 s or 10 s; 6 s at `1080P`",
    }

    def input_path(self, native_path: str) -> str:
        """Return the unified field of a native path; in `content` the prompt stands before the media."""
        place = re.match(r"content\[([1-9][0-9]*)\]", native_path)
        return f"images[{int(place[1]) - 1}]" if place else super().input_path(native_path)

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body, of V1 for a model of that; MiniMax requires a length and a resolution of V2."""
        model = given.model or H3
        refused = []
        if (count := len(given.frames)) > FRAMES_MAX:
            refused.append(FieldError("images", f"must be an array of at most {FRAMES_MAX} items, not {count}"))
        if _is_old(model):
            if given.aspect_ratio is not None:
                refused.append(FieldError("aspect_ratio", f"{validation.clipped(model)} has no such field"))
            request = _old_body(given, model, refused)
        else:
            if given.references and given.frames:
                refused.append(FieldError("references", "cannot be given with images: MiniMax makes a video of either"))
            if given.frames and given.aspect_ratio not in (None, "adaptive"):
                refused.append(FieldError("aspect_ratio", 'must be "adaptive" with images: the video follows them'))
            request = _new_body(given, model)
        if refused:
            raise InvalidInput([*refused, *self.check(request)])
        return request

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published limits."""
        if _is_old(at(request, "model")):
            return with_rules(validation.check(request, OldRequest), _old_rules(request))
        return with_rules(validation.check(request, Request), _rules(request))

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /v2/video_generation`, or of V1 for a body of that."""
        body = with_callback(request, self.callback_field, callback_url)
        return ProviderRequest(method="POST", path=f"/{_version(request)}/video_generation", body=body)

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; V1 refuses inside HTTP 200."""
        return answers.read_submission(
            response, lambda body: _report(body, None, JobState.SUBMITTED), _explain, _refused
        )

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /v2/query/video_generation/{id}`, or `GET /v1/query/video_generation?task_id=`.

        An adopted job's request is lost: it is asked for where its callback said.
        """
        if not job.request and job.status_path:
            return ProviderRequest(method="GET", path=job.status_path)
        if _version(job.request) == "v1":
            return ProviderRequest(method="GET", path=f"/v1/query/video_generation?task_id={job.quoted_id}")
        return ProviderRequest(method="GET", path=f"/v2/query/video_generation/{job.quoted_id}")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise Unreadable unless it is a 2xx with a status."""
        try:
            body = answers.status_body(response)
        except JobUnknown:
            raise
        except Unreadable as error:
            if 400 <= response.status_code < 500 and _says_unknown(response):
                raise JobUnknown(str(error)) from None
            raise
        if answers.status_of(_task(body)) is None and (code := _code(body)) != 0:
            reason = f"code {code}: {_reason(body).text or ''}"[:300]
            raise JobUnknown(reason) if _UNKNOWN_TASK.search(_reason(body).text or "") else Unreadable(reason)
        return _report(body, now_ms)

    def result_request(self, job: SubmittedJob, report: Report) -> ProviderRequest | None:
        """Return the request for the URL of the file that a V1 success names; None for everything else."""
        return None if report.result_path is None else ProviderRequest(method="GET", path=report.result_path)

    def read_result(self, response: ProviderResponse, report: Report, now_ms: int) -> Report:
        """Return the report with the file's URL; raise Unreadable for an answer without one."""
        body = answers.status_body(response)
        expires_at = answers.expiry(now_ms, FILE_URL_LIFETIME_S)
        outputs = tuple(answers.output(at(body, "file", "download_url"), expires_at))
        if not outputs:
            raise Unreadable(f"no URL of the file: {_reason(body)}"[:300])
        usable, unusable = result_urls.parted(outputs)
        return msgspec.structs.replace(report, outputs=usable, unusable=unusable)

    def cancellation(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return the DELETE of a V2 job that was queued a moment ago: one that has ended would be erased by it."""
        if _version(job.request) == "v1" or job.provider_status.lower() != "queued":
            return None
        return ProviderRequest(method="DELETE", path=f"/v2/video_generation/{job.quoted_id}")

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of a V2 callback (`task`) or of a V1 callback."""
        return _report(body, now_ms)

    def reply(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return the challenge by which MiniMax tests a callback URL; None for a callback about a job."""
        challenge = body.get("challenge")
        about_job = any(name in body for name in ("task", "task_id", "status"))
        if about_job or not isinstance(challenge, str) or len(challenge) > CHALLENGE_MAX:
            return None
        return {"challenge": challenge}

    def price(self, request: object) -> Price | None:
        """Return USD: of V2 by the second, of V1 by the clip."""
        model, resolution = text_at(request, "model"), text_at(request, "resolution")
        if model in OLD_MODELS:
            length = seconds_at(request, "duration", (6, 10), 6)
            usd = None if length is None else _USD.get((model, resolution or "768P", length))
            return None if usd is None else dollars(Decimal(usd))
        seconds, usd = seconds_at(request, "duration", range(4, 16), None), _USD_PER_S.get((model, resolution))
        roles = [at(one, "role") for one in items(at(request, "content"))]
        if usd is None or seconds is None or not _costs_only_output(model, roles):
            return None
        return dollars(Decimal(usd) * seconds)


def _costs_only_output(model: str, roles: list[Any]) -> bool:
    """Return whether references of these roles are free: few images and any audio, but no video."""
    return "reference_video" not in roles and roles.count("reference_image") <= FREE_IMAGES.get(model, 0)


def _is_old(model: object) -> bool:
    """Return whether a model is one of V1."""
    return model in OLD_MODELS


def _version(request: Mapping[str, object]) -> str:
    """Return the version of a native body: V2 has `content`; an adopted job's request is lost, and counts as V2."""
    return "v1" if request and "content" not in request else "v2"


def _new_body(given: Input, model: str) -> dict[str, object]:
    """Return the body of V2, with the length, resolution and ratio that MiniMax requires."""
    media = [
        *(("image_url", role, url) for role, url in zip(_FRAMES, given.frames, strict=False)),
        *((kind, role, url) for kind, role in _KINDS.items() for url in given.referred(kind.removesuffix("_url"))),
    ]
    ratio = given.aspect_ratio or (None if media else RATIO_DEFAULT)
    return without_none(
        model=model,
        content=[
            without_none(type="text", text=given.prompt),
            *({"type": kind, kind: {"url": url}, "role": role} for kind, role, url in media),
        ],
        resolution=_spelled(given.resolution) or RESOLUTION_DEFAULT,
        duration=SECONDS_DEFAULT if given.duration_s is None else given.duration_s,
        ratio=None if given.frames else ratio,
    )


def _old_body(given: Input, model: str, refused: list[FieldError]) -> dict[str, object]:
    """Return the body of V1; add an error for references that the model has no place for."""
    first, last = (*given.frames, None, None)[:2]
    images = given.referred("image")
    if given.references and (model != "S2V-01" or len(given.references) > 1 or not images):
        refused.append(FieldError("references", "are for MiniMax-H3 and MiniMax-H3-Max, and one image for S2V-01"))
    subject = [{"type": "character", "image": images[:1]}] if images else None
    return without_none(
        model=model,
        prompt=given.prompt,
        first_frame_image=first,
        last_frame_image=last,
        subject_reference=subject,
        duration=given.duration_s,
        resolution=_spelled(given.resolution),
    )


def _spelled(resolution: str | None) -> str | None:
    """Return a resolution in MiniMax's capitals, if it is one of its own; any other as it is."""
    capital = (resolution or "").upper()
    return capital if capital in MiniMax.limits.resolutions else resolution


def _rules(request: object) -> list[FieldError]:
    """Return the errors of V2 that its schema cannot express."""
    if not isinstance(request, dict):
        return []
    model, resolution, seconds, ratio = (request.get(name) for name in ("model", "resolution", "duration", "ratio"))
    content = [one if isinstance(one, dict) else {} for one in items(request.get("content"))]
    errors = _content(content) if content else []
    if model in MODELS and resolution in ("480P", "768P", "2K") and resolution not in _RESOLUTIONS[model]:
        known = ", ".join(f'"{one}"' for one in _RESOLUTIONS[model])
        errors.append(
            FieldError("resolution", f"must be one of {known} for {model}, not {validation.shown(resolution)}")
        )
    if model == H3_MAX and seconds == 4:
        errors.append(FieldError("duration", f"must be an integer from 5 to 15 for {model}, not 4"))
    if model == H3 and "extra" in request:
        errors.append(FieldError("extra", f"is for {H3_MAX} only"))
    if content and all(one.get("type") == "text" for one in content) and ratio in (None, "adaptive"):
        known = ", ".join(f'"{one}"' for one in _RATIOS)
        errors.append(FieldError("ratio", f"must be one of {known} for text-to-video"))
    return errors


def _content(content: list[dict[str, Any]]) -> list[FieldError]:
    """Return the errors of the items of V2: the prompt, each medium's role, how many, and frames with references."""
    errors = []
    texts = [one for one in content if one.get("type") == "text"]
    if len(texts) != 1:
        errors.append(FieldError("content", f'must have one item of the type "text", not {len(texts)}'))
    for index, one in enumerate(content):
        errors += _item(one, f"content[{index}]")
    roles = [_role(one) for one in content]
    most = {**dict.fromkeys(_FRAMES, 1), **REFERENCES_MAX}
    errors += [
        FieldError("content", f"must have at most {high} of the role {role}, not {roles.count(role)}")
        for role, high in most.items()
        if roles.count(role) > high
    ]
    if any(role in _FRAMES for role in roles) and any(role in REFERENCES_MAX for role in roles):
        errors.append(FieldError("content", "must have frames or references, not both"))
    return errors


def _role(one: dict[str, Any]) -> object:
    """Return what an item is for: an image without a role is the first frame. None for what is no text."""
    role = one.get("role", "first_frame" if one.get("type") == "image_url" else None)
    return role if isinstance(role, str) else None


def _item(one: dict[str, Any], path: str) -> list[FieldError]:
    """Return the errors of one item: its medium, and a role that its type does not have."""
    kind, role = one.get("type"), one.get("role")
    if kind == "text":
        text = one.get("text")
        blank = text is None or (isinstance(text, str) and not text.strip())
        return [FieldError(f"{path}.text", "is required")] if blank else []
    if not isinstance(kind, str) or kind not in _KINDS:
        return []
    roles = (_KINDS[kind], *(_FRAMES if kind == "image_url" else ()))
    errors = []
    if role not in roles and not (role is None and kind == "image_url"):
        errors.append(FieldError(f"{path}.role", f"must be one of {', '.join(roles)} for {kind}"))
    if kind not in one:
        return [*errors, FieldError(f"{path}.{kind}", "is required")]
    return errors + _check_media(at(one, kind, "url"), f"{path}.{kind}.url")


def _old_rules(request: object) -> list[FieldError]:
    """Return the errors of V1 that its schema cannot express."""
    if not isinstance(request, dict):
        return []
    model, resolution, seconds = (request.get(name) for name in ("model", "resolution", "duration"))
    first, last = "first_frame_image", "last_frame_image"
    errors = [error for name in (first, last) for error in _check_media(request.get(name), name)]
    for index, one in enumerate(items(at(request, "subject_reference", 0, "image"))):
        errors += _check_media(one, f"subject_reference[0].image[{index}]")
    hailuo = str(model).startswith("MiniMax-")
    if not hailuo and seconds == 10:
        errors.append(FieldError("duration", f"must be 6 for {model}, not 10"))
    if resolution == "1080P" and seconds == 10:
        errors.append(FieldError("duration", "must be 6 with 1080P, not 10"))
    known = (*(("512P",) if model == HAILUO_02 else ()), "768P", "1080P") if hailuo else ("720P",)
    if resolution in MiniMax.limits.resolutions and resolution not in known:
        text = ", ".join(f'"{one}"' for one in known)
        errors.append(
            FieldError("resolution", f"must be one of {text} for {model}, not {validation.shown(resolution)}")
        )
    if first not in request and (model == HAILUO_FAST or str(model).startswith("I2V")):
        errors.append(FieldError(first, f"is required for {model}"))
    if first in request and str(model).startswith(("T2V", "S2V")):
        errors.append(FieldError(first, f"{model} has no frames"))
    if last in request and (model != HAILUO_02 or resolution == "512P"):
        errors.append(FieldError(last, f"is for {HAILUO_02} at 768P and 1080P only"))
    if (model == "S2V-01") != ("subject_reference" in request):
        errors.append(FieldError("subject_reference", "is for S2V-01, which needs it"))
    if first not in request and not str(request.get("prompt", "")).strip():
        errors.append(FieldError("prompt", "is required"))
    return errors


def _check_media(value: object, path: str) -> list[FieldError]:
    """Return the error of a medium that is neither a public URL nor MiniMax's own file nor base64."""
    if not isinstance(value, str) or _MEDIA.fullmatch(value):
        return []
    return check_url(value, path)


def _task(body: dict[str, Any]) -> dict[str, Any]:
    """Return the task of a body: V2 has it in `task`, V1 is the task itself."""
    task = body.get("task")
    return task if isinstance(task, dict) else answers.task_of(body)


def _code(body: dict[str, Any]) -> int:
    """Return the code of a V1 body, 0 if it has none; -1 for a code that is no number."""
    given = at(body, "base_resp", "status_code")
    found = 0 if given is None else answers.whole(given, -(10**9), 10**9)
    return -1 if found is None else found


def _refused(body: dict[str, Any]) -> bool:
    """Return whether a 2xx says that no job was made; after a fault inside MiniMax it may have been."""
    return _code(body) != 0 and _code(body) not in _FAULTS


def _reason(body: dict[str, Any]) -> answers.ErrorText:
    """Return the code and text of an error: V1 has them in `base_resp`, V2 has the code in brackets after the text."""
    if at(body, "base_resp", "status_code") is not None:
        text = text_or_none(at(body, "base_resp", "status_msg"))
        return answers.ErrorText(text_or_none(at(body, "base_resp", "status_code"), 128), text)
    reason = answers.complaint(body)
    inner = _INNER_CODE.search(reason.text or "")
    return answers.ErrorText(inner[1], reason.text) if inner else reason


def _says_unknown(response: ProviderResponse) -> bool:
    """Return whether a refused status check says that there is no such task."""
    try:
        body = response.json()
    except Unreadable:
        return False
    return isinstance(body, dict) and _UNKNOWN_TASK.search(_reason(body).text or "") is not None


def _report(body: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of a task of either version, and of V1 where its status and its file are."""
    task = _task(body)
    provider_job_id = answers.identifier(task.get("id"), task.get("task_id"))
    expires_at = answers.expiry(now_ms, FILE_URL_LIFETIME_S)
    outputs = answers.output(at(task, "content", "url"), expires_at, duration_s=task.get("duration"))
    report = answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=tuple(outputs),
            error=_failure(body, task),
            provider_job_id=provider_job_id,
            default_state=default,
        )
    )
    if "base_resp" not in body:
        return msgspec.structs.replace(report, cost=_cost(task, report.state))
    status_path = provider_job_id and f"/v1/query/video_generation?task_id={quote(provider_job_id, safe='')}"
    file_id = answers.identifier(task.get("file_id")) if report.state is JobState.SUCCEEDED else None
    result_path = file_id and f"/v1/files/retrieve?file_id={quote(file_id, safe='')}"
    return msgspec.structs.replace(report, status_path=status_path, result_path=result_path)


def _failure(body: dict[str, Any], task: dict[str, Any]) -> JobError | None:
    """Return the error of a failed task: of V2 its own, of V1 that of the answer."""
    error = task.get("error")
    reason = _reason(body) if error is None and _code(body) != 0 else answers.error_text(error)
    return answers.failure(reason, CODES)


def _cost(task: dict[str, Any], state: JobState | None) -> Cost | None:
    """Return what a V2 task cost, by its billed seconds; None if references had prices of their own."""
    model, usage = text_at(task, "model"), at(task, "usage")
    usd, seconds = _USD_PER_S.get((model, text_at(task, "resolution"))), answers.number(at(usage, "total_seconds"))
    read, images = answers.number(at(usage, "input_seconds")), answers.number(at(usage, "input_image_count"))
    if state is not JobState.SUCCEEDED or usd is None or seconds is None or seconds < 0:
        return None
    if read or (images is not None and images > FREE_IMAGES[model]):
        return None
    return Cost(amount=f"{(Decimal(usd) * seconds).normalize():f}", unit="USD", kind="final")


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of a refusal: its class by the inner code; an unreachable callback URL is no wrong input."""
    reason = _reason(body)
    if reason.code == _CALLBACK_CODE and _CALLBACK_TEXT.search(reason.text or ""):
        error = answers.error_for(response, ErrorClass.PROVIDER_ERROR, reason)
        hint = "MiniMax did not get its challenge back from relay's callback URL: check RELAY_PUBLIC_URL"
        return msgspec.structs.replace(error, message=f"{error.message}: {hint}")
    kind = CODES.get((reason.code or "").lower())
    return answers.error_for(response, kind.class_, reason) if kind else answers.http_error(response, reason, CODES)
