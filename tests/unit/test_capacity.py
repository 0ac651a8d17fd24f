"""The simulation behind docs/scaling.md comes to what can be reckoned by hand."""

import msgspec
import pytest

from bench.capacity import TURNS, Costs, Machine, Stage, simulate

FREE = Stage(relay_us=0.01, server_us=0.01, commits=0.0002, wal_bytes=0)
"""A stage that costs next to nothing, so that the other one is the limit."""
COSTS = Costs(
    receive=Stage(relay_us=100, server_us=60, commits=0.02, wal_bytes=5000),
    send=Stage(relay_us=300, server_us=140, commits=0.05, wal_bytes=15_000),
    endpoints=1,
    stored_bytes=10_000,
    flush_ms=1.0,
)
QUICK = Machine(cores=4, flush_ms=0.01, wal_mb_per_s=100_000)


def test_a_server_that_is_full_carries_its_cores_worth() -> None:
    """Be full, and carry its cores divided by what an event costs it, where processes and device are plenty."""
    only = msgspec.structs.replace(COSTS, send=FREE)
    rate = simulate(only, QUICK, 40, 1)
    assert rate.busy == pytest.approx(1.0, abs=0.02)
    assert rate.received_per_s == pytest.approx(4 / 60e-6, rel=0.03)


def test_a_process_is_no_more_than_its_core() -> None:
    """Receive what one web process' core allows, where the server has plenty, and twice that with two of them."""
    only = msgspec.structs.replace(COSTS, send=FREE)
    big = msgspec.structs.replace(QUICK, cores=64)
    one, two = (simulate(only, big, webs, 8).received_per_s for webs in (1, 2))
    assert one == pytest.approx(1 / 100e-6, rel=0.02)
    assert two == pytest.approx(2 * one, rel=0.02)


def test_the_device_of_the_log_is_a_limit() -> None:
    """Receive and send no more than the device writes of both stages' log."""
    only = msgspec.structs.replace(COSTS, send=FREE)
    slow = msgspec.structs.replace(QUICK, cores=64, wal_mb_per_s=20)
    assert simulate(only, slow, 20, 1).received_per_s == pytest.approx(20e6 / 5000, rel=0.02)


def test_a_flush_is_shared_by_all_that_wait() -> None:
    """Commit with one slow flush what every process has ready: twice the processes, twice the events."""
    only = msgspec.structs.replace(COSTS, send=FREE)
    slow = msgspec.structs.replace(QUICK, cores=64, flush_ms=100)
    four, eight = (simulate(only, slow, webs, 1).received_per_s for webs in (4, 8))
    batch = 1 / COSTS.receive.commits
    assert four <= 4 * TURNS * batch / 0.1 * 1.01
    assert eight == pytest.approx(2 * four, rel=0.1)


def test_what_comes_in_goes_out() -> None:
    """Receive no more than is sent in the long run, where one stage could do more than the other."""
    for webs, works in ((8, 2), (1, 40)):
        rate = simulate(COSTS, msgspec.structs.replace(QUICK, cores=64), webs, works)
        assert rate.received_per_s == pytest.approx(rate.sent_per_s, rel=0.1)
    assert simulate(COSTS, msgspec.structs.replace(QUICK, cores=64), 8, 2).events_per_s <= 2 / 300e-6 * 1.02
