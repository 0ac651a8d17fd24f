"""One attempt meets the world: receivers that hang, flood, lie or are not who they say; lanes; what is sent along."""

import asyncio
import gzip
import ipaddress
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
HOUR = timedelta(hours=1)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay that tries three times: at once, after 5 s, after 300 s."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="0,5,300") as started:
        yield started


@asynccontextmanager
async def receiver(speak: Speak, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Yield the port of a server that reads each request and then does what it is told with the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.partition(b":")[2]))
            await speak(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


def says(*answers: bytes, hangs: bool = False) -> Speak:
    """Write the answers and hangs up, or waits until the caller does."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            writer.write(answer)
            await writer.drain()
        if hangs:
            await reader.read()

    return speak


async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a body without an end."""
    writer.write(CHUNKED)
    while True:
        writer.write(b"400\r\n" + b"x" * 0x400 + b"\r\n")
        await writer.drain()


async def attempted(running: Running, url: str, **fields: Any) -> dict[str, Any]:
    """Return the delivery to a new endpoint at the URL, after its first attempt."""
    body = {"url": url, "event_types": ["job.submitted"], **fields}
    made = await running.client.post("/v1/endpoints", json=body)
    assert made.status_code == 201, made.text
    await running.submit()
    path = f"/v1/deliveries?endpoint={made.json()['id']}"
    found = await running.until(path, lambda shown: shown["data"] and shown["data"][0]["attempts_made"] == 1)
    return await running.get(f"/v1/deliveries/{found['data'][0]['id']}")


@pytest.mark.parametrize(
    ("speak", "outcome", "status_code"),
    [
        pytest.param(says(hangs=True), "timeout", None, id="silent"),
        pytest.param(says(b"HTTP/1.1 100 Continue\r\n\r\n", hangs=True), "timeout", None, id="always-continue"),
        pytest.param(says(HEAD % 16384, b"x" * 16384), "ok", 200, id="16KiB"),
        pytest.param(says(OK), "ok", 200, id="hangs-up-afterwards"),
        pytest.param(says(b"HTTP/1.1 204 No Content\r\n\r\n"), "ok", 204, id="204"),
        pytest.param(says(), "unreachable", None, id="hangs-up"),
        pytest.param(says(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "unreachable", None, id="no-http"),
        pytest.param(says(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 65536), "unreachable", None, id="endless-header"),
        pytest.param(says(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), "bad_status", 101, id="101"),
        pytest.param(says(b"HTTP/1.1 404 \xff\r\ncontent-length: 0\r\n\r\n"), "bad_status", 404, id="latin-1"),
    ],
)
async def test_every_receiver_has_its_outcome(
    running: Running, speak: Speak, outcome: str, status_code: int | None
) -> None:
    """Whatever a receiver does, the attempt ends within its timeout, in one of the known words, telling no address."""
    async with receiver(speak) as port:
        shown = await attempted(running, f"http://127.0.0.1:{port}/", timeout_s=1)
    attempt = shown["attempts"][0]
    assert (attempt["outcome"], attempt["status_code"]) == (outcome, status_code), attempt
    assert shown["status"] == ("delivered" if outcome == "ok" else "pending")
    assert (attempt["error"] is None) == (outcome == "ok")
    assert attempt["note"] is None
    assert "127.0.0.1" not in str(attempt["error"])
    assert len(attempt["response_excerpt"] or "") <= 4096


@pytest.mark.parametrize(
    ("speak", "note"),
    [
        pytest.param(endless, "its body is longer than 16384 bytes", id="endless"),
        pytest.param(says(HEAD % 16385, b"x" * 16385), "its body is longer than 16384 bytes", id="16KiB-and-one"),
        pytest.param(says(HEAD % 5, b"ab", hangs=True), "its body did not end in time", id="half-a-body"),
        pytest.param(says(HEAD % 5, b"ab"), "its body was cut", id="hangs-up-in-the-body"),
        pytest.param(says(CHUNKED, b"zz\r\n"), "its framing is not HTTP", id="bad-chunk"),
    ],
)
async def test_a_2xx_counts_whatever_its_body_is_like(running: Running, speak: Speak, note: str) -> None:
    """Count a notification as delivered when its receiver answered 2xx; what was odd about the answer is a note."""
    async with receiver(speak) as port:
        shown = await attempted(running, f"http://127.0.0.1:{port}/", timeout_s=1)
    attempt = shown["attempts"][0]
    assert (shown["status"], attempt["outcome"], attempt["status_code"]) == ("delivered", "ok", 200)
    assert (attempt["error"], attempt["note"]) == (None, note)
    assert len(attempt["response_excerpt"] or "") <= 4096


async def test_a_long_page_with_410_disables_the_endpoint(running: Running) -> None:
    """Disable an endpoint that answers 410, however long the page is that comes with it."""
    page = b"HTTP/1.1 410 Gone\r\ncontent-length: 200000\r\n\r\n" + b"x" * 200_000
    async with receiver(says(page)) as port:
        shown = await attempted(running, f"http://127.0.0.1:{port}/")
    attempt = shown["attempts"][0]
    assert (attempt["outcome"], attempt["status_code"]) == ("endpoint_gone", 410)
    assert attempt["error"] == "HTTP 410; its body is longer than 16384 bytes"
    assert (await running.get(f"/v1/endpoints/{shown['endpoint']}"))["status"] == "disabled"


async def test_a_compressed_answer_is_not_inflated(running: Running) -> None:
    """An answer is read as it came: a small one that would grow to 10 MB is a small one."""
    bomb = gzip.compress(bytes(10_000_000))
    head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(bomb)
    async with receiver(says(head, bomb)) as port:
        shown = await attempted(running, f"http://127.0.0.1:{port}/")
    assert shown["attempts"][0]["outcome"] == "ok"


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return a certificate for 127.0.0.1 that nobody vouches for."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - HOUR).not_valid_after(now + HOUR)
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "tls.pem").write_bytes(key.private_bytes(pem, kind, plain) + certificate.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem")
    return context


async def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path, running: Running) -> None:
    """Certificates are verified: behind a self-signed one, not even the request's first byte is heard."""
    heard: list[bytes] = []

    async def speak(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        heard.append(b"a request")

    async with receiver(speak, self_signed(tmp_path)) as port:
        shown = await attempted(running, f"https://127.0.0.1:{port}/")
    attempt = shown["attempts"][0]
    assert (attempt["outcome"], "127.0.0.1" in attempt["error"], heard) == ("tls_failed", False, [])


async def test_a_name_is_judged_by_the_address_it_leads_to(tmp_path: Path) -> None:
    """A name that resolves into a network that is not opened is refused at the moment of connecting."""
    name = socket.gethostname()
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, 80, type=socket.SOCK_STREAM)
        private = any(not ipaddress.ip_address(sockaddr[0]).is_global for *_, sockaddr in found)
    except (OSError, ValueError):
        private = False
    if not private:
        pytest.skip("this machine's own name leads to no private address")
    async with relay(tmp_path, RELAY_ALLOW_NETWORKS="") as running:
        shown = await attempted(running, f"http://{name}:8080/")
        attempt = shown["attempts"][0]
        assert (attempt["outcome"], attempt["status_code"], shown["status"]) == ("address_refused", None, "pending")
        assert (
            attempt["error"]
            == "the host has an address that may not be called: it is not public (RELAY_ALLOW_NETWORKS opens networks)"
        )


async def test_relay_itself_is_no_endpoint(running: Running) -> None:
    """relay's own public URL is refused wherever a URL is given: a notification to it would come round for ever."""
    url = f"{running.origin}/callbacks/evolink/x"
    answer = await running.client.post("/v1/endpoints", json={"url": url})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "url")
    assert "relay itself" in answer.json()["errors"][0]["message"]
    made = (await running.client.post("/v1/endpoints", json={"url": running.hook})).json()
    changed = await running.client.patch(f"/v1/endpoints/{made['id']}", json={"url": url.upper()})
    assert changed.status_code == 422


async def test_the_endpoints_own_headers_go_along(running: Running) -> None:
    """Custom headers are sent with every notification, beside relay's own, and shown to nobody again."""
    shown = await attempted(running, running.hook, headers={"X-Team": "films", "Authorization": "Bearer inner"})
    headers = running.sink.received[0].headers
    assert (headers["x-team"], headers["authorization"]) == ("films", "Bearer inner")
    assert (headers["content-type"], headers["user-agent"].partition("/")[0]) == ("application/json", "relay")
    assert not {"relay-redelivery", "cookie", "accept-encoding"} & set(headers)
    endpoint = await running.get(f"/v1/endpoints/{shown['endpoint']}")
    assert "inner" not in json.dumps(endpoint)


async def test_an_endpoint_may_have_a_schedule_of_its_own(running: Running) -> None:
    """`schedule_s` replaces the general one; with a single entry there is a single attempt."""
    running.sink.answers = [500]
    shown = await attempted(running, running.hook, schedule_s=[0])
    assert (shown["status"], shown["next_attempt_at"]) == ("exhausted", None)


async def test_a_lane_is_never_wider_than_its_endpoint_allows(tmp_path: Path) -> None:
    """However many notifications wait, an endpoint gets `in_flight_max` of them at once, and in the end all of them."""
    under_way, peak, heard = 0, 0, 0
    two, go = asyncio.Event(), asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, peak, heard
        under_way, heard = under_way + 1, heard + 1
        peak = max(peak, under_way)
        if under_way == 2:
            two.set()
        await go.wait()
        under_way -= 1
        await says(OK)(reader, writer)

    async with relay(tmp_path, RELAY_DELIVERIES_IN_FLIGHT_MAX="5") as running, receiver(speak) as port:
        body = {"url": f"http://127.0.0.1:{port}/", "event_types": ["job.submitted"], "in_flight_max": 2}
        await running.client.post("/v1/endpoints", json=body)
        await running.submit()
        await asyncio.gather(*(running.submit() for _ in range(24)))
        async with asyncio.timeout(60):
            await two.wait()
        go.set()
        await running.until("/v1/deliveries?status=pending", lambda shown: not shown["data"])
        assert (heard, peak) == (25, 2)


async def test_what_waits_for_an_endpoint_that_is_gone_is_canceled(running: Running) -> None:
    """410 ends its own delivery, disables the endpoint, and calls off the retries of every other one."""
    running.sink.answers = [500, 410]
    first = await attempted(running, running.hook)
    await running.submit()
    shown = await running.until(f"/v1/deliveries/{first['id']}", lambda shown: shown["status"] != "pending")
    assert (shown["status"], shown["next_attempt_at"]) == ("canceled", None)
    endpoint = await running.get(f"/v1/endpoints/{first['endpoint']}")
    assert (endpoint["status"], "410" in endpoint["disabled_reason"]) == ("disabled", True)
    await running.submit()
    assert len((await running.get("/v1/deliveries"))["data"]) == len(running.sink.received) == 2
