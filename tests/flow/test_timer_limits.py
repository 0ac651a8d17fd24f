"""Time limits that the event loop's own timers hold, each just before and just after: forms, and requests that wait."""

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from relay.jobs import status_checks
from relay.sandbox.faults import Faults
from tests.api.test_connections import request
from tests.flow.test_form_limits import part
from tests.support.held import MS, lost
from tests.support.quiescence import quiet, watched_loop
from tests.support.running import KEY, Running, relay

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("file_bytes", "cut_s"), [(0, 8), (40, 48), (291, 299), (293, 300), (2_000, 300)])
async def test_a_form_has_a_second_more_for_each_of_its_least_bytes_up_to_300_s(
    tmp_path: Path, file_bytes: int, cut_s: float
) -> None:
    """Refuse a form after RELAY_BODY_DEADLINE_S and a second for each RELAY_UPLOAD_MIN_BYTES_PER_S, but after 300 s."""
    start = part("file", b"", "a.png")
    rate = len(start)
    async with relay(tmp_path, RELAY_UPLOAD_MIN_BYTES_PER_S=str(rate), RELAY_BODY_DEADLINE_S="8") as running:
        at = urlsplit(running.origin)
        with watched_loop().time_held() as advance:
            reader, writer = await asyncio.open_connection(at.hostname, at.port)
            form = start + b"1" * (rate * (file_bytes - 1)) if file_bytes else b""
            lines = (
                f"authorization: Bearer {KEY}",
                "content-type: multipart/form-data; boundary=x",
                "content-length: 1000000",
            )
            writer.write(request("POST", "/v1/files", *lines) + form)
            await quiet()
            advance(cut_s - MS)
            await quiet()
            answer = asyncio.create_task(reader.readline())
            await quiet()
            assert not answer.done()
            advance(2 * MS)
            assert b" 408 " in await answer
            writer.close()


async def wanted_check(running: Running) -> "asyncio.Task[int]":
    """Return the request for a status check that its provider does not answer; it gives the response's status."""
    job = await lost(running, Faults(lost=True, check="hang"))
    path = f"/v1/jobs/{job['id']}/status-checks"

    async def status() -> int:
        return (await running.client.post(path)).status_code

    wanted = asyncio.create_task(status())
    await quiet()
    return wanted


@pytest.mark.parametrize(("timeout_s", "answered_s"), [(15.0, 15.0), (60.0, 27.0)])
async def test_a_wanted_check_is_waited_for_27_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: float, answered_s: float
) -> None:
    """Answer when the check is over, and after 27 s where a provider may take longer, signed in again, say."""
    monkeypatch.setattr(status_checks, "TIMEOUT_S", timeout_s)
    async with relay(tmp_path) as running:
        with watched_loop().time_held() as advance:
            wanted = await wanted_check(running)
            advance(answered_s - MS)
            await quiet()
            assert not wanted.done()
            advance(2 * MS)
            assert await wanted == (200 if timeout_s < answered_s + MS else 503)
