"""fal: the model is the path of the submission, the callback URL its query, and a result is fetched in two steps.

A status answer has three statuses only: a failed job is `COMPLETED` with an `error`, and the result, or the model's own
error, is at the status route's parent. Follow-up routes keep the first two segments of the model (`owner/alias`).
Callbacks are signed by published ed25519 keys, at another origin than the API's. No idempotency key is published, and
no way to ask for a job by relay's own id. How long results live is the account's setting, so relay assumes no time.
Sources: https://fal.ai/docs (queue, webhooks, errors, each model's page), npm @fal-ai/client 1.10, PyPI fal_client 1.0.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import product
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput, JobUnknown, Unreadable
from relay.model import result_urls
from relay.model.job import ErrorClass, Input, JobError, JobState, Output, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.providers import answers
from relay.providers.answers import ErrorKind, ErrorText
from relay.providers.base import (
    COMMON,
    REFERENCES,
    Limits,
    Provider,
    SubmissionAnswer,
    SubmittedJob,
    at,
    check_url,
    check_urls,
    items,
    path_model,
    text_or_none,
    with_query,
    without_model,
    without_none,
)
from relay.providers.model_rules import (
    ModelRules,
    check_by_rules,
    check_choice,
    check_fields,
    check_prompts,
    check_urls_within,
    too_many,
)
from relay.providers.prices import Price, dollars, seconds_at, text_at
from relay.security import signatures
from relay.security.signatures import SignatureInvalid, Signed

SEEDANCE: Final = "bytedance/seedance-2.0"
SEEDANCE_25: Final = "bytedance/seedance-2.5"
KLING: Final = "fal-ai/kling-video/v3"
TURBO: Final = f"{KLING}/turbo"
VEO: Final = "fal-ai/veo3.1"
H3: Final = "minimax/h3"
MODEL_FORM: Final = "a model of fal: 2 to 6 names with / between them, none of them requests"
TEXT, IMAGE, REFERENCE = "text-to-video", "image-to-video", "reference-to-video"
FIRST_LAST: Final = "first-last-frame-to-video"
SECONDS_DEFAULT: Final = 5
"""What a unified input without `duration_s` asks of Seedance, whose own default `auto` is billed by the second."""
TIERS: Final = {"720p": "standard", "1080p": "pro", "4k": "4k"}
"""Kling's tiers, which stand in the model instead of a resolution."""
CODES: Final[answers.Codes] = {
    **answers.CODES,
    **answers.codes(
        {
            ErrorKind(ErrorClass.INVALID_INPUT, retryable=False): (
                "bad_request missing literal_error file_download_error image_too_large"
            ),
            ErrorKind(ErrorClass.RATE_LIMITED, retryable=True): "concurrent_requests_limit",
            ErrorKind(ErrorClass.TIMEOUT, retryable=True): "request_timeout startup_timeout",
            answers.PROVIDER_FAULT: (
                "internal_server_error downstream_service_error downstream_service_unavailable runner_server_error "
                "runner_incomplete_response runner_scheduling_failure runner_connection_timeout "
                "runner_connection_disconnected runner_connection_refused runner_connection_error client_disconnected"
            ),
        }
    ),
}
_CANCELED: Final = "client_cancelled"
_FUNDS: Final = re.compile(r"exhausted.balance|top.?up", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\b[45][0-9]{2}\b")
_KINDS: Final = {
    400: ErrorKind(ErrorClass.INVALID_INPUT, retryable=False),
    401: ErrorKind(ErrorClass.AUTH, retryable=False),
    403: ErrorKind(ErrorClass.AUTH, retryable=False),
    404: ErrorKind(ErrorClass.INVALID_INPUT, retryable=False),
    422: ErrorKind(ErrorClass.INVALID_INPUT, retryable=False),
    429: ErrorKind(ErrorClass.RATE_LIMITED, retryable=True),
    504: ErrorKind(ErrorClass.TIMEOUT, retryable=True),
}
_CLIENT_GONE, _SERVER_ERROR = 499, 500
_SEGMENTS: Final = r"(?:/[A-Za-z0-9][A-Za-z0-9._-]*){2,6}"
_SHIFTED: Final = ("workflows", "comfy")
"""Namespaces before the owner."""
_PATH_MAX: Final = 1024
_NOT_ABOUT_THE_JOB: Final = (401, 403, 429)
"""Statuses that are about relay's key or pace, whatever the body says."""
_HEADER: Final = re.compile(r"[!-~]{1,200}")
_HEX: Final = re.compile(r"[0-9A-Fa-f]{128}")
_UNIFIED: Final = {
    "image_url": "images[0]",
    "start_image_url": "images[0]",
    "first_frame_url": "images[0]",
    "end_image_url": "images[1]",
    "last_frame_url": "images[1]",
    "image_urls": "references",
    "video_urls": "references",
    "audio_urls": "references",
    "duration": "duration_s",
    "generate_audio": "audio",
}
_URLS: Final = ("image_url", "start_image_url", "end_image_url", "first_frame_url", "last_frame_url")
_LISTS: Final = ("image_urls", "video_urls", "audio_urls")


class Seedance(msgspec.Struct, forbid_unknown_fields=True):
    """The body of Seedance's models; which fields a model has is in its `ModelRules`."""

    model: str
    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]
    image_url: str | UnsetType = UNSET
    end_image_url: str | UnsetType = UNSET
    image_urls: Annotated[list[str], Meta(max_length=30)] | UnsetType = UNSET
    video_urls: Annotated[list[str], Meta(max_length=10)] | UnsetType = UNSET
    audio_urls: Annotated[list[str], Meta(max_length=10)] | UnsetType = UNSET
    task: Literal["reference", "editing", "extension"] | UnsetType = UNSET
    duration: str | UnsetType = UNSET
    resolution: Literal["480p", "720p", "1080p", "4k"] | UnsetType = UNSET
    aspect_ratio: Literal["auto", "21:9", "16:9", "4:3", "1:1", "3:4", "9:16"] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    bitrate_mode: Literal["standard", "high"] | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    end_user_id: Annotated[str, Meta(max_length=200)] | UnsetType = UNSET


class Shot(msgspec.Struct, forbid_unknown_fields=True):
    """One shot of several, with its own prompt and seconds."""

    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]
    duration: str | UnsetType = UNSET


class Kling(msgspec.Struct, forbid_unknown_fields=True):
    """The body of Kling 3's models, the turbo ones too."""

    model: str
    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)] | UnsetType = UNSET
    multi_prompt: Annotated[list[Shot], Meta(min_length=1, max_length=15)] | UnsetType = UNSET
    image_url: str | UnsetType = UNSET
    start_image_url: str | UnsetType = UNSET
    end_image_url: str | UnsetType = UNSET
    duration: str | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    negative_prompt: Annotated[str, Meta(max_length=20_000)] | UnsetType = UNSET
    cfg_scale: float | UnsetType = UNSET
    shot_type: Literal["customize", "intelligent"] | UnsetType = UNSET
    elements: Annotated[list[Any], Meta(max_length=20)] | UnsetType = UNSET


class Veo(msgspec.Struct, forbid_unknown_fields=True):
    """The body of Veo 3.1's models."""

    model: str
    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]
    image_url: str | UnsetType = UNSET
    first_frame_url: str | UnsetType = UNSET
    last_frame_url: str | UnsetType = UNSET
    duration: Literal["4s", "6s", "8s"] | UnsetType = UNSET
    resolution: Literal["720p", "1080p", "4k"] | UnsetType = UNSET
    aspect_ratio: Literal["auto", "16:9", "9:16"] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    negative_prompt: Annotated[str, Meta(max_length=20_000)] | UnsetType = UNSET
    seed: int | UnsetType = UNSET
    auto_fix: bool | UnsetType = UNSET
    safety_tolerance: Literal["1", "2", "3", "4", "5", "6"] | UnsetType = UNSET


class Hailuo(msgspec.Struct, forbid_unknown_fields=True):
    """The body of MiniMax H3's models."""

    model: str
    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]
    image_url: str | UnsetType = UNSET
    end_image_url: str | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=1, le=30)] | UnsetType = UNSET
    resolution: Literal["480P", "768P", "2K", "4K"] | UnsetType = UNSET


def _seedance() -> Iterator[tuple[str, ModelRules]]:
    """Yield Seedance 2.0, its fast and mini variants, and 2.5: each from text, from frames, and from references."""
    variants = {
        SEEDANCE: ("480p", "720p", "1080p", "4k"),
        f"{SEEDANCE}/fast": ("480p", "720p"),
        f"{SEEDANCE}/mini": ("480p", "720p"),
        SEEDANCE_25: ("480p", "720p", "1080p"),
    }
    for (family, resolutions), kind in product(variants.items(), (TEXT, IMAGE, REFERENCE)):
        newer = family == SEEDANCE_25
        frames = ("image_url", "end_image_url") if kind == IMAGE else ()
        most = (30, 10, 10) if newer else (9, 3, 3)
        lists = dict(zip(_LISTS, most, strict=True)) if kind == REFERENCE else {}
        refused = {"image_url", "end_image_url", *_LISTS, "task", "seed"} - {*frames, *lists}
        refused -= ({"task"} if kind == REFERENCE else {"seed"}) if newer else set()
        yield (
            f"{family}/{kind}",
            ModelRules(
                body=Seedance,
                frames=frames,
                required=frames[:1],
                refused=frozenset(refused),
                resolutions=resolutions,
                seconds=(4, 30 if newer else 15),
                auto=True,
                lists=lists,
            ),
        )


def _kling() -> Iterator[tuple[str, ModelRules]]:
    """Yield Kling 3 and its turbo variant, in each tier, from text and from frames."""
    only_full = {"generate_audio", "negative_prompt", "cfg_scale", "shot_type", "elements"}
    for tier, kind in product((*TIERS.values(), "turbo/standard", "turbo/pro"), (TEXT, IMAGE)):
        turbo = tier.startswith("turbo")
        frames: tuple[str, ...] = ()
        if kind == IMAGE:
            frames = ("image_url",) if turbo else ("start_image_url", "end_image_url")
        refused = {"image_url", "start_image_url", "end_image_url"} - set(frames)
        refused |= ({"aspect_ratio"} if kind == IMAGE else set()) | (only_full if turbo else set())
        yield (
            f"{KLING}/{tier}/{kind}",
            ModelRules(
                body=Kling,
                frames=frames,
                required=frames[:1],
                refused=frozenset(refused),
                resolutions=tuple(size for size, of in TIERS.items() if of == tier.rpartition("/")[2]),
                seconds=(3, 15),
            ),
        )


def _veo() -> Iterator[tuple[str, ModelRules]]:
    """Yield Veo 3.1 and its fast and lite variants: from text, from one frame, and from two."""
    kinds = {"": (), f"/{IMAGE}": ("image_url",), f"/{FIRST_LAST}": ("first_frame_url", "last_frame_url")}
    for variant, (kind, frames) in product(("", "/fast", "/lite"), kinds.items()):
        refused = frozenset({"image_url", "first_frame_url", "last_frame_url"} - set(frames))
        yield (
            f"{VEO}{variant}{kind}",
            ModelRules(
                body=Veo,
                frames=frames,
                required=frames,
                refused=refused,
                resolutions=("720p", "1080p", "4k"),
                seconds=(4, 8),
            ),
        )


def _hailuo() -> Iterator[tuple[str, ModelRules]]:
    """Yield MiniMax H3, from text and from frames."""
    frames, sizes, seconds = ("image_url", "end_image_url"), ("480P", "768P", "2K", "4K"), (1, 30)
    rules = ModelRules(body=Hailuo, resolutions=sizes, seconds=seconds)
    yield f"{H3}/{TEXT}", msgspec.structs.replace(rules, refused=frozenset(frames))
    yield f"{H3}/{IMAGE}", msgspec.structs.replace(rules, frames=frames, required=frames[:1])


MODELS: Final[Mapping[str, ModelRules]] = dict((*_seedance(), *_kling(), *_veo(), *_hailuo()))
PER_SECOND: Final[Mapping[str, tuple[str, str]]] = {
    f"{KLING}/pro/{TEXT}": ("0.112", "0.168"),
    f"{KLING}/pro/{IMAGE}": ("0.112", "0.168"),
    **{f"{SEEDANCE}/{kind}": ("0.3034", "0.3034") for kind in (TEXT, IMAGE, REFERENCE)},
    **{f"{SEEDANCE}/fast/{kind}": ("0.2419", "0.2419") for kind in (TEXT, IMAGE, REFERENCE)},
    **{f"{VEO}{kind}": ("0.20", "0.40") for kind in ("", f"/{IMAGE}", f"/{FIRST_LAST}")},
    **{f"{VEO}/fast{kind}": ("0.10", "0.15") for kind in ("", f"/{IMAGE}", f"/{FIRST_LAST}")},
}
"""USD a second without and with sound; Seedance's at 720p, Veo's below 4k. Source: each model's page, 2026-09."""
_VEO_4K: Final = ("0.40", "0.60")


class Fal(Provider):
    """The adapter; it keeps no state between calls."""

    name = "fal"
    title = "fal"
    base_url = "https://queue.fal.run"
    keys_url = "https://rest.fal.ai/.well-known/jwks.json"
    callback_query = "fal_webhook"
    path_model = True
    verifier = "fal-jwks"
    further_limits: Mapping[str, str] = {"concurrent runs of a new account": "2; more wait in the queue"}
    unified = _UNIFIED
    honours = COMMON | REFERENCES | {"last_frame", "audio", "seed", "negative_prompt"}
    request_types: tuple[type, ...] = (Seedance, Kling, Veo, Hailuo)
    limits = Limits(
        models=tuple(MODELS),
        by_model={model: rules.limits for model, rules in MODELS.items()},
        duration_s=(1, 30),
        resolutions=("480p", "720p", "1080p", "4k", "480P", "768P", "2K", "4K"),
        aspect_ratios=("auto", "21:9", "16:9", "4:3", "1:1", "3:4", "9:16"),
        images_max=2,
        prompt_max=None,
        prompt_required=True,
        result_lifetime_s=None,
        expected_s=180,
    )

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body: frames and references choose the model of a family, a resolution Kling's tier."""
        model = _model(given)
        rules = MODELS.get(model)
        kind = rules.body if rules else Seedance
        names = (rules.frames if rules else ()) or ("image_url", "end_image_url")
        if len(given.frames) > len(names):
            raise InvalidInput([FieldError("images", too_many(model, len(names), len(given.frames)))])
        return without_none(
            model=model,
            prompt=given.prompt,
            negative_prompt=given.negative_prompt,
            **dict(zip(names, given.frames, strict=False)),
            **{name: given.referred(name.removesuffix("_urls")) or None for name in _LISTS},
            duration=_seconds(kind, given.duration_s),
            resolution=None if kind is Kling else given.resolution,
            aspect_ratio="auto" if given.aspect_ratio == "adaptive" else given.aspect_ratio,
            generate_audio=given.audio,
            seed=given.seed,
        )

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published limits of the model."""
        return check_by_rules(request, MODELS, Seedance, _rules, _urls)

    def check_model(self, request: object) -> list[FieldError]:
        """Return the error of a model that is not `owner/alias[/…]`, or that would lead to a job's routes."""
        segments = path_model(request).split("/")
        if len(segments) > 1 and "requests" not in segments:
            return []
        return [FieldError("model", f"must be {MODEL_FORM}")]

    def authorization(self, api_key: str, now_s: int) -> str:
        """Return `Key`, not `Bearer`."""
        return f"Key {api_key}"

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /{model}`; the body is the model's input, and the callback URL a parameter of the query."""
        path = with_query(f"/{path_model(request)}", **{self.callback_query: callback_url})
        return ProviderRequest(method="POST", path=path, body=without_model(request))

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; a 2xx has the id and the status route."""
        return answers.read_submission(response, lambda body: _report(body, JobState.SUBMITTED), _explain)

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /{owner}/{alias}/requests/{id}/status`, without the model's log."""
        return ProviderRequest(method="GET", path=f"{_route(job)}/status?logs=0")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise Unreadable unless it is a 2xx with a status."""
        return _report(answers.status_body(response))

    def result_request(self, job: SubmittedJob, report: Report) -> ProviderRequest | None:
        """Return `GET /{owner}/{alias}/requests/{id}` for a job that ended: its output, or its model's error."""
        if report.outputs or report.state not in (JobState.SUCCEEDED, JobState.FAILED):
            return None
        return ProviderRequest(method="GET", path=_route(job))

    def read_result(self, response: ProviderResponse, report: Report, now_ms: int) -> Report:
        """Return the report with the output, or with the model's own error.

        Raise Unreadable where a job that succeeded has no readable result yet, JobUnknown where fal does not know it.
        """
        status_code, body = response.status_code, _object(response)
        about_the_job = status_code not in _NOT_ABOUT_THE_JOB and bool(body)
        listed = about_the_job and isinstance(at(body, "detail"), list)
        if report.state is JobState.FAILED:
            error = _failure(body, status_code) if listed or (about_the_job and at(body, "error_type")) else None
            return msgspec.structs.replace(report, error=error or report.error)
        if listed and status_code < _SERVER_ERROR:
            return msgspec.structs.replace(report, state=JobState.FAILED, error=_failure(body, status_code))
        if 200 <= status_code < 300 and body is not None:
            usable, unusable = result_urls.parted(_outputs(body))
            return msgspec.structs.replace(report, outputs=usable, unusable=unusable)
        message = f"HTTP {status_code} in place of the result: {_reason(body)}"[:300]
        if status_code in (404, 410):
            raise JobUnknown(message)
        raise Unreadable(message)

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of a callback; without a payload a status check fetches the result."""
        return _report(body)

    def cancellation(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return `PUT /{owner}/{alias}/requests/{id}/cancel`, which is refused for a job that has ended."""
        return ProviderRequest(method="PUT", path=f"{_route(job)}/cancel")

    def canceled(self, response: ProviderResponse) -> bool:
        """Return False: fal only accepts a request to cancel, and the job may still succeed."""
        return False

    def price(self, request: object) -> Price | None:
        """Return USD by the second for the models of the table, with a duration that is known."""
        model = text_at(request, "model")
        rules = MODELS.get(model)
        rates = PER_SECOND.get(model)
        if rules is None or rates is None or self.check(request):
            return None
        resolution = text_at(request, "resolution") or "720p"
        if rules.body is Seedance and resolution != "720p":
            return None
        if rules.body is Veo and resolution == "4k":
            if model.startswith(f"{VEO}/fast"):
                return None
            rates = _VEO_4K
        if rules.body is Kling and (at(request, "elements") or at(request, "multi_prompt")):
            return None  # a voice of an element costs more, and the sum of the shots is not published
        default = 5 if rules.body is Kling else 8 if rules.body is Veo else None
        seconds = seconds_at(request, "duration", range(1, 31), default)
        return (
            None if seconds is None else dollars(Decimal(rates[at(request, "generate_audio") is not False]) * seconds)
        )

    def signed(self, headers: Mapping[str, str], body: bytes) -> Signed | None:
        """Return the signature of the four `x-fal-webhook-…` headers, which names no key; None without any of them."""
        names = ("request-id", "user-id", "timestamp", "signature")
        request_id, user_id, timestamp, signature = (headers.get(f"x-fal-webhook-{name}", "") for name in names)
        if not (request_id or user_id or timestamp or signature):
            return None
        if not (_HEADER.fullmatch(request_id) and _HEADER.fullmatch(user_id) and _HEX.fullmatch(signature)):
            raise SignatureInvalid("an x-fal-webhook-… header is missing or malformed")
        return Signed(
            key_id=None,
            message="\n".join((request_id, user_id, timestamp, hashlib.sha256(body).hexdigest())).encode(),
            signature=bytes.fromhex(signature),
            timestamp_s=signatures.parse_timestamp("x-fal-webhook-timestamp", timestamp),
        )


def _model(given: Input) -> str:
    """Return the model of a unified input: a family's one for its frames or references, or the model that is named.

    Raise InvalidInput for a resolution that is no tier of the family.
    """
    name = _tiered(given.model or SEEDANCE, given.resolution)
    kind = REFERENCE if given.references else IMAGE if given.frames else TEXT
    if kind == IMAGE and len(given.frames) == 2 and f"{name}/{FIRST_LAST}" in MODELS:
        kind = FIRST_LAST
    if kind == REFERENCE and f"{name}/{REFERENCE}" not in MODELS and f"{name}/{TEXT}" in MODELS:
        raise InvalidInput([FieldError("references", f"relay knows no reference model of {validation.clipped(name)}")])
    return f"{name}/{kind}" if f"{name}/{kind}" in MODELS else name


def _tiered(name: str, resolution: str | None) -> str:
    """Return a model of Kling with the tier of the resolution in its name; another model's name as it is.

    Raise InvalidInput for a resolution that is not the named tier's.
    """
    if name != KLING and not name.startswith(f"{KLING}/"):
        return name
    tier = TIERS.get(resolution or "")
    if name in (KLING, TURBO):
        wanted = f"{name}/{tier or 'standard'}"
        if (resolution is None or tier) and f"{wanted}/{TEXT}" in MODELS:
            return wanted
    elif resolution is None or tier in name.split("/"):
        return name
    raise InvalidInput([FieldError("resolution", f"{validation.clipped(name)} has no {validation.shown(resolution)}")])


def _seconds(kind: type, seconds: int | None) -> object:
    """Return a duration as the models of a type spell it; only Seedance gets one that was not given."""
    if kind is Seedance:
        return str(SECONDS_DEFAULT if seconds is None else seconds)
    if seconds is None or kind is Hailuo:
        return seconds
    return f"{seconds}s" if kind is Veo else str(seconds)


def _rules(request: dict[str, Any], model: str, rules: ModelRules) -> list[FieldError]:
    """Return the errors that the type cannot express: the fields of one model, its seconds, its URLs, its shots."""
    errors = check_fields(request, model, rules, _urls(request))
    for name, most in rules.lists.items():
        if (count := len(items(request.get(name)))) > most:
            errors.append(FieldError(name, too_many(model, most, count)))
    if rules.body is not Kling:
        errors += check_choice("resolution", rules.resolutions, request.get("resolution"), model)
    if rules.body is Kling:
        errors += _shots(request)
    if rules.body is Veo and request.get("aspect_ratio") == "auto" and not rules.frames:
        errors.append(FieldError("aspect_ratio", f'must be one of "16:9", "9:16" for {model}, not "auto"'))
    if "duration" in request and rules.body in (Seedance, Kling):
        errors += _duration("duration", request["duration"], rules)
    return errors


def _duration(path: str, given: object, rules: ModelRules) -> list[FieldError]:
    """Return the error of a duration that is not the text of whole seconds within the model's limits."""
    low, high = rules.seconds
    if (rules.auto and given == "auto") or given in [str(seconds) for seconds in range(low, high + 1)]:
        return []
    auto = '"auto" or ' if rules.auto else ""
    return [FieldError(path, f'must be {auto}a string from "{low}" to "{high}", not {validation.shown(given)}')]


def _shots(request: dict[str, Any]) -> list[FieldError]:
    """Return the errors of Kling's prompts: one prompt or several shots, each of 1 to 15 seconds as text."""
    errors = check_prompts(request)
    shot = ModelRules(body=Shot, seconds=(1, 15))
    for index, one in enumerate(items(request.get("multi_prompt"))[:20]):
        if isinstance(one, dict) and "duration" in one:
            errors += _duration(f"multi_prompt[{index}].duration", one["duration"], shot)
    return errors + list(check_urls_within(request.get("elements"), "elements"))[:20]


def _urls(request: object) -> list[FieldError]:
    """Return the errors of the fields that hold URLs; values of other types are the schema's errors."""
    errors: list[FieldError] = []
    for name in _URLS:
        value = at(request, name)
        errors += check_url(value, name) if isinstance(value, str) else []
    return errors + [error for name in _LISTS for error in check_urls(at(request, name), name)]


def _route(job: SubmittedJob) -> str:
    """Return the path of a job's result, which the submission's answer named or the model's first segments give."""
    ending = f"/requests/{job.quoted_id}/status"
    if job.status_path is not None and job.status_path.endswith(ending):
        return job.status_path.removesuffix("/status")
    segments = path_model(job.request).split("/")
    kept = 3 if segments[0] in _SHIFTED else 2
    return "/".join(("", *(one for one in segments[:kept] if one), "requests", job.quoted_id))


def _status_path(task: dict[str, Any], provider_job_id: str | None) -> str | None:
    """Return the path of the status route that a submission's answer names, if it has the published form.

    Only the path counts: relay asks at the configured origin, whatever host the answer names.
    """
    url = task.get("status_url")
    if not isinstance(url, str) or provider_job_id is None or not (url.isascii() and url.isprintable()):
        return None
    try:
        path = urlsplit(url).path
    except ValueError:
        return None
    form = rf"{_SEGMENTS}/requests/{re.escape(quote(provider_job_id, safe=''))}/status"
    return path if len(path) <= _PATH_MAX and re.fullmatch(form, path) else None


def _report(body: dict[str, Any], default: JobState | None = None) -> Report:
    """Return the report of a submission's answer, a status answer or a callback."""
    task = answers.task_of(body)
    status = (answers.status_of(task) or "").strip().lower()
    own = answers.identifier(task.get("request_id"))
    if status == "ok":
        default = JobState.SUCCEEDED
    report = answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=_outputs(task.get("payload")),
            error=_failure(task),
            provider_job_id=own,
            default_state=default,
        )
    )
    gateway = answers.identifier(task.get("gateway_request_id"))
    note = f"gateway_request_id {gateway}" if gateway and gateway != own else None
    report = msgspec.structs.replace(report, status_path=_status_path(task, own), note=note)
    if report.state is JobState.SUCCEEDED and not report.outputs and task.get("error"):
        report = msgspec.structs.replace(report, state=JobState.FAILED, error=_failure(task))
    if report.state is JobState.FAILED and report.error and report.error.provider_code == _CANCELED:
        return msgspec.structs.replace(report, state=JobState.CANCELED, error=None)
    return report


def _outputs(payload: object) -> tuple[Output, ...]:
    """Return the videos of a model's output: published as `video`, in other models also as a list or a URL."""
    found = [at(payload, "video"), *items(at(payload, "videos")), at(payload, "video_url")]
    outputs: list[Output] = []
    for one in found:
        url = one if isinstance(one, str) else at(one, "url")
        outputs += answers.output(url, None, size=one, duration_s=at(one, "duration"))
    return answers.distinct(outputs)


def _object(response: ProviderResponse) -> dict[str, Any] | None:
    """Return the JSON object of an answer; None for any other body."""
    try:
        body = response.json()
    except Unreadable:
        return None
    return body if isinstance(body, dict) else None


def _failure(body: object, status_code: int | None = None) -> JobError | None:
    """Return the error of a job that failed: by its type, or by the HTTP status of its model; None without any reason.

    `body` is a callback, a status answer, or the answer in place of a result, which came with `status_code`.
    """
    inner, outer = _reason(at(body, "payload")), _reason(body)
    reason = ErrorText(inner.code or outer.code, inner.text or outer.text)
    kind = _kind(_number(at(body, "error")) if status_code is None else status_code)
    if _FUNDS.search(str(reason)):
        kind = ErrorKind(ErrorClass.INSUFFICIENT_FUNDS, retryable=False)
        return answers.failure(reason, {(reason.code or "").lower(): kind})
    code = (reason.code or "").lower()
    return answers.failure(reason, CODES if kind is None or code in CODES else {**CODES, code: kind})


def _kind(status_code: int | None) -> ErrorKind | None:
    """Return the kind of a model's HTTP status; None if there is none."""
    if status_code is None or status_code in _KINDS:
        return _KINDS.get(status_code or 0)
    return answers.PROVIDER_FAULT if status_code >= _CLIENT_GONE else None


def _number(error: object) -> int | None:
    """Return the HTTP status in a text such as `Invalid status code: 422`."""
    found = _NUMBER.search(error[:300]) if isinstance(error, str) else None
    return int(found[0]) if found else None


def _reason(body: object) -> ErrorText:
    """Return the type and the texts of `{"detail": [{"loc", "msg", "type"}]}`, or of an infrastructure's error."""
    detail = at(body, "detail")
    listed = [detail] if isinstance(detail, dict) else items(detail)
    code = text_or_none(at(listed, 0, "type"), 128) or text_or_none(at(body, "error_type"), 128)
    text = "; ".join(line for one in listed[:10] if (line := _line(one))) or text_or_none(detail)
    return ErrorText(code, text_or_none(text) or answers.error_text(at(body, "error")).text)


def _line(one: object) -> str | None:
    """Return the text of one error with the field that it is about: `prompt: field required`."""
    text = text_or_none(at(one, "msg"), 500)
    parts = [part for item in items(at(one, "loc"))[:10] if (part := text_or_none(item, 60)) and part != "body"]
    return f"{'.'.join(parts)}: {text}" if text and parts else text


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of a refused submission; an account without funds is locked, with 403."""
    reason = _reason(body)
    if response.status_code == 403 and _FUNDS.search(str(reason)):
        return answers.error_for(response, ErrorClass.INSUFFICIENT_FUNDS, reason)
    if response.status_code == _CLIENT_GONE:
        return answers.error_for(response, ErrorClass.PROVIDER_ERROR, reason)
    return answers.http_error(response, reason, CODES)
