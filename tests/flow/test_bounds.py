"""Every limit that refuses: what is within it passes, what is one over it is refused, counted and named after it."""

import asyncio
import re
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any, Final

import pytest

from relay.errors import Bound
from relay.settings import Settings
from relay.web.connections import CloseReason
from tests.api.test_connections import Peer, peer, request
from tests.flow.test_uploads import EVOLINK, FILE, form
from tests.support.calling_back import DONE
from tests.support.paying import Seller, paid, selling
from tests.support.quiescence import quiet, watched_loop
from tests.support.running import INPUT, KEY, HeldClock, Running, relay

pytestmark = pytest.mark.anyio

AUTHORIZED: Final = f"authorization: Bearer {KEY}"
FORM: Final = "content-type: multipart/form-data; boundary=b0undary"
OTHER_REASONS: Final = {"evicted", "not_http", "tunnel"}
Probe = Callable[[Running], Awaitable[list[int]]]
"""Does what is within the limit and then what is not; returns the statuses of the answers."""

PROBES: Final[dict[Bound, tuple[dict[str, str], Probe, list[int]]]] = {}
"""For each limit: settings that make it small, what reaches it, and the answers."""


def probe(bound: Bound, answers: list[int], **environ: Any) -> Callable[[Probe], Probe]:
    """Enter what reaches a limit into the table."""

    def entered(function: Probe) -> Probe:
        PROBES[bound] = (environ, function, answers)
        return function

    return entered


async def posted(running: Running, path: str, **options: Any) -> int:
    """Return the status of the answer to a POST."""
    return (await running.client.post(path, **options)).status_code


async def open_form(stack: AsyncExitStack, running: Running) -> Peer:
    """Return a connection on which an upload has begun, and does not end."""
    uploading = await stack.enter_async_context(peer(running.origin))
    await uploading.send(request("POST", "/v1/files", AUTHORIZED, FORM, "content-length: 1000") + b"--b0undary")
    await quiet()
    return uploading


@probe(Bound.REQUEST_BODY_MAX_BYTES, [422, 413], RELAY_REQUEST_BODY_MAX_BYTES="1024")
async def _request_body(running: Running) -> list[int]:
    return [await posted(running, "/v1/quotes", content=b" " * size) for size in (1024, 1025)]


@probe(Bound.CALLBACK_BODY_MAX_BYTES, [200, 413], RELAY_CALLBACK_BODY_MAX_BYTES="1024")
async def _callback_body(running: Running) -> list[int]:
    await running.submit()
    return [await posted(running, running.callback_url(), content=b" " * size) for size in (1024, 1025)]


@probe(
    Bound.BODIES_MAX_BYTES,
    [422, 503],
    RELAY_BODIES_MAX_BYTES=str(1 << 23),
    RELAY_BODIES_FOR_CALLBACKS_BYTES=str((1 << 23) - 1024),
)
async def _bodies(running: Running) -> list[int]:
    return [await in_two_pieces(running, size) for size in (1025, 1026)]


@probe(Bound.BODIES_PER_OWNER_MAX_BYTES, [422, 429], RELAY_BODIES_PER_OWNER_MAX_BYTES="1024")
async def _bodies_per_owner(running: Running) -> list[int]:
    return [await in_two_pieces(running, size) for size in (1025, 1026)]


async def in_two_pieces(running: Running, size: int) -> int:
    """Return the status of the answer to a request whose last byte comes alone, so that the rest takes memory."""
    async with peer(running.origin) as client:
        await client.send(request("POST", "/v1/quotes", AUTHORIZED, f"content-length: {size}"))
        await quiet()
        await client.send(b" " * (size - 1))
        await quiet()
        await client.send(b" ")
        return (await client.answer())[0]


@probe(Bound.BODY_DEADLINE_S, [422, 408], RELAY_BODY_DEADLINE_S="0.3")
async def _body_deadline(running: Running) -> list[int]:
    with watched_loop().time_held() as advance:
        async with peer(running.origin) as client:
            await client.send(request("POST", "/v1/quotes", AUTHORIZED, "content-length: 2") + b" ")
            in_time = await in_two_pieces(running, 2)
            advance(0.301)
            return [in_time, (await client.answer())[0]]


@probe(Bound.UPLOAD_MAX_BYTES, [200, 413], RELAY_UPLOAD_MAX_BYTES="2000")
async def _upload(running: Running) -> list[int]:
    png = b"\x89PNG\r\n\x1a\n"
    made = [form(("file", png + b"x" * (size - len(png)), "a.png", "image/png"), EVOLINK) for size in (2000, 2001)]
    return [await posted(running, "/v1/files", content=body, headers=kind) for body, kind in made]


@probe(Bound.UPLOAD_MIN_BYTES_PER_S, [200, 408], RELAY_BODY_DEADLINE_S="0.3", RELAY_UPLOAD_MIN_BYTES_PER_S="1000000")
async def _slow_upload(running: Running) -> list[int]:
    body, kind = form(FILE, EVOLINK)
    async with AsyncExitStack() as stack:
        slow = await open_form(stack, running)
        return [await posted(running, "/v1/files", content=body, headers=kind), (await slow.answer())[0]]


async def an_upload_beside_another(running: Running) -> list[int]:
    """Return the answers to an upload that is the only one, and to one beside an open one."""
    body, kind = form(FILE, EVOLINK)
    async with AsyncExitStack() as stack:
        first = await posted(running, "/v1/files", content=body, headers=kind)
        await open_form(stack, running)
        return [first, await posted(running, "/v1/files", content=body, headers=kind)]


async def a_stream_beside_another(running: Running) -> list[int]:
    """Return the answers to a stream that is the only one, and to one beside it."""
    async with running.client.stream("GET", "/v1/events/stream") as first:
        return [first.status_code, (await running.client.get("/v1/events/stream")).status_code]


probe(Bound.UPLOADS_MAX, [200, 503], RELAY_UPLOADS_MAX="1")(an_upload_beside_another)
probe(Bound.UPLOADS_PER_PROJECT_MAX, [200, 429], RELAY_UPLOADS_PER_PROJECT_MAX="1")(an_upload_beside_another)
probe(Bound.STREAMS_MAX, [200, 503], RELAY_STREAMS_MAX="1")(a_stream_beside_another)
probe(Bound.STREAMS_PER_PROJECT_MAX, [200, 429], RELAY_STREAMS_PER_PROJECT_MAX="1")(a_stream_beside_another)


@probe(Bound.ENDPOINTS_PER_PROJECT_MAX, [201, 409], RELAY_ENDPOINTS_PER_PROJECT_MAX="1")
async def _endpoints(running: Running) -> list[int]:
    return [await posted(running, "/v1/endpoints", json={"url": running.hook}) for _ in range(2)]


@probe(Bound.NOTIFY_MAX, [202, 422], RELAY_NOTIFY_MAX="1")
async def _notify(running: Running) -> list[int]:
    job = {"provider": "evolink", "input": INPUT}
    return [await posted(running, "/v1/jobs", json=job | {"notify": [{"url": running.hook}] * n}) for n in (1, 2)]


@probe(Bound.CALLBACKS_PER_JOB_MAX, [200, 200], RELAY_CALLBACKS_PER_JOB_MAX="1")
async def _callbacks(running: Running) -> list[int]:
    await running.submit()
    return [await posted(running, running.callback_url(), content=DONE) for _ in range(2)]


@probe(Bound.CALLBACK_BYTES_PER_JOB_MAX, [200, 200], RELAY_CALLBACK_BYTES_PER_JOB_MAX="2000")
async def _callback_bytes(running: Running) -> list[int]:
    await running.submit()
    return [await posted(running, running.callback_url(), content=DONE + b" " * size) for size in (0, 2000)]


@probe(Bound.DOUBTS_FREE, [200, 200], RELAY_DOUBTS_FREE="1")
async def _doubts(running: Running) -> list[int]:
    await running.submit()
    first = await posted(running, running.callback_url(), content=b"junk")
    await running.world.wait_for(lambda world: len(world.status_checks) == 1)
    await quiet()
    return [first, await posted(running, running.callback_url(), content=b"more junk")]


@probe(Bound.CHECKS_ASKED_PER_JOB, [200, 429], RELAY_CHECKS_ASKED_PER_JOB="1")
@probe(Bound.CHECKS_ASKED_PER_PROJECT, [200, 429], RELAY_CHECKS_ASKED_PER_PROJECT="1")
async def _checks(running: Running) -> list[int]:
    job = await running.submit()
    return [await posted(running, f"/v1/jobs/{job['id']}/status-checks") for _ in range(2)]


@probe(Bound.RATE_PER_KEY, [200, 429], RELAY_RATE_PER_KEY="0.1", RELAY_BURST_PER_KEY="1")
async def _requests_of_a_key(running: Running) -> list[int]:
    return [(await running.client.get("/v1/whoami")).status_code for _ in range(2)]


@probe(Bound.RATE_PER_ADDRESS, [404, 429], RELAY_RATE_PER_ADDRESS="0.1", RELAY_BURST_PER_ADDRESS="1")
async def _requests_of_an_address(running: Running) -> list[int]:
    return [(await running.client.get("/nothing")).status_code for _ in range(2)]


@probe(Bound.SPEND_MAX_PER_DAY, [202, 402], RELAY_SPEND_MAX_PER_DAY="0.5", RELAY_PROJECT_SPEND_MAX_PER_DAY="9")
@probe(Bound.SPEND_MAX_PER_HOUR, [202, 402], RELAY_SPEND_MAX_PER_HOUR="0.5", RELAY_PROJECT_SPEND_MAX_PER_HOUR="9")
@probe(Bound.PROJECT_SPEND_MAX_PER_HOUR, [202, 402], RELAY_PROJECT_SPEND_MAX_PER_HOUR="0.5")
@probe(Bound.PROJECT_SPEND_MAX_PER_DAY, [202, 402], RELAY_PROJECT_SPEND_MAX_PER_DAY="0.5")
async def _spending(running: Running) -> list[int]:
    await paid(running)
    return [202, await posted(running, "/v1/jobs", json={"provider": "stablestudio", "input": INPUT})]


@probe(Bound.SPEND_MAX_PER_JOB, [402], RELAY_SPEND_MAX_PER_JOB="0.329999")
async def _spending_on_a_job(running: Running) -> list[int]:
    return [await posted(running, "/v1/jobs", json={"provider": "stablestudio", "input": INPUT})]


@pytest.mark.parametrize("bound", [bound for bound in Bound if bound is not Bound.BACKLOG_MAX])
async def test_what_is_over_a_limit_is_refused_and_counted(tmp_path: Path, bound: Bound) -> None:
    """Pass what is within the limit, refuse what is over it with the status of its kind, and count that one alone."""
    environ, reach, answers = PROBES[bound]
    async with selling(tmp_path, Seller(), HeldClock(), **environ) as running:
        assert await reach(running) == answers
        shown = (await running.client.get("/metrics")).text
    counted = dict(re.findall(r'^relay_refused_total\{bound="(\w+)"\} (\S+)$', shown, re.MULTILINE))
    assert counted == {each: "1.0" if each == bound else "0.0" for each in Bound}


async def test_a_full_backlog_is_refused_and_counted(tmp_path: Path) -> None:
    """Answer 503 to the writes that find RELAY_BACKLOG_MAX waiting, count each, and 202 to those that wait."""
    database = tmp_path / "here.db"
    environ = {"DATABASE_URL": f"sqlite:///{database}", "RELAY_BACKLOG_MAX": "16"}
    async with relay(tmp_path, **environ) as running:  # type: ignore[arg-type]
        body = {"url": running.hook, "status": "disabled"}
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked = [asyncio.create_task(posted(running, "/v1/endpoints", json=body)) for _ in range(60)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            other.execute("ROLLBACK")
        statuses = sorted(await asyncio.gather(*asked))
        assert set(statuses) == {201, 503}
        assert statuses.count(201) >= 16
        shown = (await running.client.get("/metrics")).text
    assert f'relay_refused_total{{bound="backlog_max"}} {statuses.count(503)}.0' in shown


def test_a_limit_is_counted_by_the_name_of_its_setting() -> None:
    """Name each limit in `relay_refused` and `relay_connections_closed` as its setting, but for three reasons."""
    settings = set(Settings.__struct_fields__)
    assert set(Bound) <= settings
    assert set(CloseReason) - settings == OTHER_REASONS
    assert set(PROBES) | {Bound.BACKLOG_MAX} == set(Bound)
