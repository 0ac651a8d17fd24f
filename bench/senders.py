"""What relay's sender costs beside HTTP clients: each behind the same guard, deadline and response cap, plain and TLS.

relay is `relay.outbound.webhook_sender.WebhookSender` as it is; the others stand as they would behind the same seam,
and pyreqwest is measured where it is installed (`pip install pyreqwest`). CPU is this process's own; the receiver has
one of its own.
"""

import asyncio
import json
import os
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import aiohttp.abc
import click
import httpx
import msgspec
import uvloop

from bench import certificate
from relay.outbound.resolver import Resolver
from relay.outbound.trust import Trust
from relay.outbound.webhook_sender import WebhookSender
from relay.security.url_policy import AddressPolicy
from relay.settings import parse_networks
from tests.support.ports import free_port

BODY = json.dumps({"data": "x" * 1000}).encode()
HEADERS = {"content-type": "application/json", "webhook-id": "evt_1"}
TIMEOUT_S, CONNECT_S, RESPONSE_MAX_BYTES = 15.0, 5.0, 16 * 1024
Post = Callable[[str], Awaitable[int]]


@click.command("senders")
@click.option("--requests", default=4000, help="POSTs in each round.")
@click.option("--in-flight", default=64, help="POSTs at once.")
@click.option("--rounds", default=3, help="Interleaved rounds; the medians count.")
def command(requests: int, in_flight: int, rounds: int) -> None:
    """Print the POSTs a second with each client; the receiver has a process of its own."""
    rows = uvloop.run(_all(requests, in_flight, rounds))
    click.echo(f"{'client':12}{'plain /s':>10}{'TLS /s':>10}{'plain us':>10}{'TLS us':>9}{'of aiohttp':>12}{'TLS':>8}")
    for name, (plain, secure) in rows.items():
        base = rows["aiohttp"]
        of_base = f"{base[0].cpu_us / plain.cpu_us:12.2f}{base[1].cpu_us / secure.cpu_us:8.2f}"
        click.echo(f"{name:12}{plain.per_s:10.0f}{secure.per_s:10.0f}{plain.cpu_us:10.0f}{secure.cpu_us:9.0f}{of_base}")
    shown = {
        name: {"per_s": [round(x.per_s) for x in row], "cpu_us": [round(x.cpu_us) for x in row]}
        for name, row in rows.items()
    }
    click.echo(json.dumps({"bench": "senders", "clients": shown}))


class Rate(msgspec.Struct, frozen=True):
    """POSTs a second, and what each took of this process's CPU."""

    per_s: float
    cpu_us: float


async def _all(requests: int, in_flight: int, rounds: int) -> dict[str, tuple[Rate, Rate]]:
    """Every client in turn, round by round, plain and over TLS."""
    with tempfile.TemporaryDirectory() as folder:
        pem, server, key = certificate.made(Path(folder))
        os.environ["SSL_CERT_FILE"] = str(pem)
        policy = AddressPolicy(parse_networks("127.0.0.0/8,::1/128"), True, frozenset())
        clients = {"relay": relay_posts, "aiohttp": aiohttp_posts, "httpx": _httpx}
        try:
            import pyreqwest  # noqa: F401, PLC0415
        except ImportError:
            pass
        else:
            clients["pyreqwest"] = _pyreqwest
        found: dict[str, list[list[Rate]]] = {name: [[], []] for name in clients}
        async with _receiver() as plain, _receiver(server, key) as secure:
            for number in range(rounds):
                for name, client in clients.items():
                    if sys.stderr.isatty():
                        click.echo(f"round {number + 1}/{rounds}: {name}", err=True)
                    for index, origin in enumerate((plain, secure)):
                        async with client(policy, pem) as post:
                            await _rate(post, f"{origin}/warm", 100, in_flight)
                            found[name][index].append(await _rate(post, f"{origin}/hook", requests, in_flight))
        return {name: (_median(row[0]), _median(row[1])) for name, row in found.items()}


def _median(rates: list[Rate]) -> Rate:
    """Return the middle of the rounds."""
    return Rate(statistics.median(one.per_s for one in rates), statistics.median(one.cpu_us for one in rates))


async def _rate(post: Post, url: str, requests: int, in_flight: int) -> Rate:
    """So many POSTs, and what they took."""
    left = iter(range(requests))

    async def work() -> None:
        for _ in left:
            status = await post(url)
            assert status == 200, status

    began, began_cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(in_flight)))
    took_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    return Rate(requests / took_s, cpu_s / requests * 1e6)


@asynccontextmanager
async def relay_posts(policy: AddressPolicy, _: Path | None, body: bytes = BODY) -> AsyncIterator[Post]:
    """relay's own sender."""
    async with WebhookSender(policy, Resolver(), Trust(), connections_max=256) as sender:

        async def post(url: str) -> int:
            answer = await sender.post(url, HEADERS, body, TIMEOUT_S)
            return answer.status_code or 0

        yield post


class _Guarded(aiohttp.abc.AbstractResolver):
    """Looks names up as relay does, and judges every address: aiohttp connects to one of these."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy, self._resolver = policy, Resolver()

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:  # noqa: ARG002
        """Return the addresses, all of which may be called."""
        found = await self._resolver.addresses(host)
        assert all(self._policy.may_connect(address.host) for address in found)
        return [
            {"hostname": host, "host": one.host, "port": port, "family": one.family, "proto": 0, "flags": 0}
            for one in found
        ]

    async def close(self) -> None:
        """Nothing is kept open."""


@asynccontextmanager
async def aiohttp_posts(policy: AddressPolicy, pem: Path | None, body: bytes = BODY) -> AsyncIterator[Post]:
    """Yield the client that relay sent with before it had one of its own, used in the same way."""
    context = ssl.create_default_context(cafile=str(pem) if pem else None)
    connector = aiohttp.TCPConnector(
        resolver=_Guarded(policy), limit=256, limit_per_host=0, use_dns_cache=False, keepalive_timeout=30, ssl=context
    )
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
    )
    async with session:

        async def post(url: str) -> int:
            assert not policy.check_url(url)
            async with asyncio.timeout(TIMEOUT_S):
                async with session.post(url, data=body, headers=HEADERS, allow_redirects=False) as answer:
                    held = bytearray()
                    async for piece in answer.content.iter_any():
                        held += piece
                        if len(held) > RESPONSE_MAX_BYTES:
                            break
                    return answer.status

        yield post


@asynccontextmanager
async def _httpx(policy: AddressPolicy, pem: Path) -> AsyncIterator[Post]:
    """One shared client; it resolves the name again after the check, which a real sender could not leave so."""
    context = ssl.create_default_context(cafile=str(pem))
    limits = httpx.Limits(max_connections=256)
    async with httpx.AsyncClient(verify=context, trust_env=False, limits=limits) as client:

        async def post(url: str) -> int:
            await _checked(policy, url)
            async with asyncio.timeout(TIMEOUT_S), client.stream("POST", url, content=BODY, headers=HEADERS) as answer:
                held = 0
                async for piece in answer.aiter_raw():
                    held += len(piece)
                    if held > RESPONSE_MAX_BYTES:
                        break
                return answer.status_code

        yield post


@asynccontextmanager
async def _pyreqwest(policy: AddressPolicy, pem: Path) -> AsyncIterator[Post]:
    """Yield a client for each host, pinned to a checked address; the name is looked up again after 5 s."""
    from pyreqwest.client import ClientBuilder  # noqa: PLC0415

    trusted = pem.read_bytes()  # noqa: ASYNC240 - a few hundred bytes, before anything is measured
    async with AsyncExitStack() as stack:
        clients: dict[tuple[str, str], object] = {}
        known: dict[str, tuple[float, tuple[str, str, int]]] = {}

        async def post(url: str) -> int:
            kept = known.get(url)
            if kept is None or kept[0] < time.monotonic():
                kept = known[url] = (time.monotonic() + 5, await _checked(policy, url))
            host, address, port = kept[1]
            client = clients.get((host, address))
            if client is None:
                builder = ClientBuilder().add_root_certificate_pem(trusted).no_proxy().max_redirects(0)
                built = builder.connect_timeout(_seconds(CONNECT_S)).resolve(host, address, port).build()
                client = clients[host, address] = await stack.enter_async_context(built)
            request = client.post(url).headers(HEADERS).body_bytes(BODY).timeout(_seconds(TIMEOUT_S))  # type: ignore[attr-defined]
            async with request.streamed_read_buffer_limit(RESPONSE_MAX_BYTES).build_streamed() as answer:
                await answer.body_reader.read(RESPONSE_MAX_BYTES + 1)
                return int(answer.status)

        yield post


def _seconds(seconds: float) -> object:
    """Return a duration as pyreqwest wants it."""
    from datetime import timedelta  # noqa: PLC0415

    return timedelta(seconds=seconds)


async def _checked(policy: AddressPolicy, url: str) -> tuple[str, str, int]:
    """Return the host, an address of it that may be called, and the port; every address is judged."""
    assert not policy.check_url(url)
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    assert all(policy.may_connect(address) for address in addresses)
    return str(parts.hostname), addresses[0], port


@asynccontextmanager
async def _receiver(pem: Path | None = None, key: Path | None = None) -> AsyncIterator[str]:
    """Yield a receiver in a process of its own."""
    port, secure = free_port(), [str(pem), str(key)] if pem else []
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.receiver", str(port), *secure)
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield f"{'https' if pem else 'http'}://localhost:{port}"
    finally:
        child.terminate()
        await child.wait()
