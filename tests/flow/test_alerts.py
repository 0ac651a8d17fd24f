"""Alerts: each condition is announced once when it begins and once when it ends, to the endpoints that ask for it."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.jobs import alerts
from relay.model.alert import AlertKind, Condition, Subject
from relay.sandbox.faults import Faults
from relay.security import signatures
from relay.storage import alerts as stored_alerts
from relay.storage.alerts import AlertChanges
from relay.storage.apply_updates import DEFAULT_PROJECT
from tests.support.calling_back import DONE, post
from tests.support.paying import PRICE, Seller, ended, paid, selling
from tests.support.running import INPUT, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

EVERY_S, FAILING_S, LATE_S, DAY_S, WEEK_S = 30, 300, 300, 86_400, 604_800
SILENT_JOBS, SILENT_TO_MS = 5, 600_000
MS = 0.001
REFUSED = "http://127.0.0.1:1/hook"
"""Nothing listens there: an attempt fails without any time passing."""


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay whose deliveries are tried twice: immediately, and after 1,000 s."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="0,1000") as started:
        yield started


def clock_of(running: Running) -> HeldClock:
    """Return the clock of a relay that a test holds."""
    assert isinstance(running.clock, HeldClock)
    return running.clock


async def subscribed(running: Running, path: str, *event_types: str, **fields: Any) -> dict[str, Any]:
    """Return a new endpoint at the sink, or at another URL, for these events."""
    url = path if path.startswith("http") else running.hook.removesuffix("/hook") + path
    body = {"url": url, "event_types": [*event_types], **fields}
    answer = await running.client.post("/v1/endpoints", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def listed(running: Running, state: str = "open") -> list[dict[str, Any]]:
    """Return the alerts of project `default`."""
    found: list[dict[str, Any]] = (await running.get(f"/v1/alerts?state={state}"))["data"]
    return found


async def kinds(running: Running, state: str = "open") -> list[str]:
    """Return the kinds of the alerts, in order of their names."""
    return sorted(one["kind"] for one in await listed(running, state))


def announced(running: Running, path: str) -> list[tuple[str, str]]:
    """Return type and state of the alerts that came to a path of the sink."""
    bodies = [json.loads(one.body) for one in running.sink.received if one.path == path]
    return [(body["type"], body["data"]["alert"]["state"]) for body in bodies if body["type"].startswith("ops.")]


async def test_a_failing_endpoint_is_announced_once_and_its_recovery_once(running: Running) -> None:
    """Announce it to those that ask for `ops.*`, with its last attempt; then its end, under the same id."""
    clock = clock_of(running)
    await subscribed(running, "/ops", "ops.*")
    await subscribed(running, "/exact", "ops.endpoint.failing")
    await subscribed(running, "/other", "ops.backlog.old")
    await subscribed(running, "/all", "*", "job.*")
    failing = await subscribed(running, REFUSED, "job.submitted", description="the <shop>")
    await running.submit()
    for _ in range(round((FAILING_S + 60) / EVERY_S)):
        await clock.advance(EVERY_S)
    (alert,) = await listed(running)
    assert (alert["kind"], alert["state"], alert["ended_at"]) == ("endpoint.failing", "open", None)
    assert alert["subject"] == {"type": "endpoint", "id": failing["id"], "name": "the <shop>"}
    assert alert["detail"]["last_attempt"]["outcome"] == "unreachable"
    assert alert["summary"].endswith("the last attempt: unreachable")
    assert alert["action"]["url"] == f"{running.origin}/endpoints/{failing['id']}"
    await running.client.patch(f"/v1/endpoints/{failing['id']}", json={"url": running.hook})
    for _ in range(round(1000 / EVERY_S)):
        await clock.advance(EVERY_S)
    assert await listed(running) == []
    (past,) = await listed(running, "ended")
    assert past == alert | {"state": "ended", "ended_at": past["ended_at"]}
    both = [("ops.endpoint.failing", "open"), ("ops.endpoint.failing", "ended")]
    assert (announced(running, "/ops"), announced(running, "/exact")) == (both, both)
    assert announced(running, "/other") == announced(running, "/all") == []
    (ended_event, opened_event) = (await running.get("/v1/events?type=ops.endpoint.failing"))["data"]
    assert opened_event["data"]["alert"] == alert
    assert ended_event["data"]["alert"] == past


@pytest.mark.parametrize(("later_s", "found"), [(0, ["endpoint.failing"]), (MS, [])])
async def test_an_endpoint_fails_after_five_minutes_without_a_success(
    running: Running, later_s: float, found: list[str]
) -> None:
    """Count five minutes from its first failure on, to the millisecond."""
    clock = clock_of(running)
    await clock.advance(later_s)
    await subscribed(running, REFUSED, "job.submitted")
    await running.submit()
    await clock.advance(FAILING_S - later_s)
    assert await kinds(running) == found


async def test_conditions_are_searched_for_every_half_minute(running: Running) -> None:
    """Open an alert at the first search, 30 s after the start, and not before; cut a name at 80 characters."""
    await subscribed(running, REFUSED, "job.submitted", schedule_s=[0], description="x" * 81)
    await running.submit()
    await clock_of(running).advance(EVERY_S - MS)
    assert await listed(running) == []
    await clock_of(running).advance(MS)
    (alert,) = await listed(running)
    assert alert["subject"]["name"] == "x" * 80


async def test_where_more_is_wrong_than_is_read_no_alert_ends(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep an alert open that is not among the rows that a search reads, until all of them are read."""
    monkeypatch.setattr(alerts, "READ_MAX", 2)
    monkeypatch.setattr(stored_alerts, "READ_MAX", 2)
    clock = clock_of(running)
    first, _ = [await subscribed(running, REFUSED, "job.submitted") for _ in range(2)]
    await running.submit()
    await clock.advance(FAILING_S)
    assert await kinds(running) == ["endpoint.failing"] * 2
    third = await subscribed(running, REFUSED, "job.submitted")
    await running.submit()
    assert (await running.client.delete(f"/v1/endpoints/{first['id']}")).status_code == 204
    await clock.advance(FAILING_S)
    subjects = {one["subject"]["id"] for one in await listed(running)}
    assert {first["id"], third["id"]} <= subjects, "two rows were read, and there may be more"
    assert (await running.client.delete(f"/v1/endpoints/{third['id']}")).status_code == 204
    await clock.advance(EVERY_S)
    assert len(await listed(running)) == 1


async def test_an_endpoint_that_is_disabled_for_failing_is_failing_still(running: Running) -> None:
    """Say so in the alert, which stays open; one that a client disabled ends it."""
    clock = clock_of(running)
    endpoint = await subscribed(running, REFUSED, "job.submitted")
    await running.submit()
    await clock.advance(FAILING_S)
    assert "disabled" not in (await listed(running))[0]["summary"]
    await running.client.patch(f"/v1/endpoints/{endpoint['id']}", json={"status": "disabled"})
    await clock.advance(EVERY_S)
    assert await listed(running) == []
    other = await subscribed(running, REFUSED, "job.submitted", schedule_s=[0, 560_000])
    await running.submit()
    for seconds in (700_000, EVERY_S, EVERY_S):
        await clock.advance(seconds)
    shown = await running.get(f"/v1/endpoints/{other['id']}")
    assert (shown["status"], shown["disabled_reason"]) == ("disabled", "nothing but failures for five days")
    about = [one for one in await listed(running) if one["subject"]["id"] == other["id"]]
    (failing,) = (one for one in about if one["kind"] == "endpoint.failing")
    assert failing["summary"].partition(";")[0].endswith(" and is disabled for that")


async def test_an_endpoint_gets_no_alert_about_itself(running: Running) -> None:
    """Two endpoints for alerts that fail get one each, about the other, and what they do not accept raises no more."""
    clock = clock_of(running)
    made = [await subscribed(running, REFUSED, "ops.*", "job.submitted", schedule_s=[0]) for _ in range(2)]
    await running.submit()
    for _ in range(42):
        await clock.advance(EVERY_S)
    deliveries = [
        (one["endpoint"], one["event"]) for one in (await running.get("/v1/deliveries"))["data"] if one["job"] is None
    ]
    events = {one["id"]: one["data"]["alert"] for one in (await running.get("/v1/events"))["data"] if not one["job"]}
    assert len(events) == 4, "for each of the two one about its failures, and one about the job's lost notification"
    assert sorted((endpoint, events[event]["subject"]["id"]) for endpoint, event in deliveries) == sorted(
        (one["id"], other["id"]) for one in made for other in made for _ in range(2) if one is not other
    )


async def test_a_notification_that_was_given_up_is_open_until_it_is_accepted(running: Running) -> None:
    """Open it when the last attempt failed, and end it when a redelivery of the same event was accepted."""
    clock = clock_of(running)
    await subscribed(running, "/ops", "ops.delivery.exhausted")
    endpoint = await subscribed(running, REFUSED, "job.submitted", schedule_s=[0])
    await running.submit()
    await clock.advance(EVERY_S)
    (alert,) = await listed(running)
    (delivery,) = (await running.get(f"/v1/deliveries?endpoint={endpoint['id']}"))["data"]
    assert (alert["kind"], alert["subject"]["id"]) == ("delivery.exhausted", endpoint["id"])
    assert alert["detail"] == {"number": 1, "last_delivery": delivery["id"]}
    assert alert["summary"].startswith("1 notification to ")
    await running.submit()
    await clock.advance(EVERY_S)
    (more,) = await listed(running)
    assert (more["id"], more["detail"]["number"]) == (alert["id"], 2)
    assert more["summary"].startswith("2 notifications to ")
    newest = more["detail"]["last_delivery"]
    await running.client.patch(f"/v1/endpoints/{endpoint['id']}", json={"url": running.hook})
    for again in (delivery["id"], newest):
        assert len(await listed(running)) == 1
        await running.client.post(f"/v1/deliveries/{again}/redeliveries")
        await clock.advance(EVERY_S)
    assert await listed(running) == []
    assert announced(running, "/ops") == [(f"ops.{alert['kind']}", "open"), (f"ops.{alert['kind']}", "ended")]


@pytest.mark.parametrize(("later_s", "found"), [(0, ["delivery.exhausted"]), (MS, [])])
async def test_a_notification_that_was_given_up_counts_for_a_day(
    running: Running, later_s: float, found: list[str]
) -> None:
    """Count a day from its last attempt on, to the millisecond."""
    clock = clock_of(running)
    made = await subscribed(running, REFUSED, "job.submitted", schedule_s=[0])
    await running.submit()
    await clock.advance(EVERY_S)
    await running.client.patch(f"/v1/endpoints/{made['id']}", json={"url": running.hook})
    await running.client.post(f"/v1/endpoints/{made['id']}/tests")
    await clock.advance(DAY_S - EVERY_S + later_s)
    assert await kinds(running) == found


async def test_endpoints_that_jobs_made_share_one_alert(running: Running) -> None:
    """Open one alert for all `notify` endpoints that fail, however many jobs have one."""
    clock = clock_of(running)
    for _ in range(3):
        await running.submit(notify=[{"url": REFUSED, "event_types": ["job.submitted"]}])
    for _ in range(42):
        await clock.advance(EVERY_S)
    found = {one["kind"]: one for one in await listed(running)}
    assert sorted(found) == ["delivery.exhausted", "endpoint.failing"]
    assert [one["subject"]["id"] for one in found.values()] == ["notify", "notify"]
    assert found["delivery.exhausted"]["action"]["path"] == "/endpoints"
    assert [len(await listed(running, "all")), found["delivery.exhausted"]["subject"]["type"]] == [2, "endpoint"]


@pytest.mark.parametrize("pattern", ["ops.*", "ops.backlog.old"])
async def test_an_endpoint_for_one_job_cannot_ask_for_alerts(running: Running, pattern: str) -> None:
    """Refuse a `notify` that would never receive anything, and name what it may ask for."""
    body = {"provider": "evolink", "input": INPUT, "notify": [{"url": running.hook, "event_types": [pattern]}]}
    refused = await running.client.post("/v1/jobs", json=body)
    (error,) = refused.json()["errors"]
    assert (refused.status_code, error["path"]) == (422, "notify[0].event_types[0]")
    assert "job.*" in error["message"]
    assert "ops." not in error["message"].replace(f'"{pattern}"', "")


async def test_callbacks_in_quarantine_are_announced_until_they_are_released(tmp_path: Path) -> None:
    """Open one alert for a provider's quarantined callbacks, and end it when each is released."""
    clock = HeldClock(round(time.time() * 1000))
    async with relay(tmp_path, clock=clock, RELAY_EVOLINK_CALLBACK_SECRET=signatures.new_secret()) as running:
        running.world.next_faults.append(Faults(lost=True))
        await running.submit()
        for _ in range(2):
            await post(running, DONE)
        await clock.advance(EVERY_S)
        (alert,) = await listed(running)
        assert (alert["kind"], alert["subject"]["id"]) == ("callback.quarantined", "evolink")
        assert alert["detail"]["number"] == 2
        for callback in (await running.get("/v1/callbacks?verdict=quarantined"))["data"]:
            assert await kinds(running) == ["callback.quarantined"]
            assert (await running.client.post(f"/v1/callbacks/{callback['id']}/releases")).status_code == 200
            await clock.advance(EVERY_S)
        assert await listed(running) == []


@pytest.mark.parametrize(("later_s", "found"), [(0, ["callback.quarantined"]), (MS, [])])
async def test_a_quarantined_callback_counts_for_a_day(tmp_path: Path, later_s: float, found: list[str]) -> None:
    """Count a day from its receipt on, to the millisecond."""
    clock = HeldClock(round(time.time() * 1000))
    async with relay(tmp_path, clock=clock, RELAY_EVOLINK_CALLBACK_SECRET=signatures.new_secret()) as running:
        running.world.next_faults.append(Faults(lost=True))
        await running.submit()
        await post(running, DONE)
        await clock.advance(DAY_S + later_s)
        assert await kinds(running) == found


async def test_a_refused_key_is_announced_and_its_acceptance_too(tmp_path: Path) -> None:
    """Open an alert for the provider that refuses relay's key, and end it with the first answer that accepts it."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        clock = clock_of(running)
        running.world.next_faults.append(Faults(lost=True, check_status=401, check_times=1))
        job = await running.submit()
        await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
        await clock.advance(EVERY_S)
        (alert,) = await listed(running)
        assert (alert["kind"], alert["subject"]["id"]) == ("provider.key_refused", "evolink")
        assert "RELAY_EVOLINK_API_KEY" in alert["summary"]
        await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
        await clock.advance(EVERY_S)
        assert await kinds(running, "ended") == ["provider.key_refused"]


@pytest.mark.parametrize(
    ("silent", "after", "found"),
    [
        pytest.param(SILENT_JOBS, 0, ["provider.silent"], id="all-silent"),
        pytest.param(SILENT_JOBS - 1, 0, [], id="too-few"),
        pytest.param(SILENT_JOBS, 1, [], id="then-a-callback"),
    ],
)
async def test_a_provider_whose_callbacks_do_not_arrive_is_silent(
    tmp_path: Path, silent: int, after: int, found: list[str]
) -> None:
    """Open an alert if the newest five jobs ended without a callback; one with a callback among them ends it."""
    clock = HeldClock(round(time.time() * 1000))
    async with relay(tmp_path, clock=clock) as running:
        for lost in [True] * silent + [False] * after:
            running.world.next_faults.append(Faults(lost=lost))
            job = await running.submit()
            if lost:
                await running.world.finish(job["provider_job_id"])
                await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
            else:
                await running.world.finish(job["provider_job_id"])
            await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
        await clock.advance(SILENT_TO_MS / 1000 + EVERY_S)
        assert await kinds(running) == found


async def test_no_provider_is_silent_where_none_is_given_a_url(tmp_path: Path) -> None:
    """Open no alert about callbacks that no provider was asked for."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_PUBLIC_URL="") as running:
        jobs = [await running.submit() for _ in range(SILENT_JOBS)]
        for job in jobs:
            await running.world.finish(job["provider_job_id"])
            await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
        await clock_of(running).advance(SILENT_TO_MS / 1000 + EVERY_S)
        assert (await running.get(f"/v1/jobs/{jobs[0]['id']}"))["status"] == "succeeded"
        assert await listed(running) == []


@pytest.mark.parametrize(
    ("after_ms", "found"),
    [
        (SILENT_TO_MS, []),
        (SILENT_TO_MS + 1, ["provider.silent"]),
        (DAY_S * 1000, ["provider.silent"]),
        (DAY_S * 1000 + 1, []),
    ],
)
async def test_jobs_of_a_day_but_the_youngest_tell_whether_a_provider_is_silent(
    tmp_path: Path, after_ms: int, found: list[str]
) -> None:
    """Judge jobs that were made more than ten minutes and at most a day ago, to the millisecond."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        for _ in range(SILENT_JOBS):
            running.world.next_faults.append(Faults(lost=True))
            job = await running.submit()
            await running.world.finish(job["provider_job_id"])
            await running.client.post(f"/v1/jobs/{job['id']}/status-checks")
        await clock_of(running).advance(after_ms / 1000)
        assert await kinds(running) == found


@pytest.mark.parametrize(
    ("cap", "found"),
    [
        pytest.param(PRICE * 5 // 4, ["spend.cap_near", "spend.cap_reached"], id="exactly-80-percent"),
        pytest.param(PRICE * 5 // 4 + 2, ["spend.cap_reached"], id="under-80-percent-and-no-second-job"),
        pytest.param(PRICE * 2, [], id="room-for-another"),
    ],
)
async def test_a_cap_is_near_from_80_percent_on(tmp_path: Path, cap: int, found: list[str]) -> None:
    """Announce that a cap is near from 80 % on, and that it is reached where today's cheapest job no longer fits."""
    seller = Seller()
    shown = f"{cap // 1_000_000}.{cap % 1_000_000:06}"
    async with selling(tmp_path, seller, HeldClock(), RELAY_SPEND_MAX_PER_DAY=shown) as running:
        clock = clock_of(running)
        await paid(running)
        await clock.advance(EVERY_S)
        assert await kinds(running) == found
        assert {one["subject"]["id"] for one in await listed(running)} <= {"RELAY_SPEND_MAX_PER_DAY"}
        to_midnight_ms = 86_400_000 - clock.now_ms() % 86_400_000
        await clock.advance(to_midnight_ms / 1000 - MS)
        assert await kinds(running) == found
        await clock.advance(EVERY_S)
        assert await listed(running) == []


@pytest.mark.parametrize("setting", ["RELAY_SPEND_MAX_PER_HOUR", "RELAY_PROJECT_SPEND_MAX_PER_HOUR"])
async def test_the_cap_of_an_hour_is_over_with_it(tmp_path: Path, setting: str) -> None:
    """Announce that an hour's cap is reached, and end that with the hour."""
    wide = {"RELAY_PROJECT_SPEND_MAX_PER_HOUR": "9"}
    async with selling(tmp_path, Seller(), HeldClock(), **(wide | {setting: "0.33"})) as running:
        clock = clock_of(running)
        await paid(running)
        await clock.advance(EVERY_S)
        assert await kinds(running) == ["spend.cap_near", "spend.cap_reached"]
        assert {one["subject"]["id"] for one in await listed(running)} == {setting}
        await clock.advance(3600)
        assert await listed(running) == []


async def test_a_cap_is_reached_where_no_payment_of_the_day_would_fit(tmp_path: Path) -> None:
    """Compare what is left with the cheapest payment of all projects today."""
    seller = Seller()
    async with selling(tmp_path, seller, HeldClock(), RELAY_SPEND_MAX_PER_DAY="0.44") as running:
        clock = clock_of(running)
        await paid(running)
        await clock.advance(EVERY_S)
        assert await kinds(running) == ["spend.cap_reached"]
        seller.offer = {"maxAmountRequired": "50000"}
        key = (await running.app.store.access.create_api_key("studio", "", ["submit"], 1)).text
        body = {"provider": "x402org", "input": {"images": ["https://example.com/a.png"], "prompt": "x"}}
        headers = {"authorization": f"Bearer {key}"}
        submitted = await clock.elapse(running.client.post("/v1/jobs", json=body, headers=headers))
        assert submitted.status_code == 202, submitted.text
        await clock.advance(EVERY_S)
        assert await kinds(running) == ["spend.cap_near"]


async def test_a_project_has_its_own_cap(tmp_path: Path) -> None:
    """Show a project its own cap's alert, and the operator's project no alert about another one's."""
    async with selling(tmp_path, Seller(), HeldClock(), RELAY_PROJECT_SPEND_MAX_PER_DAY="0.33") as running:
        clock = clock_of(running)
        key = (await running.app.store.access.create_api_key("studio", "", ["submit", "read"], 1)).text
        headers = {"authorization": f"Bearer {key}"}
        body = {"provider": "stablestudio", "input": {"images": ["https://example.com/a.png"], "prompt": "x"}}
        submitted = await clock.elapse(running.client.post("/v1/jobs", json=body, headers=headers))
        assert submitted.status_code == 202, submitted.text
        await clock.advance(EVERY_S)
        assert await listed(running) == []
        found = (await running.client.get("/v1/alerts", headers=headers)).json()["data"]
        assert sorted(one["kind"] for one in found) == ["spend.cap_near", "spend.cap_reached"]
        assert {one["subject"]["id"] for one in found} == {"RELAY_PROJECT_SPEND_MAX_PER_DAY"}


async def test_payments_in_doubt_are_announced(tmp_path: Path) -> None:
    """Open `payment.unknown` while no one knows whether money moved, then `payment.lost` once the chain says so."""
    seller = Seller()
    seller.fault = "settle_then_fail"
    seller.rpc_down = True
    async with selling(tmp_path, seller, HeldClock()) as running:
        clock = clock_of(running)
        job = await paid(running, "x402org", deadline_s=7200)
        await clock.advance(EVERY_S)
        (alert,) = await listed(running)
        assert (alert["kind"], alert["subject"]["id"]) == ("payment.unknown", "x402org")
        assert alert["detail"]["amount"] == "0.330000"
        seller.rpc_down = False
        await ended(running, job)
        await clock.advance(EVERY_S)
        assert await kinds(running) == ["payment.lost"]
        await clock.advance(DAY_S + EVERY_S)
        assert await listed(running) == []


@pytest.mark.parametrize(("later_ms", "found"), [(0, ["payment.unknown"]), (1, [])])
async def test_an_unknown_payment_counts_for_a_week(tmp_path: Path, later_ms: int, found: list[str]) -> None:
    """Count seven days from its authorization on, to the millisecond, where no node decides it."""
    seller = Seller()
    seller.fault = "settle_then_fail"
    async with selling(tmp_path, seller, HeldClock(), RELAY_CHAIN_RPC_URL="") as running:
        job = await paid(running, "x402org", deadline_s=7200)
        payment = await running.app.store.payments.of_job(job["id"])
        assert payment is not None
        clock = clock_of(running)
        await clock.advance((payment.created_at + WEEK_S * 1000 + later_ms - clock.now_ms()) / 1000)
        assert await kinds(running) == found


@pytest.mark.parametrize(("later_ms", "found"), [(0, ["payment.lost"]), (1, [])])
async def test_a_lost_payment_counts_for_a_day(tmp_path: Path, later_ms: int, found: list[str]) -> None:
    """Count a day from when the chain said so, to the millisecond."""
    seller = Seller()
    seller.fault = "settle_then_fail"
    async with selling(tmp_path, seller, HeldClock()) as running:
        job = await paid(running, "x402org", deadline_s=7200)
        await ended(running, job)
        payment = await running.app.store.payments.of_job(job["id"])
        assert payment is not None
        assert payment.settled_at is not None
        clock = clock_of(running)
        await clock.advance((payment.settled_at + DAY_S * 1000 + later_ms - clock.now_ms()) / 1000)
        assert await kinds(running) == found


@pytest.mark.parametrize(("later_s", "found"), [(0, ["backlog.old"]), (MS, [])])
async def test_a_backlog_is_old_after_five_minutes(tmp_path: Path, later_s: float, found: list[str]) -> None:
    """Announce a delivery that is due for five minutes, to the millisecond, if no failing endpoint holds it up."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="600") as running:
        clock = clock_of(running)
        await subscribed(running, "/hook", "job.submitted", rate_limit_per_s=0.01, in_flight_max=1)
        await clock.advance(later_s)
        for _ in range(8):
            await running.submit()
        await clock.advance(600)
        await clock.advance(LATE_S - later_s)
        assert [kind for kind in await kinds(running) if kind == "backlog.old"] == found


async def test_of_two_that_find_a_condition_one_announces_it(tmp_path: Path) -> None:
    """Open and end an alert once, though several do it concurrently; what was seen before its end reopens nothing."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        store, now_ms = running.app.store.alerts, running.clock.now_ms()
        condition = Condition(
            project_id=DEFAULT_PROJECT,
            kind=AlertKind.PROVIDER_KEY_REFUSED,
            subject=Subject("provider", "kinovi", "kinovi"),
            summary="kinovi refuses relay's key",
            seen_at=now_ms,
        )
        changes = AlertChanges(at=now_ms, begun=[condition])
        opened = await asyncio.gather(*(store.apply(changes) for _ in range(4)))
        assert sorted(len(one) for one in opened) == [0, 0, 0, 1]
        (alert,) = await store.open()
        over = AlertChanges(at=now_ms, over=[alert])
        assert sorted(len(one) for one in await asyncio.gather(*(store.apply(over) for _ in range(4)))) == [0, 0, 0, 1]
        assert await store.apply(changes) == [], "it was last seen before its end"
        seen_later = msgspec.structs.replace(condition, seen_at=now_ms + 1)
        later = AlertChanges(at=now_ms + 1, begun=[seen_later])
        assert len(await store.apply(later)) == 1
        assert len((await running.get("/v1/events?type=ops.provider.key_refused"))["data"]) == 3


async def test_alerts_are_listed_page_by_page(tmp_path: Path) -> None:
    """List alerts newest first, by state and kind, with a cursor; another project's are not there."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        store, now_ms = running.app.store.alerts, running.clock.now_ms()
        for number in range(5):
            condition = Condition(
                project_id=DEFAULT_PROJECT,
                kind=AlertKind.PROVIDER_SILENT if number % 2 else AlertKind.PROVIDER_KEY_REFUSED,
                subject=Subject("provider", f"p{number}", f"p{number}"),
                summary="",
                seen_at=now_ms,
            )
            await store.apply(AlertChanges(at=now_ms + number, begun=[condition]))
        await store.apply(
            AlertChanges(at=now_ms + 9, over=[one for one in await store.open() if one.subject.id == "p2"])
        )

        async def subjects(query: str) -> list[str]:
            names, cursor = [], ""
            while True:
                shown = await running.get(f"/v1/alerts?{query}&limit=2{cursor}")
                names += [one["subject"]["id"] for one in shown["data"]]
                if shown["next_cursor"] is None:
                    return names
                cursor = f"&cursor={shown['next_cursor']}"

        assert await subjects("state=open") == ["p4", "p3", "p1", "p0"]
        assert await subjects("state=all") == ["p4", "p3", "p2", "p1", "p0"]
        assert await subjects("state=ended") == ["p2"]
        assert await subjects("state=all&kind=provider.silent") == ["p3", "p1"]
        assert await subjects("kind=provider.silent") == ["p3", "p1"]
        key = (await running.app.store.access.create_api_key("studio", "", ["read"], 1)).text
        others = await running.client.get("/v1/alerts?state=all", headers={"authorization": f"Bearer {key}"})
        assert others.json() == {"data": [], "next_cursor": None}
        assert (await running.client.get("/v1/alerts?state=closed")).status_code == 422
        metrics = (await running.client.get("/metrics")).text
        assert 'relay_alerts_open{kind="provider.silent"}' not in metrics, "not counted before the first search"


async def test_alerts_that_ended_are_pruned(tmp_path: Path) -> None:
    """Delete an alert once it ended longer ago than events are kept; keep one that is open."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETENTION_DAYS="5") as running:
        store, clock = running.app.store.alerts, clock_of(running)
        for name in ("one", "other"):
            condition = Condition(
                project_id=DEFAULT_PROJECT,
                kind=AlertKind.PROVIDER_KEY_REFUSED,
                subject=Subject("provider", name, name),
                summary="",
                seen_at=0,
            )
            await store.apply(AlertChanges(at=clock.now_ms(), begun=[condition]))
        (one, _) = await store.open()
        await store.apply(AlertChanges(at=clock.now_ms(), over=[one]))
        await clock.advance(5 * 86_400)
        assert [len(await listed(running, state)) for state in ("open", "ended")] == [1, 1]
        for seconds in (600, 1, 1):
            await clock.advance(seconds)
        assert [len(await listed(running, state)) for state in ("open", "ended")] == [1, 0]


async def test_a_slack_endpoint_gets_messages_that_are_signed(running: Running) -> None:
    """Send an endpoint of format `slack` a `text` for every event, the same bytes on each attempt, signed as others."""
    clock = clock_of(running)
    slack = await subscribed(running, "/slack", "ops.*", "job.submitted", format="slack")
    assert slack["format"] == "slack"
    await subscribed(running, REFUSED, "job.submitted", description="the <shop>")
    running.sink.answers.append(500)
    job = await running.submit()
    for _ in range(42):
        await clock.advance(EVERY_S)
    await running.client.post(f"/v1/endpoints/{slack['id']}/tests")
    await clock.advance(1)
    texts = []
    for received in (one for one in running.sink.received if one.path == "/slack"):
        signatures.verify(slack["secret"], received.headers, received.body, clock.now_ms() // 1000, 10**6)
        texts.append(json.loads(received.body))
    assert all(list(text) == ["text"] for text in texts)
    told = [text["text"] for text in texts]
    assert told.count(f"*job.submitted* {job['id']} at evolink") == 2
    (failing,) = (text for text in told if "endpoint.failing" in text and "ended" not in text)
    assert failing.startswith(":red_circle: *endpoint.failing*: the &lt;shop&gt; has accepted nothing since")
    assert "|Open the endpoint>" in failing
    assert told[-1] == f"*relay.test* {slack['id']}"
    changed = await running.client.patch(f"/v1/endpoints/{slack['id']}", json={"format": "json"})
    assert changed.json()["format"] == "json"
    assert (await running.client.patch(f"/v1/endpoints/{slack['id']}", json={"format": "teams"})).status_code == 422


async def test_an_endpoint_that_is_enabled_again_gets_no_old_alerts(running: Running) -> None:
    """Leave alerts out of what an endpoint missed: the list shows which are open."""
    clock = clock_of(running)
    ops = await subscribed(running, "/ops", "ops.*", "job.submitted", status="disabled")
    await subscribed(running, REFUSED, "job.submitted", schedule_s=[0])
    await running.submit()
    await clock.advance(EVERY_S)
    assert await kinds(running) == ["delivery.exhausted"]
    await running.client.patch(f"/v1/endpoints/{ops['id']}", json={"status": "active"})
    await clock.advance(EVERY_S)
    await clock.advance(EVERY_S)
    assert [json.loads(one.body)["type"] for one in running.sink.received] == ["job.submitted"]
