"""The memory of open request bodies: its limit in total, for a project, and for the callbacks of a job."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import settings
from relay.errors import SettingsError
from relay.web.request_body import BodyMemory, MemoryFull, MemoryLimits, Owner, OwnerMemoryFull, memory_limits
from tests.api.test_connections import peer, request
from tests.support.calling_back import DONE, kept, state
from tests.support.running import KEY, Running, relay

pytestmark = pytest.mark.anyio

ALL_BYTES = 1 << 23
SHARE_BYTES = ALL_BYTES // 8
LIMITS = MemoryLimits(max_bytes=160, per_owner_max_bytes=20, requests_max_bytes=120)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay in which all open bodies may use 8 MiB, and those of one owner 1 MiB."""
    sizes = {"RELAY_BODIES_MAX_BYTES": str(ALL_BYTES), "RELAY_REQUEST_BODY_MAX_BYTES": str(ALL_BYTES)}
    async with relay(tmp_path, confirm=False, **sizes) as started:  # type: ignore[arg-type]
        yield started


def begun(path: str, size: int, *lines: str) -> bytes:
    """Return a request with all but the last byte of a body of `size` bytes."""
    return request("POST", path, f"content-length: {size}", *lines) + b" " * (size - 1)


@pytest.mark.parametrize("over", [0, 1])
async def test_a_project_has_its_share(running: Running, over: int) -> None:
    """Read open bodies of a project up to an eighth of the memory; answer 429 with Retry-After to one byte more."""
    authorized = f"authorization: Bearer {KEY}"
    async with peer(running.origin) as sender:
        await sender.send(begun("/v1/quotes", SHARE_BYTES + 1 + over, authorized))
        if over:
            status, head, _ = await sender.answer()
            assert (status, b"retry-after: 1\r\n" in head) == (429, True)
        else:
            await sender.send(b" ")
            assert (await sender.answer())[0] == 422
    assert (await running.client.post("/v1/quotes", content=b" " * SHARE_BYTES)).status_code == 422
    shown = (await running.client.get("/metrics")).text
    assert ('relay_refused_total{bound="bodies_per_owner_max_bytes"} 1.0' in shown) == bool(over)


async def test_a_job_has_its_share(running: Running) -> None:
    """Ask for a callback over its job's share again and note it, while another job's callbacks are accepted."""
    job, _ = await running.submit(), await running.submit()
    first, second = (urlsplit(running.callback_url(number)).path for number in (0, 1))
    async with AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(peer(running.origin)) for _ in range(2)]
        await senders[0].send(begun(first, SHARE_BYTES * 3 // 4))
        await senders[1].send(begun(first, SHARE_BYTES * 3 // 4))
        ended = {asyncio.create_task(sender.answer()): sender for sender in senders}
        done, _waiting = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = done
        status, head, _ = refused.result()
        assert (status, b"retry-after: 2" in head) == (503, True)
        assert (await running.client.post(running.origin + second, content=DONE)).status_code == 200
        (left,) = set(ended) - done
        await ended[left].send(b" ")
        assert (await left)[0] == 200
    reasons = [callback["reason"] for callback in await kept(running) if callback["job"] == job["id"]]
    assert any("too many bodies" in reason for reason in reasons)
    assert await state(running, job) == "submitted"


@pytest.mark.parametrize("over", [0, 1])
async def test_api_bodies_leave_memory_for_callbacks(tmp_path: Path, over: int) -> None:
    """Answer 503 to a client's body that needs the memory kept for callbacks, and 200 to a callback meanwhile."""
    for_requests = 1 << 20
    sizes = {
        "RELAY_BODIES_MAX_BYTES": str(ALL_BYTES),
        "RELAY_BODIES_FOR_CALLBACKS_BYTES": str(ALL_BYTES - for_requests),
    }
    sizes |= {"RELAY_BODIES_PER_OWNER_MAX_BYTES": str(ALL_BYTES), "RELAY_REQUEST_BODY_MAX_BYTES": str(ALL_BYTES)}
    async with relay(tmp_path, confirm=False, **sizes) as running:  # type: ignore[arg-type]
        job = await running.submit()
        callback = request("POST", urlsplit(running.callback_url()).path, body=DONE + b" " * 1_000_000)
        async with peer(running.origin) as client, peer(running.origin) as provider:
            await client.send(begun("/v1/quotes", for_requests + 1 + over, f"authorization: Bearer {KEY}"))
            await provider.send(callback[:500_000], callback[500_000:])
            assert (await provider.answer())[0] == 200
            if not over:
                await client.send(b" ")
            assert (await client.answer())[0] == (503 if over else 422)
        assert await state(running, job) == "succeeded"
        shown = (await running.client.get("/metrics")).text
        assert ('relay_refused_total{bound="bodies_max_bytes"} 1.0' in shown) == bool(over)


OWNERS = st.builds(Owner, st.sampled_from("abcdefgh"), st.booleans())


@given(st.lists(st.tuples(OWNERS, st.integers(0, 21)), max_size=60))
def test_reserved_memory_never_exceeds_its_limits(asked: list[tuple[Owner, int]]) -> None:
    """Reserve exactly what fits in the owner's share, the total and the callbacks' part; release all of it."""
    memory = BodyMemory(LIMITS)
    reserved: list[tuple[Owner, int]] = []
    for owner, size in asked:
        own = sum(bytes_ for name, bytes_ in reserved if name == owner) + size
        every = sum(bytes_ for _, bytes_ in reserved) + size
        requests = sum(bytes_ for one, bytes_ in reserved if not one.is_callback) + (0 if owner.is_callback else size)
        if own > LIMITS.per_owner_max_bytes:
            with pytest.raises(OwnerMemoryFull):
                memory.reserve(owner, size)
        elif every > LIMITS.max_bytes or requests > LIMITS.requests_max_bytes:
            with pytest.raises(MemoryFull):
                memory.reserve(owner, size)
        else:
            memory.reserve(owner, size)
            reserved.append((owner, size))
    for owner, size in reserved:
        memory.release(owner, size)
    memory.reserve(Owner("a"), LIMITS.per_owner_max_bytes)


def test_api_requests_have_less_memory_than_callbacks() -> None:
    """Refuse one byte of a project over what is not kept for callbacks, and one byte of a callback over the total."""
    memory = BodyMemory(LIMITS)
    for number in range(6):
        memory.reserve(Owner(str(number)), 20)
    with pytest.raises(MemoryFull):
        memory.reserve(Owner("another"), 1)
    memory.reserve(Owner("job_1", is_callback=True), 20)
    memory.reserve(Owner("job_2", is_callback=True), 20)
    with pytest.raises(MemoryFull):
        memory.reserve(Owner("job_3", is_callback=True), 1)
    memory.release(Owner("0"), 1)
    memory.reserve(Owner("another"), 1)


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({}, MemoryLimits(1 << 26, 1 << 23, 3 << 24)),
        ({"RELAY_BODIES_MAX_BYTES": str(1 << 23)}, MemoryLimits(1 << 23, 1 << 20, 3 << 21)),
        ({"RELAY_BODIES_PER_OWNER_MAX_BYTES": "5000"}, MemoryLimits(1 << 26, 5000, 3 << 24)),
        ({"RELAY_BODIES_FOR_CALLBACKS_BYTES": "0"}, MemoryLimits(1 << 26, 1 << 23, 1 << 26)),
        ({"RELAY_BODIES_FOR_CALLBACKS_BYTES": str((1 << 26) - 1)}, MemoryLimits(1 << 26, 1 << 23, 1)),
    ],
)
def test_the_settings_divide_the_memory(given: dict[str, str], limits: MemoryLimits) -> None:
    """Give one owner an eighth and callbacks a quarter of the memory, unless a setting names the bytes."""
    assert memory_limits(settings.load(given, ())) == limits


def test_callbacks_cannot_have_all_memory() -> None:
    """Refuse a setting that keeps all memory for callbacks."""
    with pytest.raises(SettingsError, match="RELAY_BODIES_FOR_CALLBACKS_BYTES must be less"):
        settings.load({"RELAY_BODIES_FOR_CALLBACKS_BYTES": str(1 << 26)}, ())
