"""The archive of a project: where results are copied, which, and how many are."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.model.archive import ArchiveMode, CopyErrorCode, CopyState
from relay.model.resources.times import Time


class CopyCountResource(msgspec.Struct, frozen=True, kw_only=True):
    """A number of copies, and their bytes together."""

    number: int
    bytes: int


class CopyCountsResource(msgspec.Struct, frozen=True, kw_only=True):
    """The copies of a project by their state."""

    pending: CopyCountResource
    archived: CopyCountResource
    failed: CopyCountResource
    deleted: CopyCountResource


class ArchiveResource(msgspec.Struct, frozen=True, kw_only=True):
    """Where and whether the results of a project are copied."""

    object: Literal["archive"] = "archive"
    project: str
    configured: Annotated[bool, Meta(description="Whether this relay has an archive (RELAY_ARCHIVE_URL).")]
    bucket: Annotated[str | None, Meta(description="Where it is; shown to an admin key.")]
    mode: Annotated[ArchiveMode, Meta(description="Of a job that names none.")]
    own_mode: Annotated[ArchiveMode | None, Meta(description="The project's own; null if that of the setting counts.")]
    copies: CopyCountsResource


class CopyResource(msgspec.Struct, frozen=True, kw_only=True):
    """The copy of a result: where it is, or why it is not there yet."""

    object: Literal["copy"] = "copy"
    number: Annotated[int, Meta(description="The place of its result in `outputs`, counted from 0.")]
    kind: str
    state: CopyState
    url: Annotated[str | None, Meta(description="Answers with the result, for a client with an API key.")]
    key: Annotated[str | None, Meta(description="Within the bucket; null until it is there.")]
    content_type: str | None
    bytes: int | None
    sha256: str | None
    tries: Annotated[int, Meta(description="Those that ended; without those that failed because of the bucket.")]
    error: Annotated[CopyErrorCode | None, Meta(description="Why the last try failed.")]
    error_detail: str | None
    copying: Annotated[bool, Meta(description="Whether a try is under way.")]
    next_try_at: Annotated[Time | None, Meta(description="null while a try is under way, and once it has ended.")]
    expires_at: Annotated[Time | None, Meta(description="When the result expires at its provider.")]
    created_at: Time
    finished_at: Time | None


class BackfillResource(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the jobs that were searched for results without a copy."""

    object: Literal["archive_backfill"] = "archive_backfill"
    examined: Annotated[int, Meta(description="Jobs that have succeeded.")]
    ordered: Annotated[int, Meta(description="Results that are to be copied now, or with `dry_run` would be.")]
    next_cursor: Annotated[str | None, Meta(description="Where the next part begins; null if this was the last.")]
