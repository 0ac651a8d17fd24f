"""The limits of what is shared: checks of a provider, open streams and uploads, attempts, bodies, connections."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest
from starlette.types import Message

from relay import settings
from relay.errors import BadBody, InvalidInput, StorageUnavailable, TooManyRequests
from relay.jobs.rate_limit import AskedPace, Pace
from relay.metrics import Metrics
from relay.security.fair_share import FairShare
from relay.security.shares import Shares
from relay.web import request_body
from relay.web.connections import ConnectionTracker, limits_of
from relay.web.request_body import (
    BodyIncomplete,
    BodyMemory,
    BodyOverLimit,
    BodyTooSlow,
    MemoryFull,
    MemoryLimits,
    Owner,
    OwnerMemoryFull,
    ReadLimits,
)
from tests.support.rows import rows

pytestmark = pytest.mark.anyio


def started(in_flight_max: int, per_s: float, number: int, now_ms: int = 0) -> Pace:
    """Return the pace of a provider at which so many checks have begun."""
    pace = Pace(in_flight_max, per_s)
    for _ in range(number):
        pace.started(now_ms)
    return pace


@rows(("begun", "room"), [(0, 4), (1, 3), (3, 1), (4, 0), (5, 0)])
def test_so_many_checks_are_under_way_concurrently(begun: int, room: int) -> None:
    """Allow four checks from the first moment on, and never a negative number."""
    pace = started(4, 1_000.0, begun)
    assert pace.room(0) == room
    assert (pace.opens_at(0) is None) == (begun >= 4)


def test_checks_that_ended_are_counted_in_the_rate() -> None:
    """Allow after a burst one more in each interval, as many as are allowed concurrently after that many, not more."""
    pace = started(4, 2.0, 4)
    for _ in range(4):
        pace.finished()
    assert [pace.room(now_ms) for now_ms in (0, 499, 500, 999, 1_000, 1_999, 2_000, 60_000)] == [0, 0, 1, 1, 2, 3, 4, 4]
    assert [pace.opens_at(now_ms) for now_ms in (0, 501, 700)] == [501, 501, 700]
    pace.started(60_000)
    pace.finished()
    assert (pace.room(60_000), pace.room(60_499), pace.room(60_500)) == (3, 3, 4)


def test_no_check_begins_before_a_pause_is_over() -> None:
    """Allow none a millisecond before the end, all at the end, and let a shorter pause not shorten a longer one."""
    pace = Pace(4, 1.0)
    assert pace.pause(30_000, 0) == 30_000
    assert pace.pause(20_000, 0) == 30_000
    assert (pace.room(29_999), pace.room(30_000), pace.opens_at(0), pace.opens_at(40_000)) == (0, 4, 30_000, 40_000)
    assert pace.pause(40_000 + 600_001, 40_000) == 40_000 + 600_000


@rows(("others", "remembered"), [(9_998, True), (9_999, False)])
def test_the_last_ten_thousand_askers_are_remembered(others: int, remembered: bool) -> None:
    """Refuse a job's second check while it is among the last 10,000 jobs and projects that asked."""
    pace = AskedPace(1, 1_000_000)
    for number in range(1 + others):
        pace.ask(str(number), "project", 0)
    if not remembered:
        pace.ask("0", "project", 0)
        return
    with pytest.raises(TooManyRequests):
        pace.ask("0", "project", 0)


def test_a_share_and_the_whole_are_bounded() -> None:
    """Refuse a project its third and everybody the fourth, and take one again as soon as one is given back."""
    shares = Shares("streams", 3, 2)
    with shares.reserve("a"):
        with shares.reserve("a"):
            with pytest.raises(TooManyRequests):
                shares.check("a")
            with shares.reserve("b"):
                assert shares.total == 3
                with pytest.raises(StorageUnavailable), shares.reserve("b"):
                    pass
            assert shares.total == 2
        with shares.reserve("a"):
            assert shares.total == 2
    assert shares.total == 0


def test_a_project_with_little_under_way_may_use_what_is_kept() -> None:
    """Keep an eighth for projects that have fewer than that under way."""
    share = FairShare(16)
    assert (share.free_slots, share.project_max, share.in_flight("a")) == (16, 14, 0)
    for _ in range(13):
        share.start("a")
    assert share.may_start("a")
    share.start("a")
    assert (share.free_slots, share.may_start("a"), share.may_start("b")) == (2, False, True)
    share.start("b")
    assert share.may_start("b")
    share.start("b")
    assert (share.free_slots, share.may_start("b"), share.may_start("c")) == (0, False, False)
    share.release("b")
    assert (share.free_slots, share.in_flight("b"), share.may_start("a"), share.may_start("b")) == (1, 1, False, True)
    assert (FairShare(64).project_max, FairShare(7).project_max) == (56, 7)
    small = FairShare(16)
    for _ in range(2):
        small.start("b")
    for _ in range(12):
        small.start("a")
    assert not small.may_start("b")


def test_a_turn_goes_to_the_project_with_the_fewest_under_way() -> None:
    """Choose project by project in the order given, and each that has fewer first."""
    share = FairShare(16)
    left = {"a": 9, "b": 2, "c": 1}

    def pop(project_id: str) -> str | None:
        left[project_id] -= 1
        return project_id if left[project_id] >= 0 else None

    share.start("a")
    assert "".join(share.select("abc", pop)) == "bcabaaaaaaaa"


def test_a_client_may_nest_32_levels() -> None:
    """Read JSON of depth 32 and refuse 33."""
    assert request_body.parse(b"[" * 32 + b"]" * 32) is not None
    with pytest.raises(BadBody):
        request_body.parse(b"[" * 33 + b"]" * 33)


def test_a_repeated_key_is_named_in_sixty_characters() -> None:
    """Name the first repeated key in its order, cut after 60 characters."""
    long = "k" * 61
    with pytest.raises(BadBody) as refused:
        request_body.parse(f'{{"{long}":1,"{long}":2,"z":1,"z":2}}'.encode())
    assert str(refused.value).count("k") - "the key is there twice".count("k") == 60
    with pytest.raises(InvalidInput):
        request_body.parse(b'{"a":"\\u0000"}')


def test_an_owner_has_its_share_of_the_memory() -> None:
    """Take a share to the byte, and what was given back again."""
    memory = BodyMemory(MemoryLimits(160, 20, 160))
    memory.reserve(Owner("a"), 20)
    with pytest.raises(OwnerMemoryFull):
        memory.reserve(Owner("a"), 1)
    for owner in "bcdefgh":
        memory.reserve(Owner(owner), 20)
    with pytest.raises(MemoryFull):
        memory.reserve(Owner("i"), 1)
    memory.release(Owner("a"), 5)
    memory.reserve(Owner("a"), 2)
    with pytest.raises(OwnerMemoryFull):
        memory.reserve(Owner("a"), 4)
    memory.reserve(Owner("i"), 3)
    with pytest.raises(MemoryFull):
        memory.reserve(Owner("i"), 1)


def received(*pieces: bytes, cut: bool = False) -> Callable[[], "asyncio.Future[Message]"]:
    """Return what gives a body piece by piece, as a server does, and then waits for ever."""
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages += [{"type": "http.disconnect"}] if cut else []
    if not cut and messages:
        messages[-1]["more_body"] = False
    coming = iter(messages)

    def receive() -> "asyncio.Future[Message]":
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if (message := next(coming, None)) is not None:
            future.set_result(message)
        return future

    return receive


@rows("pieces", [(b"12345678",), (b"1234", b"5678"), (b"", b"12345678", b"")])
async def test_a_body_is_read_up_to_its_cap(pieces: Sequence[bytes]) -> None:
    """Read a body of exactly the cap, refuse one of a byte more with its start, and give all memory back."""
    memory = BodyMemory(MemoryLimits(64, 8, 64))

    async def read(max_bytes: int, *pieces: bytes, cut: bool = False) -> bytes:
        receive = received(*pieces, cut=cut)
        return await request_body.read(
            receive, ReadLimits(max_bytes=max_bytes, deadline_s=0.05, memory=memory, owner=Owner("a"))
        )

    assert await read(8, *pieces) == b"12345678"
    with pytest.raises(BodyOverLimit) as capped:
        await read(7, *pieces)
    assert capped.value.start == b"1234567"
    with pytest.raises(BodyIncomplete):
        await read(8, *pieces[:-1], cut=True)
    with pytest.raises(BodyTooSlow):
        await read(8)
    memory.reserve(Owner("a"), 8)
    with pytest.raises(OwnerMemoryFull):
        memory.reserve(Owner("a"), 1)
    for owner in "bcdefgh":
        memory.reserve(Owner(owner), 8)
    with pytest.raises(MemoryFull):
        memory.reserve(Owner("i"), 1)


class HeldLoop(asyncio.SelectorEventLoop):
    """An event loop whose time a test moves."""

    now_s = 1_000.0

    def time(self) -> float:
        """Return the time that the test has set."""
        return self.now_s


class Sender:
    """A connection, and what became of it."""

    def __init__(self) -> None:
        self.ended = ""

    def evict(self) -> None:
        """Note that it was closed without an answer."""
        self.ended = "evicted"

    def refuse(self) -> None:
        """Note that it was answered 503."""
        self.ended = "refused"

    def expire(self) -> None:
        """Note that it was idle for too long."""
        self.ended = "expired"


class Books:
    """The connections of a server in a loop on held time; a head may take 10 s."""

    def __init__(self, loop: HeldLoop, max_open: int) -> None:
        self._loop = loop
        self.connections = ConnectionTracker(limits_of(settings.load({}, ()), max_open), Metrics())

    def opened(self) -> Sender:
        """Open a connection."""
        sender = Sender()
        self.connections.add(sender)
        return sender

    def kept(self) -> Sender:
        """Open a connection whose first request was answered."""
        sender = self.opened()
        self.connections.head_complete(sender)
        self.connections.idle(sender)
        return sender

    async def wait(self, seconds: float) -> None:
        """Let time pass, in steps that are as fine as the sweep's."""
        ends_s = self._loop.now_s + seconds
        while self._loop.now_s < ends_s:
            self._loop.now_s = min(ends_s, self._loop.now_s + 0.25)
            for _ in range(3):
                await asyncio.sleep(0)  # the loop runs what is due now


@pytest.fixture
async def books() -> Callable[[int], Books]:
    """Make books in the loop of the test."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, HeldLoop)
    return lambda max_open: Books(loop, max_open)


held_time = pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": HeldLoop})])


@held_time
async def test_a_head_has_its_deadline(books: Callable[[int], Books]) -> None:
    """Close a connection at the first sweep after its head's deadline: half a second late at most, and not before."""
    some = books(9)
    sender = some.opened()
    await some.wait(9.75)
    assert sender.ended == ""
    await some.wait(0.25)
    assert sender.ended == "evicted"
    late = some.opened()
    some.connections.head_complete(late)
    await some.wait(200)
    assert late.ended == ""


@held_time
async def test_an_idle_connection_is_kept_for_100_s(books: Callable[[int], Books]) -> None:
    """Keep a connection for 100 s between two requests, no longer, and one that is busy for as long as it is."""
    some = books(9)
    idle = some.kept()
    await some.wait(99.75)
    assert idle.ended == ""
    await some.wait(0.25)
    assert idle.ended == "expired"


@held_time
async def test_the_sweep_comes_twice_a_second(books: Callable[[int], Books]) -> None:
    """Close a connection whose deadline lies between two sweeps at the second of them."""
    some = books(9)
    first = some.opened()
    await some.wait(0.25)
    second = some.opened()
    await some.wait(9.75)
    assert (first.ended, second.ended) == ("evicted", "")
    await some.wait(0.25)
    assert second.ended == ""
    await some.wait(0.25)
    assert second.ended == "evicted"


@held_time
async def test_one_connection_too_many_makes_the_oldest_idle_one_go(books: Callable[[int], Books]) -> None:
    """Close none while as many are open as may be; then the one that has been idle the longest."""
    some = books(2)
    first = some.opened()
    await some.wait(2)
    second = some.opened()
    assert (first.ended, second.ended) == ("", "")
    await some.wait(2)
    third = some.opened()
    assert (first.ended, second.ended, third.ended) == ("evicted", "", "")
    some.connections.remove(first)
    some.connections.remove(second)
    await some.wait(1)
    fourth = some.opened()
    assert (third.ended, fourth.ended) == ("", "")


@held_time
async def test_a_new_connection_is_refused_where_all_others_are_busy(books: Callable[[int], Books]) -> None:
    """Answer 503 to the new connection where no other is idle."""
    some = books(1)
    busy = some.opened()
    some.connections.head_complete(busy)
    new = some.opened()
    assert (busy.ended, new.ended) == ("", "refused")


@held_time
@pytest.mark.parametrize(("idle_s", "gone"), [(0.75, "body"), (1.0, "idle")])
async def test_a_body_that_stands_still_goes_before_who_was_idle_for_less_than_a_second(
    books: Callable[[int], Books], idle_s: float, gone: str
) -> None:
    """Close the connection whose body has stood still the longest while all idle ones are idle for less than 1 s."""
    some = books(2)
    body = some.opened()
    some.connections.head_complete(body)
    some.connections.await_body(body)
    await some.wait(5)
    idle = some.kept()
    await some.wait(idle_s)
    some.opened()
    assert (body.ended, idle.ended) == (("evicted", "") if gone == "body" else ("", "evicted"))


@held_time
async def test_a_body_that_moved_later_than_the_idle_one_stays(books: Callable[[int], Books]) -> None:
    """Close the idle connection where the body came on at the same time or later, or is whole."""
    for whole in (False, True):
        some = books(2)
        body = some.opened()
        some.connections.head_complete(body)
        if whole:
            some.connections.await_body(body)
            some.connections.body_complete(body)
            await some.wait(5)
        idle = some.kept()
        if not whole:
            some.connections.await_body(body)
        some.opened()
        assert (body.ended, idle.ended) == ("", "evicted")


@rows(("files", "connections"), [(65, 1), (68, 2), (256, 96), (257, 96), (258, 97), (4_096, 100)])
def test_half_of_the_files_that_are_left_are_for_connections(files: int, connections: int) -> None:
    """Leave 64 files to the rest of relay and every second one to its own connections, and allow at least one."""
    code = "from relay.web.connections import max_open; print(max_open(100))"
    command = f"ulimit -n {files}; exec {sys.executable} -c '{code}'"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) == connections
