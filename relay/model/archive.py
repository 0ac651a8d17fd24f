"""The nouns of the archive: copies of results in the operator's own bucket; no behaviour, no I/O."""

from enum import StrEnum

import msgspec


class ArchiveMode(StrEnum):
    """Whether a job's results are copied, and whether the event of its end waits for that."""

    OFF = "off"
    AFTER = "after"
    BEFORE_NOTIFY = "before_notify"


class CopyState(StrEnum):
    """The state of a copy; `deleted` is one that was archived, and is past its retention."""

    PENDING = "pending"
    ARCHIVED = "archived"
    FAILED = "failed"
    DELETED = "deleted"


class CopyErrorCode(StrEnum):
    """Why a result was not copied, or not yet."""

    GONE = "gone"
    """The provider no longer has it, and signs no other URL."""
    ADDRESS_REFUSED = "address_refused"
    """Its URL, or one that it redirects to, leads to an address that relay may not call."""
    TOO_LARGE = "too_large"
    WRONG_TYPE = "wrong_type"
    UNREACHABLE = "unreachable"
    """No connection, a cut body, or an answer that is none: what may be well at the next try."""
    TOO_SLOW = "too_slow"
    KEY_REFUSED = "key_refused"
    """The download needs the provider's API key, which is not set or was refused."""
    STORE_UNAVAILABLE = "store_unavailable"
    STORE_REFUSED = "store_refused"
    """The bucket refuses relay's credentials, or does not exist."""
    WITHDRAWN = "withdrawn"
    """The job has no such result any more."""


class OutputArchive(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of one result; `url` answers with a fresh link to it, for a client with an API key."""

    state: CopyState
    url: str | None = None
    key: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    archived_at: str | None = None
    error: CopyErrorCode | None = None


class CopyEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a copy ended: its row, and what its output shows from then on.

    `leased_until` is the lease that it was made under, which shows whether it is another process's by now; None for a
    copy that has not ended. `bucket` is where `key` is.
    `held_until` is when the event of the job's end is sent without it, in unix milliseconds; None where it does not
    wait. `supersedes` is the final event that the job had when that began to wait.
    """

    copy_id: str
    number: int
    state: CopyState
    leased_until: int | None = None
    bucket: str = ""
    key: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    content_type: str | None = None
    error_code: CopyErrorCode | None = None
    error: str | None = None
    held_until: int | None = None
    supersedes: str | None = None
