"""Opens the archive: the bucket of the setting, what copies into it, and the projects' modes."""

import asyncio
from typing import Final

import msgspec

from relay.archive.archiver import Archiver
from relay.archive.buckets import Buckets
from relay.archive.copier import Copier, CopyLimits
from relay.archive.modes import Modes
from relay.context import FlowContext
from relay.jobs.status_checks import Checker
from relay.model.archive import ArchiveMode
from relay.outbound.download import Downloader
from relay.outbound.file_upload import FileClient

TYPES: Final = ("video/*", "image/*", "audio/*")


class Archive(msgspec.Struct, frozen=True):
    """The open archive; `archiver` runs in the process that dispatches."""

    buckets: Buckets
    modes: Modes
    archiver: Archiver


def opened_archive(
    context: FlowContext, checker: Checker, downloader: Downloader, files: FileClient, ordered: asyncio.Event
) -> Archive | None:
    """Return the archive of the settings, None without one; `ordered` is set when copies are ordered."""
    settings = context.settings
    if settings.archive_url is None:
        return None
    buckets = Buckets(settings.archive_url, files)
    limits = CopyLimits(
        settings.archive_key,
        settings.archive_types or TYPES,
        settings.archive_max_bytes,
        settings.archive_timeout_s,
        settings.archive_bytes_per_s,
    )
    archiver = Archiver(context, checker, Copier(downloader, buckets.own, limits, context.clock), buckets, ordered)
    return Archive(buckets, Modes(context.store.copies, context.clock, ArchiveMode(settings.archive)), archiver)
