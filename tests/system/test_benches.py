"""Benchmarks whose answer is a yes or a no keep running: a short run of each ends as the long one must."""

import asyncio
import json
import sys
from typing import Any

import pytest

from tests.support import processes

pytestmark = pytest.mark.anyio


async def bench(*words: str) -> tuple[int | None, dict[str, Any]]:
    """Return the exit status of a benchmark, and the JSON of its last line."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", *words), cwd=processes.ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(child.communicate(), 120)
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return child.returncode, found


async def test_every_job_ends_with_callbacks_and_without() -> None:
    """`checks`: jobs of each provider that calls back, told by callbacks, and found by checks where none comes."""
    status, found = await bench("checks", "--jobs", "6", "--pace", "0.2")
    assert status == 0
    assert [(run["callbacks"], run["ended"]) for run in found["runs"]] == [("working", 6), ("all lost", 6)]


async def test_everything_arrives_in_spite_of_failures_and_a_kill() -> None:
    """`manifest`: each event is at each endpoint, though attempts fail and relay is killed."""
    status, found = await bench("manifest", "--events", "40", "--endpoints", "3", "--kills", "1")
    assert (status, found["events"], found["deliveries"]) == (0, 40, 120)


@pytest.mark.parametrize("loads", [["pipelining", "refusals"], ["lists", "bombs", "slow_endpoints"]])
async def test_a_quiet_tenant_is_served_beside_a_stranger(loads: list[str]) -> None:
    """`isolation --strangers`: every request of the quiet tenant is taken and every notification comes."""
    status, found = await bench("isolation", "--strangers", ",".join(loads), "--seconds", "1", "--rounds", "1")
    assert (status, [row["load"] for row in found["strangers"]]) == (0, loads)
    assert all(row["times"] > 2 and row["notification"]["p50_ms"] > 0 for row in found["strangers"])
