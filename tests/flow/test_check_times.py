"""Time limits of status checks on a held clock: nothing a millisecond before, and all of it at the moment."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.model.provider_http import FileRequest, ProviderRequest, ProviderResponse
from relay.outbound.file_upload import FileClient
from relay.outbound.provider_client import ProviderClient
from relay.providers import PROVIDERS
from relay.sandbox.faults import Faults
from relay.storage.apply_updates import DEFAULT_PROJECT
from tests.support.held import DAY_S, MS, held, lost
from tests.support.quiescence import quiet

pytestmark = pytest.mark.anyio


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
async def test_a_check_without_a_status_is_made_again_after_30_s(tmp_path: Path, faults: Faults) -> None:
    """Ask again after 30 s where an answer had no status, then after 60 s, though the provider's jobs take minutes."""
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


async def test_a_second_end_is_dropped_after_ten_minutes(tmp_path: Path) -> None:
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


async def test_an_unconfirmed_result_is_believed_when_its_time_is_over(tmp_path: Path) -> None:
    """Believe a callback after RELAY_CONFIRM_WAIT_S, where the status check hangs, and not before."""
    async with held(tmp_path, RELAY_CONFIRM_WAIT_S="7") as (running, clock):
        running.world.next_faults.append(Faults(check="hang"))
        job = await running.submit()
        await running.world.finish(job["provider_job_id"])
        await clock.advance(7 - MS)
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
        await clock.advance(MS)
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"


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
        *((code, "no_status") for code in (400, 402, 428, 430, 500)),
        *((code, "key_refused") for code in (401, 403)),
        (404, "not_found"),
        (429, "rate_limited"),
    ],
)
async def test_only_some_statuses_say_something_about_all_checks(
    tmp_path: Path, status_code: int, finding: str
) -> None:
    """Count 401 and 403 as a refused key, 429 as a rate limit, and every other failure as no status."""
    async with held(tmp_path, RELAY_STATUS_CHECK_FIRST_S="10") as (running, clock):
        await lost(running, Faults(lost=True, check_status=status_code))
        await clock.advance(10)
        shown = (await running.client.get("/metrics")).text
        assert f'finding="{finding}"' in shown or f'outcome="{finding}"' in shown, [
            line for line in shown.splitlines() if "check" in line
        ]


async def test_providers_and_file_stores_have_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a status check 15 s, a step of an upload 30 s and its file 300 s."""
    given: set[float] = set()
    send, send_file = ProviderClient.send, FileClient.send

    async def noted(
        self: ProviderClient, origin: str, key: str, request: ProviderRequest, timeout_s: float
    ) -> ProviderResponse:
        given.add(timeout_s)
        return await send(self, origin, key, request, timeout_s)

    async def noted_file(
        self: FileClient, request: FileRequest, pieces: AsyncIterator[bytes], key: str, timeout_s: float
    ) -> ProviderResponse:
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


async def test_one_check_may_be_under_way_where_the_limit_is_1(tmp_path: Path) -> None:
    """Ask about two jobs one after the other with RELAY_CHECKS_IN_FLIGHT_MAX=1."""
    environ = {"RELAY_STATUS_CHECK_FIRST_S": "10", "RELAY_CHECKS_IN_FLIGHT_MAX": "1"}
    async with held(tmp_path, **environ) as (running, clock):
        for _ in range(2):
            await lost(running)
        await clock.advance(10)
        assert len(running.world.status_checks) == 1
        await clock.advance(1)
        assert len(running.world.status_checks) == 2


async def test_an_unknown_status_is_shown_in_forty_characters(tmp_path: Path) -> None:
    """Cut a status that the provider never published after 40 characters in the timeline's entry of the check."""
    async with held(tmp_path, RELAY_STATUS_CHECK_FIRST_S="10") as (running, clock):
        job = await lost(running, Faults(lost=True, check="lies", lie="x" * 41))
        await clock.advance(10)
        story = (await running.get(f"/v1/jobs/{job['id']}/timeline"))["data"]
        (check,) = (line for line in story if line["kind"] == "check")
        assert check["decision"].count("x") == 40
