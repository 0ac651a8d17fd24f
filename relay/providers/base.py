"""What relay asks of a provider's adapter: it builds requests and reads answers, and never does I/O itself.

So an adapter is tested with recorded bytes, and everything that can hang or fail is elsewhere. A provider is one file,
one line in `PROVIDERS`, and its recordings. What providers' answers have in common is read in `answers.py`.
"""

import copy
import ipaddress
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import urlsplit

import msgspec

from relay import validation
from relay.errors import FieldError, InvalidInput
from relay.log import redact
from relay.model.job import ErrorClass, Input, JobError, JobState, Report
from relay.model.provider_http import ProviderRequest, ProviderResponse
from relay.model.text import kept
from relay.security.signatures import Signed

URL_MAX: Final = 2048
RETRYABLE: Final = frozenset({ErrorClass.RATE_LIMITED, ErrorClass.PROVIDER_ERROR, ErrorClass.TIMEOUT})
_CALLBACK_FIELD: Final = re.compile(r"(callback|webhook|notify|notification|hook)(hook|url|uri|endpoint)?")
_PLAIN_URL: Final = re.compile(r"(https?)://([A-Za-z0-9.-]+)(?=[/?#]|\Z)")
_LOCAL_NAMES: Final = ("localhost", "local", "internal", "lan", "intranet", "home.arpa")


class Accepted(msgspec.Struct, frozen=True):
    """The provider has the job; without an id in the report only the callback can tell which it is."""

    report: Report


class Refused(msgspec.Struct, frozen=True):
    """The provider surely did not create the job."""

    error: JobError


class Unclear(msgspec.Struct, frozen=True):
    """The job may or may not exist at the provider."""

    error: JobError


SubmissionAnswer = Accepted | Refused | Unclear


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What `GET /v1/providers` tells of a provider."""

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


class Provider(Protocol):
    """One provider's wire contract, both directions."""

    name: str
    base_url: str
    limits: Limits
    callback_field: str
    """Where its callback URL goes, dotted: `metadata.callback_url`."""

    def from_input(self, given: Input) -> dict[str, object]:
        """The native body for a unified input, not yet checked; InvalidInput for what has no place in it."""

    def check(self, request: object) -> list[FieldError]:
        """Every error of a native body (without its callback field) against the provider's published limits."""

    def input_path(self, native_path: str) -> str:
        """The unified field that a native path came from: `image_urls[0]` → `images[0]`."""

    def submission(self, request: dict[str, object], callback_url: str | None) -> ProviderRequest:
        """The request that creates the job, with the callback URL where this provider wants it."""

    def read_submission(self, answer: ProviderResponse) -> SubmissionAnswer:
        """What the answer to a submission means; never raises."""

    def status_check(self, provider_job_id: str, status_path: str | None = None) -> ProviderRequest:
        """The request that asks how a job is doing, at the path that its provider named if it did."""

    def read_status(self, answer: ProviderResponse, now_ms: int) -> Report:
        """What a status answer says; Unreadable when it is no verdict about the job."""

    def cancellation(self, provider_job_id: str) -> ProviderRequest | None:
        """The request that cancels a job, answered 2xx when it is canceled; None where the provider publishes none."""

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """What a callback's decoded JSON says; Unreadable when no published version explains it."""


@runtime_checkable
class Signing(Protocol):
    """What an adapter has besides, whose provider signs its callbacks with ed25519 keys that it publishes."""

    keys_path: str
    """Where they are, a JWK set, behind the configured origin."""

    def signed(self, headers: Mapping[str, str], body: bytes) -> Signed | None:
        """What a callback's headers (names in lower case) say was signed; SignatureInvalid where they cannot be right.

        None is for a provider that does not sign everything: such a callback is worth what any unsigned one is.
        """


def native_from_input(provider: Provider, given: Input) -> dict[str, object]:
    """The checked native body for a unified input; InvalidInput names the unified fields."""
    try:
        request = provider.from_input(given)
        errors = provider.check(request)
    except InvalidInput as error:
        request, errors = {}, error.errors
    if errors:
        named = [FieldError(validation.join("input", provider.input_path(e.path)), e.message) for e in errors]
        raise InvalidInput(named)
    return request


def unified_path(native_path: str, names: Mapping[str, str]) -> str:
    """A native path in unified words, by a table of prefixes; the index of an array's item stays."""
    for native, unified in names.items():
        if native_path == native or native_path.startswith((f"{native}[", f"{native}.")):
            index = re.match(r"\[\d+\]", native_path[len(native) :])
            return unified + (index[0] if index else "")
    return native_path


def with_rules(errors: list[FieldError], found: Iterable[FieldError]) -> list[FieldError]:
    """The errors of the shape and those of a provider's own rules; about one field the rule counts."""
    rules = list(found)
    named = {error.path for error in rules}
    return [error for error in errors if error.path not in named] + rules


def with_hints(errors: list[FieldError], hints: Mapping[str, str]) -> list[FieldError]:
    """The errors, where an unknown field is the name that others use: with this provider's place for it."""
    return [
        FieldError(error.path, f"{validation.UNKNOWN_FIELD}; did you mean {hints[error.path]}?")
        if error.path in hints and error.message.startswith(validation.UNKNOWN_FIELD)
        else error
        for error in errors
    ]


def not_taken(title: str, **fields: object) -> list[FieldError]:
    """One error for each unified field that is given although the provider has no place for it."""
    return [FieldError(name, f"{title} takes no {name}") for name, value in fields.items() if value is not None]


def without_none(**fields: object) -> dict[str, object]:
    """The fields that are given: what is left out is the provider's own default."""
    return {name: value for name, value in fields.items() if value is not None}


def at(value: object, *keys: str | int) -> Any:
    """What stands under these keys and indexes, None where nothing does: for JSON of which nothing is known yet."""
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            return None
    return value


def items(value: object) -> list[Any]:
    """The items of an array; none for anything else."""
    return value if isinstance(value, list) else []


def carries_callback_field(request: object) -> str | None:
    """The path of a callback field in a native body, in whatever spelling; None when there is none."""
    for holder in ("", "metadata", "inputs", "input"):
        place = at(request, holder) if holder else request
        for name in place if isinstance(place, dict) else ():
            if isinstance(name, str) and is_callback_field(name):
                return validation.join(holder, name)
    return None


def is_callback_field(name: str) -> bool:
    """Whether a field's name is one for a callback URL, in whatever spelling."""
    return _CALLBACK_FIELD.fullmatch(re.sub(r"[^a-z]", "", name.lower())) is not None


def with_callback(request: dict[str, object], field: str, callback_url: str | None) -> dict[str, object]:
    """A deep copy of a native body with the callback URL at a dotted place (None: without one)."""
    body = copy.deepcopy(request)
    if callback_url is not None:
        *holders, name = field.split(".")
        place: dict[str, Any] = body
        for holder in holders:
            place = place.setdefault(holder, {})
        place[name] = callback_url
    return body


def check_urls(values: object, path: str) -> list[FieldError]:
    """The errors of an array of public URLs; what is no string is the shape's to name."""
    texts = [(index, value) for index, value in enumerate(items(values)) if isinstance(value, str)]
    return [error for index, value in texts for error in check_url(value, f"{path}[{index}]")]


def check_url(url: object, path: str, schemes: tuple[str, ...] = ("https", "http")) -> list[FieldError]:
    """A public URL as every provider asks for: a scheme it takes, a public host, no credentials, 2048 characters."""
    if _is_public_url(url, schemes):
        return []
    takes = " or ".join(schemes)
    message = f"must be a public {takes} URL of at most {URL_MAX} characters, without credentials"
    return [FieldError(path, message)]


def _is_public_url(url: object, schemes: tuple[str, ...]) -> bool:
    """The rule of `check_url`."""
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
    """Whether host and port may be on the internet, as far as they tell, without credentials; nothing is resolved."""
    parts = urlsplit(f"//{netloc}")
    return "@" not in netloc and (parts.port is None or parts.port > 0) and _looks_public(parts.hostname or "")


def _looks_public(host: str) -> bool:
    """Whether a host's name is no local one, and an address no private one."""
    host = host.rstrip(".").lower()
    if ":" in host or re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return address.is_global and not address.is_multicast
    return "." in host and not any(host == name or host.endswith(f".{name}") for name in _LOCAL_NAMES)


def state_of(word: object, vocabulary: Mapping[str, JobState]) -> tuple[JobState | None, str]:
    """The state for a provider's word, whatever its case; None for a word nobody published."""
    text = text_or_none(word, 64) or ""
    return vocabulary.get(text.strip().lower()), text


def text_or_none(value: object, limit: int = 2048) -> str | None:
    """A provider's string (or number) as text that every database takes; None for anything else or nothing."""
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


def error_for(answer: ProviderResponse, class_: ErrorClass, *, code: object = None, text: object = None) -> JobError:
    """The error of a refused or unclear answer: relay's class, the provider's words, or the first 2 KB of its page."""
    said = text_or_none(text)
    return JobError(
        class_=class_,
        code=f"http_{answer.status_code}",
        retryable=class_ in RETRYABLE,
        message=f"the provider answered HTTP {answer.status_code}" + (f": {said[:300]}" if said else ""),
        provider_code=text_or_none(code, 128),
        provider_message=said or answer.excerpt or None,
    )
