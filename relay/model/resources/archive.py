"""The archive of a project: where results are copied, which, and how many are."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from relay.model.archive import ArchiveMode


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


class BackfillResource(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the jobs that were searched for results without a copy."""

    object: Literal["archive_backfill"] = "archive_backfill"
    examined: Annotated[int, Meta(description="Jobs that have succeeded.")]
    ordered: Annotated[int, Meta(description="Results that are to be copied now, or with `dry_run` would be.")]
    next_cursor: Annotated[str | None, Meta(description="Where the next part begins; null if this was the last.")]
