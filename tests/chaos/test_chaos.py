"""relay under fire: some seeds of faults on each database, more in CI; `python -m bench chaos` plays any number.

What each seed does is in plan.py, and what must be true of it in checker.py.
"""

from pathlib import Path

import msgspec
import pytest

from tests.chaos.databases import Database, PostgreSQLDatabase, SQLiteFile
from tests.chaos.plan import Result, plan
from tests.chaos.run import play
from tests.chaos.sabotaged import BREAKS
from tests.support.postgres import Server
from tests.support.thorough import played

pytestmark = pytest.mark.anyio

SEEDS = {"sqlite": (165, 194, 310, 451), "postgres": (20, 222, 315, 713)}
"""As few as have every kind of fault, every layout of processes, jobs that are paid for, and a subscriber with TLS."""
SEEDS_OF_CI = {database: (*seeds, *range(1, 7)) for database, seeds in SEEDS.items()}


async def judged(seed: int, database: Database, folder: Path, kind: str) -> None:
    """Play a seed; AssertionError with what it broke, and how to play it again."""
    outcome = await play(plan(seed, kind), database, folder)
    print("\n".join(outcome.log))  # noqa: T201 - pytest shows it where the test fails
    assert not outcome.broken, "\n".join([outcome.replay, *(f"{one.invariant}: {one.what}" for one in outcome.broken)])
    assert outcome.jobs > 0
    assert outcome.notifications > outcome.jobs


@pytest.mark.parametrize("seed", played(SEEDS_OF_CI["sqlite"], 2))
async def test_a_seed_breaks_nothing_on_sqlite(seed: int, tmp_path: Path) -> None:
    """Keep every invariant on SQLite through the faults of a seed."""
    made = plan(seed, "sqlite")
    file = SQLiteFile(tmp_path / "data")
    file.prepare(small=any(fault.kind == "disk_full" for fault in made.faults))
    try:
        await judged(seed, file, tmp_path, "sqlite")
    finally:
        file.remove()


@pytest.mark.parametrize("seed", played(SEEDS_OF_CI["postgres"], 2))
async def test_a_seed_breaks_nothing_on_postgresql(seed: int, tmp_path: Path, database_server: Server) -> None:
    """Keep every invariant on PostgreSQL through the faults of a seed."""
    database_server.ensure()
    await judged(seed, PostgreSQLDatabase(database_server, database_server.database()), tmp_path, "postgres")


@pytest.mark.parametrize("invariant", BREAKS)
async def test_a_run_finds_a_relay_that_breaks_its_promise(invariant: str, tmp_path: Path) -> None:
    """Name the invariant that a sabotaged relay breaks, though nothing else goes wrong."""
    calm = msgspec.structs.replace(plan(1, "sqlite"), faults=(), operations=(), failing=0.0, paid=False, tls=False)
    well = {"provider": "evolink", "faults": "", "at_s": 0, "verb": "", "archive": "after", "result": Result()}
    jobs = [msgspec.structs.replace(job, **well) for job in calm.jobs[:4]]
    file = SQLiteFile(tmp_path / "data")
    file.prepare(small=False)
    made = msgspec.structs.replace(calm, jobs=tuple(jobs))
    outcome = await play(made, file, tmp_path, ("tests.chaos.sabotaged", invariant))
    assert invariant in {one.invariant for one in outcome.broken}
