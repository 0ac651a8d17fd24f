"""Files: from a form to a URL at the provider, by each provider's own flow; and what is refused on the way."""

import asyncio
import gzip
import hashlib
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from relay.clock import SystemClock, parse_rfc3339, rfc3339
from relay.context import ConfiguredProvider, SignIn
from relay.errors import BodyTooLarge, InvalidInput, ProviderNotConfigured
from relay.model.provider_http import FileRequest, ProviderRequest, ProviderResponse
from relay.outbound.file_upload import FileClient
from relay.outbound.provider_client import FAULTY_MAX_BYTES, RESPONSE_MAX_BYTES, NoAnswer, NotSent, ProviderClient
from relay.outbound.resolver import Address, Resolver
from relay.outbound.trust import Trust
from relay.payments.challenge import read_challenge
from relay.payments.policy import Policy, choose
from relay.payments.siwx import sign_in
from relay.payments.x402 import Wallet
from relay.providers import DEV_PROVIDERS, PROVIDERS
from relay.providers.evolink import EvoLink
from relay.providers.uploads import File, Uploaded, UploadFailed, UploadTarget, evolink
from relay.sandbox.serving import serve
from relay.sandbox.uploads import FileStores
from relay.security.shares import Shares
from relay.security.url_policy import AddressPolicy
from relay.settings import parse_networks
from relay.uploads.file_types import SUFFIXES, image_type, plain_name
from relay.uploads.file_uploads import Buyer, GivenFile, StepSender, Upload, UploadLimits, Uploads
from tests.support.provider_cases import NOW_MS, answer
from tests.support.quiescence import quiet
from tests.support.rows import rows
from tests.support.running import KEY, Running, relay

pytestmark = pytest.mark.anyio

STORE_KEY = "sandbox-key"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 300
STARTS = {
    "image/jpeg": b"\xff\xd8\xff\xe0" + bytes(20),
    "image/png": PNG,
    "image/gif": b"GIF89a" + bytes(20),
    "image/webp": b"RIFF\x10\x00\x00\x00WEBPVP8 " + bytes(20),
}
BEARERS = ("evolink", "relaydance", "kinovi", "sandbox")
HOUR_MS = 3_600_000
UPLOAD = Upload("prj_default", "file_1")
WALLET = "0x" + "11" * 32


class Studio(EvoLink):
    """An adapter of a provider that is paid for each file."""

    name = "stablestudio"
    limits = msgspec.structs.replace(EvoLink.limits, paid=True)


@asynccontextmanager
async def uploads_at(
    origin: str,
    *,
    api_key: str | None = STORE_KEY,
    size_max: int = 100_000_000,
    buyer: Buyer | None = None,
    signs_in: SignIn | None = None,
) -> AsyncIterator[Uploads]:
    """Return uploads whose providers are all at one origin, with only public addresses open."""
    adapters = {**PROVIDERS, **DEV_PROVIDERS, "stablestudio": Studio(), "x402org": EvoLink()}
    providers = {name: ConfiguredProvider(adapter, origin, api_key) for name, adapter in adapters.items()}
    async with ProviderClient() as client, FileClient(AddressPolicy((), allow_http=True)) as files:
        limits = UploadLimits(size_max, Shares("uploads", 8, 8))
        yield Uploads(providers, StepSender(client, files, signs_in), SystemClock(), limits, buyer)


@asynccontextmanager
async def stores_and_uploads(**options: Any) -> AsyncIterator[tuple[FileStores, Uploads]]:
    """Yield the stand-ins' file stores on a port, and uploads to them."""
    stores = FileStores(STORE_KEY)
    async with serve(Starlette(routes=stores.routes())) as origin, uploads_at(origin, **options) as uploads:
        yield stores, uploads


async def in_pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    """Yield the bytes bit by bit."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def sent(uploads: Uploads, provider: str, data: bytes = PNG, type_: str | None = "image/png") -> Uploaded:
    """One upload."""
    return await uploads.upload(UPLOAD, provider, GivenFile("photo.png", type_, in_pieces(data), len(data)))


@rows(
    ("provider", "steps", "hours"),
    [
        ("evolink", ["evolink"], 72),
        ("relaydance", ["relaydance"], None),
        ("kinovi", ["kinovi", "kinovi put", "kinovi confirm"], 24),
        ("sandbox", ["evolink"], 72),
    ],
)
async def test_a_file_gets_a_url_by_its_providers_own_steps(provider: str, steps: list[str], hours: int | None) -> None:
    """Every byte arrives under a plain name and its type; the URL and its end are the provider's."""
    async with stores_and_uploads() as (stores, uploads):
        done = await sent(uploads, provider)
        (kept,) = stores.kept
        assert stores.steps == steps
        assert (kept.name, kept.content_type, kept.size) == ("photo.png", "image/png", len(PNG))
        assert kept.digest == hashlib.sha256(PNG).hexdigest()
        assert kept.fields == (() if provider == "kinovi" else ("file",))
        assert done.url.startswith("https://")
        assert done.url.endswith("/photo.png")
        assert (done.expires_at is None) == (hours is None)
        if done.expires_at and hours:
            assert abs(parse_rfc3339(done.expires_at) - SystemClock().now_ms() - hours * HOUR_MS) < 60_000


class Purse:
    """Pays for a token with a wallet, and remembers what it was asked to keep."""

    def __init__(self, origin: str, client: ProviderClient) -> None:
        self.told: list[Any] = []
        self._origin, self._client = origin, client

    def turn(self, upload: Upload) -> asyncio.Lock:
        """Nobody else is here."""
        self.told.append(upload.id)
        return asyncio.Lock()

    async def buy(self, name: str, upload: Upload, request: ProviderRequest) -> list[ProviderResponse]:
        """Return the token."""
        self.told.append((name, upload, request.path))
        challenge = read_challenge(await self._client.send(self._origin, "", request, 5))
        policy = Policy(amount_max=10_000)
        now_s = SystemClock().now_ms() // 1000
        signed = Wallet(WALLET).authorize(choose(challenge, policy), challenge, policy, upload.id, now_s)
        paid = msgspec.structs.replace(request, headers={signed.header_name: signed.header_value})
        return [await self._client.send(self._origin, "", paid, 5)]

    async def keep(self, upload: Upload, answers: Sequence[ProviderResponse]) -> None:
        """How many there are."""
        self.told.append((upload, len(answers)))


async def test_stablestudio_is_paid_and_signed_for() -> None:
    """Three steps: one that is paid, one to the blob store with its token, one that the wallet signs in for."""
    stores, wallet = FileStores(STORE_KEY), Wallet(WALLET)

    def signs_in(asked: ProviderResponse, url: str) -> dict[str, str]:
        return sign_in(asked, url, wallet, SystemClock().now_ms())

    async with serve(Starlette(routes=stores.routes())) as origin, ProviderClient() as client:
        purse = Purse(origin, client)
        async with uploads_at(origin, buyer=purse, signs_in=signs_in) as uploads:
            done = await sent(uploads, "stablestudio")
    (kept,) = stores.kept
    assert (kept.provider, kept.name, kept.digest) == ("stablestudio", "photo.png", hashlib.sha256(PNG).hexdigest())
    assert purse.told == [UPLOAD.id, ("stablestudio", UPLOAD, "/api/upload"), (UPLOAD, 2), (UPLOAD, 3)]
    assert stores.steps[2:] == ["stablestudio put", "stablestudio confirm", "stablestudio confirm"]
    assert (done.url[-10:], done.expires_at) == ("/photo.png", None)
    assert list(stores.till.ledger.values()) == [10_000]


async def test_what_is_paid_for_needs_a_wallet() -> None:
    """Without one the upload is refused before anything is sent, and the setting is named."""
    async with stores_and_uploads() as (stores, uploads):
        with pytest.raises(ProviderNotConfigured, match="RELAY_WALLET_KEY"):
            await sent(uploads, "stablestudio")
        assert stores.steps == []


async def test_a_confirmation_without_a_signature_fails() -> None:
    """A wallet that cannot sign in gets the provider's 402, as a failure; what it has bought is not forgotten."""
    stores = FileStores(STORE_KEY)
    async with serve(Starlette(routes=stores.routes())) as origin, ProviderClient() as client:
        purse = Purse(origin, client)
        async with uploads_at(origin, buyer=purse) as uploads:
            with pytest.raises(UploadFailed, match=r"stablestudio: HTTP 402"):
                await sent(uploads, "stablestudio")
    assert purse.told[-1] == (UPLOAD, 2)


@rows("type_", STARTS)
async def test_four_types_are_taken(type_: str) -> None:
    """JPEG, PNG, GIF and WebP, declared or not; the name gets the type's own ending."""
    async with stores_and_uploads() as (stores, uploads):
        for declared in (type_, type_.upper() + "; x=1", None, "application/octet-stream"):
            data = STARTS[type_]
            await uploads.upload(UPLOAD, "kinovi", GivenFile("a", declared, in_pieces(data, 5), len(data)))
        assert {(kept.name, kept.content_type) for kept in stores.kept} == {(f"a{SUFFIXES[type_][0]}", type_)}


@rows(
    ("data", "declared", "message"),
    [
        (PNG, "image/jpeg", "is declared as image/jpeg, and its first bytes are those of image/png"),
        (STARTS["image/gif"], "image/webp", "is declared as image/webp, and its first bytes are those of image/gif"),
        (b"<html><body>", "image/png", "its first bytes are none of these"),
        (b"<html><body>", None, "its first bytes are none of these"),
        (PNG, "text/html", "it is declared otherwise"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", "image/webp", "its first bytes are none of these"),
        (b"\x89PN", "image/png", "its first bytes are none of these"),
        (b"", "image/png", "is empty"),
    ],
)
async def test_what_is_no_such_image_is_refused(data: bytes, declared: str | None, message: str) -> None:
    """What is declared and what the bytes tell must agree, and be a type that providers take; nothing is sent."""
    async with stores_and_uploads() as (stores, uploads):
        with pytest.raises(InvalidInput) as raised:
            await sent(uploads, "evolink", data, declared)
        assert stores.steps == []
    (error,) = raised.value.errors
    assert error.path == "file"
    assert message in error.message


@given(st.binary(max_size=16))
def test_any_bytes_have_a_type_or_none(start: bytes) -> None:
    """The type depends on the first twelve bytes alone."""
    assert image_type(start) == image_type(start[:12]) or len(start) < 12


@given(name=st.text(max_size=200), type_=st.sampled_from(sorted(SUFFIXES)))
def test_any_name_becomes_a_plain_one(name: str, type_: str) -> None:
    """No folder, quote, line end or foreign letter is left, and the ending is the type's."""
    plain = plain_name(name, type_)
    assert plain.isascii()
    assert set(plain.lower()) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert plain.lower().endswith(SUFFIXES[type_])
    assert not plain.startswith((".", "-"))
    assert 5 <= len(plain) <= 90


@rows(
    ("name", "plain"),
    [
        ("../../etc/passwd", "passwd.png"),
        ("C:\\a\\b.PNG", "b.PNG"),
        ('a"\r\nx: y.png', "a-x-y.png"),
        ("…", "image.png"),
    ],
)
def test_names_are_cleaned(name: str, plain: str) -> None:
    """What a browser sends as a file's name."""
    assert plain_name(name, "image/png") == plain


@rows(("provider", "most"), [("evolink", 30_000_000), ("relaydance", 30_000_000), ("kinovi", 100_000_000)])
async def test_each_provider_has_its_limit(provider: str, most: int) -> None:
    """A file over it is refused before it is read; the operator's own limit is over all of them."""

    async def unread() -> AsyncIterator[bytes]:
        for _ in range(1):
            raise AssertionError
        yield b""

    async with uploads_at("http://127.0.0.1:1") as uploads:
        assert uploads.size_max(provider) == most
        with pytest.raises(BodyTooLarge, match=str(most)):
            await uploads.upload(UPLOAD, provider, GivenFile("a.png", "image/png", unread(), most + 1))
    async with uploads_at("http://127.0.0.1:1", size_max=5000) as uploads:
        assert uploads.size_max(provider) == 5000


async def test_who_cannot_be_sent_to_is_named() -> None:
    """A provider that is unknown, has no key, or has no place for files."""
    async with uploads_at("http://127.0.0.1:1", api_key=None) as uploads:
        with pytest.raises(ProviderNotConfigured, match="there is no provider 'nobody' here; there are ark, evolink"):
            uploads.size_max("nobody")
        with pytest.raises(ProviderNotConfigured, match="RELAY_KINOVI_API_KEY is not set"):
            uploads.size_max("kinovi")
        with pytest.raises(InvalidInput, match="provider: x402org has no place for files"):
            uploads.size_max("x402org")


@rows(
    ("provider", "fault", "words"),
    [
        ("evolink", "refuse", "evolink: HTTP 200: 40002: Unsupported file type"),
        ("relaydance", "refuse", "relaydance: HTTP 400: invalid_request_error: invalid file"),
        ("kinovi", "refuse", "kinovi: HTTP 400: fileName is required"),
        ("kinovi", "refuse put", "kinovi: its store answered HTTP 503"),
    ],
)
async def test_a_refusal_is_told_in_the_providers_words(provider: str, fault: str, words: str) -> None:
    """Also where it comes as HTTP 200; a second try is a new upload."""
    async with stores_and_uploads() as (stores, uploads):
        stores.faults = [fault]
        with pytest.raises(UploadFailed) as raised:
            await sent(uploads, provider)
        assert str(raised.value) == words
        assert (await sent(uploads, provider)).url


@rows("provider", BEARERS)
async def test_a_wrong_key_is_told(provider: str) -> None:
    """401, with the provider's words and without the key."""
    async with stores_and_uploads(api_key="a-wrong-key") as (stores, uploads):
        with pytest.raises(UploadFailed, match=rf"{provider}: HTTP 401: .*\w") as raised:
            await sent(uploads, provider)
        assert "a-wrong-key" not in str(raised.value)
        assert stores.kept == []


@rows("provider", BEARERS)
async def test_a_connection_that_breaks_is_told(provider: str) -> None:
    """Within the file, or before there is one."""
    async with stores_and_uploads() as (stores, uploads):
        stores.faults = ["reset"]
        with pytest.raises(UploadFailed, match="gave no answer: the connection broke"):
            await sent(uploads, provider, PNG + bytes(5_000_000))
        assert stores.kept == []
    async with uploads_at("http://127.0.0.1:1") as uploads:
        with pytest.raises(UploadFailed, match=f"{provider} could not be reached"):
            await sent(uploads, provider)


@rows(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:1/",
        "http://example.com/",
        "https://localhost/",
        "https://10.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://0x7f000001/",
        "https://user:secret@example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "//example.com/",
        "https://example.com/\r\nx: y",
        "{origin}.example.com/",
        "https://[",
        "{origin}@example.com/",
    ],
)
async def test_a_hostile_place_for_the_file_is_not_called(url: str) -> None:
    """Where the bytes go is the provider's data: public https, or the configured origin; nothing of it is told."""
    stores = FileStores(STORE_KEY)
    async with serve(Starlette(routes=stores.routes())) as origin, uploads_at(origin) as uploads:
        stores.upload_url = url.replace("{origin}", origin)
        with pytest.raises(UploadFailed, match=r"URL for the file (must|has|leads to)") as raised:
            await sent(uploads, "kinovi")
        assert stores.steps == ["kinovi"]
    assert "secret" not in str(raised.value)
    assert "169.254" not in str(raised.value)


@rows("url", ["https://169.254.169.254/", "//example.com/x", "http://example.com/", "x", "/a b"])
async def test_a_hostile_confirmation_is_left_out(url: str) -> None:
    """It is optional: only a path behind the provider's own origin is asked for."""
    async with stores_and_uploads() as (stores, uploads):
        stores.confirm_url = url
        assert (await sent(uploads, "kinovi")).url
        assert stores.steps == ["kinovi", "kinovi put"]


@rows("provider", BEARERS)
@rows("url", ["javascript:alert(1)", "http://localhost/a.png", "file:///a", "https://a b/", " "])
async def test_a_result_that_is_no_public_url_is_a_failure(provider: str, url: str) -> None:
    """What a client is given can be given to a provider."""
    async with stores_and_uploads() as (stores, uploads):
        stores.file_url = url
        with pytest.raises(UploadFailed, match="has no public URL"):
            await sent(uploads, provider)


async def test_a_redirect_is_not_followed() -> None:
    """The file and the key go where they were meant to go, or nowhere."""
    followed: list[str] = []

    async def elsewhere(request: Request) -> RedirectResponse:
        followed.append(request.url.path)
        await request.body()
        return RedirectResponse("/elsewhere", 307)

    app = Starlette(routes=[Route("/{path:path}", elsewhere, methods=["POST"])])
    async with serve(app) as origin, uploads_at(origin) as uploads:
        with pytest.raises(UploadFailed, match="HTTP 307"):
            await sent(uploads, "evolink")
    assert followed == ["/api/v1/files/upload/stream"]


@rows(
    ("said", "hours"),
    [
        ("2026-09-23T00:00:00+08:00", None),
        (rfc3339(NOW_MS + HOUR_MS), 1),
        (rfc3339(NOW_MS - HOUR_MS), 72),
        (rfc3339(NOW_MS + 400 * HOUR_MS), 72),
        ("2026-09-22T00:00:00", 72),
        ("soon", 72),
        (1_790_000_000, 72),
        (None, 72),
    ],
)
def test_evolinks_end_is_believed_where_it_can_be_true(said: object, hours: int | None) -> None:
    """A time with its offset within reach; for any other the published 72 hours count."""
    steps = evolink(
        File(name="a.png", content_type="image/png", size=3),
        UploadTarget(origin="https://a", store="https://b", now_ms=NOW_MS),
    )
    asked = next(steps)
    assert isinstance(asked, FileRequest)
    assert (asked.url, asked.bearer, asked.guarded) == ("https://b/api/v1/files/upload/stream", True, False)
    body = {"success": True, "data": {"file_url": "https://files.example.com/a.png", "expires_at": said}}
    with pytest.raises(StopIteration) as done:
        steps.send(answer(200, body))
    expires_at = done.value.value.expires_at
    assert expires_at == ("2026-09-22T16:00:00.000Z" if hours is None else rfc3339(NOW_MS + hours * HOUR_MS))


@rows("body", [b"<html>", [], {"success": False}, {"data": None}, {"data": {"file_url": 5}}])
def test_an_answer_without_a_url_is_a_failure(body: object) -> None:
    """Whatever the 2xx holds."""
    steps = evolink(
        File(name="a.png", content_type="image/png", size=3),
        UploadTarget(origin="https://a", store="https://b", now_ms=NOW_MS),
    )
    next(steps)
    with pytest.raises(UploadFailed):
        steps.send(answer(200, body))


def resolver(*addresses: str) -> Resolver:
    """Every name leads to these."""
    families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
    found = [Address(int(family), address) for family, address in zip(families, addresses, strict=True)]
    return Resolver(lookup=lambda _: found)


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a certificate for a name: for the server, and for a client that trusts it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    called = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder().subject_name(called).issuer_name(called).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(hours=1))
    builder = builder.not_valid_after(now + timedelta(hours=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = certificate.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "tls.pem").write_bytes(private + pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "tls.pem")
    return server, ssl.create_default_context(cadata=pem.decode())


@asynccontextmanager
async def https_store(context: ssl.SSLContext, heard: list[bytes]) -> AsyncIterator[int]:
    """Yield the port of a store that keeps what it hears and answers 200."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heard.append(head + await reader.readexactly(len(PNG)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve_one, "127.0.0.1", 0, ssl=context)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("127.0.0.9", "127.0.0.1")])
async def test_a_guarded_place_is_called_at_the_address_that_was_checked(
    tmp_path: Path, addresses: tuple[str, ...]
) -> None:
    """The certificate and the host are the name's, the query is as it was written, and no key goes along."""
    context, trusting = certified(tmp_path, "store.example.com")
    policy, heard = AddressPolicy(parse_networks("127.0.0.0/8"), allow_http=False), list[bytes]()
    files = FileClient(policy, resolver=resolver(*addresses), trust=Trust(trusting))
    async with https_store(context, heard) as port, files:
        url = f"https://store.example.com:{port}/a%2Fb/../c//%7Ed/.?sig=a%2Fb%2Bc+d%20~e|'"
        request = FileRequest(method="PUT", url=url, size=len(PNG), content_type="image/png", guarded=True)
        answered = await files.send(request, in_pieces(PNG), "the-key", 10)
    assert answered.status_code == 200
    head, _, body = heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"PUT /a%2Fb/../c//%7Ed/.?sig=a%2Fb%2Bc+d%20~e|' HTTP/1.1\r\n")
    assert f"host: store.example.com:{port}\r\n".encode() in head.lower() + b"\r\n"
    assert b"authorization" not in head.lower()
    assert body == PNG


async def test_a_certificate_of_another_name_is_refused(tmp_path: Path) -> None:
    """That the address was checked is no reason to trust what answers there."""
    context, trusting = certified(tmp_path, "other.example.com")
    policy, heard = AddressPolicy(parse_networks("127.0.0.0/8"), allow_http=False), list[bytes]()
    files = FileClient(policy, resolver=resolver("127.0.0.1"), trust=Trust(trusting))
    async with https_store(context, heard) as port, files:
        url = f"https://store.example.com:{port}/"
        request = FileRequest(method="PUT", url=url, size=len(PNG), content_type="image/png", guarded=True)
        with pytest.raises(NotSent, match="the certificate is for another name"):
            await files.send(request, in_pieces(PNG), "", 10)
    assert heard == []


@rows("addresses", [("127.0.0.1",), ("93.184.215.14", "10.0.0.1"), ("::1",), ("fe80::1%eth0",), ("169.254.169.254",)])
async def test_a_name_that_leads_inside_is_not_called(addresses: tuple[str, ...]) -> None:
    """One address that may not be called refuses the name."""
    async with FileClient(AddressPolicy((), allow_http=False), resolver=resolver(*addresses)) as files:
        request = FileRequest(
            method="PUT", url="https://store.example.com/", size=3, content_type="image/png", guarded=True
        )
        with pytest.raises(NotSent, match="leads to an address that the URL policy refuses"):
            await files.send(request, in_pieces(b"abc"), "", 10)


async def test_a_file_that_is_not_as_long_as_was_said_breaks_the_connection() -> None:
    """Nobody gets half a file as a whole one."""
    async with stores_and_uploads() as (stores, uploads):
        for size in (len(PNG) - 1, len(PNG) + 1):
            with pytest.raises(UploadFailed, match="differs from its declared size"):
                await uploads.upload(UPLOAD, "evolink", GivenFile("a.png", "image/png", in_pieces(PNG), size))
        assert stores.kept == []


async def test_a_store_that_says_nothing_is_given_up() -> None:
    """The time is over all of the call."""

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone.append(writer)

    gone: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, FileClient(AddressPolicy((), allow_http=True)) as files:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        request = FileRequest(method="PUT", url=url, size=3, content_type="image/png")
        with pytest.raises(NoAnswer, match="in time"):
            await files.send(request, in_pieces(b"abc"), "", 0.2)
        for writer in gone:
            writer.transport.abort()


async def test_a_name_without_an_address_is_told_as_such() -> None:
    """Say that the store's name has no address, rather than that it may not be called."""
    async with FileClient(AddressPolicy((), allow_http=False), resolver=resolver()) as files:
        url = "https://store.example.com/"
        request = FileRequest(method="PUT", url=url, size=3, content_type="image/png", guarded=True)
        with pytest.raises(NotSent, match="the host's name has no address"):
            await files.send(request, in_pieces(b"abc"), "", 10)


@rows(("grows_to", "whole"), [(RESPONSE_MAX_BYTES, True), (RESPONSE_MAX_BYTES + 1, False)])
async def test_a_compressed_answer_is_inflated_up_to_its_limit(grows_to: int, whole: bool) -> None:
    """Read an encoded answer as long as it grows to no more than one that is not encoded may have."""
    packed = gzip.compress(bytes(grows_to))

    async def bombs(request: Request) -> Response:
        await request.body()
        return Response(packed, headers={"content-encoding": "gzip"})

    app = Starlette(routes=[Route("/", bombs, methods=["PUT"])])
    async with serve(app) as origin, FileClient(AddressPolicy((), allow_http=True)) as files:
        request = FileRequest(method="PUT", url=f"{origin}/", size=3, content_type="image/png")
        answered = await files.send(request, in_pieces(b"abc"), "", 10)
    assert answered.body == bytes(grows_to if whole else FAULTY_MAX_BYTES)
    assert answered.fault == (None if whole else f"is longer than {RESPONSE_MAX_BYTES} bytes once inflated")


# From here on through the door: POST /v1/files of a whole relay.


def form(*parts: tuple[str, bytes, str | None, str | None], boundary: str = "b0undary") -> tuple[bytes, dict[str, str]]:
    """Return a form by hand: name, content, file name, type of each part; and the header that goes with it."""
    body = b""
    for name, content, filename, type_ in parts:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        body += f'; filename="{filename}"'.encode() if filename is not None else b""
        body += f"\r\nContent-Type: {type_}".encode() if type_ is not None else b""
        body += b"\r\n\r\n" + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


FILE = ("file", PNG, "photo.png", "image/png")
EVOLINK = ("provider", b"evolink", None, None)


async def posted(running: Running, *parts: Any, **headers: str) -> httpx.Response:
    """Return what POST /v1/files answers to a form."""
    body, kind = form(*parts)
    return await running.client.post("/v1/files", content=body, headers=kind | headers)


@pytest.mark.parametrize("provider", BEARERS)
async def test_the_door_takes_what_httpx_sends(tmp_path: Path, provider: str) -> None:
    """An ordinary client's form, the file in front or behind; the answer is a URL and its end, and no more."""
    async with relay(tmp_path) as running:
        files, data = {"file": ("photo.png", PNG, "image/png")}, {"provider": provider}
        first = await running.client.post("/v1/files", files=files, data=data)
        behind = await posted(running, FILE, ("provider", provider.encode(), None, None))
        for answered in (first, behind):
            assert answered.status_code == 200, answered.text
            assert sorted(answered.json()) == ["expires_at", "url"]
        assert {kept.digest for kept in running.world.files.kept} == {hashlib.sha256(PNG).hexdigest()}


@pytest.mark.parametrize(
    ("parts", "status", "code", "errors"),
    [
        ((), 422, "invalid_input", {"file": "is required", "provider": "is required"}),
        ((EVOLINK,), 422, "invalid_input", {"file": "is required"}),
        ((FILE,), 422, "invalid_input", {"provider": "is required"}),
        ((FILE, EVOLINK, ("file", b"x", "a.png", None)), 422, "invalid_input", {"file": "is there twice"}),
        (
            (FILE, EVOLINK, ("folder", b"x", None, None)),
            422,
            "invalid_input",
            {"folder": "is not a field here; there are file, provider, max_cost"},
        ),
        ((FILE, ("provider", b"nobody", None, None)), 422, "provider_not_configured", {}),
        ((EVOLINK, ("file", b"hello there, you", "a.png", "image/png")), 422, "invalid_input", {"file": "must be one"}),
        ((EVOLINK, ("file", PNG, "a.jpg", "image/jpeg")), 422, "invalid_input", {"file": "is declared as image/jpeg"}),
        ((EVOLINK, ("file", b"", "a.png", "image/png")), 422, "invalid_input", {"file": "is empty"}),
        ((EVOLINK, ("file", b"x", None, None), ("x", bytes(70_000), None, None)), 413, "body_too_large", {}),
    ],
)
async def test_a_wrong_form_is_a_problem(
    tmp_path: Path, parts: tuple[Any, ...], status: int, code: str, errors: dict[str, str]
) -> None:
    """Every wrong field at once, and nothing is sent."""
    async with relay(tmp_path) as running:
        answered = await posted(running, *parts)
        problem = answered.json()
        assert (answered.status_code, problem["code"]) == (status, code)
        assert {error["path"] for error in problem.get("errors", [])} == set(errors)
        assert all(error["message"].startswith(errors[error["path"]]) for error in problem.get("errors", []))
        assert running.world.files.steps == []


@pytest.mark.parametrize(
    ("kind", "body", "status", "code"),
    [
        ("application/json", b"{}", 415, "unsupported_media_type"),
        ("", b"", 415, "unsupported_media_type"),
        ("multipart/form-data", b"", 400, "bad_body"),
        ("multipart/form-data; boundary=" + "x" * 300, b"", 400, "bad_body"),
        ("multipart/form-data; boundary=b", b"--another\r\n", 400, "bad_body"),
        ("multipart/form-data; boundary=b", b"--b\r\nno header\r\n\r\n", 400, "bad_body"),
        ("multipart/form-data; boundary=b0undary", form(FILE, EVOLINK)[0][:-6], 400, "bad_body"),
        ("multipart/form-data; boundary=b0undary", form(FILE, EVOLINK)[0][:-200], 400, "bad_body"),
        ("multipart/form-data; boundary=b", b"", 400, "bad_body"),
    ],
)
async def test_what_is_no_form_is_a_problem(tmp_path: Path, kind: str, body: bytes, status: int, code: str) -> None:
    """Another type is 415, a form that is broken or not whole 400."""
    async with relay(tmp_path) as running:
        answered = await running.client.post("/v1/files", content=body, headers={"content-type": kind})
        assert (answered.status_code, answered.json()["code"]) == (status, code)


async def test_the_door_is_locked(tmp_path: Path) -> None:
    """No key is 401, and a parameter that nobody knows 422."""
    async with relay(tmp_path) as running:
        assert (await posted(running, FILE, EVOLINK, authorization="Bearer no")).status_code == 401
        body, kind = form(FILE, EVOLINK)
        assert (await running.client.post("/v1/files?x=1", content=body, headers=kind)).status_code == 422


async def test_a_providers_refusal_is_502(tmp_path: Path) -> None:
    """With its words; the Idempotency-Key is free again."""
    async with relay(tmp_path) as running:
        running.world.files.faults = ["refuse"]
        headers = {"idempotency-key": "k"}
        failed = await posted(running, FILE, EVOLINK, **headers)
        assert (failed.status_code, failed.json()["code"]) == (502, "upload_failed")
        assert "Unsupported file type" in failed.json()["detail"]
        assert (await posted(running, FILE, EVOLINK, **headers)).status_code == 200


async def test_the_same_file_is_uploaded_once_for_its_key(tmp_path: Path) -> None:
    """The Idempotency-Key stands for what the form holds, however it is written; another file with it is 409."""
    async with relay(tmp_path) as running:
        answers = []
        for boundary in ("one", "two"):
            body, kind = form(EVOLINK, FILE, boundary=boundary)
            headers = kind | {"idempotency-key": "k"}
            answers.append(await running.client.post("/v1/files", content=body, headers=headers))
        assert answers[0].json() == answers[1].json()
        assert [answered.headers.get("idempotent-replayed") for answered in answers] == [None, "true"]
        assert len(running.world.files.kept) == 1
        other = ("file", PNG + b"!", "photo.png", "image/png")
        changed = await posted(running, EVOLINK, other, **{"idempotency-key": "k"})
        assert (changed.status_code, changed.json()["code"]) == (409, "idempotency_conflict")


def head(running: Running, *lines: str) -> bytes:
    """Return the beginning of a request to POST /v1/files."""
    host = running.origin.removeprefix("http://")
    fixed = ("POST /v1/files HTTP/1.1", f"host: {host}", f"authorization: Bearer {KEY}")
    kind = "content-type: multipart/form-data; boundary=b0undary"
    return "\r\n".join((*fixed, kind, *lines, "", "")).encode()


def chunked(*pieces: bytes) -> bytes:
    """Pieces of a body whose length is not told."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


async def test_a_file_without_an_end_is_cut_off(tmp_path: Path) -> None:
    """413 comes while the file is still on its way, soon after its limit."""
    async with relay(tmp_path, RELAY_UPLOAD_MAX_BYTES="200000") as running:
        host, port = running.origin.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        begun = form(EVOLINK, ("file", b"", "a.png", "image/png"))[0].partition(b"image/png\r\n\r\n")
        writer.write(head(running, "transfer-encoding: chunked") + chunked(begun[0] + begun[1]))
        answered, count = asyncio.create_task(reader.readuntil(b"\r\n\r\n")), 0
        while not answered.done():
            writer.write(chunked(bytes(10_000)))
            await writer.drain()
            await asyncio.sleep(0)  # the answer may come now
            count += 1
            assert count < 10_000
        assert (await answered).startswith(b"HTTP/1.1 413 ")
        writer.transport.abort()
        assert running.world.files.steps == []


async def test_a_length_over_the_limit_is_not_read(tmp_path: Path) -> None:
    """413 at once where the length is told; a provider's own limit counts as soon as both are known."""
    async with relay(tmp_path, RELAY_UPLOAD_MAX_BYTES="100000000") as running:
        host, port = running.origin.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(running, "content-length: 100065537"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
        writer.transport.abort()
        large = ("file", PNG + bytes(30_000_000), "a.png", "image/png")
        for parts in ((EVOLINK, large), (large, EVOLINK)):
            answered = await posted(running, *parts)
            assert (answered.status_code, answered.json()["code"]) == (413, "body_too_large")
            assert "evolink: 30000000 bytes" in answered.json()["detail"]
        assert running.world.files.steps == []


async def test_a_form_that_pauses_too_long_is_given_up(tmp_path: Path) -> None:
    """408 when nothing comes for as long as any body may take."""
    async with relay(tmp_path, RELAY_BODY_DEADLINE_S="0.2") as running:
        host, port = running.origin.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(running, "content-length: 1000") + b"--b0undary\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")
        writer.transport.abort()


async def test_a_form_that_drips_is_given_up(tmp_path: Path) -> None:
    """Answer 408 to an upload that comes a few bytes at a time, though it never pauses, and take one at the pace."""
    async with relay(tmp_path, RELAY_BODY_DEADLINE_S="0.3", RELAY_UPLOAD_MIN_BYTES_PER_S="1000") as running:
        host, port = running.origin.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head(running, "content-length: 1000000") + b"--b0undary\r\n")
        answered = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        async with asyncio.timeout(60):
            while not answered.done():
                writer.write(b"x")
                await asyncio.sleep(0.01)  # the pace of the drip, slower than RELAY_UPLOAD_MIN_BYTES_PER_S
        assert answered.result().startswith(b"HTTP/1.1 408 ")
        writer.transport.abort()


async def test_a_project_has_its_share_of_uploads(tmp_path: Path) -> None:
    """Answer 429 to a project's upload beyond its share, and take one when another has ended."""
    async with relay(tmp_path, RELAY_UPLOADS_PER_PROJECT_MAX="2", RELAY_UPLOADS_MAX="3") as running:
        host, port = running.origin.removeprefix("http://").split(":")
        open_: list[asyncio.StreamWriter] = []
        for _ in range(2):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(head(running, "content-length: 1000") + b"--b0undary\r\n")
            open_.append(writer)
        await quiet()
        assert running.app.uploads.shares.total == 2
        answered = await posted(running, EVOLINK, ("file", PNG, "a.png", "image/png"))
        assert (answered.status_code, answered.headers["retry-after"]) == (429, "1")
        open_[0].transport.abort()
        await quiet()
        assert running.app.uploads.shares.total == 1
        assert (await posted(running, EVOLINK, ("file", PNG, "a.png", "image/png"))).status_code == 200
        open_[1].transport.abort()


@pytest.fixture
def traced() -> Iterator[None]:
    """Memory is counted."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


async def test_a_large_file_does_not_fill_the_memory(tmp_path: Path, traced: None) -> None:
    """40 MB go through relay and into a stand-in, both in this process, in a few MB of memory."""
    size = 40_000_000
    begin, end = form(("provider", b"kinovi", None, None), ("file", b"|", "a.png", "image/png"))[0].split(b"|")

    async def body() -> AsyncIterator[bytes]:
        yield begin + PNG[:1000]
        for _ in range(size // 100_000):
            yield bytes(100_000)
        yield end

    async with relay(tmp_path) as running:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        kind = {"content-type": "multipart/form-data; boundary=b0undary"}
        answered = await running.client.post("/v1/files", content=body(), headers=kind)
        assert answered.status_code == 200, answered.text
        assert running.world.files.kept[0].size == size + 1000
        assert tracemalloc.get_traced_memory()[1] - before < 8_000_000
