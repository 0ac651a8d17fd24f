"""Every way relay says no.

RelayError
├── InvalidInput              422  a field is wrong; names every one of them
│   └── CallbackFieldReserved 422  the native request carries its own callback URL
├── ProviderNotConfigured     422  unknown provider, or a setting of it is missing
├── BadBody                   400  not JSON, too deep, duplicate keys, lone surrogates
├── BodyTooLarge              413
├── BodyTooSlow               408  (web/request_body.py)
├── UnsupportedMedia          415  (web/api/files.py)
├── Unauthorized              401
├── Forbidden                 403  the key lacks the scope
├── NotFound                  404
├── Conflict                  409
│   ├── IdempotencyConflict   409  the same key with another body
│   └── PaidOnce              409  what was paid for, or may have been, is not bought again under the same name
├── UploadFailed              502  the provider did not take a file (uploads/file_uploads.py)
├── SpendCapReached           402  the job would cost more than the operator allows
├── PaymentRefused            402  what the provider asks for is against the rules of paying
├── TooManyRequests           429  more at the same time than one project, key or job may have
├── StorageUnavailable        503  nothing was written; try again
├── SignatureInvalid          –    a notification that is not genuine (security/signatures.py)
├── KeyUnknown                503  a callback signed by a key that is not known now (web/callback_route.py)
├── DecryptionFailed                409  a stored secret opens with none of the keys (security/encryption.py)
├── Unreadable                –    a callback's body that no published version explains (kept, and answered 200)
│   └── JobUnknown            –    a provider says that it has no such job
└── SettingsError             –    a setting is missing or wrong; the process does not start (exit 78)
"""

from collections.abc import Sequence
from enum import StrEnum, auto
from itertools import islice
from typing import Final

import msgspec

ERRORS_MAX: Final = 50
"""Wrong fields that an answer names; nobody reads more, and a hostile body must not make a long answer."""
PATH_MAX_CHARS: Final = 200
MESSAGE_MAX_CHARS: Final = 500
DETAIL_ERRORS_MAX: Final = 10
DETAIL_MAX_CHARS: Final = 2_000


class FieldError(msgspec.Struct, frozen=True):
    """One wrong field: where (`input.images[0]`) and what it must be."""

    path: str
    message: str


def bounded(errors: Sequence[FieldError]) -> list[FieldError]:
    """Return the first 50 of the errors, each short enough to be shown."""
    return [
        error
        if len(error.path) <= PATH_MAX_CHARS and len(error.message) <= MESSAGE_MAX_CHARS
        else FieldError(_short(error.path, PATH_MAX_CHARS), _short(error.message, MESSAGE_MAX_CHARS))
        for error in islice(errors, ERRORS_MAX)
    ]


def in_words(errors: Sequence[FieldError]) -> str:
    """Return a sentence that names up to ten errors, and says how many more there are."""
    named = [f"{e.path}: {e.message}" if e.path else e.message for e in bounded(errors[:DETAIL_ERRORS_MAX])]
    text, shown = named[0] if named else "", 1
    for one in named[1:]:
        if len(text) + len(one) > DETAIL_MAX_CHARS:
            break
        text, shown = f"{text}; {one}", shown + 1
    return text if shown >= len(errors) else f"{text}; and {len(errors) - shown} more, see errors"


def _short(text: str, most: int) -> str:
    """The text, cut where it is too long."""
    return text if len(text) <= most else text[: most - 1] + "…"


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
    BACKLOG_MAX = auto()


class RelayError(Exception):
    """The root; `code` is the word a program can act on, the text is for a person.

    `bound` is the limit that was reached, where a setting says how much there may be.
    """

    code = "error"

    def __init__(self, text: str = "", *, bound: Bound | None = None) -> None:
        super().__init__(text)
        self.bound = bound


class InvalidInput(RelayError):
    """One or more fields are wrong."""

    code = "invalid_input"

    def __init__(self, errors: list[FieldError], detail: str | None = None, *, bound: Bound | None = None) -> None:
        super().__init__(detail or in_words(errors), bound=bound)
        self.errors = bounded(errors)


class CallbackFieldReserved(InvalidInput):
    """relay puts its own one-job callback URL there."""

    code = "callback_field_reserved"


class ProviderNotConfigured(RelayError):
    """The text names the setting that is missing."""

    code = "provider_not_configured"


class BadBody(RelayError):
    """The body is not JSON that every reader would read the same way."""

    code = "bad_body"


class BodyTooLarge(RelayError):
    """The body is over its limit."""

    code = "body_too_large"


class Unauthorized(RelayError):
    """No API key, or not a good one."""

    code = "unauthorized"


class Forbidden(RelayError):
    """The API key lacks the scope."""

    code = "forbidden"


class NotFound(RelayError):
    """There is no such thing, or it is another project's."""

    code = "not_found"


class Conflict(RelayError):
    """What is asked does not fit the present state."""

    code = "conflict"


class IdempotencyConflict(Conflict):
    """The Idempotency-Key was used for another request."""

    code = "idempotency_conflict"


class ReservationLost(Conflict):
    """Another request holds the Idempotency-Key by now: what was done under it is undone."""


class PaidOnce(Conflict):
    """It was paid for, or may have been, and one thing gets one payment; the text says what to do instead."""

    code = "paid_once"


class SpendCapReached(RelayError):
    """The job would cost more than the operator allows for a job, or for the day."""

    code = "spend_cap_reached"


class PaymentRefused(RelayError):
    """What the provider asks for is not what relay pays: another chain, asset, payee, scheme."""

    code = "payment_refused"


class TooManyRequests(RelayError):
    """One project, key or job asks for more than its share; `retry_after_s` says when to ask again."""

    code = "too_many_requests"

    def __init__(self, text: str, retry_after_s: int = 1, *, bound: Bound | None = None) -> None:
        super().__init__(text, bound=bound)
        self.retry_after_s = retry_after_s


class StorageUnavailable(RelayError):
    """The database did not take it; nothing was written."""

    code = "storage_unavailable"


class KeyUnknown(RelayError):
    """A signature cannot be judged: its key is not known, and where the provider publishes them cannot be read."""

    code = "key_unknown"


class Unreadable(RelayError):
    """A provider's body that no published version explains."""

    code = "unreadable"


class JobUnknown(Unreadable):
    """A provider says that it has no such job: lost there, or not known to the replica that was asked yet."""

    code = "job_unknown"


class SettingsError(RelayError):
    """A setting is missing or wrong."""

    code = "settings"
