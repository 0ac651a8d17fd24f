"""Replicate: predictions of models that are named in the path, parameters in `input`, `webhook` at the top level.

The callback is the prediction itself, signed by Standard Webhooks with the account's secret. relay asks for the event
`completed` alone, because the others are never sent again. A prediction's output, input and logs are removed an hour
after its end. A failed prediction has a text and no code, and no list of these texts is published: what relay reads in
them is what integrators have met.
Sources: https://replicate.com/docs/topics/predictions, https://replicate.com/docs/topics/webhooks, the schema pages of
the models, and the client library https://github.com/replicate/replicate-python.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from relay import validation
from relay.errors import FieldError, InvalidInput, Unreadable
from relay.model.job import ErrorClass, Input, JobError, JobState, Output, Report
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
    check_urls,
    items,
    with_callback,
    with_rules,
    without_model,
    without_none,
)
from relay.providers.prices import Price, dollars, seconds_at, text_at

SEEDANCE: Final = "bytedance/seedance-2.0"
SEEDANCE_FAST: Final = "bytedance/seedance-2.0-fast"
SEEDANCE_25: Final = "bytedance/seedance-2.5"
KLING: Final = "kwaivgi/kling-v3-video"
VEO: Final = "google/veo-3.1"
VEO_FAST: Final = "google/veo-3.1-fast"
LIFETIME_S: Final = 3600
SHOTS_MAX: Final = 6
REFERENCES_MAX: Final = 30
MODEL_FORM: Final = "owner/name or owner/name:version"
VERSION_FORM: Final = "64 hexadecimal digits, owner/name or owner/name:version"

_Url = Annotated[str, Meta(max_length=2048)]
_Ratio = Literal["16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "9:21", "adaptive"]


class Seedance20Input(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of Seedance 2.0 and 2.0 Fast; a duration of -1 lets the model decide."""

    prompt: Annotated[str, Meta(min_length=1, max_length=4000)]
    image: _Url | UnsetType = UNSET
    last_frame_image: _Url | UnsetType = UNSET
    reference_images: Annotated[list[str], Meta(max_length=9)] | UnsetType = UNSET
    reference_videos: Annotated[list[str], Meta(max_length=3)] | UnsetType = UNSET
    reference_audios: Annotated[list[str], Meta(max_length=3)] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=-1, le=15)] | UnsetType = UNSET
    resolution: Literal["480p", "720p", "1080p", "4k"] | UnsetType = UNSET
    aspect_ratio: _Ratio | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    seed: int | UnsetType = UNSET


class Seedance25Input(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of Seedance 2.5; a duration of -1 lets the model decide."""

    prompt: Annotated[str, Meta(max_length=2000)] | UnsetType = UNSET
    image: _Url | UnsetType = UNSET
    last_frame_image: _Url | UnsetType = UNSET
    reference_images: Annotated[list[str], Meta(max_length=REFERENCES_MAX)] | UnsetType = UNSET
    reference_videos: Annotated[list[str], Meta(max_length=10)] | UnsetType = UNSET
    reference_audios: Annotated[list[str], Meta(max_length=10)] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=-1, le=30)] | UnsetType = UNSET
    resolution: Literal["480p", "720p", "1080p", "4k"] | UnsetType = UNSET
    aspect_ratio: _Ratio | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    seed: int | UnsetType = UNSET


class KlingInput(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of Kling 3; `multi_prompt` is a JSON text of at most six shots."""

    prompt: Annotated[str, Meta(min_length=1, max_length=2500)]
    negative_prompt: Annotated[str, Meta(max_length=2500)] | UnsetType = UNSET
    start_image: _Url | UnsetType = UNSET
    end_image: _Url | UnsetType = UNSET
    mode: Literal["standard", "pro", "4k"] | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | UnsetType = UNSET
    duration: Annotated[int, Meta(ge=3, le=15)] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    multi_prompt: Annotated[str, Meta(max_length=20_000)] | UnsetType = UNSET


class VeoInput(msgspec.Struct, forbid_unknown_fields=True):
    """The parameters of Veo 3.1 and 3.1 Fast."""

    prompt: Annotated[str, Meta(min_length=1, max_length=20_000)]
    image: _Url | UnsetType = UNSET
    last_frame: _Url | UnsetType = UNSET
    reference_images: Annotated[list[str], Meta(max_length=3)] | UnsetType = UNSET
    duration: Literal[4, 6, 8] | UnsetType = UNSET
    resolution: Literal["720p", "1080p"] | UnsetType = UNSET
    aspect_ratio: Literal["16:9", "9:16"] | UnsetType = UNSET
    generate_audio: bool | UnsetType = UNSET
    negative_prompt: Annotated[str, Meta(max_length=20_000)] | UnsetType = UNSET
    seed: int | UnsetType = UNSET


class _Shot(msgspec.Struct):
    """One shot of Kling's `multi_prompt`."""

    prompt: str
    duration: int


class Seedance20(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a Seedance 2.0 prediction; `model` goes into the path."""

    model: Literal["bytedance/seedance-2.0", "bytedance/seedance-2.0-fast"]
    input: Seedance20Input


class Seedance25(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a Seedance 2.5 prediction; `model` goes into the path."""

    model: Literal["bytedance/seedance-2.5"]
    input: Seedance25Input


class Kling(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a Kling 3 prediction; `model` goes into the path."""

    model: Literal["kwaivgi/kling-v3-video"]
    input: KlingInput


class Veo(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a Veo 3.1 prediction; `model` goes into the path."""

    model: Literal["google/veo-3.1", "google/veo-3.1-fast"]
    input: VeoInput


class _Family(msgspec.Struct, frozen=True, kw_only=True):
    """The models with the same parameters: the type of their bodies, and the parameter of each unified field."""

    body: type
    frames: tuple[str, str]
    """The parameters of the first and the last frame; the last one needs the first."""
    fields: Mapping[str, str]
    references: Mapping[str, str] = {}
    """The parameter of each kind of references."""


_FIELDS: Final = {
    "prompt": "prompt",
    "duration_s": "duration",
    "resolution": "resolution",
    "aspect_ratio": "aspect_ratio",
    "audio": "generate_audio",
}
_REFERENCES: Final = {"image": "reference_images", "video": "reference_videos", "audio": "reference_audios"}
_SEEDANCE_FRAMES: Final = ("image", "last_frame_image")
_SEEDANCE_20: Final = _Family(
    body=Seedance20, frames=_SEEDANCE_FRAMES, fields=_FIELDS | {"seed": "seed"}, references=_REFERENCES
)
_SEEDANCE_25: Final = _Family(
    body=Seedance25, frames=_SEEDANCE_FRAMES, fields=_FIELDS | {"seed": "seed"}, references=_REFERENCES
)
_KLING: Final = _Family(
    body=Kling,
    frames=("start_image", "end_image"),
    fields=_FIELDS | {"resolution": "mode", "negative_prompt": "negative_prompt"},
)
_VEO: Final = _Family(
    body=Veo,
    frames=("image", "last_frame"),
    fields=_FIELDS | {"negative_prompt": "negative_prompt", "seed": "seed"},
    references={"image": "reference_images"},
)
_FAMILIES: Final = {
    SEEDANCE: _SEEDANCE_20,
    SEEDANCE_FAST: _SEEDANCE_20,
    SEEDANCE_25: _SEEDANCE_25,
    KLING: _KLING,
    VEO: _VEO,
    VEO_FAST: msgspec.structs.replace(_VEO, references={}),
}
_KLING_MODES: Final = {"720p": "standard", "1080p": "pro", "4k": "4k"}
_UNIFIED: Final = {
    "input.image": "images[0]",
    "input.start_image": "images[0]",
    "input.last_frame_image": "images[1]",
    "input.end_image": "images[1]",
    "input.last_frame": "images[1]",
    **{f"input.{name}": "references" for name in _REFERENCES.values()},
    **{f"input.{native}": unified for unified, native in _FIELDS.items()},
    "input.mode": "resolution",
    "input.negative_prompt": "negative_prompt",
    "input.seed": "seed",
}
_SECONDS: Final = {SEEDANCE: range(4, 16), SEEDANCE_FAST: range(4, 16), SEEDANCE_25: range(4, 31)}
_SEEDANCE_25_USD: Final = {"480p": Decimal("0.1028"), "720p": Decimal("0.2312")}
_KLING_PRO_USD: Final = {False: Decimal("0.224"), True: Decimal("0.336")}
_KLING_4K_USD: Final = Decimal("0.42")
_VEO_USD: Final = Decimal("0.40")

CODES: Final[answers.Codes] = {**answers.CODES, **answers.codes({answers.REJECTED: "e005"})}
_CANCELED: Final = (JobState.CANCELED, JobState.EXPIRED)
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(?::[A-Za-z0-9._-]{1,100})?")
_VERSION: Final = re.compile(rf"[0-9a-f]{{64}}|{_MODEL.pattern}")
_CODE: Final = re.compile(r"\((E[0-9]{3,4})\)|\b(E[0-9]{3,4})\b")
_NOT_SAFE: Final = re.compile(r"\bnsfw\b", re.IGNORECASE)
_TIMED_OUT: Final = re.compile(r"\btimed? ?out\b", re.IGNORECASE)
_NO_CREDIT: Final = re.compile(r"insufficient (credit|fund|balance)", re.IGNORECASE)
_RESETS_IN: Final = re.compile(r"resets in ~?([0-9]{1,5}(?:\.[0-9]{1,3})?) ?s\b", re.IGNORECASE)


class Replicate(Provider):
    """The adapter; it keeps no state between calls."""

    name = "replicate"
    title = "Replicate"
    base_url = "https://api.replicate.com"
    callback_field = "webhook"
    path_model = True
    verifier = "standard-webhooks"
    unified = _UNIFIED
    honours = COMMON | REFERENCES | {"last_frame", "negative_prompt", "audio", "seed"}
    request_types: tuple[type, ...] = (Seedance20, Seedance25, Kling, Veo)
    limits = Limits(
        models=tuple(_FAMILIES),
        duration_s=(3, 30),
        resolutions=("480p", "720p", "1080p", "4k"),
        aspect_ratios=("16:9", "4:3", "1:1", "3:4", "9:16", "21:9", "9:21", "adaptive"),
        images_max=2,
        prompt_max=4000,
        prompt_required=True,
        result_lifetime_s=LIFETIME_S,
        expected_s=120,
        by_model={
            SEEDANCE: ModelLimits(duration_s=(4, 15), references=(9, 3, 3)),
            SEEDANCE_FAST: ModelLimits(duration_s=(4, 15), resolutions=("480p", "720p"), references=(9, 3, 3)),
            SEEDANCE_25: ModelLimits(duration_s=(4, 30), references=(30, 10, 10)),
            KLING: ModelLimits(
                duration_s=(3, 15),
                resolutions=tuple(_KLING_MODES),
                aspect_ratios=("16:9", "9:16", "1:1"),
            ),
            VEO: ModelLimits(
                duration_s=(4, 8),
                resolutions=("720p", "1080p"),
                aspect_ratios=("16:9", "9:16"),
                references=(3, 0, 0),
            ),
            VEO_FAST: ModelLimits(duration_s=(4, 8), resolutions=("720p", "1080p"), aspect_ratios=("16:9", "9:16")),
        },
    )

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body; raise InvalidInput for what the model has no parameter for."""
        model = given.model or SEEDANCE
        family = _FAMILIES.get(model, _FAMILIES[SEEDANCE])
        inputs: dict[str, object] = dict(zip(family.frames, given.frames, strict=False))
        inputs |= without_none(
            **{native: getattr(given, unified) for unified, native in family.fields.items()},
            **{native: given.referred(kind) or None for kind, native in family.references.items()},
        )
        if family is _KLING and given.resolution is not None:
            inputs["mode"] = _KLING_MODES.get(given.resolution, "pro")
        request: dict[str, object] = {"model": model, "input": inputs}
        if misplaced := _misplaced(given, model, family):
            raise InvalidInput(with_rules(self.check(request), misplaced))
        return request

    def check(self, request: object) -> list[FieldError]:
        """Return every error by the published schema of the model, which `version` may name too."""
        if isinstance(request, dict) and "model" not in request and "version" in request:
            request = {"model" if name == "version" else name: value for name, value in request.items()}
        model = at(request, "model")
        family = _FAMILIES.get(model) if isinstance(model, str) else None
        if family is None:
            if not isinstance(request, dict) or "model" not in request:
                return validation.check(request, Seedance20)
            return [FieldError("model", f"must be one of {_listed(_FAMILIES)}, not {validation.shown(model)}")]
        return with_rules(validation.check(request, family.body), _rules(at(request, "input"), str(model), family))

    def model_of(self, request: object) -> object:
        """Return the model, or the version that stands instead of it."""
        model = at(request, "model")
        return at(request, "version") if model is None else model

    def check_model(self, request: object) -> list[FieldError]:
        """Return the error of a model or a version in none of the published forms, or of both together."""
        model, version = at(request, "model"), at(request, "version")
        if model is not None and version is not None:
            return [FieldError("version", "cannot be given with model")]
        if model is not None:
            return [] if _MODEL.fullmatch(str(model)) else [FieldError("model", f"must be {MODEL_FORM}")]
        return [] if _VERSION.fullmatch(str(version)) else [FieldError("version", f"must be {VERSION_FORM}")]

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return the creation of a prediction: of a model in the path, or of a `version` in the body.

        A model with a version, `owner/name:id`, is one too.
        """
        body = with_callback(request, self.callback_field, callback_url)
        if callback_url is not None:
            body["webhook_events_filter"] = ["completed"]
        model = request.get("model")
        if "version" in request or not isinstance(model, str):
            return ProviderRequest(method="POST", path="/v1/predictions", body=body)
        if ":" in model:
            body = {"version": model, **without_model(body)}
            return ProviderRequest(method="POST", path="/v1/predictions", body=body)
        return ProviderRequest(method="POST", path=f"/v1/models/{model}/predictions", body=without_model(body))

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the submission's result; a 2xx is the prediction."""
        return answers.read_submission(response, lambda body: _report(body, None, JobState.SUBMITTED), _explain)

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return `GET /v1/predictions/{id}`."""
        return ProviderRequest(method="GET", path=f"/v1/predictions/{job.quoted_id}")

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise Unreadable unless it is a 2xx with a status."""
        return _report(answers.status_body(response), now_ms)

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of a callback, which is the prediction."""
        return _report(body, now_ms)

    def cancellation(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return `POST /v1/predictions/{id}/cancel`, which leaves a prediction that has ended as it is."""
        return ProviderRequest(method="POST", path=f"/v1/predictions/{job.quoted_id}/cancel")

    def canceled(self, response: ProviderResponse) -> bool:
        """Return whether the prediction in the answer is canceled."""
        return _state(response) in _CANCELED

    def too_late(self, response: ProviderResponse) -> bool:
        """Return whether the prediction in the answer had ended otherwise; then it is answered as it is."""
        state = _state(response)
        return state is not None and state.final and state not in _CANCELED

    def retry_after_s(self, response: ProviderResponse) -> float | None:
        """Return the seconds in the text of a 429, which has no Retry-After header."""
        found = _RESETS_IN.search(response.excerpt) if response.status_code == 429 else None
        return float(found[1]) if found else None

    def price(self, request: object) -> Price | None:
        """Return USD by the second, as https://replicate.com shows it on the pages of the models."""
        model, inputs = self.model_of(request), at(request, "input")
        if not isinstance(inputs, dict):
            return None
        audio = at(inputs, "generate_audio")
        seconds = seconds_at(inputs, "duration", range(3, 31), 5 if model == SEEDANCE_25 else None)
        unit: Decimal | None = None
        if model == SEEDANCE_25:
            unit = _SEEDANCE_25_USD.get(text_at(inputs, "resolution") or "720p")
        elif model == KLING:
            mode = text_at(inputs, "mode")
            unit = _KLING_4K_USD if mode == "4k" else None
            unit = _KLING_PRO_USD[audio] if mode == "pro" and isinstance(audio, bool) else unit
        elif model == VEO and audio is True:
            unit = _VEO_USD
        return None if unit is None or seconds is None else dollars(unit * seconds)


def _misplaced(given: Input, model: str, family: _Family) -> list[FieldError]:
    """Return an error for each given field that the model has no parameter for, or no such value of it."""
    errors = [
        FieldError(name, f"{model} has no parameter for it")
        for name in ("negative_prompt", "seed")
        if name not in family.fields and getattr(given, name) is not None
    ]
    errors += [
        FieldError("references", f"{model} has no parameter for references of the kind {kind}")
        for kind in _REFERENCES
        if kind not in family.references and given.referred(kind)
    ]
    if len(given.frames) > len(family.frames):
        errors.append(FieldError("images", f"must be at most 2 images (first, last), not {len(given.images)}"))
    if family is _KLING and given.resolution is not None and given.resolution not in _KLING_MODES:
        shown = validation.shown(given.resolution)
        errors.append(FieldError("input.mode", f"must be one of {_listed(_KLING_MODES)} for {model}, not {shown}"))
    if family is _KLING and given.frames and given.aspect_ratio is not None:
        errors.append(FieldError("input.aspect_ratio", f"{model} ignores it if there are images"))
    return errors


def _listed(names: Iterable[str]) -> str:
    """Return names in quotation marks."""
    return ", ".join(f'"{name}"' for name in names)


def _rules(inputs: object, model: str, family: _Family) -> list[FieldError]:
    """Return the errors that the schema cannot express: URLs, frames and references together, the duration."""
    if not isinstance(inputs, dict):
        return []
    first, last = family.frames
    errors = [error for name in (first, last) if name in inputs for error in check_url(inputs[name], f"input.{name}")]
    errors += [error for name in _REFERENCES.values() for error in _urls(inputs, name)]
    if last in inputs and first not in inputs:
        errors.append(FieldError(f"input.{last}", f"needs input.{first}"))
    if family is _KLING:
        return errors + _shots(inputs)
    if family.body is Veo:
        return errors + _veo_references(inputs, model)
    return errors + _seedance(inputs, model) + _duration(inputs.get("duration", -1), model)


def _urls(inputs: dict[str, Any], name: str) -> list[FieldError]:
    """Return the errors of references' URLs; of a longer list the schema says that it is too long."""
    return check_urls(items(inputs.get(name))[:REFERENCES_MAX], f"input.{name}")


def _seedance(inputs: dict[str, Any], model: str) -> list[FieldError]:
    """Return the errors of Seedance's references, prompt and resolution."""
    references = [name for name in _REFERENCES.values() if items(inputs.get(name))]
    errors = []
    if "image" in inputs:
        errors += [FieldError(f"input.{name}", "cannot be given with input.image") for name in references]
    if model == SEEDANCE_25 and not inputs.get("prompt") and not inputs.get("image") and not references:
        errors.append(FieldError("input.prompt", "is required without an image or a reference"))
    if model == SEEDANCE_FAST and inputs.get("resolution") in ("1080p", "4k"):
        shown = validation.shown(inputs["resolution"])
        errors.append(FieldError("input.resolution", f'must be one of "480p", "720p" for {model}, not {shown}'))
    return errors


def _shots(inputs: dict[str, Any]) -> list[FieldError]:
    """Return the error of Kling's `multi_prompt`: a JSON text of one to six shots, as long together as the video."""
    text = inputs.get("multi_prompt")
    if not isinstance(text, str):
        return []
    form = f'must be the JSON text of 1 to {SHOTS_MAX} objects with "prompt" and "duration"'
    try:
        shots = msgspec.json.decode(text, type=list[_Shot])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return [FieldError("input.multi_prompt", form)]
    if not 1 <= len(shots) <= SHOTS_MAX:
        return [FieldError("input.multi_prompt", f"{form}, not {len(shots)}")]
    total, wanted = sum(shot.duration for shot in shots), inputs.get("duration")
    if type(wanted) is int and total != wanted:
        return [FieldError("input.multi_prompt", f"must have shots of {wanted} s together, not {total} s")]
    return []


def _veo_references(inputs: dict[str, Any], model: str) -> list[FieldError]:
    """Return the errors of Veo's references: not for the fast model, and only in one form of the video."""
    if not items(inputs.get("reference_images")):
        return []
    if model == VEO_FAST:
        return [FieldError("input.reference_images", f"is not a field of {model}")]
    needed = {"aspect_ratio": "16:9", "duration": 8}
    errors = [
        FieldError(f"input.{name}", f"must be {validation.shown(value)} with input.reference_images")
        for name, value in needed.items()
        if inputs.get(name, value) != value
    ]
    if "last_frame" in inputs:
        errors.append(FieldError("input.last_frame", f"{model} ignores it beside input.reference_images"))
    return errors


def _duration(seconds: object, model: str) -> list[FieldError]:
    """Return the error of a Seedance duration that is neither -1 nor in the range of the model."""
    allowed = _SECONDS.get(model)
    if allowed is None or seconds == -1 or (type(seconds) is int and seconds in allowed):
        return []
    limit = f"must be an integer from {allowed[0]} to {allowed[-1]}, or -1 (the model decides)"
    return [FieldError("input.duration", f"{limit}, not {validation.shown(seconds)}")]


def _report(body: dict[str, Any], now_ms: int | None, default: JobState | None = None) -> Report:
    """Return the report of a prediction, in a submission's answer, a status answer or a callback."""
    task = answers.task_of(body)
    report = answers.report_of(
        answers.TaskFields(
            task=task,
            outputs=_outputs(task.get("output"), answers.expiry(now_ms, LIFETIME_S)),
            error=_failure(task.get("error")),
            provider_job_id=answers.identifier(task.get("id")),
            default_state=default,
        )
    )
    if report.state is JobState.SUCCEEDED and not report.outputs and task.get("data_removed") is True:
        return msgspec.structs.replace(report, note="Replicate has removed the output")
    return report


def _state(response: ProviderResponse) -> JobState | None:
    """Return the state of the prediction in an answer, None if there is none."""
    try:
        return _report(answers.status_body(response), None).state
    except Unreadable:
        return None


def _outputs(output: object, expires_at: str | None) -> tuple[Output, ...]:
    """Return the outputs: published is one URL; a list of them or an object with URLs are what other models have."""
    given = (
        list(output.values()) if isinstance(output, dict) else [output] if isinstance(output, str) else items(output)
    )
    return answers.distinct(one for url in given for one in answers.output(url, expires_at))


def _failure(error: object) -> JobError | None:
    """Return the error of a failed prediction by its text, since it has no code of its own."""
    reason = answers.error_text(error)
    found = _CODE.search(reason.text or "")
    code = reason.code or (found[1] or found[2] if found else None)
    known = answers.failure(answers.ErrorText(code, reason.text), CODES)
    if known is None or known.class_ is not ErrorClass.UNKNOWN:
        return known
    text = reason.text or ""
    if _NOT_SAFE.search(text):
        return msgspec.structs.replace(known, class_=ErrorClass.CONTENT_REJECTED)
    class_ = ErrorClass.TIMEOUT if _TIMED_OUT.search(text) else ErrorClass.PROVIDER_ERROR
    return msgspec.structs.replace(known, class_=class_, retryable=True)


def _explain(response: ProviderResponse, body: dict[str, Any]) -> JobError:
    """Return the error of a problem, `{"title", "detail", "status", "invalid_fields"}`.

    Without credit the limit of requests may answer before the balance does: then the text of the 429 says it.
    """
    reason = answers.complaint(body)
    text = reason.text or answers.error_text(body.get("title")).text
    reason = answers.ErrorText(reason.code, text)
    if _NO_CREDIT.search(text or ""):
        return answers.error_for(response, ErrorClass.INSUFFICIENT_FUNDS, reason)
    return answers.http_error(response, reason, CODES)
