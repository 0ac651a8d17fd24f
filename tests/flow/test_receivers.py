"""Hostile receivers, each of which has its word in bounded time, and after which its lane works on."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from relay.model.delivery import Outcome
from relay.outbound.connection import RESPONSE_MAX_BYTES
from relay.outbound.resolver import Address, LookupOptions, Resolver
from relay.outbound.trust import Trust
from relay.outbound.webhook_sender import WebhookSender
from relay.security.url_policy import AddressPolicy
from relay.settings import parse_networks
from tests.flow.test_delivery import CHUNKED, OK, receiver, says
from tests.support.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio

OPEN = AddressPolicy(parse_networks("127.0.0.0/8,::1/128"), True, frozenset())
CLOSED = AddressPolicy((), True, frozenset())


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock."""
    async with relay(tmp_path, clock=HeldClock()) as started:
        yield started


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a byte of the answer's body now and then, without end."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)  # the pace of the drip: no piece fills what the reader waits for


async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One interim answer after another."""
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
        await writer.drain()


async def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reset within the head of the answer."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-")
    await writer.drain()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def half_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says no more, and listens on."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
    writer.write_eof()
    await reader.read()


async def many_headers(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Headers without an end, each a small one."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-header: value\r\n" * 100)
        await writer.drain()


@pytest.mark.parametrize(
    ("speak", "outcomes"),
    [
        (drip, {"ok"}),
        (flood, {"timeout", "unreachable"}),
        (reset, {"unreachable"}),
        (half_closed, {"ok"}),
        (many_headers, {"unreachable", "timeout"}),
        (says(CHUNKED, b"fffffffff\r\n" + b"x" * 2 * RESPONSE_MAX_BYTES, hangs=True), {"ok"}),
        (says(b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"), {"bad_status"}),
    ],
    ids=["drip", "1xx flood", "reset in the head", "half-close", "endless headers", "huge chunk", "to the metadata"],
)
async def test_after_a_hostile_answer_the_lane_works_on(running: Running, speak: Any, outcomes: set[str]) -> None:
    """The attempt has its word within its timeout, and the endpoint's next notification is delivered."""
    turns = [speak, says(OK)]

    async def in_turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await turns.pop(0)(reader, writer)

    async with receiver(in_turn) as port:
        url = f"http://127.0.0.1:{port}/"
        made = (await running.client.post("/v1/endpoints", json={"url": url, "timeout_s": 1})).json()
        paths = []
        for _ in range(2):
            delivery = (await running.client.post(f"/v1/endpoints/{made['id']}/tests")).json()
            paths.append(f"/v1/deliveries/{delivery['id']}")
            await running.until(paths[-1], lambda shown: shown["attempts_made"] == 1)
        first, second = [await running.get(path) for path in paths]
        assert first["attempts"][0]["outcome"] in outcomes
        assert second["status"] == "delivered"


async def test_a_receiver_that_takes_no_connection_is_given_up_in_time() -> None:
    """A connection that hangs ends within the attempt's timeout."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        fillers = [socket.socket() for _ in range(8)]  # the queue is full, so the next one gets no answer at all
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with sender_of(OPEN) as sender:
            began = asyncio.get_running_loop().time()
            answer = await sender.post(f"http://127.0.0.1:{port}/", {}, b"{}", 1.0)
            took_s = asyncio.get_running_loop().time() - began
        for filler in fillers:
            filler.close()
    assert answer.outcome is Outcome.TIMEOUT
    assert took_s < 3


def _usage(authority: bool) -> x509.KeyUsage:
    """Return what a key is for; Python 3.13 refuses an authority that does not say so."""
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    named = dict.fromkeys((*others, "decipher_only"), False)
    return x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **named)


def certificate(folder: Path, name: str, began: timedelta, ends: timedelta) -> tuple[ssl.SSLContext, Path]:
    """Return a server's context for this name, and the authority to trust for it."""
    root_key, key, now = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
        datetime.now(UTC),
    )

    def signed(of: str, public: Any, authority: bool) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, of)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now + began)
        builder = builder.not_valid_after(now + ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        names = x509.SubjectAlternativeName([x509.DNSName(of)])
        root = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        builder = builder.add_extension(root, critical=False).add_extension(_usage(authority), critical=True)
        return builder.add_extension(names, critical=False).sign(root_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    plain = (pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "root.pem").write_bytes(signed("tests", root_key.public_key(), True).public_bytes(pem))
    leaf = signed(name, key.public_key(), False).public_bytes(pem)
    (folder / "server.pem").write_bytes(key.private_bytes(*plain) + leaf)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context, folder / "root.pem"


@pytest.mark.parametrize(
    ("name", "began", "ends", "outcome"),
    [
        ("localhost", -1, 1, Outcome.OK),
        ("other.example.com", -1, 1, Outcome.TLS_FAILED),
        ("localhost", -2, -1, Outcome.TLS_FAILED),
        ("localhost", 1, 2, Outcome.TLS_FAILED),
    ],
    ids=["good", "another name", "expired", "not yet valid"],
)
async def test_a_certificate_is_for_this_name_and_this_time(
    tmp_path: Path, name: str, began: int, ends: int, outcome: Outcome
) -> None:
    """TLS is verified to the end, against authorities that are trusted: name, and time."""
    context, root = certificate(tmp_path, name, timedelta(hours=began), timedelta(hours=ends))
    trusting = ssl.create_default_context(cafile=str(root))
    async with receiver(says(OK), context) as port, sender_of(OPEN, tls=trusting) as sender:
        answer = await sender.post(f"https://localhost:{port}/", {"content-length": "2"}, b"{}", 3.0)
    assert answer.outcome is outcome, answer


def resolving(*answers: list[str]) -> Resolver:
    """Return a resolver that keeps nothing: each look-up gets the next answer, the last one again and again."""
    left = list(answers)

    def look(_: str) -> list[Address]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [Address(int(socket.AF_INET6 if ":" in one else socket.AF_INET), one) for one in addresses]

    return Resolver(LookupOptions(cache_s=0), lookup=look)


def sender_of(
    policy: AddressPolicy, *, resolver: Resolver | None = None, tls: ssl.SSLContext | None = None
) -> WebhookSender:
    """Return a sender of a test's own."""
    return WebhookSender(policy, resolver or Resolver(), Trust(tls), connections_max=10)


@pytest.mark.parametrize(
    "addresses",
    [
        ["10.0.0.1"],
        ["8.8.8.8", "10.0.0.1"],
        ["2606:4700:4700::1111", "192.168.0.1"],
        ["64:ff9b::a00:1"],
        ["2002:a00:1::1"],
        ["::ffff:10.0.0.1"],
        ["fe80::1"],
        ["169.254.169.254"],
    ],
)
async def test_one_private_address_refuses_the_name(addresses: list[str]) -> None:
    """Every address of a name must be public, in whatever form it hides; and nothing is connected to."""
    async with sender_of(CLOSED, resolver=resolving(addresses)) as sender:
        answer = await sender.post("http://rebound.example.com:8080/", {}, b"{}", 2.0)
    assert answer.outcome is Outcome.ADDRESS_REFUSED
    assert (
        answer.error
        == "the host has an address that may not be called: it is not public (RELAY_ALLOW_NETWORKS opens networks)"
    )


async def test_what_was_checked_is_what_is_connected_to() -> None:
    """A name that leads elsewhere a moment later is judged anew for a new connection, and looked up once for each."""
    policy = AddressPolicy(parse_networks("127.0.0.1/32"), True, frozenset())
    async with receiver(says(OK)) as port, sender_of(policy, resolver=resolving(["127.0.0.1"], ["10.0.0.1"])) as sender:
        url = f"http://rebound.example.com:{port}/"
        answers = [await sender.post(url, {}, b"{}", 2.0) for _ in range(2)]
    assert [answer.outcome for answer in answers] == [Outcome.OK, Outcome.ADDRESS_REFUSED]
