"""A notification that was not taken: the schedule, the same event under the same id, and what ends it."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from relay.security import signatures
from relay.storage.apply_updates import DEFAULT_PROJECT
from tests.support.running import HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """Yield a relay that tries three times: at once, after 5 s, after 300 s."""
    async with relay(tmp_path, clock=HeldClock(), RELAY_RETRY_SCHEDULE_S="0,5,300") as started:
        yield started


def held(running: Running) -> HeldClock:
    """Return the clock of the relay."""
    assert isinstance(running.clock, HeldClock)
    return running.clock


async def attempted(running: Running, number: int) -> dict[str, Any]:
    """Return the only delivery, once so many attempts of it are stored, with those."""

    async def only() -> str:
        found = await running.until("/v1/deliveries", lambda shown: len(shown["data"]) == 1)
        return str(found["data"][0]["id"])

    path = f"/v1/deliveries/{await only()}"
    return await running.until(path, lambda shown: shown["attempts_made"] == number)


async def ended(running: Running, url: str) -> dict[str, Any]:
    """Return a job with one endpoint for its submission alone."""
    return await running.submit(notify=[{"url": url, "event_types": ["job.submitted"]}])


async def test_it_is_tried_again_by_the_schedule_and_never_early(running: Running) -> None:
    """Each attempt has the same id and bytes, a fresh timestamp and a good signature, and is never early."""
    running.sink.answers = [500, 503]
    job = await ended(running, running.hook)
    await attempted(running, 1)
    await held(running).advance(3.9)
    assert len(running.sink.received) == 1
    await held(running).advance(2.2)
    await attempted(running, 2)
    await held(running).advance(361)
    shown = await attempted(running, 3)
    assert (shown["status"], shown["next_attempt_at"]) == ("delivered", None)
    assert [one["outcome"] for one in shown["attempts"]] == ["bad_status", "bad_status", "ok"]
    received = running.sink.received
    assert len({one.body for one in received}) == len({one.headers["webhook-id"] for one in received}) == 1
    assert [one.headers["relay-attempt"] for one in received] == ["1", "2", "3"]
    assert len({one.headers["webhook-timestamp"] for one in received}) == 3
    for one in received:
        secret = job["notify"][0]["secret"]
        signatures.verify(secret, one.headers, one.body, int(one.headers["webhook-timestamp"]))


async def test_attempts_are_shown_as_far_as_their_delivery_counts_them(running: Running) -> None:
    """One that is stored between the reading of a delivery and that of its attempts is not shown beside it."""
    running.sink.answers = [500]
    await ended(running, running.hook)
    deliveries = running.app.store.deliveries
    before = await deliveries.get((await attempted(running, 1))["id"], DEFAULT_PROJECT)
    await held(running).advance(6)
    await attempted(running, 2)
    assert before is not None
    assert [one.number for one in await deliveries.attempts(before)] == [1]


async def test_after_the_last_attempt_it_is_visibly_undelivered(running: Running) -> None:
    """The schedule ends in `exhausted`, and the event is found among the undelivered."""
    running.sink.answers = [500] * 3
    await ended(running, running.hook)
    for number in (1, 2, 3):
        await attempted(running, number)
        await held(running).advance(400)
    assert (await attempted(running, 3))["status"] == "exhausted"
    assert len((await running.get("/v1/events?undelivered=true"))["data"]) == 1


async def test_retry_after_is_kept_to(running: Running) -> None:
    """A receiver that asks for ten minutes is left alone for ten minutes."""
    running.sink.answers, running.sink.response_headers = [429], {"retry-after": "600"}
    await ended(running, running.hook)
    await attempted(running, 1)
    await held(running).advance(599)
    assert len(running.sink.received) == 1
    await held(running).advance(122)
    await attempted(running, 2)


async def test_a_redirect_is_a_failure_and_not_followed(running: Running) -> None:
    """3xx is no success, wherever it points."""
    running.sink.answers, running.sink.response_headers = [302], {"location": f"{running.hook}/elsewhere"}
    await ended(running, running.hook)
    shown = await attempted(running, 1)
    assert (shown["status"], shown["attempts"][0]["status_code"]) == ("pending", 302)
    assert [one.path for one in running.sink.received] == ["/hook"]


async def test_410_disables_the_endpoint(running: Running) -> None:
    """A receiver that says it is gone is sent nothing more."""
    running.sink.answers = [410]
    job = await running.submit(notify=[{"url": running.hook}])
    shown = await attempted(running, 1)
    endpoint = await running.get(f"/v1/endpoints/{job['notify'][0]['endpoint_id']}")
    assert (shown["status"], endpoint["status"]) == ("exhausted", "disabled")
    await running.world.finish(job["provider_job_id"])
    assert len(running.sink.received) == 1


async def test_what_cannot_be_reached_has_its_word(running: Running) -> None:
    """A closed port is `unreachable`, a hang-up too, a name without an address `dns_failed`; no address is told."""
    for url, outcome in (("http://127.0.0.1:9/", "unreachable"), ("http://nothing.invalid/", "dns_failed")):
        job = await ended(running, url)
        path = f"/v1/deliveries?job={job['id']}"
        found = await running.until(path, lambda shown: shown["data"] and shown["data"][0]["attempts_made"] == 1)
        shown = await running.get(f"/v1/deliveries/{found['data'][0]['id']}")
        assert shown["attempts"][0]["outcome"] == outcome
        assert "127.0.0.1" not in shown["attempts"][0]["error"]


async def test_a_private_address_is_refused_when_the_endpoint_is_made(tmp_path: Path) -> None:
    """Without RELAY_ALLOW_NETWORKS no endpoint may be inside; the error names the field and no address."""
    async with relay(tmp_path, RELAY_ALLOW_NETWORKS="") as running:
        for url in ("http://127.0.0.1/", "http://169.254.169.254/latest", "http://[::1]/", "http://localhost:1234/"):
            answer = await running.client.post("/v1/endpoints", json={"url": url})
            assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "url")


async def test_a_dead_endpoint_does_not_hold_the_others(running: Running) -> None:
    """While one endpoint hangs, another one's notifications go out."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hanging:  # connects, and is never answered
        dead = f"http://127.0.0.1:{hanging.getsockname()[1]}/"
        await running.client.post("/v1/endpoints", json={"url": dead, "event_types": ["job.*"], "timeout_s": 20})
        for _ in range(15):
            await ended(running, running.hook)
        await running.sink.wait_for(lambda sink: len(sink.received) == 15)


async def test_a_moved_endpoint_gets_its_waiting_retries(running: Running) -> None:
    """A URL that was mended counts from the next attempt on."""
    made = (await running.client.post("/v1/endpoints", json={"url": "http://127.0.0.1:9/x"})).json()
    await running.submit()
    await attempted(running, 1)
    changed = await running.client.patch(f"/v1/endpoints/{made['id']}", json={"url": running.hook})
    assert changed.json()["url"] == running.hook
    await held(running).advance(7)
    await running.sink.wait_for(lambda sink: sink.events() == ["job.submitted"])
