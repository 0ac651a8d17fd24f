"""Benchmarks whose answer is a yes or a no keep running: a short run of each ends as the long one must."""

import asyncio
import json
import sys
from typing import Any

import pytest

from bench.targets import CONFIRMED, ROWS
from tests.support import postgres, processes
from tests.support.thorough import played

pytestmark = pytest.mark.anyio

LOADS = (
    ["pipelining", "large_uploads"],
    ["refusals", "lists", "bombs"],
    ["slow_endpoints", "slow_readers", "searches"],
)
PARTS = (("sqlite", "jobs"), ("sqlite", "deliver resume"), ("postgres", "steady"))


async def bench(*words: str) -> tuple[int | None, dict[str, Any]]:
    """Return the exit status of a benchmark, and the JSON of its last line."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", *words), cwd=processes.ROOT, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await asyncio.wait_for(child.communicate(), 280)
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


@pytest.mark.parametrize("loads", played(LOADS, 1))
async def test_a_quiet_tenant_is_served_beside_a_stranger(loads: list[str]) -> None:
    """Serve every request of the quiet tenant, and deliver and stream every event, beside each load of `strangers`."""
    status, found = await bench(
        "strangers", "--loads", ",".join(loads), "--seconds", "1", "--rounds", "1", "--history", "400"
    )
    assert (status, [row["load"] for row in found["loads"]]) == (0, loads)
    kinds = ("submission", "callback", "read", "upload", "notification", "stream")
    assert all(row["times"] > 0 and row[kind]["p50_ms"] > 0 for row in found["loads"] for kind in kinds)


async def test_everything_that_an_operator_reads_is_answered() -> None:
    """`pages`: each route that reads, with each filter of its list, and each page of the dashboard, shows something."""
    status, found = await bench("pages", "--jobs", "100", "--retries", "20", "--limit-ms", "10000")
    assert status == 0, [row for row in found["runs"] if row["status"] not in (200, 303)]
    shown = {row["path"].partition("?")[0] for row in found["runs"]}
    assert {"/v1/stats", "/v1/audit", "/v1/keys", "/v1/search", "/v1/whoami", "/jobs"} <= shown


async def test_a_fuzz_run_counts_what_it_tried() -> None:
    """`fuzz`: try as many inputs of each target as asked for, and find none that breaks a rule."""
    status, found = await bench("fuzz", "retry-after", "http-callbacks", "--tries", "300", "--seconds", "60")
    assert (status, found["targets"], found["tried"], found["broken"]) == (0, 2, 600, 0)


async def test_what_an_outage_left_drains_beside_callbacks() -> None:
    """`herd`: what became due meanwhile goes out once within its endpoint's rate; it says if callbacks starve."""
    words = ("--due", "200", "--endpoints", "4", "--seconds", "0.3", "--delay", "3", "--limit", "10")
    status, found = await bench("herd", *words)
    assert (found["run"]["due"], found["run"]["over"]) == (200, False)
    assert status == (1 if found["run"]["starved"] else 0)


async def test_a_short_soak_reads_every_figure() -> None:
    """`soak`: every event of each portion arrives; whether a figure grows is said for each."""
    status, found = await bench("soak", "--events", "80", "--portions", "4", "--rate", "200")
    assert status == (1 if found["grown"] else 0)
    assert [run["events"] for run in found["runs"]] == [20] * 4


TINY = {
    "crowd": ("--endpoints", "20", "--events", "20"),
    "ingest": ("--callbacks", "100", "--connections", "8", "--connections", "1"),
    "deliver": ("--events", "20"),
    "pipeline": ("--rate", "100", "--seconds", "0.5"),
    "isolation": ("--endpoints", "4", "--dead", "1", "--seconds", "2"),
    "coldstart": (),
}


@pytest.mark.parametrize("name", TINY)
async def test_a_benchmark_of_one_round_ends(name: str) -> None:
    """Print a table of positive figures, and the same as JSON."""
    status, found = await bench(name, "--rounds", "1", *TINY[name])
    runs = found["runs"] if "runs" in found else [found["run"]]
    assert status == 0
    assert all(value > 0 for run in runs for name, value in run.items() if name in ("per_s", "cpu_us", "p99_ms"))


@pytest.mark.parametrize(("kind", "parts"), played(PARTS, 1))
async def test_the_targets_have_a_figure_each(kind: str, parts: str) -> None:
    """Measure the rows that are asked for on a database, and confirm every end of a small burst of jobs."""
    if kind == "postgres" and postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    only = [word for part in parts.split() for word in ("--only", part)]
    status, found = await bench("targets", "--rounds", "1", "--scale", "0.02", "--database", kind, *only)
    assert status == 0
    assert set(found["rows"]) <= {row.name for row in ROWS}
    assert all(value > 0 for value in found["rows"].values())
    assert found["rows"].get(CONFIRMED) == (1 if "jobs" in parts else None)


@pytest.mark.parametrize("kind", played(("sqlite", "postgres"), 1))
async def test_results_are_copied_beside_other_jobs(kind: str) -> None:
    """`archive`: copy the result of each job that ended, and tell of every other job."""
    if kind == "postgres" and postgres.programs() is None:
        pytest.skip("PostgreSQL is not installed")
    words = ("--results", "3", "--megabytes", "0.3", "--rate", "20", "--seconds", "1", "--rounds", "1")
    status, found = await bench("archive", "--database", kind, *words)
    assert (status, found["database"], [run["copied"] for run in found["runs"]]) == (0, kind, [0, 3])
    assert all(run["p50_ms"] > 0 for run in found["runs"])
