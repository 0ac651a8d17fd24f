"""A seed is a plan: always the same, within its bounds, and the seeds that are played have every kind of fault."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.sandbox.faults import of_prompt
from tests.chaos.plan import JOBS, KINDS, LAYOUTS, LINK_MODES, LOAD_S, RESULT_FAULTS, plan
from tests.chaos.test_chaos import SEEDS, SEEDS_OF_CI

databases = st.sampled_from(sorted(LAYOUTS))


@given(st.integers(0, 10**9), databases)
def test_a_seed_is_always_the_same_plan(seed: int, database: str) -> None:
    """Make the same plan of the same seed and database."""
    assert plan(seed, database) == plan(seed, database)


@given(st.integers(0, 10**9))
def test_each_database_has_plans_of_its_own(seed: int) -> None:
    """Play other jobs on the other database."""
    assert plan(seed, "sqlite").jobs != plan(seed, "postgres").jobs


@given(st.integers(0, 10**9), databases)
def test_a_plan_is_bounded(seed: int, database: str) -> None:
    """Keep jobs and faults few, and within the time of the load; name processes and links that exist."""
    made = plan(seed, database)
    assert JOBS[0] <= len(made.jobs) <= JOBS[1]
    assert 5 <= len(made.faults) <= 10
    assert all(0 <= job.at_s <= LOAD_S for job in made.jobs)
    for fault in made.faults:
        assert 0 < fault.at_s <= LOAD_S
        assert 0 < fault.for_s <= 2
        assert fault.kind in (*KINDS[database], "kill_copying")
        if fault.kind == "link":
            assert fault.how in LINK_MODES[fault.target]
            assert fault.target != "store" or made.bucket == "s3"
        else:
            assert 0 <= int(fault.target) < len(made.layout)


@given(st.integers(0, 10**9), databases)
def test_every_prompt_is_one_that_the_stand_ins_know(seed: int, database: str) -> None:
    """Give each job a marker of its own, and faults that the sandbox knows."""
    made = plan(seed, database)
    assert len({job.marker for job in made.jobs}) == len(made.jobs)
    for job in made.jobs:
        assert (of_prompt(job.prompt) is not None) == bool(job.faults)


@pytest.mark.parametrize("database", LAYOUTS)
def test_the_seeds_have_every_kind_of_fault(database: str) -> None:
    """Play each kind of fault of a database in at least one of four seeds, two of which every run plays, and CI ten."""
    assert len(SEEDS_OF_CI[database]) >= 10
    assert set(SEEDS[database]) < set(SEEDS_OF_CI[database])
    plans = [plan(seed, database) for seed in SEEDS[database]]
    assert {fault.kind for made in plans for fault in made.faults} == {*KINDS[database], "kill_copying"}
    assert {made.bucket for made in plans} == {"folder", "s3"}
    assert {made.layout for made in plans} == set(LAYOUTS[database])
    assert {made.paid for made in plans} == {made.tls for made in plans} == {False, True}
    assert {job.archive for made in plans for job in made.jobs} == {"off", "after", "before_notify"}
    assert {job.result.fault for made in plans for job in made.jobs} == {"", *RESULT_FAULTS}
    targets = {fault.target for made in plans for fault in made.faults if fault.kind == "link"}
    assert {"results", "store"} <= targets
