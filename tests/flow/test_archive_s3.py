"""The archive in S3: a real server takes what relay writes, and Amazon's own SDK reads it back."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from relay.archive.copier import TURN_PAUSE_MS
from relay.model.archive import CopyErrorCode
from relay.outbound.file_upload import FileClient
from relay.outbound.object_store import WHOLE_MAX_BYTES, BucketFailed, ObjectStore, Target
from relay.outbound.trust import tls_context
from relay.security.url_policy import AddressPolicy
from tests.flow.test_archive import Archiving, archiving
from tests.support import s3
from tests.support.browsing import browser
from tests.support.results import CLIP, Results, chunked, whole

pytestmark = pytest.mark.anyio

VIDEO = CLIP + bytes(range(256)) * 40_000
FEW_PAUSES = "100000000"
"""Bytes a second with which a copy of VIDEO pauses 25 times, and not 426 times: a test lets each pass by itself."""
"""Ten million bytes: more than are written whole."""
PREFIX = f"s3://{s3.BUCKET}/some/prefix"


@pytest.fixture
def store(server: s3.S3, monkeypatch: pytest.MonkeyPatch) -> s3.S3:
    """Return the server with an empty bucket, named by the environment."""
    server.empty()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
async def files() -> AsyncIterator[FileClient]:
    """Yield what streams to signed URLs."""
    async with FileClient(AddressPolicy((), allow_http=False)) as client:
        yield client


async def in_pieces(body: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    """Yield a body piece by piece."""
    for at in range(0, len(body), size):
        yield body[at : at + size]


@pytest.mark.parametrize("answer", [whole, chunked])
@pytest.mark.parametrize("body", [CLIP, VIDEO], ids=["small", "large"])
@pytest.mark.both_databases
async def test_the_sdk_reads_what_was_copied(store: s3.S3, tmp_path: Path, body: bytes, answer: object) -> None:
    """Write a result, small or large, of a known length or not, so that the SDK reads the same, and link to it."""
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX, RELAY_ARCHIVE_BYTES_PER_S=FEW_PAUSES) as archive:
        archive.results.answer = answer(body)  # type: ignore[operator]
        job = await archive.succeeded()
        shown = (await archived(archive, job["id"]))["outputs"][0]["archive"]
        (key,) = store.keys()
        assert key == f"some/prefix/{shown['key']}"
        assert (store.body(key), store.content_type(key)) == (body, "video/mp4")
        assert (shown["sha256"], shown["bytes"]) == (hashlib.sha256(store.body(key)).hexdigest(), len(body))
        assert store.uploads() == []
        answered = await archive.client.get(f"/v1/jobs/{job['id']}/outputs/0")
        assert answered.status_code == 302
        async with httpx.AsyncClient(verify=tls_context(), trust_env=False) as anyone:
            assert (await anyone.get(answered.headers["location"])).content == body


@pytest.mark.both_databases
async def test_a_signed_in_page_leads_to_the_copy(store: s3.S3, tmp_path: Path) -> None:
    """Redirect the browser of a session to a fresh link, without an API key; that of another project gets 404."""
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX) as archive:
        job = await archive.succeeded()
        await archived(archive, job["id"])
        path = f"/jobs/{job['id']}/outputs/0"
        async with browser(archive.running) as reader:
            answered = await reader.client.get(path)
            assert (answered.status_code, answered.headers["cache-control"]) == (302, "no-store")
        async with httpx.AsyncClient(verify=tls_context(), trust_env=False) as anyone:
            assert (await anyone.get(answered.headers["location"])).content == store.body(store.keys()[0])
        key = await archive.running.app.store.access.create_api_key("films", "", ("admin",), 1)
        async with browser(archive.running, key.text) as stranger:
            assert (await stranger.client.get(path)).status_code == 404


async def archived(archive: Archiving, job_id: str) -> dict[str, Any]:
    """Return the job once its copy has ended; obstore works in threads of its own, which no held clock knows."""
    async with asyncio.timeout(60):
        while (job := await archive.running.get(f"/v1/jobs/{job_id}"))["outputs"][0]["archive"]["state"] == "pending":
            for _ in range(20):  # a large copy pauses often
                await archive.advance(TURN_PAUSE_MS / 1000)
    return job


@pytest.mark.parametrize("size", [1, WHOLE_MAX_BYTES, WHOLE_MAX_BYTES + 1])
@pytest.mark.parametrize("known", [True, False])
async def test_an_object_is_written_by_one_put(store: s3.S3, files: FileClient, size: int, known: bool) -> None:
    """Write what is in memory whole, and stream the rest, both without an upload in parts."""
    bucket, body = ObjectStore(PREFIX, files), (b"0123456789abcdef" * (size // 16 + 1))[:size]
    await bucket.write(Target("a.mp4", "video/mp4", size if known else None), in_pieces(body))
    assert store.body("some/prefix/a.mp4") == body
    assert await bucket.size("a.mp4") == size
    assert b"".join([piece async for piece in bucket.read("a.mp4")]) == body
    await bucket.delete("a.mp4")
    await bucket.delete("a.mp4")
    assert (store.keys(), await bucket.size("a.mp4"), store.uploads()) == ([], None, [])


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("after", [1, WHOLE_MAX_BYTES * 2])
async def test_a_body_that_breaks_off_leaves_nothing(store: s3.S3, files: FileClient, after: int, known: bool) -> None:
    """Raise what the pieces raise, and leave no object and no upload."""

    async def broken() -> AsyncIterator[bytes]:
        async for piece in in_pieces(bytes(after)):
            yield piece
        raise EOFError

    size = WHOLE_MAX_BYTES * 3 if known else None
    with pytest.raises(EOFError):
        await ObjectStore(PREFIX, files).write(Target("a.mp4", "video/mp4", size), broken())
    assert (store.keys(), store.uploads()) == ([], [])


@pytest.mark.parametrize("size", [100, WHOLE_MAX_BYTES + 1])
async def test_a_bucket_that_is_not_there_refuses(store: s3.S3, files: FileClient, size: int) -> None:
    """Say that there is no such bucket."""
    with pytest.raises(BucketFailed) as failed:
        await ObjectStore("s3://another", files).write(Target("a", "video/mp4", size), in_pieces(bytes(size)))
    assert failed.value.code is CopyErrorCode.STORE_REFUSED


@pytest.mark.parametrize("size", [100, WHOLE_MAX_BYTES + 1])
async def test_a_bucket_that_does_not_answer_is_unavailable(
    store: s3.S3, files: FileClient, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Say that the bucket does not answer, without its URL, which is signed."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BucketFailed) as failed:
        await ObjectStore(PREFIX, files).write(Target("a", "video/mp4", size), in_pieces(bytes(size)))
    assert failed.value.code is CopyErrorCode.STORE_UNAVAILABLE
    assert "127.0.0.1" not in str(failed.value)


async def test_revoked_credentials_are_refused(
    store: s3.S3, files: FileClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Say that the bucket refuses relay."""
    async with Results().served() as refusing:
        refusing.answer = whole(b"<Error><Code>InvalidAccessKeyId</Code></Error>", "403 Forbidden")
        monkeypatch.setenv("AWS_ENDPOINT_URL", refusing.origin)
        with pytest.raises(BucketFailed) as failed:
            await ObjectStore(PREFIX, files).write(Target("a", "video/mp4", 9), in_pieces(bytes(9)))
    assert failed.value.code is CopyErrorCode.STORE_REFUSED
