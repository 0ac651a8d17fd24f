"""Opens the archive: the bucket of the setting, what copies into it, and the projects' modes."""

import asyncio
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from relay.archive.archiver import Archiver
from relay.archive.copier import Copier, CopyLimits
from relay.archive.folder import Folder
from relay.archive.modes import Modes
from relay.context import FlowContext
from relay.jobs.status_checks import Checker
from relay.model.archive import ArchiveMode
from relay.outbound.download import Downloader
from relay.outbound.file_upload import FileClient
from relay.outbound.object_store import Bucket, ObjectStore

FOLDER_SCHEME: Final = "file"
TYPES: Final = ("video/*", "image/*", "audio/*")


class Archive(msgspec.Struct, frozen=True):
    """The open archive; `archiver` runs in the process that dispatches."""

    bucket: Bucket
    modes: Modes
    archiver: Archiver


def opened_bucket(url: str, files: FileClient) -> Bucket:
    """Return the bucket of a URL; SettingsError for what cannot be one. Nothing is sent yet."""
    parts = urlsplit(url)
    return Folder(Path(unquote(parts.path))) if parts.scheme == FOLDER_SCHEME else ObjectStore(url, files)


def opened_archive(
    context: FlowContext, checker: Checker, downloader: Downloader, files: FileClient, ordered: asyncio.Event
) -> Archive | None:
    """Return the archive of the settings, None without one; `ordered` is set when copies are ordered."""
    settings = context.settings
    if settings.archive_url is None:
        return None
    bucket = opened_bucket(settings.archive_url, files)
    limits = CopyLimits(
        settings.archive_key, settings.archive_types or TYPES, settings.archive_max_bytes, settings.archive_timeout_s
    )
    archiver = Archiver(context, checker, Copier(downloader, bucket, limits), bucket, ordered)
    return Archive(bucket, Modes(context.store.copies, context.clock, ArchiveMode(settings.archive)), archiver)
