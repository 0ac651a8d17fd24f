"""A request for a job becomes a job that could be sent, or a list of everything that is wrong with it."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from relay import validation
from relay.context import ConfiguredProvider
from relay.errors import Bound, FieldError, InvalidInput, ProviderNotConfigured
from relay.jobs.submission import HAND_OVER_MS
from relay.model import ids, payment
from relay.model.archive import ArchiveMode
from relay.model.delivery import Endpoint
from relay.model.job import EventType, Input, Job, JobState
from relay.providers.native import NativeBody, check_given, native_body, unknown_model
from relay.security import signatures
from relay.security.url_policy import AddressPolicy
from relay.storage.jobs import NewJob

DEADLINE_S: Final = 3600
DEADLINE_MAX_S: Final = 604_800
METADATA_MAX_BYTES: Final = 4096
PATTERNS: Final = frozenset({"*", "job.*", "ops.*", *EventType})
PATTERNS_OF_NOTIFY: Final = frozenset(pattern for pattern in PATTERNS if not pattern.startswith("ops."))
"""An endpoint for one job receives nothing about relay itself."""

Metadata = Annotated[dict[Annotated[str, msgspec.Meta(min_length=1, max_length=100)], Any], msgspec.Meta(max_length=50)]
Patterns = Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(min_length=1, max_length=20)]


class Notify(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint for one job."""

    url: str
    event_types: Patterns | None = None
    secret: Annotated[str, msgspec.Meta(max_length=200)] | None = None


class JobFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of `POST /v1/jobs`, with exactly one of `input` and `request`."""

    provider: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    input: Input | None = None
    request: dict[str, Any] | None = None
    notify: list[Notify] | None = None
    metadata: Metadata | None = None
    max_cost: Annotated[str, msgspec.Meta(extra={"in_words": payment.USD_IN_WORDS})] | None = None
    archive: ArchiveMode | None = None
    deadline_s: Annotated[int, msgspec.Meta(ge=1, le=DEADLINE_MAX_S)] | None = None


class Intake:
    """Checks requests against the providers this relay has."""

    def __init__(self, providers: Mapping[str, ConfiguredProvider], policy: AddressPolicy, notify_max: int) -> None:
        self._providers = providers
        self._policy = policy
        self._notify_max = notify_max
        self._too_many = f"must be an array of at most {notify_max} items"

    def job(self, body: object, project_id: str, now_ms: int, archive: ArchiveMode | None = None) -> NewJob:
        """Return the job and its endpoints; raise InvalidInput, CallbackFieldReserved or ProviderNotConfigured.

        `archive` is the mode of a job that names none; None where there is no archive.
        """
        errors = validation.check(body, JobFields)
        given: Mapping[str, Any] = body if isinstance(body, dict) else {}
        provider = self._provider(given.get("provider"))
        native = NativeBody(errors=check_given(given))
        if provider is not None and not native.errors:
            native = native_body(provider.adapter, given)
        known = {error.path for error in errors}
        errors += [error for error in native.errors if error.path not in known]
        errors += _check_max_cost(given.get("max_cost"))
        if archive is None and given.get("archive") in (ArchiveMode.AFTER, ArchiveMode.BEFORE_NOTIFY):
            errors.append(
                FieldError("archive", "must be off: this relay has no archive (RELAY_ARCHIVE_URL is not set)")
            )
        errors += self._check_notify(given.get("notify")) + check_metadata(given.get("metadata"))
        if errors:
            too_many = any(error.path == "notify" and error.message.startswith(self._too_many) for error in errors)
            raise InvalidInput(errors, bound=Bound.NOTIFY_MAX if too_many else None)
        wanted = validation.convert(body, JobFields)
        deadline_at = now_ms + (wanted.deadline_s or DEADLINE_S) * 1000
        model = provider.adapter.model_of(native.body) if provider else None
        job = Job(
            id=ids.new_id(ids.JOB),
            project_id=project_id,
            provider=wanted.provider,
            state=JobState.PENDING,
            created_at=now_ms,
            updated_at=now_ms,
            deadline_at=deadline_at,
            request=native.body,
            input=given.get("input"),
            metadata=wanted.metadata or {},
            model=model if isinstance(model, str) else None,
            checked="partly" if provider and unknown_model(provider.adapter, native.body) else None,
            next_submit_at=now_ms + HAND_OVER_MS,
            max_cost=payment.max_cost(wanted.max_cost),
            archive=wanted.archive or archive or ArchiveMode.OFF,
        )
        return NewJob(job, tuple(_endpoint(one, job) for one in wanted.notify or ()))

    def _provider(self, name: object) -> ConfiguredProvider | None:
        """Return the provider, if it can be used; None where the name itself is missing or of the wrong type."""
        if not isinstance(name, str):
            return None
        provider = self._providers.get(name)
        if provider is None:
            raise ProviderNotConfigured(
                f"there is no provider {name[:64]!r} here; there are {', '.join(sorted(self._providers))}"
            )
        if not provider.usable:
            setting = "RELAY_WALLET_KEY" if provider.adapter.limits.paid else f"RELAY_{name.upper()}_API_KEY"
            raise ProviderNotConfigured(f"{name} is not configured: {setting} is not set")
        return provider

    def _check_notify(self, notify: object) -> list[FieldError]:
        """Return what breaks the rules of `notify` that its type does not say."""
        if not isinstance(notify, list):
            return []
        if len(notify) > self._notify_max:
            return [FieldError("notify", f"{self._too_many}, not {len(notify)}")]
        entries = [(f"notify[{index}]", entry) for index, entry in enumerate(notify) if isinstance(entry, dict)]
        return [
            error for path, entry in entries for error in check_endpoint(entry, self._policy, path, PATTERNS_OF_NOTIFY)
        ]


def check_endpoint(
    entry: Mapping[str, Any], policy: AddressPolicy, path: str = "", known: frozenset[str] = PATTERNS
) -> list[FieldError]:
    """Return what is wrong with an endpoint's URL, event types and secret, beyond their types."""
    errors: list[FieldError] = []
    url, patterns, secret = entry.get("url"), entry.get("event_types"), entry.get("secret")
    if isinstance(url, str):
        errors += [FieldError(validation.join(path, "url"), reason) for reason in policy.check_url(url)]
    for index, pattern in enumerate(patterns if isinstance(patterns, list) else ()):
        if isinstance(pattern, str) and pattern not in known:
            place = f"{validation.join(path, 'event_types')}[{index}]"
            errors.append(FieldError(place, validation.must_be_one_of(sorted(known), pattern)))
    if isinstance(secret, str):
        try:
            signatures.check_secret(secret)
        except ValueError as error:
            errors.append(FieldError(validation.join(path, "secret"), str(error)))
    return errors


def check_metadata(metadata: object) -> list[FieldError]:
    """Metadata is echoed in every event, so it is kept small."""
    size = len(msgspec.json.encode(metadata)) if isinstance(metadata, dict) else 0
    if size <= METADATA_MAX_BYTES:
        return []
    return [FieldError("metadata", f"must be at most {METADATA_MAX_BYTES} bytes of JSON, not {size}")]


def _check_max_cost(text: object) -> list[FieldError]:
    """Return what is wrong with a `max_cost` beyond its type."""
    try:
        payment.max_cost(text if isinstance(text, str) else None)
    except InvalidInput as error:
        return list(error.errors)
    return []


def _endpoint(notify: Notify, job: Job) -> Endpoint:
    """Return the endpoint that `notify` makes for one job."""
    return Endpoint(
        id=ids.new_id(ids.ENDPOINT),
        project_id=job.project_id,
        job_id=job.id,
        url=notify.url,
        secret=notify.secret or signatures.new_secret(),
        event_types=notify.event_types or ["job.*"],
        created_at=job.created_at,
        updated_at=job.created_at,
    )
