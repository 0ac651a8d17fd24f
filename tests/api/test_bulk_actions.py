"""`POST /v1/bulk-actions`: what matches is counted first, and acted on as of then, job by job."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.storage import pages
from relay.web.api import bulk_actions
from tests.support.quiescence import quiet
from tests.support.running import HeldClock, Running, http_client, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

PATH = "/v1/bulk-actions"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock that tries a delivery twice."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="0,600") as started:
        yield started


async def advance(running: Running, seconds: float) -> None:
    """Advance relay's clock."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)


async def ask(running: Running, action: str, status_code: int = 200, **body: Any) -> dict[str, Any]:
    """Return what a bulk action answers."""
    answer = await running.client.post(PATH, json={"action": action} | body)
    assert answer.status_code == status_code, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def count(running: Running, action: str, **wanted: Any) -> dict[str, Any]:
    """Return what a dry run answers."""
    return await ask(running, action, filter=wanted, dry_run=True)


def done(answer: dict[str, Any]) -> list[str]:
    """Return the ids of the jobs that were acted on."""
    return [one["job"] for one in answer["done"]]


async def submitted(running: Running, number: int, **fields: Any) -> list[str]:
    """Return the ids of so many jobs, newest first."""
    return [(await running.submit("evolink", **fields))["id"] for _ in range(number)][::-1]


async def test_a_dry_run_counts_and_does_nothing(running: Running) -> None:
    """Answer how many jobs match, and as of when; leave every job as it is."""
    await submitted(running, 2, metadata={"user": "42"})
    await submitted(running, 1)
    for wanted, matched in (({}, 3), ({"metadata": {"user": "42"}}, 2), ({"status": "failed"}, 0)):
        counted = await count(running, "cancel", **wanted)
        assert counted == {
            "action": "cancel",
            "dry_run": True,
            "as_of": "2026-11-21T00:00:00.000Z",
            "matched": matched,
            "matched_more": False,
            "done": [],
            "refused": [],
            "next_cursor": None,
        }
    assert {one["status"] for one in (await running.get("/v1/jobs"))["data"]} == {"submitted"}


async def test_only_jobs_of_the_dry_runs_time_are_acted_on(running: Running) -> None:
    """Cancel the jobs that were counted, also those of the very same millisecond, and none made a millisecond later."""
    await advance(running, 10)
    old = await submitted(running, 2)
    counted = await count(running, "cancel", created_after="-5s")
    await advance(running, 0.001)
    (later,) = await submitted(running, 1)
    await advance(running, 60)  # the age counts back from the dry run
    answer = await ask(running, "cancel", filter={"created_after": "-5s"}, as_of=counted["as_of"])
    assert (done(answer), answer["refused"], answer["next_cursor"]) == (old, [], None)
    shown = {one["id"]: one["status"] for one in (await running.get("/v1/jobs"))["data"]}
    assert (shown[later] != "canceled", {shown[one] for one in old}) == (True, {"canceled"})


async def test_each_refusal_names_its_job_and_why(running: Running) -> None:
    """Fail the open jobs and refuse those that have ended, with the code and the detail of the single verb."""
    ended, opened = await submitted(running, 1), await submitted(running, 1)
    await running.client.post(f"/v1/jobs/{ended[0]}/cancellations")
    single = (await running.client.post(f"/v1/jobs/{ended[0]}/failures", json={"reason": "lost"})).json()
    as_of = (await count(running, "fail"))["as_of"]
    answer = await ask(running, "fail", as_of=as_of, reason="the provider lost them")
    assert done(answer) == opened
    assert answer["refused"] == [{"job": ended[0], "code": "conflict", "detail": single["detail"]}]
    failed = await running.get(f"/v1/jobs/{opened[0]}")
    assert (failed["status"], "the provider lost them" in str(failed["error"])) == ("failed", True)


async def test_a_call_is_bounded_and_the_next_one_goes_on(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Act on `limit` jobs a call, or on fewer when the time is over, and on each of them once in all."""
    jobs = await submitted(running, 5)
    as_of = (await count(running, "check"))["as_of"]
    first = await ask(running, "check", as_of=as_of, limit=2)
    assert (done(first), first["next_cursor"]) == (jobs[:2], jobs[1])
    monkeypatch.setattr(bulk_actions, "CONCURRENT", 1)
    monkeypatch.setattr(bulk_actions, "WITHIN_MS", 0)
    second = await ask(running, "check", as_of=as_of, cursor=first["next_cursor"])
    assert (done(second), second["next_cursor"]) == (jobs[2:3], jobs[2])
    monkeypatch.undo()
    third = await ask(running, "check", as_of=as_of, cursor=second["next_cursor"])
    assert (done(third), third["next_cursor"]) == (jobs[3:], None)
    again = await ask(running, "check", as_of=as_of, limit=1)
    assert [one["code"] for one in again["refused"]] == ["too_many_requests"] * (not again["done"])


async def test_a_count_ends_at_a_limit(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count up to COUNTED_MAX, and say whether there are more."""
    await submitted(running, 3)
    for most, expected in ((2, (2, True)), (3, (3, False))):
        monkeypatch.setattr(bulk_actions, "COUNTED_MAX", most)
        counted = await count(running, "cancel")
        assert (counted["matched"], counted["matched_more"]) == expected


async def test_jobs_are_submitted_again_with_the_single_verbs_warning(running: Running) -> None:
    """Refuse a second submission that may cost twice, unless that is accepted; submit the others."""
    jobs = await submitted(running, 2)
    for job in jobs:
        await running.client.post(f"/v1/jobs/{job}/failures", json={"reason": "lost"})
    as_of = (await count(running, "resubmit", status="failed"))["as_of"]
    answer = await ask(running, "resubmit", filter={"status": "failed"}, as_of=as_of)
    assert (done(answer), [one["code"] for one in answer["refused"]]) == ([], ["conflict"] * 2)
    body = {"filter": {"status": "failed"}, "as_of": as_of, "accept_double_charge": True}
    assert done(await ask(running, "resubmit", **body)) == jobs
    await quiet()
    assert len(running.world.submissions) == 4


async def test_what_endpoints_lack_is_sent_again(running: Running) -> None:
    """Send the events that an endpoint has not accepted: due now if they wait, anew if they were given up."""
    made = await running.client.post("/v1/endpoints", json={"url": running.hook, "event_types": ["job.submitted"]})
    assert made.status_code == 201
    await submitted(running, 1)
    await quiet()
    running.sink.answers = [500, 500]
    (exhausted,) = await submitted(running, 1)
    await advance(running, 720)  # a retry comes up to a fifth later than its schedule says
    running.sink.answers = [500]
    (waiting,) = await submitted(running, 1)
    await quiet()
    wanted = {"undelivered": True}
    counted = await count(running, "redeliver", **wanted)
    assert counted["matched"] == 2
    running.sink.received.clear()
    answer = await ask(running, "redeliver", filter=wanted, as_of=counted["as_of"])
    assert done(answer) == [waiting, exhausted]
    assert isinstance(running.clock, HeldClock)
    await running.clock.elapse(running.sink.wait_for(lambda sink: len(sink.received) == 2))
    bodies = b"".join(one.body for one in running.sink.received)
    assert (len(running.sink.received), waiting.encode() in bodies, exhausted.encode() in bodies) == (2, True, True)
    assert (await count(running, "redeliver", **wanted))["matched"] == 0
    everything = await ask(running, "redeliver", as_of=counted["as_of"])
    assert (done(everything), {one["code"] for one in everything["refused"]}) == ([], {"conflict"})
    await running.client.delete(f"/v1/endpoints/{made.json()['id']}")


async def test_each_verb_needs_its_scope_and_its_project(running: Running) -> None:
    """Refuse a read-only key everything, a submitting one a redelivery, and leave another project's jobs alone."""
    await submitted(running, 2)
    create, now_ms = running.app.store.access.create_api_key, running.clock.now_ms()
    keys = {scope: (await create("default", scope, [scope], now_ms)).text for scope in ("read", "submit")}
    keys["other"] = (await create("other", "other", ["admin"], now_ms)).text
    expected = {("read", "cancel"): 403, ("read", "redeliver"): 403, ("submit", "redeliver"): 403}
    for name, key in keys.items():
        async with http_client(running.origin, key) as client:
            for action in ("cancel", "check", "resubmit", "fail", "redeliver"):
                answer = await client.post(PATH, json={"action": action, "dry_run": True})
                refused = name == "read" or (name, action) in expected
                assert answer.status_code == (403 if refused else 200), (name, action)
                if not refused:
                    assert answer.json()["matched"] == (0 if name == "other" else 2)


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"action": "cancel"}, ["as_of"]),
        ({"action": "fail"}, ["as_of", "reason"]),
        ({"action": "explode"}, ["action"]),
        ({}, ["action"]),
        ({"action": "cancel", "dry_run": True, "filter": {"status": "done"}}, ["filter.status"]),
        ({"action": "cancel", "dry_run": True, "filter": {"created_after": "now"}}, ["filter.created_after"]),
        ({"action": "cancel", "dry_run": True, "filter": {"stauts": "failed"}}, ["filter.stauts"]),
        ({"action": "cancel", "as_of": "yesterday"}, ["as_of"]),
        ({"action": "cancel", "as_of": "-1h", "limit": 201}, ["limit"]),
        ({"action": "cancel", "as_of": "-1h", "limit": 0}, ["limit"]),
        ({"action": "cancel", "as_of": "-1h", "cursor": "evt_1"}, ["cursor"]),
    ],
)
async def test_a_wrong_bulk_action_is_refused(running: Running, body: dict[str, Any], wrong: list[str]) -> None:
    """Answer 422, name the fields, and do nothing."""
    await submitted(running, 1)
    answer = await running.client.post(PATH, json=body)
    assert answer.status_code == 422, answer.text
    assert [error["path"] for error in answer.json()["errors"]] == wrong
    assert (await running.get("/v1/jobs"))["data"][0]["status"] == "submitted"


async def test_a_call_that_finds_little_reads_a_number_of_pages(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read PAGES_MAX pages for the next job that matches, and say where the next call goes on; count as far as that."""
    (wanted,) = await submitted(running, 1)
    await running.client.post(f"/v1/jobs/{wanted}/failures", json={"reason": "lost"})
    await submitted(running, 2)
    monkeypatch.setattr(pages, "WINDOW", 1)
    body: dict[str, Any] = {"filter": {"status": "failed"}, "as_of": "2026-11-21T00:00:00Z"}
    for most, found, matched in ((2, [], (0, True)), (3, [wanted], (1, True)), (4, [wanted], (1, False))):
        monkeypatch.setattr(bulk_actions, "PAGES_MAX", most)
        counted = await count(running, "fail", status="failed")
        assert (counted["matched"], counted["matched_more"]) == matched
        answer = await ask(running, "fail", reason="lost again", **body)
        assert [one["job"] for one in answer["refused"]] == found
        assert answer["next_cursor"] is not None
