"""The archive in Google's and Azure's stores, as far as servers that play them are to be had.

Google's: the S3 server of the other tests answers, because Google's XML API, which obstore speaks, has the same verbs;
signatures are made, and not verified. Azure's: Azurite, Microsoft's own (`npm install --global azurite`), which does
verify them; without it these tests are skipped.
"""

import base64
import email.utils
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relay.model.archive import CopyErrorCode
from relay.outbound.file_upload import FileClient
from relay.outbound.object_store import BucketFailed, ObjectStore, Target
from relay.outbound.trust import tls_context
from relay.security.url_policy import AddressPolicy
from tests.flow.test_archive import archiving
from tests.flow.test_archive_s3 import FEW_PAUSES, VIDEO, archived, in_pieces
from tests.support import s3
from tests.support.ports import free_port
from tests.support.results import CLIP, chunked, whole

pytestmark = pytest.mark.anyio

Environ = Callable[[Path], dict[str, str]]
AZURE_ACCOUNT: Final = "devstoreaccount1"
AZURE_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's account and its key, which its documentation gives."""
AZURE_VERSION: Final = "2021-08-06"
START_S: Final = 30.0
BUCKET: Final = "results"


@pytest.fixture(scope="module")
def google() -> Iterator[Environ]:
    """Yield what makes the variables by which obstore finds a bucket of Google's."""
    key = rsa.generate_private_key(65537, 2048)
    with s3.server() as server:
        server.client.create_bucket(Bucket=BUCKET)
        account = {
            "gcs_base_url": server.endpoint,
            "client_email": "relay@example.iam.gserviceaccount.com",
            "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            "private_key_id": "1",
        }

        def environ(folder: Path) -> dict[str, str]:
            file = folder / "account.json"
            file.write_text(json.dumps(account))
            return {"GOOGLE_SERVICE_ACCOUNT": str(file)}

        yield environ


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environ]:
    """Yield the same of a container of Azure's."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azurite is not installed (npm install --global azurite)")
    port, folder = free_port(), tmp_path_factory.mktemp("azurite")
    options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location", str(folder)]
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}"
    try:
        _until_it_listens(port)
        _make_container(endpoint)
        yield lambda _: {
            "AZURE_STORAGE_ACCOUNT_NAME": AZURE_ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY,
            "AZURE_STORAGE_ENDPOINT": endpoint,
            "AZURE_ALLOW_HTTP": "true",
        }
    finally:
        running.kill()
        running.wait()


def _until_it_listens(port: int) -> None:
    """Return when a connection is accepted."""
    until_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < until_s, "Azurite does not listen"
            time.sleep(0.05)  # another process starts
        else:
            return


def _make_container(endpoint: str) -> None:
    """Make the container `results`, signed as Azure documents it ("Shared Key")."""
    date = email.utils.formatdate(usegmt=True)
    resource = f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/results\nrestype:container"
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{AZURE_VERSION}\n{resource}"
    mac = base64.b64encode(hmac.digest(base64.b64decode(AZURE_KEY), text.encode(), hashlib.sha256)).decode()
    headers = {"x-ms-date": date, "x-ms-version": AZURE_VERSION, "content-length": "0"}
    headers["authorization"] = f"SharedKey {AZURE_ACCOUNT}:{mac}"
    request = urllib.request.Request(f"{endpoint}/results?restype=container", method="PUT", headers=headers)
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


@pytest.fixture(params=["google", "azure"])
def prefix(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of an archive in each, which the environment's credentials open."""
    environ: Environ = request.getfixturevalue(request.param)
    for name, value in environ(tmp_path).items():
        monkeypatch.setenv(name, value)
    return {"google": f"gs://{BUCKET}/kept", "azure": f"az://{BUCKET}/kept"}[request.param]


@pytest.mark.parametrize(
    ("body", "answer"), [(CLIP, whole), (VIDEO, whole), (VIDEO, chunked)], ids=["small", "streamed", "spooled"]
)
async def test_a_result_is_copied_and_linked(tmp_path: Path, prefix: str, body: bytes, answer: object) -> None:
    """Write a result, small or large, of a known length or not, and link to it."""
    async with archiving(tmp_path, RELAY_ARCHIVE_URL=prefix, RELAY_ARCHIVE_BYTES_PER_S=FEW_PAUSES) as archive:
        archive.results.answer = answer(body)  # type: ignore[operator]
        job = await archive.succeeded()
        shown = (await archived(archive, job["id"]))["outputs"][0]["archive"]
        assert (shown["state"], shown["bytes"]) == ("archived", len(body))
        answered = await archive.client.get(f"/v1/jobs/{job['id']}/outputs/0")
        assert answered.status_code == 302
        async with httpx.AsyncClient(verify=tls_context(), trust_env=False) as anyone:
            read = await anyone.get(answered.headers["location"])
        assert (read.content, read.headers["content-type"]) == (body, "video/mp4")


async def test_an_object_is_measured_read_and_deleted(prefix: str) -> None:
    """Return an object's length and bytes, none of one that was deleted, and leave nothing of a body that is cut."""

    async def cut() -> object:
        async for piece in in_pieces(VIDEO):
            yield piece
        raise EOFError

    async with FileClient(AddressPolicy((), allow_http=True)) as files:
        bucket = ObjectStore(prefix, files)
        await bucket.write(Target("a.mp4", "video/mp4", len(VIDEO)), in_pieces(VIDEO))
        assert await bucket.size("a.mp4") == len(VIDEO)
        assert b"".join([piece async for piece in bucket.read("a.mp4")]) == VIDEO
        await bucket.delete("a.mp4")
        await bucket.delete("a.mp4")
        assert await bucket.size("a.mp4") is None
        with pytest.raises(EOFError):
            await bucket.write(Target("b.mp4", "video/mp4", 2 * len(VIDEO)), cut())  # type: ignore[arg-type]
        assert await bucket.size("b.mp4") is None


@pytest.mark.parametrize("body", [CLIP, VIDEO], ids=["small", "streamed"])
async def test_a_bucket_that_is_not_there_refuses(prefix: str, body: bytes) -> None:
    """Say that there is no such bucket, or container."""
    async with FileClient(AddressPolicy((), allow_http=True)) as files:
        another = ObjectStore(prefix.replace(BUCKET, "another"), files)
        with pytest.raises(BucketFailed) as failed:
            await another.write(Target("a.mp4", "video/mp4", len(body)), in_pieces(body))
    assert (failed.value.code, "there is no such" in str(failed.value)) == (CopyErrorCode.STORE_REFUSED, True)


@pytest.mark.parametrize("body", [CLIP, VIDEO], ids=["small", "streamed"])
async def test_another_key_is_refused_by_azure(
    azure: Environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    """Say that Azure refuses relay's key."""
    for name, value in (azure(tmp_path) | {"AZURE_STORAGE_ACCOUNT_KEY": "eA=="}).items():
        monkeypatch.setenv(name, value)
    async with FileClient(AddressPolicy((), allow_http=True)) as files:
        with pytest.raises(BucketFailed) as failed:
            await ObjectStore("az://results", files).write(Target("a", "video/mp4", len(body)), in_pieces(body))
    assert failed.value.code is CopyErrorCode.STORE_REFUSED
