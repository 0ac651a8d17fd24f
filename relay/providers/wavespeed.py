"""WaveSpeed: the model is the path of the submission, the callback URL its query; answers are envelopes.

An error may be an HTTP 200 whose `code` is not 200. Callbacks are the bare task, signed with a secret of the account:
the headers are those of Standard Webhooks, but the version, the key and the encoding differ (`wavespeed-v3`). A task
can be deleted, which does not surely stop it, and erases the result of one that has ended.
Sources: https://wavespeed.ai/docs (webhooks, verifying, error codes, delete task), each model's llms.txt, PyPI
wavespeed 2.0. Not published: the error of an empty account, and whether a cancellation sends a callback.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import product
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput, JobUnknown
from relay.model.job import ErrorClass, Input, JobError, JobState, Output, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.providers import answers
from relay.providers.answers import ErrorKind, ErrorText
from relay.providers.base import (
    COMMON,
    Limits,
    Provider,
    SubmissionAnswer,
    SubmittedJob,
    at,
    check_url,
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
from relay.providers.prices import Price, dollars, text_at

SEEDANCE: Final = "bytedance/seedance-2.0"
SEEDANCE_25: Final = "bytedance/seedance-2.5"
KLING: Final = "kwaivgi/kling-v3.0"
VEO: Final = "google/veo3.1"
TEXT, IMAGE = "text-to-video", "image-to-video"
TIERS: Final = {"720p": "std", "1080p": "pro"}
"""Kling's tiers, which stand in the model instead of a resolution."""
LIFETIME_S: Final = 7 * 86_400
OTHER_ROUTES: Final = frozenset({"predictions", "media", "webhook", "balance", "models", "billing", "user", "users"})
"""Names in the paths of WaveSpeed's other routes, which a client must not reach with relay's key."""
QUEUED: Final = ("created", "pending")
"""The statuses of a task that has not begun: only then it may be deleted."""
CODES: Final[answers.Codes] = {
    **answers.CODES,
    **answers.codes(
        {
            answers.REJECTED: "1200",
            ErrorKind(ErrorClass.INVALID_INPUT, retryable=False): "400 404 1400 1401 1402",
            ErrorKind(ErrorClass.AUTH, retryable=False): "401 403",
            ErrorKind(ErrorClass.INSUFFICIENT_FUNDS, retryable=False): "402",
            ErrorKind(ErrorClass.RATE_LIMITED, retryable=True): "429",
            ErrorKind(ErrorClass.TIMEOUT, retryable=True): "5004",
            answers.PROVIDER_FAULT: "1403 1405 5000 5003",
        }
    ),
}
_GOOD: Final = (None, "0", "200")
_FUNDS: Final = re.compile(r"insufficient|balance|credit|top.?up", re.IGNORECASE)
_FUNDS_CODES: Final = (None, "400", "402", "403")
_STATES: Final = {"created": JobState.SUBMITTED, "timeout": JobState.FAILED, "deleted": JobState.CANCELED}
"""The statuses that other providers do not have."""
_UNIFIED: Final = {
    "image": "images[0]",
    "last_image": "images[1]",
    "end_image": "images[1]",
    "duration": "duration_s",
    "generate_audio": "audio",
    "sound": "audio",
}
_URLS: Final = ("image", "last_image", "end_image")
PER_RUN: Final[Mapping[str, tuple[str, str]]] = {
    f"{SEEDANCE}-fast-turbo/{IMAGE}": ("`720p`", "0.60"),
    f"{KLING}-std/{IMAGE}": ("`sound` false", "0.42"),
    f"{KLING}-pro/{IMAGE}": ("`sound` false", "0.56"),
}
"""On what condition a job of five seconds costs so many USD. Source: each model's page."""


class Seedance(msgspec.Struct, forbid_unknown_fields=True):
    """The body of Seedance's models; which fields a model has is in its `ModelRules`."""

    model: str
    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]
    image: str | UnsetType = UNSET
    last_image: str | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "4:3", "3:4", "1:1", "21:9"] | UnsetType = UNSET
    resolution: Literal["480p", "720p", "1080p"] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=4, le=30)] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    enable_web_search: bool | UnsetType = UNSET
    seed: int | UnsetType = UNSET


class Kling(msgspec.Struct, forbid_unknown_fields=True):
    """The body of Kling 3's models."""

    model: str
    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)] | UnsetType = UNSET
    multi_prompt: Annotated[list[Any], Meta(min_length=1, max_length=15)] | UnsetType = UNSET
    image: str | UnsetType = UNSET
    end_image: str | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=3, le=15)] | UnsetType = UNSET
    sound: bool | UnsetType = UNSET
    negative_prompt: Annotated[str, Meta(max_length=20_000)] | UnsetType = UNSET
    cfg_scale: float | UnsetType = UNSET
    element_list: Annotated[list[Any], Meta(max_length=20)] | UnsetType = UNSET


class Veo(msgspec.Struct, forbid_unknown_fields=True):
    """The body of Veo 3.1's models."""

    model: str
    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]
    image: str | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16"] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=4, le=8)] | UnsetType = UNSET
    resolution: Literal["720p", "1080p", "4k"] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    negative_prompt: Annotated[str, Meta(max_length=20_000)] | UnsetType = UNSET
    seed: int | UnsetType = UNSET


def _models() -> Iterator[tuple[str, ModelRules]]:
    """Yield each known model with its rules."""
    seedance: dict[str, tuple[str, ...]] = {
        SEEDANCE: ("480p", "720p", "1080p"),
        f"{SEEDANCE}-fast": ("480p", "720p"),
        f"{SEEDANCE}-mini": ("480p", "720p"),
        f"{SEEDANCE}-turbo": ("720p", "1080p"),
        f"{SEEDANCE}-fast-turbo": ("720p", "1080p"),
        SEEDANCE_25: ("480p", "720p", "1080p"),
    }
    for (family, resolutions), kind in product(seedance.items(), (IMAGE, TEXT)):
        newer = family == SEEDANCE_25
        frames: tuple[str, ...] = ("image", "last_image") if kind == IMAGE else ()
        refused = {"image", "last_image", "seed"} - set(frames) - ({"seed"} if newer else set())
        yield (
            f"{family}/{kind}",
            ModelRules(
                body=Seedance,
                frames=frames,
                required=frames[:1],
                refused=frozenset(refused),
                resolutions=resolutions,
                seconds=(4, 30 if newer else 15),
            ),
        )
    for tier, kind in product(TIERS.values(), (IMAGE, TEXT)):
        frames = ("image", "end_image") if kind == IMAGE else ()
        refused = {"aspect_ratio"} if kind == IMAGE else {"image", "end_image", "multi_prompt", "element_list"}
        sizes = tuple(size for size, of in TIERS.items() if of == tier)
        rules = ModelRules(
            body=Kling,
            frames=frames,
            required=frames[:1],
            refused=frozenset(refused),
            resolutions=sizes,
            seconds=(3, 15),
        )
        yield f"{KLING}-{tier}/{kind}", rules
    veo = ModelRules(body=Veo, resolutions=("720p", "1080p", "4k"), seconds=(4, 8))
    yield f"{VEO}/{IMAGE}", msgspec.structs.replace(veo, frames=("image",), required=("image",))
    yield f"{VEO}/{TEXT}", msgspec.structs.replace(veo, refused=frozenset({"image"}))


MODELS: Final[Mapping[str, ModelRules]] = dict(_models())


class WaveSpeed(Provider):
    """The adapter; it keeps no state between calls."""

    name = "wavespeed"
    title = "WaveSpeed"
    base_url = "https://api.wavespeed.ai"
    callback_query = "webhook"
    path_model = True
    verifier = "wavespeed-v3"
    further_limits: Mapping[str, str] = {
        "videos of the lowest account level": "2 a minute, 2 concurrently",
        "videos from 100 USD paid on": "500 a minute, 300 concurrently",
    }
    check_before_cancellation = True
    unified = _UNIFIED
    honours = COMMON | {"last_frame", "audio", "seed", "negative_prompt"}
    request_types: tuple[type, ...] = (Seedance, Kling, Veo)
    limits = Limits(
        models=tuple(MODELS),
        by_model={model: rules.limits for model, rules in MODELS.items()},
        duration_s=(3, 30),
        resolutions=("480p", "720p", "1080p", "4k"),
        aspect_ratios=("16:9", "9:16", "4:3", "3:4", "1:1", "21:9"),
        images_max=2,
        prompt_max=None,
        prompt_required=True,
        result_lifetime_s=LIFETIME_S,
        expected_s=120,
    )

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body: the number of images chooses the model of a family; `adaptive` omits the ratio."""
        model = _model(given)
        rules = MODELS.get(model)
        kind = rules.body if rules else Seedance
        names = (rules.frames if rules else ()) or ("image", "last_image")
        if len(given.frames) > len(names):
            raise InvalidInput([FieldError("images", too_many(model, len(names), len(given.frames)))])
        return without_none(
            model=model,
            prompt=given.prompt,
            negative_prompt=given.negative_prompt,
            **dict(zip(names, given.frames, strict=False)),
            aspect_ratio=None if given.aspect_ratio == "adaptive" else given.aspect_ratio,
            resolution=None if kind is Kling else given.resolution,
            duration=given.duration_s,
            sound=given.audio if kind is Kling else None,
            generate_audio=None if kind is Kling else given.audio,
            seed=given.seed,
        )

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published limits of the model."""
        return check_by_rules(request, MODELS, Seedance, _rules, _urls)

    def check_model(self, request: object) -> list[FieldError]:
        """Return the error of a model that is not `owner/name[/…]`, or that would lead to another route."""
        segments = path_model(request).split("/")
        if len(segments) > 1 and not OTHER_ROUTES.intersection(segments):
            return []
        return [FieldError("model", "must be a model of WaveSpeed: 2 to 6 names with / between them, no route of it")]

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return `POST /api/v3/{model}`; the body is the model's input, and the callback URL a parameter."""
        path = with_query(f"/api/v3/{path_model(request)}", **{self.callback_query: callback_url})
        return ProviderRequest(method="POST", path=path, body=without_model(request))

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result: a 2xx with a task, or refused if its `code` says so."""
        return answers.read_submission(
            response, lambda body: _report(body, None, JobState.SUBMITTED), _explain, _refused
        )

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /api/v3/predictions/{id}/result`."""
        return ProviderRequest(method="GET", path=f"/api/v3/predictions/{job.quoted_id}/result")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise JobUnknown also for a 200 whose code is 404."""
        body = answers.status_body(response)
        if _code(body) == "404" and not isinstance(body.get("data"), dict):
            raise JobUnknown(f"HTTP {response.status_code} with the code 404")
        return _report(body, now_ms)

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of a callback, which is the bare task."""
        return _report(body, now_ms)

    def cancellation(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return `DELETE /api/v3/predictions/{id}` for a task that has not begun; a later one would lose its result."""
        if job.provider_status.strip().lower() not in QUEUED:
            return None
        return ProviderRequest(method="DELETE", path=f"/api/v3/predictions/{job.quoted_id}")

    def canceled(self, response: ProviderResponse) -> bool:
        """Return False: a deleted task is not surely stopped."""
        return False

    def price(self, request: object) -> Price | None:
        """Return USD for five seconds, the only length with a published price."""
        priced = PER_RUN.get(text_at(request, "model"))
        if priced is None or self.check(request) or at(request, "duration") not in (None, 5):
            return None
        kling = MODELS[text_at(request, "model")].body is Kling
        plain = at(request, "sound") is False if kling else (text_at(request, "resolution") or "720p") == "720p"
        if not plain or at(request, "multi_prompt") is not None or at(request, "element_list") is not None:
            return None
        return dollars(Decimal(priced[1]))


def _model(given: Input) -> str:
    """Return the model of a unified input: a family's one for the number of images, or the model that is named.

    Raise InvalidInput for a tier that the family does not have.
    """
    name = given.model or SEEDANCE
    tier = TIERS.get(given.resolution or "")
    if name == KLING and (tier or given.resolution is None):
        name = f"{KLING}-{tier or 'std'}"
    elif name == KLING or (name.startswith(f"{KLING}-") and given.resolution and f"-{tier}" not in name):
        message = f"{validation.clipped(name)} has no {validation.shown(given.resolution)}"
        raise InvalidInput([FieldError("resolution", message)])
    model = f"{name}/{IMAGE if given.frames else TEXT}"
    return model if model in MODELS else name


def _rules(request: dict[str, Any], model: str, rules: ModelRules) -> list[FieldError]:
    """Return the errors that the type cannot express: the fields and limits of one model, its URLs, its shots."""
    errors = check_fields(request, model, rules, _urls(request))
    if rules.body is Seedance:
        errors += check_choice("resolution", rules.resolutions, request.get("resolution"), model)
    seconds = request.get("duration")
    low, high = rules.seconds
    if type(seconds) is int and not low <= seconds <= high:
        message = f"must be an integer from {low} to {high}, not {validation.shown(seconds)}"
        errors.append(FieldError("duration", message))
    if rules.body is Kling:
        errors += _shots(request)
    return errors


def _shots(request: dict[str, Any]) -> list[FieldError]:
    """Return the errors of Kling's prompts: one prompt or several shots, and no last frame with these."""
    errors = check_prompts(request)
    if "end_image" in request and "multi_prompt" in request:
        errors.append(FieldError("end_image", "cannot be given with multi_prompt"))
    for name in ("multi_prompt", "element_list"):
        errors += list(check_urls_within(request.get(name), name))[:20]
    return errors


def _urls(request: object) -> list[FieldError]:
    """Return the errors of the fields that hold URLs; values of other types are the schema's errors."""
    values = [(name, at(request, name)) for name in _URLS]
    return [error for name, value in values if isinstance(value, str) for error in check_url(value, name)]


def _report(body: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of a task, bare or in an envelope, whose own code and message are no status."""
    task = answers.task_of(body)
    status = (answers.status_of(task) or "").strip().lower()
    outputs = _outputs(task, now_ms)
    report = answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=outputs,
            error=_failure(task, status),
            provider_job_id=answers.identifier(task.get("id")),
            default_state=_STATES.get(status) or default,
        )
    )
    flagged = any(one is True for one in items(task.get("has_nsfw_contents")))
    if report.state is JobState.SUCCEEDED and not outputs and flagged:
        report = msgspec.structs.replace(report, state=JobState.FAILED, error=_failure(task, "failed"))
    return report


def _outputs(task: dict[str, Any], now_ms: int | None) -> tuple[Output, ...]:
    """Return the results, which are URLs; kept for seven days."""
    expires_at = answers.expiry(now_ms, LIFETIME_S)
    urls = [one if isinstance(one, str) else at(one, "url") for one in items(task.get("outputs"))]
    return answers.distinct(output for url in urls for output in answers.output(url, expires_at))


def _failure(task: dict[str, Any], status: str) -> JobError | None:
    """Return the error of a task that failed: by its code, its flag for indecent content, its status, or its text."""
    code, text = _code(task), answers.error_text(task.get("error")).text
    flagged = any(one is True for one in items(task.get("has_nsfw_contents")))
    if flagged and code in _GOOD:
        text = text or "has_nsfw_contents is true"
        return answers.failure(ErrorText("has_nsfw_contents", text), {"has_nsfw_contents": answers.REJECTED})
    if code in _GOOD:
        code = "timeout" if status == "timeout" else None
    return answers.failure(ErrorText(code, text), {**CODES, "timeout": CODES["5004"]})


def _code(body: dict[str, Any]) -> str | None:
    """Return the `code` of an envelope or a task as text."""
    return text_or_none(body.get("code"), 64)


def _refused(body: dict[str, Any]) -> bool:
    """Return whether a 2xx is a refusal: an error code below 5000 but 500 to 599, and no task.

    The others, such as 5004 for a task that goes on, do not say that there is no task.
    """
    code = _code(body)
    if code in _GOOD or answers.identifier(at(body, "data", "id")) is not None:
        return False
    return re.fullmatch(r"4[0-9]{2}|1[0-9]{3}", code or "") is not None


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of `{"code", "message"}`, by its code, or by a text about the account's balance."""
    code, text = _code(body), answers.complaint(body).text
    reason = ErrorText(None if code in _GOOD else code, text)
    about_funds = text is not None and _FUNDS.search(text) is not None
    if about_funds and response.status_code in (200, 400, 403) and code in _FUNDS_CODES:
        return answers.error_for(response, ErrorClass.INSUFFICIENT_FUNDS, reason)
    kind = CODES.get((reason.code or "").lower())
    if 200 <= response.status_code < 300 and kind is not None:
        return answers.error_for(response, kind.class_, reason)
    return answers.http_error(response, reason, CODES)
