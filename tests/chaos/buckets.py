"""The bucket of one run: a folder, or a real S3 server behind a link; and what is in it at the end, read past relay."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from tests.chaos.manifest import StoredObject
from tests.support import s3

PREFIX = "kept/"


class Contents(msgspec.Struct):
    """What a bucket holds: its objects by their keys without the prefix, and what is left of unfinished writes."""

    objects: dict[str, StoredObject]
    unfinished: list[str]


class RunBucket(Protocol):
    """What a run needs of its bucket; `port` is None where nothing is behind a link."""

    port: int | None

    def environ(self, port: int) -> dict[str, str]:
        """Return the variables by which relay finds it, through a port."""

    def contents(self) -> Contents:
        """Return what is in it."""


class FolderBucket:
    """A folder; the faults of the file system are those of the database's too."""

    port: int | None = None

    def __init__(self, path: Path) -> None:
        self._path = path

    def environ(self, port: int) -> dict[str, str]:  # noqa: ARG002 - as every bucket
        """Return the variables by which relay finds it."""
        return {"RELAY_ARCHIVE_URL": self._path.as_uri()}

    def contents(self) -> Contents:
        """Return its files; what is being written has a name that begins with a dot."""
        files = {file.relative_to(self._path).as_posix(): file for file in self._path.rglob("*") if file.is_file()}
        whole = {key: stored(file.read_bytes()) for key, file in files.items() if file.name[0] != "."}
        return Contents(whole, [key for key in files if key not in whole])


class S3Bucket:
    """The bucket of a real S3 server."""

    def __init__(self, server: s3.S3) -> None:
        self._server = server
        self.port: int | None = int(server.endpoint.rpartition(":")[2])
        server.empty()

    def environ(self, port: int) -> dict[str, str]:
        """Return the variables by which relay finds it, behind a link."""
        endpoint = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        return self._server.environment | endpoint | {"RELAY_ARCHIVE_URL": f"s3://{s3.BUCKET}/{PREFIX}"}

    def contents(self) -> Contents:
        """Return its objects as Amazon's SDK reads them."""
        keys = self._server.keys()
        objects = {key.removeprefix(PREFIX): stored(self._server.body(key)) for key in keys}
        return Contents(objects, [str(one["Key"]) for one in self._server.uploads()])


def stored(body: bytes) -> StoredObject:
    """Return an object of these bytes."""
    return StoredObject(hashlib.sha256(body).hexdigest(), len(body))


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[RunBucket]:
    """Yield a bucket of a kind: `s3`, or a folder."""
    if kind != "s3":
        yield FolderBucket(folder / "bucket")
        return
    with s3.server() as server:
        yield S3Bucket(server)
