"""What relay asks of a provider's adapter: it builds requests and reads answers, and never does I/O itself.

So an adapter is tested with recorded bytes, and everything that can hang or fail is elsewhere. A provider is one file, one line
in `PROVIDERS`, and its recordings.
"""

from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from relay import validation
from relay.errors import FieldError, InvalidInput, Unreadable
from relay.model import ErrorClass, Input, JobError, JobState, Report

EXCERPT_BYTES = 2048


class ApiRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a provider: the path goes behind the configured origin, the key into the Authorization header."""

    method: str
    path: str
    body: dict[str, object] | None = None


class ApiAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A provider's answer as it came."""

    status_code: int
    content_type: str
    body: bytes

    def json(self) -> Any:
        """The decoded body; Unreadable when it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise Unreadable(f"HTTP {self.status_code} with a body that is not JSON") from None

    @property
    def excerpt(self) -> str:
        """The first 2 KB as text."""
        return self.body[:EXCERPT_BYTES].decode("utf-8", "replace").replace("\x00", "")


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

    def submission(self, request: dict[str, object], callback_url: str | None) -> ApiRequest:
        """The request that creates the job, with the callback URL where this provider wants it."""

    def read_submission(self, answer: ApiAnswer) -> SubmissionAnswer:
        """What the answer to a submission means; never raises."""

    def status_check(self, provider_job_id: str) -> ApiRequest:
        """The request that asks how a job is doing."""

    def read_status(self, answer: ApiAnswer, now_ms: int) -> Report:
        """What a status answer says; Unreadable when it is no verdict about the job."""

    def read_callback(self, body: dict[str, Any], now_ms: int) -> Report:
        """What a callback's decoded JSON says; Unreadable when no published version explains it."""


def native_from_input(provider: Provider, given: Input) -> dict[str, object]:
    """The checked native body for a unified input; InvalidInput names the unified fields."""
    try:
        request = provider.from_input(given)
        errors = provider.check(request)
    except InvalidInput as error:
        request, errors = {}, error.errors
    if errors:
        raise InvalidInput([FieldError(validation.join("input", provider.input_path(e.path)), e.message) for e in errors])
    return request


def check_url(url: object, path: str, schemes: tuple[str, ...] = ("https", "http")) -> list[FieldError]:
    """A public URL as every provider asks for: a scheme it takes, a host, no credentials, 2048 characters at most."""
    message = f"must be a public {' or '.join(schemes)} URL of at most 2048 characters, without credentials"
    if not isinstance(url, str) or len(url) > 2048 or not url.isprintable() or " " in url:
        return [FieldError(path, message)]
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.username is None and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    return [] if good else [FieldError(path, message)]


def state_of(word: object, vocabulary: dict[str, JobState]) -> tuple[JobState | None, str]:
    """The state for a provider's word, whatever its case; None for a word nobody published."""
    text = word if isinstance(word, str) else ""
    return vocabulary.get(text.strip().lower()), text[:64]


def text_or_none(value: object, limit: int = 2048) -> str | None:
    """A provider's string (or number) as text that every database takes; None for anything else or nothing."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value).replace("\x00", "").encode("utf-8", "replace").decode()
    return text[:limit] or None


def error_for(answer: ApiAnswer, class_: ErrorClass, *, code: object = None, text: object = None) -> JobError:
    """The error of a refused or unclear answer: relay's class and code, the provider's words, or the first 2 KB of its page."""
    said = text_or_none(text)
    retryable = class_ in (ErrorClass.RATE_LIMITED, ErrorClass.PROVIDER_ERROR, ErrorClass.TIMEOUT)
    return JobError(
        class_=class_, code=f"http_{answer.status_code}", retryable=retryable,
        message=f"the provider answered HTTP {answer.status_code}" + (f": {said[:300]}" if said else ""),
        provider_code=text_or_none(code, 128), provider_message=said or answer.excerpt or None,
    )
