"""Probes that a client asks for, batches that are stopped, and the history that an endpoint has of all of it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.deliveries import redelivery
from relay.deliveries.lane import FAILURES_MAX
from relay.storage.endpoint_history import KEPT_MAX, note, write
from relay.storage.engine.database import Transaction
from tests.support.quiescence import quiet
from tests.support.running import DATABASES, START_MS, HeldClock, Running, http_client, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]

DAY_S = 86_400


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay on a held clock that tries a delivery again after five minutes."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="0,300,300,300") as started:
        yield started


async def advance(running: Running, seconds: float) -> None:
    """Advance relay's clock."""
    assert isinstance(running.clock, HeldClock)
    await running.clock.advance(seconds)


async def endpoint(running: Running, **fields: Any) -> str:
    """Return the id of a new endpoint at the sink."""
    answer = await running.client.post("/v1/endpoints", json={"url": running.hook} | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def post(running: Running, path: str, status_code: int, **body: Any) -> dict[str, Any]:
    """Return what a POST answers."""
    answer = await running.client.post(path, json=body)
    assert answer.status_code == status_code, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def history(running: Running, id_: str) -> list[dict[str, Any]]:
    """Return what happened to an endpoint, oldest first."""
    entries: list[dict[str, Any]] = (await running.get(f"/v1/endpoints/{id_}/history"))["data"]
    return entries[::-1]


async def held(running: Running) -> str:
    """Return the id of an endpoint whose breaker has opened, with three deliveries that wait for it."""
    id_ = await endpoint(running, in_flight_max=1)
    running.sink.answers = [503] + [500] * (FAILURES_MAX - 1)
    for _ in range(FAILURES_MAX + 3):
        await post(running, f"/v1/endpoints/{id_}/tests", 202)
    await advance(running, 1)  # a busy receiver pauses its lane
    shown = await running.get(f"/v1/endpoints/{id_}")
    assert (shown["status"], len(running.sink.received)) == ("held", FAILURES_MAX)
    return id_


async def test_a_probe_that_is_accepted_reopens_a_held_endpoint(running: Running) -> None:
    """Answer 200 with the one attempt, before the breaker's own time, and send what waits."""
    id_ = await held(running)
    shown = await running.get(f"/v1/endpoints/{id_}")
    assert shown["held_until"] == "2026-11-21T00:00:31.000Z"
    probe = await post(running, f"/v1/endpoints/{id_}/probes", 200)
    assert (probe["status"], [one["outcome"] for one in probe["attempts"]]) == ("delivered", ["ok"])
    await quiet()
    shown = await running.get(f"/v1/endpoints/{id_}")
    assert (shown["status"], shown["held_until"]) == ("active", None)
    assert len(running.sink.received) == FAILURES_MAX + 1 + 3
    kinds = [(one["kind"], one["reason"], one["until"]) for one in await history(running, id_)]
    assert kinds == [
        ("created", None, None),
        ("held", "HTTP 500", "2026-11-21T00:00:31.000Z"),
        ("probed", "accepted", None),
        ("reopened", None, None),
    ]


async def test_a_probe_that_fails_is_not_repeated(running: Running) -> None:
    """Leave a held endpoint held until the same time, end the delivery after one attempt, and tell why."""
    id_ = await held(running)
    before = await running.get(f"/v1/endpoints/{id_}")
    running.sink.answers = [418]
    probe = await post(running, f"/v1/endpoints/{id_}/probes", 200)
    assert (probe["status"], probe["attempts_made"], probe["next_attempt_at"]) == ("exhausted", 1, None)
    assert probe["attempts"][0]["error"] == "HTTP 418"
    after = await running.get(f"/v1/endpoints/{id_}")
    assert (after["status"], after["held_until"]) == ("held", before["held_until"])
    assert (await history(running, id_))[-1]["reason"] == "HTTP 418"
    running.sink.answers = [500]
    await advance(running, 30)
    after = await running.get(f"/v1/endpoints/{id_}")
    assert after["held_until"] == "2026-11-21T00:01:31.000Z"
    assert [one["kind"] for one in await history(running, id_)][-2:] == ["probed", "probe_failed"]
    await advance(running, 60)
    assert [one["kind"] for one in await history(running, id_)][-1] == "reopened"


async def test_a_probe_enables_what_failures_disabled(running: Running) -> None:
    """Enable an endpoint that failed for five days, and send what it missed; a failed probe sets no second timer."""
    id_ = await endpoint(running, event_types=["job.submitted"])
    running.sink.answers = [500] * 1000
    job = await running.submit()
    await advance(running, 5 * DAY_S)
    await post(running, f"/v1/endpoints/{id_}/probes", 200)
    shown = await running.get(f"/v1/endpoints/{id_}")
    assert shown["status"] == "disabled"
    timers = (await running.get(f"/v1/deliveries?endpoint={id_}&status=pending"))["data"]
    assert len(timers) == 1
    await post(running, f"/v1/endpoints/{id_}/probes", 200)
    assert (await running.get(f"/v1/deliveries?endpoint={id_}&status=pending"))["data"] == timers
    running.sink.answers.clear()
    running.sink.received.clear()
    await post(running, f"/v1/endpoints/{id_}/probes", 200)
    await advance(running, 10)
    assert (await running.get(f"/v1/endpoints/{id_}"))["status"] == "active"
    assert running.sink.events() == ["relay.test", "job.submitted"]
    enabled = [one for one in await history(running, id_) if one["kind"] in ("disabled", "enabled")]
    assert [(one["reason"], one["by"]) for one in enabled] == [
        ("nothing but failures for five days", None),
        ("it accepted a probe", None),
    ]
    assert job


async def test_a_probe_leaves_what_was_disabled_by_hand(running: Running) -> None:
    """Send one `relay.test` to an endpoint that a client disabled, and leave it disabled."""
    id_ = await endpoint(running)
    await running.client.patch(f"/v1/endpoints/{id_}", json={"status": "disabled"})
    probe = await post(running, f"/v1/endpoints/{id_}/probes", 200)
    assert (probe["status"], running.sink.events()) == ("delivered", ["relay.test"])
    assert (await running.get(f"/v1/endpoints/{id_}"))["status"] == "disabled"


async def test_a_probe_reopens_the_lane_of_another_process(running: Running, tmp_path: Path) -> None:
    """Close the breaker in the process that dispatches although another one, which serves only, made the probe."""
    if DATABASES.postgres is None:
        pytest.skip("web and worker processes of their own need PostgreSQL")
    id_ = await held(running)
    async with relay(tmp_path, clock=running.clock, dispatches=False) as serving:
        await post(serving, f"/v1/endpoints/{id_}/probes", 200)
        await advance(running, 2)
        await running.sink.wait_for(lambda sink: len(sink.received) == FAILURES_MAX + 1 + 3)


async def test_the_history_names_who_changed_an_endpoint_and_no_value(running: Running) -> None:
    """Note creation, changed fields, a rotation with its end, and the switch, each with the key's id."""
    id_ = await endpoint(running)
    await running.client.patch(f"/v1/endpoints/{id_}", json={"headers": {"x-key": "hidden"}, "timeout_s": 9})
    await running.client.patch(f"/v1/endpoints/{id_}", json={"timeout_s": 9})
    await post(running, f"/v1/endpoints/{id_}/secret-rotations", 200, grace_s=60)
    await running.client.patch(f"/v1/endpoints/{id_}", json={"status": "disabled"})
    await running.client.patch(f"/v1/endpoints/{id_}", json={"status": "active"})
    entries = await history(running, id_)
    assert [(one["kind"], one["reason"], one["until"], one["by"]) for one in entries] == [
        ("created", None, None, "RELAY_API_KEY"),
        ("changed", "headers, timeout_s", None, "RELAY_API_KEY"),
        ("secret_rotated", None, "2026-11-21T00:01:00.000Z", "RELAY_API_KEY"),
        ("disabled", "disabled by hand", None, "RELAY_API_KEY"),
        ("enabled", None, None, "RELAY_API_KEY"),
    ]
    first = await running.get(f"/v1/endpoints/{id_}/history?limit=2")
    rest = await running.get(f"/v1/endpoints/{id_}/history?limit=200&cursor={first['next_cursor']}")
    assert [one["id"] for one in first["data"] + rest["data"]] == [one["id"] for one in entries[::-1]]
    key = await running.app.store.access.create_api_key("other", "other", ["admin"], running.clock.now_ms())
    async with http_client(running.origin, key.text) as other:
        for answer in (
            await other.get(f"/v1/endpoints/{id_}/history"),
            await other.get(f"/v1/endpoints/{id_}/redeliveries"),
            await other.post(f"/v1/endpoints/{id_}/probes"),
        ):
            assert answer.status_code == 404


async def test_the_history_of_an_endpoint_is_bounded(running: Running) -> None:
    """Keep the newest KEPT_MAX entries of each endpoint."""
    id_, other = await endpoint(running), await endpoint(running)

    async def fill(transaction: Transaction) -> None:
        await write(transaction, [note("prj_default", id_, START_MS, "changed", str(n)) for n in range(KEPT_MAX)])

    await running.app.store.database.transact(fill)
    assert (await count(running, id_), await count(running, other)) == (KEPT_MAX, 1)


async def count(running: Running, id_: str) -> int:
    """Return how many entries the history of an endpoint has."""
    number, cursor = 0, ""
    while True:
        page = await running.get(f"/v1/endpoints/{id_}/history?limit=200{cursor}")
        number += len(page["data"])
        if page["next_cursor"] is None:
            return number
        cursor = f"&cursor={page['next_cursor']}"


async def test_a_batch_is_shown_as_it_goes_on_and_can_be_stopped(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Show a batch while it waits for its endpoint, stop it for good, and refuse to stop it twice."""
    id_ = await endpoint(running)
    await running.client.patch(f"/v1/endpoints/{id_}", json={"status": "disabled"})
    for _ in range(3):
        await running.submit()
    await running.client.patch(f"/v1/endpoints/{id_}", json={"status": "active"})
    path = f"/v1/endpoints/{id_}/redeliveries"
    await advance(running, 10)
    await advance(running, 200)  # in PostgreSQL another process might commit an event that it missed
    (failed, missing) = (await running.get(path))["data"]
    assert {failed["which"], missing["which"]} == {"failed", "missing"}
    assert {one["status"] for one in (failed, missing)} == {"finished"}
    assert sum(one["made"] for one in (failed, missing)) == 3
    monkeypatch.setattr(redelivery, "PENDING_MAX", 0)  # as if enough waited for the endpoint
    batch = await post(running, path, 202, since="-1h", which="all")
    await advance(running, 10)
    assert (await running.get(f"{path}/{batch['id']}"))["status"] == "running"
    await running.client.patch(f"/v1/endpoints/{id_}", json={"status": "disabled"})
    running.sink.received.clear()
    shown = await running.get(f"{path}/{batch['id']}")
    assert (shown["status"], shown["count"], shown["canceled_at"]) == ("waiting", 3, None)
    stopped = await post(running, f"{path}/{batch['id']}/cancellations", 200)
    assert (stopped["status"], stopped["canceled_at"]) == ("canceled", stopped["finished_at"])
    assert stopped["canceled_at"] is not None
    again = await running.client.post(f"{path}/{batch['id']}/cancellations")
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    monkeypatch.undo()
    await running.client.patch(f"/v1/endpoints/{id_}", json={"status": "active"})
    await advance(running, 10)
    assert (await running.get(f"{path}/{batch['id']}"))["made"] == stopped["made"] == 0
    newest = (await running.get(f"{path}?limit=2"))["data"]
    assert batch["id"] not in [one["id"] for one in newest]
    assert (await running.client.get(f"{path}/red_{'0' * 26}")).status_code == 404
    other = await endpoint(running)
    assert (await running.client.get(f"/v1/endpoints/{other}/redeliveries/{batch['id']}")).status_code == 404
