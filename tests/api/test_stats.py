"""The statistics: exact against what was driven, bounded in rows and in memory, and added up over processes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.clock import rfc3339
from relay.errors import StorageUnavailable
from relay.jobs.counting import FLUSH_MS, SAMPLE_MS, count
from relay.model.job import Cost, JobState
from relay.sandbox.faults import Faults
from relay.storage import audit, statistics
from relay.storage.statistics import COUNTS_MAX, STEPS_MAX, WIDTHS, Statistics, latency_of, micro, percentiles, step_of
from relay.web.api.stats import BUCKETS, BUCKETS_MAX
from tests.support.running import START_MS, HeldClock, Running, relay

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400
NOTHING = {"succeeded": 0, "failed": 0, "canceled": 0, "expired": 0}


@pytest.fixture
async def clock() -> HeldClock:
    """Return a clock that stands at noon and half a minute."""
    return HeldClock(START_MS - START_MS % (DAY_S * 1000) + (DAY_S + 12 * HOUR_S + 30) * 1000)


@pytest.fixture
async def running(tmp_path: Path, clock: HeldClock) -> AsyncIterator[Running]:
    """Yield a relay that believes every callback, on a held clock; it retries after a second, then after an hour."""
    async with relay(tmp_path, clock=clock, confirm=False, RELAY_RETRY_SCHEDULE_S="0,1,3600") as started:
        yield started


async def stats(running: Running, query: str = "") -> dict[str, Any]:
    """Return what the statistics show."""
    return await running.get(f"/v1/stats{query}")


async def ended(running: Running, provider: str = "evolink", **fields: Any) -> dict[str, Any]:
    """Return a job whose provider has finished it."""
    job = await running.submit(provider, **fields)
    await running.world.finish(job["provider_job_id"])
    return await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["finished_at"] is not None)


async def test_the_numbers_are_exactly_what_happened(running: Running, clock: HeldClock) -> None:
    """Count jobs, ends, callbacks, checks, attempts, deliveries and latency as a driven run had them."""
    endpoint = {"url": running.hook, "event_types": ["job.succeeded", "job.failed", "job.canceled"]}
    assert (await running.client.post("/v1/endpoints", json=endpoint)).status_code == 201
    for _ in range(3):
        await ended(running)
    running.world.next_faults.append(Faults(outcome="failed"))
    await ended(running, "kinovi")
    running.sink.answers += [503]
    await ended(running)
    await clock.advance(2)  # the retry of the one that got 503
    canceled = await running.submit()
    await running.client.post(f"/v1/jobs/{canceled['id']}/cancellations")
    checked = await running.submit("kinovi")
    await running.client.post(f"/v1/jobs/{checked['id']}/status-checks")
    await running.until("/v1/deliveries?status=delivered", lambda shown: len(shown["data"]) == 6)
    await clock.advance(0)
    shown = await stats(running, "?bucket=1m&from=-10m")
    totals = shown["totals"]
    assert totals["jobs_created"] == 7
    assert totals["jobs_finished"] == {"succeeded": 4, "failed": 1, "canceled": 1, "expired": 0}
    assert totals["finished_by"] == {"callback": 5, "status_check": 0, "other": 1}
    assert totals["deliveries"] == {"first_attempt": 5, "after_retries": 1, "exhausted": 0}
    assert {outcome: number for outcome, number in totals["attempts"].items() if number} == {"ok": 6, "bad_status": 1}
    assert totals["latency"]["count"] == 5
    assert totals["latency"]["p50_ms"] == 1
    assert totals["latency"]["p99_ms"] == latency_of(int(step_of(2_000)))
    evolink, kinovi = shown["providers"]
    assert (evolink["provider"], evolink["jobs_created"], evolink["checks"]) == ("evolink", 5, 0)
    assert evolink["callbacks"]["recorded"] == 4
    assert evolink["jobs_finished"] == NOTHING | {"succeeded": 4, "canceled": 1}
    assert evolink["last_error"] is None
    assert (kinovi["provider"], kinovi["checks"], kinovi["checks_per_job"]) == ("kinovi", 1, 1.0)
    assert kinovi["finished_by"] == {"callback": 1, "status_check": 0, "other": 0}
    assert "violates platform rules" in kinovi["last_error"]["message"]
    assert kinovi["last_callback_at"] is not None
    assert shown["backlog"] == {"due": 0, "more": False, "oldest_due_at": None}
    summed: Counter[str] = Counter()
    for interval in shown["series"]:
        summed.update(interval["attempts"] | {"created": interval["jobs_created"]})
    assert summed == totals["attempts"] | {"created": 7}


async def test_the_same_numbers_are_in_rows_of_every_width(running: Running) -> None:
    """Answer the same totals, whichever interval is asked for, and by a whole database read anew."""
    await ended(running)
    await ended(running, "kinovi")
    shown = [await stats(running, f"?bucket={bucket}&from=-2h") for bucket in BUCKETS]
    assert all(one["totals"] == shown[0]["totals"] for one in shown)
    assert all(one["providers"] == shown[0]["providers"] for one in shown)
    assert [one["bucket_s"] for one in shown] == list(WIDTHS) == list(BUCKETS.values())


async def test_a_final_callback_that_is_confirmed_counts_with_its_confirmation(
    tmp_path: Path, clock: HeldClock
) -> None:
    """Measure from the receipt of the unsigned callback, not from the status check that confirms it."""
    async with relay(tmp_path, clock=clock, confirm=True) as running:
        await running.client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["job.succeeded"]})
        await ended(running)
        await running.until("/v1/deliveries?status=delivered", lambda shown: len(shown["data"]) == 1)
        await clock.advance(0)
        totals = (await stats(running))["totals"]
        assert totals["finished_by"] == {"callback": 1, "status_check": 0, "other": 0}
        assert totals["latency"]["count"] == 1


async def test_what_no_callback_brought_has_no_latency(running: Running) -> None:
    """Leave out the events of submissions and operators, tests and redeliveries, whose attempts are counted."""
    made = (await running.client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["*"]})).json()
    await running.client.post(f"/v1/endpoints/{made['id']}/tests")
    job = await running.submit()
    await running.client.post(f"/v1/jobs/{job['id']}/cancellations")
    shown = await running.until("/v1/deliveries?status=delivered", lambda shown: len(shown["data"]) == 3)
    await running.client.post(f"/v1/deliveries/{shown['data'][0]['id']}/redeliveries")
    await running.until("/v1/deliveries?status=delivered", lambda shown: len(shown["data"]) == 4)
    await running.until("/v1/stats", lambda shown: shown["totals"]["attempts"]["ok"] == 4)
    totals = (await stats(running))["totals"]
    assert totals["latency"] is None
    assert totals["deliveries"] == {"first_attempt": 4, "after_retries": 0, "exhausted": 0}


async def test_an_exhausted_delivery_and_the_backlog_are_counted(running: Running, clock: HeldClock) -> None:
    """Count what no attempt delivered, and sample what is due each minute."""
    await running.client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["job.succeeded"]})
    running.sink.answers += [500, 500, 500]
    await ended(running)
    await clock.advance(2)
    await clock.advance(HOUR_S * 1.5)
    totals = (await stats(running))["totals"]
    assert totals["deliveries"] == {"first_attempt": 0, "after_retries": 0, "exhausted": 1}
    assert totals["attempts"]["bad_status"] == 3
    counted = running.app.store.statistics
    await clock.advance(120)
    await running.app.store.database.transact(
        lambda transaction: transaction.run_many("insert_delivery", [_due_since(clock.now_ms() - 90_000)])
    )
    await counted.sample(clock.now_ms())
    await counted.sample(clock.now_ms())
    shown = await stats(running, "?from=-1m&bucket=1m")
    assert shown["totals"]["backlog"] == {"due_most": 1, "oldest_due_ms_most": 90_000}
    assert shown["backlog"]["due"] == 1
    assert shown["series"][0]["backlog"] == {"due_most": 0, "oldest_due_ms_most": 0}


def _due_since(at: int) -> dict[str, Any]:
    """Return the columns of a delivery that is due, of an endpoint that is not there, so that none claims it."""
    return {
        "id": "dlv_due",
        "project_id": "prj_default",
        "event_id": "evt_none",
        "endpoint_id": "ep_none",
        "job_id": None,
        "next_attempt_at": at,
        "leased_by": None,
        "redelivery": 0,
        "created_at": at,
        "reported_at": None,
    }


async def test_another_projects_numbers_are_not_shown(running: Running) -> None:
    """Show a key the numbers of its own project only."""
    await ended(running)
    text = (await running.app.store.access.create_api_key("films", "", ["read"], 1)).text
    shown = (await running.client.get("/v1/stats", headers={"authorization": f"Bearer {text}"})).json()
    assert shown["totals"]["jobs_created"] == 0
    assert shown["providers"] == []


async def test_costs_are_summed_by_unit(running: Running) -> None:
    """Add up what the jobs that ended cost, by unit and kind, exactly."""
    await ended(running)
    await ended(running)
    listed = (await running.get("/v1/jobs?provider=evolink"))["data"]
    amounts = sum(micro(Cost(**job["cost"])) for job in listed if job["cost"])
    shown = await stats(running)
    assert [(one["unit"], one["kind"]) for one in shown["cost"]] == [("credits", "final")]
    assert round(float(shown["cost"][0]["amount"]) * 1_000_000) == amounts > 0
    assert shown["providers"][0]["cost"] == shown["cost"]


@pytest.mark.parametrize(
    ("query", "bucket", "number"),
    [
        ("?from=-2h", "1m", 121),
        ("?from=-7201s", "15m", 9),
        ("?from=-25h", "15m", 101),
        ("?from=-90001s", "1h", 26),
        ("?from=-8d", "1h", 193),
        ("?from=-691201s", "1d", 9),
        ("?from=-30d", "1d", 31),
        ("?bucket=1m&from=-499m", "1m", 500),
    ],
)
async def test_an_interval_is_chosen_by_the_time(running: Running, query: str, bucket: str, number: int) -> None:
    """Choose minutes up to 2 h, quarters up to 25 h, hours up to 8 days, else days, in whole intervals."""
    shown = await stats(running, query)
    assert (shown["bucket"], len(shown["series"])) == (bucket, number)
    assert shown["series"][0]["at"] == shown["from"]


async def test_a_time_that_makes_too_many_intervals_is_refused(running: Running) -> None:
    """Refuse one more than BUCKETS_MAX, a time that ends before it begins, and another length."""
    assert BUCKETS_MAX == 500
    for query in ("bucket=1m&from=-500m", "from=-1h&to=-2h", "bucket=5m", "bucket=60", "from=yesterday"):
        assert (await running.client.get(f"/v1/stats?{query}")).status_code == 422, query
    shown = await stats(running, "?from=-90m&to=-30m")
    assert len(shown["series"]) == 61
    assert not any(interval["unfinished"] for interval in shown["series"])


async def test_the_last_interval_is_unfinished(running: Running) -> None:
    """Say so of the interval that now is in, and of no other."""
    shown = await stats(running, "?from=-10m&bucket=1m")
    assert [interval["unfinished"] for interval in shown["series"]][-2:] == [False, True]
    assert sum(interval["unfinished"] for interval in shown["series"]) == 1


async def test_rows_are_kept_as_long_as_their_width_says(running: Running, clock: HeldClock) -> None:
    """Delete each width's rows after its retention, and no sooner."""
    await running.submit()
    await running.app.store.statistics.flush()
    began = clock.now_ms()
    for width_s, days in WIDTHS.items():
        starts_at = began - began % (width_s * 1000)
        for age_ms, kept in ((days * DAY_S * 1000, True), (days * DAY_S * 1000 + 1, False)):
            await running.app.store.statistics.forget(starts_at + age_ms)
            span = statistics.Span(width_s, 0, began + DAY_S * 1000)
            found = await running.app.store.statistics.sums("prj_default", span)
            assert bool(found.by_time) is kept, (width_s, age_ms)


async def test_counts_are_stored_every_few_seconds_and_at_the_end(tmp_path: Path, clock: HeldClock) -> None:
    """Lose nothing in a stop, and at most FLUSH_MS of counts if a process is killed."""
    async with relay(tmp_path, clock=clock) as running:
        await running.submit()
        assert await _rows(running) == 0
        await clock.advance(FLUSH_MS / 1000 - 0.001)
        assert await _rows(running) == 0
        await clock.advance(0.001)
        assert await _rows(running) == len(WIDTHS)
        await running.submit()
    async with relay(tmp_path, clock=clock) as running:
        assert (await stats(running))["totals"]["jobs_created"] == 2


async def _rows(running: Running) -> int:
    """Return how many rows count new jobs."""
    params = {"project_id": "prj_default", "first": 0, "last": 1 << 60}
    found = [
        await running.app.store.database.rows("statistics_of_time", params | {"width_s": width_s}) for width_s in WIDTHS
    ]
    return sum("created evolink" in (row["sums_of_providers"] or "") for rows in found for row in rows)


async def test_several_processes_add_to_the_same_rows(running: Running) -> None:
    """Add up what two processes counted concurrently, and keep the later of two marks."""
    others = [Statistics(running.app.store.database, running.app.store._writer) for _ in range(2)]
    job = await running.submit()
    stored = await running.app.store.jobs.get(job["id"], "prj_default")
    assert stored is not None
    for other in others:
        for _ in range(5):
            other.created(stored)
    await asyncio.gather(*(other.flush() for other in others))
    assert (await stats(running))["totals"]["jobs_created"] == 11


async def test_counts_wait_while_the_database_is_away_within_a_limit(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep the counts for the next flush, and no more than COUNTS_MAX of them."""
    job = await running.submit()
    stored = await running.app.store.jobs.get(job["id"], "prj_default")
    assert stored is not None
    counted = running.app.store.statistics
    await counted.flush()

    async def away(*_: object, **__: object) -> None:
        raise StorageUnavailable("the database is away")

    assert COUNTS_MAX == 100_000
    with monkeypatch.context() as patched:
        patched.setattr(statistics, "COUNTS_MAX", 2)
        patched.setattr(counted._writer, "write", away)
        for minute in range(4):
            stored.created_at = START_MS + minute * 60_000
            counted.created(stored)
        with pytest.raises(StorageUnavailable):
            await counted.flush()
        assert len(counted._counts) == 2
    await counted.flush()
    span = statistics.Span(60, START_MS - START_MS % 60_000, START_MS + 600_000)
    assert len((await counted.sums("prj_default", span)).by_time) == 2


async def test_the_last_use_of_a_key_is_stored_once_a_minute(running: Running, clock: HeldClock) -> None:
    """Store the first use with the next flush, and another use when a minute has passed since."""
    made = (await running.client.post("/v1/keys", json={"scopes": ["read"]})).json()
    headers = {"authorization": f"Bearer {made['key']}"}

    async def last_used() -> str | None:
        (key,) = (await running.get("/v1/keys"))["data"]
        used: str | None = key["last_used_at"]
        return used

    assert await last_used() is None
    await running.client.get("/v1/jobs", headers=headers)
    await clock.advance(FLUSH_MS / 1000)
    first = await last_used()
    assert first is not None
    await clock.advance(MINUTE_S - FLUSH_MS / 1000 - 0.001)
    await running.client.get("/v1/jobs", headers=headers)
    await clock.advance(0)
    await running.app.store.statistics.flush()
    assert await last_used() == first
    await clock.advance(0.001)
    await running.client.get("/v1/jobs", headers=headers)
    await running.app.store.statistics.flush()
    assert (await last_used() or "") > first


@given(st.lists(st.integers(0, 2_000_000_000), min_size=1, max_size=300), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_percentile_of_the_histogram_is_close_to_the_exact_one(latencies: list[int], share: float) -> None:
    """Be 9.1 % and half a millisecond off at most, whatever the latencies are."""
    steps = Counter(int(step_of(latency)) for latency in latencies)
    exact = max(1, sorted(latencies)[max(0, -(-len(latencies) * round(share * 100) // 100) - 1)])
    assert abs(percentiles(steps, [share])[0] - exact) <= exact * 0.0906 + 0.5
    assert percentiles(steps, [0.5, share]) == [percentiles(steps, [0.5])[0], percentiles(steps, [share])[0]]
    assert max(steps) < STEPS_MAX


@pytest.mark.parametrize(
    ("amount", "expected"),
    [("0.550000", 550_000), ("12.5", 12_500_000), ("0.0000019", 1), ("much", 0), ("NaN", 0), ("", 0)],
)
def test_a_cost_counts_in_millionths(amount: str, expected: int) -> None:
    """Count an amount exactly to six places, and one that is no number as nothing."""
    assert micro(Cost(amount=amount, unit="USD", kind="final")) == expected


async def test_a_provider_shows_what_verifies_its_callbacks_and_when_one_came_last(
    tmp_path: Path, clock: HeldClock
) -> None:
    """Tell a secret from published keys and from the token alone, and show the last callback of the own project."""
    secret = "whsec_" + "A" * 43 + "="
    async with relay(tmp_path, clock=clock, RELAY_KINOVI_CALLBACK_SECRET=secret) as running:
        await ended(running)
        await running.app.store.statistics.flush()
        shown = {one["name"]: one for one in (await running.get("/v1/providers"))["data"]}
        assert [shown[name]["verifies"] for name in ("evolink", "kinovi", "sandbox")] == [
            "token",
            "secret",
            "published_keys",
        ]
        assert shown["evolink"]["verifier"] == "standard-webhooks"
        assert shown["stablestudio"]["verifier"] == "none"
        assert shown["evolink"]["last_callback_at"] == rfc3339(clock.now_ms())
        assert shown["kinovi"]["last_callback_at"] is None
        text = (await running.app.store.access.create_api_key("films", "", ["read"], 1)).text
        films = (await running.client.get("/v1/providers", headers={"authorization": f"Bearer {text}"})).json()["data"]
        assert all(one["last_callback_at"] is None for one in films)


async def test_a_provider_shows_how_its_jobs_of_a_day_ended(running: Running, clock: HeldClock) -> None:
    """Show the share that callbacks ended, the checks for each job, and the last error, for a day and no longer."""
    none = {"jobs_ended": 0, "by_callback": None, "checks_per_job": None}
    assert (await _evolink(running))["last_day"] == none
    for faults in (Faults(), Faults(), Faults(outcome="failed"), Faults(lost=True)):
        running.world.next_faults.append(faults)
        job = await running.submit("evolink")
        await running.world.finish(job["provider_job_id"])
        await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
        await running.until(f"/v1/jobs/{job['id']}", lambda shown: JobState(shown["status"]).final)
    shown = await _evolink(running)
    checks = len(running.world.status_checks)
    day = {"jobs_ended": 4, "by_callback": 0.75, "checks_per_job": round(checks / 4, 3)}
    assert (shown["last_day"], shown["title"]) == (day, "EvoLink")
    assert (shown["last_error"], shown["last_error_at"]) == (
        "failed: the provider reports: The prompt was refused.",
        rfc3339(clock.now_ms()),
    )
    await clock.advance(86_400 + 3_600)
    assert (await _evolink(running))["last_day"] == none


async def _evolink(running: Running) -> dict[str, Any]:
    """Return what is shown of EvoLink."""
    listed = (await running.get("/v1/providers"))["data"]
    return next(one for one in listed if one["name"] == "evolink")


async def test_the_numbers_are_shown_while_the_database_takes_no_writes(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answer with what is stored, and keep the counts for later, while the disk is full."""
    await running.submit()
    await running.app.store.statistics.flush()
    await running.submit()

    async def away(*_: object, **__: object) -> None:
        raise StorageUnavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(running.app.store.statistics._writer, "write", away)
        assert (await stats(running))["totals"]["jobs_created"] == 1
    assert (await stats(running))["totals"]["jobs_created"] == 2


def test_the_api_page_says_the_limits_that_there_are() -> None:
    """Hold docs/api.md against the constants: intervals, retention, and how often counts are stored."""
    page = " ".join((ROOT / "docs" / "api.md").read_text().split())
    minutes, quarters, hours, days = WIDTHS.values()
    assert (
        f"Minutes are kept for {minutes} days, quarters for {quarters}, hours for {hours} and days for {days}." in page
    )
    assert f"more than {BUCKETS_MAX} intervals are 422" in page
    assert (FLUSH_MS, "a process that is killed loses at most five seconds of them" in page) == (5_000, True)
    assert (SAMPLE_MS, "how late the oldest was; counted once a minute" in page) == (60_000, True)
    assert f"the first {statistics.COPIES_COUNTED_MAX:,} of each" in (ROOT / "docs" / "openapi.json").read_text()
    assert f"({audit.REFUSALS_MAX} a minute for one key)" in page


class _Noted(Statistics):
    """Statistics that note when they are stored and sampled, in seconds since the start."""

    def __init__(self, running: Running, clock: HeldClock) -> None:
        super().__init__(running.app.store.database, running.app.store._writer)
        self.clock, self.began_ms = clock, clock.now_ms()
        self.flushed: list[float] = []
        self.sampled: list[float] = []

    async def flush(self) -> None:
        """Note it."""
        self.flushed.append((self.clock.now_ms() - self.began_ms) / 1000)
        await super().flush()

    async def sample(self, now_ms: int) -> None:
        """Note it."""
        self.sampled.append((now_ms - self.began_ms) / 1000)
        await super().sample(now_ms)


@pytest.mark.parametrize("samples", [True, False])
async def test_the_counts_are_stored_and_the_backlog_is_sampled_in_time(
    running: Running, clock: HeldClock, samples: bool
) -> None:
    """Store every 5 s; sample 5 s after the start and then each minute, where this process sends."""
    noted = _Noted(running, clock)
    counting = asyncio.create_task(count(noted, clock, samples=samples))
    for _ in range(27):
        await clock.advance(5)
    counting.cancel()
    assert noted.flushed == [5.0 * number for number in range(1, 28)]
    assert noted.sampled == ([5, 65, 125] if samples else [])


async def test_the_sweeper_deletes_old_sums_of_every_project(
    running: Running, clock: HeldClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delete what is past its retention within an hour, however many projects there are, and keep the rest."""
    monkeypatch.setattr(statistics, "PROJECTS_MAX", 1)
    job = await running.submit()
    stored = await running.app.store.jobs.get(job["id"], "prj_default")
    assert stored is not None
    projects = ["prj_default"]
    for name in ("films", "games"):
        made = (await running.client.post("/v1/projects", json={"name": name})).json()
        projects.append(made["id"])
        stored.project_id = made["id"]
        running.app.store.statistics.created(stored)
    await running.app.store.statistics.flush()
    began = clock.now_ms()
    await clock.advance(2 * DAY_S + HOUR_S)
    for project_id in projects:
        kept = [
            bool((await running.app.store.statistics.sums(project_id, statistics.Span(width_s, 0, began))).by_time)
            for width_s in WIDTHS
        ]
        assert kept == [False, True, True, True]
