"""The time limits of a whole relay on a held clock: nothing a millisecond before, and all of it at the moment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay import ids
from relay.model.job import Job, JobState
from relay.model.provider_http import ApiAnswer, ApiRequest, FileRequest
from relay.outbound.file_upload import FileClient
from relay.outbound.provider_client import ProviderClient
from relay.providers import PROVIDERS
from relay.sandbox.faults import Faults
from relay.storage.apply_updates import DEFAULT_PROJECT
from relay.storage.jobs import NewJob
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, relay

pytestmark = pytest.mark.anyio

MS = 0.001
DAY_S = 86_400
EVERY_TIME = 1_000
REQUEST: dict[str, object] = {
    "model": "seedance-2.0-image-to-video", "prompt": "slow push in", "image_urls": ["https://example.com/a.png"],
}  # fmt: skip


@asynccontextmanager
async def held(folder: Path, **environ: str) -> AsyncIterator[tuple[Running, HeldClock]]:
    """A relay and the clock that it goes by."""
    clock = HeldClock()
    async with relay(folder, clock=clock, **environ) as running:  # type: ignore[arg-type]
        yield running, clock


async def lost(running: Running, faults: Faults | None = None, **fields: Any) -> dict[str, Any]:
    """Return a submitted job whose callback never comes."""
    running.world.next_faults.append(faults or Faults(lost=True))
    return await running.submit(**fields)


async def endpoint(running: Running, **fields: Any) -> str:
    """Return the id of a standing endpoint at the sink."""
    answer = await running.client.post("/v1/endpoints", json={"url": running.hook} | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def send_test(running: Running, endpoint_id: str) -> None:
    """Send a `relay.test` to an endpoint, and return when it was attempted."""
    answer = await running.client.post(f"/v1/endpoints/{endpoint_id}/tests")
    assert answer.status_code == 202, answer.text
    await quiet()


async def status(running: Running, endpoint_id: str) -> str:
    """Return an endpoint's status."""
    return str((await running.get(f"/v1/endpoints/{endpoint_id}"))["status"])


@pytest.mark.parametrize("provider", ["evolink", "relaydance", "kinovi"])
async def test_the_first_check_comes_at_one_and_a_half_times_the_estimate(tmp_path: Path, provider: str) -> None:
    """Ask a provider when 1.5 times its own estimate has passed since the submission, and again twice as late."""
    first_s = PROVIDERS[provider].limits.expected_s * 1.5
    async with held(tmp_path) as (running, clock):
        await lost(running, provider=provider, deadline_s=DAY_S)
        for made, pause_s in enumerate((first_s, min(2 * first_s, 600))):
            await clock.advance(pause_s - MS)
            assert len(running.world.status_checks) == made
            await clock.advance(MS)
            assert len(running.world.status_checks) == made + 1


@pytest.mark.parametrize(
    "faults", [Faults(lost=True, check="html"), Faults(lost=True, check="reset"), Faults(lost=True, check="not_found")]
)
async def test_a_check_without_a_verdict_is_made_again_after_30_s(tmp_path: Path, faults: Faults) -> None:
    """Ask again after 30 s where an answer was no verdict, then after 60 s, though the provider's jobs take minutes."""
    async with held(tmp_path) as (running, clock):
        await lost(running, faults, deadline_s=DAY_S)
        for made, pause_s in enumerate((165 * 1.5, 30, 60)):
            await clock.advance(pause_s - MS)
            assert len(running.world.status_checks) == made
            await clock.advance(MS)
            assert len(running.world.status_checks) == made + 1


@pytest.mark.parametrize(
    ("faults", "pause_s"),
    [
        (Faults(lost=True, check_status=401, check_times=1), 60),
        (Faults(lost=True, check_status=429, check_times=1), 30),
        (Faults(lost=True, check_status=429, check_retry_after_s=120, check_times=1), 120),
        (Faults(lost=True, check_status=429, check_retry_after_s=601, check_times=1), 600),
        (Faults(lost=True, check_status=503, check_retry_after_s=45, check_times=1), 45),
    ],
    ids=["refused key", "429", "429 and 120 s", "429 and 601 s", "503 and 45 s"],
)
async def test_a_provider_is_left_alone_for_its_pause(tmp_path: Path, faults: Faults, pause_s: float) -> None:
    """Ask a provider about no job for 60 s after a refused key, 30 s after a 429, or for as long as it says."""
    async with held(tmp_path, RELAY_STATUS_CHECK_FIRST_S="10") as (running, clock):
        first = await lost(running, faults, deadline_s=DAY_S)
        await clock.advance(10)
        second = await lost(running, deadline_s=DAY_S)
        await clock.advance(pause_s - MS)
        assert running.world.status_checks == [first["provider_job_id"]]
        await clock.advance(MS)
        assert second["provider_job_id"] in running.world.status_checks


async def test_the_last_check_is_made_at_the_deadline(tmp_path: Path) -> None:
    """Ask at the deadline, not before, and expire the job with the answer that it still runs."""
    async with held(tmp_path) as (running, clock):
        job = await lost(running, deadline_s=60)
        await clock.advance(60 - MS)
        assert running.world.status_checks == []
        await clock.advance(MS)
        assert running.world.status_checks == [job["provider_job_id"]]
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "expired"


async def test_a_last_check_that_hangs_keeps_the_job_open_for_two_minutes(tmp_path: Path) -> None:
    """Expire the job 120 s after its deadline where the provider does not answer, and not before."""
    async with held(tmp_path) as (running, clock):
        job = await lost(running, Faults(lost=True, check="hang"), deadline_s=60)
        await clock.advance(60)
        await clock.advance(120 - MS)
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
        await clock.advance(MS)
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "expired"


async def test_a_second_verdict_is_dropped_after_ten_minutes(tmp_path: Path) -> None:
    """Try for 600 s to confirm a callback that contradicts a provider's end; then the first end stands."""
    async with held(tmp_path) as (running, clock):
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        await quiet()
        gone = running.world.jobs.pop(job["provider_job_id"])
        await running.client.post(str(gone.callback_url), content=b'{"status":"failed"}')
        await clock.advance(600 - MS)
        path = f"/v1/jobs/{job['id']}/timeline"
        assert "a later callback" in (await running.get(path))["next"]["what"]
        await clock.advance(MS)
        assert (await running.get(path))["next"] is None
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"


async def test_a_claim_is_believed_when_its_time_is_over(tmp_path: Path) -> None:
    """Believe a callback after RELAY_CONFIRM_WAIT_S, where the status check hangs, and not before."""
    async with held(tmp_path, RELAY_CONFIRM_WAIT_S="7") as (running, clock):
        running.world.next_faults.append(Faults(check="hang"))
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        await clock.advance(7 - MS)
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
        await clock.advance(MS)
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"


async def test_a_rated_lane_sends_one_in_each_interval(tmp_path: Path) -> None:
    """Send the next notification 500 ms after the one before at `rate_limit_per_s` of 2, and not at 499."""
    async with held(tmp_path) as (running, clock):
        made = await endpoint(running, rate_limit_per_s=2)
        for _ in range(3):
            await send_test(running, made)
        for sent in (1, 2):
            await clock.advance(0.499)
            assert len(running.sink.received) == sent
            await clock.advance(MS)
            assert len(running.sink.received) == sent + 1


async def test_a_quiet_stream_gets_a_comment_every_15_s(tmp_path: Path) -> None:
    """Write a comment 15 s after the last event or comment, and not before."""
    async with held(tmp_path, RELAY_EVOLINK_CONFIRM="never") as (running, clock):
        lines: list[bytes] = []
        stream = await running.app.streams.lines(DEFAULT_PROJECT, None, None)

        async def read() -> None:
            async for line in stream:
                lines.append(line)  # noqa: PERF401 - what came so far is looked at while more comes

        reading = asyncio.create_task(read())
        await clock.advance(10)
        await running.submit()
        await quiet()
        assert [line.split(b":")[0] for line in lines] == [b"retry", b"id"]
        for comments in (0, 1):
            await clock.advance(15 - MS)
            assert lines[2:] == [b": still here\n\n"] * comments
            await clock.advance(MS)
            assert lines[2:] == [b": still here\n\n"] * (comments + 1)
        reading.cancel()


async def test_an_endpoint_is_disabled_after_five_days_of_failures(tmp_path: Path) -> None:
    """Disable an endpoint at the first failure that comes five days after the first one in a row, not before."""
    async with held(tmp_path, RELAY_RETRY_SCHEDULE_S="0") as (running, clock):
        made = await endpoint(running)
        running.sink.answers = [500] * EVERY_TIME
        await send_test(running, made)
        await clock.advance(5 * DAY_S - MS)
        await send_test(running, made)
        assert await status(running, made) == "active"
        await clock.advance(MS)
        await send_test(running, made)
        assert await status(running, made) == "disabled"


async def test_a_disabled_endpoint_is_probed_every_twelve_hours(tmp_path: Path) -> None:
    """Send a `relay.test` 12 h after the endpoint was disabled and after each probe, and enable it by a success."""
    async with held(tmp_path, RELAY_RETRY_SCHEDULE_S="0") as (running, clock):
        made = await endpoint(running)
        running.sink.answers = [500] * 3
        await send_test(running, made)
        await clock.advance(5 * DAY_S)
        await send_test(running, made)
        assert await status(running, made) == "disabled"
        for probes, after in ((1, "disabled"), (2, "active")):
            await clock.advance(DAY_S / 2 - MS)
            assert len(running.sink.received) == 1 + probes
            await clock.advance(MS)
            assert len(running.sink.received) == 2 + probes
            assert await status(running, made) == after


async def test_a_retry_goes_out_when_it_is_due(tmp_path: Path) -> None:
    """Send a retry at the time that its delivery shows, and not before."""
    async with held(tmp_path, RELAY_RETRY_SCHEDULE_S="0,300") as (running, clock):
        made = await endpoint(running)
        running.sink.answers = [500]
        before_ms = clock.now_ms()
        await send_test(running, made)
        (shown,) = (await running.get("/v1/deliveries"))["data"]
        delivery = await running.app.store.deliveries.get(shown["id"], DEFAULT_PROJECT)
        assert delivery is not None
        assert delivery.next_attempt_at is not None
        await clock.advance((delivery.next_attempt_at - before_ms - 1) / 1000)
        assert len(running.sink.received) == 1
        await clock.advance(MS)
        assert len(running.sink.received) == 2


def pending(clock: HeldClock, **fields: Any) -> Job:
    """Return a job that was not submitted yet."""
    now_ms = clock.now_ms()
    return Job(
        id=ids.new_id(ids.JOB), project_id=DEFAULT_PROJECT, provider="evolink", state=JobState.PENDING,
        created_at=now_ms, updated_at=now_ms, deadline_at=now_ms + 3_600_000, request=REQUEST, **fields,
    )  # fmt: skip


@pytest.mark.parametrize(("timeout_s", "noticed_s"), [("9.999", 15), ("10", 20)])
async def test_a_submission_that_was_cut_off_is_noticed(tmp_path: Path, timeout_s: str, noticed_s: float) -> None:
    """Call a submission unknown at the first sweep, one every 5 s, that is 5 s and more after its time-out."""
    async with held(tmp_path, RELAY_SUBMIT_TIMEOUT_S=timeout_s) as (running, clock):
        await quiet()
        job = pending(clock, submission_started_at=clock.now_ms())  # by a process that died in it
        await running.app.store.jobs.create(NewJob(job, ()))
        for _ in range(round(noticed_s / 5) - 1):
            await clock.advance(5)
        await clock.advance(5 - MS)
        assert (await running.get(f"/v1/jobs/{job.id}"))["reason"] is None
        await clock.advance(MS)
        assert (await running.get(f"/v1/jobs/{job.id}"))["reason"] == "submit_unknown"


async def test_a_check_is_leased_for_a_minute(tmp_path: Path) -> None:
    """Make a check that hangs due again 60 s after it began."""
    async with held(tmp_path, RELAY_STATUS_CHECK_FIRST_S="10") as (running, clock):
        job = await lost(running, Faults(lost=True, check="hang"))
        await clock.advance(10)
        stored = await running.app.store.jobs.get(job["id"], DEFAULT_PROJECT)
        assert stored is not None
        assert stored.next_check_at == clock.now_ms() + 60_000


async def test_checks_are_looked_for_every_five_seconds(tmp_path: Path) -> None:
    """Notice within 5 s that another process made a check due, and not before where nothing wakes the loop."""
    async with held(tmp_path) as (running, clock):
        job = await lost(running)
        await clock.advance(5)
        await running.app.store.jobs.claim_check(job["id"], clock.now_ms() + 1_000)
        await clock.advance(5 - MS)
        assert running.world.status_checks == []
        await clock.advance(MS)
        assert running.world.status_checks == [job["provider_job_id"]]


@pytest.mark.parametrize(
    ("status_code", "finding"),
    [
        *((code, "no_verdict") for code in (400, 402, 428, 430, 500)),
        *((code, "key_refused") for code in (401, 403)),
        (404, "not_found"),
        (429, "rate_limited"),
    ],
)
async def test_only_some_statuses_say_something_about_all_checks(
    tmp_path: Path, status_code: int, finding: str
) -> None:
    """Count 401 and 403 as a refused key, 429 as a rate limit, and every other failure as no verdict."""
    async with held(tmp_path, RELAY_STATUS_CHECK_FIRST_S="10") as (running, clock):
        await lost(running, Faults(lost=True, check_status=status_code))
        await clock.advance(10)
        shown = (await running.client.get("/metrics")).text
        assert f'finding="{finding}"' in shown or f'outcome="{finding}"' in shown, [
            line for line in shown.splitlines() if "check" in line
        ]


async def test_old_jobs_are_removed_every_ten_minutes(tmp_path: Path) -> None:
    """Remove a finished job at the first of the batches, one every 600 s, that comes five days after its end."""
    async with held(tmp_path, RELAY_RETENTION_DAYS="5", RELAY_EVOLINK_CONFIRM="never") as (running, clock):
        await clock.advance(100)
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        await clock.advance(5 * DAY_S - 100)
        await clock.advance(600 - MS)
        assert (await running.client.get(f"/v1/jobs/{job['id']}")).status_code == 200
        await clock.advance(MS)
        assert (await running.client.get(f"/v1/jobs/{job['id']}")).status_code == 404


async def test_providers_and_file_stores_have_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a status check 15 s, a step of an upload 30 s and its file 300 s."""
    given: set[float] = set()
    send, send_file = ProviderClient.send, FileClient.send

    async def noted(self: ProviderClient, origin: str, key: str, request: ApiRequest, timeout_s: float) -> ApiAnswer:
        given.add(timeout_s)
        return await send(self, origin, key, request, timeout_s)

    async def noted_file(
        self: FileClient, request: FileRequest, pieces: AsyncIterator[bytes], key: str, timeout_s: float
    ) -> ApiAnswer:
        given.add(timeout_s)
        return await send_file(self, request, pieces, key, timeout_s)

    monkeypatch.setattr(ProviderClient, "send", noted)
    monkeypatch.setattr(FileClient, "send", noted_file)
    async with held(tmp_path, RELAY_STATUS_CHECK_FIRST_S="10") as (running, clock):
        await lost(running)
        given.clear()
        await clock.advance(10)
        assert given == {15.0}
        given.clear()
        image = {"file": ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(100), "image/png")}
        for provider in ("evolink", "relaydance", "kinovi"):
            answer = await running.client.post("/v1/files", data={"provider": provider}, files=image)
            assert answer.status_code == 200, answer.text
        assert given == {30.0, 300.0}


async def test_old_idempotency_keys_are_dropped_every_hour(tmp_path: Path) -> None:
    """Drop keys past their life at the start, and then at the first sweep an hour later."""
    async with held(tmp_path) as (running, clock):
        await quiet()
        access, dropped = running.app.store.access, list[int]()
        forget = access.forget

        async def noted(now_ms: int) -> None:
            dropped.append(now_ms)
            await forget(now_ms)

        access.forget = noted  # type: ignore[method-assign]
        for hours in (0, 1):
            await clock.advance(3_595)
            await clock.advance(5 - MS)
            assert len(dropped) == hours
            await clock.advance(MS)
            assert len(dropped) == hours + 1


async def test_a_sweep_sends_a_hundred_jobs_and_the_next_comes_50_ms_later(tmp_path: Path) -> None:
    """Begin a hundred submissions in one sweep, and the rest 50 ms after it, not before."""
    async with held(tmp_path) as (running, clock):
        await quiet()
        for _ in range(101):
            job = pending(clock, next_submit_at=clock.now_ms())
            await running.app.store.jobs.create(NewJob(job, ()))
        await clock.advance(5)
        assert len(running.world.jobs) == 100
        await clock.advance(0.049)
        assert len(running.world.jobs) == 100
        await clock.advance(MS)
        assert len(running.world.jobs) == 101
