"""A bucket that refuses relay: each answer of S3 has its reason, no copy is lost, a repaired credential heals all."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.archive.archiver import LEFT_PAUSE_MS, STORE_PAUSES_S
from relay.model.archive import CopyErrorCode
from relay.outbound.file_upload import FileClient
from relay.outbound.object_store import (
    PIECE_BYTES,
    RANGE_BYTES,
    WHOLE_MAX_BYTES,
    BucketFailed,
    ObjectFailed,
    ObjectStore,
    Target,
)
from relay.security.url_policy import AddressPolicy
from tests.flow.test_archive import Archiving, archiving
from tests.flow.test_archive_s3 import FEW_PAUSES, PREFIX, VIDEO, in_pieces
from tests.support import s3
from tests.support.quiescence import quiet
from tests.support.results import Answer, chunked, whole

pytestmark = pytest.mark.anyio

REFUSED, UNAVAILABLE = CopyErrorCode.STORE_REFUSED, CopyErrorCode.STORE_UNAVAILABLE
TOO_LARGE = CopyErrorCode.TOO_LARGE
SMALL, LARGE = 100, WHOLE_MAX_BYTES + 1
ANSWERS = [
    ("403 Forbidden", "AccessDenied", REFUSED, "does not allow relay's credentials"),
    ("403 Forbidden", "InvalidAccessKeyId", REFUSED, "does not know relay's access key"),
    ("403 Forbidden", "SignatureDoesNotMatch", REFUSED, "refuses relay's secret key"),
    ("403 Forbidden", "RequestTimeTooSkewed", REFUSED, "clock differs"),
    ("403 Forbidden", "AnyOther", REFUSED, "AnyOther, HTTP 403"),
    ("401 Unauthorized", "AuthenticationFailed", REFUSED, "refuses relay's key"),
    ("400 Bad Request", "ExpiredToken", REFUSED, "have expired"),
    ("400 Bad Request", "InvalidToken", REFUSED, "session token"),
    ("400 Bad Request", "TokenRefreshRequired", REFUSED, "have expired"),
    ("400 Bad Request", "AuthorizationHeaderMalformed", REFUSED, "another region"),
    ("301 Moved Permanently", "PermanentRedirect", REFUSED, "another region"),
    ("404 Not Found", "NoSuchBucket", REFUSED, "no such bucket"),
    ("404 Not Found", "", REFUSED, "no such bucket"),
    ("404 Not Found", "ContainerNotFound", REFUSED, "no such container"),
    ("400 Bad Request", "EntityTooLarge", TOO_LARGE, "EntityTooLarge, HTTP 400"),
    ("413 Content Too Large", "RequestBodyTooLarge", TOO_LARGE, "RequestBodyTooLarge, HTTP 413"),
    ("413 Content Too Large", "a proxy's page", TOO_LARGE, "(HTTP 413)"),
    ("409 Conflict", "OperationAborted", UNAVAILABLE, "OperationAborted, HTTP 409"),
    ("500 Internal Server Error", "InternalError", UNAVAILABLE, "HTTP 500"),
    ("503 Slow Down", "SlowDown", UNAVAILABLE, "HTTP 503"),
]


@pytest.fixture
async def store(gate: s3.Gate) -> AsyncIterator[ObjectStore]:
    """Yield the bucket behind the gate."""
    async with FileClient(AddressPolicy((), allow_http=False)) as files:
        yield ObjectStore(PREFIX, files)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("answer", ANSWERS, ids=[one[1] for one in ANSWERS])
async def test_each_answer_has_its_reason(
    gate: s3.Gate, store: ObjectStore, size: int, answer: tuple[str, str, CopyErrorCode, str]
) -> None:
    """Say what an operator has to mend: of a small object and, before all of it is sent, of one that is streamed."""
    status, name, code, reason = answer
    gate.answer = s3.refusal(status, name)
    with pytest.raises((ObjectFailed, BucketFailed)) as failed:
        await store.write(Target("a.mp4", "video/mp4", size), in_pieces(bytes(size)))
    error = failed.value
    assert isinstance(error, ObjectFailed if code is TOO_LARGE else BucketFailed)
    assert (error.code, reason in str(error)) == (code, True), str(error)
    assert gate.endpoint not in str(error)


async def test_a_stream_that_is_refused_ends_there(gate: s3.Gate, store: ObjectStore) -> None:
    """Read no more of a result once the bucket has refused it."""
    gate.answer, passed = s3.DENIED, 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal passed
        async for piece in in_pieces(bytes(32 << 20), 1 << 18):
            passed += 1
            yield piece
            await asyncio.sleep(0.002)  # as long as a result takes to come

    with pytest.raises(BucketFailed) as failed:
        await store.write(Target("a.mp4", "video/mp4", 32 << 20), counted())
    assert (failed.value.code, failed.value.status) == (REFUSED, 403)
    assert passed < 128


@pytest.mark.parametrize(
    ("key", "named", "code", "shown"),
    [
        ("some/prefix/a.mp4", "AccessDenied", REFUSED, "does not allow relay's credentials"),
        ("some/prefix/a.mp4", "InvalidObjectState", UNAVAILABLE, "does not delete it (InvalidObjectState)"),
        ("another", "AccessDenied", UNAVAILABLE, "does not answer"),
    ],
)
async def test_an_object_that_is_not_deleted_has_its_reason(
    gate: s3.Gate, store: ObjectStore, key: str, named: str, code: CopyErrorCode, shown: str
) -> None:
    """Say why one object is not deleted, which S3 answers by 200; an answer about another object is none."""
    gate.answer = s3.refused_deletion(key, named)
    with pytest.raises(BucketFailed) as failed:
        await store.delete("a.mp4")
    assert (failed.value.code, shown in str(failed.value)) == (code, True), str(failed.value)


@pytest.mark.parametrize(
    ("status", "code", "shown"),
    [
        ("403 Forbidden", None, ""),
        ("404 Not Found", None, ""),
        ("400 Bad Request", REFUSED, "HTTP 400"),
        ("401 Unauthorized", REFUSED, "HTTP 401"),
        ("301 Moved Permanently", REFUSED, "another region"),
        ("503 Slow Down", UNAVAILABLE, "HTTP 503"),
    ],
)
async def test_a_length_that_the_store_does_not_say(
    gate: s3.Gate, store: ObjectStore, status: str, code: CopyErrorCode | None, shown: str
) -> None:
    """Return no length for a missing object, which S3 answers 403 to credentials that may not list the bucket."""
    gate.answer = s3.refusal(status, "", body=False)
    if code is None:
        assert await store.size("a.mp4") is None
        return
    with pytest.raises(BucketFailed) as failed:
        await store.size("a.mp4")
    assert (failed.value.code, shown in str(failed.value)) == (code, True), str(failed.value)


async def test_a_result_that_finds_no_room_says_so(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Say that a result of unknown length found no room in a temporary file, which says nothing of the bucket."""
    monkeypatch.setattr(tempfile, "tempdir", "/proc/self/no-such-folder")
    with pytest.raises(ObjectFailed, match="temporary file") as failed:
        await store.write(Target("a.mp4", "video/mp4", None), in_pieces(bytes(LARGE)))
    assert failed.value.code is CopyErrorCode.UNREACHABLE


async def test_a_name_is_no_redirect(gate: s3.Gate) -> None:
    """Say that a bucket does not answer, whatever words its URL has."""
    gate.loses_answers = True
    async with FileClient(AddressPolicy((), allow_http=False)) as files:
        with pytest.raises(BucketFailed, match="does not answer") as failed:
            await ObjectStore(f"{PREFIX}/redirect", files).size("a.mp4")
    assert failed.value.code is UNAVAILABLE


@pytest.mark.parametrize(("size", "ranges"), [(RANGE_BYTES, 1), (2 * RANGE_BYTES, 2), (2 * RANGE_BYTES + 1, 3)])
async def test_a_large_object_is_read_range_by_range(
    gate: s3.Gate, server: s3.S3, store: ObjectStore, size: int, ranges: int
) -> None:
    """Read an object by requests of 4 MiB, each with its own time-out: a reader that takes its time gets all of it."""
    written = hashlib.shake_256(b"an object").digest(size)
    server.client.put_object(Bucket=s3.BUCKET, Key="some/prefix/large.mp4", Body=written)
    read = [piece async for piece in store.read("large.mp4")]
    assert b"".join(read) == written
    assert max(map(len, read)) == PIECE_BYTES
    ends = [*range(RANGE_BYTES, size, RANGE_BYTES), size]
    assert gate.ranges == [f"bytes={start}-{end - 1}" for start, end in zip([0, *ends], ends, strict=False)]
    assert len(ends) == ranges


async def test_without_credentials_it_says_so(
    gate: s3.Gate, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Say that there are no credentials, where the machine has none either."""
    gate.answer = s3.refusal("404 Not Found", "", body=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", gate.endpoint)
    async with FileClient(AddressPolicy((), allow_http=False)) as files:
        with pytest.raises(BucketFailed) as failed:
            await ObjectStore(PREFIX, files).write(Target("a", "video/mp4", 9), in_pieces(bytes(9)))
    assert (failed.value.code, "no credentials" in str(failed.value)) == (REFUSED, True), str(failed.value)


async def test_what_was_deleted_meanwhile_is_not_there(store: ObjectStore) -> None:
    """Raise FileNotFoundError for an object that is gone when it is read."""
    with pytest.raises(FileNotFoundError):
        await anext(aiter(store.read("a.mp4")))


async def failed(archive: Archiving, times: int, code: CopyErrorCode = UNAVAILABLE) -> None:
    """Return when so many tries have failed; obstore works in threads of its own, which no held clock knows."""
    wanted = f'\nrelay_archive_tries_total{{outcome="{code}",provider="evolink"}} {times}.0\n'
    async with asyncio.timeout(60):
        while wanted not in (await archive.client.get("/metrics")).text:  # noqa: ASYNC110 - it is behind HTTP
            await asyncio.sleep(0.01)
    await quiet()


@pytest.mark.both_databases
async def test_what_is_never_taken_holds_back_no_other(tmp_path: Path, server: s3.S3, gate: s3.Gate) -> None:
    """Let each copy have its turn while the bucket is tried again: one object that it never takes stops none."""
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX, RELAY_ARCHIVE_IN_FLIGHT_MAX="1") as archive:
        gate.answer = s3.refusal("500 Internal Server Error", "InternalError")
        never = await archive.succeeded()
        await failed(archive, 1)
        gate.answers_about = never["id"]
        others = [await archive.succeeded() for _ in range(2)]
        async with asyncio.timeout(120):
            while len(server.keys()) < len(others):
                await archive.advance(1)
                await asyncio.sleep(0.01)
        assert (await archive.job(never))["outputs"][0]["archive"]["state"] == "pending"
        gate.answer = None
        async with asyncio.timeout(120):
            while len(server.keys()) <= len(others):
                await archive.advance(1)
                await asyncio.sleep(0.01)


@pytest.mark.both_databases
async def test_what_is_too_large_for_the_bucket_ends(tmp_path: Path, server: s3.S3, gate: s3.Gate) -> None:
    """End the copy that a bucket, or a proxy before it, refuses for its size; the bucket does not count as failing."""
    gate.answer = s3.refusal("413 Content Too Large", "")
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX) as archive:
        job = await archive.succeeded()
        await failed(archive, 1, TOO_LARGE)
        copy = (await archive.job(job))["outputs"][0]["archive"]
        assert (copy["state"], copy["error"]) == ("failed", "too_large")
        assert "\nrelay_archive_failing 1.0\n" not in (await archive.client.get("/metrics")).text
        assert server.keys() == []


@pytest.mark.both_databases
async def test_repaired_credentials_heal_every_copy(tmp_path: Path, server: s3.S3, gate: s3.Gate) -> None:
    """Try one copy after each pause while the bucket refuses, use up no copy's tries, and make all once it does not."""
    gate.answer = s3.refusal("400 Bad Request", "ExpiredToken")
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX, RELAY_ARCHIVE_IN_FLIGHT_MAX="1") as archive:
        jobs = [await archive.succeeded() for _ in range(3)]
        for number, pause_s in enumerate((*STORE_PAUSES_S, STORE_PAUSES_S[-1]), 1):
            await failed(archive, number, REFUSED)
            await archive.advance(pause_s - 1)
            assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("copy ")]
            await failed(archive, number, REFUSED)
            await archive.advance(1)
        await failed(archive, number + 1, REFUSED)
        assert len(gate.refused) == number + 1
        assert "\nrelay_archive_failing 1.0\n" in (await archive.client.get("/metrics")).text
        gate.answer = None
        await archive.advance(STORE_PAUSES_S[-1])
        for job in jobs:
            shown = await archive.running.until(
                f"/v1/jobs/{job['id']}", lambda job: job["outputs"][0]["archive"]["state"] == "archived"
            )
            copy = shown["outputs"][0]["archive"]
            assert hashlib.sha256(server.body(f"some/prefix/{copy['key']}")).hexdigest() == copy["sha256"]
            assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archived"]
        assert (len(server.keys()), server.uploads()) == (3, [])
        assert "\nrelay_archive_failing 0.0\n" in (await archive.client.get("/metrics")).text


@pytest.mark.both_databases
@pytest.mark.parametrize("answer", [whole(VIDEO), chunked(VIDEO)], ids=["streamed", "spooled"])
async def test_repaired_credentials_heal_a_large_copy(
    tmp_path: Path, server: s3.S3, gate: s3.Gate, answer: Answer
) -> None:
    """Keep a result that is refused while it is streamed, and copy it once the bucket takes it."""
    gate.answer = s3.refusal("400 Bad Request", "ExpiredToken")
    async with (
        archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX, RELAY_ARCHIVE_BYTES_PER_S=FEW_PAUSES) as archive,
        asyncio.timeout(60),
    ):
        archive.results.answer = answer
        job = await archive.succeeded()
        while "\nrelay_archive_failing 1.0\n" not in (await archive.client.get("/metrics")).text:
            await archive.advance(1)
        assert (server.keys(), (await archive.job(job))["outputs"][0]["archive"]["state"]) == ([], "pending")
        gate.answer = None
        while (copy := (await archive.job(job))["outputs"][0]["archive"])["state"] == "pending":
            await archive.advance(1)
        assert hashlib.sha256(server.body(f"some/prefix/{copy['key']}")).hexdigest() == copy["sha256"]
        assert await archive.events(job) == ["job.submitted", "job.succeeded", "job.archived"]


async def test_what_a_lost_answer_leaves_is_deleted(tmp_path: Path, server: s3.S3, gate: s3.Gate) -> None:
    """Delete an object whose write was not answered, and whose copy has failed, as soon as the bucket answers."""
    gate.loses_answers = True
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=PREFIX, RELAY_ARCHIVE_RETRY_S="1") as archive:
        job = await archive.succeeded()
        await failed(archive, 1)
        assert len(server.keys()) == 1
        await archive.advance(2)
        await failed(archive, 2)
        assert (await archive.job(job))["outputs"][0]["archive"]["error"] == "store_unavailable"
        assert (await archive.events(job))[-1] == "job.archive_failed"
        gate.loses_answers = False
        async with asyncio.timeout(60):
            while server.keys():
                await archive.advance(LEFT_PAUSE_MS / 1000)
                await asyncio.sleep(0.01)
        assert server.uploads() == []
