"""The buckets: the one that is configured, and those that were before, in which earlier copies lie."""

from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from relay import log
from relay.archive.folder import Folder
from relay.errors import SettingsError
from relay.model.archive import CopyErrorCode
from relay.outbound.file_upload import FileClient
from relay.outbound.object_store import Bucket, BucketFailed, ObjectStore

FOLDER_SCHEME: Final = "file"
FORMER_MAX: Final = 16
"""So many buckets that were configured before are held open."""
_logger = log.get("archive")


class Buckets:
    """`own` is that of `url`, in which copies are written; the others are named by the URL that they had."""

    def __init__(self, url: str, files: FileClient) -> None:
        """Open the bucket of a URL; raise SettingsError for what cannot be one. Nothing is sent yet."""
        self.own: Bucket = opened_bucket(url, files)
        self._files = files
        self._former: dict[str, Bucket] = {}

    def of(self, url: str) -> Bucket:
        """Return the bucket in which an object lies, by what its copy names; raise BucketFailed if it cannot be opened.

        The reason names no bucket: a client may see it that may not see where copies are.
        """
        if url in ("", self.own.shown):
            return self.own
        if url not in self._former:
            try:
                bucket = opened_bucket(url, self._files)
            except SettingsError as error:
                _logger.error("archive.bucket_not_opened", bucket=url, reason=str(error))
                reason = "its bucket, which RELAY_ARCHIVE_URL named before, cannot be opened"
                raise BucketFailed(CopyErrorCode.STORE_REFUSED, reason) from None
            if len(self._former) >= FORMER_MAX:
                self._former.pop(next(iter(self._former)))
            self._former[url] = bucket
        return self._former[url]


def opened_bucket(url: str, files: FileClient) -> Bucket:
    """Return the bucket of a URL; SettingsError for what cannot be one. Nothing is sent yet."""
    parts = urlsplit(url)
    return Folder(Path(unquote(parts.path))) if parts.scheme == FOLDER_SCHEME else ObjectStore(url, files)
