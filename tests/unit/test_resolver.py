"""Name look-ups: what hangs delays nobody else, what is known is not asked again, what is cached is judged again."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import pytest

from relay.outbound.resolver import (
    HANGS_AFTER_S,
    HUNG_FOR_S,
    PARENT_MAX,
    Address,
    LookupOptions,
    NameFailed,
    Resolver,
    parent_of,
    system_lookup,
)
from tests.support.processes import ROOT
from tests.support.rows import rows

pytestmark = pytest.mark.anyio

FOUR = int(socket.AF_INET)
HERE = [Address(FOUR, "192.0.2.1")]


class Names:
    """A name service: names under `dead` hang until they are let go, the others have an address."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.let_go = threading.Event()
        self.now_s = 1000.0
        self.without: set[str] = set()

    def look(self, host: str) -> Sequence[Address]:
        """Blocks, as the system's look-up does."""
        self.asked[host] += 1
        if "dead" in host:
            self.let_go.wait(10)
        if host in self.without:
            raise socket.gaierror(-2, "Name or service not known")
        return HERE

    def resolver(self, threads_max: int = 8, cache_s: float = 5) -> Resolver:
        """Return a resolver that asks here, and whose clock stands still."""
        return Resolver(LookupOptions(threads_max, cache_s), lookup=self.look, now_s=lambda: self.now_s)


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    """Names, all let go in the end."""
    made = Names()
    yield made
    made.let_go.set()


async def soon(resolver: Resolver, host: str) -> tuple[Address, ...]:
    """Return the addresses, within a second."""
    async with asyncio.timeout(1):
        return await resolver.addresses(host)


async def hang(resolver: Resolver, *hosts: str) -> list[asyncio.Task[tuple[Address, ...]]]:
    """Begin look-ups, and return them when each is under way."""
    tasks = [asyncio.create_task(resolver.addresses(host)) for host in hosts]
    await asyncio.sleep(0)  # each task has a turn of the loop, up to where it waits for its answer
    return tasks


async def test_one_look_up_serves_all_who_ask(names: Names) -> None:
    """Ask once for a name that many want at once."""
    resolver = names.resolver()
    tasks = await hang(resolver, *["a.dead.test"] * 10)
    names.let_go.set()
    assert await asyncio.gather(*tasks) == [tuple(HERE)] * 10
    assert names.asked == {"a.dead.test": 1}


@pytest.mark.parametrize(("passed_s", "asked"), [(4.9, 1), (5.0, 2)])
async def test_an_answer_is_kept_for_a_while(names: Names, passed_s: float, asked: int) -> None:
    """Use an answer again for `cache_s`, and not a moment longer."""
    resolver = names.resolver()
    await soon(resolver, "good.test")
    names.now_s += passed_s
    await soon(resolver, "good.test")
    assert names.asked["good.test"] == asked


async def test_no_address_is_not_kept(names: Names) -> None:
    """Fail a name that has no address, and ask again the next time."""
    resolver = names.resolver()
    names.without.add("good.test")
    with pytest.raises(NameFailed):
        await soon(resolver, "good.test")
    names.without.clear()
    assert await soon(resolver, "good.test") == tuple(HERE)


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "fe80::1%eth0"])
async def test_an_address_needs_no_look_up(names: Names, host: str) -> None:
    """Take an address for itself."""
    assert [address.host for address in await soon(names.resolver(), host)] == [host]
    assert not names.asked


async def test_names_of_one_domain_that_hang_delay_no_other_name(names: Names) -> None:
    """Look a new name up at once, however many names of somebody else's domain hang."""
    resolver = names.resolver()
    tasks = await hang(resolver, *[f"h{number}.dead.test" for number in range(60)])
    assert resolver.running == PARENT_MAX
    assert await soon(resolver, "good.test") == tuple(HERE)
    for task in tasks:
        task.cancel()


async def test_names_of_many_domains_that_hang_delay_no_known_name(names: Names) -> None:
    """Keep a quarter of the threads for names that resolved before."""
    resolver = names.resolver(threads_max=8, cache_s=0)
    await soon(resolver, "good.test")
    tasks = await hang(resolver, *[f"dead{number}.test" for number in range(60)])
    assert resolver.running == 6
    assert await soon(resolver, "good.test") == tuple(HERE)
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize(("took_s", "hung"), [(HANGS_AFTER_S - 0.1, False), (HANGS_AFTER_S, True)])
async def test_what_hung_queues_apart(names: Names, took_s: float, hung: bool) -> None:
    """Give a quarter of the threads to names that hung lately, and to new ones of their domain; the rest is others'."""
    resolver = names.resolver(threads_max=8)
    tasks = await hang(resolver, *[f"h{number}.dead{number}.test" for number in range(6)])
    names.now_s += took_s
    names.let_go.set()
    await asyncio.gather(*tasks)
    names.let_go.clear()
    names.now_s += 10  # what was found is cached no longer
    again = await hang(resolver, *[f"h{number}.dead{number}.test" for number in range(6)])
    new = await hang(resolver, "other.dead0.test", "other.dead1.test")
    assert resolver.running == (2 if hung else 8)
    assert not hung or await soon(resolver, "good.test") == tuple(HERE)
    for task in (*again, *new):
        task.cancel()


@pytest.mark.parametrize(("passed_s", "running"), [(HUNG_FOR_S - 0.1, 2), (HUNG_FOR_S, 6)])
async def test_what_hung_is_forgotten(names: Names, passed_s: float, running: int) -> None:
    """Treat a name as any other some minutes after it hung."""
    resolver = names.resolver(threads_max=8, cache_s=0)
    first = await hang(resolver, *[f"dead{number}.test" for number in range(6)])
    names.now_s += HANGS_AFTER_S
    names.let_go.set()
    await asyncio.gather(*first)
    names.let_go.clear()
    names.now_s += passed_s
    again = await hang(resolver, *[f"dead{number}.test" for number in range(6)])
    assert resolver.running == running
    for task in again:
        task.cancel()


async def test_what_nobody_waits_for_is_not_looked_up(names: Names) -> None:
    """Drop a look-up that had to wait once everybody who asked has left."""
    resolver = names.resolver(threads_max=8)
    tasks = await hang(resolver, *[f"h{number}.dead.test" for number in range(PARENT_MAX + 1)])
    tasks[-1].cancel()
    await asyncio.gather(tasks[-1], return_exceptions=True)
    names.let_go.set()
    await asyncio.gather(*tasks[:-1])
    assert names.asked[f"h{PARENT_MAX}.dead.test"] == 0
    assert await soon(resolver, f"h{PARENT_MAX}.dead.test") == tuple(HERE)


async def test_a_look_up_that_hangs_is_counted(names: Names) -> None:
    """Tell the operator of each look-up that takes longer than a second, while it does."""
    hung = asyncio.Event()
    resolver = Resolver(lookup=names.look, on_hang=hung.set)
    await soon(resolver, "good.test")
    assert not hung.is_set()
    (task,) = await hang(resolver, "a.dead.test")
    async with asyncio.timeout(10 * HANGS_AFTER_S):
        await hung.wait()
    assert not task.done()
    task.cancel()


async def test_a_look_up_goes_on_for_the_others_when_one_leaves(names: Names) -> None:
    """Answer those who still wait when the one who asked first was called off."""
    resolver = names.resolver()
    first, second = await hang(resolver, "a.dead.test", "a.dead.test")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    names.let_go.set()
    assert await second == tuple(HERE)


async def test_the_systems_own_names_count() -> None:
    """Ask the system, so that /etc/hosts and nsswitch.conf count."""
    assert {address.host for address in system_lookup("localhost")} <= {"127.0.0.1", "::1"}
    assert await Resolver().addresses("localhost")
    with pytest.raises(NameFailed):
        await Resolver().addresses("a..b")


@rows(("host", "parent"), [("a.b.example.com", "example.com"), ("example.com", "example.com"), ("host", "host")])
def test_a_names_domain_is_its_last_two_labels(host: str, parent: str) -> None:
    """Tell domains apart as most of them are registered."""
    assert parent_of(host) == parent


def test_a_stop_waits_for_no_name_server() -> None:
    """End the process though a look-up still hangs."""
    program = (
        "import asyncio, threading\n"
        "from relay.outbound.resolver import Resolver\n"
        "async def main():\n"
        "    task = asyncio.create_task(Resolver(lookup=lambda _: threading.Event().wait(60)).addresses('a.test'))\n"
        "    await asyncio.sleep(0.05)\n"  # its thread has begun
        "    task.cancel()\n"
        "asyncio.run(main())\n"
    )
    began_s = time.monotonic()
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=30, check=False).returncode == 0
    assert time.monotonic() - began_s < 20
