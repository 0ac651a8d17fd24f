"""Defines relay's errors: each has a `code` for programs, and `web/problems.py` maps it to a status.

RelayError
├── InvalidInput              422  one or more fields are wrong; names every one
│   └── CallbackFieldReserved 422  the native request has its own callback URL
├── ProviderNotConfigured     422  unknown provider, or one of its settings is missing
├── BadBody                   400  not JSON, too deep, duplicate keys, lone surrogates
├── BodyTooLarge              413
├── BodyTooSlow               408  (web/request_body.py)
├── UnsupportedMedia          415  (web/api/files.py)
├── Unauthorized              401
├── Forbidden                 403  the key lacks the scope
├── NotFound                  404
├── Conflict                  409
│   ├── IdempotencyConflict   409  the same key with another body
│   └── PaidOnce              409  it was paid, or may have been, and is not paid again under the same id
├── UploadFailed              502  the provider did not accept a file (providers/uploads.py)
├── SpendCapReached           402  the job would cost more than the operator allows
├── PaymentRefused            402  the payment policy refuses the provider's offer
├── RangeNotSatisfiable       416  no such part of a file
├── TooManyRequests           429  one project, key or job is at its limit
├── StorageUnavailable        503  the database or a limit refused it; nothing was written
├── SignatureInvalid          –    a signature is missing, wrong or too old (security/signatures.py)
├── KeyUnknown                503  a callback is signed by a key that is not known yet (outbound/jwks.py)
├── DecryptionFailed          409  none of the keys decrypts a stored secret (security/encryption.py)
├── Unreadable                –    a provider's body that matches no published version
│   └── JobUnknown            –    the provider has no such job
└── SettingsError             –    a setting is missing or wrong; the process does not start (exit 78)
"""

from collections.abc import Sequence
from enum import StrEnum, auto
from itertools import islice
from typing import Final

import msgspec

ERRORS_MAX: Final = 50
"""Limit of the errors in a response, so that a hostile body does not cause a long one."""
PATH_MAX_CHARS: Final = 200
MESSAGE_MAX_CHARS: Final = 700
DETAIL_ERRORS_MAX: Final = 10
DETAIL_MAX_CHARS: Final = 2_000


class FieldError(msgspec.Struct, frozen=True):
    """One wrong field: its path (`input.images[0]`) and what it must be."""

    path: str
    message: str


def bounded(errors: Sequence[FieldError]) -> list[FieldError]:
    """Return the first ERRORS_MAX errors, each cut to its limits."""
    return [
        error
        if len(error.path) <= PATH_MAX_CHARS and len(error.message) <= MESSAGE_MAX_CHARS
        else FieldError(_cut(error.path, PATH_MAX_CHARS), _cut(error.message, MESSAGE_MAX_CHARS))
        for error in islice(errors, ERRORS_MAX)
    ]


def summary(errors: Sequence[FieldError]) -> str:
    """Return a sentence with up to DETAIL_ERRORS_MAX errors and the number of the others."""
    named = [f"{e.path}: {e.message}" if e.path else e.message for e in bounded(errors[:DETAIL_ERRORS_MAX])]
    text, shown = named[0] if named else "", 1
    for more in named[1:]:
        if len(text) + len(more) > DETAIL_MAX_CHARS:
            break
        text, shown = f"{text}; {more}", shown + 1
    return text if shown >= len(errors) else f"{text}; and {len(errors) - shown} more, see errors"


def _cut(text: str, length_max: int) -> str:
    """Return the text, cut if it is longer than `length_max`."""
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


class Bound(StrEnum):
    """A limit whose refusals are counted in `relay_refused`, by the name of its setting without `RELAY_`."""

    REQUEST_BODY_MAX_BYTES = auto()
    CALLBACK_BODY_MAX_BYTES = auto()
    BODIES_MAX_BYTES = auto()
    BODIES_PER_OWNER_MAX_BYTES = auto()
    BODY_DEADLINE_S = auto()
    UPLOAD_MAX_BYTES = auto()
    UPLOAD_MIN_BYTES_PER_S = auto()
    UPLOADS_MAX = auto()
    UPLOADS_PER_PROJECT_MAX = auto()
    STREAMS_MAX = auto()
    STREAMS_PER_PROJECT_MAX = auto()
    ENDPOINTS_PER_PROJECT_MAX = auto()
    NOTIFY_MAX = auto()
    CALLBACKS_PER_JOB_MAX = auto()
    CALLBACK_BYTES_PER_JOB_MAX = auto()
    DOUBTS_FREE = auto()
    CHECKS_ASKED_PER_JOB = auto()
    CHECKS_ASKED_PER_PROJECT = auto()
    SPEND_MAX_PER_JOB = auto()
    SPEND_MAX_PER_DAY = auto()
    PROJECT_SPEND_MAX_PER_DAY = auto()
    SPEND_MAX_PER_HOUR = auto()
    PROJECT_SPEND_MAX_PER_HOUR = auto()
    BACKLOG_MAX = auto()
    RATE_PER_KEY = auto()
    RATE_PER_ADDRESS = auto()


class RelayError(Exception):
    """The base class: programs act on `code`, the text is for people; `bound` is the limit that was reached."""

    code = "error"

    def __init__(self, text: str = "", *, bound: Bound | None = None) -> None:
        super().__init__(text)
        self.bound = bound


class InvalidInput(RelayError):
    """One or more fields are wrong."""

    code = "invalid_input"

    def __init__(self, errors: list[FieldError], detail: str | None = None, *, bound: Bound | None = None) -> None:
        super().__init__(detail or summary(errors), bound=bound)
        self.errors = bounded(errors)


class CallbackFieldReserved(InvalidInput):
    """The native request has a field for a callback URL, which relay sets itself."""

    code = "callback_field_reserved"


class ProviderNotConfigured(RelayError):
    """The provider is unknown, or not configured; the text names the missing setting."""

    code = "provider_not_configured"


class BadBody(RelayError):
    """The body is not JSON that every parser reads the same way."""

    code = "bad_body"


class BodyTooLarge(RelayError):
    """The body is over its limit."""

    code = "body_too_large"


class Unauthorized(RelayError):
    """There is no API key, or it is not valid."""

    code = "unauthorized"


class Forbidden(RelayError):
    """The API key lacks the scope."""

    code = "forbidden"


class NotFound(RelayError):
    """There is no such object, or it belongs to another project."""

    code = "not_found"


class Conflict(RelayError):
    """The request does not fit the object's current state."""

    code = "conflict"


class IdempotencyConflict(Conflict):
    """The Idempotency-Key was used for another request."""

    code = "idempotency_conflict"


class ReservationLost(Conflict):
    """Another request reserved the Idempotency-Key meanwhile: this request's changes are rolled back."""


class PaidOnce(Conflict):
    """It was paid, or may have been, and nothing is paid twice; the text says what to do instead."""

    code = "paid_once"


class SpendCapReached(RelayError):
    """The job would cost more than the operator allows for a job, or for the day."""

    code = "spend_cap_reached"


class PaymentRefused(RelayError):
    """The payment policy refuses the provider's offer, for example by its chain, asset, payee or amount."""

    code = "payment_refused"


class RangeNotSatisfiable(RelayError):
    """A request asks for a part of a file that there is not; `size` is the file's length in bytes."""

    code = "range_not_satisfiable"

    def __init__(self, text: str, size: int) -> None:
        super().__init__(text)
        self.size = size


class TooManyRequests(RelayError):
    """A project, key or job is at its limit; the client may retry after `retry_after_s`."""

    code = "too_many_requests"

    def __init__(self, text: str, retry_after_s: int = 1, *, bound: Bound | None = None) -> None:
        super().__init__(text, bound=bound)
        self.retry_after_s = retry_after_s


class StorageUnavailable(RelayError):
    """The database is not available, or relay is at a limit; nothing was written."""

    code = "storage_unavailable"


class KeyUnknown(RelayError):
    """A signature cannot be verified now: its key is not known, and the provider's keys cannot be read."""

    code = "key_unknown"


class Unreadable(RelayError):
    """A provider's body matches no published version."""

    code = "unreadable"


class JobUnknown(Unreadable):
    """The provider has no such job: it lost the job, or the replica that answered does not have it yet."""

    code = "job_unknown"


class SettingsError(RelayError):
    """A setting is missing or wrong; `problems` are the sentences of its text, one for each wrong setting."""

    code = "settings"

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
