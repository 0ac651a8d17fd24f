"""The memory of request bodies that are being read: bounded in all, for a project, and for the callbacks of a job."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.metrics import Metrics
from relay.web.bodies import OWNER_SHARE, BodyMemory, MemoryFull, OwnerFull
from tests.calling_back import DONE, kept, state
from tests.running import KEY, Running, relay
from tests.test_connections import peer, request

pytestmark = pytest.mark.anyio

ALL_BYTES = 1 << 23
SHARE_BYTES = ALL_BYTES // OWNER_SHARE


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A relay in which all open bodies may take 8 MiB, and those of one owner 1 MiB."""
    sizes = {"RELAY_BODIES_MAX_BYTES": str(ALL_BYTES), "RELAY_REQUEST_BODY_MAX_BYTES": str(ALL_BYTES)}
    async with relay(tmp_path, confirm=False, **sizes) as started:  # type: ignore[arg-type]
        yield started


def begun(path: str, size: int, *lines: str) -> bytes:
    """A request of which all but the last byte of a body of `size` is there."""
    return request("POST", path, f"content-length: {size}", *lines) + b" " * (size - 1)


@pytest.mark.parametrize("over", [0, 1])
async def test_a_project_has_its_share(running: Running, over: int) -> None:
    """Read open bodies of a project up to an eighth of the memory; answer 429 with Retry-After to a byte more."""
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
    assert ('relay_refused_total{bound="bodies_per_owner"} 1.0' in shown) == bool(over)


async def test_a_job_has_its_share(running: Running) -> None:
    """Answer 413 to a callback beyond its job's share, note it, and take another job's callbacks all the while."""
    job, _ = await running.submit(), await running.submit()
    first, second = (urlsplit(running.callback_url(number)).path for number in (0, 1))
    async with AsyncExitStack() as stack:
        senders = [await stack.enter_async_context(peer(running.origin)) for _ in range(2)]
        await senders[0].send(begun(first, SHARE_BYTES * 3 // 4))
        await senders[1].send(begun(first, SHARE_BYTES * 3 // 4))
        ended = {asyncio.create_task(sender.answer()): sender for sender in senders}
        done, _waiting = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        (refused,) = done
        assert refused.result()[0] == 413
        assert (await running.client.post(running.origin + second, content=DONE)).status_code == 200
        (left,) = set(ended) - done
        await ended[left].send(b" ")
        assert (await left)[0] == 200
    reasons = [callback["reason"] for callback in await kept(running) if callback["job"] == job["id"]]
    assert any("too many bodies" in reason for reason in reasons)
    assert await state(running, job) == "submitted"


OWNERS = st.sampled_from("abc")


@given(st.lists(st.tuples(OWNERS, st.integers(0, 60))))
def test_what_is_taken_never_exceeds_its_bounds(asked: list[tuple[str, int]]) -> None:
    """Take exactly what fits in the owner's share and in all, and have all of it back in the end."""
    memory = BodyMemory(160, Metrics())  # a share of 20
    taken: list[tuple[str, int]] = []
    for owner, size in asked:
        own = sum(bytes_ for name, bytes_ in taken if name == owner) + size
        every = sum(bytes_ for _, bytes_ in taken) + size
        if own > 160 // OWNER_SHARE:
            with pytest.raises(OwnerFull):
                memory.take(owner, size)
        elif every > 160:
            with pytest.raises(MemoryFull):
                memory.take(owner, size)
        else:
            memory.take(owner, size)
            taken.append((owner, size))
    for owner, size in taken:
        memory.give_back(owner, size)
    memory.take("a", 160 // OWNER_SHARE)


def test_all_owners_share_one_bound() -> None:
    """Refuse the ninth owner that takes a whole share."""
    memory = BodyMemory(160, Metrics())
    for owner in range(OWNER_SHARE):
        memory.take(str(owner), 20)
    with pytest.raises(MemoryFull):
        memory.take("another", 1)
    memory.give_back("0", 1)
    memory.take("another", 1)
