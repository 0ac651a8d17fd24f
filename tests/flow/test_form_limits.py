"""The limits of `POST /v1/files`, each just before and just after: form, fields, file, chunks on their way to disk."""

import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import pytest

from relay.errors import BodyTooLarge, ProviderNotConfigured
from relay.providers.uploads import Uploaded
from relay.uploads.file_uploads import GivenFile, Upload, Uploads
from relay.web.api.files import Form
from tests.api.test_connections import peer, request
from tests.flow.test_uploads import PNG, UPLOAD, in_pieces, stores_and_uploads
from tests.support.rows import rows
from tests.support.running import KEY, relay

pytestmark = pytest.mark.anyio

CRLF = b"\r\n"


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    """Return the beginning of a form's part, up to what comes after its value."""
    of_file = "" if filename is None else f'; filename="{filename}"'
    return f'--x\r\ncontent-disposition: form-data; name="{name}"{of_file}\r\n\r\n'.encode() + value


@asynccontextmanager
async def form(size_max: int = 1 << 20) -> AsyncIterator[tuple[Form, IO[bytes]]]:
    """Return an empty form, and the file that it writes to."""
    async with stores_and_uploads() as (_, uploads):
        with tempfile.TemporaryFile(buffering=0) as file:
            yield Form(uploads, file, b"x", size_max), file


@rows("over", [0, 1])
async def test_a_form_holds_64_kib_besides_its_file(over: int) -> None:
    """Read 65,536 bytes that are no file, and refuse one more, however large the file is."""
    async with form() as (some, _):
        await some.feed(part("file", b"", "a.png"))
        before = len(part("file", b"", "a.png"))
        await some.feed(b"1" * 100_000)
        rest = CRLF + part("max_cost", b"")
        await some.feed(rest + b"1" * (65_536 - before - len(rest)))
        if over:
            with pytest.raises(BodyTooLarge):
                await some.feed(b"1")


async def test_a_field_is_kept_up_to_64_bytes() -> None:
    """Look for a provider under the first 64 bytes of its name, and keep no field that is longer than one byte more."""
    async with form() as (some, _):
        for byte in part("max_cost", b"0" * 200) + CRLF + part("provider", b"p" * 65):
            await some.feed(bytes([byte]))
        with pytest.raises(ProviderNotConfigured):
            await some.feed(CRLF + b"--x--" + CRLF)
        assert (some.provider, some.max_cost_text) == ("p" * 64, b"0" * 65)


@rows("length", [255, 256])
async def test_a_files_name_is_kept_up_to_255_characters(length: int) -> None:
    """Cut a longer name."""
    async with form() as (some, _):
        await some.feed(part("file", b"", "n" * length))
        assert some.filename == "n" * 255


@rows("over", [0, 1])
async def test_a_file_is_bounded_to_the_byte(over: int) -> None:
    """Take a file of the largest size, and refuse one byte more as soon as it comes."""
    async with form(size_max=100) as (some, _):
        await some.feed(part("file", b"1" * 100, "a.png"))
        if over:
            with pytest.raises(BodyTooLarge):
                await some.feed(b"1")


async def test_a_file_goes_to_disk_in_chunks_of_256_kib() -> None:
    """Write when 262,144 bytes came, not before, and read in chunks of the same size."""
    async with form() as (some, file):
        await some.feed(part("file", b"1" * 262_143, "a.png"))
        assert file.tell() == 0
        await some.feed(b"1")
        assert file.tell() == 262_144
        await some.feed(b"2")
        assert [len(chunk) async for chunk in some.chunks()] == [262_144, 1]


async def test_an_upload_pauses_after_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause 20 ms for each 262,144 bytes, as they come and as they are sent, so that disk and processor have others."""
    pauses: list[float] = []

    async def pause(duration_s: float) -> None:
        pauses.append(duration_s)

    monkeypatch.setattr("relay.web.api.files.asyncio.sleep", pause)
    async with form(size_max=1 << 30) as (some, _):
        await some.feed(part("file", b"1" * 262_143, "a.png"))
        assert pauses == []
        await some.feed(b"1")
        assert pauses == [0.02]
        await some.feed(b"1" * 262_143)
        assert pauses == [0.02]
        assert sum([len(chunk) async for chunk in some.chunks()]) == 2 * 262_144 - 1
        assert pauses == [0.02, 0.02, 0.02 * 262_143 / 262_144]


async def test_an_upload_pauses_for_all_that_came_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause 20 ms for each 262,144 bytes where one piece of the body has more of them, and never for fewer."""
    pauses: list[float] = []

    async def pause(duration_s: float) -> None:
        pauses.append(duration_s)

    monkeypatch.setattr("relay.web.api.files.asyncio.sleep", pause)
    async with form(size_max=1 << 30) as (some, _):
        await some.feed(part("file", b"1" * (4 * 262_144), "a.png"))
        assert pauses == [0.08]
        await some.feed(b"1" * 262_143)
        await some.feed(b"1" * 65_537)
        assert pauses == [0.08, 0.02 * (262_143 + 65_537) / 262_144]


@pytest.mark.parametrize("over", [0, 1])
async def test_a_declared_length_is_refused_before_the_body(tmp_path: Path, over: int) -> None:
    """Answer 413 to a Content-Length of a byte over file and form, and read the body where it may fit."""
    length = 1_000_000 + 65_536 + over
    lines = (
        f"authorization: Bearer {KEY}",
        "content-type: multipart/form-data; boundary=x",
        f"content-length: {length}",
    )
    async with relay(tmp_path, RELAY_UPLOAD_MAX_BYTES="1000000") as running, peer(running.origin) as sender:
        await sender.send(request("POST", "/v1/files", *lines) + b"no boundary")
        status, _, _ = await sender.answer()
        assert status == (413 if over else 400)


async def test_a_declared_length_may_have_any_number_of_digits(tmp_path: Path) -> None:
    """Read the body of a form whose Content-Length has five thousand zeros in front."""
    length = "0" * 5_000 + "11"
    lines = (
        f"authorization: Bearer {KEY}",
        "content-type: multipart/form-data; boundary=x",
        f"content-length: {length}",
    )
    async with relay(tmp_path) as running, peer(running.origin) as sender:
        await sender.send(request("POST", "/v1/files", *lines) + b"no boundary")
        assert (await sender.answer())[0] == 400


async def test_an_upload_is_known_by_32_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each try of the same form one id, `file_` and 32 hexadecimal digits, and another one to another form."""
    ids: list[str] = []
    upload = Uploads.upload

    async def noted(uploads: Uploads, one: Upload, provider: str, given: GivenFile) -> Uploaded:
        ids.append(one.id)
        return await upload(uploads, one, provider, given)

    monkeypatch.setattr(Uploads, "upload", noted)
    async with relay(tmp_path) as running:
        for name in ("a.png", "a.png", "b.png"):
            file = {"file": (name, PNG, "image/png")}
            assert (await running.client.post("/v1/files", data={"provider": "evolink"}, files=file)).status_code == 200
    assert ids[0] == ids[1] != ids[2]
    assert all(re.fullmatch("file_[0-9a-f]{32}", one) for one in ids)


@rows("over", [0, 1])
async def test_an_upload_is_bounded_to_the_byte(over: int) -> None:
    """Send a file of the largest size, and nothing of one that is a byte larger."""
    async with stores_and_uploads(size_max=len(PNG) - over) as (_, uploads):
        given = GivenFile("photo.png", "image/png", in_pieces(PNG), len(PNG))
        if not over:
            assert (await uploads.upload(UPLOAD, "evolink", given)).url
            return
        with pytest.raises(BodyTooLarge):
            await uploads.upload(UPLOAD, "evolink", given)


async def test_an_unknown_provider_is_named_in_64_characters() -> None:
    """Cut the name of a provider that is not there."""
    async with stores_and_uploads() as (_, uploads):
        with pytest.raises(ProviderNotConfigured) as refused:
            uploads.size_max("ß" * 65)
        assert str(refused.value).count("ß") == 64
