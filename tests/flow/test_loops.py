"""Notifications that would come round: to relay itself, to another relay and back, to relay's own API."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from relay.app import own_hosts
from relay.web.routes import API
from tests.support.calling_back import DONE, post
from tests.support.running import KEY, HeldClock, Running, relay

pytestmark = [pytest.mark.anyio, pytest.mark.both_databases]


async def dispositions(running: Running, job: dict[str, Any]) -> list[str]:
    """Return what became of a job's callbacks, newest first."""
    return [one["verdict"] for one in (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]]


async def test_relay_itself_is_not_called(tmp_path: Path) -> None:
    """An endpoint where relay is found later, when its public URL has changed, is refused at the attempt."""
    async with relay(tmp_path) as running:
        made = (await running.client.post("/v1/endpoints", json={"url": running.hook})).json()
        elsewhere = running.hook.removesuffix("/hook")
        await running.client.patch(f"/v1/endpoints/{made['id']}", json={"url": f"{elsewhere}/callbacks/evolink/x"})
    async with relay(tmp_path, RELAY_PUBLIC_URL=elsewhere) as running:
        await running.client.post(f"/v1/endpoints/{made['id']}/tests")
        path = f"/v1/deliveries?endpoint={made['id']}"
        delivery = (await running.until(path, lambda shown: bool(shown["data"][0]["attempts_made"])))["data"][0]
        (attempt,) = (await running.get(f"/v1/deliveries/{delivery['id']}"))["attempts"]
        assert (attempt["outcome"], attempt["error"]) == (
            "address_refused",
            "must not be relay itself (RELAY_PUBLIC_URL)",
        )


@pytest.mark.parametrize(
    ("public_url", "own"),
    [
        ("https://Relay.Example", "relay.example:443"),
        ("http://relay.example/behind/a/path", "relay.example:80"),
        ("https://[2001:DB8:0::1]:8443", "[2001:db8::1]:8443"),
    ],
)
async def test_relays_own_host_is_that_of_its_public_url(tmp_path: Path, public_url: str, own: str) -> None:
    """Host and port, as endpoints' URLs are compared with it."""
    async with relay(tmp_path, RELAY_PUBLIC_URL=public_url) as running:
        assert own_hosts(running.app.settings) == {own}
        answer = await running.client.post("/v1/endpoints", json={"url": f"{public_url.lower()}/callbacks/evolink/x"})
        assert "must not be relay itself" in answer.text


async def test_two_relays_that_call_each_other_come_to_rest(tmp_path: Path) -> None:
    """Each has the other's callback URL as an endpoint: what arrives there is kept, and starts nothing."""
    async with (
        relay(tmp_path / "one", clock=HeldClock()) as one,
        relay(tmp_path / "other", clock=HeldClock()) as other,
    ):
        there = await other.submit()
        here = await one.submit(notify=[{"url": other.callback_url()}])
        await other.client.post("/v1/endpoints", json={"url": one.callback_url()})
        for running, job in ((one, here), (other, there)):
            await running.world.finish(job["provider_job_id"])
            await running.until(f"/v1/jobs/{job['id']}", lambda shown: shown["status"] == "succeeded")
            events = (await running.get(f"/v1/events?job={job['id']}"))["data"]
            assert [event["type"] for event in events] == ["job.succeeded", "job.submitted"]
            path = "/v1/deliveries?status=pending"
            await running.until(path, lambda shown: shown["data"] == [])
        assert (await dispositions(one, here)).count("quarantined") == 1
        assert (await dispositions(other, there)).count("quarantined") == 2
        for running in (one, other):
            assert len((await running.get("/v1/events"))["data"]) == 2


async def test_what_came_from_a_relay_is_no_callback(tmp_path: Path) -> None:
    """However good the body: 200, kept, quarantined for that reason, and only the provider ends the job."""
    async with relay(tmp_path, clock=HeldClock(), confirm=False) as running:
        job = await running.submit(notify=[{"url": running.hook}])
        await running.sink.wait_for(lambda sink: len(sink.received) == 1)
        assert running.sink.received[0].headers["relay-hop"] == "1"
        answer = await post(running, DONE, **{"Relay-Hop": "1"})
        assert (answer.status_code, answer.json()) == (200, {"received": True})
        (callback,) = (await running.get(f"/v1/callbacks?job={job['id']}"))["data"]
        assert (callback["verdict"], "notification of a relay" in callback["reason"]) == ("quarantined", True)
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "submitted"
        await post(running, DONE)
        assert (await running.get(f"/v1/jobs/{job['id']}"))["status"] == "succeeded"


async def test_a_notification_is_no_request(tmp_path: Path) -> None:
    """With the key in an endpoint's headers it reaches every route of the API that writes, and is refused at each."""
    async with relay(tmp_path, clock=HeldClock()) as running:
        job = await running.submit(notify=[{"url": running.hook}])
        await post(running, b"?")
        (await running.client.post("/v1/endpoints", json={"url": running.hook})).raise_for_status()
        await running.sink.wait_for(lambda sink: len(sink.received) == 1)
        await running.until("/v1/deliveries", lambda found: [one["status"] for one in found["data"]] == ["delivered"])
        sent = running.sink.received[0]
        headers = {**sent.headers, "authorization": f"Bearer {KEY}"}
        lists = ("jobs", "endpoints", "deliveries", "callbacks", "events")
        there = {name: (await running.get(f"/v1/{name}"))["data"] for name in lists}
        writes = [route.path for route in API if route.method == "POST"]
        assert len(writes) > 10
        for path in writes:
            held = there.get(path.split("/")[2]) or [{"id": "x"}]
            answer = await running.client.post(path.replace("{id}", held[0]["id"]), content=sent.body, headers=headers)
            assert answer.status_code in (400, 415, 422), (path, answer.text)
        for name, before in there.items():
            assert (await running.get(f"/v1/{name}"))["data"] == before
        assert msgspec.json.decode(sent.body)["data"]["job"]["id"] == job["id"]
