"""Defines a provider's adapter: it builds requests and reads responses, and does no I/O.

So an adapter is tested with recorded bytes, and everything that can hang or fail is elsewhere. A provider is one file,
one line in `PROVIDERS`, and its recordings. What providers' responses have in common is read in `answers.py`. No part
of the flow knows a provider by its name: what only some providers need is a method or an attribute with a default here.
"""

import copy
import ipaddress
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import quote, urlsplit

import msgspec

from relay import validation
from relay.errors import FieldError, Unreadable
from relay.log import redact
from relay.model.job import Input, Job, JobError, JobState, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.model.text import kept
from relay.providers.prices import Price
from relay.security.callback_signatures import VerifierName
from relay.security.signatures import Signed

URL_MAX: Final = 2048
COMMON: Final = frozenset({"images", "prompt", "duration_s", "resolution", "aspect_ratio", "model"})
"""The fields of `input` that nearly every provider can honour."""
REFERENCES: Final = frozenset({"references", "references.video", "references.audio"})
"""References of every kind, in `honours`."""
MODEL_MAX: Final = 200
MODEL_SEGMENTS_MAX: Final = 6
_SEGMENT: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
PATH_MODEL_FORM: Final = f"1 to {MODEL_SEGMENTS_MAX} names with / between them, of letters, digits, -, _ and full stops"
_PATH_MODEL: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,{MODEL_SEGMENTS_MAX - 1}}}")
_CALLBACK_FIELD: Final = re.compile(r"(callback|webhook|notify|notification|hook)(hook|url|uri|endpoint|eventsfilter)?")
_PLAIN_URL: Final = re.compile(r"(https?)://([A-Za-z0-9.-]+)(?=[/?#]|\Z)")
_LOCAL_NAMES: Final = ("localhost", "local", "internal", "lan", "intranet", "home.arpa")


class Accepted(msgspec.Struct, frozen=True):
    """The provider has the job; if the report has no id, only the callback brings it."""

    report: Report


class Refused(msgspec.Struct, frozen=True):
    """The provider did not create the job."""

    error: JobError


class Unclear(msgspec.Struct, frozen=True):
    """The job may or may not exist at the provider."""

    error: JobError


SubmissionAnswer = Accepted | Refused | Unclear


class ModelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """A model's published limits where they differ from its provider's; None means as the provider's.

    `images` are the fewest and the most frames, `references` the most images, videos and sounds that are none.
    """

    duration_s: tuple[int, int] | None = None
    resolutions: tuple[str, ...] | None = None
    aspect_ratios: tuple[str, ...] | None = None
    images: tuple[int, int] | None = None
    references: tuple[int, int, int] | None = None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's published limits, shown by `GET /v1/providers`; None where a limit is not published.

    They span all of its models; `by_model` has those of the models that differ.
    """

    models: tuple[str, ...]
    duration_s: tuple[int, int]
    resolutions: tuple[str, ...]
    aspect_ratios: tuple[str, ...]
    images_max: int
    prompt_max: int | None
    prompt_required: bool
    result_lifetime_s: int | None
    expected_s: int
    poll_s: int | None = None
    paid: bool = False
    by_model: Mapping[str, ModelLimits] = {}


class SubmittedJob(msgspec.Struct, frozen=True, kw_only=True):
    """What an adapter may need to know of a job to ask about it.

    `job_id` is relay's own id, as `submission` received it. `provider_job_id` is None only in `find`. `request` is the
    native body as stored, without the callback URL; it is empty for a job that was adopted from its callback.
    `status_path` is what a report named. `provider_status` is the status that the provider itself gave a moment ago,
    empty if it was not asked. `state` is relay's: `submitted` also stands for "queued".
    """

    job_id: str
    provider_job_id: str | None
    state: JobState
    request: Mapping[str, object] = {}
    status_path: str | None = None
    provider_status: str = ""

    @property
    def quoted_id(self) -> str:
        """Return the provider's id as one segment of a path, or one value of a query."""
        return quote(self.provider_job_id or "", safe="")


def submission_id(job: Job) -> str:
    """Return relay's own id of a job's submission: the job's, with its number of events if it was submitted again."""
    return job.id if job.last_final_event is None else f"{job.id}_{job.sequence}"


def submitted_job(job: Job, provider_status: str = "") -> SubmittedJob:
    """Return what an adapter may know of a stored job."""
    return SubmittedJob(
        job_id=submission_id(job),
        provider_job_id=job.provider_job_id,
        state=job.state,
        request=job.request,
        status_path=job.status_path,
        provider_status=provider_status,
    )


class Provider(Protocol):
    """One provider's wire contract; an adapter is a subclass, and what is the same for most is written here."""

    name: str
    title: str
    """The name as the provider writes it, for messages."""
    base_url: str
    limits: Limits
    further_limits: Mapping[str, str] = {}
    """Published limits that `Limits` has no place for, as rows of the provider's page and of `GET /v1/providers`."""
    callback_field: str = ""
    """The dotted path of the callback URL in a request: `metadata.callback_url`; empty if the body has none."""
    callback_query: str = ""
    """The parameter of a submission's query that has the callback URL instead; an adapter has at most one of both."""
    path_model: bool = False
    """Whether the native body's top-level `model` goes into the path of the submission, and not into the body sent."""
    verifier: VerifierName = "standard-webhooks"
    """How the provider signs its callbacks, if the operator sets RELAY_<NAME>_CALLBACK_SECRET."""
    own_id_fields: tuple[str, ...] = ()
    """The dotted paths where `submission` puts relay's id of the job: no native body may have one of them."""
    request_types: tuple[type, ...]
    """The types of its native bodies, without the callback field."""
    unified: Mapping[str, str]
    """The unified field of each native path: `image_urls` → `images`."""
    honours: frozenset[str]
    """The fields of `input` that it can honour; `native.native_from_input` refuses all others.

    `references` stands for images; a provider with other media has `references.video` and `references.audio` too.
    """
    check_before_cancellation: bool = False
    """Whether a cancellation that comes too late erases the job: relay then asks for its status immediately before.

    `cancellation` receives the answer's `state` and `provider_status`, and returns None for all but the safe ones.
    """

    def from_input(self, given: Input) -> dict[str, object]:
        """Return the native body of a unified input, not yet checked; raise InvalidInput for an unsupported value.

        `given` has only fields of `honours`, and a `last_frame` only beside one image: `given.frames` has both.
        """

    def check(self, request: object) -> list[FieldError]:
        """Return every error of a native body (without its callback field) by the provider's published limits."""

    def input_path(self, native_path: str) -> str:
        """Return the unified field of a native path, with an item's index: `image_urls[0]` → `images[0]`."""
        for native, unified in self.unified.items():
            if native_path == native or native_path.startswith((f"{native}[", f"{native}.")):
                index = re.match(r"\[\d+\]", native_path[len(native) :])
                return unified + (index[0] if index else "")
        return native_path

    def model_of(self, request: object) -> object:
        """Return the model that a native body names; anything but text if it names none."""
        return at(request, "model")

    def check_model(self, request: object) -> list[FieldError]:
        """Return the error of a model that relay does not know, where it goes into a path; and of relay's own id."""
        wrong = self.path_model and not path_model(request)
        return check_own_ids(self, request) + ([FieldError("model", f"must be {PATH_MODEL_FORM}")] if wrong else [])

    def authorization(self, api_key: str, now_s: int) -> str:
        """Return the Authorization header of a request at a time in unix seconds."""
        return f"Bearer {api_key}"

    def submission(self, request: dict[str, object], callback_url: str | None, job_id: str) -> ProviderRequest:
        """Return the request that creates the job, with the callback URL at `callback_field` or in the query.

        `job_id` is relay's own id, for a provider that keeps a client's id beside its own.
        """

    def read_submission(self, response: ProviderResponse) -> SubmissionAnswer:
        """Return the result of a submission; never raise."""

    def status_check(self, job: SubmittedJob) -> ProviderRequest:
        """Return the request for a job's status."""

    def read_status(self, response: ProviderResponse, now_ms: int) -> Report:
        """Return the report of a status answer; raise Unreadable if it has no job's status."""

    def result_request(self, job: SubmittedJob, report: Report) -> ProviderRequest | None:
        """Return the request for the result that a status answer's report announces; None if the report is complete."""
        return None

    def read_result(self, response: ProviderResponse, report: Report, now_ms: int) -> Report:
        """Return the whole report of a job from the answer to `result_request`; raise Unreadable for any other."""
        raise Unreadable(f"{self.name} has no second step")

    def find(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return the request that looks a job up by relay's own id, after an unclear submission; None without one."""
        return None

    def read_found(self, response: ProviderResponse, job: SubmittedJob, now_ms: int) -> Report | None:
        """Return the report of the job in the answer to `find`, with its id; None if the provider surely has none.

        Raise Unreadable for an answer that says neither.
        """
        raise Unreadable(f"{self.name} cannot be asked by relay's own id")

    def cancellation(self, job: SubmittedJob) -> ProviderRequest | None:
        """Return the request that cancels a job; None if no such route is published, or not for this job."""
        return None

    def canceled(self, response: ProviderResponse) -> bool:
        """Return whether the answer to a cancellation says that the job is canceled, and not only that it may be."""
        return 200 <= response.status_code < 300

    def too_late(self, response: ProviderResponse) -> bool:
        """Return whether the 2xx of a cancellation says that the job had ended before; a 4xx always does."""
        return False

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """Return the report of a callback's decoded JSON; raise Unreadable if no published version matches."""
        raise Unreadable(f"{self.name} sends no callbacks")

    def reply(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return the JSON to answer to a callback that only tests the URL; None for a callback about a job."""
        return None

    def price(self, request: object) -> Price | None:
        """Return the price of a native body; None if no table has it, or the body is invalid."""
        return None

    def retry_after_s(self, response: ProviderResponse) -> float | None:
        """Return how many seconds the provider asks relay to wait, if not by a Retry-After header; None otherwise."""
        return None


@runtime_checkable
class Signing(Protocol):
    """The additional part of an adapter whose provider signs its callbacks by published ed25519 keys."""

    keys_url: str
    """The https URL of the provider's JWK set, or its path at the configured origin.

    If the operator configured another origin, the path of the URL is read there.
    """

    def signed(self, headers: Mapping[str, str], body: bytes) -> Signed | None:
        """Return the signature in a callback's headers (names in lower case), or None for an unsigned callback.

        Raise SignatureInvalid if the headers are malformed.
        """


def callbacks_expected(provider: Provider) -> bool:
    """Return whether the provider is given a callback URL with a job."""
    return bool(provider.callback_field or provider.callback_query)


def can_cancel(provider: Provider) -> bool:
    """Return whether the provider has a route that cancels jobs."""
    return type(provider).cancellation is not Provider.cancellation


def can_find(provider: Provider) -> bool:
    """Return whether the provider can be asked for a job by relay's own id."""
    return type(provider).find is not Provider.find


def replies(provider: Provider) -> bool:
    """Return whether the provider tests callback URLs, and waits for a certain answer."""
    return type(provider).reply is not Provider.reply


def example_job(provider: Provider, provider_job_id: str) -> SubmittedJob:
    """Return a job of the provider's first model, to ask about an id that need not exist."""
    request = {"model": provider.limits.models[0]}
    return SubmittedJob(
        job_id=provider_job_id, provider_job_id=provider_job_id, state=JobState.SUBMITTED, request=request
    )


def keys_at(keys_url: str, base_url: str, configured_url: str | None) -> tuple[str, str]:
    """Return the origin and the path of a provider's published keys.

    A path is at the configured origin, as is the path of an https URL if the operator configured an origin.
    """
    origin, path = base_url, keys_url
    if not keys_url.startswith("/"):
        parts = urlsplit(keys_url)
        origin, path = f"{parts.scheme}://{parts.netloc}", parts.path
    return configured_url or origin, path


def with_rules(errors: list[FieldError], rules: list[FieldError]) -> list[FieldError]:
    """Return the errors of the schema and of a provider's own rules; for one field, only the rule's."""
    paths = {error.path for error in rules}
    return [error for error in errors if error.path not in paths] + rules


def with_suggestions(errors: list[FieldError], suggestions: Mapping[str, str]) -> list[FieldError]:
    """Return the errors; if an unknown field is another provider's name, with this provider's name for it."""
    return [
        FieldError(error.path, f"{validation.UNKNOWN_FIELD}; did you mean {suggestions[error.path]}?")
        if error.path in suggestions and error.message.startswith(validation.UNKNOWN_FIELD)
        else error
        for error in errors
    ]


def check_reference_mode(given: Input) -> list[FieldError]:
    """Return the error of references beside frames, for a provider whose `mode` decides which of them images are."""
    if not given.references or given.mode == "reference":
        return []
    if given.mode is not None:
        return [FieldError("references", f"cannot be given with mode {validation.clipped(given.mode)}")]
    return [FieldError("references", "cannot be given with images unless mode is reference")] if given.images else []


class Placed(msgspec.Struct, frozen=True):
    """A value of a native body and its path."""

    path: str
    value: object


def check_by_model(own: ModelLimits | None, model: object, given: Mapping[str, Placed]) -> list[FieldError]:
    """Return the errors of values that a provider accepts and this model of it does not.

    `given` holds them by the name of their limit: `duration_s` (a number), `resolutions`, `aspect_ratios`.
    """
    errors = []
    for name, placed in given.items():
        allowed = getattr(own, name, None)
        if allowed is None or placed.value is None:
            continue
        if name == "duration_s":
            low, high = allowed
            fits = isinstance(placed.value, int) and low <= placed.value <= high
            limit = f"an integer from {low} to {high}"
        else:
            fits = placed.value in allowed
            limit = "one of " + ", ".join(f'"{one}"' for one in allowed)
        if not fits:
            message = f"must be {limit} for {model}, not {validation.shown(placed.value)}"
            errors.append(FieldError(placed.path, message))
    return errors


def check_count(media: object, path: str, most: tuple[int, int], model: object) -> list[FieldError]:
    """Return the error of fewer or more media than a model accepts: `most` holds both counts."""
    low, high = most
    count = len(items(media))
    if low <= count <= high or not (media is None or isinstance(media, list)):
        return []
    if media is None:
        return [FieldError(path, "is required")]
    return [FieldError(path, f"must be an array of {low} to {high} items for {model}, not {count}")]


def without_none(**fields: object) -> dict[str, object]:
    """Return the fields that are given; for the others the provider's own defaults apply."""
    return {name: value for name, value in fields.items() if value is not None}


def at(value: object, *keys: str | int) -> Any:
    """Return the item of untrusted JSON at these keys and indexes, or None."""
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            return None
    return value


def items(value: object) -> list[Any]:
    """Return the value if it is an array, else an empty list."""
    return value if isinstance(value, list) else []


def path_model(request: object) -> str:
    """Return the model of a native body for a path; empty if it is not `MODEL_SEGMENTS_MAX` plain segments at most."""
    model = at(request, "model")
    return model if isinstance(model, str) and is_path_model(model) else ""


def is_path_model(model: str) -> bool:
    """Return whether a model's name can stand in a path: `bytedance/seedance-2.0/image-to-video`."""
    return len(model) <= MODEL_MAX and _PATH_MODEL.fullmatch(model) is not None


def without_model(request: Mapping[str, object]) -> dict[str, object]:
    """Return a native body as it is sent to a provider that has the model in its path."""
    return {name: value for name, value in request.items() if name != "model"}


def with_query(path: str, **parameters: str | None) -> str:
    """Return a path with the parameters that are given in its query, the values escaped."""
    given = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items() if value is not None)
    return f"{path}{'&' if '?' in path else '?'}{given}" if given else path


def find_callback_field(request: object, query: str = "") -> str | None:
    """Return the path of a callback field in a native body, in any spelling; None if there is none.

    `query` is the name of the provider's own parameter of the query, which no body may have either.
    """
    if query and isinstance(request, dict) and query in request:
        return query
    for holder in ("", "metadata", "inputs", "input", "options"):
        fields = at(request, holder) if holder else request
        for name in fields if isinstance(fields, dict) else ():
            if isinstance(name, str) and is_callback_field(name):
                return validation.join(holder, name)
    return None


def is_callback_field(name: str) -> bool:
    """Return whether a field's name is one for a callback URL, in any spelling."""
    return _CALLBACK_FIELD.fullmatch(re.sub(r"[^a-z]", "", name.lower())) is not None


def check_own_ids(provider: Provider, request: object) -> list[FieldError]:
    """Return an error for each of `own_id_fields` that a native body has."""
    given = [path for path in provider.own_id_fields if at(request, *path.split(".")) is not None]
    return [FieldError(path, "is relay's own field: relay looks the job up by its id there") for path in given]


def with_callback(request: dict[str, object], field: str, callback_url: str | None) -> dict[str, object]:
    """Return a deep copy of a native body with the callback URL, unless it is None, at a dotted path."""
    body = copy.deepcopy(request)
    if callback_url is not None:
        *holders, name = field.split(".")
        target: dict[str, Any] = body
        for holder in holders:
            target = target.setdefault(holder, {})
        target[name] = callback_url
    return body


def check_urls(values: object, path: str) -> list[FieldError]:
    """Return the errors of an array of public URLs; items of other types are the schema's errors."""
    texts = [(index, value) for index, value in enumerate(items(values)) if isinstance(value, str)]
    return [error for index, value in texts for error in check_url(value, f"{path}[{index}]")]


def check_url(url: object, path: str, schemes: tuple[str, ...] = ("https", "http")) -> list[FieldError]:
    """Return the error of a URL that is not public: its scheme, host, credentials or a length over URL_MAX."""
    if _is_public_url(url, schemes):
        return []
    must = f"must be a public {' or '.join(schemes)} URL of at most {URL_MAX} characters, without credentials"
    return [FieldError(path, f"{must}; this {_fault(url, schemes)}")]


def _fault(url: object, schemes: tuple[str, ...]) -> str:
    """Return what is wrong with a URL that is not public, without repeating any of it."""
    if not isinstance(url, str):
        return "is no text"
    if len(url) > URL_MAX:
        return f"has {len(url)} characters"
    if not url.isprintable() or " " in url or "\\" in url:
        return "has a blank, a control character or a backslash"
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        return "has no valid host and port"
    if parts.scheme not in schemes:
        return f"does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    if "@" in parts.netloc:
        return "has a user name or password"
    if not port_is_good or not parts.hostname:
        return "has no valid host and port"
    return "has a host that is local, private or without a dot"


def _is_public_url(url: object, schemes: tuple[str, ...]) -> bool:
    """Return whether `check_url` has no error."""
    if not isinstance(url, str) or len(url) > URL_MAX or not url.isprintable() or " " in url or "\\" in url:
        return False
    try:
        plain = _PLAIN_URL.match(url)
        scheme, netloc = plain.groups() if plain else urlsplit(url)[:2]
        return scheme in schemes and _is_public(netloc)
    except ValueError:
        return False


@lru_cache(1024)
def _is_public(netloc: str) -> bool:
    """Return whether host and port, without credentials, may be public; nothing is resolved."""
    parts = urlsplit(f"//{netloc}")
    return "@" not in netloc and (parts.port is None or parts.port > 0) and _looks_public(parts.hostname or "")


def _looks_public(host: str) -> bool:
    """Return whether a host is neither a local name nor a private address."""
    host = host.rstrip(".").lower()
    if ":" in host or re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_global and not address.is_multicast
    return "." in host and not any(host == name or host.endswith(f".{name}") for name in _LOCAL_NAMES)


def text_or_none(value: object, limit: int = 2048) -> str | None:
    """Return a provider's string or number as text that every database can store; None if it is empty or neither."""
    if value is None:
        return None
    if type(value) is str and len(value) <= limit and value.isascii() and "\x00" not in value:
        return redact(value) or None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, int) and value.bit_length() > 256:
        return None
    text = kept(str(value)[: 2 * limit])
    return redact(text)[:limit] or None
