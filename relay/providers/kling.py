"""Kling, in both of its contracts: the new one has the model in the path, the old one has `model_name` in the body.

The callback is a bare task without the envelope of the answers, sent at every change of the state, and signed by
Standard Webhooks once the account has a webhook secret. `code` other than 0 is an error in any HTTP status. Every job
carries relay's own id as `external_task_id`, which is unique in an account: a submission without an answer is looked up
by it. No cancellation is published. Not published either, and read defensively: what a look-up of an unknown id answers
(an empty list, or 1203), how a repeated `external_task_id` is refused, the texts of failed jobs, and the contract of
Kling 4.0, whose models pass through.
Sources: https://kling.ai/document-api, its pages on authentication, callbacks, error codes, concurrency and prices, and
those of the models 3.0, 3.0 Omni, 3.0 Turbo, 2.6 and 2.5 Turbo.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput, JobUnknown, Unreadable
from relay.model.job import Cost, ErrorClass, Input, JobError, JobState, Output, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.providers import answers
from relay.providers.base import (
    COMMON,
    Limits,
    ModelLimits,
    Provider,
    Refused,
    SubmissionAnswer,
    SubmittedJob,
    Unclear,
    at,
    check_own_ids,
    check_url,
    items,
    path_model,
    text_or_none,
    with_callback,
    with_rules,
    with_suggestions,
    without_model,
    without_none,
)
from relay.providers.prices import Price, dollars, seconds_at, text_at

STANDARD: Final = "kling-3.0"
OMNI: Final = "kling-3.0-omni"
TURBO: Final = "kling-3.0-turbo"
V26: Final = "kling-2.6"
V25_TURBO: Final = "kling-2.5-turbo"
MODELS: Final = (STANDARD, OMNI, TURBO, V26, V25_TURBO)
OLD_MODELS: Final = (
    "kling-v3",
    "kling-v2-6",
    "kling-v2-5-turbo",
    "kling-v2-1-master",
    "kling-v2-1",
    "kling-v2-master",
    "kling-v1-6",
    "kling-v1-5",
    "kling-v1",
)
LIFETIME_S: Final = 30 * 86_400
PROMPT_MAX: Final = 3072
OLDER_PROMPT_MAX: Final = 2500  # of every model but 3.0 and 3.0 Omni, and of the old contract
FRAMES_MAX: Final = 2
TOKEN_LIFE_S, TOKEN_SKEW_S = 1800, 5
_FRAMES: Final = ("first_frame", "last_frame")
_RESOLUTIONS: Final = {"720p": "std", "1080p": "pro", "4k": "4k"}
"""The resolutions, and the `mode` of each in the old contract."""
_UNIFIED: Final = {
    "model": "model",
    "model_name": "model",
    "prompt": "prompt",
    "contents[0]": "prompt",
    "contents": "images",
    "image": "images[0]",
    "image_tail": "images[1]",
    "negative_prompt": "negative_prompt",
    "settings.duration": "duration_s",
    "settings.resolution": "resolution",
    "settings.aspect_ratio": "aspect_ratio",
    "settings.audio": "audio",
    "duration": "duration_s",
    "mode": "resolution",
    "aspect_ratio": "aspect_ratio",
    "sound": "audio",
}
_AUDIO_MODELS: Final = (STANDARD, OMNI, V26, "kling-v3", "kling-v2-6")
"""The models whose pages have a switch for sound; the page of 3.0 Turbo has none."""
_SHORT_MODELS: Final = (V26, V25_TURBO)
_SHORT_S: Final = (5, 10)
_FULL_MODELS: Final = (STANDARD, OMNI)
"""The models with 4k, last frames, several shots and the longer prompt."""
_OF_OMNI: Final = ("refer_image", "feature_video", "base_video")
_USD_PER_S: Final[Mapping[tuple[str, bool], Mapping[str, str]]] = {
    (STANDARD, False): {"720p": "0.084", "1080p": "0.112", "4k": "0.42"},
    (STANDARD, True): {"720p": "0.126", "1080p": "0.168", "4k": "0.42"},
    (OMNI, False): {"720p": "0.084", "1080p": "0.112", "4k": "0.42"},
    (OMNI, True): {"720p": "0.112", "1080p": "0.14", "4k": "0.42"},
    (TURBO, False): {"720p": "0.112", "1080p": "0.14"},
    (V26, False): {"720p": "0.042", "1080p": "0.07"},
    (V25_TURBO, False): {"720p": "0.042", "1080p": "0.07"},
}
"""By model and sound. https://kling.ai/document-api/pricing/base/video; 2.6 with sound is published as a range only."""
_OMNI_WITH_VIDEO: Final = {"720p": "0.126", "1080p": "0.168", "4k": "0.42"}
_NEW_NAMES: Final = {"kling-v3": STANDARD, "kling-v2-6": V26, "kling-v2-5-turbo": V25_TURBO}
CODES: Final[answers.Codes] = {
    **answers.CODES,
    **answers.codes(
        {
            answers.ErrorKind(ErrorClass.AUTH, retryable=False): "1000 1001 1002 1003 1004 1100 1103 1304",
            answers.ErrorKind(ErrorClass.INSUFFICIENT_FUNDS, retryable=False): "1101 1102",
            answers.ErrorKind(ErrorClass.INVALID_INPUT, retryable=False): "1200 1201 1202 1203",
            answers.REJECTED: "1300 1301",
            answers.ErrorKind(ErrorClass.RATE_LIMITED, retryable=True): "1302 1303",
            answers.PROVIDER_FAULT: "5000 5001",
            answers.ErrorKind(ErrorClass.TIMEOUT, retryable=True): "5002",
        }
    ),
}
_FAULTS_FROM: Final = 5000
"""Codes from here on are faults inside Kling, after which the job may exist."""
_UNKNOWN_TASK: Final = 1203
_SERVER_ERROR: Final = 500
_NOT_THERE: Final = re.compile(r"not (be )?found|(does|do) ?n.t exist|not exist", re.IGNORECASE)
_REPEATED_ID: Final = re.compile(
    r"(?=.*external.?(task.?)?id)(?=.*(duplicat|exist|unique|repeat|already|重复|已存在))", re.IGNORECASE | re.DOTALL
)
_RISK: Final = re.compile(r"risk|sensitive|policy|policies|prohibit|violat|illegal|风控|敏感|违规", re.IGNORECASE)
_BASE64: Final = re.compile(r"(data:image/(png|jpe?g);base64,)?[A-Za-z0-9+/\r\n]{64,}={0,2}\s*")
_SUGGESTIONS: Final = {
    "duration": "settings.duration",
    "resolution": "settings.resolution",
    "aspect_ratio": "settings.aspect_ratio",
    "audio": "settings.audio",
    "sound": "settings.audio",
    "mode": "settings.resolution",
    "image": "contents",
    "image_tail": "contents",
    "watermark_info": "options.watermark_info",
}


class Content(msgspec.Struct, forbid_unknown_fields=True):
    """One item of `contents`: the prompt, a frame, an element, or for 3.0 Omni a reference."""

    type: Literal["prompt", "first_frame", "last_frame", "element", "refer_image", "feature_video", "base_video"]
    text: Annotated[str, Meta(min_length=1, max_length=3072)] | UnsetType = UNSET
    url: str | UnsetType = UNSET
    element_id: int | str | UnsetType = UNSET


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What the video is to be like."""

    resolution: Literal["720p", "1080p", "4k"] | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=3, le=15)] | UnsetType = UNSET
    audio: Literal["native", "off", "original"] | UnsetType = UNSET
    multi_shot: bool | UnsetType = UNSET


class Watermark(msgspec.Struct, forbid_unknown_fields=True):
    """Whether a second video with a watermark is made."""

    enabled: bool


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """What is the same for all models, but for the fields that relay sets itself."""

    watermark_info: Watermark | UnsetType = UNSET


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the new contract, and the model, which goes into the path."""

    model: Literal["kling-3.0", "kling-3.0-omni", "kling-3.0-turbo", "kling-2.6", "kling-2.5-turbo"]
    prompt: Annotated[str, Meta(min_length=1, max_length=3072)] | UnsetType = UNSET
    contents: Annotated[list[Content], Meta(min_length=1, max_length=20)] | UnsetType = UNSET
    settings: Settings | UnsetType = UNSET
    options: Options | UnsetType = UNSET


class OldRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of the old contract."""

    model_name: Literal[
        "kling-v3",
        "kling-v2-6",
        "kling-v2-5-turbo",
        "kling-v2-1-master",
        "kling-v2-1",
        "kling-v2-master",
        "kling-v1-6",
        "kling-v1-5",
        "kling-v1",
    ]
    prompt: Annotated[str, Meta(max_length=2500)] | UnsetType = UNSET
    negative_prompt: Annotated[str, Meta(max_length=2500)] | UnsetType = UNSET
    image: str | UnsetType = UNSET
    image_tail: str | UnsetType = UNSET
    image_list: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=10)] | UnsetType = UNSET
    duration: Literal["3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"] | UnsetType = UNSET
    mode: Literal["std", "pro", "4k"] | UnsetType = UNSET
    sound: Literal["on", "off"] | UnsetType = UNSET
    cfg_scale: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | UnsetType = UNSET
    multi_shot: bool | UnsetType = UNSET
    shot_type: Literal["customize", "intelligence", "intelligent"] | UnsetType = UNSET
    multi_prompt: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=6)] | UnsetType = UNSET
    element_list: Annotated[list[dict[str, Any]], Meta(max_length=3)] | UnsetType = UNSET
    voice_list: Annotated[list[dict[str, Any]], Meta(max_length=2)] | UnsetType = UNSET
    camera_control: dict[str, Any] | UnsetType = UNSET
    static_mask: str | UnsetType = UNSET
    dynamic_masks: Annotated[list[dict[str, Any]], Meta(max_length=6)] | UnsetType = UNSET
    watermark_info: Watermark | UnsetType = UNSET


class Kling(Provider):
    """The adapter; it keeps no state between calls."""

    name = "kling"
    title = "Kling"
    base_url = "https://api-singapore.klingai.com"
    callback_field = "options.callback_url"
    own_id_fields = ("options.external_task_id", "external_task_id")
    path_model = True
    unified = _UNIFIED
    honours = COMMON | {"audio", "last_frame", "negative_prompt", "references", "references.video"}
    request_types: tuple[type, ...] = (Request, OldRequest)
    limits = Limits(
        models=(*MODELS, *OLD_MODELS),
        duration_s=(3, 15),
        resolutions=tuple(_RESOLUTIONS),
        aspect_ratios=("16:9", "9:16", "1:1"),
        images_max=FRAMES_MAX,
        prompt_max=PROMPT_MAX,
        prompt_required=True,
        result_lifetime_s=LIFETIME_S,
        expected_s=180,
        by_model={
            TURBO: ModelLimits(resolutions=("720p", "1080p"), images=(0, 1)),
            V26: ModelLimits(duration_s=_SHORT_S, resolutions=("720p", "1080p"), images=(0, 1)),
            V25_TURBO: ModelLimits(duration_s=_SHORT_S, resolutions=("720p", "1080p"), images=(0, 1)),
            **{model: ModelLimits(duration_s=_SHORT_S) for model in OLD_MODELS[1:]},
        },
    )
    further_limits: Mapping[str, str] = {
        "characters of a prompt of other models than 3.0 and 3.0 Omni": str(OLDER_PROMPT_MAX),
        "lengths from 5 to 10 s": "5 s or 10 s",
    }

    def authorization(self, api_key: str, now_s: int) -> str:
        """Return the API key, or for `AccessKey:SecretKey` a token of 30 minutes, which only the old contract takes."""
        access_key, colon, secret_key = api_key.partition(":")
        return f"Bearer {_token(access_key, secret_key, now_s) if colon else api_key}"

    def model_of(self, request: object) -> object:
        """Return `model` of the new contract, or else `model_name` of the old one."""
        return at(request, "model") or at(request, "model_name")

    def input_path(self, native_path: str) -> str:
        """Return the unified field of a native path; in `contents` the prompt stands before the media."""
        place = re.match(r"contents\[([1-9][0-9]*)\]", native_path)
        return f"images[{int(place[1]) - 1}]" if place else super().input_path(native_path)

    def check_model(self, request: object) -> list[FieldError]:
        """Return the errors of a body of a model that relay does not know: only `model` goes into the path."""
        return check_own_ids(self, request) if _is_old(request) else super().check_model(request)

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body: of the old contract for a model of that, else of the new one.

        References need 3.0 Omni, which is the default with them; a negative prompt needs the old contract.
        """
        model = given.model or (OMNI if given.references else STANDARD)
        old, refused = model.startswith("kling-v"), []
        if (count := len(given.frames)) > FRAMES_MAX:
            refused.append(FieldError("images", f"must be an array of at most {FRAMES_MAX} items, not {count}"))
        if given.references and model != OMNI:
            refused.append(FieldError("references", f"needs the model {OMNI}"))
        if given.negative_prompt is not None and not old:
            why = "is for models of the old contract, such as kling-v2-6: say it in the prompt"
            refused.append(FieldError("negative_prompt", why))
        if old and given.resolution not in (None, *_RESOLUTIONS):
            known = ", ".join(f'"{name}"' for name in _RESOLUTIONS)
            why = f"must be one of {known}, not {validation.shown(given.resolution)}"
            refused.append(FieldError("resolution", why))
        request = _old_body(given) if old else _new_body(given, model)
        if refused:
            raise InvalidInput([*refused, *self.check(request)])
        return request

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published limits."""
        own = check_own_ids(self, request)
        if _is_old(request):
            return with_rules(validation.check(request, OldRequest), own + _old_rules(request))
        errors = with_suggestions(validation.check(request, Request), _SUGGESTIONS)
        return with_rules(errors, own + _new_rules(request))

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /text-to-video/{model}` or another route, with relay's id of the job as `external_task_id`."""
        old = _is_old(request)
        body = with_callback(request, "callback_url" if old else self.callback_field, callback_url)
        body = with_callback(body, "external_task_id" if old else "options.external_task_id", job_id)
        return ProviderRequest(method="POST", path=_route(request), body=body if old else without_model(body))

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; a repeated `external_task_id` says that the job exists already."""
        read = answers.read_submission(
            response, lambda body: _report(_task(body), None, JobState.SUBMITTED), _explain, _refused
        )
        if isinstance(read, Refused) and _REPEATED_ID.search(read.error.provider_message or ""):
            return Unclear(read.error)
        return read

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /tasks?task_ids=`, or of the old contract `GET /v1/videos/{kind}/{id}`."""
        if _is_old(job.request):
            return ProviderRequest(method="GET", path=f"{_route(job.request)}/{job.quoted_id}")
        return ProviderRequest(method="GET", path=f"/tasks?task_ids={job.quoted_id}")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer, whose `data` is a list or an object."""
        body = answers.status_body(response)
        if (code := _code(body)) != 0:
            reason = f"code {code}: {answers.complaint(body).text or ''}"[:300]
            raise JobUnknown(reason) if code == _UNKNOWN_TASK else Unreadable(reason)
        if body.get("data") == []:
            raise JobUnknown("the list of tasks is empty")
        return _report(_task(body), now_ms)

    def find(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return the look-up by relay's own id; the old contract has it in the place of Kling's id."""
        own_id = quote(job.job_id, safe="")
        if _is_old(job.request):
            return ProviderRequest(method="GET", path=f"{_route(job.request)}/{own_id}")
        return ProviderRequest(method="GET", path=f"/tasks?external_task_ids={own_id}")

    def read_found(self, response: ProviderResponse, job: SubmittedJob, now_ms: int) -> Report | None:
        """Return the report of the task with relay's id; None only for Kling's own answer that there is none."""
        body = response.json()
        if not isinstance(body, dict):
            raise Unreadable(f"HTTP {response.status_code} with a body that is not an object")
        code, good = _code(body), 200 <= response.status_code < 300
        if good and code == 0 and body.get("data") == []:
            return None
        if _is_absent(response.status_code, code, answers.complaint(body).text):
            return None
        for task in _tasks(body) if good and code == 0 else []:
            report = _report(task, now_ms, JobState.SUBMITTED)
            if report.provider_job_id and _own_id(task) == job.job_id:
                return report
        raise Unreadable(f"HTTP {response.status_code}, code {code}, without the task of this id")

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of a callback of the new contract (`status`) or of the old one (`task_status`)."""
        return _report(_task(body), now_ms)

    def price(self, request: object) -> Price | None:
        """Return USD by model, resolution, sound and seconds."""
        if _is_old(request):
            model, at_mode = _NEW_NAMES.get(text_at(request, "model_name"), ""), text_at(request, "mode") or "std"
            resolution = next((name for name, mode in _RESOLUTIONS.items() if mode == at_mode), "")
            holder, sound = request, text_at(request, "sound") == "on" or bool(at(request, "voice_list"))
        else:
            model, holder = text_at(request, "model"), at(request, "settings")
            resolution, sound = text_at(holder, "resolution") or "720p", text_at(holder, "audio") not in ("", "off")
        table = _USD_PER_S.get((model, sound), {})
        if model == OMNI and any(at(one, "type") in _OF_OMNI[1:] for one in items(at(request, "contents"))):
            table = _OMNI_WITH_VIDEO
        usd_per_s, seconds = table.get(resolution), seconds_at(holder, "duration", range(3, 16), 5)
        return None if usd_per_s is None or seconds is None else dollars(Decimal(usd_per_s) * seconds)


def _token(access_key: str, secret_key: str, now_s: int) -> str:
    """Return the signed token of an AccessKey and its SecretKey."""
    times = f'"exp":{now_s + TOKEN_LIFE_S},"nbf":{now_s - TOKEN_SKEW_S}'
    claims = f'{{"iss":{msgspec.json.encode(access_key).decode()},{times}}}'
    signed = ".".join(_base64url(text.encode()) for text in ('{"alg":"HS256","typ":"JWT"}', claims))
    return f"{signed}.{_base64url(hmac.digest(secret_key.encode(), signed.encode(), hashlib.sha256))}"


def _base64url(raw: bytes) -> str:
    """Return bytes in base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _is_old(request: object) -> bool:
    """Return whether a native body is one of the old contract: it names its model in `model_name`."""
    return at(request, "model_name") is not None and at(request, "model") is None


def _route(request: Mapping[str, object]) -> str:
    """Return the path of a submission; a model of several segments, which relay does not know, is the path itself."""
    if _is_old(request):
        return f"/v1/videos/{_old_kind(request)}"
    model = path_model(request)
    if "/" in model:
        return f"/{model}"
    if "omni" in model:
        return f"/omni-video/{model}"
    return f"/{'text-to-video' if request.get('contents') is None else 'image-to-video'}/{model}"


def _old_kind(request: Mapping[str, object]) -> str:
    """Return the kind of a job in the paths of the old contract."""
    model = str(request.get("model_name"))
    if "omni" in model or model.endswith("-o1"):
        return "omni-video"
    if request.get("image_list") is not None:
        return "multi-image2video"
    return "text2video" if request.get("image") is None and request.get("image_tail") is None else "image2video"


def _new_body(given: Input, model: str) -> dict[str, object]:
    """Return the body of the new contract; without images or references the prompt stands alone."""
    settings = without_none(
        resolution=given.resolution,
        duration=given.duration_s,
        aspect_ratio=given.aspect_ratio,
        audio=None if given.audio is None else ("native" if given.audio else "off"),
    )
    body: dict[str, object] = {"model": model}
    if given.frames or model == OMNI:
        media = [
            *zip(_FRAMES, given.frames, strict=False),
            *(("refer_image", url) for url in given.referred("image")),
            *(("feature_video", url) for url in given.referred("video")),
        ]
        prompt = without_none(type="prompt", text=given.prompt)
        body["contents"] = [prompt, *({"type": kind, "url": url} for kind, url in media)]
    elif given.prompt is not None:
        body["prompt"] = given.prompt
    return body | ({"settings": settings} if settings else {})


def _old_body(given: Input) -> dict[str, object]:
    """Return the body of the old contract."""
    first, last = (*given.frames, None, None)[:2]
    return without_none(
        model_name=given.model,
        prompt=given.prompt,
        negative_prompt=given.negative_prompt,
        image=first,
        image_tail=last,
        mode=_RESOLUTIONS.get(given.resolution or ""),
        duration=None if given.duration_s is None else str(given.duration_s),
        aspect_ratio=given.aspect_ratio,
        sound=None if given.audio is None else ("on" if given.audio else "off"),
    )


def _new_rules(request: object) -> list[FieldError]:
    """Return the errors of the new contract that its schema cannot express."""
    if not isinstance(request, dict):
        return []
    model, settings = request.get("model"), request.get("settings")
    errors = _prompt_and_contents(request)
    resolution, seconds, audio = (at(settings, name) for name in ("resolution", "duration", "audio"))
    if resolution == "4k" and model in MODELS and model not in _FULL_MODELS:
        errors.append(FieldError("settings.resolution", f'must be one of "720p", "1080p" for {model}, not "4k"'))
    if model in _SHORT_MODELS and isinstance(seconds, int) and seconds not in _SHORT_S:
        errors.append(FieldError("settings.duration", f"must be 5 or 10 for {model}, not {validation.shown(seconds)}"))
    for name, having in (("audio", _AUDIO_MODELS), ("multi_shot", _FULL_MODELS)):
        if at(settings, name) is not None and model in MODELS and model not in having:
            errors.append(FieldError(f"settings.{name}", f"{model} has no such setting"))
    if audio == "original" and model in _AUDIO_MODELS and model != OMNI:
        errors.append(FieldError("settings.audio", f'must be one of "native", "off" for {model}, not "original"'))
    if audio == "native" and model == V26 and resolution != "1080p":
        errors.append(FieldError("settings.resolution", f'must be "1080p" for {model} with sound'))
    if at(settings, "aspect_ratio") is not None and request.get("contents") is not None and model != OMNI:
        errors.append(FieldError("settings.aspect_ratio", "is for text-to-video only: a video follows its first frame"))
    return errors


def _prompt_and_contents(request: dict[str, Any]) -> list[FieldError]:
    """Return the errors of the prompt and the contents, of which a body has one, and of the contents' items."""
    model, contents = request.get("model"), request.get("contents")
    most = PROMPT_MAX if model in _FULL_MODELS else OLDER_PROMPT_MAX
    if contents is None:
        if model == OMNI:
            return [FieldError("contents", f"is required for {OMNI}")]
        if request.get("prompt") is None:
            return [FieldError("prompt", "is required (or contents, for image-to-video)")]
        return _too_long(request["prompt"], "prompt", most)
    if "prompt" in request:
        return [FieldError("prompt", "cannot be given with contents: give the prompt as one of them")]
    kinds, errors = [at(one, "type") for one in items(contents)], []
    for index, one in enumerate(items(contents)):
        errors += _content(one, f"contents[{index}]", model)
        errors += _too_long(at(one, "text"), f"contents[{index}].text", most)
    if "prompt" not in kinds:
        errors.append(FieldError("contents", 'must have an item of the type "prompt"'))
    if model != OMNI and "first_frame" not in kinds:
        errors.append(FieldError("contents", 'must have an item of the type "first_frame"'))
    return errors + [
        FieldError("contents", f"must have one {kind} at most") for kind in _FRAMES if kinds.count(kind) > 1
    ]


def _content(one: object, path: str, model: object) -> list[FieldError]:
    """Return the errors of one item of the contents: what its type needs, and whether the model has the type."""
    kind = at(one, "type")
    if kind == "prompt":
        return [] if at(one, "text") is not None else [FieldError(f"{path}.text", "is required")]
    if kind == "element":
        return [] if at(one, "element_id") is not None else [FieldError(f"{path}.element_id", "is required")]
    if model in MODELS and kind in _OF_OMNI and model != OMNI:
        return [FieldError(f"{path}.type", f"{kind} is for {OMNI} only")]
    if model in MODELS and kind == "last_frame" and model not in _FULL_MODELS:
        return [FieldError(f"{path}.type", f"{model} has no last frame")]
    if isinstance(one, dict) and "url" not in one:
        return [FieldError(f"{path}.url", "is required")]
    return _check_media(at(one, "url"), f"{path}.url")


def _old_rules(request: object) -> list[FieldError]:
    """Return the errors of the old contract that its schema cannot express."""
    if not isinstance(request, dict):
        return []
    errors, model = [], request.get("model_name")
    for name in ("image", "image_tail", "static_mask"):
        if str(request.get(name)).startswith("data:"):
            errors.append(FieldError(name, "must be base64 without the prefix data:, or a public URL"))
        else:
            errors += _check_media(request.get(name), name)
    for index, one in enumerate(items(request.get("image_list"))):
        errors += _check_media(at(one, "image"), f"image_list[{index}].image")
    shots = request.get("multi_shot") is True and request.get("shot_type") == "customize"
    if not request.get("prompt") and not shots:
        errors.append(FieldError("prompt", "is required"))
    if model in OLD_MODELS and model != "kling-v3" and request.get("duration") not in (None, "5", "10"):
        errors.append(FieldError("duration", f'must be one of "5", "10" for {model}'))
    if model in OLD_MODELS and model not in _AUDIO_MODELS and request.get("sound") == "on":
        errors.append(FieldError("sound", f"{model} makes no sound"))
    if str(model).startswith("kling-v2") and "cfg_scale" in request:
        errors.append(FieldError("cfg_scale", f"{model} has no such field"))
    if request.get("aspect_ratio") is not None and _old_kind(request) == "image2video":
        errors.append(FieldError("aspect_ratio", "is for text-to-video only: a video follows its first frame"))
    return errors


def _too_long(text: object, path: str, most: int) -> list[FieldError]:
    """Return the error of a prompt that is longer than its model's limit; one behind the schema's is the schema's."""
    if not isinstance(text, str) or not most < len(text) <= PROMPT_MAX:
        return []
    return [FieldError(path, f"must be a string of at most {most} characters, not {len(text)}")]


def _check_media(value: object, path: str) -> list[FieldError]:
    """Return the error of an image or video that is neither base64 nor a public URL; other types are the schema's."""
    if not isinstance(value, str) or _BASE64.fullmatch(value):
        return []
    return check_url(value, path)


def _code(body: dict[str, Any]) -> int:
    """Return the code of an answer, 0 if it has none; -1 for a code that is no number."""
    given = body.get("code")
    found = 0 if given is None else answers.whole(given, -(10**9), 10**9)
    return -1 if found is None else found


def _refused(body: dict[str, Any]) -> bool:
    """Return whether a 2xx says that no job was made; after a fault inside Kling it may have been."""
    return _code(body) != 0 and _code(body) < _FAULTS_FROM


def _is_absent(status_code: int, code: int, text: str | None) -> bool:
    """Return whether an answer to a look-up is Kling's own statement that no such task exists."""
    kind = CODES.get(str(code))
    about_input = kind is not None and kind.class_ is ErrorClass.INVALID_INPUT and status_code < _SERVER_ERROR
    return code == _UNKNOWN_TASK or (about_input and _NOT_THERE.search(text or "") is not None)


def _tasks(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks of a body: the objects of a list in `data`, the object there, or the body itself."""
    data = body.get("data")
    if isinstance(data, list):
        return [one for one in data if isinstance(one, dict)]
    return [data if isinstance(data, dict) else body]


def _task(body: dict[str, Any]) -> dict[str, Any]:
    """Return the first task of a body; the body itself if it has a list without any."""
    return next(iter(_tasks(body)), body)


def _own_id(task: dict[str, Any]) -> str | None:
    """Return the client's id of a task of either contract."""
    return text_or_none(task.get("external_id")) or text_or_none(at(task, "task_info", "external_task_id"))


def _report(task: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of a task of either contract."""
    told: dict[str, Any] = {name: task[name] for name in ("state", "status", "progress") if name in task}
    if "task_status" in task:
        told["status"] = task["task_status"]
    report = answers.report_of(
        answers.TaskFields(
            task=told,
            outputs=_outputs(task, now_ms),
            error=_failure(task),
            provider_job_id=answers.identifier(task.get("id"), task.get("task_id")),
            default_state=default,
        )
    )
    return msgspec.structs.replace(report, cost=_cost(task, report.state))


def _failure(task: dict[str, Any]) -> JobError | None:
    """Return the error of a failed task, which has only a text: rejected content by its words, else Kling's fault."""
    error = answers.failure(
        answers.ErrorText(None, text_or_none(task.get("message")) or text_or_none(task.get("task_status_msg")))
    )
    if error is None or error.class_ is ErrorClass.CONTENT_REJECTED:
        return error
    kind = answers.REJECTED if _RISK.search(error.provider_message or "") else answers.PROVIDER_FAULT
    return msgspec.structs.replace(error, class_=kind.class_, retryable=kind.retryable)


def _outputs(task: dict[str, Any], now_ms: int | None) -> tuple[Output, ...]:
    """Return the videos, without their copies with a watermark."""
    expires_at = answers.expiry(_made_at(task, now_ms), LIFETIME_S)
    videos = [one for one in items(task.get("outputs")) if at(one, "type") in (None, "video")]
    videos += items(at(task, "task_result", "videos"))
    return answers.distinct(
        output
        for one in videos
        for output in answers.output(at(one, "url"), expires_at, duration_s=at(one, "duration"))
    )


def _made_at(task: dict[str, Any], now_ms: int | None) -> int | None:
    """Return when a result was made: the task's last change (unix milliseconds) if that is plausible, else now."""
    if now_ms is None:
        return None
    changed_at = task.get("update_time", task.get("updated_at"))
    return answers.whole(changed_at, now_ms - LIFETIME_S * 1000, now_ms) or now_ms


def _cost(task: dict[str, Any], state: JobState | None) -> Cost | None:
    """Return what a task cost: units as credits, or USD; None for yuan, and for a bill in several units."""
    kind = "final" if state is not None and state.final else "reserved"
    bill = [one for one in items(task.get("billing")) if isinstance(one, dict)]
    if not bill:
        return answers.credit_cost(task.get("final_unit_deduction"), kind)
    units = {"credits" if one.get("charge_type") == "unit" else text_or_none(one.get("currency")) for one in bill}
    amounts = [amount for one in bill if (amount := answers.number(one.get("amount"))) is not None and amount >= 0]
    if units not in ({"credits"}, {"USD"}) or len(amounts) < len(bill):
        return None
    return Cost(amount=f"{sum(amounts, Decimal(0)).normalize():f}", unit=str(units.pop()), kind=kind)


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of `{"code", "message"}`: its class by the code, since 429 also stands for missing funds."""
    reason = answers.complaint(body)
    kind = CODES.get(reason.code or "")
    return answers.error_for(response, kind.class_, reason) if kind else answers.http_error(response, reason, CODES)
